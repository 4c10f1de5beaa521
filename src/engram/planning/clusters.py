"""What jobs ask of a cluster's partitions, and what can never start there.

Partitions are those of the file that `engram cluster` writes beside a profile, in the format of
Snakemake's SLURM plugin, which sends each job to the partition that fits it best.
"""

import re
from dataclasses import dataclass
from math import inf

from engram.errors import InputError
from engram.planning import config_files

#: What a job asks for: its resource, the limit of a partition on it, how a message says a number.
LIMITS = {
    "gpu": ("max_gpu", "{} GPU"),
    "threads": ("max_threads", "{} threads"),
    "mem_mb": ("max_mem_mb", "{} MB of memory"),
    "runtime": ("max_runtime", "{} minutes"),
}

#: Minutes of a unit of SLURM's time limits.
MINUTES = {"d": 1440, "h": 60, "m": 1}


@dataclass(frozen=True)
class Ask:
    """What a job asks for: GPUs, threads, megabytes, and minutes, in a batch those of all."""

    rule: str
    gpu: int
    threads: int
    mem_mb: int
    runtime: int
    batch: str = ""  # the group of jobs that are submitted as one


def read_partitions(file) -> dict[str, dict]:
    """The limits of each partition: `max_gpu`, `max_threads`, `max_mem_mb`, `max_runtime`.

    Raises:
        InputError: the file is no YAML, or one of its limits is none.
    """
    try:
        found = config_files.load(file)["partitions"]
        return {name: _limits(one or {}) for name, one in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{file}: holds no partitions with limits that are numbers, or times such as 12h; "
            "correct it, or write it anew: engram cluster --force"
        ) from None


def _limits(one):
    limits = {limit: one.get(limit, 0 if what == "gpu" else inf)
              for what, (limit, _) in LIMITS.items()}  # fmt: skip
    limits["max_runtime"] = minutes(limits["max_runtime"])
    if odd := [value for value in limits.values() if not isinstance(value, int | float)]:
        raise ValueError(odd[0])
    return limits


def minutes(limit) -> float:
    """A time limit in minutes: a number, SLURM's `1-12:30:00`, `UNLIMITED`, or `12h`."""
    if not isinstance(limit, str):
        return limit
    if limit.upper() in ("UNLIMITED", "INFINITE", "NONE"):
        return inf
    if parts := re.findall(r"(\d+)\s*([dhm])", limit):
        return sum(int(number) * MINUTES[unit] for number, unit in parts)
    days, _, clock = limit.rpartition("-")
    fields = [int(field) for field in clock.split(":")]
    if days:
        hours, mins, *_ = [*fields, 0, 0]
    else:
        hours, mins, *_ = fields if len(fields) == 3 else [0, *fields]
    return int(days or 0) * 1440 + hours * 60 + mins


def never(asks, partitions, file) -> list[str]:
    """A line for each job that no partition can ever start.

    Args:
        asks: of all jobs; each rule is said once, with the most that it asks.
        partitions: as `read_partitions` gives them.
        file: where they stand, for the message.
    """
    lines = {}
    for ask in sorted(set(asks), key=lambda one: (one.rule, -one.mem_mb, -one.gpu)):
        if ask.rule not in lines and not any(_fits(ask, one) for one in partitions.values()):
            lines[ask.rule] = _line(ask, partitions, file)
    return list(lines.values())


def _fits(ask, limits):
    return all(getattr(ask, what) <= limits[limit] for what, (limit, _) in LIMITS.items())


def _line(ask, partitions, file):
    with_gpus = [one for one in partitions.values() if one["max_gpu"] >= ask.gpu]
    candidates = with_gpus or list(partitions.values())
    most = {limit: max(one[limit] for one in candidates) for limit, _ in LIMITS.values()}
    beyond = [what for what, (limit, _) in LIMITS.items() if getattr(ask, what) > most[limit]]
    where = " that have GPUs" if ask.gpu and with_gpus else ""
    said = beyond or list(LIMITS)
    asked = ", ".join(LIMITS[what][1].format(getattr(ask, what)) for what in said)
    if beyond:
        have = ", ".join(LIMITS[what][1].format(most[LIMITS[what][0]]) for what in beyond)
        has = f"the partitions{where} have at most {have}"
    else:
        has = f"no one partition{where} has all of that"
    advice = " and ".join(_advice(ask, what, most[LIMITS[what][0]]) for what in said)
    return (
        f"rule {ask.rule} can never start: it asks for {asked}, and {has} ({file}); if less is "
        f"enough, write {advice} into the profile, or write one that uses other partitions: "
        "engram cluster --partition"
    )


def _advice(ask, what, most):
    if what == "runtime" and ask.batch:
        return f"group-components: [{ask.batch}=1]"
    if what == "threads":
        return f"set-threads: [{ask.rule}={most}]"
    return f"set-resources: [{ask.rule}:{what}={most}]"
