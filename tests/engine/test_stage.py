"""Stages as runs leave them: captured, distilled, frozen, re-estimated, stopped, and gone on with exactly."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import flatbit as fb
from flatbit.engine import stage as stages
from flatbit.engine.loop import TrainingError
from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.run import read_run, run
from flatbit.quant.layers import quantizers_of
from flatbit.train.averaging import averaged
from flatbit.train.objective import Distillation
from flatbit.train.schedules import Cyclic
from flatbit.train.sharpness import Sharpness

from .test_run import FLOAT, POLICY, Killed, assert_same_run, kill_after, recipe, shades

CYCLES = Stage(
    name="retrain", epochs=5, lr=0.02, batch_size=12, policy=fb.policy("sqwa", weights=2), start="float",
    schedule=Cyclic(bottom=0.1, half=1), captures=(2, 4), evaluate_every=3, keep_captures=True,
)  # fmt: skip
AVERAGE = Stage(name="average", epochs=0, lr=0.1, start="retrain.average", reestimate_batches=3, batch_size=12)
AGAIN = replace(AVERAGE, name="requantized", policy=CYCLES.policy)
TUNED = replace(AGAIN, name="fine-tuned", epochs=1, lr=0.001, batch_size=12, reestimate_batches=0)
SQWA = (FLOAT, CYCLES, AVERAGE, AGAIN, TUNED)
SHARP = replace(
    CYCLES, policy=POLICY, fixed_weight_steps=True, sharpness=Sharpness(method="saq", rho=0.05),
    distillation=Distillation(), lipschitz=1e-3, freeze_batchnorm=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def sqwa(tmp_path_factory):
    """SQWA's five stages, uninterrupted."""
    torch.set_num_threads(1)
    return run(recipe(*SQWA), tmp_path_factory.mktemp("sqwa"))


def model_of(made, name):
    return fb.load(made.folder / "stages" / f"{name}.safetensors")


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
    epochs = sqwa.record["stages"]["retrain"]["epochs"]
    assert [numbers.get("capture") for numbers in epochs] == [None, 1, None, 2, None]
    assert ["test_top1" in numbers for numbers in epochs] == [False, True, True, True, True]  # evaluate_every=3
    assert all(name in sqwa.record["stages"] for name in ("average", "requantized", "fine-tuned"))


def test_what_reestimation_changes_is_reported(sqwa, tmp_path):
    (change,) = sqwa.record["stages"]["average"]["batchnorm"]
    assert change["step"] == "re-estimated from 3 batches"
    assert change["before"] == fb.evaluate(model_of(sqwa, "retrain.average"), shades().test_batches()).top1
    assert change["after"] == sqwa.record["stages"]["average"]["test"]["top1"]
    said = []
    run(recipe(FLOAT, replace(FLOAT, name="more", reestimate_batches=1)), tmp_path, say=said.append)
    assert sum("more: batch norm re-estimated from 1 batches: top-1 " in line for line in said) == 1


@pytest.mark.parametrize("saves", [3, 5, 6])
@pytest.mark.parametrize("cycles", [CYCLES, SHARP], ids=["sqwa", "crossed"])
def test_killed_among_captures_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, cycles, saves):
    torch.set_num_threads(1)
    whole = recipe(FLOAT, cycles, AVERAGE)
    kill_after(monkeypatch, stages, "save_checkpoint", saves)
    with pytest.raises(Killed):
        run(whole, tmp_path / "killed")
    monkeypatch.undo()
    torch.manual_seed(99)
    assert_same_run(run(whole, tmp_path / "killed", resume=True), run(whole, tmp_path / "whole"))


