import copy
import pickle

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils.checkpoint import checkpoint

import flatbit as fb
from flatbit.models.shared import InTurn, shared_modules, split_shared_


class Block(nn.Module):
    """One ReLU, called three times, as in torchvision's bottlenecks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.c(self.relu(self.b(self.relu(self.a(x))))))


class Named(nn.Module):
    """One ReLU under two names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.first = self.second = nn.ReLU()

    def forward(self, x):
        return self.second(self.b(self.first(self.a(x))))


def net():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(4, 3))


def test_each_call_gets_a_module_of_its_own():
    model, x = net(), torch.randn(8, 4)
    before, keys = model(x), list(model.state_dict())
    assert shared_modules(model) == {"0.relu": 3, "1.relu": 3}
    assert split_shared_(model) == {"0.relu": 3, "1.relu": 3}
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    assert [name for name, m in model.named_modules() if isinstance(m, nn.ReLU)] == [
        f"{block}.relu.{call}" for block in (0, 1) for call in range(3)
    ]
    assert not shared_modules(model)
    assert not split_shared_(model)


def test_each_name_gets_a_module_of_its_own():
    model = Named()
    assert split_shared_(model) == {"first": 2}
    assert model.first is not model.second
    assert type(model.second) is nn.ReLU
    assert not shared_modules(model)


def test_what_holds_parameters_stays_shared():
    shared = nn.PReLU()
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)
    assert split_shared_(model) == {}
    assert model[1] is model[3]
    assert shared_modules(model) == {"1": 2}


def test_a_forward_that_fails_half_way_leaves_nothing_out_of_turn():
    model = net()
    split_shared_(model)
    whole = copy.deepcopy(model)
    fails = model[0].c.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyError("stop")))
    with pytest.raises(KeyError):
        model(torch.randn(2, 4))
    fails.remove()
    used = []
    for index, relu in enumerate(model[0].relu):
        relu.register_forward_hook(lambda *_, index=index: used.append(index))
    model(torch.randn(2, 4))
    assert used == [0, 1, 2]
    assert torch.equal(whole(torch.ones(2, 4)), model(torch.ones(2, 4)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_take_turns_of_their_own(copied):
    model = net()
    split_shared_(model)
    other = copied(model)
    x = torch.randn(2, 4)
    assert torch.equal(other(x), model(x))
    model[0].relu(x)  # out of turn
    assert other[0].relu._next == 0
    other(x)
    assert other[0].relu._next == 0


def test_outputs_get_steps_of_their_own_and_coverage_says_where_they_do_not():
    x = torch.randn(64, 4)
    policy = fb.policy("faq", weights=4, activations=4)

    def steps(model):
        return {float(m.output_quantizer.step) for _, m in model.named_modules() if hasattr(m, "output_quantizer")}

    shared, split = net(), net()
    for model in (shared, split):
        with torch.no_grad():
            model[0].b.weight.mul_(30)
    split_shared_(split)
    coverage = fb.quantize_(shared, policy)
    notes = {layer.name: layer.reason for layer in coverage.layers if "relu" in layer.name}
    assert notes["0.relu"].startswith("used in 3 places, which get one step: flatbit.split_shared_(model)")
    assert "used in 3 places" in str(coverage)
    with pytest.warns(UserWarning, match=r"one step for all: '0\.relu' \(3 times\), '1\.relu' \(3 times\)"):
        fb.calibrate_(shared, [x])
    coverage = fb.quantize_(split, policy)
    assert not any("places" in layer.reason for layer in coverage.layers)
    fb.calibrate_(split, [x])
    assert len(steps(shared)) == 2 < len(steps(split))
    assert split[0].relu[0].output_quantizer.step < split[0].relu[1].output_quantizer.step


def test_split_after_compilation_too():
    model = net()
    split_shared_(model)
    x = torch.randn(2, 4)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for _ in range(3):
        assert torch.allclose(compiled(x), model(x))
    assert counter.frame_count <= 2


def test_what_cannot_be_read_is_refused():
    class Chooses(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="which modules Chooses calls several times cannot be read"):
        split_shared_(Chooses())


def test_in_turn_wraps_around():
    calls = InTurn(nn.ReLU(), 2)
    seen = []
    for index, relu in enumerate(calls):
        relu.register_forward_hook(lambda *_, index=index: seen.append(index))
    for _ in range(4):
        calls(torch.ones(1))
    assert seen == [0, 1, 0, 1]


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = self.alias = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.body(x)


def test_a_block_of_two_names_holds_its_activation_in_one_place():
    model = Aliased()
    before = model.body[1]
    assert split_shared_(model) == {}
    assert model.body[1] is before


class Part(nn.Module):
    """A block whose middle is computed again in the backward pass."""

    def __init__(self, part):
        super().__init__()
        self.block, self.part = Block(), part

    def forward(self, x):
        return self.part(self.block, x)


def of_the_whole(block, x):
    return checkpoint(block, x, use_reentrant=False)


def of_a_part(block, x):
    x = block.relu(block.a(x))
    x = checkpoint(lambda z: block.relu(block.b(z)), x, use_reentrant=False)
    return block.relu(block.c(x))


def test_a_checkpointed_block_begins_anew_and_a_part_of_one_is_refused():
    torch.manual_seed(0)
    model, x = Part(lambda block, x: block(x)), torch.randn(8, 4)
    split_shared_(model)
    fb.quantize_(model, fb.policy("lsq", weights=4, activations=4, placement="output"))
    fb.calibrate_(model, [x])
    model(x).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.part = of_the_whole
    model(x).sum().backward()
    assert all(torch.equal(p.grad, expected[name]) for name, p in model.named_parameters())
    model.part = of_a_part
    loss = model(x).sum()
    with pytest.raises(RuntimeError, match=r"one of 3 calls of a shared QReLU .* checkpoint the whole"):
        loss.backward()


def test_a_part_that_is_called_alone_begins_with_the_first():
    model, x = net(), torch.randn(2, 4)
    split_shared_(model)
    used = []
    for index, relu in enumerate(model[0].relu):
        relu.register_forward_hook(lambda *_, index=index: used.append(index))
    model[0].relu(x)  # out of turn
    model[0](x)
    assert used[1:] == [0, 1, 2]


def test_a_shared_block_has_a_copy_for_each_of_its_calls():
    block = Block()
    model = nn.Sequential(block, nn.Linear(4, 4), block)
    assert split_shared_(model) == {"0.relu": 6}
    used = []
    for index, relu in enumerate(block.relu):
        relu.register_forward_hook(lambda *_, index=index: used.append(index))
    model(torch.randn(2, 4))
    assert used == list(range(6))


def test_what_is_refused_is_left_as_it_was():
    class Chooses(Named):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    model = Chooses()
    with pytest.raises(ValueError, match="cannot be read"):
        split_shared_(model)
    assert model.first is model.second
