"""A profile for a cluster that SLURM runs: what the site has is asked of SLURM, and written down.

Accounting decides how the state of jobs is asked, partitions and their nodes what jobs may ask for.
"""

import getpass
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from engram.disk import replaced
from engram.errors import InputError
from engram.planning.clusters import minutes

PROFILE, PARTITIONS = "profile.v9+.yaml", "partitions.yaml"

#: States of nodes that start no jobs for now.
AWAY = ("down", "drain", "drng", "fail", "inval", "unk", "maint", "power_down")

#: Seconds for which the controller has to remember a finished job: the plugin asks every 180.
REMEMBERED = 180

#: Groups of jobs that are batched, and the minutes of one job: a batch asks for their sum.
BATCHED = {"render": 60, "extract_cpu": 240, "extract_gpu": 240}

PROFILE_TEXT = """\
# snakemake --workflow-profile {folder}
# Written by `engram cluster` for {name}; yours to edit. It replaces profiles/default.
# Needs the plugin: pip install snakemake-executor-plugin-slurm

rerun-triggers: [mtime, params, input, software-env]
rerun-incomplete: true
show-failed-logs: true

executor: slurm
jobs: 100
latency-wait: 60
keep-going: true
retries: 2  # a job killed for memory asks for more each time

{status}
slurm-partition-config: {partitions}
{account}
# What a node has. Threads and memory are never asked beyond it.
max-threads: {threads}
resources: [{resources}]  # connections: files at a time from publishers

# Jobs of one rule that are submitted as one job, and run in it one after another.
group-components: [{batches}]
default-resources: [{defaults}]
set-resource-scopes: [batch=local]
"""


@dataclass
class Partition:
    """What the largest nodes of a partition have; memory in MB, time in minutes."""

    name: str
    default: bool
    minutes: float
    threads: int = 0
    memory: int = 0
    gpus: int = 0
    nodes: int = 0
    away: int = 0
    most_threads: float = float("inf")  # of a node, whatever it has
    most_memory: float = float("inf")

    def limits(self) -> dict:
        """Its limits as Snakemake's SLURM plugin reads them."""
        limits = {"max_threads": self.threads, "max_mem_mb": self.memory, "max_gpu": self.gpus}
        return limits | ({} if self.minutes == float("inf") else {"max_runtime": self.minutes})


@dataclass
class Site:
    """What SLURM says of a site."""

    name: str
    version: str
    accounting: bool
    remembered: int  # seconds
    partitions: dict[str, Partition]
    accounts: list[str] = field(default_factory=list)
    account_needed: bool = False


# ---- asking SLURM ---------------------------------------------------------------------


def ask(*command) -> str:
    """What a command of SLURM prints.

    Raises:
        InputError: there is no such command here, or it fails.
    """
    if not shutil.which(command[0]):
        raise InputError(f"{command[0]}: no such command; run this on a login node of the cluster")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise InputError(f"{' '.join(command)}: failed: {why[-1]}")
    return done.stdout


def site(ask=ask) -> Site:
    """Ask SLURM what the site has.

    Args:
        ask: runs a command and returns what it prints, or raises `InputError`.
    """
    config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", ask("scontrol", "show", "config"), re.M))
    stored = config.get("AccountingStorageType", "").removeprefix("accounting_storage/")
    accounting = stored not in ("", "none", "(null)") and _answers(ask, "sacct", "-X", "-n")
    nodes = ask("sinfo", "-N", "-h", "-o", "%P|%N|%c|%m|%G|%T")
    found = Site(
        name=config.get("ClusterName", "a cluster"),
        version=config.get("SLURM_VERSION", ""),
        accounting=accounting,
        remembered=int(re.match(r"\d*", config.get("MinJobAge", "")).group() or 300),
        partitions=read_partitions(ask("scontrol", "show", "partition", "-o"), nodes),
    )
    if accounting:
        user = f"user={getpass.getuser()}"
        command = ("sacctmgr", "-n", "-P", "show", "assoc", user, "format=Account")
        listed = _answers(ask, *command) or ""
        found.accounts = sorted({line.strip() for line in listed.splitlines() if line.strip()})
        found.account_needed = "associations" in config.get("AccountingStorageEnforce", "")
    return found


def _answers(ask, *command):
    """What a command prints, true though it be nothing; None if it fails."""
    try:
        return ask(*command) or "\n"
    except InputError:
        return None


def read_partitions(partitions, nodes) -> dict[str, Partition]:
    """Partitions that take jobs, from `scontrol show partition -o` and lines of nodes."""
    found = {}
    for line in partitions.splitlines():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if facts.get("State") == "UP":
            name = facts["PartitionName"]
            found[name] = Partition(
                name,
                default=facts.get("Default") == "YES",
                minutes=minutes(facts["MaxTime"]),
                most_threads=_number(facts.get("MaxCPUsPerNode")),
                most_memory=_number(facts.get("MaxMemPerNode")),
            )
    for line in nodes.splitlines():
        name, _, cores, memory, gres, state = line.strip().split("|")
        one = found.get(name.rstrip("*"))
        if one is None:
            continue
        one.nodes += 1
        if state.lower().strip("*~#!%$@^-").startswith(AWAY):
            one.away += 1
            continue
        one.threads = max(one.threads, min(_number(cores), one.most_threads))
        one.memory = max(one.memory, min(_number(memory), one.most_memory))
        one.gpus = max(one.gpus, _gpus(gres))
    return found


