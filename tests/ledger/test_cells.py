"""Cells: a status never says more than the runs do."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit.ledger.cells import bits_in_words, cell, cells, summary, verdict
from flatbit.ledger.experiments import experiment, filled_by
from flatbit.ledger.published import published

from .cases import diverged, metrics, proof_of, shelf_of, shortened, stage_record

ROWS = {row.id: row for row in published()}
ROW = ROWS["HOL-Fig2-03"]  # W2A2 of 128-4: 84.6
NAME, STAGE = "hol/f2-128-4", "hol-w2a2"
SHARP = ROWS["SAQ-T3-07"]  # lambda_max of SAQ at 2 bits: 86.4


def of(*scores, name=NAME, **facts):
    """Evidence of as many seeds."""
    return [proof_of(name, score, seed=seed, **facts) for seed, score in enumerate(scores)]


def found(*evidence, row=ROW):
    return cell(row, shelf_of(*evidence))


def test_the_rows_here_are_those():
    assert (ROW.value, filled_by()[ROW.id][0].name, str(filled_by()[ROW.id][1])) == (84.6, NAME, STAGE)
    assert (SHARP.value, SHARP.metric, filled_by()[SHARP.id][0].name) == (86.4, "lambda_max", "saq/resnet20-saq-2")


@pytest.mark.parametrize(
    ("scores", "status"),
    [
        ((84.3, 84.7), "reproduced"),
        ((85.0, 85.0, 85.0), "reproduced"),
        ((84.2, 84.2), "reproduced"),
        ((80.0, 82.0), "short by 3.6"),
        ((84.0, 84.0), "short by 0.6"),
        ((86.0, 87.0), "better"),
    ],
)
def test_whole_runs_of_several_seeds_have_a_verdict(scores, status):
    made = found(*of(*scores))
    assert made.status == status
    assert made.ours == pytest.approx(sum(scores) / len(scores))
    assert made.difference == pytest.approx(made.ours - 84.6)
    assert len(made.evidence) == len(scores)


def test_mean_and_spread_are_over_seeds():
    made = found(*of(80.0, 82.0, 87.0))
    assert (made.ours, made.spread) == (83.0, pytest.approx(13**0.5))
    assert found(*of(80.0)).spread is None


@given(st.floats(0, 100))
def test_one_seed_never_reads_reproduced(score):
    assert found(*of(score)).status == "one seed"


@given(st.lists(st.floats(84.1, 85.1), min_size=1, max_size=4), st.integers(1, 999))
def test_a_shortened_run_never_reads_reproduced(scores, epochs):
    made = found(*of(*scores, recipe=shortened(experiment(NAME).made(), epochs)))
    assert made.status == "shortened"
    assert made.why.endswith(f" epochs in place of {sum(s.epochs for s in experiment(NAME).made().stages)}")


def test_other_settings_are_named_so():
    whole = experiment(NAME).made()
    other = replace(whole, stages=(*whole.stages[:-1], replace(whole.stages[-1], lr=1.0)))
    assert found(*of(84.6, 84.6, recipe=other)).status == "other settings"


def test_where_there_are_whole_runs_shortened_ones_do_not_count():
    short = proof_of(NAME, 10.0, seed=7, recipe=shortened(experiment(NAME).made()))
    assert found(short, *of(84.6)).status == "one seed"
    made = found(short, *of(84.6, 84.4))
    assert (made.status, made.ours, len(made.evidence)) == ("reproduced", pytest.approx(84.5), 2)


def test_runs_that_diverged_are_told():
    made = found(diverged(NAME, 0), diverged(NAME, 1))
    assert (made.status, made.why, made.ours) == ("diverged", "2 of 2 runs diverged", None)
    made = found(*of(84.6, 84.6), diverged(NAME, 5))
    assert (made.status, made.why) == ("reproduced", "1 of 3 runs diverged")


def test_what_was_not_measured_is_not_run():
    made = cell(SHARP, shelf_of(proof_of("saq/resnet20-saq-2", 64.0)))
    assert (made.status, made.ours, made.command != "") == ("not run", None, True)


def test_a_run_from_another_start_is_no_reproduction():
    whole = [proof_of("saq/resnet20-saq-2", 64.4, seed=seed, measures={"": {"lambda_max": 86.4}}) for seed in (0, 1)]
    assert cell(SHARP, shelf_of(*whole)).status == "reproduced"
    floats = proof_of("saq/resnet20-float")
    for wrong in (
        replace(floats, models={"": "1" * 64}),
        replace(floats, run=replace(floats.run, recipe=shortened(floats.run.recipe, 150))),
        diverged("saq/resnet20-float"),
    ):
        made = cell(SHARP, shelf_of(*whole, wrong))
        assert (made.status, made.ours) == ("another start", pytest.approx(86.4))


def test_what_is_averaged_is_of_one_length():
    short, shorter = (shortened(experiment(NAME).made(), epochs) for epochs in (900, 2))
    made = found(*of(84.0, recipe=short), proof_of(NAME, 10.0, seed=1, recipe=shorter))
    assert (made.status, made.ours, len(made.evidence)) == ("shortened", 84.0, 1)


# Rules by metric


def measured(*values):
    name = "saq/resnet20-saq-2"
    return [proof_of(name, 64.4, seed=seed, measures={"": {"lambda_max": value}}) for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ((86.0, 87.0), "reproduced"),
        ((87.2, 87.2), "reproduced"),
        ((87.4, 87.4), "short by 1.0"),
        ((50.0, 60.0), "better"),
    ],
)
def test_of_another_unit_one_percent_is_near_and_of_curvature_less_is_better(values, status):
    assert cell(SHARP, shelf_of(*measured(*values))).status == status


def row_of(metric, value):
    return replace(ROW, metric=metric, value=value)


@given(
    st.sampled_from(["top1", "top5", "train_top1", "mIoU", "region_acc"]), st.floats(1, 99), st.floats(-0.499, 0.499)
)
def test_half_a_point_is_near_in_percent_whatever_the_value(metric, value, difference):
    assert verdict(row_of(metric, value), value + difference) == "reproduced"


@given(st.floats(1, 1e4), st.floats(0.0101, 1))
def test_more_than_one_percent_is_not_near_in_other_units(value, share):
    row = row_of("lambda_max", value)
    assert verdict(row, value * (1 - share)) == "better"
    assert verdict(row, value * (1 + share)).startswith("short by ")
    assert verdict(row, value * (1 + 0.0099 * share)) == "reproduced"


@given(st.floats(0, 99), st.floats(0.51, 50))
def test_less_is_worse_but_of_a_difference(value, difference):
    for metric, sign in (("top1", 1), ("diff", -1)):
        row = row_of(metric, value)
        told = verdict(row, value - sign * difference)
        assert told.startswith("short by ")
        assert float(told.removeprefix("short by ")) == pytest.approx(difference, abs=0.0501)
        assert verdict(row, value + sign * difference) == "better"


# Rows that runs do not fill


def first(**facts):
    return next(row for row in published() if all(getattr(row, key) == value for key, value in facts.items()))


def test_statuses_without_runs():
    assert found().status == "not run"
    assert found(row=first(metric="trend")).status == "trend"
    misprint = next(row for row in published() if f"{row.metric} misprint" in row.notes)
    assert (found(row=misprint).status, found(row=misprint).why) == ("misprint", misprint.notes)
    imagenet = found(row=ROWS["FAQ-T1-04"])
    assert (imagenet.status, imagenet.command.startswith("flatbit run faq-resnet18-imagenet ")) == (
        "needs data ImageNet", True,
    )  # fmt: skip
    assert found(row=ROWS["HOL-T2-02"]).status == "needs data PASCAL VOC 2012 with 10,582 training masks"
    assert found(row=next(row for row in published() if row.notes.startswith("cited"))).status == "cited only"
    absent = found(row=next(row for row in published() if row.method.startswith("SAMQ") and row.paper == "SAQ"))
    assert absent.status == "not run"
    assert absent.why.startswith("a search, then a run")
    assert [word for word in absent.command.split() if word in ("search", "run", "&&")] == ["search", "&&", "run"]


def test_data_that_we_lack_count_once_somebody_had_them():
    name = "faq/resnet18-8"
    made = found(*of(70.0, name=name), row=ROWS["FAQ-T1-04"])
    assert made.status == "one seed"


@pytest.mark.parametrize(("id", "rho"), [("SAQ-TA-01", 0.4), ("SAQ-TA-03", 0.9), ("SAQ-TB-03", 0.3)])
def test_a_setting_is_what_the_recipe_takes(id, rho):
    made = found(row=ROWS[id])
    assert (made.status, made.ours, made.difference) == ("setting", rho, 0.0)


# All of it


def test_the_statuses_of_all_rows_add_up(monkeypatch):
    monkeypatch.setattr("flatbit.ledger.cells.count", lambda row, name, stage: row.value)
    counts = summary(cells(published(), shelf_of(*of(84.6, 84.6), *of(70.0, 70.0, name="hol/f2-256-4"))))
    assert sum(counts.values()) == 761
    assert (counts["computed"], counts["setting"], counts["misprint"], counts["trend"]) == (75, 10, 1, 3)
    assert counts["short by"] >= 2  # whatever the difference
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_plain_values_are_json_and_say_everything():
    plain = found(*of(84.3, 84.7)).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain | {
        "id": "HOL-Fig2-03", "published": 84.6, "ours": 84.5, "seeds": [0, 1], "status": "reproduced", "point": STAGE,
        "recipe": "hol-fcdnn-spirals", "device": "cpu", "records": ["0.json", "1.json"], "bits": "2/2",
        "hours": 4.0, "convention": "float",
    } == plain  # fmt: skip
    assert plain["command"] == experiment(NAME).command()


def test_the_convention_is_of_the_rows_own_stage():
    quantized = stage_record(metrics(84.6))
    test = replace(quantized.test, convention=replace(quantized.test.convention, policy="hol", weight_step="channel"))
    made = found(proof_of(NAME, {STAGE: replace(quantized, test=test), "float": 97.0}))
    assert "weight step per channel" in made.convention
    float_row = next(row for row in published() if row.id == "HOL-Fig1-02")
    assert found(*of(97.0), row=float_row).convention == "float"


def test_bits_in_words():
    assert bits_in_words(ROW) == "W2/A2"
    assert bits_in_words(ROWS["SQWA-T1-01"]) == "float"
    assert bits_in_words(ROWS["HOL-Fig2-01"]) == "W2/A32"
