"""Every form of a file, of every policy that is registered, at 1, 2, 4 and 8 bits: it computes what the model does.

Of layers in float, the form of integers alone names the first; the other forms take them.
"""

import pytest
import torch
from torch import nn

from flatbit.export.deployment import DEPLOYABLE as EVERY_FORM
from flatbit.export.executor import integer_network
from flatbit.export.forms import FORMS
from flatbit.export.gate import EXACT
from flatbit.export.onnx_file import onnx
from flatbit.export.verification import verify
from flatbit.quant.convention import convention
from flatbit.quant.presets import preset_names
from flatbit.quant.quantizers import METHODS

from ..export.cases import SHAPE, digits
from ..export.forms.cases import agree, run_openvino, run_qonnx
from .export_cases import CASES, IN_PART, LACKING, Small, asked, quantized, widths

IMAGES, LABELS = digits(100)
each_form = pytest.mark.parametrize("form", EVERY_FORM)
each_case = pytest.mark.parametrize(("name", "bits"), CASES)


@torch.no_grad()
def check_file(model, form, folder):
    """Write a model in a form; the file's logits are the model's, or to the bit those of the integer network."""
    made, path = EVERY_FORM[form], folder / f"net{EVERY_FORM[form].suffix}"
    made.write(model, path, IMAGES)  # its batch counts in "qonnx", whose executor then runs all images at once
    found = run_qonnx(path, IMAGES) if form == "qonnx" else made.run(path, model)(IMAGES)
    expected = integer_network(model, SHAPE)(IMAGES).float() if form == "integer" else model(IMAGES)
    assert len(expected.unique(dim=0)) > 5, "the net does not tell images apart: anything would agree"
    assert torch.equal(found, expected) if made.agreement is EXACT else agree(found, expected)


@each_form
@each_case
def test_a_file_computes_what_the_model_does(name, bits, form, tmp_path):
    check_file(quantized(name, bits, bits, deployable=True), form, tmp_path)


@each_case
def test_the_executor_is_the_model_in_integers(name, bits):
    model = quantized(name, bits, bits, deployable=True)
    found = verify(model, integer_network(model, SHAPE), [(IMAGES, LABELS)])
    assert found.num_images == len(IMAGES)
    assert found.changed == ()
    assert found.tied <= len(IMAGES) // 10
    assert found.top1 == found.top1_model


@pytest.mark.parametrize("name", preset_names())
def test_openvino_reads_8_bits(name, tmp_path):
    """Which hold the codes of fewer bits too."""
    bits, path = max(widths(name)), tmp_path / "net.onnx"
    model = quantized(name, bits, bits, deployable=True)
    onnx(model, path, SHAPE, container="int8")
    with torch.no_grad():
        assert agree(run_openvino(path, IMAGES), model(IMAGES))


@each_form
@pytest.mark.parametrize(("name", "weights", "activations"), IN_PART)
def test_layers_in_float_are_taken_or_refused_by_name(name, weights, activations, form, tmp_path):
    model = quantized(name, weights, activations, deployable=False)
    if form != "integer" or convention(model).integer_products:
        check_file(model, form, tmp_path)
        return
    with pytest.raises(ValueError, match=r"^layer 'first\.0': its (input|weight) is float, .*first_last_bits=8"):
        onnx(model, tmp_path / "net.onnx", SHAPE, form=form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "bits"), LACKING)
def test_a_width_that_a_method_lacks_is_refused(name, bits):
    with pytest.raises(ValueError, match=rf"quantizes (weights|activations) to .* bits?, got {bits}"):
        asked(name, bits, bits, deployable=True)


def test_the_suite_covers_every_policy_method_and_form():
    assert {name for name, _ in CASES} == set(preset_names())
    net = Small(nn.ReLU)
    specs = [spec for name, bits in CASES for spec in asked(name, bits, bits, deployable=True).resolve(net).values()]
    assert {tensor.method for spec in specs for tensor in spec.tensors.values()} == set(METHODS.names())
    assert set(EVERY_FORM) == {"packed", *FORMS.names()}
