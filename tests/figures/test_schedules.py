import pytest

from flatbit.analysis.schedules import schedule_curves
from flatbit.engine.recipe import Recipe, Stage
from flatbit.figures.schedules import schedule_figure
from flatbit.train.schedules import Cosine, Cyclic


def schedule(*stages):
    curves = schedule_curves(Recipe(name="mine", model="resnet8", data="digits", stages=stages))
    return schedule_figure(curves, title="mine: schedule")


CYCLES = Stage(name="retrain", epochs=12, lr=0.01, schedule=Cyclic(0.01), captures=(4, 10), batch_size=64)


def test_schedule_has_one_panel_per_stage_that_trains():
    drawn = schedule(Stage(name="float", epochs=3, lr=0.1), Stage(name="direct", epochs=0), CYCLES)
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles == ["float, batch 128", "retrain, batch 64"]
    assert (drawn.axes[0].get_xlabel(), drawn.axes[0].get_ylabel()) == ("epoch", "learning rate")


def test_rate_is_drawn_from_the_first_epoch_to_the_end_and_captures_on_it():
    (axes,) = schedule(CYCLES).axes
    rate, captures = axes.lines
    x, y = rate.get_data()
    assert (x[0], x[-1], y[-1]) == (0, 12, y[-2])
    assert rate.get_drawstyle() == "steps-post"
    assert captures.get_xdata() == pytest.approx([4, 10])
    assert captures.get_ydata() == pytest.approx([1e-4, 1e-4])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["capture"]
    assert axes.get_yscale() == "log"


def test_a_rate_that_needs_no_logarithm_starts_at_zero():
    (axes,) = schedule(Stage(name="float", epochs=5, lr=0.1, schedule=Cosine())).axes
    assert (axes.get_yscale(), axes.get_ylim()[0], axes.get_legend()) == ("linear", 0, None)


def test_a_batch_that_grows_has_an_axis_of_its_own():
    rate, batch = schedule(Stage(name="faq", epochs=9, lr=0.1, batch_size=256, accumulation=((3, 2), (7, 8)))).axes
    assert rate.get_title(loc="left") == "faq"
    assert sorted({*batch.lines[0].get_ydata()}) == [256, 512, 2048]
    assert [tick.get_text() for tick in batch.get_yticklabels()] == ["256", "512", "2048"]
    assert batch.get_ylabel() == "samples per update"


def test_a_schedule_of_nothing():
    with pytest.raises(ValueError, match="mine: schedule: nothing to draw: expected a stage with epochs"):
        schedule(Stage(name="direct", epochs=0))


def test_long_names_lose_their_middle():
    long = "a-very-long-stage-name-for-quantization-w2a2-number-11"
    (axes,) = schedule(Stage(name=long, epochs=2, lr=0.1)).axes
    assert axes.get_title(loc="left") == "a-very-long-stage-…ion-w2a2-number-11, batch 128"
