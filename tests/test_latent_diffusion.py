"""Decoders by latent diffusion and the backbone `sd_vae`: against diffusers and plain equations."""

import importlib
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel
from published import backbone, drawn, pictures, save

from engram.decoders import generator
from engram.errors import InputError
from engram.frozen import clip
from engram.models import latent_diffusion
from engram.planning.components import options

TINY = latent_diffusion.ARCHITECTURES["tiny"]
TEXTS = {"what": "text", "encoding": "UTF-8"}
IMAGES = ["test/a", "test/b", "test/c"]
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(tensors):
    """An autoencoder under the names of the published files."""
    found = {}
    for name, tensor in tensors.items():
        for new, old in OLD.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        found[name] = tensor
    return found


@pytest.fixture(scope="module")
def tensors():
    """Weights of every part by the names of today."""
    unet = latent_diffusion.unet(TINY)
    return {
        "unet": drawn(unet, 1),
        "text_unet": drawn(unet, 2),
        "vae": drawn(latent_diffusion.autoencoder(TINY), 3),
        "adapter": drawn(latent_diffusion.Adapter(unet, TINY), 4),
    }


@pytest.fixture(scope="module")
def files(tensors, tmp_path_factory):
    """The same in the published layouts."""
    folder = tmp_path_factory.mktemp("weights")
    text = {n: t for n, t in tensors["text_unet"].items() if ".attentions." in n}
    text["down_blocks.0.resnets.0.conv1.weight"] = torch.zeros(32, 32, 1)  # of another U-Net
    adapter = {
        n.replace("image_embeds", "proj").replace("_ip.0.", "_ip."): t
        for n, t in tensors["adapter"].items()
    }
    return {
        "unet": save(tensors["unet"], folder / "unet.safetensors"),
        "text_unet": save(text, folder / "text_unet.bin"),
        "vae": save(old_names(tensors["vae"]), folder / "vae.safetensors"),
        "adapter": save(adapter, folder / "adapter.safetensors"),
    }


@pytest.fixture(scope="module")
def backbones():
    """Small random ones of every kind whose latents a decoder takes."""
    return {
        "image": backbone("clip_vision_tokens", model="tiny", seed=5),
        "text": backbone("clip_text_tokens", None, TEXTS, model="tiny", seed=5),
        "states": backbone("clip_text_tokens", None, TEXTS, model="tiny", states="last"),
        "embedding": backbone("open_clip", model="tiny"),
    }


@pytest.fixture(scope="module")
def given(backbones):
    """Numbers like those that are predicted, by what they are of."""
    draw = np.random.default_rng(0)
    return {
        name: draw.normal(size=(3, *one.shape)).reshape(3, -1).astype(np.float32)
        for name, one in backbones.items()
    }


def source(loaded, kind):
    """The header of latents of a backbone, as a decoder gets it."""
    return {"target": {"kind": kind, **loaded.facts}, "shape": [int(np.prod(loaded.shape))]}


@pytest.fixture(scope="module")
def sources(backbones):
    kinds = {"image": "clip_vision_tokens", "embedding": "open_clip"}
    return {n: source(one, kinds.get(n, "clip_text_tokens")) for n, one in backbones.items()}


def loaded(kind, sources, weights, **keys):
    module, chosen = options(
        "decoders",
        {"kind": kind, "model": "tiny", "precision": "fp32", "steps": 4, "guidance": 3.0}
        | {part: str(weights[part]) for part in module_weights(kind) if part in weights}
        | keys,
    )
    return module.load(chosen, sources, weights, "cpu")


def module_weights(kind):
    return importlib.import_module(f"engram.decoders.{kind}").WEIGHTS


def versatile(sources, files, **keys):
    given = sources | {"vision": sources["image"], "text": sources["text"]}
    keys = {"vision": "e", "text": "f"} | keys
    return loaded("versatile_diffusion", given, files, **keys)


def adapted(sources, files, **keys):
    given = sources | {"vision": sources["embedding"], "text": sources["states"]}
    keys = {"vision": "e", "text": "f"} | keys
    return loaded("ip_adapter", given, files, **keys)


def generators(images=IMAGES, seed=0):
    return [generator(seed, image) for image in images]


def alike(found, wanted):
    """Pictures that differ by rounding alone, and are not of one colour."""
    assert found.dtype == np.uint8
    assert found.shape == (3, 64, 64, 3)
    assert np.abs(found.astype(int) - np.asarray(wanted).astype(int)).max() <= 1
    assert found.std() > 5


def tokens(given):
    return torch.from_numpy(given).reshape(3, -1, 32)


# ---- by the definition ----------------------------------------------------------------------


def unet_of(tensors):
    found = latent_diffusion.unet(TINY)
    found.load_state_dict(tensors)
    return found.eval().requires_grad_(False)


