"""Learning curves: the score by the number of subjects that a model was trained on."""

import numpy as np

KEYS = ("value", "low", "high", "seed_sd")


def curve(table, header, first, scored) -> list[dict]:
    """The first metric by the number of training subjects, that of all last.

    Args:
        table, header: of the predictions, see `engram.tasks.fewer`.
        first: what was found of all training subjects, with the keys `KEYS`.
        scored: gives the same of predictions (n, runs, outputs) for the rows of the table.

    Returns:
        A dict a number: subjects, that many train; validation, so many more choose, on whom a
        head that chooses no epoch is then fitted too; and the keys `KEYS`. Nothing where the
        experiment has no `train_subjects`.
    """
    if not (fewer := header.get("fewer")):
        return []
    beside, points = {"validation": fewer["validation"]}, []
    for size, columns in zip(fewer["sizes"], fewer["columns"], strict=True):
        points.append((size, scored(np.stack([table[of_seed] for of_seed in columns], 1))))
    points.append((fewer["all"], first))
    return [{"subjects": n, **beside, **{key: line[key] for key in KEYS}} for n, line in points]
