"""What torch.compile, parallel and averaging modules add to a model's names comes off, and nothing else does."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from flatbit.wrappers import (
    load_state_,
    named_modules,
    plain_name,
    respelled,
    spelling,
    state_of,
    unwrapped,
)  # fmt: skip


def made():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 1)))


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model[2] = compiled(model[2])
    return model


def parallel_inside(model):
    model[0] = nn.DataParallel(model[0])
    return model


def checkpointed(model):
    model[2] = checkpoint_wrapper(model[2])
    return model


WRAPS = {
    "compile": compiled,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "all": lambda model: compiled(nn.DataParallel(AveragedModel(AveragedModel(model)))),
    "compiled inside": compiled_inside,
    "parallel inside": parallel_inside,
    "checkpointed inside": checkpointed,
    "both": lambda model: nn.DataParallel(compiled_inside(model)),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_names_and_state_are_the_plain_models(wrap):
    plain = made()
    model = wrap(plain)
    assert [name for name, _ in named_modules(model)] == ["", "0", "1", "2", "2.0"]
    assert list(state_of(model)) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    new = {key: torch.full_like(value, 7.0) for key, value in state_of(model).items()}
    load_state_(model, new)
    assert all(bool((p == 7).all()) for p in model.parameters())
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_state_(model, new | {"0.bias": torch.zeros(9)})
    with pytest.raises(RuntimeError, match="more"):
        load_state_(model, new | {"more": torch.zeros(9)})


def test_a_model_that_is_none_is_itself():
    model = made()
    assert unwrapped(model) is model
    assert unwrapped(compiled(nn.DataParallel(model))) is model


def test_a_models_own_module_is_no_wrappers():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    model = Scaled()
    assert unwrapped(model) is model
    assert plain_name(nn.DataParallel(model), "module.module.weight") == "module.weight"
    assert list(state_of(nn.DataParallel(model))) == ["module.weight", "module.bias"]


def test_an_average_that_a_model_holds_keeps_its_count():
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "mean": AveragedModel(nn.Linear(2, 2))})
    assert list(state_of(model)) == ["net.weight", "net.bias", "mean.n_averaged", "mean.weight", "mean.bias"]
    load_state_(model, state_of(model))


@pytest.mark.parametrize(
    ("names", "wanted", "spelled"),
    [
        (["a", "b"], ["a"], ["a", "b"]),
        (["module.a", "module.b"], ["a"], ["a", "b"]),
        (["n_averaged", "module._orig_mod.a"], ["a"], ["n_averaged", "a"]),
        (["module.module.a"], ["module.a"], ["module.a"]),
        (["f.module.0", "f.module.1"], ["f.0", "f.1"], ["f.0", "f.1"]),
        (["module.f._orig_mod.0", "module.g"], ["f.0", "g"], ["f.0", "g"]),
        (["module.a"], ["z"], ["module.a"]),
    ],
)
def test_a_files_names_are_spelled_as_wanted(names, wanted, spelled):
    spell = spelling(names, wanted)
    assert [spell(name) for name in names] == spelled


def test_two_names_that_become_one_are_refused():
    tensors = {"a": torch.zeros(1), "module.a": torch.ones(1)}
    with pytest.raises(ValueError, match=r"two tensors are 'a' without what wrappers add: 'module\.a' is one"):
        respelled(tensors, lambda name: name.removeprefix("module."), ["a"])
    assert list(respelled({"n_averaged": torch.zeros(1), "a": torch.zeros(1)}, str, ["a"])) == ["a"]


class Versioned(nn.Linear):
    """Mends old states by their version, which it must be told (torchvision's MNASNet)."""

    _version = 2

    told = None

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        self.told = metadata.get("version")
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_modules_are_told_their_version():
    model, source = nn.Sequential(Versioned(2, 2)), nn.Sequential(Versioned(2, 2))
    load_state_(model, state_of(source))
    assert model[0].told == 2
    assert torch.equal(model[0].weight, source[0].weight)
