"""Running what was written: ONNX Runtime and qonnx's executor, and networks that use every operation."""

from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

from ..cases import DEPLOYABLE, network


@cache
def small(method, bits, **choices):
    """A ResNet-8 on digits; ``choices`` in place of what makes it deployable."""
    made = policy(method, weights=bits, activations=bits, **(choices or DEPLOYABLE))
    return network("resnet8", made=made, width=0.25)


def run(path, x):
    """Every result of a file in ONNX Runtime, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, {"input": x.numpy()})), strict=True))


def run_qonnx(path, x):
    """The logits of a file in qonnx's executor."""
    wrapper = pytest.importorskip("qonnx.core.modelwrapper", reason="qonnx is not installed: pip install qonnx")
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    opened = wrapper.ModelWrapper(str(path)).transform(InferShapes())
    return torch.from_numpy(np.asarray(execute_onnx(opened, {"input": x.numpy()})["logits"]))


def run_openvino(path, x):
    """The logits of a file in OpenVINO on the CPU, in float32 where it is float."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return torch.from_numpy(compiled({"input": x.numpy()})["logits"])


def moved(found, expected):
    """Of each image whether a logit is further off than float32 explains: a tie went the other way."""
    with torch.no_grad():
        return ((found - expected).abs() > 1e-5 * expected.abs().max()).flatten(1).any(1)


def agree(found, expected, ties=3):
    """Whether all but a few images are the same, and the classes of all others."""
    apart = moved(found, expected)
    return int(apart.sum()) <= ties and bool((found.argmax(1) == expected.argmax(1))[~apart].all())


def ready(model, shape, method="lsq", bits=4, **choices):
    """A model of one's own, quantized and calibrated on noise, and that noise."""
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    quantize_(model, policy(method, weights=bits, activations=bits, **choices))
    calibrate_(model, [x])
    return model.eval(), x


class Pooled(nn.Module):
    """A pooling between convolutions with groups, strides, dilation and uneven padding."""

    def __init__(self, pool, groups=1):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.pool = nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), pool
        self.second = nn.Conv2d(8, 8, 3, padding=(2, 1), dilation=(2, 1), stride=2, groups=groups)
        self.mean, self.flat, self.last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.flat(self.mean(self.second(self.pool(self.relu(self.first(x)))))))


class Lines(nn.Module):
    """One axis: a convolution, a batch norm, a transposed convolution with groups where it is asked."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.middle = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), middle
        self.mean, self.flat, self.last = nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5)

    def forward(self, x):
        x = nn.functional.relu6(self.middle(self.norm(self.first(x))))
        return self.last(self.flat(self.mean(x)))


POOLS = {
    "padded": nn.MaxPool2d(3, 2, 1),
    "rounded up": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, 1, dilation=2),
    "mean": nn.AvgPool2d((3, 2), (1, 2)),
    "mean of all": nn.AvgPool2d(9),
}
