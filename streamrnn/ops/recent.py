"""The last frames side by side: what a window that slides over the stream sees.

Output m holds ``x[m * stride + lookahead - (taps - 1 - j) * dilation]`` for every tap j, oldest
first. Frames before the first one are zero (or the op's ``initial_state``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Clock, Shape, shown
from ..kernels.simd import at
from ..kernels.tape import Frames, Index, Scratch, Size, State, copy, kernel
from .conv1d import remember
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Recent"]


@kernel
def recent(
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
    C: Size,
    inner: Size,
    taps: Size,
    dilation: Size,
    stride: Size,
    lookahead: Size,
    memory: Size,
) -> None:
    """Frames are (C, inner); ``index`` of them and ``first`` outputs came before this block."""
    n = C * inner
    remember(T, x, x_step, window, past, n, memory)
    for t in range(due):
        source = at(window, (stride * (first + t) + lookahead - index) * n)
        for tap in range(taps):
            frame = at(source, tap * dilation * n)
            for c in range(C):
                copy(inner, at(frame, c * inner), at(y, t * y_step + (c * taps + tap) * inner))


@dataclass(eq=False)
class Recent(Op):
    """The last frames of the stream as an axis behind the channels; see the module's text.

    Frames are (C, …), outputs (C, taps, …), every `stride` frames; the state ``past``
    [shape=(dilation * (taps - 1), C, …)] is the last frames, oldest first.

    Parameters
    ----------
    taps : int
        Frames that an output holds.
    dilation : int
        Frames from one of them to the next.
    stride : int
        Frames from one output to the next.
    lookahead : int
        Frames by which an output sees ahead: the first one is due so many frames later.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `lookahead` is negative or another number is not positive.
    """

    taps: int
    dilation: int = 1
    stride: int = 1
    lookahead: int = 0

    def check(self) -> None:
        self.at_least(taps=1, dilation=1, stride=1, lookahead=0)
        self.stride_frames = self.stride

    @property
    def memory_frames(self) -> int:
        """Past frames that are kept."""
        return self.dilation * (self.taps - 1)

    def clock(self, *clocks: Clock) -> Clock:
        return clocks[0].every(self.stride, self.lookahead)

    def receptive_field(self, *shapes: Shape) -> int:
        return self.memory_frames + 1

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.memory_frames, *shapes[0])} if self.memory_frames else {}

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or not shapes[0]:
            raise GraphError(f"{self!r} expects frames of shape (C, …), got {shown(shapes)}")
        return (shapes[0][0], self.taps, *shapes[0][1:])

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        window = xs[0][None]
        if self.memory_frames:
            window = np.concatenate([states["past"], window])
            states["past"] = window[1:]
        return np.stack(list(window[:: self.dilation]), axis=1)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y = xs[0], tape.output()
        tape.emit(
            recent,
            due=y,
            index=x,
            first=y,
            x=x,
            y=y,
            window=tape.temporary(x.size, fixed=self.memory_frames * x.size, like=x),
            past=tape.state("past") if self.memory_frames else 0,
            C=x.shape[0],
            inner=x.size // x.shape[0],
            taps=self.taps,
            dilation=self.dilation,
            stride=self.stride,
            lookahead=self.lookahead,
            memory=self.memory_frames,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        window = xs[0]
        if self.memory_frames:
            window = g.op("Concat", g.state("past", batch_axis=1), xs[0], axis=0)
            last = [g.ints(n) for n in (-self.memory_frames, 2**62, 0)]
            g.next_state("past", g.op("Slice", window, *last))
        read, made = g.first_frames()
        begin = self.stride * made + self.lookahead - read
        which = g.windows(self.stride, begin + self.dilation * np.arange(self.taps))
        y = g.op("Gather", window, which, axis=0)  # (T, taps, N, C, …)
        rest = range(4, 3 + len(g.shape()))
        return g.op("Transpose", y, perm=[0, 2, 3, 1, *rest])
