import json
import statistics
from pathlib import Path

import pytest

import flatbit as fb
from flatbit.engine.record import read_run
from flatbit.engine.way import EAGER, Way
from flatbit.recipes import RECIPES

SMALL = ("uniq-preresnet8-digits", "--model-arg", "first_width=2", "--smoke")
RECIPE = """
from flatbit.engine.recipe import Recipe, Stage

def recipe(*, epochs: int = 1, lr=0.1, note=None):
    arguments = {"width": 4, "depth": 2, "in_features": 64}
    stages = (Stage(name="float", epochs=epochs, lr=lr if epochs else None),)
    return Recipe(name="mine", model="fcdnn", model_arguments=arguments, data="digits", stages=stages)
"""
TINY = ("--set", "training.batch_size=16")
OLD = {
    "recipe": {"name": "uniq-preresnet8-digits", "stages": [{"name": "float", "policy": None, "epochs": 1}]},
    "seed": 0,
    "device": "cpu",
    "stages": {},
}
"""What a run of the first format left."""


@pytest.fixture(scope="module")
def finished(flatbit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, flatbit("run", *SMALL, "--set", "weights=1", "--seed", 2, "--out", folder, "--json")


def test_only_the_result_is_on_standard_output(finished):
    folder, result = finished
    rows = json.loads(result.out)
    record = read_run(folder).record
    assert result.status == 0
    assert [row["stage"] for row in rows] == ["float", "uniq-w2a2", "uniq-w1a2"] == list(record.stages)
    assert rows[2]["score"] == record.stages["uniq-w1a2"].test.top1


def test_progress_is_on_standard_error(finished):
    folder, result = finished
    lines = result.err.splitlines()
    assert [*dict.fromkeys(line.split(":")[0] for line in lines)] == ["float", "uniq-w2a2", "uniq-w1a2", "run"]
    assert lines[-1] == f"run: {folder}  report: {folder / 'report.html'}"


def test_the_folder_holds_record_model_and_report(finished):
    folder, _ = finished
    written = {"run.json", "model.safetensors", "stages", "report.html", "epochs.csv"}
    assert {path.name for path in folder.iterdir()} == written
    record = read_run(folder).record
    assert (record.seed, record.recipe.settings) == (2, {"weights": 1})
    assert record.recipe.model_arguments == {"first_width": 2}


def test_a_run_that_exists_is_gone_on_with_only_if_asked(flatbit, refuses, finished, no_page):
    folder, first = finished
    again = ("run", *SMALL, "--set", "weights=1", "--seed", 2, "--out", folder)
    assert "holds a run already: --resume goes on with it" in refuses(*again)
    result = flatbit(*again, "--resume", "--json")
    assert (result.status, result.out) == (0, first.out)
    assert [line.rpartition(": ")[2] for line in result.err.splitlines()] == [
        "float, uniq-w2a2, uniq-w1a2", str(folder / "report.html"),
    ]  # fmt: skip  # no stage was run again
    assert "holds another run" in refuses(*again, "--resume", "--set", "activations=1")


@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_a_folder_that_holds_a_run_is_refused_before_anything_is_timed(refuses, finished, monkeypatch, options):
    def timed(*arguments, **settings):
        raise AssertionError

    monkeypatch.setattr("flatbit.engine.planning.estimate", timed)
    folder, _ = finished
    refuses("run", "uniq-preresnet8-digits", "--out", folder, *options)


@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_an_unfinished_run_of_the_first_format_is_refused_in_one_line(refuses, own, options):
    folder = Path("old")
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(OLD))
    line = refuses("run", *SMALL, "--out", folder, *options)
    assert line == (
        "flatbit: old/run.json: a record of format 1, written by an older version: this version reads 2: "
        "start the run anew with another --out"
    )
    assert json.loads((folder / "run.json").read_text()) == OLD


# --seeds


