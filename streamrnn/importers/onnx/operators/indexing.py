"""Choosing and placing numbers by indices that are known.

What such an operator does is asked of ONNX's reference evaluator once, on the *positions* 1, 2, …
of the numbers; the answer says which number goes where. Position 0 is a zero of the operator's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from ....graph import Value
from ....ops import compare
from ....ops.arithmetic import Scale
from ....ops.concat import concat
from ....ops.cumsum import CumSum
from ....ops.embedding import Embedding
from ....ops.rearrange import Pad, Take, Transpose
from ..known import computed, computed_size
from ..node import (
    Array,
    Handler,
    Known,
    Tensor,
    Timed,
    Unsupported,
    axis_of,
    integers,
    known,
    operator,
    over_time,
    reshaped,
    symbol,
    with_weights,
)
from ..time import settled, whole_sequence
from .elementwise import combined, together

__all__ = ["placed"]

OPSET = 18
"""Operator set in which positions are moved; what is moved where has never changed."""


def placed(values: Sequence[Value], positions: Array, fill: float = 0.0) -> Value:
    """Return a value made of the numbers of others.

    Parameters
    ----------
    values : sequence of Value
        Their numbers, one after another, have the positions 1, 2, …
    positions : int64 [shape=shape of the result]
        Where each number comes from; 0 is the number `fill`.
    """
    if not positions.size:
        raise Unsupported("nothing is left")
    flat = [reshaped(v, (v.size,)) for v in values]
    source = concat(*flat) if len(flat) > 1 else flat[0]
    order = positions.reshape(-1) - 1
    if (order < 0).any():
        order = order + 1
        if fill:
            source = concat(symbol(np.full(1, fill, np.float32), source), source)
        else:
            source = Pad(1, 0)(source)
    return reshaped(Take(tuple(order.tolist()))(source), positions.shape)


def by_positions(kind: str, data: Sequence[int], **defaults: Any) -> Handler:
    """Return the handler of an operator that moves numbers of the inputs `data`."""

    def handler(a: Known, n: int, *args: Tensor) -> Tensor:
        attributes = {name: a.get(name, default) for name, default in defaults.items()}
        like = next(x for x in args if isinstance(x, Value))
        values: list[Value] = []
        feeds: list[Any] = []
        first = 1
        for i, x in enumerate(args):
            if i not in data:
                feeds.append(None if x is None else known(x, f"input {i}"))
                continue
            values.append(symbol(x, like))
            feeds.append(np.arange(first, first + values[-1].size).reshape(values[-1].shape))
            first += values[-1].size
        names = ["" if x is None else f"x{i}" for i, x in enumerate(feeds)]
        given = {k: v for k, v in attributes.items() if v is not None}
        node = helper.make_node(kind, names, ["y"], **given)
        a.reserve(computed_size(node, feeds))
        return placed(values, np.asarray(computed(node, feeds, OPSET)[0]))

    return handler


def tiled(a: Known, x: Tensor, repeats: Tensor) -> list[int]:
    """Tiling mixes the axes that are repeated."""
    return [i for i, r in enumerate(integers(repeats, "the repeats")) if r != 1]


def compressed(a: Known, x: Tensor, condition: Tensor) -> Sequence[int]:
    """Compressing mixes its axis, or all of them."""
    axis = a.peek("axis", None)
    return range(len(x.shape)) if axis is None else [axis_of(axis, x)]


def last_two(a: Known, x: Tensor, *args: Tensor) -> tuple[int, int]:
    return len(x.shape) - 2, len(x.shape) - 1


def scattered(kind: str, **defaults: Any) -> Handler:
    """Return the handler of an operator that puts updates into data."""
    move = by_positions(kind, (0, 2), **defaults)
    place = by_positions(kind, (2,), **defaults)

    def handler(a: Known, n: int, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        reduction = a.get("reduction", "none")
        if reduction == "none":
            return move(a, n, x, indices, updates)
        if reduction != "add":
            raise Unsupported(f"the reduction {reduction!r} is not supported")
        like = next(v for v in (x, updates) if isinstance(v, Value))
        attributes = {name: a.peek(name, default) for name, default in defaults.items()}
        nodes = helper.make_node(kind, ["x", "i", "u"], ["y"], **attributes, reduction="add")
        zeros, ones = np.zeros(x.shape), np.ones(updates.shape)
        (hits,) = computed(nodes, [zeros, known(indices, "the indices"), ones], OPSET)
        if hits.max(initial=0) > 1:
            raise Unsupported("indices repeat, so that several updates are added to one number")
        added = place(a, n, np.zeros(x.shape, np.int64), indices, symbol(updates, like))
        return combined("Add", x, added)

    return handler


@operator("CumSum")
def running_sum(a: Known, n: int, x: Value, axis: Tensor) -> Tensor:
    at = axis_of(integers(axis, "the axis")[0], x)
    return CumSum(at, bool(a.get("exclusive", 0)), bool(a.get("reverse", 0)))(x)


@over_time("CumSum")
def running_sum_of_frames(a: Known, n: int, x: Timed, axis: Tensor) -> Timed:
    x = settled(x)
    if axis_of(integers(axis, "the axis")[0], x) != x.axis:
        return Timed(running_sum(a, n, x.value, axis), x.axis, x.length)
    if a.get("reverse", 0):
        raise whole_sequence(x)
    so_far = a.state("sum", np.zeros(x.value.shape), x.value)
    total = so_far + x.value
    a.keep(so_far, total)
    return Timed(so_far if a.get("exclusive", 0) else total, x.axis, x.length)


@operator("OneHot")
def one_hot(a: Known, n: int, indices: Value, depth: Tensor, values: Tensor) -> Tensor:
    size = int(known(depth, "the depth").item())  # of any type, by the specification
    off, on = known(values, "the values").reshape(-1).astype(np.float64).tolist()
    rank = len(indices.shape) + 1
    axis = a.get("axis", -1) % rank
    a.reserve(size * max(size, indices.size))
    if indices.dtype == "int64":
        table = np.eye(size) * (on - off) + off
        op = Embedding(size, size)
        found = with_weights(op, weight=table)(indices)
        order = [*range(axis), rank - 1, *range(axis, rank - 1)]
        return found if axis == rank - 1 else Transpose(order)(found)
    column = reshaped(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    steps = np.arange(size).reshape(-1, *(1,) * (rank - 1 - axis))
    hit = compare.Equal()(*together(column, steps)) + compare.Equal()(
        *together(column, steps - size)
    )
    return Scale(on - off, off)(hit)


@over_time("OneHot")
def one_hot_of_frames(a: Known, n: int, x: Timed, depth: Tensor, values: Tensor) -> Timed:
    x = settled(x)
    axis = a.peek("axis", -1) % (len(x.shape) + 1)
    at = None if x.axis is None else x.axis + (axis <= x.axis)
    return Timed(one_hot(a, n, x.value, depth, values), at, x.length)


operator("Compress", mixes=compressed, weights=True)(by_positions("Compress", (0,), axis=None))
operator("Tile", mixes=tiled, weights=True)(by_positions("Tile", (0,)))
operator("Trilu", mixes=last_two, weights=True)(by_positions("Trilu", (0,), upper=1))
operator("GatherElements")(by_positions("GatherElements", (0,), axis=0))
operator("GatherND")(by_positions("GatherND", (0,), batch_dims=0))
operator("ReverseSequence")(by_positions("ReverseSequence", (0,), batch_axis=1, time_axis=0))
operator("Scatter", "ScatterElements")(scattered("ScatterElements", axis=0))
operator("ScatterND")(scattered("ScatterND"))
