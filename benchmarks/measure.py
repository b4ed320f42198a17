"""Agreement of the contenders, their times per step, and the start of a whole process."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import streamrnn

from .peers import Contender

__all__ = [
    "FULL",
    "QUICK",
    "DisagreementError",
    "Effort",
    "Timing",
    "check_agreement",
    "cold_start",
    "interleaved",
]

Array = npt.NDArray[np.float32]
ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4


class DisagreementError(Exception):
    """The contenders do not compute the same function, so their times must not be compared."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Parameters
    ----------
    rounds : int
        Times that every contender has its turn.
    turn_ms : float
        How long a turn should last, about; it has at least 30 steps and at most 2000.
    starts : int
        Processes started for the cold start.
    """

    rounds: int
    turn_ms: float
    starts: int


FULL = Effort(rounds=20, turn_ms=20.0, starts=5)
QUICK = Effort(rounds=5, turn_ms=5.0, starts=3)


@dataclass(frozen=True)
class Timing:
    """Time per frame of one contender, microseconds, and how many calls it is drawn from."""

    median_us: float
    p99_us: float
    calls: int


def check_agreement(
    contenders: Sequence[Contender], x: Array, frames: Array, tolerance: float = TOLERANCE
) -> float:
    """Run all single-step contenders over some frames and compare each with the first.

    Parameters
    ----------
    contenders : sequence of Contender
        Fresh ones; their states have moved on afterwards.
    x : float32 [shape=(I,)]
        The buffer that they read.
    frames : float32 [shape=(T, I)]
        The frames.
    tolerance : float
        Largest difference that is accepted.

    Returns
    -------
    float
        The largest absolute difference.

    Raises
    ------
    DisagreementError
        If a difference is larger.
    """
    first, *others = [c for c in contenders if c.frames == 1]
    largest = 0.0
    for t, frame in enumerate(frames):
        x[...] = frame
        for contender in (first, *others):
            contender.step()
        for contender in others:
            difference = float(np.abs(first.output() - contender.output()).max())
            if not difference <= tolerance:
                raise DisagreementError(
                    f"{contender.name} and {first.name} differ by {difference:.2g} in frame {t}, "
                    f"expected at most {tolerance:g}: not the same function, nothing to compare"
                )
            largest = max(largest, difference)
    return largest


def interleaved(
    contenders: Sequence[Contender],
    x: Array,
    frames: Array,
    effort: Effort,
    after_round: Callable[[], None],
) -> dict[str, Timing]:
    """Time all contenders in turns, so that a change of the machine's mood meets all of them.

    Parameters
    ----------
    contenders : sequence of Contender
        They are warmed up here.
    x : float32 [shape=(I,)]
        The buffer that they read; a new frame is put there before the clock starts.
    frames : float32 [shape=(T, I)]
        Frames to go through again and again.
    effort : Effort
        How long to measure.
    after_round : callable
        Called after each round.
    """
    supply = itertools.cycle(frames)

    def turn(contender: Contender, calls: int) -> list[int]:
        clock, step, taken = time.perf_counter_ns, contender.step, []
        for _ in range(calls):
            x[...] = next(supply)
            start = clock()
            step()
            taken.append(clock() - start)
        return taken

    calls = {}
    for contender in contenders:
        least, most = (30, 2000) if contender.frames == 1 else (3, 100)
        typical_ns = float(np.median(turn(contender, 2 * least + 1)))
        calls[contender.name] = int(np.clip(effort.turn_ms * 1e6 / typical_ns, least, most))
    taken: dict[str, list[int]] = {contender.name: [] for contender in contenders}
    for _ in range(effort.rounds):
        for contender in contenders:
            turn(
                contender, calls[contender.name] // 10 + 1
            )  # the turn before has cooled the caches
            taken[contender.name] += turn(contender, calls[contender.name])
        after_round()
    return {c.name: _timing(taken[c.name], c.frames) for c in contenders}


def _timing(taken_ns: Sequence[int], frames: int) -> Timing:
    per_frame_us = np.asarray(taken_ns) / (1000 * frames)
    median, p99 = np.percentile(per_frame_us, [50, 99])
    return Timing(float(median), float(p99), len(taken_ns))


# Cold start --------------------------------------------------------------------------------------

STAGES = {
    "python alone": "pass",
    "import numpy": "import numpy",
    "import numpy, streamrnn": "import numpy, streamrnn",
    "load a model, first output": """
import sys, numpy, streamrnn
stream = streamrnn.load(sys.argv[1]).stream()
print(stream.step(numpy.ones(16, numpy.float32)).sum())
""",
}
"""What the processes do; the last is the cold start, the others show where its time goes."""


def cold_start(effort: Effort, after_round: Callable[[], None]) -> dict[str, float]:
    """Return the median time of a whole process, in seconds, for each of the stages.

    The model is a GRU 16 -> 32 with a Linear layer in a file. One round goes before, so that its
    kernels, and the bytecode of all modules, are in their caches.

    Raises
    ------
    DisagreementError
        If the process prints another output than this process computes.
    """
    model = streamrnn.Sequential(streamrnn.GRU(16, 32, seed=0), streamrnn.Linear(32, 4, seed=1))
    expected = float(np.asarray(model.step(np.ones(16, np.float32))).sum())
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        environment = _with_bytecode(Path(folder))
        for i in range(1 + effort.starts):  # the first fills the caches
            for stage, script in STAGES.items():
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", script, str(path)],
                    cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                if i:
                    taken[stage].append(time.perf_counter() - start)
                if done.stdout and abs(float(done.stdout) - expected) > TOLERANCE:
                    raise DisagreementError(
                        f"a new process gives {done.stdout.strip()}, expected {expected:g}"
                    )
            after_round()
    return {stage: float(np.median(times)) for stage, times in taken.items()}


def _with_bytecode(folder: Path) -> dict[str, str]:
    """Return this environment with bytecode kept in `folder`, even where it is not to be kept.

    Without it, each process would compile the library's source text, as no installed one does.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return environment | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
