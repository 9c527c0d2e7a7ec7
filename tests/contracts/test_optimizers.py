"""The contract of every optimizer: registering one, here or in a plug-in file, adds it here."""

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit import plain
from flatbit.train.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from flatbit.train.sharpness import SharpnessAware

from .part_cases import made

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS.names())
X, Y = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3


def trained(settings, steps, wrap=lambda base, model: base):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = wrap(make_optimizer(model, settings, lr=0.05, weight_decay=0.01), model)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(steps)]
    return model, optimizer, losses


@every_optimizer
def test_it_is_a_frozen_fact_that_is_written_by_its_name_and_read_back_equal(name):
    kind = OPTIMIZERS.get(name)
    assert issubclass(kind, Optimizer)
    assert kind.__dataclass_params__.frozen
    settings = made(kind)
    written = json.loads(json.dumps(plain.to_plain(settings)))
    assert written["kind"] == name
    assert plain.from_plain(Optimizer, written) == settings == made(kind)
    assert dataclasses.replace(settings) == settings


@every_optimizer
def test_it_keeps_the_groups_with_their_decay_and_the_rate(name):
    weights, steps = (nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [weights], "weight_decay": 0.25}, {"params": [steps], "weight_decay": 0.0}]
    optimizer = made(OPTIMIZERS.get(name)).make(groups, 0.125)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["params"] for group in optimizer.param_groups] == [[weights], [steps]]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.125, 0.25), (0.125, 0.0)]


@every_optimizer
def test_it_descends_also_around_a_perturbation(name):
    settings = made(OPTIMIZERS.get(name))
    for wrap in (lambda base, model: base, lambda base, model: SharpnessAware(base, model, "sam", 0.01)):
        _, _, losses = trained(settings, 40, wrap)
        assert losses[-1] < losses[0]


@every_optimizer
def test_its_state_goes_round(name):
    settings = made(OPTIMIZERS.get(name))
    model, optimizer, _ = trained(settings, 3)
    again, fresh, _ = trained(settings, 1)
    again.load_state_dict(model.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, descent in ((model, optimizer), (again, fresh)):
        net.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        descent.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
