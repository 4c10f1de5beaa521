"""One retrieval experiment beside another, on the same test rows of the same subjects."""

import numpy as np
from scipy import stats

from engram.measures import inference

DIGITS = 12  # shares of pictures are compared to; what rounding makes differ is a tie
LEVEL = 0.05


def pairing(this, other, shared, margin=None) -> dict:
    """The gain in top-1 over another experiment, by subject, and three tests of it.

    Args:
        this, other: float frames (subjects, pictures) of the share of seeds that found a
            picture, with the same index and columns.
        shared: whether models of subjects were trained on each other's data.
        margin: see `inference.claims`.

    Returns:
        gain: mean over subjects; interval and p: of it, subjects and pictures being random
        (`inference.crossed`); claims: of `inference.claims`; subjects: {subject: gain};
        wilcoxon: of the signed-rank test over subjects; mcnemar: p, {subject: p} of the pictures
        that one alone finds, and the number of subjects that are better and worse at 0.05 after
        Holm.
    """
    gain = this - other
    of_subject = gain.mean(axis=1)
    low, high, p = inference.crossed(gain.to_numpy(), (-1, 1), shared=shared)
    return {
        "gain": float(of_subject.mean()),
        "interval": [low, high],
        "p": p,
        "claims": inference.claims(gain.to_numpy(), margin, shared),
        "wilcoxon": wilcoxon(of_subject.to_numpy()),
        "subjects": {str(subject): float(value) for subject, value in of_subject.items()},
        "mcnemar": _mcnemar_of_subjects(this > 0.5, other > 0.5),
    }


def wilcoxon(differences) -> float:
    """Two-sided p of the signed-rank test; differences of zero are left out.

    Args:
        differences: float (subjects,).

    Returns:
        p; 1 if nothing differs.
    """
    differences = np.round(np.asarray(differences, float), DIGITS)
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def mcnemar(this, other) -> float:
    """Two-sided exact p of the pictures that one experiment finds and the other does not.

    Args:
        this, other: bool (pictures,), whether each was found.

    Returns:
        p of as unequal a split of them by chance; 1 if there is none.
    """
    gained, lost = int((this & ~other).sum()), int((~this & other).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _mcnemar_of_subjects(this, other):
    """Of each subject; a picture counts as found if more than half of the seeds find it."""
    p = {str(s): mcnemar(this.loc[s].to_numpy(), other.loc[s].to_numpy()) for s in this.index}
    significant = inference.holm(list(p.values())) < LEVEL
    up = (this.sum(axis=1) > other.sum(axis=1)).to_numpy()
    return {
        "p": p,
        "better": int((significant & up).sum()),
        "worse": int((significant & ~up).sum()),
    }
