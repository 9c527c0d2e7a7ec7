import copy
import re

import pytest
import torch

import flatbit as fb
from flatbit.engine import choice
from flatbit.engine.capture import EngineError
from flatbit.engine.choice import choose_way
from flatbit.engine.recipe import Stage
from flatbit.engine.stage import optimizer_of
from flatbit.engine.update import Update
from flatbit.engine.way import EAGER, Way
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.schedules import Linear
from flatbit.train.sharpness import Sharpness

from .cases import POLICY, net, shades
from .tape import stand_in_for_a_device


def work(**settings):
    """Model, stage, losses, optimizer, batches."""
    fixed = {"name": "short", "epochs": 2, "lr": 0.01, "policy": POLICY, "batch_size": 6, "schedule": Linear(0.0, 1.0)}
    stage = Stage(**fixed | settings)
    data = shades()
    batches = data.train_batches(stage.batch_size, seed=0)
    torch.manual_seed(0)
    model = net()
    fb.quantize_(model, POLICY)
    fb.calibrate_(model, batches)
    return model.train(), stage, (CrossEntropy(),), optimizer_of(model, stage), batches


def slowed(monkeypatch, seconds):
    """Time as it would be, by engine, in updates."""
    clock = [0.0]
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    run = Update.__call__

    def call(self, *args):
        clock[0] += seconds.get(self.way.engine, 1.0)
        run(self, *args)

    monkeypatch.setattr(Update, "__call__", call)


@pytest.mark.parametrize(
    ("seconds", "expected"), [({"eager": 3.0, "graphs": 2.0}, "graphs"), ({"eager": 2.0, "graphs": 3.0}, "eager")]
)
def test_the_fastest_of_those_that_are_right_is_taken(seconds, expected, monkeypatch):
    stand_in_for_a_device(monkeypatch)
    slowed(monkeypatch, seconds)
    said = []
    assert choose_way(*work(), note=said.append) == Way.parse(expected)
    (line,) = said
    assert re.fullmatch(rf"short: engine {expected}: an update takes eager \d+\.\d\d ms, graphs \d+\.\d\d ms", line)


@pytest.mark.parametrize("settings", [{}, {"sharpness": Sharpness(method="saq", rho=0.1)}, {"accumulation": ((0, 2),)}])
def test_nothing_is_left_of_the_trials(settings, monkeypatch):
    stand_in_for_a_device(monkeypatch)
    model, stage, losses, optimizer, batches = work(**settings)
    model.eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    choose_way(model, stage, losses, optimizer, batches)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_a_way_that_updates_otherwise_is_not_taken(monkeypatch):
    stand_in_for_a_device(monkeypatch)
    slowed(monkeypatch, {"graphs": 0.1})
    monkeypatch.setattr("flatbit.engine.capture.cuda_graph", lambda act, undo: lambda: None)  # a graph of nothing
    said = []
    assert choose_way(*work(), note=said.append) == EAGER
    assert re.search(r"graphs differs from eager by \S+ of an update", said[0])


@pytest.mark.parametrize("factor", [1.3, 0.6])
def test_another_rate_is_told_from_rounding(factor, monkeypatch):
    """A replay whose rate is not the one that was asked."""
    stand_in_for_a_device(monkeypatch)
    slowed(monkeypatch, {"graphs": 0.1})
    run = Update.__call__

    def wrong(self, batches, lr):
        run(self, batches, lr * factor if self.way.graphs else lr)

    monkeypatch.setattr(Update, "__call__", wrong)
    said = []
    assert choose_way(*work(), note=said.append) == EAGER
    assert "graphs differs from eager by" in said[0]


def test_a_way_that_is_refused_is_said_and_not_taken(monkeypatch):
    def refuses(*_):
        raise EngineError("it cannot be captured")

    stand_in_for_a_device(monkeypatch)
    slowed(monkeypatch, {"graphs": 0.1})
    monkeypatch.setattr("flatbit.engine.capture.check_capturable", refuses)
    said = []
    assert choose_way(*work(), note=said.append) == EAGER
    assert "graphs refused: it cannot be captured" in said[0]


@pytest.mark.parametrize(("epochs", "tried"), [(2, False), (2000, True)])
def test_compiling_is_tried_where_it_would_pay(epochs, tried, monkeypatch):
    """On a CPU eager and compiled are all there is; an update takes a second here."""
    slowed(monkeypatch, {"eager": 1.0, "compiled": 0.8})
    compiled = []
    monkeypatch.setattr("flatbit.engine.update._compiled", lambda model: compiled.append(model) or model)
    way = choose_way(*work(epochs=epochs))
    assert way == Way(compiled=tried)
    assert bool(compiled) == tried


def test_what_all_ways_share_is_kept():
    half = Way(precision="bf16", recompute=True)
    assert choose_way(*work(), eager=half) == half


def test_few_batches_are_taken_over_again():
    stage, batches = work(accumulation=((0, 4),))[1], work()[-1]
    taken = choice.updates_of(stage, choice.first_batches(stage, batches), 9)
    assert [len(update) for update in taken] == [4] * 9
