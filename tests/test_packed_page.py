"""docs/packed.md does what it says: its table is what its code prints, its reader reads what is written."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.models import MODELS
from flatbit.quant.convert import apply_specs_
from flatbit.quant.spec import LayerSpec, TensorSpec

TEXT = (Path(__file__).parent.parent / "docs/packed.md").read_text()
WRITER, READER = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
[TABLE] = re.findall(r"<!-- table -->\n(.*?)<!-- /table -->", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def read_packed():
    assert len(READER.splitlines()) <= 60
    assert "flatbit" not in READER.replace("flatbit-packed", "")
    assert "torch" not in READER.replace('f"torch.', "")
    page = {}
    exec(compile(READER, "docs/packed.md", "exec"), page)
    return page["read_packed"]


def rows(text):
    """Numbers of a table, the header's sizes apart: safetensors may pad it otherwise."""
    return [[cell.strip() for cell in line.split("|")[1:4]] for line in text.strip().splitlines()]


def test_its_table_is_what_its_code_prints(tmp_path, monkeypatch, read_packed):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(WRITER, "docs/packed.md", "exec"), {})
    assert rows(printed.getvalue()) == rows(TABLE)
    sizes = [int(row[1].replace(",", "")) for row in rows(TABLE)[2:]]
    assert sizes == sorted(sizes, reverse=True)
    for path in sorted((tmp_path / "runs/packed").iterdir()):
        assert_reads(read_packed, path, fb.load(path))


def assert_reads(read_packed, path, model):
    """The reader's state is that of the loaded model, and its grids of activations too, bit for bit."""
    state, activations = read_packed(path)
    own = {name: tensor for name, tensor in model.state_dict().items() if "_quantizer." not in name}
    assert state.keys() == own.keys()
    for name, tensor in own.items():
        assert state[name].dtype == tensor.numpy().dtype
        assert np.array_equal(state[name], tensor.numpy()), name
    grids = {f"{layer}.input": found.input for layer, found in fb.grids(model).items() if found.input}
    grids |= {f"{layer}.output": found.output for layer, found in fb.grids(model).items() if found.output}
    assert activations.keys() == grids.keys()
    for name, grid in grids.items():
        found = activations[name]
        assert (found["offset"], found["low"], found["high"]) == (grid.offset, grid.low, grid.high)
        assert np.array_equal(found["step"], grid.step.numpy())


class Odd(nn.Module):
    """Grouped, transposed, tied, with biases."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.one, self.other = nn.Linear(5, 5), nn.Linear(5, 5)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(self.grouped(self.up(x))))


@pytest.mark.parametrize(("method", "bits"), [("lsq_plus", 3), ("uniq", 5), ("uniq", 1)])
def test_it_reads_steps_per_channel_groups_ties_and_fixed_point_biases(
    tmp_path, read_packed, monkeypatch, method, bits
):
    monkeypatch.setitem(MODELS._objects, "odd", Odd)
    model, x = fb.models.build("odd"), torch.randn(2, 4, 5, 5)
    tensors = {
        "input": TensorSpec(method=method, bits=bits),
        "weight": TensorSpec(method=method, bits=bits, granularity="channel"),
        "bias": TensorSpec(method="fixed_point", bits=32),
    }
    apply_specs_(model, {name: LayerSpec(policy="odd", tensors=tensors) for name, _ in model.named_children()})
    fb.calibrate_(model, [x])
    fb.export.packed(model.eval(), tmp_path / "m.safetensors")
    again = fb.load(tmp_path / "m.safetensors")
    assert torch.equal(again(x), model(x))
    assert_reads(read_packed, tmp_path / "m.safetensors", again)
