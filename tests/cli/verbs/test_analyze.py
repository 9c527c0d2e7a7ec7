import json
from pathlib import Path

import pytest

import flatbit as fb
from flatbit.analysis.weights import weight_histograms
from flatbit.cli.verbs.analyze import analyze_model
from flatbit.figures import ANALYSES
from flatbit.registry import import_object

NETS = """
from torch import nn
from flatbit.data import load

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def data(most):
    return load("digits")
"""
CAPTURES = """
from flatbit import policy
from flatbit.engine.recipe import Recipe, Stage

def recipe():
    stage = Stage(
        name="retrain", epochs=3, lr=0.01, captures=(1, 2, 3), keep_captures=True, fixed_weight_steps=True,
        policy=policy("sqwa", weights=2), batch_size=400,
    )
    arguments = {"in_channels": 1, "first_width": 2}
    return Recipe(name="captured", model="preresnet8", model_arguments=arguments, data="digits", stages=(stage,))
"""
ANALYSIS = """
from dataclasses import dataclass
import numpy as np
from flatbit.figures import ANALYSES
from flatbit.figures.style import canvas

@dataclass(frozen=True)
class Part:
    name: str
    bias: float | None

@dataclass(frozen=True)
class Sizes:
    sizes: np.ndarray
    parts: tuple[Part, ...] = ()

def of_parts(model, data):
    return Sizes(sizes=np.arange(3), parts=(Part("[a]", 0.123456), Part("b", None)))

def draw(result, *, title):
    figure, axes = canvas(2, 2)
    axes.set_title(title)
    return figure

ANALYSES.add("parts", of_parts, draw, needs_data=False)
ANALYSES.add("sizes", lambda model, data: Sizes(sizes=np.float32([[1, 2]])), draw, needs_data=False)
ANALYSES.add("words", lambda model, data: {"a": 1}, draw, needs_data=False)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A quantized model, in a folder of its own."""
    model = fb.models.build("preresnet8", in_channels=1, first_width=2)
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    fb.calibrate_(model, fb.data.load("digits").train_batches(64, seed=0), 2)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    fb.save(model, path)
    return path


@pytest.fixture
def plugin(own, monkeypatch):
    """Three analyses of the user's."""
    monkeypatch.setattr(ANALYSES, "_objects", {name: ANALYSES.get(name) for name in ANALYSES.names()})
    import_object(f"{own(ANALYSIS)}:draw")


def cells(result, first):
    (row,) = [line for line in result.out.splitlines() if line.startswith(f"│ {first}")]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_the_example_of_the_help_draws_and_tells(flatbit, own, file):
    result = flatbit("analyze", "weights", file)
    assert (result.status, result.err) == (0, "figure: runs/weights.png\n")
    assert Path("runs/weights.png").read_bytes().startswith(b"\x89PNG")
    assert cells(result, "layers.1.0.conv1") == ["layers.1.0.conv1", "4", "4"]
    assert "--json tells also: edges, counts" in result.out


def test_as_json_it_is_the_whole_result(flatbit, own, file):
    result = flatbit("analyze", "weights", file, "--out", "new/w.svg", "--json")
    assert (result.status, result.err) == (0, "figure: new/w.svg\n")
    assert Path("new/w.svg").read_text().startswith("<svg")
    found = json.loads(result.out)
    assert found["figure"] == "new/w.svg"
    expected = weight_histograms(fb.load(file)).layers
    assert [layer["layer"] for layer in found["layers"]] == [layer.layer for layer in expected]
    assert found["layers"][1]["levels"] == pytest.approx(expected[1].levels.tolist())
    assert found["layers"][1]["num_levels"] == 4


def test_data_are_those_that_are_named(flatbit, own, file):
    found = json.loads(flatbit("analyze", "mistakes", file, "--data", "digits", "--json").out)
    metrics = fb.evaluate(fb.load(file), fb.data.load("digits").test_batches())
    assert 100 * (1 - found["num_wrong"]["net"] / found["num_samples"]) == pytest.approx(metrics.top1)


def test_grey_images_are_repeated_where_the_network_takes_three_channels(flatbit, own):
    fb.save(fb.models.build("preresnet8", first_width=2), "rgb.safetensors")
    result = flatbit("analyze", "curvature", "rgb.safetensors", "--data", "digits")
    assert (result.status, result.err) == (0, "figure: runs/curvature.png\n")
    assert cells(result, "")[2:] == ["yes", "500"]


@pytest.mark.usefixtures("no_page")
def test_a_run_has_stages_and_data_of_its_own(flatbit, refuses, own):
    assert flatbit("run", "uniq-preresnet8-digits", "--smoke", "--out", "run").status == 0
    result = flatbit("analyze", "mistakes", "run", "--stage", "float")
    assert (result.status, result.err) == (0, "figure: runs/mistakes.png\n")
    assert "mistakes: run, stage float" in result.out
    assert "450" in result.out
    line = refuses("analyze", "weights", "run", "--stage", "float")
    assert "has no layer with quantized weights: expected one or more" in line
    assert flatbit("analyze", "weights", "run").status == 0
    assert "has no finished stage 'unik'" in refuses("analyze", "weights", "run", "--stage", "unik")


