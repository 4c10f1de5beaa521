"""Kill a stage at random moments and run it again: are the bytes those of an undisturbed run?

    python benchmarks/kills.py FOLDER --configfile STUDY... --target FILE... [--points N] [--seed S]

FOLDER is where a study has run to its end (`snakemake --directory FOLDER`). For every target the
job that makes it runs alone in a copy of the folder: undisturbed, for its duration and its bytes,
then N times killed (SIGKILL) at a moment drawn uniformly over this duration, and run again as a
user would, the lock that a killed Snakemake leaves being opened first. Killed are in turn the job,
Snakemake and both; a Snakemake that is killed alone leaves its job behind, which goes on beside the
one of the next run.

Prints a JSON object for each target: the rule, the duration in s, kills that hit a running job,
kills after which all bytes but those of logs and costs were the same and nothing lay beside them,
and of the others the files that differ.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import forked  # noqa: E402

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
KINDS = ("job", "snakemake", "both")

#: Times, memory, and what a run of Weights & Biases calls itself.
COSTS = re.compile(r"(^|/)(logs|benchmarks|\.snakemake|tracking)/|/features/.*\.json$")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configfile", nargs="+", required=True, type=Path)
    parser.add_argument("--target", nargs="+", required=True)
    parser.add_argument("--points", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for target in given.target:
        with tempfile.TemporaryDirectory(dir=given.folder.parent) as copy:
            shutil.copytree(given.folder, copy, symlinks=True, dirs_exist_ok=True)
            stage = Stage(Path(copy), given.configfile, target)
            print(json.dumps(stage.tried(given.points, given.seed)), flush=True)


class Stage:
    """The job that makes one file, in a folder of its own."""

    def __init__(self, folder, configfiles, target):
        self.folder, self.target = folder, target
        studies = map(str, (path.absolute() for path in configfiles))
        self.command = [forked.python(), SNAKEMAKE, target, "--cores", "1"]
        self.command += ["--directory", str(folder), "--configfile", *studies]

    def start(self):
        """Run Snakemake, after what `--unlock` does, for which it need not be started."""
        shutil.rmtree(self.folder / ".snakemake/locks", ignore_errors=True)
        return subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self):
        """A run that has to end well."""
        process = self.start()
        printed = process.communicate()[0]
        assert process.returncode == 0, printed

    def remove(self):
        for path in self.outputs:
            path.unlink(missing_ok=True)

    def job(self):
        """Number of the process that runs the script of the rule here, once there is one."""
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = cmdline.read_bytes().split(b"\0")
                scripts = [w for w in words if f"{self.folder}/.snakemake/scripts/" in w.decode()]
                if scripts and b"-c" not in words and words[1:2] != [b"-c"]:
                    return int(cmdline.parent.name)
        return None

    def waited(self, process):
        """The job of a run that has begun, or None where the run ended before it was seen."""
        while (job := self.job()) is None and process.poll() is None:
            time.sleep(0.02)
        return job

    def undisturbed(self):
        """Seconds that the job takes when nothing happens to it, which says what it is."""
        (self.folder / self.target).unlink()
        process = self.start()
        job, began = os.pidfd_open(self.waited(process)), time.monotonic()
        select.select([job], [], [])  # readable once it has ended
        seconds = time.monotonic() - began
        os.close(job)
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        self.rule = re.search(r"^(?:local)?rule (\w+):", printed, re.M)[1]
        outputs = re.search(r"^ +output: (.*)", printed, re.M)[1]
        self.outputs = [self.folder / path.split()[0] for path in outputs.split(", ")]
        return seconds

    def killed(self, kind, delay):
        """Kill after `delay` seconds of the job; whether it was still running."""
        self.remove()
        process = self.start()
        job = self.waited(process)
        time.sleep(delay)
        running = self.job() is not None
        with contextlib.suppress(ProcessLookupError):
            if kind in ("job", "both"):
                os.kill(job, signal.SIGKILL)
            if kind in ("snakemake", "both"):
                process.kill()
        process.communicate() if kind != "snakemake" else process.wait()
        return running

    def tried(self, points, seed):
        before, seconds, rng = digests(self.folder), self.undisturbed(), random.Random(seed)
        repeats = digests(self.folder) == before
        hit, held, differ = 0, 0, []
        for point in range(points):
            kind, delay = KINDS[point % len(KINDS)], rng.uniform(0, seconds)
            hit += self.killed(kind, delay)
            self.run()
            while self.job() is not None:  # one that was left behind
                time.sleep(0.05)
            after = digests(self.folder)
            wrong = sorted(p for p in before | after if before.get(p) != after.get(p))
            held += not wrong
            differ += [{"killed": kind, "after": round(delay, 2), "files": wrong}] if wrong else []
        return {
            "rule": self.rule, "target": self.target, "seconds": round(seconds, 2),
            "repeats": repeats, "points": points, "hit": hit, "held": held, "differ": differ,
        }  # fmt: skip


def digests(folder):
    """SHA-256 of every file below `folder` that is no cost, by its path there."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path.is_file() and not COSTS.search(name)
    }


if __name__ == "__main__":
    main()
