import json

import pytest

from flatbit.data import DATASETS
from flatbit.models import MODELS
from flatbit.quant import preset_names
from flatbit.quant.quantizers import METHODS
from flatbit.recipes import RECIPES

KINDS = {
    "recipes": RECIPES.names, "models": MODELS.names, "data": DATASETS.names, "quantizers": METHODS.names,
    "policies": preset_names,
}  # fmt: skip


def listed(flatbit, *arguments):
    result = flatbit("list", *arguments, "--json")
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_listed_by_name(flatbit, kind):
    found = listed(flatbit, kind)
    assert list(found) == [kind]
    assert [entry["name"] for entry in found[kind]] == KINDS[kind]()


def test_everything_where_no_kind_is_given(flatbit):
    found = listed(flatbit)
    assert {kind: [entry["name"] for entry in entries] for kind, entries in found.items()} == {
        kind: names() for kind, names in KINDS.items()
    }


@pytest.mark.parametrize("kind", ["recipes", "models", "data", "policies"])
def test_everything_says_what_it_is(flatbit, kind):
    assert all(entry["what"] for entry in listed(flatbit, kind)[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_names_all(flatbit, kind):
    result = flatbit("list", kind)
    assert (result.status, result.err) == (0, "")
    assert all(f" {name} " in result.out for name in KINDS[kind]())


def test_parameters_are_those_that_can_be_set(flatbit):
    (resnet20,) = (entry for entry in listed(flatbit, "models")["models"] if entry["name"] == "resnet20")
    assert "shortcut='A'" in resnet20["parameters"]
    assert "depth" not in resnet20["parameters"]
    (finetune,) = (entry for entry in listed(flatbit, "recipes")["recipes"] if entry["name"] == "finetune")
    assert finetune["parameters"].startswith("model, data='digits'")


def test_quantizers_say_their_bits(flatbit):
    bits = {entry["name"]: entry for entry in listed(flatbit, "quantizers")["quantizers"]}
    assert (bits["uniq"]["weights"], bits["uniq"]["activations"]) == ("1-8", "1-8")
    assert (bits["faq"]["weights"], bits["faq"]["activations"], bits["faq"]["signed activations"]) == (
        "2-8", "1-8", "2-8",
    )  # fmt: skip
    assert (bits["sqwa"]["activations"], bits["xnor"]["weights"]) == ("-", "1")
    assert all(entry["paper"] for entry in bits.values())


def test_an_unknown_kind_is_the_callers_mistake(flatbit):
    result = flatbit("list", "modles")
    assert (result.status, result.out) == (2, "")
    assert "'models'" in result.err
