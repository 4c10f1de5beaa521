"""The `evaluation` part of the configuration."""

import dataclasses
from dataclasses import dataclass, field

from engram.errors import InputError

SEED = 0  # of every resampling, so that a score is the same whenever it is computed


@dataclass(frozen=True)
class Settings:
    """The `evaluation` part of the configuration.

    Attributes:
        permutations: shifted label series for a p.
        confidence: of the intervals.
        margin: gains over a baseline that are no larger count as none, in units of the first
            metric, e.g. 0.05: what is gained is then tested for lying within; null claims nothing.
        probes: whether to ask what else the inputs know (subject, time, copies), and what is left
            of them without.
        confounds: columns that the dataset carries which could explain the label.
    """

    permutations: int = 1000
    confidence: float = 0.95
    probes: bool = True
    margin: float | None = None
    confounds: list[str] = field(default_factory=list)


def settings(given) -> Settings:
    """Settings of a dict.

    Raises:
        InputError: a key is unknown, or the margin is not above 0.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"evaluation.{unknown[0]}: unknown key; there is {', '.join(known)}")
    found = Settings(**given)
    if found.margin is not None and not found.margin > 0:
        raise InputError(
            f"evaluation.margin: {found.margin:g} is no margin; it is above 0, or null"
        )
    return found
