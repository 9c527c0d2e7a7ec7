"""What every recipe keeps; and what a registration makes of settings, another network, and what a paper prints."""

import inspect
from dataclasses import dataclass

import pytest

import flatbit as fb
from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.record import read_run
from flatbit.recipes import RECIPES, Network, Printed, Registration
from flatbit.settings import places

from .cases import NARROW, SCENES, SMALL, last, made, ran

LARGE = ("resnet34", "resnet50", "resnet152")


def smallest(name):
    """The recipe with the least that makes it small: a little network, on digits."""
    if name == "hol-deeplab-voc":
        return made(name, **SCENES)
    if name.endswith("-spirals"):
        return made(name, network=Network(arguments={"width": 8}))
    small = {"pretraining.schedule": "digits", "sharpness.rho": 0.1}
    known = places(RECIPES.get(name).stages)
    needed = {place: value for place, value in small.items() if place in known}
    return made(name, needed, network=SMALL, data="digits")


def test_the_recipes_of_the_design_are_there():
    agreed = {
        "quickstart", "finetune", "float", "progressive", "crossed", "sqwa", "hol", "saq", "uniq", "faq",
        "sqwa-resnet20-cifar100", "sqwa-mobilenet_v2-cifar100", "sqwa-resnet18-imagenet",
        "hol-fcdnn-spirals", "hol-fcdnn_residual-spirals", "hol-resnet20-cifar10", "hol-preresnet34-imagenet",
        "hol-deeplab-voc",
        "saq-preresnet20-cifar100", "saq-mobilenet_v2-cifar100", "saq-resnet18-imagenet", "saq-mobilenet_v2-imagenet",
        "uniq-preresnet32-cifar100", "uniq-preresnet18-imagenet", "uniq-preresnet34-imagenet",
        "uniq-mobilenet_v2-imagenet", "faq-resnet18-imagenet", "faq-resnet18-cifar10",
        *(f"{paper}-preresnet8-digits" for paper in ("sqwa", "hol", "saq", "uniq", "faq", "progressive", "crossed")),
    }  # fmt: skip
    assert agreed <= set(RECIPES.names())


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_smokes(name, tmp_path):
    recipe = smallest(name)
    done = ran(recipe, tmp_path, smoke=True)
    assert [*done.record.stages] == [stage.name for stage in recipe.stages]
    assert read_run(tmp_path) == done
    for stage in recipe.stages:
        policy = done.record.stages[stage.name].test.convention.policy
        if stage.policy is not None or stage.name != "average":
            assert policy == ("float" if stage.policy is None else stage.policy.name)


@pytest.mark.parametrize("name", [n for n in RECIPES.names() if n != "finetune" and not any(big in n for big in LARGE)])
def test_a_recipes_own_network_takes_its_policies(name):
    recipe = made(name)
    for stage in recipe.stages:
        if stage.policy is not None:
            model = fb.models.build(recipe.model, **recipe.model_arguments)
            assert fb.quantize_(model, stage.policy, strict=True).convention.policy == stage.policy.name


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_is_named_as_it_is_registered_and_says_what_it_does(name):
    assert isinstance(smallest(name), Recipe)
    assert smallest(name).name == name
    assert inspect.getdoc(RECIPES.get(name).stages)


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown recipe 'quikstart': did you mean quickstart"):
        RECIPES.get("quikstart")


