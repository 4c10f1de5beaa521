"""Very deep variational autoencoder (VDVAE) of pictures.

Child, R. (2021). Very deep VAEs generalize autoregressive models and can outperform them on images.
ICLR. arXiv:2011.10650.

The encoder brings a picture down to one position and keeps what it has at each resolution. The
decoder goes back up, block after block: each adds a latent z to the state of its resolution, from
its posterior, which sees the picture, or from its prior, which sees only the blocks before. Tensors
are named as in the published checkpoints.
"""

import itertools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional

from engram.errors import InputError

#: Numbers of one component of the output: its logit; mean, log scale and coefficient of 3 colours.
PER_COMPONENT = 10
COLOURS = 3


@dataclass(frozen=True)
class Architecture:
    """Blocks and widths, in the notation of the published configurations.

    Attributes:
        encoder: `64x11` are eleven blocks at 64 x 64, `64d2` is one that pools its output by 2.
        decoder: `4x3` are three blocks at 4 x 4, `4m1` is one that first adds the state at 1 x 1.
        layers: blocks of the decoder whose latents describe a picture.
        width: channels of all states.
        bottleneck: channels inside a block.
        zdim: channels of a latent.
        components: logistic distributions that a colour of a pixel is a mixture of.
        gain: factor of all convolutions where they are drawn at random.
    """

    encoder: str
    decoder: str
    layers: int
    width: int = 512
    bottleneck: int = 128
    zdim: int = 16
    components: int = 10
    gain: float = 1.0

    @property
    def size(self) -> int:
        """Height and width of the pictures, pixels."""
        return blocks(self.encoder)[0][0]


#: The published model of ImageNet at 64 x 64, and one that is small enough to try things out. Drawn
#: as torch does, with a variance of 1 / (3 inputs), that would decode all latents to much the same;
#: with 2 / inputs activations keep their spread (He et al. 2015, arXiv:1502.01852).
ARCHITECTURES = {
    "imagenet64": Architecture(
        "64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
        "1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
        layers=31,
    ),
    "tiny": Architecture(
        "16x1,16d2,8x1,8d2,4x1,4d4,1x1", "1x1,4m1,4x1,8m4,16m8",
        layers=4, width=16, bottleneck=4, zdim=4, gain=6**0.5,
    ),
}  # fmt: skip


def blocks(text) -> list[tuple[int, int | None]]:
    """(resolution, what it pools by or mixes in, or None) of each block of an `Architecture`."""
    found = []
    for part in text.split(","):
        resolution, kind, number = re.fullmatch(r"(\d+)([xdm])(\d+)", part).groups()
        plain = kind == "x"
        found += [(int(resolution), None if plain else int(number))] * (int(number) if plain else 1)
    return found


class Latent(NamedTuple):
    """What one block of the decoder makes of pictures; each tensor is (b, zdim, h, w).

    Attributes:
        z: what the block went on with: the mean of the posterior, or a sample of it.
        posterior, prior: independent normal distributions, given the z of all blocks before.
    """

    z: torch.Tensor
    posterior: Normal
    prior: Normal


class VDVAE(nn.Module):
    """Pictures to latents and back.

    Args:
        architecture: an `Architecture`.
    """

    def __init__(self, architecture):
        super().__init__()
        self.architecture = architecture
        self.encoder = Encoder(architecture)
        self.decoder = Decoder(architecture)
        for module in self.modules() if architecture.gain != 1 else ():
            if isinstance(module, nn.Conv2d):
                module.weight.data.mul_(architecture.gain)

    def forward(self, images) -> torch.Tensor:
        """Means of the posteriors of the layers that describe a picture, (b, d).

        Args:
            images: (b, 3, size, size), (pixel - 115.92961967) / 69.37404 of pixels 0 to 255.
        """
        return joined([latent.z for latent in self.encode(images)])

    def encode(self, images, layers=None, generators=None) -> list[Latent]:
        """Latents of the first `layers` blocks; no block after them is computed.

        Args:
            images: as of `forward`.
            layers: by default those of the architecture.
            generators: as many of torch, on the CPU, as there are images, to draw each z from its
                posterior; None takes the mean.
        """
        activations = self.encoder(images)
        found = []

        def see(block, state, prior):
            posterior = block.posterior(state, activations[block.resolution])
            found.append(Latent(draw(posterior, generators), posterior, prior))
            return found[-1].z

        self.decoder.climb(see, len(images), layers or self.architecture.layers)
        return found

    def decode(self, latents, generators=None) -> torch.Tensor:
        """Parameters (b, 10 * components, size, size) of the colours of all pixels; see `picture`.

        Args:
            latents: z of the first blocks, each (b, zdim, h, w); see `split`.
            generators: as many of torch, on the CPU, as there are images, to draw the z of later
                blocks from their priors; None takes the mean.
        """
        given = iter(latents)

        def foresee(block, state, prior):
            z = next(given, None)
            return draw(prior, generators) if z is None else z

        states = self.decoder.climb(foresee, len(latents[0]), None)
        return self.decoder.output(states[self.architecture.size])

    def shapes(self, layers=None) -> list[tuple[int, int, int]]:
        """(zdim, h, w) of the latents of the first `layers` blocks, by default of all."""
        zdim = self.architecture.zdim
        return [(zdim, r, r) for r, _ in blocks(self.architecture.decoder)[:layers]]

    def split(self, values) -> list[torch.Tensor]:
        """Latents, each (b, zdim, h, w), of numbers (b, d) as `joined` gives them.

        Raises:
            InputError: no number of blocks has d numbers.
        """
        shapes, number = self.shapes(), values.shape[1]
        sizes = [math.prod(shape) for shape in shapes]
        totals = list(itertools.accumulate(sizes))
        if number not in totals:
            raise InputError(
                f"VDVAE: {number} numbers are not the latents of its first layers, which have "
                f"{', '.join(map(str, totals[:3]))}, ..., {totals[-1]}; give latents of this model"
            )
        parts = values.split(sizes[: totals.index(number) + 1], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=False)]


