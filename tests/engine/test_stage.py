"""Stages as runs leave them: captured, distilled, frozen, re-estimated, stopped, and gone on with exactly."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import flatbit as fb
from flatbit.engine import read_run
from flatbit.engine import stage as stages
from flatbit.engine.loop import TrainingError
from flatbit.engine.measuring import measure
from flatbit.engine.recipe import Stage
from flatbit.engine.record import BatchNormChange
from flatbit.engine.stage import descend, keep, optimizer_of, prepare, quantize_for_
from flatbit.quant.table import quantizers_of
from flatbit.reference import From
from flatbit.train.averaging import averaged
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation
from flatbit.train.sharpness import Sharpness, SharpnessAware

from .cases import (
    AGAIN,
    AVERAGE,
    BEGIN,
    CYCLES,
    FLOAT,
    POLICY,
    QUANTIZED,
    SHARP,
    SQWA,
    Killed,
    Silenced,
    Watching,
    assert_same_run,
    kill_after,
    model_of,
    net,
    ran,
    recipe,
    shades,
    still,
)


@pytest.fixture(scope="module")
def sqwa(tmp_path_factory):
    """SQWA's five stages, uninterrupted."""
    torch.set_num_threads(1)
    return ran(recipe(*SQWA), tmp_path_factory.mktemp("sqwa"))


@pytest.fixture(autouse=True)
def _nothing_seen():
    Silenced.calls.clear()
    Watching.seen.clear()


# The parts of a stage, one by one


def test_prepare_quantizes_calibrates_and_makes_what_the_stage_works_with(tmp_path):
    model = net()
    work = prepare(model, SHARP, shades(), tmp_path, seed=0)
    assert work.model is model
    assert all(quantizer.calibrated for _, quantizer in quantizers_of(model))
    assert isinstance(work.optimizer, SharpnessAware)
    assert (work.losses, work.position.epoch, work.average.count) == (SHARP.losses, 0, 0)
    assert [len(x) for x, _ in work.batches] == [12, 12, 12]
    assert [len(x) for x, _ in work.test] == [12]
    assert not any(tmp_path.iterdir())
    assert prepare(net(), FLOAT, shades(), tmp_path, seed=0).average is None


def test_the_parts_of_a_stage_in_a_row_are_the_stage(tmp_path):
    whole = ran(recipe(FLOAT), tmp_path / "whole").record.stages["float"]
    torch.manual_seed(0)
    model = net().to(memory_format=torch.channels_last)
    work = prepare(model, FLOAT, shades(), tmp_path, seed=0)
    last = descend(work)
    entry = measure(work, last)
    assert entry.test == last == whole.test
    assert [epoch.train_loss for epoch in entry.epochs] == [epoch.train_loss for epoch in whole.epochs]
    assert entry.seconds == sum(epoch.seconds for epoch in entry.epochs)
    keep(work)
    assert fb.evaluate(model, work.test) == last
    assert (tmp_path / "stages" / "float.safetensors").is_file()


def test_measuring_scores_the_net_where_its_last_epoch_is_not_at_hand(tmp_path):
    work = prepare(net(), FLOAT, shades(), tmp_path, seed=0)
    last = descend(work)
    assert measure(work, None) == measure(work, last)


def test_the_optimizer_has_the_stages_settings():
    made = optimizer_of(net(), replace(FLOAT, optimizer=fb.train.optimizers.Adam(), weight_decay=0.3))
    assert isinstance(made, torch.optim.Adam)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.05, 0.3)
    flat = Sharpness(method="asam", rho=0.2, eta=0.5, perturb="weights_only", batchnorm="update", shard=4)
    sharp = optimizer_of(net(), replace(FLOAT, sharpness=flat))
    assert sharp.settings == replace(flat, shard=None)  # shards are the loop's part


# Captures and averages


def test_the_average_is_that_of_the_captures_that_were_kept(sqwa):
    captures = [model_of(sqwa, f"retrain@{epoch}") for epoch in (2, 4)]
    mean = torch.stack([capture[4].quantized_weight() for capture in captures]).mean(0)
    average = model_of(sqwa, "retrain.average")
    assert averaged(average)
    assert torch.allclose(average[4].quantized_weight(), mean, atol=1e-7)
    assert model_of(sqwa, "average")[4].weight_quantizer.bit_width() == 3  # two ternary captures: five levels


