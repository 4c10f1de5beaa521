"""A profile for a cluster that SLURM runs: what the site has is asked of SLURM, and written down.

Accounting decides how the state of jobs is asked, partitions and their nodes what jobs may ask for.
"""

from math import inf
from pathlib import Path

from engram.cli.slurm_site import Partition, ask, site
from engram.disk import replaced
from engram.errors import InputError

PROFILE, PARTITIONS = "profile.v9+.yaml", "partitions.yaml"

#: Seconds for which the controller has to remember a finished job: the plugin asks every 180.
REMEMBERED = 200

#: Groups of jobs that are batched, and the minutes of one job: a batch asks for their sum.
BATCHED = {"render": 60, "extract_cpu": 240, "extract_gpu": 240}

#: Jobs that are submitted at a time, at most.
JOBS = 100

#: Minutes that a job on CPUs asks for at most, apart from pretraining.
LONGEST = 720

PROFILE_TEXT = """\
# snakemake --workflow-profile {folder}
# Written by `engram cluster` for {name}; yours to edit. It replaces profiles/default.
# Needs the plugin: pip install snakemake-executor-plugin-slurm

rerun-triggers: [mtime, params, input, software-env]
rerun-incomplete: true
show-failed-logs: true

executor: slurm
jobs: {jobs}
latency-wait: 60
keep-going: true
retries: 2  # a job killed for memory asks for more each time

{status}
slurm-partition-config: {partitions}

# What a node has. Threads and memory are never asked beyond it.
max-threads: {threads}
resources: [{resources}]  # connections: files at a time from publishers

# Jobs of one rule that are submitted as one job, and run in it one after another.
group-components: [{batches}]
default-resources: [{defaults}]
set-resource-scopes: [batch=local]
"""

STATUS = """\
slurm-status-command: {}
# Where SLURM does not answer, it is asked again for ten minutes.
max-status-checks-per-second: 0.1
slurm-status-attempts: 60"""


# ---- the profile ----------------------------------------------------------------------


