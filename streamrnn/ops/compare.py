"""Two values element by element: comparisons, the larger and the smaller, remainders, angles.

Truths are numbers: 1 and 0; what is not 0 is true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from ..kernels.functions import atan
from ..kernels.simd import select_eq, select_le, select_lt, splat, vmax, vmin
from ..kernels.tape import Frames, Scratch, Size, elementwise, kernel
from .arithmetic import _Binary
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..kernels.simd import Vector
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Atan2", "Equal", "Less", "LessOrEqual", "Maximum", "Minimum", "Mod", "Pow", "Where"]


@elementwise
def equal(a: Vector, b: Vector) -> Vector:
    return select_eq(a, b, splat(1.0), splat(0.0))


@elementwise
def less(a: Vector, b: Vector) -> Vector:
    return select_lt(a, b, splat(1.0), splat(0.0))


@elementwise
def less_or_equal(a: Vector, b: Vector) -> Vector:
    return select_le(a, b, splat(1.0), splat(0.0))


@elementwise
def maximum(a: Vector, b: Vector) -> Vector:
    return select_eq(b, b, vmax(a, b), b)


@elementwise
def minimum(a: Vector, b: Vector) -> Vector:
    return select_eq(b, b, vmin(a, b), b)


@elementwise
def where(condition: Vector, a: Vector, b: Vector) -> Vector:
    return select_eq(condition, splat(0.0), b, a)


@elementwise
def atan2(a: Vector, b: Vector) -> Vector:
    """Where b is negative, half a turn is added to the angle of the other half plane."""
    angle = select_eq(a, splat(0.0), splat(0.0), atan(a / b))
    half_turn = select_lt(a, splat(0.0), splat(-math.pi), splat(math.pi))
    angle = angle + select_lt(b, splat(0.0), half_turn, splat(0.0))
    return select_eq(b, b, angle, b)


@kernel
def modulo(
    T: Frames,
    a: Scratch,
    a_step: Size,
    b: Scratch,
    b_step: Size,
    y: Scratch,
    y_step: Size,
    n: Size,
    fmod: Size,
) -> None:
    """Remainders, exact; with the sign of b unless ``fmod``."""
    for t in range(T):
        for i in range(n):
            divisor = b[t * b_step + i]
            rest = np.fmod(a[t * a_step + i], divisor)
            other_sign = rest * divisor < 0
            y[t * y_step + i] = rest + divisor if other_sign and not fmod else rest


@kernel
def power(
    T: Frames,
    a: Scratch,
    a_step: Size,
    b: Scratch,
    b_step: Size,
    y: Scratch,
    y_step: Size,
    n: Size,
) -> None:
    for t in range(T):
        for i in range(n):
            y[t * y_step + i] = a[t * a_step + i] ** b[t * b_step + i]


class _Comparison(_Binary):
    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return super().reference(weights, states, *xs).astype(np.float64)

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Cast", g.op(type(self).__name__, *xs), to=1)


class Equal(_Comparison):
    """1 where ``a == b``, else 0; two values of one shape."""

    kernel, function = equal, np.equal


class Less(_Comparison):
    """1 where ``a < b``, else 0; two values of one shape."""

    kernel, function = less, np.less


class LessOrEqual(_Comparison):
    """1 where ``a <= b``, else 0; two values of one shape."""

    kernel, function = less_or_equal, np.less_equal


class Maximum(_Binary):
    """The larger of two values of one shape, element by element; NaN where one is NaN."""

    kernel, function = maximum, np.maximum

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Max", *xs)


class Minimum(_Binary):
    """The smaller of two values of one shape, element by element; NaN where one is NaN."""

    kernel, function = minimum, np.minimum

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Min", *xs)


class Pow(_Binary):
    """``a ** b`` of two values of one shape, element by element."""

    kernel, function = power, np.power


class Atan2(_Binary):
    """Angle of the point ``(b, a)`` in radians, from -pi to pi, of two finite values of one shape.

    The sign of a zero is not seen: the angle of (-1, -0.0) is pi.
    """

    kernel, function = atan2, np.arctan2

    def onnx(self, g: Recorder, *xs: str) -> str:
        zero, pi = g.constant(np.float32(0)), g.constant(np.float32(np.pi))
        angle = g.op("Where", g.op("Equal", xs[0], zero), zero, g.op("Atan", g.op("Div", *xs)))
        half_turn = g.op("Where", g.op("Less", xs[0], zero), g.op("Neg", pi), pi)
        turned = g.op("Where", g.op("Less", xs[1], zero), half_turn, zero)
        return g.op("Add", angle, turned)


@dataclass(eq=False)
class Mod(_Binary):
    """Remainder of ``a / b`` of two values of one shape, element by element.

    Parameters
    ----------
    fmod : bool
        Whether it has the sign of `a`, as in C, rather than that of `b`, as in Python.
    name, seed
        See :class:`Op`.
    """

    fmod: bool = True

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(np.fmod(*xs) if self.fmod else np.mod(*xs))

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(modulo, a=xs[0], b=xs[1], y=y, n=y.size, fmod=int(self.fmod))
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        rest = g.op("Mod", *xs, fmod=1)
        if self.fmod:
            return rest
        zero = g.constant(np.float32(0))  # ONNX has this remainder for integers only
        other_sign = g.op("Less", g.op("Mul", rest, xs[1]), zero)
        return g.op("Where", other_sign, g.op("Add", rest, xs[1]), rest)


class Where(Op):
    """``a`` where the condition is not 0, else ``b``: ``Where()(condition, a, b)``."""

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 3 or len(set(shapes)) > 1:
            raise GraphError(f"{self!r} reads three values of one shape, got {shown(shapes)}")
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.where(xs[0] != 0, xs[1], xs[2])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(where, condition=xs[0], a=xs[1], b=xs[2], y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Where", g.op("Cast", xs[0], to=9), *xs[1:])
