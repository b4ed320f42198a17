"""Convolution inside each frame, over its last two axes: ``torch.nn.Conv2d``, no time involved.

A frame of shape (C, H, W) becomes (O, H', W'), with ``H' = (H + padding - dilation (k - 1) - 1) //
stride + 1`` and the same for W. Nothing is kept between frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import MAX_FRAME, Shape, shown
from ..kernels.product import affine
from ..kernels.simd import as_ints, at, fma, lanes, load, splat, store
from ..kernels.tape import Frames, Scratch, Size, Weights, helper, kernel
from .conv1d import check_convolution, pack_groups
from .frame_conv1d import seen
from .op import Array, Arrays, Op, uniform

if TYPE_CHECKING:
    from ..kernels.simd import Pointer
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["FrameConv2d"]

# There are three kernels. In the first, the lanes of a vector are positions of the inner axis: the
# frame stays as it lies, and nothing is wasted where that axis is long. In the others they are
# channels, for which the frame is turned: those of the output, or of both where each has a filter
# of its own. ``_cheapest`` says which.
#
# What they find in their table of sizes, by index. "Outer" and "inner" are the two axes: inner is
# the one with more outputs.
#  0  1  positions of the frame (outer, inner)       2  3  floats from one to the next
#  4  5  outputs                                     6  7  floats from one to the next
#  8  9  taps    10 11  dilation    12 13  stride
# 14 15  positions of the window    16 17  zeros before the frame in it
# 18 19  positions of the frame that are skipped     20  floats of a packed row of weights
# In the first kernel, 20 is the length of a phase (every stride-th position of a row), and behind
# it come the taps: where in the window each begins.


@helper
def spread(frame: Pointer, window: Pointer, C: int, s: Pointer) -> None:
    """Lay a frame (C, outer, inner) out as a window (outer, inner, C) with its padding."""
    rows, row = s[14], s[15]
    top, left, skip_top, skip_left = s[16], s[17], s[18], s[19]
    stop, end = min(rows, top + s[0] - skip_top), min(row, left + s[1] - skip_left)
    if top or left or stop < rows or end < row:
        for i in range(rows * row * C):
            window[i] = 0.0
    for c in range(C):
        plane = at(frame, c * s[0] * s[1])
        for p in range(top, stop):
            source = at(plane, (p - top + skip_top) * s[2] + skip_left * s[3])
            target = at(window, (p * row + left) * C + c)
            for q in range(end - left):
                target[q * C] = source[q * s[3]]


@helper
def collect(sums: Pointer, sums_step: int, result: Pointer, O: int, s: Pointer) -> None:
    """Put a row of outputs (inner, O) where it belongs in (O, outer, inner)."""
    for o in range(O):
        plane = at(result, o * s[4] * s[5])
        for q in range(s[5]):
            plane[q * s[7]] = sums[q * sums_step + o]


@helper
def clear(n: int, x: Pointer) -> None:
    """``x[:n] = 0``, in whole vectors, which may write behind."""
    for i in range(0, n, lanes()):
        store(x, i, splat(0.0))


@helper
def lay_out(frame: Pointer, window: Pointer, C: int, s: Pointer) -> None:
    """Copy a frame (C, outer, inner) with its padding, each row as its phases."""
    stride, phase = s[13], s[20]
    row = stride * phase
    plane = s[14] * row
    top, left, skip_top, skip_left = s[16], s[17], s[18], s[19]
    stop, end = min(s[14], top + s[0] - skip_top), min(s[15], left + s[1] - skip_left)
    hop = s[10] if s[4] == 1 else 1  # rows that no tap meets are left out
    begin, count = -(-top // hop) * hop, end - left
    outer, inner, x_plane = s[2], s[3], s[0] * s[1]
    plain = stride == 1 and inner == 1
    if not plain and (top or left or stop < s[14] or end < s[15]):
        clear(C * plane, window)
    for c in range(C):
        channel = at(window, c * plane)
        source = at(frame, c * x_plane + (begin - top + skip_top) * outer + skip_left * inner)
        if plain:
            clear(top * row, channel)
        p = begin
        while p < stop:
            target = at(channel, p * row)
            if plain:  # whole vectors; what they write behind a row is overwritten
                clear(left, target)
                for i in range(0, count, lanes()):
                    store(target, left + i, load(source, i))
                clear(row - end, at(target, end))
            elif stride * inner == 2:  # a constant step is what a compiler makes vectors of
                for r in range(stride):
                    q = left + (r - left) % stride
                    to, first = at(target, r * phase + q // stride), at(source, (q - left) * inner)
                    for i in range((end - q + stride - 1) // stride):
                        to[i] = first[2 * i]
            else:
                for r in range(stride):
                    q = left + (r - left) % stride
                    to, first = at(target, r * phase + q // stride), at(source, (q - left) * inner)
                    for i in range((end - q + stride - 1) // stride):
                        to[i] = first[i * stride * inner]
            p += hop
            source = at(source, hop * outer)
        if plain:
            clear((s[14] - stop) * row, at(channel, stop * row))


@helper
def put(total: Any, y: Pointer, step: int, count: int, rest: Pointer) -> None:
    """Write a vector's first `count` numbers, or all."""
    if step == 1 and count >= lanes():
        store(y, 0, total)
    else:
        store(rest, 0, total)
        for i in range(min(count, lanes())):
            y[i * step] = rest[i]