@pytest.fixture(scope="module")
def captured(flatbit, tmp_path_factory):
    """A run with three captures of two updates each, almost."""
    run = tmp_path_factory.mktemp("captured") / "run"
    recipe = run.parent / "recipe.py"
    recipe.write_text(CAPTURES)
    result = flatbit("run", recipe, "--out", run)
    assert result.status == 0, result.err
    return run


@pytest.mark.usefixtures("no_page")
def test_a_plane_through_captures_is_kept_in_their_run_and_drawn_again(flatbit, refuses, own, captured):
    files = [captured / "stages" / f"retrain@{epoch}.safetensors" for epoch in (1, 2, 3)]
    settings = ("--set", "points=2", "--set", "num_images=40")
    result = flatbit("analyze", "plane", *files, *settings)
    assert (result.status, result.err) == (0, "figure: runs/plane.png\n"), result.err
    assert "plane: retrain@1, retrain@2, retrain@3" in result.out
    assert [path.name for path in (captured / "analysis/plane").iterdir()] == ["result.json"]
    found = json.loads(flatbit("analyze", "plane", *files, *settings, "--json").out)
    again = json.loads(flatbit("plot", "plane", captured, "--json").out)
    assert again == found
    assert "plane: got 2 models (retrain@1, retrain@2): expected three" in refuses("analyze", "plane", *files[:2])
    assert "looks at one model, got 3" in refuses("analyze", "weights", *files)
    assert "got a model twice" in refuses("analyze", "plane", *files[:2], files[0])
    assert "no setting 'point': did you mean points" in refuses("analyze", "plane", *files, "--set", "point=2")


def test_one_model_has_its_own_name(flatbit, own, file):
    result = flatbit("analyze", "landscape", file, "--data", "digits", "--set", "points=3", "--set", "num_images=20")
    assert (result.status, result.err) == (0, "figure: runs/landscape.png\n"), result.err
    assert cells(result, str(file)[:20])


def test_what_a_file_names_is_imported_on_trust_only(flatbit, refuses, own, monkeypatch):
    module = own(NETS)
    fb.save(fb.models.build(f"{module}:net"), "own.safetensors")
    monkeypatch.setattr("flatbit.models._imported", set())
    arguments = ("analyze", "mistakes", "own.safetensors", "--data", f"{module}:data", "--data-arg", "most=9")
    assert f"wants to import and call '{module}:net'" in refuses(*arguments)
    assert flatbit(*arguments, "--trust").status == 0


@pytest.mark.usefixtures("plugin")
def test_an_analysis_of_the_users_needs_nothing_else(flatbit, file):
    result = flatbit("analyze", "parts", file)
    assert cells(result, "[a]") == ["[a]", "0.1235"]
    assert cells(result, "b") == ["b", "-"]
    assert Path("runs/parts.png").is_file()
    found = json.loads(flatbit("analyze", "parts", file, "--json").out)
    assert (found["sizes"], found["parts"][1]) == ([0, 1, 2], {"name": "b", "bias": None})


@pytest.mark.usefixtures("plugin")
def test_a_result_of_arrays_only_says_where_they_are(flatbit, file):
    assert flatbit("analyze", "sizes", file).out.split(": ")[-1].split() == ["sizes,", "parts"]


@pytest.mark.usefixtures("plugin")
def test_a_result_that_is_no_dataclass_is_one_line(refuses, file):
    assert "analysis 'words' gave dict: expected a frozen dataclass" in refuses("analyze", "words", file)
    assert not Path("runs").exists()


def test_the_help_lists_every_analysis(flatbit):
    text = " ".join(flatbit("analyze", "--help").out.replace("│", " ").split())
    assert ", ".join(ANALYSES.names()) in text
    assert "weights runs/quickstart/seed0 --stage" in " ".join((analyze_model.__doc__ or "").split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("wieghts", "MODEL"), "unknown analysis 'wieghts': did you mean weights?"),
        (("weights", "nowhere"), "'nowhere' is no run and no .safetensors file: nothing to analyze"),
        (("weights", "resnet20"), "'resnet20' is no run and no .safetensors file: nothing to analyze"),
        (("weights", "gone.safetensors"), "no such file: gone.safetensors"),
        (("weights", "."), "it has no run.json"),
        (("weights", "MODEL", "--out", "w.pdf"), "w.pdf: expected a name that ends in .png or .svg"),
        (("weights", "MODEL", "--stage", "a"), "is no run's folder: --stage has no meaning for it"),
        (("weights", "MODEL", "--data", "digits"), "analysis 'weights' looks at the model alone: --data"),
        (("mistakes", "MODEL"), "--data is not given"),
        (("mistakes", "MODEL", "--data", "digit"), "unknown data set 'digit': did you mean digits"),
        (("segmentation", "MODEL", "--data", "digits"), "data set 'digits' is for classification: expected segm"),
        (("decision", "MODEL", "--data", "digits"), "expected points (2,) of the data set spirals"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(refuses, own, file, arguments, says):
    assert says in refuses("analyze", *(file if part == "MODEL" else part for part in arguments))
    assert not list(Path().iterdir())
