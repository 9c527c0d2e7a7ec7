import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.engine import stage
from flatbit.engine.checkpoint import BEFORE, NAME, load_checkpoint, restore_checkpoint_, save_checkpoint
from flatbit.engine.loop import Position
from flatbit.engine.record import EpochRecord
from flatbit.engine.way import EAGER
from flatbit.reference import From
from flatbit.train.averaging import QuantizedAverage

from .cases import CYCLES, FLOAT, Killed, assert_same_run, kill_after, ran, recipe


def training():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def saved(folder, epoch=0, stage="float"):
    save_checkpoint(folder, *training(), Position(epoch=epoch), stage, EAGER)


def step(model, optimizer, seed):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_going_on_equals_never_having_stopped(tmp_path, kind):
    def start():
        model, sgd = training()
        return model, sgd if kind == "sgd" else torch.optim.Adam(model.parameters(), lr=0.1)

    model, optimizer = start()
    for seed in range(3):
        step(model, optimizer, seed)
    save_checkpoint(tmp_path, model, optimizer, Position(epoch=1), "float", EAGER)
    for seed in range(3, 6):
        step(model, optimizer, seed)

    torch.manual_seed(1234)
    fresh, fresh_optimizer = start()
    torch.manual_seed(1234)  # dropout must go on from the checkpoint's random state
    restore_checkpoint_(load_checkpoint(tmp_path), fresh, fresh_optimizer)
    for seed in range(3, 6):
        step(fresh, fresh_optimizer, seed)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_what_the_device_takes_stays_as_it_is_here(kind, tmp_path):
    """A run that was begun on the CPU, whose rates are numbers, goes on with tensors that a graph can hold."""
    model, _ = training()
    begun = kind(model.parameters(), lr=0.1)
    step(model, begun, 0)
    save_checkpoint(tmp_path, model, begun, Position(epoch=1), "float", EAGER)
    rate = torch.tensor(0.3)
    other = kind(model.parameters(), lr=rate, fused=True)
    restore_checkpoint_(load_checkpoint(tmp_path), model, other)
    (group,) = other.param_groups
    assert group["lr"] is rate
    assert rate == torch.tensor(0.3)
    assert group["fused"]
    assert len(other.state) == len(begun.state)
    step(model, other, 1)


def test_position_and_stage_come_back_as_they_were(tmp_path):
    epoch = EpochRecord(
        epoch=1, lr=1e-7, train_loss=0.1 + 0.2, train_top1=1.0, losses={"a": 0.1}, images_per_s=3.0, seconds=2.0,
        test_top1=98.25,
    )  # fmt: skip
    position = Position(epoch=3, loss=0.1 + 0.2, terms=(0.1, 0.2), first_loss=2.5, history=(epoch,))
    save_checkpoint(tmp_path / "new" / "folder", *training(), position, "w2a2", EAGER)
    kept = load_checkpoint(tmp_path / "new" / "folder")
    assert Position.from_dict(kept["position"]) == position
    assert kept["stage"] == "w2a2"


def test_a_wrapped_models_checkpoint_is_the_plain_models(tmp_path):
    model, optimizer = training()
    save_checkpoint(
        tmp_path, nn.DataParallel(torch.compile(model, backend="eager")), optimizer, Position(), "float", EAGER
    )
    for wrap in (nn.Module.train, nn.DataParallel):
        fresh, other = training()
        nn.init.zeros_(fresh[0].weight)
        restore_checkpoint_(load_checkpoint(tmp_path), wrap(fresh), other)
        assert torch.equal(fresh[0].weight, model[0].weight)


def test_captures_come_back(tmp_path):
    def capturing(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        fb.quantize_(model, fb.policy("sqwa-all", weights=2))
        fb.calibrate_(model, [])
        return model, QuantizedAverage(model)

    model, average = capturing(0)
    average.add()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path, model, sgd, Position(), "retrain", EAGER, average)
    fresh, again = capturing(1)
    restore_checkpoint_(load_checkpoint(tmp_path), fresh, torch.optim.SGD(fresh.parameters(), lr=0.1), again)
    assert again.count == 1
    for made, captures in ((model, average), (fresh, again)):
        captures.add()
        captures.apply_(made)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None


