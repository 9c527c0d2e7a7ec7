"""The page of figures does what it says: its commands are known, its pictures there, its example runs."""

import re
import shlex
from pathlib import Path

import pytest

from flatbit.cli.console import parse_settings
from flatbit.figures import ANALYSES
from flatbit.recipes import RECIPES
from flatbit.settings import bound

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "figures.md").read_text()
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
LINES = [shlex.split(line) for line in SHELL.splitlines()]
LARGEST = 100_000  # bytes of a picture


def given(words):
    return parse_settings([words[i + 1] for i, word in enumerate(words) if word == "--set"])


@pytest.mark.parametrize("words", [line for line in LINES if line[1] == "analyze"], ids=" ".join)
def test_its_analyses_take_their_settings_and_have_a_picture(words):
    ANALYSES.get(words[2]).settings(given(words))
    assert f"]({words[2]}.png)" in TEXT
    assert (DOCS / f"{words[2]}.png").stat().st_size < LARGEST


def test_its_run_has_the_stages_that_are_looked_at():
    (words,) = [line for line in LINES if line[1] == "run"]
    registration = RECIPES.get(words[2])
    stages = registration.stages(**bound(registration.stages, given(words), registration.settings))
    captures = {f"{stage.name}@*" for stage in stages if stage.keep_captures}
    known = captures | {stage.name for stage in stages}
    named = re.findall(r"stages/([\w@*-]+)\.safetensors", TEXT)
    assert len(named) == 6
    assert {*named} <= known


def test_its_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(compile(code, "figures.md", "exec"), {"__name__": "__main__"})
    assert 0 < float(capsys.readouterr().out) < 1
    assert (tmp_path / "landscape.png").read_bytes().startswith(b"\x89PNG")
