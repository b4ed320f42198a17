"""Ops that only move numbers inside a frame: reshape, slice, transpose, broadcast, pad.

Each says what it does once, as a NumPy function. Applied to the frame it is the reference; applied
to the *positions* 0, 1, 2, … it tells which number ends up where, and from that the kernel's table
of runs is made. Where the numbers stay in order (every reshape, a slice of the leading axis) there
is no kernel at all: the output is a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import MAX_FRAME, Shape, as_shape
from ..kernels.simd import as_ints, at
from ..kernels.tape import Frames, Scratch, Size, Weights, copy, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Expand", "Flatten", "Pad", "Reshape", "Slice", "Take", "Transpose", "rearranged"]

ZERO = -1
"""The position of a number that is not in the frame: a zero of the padding."""
BREAK = 1 << 62
"""A step that no run can have."""


@kernel
def rearrange(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    table: Weights,
    runs: Size,
) -> None:
    """Fill y from runs (first position, step, length); a negative first position means zeros."""
    run = as_ints(table)
    for t in range(T):
        source, to = at(x, t * x_step), at(y, t * y_step)
        for r in range(runs):
            first, step, length = run[3 * r], run[3 * r + 1], run[3 * r + 2]
            if first < 0:
                for i in range(length):
                    to[i] = 0.0
            elif step == 1:
                copy(length, at(source, first), to)
            else:
                for i in range(length):
                    to[i] = source[first + i * step]
            to = at(to, length)


def _runs(positions: Array) -> Array:
    """Return positions as rows (first, step, length), as few as a single pass finds."""
    flat = positions.reshape(-1).astype(np.int64)
    steps = np.diff(flat)
    zeros = flat == ZERO
    steps[zeros[1:] != zeros[:-1]] = BREAK
    ends = (np.flatnonzero(np.diff(steps)) + 1).tolist()  # where a step differs from the one before
    rows, i, k = [], 0, 0
    while i < flat.size:
        while k < len(ends) and ends[k] <= i:
            k += 1
        last = ends[k] if k < len(ends) else flat.size - 1  # the steps from i to there are equal
        step = int(steps[i]) if i < flat.size - 1 else BREAK
        length = 1 if step == BREAK else last - i + 1
        rows.append((int(flat[i]), 1 if step == BREAK else step, length))
        i += length
    return np.array(rows, np.int32)


def rearranged(tape: Lowering, x: Location, positions: Array) -> Location:
    """Return the op's output: number i of it is number ``positions[i]`` of x."""
    runs = _runs(positions)
    if len(runs) == 1 and runs[0, 0] >= 0 and (runs[0, 1] == 1 or runs[0, 2] == 1):
        return x.view(positions.shape, int(runs[0, 0]))
    y = tape.output()
    table = tape.weight(runs.reshape(-1).view(np.float32))
    tape.emit(rearrange, x=x, y=y, table=table, runs=len(runs))
    return y


@dataclass(eq=False)
class _Rearrange(Op):
    moves_only = True

    def moved(self, frame: Array) -> Array:
        """Return the frame with its numbers moved; raise GraphError if its shape does not fit."""
        raise NotImplementedError

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        return self.shape_of(shapes[0])

    def shape_of(self, shape: Shape) -> Shape:
        """Return the shape that `moved` gives a frame of this one."""
        return self.moved(np.broadcast_to(np.int64(0), shape)).shape

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return self.moved(xs[0])

    def begins_at(self, shape: Shape) -> int | None:
        """Return where the output begins in a frame in which its numbers lie in order, else None.

        None is always right: it is then found out number by number.
        """
        return None

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        first = self.begins_at(xs[0].shape)
        if first is not None:
            return xs[0].view(self.output_shape(xs[0].shape), first)
        return rearranged(tape, xs[0], self.moved(_positions(xs[0].shape) + 1) - 1)


