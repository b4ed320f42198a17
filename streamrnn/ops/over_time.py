"""Mean and maximum of all frames so far: pooling over time, for the class of a sequence.

::

    mean[t] = mean[t-1] + (x[t] - mean[t-1]) / (t + 1)
    max[t]  = x[0] for t = 0, else the larger of max[t-1] and x[t]

In plain float32 the mean would stand still after some 2**24 frames, two days at 100 frames a
second: each frame's share is then below what the mean can hold. So it is kept in two numbers,
``mean`` and ``rest``, whose sum has 48 bits (two-sum: Knuth, The Art of Computer Programming 2,
4.2.2), and so is the number of frames, as ``count[0] + 2**24 * count[1]``. An error made early
shrinks like 1 / t, so the mean stays as exact as float32 holds it. No sum of frames is ever formed,
so none overflows; halves are subtracted, so that no difference does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError
from ..graph import Shape
from ..kernels.simd import at, lanes, load, select_eq, splat, store, vmax
from ..kernels.tape import Frames, Scratch, Size, State, copy, helper, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["MaxOverTime", "MeanOverTime"]

WRAP = 1 << 24
"""Float32 counts to here by ones."""


@helper
def two_sum(high: Any, low: Any, change: Any) -> Any:
    """Return ``high + low + change`` as two numbers: the second is what the first cannot hold."""
    new = high + change
    part = new - high
    lost = (high - (new - part)) + (change - part) + low
    total = new + lost
    return total, lost - (total - new)


def two_sum_nodes(g: Recorder, high: str, low: str, change: str) -> tuple[str, str]:
    """Write :func:`two_sum` in ONNX."""
    new = g.op("Add", high, change)
    part = g.op("Sub", new, high)
    lost = g.op("Sub", high, g.op("Sub", new, part))
    lost = g.op("Add", g.op("Add", lost, g.op("Sub", change, part)), low)
    total = g.op("Add", new, lost)
    return total, g.op("Sub", lost, g.op("Sub", total, new))


@kernel
def mean_over_time(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    mean: State,
    rest: State,
    count: State,
    n: Size,
) -> None:
    """``mean + rest`` and ``count[0] + 2**24 * count[1]``, see the module's text."""
    for t in range(T):
        count[0] += np.float32(1.0)
        if count[0] == np.float32(WRAP):
            count[0], count[1] = np.float32(0.0), count[1] + np.float32(1.0)
        half = splat(np.float32(0.5))
        half_count = splat(np.float32(0.5) * (count[0] + count[1] * np.float32(WRAP)))
        for i in range(0, n, lanes()):
            m, r = load(mean, i), load(rest, i)
            change = (load(x, t * x_step + i) * half - m * half - r * half) / half_count
            total, low = two_sum(m, r, change)
            store(mean, i, total)
            store(rest, i, low)
        copy(n, mean, at(y, t * y_step))


@kernel
def max_over_time(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    largest: State,
    begun: State,
    n: Size,
) -> None:
    """A NaN wins, as everywhere; ``begun`` is 0 before the first frame."""
    for t in range(T):
        if begun[0] == np.float32(0.0):
            copy(n, at(x, t * x_step), largest)
            begun[0] = np.float32(1.0)
        for i in range(0, n, lanes()):
            new = load(x, t * x_step + i)
            store(largest, i, select_eq(new, new, vmax(load(largest, i), new), new))
        copy(n, largest, at(y, t * y_step))


class _OverTime(Op):
    """One value of any shape, and an output of that shape for each frame."""

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        return shapes[0]


@dataclass(eq=False)
class MeanOverTime(_OverTime):
    """Mean of all frames so far, number by number, exact for months; see the module's text.

    Frames and outputs have one shape. States: ``mean`` and ``rest`` [shape=frame shape], whose sum
    is the mean, and ``count`` [shape=(2,)].

    Parameters
    ----------
    name, seed
        See :class:`Op`.
    """

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"mean": shapes[0], "rest": shapes[0], "count": (2,)}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        low, high = states["count"] + [1, 0]
        states["count"] = np.array([low % WRAP, high + low // WRAP])
        n = low + WRAP * high
        mean = ((n - 1) * (states["mean"] + states["rest"]) + xs[0]) / n
        states["mean"], states["rest"] = mean, np.zeros_like(mean)
        return np.asarray(mean)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(
            mean_over_time,
            x=xs[0],
            y=y,
            mean=tape.state("mean"),
            rest=tape.state("rest"),
            count=tape.state("count"),
            n=y.size,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        mean, rest = g.state("mean"), g.state("rest")
        low, high = (
            g.op("Gather", g.state("count"), g.ints(k), axis=1)  # (N, 1)
            for k in (0, 1)
        )
        half, one, wrap = (g.constant(np.float32(v)) for v in (0.5, 1, WRAP))
        outputs = []
        for t in range(g.frames()):
            low = g.op("Add", low, one)
            full = g.op("Cast", g.op("Equal", low, wrap), to=1)
            low = g.op("Sub", low, g.op("Mul", full, wrap))
            high = g.op("Add", high, full)
            n = g.op("Mul", half, g.op("Add", low, g.op("Mul", high, wrap)))
            n = g.op("Reshape", n, g.ints(-1, *(1 for _ in g.shape())))
            x, m, r = (
                g.op("Mul", half, v)
                for v in (g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0), mean, rest)
            )
            change = g.op("Div", g.op("Sub", g.op("Sub", x, m), r), n)
            mean, rest = two_sum_nodes(g, mean, rest, change)
            outputs.append(g.op("Unsqueeze", mean, g.ints(0)))
        g.next_state("mean", mean)
        g.next_state("rest", rest)
        g.next_state("count", g.op("Concat", low, high, axis=1))
        return g.op("Concat", *outputs, axis=0)


@dataclass(eq=False)
class MaxOverTime(_OverTime):
    """Largest of all frames so far, number by number; a NaN stays.

    Frames and outputs have one shape. States: ``max`` [shape=frame shape], and ``begun``
    [shape=(1,)], which is 0 before the first frame and then 1.

    Parameters
    ----------
    name, seed
        See :class:`Op`.
    """

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"max": shapes[0], "begun": (1,)}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        begun = states["begun"][0] > 0
        states["max"] = np.maximum(states["max"], xs[0]) if begun else np.array(xs[0])
        states["begun"] = np.ones(1)
        return np.asarray(states["max"])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(
            max_over_time,
            x=xs[0],
            y=y,
            largest=tape.state("max"),
            begun=tape.state("begun"),
            n=y.size,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        none = g.op("Equal", g.state("begun"), g.constant(np.zeros(1, np.float32)))
        none = g.op("Reshape", none, g.ints(-1, *(1 for _ in g.shape())))
        largest, outputs = g.state("max"), []
        for t in range(g.frames()):
            x = g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0)
            before = g.op("Where", none, x, largest) if t == 0 else largest
            largest = g.op("Max", before, x)
            outputs.append(g.op("Unsqueeze", largest, g.ints(0)))
        g.next_state("max", largest)
        one = g.constant(np.ones(1, np.float32))
        g.next_state("begun", g.op("Max", g.state("begun"), one))
        return g.op("Concat", *outputs, axis=0)
