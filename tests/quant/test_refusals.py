import pytest
import torch
from torch import nn

from flatbit.metrics.evaluation import evaluate
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy
from flatbit.quant.refusals import refusals
from flatbit.quant.table import is_quantized

UNIQ = policy("uniq", weights=4, activations=4)


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        w = (self.weight - self.weight.mean()) / self.weight.std()
        return self._conv_forward(x, w, self.bias)


def with_attention():
    return nn.ModuleDict({"attend": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 8), "last": nn.Linear(8, 2)})


def test_multihead_attention_is_refused_whole():
    found = refusals(with_attention())
    assert set(found) == {"attend", "attend.out_proj"}
    with pytest.raises(ValueError, match=r"2 layers cannot be quantized \(strict=False.*\n  attend: its fused kernel"):
        quantize_(with_attention(), UNIQ)


def test_not_strict_leaves_refused_layers_float_and_says_so():
    model = with_attention()
    report = quantize_(model, UNIQ, strict=False)
    assert [layer.name for layer in report.refused] == ["attend", "attend.out_proj"]
    assert not is_quantized(model["attend"].out_proj)
    assert is_quantized(model["out"])
    assert report.refused[0].num_weights == 3 * 64  # its out_proj is listed by itself
    assert "fused kernel" in str(report)


def test_a_root_attention_has_sound_names():
    assert set(refusals(nn.MultiheadAttention(8, 2))) == {"", "out_proj"}


def test_encoder_layers_are_refused_while_their_fast_path_is_on():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert {"linear1", "linear2"} <= set(refusals(layer))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert not {"linear1", "linear2"} & set(refusals(layer))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_subclasses_with_unknown_forward():
    model = nn.Sequential(StandardizedConv(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    assert "StandardizedConv is a subclass of Conv2d" in refusals(model)["0"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.LSTM(4, 4), "no quantized form of LSTM"),
        (nn.Bilinear(2, 2, 2), "no quantized form of Bilinear"),
        (nn.LazyLinear(4), "LazyLinear|no shape yet"),
        (
            nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
            r"call torch.*remove_parametrizations\(layer, 'weight'\)",
        ),
    ],
)
def test_other_kinds(module, words):
    (reason,) = refusals(nn.Sequential(module)).values()
    assert __import__("re").search(words, reason)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_weight_norm_computes_its_weight_in_a_hook():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    assert "call torch.nn.utils.remove_weight_norm(layer, 'weight') first" in refusals(model)["0"]


def test_uninitialised_lazy_layer_after_its_class_is_plain():
    lazy = nn.LazyConv2d(4, 3)
    lazy.__class__ = nn.Conv2d
    assert "no shape yet" in refusals(nn.Sequential(lazy))["0"]


def test_a_weight_tied_to_an_embedding_is_refused():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    with pytest.raises(ValueError, match=r"head: its weight is shared by embed and head"):
        quantize_(model, UNIQ)
    report = quantize_(model, UNIQ, strict=False)
    assert [layer.name for layer in report.refused] == ["head"]
    assert [layer.name for layer in report.quantized] == ["body"]
    assert [layer.name for layer in report.kept_float] == ["embed"]


def test_tied_layers_must_be_quantized_alike():
    def tied():
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
        model[2].weight = model[1].weight
        return model

    quantize_(tied(), UNIQ)
    with pytest.raises(ValueError, match="shared by 1 and 2, which would quantize it differently: override them alike"):
        quantize_(tied(), UNIQ.override("1", weights=2))


class Multiplies(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return x @ self.w


def with_own_product():
    return nn.Sequential(nn.Linear(4, 4), Multiplies(4, 4), nn.Linear(4, 2))


def test_a_module_with_a_matrix_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"1: Multiplies holds weights \(4, 4\) itself"):
        quantize_(with_own_product(), UNIQ)
    report = quantize_(with_own_product(), UNIQ, strict=False)
    assert [layer.name for layer in report.refused] == ["1"]
    assert report.fraction == pytest.approx((16 + 8) / (16 + 16 + 8))


