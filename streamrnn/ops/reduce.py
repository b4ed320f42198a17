"""Reductions over one axis of a frame: mean, sum, product, largest, smallest, and which it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..graph import Shape
from ..kernels.simd import at
from ..kernels.tape import Frames, Kernel, Number, Scratch, Size, kernel
from .op import Array, Arrays, Op
from .rearrange import checked_axis

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["ArgMax", "ArgMin", "Max", "Mean", "Min", "Prod", "Sum"]


@kernel
def reduce_sum(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    outer: Size,
    n: Size,
    inner: Size,
    factor: Number,
) -> None:
    """``factor`` times the sum over the middle axis of (outer, n, inner), in order."""
    for t in range(T):
        for o in range(outer):
            for i in range(inner):
                source = at(x, t * x_step + o * n * inner + i)
                total = source[0]
                for j in range(1, n):
                    total += source[j * inner]
                y[t * y_step + o * inner + i] = total * factor


@kernel
def reduce_extreme(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    outer: Size,
    n: Size,
    inner: Size,
    factor: Number,
) -> None:
    """The largest (factor 1) or smallest (-1) over the middle axis; a NaN wins."""
    for t in range(T):
        for o in range(outer):
            for i in range(inner):
                source = at(x, t * x_step + o * n * inner + i)
                best = source[0]
                for j in range(1, n):
                    value = source[j * inner]
                    if best == best and (value != value or (value > best) == (factor > 0)):
                        best = value
                y[t * y_step + o * inner + i] = best


@kernel
def reduce_product(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    outer: Size,
    n: Size,
    inner: Size,
    factor: Number,
) -> None:
    """``factor`` times the product over the middle axis of (outer, n, inner), in order."""
    for t in range(T):
        for o in range(outer):
            for i in range(inner):
                source = at(x, t * x_step + o * n * inner + i)
                total = source[0]
                for j in range(1, n):
                    total *= source[j * inner]
                y[t * y_step + o * inner + i] = total * factor


@kernel
def reduce_position(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    outer: Size,
    n: Size,
    inner: Size,
    factor: Number,
    last: Size,
) -> None:
    """Where the largest (factor 1) or smallest (-1) over the middle axis is; NaN is beyond all."""
    for t in range(T):
        for o in range(outer):
            for i in range(inner):
                source = at(x, t * x_step + o * n * inner + i)
                best, where = source[0] * factor, 0
                for j in range(1, n):
                    value = source[j * inner] * factor
                    same = value == best or (value != value and best != best)
                    beyond = value > best or (value != value and best == best)
                    if beyond or (last and same):
                        best, where = value, j
                y[t * y_step + o * inner + i] = np.float32(where)


@dataclass(eq=False)
class _Reduce(Op):
    """One axis less (or of size 1).

    Parameters
    ----------
    axis : int
        Which axis of the frame.
    keepdims : bool
        Whether it stays, with size 1.
    name, seed
        See :class:`Op`.
    """

    axis: int = -1
    keepdims: bool = False

    kernel: ClassVar[Kernel]
    function: ClassVar[Callable[..., Any]]

    def factor(self, n: int) -> float:
        """Return the kernel's factor for an axis of n numbers."""
        return 1.0

    def numbers(self) -> dict[str, int]:
        """Return more operands of the kernel."""
        return {}

    def output_shape(self, *shapes: Shape) -> Shape:
        axis = checked_axis(self, self.axis, shapes[0])
        middle = (1,) if self.keepdims else ()
        return (*shapes[0][:axis], *middle, *shapes[0][axis + 1 :])

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.asarray(type(self).function(xs[0], axis=self.axis, keepdims=self.keepdims))

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        shape = xs[0].shape
        axis = checked_axis(self, self.axis, shape)
        y = tape.output()
        tape.emit(
            self.kernel,
            x=xs[0],
            y=y,
            outer=math.prod(shape[:axis]),
            n=shape[axis],
            inner=math.prod(shape[axis + 1 :]),
            factor=self.factor(shape[axis]),
            **self.numbers(),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        axis = checked_axis(self, self.axis, g.shape()) + 2
        kind, keep = f"Reduce{type(self).__name__}", int(self.keepdims)
        if kind == "ReduceSum" or g.opset >= 18:  # the axes have become an input
            return g.op(kind, xs[0], g.ints(axis), keepdims=keep)
        return g.op(kind, xs[0], axes=[axis], keepdims=keep)


class Mean(_Reduce):
    """Mean over one axis of the frame, which disappears unless `keepdims`."""

    kernel, function = reduce_sum, np.mean

    def factor(self, n: int) -> float:
        return 1 / n


class Sum(_Reduce):
    """Sum over one axis of the frame, which disappears unless `keepdims`."""

    kernel, function = reduce_sum, np.sum


class Max(_Reduce):
    """Largest number over one axis of the frame, which disappears unless `keepdims`."""

    kernel, function = reduce_extreme, np.max


class Min(_Reduce):
    """Smallest number over one axis of the frame, which disappears unless `keepdims`."""

    kernel, function = reduce_extreme, np.min

    def factor(self, n: int) -> float:
        return -1.0


class Prod(_Reduce):
    """Product over one axis of the frame, which disappears unless `keepdims`."""

    kernel, function = reduce_product, np.prod


@dataclass(eq=False)
class _Position(_Reduce):
    """Where something is on one axis of the frame: the first such place, or the last one.

    Parameters
    ----------
    axis : int
        Which axis of the frame.
    keepdims : bool
        Whether it stays, with size 1.
    select_last_index : bool
        Which of several alike.
    name, seed
        See :class:`Op`.
    """

    select_last_index: bool = False

    kernel: ClassVar[Kernel] = reduce_position

    def numbers(self) -> dict[str, int]:
        return {"last": int(self.select_last_index)}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = np.flip(xs[0], self.axis) if self.select_last_index else xs[0]
        where = type(self).function(x, axis=self.axis, keepdims=self.keepdims)
        last = xs[0].shape[self.axis] - 1
        return np.asarray(last - where if self.select_last_index else where, float)

    def onnx(self, g: Recorder, *xs: str) -> str:
        options = {
            "axis": checked_axis(self, self.axis, g.shape()) + 2,
            "keepdims": int(self.keepdims),
            "select_last_index": int(self.select_last_index),
        }
        return g.op("Cast", g.op(type(self).__name__, xs[0], **options), to=1)


class ArgMax(_Position):
    """Position, a float32 number, of the largest number on one axis of the frame."""

    function = np.argmax


class ArgMin(_Position):
    """Position, a float32 number, of the smallest number on one axis of the frame."""

    function = np.argmin

    def factor(self, n: int) -> float:
        return -1.0
