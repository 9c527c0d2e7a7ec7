"""docs/export.md does what it says: each of its commands, in order, then its Python."""

import re
import shlex
from pathlib import Path

import pytest

from flatbit.engine import read_run

TEXT = (Path(__file__).parents[2] / "docs/export.md").read_text()
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()]
DEPLOY, SNIPPET, QONNX = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)


def test_its_commands_lead_to_a_file_that_runs(flatbit, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("qonnx")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "flatbit"
        result = flatbit(*words)
        assert result.status == 0, result
    written = {path.name for path in Path("runs/digits/export").iterdir()}
    assert written == {"integer.onnx", "packed.safetensors", "qdq.onnx", "qonnx.onnx"}
    assert {f"export/{name}" for name in written} == {
        found.file for found in read_run("runs/digits").record.exports.values()
    }
    assert all(name in Path("runs/digits/report.html").read_text() for name in written)
    exec(compile(SNIPPET + QONNX, "docs/export.md", "exec"), {})
    assert len(re.findall(r"\d", capsys.readouterr().out)) >= 10


def test_its_one_call_in_python(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    exec(compile(DEPLOY, "docs/export.md", "exec"), {})
    assert (tmp_path / "net.onnx").is_file()
    assert "class changed" in capsys.readouterr().out
