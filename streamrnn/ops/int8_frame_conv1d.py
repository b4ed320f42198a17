"""Convolution inside each frame with int8 weights; see :mod:`streamrnn.ops.int8_product`.

A frame is rounded to bytes in its own range, all channels and positions together; the padding is
exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import ConfigError
from ..graph import Shape
from ..kernels.integer_product import (
    MAX_INPUTS,
    integer_affine,
    quantize,
    row_floats,
    value_range,
)
from ..kernels.simd import as_bytes, at, lanes
from ..kernels.tape import Frames, Scratch, Size, Weights, kernel
from .conv1d import taps_first
from .dynamic_quantize import quantized
from .frame_conv1d import FrameConv1d, seen
from .int8_product import int8_initial
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
    window: Scratch,
    bytes_: Scratch,
    sums: Scratch,
    sums_step: Size,
    w: Weights,
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
    """``window`` is a frame as (positions, C), beginning at input ``skip`` after ``left`` zeros."""
    stop = min(positions, left + L_in - skip)  # where the frame ends in the window
    q = as_bytes(at(bytes_, lanes()))
    for t in range(T):
        frame, result = at(x, t * x_step), at(y, t * y_step)
        scale, zero = value_range(frame, C * L_in, at(bytes_, lanes()))
        for i in range(left * C):
            window[i] = 0.0
        for c in range(C):
            for p in range(left, stop):
                window[p * C + c] = frame[c * L_in + p - left + skip]
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
    (O, C, kernel_size), int8; ``scale_weight`` and ``bias`` (O,), float32. Stateless.

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
        return "dilation and groups have no int8 form" if op.dilation * op.groups > 1 else ""

    def check(self) -> None:
        super().check()
        if self.dilation * self.groups > 1:
            raise ConfigError(
                f"Int8FrameConv1d: `dilation` and `groups` must be 1, got {self.dilation} and "
                f"{self.groups}: such a convolution stays float32"
            )
        if self.in_channels * self.kernel_size > MAX_INPUTS:
            raise ConfigError(
                f"Int8FrameConv1d: `in_channels` times `kernel_size` must be at most {MAX_INPUTS}, "
                f"got {self.in_channels * self.kernel_size}: sums in int32 could overflow"
            )

    def needs_float32(self) -> str:
        return "its matrix is int8"

    def parameter_shapes(self) -> dict[str, Shape]:
        O = self.out_channels
        shapes: dict[str, Shape] = {
            "weight_int8": (O, self.in_channels, self.kernel_size),
            "scale_weight": (O,),
        }
        return shapes | ({"bias": (O,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return int8_initial(name, shape, rng, self.in_channels * self.kernel_size)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        q, scale, zero = quantized(xs[0])
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
            window=tape.temporary(0, fixed=tape.padded(positions * C)),
            bytes_=tape.temporary(0, fixed=row_floats(positions * C, tape.lanes) + tape.lanes),
            sums=tape.temporary(0, fixed=L_out * P),
            sums_step=P,
            w=byte_matrix(tape, taps_first(w["weight_int8"][:, :, kept]), w["scale_weight"]),
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
        scale = g.constant(w["scale_weight"][:, None])
        weight = g.constant(w["weight_int8"].astype(np.float32), "weight")

        def write(x: str) -> str:
            q, level, zero = g.ops(
                "DynamicQuantizeLinear", 3, g.op("Reshape", x, g.ints(1, *shape))
            )
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
