"""Full-size weights drawn at random, and views to encode with the models that load them."""

import numpy as np
import torch
from safetensors.torch import save_file

from engram.frozen.backbone import build
from engram.planning import components

PICTURES = {"what": "picture"}


def pictures(n=2, seed=0):
    """Coarse colour patterns, uint8 (n, 48, 64, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def drawn(model, seed=1) -> dict[str, torch.Tensor]:
    """Tensors for a model, or for what `model()` builds, at the scale of trained ones."""
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(model, torch.nn.Module):
        with torch.device("meta"):
            model = model()
    wanted = model.state_dict()
    return {name: _value(name, tuple(t.shape), generator) for name, t in wanted.items()}


def _value(name, shape, generator):
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    values = torch.empty(shape).normal_(generator=generator)
    if name.endswith("running_var"):
        return values.abs() + 0.5
    if len(shape) == 1 and name.endswith(("weight", "gamma", "gamma_1", "gamma_2")):
        return 1 + 0.1 * values
    if len(shape) == 1 or "token" in name or "pos_embed" in name:
        return 0.1 * values
    return values * (values[0].numel() ** -0.5)


def dino_vit(patch=16, **keys):
    """A base transformer by the authors of DINO, in the copy that DreamSim carries, undrawn."""
    # Imports torchvision, which Engram has to prepare first.
    from dreamsim.feature_extraction.vision_transformer import vit_base

    return build(lambda: vit_base(patch_size=patch, **keys), None, weights=True)


def save(content, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def backbone(kind, weights=None, view=PICTURES, **keys):
    """The backbone as the workflow builds it."""
    if weights:
        keys["weights"] = str(weights)
    keys = {"batch": 1, "precision": "fp32"} | keys
    module, chosen = components.options("backbones", {"kind": kind, **keys})
    return module.load(chosen, weights, view, "cpu")
