"""Backbones: features of known signals, weights from files in their published layouts."""

import json

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from safetensors.torch import save_file

from engram.backbones.timm import timm
from engram.errors import InputError
from engram.frozen import checkpoints
from engram.frozen.clip import open_clip
from engram.planning.components import options

FREQUENCIES = np.arange(35, 0.4, -0.25)
VIEW = {
    "what": "spectrogram",
    "frequencies": FREQUENCIES.tolist(),
    "limits": [-20, 20],
    "cmap": "viridis",
}
VIT = "test_vit.r160_in1k"
TINY = "tiny-for-tests"
TONES = [2, 6, 10, 20, 30]


def backbone(kind, view=VIEW, weights=None, **keys):
    if weights:
        keys["weights"] = str(weights)
    module, chosen = options("backbones", {"kind": kind, **keys})
    return module.load(chosen, weights, view, "cpu")


def noise(n=8, seed=0):
    """Spectrograms of noise, dB, float16 (n, frequency, time)."""
    scatter = np.random.default_rng(seed).normal(0, 2, (n, len(FREQUENCIES), 29))
    return (scatter - 10 * np.log10(FREQUENCIES)[:, None]).astype(np.float16)


def with_tone(rows, tone, decibel=12):
    """The same spectrograms with the power of one tone added."""
    line = 10 ** (decibel / 10) * np.exp(-0.5 * ((FREQUENCIES - tone) / 0.5) ** 2)
    return (10 * np.log10(10 ** (rows.astype(float) / 10) + line[:, None])).astype(np.float16)


# ---- band power -----------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["decibels", "median", "mean"])
def test_band_power_of_a_signal_is_that_of_scipy(statistic):
    rng, sfreq = np.random.default_rng(0), 100
    signals = np.cumsum(rng.normal(size=(5, 30 * sfreq)), axis=1)
    f, _, density = scipy.signal.spectrogram(signals, sfreq, nperseg=400, noverlap=200)
    shown = (f >= 0.5) & (f <= 35)
    rows = 10 * np.log10(density[:, shown][:, ::-1])
    view = VIEW | {"frequencies": f[shown][::-1].tolist()}
    found = backbone("bandpower", view, statistic=statistic)(rows.astype(np.float16))

    over_time = {
        "decibels": lambda power: np.mean(10 * np.log10(power)),
        "median": lambda power: 10 * np.log10(np.median(power)),
        "mean": lambda power: 10 * np.log10(np.mean(power)),
    }[statistic]
    bands = {
        "delta": (0.5, 4),
        "theta": (4, 8),
        "alpha": (8, 12),
        "sigma": (12, 15),
        "beta": (15, 30),
    }
    expected = {
        name: [over_time(one[(f >= low) & (f < high)].mean(0)) for one in density]
        for name, (low, high) in bands.items()
    }
    expected["alpha/theta"] = np.subtract(expected["alpha"], expected["theta"])
    expected["delta/alpha"] = np.subtract(expected["delta"], expected["alpha"])
    np.testing.assert_allclose(found, np.column_stack([*expected.values()]), atol=0.02)
    assert backbone("bandpower", view).facts["columns"] == [*expected]


def test_band_power_of_a_tone_is_half_its_squared_amplitude():
    sfreq, amplitude = 100, 3.0
    signal = amplitude * np.sin(2 * np.pi * 10 * np.arange(3000) / sfreq)
    f, _, density = scipy.signal.spectrogram(signal, sfreq, nperseg=400, noverlap=200)
    rows = 10 * np.log10(density[None, ::-1] + 1e-12)
    band = backbone("bandpower", VIEW | {"frequencies": f[::-1].tolist()}, statistic="mean")
    alpha = band(rows)[0, band.facts["columns"].index("alpha")]
    assert 10 ** (alpha / 10) * (12 - 8) == pytest.approx(amplitude**2 / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("statistic", "delta"), [("mean", 10 * np.log10(1000 / 3)), ("median", -60), ("decibels", -30)]
)
def test_one_loud_column_rules_the_mean_of_power_alone(statistic, delta):
    rows = np.full((1, len(FREQUENCIES), 3), -60.0)
    rows[..., 0] = 30
    found = backbone("bandpower", statistic=statistic)(rows)[0, 0]
    np.testing.assert_allclose(found, delta, rtol=1e-4)


def test_relative_power_is_the_share_of_all_bands_whatever_the_gain():
    rows = with_tone(noise(), 10)
    bands = {"slow": [0.5, 8], "fast": [8, 30]}
    louder = (rows + 7).astype(np.float16)
    found, other = (
        backbone("bandpower", relative=True, bands=bands, statistic="mean")(one)[:, 2:]
        for one in (rows, louder)
    )
    np.testing.assert_allclose(found, other, atol=0.05)
    power = (10 ** (rows.astype(float) / 10)).mean(2)
    inside = [(low <= FREQUENCIES) & (high > FREQUENCIES) for low, high in bands.values()]
    sums = np.stack([power[:, one].sum(1) for one in inside], 1)
    shares = sums / sums.sum(1, keepdims=True)
    np.testing.assert_allclose(found, 10 * np.log10(shares), atol=1e-4)


