"""Folds that keep subjects, windows and scans on one side."""

from dataclasses import dataclass

import numpy as np

from engram.errors import InputError

#: Ways to split in which no subject stands on two sides.
GROUPED = ("leave_one_subject_out", "group_kfold")

VALIDATION_SHARE = 0.22  # of what remains without the test rows
TOLERANCE = 1e-6  # seconds; supports that only touch do not overlap


@dataclass(frozen=True)
class Fold:
    """Positions of rows, int arrays that share no row.

    Attributes:
        name: e.g. the subject left out.
        train: rows that parameters and statistics are fitted on.
        validation: rows that choices (epoch, regularisation, input) are made on.
        test: rows that are predicted once.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Rows that train or validate, ascending: all that may be known of the fold."""
        return np.sort(np.concatenate([self.train, self.validation]))


def make(table, y, how, *, seed) -> list[Fold]:
    """Folds that test every row once, each with an inner validation set.

    - "leave_one_subject_out": one fold a subject; about a fifth of the other subjects
      validate, chosen so that validation and training hold every class if any choice does.
    - "group_kfold": the same with n groups of subjects; subjects that hold the same classes
      are dealt out evenly.
    - "blocked": each scan is cut into n blocks of consecutive windows; one tests, one
      validates. Rows whose support [start, stop] overlaps that of a test row of the same
      scan are dropped, as are training rows that overlap a validation row.
    - "random_windows": windows drawn without regard to scan or time. It leaks.

    Where the table has a column `split`, published with the data, only its "test" rows test,
    and only its "train" rows train and validate.

    Args:
        table: n rows with columns subject, scan, window, start, stop (s).
        y: int array (n,), class of each row.
        how: a name above, or {"kind": name, "n": number of folds (5)}.
        seed: of every draw; the same rows and seed give the same folds.

    Raises:
        InputError: too few subjects, folds or rows for the way to split.
    """
    kind, n = _parsed(how)
    if kind in GROUPED:
        folds = _grouped(table, np.asarray(y), kind, n, seed)
    else:
        folds = _blocked(table, n) if kind == "blocked" else _random(len(table), n, seed)
    return _as_published(folds, table)


def check(folds, table, y, how, classes=None):
    """Refuse folds that leak, skip rows or cannot be trained on.

    Args:
        folds: list of Fold.
        table, y, how: as for `make`.
        classes: names of the classes, for messages.

    Raises:
        InputError: two sides of a fold share a row, a subject (grouped ways) or seconds of
            a scan (blocked); a row is tested twice or never; a side is empty; the training
            rows lack a class.
    """
    kind, _ = _parsed(how)
    y = np.asarray(y)
    for fold in folds:
        sides = {"train": fold.train, "validation": fold.validation, "test": fold.test}
        for name, rows in sides.items():
            if not len(rows):
                raise InputError(f"fold {fold.name}: no {name} rows; use fewer folds or more data")
        for one, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
            shared = _shared(table, sides[one], sides[other], kind)
            if shared:
                raise InputError(f"fold {fold.name}: {shared} in both {one} and {other}")
        missing = np.setdiff1d(y, y[fold.train])
        if len(missing):
            raise InputError(
                f"fold {fold.name}: no training row of class "
                f"{classes[missing[0]] if classes else missing[0]}; too few subjects have it: "
                "add subjects, or test on time blocks (folds: {kind: blocked})"
            )
    times = np.bincount(np.concatenate([fold.test for fold in folds]), minlength=len(table))
    expected = _published(table, "test").astype(int)
    if (times != expected).any():
        row = int(np.flatnonzero(times != expected)[0])
        raise InputError(
            f"row {table.index[row]} is tested {times[row]} times, expected {expected[row]}"
        )


