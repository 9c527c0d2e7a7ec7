"""Times before a run: that they add up and grow as they should. What the clock says is nobody's to assert."""

from dataclasses import replace

import pytest
import torch

import flatbit as fb
from flatbit.engine import plan, timing
from flatbit.engine.recipe import Stage
from flatbit.engine.timing import NEXT_TO_NOTHING, TIMED, Pace, Pass, estimate
from flatbit.reference import From
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.schedules import Cosine
from flatbit.train.sharpness import Sharpness

from .cases import AVERAGE, BEGIN, CYCLES, FLOAT, POLICY, QUANTIZED, SQWA, recipe, shades, still

PACE = Pace(
    step=1.0, check=0.5, calibration=Pass(first=3.0, each=2.0), test=Pass(first=10.0, each=5.0),
    statistics=Pass(first=7.0, each=1.0),
)  # fmt: skip


def seconds(stage, **counts):
    return PACE.seconds(stage, **({"steps": 8, "tests": 2, "calibrated": 0} | counts))


@pytest.fixture
def paced(monkeypatch):
    """The stages that are timed, and one pace for all of them."""
    stages = []
    monkeypatch.setattr(timing, "_pace", lambda model, stage, data, seed: stages.append(stage) or PACE)
    return stages


# Sums


def test_a_pass_takes_its_first_batch_and_each_further_one():
    assert [Pass(first=3.0, each=2.0).seconds(count) for count in (0, 1, 2, 5)] == [0.0, 3.0, 5.0, 11.0]


def test_a_pass_is_timed_on_a_batch_and_on_two(monkeypatch):
    taken = []
    monkeypatch.setattr(timing, "_timed", lambda act: act() or {1: 4.0, 2: 6.5}[taken[-1]])
    batches = shades().train_batches(12, seed=0)
    assert Pass.of(lambda some: taken.append(len(some)), batches) == Pass(first=4.0, each=2.5)
    assert taken == [1, 2]
    whole = shades().train_batches(36, seed=0)
    assert Pass.of(lambda some: taken.append(len(some)), whole) == Pass(first=4.0, each=0.0)


def test_a_further_batch_never_takes_less_than_nothing(monkeypatch):
    times = iter((2.0, 1.5))
    monkeypatch.setattr(timing, "_timed", lambda act: next(times))
    assert Pass.of(lambda some: None, shades().train_batches(12, seed=0)).each == 0.0


def test_training_is_steps_checks_and_looks_at_the_test_set():
    assert seconds(replace(FLOAT, epochs=1)) == 8 + 0.5 + 15
    assert seconds(replace(FLOAT, epochs=4)) == 4 * (8 + 0.5 + 15)
    assert seconds(replace(FLOAT, epochs=4, max_steps=3)) == 4 * (3 + 0.5 + 15)
    assert seconds(replace(FLOAT, epochs=4, max_steps=30)) == 4 * (8 + 0.5 + 15)


def test_looks_are_those_that_the_stage_takes():
    some = replace(FLOAT, epochs=10, evaluate_every=4)
    assert seconds(some) == 10 * 8.5 + 3 * 15  # after 4, 8 and 10
    assert seconds(replace(some, captures=(5, 8))) == 10 * 8.5 + 4 * 15
    assert seconds(replace(some, reestimate_batches=3)) == 10 * 8.5 + 4 * 15 + 9
    assert seconds(replace(some, freeze_batchnorm=2)) == 10 * 8.5 + 5 * 15  # after 2 and 3 as well


def test_a_stage_without_epochs_calibrates_and_looks_once():
    assert seconds(still(FLOAT)) == 15
    assert seconds(still(QUANTIZED), calibrated=4) == 15 + 9
    assert seconds(still(FLOAT, reestimate_batches=99)) == 2 * 15 + 14  # no more than there are


# Which stages are timed


def test_stages_that_differ_in_length_rate_and_start_alone_are_timed_once(paced):
    alike = (
        FLOAT, replace(FLOAT, name="b", epochs=5, lr=1.0, schedule=Cosine(), start=BEGIN, captures=(2, 5)),
        replace(FLOAT, name="c", max_steps=2, freeze_batchnorm=1, evaluate_every=2),
    )  # fmt: skip
    found = estimate(recipe(*alike), shades(), seed=0, device="cpu")
    assert len(paced) == 1
    assert list(found) == ["float", "b", "c"]
    assert found["b"] > found["float"] > found["c"] > 0


