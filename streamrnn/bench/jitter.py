"""How steady a step is, and whether it stays so: each of a million steps, and a hundred million."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import GRU, LSTM

__all__ = ["LATE_US", "Endurance", "Jitter", "endure", "jitter"]

PERCENTILES = (50.0, 99.0, 99.9, 99.99)
BELOW_PERCENTILE = 99.9
LATE_US = 3.0
"""Nothing that a step does takes so much longer in one call than in another."""
IN_BLOCKS, BLOCK_FRAMES = 0.99, 10_000
"""Share of an endurance run that goes in blocks, and their length; Python steps the rest."""
POINTS = 20
"""Times that an endurance run is looked at."""


@dataclass(frozen=True)
class Jitter:
    """How long each of many calls took, in microseconds.

    Parameters
    ----------
    label : str
        What was called.
    percentiles_us : dict
        Percentile (as text) to time.
    max_us : float
        The longest.
    steps : int
        How many there were.
    edges_us, counts : list
        A histogram: logarithmic edges, and calls between each two.
    switches : int
        Times that the system gave the core to somebody else meanwhile.
    late_per_s : float
        Calls that took `LATE_US` more than the median, for each second spent in calls.
    """

    label: str
    percentiles_us: dict[str, float]
    max_us: float
    steps: int
    edges_us: list[float]
    counts: list[int]
    switches: int
    late_per_s: float

    @property
    def spread(self) -> float:
        """The 99.9th percentile divided by the median."""
        return self.percentiles_us[f"{BELOW_PERCENTILE:g}"] / self.percentiles_us["50"]

    @classmethod
    def of(cls, label: str, taken_ns: npt.NDArray[np.int64], switches: int) -> Jitter:
        """Return what is known of the times of so many calls."""
        us = taken_ns / 1000
        edges = np.geomspace(0.01, 100_000, 141)
        counts, _ = np.histogram(np.clip(us, edges[0], edges[-1]), edges)
        values = np.percentile(us, PERCENTILES)
        return cls(
            label,
            {f"{p:g}": float(v) for p, v in zip(PERCENTILES, values, strict=True)},
            float(us.max()),
            len(us),
            edges.tolist(),
            counts.tolist(),
            switches,
            float(1e6 * (us > np.median(us) + LATE_US).sum() / us.sum()),
        )


def jitter(steps: int, hidden_size: int = 16) -> list[Jitter]:
    """Time each step of a small LSTM, and beside it the same loop with nothing in it.

    The garbage collector is on. What the empty loop shows is the machine's own: interrupts, other
    processes, the hypervisor. A third loop counts in plain Python for as long as a step takes: it
    meets these as often as a step does. All take turns, in a hundred pieces each.

    Parameters
    ----------
    steps : int
        Steps of each.
    hidden_size : int
        Of the LSTM, with 16 inputs.
    """
    stream: Any = LSTM(16, hidden_size, seed=0).stream()
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    y, step = np.zeros(hidden_size, np.float32), stream.step
    for _ in range(1000):
        step(x, y)
    calls = {
        "nothing: the clock alone": None,
        f"step of LSTM 16 -> {hidden_size}": step,
        "counting in Python for as long": _as_long_as(step, x, y),
    }
    # Written to beforehand: a page that is new would be fetched between two steps, and show in one.
    taken = {label: np.full(steps, -1, np.int64) for label in calls}
    switches = dict.fromkeys(taken, 0)
    for piece in np.array_split(np.arange(steps), 100):
        if not len(piece):
            continue
        first, stop = int(piece[0]), int(piece[-1]) + 1
        for label, times in taken.items():
            before = _switches()
            _fill(times, first, stop, calls[label], x, y)
            switches[label] += _switches() - before
    return [Jitter.of(label, times, switches[label]) for label, times in taken.items()]


def _as_long_as(step: Callable[..., Any], x: Any, y: Any) -> Callable[..., None]:
    """Return a function that counts for as long as a step takes, to within a count."""

    def count(x: Any, y: Any) -> None:
        for _ in numbers:
            pass

    def median_ns(call: Callable[..., Any]) -> float:
        times = np.zeros(1000, np.int64)
        _fill(times, 0, 1000, call, x, y)
        return float(np.median(times))

    wanted, numbers = median_ns(step), range(1)
    while median_ns(count) < wanted and len(numbers) < 10_000:
        numbers = range(len(numbers) + 1)
    return count


def _switches() -> int:
    """Return how often the core has been taken away from this process."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _fill(times: Any, first: int, stop: int, step: Any, x: Any, y: Any) -> None:
    clock = time.perf_counter_ns
    if step is None:
        for i in range(first, stop):
            start = clock()
            times[i] = clock() - start
    else:
        for i in range(first, stop):
            start = clock()
            step(x, y)
            times[i] = clock() - start


@dataclass(frozen=True)
class Endurance:
    """A look at a long run.

    Parameters
    ----------
    frames : int
        Frames that the stream has run so far.
    block_us, step_us : float
        Microseconds per frame since the look before: in blocks, and stepped from Python.
    memory_kib : int
        Memory of the process (resident).
    """

    frames: int
    block_us: float
    step_us: float
    memory_kib: int


def endure(steps: int, tick: Callable[[], None] = lambda: None) -> list[Endurance]:
    """Run a GRU with 8 units for very many frames on one stream, and look at it now and then.

    Parameters
    ----------
    steps : int
        Frames in all; 99 % of them in blocks of 10,000, the rest called one by one from Python.
    tick : callable
        Called after each look, of which there are 20.
    """
    stream: Any = GRU(8, 8, seed=0).stream()
    xs = np.random.default_rng(0).standard_normal((BLOCK_FRAMES, 8)).astype(np.float32)
    ys, y = np.zeros((BLOCK_FRAMES, 8), np.float32), np.zeros(8, np.float32)
    blocks = max(1, round(steps * IN_BLOCKS / BLOCK_FRAMES / POINTS))
    singles = max(1, steps // POINTS - blocks * BLOCK_FRAMES)
    rows = [np.ascontiguousarray(x) for x in xs[:100]]
    stream.run(xs, out=ys)
    stream.step(rows[0], out=y)
    looks = []
    for _ in range(POINTS):
        begin = time.perf_counter()
        for _ in range(blocks):
            stream.run(xs, out=ys)
        middle = time.perf_counter()
        for i in range(singles):
            stream.step(rows[i % 100], out=y)
        end = time.perf_counter()
        looks.append(
            Endurance(
                stream.frames,
                1e6 * (middle - begin) / (blocks * BLOCK_FRAMES),
                1e6 * (end - middle) / singles,
                memory_kib(),
            )
        )
        tick()
    return looks


def memory_kib() -> int:
    """Return the resident memory of this process now; where that is not told, at its largest."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        import resource

        return pages * resource.getpagesize() // 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest // (1024 if sys.platform == "darwin" else 1)
