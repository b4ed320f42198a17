"""Is the export the same function? It is run in onnxruntime beside the model's own stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from streamrnn.errors import ExportError, FrameError
from streamrnn.layer import Layer

from .metadata import read_metadata

if TYPE_CHECKING:
    from streamrnn.drift import QuantizationReport

__all__ = [
    "SEED",
    "Differences",
    "ExportReport",
    "StepSession",
    "checked_frames",
    "random_frames",
    "session_of",
    "verify_sequence",
    "verify_step",
]

RANDOM_CALLS = 64
OPEN_BATCH = 3
"""Streams that a graph with an open number of them is verified with."""
CUTS = (1, 3, 7)
"""Where a sequence is cut, in tenths."""
SEED = 0

Array = npt.NDArray[Any]


@dataclass
class ExportReport:
    """What was written, and how far it is from the model's own stream.

    Attributes
    ----------
    path : Path
        The file.
    opset : int
        Version of the operator set.
    proto : onnx.ModelProto
        The model.
    frames : int
        Frames that were compared; 0 if the export was not verified.
    max_absolute, max_relative : dict of str to float
        Largest error of each output and state over all frames; relative to its largest value.
    opinion : str
        What onnx's reference evaluator says of the first call.
    quantization : QuantizationReport, optional
        What quantisation has changed; the errors above are those of the graph before it.
    """

    path: Path
    opset: int
    proto: onnx.ModelProto = field(repr=False)
    frames: int = 0
    max_absolute: dict[str, float] = field(default_factory=dict)
    max_relative: dict[str, float] = field(default_factory=dict)
    opinion: str = ""
    quantization: QuantizationReport | None = None

    @property
    def max_error(self) -> float:
        """Largest absolute error of all outputs and states."""
        return max(self.max_absolute.values(), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it but the graph, as JSON can say it."""
        return {
            "path": str(self.path),
            "opset": self.opset,
            "nodes": len(self.proto.graph.node),
            "bytes": self.proto.ByteSize(),
            "frames": self.frames,
            "max_absolute": self.max_absolute,
            "max_relative": self.max_relative,
            "opinion": self.opinion,
            "quantization": self.quantization.as_dict() if self.quantization else None,
        }

    def __str__(self) -> str:
        graph = self.proto.graph
        lines = [f"{self.path}: opset {self.opset}, {len(graph.node)} nodes"]
        for title, values in (("in", graph.input), ("out", graph.output)):
            for value in values:
                dims = ", ".join(
                    (d.dim_param or str(d.dim_value)) for d in value.type.tensor_type.shape.dim
                )
                lines.append(f"  {title:<3} {value.name} ({dims})")
        if self.quantization:
            lines.append(str(self.quantization))
        if not self.frames:
            return "\n".join([*lines, "not verified"])
        what = "before quantisation, " if self.quantization else ""
        lines.append(f"{what}verified in onnxruntime over {self.frames} frames")
        width = max(len(n) for n in self.max_absolute)
        lines.append(f"  {'':<{width}}  max abs error  max rel error")
        for name, error in self.max_absolute.items():
            lines.append(f"  {name:<{width}}  {error:13.2e}  {self.max_relative[name]:13.2e}")
        return "\n".join([*lines, *filter(None, [self.opinion])])


def _difference(got: Array, wanted: Array) -> tuple[float, float, float]:
    """Return the largest error, value, and error as it is held against the tolerance."""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        error = np.where(same, 0.0, np.abs(got - wanted))
    error[~np.isfinite(error)] = np.inf
    size = np.where(np.isfinite(wanted), np.abs(wanted), 1.0)
    scaled = error / np.maximum(size, 1.0)
    return float(error.max(initial=0)), float(size.max(initial=0)), float(scaled.max(initial=0))


def random_frames(model: Layer, calls: int) -> tuple[Array, ...]:
    """Return seeded random frames for so many calls, an array for each input."""
    rng = np.random.default_rng(SEED)
    program = model.program()
    n = calls * program.clock.stride
    return tuple(
        rng.integers(0, limit, (n, *v.shape))
        if limit
        else rng.standard_normal((n, *v.shape)).astype(np.float32)
        for v, limit in zip(program.inputs, program.index_limits, strict=True)
    )