def test_swa_is_the_mean_of_float_captures(tmp_path):
    first = replace(FLOAT, epochs=3, captures=(2, 3), keep_captures=True)
    made = run(recipe(first, replace(AVERAGE, name="swa", start="float.average")), tmp_path)
    captures = [load_file(tmp_path / "stages" / f"float@{epoch}.safetensors") for epoch in (2, 3)]
    mean = load_file(tmp_path / "stages" / "swa.safetensors")
    for key in ("0.weight", "1.bias", "8.bias"):
        assert torch.allclose(mean[key], sum(capture[key] for capture in captures) / 2, atol=1e-7)
    assert made.record["stages"]["swa"]["test"]["convention"]["policy"] == "float"


def test_fixed_steps_stay_and_the_others_learn(tmp_path):
    made = run(recipe(FLOAT, replace(SHARP, name="w2a2", keep_captures=True)), tmp_path)
    early, late = (dict(quantizers_of(model_of(made, f"w2a2@{epoch}"))) for epoch in (2, 4))
    for name, quantizer in early.items():
        fixed = quantizer.site.role == "weight"
        assert torch.equal(next(quantizer.parameters()), next(late[name].parameters())) is fixed


def test_frozen_batch_norms_keep_their_statistics(tmp_path):
    made = run(
        recipe(FLOAT, replace(SHARP, name="w2a2", captures=(3, 5), keep_captures=True, evaluate_every=1)), tmp_path
    )
    at, after = (load_file(tmp_path / "stages" / f"w2a2@{epoch}.safetensors") for epoch in (3, 5))
    assert torch.equal(at["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(at["1.weight"], after["1.weight"])
    (change,) = made.record["stages"]["w2a2"]["batchnorm"]
    scores = [numbers["test_top1"] for numbers in made.record["stages"]["w2a2"]["epochs"]]
    assert change == {"step": "frozen, epoch 4 trained so", "before": scores[2], "after": scores[3]}


def test_a_closed_stage_leaves_no_perturbation(tmp_path):
    seen = []

    def objective(model, x, y):
        seen.append([q.perturbation is not None for _, q in quantizers_of(model)])
        logits = model(x)
        return F.cross_entropy(logits, y), logits

    made = run(recipe(FLOAT, replace(SHARP, name="w2a2", distillation=None, objective=objective)), tmp_path)
    assert any(seen[0])
    assert all(q.perturbation is None for _, q in quantizers_of(model_of(made, "w2a2")))


@pytest.mark.parametrize("teacher", ["start", "float", "folder", "file"])
def test_teachers_are_found(tmp_path, teacher):
    first = run(recipe(FLOAT), tmp_path / "teacher")
    name = {"folder": str(first.folder), "file": str(first.folder / "model.safetensors")}.get(teacher, teacher)
    taught = Stage(
        name="taught",
        epochs=1,
        lr=0.0,
        batch_size=12,
        start="float",
        distillation=Distillation(teacher=name, weight=1.0),
    )
    made = run(recipe(FLOAT, taught), tmp_path / "run")
    assert made.record["recipe"]["stages"][1]["distillation"]["teacher"] == name
    loss = made.record["stages"]["taught"]["epochs"][0]["train_loss"]
    assert 0 < loss < 0.5  # the same net, but for dropout and batch statistics


def silenced(model, x, y):
    """A net whose last layer is killed: every image gets the same answer."""
    model[8].weight.data.zero_()
    logits = model(x)
    return 0 * F.cross_entropy(logits, y), logits


def test_a_net_that_says_the_same_of_all_images_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match="after epoch 3 the net still gives every image the same answer"):
        run(recipe(FLOAT, replace(FLOAT, name="dies", epochs=9, start="float", objective=silenced)), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert list(record["stages"]) == ["float"]
    assert record["failure"]["stage"] == "dies"
    assert "same answer" in record["failure"]["message"]


def test_a_net_that_comes_back_goes_on_and_one_that_ends_so_does_not(tmp_path):
    calls = []

    def back(model, x, y):
        calls.append(1)
        return (silenced if len(calls) <= 6 else fb.train.cross_entropy)(model, x, y)

    lively = replace(FLOAT, name="lives", epochs=3, start="float", lr=0.2, objective=back)
    run(recipe(FLOAT, lively), tmp_path / "lives")
    with pytest.raises(TrainingError, match="after epoch 2 the net still gives"):
        run(recipe(FLOAT, replace(lively, name="dies", epochs=2, objective=silenced)), tmp_path / "dies")


def test_what_was_wrong_is_in_the_record_and_goes_with_the_next_attempt(tmp_path, monkeypatch):
    def broken(base, **settings):
        return lambda model, x, y: (base(model, x, y)[0] * float("nan"), model(x))

    with monkeypatch.context() as patched:
        patched.setattr(stages, "objective_of", broken)
        with pytest.raises(TrainingError, match="the loss is not finite"):
            run(recipe(FLOAT), tmp_path)
    failure = read_run(tmp_path).record["failure"]
    assert {"layer", "problem", "evidence", "mend"} == failure["findings"][0].keys()
    assert failure["findings"][0]["problem"] == "not finite"
    assert "failure" not in run(recipe(FLOAT), tmp_path, resume=True).record


def test_a_huge_loss_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "DIVERGED", 0.1)
    with pytest.raises(
        TrainingError,
        match=r"in epoch 1 the mean loss is .* at first \(lr 0\.05\): lr 0\.05 is too high\. `flatbit doctor",
    ):
        run(recipe(FLOAT), tmp_path)


def test_an_average_needs_captures():
    with pytest.raises(ValueError, match=r"starts from 'float\.average', which is no earlier stage"):
        Recipe(name="r", model="fcdnn", data="digits", stages=(FLOAT, replace(AVERAGE, start="float.average")))


@pytest.mark.parametrize("bits", [{"weights": 32, "activations": 2}, {"weights": 8, "activations": 2}])
def test_an_average_without_a_finer_grid_stays_quantized(tmp_path, bits):
    policy = fb.policy("uniq", **bits)
    cycles = replace(CYCLES, policy=policy, fixed_weight_steps=True, keep_captures=False)
    made = run(recipe(FLOAT, cycles, AVERAGE, replace(AGAIN, policy=policy)), tmp_path)
    conventions = [made.record["stages"][name]["test"]["convention"] for name in ("retrain", "average", "requantized")]
    assert conventions[0] == conventions[1] == conventions[2]
    states = [dict(quantizers_of(model_of(made, name))) for name in ("average", "requantized")]
    for name, quantizer in states[0].items():
        assert torch.equal(next(quantizer.parameters()), next(states[1][name].parameters()))  # learned steps are kept


def test_a_stage_of_the_same_policy_goes_on_with_its_steps(tmp_path):
    first = Stage(name="w2a2", epochs=1, lr=0.05, batch_size=12, policy=POLICY, start="float")
    made = run(recipe(FLOAT, first, replace(first, name="on", epochs=0, start="w2a2")), tmp_path)
    assert made.record["stages"]["on"]["test"]["loss"] == made.record["stages"]["w2a2"]["test"]["loss"]


def test_new_activations_of_a_requantized_average_are_calibrated(tmp_path):
    again = replace(AGAIN, policy=fb.policy("sqwa", weights=2, activations=4, activation_method="pact"))
    made = run(recipe(FLOAT, CYCLES, again), tmp_path)
    assert made.record["stages"]["requantized"]["test"]["convention"]["inner"] == "W2/A4"


def test_a_teacher_that_cannot_read_the_images_is_named(tmp_path):
    teacher = fb.models.build("resnet8", first_width=2)  # three channels
    fb.save(teacher, tmp_path / "teacher.safetensors")
    taught = replace(FLOAT, name="taught", distillation=Distillation(teacher=str(tmp_path / "teacher.safetensors")))
    with pytest.raises(ValueError, match=r"its teacher ResNetCifar cannot read images of shape \(1, 8, 8\)"):
        run(recipe(FLOAT, taught), tmp_path / "run")