class Encoder(nn.Module):
    """The last activation at each resolution, {resolution: (b, width, h, w)}, of pictures."""

    def __init__(self, architecture):
        super().__init__()
        width, bottleneck = architecture.width, architecture.bottleneck
        self.in_conv = nn.Conv2d(COLOURS, width, 3, padding=1)
        nn.init.zeros_(self.in_conv.bias)
        every = blocks(architecture.encoder)
        self.enc_blocks = nn.ModuleList(
            Block(
                width, bottleneck, width, resolution,
                residual=True, pool=pool or 1, scale=len(every) ** -0.5,
            )
            for resolution, pool in every
        )  # fmt: skip

    def forward(self, images) -> dict[int, torch.Tensor]:
        x = self.in_conv(images)
        activations = {}
        for block in self.enc_blocks:
            x = block(x)
            activations[x.shape[2]] = x
        return activations


class Decoder(nn.Module):
    """Blocks from one position up to the size of the picture, and the output."""

    def __init__(self, architecture):
        super().__init__()
        width, every = architecture.width, blocks(architecture.decoder)
        scale = len(every) ** -0.5
        self.dec_blocks = nn.ModuleList(Step(architecture, *block, scale) for block in every)
        resolutions = sorted({resolution for resolution, _ in every})
        self.bias_xs = nn.ParameterList([torch.zeros(1, width, r, r) for r in resolutions])
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        out = nn.Conv2d(width, PER_COMPONENT * architecture.components, 1)
        self.out_net = nn.ModuleDict({"out_conv": out})

    def climb(self, choose, rows, layers) -> dict[int, torch.Tensor]:
        """States (rows, width, h, w) by resolution after the first `layers` blocks; None: all.

        Args:
            choose: function of a block, the state that it starts from, and its prior, that gives z.
        """
        states = {bias.shape[-1]: bias.expand(rows, -1, -1, -1) for bias in self.bias_xs}
        for block in list(self.dec_blocks)[:layers]:
            state = states[block.resolution]
            if block.source:
                state = state + functional.interpolate(states[block.source], block.resolution)
            prior, without = block.before(state)
            states[block.resolution] = block(without, choose(block, state, prior))
        return states

    def output(self, state) -> torch.Tensor:
        """Parameters of the colours of a state at full size."""
        return self.out_net["out_conv"](state * self.gain + self.bias)


class Step(nn.Module):
    """A block of the decoder.

    Args:
        architecture: an `Architecture`.
        resolution: of its state.
        source: resolution of a state that it adds to its own; None for none.
        scale: of the weights that end its branches, where they are drawn at random.
    """

    def __init__(self, architecture, resolution, source, scale):
        super().__init__()
        width, bottleneck, zdim = architecture.width, architecture.bottleneck, architecture.zdim
        self.resolution, self.source, self.zdim = resolution, source, zdim
        self.enc = Block(2 * width, bottleneck, 2 * zdim, resolution)
        self.prior = Block(width, bottleneck, 2 * zdim + width, resolution, scale=0)
        self.z_proj = nn.Conv2d(zdim, width, 1)
        nn.init.zeros_(self.z_proj.bias)
        self.z_proj.weight.data.mul_(scale)
        self.resnet = Block(width, bottleneck, width, resolution, residual=True, scale=scale)

    def posterior(self, state, activation) -> Normal:
        """Distribution of z for a picture whose encoder has `activation` at this resolution."""
        return _normal(self.enc(torch.cat([state, activation], 1)))

    def before(self, state) -> tuple[Normal, torch.Tensor]:
        """Prior of z, and the state with what is added to it whatever z is."""
        found = self.prior(state)
        return _normal(found[:, : 2 * self.zdim]), state + found[:, 2 * self.zdim :]

    def forward(self, state, z) -> torch.Tensor:
        return self.resnet(state + self.z_proj(z))


