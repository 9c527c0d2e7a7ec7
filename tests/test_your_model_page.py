"""The page on models of one's own does what it says."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.quant.table import FLOAT_CLASS, SUBCLASSES, TABLE

TEXT = (Path(__file__).parent.parent / "docs/your_model.md").read_text()
TRAINED, WRAPPER, HOOK = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _own_table():
    before = [(held, dict(held)) for held in (TABLE, FLOAT_CLASS, SUBCLASSES)]
    yield
    for held, kept in before:
        held.clear()
        held.update(kept)


def test_the_model_is_quantized_and_learns(capsys):
    names = {"__name__": "__main__"}
    exec(compile(TRAINED, "your_model.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "met nothing in a product when it ran" in printed
    assert float(printed.split()[-1]) > 80
    restless = names["Classifier"]()
    with pytest.raises(ValueError, match="auxiliary: the model never calls it in eval mode"):
        fb.quantize_(restless, fb.policy("lsq", weights=4), example=torch.zeros(1, 1, 8, 8))


def test_the_wrapper_and_the_hook_work():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, left, right):
            logits = self.left(left) + self.right(right)
            return logits, left

    names = {"nn": nn}
    exec(WRAPPER, names)
    names["model"] = model = names["OneInput"](Two())
    exec(HOOK, names)
    batch = (torch.randn(8, 2, 3), torch.arange(8) % 4)
    fb.quantize_(model, fb.policy("lsq", weights=4, activations=4))
    fb.calibrate_(model, [batch])
    assert fb.evaluate(model, [batch]).num_samples == 8
