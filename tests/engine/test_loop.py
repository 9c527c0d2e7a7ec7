import json
import math
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit.data.batches import Batches
from flatbit.engine import loop
from flatbit.engine.loop import CHECK_EVERY, Hooks, Position, TrainingError, train
from flatbit.engine.recipe import Stage
from flatbit.engine.record import EpochRecord
from flatbit.models import build
from flatbit.train.losses.labels import CrossEntropy, cross_entropy
from flatbit.train.losses.orthogonality import Lipschitz, lipschitz
from flatbit.train.losses.teacher import Distillation
from flatbit.train.optimizers import SGD, Adam, make_optimizer
from flatbit.train.schedules import Cosine, MultiStep, Schedule
from flatbit.train.sharpness import Sharpness, SharpnessAware

from .cases import Called

NUMBERS = ("epoch", "lr", "train_loss", "train_top1")


class Fixed(Batches):
    """The same batches every epoch, from a list; notes what was asked for."""

    def __init__(self, batches):
        self.batches = batches
        self.num_samples = sum(len(y) for _, y in batches)
        self.asked = []

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, start=0):
        self.asked.append((epoch, start))
        return iter(self.batches[start:])


def stage(**settings):
    return Stage(**{"name": "short", "epochs": 2, "lr": 0.05} | settings)