def _number(text):
    """A leading number; without one, as in UNLIMITED, no limit."""
    digits = re.match(r"\d+", text or "")
    return int(digits.group()) if digits else float("inf")


def _gpus(gres):
    """GPUs in `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    counts = re.findall(r"(?:^|,)gpu(?::[^:,(]+)??(?::(\d+))?(?=\(|,|$)", gres)
    return sum(int(count or 1) for count in counts)


# ---- the profile ----------------------------------------------------------------------


def write_profile(folder, account=None, partitions=(), batch=10, force=False, ask=ask) -> list[str]:
    """Write a profile for the site that this machine is part of.

    Args:
        folder: where `profile.v9+.yaml` and `partitions.yaml` are written.
        account: to submit under; needed where SLURM asks for one and knows several.
        partitions: names of those to use; by default the default one and, if it has no GPUs, all
            that have.
        batch: how many jobs of one rule are submitted as one.
        force: overwrite files that are there.

    Returns:
        Lines that say what was found.

    Raises:
        InputError: no SLURM, an unknown or unusable partition, no account, or files in the way.
    """
    folder = Path(folder)
    there = [file for file in (folder / PROFILE, folder / PARTITIONS) if file.exists()]
    if there and not force:
        raise InputError(f"{there[0]}: is there already; --force overwrites it")
    if batch < 1:
        raise InputError(f"--batch {batch}: has to be 1 or more")
    found = site(ask)
    used = chosen(found, partitions)
    account = account or _only_account(found)
    profile = profile_text(folder, found, used, account, batch)
    for name, text in ((PARTITIONS, partitions_text(used)), (PROFILE, profile)):
        with replaced(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return _said(found, used, account)


def chosen(found, names) -> list[Partition]:
    """The partitions to use: those named, or the default one and, lacking GPUs, those with some.

    Raises:
        InputError: none, an unknown one, or one without nodes that start jobs.
    """
    known = found.partitions
    for name in names:
        if name not in known:
            raise InputError(f"--partition {name}: SLURM has none of that name that takes jobs; "
                             f"it has {', '.join(known) or 'none at all'}")  # fmt: skip
        if not known[name].threads:
            raise InputError(f"--partition {name}: none of its nodes starts jobs now; see sinfo")
    usable = [one for one in known.values() if one.threads]
    if names:
        return [known[name] for name in dict.fromkeys(names)]
    if not usable:
        raise InputError("no partition has nodes that start jobs now; see sinfo")
    default = [one for one in usable if one.default]
    if not default:
        return usable
    with_gpus = [one for one in usable if one.gpus]
    return default if any(one.gpus for one in default) else [*default, *with_gpus]


def _only_account(found):
    if len(found.accounts) > 1 and found.account_needed:
        raise InputError(
            f"SLURM knows several accounts of yours, {', '.join(found.accounts)}: name one with "
            "--account"
        )
    return found.accounts[0] if len(found.accounts) == 1 else None


def partitions_text(used) -> str:
    head = "# What a job may ask of each partition: of its largest node, at most.\npartitions:\n"
    entries = []
    for one in used:
        limits = ", ".join(f"{key}: {value}" for key, value in one.limits().items())
        entries.append(f'  "{one.name}": {{{limits}}}\n')
    return head + "".join(entries)


def profile_text(folder, found, used, account, batch) -> str:
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
        status=_status(found),
        partitions=PARTITIONS,
        account=""
        if account
        else "# No account: add slurm_account=NAME below where one is needed.\n",
        threads=threads,
        resources=", ".join(resources),
        batches=", ".join(f"{group}={size}" for group, size in sizes.items()),
        defaults=", ".join(["batch=1", *([f"slurm_account={account}"] if account else [])]),
    )


def _status(found):
    if found.accounting:
        return "slurm-status-command: sacct"
    # The plugin asks sacct all the same where the first look comes too late.
    first = max(1, min(40, found.remembered // 3))
    return (
        "slurm-status-command: squeue  # accounting is off: sacct says of no job that it ended\n"
        f"slurm-init-seconds-before-status-checks: {first}"
    )


def _said(found, used, account):
    yes = "accounting on" if found.accounting else "accounting off: jobs are watched by squeue"
    lines = [f"{found.name}, SLURM {found.version}; {yes}; account: {account or 'none'}"]
    for one in found.partitions.values():
        limit = "no limit" if one.minutes == float("inf") else f"{one.minutes / 60:g} h"
        away = f", {one.away} of {one.nodes} nodes away" if one.away else ""
        has = f"{one.threads} threads, {one.memory} MB, {one.gpus} GPUs, {limit}{away}"
        lines.append(f"{'uses' if one in used else '    '}  {one.name}: {has}")
    if not any(one.gpus for one in used):
        lines.append("no GPUs: jobs that would use one run on CPUs")
    if not found.accounting and found.remembered < REMEMBERED:
        lines.append(
            f"warning: SLURM forgets finished jobs after {found.remembered} s (MinJobAge), and a "
            f"run may wait for them for ever; ask for {REMEMBERED} or more, or for accounting"
        )
    return lines
