import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer

import flatbit as fb
from flatbit.cli import COMMANDS, main
from flatbit.cli.verbs import list as listing
from flatbit.engine.loop import TrainingError
from flatbit.engine.record import read_run
from flatbit.quant.proof import QuantizationError
from flatbit.recipes import RECIPES
from flatbit.train.schedules import SCHEDULES
from flatbit.version import VERSION

VERBS = ["analyze", "cost", "doctor", "eval", "ledger", "list", "plot", "quantize", "quickstart", "run"]
RECIPE = """
from flatbit.engine.recipe import Stage
from flatbit.recipes import RECIPES, Registration

def only_float(*, epochs: int = 1):
    '''Nothing but a float net.'''
    return (Stage(name="float", epochs=epochs, lr=0.1),)

RECIPES.add("{name}", Registration(stages=only_float, model="resnet8", data="digits"))
"""
VERB = """
from typing import Annotated
import typer
from flatbit.cli import COMMANDS
from flatbit.cli.console import Json, show

def count(up_to: Annotated[int, typer.Argument(help="How far.")], json: Json = False) -> None:
    '''Count to a number.'''
    show(f"1 to {{up_to}}", list(range(1, up_to + 1)), json)

COMMANDS.add("{name}", count)
"""
SCHEDULE = """
from dataclasses import dataclass
from flatbit.train.schedules import SCHEDULES, Schedule

@dataclass(frozen=True, slots=True)
class Waning(Schedule):
    '''Less and less.'''
    rate: float = 1.0

    def __call__(self, epoch, epochs):
        return 1 / (1 + self.rate * epoch)

SCHEDULES.add("{name}", Waning)
"""


def test_every_verb_of_the_folder_is_a_command():
    assert set(VERBS) <= set(COMMANDS.names())


@pytest.mark.parametrize("verb", COMMANDS.names())
def test_help_of_every_verb(flatbit, verb):
    result = flatbit(verb, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"flatbit {verb}" in result.out
    told = COMMANDS.get(verb)
    summary = (told.info.help if isinstance(told, typer.Typer) else told.__doc__).split(".")[0].split()
    assert " ".join(summary[:4]) in " ".join(result.out.split())


@pytest.mark.parametrize("verb", COMMANDS.names())
def test_every_verb_prints_json(flatbit, verb):
    words = (verb, "show") if isinstance(COMMANDS.get(verb), typer.Typer) else (verb,)
    assert "--json" in flatbit(*words, "--help").out


def test_help_lists_the_verbs(flatbit):
    result = flatbit("--help")
    assert result.status == 0
    assert all(f" {verb} " in result.out for verb in VERBS)


def test_nothing_to_do_shows_the_help(flatbit):
    assert flatbit().out.split() == flatbit("--help").out.split()


@pytest.mark.parametrize("arguments", [("quantse",), ("list", "nothings"), ("cost",), ("cost", "resnet20", "--nope")])
def test_misuse_is_the_callers_mistake(flatbit, arguments):
    result = flatbit(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "--help" in result.err


def test_a_misspelt_verb_suggests_the_nearest(flatbit):
    assert "Did you mean 'quantize'?" in flatbit("quantse").err


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ValueError("layer 'fc': mend it"), 2, "layer 'fc': mend it"),
        (QuantizationError("fc is off its grid"), 1, "fc is off its grid"),
        (TrainingError("the loss is not finite"), 1, "the loss is not finite"),
        (PermissionError(13, "Permission denied", "runs"), 1, "[Errno 13] Permission denied: 'runs'"),
        (KeyboardInterrupt(), 130, "interrupted; a run goes on with --resume"),
    ],
)
def test_errors_are_one_line_with_their_status(flatbit, monkeypatch, error, status, says):
    def fails(kind):
        raise error

    monkeypatch.setattr(listing, "_listed", fails)
    assert flatbit("list") == (status, "", f"flatbit: {says}\n")


