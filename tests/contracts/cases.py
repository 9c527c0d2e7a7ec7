"""Every quantizer that is registered, at every bit-width and sign it claims: what the suites run over."""

import pytest
import torch

from flatbit.quant.activation import ActivationQuantizer
from flatbit.quant.candidates import observe_at_each_
from flatbit.quant.quantizer import MAX_BITS, Quantizer
from flatbit.quant.quantizers import METHODS
from flatbit.quant.site import Site

SHAPE = (6, 4, 3, 3)


def class_of(name: str, role: str) -> type[Quantizer] | None:
    method = METHODS.get(name)
    return method.weights if role == "weight" else method.activations


def make(
    name: str, role: str, bits: int, *, granularity: str = "tensor", kind="convolution", candidates=()
) -> Quantizer:
    site = Site(layer="layer", role=role, kind=kind, step_shape=(SHAPE[0], 1, 1, 1), candidates=tuple(candidates))
    return class_of(name, role)(bits, site, granularity)


def sample(role: str, signed: bool, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x if signed or role == "weight" else x.relu()


def calibrated(name: str, role: str, bits: int, signed: bool, *, dtype=torch.float32, **more) -> Quantizer:
    quantizer = make(name, role, bits, **more).to(dtype)
    observe_at_each_(quantizer, sample(role, signed, dtype=dtype))
    return quantizer


def widths(name: str, role: str, signed: bool) -> list[int]:
    """The bit-widths, up to 8, that a method has for a tensor."""
    made = class_of(name, role)
    found = [bits for bits in made.supported_bits if bits <= MAX_BITS]
    if not issubclass(made, ActivationQuantizer) or not signed:
        return found
    return [bits for bits in found if bits in made.signed_bits]


def every_tensor() -> list:
    """Method, role and sign of everything that is quantized."""
    tensors = [(name, "weight", True) for name in METHODS.names()]
    tensors += [(name, "input", signed) for name in METHODS.names() for signed in (False, True)]
    made = [(name, role, signed) for name, role, signed in tensors if class_of(name, role) is not None]
    made = [(name, role, signed) for name, role, signed in made if signed or class_of(name, role).takes_unsigned]
    return [tensor for tensor in made if widths(*tensor)]


TENSORS = every_tensor()


def _id(name: str, role: str, signed: bool, *bits: int) -> str:
    return "-".join([name, role if role == "weight" else "signed" if signed else "unsigned", *map(str, bits)])


CASES = [
    pytest.param(name, role, bits, signed, id=_id(name, role, signed, bits))
    for name, role, signed in TENSORS
    for bits in widths(name, role, signed)
]


def quantizers_where(condition=lambda quantizer, x: True):
    """Parametrize a test over the cases whose quantizer, calibrated, and its tensor meet a condition."""
    chosen = [c for c in CASES if condition(calibrated(*c.values), sample(c.values[1], c.values[3]))]
    return pytest.mark.parametrize(("name", "role", "bits", "signed"), chosen)


every_quantizer = pytest.mark.parametrize(("name", "role", "bits", "signed"), CASES)
each_tensor = pytest.mark.parametrize(
    ("name", "role", "signed"), [pytest.param(*tensor, id=_id(*tensor)) for tensor in TENSORS]
)


def transforms(quantizer: Quantizer) -> bool:
    """Whether something else than x is quantized in place of x."""
    return type(quantizer).transform is not Quantizer.transform


def follows(quantizer: Quantizer, x: torch.Tensor) -> bool:
    """Whether the step is computed from x at every forward."""
    return not torch.equal(quantizer.grid(3 * x).step, quantizer.grid(x).step)


def is_symmetric(quantizer: Quantizer, x: torch.Tensor) -> bool:
    """Whether the grid is its own mirror image."""
    grid = quantizer.grid(x)
    return grid.low + grid.offset == -(grid.high + grid.offset)


def has_state(quantizer: Quantizer, x: torch.Tensor) -> bool:
    """Whether calibration sets anything."""
    return bool(state_of(quantizer))


def state_of(quantizer: Quantizer) -> dict[str, torch.Tensor]:
    """What calibration sets, by name: all tensors but the facts that every quantizer states."""
    named = dict(quantizer.named_parameters()) | dict(quantizer.named_buffers())
    return {name: tensor for name, tensor in named.items() if name not in ("bits", "signed")}
