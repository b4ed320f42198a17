r"""The recurrent part of an LSTM step with int8 weights (onnxruntime's DynamicQuantizeLSTM).

The equations are those of :class:`LSTMCell`. The share of the frame in the gates, z, comes from
outside (see ``IntegerLinear``); the hidden state is quantised to uint8 in each step, in its own
range (see ``DynamicQuantize``)::

    i, f, g, o = z + s_h * S * (W_hh (q_h - zero_h)) + b          S: a scale for each row of W_hh
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from ..kernels.functions import flush, sigmoid, tanh
from ..kernels.integer_product import integer_affine, quantize, value_range
from ..kernels.simd import as_bytes, at, fma, lanes, load, store
from ..kernels.tape import Frames, Scratch, Size, Weights, copy, kernel
from .dynamic_quantize import quantized
from .integer_linear import integer_weights, no_int8
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8LSTMStep"]


@kernel
def int8_lstm_step(
    T: Frames,
    z: Scratch,
    z_step: Size,
    h: Scratch,
    h_step: Size,
    c: Scratch,
    c_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    bytes_: Scratch,
    w: Weights,
    columns: Weights,
    scales: Weights,
    bias: Weights,
    zeros: Weights,
    H: Size,
) -> None:
    """``gates`` takes the state's share of i, f, g, o, each padded, and then c'."""
    L = lanes()
    P = (H + L - 1) // L * L
    q, new_c = as_bytes(bytes_), at(gates, 4 * P)
    for t in range(T):
        share, before, after = at(z, t * z_step), at(h, t * h_step), at(y, t * y_step)
        old_c = at(c, t * c_step)
        scale, point = value_range(before, H, bytes_)
        quantize(before, H, scale, point, q)
        zero = int(point)
        integer_affine(1, q, 0, H, zero, scale, w, columns, scales, zeros, 0, gates, 0, 4 * P)
        for u in range(0, H, L):
            i = sigmoid(load(share, u) + load(gates, u) + load(bias, u))
            f = sigmoid(load(share, H + u) + load(gates, P + u) + load(bias, P + u))
            g = tanh(load(share, 2 * H + u) + load(gates, 2 * P + u) + load(bias, 2 * P + u))
            o = sigmoid(load(share, 3 * H + u) + load(gates, 3 * P + u) + load(bias, 3 * P + u))
            memory = flush(fma(f, load(old_c, u), i * g))
            store(new_c, u, memory)
            store(after, u, flush(o * tanh(memory)))
        copy(H, new_c, at(after, H))


@dataclass(eq=False)
class Int8LSTMStep(Op):
    """The recurrent part of an LSTM step with int8 weights; see the module's text.

    Reads the frame's share of the gates i, f, g, o, float32 [shape=(4 * H,)], and the states h and
    c, float32 [shape=(H,)]; outputs are h' and c' side by side [shape=(2 * H,)]. It keeps no state
    of its own. Weights: ``weight_hh_int8`` (4H, H), whole numbers from -128 to 127, ``scale_hh``
    (4H,), ``bias`` (4H,).

    Parameters
    ----------
    hidden_size : int
        H.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If the size is not a positive integer.
    """

    hidden_size: int

    def check(self) -> None:
        self.at_least(hidden_size=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        rows = 4 * self.hidden_size
        return {
            "weight_hh_int8": (rows, self.hidden_size),
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
        H = self.hidden_size
        return ((4 * H,), (H,), (H,))

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes != self.input_shapes():
            raise GraphError(
                f"{self!r} expects frames of shapes {shown(self.input_shapes())}, got "
                f"{shown(shapes)}"
            )
        return (2 * self.hidden_size,)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        z, h, c = xs
        q, scale, zero = quantized(h)
        exact = weights["weight_hh_int8"] @ (q - zero).astype(float)
        i, f, g, o = np.split(z + scale * weights["scale_hh"] * exact + weights["bias"], 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        return np.concatenate([o * np.tanh(c), c])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, w = tape.output(), self.weights
        P = tape.padded(self.hidden_size)

        def packed() -> dict[str, Any]:
            return {
                **integer_weights(tape, w["weight_hh_int8"], 4),
                "scales": tape.vector(w["scale_hh"], 4),
                "bias": tape.vector(w["bias"], 4),
                "zeros": tape.weight(np.zeros(4 * P)),
            }

        tape.emit(
            int8_lstm_step,
            z=xs[0],
            h=xs[1],
            c=xs[2],
            y=y,
            gates=tape.temporary(0, fixed=5 * P),
            bytes_=tape.temporary(0, fixed=P // 4 + 2 * tape.lanes),
            H=self.hidden_size,
            **tape.shared(packed),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        w, H = self.weights, self.hidden_size
        weight = g.constant(w["weight_hh_int8"].T.astype(np.int8), "weight_hh")

        def write(z: str, h: str, c: str) -> str:
            z = g.op("Reshape", z, g.ints(1, 4 * H))
            h, c = (g.op("Reshape", s, g.ints(1, H)) for s in (h, c))
            q, scale, zero = g.ops("DynamicQuantizeLinear", 3, h)
            exact = g.op("Cast", g.op("MatMulInteger", q, weight, zero), to=1)
            scales = g.op("Mul", scale, g.constant(w["scale_hh"], "scale_hh"))
            z = g.op("Add", z, g.op("Mul", exact, scales))
            z = g.op("Add", z, g.constant(w["bias"], "bias"))
            i, f, n, o = g.ops("Split", 4, z, g.ints(H, H, H, H), axis=1)
            i, f, o = (g.op("Sigmoid", gate) for gate in (i, f, o))
            kept = g.op("Mul", f, c)
            c = g.op("Add", kept, g.op("Mul", i, g.op("Tanh", n)))
            h = g.op("Mul", o, g.op("Tanh", c))
            return g.op("Reshape", g.op("Concat", h, c, axis=1), g.ints(1, 1, 2 * H))

        return g.each(write, *xs)
