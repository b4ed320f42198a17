"""Products with weights: MatMul, Gemm."""

from __future__ import annotations

import numpy as np

from ....ops.linear import Linear
from ..node import Known, Tensor, Unsupported, known, operator, symbol, with_weights


def last(a: Known, x: Tensor, *args: Tensor) -> tuple[int, ...]:
    """A product mixes the last axis."""
    return (len(x.shape) - 1,)


@operator("MatMul", mixes=last, weights=True)
def matmul(a: Known, n: int, x: Tensor, w: Tensor) -> Tensor:
    weight = known(w, "the right factor")
    x = symbol(x)
    if weight.ndim != 2:
        raise Unsupported(f"the right factor must be a matrix, got shape {weight.shape}")
    op = Linear(weight.shape[0], weight.shape[1], bias=False)
    return with_weights(op, weight=weight.T)(x)


@operator("Gemm", mixes=last, weights=True)
def gemm(a: Known, n: int, x: Tensor, w: Tensor, bias: Tensor = None) -> Tensor:
    a.only("transA", 0)
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    weight = alpha * known(w, "the weight")
    weight = weight if a.get("transB", 0) else weight.T
    x = symbol(x)
    added = np.zeros(len(weight)) if bias is None else beta * known(bias, "the bias")
    if added.size != 1 and added.shape not in ((len(weight),), (1, len(weight))):
        raise Unsupported(f"a bias of shape {added.shape} is not supported")
    op = Linear(weight.shape[1], weight.shape[0])
    full = np.broadcast_to(added.reshape(-1), len(weight))
    return with_weights(op, weight=weight, bias=full)(x)
