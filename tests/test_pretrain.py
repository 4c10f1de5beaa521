"""Stage `pretrain`, through its function, with a tiny backbone and objective."""

import json
import os
import re
import shlex
import subprocess
import sys

import forked
import numpy as np
import pretraining
import pytest
import torch
from pretraining import cohort, pretrain
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engram.errors import InputError
from engram.objectives._process import EVENTS
from engram.planning import components
from engram.training import collapse

SUBJECTS = [f"sub-{i:02d}" for i in range(1, 22)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(components, "component", components.component)  # put back afterwards
    monkeypatch.setattr(components, "taken", components.taken)
    pretraining.register()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    paths = [cohort(folder / "a.h5", SUBJECTS[:11]), cohort(folder / "b.h5", SUBJECTS[11:], 70, 1)]
    return {"here": paths}


@pytest.fixture(scope="module")
def parcels(tmp_path_factory):
    """14 subjects, in batches of 7."""
    path = tmp_path_factory.mktemp("views") / "parcels.h5"
    names = pretraining.PARCELS
    return {"here": [cohort(path, SUBJECTS[:14], regions=len(names), channels=names)]}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, parcels):
    """Weights of real backbones by kind, from one process in fp32."""
    folder = tmp_path_factory.mktemp("learnt")
    return {kind: pretrain(folder, parcels, kind, kind)[0] for kind in pretraining.REAL}


def facts(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["engram"])


def same(one, other):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def close(one, other, tolerance=1e-5):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance, msg=name)


def test_weights_say_what_they_have_seen_and_epochs_are_kept(tmp_path, views, capfd):
    weights, kept = pretrain(tmp_path, views, keep=[1, 3])
    found = facts(weights)
    assert found["datasets"] == {"here": SUBJECTS}
    assert (found["epochs"], found["steps"], found["precision"]) == (4, 12, "fp32")
    assert found["backbone"]["kind"] == "tiny"
    assert found["view"]["simulated"]
    assert found["view"]["channels"] == [f"region {i}" for i in range(6)]
    assert [facts(path)["epochs"] for path in kept] == [1, 3]
    assert not (tmp_path / "tiny.parts").exists()
    short, _ = pretrain(tmp_path, views, "short", epochs=3)
    with pytest.raises(AssertionError):
        same(kept[1], short)  # its cosine is a longer one
    events = EventAccumulator(str(tmp_path / "tiny")).Reload()
    losses = [event.value for event in events.Scalars("Pretraining/loss")]
    np.testing.assert_allclose(losses, found["curves"]["loss"], rtol=1e-6)
    assert losses[-1] < losses[0]
    assert {"spread", "rank", "alike", "matrices_lr"} <= found["curves"].keys()
    said = capfd.readouterr().out
    assert re.search(
        r"21 subjects, 12 steps of at most 8; 154 parameters, fp32.*in all about", said
    )


NOT_MOVED = {"lr": 0.0}, {"clip_gradient": 1e-13, "weight_decay": 0.0, "final_weight_decay": 0.0}


@pytest.mark.parametrize("given", NOT_MOVED)
def test_what_is_trained_follows_from_rates_gradients_and_teacher_alone(tmp_path, views, given):
    """A rate of 0, decay or not, or no gradient leaves the weights that the seed draws."""
    weights, _ = pretrain(tmp_path, views, epochs=2, **given)
    drawn = pretraining.encoder(pretraining.BackboneOptions(seed=3), 6).state_dict()
    for name, value in load_file(weights).items():
        torch.testing.assert_close(value, drawn[name], rtol=1e-5, atol=1e-6)


def test_rates_and_decays_are_warmed_up_and_follow_half_cosines(tmp_path, views):
    """A weight without gradient shrinks by rate times decay alone, and the teacher follows it."""
    weights, _ = pretrain(tmp_path, views, lr=0.1, final_lr=0.02, start_lr=0.01)
    student, teacher = 1.0, 1.0
    for step in range(12):
        n = step + 1  # of 12 steps, of which 3 warm up
        rate = 0.01 + 0.09 * n / 3 if n < 3 else 0.06 + 0.04 * np.cos(np.pi * (n - 3) / 9)
        student *= 1 - rate * (0.175 - 0.125 * np.cos(np.pi * n / 12))
        keeps = 0.95 - 0.05 * np.cos(np.pi * step / 12)
        teacher = keeps * teacher + (1 - keeps) * student
    found = load_file(weights)
    np.testing.assert_allclose(found["idle"], teacher, rtol=1e-5)
    assert found["shift"] == 1
    rates = facts(weights)["curves"]["matrices_lr"]
    np.testing.assert_allclose(rates[0::3], [0.1, 0.02], rtol=1e-6)


