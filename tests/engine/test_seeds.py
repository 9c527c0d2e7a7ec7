"""Several seeds at once against the same runs one by one: what they leave, resume, failures, refusals, the choice."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import flatbit as fb
from flatbit.engine import execution, plan, read_run, run
from flatbit.engine import seeds as seeds_module
from flatbit.engine import stage as stages
from flatbit.engine.checkpoint import load_checkpoint
from flatbit.engine.seeds import run_seeds
from flatbit.engine.way import EAGER, Way
from flatbit.train.losses import LossTerm
from flatbit.train.losses.labels import cross_entropy
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.sharpness import Sharpness

from .cases import (
    AVERAGE,
    BEGIN,
    CYCLES,
    FLOAT,
    QUANTIZED,
    TUNED,
    Killed,
    assert_same_run,
    kill_after,
    recipe,
)

SEEDS = (0, 1, 2)


def own_net(num_classes=3, in_channels=1):
    """Without dropout, whose draws a stack orders otherwise; it knows the seed that it was built by."""
    net = nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, num_classes),
    )  # fmt: skip
    net.register_buffer("seed", torch.tensor(float(torch.initial_seed() % 1000)))
    return net


@dataclass(frozen=True, kw_only=True, slots=True)
class Unlucky(LossTerm):
    """Cross-entropy that is not a number for the net of one seed."""

    seed: int
    weight: float = 1.0
    name: str = "unlucky"

    def __call__(self, model, x, y, logits):
        return torch.where(model.seed == self.seed, torch.nan, cross_entropy(logits, y))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading(LossTerm):
    """Cross-entropy that reads a number, which several nets at once have not."""

    weight: float = 1.0
    name: str = "reading"

    def __call__(self, model, x, y, logits):
        return cross_entropy(logits, y) * (1.0 if float(logits.detach().sum()) < 1e9 else 2.0)


CALM = replace(QUANTIZED, lr=0.001)
"""So slow that few codes flip where a sum is rounded in another order."""
UNIQ = replace(CALM, name="uniq", policy=fb.policy("uniq", weights=4, activations=4))
SAQ = replace(
    CALM, name="saq", policy=fb.policy("saq", weights=4, activations=4), sharpness=Sharpness(method="saq", rho=0.02),
    losses=taught(Distillation(teacher=BEGIN)), lr=0.005,
)  # fmt: skip


def planned(*made):
    return plan(recipe(*made, model=f"{__name__}:own_net"))


ALL = (FLOAT, UNIQ, SAQ, CYCLES, AVERAGE, TUNED)
SHORT = (FLOAT, SAQ)


def one_by_one(made, out):
    """The ordinary runs."""
    return [run(replace(made, seed=seed), out / f"seed{seed}") for seed in SEEDS]


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """Runs of all stages, stacked."""
    return run_seeds(planned(*ALL), SEEDS, tmp_path_factory.mktemp("stacked"), engine="stacked")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs of two stages, stacked."""
    return run_seeds(planned(*SHORT), SEEDS, tmp_path_factory.mktemp("whole"), engine="stacked")


def left_by(done):
    return {str(path.relative_to(done.folder)) for path in done.folder.rglob("*")}


def ways(done):
    return {name: entry.way for name, entry in done.record.stages.items()}


def assert_alike(ours, theirs):
    """The same run up to the order of sums."""
    assert left_by(ours) == left_by(theirs)
    assert (ours.record.seed, ours.record.recipe) == (theirs.record.seed, theirs.record.recipe)
    assert list(ours.record.stages) == list(theirs.record.stages)
    for name, entry in ours.record.stages.items():
        other = theirs.record.stages[name]
        assert (entry.metric, entry.cost) == (other.metric, other.cost)
        assert entry.test.loss == pytest.approx(other.test.loss, abs=1e-4)
        assert entry.test.top1 == pytest.approx(other.test.top1)
        assert [change.step for change in entry.batchnorm] == [change.step for change in other.batchnorm]
        assert len(entry.epochs) == len(other.epochs)
        for one, two in zip(entry.epochs, other.epochs, strict=True):
            assert (one.epoch, one.lr, one.capture) == (two.epoch, two.lr, two.capture)
            assert one.train_loss == pytest.approx(two.train_loss, abs=1e-4)
            assert one.losses == pytest.approx(two.losses, abs=1e-4)
            assert one.test_top1 == pytest.approx(two.test_top1)
    for file in sorted(left_by(ours)):
        if file.endswith(".safetensors"):
            tensors, others = load_file(ours.folder / file), load_file(theirs.folder / file)
            assert tensors.keys() == others.keys()
            for key, tensor in tensors.items():
                torch.testing.assert_close(tensor, others[key], rtol=1e-3, atol=1e-3)


