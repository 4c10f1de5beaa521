"""Real retrieval experiments of a small world, from training to the report."""

import numpy as np
import pytest
import retrieving
import study
from test_pairs import World, specified

from engram import store
from engram.figures.plot import plot
from engram.figures.report import report
from engram.store import Rows
from engram.tasks import train
from engram.tasks.occlusion import occlude


class Simulated(World):
    """A world whose epochs say what a simulation predicts, and whose test pictures can be seen."""

    def write(self, order=None):
        paths, y = super().write(order)
        for path in paths["epochs"]:
            rows = store.open(path).load()
            header = rows.header | {"attainable": retrieving.ATTAINABLE}
            store.write(path, Rows(rows.array, rows.table, header))
        return paths, y

    def photographs(self):
        tests = self.pictures[self.pictures["split"] == "test"]
        pixels = np.random.default_rng(0).integers(0, 255, (len(tests), 12, 12, 3), np.uint8)
        store.write(
            self.folder / "stimulus.h5", Rows(pixels, tests, {"what": "picture", "axes": 3})
        )
        return [self.folder / "stimulus.h5"]

    def predict(self, name, **head):
        x, y = self.write()
        spec = specified(epochs=2, **head)
        model = self.folder / f"{name}.safetensors"
        made = self.folder / f"predictions/{name}.h5", self.folder / f"latents/{name}.h5"
        train(x, y, model, *made, spec, study.MADE_BY | {"spec": spec}, "cpu")
        looked = self.folder / f"importance/{name}.json"
        occlude(x, y, model, looked, spec, "cpu")


def run(folder, **world):
    """Make a clean and a published experiment; return the folder and the spec of `report`."""
    this = Simulated(folder, train=10, **world)
    names = ("things_plain", "things_published")
    this.predict(names[0])
    this.predict(names[1], select_on="test")
    figures, experiments = [], {}
    with pytest.MonkeyPatch.context() as patch:
        config = retrieving.EXPERIMENTS[names[1]][1] | {"baseline": names[0]}
        patch.setitem(retrieving.EXPERIMENTS, names[1], (0, config))
        for name in names:
            retrieving.scores(folder, name)
            experiments[name] = retrieving.configured(name)
    for name in names:
        made = retrieving.outputs(folder, name)
        stores = folder / f"scores/{name}.json", folder / f"predictions/{name}.h5"
        looked = [folder / f"importance/{name}.json"]
        plot(*stores, this.photographs(), looked, made, {"task": "pairs"})
        figures += [path for key, path in made.items() if key != "events"]
    spec = {"title": "Real", "experiments": experiments}
    report(
        [folder / f"scores/{name}.json" for name in names],
        [folder / f"predictions/{name}.h5" for name in names],
        figures, folder / "report.html", spec,
    )  # fmt: skip
    return folder, spec
