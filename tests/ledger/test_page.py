"""The page: a row per cell, records that a browser can read, and nothing in them that could run."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from flatbit.ledger.cells import cells
from flatbit.ledger.page import write_page
from flatbit.ledger.published import published, selected

from .cases import proof_of, shelf_of

NASTY = "</script><script>alert(1)</script><!-- <b>&amp;\"'"
NAME = "hol/f2-128-4"


class Page(HTMLParser):
    """Rows, scripts and buttons of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.scripts, self.buttons, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        given = dict(attrs)
        if tag == "tr" and "data-status" in given:
            self.rows.append([given, ""])
        if tag == "script":
            self.scripts.append([given, ""])
        if tag == "button":
            self.buttons.append(given)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        elif self.rows:
            self.rows[-1][1] += data

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


def page_of(found, tmp_path):
    text = write_page(found, tmp_path / "page.html").read_text(encoding="utf-8")
    return text, Page(text)


def evidence():
    return shelf_of(*(proof_of(NAME, 84.0 + seed, seed=seed) for seed in range(2)))


def test_there_is_a_row_per_cell(tmp_path):
    found = cells(selected(["HOL/Fig2", "UNIQ/T1", "SAQ/T4"]), evidence())
    text, page = page_of(found, tmp_path)
    assert [
        row.partition("\n")[2].strip().partition("\n")[0][: len(cell.row.id)]
        for (_, row), cell in zip(page.rows, found, strict=True)
    ] == [cell.row.id for cell in found]
    assert [given["data-paper"] for given, _ in page.rows] == [cell.row.paper for cell in found]
    assert f"{len(found)} values of five papers" in text


def test_a_row_says_published_ours_difference_status_and_how(tmp_path):
    found = cells(selected(["HOL-Fig2-03"]), evidence())
    _, page = page_of(found, tmp_path)
    ((given, text),) = page.rows
    for said in (
        "HOL-Fig2-03",
        "W2/A2",
        "region_acc",
        "84.6",
        "84.50 ± 0.71 (n 2)",
        "-0.10",
        "reproduced",
        "300 + 1000 epochs",
    ):
        assert said in text, said
    assert given["data-status"] == "reproduced"


def test_statuses_can_be_filtered_by_each_that_a_row_has(tmp_path):
    shelf = shelf_of(*(proof_of(NAME, 60.0, seed=seed) for seed in range(2)))
    _, page = page_of(cells(selected(["HOL/Fig2", "FAQ"]), shelf), tmp_path)
    chips = {given["data-status"] for given in page.buttons if "data-status" in given}
    assert {given["data-status"] for given, _ in page.rows} == chips
    assert "short by" in chips


def records_of(page):
    (script,) = [text for given, text in page.scripts if given.get("id") == "records"]
    return json.loads(script)


def test_a_cell_opens_its_records(tmp_path):
    shelf = evidence()
    _, page = page_of(cells(selected(["HOL-Fig2-03"]), shelf), tmp_path)
    opened = [given["data-record"] for given in page.buttons if "data-record" in given]
    assert opened == ["0.json", "1.json"]
    records = records_of(page)
    assert [records[name]["seed"] for name in opened] == [0, 1]
    assert records["1.json"] == json.loads(json.dumps([*shelf.files.values()][1].run.as_dict()))


def test_runs_whose_files_have_one_name_are_told_apart(tmp_path):
    made = evidence()
    files = {path.parent / f"seed{each.run.seed}" / "run.json": each for path, each in made.files.items()}
    _, page = page_of(cells(selected(["HOL-Fig2-03"]), replace(made, files=files)), tmp_path)
    opened = [given["data-record"] for given in page.buttons if "data-record" in given]
    assert [records_of(page)[name]["seed"] for name in opened] == [0, 1]


def test_a_cell_without_runs_opens_its_command(tmp_path):
    (cell,) = found = cells(selected(["SAQ-T1-11"]), shelf_of())
    _, page = page_of(found, tmp_path)
    assert [given["data-command"] for given in page.buttons if "data-command" in given] == [cell.command]


def test_nothing_that_a_record_says_can_run(tmp_path):
    run = proof_of(NAME, 84.0)
    recipe = replace(run.run.recipe, settings={NASTY: NASTY}, name=NASTY)
    shelf = shelf_of(replace(run, run=replace(run.run, recipe=recipe, left_out={NASTY: NASTY}, device=NASTY)))
    text, page = page_of(cells(selected(["HOL-Fig2-03"]), shelf), tmp_path)
    assert len(page.scripts) == 2
    assert records_of(page)["0.json"]["recipe"]["settings"] == {NASTY: NASTY}
    (block,) = re.findall(r'<script id="records"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert "<" not in block
    assert "alert(1)</script>" not in text.replace(block, "")


def test_text_is_escaped(tmp_path):
    (cell,) = cells(selected(["HOL-Fig2-03"]), shelf_of())
    cell = replace(cell, row=replace(cell.row, network=NASTY, method=NASTY))
    text, page = page_of([cell], tmp_path)
    assert len(page.scripts) == 2
    assert "alert(1)</script>" not in text
    assert NASTY in unescape(text)


def test_an_error_leaves_the_page_of_before(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(AttributeError):
        write_page([None], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "before"


def test_the_page_needs_nothing_beside_itself(tmp_path):
    text, _ = page_of(cells(published()[:3], shelf_of()), tmp_path)
    assert not re.search(r"(src|href)=|https?://|@import", text)
