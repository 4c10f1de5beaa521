"""What a configuration asks for, and what it is refused for."""

import copy
import re
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from snakemake.utils import validate

from engram import store
from engram.errors import InputError
from engram.planning import components, configuration, plan, shape
from engram.planning.automatic import completed
from engram.planning.targets import check_asked

ROOT = Path(__file__).parents[1]


@cache
def parsed(path):
    return yaml.safe_load((ROOT / path).read_text())


def read(path):
    return copy.deepcopy(parsed(path))


SCHEMA = read("workflow/schemas/config.schema.yaml")


@pytest.fixture
def config():
    return merge(read("config/config.yaml"), read("config/backbones.yaml"))


def refuse(config, message):
    with pytest.raises(InputError, match=message):
        configuration.check(config, SCHEMA)


def test_the_default_configuration_is_accepted(config):
    configuration.check(config, SCHEMA)


STUDIES = sorted(path.stem for path in (ROOT / "config/studies").glob("*.yaml"))


@pytest.fixture
def study(config):
    """Lays a study of the repository over the vocabulary."""

    def read(name):
        text = (ROOT / f"config/studies/{name}.yaml").read_text()
        return merge(copy.deepcopy(config), yaml.safe_load(text))

    return read


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_accepted(study, name):
    configuration.check(study(name), SCHEMA)


def test_what_a_study_leaves_out_is_what_the_schema_says(study):
    this = study("brain_jepa") | {"evaluation": {"permutations": 100}, "tracking": {"wandb": {}}}
    this["datasets"]["there"] = {"kind": "eeg_recordings", "source": {"s3": "bucket"}}
    this["checkpoints"] = study("vigilance")["checkpoints"]
    given = copy.deepcopy(this)
    found = shape.filled(this, SCHEMA)
    validate(this, str(ROOT / "workflow/schemas/config.schema.yaml"))  # by jsonschema, in place
    assert found == this != given
    assert found["evaluation"] == {
        "permutations": 100, "confidence": 0.95, "probes": True,
        "confounds": [], "margin": None,
    }  # fmt: skip


def test_what_is_deprecated_is_read_and_without_effect(study):
    this = study("null") | {"evaluation": {}}
    older = copy.deepcopy(this)
    older["evaluation"]["bootstrap"] = 2000
    assert shape.filled(older, SCHEMA) == shape.filled(this, SCHEMA)


#: Studies of models of series, which get baselines and twins that they do not name.
OF_SERIES = [name for name in STUDIES if name == "semantoks" or name.startswith("brain_jepa")]
#: Studies of models of EEG spectrograms.
OF_EEG = ["backbones", "backbones_random", "fatwake", "neurobolt", "null"]
#: Those, and a study that applies models, whose baselines are applied with them.
EXTENDED = [*OF_SERIES, *OF_EEG, "apply_simulated"]


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in EXTENDED])
def test_a_study_without_a_model_of_series_or_eeg_gets_no_rows_that_it_does_not_name(study, name):
    given = study(name)
    assert completed(given) == given


@pytest.mark.parametrize("name", OF_EEG)
def test_models_of_eeg_spectrograms_stand_beside_band_power_a_network_and_covariances(study, name):
    given = study(name)
    found = completed(given)
    added = [one for one in found["experiments"] if one not in given["experiments"]]
    heads = {found["experiments"][one]["head"] for one in added}
    assert ("linear_tangent" in heads) == (name != "fatwake")  # it has one channel
    written = copy.deepcopy(found)
    for experiment in written["experiments"].values():
        experiment.pop("automatic", None)
    for comparison in written.get("comparisons", {}).values():
        comparison.pop("automatic", None)
    configuration.check(written, SCHEMA)
    assert completed(found) == found


def test_a_backbone_is_compared_with_the_weights_that_its_pretraining_began_with():
    found = plan.Plan(studied("semantoks_simulated")).controls("sex")
    assert found == {f"sex-random_{i}": f"sex-semantoks_{i}" for i in range(5)}


@pytest.mark.parametrize("name", STUDIES)
def test_no_study_of_real_recordings_is_about_random_weights(study, name):
    this = study(name)
    for dataset in this["datasets"].values():  # local copies too, as if they were fetched
        if not dataset["kind"].startswith("simulated") and not dataset.get("source"):
            del dataset["folder"]
            dataset["source"] = {"osf": "abcde"}
    configuration.check(this, SCHEMA)


def test_studies_run_in_one_folder_without_overwriting_each_others_views_and_weights(config, study):
    """Views, features and pretrained weights are shared by name, which so has to mean one thing."""
    everything, meant = {"the vocabulary": config} | {name: study(name) for name in STUDIES}, {}
    for where, this in everything.items():
        for family in ("datasets", "backbones"):
            for name, keys in this[family].items():
                if family == "datasets" or keys.get("weights") == "pretrained":
                    first = meant.setdefault((family, name), (keys, where))
                    assert keys == first[0], f"{family}.{name} of {where} and of {first[1]}"


@pytest.mark.parametrize("name", STUDIES)
def test_random_weights_are_called_random(study, name):
    this = plan.Plan(study(name))
    drawn = {one for name in this.known for one in this.drawn(name)}
    titles = {this.backbone_title(one).lower() for one in drawn}
    assert [one for one in drawn if "random" not in one] == []
    assert [one for one in titles if "random" not in one] == []


def test_random_weights_on_published_recordings_are_refused_but_as_a_control(study):
    this = study("vigilance")
    for name in ("eeg-clip_random", "fmri-sam_random"):
        this["run"].append(name)  # beside its twin it is a control, wherever it shows
    configuration.check(this, SCHEMA)

    models = this["comparisons"]["eeg"]["backbones"]
    this["comparisons"]["eeg"]["backbones"] = [m for m in models if m != "clip_vitb32"]
    this["run"].remove("eeg-clip_vitb32")
    this["maps"].remove("eeg-clip_vitb32")
    refuse(this, r"experiment 'eeg-clip_random': backbone 'clip_random' has random .*'osf' is real")
    this["datasets"]["osf"] = this["datasets"]["simulated"]  # which holds what nobody measured
    configuration.check(this, SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        {"backbones": {"clip_vitb32": {"weights": "random"}, "clip_random": {"seed": 1}}},
        {"backbones": {"clip_random": {"precision": "bf16"}}},
        {"experiments": {"eeg_pixels": {"x": "eeg_picture/tiny", "head": "linear"}}},
        {"experiments": {"both_pixels": {"x": ["eeg_picture/pixels", "fmri_picture/tiny"]}}},
    ],
)
def test_no_random_weights_pass_for_published_ones(study, change):
    tiny = {"backbones": {"tiny": {"kind": "timm", "model": "test_vit.r160_in1k"}}}
    refuse(merge(merge(study("vigilance"), tiny), change), r"has random weights, and dataset 'osf'")


