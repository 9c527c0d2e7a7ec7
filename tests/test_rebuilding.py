import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.rebuilding import rebuilt


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(bytes(40_000))
    return path


def test_a_model_that_the_file_could_hold_is_built(small_file):
    model = rebuilt(small_file, ("preresnet8", {"in_channels": 1}), trust=False)
    assert next(model.parameters()).device.type == "cpu"
    assert not any(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("arguments", [{"width": 10**6}, {"num_classes": 10**14}, {"first_width": 2**40}])
def test_one_far_larger_is_refused_before_it_is_allocated(small_file, arguments, monkeypatch):
    real = []
    build = models.build

    def watched(name, **given):
        real.append(torch.get_default_device().type)
        return build(name, **given)

    monkeypatch.setattr(models, "build", watched)
    with pytest.raises(ValueError, match=r"m\.safetensors: its model cannot be built, preresnet8 with"):
        rebuilt(small_file, ("preresnet8", arguments), trust=False)
    assert real[0] == "meta"


def test_what_it_counts_is_left_behind_by_nothing(small_file):
    with pytest.raises(ValueError, match=r"more than 2,560,000 values or 2,500 parameters, which the file cannot hold"):
        rebuilt(small_file, ("preresnet8", {"num_classes": 10**6}), trust=False)
    nn.Linear(2000, 2000, device="meta")  # the hook is gone


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_values_are_counted_too(small_file):
    """A hostile file may ask for a billion empty layers."""
    arguments = {"in_features": 0, "width": 0, "depth": 10**9}
    with pytest.raises(ValueError, match="which the file cannot hold"):
        rebuilt(small_file, ("fcdnn", arguments), trust=False)


def test_a_builder_is_not_imported_on_the_files_word(small_file):
    with pytest.raises(ValueError, match=r"wants to import and call 'os:getcwd'.*trust=True"):
        rebuilt(small_file, ("os:getcwd", {}), trust=False)


def test_a_builder_that_computes_with_values_is_built_all_the_same(small_file, monkeypatch):
    def net():
        assert float(torch.linspace(0, 1, 3)[1]) == 0.5  # no tensor of the meta device has a number
        return nn.Linear(2, 2)

    monkeypatch.setitem(models.MODELS._objects, "computing", net)
    assert isinstance(rebuilt(small_file, ("computing", {}), trust=False), nn.Linear)
