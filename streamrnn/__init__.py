"""Streaming inference of recurrent networks: one timestep at a time, the state kept for you."""

import importlib
from typing import Any

from .errors import (
    ConfigError,
    ConversionError,
    ExportError,
    FileError,
    FrameError,
    GraphError,
    NonFiniteError,
    SourceError,
    StateError,
    StreamError,
    StreamrnnError,
    WeightError,
)
from .files import load
from .graph import Input, Value
from .importers.npz import load_npz
from .importers.rtneural import from_rtneural
from .layer import Layer, Model, Sequential
from .layouts import gru_weights, lstm_weights, rnn_weights
from .ops.activations import (
    ELU,
    GELU,
    SELU,
    Abs,
    Erf,
    Exp,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    Log,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Sqrt,
    Square,
    Tanh,
)
from .ops.align import Align
from .ops.arithmetic import Add, Affine, Div, Mul, Scale, Sub
from .ops.compare import Atan2, Equal, Less, LessOrEqual, Maximum, Minimum, Mod, Pow, Where
from .ops.concat import Concat, concat
from .ops.constant import Constant
from .ops.context import Context
from .ops.conv1d import Conv1d
from .ops.cumsum import CumSum
from .ops.delay import Delay
from .ops.deltas import Deltas
from .ops.dynamic_quantize import DynamicQuantize
from .ops.embedding import Embedding
from .ops.fourier import IRFFT, RFFT
from .ops.frame_conv1d import FrameConv1d
from .ops.frame_conv2d import FrameConv2d
from .ops.gru import GRU, GRUCell
from .ops.int8_frame_conv1d import Int8FrameConv1d
from .ops.int8_gru_cell import Int8GRUCell
from .ops.int8_linear import Int8Linear
from .ops.int8_lstm import Int8LSTM
from .ops.int8_lstm_cell import Int8LSTMCell
from .ops.int8_rnn_cell import Int8RNNCell
from .ops.integer_linear import IntegerLinear
from .ops.linear import Linear
from .ops.lstm import LSTM, LSTMCell
from .ops.mathematics import (
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Cos,
    Cosh,
    Floor,
    IsInf,
    IsNaN,
    Reciprocal,
    Round,
    Sign,
    Sin,
    Sinh,
    Tan,
    Trunc,
)
from .ops.matmul import MatMul
from .ops.mel import DCT, MelFilterbank
from .ops.norm import BatchNorm1d, LayerNorm, RMSNorm
from .ops.op import Op
from .ops.over_time import MaxOverTime, MeanOverTime
from .ops.overlap_add import OverlapAdd
from .ops.past import Past
from .ops.rearrange import Expand, Flatten, Pad, Reshape, Slice, Take, Transpose
from .ops.recent import Recent
from .ops.reduce import ArgMax, ArgMin, Max, Mean, Min, Prod, Sum
from .ops.rnn import RNN, RNNCell
from .ops.running import ExponentialMean, RunningNorm
from .ops.sliding_norm import SlidingNorm
from .ops.sos_filter import SOSFilter
from .ops.window import Window
from .pool import Pool, PooledStream
from .reference import ReferenceStream
from .stream import Stream
from .variants import GRUVariant, LSTMVariant, RNNVariant
from .version import VERSION
from .warm import Warmup, warmup
from .weights import load_weights

__version__ = VERSION

__all__ = [
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "Affine",
    "Align",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atan2",
    "Atanh",
    "BatchNorm1d",
    "Ceil",
    "Concat",
    "ConfigError",
    "Constant",
    "Context",
    "Conv1d",
    "ConversionError",
    "Cos",
    "Cosh",
    "CumSum",
    "DCT",
    "Delay",
    "Deltas",
    "Div",
    "DynamicQuantize",
    "ELU",
    "Embedding",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "ExponentialMean",
    "ExportError",
    "FileError",
    "Flatten",
    "Floor",
    "FrameConv1d",
    "FrameConv2d",
    "FrameError",
    "GELU",
    "GRU",
    "GRUCell",
    "GRUVariant",
    "GraphError",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "IRFFT",
    "Input",
    "Int8FrameConv1d",
    "Int8GRUCell",
    "Int8LSTM",
    "Int8LSTMCell",
    "Int8Linear",
    "Int8RNNCell",
    "IntegerLinear",
    "IsInf",
    "IsNaN",
    "LSTM",
    "LSTMCell",
    "LSTMVariant",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Less",
    "LessOrEqual",
    "Linear",
    "Log",
    "LogSigmoid",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxOverTime",
    "Maximum",
    "Mean",
    "MeanOverTime",
    "MelFilterbank",
    "Min",
    "Minimum",
    "Mish",
    "Mod",
    "Model",
    "Mul",
    "NonFiniteError",
    "Op",
    "OverlapAdd",
    "PReLU",
    "Pad",
    "Past",
    "Pool",
    "PooledStream",
    "Pow",
    "Prod",
    "RFFT",
    "RMSNorm",
    "RNN",
    "RNNCell",
    "RNNVariant",
    "ReLU",
    "ReLU6",
    "Recent",
    "Reciprocal",
    "ReferenceStream",
    "Reshape",
    "Round",
    "RunningNorm",
    "SELU",
    "SOSFilter",
    "Scale",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Slice",
    "SlidingNorm",
    "Softmax",
    "Softplus",
    "Softsign",
    "SourceError",
    "Sqrt",
    "Square",
    "StateError",
    "Stream",
    "StreamError",
    "StreamrnnError",
    "Sub",
    "Sum",
    "Take",
    "Tan",
    "Tanh",
    "Transpose",
    "Trunc",
    "Value",
    "Warmup",
    "WeightError",
    "Where",
    "Window",
    "concat",
    "from_keras",
    "from_rtneural",
    "gru_weights",
    "load",
    "load_npz",
    "load_weights",
    "lstm_weights",
    "rnn_weights",
    "warmup",
]


def __getattr__(name: str) -> Any:
    """Import what few programs use, or what needs an extra, when it is first used."""
    if name in ("decode", "export", "frontend", "metrics"):
        return importlib.import_module(f".{name}", __name__)
    if name == "from_keras":
        found = globals()[name] = importlib.import_module(".importers.keras", __name__).from_keras
        return found
    if name == "from_torch":
        return _from_torch()
    raise AttributeError(f"module 'streamrnn' has no attribute {name!r}")


def _from_torch() -> Any:
    """Return ``importers.torch.from_torch``; name the extra where something is missing."""
    try:
        return importlib.import_module(".importers.torch", __name__).from_torch
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx"):
            raise
        raise ImportError(
            f"streamrnn.from_torch needs {error.name}: pip install streamrnn[torch]"
        ) from None