def merge(base, over):
    """Lay one configuration over another, as Snakemake does."""
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = merge(base[key], value) if both else value
    return base


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("experimens", {}, r"experimens: unknown key; did you mean 'experiments'\?"),
        ("views.spectrogram.windw", 4, r"views.spectrogram.windw: .* did you mean 'window'\?"),
        ("views.spectrogram.window", "long", r"views.spectrogram.window: expected .*, got 'long'"),
        (
            "views.spectrogram.detrend",
            "lin",
            r"detrend: expected 'linear' or .*did you mean",
        ),
        ("views.spectrogram.kind", "multitapr", r"kind: no 'multitapr'; did you mean 'multitaper'"),
        ("backbones.clip_random.wieghts", "random", r"random.wieghts: .*did you mean 'weights'"),
        ("backbones.new", {"kind": "open_clip"}, r"backbones.new: `model` is missing"),
        (
            "backbones.new",
            {"kind": "clip_text", "model": "ViT-B-32", "mode": "device"},
            r"backbones.new.mode: unknown key of kind 'clip_text'",
        ),
        ("datasets.simulated.unts", [], r"datasets.simulated.unts: .*did you mean 'units'"),
        ("experiments.eeg_clip.hed", "x", r"experiments.eeg_clip.hed: .* did you mean 'head'"),
        ("experiments.eeg_clip.head", "adaptor", r"no head 'adaptor'; did you mean 'adapter'"),
        (
            "experiments.eeg_clip.x",
            "spectogram/clip_random",
            r"no view 'spectogram'; did you mean 'spectr",
        ),
        (
            "experiments.eeg_clip.x",
            "spectrogram/clip_rndm",
            r"no backbone 'clip_rndm'; did you mean 'clip_random'",
        ),
        ("experiments.eeg_clip.dataset", "simulate", r"no dataset 'simulate'; did you mean"),
        ("experiments.eeg_clip.folds", "leave_one_out", r"did you mean 'leave_one_subject_out'"),
        ("experiments.eeg_clip.folds", "random_windows", r"i_know_this_leaks"),
        ("tracking", {"wnadb": {}}, r"tracking.wnadb: unknown key; did you mean 'wandb'"),
        ("tracking", {"wandb": {"prject": "x"}}, r"wandb.prject: .*did you mean 'project'"),
        ("study", "my study", r"study: 'my study' cannot name its folder"),
        ("study", "../elsewhere", r"study: '../elsewhere' cannot name its folder"),
        ("study", "features", r"study: 'features' cannot name its folder"),
        ("run", ["eeg_clp"], r"run: no experiment 'eeg_clp'; did you mean 'eeg_clip'"),
        ("maps", ["eeg_clp"], r"maps: no experiment 'eeg_clp'; did you mean 'eeg_clip'"),
        ("experiments.eeg_clip.y", "stat", r"no view 'stat'; did you mean 'state'"),
        (
            "experiments.eeg_clip.x",
            {"choose": ["spectrogram/clip_random", ["spectrogram/clip_rndm"]]},
            r"no backbone 'clip_rndm'; did you mean 'clip_random'",
        ),
        ("experiments.eeg_clip.x", ["state", "spectogram"], r"no view 'spectogram'"),
        ("experiments.eeg_clip.baseline", "eeg_bandpwer", r"baseline: no experiment .* did you"),
        ("experiments.eeg_clip.folds", {"kind": "random_windows", "n": 4}, r"i_know_this_leaks"),
        ("experiments.eeg_clip.folds", {"kind": "block"}, r"no way to split 'block'; did you mean"),
        ("experiments.eeg_clip.folds", "within", r"eeg_clip.folds: no way to split 'within'"),
    ],
)
def test_a_mistake_is_named_and_the_right_word_suggested(config, path, value, message):
    *parents, key = path.split(".")
    target = config
    for parent in parents:
        target = target[parent]
    target[key] = value
    refuse(config, message)


@pytest.mark.parametrize(
    ("path", "value", "fits"),
    [
        ("heads.adapter.epochs", 3, True),
        ("heads.adapter.epochs", 3.5, False),
        ("heads.adapter.epochs", True, False),
        ("heads.adapter.base_lr", 1, True),
        ("heads.adapter.base_lr", False, False),
        ("heads.adapter.base_lr", "fast", False),
        ("heads.adapter.standardize", True, True),
        ("heads.adapter.standardize", 1, False),
        ("heads.adapter.hidden", [8, 4], True),
        ("heads.adapter.hidden", [8, "4"], False),
        ("heads.adapter.hidden", 8, False),
        ("views.spectrogram.detrend", "constant", True),
        ("views.spectrogram.limits", [-15, 25], True),
        ("views.spectrogram.limits", "recording", True),
        ("views.spectrogram.limits", 3, False),
        ("views.spectrogram.channels", None, True),
        ("views.spectrogram.channels", ["O1"], True),
        ("views.spectrogram.channels", "O1", False),
        ("backbones.bandpower.bands", {"alpha": [8, 13]}, True),
        ("backbones.bandpower.bands", {"alpha": 8}, False),
        ("backbones.bandpower.bands", {1: [8, 13]}, False),
    ],
)
def test_values_have_the_type_that_the_option_says(config, path, value, fits):
    family, name, key = path.split(".")
    config[family][name][key] = value
    if fits:
        configuration.check(config, SCHEMA)
    else:
        refuse(config, re.escape(path) + ": (expected|a key is text)")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": {"osf": "abcde", "s3": "bucket"}}, "needs one of osf, s3"),
        ({"source": {"archive": "x.zip"}}, "needs one of osf, s3"),
        ({"source": {"osf": "abcde"}, "folder": "here"}, "has both `source` and `folder`"),
        ({"source": {"osff": "abcde"}}, "source.osff: unknown key; did you mean 'osf'"),
        ({"source": {"osf": "abcde"}}, None),
        ({"folder": "here"}, None),
    ],
)
def test_a_dataset_is_fetched_from_one_place_or_is_here(config, keys, message):
    config["datasets"]["there"] = {"kind": "eeg_recordings", "manifest": "list.csv"} | keys
    if message:
        refuse(config, message)
    else:
        configuration.check(config, SCHEMA)


SECRET = "https://there.example/a.bin?X-Amz-Signature=abcd1234"


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("datasets.there", {"source": {"http": [{"url": SECRET}]}}, r"source\.http\[0\]\.url"),
        ("checkpoints.mine", {"url": SECRET}, r"checkpoints\.mine\.url: .*=\$NAME"),
        ("checkpoints.mine", {"url": "https://me:abcd1234@there.example/a"}, "user or password"),
    ],
)
def test_a_secret_is_refused_before_anything_is_written(config, place, value, says):
    """Snakemake keeps the parameters of jobs, failed ones too, and logs how they changed."""
    family, name = place.split(".")
    of = {"datasets": {"kind": "eeg_recordings", "manifest": "list.csv"}}
    config[family][name] = of.get(family, {"licence": "MIT"}) | value
    with pytest.raises(InputError, match=says) as error:
        configuration.check(config, SCHEMA)
    assert "abcd1234" not in str(error.value)


def test_a_score_needs_its_baseline(config):
    del config["experiments"]["eeg_clip"]["baseline"]
    refuse(config, "experiments.eeg_clip: `baseline` is missing")


def test_baselines_run_with_what_they_stand_beside(config):
    config["run"] = ["eeg_clip"]
    assert plan.Plan(config).experiments() == ["eeg_bandpower", "eeg_clip"]


# ---- what an experiment depends on ----------------------------------------------------

NEW, BLOCKS = "new subjects", "new time blocks of known subjects, purged"


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        (None, NEW),
        ("leave_one_subject_out", NEW),
        ("group_kfold", NEW),
        ({"kind": "group_kfold", "n": 3}, NEW),
        ("blocked", BLOCKS),
        ({"kind": "blocked", "n": 4}, BLOCKS),
        ({"kind": "blocked"}, BLOCKS),
        ("random_windows", "LEAKS: random windows of known scans"),
        ({"kind": "random_windows", "n": 4}, "LEAKS: random windows of known scans"),
    ],
    ids=str,
)
def test_a_score_says_what_it_generalises_to(config, folds, says):
    if folds:
        config["experiments"]["eeg_clip"]["folds"] = folds
    spec = plan.Plan(config).spec("evaluate", experiment="eeg_clip")
    assert spec["generalises_to"] == says


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        (None, "new pictures, a known subject"),
        ("within", "new pictures, a known subject"),
        ("pooled", "new pictures, known subjects, one model for all"),
        ({"kind": "pooled"}, "new pictures, known subjects, one model for all"),
        ("leave_one_subject_out", "new pictures, new subjects"),
    ],
    ids=str,
)
@pytest.mark.parametrize("y", ["stimulus/pixels", ["stimulus/pixels", "stimulus/alexnet_random"]])
def test_a_retrieval_says_what_it_generalises_to(folds, says, y):
    config = studied("things_eeg2_simulated")
    this = config["experiments"]["things_pixels"]
    this["y"] = y
    if folds:
        this["folds"] = folds
    configuration.check(config, SCHEMA)
    spec = plan.Plan(config).spec("evaluate", experiment="things_pixels")
    assert spec["generalises_to"] == says


