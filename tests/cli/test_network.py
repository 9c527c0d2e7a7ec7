"""Where a verb's network comes from: the errors that ``eval`` and ``cost`` share."""

import pytest
import torch

import flatbit as fb
from flatbit.cli.network import open_network


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.safetensors"
    fb.save(fb.models.build("resnet8", first_width=2), path)
    return str(path)


def test_a_name_with_settings_and_a_strangers_weights(tmp_path, capsys):
    model = fb.models.build("resnet8", first_width=2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    opened = open_network("resnet8", {"first_width": 2}, weights=tmp_path / "w.pth")
    assert torch.equal(opened.network.fc.weight, model.fc.weight)
    assert opened.data is None
    assert "w.pth: mapped by name, without 'state_dict', 'module.'" in capsys.readouterr().err


def test_a_file_of_ours(file):
    assert open_network(file, {}).network.conv1.out_channels == 2


@pytest.mark.parametrize("given", [{"settings": {"width": 2}}, {"settings": {}, "weights": "w.pth"}])
def test_a_file_takes_no_settings_and_no_weights(file, given):
    with pytest.raises(ValueError, match="have no meaning"):
        open_network(file, **given)


def test_a_stage_is_of_a_run(file):
    with pytest.raises(ValueError, match="is no run's folder"):
        open_network(file, {}, stage="float")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        open_network(str(tmp_path / "gone.pt"), {})
