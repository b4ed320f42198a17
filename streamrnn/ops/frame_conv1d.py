"""Convolution inside each frame, over its last axis: ``torch.nn.Conv1d`` with no time involved.

A frame of shape (C, L) becomes (O, L'), with ``L' = (L + 2 padding - dilation (k - 1) - 1) //
stride + 1``. Nothing is kept between frames; for a convolution over the stream see ``Conv1d``.
A convolution whose weights are those of a windowed Fourier transform runs as a fast transform, and
one from a single position to a single position as a linear layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import MAX_FRAME, Shape, shown
from ..kernels.atomic import alone
from ..kernels.simd import at
from ..kernels.tape import Frames, Matrix, Scratch, Size, Weights, kernel
from .conv1d import check_convolution, convolve, pack_groups, taps_first
from .fourier import fourier_window, lower_windows
from .linear import Linear
from .op import Array, Arrays, Op, uniform

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["FrameConv1d", "seen"]


@kernel
def frame_conv1d(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    sums: Scratch,
    sums_step: Size,
    w: Matrix,
    bias: Weights,
    C: Size,
    O: Size,
    L_in: Size,
    L_out: Size,
    groups: Size,
    taps: Size,
    dilation: Size,
    stride: Size,
    skip: Size,
    left: Size,
    positions: Size,
) -> None:
    """``window`` is a frame as (positions, C), beginning at input ``skip`` after ``left`` zeros."""
    stop = min(positions, left + L_in - skip)  # where the frame ends in the window
    me = alone()
    for t in range(T):
        frame, result = at(x, t * x_step), at(y, t * y_step)
        for i in range(left * C):
            window[i] = 0.0
        for c in range(C):
            for p in range(left, stop):
                window[p * C + c] = frame[c * L_in + p - left + skip]
        for i in range(stop * C, positions * C):
            window[i] = 0.0
        convolve(
            L_out, window, stride * C, taps, dilation, C, groups, bias, sums, sums_step, w, O, me
        )
        for o in range(O):
            for p in range(L_out):
                result[o * L_out + p] = sums[p * sums_step + o]


def seen(
    length: int, outputs: int, taps: int, stride: int, padding: int, dilation: int
) -> tuple[slice, int, int]:
    """Return which taps matter along an axis, where the first begins, and what they reach over.

    Taps that meet nothing but padding, wherever the window stands, are left out. The first of the
    others begins at position ``begin`` of the frame (in the padding where that is negative); from
    there on, the windows reach over so many positions.
    """
    reach = stride * (outputs - 1)
    begins = [tap * dilation - padding for tap in range(taps)]
    useful = [tap for tap, b in enumerate(begins) if b < length and b + reach >= 0]
    kept = slice(useful[0], useful[-1] + 1) if useful else slice(0, 1)
    return kept, begins[kept.start], reach + dilation * (kept.stop - kept.start - 1) + 1


@dataclass(eq=False)
class FrameConv1d(Op):
    """Convolution over the last axis of each frame, with the weights of ``torch.nn.Conv1d``.

    Frames are float32 [shape=(C, L)], outputs float32 [shape=(O, L')]. Weights: ``weight``
    (O, C / groups, kernel_size), ``bias`` (O,). Stateless.

    Parameters
    ----------
    in_channels, out_channels : int
        C and O.
    kernel_size : int
        Taps.
    stride, padding, dilation, groups : int
        As in torch; the padding is zeros on both sides.
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
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True

    def check(self) -> None:
        self.at_least(
            in_channels=1, out_channels=1, kernel_size=1, stride=1, padding=0, dilation=1, groups=1
        )
        check_convolution(self, self.in_channels, self.out_channels, self.groups)
        if self.padding > MAX_FRAME:
            raise ConfigError(f"FrameConv1d: `padding` must be at most {MAX_FRAME}")

    def parameter_shapes(self) -> dict[str, Shape]:
        width = self.in_channels // self.groups
        shapes: dict[str, Shape] = {"weight": (self.out_channels, width, self.kernel_size)}
        return shapes | ({"bias": (self.out_channels,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return uniform(shape, 1 / math.sqrt(self.fan_in()), rng)

    def fan_in(self) -> int:
        """Return how many numbers a sum has."""
        return self.in_channels // self.groups * self.kernel_size

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != self.in_channels:
            raise GraphError(
                f"{self!r} expects frames of shape ({self.in_channels}, L), got {shown(shapes)}"
            )
        span = self.dilation * (self.kernel_size - 1) + 1
        length = (shapes[0][1] + 2 * self.padding - span) // self.stride + 1
        if length < 1:
            raise GraphError(
                f"{self!r} needs at least {span - 2 * self.padding} values on the last axis, "
                f"got {shapes[0]}"
            )
        return (self.out_channels, length)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = np.pad(xs[0], ((0, 0), (self.padding, self.padding)))
        length = self.output_shape(xs[0].shape)[1]
        parts = []
        groups = zip(
            np.split(weights["weight"], self.groups), np.split(x, self.groups), strict=True
        )
        for w, part in groups:
            y = np.zeros((len(w), length))
            for tap in range(self.kernel_size):
                begin = tap * self.dilation
                stop = begin + self.stride * (length - 1) + 1
                y += w[:, :, tap] @ part[:, begin : stop : self.stride]
            parts.append(y)
        return np.concatenate(parts) + (weights["bias"][:, None] if self.bias else 0.0)

    def needs_float32(self) -> str:
        return "a Fourier transform: it reads no matrix" if self._window() is not None else ""

    def _window(self) -> Array | None:
        """Return the window of spectra, if that is what the convolution computes."""
        one = self.dilation == 1 and not self.bias
        return fourier_window(self.weights["weight"]) if one else None

    def scaled(self, scale: Array, shift: Array) -> FrameConv1d:
        """Return ``scale * y + shift`` as one op."""
        op = FrameConv1d(**{**self.config(), "bias": True})
        bias = self.weights["bias"] if self.bias else 0.0
        op.weights = {
            "weight": self.weights["weight"] * scale[:, None, None],
            "bias": bias * scale + shift,
        }
        return op

    def as_product(self) -> Linear | None:
        """Return the linear layer that this is for frames of one position, if there is one output.

        The sums are the same, bit for bit.
        """
        tap, between = divmod(self.padding, self.dilation)
        if self.groups > 1 or between or tap >= self.kernel_size:
            return None
        layer = Linear(self.in_channels, self.out_channels, self.bias)
        layer.weights = {**self.weights, "weight": self.weights["weight"][:, :, tap]}
        return layer

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        C, O, L_in = self.in_channels, self.out_channels, xs[0].shape[1]
        weight = self.weights["weight"]
        window = self._window()
        if window is not None:
            return lower_windows(tape, xs[0], window, self.stride, self.padding)
        one = xs[0].shape[1] == self.output_shape(xs[0].shape)[1] == 1
        if one and (layer := self.as_product()) is not None:
            return layer.lower(tape, xs[0].view((self.in_channels,)))
        y = tape.output()
        L_out = y.shape[1]
        kept, begin, positions = seen(
            L_in, L_out, self.kernel_size, self.stride, self.padding, self.dilation
        )
        taps = kept.stop - kept.start
        sums_step = tape.padded(O) + tape.lanes
        bias = self.weights["bias"] if self.bias else np.zeros(O, np.float32)
        tape.emit(
            frame_conv1d,
            x=xs[0],
            y=y,
            window=tape.temporary(0, fixed=positions * C),
            sums=tape.temporary(0, fixed=L_out * sums_step),
            sums_step=sums_step,
            w=pack_groups(tape, taps_first(weight[:, :, kept]), self.groups),
            bias=tape.weight(np.pad(bias, (0, tape.lanes))),
            C=C,
            O=O,
            L_in=L_in,
            L_out=L_out,
            groups=self.groups,
            taps=taps,
            dilation=self.dilation,
            stride=self.stride,
            skip=max(begin, 0),
            left=min(max(-begin, 0), positions),
            positions=positions,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        # (T, N, C, L) -> (T * N, C, L): the frames are a batch.
        merged = g.op("Reshape", xs[0], g.ints(-1, *g.shape()))
        y = g.op(
            "Conv",
            merged,
            g.constant(self.weights["weight"], "weight"),
            g.constant(self.weights["bias"], "bias") if self.bias else "",
            kernel_shape=[self.kernel_size],
            strides=[self.stride],
            dilations=[self.dilation],
            pads=[self.padding, self.padding],
            group=self.groups,
        )
        return g.unmerge(y, *self.output_shape(g.shape()))
