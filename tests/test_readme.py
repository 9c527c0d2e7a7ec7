"""The README does what it says: every code block runs, and its table is what the quickstart printed."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs/design.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines() if line.strip()]
BINARIES = Path(os.sys.executable).parent


def call(command, cwd):
    environment = os.environ | {"PATH": f"{BINARIES}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_something_to_run():
    assert {kind for kind, _ in BLOCKS} <= {"sh", "python", "text"}
    assert "scripts/quickstart" in COMMANDS
    assert "scripts/test" in COMMANDS


def test_python_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for body in (body for kind, body in BLOCKS if kind == "python"):
        exec(compile(body, "README.md", "exec"), {"__name__": "__main__"})
    assert (tmp_path / "runs/readme.safetensors").is_file()
    assert "of the weights quantized" in capsys.readouterr().out


def test_the_plug_in_of_the_design_page_runs_as_printed(tmp_path):
    body = re.findall(r"^```python\n(.*?)^```$", DESIGN, re.MULTILINE | re.DOTALL)[0]  # test_plugins has the others
    [command] = re.findall(r"`(flatbit run [^`]*--plugin mine\.py[^`]*)`", DESIGN)
    (tmp_path / "mine.py").write_text(body)
    call([*shlex.split(command), "--smoke"], tmp_path)


def test_flatbit_commands_run_as_printed_in_this_order(tmp_path):
    for command in COMMANDS:
        if command.startswith("flatbit "):
            assert call(shlex.split(command), tmp_path)


def test_scripts_run_as_printed(tmp_path):
    """With flags that make them short: the quickstart in full takes a minute, and the suite would run itself."""
    short = {
        "scripts/quickstart": ["--smoke", "--seeds", "1", "--out", str(tmp_path)],
        "scripts/test": ["--collect-only", "tests/test_registry.py"],
    }
    for command in COMMANDS:
        if command.startswith("scripts/"):
            assert call([*shlex.split(command), *short[command]], ROOT)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("link", sorted({link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link}))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
