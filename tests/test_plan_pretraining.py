"""What a configuration says of pretraining: stores, names, what is refused, what was seen."""

import copy

import pytest
from test_plan import SCHEMA, merge, read

from engram.errors import InputError
from engram.planning import configuration, plan

LEARNT = {
    "datasets": {
        "one": {"kind": "roi_series", "manifest": "one.csv", "folder": ".", "windows": "scan"},
        "group": {"kind": "simulated_fmri", "units": ["a", "b"], "files": ["{unit}.h5"],
                  "windows": "scan", "published_as": ["uk-biobank"]},
    },
    "views": {"rois": {"kind": "timeseries"}, "sex": {"kind": "fact", "column": "sex",
              "classes": ["f", "m"]}},
    "backbones": {
        "own": {
            "kind": "semantoks", "weights": "pretrained", "width": 64,
            "pretrain": {"objective": "self_distillation", "view": "rois", "datasets": ["group"],
                         "epochs": 9, "keep": [2, 4]},
        },
        "early": {"like": "own", "epoch": 4},
        "mean": {"like": "own", "pooling": "mean", "crops": 1},
        "deep": {"like": "own", "depth": 3},
        "drawn": {"like": "own", "weights": "random"},
        "theirs": {"kind": "semantoks", "weights": "published", "checkpoint": "semantoks"},
    },
    "checkpoints": {"semantoks": {"url": "https://x/w.pth", "licence": "none"}},
    "heads": {"tuned": {"kind": "finetune", "backbone": "early"}},
    "experiments": {
        "tuned": {"dataset": "group", "x": "rois", "y": "sex", "head": "tuned", "baseline": "none"},
        "theirs": {"dataset": "group", "x": "rois/theirs", "y": "sex", "head": "linear",
                   "baseline": "none"},
    },
    "run": ["tuned"], "compare": [], "maps": [],
}  # fmt: skip


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["subject,scan,file,split", "s1,a,1.csv,train", "s2,a,2.csv,test", "s3,a,3.csv,train"]
    (tmp_path / "one.csv").write_text("\n".join(lines))
    vocabulary = merge(read("config/config.yaml"), read("config/backbones.yaml"))
    return merge(vocabulary, copy.deepcopy(LEARNT))


def test_backbones_that_learn_alike_share_weights(config):
    configuration.check(config, SCHEMA)
    this = plan.Plan(config)
    assert this.pretrained() == {"own": [2, 4], "deep": [2, 4]}
    assert this.weights("own") == this.weights("mean") == "results/weights/own.safetensors"
    assert this.weights("early") == "results/weights/own/epoch-4.safetensors"
    assert this.weights("deep") == "results/weights/deep.safetensors"
    assert this.weights("drawn") == []
    assert this.pretrain_views("own") == [f"results/views/group/{u}/rois.h5" for u in "ab"]
    spec = this.spec("pretrain", backbone="own")
    assert spec["backbone"] == {"kind": "semantoks", "weights": "random", "width": 64}
    assert spec["objective"] == {"kind": "self_distillation", "epochs": 9}
    assert {"engram.backbones.semantoks", "engram.objectives.self_distillation"} <= {
        *this.modules("pretrain", backbone="own")
    }


def test_a_head_that_trains_a_backbone_is_told_of_its_weights(config):
    this = plan.Plan(config)
    backbone = this.spec("train", experiment="tuned")["head"]["backbone"]
    assert backbone["file"] == "results/weights/own/epoch-4.safetensors"
    assert backbone["dataset"] == "group"
    assert backbone["backbone"]["width"] == 64
    assert this.head_weights("tuned") == [backbone["file"]]
    assert "engram.backbones.semantoks" in this.modules("train", experiment="tuned")
    assert this.gpus("train", experiment="tuned") == 1


def test_files_that_options_name_are_inputs(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"kind": "brain_jepa", "weights": "random", "gradients": "mine.csv"}
    config["backbones"]["early"] = given
    with pytest.raises(InputError, match=r"backbones.early.gradients: no file mine.csv; correct"):
        plan.Plan(config).named_files("backbones", "early")
    (tmp_path / "mine.csv").touch()
    this = plan.Plan(config)
    assert this.named_files("backbones", "early") == ["mine.csv"]
    assert this.head_weights("tuned") == ["mine.csv"]
    assert this.named_files("backbones", "own") == []


def test_subjects_to_learn_from_are_listed_or_stand_in_a_column(config):
    asked = config["backbones"]["own"]["pretrain"]
    asked |= {"datasets": ["one"], "subjects": {"split": "train"}}
    this = plan.Plan(config)
    assert this.spec("pretrain", backbone="own")["subjects"] == ["one/s1", "one/s3"]
    assert this.pretrain_views("own") == [f"results/views/one/{u}/rois.h5" for u in ("s1", "s3")]
    asked["subjects"] = ["s2"]
    assert plan.Plan(config).pretrain_views("own") == ["results/views/one/s2/rois.h5"]
    for subjects, says in (({"splt": "train"}, "no column 'splt'"), ({"split": "x"}, "split x")):
        asked["subjects"] = subjects
        with pytest.raises(InputError, match=says):
            plan.Plan(config).spec("pretrain", backbone="own")


def test_what_published_weights_have_seen_is_looked_up_by_name(config):
    this = plan.Plan(config)
    spec = this.spec("extract", backbone="theirs", dataset="group")
    assert spec["seen"] == "UK Biobank"
    assert "seen" not in this.spec("extract", backbone="theirs", dataset="one")
    assert this.spec("extract", backbone="own", dataset="group")["dataset"] == "group"
    for file, seen in (
        ("jepa-ep300.pth.tar", {"seen": "UK Biobank"}),
        ("own.pth", {"dataset": "group"}),
    ):
        config["backbones"]["drawn"]["weights"] = f"/data/{file}"
        assert plan.Plan(config).seen_before("drawn", "group") == seen
    assert "dataset" not in this.spec("extract", backbone="own", dataset="one")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pretrain": {"view": "roi"}}, "pretrain.view: no view 'roi'; did you mean 'rois'"),
        ({"pretrain": {"objective": "jepa"}}, "'jepa' pretrains backbones of kind 'brain_jepa'"),
        ({"pretrain": {"datasets": ["grop"]}}, "no dataset 'grop'"),
        ({"pretrain": {"epoch": 3}}, "pretrain.epoch: unknown key"),
        ({"pretrain": {"lr": "fast"}}, "pretrain.lr"),
        ({"pretrain": {"keep": [2, 4, 9]}}, "keep: 9; each is listed once, and lies before"),
        ({"epoch": 3}, "keep: lists no 3, the `epoch` of the backbone"),
        ({"weights": "random", "epoch": 2}, "epoch: belongs to `weights: pretrained`"),
    ],
)
def test_mistakes_are_named(config, change, says):
    own = config["backbones"]["own"]
    for key, value in change.items():
        own[key] = own[key] | value if isinstance(value, dict) else value
    for name in ("early", "mean", "deep", "drawn"):
        del config["backbones"][name]
    config["heads"]["tuned"]["backbone"] = "own"
    with pytest.raises(InputError, match=says):
        configuration.check(config, SCHEMA)


def test_the_same_is_not_learnt_twice(config):
    config["backbones"]["again"] = copy.deepcopy(config["backbones"]["own"])
    with pytest.raises(InputError, match="the same|would learn the same as 'own' once more"):
        configuration.check(config, SCHEMA)
