import sys

import pytest

from flatbit.cli.plugins import load_plugins, loaded, plugins_of


@pytest.fixture
def file(own, tmp_path):
    """Write a module of the user's; give its path."""
    return lambda text: tmp_path / f"{own(text)}.py"


@pytest.mark.parametrize(
    ("words", "plugins", "rest"),
    [
        ([], [], []),
        (["list", "models"], [], ["list", "models"]),
        (["--plugin", "a.py", "list"], ["a.py"], ["list"]),
        (["list", "--plugin=a.py", "--json", "--plugin", "b"], ["a.py", "b"], ["list", "--json"]),
        (["run", "--plugins", "a.py"], [], ["run", "--plugins", "a.py"]),
    ],
)
def test_plugins_stand_anywhere(words, plugins, rest):
    assert plugins_of(words) == (plugins, rest)


@pytest.mark.parametrize("words", [["--plugin"], ["list", "--plugin"], ["--plugin=", "list"], ["--plugin", ""]])
def test_a_plugin_is_a_file(words):
    with pytest.raises(ValueError, match="--plugin: expected a Python file behind it, or a folder of them"):
        plugins_of(words)


def test_a_file_or_every_file_of_a_folder_is_loaded(file, tmp_path):
    first, second = file("name = 1"), file("name = 2")
    load_plugins([str(first)])
    assert sys.modules[first.stem].name == 1
    assert second.stem not in sys.modules
    load_plugins([str(tmp_path)])
    assert sys.modules[second.stem].name == 2


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the folder holds no Python file"):
        load_plugins([str(tmp_path)])


@pytest.mark.parametrize(("name", "says"), [("gone.py", "no such file"), ("a.txt", "expected a Python file, NAME.py")])
def test_what_is_no_plugin_is_said_once(tmp_path, name, says):
    tmp_path.joinpath("a.txt").write_text("")
    with pytest.raises(ValueError, match=rf"^--plugin {tmp_path / name}: {says}$"):
        load_plugins([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\nimport no_such_module", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n\ndef f(:\n", "line 3: SyntaxError: invalid syntax"),
        ("def f():\n    return {}[1]\n\nf()", "line 2: KeyError: 1"),
        ("import json\njson.loads('{')", "line 2: Expecting property name"),
        ("raise ValueError('mend me')", "line 1: mend me"),
        ("from flatbit.recipes import RECIPES\nRECIPES.get('saq_')", "line 2: unknown recipe 'saq_': did you mean saq"),
    ],
)
def test_a_plugin_that_fails_says_where_and_of_what(file, text, says):
    path = file(text)
    with pytest.raises(ValueError, match="FLATBIT_DEBUG=1 shows where it arose") as caught:
        load_plugins([str(path)])
    assert f"--plugin {path}, {says}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.stem not in sys.modules


def test_a_plugin_that_is_stopped_is_stopped(file):
    with pytest.raises(KeyboardInterrupt):
        loaded(file("raise KeyboardInterrupt"))


def test_debugging_shows_where_it_arose(file, monkeypatch):
    monkeypatch.setenv("FLATBIT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        loaded(file("1 / 0"))
