from inspect import signature
from pathlib import Path

import pytest
import torch

import flatbit as fb
from flatbit.cli.searching import POLICY, Asked, _groups, _widths, training_images
from flatbit.cli.verbs.search import search_bits
from flatbit.cli.verbs.sensitivity import measure_layers
from flatbit.engine.sources import Checkpoint


def asked(model="preresnet8", arguments=None, checkpoint=None, data="digits", data_arguments=None, data_dir=None):
    return Asked.of(model, arguments or {"first_width": 2}, checkpoint, data, data_arguments or {}, data_dir)


def test_a_model_by_name_follows_the_data():
    found = asked().searched("saq", "2,4", None)
    assert found.data.name == "digits"
    assert found.model.conv1.in_channels == 1
    assert found.model.fc.out_features == 10
    assert not found.model.training
    assert {choice.widths for choice in found.space.choices} == {(2, 4)}
    assert found.policy.name == "saq"


def test_with_the_weights_of_a_checkpoint(own):
    torch.manual_seed(7)
    trained = fb.models.build("preresnet8", first_width=2, in_channels=1, num_classes=10)
    fb.save(trained, "f.safetensors")
    found = asked(checkpoint=Checkpoint(path=Path("f.safetensors"))).searched("saq", "2,4", None)
    assert torch.equal(found.model.conv1.weight, trained.conv1.weight)


def test_a_run_says_its_network_weights_and_data(flatbit, own):
    assert flatbit("run", "float", "--model", "preresnet8", "--model-arg", "first_width=2", "--data", "digits",
                   "--smoke", "--out", "run").status == 0  # fmt: skip
    found = Asked.of("run", {}, None, None, {}, None)
    assert (found.model, found.model_arguments, found.data) == ("preresnet8", {"first_width": 2}, "digits")
    searched = found.searched("lsq", "2,3", None)
    trained = fb.load("run/model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(searched.model.parameters(), trained.parameters(), strict=True))
    with pytest.raises(ValueError, match="run is a run, which says its network and weights: leave --model-arg"):
        Asked.of("run", {"first_width": 4}, None, None, {}, None)


def test_what_is_not_said():
    with pytest.raises(ValueError, match="--data is not given: on which data set"):
        asked(data=None)


def test_a_net_with_too_few_outputs():
    with pytest.raises(ValueError, match="preresnet8 has 4 outputs, digits 10 classes"):
        asked(arguments={"first_width": 2, "num_classes": 4}).searched("saq", "2,4", None)


def test_images_are_training_images_as_they_are():
    searched = asked().searched("saq", "2,4", None)
    batches = training_images(searched, 300)
    assert [len(y) for _, y in batches] == [128, 128, 44]
    again = training_images(searched, 300)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))
    assert [len(y) for _, y in training_images(searched, 7)] == [7]
    assert [len(y) for _, y in training_images(searched, 7, 3)] == [3, 3, 1]
    assert sum(len(y) for _, y in training_images(searched, 1347)) == 1347
    with pytest.raises(ValueError, match="--samples 1348: digits has 1,347 training images"):
        training_images(searched, 1348)


def test_both_verbs_have_one_default_policy():
    defaults = {verb: signature(verb).parameters["policy"].default for verb in (search_bits, measure_layers)}
    assert {*defaults.values()} == {POLICY}
    assert asked().searched(None, "2,4", None).policy.name == POLICY


def test_a_fixed_layer_has_one_width_and_those_that_choose_with_it():
    free, space = (asked().searched(None, "2,4", None, fixed).space for fixed in ((), ("layers.1.0.shortcut=8",)))
    tied = next(choice for choice in space.choices if "layers.1.0.shortcut" in choice.layers)
    assert (tied.widths, tied.name) == ((8,), "layers.1.0.conv2")
    assert space.widths == (2, 4)
    assert [choice.layers for choice in space.choices] == [choice.layers for choice in free.choices]
    assert space.uniform(4) == free.uniform(4) | {tied.name: 8}


@pytest.mark.parametrize(("text", "widths"), [("2,3,4,5", (2, 3, 4, 5)), ("4, 2,2", (2, 4)), ("8", (8,))])
def test_widths(text, widths):
    assert _widths(text) == widths


@pytest.mark.parametrize("text", ["", "2,", "0,2", "2,9", "two", "2;3", "-2"])
def test_widths_that_are_none(text):
    with pytest.raises(ValueError, match=f"--widths {text}: expected bits from 1 to 8, with commas, as 2,3,4,5"):
        _widths(text)


def test_groups_of_a_file(tmp_path):
    path = tmp_path / "l.toml"
    path.write_text('layers = [["a", "b"], ["c"]]')
    assert _groups(path) == [["a", "b"], ["c"]]
    assert _groups(None) is None


@pytest.mark.parametrize(
    "text",
    ["layers = [", "groups = []", 'layers = ["a", "b"]', 'layers = [["a"], []]', "layers = [[1]]", "layers = 3",
     'layers = {a = ["b"]}', "\udcff"],
)  # fmt: skip
def test_a_file_that_holds_no_groups_is_named(tmp_path, text):
    path = tmp_path / "l.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r'--layers .*l\.toml: .*expected layers = \[\["NAME"\], \.\.\.\]'):
        _groups(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"--layers .*l\.toml: .*No such file"):
        _groups(path)
