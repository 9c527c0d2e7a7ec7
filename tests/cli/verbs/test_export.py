import hashlib
import json
from dataclasses import replace

import pytest

import flatbit as fb
from flatbit.engine import read_run
from flatbit.export.deployment import DEPLOYABLE
from flatbit.version import VERSION

from ...export.cases import network


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A net whose every product has integer operands, as `flatbit run` leaves it."""
    path = tmp_path_factory.mktemp("net") / "model.safetensors"
    fb.save(network("preresnet8", "uniq", 4, 4, first_width=4), path)
    return path


@pytest.fixture(scope="module")
def run(flatbit, tmp_path_factory):
    """A finished run, of two updates a stage."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = flatbit("run", "uniq-preresnet8-digits", "--smoke", "--out", folder)
    assert result.status == 0, result
    return folder


def exports(folder):
    return read_run(folder).record.exports


@pytest.mark.parametrize(
    ("options", "form", "name"),
    [((), "packed", "packed.safetensors"), (("--form", "integer"), "integer", "integer.onnx")],
)
def test_a_runs_record_keeps_what_was_found(flatbit, run, options, form, name):
    result = flatbit("export", run, *options, "--json")
    assert result.status == 0, result
    path, said, kept = run / "export" / name, json.loads(result.out), exports(run)[form]
    assert kept.file == f"export/{name}"
    assert kept.sha256 == said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert kept.file_bytes == said["file_bytes"] == path.stat().st_size
    assert (kept.data, kept.num_images, kept.num_changed) == ("digits", 450, 0)
    assert kept.top1 == kept.top1_model == said["checked"]["top1"]
    assert kept.environment.flatbit == VERSION
    assert "run.json" in result.err
    assert not list(path.parent.glob("*.json"))


def test_a_later_export_takes_the_place_of_an_earlier_one_and_stages_have_their_own(flatbit, run):
    for container, stage in (("bits", ()), ("int8", ()), ("bits", ("--stage", "float"))):
        assert flatbit("export", run, "--form", "qdq", "--container", container, *stage).status == 0
    found = exports(run)
    assert (found["qdq"].container, found["float/qdq"].container) == ("int8", "bits")
    assert found["float/qdq"].file == "export/float-qdq.onnx"
    assert found["qdq"].sha256 == hashlib.sha256((run / "export/qdq.onnx").read_bytes()).hexdigest()
    assert found["float/qdq"].file_bytes > found["qdq"].file_bytes


def test_what_an_export_found_stays_when_a_run_is_resumed_and_is_in_its_page(flatbit, run):
    assert flatbit("export", run, "--out", run.parent / "elsewhere.safetensors").status == 0
    before = exports(run)
    result = flatbit("run", "uniq-preresnet8-digits", "--smoke", "--out", run, "--resume")
    assert result.status == 0, result
    assert exports(run) == before
    assert before["packed"].file == (run.parent / "elsewhere.safetensors").as_posix()
    assert "elsewhere.safetensors" in (run / "report.html").read_text()


def test_a_file_has_no_record_and_says_so_in_json(flatbit, file):
    result = flatbit("export", file, "--form", "integer", "--data", "digits", "--json")
    assert result.status == 0, result
    assert json.loads(result.out)["file_bytes"] == (file.parent / "export/integer.onnx").stat().st_size
    assert [path.name for path in (file.parent / "export").iterdir()] == ["integer.onnx"]


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
        (("--form", "qdq", "--pixels"), "prepare= (--pixels) cannot act on the form 'qdq': it is of integer"),
        (("--form", "integer", "--container", "int8"), "(--container) cannot act on the form 'integer': it is of qdq"),
        (("--form", "packed", "--allow-changed", "1%"), "(--allow-changed) cannot act on the form 'packed'"),
        (("--form", "qdq", "--container", "int7"), "int7"),
        (("--form", "qdq", "--allow-changed", "0.5"), "--allow-changed 0.5: expected percent of the images"),
        (("--form", "qdq", "--allow-changed", "101%"), "0% to 100%"),
        ((), "--data is not given"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(flatbit, file, tmp_path, options, said):
    data = ("--data", "digits") if options else ()
    result = flatbit("export", file, *options, *data, "--out", tmp_path / "out")
    assert (result.status, list(tmp_path.iterdir())) == (2, [])
    assert said in result.err


def test_a_file_that_fails_the_gate_ends_with_1_unless_it_is_allowed(flatbit, file, tmp_path, monkeypatch):
    def turned(path, model):
        """The class of the first of each batch is another one."""

        def run(x):
            logits = model(x).clone()
            logits[0] = logits[0].roll(1)
            return logits

        return run

    monkeypatch.setitem(DEPLOYABLE, "qdq", replace(DEPLOYABLE["qdq"], run=turned))
    out = tmp_path / "out"
    call = ("export", file, "--form", "qdq", "--data", "digits", "--out", out)
    result = flatbit(*call)
    assert (result.status, list(tmp_path.iterdir())) == (1, [])
    assert (
        "the class of 5 of 450 images is not the model's (images 0, 100, 200, 300, 400; logits of up to" in result.err
    )
    assert "--allow-changed 1.12%" in result.err
    result = flatbit(*call, "--allow-changed", "1.12%")
    assert (result.status, out.is_file()) == (0, True)
    assert "class changed: image 0, 100, 200, 300, 400" in result.out
