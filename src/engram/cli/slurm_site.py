"""What SLURM says of a site: its partitions, and what it lets one user do there."""

import getpass
import re
import shutil
import subprocess
from dataclasses import dataclass
from math import inf

from engram.errors import InputError
from engram.planning.clusters import minutes

#: States of nodes that start no jobs for now.
AWAY = ("down", "drain", "drng", "fail", "inval", "unk", "maint", "power_down")

#: What a job cannot do without, of the minutes that an account is given.
NEEDED = ("cpu", "mem", "node", "billing")


@dataclass
class Partition:
    """What the largest node of a partition has; memory in MB, time in minutes."""

    name: str
    default: bool
    minutes: float
    threads: int = 0
    memory: int = 0
    gpus: int = 0
    nodes: int = 0
    away: int = 0
    refused: str = ""  # why it takes no jobs of the user

    @property
    def usable(self) -> bool:
        return bool(self.threads) and not self.refused

    def limits(self) -> dict:
        """Its limits as Snakemake's SLURM plugin reads them."""
        limits = {"max_threads": self.threads, "max_mem_mb": self.memory, "max_gpu": self.gpus}
        return limits | ({} if self.minutes == inf else {"max_runtime": self.minutes})


@dataclass
class Site:
    """What SLURM says of a site, and of a user there."""

    name: str
    version: str
    accounting: bool
    remembered: int  # seconds for which the controller knows of a job that ended
    partitions: dict[str, Partition]
    account: str | None = None
    others: tuple[str, ...] = ()  # accounts that the user has, too
    jobs: float = inf  # that the user may have at a time, waiting ones among them


def ask(*command) -> str:
    """What a command of SLURM prints.

    Raises:
        InputError: there is no such command here, or it fails.
    """
    if not shutil.which(command[0]):
        raise InputError(f"{command[0]}: no such command; run this on a login node of the cluster")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        why = "; ".join(line.removeprefix(f"{command[0]}: error: ") for line in lines[-2:])
        raise InputError(f"{' '.join(command)}: failed: {why}")
    return done.stdout


def site(account=None, ask=ask) -> Site:
    """Ask SLURM what the site has and what it lets the user do.

    Args:
        account: to submit under; by default that which SLURM takes by default.
        ask: runs a command and returns what it prints, or raises `InputError`.

    Raises:
        InputError: no SLURM; no account, an unknown one, or one that starts no jobs.
    """
    config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", ask("scontrol", "show", "config"), re.M))
    stored = config.get("AccountingStorageType", "").removeprefix("accounting_storage/")
    found = Site(
        name=config.get("ClusterName", "a cluster"),
        version=config.get("SLURM_VERSION", ""),
        accounting=stored not in ("", "none", "(null)") and _answers(ask, "sacct", "-X", "-n"),
        remembered=int(re.match(r"\d*", config.get("MinJobAge", "")).group() or 300),
        partitions={},
        account=account,
    )
    described = ask("scontrol", "show", "partition", "-o")
    nodes = ask("sinfo", "-N", "-h", "-o", "%P|%N|%c|%m|%G|%T")
    found.partitions = read_partitions(described, nodes)
    if found.accounting:
        needed = "associations" in config.get("AccountingStorageEnforce", "")
        _limit(found, ask, needed, described)
    for one in found.partitions.values():
        if one.usable:
            one.refused = _refusal(ask, one, found.account)
    return found


def _answers(ask, *command):
    """What a command prints, true though it be nothing; None if it fails."""
    try:
        return ask(*command) or "\n"
    except InputError:
        return None


# ---- partitions and their nodes -------------------------------------------------------


def read_partitions(partitions, nodes) -> dict[str, Partition]:
    """Partitions that take jobs, from `scontrol show partition -o` and lines of nodes."""
    found, most = {}, {}
    for facts in _facts(partitions):
        if facts.get("State") == "UP":
            name = facts["PartitionName"]
            found[name] = Partition(name, facts.get("Default") == "YES", minutes(facts["MaxTime"]))
            most[name] = [_number(facts.get(f"Max{what}PerNode")) for what in ("Mem", "CPUs")]
    for line in nodes.splitlines():
        name, _, cores, memory, gres, state = line.strip().split("|")
        one = found.get(name.rstrip("*"))
        if one is None:
            continue
        one.nodes += 1
        if state.lower().strip("*~#!%$@^-").startswith(AWAY):
            one.away += 1
            continue
        has = [min(of_node, limit) for of_node, limit in
               zip((_number(memory), _number(cores)), most[one.name], strict=True)]  # fmt: skip
        # All of one node: no other need have its memory and the cores of another.
        largest = max((bool(one.gpus), one.memory, one.threads, one.gpus),
                      (bool(_gpus(gres)), *has, _gpus(gres)))  # fmt: skip
        _, one.memory, one.threads, one.gpus = largest
    return found


def _facts(printed):
    """The `key=value` of each line that `scontrol -o` prints."""
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in printed.splitlines()]


def _number(text):
    """A leading number; without one, as in UNLIMITED, no limit."""
    digits = re.match(r"\d+", text or "")
    return int(digits.group()) if digits else inf


