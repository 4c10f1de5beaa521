"""The training loop against plain PyTorch, closed forms, and itself after a kill."""

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import forked
import looping
import numpy as np
import pytest
import torch
import torch.distributed as dist
from looping import SETTINGS, N, learner, network, rates, rows, validate
from safetensors.torch import load_file
from torch import nn

from engram.errors import InputError
from engram.training import ranks, schedules
from engram.training.checkpoint import Checkpoint
from engram.training.ema import EMA
from engram.training.loop import fit


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def close(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **tolerance)


# ---- steps ------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_are_those_of_plain_pytorch(optimiser, clip):
    net = network(dropout=0.3)
    trained = fit(
        learner(net, optimiser=optimiser), lambda net: {}, replace(SETTINGS, clip_gradient=clip), N
    )
    plain = network(dropout=0.3)
    x, y = rows()
    update = optimiser(looping.groups(plain), lr=0.0)
    means, step = [], 0
    for _ in range(3):
        total = 0.0
        for at in torch.randperm(N).tensor_split(4):
            for group, rate in zip(update.param_groups, rates(step), strict=True):
                group["lr"] = rate
            update.zero_grad()
            loss = nn.functional.mse_loss(plain(x[at]), y[at])
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(plain.parameters(), clip)
            update.step()
            total, step = total + loss.item() * len(at), step + 1
        means.append(total / N)
    close(trained.state, plain.state_dict(), rtol=1e-12, atol=1e-14)
    same(trained.state, net.state_dict())
    np.testing.assert_allclose([row["loss"] for row in trained.curves], means, rtol=1e-6)
    assert [row["first_lr"] for row in trained.curves] == [rates(s)[0] for s in (3, 7, 11)]
    assert [row["last_lr"] for row in trained.curves] == [rates(s)[1] for s in (3, 7, 11)]


