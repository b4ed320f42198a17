"""ONNX graphs read as streaming models."""

from .graph import Reader, load_onnx, read_onnx

__all__ = ["Reader", "load_onnx", "read_onnx"]