def test_stages_that_differ_otherwise_are_timed_each(paced):
    others = (
        FLOAT, QUANTIZED, replace(QUANTIZED, name="a", accumulation=()), still(QUANTIZED, name="still"),
        replace(FLOAT, name="b", batch_size=6), replace(FLOAT, name="c", sharpness=Sharpness(method="sam", rho=0.1)),
        replace(FLOAT, name="d", losses=taught(Distillation(teacher=BEGIN))),
    )  # fmt: skip
    estimate(recipe(*others), shades(), seed=0, device="cpu")
    assert len(paced) == len(others)


def test_calibration_counts_the_batches_that_it_asks_for(paced):
    made = still(QUANTIZED, batch_size=6)  # six batches; UNIQ asks for 100
    few, all_there = (
        estimate(recipe(FLOAT, replace(made, calibration_batches=n)), shades(), seed=0, device="cpu")["w2a2"]
        for n in (2, None)
    )
    assert all_there - few == pytest.approx(4 * PACE.calibration.each)


# In earnest


@pytest.mark.parametrize(
    "stages",
    [
        SQWA,
        (FLOAT, QUANTIZED, still(QUANTIZED, name="still", reestimate_batches=2)),
        (
            FLOAT,
            replace(
                QUANTIZED, name="sharp", sharpness=Sharpness(method="asaq", rho=0.1, shard=2),
                losses=taught(Distillation(teacher=BEGIN)), policy=POLICY,
            ),
        ),
        (FLOAT, replace(CYCLES, accumulation=((0, 3),)), replace(AVERAGE, name="mean")),
    ],
)  # fmt: skip
def test_every_stage_of_a_plan_has_a_time_and_the_plan_their_sum(stages):
    planned = plan(recipe(*stages), timing=True)
    times = [one.seconds for one in planned.stages]
    assert all(time > 0 for time in times)
    assert planned.seconds == sum(times)
    assert planned.as_dict()["seconds"] == planned.seconds
    assert "about" in str(planned)


def test_longer_stages_take_longer():
    made = recipe(FLOAT, replace(FLOAT, name="long", epochs=20))
    times = estimate(made, shades(), seed=0, device="cpu")
    assert times["long"] == pytest.approx(10 * times["float"])


def test_a_plan_that_is_not_timed_knows_no_time():
    planned = plan(recipe(FLOAT, QUANTIZED))
    assert planned.seconds is None
    assert [one.seconds for one in planned.stages] == [None, None]
    assert "about" not in str(planned)


def test_updates_that_are_timed_are_a_few_and_at_no_rate(monkeypatch):
    seen = []
    original = timing.train

    def counted(model, stage, batches, optimizer, **more):
        seen.append((stage.max_steps, stage.lr, stage.epochs))
        return original(model, stage, batches, optimizer, **more)

    monkeypatch.setattr(timing, "train", counted)
    estimate(recipe(replace(FLOAT, batch_size=4)), shades(), seed=0, device="cpu")
    estimate(recipe(replace(FLOAT, batch_size=4, accumulation=((1, 3),))), shades(), seed=0, device="cpu")
    assert seen == [(count, NEXT_TO_NOTHING, 1) for count in (1, TIMED, 3, 3 * TIMED)]


def test_the_largest_update_is_timed_wherever_it_stands():
    shrinks = replace(FLOAT, accumulation=((0, 3), (1, 2)))
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timing, "train", lambda model, stage, *args, **more: seen.append(stage.accumulation))
        estimate(recipe(shrinks), shades(), seed=0, device="cpu")
    assert seen == [((0, 3),), ((0, 3),)]


def test_a_teacher_of_a_file_is_timed_itself_and_another_is_the_net(tmp_path, monkeypatch):
    first = fb.engine.run(plan(recipe(FLOAT), smoke=True), tmp_path)
    learns = taught(Distillation(teacher=From.file(str(first.folder))))
    asked, loaded = [], timing.load
    monkeypatch.setattr(timing, "load", lambda path: asked.append(path) or loaded(path))
    estimate(recipe(replace(FLOAT, losses=learns)), shades(), seed=0, device="cpu")
    estimate(recipe(replace(FLOAT, losses=taught(Distillation()))), shades(), seed=0, device="cpu")
    assert asked == [tmp_path / "model.safetensors"]


def test_a_net_without_a_parameter_is_timed_too():
    assert plan(recipe(Stage(name="float", epochs=0), model=f"{__name__}:flat"), timing=True).seconds > 0


def flat():
    """A net without a parameter."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(3))


def test_the_random_state_is_as_before():
    before = torch.get_rng_state()
    estimate(recipe(FLOAT, QUANTIZED), shades(), seed=0, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
