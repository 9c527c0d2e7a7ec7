import itertools

import pytest
import torch
import torch.nn.functional as F

from flatbit.export.onnx_geometry import places, pool_attributes, pool_padding
from flatbit.export.program import MaxPool

SETTINGS = [
    s
    for s in itertools.product((5, 8), (2, 3), (1, 2), (0, 1), (1, 2), (False, True))
    if s[3] <= s[1] // 2 and s[4] * (s[1] - 1) < s[0]
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation", "ceil"), SETTINGS)
def test_padding_and_places_make_torchs_windows(size, kernel, stride, padding, dilation, ceil):
    pairs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    op = MaxPool(name="m", inputs=("x",), layer="m", ceil=ceil, **{key: (value, value) for key, value in pairs.items()})
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    out = expected.shape[2:]
    padded = F.pad(x, pool_padding(op, (size, size), out), value=-torch.inf)
    windows = [padded[:, :, top:bottom:stride, left:right:stride] for (top, left), (bottom, right) in places(op, out)]
    assert all(window.shape == expected.shape for window in windows)
    assert torch.equal(torch.stack(windows).amax(0), expected)


def test_paddings_are_all_beginnings_then_all_ends():
    op = MaxPool(
        name="m", inputs=("x",), layer="m", kernel=(2, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 1), ceil=True
    )
    assert pool_attributes(op, (5, 4), (3, 4))["pads"] == [0, 1, 1, 1]
