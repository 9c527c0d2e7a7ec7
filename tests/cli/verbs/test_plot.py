import json
from pathlib import Path

import pytest

from flatbit.cli.verbs.plot import PLOTS, Kind
from flatbit.recipes import RECIPES

RECIPE = """
from flatbit.engine.recipe import Recipe, Stage
from flatbit.train.schedules import Cyclic

def recipe(*, epochs: int = 18):
    cycles = Cyclic.of(0.01)
    captures = tuple(int(epoch) for epoch in cycles.minima(epochs))
    stages = (
        Stage(name="direct", epochs=0),
        Stage(name="retrain", epochs=epochs, lr=0.01, schedule=cycles, captures=captures, batch_size=64)
        if epochs
        else Stage(name="retrain", epochs=0),
    )
    return Recipe(name="mine", model="resnet8", data="digits", stages=stages)
"""


def test_the_example_of_the_help(flatbit, own):
    result = flatbit("plot", "schedule", "faq", "--set", "training.accumulation=doubling", "--out", "schedule.svg")
    assert (result.status, result.err) == (0, "figure: schedule.svg\n")
    assert Path("schedule.svg").read_text().startswith("<svg")
    (row,) = [line for line in result.out.splitlines() if "faq-w4a4" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["faq-w4a4", "165", "0.0015", "1.045e-06", "256, 512 from 55, 1024 from 150, 2048 from 160", "-"]


def test_a_file_of_the_users_as_json(flatbit, own):
    result = flatbit("plot", "schedule", f"{own(RECIPE)}.py", "--json")
    figure = Path("runs/mine-schedule.png")
    assert (result.status, result.err) == (0, f"figure: {figure}\n")
    assert figure.read_bytes().startswith(b"\x89PNG")
    found = json.loads(result.out)
    assert (found["recipe"], found["figure"]) == ("mine", str(figure))
    direct, retrain = found["stages"]
    assert (direct["first_lr"], direct["last_lr"], direct["samples_per_update"]) == (None, None, [])
    assert (retrain["first_lr"], retrain["last_lr"]) == pytest.approx((0.01, 0.01 * 0.01 ** (1 / 3)))
    assert (retrain["epochs"], retrain["captures"]) == (18, [4, 10, 16])
    assert retrain["samples_per_update"] == [{"from_epoch": 0, "samples": 64}]


def test_many_captures_are_counted(flatbit, own):
    result = flatbit("plot", "schedule", f"{own(RECIPE)}.py", "--set", "epochs=250", "--out", "figures/mine.png")
    assert "4, 10, ..., 250 (42)" in result.out
    assert Path("figures/mine.png").is_file()


def test_drawing_again_replaces_the_figure(flatbit, own):
    name = own(RECIPE)
    for epochs in (6, 12):
        assert flatbit("plot", "schedule", f"{name}.py", "--set", f"epochs={epochs}", "--out", "a.svg").status == 0
    assert [path.name for path in Path().iterdir()] in ([f"{name}.py", "a.svg"], ["a.svg", f"{name}.py"])


def test_recipes_of_ours_are_drawn():
    for name in ("quickstart", "uniq-preresnet8-digits", "hol-deeplab-voc"):
        assert name in RECIPES.names()
        assert PLOTS[Kind.SCHEDULE](name, {}).values["stages"]


def test_every_kind_has_its_plot():
    assert list(PLOTS) == list(Kind)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fqa",), "unknown recipe 'fqa': did you mean faq"),
        (("gone.py",), "no such recipe file: gone.py"),
        (("faq", "--set", "training.epochs"), "--set 'training.epochs': expected NAME=VALUE"),
        (("faq", "--set", "growth=doubling"), "--set growth is training.accumulation=doubling now"),
        (("faq", "--set", "training.epoch=1"), "recipe 'faq': no setting 'training.epoch': did you mean epochs"),
        (("faq", "--set", "training=none"), "training='none': it is a part with settings of its own: training=on"),
        (("faq", "--out", "figure.pdf"), "figure.pdf: expected a name that ends in .png or .svg"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(refuses, own, arguments, says):
    assert says in refuses("plot", "schedule", *arguments)
    assert not list(Path().iterdir())


def test_a_recipe_that_trains_nothing_is_one_line(refuses, own):
    line = refuses("plot", "schedule", f"{own(RECIPE)}.py", "--set", "epochs=0")
    assert "mine: schedule: nothing to draw: expected a stage with epochs" in line
    assert not Path("runs").exists()


def test_an_unknown_kind_is_the_callers_mistake(flatbit):
    result = flatbit("plot", "shedule", "faq")
    assert (result.status, result.out) == (2, "")
    assert "'schedule'" in result.err
