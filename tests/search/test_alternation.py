import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from flatbit.data.held_out import held_out
from flatbit.search.alternation import CHECKPOINT, Search
from flatbit.search.costs import Price
from flatbit.search.per_bit import SharedNet
from flatbit.search.samq import Samq
from flatbit.train.sharpness import Sharpness

from .cases import preresnet, shared

FLAT = Sharpness(method="saq", rho=0.2)
SETTINGS = Samq(epochs=4, warmup=2, batch_size=12, accepted=4, tries=500, window=0.3)


@pytest.fixture
def search_of(blobs):
    """A search on blobs, made anew each time: ``search_of(sharpness=..., ...)``."""

    def make(model=None, **settings):
        model, space, prices = shared(blobs, model=model)
        training, validation = held_out(blobs, 24)
        net, target = SharedNet(model, space), prices.total(space.uniform(3)).bitops
        return Search(
            net=net, prices=prices, target=target, settings=replace(SETTINGS, **settings), training=training,
            validation=validation, seed=3,
        )  # fmt: skip

    return make


def tensors(module):
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


@contextmanager
def killed(monkeypatch, after):
    """Ctrl-C at the beginning of an epoch."""
    real = Search._epoch

    def epoch(self, number):
        if number == after:
            raise KeyboardInterrupt
        return real(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("sharpness", [None, FLAT])
@pytest.mark.parametrize("after", [1, 3])
def test_killed_and_gone_on_with_it_finds_the_same(search_of, monkeypatch, tmp_path, sharpness, after):
    whole, said = search_of(sharpness=sharpness), []
    expected = whole.run(tmp_path / "whole")
    with killed(monkeypatch, after):
        search_of(sharpness=sharpness).run(tmp_path / "parts")
    torch.manual_seed(99)  # as in another process
    again = search_of(sharpness=sharpness)
    found = again.run(tmp_path / "parts", resume=True, say=said.append)
    assert found == expected
    assert same(tensors(again.net.model), tensors(whole.net.model))
    assert said[0] == f"search: going on after epoch {after}"
    assert len(said) == 1 + 4 - after


def test_killed_while_it_chooses_it_chooses_the_same(search_of, monkeypatch, tmp_path):
    expected = search_of().run()
    with monkeypatch.context() as patch:
        patch.setattr(Search, "select", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            search_of().run(tmp_path)
    assert search_of().run(tmp_path, resume=True) == expected


class Noisy(nn.Module):
    """A net that draws at random in training."""

    def __init__(self):
        super().__init__()
        self.net, self.dropout = preresnet(num_classes=3), nn.Dropout(0.3)

    def forward(self, x):
        return self.net(self.dropout(x))


def test_what_a_net_draws_at_random_goes_on_too(search_of, monkeypatch, tmp_path):
    expected = search_of(model=noisy()).run()
    with killed(monkeypatch, 2):
        search_of(model=noisy()).run(tmp_path)
    again = search_of(model=noisy())
    torch.manual_seed(99)
    assert again.run(tmp_path, resume=True) == expected


def noisy():
    torch.manual_seed(0)
    return Noisy()


def test_without_being_asked_to_go_on_it_begins_anew(search_of, tmp_path):
    first = search_of().run(tmp_path)
    assert (tmp_path / CHECKPOINT).is_file()
    said = []
    assert search_of().run(tmp_path, say=said.append) == first
    assert len(said) == 4


@pytest.mark.parametrize(
    ("settings", "words"), [({"epochs": 5}, "another settings"), ({"sharpness": FLAT}, "another settings")]
)
def test_a_checkpoint_of_another_search_is_refused(search_of, tmp_path, settings, words):
    search_of().run(tmp_path)
    with pytest.raises(ValueError, match=words):
        search_of(**settings).run(tmp_path, resume=True)
    other = search_of()
    other.target += 1
    with pytest.raises(ValueError, match="the search that is there has another target"):
        other.run(tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["cut", "emptied", "text", "other"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(search_of, tmp_path, damage):
    search_of().run(tmp_path)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"net": {}}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "emptied": b"", "text": b"no checkpoint"}[damage])
    with pytest.raises(ValueError, match=r"search\.pt is no checkpoint of a search \(.+\): delete it to begin"):
        search_of().run(tmp_path, resume=True)


def test_what_is_found_is_inside_the_window_and_left_in_the_net(search_of):
    search = search_of(sharpness=FLAT)
    found = search.run()
    assert 1 <= len(found.accepted) <= 4
    for each in found.accepted:
        assert 0.7 * search.target <= each.price.bitops <= search.target
        assert each.price == search.prices.total(each.bits)
        assert 0 <= each.top1 <= 100
    assert len({tuple(each.bits.values()) for each in found.accepted}) == len(found.accepted)
    assert found.best.top1 == max(each.top1 for each in found.accepted)
    assert search.net.bits == found.best.bits
    assert not any("per_bit" in key for key in search.net.model.state_dict())
    assert all(getattr(module, "perturbation", None) is None for module in search.net.model.modules())


def test_epochs_say_what_happened(search_of):
    search = search_of()
    least, most = (price.bitops / 1e6 for price in search.prices.range())
    epochs = search.run().epochs
    assert [each.epoch for each in epochs] == [1, 2, 3, 4]
    assert [each.cost is None for each in epochs] == [True, True, False, False]
    for each in epochs[2:]:
        assert each.cost > 0
        assert least <= each.mbitops <= most
        assert 0 < each.entropy < 6 * 1.0987  # of six choices of three widths


def test_the_net_learns_on_its_part(search_of):
    losses = [each.train_loss for each in search_of(epochs=12, warmup=11, lr=0.05).run().epochs]
    assert losses[-1] < 0.7 * losses[0]


def test_the_warm_up_leaves_the_generator_alone_and_draws_uniformly(search_of):
    search = search_of()
    before = tensors(search.reinforce.generator)
    for epoch in range(2):
        search._epoch(epoch)
    assert same(before, tensors(search.reinforce.generator))
    assert search.reinforce.baseline is None
    drawn = [search._draw(0) for _ in range(300)]
    for choice in search.net.space.choices:
        for width in choice.widths:
            assert sum(bits[choice.name] == width for bits in drawn) == pytest.approx(100, abs=35)
    search._epoch(2)
    assert not same(before, tensors(search.reinforce.generator))


def test_after_the_warm_up_widths_are_the_generators(search_of):
    search = search_of()
    with torch.no_grad():
        search.reinforce.generator.scores.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    assert search._draw(2) == {choice.name: 3 for choice in search.net.space.choices}
    assert {*search._draw(1).values()} != {3}


@pytest.mark.parametrize(("share", "added"), [(1.0, 0.0), (1.5, 0.25), (0.5, 0.25), (2.0, 1.0)])
def test_the_cost_of_a_sample(search_of, share, added):
    search = search_of(kappa=8.0)
    assert search.cost(1.25, Price(bitops=round(share * search.target))) == pytest.approx(1.25 + 8 * added, rel=1e-6)


def test_the_loss_of_a_sample_is_that_of_its_net_in_eval_mode(search_of, blobs):
    search = search_of()
    batch = next(iter(blobs.train_batches(16, seed=0)))
    bits = {choice.name: 2 for choice in search.net.space.choices}
    before = tensors(search.net.model)
    found = search._perturbed_loss(batch, bits)
    search.net.switch_(bits)
    with torch.no_grad():
        assert found == pytest.approx(float(nn.functional.cross_entropy(search.net.model.eval()(batch[0]), batch[1])))
    after = tensors(search.net.model)
    assert all(torch.equal(before[key], after[key]) or key.endswith("bits") for key in before)


def test_uphill_the_loss_is_higher_and_nothing_stays_moved(search_of, blobs):
    search, plain = search_of(sharpness=replace(FLAT, rho=0.01)), search_of()
    batch = next(iter(blobs.train_batches(16, seed=0)))
    bits = {choice.name: 2 for choice in search.net.space.choices}
    search.net.switch_(bits)
    before, modes = tensors(search.net.model), [m.training for m in search.net.model.modules()]
    assert search._perturbed_loss(batch, bits) > plain._perturbed_loss(batch, bits) + 1e-3
    assert same(before, tensors(search.net.model))
    assert [m.training for m in search.net.model.modules()] == modes
    assert all(p.grad is None for p in search.net.model.parameters())


def test_no_gradient_leaks_from_one_pass_into_another(search_of, blobs):
    """After a generator's update the next update of the net is as if it had not been."""
    batch = next(iter(blobs.train_batches(16, seed=0)))
    after = []
    for taught in (False, True):
        search = search_of(sharpness=FLAT)
        search._train(batch, 0.1, 0)
        if taught:
            search._teach(batch)
            assert all(p.grad is None for p in search.net.model.parameters())
        search.stream.manual_seed(5)
        search._train(batch, 0.1, 0)
        after.append(tensors(search.net.model))
        assert all(p.grad is None for p in search.reinforce.generator.parameters()) or taught
    assert same(*after)


def decay_all_(search):
    """Clips too, which ``parameter_groups`` exempts where they are tables."""
    for group in search.optimizer.param_groups:
        group["weight_decay"] = 0.1


@pytest.mark.parametrize("sharpness", [None, FLAT])
def test_momentum_and_decay_leave_rows_of_other_widths_alone(search_of, blobs, monkeypatch, sharpness):
    search = search_of(sharpness=sharpness)
    decay_all_(search)
    batch = next(iter(blobs.train_batches(16, seed=0)))
    clips = {
        name: p for name, p in search.net.model.named_parameters() if name.endswith("clip") and p.ndim and len(p) == 3
    }
    for width in (2, 3):  # momentum of the first is there in the second
        monkeypatch.setattr(Search, "_draw", lambda self, epoch, width=width: dict.fromkeys(self.net.bits, width))
        before = copy.deepcopy({name: p.detach() for name, p in clips.items()})
        search._train(batch, 0.5, 0)
        moved = {name: (p.detach() != before[name]).tolist() for name, p in clips.items()}
        searched = [name for name in moved if name.startswith("layers.")]
        assert len(searched) == 16
        for name in searched:
            assert moved[name] == [width == 2, width == 3, False], name


def test_a_step_that_begins_a_momentum_begins_it_for_its_rows_only(search_of, blobs, monkeypatch):
    search = search_of()
    decay_all_(search)
    monkeypatch.setattr(Search, "_draw", lambda self, epoch: dict.fromkeys(self.net.bits, 2))
    search._train(next(iter(blobs.train_batches(16, seed=0))), 0.5, 0)
    for parameter, other in search.net.unused_rows():
        momentum = search.optimizer.state[parameter]["momentum_buffer"]
        assert not momentum[other].any()
        assert momentum[~other].all()


def test_none_accepted_names_the_nearest_and_what_to_loosen(search_of):
    search = search_of(window=1e-6, tries=30)
    search.target += 1  # no assignment costs that
    words = (
        r"none of 30 drawn assignments costs [\d.]+ to [\d.]+ M bit-operations; the nearest costs ([\d.]+) M "
        r"bit-operations, [\d,]+ bytes: search longer \(epochs\), widen window, or raise kappa"
    )
    with pytest.raises(ValueError, match=words) as caught:
        search.run()
    nearest = float(str(caught.value).split("the nearest costs ")[1].split()[0])
    assert nearest * 1e6 == pytest.approx(search.target, rel=0.2)


def test_it_stops_drawing_when_it_has_enough(search_of, monkeypatch):
    search = search_of(accepted=1, window=0.999)
    search.target = search.prices.range()[1].bitops
    assert len(search.select()) == 1
    state = search.stream.get_state()
    search.stream.manual_seed(3)
    search.reinforce.generator.sample(search.stream)
    assert torch.equal(search.stream.get_state(), state)


def test_the_rate_falls_at_half(search_of, monkeypatch):
    rates = []
    monkeypatch.setattr(Search, "_train", lambda self, batch, rate, epoch: rates.append(rate) or torch.zeros(()))
    search_of(epochs=4, warmup=3).run()
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 4)