# What they leave


def test_stacked_seeds_are_the_runs_of_each_seed(stacked, tmp_path):
    """Initialisation, order, calibration, distillation from an own teacher, captures, re-estimation: each its own."""
    for ours, theirs in zip(stacked, one_by_one(planned(*ALL), tmp_path), strict=True):
        assert_alike(ours, theirs)
        assert set(ways(theirs).values()) == {EAGER}


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["stacked", None])
def test_stacked_seeds_are_the_runs_of_each_seed_on_a_device(engine, tmp_path, monkeypatch):
    """Graphs may be faster there than the stack: whichever is taken, the first epoch is that of the eager run."""
    monkeypatch.setattr(seeds_module, "TRIED_FROM", 1)
    made = plan(recipe(FLOAT, SAQ, model=f"{__name__}:own_net"), device="cuda")
    for ours in run_seeds(made, SEEDS, tmp_path, engine=engine):
        theirs = run(replace(made, seed=ours.record.seed), tmp_path / f"alone{ours.record.seed}", engine="eager")
        for name, entry in ours.record.stages.items():
            expected = theirs.record.stages[name].epochs[0].train_loss
            assert entry.epochs[0].train_loss == pytest.approx(expected, rel=1e-2)


def test_they_are_ordinary_folders_that_say_how_they_were_trained(stacked):
    for seed, done in zip(SEEDS, stacked, strict=True):
        assert done.folder.name == f"seed{seed}"
        assert read_run(done.folder) == done
        assert ways(done) == {stage.name: Way(stacked=3) if stage.epochs else EAGER for stage in ALL}
        assert [epoch.capture for epoch in done.record.stages["retrain"].epochs] == [None, 1, None, 2, None]
        assert f"stages/{CYCLES.name}@2.safetensors" in left_by(done)


def test_seeds_differ(stacked):
    losses = [done.record.stages["float"].epochs[0].train_loss for done in stacked]
    assert len(set(losses)) == len(SEEDS)


def test_a_single_seed_is_an_ordinary_run(tmp_path):
    (done,) = run_seeds(planned(*SHORT), [2], tmp_path / "one", engine="stacked")
    assert_same_run(done, run(replace(planned(*SHORT), seed=2), tmp_path / "run"))


def test_what_is_asked_for_is_one_at_a_time(tmp_path):
    made = planned(*SHORT)
    for ours, theirs in zip(
        run_seeds(made, SEEDS, tmp_path / "ours", engine="eager"), one_by_one(made, tmp_path), strict=True
    ):
        assert_same_run(ours, theirs)


# Failures


def test_a_seed_that_diverges_fails_alone(tmp_path):
    spoiled = replace(SAQ, name="spoiled", start=BEGIN, losses=(Unlucky(seed=1),))
    made, said = planned(FLOAT, spoiled, replace(UNIQ, start=BEGIN)), []
    first, failed, last = run_seeds(made, SEEDS, tmp_path / "s", engine="stacked", say=said.append)
    assert (first.record.failure, last.record.failure) == (None, None)
    assert list(failed.record.stages) == ["float"]
    assert read_run(failed.folder, trust=True) == failed
    assert f"seed 1: {failed.record.failure.message}. `flatbit doctor {failed.folder}` explains" in said
    for done in (first, last):
        assert ways(done) == {"float": Way(stacked=3), "spoiled": Way(stacked=3), "uniq": Way(stacked=2)}
        assert (done.folder / "model.safetensors").is_file()
    with pytest.raises(RuntimeError, match="not finite"):
        run(replace(made, seed=1), tmp_path / "alone")
    assert read_run(tmp_path / "alone", trust=True).record.failure == failed.record.failure
    assert not (failed.folder / "model.safetensors").exists()


def test_a_seed_that_diverges_by_itself_leaves_the_others_too(tmp_path):
    made, said = planned(replace(FLOAT, losses=(Unlucky(seed=0),)), replace(UNIQ, start=BEGIN)), []
    failed, *others = run_seeds(made, SEEDS, tmp_path, engine="eager", say=said.append)
    assert failed.record.failure.stage == "float"
    assert [list(done.record.stages) for done in others] == [["float", "uniq"]] * 2
    assert sum(line.startswith("seed 0: stage 'float': the loss is not finite") for line in said) == 1