def circular_shift(y, table, rng) -> np.ndarray:
    """Labels moved away from their rows while their dependence in time is kept.

    Within each scan the series of labels, in the order of its windows, is shifted
    circularly by a random amount, at least a tenth of its length. A shift cannot move
    labels that are constant over their scan: these are permuted across those scans, or, where
    they are constant over their subject, across those subjects, whose scans stay alike.

    Args:
        y: array (n,), int, or float where labels are numbers.
        table: n rows with columns subject, scan, window.
        rng: numpy Generator.

    Returns:
        array (n,), of the dtype of y; each scan that varies keeps its counts.
    """
    y = np.asarray(y)
    moved, of_scan, whole = y.copy(), [], np.zeros(len(y), bool)
    of_subject = [at for at in table.groupby("subject").indices.values() if _constant(y[at])]
    for at in of_subject:
        whole[at] = True
    for rows in _scans(table):
        if not _constant(y[rows]):
            least = max(1, len(rows) // 10)
            moved[rows] = np.roll(y[rows], rng.integers(least, len(rows) - least + 1))
        elif not whole[rows[0]]:
            of_scan.append(rows)
    for blocks in (of_scan, of_subject):
        values = rng.permutation([y[at[0]] for at in blocks])
        for at, value in zip(blocks, values, strict=True):
            moved[at] = value
    return moved


def control(y, table, rng) -> np.ndarray:
    """Labels moved away from their rows that say as little about the true ones as they can.

    A random shift of a slow series often agrees with it by accident, and a head that learns
    it then scores above chance. Here each scan takes the shift, of those that
    `circular_shift` allows, whose labels agree with the true ones just as often as labels
    without any relation would; ties are drawn. Labels that are constant over their scan or
    subject are permuted as there.

    Args:
        y, table, rng: as for `circular_shift`.

    Returns:
        int array (n,); each scan that varies keeps its counts.
    """
    y = np.asarray(y)
    moved = circular_shift(y, table, rng)
    for rows in _scans(table):
        series = y[rows]
        if _constant(series):
            continue
        least = max(1, len(rows) // 10)
        shifts = rng.permutation(np.arange(least, len(rows) - least + 1))
        counts = np.bincount(series)
        chance = (counts**2).sum() / len(rows)
        agreeing = [(np.roll(series, shift) == series).sum() for shift in shifts]
        moved[rows] = np.roll(series, shifts[np.argmin(np.abs(agreeing - chance))])
    return moved


def _published(table, part):
    """Whether each row may stand in a part of the published split, bool (n,)."""
    if "split" not in table:
        return np.ones(len(table), bool)
    return (table["split"] == part).to_numpy()


def _as_published(folds, table):
    """The folds without rows that the published split puts on the other side."""
    if "split" not in table:
        return folds
    train, test = _published(table, "train"), _published(table, "test")
    if not test.any():
        raise InputError("no row of the published split is for testing: `split` is never 'test'")
    kept = []
    for fold in folds:
        sides = (fold.train, train), (fold.validation, train), (fold.test, test)
        kept.append(Fold(fold.name, *(rows[may[rows]] for rows, may in sides)))
    return [fold for fold in kept if len(fold.test)]


# ---- ways to split ------------------------------------------------------------------


def _grouped(table, y, kind, n, seed):
    subjects, of_row = np.unique(table["subject"].to_numpy(dtype=str), return_inverse=True)
    if len(subjects) < 3:
        raise InputError(
            f"{len(subjects)} subjects with usable rows: leaving subjects out needs at least 3 "
            "(to train, to validate, to test); add subjects, or test on new time blocks of "
            "known subjects (folds: {kind: blocked})"
        )
    holds = np.zeros((len(subjects), y.max() + 1), bool)
    holds[of_row, y] = True
    rng = np.random.default_rng(seed)
    if kind == "leave_one_subject_out":
        groups, names = [[i] for i in range(len(subjects))], list(subjects)
    elif n > len(subjects):
        raise InputError(f"{n} folds, but {len(subjects)} subjects; set folds.n to at most that")
    else:
        order = rng.permutation(len(subjects))
        alike = np.unique(holds, axis=0, return_inverse=True)[1].ravel()
        order = order[np.argsort(alike[order], kind="stable")]
        groups, names = [order[i::n] for i in range(n)], [f"fold-{i + 1}" for i in range(n)]
    folds = []
    for name, test in zip(names, groups, strict=True):
        others = np.setdiff1d(np.arange(len(subjects)), test)
        inner = _validation_subjects(others, holds, rng)
        sides = (np.setdiff1d(others, inner), inner, test)
        folds.append(Fold(name, *(np.flatnonzero(np.isin(of_row, side)) for side in sides)))
    return folds


def _validation_subjects(subjects, holds, rng):
    """About a fifth of `subjects`, with every class, that leave every class to training.

    Subjects are drawn at random; those that hold more classes come first.

    Args:
        subjects: int array, those that do not test.
        holds: bool (all subjects, classes).
        rng: numpy Generator.
    """
    drawn = rng.permutation(subjects)
    drawn = drawn[np.argsort(-holds[drawn].sum(1), kind="stable")]
    wanted = max(1, round(VALIDATION_SHARE * len(subjects)))
    chosen = []

    def spare(subject):
        rest = np.setdiff1d(subjects, [*chosen, subject])
        return subject not in chosen and (holds[rest].any(0) >= holds[subjects].any(0)).all()

    for label in np.argsort(holds[subjects].sum(0), kind="stable"):
        having = [s for s in drawn if holds[s, label] and spare(s)]
        if having and not holds[chosen, label].any():
            chosen.append(having[0])
    for subject in drawn:
        if len(chosen) < wanted and spare(subject):
            chosen.append(subject)
    return np.array(chosen, int)


def _blocked(table, n):
    if n < 3:
        raise InputError("folds.n: blocks need at least 3 (to train, to validate, to test)")
    block = np.empty(len(table), int)
    for rows in _scans(table):
        for i, part in enumerate(np.array_split(rows, n)):
            block[part] = i
    folds = []
    for i in range(n):
        inner = (i + n // 2) % n  # far from the test block: purging costs the fewest rows
        test = np.flatnonzero(block == i)
        validation = purged(table, np.flatnonzero(block == inner), test)
        train = np.flatnonzero((block != i) & (block != inner))
        train = purged(table, purged(table, train, test), validation)
        folds.append(Fold(f"block-{i + 1}", train, validation, test))
    return folds


def _random(rows, n, seed):
    rng = np.random.default_rng(seed)
    folds = []
    for i, test in enumerate(np.array_split(rng.permutation(rows), n)):
        others = rng.permutation(np.setdiff1d(np.arange(rows), test))
        k = max(1, round(VALIDATION_SHARE * len(others)))
        sides = (others[k:], others[:k], test)
        folds.append(Fold(f"random-{i + 1}", *map(np.sort, sides)))
    return folds


# ---- small ----------------------------------------------------------------------------


def _parsed(how):
    kind, n = (how["kind"], how.get("n", 5)) if isinstance(how, dict) else (how, 5)
    known = (*GROUPED, "blocked", "random_windows")
    if kind not in known:
        raise InputError(f"folds: no way to split {kind!r}; there is {', '.join(known)}")
    if n < 2:
        raise InputError(f"folds.n: {n} folds; needs at least 2")
    return kind, n


def _scans(table):
    """Rows of each scan, in the order of its windows; scans sorted by name."""
    scan = table.groupby(["subject", "scan"], sort=True).ngroup().to_numpy()
    order = np.lexsort((table["window"].to_numpy(), scan))
    return np.split(order, np.flatnonzero(np.diff(scan[order])) + 1) if len(order) else []


def _constant(series):
    return bool((series == series[0]).all())


def _overlapping(table, rows, others):
    """Which of `rows` share seconds of support with any of `others`, bool (len(rows),)."""
    scan = table.groupby(["subject", "scan"]).ngroup().to_numpy()
    start, stop = table["start"].to_numpy(float), table["stop"].to_numpy(float)
    shares = np.zeros(len(rows), bool)
    for one in np.unique(scan[others]):
        there = others[scan[others] == one]
        there = there[np.argsort(start[there], kind="stable")]
        here = np.flatnonzero(scan[rows] == one)
        before = np.searchsorted(start[there], stop[rows[here]] - TOLERANCE)
        reach = np.concatenate([[-np.inf], np.maximum.accumulate(stop[there])])
        shares[here] = reach[before] > start[rows[here]] + TOLERANCE
    return shares


def purged(table, rows, others) -> np.ndarray:
    """Those of `rows` that share no second of a scan with any of `others`."""
    return rows[~_overlapping(table, rows, others)]


def _shared(table, one, other, kind):
    """What two sides of a fold share and must not, in words, or ""."""
    rows = np.intersect1d(one, other)
    if len(rows):
        return f"row {table.index[rows[0]]}"
    subject = table["subject"].to_numpy(dtype=str)
    subjects = np.intersect1d(subject[one], subject[other])
    if kind in GROUPED and len(subjects):
        return f"subject {subjects[0]}"
    overlapping = one[_overlapping(table, one, other)] if kind == "blocked" else []
    if len(overlapping):
        return f"seconds of row {table.index[overlapping[0]]}"
    return ""
