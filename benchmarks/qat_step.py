"""One training step of ResNet-20: float, flatbit (fused and reference face) and Brevitas, interleaved.

    python benchmarks/qat_step.py [--device cpu] [--rounds 30] [--batch 128] [--threads 2] [--compile]

CIFAR-100 shapes, channels-last, W2A2 on every layer and its input, SGD with momentum. Every round times
each variant once, in a new random order, so that a drifting machine hits all alike; ratios are taken
inside a round, then their median. Saved bytes are what autograd keeps for backward, each storage once.
Brevitas is measured where it is installed (benchmarks/requirements.txt). Results go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time

import torch
import torch.nn.functional as F
from timing import environment, interleaved, ratio, write
from torch import nn

import flatbit as fb
from flatbit.quant.rounding import fake_quantize_reference
from flatbit.quant.table import quantizers_of

BREVITAS = "brevitas learned scale"
METHODS = ("uniq", "saq", "lsq")


def float_net() -> nn.Module:
    torch.manual_seed(0)
    return fb.models.build("resnet20", num_classes=100, shortcut="A")


def flatbit_net(method: str, batch: torch.Tensor, *, reference: bool = False) -> nn.Module:
    model = float_net()
    edges = {"weights": 2, "activations": 2}
    policy = fb.policy(method, weights=2, activations=2).override("@first", **edges).override("@last", **edges)
    fb.quantize_(model, policy)
    fb.calibrate_(model, [batch], num_batches=1)
    if reference:
        for _, quantizer in quantizers_of(model):
            quantizer.primitive = fake_quantize_reference
    return model


def brevitas_net() -> nn.Module:
    """The same network with Brevitas' layers: learned scales from statistics, 2 bits, on every layer."""
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
    model = float_net()
    for name, layer in list(model.named_modules()):
        signed = Int8ActPerTensorFloat if name == "conv1" else Uint8ActPerTensorFloat
        if isinstance(layer, nn.Conv2d):
            shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
            new = qnn.QuantConv2d(
                *shape, stride=layer.stride, padding=layer.padding, bias=False, input_quant=signed, **learned
            )
        elif isinstance(layer, nn.Linear):
            new = qnn.QuantLinear(layer.in_features, layer.out_features, bias=True, input_quant=signed, **learned)
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def saved_bytes(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, each storage counted once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(model(x), y)
    total = sum(kept.values())
    loss.backward()
    return total


def make_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

    def step(_: int) -> float:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def variants(x: torch.Tensor, compiled: bool) -> dict[str, nn.Module]:
    nets = {"float": float_net()}
    nets |= {f"flatbit {method}": flatbit_net(method, x) for method in METHODS}
    nets |= {f"flatbit {method}, reference face": flatbit_net(method, x, reference=True) for method in METHODS}
    if importlib.util.find_spec("brevitas"):
        nets[BREVITAS] = brevitas_net()
    else:
        print("Brevitas is not installed (benchmarks/requirements.txt): no comparison with it")
    nets = {name: net.to(x.device).to(memory_format=torch.channels_last).train() for name, net in nets.items()}
    if compiled:
        nets |= {f"{name}, compiled": torch.compile(nets[name], dynamic=False) for name in ("float", "flatbit uniq")}
    return nets


def measure(arguments: argparse.Namespace) -> dict:
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(arguments.batch, 3, 32, 32, generator=generator).to(arguments.device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 100, (arguments.batch,), generator=generator).to(arguments.device)
    nets = variants(x, arguments.compile)
    saved = {name: saved_bytes(net, x, y) for name, net in nets.items() if "compiled" not in name}
    times = interleaved({name: make_step(net, x, y) for name, net in nets.items()}, arguments.rounds, arguments.warmup)
    return {"rows": [row(name, times, saved) for name in times], "times_s": times}


def row(name: str, times: dict[str, list[float]], saved: dict[str, int]) -> dict:
    ratio_to_float, quartiles = ratio(times, name, "float")
    found = {
        "variant": name,
        "median_ms": 1000 * statistics.median(times[name]),
        "min_ms": 1000 * min(times[name]),
        "ratio_to_float": ratio_to_float,
        "ratio_quartiles": quartiles,
        "saved_bytes": saved.get(name),
        "saved_ratio": saved[name] / saved["float"] if name in saved else None,
    }
    if BREVITAS in times:
        found["ratio_to_brevitas"], _ = ratio(times, name, BREVITAS)
    return found


def show(rows: list[dict]) -> None:
    print(
        f"{'variant':32}{'median ms':>10}{'x float':>9}{'quartiles':>14}"
        f"{'x Brevitas':>12}{'saved MiB':>11}{'x float':>9}"
    )
    for row in rows:
        low, high = row["ratio_quartiles"]
        peer = f"{row['ratio_to_brevitas']:.2f}" if "ratio_to_brevitas" in row else ""
        saved = f"{row['saved_bytes'] / 2**20:.0f}" if row["saved_bytes"] else ""
        share = f"{row['saved_ratio']:.2f}" if row["saved_ratio"] else ""
        measured = f"{row['median_ms']:10.1f}{row['ratio_to_float']:9.2f}{low:9.2f}-{high:.2f}"
        print(f"{row['variant']:32}{measured}{peer:>12}{saved:>11}{share:>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also the compiled float and uniq networks")
    parser.add_argument("--name", help="of the result file; default: date, benchmark and device")
    arguments = parser.parse_args()
    stated = environment(arguments.device, arguments.threads, ("brevitas",))
    result = {"environment": stated, "settings": vars(arguments)} | measure(arguments)
    path = write(result, arguments.name or f"{stated['date']}-qat_step-{arguments.device.replace(':', '')}")
    show(result["rows"])
    print(f"written: {path}")


if __name__ == "__main__":
    main()
