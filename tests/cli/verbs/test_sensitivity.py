import json
from pathlib import Path

import pytest

from flatbit.search.sensitivity import MEASURES, Sensitivity

NETS = """
from torch import nn

class Untraced(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        if x.sum() > 0:
            x = x * 2
        return self.head(self.inner(x).relu().mean((2, 3)))
"""
SMALL = ("preresnet8", "--model-arg", "first_width=2", "--data", "digits", "--samples", 32)


def test_it_writes_and_prints_a_table_of_layers_and_widths(flatbit, own):
    result = flatbit("sensitivity", *SMALL, "--widths", "2,4")
    assert (result.status, result.err) == (0, "written: runs/sensitivity-loss.json\n")
    found = Sensitivity.load(Path("runs/sensitivity-loss.json"))
    assert (found.measure, found.num_samples) == ("loss", 32)
    assert next(iter(found.values)) == "layers.0.0.conv1"
    for name, row in found.values.items():
        assert list(row) == [2, 4]
        assert name in result.out
    assert "2 bits" in result.out


def test_as_json_it_is_the_whole_result(flatbit, own):
    words = ("--widths", "2,4", "--measure", "noise", "--policy", "lsq", "--out", "new/noise.json", "--json")
    result = flatbit("sensitivity", *SMALL, *words)
    assert result.status == 0, result.err
    found = Sensitivity.load(Path("new/noise.json"))
    said = json.loads(result.out)
    assert said["measure"] == "noise"
    assert {name: {int(bits): v for bits, v in row.items()} for name, row in said["values"].items()} == found.values
    assert all(row[4] < row[2] for row in found.values.values())


def test_a_forward_that_cannot_be_followed_takes_the_template_of_the_message(flatbit, own):
    net = own(NETS)
    words = ("sensitivity", f"{net}:Untraced", "--data", "digits", "--samples", 16, "--widths", "2,4")
    result = flatbit(*words)
    assert (result.status, result.out) == (2, "")
    assert "the forward of Untraced cannot be followed" in result.err
    Path("layers.toml").write_text(result.err.partition(":\n")[2])
    again = flatbit(*words, "--layers", "layers.toml", "--json")
    assert again.status == 0, again.err
    assert list(json.loads(again.out)["values"]) == ["inner"]


def test_the_help_lists_every_measure(flatbit):
    text = " ".join(flatbit("sensitivity", "--help").out.replace("│", " ").split())
    assert ", ".join(MEASURES.names()) in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("preresnet8",), "--data is not given"),
        (("preresnet9", "--data", "digits"), "unknown model 'preresnet9'"),
        (("preresnet8", "--data", "digit"), "unknown data set 'digit': did you mean digits"),
        ((*SMALL, "--measure", "los"), "unknown measure 'los': did you mean loss"),
        ((*SMALL, "--policy", "unik"), "unknown policy 'unik': did you mean uniq"),
        ((*SMALL, "--policy", "faq"), "is quantized where it is made"),
        ((*SMALL, "--widths", "2,9"), "--widths 2,9: expected bits from 1 to 8"),
        ((*SMALL, "--widths", "1,2", "--policy", "lsq"), "method 'lsq' takes 2 to 8 bits, got 1"),
        ((*SMALL, "--layers", "gone.toml"), "--layers gone.toml"),
        ((*SMALL, "--checkpoint", "gone.safetensors"), "gone.safetensors"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(refuses, own, words, says):
    assert says in refuses("sensitivity", *words)
    assert not list(Path().iterdir())
