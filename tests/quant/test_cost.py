import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from flatbit import models
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.presets import policy
from flatbit.quant.spec import LayerSpec


def saq_resnet20(bits=None, **arguments):
    model = models.build("preresnet20", num_classes=100, variant="saq", **arguments)
    if bits:
        quantize_(model, policy("saq", weights=bits, activations=bits))
    return cost(model, (3, 32, 32))


@pytest.mark.parametrize(
    ("bits", "millions"), [(None, 41798.599), (5, 1038.0), (4, 674.644), (3, 392.053), (2, 190.202)]
)
def test_bit_operations_of_saqs_resnet20(bits, millions):
    """SAQ Table 1 (41798.6 / 674.6 / 392.1 M) and the specification's 4.4, to its last digit."""
    tolerance = 0.05 if bits == 5 else 0.0005
    assert saq_resnet20(bits).bitops / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize(("bits", "millions"), [(None, 41530.163), (4, 670.450), (3, 389.693)])
def test_bit_operations_without_shortcut_convolutions(bits, millions):
    """Option A has none: the row of 4.4 that the paper's figures exclude."""
    model = models.build("resnet20", num_classes=100, shortcut="A")
    if bits:
        quantize_(model, policy("saq", weights=bits, activations=bits))
    assert cost(model, (3, 32, 32)).bitops / 1e6 == pytest.approx(millions, abs=0.0005)


def test_fixed_part_of_the_search_range():
    """First convolution and linear layer stay at 8 bits: 28.72 M of SAMQ's ResNet-20."""
    layers = {layer.name: layer for layer in saq_resnet20(2).layers}
    assert (layers["conv1"].bitops + layers["fc"].bitops) / 1e6 == pytest.approx(28.72, abs=0.005)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 8, 8), 9 * 4 * 3 * 16),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 8, 8), 9 * 4 * 36),
        (nn.Conv1d(3, 5, 4), (3, 10), 4 * 3 * 5 * 7),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (3, 7), 105),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), 4 * 4 * 6 * 25),
    ],
)
def test_multiply_adds_of_each_kind(layer, shape, macs):
    found = cost(nn.Sequential(layer), shape)
    assert found.macs == macs
    assert found.bitops == macs * 1024
    assert found.params == sum(p.numel() for p in layer.parameters())


def test_bytes_by_hand(small):
    """8-bit edges, 3-bit inside: weights packed and rounded up, steps and everything else 4 bytes."""
    quantize_(small, policy("uniq", weights=3, activations=3))
    by_name = {layer.name: layer.size_bytes for layer in cost(small, (1, 8, 8)).layers}
    assert by_name["0"] == 36 + 4 * 4 + 2 * 4  # 36 8-bit weights, 4 biases, 2 steps
    assert by_name["1"] == 4 * 4 * 4  # scale, shift, mean, variance of 4 channels
    assert by_name["3"] == math.ceil(144 * 3 / 8) + 4 * 4 + 2 * 4
    assert by_name["7"] == 40 + 10 * 4 + 2 * 4
    assert cost(small, (1, 8, 8)).size_bytes == sum(by_name.values())


def test_bits_are_rounded_up_to_whole_bytes():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    quantize_(model, policy("sqwa-all", weights=3))
    assert cost(model, (3,)).size_bytes == 4 + 4  # 27 bits, and a step


def test_a_layer_is_what_holds_tensors_itself():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(4, affine=False)))
    assert [layer.name for layer in cost(model, (4,)).layers] == ["0", "2.0"]


def test_fixed_point_parameters_take_their_bits(small):
    quantize_(small, policy("faq", weights=4, activations=4))
    by_name = {layer.name: layer for layer in cost(small, (1, 8, 8)).layers}
    assert by_name["1"].size_bytes == 4 + 4 * 4 + 2 * 4 * 4 + 2 * 4  # 8-bit scale, 32-bit shift, statistics, steps
    assert by_name["3"].activation_bits == 4  # counted, though quantized at the ReLU before


def test_channel_steps_count(small):
    tensor, channel = small, nn.Sequential(*small)
    quantize_(tensor, policy("uniq", weights=2))
    one = cost(tensor, (1, 8, 8)).size_bytes
    restore_(channel)
    quantize_(
        channel,
        policy("uniq", weights=2, granularity="channel")
        .override("@first", granularity="tensor")
        .override("@last", granularity="tensor"),
    )
    assert cost(channel, (1, 8, 8)).size_bytes == one + 3 * 4


