import json
from pathlib import Path

import numpy as np
import pytest

from flatbit.analysis.saved import write_result
from flatbit.analysis.weights import WeightHistogram, WeightHistograms
from flatbit.figures import ANALYSES
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


@pytest.mark.parametrize("name", ["quickstart", "uniq-preresnet8-digits", "hol-deeplab-voc"])
def test_recipes_of_ours_are_drawn(flatbit, own, name):
    assert name in RECIPES.names()
    assert json.loads(flatbit("plot", "schedule", name, "--json").out)["stages"]


HISTOGRAMS = WeightHistograms(
    layers=(
        WeightHistogram(
            layer="conv",
            edges=np.linspace(-1, 1, 9),
            counts=np.arange(8),
            levels=np.array([-0.5, 0.5]),
            occupancy=np.array([0.25, 0.75]),
        ),
    )
)


def test_what_an_analysis_found_is_drawn_again_without_the_model(flatbit, own):
    write_result(Path("run/analysis/weights"), HISTOGRAMS, title="weights: of a run")
    result = flatbit("plot", "weights", "run", "--out", "again.svg")
    assert (result.status, result.err) == (0, "figure: again.svg\n")
    assert Path("again.svg").read_text().startswith("<svg")
    assert "weights: of a run" in result.out
    assert "conv" in result.out
    found = json.loads(flatbit("plot", "weights", "run", "--json").out)
    assert (found["layers"][0]["num_levels"], found["figure"]) == (2, "runs/weights.png")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("shedule", "faq"), "cannot plot 'shedule': did you mean schedule?"),
        (("wieghts", "run"), "cannot plot 'wieghts': did you mean weights?"),
        (("weights", "nowhere"), "does not exist: first let it be found: flatbit analyze weights nowhere"),
        (("weights", "run", "--set", "points=3"), "--set has no meaning for a result that is there: flatbit analyze"),
        (("unsaid", "run"), "analysis 'unsaid' does not say what it finds: annotate what its compute returns"),
    ],
)
def test_what_was_not_found_cannot_be_drawn(refuses, own, monkeypatch, arguments, says):
    monkeypatch.setattr(ANALYSES, "_objects", {name: ANALYSES.get(name) for name in ANALYSES.names()})
    ANALYSES.add("unsaid", lambda model, data: None, lambda result, *, title: None)
    assert says in refuses("plot", *arguments)
    assert not list(Path().iterdir())


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
