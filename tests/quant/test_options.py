import math

import pytest

from flatbit.quant.options import one_of, one_of_or_positive
from flatbit.quant.site import Site

SITE = Site(layer="stem", role="weight")


def test_words():
    assert one_of(SITE, "start", "mse", ("mse", "minmax")) == "mse"
    with pytest.raises(ValueError, match=r"weight of layer 'stem': start='max': expected 'mse' or 'minmax'"):
        one_of(SITE, "start", "max", ("mse", "minmax"))


@pytest.mark.parametrize("value", [0.1, 1, 1e9, "lsq"])
def test_positive_numbers_and_words(value):
    assert one_of_or_positive(SITE, "start", value, ("lsq",)) == value


@pytest.mark.parametrize("value", [0, 0.0, -1, True, False, None, math.nan, math.inf, "x", [1.0]])
def test_everything_else_is_refused(value):
    with pytest.raises(ValueError, match=r"'stem': start=.*: expected 'lsq' or a positive number"):
        one_of_or_positive(SITE, "start", value, ("lsq",))
