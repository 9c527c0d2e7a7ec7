import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit.train.schedules import (
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Join,
    Linear,
    MultiStep,
    Polynomial,
)

EPOCH = st.floats(0, 400, exclude_max=True)


@given(EPOCH)
def test_constant(epoch):
    assert Constant()(epoch, 400) == 1.0
    assert Constant(0.25)(epoch, 400) == 0.25


@given(EPOCH, st.floats(0, 1), st.floats(0, 1))
def test_linear_is_the_straight_line(epoch, first, last):
    expected = (1 - epoch / 400) * first + epoch / 400 * last
    assert Linear(first, last)(epoch, 400) == pytest.approx(expected, abs=1e-12)


def test_linear_warms_up_to_the_base_rate_and_stays_there():
    assert [Linear(0.2)(epoch, 4) for epoch in (0, 2, 4, 5)] == pytest.approx([0.2, 0.6, 1.0, 1.0])


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.1), (74.99, 0.1), (75, 0.01), (124.5, 0.01), (125, 0.001), (174, 0.001)]
)
def test_multistep_of_sqwa(epoch, lr):
    assert 0.1 * MultiStep((75, 125))(epoch, 175) == pytest.approx(lr)


def test_multistep_takes_another_factor():
    assert MultiStep((1, 2), factor=0.5)(2, 3) == 0.25


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
    for schedule in (MultiStep((30, 60, 90)), Exponential(0.936), Cosine()):
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


@pytest.mark.parametrize(("top", "low", "half", "rates"), SQWA_TABLE)
def test_cyclic_by_its_length_and_values_between(top, low, half, rates):
    assert Cyclic.of(low / top, cycle=2 * half, between=half - 1) == Cyclic(low / top, half)


@given(st.floats(0.5, 20), st.integers(0, 6), st.floats(0.01, 0.9))
def test_a_cycle_has_the_values_between_once_down_and_once_up(cycle, between, bottom):
    schedule = Cyclic.of(bottom, cycle=cycle, between=between)
    parts = 2 * (between + 1)
    factors = [schedule((part + 0.5) * cycle / parts, 400) for part in range(parts)]
    inner = factors[1 : between + 1]
    assert len({round(math.log(f), 9) for f in inner} - {0.0, round(math.log(bottom), 9)}) == between
    assert factors[between + 2 :] == inner[::-1]
    assert (factors[0], factors[between + 1]) == (1.0, bottom)
    assert schedule(0.25 * cycle / parts + 3 * cycle, 400) == 1.0


@pytest.mark.parametrize("wrong", [{"cycle": 0}, {"between": -1}, {"between": 1.5}])
def test_cycles_by_length_that_are_none(wrong):
    with pytest.raises(ValueError, match="expected a positive length and 0 values or more"):
        Cyclic.of(0.1, **wrong)


def test_stage_one_of_sqwa_with_swa():
    """Spec 3.7: 175 epochs, constant lr 0.01 from epoch 126 on."""
    schedule = Join(((0, MultiStep((75, 125))), (126, Constant(0.1))))
    rates = [0.1 * schedule(epoch, 175) for epoch in (0, 74.9, 75, 124, 125, 125.99, 126, 150, 174)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.01, 0.01, 0.01])


@given(EPOCH, st.integers(1, 399))
def test_joined_parts_count_their_own_epochs(epoch, start):
    schedule = Join(((0, Exponential(0.9)), (start, Polynomial())))
    own = Exponential(0.9)(epoch, start) if epoch < start else Polynomial()(epoch - start, 400 - start)
    assert schedule(epoch, 400) == own


@given(EPOCH, st.floats(0.01, 1))
def test_the_warmup_of_uniq_can_be_joined(epoch, factor):
    schedule = Join(((0, Constant(factor)), (5, Cosine())))
    assert schedule(epoch, 400) == pytest.approx(Cosine(warmup=5, warmup_factor=factor)(epoch, 400))


def test_a_join_of_one_is_that_one_and_joins_nest():
    inner = Join(((0, MultiStep((3,))), (5, Constant(0.5))))
    assert [Join(((0, inner),))(epoch, 9) for epoch in range(9)] == [inner(epoch, 9) for epoch in range(9)]
    outer = Join(((0, Constant()), (2, inner)))
    assert [outer(epoch + 2, 11) for epoch in range(9)] == [inner(epoch, 9) for epoch in range(9)]