# No setting without effect: each of these once gave the same stages as without it.


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "hol",
            {"lipschitz": 0.01},
            "lipschitz=0.01: it is a part with settings of its own: lipschitz=on, lipschitz=no",
        ),
        ("hol", {"clr": "none", "clr.lr": 5}, "clr=none leaves that part out: clr.lr cannot act: leave it out too"),
        ("sqwa", {"distillation.temperature": 9}, "no setting 'distillation.temperature'"),
        ("uniq", {"one_bit.warmup": 50}, "one_bit cannot act: no weight or activation of W2/A2 has 1 bit"),
        ("uniq", {"one_bit.begin": "float"}, "one_bit cannot act: no weight or activation of W2/A2 has 1 bit"),
        (
            "saq",
            {"sharpness": "none", "sharpness.rho": 3, "sharpness.shard": 4},
            "sharpness=none leaves that part out: sharpness.rho cannot act: leave it out too",
        ),
        (
            "crossed",
            {"averaging": "none", "averaging.num_captures": 99},
            "averaging=none leaves that part out: averaging.num_captures cannot act: leave it out too",
        ),
    ],
)
def test_a_setting_that_once_did_nothing_says_why_it_cannot_act(name, settings, words):
    with pytest.raises(ValueError, match=f"recipe '{name}': {words}"):
        made(name, settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hol", {"lipschitz.weight": 0.01}),
        ("hol", {"clr.lr": 5}),
        ("sqwa", {"pretraining.distillation.temperature": 9}),
        ("uniq", {"weights": 1, "one_bit.warmup": 50}),
        ("uniq", {"weights": 1, "one_bit.begin": "float"}),
        ("saq", {"sharpness.rho": 3, "sharpness.shard": 4}),
        ("crossed", {"averaging.epochs": 1000, "averaging.num_captures": 99}),
    ],
)
def test_and_where_it_can_it_does(name, settings):
    for place in settings.keys() - {"weights"}:
        rest = {key: value for key, value in settings.items() if key != place}
        try:
            without = made(name, rest).stages
        except ValueError:
            continue
        assert made(name, settings).stages != without


# Registration, on a recipe of our own.


@dataclass(frozen=True, kw_only=True, slots=True)
class Warm:
    """A part that has to be told its rate."""

    lr: float
    epochs: int = 1


def staged(*, weights: int = 4, activations: int = 4, name: str = "float", lr: float = 0.1, warm: Warm | None = None,
           unread: int = 0, picky: str = "a") -> tuple[Stage, ...]:  # fmt: skip
    """One or two stages; ``unread`` is not read."""
    {"a": 1, "b": 2}[picky]
    found = [Stage(name=f"{name}-{weights}-{activations}-{picky}", epochs=1, lr=lr)]
    if warm is not None:
        found.append(Stage(name="warm", epochs=warm.epochs, lr=warm.lr))
    return tuple(found)


def registered(**more):
    return Registration(**{"stages": staged, "model": "resnet20", "data": "digits"} | more)


RATES = {"warm.lr": Printed(values={2: 0.2, 4: 0.4})}


def test_a_recipe_is_its_stages_with_network_data_and_what_was_given():
    recipe = registered(model_arguments={"width": 2}).recipe("mine", {"lr": 0.5, "warm": {"lr": 0.3}})
    assert (recipe.name, recipe.model, recipe.data, recipe.model_arguments) == (
        "mine",
        "resnet20",
        "digits",
        {"width": 2},
    )
    assert [stage.lr for stage in recipe.stages] == [0.5, 0.3]
    assert recipe.settings == {"lr": 0.5, "warm": {"lr": 0.3}}


def test_given_lists_are_on_record_as_json_has_them():
    assert made("hol", {"training.milestones": (0.1, 0.2)}).settings == {"training.milestones": [0.1, 0.2]}


def test_arguments_go_on_top_of_the_models_own_and_another_model_has_its_own_alone():
    registration = registered(model_arguments={"width": 2, "shortcut": "B"})
    assert registration.recipe("mine", {}, Network(arguments={"width": 4})).model_arguments == {
        "width": 4, "shortcut": "B",
    }  # fmt: skip
    other = registration.recipe("mine", {}, Network(model="resnet56", arguments={"width": 4}), "cifar10")
    assert (other.model, other.model_arguments, other.data) == ("resnet56", {"width": 4}, "cifar10")
    assert registration.recipe("mine", {}, Network(model="resnet56")).model_arguments == {}


