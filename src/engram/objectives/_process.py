"""One process of stage `pretrain`, from the views to the weights; see `engram.objectives`."""

import contextlib
import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engram import store
from engram.errors import InputError
from engram.figures.tensorboard import write_events
from engram.objectives._cohort import Cohort
from engram.planning import components
from engram.precision import multiplies_bf16
from engram.training import collapse, loop, ranks
from engram.training.checkpoint import Checkpoint
from engram.training.schedules import cosine, warm_cosine

#: Subjects whose features say whether these have collapsed, and on whom a step is timed.
WATCHED, TIMED = 64, 8

#: Options that weights do not depend on: a pretraining goes on with others.
CHANGE_NOTHING = ("memory_gb", "checkpoint_steps", "collapse")

CHECKPOINT, EVENTS = "checkpoint.safetensors", "events.out.tfevents.0.engram"


def parts(job) -> Path:
    """The folder that a pretraining keeps until it is finished."""
    return Path(job["weights"]).with_suffix(".parts")


class Pretraining:
    """One process of stage `pretrain`: a cohort, an objective, and the loop between them.

    Args:
        job: what `engram.objectives.pretrain` is given, by name.
        device: of this process, "cpu", "cuda" or "cuda:1".

    Raises:
        InputError: as `engram.objectives.pretrain`.
    """

    def __init__(self, job, device):
        self.job, self.spec, self.device = job, job["spec"], device
        module, self.options = components.options("objectives", self.spec["objective"])
        _check(self.options)
        _, model = components.options("backbones", self.spec["backbone"])
        self.cohort = Cohort(job["views"], self.spec, self.options.memory_gb)
        self.steps = -(-len(self.cohort) // self.options.batch_size)  # of an epoch
        total = self.steps * self.options.epochs
        torch.manual_seed(self.options.seed)
        self.objective = module.build(model, self.options, self.cohort.view, total, device)
        if hasattr(self.objective, "prepare"):
            self.objective.prepare(self.cohort.subjects())
        self.bf16 = self.options.precision == "bf16" or (
            self.options.precision == "auto" and multiplies_bf16(device.partition(":")[0])
        )
        self.name = f"pretraining {Path(job['weights']).stem}"

    def run(self):
        """Train, and write the weights if this is the first process."""
        learner, path = self._learner(), parts(self.job) / CHECKPOINT
        self._estimate(learner)
        self.untrained = self._judge(None)
        checkpoint = Checkpoint(path, self.options.checkpoint_steps, self._training())
        settings = loop.Settings(
            self.options.epochs,
            self.options.batch_size,
            accumulate=self.options.accumulate,
            clip_gradient=self.options.clip_gradient,
            watched=True,
        )
        torch.manual_seed(self.options.seed)
        trained = loop.fit(
            learner, self._judge, settings, len(self.cohort), self.name, checkpoint, told=self._told
        )
        if ranks.rank() == 0:
            self._finish(trained.curves)

    def _training(self):
        """What a checkpoint must be of."""
        objective = self.spec["objective"]
        return {
            "backbone": self.spec["backbone"],
            "objective": {key: objective[key] for key in objective if key not in CHANGE_NOTHING},
            "datasets": self.cohort.datasets,
            "view": store.stated(self.cohort.view) | {"converted": self.cohort.converted},
        }

    def _learner(self):
        o, groups = self.options, self.objective.groups()
        first, total = getattr(self.objective, "first_step", 1), self.steps * self.options.epochs
        warmup = o.warmup_epochs * self.steps

        def rates(step):
            rate = warm_cosine(step + first, total, warmup, o.start_lr, o.lr, o.final_lr)
            return [rate] * len(groups)

        def decays(step):
            decay = cosine(step + first, total, o.weight_decay, o.final_weight_decay)
            return [decay if group["decay"] else 0.0 for group in groups]

        optimiser = torch.optim.AdamW(groups, lr=0.0, fused=True)
        return loop.Learner(
            self.objective.network,
            self._loss,
            optimiser,
            rates,
            decays=decays,
            draw=self._draw,
            after=self.objective.update,
            names=self.cohort.names,
        )

    def _draw(self, at, step):
        """A batch, drawn by what depends on the step alone; negative ones are not trained on."""
        words = np.random.SeedSequence([self.options.seed, step + 2**32]).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) << 30 | int(words[1]) >> 2)
        scans = self.cohort.draw(at, generator)
        try:
            return self.objective.batch(scans, generator)
        except InputError as error:
            i = int(np.argmin([scan.shape[1] for scan in scans]))
            raise InputError(
                f"{self.cohort.names[at[i]]}, the shortest scan of its batch with "
                f"{scans[i].shape[1]} frames: {error}"
            ) from None

    def _loss(self, batch, step):
        kind = self.device.partition(":")[0]
        with torch.autocast(kind, torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            return self.objective.loss(batch, step)

    # ---- before the first step --------------------------------------------------------------

    def _estimate(self, learner):
        """Say what it will cost, by the second of two steps that change nothing."""
        network, o = self.objective.network, self.options
        before = {name: value.clone() for name, value in network.state_dict().items()}
        at = torch.arange(min(TIMED, len(self.cohort)))
        for trial in (-3, -2):
            start = time.perf_counter()
            batch = self._draw(at, trial)
            drawn = time.perf_counter() - start
            loss, _ = self._loss({k: v.to(self.device) for k, v in batch.items()}, 0)
            loss.backward()
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        learner.optimiser.zero_grad()
        network.load_state_dict(before)
        rows, total = len(self.cohort) * o.epochs, self.steps * o.epochs
        hours = seconds / len(at) * rows / ranks.size() / 3600
        if ranks.rank() == 0:
            trained = sum(p.numel() for group in learner.optimiser.param_groups
                          for p in group["params"])  # fmt: skip
            print(
                f"{self.name}: {len(self.cohort)} subjects, {total} steps of at most "
                f"{o.batch_size}; {trained} parameters, {'bf16' if self.bf16 else 'fp32'}, "
                f"processes: {ranks.size()}; {seconds / len(at):.3g} s a subject, of which reading "
                f"and drawing {drawn / seconds:.1%}, in all about {_hours(hours)}; "
                f"{_peak(self.device)} with {len(at)} subjects at once",
                flush=True,
            )

    # ---- after every epoch ------------------------------------------------------------------

    def _judge(self, network):
        """How far features tell subjects apart; no `score`, for the last epoch is what is kept."""
        n = min(WATCHED, len(self.cohort))
        at = torch.from_numpy(np.linspace(0, len(self.cohort) - 1, n).round().astype(np.int64))
        batch, parts = self._draw(at, -1), []
        with torch.no_grad():
            for rows in torch.arange(n).split(self._at_once()):
                part = {name: values[rows].to(self.device) for name, values in batch.items()}
                parts.append(self.objective.features(part).float().cpu())
        features = torch.cat(parts)
        return {"spread": collapse.spread(features), "rank": collapse.effective_rank(features)}

    def _at_once(self):
        return max(1, self.options.batch_size // ranks.size() // self.options.accumulate)

    def _told(self, curves):
        """Keep the weights of this epoch if that is asked for, draw curves, look for collapse."""
        epochs = len(curves)
        if ranks.rank() == 0:
            if epochs in self.spec["keep"]:
                self._write(self._kept(epochs), curves)
            self._draw_curves(curves)
        self._refuse_collapse(curves[-1])

    def _draw_curves(self, curves):
        scalars = [
            (f"Pretraining/{name}", row["epoch"] + 1, float(row[name]))
            for row in curves
            for name in row
            if name != "epoch"
        ]
        table = {"objective": self.spec["objective"], "backbone": self.spec["backbone"]}
        events = Path(self.job["weights"]).with_suffix("") / EVENTS
        write_events(events, scalars, tables=[("Hyperparameters", table)])
        row = curves[-1]
        said = ", ".join(f"{name} {row[name]:.4g}" for name in row if name != "epoch")
        print(f"{self.name}: epoch {row['epoch'] + 1}: {said}", flush=True)

    def _refuse_collapse(self, row):
        fallen = [
            f"{what} {row[key]:.3g} instead of {self.untrained[key]:.3g}"
            for key, what in (("spread", "spread"), ("rank", "effective rank"))
            if row[key] < self.options.collapse * self.untrained[key]
        ]
        if fallen:
            saved = Checkpoint(parts(self.job) / CHECKPOINT).saved(self.steps)
            raise InputError(
                f"{self.name}: the features have collapsed in epoch {row['epoch'] + 1}, where the "
                f"loss is {row['loss']:.3g}: over subjects they have {' and '.join(fallen)} in the "
                f"untrained network; {saved}; lower `lr`, let the teacher follow more slowly, or "
                "set `collapse: 0` to go on all the same"
            )

    # ---- what is written --------------------------------------------------------------------

    def _kept(self, epochs):
        return parts(self.job) / f"epoch-{epochs}.safetensors"

    def _write(self, path, curves):
        facts = {
            "what": "weights",
            "epochs": len(curves),
            "steps": len(curves) * self.steps,
            **self._training(),
            "precision": "bf16" if self.bf16 else "fp32",
            "processes": ranks.size(),
            "curves": {name: [row[name] for row in curves] for name in curves[0]},
            "made_by": self.job["made_by"],
        }
        tensors = self.objective.weights()
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        with store.replaced(path) as temporary:
            save_file(tensors, temporary, {"engram": store.canonical(facts)})

    def _finish(self, curves):
        """Publish what was learnt; whoever is killed before the end finds all of it again."""
        for epochs, path in zip(self.spec["keep"], self.job["kept"], strict=True):
            with store.replaced(path) as temporary:
                shutil.copyfile(self._kept(epochs), temporary)
        self._write(self.job["weights"], curves)
        (parts(self.job) / CHECKPOINT).unlink()  # first: it says that the others are there
        shutil.rmtree(parts(self.job))


def is_finished(job) -> bool:
    """Whether the weights of a job are there, which another process made of the same."""
    if not all(Path(path).is_file() for path in (job["weights"], *job["kept"])):
        return False
    with contextlib.suppress(SafetensorError, KeyError, TypeError, ValueError):
        with safe_open(job["weights"], "pt") as file:
            made_by = json.loads(file.metadata()["engram"])["made_by"]
        return store.canonical(made_by) == store.canonical(job["made_by"])
    return False


def _check(options):
    least = {"epochs": 1, "batch_size": 2, "accumulate": 1, "lr": 0, "start_lr": 0, "final_lr": 0,
             "warmup_epochs": 0, "weight_decay": 0, "final_weight_decay": 0, "clip_gradient": 0,
             "memory_gb": 0, "checkpoint_steps": 0, "collapse": 0}  # fmt: skip
    for name, value in least.items():
        if getattr(options, name) < value:
            raise InputError(
                f"pretrain: {name} is {getattr(options, name)}; it must be at least {value}"
            )
    if options.warmup_epochs >= options.epochs:
        raise InputError(
            f"pretrain: warmup_epochs is {options.warmup_epochs:g} of {options.epochs} epochs; it "
            "must be less"
        )


def _hours(hours):
    for unit, size in (("days", 24), ("h", 1)):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 60:.2g} min"


def _peak(device):
    if device.startswith("cuda"):
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2g} GiB of the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2g} GiB of memory"
