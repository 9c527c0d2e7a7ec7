"""Calibration: the only place that sets the ranges of quantizers, from weights and from data.

Weights first: each weight quantizer starts from its weight. Then activations, in two passes over
the same batches: methods that look at the float network (FAQ, PACT, LSQ, ...) see it as it is, in
eval mode; methods that calibrate with all quantizers active (UNIQ) then run on top of those, batch
statistics in the batch norms, running statistics left as they were.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.pairs import input_of
from ..device import device_of, float32_products
from ..inputs import check_one_input
from ..modes import modes_kept
from ..nonempty import nonempty
from ..progress import track
from ..undo import undone_on_failure
from .calls import mend, uncalled
from .candidates import observe_at_each_
from .example import example_of, multiplied
from .producers import note_producers_
from .quantizer import Quantizer
from .reparametrized import folded
from .switched import as_float
from .table import is_weighted, quantized_layers, quantized_tensors, quantizers_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What a calibration saw: batches and samples."""

    num_batches: int
    num_samples: int


@torch.no_grad()
@float32_products()
def calibrate_(model: nn.Module, batches: Iterable[Any], num_batches: int | None = None) -> Calibration:
    """Set every step and clip of a quantized model, in place, from its weights and from data.

    Call it after ``quantize_`` and before an optimizer or DDP exists. Parameters, buffers other than
    the quantizers', and the training mode are as before when it returns. Batch norms keep running
    statistics of the float network: re-estimate them, or train, before trusting an accuracy.

    Args:
        model: quantized by ``quantize_``.
        batches: an iterable of ``(x, ...)`` or ``x``; x floating, on any device.
        num_batches: how many to use; None for what the methods in the model ask for (UNIQ 100, FAQ
            and PACT 5, others 1), or all there are if fewer.

    Returns:
        How many batches and samples it saw. Warns of activations that run several times in a forward, which have one
        step for all (``flatbit.split_shared_``).

    Raises:
        ValueError: not quantized, no data, ``num_batches`` below 1, a weight that is not finite or all
            zero, an input that is constant zero or not finite or that never came, a sign the method
            cannot take. The model is then as it was.
    """
    if num_batches is not None and num_batches < 1:
        raise ValueError(f"num_batches={num_batches}: expected 1 or more, or None for what the methods ask for")
    layers = list(quantized_layers(model))
    if not layers:
        raise ValueError("the model is not quantized: call flatbit.quantize_(model, policy) first")
    check_one_input(model, "calibrate_")
    quantizers = [quantizer for _, quantizer in quantizers_of(model)]
    state = chain.from_iterable(chain(q.parameters(), q.buffers()) for q in quantizers)
    with undone_on_failure(model, state):
        with folded(layer for _, layer in layers):
            for name, layer in layers:
                start_weights_(name, layer)
        return _calibrate_activations_(model, batches, num_batches)


def _calibrate_activations_(model: nn.Module, batches: Iterable[Any], num_batches: int | None) -> Calibration:
    """Set the ranges of all activation quantizers, the weights' being set. Raises ValueError."""
    watched = [q for _, q in quantizers_of(model) if q.site.role in ("input", "output")]
    if not watched:
        return Calibration(num_batches=0, num_samples=0)
    for quantizer in watched:
        quantizer.reset_()
    counts = {q: num_batches or q.calibration_batches for q in watched}
    early = {q: n for q, n in counts.items() if not q.observes_quantized}
    late = {q: n for q, n in counts.items() if q.observes_quantized}
    device = device_of(model)
    given = nonempty(batches, "calibration", max(counts.values()))
    stream = (input_of(batch, "calibration").to(device) for batch in given)
    held = list(islice(stream, max([1, *early.values()])))  # both passes start with these
    seen = [len(x) for x in held]
    with _restored(model):
        model.eval()
        if early:
            with as_float(model):
                _observe_(model, early, held, "calibrating on the float network")
        if late:
            rest = islice(stream, max(0, max(late.values()) - len(held)))
            seen = _observe_(model, late, chain(held, rest), "calibrating with all quantizers active")
    if unset := [quantizer for quantizer in watched if not quantizer.calibrated]:
        _refuse_uncalled(model, held[0], unset)
        raise ValueError(_nothing_seen(unset[0], len(seen)))
    note_producers_(model, held[0])
    return Calibration(num_batches=len(seen), num_samples=sum(seen))