@helper
def one_by_one(
    x: Pointer, plane: int, C: int, taps: int, where: Pointer, w: Pointer, start: Any
) -> Any:
    """One vector of positions of one output."""
    a, k = splat(start), 0
    for c in range(C):
        channel = at(x, c * plane)
        for tap in range(taps):
            a = fma(splat(w[k]), load(channel, where[tap]), a)
            k += 1
    return a


@helper
def four_by_two(
    x: Pointer,
    plane: int,
    C: int,
    taps: int,
    where: Pointer,
    w: Pointer,
    bias: Pointer,
    y: Pointer,
    y_channel: int,
    step: int,
    two: bool,
    count: int,
    rest: Pointer,
) -> None:
    """One or two vectors of positions of four outputs, of which `count` numbers are written."""
    L = lanes()
    a0, a1, a2, a3 = splat(bias[0]), splat(bias[1]), splat(bias[2]), splat(bias[3])
    b0, b1, b2, b3 = a0, a1, a2, a3
    k = 0
    if two:
        for c in range(C):
            channel = at(x, c * plane)
            for tap in range(taps):
                first, second = load(channel, where[tap]), load(channel, where[tap] + L)
                w0, w1, w2, w3 = splat(w[k]), splat(w[k + 1]), splat(w[k + 2]), splat(w[k + 3])
                a0, b0 = fma(w0, first, a0), fma(w0, second, b0)
                a1, b1 = fma(w1, first, a1), fma(w1, second, b1)
                a2, b2 = fma(w2, first, a2), fma(w2, second, b2)
                a3, b3 = fma(w3, first, a3), fma(w3, second, b3)
                k += 4
        put(b0, at(y, L * step), step, count - L, rest)
        put(b1, at(y, y_channel + L * step), step, count - L, rest)
        put(b2, at(y, 2 * y_channel + L * step), step, count - L, rest)
        put(b3, at(y, 3 * y_channel + L * step), step, count - L, rest)
    else:
        for c in range(C):
            channel = at(x, c * plane)
            for tap in range(taps):
                first = load(channel, where[tap])
                a0 = fma(splat(w[k]), first, a0)
                a1 = fma(splat(w[k + 1]), first, a1)
                a2 = fma(splat(w[k + 2]), first, a2)
                a3 = fma(splat(w[k + 3]), first, a3)
                k += 4
    put(a0, y, step, count, rest)
    put(a1, at(y, y_channel), step, count, rest)
    put(a2, at(y, 2 * y_channel), step, count, rest)
    put(a3, at(y, 3 * y_channel), step, count, rest)


