r"""Gated recurrent unit.

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, equations 5 to 8; in
the form of ``torch.nn.GRUCell``, where the reset gate acts after the recurrent product::

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))        reset_after=True (torch, Keras)
    n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)        reset_after=False (the paper)
    h' = (1 - z) * n + z * h
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..kernels.atomic import alone
from ..kernels.functions import flush, sigmoid, tanh
from ..kernels.member import copy_share, meet, share, share_affine, share_units
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

__all__ = ["GRU", "GRUCell"]


@helper
def gru_units(gate: Pointer, before: Pointer, after: Pointer, hidden: Pointer, H: int) -> None:
    """``gate`` holds W_ih x + b_ih of r, z, n, and ``hidden`` W_hh h + b_hh."""
    L = lanes()
    for u in range(0, H, L):
        r = sigmoid(load(gate, 3 * u) + load(hidden, 3 * u))
        z = sigmoid(load(gate, 3 * u + L) + load(hidden, 3 * u + L))
        n = tanh(fma(r, load(hidden, 3 * u + 2 * L), load(gate, 3 * u + 2 * L)))
        store(after, u, flush(fma(z, load(before, u) - n, n)))


@kernel
def gru_cell(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    hidden: Scratch,
    h: State,
    w_ih: Matrix,
    w_hh: Matrix,
    b_ih: Weights,
    b_hh: Weights,
    I: Size,
    H: Size,
    me: Member,
) -> None:
    """T steps, reset after the product; ``hidden`` takes W_hh h + b_hh of one frame.

    Units follow their sums at once: while they are computed, the next weights are on their way.
    """
    L = lanes()
    P = (H + L - 1) // L * L
    share_affine(me, T, x, x_step, 1, 0, I, b_ih, 0, gates, gates_step, w_ih, 3 * P, 3)
    first, stop = share_units(me, H)
    before = h
    for t in range(T):
        gate, after = at(gates, t * gates_step), at(y, t * y_step)
        for u in range(first, stop, L):
            sums, w = at(hidden, 3 * u), at(w_hh, 3 * u * H)
            affine(1, before, 0, 1, 0, H, at(b_hh, 3 * u), 0, sums, 0, w, 3 * L, 3)
            gru_units(at(gate, 3 * u), at(before, u), at(after, u), sums, L)
        meet(me)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@gru_cell.pooled
def gru_cells(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    shares: Scratch,
    shares_step: Size,
    h: Place,
    w_ih: Matrix,
    w_hh: Matrix,
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
    affine(T, x, x_step, 1, 0, I, b_ih, 0, gates, gates_step, w_ih, 3 * P, 3)
    affine(T, y, y_step, 1, 0, H, b_hh, 0, shares, shares_step, w_hh, 3 * P, 3)
    for t in range(T):
        state = at(y, t * y_step)
        hidden = at(shares, t * shares_step)
        gru_units(at(gates, t * gates_step), state, state, hidden, H)
        copy(H, state, at(floats(streams[t]), h))


@kernel
def gru_step(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    hidden: Scratch,
    w_ih: Matrix,
    w_hh: Matrix,
    b_ih: Weights,
    b_hh: Weights,
    I: Size,
    H: Size,
) -> None:
    """The bare step: the state comes with the frame."""
    L = lanes()
    P = (H + L - 1) // L * L
    affine(T, x, x_step, 1, 0, I, b_ih, 0, gates, gates_step, w_ih, 3 * P, 3)
    for t in range(T):
        before = at(h, t * h_step)
        affine(1, before, 0, 1, 0, H, b_hh, 0, hidden, 0, w_hh, 3 * P, 3)
        gru_units(at(gates, t * gates_step), before, at(y, t * y_step), hidden, H)


@helper
def reset_units(gate: Pointer, before: Pointer, reset: Pointer, H: int, me: Member) -> None:
    """``reset`` becomes r * h."""
    L = lanes()
    first, stop = share(me, (H + L - 1) // L)
    for u in range(first * L, stop * L, L):
        store(reset, u, sigmoid(load(gate, u)) * load(before, u))


@helper
def new_units(gate: Pointer, before: Pointer, after: Pointer, H: int, me: Member) -> None:
    """``after`` becomes the new state; ``gate`` holds all of z and n."""
    L = lanes()
    P = (H + L - 1) // L * L
    first, stop = share(me, P // L)
    for u in range(first * L, stop * L, L):
        z, n = sigmoid(load(gate, P + u)), tanh(load(gate, 2 * P + u))
        store(after, u, flush(fma(z, load(before, u) - n, n)))


@helper
def gru_frame_reset_before(
    gate: Pointer,
    before: Pointer,
    after: Pointer,
    reset: Pointer,
    w_rz: Pointer,
    w_n: Pointer,
    H: int,
    me: Member,
) -> None:
    """``gate`` holds W_ih x + b of r, z, n; ``reset`` takes r * h, ``after`` the new state."""
    L = lanes()
    P = (H + L - 1) // L * L
    candidate = at(gate, 2 * P)
    meet(me)
    share_affine(me, 1, before, 0, 1, 0, H, gate, 0, gate, 0, w_rz, 2 * P)
    meet(me)
    reset_units(gate, before, reset, H, me)
    meet(me)
    share_affine(me, 1, reset, 0, 1, 0, H, candidate, 0, candidate, 0, w_n, P)
    meet(me)
    new_units(gate, before, after, H, me)


@kernel
def gru_cell_reset_before(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    reset: Scratch,
    h: State,
    w_ih: Matrix,
    w_rz: Matrix,
    w_n: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
    me: Member,
) -> None:
    """T steps, reset before the product; ``reset`` takes r * h of one frame."""
    L = lanes()
    P = (H + L - 1) // L * L
    share_affine(me, T, x, x_step, 1, 0, I, bias, 0, gates, gates_step, w_ih, 3 * P)
    before = h
    for t in range(T):
        after = at(y, t * y_step)
        gru_frame_reset_before(at(gates, t * gates_step), before, after, reset, w_rz, w_n, H, me)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@gru_cell_reset_before.pooled
def gru_cells_reset_before(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    resets: Scratch,
    resets_step: Size,
    h: Place,
    w_ih: Matrix,
    w_rz: Matrix,
    w_n: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """A step of T streams; ``y`` holds their states, and ``resets`` takes r * h of each."""
    L = lanes()
    P = (H + L - 1) // L * L
    candidates = at(gates, 2 * P)
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(y, t * y_step))
    affine(T, x, x_step, 1, 0, I, bias, 0, gates, gates_step, w_ih, 3 * P)
    affine(T, y, y_step, 1, 0, H, gates, gates_step, gates, gates_step, w_rz, 2 * P)
    for t in range(T):
        state, reset = at(y, t * y_step), at(resets, t * resets_step)
        reset_units(at(gates, t * gates_step), state, reset, H, alone())
    affine(T, resets, resets_step, 1, 0, H, candidates, gates_step, candidates, gates_step, w_n, P)
    for t in range(T):
        state = at(y, t * y_step)
        new_units(at(gates, t * gates_step), state, state, H, alone())
        copy(H, state, at(floats(streams[t]), h))


@kernel
def gru_step_reset_before(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    y: Scratch,
    y_step: Size,
    gates: Scratch,
    gates_step: Size,
    reset: Scratch,
    w_ih: Matrix,
    w_rz: Matrix,
    w_n: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
) -> None:
    """The bare step, reset before the product: the state comes with the frame."""
    L = lanes()
    P = (H + L - 1) // L * L
    affine(T, x, x_step, 1, 0, I, bias, 0, gates, gates_step, w_ih, 3 * P)
    for t in range(T):
        gate, before, after = at(gates, t * gates_step), at(h, t * h_step), at(y, t * y_step)
        gru_frame_reset_before(gate, before, after, reset, w_rz, w_n, H, alone())


@dataclass(eq=False)
class GRUCell(Cell):
    """One GRU step; the output is the new hidden state.

    Frames are float32 [shape=(I,)], outputs and state ``h`` float32 [shape=(H,)], dimensionless.
    Weights as in ``torch.nn.GRUCell``: ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``bias_ih``
    and ``bias_hh`` (3H,), gates in the order r, z, n.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state.
    bias : bool
        Whether there are biases.
    reset_after : bool
        Whether the reset gate acts after the recurrent product (torch, Keras' default, ONNX's
        ``linear_before_reset=1``) or before it (the paper, ONNX's default).
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
    reset_after: bool = True

    prefix: ClassVar[str] = "gru"
    gates: ClassVar[str] = "rzn"
    layouts: ClassVar[dict[str, str]] = {"torch": "rzn", "onnx": "zrn", "keras": "zrn"}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        s = self.before(states, xs)
        h = s["h"]
        zeros = {name: np.zeros(3 * self.hidden_size) for name in ("bias_ih", "bias_hh")}
        w = zeros | weights
        ir, iz, in_ = np.split(w["weight_ih"] @ xs[0] + w["bias_ih"], 3)
        hr, hz, hn = np.split(w["weight_hh"] @ h + w["bias_hh"], 3)
        r, z = 1 / (1 + np.exp(-(ir + hr))), 1 / (1 + np.exp(-(iz + hz)))
        if self.reset_after:
            n = np.tanh(in_ + r * hn)
        else:
            w_hn, b_hn = np.split(w["weight_hh"], 3)[2], np.split(w["bias_hh"], 3)[2]
            n = np.tanh(in_ + w_hn @ (r * h) + b_hn)
        s["h"] = (1 - z) * n + z * h
        return self.after(s, xs)

    def needs_float32(self) -> str:
        return ""

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, H = tape.output(), self.hidden_size
        w = self.full_weights()
        own = len(xs) == 1
        common = {
            "x": xs[0],
            "y": y,
            "gates": tape.temporary(3 * tape.padded(H)),
            "h": tape.state("h") if own else xs[1],
            "I": self.input_size,
            "H": H,
            "work": 3 * H * (self.input_size + H),
        }
        if self.reset_after:
            tape.emit(
                gru_cell if own else gru_step,
                **common,
                hidden=tape.temporary(0, fixed=3 * tape.padded(H)),
                pool={"shares": tape.temporary(3 * tape.padded(H), pool=True)},
                w_ih=tape.matrix(w["weight_ih"], 3),
                w_hh=tape.matrix(w["weight_hh"], 3),
                b_ih=tape.vector(w["bias_ih"], 3),
                b_hh=tape.vector(w["bias_hh"], 3),
            )
        else:
            tape.emit(
                gru_cell_reset_before if own else gru_step_reset_before,
                **common,
                reset=tape.temporary(0, fixed=tape.padded(H)),
                pool={"resets": tape.temporary(tape.padded(H), pool=True)},
                w_ih=tape.matrix(tape.pad_gates(w["weight_ih"], 3)),
                w_rz=tape.matrix(tape.pad_gates(w["weight_hh"][: 2 * H], 2)),
                w_n=tape.matrix(w["weight_hh"][2 * H :]),
                bias=tape.vector(tape.pad_gates(w["bias_ih"] + w["bias_hh"], 3)),
            )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        write = self.native if len(xs) == 1 else self.native_step
        return write(g, "GRU", *xs, linear_before_reset=int(self.reset_after))


class GRU(Stack):
    """Stacked GRU cells, with the arguments and weight names of ``torch.nn.GRU``.

    Frames are float32 [shape=(I,)], outputs float32 [shape=(H,)]; see :class:`Stack`. The option
    ``reset_after`` is that of :class:`GRUCell`.
    """

    cell = GRUCell
