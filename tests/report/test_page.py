import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from flatbit.engine import Recipe, Stage
from flatbit.engine.record import Run
from flatbit.recipes import RECIPES
from flatbit.reference import From
from flatbit.report.page import write_page
from flatbit.report.summary import summarize

from ..engine.cases import ran
from ..recipes.cases import scenes

VOID = {"meta", "br", "hr", "img", "input", "link"}
SCENES = f"{scenes.__module__}:{scenes.__name__}"
STAGES = ("float", "faq-w8a8", "faq-w4a4", "uniq-w4a4", "uniq-w2a2", "uniq-w1a1")


class Page(HTMLParser):
    """A page as tags with their attributes, and whether they close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th", "code") and self.rows:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    recipe = RECIPES.get("quickstart").recipe("quickstart", {})
    return [ran(recipe, folder / f"seed{seed}", seed=seed, smoke=True) for seed in (0, 4)]


@pytest.fixture(scope="module")
def text(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert write_page(runs, path) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_it_is_one_well_formed_page(page):
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("html") == 1


def test_it_needs_nothing_beside_itself(page, text):
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), f"<{tag} {name}={value!r}>"
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_stage_has_its_row_with_accuracy_cost_and_convention(page, runs):
    found = {row[0]: row for row in page.rows if len(row) == 8}
    for row in summarize(runs):
        cells = found[row.stage]
        assert cells[1:3] == [row.bits, row.accuracy]
        assert cells[4:6] == [f"{row.size_bytes:,}", f"{row.bitops / 1e6:,.2f} M"]
        assert cells[7] == row.convention
    assert tuple(found)[1:] == STAGES


def test_two_seeds_are_averaged(page, runs):
    tops = [made.record.stages["uniq-w2a2"].test.top1 for made in runs]
    assert tops[0] != tops[1]
    row, told = (row for row in page.rows if row[0] == "uniq-w2a2")
    assert told[1] == "float"
    mean, spread = sum(tops) / 2, abs(tops[0] - tops[1]) / 2**0.5
    assert row[2] == f"{mean:.2f} ± {spread:.2f}"
    words = " ".join(" ".join(page.words).split())
    assert "2 seeds (0, 4)" in words
    assert "top-1 on 450 test images at the end of each stage, mean ± standard deviation over 2 seeds" in words
    assert "each seed thin, their mean thick" in words


def test_every_picture_is_there_and_says_what_it_shows(page, text):
    alts = [attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg"]
    assert all(alts)
    for start, count in (
        ("Accuracy against ", 2),
        ("test image ", 18),
        ("uniq-w2a2, top-1, % by epoch: ", 1),
        ("uniq-w2a2, layers.0.0.conv1: histogram of its weights, and their ", 1),
    ):
        assert sum(alt.startswith(start) for alt in alts) == count, start
    assert "faq W4/A4: " in alts[0]
    for heading in (
        "How it was trained",
        "Accuracy against cost",
        "What is misread",
        "Learning",
        "Weights and their levels",
    ):
        assert f"<h2>{heading}</h2>" in text


def test_title_and_command_head_the_page(runs, tmp_path):
    path = write_page(runs, tmp_path / "report.html", command="flatbit run quickstart --seeds '0,4'")
    made = Page(path.read_text(encoding="utf-8"))
    words = "".join(made.words)
    assert "quickstart: preresnet8 on digits" in words
    assert "flatbit run quickstart --seeds '0,4'" in words


def test_a_narrow_screen_names_every_cell(page):
    cells = [attributes["data-column"] for tag, attributes in page.tags if tag == "td" and "data-column" in attributes]
    assert {"stage", "bits", "top-1, %", "below float", "convention", "descent"} <= {*cells}


def test_no_column_is_empty(page):
    heads = [row for row in page.rows if row[0] == "stage"]
    assert [row[-1] for row in heads] == ["convention", "descent"]  # nothing stands besides


def test_the_proof_lists_every_quantized_tensor(page, runs):
    counted = [row for row in page.rows if len(row) == 3 and row[0].endswith("_quantizer")]
    proofs = [entry.test.proof.usage for entry in runs[0].record.stages.values()]
    expected = [[name, str(n.used), f"{n.allowed:,}"] for levels in proofs for name, n in levels.items()]
    assert counted == expected
    assert len(expected) > 50


def test_the_misread_counts_are_those_of_the_record(page, runs):
    words = " ".join(" ".join(page.words).split())
    first, last = (runs[0].record.stages[name].test.top1 for name in ("float", "uniq-w1a1"))
    wrong = [round(450 * (1 - top1 / 100)) for top1 in (first, last)]
    assert f"float misreads {wrong[0]} and uniq-w1a1 {wrong[1]} of 450 test images (seed 0)" in words


def test_versions_and_machine_are_named(text, runs):
    environment = runs[0].record.environment
    for key in ("torch", "python", "flatbit"):
        assert getattr(environment, key) in text


def small(name="tiny", **settings):
    stage = Stage(**{"name": "float", "epochs": 0} | settings)
    return Recipe(name=name, model="preresnet8", model_arguments={"first_width": 2}, data="digits", stages=(stage,))


def test_one_untrained_float_stage_still_gives_a_page(tmp_path):
    done = ran(small(), tmp_path / "run")
    text = write_page([done], tmp_path / "report.html").read_text(encoding="utf-8")
    words = " ".join(text.split())
    assert "1 seed (0)" in words
    assert "below float" not in text
    for heading in ("What is misread", "Learning", "Weights and their levels", "Proof of quantization"):
        assert f"<h2>{heading}</h2>" not in text


def test_segmentation_shows_what_is_seen_by_its_score(tmp_path):
    made = Recipe(
        name="scenes", model="deeplab_mobilenet_v2", model_arguments={"width": 0.3}, data=SCENES,
        stages=(Stage(name="float", epochs=0),),
    )  # fmt: skip
    text = write_page([ran(made, tmp_path / "run")], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>What is seen</h2>" in text
    assert "<h2>What is misread</h2>" not in text
    assert "mIoU, %" in text


def test_runs_with_captures_and_averages_say_so(tmp_path):
    kept = {"name": "average", "epochs": 0, "start": From.stage("float", average=True), "reestimate_batches": 1}
    made = small(epochs=2, lr=0.01, captures=(1, 2), max_steps=1)
    made = replace(made, stages=(*made.stages, Stage(**kept)))
    page = Page(write_page([ran(made, tmp_path / "run")], tmp_path / "report.html").read_text(encoding="utf-8"))
    told = [row for row in page.rows if len(row) == 5]
    assert [row[:3] for row in told[1:]] == [["float", "as built", "2"], ["average", "average of float", "0"]]
    assert "captured after epochs 1 (" in told[1][4]
    assert "batch norm re-estimated from 1 batches: " in told[2][4]


def test_names_are_escaped(tmp_path):
    done = ran(small("<script>alert(1)</script>"), tmp_path / "run")
    text = write_page([done], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert html.escape("<script>alert(1)</script>") in text


def test_an_old_page_is_replaced(tmp_path):
    done = ran(small(), tmp_path / "run")
    path = tmp_path / "report.html"
    path.write_text("old")
    write_page([done], path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_runs_of_different_recipes_give_no_page(runs, tmp_path):
    other = ran(small(), tmp_path / "run")
    with pytest.raises(ValueError, match="different recipes"):
        write_page([runs[0], other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_unfinished_run_gives_no_page(runs, tmp_path):
    unfinished = Run(folder=runs[0].folder, record=replace(runs[0].record, stages={}))
    with pytest.raises(ValueError, match="no stage is finished"):
        write_page([unfinished], tmp_path / "report.html")
