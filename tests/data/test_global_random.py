import random

import numpy as np
import torch

from flatbit.data.global_random import OwnRandom


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002


def test_inside_it_is_a_function_of_the_seed():
    with OwnRandom(3).within():
        first = draw()
    with OwnRandom(3).within():
        assert draw() == first
    with OwnRandom(4).within():
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_outside_nothing_happened():
    with OwnRandom(7).within():
        expected = draw()
    with OwnRandom(8).within():
        inner = OwnRandom(7)
        with inner.within():
            draw()
        mine = draw()
    with OwnRandom(8).within():
        assert draw() == mine
    assert mine != expected


def test_it_goes_on_where_it_was():
    with OwnRandom(5).within():
        expected = [draw(), draw()]
    own = OwnRandom(5)
    seen = []
    for _ in range(2):
        with own.within():
            seen.append(draw())
        draw()
    assert seen == expected


def test_state_comes_back_after_an_error():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    try:
        with OwnRandom(2).within():
            draw()
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
