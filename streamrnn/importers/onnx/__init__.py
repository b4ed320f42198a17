"""ONNX graphs read as streaming models."""

from .graph import load_onnx

__all__ = ["load_onnx"]
