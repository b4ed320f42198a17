"""A model as an ONNX graph in two forms, with the same states.

The *step graph* takes one frame and every state, and returns the output and every state. A model
whose output is slower than its input (``stride_frames`` = S > 1) takes S frames a call. The
*sequence graph* takes any number of frames, a multiple of S, and every state as it is before them.

All values have shape (frames, streams, *frame); the states' names end in ``_in`` and ``_out``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from streamrnn.errors import ConfigError, ExportError
from streamrnn.files import written_whole
from streamrnn.graph import Graph, describe
from streamrnn.layer import Layer
from streamrnn.rewrite import fold_batch_norm
from streamrnn.version import VERSION

from .forms import record
from .functions import DOMAIN, Functions, all_nodes
from .metadata import put_metadata
from .opinion import second_opinion
from .quantize import Quantization, quantized
from .recorder import OnnxRecorder
from .scope import Scope, tensor_info
from .verify import ExportReport, checked_frames, verify_sequence, verify_step

__all__ = [
    "DEFAULT_OPSET",
    "FORMS",
    "MAX_OPSET",
    "MIN_OPSET",
    "check_graph",
    "onnx_path",
    "sequence_model",
    "step_model",
    "to_onnx",
    "write_model",
]

FORMS = ("step", "sequence")
DEFAULT_OPSET, MIN_OPSET, MAX_OPSET = 17, 13, 24
# The first version of ONNX's file format that came with each operator set; 8 brought functions.
IR_VERSION = {
    13: 7,
    14: 7,
    15: 8,
    16: 8,
    17: 8,
    18: 8,
    19: 9,
    20: 9,
    21: 10,
    22: 10,
    23: 11,
    24: 12,
}
FUNCTIONS_IR = 8
MAX_BYTES = (1 << 31) - (1 << 20)


def to_onnx(
    model: Layer,
    path: str | Path,
    *,
    form: str = "step",
    batch: int | None = 1,
    opset: int = DEFAULT_OPSET,
    functions: bool = False,
    metadata: Mapping[str, Any] | None = None,
    verify: bool = True,
    frames: Any = None,
    tolerance: float = 1e-4,
    quantize: str | Quantization | None = None,
    calibration: Any = None,
) -> ExportReport:
    """Write a model as an ONNX graph, and check that it computes the same.

    Both forms have the same states, in the same layout: the first call takes the initial states,
    which are in the metadata, each further one those that the call before returned, and a stream
    may change from one form to the other between calls. How a sequence is cut changes nothing but
    rounding. Output m, counted over all calls, comes with the input frames from ``m *
    stride_frames`` on. A model that looks ahead is late: its first D = ``delay_frames //
    stride_frames`` outputs mean nothing, and output m describes input frame ``(m - D) *
    stride_frames``. No state takes anything from frames that mean nothing.

    Parameters
    ----------
    model : Layer
        A model, cell or layer.
    path : str or Path
        Where to; nothing is left there if the export fails.
    form : str
        ``"step"``: a call takes ``stride_frames`` frames and returns one output. ``"sequence"``: it
        takes T frames, a positive multiple of ``stride_frames``, on an open axis ``frames``.
    batch : int or None
        Streams side by side, each with a state of its own; None leaves an open axis ``batch``.
    opset : int
        Version of ONNX's operator set, 13 to 24. The default runs on onnxruntime 1.12 and later.
    functions : bool
        Whether an op that takes several nodes becomes a function of the model, in the domain
        ``streamrnn``, which tools show as one node. Native RNN, GRU and LSTM nodes stay.
    metadata : dict, optional
        Notes for whoever runs the file, over those of the model; see :mod:`streamrnn.metadata`.
    verify : bool
        Whether to run the graph in onnxruntime beside the model's own stream, with the states fed
        back: call by call, or a sequence as a whole and in chunks; several streams where the graph
        takes them.
    frames : float32 [shape=(T, *frame shape)] or tuple, optional
        What to verify with; 64 random outputs' worth (seeded) unless given.
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
    ConfigError
        If the metadata cannot be written as JSON, or a key that has a meaning has another content;
        if there is no such quantisation, or a calibration but nothing to do with it.
    FrameError
        If the frames to verify with do not fit the model, or are not finite.
    ExportError
        If an argument is out of range, the model has no form in the opset or is over 2 GiB, the
        path does not end in ``.onnx`` or cannot be written, onnxruntime is not installed, or the
        graph does not compute the same. If it cannot be quantised, or the calibration is missing or
        does not fit.
    """
    if quantize is None and calibration is not None:
        raise ConfigError("`calibration` is for a quantised export: pass `quantize` as well")
    if quantize is not None and (form, batch, functions) != ("step", 1, False):
        raise ConfigError(
            f"quantised are step graphs of one stream without functions, got form={form!r}, "
            f"batch={batch}, functions={functions}"
        )
    check_tolerance(tolerance)
    path = onnx_path(path)
    proto = _built(model, form, batch, opset, functions, metadata)
    check_graph(proto, model)
    report = ExportReport(path, opset, proto)
    if verify:
        (verify_step if form == "step" else verify_sequence)(report, model, frames, tolerance)
        report.opinion = second_opinion(proto, model, checked_frames(model, frames), tolerance)
    if quantize is not None:
        report.proto, report.quantization = quantized(proto, model, quantize, calibration)
    write_model(report)
    return report


def onnx_path(path: str | Path) -> Path:
    """Return where to write a graph; raise ExportError unless ``load`` would take it for one."""
    try:
        target = Path(path)
    except TypeError:
        raise ExportError(f"expected a path, got {describe(path)}") from None
    if target.suffix != ".onnx":
        raise ExportError(
            f"cannot export to {target}: the name must end in .onnx"
            + (": `model.save` writes .safetensors" if target.suffix == ".safetensors" else "")
        )
    return target


def check_graph(proto: onnx.ModelProto, model: Layer) -> None:
    """Raise ExportError unless onnx's checker and its strict type inference accept the graph."""
    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{model!r}: onnx.checker refuses the graph: {error}") from None