def test_the_average_is_requantized_to_the_policys_bits_and_tuned(sqwa):
    for name in ("requantized", "fine-tuned"):
        model = model_of(sqwa, name)
        assert not averaged(model)
        assert model[4].weight_quantizer.bit_width() == 2
    average, again = model_of(sqwa, "average"), model_of(sqwa, "requantized")
    assert torch.equal(again[4].weight, average[4].weight)  # latent weights are the average


def test_every_intermediate_is_scored(sqwa):
    epochs = sqwa.record.stages["retrain"].epochs
    assert [epoch.capture for epoch in epochs] == [None, 1, None, 2, None]
    assert [epoch.test_top1 is not None for epoch in epochs] == [False, True, True, True, True]  # evaluate_every=3
    assert all(name in sqwa.record.stages for name in ("average", "requantized", "fine-tuned"))


def test_what_reestimation_changes_is_reported(sqwa, tmp_path):
    (change,) = sqwa.record.stages["average"].batchnorm
    assert change.step == "re-estimated from 3 batches"
    assert change.before == fb.evaluate(model_of(sqwa, "retrain.average"), shades().test_batches()).top1
    assert change.after == sqwa.record.stages["average"].test.top1
    said = []
    ran(recipe(FLOAT, replace(FLOAT, name="more", reestimate_batches=1)), tmp_path, say=said.append)
    assert sum("more: batch norm re-estimated from 1 batches: " in line for line in said) == 1


@pytest.mark.parametrize("saves", [3, 5, 6])
@pytest.mark.parametrize("cycles", [CYCLES, SHARP], ids=["sqwa", "crossed"])
def test_killed_among_captures_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, cycles, saves):
    torch.set_num_threads(1)
    whole = recipe(FLOAT, cycles, AVERAGE)
    kill_after(monkeypatch, stages, "save_checkpoint", saves)
    with pytest.raises(Killed):
        ran(whole, tmp_path / "killed")
    monkeypatch.undo()
    torch.manual_seed(99)
    assert_same_run(ran(whole, tmp_path / "killed", resume=True), ran(whole, tmp_path / "whole"))


def test_swa_is_the_mean_of_float_captures(tmp_path):
    first = replace(FLOAT, epochs=3, captures=(2, 3), keep_captures=True)
    made = ran(recipe(first, replace(AVERAGE, name="swa", start=From.stage("float", average=True))), tmp_path)
    captures = [load_file(tmp_path / "stages" / f"float@{epoch}.safetensors") for epoch in (2, 3)]
    mean = load_file(tmp_path / "stages" / "swa.safetensors")
    for key in ("0.weight", "1.bias", "8.bias"):
        assert torch.allclose(mean[key], sum(capture[key] for capture in captures) / 2, atol=1e-7)
    assert made.record.stages["swa"].test.convention.policy == "float"


@pytest.mark.parametrize("bits", [{"weights": 32, "activations": 2}, {"weights": 8, "activations": 2}])
def test_an_average_without_a_finer_grid_stays_quantized(tmp_path, bits):
    policy = fb.policy("uniq", **bits)
    cycles = replace(CYCLES, policy=policy, fixed_weight_steps=True, keep_captures=False)
    made = ran(recipe(FLOAT, cycles, AVERAGE, replace(AGAIN, policy=policy)), tmp_path)
    conventions = [made.record.stages[name].test.convention for name in ("retrain", "average", "requantized")]
    assert conventions[0] == conventions[1] == conventions[2]
    states = [dict(quantizers_of(model_of(made, name))) for name in ("average", "requantized")]
    for name, quantizer in states[0].items():
        assert torch.equal(next(quantizer.parameters()), next(states[1][name].parameters()))  # learned steps are kept


def test_new_activations_of_a_requantized_average_are_calibrated(tmp_path):
    again = replace(AGAIN, policy=fb.policy("sqwa", weights=2, activations=4, activation_method="pact"))
    made = ran(recipe(FLOAT, CYCLES, again), tmp_path)
    assert made.record.stages["requantized"].test.convention.inner == "W2/A4"


