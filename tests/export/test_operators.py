import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit.export.executor import integer_network
from flatbit.export.lowering import lower
from flatbit.export.verification import verify
from flatbit.quant.presets import policy

from .cases import SHAPE, UNIQ, Answering, Branches, answering, digits, labelled, settled


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


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda m, x: m.linear(F.gelu(m.conv(x)).flatten(1)), "gelu.*has no exported form"),
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
        lower(answering(after), SHAPE)


def test_a_network_of_ones_own_runs_in_integers():
    model = settled(Mixed(), UNIQ)
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.changed == ()
    assert found.largest <= found.bound < 1e-3


def test_branches_are_joined_and_resized_in_integers():
    model = settled(Branches(), UNIQ)
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.changed == ()
    assert found.largest <= found.bound < 1e-3


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda m, x: m.linear(m.conv(x).view(4, -1)), r"the shape \(4, -1\) of \(batch, 4, 6, 6\)"),
        (lambda m, x: m.linear(m.conv(x)[:, : x.size(0)].flatten(1)), "the index"),
        (lambda m, x: m.linear(torch.cat([m.conv(x)] * 2, 2).flatten(1)), "joining along axis 2"),
        (lambda m, x: m.linear(F.interpolate(m.conv(x), scale_factor=1.3).flatten(1)), "resizing"),
        (lambda m, x: m.linear(F.interpolate(m.conv(x), 3, mode="bicubic").flatten(1)), "by 'bicubic'"),
        (lambda m, x: m.linear(m.conv(x).flatten(1)) + x.size(0), "what is made of batch"),
        (lambda m, x: m.linear(m.conv(x).flatten(1).to(x.device)), "the attribute 'device'"),
    ],
)
def test_other_shapes_are_refused_and_not_guessed(after, said):
    with pytest.raises(ValueError, match=said):
        lower(Answering(after), SHAPE)


def test_a_function_is_named_within_its_module():
    class Block(nn.Module):
        def forward(self, x):
            return F.gelu(x)

    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3), Block(), nn.Flatten(), nn.Linear(144, 10)), UNIQ)
    with pytest.raises(ValueError, match=r"layer '1: gelu \(gelu\)': this operation has no exported form"):
        lower(model, SHAPE)


AS_COMPUTED = [
    lambda m, x: (lambda y: m.linear((F.relu(y, inplace=True) + y).flatten(1)))(m.conv(x)),
    lambda m, x: (lambda y: m.linear((y.relu_() + y).flatten(1)))(m.conv(x)),
    lambda m, x: m.linear(torch.clamp(m.conv(x), -0.5, 0.7).flatten(1)),
    lambda m, x: m.linear(F.hardtanh(m.conv(x), 0.5, 0.7).flatten(1)),
    lambda m, x: m.linear(F.hardtanh(m.conv(x), -1.0, 1e30).flatten(1)),
    lambda m, x: m.linear(F.dropout(m.conv(x), 0.5, m.training).flatten(1)),
    lambda m, x: (lambda y: m.linear((y.clone().relu_() + y).flatten(1)))(m.conv(x)),
    lambda m, x: (lambda y: m.linear(y[:, :].flatten(1).relu_()))(m.conv(x)),
]


@pytest.mark.parametrize("after", AS_COMPUTED)
def test_what_is_computed_in_place_or_clamped_is_what_the_model_computes(after):
    model = answering(after)
    x, _ = digits(40)
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.tied < 4
    assert found.changed == ()


@pytest.mark.parametrize(
    "after",
    [
        lambda m, x: (lambda y: m.linear((y.contiguous().relu_() + y).flatten(1)))(m.conv(x)),
        lambda m, x: (lambda y: m.linear((F.pad(y[:, :2].relu_(), (0, 0, 0, 0, 0, 2)) + y).flatten(1)))(m.conv(x)),
        lambda m, x: (lambda y, z: m.linear(y.relu_().flatten(1) + z))(*(lambda y: (y, y.flatten(1)))(m.conv(x))),
    ],
)
def test_what_may_share_memory_with_what_is_changed_in_place_is_refused(after):
    with pytest.raises(ValueError, match=r"changing in place what '.*' may share, which is read later"):
        lower(answering(after), SHAPE)


def test_an_activation_in_place_leaves_later_readers_what_it_wrote_and_not_what_was_quantized():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
            self.last = nn.Linear(144, 10)

        def forward(self, x):
            x = self.norm(self.conv(x))
            return self.last((self.relu(x) + x).flatten(1))

    model = settled(Read(), policy("faq", weights=2, activations=2))
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.tied == 0
    assert found.largest <= found.bound


def test_a_forward_hook_is_refused():
    model = answering(lambda m, x: m.linear(m.relu(m.conv(x)).flatten(1)))
    model.relu.register_forward_hook(lambda *given: 2 * given[-1])
    with pytest.raises(ValueError, match="layer 'relu': a forward hook"):
        lower(model, SHAPE)


def test_names_of_inputs_and_outputs_are_not_taken():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.logits, self.logits_ = nn.Conv2d(1, 4, 3), nn.Linear(144, 10), nn.Linear(10, 10)

        def forward(self, x, mask=None):
            return self.logits_(self.logits(self.input(x).flatten(1)))

    model = settled(Named(), UNIQ)
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.largest <= found.bound


class Twice(nn.Identity):
    def forward(self, x):
        return 2 * x


def test_a_subclass_is_not_taken_for_its_base():
    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3), Twice(), nn.Flatten(), nn.Linear(144, 10)), UNIQ)
    with pytest.raises(ValueError, match="layer '1': Twice has no exported form"):
        lower(model, SHAPE)


@pytest.mark.parametrize(
    "after",
    [
        lambda m, x: m.linear(m.conv(x).mean(-1)),
        lambda m, x: m.linear(F.avg_pool2d(m.conv(x), 2, 2, 0, True).flatten(1)),
        lambda m, x: m.linear(F.dropout(m.conv(x)).flatten(1)),
    ],
)
def test_other_arguments_are_refused_and_not_guessed(after):
    with pytest.raises(ValueError, match="has no exported form"):
        lower(Answering(after), SHAPE)


class UpSized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.up, self.logits = nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 3, stride=2), nn.Linear(392, 10)

    def forward(self, x):
        return self.logits(self.up(self.conv(x), output_size=(14, 14)).flatten(1))


def test_a_layer_called_with_more_than_its_input_is_refused():
    with pytest.raises(ValueError, match="layer 'up': a call with more than its input"):
        lower(settled(UpSized(), UNIQ), SHAPE)
