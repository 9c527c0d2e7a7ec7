"""Rows of nets whose bits a search finds: SAMQ's. Two commands, one after the other: the search, then the training.

No experiment fills them: what it trains is known when the search is done, and the queue does not search.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .published import Published

NETS = {"ResNet-20": "resnet20", "MobileNetV2": "mobilenet", "ResNet-18": "resnet18-imagenet"}
"""Of the float experiments of SAQ, by the papers' names; MobileNetV2 on ImageNet has one of its own."""
RECIPES = {
    "resnet20": ("preresnet20", "saq-preresnet20-cifar100"),
    "mobilenet": ("mobilenet_v2_cifar", "saq-mobilenet_v2-cifar100"),
    "resnet18-imagenet": ("resnet18", "saq-resnet18-imagenet"),
    "mobilenet_v2-imagenet": ("mobilenet_v2", "saq-mobilenet_v2-imagenet"),
}
"""Model and recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """A search and the training of what it finds.

    Attributes:
        net: a key of ``RECIPES``.
        bits: of the uniform net whose cost is the budget (SAQ, 5.1); its printed rho is that of the training.
        sharp_search, sharp_training: with SAQ's sharpness, or without (Table 4).
    """

    net: str
    bits: int
    sharp_search: bool = True
    sharp_training: bool = True

    @property
    def start(self) -> str:
        """The experiment that leaves the float net."""
        return f"saq/{self.net}-float"

    @property
    def what(self) -> str:
        """In words."""
        without = [] if self.sharp_search else ["searched without sharpness"]
        without += [] if self.sharp_training else ["trained by SGD"]
        return ", ".join([f"SAMQ: {RECIPES[self.net][0]} at the cost of {self.bits} bits", *without])

    @property
    def name(self) -> str:
        """Of the run's folder."""
        parts = ["" if self.sharp_search else "-plain", "" if self.sharp_training else "-sgd"]
        return f"saq/{self.net}-samq-{self.bits}{''.join(parts)}"

    def commands(self) -> tuple[str, str]:
        """``flatbit search ...`` and ``flatbit run ...``; DIR stands for the data sets' folder."""
        model, recipe = RECIPES[self.net]
        weights = ["--checkpoint", f"runs/saq/{self.net}-float/model.safetensors"]
        imagenet = self.net.endswith("imagenet")
        found = f"runs/saq/{self.net}-search-{self.bits}{'' if self.sharp_search else '-plain'}"
        search = ["flatbit", "search", model, *([] if imagenet else ["--model-arg", "variant=saq"]), *weights]
        search += ["--data", "imagenet" if imagenet else "cifar100", "--data-dir", "DIR", "--method", "samq"]
        search += ["--budget", f"{self.bits}bits", *([] if self.sharp_search else ["--rho", "0"])]
        search += ["--epochs", "0", "--out", found]
        settings = {"pretraining": "none", "weights": self.bits, "activations": self.bits}
        settings |= {"assignment": f"{found}/assignment.toml"} | ({} if self.sharp_training else {"sharpness": "none"})
        train = ["flatbit", "run", recipe, "--data-dir", "DIR", *weights]
        train += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return shlex.join(search), shlex.join([*train, "--out", f"runs/{self.name}"])


def searched(row: Published) -> Searched | None:
    """The search that a row's net comes from; None where it comes from none."""
    if row.paper != "SAQ" or not row.method.startswith("SAMQ") or row.value is None:
        return None
    net = "mobilenet_v2-imagenet" if (row.network, row.dataset) == ("MobileNetV2", "ImageNet") else NETS[row.network]
    sharp_search, sharp_training = "w/o" not in row.method, "SGD" not in row.method
    return Searched(net=net, bits=_bits(row), sharp_search=sharp_search, sharp_training=sharp_training)


def _bits(row: Published) -> int:
    """Table 1 has each net at the budgets of 4 bits, then of 3; Table 2 at that of 4, Table 4 at that of 3."""
    number = int(row.id.rpartition("-")[2])
    return {"T1": 3 if 25 <= number <= 44 or number >= 69 else 4, "T2": 4, "T4": 3}[row.table]
