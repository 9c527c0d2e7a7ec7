"""A third-party checkpoint: what maps does so exactly, what does not is refused, and nothing in a file runs."""

import collections
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flatbit.models import build, load_weights_, read_checkpoint


class ThirdParty(nn.Module):
    """Someone's ResNet-8 with option A: other names, the same layers in the same order."""

    def __init__(self):
        super().__init__()
        ours = build("resnet8", shortcut="A", first_width=4)
        self.stem = nn.Sequential(ours.conv1, ours.bn1)
        for index, stage in enumerate(ours.layers):
            setattr(self, f"layer{index + 1}", stage)
        self.linear = ours.fc
        self.net = [ours]

    def forward(self, x):
        return self.net[0](x)


@pytest.fixture
def third_party():
    torch.manual_seed(1)
    model = ThirdParty()
    model(torch.randn(8, 3, 16, 16))  # statistics that are not the initial ones
    return model.eval()


@pytest.fixture
def ours():
    torch.manual_seed(2)
    return build("resnet8", shortcut="A", first_width=4).eval()


def same(a, b):
    x = torch.randn(4, 3, 16, 16)
    return torch.equal(a(x), b(x))


def test_other_names_map_by_order(third_party, ours, tmp_path):
    torch.save(third_party.state_dict(), tmp_path / "s.pth")
    assert not same(third_party, ours)
    matching = load_weights_(ours, tmp_path / "s.pth")
    assert same(third_party, ours)
    assert matching.how == "order"
    assert ("stem.0", "conv1", "weight 4x3x3x3") in matching.layers
    assert "by shape and order" in str(matching)
    assert "layers.1.0.bn2" in str(matching)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_come_off(third_party, ours, tmp_path, wrapper, prefix):
    state = {prefix + key: value for key, value in third_party.state_dict().items()}
    torch.save({"epoch": 3, wrapper: collections.OrderedDict(state), "best": 91.7}, tmp_path / "s.tar")
    matching = load_weights_(ours, tmp_path / "s.tar")
    assert matching.removed[0] == wrapper
    assert "".join(matching.removed[1:]) == prefix
    assert same(third_party, ours)


def test_safetensors_and_own_names(ours, tmp_path):
    other = build("resnet8", shortcut="A", first_width=4).eval()
    save_file(other.state_dict(), tmp_path / "s.safetensors")
    assert load_weights_(ours, tmp_path / "s.safetensors").how == "name"
    assert same(other, ours)


def test_without_counters_and_in_half_precision(third_party, ours, tmp_path):
    state = {k: v.half() for k, v in third_party.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "s.pth")
    assert load_weights_(ours, tmp_path / "s.pth").ignored == ()
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    torch.testing.assert_close(ours.fc.weight, third_party.linear.weight, atol=1e-3, rtol=0)


def test_layers_out_of_order_map_where_they_are_unique(tmp_path):
    a = nn.ModuleDict({"x": nn.Linear(2, 3), "y": nn.Linear(3, 4), "z": nn.Linear(4, 5)})
    b = nn.ModuleDict({"r": nn.Linear(4, 5), "p": nn.Linear(2, 3), "q": nn.Linear(3, 4)})
    torch.save(b.state_dict(), tmp_path / "s.pth")
    load_weights_(a, tmp_path / "s.pth")
    for mine, theirs in (("x", "p"), ("y", "q"), ("z", "r")):
        assert torch.equal(a[mine].weight, b[theirs].weight)


def test_two_ways_are_refused_with_both_lists_and_nothing_is_changed(tmp_path):
    a = nn.ModuleDict({"x": nn.Linear(2, 2), "y": nn.Linear(2, 3), "z": nn.Linear(2, 2)})
    b = nn.ModuleDict({"p": nn.Linear(2, 2), "q": nn.Linear(2, 2), "r": nn.Linear(2, 3)})
    before = {key: value.clone() for key, value in a.state_dict().items()}
    torch.save(b.state_dict(), tmp_path / "s.pth")
    # p and q have one shape and keep their order, so only what stands between them moved: that is one way
    load_weights_(a, tmp_path / "s.pth")
    assert torch.equal(a["z"].weight, b["q"].weight)
    a.load_state_dict(before)
    c = nn.ModuleDict({"p": nn.Linear(2, 3), "q": nn.Linear(2, 3), "r": nn.Linear(2, 2)})
    torch.save(c.state_dict(), tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"does not map onto ModuleDict") as refused:
        load_weights_(a, tmp_path / "s.pth")
    assert "p weight 3x2, bias 3 | x weight 2x2, bias 2" in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in a.state_dict().items())


