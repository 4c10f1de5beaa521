"""Whether features still tell rows apart, which the loss of self-distillation does not say."""

import torch


def spread(features) -> float:
    """Standard deviation over rows of features (n, d), mean over the d."""
    return float(features.double().std(0, correction=0).mean())


def effective_rank(features) -> float:
    """Number of directions in which features (n, d) differ, 1 to min(n - 1, d).

    The exponential of the entropy of the shares that singular values of the centred features have
    in their sum (Roy & Vetterli 2007); 0 where all rows are equal.
    """
    values = features.double()
    singular = torch.linalg.svdvals(values - values.mean(0))
    if not float(singular.sum()) > 0:
        return 0.0
    shares = singular / singular.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))
