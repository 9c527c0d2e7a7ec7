import re

import numpy as np
import pytest

from flatbit.analysis.mistakes import Misread
from flatbit.analysis.weights import WeightHistogram
from flatbit.figures import style as figure

POINTS = [
    ("float", "W32/A32", 100.0, 98.0, None),
    ("uniq", "W4/A4", 10.0, 97.5, 0.2),
    ("uniq", "W2/A2", 2.5, 96.0, 0.4),
]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def accuracy(points=POINTS):
    return figure.accuracy_against_cost(points, x_label="cost, MB", y_label="top-1, %", title="a title").axes[0]


def test_accuracy_has_one_line_per_method_in_order_of_cost():
    axes = accuracy()
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert lines == {"float": [[100.0, 98.0]], "uniq": [[2.5, 96.0], [10.0, 97.5]]}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float", "uniq"]


def test_accuracy_is_labelled():
    axes = accuracy()
    assert sorted(texts(axes)) == ["W2/A2", "W32/A32", "W4/A4"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("cost, MB", "top-1, %", "log")
    assert axes.get_title(loc="left") == "a title"


def test_accuracy_shows_the_spread():
    uniq = accuracy().containers[1]
    segments = uniq.lines[2][0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in segments], [[95.6, 96.4], [97.3, 97.7]])


def test_no_method_is_left_out_however_many_there_are():
    points = [(f"method {i}", f"W{i}", float(i + 1), 90.0, None) for i in range(15)]
    assert len(accuracy(points).containers) == 15


def test_learning_curves_have_a_line_per_seed_and_the_mean():
    curves = {
        "float": ([1, 2, 3], [[90.0, 95.0, 97.0], [92.0, 97.0, 99.0]]),
        "calibrated": ([], [[], []]),
        "w2": ([8], [[80.0], [82.0]]),
    }
    drawn = figure.learning_curves(curves, title="learning", y_label="top-1, %")
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["float", "w2"]  # no epochs, no panel
    lines = [line.get_ydata().tolist() for line in drawn.axes[0].lines]
    assert lines == [[90.0, 95.0, 97.0], [92.0, 97.0, 99.0], [91.0, 96.0, 98.0]]
    assert drawn.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    assert drawn.axes[1].lines[-1].get_marker() == "o"  # a single epoch is a point
    assert drawn.axes[1].lines[-1].get_xdata().tolist() == [8]


def histogram(levels):
    return WeightHistogram(
        layer=f"conv{levels}",
        edges=np.linspace(-1, 1, 5),
        counts=np.array([1, 3, 3, 1]),
        levels=np.linspace(-1, 1, levels),
        occupancy=np.full(levels, 1 / levels),
    )


@pytest.mark.parametrize("count", [1, 3, 7])
def test_weights_have_one_panel_per_layer(count):
    drawn = figure.weight_panels([histogram(4)] * count, title="weights")
    assert len(drawn.axes) == count
    assert drawn.axes[0].get_title(loc="left") == "conv4  (4 levels)"


def test_few_levels_are_as_high_as_their_share_and_many_are_ticks():
    few, many = figure.weight_panels([histogram(4), histogram(255)], title="weights").axes
    assert few.lines[0].get_xdata().tolist() == pytest.approx(np.linspace(-1, 1, 4))
    assert few.lines[0].get_ydata().tolist() == [1.0] * 4
    assert len(many.lines[0].get_xdata()) == 255
    assert max(many.lines[0].get_ydata()) < 0
    np.testing.assert_allclose(few.patches[0].get_data().values, [1 / 3, 1, 1, 1 / 3])


def wrong(n):
    index = np.arange(n)
    return Misread(index=index, labels=np.zeros(n, int), first=np.zeros(n, int), second=np.ones(n, int), num_samples=50)


def gallery(n, **settings):
    images = np.arange(50 * 4).reshape(50, 2, 2)
    return figure.misread_gallery(wrong(n), images, ["zero", "one"], first="float", second="W1/A1", **settings)


def test_gallery_says_truth_and_both_answers_wrong_ones_in_red():
    axes = gallery(3).axes[1]
    assert axes.get_title() == "is zero"
    right, mistaken = axes.texts
    assert (right.get_text(), mistaken.get_text()) == ("float: zero", "W1/A1: one")
    assert right.get_color() != mistaken.get_color() == "#c02929"
    np.testing.assert_array_equal(axes.images[0].get_array(), [[4, 5], [6, 7]])


@pytest.mark.parametrize(("n", "most", "shown"), [(3, 18, 3), (40, 18, 18), (40, 5, 5), (10, 18, 10)])
def test_gallery_is_as_long_as_asked(n, most, shown):
    assert len(gallery(n, most=most).axes) == shown


def test_gallery_names_answers_that_are_no_class_of_the_data_by_number():
    result = Misread(
        index=np.array([0]), labels=np.array([1]), first=np.array([1]), second=np.array([999]), num_samples=1
    )
    drawn = figure.misread_gallery(result, np.zeros((1, 2, 2)), ["zero", "one"], first="float", second="W4")
    assert [text.get_text() for text in drawn.axes[0].texts] == ["float: one", "W4: 999"]


def test_gallery_of_nothing_says_so():
    (axes,) = gallery(0).axes
    assert texts(axes) == ["Neither network misreads any of 50 images."]


def test_gallery_of_coloured_images():
    drawn = figure.misread_gallery(wrong(2), np.zeros((50, 2, 2, 3), np.uint8), "ab", first="a", second="b")
    assert drawn.axes[0].images[0].get_array().shape == (2, 2, 3)


def test_svg_is_one_element_that_needs_nothing():
    svg = figure.to_svg(gallery(2))
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", svg)
    assert "<text" not in svg  # outlines: no font has to be there
    assert "<dc:date>" not in svg


def test_the_same_figure_gives_the_same_svg():
    assert figure.to_svg(gallery(2)) == figure.to_svg(gallery(2))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("new/a.svg", b"<svg")])
def test_figures_are_written_by_their_ending(tmp_path, name, start):
    figure.write_figure(gallery(2), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert len(list((tmp_path / name).parent.iterdir())) == 1


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pdf: expected a name that ends in \.png or \.svg"):
        figure.write_figure(gallery(2), tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())
