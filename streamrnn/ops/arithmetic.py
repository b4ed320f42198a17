"""Sums, differences, products and quotients of two values, and of a value and a number.

Shapes are broadcast as in NumPy. In a model write ``a + b``, ``a * 2.0`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import GraphError
from ..graph import Shape, Value, as_shape, describe, shown
from ..kernels.tape import Kernel, Number, Weights, elementwise
from .op import Array, Arrays, Op
from .rearrange import Expand

if TYPE_CHECKING:
    from ..kernels.simd import Vector
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Add", "Affine", "Div", "Mul", "Scale", "Sub", "arithmetic"]


@elementwise
def add(a: Vector, b: Vector) -> Vector:
    return a + b


@elementwise
def sub(a: Vector, b: Vector) -> Vector:
    return a - b


@elementwise
def mul(a: Vector, b: Vector) -> Vector:
    return a * b


@elementwise
def div(a: Vector, b: Vector) -> Vector:
    return a / b


@dataclass(eq=False)
class _Binary(Op):
    kernel: ClassVar[Kernel]
    function: ClassVar[Callable[..., Any]]

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise GraphError(f"{self!r} reads two values of one shape, got {shown(shapes)}")
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(type(self).function(xs[0], xs[1]))

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(self.kernel, a=xs[0], b=xs[1], y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op(type(self).__name__, *xs)


class Add(_Binary):
    """``a + b`` of two values of one shape."""

    kernel, function = add, np.add


class Sub(_Binary):
    """``a - b`` of two values of one shape."""

    kernel, function = sub, np.subtract


class Mul(_Binary):
    """``a * b`` of two values of one shape, element by element."""

    kernel, function = mul, np.multiply


class Div(_Binary):
    """``a / b`` of two values of one shape, element by element; x / 0 is an infinity or NaN."""

    kernel, function = div, np.divide


@elementwise
def scale(x: Vector, factor: Number, offset: Number) -> Vector:
    return x * factor + offset


@dataclass(eq=False)
class Scale(Op):
    """``y = x * factor + offset`` with two numbers; shapes as they are.

    Folded into the linear op before it.

    Parameters
    ----------
    factor, offset : float
        Finite numbers.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a number is not finite.
    """

    factor: float = 1.0
    offset: float = 0.0

    def check(self) -> None:
        self.factor, self.offset = float(np.float32(self.factor)), float(np.float32(self.offset))

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return xs[0] * self.factor + self.offset

    def scale_and_shift(self) -> tuple[Array, Array]:
        """Return the two numbers, float32 [shape=(1,)]: the same for each channel."""
        return np.array([self.factor], np.float32), np.array([self.offset], np.float32)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(scale, x=xs[0], factor=self.factor, offset=self.offset, y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        y = g.op("Mul", xs[0], g.constant(np.float32(self.factor)))
        return g.op("Add", y, g.constant(np.float32(self.offset)))


@elementwise
def affine_weights(x: Vector, factor: Weights, offset: Weights) -> Vector:
    """``x * factor + offset``, with weights of its own for each element."""
    return x * factor + offset


@dataclass(eq=False)
class Affine(Op):
    """``y = x * weight + bias``, with weights that broadcast against the frame as in NumPy.

    Frames and outputs are float32 [shape=(…, *shape)]. Weights: ``weight`` and ``bias`` (shape).
    Folded into the linear op before it where the weights differ along its channels only.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the weights; lined up with the frame's last axes, each as large or 1.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is below 1.
    """

    shape: int | Sequence[int]

    def check(self) -> None:
        shape = as_shape(self.shape, "Affine")
        wide = [i for i, d in enumerate(shape) if d > 1]
        self._channels = wide[0] - len(shape) if len(wide) == 1 else None

    @property
    def channel_axis(self) -> int | None:  # type: ignore[override]
        """Axis, counted from the end, along which alone the weights differ, if there is one."""
        return self._channels

    def multiply_adds(self, *shapes: Shape) -> int:
        return 0

    def parameter_shapes(self) -> dict[str, Shape]:
        shape = as_shape(self.shape, "Affine")
        return {"weight": shape, "bias": shape}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape) if name == "weight" else np.zeros(shape)

    def input_shapes(self) -> tuple[Shape, ...]:
        return (as_shape(self.shape, "Affine"),)

    def output_shape(self, *shapes: Shape) -> Shape:
        shape = as_shape(self.shape, "Affine")
        tail = shapes[0][-len(shape) :] if shape else ()
        fits = len(tail) == len(shape) and all(
            d in (1, n) for d, n in zip(shape, tail, strict=True)
        )
        if len(shapes) != 1 or not fits:
            raise GraphError(
                f"{self!r} expects frames that {shape} broadcasts against, got {shown(shapes)}"
            )
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.asarray(xs[0] * weights["weight"] + weights["bias"])

    def scale_and_shift(self) -> tuple[Array, Array]:
        """Return (scale, shift), float32 [shape=(C,)], along the channel axis."""
        return self.weights["weight"].reshape(-1), self.weights["bias"].reshape(-1)

    def scaled(self, scale: Array, shift: Array) -> Affine:
        """Return ``scale * (x * weight + bias) + shift`` as one op."""
        op, shape = Affine(self.shape), self.weights["bias"].shape
        bias = self.weights["bias"] * scale.reshape(shape) + shift.reshape(shape)
        op.weights = {"weight": self.weights["weight"] * scale.reshape(shape), "bias": bias}
        return op

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, shape = tape.output(), xs[0].shape
        factor, offset = (
            tape.vector(np.broadcast_to(self.weights[name], shape).reshape(-1))
            for name in ("weight", "bias")
        )
        tape.emit(affine_weights, x=xs[0], factor=factor, offset=offset, y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        y = g.op("Mul", xs[0], g.constant(self.weights["weight"], "weight"))
        return g.op("Add", y, g.constant(self.weights["bias"], "bias"))


_BINARY: dict[str, type[_Binary]] = {"Add": Add, "Sub": Sub, "Mul": Mul, "Div": Div}


def arithmetic(name: str, a: Value, b: Any, swap: bool = False) -> Value:
    """Return ``a op b`` (or ``b op a``), with `b` a value or a number."""
    if isinstance(b, Value):
        try:
            shape = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            raise GraphError(
                f"{name}: shapes {a.shape} and {b.shape} cannot be broadcast together"
            ) from None
        pair = [v if v.shape == shape else Expand(shape)(v) for v in (a, b)]
        op = _BINARY[name]()
        return op(*(reversed(pair) if swap else pair))
    if isinstance(b, bool) or not isinstance(b, (int, float, np.number)):
        raise GraphError(
            f"{name}: the other operand must be a value or a number, got {describe(b)}"
        )
    number = float(b)
    if name == "Add":
        return Scale(1.0, number)(a)
    if name == "Sub":
        return Scale(-1.0, number)(a) if swap else Scale(1.0, -number)(a)
    if name == "Div" and number == 0:
        raise GraphError("Div: division by the number 0")
    return Scale(number if name == "Mul" else 1 / number)(a)
