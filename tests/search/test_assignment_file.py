import tomllib

import pytest

import flatbit as fb
from flatbit.quant.spec import FLOAT_BITS
from flatbit.search.assignment_file import assigned, compared, read_assignment, write_assignment
from flatbit.search.space import space_of

from .cases import preresnet, quantized

BITS = {"layer1.0.conv1": (4, 4), "layer1.0.conv2": (2, 3), "fc": (1, FLOAT_BITS)}


def test_it_reads_what_it_wrote(tmp_path):
    path = tmp_path / "new" / "assignment.toml"
    write_assignment(BITS, path, note="found by samq at 390.1 M\nsecond line")
    assert read_assignment(path) == BITS
    assert list(read_assignment(path)) == list(BITS)
    assert path.read_text().splitlines()[:3] == [
        "# found by samq at 390.1 M", "# second line", '"layer1.0.conv1" = [4, 4]',
    ]  # fmt: skip
    assert tomllib.loads(path.read_text()) == {name: [*pair] for name, pair in BITS.items()}


def test_it_is_to_be_changed_by_hand(tmp_path):
    path = tmp_path / "a.toml"
    write_assignment(BITS, path)
    path.write_text(path.read_text().replace("[2, 3]", "[ 5,5 ]  # mine\n"))
    assert read_assignment(path)["layer1.0.conv2"] == (5, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"a" = [4', "no assignment"),
        ("\udcff", "no assignment"),
        ('"a" = [4, 4]\n"a" = [2, 2]', "no assignment"),
        ("", "an assignment of no layer"),
        ("# nothing", "an assignment of no layer"),
        ('"a" = 4', "'a' is 4: expected bits of weights and activations"),
        ('"a" = [4]', r"'a' is \[4\]: expected bits"),
        ('"a" = [4, 4, 4]', "expected bits of weights and activations"),
        ('"a" = [4.0, 4]', "expected bits of weights and activations"),
        ('"a" = [true, 4]', "expected bits of weights and activations"),
        ('"a" = [0, 4]', r"'a' is \[0, 4\]"),
        ('"a" = [4, 9]', r'expected bits of weights and activations, "a" = \[4, 4\]'),
        ('"b" = [2, 2]\n"a" = ["4", 4]', r"'a' is \['4', 4\]"),
        ("layer1.conv = [4, 4]", "'layer1' is .*: expected bits"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "bits.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=words) as caught:
        read_assignment(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.toml: no assignment \(.*No such file"):
        read_assignment(tmp_path / "gone.toml")


def test_a_policy_with_the_bits_of_an_assignment():
    space = space_of(quantized(preresnet()))
    bits = space.assignment({choice.name: 2 + index % 4 for index, choice in enumerate(space.choices)})
    model = preresnet()
    fb.quantize_(model, assigned(fb.policy("saq", weights=4, activations=4), bits))
    found = fb.assignment(model)
    assert {name: found[name] for name in bits} == bits
    edges = fb.assignment(quantized(preresnet()))
    assert {name: found[name] for name in found.keys() - bits.keys()} == {
        name: edges[name] for name in found.keys() - bits.keys()
    }


def test_a_layer_that_is_not_there_is_an_error():
    made = assigned(fb.policy("saq", weights=4, activations=4), {"layers.9.conv1": (2, 2)})
    with pytest.raises(ValueError, match=r"layers\.9\.conv1"):
        fb.quantize_(preresnet(), made)


def test_what_differs():
    other = {**BITS, "layer1.0.conv2": (4, 4), "new": (3, 3)}
    del other["fc"]
    assert compared(BITS, BITS) == {}
    assert compared(BITS, other) == {
        "layer1.0.conv2": ((2, 3), (4, 4)), "fc": ((1, FLOAT_BITS), None), "new": (None, (3, 3)),
    }  # fmt: skip
