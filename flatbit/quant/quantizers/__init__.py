"""Quantization methods and the papers' conventions, one file each; the folder is scanned.

A file defines quantizers and registers them under its own name, with its paper's convention (what is kept
at 8 bits or in float, where activations are quantized), which moves the numbers as much as the method does::

    METHODS.add("uniq", Method(weights=UniqWeight, activations=UniqActivation, paper="..."))
    POLICIES.add("uniq", convention)

A method without one has first and last layers of 8 bits, or of the most that it has.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, get_args

from ...registry import Registry, nearest
from ..quantizer import Quantizer
from ..rounding import Surrogate, Ties
from ..site import Site
from ..spec import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method quantizes, and with what; None where the method has no quantizer of that kind.

    Attributes:
        weights, activations: the quantizers.
        paper: whose.
        public: whether ``policy`` takes it by name; False for a part of others (fixed point).
    """

    weights: type[Quantizer] | None = None
    activations: type[Quantizer] | None = None
    paper: str
    public: bool = True


NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Methods(Registry[Method]):
    """Methods by name, whose quantizers are whole and say the same name."""

    def add(self, name: str, thing: Method) -> Method:
        """Register a method. Raises ValueError as ``Registry``, and for what is no method of such quantizers."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"quantization method {name!r}: expected letters, digits, - and _, a letter first")
        if not isinstance(thing, Method):
            raise ValueError(
                f"quantization method {name!r}: expected a Method(weights=..., activations=...), got {thing!r}"
            )
        if thing.weights is thing.activations is None:
            raise ValueError(f"quantization method {name!r} quantizes neither weights nor activations: give it one")
        for role in ("weights", "activations"):
            if (made := getattr(thing, role)) is not None and (why := _lacks(made, name)):
                raise ValueError(f"quantization method {name!r}: {role}={made!r}: {why}")
        return super().add(name, thing)


def _lacks(made: Any, name: str) -> str:
    """Why a quantizer cannot be registered under a name; empty where it can."""
    if not isinstance(made, type) or not issubclass(made, Quantizer):
        return "expected a subclass of Quantizer"
    if abstract := inspect.isabstract(made) and sorted(made.__abstractmethods__):
        return f"it lacks {', '.join(abstract)}"
    if (said := getattr(made, "method", None)) != name:
        return f"its attribute method is {said!r}: expected the name that it is registered by"
    for attribute, known in (("surrogate", get_args(Surrogate)), ("ties", get_args(Ties))):
        if (said := getattr(made, attribute, None)) not in known:
            return f"its attribute {attribute} is {said!r}: expected {' or '.join(map(repr, known))}"
    if not made.supported_bits:
        return "its attribute supported_bits is empty: expected the bit-widths that it has"
    return ""


METHODS: Methods = Methods("quantization method", __name__)
"""Conventions: from bits of weights and activations to a policy. The docstring says what is kept where."""


def quantizer_class(spec: TensorSpec, site: Site) -> type[Quantizer]:
    """What quantizes the tensor at a site by the method of a spec. Raises ValueError where it has nothing for it."""
    method = METHODS.get(spec.method)
    made = method.weights if site.role in ("weight", "bias") else method.activations
    if made is None:
        raise ValueError(f"{site}: method {spec.method!r} does not quantize {site.role}s")
    return made


def make_quantizer(spec: TensorSpec, site: Site) -> Quantizer:
    """The quantizer of a spec at a site. Raises ValueError for unknown methods, bits or options."""
    made = quantizer_class(spec, site)
    known = list(inspect.signature(made).parameters)[3:]
    for option in spec.options:
        if option not in known:
            words = nearest(option, known) if known else "it has none"
            raise ValueError(f"{site}: method {spec.method!r} has no option {option!r}: {words}")
    return made(spec.bits, site, spec.granularity, **spec.options)
