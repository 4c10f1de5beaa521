"""The loop against plain PyTorch, one model at a time."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from engram import splits, training
from engram.errors import InputError
from engram.heads import adapter
from engram.heads._layers import BatchNorm, dropout
from engram.training import Run, Task, stacked

D, CLASSES = 6, ["a", "b", "c"]


@dataclass(frozen=True)
class Settings:
    """What the loop reads, with the adapter's own options."""

    reduction: int = 2
    ratio: float = 0.3
    hidden: list[int] = field(default_factory=lambda: [5, 4])
    dropout: float = 0.25
    standardize: bool = True
    epochs: int = 4
    batch_size: int = 16
    base_lr: float = 1e-2
    warm_lr: float = 1e-4
    final_lr: float = 1e-4
    warmup: float = 0.3
    weight_decay: float = 0.1
    clip_gradient: float = 0.2
    label_smoothing: float = 0.1
    class_weights: bool = True
    l2: float = 1e-3
    fmri_prediction_weight: float = 0.0


def task(seeds=2, sizes=(30, 47, 25, 60, 33), seed=0):
    """Subjects of unequal length, so that folds differ in rows, batches and batch sizes."""
    rng = np.random.default_rng(seed)
    names = [(f"sub-{s}", "scan", w) for s, n in enumerate(sizes) for w in range(n)]
    table = pd.DataFrame(names, columns=["subject", "scan", "window"])
    table["start"], table["stop"] = table["window"] * 15.0, table["window"] * 15.0 + 30
    y = rng.integers(0, 3, len(table))
    x = rng.normal(size=(len(table), D)) * [1, 2, 3, 4, 5, 6] + y[:, None]
    folds = splits.make(table, y, "leave_one_subject_out", seed=0)
    runs = [Run(s, False, y) for s in range(seeds)] + [Run(0, True, rng.permutation(y))]
    return Task([x.astype(np.float32)], ["x"], [{}], y, CLASSES, table, folds, runs)


def fit(this, options, dtype=torch.float64, at_once=100):
    """The adapter's networks, in `dtype`."""
    scales = [[training.statistics(s, fold.train) for s in this.x] for fold in this.folds]

    def build(group):
        generators = [model.generator for model in group]
        of_models = [scales[model.fold] for model in group]
        return adapter.Network(generators, of_models, [False], options, 3).to(dtype)

    x = [torch.as_tensor(s).to(dtype) for s in this.x]
    return stacked.fit(this, x, build, options, at_once)


def test_options_out_of_range_are_refused():
    changes = {"dropout": 1.0, "warmup": 1.0, "label_smoothing": -0.1, "epochs": 0, "batch_size": 1}
    for name, value in changes.items():
        with pytest.raises(InputError, match=name):
            training.check_options(replace(Settings(), **{name: value}))
    training.check_options(Settings())
    ends = {"dropout": 0.0, "warmup": 0.0, "label_smoothing": 0.0, "epochs": 1, "batch_size": 2}
    training.check_options(replace(Settings(), **ends))


def test_padded_rows_leave_batch_norm_statistics_alone():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    stacked = BatchNorm(2, 3).double()
    for scale in (1.0, 3.0):
        found = stacked(x * scale, mask)
    for m, rows in enumerate((7, 4)):
        alone = nn.BatchNorm1d(3).double()
        for scale in (1.0, 3.0):
            expected = alone(x[m, :rows] * scale)
        torch.testing.assert_close(found[m, :rows], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(stacked.mean[m], alone.running_mean)
        torch.testing.assert_close(stacked.variance[m], alone.running_var)


def test_a_model_without_rows_keeps_its_batch_norm_statistics():
    stacked = BatchNorm(2, 3)
    mask = torch.tensor([[True] * 5, [False] * 5])
    stacked(torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)) + 4, mask)
    assert (stacked.mean[0] > 0.1).all()
    assert (stacked.mean[1] == 0).all()
    assert (stacked.variance[1] == 1).all()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-3)])
