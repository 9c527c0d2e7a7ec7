"""The generated pages: what is in the repository is what the ledger says."""

import importlib.util
import re
from pathlib import Path

import pytest

from flatbit.ledger import markdown
from flatbit.ledger.evidence import shelf
from flatbit.ledger.experiments import experiment, experiments
from flatbit.ledger.markdown import bits_of, experiments_page, results_page, table

from .cases import diverged, proof_of, shelf_of, shortened

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages_script", ROOT / "scripts/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_script_would_write(pages, capsys):
    assert pages.main(True) == 0, capsys.readouterr().out


def test_a_stale_page_is_told_and_then_written(pages, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    for name in ("results_page", "experiments_page", "readme_block"):
        monkeypatch.setattr(pages, name, lambda *given: "page\n")
    readme = tmp_path / "README.md"
    readme.write_text("text\n<!-- ledger: written -->\nold\n<!-- /ledger -->\nmore\n")
    assert pages.main(True) == 1
    assert "results.md is not what the ledger says" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == [readme]
    assert pages.main(False) == 0
    assert (tmp_path / "results.md").read_text() == "page\n"
    assert readme.read_text() == "text\n<!-- ledger: written -->\npage\n<!-- /ledger -->\nmore\n"
    assert pages.main(True) == 0


def test_every_experiment_has_its_command_in_the_page():
    page = experiments_page()
    commands = re.findall(r"^\| .* \| `(flatbit run .+)` \|$", page, re.MULTILINE)
    assert [command.replace("\\|", "|") for command in commands] == [
        entry.command() for entry in experiments().values()
    ]


def test_bits_are_those_of_the_quantized_stages():
    assert bits_of(experiment("hol/f2-128-4")) == "2/32, 32/2, 2/2"
    assert bits_of(experiment("saq/resnet20-float")) == "32/32"
    assert bits_of(experiment("sqwa/t2-late")) == "2/32"


def test_a_table_keeps_its_columns():
    assert table(("a", "b"), [("1|2", "3")]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"


@pytest.fixture
def results(monkeypatch):
    """The page of results, with countable rows as they are printed."""
    monkeypatch.setattr("flatbit.ledger.cells.count", lambda row, name, stage: row.value)
    return lambda *evidence: results_page(shelf_of(*evidence))


def test_what_was_run_stands_by_table_with_its_status(results):
    page = results(*(proof_of("hol/f2-128-4", score, seed=seed) for seed, score in enumerate((84.3, 84.7))))
    section = page.split("### HOL/Fig2\n")[1].split("###")[0]
    assert re.search(r"\| W2/A2 \| region_acc \| 84\.6 \| 84\.50 ± 0\.28 \(n 2\) \| -0\.10 \| reproduced \|", section)
    assert "hol-fcdnn-spirals, 300 + 1000 epochs, cpu" in section
    assert "## All 761 rows" in page


def test_shortened_runs_and_runs_that_diverged_are_named_so(results):
    short = shortened(experiment("hol/f2-128-4").made(), 10)
    page = results(proof_of("hol/f2-128-4", 84.6, recipe=short), diverged("hol/f2-256-4"))
    assert re.search(r"\| 84\.6 \| 84\.60 \(n 1\) \| .*shortened \(2310 epochs in place of 3300\)", page)
    assert "1 of 1 runs diverged" in page


def test_every_paper_and_status_is_counted(results):
    page = results()
    head, _, *rows = page.split("## All 761 rows\n\n")[1].split("\n\n")[0].splitlines()
    columns = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    totals = [sum(int(row[k] or 0) for row in columns) for k in range(1, len(columns[0]))]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "status",
        "SQWA",
        "HOL",
        "SAQ",
        "UNIQ",
        "FAQ",
        "all",
    ]
    assert totals == [110, 188, 282, 114, 67, 761]


def test_findings_stand_below_their_table(results, monkeypatch, tmp_path):
    (tmp_path / "findings.toml").write_text('"HOL/Fig2" = "Because of this."\n')
    monkeypatch.setattr(markdown, "FINDINGS", tmp_path / "findings.toml")
    page = results(proof_of("hol/f2-128-4", 84.6))
    assert "Because of this." in page.split("### HOL/Fig2\n")[1].split("###")[0]
    assert "Because of this." not in results()


def test_our_own_experiments_are_listed_as_far_as_they_are_there():
    assert "FAQ at 8 bits, the paper's one epoch" in (ROOT / "docs/results.md").read_text()
    assert shelf().of("own/c10-faq-8")