@kernel
def frame_conv2d_rows(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    rest: Scratch,
    w: Weights,
    bias: Weights,
    sizes: Weights,
    N: Size,
    C: Size,
    O: Size,
    groups: Size,
    copied: Size,
) -> None:
    """The lanes of a vector are positions. Weights: four outputs side by side, the rest one by one.

    Without padding and stride there is no window: the frame is read where it lies.
    """
    s = as_ints(sizes)
    where = at(s, 21)
    width, out, taps, L = C // groups, O // groups, s[8] * s[9], lanes()
    # What whole vectors write behind a row is overwritten, if rows come one after another.
    loose = s[4] == 1 and s[7] == 1
    row = s[13] * s[20]
    plane = s[14] * row
    y_channel = s[4] * s[5]
    for t in range(T):
        for n in range(N):
            source = at(x, t * x_step + n * C * s[0] * s[1])
            if copied:
                lay_out(source, window, C, s)
                source = window
            for p in range(s[4]):
                result = at(y, t * y_step + n * O * y_channel + p * s[6])
                for g in range(groups):
                    first = at(source, g * width * plane + p * s[12] * row)
                    o, stop = g * out, (g + 1) * out
                    while o < stop:
                        weight, start, to = at(w, o * width * taps), at(bias, o), o * y_channel
                        four = stop - o >= 4
                        width_of_tile = 2 * L if four else L
                        q = (s[5] - 1) // width_of_tile * width_of_tile
                        while q >= 0:  # the last first, so that nothing is overwritten too late
                            seen_, end = at(first, q), at(result, to + q * s[7])
                            count = 2 * L if loose else s[5] - q
                            if four:
                                four_by_two(
                                    seen_,
                                    plane,
                                    width,
                                    taps,
                                    where,
                                    weight,
                                    start,
                                    end,
                                    y_channel,
                                    s[7],
                                    s[5] - q > L,
                                    count,
                                    rest,
                                )
                            else:
                                total = one_by_one(
                                    seen_, plane, width, taps, where, weight, start[0]
                                )
                                put(total, end, s[7], count, rest)
                            q -= width_of_tile
                        o += 4 if four else 1


@kernel
def frame_conv2d(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    sums: Scratch,
    sums_step: Size,
    w: Weights,
    bias: Weights,
    sizes: Weights,
    N: Size,
    C: Size,
    O: Size,
    groups: Size,
) -> None:
    """A frame is N planes of C channels; ``w`` has the packed rows of one group after another."""
    s = as_ints(sizes)
    width, out, row = C // groups, O // groups, s[15] * C
    parts, pieces, piece, hop = s[8], s[9], width, s[11] * C
    if groups == 1 and s[11] == 1:  # the taps of a row lie side by side: all rows at once
        parts, pieces, piece, hop = 1, s[8], s[9] * C, s[10] * row
    for t in range(T):
        for n in range(N):
            spread(at(x, t * x_step + n * C * s[0] * s[1]), window, C, s)
            for p in range(s[4]):
                first = at(window, p * s[12] * row)
                for g in range(groups):
                    to = at(sums, g * out)
                    start, start_step = at(bias, g * out), 0
                    for part in range(parts):
                        source = at(first, part * s[10] * row + g * width)
                        weight = at(w, (g * parts + part) * s[20])
                        affine(
                            s[5],
                            source,
                            s[13] * C,
                            pieces,
                            hop,
                            piece,
                            start,
                            start_step,
                            to,
                            sums_step,
                            weight,
                            out,
                        )
                        start, start_step = to, sums_step
                result = at(y, t * y_step + n * O * s[4] * s[5] + p * s[6])
                collect(sums, sums_step, result, O, s)