def test_the_last_two_are_kept(tmp_path):
    for epoch in range(4):
        saved(tmp_path, epoch)
    notes = []
    assert load_checkpoint(tmp_path, notes.append)["position"]["epoch"] == 3
    assert not notes
    assert {entry.name for entry in tmp_path.iterdir()} == {NAME, BEFORE}
    (tmp_path / NAME).unlink()
    assert load_checkpoint(tmp_path)["position"]["epoch"] == 2


def test_dying_while_saving_leaves_the_last_one(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def dies(content, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["position"]["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 1


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: torch.save({"model": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_one_gives_way_to_the_one_before_with_a_note(tmp_path, damage):
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    damage(tmp_path / NAME)
    notes = []
    assert load_checkpoint(tmp_path, notes.append)["position"]["epoch"] == 1
    (note,) = notes
    assert note == f"{tmp_path / NAME} is damaged: going on from the checkpoint before it"
    assert not (tmp_path / NAME).exists()


def test_where_both_are_damaged_it_is_the_error_about_the_last(tmp_path):
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    for name in (NAME, BEFORE):
        (tmp_path / name).write_bytes(b"damaged")
    assert one_line_about(tmp_path / NAME)


def test_dying_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    whole = Path.replace

    def dies(path, target):
        if Path(target).name == NAME:
            raise KeyboardInterrupt
        return whole(path, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["position"]["epoch"] == 1


def test_a_run_whose_last_checkpoint_is_damaged_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    made = recipe(replace(FLOAT, epochs=4), replace(CYCLES, start=From.stage("float")))
    whole = ran(made, tmp_path / "whole")
    kill_after(monkeypatch, stage, "save_checkpoint", 4 + 3)
    with pytest.raises(Killed):
        ran(made, tmp_path / "cut")
    monkeypatch.undo()
    last = tmp_path / "cut" / "checkpoint" / NAME
    last.write_bytes(last.read_bytes()[:-500])
    said = []
    again = ran(made, tmp_path / "cut", resume=True, say=said.append)
    assert any("going on from the checkpoint before it" in line for line in said)
    assert_same_run(whole, again)
    assert not (tmp_path / "cut" / "checkpoint").exists()


def one_line_about(path):
    with pytest.raises(
        ValueError, match=r"is not a checkpoint of ours .*: delete it to start the stage again"
    ) as caught:
        load_checkpoint(path.parent)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return True


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip", bytes(200)])
def test_a_file_that_is_none_is_one_clear_error(tmp_path, content):
    path = tmp_path / NAME
    path.write_bytes(content)
    assert one_line_about(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, torch.zeros(2)])
def test_a_torch_file_of_something_else_is_one_clear_error(tmp_path, content):
    path = tmp_path / NAME
    torch.save(content, path)
    assert one_line_about(path)


class Exploit:
    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_nothing_in_a_checkpoint_executes(tmp_path, write):
    path, exploit = tmp_path / NAME, Exploit()
    exploit.path = str(tmp_path / "executed")
    write({"model": exploit}, path)
    assert one_line_about(path)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_model_does_not_load(tmp_path):
    saved(tmp_path)
    other = nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="Missing key"):
        restore_checkpoint_(load_checkpoint(tmp_path), other, torch.optim.SGD(other.parameters(), lr=0.1))


@pytest.mark.gpu
def test_dropout_on_a_device_goes_on_from_the_checkpoint(tmp_path, device):
    dropout, x = nn.Dropout(0.5), torch.ones(100, device=device)
    dropout(x)
    saved(tmp_path)
    expected = dropout(x)
    torch.manual_seed(99)
    restore_checkpoint_(load_checkpoint(tmp_path), *training())
    assert torch.equal(dropout(x), expected)
