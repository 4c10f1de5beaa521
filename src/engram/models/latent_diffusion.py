"""Latent diffusion: autoencoder, U-Nets with one or two conditions, and the loop from noise.

Rombach, R. et al. (2022). High-resolution image synthesis with latent diffusion models. CVPR.
arXiv:2112.10752. Xu, X. et al. (2023). Versatile Diffusion. ICCV. arXiv:2211.08332. Ye, H. et al.
(2023). IP-Adapter. arXiv:2308.06721. Steps: Song, J. et al. (2021). Denoising diffusion implicit
models. ICLR. arXiv:2010.02502; meeting in the middle: Meng, C. et al. (2022). SDEdit. ICLR.
arXiv:2108.01073.

The parts are those of diffusers, built here from stated sizes: no configuration is fetched.
Tensors are named as in the published files.
"""

from dataclasses import dataclass

import torch
from torch import nn

from engram.errors import InputError

#: The number by which latents are multiplied, so that their variance is about 1.
SCALE = 0.18215

#: Tokens that IP-Adapter makes of the embedding of a picture.
IP_TOKENS = 4


@dataclass(frozen=True)
class Architecture:
    """Sizes of an autoencoder and of the U-Net on its latents.

    Attributes:
        size: height and width of the pictures, pixels.
        autoencoder: channels at each resolution; each after the first is half as large.
        unet: channels at each resolution; there is no attention at the last.
        layers: blocks at each resolution of the U-Net; of the autoencoder the same.
        groups: of the normalisations.
        heads: of the attention of the U-Net.
        clip: model of OpenCLIP whose tokens are the conditions.
        tokens: how many it has of a picture and of a text.
        width: of the tokens.
        embeds: model of OpenCLIP whose embedding of a picture IP-Adapter takes.
        embedding: its length.
    """

    size: int
    autoencoder: tuple[int, ...]
    unet: tuple[int, ...]
    layers: int
    groups: int
    heads: int
    clip: str
    tokens: tuple[int, int]
    width: int
    embeds: str
    embedding: int

    @property
    def latent(self) -> tuple[int, int, int]:
        """Shape of the latents of a picture, (channel, h, w)."""
        side = self.size >> (len(self.autoencoder) - 1)
        return 4, side, side


#: Stable Diffusion 1.5 and Versatile Diffusion, whose sizes are the same, and one that is small
#: enough to try things out.
ARCHITECTURES = {
    "sd15": Architecture(
        512, (128, 256, 512, 512), (320, 640, 1280, 1280), layers=2, groups=32, heads=8,
        clip="ViT-L-14-quickgelu", tokens=(257, 77), width=768, embeds="ViT-H-14", embedding=1024,
    ),
    "tiny": Architecture(
        64, (8, 8, 16, 16), (32, 64), layers=1, groups=8, heads=2,
        clip="tiny", tokens=(17, 77), width=32, embeds="tiny", embedding=32,
    ),
}  # fmt: skip


def library():
    """diffusers, which takes ten seconds to import and which not everybody has.

    Raises:
        InputError: it is not installed.
    """
    try:
        import diffusers
        import diffusers.models.attention_processor
        import diffusers.models.embeddings
    except ImportError as error:
        raise InputError(
            f"latent diffusion needs the package diffusers ({error}); install the extra: "
            "pip install -e .[diffusion]"
        ) from None
    return diffusers


# ---- models -------------------------------------------------------------------------------


def autoencoder(architecture) -> nn.Module:
    """Pictures (b, 3, size, size), -1 to 1, to latents and back."""
    levels = len(architecture.autoencoder)
    return library().AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.autoencoder,
        layers_per_block=architecture.layers,
        norm_num_groups=architecture.groups,
        sample_size=architecture.size,
        scaling_factor=SCALE,
    )


def unet(architecture) -> nn.Module:
    """What noise is in latents (b, 4, h, w) at a step, given tokens (b, n, width)."""
    deep = len(architecture.unet) - 1
    return library().UNet2DConditionModel(
        sample_size=architecture.latent[1],
        down_block_types=("CrossAttnDownBlock2D",) * deep + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * deep,
        block_out_channels=architecture.unet,
        layers_per_block=architecture.layers,
        norm_num_groups=architecture.groups,
        attention_head_dim=architecture.heads,
        cross_attention_dim=architecture.width,
    )


class Dual(nn.Module):
    """Two transformers side by side, each attending to tokens of its own.

    Published as residuals that are mixed: x + (1 - mixing) (image(x) - x) + mixing (text(x) - x).
    diffusers has the same as `DualTransformer2DModel`, which its own U-Net cannot call any more
    (https://github.com/huggingface/diffusers/issues/13651).

    Args:
        image, text: transformers of diffusers.
        mixing: weight of the text, 0 to 1.
        images: number of the tokens of the picture, which stand before those of the text.
    """

    def __init__(self, image, text, mixing, images):
        super().__init__()
        self.image, self.text, self.mixing, self.images = image, text, mixing, images

    def forward(self, x, encoder_hidden_states, **others):
        """As the transformers: x (b, channel, h, w) to a tuple of the same."""
        of_image = encoder_hidden_states[:, : self.images]
        of_text = encoder_hidden_states[:, self.images :]
        (image,) = self.image(x, encoder_hidden_states=of_image, **others)
        (text,) = self.text(x, encoder_hidden_states=of_text, **others)
        return (torch.lerp(image, text, self.mixing),)


