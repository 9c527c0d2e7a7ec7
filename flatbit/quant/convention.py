"""The convention of a model: the rules an accuracy must be read with, found on the model itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from .layers import row_of
from .policy import LayerSpec, roles_of, spec_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """What is quantized how, in one line; stored with every result.

    Attributes:
        policy: the policy's name, ``float`` for a float model.
        first, last, shortcut, inner: weight and activation bits of these layers (``W8/A8``; several
            where they differ; ``none`` where the model has no such layer).
        image: what the network's input is turned into.
        weight_step: one step per ``tensor`` or output ``channel``.
        activations: at each layer's ``input`` or once at the activation's ``output``.
        batch_norm, bias: ``float`` or ``fixed point``.
    """

    policy: str
    first: str
    last: str
    shortcut: str
    inner: str
    image: str
    weight_step: str
    activations: str
    batch_norm: str
    bias: str

    def as_dict(self) -> dict[str, str]:
        """The fields as plain strings, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.policy == "float":
            return "float"
        return (
            f"{self.policy}: {self.inner}, first {self.first}, last {self.last}, shortcut {self.shortcut}, "
            f"image {self.image}, weight step per {self.weight_step}, activations at the {self.activations}, "
            f"batch norm {self.batch_norm}, bias {self.bias}"
        )


def convention(model: nn.Module) -> Convention:
    """The convention of a model as it stands, quantized or float."""
    modules = {name: module for name, module in model.named_modules() if row_of(module)}
    layers = [(module, spec_of(module)) for module in modules.values()]
    specs = [spec for _, spec in layers if spec]
    roles: dict[str, set[str]] = {}
    weighted = [(name, modules[name], role) for name, role in roles_of(model).items()]
    for _, module, role in weighted:
        roles.setdefault(role, set()).add(_bits(spec_of(module)))
    first = spec_of(weighted[0][1]) if weighted else None
    at_output = any(s.output for s in specs)
    return Convention(
        policy=specs[0].policy if specs else "float",
        **{role: ", ".join(sorted(roles.get(role, {"none"}))) for role in ("first", "last", "shortcut", "inner")},
        image=f"{first.input.bits} bit" if first and first.input else "float",
        weight_step=", ".join(sorted({s.weight.granularity for m, s in layers if s and _is_weighted(m) and s.weight}))
        or "none",
        activations="output" if at_output else "input" if any(s.input for s in specs) else "none",
        batch_norm=_fixed(s.weight for m, s in layers if s and not _is_weighted(m) and s.weight),
        bias=_fixed(s.bias for s in specs if s.bias),
    )


def _is_weighted(module: nn.Module) -> bool:
    row = row_of(module)
    return row is not None and row.kind in ("convolution", "linear")


def _bits(spec: LayerSpec | None) -> str:
    if spec is None:
        return "float"
    weight = spec.weight.bits if spec.weight else 32
    return f"W{weight}/A{spec.input.bits if spec.input else spec.input_bits}"


def _fixed(specs: object) -> str:
    return "fixed point" if any(True for _ in specs) else "float"  # type: ignore[attr-defined]
