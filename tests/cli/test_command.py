import shlex
from dataclasses import replace

import pytest

from flatbit.cli.command import command_of
from flatbit.engine import Recipe, Stage
from flatbit.engine.record import Environment, Run, RunRecord, read_run
from flatbit.recipes import RECIPES, Network

HERE = Environment(flatbit="0", torch="0", python="0", machine="none", threads=1)


def run_of(recipe, seed=0, **facts):
    record = RunRecord(recipe=recipe, seed=seed, environment=HERE, **{"device": "cpu"} | facts)
    return Run(folder="nowhere", record=record)


def made(name, settings=None, **network):
    return RECIPES.get(name).recipe(name, settings or {}, Network(**network))


def test_the_seeds_of_several_runs_are_one_word():
    recipe = made("quickstart")
    for seeds, words in (([0], ""), ([2], " --seed 2"), ([1, 2, 3], " --seeds 1:4"), ([0, 4], " --seeds 0,4")):
        assert command_of([run_of(recipe, seed) for seed in seeds]) == f"flatbit run quickstart{words}"


def test_settings_network_and_data_are_named_where_they_are_not_the_recipes_own():
    settings = {"weights": 2, "sharpness.rho": 0.2}
    recipe = made("saq-preresnet8-digits", settings, arguments={"first_width": 4})
    expected = "flatbit run saq-preresnet8-digits --model-arg first_width=4 --set weights=2 --set sharpness.rho=0.2"
    assert command_of([run_of(recipe)]) == expected
    recipe = made("float", {"epochs": 2}, model="resnet32", arguments={"num_classes": 7})
    recipe = replace(recipe, data="cifar10", data_arguments={"channels": 1})
    assert command_of([run_of(recipe, device="cuda", precision="bf16")]) == (
        "flatbit run float --model resnet32 --model-arg num_classes=7 --data cifar10 --data-dir DIR "
        "--data-arg channels=1 --set epochs=2 --precision bf16 --device cuda"
    )


def test_the_line_makes_the_run_again(flatbit, tmp_path):
    words = (
        "run uniq-preresnet8-digits --model-arg first_width=4 --set weights=4 --set activations=4 --first-last-bits 8 "
        "--image-bits 8 --smoke --seed 3"
    )
    assert flatbit(*words.split(), "--out", tmp_path / "a").status == 0
    first = read_run(tmp_path / "a")
    line = command_of([first])
    assert line is not None
    assert flatbit(*shlex.split(line)[1:], "--out", tmp_path / "b").status == 0
    again = read_run(tmp_path / "b").record
    assert (again.recipe.stages, again.seed) == (first.record.recipe.stages, 3)
    assert line in (tmp_path / "a" / "report.html").read_text()


@pytest.mark.parametrize("change", [{"epochs": 3}, {"lr": 0.5}])
def test_a_run_that_no_line_makes_has_none(change):
    recipe = made("uniq-preresnet8-digits")
    last = replace(recipe.stages[-1], **change)
    assert command_of([run_of(replace(recipe, stages=(*recipe.stages[:-1], last)))]) is None


def test_a_recipe_of_ones_own_has_none():
    mine = Recipe(name="mine", model="resnet8", data="digits", stages=(Stage(name="float", epochs=0),))
    assert command_of([run_of(mine)]) is None
    assert command_of([run_of(replace(mine, name="float", settings={"no": 1}))]) is None
