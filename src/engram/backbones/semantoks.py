"""Brain-Semantoks: tokens of brain networks, pretrained by self-distillation.

Gijsen, S. & Ritter, K. (2026). Brain-Semantoks. ICLR. arXiv:2512.11582.

Weights: those that stage `pretrain` writes, or checkpoints of the authors, of which the teacher is
taken. A checkpoint was trained on 457 regions every 2 s, each standardised over its scan.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, scans, series
from engram.models import semantoks

#: What the networks of a published encoder stand under: the first of the three atlases.
TOKENIZERS = "network_tokenizers.schaefer400."
TRANSFORMER = "inter_network_transformer."

#: Our names and the published ones.
PUBLISHED = (
    (r"tokenizer\.each\.(\d+)\.dense\.", TOKENIZERS + r"\1.branches.0."),
    (r"tokenizer\.each\.(\d+)\.long\.mixing\.", TOKENIZERS + r"\1.branches.1.projection."),
    (r"tokenizer\.each\.(\d+)\.long\.pieces\.", TOKENIZERS + r"\1.branches.1.slconv.kernel_list."),
    (r"tokenizer\.each\.(\d+)\.long\.skip", TOKENIZERS + r"\1.branches.1.slconv.D"),
    (r"tokenizer\.each\.(\d+)\.long\.", TOKENIZERS + r"\1.branches.1.slconv."),
    (r"tokenizer\.each\.", TOKENIZERS),
    (r"places", TRANSFORMER + "network_learnable_pos_embedding.weight"),
    (r"cls", TRANSFORMER + "cls_token"),
    (r"mask", TRANSFORMER + "mask_embedding"),
    (r"blocks\.(\d+)\.(qkv|proj)\.", TRANSFORMER + r"transformer_blocks.\1.attn.\2."),
    (r"blocks\.(\d+)\.fc1\.", TRANSFORMER + r"transformer_blocks.\1.mlp.0."),
    (r"blocks\.(\d+)\.fc2\.", TRANSFORMER + r"transformer_blocks.\1.mlp.3."),
    (r"blocks\.(\d+)\.scale(\d)", TRANSFORMER + r"transformer_blocks.\1.ls\2.gamma"),
    (r"blocks\.", TRANSFORMER + "transformer_blocks."),
)

#: What a published encoder holds and never uses: tokenizers again for each further atlas, a norm.
UNUSED = ("network_tokenizers.tian3", "network_tokenizers.buckner7", TRANSFORMER + "norm")

#: What else is in a published checkpoint; the predictors of masks are those of the class.
BESIDE = tuple(
    f"{who}_{what}"
    for who in ("student", "teacher")
    for what in ("encoder", "predictor", "mask_predictor")
)

#: As the published weights were trained; networks without data are masked.
TAKES = {
    "what": {"timeseries": ["channels", "tr"]},
    "modality": ["fmri"],
    "channels": ["schaefer400_7n", "tian_s3", "buckner7"],
    "coverage": 0.85,
    "tr": 2.0,
    "band": [0.01, 0.1],
    "normalisation": "scan",
}


#: Options that say how it is used, not what it learns; see `engram.planning.pretraining`.
OF_USE = ("model", "crops", "average")


@dataclass(frozen=True, kw_only=True)
class Options(backbone.Options):
    """Options.

    Attributes:
        model: its name in headers and messages.
        frames: of a crop, which is what the model sees at once.
        patch: frames of a window, of which each network makes one token.
        width: of a token.
        depth: blocks of the transformer.
        heads: of attention; 0 is one for each 64 of the width.
        tokens: of each window: one a network, `max_spatial` one a region, `min_spatial` one.
        crops: of a row, evenly spaced; one if the row is not longer than `frames`.
        average: over the crops; otherwise each crop has features of its own, (crop, d).
    """

    model: str = "semantoks"
    frames: int = 100
    patch: int = 20
    width: int = 768
    depth: int = 8
    heads: int = 0
    tokens: Literal["networks", "max_spatial", "min_spatial"] = "networks"
    crops: int = 8
    average: bool = True


def load(options, weights, view, device) -> backbone.Frozen:
    """The encoder, ready to encode rows of a view of series.

    Its features are the mean of all tokens and then the class token (2 d), averaged over crops.
    Tokens of networks that are missing, or that lie behind the end of a scan padded with zeros,
    are replaced by the mask that the encoder has learned. Layers are named `encoder.blocks.6`.

    Args:
        options: `Options`.
        weights: path of a checkpoint; None for random weights.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: a name of a region says no network, rows are shorter than a crop, or the
            checkpoint does not fit.
    """
    networks = series.networks(view, options.model)
    starts = _starts(options, view)
    encoder = backbone.build(lambda: semantoks.built(options, networks), options, weights)
    if weights:
        _fill(encoder, weights, options)
    model = Crops(encoder, starts, options.average)
    loaded = backbone.Frozen(
        model,
        scans.Series.of(view, device),
        options,
        weights,
        device,
        tokens=model.tokens,
        prefix=1,
    )
    if options.average and not options.layer and options.pooling == "default":
        loaded.crops = model
    loaded.facts |= {"frames_seen": options.frames, "crops": starts, "averaged": options.average}
    return loaded


def _starts(options, view):
    """First frame of each crop."""
    spare = view["frames"] - options.frames
    if spare < 0:
        raise InputError(
            f"backbone {options.model}: takes crops of {options.frames} frames, but a row of the "
            f"view has {view['frames']}; leave short scans out, or set `length: {options.frames}` "
            "and `pad: true` in the view"
        )
    if options.crops < 1:
        raise InputError(f"backbone {options.model}: `crops` is {options.crops}; at least 1")
    starts = np.linspace(0, spare, min(options.crops, spare + 1)).astype(int).tolist()
    apart = options.layer or options.pooling != "default"
    if len(starts) > 1 and (options.layer or (apart and not options.average)):
        raise InputError(
            f"backbone {options.model}: `layer`, and `pooling` without `average`, take one crop a "
            "row; set `crops: 1`, or `length` of the view"
        )
    return starts


class Crops(torch.nn.Module):
    """The encoder on rows that are longer than what it sees at once."""

    def __init__(self, encoder, starts, average):
        super().__init__()
        self.encoder, self.starts, self.average = encoder, starts, average

    def forward(self, x):
        """Features (b, 2 d), or (b, crop, 2 d), of series (b, roi, time)."""
        return self.each(x).mean(1) if self.average else self.each(x)

    def each(self, x):
        """Features (b, crop, 2 d) of every crop."""
        return semantoks.features(self._encoded(x)).unflatten(0, (len(x), -1))

    def one(self, x, change):
        """Features (b, 2 d) of one crop of each row, by torch's random numbers.

        It begins anywhere in the row, zeros behind the end of a scan apart.

        Args:
            x: series (b, roi, time).
            change: function of the crops, (b, roi, frames), that augments them.
        """
        frames = torch.arange(self.encoder.frames)
        ends = ((x != 0).any(1) * torch.arange(1, x.shape[-1] + 1, device=x.device)).amax(-1)
        starts = (ends.cpu() - len(frames)).clamp_min(0) + 1
        starts = (torch.rand(len(x)) * starts).int()
        at = (starts[:, None] + frames)[:, None].to(x.device)
        crops = x.take_along_dim(at, -1)
        absent = self.encoder.absent(crops)
        return semantoks.features(self.encoder(change(crops), absent))

    def tokens(self, x):
        """Tokens (b, 1 + n p, d), averaged over crops."""
        return self._encoded(x).unflatten(0, (len(x), -1)).mean(1)

    def _encoded(self, x):
        crops = [x[..., start : start + self.encoder.frames] for start in self.starts]
        crops = torch.stack(crops, 1).flatten(0, 1)
        return self.encoder(crops, self.encoder.absent(crops))


# ---- weights ----------------------------------------------------------------------------


def _fill(encoder, path, options):
    """Put the weights of a file into the encoder."""
    tensors = checkpoints.read(path)
    if _is_published(tensors, options.prefix):
        tensors = from_published(tensors, encoder, path, options.prefix)
    else:
        tensors = checkpoints.prefixed(tensors, options.prefix)
    checkpoints.load_strictly(encoder, tensors, path, options.model)


def _is_published(tensors, prefix):
    return any(name.startswith((f"{prefix}network_tokenizers.", "teacher_")) for name in tensors)


def from_published(tensors, encoder, path, prefix="") -> dict[str, torch.Tensor]:
    """Tensors of a published checkpoint by our names; what else is in it is known and checked.

    Args:
        tensors: of the whole checkpoint, or of one encoder alone.
        encoder: semantoks.Encoder whose names are wanted.
        path: of the file, for messages.
        prefix: of the names of the encoder; by default that of the teacher, if there is one.

    Raises:
        InputError: the file holds something that is unknown, or was trained with other constants.
    """
    whole = any(name.startswith("teacher_encoder.") for name in tensors)
    prefix = prefix or ("teacher_encoder." if whole else "")
    if whole:
        unknown = checkpoints.without(tensors, BESIDE)
        if unknown:
            raise InputError(
                f"{path}: not a checkpoint of Brain-Semantoks: it also holds {next(iter(unknown))}"
            )
    held = checkpoints.without(checkpoints.prefixed(tensors, prefix), UNUSED)
    names = {published(name): name for name in encoder.state_dict()}
    constants = {name: held.pop(name) for name in list(held) if _constant(name)}
    _check_constants(constants, encoder, path)
    return {names.get(name, name): tensor for name, tensor in held.items()}


def published(name) -> str:
    """The name that the authors gave a tensor of the encoder."""
    for ours, theirs in PUBLISHED:
        if re.match(ours, name):
            return re.sub(f"^{ours}", theirs, name)
    return name


def _constant(name):
    ends = (".multiplier", ".kernel_norm_initialized", ".temporal_pos_embedding")
    return name.endswith(ends)


def _check_constants(constants, encoder, path):
    """Refuse a checkpoint whose constants are others than those that are built in."""
    expected = {
        "multiplier": torch.tensor(float(semantoks.DECAY)),
        "kernel_norm_initialized": torch.tensor(1.0),
        "temporal_pos_embedding": encoder.times,
    }
    for name, found in constants.items():
        wanted = expected[name.rpartition(".")[2]]
        fits = wanted.ndim == 0 or found.shape == wanted.shape
        if not fits or not torch.allclose(found.float(), wanted, atol=1e-4):
            raise InputError(
                f"{path}: {name} is not what the published model has; correct `frames`, `patch` or "
                "`weights`"
            )
