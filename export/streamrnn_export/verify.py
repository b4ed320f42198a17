"""Is the export the same function? It is run in onnxruntime beside the model's own stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from streamrnn.errors import ExportError
from streamrnn.layer import Layer

from .recorder import BATCH

if TYPE_CHECKING:
    from .drift import QuantizationReport

__all__ = [
    "SEED",
    "Differences",
    "ExportReport",
    "StepSession",
    "random_frames",
    "session_of",
    "verify_step",
]

RANDOM_CALLS = 64
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
    quantization : QuantizationReport, optional
        What quantisation has changed; the errors above are those of the graph before it.
    """

    path: Path
    opset: int
    proto: onnx.ModelProto = field(repr=False)
    frames: int = 0
    max_absolute: dict[str, float] = field(default_factory=dict)
    max_relative: dict[str, float] = field(default_factory=dict)
    quantization: QuantizationReport | None = None

    @property
    def max_error(self) -> float:
        """Largest absolute error of all outputs and states."""
        return max(self.max_absolute.values(), default=0.0)

    def __str__(self) -> str:
        graph = self.proto.graph
        lines = [f"{self.path}: opset {self.opset}, {len(graph.node)} nodes"]
        for title, values in (("in", graph.input), ("out", graph.output)):
            for value in values:
                dims = ", ".join(str(d.dim_value) for d in value.type.tensor_type.shape.dim)
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
        return "\n".join(lines)


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
    """A step graph in onnxruntime, its states fed back.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph, with our metadata.
    threads : int
        See :func:`session_of`.

    Attributes
    ----------
    states : dict of str to array
        What the next call feeds, by the names of inputs.
    """

    def __init__(self, proto: onnx.ModelProto, threads: int = 0) -> None:
        self._run = session_of(proto.SerializeToString(), "the graph", threads)
        self._names = [o.name for o in proto.graph.output]
        own = json.loads({p.key: p.value for p in proto.metadata_props}["streamrnn"])
        self._pairs = {s["input"]: s["output"] for s in own["states"]}
        self._initial = _initial_states(own["states"])
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.states = dict(self._initial)

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

    def into(self, report: ExportReport, frames: int, tolerance: float, what: str) -> None:
        """Put the errors into a report; raise ExportError if one is above the tolerance."""
        report.frames = frames
        report.max_absolute = {name: worst[0] for name, worst in self._worst.items()}
        report.max_relative = {
            name: error / size if size else error for name, (error, size, _) in self._worst.items()
        }
        bad = {name: scaled for name, (_, _, scaled) in self._worst.items() if scaled > tolerance}
        if bad:
            listed = ", ".join(f"{name} by {error:.2e}" for name, error in bad.items())
            raise ExportError(
                f"{report.path}: not written, because onnxruntime differs {what} by more "
                f"than {tolerance:g} over {frames} frames: {listed}"
            )


def verify_step(report: ExportReport, model: Layer, frames: Any, tolerance: float) -> None:
    """Run the graph and the model's stream on the same frames; put the errors into the report.

    Raises
    ------
    ExportError
        If onnxruntime is missing or cannot run the graph, or an error is above the tolerance.
    """
    step = StepSession(report.proto)
    given = frames if isinstance(frames, tuple) else (frames,)
    xs = random_frames(model, RANDOM_CALLS) if frames is None else given
    stream = model.stream(on_nonfinite="propagate")
    graph = stream.program.graph
    stride, outputs = graph.clock.stride, list(graph.outputs)
    differences = Differences([*outputs, *(f"{name}_out" for name in stream.state)])
    calls = len(xs[0]) // stride
    for call in range(calls):
        part = tuple(x[call * stride : (call + 1) * stride] for x in xs)
        wanted = stream.run(part if len(part) > 1 else part[0])
        feeds = {
            name: x.reshape(stride, BATCH, *v.shape)
            for (name, v), x in zip(graph.inputs.items(), part, strict=True)
        }
        results = step(feeds)
        pairs = dict(zip(outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True))
        if not len(pairs[outputs[0]]):  # what the first calls return means nothing yet
            pairs = {}
        pairs |= {f"{name}_out": value for name, value in stream.state.items()}
        for name, value in pairs.items():
            differences.add(name, results[name], value)
    differences.into(report, calls * stride, tolerance, "from the stream")


def _initial_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    return {
        s["input"]: np.broadcast_to(
            np.reshape(np.array(s["initial"], np.float32), s["shape"])
            if isinstance(s["initial"], list)
            else np.float32(s["initial"]),
            s["shape"],
        ).astype(np.float32)
        for s in states
    }