def test_a_run_that_ends_inside_the_warmup_stays_in_its_line():
    schedule = Join(((0, Linear(0.0)), (10, Cosine())))
    assert [schedule(epoch, 3) for epoch in range(3)] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("starts", [(), (1,), (0, 5, 5), (0, 7, 6), (0, 1.5)])
def test_parts_out_of_order(starts):
    with pytest.raises(ValueError, match="expected 0 first, then later whole ones"):
        Join(tuple((start, Constant()) for start in starts))


def test_parts_that_are_no_schedules():
    with pytest.raises(ValueError, match=r"the part from epoch 3 is 0\.1: expected a schedule"):
        Join(((0, Constant()), (3, 0.1)))


def test_a_part_that_begins_where_the_stage_ends_has_a_factor_there():
    for last in (Linear(0.5), Polynomial(), Cosine(), Exponential(0.9)):
        assert math.isfinite(Join(((0, Constant()), (5, last)))(5, 5))


def test_a_warmup_factor_without_a_warmup_cannot_act():
    with pytest.raises(ValueError, match=r"warmup_factor=0\.25 cannot act: there is no warmup: leave it out"):
        Cosine(warmup_factor=0.25)


@pytest.mark.parametrize("warmup", [-1, 1.5, "five"])
def test_a_warmup_is_a_number_of_epochs(warmup):
    with pytest.raises(ValueError, match=r"warmup=.*: expected a number of epochs, 0 or more"):
        Cosine(warmup=warmup)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-0.1), "factor=-0.1: expected a number of 0 or more"),
        (lambda: Constant(math.inf), "factor=inf: expected a number of 0 or more"),
        (lambda: Linear(-1.0), "first=-1.0: expected a number of 0 or more"),
        (lambda: Linear(0.0, -1.0), "last=-1.0: expected a number of 0 or more"),
        (lambda: Exponential(0.0), "decay=0.0: expected a positive number"),
        (lambda: Exponential(-0.9), "decay=-0.9: expected a positive number"),
        (lambda: Polynomial(0.0), "power=0.0: expected a positive number"),
        (lambda: MultiStep((1,), factor=0.0), "factor=0.0: expected a positive number"),
        (lambda: MultiStep((-1,)), r"milestones=\(-1,\): expected whole epochs, 0 or more"),
        (lambda: MultiStep((0.5,)), r"milestones=\(0.5,\): expected whole epochs, 0 or more"),
        (lambda: MultiStep((2, 1)), r"milestones=\(2, 1\): expected whole epochs, 0 or more, none before the last"),
        (lambda: Cosine(warmup=1, warmup_factor=-1.0), "warmup_factor=-1.0: expected a number of 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_milestones_may_come_together():
    assert MultiStep((0, 95, 95))(95, 110) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (MultiStep((5, 11, 12)), r"milestones=\(5, 11, 12\) cannot act: .* after 10 epochs: leave 11, 12 out"),
        (Cosine(warmup=10), "warmup=10 leaves no epoch to the cosine: the stage ends after 10 epochs"),
        (Join(((0, Constant()), (10, Cosine()))), "the part from epoch 10 cannot act: the stage ends after 10 epochs"),
        (Join(((0, Constant()), (4, MultiStep((7,))))), r"milestones=\(7,\) cannot act: the stage ends after 6"),
    ],
)
def test_what_a_stage_never_reaches_is_refused_for_its_length(schedule, message):
    with pytest.raises(ValueError, match=message):
        schedule.check(10)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(), Linear(0.1), Exponential(0.9), Polynomial(), Cyclic(0.1), Cosine(warmup=9), MultiStep((3, 10)),
        Join(((0, MultiStep((3, 99))), (9, Constant(0.1)))),  # cut on purpose, as SWA does
    ],
)  # fmt: skip
def test_what_a_stage_reaches_is_not(schedule):
    schedule.check(10)


def test_milestones_and_parts_keep_their_place_in_another_length():
    assert MultiStep((75, 125)).scaled(175, 70) == MultiStep((30, 50))
    joined = Join(((0, MultiStep((10, 15))), (20, Cosine()), (30, MultiStep((5,)))))
    assert joined.scaled(40, 80) == Join(((0, MultiStep((20, 30))), (40, Cosine()), (60, MultiStep((10,)))))
    assert Cosine(warmup=3).scaled(10, 20) == Cosine(warmup=3)
