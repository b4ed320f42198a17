"""Fully connected layer: ``y = W x + b`` over the last axis of a frame, as ``torch.nn.Linear``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from ..kernels.member import share, share_affine
from ..kernels.product import affine
from ..kernels.simd import at
from ..kernels.tape import Frames, Matrix, Member, Scratch, Size, Weights, copy, kernel
from .op import Array, Arrays, Op, uniform

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Linear"]


@kernel
def linear(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    w: Matrix,
    bias: Weights,
    I: Size,
    O: Size,
    me: Member,
) -> None:
    """A frame is one row."""
    share_affine(me, T, x, x_step, 1, 0, I, bias, 0, y, y_step, w, O)


@kernel
def linear_rows(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    padded: Scratch,
    rows: Size,
    w: Matrix,
    bias: Weights,
    I: Size,
    O: Size,
    P: Size,
    me: Member,
) -> None:
    """A frame is several rows; ``padded`` takes the rows of one frame in whole vectors."""
    first, stop = share(me, rows)
    for t in range(T):
        mine, results = at(x, t * x_step + first * I), at(padded, first * P)
        affine(stop - first, mine, I, 1, 0, I, bias, 0, results, P, w, O)
        for r in range(first, stop):
            copy(O, at(padded, r * P), at(y, t * y_step + r * O))


@dataclass(eq=False)
class Linear(Op):
    """``y = W x + b``, as ``torch.nn.Linear``.

    Frames are float32 [shape=(…, I)], outputs float32 [shape=(…, O)]. Weights: ``weight`` (O, I),
    ``bias`` (O,).

    Parameters
    ----------
    in_features, out_features : int
        I and O.
    bias : bool
        Whether there is a bias.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer.
    """

    in_features: int
    out_features: int
    bias: bool = True

    channel_axis = -1

    def check(self) -> None:
        self.at_least(in_features=1, out_features=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.out_features, self.in_features)}
        return shapes | ({"bias": (self.out_features,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return uniform(shape, 1 / math.sqrt(self.in_features), rng)

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.in_features,),)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or shapes[0][-1:] != (self.in_features,):
            raise GraphError(
                f"{self!r} expects frames of shape (…, {self.in_features}), got {shown(shapes)}"
            )
        return (*shapes[0][:-1], self.out_features)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        y = xs[0] @ weights["weight"].T
        return np.asarray(y + weights["bias"] if self.bias else y)

    def needs_float32(self) -> str:
        return ""

    def scaled(self, scale: Array, shift: Array) -> Linear:
        """Return ``scale * (W x + b) + shift`` as one op."""
        op = Linear(self.in_features, self.out_features)
        bias = self.weights["bias"] if self.bias else 0.0
        op.weights = {
            "weight": self.weights["weight"] * scale[:, None],
            "bias": bias * scale + shift,
        }
        return op

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y, O = xs[0], tape.output(), self.out_features
        common = {
            "x": x,
            "y": y,
            "w": tape.matrix(self.weights["weight"]),
            "bias": tape.vector(self.weights["bias"] if self.bias else np.zeros(O, np.float32)),
            "I": self.in_features,
            "O": O,
            "work": x.size * O,
        }
        rows = x.size // self.in_features
        if rows == 1:
            tape.emit(linear, **common)
        else:
            P = tape.padded(O)
            padded = tape.temporary(0, fixed=rows * P)
            tape.emit(linear_rows, **common, padded=padded, rows=rows, P=P)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        y = g.op("MatMul", xs[0], g.constant(self.weights["weight"].T, "weight"))
        return g.op("Add", y, g.constant(self.weights["bias"], "bias")) if self.bias else y