def test_a_stack_ends_where_its_models_end_one_by_one(dtype, rtol):
    this, options = task(), Settings()
    batches = {-(-len(fold.train) // options.batch_size) for fold in this.folds}
    assert len(batches) > 2
    together = fit(this, options, dtype)
    for f, fold in enumerate(this.folds):
        for r, run in enumerate(this.runs):
            alone = fit(replace(this, folds=[fold], runs=[run]), options, dtype)
            assert alone.facts["epoch"][0][0] == together.facts["epoch"][f][r]
            for name, values in alone.state.items():
                np.testing.assert_allclose(
                    together.state[name][f, r], values[0, 0], rtol=rtol, atol=rtol, err_msg=name
                )
            np.testing.assert_allclose(
                together.outputs[np.sort(fold.test), r], alone.outputs[:, 0], atol=1e-3
            )


def test_how_many_train_at_once_changes_nothing():
    this, options = task(), Settings()
    longest_first = sorted(this.folds, key=lambda fold: -len(fold.train))
    this = replace(this, folds=longest_first)
    one, three = fit(this, options, at_once=15), fit(this, options, at_once=4)
    for name in one.state:
        np.testing.assert_allclose(one.state[name], three.state[name], rtol=1e-12, atol=1e-12)
    pd.testing.assert_frame_equal(one.curves, three.curves)
    np.testing.assert_allclose(one.latent, three.latent, rtol=1e-5)
    state = {name: values[0, 0] for name, values in one.state.items()}
    z = (this.x[0] - state["adapters.0.mean"]) / state["adapters.0.sd"]
    down, up = (state[f"adapters.0.{name}.weight"] for name in ("down", "up"))
    adapted = np.maximum(np.maximum(z @ down, 0) @ up, 0)
    np.testing.assert_allclose(one.latent, 0.3 * adapted + 0.7 * z, rtol=1e-4, atol=1e-5)


class Plain(nn.Module):
    """The published network, in ordinary PyTorch layers."""

    def __init__(self, options):
        super().__init__()
        self.ratio = options.ratio
        self.down = nn.Linear(D, D // options.reduction, bias=False)
        self.up = nn.Linear(D // options.reduction, D, bias=False)
        widths = [D, *options.hidden]
        layers = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.LeakyReLU(0.1)]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 3))

    def forward(self, x):
        adapted = torch.relu(self.up(torch.relu(self.down(x))))
        return self.mlp(self.ratio * adapted + (1 - self.ratio) * x)


NAMES = {
    "adapters.0.down.weight": "down.weight", "adapters.0.up.weight": "up.weight",
    "layers.0.weight": "mlp.0.weight",
    "norms.0.weight": "mlp.1.weight", "norms.0.bias": "mlp.1.bias",
    "norms.0.mean": "mlp.1.running_mean", "norms.0.variance": "mlp.1.running_var",
    "layers.1.weight": "mlp.3.weight",
    "norms.1.weight": "mlp.4.weight", "norms.1.bias": "mlp.4.bias",
    "norms.1.mean": "mlp.4.running_mean", "norms.1.variance": "mlp.4.running_var",
    "last.weight": "mlp.6.weight", "last.bias": "mlp.6.bias",
}  # fmt: skip


def smoothed(logits, y, weight, options):
    """Weighted mean of -sum_k q_k log p_k, q = (1 - s) [k is y] + s / classes, by its formula."""
    share = options.label_smoothing
    target = (1 - share) * torch.eye(logits.shape[1])[y] + share / logits.shape[1]
    losses = -(target * torch.log(logits.exp() / logits.exp().sum(1, keepdim=True))).sum(1)
    return (weight[y] * losses).sum() / weight[y].sum()


def penalty(model, options):
    return options.l2 * sum((p**2).sum() for p in model.parameters())


def plain_training(this, options):
    """Parameters and train losses of one fold and run, trained by PyTorch's own parts."""
    fold, run = this.folds[0], this.runs[0]
    x = torch.as_tensor(this.x[0], dtype=torch.float64)
    x = (x - x[fold.train].mean(0)) / x[fold.train].std(0, correction=0)
    y = torch.as_tensor(run.y)
    generator = stacked.models(this)[0].generator
    start = adapter.Network(
        [generator], [[(np.zeros(D, np.float32), np.ones(D, np.float32))]], [False], options, 3
    ).state_dict()
    model = Plain(options).double()
    model.load_state_dict(
        {theirs: torch.tensor(start[ours][0].numpy().T).double() for ours, theirs in NAMES.items()},
        strict=False,
    )
    weight = torch.ones(3, dtype=torch.float64)
    if options.class_weights:
        weight = torch.as_tensor(
            compute_class_weight("balanced", classes=np.arange(3), y=run.y[fold.train])
        )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay},
         {"params": others, "weight_decay": 0.0}], lr=1.0,
    )  # fmt: skip
    parts = -(-len(fold.train) // options.batch_size)
    total, done, losses = options.epochs * parts, 0, []
    best, inner_losses = None, []
    for _ in range(options.epochs):
        model.train()
        order = torch.randperm(len(fold.train), generator=generator).numpy()
        each = []
        for rows in np.array_split(fold.train[order], parts):
            logits = model(x[rows])
            loss = nn.functional.cross_entropy(logits, y[rows], weight)
            each.append((float(loss.detach()), float(weight[y[rows]].sum())))
            adamw.zero_grad()
            (smoothed(logits, y[rows], weight, options) + penalty(model, options)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.clip_gradient)
            for group in adamw.param_groups:
                group["lr"] = training.schedule(
                    done, total, warmup=options.warmup,
                    base=options.base_lr, start=options.warm_lr, final=options.final_lr,
                )  # fmt: skip
            adamw.step()
            done += 1
        losses.append(np.average([v for v, _ in each], weights=[w for _, w in each]))
        model.eval()
        with torch.no_grad():
            inner = model(x[fold.validation])
            loss = float(nn.functional.cross_entropy(inner, y[fold.validation], weight))
        if loss < min(inner_losses, default=np.inf):
            best = {k: v.clone() for k, v in model.state_dict().items()}
        inner_losses.append(loss)
    model.load_state_dict(best)
    with torch.no_grad():
        predicted = [model(x[rows]).softmax(1).numpy() for rows in (fold.validation, fold.test)]
    score = balanced_accuracy_score(run.y[fold.validation], predicted[0].argmax(1))
    return best, losses, inner_losses, score, predicted[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.0, "l2": 0.0},
        {"label_smoothing": 0.2, "l2": 0.05},
        {"label_smoothing": 0.0, "l2": 0.0, "class_weights": False, "clip_gradient": 1e9},
        {"label_smoothing": 0.2, "l2": 0.02, "class_weights": False},
    ],
)
@pytest.mark.parametrize("control", [False, True])
def test_a_model_is_what_plain_pytorch_trains(changes, control):
    """Same start and batches; loss, clipping, AdamW, batch norm and the choice of the epoch
    are PyTorch's own."""
    this = task(seeds=1)
    this = replace(this, runs=this.runs[control : control + 1])
    this.runs[0].y[this.folds[0].validation[::2]] = 0  # so that the last epoch is not the best
    options = replace(Settings(), dropout=0.0, epochs=6, base_lr=0.03, warm_lr=3e-4, **changes)
    expected, losses, inner_losses, score, predicted = plain_training(this, options)
    found = fit(this, options)
    assert found.validation[0, 0] == pytest.approx(score)
    test = this.folds[0].test
    np.testing.assert_allclose(found.outputs[test, 0], predicted, rtol=1e-4, atol=1e-5)
    for ours, theirs in NAMES.items():
        np.testing.assert_allclose(
            found.state[ours][0, 0], expected[theirs].numpy().T, rtol=1e-5, atol=1e-6, err_msg=ours
        )
    curves = found.curves[(found.curves.fold == "sub-0") & (found.curves.run == 0)]
    np.testing.assert_allclose(curves.train_loss, losses, rtol=1e-6)
    np.testing.assert_allclose(curves.validation_loss, inner_losses, rtol=1e-6)
    assert np.argmin(inner_losses) == found.facts["epoch"][0][0]
    if changes["label_smoothing"] == 0 and not control:
        assert 0 < found.facts["epoch"][0][0] < options.epochs - 1
    assert curves.lr.iloc[-1] == pytest.approx(options.final_lr)


