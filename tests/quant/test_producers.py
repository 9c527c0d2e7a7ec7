import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatbit import models
from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy
from flatbit.quant.producers import note_producers_
from flatbit.quant.spec import LayerSpec
from flatbit.quant.table import quantized_layers
from flatbit.train.averaging import requantize_


class Net(nn.Module):
    """Two quantized outputs, whatever lies between, and a layer that reads it."""

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


def noted(model, images, name="uniq"):
    quantize_(model, policy(name, weights=4, activations=4, placement="output"))
    calibrate_(model, [images])
    return {name: layer.spec.producers for name, layer in quantized_layers(model) if layer.spec.producers}


def filled(a, b):
    out = torch.zeros(len(a), 8, *a.shape[2:])
    out[:, :4] = a
    out[:, 4:] = b
    return out


def in_place(a, b):
    out = torch.zeros_like(a)
    out += a
    return out.mul_(2)


def copied(a, b):
    out = torch.empty_like(b)
    out.copy_(b)
    return out


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.drop = nn.AvgPool2d(2), nn.Dropout(0.5)

    def forward(self, a, b):
        return self.drop(self.pool(torch.cat((a, b), dim=1)))


@pytest.mark.parametrize(
    ("between", "channels", "expected"),
    [
        (lambda a, b: b, 4, ("relu_b",)),
        (lambda a, b: F.max_pool2d(b, 2), 4, ("relu_b",)),
        (lambda a, b: b.permute(0, 1, 3, 2).contiguous().reshape(b.shape)[:, :, 1:], 4, ("relu_b",)),
        (lambda a, b: torch.cat([a, b], 1), 8, ("relu_a", "relu_b")),
        (lambda a, b: a + b, 4, ("relu_a", "relu_b")),
        (lambda a, b: torch.add(input=a, other=b), 4, ("relu_a", "relu_b")),
        (lambda a, b: torch.stack([a, b]).mean(0), 4, ("relu_a", "relu_b")),
        (lambda a, b: torch.chunk(torch.cat([a, a], 1), 2, 1)[1], 4, ("relu_a",)),
        (lambda a, b: F.interpolate(a, scale_factor=2.0), 4, ("relu_a",)),
        (lambda a, b: F.pad(a, (1, 1, 1, 1, 0, 4)), 8, ("relu_a",)),
        (filled, 8, ("relu_a", "relu_b")),
        (in_place, 4, ("relu_a",)),
        (copied, 4, ("relu_b",)),
        (Both(), 8, ("relu_a", "relu_b")),
        (lambda a, b: torch.ones_like(a), 4, ()),
        (lambda a, b: a.new_zeros(a.shape) + b, 4, ("relu_b",)),
        (lambda a, b: F.batch_norm(b, torch.zeros(4), torch.ones(4)), 4, ("relu_b",)),
    ],
)
def test_values_are_followed_through_whatever_lies_between(images, between, channels, expected):
    found = noted(Net(between, channels), images)
    assert found.pop("reader", ()) == expected
    assert found == {"b": ("relu_a",), "fc": ("relu_last",)}


def test_flattened_for_a_linear_layer(images):
    found = noted(Net(lambda a, b: b.flatten(1), last=nn.Linear(256, 4)), images)
    assert found["reader"] == ("relu_b",)


def test_a_weighted_layer_begins_anew(images):
    """What comes out of a convolution is nobody's quantized output, until an activation quantizes it."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)
    ).eval()
    assert noted(model, images) == {"2": ("1",)}


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

    assert noted(Twice(), images) == {"shared": ("relu", "relu_stem"), "fc": ("relu",)}


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
    found = noted(model, images, name)
    inner = [n for n, layer in quantized_layers(model) if isinstance(layer, nn.Conv2d) and n.startswith("layers")]
    assert all(found.get(n) for n in inner if not n.endswith("shortcut"))
    assert all(isinstance(layer.spec, LayerSpec) for _, layer in quantized_layers(model))


def test_a_model_quantized_anew_still_knows_what_its_layers_read(images, small, quantized):
    quantized(small, "faq", 4, 4)
    requantize_(small, policy("faq", weights=3, activations=4))
    assert small[3].spec.producers == ("2",)
    assign_bits_(small, {"3": (2, 5)})
    assert assignment(small)["3"] == (2, 5)
