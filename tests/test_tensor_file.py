"""Tensors come back as they were written, or damage is an error that names where it is."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from flatbit.tensor_file import entry, read_description, read_tensors, write_tensors


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("tensors") / "t.safetensors"
    tensors = {"b.weight": torch.arange(64.0).reshape(8, 8), "a.weight": torch.ones(3), "n": torch.tensor(4)}
    write_tensors(path, tensors | {"tied": tensors["b.weight"]}, {"format": "2", "specs": "{}"})
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_what_is_written_is_read(tmp_path, dtype):
    tensors = {"a": torch.randint(2, (3, 4)).to(dtype), "t": torch.ones(4, 3, dtype=dtype).t(), "e": torch.ones(0, 2)}
    tensors |= {"scalar": torch.tensor(1, dtype=dtype), "half of it": torch.arange(6).to(dtype)[:3]}
    write_tensors(tmp_path / "t.safetensors", tensors, {"words": "here"})
    again, description = read_tensors(tmp_path / "t.safetensors")
    assert description["words"] == "here" == read_description(tmp_path / "t.safetensors")["words"]
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) and again[name].dtype == tensors[name].dtype for name in again)


def test_a_flipped_bit_of_a_tensor_is_named(written, tmp_path):
    raw = bytearray(written.read_bytes())
    raw[-40] ^= 1  # the file ends with b.weight or n, of 8 bytes
    (tmp_path / "t.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match=r"t\.safetensors: 1 tensors have not their checksums, 'b\.weight' the first"):
        read_tensors(tmp_path / "t.safetensors")


@settings(deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_an_error_or_harmless(written, tmp_path_factory, place, bit):
    raw, sound = bytearray(written.read_bytes()), read_tensors(written)[0]
    raw[int(place * len(raw))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(raw)
    try:
        found = read_tensors(path)[0]
    except ValueError:
        return
    assert all(torch.equal(found[name], sound[name]) for name in sound)  # as where the word "checksums" was hit


def changed(path, tensors=None, **description):
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
        described = file.metadata() | description
    target = path.with_name("changed.safetensors")
    save_file(kept, target, {key: text for key, text in described.items() if text is not None})
    return target


def test_a_changed_description_is_an_error_before_its_tensors_are_read(written):
    with pytest.raises(ValueError, match="its description has not its checksum"):
        read_description(changed(written, specs='{"a": 1}'))
    with pytest.raises(ValueError, match="its description has not its checksum"):
        read_tensors(changed(written, more="words"))


def test_a_tensor_too_many_is_an_error(written):
    with pytest.raises(ValueError, match="the names of its tensors have not their checksum"):
        read_tensors(changed(written, {"new": torch.zeros(1)}))


def test_files_that_name_each_checksum_are_read(written):
    """As versions before wrote them."""
    tensors, description = read_tensors(written)
    stated = json.loads(description["checksums"])
    stated["tensors"] = dict(zip(sorted(tensors), stated["tensors"], strict=False))
    old = changed(written, checksums=json.dumps(stated))
    assert read_tensors(old)[0].keys() == tensors.keys()
    with pytest.raises(ValueError, match="'new' is not both in its tensors and its checksums"):
        read_tensors(changed(old, {"new": torch.zeros(1)}, checksums=json.dumps(stated)))


def test_the_same_bytes_as_another_number_are_an_error(written):
    with pytest.raises(ValueError, match=r"'a\.weight' the first"):
        read_tensors(changed(written, {"a.weight": torch.ones(3).view(torch.int32)}))


@pytest.mark.parametrize(
    "content", ["", "[", "3", '{"tensors": {}}', '{"description": "x", "tensors": []}', "[" * 10**5]
)
def test_checksums_that_are_none_are_an_error(written, content):
    with pytest.raises(ValueError, match=r"checksum"):
        read_tensors(changed(written, checksums=content))


def test_files_without_checksums_are_read(written):
    tensors, _ = read_tensors(changed(written, checksums=None))
    assert torch.equal(tensors["tied"], tensors["b.weight"])


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        ({"a.weight": "b.weight"}, "its entry 'aliases' gives 'a.weight' a second tensor"),
        ({"x": "y"}, "its entry 'aliases' is not what"),
    ],
)
def test_aliases_that_contradict_the_tensors_are_an_error(written, aliases, says):
    with pytest.raises(ValueError, match=says):
        read_tensors(changed(written, checksums=None, aliases=json.dumps(aliases)))


def test_what_has_no_values_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"'w' is a tensor on the meta device"):
        write_tensors(tmp_path / "t.safetensors", {"w": torch.zeros(2, device="meta")}, {})
    with pytest.raises(ValueError, match=r"'_extra_state' is a dict"):
        write_tensors(tmp_path / "t.safetensors", {"_extra_state": {"epoch": 3}}, {})
    assert not list(tmp_path.iterdir())


def test_an_entry_that_is_missing_is_empty():
    assert entry("f", {}, "specs", dict) == {}
    with pytest.raises(ValueError, match="f: its entry 'specs' is not what"):
        entry("f", {"specs": "[" * 10**5}, "specs", dict)


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    words = {f"word{i}": str(i) for i in range(8)}
    for name in ("a", "b", "c"):
        write_tensors(tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(2, 2)}, words)
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1
