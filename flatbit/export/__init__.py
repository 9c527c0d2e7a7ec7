"""What leaves the package: exact integers, packed files, ONNX. Everything here knows grids only, never methods."""

from .deployment import Deployed, deploy
from .executor import IntegerNetwork, integer_network
from .onnx_file import OnnxFile, onnx
from .packed_file import Packed, PackedLayer, packed
from .verification import ExportError, Verification, verify

__all__ = [
    "Deployed",
    "ExportError",
    "IntegerNetwork",
    "OnnxFile",
    "Packed",
    "PackedLayer",
    "Verification",
    "deploy",
    "integer_network",
    "onnx",
    "packed",
    "verify",
]
