"""docs/plugins.md: its quantizer, recipe, network and data set go through every verb, and are short."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/plugins.md").read_text()
QUANTIZER, MINE, RECIPE, TOLD = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PLUGINS = ("--plugin", "maxstep.py", "--plugin", "mine.py")
VERBS = (
    "eval RUN", "cost RUN --input-shape 1,8,8", "doctor RUN --updates 1", "report RUN", "export RUN --form packed",
    "analyze weights RUN", "list quantizers", "quantize tiny --data shades --policy maxstep -w 2 -a 4 --epochs 1",
    "sensitivity RUN --measure loss --policy maxstep", "search RUN --budget 4bits --method ilp --policy maxstep",
    "run recipe.py --set weights=2 --smoke --seeds 2", "run recipe.py --set epochs=2 --resume --out RUN",
)  # fmt: skip
"""A call of every verb that takes a network, data or a quantizer; of a run that is there."""


def python(code, cwd, *words):
    """Run a process with nothing but flatbit on its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def flatbit(cwd, *words):
    return python("from flatbit.cli import main; main()", cwd, *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files, and a run of them in RUN."""
    made = tmp_path_factory.mktemp("own")
    for name, text in (("maxstep", QUANTIZER), ("mine", MINE), ("recipe", RECIPE)):
        made.joinpath(f"{name}.py").write_text(text)
    done = flatbit(made, "run", "recipe.py", *PLUGINS, "--set", "epochs=2", "--out", "RUN")
    assert done.returncode == 0, done.stderr
    return made


def test_a_quantizer_takes_20_lines_and_a_recipe_15():
    def lines(text):
        return sum(1 for line in text.splitlines() if line.strip() and not line.startswith(("from", "import")))

    assert lines(QUANTIZER) <= 20
    assert len([line for line in RECIPE.splitlines() if line.strip()]) <= 15


def test_the_files_work_in_every_verb(folder):
    every = """
import io, sys
from contextlib import redirect_stdout
from flatbit.cli import main
for call in sys.argv[2:]:
    sys.argv = ["flatbit", *call.split(), "--plugin", "maxstep.py", "--plugin", "mine.py"]
    try:
        with redirect_stdout(io.StringIO()):
            main()
    except SystemExit as ended:
        print(call, ended.code or 0)
"""
    done = python(every, folder, "flatbit", *VERBS)
    assert [line for line in done.stdout.splitlines() if not line.endswith(" 0")] == [], done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == len(VERBS)


def test_a_run_without_them_says_which_and_imports_none(folder):
    done = flatbit(folder, "eval", "RUN")
    said = re.search(r"^flatbit: runs/mine/(run.json: needs .*)$", PAGE, re.MULTILINE)[1]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"flatbit: RUN/{said}\n".replace("/home/me", str(folder.resolve()))


def test_the_record_has_paths_and_digests_and_a_changed_file_is_said(folder):
    kept = json.loads((folder / "RUN/run.json").read_text())["plugins"]
    assert [Path(each["file"]).name for each in kept[:3]] == ["maxstep.py", "mine.py", "recipe.py"]
    before = QUANTIZER
    (folder / "maxstep.py").write_text(before + "# another\n")
    done = flatbit(folder, "eval", "RUN", *PLUGINS)
    (folder / "maxstep.py").write_text(before)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("flatbit: ")]
    assert line.startswith(f"flatbit: RUN: plug-in {folder.resolve()}/maxstep.py has changed since: SHA-256 ")
    assert kept[0]["sha256"][:12] in line


def test_callbacks_are_told(folder):
    done = python(f"import sys; sys.path.insert(0, '.')\n{TOLD}", folder)
    assert re.fullmatch(r"float 1 [\d.]+ % \d+\nfew-bits 1 [\d.]+ % \d+\n", done.stdout), done.stderr
