"""Which thing is tried next, rule by rule, on records that are made up."""

from dataclasses import replace

import pytest

import flatbit as fb
from flatbit.analysis.next_step import compare
from flatbit.engine import plan, run
from flatbit.engine.recipe import Recipe, Stage
from flatbit.metrics.health import Finding
from flatbit.reference import From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation

FINDING = Finding(layer="input of fc", problem="dead clip", evidence="0", mend="recalibrate")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Of a run of a float stage and one of ``uniq`` at W8A8, whose scores the tests overwrite."""
    policy = fb.policy("uniq", weights=8, activations=8)
    stages = (
        Stage(name="float", epochs=1, lr=0.1, batch_size=64),
        Stage(name="q", start=From.stage("float"), epochs=4, lr=0.01, batch_size=64, policy=policy),
    )
    recipe = Recipe(name="r", model="preresnet8", model_arguments={"first_width": 2}, data="digits", stages=stages)
    return run(plan(recipe, smoke=True), tmp_path_factory.mktemp("run") / "run").record


def scored(record, reference, score, trace=None, **changes):
    """The record with other scores, training losses (trace) of q's epochs, and settings of q."""
    entries = {
        name: replace(entry, test=replace(entry.test, top1=top1))
        for (name, entry), top1 in zip(record.stages.items(), (reference, score), strict=True)
    }
    epochs = tuple(replace(entries["q"].epochs[0], train_loss=loss) for loss in trace or (1.0,) * 4)
    entries["q"] = replace(entries["q"], epochs=epochs)
    float_stage, q = record.recipe.stages
    recipe = replace(record.recipe, stages=(float_stage, replace(q, **changes)))
    return replace(record, recipe=recipe, stages=entries)


def said(record, *scores, findings=(), num_classes=10, **changes):
    return compare(scored(record, *scores, **changes), "q", findings, num_classes=num_classes)


def test_it_says_how_far_below_the_float_net(record):
    found = said(record, 95.0, 92.0)
    assert (found.below, found.reference, found.score) == (3.0, 95.0, 92.0)
    assert str(found).startswith("q: top-1 92.00 %, 3.00 points below the float net's 95.00 %. Next: ")
    assert "1.00 points above the float net's" in str(said(record, 95.0, 96.0))


def test_a_float_stage_is_held_against_nothing(record):
    assert compare(record, "float", num_classes=10) is None


def test_without_a_float_net_that_is_said(record):
    alone = replace(record.recipe, stages=(replace(record.recipe.stages[1], start=From.start()),))
    found = compare(replace(record, recipe=alone, stages={"q": record.stages["q"]}), "q", num_classes=10)
    assert found.below is None
    assert "no float net to compare with" in str(found)


def test_as_good_as_float_asks_for_fewer_bits_whatever_was_found(record):
    assert said(record, 95.0, 94.6, findings=[FINDING]).next == "as good as float: try fewer bits"


def test_findings_come_first_where_it_is_worse(record):
    assert said(record, 95.0, 90.0, findings=[FINDING]).next == "what was found is mended first: recalibrate"


def test_a_float_net_that_guesses_is_trained_first(record):
    assert said(record, 15.0, 10.0).next.startswith("train the float net first")
    assert not said(record, 15.0, 10.0, num_classes=100).next.startswith("train the float net first")


def test_what_was_only_calibrated_is_trained_or_another_policy_is_taken(record):
    settings = {"epochs": 0, "lr": None, "max_steps": None}
    assert said(record, 95.0, 90.0, **settings).next.startswith(
        "it was only calibrated: train it on, or take --policy "
    )
    lsq_plus = fb.policy("lsq_plus", weights=5, activations=5)
    assert said(record, 95.0, 90.0, **settings, policy=lsq_plus).next == "it was only calibrated: train it on"


def test_a_loss_that_still_falls_is_trained_longer(record):
    assert said(record, 95.0, 90.0, trace=[4, 3, 2, 1]).next.startswith("train longer")
    assert not said(record, 95.0, 90.0, trace=[4, 3, 2, 1.99]).next.startswith("train longer")


def test_one_bit_starts_from_two(record):
    policy = fb.policy("uniq", weights=1, activations=1)
    assert said(record, 95.0, 90.0, policy=policy).next.startswith("start from the net of 2 bits")


def test_then_a_teacher_then_another_policy_then_more_bits(record):
    assert "--distill mixed" in said(record, 95.0, 90.0).next
    losses = (CrossEntropy(), Distillation(teacher=From.stage("float")))
    assert "take --policy" in said(record, 95.0, 90.0, losses=losses).next
    five = fb.policy("uniq", weights=5, activations=5)
    changes = {"losses": (CrossEntropy(), Distillation(teacher=From.stage("float"))), "policy": five}
    assert "flatbit sensitivity" in compare(scored(record, 95.0, 90.0, **changes), "q", num_classes=10).next
