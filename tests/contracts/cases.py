"""Every quantizer that is registered, at every bit-width and sign it claims: what the suites run over."""

import pytest
import torch

from flatbit.quant.activation import ActivationQuantizer
from flatbit.quant.quantizer import Quantizer, Site
from flatbit.quant.quantizers import METHODS

OPTIONS = {"fixed_point": {"exponent": -4}}
SHAPE = (6, 4, 3, 3)


def make(name: str, role: str, bits: int, *, granularity: str = "tensor", kind: str = "convolution") -> Quantizer:
    method = METHODS.get(name)
    made = method.weights if role == "weight" else method.activations
    site = Site(layer="layer", role=role, kind=kind, step_shape=(SHAPE[0], 1, 1, 1))
    return made(bits, site, granularity, **OPTIONS.get(name, {}))


def sample(role: str, signed: bool, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x if signed or role == "weight" else x.relu()


def calibrated(name: str, role: str, bits: int, signed: bool, *, dtype=torch.float32, **more) -> Quantizer:
    quantizer = make(name, role, bits, **more).to(dtype)
    quantizer.observe_(sample(role, signed, dtype=dtype))
    return quantizer


def every_case() -> list:
    cases = []
    for name in METHODS.names():
        method = METHODS.get(name)
        if method.weights is not None:
            bits = [b for b in method.weights.supported_bits if b <= 8]
            cases += [pytest.param(name, "weight", b, True, id=f"{name}-weight-{b}") for b in bits]
        if method.activations is not None:
            cases += _activation_cases(name, method.activations)
    return cases


def _activation_cases(name, made):
    for bits in made.supported_bits:
        if name != "xnor":
            yield pytest.param(name, "input", bits, False, id=f"{name}-unsigned-{bits}")
        signed_bits = made.signed_bits if issubclass(made, ActivationQuantizer) else made.supported_bits
        if bits in signed_bits:
            yield pytest.param(name, "input", bits, True, id=f"{name}-signed-{bits}")


CASES = every_case()


def quantizers_where(condition=lambda name, role, bits, signed: True):
    """Parametrize a test over the cases that meet a condition."""
    return pytest.mark.parametrize(("name", "role", "bits", "signed"), [c for c in CASES if condition(*c.values)])


every_quantizer = quantizers_where()


def is_symmetric(name: str, role: str, bits: int, signed: bool) -> bool:
    """Whether the grid is its own mirror image."""
    grid = calibrated(name, role, bits, signed).grid(sample(role, signed))
    return grid.low + grid.offset == -(grid.high + grid.offset)
