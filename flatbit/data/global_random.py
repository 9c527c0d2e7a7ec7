"""Other people's data sets draw from global random state: each gets its own, and nobody else's is touched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch


@final
class OwnRandom:
    """Python's, numpy's and torch's (CPU) global random state, as one piece of foreign code sees it.

    Args:
        seed: what the state starts from; it then goes on from one ``within`` to the next.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: tuple[Any, ...] | None = None

    @contextmanager
    def within(self) -> Iterator[None]:
        """Inside, global random state is this one; outside it is as it was before."""
        outside = _get()
        _seed(self._seed) if self._state is None else _set(self._state)
        try:
            yield
        finally:
            self._state = _get()
            _set(outside)


def _get() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002


def _set(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.default_generator.set_state(state[2])


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
