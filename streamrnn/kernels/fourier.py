"""Fourier transform of n complex numbers, n a product of 2, 3 and 5: Stockham's algorithm.

Stage by stage, with the radix r (2, 3, 4 or 5) and s the product of those before, ``m = n / r``::

    y[s (r p + j) + q] = w^(j p) * sum over k of  x[s p + q + m k] * exp(-2 pi i j k / r)

for p below m / s, q below s, j below r, where ``w = exp(-2 pi i s / n)`` (Van Loan, "Computational
Frameworks for the Fast Fourier Transform", 1992, section 1.7). No bits are reversed: the numbers
end up in order. The lanes of a vector are neighbouring ``s p + q``; where s is no whole number of
vectors the stage's results are written side by side first, and moved to their places then.

Numbers lie apart: n real parts, then from ``half`` on n imaginary parts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .simd import as_ints, at, fma, lanes, load, splat, store
from .tape import helper

__all__ = ["fourier", "radices", "room", "twiddles"]

COS3, SIN3 = -0.5, math.sqrt(0.75)
COS5, SIN5 = math.cos(0.4 * math.pi), math.sin(0.4 * math.pi)
COS5_TWICE, SIN5_TWICE = math.cos(0.8 * math.pi), math.sin(0.8 * math.pi)


def radices(n: int) -> list[int] | None:
    """Return the radices of the stages for n numbers; None if n has a prime factor above 5."""
    found = []
    for r in (4, 2, 5, 3):
        while n % r == 0:
            found.append(r)
            n //= r
    return found if n == 1 else None


def room(n: int, width: int) -> int:
    """Return ``half``, the floats for n real parts, for vectors of ``width`` lanes."""
    return -(-n // width) * width + 5 * width


def twiddles(n: int, width: int) -> npt.NDArray[np.float32]:
    """Return the factors ``w^(j p)`` of every stage: for j = 1, 2, … real parts, imaginary parts.

    One for each ``s p + q``, padded to whole vectors of ``width`` lanes.
    """
    parts, s = [np.zeros(0)], 1
    for r in radices(n) or []:
        m = n // r
        p = np.arange(m) // s
        for j in range(1, r):
            w = np.pad(np.exp(-2j * np.pi * s / n * j * p), (0, -m % width))
            parts += [w.real, w.imag]
        s *= r
    return np.concatenate(parts).astype(np.float32)


@helper
def _put(y: Any, half: int, re: Any, im: Any, w: Any, P: int) -> None:
    """``y = (re + i im) * w``."""
    w_re, w_im = load(w, 0), load(w, P)
    store(y, 0, fma(re, w_re, 0.0 - im * w_im))
    store(y, half, fma(re, w_im, im * w_re))


@helper
def _radix2(x: Any, m: int, half: int, y: Any, step: int, w: Any, P: int) -> None:
    a, b = load(x, 0), load(x, m)
    ai, bi = load(x, half), load(x, half + m)
    store(y, 0, a + b)
    store(y, half, ai + bi)
    _put(at(y, step), half, a - b, ai - bi, w, P)


@helper
def _radix3(x: Any, m: int, half: int, y: Any, step: int, w: Any, P: int) -> None:
    a, b, c = load(x, 0), load(x, m), load(x, 2 * m)
    ai, bi, ci = load(x, half), load(x, half + m), load(x, half + 2 * m)
    total, total_i = b + c, bi + ci
    store(y, 0, a + total)
    store(y, half, ai + total_i)
    mid, mid_i = fma(total, splat(COS3), a), fma(total_i, splat(COS3), ai)
    turn, turn_i = (bi - ci) * SIN3, (c - b) * SIN3  # -i sin (b - c)
    _put(at(y, step), half, mid + turn, mid_i + turn_i, w, P)
    _put(at(y, 2 * step), half, mid - turn, mid_i - turn_i, at(w, 2 * P), P)


@helper
def _radix4(x: Any, m: int, half: int, y: Any, step: int, w: Any, P: int) -> None:
    a, b, c, d = load(x, 0), load(x, m), load(x, 2 * m), load(x, 3 * m)
    z = at(x, half)
    ai, bi, ci, di = load(z, 0), load(z, m), load(z, 2 * m), load(z, 3 * m)
    even, odd, even_i, odd_i = a + c, b + d, ai + ci, bi + di
    store(y, 0, even + odd)
    store(y, half, even_i + odd_i)
    rest, rest_i = a - c, ai - ci
    turn, turn_i = bi - di, d - b  # -i (b - d)
    _put(at(y, step), half, rest + turn, rest_i + turn_i, w, P)
    _put(at(y, 2 * step), half, even - odd, even_i - odd_i, at(w, 2 * P), P)
    _put(at(y, 3 * step), half, rest - turn, rest_i - turn_i, at(w, 4 * P), P)


@helper
def _radix5(x: Any, m: int, half: int, y: Any, step: int, w: Any, P: int) -> None:
    a, z = load(x, 0), at(x, half)
    ai = load(z, 0)
    near, near_i = load(x, m) + load(x, 4 * m), load(z, m) + load(z, 4 * m)
    far, far_i = load(x, 2 * m) + load(x, 3 * m), load(z, 2 * m) + load(z, 3 * m)
    # -i times the differences
    dn, dn_i = load(z, m) - load(z, 4 * m), load(x, 4 * m) - load(x, m)
    df, df_i = load(z, 2 * m) - load(z, 3 * m), load(x, 3 * m) - load(x, 2 * m)
    store(y, 0, a + near + far)
    store(y, half, ai + near_i + far_i)
    mid = fma(near, splat(COS5), fma(far, splat(COS5_TWICE), a))
    mid_i = fma(near_i, splat(COS5), fma(far_i, splat(COS5_TWICE), ai))
    turn = fma(dn, splat(SIN5), df * SIN5_TWICE)
    turn_i = fma(dn_i, splat(SIN5), df_i * SIN5_TWICE)
    _put(at(y, step), half, mid + turn, mid_i + turn_i, w, P)
    _put(at(y, 4 * step), half, mid - turn, mid_i - turn_i, at(w, 6 * P), P)
    mid = fma(near, splat(COS5_TWICE), fma(far, splat(COS5), a))
    mid_i = fma(near_i, splat(COS5_TWICE), fma(far_i, splat(COS5), ai))
    turn = fma(dn, splat(SIN5_TWICE), 0.0 - df * SIN5)
    turn_i = fma(dn_i, splat(SIN5_TWICE), 0.0 - df_i * SIN5)
    _put(at(y, 2 * step), half, mid + turn, mid_i + turn_i, at(w, 2 * P), P)
    _put(at(y, 3 * step), half, mid - turn, mid_i - turn_i, at(w, 4 * P), P)


@helper
def _in_order(m: int, P: int, r: int, s: int, x: Any, y: Any) -> None:
    """``y[s (r p + j) + q] = x[P j + s p + q]``."""
    for j in range(r):
        source, to = at(x, j * P), at(y, s * j)
        if s == 1:
            for p in range(m):
                to[r * p] = source[p]
        elif s == 4:
            for p in range(0, m, 4):
                a, b, c, d = source[p], source[p + 1], source[p + 2], source[p + 3]
                i = r * p
                to[i], to[i + 1], to[i + 2], to[i + 3] = a, b, c, d
        else:
            for p in range(0, m, s):
                for q in range(s):
                    to[r * p + q] = source[p + q]


@helper
def _stage(n: int, half: int, r: int, s: int, x: Any, y: Any, spare: Any, w: Any) -> None:
    L, m = lanes(), n // r
    P = (m + L - 1) // L * L
    direct = s % L == 0
    target, step = (y, s) if direct else (spare, P)
    for i in range(0, m, L):
        to = at(target, i + i // s * s * (r - 1) if direct else i)
        if r == 4:
            _radix4(at(x, i), m, half, to, step, at(w, i), P)
        elif r == 2:
            _radix2(at(x, i), m, half, to, step, at(w, i), P)
        elif r == 3:
            _radix3(at(x, i), m, half, to, step, at(w, i), P)
        else:
            _radix5(at(x, i), m, half, to, step, at(w, i), P)
    if not direct:
        _in_order(m, P, r, s, spare, y)
        _in_order(m, P, r, s, at(spare, half), at(y, half))


@helper
def fourier(n: int, half: int, plan: Any, w: Any, x: Any, y: Any, spare: Any) -> Any:
    """Transform x; return where the result lies, which is x or y.

    Parameters
    ----------
    n, half
        How many numbers; where their imaginary parts begin.
    plan
        The number of stages, and the radix of each (int32).
    w
        What :func:`twiddles` made.
    x, y, spare
        Room for ``2 * half`` floats each.
    """
    stage, s = as_ints(plan), 1
    for k in range(stage[0]):
        r = stage[1 + k]
        _stage(n, half, r, s, x, y, spare, w)
        P = (n // r + lanes() - 1) // lanes() * lanes()
        w = at(w, 2 * (r - 1) * P)
        s *= r
        x, y = y, x
    return x
