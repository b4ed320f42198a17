"""Convolutions, inside a frame and over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....graph import Value
from ....ops.conv1d import Conv1d
from ....ops.frame_conv1d import FrameConv1d
from ....ops.frame_conv2d import FrameConv2d
from ....ops.rearrange import Slice, Transpose
from ..node import (
    Array,
    Known,
    Tensor,
    Timed,
    Unsupported,
    known,
    operator,
    over_time,
    reshaped,
    with_weights,
)
from ..time import settled, whole_sequence
from .windows import Window, ahead_of, beside, recent, same_pads, stated, windows

__all__ = ["convolved"]


def convolved(
    x: Value, weight: Array, bias: Array | None, along: Sequence[Window], groups: int
) -> Value:
    """Return the convolution of (N, C, …) with a weight (O, C / groups, …).

    Of three axes, the first has to be one that a single window sees whole.
    """
    N, C, *lengths = x.shape
    O, width, *taps = weight.shape
    if len(along) == 3 and along[0] == Window(lengths[0]):  # its taps are so many channels
        merged = reshaped(x, (N, C * taps[0], *lengths[1:]))
        flat = weight.reshape(O, width * taps[0], *taps[1:])
        y = convolved(merged, flat, bias, along[1:], groups)
        return reshaped(y, (N, O, 1, *y.shape[2:]))
    if len(along) > 2:
        raise Unsupported(f"convolutions over {len(along)} axes of a frame are not supported")
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    if len(along) == 1 and N == 1 and not groups == C == O > 1:
        (w,) = along
        if w.before == w.after:
            sizes = (width * groups, O, w.taps, w.stride, w.before, w.dilation, groups)
            op = with_weights(FrameConv1d(*sizes, bias is not None), **weights)
            y = op(reshaped(x, (C, *lengths)))
            return reshaped(y, (1, *y.shape))
    if len(along) == 1:
        plane = reshaped(x, (N, C, 1, *lengths))
        y = convolved(plane, weight[:, :, None], bias, [Window(1), *along], groups)
        return reshaped(y, (N, O, y.shape[-1]))
    h, w = along
    plane_op = FrameConv2d(
        width * groups,
        O,
        (h.taps, w.taps),
        (h.stride, w.stride),
        (h.before, w.before, h.after, w.after),
        (h.dilation, w.dilation),
        groups,
        bias is not None,
    )
    y = with_weights(plane_op, **weights)(reshaped(x, x.shape[1:]) if N == 1 else x)
    return reshaped(y, (N, *y.shape[-3:]))


def _weights(a: Known, x: Tensor, w: Tensor, bias: Tensor) -> tuple[Array, Array | None, int]:
    """Return weight, bias and groups of a node, checked against its input."""
    weight = known(w, "the weight")
    if weight.ndim != len(x.shape) or weight.ndim < 3:
        raise Unsupported(f"a weight of shape {weight.shape} for an input of shape {x.shape}")
    a.only("kernel_shape", list(weight.shape[2:]))
    return weight, None if bias is None else known(bias, "the bias"), a.get("group", 1)


@operator("Conv")
def conv(a: Known, n: int, x: Value, w: Tensor, bias: Tensor = None) -> Value:
    weight, added, groups = _weights(a, x, w, bias)
    return convolved(x, weight, added, windows(a, x.shape[2:], weight.shape[2:]), groups)


@over_time("Conv")
def conv_frames(a: Known, n: int, x: Tensor, w: Tensor, bias: Tensor = None) -> Timed:
    weight = known(w, "the weight")
    if x.axis is None or x.axis == 0:  # one frame is as good as another
        return Timed(conv(a, n, settled(x).value, weight, bias), x.axis, x.length)
    if x.axis == 1:
        raise whole_sequence(x)
    weight, added, groups = _weights(a, x, weight, bias)
    along = windows(a, x.shape[2:], weight.shape[2:], time=x.axis - 2)
    window = along.pop(x.axis - 2)
    length = window.outputs(x.length)
    if not along and x.shape[0] == 1:
        value, ahead = ahead_of(x, window)
        O, width, taps = weight.shape
        sizes = (width * groups, O, taps, window.stride, window.dilation, groups)
        op = Conv1d(*sizes, added is not None, ahead)
        op.weights = {"weight": weight} | ({} if added is None else {"bias": added})
        return Timed(reshaped(op(reshaped(value, (value.size,))), (1, O, 1)), 2, length)
    weight = np.moveaxis(weight, x.axis, 2)
    y = convolved(recent(x, window), weight, added, [Window(window.taps), *along], groups)
    return beside(x, reshaped(y, (*y.shape[:2], *y.shape[3:])), length)


# Transposed -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spread:
    """A transposed convolution along one axis.

    Entry ``i * stride + j * dilation`` of the whole has a part for input i and tap j; output n is
    its entry ``n + before``.
    """

    taps: int
    stride: int
    dilation: int
    before: int
    outputs: int


def _spreads(a: Known, lengths: Sequence[int], taps: Sequence[int]) -> list[_Spread]:
    """Return how a node spreads out each axis, as its attributes have it."""
    mode, along = stated(a, taps)
    rank = len(taps)
    more = a.get("output_padding", [0] * rank)
    shape = a.get("output_shape", None)
    if len(more) != rank or min(more) < 0 or (shape is not None and len(shape) < rank):
        raise Unsupported(f"output_padding {more} and output_shape {shape} over {rank} axes")
    found = []
    for i, (length, w) in enumerate(zip(lengths, along, strict=True)):
        whole = w.stride * (length - 1) + more[i] + w.span
        before, after = w.before, w.after
        if shape is not None:
            before, after = same_pads(mode, max(whole - shape[i - rank], 0))
        elif mode.startswith("SAME"):
            before, after = same_pads(mode, max(more[i] + w.span - w.stride, 0))
        outputs = whole - before - after if shape is None else shape[i - rank]
        if outputs < 1:
            raise Unsupported(f"pads {before} and {after} leave nothing of an axis of {whole}")
        found.append(_Spread(w.taps, w.stride, w.dilation, before, outputs))
    return found


def _transposed(
    a: Known, x: Value, weight: Array, bias: Array | None, along: Sequence[_Spread], groups: int
) -> Value:
    """Return the transposed convolution of (N, C, …) with a weight (C, O / groups, …).

    With a stride s it is s convolutions, each with every s-th tap in reverse, whose outputs take
    turns: entry ``q * s + r`` is the sum of ``W[a * s + r] x[q - a]`` over a.
    """
    N, C, *lengths = x.shape
    rank, width = len(along), weight.shape[1]
    O = width * groups
    if C % groups or len(weight) != C:
        raise Unsupported(f"a weight of shape {weight.shape} for an input of shape {x.shape}")
    w = weight.reshape(groups, C // groups, width, *weight.shape[2:]).swapaxes(1, 2)
    inner, firsts, turns = [], [], []
    for i, (axis, length) in enumerate(zip(along, lengths, strict=True)):
        w = np.moveaxis(w, 3 + i, -1)
        dilation, taps = axis.dilation, axis.taps
        stride = (
            axis.stride if length > 1 else dilation * (taps - 1) + 1
        )  # of one input any will do
        last = (axis.before + axis.outputs - 1) // stride  # q of the last output
        if stride > 1:  # the gaps between the taps become taps of zero
            span = dilation * (taps - 1) + 1
            taps, dilation = max(-(-span // stride), last - length + 2), 1
            a.reserve(w.size // axis.taps * taps * stride)
            dense = np.zeros((*w.shape[:-1], taps * stride), np.float32)
            dense[..., : span : axis.dilation] = w
            w = dense
        w = w.reshape(*w.shape[:-1], taps, stride)[..., ::-1, :]
        w = np.moveaxis(w, -1, 3 + i)  # the turns, behind the outputs; the taps stay last
        reach = dilation * (taps - 1)
        first = min(axis.before // stride, reach)
        after = max(last + 1 - length, 0)
        inner.append(Window(taps, 1, dilation, reach - first, after))
        firsts.append(axis.before - first * stride)
        turns.append(stride)
    # (groups, O / groups, C / groups, *turns, *taps) -> (O * turns, C / groups, *taps)
    order = [0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank)]
    w = w.transpose(order).reshape(O * math.prod(turns), C // groups, *w.shape[3 + rank :])
    added = None if bias is None else np.repeat(bias, math.prod(turns))
    y = convolved(x, w, added, inner, groups)
    if math.prod(turns) > 1:
        y = reshaped(y, (N, O, *turns, *y.shape[2:]))
        pairs = [axis for i in range(rank) for axis in (2 + rank + i, 2 + i)]
        y = Transpose((0, 1, *pairs))(y)
        sizes = [y.shape[2 + 2 * i] * y.shape[3 + 2 * i] for i in range(rank)]
        y = reshaped(y, (N, O, *sizes))
    for i, (axis, first) in enumerate(zip(along, firsts, strict=True)):
        if (first, axis.outputs) != (0, y.shape[2 + i]):
            y = Slice(first, first + axis.outputs, 2 + i)(y)
    return y


@operator("ConvTranspose")
def conv_transpose(a: Known, n: int, x: Value, w: Tensor, bias: Tensor = None) -> Value:
    weight, added, groups = _weights(a, x, w, bias)
    along = _spreads(a, x.shape[2:], weight.shape[2:])
    return _transposed(a, x, weight, added, along, groups)


@over_time("ConvTranspose")
def conv_transpose_frames(a: Known, n: int, x: Tensor, w: Tensor, bias: Tensor = None) -> Timed:
    weight = known(w, "the weight")
    if x.axis is None or x.axis == 0:
        return Timed(conv_transpose(a, n, settled(x).value, weight, bias), x.axis, x.length)
    if x.axis == 1:
        raise whole_sequence(x)
    weight, added, groups = _weights(a, x, weight, bias)
    along = _spreads(a, x.shape[2:], weight.shape[2:])
    time = along.pop(x.axis - 2)
    if time.stride > 1:
        raise Unsupported(
            f"a stride of {time.stride} over time makes {time.stride} frames of each one that "
            f"comes: a stream hands out at most one"
        )
    # Over time, a convolution with the taps in reverse, which are taken for channels here.
    reach = time.dilation * (time.taps - 1)
    window = Window(time.taps, 1, time.dilation, reach - time.before)
    seen = recent(x, window)
    N, C, taps, *rest = seen.shape
    weight = np.moveaxis(weight, x.axis, 2)[:, :, ::-1]
    flat = weight.swapaxes(1, 2).reshape(C * taps, weight.shape[1], *weight.shape[3:])
    if rest:
        y = _transposed(a, reshaped(seen, (N, C * taps, *rest)), flat, added, along, groups)
    else:
        one = [_Spread(1, 1, 1, 0, 1)]
        y = _transposed(a, reshaped(seen, (N, C * taps, 1)), flat[:, :, None], added, one, groups)
        y = reshaped(y, y.shape[:2])
    return beside(x, y, time.outputs)