def test_what_training_is_told_of_its_experiment(config):
    this = config["experiments"]["eeg_clip"]
    this |= {"folds": {"kind": "blocked", "n": 4}, "seeds": 5}
    config["heads"]["adapter"] |= {"epochs": 7}
    spec = plan.Plan(config).spec("train", experiment="eeg_clip")
    assert spec["experiment"]["folds"] == {"kind": "blocked", "n": 4}
    assert spec["experiment"]["seeds"] == 5
    assert spec["head"] == {"kind": "adapter", "epochs": 7}
    assert spec["candidates"] == [["spectrogram/clip_random"]]
    for change in (
        {"folds": "blocked"},
        {"seeds": 4},
        {"x": "spectrogram/bandpower"},
        {"y": "vigall"},
    ):
        other = copy.deepcopy(config)
        other["experiments"]["eeg_clip"] |= change
        assert plan.Plan(other).spec("train", experiment="eeg_clip") != spec
    other = copy.deepcopy(config)
    other["heads"]["adapter"]["epochs"] = 8
    assert plan.Plan(other).spec("train", experiment="eeg_clip") != spec


def test_training_is_told_every_input_that_it_may_choose(config):
    every = ["spectrogram/clip", ["fmri_spectrogram/clip"], ["spectrogram", "vigall"]]
    config["experiments"]["eeg_clip"]["x"] = {"choose": every}
    this = plan.Plan(config)
    spec = this.spec("train", experiment="eeg_clip")
    expected = [["spectrogram/clip"], ["fmri_spectrogram/clip"], ["spectrogram", "vigall"]]
    assert spec["candidates"] == expected
    units = len(config["datasets"]["simulated"]["units"])
    assert spec["sources"] == [[source, units] for one in expected for source in one]
    assert len(this.x("eeg_clip")) == 4 * units


def test_training_with_fewer_subjects_is_a_setting_of_training(config):
    before = plan.Plan(config).spec("train", experiment="eeg_clip")
    config["experiments"]["eeg_clip"]["train_subjects"] = [2, 3]
    configuration.check(config, SCHEMA)
    this = plan.Plan(config)
    after = this.spec("train", experiment="eeg_clip")
    assert after["experiment"] == before["experiment"] | {"train_subjects": [2, 3]}
    other = this.spec("train", experiment="eeg_cnn")
    assert "train_subjects" not in other["experiment"]
    config["experiments"]["eeg_clip"]["folds"] = "blocked"
    with pytest.raises(InputError, match="eeg_clip.train_subjects: folds blocked leave out no sub"):
        configuration.check(config, SCHEMA)


def test_pictures_are_not_found_with_fewer_subjects(study):
    this = study("things_eeg2_simulated")
    name = next(iter(plan.Plan(this).tasks()["pairs"]))
    this["experiments"][name]["train_subjects"] = [2]
    with pytest.raises(InputError, match="train_subjects: its task is pairs, so that fewer"):
        configuration.check(this, SCHEMA)


def test_what_an_evaluation_is_told(config):
    config["evaluation"] = {"permutations": 300, "confidence": 0.9}
    this = plan.Plan(config)
    spec = this.spec("evaluate", experiment="eeg_clip")
    assert spec["evaluation"] == {"permutations": 300, "confidence": 0.9}
    assert spec["baseline"] == "eeg_bandpower"
    assert this.baseline_predictions("eeg_clip") == ["results/demo/predictions/eeg_bandpower.h5"]
    assert this.spec("evaluate", experiment="eeg_bandpower")["baseline"] is None
    assert this.baseline_predictions("eeg_bandpower") == []


def test_what_is_known_of_voxels_stands_beside_those_that_are_predicted(study):
    config = study("nsd_simulated")
    this = plan.Plan(config)
    voxels = [f"results/views/scenes/subj0{i}/voxels.h5" for i in (1, 2)]
    assert this.probed("scenes_voxels") == [*this.y("scenes_voxels"), *voxels]
    assert this.spec("evaluate", experiment="scenes_voxels")["sources"][1] == ["voxels", 2]
    assert this.pictures("scenes_voxels") == voxels
    assert "voxels" not in this.spec("train", experiment="scenes_voxels")["experiment"]
    assert this.pictures("scenes_pixels") == []
    experiment = config["experiments"]["scenes_voxels"]
    for name, message in (
        ("voxel", r"scenes_voxels.voxels: no view 'voxel'; did you mean 'voxels'"),
        ("betas", "name a view of kind voxels, not one of betas"),
    ):
        experiment["voxels"] = name
        refuse(config, message)
    experiment["voxels"] = "voxels"
    experiment |= {"x": "betas", "y": "photograph/pixels"}
    refuse(config, "y is 'photograph/pixels', whose numbers are no voxels")


def test_a_view_is_made_of_its_windows_rows_and_options(config):
    names = {"dataset": "simulated", "unit": "sub-01", "view": "state"}
    spec = plan.Plan(config).spec("render", **names)
    simulated = config["datasets"]["simulated"]
    assert spec["windows"] == simulated["windows"]
    assert spec["dataset"]["kind"] == simulated["kind"]
    assert spec["view"] == config["views"]["state"]
    assert [row["file"] for row in spec["rows"]] == ["sub-01.npz"]
    assert plan.Plan(config).modules("render", **names) == [
        f"engram.datasets.{simulated['kind']}",
        "engram.views.annotations",
    ]
    for change in ({"windows": {"length": 4, "step": 4}}, {"seed": 99}):
        other = copy.deepcopy(config)
        other["datasets"]["simulated"] |= change
        assert plan.Plan(other).spec("render", **names) != spec
    other = copy.deepcopy(config)
    other["datasets"]["simulated"]["title"] = "Another"
    assert plan.Plan(other).spec("render", **names) == spec


def test_a_gpu_is_asked_for_where_a_component_can_use_one(config):
    this = plan.Plan(config)
    assert this.gpus("extract", backbone="clip_random") == 1
    assert this.gpus("extract", backbone="bandpower") == 0
    assert this.gpus("train", experiment="eeg_clip") == 1
    config["experiments"]["eeg_clip"]["head"] = "forest"
    assert plan.Plan(config).gpus("train", experiment="eeg_clip") == 0


def test_figures_of_an_experiment_and_a_map_where_it_is_asked_for(config):
    config |= {"run": ["eeg_cnn", "eeg_clip"], "maps": ["eeg_clip"]}
    figures = set(plan.Plan(config).figures())
    assert {path for path in figures if "/map." in path} == {
        f"results/demo/figures/eeg_clip/map.{suffix}" for suffix in ("json", "png")
    }
    for name in ("eeg_bandpower", "eeg_cnn", "eeg_clip"):
        assert f"results/demo/figures/{name}/confusion.svg" in figures