def test_an_epoch_sees_every_row_once_in_batches_of_like_size_and_records_means():
    net = network()
    seen = []
    x, y = rows()

    def loss(at):
        seen.append(at)
        return (net(x[at]) - y[at]).square().mean(), {"row": at.float().mean()}

    trained = fit(learner(net, loss), validate, SETTINGS, N)
    assert [len(at) for at in seen] == [13, 13, 12, 12] * 3
    orders = [torch.cat(seen[first : first + 4]) for first in (0, 4, 8)]
    for order in orders:
        assert order.sort().values.tolist() == [*range(N)]
    assert not torch.equal(orders[0], orders[1])
    assert [row["row"] for row in trained.curves] == pytest.approx([(N - 1) / 2] * 3)


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_parts_of_a_batch_add_up_to_the_batch(accumulate):
    """Parts of 13 rows are not of one size."""
    settings = replace(SETTINGS, clip_gradient=0.3)
    whole = fit(learner(network()), validate, settings, N)
    parts = fit(learner(network()), validate, replace(settings, accumulate=accumulate), N)
    close(parts.state, whole.state, rtol=1e-9, atol=1e-12)
    losses = [[row["loss"] for row in trained.curves] for trained in (parts, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_decays_have_a_schedule_too():
    net, plain = network(), network()
    made = replace(learner(net), decays=lambda step: [0.1 * step, 0.0])
    fit(made, lambda net: {}, replace(SETTINGS, epochs=1), N)
    x, y = rows()
    update = torch.optim.AdamW(looping.groups(plain), lr=0.0)
    torch.manual_seed(0)
    network()  # as many random numbers as were drawn before
    for step, at in enumerate(torch.randperm(N).tensor_split(4)):
        for group, rate, decay in zip(
            update.param_groups, rates(step), (0.1 * step, 0), strict=True
        ):
            group["lr"], group["weight_decay"] = rate, decay
        update.zero_grad()
        nn.functional.mse_loss(plain(x[at]), y[at]).backward()
        update.step()
    close(net.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-14)


def test_what_is_drawn_of_a_batch_is_shared_out_and_followed():
    net = network()
    x, y = rows()
    seen, after = [], []

    def draw(at, step):
        return {"at": at, "step": torch.full((len(at),), step)}

    def loss(batch, step):
        assert batch["step"].unique().tolist() == [step]
        seen.append(len(batch["at"]))
        return (net(x[batch["at"]]) - y[batch["at"]]).square().mean()

    made = replace(learner(net, loss), draw=draw, after=after.append)
    told = []
    settings = replace(SETTINGS, accumulate=2)
    trained = fit(made, validate, settings, N, told=lambda curves: told.append(len(curves)))
    assert seen == [7, 6, 7, 6, 6, 6, 6, 6] * 3
    assert after == [*range(12)]
    assert told == [1, 2, 3]
    close(
        trained.state, fit(learner(network()), validate, SETTINGS, N).state, rtol=1e-9, atol=1e-12
    )


def test_schedules_are_the_published_ones():
    """Figures of Brain-Semantoks, counted from 0, and of Brain-JEPA, counted from 1."""
    found = [schedules.warm_cosine(n, 10, 3, 0, 1, 0) for n in range(10)]
    expected = [0, 1 / 3, 2 / 3, 1, 0.95048, 0.81174, 0.61126, 0.38874, 0.18826, 0.04952]
    np.testing.assert_allclose(found, expected, atol=5e-6)
    found = [schedules.warm_cosine(n, 20, 4, 5e-5, 1e-3, 1e-6) for n in range(1, 21)]
    expected = [2.875e-4, 5.25e-4, 7.625e-4, 1e-3, 9.904e-4, 9.62e-4, 3.9e-5, 1.06e-5, 1e-6]
    np.testing.assert_allclose([*found[:6], *found[-3:]], expected, rtol=5e-3)
    found = [schedules.cosine(n, 20, 0.04, 0.4) for n in (1, 2, 3, 4, 19, 20)]
    expected = [0.04222, 0.04881, 0.05962, 0.07438, 0.39778, 0.4]
    np.testing.assert_allclose(found, expected, atol=5e-6)
    found = [schedules.cosine(n, 100, 0.99, 1.0) for n in (0, 25, 50, 99)]
    np.testing.assert_allclose(found, [0.99, 0.991464, 0.995, 0.999998], atol=5e-7)


# ---- average ----------------------------------------------------------------------------


def test_the_average_is_the_closed_form_and_is_what_is_validated_and_kept():
    decays = [0.8 + 0.01 * step for step in range(12)]
    net = network()
    made = learner(net, decay=decays.__getitem__)
    weights = [net[0].weight.detach().clone()]
    made.optimiser.register_step_post_hook(
        lambda *_: weights.append(net[0].weight.detach().clone())
    )
    judged = []

    def judge(average):
        judged.append(average[0].weight.clone())
        return {}

    trained = fit(made, judge, SETTINGS, N)
    assert len(weights) == 13
    newest = [1.0, *(1 - decay for decay in decays)]
    shares = [newest[i] * np.prod(decays[i:]) for i in range(13)]
    expected = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    torch.testing.assert_close(trained.state["0.weight"], expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(judged[2], trained.state["0.weight"])
    assert not any(p.requires_grad for p in made.ema.network.parameters())


def test_an_average_may_have_a_schedule_and_keeps_the_buffers_of_the_network():
    net = nn.BatchNorm1d(3)
    ema = EMA(net, lambda step: step / 2)
    for step in range(3):
        with torch.no_grad():
            net.weight.fill_(step + 10.0)
        net(torch.randn(8, 3) + step)
        ema.update(step)
    torch.testing.assert_close(ema.network.weight, torch.full((3,), 10.5))  # 10; 10.5; unchanged
    assert torch.equal(ema.network.running_mean, net.running_mean)
    assert ema.network.num_batches_tracked == 3
    with pytest.raises(InputError, match="decay of step 3 is 1.5"):
        ema.update(3)
    with pytest.raises(InputError, match="decay of step 0 is -0.1"):
        EMA(net, -0.1)


# ---- the epoch that is kept -------------------------------------------------------------


def test_the_best_epoch_is_kept_and_training_stops_after_it():
    scores = iter([0.1, 0.5, 0.3, 0.5, 0.4])  # an equal score is not better
    states = []

    def judge(net):
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        return {"other": 7.0, "score": next(scores)}

    settings = replace(SETTINGS, epochs=9, patience=3)
    trained = fit(learner(network()), judge, settings, N)
    assert (trained.epoch, trained.score, len(trained.curves)) == (1, 0.5, 5)
    assert [row["other"] for row in trained.curves] == [7.0] * 5
    same(trained.state, states[1])


def test_without_a_score_the_last_epoch_is_kept():
    trained = fit(learner(network()), lambda net: {}, replace(SETTINGS, patience=1), N)
    assert trained.epoch == 2
    assert np.isnan(trained.score)


def test_validation_is_without_dropout_and_gradient_and_training_is_not():
    net = network(dropout=0.5)
    found = []
    x, y = rows()

    def loss(at):
        found.append((net.training, torch.is_grad_enabled()))
        return (net(x[at]) - y[at]).square().mean()

    def judge(net):
        found.append((net.training, torch.is_grad_enabled()))
        return {}

    fit(learner(net, loss), judge, replace(SETTINGS, batch_size=N, epochs=2), N)
    assert found == [(True, True), (False, False)] * 2


# ---- resuming ---------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("step", [1, 4, 7, 11])
def test_a_training_that_was_stopped_ends_with_the_very_weights(tmp_path, step, every):
    """Dropout, order, AdamW's moments, the average and the best epoch are all as they were."""
    scores = [0.5, 0.2, 0.1]  # the best epoch may lie before the stop

    def train(saved, before=None):
        net = network(dropout=0.3)
        made = learner(net, decay=0.9)
        if before is not None:
            looping.stop_before(net, before)
        epoch = iter(scores[-(3 - (before or 0) // 4) :] if before is None else scores)
        return net, made, fit(made, lambda net: {"score": next(epoch)}, SETTINGS, N, "t", saved)

    net, made, expected = train(None)
    saved = Checkpoint(tmp_path / "checkpoint.safetensors", every, {"seed": 0})
    with pytest.raises(looping.Stop):
        train(saved, before=step)
    torch.manual_seed(99)
    scores = scores[step // 4 :]  # of the epochs that are left
    again, remade, trained = train(saved)
    same(trained.state, expected.state)
    same(again.state_dict(), net.state_dict())
    same(remade.ema.network.state_dict(), made.ema.network.state_dict())
    assert trained.curves == expected.curves
    assert trained.epoch == expected.epoch == 0
    _, _, finished = train(saved)  # asks for no more scores
    same(finished.state, expected.state)
    assert finished.curves == expected.curves


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    fit(learner(network()), validate, SETTINGS, N, checkpoint=Checkpoint(path, spec={"a": 1}))

    def refused(says, made=None, settings=SETTINGS, n=N, spec=None):
        with pytest.raises(InputError, match=says):
            fit(
                made or learner(network()), validate, settings, n,
                checkpoint=Checkpoint(path, spec=spec or {"a": 1}),
            )  # fmt: skip

    refused("with other epochs, patience;", settings=replace(SETTINGS, epochs=4, patience=2))
    refused("with other spec;", spec={"a": 2})
    refused("with other rows;", n=N - 1)
    refused("with other optimiser;", made=learner(network(), optimiser=torch.optim.SGD))
    refused("with other ema;", made=learner(network(), decay=0.5))
    path.write_bytes(path.read_bytes()[:-9])
    refused("not a readable checkpoint")


# ---- ranks ------------------------------------------------------------------------------


def on_two_ranks(*args):
    """What two ranks on loopback print, started as torchrun would start them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(ranks.__file__).parents[2]),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [forked.python(), looping.__file__, *map(str, args)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return printed


def test_two_ranks_train_as_one_and_go_on_where_they_stopped(tmp_path):
    printed = on_two_ranks(tmp_path)
    assert all("InfoNCE needs whole batches" in text for text in printed)
    one = looping.train()
    through, resumed = (
        [load_file(tmp_path / f"{what}{rank}of2") for rank in (0, 1)]
        for what in ("through", "resumed")
    )
    same(through[1], through[0])
    assert through[0].pop("gradient 0").tolist() == [3, 3]
    assert through[0].pop("gradient 1").tolist() == [5, 5]
    assert "gradient 2" not in through[0]
    same(resumed[0], through[0])
    same(resumed[1], through[0])
    curves, expected = through[0].pop("curves"), one.pop("curves")
    close(through[0], one, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(curves[:, [0, 2]], expected[:, [0, 2]], rtol=1e-6, atol=1e-9)
    assert (curves[:, 1] - expected[:, 1]).abs().min() > 1e-4  # rank 1 draws numbers of its own
    met = [load_file(tmp_path / f"coupled{rank}of2") for rank in (0, 1)]
    same(met[1], met[0])
    one = looping.coupled()
    torch.testing.assert_close(met[0].pop("curves"), one.pop("curves"), rtol=1e-6, atol=1e-7)
    close(met[0], one, rtol=1e-9, atol=1e-12)


def test_one_process_is_no_distributed_training():
    with ranks.joined("cpu") as device:
        assert (device, ranks.rank(), ranks.size()) == ("cpu", 0, 1)
        assert not dist.is_initialized()


# ---- bad input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"patience": -1}, "patience is -1"),
        ({"accumulate": 13}, "50 rows in batches of 16 are too few"),
    ],
)
def test_settings_that_are_refused(change, says):
    with pytest.raises(InputError, match=says):
        fit(learner(network()), validate, replace(SETTINGS, **change), N)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_loss_that_is_not_finite_names_step_rows_and_the_checkpoint(tmp_path, clip):
    net = network()
    x, y = rows()

    def loss(at):
        return (net(x[at]) - y[at]).square().mean() * torch.where(at == 33, torch.nan, 1).mean()

    made = replace(learner(net, loss), names=[f"subject {i}" for i in range(N)])
    settings = replace(SETTINGS, watched=True, clip_gradient=clip)
    network()  # seeds
    step = next(i for i, at in enumerate(torch.randperm(N).tensor_split(4)) if 33 in at)
    assert step > 0
    network()
    path = tmp_path / "checkpoint.safetensors"
    says = (
        rf"the net: the loss or its gradient is not finite in step {step}, epoch 0, on "
        rf"(subject \d+, ){{2}}subject \d+ and 1\d? more; the last good checkpoint, {path}, is "
        rf"from before step {step};"
    )
    with pytest.raises(InputError, match=says):
        fit(made, lambda net: {}, settings, N, "the net", Checkpoint(path, every=1))
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert all(
        value.isfinite().all() for value in load_file(path).values() if value.is_floating_point()
    )


def test_divergence_is_one_error():
    net = network()
    x, y = rows()

    def loss(at):
        return (net(x[at]) - y[at]).square().mean() * torch.inf

    with pytest.raises(InputError, match=r"the net diverged in epoch 0.*first_lr and last_lr"):
        fit(learner(net, loss), validate, SETTINGS, N, "the net")
    scores = iter([1.0, np.nan])
    with pytest.raises(InputError, match="training diverged in epoch 1"):
        fit(learner(network()), lambda net: {"score": next(scores)}, SETTINGS, N)
