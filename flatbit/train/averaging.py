"""Averaging: captures of a model, taken while it trains, averaged as the network computes with them.

A float network's captures are averaged plainly (SWA, Izmailov et al., 2018). A quantized network's
are averaged after quantization (SQWA, Shin et al., 2020): n captures on one grid of step D have
their mean on a grid of step D/n, which needs a few bits more. ``requantize_`` then brings the
average back to low bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn

from ..device import device_of
from ..quant.calibrate import start_weights_
from ..quant.convert import apply_specs_, resolved_specs, restore_
from ..quant.grid import Grid
from ..quant.layers import QUANTIZER, QuantizedLayer
from ..quant.policy import Policy
from ..quant.quantizer import MAX_BITS, Quantizer
from ..quant.quantizers import make_quantizer
from ..quant.reparametrized import refuse_reparametrized
from ..quant.spec import LayerSpec, TensorSpec
from ..quant.table import is_weighted, quantized_layers, quantized_tensors, quantizers_of, slots_of
from ..undo import undone_on_failure
from .mean_grid import capacity, check_joins, mean_spec


@final
class QuantizedAverage:
    """The mean of captures of a model, without keeping them: of the quantized weights, and of what is float.

    Weights of convolutions and linear layers of at most 7 bits: the sum of their integer codes, on
    the one grid that all captures must share; the mean is ``(step/n) (sum of codes + n offset)``. Weights
    of 8 bits (first and last, in many conventions) have no finer grid: their latent weights are averaged, and
    stay on their own grid. Other parameters, and the learned or calibrated state of activation
    quantizers: the arithmetic mean. All other buffers, the running statistics of batch norms among
    them, are the last capture's: re-estimate these after ``apply_`` (``reestimate_batchnorm_``), as SWA does.

    Attributes:
        model: what ``add`` captures; quantized, or float for good, when it comes here.
        count: captures so far.

    Raises:
        ValueError: one weight step per output channel, which has no average on one grid.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.count = 0
        self._specs = {name: _averageable(tensor) for name, tensor in _on_grid(model).items()}
        self._codes: dict[str, Tensor] = {}
        self._grids: dict[str, Grid] = {}
        self._sums: dict[str, Tensor] = {}
        self._latest: dict[str, Tensor] = {}

    @property
    def capacity(self) -> int | None:
        """How many captures of the calibrated model have an average of at most 8 bits; None for a float model."""
        grids = [found.quantizer.grid(found.weight) for found in _on_grid(self.model).values()]
        return min(map(capacity, grids), default=None)

    def quantizers(self) -> list[Quantizer]:
        """Of the weights that are averaged after quantization, whose grids must not move between captures."""
        return [found.quantizer for found in _on_grid(self.model).values()]

    @torch.no_grad()
    def add(self) -> None:
        """Capture the model as it is now.

        Raises:
            ValueError: a grid that moved since the first capture, more captures than fit in 8 bits, weights
                that are not finite, another model than at the first capture. Nothing is then added.
        """
        self._check_same(self.model)
        means, latest = _tensors(self.model)
        captured = {name: self._captured(name, found) for name, found in _on_grid(self.model).items()}
        grids = {name: grid for name, (grid, _) in captured.items()} | self._grids
        codes = {name: codes + self._codes.get(name, 0) for name, (_, codes) in captured.items()}
        sums = {name: tensor.double() + self._sums.get(name, 0.0) for name, tensor in means.items()}
        kept = {name: tensor.clone() for name, tensor in latest.items()}
        self._grids, self._codes, self._sums, self._latest, self.count = grids, codes, sums, kept, self.count + 1

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Put the average into a model of the same kind, in place: into the captured one, or another.

        Each averaged weight lies exactly on its grid of step/n and gets that grid as its quantizer: the
        method ``sqwa`` at the bits that the average has; its spec keeps what it was averaged from.

        Raises:
            ValueError: no capture yet, or another model. The model is then as it was.
        """
        if not self.count:
            raise ValueError("nothing was captured: call add() at least once before apply_(model)")
        self._check_same(model)
        with undone_on_failure(model, chain(model.parameters(), model.buffers())):
            self._put_into_(model)

    def _put_into_(self, model: nn.Module) -> None:
        means, latest = _tensors(model)
        for name, tensor in means.items():
            tensor.copy_(self._sums[name] / self.count)
        for name, tensor in latest.items():
            tensor.copy_(self._latest[name])
        shared: dict[int, Quantizer] = {}
        for name, found in _on_grid(model).items():
            spec = mean_spec(self._grids[name], self.count)
            quantizer = shared.setdefault(id(found.weight), self._quantizer(name, found, spec))
            codes = self._codes[name].to(found.weight.device) + int(self.count * self._grids[name].offset)
            found.weight.copy_(quantizer.grid(found.weight).value(codes))
            found.layer.register_module(found.slot + QUANTIZER, quantizer)
            before = dict(found.layer.spec.averaged_from) | {found.slot: found.low_bits}
            found.layer.spec = replace(found.layer.spec.with_tensor(found.slot, spec), averaged_from=before)

    def state_dict(self) -> dict[str, Any]:
        """The captures so far, in plain numbers and tensors: ``torch.load(weights_only=True)`` reads them."""
        grids = {name: {f.name: getattr(grid, f.name) for f in fields(Grid)} for name, grid in self._grids.items()}
        tensors = {"codes": self._codes, "sums": self._sums, "latest": self._latest}
        return {"count": self.count, "grids": grids} | {key: dict(held) for key, held in tensors.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the captures of a ``state_dict``. Raises ValueError where they are another model's."""
        if state["count"]:
            _check_shapes(state, self.model)
        device = device_of(self.model)
        grids = {name: Grid(**grid | {"step": grid["step"].to(device)}) for name, grid in state["grids"].items()}
        self._codes, self._sums, self._latest = (
            {name: tensor.to(device) for name, tensor in state[key].items()} for key in ("codes", "sums", "latest")
        )
        self._grids, self.count = grids, state["count"]

    def _captured(self, name: str, found: _OnGrid) -> tuple[Grid, Tensor]:
        """The grid and the codes of one weight, if they can join what was captured before."""
        if not found.weight.isfinite().all():
            raise ValueError(f"{found.quantizer.site} has NaN or infinite values: the run diverged")
        grid = found.quantizer.grid(found.weight)
        check_joins(found.quantizer, grid, self._grids.get(name) or grid, self.count + 1)
        return grid, found.quantizer.codes(found.weight)

    def _quantizer(self, name: str, found: _OnGrid, spec: TensorSpec) -> Quantizer:
        """The fixed grid of one weight's average."""
        quantizer = make_quantizer(spec, replace(found.quantizer.site, candidates=())).to(found.weight)
        quantizer.load_state_dict({"bits": quantizer.bits, "step": self._grids[name].step.reshape(()) / self.count})
        return quantizer

    def _check_same(self, model: nn.Module) -> None:
        """Raise ValueError unless the model has the weight specs and the shapes of what was captured."""
        specs = {name: found.low_bits for name, found in _on_grid(model).items()}
        for name in [*self._specs, *specs]:
            if (got := specs.get(name)) != (expected := self._specs.get(name)):
                raise ValueError(
                    f"weight {name!r} is {got or 'float'} here, {expected or 'float'} in the model that "
                    "QuantizedAverage was made for: quantize by the same policy, and before"
                )
        if self.count:
            _check_shapes(self.state_dict(), model)


