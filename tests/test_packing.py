"""The format of packed files: what contradicts itself is one clear error, whatever its checksums say."""

import json
import random

import pytest
import torch
from safetensors import safe_open

from flatbit import export, models
from flatbit.files import load
from flatbit.packing import FORMAT, VERSION, by_name, is_packed, read_packed, step_name, tensor_name, values_of
from flatbit.quant.fixed import Coding
from flatbit.tensor_file import CHECKSUMS, read_description, write_tensors


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A packed file of a small net."""
    from flatbit.quant.calibrate import calibrate_
    from flatbit.quant.convert import quantize_
    from flatbit.quant.presets import policy

    path = tmp_path_factory.mktemp("packed") / "net.safetensors"
    model = models.build("preresnet8", in_channels=1, first_width=4)
    quantize_(model, policy("uniq", weights=2, activations=2))
    calibrate_(model, [torch.randn(4, 1, 8, 8)])
    export.packed(model.eval(), path)
    return path


def rewritten(path, entries=(), tensors=(), aliases=False):
    """The file with other entries or tensors (None: without them), and checksums that hold: a liar's."""
    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()} | dict(tensors)  # noqa: SIM118
        described = {**file.metadata(), **dict(entries)}
    target = path.with_name("liar.safetensors")
    described = {key: text for key, text in described.items() if text is not None and key not in (CHECKSUMS, "aliases")}
    write_tensors(target, {name: t for name, t in held.items() if t is not None}, described)
    return target


def grids(path, **changes):
    """The entry ``grids`` with other fields of fc's weight."""
    description = read_description(path)
    found, shapes = by_name(json.loads(description["grids"])), json.loads(description["shapes"])
    if "shape" in changes:
        shapes["fc.weight"] = changes.pop("shape")
    if shapes["fc.weight"] is None:
        del shapes["fc.weight"]
    pairs = [[dict(grid) | (changes if name == "fc.weight" else {}), [name]] for name, grid in found.items()]
    return {"grids": json.dumps(pairs), "shapes": json.dumps(shapes)}


def test_a_sound_file_says_what_it_is(sound):
    description = read_description(sound)
    assert is_packed(description)
    assert (description["format"], description["version"]) == (FORMAT, VERSION) == ("flatbit-packed", "2")
    assert description["convention"].startswith("uniq: W2/A2")
    assert json.loads(description["build"]) == ["preresnet8", {"in_channels": 1, "first_width": 4}]
    load(rewritten(sound))  # the liar's way of writing is no fault by itself


def test_names():
    assert (tensor_name("a.b", "weight"), tensor_name("", "weight")) == ("a.b.weight", "weight")
    assert step_name("a.weight") == "a.weight_quantizer.step"


def test_what_layers_have_alike_is_said_once(sound):
    description = read_description(sound)
    grids, specs = (json.loads(description[key]) for key in ("grids", "specs"))
    assert len({json.dumps(grid) for grid, _ in grids}) == len(grids) < len(by_name(grids)) / 3
    assert len({json.dumps(spec) for spec, _ in specs}) == len(specs) < len(by_name(specs))


def test_values_of_groups():
    coding = Coding(bits=2, offset=0.5, low=-2, high=1, shape=(4, 1))
    codes, step = torch.tensor([-2, -1, 0, 1]), torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    assert values_of(codes, step, coding).flatten().tolist() == [-1.5, -0.5, 1.0, 3.0]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"version": "1"}, "is of version '1' of packed files, this flatbit reads 2: export its net again, or install"),
        ({"grids": '[[{}, ["a", "a"]]]'}, "its entry 'grids' is not what"),
        ({"shapes": '{"nobody": [1]}'}, "its entry 'grids' is not what"),
        ({"shapes": "3"}, "its entry 'shapes' is not what"),
        ({"version": None}, "is of version None"),
        ({"format": "flatbit-other"}, "has format 'flatbit-other'"),
        ({"grids": "{}"}, "its entry 'grids' is not what"),
        ({"grids": "[]", "shapes": "{}"}, "is not both in its specs and its grids"),
        ({"specs": "[]"}, "is not both in its specs and its grids"),
        ({"counters": '{"bn.num_batches_tracked": 1.5}'}, "its entry 'counters' is not what"),
        ({"counters": '{"bn.num_batches_tracked": 1e999}'}, "its entry 'counters' is not what"),
        ({"counters": '{"fc.bias": 1}'}, "'fc.bias' is a tensor and a counter"),
        ({"counters": "{}"}, "keys missing"),
        ({"build": '["preresnet8", {"in_channels": 1, "first_width": 1000000}]'}, "parameters, which the file cannot"),
        ({"build": '["os:getcwd", {}]'}, "wants to import and call 'os:getcwd'"),
        ({"build": "null"}, "does not say how to build its model"),
    ],
)
def test_an_entry_that_lies_is_one_clear_error(sound, entries, words):
    with pytest.raises(ValueError, match=words):
        load(rewritten(sound, entries))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 3}, "expected as many as the bits hold"),
        ({"bits": 9}, "does not fit its grid"),
        ({"bits": 64, "high": 2}, "its entry 'grids' is not what"),
        ({"bits": True}, "expected a whole number"),
        ({"low": 0.5}, "expected a whole number"),
        ({"high": -128}, "a code of -?[0-9]+: expected -128 to -128"),
        ({"offset": float("nan")}, "its entry 'grids' is not what"),
        ({"offset": 10**400}, "its entry 'grids' is not what"),
        ({"ties": "odd"}, "expected even or even_from_low or away"),
        ({"shape": [10, 16, 1]}, "of another shape|does not fit"),
        ({"shape": [10, 17]}, "does not fit its grid"),
        ({"shape": [2**40, 2**40]}, "does not fit its grid"),
        ({"shape": [10**4000]}, "does not fit its grid|is not what"),
        ({"shape": []}, "does not fit its grid"),
        ({"shape": [-10, -16]}, "its entry 'grids' is not what"),
        ({"shape": None}, "of another shape|of another model"),
        ({"code": 1}, "has no 'code'"),
    ],
)
def test_a_grid_that_lies_is_one_clear_error(sound, changes, words):
    with pytest.raises(ValueError, match=words):
        load(rewritten(sound, grids(sound, **changes)))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"fc.weight_quantizer.step": None}, "the step of 'fc.weight' is missing or no positive number"),
        ({"fc.weight_quantizer.step": torch.tensor(-1.0)}, "no positive number"),
        ({"fc.weight_quantizer.step": torch.tensor(float("inf"))}, "no positive number"),
        ({"fc.weight_quantizer.step": torch.tensor(1)}, "no positive number"),
        ({"fc.weight_quantizer.step": torch.ones(7)}, "does not fit its grid"),
        ({"fc.weight_quantizer.step": torch.ones(3, 1, 1)}, "does not fit its grid"),
        ({"fc.input_quantizer.step": torch.ones(4)}, "its quantizers are not those that it states"),
        ({"fc.weight": None}, "has no codes of it"),
        ({"fc.weight": torch.zeros(10, 16)}, "does not fit its grid"),
        ({"fc.weight": torch.zeros(161, dtype=torch.uint8)}, "does not fit its grid"),
        ({"fc.bias": torch.zeros(10, dtype=torch.int64)}, "expected torch.float32"),
        ({"more": torch.zeros(1)}, "left over"),
    ],
)
def test_a_tensor_that_lies_is_one_clear_error(sound, tensors, words):
    with pytest.raises(ValueError, match=words):
        load(rewritten(sound, tensors=tensors))