def _gpus(gres):
    """GPUs in `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    counts = re.findall(r"(?:^|,)gpu(?::[^:,(]+)??(?::(\d+))?(?=\(|,|$)", gres)
    return sum(int(count or 1) for count in counts)


def _refusal(ask, partition, account):
    """Why SLURM refuses a job of a minute, one with a GPU where there are some; else nothing."""
    job = ["sbatch", "--test-only", "-n1", "-t1", "--mem=100", "-p", partition.name]
    job += ["-A", account] if account else []
    job += ["--gpus=1"] if partition.gpus else []
    try:
        ask(*job, "--wrap", "true")
        return ""
    except InputError as error:
        return str(error).rpartition("failed: ")[2]


# ---- accounts and their limits --------------------------------------------------------


def _limit(found, ask, needed, described):
    """Choose the account; take the limits of it and its QOS on time and on jobs."""
    quality = _choose_account(found, ask, needed)
    records = _records(ask, found.account)
    for record in records:
        _check_left(record)
    chain = {record["Account"] for record in records} | {found.account}
    walls, jobs = [_wall(record.get("MaxWallPJ")) for record in records], [found.jobs]
    jobs += [_number(record.get(what)) for record in records
             for what in ("MaxSubmitJobs", "GrpSubmitJobs")]  # fmt: skip
    listed = _answers(ask, "sacctmgr", "-n", "-P", "show", "qos", "format=Name,MaxWall,MaxSubmitPU")
    qualities = dict(line.split("|", 1) for line in (listed or "").split())
    for facts in _facts(described):
        one = found.partitions.get(facts.get("PartitionName"))
        if one is None:
            continue
        one.refused = _barred(facts, chain - {None}, quality)
        both = [qualities.get(name, "|").split("|") for name in (quality, facts.get("QoS"))]
        one.minutes = min(one.minutes, *walls, *(_wall(wall) for wall, _ in both))
        jobs += [_number(most) for _, most in both if one.usable]
    found.jobs = min(jobs)


def _choose_account(found, ask, needed):
    """Set the account of a site; returns the QOS that its jobs have."""
    command = ("sacctmgr", "-n", "-P", "show", "user", getpass.getuser(), "withassoc")
    columns = "format=DefaultAccount,Account,DefaultQOS,QOS"
    listed = _answers(ask, *command, f"cluster={found.name.lower()}", columns)
    rows = [line.split("|") for line in (listed or "").split()]
    qualities = {account: first or (every if "," not in every else "normal")
                 for _, account, first, every in rows if account}  # fmt: skip
    known = sorted(qualities)
    if found.account and known and found.account not in known:
        raise InputError(
            f"--account {found.account}: SLURM knows none of that name of yours; it knows "
            + ", ".join(known)
        )
    if not found.account and known:
        default = rows[0][0]
        if default not in known and len(known) > 1 and needed:
            raise InputError(
                f"SLURM knows several accounts of yours, {', '.join(known)}: name one with "
                "--account"
            )
        found.account = default if default in known else known[0] if len(known) == 1 else None
    if not found.account and listed and needed:
        raise InputError(
            f"SLURM knows no account of {getpass.getuser()} on {found.name} and takes no job "
            "without one; ask those who run the cluster"
        )
    found.others = tuple(name for name in known if name != found.account)
    return qualities.get(found.account, "")


def _records(ask, account):
    """What SLURM keeps of the user in an account, of the account and of those above it."""
    found, user = [], getpass.getuser()
    while account:
        only = (f"accounts={account}", f"users={user}", "flags=assoc")
        printed = _answers(ask, "scontrol", "-o", "show", "assoc_mgr", *only) or ""
        of_account = [
            facts
            for facts in _facts(printed)
            if facts.get("Account") == account and not facts.get("Partition")
        ]
        # The user's own limits in accounts above do not count.
        found += [facts for facts in of_account if not (found and facts.get("UserName"))]
        above = [facts["ParentAccount"] for facts in of_account if facts.get("ParentAccount")]
        account = above[0].partition("(")[0] if above else None
    return found


def _check_left(record):
    """Refuse an account of which SLURM starts no job: it only lets them wait."""
    given = re.findall(r"([\w/:]+)=(\d+)\((\d+)\)", record.get("GrpTRESMins", ""))
    spent = [f"{limit} minutes of {what}" for what, limit, used in given
             if what in NEEDED and int(used) >= int(limit)]  # fmt: skip
    if spent:
        raise InputError(
            f"account {record['Account']} has used up its {', '.join(spent)}, and SLURM starts no "
            "job of it; name another with --account, or ask those who run the cluster"
        )
    if 0 in (_number(record.get("GrpJobs")), _number(record.get("MaxJobs"))):
        raise InputError(
            f"account {record['Account']} may run no jobs; name another with --account, or ask "
            "those who run the cluster"
        )


def _wall(text):
    return minutes(text) if text else inf


def _barred(facts, accounts, quality):
    """Why a partition takes no jobs of these accounts, or of a QOS; SLURM lets such jobs wait."""
    for what, mine in (("Accounts", accounts), ("Qos", {quality} - {""})):
        allowed = facts.get(f"Allow{what}", "ALL").split(",")
        if mine and allowed != ["ALL"] and not mine & set(allowed):
            return f"for jobs of {what.lower()} {', '.join(allowed)} alone"
        if mine & set(facts.get(f"Deny{what}", "").split(",")):
            return f"not for jobs of {what.lower()} {', '.join(mine)}"
    return ""
