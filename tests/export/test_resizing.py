from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from flatbit.export.resizing import shares


@pytest.mark.parametrize("before", [1, 3, 8])
@pytest.mark.parametrize("after", [1, 2, 5, 12, 24])
@pytest.mark.parametrize(
    ("mode", "align_corners"), [("bilinear", False), ("bilinear", True), ("nearest", False), ("nearest-exact", False)]
)
def test_shares_are_what_torch_takes(before, after, mode, align_corners):
    taken, denominator = shares(before, after, mode, align_corners)
    assert (taken.sum(1) == denominator).all()
    x = torch.randn(2, 1, before, 6, dtype=torch.float64)
    settings = {"align_corners": align_corners} if mode == "bilinear" else {}
    theirs = F.interpolate(x, size=(after, 6), mode=mode, **settings)
    assert torch.allclose(taken.double() @ x / denominator, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_nearest_pixel_is_that_of_float32_images(mode):
    """Where a place lies on the edge of two pixels, float64 finds another one: 14 to 46, 2 to 41."""
    for before, after in [(14, 46), (28, 46), (26, 22), (6, 74), (2, 41)]:
        taken, denominator = shares(before, after, mode, False)
        x = torch.randn(1, 1, before, 3)
        assert torch.equal(taken.float() @ x / denominator, F.interpolate(x, size=(after, 3), mode=mode))


def test_bilinear_shares_are_exact():
    """Between two pixels, doubled: a quarter and three quarters, by the definition."""
    taken, denominator = shares(2, 4, "bilinear", False)
    assert [[Fraction(int(t), denominator) for t in row] for row in taken] == [
        [1, 0], [Fraction(3, 4), Fraction(1, 4)], [Fraction(1, 4), Fraction(3, 4)], [0, 1],
    ]  # fmt: skip
