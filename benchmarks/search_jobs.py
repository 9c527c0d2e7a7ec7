"""The runs of ``search.py``: the float net, searches, measures and fine-tunings, each kept where it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import flatbit as fb
from flatbit.atomic import replacing
from flatbit.cli.searching import training_images
from flatbit.data.held_out import held_out
from flatbit.engine import Checkpoint, Recipe, Run, Stage, plan, read_run, run
from flatbit.engine.record import RECORD
from flatbit.quant.policy import Policy
from flatbit.search.allocation import allocate
from flatbit.search.alternation import Search
from flatbit.search.assignment_file import assigned
from flatbit.search.budget import Budget
from flatbit.search.opened import Searched
from flatbit.search.per_bit import SharedNet
from flatbit.search.samq import Samq
from flatbit.search.sensitivity import SAMPLES, Sensitivity, sensitivity
from flatbit.train.schedules import Cosine
from flatbit.train.sharpness import Sharpness

METHODS = ("samq", "samq-plain", "ilp", "uniform")
WIDTHS = {3: (2, 3, 4, 5), 2: (1, 2, 3, 4)}
"""What layers choose from, by the uniform net whose cost is the budget; no net of 2 and more bits costs less than 2."""
MEASURED = tuple(sorted({bits for widths in WIDTHS.values() for bits in widths}))
LOW, HIGH = 2, 4
"""Bits of the one layer, and of all others, in the nets that measures are held against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The net, its images, and how long everything trains: SGD 0.9 with a cosine to 0, but for a search's own steps.

    Attributes:
        data, data_arguments, model, model_arguments: for ``flatbit.data.load`` and ``flatbit.models.build``.
        float_epochs, float_lr, float_decay: of the float net, which all start from; its seed is 0.
        search_epochs, rho: of SAMQ, a tenth of them its warm-up; rho is that of the study of methods.
        tune_epochs, alone_epochs: of fine-tuning a net that was found, and one with a single layer at 2 bits.
        lr, weight_decay, batch_size: of all fine-tuning; the batch size of all training.
    """

    data: str = "methods:few_images"
    data_arguments: Mapping[str, Any] = field(default_factory=lambda: {"samples": 10_000})
    model: str = "preresnet14"
    model_arguments: Mapping[str, Any] = field(default_factory=lambda: {"first_width": 8, "variant": "saq"})
    float_epochs: int = 10
    float_lr: float = 0.1
    float_decay: float = 5e-4
    search_epochs: int = 20
    rho: float = 0.1
    tune_epochs: int = 5
    alone_epochs: int = 1
    lr: float = 0.01
    weight_decay: float = 1e-4
    batch_size: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where runs are kept, and of what."""

    out: Path
    data_dir: str | None
    setting: Setting = Setting()

    @property
    def float_file(self) -> Path:
        return self.out / "float" / "model.safetensors"

    def found(self, method: str, bits: int) -> Path:
        """The file of what a method chose at the cost of the uniform net of so many bits."""
        return self.out / "found" / f"{method}-{bits}bits.json"

    def measured(self, measure: str) -> Path:
        """The file of a measure."""
        return self.out / "measured" / f"{measure}.json"

    def tuned(self, bits: Mapping[str, int], epochs: int, seed: int) -> Path:
        """The folder of a fine-tuning: of one net, whichever methods chose it."""
        return self.out / "tuned" / f"{''.join(map(str, bits.values()))}-{epochs}epochs" / f"seed{seed}"

    def claim(self) -> None:
        """Say in the folder what its runs are of. Raises ValueError where it holds those of another setting."""
        path, here = self.out / "setting.json", json.loads(json.dumps(asdict(self.setting)))
        if path.is_file() and (there := json.loads(path.read_text())) != here:
            other = {key: value for key, value in there.items() if here.get(key) != value}
            raise ValueError(f"{self.out} holds runs with {other}: take another --out, or the same setting")
        with replacing(path) as partial:
            partial.write_text(json.dumps(here, indent=1))


def train_float(place: Place) -> Run:
    """The float net."""
    setting = place.setting
    descent: dict[str, Any] = {"lr": setting.float_lr, "weight_decay": setting.float_decay}
    return _trained(place, place.out / "float", setting.float_epochs, descent, seed=0, checkpoint=None)


def tune(place: Place, bits: Mapping[str, int], epochs: int, seed: int) -> Run:
    """A net of given bits, fine-tuned from the float weights; SAQ's quantizers, plain SGD."""
    space = searched(place, MEASURED).space
    policy = assigned(saq(HIGH), space.assignment(bits))
    descent: dict[str, Any] = {
        "lr": place.setting.lr, "weight_decay": place.setting.weight_decay, "policy": policy,
    }  # fmt: skip
    checkpoint = Checkpoint(path=place.float_file)
    return _trained(place, place.tuned(bits, epochs, seed), epochs, descent, seed=seed, checkpoint=checkpoint)


