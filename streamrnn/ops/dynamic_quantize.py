r"""Quantisation to uint8 in the range of each frame: operator DynamicQuantizeLinear of ONNX.

::

    scale = (max(x, 0) - min(x, 0)) / 255                1 where all of x is zero
    zero  = round(-min(x, 0) / scale)                    halves to the even number
    q     = clip(round(x / scale) + zero, 0, 255)        so that x is about scale * (q - zero)

These equations are the definition, down to their rounding to float32; the reference follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape
from ..kernels.integer_product import value_range
from ..kernels.simd import at, lanes, load, splat, store, vmax, vmin, vround
from ..kernels.tape import Frames, Scratch, Size, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["DynamicQuantize", "quantized"]


@kernel
def dynamic_quantize(
    T: Frames, x: Scratch, x_step: Size, y: Scratch, y_step: Size, n: Size
) -> None:
    """A frame of y is q[:n], scale, zero."""
    for t in range(T):
        frame, result = at(x, t * x_step), at(y, t * y_step)
        scale, zero = value_range(frame, n)
        divisor, offset = splat(scale), splat(zero)
        for i in range(0, n, lanes()):
            whole = vround(load(frame, i) / divisor) + offset
            store(result, i, vmax(vmin(whole, splat(255.0)), splat(0.0)))
        result[n] = scale
        result[n + 1] = zero


def quantized(x: Array) -> tuple[Array, np.float32, np.float32]:
    """Return q, scale and zero point of an array, by the equations above in float32."""
    x = np.asarray(x, np.float32)
    low, high = min(np.float32(x.min()), np.float32(0)), max(np.float32(x.max()), np.float32(0))
    scale = np.float32(1) if low == high else np.float32((high - low) / np.float32(255))
    zero = np.float32(np.rint(np.clip(-low / scale, np.float32(0), np.float32(255))))
    q = np.clip(np.rint(x / scale) + zero, np.float32(0), np.float32(255))
    return q, scale, zero


@dataclass(eq=False)
class DynamicQuantize(Op):
    """A frame in uint8, in its own range; see the module's text.

    Frames are float32 [shape=(…)] of n numbers, outputs float32 [shape=(n + 2,)]: q, which are
    whole numbers from 0 to 255, then scale and zero point.
    """

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        return (int(np.prod(shapes[0], dtype=np.int64)) + 2,)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        q, scale, zero = quantized(xs[0])
        return np.concatenate([q.reshape(-1), [scale, zero]])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(dynamic_quantize, x=xs[0], y=y, n=xs[0].size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        def write(x: str) -> str:
            parts = g.ops("DynamicQuantizeLinear", 3, g.op("Reshape", x, g.ints(-1)))
            flat = [g.op("Reshape", g.op("Cast", p, to=1), g.ints(-1)) for p in parts]
            return g.op("Reshape", g.op("Concat", *flat, axis=0), g.ints(1, 1, -1))

        return g.each(write, *xs)