def test_every_batch_is_drawn_anew_and_alike_in_another_run(tmp_path, views, monkeypatch):
    runs = []
    for name in ("one", "two"):
        monkeypatch.setattr(pretraining, "drawn", [])
        pretrain(tmp_path, views, name, epochs=2)
        runs.append({*pretraining.drawn})
    assert runs[0] == runs[1]
    assert len(runs[0]) == 6 + 3  # two that are timed, one that is watched


@pytest.mark.parametrize("every", [1, 2, 0])
def test_a_pretraining_that_stopped_ends_with_the_very_weights(tmp_path, views, monkeypatch, every):
    through, kept = pretrain(tmp_path, views, "through", keep=[2])
    steps = np.random.default_rng(every).choice(np.arange(1, 12), 3, replace=False)
    monkeypatch.setattr(pretraining, "stops", sorted(steps.tolist()))
    for _ in range(3):
        with pytest.raises(pretraining.Stop):
            pretrain(tmp_path, views, "stopped", keep=[2], checkpoint_steps=every)
        assert not (tmp_path / "stopped.safetensors").exists()
    stopped, again = pretrain(tmp_path, views, "stopped", keep=[2], checkpoint_steps=every)
    same(stopped, through)
    same(again[0], kept[0])


def started(folder, views, environment=(), **given):
    """A process that is to pretrain `other` of a folder, and its pipes."""
    asked, file = pretraining.spec(**given), folder / "job.json"
    kept = [f"{folder}/other/epoch-{epochs}.safetensors" for epochs in asked["keep"]]
    job = {"views": views, "weights": f"{folder}/other.safetensors", "kept": kept, "spec": asked,
           "made_by": {"spec": asked}, "device": "cpu"}  # fmt: skip
    file.write_text(json.dumps(job))
    command = [forked.python(), pretraining.__file__, str(file)]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=os.environ | dict(environment), text=True, **streams)


def held(process):
    """Wait until a process waits for a line."""
    while (line := process.stdout.readline()) != "holds\n":
        assert line, process.stderr.read()


WAITS = "other.safetensors: waiting for another process that writes it"


@pytest.mark.parametrize(
    "where",
    [
        {"KILLED_AT": "5"},
        {"KILLED_BEFORE": "replace other.safetensors"},
        {"KILLED_BEFORE": "unlink checkpoint.safetensors"},
    ],
)
def test_a_pretraining_that_was_killed_ends_with_the_very_weights(tmp_path, views, where):
    given = {"keep": [1, 2], "checkpoint_steps": 1}
    through, kept = pretrain(tmp_path, views, "through", **given)
    killed = started(tmp_path, views, where, **given)
    assert killed.wait() == -9, killed.stderr.read()
    for path in (tmp_path / "other.safetensors", *tmp_path.glob("other/*.safetensors")):
        path.unlink(missing_ok=True)  # as Snakemake does
    again, others = pretrain(tmp_path, views, "other", **given)
    for one, other in zip([through, *kept], [again, *others], strict=True):
        same(one, other)
    events = [(one.with_suffix("") / EVENTS).read_bytes() for one in (again, through)]
    assert events[0] == events[1]
    assert {path.name for path in tmp_path.glob("other*")} == {"other", "other.safetensors"}


def test_a_pretraining_beside_another_waits_and_takes_what_that_has_made(tmp_path, views):
    """Such as one whose Snakemake was killed, and which goes on beside the next run."""
    given = {"keep": [1], "checkpoint_steps": 1}
    through, kept = pretrain(tmp_path, views, "through", **given)
    first = started(tmp_path, views, {"HELD_AT": "5"}, **given)
    held(first)
    second = started(tmp_path, views, **given)
    assert WAITS in second.stderr.readline()
    first.communicate("go on\n")
    assert second.communicate()[0] == ""
    assert first.returncode == second.returncode == 0
    for one, other in zip([through, *kept], ["other", "other/epoch-1"], strict=True):
        same(one, tmp_path / f"{other}.safetensors")


def test_processes_of_a_pretraining_that_was_killed_are_waited_for(tmp_path, views):
    code = "import sys; print('holds', flush=True); sys.stdin.readline()"
    first = started(tmp_path, views, launch=shlex.join([sys.executable, "-c", code]))
    held(first)
    first.kill()
    second = started(tmp_path, views)
    assert WAITS in second.stderr.readline()
    first.stdin.close()
    assert second.wait() == 0, second.stderr.read()


LAUNCH = (
    " -m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0"
)


