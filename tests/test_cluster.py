"""The profile of a cluster, against what SLURM said at sites of several kinds."""

import getpass
import re

import pytest
import yaml

from engram import cli
from engram.cli.slurm import write_profile
from engram.errors import InputError
from engram.planning.clusters import Ask, minutes, never, read_partitions

CONFIG = """Configuration data as of 2026-01-05T10:00:00
AccountingStorageEnforce = {enforce}
AccountingStorageType   = accounting_storage/{storage}
ClusterName             = {name}
MinJobAge               = {age} sec
SLURM_VERSION           = {version}
"""
PARTITION = (
    "PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL "
    "Default={default} QoS=N/A DefaultTime=NONE MaxNodes=UNLIMITED MaxTime={time} MinNodes=0 "
    "LLN=NO MaxCPUsPerNode={cpus} Nodes=n[1-4] State={state} TotalCPUs=8 TotalNodes=4 "
    "DefMemPerCPU=500 MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=16000M,node=4,billing=8"
)
RECORD = (  # what `scontrol -o show assoc_mgr` says of a user, or of no user, in an account
    "ClusterName=uni Account={account} UserName={user} Partition= Priority=0 ID=3 "
    "SharesRaw/Norm/Level/Factor=1/0.50/1/0.00 UsageRaw/Norm/Efctv=0.00/1.00/0.00 "
    "ParentAccount={parent} Lft=6 DefAssoc=No GrpJobs={grp_jobs} GrpJobsAccrue=N(0) "
    "GrpSubmitJobs=N(0) GrpWall=N(0.00) GrpTRES=cpu=N(0),mem=N(0),gres/gpu=N(0) "
    "GrpTRESMins={minutes},mem=N(0),gres/gpu=N(0) GrpTRESRunMins=cpu=N(0) MaxJobs= "
    "MaxJobsAccrue= MaxSubmitJobs={submit} MaxWallPJ={wall} MaxTRESPJ= MaxTRESPN= MinPrioThresh="
)


def partition(name, default="NO", time="UNLIMITED", cpus="UNLIMITED", state="UP", accounts="ALL"):
    text = PARTITION.format(name=name, default=default, time=time, cpus=cpus, state=state)
    return text.replace("AllowAccounts=ALL", f"AllowAccounts={accounts}")


def record(account, user="", parent="", grp_jobs="N(0)", minutes="cpu=N(0)", submit="", wall=""):
    return RECORD.format(account=account, user=user and f"{user}(1001)",
                         parent=parent and f"{parent}(1)", grp_jobs=grp_jobs, minutes=minutes,
                         submit=submit, wall=wall)  # fmt: skip


def site(config, partitions, nodes, **more):
    """A function that answers commands of SLURM as a site did."""
    config = {"enforce": "none", "storage": "none", "age": 300, "version": "22.05.8"} | config
    answers = {
        "scontrol show config": CONFIG.format(**config),
        "scontrol show partition -o": "\n".join(partitions) + "\n",
        "sinfo -N -h -o %P|%N|%c|%m|%G|%T": "\n".join(nodes) + "\n",
        "sbatch --test-only": "",
    } | more

    def ask(*command):
        for start, answer in reversed(answers.items()):
            if " ".join(command).startswith(start):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        raise InputError(f"{command[0]}: no such command")

    return ask


ONE_NODE = site(  # as one machine with two GPUs and no accounting said it
    {"name": "local"},
    [partition("cpu", "YES"), partition("gpu")],
    ["cpu*|localhost|2|21694|gpu:2|idle", "gpu|localhost|2|21694|gpu:2|idle"],
)
UNIVERSITY = site(
    {"name": "uni", "storage": "slurmdbd", "enforce": "associations,limits", "version": "24.05.1"},
    [
        partition("debug", time="00:30:00"),
        partition("work", "YES", time="2-00:00:00"),
        partition("big", time="14-00:00:00"),
        partition("a100", time="1-00:00:00", cpus="16"),
        partition("old", state="DOWN"),
    ],
    [
        "debug|n1|64|256000|(null)|idle",
        "work*|n1|64|256000|(null)|mixed",
        "work*|n2|128|512000|(null)|down*",
        "big|n3|128|2063000|(null)|allocated",
        "a100|g1|64|515000|gpu:a100:4(S:0-3)|mixed-",
        "a100|g2|64|515000|gpu:a100:8(S:0-7),shard:a100:64|drained",
        "old|n9|8|16000|(null)|idle",
    ],
    **{"sacct -X": "", "sacctmgr -n -P show user": "neuro|neuro||normal\n"},
)
NO_GPUS = site(
    {"name": "small", "age": 60},
    [partition("all", "YES", time="08:00:00")],
    ["all*|n1|4|7800|(null)|idle", "all*|n2|6|5000|(null)|idle"],
)