def test_a_registrations_settings_are_in_place_of_the_functions_and_what_is_given_in_place_of_both():
    registration = registered(settings={"lr": 0.2, "warm.lr": 0.3, "warm.epochs": 2})
    assert [(s.lr, s.epochs) for s in registration.recipe("mine", {}).stages] == [(0.2, 1), (0.3, 2)]
    given = registration.recipe("mine", {"lr": 0.9, "warm.epochs": 5}).stages
    assert [(s.lr, s.epochs) for s in given] == [(0.9, 1), (0.3, 5)]
    assert len(registration.recipe("mine", {"warm": "none"}).stages) == 1
    assert registration.recipe("mine", {"warm": "on"}).stages == registration.recipe("mine", {}).stages


def test_fields_of_a_part_that_is_off_wait_until_it_is_on():
    registration = registered(settings={"warm": "none", "warm.lr": 0.3, "warm.epochs": 8})
    assert len(registration.recipe("mine", {}).stages) == 1
    for given, expected in (({"warm": "on"}, (0.3, 8)), ({"warm.epochs": 3}, (0.3, 3)), ({"warm.lr": 0.5}, (0.5, 8))):
        stage = registration.recipe("mine", given).stages[-1]
        assert (stage.lr, stage.epochs) == expected


def test_what_is_printed_goes_by_the_smaller_number_of_bits():
    registration = registered(settings={"warm.epochs": 2}, printed=RATES)
    for bits, lr in (((4, 4), 0.4), ((2, 4), 0.2), ((8, 2), 0.2)):
        stage = registration.recipe("mine", {"weights": bits[0], "activations": bits[1]}).stages[-1]
        assert (stage.lr, stage.epochs) == (lr, 2)
    assert registration.recipe("mine", {"warm.lr": 0.7}).stages[-1].lr == 0.7


@pytest.mark.parametrize(
    ("given", "network"), [({"weights": 3}, Network()), ({"name": "b"}, Network()), ({}, Network(model="resnet56"))]
)
def test_what_is_not_printed_has_to_be_given(given, network):
    printed = {"warm.lr": Printed(values={2: 0.2, 4: 0.4}, only={"name": "a"})}
    registration = registered(settings={"name": "a", "warm.epochs": 2}, printed=printed)
    words = (
        r"recipe 'mine': warm lacks lr: say what it is \(of resnet20 alone the paper prints warm.lr with name=a at 2, 4"
    )
    with pytest.raises(ValueError, match=words):
        registration.recipe("mine", given, network)
    assert registration.recipe("mine", given | {"warm.lr": 0.9}, network).stages[-1].lr == 0.9


def test_a_part_that_is_left_out_has_nothing_printed():
    registration = registered(settings={"warm.epochs": 2}, printed=RATES)
    assert len(registration.recipe("mine", {"warm": "none"}).stages) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"unread": 3},
            r"unread=3 cannot act: the stages are the same without it, and with 4 or 2 in its place: leave",
        ),
        ({"unread": 0}, r"unread=0 cannot act: the stages are the same without it, and with 1 in its place: leave it"),
        ({"weihts": 3}, "no setting 'weihts': did you mean weights"),
        ({"weights": "two"}, "weights='two': expected a whole number"),
        ({"lr": -1}, "stage 'float-4-4-a': lr=-1: expected a positive number"),
        ({"warm": "on"}, "warm lacks lr: say what it is$"),
    ],
)
def test_an_error_names_the_recipe_and_says_why(given, words):
    with pytest.raises(ValueError, match=f"recipe 'mine': {words}"):
        registered().recipe("mine", given)


@pytest.mark.parametrize("given", [{"weights": 4}, {"name": "float"}, {"lr": 0.1}, {"warm": "none"}, {"picky": "a"}])
def test_what_is_the_default_may_be_said(given):
    assert registered().recipe("mine", given).stages == registered().recipe("mine", {}).stages


def test_another_network_is_told_nothing_that_the_paper_prints_for_its_own():
    assert last("faq-resnet18-imagenet").weight_decay == 5e-5
    assert last("faq-resnet18-imagenet", network=NARROW).weight_decay == 5e-5
    assert last("faq-resnet18-imagenet", network=SMALL).weight_decay == 1e-4
