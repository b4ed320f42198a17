"""Moving numbers: shapes, slices, joins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ....graph import Value
from ....ops.concat import concat
from ....ops.delay import Delay
from ....ops.embedding import Embedding
from ....ops.rearrange import Expand, Pad, Slice, Take, Transpose
from ..node import (
    Array,
    Iteration,
    Known,
    Mixes,
    Tensor,
    Timed,
    Unsupported,
    axis_of,
    counted,
    integers,
    known,
    operator,
    over_time,
    reshaped,
    symbol,
    with_weights,
)
from ..time import aligned, each_frame, later, settled, whole_sequence
from .indexing import placed


def along(default: int) -> Mixes:
    """For operators that work along the axis in their attribute ``axis``."""

    def mixes(a: Known, *args: Tensor) -> Iterable[int]:
        return [axis_of(a.peek("axis", default), next(x for x in args if x is not None))]

    return mixes


@operator("Reshape")
def reshape(a: Known, n: int, x: Value, shape: Tensor) -> Tensor:
    dims = integers(shape, "the shape")
    if not a.get("allowzero", 0):
        dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    if dims.count(-1) == 1:
        dims[dims.index(-1)] = x.size // max(-math.prod(dims), 1)
    return reshaped(x, tuple(dims))


@operator("Flatten")
def flatten(a: Known, n: int, x: Value) -> Tensor:
    axis = a.get("axis", 1)
    axis = axis if axis == len(x.shape) else axis_of(axis, x)
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze")
def squeeze(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
    chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
    if chosen is None:
        chosen = [i for i, d in enumerate(x.shape) if d == 1]
    gone = {axis_of(i, x) for i in chosen}
    if any(x.shape[i] != 1 for i in gone):
        raise Unsupported(f"shape {x.shape} cannot be squeezed on axes {sorted(gone)}")
    return reshaped(x, tuple(d for i, d in enumerate(x.shape) if i not in gone))


@operator("Unsqueeze")
def unsqueeze(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
    chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
    rank = len(x.shape) + len(chosen)
    new = {i % rank for i in chosen if -rank <= i < rank}
    if len(new) < len(chosen):
        raise Unsupported(f"shape {x.shape} cannot be unsqueezed on axes {chosen}")
    rest = iter(x.shape)
    return reshaped(x, tuple(1 if i in new else next(rest) for i in range(rank)))


@operator("Transpose")
def transpose(a: Known, n: int, x: Value) -> Tensor:
    return Transpose(tuple(a.get("perm", range(len(x.shape))[::-1])))(x)


@operator("Slice")
def sliced(
    a: Known,
    n: int,
    x: Value,
    starts: Tensor = None,
    ends: Tensor = None,
    axes: Tensor = None,
    steps: Tensor = None,
) -> Tensor:
    first = a.get("starts", None) if starts is None else integers(starts, "the starts")
    last = a.get("ends", None) if ends is None else integers(ends, "the ends")
    along = a.get("axes", None) if axes is None else integers(axes, "the axes")
    along = range(len(first)) if along is None else along
    by = [1] * len(first) if steps is None else integers(steps, "the steps")
    for begin, end, axis, step in zip(first, last, along, by, strict=True):
        positions = range(x.shape[axis_of(axis, x)])[begin:end:step]
        if not positions:
            raise Unsupported(f"nothing of shape {x.shape} is left")
        if step == 1:
            x = Slice(positions[0], positions[-1] + 1, axis)(x)
        else:
            x = Take(tuple(positions), axis)(x)
    return x


@operator("Split", mixes=along(0), weights=True)
def split(a: Known, n: int, x: Value, sizes: Tensor = None) -> Tensor:
    axis = axis_of(a.get("axis", 0), x)
    parts = a.get("split", None) if sizes is None else integers(sizes, "the sizes")
    even = x.shape[axis] % n == 0 or a.opset >= 18
    if parts is None and even and a.get("num_outputs", n) == n:
        each = -(-x.shape[axis] // n)
        parts = [min(each, x.shape[axis] - i * each) for i in range(n)]
    edges = np.cumsum([0, *(parts or ())]).tolist()
    if parts is None or len(parts) != n or edges[-1] != x.shape[axis]:
        raise Unsupported(f"an axis of {x.shape[axis]} cannot be split into {parts or n}")
    none = np.zeros((*x.shape[:axis], 0, *x.shape[axis + 1 :]), np.float32)
    return tuple(Slice(b, e, axis)(x) if e > b else none for b, e in itertools.pairwise(edges))


@operator("Gather")
def gather(a: Known, n: int, x: Tensor, indices: Tensor) -> Tensor:
    axis = axis_of(a.get("axis", 0), x)
    if isinstance(indices, Value) and not isinstance(x, Value):
        return looked_up(np.asarray(x), indices, axis)
    where = known(indices, "the indices")
    taken = Take(tuple(integers(where, "the indices")), axis)(x)
    return reshaped(taken, (*x.shape[:axis], *where.shape, *x.shape[axis + 1 :]))


def looked_up(table: Array, indices: Value, axis: int = 0) -> Value:
    """Return the entries of a table's axis by indices that go in."""
    if indices.dtype != "int64":
        raise Unsupported(
            "only indices that go into the model can be looked up, not those that it computes"
        )
    rows = np.moveaxis(np.asarray(table, np.float32), axis, 0)
    rest = rows.shape[1:]
    op = Embedding(len(rows), math.prod(rest))
    found = with_weights(op, weight=rows.reshape(len(rows), -1))(indices)
    return axis_moved(reshaped(found, (*indices.shape, *rest)), len(indices.shape), axis)


