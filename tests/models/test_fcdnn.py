import pytest
import torch

from flatbit import models


@pytest.mark.parametrize(
    ("width", "depth", "weights", "params"), [(200, 4, 80_800, 81_402), (128, 6, 66_048, 66_690), (128, 2, 512, 642)]
)
def test_counts_of_the_paper(width, depth, weights, params):
    model = models.build("fcdnn", width=width, depth=depth)
    assert sum(p.numel() for p in model.parameters() if p.ndim == 2) == weights
    assert sum(p.numel() for p in model.parameters()) == params
    assert sum(p.ndim == 2 for p in model.parameters()) == depth


@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_forward_is_the_equation(block, depth):
    model = models.build("fcdnn", width=7, depth=depth, in_features=3, num_classes=4, block=block).double()
    weights = [p for p in model.parameters() if p.ndim == 2]
    biases = [p for p in model.parameters() if p.ndim == 1]
    x = torch.randn(5, 3, dtype=torch.double)
    h = (x @ weights[0].T + biases[0]).clamp_min(0)
    for w, b in zip(weights[1:-1], biases[1:-1], strict=True):
        phi = (h @ w.T + b).clamp_min(0)
        h = 0.5 * (h + phi) if block == "residual" else phi
    torch.testing.assert_close(model(x), h @ weights[-1].T + biases[-1])


def test_the_default_is_the_papers_128_4_on_the_plane():
    linears = [m for m in models.build("fcdnn").modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(2, 128), (128, 128), (128, 128), (128, 2)]


def test_images_are_flattened():
    model = models.build("fcdnn", in_features=12, num_classes=3)
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(model(x), model(x.reshape(5, 12)))


def test_the_residual_sum_passes_a_module_that_a_policy_can_name():
    names = dict(models.build("fcdnn", depth=4, block="residual").named_modules())
    assert [name for name in names if name.endswith("residual")] == ["hidden.0.residual", "hidden.1.residual"]
    assert not [name for name in dict(models.build("fcdnn").named_modules()) if name.endswith("residual")]


def test_too_shallow_is_refused():
    with pytest.raises(ValueError, match="depth=1: expected at least 2"):
        models.build("fcdnn", depth=1)


def test_unknown_block_is_refused():
    with pytest.raises(ValueError, match="block='resid': expected 'plain' or 'residual'"):
        models.build("fcdnn", block="resid")
