"""What is particular to backbones of ROI series: regions that hold data, and networks."""

import numpy as np

from engram.errors import InputError
from engram.readers import atlases


def regions(view) -> np.ndarray:
    """Positions of the regions that the rows of a view of series hold, int (r,).

    Args:
        view: header of the view store.
    """
    missing = set(view.get("missing", ()))
    return np.array([i for i, name in enumerate(view["channels"]) if name not in missing], int)


def networks(view, backbone) -> list[str]:
    """The network of each region of a view of series, as its name says it.

    Raises:
        InputError: a name says no network.
    """
    found = [atlases.network(name) for name in view["channels"]]
    if "" in found:
        raise InputError(
            f"backbone {backbone}: the name {view['channels'][found.index('')]!r} says no network; "
            "set `regions` of the view to names or atlases of Schaefer, Tian and Buckner"
        )
    return found
