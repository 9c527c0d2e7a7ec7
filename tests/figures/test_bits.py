import pytest

from flatbit.figures.bits import bits_figure, frontier_figure
from flatbit.search.allocation import Allocation
from flatbit.search.costs import Price


def point(bitops, loss):
    return Allocation(bits={"a": 2}, loss=loss, price=Price(bitops=bitops), bound=loss)


def test_a_bar_per_layer_and_the_uniform_net_as_a_line():
    figure = bits_figure({"conv1": 4, "conv2": 2, "conv3": 5}, dict.fromkeys(("conv1", "conv2", "conv3"), 3), title="T")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [4, 2, 5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv1", "conv2", "conv3"]
    (line,) = axes.lines
    assert {*line.get_ydata()} == {3}
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (-0.5, 2.5)


def test_one_layer_alone():
    (axes,) = bits_figure({"a": 8}, {"a": 8}, title="T").axes
    assert len(axes.patches) == 1
    assert max(axes.get_yticks()) == 8


def test_the_frontier_with_the_uniform_nets_and_the_chosen_one():
    figure = frontier_figure(
        [point(1_000_000, 3.0), point(2_000_000, 1.0)], {2: (1.0, 3.5), 3: (2.5, 1.0)}, (2.0, 1.0), title="T",
        measure="loss",
    )  # fmt: skip
    (axes,) = figure.axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn["best of all (2)"] == ([1.0, 2.0], [3.0, 1.0])
    assert [pytest.approx(part) for part in drawn["uniform"]] == [[1.0, 2.5], [3.5, 1.0]]
    assert drawn["chosen"] == ([2.0], [1.0])
    assert {text.get_text() for text in axes.texts} >= {"2", "3"}
