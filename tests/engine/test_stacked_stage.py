"""Works of several runs as one stack: trials leave no trace, and what an epoch leaves is an ordinary work."""

import copy
from dataclasses import replace

import pytest
import torch

from flatbit.engine import stacked_stage
from flatbit.engine.checkpoint import load_checkpoint, restore_checkpoint_
from flatbit.engine.loop import TrainingError
from flatbit.engine.stacked_stage import descend_stacked, stack_of, tried_alone, tried_stacked
from flatbit.engine.stage import optimizer_of, prepare
from flatbit.engine.way import Way
from flatbit.quant.table import quantizers_of
from flatbit.train.optimizers import SGD, Adam
from flatbit.train.sharpness import Sharpness

from .cases import QUANTIZED, net, shades

STAGE = replace(QUANTIZED, epochs=1, accumulation=())


def works(folder, stage=STAGE, precision="float32"):
    """Two nets with dropout, ready for a stage."""
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        work = prepare(net(), stage, shades(), folder / str(seed), seed=seed)
        made.append(replace(work, way=Way(precision=precision, stacked=2)))
    return made


def state(made):
    return [copy.deepcopy((w.model.state_dict(), w.optimizer.state_dict(), w.position.as_dict())) for w in made]


def assert_equal(one, other):
    for (model, optimizer, position), (model_2, optimizer_2, position_2) in zip(one, other, strict=True):
        assert all(torch.equal(model[key], model_2[key]) for key in model)
        assert repr(optimizer) == repr(optimizer_2)
        assert position == position_2


@pytest.mark.parametrize("sharpness", [None, Sharpness(method="saq", rho=0.1)])
def test_trials_leave_all_as_it_was(sharpness, tmp_path):
    made = works(tmp_path, replace(STAGE, sharpness=sharpness))
    torch.manual_seed(7)
    random, before = torch.get_rng_state(), state(made)
    assert tried_stacked(made, 4) > 0
    assert tried_alone(replace(made[0], way=Way())) > 0
    assert torch.equal(torch.get_rng_state(), random)
    assert_equal(state(made), before)
    assert not list(tmp_path.iterdir())


def test_a_trial_is_as_long_as_its_fastest_update_after_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(stacked_stage, "seconds_of_updates", lambda stack, stage, nets, count: [1.0, 5.0, 3.0, 4.0])
    assert tried_stacked(works(tmp_path), 4) == 3.0


@pytest.mark.parametrize("settings", [SGD(), Adam()])
def test_a_checkpoint_of_a_stack_is_one_of_a_net(settings, tmp_path):
    """With the state of its own optimizer, which goes on where the stack left it."""
    stage = replace(STAGE, optimizer=settings, sharpness=Sharpness(method="saq", rho=0.05))
    made = works(tmp_path, stage)
    scores = descend_stacked(made)
    for seed, (work, metrics) in enumerate(zip(made, scores, strict=True)):
        kept = load_checkpoint(tmp_path / str(seed) / "checkpoint")
        assert (kept["stage"], kept["way"]["stacked"], kept["position"]["epoch"]) == ("w2a2", 2, 1)
        model = works(tmp_path / "anew", stage)[seed].model
        optimizer = optimizer_of(model, stage)
        restore_checkpoint_(kept, model, optimizer)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), work.model.parameters(), strict=True))
        states = optimizer.state_dict()["state"]
        assert len(states) == len([*model.parameters()])
        assert repr(states) == repr(work.optimizer.state_dict()["state"])
        assert metrics.top1 == work.position.history[0].test_top1
        assert [quantizer.perturbation for _, quantizer in quantizers_of(work.model)] == [None] * 6
    assert repr(made[0].optimizer.state_dict()["state"]) != repr(made[1].optimizer.state_dict()["state"])


def test_a_net_that_stops_is_its_error(tmp_path):
    first, second = works(tmp_path)
    with torch.no_grad():
        second.model[0].weight.fill_(float("nan"))
    metrics, error = descend_stacked([first, second])
    assert metrics.top1 == first.position.history[0].test_top1
    assert isinstance(error, TrainingError)


def test_nets_are_stacked_in_whole_precision_alone(tmp_path):
    with pytest.raises(ValueError, match="precision bf16: stacked nets are trained without autocast"):
        stack_of(works(tmp_path, precision="bf16"))
    assert len(stack_of(works(tmp_path))) == 2
