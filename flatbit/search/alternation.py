"""SAMQ's alternation: weights shared by all widths learn, then the generator, and the best of its samples is taken.

Epoch by epoch the generator learns on held-out images which widths cost little, and the shared net learns on the others
at widths that the generator draws. Then widths are drawn until enough cost what they should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import plain
from ..atomic import replacing
from ..data.batches import Batch, Data
from ..device import device_of
from ..modes import modes_kept
from ..outputs import logits_of
from ..progress import bar
from ..train.losses.labels import cross_entropy
from ..train.optimizers import SGD, make_optimizer, set_rate_
from ..train.schedules import MultiStep
from ..train.sharpness import SharpnessAware
from .costs import Price, Prices
from .generator import Generator, Reinforce, Sample, adam
from .per_bit import SharedNet
from .samq import Candidate, Found, Samq, SearchEpoch

CHECKPOINT = "search.pt"
PARTS = {
    "net", "optimizer", "generator", "adam", "baseline", "stream", "history", "widths", "random", "asked",
}  # fmt: skip
Say = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class Search:
    """A search in progress.

    Attributes:
        net: the shared net.
        prices: of its choices.
        target: C, bit-operations of one image.
        settings: of the search.
        training, validation: two parts of the training images.
        seed: of all draws.
    """

    net: SharedNet
    prices: Prices
    target: int
    settings: Samq
    training: Data
    validation: Data
    seed: int = 0
    history: list[SearchEpoch] = field(default_factory=list)
    optimizer: Any = field(init=False)
    reinforce: Reinforce = field(init=False)
    stream: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        model, settings = self.net.model, self.settings
        base = make_optimizer(model, SGD(), lr=settings.lr, weight_decay=settings.weight_decay)
        flat = settings.sharpness
        self.optimizer = (
            base
            if flat is None
            else SharpnessAware(
                base, model, flat.method, flat.rho, eta=flat.eta, perturb=flat.perturb, batchnorm=flat.batchnorm
            )
        )
        generator = Generator([choice.widths for choice in self.net.space.choices], seed=self.seed)
        self.reinforce = Reinforce(
            generator=generator, optimizer=adam(generator), entropy=settings.entropy, decay=settings.baseline
        )
        self.stream = torch.Generator().manual_seed(self.seed)

    def run(self, out: Path | None = None, *, resume: bool = False, say: Say = lambda line: None) -> Found:
        """Search to the end, with a checkpoint after every epoch; the net is left as ``finish_`` leaves it.

        Args:
            out: a folder for checkpoints; None for none.
            resume: go on with the one that is there.
            say: called with a line per epoch.

        Raises:
            ValueError: none of the drawn widths costs what it should: the nearest, and what to loosen; a checkpoint of
                a search with other settings, or a damaged one.
        """
        if out is not None and resume and (out / CHECKPOINT).is_file():
            self._restore(_read(out / CHECKPOINT))
            say(f"search: going on after epoch {len(self.history)}")
        with bar("loss", "cost", "mbitops") as progress:
            task = progress.add_task("search", total=self.settings.epochs, loss="", cost="", mbitops="")
            for epoch in range(len(self.history), self.settings.epochs):
                done = self._epoch(epoch)
                self.history.append(done)
                if out is not None:
                    with replacing(out / CHECKPOINT) as partial:
                        torch.save(self._state(), partial)
                said = {"loss": f"loss {done.train_loss:.3f}"}
                if done.cost is not None:
                    said |= {"cost": f"cost {done.cost:.3f}", "mbitops": f"{done.mbitops:.1f} M bit-operations"}
                progress.update(task, completed=epoch + 1, **said)  # type: ignore[arg-type]
                say(f"search, epoch {epoch + 1}: {', '.join(said.values())}")
        accepted = self.select()
        best = max(accepted, key=lambda each: each.top1)
        if isinstance(self.optimizer, SharpnessAware):
            self.optimizer.close()
        self.net.finish_(best.bits)
        return Found(best=best, accepted=tuple(accepted), epochs=tuple(self.history))

    def cost(self, loss: float, price: Price) -> float:
        """R of one sample."""
        return loss + self.settings.kappa * ((price.bitops - self.target) / self.target) ** 2

    def select(self) -> list[Candidate]:
        """Draw widths until enough cost what they should, and score each. Raises ValueError where none does."""
        settings, accepted = self.settings, dict[tuple[int, ...], Price]()
        least = self.target * (1 - settings.window)
        nearest: tuple[float, Price] | None = None
        with torch.no_grad():
            for _ in range(settings.tries):
                sample = self.reinforce.generator.sample(self.stream)
                price = self.prices.total(self._bits(sample))
                if least <= price.bitops <= self.target:
                    accepted[sample.widths] = price
                elif nearest is None or abs(price.bitops - self.target) < nearest[0]:
                    nearest = abs(price.bitops - self.target), price
                if len(accepted) == settings.accepted:
                    break
        if not accepted:
            raise ValueError(
                f"none of {settings.tries:,} drawn assignments costs {least / 1e6:,.1f} to {self.target / 1e6:,.1f} M "
                f"bit-operations; the nearest costs {nearest[1] if nearest else 'nothing'}: search longer (epochs), "
                "widen window, or raise kappa"
            )
        names = [choice.name for choice in self.net.space.choices]
        found = [(dict(zip(names, widths, strict=True)), price) for widths, price in accepted.items()]
        return [Candidate(bits=bits, price=price, top1=self._top1(bits)) for bits, price in found]

    def _epoch(self, epoch: int) -> SearchEpoch:
        """The generator first, after the warm-up (Algorithm 1), then the net."""
        costs: list[tuple[float, float, float]] = []
        if epoch >= self.settings.warmup:
            costs = [self._teach(batch) for batch in self._batches(self.validation, epoch, augment=False)]
        rate = self.settings.lr * MultiStep((self.settings.epochs // 2,))(epoch, self.settings.epochs)
        losses = [self._train(batch, rate, epoch) for batch in self._batches(self.training, epoch, augment=True)]
        means = [sum(column) / len(costs) for column in zip(*costs, strict=True)] if costs else [None] * 3
        loss = float(torch.stack(losses).mean())
        return SearchEpoch(epoch=epoch + 1, train_loss=loss, cost=means[0], mbitops=means[1], entropy=means[2])

    def _teach(self, batch: Batch) -> tuple[float, float, float]:
        """One update of the generator: R, millions of bit-operations, entropy."""
        sample = self.reinforce.generator.sample(self.stream)
        bits = self._bits(sample)
        price = self.prices.total(bits)
        cost = self.cost(self._perturbed_loss(batch, bits), price)
        self.reinforce.step(sample, cost)
        return cost, price.bitops / 1e6, float(sample.entropy.detach())

    def _perturbed_loss(self, batch: Batch, bits: Mapping[str, int]) -> float:
        """The loss at the sample's widths, in eval mode; uphill of it where the search is sharpness-aware."""
        model, (x, y) = self.net.model, batch
        with modes_kept(model):
            model.eval()
            self.net.switch_(bits)
            if not isinstance(self.optimizer, SharpnessAware):
                with torch.no_grad():
                    return float(cross_entropy(model(x), y))
            self.optimizer.zero_grad()  # of the last update of the net
            cross_entropy(model(x), y).backward()
            self.optimizer.ascend()
            try:
                with torch.no_grad():
                    return float(cross_entropy(model(x), y))
            finally:
                self.optimizer.restore()
                self.optimizer.zero_grad()

    def _train(self, batch: Batch, rate: float, epoch: int) -> Tensor:
        """One update of the shared net, at widths that are drawn; what belongs to other widths stays."""
        model, (x, y) = self.net.model, batch
        model.train()
        self.net.switch_(self._draw(epoch))
        set_rate_(self.optimizer, rate)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss.detach()

        with self._other_rows_kept():
            return self.optimizer.step(closure)

    def _draw(self, epoch: int) -> dict[str, int]:
        """Widths for one update: uniform in the warm-up, then the generator's."""
        choices = self.net.space.choices
        if epoch < self.settings.warmup:
            index = [int(torch.randint(len(choice.widths), (), generator=self.stream)) for choice in choices]
            return {choice.name: choice.widths[i] for choice, i in zip(choices, index, strict=True)}
        with torch.no_grad():
            return self._bits(self.reinforce.generator.sample(self.stream))

    def _bits(self, sample: Sample) -> dict[str, int]:
        names = [choice.name for choice in self.net.space.choices]
        return dict(zip(names, sample.widths, strict=True))

    def _batches(self, data: Data, epoch: int, *, augment: bool) -> Iterator[Batch]:
        device = device_of(self.net.model)
        batches = data.train_batches(self.settings.batch_size, seed=self.seed, device=device, augment=augment)
        return batches.epoch(epoch)

    @torch.no_grad()
    def _top1(self, bits: Mapping[str, int]) -> float:
        """Percent of the held-out images that the shared net gets right at these widths."""
        self.net.switch_(bits)
        with modes_kept(self.net.model):
            self.net.model.eval()
            right = [
                (logits_of(self.net.model(x), "the shared net").argmax(1) == y).float().mean()
                for x, y in self._batches(self.validation, 0, augment=False)
            ]
        return 100 * float(torch.stack(right).mean())

    @contextmanager
    def _other_rows_kept(self) -> Iterator[None]:
        """Momentum and decay of a step leave alone what belongs to widths that are not in use."""
        base = self.optimizer.base if isinstance(self.optimizer, SharpnessAware) else self.optimizer
        rows = self.net.unused_rows()
        kept = [[tensor.clone() for tensor in _tables(base, parameter)] for parameter, _ in rows]
        yield
        for (parameter, other), before in zip(rows, kept, strict=True):
            for place, tensor in enumerate(_tables(base, parameter)):
                tensor[other] = before[place][other] if place < len(before) else 0  # a momentum that this step began

    def _state(self) -> dict[str, Any]:
        return {
            "net": self.net.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.reinforce.generator.state_dict(),
            "adam": self.reinforce.optimizer.state_dict(),
            "baseline": self.reinforce.baseline,
            "stream": self.stream.get_state(),
            "history": plain.to_plain(self.history),
            "widths": self.net.bits,
            "random": torch.get_rng_state(),
            "asked": self._asked(),
        }

    def _asked(self) -> dict[str, Any]:
        """What a checkpoint has to agree with."""
        choices = {choice.name: list(choice.widths) for choice in self.net.space.choices}
        settings = plain.to_plain(self.settings)
        return {"settings": settings, "target": self.target, "seed": self.seed, "choices": choices}

    def _restore(self, found: dict[str, Any]) -> None:
        """Take over a checkpoint. Raises ValueError where it is of another search."""
        if found["asked"] != self._asked():
            differing = next(key for key, value in self._asked().items() if found["asked"][key] != value)
            raise ValueError(f"the search that is there has another {differing}: give its own, or another folder")
        self.net.model.load_state_dict(found["net"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.reinforce.generator.load_state_dict(found["generator"])
        self.reinforce.optimizer.load_state_dict(found["adam"])
        self.reinforce.baseline = found["baseline"]
        self.stream.set_state(found["stream"])
        torch.set_rng_state(found["random"])
        self.history = [plain.from_plain(SearchEpoch, each) for each in found["history"]]
        self.net.switch_(found["widths"])


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint's parts. Raises ValueError for a damaged file, which it names."""
    reason = "its parts are others"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of zip, of pickle, of torch
        content, reason = None, str(error).partition("\n")[0] or type(error).__name__
    if not isinstance(content, dict) or content.keys() != PARTS:
        raise ValueError(f"{path} is no checkpoint of a search ({reason}): delete it to begin the search anew")
    return content


def _tables(base: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    """A learned table, and its momentum where it has one."""
    momentum = base.state.get(parameter, {}).get("momentum_buffer")
    return [parameter.detach()] if momentum is None else [parameter.detach(), momentum]