def test_learned_widths_are_counted(quantized, small):
    quantized(small, "dq", 4, 4)
    before = cost(small, (1, 8, 8)).bitops
    quantizer = small[3].weight_quantizer
    quantizer.set_state_("reach", quantizer.step.detach())  # one step: 2 bits
    assert cost(small, (1, 8, 8)).bitops < before


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    assert cost(model, (4,)).params == 32
    assert cost(model, (4,)).macs == 48


def test_a_layer_called_twice_computes_twice():
    shared = nn.Linear(4, 4, bias=False)
    assert cost(nn.Sequential(shared, shared), (4,)).macs == 32


def test_needs_no_calibration_and_leaves_the_model_alone(net):
    quantize_(net, policy("uniq", weights=2, activations=2))
    net.train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    cost(net, (1, 8, 8))
    assert net.training
    assert all(torch.equal(v, net.state_dict()[k]) or v.isnan().all() for k, v in state.items())
    assert all(not m._forward_hooks for m in net.modules())


def test_wrong_shape_is_an_error(net):
    with pytest.raises(ValueError, match=r"PreResNetCifar does not take one image of shape \(3, 8, 8\)"):
        cost(net, (3, 8, 8))


def test_prints_a_table(net):
    text = str(cost(net, (1, 8, 8)))
    assert "bit-operations" in text
    assert f"{cost(net, (1, 8, 8)).params:,}" in text


def test_counted_input_bits_are_the_policys(net):
    quantize_(net, policy("saq", weights=4, activations=4))
    assert isinstance(net.conv1.spec, LayerSpec)
    assert {layer.name: layer.activation_bits for layer in cost(net, (1, 8, 8)).layers}["conv1"] == 8