def start_weights_(name: str, layer: nn.Module) -> None:
    """Start the weight and bias quantizers of one quantized layer from its tensors, in place.

    Raises ValueError for values that are not finite, or a weight that is all zero.
    """
    for slot, quantizer, parameter in quantized_tensors(layer):
        if not parameter.isfinite().all():
            bad = int((~parameter.isfinite()).sum())
            raise ValueError(f"{slot.name} of layer {name!r} has {bad} NaN or infinite values: load a sound checkpoint")
        if slot.role == "weight" and is_weighted(layer) and not parameter.any():
            raise ValueError(
                f"{slot.name} of layer {name!r} is all zero, which gives no step to start from: load or initialise it "
                f"first, or leave it float with policy.override({name!r}, weights=32)"
            )
        observe_at_each_(quantizer, parameter.detach())


def _observe_(
    model: nn.Module, counts: Mapping[Quantizer, int], inputs: Iterable[Tensor], description: str
) -> list[int]:
    """Run inputs through the model while each quantizer observes as many batches as it counts.

    Returns the samples in each batch.
    """
    samples: list[int] = []
    calls: Counter[Quantizer] = Counter()

    def observe(quantizer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(quantizer, Quantizer)
        index = len(samples)
        calls[quantizer] += index == 0
        if not bool(args[0].isfinite().all()):
            raise ValueError(
                f"{quantizer.site} is NaN or infinite in calibration batch {index}: is the data, or a weight?"
            )
        if index < counts[quantizer]:
            observe_at_each_(quantizer, args[0])
        if quantizer.enabled and not quantizer.calibrated:
            raise ValueError(_nothing_seen(quantizer, index + 1))

    hooks = [quantizer.register_forward_pre_hook(observe) for quantizer in counts]  # type: ignore[arg-type]
    try:
        for x in track(inputs, description, total=max(counts.values())):
            _use_batch_statistics_(model, not _is_float(model) and len(x) > 1)
            model(x)
            samples.append(len(x))
    finally:
        for hook in hooks:
            hook.remove()
    shared = {quantizer: n for quantizer, n in calls.items() if quantizer.site.role == "output" and n > 1}
    if shared:
        warnings.warn(_shared_words(shared), stacklevel=4)
    return samples


def _shared_words(calls: Mapping[Quantizer, int]) -> str:
    listed = ", ".join(f"{quantizer.site.layer!r} ({n} times)" for quantizer, n in calls.items())
    return (
        f"activations that run several times in a forward have one step for all: {listed}. "
        "flatbit.split_shared_(model) before quantize_ gives each call its own, but where a module has parameters"
    )


def _refuse_uncalled(model: nn.Module, x: Tensor, unset: Iterable[Quantizer]) -> None:
    """Raise ValueError where quantizers saw nothing since the model does not call their layers."""
    ran = multiplied(model, example_of(model, x))
    if found := uncalled(dict.fromkeys(quantizer.site.layer for quantizer in unset), ran):
        listed = "".join(f"\n  {name}: {why}" for name, why in found.items())
        raise ValueError(
            f"{len(found)} layers are quantized, and the model does not run them. Leave them in float, before "
            f"quantize_: {mend(found)}{listed}"
        )


def _nothing_seen(quantizer: Quantizer, num_batches: int) -> str:
    return (
        f"{quantizer.site}: it was {quantizer.uninformative}, or never reached, in all {num_batches} calibration "
        f"batches, so its range is unknown: calibrate with more data, or leave it float with "
        f"policy.override({quantizer.site.layer!r}, activations=32), before quantize_"
    )


def _is_float(model: nn.Module) -> bool:
    return not any(quantizer.enabled for _, quantizer in quantizers_of(model))


def _use_batch_statistics_(model: nn.Module, use: bool) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.training = use


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put training modes and running statistics back as they were."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        with modes_kept(model):
            yield
    finally:
        for buffer, kept in statistics:
            buffer.copy_(kept)
