import re

import pytest

from flatbit.cli.choice import recipe_of
from flatbit.recipes import RECIPES, Network
from flatbit.train.sharpness import Sharpness

RECIPE = """
from __future__ import annotations
from flatbit.engine.recipe import Recipe, Stage
from flatbit.train.sharpness import Sharpness

def recipe(*, epochs: int = 1, lr=0.1, note=None, sharpness: Sharpness | None = None, shares: tuple[float, ...] = ()):
    stage = Stage(name="float" if note is None else "noted", epochs=epochs, lr=lr, sharpness=sharpness,
                  reestimate_batches=len(shares))
    return Recipe(
        name="mine", model="resnet8", model_arguments={"width": 2}, data="digits", data_arguments={"channels": 3},
        stages=(stage,), settings={"note": str(note), "shares": list(shares)},
    )
"""


@pytest.fixture
def mine(own):
    return f"{own(RECIPE)}.py"


def test_a_name_is_that_of_a_registration():
    made = recipe_of("uniq-preresnet8-digits", {"weights": 1, "training.epochs": 8})
    assert made == RECIPES.get("uniq-preresnet8-digits").recipe(
        "uniq-preresnet8-digits", {"weights": 1, "training.epochs": 8}
    )
    assert made.settings == {"weights": 1, "training.epochs": 8}


def test_another_network_has_its_own_arguments_alone():
    name = "hol-preresnet8-digits"
    assert recipe_of(name, {}).model_arguments == {"variant": "hol"}
    more = recipe_of(name, {}, Network(arguments={"width": 2}))
    assert (more.model, more.model_arguments) == ("preresnet8", {"variant": "hol", "width": 2})
    other = recipe_of(name, {}, Network(model="resnet20", arguments={"shortcut": "B"}), "cifar10")
    assert (other.model, other.model_arguments, other.data) == ("resnet20", {"shortcut": "B"}, "cifar10")


def test_the_function_of_a_file_takes_settings_by_place_typed_or_not(mine):
    given = {"epochs": 2, "lr": 0.5, "note": [1, {"a": 2}], "shares": [0.5, 1]}
    made = recipe_of(mine, given)
    assert (made.stages[0].epochs, made.name, made.model_arguments) == (2, "mine", {"width": 2})
    assert made.settings == {"epochs": 2, "lr": 0.5, "note": [1, {"a": 2}], "shares": [0.5, 1]}
    assert recipe_of(mine, {}).settings == {"note": "None", "shares": []}
    sharp = recipe_of(mine, {"epochs": 2, "sharpness.method": "sam", "sharpness.rho": 0.1}).stages[0]
    assert sharp.sharpness == Sharpness(method="sam", rho=0.1)
    assert sharp.lr == 0.1
    assert recipe_of(mine, {"epochs": 1, "sharpness": "none"}).stages[0].sharpness is None


def test_a_file_has_its_network_and_data_replaced_with_their_arguments(mine):
    same = recipe_of(mine, {}, Network(arguments={"shortcut": "B"}), "digits")
    assert (same.model_arguments, same.data_arguments) == ({"width": 2, "shortcut": "B"}, {"channels": 3})
    other = recipe_of(mine, {}, Network(model="preresnet8", arguments={"variant": "saq"}), "cifar10")
    assert (other.model, other.model_arguments) == ("preresnet8", {"variant": "saq"})
    assert (other.data, other.data_arguments) == ("cifar10", {})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epoch": 1}, "no setting 'epoch': did you mean epochs"),
        ({"epochs": "many"}, "epochs='many': expected a whole number"),
        ({"epochs": True}, "epochs=True: expected a whole number"),
        ({"epochs.rho": 1}, "epochs has no settings of its own, such as 'rho'"),
        ({"shares": 1}, "shares=1: expected a list"),
        ({"sharpness": "sam"}, "sharpness='sam': it is a part with settings of its own: sharpness=on, sharpness=none"),
        ({"sharpness.rho": 1}, "sharpness lacks method: say what it is"),
        ({"sharpness.roh": 1}, "no setting 'sharpness.roh': did you mean rho"),
        ({"sharpness": "none", "sharpness.rho": 1}, "sharpness=none leaves that part out: sharpness.rho cannot act"),
    ],
)
def test_settings_of_a_file_are_held_to_their_types(mine, given, says):
    with pytest.raises(ValueError, match=rf"^recipe '{mine}': ") as caught:
        recipe_of(mine, given)
    assert says in str(caught.value)


def test_a_setting_of_a_file_that_could_not_act_is_refused(own):
    file = f"{own(RECIPE.replace('(*,', '(*, unread: int = 3, untyped=2,'))}.py"
    for given in ({"unread": 3}, {"unread": 4}, {"untyped": 2}):
        with pytest.raises(
            ValueError, match=rf"^recipe '{file}': un\w+=\d cannot act: the stages are the same without"
        ):
            recipe_of(file, given)
    for given in ({"epochs": 1}, {"lr": 0.1}, {"sharpness": "none"}):  # defaults, said aloud
        assert recipe_of(file, given).stages == recipe_of(file, {}).stages


def test_a_setting_without_default_has_to_be_given(own):
    file = f"{own('def recipe(*, epochs, lr: float, seed=0, **more): ...')}.py"
    with pytest.raises(ValueError, match=rf"^recipe '{file}' needs epochs, lr: give --set epochs=VALUE$"):
        recipe_of(file, {})
    with pytest.raises(ValueError, match="needs lr: give --set lr=VALUE"):
        recipe_of(file, {"epochs": 1})


def test_a_file_that_is_none_or_holds_none(own):
    with pytest.raises(ValueError, match=r"^no such recipe file: gone\.py$"):
        recipe_of("gone.py", {})
    file = f"{own('x = 1')}.py"
    with pytest.raises(ValueError, match=rf"{file} has no function called recipe.*--plugin {file}"):
        recipe_of(file, {})
    with pytest.raises(ValueError, match=r"returned int: expected a flatbit\.engine\.Recipe"):
        recipe_of(f"{own('def recipe(): return 3')}.py", {})
    broken = f"{own('import no_such_module')}.py"
    with pytest.raises(ValueError, match=rf"{broken}, line 1: ModuleNotFoundError"):
        recipe_of(broken, {})


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("quikstart", {}, "unknown recipe 'quikstart': did you mean quickstart"),
        ("quickstart", {"epoch": 1}, "recipe 'quickstart': no setting 'epoch': did you mean epochs"),
        ("faq", {"growth": "doubling"}, "--set growth is training.accumulation=doubling now"),
        ("hol", {"clr": "none", "clr.epochs": 5}, "clr=none leaves that part out: clr.epochs cannot act"),
    ],
)
def test_mistakes_of_a_name(name, given, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        recipe_of(name, given)
