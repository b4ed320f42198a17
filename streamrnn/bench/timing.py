"""Contenders: whether they compute the same, and how long each takes, by turns."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import StreamrnnError

__all__ = [
    "FULL",
    "QUICK",
    "Contender",
    "DisagreementError",
    "Effort",
    "Timing",
    "differences",
    "interleaved",
]

Array = npt.NDArray[np.float32]

TOLERANCE = 1e-4
INT8_TOLERANCE = 0.1
"""How far the outputs of a network with weights of 8 bits may be from those of the network itself;
what is usual is a tenth of it."""

ENOUGH_FOR_P999 = 1000


class DisagreementError(StreamrnnError):
    """The contenders do not compute the same function, so their times must not be compared."""


@dataclass(frozen=True)
class Contender:
    """One way to run a function.

    Parameters
    ----------
    name : str
        What reports call it.
    call : callable
        Reads the frames in the shared buffer and advances its own state.
    output : callable or None
        Returns what the last call has made, flat; None: its outputs are not compared.
    frames : int
        Frames that one call runs, those of all streams together.
    tolerance : float
        How far its outputs may be from those of the first contender.
    """

    name: str
    call: Callable[[], object]
    output: Callable[[], Array] | None = None
    frames: int = 1
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Parameters
    ----------
    rounds : int
        Times that every contender has its turn.
    turn_ms : float
        How long a turn should last, about.
    most : int
        Calls in a turn, at most; at least there are 2.
    starts : int
        Processes started for the cold start.
    jitter_steps : int
        Steps in a row of which each is timed.
    """

    rounds: int = 12
    turn_ms: float = 8.0
    most: int = 1000
    starts: int = 5
    jitter_steps: int = 1_000_000


FULL = Effort()
QUICK = Effort(rounds=5, turn_ms=3.0, most=400, starts=2, jitter_steps=300_000)


@dataclass(frozen=True)
class Timing:
    """Times per frame of one contender in microseconds, and how many calls they are drawn from.

    ``p999_us`` is None where there were less than 1000 calls.
    """

    median_us: float
    p99_us: float
    p999_us: float | None
    max_us: float
    calls: int

    @classmethod
    def of(cls, taken_ns: Sequence[int], frames: int) -> Timing:
        """Return the times per frame of calls that ran `frames` each."""
        us = np.asarray(taken_ns) / (1000 * frames)
        median, p99, p999 = (float(p) for p in np.percentile(us, [50, 99, 99.9]))
        enough = len(us) >= ENOUGH_FOR_P999
        return cls(median, p99, p999 if enough else None, float(us.max()), len(us))


def differences(contenders: Sequence[Contender], x: Array, supply: Array) -> dict[str, float]:
    """Run all contenders over some frames and compare each with the first.

    Parameters
    ----------
    contenders : sequence of Contender
        Fresh ones; their states have moved on afterwards.
    x : float32
        The buffer that they read.
    supply : float32 [shape=(calls, *shape of x)]
        What is put there, call by call.

    Returns
    -------
    dict
        The largest absolute difference from the first contender, by name.

    Raises
    ------
    DisagreementError
        If one is larger than its contender's tolerance.
    """
    first, *others = (c for c in contenders if c.output is not None)
    assert first.output is not None
    largest = {other.name: 0.0 for other in others}
    for k, frames in enumerate(supply):
        x[...] = frames
        for contender in (first, *others):
            contender.call()
        wanted = first.output()
        for contender in others:
            assert contender.output is not None
            difference = float(np.abs(wanted - contender.output()).max())
            if not difference <= contender.tolerance:
                raise DisagreementError(
                    f"{contender.name} and {first.name} differ by {difference:.2g} in call {k}, "
                    f"expected at most {contender.tolerance:g}: not the same function, nothing to "
                    f"compare"
                )
            largest[contender.name] = max(largest[contender.name], difference)
    return largest


def interleaved(
    contenders: Sequence[Contender],
    x: Array,
    supply: Array,
    effort: Effort,
    after_round: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time all contenders in turns, so that a change of the machine's mood meets all of them.

    Parameters
    ----------
    contenders : sequence of Contender
        They are warmed up here.
    x : float32
        The buffer that they read; new frames are put there before the clock starts.
    supply : float32 [shape=(calls, *shape of x)]
        Frames to go through again and again.
    effort : Effort
        How long to measure.
    after_round : callable
        Called after each round.
    """
    frames = itertools.cycle(supply)

    def turn(contender: Contender, calls: int) -> list[int]:
        clock, call, taken = time.perf_counter_ns, contender.call, []
        for _ in range(calls):
            x[...] = next(frames)
            start = clock()
            call()
            taken.append(clock() - start)
        return taken

    calls = {}
    for contender in contenders:
        typical_ns = min(turn(contender, 3))
        if typical_ns < 1e6:
            typical_ns = float(np.median(turn(contender, 30)))  # type: ignore[assignment]
        calls[contender.name] = int(np.clip(effort.turn_ms * 1e6 / typical_ns, 2, effort.most))
    taken: dict[str, list[int]] = {contender.name: [] for contender in contenders}
    for _ in range(effort.rounds):
        for contender in contenders:
            # The turn before has cooled the caches.
            turn(contender, calls[contender.name] // 10 + 1)
            taken[contender.name] += turn(contender, calls[contender.name])
        after_round()
    return {c.name: Timing.of(taken[c.name], c.frames) for c in contenders}
