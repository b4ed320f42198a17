"""A step graph in onnxruntime: what it takes and returns, and which state feeds which.

Of our own exports the metadata says so; of others the importer's rules find it.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from streamrnn.errors import ExportError, FileError, StateError
from streamrnn.graph import Clock, Input, Shape, Value
from streamrnn.importers.onnx import Reader, opened, read_onnx, state_name
from streamrnn.importers.onnx.inputs import frame_shape
from streamrnn.program import HEADER, LINE, StateSlot, aligned, fingerprint, whole

__all__ = ["Port", "State", "StepGraph"]

Array = npt.NDArray[Any]

F32 = np.dtype(np.float32)
ANY_INDEX = 1 << 24
"""Limit of indices, which travel as float32; which are too large for a table, the graph says."""


@dataclass(frozen=True)
class Port:
    """An input or output that is no state.

    Parameters
    ----------
    name : str
        Its name in the graph.
    shape : tuple of int
        Its shape in the graph.
    dtype : dtype
        What it holds.
    axis : int or None
        The axis of `shape` that holds the frames of one call; None: all of it is one frame.
    frame : tuple of int
        Shape of a frame, as a stream takes or returns it.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    axis: int | None
    frame: Shape

    @property
    def value(self) -> Value:
        """The frame as a value of a model."""
        return Input(self.frame, "float32" if self.dtype == F32 else "int64")


@dataclass(frozen=True)
class State:
    """A state: the names of its input and output, its shape there, its place in the buffer."""

    input: str
    output: str
    shape: Shape
    slot: StateSlot
    shown: bool


