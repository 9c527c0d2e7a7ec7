"""Stacked nets against the same nets trained one at a time by the ordinary loop, in float64, over 20 updates."""

import copy
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.data.batches import Batches
from flatbit.engine.checkpoint import load_checkpoint, restore_checkpoint_, save_checkpoint
from flatbit.engine.loop import Hooks, Position, TrainingError, train
from flatbit.engine.recipe import Stage
from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_optimizer import load_states_, stacked_optimizer, state_of_net
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.engine.stage import optimizer_of, quantize_for_
from flatbit.engine.way import EAGER
from flatbit.quant.quantizers import METHODS
from flatbit.train.losses.cost import CostPenalty
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation
from flatbit.train.optimizers import SGD, Adam
from flatbit.train.schedules import Cosine, Linear, Schedule
from flatbit.train.sharpness import Sharpness

from .cases import Called

STEPS, SIZE = 10, 12
PUBLIC = [name for name in METHODS.names() if METHODS.get(name).public]
STAGE = Stage(name="stage", epochs=2, lr=0.005, weight_decay=1e-3, schedule=Cosine(), batch_size=SIZE)


@dataclass(frozen=True)
class Fixed(Schedule):
    """The factors of a cosine over three epochs."""

    def __call__(self, epoch, epochs):
        return Cosine()(epoch, 3)


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


@pytest.mark.parametrize("method", PUBLIC)
@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_every_method_trains_at_once_as_one_at_a_time(method, optimizer):
    build = (lambda: conv_net(nn.Hardtanh)) if method == "xnor" else conv_net
    lr = 0.005 if isinstance(optimizer, SGD) else 1e-3
    assert_equal_training(nets(policy_of(method), build=build), replace(STAGE, optimizer=optimizer, lr=lr))


def test_float_nets_train_at_once_as_one_at_a_time():
    assert_equal_training(nets(), STAGE)


UNIQ = policy_of("uniq")


@pytest.mark.parametrize("method", ["sam", "asam", "saq", "asaq"])
@pytest.mark.parametrize("perturb", ["authors", "weights_only"])
def test_sharpness_aware_nets_climb_each_in_its_own_norm(method, perturb):
    sharpness = Sharpness(method=method, rho=0.1, perturb=perturb)
    assert_equal_training(nets(policy_of("saq")), replace(STAGE, sharpness=sharpness))


def test_sharpness_may_let_the_second_pass_move_statistics():
    sharpness = Sharpness(method="saq", rho=0.1, batchnorm="update")
    assert_equal_training(nets(UNIQ), replace(STAGE, sharpness=sharpness))


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


def test_candidates_and_steps_per_channel():
    model = nets(fb.policy("uniq-imagenet", weights=2, activations=2))
    assert model[0][3].weight_quantizer.step.shape == (4, 1, 1, 1)
    assert_equal_training(model, STAGE)


def test_arms_share_their_batches():
    batches = Points(5)
    assert_equal_training(nets(UNIQ), STAGE, batches=[batches] * 3)


def test_nets_whose_inputs_differ_in_sign_are_each_of_them():
    """What a quantizer found out about its input is a number of its own."""
    models = nets(UNIQ, build=lambda: conv_net(nn.Identity))
    quantizer = models[1][3].input_quantizer
    assert bool(quantizer.signed)
    quantizer.signed.fill_(0)
    assert_equal_training(models, STAGE)
    assert [bool(model[3].input_quantizer.signed) for model in models] == [True, False, True]


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


def test_nets_share_what_a_quantizer_is_and_nothing_else():
    stack = StackedNets(nets(UNIQ))
    assert {name.rpartition(".")[2] for name in stack.buffers} == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(len(tensor) == 3 for tensor in (*stack.parameters.values(), *stack.buffers.values()))


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


class Muon(SGD.__base__):
    """An optimizer of a matrix as a whole."""

    def make(self, groups, lr):
        class Whole(torch.optim.SGD):
            pass

        return Whole(groups, lr=lr)


def test_optimizers_and_shards_that_could_mix_nets_are_refused():
    stack = StackedNets(nets(count=2))
    with pytest.raises(ValueError, match="Whole: whether it steps each number by itself is not known"):
        stacked_optimizer(stack, Muon(), lr=0.1)
    rows = [Net(batches=Points(seed)) for seed in range(2)]
    with pytest.raises(ValueError, match="shard=4: stacked nets climb by whole updates"):
        train_stacked(stack, replace(STAGE, sharpness=Sharpness(method="sam", rho=0.1, shard=4)), rows)
    with pytest.raises(ValueError, match="has none that train"):
        train_stacked(stack, replace(STAGE, sharpness=Sharpness(method="saq", rho=0.1)), rows)


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


def test_nets_out_of_step_are_refused():
    stack = StackedNets(nets(count=2))
    with pytest.raises(ValueError, match="1 nets for 2 models"):
        train_stacked(stack, STAGE, [Net(batches=Points(0))])
    with pytest.raises(ValueError, match=r"positions \(epoch, step\) \[\(0, 0\), \(1, 0\)\]"):
        train_stacked(stack, STAGE, [Net(batches=Points(0)), Net(batches=Points(1), position=Position(epoch=1))])
    with pytest.raises(ValueError, match=r"batches \(number, size\) \[\(10, 6\), \(10, 12\)\]"):
        train_stacked(stack, STAGE, [Net(batches=Points(0)), Net(batches=Points(1, size=6))])