def published_dual(tensors, mixing):
    """The U-Net of diffusers with its own two transformers, called as it can be called."""
    model, text = unet_of(tensors["unet"]), dict(unet_of(tensors["text_unet"]).named_modules())

    class Callable(DualTransformer2DModel):
        def forward(self, *args, encoder_attention_mask=None, **keys):
            return super().forward(*args, **keys)

    for name, module in list(model.named_modules()):
        if name.endswith(".attentions"):
            for i, image in enumerate(module):
                size = {k: image.config[k] for k in ("num_attention_heads", "attention_head_dim")}
                both = Callable(
                    **size, in_channels=image.config["in_channels"], norm_num_groups=8,
                    cross_attention_dim=32,
                )  # fmt: skip
                both.transformers[0], both.transformers[1] = image, text[name][i]
                both.mix_ratio, both.condition_lengths = mixing, [77, 17]
                module[i] = both
    return model.eval()


def drawn_by_equations(noise_in, vae, noise, steps, guidance, start=None, strength=1.0):
    """DDIM (Song et al. 2021, equation 12) from noise, or from latents."""
    left = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    step = 1000 // steps
    times = [1 + step * i for i in reversed(range(steps))]
    x = noise.double()
    if start is not None:
        times = times[steps - int(steps * strength) :]
        at = left[times[0]]
        x = at**0.5 * start + (1 - at) ** 0.5 * x
    for t in times:
        without, with_them = noise_in(x.float(), t)
        e = without + guidance * (with_them - without)
        clean = (x - (1 - left[t]) ** 0.5 * e) / left[t] ** 0.5
        before = left[max(t - step, 0)]
        x = before**0.5 * clean + (1 - before) ** 0.5 * e
    shown = vae.decode(x.float() / 0.18215).sample / 2 + 0.5
    return (shown.clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def vae(tensors):
    model = latent_diffusion.autoencoder(TINY)
    assert isinstance(model, AutoencoderKL)
    model.load_state_dict(tensors["vae"])
    return model.eval().requires_grad_(False)


def noise():
    return torch.stack([torch.randn(4, 8, 8, generator=one) for one in generators()])


@pytest.mark.parametrize(("mixing", "guidance", "starts"), [(0.4, 3.0, True), (0.7, 1.0, False)])
def test_versatile_diffusion_draws_what_its_equations_say(
    mixing, guidance, starts, tensors, files, sources, given, backbones, vae
):
    image, text = backbones["image"], backbones["text"]
    none = clip.of_no_picture(image.model, image.facts["preprocessing"], "cpu")
    no_text = clip.of_no_text(text.model, text.preprocessing.tokenizer, True, "cpu")
    model = published_dual(tensors, mixing)
    nothing = torch.cat([no_text, none]).expand(3, -1, -1)
    something = torch.cat([tokens(given["text"]), tokens(given["image"])], 1)

    def noise_in(x, t):
        return [
            model(x, t, encoder_hidden_states=one).sample.double() for one in (nothing, something)
        ]

    shown, start, keys = pictures(3), None, {}
    values = {"vision": given["image"], "text": given["text"]}
    if starts:
        shown = np.ascontiguousarray(shown[:, :48, :48].repeat(2, 1).repeat(2, 2)[:, :64, :64])
        scaled = torch.from_numpy(shown).permute(0, 3, 1, 2) / 127.5 - 1
        start = vae.encode(scaled).latent_dist.mode() * 0.18215
        keys, values = {"start": "layout"}, values | {"start": shown}
    decoder = versatile(sources, files, mixing=mixing, guidance=guidance, **keys)
    wanted = drawn_by_equations(noise_in, vae, noise(), 4, guidance, start, 0.75)
    alike(decoder(values, generators()), wanted)
    assert decoder.facts["mixing"] == mixing
    assert decoder.facts["timestep_convention"] == (
        f"diffusers: {3 if starts else 4} steps from t = {501 if starts else 751}"
    )


@pytest.mark.parametrize(("scale", "guidance"), [(0.6, 3.0), (0.0, 3.0), (1.0, 1.0)])
def test_ip_adapter_draws_what_the_maintained_pipeline_draws(
    scale, guidance, tensors, files, sources, given, backbones, vae
):
    states = backbones["states"]
    no_text = clip.of_no_text(states.model, states.preprocessing.tokenizer, False, "cpu")
    unet = unet_of(tensors["unet"])
    pipeline = StableDiffusionImg2ImgPipeline(
        vae, None, None, unet, latent_diffusion.scheduler(4), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    adapter = torch.load(save(saved_adapter(tensors), files["unet"].parent / "adapter.bin"))
    parts = {
        part: {n.removeprefix(f"{part}."): t for n, t in adapter.items() if n.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
    pipeline.load_ip_adapter(parts, subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(scale)
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    wanted = []
    for i in range(3):  # the pipeline takes one embedding, and repeats it for all of a batch
        embedding = torch.from_numpy(given["embedding"])[i, None, None]
        if guidance != 1:
            embedding = torch.cat([torch.zeros_like(embedding), embedding])
        found = pipeline(
            image=start[i : i + 1], strength=0.75, num_inference_steps=4, guidance_scale=guidance,
            prompt_embeds=tokens(given["states"])[i : i + 1], negative_prompt_embeds=no_text[None],
            ip_adapter_image_embeds=[embedding], generator=generators()[i : i + 1],
            output_type="np",
        )  # fmt: skip
        wanted.append(found.images[0])
    encoder = backbone("sd_vae", files["vae"], model="tiny")
    more = {"start_latents": source(encoder, "sd_vae")}
    decoder = adapted(sources | more, files, scale=scale, guidance=guidance, start_latents="g")
    values = {
        "vision": given["embedding"], "text": given["states"],
        "start_latents": start.flatten(1).numpy(),
    }  # fmt: skip
    alike(decoder(values, generators()), np.round(np.stack(wanted) * 255))


def saved_adapter(tensors):
    return {
        n.replace("image_embeds", "proj").replace("_ip.0.", "_ip."): t
        for n, t in tensors["adapter"].items()
    }


def test_of_fifty_steps_strength_three_quarters_goes_37_from_721():
    times = latent_diffusion.times(50, 0.75)
    assert (len(times), times[0], times[-1]) == (37, 721, 1)
    assert latent_diffusion.times(50)[:2] == latent_diffusion.times(50, 1.0)[:2] == [981, 961]


# ---- limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "near", "option"), [(0.0, 1e-6, "vision"), (1.0, 1 - 1e-6, "text")]
)
def test_at_the_limits_of_mixing_one_condition_is_all_there_is(
    limit, near, option, files, sources, given
):
    values = {"vision": given["image"], "text": given["text"]}
    both = versatile(sources, files, mixing=near)(values, generators())
    other = "text" if option == "vision" else "vision"
    keys = {other: None, "mixing": limit} | ({} if option == "text" else {"text_unet": None})
    alone = versatile(sources, files, **keys)
    assert alone.model.state_dict().keys() == latent_diffusion.unet(TINY).state_dict().keys()
    alike(alone({option: values[option]}, generators()), both)


def test_neither_order_nor_batch_changes_a_picture(files, sources, given):
    values = {"vision": given["image"], "text": given["text"]}
    decoder = versatile(sources, files)
    found = decoder(values, generators())
    back = decoder({k: v[::-1] for k, v in values.items()}, generators(IMAGES[::-1]))
    alike(back[::-1], found)
    alone = [
        decoder({k: v[i : i + 1] for k, v in values.items()}, generators(IMAGES[i : i + 1]))[0]
        for i in range(3)
    ]
    alike(np.stack(alone), found)
    other = decoder(values, generators(seed=1))
    assert np.abs(other.astype(int) - found).mean() > 3


def test_latents_of_the_autoencoder_start_as_their_pictures_do(files, sources, given):
    encoder = backbone("sd_vae", files["vae"], model="tiny", batch=3)
    shown = np.ascontiguousarray(pictures(3)[:, :32, :32].repeat(2, 1).repeat(2, 2))
    values = {"vision": given["image"], "text": given["text"]}
    start = {"start_latents": source(encoder, "sd_vae")}
    of_latents = versatile(sources | start, files, start_latents="g")
    of_pictures = versatile(sources, files, start="layout")
    wanted = of_pictures(values | {"start": shown}, generators())
    found = of_latents(values | {"start_latents": encoder(shown).numpy()}, generators())
    alike(found, wanted)
    sampled = versatile(sources, files, start="layout", start_from="sample")
    assert np.abs(sampled(values | {"start": shown}, generators()).astype(int) - wanted).max() > 1


# ---- the autoencoder ------------------------------------------------------------------------


def test_latents_are_those_of_diffusers_from_a_file_with_older_names(files, vae):
    encoder = backbone("sd_vae", files["vae"], model="tiny", batch=2)
    images = encoder.preprocessing(pictures())
    assert images.abs().max() <= 1
    assert images.std() > 0.1
    wanted = vae.encode(images).latent_dist.mode().flatten(1) * 0.18215
    np.testing.assert_allclose(encoder(pictures()), wanted, rtol=1e-4, atol=1e-5)
    assert (encoder.shape, encoder.facts["latents"]) == ((256,), [[4, 8, 8]])
    smaller = backbone("sd_vae", files["vae"], model="tiny", size=[32, 48])
    assert (smaller.shape, smaller.facts["latents"]) == ((96,), [[4, 4, 6]])
    with pytest.raises(InputError, match=r"`size` is \[60, 64\]; both are multiples of 8"):
        backbone("sd_vae", model="tiny", size=[60, 64])


# ---- the published models -------------------------------------------------------------------


def test_sizes_are_the_published_ones():
    architecture = latent_diffusion.ARCHITECTURES["sd15"]
    with torch.device("meta"):
        unet = latent_diffusion.unet(architecture)
        adapter = latent_diffusion.Adapter(unet, architecture)
        autoencoder = latent_diffusion.autoencoder(architecture)
    assert isinstance(unet, UNet2DConditionModel)
    numbers = [sum(p.numel() for p in m.parameters()) for m in (unet, autoencoder, adapter)]
    assert numbers == [859_520_964, 83_653_863, 22_319_616]
    assert architecture.latent == (4, 64, 64)
    names = {f"ip_adapter.{i}.to_k_ip.0.weight" for i in range(1, 32, 2)}
    assert names <= adapter.state_dict().keys()
    config = clip.configuration(architecture.clip)
    assert (config["embed_dim"], config["image_size"]) == (768, (224, 224))
    context = config["text_cfg"]["context_length"]
    assert ((224 // 14) ** 2 + 1, context) == architecture.tokens
    assert clip.configuration(architecture.embeds)["embed_dim"] == architecture.embedding


# ---- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet", "text_unet", "vae", "adapter"])
def test_a_tensor_that_is_missing_or_left_over_is_refused(part, files, tensors, sources, tmp_path):
    wrong = dict(tensors[part])
    lost = next(n for n in wrong if part not in ("unet", "text_unet") or ".attentions." in n)
    wrong[lost.replace(".weight", ".extra").replace(".bias", ".extra")] = wrong.pop(lost)
    named = files | {part: save(wrong, tmp_path / f"{part}.safetensors")}
    make = adapted if part == "adapter" else versatile
    with pytest.raises(InputError) as caught:
        make(sources, named)
    assert f"{part}.safetensors: not the weights of `{part}`" in str(caught.value)
    assert "1 missing" in str(caught.value)
    assert "1 unexpected" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vdvae"}, "takes latents of kind clip_vision_tokens, but e predicts kind vdvae"),
        ({"model": "ViT-B-32"}, "model tiny, but e predicts .* model ViT-B-32"),
        ({"layer": "ln_post"}, "but e predicts kind clip_vision_tokens, layer ln_post"),
        ({"numbers": 272}, "numbers 544, but e predicts kind clip_vision_tokens, numbers 272"),
        ({"weights_sha256": "0"}, "`clip` is random, but the latents of e are of random"),
    ],
)
def test_latents_of_something_else_are_refused_in_one_line(change, message, files, sources):
    changed = dict(sources["image"])
    if "numbers" in change:
        changed["shape"] = [change["numbers"]]
    else:
        changed["target"] = changed["target"] | change
    with pytest.raises(InputError, match=message) as caught:
        versatile(sources | {"image": changed}, files)
    assert "\n" not in str(caught.value)


def test_states_are_no_tokens(files, sources):
    with pytest.raises(InputError, match="states projected, but f predicts .* states last"):
        versatile(sources | {"text": sources["states"]}, files)
    with pytest.raises(InputError, match="states last, but f predicts .* states projected"):
        adapted(sources | {"states": sources["text"]}, files)


def test_latents_of_another_autoencoder_are_refused(files, sources):
    start = {"start_latents": source(backbone("sd_vae", model="tiny"), "sd_vae")}
    with pytest.raises(InputError, match="are of another autoencoder than `vae`"):
        adapted(sources | start, files, start_latents="g")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixing": 1.1}, "`mixing` is 1.1; 0 to 1"),
        ({"text": None}, "`text` is missing, which mixing 0.4 needs"),
        ({"text_unet": None}, "`text_unet` is missing"),
        ({"strength": 0.1}, "of 4 steps at least one"),
        ({"steps": 0}, "`steps` is 0"),
        ({"guidance": 0.5}, "`guidance` is 0.5; at least 1"),
        ({"start": "a", "start_latents": "b"}, "not from both"),
    ],
)
def test_options_out_of_range_are_refused(keys, message, files, sources):
    with pytest.raises(InputError, match=message):
        versatile(sources, files, **keys)


def test_an_adapter_without_conditions_is_refused(files, sources):
    with pytest.raises(InputError, match="name `vision`, `text` or both"):
        adapted(sources, files, vision=None, text=None)


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[diffusion\]"):
        backbone("sd_vae", model="tiny")
