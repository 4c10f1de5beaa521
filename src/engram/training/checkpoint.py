"""How far a training is, in one file of tensors and JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engram import store
from engram.errors import InputError
from engram.training import ranks

ROOMS = ("network", "ema", "best", "optimiser", "rng", "totals", "order")


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is saved, so that the same call goes on after a kill.

    On the CPU it then ends with the very weights of a training that ran through. A training that
    is finished is read from its checkpoint; whoever has its weights deletes the file.

    Attributes:
        path: safetensors file, whose header says in JSON what it is of; all ranks read it and
            rank 0 writes it, complete or not at all. None: nowhere.
        every: steps after which it is written, beside the end of each epoch; 0 = no more.
        spec: JSON-able dict of what the training depends on beside settings and sizes.
    """

    path: Path | None
    every: int = 0
    spec: dict = field(default_factory=dict)

    def write(self, run):
        if self.path is None:
            return
        rooms = _tensors(run)  # by all ranks, for each has random numbers of its own
        if ranks.rank() == 0:
            found = {f"{room}/{key}": v for room, part in rooms.items() for key, v in part.items()}
            found = {key: v.detach().to("cpu", copy=True).contiguous() for key, v in found.items()}
            facts = {name: getattr(run, name) for name in ("epoch", "done", "kept", "curves")}
            facts["training"] = self._training(run)
            with store.replaced(self.path) as temporary:
                save_file(found, temporary, {"engram": json.dumps(facts)})

    def read(self, run):
        """Put `run` where the checkpoint says, if there is one.

        Raises:
            InputError: the file is damaged, or of a training with other settings.
        """
        if self.path is None or not Path(self.path).is_file():
            return
        facts, training, rooms = self._opened()
        mine = json.loads(json.dumps(self._training(run)))
        differing = [key for key, value in mine.items() if training.get(key) != value]
        if differing:
            raise InputError(
                f"{self.path}: is of another training, with other {', '.join(differing)}; go on "
                "as it began, or delete it to start anew"
            )
        for name in ("epoch", "done", "kept", "curves"):
            setattr(run, name, facts[name])
        _restore(run, rooms)

    def saved(self, steps) -> str:
        """What is said of the file to someone whose training failed; an epoch has so many steps."""
        if self.path is None or not Path(self.path).is_file():
            return "there is no checkpoint before it"
        facts, _, _ = self._opened()
        done = facts["epoch"] * steps + facts["done"]
        return f"the last good checkpoint, {self.path}, is from before step {done}"

    def _opened(self):
        """How far it is, what it is of, and tensors by room and name."""
        rooms = {name: {} for name in ROOMS}
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()["engram"])
                for name in file.keys():  # noqa: SIM118, it is no dict
                    room, _, key = name.partition("/")
                    rooms[room][key] = file.get_tensor(name)
                return facts, facts.pop("training"), rooms
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{self.path}: not a readable checkpoint of a training; delete it to start anew"
            ) from None

    def _training(self, run):
        """What must agree, JSON-able."""
        network = run.learner.network.state_dict()
        return asdict(run.settings) | {
            "rows": run.n,
            "ranks": ranks.size(),
            "network": {name: list(value.shape) for name, value in network.items()},
            "optimiser": type(run.learner.optimiser).__name__,
            "ema": run.learner.ema is not None,
            "spec": self.spec,
        }


def _tensors(run):
    rng = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(run.device)
    return {
        "network": run.learner.network.state_dict(),
        "ema": run.learner.ema.network.state_dict() if run.learner.ema else {},
        "best": run.best,
        "optimiser": {
            f"{parameter}/{key}": value
            for parameter, state in run.learner.optimiser.state_dict()["state"].items()
            for key, value in state.items()
            if value is not None
        },
        "rng": {name: ranks.gathered(state) for name, state in rng.items()},
        "totals": {name: ranks.gathered(total) for name, total in run.step.totals.items()},
        "order": {"": run.order},
    }


def _restore(run, rooms):
    learner, rank = run.learner, ranks.rank()
    learner.network.load_state_dict(rooms["network"])
    if learner.ema:
        learner.ema.network.load_state_dict(rooms["ema"])
    state = {}
    for name, value in rooms["optimiser"].items():
        parameter, _, key = name.partition("/")
        state.setdefault(int(parameter), {})[key] = value
    groups = learner.optimiser.state_dict()["param_groups"]
    learner.optimiser.load_state_dict({"state": state, "param_groups": groups})
    run.best = {name: value.to(run.device) for name, value in rooms["best"].items()}
    run.order = rooms["order"][""].to(run.device)
    totals = {name: value[rank].to(run.device) for name, value in rooms["totals"].items()}
    run.step.totals.update(totals)
    rng = {name: states[rank].clone() for name, states in rooms["rng"].items()}  # torch: no views
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"], run.device)