def test_interleaved_repeats_are_refused(tmp_path):
    a = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(3, 3), "c": nn.Linear(2, 2), "d": nn.Linear(3, 3)})
    b = nn.ModuleDict({"a1": nn.Linear(2, 2), "c1": nn.Linear(2, 2), "b1": nn.Linear(3, 3), "d1": nn.Linear(3, 3)})
    torch.save(b.state_dict(), tmp_path / "s.pth")
    with pytest.raises(ValueError, match="does not map"):
        load_weights_(a, tmp_path / "s.pth")
    load_weights_(a, tmp_path / "s.pth", rename={"a1": "a", "b1": "b", "c1": "c", "d1.": "d"})
    assert torch.equal(a["d"].weight, b["d1"].weight)


def test_another_number_of_classes_is_shown(ours, tmp_path):
    torch.save(build("resnet8", num_classes=100, first_width=4).state_dict(), tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"fc weight 100x16, bias 100 +\| fc weight 10x16, bias 10"):
        load_weights_(ours, tmp_path / "s.pth")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_hostile_pickle_does_not_run(ours, tmp_path):
    trap = tmp_path / "ran"
    torch.save({"state_dict": Hostile(str(trap))}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match="would run code"):
        load_weights_(ours, tmp_path / "s.pth")
    with (tmp_path / "old.pth").open("wb") as file:
        pickle.dump(Hostile(str(trap)), file, protocol=2)
    with pytest.raises(ValueError, match=r"old\.pth"):
        read_checkpoint(tmp_path / "old.pth")
    assert not trap.exists()


def test_a_whole_module_is_refused(ours, tmp_path):
    torch.save(ours, tmp_path / "s.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        load_weights_(ours, tmp_path / "s.pth")


@pytest.mark.parametrize("name", ["s.pth", "s.safetensors"])
def test_truncated_empty_and_foreign_files(ours, tmp_path, name):
    path = tmp_path / name
    (save_file if "safe" in name else torch.save)(ours.state_dict(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint at all, just text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            load_weights_(ours, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({"epoch": 1}, "holds no tensors"), ({"state_dict": {}}, "holds no tensors")],
)
def test_files_without_weights(ours, tmp_path, content, message):
    torch.save(content, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=message):
        load_weights_(ours, tmp_path / "s.pth")


def test_nan_weights_are_named(ours, tmp_path):
    state = ours.state_dict()
    state["fc.bias"] = state["fc.bias"].clone().fill_(float("nan"))
    torch.save(state, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"'fc\.bias' has NaN"):
        load_weights_(ours, tmp_path / "s.pth")


def test_no_such_file(ours, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_weights_(ours, tmp_path / "none.pth")


def shuffled_names(state):
    """As safetensors keeps them: by the alphabet, so layer 10 comes before layer 2."""
    return {name: state[name].contiguous() for name in sorted(state)}


def test_safetensors_of_other_names_map_by_their_numbers(third_party, ours, tmp_path):
    save_file(shuffled_names(third_party.state_dict()), tmp_path / "s.safetensors")
    assert not same(third_party, ours)
    assert load_weights_(ours, tmp_path / "s.safetensors").how == "order"
    assert same(third_party, ours)


def test_ten_comes_after_two_in_safetensors(tmp_path):
    theirs = nn.ModuleDict({f"l{index}": nn.Linear(3, 3) for index in range(12)})
    ours = nn.Sequential(*(nn.Linear(3, 3) for _ in range(12)))
    save_file(shuffled_names(theirs.state_dict()), tmp_path / "s.safetensors")
    load_weights_(ours, tmp_path / "s.safetensors")
    assert all(torch.equal(ours[index].weight, theirs[f"l{index}"].weight) for index in range(12))


def test_safetensors_whose_names_do_not_tell_are_refused(tmp_path):
    theirs = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("up", "down")})
    ours = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("a", "b")})
    save_file(theirs.state_dict(), tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="does not map"):
        load_weights_(ours, tmp_path / "s.safetensors")
    load_weights_(ours, tmp_path / "s.safetensors", rename={"down": "a", "up": "b"})
    assert torch.equal(ours["a"].weight, theirs["down"].weight)