def _positions(shape: Shape) -> Array:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _checked_size(who: str, shape: Shape) -> Shape:
    if math.prod(shape) > MAX_FRAME:
        raise ConfigError(f"{who}: a frame of shape {shape} holds more than {MAX_FRAME} numbers")
    return shape


@dataclass(eq=False)
class Reshape(_Rearrange):
    """The same numbers, in order, as a frame of another shape.

    Parameters
    ----------
    shape : int or tuple of int
        The new shape; it holds as many numbers.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is below 1.
    """

    shape: int | Sequence[int]

    def check(self) -> None:
        _checked_size("Reshape", as_shape(self.shape, "Reshape"))

    def moved(self, frame: Array) -> Array:
        return frame.reshape(self.shape_of(frame.shape))

    def shape_of(self, shape: Shape) -> Shape:
        new = as_shape(self.shape, "Reshape")
        if math.prod(new) != math.prod(shape):
            raise GraphError(f"{self!r} cannot take a frame of shape {shape}")
        return new

    def begins_at(self, shape: Shape) -> int:
        return 0

    def onnx(self, g: Recorder, *xs: str) -> str:
        shape = as_shape(self.shape, "Reshape")
        return g.op("Reshape", xs[0], g.ints(0, -1, *shape))


@dataclass(eq=False)
class Flatten(_Rearrange):
    """All numbers of the frame, in order, as a vector."""

    def moved(self, frame: Array) -> Array:
        return frame.reshape(-1)

    def begins_at(self, shape: Shape) -> int:
        return 0

    def onnx(self, g: Recorder, *xs: str) -> str:
        size = math.prod(g.shape())
        return g.op("Reshape", xs[0], g.ints(0, -1, size))


@dataclass(eq=False)
class Slice(_Rearrange):
    """Part of one axis of the frame: ``x[start:stop]`` for axis 0.

    Parameters
    ----------
    start, stop : int
        As in Python; negative ones count from the end.
    axis : int
        Which axis of the frame.
    name, seed
        See :class:`Op`.
    """

    start: int
    stop: int
    axis: int = 0

    def moved(self, frame: Array) -> Array:
        axis = checked_axis(self, self.axis, frame.shape)
        return frame[(slice(None),) * axis + (slice(self.start, self.stop),)]

    def shape_of(self, shape: Shape) -> Shape:
        axis = checked_axis(self, self.axis, shape)
        length = len(range(shape[axis])[self.start : self.stop])
        if not length:
            raise GraphError(f"{self!r} leaves nothing of a frame of shape {shape}")
        return (*shape[:axis], length, *shape[axis + 1 :])

    def begins_at(self, shape: Shape) -> int | None:
        axis = checked_axis(self, self.axis, shape)
        if math.prod(shape[:axis]) != 1:
            return None
        start, _, _ = slice(self.start, self.stop).indices(shape[axis])
        return start * math.prod(shape[axis + 1 :])

    def onnx(self, g: Recorder, *xs: str) -> str:
        axis = checked_axis(self, self.axis, g.shape()) + 2
        bounds = [g.ints(n) for n in (self.start, self.stop, axis)]
        return g.op("Slice", xs[0], *bounds)


@dataclass(eq=False)
class Take(_Rearrange):
    """Entries of one axis of the frame by their position: ``x[[3, 0, 0]]`` for axis 0.

    Parameters
    ----------
    indices : tuple of int
        Which entries, in which order; negative ones count from the end.
    axis : int
        Which axis of the frame.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If there are no indices.
    """

    indices: Sequence[int]
    axis: int = 0

    def check(self) -> None:
        if not self.indices:
            raise ConfigError("Take: `indices` must name at least one entry")

    def moved(self, frame: Array) -> Array:
        axis = checked_axis(self, self.axis, frame.shape)
        length = frame.shape[axis]
        for index in self.indices:
            if not -length <= index < length:
                raise GraphError(f"{self!r}: an axis of {length} entries has no entry {index}")
        return np.take(frame, self.indices, axis)

    def onnx(self, g: Recorder, *xs: str) -> str:
        axis = checked_axis(self, self.axis, g.shape()) + 2
        return g.op("Gather", xs[0], g.ints(*self.indices), axis=axis)


