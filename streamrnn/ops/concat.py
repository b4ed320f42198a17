"""Several values side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape, Value
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, copy, kernel
from .op import Array, Arrays, Op
from .rearrange import checked_axis, rearranged

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Concat", "concat", "gather"]


@kernel
def place(
    T: Frames, x: Scratch, x_step: Size, y: Scratch, y_step: Size, first: Size, n: Size
) -> None:
    """``y[first:first + n] = x`` in every frame."""
    for t in range(T):
        copy(n, at(x, t * x_step), at(y, t * y_step + first))


def gather(tape: Lowering, parts: Sequence[Location], y: Location) -> None:
    """Write the rows that put flat values side by side into y."""
    first = 0
    for part in parts:
        tape.emit(place, T=part, x=part, y=y, first=first, n=part.size)
        first += part.size


@dataclass(eq=False)
class Concat(Op):
    """Values joined along one axis of their frames; the other axes agree.

    Parameters
    ----------
    axis : int
        Which axis of a frame.
    name, seed
        See :class:`Op`.
    """

    axis: int = 0

    def output_shape(self, *shapes: Shape) -> Shape:
        axis = checked_axis(self, self.axis, shapes[0])
        rest = {s[:axis] + s[axis + 1 :] for s in shapes}
        if len(rest) > 1 or len({len(s) for s in shapes}) > 1:
            raise GraphError(f"{self!r}: shapes {shapes} differ on another axis than {axis}")
        joined = sum(s[axis] for s in shapes)
        return (*shapes[0][:axis], joined, *shapes[0][axis + 1 :])

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.concatenate(xs, self.axis)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        sizes = np.cumsum([0, *(x.size for x in xs)])
        positions = np.concatenate(
            [
                np.arange(a, b).reshape(x.shape)
                for x, a, b in zip(xs, sizes, sizes[1:], strict=False)
            ],
            self.axis,
        )
        in_order = bool((positions.reshape(-1) == np.arange(sizes[-1])).all())
        y = tape.output() if in_order else tape.temporary(int(sizes[-1]))
        gather(tape, xs, y)
        return y if in_order else rearranged(tape, y, positions)

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Concat", *xs, axis=checked_axis(self, self.axis, g.shape()) + 2)


def concat(*values: Value, axis: int = 0) -> Value:
    """Join values along one axis of their frames: ``concat(a, b)``."""
    return Concat(axis)(*values)
