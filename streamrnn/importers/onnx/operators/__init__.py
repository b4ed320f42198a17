"""What each ONNX operator means in our ops: one file a family."""

from . import (
    control,
    conv,
    elementwise,
    linear,
    moving,
    norm,
    pool,
    recurrent,
    reduce,
    resize,
    signal,
    stateful,
)

__all__ = [
    "control",
    "conv",
    "elementwise",
    "linear",
    "moving",
    "norm",
    "pool",
    "recurrent",
    "reduce",
    "resize",
    "signal",
    "stateful",
]
