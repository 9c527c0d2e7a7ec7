"""Exact allocation: the widths of least measured loss under budgets, by integer programming.

min sum_l s_l(b_l)   over b_l in B_l,   subject to   c_0 + sum_l c_l(b_l) <= C   for each budget
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from .budget import Budget
from .costs import Price, Prices

OPTIMAL = 0
"""milp's status of a proven optimum."""
RANGE = 1e5
"""Of the objective's values."""
OPTIONS = {"mip_rel_gap": 0.0, "presolve": False}
"""Of milp; its presolve writes to standard output now and then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Widths by the name of each choice.

    Attributes:
        bits: of each choice.
        loss: the sum of what was measured for them.
        price: what the net costs.
        gap, bound: of the proof: no allocation has less loss than the bound; 0 and the loss where it is the optimum.
    """

    bits: Mapping[str, int]
    loss: float
    price: Price
    gap: float = 0.0
    bound: float = field(default=0.0)


def allocate(loss: Mapping[str, Mapping[int, float]], prices: Prices, budget: Budget) -> Allocation:
    """The allocation of least loss inside a budget, proven.

    The solver's gap is 0: with its default it returns answers that are no optimum, as optimal. Every budget is scaled
    to 1, and the objective, over each choice's least loss, to 100,000 at most, for the solver's absolute gap of 1e-6
    cannot be changed. Costs are checked again in whole numbers: what is over a budget by less than the solver's
    tolerance is excluded, and the program solved again.

    Args:
        loss: of each choice at each of its widths, by name; any sign, finite.
        prices: of the same choices and widths.
        budget: of the whole net.

    Raises:
        ValueError: choices or widths that differ, a loss that is not finite, a budget below the cheapest net's cost.
        RuntimeError: the solver proved no optimum.
    """
    _check(loss, prices)
    budget.check(prices)
    pairs = [(name, bits) for name, widths in loss.items() for bits in widths]
    least = {name: min(widths.values()) for name, widths in loss.items()}
    values = np.array([loss[name][bits] - least[name] for name, bits in pairs])
    scale = (float(values.max()) or 1.0) / RANGE
    rows = _rows(pairs, prices, budget)
    while True:
        found = milp(
            values / scale, constraints=rows, integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), options=OPTIONS
        )
        if found.status != OPTIMAL or found.x is None:
            raise RuntimeError(f"the solver proved no optimum: {found.message}")
        taken = np.round(found.x)
        bits = {name: width for (name, width), one in zip(pairs, taken, strict=True) if one}
        price = prices.total(bits)
        if budget.holds(price):
            break
        rows.append(LinearConstraint(taken[None], -np.inf, len(loss) - 1))  # type: ignore[arg-type]
    total = sum(loss[name][width] for name, width in bits.items())
    bound = sum(least.values()) + float(found.mip_dual_bound) * scale
    return Allocation(bits=bits, loss=total, price=price, gap=float(found.mip_gap), bound=bound)


def frontier(loss: Mapping[str, Mapping[int, float]], prices: Prices) -> list[Allocation]:
    """Every allocation that none beats in both loss and bit-operations, from the cheapest on; exact.

    Choices are added one by one, and what another partial allocation beats is dropped (Nemhauser, Ullmann, 1969).

    Raises ValueError as ``allocate``.
    """
    _check(loss, prices)
    kept: list[tuple[int, float, tuple[int, ...]]] = [(prices.fixed.bitops, 0.0, ())]
    for name, widths in loss.items():
        grown = [
            (spent + prices.choices[name][bits].bitops, lost + more, (*taken, bits))
            for spent, lost, taken in kept
            for bits, more in widths.items()
        ]
        kept, least = [], np.inf
        for spent, lost, taken in sorted(grown):
            if lost < least:
                kept.append((spent, lost, taken))
                least = lost
    made = []
    for _, lost, taken in kept:
        bits = dict(zip(loss, taken, strict=True))
        made.append(Allocation(bits=bits, loss=lost, price=prices.total(bits), bound=lost))
    return made


def _rows(pairs: list[tuple[str, int]], prices: Prices, budget: Budget) -> list[LinearConstraint]:
    """One width for each choice, and every budget, as share of what the choices have of it."""
    once = np.array([[float(name == other) for other, _ in pairs] for name in prices.choices])
    rows = [LinearConstraint(once, 1, 1)]  # type: ignore[arg-type]
    for kind, (asked, fixed) in budget.limits(prices.fixed).items():
        if asked is not None:
            spent = np.array([getattr(prices.choices[name][bits], kind) for name, bits in pairs], dtype=float)
            room = float(asked - fixed) or 1.0
            rows.append(LinearConstraint(spent[None] / room, -np.inf, (asked - fixed) / room))  # type: ignore[arg-type]
    return rows


def _check(loss: Mapping[str, Mapping[int, float]], prices: Prices) -> None:
    if {name: {*widths} for name, widths in loss.items()} != {
        name: {*widths} for name, widths in prices.choices.items()
    }:
        raise ValueError("what was measured and what is priced are other layers or widths: take both of one space")
    for name, widths in loss.items():
        for bits, value in widths.items():
            if not np.isfinite(value):
                raise ValueError(f"the measure of {name!r} at {bits} bits is {value}: expected finite numbers")
