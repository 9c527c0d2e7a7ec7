import numpy as np

from flatbit.analysis.decision import DecisionMap
from flatbit.figures.decision import decision_panel, decision_panels


def some_map(answers, truth):
    return DecisionMap(extent=(-1.0, 1.0, -1.0, 1.0), answers=np.array(answers), truth=np.array(truth))


def test_wrong_points_are_drawn_in_other_colours_and_points_outside_are_not_wrong():
    found = some_map([[0, 1], [0, 1]], [[0, 0], [1, -1]])
    drawn = decision_panels({"128-4": {"float": found}}, title="maps")
    (axes,) = drawn.axes
    assert axes.images[0].get_array().tolist() == [[0, 3], [2, 1]]
    assert axes.get_title() == f"float  {100 / 3:.1f} %"
    assert axes.get_ylabel() == "128-4"


def test_a_row_may_lack_a_column():
    one = some_map([[0]], [[0]])
    drawn = decision_panels({"a": {"float": one, "w2": one}, "b": {"w2": one}}, title="maps")
    shown = [axes.get_title() for axes in drawn.axes]
    assert shown == ["float  100.0 %", "w2  100.0 %", "", "w2  100.0 %"]


def test_a_map_alone_says_what_its_colours_mean():
    drawn = decision_panel(some_map([[0, 1]], [[0, 0]]), title="a map")
    (axes,) = drawn.axes
    assert (drawn.get_suptitle(), axes.get_title()) == ("a map", "right  50.0 %")
    assert drawn.texts[-1].get_text() == "Pale: right, or in no region. Dark: wrong."
