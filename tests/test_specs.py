"""A job is given what it reads of the configuration, and nothing else: each key is noted."""

import mne
import numpy as np
import pytest

from engram import datasets, store, views
from engram.backbones import extract
from engram.cards import card
from engram.decoders import decode
from engram.downloads import download
from engram.job import Job
from engram.planning.plan import Plan
from engram.scores.evaluation import evaluate
from engram.tasks import train
from engram.tasks.occlusion import occlude
from engram.trained.dataset import apply

VIGILANCE = {
    "kind": "simulated_vigilance",
    "title": "Simulated",
    "units": ["sub-01", "sub-02", "sub-03"],
    "files": ["{unit}.npz"],
    "windows": {"length": 30, "step": 15},
    "scans": 1,
    "duration": 300,
}
THINGS = {
    "kind": "simulated_things",
    "title": "Simulated",
    "units": ["sub-01"],
    "files": ["{unit}/preprocessed_eeg_training.npy", "{unit}/preprocessed_eeg_test.npy",
              "image_metadata.npy"],
    "shared": {"stimuli": ["image_metadata.npy", "training_images.zip", "test_images.zip"]},
    "train_concepts": 10,
    "train_images": 2,
    "train_repetitions": 3,
    "test_concepts": 5,
    "test_repetitions": 4,
    "size": 32,
}  # fmt: skip
PEOPLE = VIGILANCE | {
    "units": [f"sub-{i:02d}" for i in range(1, 8)],
    "windows": {"length": 30, "step": 30},
    "duration": 60,
    "trait_r2": 0.9,
}
SCENES = {
    "kind": "simulated_nsd",
    "title": "Simulated",
    "units": ["subj01"],
    "subjects": ["subj01"],
    "sessions": ["1", "2", "3", "4"],
    "files": ["nsd_expdesign.mat", "{unit}/roi/nsdgeneral.nii.gz",
              "{unit}/betas_session{sessions}.hdf5"],
    "shared": {"stimuli": ["nsd_expdesign.mat", "nsd_stimuli.hdf5"]},
    "people": 1,
    "planned": 4,
    "images": 60,
    "shared_images": 20,
    "voxels": 50,
    "size": 16,
}  # fmt: skip
CONFIG = {
    "datasets": {"tiny": VIGILANCE, "people": PEOPLE, "things": THINGS, "scenes": SCENES},
    "views": {
        "spectrogram": {"kind": "multitaper", "signal": "eeg", "fmax": 30},
        "state": {"kind": "annotations", "classes": ["drowsy", "alert"]},
        "trait": {"kind": "fact", "column": "trait", "measured_in": "points"},
        "epochs": {"kind": "epochs", "clip": 20},
        "betas": {"kind": "betas", "protocol": "nsd40"},
        "picture": {"kind": "photograph", "unit": "stimuli", "size": [32, 32]},
    },
    "backbones": {
        "bands": {"kind": "bandpower", "title": "Bands", "bands": {"alpha": [8, 12]}},
        "pixels": {"kind": "pixels", "title": "Pixels"},
        "vdvae": {"kind": "vdvae", "title": "VDVAE", "model": "tiny", "weights": "random"},
    },
    "heads": {
        "linear": {"kind": "linear", "c": [1.0]},
        "ridge": {"kind": "ridge", "alpha": [100.0], "coefficients": True},
        "nice": {"kind": "nice", "encoder": "mlp", "epochs": 1, "batch_size": 8},
        "compare": {"kind": "compare", "features": ["pixels"], "size": 16},
    },
    "experiments": {
        "classes": {
            "title": "Classes", "dataset": "tiny", "x": "spectrogram/bands", "y": "state",
            "head": "linear", "folds": "leave_one_subject_out", "seeds": 1, "baseline": "none",
        },
        "applied": {"title": "Applied", "dataset": "people", "model": "classes"},
        "values": {
            "title": "Values", "dataset": "people", "x": "spectrogram/bands", "y": "trait",
            "head": "linear", "folds": "leave_one_subject_out", "seeds": 1, "baseline": "none",
        },
        "pairs": {
            "title": "Pairs", "dataset": "things", "x": "epochs", "y": "picture/pixels",
            "head": "nice", "folds": "within", "seeds": 1, "baseline": "none",
        },
        "vectors": {
            "title": "Vectors", "dataset": "scenes", "x": "betas", "y": "picture/pixels",
            "head": "ridge", "folds": "within", "seeds": 1, "baseline": "none",
        },
        "latents": {
            "title": "Latents", "dataset": "scenes", "x": "betas", "y": "picture/vdvae",
            "head": "ridge", "folds": "within", "seeds": 1, "baseline": "none",
        },
        "seen": {
            "title": "Seen", "dataset": "scenes", "x": "layout", "y": "picture",
            "head": "compare", "folds": "within", "seeds": 1, "baseline": "none",
        },
    },
    "decoders": {
        "layout": {"kind": "vdvae", "latents": "latents"},
        "nearest": {"kind": "nearest", "latents": "vectors"},
        "prior": {"kind": "prior_only", "of": "layout"},
    },
    "evaluation": {"permutations": 20},
}  # fmt: skip