def averaged(model: nn.Module) -> bool:
    """Whether a model holds an average of quantized captures, on its own grid still."""
    return any(layer.spec.averaged_from for _, layer in quantized_layers(model))


def requantize_(model: nn.Module, policy: Policy | None = None, *, strict: bool = True) -> None:
    """Quantize a quantized model anew, in place: an average back to low bits, or any model by another policy.

    Quantizers whose spec stays are kept with their state, so activations keep their learned steps. A
    weight whose spec changes gets a new quantizer that starts from the weight as it is, by its method's
    own start: for ``sqwa`` the D of least squared error (SQWA's stage 5), for ``uniq`` and ``lsq`` the
    rules of their papers, for ``saq`` a clip of 1 standard deviation. An activation whose
    spec changes gets one without a step: call ``calibrate_`` then, which starts all of them. New quantizers of
    frozen layers are frozen, as ``quantize_`` has it.

    Args:
        model: quantized.
        policy: what each layer gets; None for what the averaged weights had before.
        strict: as ``quantize_`` takes it.

    Raises:
        ValueError: not quantized, nothing averaged and no policy, whatever ``quantize_`` refuses. The model is then
            as it was.
    """
    state = (chain(quantizer.parameters(), quantizer.buffers()) for _, quantizer in quantizers_of(model))
    with undone_on_failure(model, chain.from_iterable(state)):
        _requantize_(model, policy, strict)