class Multiplies(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.w


def test_a_matrix_of_a_modules_own_is_counted_for_it():
    found = cost(nn.Sequential(nn.Linear(4, 4), Multiplies()), (4,))
    assert {layer.name: layer.macs for layer in found.layers} == {"0": 16, "1": 16}
    assert (found.uncounted, found.outside) == ((), ())
    assert found.params == 16 + 4 + 16
    assert cost(Multiplies(), (4,)).macs == 16


class Calls(nn.Module):
    """A model whose forward is a function of itself and the input."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def windows(net, x):
    """Cuts an image into 16 windows and runs one linear layer over the tokens of each (Swin, MobileViT)."""
    x = net.stem(x)
    tokens = F.unfold(x, 4, stride=4).transpose(1, 2).reshape(-1, 8, 16).transpose(1, 2)
    return net.head(net.mix(tokens).reshape(len(x), -1, 8).mean(1))


def frames(net, x):
    return net.head(net.conv(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (len(x), -1)).mean(1))


def checkpointed(net, x):
    return checkpoint(net.a, x.flatten(0, 1), use_reentrant=False)


def linear(rows=4, columns=5):
    return nn.Linear(rows, columns, bias=False)


@pytest.mark.parametrize(
    ("net", "shape", "macs"),
    [
        (
            Calls(windows, stem=nn.Conv2d(3, 8, 1), mix=nn.Linear(8, 8), head=nn.Linear(8, 5)),
            (3, 16, 16), 256 * 3 * 8 + 256 * 8 * 8 + 8 * 5,
        ),
        (
            Calls(frames, conv=nn.Conv2d(3, 8, 3, padding=1), head=nn.Linear(8, 5)),
            (10, 3, 8, 8), 10 * 64 * 27 * 8 + 8 * 5,
        ),
        (Calls(lambda net, x: net.a(x.transpose(0, 1)), a=linear()), (7, 4), 7 * 20),
        (Calls(lambda net, x: net.a(x[0]), a=nn.Conv2d(3, 4, 1)), (3, 5, 5), 25 * 12),
        (Calls(lambda net, x: net.a(x.flatten(0, 1)), a=nn.ConvTranspose2d(3, 4, 2, 2)), (7, 3, 5, 5), 7 * 25 * 48),
        (Calls(lambda net, x: torch.vmap(net.a)(x.flatten(0, 1)), a=linear()), (7, 4), 7 * 20),
        (Calls(lambda net, x: torch.vmap(net.a)(x[0]), a=nn.ConvTranspose2d(3, 4, 2, 2)), (7, 3, 5, 5), 7 * 25 * 48),
        (Calls(lambda net, x: torch.stack([net.a(row) for row in x[0]]), a=linear()), (7, 4), 7 * 20),
        (Calls(checkpointed, a=linear()), (7, 4), 7 * 20),
        (Calls(lambda net, x: net.a(input=x), a=linear()), (4,), 20),
    ],
)  # fmt: skip
def test_one_image_is_counted_whole_however_its_axes_are_folded(net, shape, macs):
    found = cost(net, shape)
    assert found.macs == macs
    assert (found.activation_macs, found.outside, found.uncalled, found.omitted) == (0, (), (), ())


def test_two_images_in_the_example_cost_twice_one(net):
    one, two = (cost(net, example=torch.zeros(n, 1, 8, 8)) for n in (1, 2))
    assert two.macs == 2 * one.macs == 2 * cost(net, (1, 8, 8)).macs
    assert "cost of one input (2, 1, 8, 8) float32" in str(two)


@pytest.mark.parametrize(
    ("forward", "macs"),
    [
        (lambda net, x: F.linear(x, net.a.weight), 20),
        (lambda net, x: x @ net.a.weight.t(), 20),
        (lambda net, x: net.a.weight @ x[0], 20),
        (lambda net, x: torch.einsum("bi,oi->bo", x, net.a.weight), 20),
        (lambda net, x: F.linear(x[:, :2], net.a.weight[:3, :2]), 6),
        (lambda net, x: F.linear(x, net.a.weight * torch.ones(5, 4).tril()), 20),
        (lambda net, x: F.linear(x, net.a.weight / net.a.weight.std()), 20),
        (lambda net, x: F.linear(x.bfloat16(), net.a.weight.bfloat16()), 20),
        (lambda net, x: torch.vmap(lambda row: F.linear(row, net.a.weight))(x.expand(7, 4)), 7 * 20),
        (torch.inference_mode()(lambda net, x: F.linear(x, net.a.weight)), 20),
        (lambda net, x: net.a.forward(x), 20),
    ],
)
def test_a_weight_read_outside_its_layers_call_counts_for_the_layer_and_is_said(forward, macs):
    found = cost(Calls(forward, a=linear()), (4,))
    assert (found.macs, found.activation_macs, found.uncalled) == (macs, 0, ())
    assert found.outside == ("a",)
    assert (found.layers[0].name, found.layers[0].macs, found.layers[0].outside_macs) == ("a", macs, macs)
    assert f"Weights read outside of their layer's call, counted for it, in float: a ({macs} MACs)" in str(found)


def test_weights_that_are_read_as_one_share_its_product():
    def forward(net, x):
        return F.linear(x, torch.cat([net.q.weight, net.k.weight, net.v.weight]))

    found = cost(Calls(forward, q=linear(4, 4), k=linear(4, 2), v=linear(4, 7)), (3, 4))
    assert {layer.name: layer.macs for layer in found.layers} == {"q": 3 * 16, "k": 3 * 8, "v": 3 * 28}


def test_an_ensemble_of_stacked_weights_counts_for_its_members():
    nets = nn.ModuleList([linear() for _ in range(3)])
    base = copy.deepcopy(nets[0]).to("meta")

    def forward(net, x):
        state = stack_module_state([*net.nets])
        return torch.vmap(lambda *held: functional_call(base, held, (x,)))(*state)

    found = cost(Calls(forward, nets=nets), (4,))
    assert {layer.name: layer.macs for layer in found.layers} == {f"nets.{i}": 20 for i in range(3)}


def test_weights_in_one_memory_are_told_apart():
    net = nn.Sequential(linear(4, 4), linear(4, 3))
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach(), net.parameters())
    found = cost(Calls(lambda self, x: F.linear(F.linear(x, self.net[0].weight), self.net[1].weight), net=net), (4,))
    assert {layer.name: layer.macs for layer in found.layers} == {"net.0": 16, "net.1": 12}


@pytest.mark.parametrize(
    "made",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_is_composed_costs_as_the_plain_one_that_it_becomes(made):
    found = cost(nn.Sequential(made(nn.Linear(4, 4))), (4,))
    assert (found.macs, found.activation_macs, found.outside, found.uncounted) == (16, 0, (), ())
    assert (found.params, found.size_bytes) == (20, 80)


def test_a_shared_table_of_tokens_counts_where_it_multiplies():
    def forward(net, tokens):
        return F.linear(net.table(tokens), net.table.weight)

    found = cost(Calls(forward, table=nn.Embedding(10, 4)), example=torch.zeros(1, 7, dtype=torch.long))
    assert (found.macs, found.outside) == (7 * 40, ("table",))
    tied = Calls(lambda net, tokens: net.head(net.table(tokens)), table=nn.Embedding(10, 4), head=linear(4, 10))
    tied.head.weight = tied.table.weight
    found = cost(tied, example=torch.zeros(1, 7, dtype=torch.long))
    assert {layer.name: layer.macs for layer in found.layers} == {"table": 0, "head": 7 * 40}


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = F.linear(x, self.qkv.weight, self.qkv.bias).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_products_of_activations_have_a_line_of_their_own():
    found = cost(SelfAttention(), (5, 8))
    assert {layer.name: layer.macs for layer in found.layers} == {"qkv": 5 * 8 * 24, "proj": 5 * 64}
    assert found.activation_macs == 2 * 5 * 5 * 8
    assert found.activation_bitops == 1024 * found.activation_macs
    assert found.macs == 5 * 8 * 24 + 5 * 64 + 400
    assert found.bitops == 1024 * found.macs
    line = next(line for line in str(found).splitlines() if "products of activations" in line)
    assert "32/32" in line
    assert "400" in line
    assert "409,600" in line


@pytest.mark.parametrize("name", ["uniq", "dq"])
def test_what_no_quantizer_reaches_is_counted_in_float(name):
    model = nn.Sequential(nn.Linear(8, 8), SelfAttention(), nn.Linear(8, 3))
    quantize_(model, policy(name, weights=4, activations=4))
    found = cost(model, (5, 8))
    by_name = {layer.name: layer.bitops for layer in found.layers}
    assert by_name["1.qkv"] == 5 * 8 * 24 * 1024
    assert by_name["1.proj"] == 5 * 64 * 16
    assert found.bitops == sum(by_name.values()) + 400 * 1024


def test_a_weight_that_is_read_through_its_quantizer_has_its_bits():
    model = Calls(lambda net, x: net.b(net.a.forward(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 3))
    quantize_(model, policy("uniq", weights=4, activations=4).first_last(first="a", last="b"))
    layer = cost(model, (8,)).layers[0]
    assert (layer.macs, layer.outside_macs, layer.bitops) == (64, 0, 64 * layer.weight_bits * layer.activation_bits)


def test_attention_and_rnns_of_pytorch_are_counted():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = cost(encoder, (3, 8))
    assert {layer.name: layer.macs for layer in found.layers if layer.macs} == {
        "self_attn": 3 * 8 * 24, "self_attn.out_proj": 3 * 64, "linear1": 3 * 128, "linear2": 3 * 128,
    }  # fmt: skip
    assert (found.activation_macs, found.outside) == (2 * 9 * 8, ("self_attn.out_proj",))
    assert cost(nn.LSTM(4, 5, batch_first=True), (3, 4)).macs == 3 * (4 + 5) * 20
    assert cost(nn.GRU(4, 5, 2, batch_first=True, bidirectional=True), (3, 4)).macs == 6 * (4 + 5 + 10 + 5) * 15
    assert cost(nn.LSTMCell(4, 5), (4,)).macs == 9 * 20
    bilinear = Calls(lambda net, x: net.a(x, x), a=nn.Bilinear(4, 4, 5))
    assert (cost(bilinear, (4,)).macs, cost(bilinear, (4,)).outside) == (80, ())


@pytest.mark.parametrize("compiled", [torch.jit.script, torch.compile])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_are_counted(compiled):
    assert cost(compiled(nn.Sequential(linear(), nn.ReLU())), (4,)).macs == 20


def test_what_is_never_called_is_named():
    model = Calls(lambda net, x: net.a(x), a=linear(), b=linear(), c=nn.Sequential(Multiplies()), d=nn.BatchNorm1d(4))
    found = cost(model, (4,))
    assert (found.macs, found.uncalled) == (20, ("b", "c.0"))
    assert "Never called, counted as 0: b, c.0" in str(found)
    quantize_(model, policy("uniq", weights=4).override("c.0", weights=32), strict=False)
    assert cost(model, (4,)).uncalled == ("b", "c.0")


def test_matrices_that_multiply_element_by_element_are_named_with_their_count():
    found = cost(Calls(lambda net, x: (x[:, None] * net.a.weight).sum(-1), a=linear()), (4,))
    assert (found.macs, found.uncounted) == (0, ("a",))
    assert "Not counted: a (a matrix that meets activations element by element: 20 MACs)" in str(found)


def test_operations_that_nobody_knows_the_multiply_adds_of_are_named():
    found = cost(Calls(lambda net, x: torch.sparse.mm(torch.eye(3).to_sparse(), x[0])), (3, 4))
    assert found.uncounted == ("",)
    assert "Not counted: (the model itself) (unknown _sparse_addmm: ? MACs)" in str(found)


def test_a_table_of_positions_is_no_product():
    model = Calls(lambda net, x: net.a(x) + net.positions, a=linear())
    model.positions = nn.Parameter(torch.zeros(1, 3, 5))
    found = cost(model, (3, 4))
    assert (found.macs, found.omitted, found.uncalled) == (60, (), ())


def test_an_example_is_a_tensor_a_tuple_or_a_mapping():
    def forward(net, x, y=None):
        return net.a(x) + net.b(y)

    model = Calls(forward, a=linear(), b=linear(3, 5))
    x, y = torch.zeros(1, 4), torch.zeros(1, 3)
    assert cost(model, example=(x, y)).macs == cost(model, example={"x": x, "y": y}).macs == 35
    assert "cost of one input (1, 4) float32, (1, 3) float32" in str(cost(model, example=(x, y)))
    with pytest.raises(ValueError, match=r"Calls does not take one image of shape \(4,\) \(example=... takes tokens"):
        cost(model, (4,))
    with pytest.raises(
        ValueError, match=r"Calls does not take the input \(1, 3\) float32, \(1, 3\) float32: mat1 and mat2"
    ):
        cost(model, example=(y, y))
    for arguments in ({}, {"input_shape": (4,), "example": x}):
        with pytest.raises(ValueError, match=r"expected the shape of one image.*or in its place example="):
            cost(model, **arguments)


def test_a_layer_without_a_weight_yet_is_an_error_and_stays_lazy():
    model = nn.Sequential(nn.LazyLinear(5))
    with pytest.raises(ValueError, match=r"0.weight has no shape yet \(a lazy layer\): run the model once"):
        cost(model, (4,))
    assert type(model[0]) is nn.LazyLinear


class Remembers(nn.Module):
    """A forward that writes buffers, draws numbers, changes modes, and may fail."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1, 4))

    def forward(self, x):
        self.train()
        self.seen += 1
        self.last = self.a(x + torch.rand(1))
        return self.a(x[..., :4])


@pytest.mark.parametrize("shape", [(4,), (3,)])
def test_the_model_is_left_as_it_was_also_where_it_fails(shape):
    model = Remembers().eval()
    model.a.train()
    last, random, fast = model.last, torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    if shape == (4,):
        assert cost(model, shape).macs == 32
    else:
        with pytest.raises(ValueError, match="does not take one image"):
            cost(model, shape)
    assert [module.training for module in model.modules()] == [False, True]
    assert (float(model.seen), model.last is last) == (0, True)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_a_failure_that_the_model_survives_changes_no_count():
    def forward(net, x):
        with contextlib.suppress(RuntimeError):
            net.a(x[..., :2])
        return net.b(x)

    assert cost(Calls(forward, a=linear(), b=linear(4, 3)), (4,)).macs == 12


def test_everything_of_a_table_model_is_counted(net):
    assert cost(net, (1, 8, 8)).uncounted == ()
    assert "ot counted" not in str(cost(net, (1, 8, 8)))


def test_a_model_without_parameters_costs_nothing():
    assert cost(nn.ReLU(), (3,)).bitops == cost(nn.ReLU(), (3,)).params == 0


@pytest.mark.parametrize("shape", [3, None, "3"])
def test_what_is_no_shape_is_an_error(shape, net):
    with pytest.raises(ValueError, match=r"input_shape=.*expected the shape of one image, such as \(3, 32, 32\)"):
        cost(net, shape)


@pytest.mark.parametrize("name", ["hol", "faq", "uniq", "saq", "pact"])
def test_activations_alone_are_counted_and_stated(name):
    model = models.build("resnet8", first_width=4)
    whole = cost(model, (3, 16, 16)).bitops
    quantize_(model, policy(name, activations=4))
    layers = {layer.name: layer for layer in cost(model, (3, 16, 16)).layers}
    inner = layers["layers.1.0.conv2"]
    assert (inner.weight_bits, inner.activation_bits) == (32, 4)
    assert cost(model, (3, 16, 16)).bitops < whole / 2
    assert convention(model).inner == "W32/A4"


@pytest.mark.parametrize("shape", [(3, -1, 8), (3, "8", 8), (3, 2.5, 8)])
def test_a_shape_that_no_image_has_is_refused(shape):
    with pytest.raises(ValueError, match=r"Sequential does not take one image of shape \(3, "):
        cost(nn.Sequential(linear()), shape)