def test_the_policy_can_leave_refused_modules_float():
    report = quantize_(with_own_product(), UNIQ.override("1", weights=32, activations=32))
    assert [layer.name for layer in report.kept_float] == ["1"]
    assert report.fraction == pytest.approx(24 / 40)
    by_type = quantize_(with_own_product(), UNIQ.override(Multiplies, weights=32, activations=32))
    assert [layer.name for layer in by_type.kept_float] == ["1"]
    attention = quantize_(with_attention(), UNIQ.override("attend*", weights=32, activations=32))
    assert [layer.name for layer in attention.kept_float] == ["attend", "attend.out_proj"]
    with pytest.raises(ValueError, match="1 layers cannot be quantized"):  # its input would not be quantized
        quantize_(with_own_product(), UNIQ.override("1", weights=32))
    weights_only = policy("uniq", weights=4).override("1", weights=32)
    assert not quantize_(with_own_product(), weights_only).refused


def test_lists_of_parameters_are_refused_too():
    model = nn.ModuleDict({"ws": nn.ParameterList([torch.randn(2, 2)]), "out": nn.Linear(2, 2)})
    assert set(refusals(model)) == {"ws"}


@pytest.mark.parametrize(
    "module",
    [
        nn.LayerNorm((4, 4)), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.RMSNorm((4, 4)),
        nn.BatchNorm3d(4), nn.PReLU(4), nn.Embedding(4, 4), nn.EmbeddingBag(4, 4), nn.Conv2d(2, 2, 3),
        Multiplies(1, 4, 1, 1), Multiplies(4),
    ],
)  # fmt: skip
def test_norms_tables_vectors_and_known_layers_are_not_refused(module):
    assert refusals(nn.Sequential(module)) == {}


def test_a_quantized_model_has_nothing_new_to_refuse(net):
    quantize_(net, policy("uniq", weights=2, granularity="channel"))
    assert refusals(net) == {}


@pytest.mark.parametrize("strict", [True, False])
def test_where_every_layer_is_refused_each_reason_is_said(strict):
    with pytest.raises(ValueError, match=r"nothing to quantize in Sequential: 2 layers .*\n  0: .*\n  2: no quan"):
        quantize_(nn.Sequential(StandardizedConv(1, 2, 3), nn.ReLU(), nn.LSTM(2, 2)), UNIQ, strict=strict)


class Tokens(nn.Module):
    """A class token and positions at the root, as vision transformers have them."""

    def __init__(self, multiplies=False):
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 4, 6))
        self.body, self.head, self.multiplies = nn.Linear(6, 6), nn.Linear(6, 4), multiplies

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head((x * self.positions if self.multiplies else self.body(x))[:, 0])


def test_an_example_shows_that_a_module_multiplies_by_nothing_of_its_own():
    x, y = torch.randn(5, 3, 6), torch.arange(5) % 4
    with pytest.raises(ValueError, match=r"\n  '': Tokens holds weights .*quantize_\(..., example=x\) runs it once"):
        quantize_(Tokens(), UNIQ)
    model = Tokens()
    report = quantize_(model, UNIQ, example=x[:1])
    assert not report.refused
    assert [(row.name, row.note) for row in report.kept_float] == [
        ("", "met nothing in a product when it ran: stays float")
    ]
    calibrate_(model, [(x, y)])
    assert evaluate(model, [(x, y)]).num_samples == 5


def test_an_example_shows_that_it_does_and_the_override_leaves_it_float():
    x = torch.randn(1, 3, 6)
    policy_ = UNIQ.override("body", weights=32, activations=32)
    with pytest.raises(ValueError, match=r"\n  '': Tokens holds weights .*in the run they met something in a"):
        quantize_(Tokens(multiplies=True), policy_, example=x)
    report = quantize_(Tokens(multiplies=True), policy_.override("", weights=32, activations=32), example=x)
    assert [row.name for row in report.kept_float] == ["", "body"]


def test_an_example_that_the_model_does_not_take_is_named():
    with pytest.raises(ValueError, match=r"Tokens does not take the input \(1, 3, 5\) float32"):
        quantize_(Tokens(), UNIQ, example=torch.randn(1, 3, 5))