def test_experiments_of_the_report_whose_head_predicts_have_a_card(config):
    config |= {"run": ["eeg_bandpower", "eeg_clip"]}
    config["heads"]["adapter"] = {"kind": "compare"}
    assert plan.Plan(config).cards() == ["eeg_bandpower"]
    for asked, kept in ((True, ["eeg_bandpower", "eeg_clip"]), (False, ["eeg_bandpower"])):
        config["heads"]["adapter"] = {"kind": "ridge", "coefficients": asked}
        assert plan.Plan(config).cards() == kept


def test_what_is_told_of_data_and_weights_reruns_the_card_alone(config):
    assert plan.Plan(config).spec("card", experiment="eeg_clip")["licences"] == {}
    config["backbones"]["clip_random"] |= {"weights": "published", "checkpoint": "there"}
    config["checkpoints"]["there"] = {"url": "https://example.org/w.pt", "licence": "MIT"}
    before = plan.Plan(config).spec("train", experiment="eeg_clip")
    config["datasets"]["simulated"] |= {"title": "Sleepy", "licence": "CC0"}
    config["checkpoints"]["there"]["licence"] = "mine"
    spec = plan.Plan(config).spec("card", experiment="eeg_clip")
    assert spec["data"] == {"title": "Sleepy", "licence": "CC0"}
    assert spec["licences"] == {"spectrogram/clip_random": "mine"}
    config["heads"]["adapter"] = {"kind": "finetune", "backbone": "clip_random"}
    config["experiments"]["eeg_clip"] |= {"x": "spectrogram"}
    assert plan.Plan(config).spec("card", experiment="eeg_clip")["licences"] == {"head": "mine"}
    config["heads"]["adapter"] = {"kind": "adapter"}
    config["experiments"]["eeg_clip"] |= {"x": "spectrogram/clip_random"}
    assert plan.Plan(config).spec("train", experiment="eeg_clip") == before


def test_pictures_are_those_of_the_first_source(config):
    this = plan.Plan(config)
    assert this.pictures("both_clip") == this.stores("both_clip", "spectrogram")
    assert this.pictures("eeg_cnn") == this.stores("eeg_cnn", "spectrogram")


def test_what_all_subjects_share_is_made_once():
    config = studied("things_eeg2_simulated")
    this = plan.Plan(config)
    assert this.units("things") == ["sub-01", "sub-02", "sub-03"]
    features = "results/features/things/stimuli/stimulus"
    assert this.y("things_both") == [f"{features}/pixels.h5", f"{features}/alexnet_random.h5"]
    assert this.pictures("things_both") == ["results/views/things/stimuli/stimulus.h5"]
    assert this.x("things_both") == [f"results/views/things/sub-0{i}/epochs.h5" for i in (1, 2, 3)]
    assert [row["file"] for row in this.rows("things", "stimuli")] == [
        "image_metadata.npy", "training_images.zip", "test_images.zip",
    ]  # fmt: skip


# ---- files ----------------------------------------------------------------------------


def made(tmp_path, *files):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()


def test_patterns_are_filled_in_with_units_and_every_name(config):
    config["datasets"]["there"] = {
        "kind": "osf_vigilance",
        "source": {"osf": "abcde"},
        "units": ["s1", "s2"],
        "files": ["{unit}/{run}_{region}.png", "labels_{unit}.csv"],
        "run": ["a", "b"],
        "region": ["x", "y"],
    }
    rows = plan.Plan(config).rows("there", "s2")
    assert [row["file"] for row in rows] == [
        "s2/a_x.png", "s2/a_y.png", "s2/b_x.png", "s2/b_y.png", "labels_s2.csv",
    ]  # fmt: skip
    assert rows[1] == {"unit": "s2", "run": "a", "region": "y", "file": "s2/a_y.png"}


def test_data_under_an_agreement_wait_for_it(config):
    there = {"kind": "eeg_recordings", "source": {"osf": "abcde"}, "units": ["s1"]}
    there |= {"files": ["{unit}.edf"], "terms": "https://example.org/agreement"}
    config["datasets"]["there"] = there
    with pytest.raises(InputError, match=r"agreement.*terms_accepted: true"):
        plan.Plan(config).raw("there", "s1")
    there["terms_accepted"] = True
    assert plan.Plan(config).raw("there", "s1") == ["resources/raw/there/s1.edf"]


def test_a_folder_of_ones_own_is_under_no_agreement(config, tmp_path):
    made(tmp_path, "s1.edf")
    config["datasets"]["there"] = {
        "kind": "eeg_recordings", "folder": str(tmp_path), "units": ["s1"],
        "files": ["{unit}.edf"], "terms": "https://example.org/agreement",
    }  # fmt: skip
    assert plan.Plan(config).raw("there", "s1") == [str(tmp_path / "s1.edf")]


