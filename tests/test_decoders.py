"""Decoders through their stage: pictures from stores of latents, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from published import backbone, pictures, save
from scipy.stats import pearsonr

from engram import store
from engram.backbones import extract
from engram.decoders import decode, generator, nearest
from engram.errors import InputError
from engram.models import vdvae
from engram.planning.components import options
from engram.store import Rows

N = 7
IMAGES = [f"test/nsd-{i:05d}" for i in range(N)]
SEEN = pictures(N)
PROTOCOL = {"protocol": "nsd40", "zscore": "training"}


def encoder(**keys):
    return backbone("vdvae", model="tiny", batch=N, **keys)


@pytest.fixture(scope="module")
def means():
    """Means of the posteriors of some pictures, float32 (n, 388), and what they are of."""
    this = encoder()
    return this(SEEN).numpy(), {"kind": "vdvae"} | this.facts


def predictions(images, subjects=("subj01", "subj02")):
    """Names and columns of what is predicted of some images."""
    table = pd.DataFrame(
        [{"subject": s, "split": "test", "concept": i, "stimulus": i, "repetitions": 3,
          "exclude": "", "y": 0, "part": "test"} for s in subjects for i in images]
    )  # fmt: skip
    table.index = [f"{s}/{i}" for s in subjects for i in images]
    return table


def latents(path, values, target, images=IMAGES, flags=("simulated",), **header):
    """A store as stage `train` writes it: of two subjects, what is predicted of the images."""
    header = {"what": "latents", "target": target, "flags": list(flags), **PROTOCOL, **header}
    values = np.concatenate([values, values]).astype(np.float32)
    store.write(path, Rows(values, predictions(images), header))
    return path


def decoded(folder, spec, sources, weights=(), unit="subj01", name="view"):
    """The finished view of one subject."""
    spec, path = {"decoder": spec, "unit": unit}, folder / f"{name}.h5"
    sources = {key: paths if isinstance(paths, list) else [paths] for key, paths in sources.items()}
    decode(sources, dict(weights), path, spec, {"device": "cpu"}, "cpu")
    return store.open(path)


def layout(folder, source, unit="subj01", name="view", weights=(), **keys):
    spec = {"kind": "vdvae", "latents": "e", **keys}
    return decoded(folder, spec, {"latents": source}, weights, unit, name)


SAMPLED = {"prior_z": "sample", "output": "sample"}

# ---- vdvae ------------------------------------------------------------------------------


def test_a_posterior_is_decoded_to_the_picture_of_the_model(means, tmp_path):
    """That of the model which sees the picture and goes on with the means of its priors."""
    found = layout(tmp_path, latents(tmp_path / "l.h5", *means), batch_size=3)
    this = encoder()
    with torch.inference_mode():
        seen = this.model.encode(this.preprocessing(SEEN))
        parameters = this.model.decode([one.posterior.mean for one in seen])
    # The mean of the most likely of ten logistic distributions, colour by colour
    logits, of_colours = parameters[:, :10], parameters[:, 10:].reshape(N, 3, 30, 16, 16)
    best = logits.argmax(1)[:, None, None]
    mean, weight = (
        of_colours[:, :, part].gather(2, best.expand(N, 3, 1, 16, 16))[:, :, 0]
        for part in (slice(10), slice(20, 30))
    )
    red = mean[:, 0].clamp(-1, 1)
    green = (mean[:, 1] + weight[:, 0].tanh() * red).clamp(-1, 1)
    blue = (mean[:, 2] + weight[:, 1].tanh() * red + weight[:, 2].tanh() * green).clamp(-1, 1)
    expected = (torch.stack([red, green, blue], -1).numpy() + 1) * 127.5
    assert np.abs(found[:] - expected).max() < 0.501
    assert found.dtype == np.uint8
    assert [*found.table.index] == [f"subj01/{image}" for image in IMAGES]
    assert [*found.table] == ["subject", "split", "concept", "stimulus", "repetitions", "exclude"]
    assert found.header["weights_sha256"] == means[1]["weights_sha256"]
    assert (found.header["decoder"], found.header["protocol"]) == ("vdvae", "nsd40")


def test_pictures_are_resized_before_they_are_rounded(means, tmp_path):
    source = latents(tmp_path / "l.h5", *means)
    with torch.inference_mode():
        this = encoder()
        parameters = this.model.decode(this.model.split(torch.from_numpy(means[0])))
        small = vdvae.picture(parameters).numpy()
    for mode in ("bicubic", "bilinear"):
        found = layout(tmp_path, source, name=mode, size=[40, 24], interpolation=mode)
        method = Image.Resampling[mode.upper()]
        colours = [Image.fromarray(one).resize((24, 40), method) for rgb in small for one in rgb]
        expected = np.reshape([np.asarray(one) for one in colours], (N, 3, 40, 24))
        assert np.abs(found[:] - expected.transpose(0, 2, 3, 1).clip(0, 255)).max() < 0.51


def test_neither_order_nor_batch_changes_a_picture(means, tmp_path):
    values, target = means
    values = values + np.random.default_rng(0).normal(size=values.shape)
    order = np.random.default_rng(1).permutation(N)
    one = layout(tmp_path, latents(tmp_path / "a.h5", values, target), name="one", **SAMPLED)
    moved = latents(tmp_path / "b.h5", values[order], target, [IMAGES[i] for i in order])
    other = layout(tmp_path, moved, name="other", batch_size=2, **SAMPLED)
    np.testing.assert_array_equal(other[:], one[:][order])
    beside = layout(tmp_path, moved, unit="subj02", name="beside", **SAMPLED)
    np.testing.assert_array_equal(beside[:], other[:])  # the same noise for the same image
    drawn = layout(tmp_path, moved, name="drawn", seed=1, **SAMPLED)
    assert (drawn[:] != other[:]).mean() > 0.5
    assert (one.header["seed"], drawn.header["seed"]) == (0, 1)


def test_random_numbers_are_those_of_seed_and_image():
    first = torch.rand(4, generator=generator(0, "a"))
    assert first.equal(torch.rand(4, generator=generator(0, "a")))
    for seed, image in ((1, "a"), (0, "b")):
        assert not first.equal(torch.rand(4, generator=generator(seed, image)))


def test_a_killed_decoding_goes_on_to_the_same_bytes(means, tmp_path, monkeypatch):
    source = latents(tmp_path / "l.h5", *means)
    whole = layout(tmp_path, source, name="whole", batch_size=2, **SAMPLED).path
    module, _ = options("decoders", {"kind": "vdvae", "latents": "e"})
    calls, draw = [], module.Decoder.__call__

    def counted(self, given, generators):
        calls.append(len(generators))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, given, generators)

    monkeypatch.setattr(module.Decoder, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        layout(tmp_path, source, batch_size=2, **SAMPLED)
    assert not (tmp_path / "view.h5").exists()
    found = layout(tmp_path, source, batch_size=2, **SAMPLED)
    assert calls == [2, 2, 2, 2, 2]  # two before the kill, two after it; the last is padded
    assert found.path.read_bytes() == whole.read_bytes()


def test_a_checkpoint_is_that_of_the_latents(tmp_path):
    model = vdvae.VDVAE(vdvae.ARCHITECTURES["tiny"])
    file = save(model.state_dict(), tmp_path / "tiny.th")
    this = backbone("vdvae", file, model="tiny", batch=N)
    target = {"kind": "vdvae"} | this.facts
    source = latents(tmp_path / "l.h5", this(SEEN).numpy(), target)
    found = layout(tmp_path, source, weights={"latents": [file]})
    assert found.header["weights"] == "tiny.th"
    other = save(vdvae.VDVAE(vdvae.ARCHITECTURES["tiny"]).state_dict(), tmp_path / "other.th")
    with pytest.raises(InputError, match=r"other\.th are not those of the latents of e \(tiny\.th"):
        layout(tmp_path, source, weights={"latents": [other]}, name="refused")


# ---- what is refused --------------------------------------------------------------------


def test_what_a_decoder_does_not_take_is_refused(means, tmp_path):
    values, target = means

    def refuse(message, values=values, target=target, header=(), **keys):
        with pytest.raises(InputError, match=message):
            layout(tmp_path, latents(tmp_path / "l.h5", values, target, **dict(header)), **keys)

    refuse("takes latents of a backbone of kind 'vdvae', and e pred", target={"kind": "clip"})
    refuse("5 numbers are not the latents of its first layers", values=values[:, :5])
    refuse("not those of the latents of e", target=target | {"seed": 5})
    refuse("predicts no image of subj07", unit="subj07")
    refuse("batch_size is 0", batch_size=0)
    refuse("has to be pixels", size=[0, 8])
    assert not (tmp_path / "view.h5").exists()


# ---- the prior alone --------------------------------------------------------------------


REGION = "region/V1"


def drawings(path, images, **header):
    """Pictures of one subject as a decoder leaves them, each of one colour of its own."""
    table = predictions(images, ["subj01"]).drop(columns=["y", "part"])
    table["exclude"] = ["region" if image == REGION else "" for image in images]
    values = np.array([[*IMAGES, REGION].index(image) for image in images], np.uint8)
    values = np.broadcast_to(values[:, None, None, None], (len(images), 4, 6, 3))
    header = {"what": "picture", "axes": 3, "decoder": "vdvae", "of": {}} | PROTOCOL | header
    store.write(path, Rows(values, table, header))
    return path


@pytest.mark.parametrize("n", [2, 3, N])
def test_the_prior_alone_gives_each_image_the_picture_of_another(tmp_path, n):
    spec = {"kind": "prior_only", "of": "of", "batch_size": 2}
    whole = drawings(tmp_path / "of.h5", [REGION, *IMAGES[:n]])
    found = decoded(tmp_path, spec, {"of": whole})
    assert found[0][0, 0, 0] == N  # a pattern of a region is no test image
    given = found[:][1:, 0, 0, 0]
    assert sorted(given) == [*range(n)]  # every picture once
    assert (given != np.arange(n)).all()
    assert (found[:][1:] == given[:, None, None, None]).all()
    moved = drawings(tmp_path / "moved.h5", IMAGES[:n][::-1])
    again = decoded(tmp_path, spec, {"of": moved}, name="again")
    np.testing.assert_array_equal(again[:][::-1], found[:][1:])
    assert found.header["of"]["of"]["decoder"] == "vdvae"


def test_one_image_has_no_other(tmp_path):
    of = drawings(tmp_path / "of.h5", IMAGES[:1])
    with pytest.raises(InputError, match="there is one test image"):
        decoded(tmp_path, {"kind": "prior_only", "of": "of"}, {"of": of})


# ---- the nearest training picture -------------------------------------------------------

SHOWN = [f"train/nsd-{i:05d}" for i in range(12)]


@pytest.fixture
def gallery(tmp_path):
    """Pictures and features of twelve stimuli, of which the subject has seen eight."""
    rng = np.random.default_rng(3)
    seen = [SHOWN[i] for i in (9, 1, 5, 2, 7, 4, 0, 11)]
    table = predictions([*seen, *IMAGES], ["subj01"]).drop(columns=["y", "part"])
    table["split"] = ["train"] * 8 + ["test"] * N
    table.loc["subj01/train/nsd-00005", "exclude"] = "artefact"
    store.write(tmp_path / "betas.h5", Rows(np.zeros((8 + N, 2), np.float32), table, {}))
    stimuli = pd.DataFrame({"exclude": ""}, index=[*SHOWN, *IMAGES])
    scale = rng.uniform(0.5, 9, (4, 5))
    features = (3 + rng.normal(size=(12 + N, 4, 5)) * scale).astype(np.float32)
    features[:, 2, 2] = 7  # says nothing
    drawn = rng.integers(0, 256, (12 + N, 6, 8, 3), np.uint8)
    store.write(tmp_path / "features.h5", Rows(features, stimuli, {}))
    store.write(tmp_path / "photograph.h5", Rows(drawn, stimuli, {}))
    names = {"responses": "betas", "features": "features", "pictures": "photograph"}
    sources = {key: tmp_path / f"{name}.h5" for key, name in names.items()}
    usable = [SHOWN.index(one) for one in seen if one != "train/nsd-00005"]
    return sources, features.reshape(len(features), -1), drawn, usable


@pytest.mark.parametrize("measure", ["correlation", "cosine"])
def test_the_nearest_is_that_of_brute_force(gallery, tmp_path, monkeypatch, measure):
    sources, features, drawn, usable = gallery
    told = features[12:] + np.random.default_rng(0).normal(0, 2, (N, 20)).astype(np.float32)
    told[0] = features[usable[3]]
    source = latents(tmp_path / "l.h5", told, {"kind": "clip"})
    mean, sd = features[usable].mean(0), features[usable].std(0)
    sd[sd == 0] = np.inf

    def alike(a, b):
        if measure == "correlation":
            return pearsonr((a - mean) / sd, (b - mean) / sd)[0]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    best = [usable[int(np.argmax([alike(one, features[i]) for i in usable]))] for one in told]
    assert best[0] == usable[3]
    assert len(set(best)) > 2
    spec = {"kind": "nearest", "latents": "e", "measure": measure}
    found = decoded(tmp_path, spec, sources | {"latents": source})
    np.testing.assert_array_equal(found[:], drawn[best])
    monkeypatch.setattr(nearest, "BYTES", 240)  # three training images at a time
    other = decoded(tmp_path, spec | {"batch_size": 2}, sources | {"latents": source}, name="o")
    np.testing.assert_array_equal(other[:], found[:])


def test_the_nearest_needs_the_true_features_of_what_was_predicted(gallery, tmp_path):
    sources, features, _, _ = gallery
    spec = {"kind": "nearest", "latents": "e"}
    short = latents(tmp_path / "l.h5", features[12:, :19], {"kind": "clip"})
    with pytest.raises(InputError, match="19 numbers are predicted and the true features have 20"):
        decoded(tmp_path, spec, sources | {"latents": short})
    fewer = store.open(sources["features"]).load()
    store.write(tmp_path / "f.h5", Rows(fewer.array[1:], fewer.table.iloc[1:], {}))
    whole = latents(tmp_path / "l.h5", features[12:], {"kind": "clip"})
    with pytest.raises(InputError, match=r"f\.h5: lacks the training image train/nsd-00000"):
        decoded(tmp_path, spec, sources | {"latents": whole, "features": tmp_path / "f.h5"})


# ---- several sources --------------------------------------------------------------------


def test_sources_meet_by_the_names_of_their_rows(tmp_path):
    """Diffusion from pictures of another decoder, by tokens that an experiment predicts."""
    target = {"kind": "clip_vision_tokens", "model": "tiny", "layer": "", "pooling": "default"}
    values = np.random.default_rng(0).normal(size=(N, 17 * 32))
    vision = latents(tmp_path / "l.h5", values, target)
    spec = {"kind": "versatile_diffusion", "model": "tiny", "mixing": 0, "vision": "e",
            "start": "of", "guidance": 1, "steps": 3, "batch_size": N}  # fmt: skip

    def drawn(name, images, **header):
        start = drawings(tmp_path / f"{name}.h5", images, **header)
        return decoded(tmp_path, spec, {"vision": vision, "start": start}, name=f"{name}-drawn")

    one, other = drawn("one", IMAGES), drawn("other", IMAGES[::-1])
    assert [*other.table.index] == [*one.table.index]
    np.testing.assert_array_equal(other[:], one[:])
    for images in (IMAGES[1:], [*IMAGES, REGION]):
        with pytest.raises(InputError, match="`vision` and `start` .* are predictions of other im"):
            drawn("fewer", images)
    with pytest.raises(InputError, match="differ in protocol: nsd40 and nsd37"):
        drawn("protocol", IMAGES, protocol="nsd37")


# ---- what is said of pictures -----------------------------------------------------------


def test_flags_follow_pictures_to_their_features(means, tmp_path):
    flags = ["test_statistics", "simulated", "random_weights"]
    of = layout(tmp_path, latents(tmp_path / "l.h5", *means, flags=flags), name="of")
    found = decoded(tmp_path, {"kind": "prior_only", "of": "of"}, {"of": of.path})
    assert found.header["flags"] == of.header["flags"] == flags
    assert found.header["simulated"]
    spec = {"backbone": {"kind": "pixels", "grid": 2}}
    extract(found.path, None, tmp_path / "features.h5", spec, {}, "cpu")
    assert store.open(tmp_path / "features.h5").header["view"]["flags"] == flags
