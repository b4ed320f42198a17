"""Convolution inside each frame with int8 weights; see :mod:`streamrnn.ops.int8_product`.

A frame is rounded to bytes in its own range, all channels and positions together; the padding is
exactly zero. So that the loud channels of a spectrum do not leave the quiet ones without levels,
each channel has a gain that its weights undo: Xiao et al., "SmoothQuant", 2023, equations 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import ConfigError
from ..graph import Node, Shape, Value
from ..kernels.integer_product import (
    MAX_INPUTS,
    integer_affine,
    quantize,
    row_floats,
    value_range,
)
from ..kernels.simd import as_bytes, at, lanes, load, store
from ..kernels.tape import Frames, Scratch, Size, Weights, kernel
from .conv1d import taps_first
from .dynamic_quantize import quantized
from .frame_conv1d import FrameConv1d, seen
from .int8_product import even_gain, int8_initial, int8_weights
from .integer_linear import byte_matrix
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8FrameConv1d"]


@kernel
def int8_frame_conv1d(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    even: Scratch,
    window: Scratch,
    bytes_: Scratch,
    sums: Scratch,
    sums_step: Size,
    w: Weights,
    gain: Weights,
    bias: Weights,
    C: Size,
    O: Size,
    L_in: Size,
    L_out: Size,
    taps: Size,
    stride: Size,
    skip: Size,
    left: Size,
    positions: Size,
) -> None:
    """``even`` is a frame with its gains, ``window`` the same as (positions, C).

    The window begins at input ``skip`` after ``left`` zeros.
    """
    stop = min(positions, left + L_in - skip)  # where the frame ends in the window
    q = as_bytes(at(bytes_, lanes()))
    for t in range(T):
        frame, result = at(x, t * x_step), at(y, t * y_step)
        for i in range(0, C * L_in, lanes()):
            store(even, i, load(frame, i) * load(gain, i))
        scale, zero = value_range(even, C * L_in)
        for i in range(left * C):
            window[i] = 0.0
        for c in range(C):
            for p in range(left, stop):
                window[p * C + c] = even[c * L_in + p - left + skip]
        for i in range(stop * C, positions * C):
            window[i] = 0.0
        quantize(window, positions * C, scale, zero, q)
        bytes_[0], bytes_[1] = scale, zero
        integer_affine(L_out, bytes_, 0, q, stride * C, taps * C, bias, 0, sums, sums_step, w, O)
        for o in range(O):
            for p in range(L_out):
                result[o * L_out + p] = sums[p * sums_step + o]


@dataclass(eq=False)
class Int8FrameConv1d(FrameConv1d):
    """A :class:`FrameConv1d` with int8 weights; ``model.quantize("int8")`` makes it of one.

    Frames are float32 [shape=(C, L)], outputs float32 [shape=(O, L')]. Weights: ``weight_int8``
    (O, C, kernel_size), int8; ``scale_weight`` and ``bias`` (O,), and ``gain`` (C,), with which a
    channel is multiplied before it is rounded, float32. Stateless.

    Parameters
    ----------
    in_channels, out_channels : int
        C and O.
    kernel_size : int
        Taps; with C channels at most 65,000 numbers.
    stride, padding : int
        As in torch; the padding is zeros on both sides.
    dilation, groups : int
        Only 1.
    bias : bool
        Whether there is a bias.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range.
    """

    prefix: ClassVar[str] = "frameconv1d"
    replaces: ClassVar[type[Op]] = FrameConv1d

    scaled = None  # type: ignore[assignment]  # a scale folded in would be rounded again

    convolution: ClassVar[bool] = True

    @staticmethod
    def lacks(op: Op) -> str:
        """Return why an op cannot have this form, or nothing."""
        assert isinstance(op, FrameConv1d)
        if op.dilation * op.groups > 1:
            return "dilation and groups have no int8 form"
        return op.needs_float32()

    @staticmethod
    def multiplies(weight: str, node: Node) -> Value:
        """Return the value whose frames are multiplied by a weight of the op that is replaced."""
        return node.args[0]

    @staticmethod
    def rows(op: Op, frames: Array) -> Array:
        """Return what the matrix (O, C * kernel_size) is multiplied with for frames (T, C, L)."""
        assert isinstance(op, FrameConv1d)
        padded = np.pad(frames, ((0, 0), (0, 0), (op.padding, op.padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, op.kernel_size, axis=2)
        rows: Array = windows[:, :, :: op.stride].transpose(0, 2, 1, 3)
        return rows.reshape(-1, op.fan_in())

    @staticmethod
    def rounded(weights: Mapping[str, Array], moments: Mapping[str, Array]) -> dict[str, Array]:
        """Return the weights for those of the op that is replaced; see :func:`int8_weights`.

        Gains are 1 where the moments of what the weights are multiplied with are not known.
        """
        w, gain = weights["weight"], np.ones(weights["weight"].shape[1], np.float32)
        if (known := moments.get("weight")) is not None and np.isfinite(known).all():
            power = known.diagonal().reshape(w.shape[1:]).max(axis=1)
            gain = even_gain(power, np.abs(w).max(axis=(0, 2)))
            each = np.repeat(gain, w.shape[2])
            moments = {"weight": known * np.outer(each, each)}
        return {**int8_weights({**weights, "weight": w / gain[:, None]}, moments), "gain": gain}

    def check(self) -> None:
        super().check()
        if self.dilation * self.groups > 1:
            raise ConfigError(
                f"Int8FrameConv1d: `dilation` and `groups` must be 1, got {self.dilation} and "
                f"{self.groups}: such a convolution stays float32"
            )
        if self.fan_in() > MAX_INPUTS:
            raise ConfigError(
                f"Int8FrameConv1d: `in_channels` times `kernel_size` must be at most {MAX_INPUTS}, "
                f"got {self.fan_in()}: sums in int32 could overflow"
            )

    def needs_float32(self) -> str:
        return "its matrix is int8"

    def parameter_shapes(self) -> dict[str, Shape]:
        O = self.out_channels
        shapes: dict[str, Shape] = {
            "weight_int8": (O, self.in_channels, self.kernel_size),
            "scale_weight": (O,),
            "gain": (self.in_channels,),
        }
        return shapes | ({"bias": (O,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        if name == "gain":
            return np.exp2(rng.uniform(-1, 1, shape))
        return int8_initial(name, shape, rng, self.fan_in())

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        q, scale, zero = quantized(weights["gain"][:, None] * xs[0])
        exact = {"weight": weights["weight_int8"], "bias": np.zeros(self.out_channels)}
        y = super().reference(exact, states, (q - zero).astype(float))
        y = scale * weights["scale_weight"][:, None] * y
        return np.asarray(y + weights["bias"][:, None] if self.bias else y)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        C, O, L_in = self.in_channels, self.out_channels, xs[0].shape[1]
        y, w = tape.output(), self.weights
        L_out = y.shape[1]
        kept, begin, positions = seen(L_in, L_out, self.kernel_size, self.stride, self.padding, 1)
        bias = w["bias"] if self.bias else np.zeros(O, np.float32)
        P = tape.padded(O)
        tape.emit(
            int8_frame_conv1d,
            x=xs[0],
            y=y,
            even=tape.temporary(0, fixed=tape.padded(C * L_in)),
            window=tape.temporary(0, fixed=tape.padded(positions * C)),
            bytes_=tape.temporary(0, fixed=row_floats(positions * C, tape.lanes) + tape.lanes),
            sums=tape.temporary(0, fixed=L_out * P),
            sums_step=P,
            w=byte_matrix(tape, taps_first(w["weight_int8"][:, :, kept]), w["scale_weight"]),
            gain=tape.vector(np.repeat(w["gain"], L_in)),
            bias=tape.vector(bias),
            C=C,
            O=O,
            L_in=L_in,
            L_out=L_out,
            taps=kept.stop - kept.start,
            stride=self.stride,
            skip=max(begin, 0),
            left=min(max(-begin, 0), positions),
            positions=positions,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        w, shape = self.weights, g.shape()
        scale, gain = g.constant(w["scale_weight"][:, None]), g.constant(w["gain"][:, None])
        weight = g.constant(w["weight_int8"].astype(np.float32), "weight")

        def write(x: str) -> str:
            even = g.op("Mul", g.op("Reshape", x, g.ints(1, *shape)), gain)
            q, level, zero = g.ops("DynamicQuantizeLinear", 3, even)
            whole = g.op("Sub", g.op("Cast", q, to=1), g.op("Cast", zero, to=1))
            y = g.op(
                "Conv",  # of whole numbers, exact below 2**24: ConvInteger takes longer
                whole,
                weight,
                kernel_shape=[self.kernel_size],
                strides=[self.stride],
                pads=[self.padding, self.padding],
            )
            y = g.op("Mul", y, g.op("Mul", level, scale))
            y = g.op("Add", y, g.constant(w["bias"][:, None])) if self.bias else y
            return g.op("Reshape", y, g.ints(1, 1, *self.output_shape(shape)))

        return g.each(write, *xs)
