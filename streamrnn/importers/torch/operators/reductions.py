"""Reductions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...onnx.node import Tensor, Unsupported
from ..table import aten, axis_in, ints, number

if TYPE_CHECKING:
    from ..walk import Walk

__all__: list[str] = []


def _reduced(f: Walk, kind: str, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))
    axes = ints(*(axis_in(d, x) for d in dims))
    return f(f"Reduce{kind}", x, axes, keepdims=int(keepdim))


def _reduction(kind: str) -> Any:
    def meaning(f: Walk, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        return _reduced(f, kind, x, dim, keepdim)

    return meaning


for _name, _kind in {"mean": "Mean", "sum": "Sum", "amax": "Max", "amin": "Min"}.items():
    aten(_name)(_reduction(_kind))


def _extreme(kind: str, position: str) -> Any:
    def meaning(
        f: Walk, x: Tensor, other: Any = None, dim: Any = None, keepdim: bool = False
    ) -> Any:
        if other is not None:
            return f(kind, x, number(other))
        values = _reduced(f, f"{kind}", x, dim, keepdim)
        if dim is None:
            return values
        return values, f(position, x, axis=axis_in(dim, x), keepdims=int(keepdim))

    return meaning


aten("max")(_extreme("Max", "ArgMax"))
aten("min")(_extreme("Min", "ArgMin"))


@aten("argmax")
def argmax(f: Walk, x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if dim is None:
        raise Unsupported("without `dim` this operator is not supported")
    return f("ArgMax", x, axis=axis_in(dim, x), keepdims=int(keepdim))


@aten("linalg_vector_norm", "norm")
def norm(
    f: Walk, x: Tensor, dim: Any = None, keepdim: bool = False, ord: Any = 2, p: Any = 2
) -> Any:
    order = float(p) if ord == 2 else float(ord)
    if order not in (1.0, 2.0):
        raise Unsupported(f"the norm of order {order} is not supported, only 1 and 2")
    return _reduced(f, f"L{order:.0f}", x, dim, keepdim)


@aten("var", "std")
def variance(
    f: Walk,
    x: Tensor,
    dim: Any = None,
    correction: Any = None,
    keepdim: bool = False,
    unbiased: bool = True,
) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))
    count = math.prod(x.shape[d] for d in dims)
    less = (1 if unbiased else 0) if correction is None else correction
    centred = f("Sub", x, _reduced(f, "Mean", x, dims, True))
    mean = _reduced(f, "Mean", f("Mul", centred, centred), dims, keepdim)
    y = f("Mul", mean, np.float32(count / (count - less)))
    return f("Sqrt", y) if f.operator == "std" else y


@aten("cumsum")
def cumsum(f: Walk, x: Tensor, dim: int) -> Tensor:
    return f("CumSum", x, ints(axis_in(dim, x)))
