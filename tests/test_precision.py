"""Which hardware multiplies bf16."""

import pytest
import torch

from engram.contrastive import Options, loop
from engram.precision import multiplies_bf16


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True)])
def test_a_gpu_before_ampere_only_emulates_bf16(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert multiplies_bf16("cuda") == native


@pytest.mark.parametrize("native", [False, True])
def test_training_is_in_bf16_only_where_it_is_native(monkeypatch, native):
    monkeypatch.setattr(loop, "multiplies_bf16", lambda device: native)
    with loop._autocast(Options(bf16=True), "cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)
