"""The limits that no linter knows; `python scripts/limits.py [PACKAGE]` says where they are passed, and fails there.

A file has at most 300 lines. A function has a body of at most 40 lines, its docstring not counted, and at
most 8 parameters, self and cls not counted; command-line verbs, whose parameters are options, may have more.

No module is shadowed: in a plug-in folder no file defines what is called as itself, and no `__init__` binds the
name of a module beside it to something else.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_FILE_LINES, MOST_BODY_LINES, MOST_PARAMETERS = 300, 40, 8
PLUGINS = (
    "data/sets", "models", "quant/quantizers", "train/losses", "analysis", "search/measures", "figures", "recipes",
    "cli/verbs", "export/forms",
)  # fmt: skip
VERBS = "cli/verbs"
RULES = (
    f"files of {MOST_FILE_LINES} lines, bodies of {MOST_BODY_LINES}, {MOST_PARAMETERS} parameters at most, "
    "no module shadowed"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(package: str = "flatbit") -> int:
    found = list(passed(Path(package)))
    print("\n".join(found) or f"limits: {RULES}")
    return bool(found)


def passed(package: Path) -> Iterator[str]:
    """A line for each place in a package that passes a limit."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        folder = path.parent.relative_to(package).as_posix()
        if (lines := text.count("\n")) > MOST_FILE_LINES:
            yield f"{path}: {lines} lines, at most {MOST_FILE_LINES}"
        yield from functions(path, tree, verbs(tree) if folder == VERBS else set())
        if path.name == "__init__.py":
            yield from hidden(path, tree)
        elif folder in PLUGINS:
            yield from alike(path, tree)


def functions(path: Path, tree: ast.Module, exempt: set[str]) -> Iterator[str]:
    """Functions whose bodies are too long or that have too many parameters, unless exempt."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            where = f"{path}:{node.lineno} {node.name}"
            if (lines := body_lines(node)) > MOST_BODY_LINES:
                yield f"{where}: a body of {lines} lines, at most {MOST_BODY_LINES}"
            if (count := parameters(node)) > MOST_PARAMETERS and node.name not in exempt:
                yield f"{where}: {count} parameters, at most {MOST_PARAMETERS}"


def body_lines(node: Function) -> int:
    """From the first statement after the docstring to the end."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def parameters(node: Function) -> int:
    """How many, with ``*args`` and ``**kwargs``, without self and cls."""
    a = node.args
    named = [*a.posonlyargs, *a.args]
    own = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - own + len(a.kwonlyargs) + (a.vararg is not None) + (a.kwarg is not None)


def verbs(tree: ast.Module) -> set[str]:
    """The functions that a file registers: ``COMMANDS.add("run", run_recipe)``, or under ``@LEDGER.command("run")``."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 2)
    added = {ast.unparse(call.args[1]) for call in calls if ast.unparse(call.func) == "COMMANDS.add"}
    functions = (node for node in ast.walk(tree) if isinstance(node, Function))
    return added | {f.name for f in functions if any(".command(" in ast.unparse(d) for d in f.decorator_list)}


def alike(path: Path, tree: ast.Module) -> Iterator[str]:
    """A file of a plug-in folder that defines its own name."""
    for name, line in defined(tree):
        if name == path.stem:
            yield f"{path}:{line} {name} is the file's name too: name it for the verb or the object"


def hidden(path: Path, tree: ast.Module) -> Iterator[str]:
    """An ``__init__`` that binds a name of a module beside it to something else."""
    beside = {other.stem for other in path.parent.glob("*.py")}
    beside |= {other.parent.name for other in path.parent.glob("*/__init__.py")}
    for name, line in (*defined(tree), *imported(tree)):
        if name in beside:
            yield f"{path}:{line} {name} hides the module of this name beside it"


def defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The functions, classes and values that a module defines, and where."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            yield from ((name.id, node.lineno) for name in names)


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The names that a module imports, and where; not those of ``from . import module``, which are no others' names."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            beside = isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is None
            for alias in node.names:
                if not beside or alias.asname is not None:
                    yield alias.asname or alias.name.partition(".")[0], node.lineno


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
