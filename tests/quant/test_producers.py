from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatbit import models
from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.cost import cost
from flatbit.quant.presets import policy
from flatbit.quant.producers import note_producers_
from flatbit.quant.proof import prove
from flatbit.quant.spec import LayerSpec
from flatbit.quant.table import quantized_layers
from flatbit.train.averaging import requantize_


class Net(nn.Module):
    """Two quantized outputs, whatever lies between, and a layer that reads it; its graph cannot be read (``ndim``)."""

    def __init__(self, between, channels=4, last=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu_a, self.relu_b = nn.ReLU(), nn.ReLU()
        self.between = between
        self.reader = nn.Conv2d(channels, 4, 1) if last is None else last
        self.relu_last, self.fc = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        a = self.relu_a(self.a(x))
        b = self.relu_b(self.b(a))
        x = self.relu_last(self.reader(self.between(a, b)))
        return self.fc(x.flatten(2).mean(2) if x.ndim == 4 else x)


OUTPUTS = policy("uniq", weights=4, activations=4, placement="output")
FC_AT_INPUT = OUTPUTS.override("fc", placement="input")


def noted(model, images, how=FC_AT_INPUT):
    quantize_(model, how)
    calibrate_(model, [images])
    return {name: layer.spec.producers for name, layer in quantized_layers(model) if layer.spec.producers}


def filled(a, b):
    out = torch.zeros(len(a), 8, *a.shape[2:])
    out[:, :4] = a
    out[:, 4:] = b
    return out


def summed_in_place(a, b):
    out = torch.zeros_like(a)
    out += a
    return out


def overwritten(a, b):
    b.mul_(0.5)
    return b


def float_written_into_a_part(a, b):
    out = a.new_zeros(len(a), 8, *a.shape[2:])
    out[:, :4] = a
    out[:, 4:] = torch.randn_like(b)
    return out


def copied(a, b):
    out = torch.empty_like(b)
    out.copy_(b)
    return out


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout(0.5)

    def forward(self, a, b):
        return self.drop(self.pool(torch.cat((a, b), dim=1)))


@pytest.mark.parametrize(
    ("between", "channels", "expected"),
    [
        (lambda a, b: b, 4, ("relu_b",)),
        (lambda a, b: F.max_pool2d(b, 2), 4, ("relu_b",)),
        (lambda a, b: b.permute(0, 1, 3, 2).contiguous().reshape(b.shape)[:, :, 1:], 4, ("relu_b",)),
        (lambda a, b: torch.cat([a, b], 1), 8, ("relu_a", "relu_b")),
        (lambda a, b: torch.maximum(a, b), 4, ("relu_a", "relu_b")),
        (lambda a, b: torch.where(a > b, a, torch.tensor(0.0)), 4, ("relu_a",)),
        (lambda a, b: b.masked_fill(a > 0, 0.0), 4, ("relu_b",)),
        (lambda a, b: torch.chunk(torch.cat([a, a], 1), 2, 1)[1], 4, ("relu_a",)),
        (lambda a, b: F.interpolate(a, scale_factor=2.0), 4, ("relu_a",)),
        (lambda a, b: F.pad(a, (1, 1, 1, 1, 0, 4)), 8, ("relu_a",)),
        (lambda a, b: F.pad(a, (1, 1, 1, 1), mode="reflect"), 4, ("relu_a",)),
        (lambda a, b: F.pixel_shuffle(torch.cat([a, b] * 2, 1), 2), 4, ("relu_a", "relu_b")),
        (lambda a, b: F.relu(F.dropout(b, training=False)), 4, ("relu_b",)),
        (filled, 8, ("relu_a", "relu_b")),
        (copied, 4, ("relu_b",)),
        (Both(), 8, ("relu_a", "relu_b")),
    ],
)
def test_values_are_followed_through_what_keeps_them(images, between, channels, expected):
    found = noted(Net(between, channels), images)
    assert found == {"b": ("relu_a",), "reader": expected}


@pytest.mark.parametrize(
    ("between", "channels"),
    [
        (lambda a, b: a + b, 4),
        (lambda a, b: torch.stack([a, b]).mean(0), 4),
        (lambda a, b: F.avg_pool2d(a, 2), 4),
        (lambda a, b: F.interpolate(a, scale_factor=2.0, mode="bilinear"), 4),
        (lambda a, b: F.batch_norm(b, torch.zeros(4), torch.ones(4)), 4),
        (lambda a, b: torch.cat([a, 2 * b], 1), 8),
        (lambda a, b: torch.ones_like(a), 4),
        (lambda a, b: torch.zeros_like(a), 4),
        (lambda a, b: torch.cat([a, torch.full_like(b, 0.37)], 1), 8),
        (summed_in_place, 4),
        (overwritten, 4),
        (float_written_into_a_part, 8),
    ],
)
def test_values_that_no_quantizer_made_are_refused_at_every_batch_size(images, between, channels):
    for batch in (1, 4, 16):
        with pytest.raises(
            ValueError, match=r"1 layers count .* no quantizer made: 'reader' \(4 bit\).*'reader', placem"
        ):
            noted(Net(between, channels), images.repeat(8, 1, 1, 1)[:batch])


def test_all_layers_that_read_float_values_are_named_at_once(images):
    with pytest.raises(ValueError, match=r"2 layers .*: 'reader' \(4 bit\), 'fc' \(8 bit\)\. Give each"):
        noted(Net(lambda a, b: a + b), images, OUTPUTS)


def test_flattened_for_a_linear_layer(images):
    found = noted(Net(lambda a, b: b.flatten(1), last=nn.Linear(256, 4)), images)
    assert found["reader"] == ("relu_b",)


def test_a_layer_used_twice_reads_both(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared, self.fc = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
            self.relu_stem, self.relu = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            x = self.relu_stem(self.stem(x))
            for _ in range(2):
                x = self.relu(self.shared(x))
            return self.fc(x)

    with pytest.warns(UserWarning, match=r"one step for all: 'relu' \(2 times\)"):
        found = noted(Twice(), images, OUTPUTS)
    assert found == {"shared": ("relu", "relu_stem"), "fc": ("relu",)}


def test_layers_with_inputs_of_their_own_read_no_one(net, images, quantized):
    quantized(net, "faq", 4, 4)
    found = {name: layer.spec.producers for name, layer in quantized_layers(net)}
    assert found["conv1"] == found["fc"] == found["layers.0.0.relu1"] == ()
    assert found["layers.0.0.conv2"] == ("layers.0.0.relu2",)


def test_nothing_is_noted_or_run_where_outputs_are_not_quantized(net, images, quantized):
    quantized(net, "saq", 4, 4)
    calls = []
    net.register_forward_hook(lambda *args: calls.append(1))
    note_producers_(net, images)
    assert not calls
    assert all(layer.spec.producers == () for _, layer in quantized_layers(net))


def test_what_was_noted_is_forgotten_with_the_outputs(images):
    model = Net(lambda a, b: b)
    assert noted(model, images)
    for relu in (model.relu_a, model.relu_b, model.relu_last):
        relu.output_quantizer = None
    for _, layer in quantized_layers(model):
        layer.spec = replace(layer.spec, input_bits=32)
    note_producers_(model, images)
    assert all(layer.spec.producers == () for _, layer in quantized_layers(model))


def test_leaves_the_model_as_it_was(images):
    model = Net(Both(), 8).train()
    noted(model, images)
    model.train()
    model.b.eval()
    modes = [m.training for m in model.modules()]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    specs = {name: layer.spec for name, layer in quantized_layers(model)}
    random = torch.get_rng_state()
    note_producers_(model, images[:1])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert {name: layer.spec for name, layer in quantized_layers(model)} == specs
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_hooks_are_gone_after_an_error(images):
    model = Net(lambda a, b: b)
    noted(model, images)
    with pytest.raises(RuntimeError):
        note_producers_(model, images.expand(-1, 3, -1, -1))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["uniq", "faq", "hol", "lsq"])
@pytest.mark.parametrize("model", ["resnet8", "preresnet8"])
def test_residual_networks_whatever_the_method(images, name, model):
    """UNIQ alone calibrates with all quantizers active, in a pass of its own."""
    model = models.build(model, in_channels=1, first_width=4).eval()
    found = noted(model, images, policy(name, weights=4, activations=4, placement="output"))
    inner = [n for n, layer in quantized_layers(model) if isinstance(layer, nn.Conv2d) and n.startswith("layers")]
    assert all(found.get(n) for n in inner if not n.endswith("shortcut"))
    assert all(isinstance(layer.spec, LayerSpec) for _, layer in quantized_layers(model))


def test_a_model_quantized_anew_still_knows_what_its_layers_read(images, small, quantized):
    quantized(small, "faq", 4, 4)
    requantize_(small, policy("faq", weights=3, activations=4))
    assert small[3].spec.producers == ("2",)
    assign_bits_(small, {"3": (2, 5)})
    assert assignment(small)["3"] == (2, 5)


def test_a_layer_whose_input_is_not_its_first_keyword_is_read_too():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU()
            self.up, self.last = nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.last(self.up(output_size=[13, 13], input=self.relu(self.first(x))))

    model, x = Keywords().eval(), torch.randn(2, 1, 8, 8)
    quantize_(model, policy("faq", weights=4, activations=4))
    calibrate_(model, [x])
    assert model.up.spec.producers == ("relu",)
    assert prove(model, x).usage
    assert cost(model, (1, 8, 8)).macs
