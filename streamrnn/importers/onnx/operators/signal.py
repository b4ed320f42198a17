"""Signals: Fourier transforms of a frame, and short-time ones of a frame or over time.

A transform of n points is a product with the matrix ``exp(-2 pi i k t / n)``. Real and imaginary
part are the last axis of size 2; a last axis of size 1 is real.
"""

from __future__ import annotations

import numpy as np

from ....graph import Value
from ....ops.conv1d import Conv1d
from ....ops.frame_conv1d import FrameConv1d
from ....ops.linear import Linear
from ....ops.rearrange import Slice, Transpose
from ..node import (
    Array,
    Known,
    Tensor,
    Timed,
    Unsupported,
    axis_of,
    integers,
    known,
    operator,
    over_time,
    reshaped,
    with_weights,
)
from ..time import settled, whole_sequence

MAX_POINTS = 4096
"""Longest transform: its matrix holds up to 2 n by 2 n numbers."""


def transform(n: int, used: int, parts: int, inverse: bool, onesided: bool) -> Array:
    """Return the real matrix (outputs, parts of an output, used inputs, parts of an input)."""
    rows = n // 2 + 1 if onesided and not inverse else n
    turns = np.outer(np.arange(rows, dtype=np.int32), np.arange(used, dtype=np.int32)) % n
    wave = np.exp((2j if inverse else -2j) * np.pi * np.arange(n) / n) / (n if inverse else 1)
    re, im = wave.real.astype(np.float32), wave.imag.astype(np.float32)
    matrix = np.empty((rows, 2, used, parts), np.float32)
    matrix[:, 0, :, 0], matrix[:, 1, :, 0] = re[turns], im[turns]
    if parts == 2:
        matrix[:, 0, :, 1], matrix[:, 1, :, 1] = -im[turns], re[turns]
    if not (inverse and onesided):
        return matrix
    mirrored = 2 * np.arange(used) % n != 0  # every bin but the first and n / 2 stands for two
    return np.asarray(matrix[:, :1] * np.where(mirrored, 2.0, 1.0).astype(np.float32)[:, None])


def scalar(tensor: Tensor, what: str) -> int:
    """Return a fixed tensor that holds one integer."""
    found = integers(tensor, what)
    if len(found) != 1:
        raise Unsupported(f"{what} must be one number, got {found}")
    return found[0]


def check_points(n: int) -> None:
    """Refuse a transform without points, or one whose matrix would be too large."""
    if not 1 <= n <= MAX_POINTS:
        raise Unsupported(f"a transform of {n} points: supported are 1 to {MAX_POINTS}")


def dft_axis(a: Known, x: Tensor, axis: Tensor) -> int:
    """Return the axis that is transformed; in the operator sets before 20 it is an attribute."""
    if a.opset < 20:
        chosen = a.peek("axis", 1)
    else:
        chosen = -2 if axis is None else scalar(axis, "the axis")
    found = axis_of(chosen, x)
    if found == len(x.shape) - 1:
        raise Unsupported(f"the last axis of {x.shape} holds real and imaginary part")
    return found


def transformed(a: Known, x: Tensor, length: Tensor = None, axis: Tensor = None) -> tuple[int, ...]:
    """A transform mixes its axis, and real with imaginary part."""
    return dft_axis(a, x, axis), len(x.shape) - 1


