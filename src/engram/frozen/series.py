"""What is particular to backbones of ROI series: which rows of a view hold data."""

import numpy as np

from engram.errors import InputError


def regions(view, backbone) -> np.ndarray:
    """Positions of the regions that the rows of a view of series hold, int (r,).

    Args:
        view: header of the view store.
        backbone: its kind, for the message.

    Raises:
        InputError: the view holds something else.
    """
    if view["what"] != "timeseries":
        raise InputError(
            f"backbone {backbone} needs series of regions, but the view holds {view['what']}; give "
            "it a view of kind 'timeseries'"
        )
    missing = set(view["missing"])
    return np.array([i for i, name in enumerate(view["channels"]) if name not in missing], int)
