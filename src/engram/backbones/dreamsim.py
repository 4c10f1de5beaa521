"""DreamSim: vision transformers aligned with human judgements of similarity.

Fu, S., Tamir, N., Sundaram, S. et al. (2023). DreamSim. NeurIPS. arXiv:2306.09344; further types
from Sundaram, S., Fu, S. et al. (2024). When does perceptual alignment benefit vision
representations? NeurIPS. arXiv:2410.10817.

The alignment is a low-rank change (LoRA; Hu et al. 2021, arXiv:2106.09685) of the query, key and
value projections of each block, W + (alpha / r) B A.  It is merged into the weights, so that the
aligned model costs what its base costs.
"""

import contextlib
import functools
import json
import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from engram.errors import InputError
from engram.frozen import backbone, checkpoints, libraries, pictures

with libraries.without("wandb"):
    import timm

TAKES = {"what": {"spectrogram": ["limits", "cmap"], "picture": []}}
ALIKE_BY = "cosine"

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
SIZE = (224, 224)
WIDTH = 768
PROJECTED = 512


@dataclass(frozen=True)
class Base:
    """The vision transformer under one type of DreamSim.

    Attributes:
        model: name in timm.
        files: where an archive may hold its weights; the first that is there is read.
        colours: mean and standard deviation.
        activation: of the MLPs, as DreamSim runs them.
        clip: a norm before the blocks, a projection at the end, norms with epsilon 1e-5.
    """

    model: str
    files: tuple[str, ...]
    colours: dict
    activation: str = "gelu"
    clip: bool = False


#: torch.hub keeps what DreamSim itself downloads in `checkpoints`.  The weights of OpenCLIP were
#: trained with QuickGELU, but DreamSim runs and aligned them with GELU.
TYPES = {
    "dino_vitb16": Base(
        "vit_base_patch16_224.dino",
        (
            "checkpoints/dino_vitbase16_pretrain.pth",
            "dino_vitbase16_pretrain.pth",
            "dino_vitb16_pretrain.pth",
        ),
        IMAGENET,
    ),
    "dinov2_vitb14": Base(
        "vit_base_patch14_dinov2.lvd142m",
        ("checkpoints/dinov2_vitb14_pretrain.pth", "dinov2_vitb14_pretrain.pth"),
        IMAGENET,
    ),
    "synclr_vitb16": Base("vit_base_patch16_224", ("synclr_vit_b_16.pth",), IMAGENET),
    "clip_vitb32": Base(
        "vit_base_patch32_224", ("clip_vitb32_pretrain.pth.tar",), CLIP, "quick_gelu", clip=True
    ),
    "open_clip_vitb32": Base(
        "vit_base_patch32_224", ("open_clip_vitb32_pretrain.pth.tar",), CLIP, clip=True
    ),
}

#: Settings of PEFT under which the change of a weight is (alpha / r) B A and nothing else.
PLAIN_LORA = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_rslora": (False,),
    "use_dora": (False,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
}

