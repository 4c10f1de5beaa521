"""Tables that say what was shown in each trial: stimulus, split, concept.

`options` are those of the dataset (`engram.datasets.stimulus_epochs.Options`).
"""

import re

import numpy as np
import pandas as pd

from engram import tables
from engram.errors import InputError
from engram.readers.folders import IMAGES

SUFFIXES = (".csv", ".tsv")
SPLITS = ("train", "test")
MISSING = ("n/a", "na", "nan")  # as BIDS, R and MATLAB write a cell that is missing


def check(options):
    """Refuse options that name too little.

    Raises:
        InputError: a column or a value is not named, or the pattern of concepts is no pattern.
    """
    missing = {"stimulus", "split"} - set(options.trial_columns)
    if missing or set(options.splits) != set(SPLITS):
        raise InputError(
            "dataset: `trial_columns` has to name the columns `stimulus` and `split`, and `splits` "
            "the values of `train` and `test`"
        )
    if options.concept_pattern is None:
        return
    try:
        groups = re.compile(options.concept_pattern).groups
    except re.error as error:
        raise InputError(f"dataset: `concept_pattern` is no regular expression ({error})") from None
    if not groups or "concept" in options.trial_columns:
        raise InputError(
            "dataset: `concept_pattern` needs a group (...), and no column `concept` beside it"
        )


def load(path) -> pd.DataFrame:
    """A table in any form that `engram.tables` reads, as texts: "" where a cell is missing.

    Raises:
        InputError: it is not readable.
    """
    table = tables.read(path)
    rows = [["" if c.casefold() in MISSING else c for c in row.values()] for _, row in table.rows]
    return pd.DataFrame(rows, columns=table.columns, dtype=object)


def column(path, table, options, key) -> np.ndarray:
    """The column that `trial_columns.<key>` names, as texts: "" where it is empty, (n,).

    Raises:
        InputError: there is no such column.
    """
    name = options.trial_columns[key]
    if name not in table:
        raise InputError(
            f"{path}: no column {name}; there is {', '.join(map(str, table.columns))}; correct "
            f"`trial_columns.{key}` of the dataset"
        )
    return np.array([_text(value) for value in table[name]], object)


def _text(value):
    """A cell as text; metadata of epochs hold whole numbers as 3.0, where any is missing."""
    return "" if pd.isna(value) else re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


def stimulus_name(path) -> str:
    """Name of the stimulus that a photograph, or a trial's path to it, shows."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGES else name


def describe(path, table, options, of_trials=True) -> pd.DataFrame:
    """What the lines of a table say.

    Args:
        path: of the table, for messages.
        table: one line a trial.
        options: of the dataset.
        of_trials: whether the lines are trials of one subject; if not, they list stimuli, and
            trials that the subject left out are listed too.

    Returns:
        As many lines: stimulus, split, concept, and `reason`, why it is left out, or "".

    Raises:
        InputError: a column is missing, all lines are left out, or one that is not has no
            stimulus or concept.
    """
    given = column(path, table, options, "split")
    splits = {value: split for split, value in options.splits.items()}
    named = options.trial_columns["split"]
    found = pd.DataFrame(
        {
            "stimulus": [stimulus_name(v) for v in column(path, table, options, "stimulus")],
            "split": [splits.get(value, "") for value in given],
            "reason": ["" if v in splits else f"{named} is {v or 'empty'}" for v in given],
        },
        dtype=object,
    )
    if of_trials and "exclude" in options.trial_columns:
        marks = column(path, table, options, "exclude")
        out = np.array([value.lower() not in ("", "0", "false") for value in marks], bool)
        out &= (found["reason"] == "").to_numpy()
        found.loc[out, "reason"] = options.trial_columns["exclude"]
    if not (found["reason"] == "").any():
        raise InputError(
            f"{path}: no training or test trial; the column {named} holds "
            f"{', '.join(sorted(set(given))[:5])}; correct `splits` of the dataset"
        )
    found["concept"] = _concepts(path, table, found["stimulus"], options)
    for what in ("stimulus", "concept"):
        empty = np.flatnonzero((found["reason"] == "") & (found[what] == ""))
        if len(empty):
            raise InputError(
                f"{path}: trial {empty[0] + 1} has no {what}; correct its line, leave it out, or "
                f"correct `{'concept_pattern' if options.concept_pattern else 'trial_columns'}`"
            )
    return found


def _concepts(path, table, stimuli, options):
    if "concept" in options.trial_columns:
        return column(path, table, options, "concept")
    if options.concept_pattern is None:
        return stimuli
    found = [re.fullmatch(options.concept_pattern, name) for name in stimuli]
    return [match[1] if match else "" for match in found]


def apart(where, table, options) -> pd.DataFrame:
    """The table, training trials of concepts that are tested left out if the options say so.

    Raises:
        InputError: they do not say so and there are such trials, or a stimulus has two concepts.
    """
    used = table[table["reason"] == ""]
    concepts = used.groupby("stimulus")["concept"].nunique()
    if (concepts > 1).any():
        raise InputError(
            f"{where}: stimulus {concepts.index[concepts > 1][0]} has two concepts; correct the "
            "table, or give different photographs different names"
        )
    tested = set(used["concept"][used["split"] == "test"])
    both = (table["reason"] == "") & (table["split"] == "train") & table["concept"].isin(tested)
    if both.any() and not options.drop_test_concepts:
        line = table[both].iloc[0]
        raise InputError(
            f"{where}: concept {line['concept']} is of training ({line['stimulus']}) and of test "
            "trials; set `drop_test_concepts: true` to leave its training trials out"
        )
    return table.assign(reason=table["reason"].mask(both, "concept is tested"))
