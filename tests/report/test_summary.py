import json
from dataclasses import replace

import pytest
from rich.console import Console

from flatbit.engine.way import Way
from flatbit.report.summary import as_json, summarize, table_of

from .cases import FAQ, FLOAT, UNIQ, entry, made


def two_seeds():
    first = {"float": entry(98.0, seconds=10.0, best=98.5), "w2": entry(96.0, UNIQ, seconds=20.0, best=97.0)}
    second = {"float": entry(99.0, seconds=30.0, best=99.5), "w2": entry(95.0, UNIQ, seconds=40.0, best=95.0)}
    return [made(**first), made(**second, seed=1)]


def without(run, stage):
    """The run before this stage was finished."""
    kept = {name: entry for name, entry in run.record.stages.items() if name != stage}
    return replace(run, record=replace(run.record, stages=kept))


def test_seeds_are_averaged_with_their_standard_deviation():
    reference, quantized = summarize(two_seeds())
    assert (reference.score, quantized.score) == (98.5, 95.5)
    assert reference.spread == pytest.approx(0.5**0.5)
    assert (reference.best, quantized.best) == (99.0, 96.0)
    assert (reference.seconds, quantized.seconds) == (20.0, 30.0)
    assert quantized.num_seeds == 2
    assert quantized.accuracy == "95.50 ± 0.71"


def test_loss_is_points_below_the_float_stage():
    reference, quantized = summarize(two_seeds())
    assert quantized.loss == 3.0
    assert reference.loss is None


def test_loss_is_counted_from_the_first_float_stage():
    rows = summarize([made(a=entry(99.0, FLOAT), b=entry(98.0, UNIQ), c=entry(97.0, FLOAT), d=entry(96.0, UNIQ))])
    assert [row.loss for row in rows] == [None, 1.0, 2.0, 3.0]


def test_without_a_float_stage_there_is_no_loss():
    (row,) = summarize([made(w2=entry(96.0, UNIQ))])
    assert row.loss is None


def test_one_seed_has_no_spread():
    row = summarize(two_seeds()[:1])[0]
    assert row.spread is None
    assert row.accuracy == "98.00"


def test_untrained_stages_have_no_best():
    (row,) = summarize([made(w2=entry(96.0, UNIQ, best=None))])
    assert row.best is None


def test_bits_method_and_cost_are_those_of_the_record():
    reference, quantized = summarize(two_seeds())
    assert (reference.method, reference.bits) == ("float", "W32/A32")
    assert (quantized.method, quantized.bits) == ("uniq", "W2/A2")
    assert (quantized.size_bytes, quantized.bitops) == (1234, 5_000_000)


def test_the_convention_is_spelled_out():
    rows = summarize([made(a=entry(1, FLOAT), b=entry(1, UNIQ), c=entry(1, FAQ))])
    assert [row.convention for row in rows] == [
        "float",
        "first W8/A8, last W8/A8, shortcut W2/A2, image 8 bit, weight step per tensor, activations at the input, "
        "batch norm float, bias float, every product of integers",
        "first W8/A8, last W8/A8, shortcut none, image 8 bit, weight step per tensor, activations at the input, "
        "batch norm fixed point, bias float, every product of integers",
    ]
    assert [row.first_last for row in rows] == [
        "", "edges W8/A8", "edges W8/A8, BN fixed point",
    ]  # fmt: skip


def test_the_precision_of_training_stands_with_the_numbers():
    half = Way(precision="bf16", graphs=True)
    rows = summarize([made(a=entry(1, FLOAT, way=half), b=entry(1, UNIQ, way=half))])
    assert [row.first_last for row in rows] == [
        "trained in bf16", "edges W8/A8, trained in bf16",
    ]  # fmt: skip
    assert all(row.convention.endswith(", trained in bf16") for row in rows)


def test_runs_of_different_precision_are_not_averaged():
    runs = two_seeds()
    runs[1] = replace(runs[1], record=replace(runs[1].record, precision="tf32"))
    with pytest.raises(ValueError, match="runs of different precision cannot be averaged: float32, tf32"):
        summarize(runs)


def test_only_stages_that_every_run_finished():
    whole, cut = two_seeds()
    cut = without(cut, "w2")
    assert [row.stage for row in summarize([whole, cut])] == ["float"]
    assert [row.stage for row in summarize([cut, whole])] == ["float"]


def test_nothing_finished_is_an_error():
    with pytest.raises(ValueError, match="no stage is finished in every run"):
        summarize([made()])


def test_no_runs_is_an_error():
    with pytest.raises(ValueError, match="no runs to summarize"):
        summarize([])


