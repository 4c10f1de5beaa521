"""Heads that train a backbone end to end, and the published probe, against PyTorch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from pretraining import PARCELS
from published import backbone
from safetensors.torch import save_file
from test_heads import fit, task
from torch import nn
from toy import QUICK, features, labels, table

from engram import splits, store, training
from engram.errors import InputError
from engram.heads import finetune, probe
from engram.planning.components import options
from engram.training import Run, Task
from engram.training.schedules import warm_cosine

SERIES = {
    "what": "timeseries", "axes": 2, "channels": PARCELS, "missing": [], "frames": 40, "tr": 2.0,
    "sfreq": 0.5, "unit": "z", "modality": "fmri", "normalisation": "scan", "band": None,
    "row": "scan",
}  # fmt: skip

SHORT = {"width": 8, "depth": 1, "heads": 2, "frames": 40, "patch": 10}

# ---- depth ------------------------------------------------------------------------------


def test_depths_of_a_vision_transformer():
    """Embeddings 0, block i is i + 1, the norm behind them one more."""
    model = timm.create_model("test_vit", num_classes=0)
    found, last = finetune.depths(model)
    n = len(model.blocks)
    assert last == n + 1
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert found[name] == 0
    assert [found[f"blocks.{i}.mlp.fc1.weight"] for i in range(n)] == [*range(1, n + 1)]
    assert {found[name] for name in found if name.startswith("norm.")} == {n + 1}
    assert found.keys() == dict(model.named_parameters()).keys()


def test_depths_of_blocks_inside_of_a_model_and_of_a_model_without():
    blocks = nn.ModuleDict(
        {
            "embedding": nn.Linear(3, 2),
            "tokenizers": nn.ModuleList(nn.Linear(3, 2) for _ in range(5)),
            "body": nn.ModuleDict({"blocks": nn.Sequential(*(nn.Linear(9, 9) for _ in range(3)))}),
            "norm": nn.LayerNorm(9),
        }
    )
    found, last = finetune.depths(blocks)
    assert [found[f"body.blocks.{i}.bias"] for i in range(3)] == [1, 2, 3]
    assert (found["embedding.bias"], found["tokenizers.4.bias"], found["norm.bias"]) == (0, 0, 4)
    assert last == 4
    stages = [nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(9, 9)])}) for _ in range(2)]
    staged = nn.ModuleDict({"stem": nn.Linear(1, 9), "stages": nn.Sequential(*stages)})
    found, last = finetune.depths(staged)
    assert [found[f"stages.{i}.blocks.0.bias"] for i in range(2)] == [1, 2]
    found, last = finetune.depths(nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.Linear(2, 2)))
    assert found == {"0.weight": 1, "0.bias": 1, "2.weight": 3, "2.bias": 3}


@pytest.mark.parametrize(("depth", "width"), [(8, 64), (1, 8)])
def test_depths_of_brain_semantoks(depth, width):
    """Its tokenizers, which hold most where it is small, are no blocks one after the other."""
    model = backbone("semantoks", None, SERIES, **SHORT | {"width": width, "depth": depth})
    found, last = finetune.depths(model.model)
    assert last == depth + 1
    assert {found[f"encoder.{name}"] for name in ("cls", "mask", "places")} == {0}
    assert {found[name] for name in found if ".tokenizer." in name} == {0}
    for i in range(depth):
        assert {found[n] for n in found if f".blocks.{i}." in n} == {i + 1}
    assert found["encoder.norm.bias"] == last


# ---- finetune ---------------------------------------------------------------------------


def one_fold(this):
    return replace(this, folds=this.folds[:1], runs=this.runs[:1])


def test_steps_are_those_of_plain_pytorch():
    """Rates by depth, warmed up and then a cosine; decay on matrices alone; frozen at first.

    A linear layer that is not trained first gives gradients so small that Adam acts on rounding.
    """
    this = one_fold(task("finetune", seeds=1))
    (fold,) = this.folds
    this = replace(this, folds=[replace(fold, validation=fold.train)])  # the last epoch is best
    given = {"epochs": 2, "layer_decay": 0.5, "keep_backbone": True, "frozen_epochs": 1,
             "lr": 3e-4}  # fmt: skip
    found = fit("finetune", this, **given)
    _, asked = options("heads", QUICK["finetune"] | given)
    steps, y, states = -(-len(fold.train) // 16), torch.as_tensor(this.y), []
    weights = torch.tensor(training.class_weights(this.y[fold.train], 2), dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed(0, fold.name))
        net = finetune.Network(*finetune._loaded(this, asked, "cpu"), 2, [0] * 4, "cpu")
        net.begin(this.x[0][:2])
        net.train()
        depths, last = finetune.depths(net.backbone)
        peaks = {f"backbone.{name}": 3e-4 * 0.5 ** (last - depth) for name, depth in depths.items()}
        groups = [
            {"params": [p], "weight_decay": 0.05 * (p.ndim > 1), "name": name}
            for name, p in net.named_parameters()
        ]
        update, step = torch.optim.AdamW(groups, lr=0.0), 0
        for epoch in range(2):
            for at in torch.randperm(len(fold.train)).tensor_split(steps):
                step += 1
                for group in update.param_groups:
                    peak = peaks.get(group["name"], 1e-2)
                    group["lr"] = warm_cosine(step, 2 * steps, 0.5 * steps, 0, peak, 0)
                rows = fold.train[at.numpy()]
                losses = nn.functional.cross_entropy(
                    net(this.x[0][rows]), y[rows], weight=weights, reduction="none"
                )
                update.zero_grad()
                losses.mean().backward()
                if epoch == 0:
                    net.backbone.zero_grad(set_to_none=True)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                update.step()
            net.settle(this.x[0][fold.train], 100)
            states.append({name: value.clone() for name, value in net.state_dict().items()})
    assert found.facts["epoch"] == [[1]]
    for name, value in states[1].items():
        if name in ("backbone.norm.bias", "norm.running_mean"):
            continue  # a shift before a batch norm has no gradient but rounding
        np.testing.assert_allclose(found.state[name][0, 0], value, rtol=2e-3, atol=2e-5)


def test_the_backbone_may_be_frozen_at_first():
    this = one_fold(task("finetune", seeds=1))
    given = {"epochs": 1, "keep_backbone": True}
    found = [
        fit("finetune", this, **given, **more).state
        for more in ({"frozen_epochs": 1}, {"lr": 0.0}, {})
    ]
    frozen, still, trained = found
    inside = [name for name in frozen if name.startswith("backbone.")]
    assert len(inside) > 50
    assert all((frozen[name] == still[name]).all() for name in inside)
    assert any((frozen[name] != trained[name]).any() for name in inside)
    assert (frozen["last.weight"] != 0).all()


def test_numbers_are_learnt_end_to_end():
    facts = table(windows=16)
    y = labels(facts) * 20.0 + 40
    base = task("finetune")
    x = np.stack([base.x[0][np.flatnonzero(base.y == (v > 50))[i % 30]] for i, v in enumerate(y)])
    folds = splits.make(facts, np.zeros(len(y), int), "leave_one_subject_out", seed=0)[:2]
    this = Task([x], ["a"], base.headers, y, [], facts, folds, [Run(0, False, y)])
    found = fit("finetune", this, epochs=8)
    assert found.outputs.dtype == np.float64
    assert np.corrcoef(found.outputs[:, 0, 0], y[this.tested])[0, 1] > 0.8
    assert found.validation.mean() > 0.5


def test_weights_of_a_file_are_where_it_begins_and_what_they_have_seen_is_a_flag(tmp_path):
    model = timm.create_model("test_vit.r160_in1k", num_classes=0)
    path = tmp_path / "weights.safetensors"
    facts = {"datasets": {"here": ["sub-01", "sub-77"], "there": ["sub-77"]}}
    save_file(model.state_dict(), path, {"engram": store.canonical(facts)})
    this = one_fold(task("finetune", seeds=1))
    options = QUICK["finetune"]["backbone"]["backbone"] | {"weights": str(path)}
    backbone = {"backbone": options, "file": str(path)}
    given = {"epochs": 1, "warmup_epochs": 0.0, "lr": 0.0, "keep_backbone": True}
    found = fit("finetune", this, backbone=backbone | {"dataset": "here"}, **given)
    kept = found.state["backbone.blocks.0.attn.qkv.weight"][0, 0]
    np.testing.assert_array_equal(kept, model.state_dict()["blocks.0.attn.qkv.weight"])
    assert found.flags == ("seen",)
    assert fit("finetune", this, backbone=backbone | {"dataset": "there"}, **given).flags == ()
    assert fit("finetune", this, **given).flags == ("random_weights",)
    assert json.dumps(found.facts)


def series_task(n=12, frames=60):
    """Scans of two classes whose regions swing together in one; the last two are short."""
    draw, names = np.random.default_rng(0), SERIES["channels"]
    y = np.arange(n) % 2
    x = draw.standard_normal((n, len(names), frames))
    x += 3 * y[:, None, None] * draw.standard_normal((n, 1, frames))
    x[-2:, :, frames - 8 :] = 0
    facts = table(subjects=[f"sub-{i:02d}" for i in range(n)], windows=1)
    fold = splits.Fold("one", np.arange(8), np.arange(8, 10), np.arange(10, 12))
    x, header = x.astype(np.float32), SERIES | {"frames": frames}
    return Task([x], ["rois"], [header], y, ["a", "b"], facts, [fold], [Run(0, False, y)])


def test_every_fold_begins_with_the_backbone_as_it_was():
    this = series_task()
    this = replace(this, folds=this.folds * 2)
    state = fit("finetune", this, backbone=CROPPED, epochs=1, keep_backbone=True).state
    for name, value in state.items():
        np.testing.assert_array_equal(value[0], value[1], err_msg=name)


def test_subjects_weigh_the_same_in_what_is_learnt_of_numbers():
    """Nothing is learnt at a rate of 0, and the error of the mean is the variance, which is 1."""
    this = series_task()
    subjects = ["a"] * 5 + ["b", "c", "d", *map(str, range(4))]
    facts, y = this.table.assign(subject=subjects), np.arange(12.0) ** 2
    this = replace(this, table=facts, y=y, classes=[], runs=[Run(0, False, y)])
    curves = fit("finetune", this, backbone=CROPPED, epochs=1, lr=0.0, head_lr=0.0).curves
    assert curves["train_loss"][0] == pytest.approx(1, abs=1e-3)


CROPPED = {
    "backbone": {"kind": "semantoks", **SHORT, "crops": 3},
    "takes": dict.fromkeys(("channels", "coverage", "band", "normalisation")),
    "file": None,
}


def test_one_crop_is_trained_on_and_all_of_a_row_are_predicted_from():
    """Statistics of the batch norm are those of crops, outputs the mean over those of a row.

    Labels of validation rows are exchanged, so that the first epoch is the best.
    """
    this = series_task()
    y = np.concatenate([this.y[:8], 1 - this.y[8:10], this.y[10:]])
    this = replace(this, y=y, runs=[Run(0, False, y)])
    given = {"backbone": CROPPED, "epochs": 3, "keep_backbone": True, "batch_size": 4}
    found = fit("finetune", this, **given)
    assert found.facts["epoch"] == [[0]]
    model = backbone("semantoks", None, this.headers[0], **SHORT, crops=3, average=False)
    state = {name: torch.as_tensor(value[0, 0]) for name, value in found.state.items()}
    inside = {n.removeprefix("backbone."): v for n, v in state.items() if "backbone." in n}
    model.model.load_state_dict(inside)
    (fold,), (x,) = this.folds, this.x
    crops = torch.cat([model(x[i : i + 1]) for i in fold.train]).flatten(0, 1)
    for name, value in (("running_mean", crops.mean(0)), ("running_var", crops.var(0))):
        torch.testing.assert_close(state[f"norm.{name}"], value, atol=1e-5, rtol=1e-4)
    crops = torch.cat([model(x[i : i + 1]) for i in fold.test])
    crops = (crops - state["norm.running_mean"]) / (state["norm.running_var"] + 1e-5).sqrt()
    crops = crops * state["norm.weight"] + state["norm.bias"]
    outputs = (crops @ state["last.weight"].T + state["last.bias"]).mean(1).softmax(1)
    np.testing.assert_allclose(found.outputs[:, 0], outputs, atol=1e-4)
    other = fit("finetune", this, **given, augment=[0, 1, 1, 1])
    assert (other.state["last.weight"] != found.state["last.weight"]).all()


def test_a_crop_begins_anywhere_before_the_zeros_behind_a_scan():
    model = backbone("semantoks", None, SERIES | {"frames": 60}, **SHORT).model
    rows = torch.arange(1.0, 61).expand(400, len(SERIES["channels"]), 60).clone()
    rows[200:, :, 52:] = 0
    seen = []

    def change(crops):
        seen.append(crops.clone())
        return crops * 2

    with torch.no_grad():
        found = model.one(rows, change)
        (crops,) = seen
        expected = model.encoder(crops[:1] * 2)
    features = torch.cat([expected[:, 1:].mean(1), expected[:, 0]], 1)
    torch.testing.assert_close(found[:1], features)
    starts = crops[:, 0, 0] - 1
    ramps = (starts[:, None] + torch.arange(1.0, 41))[:, None]
    torch.testing.assert_close(crops, ramps.expand_as(crops))
    assert {*starts[:200].tolist()} == {*range(21)}
    assert {*starts[200:].tolist()} == {*range(13)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"augment": [0, 1, 1]}, "four levels of 0 to 3"),
        ({"augment": [0, 1, 1, 1]}, "changes crops of series; this backbone takes none"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; at most 1"),
        ({"batch_size": 1}, "batch_size is 1; at least 2"),
        ({"accumulate": 9}, "training rows in parts of one row, which have no variance"),
        (
            {"backbone": {"backbone": {"kind": "bandpower"}}},
            "'bandpower' has no weights to train",
        ),
    ],
)
def test_what_finetune_refuses(change, says):
    with pytest.raises(InputError, match=says):
        fit("finetune", task("finetune"), **change)


def test_finetune_takes_one_view_and_no_features():
    this = task("finetune")
    with pytest.raises(InputError, match="takes one view"):
        fit("finetune", replace(this, sources=["a", "b"]))
    with pytest.raises(InputError, match="trains a backbone on a view itself"):
        fit("finetune", task("linear"))


# ---- probe ------------------------------------------------------------------------------


def crops(this, n=3, seed=1):
    """Each row as `n` noisy crops of it."""
    noise = np.random.default_rng(seed).normal(size=(len(this.y), n, this.x[0].shape[1]))
    x = (this.x[0][:, None] + noise).astype(np.float32)
    return replace(this, x=[x])


@pytest.mark.parametrize("numbers", [False, True])
def test_the_probe_is_batch_norm_and_linear_under_sgd(numbers):
    """Against torch's own modules, at the rate that is kept."""
    this = crops(one_fold(task("probe", seeds=1)))
    if numbers:
        y = this.y * 3.0 + np.random.default_rng(0).normal(size=len(this.y))
        this = replace(this, y=y, classes=[], runs=[Run(0, False, y)])
    asked = probe.Options(lr=[0.001, 0.05, 0.01], epochs=6, batch_size=16)
    found = probe.fit(this, asked, "cpu")
    (fold,), k = this.folds, 1 if numbers else 2
    x, y = torch.as_tensor(this.x[0]), torch.as_tensor(this.y)
    rows, crop = np.repeat(fold.train, 3), torch.arange(3).repeat(len(fold.train))
    train = this.y[fold.train]
    scale = (train.mean(), train.std()) if numbers else (0.0, 1.0)
    scores, outputs = [], []
    for lr in asked.lr:
        generator = torch.Generator().manual_seed(training.seed(0, fold.name))
        net = nn.Sequential(nn.BatchNorm1d(x.shape[2]), nn.Linear(x.shape[2], k))
        weight = torch.empty(x.shape[2], k)
        nn.init.trunc_normal_(weight, std=2e-5, generator=generator)
        net[1].weight.data, net[1].bias.data = weight.T.clone(), torch.zeros(k)
        update = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
        for _ in range(6):
            order = torch.randperm(len(rows), generator=generator)
            for part in order.tensor_split(len(rows) // 16):
                out, goal = net(x[rows[part], crop[part]]), y[rows[part]]
                if numbers:
                    loss = (out[:, 0] - ((goal - scale[0]) / scale[1]).float()).abs().mean()
                else:
                    loss = nn.functional.cross_entropy(out, goal)
                update.zero_grad()
                loss.backward()
                update.step()
        net.eval()
        with torch.no_grad():
            out = net(x[fold.validation].flatten(0, 1))
            each = np.repeat(this.y[fold.validation], 3)
            if numbers:
                scores.append(-np.abs(out[:, 0].numpy() * scale[1] + scale[0] - each).mean())
            else:
                hit = out.argmax(1).numpy() == each
                scores.append(np.mean([hit[each == c].mean() for c in (0, 1)]))
            outputs.append(net(x[fold.test].flatten(0, 1)).unflatten(0, (-1, 3)).mean(1))
    kept = int(np.argmax(scores))
    assert found.facts["lr"] == [[asked.lr[kept]]]
    expected = outputs[kept].numpy() * scale[1] + scale[0] if numbers else outputs[kept].softmax(1)
    np.testing.assert_allclose(found.outputs[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert found.flags == ()


def test_the_published_probe_says_so():
    facts = table(windows=8)
    y = labels(facts).astype(int)
    folds = splits.make(facts, y, "leave_one_subject_out", seed=0)[:1]
    this = Task([features(facts, y)], ["a"], [{"what": "features"}], y, ["a", "b"], facts, folds,
                [Run(0, False, y)])  # fmt: skip
    found = probe.fit(this, probe.Options(), "cpu")
    assert found.flags == ("published_probe",)
    assert len(found.curves) == 50
    with pytest.raises(InputError, match="`lr` of a probe must list positive numbers"):
        probe.fit(this, probe.Options(lr=[]), "cpu")
    wrong = replace(this, x=[this.x[0], this.x[0][:, None].repeat(2, 1)], sources=["a", "b"])
    with pytest.raises(InputError, match="differ in the number of crops"):
        probe.fit(wrong, probe.Options(), "cpu")