def axis_moved(x: Value, count: int, to: int) -> Value:
    """Return a value with its first `count` axes moved behind the `to` axes after them."""
    first, rest = range(count), range(count, len(x.shape))
    order = (*rest[:to], *first, *rest[to:])
    return x if order == tuple(range(len(x.shape))) else Transpose(order)(x)


@operator("Concat", mixes=along(0))
def joined(a: Known, n: int, *xs: Tensor) -> Tensor:
    like = next(x for x in xs if isinstance(x, Value))
    axis = axis_of(a.get("axis", 0), like)
    return concat(*(symbol(x, like) for x in xs if np.shape(x)[axis:][:1] != (0,)), axis=axis)


@operator("Expand")
def expand(a: Known, n: int, x: Value, shape: Tensor) -> Tensor:
    return Expand(np.broadcast_shapes(x.shape, tuple(integers(shape, "the shape"))))(x)


@operator("Pad")
def pad(
    a: Known, n: int, x: Value, pads: Tensor = None, value: Tensor = None, axes: Tensor = None
) -> Tensor:
    mode, rank = a.get("mode", "constant"), len(x.shape)
    given = a.get("pads", None) if pads is None else integers(pads, "the pads")
    fill = a.get("value", 0.0) if value is None else known(value, "the value").item()
    along = range(rank) if axes is None else [axis_of(i, x) for i in integers(axes, "axes")]
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Unsupported(f"the mode {mode!r} is not supported")
    if not rank or len(given) != 2 * len(along) or len(set(along)) < len(along):
        raise Unsupported(f"pads {given} do not fit the axes {list(along)} of shape {x.shape}")
    amounts = np.zeros((rank, 2), np.int64)
    amounts[along] = np.reshape(given, (2, -1)).T
    fill = fill if mode == "constant" else 0.0
    if not amounts[:-1].any() and amounts.min() >= 0 and not fill and mode != "wrap":
        before, after = amounts[-1].tolist()
        return Pad(before, after, "replicate" if mode == "edge" else mode)(x) if given else x
    kept = tuple(
        slice(max(-b, 0), d + min(e, 0)) for d, (b, e) in zip(x.shape, amounts, strict=True)
    )
    positions = np.arange(1, x.size + 1).reshape(x.shape)[kept]
    more = np.maximum(amounts, 0)
    limit = np.array(positions.shape) - (mode == "reflect")
    if not positions.size or (mode != "constant" and mode != "edge" and (limit < more.T).any()):
        raise Unsupported(f"pads {given} in the mode {mode!r} do not fit the shape {x.shape}")
    a.reserve(math.prod((more.sum(1) + positions.shape).tolist()))
    options: Any = {"mode": mode}
    return placed([x], np.pad(positions, more, **options), float(fill))


# Across time ------------------------------------------------------------------------------------


def _moved(x: Timed, value: Value, axis: int | None) -> Timed:
    """Return the frames of x as `value`, with time on another axis."""
    return Timed(value, axis, x.length, x.front)


def _constant_of_time(x: Timed, dims: list[int]) -> int:
    """Return where in a shape the time axis is; raise Unsupported if it is folded away."""
    found = [i for i, d in enumerate(dims) if d == x.length]
    if len(found) != 1:
        raise Unsupported(
            f"a sequence of shape {x.shape} becomes {dims}: its frames are folded together with "
            f"another axis, or their number is fixed (time has the length {x.length} here)"
        )
    return found[0]


