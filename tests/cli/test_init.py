import subprocess
import sys
from importlib import metadata

import pytest

from flatbit.cli import COMMANDS, main
from flatbit.cli.verbs import list as listing
from flatbit.engine.loop import TrainingError
from flatbit.quant.proof import QuantizationError

VERBS = ["cost", "doctor", "eval", "list", "plot", "quantize", "quickstart", "run"]


def test_every_verb_of_the_folder_is_a_command():
    assert set(VERBS) <= set(COMMANDS.names())


@pytest.mark.parametrize("verb", COMMANDS.names())
def test_help_of_every_verb(flatbit, verb):
    result = flatbit(verb, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"flatbit {verb}" in result.out
    summary = COMMANDS.get(verb).__doc__.split(".")[0].split()
    assert " ".join(summary[:4]) in " ".join(result.out.split())


@pytest.mark.parametrize("verb", sorted({*COMMANDS.names()} - {"console"}))
def test_every_verb_prints_json(flatbit, verb):
    assert "--json" in flatbit(verb, "--help").out


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