def test_files_that_are_put_there_by_hand_have_a_shelf_of_their_own(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["datasets"]["there"] = {
        "kind": "eeg_recordings", "source": {"osf": "abcde"}, "units": ["s1"],
        "files": ["{unit}.edf", "own.csv"], "by_hand": ["own.csv"],
    }  # fmt: skip
    with pytest.raises(InputError, match=r"resources/by_hand/there/own.csv is missing"):
        plan.Plan(config).raw("there", "s1")
    made(tmp_path, "resources/by_hand/there/own.csv")
    assert plan.Plan(config).raw("there", "s1") == [
        "resources/raw/there/s1.edf",
        "resources/by_hand/there/own.csv",
    ]


def test_a_published_dataset_has_a_list_of_its_own_and_weights_have_one():
    this = plan.Plan({"datasets": {"there": {"source": {"osf": "abcde"}}, "made": {}}})
    assert this.lock("raw", "there") == "config/locks/there.csv"
    assert this.lock("weights", "clip") == "config/locks/weights.csv"
    assert this.listed("raw", "there") == ["config/locks/there.csv"]
    assert this.listed("raw", "made") == this.listed("weights", "clip") == []
    assert this.spec("listing", dataset="there") == {"source": {"osf": "abcde"}}
    with pytest.raises(InputError, match="datasets.made has no `source`"):
        this.spec("listing", dataset="made")


def test_a_file_that_no_dataset_has_is_not_fetched(config):
    with pytest.raises(InputError, match="datasets.simulated has no file nothing.npz"):
        plan.Plan(config).spec("download", shelf="raw", name="simulated", file="nothing.npz")


# ---- comparisons ---------------------------------------------------------------------


@pytest.fixture
def compared(config):
    """The default configuration with a comparison of three backbones, one the other's control."""
    config["backbones"] |= {
        "dinov2": {"kind": "timm", "model": "vit_small_patch14_dinov2", "title": "DINOv2"},
        "dinov2_random": {"kind": "timm", "model": "vit_small_patch14_dinov2", "seed": 4},
    }
    config["backbones"]["dinov2"]["weights"] = "dinov2.safetensors"
    config["comparisons"] = {
        "vision": {
            "dataset": "simulated",
            "view": "spectrogram",
            "y": "state",
            "head": "linear",
            "baseline": "eeg_bandpower",
            "backbones": ["dinov2", "dinov2_random", "clip_random"],
            "seeds": 1,
            "folds": "group_kfold",
        }
    }
    config |= {"run": [], "compare": ["vision"]}
    configuration.check(config, SCHEMA)
    return config


def test_a_comparison_is_an_ordinary_experiment_a_backbone(compared):
    this = plan.Plan(compared)
    names = ["vision-dinov2", "vision-dinov2_random", "vision-clip_random"]
    assert list(this.members("vision")) == names
    assert this.known["vision-dinov2"] == {
        "title": "DINOv2",
        "dataset": "simulated",
        "x": "spectrogram/dinov2",
        "y": "state",
        "head": "linear",
        "baseline": "eeg_bandpower",
        "seeds": 1,
        "folds": "group_kfold",
    }
    assert this.known["vision-clip_random"]["title"] == "CLIP ViT-B/32, random"
    assert this.experiments() == ["eeg_bandpower", *names]
    written = compared["experiments"] | {"alone": this.known["vision-clip_random"]}
    alone = plan.Plan(compared | {"experiments": written})
    for stage in ("train", "evaluate"):
        member, ordinary = (
            alone.spec(stage, experiment=n) for n in ("vision-clip_random", "alone")
        )
        assert member | {"experiment": None} == ordinary | {"experiment": None}


def test_members_stand_in_the_comparison_and_not_beside_it(compared):
    this = plan.Plan(compared)
    assert this.shown() == []
    files = ("comparison.svg", "cka.svg")
    assert this.figures() == [f"results/demo/figures/vision/{file}" for file in files]
    compared["run"] = ["vision-clip_random"]
    configuration.check(compared, SCHEMA)
    assert plan.Plan(compared).shown() == ["eeg_bandpower", "vision-clip_random"]


def test_what_a_comparison_measures(compared):
    this = plan.Plan(compared)
    spec = this.spec("compare", comparison="vision")["members"]
    assert [m["experiment"] for m in spec] == [
        "vision-dinov2", "vision-dinov2_random", "vision-clip_random", "eeg_bandpower",
    ]  # fmt: skip
    assert [m["is_baseline"] for m in spec] == [False, False, False, True]
    assert [m["control_of"] for m in spec] == [None, "vision-dinov2", None, None]
    paths = iter(this.compared_features("vision"))
    for member in spec:
        for source, stores in member["sources"]:
            assert all(next(paths).endswith(f"/{source}.h5") for _ in range(stores))
    assert next(paths, None) is None


def test_views_of_a_comparison_stand_side_by_side(compared):
    compared["comparisons"]["vision"]["view"] = ["spectrogram", "fmri_spectrogram"]
    configuration.check(compared, SCHEMA)
    jsonschema.validate(compared, SCHEMA)
    this = plan.Plan(compared)
    both = ["spectrogram/dinov2", "fmri_spectrogram/dinov2"]
    assert this.known["vision-dinov2"]["x"] == both
    first = this.spec("compare", comparison="vision")["members"][0]
    assert first["sources"] == [[source, 6] for source in both]
    assert first["control_of"] is None
    expected = [p for source in both for p in this.stores("vision-dinov2", source)]
    assert this.compared_features("vision")[:12] == expected
    compared["comparisons"]["vision"]["view"] = ["spectrogram", "fmri"]
    refuse(compared, "comparisons.vision: no view 'fmri'")


def test_an_experiment_is_the_guest_of_a_comparison(compared):
    compared["comparisons"]["vision"]["experiments"] = ["eeg_cnn", "eeg_clip"]
    configuration.check(compared, SCHEMA)
    jsonschema.validate(compared, SCHEMA)
    this = plan.Plan(compared)
    assert this.experiments()[-2:] == ["eeg_cnn", "eeg_clip"]
    assert "experiments" not in this.known["vision-dinov2"]
    *_, cnn, clip = this.spec("compare", comparison="vision")["members"]
    assert (cnn["experiment"], cnn["sources"]) == ("eeg_cnn", [])
    assert clip["sources"] == [["spectrogram/clip_random", 6]]
    for guest, message in (
        ("eeg_cn", "vision.experiments: no experiment 'eeg_cn'; did you mean 'eeg_cnn'"),
        ("eeg_bandpower", "vision.experiments: 'eeg_bandpower' is the baseline"),
        ("fmri_clip", "vision.experiments: 'fmri_clip' has another `baseline` than the comparison"),
    ):
        compared["comparisons"]["vision"]["experiments"] = [guest]
        refuse(compared, message)


def test_a_baseline_without_features_of_its_own_is_not_measured(compared):
    choice = {"choose": ["spectrogram/bandpower", "spectrogram/clip_random"]}
    for key, value in (("x", "spectrogram"), ("y", "vigall"), ("x", choice)):
        changed = copy.deepcopy(compared)
        changed["experiments"]["eeg_bandpower"][key] = value
        assert "eeg_bandpower" not in plan.Plan(changed).compared_sources("vision")
    compared["comparisons"]["vision"]["baseline"] = "none"
    configuration.check(compared, SCHEMA)
    assert list(plan.Plan(compared).compared_sources("vision")) == plan.Plan(compared).experiments()


def test_the_title_of_a_backbone_reruns_no_extraction(compared):
    before = plan.Plan(compared).spec("extract", backbone="dinov2")
    compared["backbones"]["dinov2"]["title"] = "another"
    assert plan.Plan(compared).spec("extract", backbone="dinov2") == before


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("compare", ["visoin"], r"compare: no comparison 'visoin'; did you mean 'vision'"),
        (
            "run",
            ["vision-clop"],
            r"run: no experiment 'vision-clop'; did you mean 'vision-clip_random'",
        ),
        ("comparisons.vision.backbnes", [], r"vision.backbnes: .* did you mean 'backbones'"),
        (
            "comparisons.vision.backbones",
            ["clip_rndm"],
            r"no backbone 'clip_rndm'; did you mean 'clip_random'",
        ),
        (
            "comparisons.vision.backbones",
            ["clip_random", "clip_random"],
            r"'clip_random' is listed twice",
        ),
        ("comparisons.vision.backbones", "clip_random", r"vision.backbones: expected a list"),
        ("comparisons.vision.view", "spectogram", r"comparisons.vision: no view 'spectogram'"),
        ("comparisons.vision.head", "liner", r"vision.head: no head 'liner'; did you mean"),
        ("comparisons.vision.baseline", "eeg_bandpwer", r"did you mean 'eeg_bandpower'"),
        ("comparisons.vision.folds", "random_windows", r"vision.folds: .*i_know_this_leaks"),
        ("compare", [], r"run: names no experiment and `compare` no comparison"),
    ],
)
def test_a_mistake_in_a_comparison_is_named(compared, path, value, message):
    *parents, key = path.split(".")
    target = compared
    for parent in parents:
        target = target[parent]
    target[key] = value
    refuse(compared, message)


@pytest.mark.parametrize("missing", ["dataset", "view", "y", "head", "baseline", "backbones"])
def test_a_comparison_needs_what_its_members_share(compared, missing):
    del compared["comparisons"]["vision"][missing]
    refuse(compared, rf"comparisons.vision.*{missing}")


@pytest.mark.parametrize("taken", ["vision", "vision-clip_random"])
def test_no_name_stands_for_two_things(compared, taken):
    compared["experiments"][taken] = compared["experiments"]["eeg_clip"]
    refuse(compared, f"comparisons.vision: '{taken}' is a name in experiments.{taken} already")


def test_two_comparisons_may_not_make_the_same_member(compared):
    compared["backbones"]["b-clip_random"] = compared["backbones"]["clip_random"]
    vision = compared["comparisons"].pop("vision")
    compared["comparisons"]["a"] = vision | {"backbones": ["b-clip_random"]}
    compared["comparisons"]["a-b"] = vision | {"backbones": ["clip_random"]}
    refuse(compared, "comparisons.a-b: 'a-b-clip_random' is a name in comparisons.a already")


def test_paths_are_the_names_in_the_configuration(config):
    this = plan.Plan(config)
    assert this.store("simulated", "sub-01", "state") == "results/views/simulated/sub-01/state.h5"
    assert this.store("simulated", "sub-01", "spectrogram/clip_random") == (
        "results/features/simulated/sub-01/spectrogram/clip_random.h5"
    )
    assert this.raw("simulated", "sub-02") == ["resources/raw/simulated/sub-02.npz"]
    assert len(this.x("both_clip")) == 12
    assert this.sources("both_clip") == ["spectrogram/clip_random", "fmri_spectrogram/clip_random"]


