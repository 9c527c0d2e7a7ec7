import pytest

from flatbit.figures import ANALYSES, Analyses, Analysis
from flatbit.registry import Registry


def compute(model, data):
    return data


def draw(result, *, title):
    return title


def test_the_files_of_the_folder_are_scanned():
    assert isinstance(ANALYSES, Registry)
    assert {"curvature", "decision", "mistakes", "segmentation", "weights"} <= set(ANALYSES.names())


def test_two_functions_make_an_analysis():
    registry = Analyses("analysis", "flatbit.figures.style")
    registry.add("mine", compute, draw)
    assert registry.add("yours", compute, draw, needs_data=False) is registry._objects["yours"]
    assert registry._objects["mine"] == Analysis(compute=compute, draw=draw, needs_data=True)
    assert not registry._objects["yours"].needs_data


def test_a_name_is_registered_once():
    registry = Analyses("analysis", "nowhere")
    registry.add("mine", compute, draw)
    registry.add("mine", compute, draw)  # anew, as in a notebook
    with pytest.raises(ValueError, match="analysis 'mine' is registered twice: rename"):
        registry.add("mine", draw, compute)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown analysis 'curvatur': did you mean curvature\?"):
        ANALYSES.get("curvatur")
