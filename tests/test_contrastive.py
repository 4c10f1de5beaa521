"""The loss against open_clip and brute force, the loop against plain PyTorch and an oracle."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy.stats import hypergeom
from torch.nn import functional as F

from engram import contrastive
from engram.contrastive import Options, Rows
from engram.errors import InputError
from engram.measures import ranking

CHANNELS, TIMES, WIDTH = 6, 60, 12
NICE = {"pooling": "learned", "filters": 16, "width": 9, "pool": 21, "stride": 4}
SMALL = Options(
    encoder_options=NICE, projector_dim=32, dropout=0.2, image_dropout=0.2, epochs=12,
    batch_size=128, encoder_lr=5e-3, projector_lr=5e-3, encoder_warmup=1, projector_warmup=1,
    weight_decay=1e-3,
)  # fmt: skip
LINEAR = replace(SMALL, encoder="mlp", encoder_options={"d": 32, "dropout": 0.0})


def world(noise, concepts=70, test=60, seed=0):
    """EEG that is linear in the features of the image, and noise: training, then test images."""
    rng = np.random.default_rng(seed)
    n = concepts * 10 + test
    images = rng.normal(size=(n, WIDTH)).astype(np.float32)
    mixing = rng.normal(size=(CHANNELS * TIMES, WIDTH)) / np.sqrt(WIDTH)
    eeg = images @ mixing.T + noise * rng.normal(size=(n, CHANNELS * TIMES))
    concept = np.concatenate([np.repeat(np.arange(concepts), 10), concepts + np.arange(test)])
    held = concepts * 9 // 10 * 10
    rows = Rows(np.arange(n), np.arange(held), np.arange(held, concepts * 10), concept)
    return eeg.reshape(n, CHANNELS, TIMES).astype(np.float32), images, rows, np.arange(n - test, n)


def top1(similarity):
    return (ranking.ranks(similarity) <= 1).mean()


def ridge(eeg, images, rows, test, penalty):
    """Top-1 of the best linear map from EEG to features, by least squares."""
    x = eeg.reshape(len(eeg), -1).astype(float)
    train = x[rows.train]
    gram = train.T @ train + penalty * np.eye(x.shape[1])
    predicted = x[test] @ np.linalg.solve(gram, train.T @ images[rows.train])
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (predicted, images[test]))
    return top1(a @ b.T)


def equal(a, b):
    a, b = a.state(), b.state()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- loss -------------------------------------------------------------------------------


@pytest.fixture
def pairs():
    torch.manual_seed(0)
    return [torch.randn(9, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def clip_loss(a, b, scale):
    from open_clip.loss import ClipLoss  # imports torchvision, which engram must prepare

    return ClipLoss()(F.normalize(a, dim=1), F.normalize(b, dim=1), scale)


def brute_force(a, b, scale, groups):
    """Both cross-entropies, term by term."""
    n, total = len(a), 0.0
    for i in range(n):
        for here, there in ((a, b), (b, a)):
            exponents = [
                scale * F.cosine_similarity(here[i], there[j], dim=0)
                for j in range(n)
                if i == j or groups[i] != groups[j]
            ]
            own = scale * F.cosine_similarity(here[i], there[i], dim=0)
            total += torch.stack(exponents).exp().sum().log() - own
    return total / (2 * n)


def test_the_loss_and_its_gradients_are_open_clips(pairs):
    log_scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    leaves = [*pairs, log_scale]
    loss = contrastive.info_nce(*pairs, log_scale)
    expected = clip_loss(*pairs, log_scale.exp())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    found = torch.autograd.grad(loss, leaves)
    for one, other in zip(found, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_loss_by_brute_force_with_and_without_groups(pairs):
    log_scale = torch.tensor(1.5, dtype=torch.float64)
    for groups in (torch.arange(9), torch.tensor([0, 1, 0, 2, 3, 3, 3, 4, 5])):
        loss = contrastive.info_nce(*pairs, log_scale, groups)
        expected = brute_force(*pairs, math.exp(1.5), groups.tolist())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    unmasked = contrastive.info_nce(*pairs, log_scale)
    assert unmasked.item() != pytest.approx(expected.item(), rel=1e-3)


def test_one_group_leaves_nothing_to_tell_apart(pairs):
    loss = contrastive.info_nce(*pairs, torch.tensor(1.0), torch.zeros(9, dtype=int))
    assert loss.item() == pytest.approx(0, abs=1e-12)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in pairs)


def test_centring_and_the_limit_of_the_scale(pairs):
    a, b = pairs
    shifted = contrastive.info_nce(a + 3, b - 5, torch.tensor(2.0), centre=True)
    centred = [p - p.mean(1, keepdim=True) for p in pairs]
    expected = contrastive.info_nce(*centred, torch.tensor(2.0))
    assert shifted.item() == pytest.approx(expected.item(), rel=1e-9)
    at_limit, above = (contrastive.info_nce(a, b, torch.tensor(s).log()) for s in (100.0, 500.0))
    assert at_limit.item() == pytest.approx(above.item(), rel=1e-5)


# ---- schedule ---------------------------------------------------------------------------


def test_the_schedule_warms_up_apart_and_ends_where_it_says():
    options = Options(
        encoder_lr=3e-3, projector_lr=1e-3, final_lr=1e-5, epochs=20, warmup_start=0.2
    )
    total, steps = 20 * 7, 7
    rates = np.array([contrastive.schedule(s, total, steps, options) for s in range(total)])
    bases, warm = np.array([3e-3, 1e-3]), np.array([4 * 7, 2 * 7])
    np.testing.assert_allclose(rates[0], 0.2 * bases)
    assert rates.argmax(0).tolist() == warm.tolist()
    np.testing.assert_allclose(rates.max(0), bases)
    np.testing.assert_allclose(rates[-1], 1e-5)
    for side in (0, 1):
        rising = rates[: warm[side] + 1, side]
        np.testing.assert_allclose(np.diff(rising), 0.8 * bases[side] / warm[side], rtol=1e-9)
        falling = rates[warm[side] :, side]
        share = np.arange(len(falling)) / (len(falling) - 1)
        cosine = 1e-5 + (bases[side] - 1e-5) * (1 + np.cos(np.pi * share)) / 2
        np.testing.assert_allclose(falling, cosine, rtol=1e-9)


# ---- the loop ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "pooling"), [("fused", "learned"), ("plain", "learned"), ("fused", "average")]
)
def test_steps_are_those_of_plain_pytorch(layout, pooling):
    """Whole-batch steps without dropout, written out with open_clip's loss."""
    eeg, images, rows, _ = world(1.0, concepts=10, test=5)
    options = replace(
        SMALL, encoder_options={**NICE, "dropout": 0.0, "pooling": pooling},
        dropout=0.0, image_dropout=0.0, epochs=3,
        layout=layout, mask="none", patience=0, batch_size=len(rows.train), clip_gradient=0.5,
        projector_lr=2e-3, weight_decay=5.0,
    )  # fmt: skip
    no_validation = replace(rows, validation=np.array([], int))
    model = contrastive.fit(eeg, images, no_validation, options, [5], "cpu")[0]
    torch.manual_seed(5)
    plain = replace(options, layout="plain")
    network = contrastive.Network(CHANNELS, TIMES, [WIDTH], plain)
    rates = {"encoder": [5e-4, 5e-3, 1e-5], "heads": [2e-4, 2e-3, 1e-5]}  # warm-up: one step
    groups = [
        {"params": [p], "weight_decay": 5.0 if p.ndim > 1 else 0.0, "rates": rates[side]}
        for name, p in network.named_parameters()
        for side in ["encoder" if name.startswith("encoder.") else "heads"]
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.0)
    x, v = (torch.as_tensor(part[rows.train]) for part in (eeg, images))
    losses = []
    for step in range(3):
        for group in optimiser.param_groups:
            group["lr"] = group["rates"][step]
        a, b = network.eeg_head(network.encoder(x)), network.image_head(v)
        loss = clip_loss(a, b, network.log_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        losses.append(loss.item())
    np.testing.assert_allclose(model.curves["loss"], losses, rtol=1e-4)
    assert model.epoch == 2
    assert math.isnan(model.score)
    a, b = (n.eval().encoder(x) for n in (network, model.network))
    torch.testing.assert_close(b, a, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(model.network.log_scale, network.log_scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [SMALL, LINEAR], ids=["nice", "mlp"])
def test_images_are_found_where_the_signal_is_strong(options):
    eeg, images, rows, test = world(0.5)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    assert ridge(eeg, images, rows, test, 1.0) == 1
    assert top1(contrastive.similarity(model, eeg[test], images[test])) > 0.95
    assert model.score > 0.9
    loss = model.curves["loss"].to_numpy()
    assert loss[-1] < 0.3 * loss[0]


def test_an_encoder_comes_near_the_oracle_where_the_signal_is_weak():
    eeg, images, rows, test = world(4.5, concepts=150, test=100)
    oracle = ridge(eeg, images, rows, test, 4.5**2 * WIDTH)
    assert 0.3 < oracle < 0.9
    options = replace(LINEAR, weight_decay=0.1, encoder_lr=1e-3, projector_lr=1e-3, epochs=25)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    assert top1(contrastive.similarity(model, eeg[test], images[test])) > 0.75 * oracle


def test_shuffled_pairs_give_chance():
    eeg, images, rows, test = world(0.5)
    shuffled = np.random.default_rng(1).permutation(len(images))
    wrong = replace(rows, image=shuffled)
    models = contrastive.fit(eeg, images, wrong, replace(SMALL, epochs=5), [0, 1], "cpu")
    for model in models:
        found = contrastive.similarity(model, eeg[test], images[test])
        mean = (1 / ranking.ranks(found)).mean()
        assert mean < 3 * ranking.chance(len(test))["mrr"]
        assert top1(found) < 0.1


def test_a_small_set_is_memorised():
    eeg, images, rows, _ = world(20.0, concepts=5, test=0)
    few = replace(rows, train=np.arange(40), validation=np.array([], int))
    options = replace(SMALL, epochs=100, batch_size=40, dropout=0.0, patience=0)
    model = contrastive.fit(eeg, images, few, options, [0], "cpu")[0]
    assert top1(contrastive.similarity(model, eeg[:40], images[:40])) == 1


def test_a_seed_gives_the_same_weights_whatever_runs_beside_it():
    eeg, images, rows, _ = world(2.0, concepts=10)
    options = replace(SMALL, epochs=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first, second = contrastive.fit(eeg, images, rows, options, [1, 2], "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    alone = contrastive.fit(eeg, images, rows, options, [2], "cpu")[0]
    assert equal(second, alone)
    assert second.curves.equals(alone.curves)
    assert not equal(first, second)


def test_rows_outside_training_and_validation_are_not_read(tmp_path):
    eeg, images, rows, test = world(1.0, concepts=10)
    options = replace(SMALL, epochs=2)
    clean = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    eeg[test], images[test] = np.nan, np.nan
    np.save(tmp_path / "eeg.npy", eeg)
    mapped = np.load(tmp_path / "eeg.npy", mmap_mode="r")
    assert equal(contrastive.fit(mapped, images, rows, options, [0], "cpu")[0], clean)


def test_the_best_epoch_is_kept_and_training_stops_after_it():
    eeg, images, rows, _ = world(6.0)
    options = replace(SMALL, epochs=40, patience=3, weight_decay=0.0, dropout=0.0)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    score = model.curves["score"]
    assert model.epoch == score.argmax()
    assert len(score) == model.epoch + 4 < 40
    validation = rows.validation
    found = contrastive.similarity(model, eeg[validation], images[validation])
    assert model.score == pytest.approx((1 / ranking.ranks(found)).mean(), rel=1e-6)


def test_the_epoch_may_be_chosen_by_top1():
    eeg, images, rows, _ = world(4.0, concepts=30)
    model = contrastive.fit(eeg, images, rows, replace(SMALL, score="top1"), [0], "cpu")[0]
    assert model.epoch == model.curves["validation_top1"].argmax()
    assert model.score == model.curves["validation_top1"].max()


def test_a_checkpoint_restores_the_model():
    eeg, images, rows, test = world(2.0, concepts=10)
    options = replace(SMALL, epochs=2)
    model = contrastive.fit(eeg, [images, 9 * images], rows, options, [0], "cpu")[0]
    network = contrastive.Network(CHANNELS, TIMES, [WIDTH, WIDTH], options)
    network.load_state_dict(load(save(model.state())))
    targets = [images[test], 9 * images[test]]
    restored = replace(model, network=network)
    expected = contrastive.similarity(model, eeg[test], targets)
    np.testing.assert_array_equal(contrastive.similarity(restored, eeg[test], targets), expected)
    blocks = contrastive.similarity(model, eeg[test], targets, block=7)
    np.testing.assert_allclose(blocks, expected, atol=1e-5)


def test_targets_of_several_encoders_count_the_same():
    eeg, images, rows, _ = world(2.0, concepts=10)
    options = replace(SMALL, epochs=1)
    model = contrastive.fit(eeg, [images, 1000 * images], rows, options, [0], "cpu")[0]
    scaled = torch.as_tensor(np.hstack([images, 1000 * images])) * model.network.target_scale
    of_train = scaled[rows.train].unflatten(1, (2, WIDTH)).square().mean((0, 2))
    torch.testing.assert_close(of_train, torch.ones(2))


def test_one_encoder_alone_keeps_its_scale():
    eeg, images, rows, _ = world(2.0, concepts=4)
    model = contrastive.fit(eeg, 1000 * images, rows, replace(SMALL, epochs=1), [0], "cpu")[0]
    assert (model.network.target_scale == 1).all()


@pytest.mark.parametrize("centre", [False, True])
def test_similarity_is_the_cosine_of_both_vectors_by_hand(centre):
    eeg, images, rows, test = world(1.0, concepts=10)
    eeg, targets = eeg + 1, [images + 2, 9 * images]
    options = replace(SMALL, epochs=2, centre=centre, dropout=0.0, image_dropout=0.3)
    model = contrastive.fit(eeg, targets, rows, options, [0], "cpu")[0]
    scale = np.repeat([1 / np.sqrt((part[rows.train] ** 2).mean()) for part in targets], WIDTH)
    network = model.network

    def by_hand(at):
        with torch.no_grad():
            a = network.eeg_head(network.encoder(torch.as_tensor(eeg[at]))).double().numpy()
            b = torch.as_tensor(np.hstack(targets)[at] * scale, dtype=torch.float32)
            b = network.image_head(b).double().numpy()
        if centre:
            a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        return a @ b.T

    with torch.no_grad():  # far from centred, so that centring shows
        network.eeg_head[-1].bias.add_(3.0)
        network.image_head[-1].bias.add_(-1.0)
    for block in (1024, 7):
        found = contrastive.similarity(model, eeg[test], [part[test] for part in targets],
                                       block=block)  # fmt: skip
        np.testing.assert_allclose(found, by_hand(test), atol=1e-5)
    with torch.no_grad():
        network.eeg_head[-1].bias.add_(-3.0)
        network.image_head[-1].bias.add_(1.0)
    ranks = ranking.ranks(by_hand(rows.validation))
    kept = model.curves.iloc[model.epoch]
    assert kept["validation_mrr"] == pytest.approx((1 / ranks).mean(), rel=1e-6)
    assert kept["validation_top1"] == pytest.approx((ranks <= 1).mean())
    assert kept["validation_top5"] == pytest.approx((ranks <= 5).mean())
    assert model.score == kept["validation_mrr"]


def test_repetitions_of_a_test_epoch_are_averaged():
    eeg, images, rows, test = world(0.5, concepts=4)
    model = contrastive.fit(eeg, images, rows, replace(SMALL, epochs=1), [0], "cpu")[0]
    noise = np.random.default_rng(3).normal(size=(len(test), 4, CHANNELS, TIMES))
    repeated = (eeg[test][:, None] + noise).astype(np.float32)
    found, expected = (
        contrastive.similarity(model, x, images[test]) for x in (repeated, repeated.mean(1))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own(monkeypatch):
    """The batches as the loss sees them: without an image head, vectors are the features."""
    batches = []
    loss = contrastive.loop.info_nce

    def noted(a, b, *args):
        batches.append(b.detach().clone())
        return loss(a, b, *args)

    monkeypatch.setattr(contrastive.loop, "info_nce", noted)
    eeg, images, rows, _ = world(1.0, concepts=5, test=0)
    rows = replace(rows, train=rows.train[:33])
    options = replace(LINEAR, image_head=False, epochs=2, batch_size=8)
    contrastive.fit(eeg, images, rows, options, [0], "cpu")
    assert [len(batch) for batch in batches] == [7, 7, 7, 6, 6] * 2
    orders = []
    for epoch in (batches[:5], batches[5:]):
        distance = torch.cdist(torch.cat(epoch), torch.as_tensor(images[rows.train]))
        orders.append(distance.argmin(1).tolist())
        assert sorted(orders[-1]) == list(range(33))
        assert orders[-1] != list(range(33))
    assert orders[0] != orders[1]


def test_two_of_two_repetitions_are_their_mean():
    """Drawing all of them trains as their mean does."""
    eeg, images, rows, _ = world(1.0, concepts=5, test=0)
    noise = np.random.default_rng(3).normal(size=eeg.shape)
    repeated = np.stack([eeg + noise, eeg - noise], 1).astype(np.float32)
    options = replace(LINEAR, dropout=0.0, image_dropout=0.0, epochs=2, batch_size=64)
    plain, drawn = (
        contrastive.fit(x, images, rows, replace(options, sub_average=k), [0], "cpu")[0]
        for x, k in ((eeg, 0), (repeated, 2))
    )
    for column in ("loss", "validation_mrr"):
        np.testing.assert_allclose(drawn.curves[column], plain.curves[column], rtol=1e-3)


def test_of_epochs_that_are_as_good_the_first_is_kept():
    eeg, images, rows, _ = world(0.1, concepts=40)
    options = replace(LINEAR, score="top5_200", epochs=8, patience=3)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    score = model.curves["score"].to_numpy()
    assert (score == score.max()).sum() > 1
    assert model.epoch == np.flatnonzero(score == score.max())[0]
    assert len(score) == model.epoch + 4


# ---- options ----------------------------------------------------------------------------


def test_each_projector_has_its_own_dropout():
    options = replace(SMALL, dropout=0.1, image_dropout=0.3)
    network = contrastive.Network(CHANNELS, TIMES, [WIDTH], options)
    for head, p in ((network.eeg_head, 0.1), (network.image_head, 0.3)):
        assert [m.p for m in head.modules() if isinstance(m, torch.nn.Dropout)] == [p]


def test_without_an_image_head_eeg_is_mapped_into_the_space_of_the_images():
    eeg, images, rows, test = world(0.5)
    options = replace(SMALL, image_head=False, centre=True)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    assert not list(model.network.image_head.parameters())
    assert top1(contrastive.similarity(model, eeg[test], images[test])) > 0.9


def test_a_fixed_temperature_stays_and_a_learned_one_moves():
    eeg, images, rows, _ = world(0.5, concepts=20)
    for learned in (False, True):
        options = replace(SMALL, learn_temperature=learned, temperature=0.05, epochs=3)
        model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
        moved = np.abs(model.curves["temperature"] - 0.05).max()
        assert (moved > 1e-4) == learned


def test_the_scale_is_never_above_its_limit():
    eeg, images, rows, _ = world(0.1, concepts=20)
    options = replace(SMALL, temperature=0.0101, projector_lr=0.05, epochs=4)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    assert model.curves["temperature"].min() >= 0.01 * (1 - 1e-6)


def test_repetitions_are_averaged_or_drawn():
    eeg, images, rows, test = world(0.5, concepts=20)
    noise = np.random.default_rng(3).normal(size=(len(eeg), 4, CHANNELS, TIMES))
    repeated = (eeg[:, None] + noise - noise.mean(1, keepdims=True)).astype(np.float32)
    options = replace(SMALL, epochs=3)
    models = [contrastive.fit(x, images, rows, options, [0], "cpu")[0] for x in (repeated, eeg)]
    found = [contrastive.similarity(m, eeg[test], images[test]) for m in models]
    np.testing.assert_allclose(*found, atol=0.02)
    drawn = replace(options, sub_average=2)
    other = contrastive.fit(repeated, images, rows, drawn, [0], "cpu")[0]
    assert not equal(other, models[0])
    x = torch.as_tensor(repeated[:50])
    halves = contrastive.some_repetitions(x, 2)
    every = [(x[:, i] + x[:, j]) / 2 for i in range(4) for j in range(i)]
    distance = torch.stack([(halves - mean).abs().amax((1, 2)) for mean in every])
    assert (distance.amin(0) < 1e-5).all()
    assert len(distance.argmin(0).unique()) == 6
    torch.testing.assert_close(contrastive.some_repetitions(x, 4), x.mean(1))


def test_pooled_subjects_share_candidates_and_mask_their_common_image():
    """Two subjects saw the same images: no second copy of an image counts as an error."""
    eeg, images, rows, test = world(0.5, concepts=40)
    both = np.concatenate([eeg, -eeg[:, ::-1]])
    n = len(eeg)
    pooled = Rows(
        np.tile(rows.image, 2),
        np.concatenate([rows.train, rows.train + n]),
        np.concatenate([rows.validation, rows.validation + n]),
        subject=np.repeat([0, 1], n),
    )
    options = replace(
        SMALL, encoder="atms", encoder_options={"subjects": 2}, score="top5_200", epochs=2,
        layout="fused",
    )  # fmt: skip
    long = np.repeat(both, 2, axis=2)  # ATM-S has the filters of NICE
    model = contrastive.fit(long, images, pooled, options, [0], "cpu")[0]
    found = contrastive.similarity(
        model, long[test], images[test], subject=np.zeros(len(test), int)
    )
    other = contrastive.similarity(model, long[test], images[test], subject=np.ones(len(test), int))
    assert found.shape == (len(test), len(test))
    assert not np.allclose(found, other)
    once = images[rows.validation]
    of_subject = [
        contrastive.similarity(
            model, long[i * n + rows.validation], once, subject=np.full(len(once), i)
        )
        for i in (0, 1)
    ]
    mrr = np.mean([1 / ranking.ranks(part) for part in of_subject])
    assert model.curves["validation_mrr"][model.epoch] == pytest.approx(mrr, rel=1e-5)


def test_pairs_of_one_image_or_concept_are_masked_where_asked():
    """The first loss, before any step, is that of the masked pairs."""
    eeg, images, rows, _ = world(1.0, concepts=6, test=0)
    rows = replace(rows, image=rows.image // 2, validation=np.array([], int))
    losses = {}
    for mask, groups in (("none", None), ("image", rows.image), ("concept", rows.concept)):
        options = replace(
            SMALL, epochs=1, batch_size=len(rows.train), dropout=0.0, image_dropout=0.0, mask=mask,
            encoder_options={**NICE, "dropout": 0.0},
        )  # fmt: skip
        curve = contrastive.fit(eeg, images, rows, options, [3], "cpu")[0].curves
        torch.manual_seed(3)
        network = contrastive.Network(CHANNELS, TIMES, [WIDTH], options)
        x, v = (
            torch.as_tensor(p[i]) for p, i in ((eeg, rows.train), (images, rows.image[rows.train]))
        )
        a, b = network.eeg_head(network.encoder(x)), network.image_head(v)
        groups = range(len(x)) if groups is None else groups[rows.train].tolist()
        expected = brute_force(a, b, 1 / options.temperature, groups)
        losses[mask] = curve["loss"][0]
        assert losses[mask] == pytest.approx(expected.item(), rel=1e-4)
    assert losses["none"] > losses["image"] > losses["concept"]


@pytest.mark.parametrize("centre", [False, True])
def test_the_control_is_trained_on_its_own_images_from_the_first_seed(centre):
    """Its first loss, before any step, is that of the pairs and the groups it was given."""
    eeg, images, rows, _ = world(1.0, concepts=6, test=0)
    rows = replace(rows, image=rows.image // 2, validation=np.array([], int))
    control = np.random.default_rng(0).permutation(rows.image)
    options = replace(
        LINEAR, epochs=1, batch_size=len(rows.train), dropout=0.0, image_dropout=0.0, centre=centre
    )
    models = contrastive.fit(eeg, images, rows, options, [3, 4], "cpu", control)
    assert [model.seed for model in models] == [3, 4, 3]
    x = torch.as_tensor(eeg[rows.train])
    for model, seen in zip(models, (rows.image, rows.image, control), strict=True):
        seen = seen[rows.train]
        torch.manual_seed(model.seed)
        network = contrastive.Network(CHANNELS, TIMES, [WIDTH], options)
        vectors = (
            network.eeg_head(network.encoder(x)),
            network.image_head(torch.as_tensor(images[seen])),
        )
        if centre:
            vectors = [v - v.mean(1, keepdim=True) for v in vectors]
        expected = brute_force(*vectors, 1 / options.temperature, seen.tolist())
        assert model.curves["loss"][0] == pytest.approx(expected.item(), rel=1e-4)


def test_top5_of_draws():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(740, 740)) + 2.5 * np.eye(740)
    ranks = ranking.ranks(similarity)
    better = (ranks - 1).astype(int)
    expected = hypergeom.cdf(4, 739, better, 199).mean()  # over all draws
    found = contrastive.top5_of_draws(similarity, np.arange(740))
    assert found == pytest.approx(expected, abs=0.02)
    assert found * 200 != pytest.approx(round(found * 200), abs=1e-6)  # one draw is a share of 200
    assert found == contrastive.top5_of_draws(similarity, np.arange(740))
    few = similarity[:50, :50]
    assert contrastive.top5_of_draws(few, np.arange(50)) == (ranking.ranks(few) <= 5).mean()


def test_bf16_comes_near_float32():
    eeg, images, rows, test = world(0.5, concepts=30)
    options = replace(SMALL, epochs=6, bf16=True)
    model = contrastive.fit(eeg, images, rows, options, [0], "cpu")[0]
    assert top1(contrastive.similarity(model, eeg[test], images[test])) > 0.8
    assert all(value.dtype != torch.bfloat16 for value in model.state().values())


# ---- bad input ---------------------------------------------------------------------------


def test_divergence_names_the_epoch():
    eeg, images, rows, _ = world(0.5, concepts=10)
    options = replace(LINEAR, encoder_lr=1e30, projector_lr=1e30, clip_gradient=0)
    with pytest.raises(InputError, match=r"seed 4 diverged in epoch \d"):
        contrastive.fit(eeg, images, rows, options, [4], "cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mask": "subject"}, "mask is 'subject'"),
        ({"score": "top7"}, "score is 'top7'"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be in \[0, 1\)"),
        ({"image_dropout": 1.0}, "image_dropout is 1.0"),
        ({"sub_average": -1}, "sub_average is -1"),
        ({"patience": -1}, "patience is -1"),
        ({"temperature": 0.001}, "temperature is 0.001"),
        ({"sub_average": 2}, "sub_average is 2"),
        ({"eeg_head": False}, "set eeg_head"),
        ({"encoder": "mlp", "encoder_options": {"d": 8}, "eeg_head": False}, "set eeg_head"),
        ({"encoder": "cnn"}, "encoder 'cnn' is unknown"),
    ],
)
def test_options_that_are_refused(change, says):
    eeg, images, rows, _ = world(0.5, concepts=10)
    with pytest.raises(InputError, match=says):
        contrastive.fit(eeg, images, rows, replace(SMALL, **change), [0], "cpu")


def test_data_that_are_refused():
    eeg, images, rows, _ = world(0.5, concepts=10)

    def refused(says, x=eeg, v=images, r=rows, **change):
        with pytest.raises(InputError, match=says):
            contrastive.fit(x, v, r, replace(SMALL, **change), [0], "cpu")

    refused("images of 100", r=replace(rows, image=rows.image[:100]))
    refused("every image needs one row", v=images[:50])
    refused("every image needs one row", v=images[:99])  # the last that is used is image 99
    refused("every image needs one row", v=[images, images[:50]])
    refused("names images -1 to", r=replace(rows, image=rows.image - 1))
    refused("in training and validation", r=replace(rows, validation=rows.train[:2]))
    refused("no concept", r=replace(rows, concept=None), mask="concept")
    refused("training epochs", r=replace(rows, train=np.array([3])))
    refused("expected 3 or 4 axes", x=eeg[:, 0])
    broken = eeg.copy()
    broken[7, 0, 0] = np.inf
    refused("epoch 7 holds NaN or infinite", x=broken)
    many, pictures, all_rows, _ = world(0.5, concepts=32, test=0)
    many[270, 0, 0] = np.nan
    refused("epoch 270 holds NaN or infinite", x=many, v=pictures, r=all_rows)
    broken = images.copy()
    broken[3] = np.nan
    refused("target of image 3 is not finite", v=broken)