def test_a_unit_does_not_depend_on_the_others(config):
    before = plan.Plan(config).spec("render", dataset="simulated", unit="sub-01", view="state")
    config["datasets"]["simulated"]["units"].append("sub-09")
    after = plan.Plan(config).spec("render", dataset="simulated", unit="sub-01", view="state")
    assert before == after


def test_the_order_of_keys_does_not_matter(config):
    other = copy.deepcopy(config)
    other["views"]["spectrogram"] = dict(reversed(other["views"]["spectrogram"].items()))
    names = {"dataset": "simulated", "unit": "sub-01", "view": "spectrogram"}
    specs = [repr(plan.Plan(c).spec("render", **names)) for c in (config, other)]
    assert specs[0] == specs[1]


def local(config, tmp_path, manifest):
    (tmp_path / "list.csv").write_text(manifest)
    config["datasets"]["local"] = {
        "kind": "eeg_recordings",
        "folder": str(tmp_path),
        "manifest": "list.csv",
        "windows": {"length": 30, "step": 15},
    }
    return plan.Plan(config)


def test_a_manifest_lists_units_and_files(config, tmp_path):
    text = "subject,scan,file,state\ns1,a,1.edf,x\ns2,a,2.edf,y\ns1,b,3.edf,y\n"
    this = local(config, tmp_path, text)
    assert this.units("local") == ["s1", "s2"]
    assert [row["file"] for row in this.rows("local", "s1")] == ["1.edf", "3.edf"]
    with pytest.raises(InputError, match=r"1\.edf is missing; put the data there"):
        this.raw("local", "s1")


def test_a_column_of_a_manifest_may_say_which_unit_a_recording_is_of(config, tmp_path):
    text = "subject,scan,file,unit\ns1,a,1.edf,first\ns2,a,2.edf,first\ns3,a,3.edf,\n"
    this = local(config, tmp_path, text)
    assert this.units("local") == ["first", "s3"]
    assert [row["file"] for row in this.rows("local", "first")] == ["1.edf", "2.edf"]
    assert [row["unit"] for row in this.rows("local", "s3")] == ["s3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,scan,file\n", "list.csv: the manifest lists no recording"),
        ("subject,file\ns1,1.edf\n", "list.csv, line 1: no column `scan`"),
        ("subject,scan,file\ns1,,1.edf\n", "list.csv, line 2: no value for `scan`"),
        (
            "subject,scan,file\ns1,a,1.edf\ns1,a,2.edf\n",
            "2 and 3: listed twice: subject s1, scan a",
        ),
    ],
)
def test_a_broken_manifest_is_refused(config, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        local(config, tmp_path, text).units("local")


def test_a_missing_manifest_is_named(config, tmp_path):
    this = local(config, tmp_path, "")
    (tmp_path / "list.csv").unlink()
    with pytest.raises(InputError, match=r"local.manifest: no file list.csv nor .*list.csv"):
        this.units("local")


def test_a_region_spelt_another_way_is_suggested(config, tmp_path):
    (tmp_path / "s1_Heschl’s gyrus.png").touch()
    config["datasets"]["local"] = {
        "kind": "osf_vigilance",
        "folder": str(tmp_path),
        "units": ["s1"],
        "files": ["{unit}_{regions}.png"],
        "regions": ["Heschl's gyrus"],
    }
    with pytest.raises(InputError, match=r"is missing \(there is .*Heschl’s gyrus"):
        plan.Plan(config).raw("local", "s1")


def test_every_store_stands_under_the_name_of_its_source(config):
    this = plan.Plan(config)
    for stage in ("train", "evaluate"):
        paths = iter(this.x("both_clip"))
        for source, count in this.spec(stage, experiment="both_clip")["sources"]:
            assert all(next(paths).endswith(f"/{source}.h5") for _ in range(count))
        assert next(paths, None) is None


# ---- backbones ------------------------------------------------------------------------


@pytest.fixture
def published(config):
    """A configuration with one published backbone and one that is like it."""
    config["checkpoints"]["there"] = {"url": "https://example.org/a/w.pt?raw=1", "licence": "MIT"}
    config["backbones"] |= {
        "base": {
            "kind": "timm",
            "title": "Base",
            "model": "vit_base_patch16_224.dino",
            "weights": "published",
            "checkpoint": "there",
        },
        "middle": {"like": "base", "layer": "blocks.6"},
        "control": {"like": "middle", "weights": "random"},
        "tiny": {"kind": "timm", "model": "test_vit.r160_in1k"},
    }
    return config


def test_a_backbone_takes_what_it_does_not_say_from_the_one_it_is_like(published):
    configuration.check(published, SCHEMA)
    this = plan.Plan(published)
    middle = this.spec("extract", backbone="middle")["backbone"]
    assert middle == {
        "kind": "timm",
        "layer": "blocks.6",
        "model": "vit_base_patch16_224.dino",
        "weights": "published",
    }
    control = this.spec("extract", backbone="control")["backbone"]
    assert control == middle | {"weights": "random"}


def test_a_label_file_of_a_manifest_is_fetched_as_itself(config, tmp_path):
    config["datasets"]["there"] = {
        "kind": "eeg_recordings",
        "source": {"osf": "abcde"},
        "manifest": str(tmp_path / "list.csv"),
    }
    (tmp_path / "list.csv").write_text("subject,scan,file,labels\ns1,a,s1/a.edf,s1/a.csv\n")
    this = plan.Plan(config)
    folder = "resources/raw/there"
    assert this.raw("there", "s1") == [f"{folder}/s1/a.edf", f"{folder}/s1/a.csv"]
    for file in ("s1/a.edf", "s1/a.csv"):
        spec = this.spec("download", shelf="raw", name="there", file=file)
        assert spec == {"source": {"osf": "abcde"}, "row": {"file": file}}


def test_a_new_subject_fetches_no_file_again_that_others_share(config):
    this = {
        "kind": "eeg_recordings",
        "source": {"osf": "abcde", "archive": "{unit}.zip"},
        "files": ["{unit}/rest.edf", "labels.csv"],
    }
    for units in (["s1", "s2"], ["s1", "s2", "s3"]):
        config["datasets"]["there"] = this | {"units": units}
        spec = plan.Plan(config).spec("download", shelf="raw", name="there", file="labels.csv")
        assert spec["row"] == {"file": "labels.csv", "unit": "s1"}


@pytest.mark.parametrize("file", ["/data/a.edf", "../a.edf", "s1/../../a.edf"])
def test_a_file_outside_of_what_is_fetched_is_refused(config, tmp_path, file):
    this = local(config, tmp_path, f"subject,scan,file\ns1,a,{file}\n")
    assert this.units("local") == ["s1"]
    del config["datasets"]["local"]["folder"]
    config["datasets"]["local"]["manifest"] = str(tmp_path / "list.csv")
    with pytest.raises(InputError, match=r"list\.csv: '.*a\.edf' lies outside of what is fetched"):
        plan.Plan(config).units("local")


def test_how_a_dataset_is_read_is_no_reason_to_fetch_it_again(config):
    things = {
        "kind": "things_eeg2",
        "source": {"osf": "abcde", "archive": "{unit}.zip"},
        "units": ["sub-01"],
        "files": ["{unit}/test.npy"],
    }
    file = {"shelf": "raw", "name": "there", "file": "sub-01/test.npy"}

    def made_of(**options):
        config["datasets"]["there"] = things | options
        this = plan.Plan(config)
        return this.spec("download", **file), this.modules("download", **file)

    expected = {"file": "sub-01/test.npy", "unit": "sub-01"}  # the archive is named by the unit
    assert made_of() == ({"source": things["source"], "row": expected}, ["engram.sources.osf"])
    assert made_of(whiten_with="both", seed=1) == made_of()
    assert made_of(source={"osf": "fghij"}) != made_of()


def test_only_what_is_published_makes_connections():
    this = plan.Plan({"datasets": {"there": {"source": {"osf": "abcde"}}, "made": {}}})
    assert this.connections("raw", "there") == 1
    assert this.connections("weights", "made") == 1
    assert this.connections("raw", "made") == 0


def test_published_weights_are_downloaded_and_random_ones_are_not(published):
    this = plan.Plan(published)
    assert this.weights("middle") == "resources/weights/there/w.pt"
    assert this.weights("control") == []
    spec = this.spec("download", shelf="weights", name="there", file="w.pt")
    assert spec == {"checkpoint": {"licence": "MIT", "url": "https://example.org/a/w.pt?raw=1"}}
    published["backbones"]["base"]["weights"] = "/data/mine.pt"
    assert plan.Plan(published).weights("middle") == "/data/mine.pt"


def test_where_weights_come_from_is_no_reason_to_encode_again(published):
    before = plan.Plan(published).spec("extract", backbone="base")
    published["checkpoints"]["there"]["url"] = "https://example.org/b/w.pt"
    published["backbones"]["base"]["title"] = "Another title"
    assert plan.Plan(published).spec("extract", backbone="base") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": {"like": "control"}}, r"backbones\.base\.like: goes in a circle"),
        ({"middle": {"like": "bse"}}, r"no backbone 'bse'; did you mean 'base'"),
        ({"base": {"checkpoint": "ther"}}, r"base.checkpoint: no checkpoint 'ther'; did you mean"),
        ({"control": {"modl": "x"}}, r"control\.modl: unknown key of kind 'timm'"),
        ({"tiny": {"weights": "published"}}, r"tiny\.weights: published where\? name a"),
    ],
)
def test_a_mistake_in_a_backbone_is_named(published, change, message):
    for name, keys in change.items():
        published["backbones"][name] |= keys
    refuse(published, message)


