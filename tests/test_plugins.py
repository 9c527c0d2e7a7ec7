"""A file in a folder is enough: one of each kind, written there, passes the suites that ours pass."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import flatbit as fb

ROOT = Path(__file__).parent.parent
PRINTED = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/design.md").read_text(), re.MULTILINE | re.DOTALL)
FILES = {
    "my_loss": '''
        """Logits kept small."""
        from dataclasses import dataclass
        from flatbit.train.losses import LOSSES, LossTerm

        @dataclass(frozen=True, kw_only=True, slots=True)
        class SmallLogits(LossTerm):
            """The mean square of the logits."""

            weight: float = 0.01
            name: str = "plugged_loss"

            def __call__(self, model, x, y, logits):
                return logits.square().mean()

        LOSSES.add("plugged_loss", SmallLogits)
    ''',
    "my_schedule": '''
        """The rate as the inverse of time."""
        from dataclasses import dataclass
        from flatbit.train.schedules import SCHEDULES, Schedule

        @dataclass(frozen=True, slots=True)
        class Inverse(Schedule):
            """``1 / (1 + rate t)``."""

            rate: float = 1.0

            def __call__(self, epoch, epochs):
                return 1 / (1 + self.rate * epoch)

        SCHEDULES.add("plugged_schedule", Inverse)
    ''',
    "my_recipe": '''
        """Train a float net a little, with the loss and the schedule beside this file."""
        from flatbit.engine import Stage
        from flatbit.recipes import RECIPES, Registration
        from flatbit.train.losses.labels import CrossEntropy
        from my_loss import SmallLogits
        from my_schedule import Inverse

        def small(*, epochs: int = 1, lr: float = 0.1, loss: SmallLogits | None = SmallLogits()) -> tuple[Stage, ...]:
            """A float net with small logits."""
            losses = (CrossEntropy(),) if loss is None else (CrossEntropy(), loss)
            return (Stage(name="float", epochs=epochs, lr=lr, schedule=Inverse(), losses=losses, batch_size=64),)

        RECIPES.add("plugged_recipe", Registration(stages=small, model="preresnet8", data="digits"))
    ''',
    "my_analysis": '''
        """How large a net's weights are."""
        from dataclasses import dataclass
        from matplotlib.figure import Figure
        from flatbit.figures import ANALYSES

        @dataclass(frozen=True, kw_only=True, slots=True)
        class Sizes:
            """Root mean squares by parameter."""

            rms: dict

        def sizes(model, data):
            """The rms of every parameter."""
            return Sizes(rms={name: float(p.detach().square().mean().sqrt()) for name, p in model.named_parameters()})

        def bars(result, *, title):
            """One bar each."""
            figure = Figure()
            figure.add_subplot().barh(list(result.rms), list(result.rms.values()))
            figure.suptitle(title)
            return figure

        ANALYSES.add("plugged_analysis", sizes, bars, needs_data=False)
    ''',
    "my_verb": '''
        """flatbit plugged_verb: count parameters."""
        from typing import Annotated
        import typer
        from flatbit.cli import COMMANDS
        from flatbit.cli.console import Json, ModelArguments, parse_settings, show
        from flatbit.models import build

        def count(
            model: Annotated[str, typer.Argument(help="A model of `flatbit list models`.")],
            model_arg: ModelArguments = [],
            json: Json = False,
        ) -> None:
            """Count the parameters of a model.

            `flatbit plugged_verb preresnet8`
            """
            number = sum(p.numel() for p in build(model, **parse_settings(model_arg, "--model-arg")).parameters())
            show(f"{number:,}", {"parameters": number}, json)

        COMMANDS.add("plugged_verb", count)
    ''',
    "my_quantizer": next(body for body in PRINTED if "METHODS.add" in body),
    "my_layer": next(body for body in PRINTED if "add_layer" in body),
}  # fmt: skip
"""One file of each kind; the quantizer and the layer are those that docs/design.md prints."""
TOGETHER = """
import torch
from torch import nn
import flatbit as fb
from my_layer import LowRank, QLowRank
import my_quantizer

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), LowRank(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()

model, x = net(), torch.randn(16, 6)
fb.quantize_(model, fb.policy("largest", weights=3, activations=4))
assert type(model[2]) is QLowRank
assert fb.assignment(model) == {"0": (6, 6), "2": (3, 4), "4": (6, 6)}  # the most that it has, where others take 8
fb.calibrate_(model, [x])
print("quantized")
metrics = fb.evaluate(model, [(x, torch.zeros(16).long())])
assert {"2.right_quantizer", "2.left_quantizer"} <= metrics.proof.usage.keys()
print("proved")
fb.assign_bits_(model, {"2": (5, 2)})
assert fb.cost(model, (6,)).layers[1].bitops == (16 + 16) * 5 * 2
print("assigned")
fb.save(model, "m.safetensors")
twin = net()
fb.load_(twin, "m.safetensors")
assert torch.equal(twin(x), model(x))
print("loaded")
fb.quantize_(net(), fb.policy("largest-all", weights=3))
"""
NAMES = {kind: f"plugged_{kind}" for kind in ("loss", "schedule", "recipe", "analysis", "verb")} | {
    "quantizer": "largest",
    "layer": "LowRank",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one plug-in of each kind."""
    made = tmp_path_factory.mktemp("plugins")
    for name, text in FILES.items():
        made.joinpath(f"{name}.py").write_text(textwrap.dedent(text).lstrip())
    return made


def call(*words, cwd=ROOT, **environment):
    """Run a Python process; its standard output. A failure shows everything."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("kind", NAMES)
def test_one_of_each_kind_passes_the_suites_of_its_registry(folder, kind):
    said = call(
        "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/contracts",
        "-k", NAMES[kind],
        FLATBIT_TEST_PLUGINS=str(folder), PYTHONPATH=str(folder),
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", said)
    assert passed, said
    assert int(passed[1]) >= 2, said
    assert "failed" not in said


def test_a_quantizer_and_a_layer_of_ones_own_work_together(folder, tmp_path):
    said = call("-c", TOGETHER, cwd=tmp_path, PYTHONPATH=f"{ROOT}:{folder}")
    assert said.split() == ["quantized", "proved", "assigned", "loaded"]


def test_the_command_line_takes_the_folder(folder, tmp_path):
    def flatbit(*words):
        main = "from flatbit.cli import main; main()"
        return call("-c", main, "--plugin", folder, *words, cwd=tmp_path, PYTHONPATH=f"{ROOT}:{folder}")

    assert "plugged_verb" in flatbit("--help")
    number = sum(p.numel() for p in fb.models.build("preresnet8").parameters())
    assert flatbit("plugged_verb", "preresnet8").strip() == f"{number:,}"
    for kind, name in (
        ("losses", "loss"), ("schedules", "schedule"), ("recipes", "recipe"), ("analyses", "analysis"),
        ("quantizers", "quantizer"),
    ):  # fmt: skip
        assert NAMES[name] in flatbit("list", kind)
    out = tmp_path / "run"
    flatbit("run", "plugged_recipe", "--smoke", "--set", "loss.weight=0.1", "--out", out)
    record = out.joinpath("run.json").read_text()
    assert '"kind": "plugged_loss"' in record
    assert '"kind": "plugged_schedule"' in record
    flatbit("analyze", "plugged_analysis", out, "--out", tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").is_file()
