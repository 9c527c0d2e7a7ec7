from dataclasses import dataclass

import pytest
import torch
from torch import nn

from flatbit.train.losses import LossTerm, weighted_sum


@dataclass(frozen=True, kw_only=True, slots=True)
class Gives(LossTerm):
    value: object
    weight: float = 2.0
    name: str = "mine"

    def __call__(self, model, x, y, logits):
        return self.value


@pytest.mark.parametrize(
    ("value", "found"), [(torch.ones(3), r"shape \(3,\)"), (torch.ones(1), r"shape \(1,\)"), (0.5, "0.5")]
)
def test_a_term_that_is_no_scalar_is_named(value, found):
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=rf"mine \(Gives\) gave {found}: expected a tensor of shape \(\)"):
        weighted_sum([Gives(value=torch.tensor(1.0)), Gives(value=value)], nn.Identity(), x, x, x)


def test_the_sum_is_weighted_and_the_terms_are_not():
    x = torch.zeros(2, 2)
    terms = [Gives(value=torch.tensor(3.0)), Gives(value=torch.tensor(0.5), weight=4.0)]
    total, values = weighted_sum(terms, nn.Identity(), x, x, x)
    assert (float(total), [*map(float, values)]) == (8.0, [3.0, 0.5])


def test_terms_of_half_precision_are_summed_in_float():
    x = torch.zeros(2, 2)
    large, small = torch.tensor(60000.0).half(), torch.tensor(3.0).half()
    total, values = weighted_sum([Gives(value=large), Gives(value=small, weight=1e-9)], nn.Identity(), x, x, x)
    assert float(total - 2 * values[0]) == 0
    assert (float(total), float(weighted_sum([Gives(value=small, weight=1e-9)], nn.Identity(), x, x, x)[0])) == (
        120000.0,
        pytest.approx(3e-9),
    )
