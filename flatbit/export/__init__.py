"""What leaves the package: exact integers, packed files, ONNX. Everything here knows grids only, never methods."""
