"""The way out to other runtimes: ``from streamrnn.export import to_onnx``.

The exporters live in the package ``streamrnn_export`` (folder ``export/``); they need the extra
``onnx``: ``pip install streamrnn[onnx]``.
"""

try:
    import onnx as _onnx  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "exporting needs onnx and onnxruntime: pip install streamrnn[onnx]"
    ) from _error

from streamrnn_export import (
    ExportReport,
    OnnxStream,
    Quantization,
    QuantizationReport,
    add_state,
    to_onnx,
)

__all__ = [
    "ExportReport",
    "OnnxStream",
    "Quantization",
    "QuantizationReport",
    "add_state",
    "to_onnx",
]
