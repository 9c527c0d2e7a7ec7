import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit.analysis.schedules import schedule_curves
from flatbit.engine.recipe import Recipe, Stage
from flatbit.train.schedules import (
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Join,
    MultiStep,
    Polynomial,
)


def curve(**settings):
    stage = Stage(**{"name": "float", "epochs": 10, "lr": 0.1} | settings)
    (made,) = schedule_curves(Recipe(name="mine", model="resnet8", data="digits", stages=(stage,)))
    return made


def test_one_curve_per_stage_in_order():
    lengths = (("float", 2, 0.1), ("direct", 0, None), ("w2", 3, 0.1))
    stages = tuple(Stage(name=name, epochs=epochs, lr=lr) for name, epochs, lr in lengths)
    curves = schedule_curves(Recipe(name="mine", model="resnet8", data="digits", stages=stages))
    assert [(c.stage, c.epochs, len(c.lr) > 0) for c in curves] == [
        ("float", 2, True), ("direct", 0, False), ("w2", 3, True),
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 7, 250, 1500])
def test_every_whole_epoch_is_a_point_and_the_end_is_none(epochs):
    points = curve(epochs=epochs).epoch
    assert set(range(epochs)) <= set(points.tolist())
    assert points[-1] < epochs
    assert len(points) >= 1000
    assert (np.diff(points) > 0).all()


@given(
    st.integers(5, 300), st.sampled_from([MultiStep((2, 5)), Cosine(), Polynomial(), Cyclic(0.01), Exponential(0.9)])
)
def test_the_rate_is_that_of_the_training_loop(epochs, schedule):
    made = curve(epochs=epochs, lr=0.3, schedule=schedule)
    assert made.lr.tolist() == [0.3 * schedule(t, epochs) for t in made.epoch.tolist()]


def test_steps_by_hand():
    made = curve(schedule=MultiStep((4,)))
    assert made.lr[made.epoch < 4] == pytest.approx(0.1)
    assert made.lr[made.epoch >= 4] == pytest.approx(0.01)


def test_batches_of_faqs_doubling():
    """Spec 3.5: 256 -> 512 at 55, 1024 at 150, 2048 at 160; 105.6 epochs' worth of updates of 256."""
    made = curve(epochs=165, batch_size=256, accumulation=((55, 2), (150, 4), (160, 8)))
    assert made.batches == {0: 256, 55: 512, 150: 1024, 160: 2048}
    assert 165 * (256 / made.batch).mean() == pytest.approx(105.6, abs=0.05)


def test_a_batch_that_stays_is_one_entry_and_no_epochs_are_none():
    assert curve(batch_size=32).batches == {0: 32}
    assert curve(epochs=0, lr=None).batches == {}


def test_captures_of_sqwa_are_at_the_lowest_rate():
    schedule = Cyclic.of(0.01, cycle=6, between=2)
    made = curve(epochs=250, lr=0.01, schedule=schedule, captures=tuple(range(250, 213, -6)))
    assert made.captures == (214, 220, 226, 232, 238, 244, 250)
    assert made.capture_lr == pytest.approx(np.full(7, 1e-4))


def test_the_rate_of_a_capture_is_that_before_the_next_epoch():
    assert curve(schedule=Exponential(0.5), captures=(1, 2, 10)).capture_lr == pytest.approx([0.1, 0.05, 0.1 * 0.5**9])
    assert len(curve().capture_lr) == 0


@pytest.mark.parametrize(
    ("schedule", "wide"),
    [
        (Constant(), False),
        (Constant(0.0), False),
        (MultiStep((5,)), False),  # ten times only
        (MultiStep((5, 8)), True),
        (Cyclic(0.01), True),
        (Cyclic(0.1), False),
        (Exponential(0.5), True),
        (Cosine(), False),  # near 0 at its end only
        (Polynomial(), False),
        (Join(((0, MultiStep((2, 4))), (6, Constant(0.0)))), False),
    ],
)
def test_a_logarithmic_axis_where_the_rate_lives_on_one(schedule, wide):
    assert curve(schedule=schedule).is_wide == wide


def test_without_epochs_no_axis_is_wide():
    assert not curve(epochs=0, lr=None).is_wide
