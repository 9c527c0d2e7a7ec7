"""A third party's file: nothing in it runs, and the set of tensors that is meant is found, or all are listed."""

import pickle
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import nn

from flatbit.models import build, read_checkpoint
from flatbit.models.third_party import find_set


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_hostile_pickle_does_not_run(tmp_path):
    trap = tmp_path / "ran"
    torch.save({"state_dict": Hostile(str(trap))}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match="would run code"):
        read_checkpoint(tmp_path / "s.pth")
    with (tmp_path / "old.pth").open("wb") as file:
        pickle.dump(Hostile(str(trap)), file, protocol=2)
    with pytest.raises(ValueError, match=r"old\.pth"):
        read_checkpoint(tmp_path / "old.pth")
    assert not trap.exists()


def test_whatever_is_wrong_with_a_damaged_file_is_one_error(tmp_path):
    path = tmp_path / "s.pth"
    torch.save(build("resnet8", first_width=4).state_dict(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(whole) // 3, (60,), generator=generator).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        message = "s.pth"
        try:
            read_checkpoint(path)  # what is not seen to be damaged is read
        except ValueError as error:
            message = str(error)
        assert "s.pth" in message


def test_a_page_is_no_checkpoint(tmp_path):
    (tmp_path / "s.pth").write_text("<!DOCTYPE html><html>not found</html>")
    with pytest.raises(ValueError, match="neither a zip file nor a pickle"):
        read_checkpoint(tmp_path / "s.pth")


def weights(*sizes):
    """A state of linear layers, filled with its first size."""
    return {f"{i}.weight": torch.full((b, a), float(sizes[0])) for i, (a, b) in enumerate(pairwise(sizes))}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


NET, OTHER, TWIN = weights(2, 3, 4), weights(9, 3, 4, 5), {name: t + 1 for name, t in weights(2, 3, 4).items()}
WANTED = Counter(tuple(t.shape) for t in NET.values())
OPTIMIZER = torch.optim.Adam([nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(4, 3))])
for group in OPTIMIZER.param_groups:
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
OPTIMIZER.step()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (NET, ""),
        ({"state_dict_ema": NET, "epoch": 3, "optimizer": OPTIMIZER.state_dict()}, "state_dict_ema"),
        ({"model": {"state_dict": NET, "arch": "x"}}, "model.state_dict"),
        ({"ema": {"decay": 0.9, "shadow": NET}}, "ema.shadow"),
        ({"student": NET, "teacher": OTHER}, "student"),
        ({"model": NET, "ema": TWIN}, "model"),
        ({"state_dict": NET, "state_dict_ema": TWIN}, "state_dict"),
        ({"generator": NET, "stats": {"mean": torch.zeros(3), "std": torch.ones(3)}}, "generator"),
        ({"state_dict": prefixed("model.", NET) | {"criterion.weight": torch.ones(10)}}, "state_dict.model"),
        ({"state_dict": prefixed("net.", NET) | prefixed("teacher.", OTHER)}, "state_dict.net"),
        ({"stem": {"0.weight": NET["0.weight"]}, "head": {"weight": NET["1.weight"]}}, ""),
        ([NET, OPTIMIZER.state_dict()], "0"),
        ({"best": torch.tensor(91.0), "state_dict": NET}, "state_dict"),
    ],
)
def test_the_set_of_the_models_shapes_is_found_at_any_depth(content, key):
    taken, _ = find_set(content, WANTED, "f.pth")
    assert taken.key == key
    assert [tuple(t.shape) for t in taken.tensors.values()] == [(3, 2), (4, 3)]
    assert all(bool((t == 2).all()) for t in taken.tensors.values())


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"student": NET, "teacher": TWIN}, ("student", "teacher")),
        ({"net": NET, "model": TWIN}, ("net", "model")),
        ({"ema": {"fast": NET, "slow": TWIN}}, ("ema.fast", "ema.slow")),
        ({"state_dict": prefixed("student.", NET) | prefixed("teacher.", TWIN)},
         ("state_dict.student", "state_dict.teacher")),
        ([NET, TWIN], ("0", "1")),
        ({"a": OTHER, "b": OTHER}, ("a", "b")),
    ],
)  # fmt: skip
def test_where_several_could_be_meant_all_are_listed_and_a_key_picks_one(content, keys):
    with pytest.raises(ValueError, match=r"f\.pth holds several sets of weights") as refused:
        find_set(content, WANTED, "f.pth")
    assert all(f"'{key}' (" in str(refused.value) for key in keys)
    assert f"--checkpoint-key {keys[0]}" in str(refused.value)
    for key, other in (keys, keys[::-1]):
        taken, beside = find_set(content, WANTED, "f.pth", key=key)
        assert taken.key == key
        assert beside in ([other], [other.rpartition(".")[2]])


def test_a_key_leads_to_what_stands_below_it():
    content = {"teacher": {"state_dict": TWIN, "epoch": 3}, "student": {"state_dict": NET}}
    assert find_set(content, WANTED, "f.pth", key="teacher")[0].key == "teacher.state_dict"


def test_a_key_that_leads_nowhere_is_an_error():
    with pytest.raises(ValueError, match=r"no tensors under 'techer' \(--checkpoint-key\).*did you mean teacher"):
        find_set({"student": NET, "teacher": TWIN}, WANTED, "f.pth", key="techer")


def test_of_sets_that_none_fits_the_likest_is_taken_or_those_like_it_listed():
    head = weights(2, 3, 7)
    assert find_set({"student": head, "stats": {"mean": torch.zeros(1)}}, WANTED, "f.pth")[0].key == "student"
    with pytest.raises(ValueError, match=r"'student'.*'teacher'"):
        find_set({"student": head, "teacher": head}, WANTED, "f.pth")


def test_an_optimizers_state_is_no_set():
    with pytest.raises(ValueError, match="holds no tensors: its keys are"):
        find_set({"optimizer": OPTIMIZER.state_dict()}, WANTED, "f.pth")
