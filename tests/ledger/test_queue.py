"""The queue: to its end in time, on any machine, and what it leaves is what an uninterrupted one leaves."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import flatbit.engine.stage
from flatbit.device import processor_name
from flatbit.engine.record import Failure, Run, read_run
from flatbit.ledger import queue as subject
from flatbit.ledger.evidence import read, shelf, write
from flatbit.ledger.packing import pack, unpack
from flatbit.ledger.queue import Queue, carried, work

from .cases import EXPERIMENTS, group, numbers, proof_of, shortened, tiny_ledger_


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    tiny_ledger_(monkeypatch, tmp_path / "ours")


@pytest.fixture
def made(tmp_path):
    """A queue in a folder of its own, and the lines that it said."""

    def make(name="out", **facts):
        lines = []
        return Queue(out=tmp_path / name, data_dir=None, device="cpu", say=lines.append, **facts), lines

    return make


def records(queue):
    """What each of its records has, without times, by experiment and seed."""
    found = shelf([queue.records])
    assert not found.left_out
    return {(each.experiment, each.run.seed): numbers(each.run.as_dict()) for each in found.files.values()}


def same_models(one, other, name):
    """Whether both left the same weights and steps, to the bit."""
    files = [load_file(queue.folder(name) / "model.safetensors") for queue in (one, other)]
    return files[0].keys() == files[1].keys() and all(
        torch.equal(value, files[1][key]) for key, value in files[0].items()
    )


def names(won):
    return sorted((found.experiment, found.run.seed) for found in won)


PAIR = [("tiny/float", 0), ("tiny/good", 0), ("tiny/other", 0)]


def test_a_group_is_run_to_its_end_and_leaves_records(made):
    queue, lines = made()
    assert names(work(queue, [group("pair")], minutes=5)) == PAIR
    assert len([*queue.records.iterdir()]) == 3
    for path in queue.records.iterdir():
        found = read(path)
        assert (found.variation, found.failed, found.run.seed) == ("", False, 0)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.finished)
        run = read_run(queue.folder(found.experiment)).record
        assert [*found.run.stages] == [stage.name for stage in run.recipe.stages]
        assert found.run.stages == run.stages
    assert lines[-1] == "nothing is left to run of these groups"
    assert any(re.match(r"pair: about .*; .* are left", line) for line in lines)


def test_what_is_done_is_not_done_again_and_what_others_start_from_is_made_once(made):
    queue, _ = made()
    work(queue, [group("pair")], minutes=5)
    before = {path: path.read_bytes() for path in queue.records.iterdir()}
    assert work(queue, [group("pair")], minutes=5) == []
    assert names(work(queue, [group("seeds")], minutes=5)) == [("tiny/good", 1)]
    assert {path: path.read_bytes() for path in before} == before


def test_records_of_elsewhere_are_not_made_again(made, tmp_path):
    queue, _ = made("there")
    work(queue, [group("pair")], minutes=5)
    here, lines = made("here", more=[queue.records])
    assert work(here, [group("pair")], minutes=5) == []
    assert lines == ["nothing is left to run of these groups"]
    only = tmp_path / "only"
    only.mkdir()
    for path in queue.records.iterdir():
        if "other" not in path.name:
            shutil.copy(path, only)
    here, _ = made("again", more=[only])
    assert names(work(here, [group("pair")], minutes=5)) == [("tiny/float", 0), ("tiny/other", 0)]
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(next(path for path in queue.records.iterdir() if "good" in path.name), alone)
    here, _ = made("unproved", more=[alone])  # nobody knows what that one started from
    assert [entry.name for entry, _ in here.pending(group("pair"))] == ["tiny/float", "tiny/good", "tiny/other"]


def test_a_shortened_record_is_no_reason_not_to_run(made, tmp_path):
    good = next(entry for entry in EXPERIMENTS if entry.name == "tiny/good")
    write(proof_of("tiny/good", recipe=shortened(good.made(), 1)), tmp_path / "more")
    queue, _ = made(more=[tmp_path / "more"])
    assert [entry.name for entry, _ in queue.pending(group("pair"))] == ["tiny/float", "tiny/good", "tiny/other"]


# Budgets


def test_a_budget_too_small_for_any_group_names_the_smallest(made, monkeypatch):
    monkeypatch.setattr(Queue, "seconds", lambda self, asked: {"pair": 600.0, "long": 90.0}[asked.name])
    queue, _ = made()
    with pytest.raises(
        ValueError,
        match=r"--budget-minutes is too small: of the groups that are left the smallest, long, takes about 1 min 30 s: "
        "give more, or --partial to begin it",
    ):
        work(queue, [group("pair"), group("long")], minutes=1)
    assert not (queue.out / "runs").exists()


def test_the_first_group_that_fits_is_taken(made, monkeypatch):
    monkeypatch.setattr(Queue, "seconds", lambda self, asked: {"pair": 600.0, "long": 9.0}[asked.name])
    queue, lines = made()
    assert names(work(queue, [group("pair"), group("long")], minutes=1)) == [("tiny/float", 0), ("tiny/long", 0)]
    assert lines[-1] == "of the groups that are left the smallest, pair, takes about 10 min: more than is left"


def test_times_are_predicted_kept_and_less_once_begun(made):
    queue, _ = made()
    predicted = queue.seconds(group("pair"))
    times = json.loads((queue.out / "times.json").read_text())
    assert predicted == pytest.approx(sum(times.values()))
    assert predicted > 0
    assert {*times} == {f"{processor_name('cpu')}/tiny/{name}" for name in ("float", "good", "other")}
    (queue.out / "times.json").write_text(json.dumps(dict.fromkeys(times, 10.0)))
    other, _ = made()
    assert other.seconds(group("pair")) == 30.0
    assert other.seconds(group("seeds")) == 30.0  # two seeds and what they start from


class Left(Exception):
    """What stops a queue in these tests, as a kill does."""


def at_checkpoint(monkeypatch, number, act, after=""):
    """Do something after so many checkpoints of the queue, the first of them after some stage's name was said."""
    counts, whole = [], flatbit.engine.stage.save_checkpoint

    def save(folder, *given):
        whole(folder, *given)
        if after in str(folder):
            counts.append(1)
        if len(counts) == number:
            counts.append(1)
            act()

    monkeypatch.setattr(flatbit.engine.stage, "save_checkpoint", save)


