"""Keras' arrays as weights of our ops.

Keras keeps matrices as (inputs, outputs), gates in the order i, f, c, o and z, r, h, and the
kernels of convolutions as (taps, inputs, outputs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import WeightError
from ...graph import describe
from ...layer import Layer
from ...layouts import gru_weights, lstm_weights, rnn_weights
from ...ops.cell import Cell
from ...ops.conv1d import Conv1d
from ...ops.embedding import Embedding
from ...ops.gru import GRUCell
from ...ops.linear import Linear
from ...ops.lstm import LSTMCell
from ...ops.norm import BatchNorm1d, LayerNorm
from ...variants import GRUVariant, LSTMVariant, RNNVariant

__all__ = ["converted", "take"]

Array = npt.NDArray[Any]


def take(arrays: Sequence[Array], *shapes: tuple[int | None, ...]) -> list[Array]:
    """Return the arrays if they have these shapes (None: any size), or raise WeightError."""
    fits = len(arrays) == len(shapes) and all(
        a.ndim == len(shape) and all(d in (None, n) for d, n in zip(shape, a.shape, strict=True))
        for a, shape in zip(arrays, shapes, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(shape).replace("None", "any") for shape in shapes)
        got = ", ".join(str(a.shape) for a in arrays)
        raise WeightError(f"expected arrays of shapes {wanted or 'none'}, got {got or 'none'}")
    return list(arrays)


def _transposed(arrays: Sequence[Array]) -> dict[str, Array]:
    kernel, *bias = arrays
    return {"weight": kernel.T} | ({"bias": bias[0]} if bias else {})


def _linear(op: Any, arrays: Sequence[Array]) -> dict[str, Array]:
    bias = [(op.out_features,)] if op.bias else []
    return _transposed(take(arrays, (op.in_features, op.out_features), *bias))


def _conv1d(op: Any, arrays: Sequence[Array]) -> dict[str, Array]:
    shape = (op.kernel_size, op.in_channels // op.groups, op.out_channels)
    return _transposed(take(arrays, shape, *([(op.out_channels,)] if op.bias else [])))


def _embedding(op: Any, arrays: Sequence[Array]) -> dict[str, Array]:
    return {"weight": take(arrays, (op.num_embeddings, op.embedding_dim))[0]}


def _layer_norm(op: Any, arrays: Sequence[Array]) -> dict[str, Array]:
    shapes = op.parameter_shapes()
    return dict(zip(shapes, take(arrays, *shapes.values()), strict=True))


def _cell(op: Any, arrays: Sequence[Array]) -> dict[str, Array]:
    """Three forms of bias: one, that of frame and that of state (GRU), or CuDNN's in one row."""
    gates = {LSTMCell: 4, LSTMVariant: 4, GRUCell: 3, GRUVariant: 3}.get(type(op), 1)
    columns, I, H = gates * op.hidden_size, op.input_size, op.hidden_size
    cudnn = len(arrays) == 3 and arrays[2].shape == (2 * columns,)
    if cudnn:
        arrays = _from_cudnn(arrays, gates)
    has_bias = op.bias if isinstance(op, Cell) else op.of_x.bias
    bias: tuple[int, ...] = (columns,)
    if cudnn or (gates == 3 and op.reset_after):
        bias = (2, columns)
    take(arrays, (I, columns), (H, columns), *([bias] if has_bias else []))
    make: Callable[..., dict[str, Array]] = {4: lstm_weights, 3: gru_weights}.get(
        gates, rnn_weights
    )
    weights = make(*arrays)
    return {name: a for name, a in weights.items() if has_bias or name.startswith("weight")}


def _from_cudnn(arrays: Sequence[Array], gates: int) -> list[Array]:
    """Return the arrays of CuDNNLSTM and CuDNNGRU as those of the plain layers.

    There each gate of the kernels is kept transposed, that of the frame also in rows of its
    original shape, and both biases lie in one row.
    """
    kernel, recurrent, bias = arrays
    if kernel.ndim != 2 or recurrent.ndim != 2 or kernel.shape[1] % gates:
        raise WeightError(f"expected matrices, got {describe(kernel)}, {describe(recurrent)}")
    parts = np.hsplit(kernel, gates)
    kernel = np.hstack([part.T.reshape(part.shape, order="F") for part in parts])
    recurrent = np.hstack([part.T for part in np.hsplit(recurrent, gates)])
    return [kernel, recurrent, bias.reshape(2, -1)]


def _batch_norm(op: Any, arrays: Sequence[Array]) -> dict[str, Array]:
    shapes = op.parameter_shapes()
    return dict(zip(shapes, take(arrays, *shapes.values()), strict=True))


_CONVERTED: dict[type[Layer], Callable[[Any, Sequence[Array]], dict[str, Array]]] = {
    BatchNorm1d: _batch_norm,
    Conv1d: _conv1d,
    Embedding: _embedding,
    LayerNorm: _layer_norm,
    Linear: _linear,
    **dict.fromkeys((LSTMVariant, GRUVariant, RNNVariant), _cell),
}


def converted(op: Layer, arrays: Sequence[Array]) -> dict[str, Array]:
    """Return the weights of one of our layers, given the arrays of Keras' layer.

    Raises
    ------
    WeightError
        If there is no such layer in Keras, or the arrays' number or shapes are not its own.
    """
    convert = _cell if isinstance(op, Cell) else _CONVERTED.get(type(op))
    if convert is None:
        raise WeightError(f"Keras has no layer like {op!r}")
    return convert(op, arrays)