def written(tmp_path, ask, **options):
    """Profile and partitions that the command writes, and what it says."""
    said = write_profile(tmp_path / "site", ask=ask, **options)
    texts = [
        (tmp_path / "site" / name).read_text() for name in ("profile.v9+.yaml", "partitions.yaml")
    ]
    profile, partitions = map(yaml.safe_load, texts)
    return profile, partitions["partitions"], "\n".join(said)


def test_a_site_without_accounting_is_watched_by_squeue(tmp_path):
    profile, partitions, said = written(tmp_path, ONE_NODE)
    assert profile["slurm-status-command"] == "squeue"
    assert "warning: without accounting a run loses sight" in said
    assert profile["max-threads"] == 2
    assert profile["resources"] == ["connections=2", "batch=1", "mem_mb=21694"]
    assert profile["group-components"] == ["render=10", "extract_cpu=10", "extract_gpu=10"]
    assert partitions == {"cpu": {"max_threads": 2, "max_mem_mb": 21694, "max_gpu": 2}}


def test_a_site_with_accounting_has_an_account_and_the_partitions_that_jobs_fit(tmp_path):
    profile, partitions, said = written(tmp_path, UNIVERSITY)
    assert profile["jobs"] == 100
    assert "slurm_account=neuro" in profile["default-resources"]
    # The default one and the one with GPUs; of nodes that are away nothing is expected.
    assert partitions == {
        "work": {"max_threads": 64, "max_mem_mb": 256000, "max_gpu": 0, "max_runtime": 2880},
        "a100": {"max_threads": 16, "max_mem_mb": 515000, "max_gpu": 4, "max_runtime": 1440},
    }
    assert profile["max-threads"] == 16  # jobs on GPUs and on CPUs have to fit
    assert profile["group-components"] == ["render=10", "extract_cpu=6", "extract_gpu=6"]  # a day
    assert "1 of 2 nodes away" in said
    _, partitions, _ = written(tmp_path, UNIVERSITY, partitions=["big"], force=True)
    assert list(partitions) == ["big"]


def test_jobs_for_a_gpu_run_on_cpus_where_there_is_none(tmp_path):
    profile, partitions, said = written(tmp_path, NO_GPUS)
    assert profile["resources"][-2:] == ["mem_mb=7800", "gpu=0"]
    assert partitions["all"] == {  # all of one node: none has 6 cores and 7800 MB
        "max_threads": 4, "max_mem_mb": 7800, "max_gpu": 0, "max_runtime": 480
    }  # fmt: skip
    assert profile["slurm-init-seconds-before-status-checks"] == 20  # a third of MinJobAge
    assert "forgets finished jobs after 60 s" in said


@pytest.mark.parametrize(
    ("config", "command", "said"),
    [
        ({"storage": "slurmdbd"}, "squeue", None),
        ({"storage": "slurmdbd", "age": 30}, "sacct", "may wait for cancelled ones for ever"),
        ({"age": 30}, "squeue", "may wait for finished ones for ever"),
    ],
)
def test_jobs_are_watched_by_what_says_of_each_that_it_ended(tmp_path, config, command, said):
    answers = {"sacct -X": "", "sacctmgr -n -P show user": "neuro|neuro||normal\n"}
    ask = site({"name": "s"} | config, [partition("p", "YES")], ["p*|n|8|9000|(null)|idle"],
               **answers)  # fmt: skip
    profile, _, printed = written(tmp_path, ask)
    assert profile["slurm-status-command"] == command
    assert said in printed if said else "warning" not in printed


