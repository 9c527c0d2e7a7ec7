import pytest
import torch

from flatbit.export.onnx_float import Held, Width
from flatbit.export.program import Quantize
from flatbit.quant.grid import Grid
from flatbit.quant.rounding import nearest_code


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 3, (False, 2, False, True)),
        (0, 5, (False, 3, False, False)),
        (-2, 1, (True, 2, False, True)),
        (-1, 1, (True, 2, True, True)),
        (-7, 7, (True, 4, True, True)),
        (-3, 7, (True, 4, False, False)),
        (-1, 0, (True, 1, False, True)),
        (-255, 255, (True, 9, True, True)),
    ],
)
def test_the_width_of_a_range(low, high, expected):
    found = Width.of(low, high)
    assert (found.signed, found.bits, found.narrow, found.exact) == expected


@pytest.mark.parametrize("ties", ["even", "even_from_low"])
@pytest.mark.parametrize(
    ("offset", "low", "high"), [(0.5, -1, 0), (0.5, -2, 1), (0.0, -3, 3), (0.0, 0, 3), (0.3, -1, 2)]
)
def test_rounding_half_to_even_is_the_quantizers_rule(offset, low, high, ties):
    """At every quarter of a step, which holds every tie."""
    grid = Grid(step=torch.tensor(1.0), offset=offset, low=low, high=high)
    op = Quantize(name="q", inputs=("x",), layer="l", grid=grid, ties=ties, quantizer="q")
    held = Held.of(op)
    x = torch.arange(-20, 21, dtype=torch.float32) / 4
    codes = (x - held.shift).round().clamp(held.low, held.high)
    expected = nearest_code(x, grid.step, offset, low, high, ties) + offset
    assert torch.allclose(codes + held.shift, expected)