def find(place: Place, method: str, bits: int) -> dict[str, Any]:
    """Bits of each layer at the cost of the uniform net of ``bits``, kept with cost and seconds."""
    if (path := place.found(method, bits)).is_file():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    net, begun = searched(place, WIDTHS[bits]), time.process_time()
    target = net.prices.total(net.space.uniform(bits)).bitops
    chosen = {
        "uniform": lambda: net.space.uniform(bits),
        "ilp": lambda: _allocated(place, net, target),
        "samq": lambda: _drawn(place, net, target, path.with_suffix(""), place.setting.rho),
        "samq-plain": lambda: _drawn(place, net, target, path.with_suffix(""), 0.0),
    }[method]()
    found = {
        "method": method, "budget_bits": bits, "budget_bitops": target, "bits": dict(chosen),
        "bitops": net.prices.total(chosen).bitops, "cpu_s": time.process_time() - begun,
    }  # fmt: skip
    with replacing(path) as partial:
        partial.write_text(json.dumps(found, indent=1))
    return found


def measure(place: Place, name: str) -> Sensitivity:
    """A measure of every layer at every width, on 512 training images."""
    if not (path := place.measured(name)).is_file():
        torch.set_num_threads(1)
        net = searched(place, MEASURED)
        images = training_images(net, SAMPLES, place.setting.batch_size)
        sensitivity(net.model, net.policy, net.space, images, measure=name).save(path)
    return Sensitivity.load(path)


def alone(layer: str | None, names: Sequence[str]) -> dict[str, int]:
    """All layers at 4 bits, but one at 2; None for none."""
    return {name: LOW if name == layer else HIGH for name in names}


def searched(place: Place, widths: tuple[int, ...]) -> Searched:
    """The float net with its space, prices and images."""
    setting = place.setting
    data = fb.data.load(setting.data, place.data_dir, **setting.data_arguments)
    given = {"num_classes": data.num_classes, "in_channels": data.image_shape[0]}
    model = fb.models.build(setting.model, **given | dict(setting.model_arguments))
    Checkpoint(path=place.float_file).load_(model)
    return Searched.of(model.eval(), saq(widths[-1]), data, widths=widths)


def saq(bits: int) -> Policy:
    """SAQ's quantizers."""
    return fb.policy("saq", weights=bits, activations=bits)


def finished(folder: Path) -> Run | None:
    """A run that is done; None where it is not."""
    if not (folder / RECORD).is_file():
        return None
    found = read_run(folder)
    return found if found.record.stages else None


def _trained(
    place: Place, folder: Path, epochs: int, descent: Mapping[str, Any], *, seed: int, checkpoint: Checkpoint | None
) -> Run:
    """A run of one stage, one thread, its output in a file; the test set is looked at once."""
    if (done := finished(folder)) is not None:
        return done
    torch.set_num_threads(1)
    setting = place.setting
    stage = Stage(
        name="trained", epochs=epochs, schedule=Cosine(), batch_size=setting.batch_size, evaluate_every=epochs,
        **descent,
    )  # fmt: skip
    recipe = Recipe(
        name="search", model=setting.model, model_arguments=setting.model_arguments, data=setting.data,
        data_arguments=setting.data_arguments, stages=(stage,),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    planned = plan(recipe, seed=seed, data_dir=place.data_dir, checkpoint=checkpoint)
    with (folder / "log.txt").open("a") as log:
        return run(planned, folder, resume=True, say=lambda line: print(line, file=log, flush=True))


def _allocated(place: Place, net: Searched, target: int) -> Mapping[str, int]:
    """The optimum of the default measure."""
    rows = measure(place, "loss").values
    loss = {choice.name: {bits: rows[choice.name][bits] for bits in choice.widths} for choice in net.space.choices}
    return allocate(loss, net.prices, Budget(bitops=target)).bits


def _drawn(place: Place, net: Searched, target: int, out: Path, rho: float) -> Mapping[str, int]:
    """The best accepted sample of SAMQ; half of the images teach its generator."""
    setting = place.setting
    settings = Samq(
        epochs=setting.search_epochs, warmup=setting.search_epochs // 10, lr=setting.lr, batch_size=setting.batch_size,
        weight_decay=setting.weight_decay, sharpness=Sharpness(method="saq", rho=rho) if rho else None,
    )  # fmt: skip
    total = net.data.train_batches(1, seed=0).num_samples
    training, validation = held_out(net.data, total // 2)
    widths = net.space.choices[0].widths
    fb.quantize_(net.model, net.policy, candidates=widths)
    fb.calibrate_(net.model, training.train_batches(setting.batch_size, seed=0))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a") as log:
        search = Search(
            net=SharedNet(net.model, net.space), prices=net.prices, target=target, settings=settings,
            training=training, validation=validation,
        )  # fmt: skip
        return search.run(out, resume=True, say=lambda line: print(line, file=log, flush=True)).best.bits
