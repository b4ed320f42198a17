"""Over an axis: sums, extremes, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

from ....graph import Value
from ....layer import Layer
from ....ops import activations as act
from ....ops.reduce import Max, Mean, Min, Sum
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
from ..time import settled, whole_sequence


def reduction(kind: Callable[..., Layer]) -> Handler:
    def handler(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
        chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
        keep, nothing = a.get("keepdims", 1), a.get("noop_with_empty_axes", 0)
        if not chosen and nothing:
            return x
        gone = {axis_of(i, x) for i in chosen} if chosen else set(range(len(x.shape)))
        y = x
        for axis in gone:
            y = kind(axis, keepdims=True)(y)
        return y if keep else reshaped(y, tuple(d for i, d in enumerate(x.shape) if i not in gone))

    return handler


def reduction_of_frames(handler: Handler) -> Handler:
    """Return the handler of a reduction for a sequence, each frame of which is reduced."""

    def frames(a: Known, n: int, x: Timed, axes: Tensor = None) -> Tensor:
        chosen = a.peek("axes", None) if axes is None else integers(axes, "the axes")
        nowhere = not chosen and a.peek("noop_with_empty_axes", 0)
        gone = {axis_of(i, x) for i in chosen} if chosen else set(range(len(x.shape)))
        if x.axis in gone and not nowhere:
            raise whole_sequence(x)
        axis = x.axis
        if axis is not None and not (nowhere or a.peek("keepdims", 1)):
            axis -= sum(i < axis for i in gone)
        return Timed(handler(a, n, settled(x).value, axes), axis, x.length)

    return frames


def softmax(kind: type[act.Softmax]) -> Handler:
    def handler(a: Known, n: int, x: Value) -> Tensor:
        axis = axis_of(a.get("axis", -1 if a.opset >= 13 else 1), x)
        if a.opset < 13 and math.prod(x.shape[axis + 1 :]) != 1:
            raise Unsupported("over several axes at once (before opset 13) it is not supported")
        return kind(axis)(x)

    return handler


def softened(a: Known, x: Tensor) -> range | list[int]:
    """Return the axes that a softmax mixes: one, or before opset 13 all from one on."""
    axis = axis_of(a.peek("axis", -1 if a.opset >= 13 else 1), x)
    return [axis] if a.opset >= 13 else range(axis, len(x.shape))


for _name, _kind in {"Max": Max, "Mean": Mean, "Min": Min, "Sum": Sum}.items():
    _handler = operator(f"Reduce{_name}")(reduction(_kind))
    over_time(f"Reduce{_name}")(reduction_of_frames(_handler))
operator("Softmax", mixes=softened)(softmax(act.Softmax))
operator("LogSoftmax", mixes=softened)(softmax(act.LogSoftmax))
