"""Runs in every way: the numbers of eager, what was taken on record, exact resume, and refusals."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from flatbit.engine import read_run
from flatbit.engine import stage as stages
from flatbit.engine import update as update_module
from flatbit.engine.capture import EngineError
from flatbit.engine.checkpoint import load_checkpoint
from flatbit.engine.loop import Hooks
from flatbit.engine.way import EAGER, ENGINES, Way
from flatbit.train.sharpness import Sharpness

from .cases import FLOAT, QUANTIZED, Killed, assert_same_run, kill_after, numbers, ran, recipe, same_files
from .tape import stand_in_for_a_device

SAQ = replace(QUANTIZED, name="saq", sharpness=Sharpness(method="saq", rho=0.05))
MADE = recipe(FLOAT, QUANTIZED, SAQ)
ON_A_CPU = ("eager", "graphs", "compiled")
"""A tape cannot record compiled code, which steps aside for it."""
ON_A_DEVICE = [pytest.param(name, marks=[pytest.mark.compiles] * ("compiled" in name)) for name in ENGINES]


@pytest.fixture
def device(monkeypatch):
    """All ways run, on the CPU: graphs are tapes, the compiler writes no code."""
    stand_in_for_a_device(monkeypatch)
    monkeypatch.setattr(update_module, "COMPILER", {"backend": "aot_eager"})
    yield monkeypatch
    torch._dynamo.reset()


def ways(record):
    return {name: entry.way for name, entry in record.stages.items()}


def test_a_captured_run_is_the_eager_one_and_says_what_it_is(device, tmp_path):
    eager = ran(MADE, tmp_path / "eager", engine="eager")
    graphs = ran(MADE, tmp_path / "graphs", engine="graphs")
    for name in eager.record.stages:
        assert same_files(eager.stage_file(name), graphs.stage_file(name))
    assert ways(eager.record) == dict.fromkeys(("float", "w2a2", "saq"), EAGER)
    assert ways(read_run(graphs.folder).record) == dict.fromkeys(("float", "w2a2", "saq"), Way(graphs=True))


@pytest.mark.parametrize("saves", [1, 8, 13])
@pytest.mark.parametrize("engine", ON_A_CPU)
def test_killed_and_resumed_equals_uninterrupted_in_every_way(engine, saves, device, tmp_path):
    _check_resume(engine, saves, device, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ON_A_DEVICE)
def test_killed_and_resumed_on_a_device_equals_uninterrupted(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    _check_resume(engine, 8, monkeypatch, tmp_path, device="cuda")


def _check_resume(engine, saves, device, tmp_path, **planning):
    whole = ran(MADE, tmp_path / "whole", engine=engine, **planning)
    with device.context() as patched:
        patched.setattr(stages, "Hooks", partial(Hooks, save_every_s=-1))
        kill_after(patched, stages, "save_checkpoint", saves)
        with pytest.raises(Killed):
            ran(MADE, tmp_path / "run", engine=engine, **planning)
    torch.manual_seed(4321)
    assert load_checkpoint(tmp_path / "run" / "checkpoint")["way"]["graphs"] == engine.endswith("graphs")
    assert_same_run(ran(MADE, tmp_path / "run", engine=engine, resume=True, **planning), whole)


def test_what_was_chosen_is_said_recorded_and_kept(device, tmp_path):
    """The second stage is killed in its middle; what it goes on with is what the checkpoint says, not a new choice."""
    said = []
    device.setattr(stages, "choose_way", lambda *_, note, **__: note("chosen") or Way(graphs=True))
    with device.context() as patched:
        kill_after(patched, stages, "save_checkpoint", 3)
        with pytest.raises(Killed):
            ran(MADE, tmp_path, engine="auto", say=said.append)
    assert said.count("chosen") == 2
    device.setattr(stages, "choose_way", lambda *_, **__: EAGER)
    done = ran(MADE, tmp_path, engine="auto", resume=True)
    assert [way.engine for way in ways(done.record).values()] == ["graphs", "graphs", "eager"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engine": "eager"}, "begun with engine graphs: give that"),
        ({"engine": "graphs", "precision": "bf16"}, "another run .*its precision is 'float32', here it is 'bf16'"),
    ],
)
def test_a_run_does_not_go_on_in_another_way(asked, said, device, tmp_path):
    with device.context() as patched:
        kill_after(patched, stages, "save_checkpoint", 1)
        with pytest.raises(Killed):
            ran(MADE, tmp_path, engine="graphs")
    with pytest.raises(ValueError, match=said):
        ran(MADE, tmp_path, resume=True, **asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engine": "graphs"}, "engine graphs needs a CUDA device, and this run is on cpu: take eager"),
        ({"precision": "tf32"}, "precision tf32 is of CUDA devices"),
        ({"engine": "fast"}, "engine 'fast': "),
    ],
)
def test_what_the_device_has_not_is_refused_before_anything_is_written(asked, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        ran(MADE, tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_the_precision_stands_with_the_numbers(tmp_path):
    half = ran(recipe(FLOAT), tmp_path / "half", precision="bf16")
    whole = ran(recipe(FLOAT), tmp_path / "whole")
    assert ways(half.record)["float"] == Way(precision="bf16")
    assert half.record.precision == "bf16"
    assert not same_files(half.folder / "model.safetensors", whole.folder / "model.safetensors")
    assert [epoch["train_loss"] for epoch in numbers(half.record)["float"]["epochs"]] == pytest.approx(
        [epoch["train_loss"] for epoch in numbers(whole.record)["float"]["epochs"]], rel=0.1
    )


@pytest.mark.parametrize("engine", ["eager", "graphs"])
def test_tensors_that_are_computed_again_are_the_same(engine, device, tmp_path):
    kept = ran(MADE, tmp_path / "kept", engine=engine)
    again = ran(MADE, tmp_path / "again", engine=engine, recompute=True)
    assert all(same_files(kept.stage_file(name), again.stage_file(name)) for name in kept.record.stages)
    assert {way.recompute for way in ways(again.record).values()} == {True}


def test_computing_again_in_a_float_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="recompute cannot act: no stage of tiny is quantized"):
        ran(recipe(FLOAT), tmp_path, recompute=True)


def test_a_way_that_the_model_cannot_is_an_error_with_a_mend(device, tmp_path):
    device.setattr("flatbit.train.optimizers.rate_of", lambda groups, lr: (lr, None))
    with pytest.raises(EngineError, match="take engine eager"):
        ran(recipe(FLOAT), tmp_path, engine="graphs")
