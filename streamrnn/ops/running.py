"""Means that run along the stream, and normalisation by them.

Each feature by itself (Welford's recurrence)::

    mean += a (x - mean)
    var  += a ((x - mean_before) (x - mean) - var)

With ``a = 1 / (frames so far)`` these are the mean and variance of all frames; where `a` stays at
``1 / frames`` they forget exponentially. In plain float32 the mean of features far from zero (air
pressure in hPa) would stand still after some thousand frames, when a frame's share is below half a
step of it. So :class:`RunningNorm` keeps it as :class:`MeanOverTime` does, in two numbers whose sum
has 48 bits. A variance beyond float32 stays at its largest number, so that it can come down again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..graph import Shape
from ..kernels.functions import flush
from ..kernels.simd import fma, lanes, load, splat, store, vmin, vsqrt
from ..kernels.tape import Frames, Number, Scratch, Size, State, kernel
from .op import Array, Arrays, Op
from .over_time import two_sum, two_sum_nodes

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["ExponentialMean", "RunningNorm"]

MAX_COUNT = 1 << 24
"""float32 counts no further."""

LARGEST = float(np.finfo(np.float32).max)


@kernel
def exponential_mean(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    mean: State,
    rate: Number,
    n: Size,
) -> None:
    for t in range(T):
        for i in range(0, n, lanes()):
            before = load(mean, i)
            after = flush(fma(splat(rate), load(x, t * x_step + i) - before, before))
            store(mean, i, after)
            store(y, t * y_step + i, after)


@dataclass(eq=False)
class ExponentialMean(Op):
    """``y = y_before + rate * (x - y_before)`` for each number of a frame.

    Frames and outputs have one shape, that of the state ``mean``, which begins at 0 or at the op's
    ``initial_state``.

    Parameters
    ----------
    rate : float
        Weight of the new frame: above 0, at most 1.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If the rate is out of its range.
    """

    rate: float

    def check(self) -> None:
        self.rate = float(np.float32(self.rate))
        if not 0 < self.rate <= 1:
            raise ConfigError(
                f"ExponentialMean: `rate` must be above 0 and at most 1, got {self.rate}"
            )

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"mean": shapes[0]}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        states["mean"] = states["mean"] + self.rate * (xs[0] - states["mean"])
        return states["mean"]

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        mean = tape.state("mean")
        tape.emit(exponential_mean, x=xs[0], y=y, mean=mean, rate=self.rate, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        mean, rate, outputs = g.state("mean"), g.constant(np.float32(self.rate)), []
        for t in range(g.frames()):
            x = g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0)
            mean = g.op("Add", mean, g.op("Mul", g.op("Sub", x, mean), rate))
            outputs.append(g.op("Unsqueeze", mean, g.ints(0)))
        g.next_state("mean", mean)
        return g.op("Concat", *outputs, axis=0)


@kernel
def running_norm(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    count: State,
    mean: State,
    rest: State,
    var: State,
    limit: Number,
    eps: Number,
    scaled: Size,
    n: Size,
) -> None:
    for t in range(T):
        seen = min(count[0] + np.float32(1.0), limit)
        count[0] = seen
        rate = splat(np.float32(1.0) / seen)
        for i in range(0, n, lanes()):
            value, before, low = load(x, t * x_step + i), load(mean, i), load(rest, i)
            change = value - before - low
            after, low = two_sum(before, low, rate * change)
            store(mean, i, after)
            store(rest, i, low)
            left = value - after - low
            if scaled:
                spread = load(var, i)
                spread = flush(fma(rate, fma(change, left, 0.0 - spread), spread))
                spread = vmin(spread, splat(LARGEST))
                store(var, i, spread)
                left = left / vsqrt(spread + eps)
            store(y, t * y_step + i, left)


@dataclass(eq=False)
class RunningNorm(Op):
    """Each feature minus its mean so far, over its standard deviation so far, this frame included.

    Frames and outputs are float32 of one shape; states ``mean`` and ``rest``, whose sum is the
    mean, and ``var`` of that shape, and ``count`` [shape=(1,)]. The first frame gives 0.

    Parameters
    ----------
    frames : int
        After so many frames the statistics begin to forget exponentially, with the weight
        ``1 / frames`` for each new one; by default after 2**24, as far as float32 counts: until
        then they are those of all frames, as far as float32 holds them.
    variance : bool
        Whether to divide by the standard deviation ``sqrt(var + eps)``.
    eps : float
        Added to the variance.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `frames` is not from 1 to 2**24 or `eps` is not positive.
    """

    frames: int = MAX_COUNT
    variance: bool = True
    eps: float = 1e-8

    def check(self) -> None:
        self.at_least(frames=1)
        if self.frames > MAX_COUNT or self.eps <= 0:
            raise ConfigError(
                f"{self!r}: `frames` must be at most {MAX_COUNT} and `eps` a positive number"
            )

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        spread = {"var": shapes[0]} if self.variance else {}
        return {"count": (1,), "mean": shapes[0], "rest": shapes[0], **spread}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        states["count"] = np.minimum(states["count"] + 1, self.frames)
        x, mean, n = xs[0], states["mean"] + states["rest"], states["count"][0]
        states["mean"], states["rest"] = mean + (x - mean) / n, np.zeros_like(mean)
        left = x - states["mean"]
        if not self.variance:
            return np.asarray(left)
        states["var"] = states["var"] + ((x - mean) * left - states["var"]) / n
        return np.asarray(left / np.sqrt(states["var"] + self.eps))

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(
            running_norm,
            x=xs[0],
            y=y,
            count=tape.state("count"),
            mean=tape.state("mean"),
            rest=tape.state("rest"),
            var=tape.state("var") if self.variance else 0,
            limit=self.frames,
            eps=self.eps,
            scaled=int(self.variance),
            n=y.size,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        count, mean, rest = g.state("count"), g.state("mean"), g.state("rest")
        var, outputs = g.state("var") if self.variance else "", []
        one, limit = g.constant(np.float32(1)), g.constant(np.float32(self.frames))
        lined_up = g.ints(-1, *(1,) * max(1, len(g.shape())))
        for t in range(g.frames()):
            count = g.op("Min", g.op("Add", count, one), limit)
            n = g.op("Reshape", count, lined_up) if g.shape() else g.op("Squeeze", count, g.ints(1))
            x = g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0)
            rate = g.op("Div", one, n)
            change = g.op("Sub", g.op("Sub", x, mean), rest)
            mean, rest = two_sum_nodes(g, mean, rest, g.op("Mul", rate, change))
            left = g.op("Sub", g.op("Sub", x, mean), rest)
            if self.variance:
                more = g.op("Mul", rate, g.op("Sub", g.op("Mul", change, left), var))
                var = g.op("Min", g.op("Add", var, more), g.constant(np.float32(LARGEST)))
                kept = g.op("Add", var, g.constant(np.float32(self.eps)))
                left = g.op("Div", left, g.op("Sqrt", kept))
            outputs.append(g.op("Unsqueeze", left, g.ints(0)))
        for name, value in (("count", count), ("mean", mean), ("rest", rest), ("var", var)):
            if value:
                g.next_state(name, value)
        return g.op("Concat", *outputs, axis=0)
