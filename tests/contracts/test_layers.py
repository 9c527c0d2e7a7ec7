"""The contract of every layer type in the table: a row is enough to be held to it."""

import copy
import inspect
import pickle
import sys

import pytest
import torch
from torch import nn

from flatbit.quant.activation import ActivationQuantizer
from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import apply_specs_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.grids import grids
from flatbit.quant.proof import prove
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.quantizers import METHODS
from flatbit.quant.spec import LayerSpec, TensorSpec
from flatbit.quant.switched import as_float
from flatbit.quant.table import FLOAT_CLASS, TABLE, is_weighted, quantizer_of, slots_of

WIDTH = 4
SHAPES = ((3, WIDTH), (3, WIDTH, 6), (3, WIDTH, 6, 6), (3, WIDTH, 6, 6, 6))

every_layer = pytest.mark.parametrize("base", [pytest.param(base, id=base.__name__) for base in TABLE])


def method_for(role: str) -> str:
    """A method with 3 and 4 bits for a weight or bias of either granularity, or for activations of either sign."""

    def fits(made: type[Quantizer] | None) -> bool:
        if made is None or not {3, 4} <= {*made.supported_bits}:
            return False
        if role in ("weight", "bias"):
            return "channel" in made.granularities
        return issubclass(made, ActivationQuantizer) and {3, 4} <= {*made.signed_bits}

    kind = "weights" if role in ("weight", "bias") else "activations"
    return next(name for name in METHODS.names() if fits(getattr(METHODS.get(name), kind)))


def made(base: type[nn.Module]) -> tuple[nn.Sequential, torch.Tensor]:
    """A layer with every size 4, values at random, and images that it takes."""
    required = [p for p in inspect.signature(base).parameters.values() if p.default is p.empty]
    sizes = [WIDTH for p in required if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    layer = base(*sizes).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1
        try:
            layer(x)
        except (RuntimeError, ValueError):
            continue
        return nn.Sequential(layer), x
    raise AssertionError(f"{base.__name__} takes none of {SHAPES}")


def quantized(model: nn.Sequential, x: torch.Tensor, granularity: str = "tensor") -> nn.Sequential:
    """Every slot of the layer quantized to 4 bits, and calibrated."""
    present = [slot for slot in slots_of(model[0]) if getattr(model[0], slot.name, x) is not None]
    channels = {slot.name: granularity if slot.role == "weight" else "tensor" for slot in present}
    tensors = {
        slot.name: TensorSpec(method=method_for(slot.role), bits=4, granularity=channels[slot.name]) for slot in present
    }
    apply_specs_(model, {"0": LayerSpec(policy="contract", role="first", tensors=tensors)})
    calibrate_(model, [x])
    return model


@every_layer
def test_narrows_its_float_class_and_adds_no_constructor(base):
    row = TABLE[base]
    assert issubclass(row.quantized, base)
    assert FLOAT_CLASS[row.quantized] is base
    assert row.quantized.__init__ is base.__init__
    assert getattr(sys.modules[row.quantized.__module__], row.quantized.__name__) is row.quantized  # for pickle
    names = [slot.name for slot in row.slots]
    assert len(names) == len(set(names))
    assert all(slot.name == slot.role for slot in row.slots if slot.role in ("input", "output"))


@every_layer
def test_every_slot_is_in_use_and_stated(base):
    model, x = made(base)
    proof = prove(quantized(model, x), x)
    names = [slot.name for slot in slots_of(model[0]) if quantizer_of(model[0], slot.name) is not None]
    assert set(proof.usage) == {f"0.{name}_quantizer" for name in names}
    assert set(grids(model)["0"].tensors) == {*names}
    assert names


@every_layer
def test_without_quantizers_it_computes_as_its_float_class(base):
    model, x = made(base)
    expected, keys = model(x), list(model.state_dict())
    quantized(model, x)
    with as_float(model):
        assert torch.equal(model(x), expected)
    restore_(model)
    assert type(model[0]) is base
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), expected)


@every_layer
def test_each_output_channel_may_have_a_step(base):
    model, x = made(base)
    quantized(model, x, "channel")
    for slot in slots_of(model[0], "weight") if is_weighted(model[0]) else ():
        weight, quantizer = getattr(model[0], slot.name), quantizer_of(model[0], slot.name)
        step = quantizer.grid(weight).step
        assert step.shape[slot.channel_axis] == step.numel() == weight.shape[slot.channel_axis]
    assert prove(model, x).usage


@every_layer
def test_copies_and_pickles(base):
    model, x = made(base)
    expected = quantized(model, x)(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)


@every_layer
def test_products_are_counted_for_one_image_and_follow_the_bits(base):
    model, x = made(base)
    shape = tuple(x.shape[1:])
    assert (cost(model, shape).macs > 0) == is_weighted(model[0])
    if not is_weighted(model[0]):
        return
    macs = TABLE[base].macs
    assert macs(model[0], x[:1], model(x[:1])) == cost(model, shape).macs
    assert macs(model[0], x, model(x)) == len(x) * cost(model, shape).macs
    quantized(model, x)
    assert assignment(model) == {"0": (4, 4)}
    assert cost(model, shape).bitops == cost(model, shape).macs * 16
    assign_bits_(model, {"0": (3, 4)})
    assert cost(model, shape).bitops == cost(model, shape).macs * 12
    assert prove(model, x).usage
