"""What is particular to backbones of ROI series: which rows of a view hold data."""

import numpy as np


def regions(view) -> np.ndarray:
    """Positions of the regions that the rows of a view of series hold, int (r,).

    Args:
        view: header of the view store.
    """
    missing = set(view.get("missing", ()))
    return np.array([i for i, name in enumerate(view["channels"]) if name not in missing], int)
