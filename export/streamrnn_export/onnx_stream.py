"""A step graph in onnxruntime with the verbs of a stream.

The states live in two buffers that change places with every call: a binding reads from the one and
writes to the other, a second binding the other way round. So a call copies no state and allocates
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamrnn.errors import ConfigError, FileError, FrameError, StateError
from streamrnn.graph import Clock, Shape, describe
from streamrnn.kernels.tape import NONFINITE
from streamrnn.program import aligned
from streamrnn.state import checked_state
from streamrnn.stream import BaseStream, Result

from .scope import CALLS, MAX_CALLS
from .step_graph import StepGraph

__all__ = ["OnnxStream"]

Array = npt.NDArray[Any]

F32 = np.dtype(np.float32)


class OnnxStream(BaseStream):
    """One running instance of an ONNX step graph, in onnxruntime.

    It has the verbs of :class:`streamrnn.Stream`, takes the same frames, returns the same and
    raises the same errors: ``streamrnn.load("m.onnx").stream()`` and ``OnnxStream("m.onnx")``
    change places. A graph that takes S frames a call (its output is slower) runs with every S-th
    frame, and returns its output then; its states are those after the last call.

    Snapshots move between this stream and, where ``to_onnx`` or ``add_state`` wrote the file, a
    stream of the model that was exported; for any other graph, a stream of what ``streamrnn.load``
    makes of it with the same arguments. Where a call takes S frames, that is so after every S-th.

    ``fork`` makes further streams on the same session; each belongs to one thread at a time.

    Parameters
    ----------
    path : str or Path
        A step graph: written by ``to_onnx`` or ``add_state``, or another one with batch size 1
        whose states come in and go out.
    on_nonfinite : str
        ``"raise"``, ``"propagate"`` or ``"hold"``, see :meth:`streamrnn.Layer.stream`.
    threads : int
        Threads of onnxruntime that one call may use.
    shapes, constants, states
        As for ``streamrnn.load``: open shapes, fixed inputs, and which output feeds which input.

    Raises
    ------
    FileError
        If the file cannot be read or run, or is a graph over sequences.
    ConfigError
        If `on_nonfinite` or `threads` has no meaning.
    ExportError
        If onnxruntime is not installed.
    """

    program: StepGraph

    def __init__(
        self,
        path: str | Path,
        *,
        on_nonfinite: str = "raise",
        threads: int = 1,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        constants: Mapping[str, Any] | None = None,
        states: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(threads, int) or threads < 1:
            raise ConfigError(f"threads must be a whole number from 1 on, got {threads!r}")
        try:
            path = Path(path)
        except TypeError:
            raise FileError(f"expected a path, got {describe(path)}") from None
        self._begin(StepGraph(path, shapes, constants, states, threads), on_nonfinite)

    def _begin(self, graph: StepGraph, on_nonfinite: str) -> None:
        super().__init__(graph, on_nonfinite)
        self._clock = np.zeros(1, np.int64)  # not within the states, which change places
        self._other = aligned(graph.state_size)
        self._chunk = [np.zeros(port.shape, port.dtype) for port in graph.frames]
        self._results = [np.zeros(port.shape, F32) for port in graph.results]
        self._buffers = (self._state, self._other)
        self._bindings = (
            self._bound(self._state, self._other),
            self._bound(self._other, self._state),
        )
        self._binding = self._bindings[0]
        self._places = [self._places_of(i) for i in range(graph.stride)]
        self._run_graph = graph.session.run_with_iobinding
        # The fast path of `step`: one vector in, one vector out, with every frame.
        self._flat = self._flat and graph.clock == Clock() and on_nonfinite != "hold"
        self._lenient = on_nonfinite == "propagate"
        self._in_shape, self._out_shape = (graph.input_size,), (graph.output_size,)
        self._finite = np.zeros(graph.input_size, bool)
        self._frame, self._result = self._chunk[0].reshape(-1), self._results[0].reshape(-1)
        self.reset()

    def _bound(self, before: Array, after: Array) -> Any:
        """Return a binding that reads the states from one buffer and writes them to the other."""
        from onnxruntime import OrtValue

        graph, binding = self.program, self.program.session.io_binding()
        states_in = zip((s.input for s in graph.states), graph.views(before), strict=True)
        states_out = zip((s.output for s in graph.states), graph.views(after), strict=True)
        frames = zip((port.name for port in graph.frames), self._chunk, strict=True)
        results = zip((port.name for port in graph.results), self._results, strict=True)
        for name, array in (*frames, *states_in, *graph.constants.items()):
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for name, array in (*results, *states_out):
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        return binding

    def _places_of(self, i: int) -> list[tuple[Array, int, int]]:
        """Return where frame i of a call goes: views, and which part of the frame each takes."""
        places, first = [], 0
        for port, array, value in zip(
            self.program.frames, self._chunk, self.program.inputs, strict=True
        ):
            view = array if port.axis is None else np.moveaxis(array, port.axis, 0)[i, ...]
            places.append((view, first, first + value.size))
            first += value.size
        return places

    # Frames ----------------------------------------------------------------------------------

    @property
    def stride_frames(self) -> int:
        """Input frames from one output to the next: those of one call."""
        return self.program.clock.stride

    @property
    def delay_frames(self) -> int:
        """Input frames before the one with which the first output comes."""
        return self.program.clock.start

    def step(self, x: Any, out: Any = None) -> Result | None:
        y = np.empty(self._out_shape, F32) if out is None else out
        plain = self._flat and _is_vector(x, self._in_shape) and _is_vector(y, self._out_shape)
        if not plain or not (self._lenient or np.isfinite(x, out=self._finite).all()):
            return super().step(x, out)
        self._frame[...] = x
        before, now = self._state, self.frames
        try:
            self._call()
            self._clock[0] = now + 1
            y[...] = self._result
        except BaseException as error:  # Ctrl-C too: the states and their number go together
            self._back_to(before)
            self._clock[0] = now
            if not isinstance(error, Exception):
                raise
            return self._checked(x, out, single=True)  # which says why
        return y

    def _run_frames(self, n: int, x: Array, y: Array) -> int:
        rows = x.reshape(n, self.program.input_size)
        if self.on_nonfinite == "raise" and not np.isfinite(x).all():
            return NONFINITE - int(np.isfinite(rows).all(1).argmin())
        before, now = self._state, self.frames
        kept = self._kept() if n > 1 or self.on_nonfinite == "hold" else None
        try:
            return self._run_rows(rows, y.reshape(-1, self.program.output_size))
        except BaseException as error:
            self._back_to(before)
            self._clock[0] = now
            if kept is not None:
                self._go_back(kept)
            if not isinstance(error, Exception):
                raise
            raise FrameError(
                f"onnxruntime cannot run these frames; the state is as it was: {error}"
            ) from None

    def _run_rows(self, rows: Array, ys: Array) -> int:
        """Run frames, a row each; return how many rows of `ys` were written."""
        written, now, start, stride = 0, self.frames, self.delay_frames, self.stride_frames
        for row in rows:
            if self.on_nonfinite == "hold":
                if np.isfinite(row).all():
                    self._held[:] = row
                row = self._held
            for place, first, stop in self._places[now % stride]:
                place[...] = row[first:stop].reshape(place.shape)
            if (now + 1) % stride == 0:
                self._call()
                if now >= start:
                    self._collect(ys[written])
                    written += 1
            now += 1
            self._clock[0] = now
        return written

    def _call(self) -> None:
        self._run_graph(self._binding)
        self._back_to(self._other)

    def _back_to(self, state: Array) -> None:
        """Go on from one of the two buffers of states, whichever of them was the last."""
        i = 0 if state is self._buffers[0] else 1
        self._state, self._other = self._buffers[i], self._buffers[1 - i]
        self._binding = self._bindings[i]

    def _collect(self, y: Array) -> None:
        """Put the outputs of a call side by side."""
        first = 0
        for result in self._results:
            y[first : first + result.size] = result.reshape(-1)
            first += result.size

    def _kept(self) -> tuple[Any, ...]:
        return self.frames, [a.copy() for a in (self._state, self._held, *self._chunk)]

    def _go_back(self, kept: tuple[Any, ...]) -> None:
        self._clock[0] = kept[0]
        for array, old in zip((self._state, self._held, *self._chunk), kept[1], strict=True):
            array[...] = old

    # State -----------------------------------------------------------------------------------

    def reset(self) -> None:
        super().reset()
        self._clock[0] = 0

    def _another(self) -> OnnxStream:
        other = object.__new__(OnnxStream)
        other._begin(self.program, self.on_nonfinite)
        return other

    def _tensors(self) -> dict[str, Array]:
        waiting = self.frames % self.stride_frames
        if not waiting:
            return super()._tensors()
        rows = [[view.reshape(-1) for view, _, _ in self._places[i]] for i in range(waiting)]
        return {**super()._tensors(), "waiting": np.array([np.concatenate(r) for r in rows], F32)}

    def _take(self, frames: int, tensors: dict[str, Any]) -> None:
        stride = self.stride_frames
        rows = tensors.pop("waiting", np.zeros((0, self.program.input_size), F32))
        if frames % stride and not len(rows):
            raise StateError(
                f"snapshot of another engine after {frames} frames, in the middle of a call of "
                f"{stride}: take it after a multiple of {stride} frames"
            )
        rows = checked_state("waiting", rows, (frames % stride, self.program.input_size))
        super()._take(frames, tensors)
        for row, places in zip(rows, self._places, strict=False):
            for place, first, stop in places:
                place[...] = row[first:stop].reshape(place.shape)
        for state in self.program.states:
            if not state.shown and state.slot.name == CALLS:
                self._state[state.slot.offset] = min(frames // stride, MAX_CALLS)


def _is_vector(x: Any, shape: Shape) -> bool:
    """Whether an array can be read or written as it is."""
    good = type(x) is np.ndarray and x.dtype == F32 and x.shape == shape
    return good and x.flags.carray  # contiguous, aligned, writeable
