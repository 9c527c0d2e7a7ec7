"""What ``qat_step.py`` races: a network in float, of flatbit's W2A2 layers, and of Brevitas', and one step of each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from workers import cost_of, peak_bytes

import flatbit as fb
from flatbit.quant.recompute import recomputed_outputs
from flatbit.quant.rounding import fake_quantize_reference
from flatbit.quant.table import quantizers_of

CLASSES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A network to race. ``kind``: float, a method of flatbit, or brevitas."""

    kind: str
    model: str
    image: int
    batch: int
    device: str
    threads: int
    way: str = ""
    """"", reference (face), recomputed or compiled."""

    @property
    def name(self) -> str:
        named = {"float": "float", "brevitas": "brevitas learned scale"}.get(self.kind, f"flatbit {self.kind}")
        return named + {"": "", "reference": ", reference face"}.get(self.way, f", {self.way}")


def racer(variant: Variant) -> dict[str, Callable[[], Any]]:
    """What a worker can do with a variant."""
    torch.set_num_threads(variant.threads)
    x, y = batch_of(variant)
    model = net(variant, x).to(variant.device).to(memory_format=torch.channels_last).train()
    runs = torch.compile(model, dynamic=False) if variant.way == "compiled" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    context = recomputed_outputs(model) if variant.way == "recomputed" else nullcontext()
    context.__enter__()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(runs(x), y).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return {
        "step": lambda: cost_of(step),
        "saved": lambda: saved_bytes(lambda: F.cross_entropy(runs(x), y), x.is_cuda),
        "leave": lambda: context.__exit__(None, None, None),
        "peak": lambda: torch.cuda.max_memory_allocated() if x.is_cuda else peak_bytes(),
    }


def batch_of(variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(variant.batch, 3, variant.image, variant.image, generator=generator).to(variant.device)
    y = torch.randint(0, CLASSES, (variant.batch,), generator=generator).to(variant.device)
    return x.contiguous(memory_format=torch.channels_last), y


def net(variant: Variant, x: torch.Tensor) -> nn.Module:
    if variant.kind == "float":
        return float_net(variant.model)
    if variant.kind == "brevitas":
        return brevitas_net(variant.model, x.cpu())
    model = flatbit_net(variant.model, variant.kind, x.cpu())
    if variant.way == "reference":
        for _, quantizer in quantizers_of(model):
            quantizer.primitive = fake_quantize_reference
    return model


def float_net(name: str) -> nn.Module:
    torch.manual_seed(0)
    return fb.models.build(name, num_classes=CLASSES, **({"shortcut": "A"} if name == "resnet20" else {}))


def flatbit_net(name: str, method: str, batch: torch.Tensor) -> nn.Module:
    model = float_net(name)
    edges = {"weights": 2, "activations": 2}
    policy = fb.policy(method, weights=2, activations=2).override("@first", **edges).override("@last", **edges)
    fb.quantize_(model, policy)
    fb.calibrate_(model, [batch], num_batches=1)
    return model


def brevitas_net(name: str, batch: torch.Tensor) -> nn.Module:
    """The same network with Brevitas' layers: learned scales from statistics, 2 bits, on every layer.

    Which inputs are signed is what flatbit's calibration finds.
    """
    import brevitas.nn as qnn
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat

    learned = {
        "weight_quant": Int8WeightPerTensorFloat,
        "weight_bit_width": 2,
        "weight_scaling_impl_type": ScalingImplType.PARAMETER_FROM_STATS,
        "input_bit_width": 2,
        "input_collect_stats_steps": 1,
    }
    model, known = float_net(name), flatbit_net(name, "uniq", batch)
    for path, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        quantizer: Any = known.get_submodule(f"{path}.input_quantizer")
        settings = learned | {
            "bias": layer.bias is not None,
            "input_quant": Int8ActPerTensorFloat if quantizer.signed else Uint8ActPerTensorFloat,
        }
        if isinstance(layer, nn.Conv2d):
            shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
            geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
            new = qnn.QuantConv2d(*shape, **geometry, **settings)
        else:
            new = qnn.QuantLinear(layer.in_features, layer.out_features, **settings)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def saved_bytes(forward: Callable[[], torch.Tensor], cuda: bool) -> int:
    """Bytes that a forward pass leaves allocated for the backward pass, as the allocator counts them."""
    before = torch.cuda.memory_allocated() if cuda else 0
    activities = [torch.profiler.ProfilerActivity.CPU]
    profiler: AbstractContextManager = torch.profiler.profile(activities=activities, profile_memory=True)
    with nullcontext() if cuda else profiler as profile:
        loss = forward()
    if profile is None:
        saved = torch.cuda.memory_allocated() - before
    else:
        saved = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    loss.backward()
    return saved
