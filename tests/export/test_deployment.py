import copy
import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from flatbit.data.normalize import Normalize
from flatbit.export import deployment, reading
from flatbit.export.deployment import DEPLOYABLE, deploy
from flatbit.export.verification import ExportError
from flatbit.files import load
from flatbit.quant.convert import restore_

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
    with pytest.raises(ExportError, match="the logits of 40 of 40 images differ"):
        deploy(model, path, batches, form="packed", input_shape=SHAPE)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_forms_and_settings_without_effect_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"unknown form 'integr'.*integer"):
        deploy(model, tmp_path / "x", batches, form="integr", input_shape=SHAPE)
    with pytest.raises(ValueError, match=r"prepare= \(--pixels\) cannot act on the form 'qdq': it is of integer"):
        deploy(model, tmp_path / "x", batches, form="qdq", input_shape=SHAPE, prepare=torch.Tensor.float)

    with pytest.raises(ValueError, match=r"container= .* cannot act on the form 'packed': it is of qdq"):
        deploy(model, tmp_path / "x", batches, form="packed", input_shape=SHAPE, container="int8")
    with pytest.raises(ValueError, match=r"most_changed= .* cannot act on the form 'packed': it is of qdq, integer, q"):
        deploy(model, tmp_path / "x", batches, form="packed", input_shape=SHAPE, most_changed=0.5)
    with pytest.raises(ValueError, match=r"most_changed=5: expected a share"):
        deploy(model, tmp_path / "x", batches, form="qdq", input_shape=SHAPE, most_changed=5)


def test_settings_reach_the_writer_and_stand_in_the_result(model, tmp_path):
    found = deploy(model, tmp_path / "x", batches, form="qdq", input_shape=SHAPE, container="int8", most_changed=0.2)
    plain = deploy(model, tmp_path / "y", batches, form="qdq", input_shape=SHAPE)
    assert (found.container, found.checked.most_changed) == ("int8", 0.2)
    assert (plain.container, plain.checked.most_changed) == (None, 0.001)
    assert found.sha256 == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    assert (tmp_path / "x").read_bytes() != (tmp_path / "y").read_bytes()


def test_the_float_file_is_what_torch_would_save(model, tmp_path):
    found = deploy(model, tmp_path / "net", batches, form="packed", input_shape=SHAPE)
    plain = copy.deepcopy(model)
    restore_(plain)
    save_file(plain.state_dict(), tmp_path / "float")
    header = int.from_bytes((tmp_path / "float").read_bytes()[:8], "little") + 8
    assert found.float_bytes == (tmp_path / "float").stat().st_size - header
    assert f"{found.float_bytes:,}" in str(found)


def test_an_integer_file_is_held_to_the_integer_network_and_counted_beside_the_model(model, tmp_path, monkeypatch):
    def off_by_one(path, _):
        run = reading.run_onnx(path, model)
        return lambda x: run(x) + 1e-3

    monkeypatch.setitem(DEPLOYABLE, "integer", replace(DEPLOYABLE["integer"], run=off_by_one))
    with pytest.raises(ExportError, match="the logits of 40 of 40 images differ by more than 0 of their largest"):
        deploy(model, tmp_path / "net.onnx", batches, form="integer", input_shape=SHAPE)


def test_a_model_of_ones_own_is_packed_too(tmp_path):
    own = answering(lambda m, x: m.linear(m.relu(m.conv(x)).flatten(1)))
    found = deploy(own, tmp_path / "own.safetensors", batches, form="packed", input_shape=SHAPE)
    assert found.checked.identical == 40
