import json

import pytest

from flatbit.cli.verbs.run import make_recipe
from flatbit.engine.run import read_run

DIGITS = ("uniq-preresnet8-digits", "--set", 'model_arguments={"first_width": 2}', "--smoke")
RECIPE = """
from flatbit.engine.recipe import Recipe, Stage

def recipe(*, epochs=1, lr=0.1):
    arguments = {"width": 4, "depth": 2, "in_features": 64}
    stages = (Stage(name="float", epochs=epochs, lr=lr),)
    return Recipe(name="mine", model="fcdnn", model_arguments=arguments, data="digits", stages=stages)
"""


@pytest.fixture(scope="module")
def finished(flatbit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, flatbit("run", *DIGITS, "--set", "weights=1", "--seed", 2, "--out", folder, "--json")


def test_only_the_result_is_on_standard_output(finished):
    folder, result = finished
    rows = json.loads(result.out)
    record = read_run(folder).record
    assert result.status == 0
    assert [row["stage"] for row in rows] == ["float", "uniq-w2a2", "uniq-w1a2"] == list(record["stages"])
    assert rows[2]["score"] == record["stages"]["uniq-w1a2"]["test"]["top1"]


def test_progress_is_on_standard_error(finished):
    folder, result = finished
    lines = result.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["float", "uniq-w2a2", "uniq-w1a2", "run"]
    assert lines[-1] == f"run: {folder}  report: {folder / 'report.html'}"


def test_the_folder_holds_record_model_and_report(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {"run.json", "model.safetensors", "stages", "report.html"}
    record = read_run(folder).record
    assert record["seed"] == 2
    assert record["recipe"]["parameters"] == {"weights": 1, "model_arguments": {"first_width": 2}}


def test_a_run_that_exists_is_gone_on_with_only_if_asked(flatbit, refuses, finished, no_page):
    folder, first = finished
    again = ("run", *DIGITS, "--set", "weights=1", "--seed", 2, "--out", folder)
    assert "holds a run already: --resume goes on with it" in refuses(*again)
    result = flatbit(*again, "--resume", "--json")
    assert (result.status, result.out) == (0, first.out)
    assert len(result.err.splitlines()) == 1  # no stage was run again
    assert "holds another run" in refuses(*again, "--resume", "--set", "activations=1")


def test_a_recipe_in_a_file_of_the_users(flatbit, own):
    file = f"{own(RECIPE)}.py"
    result = flatbit("run", file, "--set", "epochs=0", "--seed", 3)
    assert result.status == 0
    assert "mine, seed 3" in result.out
    assert read_run("runs/mine/seed3").record["recipe"]["parameters"] == {"epochs": 0}


def test_settings_reach_the_recipe():
    made = make_recipe("quickstart", {"epochs": 3})
    assert made.parameters == {"epochs": 3}
    assert made.stages[0].epochs == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("quikstart",), "unknown recipe 'quikstart': did you mean quickstart"),
        (("gone.py",), "no such recipe file: gone.py"),
        (("quickstart", "--set", "epoch=1"), "recipe 'quickstart' has no parameter 'epoch': did you mean epochs"),
        (("quickstart", "--set", "epochs"), "--set 'epochs': expected NAME=VALUE"),
        (("quickstart", "--set", "epochs=many"), "epochs='many': expected 0 or more"),
        (("faq", "--set", "epochs=many"), "recipe 'faq' with {'epochs': 'many'}"),
        (("faq", "--set", "weights=many"), "recipe 'faq' with {'weights': 'many'}"),
        (("faq", "--set", "schedule=step"), "schedule='step': expected exponential or steps"),
        (("finetune",), "missing 1 required keyword-only argument: 'model'"),
        (("finetune", "--set", "model=resnet21"), "unknown model 'resnet21': did you mean"),
        (("finetune", "--set", "model=resnet8", "--set", "data=digit"), "unknown data set 'digit': did you mean"),
        (("quickstart", "--device", "banana"), "--device banana"),
        (("quickstart", "--weights", "gone.safetensors"), "no such file: gone.safetensors"),
    ],
)
def test_mistakes_are_one_line(refuses, own, arguments, says):
    assert says in refuses("run", *arguments)


@pytest.mark.parametrize(
    ("text", "says"),
    [("x = 1", "has no function called recipe"), ("def recipe():\n    return 3", "returned int: expected a flatbit")],
)
def test_a_file_without_a_recipe_is_one_line(refuses, own, text, says):
    assert says in refuses("run", f"{own(text)}.py")


def test_a_negative_seed_is_refused(flatbit, own):
    result = flatbit("run", "quickstart", "--seed", "-1")
    assert (result.status, result.out) == (2, "")
    assert "--seed" in result.err


def test_divergence_is_one_line_and_status_one(flatbit, own):
    result = flatbit("run", f"{own(RECIPE)}.py", "--set", "lr=1e38")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("flatbit: stage 'float': the loss is not finite")
    assert result.err.count("\n") == 1


def test_a_recipes_own_data_arguments_are_kept(flatbit, own):
    module = own(
        "from flatbit.engine.recipe import Recipe, Stage\n"
        "def recipe():\n"
        "    return Recipe(name='mine', model='resnet8', model_arguments={'first_width': 2}, data='digits',\n"
        "                  data_arguments={'channels': 3}, stages=(Stage(name='float', epochs=0, lr=0.1),))\n"
    )
    assert flatbit("run", f"{module}.py", "--out", "kept").status == 0
    assert read_run("kept").record["recipe"]["data_arguments"] == {"channels": 3}
