"""What a core can do at most: loops that only read, and loops that only compute.

A step reads each weight once, so its time is bound from below by the first; a pool uses each weight
many times and is bound by the second. They use the vectors of the kernels, so that both are the
same machine's limit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from numba import njit, types

from .cache import KernelCache
from .simd import (
    as_bytes,
    as_ints,
    dot4,
    floats,
    fma,
    lanes,
    load,
    no_sum,
    prefetch,
    splat,
    store,
    without_zero,
)
from .tape import _OPTIONS

__all__ = ["AHEAD", "DOTS", "MULTIPLY_ADDS", "dot_loop", "multiply_add_loop", "read_loop"]

AHEAD = (0, 1024)
"""Floats by which a loop asks for its data before it needs them; 0: it leaves that to the CPU."""

LINE = 16
"""Floats in a cache line."""

MULTIPLY_ADDS = DOTS = 10
"""Independent sums in the loops that compute: enough to hide how long one operation takes."""


def _read(address: int, n: int, ahead: int, times: int) -> None:
    data, L = floats(address), lanes()
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = splat(0.0)
    for _ in range(times):
        for i in range(0, n, 8 * L):
            if ahead > 0:
                for line in range(0, 8 * L, LINE):
                    prefetch(data, i + ahead + line)
            a0, a1 = a0 + load(data, i), a1 + load(data, i + L)
            a2, a3 = a2 + load(data, i + 2 * L), a3 + load(data, i + 3 * L)
            a4, a5 = a4 + load(data, i + 4 * L), a5 + load(data, i + 5 * L)
            a6, a7 = a6 + load(data, i + 6 * L), a7 + load(data, i + 7 * L)
    store(data, 0, ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)))


def _multiply_add(address: int, times: int) -> None:
    data, L = floats(address), lanes()
    x, y = load(data, 0), load(data, L)
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = y
    for _ in range(times):
        a0, a1, a2, a3 = fma(a0, x, y), fma(a1, x, y), fma(a2, x, y), fma(a3, x, y)
        a4, a5, a6, a7 = fma(a4, x, y), fma(a5, x, y), fma(a6, x, y), fma(a7, x, y)
        a8, a9 = fma(a8, x, y), fma(a9, x, y)
    total = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) + (a8 + a9)
    store(data, 0, total)


def _dot(address: int, times: int) -> None:
    data, L = floats(address), lanes()
    w = x = as_bytes(data)
    columns = as_ints(data)
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = no_sum()
    for _ in range(times):
        a0, a1 = dot4(a0, w, 0, x, 0), dot4(a1, w, 0, x, 4)
        a2, a3 = dot4(a2, w, 0, x, 8), dot4(a3, w, 0, x, 12)
        a4, a5 = dot4(a4, w, 0, x, 16), dot4(a5, w, 0, x, 20)
        a6, a7 = dot4(a6, w, 0, x, 24), dot4(a7, w, 0, x, 28)
        a8, a9 = dot4(a8, w, 0, x, 32), dot4(a9, w, 0, x, 36)
    for pair in ((a0, a1), (a2, a3), (a4, a5), (a6, a7), (a8, a9)):
        store(data, L, load(data, L) + without_zero(pair[0], pair[1], columns, 0, 0))


@functools.cache
def read_loop() -> Callable[[int, int, int, int], None]:
    """Return the compiled ``read(address, n, ahead, times)``.

    It reads `n` floats from the address on, a multiple of 8 vectors, so many times; they are zeros,
    and stay so.
    """
    return _compiled(_read, 4)


@functools.cache
def multiply_add_loop() -> Callable[[int, int], None]:
    """Return the compiled ``multiply_add(address, times)``: `MULTIPLY_ADDS` vectors each time.

    The address is that of two vectors of zeros.
    """
    return _compiled(_multiply_add, 2)


@functools.cache
def dot_loop() -> Callable[[int, int], None]:
    """Return the compiled ``dot(address, times)``: `DOTS` vectors of four products each time.

    The address is that of two vectors of zeros, at least 64 bytes.
    """
    return _compiled(_dot, 2)


def _compiled(function: Callable[..., None], arguments: int) -> Callable[..., None]:
    made = njit(function, **_OPTIONS)
    made._cache = KernelCache(function)
    made.compile(types.void(*[types.int64] * arguments))
    made.disable_compile()
    return made  # type: ignore[no-any-return]
