"""Small nets in float64 trained at once and one at a time: what the tests of stacked nets share."""

import copy

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.data.batches import Batches
from flatbit.engine.loop import train
from flatbit.engine.recipe import Stage
from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.engine.stage import optimizer_of
from flatbit.quant.quantizers import METHODS
from flatbit.train.schedules import Cosine

STEPS, SIZE = 10, 12
STAGE = Stage(name="stage", epochs=2, lr=0.005, weight_decay=1e-3, schedule=Cosine(), batch_size=SIZE)


class Points(Batches):
    """Images of a seed in float64, in ten batches an epoch."""

    def __init__(self, seed, size=SIZE):
        self.num_samples, self.batch_size, self.seed = STEPS * size, size, seed

    def epoch(self, epoch, start=0):
        for step in range(start, STEPS):
            generator = torch.Generator().manual_seed(1000 * self.seed + 100 * epoch + step)
            y = torch.arange(self.batch_size) % 3
            noise = torch.randn(self.batch_size, 2, 6, 6, generator=generator, dtype=torch.float64)
            yield noise + y.reshape(-1, 1, 1, 1) - 1, y


def conv_net(relu=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), relu(), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), relu(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def nets(policy=None, count=3, build=conv_net, first=0):
    """Nets of seeds of their own, quantized and calibrated."""
    made = []
    for seed in range(first, first + count):
        torch.manual_seed(seed)
        model = build().double()
        if policy is not None:
            fb.quantize_(model, policy)
            fb.calibrate_(model, Points(seed), 2)
        made.append(model)
    return made


def policy_of(method):
    """Everything by one method, at 2 bits, or at what it has."""
    if method == "xnor":
        return fb.policy("xnor", weights=1, activations=1)
    return fb.policy(method, weights=2, activations=2 if METHODS.get(method).activations else 32)


UNIQ = policy_of("uniq")


def one_at_a_time(models, stage, batches, losses=None):
    positions = []
    for index, model in enumerate(models):
        terms = None if losses is None else losses[index]
        optimizer = optimizer_of(model, stage)
        positions.append(train(model, stage, batches[index], optimizer, losses=terms))
        if stage.sharpness is not None:
            optimizer.close()
    return positions


def at_once(models, stage, batches, losses=None):
    rows = [Net(batches=own) for own in batches]
    terms = [stage.losses] * len(models) if losses is None else losses
    train_stacked(StackedNets(models, terms), stage, rows)
    assert [row.error for row in rows] == [None] * len(models)
    return [row.position for row in rows]


def assert_same(models, references):
    """Alike but for the order of sums in float64, which a net of few bits amplifies from step to step."""
    for index, (model, reference) in enumerate(zip(models, references, strict=True)):
        ours, theirs = model.state_dict(), reference.state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(
                tensor, theirs[name], rtol=1e-6, atol=1e-6, msg=lambda m, at=f"{index}, {name}": f"{at}: {m}"
            )


def assert_equal_training(models, stage, batches=None, losses=None, reference_losses=None):
    """Train copies one at a time, the models at once: the same nets, statistics and records."""
    batches = batches or [Points(seed) for seed in range(len(models))]
    references, before = copy.deepcopy(models), copy.deepcopy(models)
    expected = one_at_a_time(references, stage, batches, reference_losses or losses)
    positions = at_once(models, stage, batches, losses)
    assert_same(models, references)
    for model, begun in zip(models, before, strict=True):
        assert not torch.equal(model[0].weight, begun[0].weight)
    for ours, theirs in zip(positions, expected, strict=True):
        assert ours.first_loss == pytest.approx(theirs.first_loss, rel=1e-5)
        for one, other in zip(ours.history, theirs.history, strict=True):
            assert (one.epoch, one.lr) == (other.epoch, other.lr)
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
            assert one.train_top1 == pytest.approx(other.train_top1)
            assert one.losses == pytest.approx(other.losses, rel=1e-5)
            assert one.seconds > 0
            assert one.images_per_s > 0