def test_clipping_scales_each_model_by_its_own_norm():
    """After one step from zero state, AdamW's first moment is (1 - 0.9) times the gradient."""
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(2, 3, 4))
    network.bias = nn.Parameter(torch.zeros(2, 4))
    group = [stacked.Model(0, r, np.arange(5), None, None, None) for r in range(2)]
    optimiser = stacked._Optimiser(network, group, Settings())
    big, small = torch.randn(17, generator=torch.Generator().manual_seed(0)) * 9, 0.01
    network.weight.grad = torch.stack([big[:12].view(3, 4), torch.full((3, 4), small)])
    network.bias.grad = torch.stack([big[12:16], torch.full((4,), small)])
    optimiser.step(0, 0)
    adamw = optimiser.parts[0][3]
    moments = torch.cat(
        [adamw.state[p]["exp_avg"].flatten(1) for g in adamw.param_groups for p in g["params"]], 1
    )
    assert float(moments[0].norm() / 0.1) == pytest.approx(Settings().clip_gradient, rel=1e-4)
    np.testing.assert_allclose(moments[1] / 0.1, small, rtol=1e-4)


def test_decay_spares_biases_and_batch_norm():
    """With no gradient, weights shrink by the decay alone."""
    network = nn.Module()
    network.weight = nn.Parameter(torch.ones(1, 3, 4))
    network.bias = nn.Parameter(torch.ones(1, 4))
    group = [stacked.Model(0, 0, np.arange(5), None, None, None)]
    optimiser = stacked._Optimiser(network, group, replace(Settings(), warmup=0.0, epochs=1))
    network.weight.grad, network.bias.grad = torch.zeros(1, 3, 4), torch.zeros(1, 4)
    optimiser.step(0, 0)
    np.testing.assert_allclose(network.weight.detach(), 1 - 1e-2 * 0.1, rtol=1e-6)
    np.testing.assert_allclose(network.bias.detach(), 1)


