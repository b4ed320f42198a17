"""Streaming inference of recurrent networks: one timestep at a time, the state kept for you."""

import importlib
from typing import Any

from .errors import (
    ConfigError,
    ExportError,
    FileError,
    FrameError,
    GraphError,
    NonFiniteError,
    StateError,
    StreamrnnError,
    WeightError,
)
from .files import load
from .graph import Input, Value
from .layer import Layer, Model, Sequential
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
from .ops.int8_lstm import Int8LSTMStep
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
from .reference import ReferenceStream
from .stream import Stream
from .version import VERSION

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
    "GraphError",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "IRFFT",
    "Input",
    "Int8LSTMStep",
    "IntegerLinear",
    "IsInf",
    "IsNaN",
    "LSTM",
    "LSTMCell",
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
    "Maximum",
    "Mean",
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
    "Pow",
    "Prod",
    "RFFT",
    "RMSNorm",
    "RNN",
    "RNNCell",
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
    "Sqrt",
    "Square",
    "StateError",
    "Stream",
    "StreamrnnError",
    "Sub",
    "Sum",
    "Take",
    "Tan",
    "Tanh",
    "Transpose",
    "Trunc",
    "Value",
    "WeightError",
    "Where",
    "Window",
    "concat",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import ``streamrnn.export``, which needs onnx, and ``streamrnn.frontend`` when first used."""
    if name in ("export", "frontend"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'streamrnn' has no attribute {name!r}")
