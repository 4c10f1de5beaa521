"""VDVAE against its definition, computed from the tensors of a file in the published layout."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import yaml
from PIL import Image
from published import backbone, drawn, pictures, save
from torch.distributions import kl_divergence
from torch.nn import functional

from engram import store
from engram.backbones import extract
from engram.errors import InputError
from engram.models import vdvae
from engram.planning.components import options
from engram.store import Rows

#: Resolution of each block of `tiny`, and what it pools by or mixes in.
ENCODER = [(16, 1), (16, 2), (8, 1), (8, 2), (4, 1), (4, 4), (1, 1)]
DECODER = [(1, None), (4, 1), (4, None), (8, 4), (16, 8)]
NUMBERS = [4, 64, 64, 256, 1024]

#: The same of the published model.
PUBLISHED_ENCODER = [
    *[(64, None)] * 11, (64, 2), *[(32, None)] * 20, (32, 2), *[(16, None)] * 9, (16, 2),
    *[(8, None)] * 8, (8, 2), *[(4, None)] * 7, (4, 4), *[(1, None)] * 5,
]  # fmt: skip
PUBLISHED_DECODER = [
    *[(1, None)] * 2, (4, 1), *[(4, None)] * 3, (8, 4), *[(8, None)] * 7, (16, 8),
    *[(16, None)] * 15, (32, 16), *[(32, None)] * 31, (64, 32), *[(64, None)] * 12,
]  # fmt: skip


# ---- the definition -------------------------------------------------------------------


def convolved(tensors, name, x):
    weight = tensors[f"{name}.weight"]
    padding = 1 if weight.shape[-1] == 3 else 0
    return functional.conv2d(x, weight, tensors[f"{name}.bias"], padding=padding)


def through(tensors, name, x):
    for i in range(1, 5):
        gelu = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        x = convolved(tensors, f"{name}.c{i}", gelu)
    return x


def activations(tensors, images):
    x = convolved(tensors, "encoder.in_conv", images)
    found = {}
    for i, (resolution, pool) in enumerate(ENCODER):
        assert x.shape[2] == resolution
        x = x + through(tensors, f"encoder.enc_blocks.{i}", x)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // pool, pool, w // pool, pool).mean((3, 5))
        found[x.shape[2]] = x
    return found


def climbed(tensors, choose, rows, seen=None):
    """Parameters of the output; z, and means and log deviations of posterior and prior, by block.

    `choose(i, posterior, prior)` gives z of block i; `seen` are activations.
    """
    states = {
        r: tensors[f"decoder.bias_xs.{i}"].repeat(rows, 1, 1, 1)
        for i, r in enumerate((1, 4, 8, 16))
    }
    latents = []
    for i, (resolution, source) in enumerate(DECODER):
        name = f"decoder.dec_blocks.{i}"
        x = states[resolution]
        if source:
            times = resolution // source
            x = x + states[source].repeat_interleave(times, 2).repeat_interleave(times, 3)
        prior = through(tensors, f"{name}.prior", x)
        posterior = seen and through(tensors, f"{name}.enc", torch.cat([x, seen[resolution]], 1))
        z = choose(i, posterior, prior)
        latents.append((z, posterior, prior[:, :8]))
        x = x + prior[:, 8:] + convolved(tensors, f"{name}.z_proj", z)
        states[resolution] = x + through(tensors, f"{name}.resnet", x)
    state = states[16] * tensors["decoder.gain"] + tensors["decoder.bias"]
    return convolved(tensors, "decoder.out_net.out_conv", state), latents


def seen_by_mean(tensors, images):
    seen = activations(tensors, images)
    return climbed(tensors, lambda i, posterior, prior: posterior[:, :4], len(images), seen)


# ---- a file in the published layout ---------------------------------------------------


@pytest.fixture(scope="module")
def tensors():
    found = drawn(lambda: vdvae.VDVAE(vdvae.ARCHITECTURES["tiny"]))
    return {n: t if n.endswith("weight") else t + 0.05 for n, t in found.items()}


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("vdvae") / "tiny-iter-1600000-model-ema.th"
    return save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)


@pytest.fixture(scope="module")
def model(tensors):
    found = vdvae.VDVAE(vdvae.ARCHITECTURES["tiny"])
    found.load_state_dict(tensors)
    return found.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tiny(file, **keys):
    return backbone("vdvae", file, model="tiny", **keys)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def close(found, wanted, atol=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=atol)


# ---- encoding -------------------------------------------------------------------------


def test_features_are_the_posterior_means_of_the_definition(file, tensors):
    loaded = tiny(file, batch=2)
    _, latents = seen_by_mean(tensors, loaded.preprocessing(pictures()))
    wanted = torch.cat([z.reshape(2, -1) for z, _, _ in latents[:4]], 1)
    found = loaded(pictures())
    assert loaded.shape == (388,)
    close(found, wanted)
    assert found.std(0).mean() > 0.01
    assert loaded.facts["weights"] == "tiny-iter-1600000-model-ema.th"
    assert loaded.facts["latents"] == [[4, 1, 1], [4, 4, 4], [4, 4, 4], [4, 8, 8]]
    loaded.check()


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_fewer_layers_are_the_first_of_more(file, layers):
    every, some = tiny(file, layers=5), tiny(file, layers=layers)
    assert some.shape == (sum(NUMBERS[:layers]),)
    np.testing.assert_array_equal(some(pictures(1)), every(pictures(1))[:, : some.shape[0]])


def test_no_block_after_the_last_layer_is_computed(file):
    loaded = tiny(file, layers=2)
    for name, tensor in loaded.model.named_parameters():
        if name.startswith(tuple(f"decoder.{n}" for n in ("dec_blocks.2", "gain", "out_net"))):
            tensor.fill_(torch.nan)
    assert torch.isfinite(loaded(pictures(1))).all()


def test_posterior_and_prior_and_their_divergence_are_those_of_the_definition(
    model, tensors, images
):
    _, wanted = seen_by_mean(tensors, images)
    for latent, (_, posterior, prior) in zip(model.encode(images, 5), wanted, strict=True):
        (m, s), (n, t) = posterior.chunk(2, 1), prior.chunk(2, 1)
        close(latent.posterior.mean, m)
        close(latent.prior.mean, n)
        closed = t - s - 0.5 + 0.5 * ((2 * s).exp() + (m - n) ** 2) / (2 * t).exp()
        close(kl_divergence(latent.posterior, latent.prior), closed, atol=1e-4)


def test_a_sample_is_that_of_the_generator_of_its_image(model, tensors, images):
    noise = generators(5, 6, 7)

    def sampled(i, posterior, prior):
        mean, logarithm = posterior.chunk(2, 1)
        size = DECODER[i][0]
        drawn = torch.stack([torch.randn(4, size, size, generator=one) for one in noise])
        return mean + logarithm.exp() * drawn

    _, wanted = climbed(tensors, sampled, 3, activations(tensors, images))
    found = model.encode(images, 5, generators(5, 6, 7))
    for latent, (z, _, _) in zip(found, wanted, strict=True):
        close(latent.z, z, atol=1e-4)
    alone = model.encode(images[2:], 5, generators(7))
    for one, latent in zip(alone, found, strict=True):
        close(one.z[0], latent.z[2], atol=1e-4)


def test_samples_of_a_backbone_follow_seed_and_picture_alone(file):
    shown = pictures(3)
    found = tiny(file, latent="sample", batch=3)(shown)
    close(tiny(file, latent="sample", batch=3, precision="auto")(shown[::-1]).flip(0), found)
    close(tiny(file, latent="sample")(shown[1:2])[0], found[1])
    other, mean = tiny(file, latent="sample", batch=3, seed=1), tiny(file, batch=3)
    assert (other(shown) - found).abs().mean() > 0.1
    assert (mean(shown) - found).abs().mean() > 0.1
    assert (other.facts["latent"], other.facts["seed"]) == ("sample", 1)


# ---- decoding -------------------------------------------------------------------------


def test_all_latents_decode_to_what_the_whole_pass_ends_in(model, tensors, images):
    wanted, _ = seen_by_mean(tensors, images)
    numbers = vdvae.joined([latent.z for latent in model.encode(images, 5)])
    close(model.decode(model.split(numbers)), wanted, atol=1e-4)


@pytest.mark.parametrize("sample", [False, True])
def test_later_layers_come_from_the_prior(model, tensors, images, sample):
    given = model.split(model(images))[:2]
    noise = generators(1, 2, 3)

    def chosen(i, posterior, prior):
        if i < 2:
            return given[i]
        if not sample:
            return prior[:, :4]
        size = DECODER[i][0]
        drawn = torch.stack([torch.randn(4, size, size, generator=one) for one in noise])
        return prior[:, :4] + prior[:, 4:8].exp() * drawn

    wanted, _ = climbed(tensors, chosen, 3)
    close(model.decode(given, generators(1, 2, 3) if sample else None), wanted, atol=1e-4)


def test_numbers_are_split_as_they_were_joined(model):
    numbers = torch.arange(388.0 * 2).reshape(2, 388)
    split = model.split(numbers)
    assert [tuple(z.shape[1:]) for z in split] == model.shapes(4)
    assert split[1][1, 2, 3, 1] == 388 + 4 + 2 * 16 + 3 * 4 + 1
    assert torch.equal(vdvae.joined(split), numbers)


@pytest.mark.parametrize("number", [0, 3, 387, 1413])
def test_numbers_of_no_number_of_layers_are_refused(model, number):
    with pytest.raises(InputError, match=f"{number} numbers are not the latents"):
        model.split(torch.zeros(2, number))


def test_a_colour_is_the_mean_of_the_most_likely_component():
    draw = torch.Generator().manual_seed(3)
    parameters = torch.randn(2, 100, 3, 4, generator=draw)
    found = vdvae.picture(parameters)
    for b, h, w in np.ndindex(2, 3, 4):
        pixel = parameters[b, :, h, w].tolist()
        best = max(range(10), key=lambda i: pixel[i])
        of = [[pixel[10 + 30 * c + 10 * k + best] for k in range(3)] for c in range(3)]
        factors = [math.tanh(of[c][2]) for c in range(3)]
        red = min(max(of[0][0], -1), 1)
        green = min(max(of[1][0] + factors[0] * red, -1), 1)
        blue = min(max(of[2][0] + factors[1] * red + factors[2] * green, -1), 1)
        wanted = [(colour + 1) * 127.5 for colour in (red, green, blue)]
        close(found[b, :, h, w], wanted, atol=1e-3)


def test_sampled_colours_have_the_distribution_of_their_mixture():
    parameters = torch.zeros(1, 100, 64, 64)
    parameters[:, 2:10] = -40  # two components, 1 : e
    parameters[:, 1] = 1
    for colour, mean in enumerate((-0.3, 0.0, 0.2)):
        at = 10 + 30 * colour
        parameters[:, at], parameters[:, at + 1] = mean, 5.0
        parameters[:, at + 10 : at + 12] = math.log(0.02 * (colour + 1))
    parameters[:, 10 + 20] = 0.5  # green follows red
    found = vdvae.picture(parameters, generators(4))[0] / 127.5 - 1
    first = found[0] < 0.9
    assert scipy.stats.binomtest(int(first.sum()), 4096, 1 / (1 + math.e)).pvalue > 0.01
    green = found[1] - math.tanh(0.5) * found[0]
    for colour, values in enumerate((found[0], green, found[2])):
        wanted = scipy.stats.logistic((-0.3, 0.0, 0.2)[colour], 0.02 * (colour + 1))
        assert scipy.stats.kstest(values[first].numpy(), wanted.cdf, method="asymp").pvalue > 0.01
    again = vdvae.picture(parameters.repeat(2, 1, 1, 1), generators(9, 4))
    torch.testing.assert_close(again[1] / 127.5 - 1, found)


# ---- the published model --------------------------------------------------------------


def published_shapes():
    """Names and shapes of the published file."""
    found = {"encoder.in_conv.weight": (512, 3, 3, 3), "encoder.in_conv.bias": (512,)}

    def block(name, channels, out, resolution):
        inner = 3 if resolution > 2 else 1
        widths = [channels, 128, 128, 128, out]
        for i, kernel in enumerate((1, inner, inner, 1)):
            found[f"{name}.c{i + 1}.weight"] = (widths[i + 1], widths[i], kernel, kernel)
            found[f"{name}.c{i + 1}.bias"] = (widths[i + 1],)

    for i, (resolution, _) in enumerate(PUBLISHED_ENCODER):
        block(f"encoder.enc_blocks.{i}", 512, 512, resolution)
    for i, (resolution, _) in enumerate(PUBLISHED_DECODER):
        name = f"decoder.dec_blocks.{i}"
        block(f"{name}.enc", 1024, 32, resolution)
        block(f"{name}.prior", 512, 544, resolution)
        block(f"{name}.resnet", 512, 512, resolution)
        found |= {f"{name}.z_proj.weight": (512, 16, 1, 1), f"{name}.z_proj.bias": (512,)}
    for i, r in enumerate((1, 4, 8, 16, 32, 64)):
        found[f"decoder.bias_xs.{i}"] = (1, 512, r, r)
    found |= {f"decoder.{name}": (1, 512, 1, 1) for name in ("gain", "bias")}
    name = "decoder.out_net.out_conv"
    return found | {f"{name}.weight": (100, 512, 1, 1), f"{name}.bias": (100,)}


@pytest.fixture(scope="module")
def imagenet64():
    with torch.device("meta"):
        return vdvae.VDVAE(vdvae.ARCHITECTURES["imagenet64"])


def test_tensors_are_those_of_the_published_file(imagenet64):
    found = {name: tuple(tensor.shape) for name, tensor in imagenet64.state_dict().items()}
    assert found == published_shapes()
    assert sum(p.numel() for p in imagenet64.parameters()) == 125_005_860


def test_blocks_and_latents_are_the_published_ones(imagenet64):
    assert [(b.resolution, b.source) for b in imagenet64.decoder.dec_blocks] == PUBLISHED_DECODER
    pools = [block.pool for block in imagenet64.encoder.enc_blocks]
    assert pools == [pool or 1 for _, pool in PUBLISHED_ENCODER]
    assert imagenet64.shapes() == [(16, r, r) for r, _ in PUBLISHED_DECODER]
    totals = np.cumsum([16 * r * r for r, _ in PUBLISHED_DECODER])
    assert [totals[n - 1] for n in (2, 6, 10, 14, 30, 31, 75)] == [
        32, 1_056, 5_152, 9_248, 74_784, 91_168, 1_451_040,
    ]  # fmt: skip
    assert len(imagenet64.split(torch.empty(1, 91_168))) == imagenet64.architecture.layers == 31


def test_pictures_are_prepared_as_published():
    rows = np.random.default_rng(0).integers(0, 256, (1, 425, 425, 3), np.uint8)
    found = tiny(None).preprocessing(rows)
    pixels = np.asarray(Image.fromarray(rows[0]).resize((16, 16), Image.Resampling.BILINEAR))
    wanted = (pixels.astype(float) - 115.92961967) / 69.37404
    close(found[0], wanted.transpose(2, 0, 1))


def test_the_catalogue_says_what_the_component_does():
    path = Path(__file__).parents[1] / "config/backbones.yaml"
    entry = yaml.safe_load(path.read_text())["backbones"]["vdvae"]
    _, chosen = options("backbones", {k: v for k, v in entry.items() if k in ("kind", "model")})
    assert vdvae.ARCHITECTURES[chosen.model].size == 64
    assert entry["dim"] == 91_168
    assert (entry["size"], entry["interpolation"]) == ([64, 64], "bilinear")
    np.testing.assert_allclose(np.multiply(entry["mean"], 255), 115.92961967)
    np.testing.assert_allclose(np.multiply(entry["std"], 255), 69.37404)


# ---- through the stage, and refusals --------------------------------------------------


def test_it_is_extracted_like_any_backbone(file, tensors, tmp_path):
    table = pd.DataFrame({"exclude": ""}, index=["a", "b", "c"])
    store.write(tmp_path / "v.h5", Rows(pictures(3), table, {"what": "picture", "axes": 3}))
    spec = {"backbone": {"kind": "vdvae", "model": "tiny", "weights": str(file), "batch": 2}}
    extract(tmp_path / "v.h5", file, tmp_path / "f.h5", spec, {}, "cpu")
    found = store.open(tmp_path / "f.h5")
    assert found.header["latent"] == "mean"
    close(found[:], tiny(file, batch=3)(pictures(3)))


def test_random_weights_follow_their_seed():
    one, same, other = (tiny(None, seed=seed) for seed in (1, 1, 2))
    assert one.facts["weights_sha256"] == same.facts["weights_sha256"]
    assert one.facts["weights_sha256"] != other.facts["weights_sha256"]
    assert (one.facts["weights"], one.facts["seed"]) == ("random", 1)


def test_missing_and_extra_tensors_are_refused_by_name(tensors, tmp_path):
    wrong = dict(tensors)
    wrong["decoder.bias_xs.4"] = wrong.pop("decoder.dec_blocks.3.z_proj.bias")
    wrong["decoder.gain"] = torch.ones(1, 512, 1, 1)
    with pytest.raises(InputError) as caught:
        tiny(save(wrong, tmp_path / "wrong.th"))
    assert "wrong.th: not the weights of VDVAE tiny" in str(caught.value)
    assert "1 missing (decoder.dec_blocks.3.z_proj.bias)" in str(caught.value)
    assert "1 unexpected (decoder.bias_xs.4)" in str(caught.value)
    assert "decoder.gain [1, 512, 1, 1] instead of [1, 16, 1, 1]" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layers": 0}, "`layers` is 0; tiny has 1 to 5"),
        ({"layers": 6}, "`layers` is 6; tiny has 1 to 5"),
        ({"size": [64, 64]}, r"its input is \[16, 16\]"),
        ({"dim": 91_168}, r"shape \[388\], but the configuration says `dim: 91168`"),
        ({"pooling": "tokens"}, "ends in no tokens to pool"),
    ],
)
def test_what_the_model_does_not_have_is_refused(keys, message):
    with pytest.raises(InputError, match=message):
        tiny(None, **keys)