@over_time("Reshape")
def reshape_frames(a: Known, n: int, x: Timed, shape: Tensor) -> Timed:
    if x.axis is None:
        return Timed(reshape(a, n, x.value, shape), None, x.length)
    dims = integers(shape, "the shape")
    if not a.get("allowzero", 0):
        dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    if dims.count(-1) == 1:
        dims[dims.index(-1)] = x.size // max(-math.prod(dims), 1)
    axis = _constant_of_time(x, dims)
    before, wanted = math.prod(x.shape[: x.axis]), math.prod(dims[:axis])
    if math.prod(dims) != x.size or before != wanted:
        raise Unsupported(f"a sequence of shape {x.shape} cannot become {dims} frame by frame")
    return _moved(x, reshaped(x.value, (*dims[:axis], 1, *dims[axis + 1 :])), axis)


@over_time("Flatten")
def flatten_frames(a: Known, n: int, x: Timed) -> Timed:
    axis = a.get("axis", 1)
    axis = axis if axis == len(x.shape) else axis_of(axis, x)
    dims = np.array([math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])
    made: Timed = reshape_frames(a, n, x, dims)
    return made


@over_time("Squeeze")
def squeeze_frames(a: Known, n: int, x: Timed, axes: Tensor = None) -> Timed:
    chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
    if chosen is None:
        chosen = [i for i, d in enumerate(x.shape) if d == 1]
    gone = {axis_of(i, x) for i in chosen}
    if x.axis in gone:
        raise whole_sequence(x)
    y = squeeze(a, n, x.value, np.array(sorted(gone), np.int64))
    return _moved(x, y, None if x.axis is None else x.axis - sum(i < x.axis for i in gone))


@over_time("Unsqueeze")
def unsqueeze_frames(a: Known, n: int, x: Timed, axes: Tensor = None) -> Timed:
    chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
    y = unsqueeze(a, n, x.value, np.array(chosen, np.int64))
    if x.axis is None:
        return _moved(x, y, None)
    new = {i % len(y.shape) for i in chosen}
    kept = [i for i in range(len(y.shape)) if i not in new]
    return _moved(x, y, kept[x.axis])


@over_time("Transpose")
def transpose_frames(a: Known, n: int, x: Timed) -> Timed:
    perm = list(a.get("perm", range(len(x.shape))[::-1]))
    y = Transpose(tuple(perm))(x.value)
    return _moved(x, y, None if x.axis is None else perm.index(x.axis))


@over_time("Expand")
def expand_frames(a: Known, n: int, x: Timed, shape: Tensor) -> Timed:
    if x.axis is None:
        return _moved(x, expand(a, n, x.value, shape), None)
    dims = list(np.broadcast_shapes(x.shape, tuple(integers(shape, "the shape"))))
    axis = x.axis + len(dims) - len(x.shape)
    if dims[axis] != x.length:
        raise Unsupported(f"a sequence of shape {x.shape} cannot become {dims}")
    dims[axis] = 1
    return _moved(x, Expand(tuple(dims))(x.value), axis)


@over_time("Slice")
def slice_frames(a: Known, n: int, x: Timed, *bounds: Tensor) -> Tensor:
    names = ("starts", "ends", "axes", "steps")
    given = dict(zip(names, bounds, strict=False))
    if isinstance(given.get("starts"), Iteration):
        return _present_slice(x, given)
    lists = {
        name: a.get(name, None) if given.get(name) is None else integers(given[name], f"the {name}")
        for name in names
    }
    count = len(lists["starts"])
    along = lists["axes"] or list(range(count))
    steps = lists["steps"] or [1] * count
    for begin, end, axis, step in zip(lists["starts"], lists["ends"], along, steps, strict=True):
        if x.axis is not None and axis_of(axis, x) == x.axis:
            x = _some_frames(x, begin, end, step)
        else:
            one = [np.array([i]) for i in (begin, end, axis, step)]
            x = _moved(x, sliced(Known({}, a.opset), 1, x.value, *one), x.axis)
    return x


def _present_slice(x: Timed, given: dict[str, Tensor]) -> Value:
    """Return the slice of a sequence that is the frame of an iteration."""
    first, last = given["starts"], given.get("ends")
    axes, steps = (given.get(name) for name in ("axes", "steps"))
    axis = 0 if axes is None else integers(axes, "the axes")[0]
    one = steps is None or integers(steps, "the steps") == [1]
    if not one or not isinstance(last, Iteration) or (last.offset - first.offset != 1).any():
        raise counted()
    return _present(x, axis, first)


def _some_frames(x: Timed, begin: int, end: int, step: int) -> Timed:
    """Return the frames from one on; what is cut off at the end never comes in a stream."""
    chosen = range(x.length)[begin:end:step]
    if step != 1 or len(chosen) < x.length // 2:
        raise Unsupported(
            f"frames {begin} to {end} in steps of {step} of a sequence are no stream (time has the "
            f"length {x.length} here)"
        )
    front = min(x.front, chosen.start)
    left = Timed(x.value, x.axis, x.length - front, x.front - front)
    skip = chosen.start - front
    value = later(settled(left), skip) if skip else x.value
    return Timed(value, x.axis, len(chosen), 0 if skip else left.front)


