"""The activation functions' errors, over the whole range of float32.

Every 61st bit pattern of float32 goes through the compiled kernels (a prime, so that all mantissas
are met); the bounds are those of the table in ``streamrnn/kernels/functions.py``, which hold for
every pattern.
"""

import math

import numpy as np
import pytest

import streamrnn as sr

FRAME = 1 << 20
STRIDE = 61


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _erf(x):
    """erf in float64: a table of math.erf, and four terms of the Taylor series from there."""
    step, nan, x = 1 / 1024, np.isnan(x), np.nan_to_num(x)
    table = np.array([math.erf(i * step) for i in range(-6200, 6201)])
    node = np.rint(np.clip(x, -6, 6) / step).astype(np.int64)
    a = node * step
    d = np.clip(x, -6, 6) - a
    series = d - a * d**2 + (2 * a * a - 1) * d**3 / 3 + (3 * a - 2 * a**3) * d**4 / 6
    y = table[node + 6200] + 2 / math.sqrt(math.pi) * np.exp(-a * a) * series
    return np.where(nan, np.nan, y)


def _gelu(x):
    return 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))


def _expm1_negative(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


# op, oracle, largest relative error, largest absolute error (either is enough)
FUNCTIONS = {
    "tanh": (sr.Tanh(), np.tanh, 3.1e-7, 0.0),
    "sigmoid": (sr.Sigmoid(), _sigmoid, 0.0, 9.2e-8),
    "exp": (sr.Exp(), np.exp, 1.7e-7, 1e-38),
    "expm1_negative": (sr.ELU(), _expm1_negative, 1.0e-7, 1e-44),
    "log": (sr.Log(), np.log, 1.0e-7, 0.0),
    "softplus": (sr.Softplus(), lambda x: np.logaddexp(0, x), 2.4e-7, 1e-37),
    "gelu (erf)": (sr.GELU(), _gelu, 4.2e-7, 1.6e-6),
}


def _angle(function):
    """Beyond 2**31 radians, where float32 numbers lie over 128 apart, there is no result."""
    return lambda x: np.where(np.abs(x) < 2**31, function(x), np.nan)


SELDOM_USED = {
    "sin": (sr.Sin(), _angle(np.sin), 0.0, 1.6e-7),
    "cos": (sr.Cos(), _angle(np.cos), 0.0, 1.6e-7),
    "atan": (sr.Atan(), np.arctan, 2.5e-7, 0.0),
    "asin": (sr.Asin(), np.arcsin, 3.0e-7, 3e-45),
    "acos": (sr.Acos(), np.arccos, 3.0e-7, 0.0),
    "sinh": (sr.Sinh(), np.sinh, 4.2e-7, 0.0),
    "cosh": (sr.Cosh(), np.cosh, 4.2e-7, 0.0),
    "asinh": (sr.Asinh(), np.arcsinh, 1.9e-7, 0.0),
    "acosh": (sr.Acosh(), np.arccosh, 1.9e-7, 0.0),
    "atanh": (sr.Atanh(), np.arctanh, 2.2e-7, 0.0),
}
FUNCTIONS |= SELDOM_USED


def _patterns(stride):
    """Every `stride`-th float32, in frames."""
    for first in range(0, 1 << 32, FRAME * stride):
        bits = np.arange(first, min(first + FRAME * stride, 1 << 32), stride, dtype=np.uint32)
        frame = np.zeros(FRAME, np.uint32)
        frame[: len(bits)] = bits
        yield frame.view(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_within_the_documented_bound_for_every_float32(name):
    op, oracle, relative, absolute = FUNCTIONS[name]
    stream = sr.Sequential(sr.Input(FRAME), op).stream(on_nonfinite="propagate")
    out = np.empty(FRAME, np.float32)
    worst = 0.0
    for x in _patterns(1009 if name in SELDOM_USED else STRIDE):
        stream.step(x, out)
        with np.errstate(all="ignore"):
            exact = oracle(x.astype(np.float64))
            rounded = exact.astype(np.float32)
            assert np.array_equal(np.isnan(out), np.isnan(exact)), (
                "NaN passes, nothing else makes one"
            )
            if name == "log":  # subnormal arguments count as zero
                tiny = np.finfo(np.float32).tiny
                rounded = np.where((x >= 0) & (x < tiny), -np.inf, rounded)
            fine = np.isfinite(rounded) & np.isfinite(exact)
            assert np.array_equal(out[np.isinf(rounded)], rounded[np.isinf(rounded)])
            # Where float32 overflows within the error, infinity is right too.
            fine &= ~(np.isinf(out) & (np.abs(exact) > 3.4028e38))
            error = np.abs(out[fine] - exact[fine])
            allowed = np.maximum(relative * np.abs(exact[fine]), max(absolute, 1e-45))
        worst = max(worst, float((error / allowed).max(initial=0)))
    assert worst <= 1, f"{name}: {worst:.2f} times the documented error"


@pytest.mark.parametrize(
    ("op", "low", "high"),
    [(sr.Tanh(), -1.0, 1.0), (sr.Sigmoid(), 0.0, 1.0)],
    ids=["tanh", "sigmoid"],
)
def test_saturates_exactly_and_never_beyond(op, low, high):
    x = np.array([-np.inf, -3e38, -1e5, -200, 200, 1e5, 3e38, np.inf], np.float32)
    y = sr.Sequential(sr.Input(8), op).stream(on_nonfinite="propagate").step(x)
    assert y.tolist() == [low] * 4 + [high] * 4
    x = np.linspace(-100, 100, 1 << 18, dtype=np.float32)
    y = sr.Sequential(sr.Input(len(x)), op).step(x)
    assert y.min() >= low
    assert y.max() <= high


def test_angles_of_many_turns_are_as_exact_as_small_ones():
    x = np.random.default_rng(0).uniform(-1e5, 1e5, 1 << 18).astype(np.float32)
    for op, oracle, relative in ((sr.Sin(), np.sin, 1.4e-7), (sr.Tan(), np.tan, 2.6e-7)):
        y = sr.Sequential(sr.Input(len(x)), op).step(x)
        exact = oracle(x.astype(np.float64))
        assert np.abs(y / exact - 1).max() < relative


def test_tanh_keeps_the_sign_of_zero_and_tiny_arguments():
    x = np.array([-0.0, 0.0, 1e-30, -1e-30, 1e-38], np.float32)
    y = sr.Sequential(sr.Input(5), sr.Tanh()).step(x)
    assert np.array_equal(y, x)
    assert np.signbit(y[0])
