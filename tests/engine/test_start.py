import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit import data as datasets
from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.run import read_run, run
from flatbit.engine.start import load_float_, matched, outputs_of
from flatbit.quant.layers import quantized_layers


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
    with pytest.raises(ValueError, match=r"b\.pth: this run started from a\.pth"):
        run(recipe(), tmp_path / "out", weights=tmp_path / "b.pth", resume=True)


def test_resuming_without_the_weights_it_started_from_is_refused(tmp_path):
    torch.save(fb.models.build("resnet8", first_width=2, in_channels=1).state_dict(), tmp_path / "a.pth")
    run(recipe(), tmp_path / "out", weights=tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"no --weights: this run started from a\.pth"):
        run(recipe(), tmp_path / "out", resume=True)


def test_the_weights_are_on_record_before_the_first_stage_ends(tmp_path, monkeypatch):
    torch.save(fb.models.build("resnet8", first_width=2, in_channels=1).state_dict(), tmp_path / "a.pth")

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("flatbit.engine.run.train_stage", dies)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), tmp_path / "out", weights=tmp_path / "a.pth")
    assert read_run(tmp_path / "out").record["weights"]["file"] == "a.pth"


def test_a_quantized_file_gives_its_latent_weights(tmp_path):
    source = fb.models.build("resnet8", first_width=2)
    fb.quantize_(source, fb.policy("sqwa", weights=2))
    fb.calibrate_(source, [])
    fb.save(source, tmp_path / "q.safetensors")
    target = fb.models.build("resnet8", first_width=2)
    assert "its latent float weights are taken" in load_float_(target, tmp_path / "q.safetensors")
    assert not dict(quantized_layers(target))
    assert torch.equal(target.layers[0][0].conv1.weight, source.layers[0][0].conv1.weight)
