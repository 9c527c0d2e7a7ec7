"""What a user would take instead: other packages' 2-bit layers in a float network of ours, in place.

Both quantize the weights and the input of every convolution and linear layer, as flatbit does by default: the input
of the first layer signed, of the others unsigned; one learned step each, set from the first batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = 2


def peers() -> dict[str, Callable[[nn.Module, Tensor], nn.Module]]:
    """The peers that are installed: each brings a float network to 2 bits, given a batch of inputs."""
    found: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {}
    if importlib.util.find_spec("brevitas"):
        found["Brevitas, learned scale"] = brevitas_
    if importlib.util.find_spec("torch.ao.quantization"):
        found["torch.ao, learned scale"] = torch_ao_
    return found


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, bool]]:
    """Convolutions and linear layers: name, layer, whether it reads signed values (the first does)."""
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    yield from ((name, layer, place == 0) for place, (name, layer) in enumerate(found))


def brevitas_(model: nn.Module, x: Tensor) -> nn.Module:
    """Brevitas' layers: scales learned from statistics of the weights, and of the first batch."""
    from brevitas.inject.enum import ScalingImplType  # pyright: ignore[reportMissingImports]
    from brevitas.quant import (  # pyright: ignore[reportMissingImports]
        Int8ActPerTensorFloat,
        Int8WeightPerTensorFloat,
        Uint8ActPerTensorFloat,
    )

    learned = {
        "weight_quant": Int8WeightPerTensorFloat,
        "weight_bit_width": BITS,
        "weight_scaling_impl_type": ScalingImplType.PARAMETER_FROM_STATS,
        "input_bit_width": BITS,
        "input_collect_stats_steps": 1,
    }
    for name, layer, signed in layers(model):
        learned["input_quant"] = Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat
        replace_(model, name, brevitas_layer(layer, **learned).to(x.device))
    with torch.no_grad():
        model.train()(x)
    return model


def brevitas_layer(layer: nn.Conv2d | nn.Linear, **quantizers: Any) -> nn.Module:
    """Brevitas' layer with the weights of a float one and quantizers as its keyword arguments say."""
    import brevitas.nn as qnn  # pyright: ignore[reportMissingImports]

    bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        shape = layer.in_channels, layer.out_channels, layer.kernel_size
        geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        new = qnn.QuantConv2d(*shape, bias=bias, **geometry, **quantizers)
    else:
        new = qnn.QuantLinear(layer.in_features, layer.out_features, bias=bias, **quantizers)
    new.load_state_dict(layer.state_dict(), strict=False)  # the scales have no value yet
    return new


class FakeQuantized(nn.Module):
    """A layer whose weight and input go through torch.ao's learnable fake-quantization.

    Args:
        layer: float.
        signed: whether its inputs are.
        bits: of both.
        observer: a class of torch.ao's, which finds the first scales; None for the smallest and the largest value.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, signed: bool, bits: int = BITS, observer: type[nn.Module] | None = None
    ) -> None:
        super().__init__()
        from torch.ao.quantization import MinMaxObserver
        from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        shared = {"observer": observer or MinMaxObserver, "use_grad_scaling": True}
        symmetric = {"qscheme": torch.per_tensor_symmetric, "dtype": torch.qint8, "quant_min": low, "quant_max": high}
        unsigned = {"dtype": torch.quint8, "quant_min": 0, "quant_max": 2**bits - 1}
        self.layer = layer
        self.weight_quantizer = _LearnableFakeQuantize(**shared, **symmetric)
        self.input_quantizer = _LearnableFakeQuantize(**shared, **(symmetric if signed else unsigned))

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def torch_ao_(model: nn.Module, x: Tensor) -> nn.Module:
    """torch.ao's learnable fake-quantization: one batch is observed, then the scales are learned."""
    for name, layer, signed in layers(model):
        replace_(model, name, FakeQuantized(layer, signed).to(x.device))
    quantizers = [
        quantizer
        for module in model.modules()
        if isinstance(module, FakeQuantized)
        for quantizer in (module.weight_quantizer, module.input_quantizer)
    ]
    for quantizer in quantizers:
        quantizer.toggle_observer_update(True).toggle_qparam_learning(False).toggle_fake_quant(False)
    with torch.no_grad():
        model.train()(x)
    for quantizer in quantizers:
        quantizer.enable_param_learning()
    return model


def replace_(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module where the one of that name is."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
