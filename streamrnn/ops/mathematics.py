"""Functions of each element beyond the activations: rounding, signs, trigonometry.

As in ``activations.py``, each is the equation in vectors, in NumPy, and ONNX's operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..kernels import functions as f
from ..kernels.simd import (
    select_eq,
    select_le,
    select_lt,
    splat,
    vabs,
    vceil,
    vfloor,
    vround,
    vsqrt,
    vtrunc,
)
from ..kernels.tape import Kernel, Number, elementwise
from .activations import _Activation
from .op import Array

if TYPE_CHECKING:
    from ..kernels.simd import Vector
    from .recorder import Recorder

__all__ = [
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Cos",
    "Cosh",
    "Floor",
    "IsInf",
    "IsNaN",
    "Reciprocal",
    "Round",
    "Sign",
    "Sin",
    "Sinh",
    "Tan",
    "Trunc",
]


@elementwise
def floor(x: Vector) -> Vector:
    return vfloor(x)


@elementwise
def ceil(x: Vector) -> Vector:
    return vceil(x)


@elementwise
def round_even(x: Vector) -> Vector:
    return vround(x)


@elementwise
def trunc(x: Vector) -> Vector:
    return vtrunc(x)


@elementwise
def sign(x: Vector) -> Vector:
    return select_lt(x, splat(0.0), splat(-1.0), select_lt(splat(0.0), x, splat(1.0), x))


@elementwise
def reciprocal(x: Vector) -> Vector:
    return 1.0 / x


@elementwise
def sin(x: Vector) -> Vector:
    return f.sin(x)


@elementwise
def cos(x: Vector) -> Vector:
    return f.cos(x)


@elementwise
def tan(x: Vector) -> Vector:
    return f.tan(x)


@elementwise
def asin(x: Vector) -> Vector:
    return 2.0 * f.atan(x / (1.0 + vsqrt((1.0 - x) * (1.0 + x))))


@elementwise
def acos(x: Vector) -> Vector:
    return 2.0 * f.atan(vsqrt((1.0 - x) / (1.0 + x)))


@elementwise
def atan(x: Vector) -> Vector:
    return f.atan(x)


@elementwise
def sinh(x: Vector) -> Vector:
    return f.sinh(x)


@elementwise
def cosh(x: Vector) -> Vector:
    return f.cosh(x)


@elementwise
def asinh(x: Vector) -> Vector:
    return f.asinh(x)


@elementwise
def acosh(x: Vector) -> Vector:
    return f.acosh(x)


@elementwise
def atanh(x: Vector) -> Vector:
    return f.atanh(x)


@elementwise
def is_nan(x: Vector) -> Vector:
    return select_eq(x, x, splat(0.0), splat(1.0))


@elementwise
def is_inf(x: Vector, negative: Number, positive: Number) -> Vector:
    """An infinity is what subtracting itself makes NaN, and is no NaN."""
    which = select_lt(x, splat(0.0), negative, positive)
    finite = select_le(vabs(x), splat(3.4028234663852886e38), splat(0.0), which)
    return select_eq(x, x, finite, splat(0.0))


class Floor(_Activation):
    """The largest whole number that is not above ``x``."""

    kernel = floor

    def formula(self, x: Array) -> Any:
        return np.floor(x)


class Ceil(_Activation):
    """The smallest whole number that is not below ``x``."""

    kernel = ceil

    def formula(self, x: Array) -> Any:
        return np.ceil(x)


class Round(_Activation):
    """The nearest whole number; halves go to the even one."""

    kernel = round_even

    def formula(self, x: Array) -> Any:
        return np.rint(x)


class Trunc(_Activation):
    """``x`` without its fraction, as a conversion to integers does it."""

    kernel = trunc

    def formula(self, x: Array) -> Any:
        return np.trunc(x)

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Mul", g.op("Sign", xs[0]), g.op("Floor", g.op("Abs", xs[0])))


class Sign(_Activation):
    """1 where positive, -1 where negative, 0 at 0."""

    kernel = sign

    def formula(self, x: Array) -> Any:
        return np.sign(x)


class Reciprocal(_Activation):
    """``1 / x``."""

    kernel = reciprocal

    def formula(self, x: Array) -> Any:
        return 1 / x


class Sin(_Activation):
    """Sine of an angle in radians."""

    kernel = sin

    def formula(self, x: Array) -> Any:
        return np.sin(x)


class Cos(_Activation):
    """Cosine of an angle in radians."""

    kernel = cos

    def formula(self, x: Array) -> Any:
        return np.cos(x)


class Tan(_Activation):
    """Tangent of an angle in radians."""

    kernel = tan

    def formula(self, x: Array) -> Any:
        return np.tan(x)


class Asin(_Activation):
    """Angle in radians whose sine is ``x``; NaN beyond 1 and -1."""

    kernel = asin

    def formula(self, x: Array) -> Any:
        return np.arcsin(x)


class Acos(_Activation):
    """Angle in radians whose cosine is ``x``; NaN beyond 1 and -1."""

    kernel = acos

    def formula(self, x: Array) -> Any:
        return np.arccos(x)


class Atan(_Activation):
    """Angle in radians whose tangent is ``x``."""

    kernel = atan

    def formula(self, x: Array) -> Any:
        return np.arctan(x)


class Sinh(_Activation):
    """Hyperbolic sine."""

    kernel = sinh

    def formula(self, x: Array) -> Any:
        return np.sinh(x)


class Cosh(_Activation):
    """Hyperbolic cosine."""

    kernel = cosh

    def formula(self, x: Array) -> Any:
        return np.cosh(x)


class Asinh(_Activation):
    """Inverse hyperbolic sine."""

    kernel = asinh

    def formula(self, x: Array) -> Any:
        return np.arcsinh(x)


class Acosh(_Activation):
    """Inverse hyperbolic cosine; NaN below 1."""

    kernel = acosh

    def formula(self, x: Array) -> Any:
        return np.arccosh(x)


class Atanh(_Activation):
    """Inverse hyperbolic tangent; NaN beyond 1 and -1."""

    kernel = atanh

    def formula(self, x: Array) -> Any:
        return np.arctanh(x)


class IsNaN(_Activation):
    """1 where ``x`` is NaN, else 0."""

    kernel = is_nan

    def formula(self, x: Array) -> Any:
        return np.isnan(x).astype(np.float64)

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Cast", g.op("IsNaN", xs[0]), to=1)


@dataclass(eq=False)
class IsInf(_Activation):
    """1 where ``x`` is infinite, else 0.

    Parameters
    ----------
    detect_negative, detect_positive : bool
        Whether the infinity of that sign counts.
    name, seed
        See :class:`Op`.
    """

    detect_negative: bool = True
    detect_positive: bool = True

    kernel: ClassVar[Kernel] = is_inf

    def formula(self, x: Array) -> Any:
        return np.isneginf(x) * self.detect_negative + np.isposinf(x) * self.detect_positive * 1.0

    def numbers(self) -> dict[str, float]:
        return {
            "negative": float(self.detect_negative),
            "positive": float(self.detect_positive),
        }

    def onnx(self, g: Recorder, *xs: str) -> str:
        signs = {
            "detect_negative": int(self.detect_negative),
            "detect_positive": int(self.detect_positive),
        }
        return g.op("Cast", g.op("IsInf", xs[0], **signs), to=1)
