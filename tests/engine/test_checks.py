"""What is refused is refused before any training."""

from dataclasses import replace

import pytest

import flatbit as fb
from flatbit.engine.recipe import Stage
from flatbit.engine.run import run
from flatbit.train.objective import Distillation
from flatbit.train.sharpness import Sharpness

from .test_run import FLOAT, POLICY, recipe
from .test_stage import CYCLES


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(FLOAT, name="sharp", sharpness=Sharpness(method="saq", rho=0.1)), "saq moves quantized weights, and"),
        (replace(CYCLES, policy=POLICY), "is learned, and captures must share one grid: give the stage fixed_weight"),
        (replace(CYCLES, policy=fb.policy("sqwa", weights=6), epochs=9, captures=(1, 2, 3, 4, 5)), "4 captures fit"),
        (replace(CYCLES, policy=fb.policy("uniq", weights=2, granularity="channel")), "one per output channel"),
    ],
)
@pytest.mark.parametrize("smoke", [True, False])
def test_what_cannot_be_done_is_said_before_training(tmp_path, monkeypatch, bad, message, smoke):
    monkeypatch.setattr("flatbit.engine.run.train_stage", None)
    with pytest.raises(ValueError, match=message):
        run(recipe(FLOAT, replace(bad, start="float")), tmp_path, smoke=smoke)


@pytest.mark.parametrize(
    ("teacher", "start", "message"),
    [("start", None, "which is untrained"), ("later", "float", "teacher 'later': expected start, an earlier stage's")],
)
def test_a_teacher_that_is_not_there_is_said_before_training(tmp_path, monkeypatch, teacher, start, message):
    monkeypatch.setattr("flatbit.engine.run.train_stage", None)
    taught = Stage(name="w", epochs=1, lr=0.1, start=start, distillation=Distillation(teacher=teacher))
    with pytest.raises(ValueError, match=message):
        run(recipe(FLOAT, taught, model="resnet8", data="digits"), tmp_path)


def test_a_run_that_is_not_finished_is_no_teacher(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{}")
    taught = replace(FLOAT, name="taught", distillation=Distillation(teacher=str(tmp_path / "half")))
    with pytest.raises(ValueError, match="is a run that is not finished: --resume it"):
        run(recipe(FLOAT, taught), tmp_path / "run")


def test_a_float_average_has_no_quantized_weights_to_move(tmp_path, monkeypatch):
    monkeypatch.setattr("flatbit.engine.run.train_stage", None)
    first = replace(FLOAT, captures=(1, 2))
    sharp = replace(FLOAT, name="sharp", start="float.average", sharpness=Sharpness(method="saq", rho=0.1))
    with pytest.raises(ValueError, match="stage 'sharp': saq moves quantized weights, and this stage has none"):
        run(recipe(first, sharp), tmp_path)


def test_a_net_of_the_users_own_may_come_trained(tmp_path):
    taught = replace(FLOAT, name="taught", start="none", distillation=Distillation(weight=1.0))
    run(recipe(Stage(name="none", epochs=0, lr=0.1), taught), tmp_path, smoke=True)  # its builder may load weights
    with pytest.raises(ValueError, match="'taught' learns from 'start', which is untrained"):
        run(recipe(Stage(name="none", epochs=0, lr=0.1), taught, model="resnet8", data="digits"), tmp_path / "ours")