# Resume


@pytest.mark.parametrize("saves", [3, 6, 9])
def test_killed_and_resumed_stacks_are_the_uninterrupted_ones(saves, whole, tmp_path, monkeypatch):
    """Where all seeds stand at one epoch, they go on exactly."""
    _killed(monkeypatch, "save_checkpoint", saves, tmp_path)
    torch.manual_seed(4321)
    for ours, theirs in zip(run_seeds(planned(*SHORT), SEEDS, tmp_path, resume=True), whole, strict=True):
        assert_same_run(ours, theirs)


@pytest.mark.parametrize(
    ("name", "calls", "most"),
    [("save_checkpoint", 1, [3, 2, 2]), ("save_checkpoint", 5, [3, 3, 3]), ("measure", 2, [3, 3, 3]),
     ("keep", 4, [3, 3, 3])],
)  # fmt: skip
def test_what_was_killed_between_seeds_goes_on_in_parts(name, calls, most, whole, tmp_path, monkeypatch):
    """Seeds at another epoch are other stacks, or alone; finished ones are left; the most that were stacked is told."""
    _killed(monkeypatch, name, calls, tmp_path, stages if name == "save_checkpoint" else execution)
    done = run_seeds(planned(*SHORT), SEEDS, tmp_path, resume=True)
    assert [ways(ours) for ours in done] == [{"float": Way(stacked=n), "saq": Way(stacked=3)} for n in most]
    for ours, theirs in zip(done, whole, strict=True):
        assert_alike(ours, theirs)


def _killed(monkeypatch, name, calls, out, owner=stages, made=None):
    """Runs that die after the n-th call of a function."""
    with monkeypatch.context() as patched:
        kill_after(patched, owner, name, calls)
        with pytest.raises(Killed):
            run_seeds(made or planned(*SHORT), SEEDS, out, engine="stacked")


def test_a_stage_begun_stacked_goes_on_unstacked_and_the_other_way_round(whole, tmp_path, monkeypatch):
    made = planned(*SHORT)
    _killed(monkeypatch, "save_checkpoint", 9, tmp_path)
    kept = load_checkpoint(tmp_path / "seed0" / "checkpoint")
    assert (kept["stage"], kept["position"]["epoch"], kept["way"]["stacked"]) == ("saq", 1, 3)
    for seed, theirs in zip(SEEDS, whole, strict=True):
        ours = run(replace(made, seed=seed), tmp_path / f"seed{seed}", resume=True, engine="eager")
        assert_alike(ours, theirs)
        assert ways(ours)["saq"] == Way(stacked=3)


@pytest.mark.parametrize("engine", ["stacked", None])
def test_stages_begun_one_by_one_go_on_so_unless_stacking_is_asked_for(engine, tmp_path, monkeypatch):
    made = planned(*SHORT)
    for seed in SEEDS:
        with monkeypatch.context() as patched:
            kill_after(patched, stages, "save_checkpoint", 3)
            with pytest.raises(Killed):
                run(replace(made, seed=seed), tmp_path / "runs" / f"seed{seed}")
    done = run_seeds(made, SEEDS, tmp_path / "runs", resume=True, engine=engine)
    for ours, theirs in zip(done, one_by_one(made, tmp_path), strict=True):
        assert ways(ours) == {"float": EAGER, "saq": Way(stacked=3) if engine else EAGER}
        if engine:
            assert_alike(ours, theirs)
        else:
            assert_same_run(ours, theirs)


def test_a_stage_begun_in_another_way_is_not_stacked(tmp_path, monkeypatch):
    """Nor may it be: what it was begun with is kept."""
    made = planned(FLOAT)
    _killed(monkeypatch, "save_checkpoint", 3, tmp_path, made=made)
    for seed in SEEDS:
        file = tmp_path / f"seed{seed}" / "checkpoint" / "checkpoint.pt"
        kept = torch.load(file, weights_only=True)
        torch.save(kept | {"way": kept["way"] | {"stacked": 1, "compiled": True}}, file)
    with pytest.raises(ValueError, match="begun with engine compiled: give that"):
        run_seeds(made, SEEDS, tmp_path, resume=True, engine="stacked")


def test_what_is_finished_is_left_as_it_is(whole, tmp_path):
    said = []
    again = run_seeds(planned(*SHORT), SEEDS, whole[0].folder.parent, resume=True, say=said.append)
    assert again == whole
    assert len(said) == len(SEEDS)
    assert all("goes on; finished stages: " in line for line in said)
    with pytest.raises(ValueError, match="seed0 holds a run already: --resume goes on with it"):
        run_seeds(planned(*SHORT), SEEDS, whole[0].folder.parent)


