import json

import pytest

import flatbit as fb
from flatbit.export import deploy

from ...export.cases import network


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A net whose every product has integer operands, as `flatbit run` leaves it."""
    path = tmp_path_factory.mktemp("net") / "model.safetensors"
    fb.save(network("preresnet8", "uniq", 4, 4, first_width=4), path)
    return path


@pytest.mark.parametrize(("form", "name"), [("packed", "packed.safetensors"), ("integer", "integer.onnx")])
def test_a_file_is_written_beside_the_net_with_what_was_found(flatbit, file, form, name):
    result = flatbit("export", file, "--form", form, "--data", "digits", "--json")
    assert result.status == 0, result
    path = file.parent / "export" / name
    said = json.loads(result.out)
    assert said == json.loads(path.with_name(f"{name}.json").read_text())
    assert said["file_bytes"] == path.stat().st_size
    assert said["checked"]["num_images"] == 450
    assert said["checked"]["num_changed"] == 0


def test_pixels_go_in_where_they_are_asked_for(flatbit, file, tmp_path):
    out = tmp_path / "pixels.onnx"
    result = flatbit("export", file, "--form", "integer", "--data", "digits", "--pixels", "--out", out)
    assert result.status == 0, result
    assert out.is_file()
    assert "450" in result.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--form", "onnx"), "unknown form 'onnx'"),
        (("--form", "qdq", "--pixels"), "only 'integer' holds the table"),
        ((), "--data is not given"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(flatbit, file, tmp_path, options, said):
    data = ("--data", "digits") if options else ()
    result = flatbit("export", file, *options, *data, "--out", tmp_path / "out")
    assert (result.status, list(tmp_path.iterdir())) == (2, [])
    assert said in result.err


def test_a_file_that_fails_the_gate_ends_with_1(flatbit, file, tmp_path, monkeypatch):
    wrong = deploy.replace(deploy.DEPLOYABLE["packed"], run=lambda *_: lambda x: x.flatten(1)[:, :10])
    monkeypatch.setitem(deploy.DEPLOYABLE, "packed", wrong)
    result = flatbit("export", file, "--data", "digits", "--out", tmp_path / "out")
    assert (result.status, list(tmp_path.iterdir())) == (1, [])
    assert "images is not the model's" in result.err
