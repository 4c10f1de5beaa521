"""AST: the published layout, against transformers' own model on the same spectrograms."""

import functools

import matplotlib
import numpy as np
import pytest
import torch
from published import backbone, save

from engram.errors import InputError

VIEW = {"what": "spectrogram", "limits": [-20, 20], "cmap": "viridis"}

#: Names in the published file, by those of the installed version.
PUBLISHED = (
    (".layers.", ".encoder.layer."),
    (".attention.q_proj", ".attention.attention.query"),
    (".attention.k_proj", ".attention.attention.key"),
    (".attention.v_proj", ".attention.attention.value"),
    (".attention.o_proj", ".attention.output.dense"),
    (".mlp.fc1", ".intermediate.dense"),
    (".mlp.fc2", ".output.dense"),
)


BLOCKS = 2


@pytest.fixture(scope="module")
def library():
    """Here, for it takes seconds to import: every worker collects this file, one runs it."""
    import transformers

    return transformers


@pytest.fixture
def short(library, monkeypatch):
    """Models of two blocks: all twelve are alike, and one has 1214 tokens to attend to."""
    from engram.backbones import ast

    config = functools.partial(library.ASTConfig, num_hidden_layers=BLOCKS)
    monkeypatch.setattr(ast, "ASTConfig", config)
    return config


def classifier(library, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = library.ASTForAudioClassification(config(num_labels=527)).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        table = model.audio_spectrogram_transformer.embeddings.position_embeddings
        table.data += 0.1 * torch.randn_like(table)
    return model


def published(model):
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in PUBLISHED:
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    first = "audio_spectrogram_transformer.encoder.layer.0.attention.attention.query.weight"
    assert {first, "classifier.dense.weight", "classifier.layernorm.bias"} <= tensors.keys()
    return tensors


def test_ast_as_transformers_computes_it(library, short, tmp_path):
    model = classifier(library, short)
    # dB of noise around a tone at the high end; row 0 is the highest frequency.
    rows = np.random.default_rng(0).normal(0, 6, (1, 128, 1024))
    rows[0, 10] += 12
    rows = rows.clip(-19.9, 19.9).astype(np.float16)
    path = save(published(model), tmp_path / "model.safetensors")
    loaded = backbone("ast", path, VIEW, batch=1, dim=768)
    # The documented scale: the limits are -1 and 1, in the steps of an image.
    grey = matplotlib.colormaps["gray"]((rows.astype(np.float32) + 20) / 40, bytes=True)[..., 0]
    values = (2 * (grey / 255) - 1)[:, ::-1].transpose(0, 2, 1).astype(np.float32)
    assert values.shape == (1, 1024, 128)
    assert values[0, :, 117].mean() > 0.4 > values[0, :, :117].mean()
    with torch.no_grad():
        whole = model.audio_spectrogram_transformer(torch.from_numpy(values))
    assert whole.pooler_output.std() > 0.1
    np.testing.assert_allclose(loaded(rows), whole.pooler_output, atol=1e-4)


def test_tokens_are_those_of_the_last_layer(library):
    from engram.backbones.ast import Spectrogram

    config = library.ASTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = library.ASTModel(config).eval()
    images = torch.rand(2, 1, 128, 1024)
    with torch.no_grad():
        expected = model(images[:, 0].flip(1).transpose(1, 2)).last_hidden_state
        found = Spectrogram(model).tokens(images)
    assert found.shape == (2, 2 + 12 * 101, 24)
    torch.testing.assert_close(found, expected)


def test_weights_of_ast_that_do_not_fit_are_refused_by_name(library, tmp_path):
    tensors = published(classifier(library, library.ASTConfig))
    start = "audio_spectrogram_transformer."
    del tensors[f"{start}encoder.layer.3.output.dense.bias"]
    tensors[f"{start}encoder.layer.12.output.dense.bias"] = torch.zeros(768)
    tensors[f"{start}embeddings.position_embeddings"] = torch.zeros(1, 146, 768)
    path = save(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        backbone("ast", path, VIEW)
    message = str(caught.value)
    assert "1 missing (layers.3.mlp.fc2.bias)" in message
    assert "1 unexpected (layers.12.mlp.fc2.bias)" in message
    assert "embeddings.position_embeddings [1, 146, 768] instead of [1, 1214, 768]" in message
    path.write_bytes(path.read_bytes()[:999_999])
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable checkpoint"):
        backbone("ast", path, VIEW)


def test_other_sizes_are_refused():
    with pytest.raises(InputError, match=r"its input is \[128, 1024\]"):
        backbone("ast", view=VIEW, size=[224, 224])