def write_model(report: ExportReport) -> None:
    """Write the file that a report is about; it appears whole or not at all."""
    try:
        with written_whole(report.path) as temporary:
            temporary.write_bytes(report.proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise ExportError(f"cannot write {report.path}: {error.strerror or error}") from None


def step_model(model: Layer, opset: int = DEFAULT_OPSET, batch: int | None = 1) -> onnx.ModelProto:
    """Return the step graph of a model, unchecked."""
    return _built(model, "step", batch, opset)


def sequence_model(
    model: Layer, opset: int = DEFAULT_OPSET, batch: int | None = 1
) -> onnx.ModelProto:
    """Return the sequence graph of a model, unchecked."""
    return _built(model, "sequence", batch, opset)


def _built(
    model: Layer,
    form: str,
    batch: int | None,
    opset: int,
    functions: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    _check_arguments(model, form, batch, opset)
    graph = fold_batch_norm(model.graph())  # as the program does: the same numbers
    stride = graph.clock.stride
    step = form == "step"
    g = OnnxRecorder(
        opset,
        Scope(stride if step else None, stride),
        batch,
        next(iter(graph.inputs.items())),
        {*graph.inputs, *graph.outputs},
    )
    made = Functions(opset) if functions else None
    outputs = record(g, graph, made)
    _check_names(model, graph, g.scope.states)
    new = _name_outputs(g.scope, outputs | {f"{n}_out": v for n, v in g.scope.next_states.items()})
    taken: int | str = stride if step else "frames"
    given: int | str = 1 if step else "frames" if stride == 1 else "output_frames"
    states = g.scope.states.items()
    inputs = [
        tensor_info(n, v.dtype, (taken, g.batch_dim, *v.shape)) for n, v in graph.inputs.items()
    ]
    inputs += [tensor_info(f"{n}_in", "float32", dims) for n, dims in states]
    results = [
        tensor_info(n, v.dtype, (given, g.batch_dim, *v.shape)) for n, v in graph.outputs.items()
    ]
    results += [tensor_info(f"{n}_out", "float32", dims) for n, dims in states]
    read = set(_read(g.scope.nodes))
    initializers = [tensor for name, tensor in g.initializers.items() if name in read]
    called = made.protos if made else []
    domains = {node.domain for node in all_nodes(g.scope.nodes)} - {"", DOMAIN}
    foreign = dict.fromkeys(sorted(domains), 1)
    proto = helper.make_model(
        helper.make_graph(g.scope.nodes, form, inputs, results, initializers),
        opset_imports=[helper.make_opsetid(d, v) for d, v in {"": opset, **foreign}.items()],
        ir_version=max(IR_VERSION[opset], FUNCTIONS_IR if called else 0),
        producer_name="streamrnn",
        producer_version=VERSION,
        functions=called,
    )
    if called:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    for entry in g.whole.values():
        entry["reads"] = [new.get(n, n) for n in entry["reads"]]
        entry["makes"] = new.get(entry["makes"], entry["makes"])
    put_metadata(proto, g, model, form, metadata)
    return proto


def check_tolerance(tolerance: float) -> None:
    """Raise ExportError unless an error can be held against it."""
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < float("inf"):
        raise ExportError(f"tolerance must be a finite number of at least 0, got {tolerance!r}")


def _check_arguments(model: Layer, form: str, batch: int | None, opset: int) -> None:
    if form not in FORMS:
        raise ExportError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}")
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise ExportError(
            f"batch must be a positive number of streams, or None to leave it open, got {batch!r}"
        )
    newest = min(MAX_OPSET, onnx.defs.onnx_opset_version())
    if not isinstance(opset, int) or opset not in range(MIN_OPSET, newest + 1):
        raise ExportError(
            f"opset must be from {MIN_OPSET} to {newest}, got {opset}"
            + (f" (onnx {onnx.__version__} is too old for it)" if newest < MAX_OPSET else "")
        )
    size = 4 * sum(a.size for node in model.graph().nodes for a in node.op.weights.values())
    if size > MAX_BYTES:
        raise ExportError(
            f"{model!r}: {size / 2**30:.1f} GiB of weights; a file holds at most 2 GiB: make the "
            f"model smaller, or export its parts"
        )


def _check_names(model: Layer, graph: Graph, states: Collection[str]) -> None:
    """Raise ExportError where an input or output has no name, or that of a state's."""
    sides = [f"{state}{end}" for state in states for end in ("_in", "_out")]
    for way, names in (("input", graph.inputs), ("output", graph.outputs)):
        for name in names:
            if not name:
                raise ExportError(f"{model!r}: an {way} is called '': ONNX wants a name")
            if name in sides:
                raise ExportError(
                    f"{model!r}: its {way} is called {name!r}, as the graph calls a state on its "
                    f"way in or out: give the {way} or the layer another name"
                )


def _name_outputs(scope: Scope, outputs: Mapping[str, str]) -> dict[str, str]:
    """Give values the names under which the graph returns them; return the new names."""
    made = {o for node in scope.nodes for o in node.output}
    new: dict[str, str] = {}
    for name, value in outputs.items():
        if value in made and value not in new:
            new[value] = name
        else:  # an input handed on, or a value that is returned twice
            source = new.get(value, value)
            scope.nodes.append(helper.make_node("Identity", [source], [name], name=f"{name}:copy"))
    _rename(scope.nodes, new)
    return new


def _rename(nodes: Any, new: Mapping[str, str]) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [new.get(n, n) for n in names]
        for attribute in node.attribute:
            _rename(attribute.g.node, new)


def _read(nodes: Any) -> Iterator[str]:
    """Yield every name that nodes read, those in bodies among them."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g.node)
