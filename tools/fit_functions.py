"""Derive the float32 approximations of tanh, exp (sigmoid), log, log1p, erf, expm1, sin and atan.

Every fit is a minimax fit made here, with NumPy only and without random numbers:

1. ``remez`` finds the weighted minimax polynomial or rational in float64 by
   Remez exchange; each step solves the alternation equations on the current
   reference as a generalised eigenvalue problem.
2. ``round_coefficients`` rounds the coefficients to float32 one by one; after
   each, the ones not yet rounded are shifted (least squares of the linearised
   change) to make up for it.
3. ``polish`` moves single coefficients by a few units in the last place as
   long as that lowers the largest error of the float32 evaluation itself,
   emulated with fused multiply-adds on fixed samples of arguments.

``python tools/fit_functions.py`` prints the coefficients as they stand in
``streamrnn/kernels/functions.py`` and says which of them differ from those there (another LAPACK
may flip a last bit); it takes about a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrnn.kernels import functions

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]

_erf = np.vectorize(math.erf, otypes=[np.float64])


# ----------------------------------------------------------------- minimax fit


@dataclass
class Fit:
    """P(t)/Q(t), coefficients from the lowest power up."""

    p: F8
    q: F8
    error: float  # largest weighted error


def _powers(u: F8, lowest: int, count: int) -> F8:
    return u[:, None] ** np.arange(lowest, lowest + count)


def _solve_reference(
    u: F8, g: F8, w: F8, m: int, n: int, g0: float | None
) -> tuple[float, F8, F8] | None:
    """Solve P/Q - g = E * (-1)^i / w on the reference for the pole-free solution."""
    s = np.where(np.arange(u.size) % 2 == 0, 1.0, -1.0) / w
    first = 0 if g0 is None else 1  # with g0 given: p[0] = g0 * q[0]
    vp, vq = _powers(u, first, m - first), _powers(u, 0, n)
    a = -g[:, None] * vq
    if g0 is not None:
        a[:, 0] += g0
    b = s[:, None] * vq
    null = np.linalg.svd(vp, full_matrices=True)[0][:, m - first :].T
    values, vectors = np.linalg.eig(np.linalg.solve(null @ b, null @ a))
    best: tuple[float, F8, F8] | None = None
    for value, vector in zip(values, vectors.T, strict=True):
        q = vector.real
        at = vq @ q
        if abs(value.imag) > 1e-9 * abs(value) or not (np.all(at > 0) or np.all(at < 0)):
            continue
        e = float(value.real)
        q = q / q[0]
        free = np.linalg.lstsq(vp, e * (b @ q) - a @ q, rcond=None)[0]
        p = free if g0 is None else np.concatenate([[g0], free])
        if best is None or abs(e) < abs(best[0]):
            best = (e, p, q)
    return best


def remez(
    g: Callable[[F8], F8],
    w: Callable[[F8], F8],
    lo: float,
    hi: float,
    m: int,
    n: int = 1,
    g0: float | None = None,
    points: int = 20001,
) -> Fit:
    """Minimise max w(t) * |P(t)/Q(t) - g(t)| on [lo, hi], with m and n coefficients.

    ``g0`` pins the value at t = 0.
    """
    half = 0.5 - 0.5 * np.cos(np.pi * (np.arange(points) + 0.5) / points)
    t = lo + (hi - lo) * (half**2 if n > 1 else half)
    scale = max(abs(lo), abs(hi))
    u, gt, wt = t / scale, g(t), w(t)
    count = m + n if g0 is None else m + n - 1
    index = np.round(
        (points - 1) * (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count))
    ).astype(int)
    p = q = np.ones(1)
    worst = math.inf
    for _ in range(100):
        found = _solve_reference(u[index], gt[index], wt[index], m, n, g0)
        if found is None:
            raise ArithmeticError("no pole-free solution on the reference")
        e, p, q = found
        error = wt * (_powers(u, 0, m) @ p / (_powers(u, 0, n) @ q) - gt)
        worst = float(np.max(np.abs(error)))
        if worst - abs(e) < 1e-4 * worst:
            break
        runs = np.split(np.arange(points), np.flatnonzero(np.diff(np.sign(error))) + 1)
        peaks = [int(run[np.argmax(np.abs(error[run]))]) for run in runs]
        while len(peaks) > count:
            size = np.abs(error[peaks])
            if len(peaks) == count + 1:
                del peaks[0 if size[0] < size[-1] else -1]
            else:
                k = int(np.argmin(np.maximum(size[:-1], size[1:])))
                del peaks[k : k + 2]
        if len(peaks) < count:
            raise ArithmeticError("too few alternations")
        index = np.array(peaks)
    return Fit(p / scale ** np.arange(m), q / scale ** np.arange(n), worst)


# ------------------------------------------------------------------- rounding


def round_coefficients(
    fit: Fit, w: Callable[[F8], F8], lo: float, hi: float, fixed: set[int]
) -> Fit:
    """Round to float32 from the lowest power up, the rest making up for each."""
    m, n = fit.p.size, fit.q.size
    half = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)
    t = lo + (hi - lo) * (half**2 if n > 1 else half)
    vp, vq, wt = _powers(t, 0, m), _powers(t, 0, n), w(t)
    c = np.concatenate([fit.p, fit.q])
    free = [k for k in range(m + n) if k not in fixed]
    free.sort(key=lambda k: k if k < m else k - m)
    while free:
        k = free.pop(0)
        rounded = float(np.float32(c[k]))
        change, c[k] = rounded - c[k], rounded
        if not free:
            break
        p, q = vp @ c[:m], vq @ c[m:]
        jac = np.hstack([vp / q[:, None], -vq * (p / q**2)[:, None]]) * wt[:, None]
        rest = jac[:, free]
        size = np.linalg.norm(rest, axis=0)
        shift = np.linalg.lstsq(rest / size, -jac[:, k] * change, rcond=None)[0] / size
        c[free] += shift
    return Fit(c[:m], c[m:], fit.error)


# ------------------------------------- float32 evaluation, fused multiply-adds


def fma(a: F4, b: F4 | np.float32, c: F4 | np.float32) -> F4:
    """a * b + c rounded to float32 (from float64; double rounding is negligible)."""
    return np.asarray(np.float64(1) * a * np.float64(b) + np.float64(c), np.float32)


def horner(c: F8 | list[float], t: F4) -> F4:
    """Polynomial in t; the coefficient of the lowest power comes first."""
    c4 = np.asarray(c, np.float32)
    y = np.full_like(t, c4[-1])
    for value in c4[-2::-1]:
        y = fma(y, t, np.broadcast_to(value, t.shape).astype(np.float64))
    return y


def odd_rational(p: F8, q: F8, x: F4, t_max: float) -> F4:
    """x * P(t)/Q(t) with p[0] == 1: adding x last saves the rounding of P."""
    t = np.minimum(x * x, np.float32(t_max))
    return fma(x * t, horner(p[1:], t), x) / horner(q, t)


def tanh32(p: F8, q: F8, x: F4, t_max: float) -> F4:
    """An odd function that saturates: tanh, erf."""
    return np.clip(odd_rational(p, q, x, t_max), np.float32(-1), np.float32(1))


LOG2E = np.float32(1 / math.log(2))
LN2_HI = np.float32(math.log(2))
LN2_LO = np.float32(math.log(2) - float(LN2_HI))


def reduce32(x: F4, two: bool) -> tuple[F4, F4]:
    """x = n * ln 2 + r; the low part of ln 2 only where it matters."""
    magic = np.float32(12582912.0)
    n = fma(x, LOG2E, magic) - magic
    r = fma(n, -LN2_HI, x)
    return n, fma(n, -LN2_LO, r) if two else r


def exp32(p: F8, x: F4) -> F4:
    """exp from the polynomial p."""
    n, r = reduce32(x, True)
    y = fma(horner(p, r), r, np.float32(1))
    return np.ldexp(y, n.astype(np.int32))


def expm1_32(p: F8, x: F4) -> F4:
    """expm1 of x <= 0 from the polynomial p."""
    n, r = reduce32(np.maximum(x, np.float32(-17.5)), False)
    y = fma(r * r, horner(p, r), r)
    s = np.ldexp(np.float32(1), n.astype(np.int32))
    return fma(y, s, s - np.float32(1))


def log1p32(p: F8, u: F4) -> F4:
    """log1p from the polynomial p."""
    return fma(u * u, horner(p, u), u)


# -------------------------------------------------------------------- polishing


def polish(
    c: F8, fixed: set[int], loss: Callable[[F8], float], passes: int = 8
) -> tuple[F8, float]:
    """Greedy descent of ``loss`` over the coefficients, in float32 steps."""
    best = loss(c)
    for _ in range(passes):
        before = best
        for k in range(c.size):
            if k in fixed:
                continue
            for step in (1, -1, 2, -2, 3, -3, 5, -5, 8, -8):
                trial = c.copy()
                trial[k] += step * float(np.spacing(np.float32(abs(c[k]))))
                value = loss(trial)
                if value < best:
                    best, c = value, trial
        if best == before:
            break
    return c, best


def sample(lo: float, hi: float, count: int) -> F4:
    """Arguments in [lo, hi], half evenly spaced, half evenly spaced in the logarithm."""
    even = np.linspace(lo, hi, count)
    log = np.exp(np.linspace(math.log(lo), math.log(hi), count))
    return np.unique(np.concatenate([even, log]).astype(np.float32))


# ------------------------------------------------------------------- the fits


def _odd(f: Callable[[F8], F8], slope: float) -> Callable[[F8], F8]:
    """f(sqrt t)/sqrt t."""

    def g(t: F8) -> F8:
        x = np.sqrt(t)
        small = x < 1e-9
        return np.where(small, slope, f(x) / np.where(small, 1.0, x))

    return g


def _series(t: F8, exact: F8, terms: list[float], limit: float = 0.02) -> F8:
    """Power series near 0, where ``exact`` suffers from cancellation."""
    return np.where(np.abs(t) < limit, np.polyval(terms[::-1], t), exact)


def _safe(t: F8) -> F8:
    return np.where(t == 0, 1e-300, t)


def g_exp(r: F8) -> F8:
    """(e^r - 1) / r."""
    return np.where(r == 0, 1.0, np.expm1(r) / _safe(r))


def g_expm1(r: F8) -> F8:
    """(e^r - 1 - r) / r^2."""
    terms = [1 / math.factorial(k + 2) for k in range(10)]
    return _series(r, (np.expm1(r) - r) / np.where(r == 0, 1.0, r * r), terms)


def g_log(f: F8) -> F8:
    """(log(1 + f) - f) / f^2."""
    terms = [(-1) ** (k + 1) / (k + 2) for k in range(12)]
    return _series(f, (np.log1p(f) - f) / np.where(f == 0, 1.0, f * f), terms)


def g_sin(t: F8) -> F8:
    """(sin x - x) / x^3, t = x^2."""
    x = np.sqrt(t)
    terms = [(-1) ** (k + 1) / math.factorial(2 * k + 3) for k in range(8)]
    return _series(t, (np.sin(x) - x) / _safe(t * x), terms, 0.1)


def g_cos(t: F8) -> F8:
    """(cos x - 1 + t / 2) / t^2, t = x^2."""
    terms = [(-1) ** k / math.factorial(2 * k + 4) for k in range(8)]
    return _series(t, (np.cos(np.sqrt(t)) - 1 + t / 2) / _safe(t * t), terms, 0.1)


def w_log(f: F8) -> F8:
    """Relative error."""
    return np.where(f == 0, 0.0, f * f / np.abs(np.log1p(_safe(f)))) + 1e-9


TANH_SLOPE, ERF_SLOPE = 1.0, 2 / math.sqrt(math.pi)
g_tanh = _odd(np.tanh, TANH_SLOPE)
g_erf = _odd(_erf, ERF_SLOPE)


def w_erf(t: F8) -> F8:
    """Relative error."""
    return 1 / g_erf(t)


def fit_rational(
    g: Callable[[F8], F8],
    w: Callable[[F8], F8],
    t_max: float,
    m: int,
    n: int,
    g0: float | None,
    error: Callable[[F8, F8, F4], F8],
    dense: F4,
    rounds: int = 5,
) -> tuple[F8, F8, float, float]:
    """Scaled to p[0] == 1; with ``g0`` given, q[0] == 1/g0 exactly.

    ``error(p, q, x)`` is the size of the error of the float32 evaluation. The
    polishing works on the arguments of the dense sample which turned out worst.
    """
    fit = remez(g, w, 0.0, t_max, m, n, g0)
    fit = Fit(fit.p / fit.p[0], fit.q / fit.p[0], fit.error)
    fixed = {0} if g0 is None else {0, m}
    rounded = round_coefficients(fit, w, 0.0, t_max, fixed)
    c = np.concatenate([rounded.p, rounded.q])
    best, best_error = c, math.inf
    active = np.zeros(0, np.float32)
    for _ in range(rounds):
        sizes = error(c[:m], c[m:], dense)
        worst = float(np.max(sizes))
        if worst < best_error:
            best, best_error = c, worst
        active = np.union1d(active, dense[np.argpartition(sizes, -20_000)[-20_000:]])

        def loss(c: F8, x: F4 = active) -> float:
            return float(np.max(error(c[:m], c[m:], x)))

        c, _ = polish(c, fixed, loss)
    return best[:m], best[m:], fit.error, best_error


def fit_polynomial(
    g: Callable[[F8], F8],
    w: Callable[[F8], F8],
    lo: float,
    hi: float,
    m: int,
    loss: Callable[[F8], float],
) -> tuple[F8, float, float]:
    """Fit, round and polish; return coefficients, fit error and loss."""
    fit = remez(g, w, lo, hi, m)
    rounded = round_coefficients(fit, w, lo, hi, {m})
    c, best = polish(rounded.p, set(), loss)
    return c, fit.error, best


# ----------------------------------------------------------------------- output


def report(title: str, fit_error: float, found: dict[str, list[float]]) -> None:
    """Print coefficients as ``functions.py`` has them, and whether they are the same."""
    print(f"# {title}: minimax error before rounding {fit_error:.2e}")
    for name, values in found.items():
        here = tuple(float(np.float32(v)) for v in values)
        kept = tuple(float(np.float32(v)) for v in np.atleast_1d(getattr(functions, name)))
        print(
            f"{name} = {here if len(here) > 1 else here[0]}", "" if here == kept else "  # DIFFERS"
        )
    print(flush=True)


def fit_odd_functions() -> None:
    """Fit tanh and erf: x * (1 + t P(t)) / Q(t), t = min(x * x, T_MAX)."""

    def tanh_error(p: F8, q: F8, x: F4) -> F8:
        return np.asarray(np.abs(tanh32(p, q, x, 68.0) / np.tanh(x.astype(np.float64)) - 1))

    def erf_error(p: F8, q: F8, x: F4) -> F8:
        return np.asarray(np.abs(tanh32(p, q, x, 14.0) / _erf(x.astype(np.float64)) - 1))

    dense = np.linspace(0.02, 9.0, 6_000_000).astype(np.float32)
    p, q, e, _ = fit_rational(g_tanh, lambda t: 1 / g_tanh(t), 68.0, 5, 5, 1.0, tanh_error, dense)
    report("tanh", e, {"TANH_T_MAX": [68.0], "TANH_P": [*p[:0:-1]], "TANH_Q": [*q[::-1]]})
    parts = [np.linspace(0.02, 1.5, 1_000_000), np.linspace(1.5, 3.9, 10_000_000)]
    dense = np.concatenate(parts).astype(np.float32)
    p, q, e, _ = fit_rational(g_erf, w_erf, 14.0, 6, 6, None, erf_error, dense)
    report("erf", e, {"ERF_T_MAX": [14.0], "ERF_P": [*p[:0:-1]], "ERF_Q": [*q[::-1]]})


def fit_exponentials() -> None:
    """Fit exp and expm1 on the reduced argument; sigmoid uses exp's."""
    half = math.log(2) / 2 * 1.0005
    x = np.linspace(-half, half, 200_000).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    c, e, _ = fit_polynomial(
        g_exp,
        lambda r: np.abs(r) / np.exp(r) + 1e-9,
        -half,
        half,
        5,
        lambda c: float(np.max(np.abs(exp32(c, x) / exact - 1))),
    )
    constants = {"LOG2E": [LOG2E], "LN2_HI": [LN2_HI], "LN2_LO": [LN2_LO]}
    report("exp", e, {**constants, "EXP_P": [*c[::-1]]})
    below = -np.concatenate([sample(1e-3, 1.5, 50_000), sample(1e-3, 20.0, 50_000)])
    exact_below = np.expm1(below.astype(np.float64))
    c, e, _ = fit_polynomial(
        g_expm1,
        lambda r: np.abs(r) + 1e-9,
        -half,
        half,
        5,
        lambda c: float(np.max(np.abs(expm1_32(c, below) / exact_below - 1))),
    )
    report("expm1", e, {"EXPM1_P": [*c[::-1]]})


