from dataclasses import replace

import pytest

from flatbit.engine.execution import run
from flatbit.engine.measuring import best_stage
from flatbit.engine.planning import plan
from flatbit.engine.splits import Splits
from flatbit.reference import From

from .cases import FLOAT, QUANTIZED, recipe

SECOND = replace(QUANTIZED, name="second", start=From.stage("w2a2"))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    made = recipe(FLOAT, QUANTIZED, SECOND, splits=Splits(held_out=7))
    return run(plan(made), tmp_path_factory.mktemp("run")).record


def scored(record, **held_out):
    stages = {name: replace(entry, held_out=held_out[name]) for name, entry in record.stages.items()}
    return replace(record, stages=stages)


@pytest.mark.parametrize(
    ("scores", "best"),
    [((90.0, 50.0, 60.0), "second"), ((90.0, 60.0, 50.0), "w2a2"), ((90.0, 60.0, 60.0), "second")],
)
def test_the_best_of_one_policy_is_kept_the_later_of_equal_ones(record, scores, best):
    assert best_stage(scored(record, **dict(zip(("float", "w2a2", "second"), scores, strict=True)))) == best


def test_without_held_out_samples_it_is_the_last(record):
    assert best_stage(scored(record, float=None, w2a2=None, second=None)) == "second"


def test_stages_have_both_scores_and_no_best_epoch_of_the_test_set(record):
    for entry in record.stages.values():
        assert entry.test.num_samples == 12
        assert entry.held_out == entry.epochs[-1].held_out
        assert (entry.best_test, entry.epochs[0].test_top1) == (None, None)