class StepGraph:
    """A step graph, loaded into onnxruntime; what :class:`OnnxStream` runs.

    Parameters
    ----------
    path : Path
        The file.
    shapes, constants, states
        As for ``streamrnn.load``.
    threads : int
        Threads that one call may use.

    Attributes
    ----------
    stride : int
        Frames that one call takes.
    waited_calls : int
        First calls of which the outputs mean nothing.
    frames, results : list of Port
        What goes in and comes out beside the states.
    states : list of State
        Every state, also those that a stream does not show.

    Raises
    ------
    FileError
        If the file is no step graph that can be read, or onnxruntime cannot run it.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        constants: Mapping[str, Any] | None = None,
        states: Mapping[str, str] | None = None,
        threads: int = 1,
    ) -> None:
        self.path, self._options = path, (shapes, constants, states)
        with opened(path, shapes, constants) as reader:
            self._own = reader.own
            _check_form(reader, self._own)
            self.stride = int(self._own.get("stride_frames", 1))
            self.waited_calls = int(self._own.get("delay_frames", 0)) // self.stride
            pairs = reader.find_pairs(states)
            kinds = {n: onnx.helper.tensor_dtype_to_np_dtype(t) for n, t in reader.dtypes.items()}
            self.constants = {n: a.astype(kinds[n]) for n, a in reader.constants.items()}
            self.states = list(self._places(reader, pairs))
            self.frames = [
                self._port(name, shape, kinds[name])
                for name, shape in reader.shapes.items()
                if name not in pairs
            ]
            for name in reader.shapes:
                _check_kind(name, kinds[name], name in pairs)
        self.slots = {s.slot.name: s.slot for s in self.states if s.shown}
        self.clock = Clock(self.stride, (self.waited_calls + 1) * self.stride - 1)
        self._digest = _digest(path)
        self.session = _session(path, threads)
        self.results = self._probed()
        self.input_names = tuple(port.name for port in self.frames)
        self.output_names = tuple(port.name for port in self.results)
        self.inputs = tuple(port.value for port in self.frames)
        self.outputs = tuple(port.value for port in self.results)
        self.index_limits = tuple(None if p.dtype == F32 else ANY_INDEX for p in self.frames)
        self.input_size = sum(v.size for v in self.inputs)
        self.output_size = sum(v.size for v in self.outputs)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Which model it is: the one that was exported, else what ``streamrnn.load`` makes of it.

        Where the latter refuses the graph, it is a hash of the file.
        """
        if "fingerprint" in self._own:
            return str(self._own["fingerprint"])
        if _digest(self.path) != self._digest:
            raise StateError(f"{self.path} has changed since it was opened: open it anew")
        try:
            model, _ = read_onnx(self.path, *self._options)
        except FileError:
            return self._digest
        graph = model.graph()
        return fingerprint(graph, [node.op.weights for node in graph.nodes])

    def _port(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> Port:
        for said in (*self._own.get("inputs", ()), *self._own.get("outputs", ())):
            if said["name"] == name:
                axis, own = said["time_axis"], said["batch_axis"] is not None
                frame = tuple(said["shape"]) if own else frame_shape(shape, axis)
                return Port(name, shape, dtype, axis, frame)
        return Port(name, shape, dtype, None, frame_shape(shape, None))

    def _places(self, reader: Reader, pairs: Mapping[str, str]) -> list[State]:
        """Return the states one after another, and make the buffer that they begin with."""
        notes = {note["input"]: note for note in self._own.get("states", [])}
        states, self.state_size = [], HEADER
        for name, output in pairs.items():
            shape = reader.shapes[name]
            shown = notes.get(name, {}).get("stream_shape", shape)
            slot = StateSlot(
                state_name(name), tuple(shape if shown is None else shown), self.state_size
            )
            states.append(
                State(name, output, shape, slot, shown is not None and name in reader.read)
            )
            self.state_size += whole(math.prod(shape), LINE) + LINE
        self.initial = aligned(self.state_size)
        for state in states:
            first = notes.get(state.input, {}).get("initial", 0.0)
            self.initial[state.slot.offset : state.slot.stop] = np.asarray(first, np.float32)
        return states

    def views(self, buffer: Array) -> list[Array]:
        """Return the states within a buffer, in the graph's shapes."""
        return [buffer[s.slot.offset : s.slot.stop].reshape(s.shape) for s in self.states]

    def _probed(self) -> list[Port]:
        """Run the graph once, to see which outputs it has, in which shape."""
        names = [output.name for output in self.session.get_outputs()]
        feeds = {port.name: np.zeros(port.shape, port.dtype) for port in self.frames}
        begin = dict(zip((s.input for s in self.states), self.views(self.initial), strict=True))
        try:
            made = self.session.run(names, {**feeds, **begin, **self.constants})
        except Exception as error:  # onnxruntime's errors have no common base
            raise FileError(f"{self.path}: onnxruntime cannot run it: {error}") from None
        results = dict(zip(names, made, strict=True))
        for state in self.states:
            new = results.pop(state.output)
            if new.shape != state.shape:
                raise FileError(
                    f"{self.path}: state output {state.output!r} {new.shape} does not fit state "
                    f"input {state.input!r} {state.shape}"
                )
        for name, array in results.items():
            if array.dtype != F32:
                raise FileError(f"{self.path}: output {name!r} is {array.dtype}, not float32")
        if not results:
            raise FileError(f"{self.path}: every output is a state: nothing is left to come out")
        return [self._port(name, array.shape, array.dtype) for name, array in results.items()]


def _check_form(reader: Reader, own: Mapping[str, Any]) -> None:
    """Raise FileError unless the graph can run call by call: ours over sequences can as well."""
    form = own.get("form", "step")
    if form not in ("step", "sequence"):
        raise FileError(f"it is a graph of the form {form!r}; known are step and sequence: update")
    if own.get("batch", 1) not in (1, None):
        raise FileError(
            f"it takes {own['batch']} streams a call; OnnxStream runs one: export it with batch=1"
        )
    for name in reader.time_axes:
        given = tuple(reader.shapes[name])
        raise FileError(
            f"it is a graph over sequences: input {name!r} has an open time axis. Make a step "
            f"graph of it with streamrnn.export.add_state, or run it with streamrnn.load; if its "
            f"states come in and go out and it takes frame by frame as it is, say so with "
            f"shapes={{{name!r}: {given}}}"
        )


def _check_kind(name: str, kind: np.dtype[Any], is_state: bool) -> None:
    if kind != F32 and (is_state or kind not in (np.int32, np.int64)):
        raise FileError(
            f"input {name!r} is {kind}, frames and states are float32; if it never changes, say "
            f"what it is with constants={{{name!r}: …}}"
        )


def _digest(path: Path) -> str:
    """Return a hash of a file; of one that is gone the empty one."""
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()[:32]


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ExportError("OnnxStream needs onnxruntime: pip install streamrnn[onnx]") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise FileError(f"{path}: onnxruntime cannot load it: {error}") from None
