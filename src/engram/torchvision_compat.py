"""Lets torchvision built for CUDA be imported beside a torch built for the CPU.

Package indexes may pair the two.  The C++ extension of such a torchvision cannot load, and
its import stops at operators that nobody declared.  Declaring them is enough for what we use,
transforms and models; calling them (box suppression) still fails with torchvision's message.

Nothing happens where the extension loads, nor beside torch with CUDA or ROCm.  Standard
library only, and torch is imported no sooner than torchvision is.
"""

import importlib
import importlib.abc
import importlib.machinery
import pathlib
import sys

CODE_VERSION = 1

OPERATORS = ("nms", "qnms")

_declared = []  # an operator lives as long as the library object that declared it


def install():
    """Prepare the import of torchvision; call it as often as you like, it acts once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds torchvision as always, and has the operators declared before its code runs."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            _declare(pathlib.Path(spec.origin).parent)
            execute(module)

        spec.loader.exec_module = exec_module
        return spec


def _declare(folder):
    # No import statement: the package has no need of torch where nobody imports torchvision.
    torch = importlib.import_module("torch")
    if torch.version.cuda or torch.version.hip or _declared:
        return
    try:
        for library in (p for p in folder.glob("_C*") if p.suffix in (".so", ".pyd", ".dylib")):
            torch.ops.load_library(str(library))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
