"""Learning-rate schedules: pure functions of progress, as factors of the base rate.

A schedule is called with the epochs done so far, ``epoch`` (a fraction inside an epoch), and all
``epochs`` of the stage. Those of the papers change at whole epochs; they take the integer part.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

from .. import plain
from ..registry import Registry


class Schedule(ABC):
    """A factor of the base learning rate as a function of progress; abstract.

    A schedule of yours is a frozen dataclass, registered with ``SCHEDULES.add(name, Class)``.
    """

    @abstractmethod
    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor after ``epoch`` of ``epochs`` epochs."""

    def check(self, epochs: int) -> None:  # noqa: B027 - most schedules fit any length
        """Raise ValueError for a part that a stage of so many epochs never reaches."""

    def scaled(self, old: int, new: int) -> Schedule:
        """The schedule of a stage of ``old`` epochs, for one of ``new``: itself, unless it counts epochs."""
        return self


@final
@dataclass(frozen=True, slots=True)
class Constant(Schedule):
    """One rate throughout: ``factor`` times the base rate."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_number("factor", self.factor)

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.factor


@final
@dataclass(frozen=True, slots=True)
class Linear(Schedule):
    """From the factor ``first`` to ``last`` in a straight line, at every update: a warm-up inside a ``Join``."""

    first: float
    last: float = 1.0

    def __post_init__(self) -> None:
        _check_number("first", self.first)
        _check_number("last", self.last)

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.first + (self.last - self.first) * min(epoch / max(epochs, 1), 1.0)


@final
@dataclass(frozen=True, slots=True)
class MultiStep(Schedule):
    """Times ``factor`` at each milestone epoch: ``MultiStep((75, 125))`` (SQWA, SAQ, FAQ's CIFAR runs)."""

    milestones: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check_positive("factor", self.factor)
        whole = all(type(milestone) is int and milestone >= 0 for milestone in self.milestones)
        if not whole or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones={self.milestones!r}: expected whole epochs, 0 or more, none before the last")

    def check(self, epochs: int) -> None:
        """One at the very end passes: places that are shares of a length are rounded to it."""
        late = [milestone for milestone in self.milestones if milestone > epochs]
        if late:
            raise ValueError(f"milestones={self.milestones!r} cannot act: {_ends(epochs)}: leave {_words(late)} out")

    def scaled(self, old: int, new: int) -> MultiStep:
        """The milestones keep their place, rounded down."""
        return replace(self, milestones=tuple(milestone * new // old for milestone in self.milestones))

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.factor ** sum(epoch >= milestone for milestone in self.milestones)


@final
@dataclass(frozen=True, slots=True)
class Exponential(Schedule):
    """Times ``decay`` at each epoch (FAQ: 0.936 over 110 epochs, from 0.0015 to 1.04e-6)."""

    decay: float

    def __post_init__(self) -> None:
        _check_positive("decay", self.decay)

    @classmethod
    def reaching(cls, final: float, epochs: int) -> Exponential:
        """The decay that multiplies the rate by ``final`` over ``epochs`` epochs.

        FAQ's shorter runs keep the first rate 0.0015 and the last 1e-6: 0.8852 for 60 epochs.
        """
        return cls(final ** (1 / max(epochs, 1)))

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.decay ** math.floor(epoch)


@final
@dataclass(frozen=True, slots=True)
class Cosine(Schedule):
    """``(1 + cos(pi t / T)) / 2`` at whole epochs t, after ``warmup`` epochs at a constant factor.

    UNIQ's 1-bit runs: ``Cosine(warmup=5, warmup_factor=0.001 / 0.004)`` keeps lr 0.001 for 5 epochs,
    then starts at 0.004 and anneals over the remaining T = epochs - 5.
    """

    warmup: int = 0
    warmup_factor: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.warmup, int) or self.warmup < 0:
            raise ValueError(f"warmup={self.warmup!r}: expected a number of epochs, 0 or more")
        if not self.warmup and self.warmup_factor != 1:
            raise ValueError(f"warmup_factor={self.warmup_factor} cannot act: there is no warmup: leave it out")
        _check_number("warmup_factor", self.warmup_factor)

    def check(self, epochs: int) -> None:
        """The cosine begins before the end."""
        if self.warmup >= epochs:
            raise ValueError(f"warmup={self.warmup} leaves no epoch to the cosine: {_ends(epochs)}: take a shorter one")

    def __call__(self, epoch: float, epochs: int) -> float:
        t = math.floor(epoch) - self.warmup
        if t < 0:
            return self.warmup_factor
        return (1 + math.cos(math.pi * t / max(epochs - self.warmup, 1))) / 2


@final
@dataclass(frozen=True, slots=True)
class Polynomial(Schedule):
    """``(1 - t/T)^power`` at every update, t in fractions of an epoch (DeepLab; HOL's segmentation, power 0.9)."""

    power: float = 0.9

    def __post_init__(self) -> None:
        _check_positive("power", self.power)

    def __call__(self, epoch: float, epochs: int) -> float:
        return (1 - min(epoch / max(epochs, 1), 1.0)) ** self.power


@final
@dataclass(frozen=True, slots=True)
class Cyclic(Schedule):
    """Down to ``bottom`` and back in equal parts: ``bottom^(m/h)``, ``m = min(p, 2h - p)``, p the part of a cycle.

    SQWA (discrete cyclical): h = 3, c = 6 epochs with two values between, or h = 2, c = 4 with one;
    ``bottom = min(eta_f)/max(eta_f)``. HOL (CLR): h = 4, eight parts, ``bottom = 0.01``. The rate starts
    at the top; a net is captured at the end of a part at the bottom (``minima``).

    Args:
        bottom: least factor.
        half: h, the parts on the way down.
        part: epochs in a part; a fraction where a paper counts updates.
    """

    bottom: float
    half: int = 3
    part: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.bottom <= 1 or self.half < 1 or self.part <= 0:
            raise ValueError(f"{self}: expected bottom in (0, 1], half of 1 or more, and a positive part")

    @classmethod
    def of(cls, bottom: float, cycle: float = 6, between: int = 2) -> Cyclic:
        """A cycle of ``cycle`` epochs with ``between`` values between top and bottom, as SQWA says it.

        The parts are ``cycle / (2 (between + 1))`` epochs long: one epoch for 6 with 2, and for 4 with 1.
        """
        if not cycle > 0 or not isinstance(between, int) or between < 0:
            raise ValueError(f"cycle={cycle!r}, between={between!r}: expected a positive length and 0 values or more")
        return cls(bottom, between + 1, cycle / (2 * (between + 1)))

    def __call__(self, epoch: float, epochs: int) -> float:
        p = math.floor(epoch / self.part + 1e-9) % (2 * self.half)
        return self.bottom ** (min(p, 2 * self.half - p) / self.half)

    def minima(self, epochs: int) -> list[float]:
        """Epochs done when each part at the bottom ends: where to capture or to evaluate."""
        first, cycle = (self.half + 1) * self.part, 2 * self.half * self.part
        return [first + n * cycle for n in range(math.floor((epochs - first) / cycle + 1e-9) + 1)]


@final
@dataclass(frozen=True, slots=True)
class Join(Schedule):
    """One schedule after another: ``Join(((0, MultiStep((75, 125))), (126, Constant(0.1))))``.

    Each part counts its own epochs from its start and takes those up to the next part (the last one: to
    the end of the stage) for the whole. A warm-up: ``Join(((0, Linear(0.01)), (5, Cosine())))``.

    Args:
        parts: (first epoch, schedule), the first at 0 and each later than the one before.
    """

    parts: tuple[tuple[int, Schedule], ...]

    def __post_init__(self) -> None:
        firsts = [first for first, _ in self.parts]
        ascending = all(first < later for first, later in pairwise(firsts))
        if firsts[:1] != [0] or not ascending or not all(isinstance(first, int) for first in firsts):
            raise ValueError(f"Join: parts begin at epochs {firsts}: expected 0 first, then later whole ones")
        for first, part in self.parts:
            if not isinstance(part, Schedule):
                raise ValueError(
                    f"Join: the part from epoch {first} is {part!r}: expected a schedule, such as Constant(0.1)"
                )

    def check(self, epochs: int) -> None:
        """All parts begin before the end, and the last one fits what is left; the others are cut on purpose."""
        late = [first for first, _ in self.parts if first >= epochs]
        if late:
            raise ValueError(f"Join: the part from epoch {late[0]} cannot act: {_ends(epochs)}: leave it out")
        first, part = self.parts[-1]
        part.check(epochs - first)

    def scaled(self, old: int, new: int) -> Join:
        """The parts keep their place, rounded down, and each is scaled to its own length."""
        begins = [first * new // old for first, _ in self.parts]
        olds = pairwise([*(first for first, _ in self.parts), old])
        parts = zip(self.parts, olds, pairwise([*begins, new]), strict=True)
        return Join(
            tuple((begin, part.scaled(later - first, end - begin)) for (_, part), (first, later), (begin, end) in parts)
        )

    def __call__(self, epoch: float, epochs: int) -> float:
        index = sum(epoch >= first for first, _ in self.parts) - 1
        first, part = self.parts[index]
        end = self.parts[index + 1][0] if index + 1 < len(self.parts) else epochs
        return part(epoch - first, end - first)


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a number of 0 or more")


def _check_positive(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a positive number")


def _ends(epochs: int) -> str:
    return f"the stage ends after {epochs} epochs"


def _words(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


SCHEDULES: Registry[type[Schedule]] = Registry("schedule", __name__)
plain.add_family(Schedule, SCHEDULES)
for _name, _kind in {
    "constant": Constant,
    "linear": Linear,
    "multistep": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "polynomial": Polynomial,
    "cyclic": Cyclic,
    "join": Join,
}.items():
    SCHEDULES.add(_name, _kind)
