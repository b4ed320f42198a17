"""Export of models to ONNX; users write ``from streamrnn.export import to_onnx``."""

from .step import to_onnx
from .verify import ExportReport

__all__ = ["ExportReport", "to_onnx"]
