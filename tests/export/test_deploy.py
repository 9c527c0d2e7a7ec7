from dataclasses import replace

import pytest
import torch

from flatbit.data.normalize import Normalize
from flatbit.export import deploy as deployment
from flatbit.export import reading
from flatbit.export.deploy import DEPLOYABLE, deploy
from flatbit.export.verification import ExportError
from flatbit.files import load

from .cases import DIGITS, SHAPE, answering, digits, network


@pytest.fixture(scope="module")
def model():
    return network("preresnet8", "uniq", 4, 4, first_width=4)


def batches():
    x, y = digits(40)
    return [(x[:30], y[:30]), (x[30:], y[30:])]


@pytest.mark.parametrize("form", DEPLOYABLE)
def test_a_file_is_run_before_it_is_there(model, form, tmp_path):
    if form == "qonnx":
        pytest.importorskip("qonnx")
    path = tmp_path / "deep" / f"net{DEPLOYABLE[form].suffix}"
    found = deploy(model, path, batches, form=form, input_shape=SHAPE)
    assert path.stat().st_size == found.file_bytes
    assert found.checked.num_images == 40
    assert found.checked.num_changed == 0
    assert found.checked.top1 == found.checked.top1_model
    assert (found.integers is not None) == (form == "integer")
    assert form in str(found)
    assert ".partial" not in str(found)
    assert list(path.parent.iterdir()) == [path]


def test_packed_files_give_the_models_logits_bit_for_bit(model, tmp_path):
    found = deploy(model, tmp_path / "net.safetensors", batches, form="packed", input_shape=SHAPE)
    assert found.checked.identical == 40
    assert found.checked.largest == 0
    x, _ = digits(40)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net.safetensors")(x), model(x))


def test_integers_take_pixels(model, tmp_path):
    pixels = DIGITS.test.images[:40], DIGITS.test.labels[:40]
    path = tmp_path / "net.onnx"
    prepare = Normalize(DIGITS.mean, DIGITS.std)
    found = deploy(model, path, lambda: [pixels], form="integer", input_shape=SHAPE, prepare=prepare)
    assert found.checked.num_changed == 0
    assert torch.equal(reading.run_onnx(path, model)(pixels[0]).argmax(1), model(prepare(pixels[0])).argmax(1))


def test_a_file_that_computes_something_else_is_not_written(model, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"before")
    broken = replace(DEPLOYABLE["packed"], run=lambda *_: lambda x: torch.zeros(len(x), 10))
    monkeypatch.setitem(deployment.DEPLOYABLE, "packed", broken)
    with pytest.raises(ExportError, match="of 40 images is not the model's"):
        deploy(model, path, batches, form="packed", input_shape=SHAPE)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_forms_and_settings_without_effect_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"unknown form 'integr'.*integer"):
        deploy(model, tmp_path / "x", batches, form="integr", input_shape=SHAPE)
    with pytest.raises(ValueError, match="pixels cannot go into the form 'qdq'"):
        deploy(model, tmp_path / "x", batches, form="qdq", input_shape=SHAPE, prepare=torch.Tensor.float)


def test_a_model_of_ones_own_is_packed_too(tmp_path):
    own = answering(lambda m, x: m.linear(m.relu(m.conv(x)).flatten(1)))
    found = deploy(own, tmp_path / "own.safetensors", batches, form="packed", input_shape=SHAPE)
    assert found.checked.identical == 40
