import numpy as np
import pytest

from flatbit.analysis.plane import LossPlane
from flatbit.figures import ANALYSES
from flatbit.figures.plane import plane_figure
from flatbit.figures.style import write_figure

SURFACE = np.arange(12.0).reshape(3, 4) + 1


def found(**settings):
    usual = {
        "names": ("first", "second", "third"),
        "corners": np.array([[0, 0], [2, 0], [0.5, 1]]),
        "x": np.linspace(-1, 3, 4),
        "y": np.linspace(-1, 2, 3),
        "surface": {
            "train_loss": SURFACE, "train_accuracy": 90 + SURFACE / 2, "test_loss": 10 * SURFACE,
            "test_accuracy": 80 + SURFACE,
        },
        "at_models": {"test_accuracy": np.array([91.5, 92, 93.25])},
        "weights": "quantized", "refitted": False, "num_train": 2000, "num_test": 450,
    }  # fmt: skip
    return LossPlane(**usual | settings)


def note(drawn):
    return " ".join(drawn.texts[-1].get_text().split())


def test_four_panels_with_a_mark_at_every_model():
    drawn = plane_figure(found(), title="a plane")
    assert drawn.get_suptitle() == "a plane"
    assert [axes.get_title(loc="left") for axes in drawn.axes] == [
        "loss, 2,000 training images", "loss, 450 test images", "accuracy, %, 2,000 training images",
        "accuracy, %, 450 test images",
    ]  # fmt: skip
    for axes in drawn.axes:
        assert [tuple(line.get_xydata()[0]) for line in axes.lines] == [(0, 0), (2, 0), (0.5, 1)]
        assert len({line.get_marker() for line in axes.lines}) == 3
        assert axes.get_aspect() == 1
        sizes = [line.get_markersize() for line in axes.lines]
        assert sizes == sorted({*sizes}, reverse=True)  # none hides another


def test_a_low_plane_makes_a_low_figure():
    heights = [plane_figure(found(y=np.linspace(0, top, 3)), title="").get_figheight() for top in (4 / 3, 2, 4, 400)]
    assert heights == sorted(heights)
    assert heights[0] < 5
    assert heights[-1] < 10


def test_the_note_says_which_is_which_and_what_a_point_is():
    said = note(plane_figure(found(), title=""))
    assert "Circle: first, 91.50 % on the test images; square: second, 92.00 %" in said
    assert "Every point is a latent weight, rounded. Batch-norm statistics of each from 2,000 training images." in said
    assert "rounded, at steps fitted to it." in note(plane_figure(found(refitted=True), title=""))
    assert "none is rounded" in note(plane_figure(found(weights="float"), title=""))


@pytest.mark.parametrize("loss", [SURFACE * np.nan, SURFACE * 0 + 2, SURFACE - 1, np.where(SURFACE > 3, np.inf, 1.0)])
def test_any_surface_can_be_drawn(loss, tmp_path):
    surface = found().surface | {"train_loss": loss}
    write_figure(plane_figure(found(surface=surface), title="a"), tmp_path / "a.png")


def test_it_takes_several_models_and_keeps_its_parts():
    analysis = ANALYSES.get("plane")
    assert analysis.several
    assert analysis.keeps
    assert analysis.result is LossPlane