class Block(nn.Module):
    """Four convolutions with a GELU before each, (b, channels, h, w) to (b, out, h, w).

    Args:
        channels, bottleneck, out: of the input, inside, and of the output.
        resolution: of the input; the inner convolutions are 3 x 3 where it is above 2.
        residual: add the input.
        pool: average over squares of that side at the end.
        scale: of the last weights, where they are drawn at random.
    """

    def __init__(self, channels, bottleneck, out, resolution, *, residual=False, pool=1, scale=1):
        super().__init__()
        kernel = 3 if resolution > 2 else 1
        self.residual, self.pool = residual, pool
        self.c1 = nn.Conv2d(channels, bottleneck, 1)
        self.c2 = nn.Conv2d(bottleneck, bottleneck, kernel, padding=kernel // 2)
        self.c3 = nn.Conv2d(bottleneck, bottleneck, kernel, padding=kernel // 2)
        self.c4 = nn.Conv2d(bottleneck, out, 1)
        for convolution in (self.c1, self.c2, self.c3, self.c4):
            nn.init.zeros_(convolution.bias)
        self.c4.weight.data.mul_(scale)

    def forward(self, x) -> torch.Tensor:
        found = x
        for convolution in (self.c1, self.c2, self.c3, self.c4):
            found = convolution(functional.gelu(found))
        if self.residual:
            found = x + found
        return functional.avg_pool2d(found, self.pool) if self.pool > 1 else found


def _normal(parameters):
    """Normal distribution of (b, 2 * zdim, h, w): means, then logarithms of deviations."""
    mean, logarithm = parameters.chunk(2, 1)
    return Normal(mean, logarithm.exp(), validate_args=False)


def draw(distribution, generators=None) -> torch.Tensor:
    """Means of a normal distribution over images, or a sample by the generator of each image."""
    mean = distribution.mean
    if generators is None:
        return mean
    return mean + distribution.stddev * _each(torch.randn, mean, generators)


def _each(function, like, generators):
    """Random numbers like a tensor (b, ...), those of each image from its own generator.

    They are made on the CPU, so that neither the batch nor the device changes them.
    """
    drawn = [function(like.shape[1:], generator=one) for one in generators]
    return torch.stack(drawn).to(like)


def joined(latents) -> torch.Tensor:
    """Numbers (b, d) of latents (b, zdim, h, w), one after the other."""
    return torch.cat([latent.flatten(1) for latent in latents], 1)


def picture(parameters, generators=None) -> torch.Tensor:
    """Pictures, float32 (b, 3, h, w), colours 0 to 255, not rounded.

    Each pixel is a mixture of logistic distributions, of which green is shifted by red, and blue by
    both (Salimans et al. 2017, PixelCNN++, arXiv:1701.05517).

    Args:
        parameters: what `VDVAE.decode` gives.
        generators: as many of torch, on the CPU, as there are images, to draw component and colour
            of each pixel as published; None takes the mean of the most likely component.
    """
    b, channels, h, w = parameters.shape
    components = channels // PER_COMPONENT
    logits, colours = parameters.float().split([components, channels - components], 1)
    if generators is not None:
        logits = logits - torch.log(-torch.log(_uniform(logits, generators)))
    chosen = logits.argmax(1)[:, None, None, None].expand(b, COLOURS, 3, 1, h, w)
    colours = colours.reshape(b, COLOURS, 3, components, h, w).gather(3, chosen).squeeze(3)
    values, logarithms, coefficients = colours.unbind(2)
    if generators is not None:
        spread = torch.logit(_uniform(values, generators))
        values = values + logarithms.clamp(min=-7).exp() * spread
    green_red, blue_red, blue_green = coefficients.tanh().unbind(1)
    red = values[:, 0].clamp(-1, 1)
    green = (values[:, 1] + green_red * red).clamp(-1, 1)
    blue = (values[:, 2] + blue_red * red + blue_green * green).clamp(-1, 1)
    return (torch.stack([red, green, blue], 1) + 1) * 127.5


def _uniform(like, generators):
    """Between 1e-5 and 1 - 1e-5, as published, so that logarithms stay finite."""
    return 1e-5 + (1 - 2e-5) * _each(torch.rand, like, generators)
