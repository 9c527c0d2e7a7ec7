"""A third-party checkpoint: what maps does so exactly, what does not is refused, and nothing in a file runs."""

import collections

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flatbit.models import build, load_weights_


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


@pytest.fixture
def other_head(tmp_path):
    """A file of the same network with 100 classes."""
    other = build("resnet8", shortcut="A", num_classes=100, first_width=4)
    torch.save({"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "s.pth")
    return other


@pytest.mark.parametrize(
    "given", [{"as_built": ("fc",)}, {"as_built": "fc"}, {"rename": {"fc": None}}, {"rename": {"fc": ""}}]
)
def test_a_head_of_another_size_stays_as_it_is_built_on_request(ours, other_head, tmp_path, given):
    head = ours.fc.weight.clone()
    matching = load_weights_(ours, tmp_path / "s.pth", **given)
    assert matching.as_built == (("fc", "weight 10x16, bias 10", "fc weight 100x16, bias 100"),)
    assert "As it is built: fc (weight 10x16, bias 10); in the file: fc weight 100x16, bias 100" in str(matching)
    assert torch.equal(ours.fc.weight, head)
    assert torch.equal(ours.layers[2][0].conv2.weight, other_head.layers[2][0].conv2.weight)
    assert "fc" in matching.ignored


@pytest.mark.parametrize("name", ["s.pth", "s.safetensors"])
def test_a_head_of_another_name_and_size_is_found_by_its_shape(third_party, ours, tmp_path, name):
    third_party.linear = nn.Linear(16, 100)
    save = save_file if "safe" in name else torch.save
    save({key: value.contiguous() for key, value in third_party.state_dict().items()}, tmp_path / name)
    matching = load_weights_(ours, tmp_path / name, as_built=("fc",))
    assert matching.as_built == (("fc", "weight 10x16, bias 10", "linear weight 100x16, bias 100"),)
    assert torch.equal(ours.conv1.weight, third_party.stem[0].weight)


def test_a_file_without_a_head_leaves_the_models(ours, tmp_path):
    state = build("resnet8", shortcut="A", first_width=4).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"\| fc weight 10x16, bias 10"):
        load_weights_(ours, tmp_path / "s.pth")
    matching = load_weights_(ours, tmp_path / "s.pth", as_built=("fc",))
    assert matching.as_built == (("fc", "weight 10x16, bias 10", "nothing"),)


def test_a_layer_that_is_none_cannot_stay(ours, other_head, tmp_path):
    with pytest.raises(ValueError, match=r"as_built 'fcc': the model has no such layer: did you mean fc"):
        load_weights_(ours, tmp_path / "s.pth", as_built=("fcc",))


def test_a_single_tensor_is_renamed_or_left_out(ours, tmp_path):
    other = build("resnet8", shortcut="A", first_width=4)
    state = other.state_dict()
    state = {("bn1.gamma" if key == "bn1.weight" else key): value for key, value in state.items()}
    torch.save(state | {"fc.scale": torch.ones(3)}, tmp_path / "s.pth")
    rename = {"bn1.gamma": "bn1.weight", "fc.scale": None, "bn1.num_batches_tracked": None}
    matching = load_weights_(ours, tmp_path / "s.pth", rename=rename)
    assert ("bn1.gamma, bn1.bias, bn1.running_mean, bn1.running_var", "bn1") in [row[:2] for row in matching.layers]
    assert "fc.scale" in matching.ignored
    assert torch.equal(ours.fc.bias, other.fc.bias)
    with pytest.raises(ValueError, match=r"rename 'fc\.scale' to 'fc\.bias': fc\.scale is bias 3, fc bias 10"):
        load_weights_(ours, tmp_path / "s.pth", rename=rename | {"fc.scale": "fc.bias"})


def test_codes_of_a_quantized_file_are_no_weights(ours, tmp_path):
    before = ours.fc.weight.clone()
    torch.save({key: value.to(torch.int8) for key, value in ours.state_dict().items()}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"tensor 'conv1\.weight' is torch\.int8, the model's torch\.float32"):
        load_weights_(ours, tmp_path / "s.pth")
    assert torch.equal(ours.fc.weight, before)


@pytest.mark.parametrize("count", ["n_averaged", "module.n_averaged"])
def test_an_averages_count_is_left_out_and_its_prefixes_come_off(third_party, ours, tmp_path, count):
    state = {f"module.module.{key}": value for key, value in third_party.state_dict().items()}
    torch.save({count: torch.tensor(3)} | state, tmp_path / "s.pth")
    matching = load_weights_(ours, tmp_path / "s.pth")
    assert matching.removed == ("module.", "module.")
    assert "n_averaged" in matching.ignored
    assert same(third_party, ours)


def test_wrappers_inside_come_off_and_a_wrapped_model_is_loaded_into(ours, tmp_path):
    other = build("resnet8", shortcut="A", first_width=4)
    state = {key.replace("layers.1.", "layers.1.module."): value for key, value in other.state_dict().items()}
    torch.save(state, tmp_path / "s.pth")
    assert load_weights_(ours, tmp_path / "s.pth").how == "name"
    assert torch.equal(ours.layers[1][0].conv1.weight, other.layers[1][0].conv1.weight)
    third = build("resnet8", shortcut="A", first_width=4)
    load_weights_(nn.DataParallel(torch.compile(third, backend="eager")), tmp_path / "s.pth")
    assert torch.equal(third.fc.weight, other.fc.weight)


def test_a_key_picks_the_teacher(third_party, ours, tmp_path):
    student = build("resnet8", shortcut="A", first_width=4)
    torch.save({"student": student.state_dict(), "teacher": third_party.state_dict()}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"several sets of weights.*'student' \(.*'teacher' \("):
        load_weights_(ours, tmp_path / "s.pth")
    load_weights_(ours, tmp_path / "s.pth", key="teacher")
    assert same(third_party, ours)
