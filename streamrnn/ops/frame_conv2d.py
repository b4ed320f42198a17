"""Convolution inside each frame, over its last two axes: ``torch.nn.Conv2d``, no time involved.

A frame of shape (C, H, W) becomes (O, H', W'), with ``H' = (H + padding - dilation (k - 1) - 1) //
stride + 1`` and the same for W. Nothing is kept between frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import MAX_FRAME, Shape, shown
from ..kernels.product import affine
from ..kernels.simd import as_ints, at, fma, lanes, load, store
from ..kernels.tape import Frames, Scratch, Size, Weights, helper, kernel
from .conv1d import check_convolution, pack_groups
from .frame_conv1d import seen
from .op import Array, Arrays, Op, uniform

if TYPE_CHECKING:
    from ..kernels.simd import Pointer
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["FrameConv2d"]

# What both kernels find in their table of sizes, by index. "Outer" and "inner" are the two axes:
# inner is the one with more outputs, which are computed side by side.
#  0  1  positions of the frame (outer, inner)       2  3  floats from one to the next
#  4  5  outputs                                     6  7  floats from one to the next
#  8  9  taps    10 11  dilation    12 13  stride
# 14 15  positions of the window    16 17  zeros before the frame in it
# 18 19  positions of the frame that are skipped     20  floats of a packed row of weights


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
        C, O, x = self.in_channels, self.out_channels, xs[0]
        y = tape.output()
        weight = self.weights["weight"]
        outer, inner = (0, 1) if y.shape[-1] >= y.shape[-2] else (1, 0)
        both = (outer, inner)
        axes = [
            seen(
                x.shape[i - 2],
                y.shape[i - 2],
                self.kernel_size[i],
                self.stride[i],
                self.pads[i],
                self.dilation[i],
            )
            for i in range(2)
        ]
        weight = weight[:, :, axes[0][0], axes[1][0]]
        taps = weight.shape[2:]
        weight = weight if outer == 0 else weight.swapaxes(2, 3)  # (O, C / groups, outer, inner)
        weight = weight.transpose(0, 2, 3, 1)
        windows = [positions for _, _, positions in axes]
        skips = [max(begin, 0) for _, begin, _ in axes]
        zeros = [min(max(-begin, 0), n) for _, begin, n in axes]
        dilation = [d if n > 1 else 1 for d, n in zip(self.dilation, taps, strict=True)]
        together = self.groups == 1 and dilation[inner] == 1
        step = O // self.groups if not together else O
        per_row = tape.padded(step) * taps[inner] * (C // self.groups)
        sizes = [
            [x.shape[i - 2] for i in both],
            [(x.shape[-1], 1)[i] for i in both],
            [y.shape[i - 2] for i in both],
            [(y.shape[-1], 1)[i] for i in both],
            *([numbers[i] for i in both] for numbers in (taps, dilation, self.stride)),
            *([numbers[i] for i in both] for numbers in (windows, zeros, skips)),
            [per_row],
        ]
        sums_step = tape.padded(O) + tape.lanes
        bias = self.weights["bias"] if self.bias else np.zeros(O, np.float32)
        operands = {
            "x": x,
            "y": y,
            "window": tape.temporary(0, fixed=math.prod(windows) * C),
            "sums": tape.temporary(0, fixed=y.shape[inner - 2] * sums_step),
            "sums_step": sums_step,
            "bias": tape.weight(np.pad(bias, (0, tape.lanes))),
            "sizes": tape.weight(np.concatenate(sizes).astype(np.int32).view(np.float32)),
            "N": math.prod(x.shape[:-3]),
            "C": C,
        }
        if self.groups == C == O:
            P = tape.padded(C)
            filters = np.pad(weight[..., 0].reshape(C, -1).T, ((0, 0), (0, P - C)))
            tape.emit(frame_conv2d_depthwise, **operands, w=tape.weight(filters), P=P)
            return y
        if together:
            packed = pack_groups(tape, weight.reshape(O, -1), 1)
        else:  # one group after another, and of each one row of taps after another
            rows = weight.reshape(self.groups, O // self.groups, taps[outer], -1)
            packed = pack_groups(
                tape, rows.swapaxes(1, 2).reshape(-1, rows.shape[-1]), self.groups * taps[outer]
            )
        tape.emit(frame_conv2d, **operands, w=packed, O=O, groups=self.groups)
        return y

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
        shape = self.output_shape(g.shape())
        return g.op("Reshape", y, g.ints(g.frames(), -1, *shape))
