"""Every op, one file each (a family of one-liners shares one)."""

from .activations import (
    ELU,
    GELU,
    SELU,
    Abs,
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
from .arithmetic import Add, Div, Mul, Scale, Sub, arithmetic
from .concat import Concat, concat
from .context import Context
from .conv1d import Conv1d
from .embedding import Embedding
from .frame_conv1d import FrameConv1d
from .gru import GRU, GRUCell
from .linear import Linear
from .lstm import LSTM, LSTMCell
from .norm import BatchNorm1d, LayerNorm
from .op import REGISTRY, Op
from .rearrange import Expand, Flatten, Pad, Reshape, Slice, Transpose
from .reduce import Max, Mean, Min, Sum
from .rnn import RNN, RNNCell

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "REGISTRY",
    "RNN",
    "SELU",
    "Abs",
    "Add",
    "BatchNorm1d",
    "Concat",
    "Context",
    "Conv1d",
    "Div",
    "Embedding",
    "Exp",
    "Expand",
    "Flatten",
    "FrameConv1d",
    "GRUCell",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Log",
    "LogSigmoid",
    "LogSoftmax",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Op",
    "PReLU",
    "Pad",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "Reshape",
    "Scale",
    "SiLU",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Square",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "arithmetic",
    "concat",
]