def test_the_slope_is_the_exponent_that_a_peak_does_not_move():
    """Power of 1/f^1.5 falls by 15 dB a decade; SciPy's repeated medians on the same points."""
    rows = np.repeat(-15 * np.log10(FREQUENCIES)[None, :, None], 4, axis=2)
    band = backbone("bandpower", slope=True)
    assert band.facts["columns"][-1] == "1/f slope"
    peaked = with_tone(rows, 10, 15).astype(float)
    np.testing.assert_allclose(band(rows)[:, -1], -15, atol=1e-3)
    np.testing.assert_allclose(band(peaked)[:, -1], -15, atol=0.7)
    noisy = noise(3).astype(float)
    at, x = band.fitted
    expected = [scipy.stats.siegelslopes(one.mean(1)[at], x)[0] for one in noisy]
    np.testing.assert_allclose(band(noisy)[:, -1], expected, rtol=1e-4)


def test_bands_of_a_slow_signal_have_no_ratios():
    view = VIEW | {"frequencies": [0.2, 0.1, 0.05, 0.02]}
    band = backbone("bandpower", view, bands={"slow": [0.01, 0.06], "fast": [0.06, 0.2]})
    rows = np.repeat([[[99], [10], [20], [20]]], 3, axis=2).astype(np.float16)
    np.testing.assert_allclose(band(rows), [[20, 10]], rtol=1e-6)


@pytest.mark.parametrize(
    ("band", "inside"),
    [([40, 80], False), ([30, 36], False), ([30, 35.2], True), ([30, 35], True), ([0.1, 4], False),
     ([0.4, 4], True), ([0.5, 4], True), ([10.01, 10.02], False), ([12, 8], False)],
)  # fmt: skip
def test_a_band_that_the_view_does_not_hold_from_end_to_end_is_refused(band, inside):
    frequencies = np.arange(35, 0.4, -0.25).tolist()
    view = VIEW | {"frequencies": frequencies, "settings": {"sfreq": 70.0}}
    if inside:
        backbone("bandpower", view, bands={"gamma": band})
        return
    message = r"bands\.gamma: .* of 70 samples per second, which has 0\.5 to 35 Hz"
    with pytest.raises(InputError, match=message):
        backbone("bandpower", view, bands={"gamma": band})


# ---- every tone is seen ---------------------------------------------------------------


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("kind", ["bandpower", "timm", "open_clip"])
def test_a_tone_moves_the_features_beyond_the_noise(kind, tone, tiny):
    model = {"bandpower": {}, "timm": {"model": VIT}, "open_clip": {"model": tiny}}[kind]
    encode = backbone(kind, **model)
    silent, sounding = encode(noise()), encode(with_tone(noise(), tone))
    floor = np.linalg.norm(silent - silent.mean(axis=0), axis=1).max()
    moved = np.linalg.norm(sounding - silent, axis=1)
    assert moved.min() > 2 * floor


# ---- frozen ---------------------------------------------------------------------------


def test_random_weights_follow_their_seed_and_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = backbone("timm", model=VIT, seed=1)
    torch.testing.assert_close(torch.rand(3), expected)
    same, other = backbone("timm", model=VIT, seed=1), backbone("timm", model=VIT, seed=2)
    assert one.facts["weights_sha256"] == same.facts["weights_sha256"]
    assert one.facts["weights_sha256"] != other.facts["weights_sha256"]
    assert (one.facts["weights"], one.facts["seed"]) == ("random", 1)


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_use_leaves_every_weight_as_it_was(kind, tiny):
    used = backbone(kind, model={"timm": "test_resnet", "open_clip": tiny}[kind])
    before = {name: value.clone() for name, value in used.model.state_dict().items()}
    used(noise(32))
    used.check()
    for name, value in used.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not used.model.training
    assert not any(parameter.requires_grad for parameter in used.model.parameters())


@pytest.mark.parametrize("name", ["blocks.0.norm1.bias", "patch_embed.proj.weight"])
def test_one_changed_weight_is_noticed(name):
    used = backbone("timm", model=VIT)
    value = used.model.state_dict()[name].view(-1)[-1]
    value += torch.finfo(torch.float32).eps * value.abs().clamp(min=1)
    with pytest.raises(RuntimeError, match="changed while it was used"):
        used.check()


def test_the_digest_knows_names_shapes_and_types():
    def of(**tensors):
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return checkpoints.digest(module)

    values = torch.arange(6.0)
    found = [
        of(a=values),
        of(b=values),
        of(a=values.view(2, 3)),
        of(a=values.view(torch.int32)),
        of(a=values, b=torch.tensor(0.0)),
    ]
    assert len(set(found)) == len(found)
    assert of(a=values.view(2, 3).T) == of(a=values.view(2, 3).T.contiguous())