def checked_frames(model: Layer, frames: Any) -> tuple[Array, ...]:
    """Return the frames to verify with, one array [shape=(T, *frame shape)] for each input.

    Raises
    ------
    FrameError
        If they do not fit the model, or hold a NaN or an infinity.
    """
    program = model.program()
    values, stride = program.graph.inputs, program.clock.stride
    if frames is None:
        return random_frames(model, program.clock.start // stride + RANDOM_CALLS)
    given = frames if isinstance(frames, tuple) else (frames,)
    shapes = [np.shape(x) for x in given]
    wanted = [v.shape for v in values.values()]
    if [s[1:] for s in shapes] != wanted or len({s[:1] for s in shapes}) > 1:
        expected = " and ".join(str(("T", *w)).replace("'", "") for w in wanted)
        raise FrameError(
            f"`frames` to verify with must have shape {expected} for {model!r}, "
            f"got {' and '.join(map(str, shapes))}"
        )
    T = shapes[0][0]
    if T == 0 or T % stride:
        raise FrameError(
            f"`frames` to verify with must be a positive multiple of {stride} (stride_frames), "
            f"got {T}"
        )
    if not program.clock.emitted(T):
        raise FrameError(
            f"`frames` to verify with must be more than {program.clock.start} (delay_frames), got "
            f"{T}: nothing comes out before"
        )
    arrays = tuple(np.asarray(x) for x in given)
    for name, x in zip(values, arrays, strict=True):
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise FrameError(
                f"`frames` to verify with hold a NaN or an infinity in {name!r}: nothing can be "
                f"compared with it; pass finite ones"
            )
    return arrays


def session_of(model: bytes | Path, who: str, threads: int = 0) -> Callable[..., list[Array]]:
    """Return onnxruntime's ``run`` for a graph: ``run(names of outputs, inputs by name)``.

    It computes in so many threads; in as many as onnxruntime likes for 0.

    Raises
    ------
    ExportError
        If onnxruntime is missing or cannot load the graph; the call raises it if it cannot run.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(
            "verification needs onnxruntime: pip install streamrnn[onnx], or pass verify=False"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise ExportError(f"onnxruntime cannot load {who}: {error}") from None

    def run(names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return list(session.run(list(names), dict(feeds)))
        except Exception as error:
            raise ExportError(f"onnxruntime cannot run {who}: {error}") from None

    return run


class StepSession:
    """A graph of ours in onnxruntime, its states fed back.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph, with our metadata.
    streams : int
        Streams side by side, where the graph leaves their number open.
    threads : int
        See :func:`session_of`.

    Attributes
    ----------
    states : dict of str to array
        What the next call feeds, by the names of inputs.
    """

    def __init__(self, proto: onnx.ModelProto, streams: int = 1, threads: int = 0) -> None:
        self._run = session_of(proto.SerializeToString(), "the graph", threads)
        self._names = [o.name for o in proto.graph.output]
        self._own = read_metadata(proto)
        self._streams = streams
        self._pairs = {s["input"]: s["output"] for s in self._own["states"]}
        self.reset()

    def reset(self) -> None:
        """Begin anew: with the initial states."""
        self.states = _initial_states(self._own["states"], self._streams)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one call; return all outputs, the states' among them."""
        made = self._run(self._names, {**feeds, **self.states})
        results = dict(zip(self._names, made, strict=True))
        self.states = {old: results[new] for old, new in self._pairs.items()}
        return results


class Differences:
    """The largest errors of each output, gathered call by call."""

    def __init__(self, names: Iterable[str]) -> None:
        self._worst: dict[str, tuple[float, float, float]] = dict.fromkeys(names, (0.0, 0.0, 0.0))

    def add(self, name: str, got: Array, wanted: Array) -> None:
        """Compare an array with what it should be; shapes may differ by axes of size 1."""
        found = _difference(got.reshape(wanted.shape), wanted)
        worst = zip(found, self._worst[name], strict=True)
        absolute, size, scaled = (max(pair) for pair in worst)
        self._worst[name] = absolute, size, scaled

    def scaled(self) -> dict[str, float]:
        """Return the largest error of each output: absolute below 1 and relative above."""
        return {name: scaled for name, (_, _, scaled) in self._worst.items()}

    def into(self, report: ExportReport, frames: int, tolerance: float, what: str) -> None:
        """Put the errors into a report; raise ExportError if one is above the tolerance."""
        report.frames = frames
        report.max_absolute = {name: worst[0] for name, worst in self._worst.items()}
        report.max_relative = {
            name: error / size if size else error for name, (error, size, _) in self._worst.items()
        }
        bad = {name: error for name, error in self.scaled().items() if error > tolerance}
        if bad:
            listed = ", ".join(f"{name} by {error:.2e}" for name, error in bad.items())
            raise ExportError(
                f"{report.path}: not written, because onnxruntime differs {what} by more "
                f"than {tolerance:g} over {frames} frames: {listed}"
            )


def verify_step(report: ExportReport, model: Layer, frames: Any, tolerance: float) -> None:
    """Run a step graph and the model's own streams on the same frames, call by call.

    Raises
    ------
    FrameError
        If the frames do not fit the model, or are not finite.
    ExportError
        If onnxruntime is missing or cannot run the graph, or an error is above the tolerance.
    """
    side_by_side = _Streams(report.proto, model, checked_frames(model, frames))
    stride, total = side_by_side.stride, side_by_side.total
    for start in range(0, total, stride):
        side_by_side.compare(start, start + stride)
    side_by_side.differences.into(report, total, tolerance, "from the stream")


def verify_sequence(report: ExportReport, model: Layer, frames: Any, tolerance: float) -> None:
    """Run a sequence graph as a whole, and again in unequal chunks, beside the model's own streams.

    Raises
    ------
    FrameError
        If the frames do not fit the model, or are not finite.
    ExportError
        If onnxruntime is missing or cannot run the graph, or an error is above the tolerance.
    """
    side_by_side = _Streams(report.proto, model, checked_frames(model, frames))
    stride, total = side_by_side.stride, side_by_side.total
    side_by_side.compare(0, total)
    side_by_side.reset()
    ends = sorted({0, total, *(stride * (total // stride * n // 10) for n in CUTS)})
    for start, end in itertools.pairwise(ends):
        side_by_side.compare(start, end)
    side_by_side.differences.into(report, total, tolerance, "from the stream")


class _Streams:
    """A graph in onnxruntime, and the model's own streams that it should equal.

    Streams beside the first hear the same frames, each begun later.
    """

    def __init__(self, proto: onnx.ModelProto, model: Layer, xs: Sequence[Array]) -> None:
        batch = read_metadata(proto)["batch"] or OPEN_BATCH
        self._session = StepSession(proto, batch)
        self._streams = [model.stream(on_nonfinite="propagate") for _ in range(batch)]
        self._xs = [tuple(np.roll(x, -b, axis=0) for x in xs) for b in range(batch)]
        self._graph = model.graph()
        self._axes = {s["name"]: s["batch_axis"] for s in read_metadata(proto)["states"]}
        self.stride, self.total = self._graph.clock.stride, len(xs[0])
        states = [f"{name}_out" for name in self._streams[0].state]
        self.differences = Differences([*self._graph.outputs, *states])

    def reset(self) -> None:
        self._session.reset()
        for stream in self._streams:
            stream.reset()

    def compare(self, start: int, end: int) -> None:
        """Run frames from `start` to `end` in one call; compare outputs and states."""
        parts = [tuple(x[start:end] for x in xs) for xs in self._xs]
        runs = zip(self._streams, parts, strict=True)
        wanted = [stream.run(part if len(part) > 1 else part[0]) for stream, part in runs]
        feeds = {
            name: np.stack([part[i] for part in parts], axis=1).astype(value.dtype)
            for i, (name, value) in enumerate(self._graph.inputs.items())
        }
        made = self._session(feeds)
        for b, stream in enumerate(self._streams):
            outputs = wanted[b] if isinstance(wanted[b], tuple) else (wanted[b],)
            for name, array in zip(self._graph.outputs, outputs, strict=True):
                late = (end - start) // self.stride - len(array)  # what means nothing yet
                self.differences.add(name, made[name][late:, b], array)
            for name, array in stream.state.items():
                got = np.take(made[f"{name}_out"], b, self._axes[name])
                self.differences.add(f"{name}_out", got, array)


def _initial_states(states: Sequence[Mapping[str, Any]], streams: int) -> dict[str, Array]:
    """Return what each state begins with, for every stream."""
    made = {}
    for state in states:
        shape, axis = list(state["shape"]), state["batch_axis"]
        if axis is not None:
            streams, shape[axis] = shape[axis] or streams, 1
        initial = np.float32(state["initial"])  # a number, or one stream's numbers in a row
        begins = np.reshape(initial, shape) if initial.ndim else np.full(shape, initial)
        made[state["input"]] = begins if axis is None else np.repeat(begins, streams, axis)
    return made