@pytest.mark.parametrize("name", ["s.pth", "s.safetensors"])
@pytest.mark.parametrize("own", ["net", "model", "backbone"])
def test_a_prefix_that_is_the_models_own_stays(tmp_path, name, own):
    def made():
        model = nn.Module()
        setattr(model, own, nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3)))
        return model

    source, target = made(), made()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    (save_file if "safe" in name else torch.save)(state, tmp_path / name)
    matching = load_weights_(target, tmp_path / name)
    assert (matching.how, matching.removed) == ("name", ("module.",))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_tensors_beside_the_wrapper_do_not_hide_it(third_party, ours, tmp_path):
    torch.save({"best_prec1": torch.tensor(91.0), "state_dict": third_party.state_dict()}, tmp_path / "s.pth")
    assert load_weights_(ours, tmp_path / "s.pth").removed == ("state_dict",)
    assert same(third_party, ours)


def test_auxiliary_heads_that_the_model_has_not_are_left_out_and_listed(tmp_path):
    model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    torch.save(model.state_dict() | {"AuxLogits.fc.weight": torch.zeros(2, 2)}, tmp_path / "s.pth")
    assert load_weights_(model, tmp_path / "s.pth").ignored == ("AuxLogits.fc.weight",)


def test_whatever_is_wrong_with_a_damaged_file_is_one_error(ours, tmp_path):
    path = tmp_path / "s.pth"
    torch.save(ours.state_dict(), path, _use_new_zipfile_serialization=False)
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


def swapped():
    """Two layers of one shape, which the file holds the other way round."""
    ours = nn.ModuleDict({"stem": nn.Linear(2, 3), "a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "head": nn.Linear(3, 4)})
    theirs = nn.ModuleDict({"in": nn.Linear(2, 3), "q": nn.Linear(3, 3), "p": nn.Linear(3, 3), "out": nn.Linear(3, 4)})
    return ours, theirs


def test_renamed_layers_are_pinned_and_the_rest_maps_as_ever(tmp_path):
    ours, theirs = swapped()
    torch.save(theirs.state_dict(), tmp_path / "s.pth")
    matching = load_weights_(ours, tmp_path / "s.pth", rename={"q": "b", "p": "a"})
    assert [row[:2] for row in matching.layers] == [("in", "stem"), ("p", "a"), ("q", "b"), ("out", "head")]
    assert torch.equal(ours["b"].weight, theirs["q"].weight)
    load_weights_(ours, tmp_path / "s.pth", rename={"q": "b"})
    assert torch.equal(ours["a"].weight, theirs["p"].weight)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"nine": "a"}, "has no such layer"),
        ({"q": "nolayer"}, "the model has no layer 'nolayer'"),
        ({"q": "head"}, "q is weight 3x3, bias 3, head weight 4x3, bias 4"),
    ],
)
def test_renames_that_do_not_fit_are_errors(tmp_path, rename, message):
    ours, theirs = swapped()
    torch.save(theirs.state_dict(), tmp_path / "s.pth")
    with pytest.raises(ValueError, match=message):
        load_weights_(ours, tmp_path / "s.pth", rename=rename)


def test_an_empty_name_leaves_a_layer_out(tmp_path):
    ours, theirs = swapped()
    theirs["extra"] = nn.Linear(7, 7)
    torch.save(theirs.state_dict(), tmp_path / "s.pth")
    with pytest.raises(ValueError, match="does not map"):
        load_weights_(ours, tmp_path / "s.pth")
    assert load_weights_(ours, tmp_path / "s.pth", rename={"extra": ""}).ignored == ("extra",)


def test_a_page_is_no_checkpoint(tmp_path):
    (tmp_path / "s.pth").write_text("<!DOCTYPE html><html>not found</html>")
    with pytest.raises(ValueError, match="neither a zip file nor a pickle"):
        read_checkpoint(tmp_path / "s.pth")


def test_auxiliary_heads_are_known_behind_a_prefix_too(tmp_path):
    model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save(state | {"module.AuxLogits.fc.weight": torch.zeros(2, 2)}, tmp_path / "s.pth")
    assert load_weights_(model, tmp_path / "s.pth").ignored == ("AuxLogits.fc.weight",)


def test_other_sets_of_weights_in_the_file_are_named(third_party, ours, tmp_path):
    torch.save({"model": third_party.state_dict(), "ema": third_party.state_dict(), "epoch": 3}, tmp_path / "s.pth")
    matching = load_weights_(ours, tmp_path / "s.pth")
    assert "ema" in matching.ignored
    assert "Left out: ema" in str(matching)
