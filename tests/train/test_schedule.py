import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit.train.schedule import Constant, Cosine, Cyclic, Exponential, Polynomial, Steps

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


@given(EPOCH)
def test_polynomial_is_deeplabs_closed_form(epoch):
    assert Polynomial()(epoch, 400) == pytest.approx((1 - epoch / 400) ** 0.9)
    assert Polynomial(power=1.0)(100.5, 402) == 0.75


def test_polynomial_ends_at_zero_and_stays_there():
    assert Polynomial()(0, 10) == 1.0
    assert Polynomial()(10, 10) == Polynomial()(11, 10) == 0.0


# Spec 3.1: learning rates of the first epochs of a cycle.
SQWA_TABLE = [
    (1e-2, 1e-4, 3, [1e-2, 2.154e-3, 4.642e-4, 1e-4, 4.642e-4, 2.154e-3, 1e-2]),
    (4e-2, 4e-5, 3, [4e-2, 4e-3, 4e-4, 4e-5, 4e-4, 4e-3, 4e-2]),
    (1e-2, 1e-4, 2, [1e-2, 1e-3, 1e-4, 1e-3, 1e-2]),
]


@pytest.mark.parametrize(("top", "low", "half", "rates"), SQWA_TABLE)
def test_cyclic_of_sqwa(top, low, half, rates):
    schedule = Cyclic(low / top, half)
    assert [top * schedule(epoch, 250) for epoch in range(len(rates))] == pytest.approx(rates, rel=3e-4)
    assert schedule(3.999, 250) == schedule(3, 250)


def test_cyclic_of_hol_in_epochs_and_in_updates():
    expected = [10**-x for x in (0, 0.5, 1, 1.5, 2, 1.5, 1, 0.5)]
    assert [Cyclic(0.01, 4)(epoch, 40) for epoch in range(16)] == pytest.approx(expected * 2)
    per_epoch = 91  # VOC: 375 updates a part
    voc = Cyclic(0.01, 4, part=375 / per_epoch)
    assert [voc(update / per_epoch, 164) for update in range(0, 3000, 375)] == pytest.approx(expected)
    assert voc(374 / per_epoch, 164) == 1.0


def test_minima_are_the_papers_capture_epochs():
    minima = Cyclic(0.01).minima(250)
    assert set(range(214, 251, 6)) | set(range(40, 77, 6)) <= set(minima)
    assert minima[-1] == 250
    assert set(range(202, 239, 6)) <= set(Cyclic(0.001).minima(238))
    assert Cyclic(0.01, 4).minima(40) == [5, 13, 21, 29, 37]
    assert Cyclic(0.01).minima(3) == []


@given(st.floats(1e-6, 1.0), st.integers(1, 8), EPOCH)
def test_cyclic_stays_between_and_repeats(bottom, half, epoch):
    schedule = Cyclic(bottom, half)
    factor = schedule(epoch, 400)
    assert bottom * (1 - 1e-12) <= factor <= 1
    assert schedule(math.floor(epoch) + 2 * half, 400) == schedule(math.floor(epoch), 400)
    assert all(schedule(e - 0.5, 400) == pytest.approx(bottom) for e in schedule.minima(50))


@pytest.mark.parametrize(
    "wrong", [{"bottom": 0.0}, {"bottom": 2.0}, {"bottom": 0.1, "half": 0}, {"bottom": 0.1, "part": 0}]
)
def test_cycles_that_are_none(wrong):
    with pytest.raises(ValueError, match="expected bottom in"):
        Cyclic(**wrong)
