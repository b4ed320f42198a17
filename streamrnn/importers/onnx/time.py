"""Tensors with a time axis: what an operator means where its frames come one after another.

An operator that mixes no frames is applied to one frame. One that does has a handler of its own
(``over_time``), or cannot be streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph import Value
from ...ops.align import Align
from ...ops.concat import Concat
from ...ops.delay import Delay
from ...ops.op import Op
from .node import OPERATORS, OVER_TIME, Array, Known, Tensor, Timed, Unsupported

__all__ = [
    "aligned",
    "each_frame",
    "frame_of_constant",
    "later",
    "over_frames",
    "settled",
    "so_far",
    "state_of_graph",
    "uniform",
    "whole_sequence",
]


def over_frames(kind: str, a: Known, n: int, args: Sequence[Tensor]) -> Tensor:
    """Return what an operator makes of inputs of which one or more is a ``Timed``."""
    if kind in OVER_TIME:
        return OVER_TIME[kind](a, n, *args)
    return each_frame(kind, a, n, args)


def each_frame(kind: str, a: Known, n: int, args: Sequence[Tensor]) -> Tensor:
    """Return the operator applied to every frame by itself; refuse one that mixes frames."""
    found = OPERATORS.get(kind)
    timed = [settled(x) for x in args if isinstance(x, Timed)]
    if found is None:
        raise Unsupported("this operator is not supported")
    if all(t.axis is None for t in timed):
        given = [x.value if isinstance(x, Timed) else x for x in args]
        return _wrapped(found.handler(a, n, *given), None, timed[0].length)
    if found.mixes is None:
        raise Unsupported("over the frames of a sequence this operator is not supported")
    right = _common_axis(timed)
    length = timed[0].length
    if len({t.length for t in timed}) > 1:
        raise Unsupported(f"sequences of different lengths meet: {[t.shape for t in timed]}")
    first = next(x for x in args if isinstance(x, (Timed, Value)))
    if right + len(first.shape) in set(found.mixes(a, *args)):
        raise whole_sequence(timed[0])
    values = iter(aligned([t.value for t in timed]))
    given = [
        next(values)
        if isinstance(x, Timed)
        else x
        if found.weights
        else frame_of_constant(x, right, length)
        for x in args
    ]
    return _wrapped(found.handler(a, n, *given), right, length)


def _common_axis(timed: Sequence[Timed]) -> int:
    """Return the time axis, counted from the end, that all sequences share."""
    axes = {None if t.axis is None else t.axis - len(t.shape) for t in timed}
    if None in axes:
        raise Unsupported(
            "what follows from the whole sequence is used at every frame of it, before it is known"
        )
    if len(axes) > 1:
        raise Unsupported(f"sequences along different axes meet: {[t.shape for t in timed]}")
    (axis,) = axes
    assert axis is not None
    return axis


def _wrapped(made: Tensor, right: int | None, length: int) -> Any:
    if isinstance(made, tuple):
        return tuple(_wrapped(part, right, length) for part in made)
    if not isinstance(made, Value):
        return made
    return Timed(made, None if right is None else right + len(made.shape), length)


def whole_sequence(x: Timed) -> Unsupported:
    """Return the refusal of an operator that mixes frames."""
    return Unsupported(
        f"it works across the time axis (axis {x.axis} of shape {_shown(x)}): that needs the whole "
        f"sequence, of which a stream has only the past"
    )


def _shown(x: Timed) -> str:
    return f"({', '.join('time' if i == x.axis else str(d) for i, d in enumerate(x.value.shape))})"


def settled(x: Timed) -> Timed:
    """Return a sequence with the zero frames in front of it, if any, made part of it."""
    if not x.front:
        return x
    return Timed(Delay(x.front)(x.value), x.axis, x.length)


def so_far(pool: Op, x: Timed) -> Value:
    """Return what a pooling over all of time is, over the frames so far."""
    if x.front:
        raise Unsupported(
            f"it pools over time a sequence with {x.front} frames of zeros in front of it: a "
            f"stream would hand these on as its first frames and be as many behind"
        )
    return pool(x.value)


def aligned(values: Sequence[Value]) -> list[Value]:
    """Return values of which frame m comes at one time: those that are early wait."""
    clocks = {v.clock for v in values}
    if len({c.stride for c in clocks}) > 1:
        raise Unsupported(f"sequences at different rates meet: {', '.join(map(str, clocks))}")
    latest = max(c.start for c in clocks)
    return [_waiting(v, latest - v.clock.start) for v in values]


def _waiting(value: Value, wait: int) -> Value:
    return Align(0, wait, value.clock.stride)(value) if wait else value


def frame_of_constant(x: Tensor, right: int, length: int) -> Tensor:
    """Return one frame of a tensor without time that meets a sequence on axis `right`."""
    if x is None or isinstance(x, Value):
        if x is not None and len(x.shape) >= -right and x.shape[right] != 1:
            raise Unsupported(f"a sequence meets a value of shape {x.shape}")
        return x
    array = np.asarray(x)
    if array.ndim < -right or array.shape[right] == 1:
        return x
    if array.shape[right] != length:
        raise Unsupported(f"a sequence meets a constant of shape {array.shape}")
    return uniform(array, right)


def uniform(array: Array, axis: int) -> Array:
    """Return the one entry of a constant that is the same at every frame."""
    first = np.take(array, [0], axis)
    if not np.array_equal(np.broadcast_to(first, array.shape), array):
        raise Unsupported(
            "a constant differs from frame to frame (a position encoding or a mask over time); a "
            "stream has no last frame to count to"
        )
    return first


def state_of_graph(x: Value | Timed) -> Value:
    """Return the state that a loop over the frames of a sequence begins with: one of the graph.

    Any other value is there at every frame, where the sequence has it at the first only.
    """
    if isinstance(x, Value) and _is_kept(x):
        return x
    raise Unsupported(
        "its state before the first frame depends on the frames; over a sequence it must be "
        "constant, or an input of the graph that an output feeds (say which with `states`)"
    )


def _is_kept(x: Value) -> bool:
    """Whether a value is a state, or parts of states."""
    op = x.op
    if op is None or op.takes_feedback:
        return op is not None
    moved = isinstance(op, Concat) or (op.moves_only and not isinstance(op, Align))
    return moved and all(map(_is_kept, x.args))


def later(x: Timed, skip: int) -> Value:
    """Return the frames from `skip` on."""
    return Align(skip, 0, x.value.clock.stride)(x.value) if skip else x.value
