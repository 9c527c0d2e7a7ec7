"""Countable rows: the numbers of closed forms, got from the models and formulas themselves."""

import math
from dataclasses import replace

import pytest
import torch

from flatbit import models
from flatbit.ledger import counting
from flatbit.ledger.cells import cell
from flatbit.ledger.counting import analytic, count, counted, sqnr_db
from flatbit.ledger.evidence import Shelf
from flatbit.ledger.experiments import filled_by
from flatbit.ledger.published import published
from flatbit.quant.grid import midrise, unsigned

NOTHING = Shelf(files={}, left_out={})
ROWS = {row.id: row for row in published()}
BITOPS = [
    ("saq/resnet20-float", 41798.599e6), ("saq/resnet20-saq-4", 674.644e6), ("saq/resnet20-saq-3", 392.053e6),
    ("saq/resnet20-saq-2", 190.202e6), ("saq/mobilenet-saq-4", 1508.934e6),
    ("saq/resnet18-imagenet-float", 1857.611e9), ("saq/resnet18-imagenet-saq-4", 34.714e9),
    ("saq/resnet18-imagenet-saq-3", 22.846e9), ("saq/resnet18-imagenet-saq-2", 14.368e9),
]  # fmt: skip
HOL = {
    "hol/t1-resnet-34": (21.798, 3.664), "hol/t1-resnet-18x1.4": (22.812, 3.520),
    "hol/t1-resnet-26x1.1": (21.431, 3.264), "hol/t1-resnet-50": (25.557, 4.089),
    "hol/t1-resnet-44x1.1": (24.988, 4.606),
}  # fmt: skip
TABLE_1 = {
    "unit_step_weight": (1.596, 0.996, 0.586, 0.335), "SQNR_weight_dB": (4.4, 9.3, 14.3, 19.4),
    "unit_step_act": (1.224, 0.651, 0.353, 0.193), "SQNR_act_dB": (5.5, 11.6, 17.2, 22.7),
}  # fmt: skip


@pytest.mark.parametrize(("name", "bitops"), BITOPS)
def test_bit_operations_of_saqs_tables(name, bitops):
    """Of SAQ's Tables 1 and 2, from the formula of section 4.1: to the last digit that they have."""
    assert counted(name, "").bitops == pytest.approx(
        bitops, abs=0.5 * 10 ** (3 if bitops < 1e11 and "imagenet" not in name else 6)
    )


@pytest.mark.parametrize(("name", "params", "macs"), [(name, *pair) for name, pair in HOL.items()])
def test_parameters_and_multiply_adds_of_hols_table_1(name, params, macs):
    found = counted(name, "float")
    assert found.params / 1e6 == pytest.approx(params, rel=4e-4)  # a pre-activation net has a few batch norms less
    assert found.macs / 1e9 == pytest.approx(macs, abs=5e-4)


def convolutions(n, width, classes):
    """Multiply-adds of SAQ's pre-activation ResNet-20, layer by layer: first, inner, last."""
    stem = 9 * 3 * width * 32 * 32
    inner = 0
    before = width
    for stage in range(3):
        wide, side = width * 2**stage, 32 // 2**stage
        inner += (9 * before * wide + 9 * wide * wide * (2 * n - 1)) * side**2
        inner += before * wide * side**2 if stage else 0
        before = wide
    return stem, inner, before * classes


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_resnet_20_by_hand(bits):
    stem, inner, last = convolutions(3, 16, 100)
    assert counted(f"saq/resnet20-saq-{bits}", "").bitops == 64 * (stem + last) + bits**2 * inner
    assert counted("saq/resnet20-float", "").bitops == 32 * 32 * (stem + inner + last)


@pytest.mark.parametrize("metric", TABLE_1)
def test_uniqs_table_1(metric):
    rows = [row for row in published() if row.metric == metric]
    ours = [analytic(row) for row in rows]
    digits = 5e-4 if "step" in metric else 0.05
    assert ours == pytest.approx(TABLE_1[metric], abs=digits)
    for row, value in zip(rows, ours, strict=True):
        assert value == pytest.approx(row.value, abs=0.05)


def test_the_ratio_is_of_the_float_net():
    row = replace(ROWS["SAQ-T1-10"], metric="BOP_ratio")
    stem, inner, last = convolutions(3, 16, 100)
    assert count(row, "saq/resnet20-saq-4", "") == 1024 * (stem + inner + last) / (64 * (stem + last) + 16 * inner)


def test_sqnr_of_one_bit_is_known():
    """A binary grid at ``sqrt(2/pi)`` leaves ``1 - 2/pi`` of the variance."""
    step = 2 * math.sqrt(2 / math.pi)
    assert sqnr_db(step, midrise(1)) == pytest.approx(-10 * math.log10(1 - 2 / math.pi), abs=1e-4)


def test_a_rectified_gaussian_is_taken_with_its_zeros():
    whole, rectified = (sqnr_db(0.651, unsigned(2), rectified=r) for r in (False, True))
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)).clamp(min=0).double()
    quantized = 0.651 * (x / 0.651).round().clamp(0, 3)
    assert rectified == pytest.approx(10 * (x.var() / (x - quantized).square().mean()).log10().item(), abs=0.02)
    assert whole < rectified


@pytest.fixture
def anew():
    counted.cache_clear()
    yield
    counted.cache_clear()


def test_the_model_is_built_and_counted_when_asked(monkeypatch, anew):
    row = ROWS["SAQ-T1-09"]
    assert row.metric == "BOPs_M"
    before = cell(row, NOTHING)
    assert (before.status, round(before.ours, 1)) == ("computed", 674.6)
    whole = models.build
    monkeypatch.setattr(models, "build", lambda name, **arguments: whole(name, **arguments | {"first_width": 8}))
    counted.cache_clear()
    stem, inner, last = convolutions(3, 8, 100)
    assert cell(row, NOTHING).ours == (64 * (stem + last) + 16 * inner) / 1e6


def test_the_formula_is_solved_when_asked(monkeypatch):
    row = ROWS["UNIQ-T1-01"]
    monkeypatch.setitem(counting.ANALYTIC, row.metric, lambda bits: 100.0 + bits)
    assert cell(row, NOTHING).ours == 100 + int(row.w_bits)


def test_counting_takes_no_memory_for_weights():
    """The largest net of the tables is built on the meta device."""
    assert counted("hol/t1-resnet-101", "hol-w2a2").params > 44e6


def learned(row):
    """Whether a net that learns its bits (DQ) fills it: what that costs is read from its run."""
    return row.id in filled_by() and filled_by()[row.id][0].recipe.startswith("dq-")


def test_every_own_countable_row_is_computed_and_near_what_is_printed():
    metrics = {*counting.COUNTED, *counting.ANALYTIC}
    asked = [
        row
        for row in published()
        if row.metric in metrics and (row.id in filled_by() or row.metric in counting.ANALYTIC) and not learned(row)
    ]
    assert len(asked) >= 75
    found = [cell(row, NOTHING) for row in asked]
    assert {each.status for each in found} == {"computed"}
    far = {each.row.id: each.ours for each in found if each.ours and abs(each.difference) > 0.02 * each.row.value}
    assert {id for id in far if not id.startswith("HOL-T5")} == set()
    assert all(abs(value - ROWS[id].value) < 0.05 for id, value in far.items())  # with the running statistics there
