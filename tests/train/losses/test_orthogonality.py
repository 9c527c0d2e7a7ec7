import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.train.losses.orthogonality import Lipschitz, lipschitz

LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "wide": lambda: nn.Linear(5, 7),
    "conv1d": lambda: nn.Conv1d(2, 5, 4),
    "conv2d": lambda: nn.Conv2d(2, 5, 3),
    "conv3d": lambda: nn.Conv3d(2, 9, 2),
    "wide conv2d": lambda: nn.Conv2d(2, 40, 3),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "wide grouped": lambda: nn.Conv2d(4, 12, 1, groups=4),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "transposed1d": lambda: nn.ConvTranspose1d(3, 5, 4),
    "transposed2d": lambda: nn.ConvTranspose2d(3, 5, 2),
    "grouped transposed": lambda: nn.ConvTranspose2d(4, 6, 2, groups=2),
}


def matrices(layer):
    """W (fan_in, c_out) of each group, channel by channel from the layer's answers to each single input."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    c_out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    found = []
    for group in range(groups):
        channels = range(group * c_out // groups, (group + 1) * c_out // groups)
        if transposed:
            inputs = slice(group * layer.in_channels // groups, (group + 1) * layer.in_channels // groups)
            columns = [weight[inputs, channel - channels[0]].flatten() for channel in channels]
        else:
            columns = [weight[channel].flatten() for channel in channels]
        found.append(torch.stack(columns, dim=1))
    return found


@pytest.mark.parametrize("kind", LAYERS)
def test_lipschitz_is_the_sum_over_groups_of_the_definition(kind):
    layer = LAYERS[kind]().double()
    parts = [0.5 * torch.linalg.norm(W.T @ W - torch.eye(W.shape[1]), "fro") ** 2 for W in matrices(layer)]
    torch.testing.assert_close(lipschitz(layer), sum(parts))


@pytest.mark.parametrize("kind", ["linear", "wide"])
def test_gradient_of_lipschitz_is_the_papers(kind):
    layer = LAYERS[kind]().double()
    lipschitz(layer).backward()
    W = layer.weight.detach().T
    torch.testing.assert_close(layer.weight.grad.T, 2 * W @ (W.T @ W - torch.eye(W.shape[1])))


def test_depthwise_holds_each_channel_to_length_one():
    layer = nn.Conv2d(6, 6, 3, groups=6).double()
    squares = layer.weight.detach().square().sum((1, 2, 3))
    torch.testing.assert_close(lipschitz(layer), (squares - 1).square().sum() / 2)


@given(st.integers(1, 8), st.integers(1, 8))
def test_the_least_value_is_an_orthogonal_matrix(fan_in, c_out):
    layer = nn.Linear(fan_in, c_out).double()
    nn.init.orthogonal_(layer.weight)
    value = lipschitz(layer)
    value.backward()
    assert value.item() == pytest.approx(max(c_out - fan_in, 0) / 2, abs=1e-9)
    assert layer.weight.grad.abs().max() < 1e-9


def test_descent_on_lipschitz_alone_ends_at_an_orthogonal_matrix():
    layer = nn.Linear(9, 4).double()
    descent = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(300):
        descent.zero_grad()
        lipschitz(layer).backward()
        descent.step()
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight.detach()), torch.ones(4, dtype=torch.double))


def test_layers_add_up_and_others_do_not_count():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4))
    torch.testing.assert_close(lipschitz(model), lipschitz(model[0]) + lipschitz(model[4]))


def test_a_tied_weight_counts_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    torch.testing.assert_close(lipschitz(model), lipschitz(model[:2]))


@pytest.mark.parametrize("bits", [{"weights": 2}, {"activations": 2}, {"weights": 3, "activations": 3}])
def test_of_a_quantized_net_the_latent_weights_of_quantized_layers_count(bits):
    model = fb.models.build("resnet8", first_width=4)
    inner = [module for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and name != "conv1"]
    expected = sum(lipschitz(copy.deepcopy(layer)) for layer in inner)
    fb.quantize_(model, fb.policy("hol", **bits))  # edges float
    torch.testing.assert_close(lipschitz(model), expected)
    lipschitz(model).backward()
    assert model.conv1.weight.grad is None
    assert all(layer.weight.grad is not None for layer in inner)


def test_a_float_net_counts_all_its_weights():
    model = fb.models.build("resnet8", first_width=4)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    torch.testing.assert_close(lipschitz(model), sum(lipschitz(layer) for layer in weighted))


def test_half_precision_and_autocast_give_the_value_in_float():
    layer = nn.Linear(64, 32)
    expected = lipschitz(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert lipschitz(layer) == expected
    assert lipschitz(copy.deepcopy(layer).half()).dtype == torch.float32


def test_nothing_to_hold_orthogonal():
    with pytest.raises(ValueError, match="Lipschitz term of ReLU: expected a convolution or linear layer"):
        lipschitz(nn.ReLU())


def test_the_term_is_the_function_whatever_the_batch():
    layer = nn.Linear(5, 4)
    term = Lipschitz(weight=0.25)
    assert term(layer, None, None, None) == lipschitz(layer)
    assert (term.weight, Lipschitz().weight, term.name) == (0.25, 1e-4, "lipschitz")


def test_the_term_checks_that_there_is_something_to_hold():
    Lipschitz().check(nn.Linear(3, 3))
    Lipschitz().check(nn.Linear(3, 3, device="meta"))
    for model in (nn.ReLU(), nn.BatchNorm2d(3)):
        with pytest.raises(ValueError, match=r"Lipschitz term of .*: expected a convolution or linear layer"):
            Lipschitz().check(model)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_a_weight_that_cannot_act_is_refused(weight):
    with pytest.raises(ValueError, match=r"lipschitz weight=.*: expected a positive number; without it leave"):
        Lipschitz(weight=weight)