SEEDS = (*SMALL, "--seeds")
ONE_FAILS = """
import torch
from torch import nn
from flatbit.engine.recipe import Recipe, Stage

def net():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    if torch.initial_seed() == 1:
        nn.init.constant_(model[1].bias, float("nan"))
    return model

def recipe():
    stages = (Stage(name="float", epochs=1, lr=0.1),)
    return Recipe(name="mine", model=f"{__name__}:net", data="digits", stages=stages)
"""


@pytest.fixture(scope="module")
def several(flatbit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds") / "runs"
    return folder, flatbit("run", *SEEDS, "0:3", "--out", folder, "--json")


def test_several_seeds_are_runs_of_their_own_and_one_table(several):
    folder, result = several
    rows = json.loads(result.out)
    assert result.status == 0
    assert {path.name for path in folder.iterdir()} == {"seed0", "seed1", "seed2", "report.html"}
    records = [read_run(folder / f"seed{seed}").record for seed in range(3)]
    assert [record.seed for record in records] == [0, 1, 2]
    for row, name in zip(rows, ("float", "uniq-w2a2"), strict=True):
        scores = [record.stages[name].score for record in records]
        assert (row["stage"], row["num_seeds"]) == (name, 3)
        assert (row["score"], row["spread"]) == (statistics.mean(scores), statistics.stdev(scores))
        assert {record.stages[name].way for record in records} == {Way(stacked=3)}


def test_what_each_seed_does_is_on_standard_error(several):
    folder, result = several
    lines = result.err.splitlines()
    assert [line for line in lines if not line.startswith("seed ")] == [
        "float: 3 seeds stacked", "uniq-w2a2: 3 seeds stacked", f"run: {folder}  report: {folder / 'report.html'}",
    ]  # fmt: skip
    assert sum(line.startswith("seed 2: ") and "% after" in line for line in lines) == 2


def test_several_seeds_go_on_only_if_asked_and_more_may_join(flatbit, refuses, several, no_page):
    folder, first = several
    assert "seed0 holds a run already" in refuses("run", *SEEDS, "0:3", "--out", folder)
    result = flatbit("run", *SEEDS, "3", "--out", folder, "--resume", "--json")
    assert (result.status, result.out) == (0, first.out)
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == ["seed 0", "seed 1", "seed 2", "run"]
    result = flatbit("run", *SEEDS, "2,4", "--out", folder, "--resume")
    assert "seeds 2, 4" in result.out
    assert (folder / "seed4" / "model.safetensors").is_file()


def test_a_seed_of_several_is_where_it_would_be_alone(flatbit, refuses, own, no_page):
    assert flatbit("run", *SEEDS, "0:2", "--engine", "eager").status == 0
    folder = Path("runs/uniq-preresnet8-digits/seed1")
    assert read_run(folder).record.stages["float"].way == EAGER
    assert f"{folder} holds a run already" in refuses("run", *SMALL, "--seed", 1)


def test_the_table_is_of_the_seeds_that_came_through(flatbit, own, no_page):
    result = flatbit("run", f"{own(ONE_FAILS)}.py", "--seeds", "0,1,4", "--no-timing")
    assert result.status == 1
    assert "mine, seeds 0, 4" in result.out
    assert "over 2 seeds" in " ".join(result.out.split())
    assert "seed 1: stage 'float': the loss is not finite" in result.err
    failed = Path("runs/mine/seed1")
    assert result.err.splitlines()[-1] == (
        f"flatbit: seed 1 of 3 failed, as is said above; `flatbit doctor {failed}` explains"
    )
    assert read_run(failed).record.failure is not None


def test_where_no_seed_comes_through_there_is_no_table(flatbit, own):
    result = flatbit("run", f"{own(RECIPE)}.py", "--set", "lr=1e38", "--no-timing", "--seeds", "0:2")
    assert (result.status, result.out) == (1, "")
    assert "seeds 0, 1 of 2 failed" in result.err


def test_a_dry_run_of_several_names_them(flatbit, own):
    result = flatbit("run", *SEEDS, "1:4", "--dry-run", "--json")
    planned = json.loads(result.out)
    assert (planned["seeds"], "seed" in planned) == ([1, 2, 3], False)
    assert result.err == "this 3 times, seeds 1 to 3: what it takes one after another; less where stacked\n"
    assert not list(Path().iterdir())


@pytest.mark.parametrize("how", [("--seeds", "0:2", "--seed", "0"), ("--seed", "3", "--seeds", "3")])
def test_one_seed_and_several_is_an_error(refuses, own, how):
    assert refuses("run", *SMALL, *how) == "flatbit: --seed with --seeds cannot act: leave one out"


@pytest.mark.parametrize("text", ["0", "-2", "3:1", "2:2", "1,1", "0,-1", "a", "0:b", "1,", ":3", "1:2:3"])
def test_seeds_that_are_none_are_one_line(refuses, own, text):
    assert f"--seeds {text}: expected at least 1, each once, from 0 on: a number as 3, " in refuses(
        "run", *SMALL, "--seeds", text
    )


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (("--engine", "stacked"), "engine stacked trains several seeds as one: give --seeds, or take eager"),
        (("--engine", "stacked", "--compile", "--seeds", "2"), "--compile with --engine stacked cannot act"),
        (("--engine", "stack", "--seeds", "2"), "engine 'stack': did you mean stacked"),
    ],
)
def test_the_stack_is_for_several_seeds(refuses, own, how, says):
    assert says in refuses("run", *SMALL, *how)


