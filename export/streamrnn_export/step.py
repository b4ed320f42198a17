"""The step graph: one call takes one frame and every state, and returns the output and every state.

A model whose output is slower than its input (``stride_frames`` = S > 1) takes S frames a call. All
frames have shape (frames, streams, *frame); the states' names end in ``_in`` and ``_out``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from streamrnn.errors import ConfigError, ExportError
from streamrnn.files import written_whole
from streamrnn.graph import Graph
from streamrnn.layer import Layer
from streamrnn.version import VERSION

from .quantize import Quantization, quantized
from .recorder import BATCH, OnnxRecorder, tensor_info
from .verify import ExportReport, verify_step

__all__ = [
    "DEFAULT_OPSET",
    "MAX_OPSET",
    "MIN_OPSET",
    "check_graph",
    "step_model",
    "to_onnx",
    "write_model",
]

DEFAULT_OPSET, MIN_OPSET, MAX_OPSET = 17, 17, 22
# The first version of ONNX's file format that came with each operator set.
IR_VERSION = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10}
MAX_BYTES = (1 << 31) - (1 << 20)


def to_onnx(
    model: Layer,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    verify: bool = True,
    frames: Any = None,
    tolerance: float = 1e-4,
    quantize: str | Quantization | None = None,
    calibration: Any = None,
) -> ExportReport:
    """Write a model as an ONNX step graph, and check that it computes the same.

    Parameters
    ----------
    model : Layer
        A model, cell or layer.
    path : str or Path
        Where to; nothing is left there if the export fails.
    opset : int
        Version of ONNX's operator set, 17 to 22.
    verify : bool
        Whether to run the graph in onnxruntime beside the model's own stream, frame by frame, with
        the states fed back.
    frames : float32 [shape=(T, *frame shape)] or tuple, optional
        What to verify with; 64 random frames (seeded) unless given.
    tolerance : float
        Largest error that is accepted, absolute below 1 and relative above; of the graph before
        quantisation.
    quantize : str or Quantization, optional
        ``"int8"``, ``"qdq"`` or ``"float16"``, see :class:`Quantization`; the report then says
        what it costs in accuracy over a long stream, and what it saves.
    calibration : float32 [shape=(T, *frame shape)], tuple, or list of these, optional
        A recording, for a model with several inputs a tuple; or several recordings, before each of
        which the states begin anew. ``"qdq"`` takes its ranges from it. The report runs over it,
        again and again if it is short; over random frames (seeded) unless given.

    Returns
    -------
    ExportReport
        File, states and errors; printed, a table.

    Raises
    ------
    ExportError
        If the opset is out of range, the model has no form in it or is over 2 GiB, the path cannot
        be written, onnxruntime is not installed, or the graph does not compute the same. If it
        cannot be quantised, or the calibration is missing or does not fit.
    ConfigError
        If there is no such quantisation, or there is a calibration but nothing to do with it.
    """
    if quantize is None and calibration is not None:
        raise ConfigError("`calibration` is for a quantised export: pass `quantize` as well")
    proto = step_model(model, opset)
    check_graph(proto, model)
    report = ExportReport(Path(path), opset, proto)
    if verify:
        verify_step(report, model, frames, tolerance)
    if quantize is not None:
        report.proto, report.quantization = quantized(proto, model, quantize, calibration)
    write_model(report)
    return report


def check_graph(proto: onnx.ModelProto, model: Layer) -> None:
    """Raise ExportError unless onnx's checker, with full type inference, accepts the graph."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{model!r}: onnx.checker refuses the graph: {error}") from None


def write_model(report: ExportReport) -> None:
    """Write the file that a report is about; it appears whole or not at all."""
    try:
        with written_whole(report.path) as temporary:
            temporary.write_bytes(report.proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise ExportError(f"cannot write {report.path}: {error.strerror or error}") from None


def step_model(model: Layer, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Return the step graph of a model, unchecked."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset must be from {MIN_OPSET} to {MAX_OPSET}, got {opset}")
    graph = model.graph()
    size = 4 * sum(a.size for node in graph.nodes for a in node.op.weights.values())
    if size > MAX_BYTES:
        raise ExportError(
            f"{model!r}: {size / 2**30:.1f} GiB of weights; a file holds at most 2 GiB"
        )
    g, outputs = _recorded(graph, opset)
    stride = graph.clock.stride
    inputs = [
        tensor_info(name, v.dtype, (stride, BATCH, *v.shape)) for name, v in graph.inputs.items()
    ]
    inputs += [tensor_info(f"{n}_in", "float32", s) for n, s in g.states.items()]
    results = [
        tensor_info(name, "float32", (1, BATCH, *v.shape)) for name, v in graph.outputs.items()
    ]
    results += [tensor_info(f"{n}_out", "float32", s) for n, s in g.states.items()]
    named = outputs | {f"{name}_out": value for name, value in g.next_states.items()}
    g.name_outputs(named)
    proto = helper.make_model(
        helper.make_graph(g.nodes, "step", inputs, results, g.initializers),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION[opset],
        producer_name="streamrnn",
        producer_version=VERSION,
    )
    helper.set_model_props(proto, _metadata(model, graph, g))
    return proto


def _recorded(graph: Graph, opset: int) -> tuple[OnnxRecorder, dict[str, str]]:
    """Let every op write its form; return the recorder and the value of each output."""
    g = OnnxRecorder(opset, graph.clock.stride)
    names = {id(v): name for name, v in graph.inputs.items()}
    for node in graph.nodes:
        g.begin(node)
        try:
            names[id(node.value)] = node.op.onnx(g, *(names[id(a)] for a in node.args))
        except NotImplementedError:
            raise ExportError(f"{node.name}: {node.op!r} has no form in ONNX") from None
    _record_feedback(g, graph, names)
    missing = g.states.keys() ^ g.next_states.keys()
    if missing:
        raise ExportError(f"states {', '.join(sorted(missing))} do not both come in and go out")
    return g, {name: names[id(v)] for name, v in graph.outputs.items()}


def _record_feedback(g: OnnxRecorder, graph: Graph, names: dict[int, str]) -> None:
    """Let the value of each ``Past`` go out as the state that comes in next."""
    nodes = {id(node.value): node for node in graph.nodes}
    for past, new in graph.feedback.items():
        g.begin(nodes[id(past)])
        if g.frames() != 1:
            raise ExportError(
                f"{g.node.name}: it changes {g.frames()} times a call, because the model's output "
                f"is slower than that: it has no step graph"
            )
        g.next_state("", g.op("Squeeze", names[id(new)], g.ints(0)))


def _metadata(model: Layer, graph: Graph, g: OnnxRecorder) -> dict[str, str]:
    """Return what a runtime must know beside the graph: which state feeds which, and its start."""
    initial = {
        node.full(name): array.reshape(-1).tolist()
        for node in graph.nodes
        for name, array in node.op.initial_state.items()
    }
    states = [
        {
            "input": f"{name}_in",
            "output": f"{name}_out",
            "shape": shape,
            "initial": initial.get(name, 0.0),
        }
        for name, shape in g.states.items()
    ]
    own = {
        "stride_frames": graph.clock.stride,
        "delay_frames": graph.clock.start,
        "states": states,
    }
    return {**getattr(model, "metadata", {}), "streamrnn": json.dumps(own)}
