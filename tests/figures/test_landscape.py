import numpy as np
import pytest

from flatbit.analysis.landscape import Landscape, Landscapes
from flatbit.figures import ANALYSES
from flatbit.figures.landscape import landscape_figure

STEPS = np.linspace(-1, 1, 5)
BOWL = STEPS[:, None] ** 2 + 2 * STEPS**2 + 0.1


def found(*losses, split="train"):
    models = [Landscape(name=f"net {i}", loss=loss, accuracy=loss) for i, loss in enumerate(losses)]
    return Landscapes(models=tuple(models), steps=STEPS, split=split, num_images=2000)


def test_a_surface_per_model_and_slices_through_their_middle():
    drawn = landscape_figure(found(BOWL, 3 * BOWL), title="around nets")
    *surfaces, slices = drawn.axes
    assert drawn.get_suptitle() == "around nets"
    assert [axes.get_title(loc="left") for axes in surfaces] == ["net 0: loss 0.1", "net 1: loss 0.3"]
    assert slices.get_title(loc="left") == "slices, 2,000 training images"
    first, second, *_ = slices.lines
    np.testing.assert_allclose(first.get_ydata(), BOWL[2])
    np.testing.assert_allclose(second.get_ydata(), BOWL[:, 2])
    assert [line.get_linestyle() for line in slices.lines] == ["-", "--"] * 2
    assert [text.get_text() for text in slices.get_legend().get_texts()] == ["net 0", "net 1"]


def test_all_models_are_on_one_scale():
    *surfaces, _ = landscape_figure(found(BOWL, 30 * BOWL), title="").axes
    levels = [axes.collections[0].levels.tolist() for axes in surfaces]
    assert levels[0] == levels[1]
    assert (levels[0][0], levels[0][-1]) == pytest.approx((0.1, 30 * 3.1))


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 2), (2, 1, 3), (3, 2, 2), (4, 2, 3)])
def test_panels_fill_their_rows(count, rows, columns):
    place = landscape_figure(found(*[BOWL] * count), title="").axes[0].get_subplotspec().get_gridspec()
    assert (place.nrows, place.ncols) == (rows, columns)


def test_test_images_are_said():
    assert "2,000 test images" in landscape_figure(found(BOWL, split="test"), title="").axes[-1].get_title(loc="left")


def test_it_takes_several_models_and_keeps_its_parts():
    analysis = ANALYSES.get("landscape")
    assert analysis.several
    assert analysis.keeps
    assert analysis.result is Landscapes
