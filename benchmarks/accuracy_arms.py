"""The arms of ``accuracy.py``: how each brings a float net to low bits; the docstrings are what the results say.

Shared by all: every convolution and linear layer has its weight and its input quantized with one step for the tensor,
the first and the last layer at 8 bits, the image signed and what a ReLU made unsigned, batch norms and biases in float
(but for FAQ's own), and the same calibration batches through the float net in eval mode.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from peers import FakeQuantized, brevitas_layer, layers, replace_
from torch import Tensor, nn

import flatbit as fb
from flatbit.train.optimizers import parameter_groups

EDGES = 8
Inputs = Sequence[Tensor]
SetUp = Callable[[nn.Module, int, Inputs], list[nn.Parameter]]
"""Brings a float net to so many bits, in place, from calibration inputs; returns what gets no weight decay."""


def uniq_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """``flatbit.policy("uniq")`` as it is: mid-rise weights, learned steps that start where a Gaussian loses least."""
    return _flatbit_(model, fb.policy("uniq", weights=bits, activations=bits), inputs)


def lsq_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """``flatbit.policy("lsq")`` as it is: two's complement, learned steps that start at 2 E|x| / sqrt(highest code)."""
    return _flatbit_(model, fb.policy("lsq", weights=bits, activations=bits), inputs)


def saq_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """``flatbit.policy("saq")``: normalised weights, learned clips that decay; trained by SGD as all, not by SAQ.

    The convention leaves the image as it is; here it has 8 bits as in all arms, by UNIQ's quantizer, for SAQ has none
    for an image.
    """
    policy = fb.policy("saq", weights=bits, activations=bits)
    return _flatbit_(model, policy.override("@first", activations=EDGES, activation_method="uniq"), inputs)


def faq_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """``flatbit.policy("faq")`` as it is: power-of-two steps, calibrated and then fixed; nothing in them is learned.

    Each ReLU's output is quantized once, for all that read it; batch norms and biases are in fixed point.
    """
    return _flatbit_(model, fb.policy("faq", weights=bits, activations=bits), inputs)


def brevitas_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """Brevitas' learned scales from its default start: the largest weight, the 99.999th percentile of activations.

    ``Int8WeightPerTensorFloat`` (narrow: at 2 bits -1, 0, 1) with ``PARAMETER_FROM_STATS``, and
    ``Uint8ActPerTensorFloat`` (``Int8ActPerTensorFloat`` for the image), at our widths; activations calibrated in
    ``calibration_mode``, which averages over the batches, in place of the first 300 steps of training. As in its
    examples, scales have no weight decay. Its corrections of biases and batch norms for nets that are not trained are
    left out: ours have one bias, and statistics are re-estimated for all arms.
    """
    from brevitas import quant  # pyright: ignore[reportMissingImports]
    from brevitas.inject.enum import ScalingImplType  # pyright: ignore[reportMissingImports]

    signed, unsigned = quant.Int8ActPerTensorFloat, quant.Uint8ActPerTensorFloat
    weight = {
        "weight_quant": quant.Int8WeightPerTensorFloat,
        "weight_scaling_impl_type": ScalingImplType.PARAMETER_FROM_STATS,
    }
    return _brevitas_(model, bits, inputs, weight, (unsigned, signed))


def brevitas_mse_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """Brevitas' learned scales from its MSE start: the scale of least squared error, of weights and of each batch.

    ``Int8WeightPerTensorFloatMSE`` and ``Uint8ActPerTensorFloatMSE`` (``Int8ActPerTensorFloatMSE`` for the image);
    all else as from the default start.
    """
    from brevitas import quant  # pyright: ignore[reportMissingImports]

    signed, unsigned = quant.Int8ActPerTensorFloatMSE, quant.Uint8ActPerTensorFloatMSE
    return _brevitas_(model, bits, inputs, {"weight_quant": quant.Int8WeightPerTensorFloatMSE}, (unsigned, signed))


def torch_ao_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """torch.ao's learnable fake-quantization from its usual start: the smallest and the largest value.

    ``_LearnableFakeQuantize`` with ``use_grad_scaling``, started by ``MinMaxObserver`` over all batches. Weights and
    the image symmetric, two's complement; other activations affine, whose zero point starts at 0 and is learned too.
    Scales and zero points have no weight decay.
    """
    from torch.ao.quantization import MinMaxObserver

    return _torch_ao_(model, bits, inputs, MinMaxObserver)


