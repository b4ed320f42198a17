"""Running sums along one axis of a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Shape
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, kernel
from .op import Array, Arrays, Op
from .rearrange import checked_axis

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["CumSum"]


@kernel
def running_sum(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    outer: Size,
    n: Size,
    inner: Size,
    exclusive: Size,
    reverse: Size,
) -> None:
    """Over the middle axis of (outer, n, inner), in order."""
    first, step = ((n - 1) * inner, -inner) if reverse else (0, inner)
    for t in range(T):
        for o in range(outer):
            for i in range(inner):
                source = at(x, t * x_step + o * n * inner + i + first)
                result = at(y, t * y_step + o * n * inner + i + first)
                total = np.float32(0.0)
                for j in range(n):
                    value = source[j * step]
                    result[j * step] = total if exclusive else total + value
                    total += value


@dataclass(eq=False)
class CumSum(Op):
    """Sums of all entries of an axis up to each one.

    Parameters
    ----------
    axis : int
        Which axis of the frame.
    exclusive : bool
        Whether an entry is left out of its own sum.
    reverse : bool
        Whether the sums begin at the last entry.
    name, seed
        See :class:`Op`.
    """

    axis: int = -1
    exclusive: bool = False
    reverse: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        checked_axis(self, self.axis, shapes[0])
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = np.flip(xs[0], self.axis) if self.reverse else xs[0]
        y = np.cumsum(x, self.axis)
        y = y - x if self.exclusive else y
        return np.flip(y, self.axis) if self.reverse else y

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, shape = tape.output(), xs[0].shape
        axis = checked_axis(self, self.axis, shape)
        tape.emit(
            running_sum,
            x=xs[0],
            y=y,
            outer=math.prod(shape[:axis]),
            n=shape[axis],
            inner=math.prod(shape[axis + 1 :]),
            exclusive=int(self.exclusive),
            reverse=int(self.reverse),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        axis = g.constant(np.int64(checked_axis(self, self.axis, g.shape()) + 2))
        return g.op("CumSum", xs[0], axis, exclusive=int(self.exclusive), reverse=int(self.reverse))
