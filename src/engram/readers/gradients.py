"""Functional gradients from a file, a line a region.

- A table in any form that `engram.tables` reads: the column `region` names them, every other column
  is a gradient.
- Bare numbers between commas, as published with Brain-JEPA (`gradient_mapping_450.csv`): nothing
  says what they belong to, so they are taken for the regions of `ORDER`.
- Weights that stage `pretrain` wrote: those that they were trained with.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from engram import tables
from engram.errors import InputError
from engram.readers import atlases

#: Atlases whose regions a file without names has, in this order.
ORDER = ("tian_s3", "schaefer400_17n")


def read(path, regions) -> np.ndarray:
    """Gradients float64 (regions, components) of the regions of a view, in their order.

    Args:
        path: of the file.
        regions: names; a parcel of Schaefer may go by the name of either order.

    Raises:
        InputError: the file is missing or no table of finite numbers, holds other regions or the
            same in another order, or a gradient is the same for all regions.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: gradients are missing; correct `gradients`")
    if path.suffix == ".safetensors":
        view, values = learnt(path)
        names = view["channels"]
    else:
        names, values = _bare(path) if _is_bare(path) else _named(path)
    _check(path, [atlases.same(n) for n in names], [atlases.same(n) for n in regions])
    if not np.isfinite(values).all():
        line = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise InputError(f"{path}: a gradient of region {names[line]!r} is not finite; correct it")
    if values.size == 0 or (values.min(0) == values.max(0)).any():
        raise InputError(f"{path}: a gradient is the same for all regions, or there is none")
    return values


def _check(path, names, regions):
    if names == regions:
        return
    if sorted(names) == sorted(regions):
        at = next(i for i, name in enumerate(names) if name != regions[i])
        raise InputError(
            f"{path}: has the regions of the view in another order, first {names[at]!r} instead "
            f"of {regions[at]!r}; put its lines into the order of the view"
        )
    foreign = sorted({*names} ^ {*regions})[0] if {*names} != {*regions} else "some twice"
    raise InputError(
        f"{path}: gradients of {len(names)} other regions than the {len(regions)} of the view "
        f"(not in both: {foreign!r}); give those of its atlas, or the view other `regions`"
    )


def _is_bare(path):
    with open(path, "rb") as file:
        first = file.readline(1 << 16).decode("utf-8-sig", "replace").partition(",")[0]
    try:
        float(first)
    except ValueError:
        return False
    return True


def _bare(path):
    try:
        values = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        raise InputError(f"{path}: no table of numbers ({error})") from None
    names = atlases.named(ORDER)
    if len(values) != len(names):
        raise InputError(
            f"{path}: {len(values)} lines without names; a file without names has the "
            f"{len(names)} regions of {' and '.join(ORDER)}; add a column `region`"
        )
    return names, values


def _named(path):
    table = tables.read(path)
    column = next((name for name in table.columns if name.casefold() == "region"), None)
    if column is None or not table.rows:
        raise InputError(f"{path}, line 1: needs a column `region` and a line a region below it")
    values = [_numbers(path, line, cells, column) for line, cells in table.rows]
    return [cells[column] for _, cells in table.rows], np.array(values)


def _numbers(path, line, cells, column):
    try:
        return [float(cell) for name, cell in cells.items() if name != column]
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {error}; a gradient is a number") from None


def learnt(path) -> tuple[dict, np.ndarray]:
    """What weights of stage `pretrain` hold beside those of the model.

    Returns:
        Header of the view that they were pretrained on, and its gradients (regions, components).

    Raises:
        InputError: the stage did not write the file, or not with gradients.
    """
    try:
        with safe_open(path, "np") as file:
            view = json.loads(file.metadata()["engram"])["view"]
            return view, file.get_tensor("gradients").astype(float)
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: no weights of stage `pretrain` that hold gradients and name their regions"
        ) from None