def torch_ao_histogram_(model: nn.Module, bits: int, inputs: Inputs) -> list[nn.Parameter]:
    """torch.ao's learnable fake-quantization from its better start: the range of least squared error in a histogram.

    ``HistogramObserver``, which reckons with 256 levels whatever the width; it is told here how many there are. All
    else as from the usual start.
    """
    from torch.ao.quantization import HistogramObserver

    return _torch_ao_(model, bits, inputs, HistogramObserver)


ARMS: dict[str, SetUp] = {
    "uniq": uniq_,
    "lsq": lsq_,
    "saq": saq_,
    "faq": faq_,
    "brevitas": brevitas_,
    "brevitas_mse": brevitas_mse_,
    "torch_ao": torch_ao_,
    "torch_ao_histogram": torch_ao_histogram_,
}
NAMES = {
    "uniq": "flatbit uniq",
    "lsq": "flatbit lsq",
    "saq": "flatbit saq, by SGD",
    "faq": "flatbit faq",
    "brevitas": "Brevitas, default start",
    "brevitas_mse": "Brevitas, MSE start",
    "torch_ao": "torch.ao, min-max start",
    "torch_ao_histogram": "torch.ao, histogram start",
}


def how_of(arm: str) -> str:
    """How an arm is set up, in words."""
    return inspect.cleandoc(ARMS[arm].__doc__ or "")


def missing(arm: str) -> str:
    """Why an arm cannot be run here; "" where it can."""
    package = {"brevitas": "brevitas", "torch": "torch.ao.quantization"}.get(arm.partition("_")[0])
    if package is None or importlib.util.find_spec(package):
        return ""
    return f"{package} is not installed (benchmarks/requirements.txt)"


def _flatbit_(model: nn.Module, policy: fb.Policy, inputs: Inputs) -> list[nn.Parameter]:
    fb.quantize_(model, policy)
    fb.calibrate_(model, inputs)
    groups = parameter_groups(model, weight_decay=1.0)
    return [parameter for group in groups if not group["weight_decay"] for parameter in group["params"]]


def _placed(model: nn.Module, bits: int) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, bool, int]]:
    """Name, layer, whether it reads signed values, its bits."""
    found = list(layers(model))
    for place, (name, layer, signed) in enumerate(found):
        yield name, layer, signed, EDGES if place in (0, len(found) - 1) else bits


def _brevitas_(
    model: nn.Module, bits: int, inputs: Inputs, weight: dict[str, object], activation: tuple[type, type]
) -> list[nn.Parameter]:
    """``activation``: the quantizers of unsigned and of signed inputs."""
    from brevitas.graph.calibrate import calibration_mode  # pyright: ignore[reportMissingImports]

    for name, layer, signed, width in _placed(model, bits):
        widths = {"weight_bit_width": width, "input_bit_width": width}
        replace_(model, name, brevitas_layer(layer, input_quant=activation[signed], **weight, **widths))
    model.eval()
    with torch.no_grad():
        with calibration_mode(model):
            for x in inputs:
                model(x)
        model(inputs[0])  # the weights' scales start at the first pass with quantized weights
    return [parameter for name, parameter in model.named_parameters() if "scaling" in name]


def _torch_ao_(model: nn.Module, bits: int, inputs: Inputs, observer: type[nn.Module]) -> list[nn.Parameter]:
    for name, layer, signed, width in _placed(model, bits):
        replace_(model, name, FakeQuantized(layer, signed, width, observer))
    made = [module for module in model.modules() if isinstance(module, FakeQuantized)]
    quantizers = [quantizer for module in made for quantizer in (module.weight_quantizer, module.input_quantizer)]
    for quantizer in quantizers:
        # As its static mode, but that the scale is computed once, not after each batch: a histogram's takes seconds.
        quantizer.toggle_observer_update(False).toggle_fake_quant(False)
        quantizer.activation_post_process.dst_nbins = quantizer.quant_max - quantizer.quant_min + 1
    hooks = [quantizer.register_forward_pre_hook(_observe) for quantizer in quantizers]
    model.eval()
    with torch.no_grad():
        for x in inputs:
            model(x)
    for hook in hooks:
        hook.remove()
    for quantizer in quantizers:
        scale, zero_point = quantizer.activation_post_process.calculate_qparams()
        quantizer.scale.data.copy_(scale)
        quantizer.zero_point.data.copy_(zero_point)
        quantizer.enable_param_learning()
    return [parameter for quantizer in quantizers for parameter in quantizer.parameters()]


def _observe(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    quantizer.activation_post_process(inputs[0].detach())  # type: ignore[operator]
