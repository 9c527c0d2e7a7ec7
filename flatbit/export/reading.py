"""Written files, read back and run by what users will run them with: ONNX Runtime, qonnx, ``flatbit.load``."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..files import load, load_
from ..models import BUILD_CALL
from ..quant.convert import restore_

Runs = Callable[[Tensor], Tensor]
"""From a batch to logits, float (N, ...)."""
EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "qonnx": "qonnx"}
"""Of this package: which installs what."""


def run_packed(path: Path, model: nn.Module) -> Runs:
    """A packed file, as ``flatbit.load`` reads it, or ``load_`` where it is not known how its model is built."""
    if getattr(model, BUILD_CALL, None) is not None:
        return load(path).eval()
    network = copy.deepcopy(model)
    restore_(network)
    load_(network, path)
    return network.eval()


def run_onnx(path: Path, _: nn.Module) -> Runs:
    """An ONNX file in ONNX Runtime, on the CPU. Raises ImportError where that is not installed."""
    runtime = _imported("onnxruntime")
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def run_qonnx(path: Path, _: nn.Module) -> Runs:
    """A QONNX file in qonnx's own executor, image by image as its batch is 1. Raises ImportError."""
    onnx, execution = _imported("onnx"), _imported("qonnx.core.onnx_exec")
    shaped = _imported("qonnx.transformation.infer_shapes").InferShapes()
    model = _imported("qonnx.core.modelwrapper").ModelWrapper(onnx.load(str(path))).transform(shaped)
    source, answer = model.graph.input[0].name, model.graph.output[0].name

    def run(x: Tensor) -> Tensor:
        images = (x[i : i + 1].contiguous().numpy() for i in range(len(x)))
        found = [execution.execute_onnx(model, {source: image})[answer] for image in images]
        return torch.cat([torch.from_numpy(logits) for logits in found])

    return run


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        if package not in EXTRAS:
            raise
        raise ImportError(f'{package} is not installed: pip install "flatbit[{EXTRAS[package]}]"') from error