def test_a_seed_may_join_later(whole, tmp_path):
    """Seeds that are done are not run again; a new one begins."""
    made = planned(*SHORT)
    first = run_seeds(made, [0], tmp_path)
    both = run_seeds(made, [0, 1], tmp_path, resume=True)
    assert both[0] == first[0]
    assert_alike(both[1], whole[1])


# What cannot be stacked, and what does not pay


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        (replace(FLOAT, losses=(Reading(),)), "Sequential cannot be trained several at once: "),
        (replace(FLOAT, sharpness=Sharpness(method="sam", rho=0.1, shard=4)), "sharpness shard=4: stacked nets climb"),
    ],
)
@pytest.mark.parametrize("engine", ["stacked", None])
def test_what_cannot_be_stacked_is_trained_one_seed_at_a_time_and_said(stage, why, engine, tmp_path):
    made, said = planned(stage), []
    done = run_seeds(made, SEEDS, tmp_path / "ours", engine=engine, say=said.append)
    assert [line for line in said if line.startswith(f"float: one seed at a time: {why}")] == [said[0]]
    for ours, theirs in zip(done, one_by_one(made, tmp_path), strict=True):
        assert_same_run(ours, theirs)


def test_half_precision_is_for_one_net_at_a_time(tmp_path):
    said = []
    done = run_seeds(planned(FLOAT), SEEDS, tmp_path, precision="bf16", say=said.append)
    assert said[0] == "float: one seed at a time: precision bf16: stacked nets are trained without autocast"
    assert ways(done[0]) == {"float": Way(precision="bf16")}


@pytest.mark.parametrize(("together", "alone", "stacks"), [(5.0, 2.0, True), (7.0, 2.0, False)])
def test_what_takes_less_time_is_taken_and_said(together, alone, stacks, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds_module, "TRIED_FROM", 6)
    monkeypatch.setattr(seeds_module, "tried_stacked", lambda works, updates=1: together / 1000)
    monkeypatch.setattr(seeds_module, "tried_alone", lambda work: alone / 1000)
    said = []
    done = run_seeds(planned(FLOAT), SEEDS, tmp_path / "tried", say=said.append)
    which = "stacked" if stacks else "one at a time"
    assert said[0] == (
        f"float: 3 seeds {which}: an update takes {together:.2f} ms stacked, 3 x {alone:.2f} ms one at a time"
    )
    assert ways(done[0]) == {"float": Way(stacked=3) if stacks else EAGER}


def test_trying_changes_no_number(tmp_path, monkeypatch):
    """A stage that is timed first is the one that is not."""
    monkeypatch.setattr(seeds_module, "TRIED_FROM", 6)
    said = []
    for chosen, engine in ((0.0, "stacked"), (float("inf"), "eager")):
        with monkeypatch.context() as patched:
            really = seeds_module.tried_stacked
            patched.setattr(seeds_module, "tried_stacked", lambda *args, r=really, c=chosen: c * (r(*args) > 0))
            tried = run_seeds(planned(*SHORT), SEEDS, tmp_path / f"{engine}-tried", say=said.append)
        forced = run_seeds(planned(*SHORT), SEEDS, tmp_path / engine, engine=engine)
        for ours, theirs in zip(tried, forced, strict=True):
            assert_same_run(ours, theirs)
    assert sum(bool(re.search(r"an update takes .* ms stacked, 3 x \d+\.\d\d ms", line)) for line in said) == 4


def test_a_short_stage_is_stacked_untried(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds_module, "tried_alone", None)
    said = []
    run_seeds(planned(FLOAT), SEEDS, tmp_path, say=said.append)
    assert said[0] == "float: 3 seeds stacked"


@pytest.mark.parametrize(
    ("seeds", "settings", "said"),
    [
        ((), {}, "seeds none: expected one or more"),
        ((1, 1), {}, "seeds 1, 1: expected one or more, each once"),
        ((0, -1), {}, "seeds 0, -1: expected"),
        (SEEDS, {"engine": "stack"}, "engine 'stack': "),
        (SEEDS, {"precision": "tf32"}, "precision tf32 is of CUDA devices"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(seeds, settings, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        run_seeds(planned(FLOAT), seeds, tmp_path / "runs", **settings)
    assert not (tmp_path / "runs").exists()
