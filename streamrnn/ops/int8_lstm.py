r"""An LSTM with int8 weights, as onnxruntime runs it (operator DynamicQuantizeLSTM).

The equations are those of :class:`LSTMCell`. What comes in is quantised to uint8 in its own range,
all steps of a frame together, and the hidden state in each step (see ``DynamicQuantize``)::

    z = s_x * S_ih * (W_ih (q_x - zero_x))          S: a scale for each row of the weights
    i, f, g, o = z + s_h * S_hh * (W_hh (q_h - zero_h)) + b
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
from ..kernels.integer_product import (
    int8_row,
    integer_affine,
    product_floats,
    quantize,
    value_range,
)
from ..kernels.simd import as_bytes, at, lanes, load, store
from ..kernels.tape import Frames, Scratch, Size, Weights, copy, kernel
from .cell import reorder
from .dynamic_quantize import quantized
from .integer_linear import byte_matrix
from .lstm import LSTMCell
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8LSTM"]


@kernel
def int8_lstm(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    c: Scratch,
    c_step: Size,
    y: Scratch,
    y_step: Size,
    shares: Scratch,
    bytes_: Scratch,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    zeros: Weights,
    I: Size,
    H: Size,
    steps: Size,
) -> None:
    """``shares`` takes z for each step, then the state's share, and c'."""
    L = lanes()
    P, K = (H + L - 1) // L * L, (I + L - 1) // L * L
    gates, q = at(shares, steps * 4 * P), as_bytes(at(bytes_, L))
    new_c = at(gates, 4 * P)
    for t in range(T):
        scale, point = value_range(at(x, t * x_step), steps * I)
        for s in range(steps):
            quantize(at(x, t * x_step + s * I), I, scale, point, at(q, s * K))
        bytes_[0], bytes_[1] = scale, point
        integer_affine(steps, bytes_, 0, q, K, I, zeros, 0, shares, 4 * P, w_ih, 4 * P)
        before, old_c = at(h, t * h_step), at(c, t * c_step)
        for s in range(steps):
            share, after = at(shares, s * 4 * P), at(y, t * y_step + s * H)
            int8_row(before, H, bytes_)
            for u in range(0, P, L):
                sums, w = at(gates, 4 * u), at(w_hh, product_floats(4 * u, H))
                integer_affine(1, bytes_, 0, q, 0, H, zeros, 0, sums, 0, w, 4 * L)
                for k in range(4 * u, 4 * u + 4 * L, L):
                    store(gates, k, load(share, k) + load(gates, k) + load(bias, k))
                i, f = sigmoid(load(gates, 4 * u)), sigmoid(load(gates, 4 * u + L))
                g, o = tanh(load(gates, 4 * u + 2 * L)), sigmoid(load(gates, 4 * u + 3 * L))
                memory = flush(f * load(old_c, u) + i * g)
                store(new_c, u, memory)
                store(after, u, flush(o * tanh(memory)))
            before, old_c = after, new_c
        copy(H, new_c, at(y, t * y_step + steps * H))


@dataclass(eq=False)
class Int8LSTM(Op):
    """Steps of an LSTM with int8 weights; see the module's text.

    Reads what comes in, float32 [shape=(steps * I,)], and the states h and c, float32
    [shape=(H,)]; outputs are h' after each step and c' after the last, side by side
    [shape=((steps + 1) * H,)]. It keeps no state of its own. Weights: ``weight_ih_int8`` (4H, I)
    and ``weight_hh_int8`` (4H, H), int8, ``scale_ih``, ``scale_hh`` and ``bias`` (4H,).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    steps : int
        Steps of the recurrence within a frame.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer.
    """

    input_size: int
    hidden_size: int
    steps: int = 1

    def check(self) -> None:
        self.at_least(input_size=1, hidden_size=1, steps=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        rows = 4 * self.hidden_size
        return {
            "weight_ih_int8": (rows, self.input_size),
            "weight_hh_int8": (rows, self.hidden_size),
            "scale_ih": (rows,),
            "scale_hh": (rows,),
            "bias": (rows,),
        }

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        if name.endswith("_int8"):
            return rng.integers(-127, 128, shape).astype(np.int8)
        return np.full(shape, 1 / (127 * self.hidden_size) if name != "bias" else 0.0)

    def input_shapes(self) -> tuple[Shape, ...]:
        H = self.hidden_size
        return ((self.steps * self.input_size,), (H,), (H,))

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes != self.input_shapes():
            raise GraphError(
                f"{self!r} expects frames of shapes {shown(self.input_shapes())}, got "
                f"{shown(shapes)}"
            )
        return ((self.steps + 1) * self.hidden_size,)

    def multiply_adds(self, *shapes: Shape) -> int:
        return self.steps * 4 * self.hidden_size * (self.input_size + self.hidden_size)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x, h, c = xs
        q_x, scale_x, zero_x = quantized(x)
        made = []
        for q in np.split(q_x, self.steps):
            exact = weights["weight_ih_int8"] @ (q - zero_x).astype(float)
            z = scale_x * weights["scale_ih"] * exact
            q_h, scale, zero = quantized(h)
            exact = weights["weight_hh_int8"] @ (q_h - zero).astype(float)
            i, f, g, o = np.split(z + scale * weights["scale_hh"] * exact + weights["bias"], 4)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            made.append(h)
        return np.concatenate([*made, c])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, w = tape.output(spare=tape.lanes), self.weights
        K, P = tape.padded(self.input_size), tape.padded(self.hidden_size)

        def packed() -> dict[str, Any]:
            made: dict[str, Any] = {"bias": tape.vector(w["bias"], 4)}
            for which in ("ih", "hh"):
                weight, scale = w[f"weight_{which}_int8"], w[f"scale_{which}"]
                made[f"w_{which}"] = byte_matrix(tape, weight, scale, 4)
            return made | {"zeros": tape.weight(np.zeros(4 * P))}

        tape.emit(
            int8_lstm,
            x=xs[0],
            h=xs[1],
            c=xs[2],
            y=y,
            shares=tape.temporary(0, fixed=self.steps * 4 * P + 5 * P),
            bytes_=tape.temporary(0, fixed=max(self.steps * K, P) // 4 + 3 * tape.lanes),
            I=self.input_size,
            H=self.hidden_size,
            steps=self.steps,
            **tape.shared(packed),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        I, H = self.input_size, self.hidden_size
        order = LSTMCell.layouts["onnx"]
        ours = {n: reorder(w, LSTMCell.gates, order) for n, w in self.weights.items()}
        bias = g.constant(np.concatenate([ours["bias"], 0 * ours["bias"]])[None], "bias")
        weights, levels = [], []
        for which in ("ih", "hh"):
            weights.append(g.constant(ours[f"weight_{which}_int8"].T[None], f"weight_{which}"))
            levels.append(g.constant(ours[f"scale_{which}"][None], f"scale_{which}"))
            levels.append(g.constant(np.zeros((1, 4 * H), np.int8)))

        def write(x: str, h: str, c: str) -> str:
            x = g.op("Reshape", x, g.ints(self.steps, 1, I))
            h, c = (g.op("Reshape", s, g.ints(1, 1, H)) for s in (h, c))
            made = g.ops(
                "DynamicQuantizeLSTM", 3, x, *weights, bias, "", h, c, "", *levels,
                domain="com.microsoft", hidden_size=H,
            )  # fmt: skip
            flat = [g.op("Reshape", made[i], g.ints(1, 1, -1)) for i in (0, 2)]
            return g.op("Concat", *flat, axis=2)

        return g.each(write, *xs)
