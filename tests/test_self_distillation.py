"""Self-distillation of Brain-Semantoks, against golden values, closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from published import backbone
from torch.nn.functional import cosine_similarity

from engram.errors import InputError
from engram.objectives import self_distillation
from engram.planning import components
from engram.readers import atlases

REGIONS = [*atlases.ATLASES["schaefer400_7n"][:60], *atlases.ATLASES["buckner7"]]
VIEW = {"what": "timeseries", "channels": REGIONS, "missing": [], "frames": 130}
TINY = {"width": 16, "depth": 1, "heads": 2}
SMALL = {"projector_width": 8, "projector_dim": 4}
STEPS = 40


def objective(view=VIEW, model=None, **keys):
    _, model = components.options("backbones", {"kind": "semantoks", **TINY, **(model or {})})
    kind = {"kind": "self_distillation", "epochs": 20, **SMALL, **keys}
    module, options = components.options("objectives", kind)
    return module.build(model, options, view, STEPS, "cpu")


def scans(n, frames=130):
    return [*np.random.default_rng(0).standard_normal((n, len(REGIONS), frames), np.float32)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- losses -----------------------------------------------------------------------------


def test_similarity_and_coding_rate_have_the_golden_values():
    i = np.arange(24)
    each = [np.sin(0.9 * i + a) + 0.3 * np.cos(1.7 * i * (a + 1)) for a in (0.1, 0.2, 0.3, 0.4)]
    each = [one.reshape(6, 4) for one in each]
    unit = torch.tensor(np.stack([v / np.linalg.norm(v, axis=1, keepdims=True) for v in each]))
    np.testing.assert_allclose(unit[0, 0], [0.32229, 0.60699, 0.56297, 0.45908], atol=5e-6)
    similarity, expansion = self_distillation.mcr(unit[:2], unit[2:])
    np.testing.assert_allclose(similarity, 0.8934914143, atol=1e-9)
    np.testing.assert_allclose(expansion, 1.7363411242, atol=1e-9)


def test_the_coding_rate_of_equal_and_of_orthogonal_vectors():
    m, p = 12, 4
    gamma = (p + m) / (p * m)
    equal = torch.eye(p, dtype=torch.float64)[[0] * m].expand(2, m, p)
    _, rate = self_distillation.mcr(equal, equal)
    assert math.isclose(rate, gamma / 2 * math.log(1 + p / 0.05), rel_tol=1e-9)
    spread = torch.eye(p, dtype=torch.float64).repeat(3, 1).expand(2, m, p)
    _, rate = self_distillation.mcr(spread, spread)
    assert math.isclose(rate, gamma / 2 * p * math.log(1 + 1 / 0.05), rel_tol=1e-9)


def taken_apart(found, batch, step):
    """The loss, sample by sample."""
    crops, mask = batch["crops"], batch["mask"]
    b, n = len(crops), len(found.student.encoder.networks)
    seen, known = {}, {}
    for v in range(2):
        with torch.no_grad():
            seen[v] = found.student.encoder(crops[:, v], mask[:, v])
            known[v] = found.teacher.encoder(crops[:, v])
    student, teacher = found.student.projector, found.teacher.projector

    def compared(s, t):
        m, p = s[0].shape
        s = [v.detach() for v in s]
        similarity = sum(float(s[v][i] @ t[1 - v][i]) for v in range(2) for i in range(m)) / (2 * m)
        rates = []
        for v in range(2):
            z = ((s[v] + t[v]) / 2).double()
            rates.append(torch.linalg.slogdet(torch.eye(p) + p / (m * 0.05) * z.T @ z)[1] / 2)
        return -similarity - float(sum(rates) / 2) * (p + m) / (p * m)

    views = range(2)
    loss = compared(
        [student(seen[v][:, 0]) for v in views], [teacher(known[v][:, 0]) for v in views]
    )
    means = [
        [torch.stack([one[i, 1 + 5 * k : 6 + 5 * k].mean(0) for i in range(b) for k in range(n)])
         for one in tokens.values()]
        for tokens in (seen, known)
    ]  # fmt: skip
    end = STEPS * 5 / 20
    weight = 0.5 * (1 + math.cos(math.pi * step / end)) / 2 if step < end else 0
    loss += weight * compared([student(x) for x in means[0]], [teacher(x) for x in means[1]])
    agreement = 0
    for i in range(b):
        for v in range(2):
            at = [1 + 5 * k + w for k in range(n) for w in range(5) if mask[i, v, k, w]]
            if at:
                s, t = student(seen[v][i, at]).detach(), teacher(known[v][i, at])
                agreement += float(cosine_similarity(s, t).mean())
    return loss - 0.5 * agreement / (2 * b)


@pytest.mark.parametrize("masking", [0, 1])
@pytest.mark.parametrize("step", [0, 4, 10, 39])
def test_the_loss_is_that_of_its_samples_one_by_one(masking, step):
    found = objective(masking=masking)
    with torch.no_grad():  # a teacher that knows something else
        for parameter in found.teacher.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=seeded(1))
    batch = found.batch(scans(3), seeded())
    assert batch["mask"].any() == bool(masking)
    loss, parts = found.loss(batch, step)
    np.testing.assert_allclose(float(loss.detach()), taken_apart(found, batch, step), atol=1e-5)
    assert ("network_expansion" in parts) == (step < 10)


def test_only_the_student_takes_gradients():
    found = objective(masking=1)
    batch = found.batch(scans(3), seeded())
    found.loss(batch, 0)[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in found.student.parameters())
    assert all(p.grad is None for p in found.teacher.parameters())
    (group,) = found.groups()
    assert group["decay"]
    assert len(group["params"]) == len([*found.student.parameters()])


# ---- teacher ----------------------------------------------------------------------------


def test_the_momentum_has_the_golden_values():
    found = objective()
    found.steps = 100
    expected = [0.99, 0.991464, 0.995, 0.999998]
    np.testing.assert_allclose([found.momentum(s) for s in (0, 25, 50, 99)], expected, atol=5e-7)


def test_the_teacher_follows_the_student():
    found = objective()
    before = [p.clone() for p in found.teacher.parameters()]
    with torch.no_grad():
        for parameter in found.student.parameters():
            parameter += 1
    found.update(STEPS // 2)
    for old, new in zip(before, found.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.005)
    held = found.teacher.encoder.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in found.weights().items())


def test_student_and_teacher_begin_as_the_backbone_with_random_weights():

    random = backbone(
        "semantoks", view=VIEW | {"frames": 100, "tr": 2, "unit": "z"}, seed=3, **TINY
    )
    weights = random.model.encoder.state_dict()
    found = objective(model={"seed": 3})
    assert weights.keys() == found.weights().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in found.weights().items())
    batch = found.batch(scans(1), seeded())
    torch.testing.assert_close(found.features(batch), random(batch["crops"][:, 0].numpy()))


# ---- batches ----------------------------------------------------------------------------


def test_crops_begin_anywhere():
    ramp = [np.tile(np.arange(107, dtype=np.float32), (3, 1))] * 500
    crops = self_distillation.cropped(ramp, 100, seeded())
    assert crops.shape == (500, 2, 3, 100)
    starts = crops[:, :, 0, 0]
    torch.testing.assert_close(crops, starts[..., None, None] + torch.arange(100.0).expand(3, 100))
    assert (torch.bincount(starts.int().flatten(), minlength=8) > 80).all()
    assert starts.int().max() == 7
    assert (starts[:, 0] == starts[:, 1]).float().mean() < 0.3


def test_a_scan_shorter_than_a_crop_is_refused():
    with pytest.raises(InputError, match="a scan of 99 frames is shorter than a crop of 100"):
        objective().batch([*scans(1), *scans(1, 99)], seeded())


def drawn(**keys):
    found = objective(**keys)
    masks = self_distillation.slices((10_000, 2, 9, 5), found.options, seeded())
    temporal = (masks == masks[:, :, :1]).all(-1).all(-1)
    return masks, temporal


def counts(masks):
    """How often each number of rows or columns is masked."""
    values, found = masks.sum(-1).unique(return_counts=True)
    return dict(zip(values.tolist(), (found / found.sum()).tolist(), strict=True))


def test_masks_hide_as_much_as_the_paper_states():
    masks, temporal = drawn()
    assert abs(temporal.float().mean() - 0.5) < 0.02
    columns, rows = masks[temporal][:, 0], masks[~temporal][..., 0]
    assert (masks[~temporal] == rows[..., None]).all()
    assert counts(columns).keys() == {4}
    found = counts(rows)
    assert found.keys() == {6, 7}
    assert abs(found[6] - 0.5) < 0.02
    share = masks.float().mean((-1, -2))
    assert share.min() >= 0.65
    assert share.max() <= 0.85
    starts = columns.int().argmax(-1)
    assert abs((starts == 0).float().mean() - 0.5) < 0.02
    assert (columns.int().diff(dim=-1).abs().sum(-1) == 1).all()  # one stretch at either end
    assert (rows.float().mean(0) - 6.5 / 9).abs().max() < 0.02


def test_faithful_masks_hide_as_much_as_the_published_code():
    masks, temporal = drawn(faithful=True)
    rows, columns = counts(masks[~temporal][..., 0]), counts(masks[temporal][:, 0])
    assert rows.keys() == {5, 6}
    assert abs(rows[5] - 0.5) < 0.02
    assert columns.keys() == {3, 4}
    assert abs(columns[3] - 0.75) < 0.02
    starts = masks[temporal][:, 0].int().argmax(-1)[masks[temporal][:, 0].sum(-1) == 3]
    assert (starts.bincount() / len(starts) - 1 / 3).abs().max() < 0.02


def test_masks_of_one_kind():
    assert drawn(masks="temporal")[1].all()
    assert not drawn(masks="network")[1].any()
    masks, temporal = drawn(masks="temporal", mask_ratio=[0.6, 0.8])
    assert counts(masks[temporal][:, 0]).keys() == {3, 4}  # both ends are in


def test_half_of_the_steps_are_masked():
    found = objective()
    masked = [
        found.batch(scans(2), seeded(i))["mask"].flatten(1).any(1).tolist() for i in range(99)
    ]
    assert all(one == other for one, other in masked)
    assert 30 < sum(one for one, _ in masked) < 70


def test_regions_of_a_network_are_masked_together_if_canonical():
    found = objective(
        model={"tokens": "max_spatial"}, canonical_masks=True, masks="network", masking=1
    )
    mask = found.batch(scans(4), seeded())["mask"]
    assert mask.shape == (4, 2, len(REGIONS), 5)
    networks = [atlases.network(name) for name in REGIONS]
    for name in set(networks):
        rows = mask[:, :, [one == name for one in networks], 0]
        assert (rows == rows[..., :1]).all()


# ---- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"augment": [1, 1, 1]}, "four levels of 0 to 3"),
        ({"augment": [1, 1, 1, 4]}, "four levels of 0 to 3"),
        ({"mask_ratio": [0.9, 0.8]}, "mask_ratio: 0.9 to 0.8"),
        ({"masking": 1.5}, r"masking: 1.5; it must be in \[0, 1\]"),
        ({"model": {"tokens": "min_spatial"}}, "there is one row of tokens; use temporal"),
        ({"view": VIEW | {"missing": REGIONS[-7:]}}, "all regions of network Cerebellum"),
    ],
)
def test_what_cannot_be_trained_is_refused(keys, message):
    with pytest.raises(InputError, match=message):
        objective(**keys)


# ---- training ---------------------------------------------------------------------------


def test_a_student_learns_to_tell_subjects_apart():
    """Scans of a subject are mixtures of its own: what two crops share is what to learn."""
    draw = np.random.default_rng(0)
    mixing = draw.standard_normal((10, len(REGIONS), 3)).astype(np.float32)
    found = objective(epochs=STEPS, masking=0.5, momentum=0.9, projector_dim=16)
    optimiser = torch.optim.AdamW(found.groups()[0]["params"], lr=1e-2)
    generator, losses = seeded(), []
    for step in range(STEPS):
        time = draw.standard_normal((10, 3, 130), np.float32)
        loss, parts = found.loss(found.batch([*(mixing @ time)], generator), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.update(step)
        losses.append({name: float(value.detach()) for name, value in parts.items()})
    before, after = losses[5], losses[-1]
    assert after["class_expansion"] > 1.3 * before["class_expansion"]
    assert after["class_similarity"] > 0.5
    batch = found.batch([*(mixing @ time)], generator)
    with torch.no_grad():
        projected = found.teacher.projector(found.teacher.encoder(batch["crops"][:, 0])[:, 0])
    assert projected.std(0).mean() > 0.05
