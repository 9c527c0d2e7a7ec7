"""The optimizer of stacked nets: its state is that of each net's own, and it cannot mix nets."""

import copy
from dataclasses import replace

import pytest
import torch

from flatbit.engine.checkpoint import load_checkpoint, restore_checkpoint_, save_checkpoint
from flatbit.engine.loop import Hooks, Position, train
from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_optimizer import load_states_, stacked_optimizer, state_of_net
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.engine.stage import optimizer_of
from flatbit.engine.way import EAGER
from flatbit.train.optimizers import SGD, Adam

from .stacked_cases import STAGE, UNIQ, Points, assert_same, nets, one_at_a_time


@pytest.mark.parametrize("settings", [SGD(), Adam()])
def test_what_was_stacked_goes_on_one_at_a_time_and_back(settings, tmp_path):
    """An epoch at once, checkpoints of it, an epoch by the ordinary loop, an epoch at once."""
    stage = replace(STAGE, epochs=3, optimizer=settings, lr=5e-4)
    models = nets(UNIQ)
    references = copy.deepcopy(models)
    batches = [Points(seed) for seed in range(3)]
    one_at_a_time(references, stage, batches)

    stack = StackedNets(models)
    optimizer = stacked_optimizer(stack, stage.optimizer, lr=stage.lr, weight_decay=stage.weight_decay)
    rows = [Net(batches=own) for own in batches]

    class Cut(BaseException):
        pass

    def cut(position):
        if len([row for row in rows if row.position.history]) == 3:
            raise Cut

    rows[-1].hooks = Hooks(save=cut)
    with pytest.raises(Cut):
        train_stacked(stack, stage, rows, optimizer)

    own = []
    for index, (model, row) in enumerate(zip(models, rows, strict=True)):
        ordinary = optimizer_of(model, stage)
        ordinary.load_state_dict(state_of_net(optimizer, index))
        save_checkpoint(tmp_path / str(index), model, ordinary, row.position, stage.name, EAGER)
    positions = []
    for index, model in enumerate(models):
        with torch.no_grad():
            model[0].weight.fill_(0.0)
        ordinary = optimizer_of(model, stage)
        kept = load_checkpoint(tmp_path / str(index))
        restore_checkpoint_(kept, model, ordinary)
        position = Position.from_dict(kept["position"])
        assert position.epoch == 1

        def stop(record):
            raise Cut

        with pytest.raises(Cut):
            train(model, stage, batches[index], ordinary, position=position, hooks=Hooks(after_epoch=stop))
        positions.append(position)
        own.append(ordinary.state_dict())

    stack = StackedNets(models)
    optimizer = stacked_optimizer(stack, stage.optimizer, lr=stage.lr, weight_decay=stage.weight_decay)
    load_states_(optimizer, own)
    train_stacked(
        stack, stage, [Net(batches=b, position=p) for b, p in zip(batches, positions, strict=True)], optimizer
    )
    assert_same(models, references)


class Muon(SGD.__base__):
    """An optimizer of a matrix as a whole."""

    def make(self, groups, lr):
        class Whole(torch.optim.SGD):
            pass

        return Whole(groups, lr=lr)


def test_optimizers_that_could_mix_nets_are_refused():
    stack = StackedNets(nets(count=2))
    with pytest.raises(ValueError, match="Whole: whether it steps each number by itself is not known"):
        stacked_optimizer(stack, Muon(), lr=0.1)
