"""Export of models to ONNX; users write ``from streamrnn.export import to_onnx``."""

from .add_state import add_state
from .drift import QuantizationReport
from .quantize import Quantization
from .step import to_onnx
from .verify import ExportReport

__all__ = ["ExportReport", "Quantization", "QuantizationReport", "add_state", "to_onnx"]
