"""ResNet-20, MobileNetV2, depthwise ResNet and FCDNN at 8, 4, 2 and 1 bits: model, integers and ONNX file agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatbit import models
from flatbit.export.executor import integer_network
from flatbit.export.onnx_file import onnx
from flatbit.export.reading import run_onnx
from flatbit.export.verification import verify
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy
from flatbit.quant.quantizers import METHODS

from ..export.cases import DEPLOYABLE, DIGITS, digits, labelled

NETWORKS = {
    "resnet20": ({"in_channels": 1}, 1),
    "mobilenet_v2_cifar": ({"in_channels": 1}, 2),
    "depthwise_resnet": ({"in_channels": 1}, 1),
    "fcdnn": ({"in_features": 64}, 1),
}
"""How each is built, and by what digits are enlarged, so that its last images have more than one pixel."""
CASES = [
    (method, bits) for method in ("saq", "uniq", "faq") for bits in (8, 4, 2, 1)
    if bits in METHODS.get(method).weights.supported_bits
]  # fmt: skip
"""Three kinds of grid: clips of normalised weights, learned steps, powers of two."""


def network(name, method, bits):
    """A network of random weights and batch norms, calibrated, with statistics of what it then computes."""
    arguments, factor = NETWORKS[name]
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0.5, 0.2)
    images = [F.interpolate(x, scale_factor=factor) for x, _ in DIGITS.train_batches(32, seed=0)][:2]
    quantize_(model, policy(method, weights=bits, activations=bits, **DEPLOYABLE))
    calibrate_(model, images)
    model.train()
    with torch.no_grad():
        for x in images:
            model(x)
    return model.eval(), F.interpolate(digits(12)[0], scale_factor=factor)


@pytest.mark.parametrize(("method", "bits"), CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_model_integers_and_file_agree(name, method, bits, tmp_path):
    (model, x), path = network(name, method, bits), tmp_path / "net.onnx"
    integers = integer_network(model, tuple(x.shape[1:]))
    logits = integers(x)
    assert len(logits.unique(dim=0)) > len(x) // 2, "the net does not tell images apart: anything would agree"
    found = verify(model, integers, labelled(x, model))
    assert found.changed == ()
    assert found.largest <= found.bound
    assert found.tied < len(x)
    onnx(model, path, x, form="integer")
    assert torch.equal(run_onnx(path, model)(x), logits.float())
