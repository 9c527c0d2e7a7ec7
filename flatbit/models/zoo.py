"""Any classifier of torchvision or timm by name: ``build("torchvision/resnet18")``, ``build("timm/convnext_tiny")``.

The libraries are imported where they are asked for. Weights are not downloaded unless the library is
told to (torchvision's ``weights="DEFAULT"``, timm's ``pretrained=True``); files of yours go through
``load_weights_``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from ..registry import nearest
from .shared import split_shared_

AUXILIARY_HEADS = {"inception_v3": ("AuxLogits",), "googlenet": ("aux1", "aux2")}
INSTALL = "pip install torchvision timm, of the same build as torch"


def library_builder(name: str) -> Callable[..., nn.Module]:
    """The builder of ``torchvision/NAME`` or ``timm/NAME``.

    Raises ValueError: an unknown library or model (suggests the nearest), or a library that is not
    installed.
    """
    library, _, model = name.partition("/")
    if library not in LIBRARIES:
        raise ValueError(f"model {name!r}: unknown library {library!r}: {nearest(library, list(LIBRARIES))}")
    return LIBRARIES[library](model)


def _torchvision(name: str) -> Callable[..., nn.Module]:
    models = _import("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}: {nearest(name, known)}")
    return partial(_torchvision_model, name)


def _torchvision_model(name: str, *, num_classes: int = 1000, **arguments: Any) -> nn.Module:
    """A torchvision classifier; ``arguments`` go to its builder. Auxiliary heads are left out unless asked for.

    An activation that a block uses several times becomes one for each (``split_shared_``): quantized at its output it
    has a step of its own there. No value changes, nor a key of the ``state_dict``.
    """
    model = _as_published(name, num_classes, arguments)
    split_shared_(model)
    return model


def _as_published(name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    build = partial(_import("torchvision.models").get_model, name, num_classes=num_classes)
    heads = AUXILIARY_HEADS.get(name, ())
    if not heads or "aux_logits" in arguments:
        return build(**arguments)
    model = build(**{"init_weights": True} | arguments)  # published weights have the heads: built, then left out
    model.aux_logits = False
    for head in heads:
        setattr(model, head, None)
    return model


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = _import("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}: {nearest(name, timm.list_models())}")
    return partial(_timm_model, name)


def _timm_model(name: str, *, num_classes: int = 1000, in_channels: int = 3, **arguments: Any) -> nn.Module:
    """A timm classifier; ``arguments`` go to ``timm.create_model``."""
    return _import("timm").create_model(name, num_classes=num_classes, in_chans=in_channels, **arguments)


def _import(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except (ImportError, RuntimeError) as error:  # torchvision beside a torch of another build raises RuntimeError
        package = library.partition(".")[0]
        raise ValueError(f"{package} cannot be imported here ({error}): {INSTALL}") from error


LIBRARIES: dict[str, Callable[[str], Callable[..., nn.Module]]] = {"torchvision": _torchvision, "timm": _timm}
