"""What this core can do at most, measured in the same run as everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..kernels import limits
from ..kernels.simd import host
from ..program import aligned
from .timing import Contender

__all__ = ["Level", "Limits", "cache_bytes", "measure", "reading"]

TURN_BYTES = 4e6
"""What one timed call reads, about: some 30 to 100 µs."""

VECTORS = 8
"""Vectors that the reading loop takes at once."""


@dataclass(frozen=True)
class Level:
    """A cache, or memory: its size in bytes (0: memory), and how fast a core reads from it."""

    name: str
    bytes: int
    gb_s: float


@dataclass(frozen=True)
class Limits:
    """What one core can do at most.

    Parameters
    ----------
    levels : tuple of Level
        From the fastest on, memory last.
    gflop_s : float
        Multiply-adds of float32, two operations each.
    int8_gop_s : float
        Multiply-adds of bytes, two operations each, in the form that kernels use here.
    int8_form : str
        Which form that is.
    clock_ns : float
        Reading the clock twice, as around every call that is timed.
    """

    levels: tuple[Level, ...]
    gflop_s: float
    int8_gop_s: float
    int8_form: str
    clock_ns: float

    def level(self, n_bytes: float) -> Level:
        """Return where so many bytes lie when they are read again and again."""
        return next((level for level in self.levels if n_bytes <= level.bytes), self.levels[-1])


def cache_bytes() -> dict[str, int]:
    """Return the sizes of a core's data caches; where the system does not say, usual ones."""
    found = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = (
                (index / name).read_text().strip() for name in ("type", "level", "size")
            )
            if kind != "Instruction":
                found[f"L{level}"] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
        except (OSError, ValueError):
            continue
    return dict(sorted(found.items())) or {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}


class _Buffer:
    """Zeros to read, a whole number of turns of the loop."""

    def __init__(self, n_bytes: int) -> None:
        whole = VECTORS * host().lanes
        self.n = -(-n_bytes // (4 * whole)) * whole
        self.array = aligned(self.n)
        self.array[:] = 0  # pages that nobody has written to are one and the same page
        self.address = int(self.array.ctypes.data)
        self.times = max(1, round(TURN_BYTES / (4 * self.n)))

    def read(self, ahead: int) -> None:
        limits.read_loop()(self.address, self.n, ahead, self.times)


def reading(name: str, n_bytes: int) -> Contender:
    """Return a contender that only reads so many bytes: the least that a step can take.

    Of the loops, one with and one without software prefetch, it is the one that is faster here.
    """
    buffer = _Buffer(n_bytes)
    best = min(limits.AHEAD, key=lambda ahead: _shortest_s(lambda: buffer.read(ahead), 5))
    return Contender(name, lambda: buffer.read(best), frames=buffer.times)


def measure() -> Limits:
    """Measure the limits; about a second, and two more when its loops are compiled first."""
    levels, below = [], 0
    for name, size in (*cache_bytes().items(), ("memory", 0)):
        # Well within this level, and beyond the one before, or else beyond all of them.
        n_bytes = min(size // 2, 8 << 20) if size else min(max(4 * below, 64 << 20), 256 << 20)
        buffer = _Buffer(max(n_bytes, 2 * below if size else 0))
        buffer.times = max(1, round(5 * TURN_BYTES / (4 * buffer.n)))
        shortest = min(
            _shortest_s(lambda b=buffer, a=ahead: b.read(a), 8)  # type: ignore[misc]
            for ahead in limits.AHEAD
        )
        levels.append(Level(name, size, 4e-9 * buffer.n * buffer.times / shortest))
        below = size
    zeros, times = aligned(64), 200_000
    address = int(zeros.ctypes.data)
    add_s = _shortest_s(lambda: limits.multiply_add_loop()(address, times), 8)
    dot_s = _shortest_s(lambda: limits.dot_loop()(address, times), 8)
    adds, dots = times * limits.MULTIPLY_ADDS * host().lanes, 4 * times * limits.DOTS * host().lanes
    clock = time.perf_counter_ns
    clock_ns = min(-clock() + clock() for _ in range(1000))
    return Limits(tuple(levels), 2e-9 * adds / add_s, 2e-9 * dots / dot_s, host().bytes, clock_ns)


def _shortest_s(call: Callable[[], object], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
