"""Differences over time: the slope of a line through the frames around each one.

``y[m] = sum over k = 1 … N of  k (x[m + k] - x[m - k]) / (2 sum of k^2)``, the regression of HTK
and Kaldi, as ``torchaudio.functional.compute_deltas``. The first frame stands for those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..graph import Clock, Shape
from ..kernels.simd import at, fma, lanes, load, splat, store
from ..kernels.tape import Frames, Index, Scratch, Size, State, Weights, copy, kernel
from .conv1d import remember
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Deltas"]


@kernel
def deltas(
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
    begun: State,
    slopes: Weights,
    C: Size,
    reach: Size,
) -> None:
    """``index`` frames and ``first`` outputs came before this block."""
    if T > 0 and begun[0] == 0.0:
        begun[0] = 1.0
        for k in range(2 * reach):
            copy(C, x, at(past, k * C))
    remember(T, x, x_step, window, past, C, 2 * reach)
    for t in range(due):
        middle = at(window, (first + t + 2 * reach - index) * C)
        for c in range(0, C, lanes()):
            total = splat(0.0)
            for k in range(1, reach + 1):
                change = load(middle, c + k * C) - load(middle, c - k * C)
                total = fma(splat(slopes[k - 1]), change, total)
            store(y, t * y_step + c, total)


@dataclass(eq=False)
class Deltas(Op):
    """Slope of each feature over the frames around; see the module's text.

    Frames and outputs are float32 [shape=(C,)]; an output comes ``win_length // 2`` frames later
    than the frame that it belongs to. The state ``past`` [shape=(win_length - 1, C)] is the last
    frames, oldest first; ``begun`` [shape=(1,)] is 1 once there was one.

    Parameters
    ----------
    win_length : int
        Frames that a slope is taken over: odd, at least 3.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `win_length` is even or below 3.
    """

    win_length: int = 5

    def check(self) -> None:
        if self.win_length < 3 or self.win_length % 2 == 0:
            raise ConfigError(
                f"Deltas: `win_length` must be odd and at least 3, got {self.win_length}"
            )

    @property
    def reach(self) -> int:
        """Frames to each side."""
        return self.win_length // 2

    def slopes(self) -> Array:
        """Return the factor of each difference, float64 [shape=(reach,)]."""
        k = np.arange(1, self.reach + 1)
        return np.asarray(k / (2 * (k**2).sum()))

    def clock(self, *clocks: Clock) -> Clock:
        return clocks[0].every(1, self.reach)

    def output_shape(self, *shapes: Shape) -> Shape:
        self.expect(shapes[0], shapes[0][:1] or (1,))
        return shapes[0]

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (2 * self.reach, *shapes[0]), "begun": (1,)}

    def receptive_field(self, *shapes: Shape) -> int:
        return self.win_length

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        if not states["begun"]:
            states["past"] = np.repeat(xs[0][None], 2 * self.reach, 0)
            states["begun"] = np.ones(1)
        window = np.concatenate([states["past"], xs[0][None]])
        states["past"] = window[1:]
        later, earlier = window[self.reach + 1 :], window[: self.reach][::-1]
        return np.asarray(self.slopes() @ (later - earlier))

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y, reach = xs[0], tape.output(), self.reach
        window = tape.temporary(x.size, fixed=2 * reach * x.size + tape.lanes, like=x)
        tape.emit(
            deltas,
            due=y,
            index=x,
            first=y,
            x=x,
            y=y,
            window=window,
            past=tape.state("past"),
            begun=tape.state("begun"),
            slopes=tape.weight(self.slopes()),
            C=x.size,
            reach=reach,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        zero, end = g.ints(0), g.ints(2**62)
        past, reach, T = g.state("past", batch_axis=1), self.reach, g.frames()
        repeated = g.op("Slice", xs[0], zero, g.ints(1), zero)
        old = g.state("begun")
        begun = g.op("Greater", old, g.constant(np.zeros(1, np.float32)))
        window = g.op("Concat", g.op("Where", begun, past, repeated), xs[0], axis=0)
        g.next_state("past", g.op("Slice", window, g.ints(T), end, zero))
        g.next_state("begun", g.op("Max", old, g.constant(np.ones(1, np.float32))))
        read, made = g.first_frames()
        begin, total = made - read + 2 * reach, ""
        for k, slope in enumerate(self.slopes(), 1):
            later, earlier = (
                g.op("Slice", window, g.ints(begin + d), g.ints(begin + d + T), zero)
                for d in (k, -k)
            )
            part = g.op("Mul", g.op("Sub", later, earlier), g.constant(np.float32(slope)))
            total = g.op("Add", total, part) if total else part
        return total
