"""Fully connected layer with int8 weights: ``y = W x + b`` over the last axis of a frame.

The product is that of :mod:`streamrnn.ops.int8_product`: each row of a frame is rounded to bytes in
its own range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError
from ..graph import Shape
from ..kernels.integer_product import MAX_INPUTS, int8_affine, row_floats
from ..kernels.member import share_int8_affine
from ..kernels.simd import at
from ..kernels.tape import Frames, Member, Scratch, Size, Weights, copy, kernel
from .int8_product import int8_initial, product, room_for_bytes, write_product
from .integer_linear import byte_matrix
from .linear import Linear
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..graph import Node, Value
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Int8Linear"]


@kernel
def int8_linear(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    bytes_: Scratch,
    bytes__step: Size,
    w: Weights,
    bias: Weights,
    I: Size,
    O: Size,
    me: Member,
) -> None:
    """A frame is one row."""
    share_int8_affine(me, T, x, x_step, I, bytes_, bytes__step, bias, 0, y, y_step, w, O)


@kernel
def int8_linear_rows(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    bytes_: Scratch,
    row: Size,
    padded: Scratch,
    rows: Size,
    w: Weights,
    bias: Weights,
    I: Size,
    O: Size,
    P: Size,
) -> None:
    """A frame is several rows; ``padded`` takes the rows of one frame in whole vectors."""
    for t in range(T):
        int8_affine(rows, at(x, t * x_step), I, I, bytes_, row, bias, 0, padded, P, w, O)
        for r in range(rows):
            copy(O, at(padded, r * P), at(y, t * y_step + r * O))


@dataclass(eq=False)
class Int8Linear(Linear):
    """A :class:`Linear` with int8 weights; ``model.quantize("int8")`` makes it of one.

    Frames are float32 [shape=(…, I)], outputs float32 [shape=(…, O)]. Weights: ``weight_int8``
    (O, I), int8; ``scale_weight`` and ``bias`` (O,), float32.

    Parameters
    ----------
    in_features, out_features : int
        I, at most 65,000, and O.
    bias : bool
        Whether there is a bias.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range.
    """

    prefix: ClassVar[str] = "linear"
    replaces: ClassVar[type[Op]] = Linear

    scaled = None  # type: ignore[assignment]  # a scale folded in would be rounded again

    @staticmethod
    def multiplies(weight: str, node: Node) -> Value:
        """Return the value whose frames are multiplied by a weight of the op that is replaced."""
        return node.args[0]

    def check(self) -> None:
        super().check()
        if self.in_features > MAX_INPUTS:
            raise ConfigError(
                f"Int8Linear: `in_features` must be at most {MAX_INPUTS}, got {self.in_features}: "
                f"sums in int32 could overflow"
            )

    def needs_float32(self) -> str:
        return "its matrix is int8"

    def parameter_shapes(self) -> dict[str, Shape]:
        O = self.out_features
        shapes: dict[str, Shape] = {"weight_int8": (O, self.in_features), "scale_weight": (O,)}
        return shapes | ({"bias": (O,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return int8_initial(name, shape, rng, self.in_features)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        y = product(weights["weight_int8"], weights["scale_weight"], xs[0])
        return np.asarray(y + weights["bias"] if self.bias else y)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        x, y, I, O = xs[0], tape.output(), self.in_features, self.out_features
        w = self.weights
        common: dict[str, Any] = {
            "x": x,
            "y": y,
            "w": byte_matrix(tape, w["weight_int8"], w["scale_weight"]),
            "bias": tape.vector(w["bias"] if self.bias else np.zeros(O, np.float32)),
            "I": I,
            "O": O,
        }
        rows = x.size // I
        if rows == 1:
            tape.emit(int8_linear, **common, bytes_=room_for_bytes(tape, I), work=I * O // 4)
        else:
            P, row = tape.padded(O), row_floats(I, tape.lanes)
            padded = tape.temporary(0, fixed=rows * P)
            bytes_ = tape.temporary(0, fixed=rows * row)
            tape.emit(
                int8_linear_rows, **common, bytes_=bytes_, row=row, padded=padded, rows=rows, P=P
            )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        w = self.weights
        y = write_product(g, xs[0], w["weight_int8"], w["scale_weight"], "weight")
        return g.op("Add", y, g.constant(w["bias"], "bias")) if self.bias else y
