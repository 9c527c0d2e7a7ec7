import pytest
import torch
from torch import nn

from flatbit.engine.capture import EngineError, State, check_capturable, signature, state_tensors
from flatbit.train.sharpness import SharpnessAware

CPU = torch.device("cpu")


def stepped(optimizer, model):
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return optimizer


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def test_state_comes_back_whole():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sums = torch.zeros(2)
    state = State.of(model, optimizer, sums)
    before = [value.clone() for value in model.state_dict().values()]
    random = torch.get_rng_state()
    stepped(optimizer, model)
    sums += 1
    assert optimizer.state
    state.restore_()
    assert all(map(torch.equal, model.state_dict().values(), before))
    assert not optimizer.state
    assert torch.equal(sums, torch.zeros(2))
    assert torch.equal(torch.get_rng_state(), random)


def test_state_that_there_was_is_written_back_in_place():
    model = net()
    optimizer = stepped(torch.optim.Adam(model.parameters(), lr=0.1), model)
    kept = {id(value): value.clone() for value in state_tensors(optimizer)}
    state = State.of(model, optimizer)
    stepped(optimizer, model)
    state.restore_()
    assert all(torch.equal(value, kept[id(value)]) for value in state_tensors(optimizer))


def test_what_a_captured_step_would_repeat_is_refused():
    model = net()
    rate = torch.tensor(0.1)
    check_capturable(stepped(torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9), model), CPU)
    with pytest.raises(EngineError, match="SGD keeps its learning rate as a plain number"):
        check_capturable(torch.optim.SGD(model.parameters(), lr=0.1), CPU)
    with pytest.raises(EngineError, match="SGD keeps its learning rate as a plain number"):
        check_capturable(SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), model, "sam", 0.1), CPU)
    counts = stepped(torch.optim.SGD(model.parameters(), lr=rate), model)
    counts.state[model[0].weight]["count"] = 3
    with pytest.raises(EngineError, match="SGD keeps a part of its state as a plain number"):
        check_capturable(counts, CPU)


def test_state_on_another_device_is_refused():
    optimizer = torch.optim.SGD(net().parameters(), lr=torch.tensor(0.1))
    with pytest.raises(EngineError, match="SGD keeps state on cpu, the model is on cuda: take engine eager"):
        check_capturable(optimizer, torch.device("cuda"))


def test_a_signature_is_of_shapes_kinds_and_modes():
    model = net()
    x, y = torch.ones(4, 3), torch.zeros(4)
    known = signature(model, [(x, y)])
    assert known == signature(model, [(x + 1, y)])
    others = [[(x[:2], y[:2])], [(x.double(), y)], [(x, y.long())], [(x, y), (x, y)]]
    assert all(signature(model, batches) != known for batches in others)
    model[1].eval()
    assert signature(model, [(x, y)]) != known
