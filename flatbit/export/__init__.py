"""What leaves the package: exact integers, packed files, ONNX. Everything here knows grids only, never methods."""

from .onnx_file import OnnxFile, onnx

__all__ = ["OnnxFile", "onnx"]