def test_mistakes_of_code_of_the_users_are_one_line_and_can_be_traced(flatbit, monkeypatch):
    def fails(kind):
        raise TypeError("net() takes no argument 'width'")

    monkeypatch.setattr(listing, "_listed", fails)
    said = "flatbit: TypeError: net() takes no argument 'width' (FLATBIT_DEBUG=1 shows where it arose)\n"
    assert flatbit("list") == (1, "", said)
    monkeypatch.setenv("FLATBIT_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["flatbit", "list"])
    with pytest.raises(TypeError):
        main()


@pytest.fixture
def plugin(own, monkeypatch):
    """Write a plug-in that registers something under its own name; what it registers is taken off again."""
    for registry in (COMMANDS, RECIPES, SCHEDULES):
        monkeypatch.setattr(registry, "_objects", {name: registry.get(name) for name in registry.names()})

    def write(text):
        name = own("")
        Path(f"{name}.py").write_text(text.format(name=name))
        return name, f"{name}.py"

    return write


def test_a_verb_of_a_plugin_is_one_of_ours(flatbit, plugin):
    name, file = plugin(VERB)
    help_text = flatbit("--help", "--plugin", file).out
    assert f" {name} " in help_text
    assert "Count to a number." in help_text
    assert flatbit(name, 3, "--plugin", file) == (0, "1 to 3\n", "")
    assert json.loads(flatbit("--plugin", file, name, 3, "--json").out) == [1, 2, 3]
    assert "Count to a number." in flatbit(name, "--help", f"--plugin={file}").out


def test_a_recipe_of_a_plugin_is_listed_planned_and_run(flatbit, plugin, no_page):
    name, file = plugin(RECIPE)
    listed = json.loads(flatbit("list", "recipes", name, "--json", "--plugin", file).out)
    assert listed == [{"setting": "epochs", "default": "1", "takes": "a whole number"}]
    words = (name, "--plugin", file, "--set", "epochs=2", "--smoke", "--json")
    planned = json.loads(flatbit("run", *words, "--dry-run", "--no-timing").out)
    assert (planned["recipe"], [stage["name"] for stage in planned["stages"]]) == (name, ["float"])
    assert json.loads(flatbit("run", *words).out)[0]["stage"] == "float"
    assert read_run(f"runs/{name}/seed0").record.recipe.settings == {"epochs": 2}


def test_a_schedule_of_a_plugin_is_listed_and_read_from_a_record(flatbit, plugin, no_page):
    name, file = plugin(SCHEDULE)
    found = json.loads(flatbit("list", "schedules", "--json", "--plugin", file).out)["schedules"]
    assert {"name": name, "parameters": "rate=1.0", "what": "Less and less."} in found
    Path("waning.py").write_text(
        f"from flatbit.engine.recipe import Recipe, Stage\nfrom {name} import Waning\n"
        "def recipe(*, schedule: Waning = Waning()):\n"
        "    stages = (Stage(name='float', epochs=1, lr=0.1, schedule=schedule),)\n"
        "    return Recipe(name='waning', model='resnet8', data='digits', stages=stages)\n"
    )
    result = flatbit("run", "waning.py", "--plugin", file, "--set", "schedule.rate=2", "--smoke", "--out", "done")
    assert result.status == 0, result.err
    assert json.loads(Path("done/run.json").read_text())["recipe"]["stages"][0]["schedule"] == {"kind": name, "rate": 2}
    assert type(read_run("done").record.recipe.stages[0].schedule).__name__ == "Waning"


def test_a_folder_of_plugins_and_several_of_them(flatbit, plugin):
    (verb, one), (_, other) = plugin(VERB), plugin(SCHEDULE)
    assert flatbit(verb, 1, "--plugin", one, "--plugin", other).status == 0
    assert flatbit("--plugin", ".", verb, 1).status == 0


def test_a_plugin_that_cannot_be_loaded_is_one_line(refuses, own):
    file = f"{own('x = 1')}.py"
    Path(file).write_text("x = 1\nimport no_such_module\n")
    line = refuses("list", "models", "--plugin", file)
    assert line.startswith(f"flatbit: --plugin {file}, line 2: ModuleNotFoundError: No module named 'no_such_module'")
    assert refuses("list", "--plugin", "gone.py") == "flatbit: --plugin gone.py: no such file"
    assert refuses("list", "--plugin").startswith("flatbit: --plugin: expected a Python file behind it")


def test_a_verb_of_a_name_that_is_taken_is_one_line(refuses, plugin):
    _, file = plugin(VERB.replace("{name}", "run"))
    assert "command 'run' is registered twice: rename one of the two" in refuses("list", "--plugin", file)


def test_the_help_says_where_plugins_go(flatbit):
    for words in ((), ("run",)):
        assert "a Python file of yours" in " ".join(flatbit(*words, "--help").out.replace("│", " ").split())


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(listing, "_listed", lambda kind: {}["missing"])
    monkeypatch.setattr(sys, "argv", ["flatbit", "list"])
    with pytest.raises(KeyError, match="missing"):
        main()


def test_the_console_script_is_this_command_line():
    (script,) = metadata.entry_points(group="console_scripts", name="flatbit")
    assert script.load() is main


def test_a_process_of_its_own_has_clean_streams_and_status():
    program = [sys.executable, "-c", "from flatbit.cli import main; main()"]
    done = subprocess.run([*program, "cost", "resnet21"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("flatbit: unknown model 'resnet21': did you mean")
    assert done.stderr.count("\n") == 1


def test_the_version(flatbit):
    assert flatbit("--version") == (0, f"flatbit {fb.__version__}\n", "")
    assert fb.__version__ == VERSION


def test_quiet_stands_anywhere_and_lasts_one_line(flatbit, own):
    own("")
    words = ("run", "uniq-preresnet8-digits", "--smoke", "--out", "a", "--overwrite")
    assert [flatbit(*words, "--quiet").err, flatbit("--quiet", *words).err] == ["", ""]
    assert "float: top-1" in flatbit(*words).err
