"""Which module reads and writes a store, and what a finished store says about itself.

A format is a module with `write` and `opened`; `engram.store.hdf5` documents both.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engram.errors import InputError
from engram.store import hdf5, layout, zarr

CODE_VERSION = 2

FORMATS = {".h5": hdf5, ".zarr": zarr}


def of(path):
    """The module that reads and writes stores called like `path`.

    Raises:
        InputError: the suffix is that of no format.
    """
    if Path(path).suffix not in FORMATS:
        raise InputError(f"{path}: the name of a store ends in {' or '.join(FORMATS)}")
    return FORMATS[Path(path).suffix]


@contextlib.contextmanager
def opened(path, damage="damaged"):
    """The `Reader` of a store; whatever goes wrong in the block is said in one line.

    Raises:
        InputError: the file is missing, cannot be read, or is damaged.
    """
    module = of(path)
    try:
        with module.opened(path) as file:
            yield file
    except (InputError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such store") from None
    except Exception as error:  # what a parser meets in damaged bytes has no common type
        message = " ".join(str(error).split()) or type(error).__name__
        advice = "" if getattr(error, "errno", None) else "; delete it so that it is written again"
        raise InputError(f"{path}: {damage} ({message}){advice}") from None


@dataclass(frozen=True)
class Facts:
    """What a store says beside its values.

    Attributes:
        header: canonical JSON.
        table: DataFrame of n rows, indexed by row name.
        shape, dtype: of the array.
        audit: dict, see `engram.store.audit`.
    """

    header: str
    table: pd.DataFrame
    shape: tuple[int, ...]
    dtype: np.dtype
    audit: dict

    def fingerprint(self) -> str:
        return layout.fingerprint(self.header, self.table, self.shape, self.dtype)


def facts(path) -> Facts:
    """Read everything but the values.

    Raises:
        InputError: the file is missing, damaged, not a store, or of another layout.
    """
    with opened(path, "not a readable store") as file:
        found = file.attributes.get("layout", "none")
        if found != layout.LAYOUT:
            raise InputError(
                f"{path}: store layout {found}, expected {layout.LAYOUT}; "
                "delete the file so that it is written again"
            )
        if not isinstance(json.loads(file.attributes["header"]), dict):
            raise ValueError("its header is no JSON object")
        names = json.loads(file.attributes["columns"])
        table = layout.table(file.column("row"), {name: file.column(name) for name in names})
        if len(table) != file.shape[0]:
            raise ValueError(f"{file.shape[0]} rows, but {len(table)} names")
        audit = json.loads(file.attributes["audit"])
        header = file.attributes["header"]
        if not isinstance(json.loads(header), dict) or not isinstance(audit, dict):
            raise ValueError("its header or its audit is no JSON object")
        return Facts(header, table, file.shape, file.dtype, audit)