@operator("DFT", mixes=transformed, weights=True)
def dft(a: Known, n: int, x: Value, length: Tensor = None, axis: Tensor = None) -> Tensor:
    at = dft_axis(a, x, axis)
    if a.opset < 20:
        a.get("axis", 1)
    inverse, onesided = bool(a.get("inverse", 0)), bool(a.get("onesided", 0))
    size, parts = x.shape[at], x.shape[-1]
    if parts not in (1, 2):
        raise Unsupported(f"the last axis must be of size 1 (real) or 2 (complex), got {x.shape}")
    if onesided and parts != 1 + inverse:
        raise Unsupported(f"onesided=1 and inverse={inverse:d} of a signal of shape {x.shape}")
    if length is not None:
        points = scalar(length, "dft_length")
    else:
        points = 2 * (size - 1) if onesided and inverse else size
    check_points(points)
    used = min(size, points // 2 + 1 if onesided and inverse else points)
    a.reserve((points if inverse or not onesided else points // 2 + 1) * 2 * used * parts)
    matrix = transform(points, used, parts, inverse, onesided)
    x = x if used == size else Slice(0, used, at)(x)
    rank = len(x.shape)
    order = (*(i for i in range(rank) if i not in (at, rank - 1)), at, rank - 1)
    front = Transpose(order)(x) if at != rank - 2 else x
    rows = front.shape[:-2]
    y = product(matrix, reshaped(front, (*rows, used * parts)))
    y = reshaped(y, (*rows, *matrix.shape[:2]))
    return Transpose(tuple(order.index(i) for i in range(rank)))(y) if at != rank - 2 else y


def product(matrix: Array, x: Value) -> Value:
    """Return the product of the matrix with the last axis."""
    outputs, parts, used, of_input = matrix.shape
    op = Linear(used * of_input, outputs * parts, bias=False)
    return with_weights(op, weight=matrix.reshape(outputs * parts, used * of_input))(x)


def windowed_basis(
    a: Known, x: Tensor, window: Tensor, length: Tensor, samples: int | None
) -> Array:
    """Return the windowed transform (bins, 2, frame length, parts) that slides over a signal.

    `samples` is the signal's length, which the frame has where neither window nor length are given.
    """
    parts = x.shape[2] if len(x.shape) == 3 else 1
    if len(x.shape) not in (2, 3) or parts not in (1, 2) or x.shape[0] != 1:
        raise Unsupported(f"only one signal (1, samples, 1 or 2) is supported, got {x.shape}")
    onesided = bool(a.get("onesided", 1))
    if onesided and parts == 2:
        raise Unsupported("onesided=1 of a complex signal")
    shape = None if window is None else known(window, "the window").shape
    if length is not None:
        points = scalar(length, "frame_length")
    elif shape is not None and len(shape) == 1:
        points = shape[0]
    elif samples is not None and shape is None:
        points = samples
    else:
        raise Unsupported(f"the length of a frame is not said (window: {shape})")
    check_points(points)
    if shape not in (None, (points,)):
        raise Unsupported(f"a window of shape {shape} for frames of {points}")
    a.reserve((points // 2 + 1 if onesided else points) * 2 * points * parts)
    basis = transform(points, points, parts, False, onesided)
    weights = np.ones(points) if window is None else np.asarray(window)
    windowed: Array = basis * weights.astype(np.float32)[:, None]
    return windowed


def taps(basis: Array) -> Array:
    """Return a windowed transform as a convolution's weight: (2 bins, parts, frame length)."""
    bins, two, points, parts = basis.shape
    return np.reshape(basis.transpose(0, 1, 3, 2), (bins * two, parts, points))


@operator("STFT")
def stft(
    a: Known, n: int, x: Value, step: Tensor, window: Tensor = None, length: Tensor = None
) -> Tensor:
    basis = windowed_basis(a, x, window, length, x.shape[1] if len(x.shape) > 1 else None)
    bins, _, points, parts = basis.shape
    hop = scalar(step, "frame_step")
    if hop < 1 or points > x.shape[1]:
        raise Unsupported(f"frames of {points} every {hop} samples of {x.shape[1]}")
    signal = Transpose((1, 0))(reshaped(x, (x.shape[1], parts)))
    op = FrameConv1d(parts, 2 * bins, points, hop, bias=False)
    y = with_weights(op, weight=taps(basis))(signal)  # (2 bins, frames)
    return reshaped(Transpose((1, 0))(y), (1, y.shape[1], bins, 2))


@over_time("STFT")
def stft_frames(
    a: Known, n: int, x: Tensor, step: Tensor, window: Tensor = None, length: Tensor = None
) -> Tensor:
    """Where samples come one by one, frames come every `step` of them: a convolution over time."""
    if not isinstance(x, Timed):
        raise Unsupported("a window or a length that come one after another")
    if x.axis != 1:
        raise whole_sequence(x)
    basis = windowed_basis(a, x.value, window, length, None)
    bins, _, points, parts = basis.shape
    hop = scalar(step, "frame_step")
    if hop < 1:
        raise Unsupported(f"frames of {points} every {hop} samples")
    if x.front >= points:  # more zeros than the first frame holds
        x = settled(x)
    op = Conv1d(parts, 2 * bins, points, hop, bias=False, lookahead=points - 1 - x.front)
    y = with_weights(op, weight=taps(basis))(reshaped(x.value, (parts,)))
    return Timed(reshaped(y, (1, 1, bins, 2)), 1, (x.length - points) // hop + 1)
