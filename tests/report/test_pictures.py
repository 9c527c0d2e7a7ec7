import re
from dataclasses import replace

import pytest

import flatbit as fb
from flatbit.data.sets.digits import load_digits
from flatbit.figures.style import COLORS
from flatbit.recipes import RECIPES
from flatbit.report.pictures import (
    MOST_LAYERS,
    cost_pictures,
    learning_pictures,
    misread_stages,
    stage_model,
    weight_pictures,
)
from flatbit.report.summary import summarize

from ..engine.cases import ran
from .cases import FLOAT, UNIQ, entry, made

ONE = replace(UNIQ, inner="W1/A1", first="float", last="float", shortcut="float", image="float")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = RECIPES.get("quickstart").recipe("quickstart", {})
    return ran(recipe, tmp_path_factory.mktemp("run") / "seed0", smoke=True)


def said(svg):
    return re.match(r'<svg role="img" aria-label="([^"]*)"', svg)[1]


def costs(**entries):
    runs = [made(**entries)]
    return cost_pictures(runs, summarize(runs))


def lines_of(svg, color):
    """How many lines that join points an svg has in a colour."""
    style = f"fill: none; stroke: {color}; stroke-width: 1.4"
    return len(re.findall(rf'<path d="M [^"]*L [^"]*" clip-path="[^"]*" style="{style}', svg))


FOUR, TWO = (entry(score, replace(UNIQ, inner=bits, shortcut=bits), bitops=cost) for score, bits, cost in
             ((98.0, "W4/A4", 10_000_000), (97.0, "W2/A2", 2_000_000)))  # fmt: skip


def test_a_line_joins_nets_of_one_method_and_convention_alone():
    joined, _ = costs(float=entry(99.0), four=FOUR, two=TWO)
    other = replace(FOUR.test.convention, batch_norm="fixed point")
    apart, _ = costs(float=entry(99.0), four=replace(FOUR, test=replace(FOUR.test, convention=other)), two=TWO)
    assert lines_of(joined, COLORS[1]) == lines_of(apart, COLORS[1]) + 1


def test_float_edges_are_said_beside_the_point():
    assert "uniq W1/A1, float edges: 90.00 at 5.0" in said(costs(a=entry(99.0), b=entry(90.0, ONE))[0])
    assert "float edges" not in said(costs(a=entry(99.0), b=TWO)[0])


def test_points_of_the_same_method_and_bits_are_named_by_their_stage():
    drawn, _ = costs(first=TWO, second=TWO)
    assert "uniq first: 97.00 at 2.0; uniq second: 97.00 at 2.0" in said(drawn)
    assert lines_of(drawn, COLORS[0]) == 2  # a bar of each, and no line between


def test_many_widths_are_one_word_beside_the_point():
    mixed = replace(UNIQ, inner=", ".join(f"W{w}/A{a}" for w in range(2, 7) for a in (3, 4, 5)))
    assert "uniq mixed W2-6/A3-5: 97.00" in said(costs(a=entry(99.0, FLOAT), b=entry(97.0, mixed))[0])


def test_a_method_has_one_colour_in_all_charts(run):
    rows = summarize([run])
    svgs = {said(svg).split(",")[0]: svg for svg in learning_pictures([run], rows)}
    colors = {"float": COLORS[0], "faq-w4a4": COLORS[1], "uniq-w4a4": COLORS[2], "uniq-w1a1": COLORS[2]}
    for stage, color in colors.items():
        assert color in svgs[stage]
        assert not {*colors.values()} - {color} & {*re.findall("#[0-9a-f]{6}", svgs[stage])}
    drawn = cost_pictures([run], rows)[0]
    assert {*colors.values()} <= {*re.findall("#[0-9a-f]{6}", drawn)}


def test_the_first_layers_are_drawn_of_how_many(run):
    found = weight_pictures(run)["faq-w4a4"]
    assert (len(found.svgs), found.num_layers) == (MOST_LAYERS, 10)


def test_the_misread_are_counted_and_drawn(run):
    rows = summarize([run])
    found = misread_stages(run, rows, None)
    tops = [run.record.stages[name].test.top1 for name in (found.first, found.last)]
    assert [found.first_wrong, found.last_wrong] == [round(450 * (1 - top1 / 100)) for top1 in tops]
    assert (found.first, found.last, found.num_samples) == ("float", "uniq-w1a1", 450)
    assert len(found.svgs) == 18 < found.num_misread
    assert re.fullmatch(r"test image \d+, which is \d: float says \d, uniq says \d", said(found.svgs[0]))
    assert misread_stages(run, rows[:1], None) is None


def test_two_stages_of_one_method_are_told_apart_by_their_bits(run):
    rows = [row for row in summarize([run]) if row.method == "faq"]
    assert "W8/A8 says" in said(misread_stages(run, rows, None).svgs[0])


def test_stage_model_is_the_model_of_that_stage(run):
    entry = run.record.stages["uniq-w2a2"].test
    assert fb.evaluate(stage_model(run, "uniq-w2a2"), load_digits().test_batches()).top1 == entry.top1