@over_time("Gather")
def gather_frames(a: Known, n: int, x: Tensor, indices: Tensor) -> Tensor:
    if isinstance(indices, Timed):
        if isinstance(x, (Timed, Value)):
            raise Unsupported("a value of the stream is looked up in another")
        indices, axis = settled(indices), axis_of(a.get("axis", 0), np.asarray(x))
        y = looked_up(np.asarray(x), indices.value, axis)
        return _moved(indices, y, None if indices.axis is None else indices.axis + axis)
    axis = axis_of(a.peek("axis", 0), x)
    if isinstance(indices, Iteration):
        frame = _present(x, a.get("axis", 0), indices)
        return reshaped(frame, (*x.shape[:axis], *indices.offset.shape, *x.shape[axis + 1 :]))
    where = known(indices, "the indices")
    if axis == x.axis:
        a.get("axis", 0)
        return _last_frame(x, where)
    y = gather(a, n, settled(x).value, where)
    moved = x.axis
    if moved is not None and moved > axis:
        moved += where.ndim - 1
    return Timed(y, moved, x.length)


def _present(x: Timed, axis: int, number: Iteration) -> Value:
    """Return the frame of a sequence whose number is that of the iteration, of size 1 in time."""
    if axis_of(axis, x) != x.axis or number.offset.size != 1 or number.offset.any():
        raise counted()
    return aligned([settled(x).value, number.like])[0]


def _last_frame(x: Timed, where: Array) -> Timed:
    if where.size != 1 or int(where.reshape(-1)[0]) not in (-1, x.length - 1):
        raise Unsupported(
            f"frames {where.reshape(-1).tolist()} of a sequence are chosen: of single frames only "
            f"the last is known in a stream, as the one that came last"
        )
    assert x.axis is not None
    shape = (*x.value.shape[: x.axis], *where.shape, *x.value.shape[x.axis + 1 :])
    return Timed(reshaped(settled(x).value, shape), None, x.length)


@over_time("Concat")
def join_frames(a: Known, n: int, *xs: Tensor) -> Tensor:
    timed = [x for x in xs if isinstance(x, Timed)]
    axis = axis_of(a.peek("axis", 0), timed[0])
    if any(x.axis != axis for x in timed):
        return each_frame("Concat", a, n, xs)
    a.get("axis", 0)
    *before, last = xs
    if len(timed) > 1 or not isinstance(last, Timed):
        raise Unsupported("sequences are joined end to end: a stream has no end")
    for constant in reversed(before):
        frames = np.moveaxis(known(constant, "what comes before a sequence"), axis, 0)
        last = _in_front(last, frames.reshape(len(frames), *last.value.shape))
    return last


@over_time("Pad")
def pad_frames(
    a: Known, n: int, x: Timed, pads: Tensor = None, value: Tensor = None, axes: Tensor = None
) -> Timed:
    rank, mode = len(x.shape), a.get("mode", "constant")
    fill = a.get("value", 0.0) if value is None else float(known(value, "the value").item())
    given = a.get("pads", None) if pads is None else integers(pads, "the pads")
    along = list(range(rank)) if axes is None else [axis_of(i, x) for i in integers(axes, "axes")]
    if len(given) != 2 * len(along):
        raise Unsupported(f"pads {given} do not fit the axes {along}")
    amounts = np.zeros((2, rank), np.int64)
    amounts[:, along] = np.reshape(given, (2, -1))
    before = after = 0
    if x.axis is not None:
        before, after = amounts[:, x.axis].tolist()
        amounts[:, x.axis] = 0
    if amounts.any():  # of each frame; zeros in front stay zeros
        x = settled(x) if fill else x
        inner = Known({"mode": mode}, a.opset)
        y = pad(inner, n, x.value, amounts.reshape(-1), np.float32(fill))
        x = _moved(x, y, x.axis)
    if before < 0 or (before and mode != "constant"):
        raise Unsupported(
            f"{before} frames before the first in the mode {mode!r}: only constant ones can be put "
            f"in front of a stream"
        )
    if before:
        x = _in_front(x, np.full((before, *x.value.shape), fill, np.float32))
    return Timed(x.value, x.axis, x.length + after, x.front)


def _in_front(x: Timed, frames: Array) -> Timed:
    """Return a sequence with known frames (n, *shape of a frame) before its first."""
    if not frames.any():
        return Timed(x.value, x.axis, x.length + len(frames), x.front + len(frames))
    x, op = settled(x), Delay(len(frames))
    op.initial_state = {"past": frames}
    return Timed(op(x.value), x.axis, x.length + len(frames))