def test_different_recipes_are_not_averaged():
    runs = [made(name="mine", a=entry(1)), made(name="yours", a=entry(1), seed=1)]
    with pytest.raises(ValueError, match="different recipes or settings cannot be averaged: mine, yours"):
        summarize(runs)


def test_settings_that_make_the_same_stages_are_averaged():
    runs = two_seeds()
    recipe = replace(runs[1].record.recipe, settings={"lr": 0.1})
    runs[1] = replace(runs[1], record=replace(runs[1].record, recipe=recipe))
    assert [row.num_seeds for row in summarize(runs)] == [2, 2]


def test_different_settings_of_one_recipe_are_not_averaged():
    runs = two_seeds()
    recipe = runs[1].record.recipe
    stages = (recipe.stages[0], replace(recipe.stages[1], lr=0.2))
    runs[1] = replace(runs[1], record=replace(runs[1].record, recipe=replace(recipe, stages=stages)))
    with pytest.raises(ValueError, match="different recipes or settings"):
        summarize(runs)


def test_a_run_of_segmentation_is_scored_by_miou():
    runs = [made(a=entry(60.0, metric="miou"), b=entry(55.0, UNIQ, metric="miou"))]
    reference, quantized = summarize(runs)
    assert (reference.metric, reference.score, quantized.loss) == ("miou", 60.0, 5.0)
    assert "mIoU %" in printed([reference, quantized])


def printed(rows, width=160):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table_of(rows, "a title"))
    return capture.get()


def test_the_table_holds_every_row():
    text = printed(summarize(two_seeds()))
    assert "a title" in text
    assert "mean ± std over 2 seeds" in text
    line = next(line for line in text.splitlines() if "w2" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [
        "w2", "W2/A2", "95.50 ± 0.71", "+3.00", "1,234", "5.0 M", "30.0 s", "edges W8/A8",
    ]  # fmt: skip


def test_the_float_row_claims_no_loss():
    runs = [made(a=entry(99.0, FLOAT), c=entry(97.0, FLOAT))]
    assert "+2.00" not in printed(summarize(runs))


def test_json_is_plain_and_whole():
    rows = summarize(two_seeds())
    plain = json.loads(json.dumps(as_json(rows)))
    assert [row["stage"] for row in plain] == ["float", "w2"]
    assert plain[1]["score"] == 95.5
    assert set(plain[1]) == set(type(rows[1]).__dataclass_fields__)


def test_the_net_that_is_kept_is_marked_with_what_it_scored_held_out():
    stages = {"float": replace(entry(98.0), held_out=99.0), "w2": replace(entry(96.0, UNIQ), held_out=90.0)}
    run = made(**stages)
    assert [row.kept for row in summarize([run])] == [False, True]
    kept = replace(run, record=replace(run.record, kept="float"))
    rows = summarize([kept])
    assert [(row.kept, row.held_out) for row in rows] == [(True, 99.0), (False, 90.0)]
    console = Console(width=150)
    with console.capture() as capture:
        console.print(table_of(rows, "title"))
    assert all(word in capture.get() for word in ("held", "out %", "99.00", "90.00"))
    assert summarize([made(**stages | {"w2": entry(96.0, UNIQ)})])[1].held_out is None


MIXED = replace(
    UNIQ, policy="dq", inner="W2/A3, W3/A3, W4/A5, W6/A5", first="W6/A8", shortcut="W4/A5, W5/A5"
)  # fmt: skip


def test_a_net_of_many_widths_has_a_short_word_and_the_full_list_in_its_convention():
    (row,) = summarize([made(dq=entry(96.0, MIXED))])
    assert row.bits == "mixed W2-6/A3-5"
    assert row.convention.startswith("inner W2/A3, W3/A3, W4/A5, W6/A5, first W6/A8, last W8/A8, shortcut W4/A5, W5/A5")
    assert row.first_last == "first W6/A8, last W8/A8, shortcut mixed W4-5/A5"


def test_the_table_fits_100_columns():
    runs = [made(**{name: entry(99.0, MIXED) for name in ("float", "dq-with-a-long-name")}, seed=n) for n in (0, 1)]
    lines = printed(summarize(runs), width=150).splitlines()
    assert max(map(len, lines)) == 100


def test_a_column_that_nothing_stands_in_is_left_out():
    quantized = printed(summarize([made(a=entry(99.0, UNIQ), b=entry(98.0, UNIQ))]))
    assert "below" not in quantized
    assert "file" not in quantized
    assert "below" in printed(summarize(two_seeds()))