def test_a_stage_after_the_average_keeps_its_grid_too(tmp_path):
    """An average is what it is until a policy says otherwise."""
    after = Stage(name="after", epochs=0, start=From.stage("average"), batch_size=12)
    made = ran(recipe(FLOAT, CYCLES, AVERAGE, after), tmp_path)
    assert made.record.stages["after"].test == made.record.stages["average"].test


def test_a_stage_of_the_same_policy_goes_on_with_its_steps(tmp_path):
    first = Stage(name="w2a2", epochs=1, lr=0.05, batch_size=12, policy=POLICY, start=BEGIN)
    made = ran(recipe(FLOAT, first, still(first, name="on", start=From.stage("w2a2"))), tmp_path)
    assert made.record.stages["on"].test == made.record.stages["w2a2"].test


def test_a_stage_of_another_policy_starts_from_the_float_weights(tmp_path):
    first = still(QUANTIZED, name="w2a2")
    other = still(QUANTIZED, name="w4a4", policy=fb.policy("uniq", weights=4, activations=4))
    chained, fresh = (replace(other, start=start) for start in (From.stage("w2a2"), BEGIN))
    made = [ran(recipe(FLOAT, first, last), tmp_path / last.start.name) for last in (chained, fresh)]
    assert made[0].record.stages["w4a4"].test == made[1].record.stages["w4a4"].test


def test_a_start_with_new_quantizers_is_calibrated_and_one_without_is_not(monkeypatch):
    calls = []
    monkeypatch.setattr(stages, "calibrate_", lambda *args: calls.append(args[2]) or fb.calibrate_(*args))
    model, batches = net(), shades().train_batches(6, seed=0)
    for _ in range(2):
        quantize_for_(model, replace(QUANTIZED, calibration_batches=2), batches)
    assert calls == [2]


# Batch norms, steps, sharpness


def test_fixed_steps_stay_and_the_others_learn(tmp_path):
    made = ran(recipe(FLOAT, replace(SHARP, name="w2a2", keep_captures=True)), tmp_path)
    early, late = (dict(quantizers_of(model_of(made, f"w2a2@{epoch}"))) for epoch in (2, 4))
    for name, quantizer in early.items():
        fixed = quantizer.site.role == "weight"
        assert torch.equal(next(quantizer.parameters()), next(late[name].parameters())) is fixed


