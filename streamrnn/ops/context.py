"""The end of the frame before in front of this one: frames that overlap.

A stream of frames of n samples becomes one of frames of ``past + n`` samples; the first is preceded
by zeros (or by the op's ``initial_state``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, State, copy, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Context"]


@kernel
def context(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    past: State,
    memory: Size,
    n: Size,
) -> None:
    """Y is (past, x); then ``past`` is the end of y."""
    for t in range(T):
        frame = at(y, t * y_step)
        copy(memory, past, frame)
        copy(n, at(x, t * x_step), at(frame, memory))
        copy(memory, at(frame, n), past)


@dataclass(eq=False)
class Context(Op):
    """The last `past` samples of the stream in front of each frame.

    Frames are float32 [shape=(n,)], outputs float32 [shape=(past + n,)], state ``past``
    [shape=(past,)].

    Parameters
    ----------
    past : int
        Samples to keep.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `past` is not a positive integer.
    """

    past: int

    def check(self) -> None:
        self.at_least(past=1)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.past,)}

    def receptive_field(self, *shapes: Shape) -> int:
        return 1 + -(-self.past // shapes[0][0])

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise GraphError(f"{self!r} expects frames of shape (n,), got {shown(shapes)}")
        return (self.past + shapes[0][0],)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        window = np.concatenate([states["past"], xs[0]])
        states["past"] = window[-self.past :]
        return window

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(context, x=xs[0], y=y, past=tape.state("past"), memory=self.past, n=xs[0].size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        # All frames in a row behind the past, then windows of past + n samples, n apart.
        n = g.shape()[0]
        row = g.op("Reshape", g.op("Transpose", xs[0], perm=[1, 0, 2]), g.ints(0, -1))
        row = g.op("Concat", g.state("past"), row, axis=1)
        g.next_state("past", g.op("Slice", row, g.ints(-self.past), g.ints(2**62), g.ints(1)))
        windows = g.windows(n, np.arange(self.past + n))
        return g.op("Transpose", g.op("Gather", row, windows, axis=1), perm=[1, 0, 2])