def mlp(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return build("fcdnn", width=8, depth=3, in_features=16, num_classes=3).to(dtype)


def sgd(model, lr=0.05):
    return make_optimizer(model, SGD(), lr=lr)


def batches_of(data, size, seed=0):
    return data.train_batches(size, seed=seed)


def double(batches):
    return Fixed([(x.double(), y) for x, y in batches])


def same_weights(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def numbers(history):
    return [{key: getattr(epoch, key) for key in NUMBERS} for epoch in history]


@pytest.mark.parametrize("kind", [SGD(), Adam()])
def test_training_equals_a_plain_loop_bit_for_bit(blobs, kind):
    model, other = mlp(), mlp()
    made = stage(epochs=3, optimizer=kind, schedule=Cosine())
    position = train(model, made, batches_of(blobs, 12), make_optimizer(model, kind, lr=0.05, weight_decay=1e-3))

    optimizer = make_optimizer(other, kind, lr=0.05, weight_decay=1e-3)
    for epoch, record in enumerate(position.history):
        losses, hits = 0.0, 0
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * epoch / 3)) / 2
        for x, y in batches_of(blobs, 12).epoch(epoch):
            optimizer.zero_grad()
            logits = other(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            losses, hits = losses + loss.item() * len(y), hits + int((logits.argmax(1) == y).sum())
        assert record.train_loss == pytest.approx(losses / 48, rel=1e-6)
        assert record.train_top1 == pytest.approx(100 * hits / 48)
        assert record.lr == optimizer.param_groups[0]["lr"]
    assert same_weights(model, other)
    assert len(position.history) == 3


def test_the_loss_is_the_weighted_sum_of_its_terms_and_each_is_told_before_its_weight(blobs):
    model, other = mlp(), mlp()
    terms = (CrossEntropy(weight=0.7), Lipschitz(weight=0.01))
    position = train(model, stage(losses=terms), batches_of(blobs, 12), sgd(model))
    optimizer = sgd(other)
    for epoch, record in enumerate(position.history):
        sums = [0.0, 0.0]
        for x, y in batches_of(blobs, 12).epoch(epoch):
            optimizer.zero_grad()
            parts = F.cross_entropy(other(x), y), lipschitz(other)
            (0.7 * parts[0] + 0.01 * parts[1]).backward()
            optimizer.step()
            sums = [total + part.item() / 4 for total, part in zip(sums, parts, strict=True)]
        assert record.losses == pytest.approx({"cross_entropy": sums[0], "lipschitz": sums[1]}, rel=1e-5)
        assert record.train_loss == pytest.approx(0.7 * sums[0] + 0.01 * sums[1], rel=1e-5)
    assert same_weights(model, other)


def test_one_forward_pass_serves_all_terms(blobs):
    model, passes = mlp(), []
    model.register_forward_hook(lambda *args: passes.append(1))
    terms = (CrossEntropy(), Called(function=lambda model, x, y, logits: logits.square().mean()))
    train(model, stage(epochs=1, losses=terms), batches_of(blobs, 12), sgd(model))
    assert len(passes) == 4


def test_terms_that_ask_networks_are_given_them_by_the_caller(blobs):
    model, teacher = mlp(), mlp(seed=1)
    made = stage(epochs=1, losses=(Distillation(weight=1.0),))
    with pytest.raises(ValueError, match="the teacher start is not loaded"):
        train(model, made, batches_of(blobs, 12), sgd(model))
    bound = tuple(term.bound(lambda source: teacher) for term in made.losses)
    (epoch,) = train(model, made, batches_of(blobs, 12), sgd(model), losses=bound).history
    assert list(epoch.losses) == ["distillation"]


def test_terms_of_an_epoch_that_was_cut_off_are_added_up(blobs):
    made = stage(epochs=1, losses=(CrossEntropy(), Lipschitz()))
    whole, model, saved = mlp(), mlp(), []
    (expected,) = train(whole, made, batches_of(blobs, 12), sgd(whole)).history
    optimizer = sgd(model)
    keep = Hooks(save=lambda p: saved.append(p.as_dict()), save_every_s=-1)
    train(model, replace(made, max_steps=2), batches_of(blobs, 12), optimizer, hooks=keep)
    position = Position.from_dict(saved[1])
    assert (position.epoch, position.step, len(position.terms)) == (0, 2, 2)
    (epoch,) = train(model, made, batches_of(blobs, 12), optimizer, position=position).history
    assert epoch.losses == pytest.approx(expected.losses)
    assert epoch.train_loss == pytest.approx(expected.train_loss)


@pytest.mark.parametrize("shard", [None, 5, 6, 12])
def test_sharpness_aware_updates_are_those_of_its_own_loop(blobs, shard):
    """Each shard of m samples climbs by itself; the last may be smaller."""
    model, other = mlp(), mlp()
    made = stage(epochs=1, sharpness=Sharpness(method="sam", rho=0.1, shard=shard))
    history = train(model, made, batches_of(blobs, 12), SharpnessAware(sgd(model), model, "sam", 0.1)).history
    sharp, losses = SharpnessAware(sgd(other), other, "sam", 0.1), []

    def closure_of(x, y, share):
        def closure():
            sharp.zero_grad()
            loss = F.cross_entropy(other(x), y) * share
            loss.backward()
            return loss.detach()

        return closure

    for x, y in batches_of(blobs, 12).epoch(0):
        m = shard or 12
        parts = zip(x.split(m), y.split(m), strict=True)
        losses.append(float(sharp.step([closure_of(a, b, len(b) / 12) for a, b in parts])))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert history[0].train_loss == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_it_learns(blobs):
    model = mlp()
    history = train(model, stage(epochs=20), batches_of(blobs, 12), sgd(model)).history
    assert history[-1].train_top1 > 95 > history[0].train_top1


def test_training_mode_is_set_each_epoch(blobs):
    model = mlp().eval()
    modes = []
    model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    train(model, stage(), batches_of(blobs, 24), sgd(model), hooks=Hooks(after_epoch=lambda e: model.eval() and e))
    assert modes == [True] * 4


def test_lr_is_set_at_every_update_from_progress(blobs):
    class Progress(Schedule):
        def __call__(self, epoch, epochs):
            seen.append((epoch, epochs))
            return 1.0

    seen = []
    model = mlp()
    train(model, stage(schedule=Progress()), batches_of(blobs, 12), sgd(model))
    assert seen == [(step / 4, 2) for step in range(8)]


def test_all_groups_get_the_lr(blobs):
    model = mlp()
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=123.0)
    train(model, stage(epochs=2, schedule=MultiStep((1,))), batches_of(blobs, 48), optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005] * 6)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_accumulated_gradients_are_those_of_one_big_batch(blobs, n):
    mini, big = mlp(dtype=torch.double), mlp(dtype=torch.double)
    small = double(batches_of(blobs, 4))
    pieces = [small.batches[i : i + n] for i in range(0, 12, n)]
    large = Fixed([(torch.cat([x for x, _ in piece]), torch.cat([y for _, y in piece])) for piece in pieces])
    grown = train(mini, stage(accumulation=((0, n),) if n > 1 else ()), small, sgd(mini))
    whole = train(big, stage(), large, sgd(big))
    for a, b in zip(mini.parameters(), big.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert [e.train_loss for e in grown.history] == pytest.approx([e.train_loss for e in whole.history])


def test_batch_norm_sees_mini_batches(blobs):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    train(model, stage(epochs=1, accumulation=((0, 4),)), batches_of(blobs, 4), sgd(model))
    assert model[1].num_batches_tracked == 12


def count_updates(optimizer):
    counts = []
    optimizer.register_step_post_hook(lambda *args: counts.append(1))
    return counts


@pytest.mark.parametrize(("size", "n", "updates"), [(12, 1, 4), (12, 2, 2), (12, 3, 1), (12, 4, 1), (5, 4, 2)])
def test_an_update_takes_all_its_mini_batches(blobs, size, n, updates):
    model = mlp()
    counts = count_updates(optimizer := sgd(model))
    position = train(
        model, stage(epochs=1, accumulation=((0, n),) if n > 1 else ()), batches_of(blobs, size), optimizer
    )
    assert len(counts) == updates
    assert position.epoch == 1


def test_mini_batches_that_make_no_update_do_not_count(blobs):
    model, cut = mlp(), mlp()
    made = stage(accumulation=((0, 3),), schedule=Cosine())  # 4 mini-batches: one is left over
    found = train(model, made, batches_of(blobs, 12), sgd(model))
    expected = train(cut, replace(made, max_steps=3), batches_of(blobs, 12), sgd(cut))
    assert numbers(found.history) == numbers(expected.history)
    assert same_weights(model, cut)


def test_gradients_left_over_from_before_do_not_count(blobs):
    model, clean = mlp(), mlp()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for trained in (model, clean):
        train(trained, stage(epochs=1), batches_of(blobs, 12), sgd(trained))
    assert same_weights(model, clean)


class Clock:
    """Time in place of the loop's: each mini-batch takes ten seconds, all else none."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(loop, "time", self)

    def monotonic(self):
        return self.now

    def __call__(self, model, x, y, logits):
        self.now += 10
        return cross_entropy(logits, y)


def test_seconds_and_rate_are_those_of_training(blobs, monkeypatch):
    clock, model = Clock(monkeypatch), mlp()

    def slow_evaluation(epoch):
        clock.now += 500
        return epoch

    made = stage(losses=(Called(function=clock),), accumulation=((1, 2),))
    history = train(model, made, batches_of(blobs, 12), sgd(model), hooks=Hooks(after_epoch=slow_evaluation)).history
    assert [(epoch.seconds, epoch.images_per_s) for epoch in history] == [(40, 1.2), (40, 1.2)]


def test_saves_inside_an_epoch_are_so_many_seconds_apart(blobs, monkeypatch):
    clock, model, saved = Clock(monkeypatch), mlp(), []
    train(
        model, stage(epochs=1, losses=(Called(function=clock),)), batches_of(blobs, 4), sgd(model),
        hooks=Hooks(save=lambda p: saved.append((p.epoch, p.step)), save_every_s=25),
    )  # fmt: skip
    assert saved == [(0, 3), (0, 6), (0, 9), (0, 12), (1, 0)]


def test_seconds_of_a_resumed_epoch_are_added_up(blobs, monkeypatch):
    clock, model = Clock(monkeypatch), mlp()
    position = Position(step=2, samples=24, seconds=100.0)
    made = stage(epochs=1, losses=(Called(function=clock),))
    (epoch,) = train(model, made, batches_of(blobs, 12), sgd(model), position=position).history
    assert epoch.seconds == 120


class Shown:
    """Notes what a progress bar is told, in place of one."""

    def __init__(self, *fields):
        self.told = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def add_task(self, name, *, total, **fields):
        self.told.append({"name": name, "total": total})

    def update(self, task, **fields):
        self.told.append(fields)


def test_progress_tells_loss_accuracy_and_speed(blobs, monkeypatch):
    clock, model, shown = Clock(monkeypatch), mlp(), Shown()
    monkeypatch.setattr(loop, "bar", lambda *fields: shown)
    made = stage(epochs=2, lr=1e-30, losses=(Called(function=clock),))
    history = train(model, made, batches_of(blobs, 12), sgd(model)).history
    start, *told = shown.told
    assert start == {"name": "short", "total": 8}
    assert [update["completed"] for update in told] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert told[-1] == {
        "completed": 8,
        "loss": f"loss {history[-1].train_loss:.3f}",
        "top1": f"top1 {history[-1].train_top1:.1f}",
        "rate": "1 img/s",
    }


def test_accumulation_grows_at_its_epochs(blobs):
    model = mlp()
    counts = count_updates(optimizer := sgd(model))
    each = []
    hooks = Hooks(after_epoch=lambda epoch: each.append(len(counts)) or epoch)
    train(model, stage(epochs=4, accumulation=((1, 2), (3, 4))), batches_of(blobs, 12), optimizer, hooks=hooks)
    assert each == [4, 6, 8, 9]


@pytest.mark.parametrize("accumulation", [((0, 8),), ((1, 8),)])
def test_an_epoch_without_an_update_is_refused_before_anything_is_trained(blobs, accumulation):
    model, untouched = mlp(), mlp()
    with pytest.raises(
        ValueError, match=r"an epoch of 48 samples has 4 mini-batches, fewer than one update takes \(8\)"
    ):
        train(model, stage(accumulation=accumulation), batches_of(blobs, 12), sgd(model))
    assert same_weights(model, untouched)


def test_max_steps_cuts_the_epoch(blobs):
    model = mlp()
    counts = count_updates(optimizer := sgd(model))
    train(model, stage(max_steps=3), batches_of(blobs, 4), optimizer)
    assert len(counts) == 6


def test_no_epochs_is_no_training(blobs):
    model, untouched = mlp(), mlp()
    position = train(model, Stage(name="none", epochs=0), batches_of(blobs, 12), sgd(model))
    assert position == Position()
    assert same_weights(model, untouched)


def test_after_epoch_may_add_to_the_record(blobs):
    model, hooks = mlp(), Hooks(after_epoch=lambda epoch: replace(epoch, test_top1=10.0 * epoch.epoch))
    position = train(model, stage(), batches_of(blobs, 12), sgd(model), hooks=hooks)
    assert [epoch.test_top1 for epoch in position.history] == [10, 20]


def test_save_is_called_after_every_epoch_with_the_epoch_in_its_history(blobs):
    model, saved = mlp(), []
    train(
        model, stage(epochs=3), batches_of(blobs, 12), sgd(model), hooks=Hooks(save=lambda p: saved.append(p.as_dict()))
    )
    assert [(p["epoch"], p["step"], len(p["history"]), p["samples"]) for p in saved] == [
        (1, 0, 1, 0), (2, 0, 2, 0), (3, 0, 3, 0),
    ]  # fmt: skip


def test_save_is_called_inside_an_epoch_where_asked(blobs):
    model, saved = mlp(), []
    train(
        model, stage(epochs=1, accumulation=((0, 2),)), batches_of(blobs, 8), sgd(model),
        hooks=Hooks(save=lambda p: saved.append((p.epoch, p.step, p.samples)), save_every_s=-1),
    )  # fmt: skip
    assert saved == [(0, 2, 16), (0, 4, 32), (0, 6, 48), (1, 0, 0)]


class Killed(Exception):
    """Raised in the middle of training."""


@pytest.mark.parametrize("kill_at", range(1, 9))
@pytest.mark.parametrize("n", [1, 2])
def test_going_on_from_any_save_equals_never_having_stopped(blobs, kill_at, n):
    made = stage(epochs=2, accumulation=((0, n),) if n > 1 else (), schedule=MultiStep((1,)))
    whole, model = mlp(), mlp()
    expected = train(whole, made, batches_of(blobs, 12), sgd(whole))
    saved = []

    def save(position):
        kept = Position.from_dict(position.as_dict())
        saved.append((kept, {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()))
        if len(saved) == kill_at:
            raise Killed

    optimizer = sgd(model)
    with suppress(Killed):
        train(model, made, batches_of(blobs, 12), optimizer, hooks=Hooks(save=save, save_every_s=-1))
    position, weights, state = saved[-1]
    resumed = mlp(seed=5)
    resumed.load_state_dict(weights)
    fresh = sgd(resumed)
    fresh.load_state_dict(state)
    result = train(resumed, made, batches_of(blobs, 12), fresh, position=position)
    assert same_weights(resumed, whole)
    assert numbers(result.history) == numbers(expected.history)


def test_going_on_asks_for_the_rest_of_the_epoch_only(blobs):
    model = mlp()
    data = Fixed(list(batches_of(blobs, 12)))
    train(model, stage(epochs=3), data, sgd(model), position=Position(epoch=1, step=2, samples=24))
    assert data.asked == [(1, 2), (2, 0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_at_once(blobs, bad):
    def breaks(model, x, y, logits):
        calls.append(1)
        return cross_entropy(logits, y) * (bad if len(calls) == 3 else 1)

    calls, saved = [], []
    model = mlp()
    hooks = Hooks(save=lambda p: saved.append(p.step), save_every_s=-1)
    with pytest.raises(
        TrainingError, match=r"stage 'short': .* in epoch 1, step 3 \(lr 0\.05, .*\): weight of first\.0: not finite"
    ):
        train(model, stage(losses=(Called(function=breaks),)), batches_of(blobs, 12), sgd(model), hooks=hooks)
    assert len(calls) == 3
    assert saved == [1, 2]


def test_weights_that_a_sound_loss_has_broken_are_not_saved(blobs):
    def breaks(model, x, y, logits):
        calls.append(1)
        nothing = (0 * logits).square().sum().sqrt() if len(calls) == 2 else 0.0  # 0, with a gradient of NaN
        return cross_entropy(logits, y) + nothing

    calls, saved, model = [], [], mlp()
    batches, keep = batches_of(blobs, 12), Hooks(save=lambda position: saved.append(position.step), save_every_s=-1)
    with pytest.raises(TrainingError, match="the loss is not finite in epoch 1, step 3"):
        train(model, stage(losses=(Called(function=breaks),)), batches, sgd(model), hooks=keep)
    assert saved == [1]


def test_a_rate_far_too_high_stops(blobs):
    model = mlp()
    with pytest.raises(TrainingError, match="the loss is not finite in epoch 1, step "):
        train(model, stage(lr=1e30), batches_of(blobs, 12), sgd(model))


def test_position_is_plain_and_comes_back(blobs):
    epoch = EpochRecord(
        epoch=1, lr=0.1, train_loss=0.5, train_top1=50.0, losses={"a": 0.5}, images_per_s=2.0, seconds=1.0, capture=1,
    )  # fmt: skip
    position = Position(
        epoch=2, step=3, first_loss=0.9, stuck=1, loss=0.5, hits=4.0, terms=(0.1, 0.2), samples=7, seconds=0.25,
        history=(epoch, replace(epoch, epoch=2, test_top1=99.5)),
    )  # fmt: skip
    for kept in (position, Position()):
        assert Position.from_dict(json.loads(json.dumps(kept.as_dict()))) == kept
    model = mlp()
    trained = train(model, stage(), batches_of(blobs, 12), sgd(model))
    assert Position.from_dict(trained.as_dict()) == trained


@pytest.mark.gpu
def test_on_a_device_every_sample_counts_though_the_loss_is_looked_at_seldom(blobs, device):
    there, here = mlp().to(device), mlp()
    batches = blobs.train_batches(2, seed=0, device=device)  # 24 updates: one look at 20, one at the end
    found = train(there, stage(), batches, sgd(there)).history
    expected = train(here, stage(), batches_of(blobs, 2), sgd(here)).history
    assert [e.train_loss for e in found] == pytest.approx([e.train_loss for e in expected], rel=1e-3)
    assert [e.train_top1 for e in found] == pytest.approx([e.train_top1 for e in expected], abs=5)


@pytest.mark.gpu
def test_on_a_device_a_loss_that_is_not_finite_stops_at_the_next_look(blobs, device):
    def breaks(model, x, y, logits):
        calls.append(1)
        return cross_entropy(logits, y) * (math.nan if len(calls) == 3 else 1)

    calls, model = [], mlp().to(device)
    batches = blobs.train_batches(2, seed=0, device=device)
    with pytest.raises(TrainingError, match="the loss is not finite in epoch 1"):
        train(model, stage(losses=(Called(function=breaks),)), batches, sgd(model))
    assert len(calls) <= CHECK_EVERY


@pytest.mark.parametrize("every", [1, 4, 20])
def test_an_epoch_that_ends_early_counts_to_its_end(blobs, monkeypatch, every):
    """Where looks are few, as on a device, the sums since the last one are of this epoch."""

    class Early(Fixed):
        def __len__(self):
            return 12

    monkeypatch.setattr(loop, "looks_every", lambda device: every)
    given = list(batches_of(blobs, 6).epoch(0))[:10]
    whole, cut = mlp(), mlp()
    expected = train(whole, stage(), Fixed(given), sgd(whole)).history
    found = train(cut, stage(), Early(given), sgd(cut)).history
    assert same_weights(cut, whole)
    assert [epoch.train_loss for epoch in found] == pytest.approx([epoch.train_loss for epoch in expected], rel=1e-6)
    assert [epoch.train_top1 for epoch in found] == [epoch.train_top1 for epoch in expected]


def test_labels_of_any_whole_number_and_of_shape_n_1_train_alike(blobs):
    expected, found = mlp(), mlp()
    given = list(batches_of(blobs, 32).epoch(0))
    kept = train(expected, stage(), Fixed(given), sgd(expected)).history
    for change in (lambda y: y.to(torch.uint8), lambda y: y[:, None], lambda y: y.int()[:, None]):
        found = mlp()
        history = train(found, stage(), Fixed([(x, change(y)) for x, y in given]), sgd(found)).history
        assert same_weights(found, expected)
        assert numbers(history) == numbers(kept)


def test_labels_that_do_not_fit_are_named_before_an_update(blobs):
    for change, message in (
        (lambda y: y.float(), "labels are torch.float32, expected whole numbers"),
        (lambda y: y[:, None].expand(-1, 3), "gives logits of shape .* for labels of shape"),
    ):
        model = mlp()
        with pytest.raises(ValueError, match=message):
            train(model, stage(), Fixed([(x, change(y)) for x, y in batches_of(blobs, 32).epoch(0)]), sgd(model))
        assert same_weights(model, mlp())
