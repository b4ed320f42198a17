r"""Gated recurrent unit with int8 weights.

The equations of :class:`GRUCell`, in both forms of its reset gate, with the products of
:mod:`streamrnn.ops.int8_product`; where the reset acts before the product, ``r * h`` is what is
rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..kernels.atomic import alone
from ..kernels.integer_product import int8_affine, integer_affine, product_floats
from ..kernels.member import (
    copy_share,
    meet,
    share_int8_affine,
    share_int8_rows,
    share_units,
)
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
    helper,
    kernel,
)
from .cell import Cell
from .gru import GRUCell, gru_units, new_units, reset_units
from .int8_cell import Int8Cell
from .int8_product import room_for_bytes
from .op import Array, Arrays

if TYPE_CHECKING:
    from ..kernels.simd import Pointer
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8GRUCell"]

RESET_UPDATE, CANDIDATE = slice(0, 2), slice(2, 3)
"""Gates r and z, and gate n."""


@kernel
def int8_gru_cell(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    hidden: Scratch,
    h: State,
    w_ih: Weights,
    w_hh: Weights,
    b_ih: Weights,
    b_hh: Weights,
    I: Size,
    H: Size,
    me: Member,
) -> None:
    """T steps, reset after the product; ``hidden`` takes W_hh h + b_hh of one frame."""
    L = lanes()
    P, q = (H + L - 1) // L * L, as_bytes(at(bytes_, L))
    share_int8_affine(
        me, T, x, x_step, I, bytes_, bytes__step, b_ih, 0, gates, gates_step, w_ih, 3 * P, 3
    )
    first, stop = share_units(me, H)
    before = h
    for t in range(T):
        gate, after = at(gates, t * gates_step), at(y, t * y_step)
        share_int8_rows(me, 1, before, 0, H, bytes_, 0)
        for u in range(first, stop, L):
            sums, w = at(hidden, 3 * u), at(w_hh, product_floats(3 * u, H))
            integer_affine(1, bytes_, 0, q, 0, H, at(b_hh, 3 * u), 0, sums, 0, w, 3 * L, 3)
            gru_units(at(gate, 3 * u), at(before, u), at(after, u), sums, L)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@int8_gru_cell.pooled
def int8_gru_cells(
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
    shares: Scratch,
    shares_step: Size,
    h: Place,
    w_ih: Weights,
    w_hh: Weights,
    b_ih: Weights,
    b_hh: Weights,
    I: Size,
    H: Size,
) -> None:
    """A step of T streams; ``y`` holds their states, and ``shares`` takes W_hh h + b_hh of each."""
    L = lanes()
    P = (H + L - 1) // L * L
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(y, t * y_step))
    int8_affine(T, x, x_step, I, bytes_, bytes__step, b_ih, 0, gates, gates_step, w_ih, 3 * P, 3)
    int8_affine(T, y, y_step, H, bytes_, bytes__step, b_hh, 0, shares, shares_step, w_hh, 3 * P, 3)
    for t in range(T):
        state = at(y, t * y_step)
        hidden = at(shares, t * shares_step)
        gru_units(at(gates, t * gates_step), state, state, hidden, H)
        copy(H, state, at(floats(streams[t]), h))


@kernel
def int8_gru_step(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    hidden: Scratch,
    w_ih: Weights,
    w_hh: Weights,
    b_ih: Weights,
    b_hh: Weights,
    I: Size,
    H: Size,
) -> None:
    """The bare step: the state comes with the frame."""
    L = lanes()
    P = (H + L - 1) // L * L
    int8_affine(T, x, x_step, I, bytes_, bytes__step, b_ih, 0, gates, gates_step, w_ih, 3 * P, 3)
    for t in range(T):
        before = at(h, t * h_step)
        int8_affine(1, before, 0, H, bytes_, 0, b_hh, 0, hidden, 0, w_hh, 3 * P, 3)
        gru_units(at(gates, t * gates_step), before, at(y, t * y_step), hidden, H)


@helper
def int8_gru_frame_reset_before(
    gate: Pointer,
    before: Pointer,
    after: Pointer,
    reset: Pointer,
    bytes_: Pointer,
    w_rz: Pointer,
    w_n: Pointer,
    H: int,
    me: Member,
) -> None:
    """``gate`` holds W_ih x + b of r, z, n; ``reset`` takes r * h, ``after`` the new state."""
    P = (H + lanes() - 1) // lanes() * lanes()
    candidate = at(gate, 2 * P)
    share_int8_affine(me, 1, before, 0, H, bytes_, 0, gate, 0, gate, 0, w_rz, 2 * P)
    meet(me)
    reset_units(gate, before, reset, H, me)
    share_int8_affine(me, 1, reset, 0, H, bytes_, 0, candidate, 0, candidate, 0, w_n, P)
    meet(me)
    new_units(gate, before, after, H, me)


@kernel
def int8_gru_cell_reset_before(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    reset: Scratch,
    h: State,
    w_ih: Weights,
    w_rz: Weights,
    w_n: Weights,
    bias: Weights,
    I: Size,
    H: Size,
    me: Member,
) -> None:
    """T steps, reset before the product; ``reset`` takes r * h of one frame."""
    L = lanes()
    P = (H + L - 1) // L * L
    share_int8_affine(
        me, T, x, x_step, I, bytes_, bytes__step, bias, 0, gates, gates_step, w_ih, 3 * P
    )
    before = h
    for t in range(T):
        gate, after = at(gates, t * gates_step), at(y, t * y_step)
        int8_gru_frame_reset_before(gate, before, after, reset, bytes_, w_rz, w_n, H, me)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@int8_gru_cell_reset_before.pooled
def int8_gru_cells_reset_before(
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
    resets: Scratch,
    resets_step: Size,
    h: Place,
    w_ih: Weights,
    w_rz: Weights,
    w_n: Weights,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """A step of T streams; ``y`` holds their states, and ``resets`` takes r * h of each."""
    L = lanes()
    P = (H + L - 1) // L * L
    candidates, step = at(gates, 2 * P), gates_step
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(y, t * y_step))
    int8_affine(T, x, x_step, I, bytes_, bytes__step, bias, 0, gates, step, w_ih, 3 * P)
    int8_affine(T, y, y_step, H, bytes_, bytes__step, gates, step, gates, step, w_rz, 2 * P)
    for t in range(T):
        state, reset = at(y, t * y_step), at(resets, t * resets_step)
        reset_units(at(gates, t * step), state, reset, H, alone())
    int8_affine(
        T, resets, resets_step, H, bytes_, bytes__step, candidates, step, candidates, step, w_n, P
    )
    for t in range(T):
        state = at(y, t * y_step)
        new_units(at(gates, t * step), state, state, H, alone())
        copy(H, state, at(floats(streams[t]), h))


@kernel
def int8_gru_step_reset_before(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    reset: Scratch,
    w_ih: Weights,
    w_rz: Weights,
    w_n: Weights,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """The bare step, reset before the product: the state comes with the frame."""
    L = lanes()
    P = (H + L - 1) // L * L
    int8_affine(T, x, x_step, I, bytes_, bytes__step, bias, 0, gates, gates_step, w_ih, 3 * P)
    for t in range(T):
        gate, before, after = at(gates, t * gates_step), at(h, t * h_step), at(y, t * y_step)
        int8_gru_frame_reset_before(gate, before, after, reset, bytes_, w_rz, w_n, H, alone())


@dataclass(eq=False)
class Int8GRUCell(Int8Cell, GRUCell):
    """A :class:`GRUCell` with int8 weights; ``model.quantize("int8")`` makes it of one.

    Frames, outputs and state are those of :class:`GRUCell`. Weights: ``weight_ih_int8`` (3H, I) and
    ``weight_hh_int8`` (3H, H), int8; ``scale_ih``, ``scale_hh``, ``bias_ih`` and ``bias_hh``
    (3H,), float32; gates in the order r, z, n.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state; at most 65,000.
    bias : bool
        Whether there are biases.
    reset_after : bool
        Whether the reset gate acts after the recurrent product or before it.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range.
    """

    prefix: ClassVar[str] = "gru"
    replaces: ClassVar[type[Cell]] = GRUCell

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        s = self.before(states, xs)
        h = s["h"]
        ir, iz, in_ = np.split(self.share(weights, "ih", xs[0]), 3)
        hr, hz = np.split(self.share(weights, "hh", h, RESET_UPDATE), 2)
        r, z = 1 / (1 + np.exp(-(ir + hr))), 1 / (1 + np.exp(-(iz + hz)))
        if self.reset_after:
            n = np.tanh(in_ + r * self.share(weights, "hh", h, CANDIDATE))
        else:
            n = np.tanh(in_ + self.share(weights, "hh", r * h, CANDIDATE))
        s["h"] = (1 - z) * n + z * h
        return self.after(s, xs)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, H, w, own = tape.output(), self.hidden_size, self.full_weights(), len(xs) == 1
        common: dict[str, Any] = {
            "x": xs[0],
            "y": y,
            "gates": tape.temporary(3 * tape.padded(H)),
            "bytes_": room_for_bytes(tape, max(self.input_size, H)),
            "h": tape.state("h") if own else xs[1],
            "I": self.input_size,
            "H": H,
            "work": self.multiply_adds() // 4,  # in float32 it would take so much longer
        }
        if self.reset_after:
            tape.emit(
                int8_gru_cell if own else int8_gru_step,
                **common,
                hidden=tape.temporary(0, fixed=3 * tape.padded(H)),
                pool={"shares": tape.temporary(3 * tape.padded(H), pool=True)},
                w_ih=self.packed(tape, "ih"),
                w_hh=self.packed(tape, "hh"),
                b_ih=tape.vector(w["bias_ih"], 3),
                b_hh=tape.vector(w["bias_hh"], 3),
            )
        else:
            tape.emit(
                int8_gru_cell_reset_before if own else int8_gru_step_reset_before,
                **common,
                reset=tape.temporary(0, fixed=tape.padded(H)),
                pool={"resets": tape.temporary(tape.padded(H), pool=True)},
                w_ih=self.apart(tape, "ih"),
                w_rz=self.apart(tape, "hh", RESET_UPDATE),
                w_n=self.apart(tape, "hh", CANDIDATE),
                bias=tape.vector(tape.pad_gates(w["bias_ih"] + w["bias_hh"], 3)),
            )
        return y

    def write_step(self, g: Recorder, x: str, *states: str) -> tuple[str, ...]:
        (h,) = states
        ir, iz, in_ = self.write_share(g, "ih", x)
        hr, hz = self.write_share(g, "hh", h, RESET_UPDATE)
        r, z = (g.op("Sigmoid", g.op("Add", *pair)) for pair in ((ir, hr), (iz, hz)))
        if self.reset_after:
            (hn,) = self.write_share(g, "hh", h, CANDIDATE)
            hn = g.op("Mul", r, hn)
        else:
            (hn,) = self.write_share(g, "hh", g.op("Mul", r, h), CANDIDATE)
        n = g.op("Tanh", g.op("Add", in_, hn))
        return (g.op("Add", n, g.op("Mul", z, g.op("Sub", h, n))),)
