"""What only a GPU can show: recorded steps are the steps that were recorded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_contrastive import SMALL, world

from engram import contrastive
from engram.measures import ranking
from engram.training import step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def states(options, monkeypatch, eager):
    monkeypatch.setattr(step, "EAGER", 10**9 if eager else 3)
    eeg, images, rows, _ = world(2.0, concepts=20)
    model = contrastive.fit(eeg, images, rows, options, [1], "cuda")[0]
    return model.state(), model.curves["loss"].to_numpy()


@pytest.mark.parametrize("batch", [60, 64])  # 180 rows: one size of a batch, and three
def test_recorded_steps_equal_steps_that_are_launched_one_by_one(batch, monkeypatch):
    options = replace(
        SMALL, encoder_options={**SMALL.encoder_options, "dropout": 0.0}, dropout=0.0,
        image_dropout=0.0, batch_size=batch, epochs=6, patience=0,
    )  # fmt: skip
    (one, losses), (other, expected) = (states(options, monkeypatch, e) for e in (False, True))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-2, atol=1e-3, msg=name)


def test_the_cpu_takes_the_same_steps(monkeypatch):
    options = replace(
        SMALL, encoder_options={**SMALL.encoder_options, "dropout": 0.0}, dropout=0.0,
        image_dropout=0.0, epochs=6, patience=0,
    )  # fmt: skip
    _, losses = states(options, monkeypatch, False)
    eeg, images, rows, _ = world(2.0, concepts=20)
    expected = contrastive.fit(eeg, images, rows, options, [1], "cpu")[0].curves["loss"]
    np.testing.assert_allclose(losses, expected, rtol=0.02)


def test_dropout_is_drawn_anew_in_every_replay_and_a_seed_repeats_it(monkeypatch):
    """With learning rates of zero the loss varies with what is dropped alone."""
    options = replace(
        SMALL, encoder_lr=0.0, projector_lr=0.0, final_lr=0.0, epochs=8, patience=0,
        batch_size=1000,
    )  # fmt: skip
    _, losses = states(options, monkeypatch, False)
    assert len(set(losses[4:])) == 4
    _, again = states(options, monkeypatch, False)
    np.testing.assert_array_equal(losses, again)


@pytest.mark.parametrize("bf16", [False, True])
def test_images_are_found_on_a_gpu(bf16):
    eeg, images, rows, test = world(0.5)
    model = contrastive.fit(eeg, images, rows, replace(SMALL, bf16=bf16), [0], "cuda")[0]
    found = contrastive.similarity(model, eeg[test], images[test])
    assert (ranking.ranks(found) <= 1).mean() > 0.9