@pytest.fixture
def whole(made):
    """The records of an uninterrupted queue."""
    queue, _ = made("whole")
    work(queue, [group("long")], minutes=5)
    return queue


def test_at_sigterm_it_ends_and_goes_on_to_the_same_records(made, monkeypatch, whole):
    queue, lines = made()
    with monkeypatch.context() as patch:
        at_checkpoint(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM), after="long")
        assert names(work(queue, [group("long")], minutes=5)) == [("tiny/float", 0)]
    assert lines[-1] == "SIGTERM: what is begun goes on from its last checkpoint another time"
    folder = queue.folder("tiny/long")
    assert (folder / "checkpoint" / "checkpoint.pt").is_file()
    assert queue._share_done(subject.experiment("tiny/long"), 0) == pytest.approx(2 / 6)
    assert names(work(queue, [group("long")], minutes=5)) == [("tiny/long", 0)]
    assert records(queue) == records(whole)
    assert same_models(queue, whole, "tiny/long")


def test_at_its_deadline_it_ends_and_goes_on_to_the_same_records(made, monkeypatch, whole):
    queue, lines = made()
    with monkeypatch.context() as patch:
        patch.setattr(Queue, "seconds", lambda self, asked: 0.0)
        at_checkpoint(patch, 3, lambda: signal.setitimer(signal.ITIMER_REAL, 0.001), after="long")
        work(queue, [group("long")], minutes=5)
    assert lines[-1] == "the time is up: what is begun goes on from its last checkpoint another time"
    work(queue, [group("long")], minutes=5)
    assert records(queue) == records(whole)
    assert same_models(queue, whole, "tiny/long")


def test_the_deadline_is_that_of_the_budget(made, monkeypatch):
    monkeypatch.setattr(Queue, "run", lambda self, asked: signal.pause())
    monkeypatch.setattr(Queue, "seconds", lambda self, asked: 0.0)
    queue, lines = made()
    assert work(queue, [group("long")], minutes=0.3 / 60) == []
    assert lines[-1].startswith("the time is up")


def test_on_another_machine_it_goes_on_from_what_was_carried(made, monkeypatch, tmp_path, whole):
    """Killed without a word in the middle; archives within their limits are all that the other machine has."""
    queue, _ = made("here")

    def killed():
        raise Left

    with monkeypatch.context() as patch:
        at_checkpoint(patch, 4, killed, after="long")
        with pytest.raises(Left):
            work(queue, [group("long")], minutes=5)
    (tmp_path / "carry").mkdir()
    packed = pack(
        queue.out, tmp_path / "carry", files=2, file_bytes=200_000, seconds=60, keep=carried(queue, [group("long")])
    )
    assert not packed.left_out
    assert len([*(tmp_path / "carry").iterdir()]) <= 2
    assert all(path.stat().st_size <= 200_000 for path in (tmp_path / "carry").iterdir())
    other, _ = made("there")
    unpack(tmp_path / "carry", other.out)
    shutil.rmtree(queue.out)
    assert names(work(other, [group("long")], minutes=5)) == [("tiny/long", 0)]
    assert records(other) == records(whole)
    assert same_models(other, whole, "tiny/long")


