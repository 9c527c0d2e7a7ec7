"""Several nets as one: what they share, what each has of its own, and which cannot be stacked."""

import copy

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.train.losses.cost import CostPenalty
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation

from .stacked_cases import (
    STAGE,
    UNIQ,
    Points,
    assert_equal_training,
    assert_same,
    at_once,
    conv_net,
    nets,
    one_at_a_time,
    policy_of,
)


def test_nets_share_what_a_quantizer_is_and_nothing_else():
    stack = StackedNets(nets(UNIQ))
    assert {name.rpartition(".")[2] for name in stack.buffers} == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(len(tensor) == 3 for tensor in (*stack.parameters.values(), *stack.buffers.values()))


def test_nets_whose_inputs_differ_in_sign_are_each_of_them():
    """What a quantizer found out about its input is a number of its own."""
    models = nets(UNIQ, build=lambda: conv_net(nn.Identity))
    quantizer = models[1][3].input_quantizer
    assert bool(quantizer.signed)
    quantizer.signed.fill_(0)
    assert_equal_training(models, STAGE)
    assert [bool(model[3].input_quantizer.signed) for model in models] == [True, False, True]


def test_lipschitz_distillation_and_labels_are_each_nets_own():
    """Each net has a teacher of its own, or all have one; and the shape of the weights is in the loss."""
    teachers = nets(count=3, first=7)
    for of_net in (teachers, [teachers[0]] * 3):
        terms = [
            (CrossEntropy(weight=0.3), Distillation(weight=0.7, network=teacher), Lipschitz(weight=1e-2))
            for teacher in of_net
        ]
        before = copy.deepcopy(teachers[0].state_dict())
        assert_equal_training(nets(UNIQ), STAGE, losses=terms)
        assert all(torch.equal(tensor, before[name]) for name, tensor in teachers[0].state_dict().items())


def test_candidates_and_steps_per_channel():
    model = nets(fb.policy("uniq-imagenet", weights=2, activations=2))
    assert model[0][3].weight_quantizer.step.shape == (4, 1, 1, 1)
    assert_equal_training(model, STAGE)


def test_mlp_on_features_and_batches_of_images_alike():
    build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    models = nets(UNIQ, build=build)
    references = copy.deepcopy(models)
    batches = [Points(seed) for seed in range(3)]
    one_at_a_time(references, STAGE, batches)
    at_once(models, STAGE, batches)
    assert_same(models, references)


def test_channels_last_and_a_pool_to_one_pixel_come_without_a_warning():
    """Warnings are errors here; torch has one for what it does net by net."""
    build = lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))  # noqa: E731
    models = [model.to(memory_format=torch.channels_last) for model in nets(UNIQ, build=build)]
    assert_equal_training(models, STAGE)


def test_dropout_draws_for_each_net():
    build = lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3))  # noqa: E731
    torch.manual_seed(0)
    model = build().double()
    twins = [model, copy.deepcopy(model)]
    stack = StackedNets(twins)
    x, y = next(Points(0).epoch(0))
    one, other = stack.losses(x, y, shared=True)[:, 0].detach()
    assert float(one) != float(other)
    stack.train(False)
    one, other = stack.losses(x, y, shared=True)[:, 0].detach()
    assert float(one) == float(other)


def test_unstacking_writes_in_place():
    models = nets(UNIQ)
    held = [list(model.parameters()) for model in models]
    stack = StackedNets(models)
    with torch.no_grad():
        stack.parameters["net.0.weight"].add_(1.0)
    before = copy.deepcopy(models)
    stack.unstack_([1])
    assert torch.equal(models[0][0].weight, before[0][0].weight)
    assert torch.equal(models[1][0].weight, before[1][0].weight + 1)
    stack.unstack_()
    assert torch.equal(models[2][0].weight, before[2][0].weight + 1)
    assert all(
        a is b for kept, model in zip(held, models, strict=True) for a, b in zip(kept, model.parameters(), strict=True)
    )


def test_models_that_are_not_alike_are_refused_by_their_first_difference():
    one, other = nets(UNIQ, count=2)
    with pytest.raises(ValueError, match="one model or more"):
        StackedNets([])
    with pytest.raises(ValueError, match="each once, got 1 in 2"):
        StackedNets([one, one])
    with pytest.raises(ValueError, match="1 losses for 2 models"):
        StackedNets([one, other], [(CrossEntropy(),)])
    with pytest.raises(ValueError, match=r"model 1 is not of the architecture of model 0: 0 is Conv2d"):
        StackedNets([one, nets()[0]])
    with pytest.raises(ValueError, match=r"0\.input_quantizer is LsqActivation"):
        StackedNets([one, nets(policy_of("lsq"))[0]])
    with pytest.raises(ValueError, match=r"3\.weight_quantizer is UniqWeight\(4 bit"):
        StackedNets([one, nets(UNIQ.override("3", weights=4))[0]])
    with pytest.raises(ValueError, match="the loss is"):
        StackedNets([one, other], [(CrossEntropy(),), (CrossEntropy(weight=0.5),)])
    with pytest.raises(ValueError, match=r"what was asked of 0 is .*'gradient_scale': False"):
        StackedNets([one, nets(UNIQ.override("0", weight_options={"gradient_scale": False}))[0]])
    other[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"tensor 0\.weight is fixed"):
        StackedNets([one, other])


def test_a_model_without_steps_is_refused():
    models = nets(count=2)
    for model in models:
        fb.quantize_(model, UNIQ)
    with pytest.raises(ValueError, match=r"model 0: .* has no step yet: call flatbit.calibrate_"):
        StackedNets(models)


def test_what_reads_numbers_inside_the_forward_is_refused():
    models = nets(policy_of("dq"), count=2)
    penalty = [(CrossEntropy(), CostPenalty(target_mbitops=1e-6))] * 2
    with pytest.raises(
        ValueError, match=r"Sequential cannot be trained several at once: .*train the nets one at a time"
    ):
        train_stacked(StackedNets(models, penalty), STAGE, [Net(batches=Points(seed)) for seed in range(2)])


def test_an_error_of_the_nets_own_comes_through():
    models = [nn.Sequential(nn.Flatten(), nn.Linear(5, 3)).double() for _ in range(2)]
    with pytest.raises(RuntimeError, match="size"):
        train_stacked(StackedNets(models), STAGE, [Net(batches=Points(seed)) for seed in range(2)])
