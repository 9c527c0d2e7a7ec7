import pytest
import torch
from torch import nn

from flatbit.files import load_, save
from flatbit.models.weights import load_weights_
from flatbit.quant import assignment, convert
from flatbit.quant.assignment import assign_bits_
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.presets import policy
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.table import quantized_layers
from flatbit.train import averaging
from flatbit.train.averaging import QuantizedAverage, requantize_
from flatbit.undo import undone_on_failure

SQWA = policy("sqwa", weights=3, activations=32)


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def after(count, function):
    """A function that works so many times, and is then interrupted."""
    left = [count]

    def act(*args, **kwargs):
        left[0] -= 1
        return function(*args, **kwargs) if left[0] >= 0 else stop()

    return act


def picture(model):
    """All that a failed helper must leave as it was."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(name, id(m), type(m), m.training) for name, m in model.named_modules()]
    return state, modules, [layer.spec for _, layer in quantized_layers(model)]


def same(one, other):
    return one[1:] == other[1:] and one[0].keys() == other[0].keys() and all(
        torch.equal(value.nan_to_num(7), other[0][key].nan_to_num(7)) for key, value in one[0].items()
    )  # fmt: skip


def test_classes_children_attributes_and_values_come_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before, weight = picture(model), model[0].weight

    def change():
        model[0].__class__ = nn.Bilinear
        model[0].extra, model[1].momentum = 1, None
        model.eval()
        model[0].weight.data.zero_()
        model[0].bias = None
        model.append(nn.ReLU())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), undone_on_failure(model, model.parameters()):
        change()
    assert same(before, picture(model))
    assert model[0].weight is weight
    assert model[1].momentum == 0.1
    assert not hasattr(model[0], "extra")


def test_without_failure_nothing_comes_back():
    model = nn.Linear(2, 2)
    with undone_on_failure(model, model.parameters()):
        model.weight.data.zero_()
    assert not model.weight.any()


@pytest.mark.parametrize("count", [0, 2, 5])
def test_quantizing_and_restoring(net, monkeypatch, count):
    before = picture(net)
    with monkeypatch.context() as patched:
        patched.setattr(Quantizer, "to", after(count, Quantizer.to))
        with pytest.raises(KeyboardInterrupt):
            quantize_(net, policy("uniq", weights=2, activations=2))
    assert same(before, picture(net))
    with monkeypatch.context() as patched:
        patched.setattr(convert, "coverage_of", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize_(net, policy("uniq", weights=2, activations=2))
    assert same(before, picture(net))
    quantize_(net, policy("uniq", weights=2, activations=2))
    before = picture(net)
    with monkeypatch.context() as patched:
        patched.setattr(convert, "slots_of", after(count, convert.slots_of))
        with pytest.raises(KeyboardInterrupt):
            restore_(net)
    assert same(before, picture(net))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_changing_bits_and_requantizing(net, images, quantized, monkeypatch, count):
    before = picture(quantized(net, "uniq", 4, 4))
    with monkeypatch.context() as patched:
        patched.setattr(assignment, "_restate_", after(count, assignment._restate_))
        with pytest.raises(KeyboardInterrupt):
            assign_bits_(net, {"layers.0.0.conv1": (2, 2), "layers.1.0.conv1": (2, 2)})
    assert same(before, picture(net))
    with monkeypatch.context() as patched:
        patched.setattr(averaging, "start_weights_", after(count, averaging.start_weights_))
        with pytest.raises(KeyboardInterrupt):
            requantize_(net, policy("lsq", weights=2, activations=4))
    assert same(before, picture(net))
    assert net(images).isfinite().all()


def test_averages(net, images, monkeypatch):
    quantize_(net, SQWA)
    calibrate_(net, [images])
    average = QuantizedAverage(net)
    average.add()
    for parameter in net.parameters():
        parameter.data.mul_(1.01)
    before = picture(net)
    with monkeypatch.context() as patched:
        patched.setattr(averaging, "mean_spec", after(2, averaging.mean_spec))
        with pytest.raises(KeyboardInterrupt):
            average.apply_(net)
    assert same(before, picture(net))
    captures = average.state_dict()
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "double", after(2, torch.Tensor.double))
        with pytest.raises(KeyboardInterrupt):
            average.add()
    assert average.count == 1
    assert all(torch.equal(codes, captures["codes"][name]) for name, codes in average.state_dict()["codes"].items())


@pytest.mark.parametrize("present", [False, True])
def test_loading(net, images, quantized, tmp_path, monkeypatch, present):
    save(quantized(net, "uniq", 2, 2), tmp_path / "m.safetensors")
    for parameter in net.parameters():
        parameter.data.mul_(1.01)
    if not present:
        restore_(net)
    before = picture(net)
    with monkeypatch.context() as patched:
        patched.setattr(nn.BatchNorm2d, "_load_from_state_dict", stop)
        with pytest.raises(KeyboardInterrupt):
            load_(net, tmp_path / "m.safetensors")
    assert same(before, picture(net))


def test_loading_others_weights(net, tmp_path, monkeypatch):
    torch.save(net.state_dict(), tmp_path / "m.pth")
    for parameter in net.parameters():
        parameter.data.mul_(1.01)
    before = picture(net)
    with monkeypatch.context() as patched:
        patched.setattr(nn.BatchNorm2d, "_load_from_state_dict", stop)
        with pytest.raises(KeyboardInterrupt):
            load_weights_(net, tmp_path / "m.pth")
    assert same(before, picture(net))
