r"""Plain recurrence with int8 weights.

The equations of :class:`RNNCell`, whose products are those of :mod:`streamrnn.ops.int8_product`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..kernels.integer_product import int8_affine, integer_affine, product_floats
from ..kernels.member import (
    copy_share,
    meet,
    share_int8_affine,
    share_int8_rows,
    share_outputs,
)
from ..kernels.product import SIDE
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
from .rnn import RNNCell, rnn_units

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8RNNCell"]


@kernel
def int8_rnn_cell(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    h: State,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    I: Size,
    H: Size,
    rectify: Size,
    me: Member,
) -> None:
    """T steps; the sums are made in ``y`` itself, and units follow their sums at once."""
    share_int8_affine(me, T, x, x_step, I, bytes_, bytes__step, bias, 0, y, y_step, w_ih, H)
    first, stop = share_outputs(me, H)
    q, before = as_bytes(at(bytes_, lanes())), h
    for t in range(T):
        after = at(y, t * y_step)
        share_int8_rows(me, 1, before, 0, H, bytes_, 0)
        for u in range(first, stop, SIDE * lanes()):
            units, sums = min(stop - u, SIDE * lanes()), at(after, u)
            w = at(w_hh, product_floats(u, H))
            integer_affine(1, bytes_, 0, q, 0, H, sums, 0, sums, 0, w, units)
            rnn_units(sums, units, rectify)
        before = after
    meet(me)
    if T > 0:
        copy_share(me, H, before, h)


@int8_rnn_cell.pooled
def int8_rnn_cells(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    before: Scratch,
    before_step: Size,
    h: Place,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    I: Size,
    H: Size,
    rectify: Size,
) -> None:
    """A step of T streams; ``before`` takes their states."""
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(before, t * before_step))
    int8_affine(T, x, x_step, I, bytes_, bytes__step, bias, 0, y, y_step, w_ih, H)
    int8_affine(T, before, before_step, H, bytes_, bytes__step, y, y_step, y, y_step, w_hh, H)
    for t in range(T):
        rnn_units(at(y, t * y_step), H, rectify)
        copy(H, at(y, t * y_step), at(floats(streams[t]), h))


@kernel
def int8_rnn_step(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    y: Scratch,
    y_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    w_ih: Weights,
    w_hh: Weights,
    bias: Weights,
    I: Size,
    H: Size,
    rectify: Size,
) -> None:
    """The bare step: the state comes with the frame."""
    int8_affine(T, x, x_step, I, bytes_, bytes__step, bias, 0, y, y_step, w_ih, H)
    int8_affine(T, h, h_step, H, bytes_, bytes__step, y, y_step, y, y_step, w_hh, H)
    for t in range(T):
        rnn_units(at(y, t * y_step), H, rectify)


@dataclass(eq=False)
class Int8RNNCell(Int8Cell, RNNCell):
    """An :class:`RNNCell` with int8 weights; ``model.quantize("int8")`` makes it of one.

    Frames, outputs and state are those of :class:`RNNCell`. Weights: ``weight_ih_int8`` (H, I) and
    ``weight_hh_int8`` (H, H), int8; ``scale_ih``, ``scale_hh``, ``bias_ih`` and ``bias_hh`` (H,),
    float32.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state; at most 65,000.
    bias : bool
        Whether there are biases.
    nonlinearity : str
        ``"tanh"`` or ``"relu"``.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range or the nonlinearity is another.
    """

    prefix: ClassVar[str] = "rnn"
    replaces: ClassVar[type[Cell]] = RNNCell

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, w, own = tape.output(), self.full_weights(), len(xs) == 1
        tape.emit(
            int8_rnn_cell if own else int8_rnn_step,
            x=xs[0],
            y=y,
            bytes_=room_for_bytes(tape, max(self.input_size, self.hidden_size)),
            h=tape.state("h") if own else xs[1],
            w_ih=self.packed(tape, "ih"),
            w_hh=self.packed(tape, "hh"),
            bias=tape.vector(w["bias_ih"] + w["bias_hh"]),
            I=self.input_size,
            H=self.hidden_size,
            rectify=int(self.nonlinearity == "relu"),
            pool={"before": tape.temporary(tape.padded(self.hidden_size), pool=True)},
            work=self.multiply_adds() // 4,  # in float32 it would take so much longer
        )
        return y

    def write_step(self, g: Recorder, x: str, *states: str) -> tuple[str, ...]:
        (z_x,), (z_h,) = self.write_share(g, "ih", x), self.write_share(g, "hh", states[0])
        kind = "Tanh" if self.nonlinearity == "tanh" else "Relu"
        return (g.op(kind, g.op("Add", z_x, z_h)),)
