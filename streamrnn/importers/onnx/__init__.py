"""ONNX graphs read as streaming models."""

from .graph import Reader, load_onnx, opened, parsed, read_onnx, state_name

__all__ = ["Reader", "load_onnx", "opened", "parsed", "read_onnx", "state_name"]
