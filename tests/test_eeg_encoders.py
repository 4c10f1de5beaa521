"""Encoders against their published sizes, against brute force, and layout against layout."""

import sys
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from engram.errors import InputError
from engram.models import eeg_encoders as encoders
from engram.models import fronts
from engram.models import nice as nice_layers

LEARNED = {"pooling": "learned", "pool": 41, "stride": 1}
FORMS = {
    "published": (63, 250, {}),
    "adaptation": (17, 100, LEARNED),
    "pooled learned": (5, 90, {"pooling": "learned", "pool": 31, "stride": 4}),
    "attention": (7, 120, {"front": "attention"}),
    "graph": (7, 120, {"front": "graph"}),
    "transformer": (7, 120, {"front": "transformer"}),
}


def size(module):
    return sum(p.numel() for p in module.parameters())


def make(form, layout, seed=0, **more):
    torch.manual_seed(seed)
    channels, times, options = FORMS[form]
    return encoders.make("nice", channels, times, layout, **deepcopy(options), **more)


def quiet(module):
    """Without dropout: layouts draw it in another order."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return module


# ---- sizes ------------------------------------------------------------------------------


def test_published_sizes():
    nice = encoders.NICE()
    assert (size(nice), nice.d) == (103_680, 1440)
    assert size(nice) + size(encoders.projector(1440, 768)) == 1_802_496
    assert size(encoders.projector(768, 768, 0.3)) == 1_182_720
    learned = encoders.NICE(17, 100, **LEARNED)
    assert (size(learned), learned.d) == (95_640, 1440)
    heads = [encoders.projector(1440, 256), encoders.projector(768, 256)]
    assert [size(head) for head in heads] == [435_200, 263_168]
    temperature = 1
    assert size(learned) + sum(map(size, heads)) + temperature == 794_009
    assert size(fronts.GraphAttention()) == 63_250
    assert size(encoders.MLP(17, 250)) == 5_404_672


@pytest.mark.parametrize("name", ["nice", "atms", "mlp"])
def test_epochs_become_vectors(name):
    encoder = encoders.make(name, 8, 100)
    assert encoder(torch.randn(3, 8, 100)).shape == (3, encoder.d)


def test_weights_are_drawn_as_published():
    nice = encoders.NICE()
    assert nice.spatial.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (nice.norm.weight - 1).std().item() == pytest.approx(0.02, rel=0.4)
    assert not nice.mix.bias.any()


def test_the_channel_transformer_has_the_size_of_its_layers():
    t, inner, hidden = 250, 4 * 62, 256
    attention = 3 * (t * inner + inner) + inner * t + t
    layers = t * t + t + attention + t * hidden + hidden + hidden * t + t + 3 * 2 * t
    assert size(fronts.ChannelTransformer(63, t)) == layers
    assert size(encoders.ATMS(63, t)) == layers + size(encoders.NICE(63, t))


def test_a_projector_is_a_residual_branch_between_a_map_and_a_norm():
    torch.manual_seed(0)
    layers = encoders.projector(30, 20, 0.3)
    first, branch, norm = layers
    assert [m.p for m in layers.modules() if isinstance(m, torch.nn.Dropout)] == [0.3]
    for linear in (first, branch[1]):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not linear.bias.any()
    with torch.no_grad():
        for p in layers.parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(5, 30)
    y = x @ first.weight.T + first.bias
    gelu = y * torch.special.ndtr(y)
    y = y + gelu @ branch[1].weight.T + branch[1].bias
    mean, variance = y.mean(1, keepdim=True), y.var(1, correction=0, keepdim=True)
    expected = (y - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(layers.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_options_reach_the_layers_they_are_of():
    nice = encoders.make("nice", 7, 120, dropout=0.2, front="attention",
                         front_options={"dropout": 0.1})  # fmt: skip
    assert nice.dropout.p == 0.2
    assert isinstance(nice.front, fronts.SpatialAttention)
    assert nice.front.dropout.p == 0.1
    assert encoders.NICE().dropout.p == 0.5
    atms = encoders.make("atms", 7, 120, layout="plain", heads=3, dropout=0.4)
    assert (atms.layout, atms.front.heads, atms.front.dropout.p) == ("plain", 3, 0.4)
    mlp = encoders.make("mlp", 7, 120, d=16, dropout=0.1)
    assert [m.p for m in mlp.modules() if isinstance(m, torch.nn.Dropout)] == [0.1]


def test_a_front_end_keeps_the_weights_it_was_made_with():
    attention = encoders.make("nice", 63, 250, front="attention").front
    for linear in (attention.query[0], attention.key[0], attention.out[0]):
        assert linear.weight.std().item() == pytest.approx((2 / (63 + 63)) ** 0.5, rel=0.1)
        assert not linear.bias.any()
    graph = encoders.make("nice", 63, 250, front="graph").front
    assert graph.linear.weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.1)
    for vector in (graph.u, graph.v):
        assert vector.std().item() == pytest.approx(250**-0.5, rel=0.2)


def test_an_epoch_as_long_as_the_filters_is_one_step():
    assert encoders.NICE(3, 65, width=25, pool=41).d == 40
    with pytest.raises(InputError, match="shorter than the filters"):
        encoders.NICE(3, 64, width=25, pool=41)


# ---- layouts ----------------------------------------------------------------------------


def state_after(encoder, x, weights):
    out = encoder(x)
    (out * weights).sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    return out.detach(), gradients, dict(encoder.state_dict())


@pytest.fixture(params=["whole", "in blocks"])
def blocks(request, monkeypatch):
    """The fused layout as for a small activation and for a large one, in several blocks."""
    if request.param == "in blocks":
        monkeypatch.setattr(nice_layers, "LARGE", 0)
        monkeypatch.setattr(nice_layers, "BLOCK", 4 * 17 * 40 * 8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of_input", [True, False], ids=["input too", "parameters"])
def test_layouts_are_the_same_function_with_the_same_gradients(form, of_input, blocks):
    plain, fused = (quiet(make(form, layout)).double() for layout in nice_layers.LAYOUTS[::-1])
    assert plain.layout == "plain"
    with torch.no_grad():  # of ordinary size, so that no tolerance hides a term
        for p in plain.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    fused.load_state_dict(plain.state_dict())
    channels, times, _ = FORMS[form]
    x = torch.randn(6, channels, times, dtype=torch.float64) * 2 + 0.5
    weights = torch.randn(6, plain.d, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(of_input) for _ in range(2)]
    expected = state_after(plain, inputs[0], weights)
    found = state_after(fused, inputs[1], weights)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
    if of_input:
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-10, atol=1e-10)
    for part in (1, 2):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-10, atol=1e-10, msg=name)
    torch.testing.assert_close(
        fused.eval()(x[:1]), plain.eval()(x[:1]), rtol=1e-10, atol=1e-10, msg="running statistics"
    )


def test_blocks_in_bfloat16_come_near_float32(blocks):
    fused = quiet(make("adaptation", "fused"))
    exact = deepcopy(fused)
    x, weights = torch.randn(40, 17, 100), torch.randn(40, fused.d)
    with torch.autocast("cpu", torch.bfloat16):
        out = fused(x)
    (out.float() * weights).sum().backward()
    expected = exact(x)
    (expected * weights).sum().backward()
    assert F.cosine_similarity(out.float(), expected).min() > 0.999
    for a, b in zip(fused.parameters(), exact.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        if b.grad.abs().max() > 1e-3:  # the others are rounding errors around 0
            assert F.cosine_similarity(a.grad.flatten(), b.grad.flatten(), dim=0) > 0.98


def test_statistics_of_windows_do_not_cancel():
    """Epochs far from zero, in float32: the variance is small against the squared mean."""
    nice = quiet(encoders.NICE(4, 120, layout="fused"))
    x = torch.randn(8, 4, 120) + 300
    reference = deepcopy(nice).double()
    reference.layout = "plain"
    torch.testing.assert_close(nice(x).double(), reference(x.double()), rtol=1e-2, atol=1e-3)


def test_dropout_drops_in_both_layouts():
    for layout in nice_layers.LAYOUTS:
        encoder = make("adaptation", layout)
        x = torch.randn(4, 17, 100)
        assert not torch.equal(encoder(x), encoder(x))
        encoder.eval()
        assert torch.equal(encoder(x), encoder(x))


def test_preparation_is_part_of_the_encoder():
    encoder = make("published", "fused").eval()
    x = torch.randn(2, 63, 250)
    assert encoder.prepare(x).shape == (2, 63, 200)
    assert torch.equal(encoder.features(encoder.prepare(x)), encoder(x))


# ---- front ends by brute force -----------------------------------------------------------


def test_spatial_attention_mixes_channels():
    torch.manual_seed(0)
    layer = fronts.SpatialAttention(5, 64).eval()
    x = torch.randn(3, 5, 64)
    expected = torch.empty_like(x)
    for i in range(3):
        y = F.layer_norm(x[i], (64,), layer.norm.weight, layer.norm.bias)
        q = torch.stack([layer.query(y[:, t]) for t in range(64)], 1)
        k = torch.stack([layer.key(y[:, t]) for t in range(64)], 1)
        mixed = torch.zeros(5, 64)
        for c in range(5):
            scores = torch.stack([(q[c] * k[m]).sum() for m in range(5)]) / 2**0.5
            for m, share in enumerate(scores.softmax(0)):
                mixed[c] += share * y[m]
        expected[i] = x[i] + torch.stack([layer.out(mixed[:, t]) for t in range(64)], 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_graph_attention_acts_within_every_epoch():
    torch.manual_seed(0)
    layer = fronts.GraphAttention(4, 20).eval()
    x = torch.randn(3, 4, 20)
    expected = torch.empty_like(x)
    for i in range(3):
        y = x[i] @ layer.linear.weight.T
        for c in range(4):
            scores = torch.stack([F.leaky_relu(layer.u @ y[c] + layer.v @ z, 0.2) for z in y])
            shares = scores.softmax(0)
            expected[i, c] = x[i, c] + sum(a * z for a, z in zip(shares, y, strict=True))
    torch.testing.assert_close(layer(x), expected + layer.bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x[2:]), layer(x)[2:])


@pytest.mark.parametrize("front", encoders.FRONTS)
def test_front_ends_carry_a_channel_to_the_others(front):
    """The released attentions do not: their outputs of other channels stay as they are."""
    torch.manual_seed(0)
    layer = encoders.FRONTS[front](6, 60).eval()
    x = torch.randn(2, 6, 60)
    changed = x.clone()
    changed[1, 3] += torch.randn(60)
    moved = (layer(changed) - layer(x)).abs().amax(2)
    assert not moved[0].any()
    assert (moved[1] > 1e-4).all()


@pytest.mark.parametrize("front", [fronts.SpatialAttention, fronts.GraphAttention])
def test_what_a_front_end_adds_is_dropped_in_training(front):
    layer = front(6, 60, dropout=1.0).train()
    x = torch.randn(2, 6, 60)
    assert torch.equal(layer(x), x)
    assert not torch.equal(layer.eval()(x), x)


def test_a_subject_token_changes_epochs_and_leaves_all_channels():
    torch.manual_seed(0)
    encoder = encoders.ATMS(6, 100, subjects=2).eval()
    x = torch.randn(1, 6, 100)
    outs = [encoder(x, subject=torch.tensor([s])) for s in (0, 1)]
    assert (outs[0] - outs[1]).abs().max() > 1e-5
    assert encoder.front(x, torch.tensor([0])).shape == x.shape
    changed = x.clone()
    changed[0, 5] += torch.randn(100)
    last = [encoder.front(e, torch.tensor([0]))[0, 5] for e in (x, changed)]
    assert (last[0] - last[1]).abs().max() > 0.1


def test_the_transformer_layer_is_pytorchs():
    torch.manual_seed(0)
    ours = fronts.ChannelTransformer(6, 40, heads=4, hidden=32).eval()
    theirs = torch.nn.TransformerEncoderLayer(40, 4, 32, activation="gelu", batch_first=True).eval()
    attention = theirs.self_attn
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        attention.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        attention.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
    pairs = [(attention.out_proj, ours.out), (theirs.linear1, ours.up), (theirs.linear2, ours.down)]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    x = torch.randn(2, 6, 40)
    expected = F.layer_norm(theirs(ours.embed(x)), (40,))
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("eegnet", {}, "unknown; use nice"),
        ("nice", {"layout": "fast"}, "layout 'fast'"),
        ("nice", {"pooling": "max"}, "pooling 'max'"),
        ("nice", {"front": "cross"}, "front end 'cross'"),
        ("nice", {"kernel": 3}, "kernel"),
        ("nice", {"pool": 200}, "shorter than the filters"),
    ],
)
def test_what_cannot_be_made(name, options, says):
    with pytest.raises(InputError, match=says):
        encoders.make(name, 17, 100, **options)


def test_braindecode_is_asked_for_only_when_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "braindecode", None)
    with pytest.raises(InputError, match=r"pip install -e .\[braindecode\]"):
        encoders.make("braindecode/EEGNet", 17, 100, sfreq=100)


def test_normalisation_of_rows_is_that_of_the_layer():
    torch.manual_seed(0)
    y = (3 * torch.randn(50, 7, dtype=torch.float64) + 5).requires_grad_()
    layers = [torch.nn.BatchNorm2d(7).double() for _ in range(2)]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
        torch.nn.init.constant_(layer.bias, 0.3)
    for training in (True, True, False):
        ours, theirs = (layer.train(training) for layer in layers)
        found, expected = nice_layers.of_rows(ours, y), theirs(y[:, :, None, None]).flatten(1)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        leaves = [[y, layer.weight, layer.bias] for layer in layers]
        gradients = [
            torch.autograd.grad((out**3).sum(), part)
            for out, part in ((found, leaves[0]), (expected, leaves[1]))
        ]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=0)