def test_two_names_for_one_backbone_in_use_are_refused(published):
    published["backbones"]["twin"] = {"like": "clip_random", "title": "Another name"}
    configuration.check(published, SCHEMA)
    published["experiments"]["eeg_cnn"]["x"] = "spectrogram/twin"
    refuse(published, "backbones.twin: the same as 'clip_random'; use one name")


def test_the_format_of_stores_is_chosen_in_one_place(config):
    config["store"] = "zarr"
    configuration.check(config, SCHEMA)
    assert all(path.endswith(".zarr") for path in plan.Plan(config).x("both_clip"))
    assert {f".{suffix}" for suffix in plan.STORES} == set(store.formats.FORMATS)


def test_every_publisher_is_a_module_of_sources():
    modules = {path.stem for path in (ROOT / "src/engram/sources").glob("[!_]*.py")}
    assert set(components.PUBLISHERS) == modules


def test_a_head_goes_with_what_it_learns(config):
    config["heads"]["nice"] = {"kind": "nice"}
    config["experiments"]["eeg_clip"]["head"] = "nice"
    refuse(config, "eeg_clip: head 'nice' answers pairs, but y is state")
    config["experiments"]["eeg_clip"] |= {"head": "linear", "y": "spectrogram/clip_random"}
    refuse(config, "eeg_clip: head 'linear' answers classes, values, but y is spectrogram")


def test_a_view_of_numbers_makes_another_task_than_one_of_classes(config):
    config["views"]["trait"] = {"kind": "fact", "column": "trait"}
    config["views"]["group"] = {"kind": "fact", "column": "group", "classes": ["low", "high"]}
    numbers = config["experiments"]["eeg_bandpower"] | {"y": "trait"}
    config["experiments"] |= {"numbers": numbers, "classes": numbers | {"y": "group"}}
    config["run"] = ["numbers", "classes"]
    configuration.check(config, SCHEMA)
    this = plan.Plan(config)
    assert (this.task("numbers"), this.task("classes")) == ("values", "classes")
    assert this.folds("numbers") == "group_kfold"
    assert this.modules("train", experiment="numbers")[0] == "engram.tasks.values"
    assert this.pictures("numbers") == []
    names = [p.rpartition("/")[2] for p in this.figures() if "/numbers/" in p]
    assert names == ["predicted.svg", "residuals.svg"]
    config["experiments"]["numbers"]["head"] = "adapter"
    refuse(config, "head 'adapter' answers classes, but y is trait; .*values a view of numbers")
    config["experiments"]["numbers"] |= {"head": "forest", "folds": "blocked"}
    refuse(config, "numbers.folds: no way to split 'blocked'")
    config["experiments"]["numbers"]["folds"] = "leave_one_subject_out"
    config["maps"] = ["numbers"]
    refuse(config, "maps: 'numbers' has no classes to map")


def test_a_comparison_can_ask_for_numbers(compared):
    compared["views"]["trait"] = {"kind": "fact", "column": "trait"}
    compared["comparisons"]["vision"] |= {"y": "trait", "head": "linear", "baseline": "none"}
    configuration.check(compared, SCHEMA)
    this = plan.Plan(compared)
    assert {this.task(name) for name in this.members("vision")} == {"values"}
    assert this.pictures("vision-dinov2") == []


def test_a_comparison_of_retrievals_is_refused(compared):
    changes = {"y": "spectrogram/clip_random", "head": "nice", "folds": "within"}
    compared["heads"]["nice"] = {"kind": "nice"}
    compared["comparisons"]["vision"] |= changes
    refuse(compared, "comparisons.vision: its members ask pairs, but .* one experiment a backbone")


def test_the_names_of_a_head_and_of_an_experiment_are_no_part_of_what_trains(config):
    before = plan.Plan(config).spec("train", experiment="eeg_clip")
    config["heads"]["renamed"] = config["heads"]["adapter"]
    config["experiments"]["renamed"] = config["experiments"]["eeg_clip"] | {"head": "renamed"}
    assert plan.Plan(config).spec("train", experiment="renamed") == before
    config["heads"]["renamed"] = config["heads"]["adapter"] | {"epochs": 3}
    assert plan.Plan(config).spec("train", experiment="renamed") != before
    config["experiments"]["eeg_clip"]["folds"] = "blocked"
    assert plan.Plan(config).spec("train", experiment="eeg_clip") != before


def test_units_and_what_they_share_fit_the_manifest(config, tmp_path):
    this = local(config, tmp_path, "subject,scan,file\nsub-01,scan-01,a.edf\n")
    config["datasets"]["local"]["units"] = ["sub-02"]
    with pytest.raises(InputError, match=r"local: no unit 'sub-02' in the manifest, .*sub-01"):
        this.rows("local", "sub-02")
    config["datasets"]["local"]["shared"] = {"sub-01": ["b.edf"]}
    with pytest.raises(InputError, match=r"local.shared: 'sub-01' is a unit of .*list.csv already"):
        plan.Plan(config).rows("local", "sub-02")


# ---- tracking --------------------------------------------------------------------------