@dataclass(eq=False)
class Transpose(_Rearrange):
    """The axes of the frame in another order.

    Parameters
    ----------
    axes : tuple of int
        Axis i of the output is axis ``axes[i]`` of the frame.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `axes` is not an arrangement of 0, 1, …
    """

    axes: Sequence[int] = (1, 0)

    def check(self) -> None:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ConfigError(f"Transpose: `axes` must be an order of 0, 1, …, got {self.axes!r}")

    def moved(self, frame: Array) -> Array:
        if frame.ndim != len(self.axes):
            raise GraphError(f"{self!r} cannot take a frame of shape {frame.shape}")
        return np.transpose(frame, tuple(self.axes))

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Transpose", xs[0], perm=[0, 1, *(a + 2 for a in self.axes)])


@dataclass(eq=False)
class Expand(_Rearrange):
    """The frame broadcast to a larger shape, as NumPy does it.

    Parameters
    ----------
    shape : int or tuple of int
        The shape to broadcast to.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is below 1.
    """

    shape: int | Sequence[int]

    def check(self) -> None:
        _checked_size("Expand", as_shape(self.shape, "Expand"))

    def moved(self, frame: Array) -> Array:
        try:
            return np.broadcast_to(frame, as_shape(self.shape, "Expand"))
        except ValueError:
            raise GraphError(f"{self!r} cannot take a frame of shape {frame.shape}") from None

    def onnx(self, g: Recorder, *xs: str) -> str:
        shape = as_shape(self.shape, "Expand")
        lined_up = [0, -1, *(1,) * (len(shape) - len(g.shape())), *g.shape()]
        x = g.op("Reshape", xs[0], g.ints(*lined_up))
        return g.op("Expand", x, g.ints(1, 1, *shape))


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@dataclass(eq=False)
class Pad(_Rearrange):
    """The last axis of the frame made longer.

    Parameters
    ----------
    before, after : int
        Numbers to add on each side.
    mode : str
        ``"constant"`` (zeros), ``"reflect"`` (mirrored without the edge) or ``"replicate"`` (the
        edge repeated), as in torch.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a number is negative or the mode is another.
    """

    before: int
    after: int
    mode: str = "constant"

    def check(self) -> None:
        self.at_least(before=0, after=0)
        if self.mode not in _MODES:
            raise ConfigError(f"Pad: `mode` must be one of {', '.join(_MODES)}, got {self.mode!r}")

    def moved(self, frame: Array) -> Array:
        length = frame.shape[-1] if frame.ndim else 0
        if not frame.ndim or (self.mode == "reflect" and max(self.before, self.after) >= length):
            raise GraphError(f"{self!r} cannot take a frame of shape {frame.shape}")
        _checked_size("Pad", (*frame.shape[:-1], length + self.before + self.after))
        width = [(0, 0)] * (frame.ndim - 1) + [(self.before, self.after)]
        options: Any = {"mode": _MODES[self.mode]}
        return np.pad(frame, width, **options)

    def onnx(self, g: Recorder, *xs: str) -> str:
        rank = len(g.shape()) + 2
        pads = [0] * (rank - 1) + [self.before] + [0] * (rank - 1) + [self.after]
        return g.op("Pad", xs[0], g.ints(*pads), mode=_MODES[self.mode])


def checked_axis(op: Op, axis: int, shape: Shape) -> int:
    """Return `axis` counted from the front; raise GraphError if the frame has no such axis."""
    if not -len(shape) <= axis < len(shape):
        raise GraphError(f"{op!r}: a frame of shape {shape} has no axis {axis}")
    return axis % len(shape)
