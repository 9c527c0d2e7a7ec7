"""Run order: do the layers that a policy took for the first and the last really run first and last?

Roles follow the order of definition, which code need not run in. A first layer at 8 bits that is not
the one that reads the image would make every stated convention false.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .policy import roles_of
from .table import quantized_layers, weighted_layers


class RunOrder:
    """Records which weighted layers a model runs, in order, while its hooks are in place.

    Attributes:
        names: of the layers, in the order of their calls.
        read_image: those that read the model's input itself; branches may share it.
        hooks: to remove.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = model
        self.names: list[str] = []
        self.read_image: set[str] = set()
        self.image = x.data_ptr()
        self.hooks = [module.register_forward_pre_hook(self._note(name)) for name, module in weighted_layers(model)]

    def _note(self, name: str) -> Any:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.names.append(name)
            if args and args[0].data_ptr() == self.image:
                self.read_image.add(name)

        return note

    def wrong_end(self, read: Container[str] = ()) -> str | None:
        """What is wrong with the first or last layer, and the mend; None where all is right.

        A layer that is quantized as the stated one would be is no error, whatever its role is called; nor is one that
        runs behind a float layer whose weight was ``read`` past its call, as no hook sees.
        """
        if not self.names:
            return None
        layers = dict(quantized_layers(self.model))
        past = {role for name, role in roles_of(self.model).items() if name in read and name not in self.names}
        ends = {"first": self.names[0]}
        if self.names[-1] != self.names[0]:
            ends["last"] = self.names[-1]
        for role, name in ends.items():
            if name not in layers or layers[name].spec.role == role:
                continue
            stated = next((other for other, layer in layers.items() if layer.spec.role == role), None)
            own = layers[name].spec
            alike = stated is not None and replace(layers[stated].spec.stated(), role=own.role) == own.stated()
            if alike or (stated is None and role in past) or (role == "first" and stated in self.read_image):
                continue
            taken = f"took {stated!r} for it" if stated else f"left in float what is defined {role}"
            return (
                f"layer {name!r} runs {role}, but the policy {taken}: their bits are on the wrong layers. "
                f"Name it: policy.first_last({role}={name!r}) (--{role} {name})"
            )
        return None
