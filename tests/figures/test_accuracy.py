import numpy as np

from flatbit.figures.accuracy import accuracy_against_cost, learning_curves

POINTS = [
    ("float", "W32/A32", 100.0, 98.0, None),
    ("uniq", "W4/A4", 10.0, 97.5, 0.2),
    ("uniq", "W2/A2", 2.5, 96.0, 0.4),
]


def accuracy(points=POINTS):
    return accuracy_against_cost(points, x_label="cost, MB", y_label="top-1, %", title="a title").axes[0]


def test_accuracy_has_one_line_per_method_in_order_of_cost():
    axes = accuracy()
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert lines == {"float": [[100.0, 98.0]], "uniq": [[2.5, 96.0], [10.0, 97.5]]}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float", "uniq"]


def test_accuracy_is_labelled():
    axes = accuracy()
    assert sorted(text.get_text() for text in axes.texts) == ["W2/A2", "W32/A32", "W4/A4"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("cost, MB", "top-1, %", "log")
    assert axes.get_title(loc="left") == "a title"


def test_accuracy_shows_the_spread():
    uniq = accuracy().containers[1]
    bars = uniq.lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[95.6, 96.4], [97.3, 97.7]])


def test_no_method_is_left_out_however_many_there_are():
    points = [(f"method {i}", f"W{i}", float(i + 1), 90.0, None) for i in range(65)]
    assert len(accuracy(points).containers) == 65


def test_learning_curves_have_a_line_per_seed_and_the_mean():
    curves = {
        "float": ([1, 2, 3], [[90.0, 95.0, 97.0], [92.0, 97.0, 99.0]]),
        "calibrated": ([], [[], []]),
        "w2": ([8], [[80.0], [82.0]]),
    }
    drawn = learning_curves(curves, title="learning", y_label="top-1, %")
    assert drawn.get_suptitle() == "learning"
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["float", "w2"]  # no epochs, no panel
    lines = [line.get_ydata().tolist() for line in drawn.axes[0].lines]
    assert lines == [[90.0, 95.0, 97.0], [92.0, 97.0, 99.0], [91.0, 96.0, 98.0]]
    assert drawn.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    assert drawn.axes[1].lines[-1].get_marker() == "o"  # a single epoch is a point
    assert drawn.axes[1].lines[-1].get_xdata().tolist() == [8]
