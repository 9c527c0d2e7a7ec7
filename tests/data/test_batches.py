import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit.data.batches import (
    VOID,
    Batches,
    Data,
    check_batch_size,
    check_start,
    generator,
)


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
def test_generator_is_a_function_of_its_key(key):
    assert generator(*key).initial_seed() == generator(*key).initial_seed()


def test_generator_tells_keys_apart():
    keys = [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)


def test_void_is_no_class_of_any_set_in_bytes():
    assert VOID == 255


@pytest.mark.parametrize("abstract", [Batches, Data])
def test_bases_are_abstract(abstract):
    with pytest.raises(TypeError, match="abstract"):
        abstract()


@pytest.mark.parametrize("size", [0, -3])
def test_batch_size_is_at_least_one(size):
    with pytest.raises(ValueError, match=f"batch_size={size}: expected at least 1"):
        check_batch_size(size)


@pytest.mark.parametrize("start", [-1, 4])
def test_start_lies_in_the_epoch(start):
    check_start(3, 3)
    with pytest.raises(ValueError, match=f"an epoch of 3 batches cannot begin at step {start}"):
        check_start(start, 3)
