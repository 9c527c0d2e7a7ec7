"""The span of models: one network that takes the place of any weighted mean of them.

The mean with a share of 1 of one model, and 0 of the others, is that model, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..inputs import check_one_input
from ..quant.calibrate import start_weights_
from ..quant.facts import FACTS
from ..quant.quantizer import Quantizer
from ..quant.reparametrized import refuse_reparametrized
from ..quant.table import quantized_layers, quantized_tensors, quantizers_of
from ..wrappers import unwrapped

WEIGHTS = ("weight", "bias")


class Span:
    """A copy of the first of some models, in eval mode, that ``move_`` makes any mean of them.

    Parameters take the mean, latent weights among them. What calibration sets (steps, clips) takes the geometric mean,
    so that it stays positive; the plain one where a sign differs. A weight's step that is not learned (SQWA's D) and
    differs between the models is fitted to the mean weight, by its method's own start.

    Args:
        models: of one architecture, by name; left as they are.
        rounded: False takes quantized weights in place of latent ones, and rounds no mean of them.

    Attributes:
        names: of the models.
        network: the copy.
        refitted: whether a step is fitted.

    Raises:
        ValueError: models of different parameters or quantizers (with ``rounded`` False, those of weights may differ);
            ``rounded`` without quantized weights; a weight that is computed from other tensors.
    """

    network: nn.Module

    @torch.no_grad()
    def __init__(self, models: Mapping[str, nn.Module], *, rounded: bool) -> None:
        plain = {name: unwrapped(model) for name, model in models.items()}
        _check_alike(plain, rounded=rounded)
        self.names = tuple(plain)
        self.network = copy.deepcopy(plain[self.names[0]]).eval().requires_grad_(False)
        for _, quantizer in quantizers_of(self.network):
            quantizer.enabled = quantizer.enabled and (rounded or quantizer.site.role not in WEIGHTS)
        values = [_weights(model, rounded=rounded) for model in plain.values()]
        self._weights = [(target, [of[name] for of in values]) for name, target in _latent(self.network).items()]
        held = [dict(quantizers_of(model)) for model in plain.values()]
        active = {name: quantizer for name, quantizer in quantizers_of(self.network) if quantizer.enabled}
        self._state = [
            (target, [of[name].state()[index] for of in held])
            for name, quantizer in active.items()
            for index, target in enumerate(quantizer.state())
        ]
        differing = {name for name in active if len({str(_fixed(of[name])) for of in held}) > 1}
        self._refit = {
            name: layer
            for name, layer in quantized_layers(self.network)
            if any(f"{name}.{slot.name}_quantizer" in differing for slot, *_ in quantized_tensors(layer, "weight"))
        }
        self.refitted = bool(self._refit)

    @torch.no_grad()
    def move_(self, shares: Sequence[float]) -> None:
        """Become the mean with these shares, one per model, which sum to 1."""
        alone = shares.index(1) if sorted(shares, key=abs)[:-1] == [0] * (len(shares) - 1) else None
        for targets, mean in ((self._weights, _mean), (self._state, _geometric_mean)):
            for target, values in targets:
                target.copy_(mean(values, shares) if alone is None else values[alone])
        for name, layer in self._refit.items() if alone is None else ():
            start_weights_(name, layer)

    @torch.no_grad()
    def difference(self, index: int) -> Tensor:
        """The weights of a model less those of the first, all in one vector, in float64."""
        return torch.cat([(values[index].double() - values[0].double()).flatten() for _, values in self._weights])


def _latent(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, without steps and clips."""
    state = {id(tensor) for _, quantizer in quantizers_of(model) for tensor in quantizer.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in state}


def _weights(model: nn.Module, *, rounded: bool) -> dict[str, Tensor]:
    """Parameters by name; with ``rounded`` False those that are quantized as the model computes with them."""
    found: dict[str, Tensor] = {name: parameter.detach() for name, parameter in _latent(model).items()}
    names = {id(parameter): name for name, parameter in _latent(model).items()}
    for _, layer in quantized_layers(model) if not rounded else ():
        for _, quantizer, parameter in quantized_tensors(layer):
            found[names[id(parameter)]] = quantizer(parameter).detach()
    return found


def _facts(quantizer: Quantizer) -> str:
    return ", ".join(f"{name} {float(getattr(quantizer, name)):g}" for name in FACTS if hasattr(quantizer, name))


def _fixed(quantizer: Quantizer) -> list[list[float]]:
    """What calibration set and training does not move."""
    learned = {id(parameter) for parameter in quantizer.parameters()}
    return [tensor.flatten().tolist() for tensor in quantizer.state() if id(tensor) not in learned]


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """``sum_i share_i value_i``, in float64."""
    return torch.stack([share * value.double() for value, share in zip(values, shares, strict=True)]).sum(0)


def _geometric_mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """``prod_i value_i^share_i``, element by element, where all have one sign; elsewhere the plain mean."""
    if all(torch.equal(value, values[0]) for value in values):
        return values[0]
    sign = values[0].sign()
    same = torch.stack([value.sign() == sign for value in values]).all(0) & (sign != 0)
    logarithm = _mean([value.double().abs().log() for value in values], shares)
    return torch.where(same, sign * logarithm.exp(), _mean(values, shares))


def _check_alike(models: Mapping[str, nn.Module], *, rounded: bool) -> None:
    """Raise ValueError unless all are of one architecture and quantized alike."""
    first = next(iter(models))
    for name, model in models.items():
        check_one_input(model, name)
        refuse_reparametrized(quantized_layers(model), name)
        for there, here in ((_shapes(models[first]), _shapes(model)), _words(models[first], model, rounded=rounded)):
            for key in [key for key in {**there, **here} if there.get(key) != here.get(key)]:
                raise ValueError(
                    f"{first} and {name} differ: {key} is {there.get(key, 'missing')} in the first, "
                    f"{here.get(key, 'missing')} in the second: expected models of one architecture, quantized alike"
                )
        if rounded and not any(quantizer.site.role == "weight" for _, quantizer in quantizers_of(model)):
            raise ValueError(f"{name} has no quantized weights, expected some: quantize it, or take weights=float")


def _shapes(model: nn.Module) -> dict[str, object]:
    return {name: tuple(parameter.shape) for name, parameter in _latent(model).items()}


def _words(*models: nn.Module, rounded: bool) -> tuple[dict[str, object], ...]:
    """How each tensor of each model is quantized; weights only where they are rounded."""
    return tuple(
        {
            name: f"{quantizer.method} per {quantizer.granularity}, {_facts(quantizer)}"
            for name, quantizer in quantizers_of(model)
            if rounded or quantizer.site.role not in WEIGHTS
        }
        for model in models
    )
