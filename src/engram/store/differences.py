"""In what two headers differ, said in a few words."""

from engram.store.layout import canonical

CODE_VERSION = 1  # nothing that is stored depends on this file

#: What to do about facts that follow from a recording, the causes before what follows from them.
REMEDIES = {
    "sfreq": "set `sfreq` of the dataset or, of series, `tr` of the view: it resamples all alike",
    "channels": "name those that all have in `channels`, or of series in `regions`",
    "missing": "name what any of them lacks in `without` of the view, so that all lack the same",
    "unit": "give all the same unit",
    "frequencies": "set `sfreq` of the dataset, which resamples all recordings alike",
    "times": "set `sfreq` of the dataset, which resamples all recordings alike",
    "frames": "give all rows the same `length`, an option of the view",
}
MOST = 4  # keys that a message names


def said(one, other) -> str | None:
    """The keys in which two headers differ, both values of each, and a remedy; None if in none.

    Facts inside of others are named by their path, `settings.sfreq`; of lists the first values
    that differ, or their lengths and ends.
    """
    found = dict(pairs(one, other))
    if not found:
        return None
    known = list(REMEDIES)
    keys = sorted(found, key=lambda k: known.index(_last(k)) if _last(k) in known else len(known))
    parts = [f"`{key}` ({' and '.join(short(*found[key]))})" for key in keys[:MOST]]
    more = f" and {len(keys) - MOST} more" if len(keys) > MOST else ""
    return f"{', '.join(parts)}{more}; {REMEDIES.get(_last(keys[0]), 'make both alike')}"


def pairs(one, other, path=""):
    """(path of a key, (its value in one, in the other)) of all in which two headers differ."""
    for key in one | other:
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from pairs(a, b, f"{path}{key}.")
        elif canonical(a) != canonical(b):
            yield f"{path}{key}", (a, b)


def _last(key):
    return key.rpartition(".")[2]


def short(a, b) -> list[str]:
    """Two values in few words; of lists the first that differ, or their lengths and ends."""
    if not (isinstance(a, list) and isinstance(b, list)) or len(canonical([a, b])) <= 80:
        return [text if len(text) <= 60 else f"{text[:57]}..." for text in (str(a), str(b))]
    if len(a) == len(b):
        i = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        return [f"{_one(values[i])} at position {i}" for values in (a, b)]
    return [
        f"{len(values)}, {_one(values[0])} to {_one(values[-1])}" if values else "none"
        for values in (a, b)
    ]


def _one(value):
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]
