"""Operators with subgraphs: If, Scan, Loop.

What they decide must be known when the model is read. A ``Scan`` or ``Loop`` over the frames of a
sequence is one step, its state kept from frame to frame; any other is unrolled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....graph import Value
from ....ops.concat import concat
from ....ops.rearrange import Slice
from ..node import (
    Iteration,
    Known,
    Tensor,
    Timed,
    Unsupported,
    axis_of,
    integers,
    known,
    operator,
    reshaped,
    symbol,
)
from ..time import aligned, settled, state_of_graph

MAX_ITERATIONS = 4096
"""Most iterations that are unrolled."""


def _run(a: Known, body: Any, given: Sequence[Tensor]) -> list[Tensor]:
    """Run a subgraph on its inputs, in order."""
    assert a.run is not None
    if len(body.input) < len(given):
        raise Unsupported(f"its body takes {len(body.input)} inputs, got {len(given)}")
    return a.run(body, {v.name: x for v, x in zip(body.input, given, strict=False)})


@operator("If")
def choice(a: Known, n: int, condition: Tensor) -> Tensor:
    then, other = a.get("then_branch", None), a.get("else_branch", None)
    fixed = known(condition, "the condition depends on the frame; it").reshape(-1)
    if fixed.size != 1:
        raise Unsupported(f"the condition has shape {np.shape(condition)}")
    return tuple(_run(a, then if fixed[0] else other, ()))


# Scan -------------------------------------------------------------------------------------------


@operator("Scan")
def scan(a: Known, n: int, *inputs: Tensor) -> Tensor:
    body, count = a.get("body", None), a.get("num_scan_inputs", 0)
    first = len(inputs) - count
    outputs = n - first
    if not 0 < count <= len(inputs) or outputs < 0:
        raise Unsupported(f"{count} of its {len(inputs)} inputs are scanned, for {n} outputs")
    states, scanned = inputs[:first], inputs[first:]
    axes = a.get("scan_input_axes", None) or [0] * count
    axes = [axis_of(i, x) for i, x in zip(axes, scanned, strict=True)]
    made_axes = a.get("scan_output_axes", None) or [0] * outputs
    back = a.get("scan_input_directions", None) or [0] * count
    made_back = a.get("scan_output_directions", None) or [0] * outputs
    if any(isinstance(x, Timed) and x.axis == i for x, i in zip(scanned, axes, strict=True)):
        if any(back) or any(made_back):
            raise Unsupported("it runs backwards over a sequence whose last frame has not come")
        return _scan_frames(a, body, states, scanned, axes, made_axes)
    lengths = {x.shape[i] for x, i in zip(scanned, axes, strict=True)}
    if len(lengths) != 1 or max(lengths) > MAX_ITERATIONS:
        raise Unsupported(f"its inputs have {sorted(lengths)} entries to go through")
    length, current = lengths.pop(), list(states)
    rows: list[list[Tensor]] = []
    for t in range(length):
        parts = [
            _entry(x, length - 1 - t if b else t, i)
            for x, i, b in zip(scanned, axes, back, strict=True)
        ]
        made = _run(a, body, [*current, *parts])
        current = made[:first]
        rows.append(made[first:])
    columns = [list(column) for column in zip(*rows, strict=True)]
    stacked = [
        _stacked(column[::-1] if b else column, axis)
        for column, axis, b in zip(columns, made_axes, made_back, strict=True)
    ]
    return (*current, *stacked)


def _scan_frames(
    a: Known,
    body: Any,
    states: Sequence[Tensor],
    scanned: Sequence[Tensor],
    axes: Sequence[int],
    made_axes: Sequence[int],
) -> Tensor:
    """Return a scan over the frames of sequences: its body is run for one frame."""
    if not all(isinstance(x, Timed) and x.axis == i for x, i in zip(scanned, axes, strict=True)):
        raise Unsupported("it goes through the frames of one input and another axis of another")
    whole = [settled(x) for x in scanned if isinstance(x, Timed)]
    lengths = {x.length for x in whole}
    if len(lengths) > 1:
        raise Unsupported(f"sequences of different lengths meet: {[x.shape for x in whole]}")
    frames = aligned([x.value for x in whole])
    parts = [_without(x, i) for x, i in zip(frames, axes, strict=True)]
    step = _Step(a, states, frames[0], lengths.pop())
    return step.outputs(_run(a, body, [*step.current, *parts]), made_axes)


class _Step:
    """A loop over the frames of a sequence: one step of it, its states kept from frame to frame.

    Parameters
    ----------
    a : Known
        The node.
    states : sequence
        What the states are before the first frame.
    like : Value
        A frame: when a step is made.
    length : int
        Frames in the sequence.
    """

    def __init__(self, a: Known, states: Sequence[Tensor], like: Value, length: int) -> None:
        self.a, self.like, self.length = a, like, length
        self.own: list[Value | None] = []
        self.current: list[Value] = []
        for k, state in enumerate(states):
            if isinstance(state, (Value, Timed)):
                self.own.append(None)
                self.current.append(state_of_graph(state))
            else:
                kept = a.state(f"state{k}", np.asarray(state, np.float32), like)
                self.own.append(kept)
                self.current.append(kept)

    def outputs(self, made: Sequence[Tensor], axes: Sequence[int]) -> Tensor:
        """Return the node's outputs, given what its body makes of one frame."""
        if any(isinstance(x, (Timed, Iteration)) for x in made):
            raise Unsupported("each of its iterations makes something of the whole sequence")
        new = [symbol(x, self.like) for x in made]
        after, rows = new[: len(self.current)], new[len(self.current) :]
        for own, now, before in zip(self.own, after, self.current, strict=True):
            if now.shape != before.shape:
                raise Unsupported(f"a state of shape {before.shape} becomes {now.shape}")
            if own is not None:
                self.a.keep(own, now)
        last = [Timed(x, None, self.length) for x in after]
        along = [i % (len(x.shape) + 1) for x, i in zip(rows, axes, strict=True)]
        return (
            *last,
            *(Timed(_with(x, i), i, self.length) for x, i in zip(rows, along, strict=True)),
        )


