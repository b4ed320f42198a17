"""Pooling: the largest, the mean or a norm of what a window sees, or of everything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ....graph import Value
from ....ops import activations as act
from ....ops.arithmetic import arithmetic
from ....ops.over_time import MaxOverTime, MeanOverTime
from ....ops.rearrange import Take
from ....ops.reduce import Max, Mean, Sum
from ..node import Array, Known, Tensor, Timed, Unsupported, operator, over_time, reshaped, symbol
from ..time import each_frame, settled, so_far
from .conv import convolved
from .windows import Window, beside, counts, recent, windows

LOWEST = float(np.finfo(np.float32).min)
"""What a maximum takes for the padding."""
MAX_POWER = 8


def _node(
    a: Known, n: int, x: Value | Timed, time: int | None = None
) -> tuple[list[Window], list[int]]:
    """Return a node's windows and how many there are along each axis."""
    a.get("storage_order", 0)  # of the second output
    if n > 1:
        raise Unsupported("where the largest numbers were (the second output) is not supported")
    taps, ceil = a.get("kernel_shape", None), bool(a.get("ceil_mode", 0))
    lengths = x.shape[2:]
    along = windows(a, lengths, taps, time)
    outputs = [w.outputs(d, ceil) for w, d in zip(along, lengths, strict=True)]
    for i, (window, count) in enumerate(zip(along, outputs, strict=True)):
        a.reserve(0 if i == time else count * window.taps)
    return along, outputs


# The largest ------------------------------------------------------------------------------------


