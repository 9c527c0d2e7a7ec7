"""Where a verb's network comes from: the errors that ``eval`` and ``cost`` share."""

from types import SimpleNamespace

import pytest
import torch

import flatbit as fb
from flatbit.cli.network import Opened, given_checkpoint, open_network
from flatbit.engine import Checkpoint


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.safetensors"
    fb.save(fb.models.build("resnet8", first_width=2), path)
    return str(path)


def test_a_name_with_arguments_and_a_third_party_checkpoint(tmp_path, capsys):
    model = fb.models.build("resnet8", first_width=2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    opened = open_network("resnet8", {"first_width": 2}, checkpoint=Checkpoint(path=tmp_path / "w.pth"))
    assert torch.equal(opened.network.fc.weight, model.fc.weight)
    assert opened.data is None
    assert "w.pth: mapped by name, without 'state_dict', 'module.'" in capsys.readouterr().err


def test_a_file_of_ours(file):
    assert open_network(file, {}).network.conv1.out_channels == 2


@pytest.mark.parametrize("given", [{"arguments": {"width": 2}}, {"arguments": {}, "checkpoint": "w.pth"}])
def test_a_file_takes_no_arguments_and_no_checkpoint(file, given):
    with pytest.raises(ValueError, match="--model-arg and --checkpoint have no meaning for it"):
        open_network(file, **given)


def test_a_stage_is_of_a_run(file):
    with pytest.raises(ValueError, match="is no run's folder"):
        open_network(file, {}, stage="float")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        open_network(str(tmp_path / "gone.pt"), {})


def test_layers_of_other_names_are_renamed(tmp_path):
    model = fb.models.build("resnet8", first_width=2)
    other = {k.replace("layers.", "stages."): v for k, v in model.state_dict().items()}
    torch.save(other, tmp_path / "w.pth")
    given = given_checkpoint(tmp_path / "w.pth", ["stages=layers"], None, [])
    opened = open_network("resnet8", {"first_width": 2}, checkpoint=given)
    assert torch.equal(opened.network.layers[1][0].conv1.weight, model.layers[1][0].conv1.weight)


def opened(in_channels=1, **facts):
    return Opened(name="run", network=fb.models.build("resnet8", in_channels=in_channels), **facts)


def test_data_are_the_runs_own_with_its_arguments_unless_others_are_named():
    run = opened(data="spirals", data_arguments={"seed": 3})
    own, same = run.load_data(arguments={}), run.load_data("spirals", arguments={})
    assert torch.equal(own.train.images, fb.data.load("spirals", seed=3).train.images)
    assert torch.equal(own.train.images, same.train.images)
    assert torch.equal(run.load_data(arguments={"seed": 4}).train.images, fb.data.load("spirals", seed=4).train.images)
    assert run.load_data("digits", arguments={}).name == "digits"  # which takes no seed


def test_grey_images_are_repeated_to_the_networks_channels():
    assert opened(3, data="digits").load_data(arguments={}).image_shape[0] == 3
    assert opened(1, data="digits").load_data(arguments={}).image_shape[0] == 1


def test_data_have_to_come_from_somewhere_and_are_imported_on_trust_only():
    with pytest.raises(ValueError, match="--data is not given: which test set"):
        opened().load_data(arguments={})
    run = opened(data="tests.engine.cases:shades")
    with pytest.raises(
        ValueError, match=r"run wants to import its data from 'tests\.engine\.cases:shades': --trust it"
    ):
        run.load_data(arguments={})
    assert run.load_data(arguments={}, trust=True).name == "shades"
    assert run.load_data("tests.engine.cases:shades", arguments={}).name == "shades"


@pytest.mark.parametrize(
    ("given", "option"),
    [((["a=b"], None, []), "--rename"), (([], "ema", []), "--checkpoint-key"), (([], None, ["fc"]), "--as-built")],
)
def test_what_is_said_of_a_checkpoint_needs_one(given, option):
    assert given_checkpoint(None, [], None, []) is None
    with pytest.raises(ValueError, match=f"{option} without --checkpoint cannot act"):
        given_checkpoint(None, *given)


def test_one_of_several_sets_of_weights_with_another_head(tmp_path, capsys):
    students, teachers = (fb.models.build("resnet8", first_width=2, num_classes=7) for _ in range(2))
    torch.save({"student": students.state_dict(), "teacher": teachers.state_dict()}, tmp_path / "w.pth")
    given = given_checkpoint(tmp_path / "w.pth", [], "teacher", ["fc"])
    opened = open_network("resnet8", {"first_width": 2}, checkpoint=given)
    assert torch.equal(opened.network.conv1.weight, teachers.conv1.weight)
    said = capsys.readouterr().err
    assert "As it is built: fc (weight 10x8, bias 10); in the file: fc weight 7x8, bias 7" in said
    assert "Left out: fc, student" in said


def test_a_file_in_a_run_has_the_runs_data_where_that_is_asked(tmp_path, monkeypatch):
    """Among its stages too; a net without a run, or with data of its own, stays as it is."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "run.json").touch()
    for name in ("model", "stages/a", "other/b"):
        fb.save(fb.models.build("resnet8", first_width=2), tmp_path / f"{name}.safetensors")
    found = [open_network(str(tmp_path / f"{name}.safetensors"), {}) for name in ("model", "stages/a", "other/b")]
    assert [each.folder for each in found] == [tmp_path, tmp_path, None]
    recipe = SimpleNamespace(data="spirals", data_arguments={"seed": 3})
    run = SimpleNamespace(record=SimpleNamespace(recipe=recipe))
    monkeypatch.setattr("flatbit.cli.network.read_run", lambda folder, trust: run)
    assert found[1].data is None
    assert found[1].with_data_of_run().data_arguments == {"seed": 3}
    assert found[2].with_data_of_run().data is None
    assert opened(data="digits").with_data_of_run().data == "digits"