def _entry(x: Tensor, t: int, axis: int) -> Tensor:
    """Return entry t of an axis, which disappears."""
    if isinstance(x, Value):
        return _without(Slice(t, t + 1, axis)(x), axis)
    if isinstance(x, Timed):
        raise Unsupported("it goes through another axis of a sequence than time")
    return np.take(np.asarray(x), t, axis)


def _without(x: Value, axis: int) -> Value:
    return reshaped(x, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _with(x: Value, axis: int) -> Value:
    return reshaped(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def _stacked(entries: Sequence[Tensor], axis: int) -> Tensor:
    """Return entries along a new axis."""
    if not any(isinstance(x, Value) for x in entries):
        return np.stack([np.asarray(x) for x in entries], axis)
    values = [symbol(x, next(v for v in entries if isinstance(v, Value))) for x in entries]
    at = axis % (len(values[0].shape) + 1)
    return concat(*(_with(x, at) for x in values), axis=at)


# Loop -------------------------------------------------------------------------------------------


@operator("Loop")
def loop(a: Known, n: int, trips: Tensor, condition: Tensor = None, *states: Tensor) -> Tensor:
    body = a.get("body", None)
    limit = None if trips is None else integers(trips, "the number of iterations")[0]
    go = condition is None or bool(known(condition, "the condition").reshape(-1)[0])
    read = [x for x in a.reads(body) if isinstance(x, Timed) and x.axis is not None]
    if go and limit is not None and any(x.length == limit for x in read):
        return _loop_frames(a, body, states, read, limit, n - len(states))
    current, rows, t = list(states), [], 0
    while go and (limit is None or t < limit):
        if t >= MAX_ITERATIONS:
            raise Unsupported(f"more than {MAX_ITERATIONS} iterations")
        again, *made = _run(a, body, [np.array(t, np.int64), np.array(True), *current])
        go = bool(known(again, "the condition depends on the frame; it").reshape(-1)[0])
        current, row = made[: len(states)], made[len(states) :]
        rows.append(row)
        t += 1
    if not rows and n > len(states):
        raise Unsupported("no iteration at all, so that its outputs are empty")
    stacked = [_stacked(list(column), 0) for column in zip(*rows, strict=True)]
    return (*current, *stacked)


def _loop_frames(
    a: Known, body: Any, states: Sequence[Tensor], read: Sequence[Timed], length: int, rows: int
) -> Tensor:
    """Return a loop with as many iterations as a sequence has frames: its body is one step."""
    like = max(aligned([settled(x).value for x in read]), key=lambda v: v.clock.start)
    step = _Step(a, states, like, length)
    number = Iteration(like, length, np.zeros((), np.int64))
    again, *made = _run(a, body, [number, np.array(True), *step.current])
    if not known(again, "the condition depends on the frame; it").all():
        raise Unsupported("it ends before the sequence does")
    return step.outputs(made, [0] * rows)
