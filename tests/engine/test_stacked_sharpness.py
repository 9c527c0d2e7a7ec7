"""Stacked nets that climb, each in its own norm, against the same nets one at a time."""

from dataclasses import replace

import pytest

from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.train.sharpness import Sharpness

from .stacked_cases import STAGE, UNIQ, Points, assert_equal_training, nets, policy_of


@pytest.mark.parametrize("method", ["sam", "asam", "saq", "asaq"])
@pytest.mark.parametrize("perturb", ["authors", "weights_only"])
def test_sharpness_aware_nets_climb_each_in_its_own_norm(method, perturb):
    sharpness = Sharpness(method=method, rho=0.1, perturb=perturb)
    assert_equal_training(nets(policy_of("saq")), replace(STAGE, sharpness=sharpness))


def test_sharpness_may_let_the_second_pass_move_statistics():
    sharpness = Sharpness(method="saq", rho=0.1, batchnorm="update")
    assert_equal_training(nets(UNIQ), replace(STAGE, sharpness=sharpness))


def test_shards_and_nets_without_quantized_weights_are_refused():
    stack = StackedNets(nets(count=2))
    rows = [Net(batches=Points(seed)) for seed in range(2)]
    with pytest.raises(ValueError, match="shard=4: stacked nets climb by whole updates"):
        train_stacked(stack, replace(STAGE, sharpness=Sharpness(method="sam", rho=0.1, shard=4)), rows)
    with pytest.raises(ValueError, match="has none that train"):
        train_stacked(stack, replace(STAGE, sharpness=Sharpness(method="saq", rho=0.1)), rows)