def with_accounts(users, *records, partitions=None, **answers):
    """A site with accounting where SLURM knows accounts of the user, and records of them."""
    answers = {"sacct -X": "", "sacctmgr -n -P show user": users} | answers
    for one in records:
        account = re.search(r" Account=(\S+)", one)[1]
        key = f"scontrol -o show assoc_mgr accounts={account} "
        answers[key] = f"{answers.get(key, '')}Association Records\n{one}\n"
    config = {"name": "uni", "storage": "slurmdbd", "enforce": "associations,limits,qos"}
    partitions = partitions or [partition("p", "YES")]
    return site(config, partitions, ["p*|n|8|9000|(null)|idle"], **answers)


def test_an_account_is_that_which_slurm_takes_by_default(tmp_path):
    ask = with_accounts("neuro|neuro||normal\nneuro|teaching||normal\n")
    profile, _, said = written(tmp_path, ask)
    assert "slurm_account=neuro" in profile["default-resources"]
    assert "for --account: teaching" in said
    profile, _, _ = written(tmp_path, ask, account="Teaching", force=True)
    assert "slurm_account=teaching" in profile["default-resources"]


@pytest.mark.parametrize(
    ("users", "records", "options", "said"),
    [
        ("", [], {}, "SLURM knows no account of .* on uni and takes no job without one"),
        (
            "|a||normal\n|b||normal\n",
            [],
            {},
            "several accounts of yours, a, b: name one with --acc",
        ),
        ("a|a||normal\n", [], {"account": "c"}, "--account c: .* it knows a"),
        (
            "a|a||normal\n",
            [record("a", parent="lab"), record("lab", minutes="cpu=600(601)")],
            {},
            "account lab has used up its 600 minutes of cpu",
        ),
        ("a|a||normal\n", [record("a", grp_jobs="0(0)")], {}, "account a may run no jobs"),
    ],
)
def test_an_account_of_which_no_job_starts_is_one_line(tmp_path, users, records, options, said):
    with pytest.raises(InputError, match=said) as raised:
        write_profile(tmp_path / "site", ask=with_accounts(users, *records), **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "site").exists()


def test_limits_of_accounts_and_their_qos_are_those_of_jobs(tmp_path):
    user = getpass.getuser()
    records = [record("a", parent="lab", wall="900"), record("a", user, submit="40(2)"),
               record("lab"), record("lab", user, wall="5", submit="1(0)")]  # fmt: skip
    qos = {"sacctmgr -n -P show qos": "normal||\nlong|10:00:00|20\n"}
    profile, partitions, said = written(
        tmp_path, with_accounts("a|a|long|long,normal\n", *records, **qos)
    )
    assert partitions["p"]["max_runtime"] == 600  # of the QOS; those in the account above are not
    assert profile["jobs"] == 20
    assert "jobs at a time: 20" in said
    profile, partitions, _ = written(
        tmp_path, with_accounts("a|a||normal\n", *records, **qos), force=True
    )
    assert (partitions["p"]["max_runtime"], profile["jobs"]) == (900, 40)


def test_partitions_that_refuse_the_user_are_not_used(tmp_path):
    answers = {
        "sbatch --test-only -n1 -t1 --mem=100 -p p": InputError(
            "sbatch: failed: Invalid account or account/partition combination specified"
        )
    }
    ask = with_accounts("a|a||normal\n", **answers)
    with pytest.raises(InputError, match="no partition starts jobs of yours now; p: Invalid acc"):
        write_profile(tmp_path / "site", ask=ask)
    with pytest.raises(InputError, match="--partition p: Invalid account"):
        write_profile(tmp_path / "site", ask=ask, partitions=["p"])
    of_others = [partition("p", "YES", accounts="b,c")]
    with pytest.raises(InputError, match="p: for jobs of accounts b, c alone"):
        write_profile(tmp_path / "site", ask=with_accounts("a|a||normal\n", partitions=of_others))
    above = [record("a", parent="b"), record("b")]  # those of an account hold for those below
    written(tmp_path, with_accounts("a|a||normal\n", *above, partitions=of_others))