def test_dropout_keeps_the_share_it_says_and_every_row_trains_once_an_epoch():
    this, options = task(seeds=1), Settings()
    group = stacked.models(this)
    seen, kept, real = [[] for _ in group], 0, 0
    for rows, mask, keep in stacked._batches(group, options, 9):
        assert mask.sum(1).max() <= options.batch_size
        for m in range(len(group)):
            seen[m] += list(rows[m, mask[m]])
        kept, real = kept + keep[mask].sum(), real + keep[mask].size
    for model, rows in zip(group, seen, strict=True):
        assert sorted(rows) == sorted(model.train)
        assert rows != sorted(rows)
    assert kept / real == pytest.approx(1 - options.dropout, abs=0.02)


def test_dropout_silences_units_and_keeps_the_mean():
    x = torch.ones(1, 1, 4)
    keep = torch.tensor([[[True, False, True, True]]])
    expected = torch.tensor([[[4 / 3, 0, 4 / 3, 4 / 3]]])
    torch.testing.assert_close(dropout(x, keep, 0.25), expected)
    assert dropout(x, None, 0.25) is x


def test_dropout_acts_in_training_and_not_in_prediction():
    """All units dropped but the last layer's bias would leave one prediction for all rows."""
    this, almost_all = task(seeds=1), replace(Settings(), dropout=0.999, epochs=2)
    found = fit(this, almost_all)
    assert found.curves["train_loss"].iloc[-1] > 0.9 * np.log(3)
    assert np.ptp(found.outputs[:, 0, 0]) > 0.01


def test_reruns_are_bit_identical_and_seeds_differ():
    this, options = task(), Settings()
    one, two = fit(this, options, torch.float32), fit(this, options, torch.float32)
    assert one.outputs.tobytes() == two.outputs.tobytes()
    assert one.curves.equals(two.curves)
    for name in one.state:
        assert one.state[name].tobytes() == two.state[name].tobytes()
    weights = one.state["layers.0.weight"]
    assert not np.allclose(weights[:, 0], weights[:, 1])
    assert not np.allclose(weights[0], weights[1])


def test_the_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit(task(seeds=1), replace(Settings(), epochs=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_test_rows_touch_nothing_but_their_own_prediction():
    """Other features and labels in the test rows: same parameters, choices and curves."""
    this, options = task(), Settings()
    this = replace(this, folds=this.folds[:1])
    test = this.folds[0].test
    x = this.x[0].copy()
    x[test] = 1e6
    runs = [
        replace(run, y=np.where(np.isin(np.arange(len(run.y)), test), 0, run.y))
        for run in this.runs
    ]
    poisoned = replace(this, x=[x], runs=runs)
    one, two = fit(this, options), fit(poisoned, options)
    for name in one.state:
        np.testing.assert_array_equal(one.state[name], two.state[name])
    assert one.curves.equals(two.curves)
    assert one.facts == two.facts
    np.testing.assert_array_equal(one.validation, two.validation)
    assert not np.allclose(one.outputs[test], two.outputs[test])


def test_training_that_diverges_is_refused():
    with pytest.raises(InputError, match="diverged.*base_lr"):
        fit(task(seeds=1), replace(Settings(), base_lr=1e200, clip_gradient=0.0, warmup=0.0))


def test_the_control_learns_from_its_own_labels():
    this = task(seeds=1)
    moved = (this.y + 1) % 3
    x = np.float32(8 * np.eye(3)[this.y] + np.random.default_rng(0).normal(size=(len(this.y), 3)))
    this = replace(this, x=[x], runs=[this.runs[0], Run(0, True, moved)])
    predicted = fit(this, replace(Settings(), epochs=25)).outputs.argmax(2)
    assert np.mean(predicted[:, 0] == this.y) > 0.95
    assert np.mean(predicted[:, 1] == moved) > 0.95
