"""Over one axis or several: sums, products, extremes, their positions, softmax."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np

from ....graph import Value
from ....layer import Layer
from ....ops import activations as act
from ....ops import compare
from ....ops.op import Op
from ....ops.over_time import MaxOverTime, MeanOverTime
from ....ops.reduce import ArgMax, ArgMin, Max, Mean, Min, Prod, Sum
from ..node import (
    Handler,
    Known,
    Tensor,
    Timed,
    Unsupported,
    axis_of,
    integers,
    operator,
    over_time,
    reshaped,
)
from ..time import settled, so_far, whole_sequence
from .elementwise import together

__all__ = ["over_axes"]

Reduction = Callable[[Value, Iterable[int]], Value]


def over_axes(kind: Callable[..., Layer], x: Value, axes: Iterable[int]) -> Value:
    """Return a reduction over some axes, which stay with size 1; neighbours are taken as one."""
    chosen = sorted(axes)
    shape = tuple(1 if i in chosen else d for i, d in enumerate(x.shape))
    runs = itertools.groupby(enumerate(chosen), lambda pair: pair[1] - pair[0])
    for run in reversed([[axis for _, axis in pairs] for _, pairs in runs]):
        first, last = run[0], run[-1] + 1
        size = math.prod(x.shape[first:last])
        x = reshaped(x, (*x.shape[:first], size, *x.shape[last:]))
        x = kind(first, keepdims=True)(x)
        x = reshaped(x, (*x.shape[:first], *(1,) * len(run), *x.shape[first + 1 :]))
    return reshaped(x, shape)


def summed(x: Value, axes: Iterable[int]) -> Value:
    return over_axes(Sum, x, axes)


def log_sum_exp(x: Value, axes: Iterable[int]) -> Value:
    """Return ``log(sum(exp(x)))`` without overflow."""
    axes = list(axes)
    top = over_axes(Max, x, axes)
    rest = act.Exp()(x - top)
    return act.Log()(summed(rest, axes)) + top


REDUCTIONS: dict[str, Reduction] = {
    "L1": lambda x, axes: summed(act.Abs()(x), axes),
    "L2": lambda x, axes: act.Sqrt()(summed(act.Square()(x), axes)),
    "LogSum": lambda x, axes: act.Log()(summed(x, axes)),
    "LogSumExp": log_sum_exp,
    "Max": lambda x, axes: over_axes(Max, x, axes),
    "Mean": lambda x, axes: over_axes(Mean, x, axes),
    "Min": lambda x, axes: over_axes(Min, x, axes),
    "Prod": lambda x, axes: over_axes(Prod, x, axes),
    "Sum": summed,
    "SumSquare": lambda x, axes: summed(act.Square()(x), axes),
}


def reduction(name: str) -> Handler:
    def handler(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
        chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
        keep, nothing = a.get("keepdims", 1), a.get("noop_with_empty_axes", 0)
        if name == "Mean" and a.kinds[0] == "int":
            raise Unsupported("the mean of integers is not supported")
        if not chosen and nothing:
            if name not in ("Max", "Mean", "Min", "Prod", "Sum"):
                raise Unsupported("noop_with_empty_axes=1 is not supported")
            return x
        gone = {axis_of(i, x) for i in chosen} if chosen else set(range(len(x.shape)))
        y = REDUCTIONS[name](x, gone)
        return y if keep else reshaped(y, tuple(d for i, d in enumerate(x.shape) if i not in gone))

    return handler


SO_FAR: dict[str, type[Op]] = {"Max": MaxOverTime, "Mean": MeanOverTime}
"""What a reduction over all of time is, over the frames so far."""


def reduction_of_frames(handler: Handler, pool: type[Op] | None = None) -> Handler:
    """Return the handler of a reduction for a sequence: of each frame, or with it over time."""

    def frames(a: Known, n: int, x: Timed, axes: Tensor = None) -> Tensor:
        chosen = a.peek("axes", None) if axes is None else integers(axes, "the axes")
        nowhere = not chosen and a.peek("noop_with_empty_axes", 0)
        gone = {axis_of(i, x) for i in chosen} if chosen else set(range(len(x.shape)))
        if pool is not None and not nowhere and x.axis in gone:
            return Timed(handler(a, n, so_far(pool(), x), axes), None, x.length)
        return _reduced(handler, a, x, set() if nowhere else gone, axes)

    return frames


def _reduced(handler: Handler, a: Known, x: Timed, gone: set[int], *others: Tensor) -> Timed:
    if x.axis in gone:
        raise whole_sequence(x)
    axis = x.axis
    if axis is not None and not a.peek("keepdims", 1):
        axis -= sum(i < axis for i in gone)
    return Timed(handler(a, 1, settled(x).value, *others), axis, x.length)


def position(kind: type[ArgMax] | type[ArgMin]) -> Handler:
    def handler(a: Known, n: int, x: Value) -> Tensor:
        last, keep = bool(a.get("select_last_index", 0)), bool(a.get("keepdims", 1))
        return kind(axis_of(a.get("axis", 0), x), keep, last)(x)

    return handler


def position_of_frames(handler: Handler) -> Handler:
    def frames(a: Known, n: int, x: Timed) -> Tensor:
        return _reduced(handler, a, x, {axis_of(a.peek("axis", 0), x)})

    return frames


def softmax(kind: Callable[[int], Callable[[Value], Value]]) -> Handler:
    def handler(a: Known, n: int, x: Value) -> Tensor:
        axis = axis_of(a.get("axis", -1 if a.opset >= 13 else 1), x)
        if a.opset >= 13 or math.prod(x.shape[axis + 1 :]) == 1:
            return kind(axis)(x)
        rows = reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return reshaped(kind(1)(rows), x.shape)

    return handler


def hardmax(axis: int) -> Callable[[Value], Value]:
    """Return what makes 1 of the first of the largest numbers of an axis, 0 of the others."""

    def apply(x: Value) -> Value:
        steps = np.arange(x.shape[axis]).reshape(-1, *(1,) * (len(x.shape) - 1 - axis))
        return compare.Equal()(*together(ArgMax(axis, True)(x), steps))

    return apply


def softened(a: Known, x: Tensor) -> range | list[int]:
    """Return the axes that a softmax mixes: one, or before opset 13 all from one on."""
    axis = axis_of(a.peek("axis", -1 if a.opset >= 13 else 1), x)
    return [axis] if a.opset >= 13 else range(axis, len(x.shape))


for _name in REDUCTIONS:
    _handler = operator(f"Reduce{_name}")(reduction(_name))
    over_time(f"Reduce{_name}")(reduction_of_frames(_handler, SO_FAR.get(_name)))
for _kind in (ArgMax, ArgMin):
    _handler = operator(_kind.__name__)(position(_kind))
    over_time(_kind.__name__)(position_of_frames(_handler))
operator("Softmax", mixes=softened)(softmax(act.Softmax))
operator("LogSoftmax", mixes=softened)(softmax(act.LogSoftmax))
operator("Hardmax", mixes=softened)(softmax(hardmax))