def test_where_the_default_partition_ends_jobs_early_longer_ones_are_used_too(tmp_path):
    kinds = [partition("short", "YES", time="00:30:00"), partition("work", time="2-00:00:00"),
             partition("tiny", time="00:10:00"), partition("gpu")]  # fmt: skip
    nodes = ["short*|n1|4|7000|(null)|idle", "work|n2|8|20000|(null)|idle",
             "tiny|n3|8|20000|(null)|idle", "gpu|n4|8|16000|gpu:2|idle"]  # fmt: skip
    _, partitions, _ = written(tmp_path, site({"name": "s"}, kinds, nodes))
    assert list(partitions) == ["short", "work", "gpu"]


def test_nothing_is_overwritten_unasked(tmp_path):
    written(tmp_path, ONE_NODE)
    with pytest.raises(InputError, match="there already; --force"):
        write_profile(tmp_path / "site", ask=NO_GPUS)
    assert "max-threads: 2\n" in (tmp_path / "site/profile.v9+.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"partitions": ["gqu"]}, "--partition gqu: .*cpu, gpu"), ({"batch": 0}, "--batch 0")],
)
def test_what_a_site_does_not_have_is_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        write_profile(tmp_path / "site", ask=ONE_NODE, **options)


def test_a_machine_without_slurm_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["cluster", "-o", str(tmp_path / "site")]) == 1
    assert capsys.readouterr().err.startswith("error: scontrol: no such command; run this on")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("2-00:00:00", 2880), ("1-12", 2160), ("08:30:00", 510), ("30", 30), ("90:30", 90),
     ("2-06:30", 3270), ("12h", 720), ("1d12h", 2160), (45, 45), ("UNLIMITED", float("inf"))],
)  # fmt: skip
def test_time_limits_are_minutes(limit, expected):
    assert minutes(limit) == expected


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (Ask("train", 1, 8, 8000, 240), None),
        (
            Ask("train", 1, 32, 8000, 240),
            "32 threads, and .*that have GPUs have at most 16 threads",
        ),
        (Ask("train", 0, 32, 8000, 240), None),
        (Ask("render", 0, 1, 600_000, 60), "600000 MB of memory, .* at most 515000 MB"),
        (Ask("train", 1, 8, 8000, 4320), "4320 minutes, .*GPUs have at most 1440 minutes"),
        (Ask("render", 0, 1, 6000, 3000, "render"), "3000 minutes, .*group-components: .render=1."),
        (
            Ask("train", 1, 32, 8000, 2000),
            r"set-threads: \[train=16\] and set-resources: \[train:runtime=1440\]",
        ),
        (Ask("pretrain_a", 8, 8, 8000, 60), "8 GPU, and the partitions have at most 4 GPU"),
        (Ask("render", 0, 32, 300_000, 60), "no one partition has all of that"),
    ],
)
def test_what_can_never_start_is_said_in_one_line(tmp_path, ask, said):
    written(tmp_path, UNIVERSITY)
    file = tmp_path / "site/partitions.yaml"
    lines = never([ask, ask], read_partitions(file), file)
    if said is None:
        assert lines == []
    else:
        (line,) = lines
        assert re.search(rf"rule {ask.rule} can never start: it asks for .*{said}", line), line
        assert "\n" not in line


@pytest.mark.parametrize(
    "text",
    ["partitions: [cpu]", "partitions: {cpu: 8}", "cpu: {max_threads: 8}", "- cpu",
     "partitions: {cpu: {max_threads: many}}", "partitions: {cpu: {max_runtime: soon}}",
     "partitions: {cpu: {max_mem_mb: [8000]}}"],
)  # fmt: skip
def test_a_file_of_partitions_that_is_none_is_one_line(tmp_path, text):
    file = tmp_path / "partitions.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        never([Ask("train", 0, 1, 1000, 60)], read_partitions(file), file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
