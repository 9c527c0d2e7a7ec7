"""Cells in words."""

from dataclasses import replace

import pytest

from flatbit.ledger import words
from flatbit.ledger.cells import Cell, cell
from flatbit.ledger.published import published

from .cases import proof_of, shelf_of

ROWS = {row.id: row for row in published()}
ROW = ROWS["HOL-Fig2-03"]


def run(*scores):
    return cell(ROW, shelf_of(*(proof_of("hol/f2-128-4", score, seed=seed) for seed, score in enumerate(scores))))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (68.43, "68.43"), (674.644, "674.6"), (41798.6, "41,799"), (0.335, "0.335"), (-3.0, "-3")],
)
def test_numbers(value, text):
    assert words.number(value) == text


def test_ours_says_how_many_seeds_and_their_spread():
    assert words.ours(run(84.3, 84.7)) == "84.50 ± 0.28 (n 2)"
    assert words.ours(run(84.3)) == "84.30 (n 1)"
    assert words.ours(run()) == ""
    assert words.ours(Cell(row=ROW, status="computed", ours=674.644)) == "674.6"


def test_a_difference_is_signed_and_relative_where_it_is_computed():
    assert words.difference(run(84.7, 84.7)) == "+0.10"
    assert words.difference(run(80.0, 80.0)) == "-4.60"
    assert words.difference(run()) == ""
    row = replace(ROW, metric="BOPs_M", value=50.0)
    assert words.difference(Cell(row=row, status="computed", ours=51.0)) == "+2.0 %"
    assert words.difference(Cell(row=replace(row, value=0.0), status="computed", ours=51.0)) == ""


def test_a_status_has_its_reason():
    assert words.status(run()) == "not run"
    assert words.status(Cell(row=ROW, status="not run", why="HAQ is quoted only")) == "not run (HAQ is quoted only)"
    assert words.status(Cell(row=ROW, status="trend", why="plotted only")) == "trend (plotted only)"


def test_how_says_convention_recipe_length_device_and_hours():
    assert words.how(run(84.3, 84.7)) == "float; hol-fcdnn-spirals, 300 + 1000 epochs, cpu, 4.00 h"
    assert words.how(run()) == ""


def test_one_epoch_is_no_epochs():
    found = proof_of("own/c10-faq-8")
    assert words.epochs(found) == "1 epoch"
    assert words.epochs(proof_of("hol/f1-128-3")) == "300 epochs"
