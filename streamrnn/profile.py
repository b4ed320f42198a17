"""Where the time of a step goes: each op's rows of the tape timed by themselves."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import FrameError
from .graph import Graph
from .kernels import tape
from .layer import Layer
from .program import Program, aligned
from .resumable import positive
from .stream import Stream

__all__ = ["OpTime", "profile"]


@dataclass(frozen=True)
class OpTime:
    """What one op takes of a step.

    Parameters
    ----------
    name, op : str
        The op in the graph, and its kind.
    us : float
        Microseconds a frame, on average.
    share : float
        Of all ops together, from 0 to 1.
    """

    name: str
    op: str
    us: float
    share: float


def profile(model: Layer, frames: Any, rounds: int = 3) -> list[OpTime]:
    """Return what each op takes of a step, the dearest first.

    The rows of one op after another are run and timed, frame by frame, in the order of a step and
    with its states, so that each finds the caches as in a step; what a call takes that runs no row
    is taken off.

    Parameters
    ----------
    model : Layer
        A model with one input.
    frames : float32 [shape=(T, *frame shape)]
        Frames as they come; some hundred give steady numbers.
    rounds : int
        The shortest time of so many rounds counts.

    Raises
    ------
    ConfigError
        If `rounds` is not at least 1.
    FrameError
        If the frames do not fit, or there are none.
    """
    positive("profile", "rounds", rounds, whole=True)
    program = model.program()
    walk = _Walk(program)
    xs = walk.checked(frames)
    best = {name: float("inf") for name in ("", *program.owners)}
    for _ in range(rounds):
        for name, us in walk.times(xs).items():
            best[name] = min(best[name], us)
    nothing = best.pop("")
    calls = Counter(owner for owner, _, _ in walk.groups)
    mean_us = {name: max(0.0, best[name] - calls[name] * nothing) for name in best}
    total, kinds = sum(mean_us.values()) or 1.0, _kinds(program.graph)
    found = [OpTime(n, kinds.get(n, ""), us, us / total) for n, us in mean_us.items()]
    return sorted(found, key=lambda op: -op.us)


def _kinds(graph: Graph) -> dict[str, str]:
    return {node.name: type(node.op).__name__ for node in graph.nodes}


class _Walk:
    """A stream whose step can be run a few rows at a time.

    Each such call would copy the frame to the input's place, which other values have taken over by
    then; so all but the first get a place of their own behind scratch.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.stream = Stream(program)
        plan = self.stream._plan_table
        spare = program.scratch_size
        self._scratch = aligned(spare + program.input_place[1] * program.block)
        plan[tape.SCRATCH] = self._scratch.ctypes.data
        self.places = (program.input_place[0], spare)
        self.groups: list[tuple[str, int, int]] = []
        row = 0
        for owner, rows in itertools.groupby(program.owners):
            n = len(list(rows))
            self.groups.append((owner, program.tape[row:].ctypes.data, n))
            row += n

    def checked(self, frames: Any) -> Any:
        """Return frames flat."""
        inputs = self.program.inputs
        if len(inputs) > 1:
            raise FrameError(f"profile takes models with one input, this one has {len(inputs)}")
        array = np.asarray(frames, inputs[0].dtype)
        if array.shape[1:] != inputs[0].shape or not len(array):
            raise FrameError(
                f"profile expects frames (T, {', '.join(map(str, inputs[0].shape))}), at least "
                f"one, got shape {array.shape}"
            )
        return np.ascontiguousarray(array.reshape(len(array), -1), np.float32)

    def step(self, t: int, x: Any, y: Any, spent_ns: Counter[str]) -> int:
        """Run frame t, and add what each op takes; return the frames written to `y`."""
        stream, plan, clock = self.stream, self.stream._plan_table, self.stream._clock
        plan[tape.INPUT], plan[tape.ROWS] = self.places[0], 0
        stream._advance(stream._plan, 1, x, y)
        plan[tape.INPUT] = self.places[1]
        written, now_ns = 0, time.perf_counter_ns
        for name, address, rows in (("", 0, 0), *self.groups):
            plan[tape.TAPE], plan[tape.ROWS] = address, rows
            clock[0] = t
            before_ns = now_ns()
            written = stream._advance(stream._plan, 1, x, y)
            spent_ns[name] += now_ns() - before_ns
        return written

    def times(self, xs: Any) -> dict[str, float]:
        """Return microseconds a frame for each op, and under "" for a call without rows."""
        self.stream.reset()
        spent_ns: Counter[str] = Counter()
        y = np.empty(self.program.output_size, np.float32)
        for t, x in enumerate(xs):
            self.step(t, x, y, spent_ns)
        return {name: ns / 1000 / len(xs) for name, ns in spent_ns.items()}