def _largest(a: Known, x: Value, along: Sequence[Window], outputs: Sequence[int]) -> Value:
    """Return the largest number that each window over (N, C, …) sees, axis after axis."""
    for axis, (window, count) in enumerate(zip(along, outputs, strict=True), 2):
        length = x.shape[axis]
        a.reserve(x.size // length * count * window.taps)
        begins = np.arange(count)[:, None] * window.stride - window.before
        where = begins + np.arange(window.taps) * window.dilation
        inside = (where >= 0) & (where < length)
        if not inside.any(axis=1).all():
            raise Unsupported("a window sees nothing but padding")
        first = where[np.arange(count), inside.argmax(axis=1)]
        where = np.where(inside, where, first[:, None])  # what it sees twice does not matter
        if window.taps > 1:
            if where.reshape(-1).tolist() != list(range(length)):
                x = Take(tuple(where.reshape(-1).tolist()), axis)(x)
            split = (*x.shape[:axis], count, window.taps, *x.shape[axis + 1 :])
            x = Max(axis + 1)(reshaped(x, split))
        elif count != length or window.stride > 1:
            x = Take(tuple(where.reshape(-1).tolist()), axis)(x)
    return x


@operator("MaxPool")
def max_pool(a: Known, n: int, x: Value) -> Value:
    return _largest(a, x, *_node(a, n, x))


def _over_time(a: Known, n: int, x: Timed) -> tuple[Timed, Window, int, list[Window], list[int]]:
    """Return the frames, the window over time and how many there are, and those along the rest.

    Zero frames in front are like any others, unless there is padding before them.
    """
    assert x.axis is not None
    along, outputs = _node(a, n, x, time=x.axis - 2)
    window, length = along.pop(x.axis - 2), outputs.pop(x.axis - 2)
    return settled(x) if window.before else x, window, length, along, outputs


@over_time("MaxPool")
def max_pool_frames(a: Known, n: int, x: Timed) -> Timed:
    if x.axis is None or x.axis < 2:
        return Timed(max_pool(a, n, settled(x).value), x.axis, x.length)
    x, window, length, along, outputs = _over_time(a, n, x)
    y = _over_taps(Max, recent(x, window, LOWEST if window.before else 0.0))
    return beside(x, _largest(a, y, along, outputs), length)


def _over_taps(kind: type[Max] | type[Sum], seen: Value) -> Value:
    """Return the largest or the sum over the taps in (N, C, taps, …)."""
    N, C, taps, *rest = seen.shape
    return reshaped(seen, (N, C, *rest)) if taps == 1 else kind(2)(seen)


# Sums and means ----------------------------------------------------------------------------------


def _summed(x: Value, along: Sequence[Window], outputs: Sequence[int], factor: Array) -> Value:
    """Return `factor`, one for each window, times the sum of what it sees of (N, C, …).

    It is a convolution of each channel by itself, with padding up to where the last window ends.
    """
    if not along:
        return x if (factor == 1).all() else x * float(factor)
    N, C, *lengths = x.shape
    if len(along) == 3:  # the last two first, then the first
        x = reshaped(x, (N, C * lengths[0], *lengths[1:]))
        x = _summed(x, along[1:], outputs[1:], np.ones(()))
        x = reshaped(x, (N, C, lengths[0], outputs[1] * outputs[2]))
        x = _summed(x, [along[0], Window(1)], [outputs[0], x.shape[-1]], np.ones(()))
        return arithmetic(
            "Mul", reshaped(x, (N, C, *outputs)), symbol(factor.astype(np.float32), x)
        )
    ends = [
        Window(
            w.taps,
            w.stride,
            w.dilation,
            w.before,
            max((count - 1) * w.stride + w.span - length - w.before, 0),
        )
        for w, length, count in zip(along, lengths, outputs, strict=True)
    ]
    common = factor.reshape(-1)[0]
    same = bool((factor == common).all())
    taps = np.full((C, 1, *(w.taps for w in along)), common if same else 1.0, np.float32)
    y = convolved(x, taps, None, ends, C)
    return y if same else arithmetic("Mul", y, symbol(factor.astype(np.float32), y))


def _shares(
    along: Sequence[Window], lengths: Sequence[int], outputs: Sequence[int], padded: bool
) -> Array:
    """Return one over what each window sees."""
    seen = np.ones(())
    for window, length, count in zip(along, lengths, outputs, strict=True):
        seen = seen[..., None] * counts(window, length, count, padded)
    if not seen.all():
        raise Unsupported("a window sees nothing but padding")
    return np.asarray(1 / seen)


def _reserve(a: Known, x: Value, along: Sequence[Window]) -> None:
    a.reserve(x.shape[1] * math.prod(w.taps for w in along))


@operator("AveragePool")
def average_pool(a: Known, n: int, x: Value) -> Value:
    padded = bool(a.get("count_include_pad", 0))
    along, outputs = _node(a, n, x)
    _reserve(a, x, along)
    return _summed(x, along, outputs, _shares(along, x.shape[2:], outputs, padded))


@over_time("AveragePool")
def average_pool_frames(a: Known, n: int, x: Timed) -> Timed:
    if x.axis is None or x.axis < 2:
        return Timed(average_pool(a, n, settled(x).value), x.axis, x.length)
    padded = bool(a.get("count_include_pad", 0))
    x, window, length, along, outputs = _over_time(a, n, x)
    _reserve(a, x.value, along)
    y = _over_taps(Sum, recent(x, window))
    shares = _shares(along, y.shape[2:], outputs, padded)
    if padded or not window.before:
        return beside(x, _summed(y, along, outputs, shares / window.taps), length)
    y = _summed(y, along, outputs, shares)
    return beside(x, arithmetic("Div", y, _frames_seen(x, window, len(y.shape))), length)


def _frames_seen(x: Timed, window: Window, rank: int) -> Value:
    """Return how many frames a window over time sees that are no padding."""
    ones = Timed(symbol(np.ones((1, 1, 1), np.float32), x.value), 2, x.length)
    return reshaped(_over_taps(Sum, recent(ones, window)), (1,) * rank)


# Norms ------------------------------------------------------------------------------------------


def _to_the(p: int, x: Value) -> Value:
    """Return ``|x| ** p``."""
    if p == 2:
        return act.Square()(x)
    size = y = act.Abs()(x)
    for _ in range(p - 1):
        y = arithmetic("Mul", y, size)
    return y


def _root(p: int, x: Value) -> Value:
    """Return ``x ** (1 / p)``."""
    if p == 2:
        return act.Sqrt()(x)
    return x if p == 1 else act.Exp()(act.Log()(x) * (1 / p))


def _power(a: Known) -> int:
    p = int(a.get("p", 2))
    if not 1 <= p <= MAX_POWER:
        raise Unsupported(f"attribute p={p} is not supported, only 1 to {MAX_POWER}")
    return p


@operator("LpPool")
def lp_pool(a: Known, n: int, x: Value) -> Value:
    p = _power(a)
    along, outputs = _node(a, n, x)
    _reserve(a, x, along)
    return _root(p, _summed(_to_the(p, x), along, outputs, np.ones(())))


@over_time("LpPool")
def lp_pool_frames(a: Known, n: int, x: Timed) -> Timed:
    if x.axis is None or x.axis < 2:
        return Timed(lp_pool(a, n, settled(x).value), x.axis, x.length)
    p = _power(a)
    x, window, length, along, outputs = _over_time(a, n, x)
    _reserve(a, x.value, along)
    powers = replace(x, value=_to_the(p, x.value))
    y = _summed(_over_taps(Sum, recent(powers, window)), along, outputs, np.ones(()))
    return beside(x, _root(p, y), length)


# Over everything --------------------------------------------------------------------------------


def _beyond_channels(a: Known, *args: Tensor) -> Iterable[int]:
    return range(2, len(args[0].shape))


def _global(kind: type[Max] | type[Mean] | type[Sum], x: Value) -> Value:
    if len(x.shape) < 3:
        raise Unsupported(f"shape {x.shape} has nothing beside batch and channels")
    flat = reshaped(x, (*x.shape[:2], math.prod(x.shape[2:])))
    return reshaped(kind(2)(flat), (*x.shape[:2], *(1,) * (len(x.shape) - 2)))


@operator("GlobalAveragePool", mixes=_beyond_channels)
def global_average_pool(a: Known, n: int, x: Value) -> Value:
    return _global(Mean, x)


@operator("GlobalMaxPool", mixes=_beyond_channels)
def global_max_pool(a: Known, n: int, x: Value) -> Value:
    return _global(Max, x)


@over_time("GlobalAveragePool")
def global_average_pool_frames(a: Known, n: int, x: Timed) -> Tensor:
    if x.axis is None or x.axis < 2:
        return each_frame("GlobalAveragePool", a, n, [x])
    return Timed(_global(Mean, so_far(MeanOverTime(), x)), None, x.length)


@over_time("GlobalMaxPool")
def global_max_pool_frames(a: Known, n: int, x: Timed) -> Tensor:
    if x.axis is None or x.axis < 2:
        return each_frame("GlobalMaxPool", a, n, [x])
    return Timed(_global(Max, so_far(MaxOverTime(), x)), None, x.length)


@operator("GlobalLpPool", mixes=_beyond_channels)
def global_lp_pool(a: Known, n: int, x: Value) -> Value:
    p = _power(a)
    return _root(p, _global(Sum, _to_the(p, x)))
