"""What goes into a store and comes out of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

CODE_VERSION = 1  # raise it when what a store holds changes


@dataclass(frozen=True)
class Rows:
    """Named rows on their way into a store, or out of one.

    Attributes:
        array: (n, ...) values.
        table: n rows of facts, indexed by row name.
        header: JSON-able facts about all rows, equal for every recording of a unit.
    """

    array: np.ndarray
    table: pd.DataFrame
    header: dict
