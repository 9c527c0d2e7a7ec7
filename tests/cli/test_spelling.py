import re
from pathlib import Path

import pytest
import typer

from flatbit.cli import COMMANDS, app
from flatbit.cli.spelling import BY_VERB, EVERYWHERE, SETTINGS, check_settings, check_spelling
from flatbit.data import DATASETS
from flatbit.recipes import RECIPES
from flatbit.settings import places

OLD = [(verb, option, new) for verb in COMMANDS.names() for option, new in EVERYWHERE.items()]
OLD += [(verb, option, new) for verb, options in BY_VERB.items() for option, new in options.items()]
ELSEWHERE = ("--model", "--data", "--model-arg", "--out")
"""Options that an old setting has become."""


@pytest.mark.parametrize(("verb", "option", "new"), OLD)
@pytest.mark.parametrize("attached", [False, True])
def test_an_old_option_is_refused_and_names_the_new_one(refuses, verb, option, new, attached):
    words = (f"{option}=x",) if attached else (option, "x")
    assert refuses(verb, "something", *words) == f"flatbit: {option} is {new} now"


@pytest.mark.parametrize("verb", COMMANDS.names())
def test_old_names_are_no_options_and_new_names_are(verb):
    command = typer.main.get_command(app()).commands[verb]
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    old = EVERYWHERE | BY_VERB.get(verb, {})
    assert not options & set(old)
    for new in BY_VERB.get(verb, {}).values():
        assert new.split()[0] in options


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("verb", [("run",), ("plot", "schedule")])
def test_an_old_setting_is_refused_and_names_the_new_one(refuses, own, name, verb):
    known = {r: places(RECIPES.get(r).stages) for r in RECIPES.names()}
    for new in SETTINGS[name]:
        having = [r for r in known if name not in known[r] and (new.startswith("--") or new.split("=")[0] in known[r])]
        line = refuses(*verb, having[0], "--set", f"{name}=1")
        assert line.startswith(f"flatbit: --set {name} is ")
        assert new in line


@pytest.mark.parametrize("name", SETTINGS)
def test_what_an_old_setting_has_become_is_there(name):
    """A setting of some recipe, or an option."""
    known = {place for recipe in RECIPES.names() for place in places(RECIPES.get(recipe).stages)}
    for new in SETTINGS[name]:
        first = re.match(r"(--[\w-]+|[\w.]+)", new)[0]
        assert first in known or first in ELSEWHERE, new
        for recipe in re.findall(r"recipe ([\w-]+)", new):
            assert recipe in RECIPES.names()


def test_a_setting_that_the_recipe_has_is_its_own():
    check_settings(["epochs"], ["epochs", "lr"])
    check_settings(["sharpness.rho", "unknown"], [])
    with pytest.raises(ValueError, match=r"--set rho is sharpness\.rho=RHO now"):
        check_settings(["weights", "rho"], ["weights", "sharpness.rho"])


def test_a_place_that_the_recipe_lacks_is_not_named():
    check_settings(["rho"], ["weights"])
    with pytest.raises(ValueError, match=r"^--set temperature is pretraining\.distillation\.temperature=T now$"):
        check_settings(["temperature"], places(RECIPES.get("sqwa").stages))


@pytest.mark.parametrize(("setting", "option"), [("weights=2", "-w 2"), ("activations=3", "-a 3")])
@pytest.mark.parametrize("attached", [False, True])
def test_bits_of_a_verb_that_takes_no_settings_are_options(refuses, setting, option, attached):
    words = (f"--set={setting}",) if attached else ("--set", setting)
    for verb in ("quantize", "cost"):
        assert refuses(verb, "resnet8", *words) == f"flatbit: --set {setting} is {option} now"


def test_a_method_is_an_option_of_search_alone(refuses):
    check_spelling(["search", "resnet20", "--method", "samq"])
    for verb in ("quantize", "cost"):
        assert refuses(verb, "resnet8", "--method", "uniq") == "flatbit: --method is --policy NAME now"


@pytest.mark.parametrize("words", [("--data", "pictures"), ("--data=pictures",)])
@pytest.mark.parametrize("verb", ["run", "eval", "quantize", "analyze"])
def test_a_folder_is_no_data_set(refuses, own, verb, words):
    Path("pictures").mkdir(exist_ok=True)
    line = refuses(verb, "something", *words)
    assert line == "flatbit: --data pictures: it names a data set now; the folder of its files is --data-dir pictures"


def test_a_data_set_keeps_its_name_beside_a_folder_of_that_name(own):
    Path("cifar10").mkdir()
    assert "cifar10" in DATASETS.names()
    check_spelling(["eval", "m.safetensors", "--data", "cifar10", "--data-dir", "cifar10"])


def test_new_spellings_pass():
    check_spelling([])
    check_spelling(["run", "faq", "--set", "weights=2", "--checkpoint", "w.pth", "--policy", "uniq", "--data"])
    check_spelling(["cost", "resnet20", "-w", "2", "--weight-bits=3", "--data-dir", "."])
