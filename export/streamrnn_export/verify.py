"""Is the export the same function? It is run in onnxruntime beside the model's own stream."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from streamrnn.errors import ExportError
from streamrnn.layer import Layer

from .recorder import BATCH

__all__ = ["ExportReport", "verify_step"]

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
    """

    path: Path
    opset: int
    proto: onnx.ModelProto = field(repr=False)
    frames: int = 0
    max_absolute: dict[str, float] = field(default_factory=dict)
    max_relative: dict[str, float] = field(default_factory=dict)

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
        if not self.frames:
            return "\n".join([*lines, "not verified"])
        lines.append(f"verified in onnxruntime over {self.frames} frames")
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


def _random_frames(model: Layer, calls: int) -> tuple[Array, ...]:
    rng = np.random.default_rng(SEED)
    program = model.program()
    n = calls * program.clock.stride
    return tuple(
        rng.integers(0, limit, (n, *v.shape))
        if limit
        else rng.standard_normal((n, *v.shape)).astype(np.float32)
        for v, limit in zip(program.inputs, program.index_limits, strict=True)
    )


def verify_step(report: ExportReport, model: Layer, frames: Any, tolerance: float) -> None:
    """Run the graph and the model's stream on the same frames; put the errors into the report.

    Raises
    ------
    ExportError
        If onnxruntime is missing or cannot run the graph, or an error is above the tolerance.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(
            "verification needs onnxruntime: pip install streamrnn[onnx], or pass verify=False"
        ) from None
    given = frames if isinstance(frames, tuple) else (frames,)
    xs = _random_frames(model, RANDOM_CALLS) if frames is None else given
    try:
        session = onnxruntime.InferenceSession(
            report.proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise ExportError(f"onnxruntime cannot load the graph: {error}") from None
    stream, names = model.stream(on_nonfinite="propagate"), [o.name for o in session.get_outputs()]
    program = stream.program
    states = _initial_states(report.proto)
    stride, outputs = program.clock.stride, list(program.graph.outputs)
    calls = len(xs[0]) // stride
    worst, largest = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    report.max_absolute = dict(worst)
    for call in range(calls):
        part = tuple(x[call * stride : (call + 1) * stride] for x in xs)
        wanted = stream.run(part if len(part) > 1 else part[0])
        feeds = {
            name: x.reshape(stride, BATCH, *v.shape)
            for (name, v), x in zip(program.graph.inputs.items(), part, strict=True)
        }
        try:
            results = dict(zip(names, session.run(names, feeds | states), strict=True))
        except Exception as error:
            raise ExportError(f"onnxruntime cannot run the graph: {error}") from None
        states = {n.removesuffix("_out") + "_in": results[n] for n in names[len(outputs) :]}
        pairs = dict(zip(outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True))
        if not len(pairs[outputs[0]]):  # what the first calls return means nothing yet
            pairs = {}
        own = {f"{name}_out": value for name, value in stream.state.items()}
        pairs |= {n: own[n] for n in names[len(outputs) :] if n in own}
        for name, value in pairs.items():
            absolute, size, scaled = _difference(results[name].reshape(value.shape), value)
            report.max_absolute[name] = max(report.max_absolute[name], absolute)
            largest[name] = max(largest[name], size)
            worst[name] = max(worst[name], scaled)
    report.frames = calls * stride
    report.max_relative = {
        name: error / largest[name] if largest[name] else error
        for name, error in report.max_absolute.items()
    }
    bad = {name: error for name, error in worst.items() if error > tolerance}
    if bad:
        listed = ", ".join(f"{name} by {error:.2e}" for name, error in bad.items())
        raise ExportError(
            f"{report.path}: not written, because onnxruntime differs from the stream by more "
            f"than {tolerance:g} over {report.frames} frames: {listed}"
        )


def _initial_states(proto: onnx.ModelProto) -> dict[str, Array]:
    meta = json.loads({p.key: p.value for p in proto.metadata_props}["streamrnn"])
    return {
        s["input"]: np.broadcast_to(
            np.reshape(np.array(s["initial"], np.float32), s["shape"])
            if isinstance(s["initial"], list)
            else np.float32(s["initial"]),
            s["shape"],
        ).astype(np.float32)
        for s in meta["states"]
    }
