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

try:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
except ImportError as error:
    raise InputError(
        f"latent diffusion needs the package diffusers ({error}); install the extra: "
        "pip install 'engram[diffusion]'"
    ) from None

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
        width: of the tokens of conditions.
        embedding: length of the embedding of a picture that IP-Adapter takes.
    """

    size: int
    autoencoder: tuple[int, ...]
    unet: tuple[int, ...]
    layers: int
    groups: int
    heads: int
    width: int
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
        512, (128, 256, 512, 512), (320, 640, 1280, 1280),
        layers=2, groups=32, heads=8, width=768, embedding=1024,
    ),
    "tiny": Architecture(
        64, (8, 8, 16, 16), (32, 64), layers=1, groups=8, heads=2, width=32, embedding=32,
    ),
}  # fmt: skip


# ---- models -------------------------------------------------------------------------------


def autoencoder(architecture) -> AutoencoderKL:
    """Pictures (b, 3, size, size), -1 to 1, to latents and back."""
    levels = len(architecture.autoencoder)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.autoencoder,
        layers_per_block=architecture.layers,
        norm_num_groups=architecture.groups,
        sample_size=architecture.size,
        scaling_factor=SCALE,
    )


def unet(architecture) -> UNet2DConditionModel:
    """What noise is in latents (b, 4, h, w) at a step, given tokens (b, n, width)."""
    deep = len(architecture.unet) - 1
    return UNet2DConditionModel(
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


def attentions(model) -> dict[str, nn.ModuleList]:
    """The transformers of a U-Net, by the name of their list."""
    found = dict(model.named_modules())
    return {name: one for name, one in found.items() if name.endswith(".attentions")}


class TextTransformers(nn.Module):
    """The transformers of the U-Net of Versatile Diffusion's text, under their published names."""

    def __init__(self, architecture):
        super().__init__()
        self.names = {}
        for name, modules in attentions(unet(architecture)).items():
            self.names[name] = name.replace(".", "_")
            self.add_module(self.names[name], modules)

    def state_dict(self, *args, **keys):
        """Tensors by their published names."""
        own, back = super().state_dict(*args, **keys), {v: k for k, v in self.names.items()}
        return {f"{back[n.partition('.')[0]]}.{n.partition('.')[2]}": t for n, t in own.items()}
