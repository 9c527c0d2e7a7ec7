import importlib

import pytest
import torch

from flatbit.export import reading
from flatbit.export.onnx_file import onnx
from flatbit.export.packed_file import packed

from .cases import SHAPE, digits, network


@pytest.fixture(scope="module")
def model():
    return network("preresnet8", "uniq", 4, 4, first_width=4)


def test_what_is_not_installed_is_said_with_its_mend(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "flatbit\[onnx\]"'):
        reading.run_onnx(tmp_path / "x.onnx", None)


@pytest.mark.parametrize("form", ["qdq", "qonnx"])
def test_a_file_is_run_by_what_reads_it(model, form, tmp_path):
    if form == "qonnx":
        pytest.importorskip("qonnx")
    onnx(model, tmp_path / "net.onnx", SHAPE, form=form)
    run = {"qdq": reading.run_onnx, "qonnx": reading.run_qonnx}[form](tmp_path / "net.onnx", model)
    x, _ = digits(3)
    with torch.no_grad():
        assert torch.allclose(run(x), model(x), atol=1e-5)


def test_a_packed_file_is_run_in_evaluation(model, tmp_path):
    packed(model, tmp_path / "net.safetensors")
    x, _ = digits(3)
    with torch.no_grad():
        assert torch.equal(reading.run_packed(tmp_path / "net.safetensors", model)(x), model(x))
