import onnx
import pytest
import torch

import flatbit as fb
from flatbit.export.forms import FORMS
from flatbit.version import VERSION

from .cases import SHAPE, digits
from .forms.cases import run, small

FORM_NAMES = ["integer", "qdq", "qonnx"]


def test_the_forms_are_found():
    assert FORMS.names() == FORM_NAMES


@pytest.mark.parametrize("form", FORM_NAMES)
def test_a_file_says_what_it_is_and_the_result_prints_it(form, tmp_path):
    path = tmp_path / "net.onnx"
    made = fb.export.onnx(small("uniq", 2), path, SHAPE, form=form)
    said = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert said == {"flatbit": VERSION, "form": form, "opset": str(made.opset), **made.notes}
    assert {"mid-rise", "ties", "batch"} <= made.notes.keys()
    assert made.size_bytes == path.stat().st_size
    text = str(made)
    assert f"{made.size_bytes:,}" in text
    assert all(kind in text for kind in made.operators)
    assert f"mid-rise: {made.notes['mid-rise']}" in text


@pytest.mark.parametrize("form", FORM_NAMES)
def test_the_model_is_left_as_it_was(form, tmp_path):
    model = small("lsq", 4).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fb.export.onnx(model, tmp_path / "net.onnx", SHAPE, form=form)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()


@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_a_batch_of_inputs_gives_the_shape_and_any_batch_runs(form, tmp_path):
    path, x = tmp_path / "net.onnx", digits(5)[0]
    fb.export.onnx(small("lsq", 4), path, x[:2], form=form)
    assert run(path, x)["logits"].shape == (5, 10)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"form": "qdqq"}, "unknown form 'qdqq': did you mean qdq"),
        ({"form": "qdq", "example": (3, 8, 8)}, r"layer 'conv1': cannot take shape \(1, 3, 8, 8\)"),
    ],
)
def test_what_is_refused_leaves_no_file(settings, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        fb.export.onnx(small("lsq", 4), tmp_path / "net.onnx", **{"example": SHAPE, **settings})
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("as it was")

    def refused(*_, **__):
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refused)
    with pytest.raises(onnx.checker.ValidationError):
        fb.export.onnx(small("lsq", 4), path, SHAPE)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]
