"""How model libraries are imported."""

import contextlib
import sys

CODE_VERSION = 1  # changes nothing that a model computes


@contextlib.contextmanager
def without(name):
    """Within the block the package `name` cannot be imported, as if it were not installed.

    Libraries of models import experiment trackers where they are installed, for their training
    scripts; that takes longer than the library itself, in every job.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
