import pytest
import torch
from torch import nn

from flatbit.quant.policy import roles_of
from flatbit.quant.presets import policy
from flatbit.quant.spec import LayerSpec
from flatbit.quant.table import spec_of


def bits(spec: LayerSpec) -> tuple:
    return (spec.weight.bits if spec.weight else 32, spec.input.bits if spec.input else 32)


def test_roles_by_order_and_name(net):
    roles = roles_of(net)
    assert roles["conv1"] == "first"
    assert roles["fc"] == "last"
    assert [name for name, role in roles.items() if role == "shortcut"] == [
        "layers.1.0.shortcut",
        "layers.2.0.shortcut",
    ]


@pytest.mark.parametrize("name", ["downsample.0", "shortcut.0", "skip", "shortcut"])
def test_shortcuts_by_their_usual_names(name):
    module = nn.Conv2d(1, 1, 1)
    for part in reversed(name.split(".")):
        parent = nn.Module()
        parent.add_module(part, module)
        module = parent
    model = nn.Module()
    model.add_module("a", nn.Conv2d(1, 1, 1))
    model.add_module("block", module)
    model.add_module("z", nn.Linear(1, 1))
    assert roles_of(model)[f"block.{name}"] == "shortcut"


def test_a_single_layer_is_the_first(small):
    assert roles_of(nn.Sequential(nn.Linear(1, 1))) == {"0": "first"}


def test_later_rules_win(net):
    p = (
        policy("uniq", weights=2, activations=3)
        .override("layers.*", weights=5)
        .override("layers.2.*", weights=4, activations=6)
    )
    specs = p.resolve(net)
    assert bits(specs["conv1"]) == (8, 8)
    assert bits(specs["layers.0.0.conv1"]) == (5, 3)
    assert bits(specs["layers.2.0.conv1"]) == (4, 6)


def test_patterns_by_type_role_and_name(net):
    p = (
        policy("uniq", weights=2, activations=2)
        .override(nn.Linear, weights=6)
        .override("@shortcut", weights=32)
        .override("conv1", activations=32)
    )
    specs = p.resolve(net)
    assert bits(specs["fc"]) == (6, 8)
    assert bits(specs["layers.1.0.shortcut"]) == (32, 2)
    assert bits(specs["conv1"]) == (8, 32)


def test_override_changes_method_granularity_and_options(net):
    p = policy("uniq", weights=2, activations=2).override(
        "layers.0.*", method="sqwa", activation_method="pact", weight_options={"grid": "midrise"}
    )
    spec = p.resolve(net)["layers.0.0.conv1"]
    assert (spec.weight.method, spec.input.method) == ("sqwa", "pact")
    assert spec.weight.options == {"grid": "midrise"}
    assert str(spec.weight) == "2 bit sqwa per tensor, grid=midrise"
    channel = policy("uniq", weights=2).override("fc", granularity="channel").resolve(net)["fc"]
    assert channel.weight.granularity == "channel"


def test_override_returns_a_new_policy():
    first = policy("uniq", weights=2)
    first.override("*", weights=4)
    assert first == policy("uniq", weights=2)


def test_a_pattern_that_matches_nothing_is_an_error(net):
    with pytest.raises(ValueError, match=r"no layer matches 'layer\.0\.0\.conv1': did you mean layers\.0\.0\.conv1"):
        policy("uniq", weights=2).override("layer.0.0.conv1", weights=4).resolve(net)
    with pytest.raises(ValueError, match="no layer matches"):
        policy("uniq", weights=2).override(nn.Conv3d, weights=4).resolve(net)
    policy("uniq", weights=2).override("@shortcut", weights=4).resolve(nn.Sequential(nn.Linear(1, 1)))


def test_unknown_setting_and_bad_bits():
    with pytest.raises(ValueError, match="unknown setting 'weight': did you mean weights"):
        policy("uniq", weights=2).override("*", weight=4)
    with pytest.raises(ValueError, match="weights=9: expected 1 to 8 bits, or 32"):
        policy("uniq", weights=2).override("*", weights=9)
    for setting in ("norm", "bias"):
        with pytest.raises(ValueError, match=rf"override\('fc'\): {setting}=8: expected a TensorSpec, or None for"):
            policy("uniq", weights=2).override("fc", **{setting: 8})


def test_outputs_are_quantized_where_the_policy_places_activations_there():
    assert policy("hol", weights=2, activations=2).places_outputs()
    assert not policy("hol", weights=2).places_outputs()
    assert not policy("uniq", weights=2, activations=2).places_outputs()


