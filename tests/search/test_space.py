import tomllib

import pytest
from torch import nn

import flatbit as fb
from flatbit.cli.searching import _groups
from flatbit.graph import read_graph
from flatbit.search.space import Choice, Space, feeding, space_of, template

from .cases import Calls, Untraced, free_space, preresnet, quantized


def layers(space):
    return [choice.layers for choice in space.choices]


def test_a_preactivation_net_in_order_with_its_shortcuts_tied():
    found = space_of(quantized(preresnet()))
    assert layers(found) == [
        ("layers.0.0.conv1",), ("layers.0.0.conv2",), ("layers.1.0.conv1",),
        ("layers.1.0.conv2", "layers.1.0.shortcut"), ("layers.2.0.conv1",), ("layers.2.0.conv2", "layers.2.0.shortcut"),
    ]  # fmt: skip
    assert {choice.widths for choice in found.choices} == {(2, 3, 4, 5)}


def test_a_postactivation_net_whose_shortcut_has_a_norm():
    model = fb.models.build("resnet8", in_channels=1, first_width=4, shortcut="B")
    assert layers(space_of(quantized(model)))[3] == ("layers.1.0.conv2", "layers.1.0.shortcut.0")


@pytest.mark.parametrize("shortcut", ["A", "identity"])
def test_what_has_no_convolution_ties_nothing(shortcut):
    model = fb.models.build("resnet8", in_channels=1, first_width=4)
    assert {len(group) for group in layers(space_of(quantized(model)))} == {1}


@pytest.mark.parametrize(("name", "tied"), [("mobilenet_v2_cifar", [1, 2, 11, 17]), ("mobilenet_v2", [])])
def test_mobilenet_has_a_choice_per_convolution_but_for_shortcuts(name, tied):
    """Which change the width at stride 1 in SAQ's net; the first block of ImageNet's has no expansion."""
    model = fb.models.build(name, **({"variant": "saq"} if tied else {}))
    found = layers(space_of(quantized(model)))
    assert len(found) == 17 * 3 + 1 - (not tied)
    groups = [group for group in found if len(group) > 1]
    assert [group[1] for group in groups] == [f"features.{block}.shortcut.0" for block in tied]
    assert all(last.startswith(shortcut.partition("shortcut")[0] + "conv") for last, shortcut in groups)


def test_a_net_of_the_users_in_the_order_in_which_it_runs():
    model = quantized(Calls())
    assert layers(space_of(model)) == [("one",), ("two", "shortcut")]
    assert layers(space_of(model, (4, 2, 2)))[0] == ("one",)
    assert {choice.widths for choice in space_of(model, (4, 2, 2)).choices} == {(2, 4)}


def test_what_is_float_does_not_choose():
    model = preresnet()
    fb.quantize_(model, fb.policy("saq", weights=4, activations=4).override("layers.1.0.conv2", weights=32))
    fb_float = layers(space_of(model))
    assert ("layers.1.0.shortcut",) in fb_float
    assert not any("layers.1.0.conv2" in group for group in fb_float)


def test_norms_that_are_quantized_do_not_choose():
    made = fb.policy("faq", weights=4, activations=4, placement="input")
    model = preresnet()
    fb.quantize_(model, made)
    assert all("bn" not in name for group in layers(space_of(model)) for name in group)
    assert layers(space_of(model)) == layers(space_of(quantized(preresnet())))


@pytest.mark.parametrize("policy", ["faq", "hol"])
def test_activations_that_are_quantized_where_they_are_made_are_refused(policy):
    with pytest.raises(ValueError, match=r"'layers\.0\.0\.conv1' reads is quantized where it is made.* as saq"):
        space_of(quantized(preresnet(), policy=policy))


def test_a_forward_that_cannot_be_followed_gives_a_template_that_can_be_used(tmp_path):
    model = quantized(Untraced())
    with pytest.raises(ValueError, match=r"the forward of Untraced cannot be followed.*--layers FILE") as caught:
        space_of(model)
    text = str(caught.value).partition(":\n")[2]
    assert tomllib.loads(text) == {"layers": [["inner"], ["more"]]}
    path = tmp_path / "layers.toml"
    path.write_text(text)
    assert layers(space_of(model, layers=_groups(path))) == [("inner",), ("more",)]
    assert layers(space_of(model, layers=[["more", "inner"]])) == [("more", "inner")]


def test_a_template_is_toml():
    assert tomllib.loads(template(["a.0", "b"])) == {"layers": [["a.0"], ["b"]]}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([["one"], ["stem"]], "layers: 'stem' is no layer that can choose"),
        ([["ones"]], "layers: 'ones' is no layer that can choose: did you mean one"),
        ([["one"], ["two", "one"]], "layer 'one' stands in two choices: it can have one width only"),
        ([["one", "one"]], "layer 'one' stands in two choices"),
        ([[]], "a choice of no layer"),
        ([], "nothing to search"),
    ],
)
def test_layers_that_cannot_be(groups, words):
    with pytest.raises(ValueError, match=words):
        space_of(quantized(Calls()), layers=groups)


def test_a_net_of_edges_only_has_nothing_to_search():
    with pytest.raises(ValueError, match="nothing to search: no layer between the first and the last"):
        space_of(quantized(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))))


@pytest.mark.parametrize("widths", [(), (0, 2), (2, 9)])
def test_widths_that_are_none(widths):
    with pytest.raises(ValueError, match=r"'a': widths .*: expected one or more of 1 to 8 bits"):
        free_space(widths)


def test_a_fixed_layer_fixes_what_is_tied_to_it():
    space = Space(choices=(Choice(layers=("a", "b")), Choice(layers=("c",))))
    fixed = space.with_fixed({"b": 3})
    assert [choice.widths for choice in fixed.choices] == [(3,), (2, 3, 4, 5)]
    assert space.with_fixed({}) == space
    assert space.with_fixed({"a": 4, "b": 4}).choices[0].widths == (4,)


def test_contradictions_and_strangers_are_named():
    space = Space(choices=(Choice(layers=("one", "two")), Choice(layers=("three",))))
    with pytest.raises(ValueError, match="fixed to different widths: one to 2, two to 4 bits"):
        space.with_fixed({"one": 2, "two": 4})
    with pytest.raises(ValueError, match="fixed layer 'thre' is none that chooses: did you mean three"):
        space.with_fixed({"thre": 2})


def test_uniform_widths_and_assignments():
    space = Space(choices=(Choice(layers=("a", "b")), Choice(layers=("c",), widths=(2, 5)), Choice(layers=("d",))))
    assert space.uniform(4) == {"a": 4, "c": 5, "d": 4}
    assert space.uniform(3) == {"a": 3, "c": 2, "d": 3}
    assert space.assignment(space.uniform(3)) == {"a": (3, 3), "b": (3, 3), "c": (2, 2), "d": (3, 3)}


def test_a_norm_is_fed_by_the_nearest_layer_of_its_residual_branch():
    model = quantized(preresnet())
    found = feeding(read_graph(model), model, lambda module: isinstance(module, nn.BatchNorm2d))
    assert found["layers.0.0.bn2"] == "layers.0.0.conv1"
    assert found["layers.1.0.bn1"] == "layers.0.0.conv2"
    assert found["bn"] == "layers.2.0.conv2"
    assert found["layers.0.0.bn1"] == "conv1"
