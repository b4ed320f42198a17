"""Export of models to ONNX; users write ``from streamrnn.export import to_onnx``."""

from .add_state import add_state
from .drift import QuantizationReport
from .onnx_stream import OnnxStream
from .quantize import Quantization
from .step import to_onnx
from .verify import ExportReport

__all__ = [
    "ExportReport",
    "OnnxStream",
    "Quantization",
    "QuantizationReport",
    "add_state",
    "to_onnx",
]
