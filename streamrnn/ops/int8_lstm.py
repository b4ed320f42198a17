r"""One LSTM step with int8 weights: operator DynamicQuantizeLSTM of onnxruntime, for a frame.

The equations are those of :class:`LSTMCell`; the products are of bytes. The frame comes quantised
(see ``DynamicQuantize``), the hidden state is quantised in each step::

    z = s_x * S_ih * (W_ih (q_x - z_x)) + s_h * S_hh * (W_hh (q_h - z_h)) + b
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
    c' = f * c + i * g
    h' = o * tanh(c')

with a scale in S for each row of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from ..kernels.functions import flush, sigmoid, tanh
from ..kernels.integer_product import integer_affine, quantize, value_range
from ..kernels.simd import as_bytes, at, fma, lanes, load, store, store_bytes
from ..kernels.tape import Frames, Scratch, Size, Weights, copy, kernel
from .dynamic_quantize import each_frame, quantized
from .integer_linear import integer_weights, no_int8
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8LSTMStep"]


@kernel
def int8_lstm_step(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    c: Scratch,
    c_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    bytes_: Scratch,
    w_ih: Weights,
    columns_ih: Weights,
    scales_ih: Weights,
    w_hh: Weights,
    columns_hh: Weights,
    scales_hh: Weights,
    bias: Weights,
    zeros: Weights,
    I: Size,
    H: Size,
) -> None:
    """``x`` is q, scale, zero; ``gates`` takes i, f, g, o, each padded, and then c'."""
    L = lanes()
    P = (H + L - 1) // L * L
    q, new_c = as_bytes(bytes_), at(gates, 4 * P)
    for t in range(T):
        frame, before, after = at(x, t * x_step), at(h, t * h_step), at(y, t * y_step)
        for k in range(0, I, L):
            store_bytes(q, k, load(frame, k))
        zero, scale = int(frame[I + 1]), frame[I]
        integer_affine(q, I, zero, scale, w_ih, columns_ih, scales_ih, zeros, gates, 4 * P)
        scale, point = value_range(before, H, bytes_)
        quantize(before, H, scale, point, q)
        zero = int(point)
        integer_affine(q, H, zero, scale, w_hh, columns_hh, scales_hh, gates, gates, 4 * P)
        for u in range(0, H, L):
            i = sigmoid(load(gates, u) + load(bias, u))
            f = sigmoid(load(gates, P + u) + load(bias, P + u))
            g = tanh(load(gates, 2 * P + u) + load(bias, 2 * P + u))
            o = sigmoid(load(gates, 3 * P + u) + load(bias, 3 * P + u))
            memory = flush(fma(f, load(at(c, t * c_step), u), i * g))
            store(new_c, u, memory)
            store(after, u, flush(o * tanh(memory)))
        copy(H, new_c, at(after, H))


@dataclass(eq=False)
class Int8LSTMStep(Op):
    """One LSTM step with int8 weights, which keeps no state of its own; see the module's text.

    Reads a quantised frame, float32 [shape=(I + 2,)] as ``DynamicQuantize`` makes it, and the
    states h and c, float32 [shape=(H,)]; outputs are h' and c' side by side [shape=(2 * H,)].
    Weights: ``weight_ih_int8`` (4H, I) and ``weight_hh_int8`` (4H, H), whole numbers from -128 to
    127, ``scale_ih`` and ``scale_hh`` (4H,), ``bias`` (4H,), gates in the order i, f, g, o.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer.
    """

    input_size: int
    hidden_size: int

    def check(self) -> None:
        self.at_least(input_size=1, hidden_size=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        rows = 4 * self.hidden_size
        return {
            "weight_ih_int8": (rows, self.input_size),
            "weight_hh_int8": (rows, self.hidden_size),
            "scale_ih": (rows,),
            "scale_hh": (rows,),
            "bias": (rows,),
        }

    def refuses(self, name: str, weight: Array) -> str:
        return no_int8(weight) if name.endswith("_int8") else ""

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        if name.endswith("_int8"):
            return rng.integers(-127, 128, shape).astype(np.float32)
        return np.full(shape, 1 / (127 * self.hidden_size) if name != "bias" else 0.0)

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.input_size + 2,), (self.hidden_size,), (self.hidden_size,))

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes != self.input_shapes():
            raise GraphError(
                f"{self!r} expects frames of shapes {shown(self.input_shapes())}, got "
                f"{shown(shapes)}"
            )
        return (2 * self.hidden_size,)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        (*_, scale, zero), h, c = xs
        q, s_h, z_h = quantized(h)
        z = scale * weights["scale_ih"] * (weights["weight_ih_int8"] @ (xs[0][:-2] - zero))
        z = z + s_h * weights["scale_hh"] * (weights["weight_hh_int8"] @ (q - z_h).astype(float))
        i, f, g, o = np.split(z + weights["bias"], 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        return np.concatenate([o * np.tanh(c), c])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, w = tape.output(), self.weights
        P = tape.padded(self.hidden_size)
        bytes_ = max(tape.padded(self.input_size), P) // 4 + 2 * tape.lanes
        operands: dict[str, Any] = {}
        for name in ("ih", "hh"):
            parts = integer_weights(tape, w[f"weight_{name}_int8"], 4)
            operands |= {f"{key}_{name}": offset for key, offset in parts.items()}
            operands[f"scales_{name}"] = tape.vector(w[f"scale_{name}"], 4)
        tape.emit(
            int8_lstm_step,
            x=xs[0],
            h=xs[1],
            c=xs[2],
            y=y,
            gates=tape.temporary(0, fixed=5 * P),
            bytes_=tape.temporary(0, fixed=bytes_),
            bias=tape.vector(w["bias"], 4),
            zeros=tape.weight(np.zeros(4 * P)),
            I=self.input_size,
            H=self.hidden_size,
            **operands,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        w, I, H = self.weights, self.input_size, self.hidden_size

        def product(q: str, scale: str, zero: str, name: str) -> str:
            weight = g.constant(w[f"weight_{name}_int8"].T.astype(np.int8), f"weight_{name}")
            exact = g.op("Cast", g.op("MatMulInteger", q, weight, zero), to=1)
            scales = g.op("Mul", scale, g.constant(w[f"scale_{name}"], f"scale_{name}"))
            return g.op("Mul", exact, scales)

        def write(x: str, h: str, c: str) -> str:
            h, c = (g.op("Reshape", s, g.ints(1, H)) for s in (h, c))
            flat = g.op("Reshape", x, g.ints(-1))
            sizes = g.ints(I, 1, 1)
            q, scale, zero = g.ops("Split", 3, flat, sizes, axis=0)
            none = g.constant(np.zeros(0, np.int64))
            q = g.op("Reshape", g.op("Cast", q, to=2), g.ints(1, I))
            zero = g.op("Reshape", g.op("Cast", zero, to=2), none)
            z = product(q, scale, zero, "ih")
            q, scale, zero = g.ops("DynamicQuantizeLinear", 3, h)
            z = g.op("Add", z, product(q, scale, zero, "hh"))
            z = g.op("Add", z, g.constant(w["bias"], "bias"))
            i, f, n, o = g.ops("Split", 4, z, g.ints(H, H, H, H), axis=1)
            i, f, o = (g.op("Sigmoid", gate) for gate in (i, f, o))
            kept = g.op("Mul", f, c)
            c = g.op("Add", kept, g.op("Mul", i, g.op("Tanh", n)))
            h = g.op("Mul", o, g.op("Tanh", c))
            return g.op("Reshape", g.op("Concat", h, c, axis=1), g.ints(1, 1, 2 * H))

        return each_frame(g, xs, write)
