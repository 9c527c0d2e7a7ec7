import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit import data as datasets
from flatbit.train.recipe import Recipe, Stage
from flatbit.train.run import run
from flatbit.train.start import matched, outputs_of


def recipe(**arguments):
    stages = (Stage(name="float", epochs=0, lr=0.1),)
    return Recipe(
        name="s", model="resnet8", model_arguments={"first_width": 2} | arguments, data="digits", stages=stages
    )


def test_grey_data_match_a_coloured_net_and_nothing_else_changes():
    grey = datasets.load("digits")
    assert matched(grey, fb.models.build("resnet8")).image_shape == (3, 8, 8)
    for model in (fb.models.build("resnet8", in_channels=1), nn.Linear(64, 10), nn.Identity()):
        assert matched(grey, model) is grey


def test_outputs_are_those_of_the_last_layer():
    assert outputs_of(fb.models.build("resnet8", num_classes=7)) == 7
    assert outputs_of(nn.Identity()) is None


def test_more_outputs_than_classes_are_said(tmp_path):
    said = []
    run(recipe(num_classes=12), tmp_path, say=said.append)
    assert "resnet8 has 12 outputs, the data 10 classes: --set num_classes= mends it" in said


def test_resuming_with_other_weights_is_refused(tmp_path):
    for name in ("a.pth", "b.pth"):
        torch.save(fb.models.build("resnet8", first_width=2, in_channels=1).state_dict(), tmp_path / name)
    run(recipe(), tmp_path / "out", weights=tmp_path / "a.pth")
    run(recipe(), tmp_path / "out", weights=tmp_path / "a.pth", resume=True)
    with pytest.raises(ValueError, match=r"b\.pth is not what this run started from \(a\.pth\)"):
        run(recipe(), tmp_path / "out", weights=tmp_path / "b.pth", resume=True)
