import pytest

import flatbit as fb
from flatbit.analysis.curvature import Hessian
from flatbit.figures import ANALYSES
from flatbit.figures.curvature import hessian_figure


def found(*estimates, converged=True):
    return Hessian(
        eigenvalue=estimates[-1],
        iterations=len(estimates),
        converged=converged,
        num_samples=500,
        estimates=estimates,
    )


def test_every_iteration_is_a_point_and_the_result_is_said():
    drawn = hessian_figure(found(1.0, 3.0, 3.25), title="curvature")
    (axes,) = drawn.axes
    assert drawn.get_suptitle() == "curvature"
    assert axes.get_title(loc="left") == "top eigenvalue 3.25, settled after 3 iterations, 500 samples"
    assert axes.lines[1].get_xydata().tolist() == [[1, 1.0], [2, 3.0], [3, 3.25]]


def test_it_says_where_it_did_not_settle():
    (axes,) = hessian_figure(found(1.0, -2.0, converged=False), title="curvature").axes
    assert axes.get_title(loc="left").startswith("top eigenvalue -2, not settled after 2 iterations")


def test_the_loss_is_that_of_500_training_images():
    model = fb.models.build("preresnet8", in_channels=1, first_width=2)
    data = fb.data.load("digits")
    result = ANALYSES.get("curvature").compute(model, data)
    batches = [batch for batch, _ in zip(data.train_batches(50, seed=0, augment=False), range(10), strict=False)]
    assert result.num_samples == 500
    assert result.eigenvalue == pytest.approx(fb.analysis.hessian(model, batches).eigenvalue)


def test_or_of_all_where_there_are_fewer(blobs):
    model = fb.models.build("preresnet8", in_channels=1, first_width=2, num_classes=3)
    assert ANALYSES.get("curvature").compute(model, blobs).num_samples == 48