# --set, --model, --data, --checkpoint


def test_a_recipe_in_a_file_of_the_users(flatbit, own):
    file = f"{own(RECIPE)}.py"
    result = flatbit("run", file, "--set", "epochs=0", "--set", "note=[1, 2]", "--seed", 3)
    assert result.status == 0
    assert "mine, seed 3" in result.out
    record = read_run("runs/mine/seed3").record
    assert record.recipe.settings == {"epochs": 0, "note": [1, 2]}
    assert record.recipe.stages[0].epochs == 0


def test_settings_reach_parts_of_a_recipe(flatbit, own):
    words = (
        "saq-preresnet8-digits",
        "--set",
        "sharpness.method=sam",
        "--set",
        "sharpness.rho=.1",
        "--set",
        "weights=2",
    )
    result = flatbit("run", *words, "--model-arg", "first_width=2", "--smoke", "--out", "done")
    assert result.status == 0
    stage = read_run("done").record.recipe.stages[-1]
    assert (stage.sharpness.method, stage.sharpness.rho, stage.policy.base.weights) == ("sam", 0.1, 2)


def test_another_network_on_other_data(flatbit, own, no_page):
    words = ("--model", "fcdnn", "--model-arg", "width=4", "--data", "spirals", "--data-arg", "seed=3")
    result = flatbit("run", "float", *words, "--set", "schedule=digits", "--smoke", "--out", "done")
    assert result.status == 0, result.err
    recipe = read_run("done").record.recipe
    assert (recipe.model, recipe.model_arguments) == ("fcdnn", {"width": 4})
    assert (recipe.data, recipe.data_arguments) == ("spirals", {"seed": 3})


def test_a_recipes_own_data_arguments_are_kept(flatbit, own, no_page):
    module = own(
        "from flatbit.engine.recipe import Recipe, Stage\n"
        "def recipe():\n"
        "    return Recipe(name='mine', model='resnet8', model_arguments={'first_width': 2}, data='digits',\n"
        "                  data_arguments={'channels': 3}, stages=(Stage(name='float', epochs=0),))\n"
    )
    assert flatbit("run", f"{module}.py", "--out", "kept").status == 0
    assert read_run("kept").record.recipe.data_arguments == {"channels": 3}


