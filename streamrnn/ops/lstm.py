r"""Long short-term memory.

Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers,
Schmidhuber and Cummins, 2000; in the form of ``torch.nn.LSTMCell``::

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)
    c' = f * c + i * g
    h' = o * tanh(c')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..kernels.functions import flush, sigmoid, tanh
from ..kernels.member import copy_share, meet, share_affine, share_units
from ..kernels.product import affine
from ..kernels.simd import at, floats, fma, lanes, load, store
from ..kernels.tape import (
    Frames,
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
from .cell import Cell, Stack
from .op import Array, Arrays

if TYPE_CHECKING:
    from ..kernels.simd import Pointer
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["LSTM", "LSTMCell"]


@helper
def lstm_units(sums: Pointer, c: Pointer, after: Pointer, new_c: Pointer, H: int) -> None:
    """``sums`` are those of i, f, g, o; ``after`` and ``new_c`` become the new states."""
    L = lanes()
    for u in range(0, H, L):
        i, f = sigmoid(load(sums, 4 * u)), sigmoid(load(sums, 4 * u + L))
        g, o = tanh(load(sums, 4 * u + 2 * L)), sigmoid(load(sums, 4 * u + 3 * L))
        memory = flush(fma(f, load(c, u), i * g))
        store(new_c, u, memory)
        store(after, u, flush(o * tanh(memory)))


@kernel
def lstm_cell(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    h: State,
    c: State,
    w_ih: Matrix,
    w_hh: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
    me: Member,
) -> None:
    """T steps; ``gates`` takes i, f, g, o of each frame, side by side for a vector of units.

    Units follow their sums at once: while they are computed, the next weights are on their way.
    """
    L = lanes()
    P = (H + L - 1) // L * L
    share_affine(me, T, x, x_step, 1, 0, I, bias, 0, gates, gates_step, w_ih, 4 * P, 4)
    first, stop = share_units(me, H)
    before = h
    for t in range(T):
        gate, after = at(gates, t * gates_step), at(y, t * y_step)
        for u in range(first, stop, L):
            sums = at(gate, 4 * u)
            affine(1, before, 0, 1, 0, H, sums, 0, sums, 0, at(w_hh, 4 * u * H), 4 * L)
            lstm_units(sums, at(c, u), at(after, u), at(c, u), L)
        meet(me)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@lstm_cell.pooled
def lstm_cells(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    h: Place,
    c: Place,
    w_ih: Matrix,
    w_hh: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """A step of T streams; until it is overwritten, ``y`` holds their states h."""
    L = lanes()
    P = (H + L - 1) // L * L
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(y, t * y_step))
    affine(T, x, x_step, 1, 0, I, bias, 0, gates, gates_step, w_ih, 4 * P)
    affine(T, y, y_step, 1, 0, H, gates, gates_step, gates, gates_step, w_hh, 4 * P)
    for t in range(T):
        state, after = floats(streams[t]), at(y, t * y_step)
        lstm_units(at(gates, t * gates_step), at(state, c), after, at(state, c), H)
        copy(H, after, at(state, h))


@kernel
def lstm_step(
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
    gates_step: Size,
    new_c: Scratch,
    w_ih: Matrix,
    w_hh: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """The bare step: the states come with the frame; ``y`` takes h' and c'."""
    L = lanes()
    P = (H + L - 1) // L * L
    affine(T, x, x_step, 1, 0, I, bias, 0, gates, gates_step, w_ih, 4 * P)
    affine(T, h, h_step, 1, 0, H, gates, gates_step, gates, gates_step, w_hh, 4 * P)
    for t in range(T):
        after = at(y, t * y_step)
        lstm_units(at(gates, t * gates_step), at(c, t * c_step), after, new_c, H)
        copy(H, new_c, at(after, H))


@dataclass(eq=False)
class LSTMCell(Cell):
    """One LSTM step; the output is the new hidden state.

    Frames are float32 [shape=(I,)], outputs and states ``h`` and ``c`` float32 [shape=(H,)], all
    dimensionless. Weights as in ``torch.nn.LSTMCell``: ``weight_ih`` (4H, I), ``weight_hh``
    (4H, H), ``bias_ih`` and ``bias_hh`` (4H,), gates in the order i, f, g, o.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state.
    bias : bool
        Whether there are biases.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer.
    """

    input_size: int
    hidden_size: int
    bias: bool = True

    prefix: ClassVar[str] = "lstm"
    gates: ClassVar[str] = "ifgo"
    states: ClassVar[tuple[str, ...]] = ("h", "c")
    layouts: ClassVar[dict[str, str]] = {"torch": "ifgo", "onnx": "iofg", "keras": "ifgo"}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        s = self.before(states, xs)
        z = self.preactivations(weights, xs[0], s["h"])
        i, f, o = (1 / (1 + np.exp(-z[gate])) for gate in "ifo")
        s["c"] = f * s["c"] + i * np.tanh(z["g"])
        s["h"] = o * np.tanh(s["c"])
        return self.after(s, xs)

    def needs_float32(self) -> str:
        return ""

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        w = self.full_weights()
        P = tape.padded(self.hidden_size)

        def packed() -> dict[str, Any]:
            return {
                "w_ih": tape.matrix(w["weight_ih"], 4),
                "w_hh": tape.matrix(w["weight_hh"], 4),
                "bias": tape.vector(w["bias_ih"] + w["bias_hh"], 4),
            }

        if len(xs) == 1:
            form = lstm_cell
            states: dict[str, Any] = {"h": tape.state("h"), "c": tape.state("c")}
        else:
            form = lstm_step
            states = {"h": xs[1], "c": xs[2], "new_c": tape.temporary(0, fixed=P)}
        tape.emit(
            form,
            x=xs[0],
            y=y,
            gates=tape.temporary(4 * P),
            **states,
            **tape.shared(packed),
            I=self.input_size,
            H=self.hidden_size,
            work=4 * self.hidden_size * (self.input_size + self.hidden_size),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        write = self.native if len(xs) == 1 else self.native_step
        return write(g, "LSTM", *xs)


class LSTM(Stack):
    """Stacked LSTM cells, with the arguments and weight names of ``torch.nn.LSTM``.

    Frames are float32 [shape=(I,)], outputs float32 [shape=(H,)]; see :class:`Stack`.
    """

    cell = LSTMCell
