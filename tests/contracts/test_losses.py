"""The contract of every loss term: registering one, here or in a plug-in file, adds it here."""

import dataclasses
import json
import math

import pytest
import torch

from flatbit import plain
from flatbit.data.augment import Augment
from flatbit.data.joint import JointAugment
from flatbit.data.memory import Images, MemoryData
from flatbit.engine.loop import train
from flatbit.engine.recipe import Stage
from flatbit.reference import From
from flatbit.train.losses import LOSSES, LossTerm, weighted_sum
from flatbit.train.optimizers import SGD, make_optimizer

from .part_cases import acting, made

every_loss = pytest.mark.parametrize("name", LOSSES.names())


@every_loss
def test_it_is_a_frozen_fact_with_a_weight_and_a_name(name):
    kind = LOSSES.get(name)
    assert issubclass(kind, LossTerm)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert {"weight", "name"} <= {f.name for f in dataclasses.fields(kind)}
    term = made(kind)
    assert 0 < term.weight < math.inf
    assert term.name
    hash(term)


@every_loss
def test_it_is_written_by_its_name_and_read_back_equal(name):
    term = made(LOSSES.get(name))
    written = json.loads(json.dumps(plain.to_plain(term)))
    assert written["kind"] == name
    assert plain.from_plain(LossTerm, written) == term


@every_loss
def test_two_made_alike_are_equal_and_another_weight_is_another(name):
    term = made(LOSSES.get(name))
    assert term == made(LOSSES.get(name))
    assert dataclasses.replace(term, weight=term.weight / 2) != term


@every_loss
def test_it_is_a_finite_scalar_that_something_can_follow(name):
    term, model, x, y = acting(LOSSES.get(name))
    logits = model(x)
    logits.retain_grad()
    value = term(model, x, y, logits)
    assert value.shape == ()
    assert value.isfinite()
    assert value.is_floating_point()
    value.backward()
    gradients = [logits.grad, *(p.grad for p in model.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert any(gradient is not None and gradient.any() for gradient in gradients)


def state_of(model):
    """All that a term could leave behind in a model."""
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}
    trains = {key: p.requires_grad for key, p in model.named_parameters()}
    return tensors, modes, trains


@every_loss
def test_it_leaves_the_model_the_batch_and_the_random_state_as_they_were(name):
    term, model, x, y = acting(LOSSES.get(name))
    logits = model(x)
    tensors, modes, trains = state_of(model)
    batch = x.clone(), y.clone(), logits.detach().clone()
    random = torch.get_rng_state()
    term(model, x, y, logits)
    after = state_of(model)
    assert all(torch.equal(value, tensors[key]) for key, value in after[0].items())
    assert after[1:] == (modes, trains)
    assert all(map(torch.equal, batch, (x, y, logits.detach())))
    assert torch.equal(torch.get_rng_state(), random)


@every_loss
def test_it_is_the_same_twice_and_before_its_weight(name):
    term, model, x, y = acting(LOSSES.get(name))
    logits = model(x)
    value = term(model, x, y, logits)
    assert torch.equal(term(model, x, y, logits), value)
    assert torch.equal(dataclasses.replace(term, weight=term.weight / 2)(model, x, y, logits), value)
    assert torch.equal(weighted_sum([term], model, x, y, logits)[0], term.weight * value)


@every_loss
def test_other_networks_are_asked_for_and_no_setting(name):
    term, asked = made(LOSSES.get(name)), []
    assert all(isinstance(source, From) for source in term.teachers())
    bound = term.bound(lambda source: asked.append(source) or torch.nn.Identity())
    assert asked == list(term.teachers())
    assert bound == term
    assert (bound is term) or term.teachers()


@every_loss
def test_training_tells_it_by_its_name(name):
    term, model, x, y = acting(LOSSES.get(name))
    term = dataclasses.replace(term, name="mine")
    flat = y.ndim == 1
    images = Images(images=x, labels=y if flat else y.to(torch.uint8))
    data = MemoryData(
        name="few", num_classes=10, train=images, test=images, mean=(0.0,) * x.shape[1], std=(1.0,) * x.shape[1],
        augment=Augment() if flat else JointAugment(), task="classification" if flat else "segmentation",
    )  # fmt: skip
    stage = Stage(name="short", epochs=1, lr=1e-4, losses=(term,))
    optimizer = make_optimizer(model, SGD(), lr=1e-4)
    (epoch,) = train(model, stage, data.train_batches(len(x), seed=0), optimizer, losses=(term,)).history
    assert list(epoch.losses) == ["mine"]
    assert epoch.train_loss == pytest.approx(term.weight * epoch.losses["mine"])
