"""One of each kind, in a folder, passes the suites that ours pass; what a plug-in is and what is kept of it."""

import hashlib
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import flatbit as fb
from flatbit.models import MODELS
from flatbit.plugins import Plugin, changed_since, check_plugins, load_installed, load_plugin, plugins_behind
from flatbit.registry import import_object
from flatbit.search.sensitivity import MEASURES

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


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write ``plugin_file.py``; what it was loaded as is taken off again."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("flatbit.plugins._loaded", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file is rewritten within one tick of its clock

    def write(text, folder="."):
        path = tmp_path / folder / "plugin_file.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    yield write
    sys.modules.pop("plugin_file", None)


def test_what_a_plugin_holds_is_found_by_its_stem(plugin):
    path = plugin("def net():\n    return 'net'\n")
    module = load_plugin(path)
    assert import_object("plugin_file:net") is module.net
    assert module.net.__module__ == "plugin_file"


def test_a_plugin_is_loaded_once(plugin, monkeypatch):
    path = plugin("import math\n")
    module = load_plugin(str(path))
    monkeypatch.chdir(path.parent)
    assert load_plugin("plugin_file.py") is module
    assert import_object("plugin_file:math")


def test_a_plugin_in_the_working_directory_may_be_loaded_although_it_can_be_imported(plugin, monkeypatch):
    path = plugin("name = 'mine'\n")
    monkeypatch.syspath_prepend(path.parent)
    assert load_plugin(path).name == "mine"


def test_a_folder_of_the_same_name_is_no_module(plugin, monkeypatch, tmp_path):
    path = plugin("name = 'mine'\n", "elsewhere")
    tmp_path.joinpath("plugin_file").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert load_plugin(path).name == "mine"


@pytest.mark.parametrize("name", ["json", "sys", "__main__", "torch"])
def test_a_plugin_cannot_take_the_name_of_another_module(tmp_path, name):
    path = tmp_path / f"{name}.py"
    path.write_text("")
    before = sys.modules[name]
    with pytest.raises(ValueError, match=rf"{name}\.py: another module is called '{name}' \(.+\): rename the file"):
        load_plugin(path)
    assert sys.modules[name] is before


def test_nor_of_one_that_is_not_imported_yet(tmp_path, monkeypatch):
    plain = tmp_path / "plugin_installed.py"
    plain.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    other = tmp_path / "other" / "plugin_installed.py"
    other.parent.mkdir()
    other.write_text("")
    with pytest.raises(ValueError, match="another module is called 'plugin_installed'"):
        load_plugin(other)
    assert "plugin_installed" not in sys.modules


def test_two_plugins_of_one_name_cannot_be_loaded(plugin):
    load_plugin(plugin("", "here"))
    with pytest.raises(ValueError, match=r"another module is called 'plugin_file' \(.*here.plugin_file\.py\)"):
        load_plugin(plugin("", "there"))


def test_a_plugin_is_a_python_file_that_is_there(tmp_path):
    tmp_path.joinpath("plugin.txt").write_text("")
    with pytest.raises(ValueError, match=r"plugin\.txt: expected a Python file, NAME\.py"):
        load_plugin(tmp_path / "plugin.txt")
    with pytest.raises(ValueError, match=r"none\.py: no such file"):
        load_plugin("none.py")


def test_a_plugin_that_fails_is_not_there_and_can_be_mended(plugin):
    text = "from flatbit.search.sensitivity import MEASURES\nMEASURES.add('plugin_file_mine', 7)\n"
    for wrong, error in ((text + "1 / 0\n", ZeroDivisionError), (text + "def\n", SyntaxError)):
        with pytest.raises(error):
            load_plugin(plugin(wrong))
        assert "plugin_file" not in sys.modules
        assert "loss" in MEASURES.names()  # a scan in between changes nothing
    load_plugin(plugin(text))
    assert MEASURES.get("plugin_file_mine") == 7
    del MEASURES._objects["plugin_file_mine"]


def test_it_imports_its_neighbours_then_and_later(plugin, tmp_path):
    tmp_path.joinpath("plugin_neighbour.py").write_text("a = 3\n")
    tmp_path.joinpath("plugin_later.py").write_text("b = 4\n")
    module = load_plugin(plugin("from plugin_neighbour import a\ndef b():\n    import plugin_later as l; return l.b\n"))
    assert (module.a, module.b()) == (3, 4)
    for name in ("plugin_neighbour", "plugin_later"):
        del sys.modules[name]


MODEL = "from flatbit.models import MODELS\nMODELS.add('plugin_net', 1)\n"


@pytest.fixture
def net(plugin):
    """A plug-in with a model ``plugin_net``, loaded."""
    path = plugin(MODEL)
    load_plugin(path)
    yield path
    MODELS._objects.pop("plugin_net", None)
    MODELS._sources.pop("plugin_net", None)


def test_a_file_is_kept_by_path_and_contents_with_what_is_needed_of_it(net):
    digest = hashlib.sha256(net.read_bytes()).hexdigest()
    kept = Plugin(name="plugin_file", file=str(net), sha256=digest, needed={})
    assert plugins_behind(["resnet20"]) == (kept,)
    assert plugins_behind(["resnet20", "plugin_net"]) == (replace(kept, needed={"model": ("plugin_net",)}),)
    assert plugins_behind(["plugin_file:net"]) == (replace(kept, needed={"module": ("plugin_file",)}),)


def test_what_is_not_loaded_is_asked_for_and_not_imported(net, tmp_path):
    mine, *_ = plugins_behind(["plugin_net", "plugin_file:x"])
    check_plugins([mine])
    del MODELS._objects["plugin_net"], sys.modules["plugin_file"]
    sys.path.remove(str(tmp_path))
    package = Plugin(name="p", file="p.py", sha256="0", package="pack 1.0", needed={"loss": ("gone",)})
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_plugins([mine, package, replace(mine, file="unneeded.py", needed={})])
    assert str(caught.value) == (
        "needs model 'plugin_net', module 'plugin_file', loss 'gone' of a plug-in that is not loaded: if you trust it, "
        f"give --plugin {net} and install pack 1.0"
    )
    assert "plugin_file" not in sys.modules


def test_a_changed_file_is_said(net):
    mine, *_ = plugins_behind([])
    other = replace(mine, sha256="f" * 64)
    assert changed_since([mine]) == changed_since([other, mine]) == []
    assert changed_since([replace(other, name="not_loaded")]) == []
    (line,) = changed_since([other])
    assert line == f"plug-in {net} has changed since: SHA-256 {mine.sha256[:12]}, then ffffffffffff"


def test_packages_are_found_by_entry_points_and_a_broken_one_is_said(plugin, monkeypatch, tmp_path):
    path = plugin(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        SimpleNamespace(name=module, module=module, dist=SimpleNamespace(name="pack", version="1.0"))
        for module in ("plugin_file", "plugin_gone")
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "flatbit.plugins" else [])
    (line,) = load_installed()
    assert line.startswith("plug-in plugin_gone of pack 1.0 was left out: ModuleNotFoundError: No module named")
    assert plugins_behind(["resnet20"]) == ()  # an installed package is not kept for being there
    (found,) = plugins_behind(["plugin_net"])
    assert (found.package, found.file, found.needed) == ("pack 1.0", str(path), {"model": ("plugin_net",)})
    del MODELS._objects["plugin_net"], MODELS._sources["plugin_net"]
