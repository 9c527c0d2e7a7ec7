"""Stacked nets against the same nets trained one at a time by the ordinary loop, in float64, over 20 updates."""

import copy
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch
from torch import nn

from flatbit.engine.loop import Hooks, Position, TrainingError
from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.engine.stage import quantize_for_
from flatbit.quant.quantizers import METHODS
from flatbit.train.optimizers import SGD, Adam
from flatbit.train.schedules import Cosine, Linear, Schedule

from .cases import Called
from .stacked_cases import (
    STAGE,
    UNIQ,
    Points,
    assert_equal_training,
    assert_same,
    conv_net,
    nets,
    one_at_a_time,
    policy_of,
)

PUBLIC = [name for name in METHODS.names() if METHODS.get(name).public]


@dataclass(frozen=True)
class Fixed(Schedule):
    """The factors of a cosine over three epochs."""

    def __call__(self, epoch, epochs):
        return Cosine()(epoch, 3)


@pytest.mark.parametrize("method", PUBLIC)
@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_every_method_trains_at_once_as_one_at_a_time(method, optimizer):
    build = (lambda: conv_net(nn.Hardtanh)) if method == "xnor" else conv_net
    lr = 0.005 if isinstance(optimizer, SGD) else 1e-3
    assert_equal_training(nets(policy_of(method), build=build), replace(STAGE, optimizer=optimizer, lr=lr))


def test_float_nets_train_at_once_as_one_at_a_time():
    assert_equal_training(nets(), STAGE)


def test_accumulation_frozen_batch_norms_and_fixed_steps():
    stage = replace(
        STAGE, epochs=3, accumulation=((1, 2),), freeze_batchnorm=2, policy=UNIQ, fixed_weight_steps=True, max_steps=7,
        schedule=Linear(1.0, 0.1),
    )  # fmt: skip
    models = nets()
    for seed, model in enumerate(models):
        quantize_for_(model, stage, Points(seed))
    assert_equal_training(models, stage)


def test_an_epoch_that_ends_early_counts_to_its_end():
    class Early(Points):
        def epoch(self, epoch, start=0):
            return islice(super().epoch(epoch, start), max(len(self) - 2 - start, 0))

    assert_equal_training(nets(UNIQ), STAGE, [Early(seed) for seed in range(3)])


def test_arms_share_their_batches():
    batches = Points(5)
    assert_equal_training(nets(UNIQ), STAGE, batches=[batches] * 3)


def test_a_net_that_diverges_stops_alone_with_its_last_sound_weights():
    stage = replace(STAGE, epochs=3)

    def spoiled(model, x, y, logits):
        loss = nn.functional.cross_entropy(logits, y)
        return torch.where(model[1].num_batches_tracked > 15, loss + model.spoil, loss)

    models = nets(UNIQ)
    for model, spoil in zip(models, (0.0, float("nan"), 0.0), strict=True):
        model.register_buffer("spoil", torch.tensor(spoil, dtype=torch.float64))
    terms = [(Called(function=spoiled),)] * 3
    references = copy.deepcopy(models)
    batches = [Points(seed) for seed in range(3)]
    one_at_a_time([references[0]], stage, [batches[0]], losses=[terms[0]])
    one_at_a_time([references[2]], stage, [batches[2]], losses=[terms[2]])
    one_at_a_time([references[1]], replace(STAGE, epochs=1, schedule=Fixed()), [batches[1]], losses=[terms[1]])
    rows = [Net(batches=own) for own in batches]
    train_stacked(StackedNets(models, terms), stage, rows)
    assert [row.error is None for row in rows] == [True, False, True]
    assert "the loss is not finite in epoch 2" in str(rows[1].error)
    assert [len(row.position.history) for row in rows] == [3, 1, 3]
    models[1].spoil.zero_()
    references[1].spoil.zero_()
    assert_same(models, references)


def test_a_net_that_its_hook_stops_stops_alone():
    def collapsed(record):
        if record.epoch == 1:
            raise TrainingError("the net has collapsed")
        return record

    models = nets()
    references = copy.deepcopy(models)
    batches = [Points(seed) for seed in range(3)]
    saved = []
    rows = [Net(batches=own) for own in batches]
    rows[0].hooks = Hooks(after_epoch=collapsed, save=saved.append)
    rows[1].hooks = Hooks(
        after_epoch=lambda record: replace(record, test_top1=50.0), save=lambda p: saved.append(p.epoch)
    )
    train_stacked(StackedNets(models), STAGE, rows)
    assert str(rows[0].error) == "the net has collapsed"
    assert saved == [1, 2]
    assert [record.test_top1 for record in rows[1].position.history] == [50.0, 50.0]
    one_at_a_time(references[1:], STAGE, batches[1:])
    assert_same(models[1:], references[1:])


def test_where_all_nets_stop_training_ends():
    def nothing(model, x, y, logits):
        return nn.functional.cross_entropy(logits, y) * float("nan")

    models = nets(count=2)
    rows = [Net(batches=Points(seed)) for seed in range(2)]
    before = copy.deepcopy(models)
    train_stacked(StackedNets(models, [(Called(function=nothing),)] * 2), STAGE, rows)
    assert all("epoch 1, step 1" in str(row.error) for row in rows)
    assert_same(models, before)


def test_nets_out_of_step_are_refused():
    stack = StackedNets(nets(count=2))
    with pytest.raises(ValueError, match="1 nets for 2 models"):
        train_stacked(stack, STAGE, [Net(batches=Points(0))])
    with pytest.raises(ValueError, match=r"positions \(epoch, step\) \[\(0, 0\), \(1, 0\)\]"):
        train_stacked(stack, STAGE, [Net(batches=Points(0)), Net(batches=Points(1), position=Position(epoch=1))])
    with pytest.raises(ValueError, match=r"batches \(number, size\) \[\(10, 6\), \(10, 12\)\]"):
        train_stacked(stack, STAGE, [Net(batches=Points(0)), Net(batches=Points(1, size=6))])
