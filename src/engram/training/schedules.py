"""What changes from step to step: learning rate, weight decay, the share of an average."""

import math


def cosine(n, total, first, last) -> float:
    """Half a cosine from `first` at n = 0 to `last` at n = `total`, and `last` beyond."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(n / max(total, 1), 1.0)))


def warm_cosine(n, total, warmup, start, base, final) -> float:
    """A line from `start` at n = 0 to `base` at n = `warmup`, then half a cosine to `final`.

    Args:
        n: number of the step; counted from 0 as Brain-Semantoks does the rate begins with `start`,
            counted from 1 as I-JEPA and Brain-JEPA do it ends with `final`.
        total: number of steps.
        warmup: steps that warm up, below `total`; 0 = none.
        start, base, final: at the beginning, at the peak, at n = `total`.
    """
    if n < warmup:
        return start + (base - start) * n / warmup
    return cosine(n - warmup, total - warmup, base, final)
