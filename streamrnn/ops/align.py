"""Frames handed on later: for branches that meet again after one of them has looked ahead.

Frame m of the output is frame ``m + skip`` of the input, handed on ``wait`` frames of the model's
input after it has come. Nothing is handed on before: the output begins later. Where the input comes
every `stride` frames only, an output may be due between two of its frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Clock, Shape
from ..kernels.simd import at
from ..kernels.tape import Frames, Index, Scratch, Size, State, copy, kernel
from .conv1d import remember
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Align"]


@kernel
def align(
    T: Frames,
    due: Frames,
    index: Index,
    first: Index,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    past: State,
    memory: Size,
    skip: Size,
    n: Size,
) -> None:
    """``index`` input and ``first`` output frames came before this block."""
    remember(T, x, x_step, window, past, n, memory)
    for t in range(due):
        copy(n, at(window, (memory + first + t + skip - index) * n), at(y, t * y_step))


@dataclass(eq=False)
class Align(Op):
    """Frames handed on later, and without the first ones; see the module's text.

    Frames and outputs have one shape; the state ``past`` [shape=(ceil(wait / stride), *frame
    shape)] is the last frames, oldest first.

    Parameters
    ----------
    skip : int
        Frames at the beginning that are not handed on.
    wait : int
        Frames of the model's input by which each is handed on later.
    stride : int
        Frames of the model's input from one frame of the op's input to the next.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a number is negative, or `stride` is not positive.
    """

    skip: int = 0
    wait: int = 0
    stride: int = 1

    moves_only = True
    between_frames = True

    def check(self) -> None:
        self.at_least(skip=0, wait=0, stride=1)

    @property
    def memory_frames(self) -> int:
        """Past frames that are kept."""
        return -(-self.wait // self.stride)

    def clock(self, *clocks: Clock) -> Clock:
        if clocks[0].stride != self.stride:
            raise GraphError(f"{self!r} cannot read a value that comes {clocks[0]}")
        later = clocks[0].every(1, self.skip)
        return Clock(later.stride, later.start + self.wait)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.memory_frames, *shapes[0])} if self.wait else {}

    def receptive_field(self, *shapes: Shape) -> int:
        return self.memory_frames + 1

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        window = [*states.get("past", ()), *(x for x in xs if x is not None)]
        if self.memory_frames:
            states["past"] = np.stack(window[-self.memory_frames :])
        return window[-1 - self.wait // self.stride] if window else xs[0]

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y = xs[0], tape.output()
        tape.emit(
            align,
            due=y,
            index=x,
            first=y,
            x=x,
            y=y,
            window=tape.temporary(x.size, fixed=self.memory_frames * x.size, like=x),
            past=tape.state("past") if self.wait else 0,
            memory=self.memory_frames,
            skip=self.skip,
            n=x.size,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        read, made = g.first_frames()
        first = self.memory_frames + made + self.skip - read
        window = xs[0]
        if self.memory_frames:
            window = g.op("Concat", g.state("past", batch_axis=1), xs[0], axis=0)
            kept = [g.ints(n) for n in (-self.memory_frames, 2**62, 0)]
            g.next_state("past", g.op("Slice", window, *kept))
        left = self.memory_frames - first  # frames at the end that are not handed on yet
        return g.op("Slice", window, g.ints(first), g.ints(-left if left else 2**62), g.ints(0))
