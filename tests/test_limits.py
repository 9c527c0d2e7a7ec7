"""scripts/limits.py sees each limit that is passed, and nothing where none is."""

import runpy
from pathlib import Path

import pytest

LIMITS = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "limits.py"))
BODY = "    x = 1\n"


def told(package, path, text):
    """What the script says of a package of one file."""
    file = package / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return [line.removeprefix(str(package / path)) for line in LIMITS["passed"](package)]


def arguments(count, first=""):
    return first + ", ".join(f"a{i}" for i in range(count))


def test_a_file_has_at_most_300_lines(tmp_path):
    assert told(tmp_path, "a.py", "x = 1\n" * 300) == []
    assert told(tmp_path, "a.py", "x = 1\n" * 301) == [": 301 lines, at most 300"]


@pytest.mark.parametrize("head", ["def f():\n", "async def f():\n"])
def test_a_body_has_at_most_40_lines_without_its_docstring(tmp_path, head):
    docstring = '    """One.\n\n    Two.\n    """\n'
    assert told(tmp_path, "a.py", head + docstring + BODY * 40) == []
    assert told(tmp_path, "a.py", head + docstring + BODY * 41) == [":1 f: a body of 41 lines, at most 40"]
    assert told(tmp_path, "a.py", head + docstring) == []


def test_methods_and_inner_functions_count_too(tmp_path):
    inner = "class A:\n    def f(self):\n        def g():\n" + "            x = 1\n" * 41
    assert told(tmp_path, "a.py", inner) == [
        ":2 f: a body of 42 lines, at most 40", ":3 g: a body of 41 lines, at most 40",
    ]  # fmt: skip


@pytest.mark.parametrize("last", ["a8", "*a8", "*, a8", "**a8", "*, a8=1"])
def test_a_function_has_at_most_8_parameters_of_any_kind(tmp_path, last):
    assert told(tmp_path, "a.py", f"def f({arguments(8)}): ...\n") == []
    assert told(tmp_path, "a.py", f"def f({arguments(8)}, {last}): ...\n") == [":1 f: 9 parameters, at most 8"]


@pytest.mark.parametrize("own", ["self", "cls"])
def test_self_and_cls_are_not_counted(tmp_path, own):
    method = "class A:\n    def f({}): ...\n"
    assert told(tmp_path, "a.py", method.format(arguments(8, f"{own}, "))) == []
    assert told(tmp_path, "a.py", method.format(arguments(9, f"{own}, "))) == [":2 f: 9 parameters, at most 8"]


def test_a_verb_may_have_more_but_nothing_else_in_its_file(tmp_path):
    verb = f"def run_it({arguments(20)}): ...\ndef helper({arguments(9)}): ...\nCOMMANDS.add('run', run_it)\n"
    assert told(tmp_path, "cli/verbs/run.py", verb) == [":2 helper: 9 parameters, at most 8"]
    assert len(told(tmp_path / "other", "cli/run.py", verb)) == 2


@pytest.mark.parametrize("folder", LIMITS["PLUGINS"])
@pytest.mark.parametrize("definition", ["def digits(): ...", "class digits: ...", "digits = 1", "digits: int = 1"])
def test_a_plugin_defines_nothing_of_its_own_name(tmp_path, folder, definition):
    said = [":1 digits is the file's name too: name it for the verb or the object"]
    assert told(tmp_path, f"{folder}/digits.py", f"{definition}\n") == said
    assert told(tmp_path, f"{folder}/digits.py", "class A:\n    digits = 1\ndef load_digits(): ...\n") == []


def test_elsewhere_it_may(tmp_path):
    assert told(tmp_path, "quant/grids.py", "def grids(): ...\n") == []


@pytest.mark.parametrize(
    "binding",
    ["from .other import thing", "from .other import x as thing", "from . import x as thing", "import thing",
     "import thing.x", "def thing(): ...", "class thing: ...", "thing = 1", "x, thing = 1, 2"],
)  # fmt: skip
@pytest.mark.parametrize("beside", ["thing.py", "thing/__init__.py"])
def test_an_init_hides_no_module_beside_it(tmp_path, binding, beside):
    module = tmp_path / "quant" / beside
    module.parent.mkdir(parents=True)
    module.write_text("")
    said = [":1 thing hides the module of this name beside it"]
    assert told(tmp_path, "quant/__init__.py", f"{binding}\n") == said
    allowed = "from . import thing\nfrom .thing import other\n__all__ = ['thing']\n"
    assert told(tmp_path, "quant/__init__.py", allowed) == []


def test_the_script_fails_where_a_limit_is_passed_and_else_says_what_holds(tmp_path, capsys):
    tmp_path.joinpath("a.py").write_text("x = 1\n")
    assert LIMITS["main"](str(tmp_path)) == 0
    assert "40, 8 parameters at most, no module shadowed" in capsys.readouterr().out
    tmp_path.joinpath("a.py").write_text("x = 1\n" * 301)
    assert LIMITS["main"](str(tmp_path)) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'a.py'}: 301 lines, at most 300\n"
