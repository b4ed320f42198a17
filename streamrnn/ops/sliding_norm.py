"""Normalisation by the mean and variance of the last frames, this one included.

As long as there are fewer frames than the window takes, by those there are. (Kaldi calls it
``apply-cmvn-sliding --center=false``.) The sums are made anew for each frame, in order: nothing
drifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape, shown
from ..kernels.simd import at, fma, lanes, load, splat, store, vsqrt
from ..kernels.tape import Frames, Number, Scratch, Size, State, kernel
from .conv1d import remember
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["SlidingNorm"]


@kernel
def sliding_norm(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    past: State,
    count: State,
    length: Size,
    eps: Number,
    scaled: Size,
    n: Size,
) -> None:
    """``length`` frames at most; ``count`` came before this block, or that many."""
    remember(T, x, x_step, window, past, n, length - 1)
    for t in range(T):
        count[0] = min(count[0] + np.float32(1.0), np.float32(length))
        seen = int(count[0])
        first, share = at(window, (t + length - seen) * n), splat(np.float32(1.0) / count[0])
        for i in range(0, n, lanes()):
            mean, spread = splat(0.0), splat(0.0)
            for k in range(seen):
                mean = mean + load(first, k * n + i)
            mean = mean * share
            rest = load(first, (seen - 1) * n + i) - mean
            if scaled:
                for k in range(seen):
                    d = load(first, k * n + i) - mean
                    spread = fma(d, d, spread)
                rest = rest / vsqrt(fma(spread, share, splat(eps)))
            store(y, t * y_step + i, rest)


@dataclass(eq=False)
class SlidingNorm(Op):
    """Each feature minus its mean over the last frames, over its standard deviation there.

    Frames and outputs are float32 [shape=(C, …)]; states ``past`` [shape=(frames - 1, C, …)],
    oldest first, and ``count`` [shape=(1,)]. The first frame gives 0.

    Parameters
    ----------
    frames : int
        Frames in the window.
    variance : bool
        Whether to divide by the standard deviation ``sqrt(var + eps)``.
    eps : float
        Added to the variance.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `frames` is below 2 or `eps` is not positive.
    """

    frames: int
    variance: bool = True
    eps: float = 1e-8

    def check(self) -> None:
        self.at_least(frames=2)
        if self.eps <= 0 or self.frames > 1 << 20:
            raise ConfigError(
                f"{self!r}: `eps` must be a positive number and `frames` at most {1 << 20}"
            )

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or not shapes[0]:
            raise GraphError(f"{self!r} expects frames of shape (C, …), got {shown(shapes)}")
        return shapes[0]

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.frames - 1, *shapes[0]), "count": (1,)}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        states["count"] = np.minimum(states["count"] + 1, self.frames)
        window = np.concatenate([states["past"], xs[0][None]])
        states["past"] = window[1:]
        seen = window[-int(states["count"][0]) :]
        rest = xs[0] - seen.mean(0)
        return np.asarray(rest / np.sqrt(seen.var(0) + self.eps) if self.variance else rest)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y = xs[0], tape.output()
        tape.emit(
            sliding_norm,
            x=x,
            y=y,
            window=tape.temporary(x.size, fixed=(self.frames - 1) * x.size + tape.lanes),
            past=tape.state("past"),
            count=tape.state("count"),
            length=self.frames,
            eps=self.eps,
            scaled=int(self.variance),
            n=x.size,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        zero, end, ones = g.ints(0), g.ints(2**62), (1,) * len(g.shape())
        window = g.op("Concat", g.state("past", batch_axis=1), xs[0], axis=0)
        g.next_state("past", g.op("Slice", window, g.ints(g.frames()), end, zero))
        count, outputs = g.state("count"), []
        one, most = g.constant(np.float32(1)), g.constant(np.float32(self.frames))
        age = np.arange(self.frames, 0.0, -1.0).reshape(-1, 1, *ones)
        for t in range(g.frames()):
            count = g.op("Min", g.op("Add", count, one), most)
            seen = g.op("Reshape", count, g.ints(1, -1, *ones))
            rows = g.op("Slice", window, g.ints(t), g.ints(t + self.frames), zero)
            total = g.op("ReduceSum", rows, zero, keepdims=1)  # what was not seen is zero
            mean = g.op("Div", total, seen)
            x = g.op("Slice", rows, g.ints(-1), end, zero)
            rest = g.op("Sub", x, mean)
            if self.variance:
                inside = g.op("Cast", g.op("LessOrEqual", g.constant(age), seen), to=1)
                d = g.op("Mul", g.op("Sub", rows, mean), inside)
                squares = g.op("ReduceSum", g.op("Mul", d, d), zero, keepdims=1)
                kept = g.op("Add", g.op("Div", squares, seen), g.constant(np.float32(self.eps)))
                rest = g.op("Div", rest, g.op("Sqrt", kept))
            outputs.append(rest)
        g.next_state("count", count)
        return g.op("Concat", *outputs, axis=0)
