import pytest
import torch

from flatbit.export.gate import check
from flatbit.export.verification import ExportError

from .cases import digits, network


@pytest.fixture(scope="module")
def model():
    return network("preresnet8", "uniq", 4, 4, first_width=4)


def test_values_that_are_not_finite_and_no_images_are_refused(model):
    with pytest.raises(ExportError, match="not finite"):
        check(model, lambda x: torch.full((len(x), 10), float("nan")), [(*digits(2)[:1], *digits(2))])
    with pytest.raises(ValueError, match="no images"):
        check(model, model, [])


def test_the_largest_difference_is_found(model):
    x, y = digits(5)

    def run(given):
        logits = model(given).clone()
        logits[3, 7] -= 0.25
        return logits

    found = check(model, run, [(x, x, y)])
    assert found.largest_at == (3, 7)
    assert found.largest == pytest.approx(0.25, rel=1e-5)
    assert found.identical == 4
