"""The matrix product that every weight goes through: all recurrent and linear ops are built on it.

``affine`` computes, for every frame t and output o::

    y[t, o] = start[t, o] + sum over taps p and inputs k of  w[o, p, k] * x[t, p, k]

Each sum has one fixed order, whatever the number of frames: inputs with even index are added to
``start``, those with odd index to zero, in ascending order, and the two are added at the end. A
block of frames therefore gives the same bits as its frames one by one. Only *which* sums are
computed side by side changes: four vectors of outputs for one frame (a step; the weights are read
once, in storage order), or one vector of outputs for four frames (a block; each weight loaded is
used four times).

Weights are packed by :func:`pack` as ``[group of blocks][k][block in the group][lane]`` with groups
of 4, then 2, then 1 blocks of ``lanes`` outputs; or of 3, for the three gates of a cell. The groups
from one on are a packed weight of their own, ``outputs before * inputs`` numbers further.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .simd import at, fma, host, lanes, load, prefetch, splat, store
from .tape import helper

__all__ = ["SIDE", "affine", "groups", "pack"]


SIDE = 4
"""Blocks of outputs that lie side by side, where nothing else is said."""


def groups(blocks: int, side: int = SIDE) -> list[tuple[int, int]]:
    """Return (first block, blocks) of the groups that blocks fall into: of `side`, then 2, 1."""
    found, first = [], 0
    while first < blocks:
        left = blocks - first
        found.append((first, side if left >= side else 2 if left >= 2 else 1))
        first += found[-1][1]
    return found


def pack(weight: npt.NDArray[np.float32], width: int, side: int = SIDE) -> npt.NDArray[np.float32]:
    """Pack a weight of shape (O, K) for :func:`affine`, for vectors of ``width`` lanes.

    Outputs are padded with zeros to a whole number of vectors, of which `side` lie side by side.
    """
    outputs, inputs = weight.shape
    blocks = -(-outputs // width)
    if outputs % width:
        weight = np.concatenate([weight, np.zeros((-outputs % width, inputs), np.float32)])
    by_block = weight.reshape(blocks, width, inputs)
    packed = np.empty(blocks * width * inputs, np.float32)
    for first, n in groups(blocks, side):
        begin, stop = (width * inputs * block for block in (first, first + n))
        group = packed[begin:stop].reshape(inputs, n, width)
        group[...] = by_block[first : first + n].transpose(2, 0, 1)
    return packed


AHEAD = host().ahead
"""Floats by which a step asks for weights before it needs them, where that is faster."""

LINE = 16
"""Floats in a cache line."""


@helper
def _frame4(x: Any, taps: int, tap_step: int, n: int, start: Any, y: Any, w: Any) -> None:
    """Four vectors of outputs for one frame."""
    L = lanes()
    a0, a1, a2, a3 = load(start, 0), load(start, L), load(start, 2 * L), load(start, 3 * L)
    b0 = b1 = b2 = b3 = splat(0.0)
    i = 0
    for tap in range(taps):
        frame = at(x, tap * tap_step)
        for k in range(0, n - 1, 2):
            if AHEAD:
                for line in range(0, 8 * L, LINE):
                    prefetch(w, i + AHEAD + line)
            even, odd = splat(frame[k]), splat(frame[k + 1])
            a0 = fma(load(w, i), even, a0)
            a1 = fma(load(w, i + L), even, a1)
            a2 = fma(load(w, i + 2 * L), even, a2)
            a3 = fma(load(w, i + 3 * L), even, a3)
            b0 = fma(load(w, i + 4 * L), odd, b0)
            b1 = fma(load(w, i + 5 * L), odd, b1)
            b2 = fma(load(w, i + 6 * L), odd, b2)
            b3 = fma(load(w, i + 7 * L), odd, b3)
            i += 8 * L
        if n % 2:
            even = splat(frame[n - 1])
            a0 = fma(load(w, i), even, a0)
            a1 = fma(load(w, i + L), even, a1)
            a2 = fma(load(w, i + 2 * L), even, a2)
            a3 = fma(load(w, i + 3 * L), even, a3)
            i += 4 * L
    store(y, 0, a0 + b0)
    store(y, L, a1 + b1)
    store(y, 2 * L, a2 + b2)
    store(y, 3 * L, a3 + b3)


@helper
def _frame3(x: Any, taps: int, tap_step: int, n: int, start: Any, y: Any, w: Any) -> None:
    """Three vectors of outputs for one frame."""
    L = lanes()
    a0, a1, a2 = load(start, 0), load(start, L), load(start, 2 * L)
    b0 = b1 = b2 = splat(0.0)
    i = 0
    for tap in range(taps):
        frame = at(x, tap * tap_step)
        for k in range(0, n - 1, 2):
            even, odd = splat(frame[k]), splat(frame[k + 1])
            a0 = fma(load(w, i), even, a0)
            a1 = fma(load(w, i + L), even, a1)
            a2 = fma(load(w, i + 2 * L), even, a2)
            b0 = fma(load(w, i + 3 * L), odd, b0)
            b1 = fma(load(w, i + 4 * L), odd, b1)
            b2 = fma(load(w, i + 5 * L), odd, b2)
            i += 6 * L
        if n % 2:
            even = splat(frame[n - 1])
            a0 = fma(load(w, i), even, a0)
            a1 = fma(load(w, i + L), even, a1)
            a2 = fma(load(w, i + 2 * L), even, a2)
            i += 3 * L
    store(y, 0, a0 + b0)
    store(y, L, a1 + b1)
    store(y, 2 * L, a2 + b2)


@helper
def _frame2(x: Any, taps: int, tap_step: int, n: int, start: Any, y: Any, w: Any) -> None:
    """Two vectors of outputs for one frame."""
    L = lanes()
    a0, a1 = load(start, 0), load(start, L)
    b0 = b1 = splat(0.0)
    i = 0
    for tap in range(taps):
        frame = at(x, tap * tap_step)
        for k in range(0, n - 1, 2):
            even, odd = splat(frame[k]), splat(frame[k + 1])
            a0 = fma(load(w, i), even, a0)
            a1 = fma(load(w, i + L), even, a1)
            b0 = fma(load(w, i + 2 * L), odd, b0)
            b1 = fma(load(w, i + 3 * L), odd, b1)
            i += 4 * L
        if n % 2:
            even = splat(frame[n - 1])
            a0 = fma(load(w, i), even, a0)
            a1 = fma(load(w, i + L), even, a1)
            i += 2 * L
    store(y, 0, a0 + b0)
    store(y, L, a1 + b1)


@helper
def _frame1(
    x: Any, taps: int, tap_step: int, n: int, start: Any, y: Any, w: Any, w_step: int
) -> None:
    """One vector of outputs for one frame; its weights are ``w_step`` apart."""
    a, b = load(start, 0), splat(0.0)
    i = 0
    for tap in range(taps):
        frame = at(x, tap * tap_step)
        for k in range(0, n - 1, 2):
            a = fma(load(w, i), splat(frame[k]), a)
            b = fma(load(w, i + w_step), splat(frame[k + 1]), b)
            i += 2 * w_step
        if n % 2:
            a = fma(load(w, i), splat(frame[n - 1]), a)
            i += w_step
    store(y, 0, a + b)


@helper
def _four_frames(
    x: Any,
    x_step: int,
    taps: int,
    tap_step: int,
    n: int,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
    w: Any,
    w_step: int,
) -> None:
    """One vector of outputs for four frames; its weights are ``w_step`` apart."""
    a0, a1 = load(start, 0), load(start, start_step)
    a2, a3 = load(start, 2 * start_step), load(start, 3 * start_step)
    b0 = b1 = b2 = b3 = splat(0.0)
    i = 0
    for tap in range(taps):
        x0 = at(x, tap * tap_step)
        x1, x2, x3 = at(x0, x_step), at(x0, 2 * x_step), at(x0, 3 * x_step)
        for k in range(0, n - 1, 2):
            even, odd = load(w, i), load(w, i + w_step)
            a0 = fma(even, splat(x0[k]), a0)
            a1 = fma(even, splat(x1[k]), a1)
            a2 = fma(even, splat(x2[k]), a2)
            a3 = fma(even, splat(x3[k]), a3)
            b0 = fma(odd, splat(x0[k + 1]), b0)
            b1 = fma(odd, splat(x1[k + 1]), b1)
            b2 = fma(odd, splat(x2[k + 1]), b2)
            b3 = fma(odd, splat(x3[k + 1]), b3)
            i += 2 * w_step
        if n % 2:
            even = load(w, i)
            a0 = fma(even, splat(x0[n - 1]), a0)
            a1 = fma(even, splat(x1[n - 1]), a1)
            a2 = fma(even, splat(x2[n - 1]), a2)
            a3 = fma(even, splat(x3[n - 1]), a3)
            i += w_step
    store(y, 0, a0 + b0)
    store(y, y_step, a1 + b1)
    store(y, 2 * y_step, a2 + b2)
    store(y, 3 * y_step, a3 + b3)


@helper
def affine(
    T: int,
    x: Any,
    x_step: int,
    taps: int,
    tap_step: int,
    n: int,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
    w: Any,
    O: int,
    side: int = SIDE,
) -> None:
    """Multiply T frames by a packed weight; see the module's text.

    Parameters
    ----------
    x, x_step
        Frame t begins at ``x[t * x_step]``.
    taps, tap_step, n
        A frame is ``taps`` pieces of ``n`` values, ``tap_step`` apart.
    start, start_step
        What the sums of frame t begin with: ``start[t * start_step + o]``; a step of 0 is a bias.
        It may be `y` itself.
    y, y_step
        Outputs of frame t, in whole vectors, from ``y[t * y_step]``.
    w, O, side
        Packed weight, its outputs, and how many blocks of them lie side by side.
    """
    L = lanes()
    blocks = (O + L - 1) // L
    K = taps * n
    first = 0
    while first < blocks:
        left = blocks - first
        width = side if left >= side else 2 if left >= 2 else 1
        group = at(w, first * K * L)
        o = first * L
        t = 0
        while t + 4 <= T:
            for b in range(width):
                _four_frames(
                    at(x, t * x_step),
                    x_step,
                    taps,
                    tap_step,
                    n,
                    at(start, t * start_step + o + b * L),
                    start_step,
                    at(y, t * y_step + o + b * L),
                    y_step,
                    at(group, b * L),
                    width * L,
                )
            t += 4
        while t < T:
            frame, begin, result = (
                at(x, t * x_step),
                at(start, t * start_step + o),
                at(y, t * y_step + o),
            )
            if width == 4:
                _frame4(frame, taps, tap_step, n, begin, result, group)
            elif width == 3:
                _frame3(frame, taps, tap_step, n, begin, result, group)
            elif width == 2:
                _frame2(frame, taps, tap_step, n, begin, result, group)
            else:
                _frame1(frame, taps, tap_step, n, begin, result, group, L)
            t += 1
        first += width
