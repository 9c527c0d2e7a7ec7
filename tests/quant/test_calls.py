import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit.metrics.evaluation import evaluate
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.calls import READ_PAST, UNCALLED, mend, read_past
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy as make_policy

X, Y = torch.randn(8, 6), torch.arange(8) % 4
POLICIES = {
    "inputs": make_policy("lsq", weights=4, activations=4),
    "outputs": make_policy("lsq", weights=4, activations=4, placement="output"),
    "weights": make_policy("lsq", weights=4),
}


class ReadsPast(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out, self.act = nn.Linear(6, 6), nn.Linear(6, 4), nn.ReLU()

    def forward(self, x):
        return self.out(self.act(F.linear(x, self.body.weight, self.body.bias)))


class NeverCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.idle, self.out, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4), nn.ReLU()

    def forward(self, x):
        return self.out(self.act(self.body(x)))


class BranchesOnData(ReadsPast):
    """Its code cannot be followed."""

    def forward(self, x):
        return super().forward(x) if x.sum() < 1e9 else x


KINDS = [(ReadsPast, "body", READ_PAST), (NeverCalls, "idle", UNCALLED), (BranchesOnData, "body", READ_PAST)]


def train_(model, policy, **options):
    """From quantize_ to a score."""
    coverage = quantize_(model, policy, **options)
    calibrate_(model, [(X, Y)])
    evaluate(model, [(X, Y)])
    return coverage


@pytest.mark.parametrize(("kind", "layer", "words"), KINDS)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_mend_that_the_error_names_works_at_once(kind, layer, words, policy):
    with pytest.raises((ValueError, RuntimeError)) as caught:
        train_(kind(), policy)
    said = str(caught.value)
    if policy is POLICIES["inputs"]:
        assert f"{layer}: {words}" in said
    [named] = re.findall(r"policy((?:\.override\([^)]*\))+)", said)
    mended = eval(f"policy{named}", {"policy": policy})  # what a user would paste
    coverage = train_(kind(), mended)
    assert [row.name for row in coverage.kept_float] == [layer]


@pytest.mark.parametrize(("kind", "layer", "words"), KINDS)
def test_with_an_example_it_is_said_by_quantize(kind, layer, words):
    with pytest.raises(ValueError, match=f"1 layers cannot be quantized.*\n  {layer}: {re.escape(words)}"):
        quantize_(kind(), POLICIES["inputs"], example=X[:1])
    coverage = train_(kind(), POLICIES["inputs"], strict=False, example=X[:1])
    assert [row.name for row in coverage.refused] == [layer]


def test_coverage_counts_no_weight_that_is_read_past_its_call():
    coverage = quantize_(ReadsPast(), POLICIES["inputs"])
    assert coverage.fraction == pytest.approx(24 / 60)
    assert next(row for row in coverage.layers if row.name == "body").note == READ_PAST


def test_code_that_can_be_followed_shows_what_it_reads():
    assert read_past(ReadsPast()) == {"body"}
    assert read_past(NeverCalls()) == read_past(BranchesOnData()) == set()


def test_the_mend_of_several_layers_is_one_line():
    assert mend(["a", "b.c"]) == (
        "policy.override('a', weights=32, activations=32).override('b.c', weights=32, activations=32)"
    )
