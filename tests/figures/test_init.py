import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from flatbit.figures import ANALYSES, Analyses, Analysis
from flatbit.registry import Registry


def compute(model, data):
    return data


def draw(result, *, title):
    return title


def test_the_files_of_the_folder_are_scanned():
    assert isinstance(ANALYSES, Registry)
    assert {"curvature", "decision", "mistakes", "segmentation", "plane", "landscape", "weights"} <= set(
        ANALYSES.names()
    )


def test_two_functions_make_an_analysis():
    registry = Analyses("analysis", "flatbit.figures.style")
    registry.add("mine", compute, draw)
    assert registry.add("yours", compute, draw, needs_data=False) is registry._objects["yours"]
    assert registry._objects["mine"] == Analysis(compute=compute, draw=draw, needs_data=True)
    assert not registry._objects["yours"].needs_data


@dataclass(frozen=True)
class Found:
    size: int


def sized(models: dict, data: object, *, points: int = 3, span: float | None = None, keep: Path | None = None) -> Found:
    return Found(points)


def test_its_settings_are_what_compute_takes_by_keyword():
    analysis = Analysis(compute=sized, draw=draw, several=True)
    assert analysis.settings({}) == {"points": 3, "span": None}
    assert analysis.settings({"points": 5, "span": 1}) == {"points": 5, "span": 1}
    for given, says in (
        ({"point": 5}, "no setting 'point': did you mean points"),
        ({"keep": "a"}, "no setting 'keep': known: points, span"),
        ({"models": "a"}, "no setting 'models'"),
        ({"points": "many"}, "points='many': expected a whole number"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            analysis.settings(given)
    with pytest.raises(ValueError, match="no setting 'points': it has none"):
        Analysis(compute=compute, draw=draw).settings({"points": 5})


def test_it_knows_whether_parts_are_kept_and_what_is_found():
    keeping, plain = (Analysis(compute=function, draw=draw) for function in (sized, compute))
    assert (keeping.keeps, keeping.result) == (True, Found)
    assert (plain.keeps, plain.result) == (False, None)


def test_a_name_is_registered_once():
    registry = Analyses("analysis", "nowhere")
    registry.add("mine", compute, draw)
    registry.add("mine", compute, draw)  # anew, as in a notebook
    with pytest.raises(ValueError, match="analysis 'mine' is registered twice: rename"):
        registry.add("mine", draw, compute)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown analysis 'curvatur': did you mean curvature\?"):
        ANALYSES.get("curvatur")
