"""Packed files of whole nets: bytes as `cost` counts them, the same outputs, and no way to train what was loaded."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import flatbit as fb
from flatbit.models import MODELS
from flatbit.quant.convention import convention
from flatbit.quant.quantizers.uniq import UniqActivation
from flatbit.tensor_file import read_tensors


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def packed_net(net, quantized, path):
    """A net of 2 bits, and the model of its packed file."""
    quantized(net, "uniq", 2, 2).eval()
    fb.export.packed(net, path)
    return net, fb.load(path)


@pytest.mark.parametrize("choices", [{}, {"first_last_bits": 8, "image_bits": 8}])
@pytest.mark.parametrize(
    ("name", "bits"), [("faq", 4), ("hol", 2), ("saq", 3), ("uniq", 1), ("lsq_plus", 2), ("dq", 3)]
)
def test_conventions_compute_the_same_in_as_many_bytes_as_cost_says(net, images, quantized, path, name, bits, choices):
    quantized(net, name, bits, bits, **choices).eval()
    written = fb.export.packed(net, path)
    again = fb.load(path)
    assert torch.equal(again(images), net(images))
    assert written.size_bytes == fb.cost(net, (1, 8, 8)).size_bytes
    assert written.size_bytes + written.header_bytes == written.file_bytes == path.stat().st_size
    assert {k for k in again.state_dict() if "_quantizer" not in k} == {
        k for k in net.state_dict() if "_quantizer" not in k
    }
    assert convention(again) == convention(net)
    batches = [(images, torch.zeros(4, dtype=torch.long))]
    assert fb.evaluate(again, batches) == fb.evaluate(net, batches)  # which proves first that all is on its grids


def test_a_float_net_is_written_as_it_is_and_loads_as_one(net, images, path):
    written = fb.export.packed(net, path)
    assert written.size_bytes == written.float_bytes == fb.cost(net, (1, 8, 8)).size_bytes
    again = fb.load(path)
    assert torch.equal(again(images), net(images))
    again.train()(images).sum().backward()  # no grid is fixed: it trains


def test_the_table_says_bits_and_bytes_of_each_layer(net, quantized, path):
    written = fb.export.packed(quantized(net, "uniq", 2, 2), path)
    by_name = {layer.name: layer for layer in written.layers}
    inner = by_name["layers.0.0.conv1"]
    assert (inner.weight_bits, inner.activation_bits, inner.float_bytes) == (2, 2, 4 * 4 * 4 * 9)
    assert inner.size_bytes == 4 * 4 * 9 // 4 + 2 * 4  # codes and two steps
    assert by_name["bn"].size_bytes == by_name["bn"].float_bytes == 4 * 4 * 16
    text = str(written)
    for words in ("2/2", "8/8", "% of float", "header", f"{written.file_bytes:,}", f"{written.size_bytes:,}"):
        assert words in text


def test_tied_weights_are_written_and_counted_once(path, monkeypatch):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    monkeypatch.setitem(MODELS._objects, "tied", Tied)
    model, x = fb.models.build("tied"), torch.randn(3, 6)
    fb.quantize_(model, fb.policy("sqwa-all", weights=2))
    fb.calibrate_(model, [x])
    written = fb.export.packed(model.eval(), path)
    assert written.size_bytes == fb.cost(model, (6,)).size_bytes == 2 * (9 + 4) + 3 * 4 * 6
    again = fb.load(path)
    assert again.a.weight is again.b.weight
    assert torch.equal(again(x), model(x))


def test_a_tensor_that_is_float_elsewhere_is_refused(path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fb.quantize_(model, fb.policy("sqwa-all", weights=2))
    fb.calibrate_(model, [torch.randn(3, 4)])
    model.register_parameter("again", model[0].weight)
    with pytest.raises(ValueError, match=r"again is the tensor of 0\.weight.*untie them"):
        fb.export.packed(model, path)
    assert not path.exists()


def test_pruned_weights_are_packed_as_what_they_are(small, images, quantized, path):
    plain = copy.deepcopy(small)
    quantized(small, "uniq", 3, 3)
    prune.random_unstructured(small[3], "weight", 0.5)
    fb.export.packed(small, path)
    fb.load_(plain, path)
    assert torch.equal(plain(images), small(images))


def test_a_users_own_model_takes_its_file_in_place(small, images, quantized, path):
    own = copy.deepcopy(small)
    fb.export.packed(quantized(small, "uniq", 2, 2), path)
    with pytest.raises(ValueError, match=r"does not say how to build.*load_\(model, path\)"):
        fb.load(path)
    fb.load_(own, path)
    assert torch.equal(own(images), small(images))
    with pytest.raises(ValueError, match=r"restore_\(model\) first"):
        fb.load_(small, path)


def test_bits_that_were_learned_are_the_files(net, images, quantized, path):
    quantized(net, "dq", 4, 4)
    layer = net.layers[0][0].conv1
    with torch.no_grad():
        layer.weight_quantizer.step.mul_(8)  # of a range of seven steps one is left
    assert (layer.weight_quantizer.stated_bits, layer.weight_quantizer.bit_width()) == (4, 2)
    written = fb.export.packed(net, path)
    assert next(each for each in written.layers if each.name == "layers.0.0.conv1").weight_bits == 2
    assert len(read_tensors(path)[0]["layers.0.0.conv1.weight"]) == layer.weight.numel() * 2 // 8
    assert torch.equal(fb.load(path)(images), net(images))


def test_averages_stand_on_their_finer_grid(net, images, quantized, path):
    quantized(net, "sqwa", 2, 32)
    fb.train.freeze_weight_steps_(net)
    average = fb.train.QuantizedAverage(net)
    for _ in range(3):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        average.add()
    average.apply_(net)
    fb.export.packed(net.eval(), path)
    assert torch.equal(fb.load(path)(images), net(images))


@pytest.mark.parametrize(
    "train",
    [
        lambda model, x: model.train()(x).sum().backward(),
        lambda model, x: model(x).sum().backward(),
        lambda model, x: fb.calibrate_(model, [x]),
        lambda model, x: fb.quantize_(model, fb.policy("uniq", weights=2)),
        lambda model, x: fb.assign_bits_(model, {"layers.0.0.conv1": (4, 4)}),
        lambda model, x: fb.save(model, "never.safetensors"),
        lambda model, x: torch.optim.SGD(model.parameters(), lr=1.0).step(lambda: model(x).sum().backward()),
    ],
)
def test_what_would_train_or_change_it_is_refused(packed_net, images, train):
    _, model = packed_net
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises((RuntimeError, ValueError), match=r"packed file, whose grids are fixed|quantized already"):
        train(model, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert len(before) == len(model.state_dict())


def test_restored_it_is_a_float_net_of_the_packed_values(packed_net):
    source, model = packed_net
    fb.restore_(model)
    layer = source.layers[0][0].conv1
    assert torch.equal(model.layers[0][0].conv1.weight, layer.quantized_weight())
    model.train()(torch.randn(4, 1, 8, 8)).sum().backward()


def test_packed_again_the_file_is_the_same(packed_net, path, tmp_path):
    _, model = packed_net
    fb.export.packed(model, tmp_path / "again.safetensors")
    (tensors, words), (others, other_words) = read_tensors(path), read_tensors(tmp_path / "again.safetensors")
    assert words == other_words  # checksums among them
    assert all(torch.equal(tensors[name], others[name]) for name in tensors.keys() | others.keys())


def test_what_was_never_calibrated_or_is_switched_off_is_refused(net, quantized, path):
    fb.quantize_(net, fb.policy("uniq", weights=2, activations=2))
    with pytest.raises(RuntimeError, match=r"calibrate_"):
        fb.export.packed(net, path)
    fb.restore_(net)
    quantized(net, "uniq", 2, 2)
    net.fc.input_quantizer.enabled = False
    with pytest.raises(ValueError, match=r"input of layer 'fc': method 'uniq' gives other values than its grid.*off"):
        fb.export.packed(net, path)
    assert not path.exists()


def test_a_quantizer_that_does_more_than_round_is_refused(net, quantized, path, monkeypatch):
    quantized(net, "uniq", 2, 2)
    monkeypatch.setattr(UniqActivation, "transform", lambda self, x: 2 * x)
    with pytest.raises(ValueError, match=r"something is done to it first"):
        fb.export.packed(net, path)


def test_a_failed_write_leaves_the_old_file(net, quantized, path, monkeypatch):
    fb.export.packed(quantized(net, "uniq", 2, 2), path)
    before = path.read_bytes()
    monkeypatch.setattr("flatbit.tensor_file.save", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fb.export.packed(net, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_wrapped_model_is_packed_as_the_plain_one(net, images, quantized, path):
    quantized(net, "uniq", 2, 2).eval()
    fb.export.packed(nn.DataParallel(net), path)
    assert torch.equal(fb.load(path)(images), net(images))
