import inspect

import pytest

from flatbit.recipes import RECIPES
from flatbit.train.recipe import Recipe
from flatbit.train.run import plain, read_run, run

SMALL = {"model": "preresnet8", "model_arguments": {"first_width": 4}, "float_schedule": "digits"}


def smallest(name):
    """The recipe with the least that makes it small: a little network, on digits."""
    function = RECIPES.get(name)
    known = inspect.signature(function).parameters
    return function(**{key: value for key, value in SMALL.items() if key in known})


def test_the_recipes_of_the_design_are_there():
    agreed = {"quickstart", "faq", "uniq", "finetune", "faq-preresnet8-digits", "uniq-preresnet8-digits"}
    assert agreed <= set(RECIPES.names())


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_smokes(name, tmp_path):
    recipe = smallest(name)
    done = run(recipe, tmp_path, smoke=True)
    assert [*done.record["stages"]] == [stage.name for stage in recipe.stages]
    assert read_run(tmp_path).record == plain(done.record)
    for stage in recipe.stages:
        convention = done.record["stages"][stage.name]["test"]["convention"]
        assert convention["policy"] == ("float" if stage.policy is None else stage.policy.name)


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_is_named_as_it_is_registered_and_says_what_it_does(name):
    assert isinstance(smallest(name), Recipe)
    assert smallest(name).name == name
    function = RECIPES.get(name)
    assert inspect.getdoc(getattr(function, "func", function))


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown recipe 'quikstart': did you mean quickstart"):
        RECIPES.get("quikstart")
