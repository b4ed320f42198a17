"""Export of models to ONNX; users write ``from streamrnn.export import to_onnx``."""

from streamrnn.drift import QuantizationReport

from .add_state import add_state
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