def dual(model, other, mixing, images) -> nn.Module:
    """A U-Net whose transformers attend to a picture, and those of `other` beside them to a text.

    Args:
        model, other: from `unet`; `model` is changed.
        mixing, images: as of `Dual`.
    """
    there = dict(other.named_modules())
    for name, module in list(model.named_modules()):
        if name.endswith(".attentions"):
            for i, image in enumerate(module):
                module[i] = Dual(image, there[name][i], mixing, images)
    return model


def of_attention(name) -> bool:
    """Whether a tensor of a U-Net is one of its transformers, by its name."""
    return ".attentions." in name


class Adapter(nn.Module):
    """IP-Adapter: attention to four more tokens, made of the embedding of a picture.

    Args:
        model: the U-Net that it is of, from `unet`; see `attach`.
        architecture: an `Architecture`.
    """

    def __init__(self, model, architecture):
        super().__init__()
        models = library().models
        projection = models.embeddings.ImageProjection
        self.image_proj = projection(architecture.embedding, architecture.width, IP_TOKENS)
        crossing = [name for name in model.attn_processors if ".attn2." in name]
        self.places = {str(2 * i + 1): name for i, name in enumerate(crossing)}
        self.ip_adapter = nn.ModuleDict(
            {
                number: models.attention_processor.IPAdapterAttnProcessor2_0(
                    model.get_submodule(name.removesuffix(".processor")).to_k.out_features,
                    architecture.width,
                    num_tokens=(IP_TOKENS,),
                )
                for number, name in self.places.items()
            }
        )

    def attach(self, model, scale):
        """Let the U-Net attend to the picture, to which it then wants an embedding.

        Args:
            model: the U-Net.
            scale: weight of the attention to the picture beside that to the text.
        """
        processors = dict(model.attn_processors)
        for number, name in self.places.items():
            processors[name] = self.ip_adapter[number]
            processors[name].scale = [scale]
        model.set_attn_processor(processors)
        several = library().models.embeddings.MultiIPAdapterImageProjection
        model.encoder_hid_proj = several([self.image_proj])
        model.register_to_config(encoder_hid_dim_type="ip_image_proj")


def adapter_names(tensors) -> dict:
    """Tensors of a published IP-Adapter by the names of `Adapter`."""
    return {
        n.replace("image_proj.proj.", "image_proj.image_embeds.").replace("_ip.w", "_ip.0.w"): t
        for n, t in tensors.items()
    }


def autoencoder_names(tensors) -> dict:
    """Tensors of an autoencoder by their names of today; published files have older ones."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
        found[name.replace(".attentions.0.proj_attn.", ".attentions.0.to_out.0.")] = tensor
    return found


# ---- pictures and latents -----------------------------------------------------------------


def encode(model, pictures, generators=None) -> torch.Tensor:
    """Latents (b, 4, h, w) of pictures, scaled to a variance of about 1.

    Args:
        model: from `autoencoder`.
        pictures: (b, 3, size, size), -1 to 1.
        generators: as many of torch, on the CPU, as there are pictures, to draw latents from their
            distribution; None takes its mean.
    """
    found = model.encode(pictures).latent_dist
    latents = found.mean
    if generators is not None:
        latents = latents + found.std * noise_of(latents.shape[1:], generators, latents.device)
    return latents * SCALE


def decode(model, latents) -> torch.Tensor:
    """Pictures, uint8 (b, size, size, 3) on the CPU, of latents as `encode` gives them."""
    pictures = model.decode(latents / SCALE).sample
    return ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()


def noise_of(shape, generators, device) -> torch.Tensor:
    """Normal numbers (b, *shape), each by its own generator on the CPU."""
    drawn = [torch.randn(tuple(shape), generator=one) for one in generators]
    return torch.stack(drawn).to(device)


# ---- from noise to latents ----------------------------------------------------------------


def scheduler(steps):
    """Steps of DDIM without noise of their own, on the scale of Stable and Versatile Diffusion."""
    found = library().DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    found.set_timesteps(steps)
    return found


def times(steps, strength=None) -> list[int]:
    """Times at which noise is predicted, of 1000, from the noisiest on.

    Of `steps` a start takes part in the last `strength`: 37 of 50 from time 721 for 0.75, by the
    convention of diffusers, in which the start has the noise of the first of these times. The code
    of Stable Diffusion gives it the noise of the time before, 741.
    """
    found = scheduler(steps).timesteps.tolist()
    return found if strength is None else found[steps - min(int(steps * strength), steps) :]


def denoised(predict, noise, steps, start=None, strength=None) -> torch.Tensor:
    """Latents without noise.

    Args:
        predict: function of latents (b, 4, h, w) and a time that gives the noise in them.
        noise: (b, 4, h, w).
        steps: of the whole way from pure noise.
        start: latents that are mixed with the noise at first; None starts from pure noise.
        strength: share of the steps that are gone after a start.
    """
    by, way = scheduler(steps), times(steps, None if start is None else strength)
    x = noise if start is None else by.add_noise(start, noise, torch.tensor(way[:1]))
    for time in way:
        x = by.step(predict(x, time), time, x).prev_sample
    return x