def test_nothing_is_tracked_unless_that_is_configured(config):
    assert plan.Plan(config).tracked() == []
    config["tracking"] = {"wandb": {"mode": "online"}}
    this = plan.Plan(config)
    assert this.tracked() == [f"results/demo/tracking/{name}.json" for name in this.experiments()]
    assert this.spec("track", experiment="eeg_clip") == {
        "experiment": "eeg_clip",
        "configured": {
            "dataset": "simulated",
            "x": "spectrogram/clip_random",
            "y": "state",
            "head": "adapter",
            "seeds": 2,
        },
        "group": config["title"],
        "wandb": {"checkpoint": False, "entity": None, "mode": "online", "project": "engram"},
    }


def test_a_model_and_figures_are_tracked_where_there_are_some(config):
    config["tracking"] = {"wandb": {"checkpoint": True}}
    this = plan.Plan(config)
    shown, *_ = this.shown()
    assert this.tracked_model(shown) == [f"results/demo/models/{shown}.safetensors"]
    assert f"results/demo/figures/{shown}/curves.svg" in this.tracked_figures(shown)
    assert {Path(path).suffix for path in this.tracked_figures(shown)} <= {".svg", ".png"}
    config["tracking"] = {"wandb": {}}
    assert plan.Plan(config).tracked_model(shown) == []


@pytest.mark.parametrize(
    ("key", "value"), [("mode", "onlin"), ("checkpoint", "yes"), ("project", ""), ("entity", 3)]
)
def test_values_of_the_wrong_kind_are_refused(config, key, value):
    config["tracking"] = {"wandb": {key: value}}
    refuse(config, f"tracking.wandb.{key}: expected .*{re.escape(repr(value))}")


def test_an_empty_choice_of_subjects_is_refused(study):
    this = study("semantoks_simulated")
    this["backbones"]["semantoks_1"]["pretrain"]["subjects"] = {}
    refuse(this, "semantoks_1.pretrain.subjects: needs 1 or more keys, has 0")


# ---- retrieval --------------------------------------------------------------------------


def studied(name):
    """The configuration of a shipped study."""
    config = {}
    for file in ("config/config.yaml", "config/backbones.yaml", f"config/studies/{name}.yaml"):
        for key, value in read(file).items():
            both = isinstance(value, dict) and key in config
            config[key] = {**config[key], **value} if both else value
    return config


@pytest.mark.parametrize("name", ["things_eeg2", "things_eeg2_simulated"])
def test_the_published_protocol_is_refused_without_a_clean_one_beside_it(name):
    config = studied(name)
    configuration.check(config, SCHEMA)
    published = [
        name
        for name, this in config["experiments"].items()
        if config["heads"][this["head"]].get("select_on") == "test"
    ]
    assert published
    shown = plan.Plan(config).shown()
    for one in published:
        this = config["experiments"][one]
        assert shown.index(this["baseline"]) < shown.index(one)
        kept = this["baseline"]
        for baseline in ("none", one):
            this["baseline"] = baseline
            refuse(config, "chooses its epoch on the test pictures; name as `baseline`")
        this["baseline"] = kept


def test_a_clean_experiment_beside_the_published_protocol_is_of_the_same_data():
    config = studied("things_eeg2_simulated")
    config["datasets"]["other"] = config["datasets"]["things"]
    config["experiments"]["elsewhere"] = config["experiments"]["things_pixels"] | {
        "dataset": "other"
    }
    config["experiments"]["things_published"]["baseline"] = "elsewhere"
    refuse(config, "chooses its epoch on the test pictures; name as `baseline`")
    config["experiments"]["things_published"]["baseline"] = "twin"
    config["experiments"]["twin"] = config["experiments"]["things_published"] | {
        "baseline": "things_pixels"
    }
    refuse(config, "chooses its epoch on the test pictures; name as `baseline`")


def test_encoders_that_are_compared_differ_in_the_alignment_alone():
    config = studied("things_eeg2")
    this = plan.Plan(config)
    for name in ("synclr", "dino", "clip"):
        aligned, plain = (
            this.spec("extract", backbone=this.targets(experiment)[0].partition("/")[2])["backbone"]
            for experiment in (f"things_dreamsim_{name}", f"things_{name}")
        )
        assert plain == aligned | {"aligned": False}


# ---- what the command line asks for -----------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("results/demo/scores/eeg_clip.json", None),
        ("results/demo/figures/eeg_clip/curves.svg", None),
        ("results/demo/report.html", None),
        ("results/views/simulated/sub-01/state.h5", None),
        ("results/logs/render/x/y/z.log", None),
        ("results/other", None),
        ("results/other.html", None),
        ("--cores", None),
        ("results/other/report.html", "belongs to the study 'other', but this is 'demo'; name the"),
        ("results/null/models/eeg_clip.safetensors", "belongs to the study 'null', but this is"),
        ("results/demo/scores/eeg_clp.json", "no experiment 'eeg_clp'; did you mean 'eeg_clip'"),
        ("results/views/simulatd/sub-01/state.h5", "no dataset 'simulatd'; did you mean 'simul"),
        ("results/features/simulated/sub-1/state/x.h5", "no unit 'sub-1'; did you mean 'sub-01'"),
    ],
)
def test_what_no_rule_makes_is_named_with_what_was_meant(config, target, message):
    arguments = ["snakemake", target]
    if message is None:
        check_asked(plan.Plan(config), arguments)
    else:
        with pytest.raises(InputError, match=f"^{re.escape(target)}: {message}"):
            check_asked(plan.Plan(config), arguments)


# ---- what a backbone takes ---------------------------------------------------------------


def test_a_view_whose_rows_a_backbone_does_not_take_is_refused_before_anything_runs(config):
    first = next(iter(config["experiments"]))
    for kind, view, says in (
        ("connectome", {"kind": "multitaper"}, "takes timeseries rows, but the view 'one' holds s"),
        ("bandpower", {"kind": "timeseries"}, "takes spectrogram rows, but the view 'one' holds t"),
        (
            "identity",
            {"kind": "vigall"},
            "takes timeseries or epochs rows, but the view 'one' holds no",
        ),
    ):
        changed = copy.deepcopy(config)
        changed["views"]["one"], changed["backbones"]["other"] = view, {"kind": kind}
        changed["experiments"][first]["x"] = "one/other"
        refuse(changed, rf"experiments\.{first}: backbone 'other' {says}")


def test_what_rows_have_to_be_is_an_input_of_extraction_alone(config):
    name = next(iter(config["backbones"]))
    before = plan.Plan(config).spec("extract", backbone=name)
    config["backbones"][name]["takes"] = {"band": [0.01, 0.1], "unit": None}
    configuration.check(config, SCHEMA)
    after = plan.Plan(config).spec("extract", backbone=name)
    assert after == before | {"takes": {"band": [0.01, 0.1], "unit": None}}


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        ({"bnad": [1, 2]}, r"takes\.bnad: unknown key; did you mean 'band'"),
        ({"tr": 0}, r"takes\.tr: has to be more than 0"),
        ({"normalisation": "z"}, r"takes\.normalisation: .*scan"),
        ({"band": [1]}, r"takes\.band: needs 2 or more"),
    ],
)
def test_a_mistake_in_what_a_backbone_takes_is_named(config, takes, message):
    config["backbones"][next(iter(config["backbones"]))]["takes"] = takes
    refuse(config, message)


def test_a_confound_is_carried_by_every_dataset_that_runs_and_is_not_what_is_predicted(study):
    this = study("connectome_simulated")
    configuration.check(this, SCHEMA)
    asked = [
        plan.Plan(this).spec("evaluate", experiment=name)["evaluation"]["confounds"]
        for name in ("sex_network", "age_network")
    ]
    assert asked == [["age"], ["sex"]]
    this["evaluation"]["confounds"] = ["age", "site"]
    refuse(
        this, "evaluation.confounds: dataset 'traits' does not carry 'site'; it carries sex, age"
    )