def _requantize_(model: nn.Module, policy: Policy | None, strict: bool) -> None:
    before = {name: (layer, layer.spec, dict(layer._modules)) for name, layer in quantized_layers(model)}
    specs = resolved_specs(model, policy, strict=strict)[0] if policy and before else _unaveraged(model)
    apply_specs_(model, specs)
    for name, (layer, spec, quantizers) in before.items():
        if name not in specs:
            restore_(layer)
            continue
        layer.spec = replace(layer.spec, producers=spec.producers)
        for slot in slots_of(layer):
            kept = spec.tensors.get(slot.name)
            if kept is not None and kept == layer.spec.tensors.get(slot.name):
                layer.register_module(slot.name + QUANTIZER, quantizers[slot.name + QUANTIZER])
    for name, layer in quantized_layers(model):
        weights = [slot.name for slot in slots_of(layer, "weight")]
        old = before[name][1].tensors if name in before else {}
        if any(old.get(slot) != layer.spec.tensors.get(slot) for slot in weights):
            start_weights_(name, layer)


def freeze_weight_steps_(model: nn.Module) -> None:
    """Keep the learned steps and clips of weight quantizers as they are, in place, so that captures share a grid."""
    for _, quantizer in quantizers_of(model):
        if quantizer.site.role == "weight":
            for parameter in quantizer.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None  # or an optimizer goes on with what is left in it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _OnGrid:
    """A weight that is averaged after quantization: where it is, what quantizes it, its spec before any averaging."""

    layer: QuantizedLayer
    slot: str
    quantizer: Quantizer
    weight: nn.Parameter
    low_bits: TensorSpec


def _on_grid(model: nn.Module) -> dict[str, _OnGrid]:
    """The weights that are averaged after quantization, by name: not the scales of batch norms, nor 8 bits."""
    found = {}
    refuse_reparametrized(quantized_layers(model), "averaging")
    for name, layer in quantized_layers(model):
        for slot, quantizer, weight in quantized_tensors(layer, "weight"):
            spec = layer.spec.averaged_from.get(slot.name) or layer.spec.tensors[slot.name]
            if is_weighted(layer) and spec.bits < MAX_BITS:
                found[f"{name}.{slot.name}"] = _OnGrid(
                    layer=layer, slot=slot.name, quantizer=quantizer, weight=weight, low_bits=spec
                )
    return found


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is averaged plainly, and what is kept from the last capture, by name; neither holds weights on grids."""
    on_grid = [t for found in _on_grid(model).values() for t in (found.weight, *_state(found.quantizer))]
    named = dict(chain(model.named_parameters(), model.named_buffers()))
    named = {name: tensor for name, tensor in named.items() if id(tensor) not in set(map(id, on_grid))}
    trained = {id(t) for t in chain(model.parameters(), *(_state(quantizer) for _, quantizer in quantizers_of(model)))}
    means = {name: t for name, t in named.items() if t.is_floating_point() and id(t) in trained}
    return means, {name: t for name, t in named.items() if name not in means}


def _state(quantizer: Quantizer) -> list[Tensor]:
    return [*quantizer.parameters(), *quantizer.buffers()]


def _averageable(found: _OnGrid) -> TensorSpec:
    """The spec of a weight, which must have one step."""
    quantizer = found.quantizer
    if quantizer.num_steps > 1:
        raise ValueError(
            f"{quantizer.site} has {quantizer.num_steps} steps, one per output channel, and an average needs one per "
            f"tensor: policy.override({quantizer.site.layer!r}, granularity='tensor')"
        )
    return found.low_bits


def _unaveraged(model: nn.Module) -> dict[str, LayerSpec]:
    """The specs of a model, with what its averaged weights had before."""
    specs = {name: layer.spec for name, layer in quantized_layers(model)}
    if not specs:
        raise ValueError("the model is not quantized: call flatbit.quantize_(model, policy) first")
    if not averaged(model):
        raise ValueError(
            "no weight of the model is an average, so there is nothing to go back to: call "
            "QuantizedAverage.apply_(model) first, or say what it shall get with requantize_(model, policy)"
        )
    return {
        name: replace(spec, tensors=dict(spec.tensors) | dict(spec.averaged_from), averaged_from={})
        for name, spec in specs.items()
    }


def _check_shapes(state: Mapping[str, Any], model: nn.Module) -> None:
    """Raise ValueError unless captures have the tensors of the model."""
    means, latest = _tensors(model)
    codes = {name: found.weight for name, found in _on_grid(model).items()}
    for key, own in (("codes", codes), ("sums", means), ("latest", latest)):
        for name in [*state[key], *own]:
            there, here = (tuple(held[name].shape) if name in held else "missing" for held in (state[key], own))
            if there != here:
                raise ValueError(
                    f"the captures are of another model: {name!r} is {there} in them, {here} in this one: "
                    "build and quantize it alike"
                )