def test_it_starts_from_a_checkpoint_with_layers_renamed(flatbit, own, no_page):
    model = fb.models.build("preresnet8", in_channels=1, first_width=2)
    fb.save(model, "float.safetensors")
    words = (*SMALL, "--set", "pretraining=none", "--checkpoint", "float.safetensors", "--rename", "conv1=conv1")
    result = flatbit("run", *words, "--out", "done")
    assert result.status == 0, result.err
    assert "float.safetensors: float top-1" in result.err
    record = read_run("done").record
    assert record.checkpoint.file == "float.safetensors"
    assert record.stages["float"].test.top1 == record.checkpoint.test.top1


def test_files_of_the_data_set_are_looked_for_in_its_folder(flatbit, own):
    result = flatbit("run", "hol-resnet20-cifar10", "--data-dir", "nowhere")
    assert (result.status, result.out) == (2, "")
    assert "flatbit: " in result.err
    assert "nowhere" in result.err


# --dry-run


def dry(flatbit, *words):
    result = flatbit("run", *words, "--dry-run", "--json")
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_a_dry_run_prints_the_plan_and_leaves_nothing(flatbit, own):
    result = flatbit("run", "uniq-preresnet8-digits", "--set", "weights=1", "--dry-run", "--no-timing")
    assert (result.status, result.err) == (0, "")
    assert not list(Path().iterdir())
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.out.splitlines() if "│" in line]
    assert [row[:5] for row in rows] == [
        ["float", "start", "float", "20", "420"],
        ["uniq-w2a2", "stage:float", "W2/A2", "20", "420"],
        ["uniq-w1a2", "stage:uniq-w2a2", "W1/A2", "20", "420"],
    ]
    assert [row[-1] for row in rows] == ["-"] * 3


def test_its_numbers_are_those_of_the_run(flatbit, own, no_page):
    words = (*SMALL, "--set", "weights=1")
    planned = dry(flatbit, *words, "--no-timing")
    assert not list(Path().iterdir())
    assert (planned["recipe"], planned["data"], planned["seconds"]) == ("uniq-preresnet8-digits", "digits", None)
    assert flatbit("run", *words, "--out", "done").status == 0
    stages = read_run("done").record.stages
    assert [stage["name"] for stage in planned["stages"]] == list(stages)
    for stage in planned["stages"]:
        cost = stages[stage["name"]].cost
        assert (stage["bitops"], stage["bytes"], stage["updates"]) == (cost.bitops, cost.size_bytes, 2)


@pytest.mark.parametrize("options", [("--timing",), ()])
def test_its_time_is_estimated_unless_left_out(flatbit, own, options):
    planned = dry(flatbit, *SMALL[:-1], *TINY, *options)
    times = [stage["seconds"] for stage in planned["stages"]]
    assert all(seconds > 0 for seconds in times)
    assert planned["seconds"] == pytest.approx(sum(times))
    out = flatbit("run", *SMALL[:-1], *TINY, *options, "--dry-run").out
    assert out.splitlines()[-1].strip().startswith("about ")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("options", [("--out", "there"), ("--resume",)])
def test_a_dry_run_refuses_what_it_cannot_act_on(refuses, own, options):
    assert refuses("run", *SMALL, *options, "--dry-run") == (
        f"flatbit: {options[0]} with --dry-run cannot act: nothing is run: leave it out"
    )
    assert not list(Path().iterdir())


def test_a_smoke_run_is_timed_where_that_is_asked_for_alone(flatbit, own):
    assert dry(flatbit, *SMALL)["seconds"] is None
    assert dry(flatbit, *SMALL, "--timing")["seconds"] > 0


def test_its_notes_are_on_standard_error_and_in_the_json(flatbit, own):
    module = own("from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten())\n")
    words = ("run", "finetune", "--model", f"{module}:net", "--set", "training.epochs=0", "--dry-run", "--no-timing")
    result = flatbit(*words, "--json")
    note = f"{module}:net takes images of 3 channels: the grey ones of digits are repeated"
    assert result.err == f"{note}\n"
    assert json.loads(result.out)["notes"] == [note]


