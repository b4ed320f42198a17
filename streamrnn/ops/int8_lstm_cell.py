r"""Long short-term memory with int8 weights.

The equations of :class:`LSTMCell`, whose products are those of :mod:`streamrnn.ops.int8_product`.
(``Int8LSTM`` is onnxruntime's operator DynamicQuantizeLSTM, whose states come from outside and
whose frames are rounded several steps at a time.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..kernels.integer_product import int8_affine, integer_affine, product_floats
from ..kernels.member import copy_share, share_int8_affine, share_int8_rows, share_units
from ..kernels.simd import as_bytes, at, floats, lanes
from ..kernels.tape import (
    Frames,
    Member,
    Place,
    Scratch,
    Size,
    State,
    Streams,
    Weights,
    copy,
    kernel,
)
from .cell import Cell
from .int8_cell import Int8Cell
from .int8_product import room_for_bytes
from .lstm import LSTMCell, lstm_units

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8LSTMCell"]


@kernel
def int8_lstm_cell(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    h: State,
    c: State,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    I: Size,
    H: Size,
    me: Member,
) -> None:
    """T steps; ``gates`` takes i, f, g, o of each frame, side by side for a vector of units."""
    L = lanes()
    P, q = (H + L - 1) // L * L, as_bytes(at(bytes_, L))
    share_int8_affine(
        me, T, x, x_step, I, bytes_, bytes__step, bias, 0, gates, gates_step, w_ih, 4 * P, 4
    )
    first, stop = share_units(me, H)
    before = h
    for t in range(T):
        gate, after = at(gates, t * gates_step), at(y, t * y_step)
        share_int8_rows(me, 1, before, 0, H, bytes_, 0)
        for u in range(first, stop, L):
            sums, w = at(gate, 4 * u), at(w_hh, product_floats(4 * u, H))
            integer_affine(1, bytes_, 0, q, 0, H, sums, 0, sums, 0, w, 4 * L)
            lstm_units(sums, at(c, u), at(after, u), at(c, u), L)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@int8_lstm_cell.pooled
def int8_lstm_cells(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    h: Place,
    c: Place,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """A step of T streams; until it is overwritten, ``y`` holds their states h."""
    L = lanes()
    P = (H + L - 1) // L * L
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(y, t * y_step))
    int8_affine(T, x, x_step, I, bytes_, bytes__step, bias, 0, gates, gates_step, w_ih, 4 * P)
    int8_affine(
        T, y, y_step, H, bytes_, bytes__step, gates, gates_step, gates, gates_step, w_hh, 4 * P
    )
    for t in range(T):
        state, after = floats(streams[t]), at(y, t * y_step)
        lstm_units(at(gates, t * gates_step), at(state, c), after, at(state, c), H)
        copy(H, after, at(state, h))


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
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    new_c: Scratch,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """The bare step: the states come with the frame; ``y`` takes h' and c'."""
    L = lanes()
    P = (H + L - 1) // L * L
    int8_affine(T, x, x_step, I, bytes_, bytes__step, bias, 0, gates, gates_step, w_ih, 4 * P)
    int8_affine(
        T, h, h_step, H, bytes_, bytes__step, gates, gates_step, gates, gates_step, w_hh, 4 * P
    )
    for t in range(T):
        after = at(y, t * y_step)
        lstm_units(at(gates, t * gates_step), at(c, t * c_step), after, new_c, H)
        copy(H, new_c, at(after, H))


@dataclass(eq=False)
class Int8LSTMCell(Int8Cell, LSTMCell):
    """An :class:`LSTMCell` with int8 weights; ``model.quantize("int8")`` makes it of one.

    Frames, outputs and states are those of :class:`LSTMCell`. Weights: ``weight_ih_int8`` (4H, I)
    and ``weight_hh_int8`` (4H, H), int8; ``scale_ih``, ``scale_hh``, ``bias_ih`` and ``bias_hh``
    (4H,), float32; gates in the order i, f, g, o.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state; at most 65,000.
    bias : bool
        Whether there are biases.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range.
    """

    prefix: ClassVar[str] = "lstm"
    replaces: ClassVar[type[Cell]] = LSTMCell

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, w = tape.output(), self.full_weights()

        def packed() -> dict[str, Any]:
            return {
                "w_ih": self.packed(tape, "ih"),
                "w_hh": self.packed(tape, "hh"),
                "bias": tape.vector(w["bias_ih"] + w["bias_hh"], 4),
            }

        P = tape.padded(self.hidden_size)
        if len(xs) == 1:
            form = int8_lstm_cell
            states: dict[str, Any] = {"h": tape.state("h"), "c": tape.state("c")}
        else:
            form = int8_lstm_step
            states = {"h": xs[1], "c": xs[2], "new_c": tape.temporary(0, fixed=P)}
        tape.emit(
            form,
            x=xs[0],
            y=y,
            gates=tape.temporary(4 * P),
            bytes_=room_for_bytes(tape, max(self.input_size, self.hidden_size)),
            **states,
            **tape.shared(packed),
            I=self.input_size,
            H=self.hidden_size,
            work=self.multiply_adds() // 4,  # in float32 it would take so much longer
        )
        return y

    def write_step(self, g: Recorder, x: str, *states: str) -> tuple[str, ...]:
        h, c = states
        shares = zip(self.write_share(g, "ih", x), self.write_share(g, "hh", h), strict=True)
        i, f, n, o = (g.op("Add", *pair) for pair in shares)
        i, f, o = (g.op("Sigmoid", gate) for gate in (i, f, o))
        c = g.op("Add", g.op("Mul", f, c), g.op("Mul", i, g.op("Tanh", n)))
        return g.op("Mul", o, g.op("Tanh", c)), c
