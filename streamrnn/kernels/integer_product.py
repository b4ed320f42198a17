"""Products of bytes: activations in uint8, weights in int8, exact sums in int32.

``integer_affine`` computes for every row r of bytes q and every output o::

    y[r, o] = start[r, o] + (scale[r] * scales[o]) * sum over k of  w[o, k] * (q[r, k] - zero[r])

with the sum in exact integers, so that no order of it matters. ``sum w q`` is made of bytes and
``zero * sum w`` is taken off at the end. Sums are int32 and cannot overflow below 65,793 inputs,
2**31 / (255 * 128). ``int8_affine`` is the same for rows of float32 numbers: each is first rounded
to bytes in its own range.

A product is packed by :func:`pack_product` as groups of 4, then 2, then 1 blocks of ``lanes``
outputs (or of 3, for the three gates of a cell), each ``[k / 4][block in the group][lane][4]
[scales][sums of the weights of each output]``, in the order in which a step reads them. K and the
outputs are padded by zeros. The groups from one on are a product of their own,
:func:`product_floats` numbers further.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .product import SIDE, groups
from .simd import (
    as_bytes,
    as_ints,
    at,
    dot4,
    hmax,
    hmin,
    hsum,
    lanes,
    leading,
    load,
    no_sum,
    splat,
    store,
    store_bytes,
    vmax,
    vmin,
    vround,
    without_zero,
)
from .tape import helper

__all__ = [
    "MAX_INPUTS",
    "int8_affine",
    "int8_row",
    "integer_affine",
    "pack_product",
    "product_floats",
    "quantize",
    "row_floats",
    "value_range",
]

MAX_INPUTS = 65_000


def row_floats(inputs: int, width: int) -> int:
    """Return the float32 numbers of scratch that ``int8_affine`` needs for a row.

    They are scale and zero point, in a vector of ``width`` lanes, and the bytes, in whole vectors.
    """
    return width + -(-inputs // width) * width // 4


def pack_product(
    weight: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], width: int, side: int = SIDE
) -> npt.NDArray[np.float32]:
    """Pack a weight int8 (O, K) and the scales of its rows, for vectors of ``width`` lanes.

    `side` vectors of outputs lie side by side. The bytes are given as float32.
    """
    outputs, inputs = weight.shape
    blocks, quads = -(-outputs // width), -(-inputs // 4)
    padded = np.zeros((blocks * width, quads * 4), np.int8)
    padded[:outputs, :inputs] = weight
    scales = np.zeros(blocks * width, np.float32)
    scales[:outputs] = scale
    sums = padded.sum(axis=1, dtype=np.int32).view(np.float32)
    by_block = padded.view(np.float32).reshape(blocks, width, quads)
    parts = []
    for first, n in groups(blocks, side):
        rows = slice(first * width, (first + n) * width)
        in_order = by_block[first : first + n].transpose(2, 0, 1)
        parts += [in_order.reshape(-1), scales[rows], sums[rows]]
    return np.concatenate(parts)


@helper
def product_floats(O: int, K: int) -> int:
    """Return how many float32 numbers O outputs, groups of whole vectors, take of a product."""
    return O * (2 + (K + 3) // 4)


@helper
def value_range(x: Any, n: int) -> Any:
    """Return scale and zero point with which ``x[:n]`` fits into uint8, zero included exactly.

    Operator DynamicQuantizeLinear of ONNX: ``scale = (max(x, 0) - min(x, 0)) / 255`` and
    ``zero = round(-min(x, 0) / scale)``; a scale of 1 where all is zero, as onnxruntime has it.
    The scale is NaN if not all of x is finite. Whole vectors are read.
    """
    lows, highs, odd = splat(0.0), splat(0.0), splat(0.0)
    for i in range(0, n, lanes()):
        part = leading(load(x, i), n - i)
        lows, highs = vmin(part, lows), vmax(part, highs)
        odd = odd + (part - part)  # zero, or NaN
    low, high = hmin(lows), hmax(highs)
    scale = (high - low) / np.float32(255.0)
    if low == high:
        scale = np.float32(1.0)
    zero = np.float32(np.rint(min(max(-low / scale, np.float32(0.0)), np.float32(255.0))))
    return scale + hsum(odd), zero


@helper
def quantize(x: Any, n: int, scale: Any, zero: Any, q: Any) -> None:
    """``q[i] = clip(round(x[i] / scale) + zero, 0, 255)`` as bytes, in whole vectors."""
    divisor, offset = splat(scale), splat(zero)
    for i in range(0, n, lanes()):
        whole = vround(load(x, i) / divisor) + offset
        store_bytes(q, i, vmax(vmin(whole, splat(255.0)), splat(0.0)))


@helper
def finish(a: Any, b: Any, sums: Any, o: int, level: Any, scales: Any, start: Any, y: Any) -> None:
    """Store ``start + scale * scales * (a + b - zero * sums)`` for one vector of outputs.

    ``level`` holds the row's scale and zero point.
    """
    exact = without_zero(a, b, sums, o, int(level[1]))
    store(y, o, load(start, o) + exact * (splat(level[0]) * load(scales, o)))


@helper
def four_blocks(
    q: Any, quads: int, group: Any, sums: Any, level: Any, scales: Any, start: Any, y: Any
) -> None:
    """Four vectors of outputs for one row."""
    L = lanes()
    a0 = a1 = a2 = a3 = no_sum()
    b0 = b1 = b2 = b3 = no_sum()
    i = k = 0
    while k + 2 <= quads:
        a0 = dot4(a0, group, i, q, 4 * k)
        a1 = dot4(a1, group, i + 4 * L, q, 4 * k)
        a2 = dot4(a2, group, i + 8 * L, q, 4 * k)
        a3 = dot4(a3, group, i + 12 * L, q, 4 * k)
        b0 = dot4(b0, group, i + 16 * L, q, 4 * k + 4)
        b1 = dot4(b1, group, i + 20 * L, q, 4 * k + 4)
        b2 = dot4(b2, group, i + 24 * L, q, 4 * k + 4)
        b3 = dot4(b3, group, i + 28 * L, q, 4 * k + 4)
        i += 32 * L
        k += 2
    if k < quads:
        a0 = dot4(a0, group, i, q, 4 * k)
        a1 = dot4(a1, group, i + 4 * L, q, 4 * k)
        a2 = dot4(a2, group, i + 8 * L, q, 4 * k)
        a3 = dot4(a3, group, i + 12 * L, q, 4 * k)
    finish(a0, b0, sums, 0, level, scales, start, y)
    finish(a1, b1, sums, L, level, scales, start, y)
    finish(a2, b2, sums, 2 * L, level, scales, start, y)
    finish(a3, b3, sums, 3 * L, level, scales, start, y)


@helper
def three_blocks(
    q: Any, quads: int, group: Any, sums: Any, level: Any, scales: Any, start: Any, y: Any
) -> None:
    """Three vectors of outputs for one row."""
    L = lanes()
    a0 = a1 = a2 = no_sum()
    b0 = b1 = b2 = no_sum()
    i = k = 0
    while k + 2 <= quads:
        a0 = dot4(a0, group, i, q, 4 * k)
        a1 = dot4(a1, group, i + 4 * L, q, 4 * k)
        a2 = dot4(a2, group, i + 8 * L, q, 4 * k)
        b0 = dot4(b0, group, i + 12 * L, q, 4 * k + 4)
        b1 = dot4(b1, group, i + 16 * L, q, 4 * k + 4)
        b2 = dot4(b2, group, i + 20 * L, q, 4 * k + 4)
        i += 24 * L
        k += 2
    if k < quads:
        a0 = dot4(a0, group, i, q, 4 * k)
        a1 = dot4(a1, group, i + 4 * L, q, 4 * k)
        a2 = dot4(a2, group, i + 8 * L, q, 4 * k)
    finish(a0, b0, sums, 0, level, scales, start, y)
    finish(a1, b1, sums, L, level, scales, start, y)
    finish(a2, b2, sums, 2 * L, level, scales, start, y)


@helper
def four_rows(
    q: Any,
    q_step: int,
    quads: int,
    group: Any,
    group_step: int,
    sums: Any,
    o: int,
    level: Any,
    level_step: int,
    scales: Any,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
) -> None:
    """One vector of outputs for four rows; each weight loaded is used four times."""
    q1, q2, q3 = at(q, q_step), at(q, 2 * q_step), at(q, 3 * q_step)
    a0 = a1 = a2 = a3 = no_sum()
    b0 = b1 = b2 = b3 = no_sum()
    i = k = 0
    while k + 2 <= quads:
        a0 = dot4(a0, group, i, q, 4 * k)
        a1 = dot4(a1, group, i, q1, 4 * k)
        a2 = dot4(a2, group, i, q2, 4 * k)
        a3 = dot4(a3, group, i, q3, 4 * k)
        i += group_step
        b0 = dot4(b0, group, i, q, 4 * k + 4)
        b1 = dot4(b1, group, i, q1, 4 * k + 4)
        b2 = dot4(b2, group, i, q2, 4 * k + 4)
        b3 = dot4(b3, group, i, q3, 4 * k + 4)
        i += group_step
        k += 2
    if k < quads:
        a0 = dot4(a0, group, i, q, 4 * k)
        a1 = dot4(a1, group, i, q1, 4 * k)
        a2 = dot4(a2, group, i, q2, 4 * k)
        a3 = dot4(a3, group, i, q3, 4 * k)
    level1, level2 = at(level, level_step), at(level, 2 * level_step)
    level3 = at(level, 3 * level_step)
    finish(a0, b0, sums, o, level, scales, start, y)
    finish(a1, b1, sums, o, level1, scales, at(start, start_step), at(y, y_step))
    finish(a2, b2, sums, o, level2, scales, at(start, 2 * start_step), at(y, 2 * y_step))
    finish(a3, b3, sums, o, level3, scales, at(start, 3 * start_step), at(y, 3 * y_step))


@helper
def integer_affine(
    rows: int,
    levels: Any,
    level_step: int,
    q: Any,
    q_step: int,
    K: int,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
    w: Any,
    O: int,
    side: int = SIDE,
) -> None:
    """Multiply rows of bytes by a packed product; see the module's text.

    Parameters
    ----------
    rows
        Their number.
    levels, level_step
        Scale and zero point of row r, from ``levels[r * level_step]``; a step of 0 is one for all.
    q, q_step, K
        Row r begins at ``q[r * q_step]``; up to a multiple of 4 bytes any may follow its K bytes:
        their weights are zero.
    start, start_step, y, y_step
        What the results are added to (it may be `y`; a step of 0 is one for all rows), and the
        results in whole vectors.
    w, O, side
        Packed product, its outputs, and how many blocks of them lie side by side.
    """
    L = lanes()
    quads, blocks = (K + 3) // 4, (O + L - 1) // L
    first = 0
    while first < blocks:
        left = blocks - first
        width = side if left >= side else 2 if left >= 2 else 1
        o, P = first * L, width * L
        weights = at(w, product_floats(o, K))
        scales, group = at(weights, P * quads), as_bytes(weights)
        sums = as_ints(at(scales, P))
        r = 0
        while r < rows:
            row, level = at(q, r * q_step), at(levels, r * level_step)
            begin, result = at(start, r * start_step + o), at(y, r * y_step + o)
            if r + 4 <= rows:
                for b in range(width):
                    four_rows(
                        row,
                        q_step,
                        quads,
                        at(group, b * 4 * L),
                        width * 4 * L,
                        sums,
                        b * L,
                        level,
                        level_step,
                        scales,
                        begin,
                        start_step,
                        result,
                        y_step,
                    )
                r += 3
            elif width == 4:
                four_blocks(row, quads, group, sums, level, scales, begin, result)
            elif width == 3:
                three_blocks(row, quads, group, sums, level, scales, begin, result)
            else:
                for b in range(width):
                    total = no_sum()
                    for k in range(quads):
                        total = dot4(total, group, (k * width + b) * 4 * L, row, 4 * k)
                    finish(total, no_sum(), sums, b * L, level, scales, begin, result)
            r += 1
        first += width


@helper
def int8_row(x: Any, K: int, row: Any) -> None:
    """Round ``x[:K]`` in its own range; ``row`` takes scale and zero point, then the bytes."""
    scale, zero = value_range(x, K)
    quantize(x, K, scale, zero, as_bytes(at(row, lanes())))
    row[0], row[1] = scale, zero


@helper
def int8_affine(
    rows: int,
    x: Any,
    x_step: int,
    K: int,
    bytes_: Any,
    bytes_step: int,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
    w: Any,
    O: int,
    side: int = SIDE,
) -> None:
    """``integer_affine`` of rows of float32 numbers, each rounded to bytes in its own range.

    Row r is ``x[r * x_step:][:K]``; ``bytes_`` takes, from ``bytes_[r * bytes_step]`` on, scale,
    zero point and bytes of each: :func:`row_floats` numbers.
    """
    for r in range(rows):
        int8_row(at(x, r * x_step), K, at(bytes_, r * bytes_step))
    q, step = as_bytes(at(bytes_, lanes())), 4 * bytes_step
    integer_affine(rows, bytes_, bytes_step, q, step, K, start, start_step, y, y_step, w, O, side)