def test_checksums_are_no_option(sound):
    from safetensors.torch import save_file

    with safe_open(sound, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = {key: text for key, text in file.metadata().items() if key != CHECKSUMS}
    target = sound.with_name("unchecked.safetensors")
    save_file(held, target, described)
    with pytest.raises(ValueError, match="a packed file has checksums, and this one has none"):
        read_packed(target, {})


def mutated(raw, draws):
    """Bytes of a file damaged in one of several ways."""
    raw, way = bytearray(raw), draws.randrange(6)
    header = int.from_bytes(raw[:8], "little")
    if way == 0:  # any bit
        raw[draws.randrange(len(raw))] ^= 1 << draws.randrange(8)
    elif way == 1:  # cut
        del raw[draws.randrange(len(raw)) :]
    elif way == 2:  # the length of the header
        raw[:8] = draws.choice([0, 1, header - 1, header + 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
    elif way == 3:  # a number in the header
        places = [k for k in range(8, 8 + header) if chr(raw[k]).isdigit()]
        raw[draws.choice(places)] = ord(draws.choice("0123456789-.e"))
    elif way == 4:  # a stretch overwritten
        start = draws.randrange(len(raw))
        raw[start : start + 40] = draws.randbytes(len(raw[start : start + 40]))
    else:  # bytes put in
        start = draws.randrange(len(raw))
        raw[start:start] = draws.randbytes(draws.randrange(1, 9))
    return bytes(raw)


def test_hundreds_of_mutations_give_an_error_or_the_same_net(sound, tmp_path):
    draws, path = random.Random(15), tmp_path / "m.safetensors"
    raw, x = sound.read_bytes(), torch.randn(2, 1, 8, 8)
    expected, refused = load(sound)(x), 0
    for _ in range(400):
        path.write_bytes(mutated(raw, draws))
        model, words = loaded(path)
        refused += model is None
        assert torch.equal(model(x), expected) if model else str(path) in words
    assert refused > 350


def loaded(path):
    """The model of a file, or None and the words of its ValueError."""
    try:
        return load(path), ""
    except ValueError as error:
        return None, str(error)


def other(found, draws):
    """Plain values with one of them replaced."""
    if isinstance(found, dict) and found:
        key = draws.choice(sorted(found))
        return {**found, key: other(found[key], draws)}
    if isinstance(found, list) and found:
        place = draws.randrange(len(found))
        return [*found[:place], other(found[place], draws), *found[place + 1 :]]
    return draws.choice([None, True, -1, 0, 3, 10**9, 10**30, 0.5, 1e308, "", "x", "32", [], {}, [[]], {"bits": 8}])


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # by torch, of a layer without outputs
@pytest.mark.parametrize("key", ["specs", "grids", "shapes", "counters", "build", "aliases"])
def test_entries_that_lie_anyhow_give_an_error_or_a_net(sound, key):
    """With checksums that hold: a hostile writer's."""
    draws = random.Random(key)
    found = json.loads(read_description(sound)[key])
    x = torch.randn(2, 1, 8, 8)
    for _ in range(60):
        liar = rewritten(sound, {key: json.dumps(other(found, draws))})
        model, words = loaded(liar)
        assert model(x).shape == (2, 10) if model else str(liar) in words, words
