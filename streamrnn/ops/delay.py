"""A value some frames ago: ``y[m] = x[m - frames]``, zero (or the initial state) before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, State, copy, kernel
from .conv1d import remember
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Delay"]


@kernel
def delay(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    past: State,
    memory: Size,
    n: Size,
) -> None:
    """``window`` is the past and the new frames."""
    remember(T, x, x_step, window, past, n, memory)
    for t in range(T):
        copy(n, at(window, t * n), at(y, t * y_step))


@dataclass(eq=False)
class Delay(Op):
    """Each frame some frames later: ``y[m] = x[m - frames]``.

    Frames and outputs have one shape and come at one rate; the state ``past``
    [shape=(frames, *frame shape)] is the last frames, oldest first.

    Parameters
    ----------
    frames : int
        By how many.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `frames` is not a positive integer.
    """

    frames: int

    def check(self) -> None:
        self.at_least(frames=1)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.frames, *shapes[0])}

    def receptive_field(self, *shapes: Shape) -> int:
        return self.frames + 1

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        window = np.concatenate([states["past"], xs[0][None]])
        states["past"] = window[1:]
        return np.asarray(window[0])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y = xs[0], tape.output()
        tape.emit(
            delay,
            x=x,
            y=y,
            window=tape.temporary(x.size, fixed=self.frames * x.size),
            past=tape.state("past"),
            memory=self.frames,
            n=x.size,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        window = g.op("Concat", g.state("past", batch_axis=1), xs[0], axis=0)
        start, last, end = (g.ints(n) for n in (0, -self.frames, 2**62))
        g.next_state("past", g.op("Slice", window, last, end, start))
        return g.op("Slice", window, start, last, start)
