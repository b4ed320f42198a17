"""Convolution over the frames of a stream: an output depends on this frame and past ones.

``y[m] = b + sum over taps j of W[:, :, j] x[m * stride + lookahead - (k - 1 - j) * dilation]``,
with frames before the first one zero. That is ``torch.nn.Conv1d`` on a sequence padded on the left
by ``dilation * (k - 1) - lookahead``; an output is due at frames lookahead, lookahead + stride, …
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Clock, Shape
from ..kernels.atomic import alone
from ..kernels.member import leads, meet, share_affine
from ..kernels.product import affine
from ..kernels.simd import at, floats, fma, lanes, load, store
from ..kernels.tape import (
    Frames,
    Index,
    Matrix,
    Member,
    Place,
    Scratch,
    Size,
    State,
    Streams,
    Weights,
    copy,
    helper,
    kernel,
)
from .op import Array, Arrays, Op, uniform

if TYPE_CHECKING:
    from ..kernels.simd import Pointer
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Conv1d", "check_convolution", "pack_groups", "remember", "taps_first"]


@helper
def remember(
    T: int, x: Pointer, x_step: int, window: Pointer, past: Pointer, C: int, frames: int
) -> None:
    """``window`` becomes the past frames and the new ones; ``past`` its last frames."""
    copy(frames * C, past, window)
    for t in range(T):
        copy(C, at(x, t * x_step), at(window, (frames + t) * C))
    copy(frames * C, at(window, T * C), past)


@helper
def convolve(
    T: int,
    window: Pointer,
    window_step: int,
    taps: int,
    dilation: int,
    C: int,
    groups: int,
    bias: Pointer,
    y: Pointer,
    y_step: int,
    w: Pointer,
    O: int,
    me: Member,
) -> None:
    """T outputs; each sees ``taps`` rows of C numbers from where it begins, ``window_step`` apart.

    ``w`` holds the groups one after another; each output needs room for a vector beyond O. A vector
    may reach into the next group's outputs, so one member makes all groups, one after another.
    """
    width, out = C // groups, O // groups
    packed = (out + lanes() - 1) // lanes() * lanes() * taps * width
    pieces, piece, hop = taps, width, dilation * C
    if groups == 1 and dilation == 1:  # the taps lie side by side
        pieces, piece, hop = 1, taps * C, 0
    if groups == 1:
        share_affine(me, T, window, window_step, pieces, hop, piece, bias, 0, y, y_step, w, O)
    elif leads(me):
        for g in range(groups):
            source, sums, result = at(window, g * width), at(bias, g * out), at(y, g * out)
            weight = at(w, g * packed)
            affine(T, source, window_step, pieces, hop, piece, sums, 0, result, y_step, weight, out)


@kernel
def conv1d(
    T: Frames,
    due: Frames,
    index: Index,
    first: Index,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    past: State,
    w: Matrix,
    bias: Weights,
    C: Size,
    O: Size,
    groups: Size,
    taps: Size,
    dilation: Size,
    stride: Size,
    lookahead: Size,
    memory: Size,
    me: Member,
) -> None:
    """``memory`` past frames are kept; ``index`` frames and ``first`` outputs came before."""
    if leads(me):
        remember(T, x, x_step, window, past, C, memory)
    meet(me)
    begin = at(window, (stride * first + lookahead - index) * C)
    convolve(due, begin, stride * C, taps, dilation, C, groups, bias, y, y_step, w, O, me)


@conv1d.pooled
def conv1d_streams(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    windows: Scratch,
    windows_step: Size,
    past: Place,
    w: Matrix,
    bias: Weights,
    C: Size,
    O: Size,
    groups: Size,
    taps: Size,
    dilation: Size,
    memory: Size,
) -> None:
    """A frame and an output of T streams; ``windows`` takes what each of them sees."""
    for t in range(T):
        window, state = at(windows, t * windows_step), floats(streams[t])
        remember(1, at(x, t * x_step), 0, window, at(state, past), C, memory)
    convolve(
        T, windows, windows_step, taps, dilation, C, groups, bias, y, y_step, w, O, alone()
    )  # fmt: skip


@kernel
def conv1d_depthwise(
    T: Frames,
    due: Frames,
    index: Index,
    first: Index,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    window: Scratch,
    past: State,
    w: Matrix,
    bias: Weights,
    C: Size,
    taps: Size,
    dilation: Size,
    stride: Size,
    lookahead: Size,
    memory: Size,
    P: Size,
) -> None:
    """One filter a channel; the lanes of a vector are channels."""
    remember(T, x, x_step, window, past, C, memory)
    begin = stride * first + lookahead - index
    for t in range(due):
        source = at(window, (begin + t * stride) * C)
        for c in range(0, C, lanes()):
            total = load(bias, c)
            for tap in range(taps):
                total = fma(load(w, tap * P + c), load(source, tap * dilation * C + c), total)
            store(y, t * y_step + c, total)


def check_convolution(op: Op, channels: int, out_channels: int, groups: int) -> None:
    """Raise ConfigError unless the groups divide both channel counts."""
    if channels % groups or out_channels % groups:
        raise ConfigError(
            f"{type(op).__name__}: `groups`={groups} must divide in_channels={channels} and "
            f"out_channels={out_channels}"
        )


def taps_first(weight: Array) -> Array:
    """Return (O, C, k) as (O, k * C): the order in which a window of frames lies in memory."""
    return np.reshape(np.swapaxes(weight, 1, 2), (len(weight), -1))


def pack_groups(tape: Lowering, weight: Array, groups: int) -> int:
    """Store a weight (O, k * C) as one packed matrix after another, one a group."""
    from ..kernels.product import pack

    parts = [pack(part, tape.lanes) for part in np.split(weight, groups)]
    return tape.packed(np.concatenate(parts))


@dataclass(eq=False)
class Conv1d(Op):
    """Convolution over the stream, with the weights of ``torch.nn.Conv1d``; causal by default.

    Frames are float32 [shape=(C,)], outputs float32 [shape=(O,)], every ``stride`` frames; the
    state ``past`` [shape=(dilation * (kernel_size - 1), C)] is the last frames, oldest first.
    Weights: ``weight`` (O, C / groups, kernel_size), ``bias`` (O,).

    Parameters
    ----------
    in_channels, out_channels : int
        C and O.
    kernel_size : int
        Frames that one output sees, counted in steps of `dilation`.
    stride : int
        Frames from one output to the next.
    dilation : int
        Frames from one tap to the next.
    groups : int
        Blocks of channels that do not mix; it divides C and O.
    bias : bool
        Whether there is a bias.
    lookahead : int
        Frames by which an output sees ahead: the first one is due so many frames later.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer, `lookahead` is negative, or the groups do not divide
        the channels.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    lookahead: int = 0

    def check(self) -> None:
        self.at_least(in_channels=1, out_channels=1, kernel_size=1, stride=1, dilation=1, groups=1)
        self.at_least(lookahead=0)
        check_convolution(self, self.in_channels, self.out_channels, self.groups)
        self.stride_frames = self.stride

    @property
    def memory_frames(self) -> int:
        """Past frames that are kept."""
        return self.dilation * (self.kernel_size - 1)

    def clock(self, *clocks: Clock) -> Clock:
        return clocks[0].every(self.stride, self.lookahead)

    def receptive_field(self, *shapes: Shape) -> int:
        return self.memory_frames + 1

    def parameter_shapes(self) -> dict[str, Shape]:
        width = self.in_channels // self.groups
        shapes: dict[str, Shape] = {"weight": (self.out_channels, width, self.kernel_size)}
        return shapes | ({"bias": (self.out_channels,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        fan_in = self.in_channels // self.groups * self.kernel_size
        return uniform(shape, 1 / math.sqrt(fan_in), rng)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"past": (self.memory_frames, self.in_channels)} if self.memory_frames else {}

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.in_channels,),)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        self.expect(shapes[0], (self.in_channels,))
        return (self.out_channels,)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        past = states.get("past", np.zeros((0, self.in_channels)))
        window = np.concatenate([past, xs[0][None]])
        if self.memory_frames:
            states["past"] = window[1:]
        taps = window[:: self.dilation]  # (k, C)
        groups = zip(
            np.split(weights["weight"], self.groups), np.split(taps, self.groups, 1), strict=True
        )
        y = np.concatenate([np.einsum("ock,kc->o", w, x) for w, x in groups])
        return np.asarray(y + weights["bias"] if self.bias else y)

    def needs_float32(self) -> str:
        return ""

    def scaled(self, scale: Array, shift: Array) -> Conv1d:
        """Return ``scale * y + shift`` as one op."""
        op = Conv1d(**{**self.config(), "bias": True})
        bias = self.weights["bias"] if self.bias else 0.0
        op.weights = {
            "weight": self.weights["weight"] * scale[:, None, None],
            "bias": bias * scale + shift,
        }
        return op

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        C, O = self.in_channels, self.out_channels
        x = xs[0]
        y = tape.output(spare=tape.lanes)
        bias = self.weights["bias"] if self.bias else np.zeros(O, np.float32)
        operands = {
            "due": y,
            "index": x,
            "first": y,
            "x": x,
            "y": y,
            "window": tape.temporary(C, fixed=self.memory_frames * C, like=x),
            "past": tape.state("past") if self.memory_frames else 0,
            "bias": tape.weight(np.pad(bias, (0, tape.lanes))),
            "C": C,
            "taps": self.kernel_size,
            "dilation": self.dilation,
            "stride": self.stride,
            "lookahead": self.lookahead,
            "memory": self.memory_frames,
        }
        weight = self.weights["weight"]
        if self.groups == C == O:
            P = tape.padded(C)
            lanes_of_taps = np.pad(weight[:, 0].T, ((0, 0), (0, P - C)))
            tape.emit(conv1d_depthwise, **operands, w=tape.packed(lanes_of_taps), P=P)
        else:
            w = pack_groups(tape, taps_first(weight), self.groups)
            windows = tape.temporary((self.memory_frames + 1) * C, pool=True)
            tape.emit(
                conv1d,
                **operands,
                w=w,
                O=O,
                groups=self.groups,
                pool={"windows": windows},
                work=weight.size if self.groups == 1 else 0,
            )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        window = xs[0]
        if self.memory_frames:
            window = g.op("Concat", g.state("past", batch_axis=1), xs[0], axis=0)
            last = [g.ints(n) for n in (-self.memory_frames, 2**62, 0)]
            g.next_state("past", g.op("Slice", window, *last))
        read, made = g.first_frames()
        begin = self.stride * made + self.lookahead - read
        if begin:
            window = g.op("Slice", window, g.ints(begin), g.ints(2**62), g.ints(0))
        y = g.op(
            "Conv",
            g.op("Transpose", window, perm=[1, 2, 0]),
            g.constant(self.weights["weight"], "weight"),
            g.constant(self.weights["bias"], "bias") if self.bias else "",
            strides=[self.stride],
            dilations=[self.dilation],
            group=self.groups,
        )
        return g.op("Transpose", y, perm=[2, 0, 1])