#: The path of a raw file is known to the job by its inputs; readers name the file in errors.
NAMED_IN_ERRORS = {"rows.file"}


class Noted(dict):
    """A dict that notes which of its keys were read, and so do the dicts in it."""

    def __init__(self, *given):
        super().__init__({key: noted(value) for key, value in dict(*given).items()})
        self.read = set()

    def __iter__(self):  # or `**` would copy the values behind our back
        return super().__iter__()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)

    def items(self):
        return [(key, self[key]) for key in self]

    def values(self):
        return [self[key] for key in self]


def noted(value):
    if isinstance(value, dict):
        return Noted(value)
    return [noted(item) for item in value] if isinstance(value, list) else value


def unread(given, where=""):
    """Dotted keys that nobody asked for; None is nothing that could be read."""
    if isinstance(given, list):
        return {key for item in given for key in unread(item, where)}
    found = set()
    for key in given.keys() if isinstance(given, Noted) else ():
        value = dict.__getitem__(given, key)
        if key in given.read:
            found |= unread(value, f"{where}{key}.")
        elif value is not None:
            found.add(f"{where}{key}")
    return found


class Study:
    """The stages, called as their rules do, each with a spec that notes what is read of it."""

    def __init__(self, folder, config, made_by=()):
        self.folder, self.plan, self.unread = folder, Plan(config), {}
        self.made_by = dict(made_by)

    def spec(self, stage, **names):
        self.given = noted(self.plan.spec(stage, **names))
        return self.given

    def note(self, stage):
        self.unread.setdefault(stage, set()).update(unread(self.given))

    def path(self, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def raw(self, dataset, unit):
        """Raw files of a unit, simulated unless they are there."""
        paths = [self.path(path) for path in self.plan.raw(dataset, unit)]
        for path, row in zip(paths, self.plan.rows(dataset, unit), strict=True):
            if not path.exists():
                download(
                    path, self.plan.spec("download", shelf="raw", name=dataset, file=row["file"])
                )
        return paths

    def render(self, dataset, unit, view):
        raw = self.raw(dataset, unit)
        spec = self.spec("render", dataset=dataset, unit=unit, view=view)
        path = self.path(self.plan.store(dataset, unit, view))
        views.render(datasets.read(spec, raw), path, spec, {})
        self.note("render")
        return path

    def extract(self, dataset, unit, source):
        view, _, backbone = source.partition("/")
        features = self.path(self.plan.store(dataset, unit, source))
        spec = self.spec("extract", dataset=dataset, unit=unit, view=view, backbone=backbone)
        extract(self.path(self.plan.store(dataset, unit, view)), None, features, spec, {}, "cpu")
        self.note("extract")

    def paths(self, names):
        return [str(self.path(name)) for name in names]

    def inputs(self, spec, experiment):
        """All stores of x and y, as the rules group them."""
        given = Job(spec, "cpu", {})
        x, y = (self.paths(names(experiment)) for names in (self.plan.x, self.plan.y))
        return given.grouped(x), given.grouped(y, of="targets")

    def train(self, experiment):
        spec = self.spec("train", experiment=experiment)
        x, y = self.inputs(spec, experiment)
        names = ("model.safetensors", "predictions.h5", "latents.h5")
        made = [self.path(f"{experiment}/{name}") for name in names]
        train(x, y, *made, spec=spec, made_by=self.made_by, device="cpu")
        self.note("train")
        return made

    def apply(self, experiment, model):
        spec = self.spec("apply", experiment=experiment)
        x, y = self.inputs(spec, experiment)
        given, first = Job(spec, "cpu", {}), self.plan.model(experiment)
        known = (
            given.grouped(self.paths(self.plan.x(first)), of="known_sources"),
            given.grouped(self.paths(self.plan.y(first)), of="known_targets"),
        )
        made = [self.path(f"{experiment}/{name}.h5") for name in ("predictions", "latents")]
        apply(x, y, known, model, *made, spec=spec, made_by=self.made_by, device="cpu")
        self.note("apply")
        return made

    def decode(self, dataset, unit, decoder, **made):
        """`made`: {name: path} of sources that do not lie where the plan says."""
        names = {"dataset": dataset, "unit": unit, "decoder": decoder}
        spec = self.spec("decode", **names)
        sources = Job(spec, "cpu", {}).grouped(self.paths(self.plan.decoder_sources(**names)))
        sources |= {name: [path] for name, path in made.items()}
        weights = Job(spec, "cpu", {}).grouped(self.plan.decoder_weights(decoder), of="weights")
        view = self.path(self.plan.store(dataset, unit, decoder))
        decode(sources, weights, view, spec, self.made_by, "cpu")
        self.note("decode")

    def occlude(self, experiment, model):
        spec = self.spec("occlude", experiment=experiment)
        x, y = self.inputs(spec, experiment)
        occlude(x, y, model, self.path(f"{experiment}/importance.json"), spec, "cpu")
        self.note("occlude")

    def evaluate(self, experiment, predictions):
        spec = self.spec("evaluate", experiment=experiment)
        x = Job(spec, "cpu", {}).grouped(self.paths(self.plan.probed(experiment)))
        scores = self.path(f"{experiment}/scores.json")
        evaluate(predictions, [], x, scores, spec)
        self.note("evaluate")
        return scores

    def card(self, experiment):
        trained = model, predictions, _ = self.train(experiment)
        scores = self.evaluate(experiment, predictions)
        made = [self.path(f"{experiment}/card.{suffix}") for suffix in ("json", "md")]
        digests = {"inputs": {str(model): "0" * 64}}
        card(model, scores, *made, self.spec("card", experiment=experiment), digests)
        self.note("card")
        return trained


def run_classes(study):
    for unit in study.plan.units("tiny"):
        study.render("tiny", unit, "spectrogram")
        study.render("tiny", unit, "state")
        study.extract("tiny", unit, "spectrogram/bands")
    model, predictions, _ = study.train("classes")
    study.evaluate("classes", predictions)
    study.card("classes")
    return model


def run_values(study):
    for unit in study.plan.units("people"):
        study.render("people", unit, "spectrogram")
        study.render("people", unit, "trait")
        study.extract("people", unit, "spectrogram/bands")
    study.card("values")


def run_applied(study, model):
    for unit in study.plan.units("people"):
        study.render("people", unit, "state")
    study.evaluate("applied", study.apply("applied", model)[0])


def run_pairs(study):
    study.render("things", "sub-01", "epochs")
    study.render("things", "stimuli", "picture")
    study.extract("things", "stimuli", "picture/pixels")
    study.occlude("pairs", study.card("pairs")[0])


def run_vectors(study):
    study.render("scenes", "subj01", "betas")
    study.render("scenes", "stimuli", "picture")
    study.extract("scenes", "stimuli", "picture/pixels")
    study.extract("scenes", "stimuli", "picture/vdvae")
    _, _, colours = study.card("vectors")
    study.decode("scenes", "subj01", "layout", latents=study.train("latents")[2])
    study.decode("scenes", "subj01", "nearest", latents=colours)
    study.decode("scenes", "subj01", "prior")
    study.extract("scenes", "subj01", "layout/pixels")
    study.evaluate("seen", study.train("seen")[1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Keys that nobody read, by stage."""
    study = Study(tmp_path_factory.mktemp("study"), CONFIG, {"inputs": {}})
    model = run_classes(study)
    run_values(study)
    run_applied(study, model)
    run_pairs(study)
    run_vectors(study)
    return study.unread


STAGES = ("render", "extract", "train", "apply", "decode", "occlude", "evaluate", "card")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_all_that_it_is_given(found, stage):
    assert found[stage] - NAMED_IN_ERRORS == set()


def test_of_a_manifest_a_job_is_given_the_columns_that_are_read(tmp_path):
    signal = np.random.default_rng(0).normal(0, 2e-5, (1, 6000))
    raw = mne.io.RawArray(signal, mne.create_info(["EEG"], 100.0, "eeg"), verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    lines = "subject,scan,file,labels,state,notes\nsub-01,scan-01,a_raw.fif,,awake,slept badly\n"
    (tmp_path / "manifest.csv").write_text(lines)
    dataset = {"kind": "eeg_recordings", "folder": str(tmp_path), "manifest": "manifest.csv",
               "windows": {"length": 30, "step": 15}, "conditions": ["state"]}  # fmt: skip
    views = CONFIG["views"] | {"notes": {"kind": "fact", "column": "notes", "classes": ["well"],
                                         "values": {"well": ["slept badly"]}}}  # fmt: skip
    study = Study(tmp_path, CONFIG | {"datasets": {"here": dataset}, "views": views})
    study.render("here", "sub-01", "spectrogram")
    study.render("here", "sub-01", "notes")
    assert study.unread["render"] - NAMED_IN_ERRORS == set()
    (row,) = study.plan.spec("render", dataset="here", unit="sub-01", view="state")["rows"]
    assert row.keys() == {"subject", "scan", "file", "labels", "state"}


def test_of_scans_listed_in_a_manifest_a_job_is_given_what_is_read(tmp_path):
    for scan, frames in (("rest", 60), ("task", 80)):
        series = np.random.default_rng(0).normal(size=(frames, 3))
        np.savetxt(tmp_path / f"{scan}.csv", series, delimiter=",", header="a,b,c", comments="")
    lines = ["subject,scan,file,tr,age", "s1,rest,rest.csv,2.0,31", "s1,task,task.csv,2.0,31"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    dataset = {"kind": "roi_series", "folder": str(tmp_path), "manifest": "manifest.csv",
               "windows": "scan"}  # fmt: skip
    config = CONFIG | {
        "datasets": {"here": dataset},
        "views": {"rois": {"kind": "timeseries", "length": 50, "band": [0.01, 0.1]}},
        "backbones": {"fc": {"kind": "connectome", "measure": "partial"}},
    }
    study = Study(tmp_path, config)
    view = store.open(study.render("here", "s1", "rois"))
    assert view.shape == (2, 3, 50)
    assert [*view.table.index] == ["s1/rest/window-0000", "s1/task/window-0000"]
    study.extract("here", "s1", "rois/fc")
    assert study.unread["render"] - NAMED_IN_ERRORS == set()
    assert study.unread["extract"] == set()
    (row, _) = study.plan.spec("render", dataset="here", unit="s1", view="rois")["rows"]
    assert row.keys() == {"subject", "scan", "file", "tr"}


def test_what_nobody_reads_is_noticed():
    given = noted({"a": 1, "b": {"c": 2, "d": 3}, "rows": [{"e": 4}, {"e": 5, "f": 6}], "g": None})
    {**given["b"]}["c"]
    given["rows"][0]["e"], given["rows"][1]["e"]
    assert unread(given) == {"a", "rows.f"}
    assert unread(noted({"b": {"c": 2}, "d": {"e": 1}})) == {"b", "d"}
