import numpy as np
import pytest

from flatbit.figures.accuracy import Point, accuracy_against_cost, learning_curves
from flatbit.figures.style import colors_of


def point(method, label, cost, score, spread=None, line=0):
    return Point(method=method, line=line, label=label, cost=cost, score=score, spread=spread)


POINTS = [
    point("float", "W32/A32", 100.0, 98.0),
    point("uniq", "W4/A4", 10.0, 97.5, 0.2),
    point("uniq", "W2/A2", 2.5, 96.0, 0.4),
]


def drawn(points=POINTS):
    colors = colors_of(each.method for each in points)
    return accuracy_against_cost(points, colors, x_label="cost, MB", y_label="top-1, %", title="a title")


def accuracy(points=POINTS):
    return drawn(points).axes[0]


def test_accuracy_has_one_line_per_method_in_order_of_cost():
    axes = accuracy()
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert lines == {"float": [[100.0, 98.0]], "uniq": [[2.5, 96.0], [10.0, 97.5]]}
    assert [text.get_text() for text in drawn().legends[0].get_texts()] == ["float", "uniq"]


def test_points_of_unlike_convention_are_not_joined_and_share_a_colour():
    figure = drawn([*POINTS, point("uniq", "W1/A1, float edges", 5.0, 95.0, line=1)])
    lines = [c.lines[0] for c in figure.axes[0].containers if c.get_label() == "uniq"]
    assert sorted(len(line.get_xdata()) for line in lines) == [1, 2]
    assert len({line.get_color() for line in lines}) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["float", "uniq"]


@pytest.mark.parametrize("cost", [1.0, 3.0, 300.0, 1000.0])
def test_labels_stay_inside_the_figure(cost):
    figure = drawn([*POINTS, point("dq", "mixed W2-6/A3-5, float edges", cost, 97.0), point("uniq", "x", 1000.0, 90.0)])
    figure.canvas.draw()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.width, text


def test_accuracy_is_labelled():
    axes = accuracy()
    assert sorted(text.get_text() for text in axes.texts) == ["W2/A2", "W32/A32", "W4/A4"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("cost, MB", "top-1, %", "log")
    assert axes.get_title(loc="left") == "a title"


def test_accuracy_shows_the_spread():
    uniq = next(c for c in accuracy().containers if c.get_label() == "uniq")
    bars = uniq.lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[95.6, 96.4], [97.3, 97.7]])


def test_no_method_is_left_out_however_many_there_are():
    points = [point(f"method {i}", f"W{i}", float(i + 1), 90.0) for i in range(65)]
    assert len(accuracy(points).containers) == 65


def test_learning_curves_have_a_line_per_seed_and_the_mean():
    curves = {
        "float": ([1, 2, 3], [[90.0, 95.0, 97.0], [92.0, 97.0, 99.0]]),
        "calibrated": ([], [[], []]),
        "w2": ([8], [[80.0], [82.0]]),
    }
    colors = {"float": "#112233", "calibrated": "#223344", "w2": "#334455"}
    drawn = learning_curves(curves, colors, title="learning", y_label="top-1, %")
    assert drawn.axes[1].lines[0].get_color() == "#334455"
    assert drawn.get_suptitle() == "learning"
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["float", "w2"]  # no epochs, no panel
    lines = [line.get_ydata().tolist() for line in drawn.axes[0].lines]
    assert lines == [[90.0, 95.0, 97.0], [92.0, 97.0, 99.0], [91.0, 96.0, 98.0]]
    assert drawn.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    assert drawn.axes[1].lines[-1].get_marker() == "o"  # a single epoch is a point
    assert drawn.axes[1].lines[-1].get_xdata().tolist() == [8]