@kernel
def frame_conv2d_depthwise(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    sums: Scratch,
    sums_step: Size,
    w: Weights,
    bias: Weights,
    sizes: Weights,
    N: Size,
    C: Size,
    P: Size,
) -> None:
    """One filter a channel; the lanes of a vector are channels."""
    s = as_ints(sizes)
    row = s[15] * C
    for t in range(T):
        for n in range(N):
            spread(at(x, t * x_step + n * C * s[0] * s[1]), window, C, s)
            for p in range(s[4]):
                for q in range(s[5]):
                    first = at(window, p * s[12] * row + q * s[13] * C)
                    for c in range(0, C, lanes()):
                        total = load(bias, c)
                        for i in range(s[8]):
                            for j in range(s[9]):
                                tap = load(w, (i * s[9] + j) * P + c)
                                seen_ = load(first, i * s[10] * row + j * s[11] * C + c)
                                total = fma(tap, seen_, total)
                        store(sums, q * sums_step + c, total)
                result = at(y, t * y_step + n * C * s[4] * s[5] + p * s[6])
                collect(sums, sums_step, result, C, s)


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution; the numbers are explained above the kernels."""

    length: int
    x_step: int
    outputs: int
    y_step: int
    taps: int
    dilation: int
    stride: int
    positions: int
    zeros: int
    skip: int
    kept: slice
    """Taps that matter."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers that kernels get, in their order."""
        return (
            *(self.length, self.x_step, self.outputs, self.y_step),
            *(self.taps, self.dilation, self.stride),
            *(self.positions, self.zeros, self.skip),
        )

    @property
    def padded(self) -> bool:
        """Whether windows see more than the frame."""
        return bool(self.zeros or self.skip or self.positions > self.length)


def _axis(op: FrameConv2d, i: int, x: Shape, y: Shape) -> _Axis:
    length, outputs, stride = x[i - 2], y[i - 2], op.stride[i]
    kept, begin, positions = seen(
        length, outputs, op.kernel_size[i], stride, op.pads[i], op.dilation[i]
    )
    taps = kept.stop - kept.start
    return _Axis(
        length,
        (x[-1], 1)[i],
        outputs,
        (y[-1], 1)[i],
        taps,
        op.dilation[i] if taps > 1 else 1,
        stride,
        positions,
        min(max(-begin, 0), positions),
        max(begin, 0),
        kept,
    )


def _table(tape: Lowering, h: _Axis, w: _Axis, more: Sequence[int]) -> int:
    pairs = zip(h.sizes, w.sizes, strict=True)
    sizes = [size for pair in pairs for size in pair]
    return tape.weight(np.array([*sizes, *more], np.int32).view(np.float32))


