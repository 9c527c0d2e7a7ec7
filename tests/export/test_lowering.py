import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit.export.executor import integer_network
from flatbit.export.lowering import lower
from flatbit.export.program import Affine, Product, Quantize
from flatbit.export.verification import verify
from flatbit.quant.presets import policy

from .cases import SHAPE, digits, labelled, network, settled

UNIQ = policy("uniq", weights=3, activations=3)


class Mixed(nn.Module):
    """Every function and module that has an integer form, in a network of one's own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding="same", bias=True)
        self.norm = nn.BatchNorm2d(6)
        self.same = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3, bias=False)
        self.relu = nn.ReLU()
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2, groups=2, bias=True)
        self.pool = nn.AvgPool2d(2)
        self.hard = nn.Hardtanh(-1.5, 2.0)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        y = F.max_pool2d(self.relu(self.same(x)), 3, stride=1, padding=1)
        y = torch.add(y, x)
        y = self.pool(self.up(y)) + x
        y = F.pad(self.hard(y)[:, :, ::2, 1:7], (1, 1, 0, 0, 3, 3))
        y = F.avg_pool2d(y.relu(), 2)
        return self.last(self.drop(y).mean((2, 3)))


class Returned(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.conv, self.relu, self.linear, self.after = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4 * 36, 10), after

    def forward(self, x):
        return self.after(self, x)


def test_a_network_of_ones_own_runs_in_integers():
    model = settled(Mixed(), UNIQ)
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.changed == ()
    assert found.largest <= found.bound < 1e-3


def test_codes_that_are_added_and_pooled_become_streams():
    model = network("resnet20", "faq", 4, 4, width=0.25)  # ReLU outputs are quantized, sums read codes
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.largest <= found.bound


def test_norms_and_biases_become_one_affine_map():
    program = lower(network(first_width=4), SHAPE)
    readers = program.readers()
    for op in program:
        if isinstance(op, Product):
            assert [type(reader) for reader in readers[op.name]] == [Affine]
        if isinstance(op, Affine) and op.inputs[0] in {o.name for o in program if isinstance(o, Affine)}:
            assert len(readers[op.inputs[0]]) > 1  # a shortcut reads it too


def test_looking_leaves_the_model_as_it_is():
    model = network(first_width=4).train()
    before = copy.deepcopy(model.state_dict())
    integer_network(model, SHAPE)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_grids_reach_as_far_as_their_quantizers():
    model = network(method="dq", first_width=4)
    for op in lower(model, SHAPE):
        if isinstance(op, Quantize):
            quantizer = model.get_submodule(op.quantizer)
            far = quantizer(torch.tensor([-1e9, 1e9])).double()
            assert torch.equal(far, op.grid.value(torch.tensor([op.grid.low, op.grid.high])).double())


def of(after):
    return settled(Returned(after), UNIQ)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda m, x: m.linear(F.gelu(m.conv(x)).flatten(1)), "gelu.*has no integer form"),
        (lambda m, x: m.linear(m.relu(m.conv(x)).flatten(2).flatten(1)), "flattening axes 2 to -1"),
        (lambda m, x: m.linear(torch.add(m.conv(x), m.conv(x), alpha=2).flatten(1)), "a sum with alpha=2"),
        (lambda m, x: m.linear(m.conv(x).flatten(1)) + 1.0, "what is made of 1.0"),
        (lambda m, x: m.linear(F.pad(m.conv(x), (0, 0), value=1.0).flatten(1)), "padding by constant of 1.0"),
        (lambda m, x: (m.linear(m.conv(x).flatten(1)), m.conv(x))[0], "output is not what its last layer gives"),
        (lambda m, x: m.linear(F.avg_pool2d(m.conv(x), 3, 1, 1).flatten(1)), "average pooling with padding"),
    ],
)  # fmt: skip
def test_what_has_no_integer_form_is_named(after, said):
    with pytest.raises(ValueError, match=said):
        lower(of(after), SHAPE)


def test_a_graph_that_depends_on_data_is_refused():
    model = of(lambda m, x: m.linear((m.conv(x) if x.sum() > 0 else -m.conv(x)).flatten(1)))
    with pytest.raises(ValueError, match="forward depends on data"):
        lower(model, SHAPE)


@pytest.mark.parametrize("method", ["hol", "saq", "pact"])
def test_integers_refuse_float_operands_by_layer(method):
    with pytest.raises(ValueError, match=r"layer 'conv1': its (input|weight) is float.*first_last_bits=8"):
        integer_network(network(method=method, first_width=4), SHAPE)


def test_other_padding_and_modules_are_refused_by_layer():
    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten()), UNIQ)
    with pytest.raises(ValueError, match="layer '0': padding_mode='reflect'"):
        lower(model, SHAPE)
    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(144, 2)), UNIQ)
    with pytest.raises(ValueError, match=r"layer '1': .*Softplus has no integer form"):
        lower(model, SHAPE)
