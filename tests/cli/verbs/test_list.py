import json

import pytest

from flatbit.cli.choice import recipe_of
from flatbit.cli.console import parse_settings
from flatbit.data import DATASETS
from flatbit.figures import ANALYSES
from flatbit.models import MODELS
from flatbit.quant import preset_names
from flatbit.quant.quantizers import METHODS
from flatbit.recipes import RECIPES
from flatbit.settings import places
from flatbit.train.losses import LOSSES
from flatbit.train.optimizers import OPTIMIZERS
from flatbit.train.schedules import SCHEDULES

KINDS = {
    "recipes": RECIPES.names, "models": MODELS.names, "data": DATASETS.names, "quantizers": METHODS.names,
    "policies": preset_names, "losses": LOSSES.names, "optimizers": OPTIMIZERS.names,
    "schedules": SCHEDULES.names, "analyses": ANALYSES.names,
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "quantizers"])
def test_everything_says_what_it_is(flatbit, kind):
    assert all(entry["what"] for entry in listed(flatbit, kind)[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_names_all(flatbit, kind):
    result = flatbit("list", kind)
    assert (result.status, result.err) == (0, "")
    assert all(f" {name} " in result.out for name in KINDS[kind]())


def entry(flatbit, kind, name):
    (found,) = (entry for entry in listed(flatbit, kind)[kind] if entry["name"] == name)
    return found


def test_parameters_are_those_that_can_be_set_as_they_are_typed(flatbit):
    resnet20 = entry(flatbit, "models", "resnet20")["parameters"]
    assert "shortcut=A" in resnet20
    assert "depth" not in resnet20
    assert entry(flatbit, "data", "camvid")["parameters"].startswith("--data-dir DIR, test=test, mean=[0.")
    assert entry(flatbit, "data", "imagenet")["parameters"] == "--data-dir DIR, --skip-bad"
    distillation = entry(flatbit, "losses", "distillation")["parameters"]
    assert distillation.startswith("teacher=start, temperature=4.0")
    assert "network" not in distillation  # the engine's
    assert entry(flatbit, "schedules", "exponential")["parameters"] == "decay"


def test_recipes_say_their_network_data_and_settings(flatbit):
    found = entry(flatbit, "recipes", "hol-preresnet8-digits")
    assert (found["model"], found["data"]) == ("preresnet8 (variant=hol)", "digits")
    assert found["settings"].split(", ")[:3] == ["weights", "activations", "quantized"]


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_setting_of_a_recipe_is_listed_by_its_place(flatbit, name):
    settings = listed(flatbit, "recipes", name)
    assert [row["setting"] for row in settings] == list(places(RECIPES.get(name).stages))
    assert all(row["takes"] for row in settings)
    assert not [row for row in settings if any(word in str(row) for word in ("object at", "kind=", "``", "()"))]


def settings_of(flatbit, name):
    return {row["setting"]: (row["default"], row["takes"]) for row in listed(flatbit, "recipes", name)}


def test_defaults_are_those_of_the_registration_and_as_they_are_typed(flatbit):
    saq = settings_of(flatbit, "saq-preresnet20-cifar100")
    assert saq["sharpness"] == ("on", "on, none")
    assert saq["sharpness.rho"] == ("0.9", "a number")  # as the paper prints it for 4 bits
    assert saq["sharpness.eta"] == ("none", "a number, none")
    assert saq["training"] == ("", "its settings")
    assert saq["training.nesterov"] == ("false", "true, false")
    assert saq["method"] == ("saq", "saq, pact")
    assert saq["pretraining.distillation.teacher"] == ("start", "start, stage:NAME, stage:NAME.average, file:PATH")
    assert settings_of(flatbit, "saq-resnet18-imagenet")["training.epochs"] == ("90", "a whole number")
    hol = settings_of(flatbit, "hol-preresnet8-digits")
    assert (hol["clr"], hol["clr.epochs"]) == (("none", "on, none"), ("8", "a whole number"))
    assert hol["training.milestones"] == ("[0.5, 0.8]", "a list")
    assert hol["quantized"] == ("each", "each, weights, activations, both, a list")
    assert settings_of(flatbit, "faq")["pretraining"] == ("on", "on, scratch, none")


@pytest.mark.parametrize("name", RECIPES.names())
def test_what_is_listed_can_be_given(flatbit, name):
    """Every default, typed as it is listed, is accepted where it acts; where it cannot, the error says that."""
    for place, (default, _) in settings_of(flatbit, name).items():
        if default and default != "-":
            try:
                recipe_of(name, parse_settings([f"{place}={default}"]))
            except ValueError as error:
                assert "cannot act" in str(error), (place, default)  # noqa: PT017


def test_one_recipe_is_told_in_words_and_settings(flatbit):
    result = flatbit("list", "recipes", "saq")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("SAQ at one bit-width")
    assert "settings of saq" in result.out
    assert "`sharpness=none` is the tables' SGD" in result.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("recipes", "sak"), "unknown recipe 'sak': did you mean saq"),
        (("models", "resnet20"), "only a recipe has settings to list: flatbit list recipes NAME"),
    ],
)
def test_mistakes_are_one_line(refuses, arguments, says):
    assert says in refuses("list", *arguments)


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