def _cheapest(op: FrameConv2d, h: _Axis, w: _Axis, L: int) -> str:
    """Return what the lanes of a vector should be, by a count of vector operations."""
    C, O, groups = op.in_channels, op.out_channels, op.groups
    out, sums = O // groups, C // groups * h.taps * w.taps
    turned = C * h.positions * w.positions + O * h.outputs * w.outputs
    costs = {
        "positions": h.outputs * -(-w.outputs // L) * (O + groups * (out % 4)) * sums,
        "channels": h.outputs * w.outputs * groups * -(-out // L) * sums + turned,
    }
    if groups == C == O:
        costs["depthwise"] = h.outputs * w.outputs * -(-C // L) * h.taps * w.taps + turned
    return min(costs, key=lambda kind: costs[kind])


@dataclass(eq=False)
class FrameConv2d(Op):
    """Convolution over the last two axes of each frame, with the weights of ``torch.nn.Conv2d``.

    Frames are float32 [shape=(…, C, H, W)], outputs float32 [shape=(…, O, H', W')]. Weights:
    ``weight`` (O, C / groups, *kernel_size), ``bias`` (O,). Stateless.

    Parameters
    ----------
    in_channels, out_channels : int
        C and O.
    kernel_size : tuple of int
        Taps along H and W.
    stride, dilation : tuple of int
        As in torch, along H and W.
    padding : tuple of int
        Zeros on both sides of H and W, as in torch; or four numbers: before H, before W, after H,
        after W, as in ONNX.
    groups : int
        Blocks of channels that do not mix; it divides C and O.
    bias : bool
        Whether there is a bias.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range or the groups do not divide the channels.
    """

    in_channels: int
    out_channels: int
    kernel_size: Sequence[int]
    stride: Sequence[int] = (1, 1)
    padding: Sequence[int] = (0, 0)
    dilation: Sequence[int] = (1, 1)
    groups: int = 1
    bias: bool = True

    channel_axis = -3

    def check(self) -> None:
        self.at_least(in_channels=1, out_channels=1, groups=1)
        limits = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0}
        for name, low in limits.items():
            numbers = getattr(self, name)
            lengths = (2, 4) if name == "padding" else (2,)
            if len(numbers) not in lengths or any(not low <= n <= MAX_FRAME for n in numbers):
                raise ConfigError(
                    f"FrameConv2d: `{name}` must be {' or '.join(map(str, lengths))} integers from "
                    f"{low} to {MAX_FRAME}, got {numbers!r}"
                )
        check_convolution(self, self.in_channels, self.out_channels, self.groups)

    @property
    def pads(self) -> tuple[int, ...]:
        """Zeros before H, before W, after H, after W."""
        return tuple(self.padding) * (4 // len(self.padding))

    def parameter_shapes(self) -> dict[str, Shape]:
        width = self.in_channels // self.groups
        shapes: dict[str, Shape] = {"weight": (self.out_channels, width, *self.kernel_size)}
        return shapes | ({"bias": (self.out_channels,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        fan_in = self.in_channels // self.groups * math.prod(self.kernel_size)
        return uniform(shape, 1 / math.sqrt(fan_in), rng)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or len(shapes[0]) < 3 or shapes[0][-3] != self.in_channels:
            raise GraphError(
                f"{self!r} expects frames of shape (…, {self.in_channels}, H, W), got "
                f"{shown(shapes)}"
            )
        lengths = []
        for i in range(2):
            padding = self.pads[i] + self.pads[2 + i]
            span = self.dilation[i] * (self.kernel_size[i] - 1) + 1
            lengths.append((shapes[0][i - 2] + padding - span) // self.stride[i] + 1)
            if lengths[i] < 1:
                raise GraphError(
                    f"{self!r} needs at least {span - padding} values on axis {i - 2}, "
                    f"got {shapes[0]}"
                )
        return (*shapes[0][:-3], self.out_channels, *lengths)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        top, left, bottom, right = self.pads
        shape = self.output_shape(xs[0].shape)
        x = xs[0].reshape(-1, *xs[0].shape[-3:])
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (H, W), groups = shape[-2:], self.groups
        x = x.reshape(len(x), groups, -1, *x.shape[2:])
        w = weights["weight"].reshape(groups, -1, *weights["weight"].shape[1:])
        y = np.zeros((len(x), groups, w.shape[1], H, W))
        for i in range(self.kernel_size[0]):
            for j in range(self.kernel_size[1]):
                a, b = i * self.dilation[0], j * self.dilation[1]
                part = x[:, :, :, a :: self.stride[0], b :: self.stride[1]][..., :H, :W]
                y += np.einsum("goc,ngchw->ngohw", w[..., i, j], part)
        bias = weights["bias"][:, None, None] if self.bias else 0.0
        return y.reshape(shape) + bias

    def scaled(self, scale: Array, shift: Array) -> FrameConv2d:
        """Return ``scale * y + shift`` as one op."""
        op = FrameConv2d(**{**self.config(), "bias": True})
        bias = self.weights["bias"] if self.bias else 0.0
        op.weights = {
            "weight": self.weights["weight"] * scale[:, None, None, None],
            "bias": bias * scale + shift,
        }
        return op

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y = xs[0], tape.output(spare=2 * tape.lanes)
        axes = [_axis(self, i, x.shape, y.shape) for i in range(2)]
        weight = self.weights["weight"][:, :, axes[0].kept, axes[1].kept]
        h, w = axes
        if w.outputs < h.outputs:
            h, w, weight = w, h, weight.swapaxes(2, 3)
        bias = self.weights["bias"] if self.bias else np.zeros(self.out_channels, np.float32)
        operands = {
            "x": x,
            "y": y,
            "bias": tape.weight(np.pad(bias, (0, tape.lanes))),
            "N": math.prod(x.shape[:-3]),
            "C": self.in_channels,
        }
        kind = _cheapest(self, h, w, tape.lanes)
        if kind == "positions":
            self._by_position(tape, operands, h, w, weight)
        else:
            self._by_channel(tape, operands, h, w, weight.transpose(0, 2, 3, 1), kind)
        return y

    def _by_position(
        self, tape: Lowering, operands: dict[str, Any], h: _Axis, w: _Axis, weight: Array
    ) -> None:
        """Emit the kernel whose lanes are positions; the weight is (O, C / groups, h, w)."""
        copied = w.stride > 1 or w.x_step > 1 or h.padded or w.padded
        shift = -w.zeros % tape.lanes if w.stride == 1 else 0  # the frame's rows begin at vectors
        w = replace(w, zeros=w.zeros + shift, positions=w.positions + shift)
        phase = tape.padded(w.positions // w.stride + 1)
        if not copied:  # the window is the frame
            h, phase = replace(h, positions=h.length), h.x_step
        row = w.stride * phase
        rows = h.dilation * np.arange(h.taps)[:, None]
        taps = w.dilation * np.arange(w.taps) + shift
        where = rows * row + taps % w.stride * phase + taps // w.stride
        filters = []
        for group in np.split(weight.reshape(self.out_channels, -1), self.groups):
            fours, others = np.split(group, [len(group) // 4 * 4])
            filters += [part.T for part in np.split(fours, len(fours) // 4)] if len(fours) else []
            filters.append(others)
        flat = np.concatenate([part.reshape(-1) for part in filters])
        tape.emit(
            frame_conv2d_rows,
            **operands,
            window=tape.temporary(0, fixed=self.in_channels * h.positions * row if copied else 1),
            rest=tape.temporary(tape.lanes),
            w=tape.weight(flat),
            sizes=_table(tape, h, w, [phase, *where.reshape(-1)]),
            O=self.out_channels,
            groups=self.groups,
            copied=int(copied),
        )

    def _by_channel(
        self,
        tape: Lowering,
        operands: dict[str, Any],
        h: _Axis,
        w: _Axis,
        weight: Array,
        kind: str,
    ) -> None:
        """Emit a kernel whose lanes are channels; the weight is (O, h, w, C / groups)."""
        C, O, groups = self.in_channels, self.out_channels, self.groups
        step = tape.padded(O) + tape.lanes
        operands |= {
            "window": tape.temporary(0, fixed=h.positions * w.positions * C),
            "sums": tape.temporary(0, fixed=w.outputs * step),
            "sums_step": step,
        }
        if kind == "depthwise":
            P = tape.padded(C)
            filters = np.pad(weight.reshape(C, -1).T, ((0, 0), (0, P - C)))
            sizes = _table(tape, h, w, [0])
            tape.emit(frame_conv2d_depthwise, **operands, sizes=sizes, w=tape.weight(filters), P=P)
            return
        if groups == 1 and w.dilation == 1:
            rows, parts = weight.reshape(O, -1), 1
        else:  # one group after another, and of each one row of taps after another
            split = weight.reshape(groups, O // groups, h.taps, -1).swapaxes(1, 2)
            rows, parts = split.reshape(-1, split.shape[-1]), groups * h.taps
        per_row = tape.padded(O // groups) * rows.shape[1]
        tape.emit(
            frame_conv2d,
            **operands,
            sizes=_table(tape, h, w, [per_row]),
            w=pack_groups(tape, rows, parts),
            O=O,
            groups=groups,
        )

    def onnx(self, g: Recorder, *xs: str) -> str:
        # (T, N, …, C, H, W) -> (T * N * …, C, H, W): the frames are a batch.
        merged = g.op("Reshape", xs[0], g.ints(-1, *g.shape()[-3:]))
        y = g.op(
            "Conv",
            merged,
            g.constant(self.weights["weight"], "weight"),
            g.constant(self.weights["bias"], "bias") if self.bias else "",
            kernel_shape=list(self.kernel_size),
            strides=list(self.stride),
            dilations=list(self.dilation),
            pads=list(self.pads),
            group=self.groups,
        )
        return g.unmerge(y, *self.output_shape(g.shape()))
