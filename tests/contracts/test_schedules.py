"""The contract of every schedule: registering one, here or in a plug-in file, adds it here."""

import copy
import dataclasses
import json
import math

import pytest
import torch

from flatbit import plain
from flatbit.train.schedules import SCHEDULES, Join, Schedule

from .part_cases import made

every_schedule = pytest.mark.parametrize("name", SCHEDULES.names())
LENGTHS = (1, 2, 7, 30)


def points(epochs):
    """Progress at the updates of a stage, and at its end."""
    return [step / 4 for step in range(4 * epochs)] + [epochs]


def factors(schedule, epochs):
    return [schedule(epoch, epochs) for epoch in points(epochs)]


@every_schedule
def test_it_is_a_frozen_fact(name):
    kind = SCHEDULES.get(name)
    assert issubclass(kind, Schedule)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    hash(made(kind))


@every_schedule
def test_it_is_written_by_its_name_and_read_back_equal(name):
    schedule = made(SCHEDULES.get(name))
    written = json.loads(json.dumps(plain.to_plain(schedule)))
    assert written["kind"] == name
    found = plain.from_plain(Schedule, written)
    assert found == schedule == made(SCHEDULES.get(name))
    assert [factors(found, epochs) for epochs in LENGTHS] == [factors(schedule, epochs) for epochs in LENGTHS]


@every_schedule
@pytest.mark.parametrize("epochs", LENGTHS)
def test_its_factors_are_numbers_of_0_or_more(name, epochs):
    for factor in factors(made(SCHEDULES.get(name)), epochs):
        assert isinstance(factor, int | float)
        assert 0 <= factor < math.inf


@every_schedule
def test_it_is_a_function_of_progress_alone(name):
    """Whatever was asked before, in whatever order; it draws no random number and changes nothing."""
    schedule = made(SCHEDULES.get(name))
    before, random = copy.deepcopy(schedule), torch.get_rng_state()
    forth = {epoch: schedule(epoch, 7) for epoch in points(7)}
    back = {epoch: schedule(epoch, 7) for epoch in reversed(points(7))}
    assert forth == back
    assert schedule == before
    assert torch.equal(torch.get_rng_state(), random)


@every_schedule
def test_it_can_be_a_part_of_another(name):
    schedule = made(SCHEDULES.get(name))
    joined = Join(((0, schedule), (3, schedule)))
    assert [joined(epoch + 3, 10) for epoch in range(7)] == [schedule(epoch, 7) for epoch in range(7)]
    assert plain.from_plain(Schedule, json.loads(json.dumps(plain.to_plain(joined)))) == joined
