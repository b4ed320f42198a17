"""What each ONNX operator means in our ops: one file a family."""

from . import (
    control,
    conv,
    einsum,
    elementwise,
    indexing,
    linear,
    moving,
    norm,
    pool,
    quantized,
    recurrent,
    reduce,
    resize,
    signal,
    stateful,
)

__all__ = [
    "control",
    "conv",
    "einsum",
    "elementwise",
    "indexing",
    "linear",
    "moving",
    "norm",
    "pool",
    "quantized",
    "recurrent",
    "reduce",
    "resize",
    "signal",
    "stateful",
]
