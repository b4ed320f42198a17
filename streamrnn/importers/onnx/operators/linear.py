"""Products of matrices: MatMul, Gemm, Einsum.

A product with known weights is a ``Linear``, packed and fast; one of two values a ``MatMul``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....graph import Value
from ....ops import activations as act
from ....ops.linear import Linear
from ....ops.matmul import MatMul
from ....ops.rearrange import Transpose
from ..node import (
    Array,
    Handler,
    Known,
    Tensor,
    Timed,
    Unsupported,
    operator,
    over_time,
    reshaped,
    symbol,
    with_weights,
)
from ..time import aligned, settled, whole_sequence
from .elementwise import combined, expanded

__all__ = ["in_shape", "product", "transposed"]


def transposed(x: Tensor, order: Sequence[int]) -> Tensor:
    """Return a tensor with its axes in another order."""
    if not isinstance(x, Value):
        return np.transpose(x, order)
    wide = [i for i in order if x.shape[i] > 1]
    if wide == sorted(wide):  # the numbers stay in order
        return reshaped(x, tuple(x.shape[i] for i in order))
    return Transpose(tuple(order))(x)


def turned(x: Tensor) -> Tensor:
    """Return a tensor with its last two axes exchanged."""
    rank = len(x.shape)
    return transposed(x, (*range(rank - 2), rank - 1, rank - 2))


def product(x: Tensor, y: Tensor) -> Value:
    """Return the matrix product of two tensors, one or both of them values, as NumPy does it."""
    x, y = (t if isinstance(t, Value) else np.asarray(t) for t in (x, y))
    if not x.shape or not y.shape:
        raise Unsupported("a single number is no factor of a matrix product")
    left, right = len(x.shape) == 1, len(y.shape) == 1
    x = in_shape(x, (1, *x.shape)) if left else x
    y = in_shape(y, (*y.shape, 1)) if right else y
    z = _of_matrices(x, y)
    rows = () if left else z.shape[-2:-1]
    return reshaped(z, (*z.shape[:-2], *rows, *(() if right else z.shape[-1:])))


def in_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return reshaped(x, shape) if isinstance(x, Value) else np.reshape(x, shape)


def _of_matrices(x: Tensor, y: Tensor) -> Value:
    if x.shape[-1] != y.shape[-2]:
        raise Unsupported(f"shapes {x.shape} and {y.shape} do not fit each other")
    if not isinstance(y, Value) and math.prod(y.shape[:-2]) == 1:
        lead = (1,) * (len(y.shape) - len(x.shape))
        x = reshaped(x, (*lead, *x.shape))
        return weighed(x, y.reshape(y.shape[-2:]).T)
    if not isinstance(x, Value) and math.prod(x.shape[:-2]) == 1:
        lead = (1,) * (len(x.shape) - len(y.shape))
        y = reshaped(y, (*lead, *y.shape))
        columns: Value = turned(weighed(turned(y), x.reshape(x.shape[-2:])))
        return columns
    planes = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    like = x if isinstance(x, Value) else y
    a, b = (
        expanded(t, (*planes, *t.shape[-2:]))
        if isinstance(t, Value)
        else symbol(np.broadcast_to(t, (*planes, *t.shape[-2:])), like)
        for t in (x, y)
    )
    return MatMul()(a, b)


def weighed(x: Value, weight: Array, bias: Array | None = None) -> Value:
    """Return ``x @ weight.T + bias``."""
    op = Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return with_weights(op, weight=weight, **({} if bias is None else {"bias": bias}))(x)


@operator("MatMul")
def matmul(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
    return product(x, y)


@over_time("MatMul")
def matmul_of_frames(a: Known, n: int, x: Tensor, y: Tensor) -> Timed:
    return product_of_frames(product, x, y)


def product_of_frames(make: Handler, x: Tensor, y: Tensor) -> Timed:
    """Return a product of sequences, as long as it does not sum over frames."""
    x, y = (settled(t) if isinstance(t, Timed) else t for t in (x, y))
    first = x if isinstance(x, Timed) else y
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise Unsupported("a vector and a sequence are multiplied: matrices are supported")
    timed = [t for t in (x, y) if isinstance(t, Timed)]
    axes = {None if t.axis is None else t.axis - len(t.shape) for t in timed}
    (axis,) = axes if len(axes) == 1 else (-1,)
    summed_over = (isinstance(x, Timed) and axis == -1) or (isinstance(y, Timed) and axis == -2)
    if summed_over:  # or a sequence of rows meets one of columns, every frame every other
        raise whole_sequence(first)
    for t in (x, y):
        planes = not isinstance(t, Timed) and axis is not None and len(t.shape) >= -axis > 2
        if planes and t.shape[axis] != 1:
            raise Unsupported(f"a factor of shape {t.shape} may differ from frame to frame")
    values = [t.value if isinstance(t, Timed) else t for t in (x, y)]
    made = make(*(aligned(values) if len(timed) == 2 else values))
    return Timed(made, None if axis is None else axis + len(made.shape), first.length)


def summed_by_gemm(a: Known, x: Tensor, w: Tensor, *rest: Tensor) -> tuple[int, ...]:
    """A product with known weights mixes the last axis; of any other all are said to be mixed."""
    weights = not isinstance(w, (Value, Timed)) and not a.peek("transA", 0)
    return (1,) if weights else (0, 1)


@operator("Gemm", mixes=summed_by_gemm, weights=True)
def gemm(a: Known, n: int, x: Tensor, w: Tensor, bias: Tensor = None) -> Tensor:
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    x = turned(x) if a.get("transA", 0) else x
    w = turned(w) if a.get("transB", 0) else w
    columns = w.shape[-1]
    shape = () if bias is None else tuple(np.shape(bias))
    simple = not isinstance(w, Value) and not isinstance(bias, Value)
    if simple and isinstance(x, Value) and shape[:-1] in ((), (1,)):
        added = np.zeros(columns) if bias is None else beta * np.reshape(bias, -1)
        return weighed(x, alpha * np.transpose(w), np.broadcast_to(added, columns))
    y = combined("Mul", product(x, w), np.float32(alpha)) if alpha != 1 else product(x, w)
    if bias is None or beta == 0:
        return y
    return combined("Add", y, combined("Mul", bias, np.float32(beta)) if beta != 1 else bias)


@operator("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")
def fused_matmul(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
    a.only("transBatchA", 0)
    a.only("transBatchB", 0)
    x = turned(x) if a.get("transA", 0) else x
    y = turned(y) if a.get("transB", 0) else y
    return combined("Mul", product(x, y), np.float32(a.get("alpha", 1.0)))


ACTIVATIONS: dict[str, Any] = {
    "LeakyRelu": act.LeakyReLU,
    "Relu": act.ReLU,
    "Sigmoid": act.Sigmoid,
    "Tanh": act.Tanh,
}


@operator("com.microsoft.FusedGemm", mixes=summed_by_gemm, weights=True)
def fused_gemm(a: Known, n: int, x: Tensor, w: Tensor, bias: Tensor = None) -> Tensor:
    activation = a.get("activation", "Relu")
    if activation not in ACTIVATIONS:
        raise Unsupported(f"the activation {activation!r} is not supported")
    slope = [a.get("activation_alpha", 0.01)] if activation == "LeakyRelu" else []
    return ACTIVATIONS[activation](*slope)(gemm(a, n, x, w, bias))