def write_profile(folder, account=None, partitions=(), batch=10, force=False, ask=ask) -> list[str]:
    """Write a profile for the site that this machine is part of.

    Args:
        folder: where `profile.v9+.yaml` and `partitions.yaml` are written.
        account: to submit under; by default that which SLURM takes by default.
        partitions: names of those to use; by default the default one, if it has no GPUs all that
            have, and where it ends jobs too early for some, all that give them more time.
        batch: how many jobs of one rule are submitted as one.
        force: overwrite files that are there.

    Returns:
        Lines that say what was found.

    Raises:
        InputError: no SLURM, an unknown or unusable partition, no account of which jobs start, or
            files in the way.
    """
    folder = Path(folder)
    there = [file for file in (folder / PROFILE, folder / PARTITIONS) if file.exists()]
    if there and not force:
        raise InputError(f"{there[0]}: is there already; --force overwrites it")
    if batch < 1:
        raise InputError(f"--batch {batch}: has to be 1 or more")
    found = site(account, ask)
    used = chosen(found, partitions)
    profile = profile_text(folder, found, used, batch)
    for name, text in ((PARTITIONS, partitions_text(used)), (PROFILE, profile)):
        with replaced(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return _said(found, used)


def chosen(found, names) -> list[Partition]:
    """The partitions to use: those named, or the default one and what it lacks.

    Raises:
        InputError: none, an unknown one, or one that takes no jobs of the user or starts none.
    """
    known = found.partitions
    for name in names:
        if name not in known:
            raise InputError(f"--partition {name}: SLURM has none of that name that takes jobs; "
                             f"it has {', '.join(known) or 'none at all'}")  # fmt: skip
        if not known[name].usable:
            raise InputError(f"--partition {name}: {_unusable(known[name])}")
    if names:
        return [known[name] for name in dict.fromkeys(names)]
    usable = [one for one in known.values() if one.usable]
    if not usable:
        whys = {}
        for one in known.values():
            whys.setdefault(_unusable(one), []).append(one.name)
        said = "; ".join(f"{', '.join(names)}: {why}" for why, names in whys.items())
        raise InputError(f"no partition starts jobs of yours now; {said or 'there is none'}")
    default = [one for one in usable if one.default]
    if not default:
        return usable
    lacks_gpus, lacks_time = not default[0].gpus, default[0].minutes < LONGEST
    return [one for one in usable
            if one.default or (one.gpus and lacks_gpus)
            or (not one.gpus and lacks_time and one.minutes > default[0].minutes)]  # fmt: skip


def _unusable(one):
    return one.refused or "none of its nodes starts jobs now; see sinfo"


def partitions_text(used) -> str:
    head = "# What a job may ask of each partition: of its largest node, at most.\npartitions:\n"
    entries = []
    for one in used:
        limits = ", ".join(f"{key}: {value}" for key, value in one.limits().items())
        entries.append(f'  "{one.name}": {{{limits}}}\n')
    return head + "".join(entries)


def profile_text(folder, found, used, batch) -> str:
    # What suits the largest node of partitions with GPUs suits those of jobs without, too.
    kinds = [[one for one in used if bool(one.gpus) == with_gpus] for with_gpus in (False, True)]
    kinds = [kind for kind in kinds if kind]
    threads = min(max(one.threads for one in kind) for kind in kinds)
    memory = min(max(one.memory for one in kind) for kind in kinds)
    gpus = max(one.gpus for one in used)
    longest = min(max(one.minutes for one in kind) for kind in kinds)
    resources = ["connections=2", "batch=1", f"mem_mb={memory}", *([] if gpus else ["gpu=0"])]
    sizes = {group: max(1, int(min(batch, longest / asks))) for group, asks in BATCHED.items()}
    return PROFILE_TEXT.format(
        folder=folder,
        name=f"{found.name}, SLURM {found.version}",
        jobs=min(JOBS, found.jobs),
        status=_status(found),
        partitions=PARTITIONS,
        threads=threads,
        resources=", ".join(resources),
        batches=", ".join(f"{group}={size}" for group, size in sizes.items()),
        defaults="batch=1" + (f", slurm_account={found.account}" if found.account else ""),
    )


def _status(found):
    if found.accounting:
        # Of a job that scancel ended, sacct says `CANCELLED by 1000`, which the plugin (2.8) takes
        # for one that runs.
        return STATUS.format("squeue" if found.remembered >= REMEMBERED else "sacct")
    # The plugin asks sacct all the same where the first look comes too late.
    first = max(1, min(40, found.remembered // 3))
    return (
        "slurm-status-command: squeue  # accounting is off: sacct says of no job that it ended\n"
        f"slurm-init-seconds-before-status-checks: {first}"
    )


def _said(found, used):
    on = "on" if found.accounting else "off"
    lines = [
        f"{found.name}, SLURM {found.version}; accounting {on}; account: {found.account or 'none'}"
    ]
    if found.others:
        lines.append(f"other accounts, for --account: {', '.join(found.others)}")
    if found.jobs < JOBS:
        lines.append(f"jobs at a time: {found.jobs}, as SLURM takes no more of yours")
    for one in found.partitions.values():
        limit = "no limit" if one.minutes == inf else f"{one.minutes / 60:g} h"
        away = f", {one.away} of {one.nodes} nodes away" if one.away else ""
        refused = f": {one.refused}" if one.refused else ""
        has = f"{one.threads} threads, {one.memory} MB, {one.gpus} GPUs, {limit}{away}{refused}"
        lines.append(f"{'uses' if one in used else '    '}  {one.name}: {has}")
    if not any(one.gpus for one in used):
        lines.append("no GPUs: jobs that would use one run on CPUs")
    if found.remembered < REMEMBERED:
        waits = "cancelled" if found.accounting else "finished"
        lines.append(
            f"warning: SLURM forgets finished jobs after {found.remembered} s (MinJobAge), and a "
            f"run may wait for {waits} ones for ever; ask for {REMEMBERED} or more"
        )
    if not found.accounting:
        lines.append(
            "warning: without accounting a run loses sight of its jobs where SLURM does not answer "
            "for some 10 s: if it says `Falling back to 'sacct'`, end it, wait for its jobs, and "
            "start it again"
        )
    return lines