def fit_logarithms() -> None:
    """Fit log on a mantissa around 1, and log1p on 0 to 1."""
    lo, hi = math.sqrt(0.5) - 1, math.sqrt(2.0) - 1
    mantissas = np.concatenate([-sample(1e-3, -lo, 100_000), sample(1e-3, hi, 100_000)])
    for name, x, low, high in (
        ("LOG_P", mantissas, lo, hi),
        ("LOG1P_P", sample(1e-3, 1.0, 100_000), 0.0, 1.0),
    ):
        exact = np.log1p(x.astype(np.float64))

        def loss(c: F8, x: F4 = x, exact: F8 = exact) -> float:
            return float(np.max(np.abs(log1p32(c, x) / exact - 1)))

        c, e, _ = fit_polynomial(g_log, w_log, low, high, 8, loss)
        report(name.removesuffix("_P").lower(), e, {name: [*c[::-1]]})


def fit_trigonometric() -> None:
    """Fit sin and cos on an eighth of a turn to both sides, and atan up to 1."""
    x = sample(1e-3, math.pi / 4, 200_000)
    t = x * x
    top = float(t.max())

    def sin_loss(c: F8) -> float:
        y = fma(x * t, horner(c, t), x)
        return float(np.max(np.abs(y / np.sin(x.astype(np.float64)) - 1)))

    def cos_loss(c: F8) -> float:
        y = fma(t * t, horner(c, t), fma(t, np.float32(-0.5), np.float32(1)))
        return float(np.max(np.abs(y / np.cos(x.astype(np.float64)) - 1)))

    c, e, _ = fit_polynomial(g_sin, lambda t: t + 1e-9, 0.0, top, 3, sin_loss)
    report("sin", e, {"SIN_P": [*c[::-1]]})
    c, e, _ = fit_polynomial(g_cos, lambda t: t * t + 1e-9, 0.0, top, 3, cos_loss)
    report("cos", e, {"COS_P": [*c[::-1]]})

    def atan_error(p: F8, q: F8, x: F4) -> F8:
        return np.asarray(np.abs(odd_rational(p, q, x, 1.0) / np.arctan(x.astype(np.float64)) - 1))

    dense = np.linspace(0.02, 1.0, 2_000_000).astype(np.float32)
    g = _odd(np.arctan, 1.0)
    p, q, e, _ = fit_rational(g, lambda t: 1 / g(t), 1.0, 4, 4, 1.0, atan_error, dense)
    report("atan", e, {"ATAN_P": [*p[:0:-1]], "ATAN_Q": [*q[::-1]]})


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        fit_odd_functions()
        fit_exponentials()
        fit_logarithms()
        fit_trigonometric()