def test_placement_is_a_setting_of_each_layer(net):
    p = policy("uniq", weights=2, activations=2, placement="output").override(
        "layers.0.0.conv1", activations=4, placement="input"
    )
    specs = p.resolve(net)
    assert specs["layers.0.0.conv1"].input.bits == 4
    assert specs["layers.0.0.conv2"].input is None
    assert specs["layers.0.0.conv2"].input_bits == 2  # counted as what the activation before gives
    assert specs["layers.0.0.relu1"].output.bits == 2
    assert specs["layers.1.0.residual"].output is None  # an identity is a name, not an activation
    named = p.override("*.residual", placement="output", activations=8).resolve(net)
    assert named["layers.1.0.residual"].output.bits == 8
    inputs = policy("uniq", weights=2, activations=2).override("layers.0.0.relu1", placement="output").resolve(net)
    assert inputs["layers.0.0.relu1"].output.bits == inputs["layers.0.0.conv1"].input.bits == 2
    assert inputs["layers.1.0.relu1"].output is None


def test_spec_of_a_module(net, quantized):
    assert spec_of(net.conv1) is None
    quantized(net)
    assert spec_of(net.conv1).role == "first"
    assert bool(LayerSpec(policy="x")) is False


class Multiplies(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 2))


def test_rules_may_name_modules_that_the_table_does_not_know():
    model = nn.ModuleDict({"own": Multiplies(), "embed": nn.Embedding(2, 2), "out": nn.Linear(2, 2)})
    base = policy("uniq", weights=2, activations=2)
    assert not base.keeps_float("own", model["own"])
    kept = base.override("own", weights=32, activations=32)
    assert kept.keeps_float("own", model["own"])
    assert set(kept.resolve(model)) == {"out"}
    assert not base.override("own", weights=32).keeps_float("own", model["own"])
    with pytest.raises(ValueError, match="no layer matches 'embed'"):  # nothing would come of it
        base.override("embed", weights=2).resolve(model)


def test_misspelt_roles_are_refused():
    with pytest.raises(ValueError, match="no such role: did you mean @first"):
        policy("uniq", weights=2).override("@frist", weights=8)


def test_first_and_last_that_are_named_take_the_roles():
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in "abc"})
    assert roles_of(model) == {"a": "first", "b": "inner", "c": "last"}
    assert roles_of(model, "b", "a") == {"a": "last", "b": "first", "c": "inner"}
    named = policy("uniq", weights=2).first_last(first="b").first_last(last="a")
    specs = named.resolve(model)
    assert {name: spec.weight.bits for name, spec in specs.items()} == {"a": 8, "b": 8, "c": 2}
    with pytest.raises(ValueError, match="no weighted layer 'd'"):
        named.first_last(last="d").resolve(model)


def test_true_is_no_bit_width():
    with pytest.raises(ValueError, match="weights=True: expected 1 to 8 bits"):
        policy("uniq", weights=True)


def test_placement_is_input_or_output():
    with pytest.raises(ValueError, match="placement='middle': expected input or output"):
        policy("uniq", weights=2, placement="middle")
    with pytest.raises(ValueError, match=r"override\('fc'\): placement='middle': expected input or output"):
        policy("uniq", weights=2).override("fc", placement="middle")


def test_an_override_or_a_name_of_nothing_is_refused():
    made = policy("uniq", weights=2)
    with pytest.raises(ValueError, match=r"override\('layers\.0\.\*'\): nothing to change: give a setting"):
        made.override("layers.0.*")
    with pytest.raises(ValueError, match=r"override\(3\): expected a name with wildcards"):
        made.override(3, weights=2)
    for given in ({}, {"first": 8}, {"last": nn.Linear}, {"first": "a", "last": ["b"]}):
        with pytest.raises(ValueError, match=r"first_last\(first=.*: expected the name of one layer, or two"):
            made.first_last(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"granularity": "chanel"}, "weight of layer 'fc': method 'uniq' takes one step per tensor or channel"),
        ({"method": "lsk"}, "unknown quantization method 'lsk'"),
        ({"method": 3}, "unknown quantization method 3"),
        ({"method": "pact"}, "weight of layer 'fc': method 'pact' does not quantize weights"),
        ({"activation_method": "sqwa"}, "input of layer 'fc': method 'sqwa' does not quantize inputs"),
        ({"weight_options": {"strat": 1}}, "no option 'strat': did you mean start"),
        ({"weight_options": {"start": "leas"}}, "start='leas': expected 'optimal' or"),
        ({"weight_options": "start"}, r"override\('fc'\): weight_options='start': expected a mapping"),
        ({"activation_options": {"start": -1}}, "start=-1: expected"),
        ({"method": "sqwa", "weight_options": {"start": "lsq"}}, "method 'sqwa' has no option 'start'"),
        ({"input_bits": 9}, "input_bits=9: expected 1 to 8 bits"),
    ],
)
def test_what_no_quantizer_takes_is_refused_where_it_is_given(changes, words):
    with pytest.raises(ValueError, match=words):
        policy("uniq", weights=2, activations=2).override("fc", **changes)


def test_options_may_be_those_of_a_method_that_an_earlier_rule_names():
    made = policy("uniq", weights=2).override("layers.*", method="sqwa")
    made.override("layers.2.*", weight_options={"grid": "midrise"}).override("fc", weight_options={"start": "lsq"})
    with pytest.raises(ValueError, match="method 'uniq' has no option 'exponent'"):
        made.override("layers.2.*", weight_options={"exponent": 1})