LORA = re.compile(r"(?:.*\.)?(blocks\.\d+\.attn\.qkv)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True, kw_only=True)
class Options(pictures.Options):
    """Options.

    Attributes:
        model: type of DreamSim: `dino_vitb16`, `dinov2_vitb14`, `synclr_vitb16`, `clip_vitb32`
            or `open_clip_vitb32`.
        aligned: false leaves the base model as it was before the alignment.
        final_norm: take the class token after the last layer norm; DreamSim was aligned before
            it. CLIP types always have it.
    """

    model: str
    aligned: bool = True
    final_norm: bool = False


def load(options, weights, view, device) -> backbone.Frozen:
    """The model, ready to encode rows of a view.

    Its features are those that DreamSim compares, not normalised: for DINO, DINOv2 and SynCLR
    the class token after the last block, before the final norm (768); for CLIP and OpenCLIP
    the class token after the final norm, projected (512).  Layers are named `vit.blocks.6`.

    Args:
        options: `Options`.
        weights: path of `dreamsim_<type>_checkpoint.zip`, or of the folder it was unpacked in
            (DreamSim's own cache); None for random weights of the base.
        view: header of the view store.
        device: "cpu" or "cuda".

    Raises:
        InputError: there is no such type, a file is missing or damaged, or does not fit.
    """
    backbone.known_name(options.model, TYPES, "DreamSim")
    if options.size and tuple(options.size) != SIZE:
        raise InputError(f"backbone {options.model}: its input is {list(SIZE)}; leave out `size`")
    base = TYPES[options.model]
    model = backbone.build(lambda: DreamSim(base), options, weights)
    if weights:
        model.load(weights, options, base)
    model.finish(options.final_norm)
    published = pictures.Published(size=SIZE, **base.colours)
    loaded = backbone.Frozen(
        model,
        pictures.preprocessing(options, published, view, device),
        options,
        weights,
        device,
        tokens=model.vit.forward_features,
        prefix=1,
    )
    loaded.facts["aligned"] = bool(weights) and options.aligned
    return loaded


class DreamSim(torch.nn.Module):
    """A vision transformer with the feature of DreamSim.

    Attributes:
        vit: of timm; for CLIP types with a norm before the blocks, as DreamSim builds them.
        projection: (768, 512) for CLIP types, otherwise None.
    """

    def __init__(self, base):
        super().__init__()
        arguments = {"num_classes": 0, "act_layer": base.activation}
        norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
        if base.clip:
            arguments["norm_layer"] = norm
        self.vit = timm.create_model(base.model, **arguments)
        if base.clip:
            self.vit.norm_pre = norm(WIDTH)
        projection = torch.randn(WIDTH, PROJECTED) * WIDTH**-0.5
        self.register_buffer("projection", projection if base.clip else None)

    def forward(self, images):
        """Features (b, 768), projected (b, 512), of images (b, 3, 224, 224)."""
        features = self.vit.forward_features(images)[:, 0]
        return features if self.projection is None else features @ self.projection

    def load(self, weights, options, base):
        """Put the weights of an archive into the model, the alignment merged if it is asked for."""
        kind = f"{options.model}_single_lora"
        lora = [f"{kind}/adapter_config.json"]
        lora += [(f"{kind}/adapter_model.safetensors", f"{kind}/adapter_model.bin")]
        with unpacked(weights, [base.files, *(lora if options.aligned else [])]) as files:
            file, *lora = files
            tensors = _base(_read(*file), file[1])
            if lora:
                _merge(tensors, lora_changes(*lora), lora[1][1])
        if base.clip:
            tensors = {n.replace("pos_drop.", "norm_pre."): t for n, t in tensors.items()}
        projection = {"projection": tensors.pop("proj")} if "proj" in tensors else {}
        tensors = {f"vit.{n}": t for n, t in tensors.items()} | projection
        checkpoints.load_strictly(self, tensors, file[1], f"DreamSim's {options.model}")

    def finish(self, final_norm):
        """Bring the loaded model to 224 pixels and leave out what comes after its feature."""
        if self.vit.patch_embed.img_size != SIZE:
            self.vit.patch_embed.set_input_size(img_size=SIZE)
            table = resized_positions(self.vit.pos_embed.data, self.vit.patch_embed.grid_size[0])
            self.vit.pos_embed = torch.nn.Parameter(table)
        if self.projection is None and not final_norm:
            self.vit.norm = torch.nn.Identity()


def resized_positions(table, side) -> torch.Tensor:
    """Position table (1, 1 + n * n, d) for side * side positions, as DINOv2's own code resizes it.

    Bicubic without antialiasing, with a scale of (side + 0.1) / n.
    """
    grid = int((table.shape[1] - 1) ** 0.5)
    positions = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / grid
    positions = interpolate(positions, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([table[:, :1], positions.flatten(2).transpose(1, 2)], dim=1)


@contextlib.contextmanager
def unpacked(archive, wanted):
    """Files of a DreamSim archive, a zip file or a folder.

    A zip file is not extracted: the files that are wanted go to a temporary folder under names
    of our own, and are removed afterwards.

    Args:
        archive: path of the zip file or folder.
        wanted: for each file its name in the archive, or alternative names.

    Yields:
        list of (path, name for messages).

    Raises:
        InputError: the archive is missing or damaged, or a file is not in it.
    """
    archive = Path(archive)
    wanted = [(names,) if isinstance(names, str) else names for names in wanted]
    if archive.is_dir():
        there = [name for names in wanted for name in names if (archive / name).is_file()]
        found = [_first_of(archive, names, there) for names in wanted]
        yield [(archive / name, f"{archive}/{name}") for name in found]
        return
    if not archive.is_file():
        raise InputError(f"{archive}: weights are missing; download them or correct `weights`")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(archive) as opened:
                found = [_first_of(archive, names, opened.namelist()) for names in wanted]
                files = [Path(folder, f"{i}{Path(name).suffix}") for i, name in enumerate(found)]
                for name, file in zip(found, files, strict=True):
                    _copy(opened, name, file)
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise InputError(f"{archive}: not a readable zip file, truncated ({error})") from None
        yield [(file, f"{archive}: {name}") for file, name in zip(files, found, strict=True)]


def _first_of(archive, names, there):
    for name in names:
        if there.count(name) > 1:
            raise InputError(f"{archive}: holds {name} twice; download it again")
        if name in there:
            return name
    raise InputError(f"{archive}: holds no {' or '.join(names)}; is it of another type?")


def _copy(opened, name, file):
    with opened.open(name) as source, file.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)


def _read(path, name):
    """Tensors of a file of an archive; messages call the file `name`."""
    try:
        return checkpoints.read(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None


def _base(tensors, name):
    """Tensors of the base model by the names of its transformer, from any published layout."""
    if "student" in tensors or "teacher" in tensors:
        if "teacher" not in tensors:
            raise InputError(
                f"{name}: holds the student of DINO's training, but DreamSim aligned the teacher; "
                "put Meta's dino_vitbase16_pretrain.pth beside it and name the folder as `weights`"
            )
        tensors = {n.removeprefix("module."): t for n, t in tensors["teacher"].items()}
        tensors = checkpoints.below(tensors, "backbone.")
    if all(n.startswith("visual.") for n in tensors):
        tensors = checkpoints.below(tensors, "visual.")
    return checkpoints.without(tensors, ["mask_token"])


def lora_changes(config, adapter) -> dict[str, torch.Tensor]:
    """Change of each weight that a LoRA adapter makes, (alpha / r) B A in float64, by its name.

    Args:
        config: (path, name for messages) of `adapter_config.json`.
        adapter: (path, name for messages) of the adapter's weights.

    Raises:
        InputError: the adapter is of another kind, or a matrix is missing or of another shape.
    """
    rank, alpha = _settings(*config)
    matrices = {}
    for name, tensor in _read(*adapter).items():
        match = LORA.fullmatch(name)
        if not match or match.groups() in matrices:
            raise InputError(f"{adapter[1]}: {name} is no change of a single model's qkv")
        matrices[match.groups()] = tensor.double()
    changes = {}
    for layer in dict.fromkeys(layer for layer, _ in matrices):
        down, up = matrices.get((layer, "A")), matrices.get((layer, "B"))
        if down is None or up is None:
            raise InputError(f"{adapter[1]}: {layer} has only one of lora_A and lora_B")
        if down.shape[0] != rank or up.shape[1] != rank:
            raise InputError(f"{adapter[1]}: {layer} is not of rank {rank} as in {config[1]}")
        changes[f"{layer}.weight"] = alpha / rank * (up @ down)
    return changes


def _settings(path, name):
    """Rank and alpha of an adapter."""
    try:
        settings = json.loads(path.read_text())
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: not the settings of a LoRA adapter ({error})") from None
    for key, plain in PLAIN_LORA.items():
        if key in settings and settings[key] not in plain:
            raise InputError(f"{name}: `{key}` is {settings[key]!r}, which is not supported")
    if rank < 1:
        raise InputError(f"{name}: `r` is {rank}; at least 1")
    return rank, alpha


def _merge(tensors, changes, name):
    """Add the changes of an adapter to the weights of its base; every qkv has to have one."""
    layers = {n for n in tensors if n.endswith(".attn.qkv.weight")}
    if layers != set(changes):
        odd = sorted(layers ^ set(changes))
        raise InputError(f"{name}: base and adapter differ in their layers, first {odd[0]}")
    for layer, change in changes.items():
        if change.shape != tensors[layer].shape:
            raise InputError(f"{name}: {layer} has the shape {list(change.shape)}")
        tensors[layer] = (tensors[layer].double() + change).float()
