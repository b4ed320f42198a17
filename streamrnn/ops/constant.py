"""A value that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Clock, Shape, Value, as_shape
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, Weights, copy, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Constant", "at_rate"]


@kernel
def constant(T: Frames, value: Weights, y: Scratch, y_step: Size, n: Size) -> None:
    """Write the same numbers into every frame."""
    for t in range(T):
        copy(n, value, at(y, t * y_step))


def at_rate(op: Op, shape: Shape, values: tuple[Value, ...]) -> Value:
    """Return the value of an op that reads nothing, or one value for its rate alone."""
    if len(values) > 1 or not all(isinstance(v, Value) for v in values):
        raise GraphError(f"{op!r} reads nothing, or one value for its rate, got {len(values)}")
    return Value(shape, values[0].clock if values else Clock(), op=op, args=values)


@dataclass(eq=False)
class Constant(Op):
    """The same numbers in every frame: the weight ``value``, float32 [shape=shape].

    It reads nothing, ``c = Constant((3, 4))()``; or a value, in order to come at its rate.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the value.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is below 1.
    """

    shape: int | Sequence[int]

    def __call__(self, *values: Value) -> Value:
        return at_rate(self, as_shape(self.shape, "Constant"), values)

    def multiply_adds(self, *shapes: Shape) -> int:
        return 0

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"value": as_shape(self.shape, "Constant")}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.zeros(shape, np.float32)

    def output_shape(self, *shapes: Shape) -> Shape:
        return as_shape(self.shape, "Constant")

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return weights["value"]

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(constant, T=y, value=tape.weight(self.weights["value"]), y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        value = g.constant(self.weights["value"][None, None], "value")
        return g.spread(value)
