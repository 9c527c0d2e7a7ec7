import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit.train.schedule import Constant, Cosine, Exponential, Steps

EPOCH = st.floats(0, 400, exclude_max=True)


@given(EPOCH)
def test_constant(epoch):
    assert Constant()(epoch, 400) == 1.0


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.1), (74.99, 0.1), (75, 0.01), (124.5, 0.01), (125, 0.001), (174, 0.001)]
)
def test_steps_of_sqwa(epoch, lr):
    assert 0.1 * Steps((75, 125))(epoch, 175) == pytest.approx(lr)


def test_steps_take_another_factor():
    assert Steps((1, 2), factor=0.5)(2, 3) == 0.25


@pytest.mark.parametrize(("first", "decay", "last"), [(0.0015, 0.936, 1.04e-6), (0.1, 0.901, 1.05e-6)])
def test_exponential_of_faq_ends_where_the_paper_says(first, decay, last):
    assert first * Exponential(decay)(110, 110) == pytest.approx(last, rel=0.005)


@pytest.mark.parametrize(("epochs", "decay"), [(60, 0.8852), (30, 0.7837), (165, 0.9566)])
def test_shorter_and_longer_runs_of_faq_keep_first_and_last_rate(epochs, decay):
    assert Exponential.reaching(1e-6 / 0.0015, epochs).decay == pytest.approx(decay, abs=0.00006)


@given(st.floats(1e-8, 0.5), st.integers(1, 400))
def test_reaching_reaches(final, epochs):
    assert Exponential.reaching(final, epochs)(epochs, epochs) == pytest.approx(final)


@given(EPOCH)
def test_exponential_and_cosine_change_at_whole_epochs_only(epoch):
    for schedule in (Exponential(0.9), Cosine(), Cosine(warmup=5, warmup_factor=0.25)):
        assert schedule(epoch, 400) == schedule(math.floor(epoch), 400)


@given(st.integers(0, 349))
def test_cosine_is_the_closed_form(epoch):
    assert Cosine()(epoch, 350) == pytest.approx(math.cos(math.pi * epoch / 700) ** 2)


def test_warmup_is_at_the_full_rate_unless_said():
    assert Cosine(warmup=2)(0, 10) == 1.0


def test_cosine_begins_at_one_and_ends_at_zero():
    assert Cosine()(0, 10) == 1.0
    assert Cosine()(10, 10) == pytest.approx(0)


@pytest.mark.parametrize(("main", "epoch", "lr"), [(0.004, 0, 0.001), (0.004, 4.99, 0.001), (0.004, 5, 0.004),
                                                   (0.01, 4, 0.001), (0.01, 5, 0.01)])  # fmt: skip
def test_warmup_of_uniq(main, epoch, lr):
    assert main * Cosine(warmup=5, warmup_factor=0.001 / main)(epoch, 350) == pytest.approx(lr)


@given(st.integers(5, 349))
def test_after_the_warmup_the_cosine_spans_the_epochs_that_are_left(epoch):
    factor = Cosine(warmup=5, warmup_factor=0.25)(epoch, 350)
    assert factor == pytest.approx((1 + math.cos(math.pi * (epoch - 5) / (350 - 5))) / 2)


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_a_run_shorter_than_the_warmup_stays_in_it(epochs):
    assert [Cosine(warmup=5, warmup_factor=0.25)(epoch, epochs) for epoch in range(epochs)] == [0.25] * epochs


@given(EPOCH, st.integers(1, 30))
def test_falling_schedules_never_rise(epoch, ahead):
    for schedule in (Steps((30, 60, 90)), Exponential(0.936), Cosine()):
        assert schedule(min(epoch + ahead, 400), 400) <= schedule(epoch, 400)
