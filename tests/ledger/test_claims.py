"""Claims: what the papers' tables say in words, judged in pairs of a seed."""

from dataclasses import replace

import pytest

from flatbit.ledger.claims import Claim, claims, judged
from flatbit.ledger.experiments import Point, experiment, experiments
from flatbit.ledger.published import published

from .cases import diverged, epoch, proof_of, shelf_of, shortened, stage_record

ONE, OTHER = "hol/f2-256-4", "hol/f2-128-4"
CLAIM = Claim(place="HOL/Fig2", says="wider is better", better=f"{ONE}:hol-w2a2", than=f"{OTHER}:hol-w2a2")
every_claim = pytest.mark.parametrize("claim", claims(), ids=lambda claim: f"{claim.place}: {claim.says}")


def of_claim(*evidence, claim=CLAIM):
    (found,) = judged([claim], shelf_of(*evidence))
    return found


def of(name, *scores):
    return [proof_of(name, score, seed=seed) for seed, score in enumerate(scores)]


@every_claim
def test_it_names_experiments_points_and_a_table_that_there_are(claim):
    assert claim.place in {row.place for row in published()} or claim.place.split("/")[0] not in {
        r.paper for r in published()
    }
    for side in (claim.better, claim.than):
        name, _, point = side.partition(":")
        assert name in experiments()
        stages = {stage.name: stage for stage in experiment(name).made().stages}
        at = Point.parse(point)
        assert not at.stage or at.stage in stages
        assert at.epoch is None or at.epoch in stages[at.stage].captures
    assert claim.better != claim.than
    assert claim.says


@every_claim
def test_both_sides_are_measured_alike(claim):
    """A measure is taken where a row asks for it: on both sides."""
    if claim.metric in ("top1", "mIoU"):
        return
    metrics = {row.id: row.metric for row in published()}
    for side in (claim.better, claim.than):
        name, _, point = side.partition(":")
        assert claim.metric in {metrics[row] for row in experiment(name).fills.get(point, ())}


def test_a_claim_holds_where_the_difference_is_sure():
    found = of_claim(*of(ONE, 88.0, 89.0, 88.5), *of(OTHER, 84.0, 85.1, 84.4))
    assert found.differences == pytest.approx((4.0, 3.9, 4.1))
    assert (found.verdict, found.mean) == ("holds", pytest.approx(4.0))
    assert found.spread == pytest.approx(0.1)
    assert found.p < 0.001


def test_it_does_not_hold_where_the_other_is_better():
    assert of_claim(*of(ONE, 84.0, 85.1, 84.4), *of(OTHER, 88.0, 89.0, 88.5)).verdict == "does not hold"


def test_what_differs_less_than_seeds_do_is_not_told_apart():
    found = of_claim(*of(ONE, 80.0, 90.0, 85.0), *of(OTHER, 84.0, 85.0, 86.0))
    assert found.p > 0.05
    assert found.verdict == "not told apart"


def test_p_is_that_of_the_paired_t_test():
    """Three differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641, two degrees of freedom: p = 1 - t / sqrt(t^2 + 2)."""
    t = 2 * 3**0.5
    found = of_claim(*of(ONE, 81.0, 82.0, 83.0), *of(OTHER, 80.0, 80.0, 80.0))
    assert found.p == pytest.approx(1 - t / (t * t + 2) ** 0.5)


def test_seeds_that_differ_all_alike_are_sure():
    found = of_claim(*of(ONE, 81.0, 82.0), *of(OTHER, 80.0, 81.0))
    assert (found.spread, found.p, found.verdict) == (0.0, 0.0, "holds")


def test_no_difference_at_all_is_not_told_apart():
    found = of_claim(*of(ONE, 80.0, 81.0), *of(OTHER, 80.0, 81.0))
    assert found.verdict == "not told apart"


@pytest.mark.parametrize(("score", "side"), [(90.0, "for"), (70.0, "against")])
def test_one_seed_is_said_to_be_one(score, side):
    found = of_claim(*of(ONE, score), *of(OTHER, 80.0))
    assert (found.verdict, found.p, found.spread) == (f"one seed, {side} it", None, None)


def test_only_seeds_that_both_sides_have_count():
    pairs = [proof_of(ONE, 90.0, seed=3), proof_of(ONE, 91.0, seed=5), proof_of(OTHER, 80.0, seed=5), *of(OTHER, 99.0)]
    assert of_claim(*pairs).differences == (11.0,)
    assert of_claim(*of(ONE, 80.0)).verdict == of_claim().verdict == "not run"


def test_shortened_and_diverged_runs_do_not_count():
    short = proof_of(ONE, 90.0, recipe=shortened(experiment(ONE).made()))
    assert of_claim(short, *of(OTHER, 80.0)).verdict == "not run"
    assert of_claim(diverged(ONE), *of(OTHER, 80.0)).verdict == "not run"


def test_a_measure_and_an_epoch_can_be_claimed():
    flat = replace(CLAIM, better=OTHER, than=ONE, metric="lambda_max")
    sharp = [proof_of(ONE, measures={"": {"lambda_max": 9.0}}), proof_of(OTHER, measures={"": {"lambda_max": 11.0}})]
    assert of_claim(*sharp, claim=flat).differences == (2.0,)
    name = "sqwa/t2-late"
    late = replace(CLAIM, better=f"{name}:average", than=f"{name}:retrain@250")
    run = proof_of(name, {"retrain": stage_record(epochs=[epoch(250, 61.0, capture=7)]), "average": 63.0})
    assert of_claim(run, claim=late).differences == (2.0,)
