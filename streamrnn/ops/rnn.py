r"""Plain recurrence.

Elman, "Finding Structure in Time", 1990; in the form of ``torch.nn.RNNCell``::

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh)        or relu
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import ConfigError
from ..kernels.functions import flush, relu, tanh
from ..kernels.member import copy_share, meet, share_affine, share_outputs
from ..kernels.product import SIDE, affine
from ..kernels.simd import at, floats, lanes, load, store
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

__all__ = ["RNN", "RNNCell"]


@helper
def rnn_units(after: Pointer, H: int, rectify: int) -> None:
    """``after`` holds the sums, and becomes the new state."""
    if rectify:
        for u in range(0, H, lanes()):
            store(after, u, flush(relu(load(after, u))))
    else:
        for u in range(0, H, lanes()):
            store(after, u, flush(tanh(load(after, u))))


@kernel
def rnn_cell(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    h: State,
    w_ih: Matrix,
    w_hh: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
    rectify: Size,
    me: Member,
) -> None:
    """T steps; the sums are made in ``y`` itself, and units follow their sums at once."""
    share_affine(me, T, x, x_step, 1, 0, I, bias, 0, y, y_step, w_ih, H)
    first, stop = share_outputs(me, H)
    before = h
    for t in range(T):
        after = at(y, t * y_step)
        for u in range(first, stop, SIDE * lanes()):
            units, sums = min(stop - u, SIDE * lanes()), at(after, u)
            affine(1, before, 0, 1, 0, H, sums, 0, sums, 0, at(w_hh, u * H), units)
            rnn_units(sums, units, rectify)
        meet(me)
        before = after
    if T > 0:
        copy_share(me, H, before, h)


@rnn_cell.pooled
def rnn_cells(
    T: Frames,
    streams: Streams,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    before: Scratch,
    before_step: Size,
    h: Place,
    w_ih: Matrix,
    w_hh: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
    rectify: Size,
) -> None:
    """A step of T streams; ``before`` takes their states."""
    for t in range(T):
        copy(H, at(floats(streams[t]), h), at(before, t * before_step))
    affine(T, x, x_step, 1, 0, I, bias, 0, y, y_step, w_ih, H)
    affine(T, before, before_step, 1, 0, H, y, y_step, y, y_step, w_hh, H)
    for t in range(T):
        rnn_units(at(y, t * y_step), H, rectify)
        copy(H, at(y, t * y_step), at(floats(streams[t]), h))


@kernel
def rnn_step(
    T: Frames,
    x: Scratch,
    x_step: Size,
    h: Scratch,
    h_step: Size,
    y: Scratch,
    y_step: Size,
    w_ih: Matrix,
    w_hh: Matrix,
    bias: Weights,
    I: Size,
    H: Size,
    rectify: Size,
) -> None:
    """The bare step: the state comes with the frame."""
    affine(T, x, x_step, 1, 0, I, bias, 0, y, y_step, w_ih, H)
    affine(T, h, h_step, 1, 0, H, y, y_step, y, y_step, w_hh, H)
    for t in range(T):
        rnn_units(at(y, t * y_step), H, rectify)


@dataclass(eq=False)
class RNNCell(Cell):
    """One step of a plain (Elman) RNN; the output is the new hidden state.

    Frames are float32 [shape=(I,)], outputs and state ``h`` float32 [shape=(H,)], dimensionless.
    Weights as in ``torch.nn.RNNCell``: ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih`` and
    ``bias_hh`` (H,).

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state.
    bias : bool
        Whether there are biases.
    nonlinearity : str
        ``"tanh"`` or ``"relu"``.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer or the nonlinearity is another.
    """

    input_size: int
    hidden_size: int
    bias: bool = True
    nonlinearity: str = "tanh"

    prefix: ClassVar[str] = "rnn"
    gates: ClassVar[str] = "h"
    layouts: ClassVar[dict[str, str]] = {"torch": "h", "onnx": "h", "keras": "h"}

    def check(self) -> None:
        super().check()
        if self.nonlinearity not in ("tanh", "relu"):
            raise ConfigError(
                f"RNNCell: `nonlinearity` must be 'tanh' or 'relu', got {self.nonlinearity!r}"
            )

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        s = self.before(states, xs)
        z = self.preactivations(weights, xs[0], s["h"])["h"]
        s["h"] = np.tanh(z) if self.nonlinearity == "tanh" else np.maximum(z, 0)
        return self.after(s, xs)

    def needs_float32(self) -> str:
        return ""

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        w = self.full_weights()
        own = len(xs) == 1
        tape.emit(
            rnn_cell if own else rnn_step,
            x=xs[0],
            y=y,
            h=tape.state("h") if own else xs[1],
            w_ih=tape.matrix(w["weight_ih"]),
            w_hh=tape.matrix(w["weight_hh"]),
            bias=tape.vector(w["bias_ih"] + w["bias_hh"]),
            I=self.input_size,
            H=self.hidden_size,
            rectify=int(self.nonlinearity == "relu"),
            pool={"before": tape.temporary(tape.padded(self.hidden_size), pool=True)},
            work=self.hidden_size * (self.input_size + self.hidden_size),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        write = self.native if len(xs) == 1 else self.native_step
        return write(g, "RNN", *xs, activations=[self.nonlinearity.capitalize()])


class RNN(Stack):
    """Stacked plain RNN cells, with the arguments and weight names of ``torch.nn.RNN``.

    Frames are float32 [shape=(I,)], outputs float32 [shape=(H,)]; see :class:`Stack`. The option
    ``nonlinearity`` is that of :class:`RNNCell`.
    """

    cell = RNNCell
