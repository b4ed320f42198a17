"""Activation functions of vectors, computed in registers.

Polynomials and rational functions whose coefficients ``tools/fit_functions.py`` derives (a minimax
fit, then rounded to float32). Largest errors over *every* float32 argument, with fused
multiply-add, in units in the last place (ulp), relative and absolute, which
``tests/test_functions.py`` checks:

=================  ========  =========  =========
function           ulp       relative   absolute
=================  ========  =========  =========
tanh               5.1       3.1e-7     3.1e-7
sigmoid            6.2       4.2e-7     9.2e-8
exp                2.0       1.7e-7
expm1_negative     1.0       1.0e-7     4.3e-8
log                1.2       1.0e-7
softplus           2.8       2.4e-7
erf                5.4       3.2e-7     3.2e-7
sin, cos                     1.4e-7     1.6e-7
tan                          2.6e-7
atan               3.4       2.5e-7     2.0e-7
sinh, cosh                   4.2e-7
asinh, acosh                 1.9e-7
atanh                        2.2e-7
=================  ========  =========  =========

Each saturates exactly (``tanh(20) == 1``, ``sigmoid(-200) == 0``) and passes NaN on. The figures
of sin, cos and tan hold for angles up to 1e5 radians, the absolute one up to 2**31; float32 numbers
beyond lie over 128 radians apart, and the result is NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .simd import (
    exponent,
    fma,
    mantissa,
    power2,
    power2_half,
    power2_rest,
    quarter_turns,
    select_eq,
    select_le,
    select_lt,
    splat,
    vabs,
    vmax,
    vmin,
    vsqrt,
    within_quarter,
)
from .tape import helper

if TYPE_CHECKING:
    from .simd import Vector

__all__ = [
    "acosh",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1_negative",
    "flush",
    "log",
    "log1p_unit",
    "relu",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "tan",
    "tanh",
]

# Coefficients of the highest power first. Rational functions of t = min(x * x, T_MAX):
# x * (1 + t * P(t)) / Q(t).
TANH_T_MAX = 68.0
TANH_P = (
    1.4812186144297357e-08,
    2.1623254724545404e-05,
    0.003556078067049384,
    0.13431686162948608,
)
TANH_Q = (
    8.360977403754077e-07,
    0.00033852801425382495,
    0.026106219738721848,
    0.4676501452922821,
    1.0,
)
ERF_T_MAX = 14.0
ERF_P = (
    1.936206444952404e-06,
    0.00025550814461894333,
    0.003192858537659049,
    0.046337321400642395,
    0.16457338631153107,
)
ERF_Q = (
    3.513955380185507e-05,
    0.0010065794922411442,
    0.0129772387444973,
    0.09953087568283081,
    0.4412578046321869,
    0.8862268924713135,
)
# e**x = 2**n * e**r, with x = n * ln 2 + r, |r| <= ln 2 / 2 and e**r = 1 + r * P(r);
# e**-r = 1 + r * N(r) has the same coefficients with other signs.
LOG2E, LN2_HI, LN2_LO = 1.4426950216293335, 0.6931471824645996, -1.9046542121259336e-09
EXP_P = (
    0.008289633318781853,
    0.041898176074028015,
    0.16667649149894714,
    0.4999914765357971,
    0.9999997019767761,
)
EXP_N = (
    -0.008289633318781853,
    0.041898176074028015,
    -0.16667649149894714,
    0.4999914765357971,
    -0.9999997019767761,
)
# expm1(r) = r + r * r * P(r), on the same r.
EXPM1_P = (
    0.0013936543837189674,
    0.008366544730961323,
    0.041666429489851,
    0.16666539013385773,
    0.5,
)
# log(1 + m) = m + m * m * P(m), m from sqrt(1/2) - 1 to sqrt(2) - 1.
LOG_P = (
    0.08741214871406555,
    -0.1431160569190979,
    0.14917366206645966,
    -0.16569818556308746,
    0.19962064921855927,
    -0.2500179409980774,
    0.33333951234817505,
    -0.49999991059303284,
)
# log1p(u) = u + u * u * P(u), u from 0 to 1.
LOG1P_P = (
    0.00536542572081089,
    -0.030068298801779747,
    0.07920882850885391,
    -0.13754187524318695,
    0.1915384829044342,
    -0.24857217073440552,
    0.33321329951286316,
    -0.49999648332595825,
)
# sin(r) = r + r**3 * P(r**2) and cos(r) = 1 - r**2 / 2 + r**4 * P(r**2), |r| <= pi / 4.
SIN_P = (-0.00019518793851602823, 0.008332176133990288, -0.16666653752326965)
COS_P = (2.443297125864774e-05, -0.0013887318782508373, 0.04166664555668831)
# atan(x) on 0 to 1, as the rational functions above.
ATAN_P = (0.008967177011072636, 0.28739088773727417, 1.1310226917266846)
ATAN_Q = (0.05076942220330238, 0.5755118131637573, 1.4643559455871582, 1.0)
LN2, HALF_PI = 0.6931471805599453, 1.5707963267948966
MAX_ANGLE = 2147483648.0
# Adding it rounds to a whole number, which then stands in the lowest bits, as an exponent.
ROUND = 12582912.0 + 127.0
ROUND_TWICE = 12582912.0 + 254.0
TINY = 1e-30


@helper
def horner(x: Vector, coefficients: tuple[float, ...]) -> Vector:
    """Polynomial in x; the coefficient of the highest power comes first."""
    total = splat(coefficients[0])
    for i in range(1, len(coefficients)):
        total = fma(total, x, splat(coefficients[i]))
    return total


@helper
def odd_rational(x: Vector, p: tuple[float, ...], q: tuple[float, ...], t_max: float) -> Vector:
    """``x * (1 + t P(t)) / Q(t)`` with ``t = x * x``, kept within -1 and 1."""
    t = vmin(x * x, splat(t_max))
    y = fma(x * t, horner(t, p), x) / horner(t, q)
    return vmax(vmin(y, splat(1.0)), splat(-1.0))


@helper
def flush(x: Vector) -> Vector:
    """Zero where ``|x| < 1e-30``.

    A state that decays stops there instead of among the subnormal numbers, which slow a CPU down
    by up to a hundred times.
    """
    return select_lt(vabs(x), splat(TINY), splat(0.0), x)


@helper
def relu(x: Vector) -> Vector:
    """``max(x, 0)``."""
    return vmax(x, splat(0.0))


@helper
def tanh(x: Vector) -> Vector:
    """Hyperbolic tangent."""
    return odd_rational(x, TANH_P, TANH_Q, TANH_T_MAX)


@helper
def erf(x: Vector) -> Vector:
    """Error function."""
    return odd_rational(x, ERF_P, ERF_Q, ERF_T_MAX)


@helper
def sigmoid(x: Vector) -> Vector:
    """``1 / (1 + exp(-x))``; exactly 0 below -88.4."""
    x = vmax(vmin(x, splat(88.0)), splat(-88.7))
    z = fma(x, splat(-LOG2E), splat(ROUND))
    r = fma(z - ROUND, splat(LN2_HI), x)
    e = fma(horner(r, EXP_N), r, splat(1.0))
    return 1.0 / fma(power2(z), e, splat(1.0))


@helper
def exp(x: Vector) -> Vector:
    """Exponential; results below 1.2e-38 are subnormal, below 1e-45 zero, above 3.4e38 infinite."""
    x = vmin(vmax(x, splat(-104.0)), splat(89.0))
    z = fma(x, splat(LOG2E), splat(ROUND_TWICE))
    n = z - ROUND_TWICE
    r = fma(n, splat(-LN2_LO), fma(n, splat(-LN2_HI), x))
    return fma(horner(r, EXP_P), r, splat(1.0)) * power2_half(z) * power2_rest(z)


@helper
def expm1_negative(x: Vector) -> Vector:
    """``exp(x) - 1`` for x <= 0; 0 for x > 0."""
    x = vmax(vmin(x, splat(0.0)), splat(-17.5))
    z = fma(x, splat(LOG2E), splat(ROUND))
    r = fma(z - ROUND, splat(-LN2_HI), x)
    y, scale = fma(r * r, horner(r, EXPM1_P), r), power2(z)
    return fma(y, scale, scale - 1.0)


@helper
def log(x: Vector) -> Vector:
    """Natural logarithm; -inf for zero and subnormal x, NaN below zero."""
    m = mantissa(x) - 1.0
    y = fma(exponent(x), splat(LN2_HI), fma(m * m, horner(m, LOG_P), m))
    y = select_lt(x, splat(math.inf), y, x)  # infinity and NaN
    y = select_lt(x, splat(1.1754943508222875e-38), splat(-math.inf), y)
    return select_lt(x, splat(0.0), splat(math.nan), y)


@helper
def log1p_unit(u: Vector) -> Vector:
    """``log(1 + u)`` for u from 0 to 1."""
    return fma(u * u, horner(u, LOG1P_P), u)


@helper
def softplus(x: Vector) -> Vector:
    """``log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))``."""
    return vmax(x, splat(0.0)) + log1p_unit(exp(0.0 - vabs(x)))


@helper
def sine_of_quarter(r: Vector) -> Vector:
    """``sin(r)`` for r from -pi / 4 to pi / 4."""
    t = r * r
    return fma(r * t, horner(t, SIN_P), r)


@helper
def cosine_of_quarter(r: Vector) -> Vector:
    """``cos(r)`` for r from -pi / 4 to pi / 4."""
    t = r * r
    return fma(t * t, horner(t, COS_P), fma(t, splat(-0.5), splat(1.0)))


@helper
def turned(r: Vector, quarters: Vector) -> Vector:
    """``sin(r + quarters * pi / 2)``, quarters one of 0, 1, 2, 3."""
    s, c = sine_of_quarter(r), cosine_of_quarter(r)
    y = select_eq(quarters, splat(1.0), c, s)
    y = select_eq(quarters, splat(2.0), 0.0 - s, y)
    return select_eq(quarters, splat(3.0), 0.0 - c, y)


@helper
def sin(x: Vector) -> Vector:
    """Sine of an angle in radians; NaN from 2**31 on."""
    y = select_eq(x, splat(0.0), x, turned(within_quarter(x), quarter_turns(x)))
    return select_lt(vabs(x), splat(MAX_ANGLE), y, splat(math.nan))


@helper
def cos(x: Vector) -> Vector:
    """Cosine of an angle in radians; NaN from 2**31 on."""
    n = quarter_turns(x) + 1.0
    y = turned(within_quarter(x), select_eq(n, splat(4.0), splat(0.0), n))
    return select_lt(vabs(x), splat(MAX_ANGLE), y, splat(math.nan))


@helper
def tan(x: Vector) -> Vector:
    """Tangent of an angle in radians; NaN from 2**31 on."""
    return sin(x) / cos(x)


@helper
def atan(x: Vector) -> Vector:
    """Angle, in radians, whose tangent is x."""
    a = vabs(x)
    inner = select_le(a, splat(1.0), x, 1.0 / x)
    t = inner * inner
    y = fma(inner * t, horner(t, ATAN_P), inner) / horner(t, ATAN_Q)
    beyond = select_lt(x, splat(0.0), splat(-HALF_PI), splat(HALF_PI)) - y
    return select_lt(splat(1.0), a, beyond, y)


@helper
def odd(x: Vector, y: Vector) -> Vector:
    """y with the sign of x; x itself where it is 0 or NaN."""
    return select_lt(x, splat(0.0), 0.0 - y, select_lt(splat(0.0), x, y, x))


@helper
def log1p_positive(u: Vector) -> Vector:
    """``log(1 + u)`` for u >= 0."""
    return select_le(u, splat(1.0), log1p_unit(u), log(1.0 + u))


@helper
def sinh(x: Vector) -> Vector:
    """Hyperbolic sine."""
    a = vabs(x)
    u = expm1_negative(0.0 - a)
    near = (0.0 - u) * (2.0 + u) / (2.0 * (1.0 + u))
    half = exp(0.5 * a)  # of which the square does not overflow before the result does
    far = 0.5 * half * half - 0.5 * exp(0.0 - a)
    return odd(x, select_lt(a, splat(1.0), near, far))


@helper
def cosh(x: Vector) -> Vector:
    """Hyperbolic cosine."""
    half = exp(0.5 * vabs(x))
    return 0.5 * half * half + 0.5 / (half * half)


@helper
def asinh(x: Vector) -> Vector:
    """Inverse hyperbolic sine."""
    a = vabs(x)
    b = vmin(a, splat(1e9))
    near = log1p_positive(b + b * b / (1.0 + vsqrt(fma(b, b, splat(1.0)))))
    return odd(x, select_lt(a, splat(1e9), near, log(a) + LN2))


@helper
def acosh(x: Vector) -> Vector:
    """Inverse hyperbolic cosine; NaN below 1."""
    u = vmin(x - 1.0, splat(1e9))
    near = log1p_positive(u + vsqrt(fma(u, u, 2.0 * u)))
    y = select_lt(x, splat(1e9), near, log(x) + LN2)
    return select_lt(x, splat(1.0), splat(math.nan), y)


@helper
def atanh(x: Vector) -> Vector:
    """Inverse hyperbolic tangent; infinite at 1 and -1, NaN beyond."""
    a = vabs(x)
    y = odd(x, 0.5 * log1p_positive(2.0 * a / (1.0 - a)))
    return select_lt(splat(1.0), a, splat(math.nan), y)
