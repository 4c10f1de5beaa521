"""Pretraining of Brain-JEPA: masks, loss, the target that follows, beside plain formulas."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from published import backbone
from safetensors.torch import load_file, save_file

from engram import objectives, store
from engram.backbones import brain_jepa
from engram.errors import InputError
from engram.objectives import jepa
from engram.signals.gradients import diffusion_map, group_connectivity
from engram.store import Rows
from engram.training import schedules

REGIONS = list("abcdefghijklmnopqrstuvwx")
VIEW = {"what": "timeseries", "channels": REGIONS, "missing": [], "tr": 2.2, "frames": 48}
SMALL = {"width": 16, "depth": 2, "heads": 2, "windows": 3, "components": 4}
STEPS = 40


def built(subjects=6, model=None, **options):
    """An objective of 24 regions and three windows, prepared on noise."""
    model = brain_jepa.Options(**SMALL | (model or {}))
    options = {"predictor_depth": 1, "predictor_width": 8} | options
    found = jepa.build(model, jepa.Options(**options), VIEW, STEPS, "cpu")
    found.prepare([[scan] for scan in scans(subjects)])
    return found


def scans(n, regions=24, frames=60, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((regions, regions))
    offsets = rng.standard_normal((n, regions, 1))
    series = mixing @ rng.standard_normal((n, regions, frames)).cumsum(-1) / 8 + offsets
    return list(series.astype(np.float32))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n, regions=450, windows=10, **options):
    """Tokens seen and wanted of n rows, as lists."""
    masks = jepa.Masks(regions, windows, jepa.Options(**options))
    pairs = masks(n, np.random.default_rng(0))
    return [[tokens[tokens >= 0] for tokens in padded] for padded in pairs]


def by_decile(lists):
    """How often a region has a token, by tenths of the 450 regions."""
    there = np.zeros((len(lists), 450))
    for row, tokens in zip(there, lists, strict=True):
        row[tokens // 10] = 1
    return there.mean(0).reshape(10, 45).mean(1)


def by_window(lists):
    return np.bincount(np.concatenate(lists) % 10, minlength=10)


def test_masks_show_all_regions_and_windows_alike():
    seen, wanted = drawn(16 * 40)
    for lists in (seen, wanted):
        frequency = by_decile(lists)
        np.testing.assert_allclose(frequency, frequency.mean(), atol=0.03)
        assert (by_window(lists) > 0).all()
        left, right = frequency[1:5].mean(), frequency[6:].mean()  # of cortex
        assert abs(left - right) < 0.01
    assert by_window(seen)[9] > 0.8 * by_window(seen)[0]


@pytest.mark.parametrize("faithful", [False, True])
def test_masks_of_a_group_have_one_size_and_what_is_seen_is_not_predicted(faithful):
    seen, wanted = drawn(32, faithful=faithful)
    for lists in (seen, wanted):
        assert [len({*map(len, lists[i : i + 16])}) for i in (0, 16)] == [1, 1]
        assert len(lists[0]) != len(lists[16])
    for one, other in zip(seen, wanted, strict=True):
        assert not np.intersect1d(one, other).size
        assert len(np.unique(one)) == len(one)
        if not faithful:
            assert len(np.unique(other)) == len(other)


def test_faithful_masks_have_the_size_and_the_bias_of_the_published_ones():
    """Measured on the published sampler, at its batch of 16."""
    seen, wanted = drawn(16 * 120, faithful=True)
    assert np.mean([*map(len, seen)]) == pytest.approx(826, rel=0.05)
    assert np.mean([*map(len, wanted)]) == pytest.approx(874, rel=0.05)
    published = [0.45, 0.44, 0.44, 0.45, 0.43, 0.35, 0.23, 0.15, 0.07, 0.05]
    np.testing.assert_allclose(by_decile(seen), published, atol=0.03)
    shares = by_window(seen) / by_window(seen).sum()
    np.testing.assert_allclose(shares[3:7], 0.16, atol=0.01)
    assert shares[9] == 0


def test_faithful_masks_one_by_one_have_the_published_size():
    seen, wanted = drawn(1000, faithful=True, masks_batch=1)
    assert np.mean([*map(len, seen)]) == pytest.approx(1222, rel=0.05)
    assert np.mean([*map(len, wanted)]) == pytest.approx(1134, rel=0.05)
    twice = [len(tokens) - len(np.unique(tokens)) for tokens in wanted]
    assert np.mean(twice) == pytest.approx(36, rel=0.2)


@pytest.mark.parametrize("windows", [1, 2, 3, 5, 24])
def test_masks_are_drawn_for_any_number_of_windows(windows):
    seen, wanted = drawn(160, regions=12, windows=windows)
    for one, other in zip(seen, wanted, strict=True):
        assert len(one)
        assert len(other)
        assert not np.intersect1d(one, other).size
    assert np.concatenate(seen + wanted).max() < 12 * windows
    assert len({*(np.concatenate(seen) % windows)}) == windows


def test_a_batch_depends_on_its_generator_alone():
    found = built()
    one, same, other = (found.batch(scans(4), generator(seed)) for seed in (0, 0, 1))
    for key in one:
        assert torch.equal(one[key], same[key])
    assert not torch.equal(one["series"], other["series"])
    assert {key: value.shape[0] for key, value in one.items()} == dict.fromkeys(one, 4)


def test_a_clip_is_thinned_as_published():
    """Of 490 frames a clip of 480 begins at one of 0 to 10; about every third frame is taken."""
    found = built(model={"windows": 10, "clip": 480})
    frames = np.tile(np.arange(490, dtype=np.float32), (24, 1))
    series = found.batch([frames] * 30, generator())["series"][:, 0].numpy()
    starts = series[:, 0].astype(int)
    assert {*starts} <= {*range(11)}
    assert len({*starts}) > 5
    for start, taken in zip(starts, series, strict=True):
        np.testing.assert_array_equal(taken, np.floor(np.linspace(start, start + 479, 160)))


def plain_loss(found, batch, row):
    """The loss of one row, written from its definition."""
    series = batch["series"][[row]]
    seen, wanted = (batch[key][row][batch[key][row] >= 0] for key in ("seen", "wanted"))
    encoder, target = (found.network[name] for name in ("encoder", "target_encoder"))
    predicted = found.network["predictor"](encoder(series, seen[None]), seen[None], wanted[None])
    tokens = target(series)[0, wanted]
    wanted = (tokens - tokens.mean(-1, keepdim=True)) / (
        tokens.var(-1, keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    off = (predicted[0] - wanted).abs()
    return torch.where(off < 1, off**2 / 2, off - 0.5).mean()


def test_the_loss_is_the_smooth_distance_to_the_target_alike_in_parts():
    found = built(masks_batch=2)
    with torch.no_grad():  # else its tokens have mean 0 and variance 1 already
        found.network["target_encoder"].norm.weight.fill_(3.0)
        found.network["target_encoder"].norm.bias.uniform_(-1, 1, generator=generator())
    batch = found.batch(scans(6), generator())
    assert len({int((row >= 0).sum()) for row in batch["seen"]}) > 1
    loss, means = found.loss(batch, 0)
    rows = torch.stack([plain_loss(found, batch, row) for row in range(6)])
    torch.testing.assert_close(loss, rows.mean())
    part, _ = found.loss({key: value[3:5] for key, value in batch.items()}, 0)
    torch.testing.assert_close(part, rows[3:5].mean())
    assert means["token_sd"] > 0
    loss.backward()
    trained = {id(p) for group in found.groups() for p in group["params"]}
    for parameter in found.network["target_encoder"].parameters():
        assert parameter.grad is None
        assert id(parameter) not in trained
    assert all(
        p.grad is not None for name in ("encoder", "predictor")
        for p in found.network[name].parameters()
    )  # fmt: skip


def test_the_target_follows_by_a_share_that_rises_to_one():
    found = built(ema=(0.9, 1.0))
    encoder, target = found.network["encoder"], found.network["target_encoder"]
    weight, followed = encoder.blocks[0].mlp.fc1.weight, target.blocks[0].mlp.fc1.weight
    assert torch.equal(weight, followed)
    for step in (0, 13, STEPS - 1):
        before = followed.clone()
        with torch.no_grad():
            weight += 1
        found.update(step)
        keeps = 0.9 + 0.1 * step / (STEPS - 1)
        torch.testing.assert_close(followed, keeps * before + (1 - keeps) * weight)
    assert torch.equal(followed, before)


def test_rates_and_decays_are_the_published_ones():
    """Four steps of twenty warm up; the step is counted from 1."""
    options = jepa.Options()
    rates = [
        schedules.warm_cosine(n, 20, 4, options.start_lr, options.lr, options.final_lr)
        for n in range(1, 21)
    ]
    golden = [2.875e-4, 5.25e-4, 7.625e-4, 1e-3, 9.904e-4, 9.62e-4]
    np.testing.assert_allclose(rates[:6], golden, rtol=1e-3)
    np.testing.assert_allclose(rates[-3:], [3.9e-5, 1.06e-5, 1e-6], rtol=1e-2)
    decays = [
        schedules.cosine(n, 20, options.weight_decay, options.final_weight_decay)
        for n in (1, 2, 3, 4, 19, 20)
    ]
    golden = [0.04222, 0.04881, 0.05962, 0.07438, 0.39778, 0.4]
    np.testing.assert_allclose(decays, golden, atol=1e-5)


def test_what_has_one_axis_does_not_decay():
    found = built()
    decayed, free = (group["params"] for group in found.groups())
    assert {p.ndim for p in free} == {1}
    assert {p.ndim for p in decayed} == {2, 3, 4}
    assert len(decayed) + len(free) == len(
        [*found.network["encoder"].parameters(), *found.network["predictor"].parameters()]
    )


def test_gradients_are_those_of_the_subjects():
    found = built()
    series = [[scan] for scan in scans(6)]
    wanted = diffusion_map(group_connectivity(series), 4)
    for name, part in (("encoder", "pos_embed_proj"), ("predictor", "predictor_2dpe_proj")):
        places = getattr(found.network[name], part).gradients
        np.testing.assert_allclose(places, wanted, atol=1e-6)


def test_gradients_of_a_file_are_those_of_the_file(tmp_path):
    path, numbers = tmp_path / "g.csv", np.random.default_rng(0).standard_normal((24, 2))
    rows = zip(VIEW["channels"], numbers, strict=True)
    path.write_text("\n".join(["region,1,2", *(f"{n},{a},{b}" for n, (a, b) in rows)]))
    found = built(model={"gradients": str(path)})
    np.testing.assert_allclose(found.weights()["gradients"], numbers, atol=1e-6)


def test_it_begins_as_the_backbone_with_random_weights(tmp_path):
    """But for its gradients, unless the random twin is given them."""
    found = built(model={"seed": 3})
    begun = found.weights()
    places = begun.pop("gradients")
    token = found.network["predictor"].mask_token.detach()
    assert 0.005 < token.std() < 0.04  # of 0.02, in eight draws
    twin = backbone("brain_jepa", None, VIEW, seed=3, **SMALL).model
    assert twin.state_dict().keys() == begun.keys()
    assert all(torch.equal(begun[name], tensor) for name, tensor in twin.state_dict().items())
    assert not torch.allclose(twin.pos_embed_proj.gradients, places)
    path, scan = tmp_path / "jepa.safetensors", scans(1, frames=48)
    save_file(found.weights(), path, {"engram": json.dumps({"view": VIEW})})
    keys = SMALL | {"seed": 3, "gradients": str(path), "layer": "norm", "pooling": "mean"}
    twin = backbone("brain_jepa", None, VIEW, **keys)
    features = found.features(found.batch(scan, generator()))
    torch.testing.assert_close(twin(np.stack(scan)), features)


@pytest.mark.parametrize("normalisation", ["view", "global", "robust"])
def test_what_it_learns_loads_as_the_backbone(normalisation, tmp_path):
    found = built(model={"normalisation": normalisation})
    with torch.no_grad():
        found.network["encoder"].norm.weight.fill_(3.0)
    found.update(0)
    path, facts = tmp_path / "weights.safetensors", json.dumps({"view": VIEW})
    save_file(found.weights(), path, {"engram": facts})
    scan = scans(1, frames=48)
    keys = SMALL | {"normalisation": normalisation, "layer": "norm", "pooling": "mean"}
    frozen = backbone("brain_jepa", path, VIEW, **keys)
    torch.testing.assert_close(
        frozen(np.stack(scan)), found.features(found.batch(scan, generator()))
    )


def test_robust_scaling_is_by_median_and_quartiles_of_the_means_of_subjects():
    found = built(model={"normalisation": "robust"})
    means = [scan.mean(1) for scan in scans(6)]
    low, middle, high = np.percentile(means, [25, 50, 75], 0)
    np.testing.assert_allclose(found.weights()["centre"], middle, atol=1e-5)
    np.testing.assert_allclose(found.weights()["scale"], high - low, atol=1e-5)
    scan = scans(1, frames=48)
    series = found.batch(scan, generator())["series"][0].numpy()
    wanted = (scan[0] - middle[:, None]) / (high - low)[:, None]
    np.testing.assert_allclose(series, wanted, atol=1e-3)


def test_training_lowers_the_loss_and_keeps_tokens_apart():
    found = built()
    optimiser = torch.optim.AdamW(
        [parameter for group in found.groups() for parameter in group["params"]], 3e-3
    )
    losses, spread = [], []
    for step in range(STEPS):
        batch = found.batch(scans(6), generator(step))
        loss, means = found.loss(batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.update(step)
        losses.append(loss.item())
        spread.append(means["token_sd"].item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert min(spread) > 0.5 * spread[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faithful": True}, "of 10 windows, not of 3"),
        ({"masks_batch": 0}, "masks_batch is 0"),
        ({"predictor_width": 10}, "predictor_width 10 does not divide"),
        ({"alpha_regions": (0.5, 1.5)}, r"alpha_regions: \[0.5, 1.5\]"),
        ({"beta_windows": (0.4, 0.2)}, "beta_windows"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        built(**options)


def test_scans_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="a scan has 40 frames, a crop 48"):
        built().batch(scans(2, frames=40), generator())
    same = [scan - scan.mean(1, keepdims=True) for scan in scans(1)] * 3
    found = jepa.build(
        brain_jepa.Options(**SMALL, normalisation="robust"),
        jepa.Options(predictor_depth=1, predictor_width=8),
        VIEW,
        STEPS,
        "cpu",
    )
    with pytest.raises(InputError, match="robust"):
        found.prepare([[scan] for scan in same])


def test_the_stage_pretrains_it(tmp_path):
    """Its losses are those of the cohort's gradients, and its weights load."""
    table = pd.DataFrame({"subject": [f"s{i}" for i in range(8)], "frames": 60, "exclude": ""})
    table.index = table["subject"] + "/scan"
    view = VIEW | {"axes": 2, "unit": "z", "normalisation": "none", "band": None, "sfreq": 1 / 2.2}
    view |= {"modality": "fmri"}
    store.write(tmp_path / "view.h5", Rows(np.stack(scans(8)), table, view | {"frames": 60}))
    spec = {
        "backbone": {"kind": "brain_jepa", **SMALL, "normalisation": "robust"},
        "takes": {"channels": None},
        "objective": {"kind": "jepa", "epochs": 3, "batch_size": 4, "warmup_epochs": 1.0,
                      "predictor_depth": 1, "predictor_width": 8, "accumulate": 2,
                      "masks_batch": 2, "precision": "fp32"},
        "subjects": None, "keep": [], "processes": 1, "launch": "",
    }  # fmt: skip
    path = tmp_path / "jepa.safetensors"
    objectives.pretrain({"here": [str(tmp_path / "view.h5")]}, path, [], spec, {}, "cpu")
    series = [[scan] for scan in scans(8)]
    wanted = diffusion_map(group_connectivity(series), 4)
    np.testing.assert_allclose(load_file(path)["gradients"], wanted, atol=1e-6)
    frozen = backbone("brain_jepa", path, VIEW, normalisation="robust", **SMALL)
    assert frozen(np.stack(scans(1, frames=48))).isfinite().all()