# ---- checkpoints ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Name of a small CLIP that OpenCLIP can build."""
    path = tmp_path_factory.mktemp("models") / f"{TINY}.json"
    tower = {"layers": 2, "width": 64, "head_width": 32}
    vision = tower | {"image_size": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return TINY


def drawn(make, seed=11):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@pytest.fixture
def clip(tiny):
    return drawn(lambda: open_clip.create_model(tiny))


@pytest.fixture
def vit():
    return drawn(lambda: timm.create_model(VIT))


def save(tensors, path):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("layout", ["safetensors", "pt", "training"])
def test_a_checkpoint_of_open_clip_gives_its_own_features(layout, clip, tmp_path):
    path = tmp_path / ("clip.safetensors" if layout == "safetensors" else "clip.pt")
    tensors = clip.state_dict()
    if layout == "training":
        tensors = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}
    loaded = backbone("open_clip", weights=save(tensors, path), model=TINY)
    rows = noise(32)
    with torch.no_grad():
        expected = clip.encode_image(loaded.preprocessing(rows))
    np.testing.assert_allclose(loaded(rows), expected, rtol=1e-5, atol=1e-6)
    assert loaded.facts["weights"] == path.name
    assert loaded.facts["weights_sha256"] == checkpoints.digest(clip.visual)
    assert "seed" not in loaded.facts


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_checkpoint_of_timm_gives_its_own_features(suffix, vit, tmp_path):
    path = save(vit.state_dict(), tmp_path / f"vit.{suffix}")
    loaded = backbone("timm", weights=path, model=VIT)
    rows = noise(32)
    with torch.no_grad():
        tokens = vit.forward_features(loaded.preprocessing(rows))
        expected = vit.forward_head(tokens, pre_logits=True)
    np.testing.assert_allclose(loaded(rows), expected, rtol=1e-5, atol=1e-6)
    assert loaded.facts["preprocessing"]["size"] == [160, 160]
    assert loaded.facts["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_truncated_checkpoint_is_refused_by_name(suffix, vit, tmp_path):
    path = save(vit.state_dict(), tmp_path / f"vit.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"vit\.{suffix}: not a readable checkpoint"):
        backbone("timm", weights=path, model=VIT)


def test_missing_unexpected_and_misshapen_tensors_are_refused_by_name(vit, tmp_path):
    tensors = vit.state_dict()
    del tensors["blocks.0.attn.qkv.weight"]
    tensors["blocks.99.attn.qkv.weight"] = torch.zeros(2)
    tensors["norm.bias"] = torch.zeros(65)
    path = save(tensors, tmp_path / "vit.safetensors")
    with pytest.raises(InputError) as caught:
        backbone("timm", weights=path, model=VIT)
    message = str(caught.value)
    assert str(path) in message
    assert "1 missing (blocks.0.attn.qkv.weight)" in message
    assert "1 unexpected (blocks.99.attn.qkv.weight)" in message
    assert "1 of another shape (norm.bias [65] instead of [64])" in message


def test_weights_of_another_architecture_are_refused(vit, clip, tmp_path):
    path = save(vit.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(InputError, match=r"vit\.safetensors: not the weights of test_resnet"):
        backbone("timm", weights=path, model="test_resnet")
    with pytest.raises(InputError, match="image tower of tiny-for-tests: tensors .* missing"):
        backbone("open_clip", weights=path, model=TINY)


class Payload:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("content", [Payload(), [1, 2], {}], ids=["code", "list", "empty"])
def test_a_file_that_is_no_state_dict_is_refused(content, tmp_path, capsys):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd\.pt"):
        checkpoints.read(tmp_path / "odd.pt")
    assert "unpickled" not in capsys.readouterr().out


def test_a_missing_weights_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt: weights file is missing"):
        backbone("timm", weights=tmp_path / "gone.pt", model=VIT)


# ---- names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wrong", "meant"),
    [
        ("timm", "vit_base_patch16_24", "vit_base_patch16_224"),
        ("timm", "vit_base_patch16_224.dinno", "vit_base_patch16_224.dino"),
        ("open_clip", "ViT-B-32-quickgleu", "ViT-B-32-quickgelu"),
    ],
)
def test_a_misspelt_model_is_refused_with_a_suggestion(kind, wrong, meant):
    with pytest.raises(InputError, match=f"{wrong}.*did you mean.*'{meant}'"):
        backbone(kind, model=wrong)


def test_weights_that_are_neither_a_file_nor_random_are_refused():
    module, chosen = options("backbones", {"kind": "timm", "model": VIT, "weights": "none"})
    with pytest.raises(InputError, match="`weights: none`"):
        module.load(chosen, None, VIEW, "cpu")


def test_a_model_whose_weights_differ_in_colours_needs_its_tag():
    with pytest.raises(InputError, match="name yours: ViT-L-14:openai"):
        backbone("open_clip", model="ViT-L-14")


def test_a_batch_without_images_is_refused():
    with pytest.raises(InputError, match="`batch` is 0"):
        backbone("timm", model=VIT, batch=0)