def test_a_real_run_says_how_long_it_will_take_unless_told_not_to(flatbit, own, no_page):
    file = f"{own(RECIPE)}.py"
    first = flatbit("run", file, "--out", "a").err.splitlines()[0]
    assert first.startswith("mine: about ")
    assert first.endswith(" s")
    assert "about" not in flatbit("run", file, "--no-timing", "--out", "b").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("quikstart",), "unknown recipe 'quikstart': did you mean quickstart"),
        (("gone.py",), "no such recipe file: gone.py"),
        (("quickstart", "--set", "epoch=1"), "recipe 'quickstart': no setting 'epoch': did you mean epochs"),
        (("quickstart", "--set", "epochs"), "--set 'epochs': expected NAME=VALUE"),
        (("quickstart", "--set", "epochs=1", "--set", "epochs=2"), "--set epochs comes twice, '1' and '2'"),
        (("quickstart", "--set", "epochs=many"), "epochs='many': expected a whole number"),
        (("quickstart", "--set", "epochs=-1"), "epochs=-1: expected 0 or more"),
        (("faq", "--set", "training.epochs=many"), "training.epochs='many': expected a whole number"),
        (("faq", "--set", "weights=many"), "recipe 'faq': weights='many': expected a whole number"),
        (("faq", "--set", "training.schedule=step"), "training.schedule='step': expected exponential or steps"),
        (("hol", "--set", "lipschitz=0.01"), "lipschitz=0.01: it is a part with settings of its own: lipschitz=on"),
        (("saq", "--set", "sharpness=none", "--set", "sharpness.rho=3"), "sharpness.rho cannot act"),
        (("finetune", "--model", "resnet21"), "unknown model 'resnet21': did you mean"),
        (("finetune", "--model-arg", "wdith=2"), "has no argument 'wdith': did you mean width"),
        (("finetune", "--model-arg", "width"), "--model-arg 'width': expected NAME=VALUE"),
        (("finetune", "--data", "digit"), "unknown data set 'digit': did you mean digits"),
        (("finetune", "--data-arg", "size"), "--data-arg 'size': expected NAME=VALUE"),
        (("finetune", "--set", "policy=sqwa"), "activations: --set activations=32 leaves them in float"),
        (("sqwa", "--set", "temperature=9"), "--set temperature is pretraining.distillation.temperature=T now"),
        (("finetune", "--data-dir", "."), "data set 'digits' has no files: root= (--data-dir) cannot act: leave it"),
        (("quickstart", "--device", "banana"), "--device banana"),
        (("quickstart", "--checkpoint", "gone.safetensors"), "no such file: gone.safetensors"),
        (("quickstart", "--rename", "a=b"), "--rename without --checkpoint cannot act"),
        (("quickstart", "--checkpoint", "gone", "--rename", "a"), "--rename 'a': expected OLD=NEW"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_mistakes_are_one_line(refuses, own, arguments, says, dry_run):
    assert says in refuses("run", *arguments, *(["--dry-run"] * dry_run))
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [("x = 1", "has no function called recipe"), ("def recipe():\n    return 3", "returned int: expected a flatbit"),
     ("def recipe(*, epochs): ...", "needs epochs: give --set epochs=VALUE"), ("import no_such_module", "line 1")],
)  # fmt: skip
def test_a_file_without_a_recipe_is_one_line(refuses, own, text, says):
    assert says in refuses("run", f"{own(text)}.py")


def test_a_negative_seed_is_refused(flatbit, own):
    result = flatbit("run", "quickstart", "--seed", "-1")
    assert (result.status, result.out) == (2, "")
    assert "--seed" in result.err


def test_divergence_is_one_line_and_status_one(flatbit, own):
    result = flatbit("run", f"{own(RECIPE)}.py", "--set", "lr=1e38", "--no-timing")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("flatbit: stage 'float': the loss is not finite")
    assert result.err.count("\n") == 1


def test_every_recipe_of_small_data_is_planned(flatbit, own):
    for name in [name for name in RECIPES.names() if RECIPES.get(name).data in ("digits", "spirals")]:
        assert dry(flatbit, name, "--no-timing")["stages"], name