def test_frozen_batch_norms_keep_their_statistics(tmp_path):
    frozen = replace(SHARP, name="w2a2", captures=(3, 5), keep_captures=True, evaluate_every=1)
    made = ran(recipe(FLOAT, frozen), tmp_path)
    at, after = (load_file(tmp_path / "stages" / f"w2a2@{epoch}.safetensors") for epoch in (3, 5))
    assert torch.equal(at["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(at["1.weight"], after["1.weight"])
    (change,) = made.record.stages["w2a2"].batchnorm
    scores = [epoch.test_top1 for epoch in made.record.stages["w2a2"].epochs]
    assert change == BatchNormChange(step="frozen, epoch 4 trained so", before=scores[2], after=scores[3])


def test_the_epochs_around_freezing_are_scored_however_seldom_the_others_are(tmp_path):
    made = ran(recipe(replace(FLOAT, epochs=6, evaluate_every=6, freeze_batchnorm=3)), tmp_path)
    scored = [epoch.epoch for epoch in made.record.stages["float"].epochs if epoch.test_top1 is not None]
    assert scored == [3, 4, 6]


def test_batch_norm_is_reestimated_at_the_end_where_asked(tmp_path):
    ran(recipe(FLOAT, still(QUANTIZED, reestimate_batches=3)), tmp_path)
    model = fb.load(tmp_path / "model.safetensors")
    kept = model[5].running_mean.clone()
    batches = shades().train_batches(6, seed=0)
    assert fb.train.batchnorm.reestimate_batchnorm_(model, batches, 3) == 3
    torch.testing.assert_close(model[5].running_mean, kept)
    assert not torch.allclose(kept, load_file(tmp_path / "stages" / "float.safetensors")["5.running_mean"])


def test_a_closed_stage_leaves_no_perturbation(tmp_path):
    made = ran(recipe(FLOAT, replace(SHARP, name="w2a2", losses=(Watching(),))), tmp_path)
    assert any(Watching.seen[0])
    assert all(q.perturbation is None for _, q in quantizers_of(model_of(made, "w2a2")))


# Teachers


@pytest.mark.parametrize("teacher", ["stage", "folder", "file"])
def test_teachers_are_found(tmp_path, teacher):
    first = ran(recipe(FLOAT), tmp_path / "teacher")
    paths = {"folder": str(first.folder), "file": str(first.folder / "model.safetensors")}
    source = From.file(paths[teacher]) if teacher in paths else BEGIN
    term = Distillation(teacher=source, weight=1.0)
    taught = Stage(name="taught", epochs=1, lr=1e-30, batch_size=12, start=BEGIN, losses=(term,))
    made = ran(recipe(FLOAT, taught), tmp_path / "run")
    assert made.record.recipe.stages[1].losses == (term,)
    loss = made.record.stages["taught"].epochs[0].train_loss
    assert 0 < loss < 0.5  # the same net, but for dropout and batch statistics


def test_the_teacher_start_is_the_networks_own_start_whatever_the_stage_starts_from(tmp_path):
    """At no rate: a stage from the start meets itself, one from a trained stage does not."""
    term = Distillation(weight=1.0)
    taught = [
        Stage(name=name, epochs=1, lr=1e-30, batch_size=12, start=start, losses=(term,), freeze_batchnorm=0)
        for name, start in (("itself", From.start()), ("trained", BEGIN))
    ]
    made = ran(recipe(FLOAT, *taught), tmp_path).record.stages
    assert made["itself"].epochs[0].train_loss < 0.1 * made["trained"].epochs[0].train_loss


# Runs that cannot go on


def test_a_net_that_says_the_same_of_all_images_stops_the_run(tmp_path):
    dies = replace(FLOAT, name="dies", epochs=9, start=BEGIN, losses=(Silenced(),))
    with pytest.raises(TrainingError, match="after epoch 3 the net still gives every image the same answer"):
        ran(recipe(FLOAT, dies), tmp_path)
    record = read_run(tmp_path, trust=True).record
    assert list(record.stages) == ["float"]
    assert record.failure.stage == "dies"
    assert "same answer" in record.failure.message


def test_a_net_that_comes_back_goes_on_and_one_that_ends_so_does_not(tmp_path):
    lively = replace(FLOAT, name="lives", epochs=3, start=BEGIN, lr=0.2, losses=(Silenced(kills=6),))
    ran(recipe(FLOAT, lively), tmp_path / "lives")
    Silenced.calls.clear()
    with pytest.raises(TrainingError, match="after epoch 2 the net still gives"):
        ran(recipe(FLOAT, replace(lively, name="dies", epochs=2, losses=(Silenced(),))), tmp_path / "dies")


def test_what_was_wrong_is_in_the_record_and_goes_with_the_next_attempt(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(CrossEntropy, "__call__", lambda self, model, x, y, logits: logits.mean() * float("nan"))
        with pytest.raises(TrainingError, match="the loss is not finite"):
            ran(recipe(FLOAT), tmp_path)
    failure = read_run(tmp_path).record.failure
    assert failure.findings[0].problem == "not finite"
    assert all((failure.findings[0].layer, failure.findings[0].evidence, failure.findings[0].mend))
    assert ran(recipe(FLOAT), tmp_path, resume=True).record.failure is None


def test_a_huge_loss_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "DIVERGED", 0.1)
    with pytest.raises(
        TrainingError,
        match=r"in epoch 1 the mean loss is .* at first \(lr 0\.05\): lr 0\.05 is too high\. `flatbit doctor",
    ):
        ran(recipe(FLOAT), tmp_path)


def test_a_smoke_run_of_a_net_that_gives_one_answer_goes_through(tmp_path):
    """So few updates prove nothing of it."""
    dies = replace(FLOAT, name="dies", start=BEGIN, losses=(Silenced(),))
    assert "dies" in ran(recipe(FLOAT, dies), tmp_path, smoke=True).record.stages