def test_only_what_another_machine_needs_is_carried(made):
    queue, _ = made()
    work(queue, [group("pair")], minutes=5)
    keep = carried(queue, [group("pair"), group("long")])
    assert keep("records/a.json")
    assert keep("times.json")
    assert keep("runs/tiny/float/seed0/model.safetensors")
    assert keep("runs/tiny/long/seed0/checkpoint/checkpoint.pt")
    for name in (
        "runs/tiny/good/seed0/model.safetensors", "runs/tiny/long/seed1/run.json",
        "lock", "untrained/tiny/float.safetensors", "smoke/tiny/long/seed0/run.json",
    ):  # fmt: skip
        assert not keep(name), name


# What goes wrong


def test_a_run_that_diverges_is_a_record_and_not_run_again(made):
    queue, lines = made()
    (found,) = [each for each in work(queue, [group("bad")], minutes=5) if each.experiment == "tiny/bad"]
    assert found.failed
    assert found.run.failure.stage == "fine-tuned"
    assert any(re.match(r"  diverged: .*tiny-bad-seed0-", line) for line in lines)
    assert work(queue, [group("bad")], minutes=5) == []


def test_what_starts_from_a_run_that_diverged_is_blocked_and_named(made):
    queue, lines = made()
    won = work(queue, [group("orphan")], minutes=5)
    assert [(found.experiment, found.failed) for found in won] == [("tiny/bad-float", True)]
    assert lines[-1] == "orphan: tiny/orphan starts from tiny/bad-float, which diverged: this blocks no published row"
    with pytest.raises(ValueError, match="nothing can be run: tiny/orphan starts from tiny/bad-float, which diverged"):
        work(queue, [group("orphan")], minutes=5)
    assert len([*queue.records.iterdir()]) == 1


def test_missing_data_name_the_rows_that_they_block(made):
    queue, lines = made()
    assert names(work(queue, [group("cifar"), group("pair")], minutes=5)) == PAIR
    assert re.match(r"cifar: tiny/taught cannot be run: .*cifar10.*--data-dir DIR.*: this blocks HOL-T4-06$", lines[0])
    with pytest.raises(ValueError, match=r"nothing can be run: tiny/taught cannot .*cifar10.*: this blocks HOL-T4-06$"):
        work(queue, [group("cifar")], minutes=5)
    queue.data_dir = queue.out
    with pytest.raises(
        ValueError, match=r"nothing can be run: (.|\n)*'cifar10' is not in (.|\n)*this blocks HOL-T4-06$"
    ):
        work(queue, [group("cifar")], minutes=5)


def test_a_full_disk_leaves_no_half_written_record_and_the_run_is_kept(made, monkeypatch):
    queue, _ = made()

    def full(path, text):
        path.write_bytes(text[:99].encode())
        raise OSError(28, "No space left on device")

    queue.seconds(group("pair"))
    with monkeypatch.context() as patch:
        whole = Path.write_text
        patch.setattr(Path, "write_text", lambda path, text: (full if "records" in path.parts else whole)(path, text))
        with pytest.raises(OSError, match="No space left"):
            work(queue, [group("pair")], minutes=5)
    assert [*queue.records.iterdir()] == []
    lines = []
    queue.say = lines.append
    assert names(work(queue, [group("pair")], minutes=5)) == PAIR
    assert not any("float: top-1" in line for line in lines[:3])  # it was trained already


def test_a_record_that_is_not_what_was_asked_for_stops_the_group(made, monkeypatch):
    """Else the queue would make it again and again."""
    monkeypatch.setattr("flatbit.ledger.evidence.likeness", lambda recipe: object())
    queue, lines = made()
    work(queue, [group("pair")], minutes=5)
    assert "is not what tiny/float asks for: other settings" in lines[-1]
    assert len([*queue.records.iterdir()]) == 1


def test_only_trying_leaves_no_record_and_nothing_that_a_run_would_start_from(made):
    queue, _ = made(smoke=True)
    assert work(queue, [group("pair")], minutes=5) == []
    assert [*queue.records.iterdir()] == []
    assert not (queue.out / "times.json").exists()
    assert read_run(queue.folder("tiny/good")).record.recipe.stages[-1].max_steps
    again, _ = made()
    assert names(work(again, [group("pair")], minutes=5)) == PAIR


def test_what_does_not_even_start_is_said_when_it_is_tried(made, monkeypatch):
    failure = Failure(stage="float", message="the loss is not finite")
    record = replace(proof_of("tiny/float").run, failure=failure)
    monkeypatch.setattr(subject, "run_seeds", lambda *given, **more: [Run(folder=Path(), record=record)])
    queue, lines = made(smoke=True)
    work(queue, [group("pair")], minutes=5)
    assert lines[-1] == "pair: tiny/float does not run: the loss is not finite: this blocks HOL-T4-05"
