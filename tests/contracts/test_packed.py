"""Packed files of every registered quantizer at every width: what is loaded computes the same, bit for bit."""

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.models import MODELS
from flatbit.quant.convert import apply_specs_
from flatbit.quant.fixed import FixedGrid
from flatbit.quant.proof import prove
from flatbit.quant.quantizers import METHODS
from flatbit.quant.spec import LayerSpec, TensorSpec
from flatbit.quant.table import quantizers_of

from .cases import CASES, TENSORS, class_of, every_quantizer, widths


class Small(nn.Module):
    """One convolution, grouped where that is asked, behind what decides the sign of its input."""

    def __init__(self, signed=True, transposed=False, groups=1):
        super().__init__()
        self.before = nn.Identity() if signed else nn.ReLU()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.layer = kind(4, 6, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.layer(self.before(x)))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    MODELS.add("small-packed", Small)
    yield
    MODELS._objects.pop("small-packed")


X = torch.randn(4, 4, 5, 5, generator=torch.Generator().manual_seed(0))


def packed_again(model, path):
    """The model of a packed file of a model, which is held to it: outputs, bytes, proof."""
    written = fb.export.packed(model.eval(), path)
    again = fb.load(path)
    assert torch.equal(again(X), model(X))
    assert written.size_bytes == fb.cost(model, X.shape[1:]).size_bytes == fb.cost(again, X.shape[1:]).size_bytes
    assert written.file_bytes == path.stat().st_size
    assert all(isinstance(quantizer, FixedGrid) for _, quantizer in quantizers_of(again))
    prove(again, X)
    return again


@every_quantizer
def test_every_quantizer_at_every_width(name, role, bits, signed, tmp_path):
    model = fb.models.build("small-packed", signed=signed)
    spec = LayerSpec(policy=name, role="first", tensors={role: TensorSpec(method=name, bits=bits)})
    apply_specs_(model, {"layer": spec})
    fb.calibrate_(model, [X])
    again = packed_again(model, tmp_path / "m.safetensors")
    mine, theirs = fb.grids(model)["layer"].tensors[role], fb.grids(again)["layer"].tensors[role]
    assert (mine.offset, mine.low, mine.high) == (theirs.offset, theirs.low, theirs.high)
    assert torch.equal(mine.step, theirs.step)
    assert again.layer.spec == model.layer.spec


@pytest.mark.parametrize(("transposed", "groups"), [(False, 1), (False, 2), (True, 1), (True, 2)])
@pytest.mark.parametrize(
    "name",
    [name for name in METHODS.names() if (made := class_of(name, "weight")) and "channel" in made.granularities],
)
def test_steps_per_channel_in_grouped_and_transposed_convolutions(name, transposed, groups, tmp_path):
    model = fb.models.build("small-packed", transposed=transposed, groups=groups)
    spec = TensorSpec(method=name, bits=min(widths(name, "weight", True)), granularity="channel")
    apply_specs_(model, {"layer": LayerSpec(policy=name, role="first", tensors={"weight": spec})})
    fb.calibrate_(model, [X])
    packed_again(model, tmp_path / "m.safetensors")


def test_the_suite_covers_every_quantizer():
    assert {case.values[:2] for case in CASES} == {tensor[:2] for tensor in TENSORS}
