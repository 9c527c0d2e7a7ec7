"""Steps that lose the least mean squared error on a Gaussian or Laplacian source of unit variance.

A symmetric grid has positive levels ``m_i D`` with ``m_i = first, first + 1, ...``: ``first`` is 1/2
on a mid-rise grid and 1 on a mid-tread or unsigned one. The cell of level i is
``[(m_i - 1/2) D, (m_i + 1/2) D)``, the last one reaching to infinity. Cell borders lie half way
between levels, so they drop out of the derivative, and the optimum solves (UNIQ, section 3.2)

    sum_i m_i [ M1_i - m_i D M0_i ] = 0,   Mk_i = int over cell i of x^k p(x) dx.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

Density = Literal["gaussian", "laplace"]


@lru_cache
def midrise_step(bits: int, density: Density = "gaussian") -> float:
    """Unit step of the 2^b-level mid-rise grid: UNIQ's weights (Table 1)."""
    return _solve(2 ** (bits - 1), 0.5, density)


@lru_cache
def unsigned_step(bits: int, density: Density = "gaussian") -> float:
    """Unit step of the grid {0..2^b - 1} on the positive half of the source: UNIQ's activations."""
    return _solve(2**bits - 1, 1.0, density)


def midtread_step(bits: int, density: Density = "gaussian") -> float:
    """Unit step of the 2^b - 1 level mid-tread grid, b >= 2: SQWA's weights.

    Its positive side is the positive half of the source with 2^(b-1) - 1 levels and zero: the
    unsigned grid of one bit less.
    """
    return unsigned_step(bits - 1, density)


@lru_cache
def power_of_two_width(bits: int, density: Density = "gaussian") -> float:
    """FAQ's constant c for ``step = 2^ceil(log2(c std / (2^b - 1)))``, mid-tread grid.

    The ceiling multiplies the step by 2^t with t anywhere in [0, 1), depending on where std falls
    between powers of two. The mean of the error E over t, ``int_0^1 E(2^t D) dt``, is least where
    its derivative in log D vanishes: ``E(2 D) = E(D)``.
    """
    num_positive = 2 ** (bits - 1) - 1
    step: Any = brentq(
        lambda d: _distortion(2 * d, num_positive, density) - _distortion(d, num_positive, density), 1e-3, 2.0
    )
    return float(step) * (2**bits - 1)


def _solve(num_positive: int, first: float, density: Density) -> float:
    m = first + np.arange(num_positive)

    def stationarity(step: float) -> float:
        edges = np.append((m - 0.5) * step, np.inf)
        m0, m1, _ = _moments(edges, density)
        return float(np.sum(m * (m1 - m * step * m0)))

    return float(brentq(stationarity, 1e-4, 8.0, xtol=1e-13))  # type: ignore[arg-type]


def _distortion(step: float, num_positive: int, density: Density) -> float:
    """E (x - Q(x))^2 of unit variance on the mid-tread grid with ``num_positive`` positive levels."""
    m = np.arange(num_positive + 1)
    edges = np.append(np.maximum(m - 0.5, 0.0) * step, np.inf)
    m0, m1, m2 = _moments(edges, density)
    return 2 * float(np.sum(m2 - 2 * m * step * m1 + (m * step) ** 2 * m0))


def _moments(edges: np.ndarray, density: Density) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M0, M1, M2 of each cell between neighbouring ``edges`` (ascending from >= 0, last one infinite)."""
    finite = np.minimum(edges, 1e3)  # all densities vanish there; keeps 0 * inf out
    if density == "gaussian":
        phi = np.exp(-(finite**2) / 2) / np.sqrt(2 * np.pi)
        antiderivatives = ndtr(finite), -phi, ndtr(finite) - finite * phi
    else:
        s, e = 1 / np.sqrt(2), np.exp(-finite * np.sqrt(2))
        antiderivatives = -e / 2, -(finite + s) * e / 2, -(finite**2 + 2 * s * finite + 2 * s**2) * e / 2
    m0, m1, m2 = (np.diff(a) for a in antiderivatives)
    return m0, m1, m2
