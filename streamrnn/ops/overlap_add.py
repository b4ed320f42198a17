"""Frames that overlap, added up to a signal again.

Frame m begins ``hop`` samples after the one before. With frame m come the samples that no later
frame will add to: the first ``hop`` of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..graph import Shape
from ..kernels.simd import at, lanes, load, store
from ..kernels.tape import Frames, Scratch, Size, State, copy, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["OverlapAdd"]


@kernel
def overlap_add(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    sums: Scratch,
    past: State,
    n: Size,
    hop: Size,
) -> None:
    """``past`` holds the n - hop sums to which this frame adds first."""
    for t in range(T):
        copy(n - hop, past, sums)
        for i in range(n - hop, n):
            sums[i] = 0.0
        for i in range(0, n, lanes()):
            store(sums, i, load(sums, i) + load(x, t * x_step + i))
        copy(hop, sums, at(y, t * y_step))
        copy(n - hop, at(sums, hop), past)


@dataclass(eq=False)
class OverlapAdd(Op):
    """Frames `hop` apart, added up; see the module's text.

    Frames are float32 [shape=(length,)], outputs float32 [shape=(hop,)]; the state ``past``
    [shape=(length - hop,)] is what the frames so far add to samples that are not complete.

    Parameters
    ----------
    length : int
        Samples in a frame.
    hop : int
        Samples from one frame to the next.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not positive or `hop` is larger than `length`.
    """

    length: int
    hop: int

    def check(self) -> None:
        self.at_least(length=1, hop=1)
        if self.hop > self.length:
            raise ConfigError(
                f"OverlapAdd: frames of {self.length} samples that begin {self.hop} apart leave "
                f"gaps: `hop` must be at most {self.length}"
            )

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.length,),)

    def output_shape(self, *shapes: Shape) -> Shape:
        for shape in shapes:
            self.expect(shape, (self.length,))
        return (self.hop,)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.length - self.hop,)} if self.length > self.hop else {}

    def receptive_field(self, *shapes: Shape) -> int:
        return -(-self.length // self.hop)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        sums = xs[0] + np.append(states.get("past", np.zeros(0)), np.zeros(self.hop))
        if self.length > self.hop:
            states["past"] = sums[self.hop :]
        return np.asarray(sums[: self.hop])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(
            overlap_add,
            x=xs[0],
            y=y,
            sums=tape.temporary(0, fixed=tape.padded(self.length)),
            past=tape.state("past") if self.length > self.hop else 0,
            n=self.length,
            hop=self.hop,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        if self.length == self.hop:
            return g.op("Identity", xs[0])
        past, outputs = g.op("Unsqueeze", g.state("past"), g.ints(0)), []
        hop, end, last = g.ints(self.hop), g.ints(2**62), g.ints(2)
        for t in range(g.frames()):
            x = g.op("Slice", xs[0], g.ints(t), g.ints(t + 1), g.ints(0))
            behind = g.ints(0, 0, 0, 0, 0, self.hop)
            sums = g.op("Add", x, g.op("Pad", past, behind))
            outputs.append(g.op("Slice", sums, g.ints(0), hop, last))
            past = g.op("Slice", sums, hop, end, last)
        g.next_state("past", g.op("Squeeze", past, g.ints(0)))
        return g.op("Concat", *outputs, axis=0)