@pytest.mark.parametrize("kind", ["semantoks", "brain_jepa"])
def test_two_processes_end_as_one(tmp_path, parcels, learnt, monkeypatch, kind):
    """Batches of 7 are not shared out evenly; torchrun starts them, or a launcher that is named."""
    monkeypatch.setattr(sys, "executable", forked.python())
    how = {"processes": 2} if kind == "brain_jepa" else {"launch": sys.executable + LAUNCH}
    parts = {"accumulate": 2} if kind == "brain_jepa" else {}  # its rows do not meet in the loss
    two, _ = pretrain(tmp_path, parcels, "two", kind, **how, **parts)
    assert [facts(path)["processes"] for path in (learnt[kind], two)] == [1, 2]
    close(two, learnt[kind])
    losses = [facts(path)["curves"]["loss"] for path in (learnt[kind], two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    still, _ = pretrain(tmp_path, parcels, "still", kind, lr=0.0, epochs=2)
    with pytest.raises(AssertionError):
        close(still, two, 1e-3)  # as far as they went


# ---- how it is computed -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["semantoks", "brain_jepa"])
def test_in_bf16_it_learns_alike_and_weights_are_fp32(tmp_path, parcels, learnt, kind):
    exact = learnt[kind]
    short, _ = pretrain(tmp_path, parcels, "short", kind, precision="bf16")
    assert [facts(path)["precision"] for path in (exact, short)] == ["fp32", "bf16"]
    losses = [facts(path)["curves"]["loss"] for path in (exact, short)]
    np.testing.assert_allclose(*losses, rtol=0.03)
    assert losses[0] != losses[1]
    for name, value in load_file(short).items():
        assert value.dtype == torch.float32, name
    close(short, exact, 1e-2)


@pytest.mark.parametrize("kind", ["semantoks", "brain_jepa"])
def test_activations_that_are_computed_again_change_nothing(tmp_path, parcels, learnt, kind):
    again, _ = pretrain(tmp_path, parcels, "again", kind, checkpointing=True)
    close(again, learnt[kind], 1e-6)


def test_parts_of_a_batch_are_one_step(tmp_path, parcels, learnt):
    """Rates and the teacher count steps, not parts; rows that meet in the loss meet in a part."""
    parts, _ = pretrain(tmp_path, parcels, "parts", "brain_jepa", accumulate=3)
    close(parts, learnt["brain_jepa"])
    parts, _ = pretrain(tmp_path, parcels, "fewer", "semantoks", accumulate=2)
    curves = [facts(path)["curves"] for path in (learnt["semantoks"], parts)]
    assert curves[0]["student_lr"] == curves[1]["student_lr"]
    assert not np.allclose(curves[0]["loss"], curves[1]["loss"], rtol=1e-4)


def test_some_subjects_only(tmp_path, views):
    weights, _ = pretrain(tmp_path, views, subjects=SUBJECTS[3:9], epochs=2)
    assert facts(weights)["datasets"] == {"here": SUBJECTS[3:9]}
    with pytest.raises(InputError, match="no usable scan of 1 of 3 `subjects`, first sub-99"):
        pretrain(tmp_path, views, subjects=["sub-99", *SUBJECTS[:2]])
    with pytest.raises(InputError, match="1 subject has usable scans; at least 2"):
        pretrain(tmp_path, views, subjects=SUBJECTS[:1])


def test_scans_that_are_not_kept_in_memory_are_read_alike(tmp_path, views):
    kept, _ = pretrain(tmp_path, views, "kept", epochs=2)
    read, _ = pretrain(tmp_path, views, "read", epochs=2, memory_gb=0.0)
    same(kept, read)


# ---- what goes wrong --------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_its_step_subjects_and_checkpoint(tmp_path, views):
    says = (
        r"pretraining tiny: the loss or its gradient is not finite in step 7, epoch 2, on "
        r"here/sub-\d\d, here/sub-\d\d, here/sub-\d\d and 4 more; the last good checkpoint, "
        r".*tiny.parts/checkpoint.safetensors, is from before step 6"
    )
    with pytest.raises(InputError, match=says):
        pretrain(tmp_path, views, not_finite=7)


def test_features_that_collapse_stop_it(tmp_path, views):
    says = (
        r"have collapsed in epoch 1, where the loss is -0.*spread 0\.0\d+ instead of 0\.\d+ in the "
        "untrained network; there is no checkpoint before it; lower `lr`"
    )
    with pytest.raises(InputError, match=says):
        pretrain(tmp_path, views, flat=True)
    weights, _ = pretrain(tmp_path, views, flat=True, collapse=0.0, epochs=2)
    assert facts(weights)["curves"]["spread"][-1] < 0.05


def test_a_target_that_follows_too_fast_collapses_in_fact(tmp_path, parcels):
    """The loss falls all the while, because there is less and less to predict."""
    says = r"have collapsed in epoch \d+, where the loss is ([\d.]+):.*the last good checkpoint"
    with pytest.raises(InputError, match=says) as refused:
        pretrain(tmp_path, parcels, "fast", "brain_jepa", ema=[0.9, 0.9], lr=3e-3, epochs=30)
    assert float(re.search(says, str(refused.value))[1]) < 0.3  # it begins at 0.44


def test_going_on_with_another_configuration_is_refused(tmp_path, views):
    with pytest.raises(InputError, match="not finite"):
        pretrain(tmp_path, views, not_finite=7)
    with pytest.raises(InputError, match="of another training, with other spec; go on as it began"):
        pretrain(tmp_path, views, not_finite=7, crop=30)
    with pytest.raises(InputError, match="not finite in step 7"):
        pretrain(tmp_path, views, not_finite=7, memory_gb=1.0, checkpoint_steps=1)


def test_a_scan_that_is_too_short_is_named(tmp_path, views):
    says = r"here/sub-\d\d, the shortest scan of its batch with 50 frames: a crop has 55 frames"
    with pytest.raises(InputError, match=says):
        pretrain(tmp_path, views, crop=55)


@pytest.mark.parametrize(
    ("kind", "model", "says"),
    [
        ("semantoks", {"frames": 55, "patch": 11}, "50 frames is shorter than a crop of 55; leave"),
        ("brain_jepa", {"windows": 4}, "a scan has 50 frames, a crop 64; leave it out"),
        ("semantoks", {"width": 9}, "width: 9 is no multiple of 2"),
        ("brain_jepa", {"width": 10}, "the width divides by 4 and by the heads"),
        ("brain_jepa", {"components": 12}, "12 components of 12 regions"),
        ("brain_jepa", {"gradients": "none.csv"}, "none.csv: gradients are missing"),
    ],
)
def test_what_real_backbones_cannot_learn_from_is_refused(tmp_path, parcels, kind, model, says):
    with pytest.raises(InputError, match=says):
        pretrain(tmp_path, parcels, kind=kind, model=model)


def test_gradients_of_another_atlas_or_order_are_refused(tmp_path, parcels):
    names, path = pretraining.PARCELS, tmp_path / "gradients.csv"
    cases = {"in another order, first": names[::-1], "other regions than the 12": names[1:]}
    for says, listed in cases.items():
        path.write_text("\n".join(["region,1", *(f"{n},{i}" for i, n in enumerate(listed))]))
        with pytest.raises(InputError, match=says):
            pretrain(tmp_path, parcels, kind="brain_jepa", model={"gradients": str(path)})


def test_views_that_do_not_go_together_are_refused(tmp_path, views):
    other = cohort(tmp_path / "other.h5", ["sub-50"], tr=0.8)
    with pytest.raises(InputError, match=r"a.h5 and .*other.h5 differ in `tr` \(2.0 and 0.8\)"):
        pretrain(tmp_path, views | {"there": [other]})
    labels = cohort(tmp_path / "labels.h5", ["sub-50"], what="labels")
    with pytest.raises(InputError, match="series of regions, but this view holds labels"):
        pretrain(tmp_path, {"here": [labels]})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 1}, "batch_size is 1; it must be at least 2"),
        ({"lr": -1e-3}, "lr is -0.001"),
        ({"warmup_epochs": 4.0}, "warmup_epochs is 4 of 4 epochs; it must be less"),
        ({"accumulate": 9}, "too few for 1 ranks and accumulate: 9"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, views, options, says):
    with pytest.raises(InputError, match=says):
        pretrain(tmp_path, views, **options)


def test_a_process_that_fails_fails_the_job(tmp_path, views):
    with pytest.raises(InputError, match="a process failed; what it said stands above"):
        pretrain(tmp_path, views, launch="false")


# ---- collapse ---------------------------------------------------------------------------


def test_spread_and_effective_rank_are_the_closed_forms():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 6, generator=generator)).Q
    basis = torch.linalg.qr(basis - basis.mean(0)).Q
    equal = basis[:, :5] @ torch.linalg.qr(torch.randn(9, 5, generator=generator)).Q.T
    assert collapse.effective_rank(equal + 7) == pytest.approx(5, rel=1e-4)
    shares = torch.tensor([0.5, 0.25, 0.25])
    features = basis[:, :3] * shares
    expected = float(torch.exp(-(shares * shares.log()).sum()))
    assert collapse.effective_rank(features) == pytest.approx(expected, rel=1e-4)
    assert collapse.spread(features) == pytest.approx(float(shares.mean()) / 40**0.5, rel=1e-4)
    assert collapse.effective_rank(torch.ones(4, 3)) == 0
