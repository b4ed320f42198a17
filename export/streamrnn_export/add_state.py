"""A graph over sequences made into a step graph, for people who will run it elsewhere.

The graph is read as a model that keeps its state, and the model written as a step graph whose
inputs and outputs have the names and the layout of the original: a sequence's axis of time is as
long as the frames of one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from streamrnn.errors import ExportError
from streamrnn.graph import Shape
from streamrnn.importers.onnx import Reader, read_onnx
from streamrnn.layer import Model

from .metadata import put_layout
from .step import DEFAULT_OPSET, check_graph, check_tolerance, onnx_path, step_model, write_model
from .verify import SEED, Differences, ExportReport, StepSession, session_of

__all__ = ["add_state"]

Array = npt.NDArray[Any]

CHECKED_CALLS = 64
"""Calls of the step graph that are held against the original, beside those waited for."""


def add_state(
    source: str | Path,
    target: str | Path,
    *,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    constants: Mapping[str, Any] | None = None,
    opset: int = DEFAULT_OPSET,
    verify: bool = True,
    sequence: Mapping[str, Array] | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a graph over sequences as a step graph with states as inputs and outputs.

    Each call of the new graph takes the next frame (or S frames, where the output comes every S
    frames) and the states that the call before returned; the first call takes the initial states,
    which are in the metadata (zero, unless it says otherwise). A model that looks ahead returns the
    output of frame m later, with frame ``m + delay_frames``: the first ``delay_frames / S`` calls
    return nothing of meaning.

    Parameters
    ----------
    source : str or Path
        An ONNX graph over sequences: an open time axis, no states.
    target : str or Path
        Where to; nothing is left there if anything fails.
    shapes, constants
        As for ``streamrnn.load``: open shapes, with None for the time axis, and fixed inputs.
    opset : int
        Version of ONNX's operator set of the new graph, 13 to 24.
    verify : bool
        Whether both graphs are run in onnxruntime: the original over a whole sequence, the new one
        call by call.
    sequence : mapping of str to array, optional
        The inputs of the original to verify with; random ones (seeded) unless given.
    tolerance : float
        Largest error that is accepted, absolute below 1 and relative above.

    Returns
    -------
    ExportReport
        File, states and errors; printed, a table.

    Raises
    ------
    FileError
        If the source cannot be read, or cannot run frame by frame: the message names the node.
    ExportError
        If there is no state to add, the target does not end in ``.onnx`` or cannot be written,
        onnxruntime is not installed, or the two graphs do not compute the same.
    """
    check_tolerance(tolerance)
    target = onnx_path(target)
    model, reader = read_onnx(Path(source), shapes, constants)
    if not model.graph().states():
        raise ExportError(f"{source}: it has no state to add: nothing in it looks at other frames")
    if not reader.sequence:
        raise ExportError(
            f"{source}: no input has an open time axis; say which axis it is with "
            f"shapes={{{next(iter(reader.shapes))!r}: (1, None, …)}}"
        )
    proto = step_model(model, opset)
    _keep_layout(proto, model, reader)
    check_graph(proto, model)
    report = ExportReport(target, opset, proto)
    if verify:
        _verify(report, Path(source), model, reader, sequence, tolerance)
    write_model(report)
    return report


def _keep_layout(proto: onnx.ModelProto, model: Model, reader: Reader) -> None:
    """Give inputs and outputs the layout of the original around the step graph's own.

    Inside, they have shape (frames, streams, *frame).
    """
    graph, stride = proto.graph, model.graph().clock.stride
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for value in graph.input:
        if value.name in model.graph().inputs:
            axis, shape = reader.time_axes.get(value.name), reader.shapes[value.name]
            outer = _with_frames(shape, axis, stride)
            before += _relaid(graph, value, outer, axis, inwards=True)
    for value in graph.output:
        if value.name in model.graph().outputs:
            axis, shape = reader.output_axes[value.name], reader.output_shapes[value.name]
            after += _relaid(graph, value, _with_frames(shape, axis, 1), axis, inwards=False)
    inner = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *inner, *after])
    axes = {name: reader.time_axes.get(name) for name in model.graph().inputs}
    put_layout(proto, axes | {name: reader.output_axes[name] for name in model.graph().outputs})


def _with_frames(shape: Shape, axis: int | None, frames: int) -> Shape:
    return shape if axis is None else (*shape[:axis], frames, *shape[axis + 1 :])


def _relaid(
    graph: onnx.GraphProto,
    value: onnx.ValueInfoProto,
    shape: Shape,
    axis: int | None,
    inwards: bool,
) -> list[onnx.NodeProto]:
    """Rename an input or output inside, and return the nodes that make the one of the other."""
    name, own = value.name, [d.dim_value for d in value.type.tensor_type.shape.dim]
    inside = f"{name}/frames"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inside if n == name else n for n in names]
    value.CopyFrom(
        helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, list(shape))
    )
    time_first = list(range(len(shape)))
    if axis is not None:
        time_first.insert(0, time_first.pop(axis))
    turned = [shape[i] for i in time_first]
    wanted = own if inwards else turned
    if math.prod(own) != math.prod(shape):
        raise ExportError(f"{name!r} of shape {list(shape)} has no time axis, but frames {own}")
    graph.initializer.append(numpy_helper.from_array(np.array(wanted, np.int64), f"{name}/shape"))
    first, last = (name, inside) if inwards else (inside, name)
    turns = time_first != list(range(len(shape)))
    middle = f"{name}/turned" if turns else first if inwards else last
    back = [time_first.index(i) for i in range(len(shape))]
    turn = (first, middle, time_first) if inwards else (middle, last, back)
    reshape = (middle, last) if inwards else (first, middle)
    nodes = [
        helper.make_node("Reshape", [reshape[0], f"{name}/shape"], [reshape[1]], f"{name}/reshape")
    ]
    if turns:
        turned = helper.make_node("Transpose", [turn[0]], [turn[1]], f"{name}/turn", perm=turn[2])
        nodes.insert(0 if inwards else 1, turned)
    return nodes


def _verify(
    report: ExportReport,
    source: Path,
    model: Model,
    reader: Reader,
    sequence: Mapping[str, Array] | None,
    tolerance: float,
) -> None:
    """Run the original over a whole sequence and the new graph call by call."""
    clock = model.graph().clock
    waited = clock.start // clock.stride
    length = reader.fixed_length or (waited + CHECKED_CALLS) * clock.stride
    feeds = (
        reader.random_sequence(model, length, SEED)
        if sequence is None
        else _checked(sequence, reader, model)
    )
    lengths = {np.shape(feeds[n])[axis] for n, axis in reader.time_axes.items()}
    if len(lengths) > 1:
        raise ExportError(f"the inputs to verify with have different lengths: {sorted(lengths)}")
    if max(lengths) // clock.stride <= waited:
        raise ExportError(
            f"{max(lengths)} frames to verify with give no output: it takes more than "
            f"{waited * clock.stride}"
        )
    names = list(reader.output_axes)
    original = session_of(source, "the original")
    whole = dict(zip(names, original(names, {**reader.constants, **feeds}), strict=True))
    step = StepSession(report.proto)
    differences = Differences(names)
    calls = lengths.pop() // clock.stride
    results: dict[str, list[Array]] = {name: [] for name in names}
    for call in range(calls):
        part = {
            name: _frames(x, reader.time_axes.get(name), call * clock.stride, clock.stride)
            for name, x in feeds.items()
            if name in model.graph().inputs
        }
        for name, value in step(part).items():
            if name in results and call >= waited:
                results[name].append(value)
    for name in names:
        axis = reader.output_axes[name]
        if axis is None:
            differences.add(name, results[name][-1], whole[name])
            continue
        got = np.concatenate(results[name], axis)
        n = min(got.shape[axis], whole[name].shape[axis])
        differences.add(name, _frames(got, axis, 0, n), _frames(whole[name], axis, 0, n))
    differences.into(report, calls * clock.stride, tolerance, "from the original over a sequence")


def _checked(sequence: Mapping[str, Array], reader: Reader, model: Model) -> dict[str, Array]:
    """Return the user's sequence; raise ExportError unless it holds each input, in its shape."""
    wanted = [name for name in reader.shapes if name in model.graph().inputs]
    if not isinstance(sequence, Mapping) or set(sequence) != set(wanted):
        given = ", ".join(sequence) if isinstance(sequence, Mapping) else type(sequence).__name__
        raise ExportError(
            f"`sequence` must be a mapping with an array for each input ({', '.join(wanted)}), "
            f"got {given or 'an empty one'}"
        )
    for name in wanted:
        x, axis, shape = np.asarray(sequence[name]), reader.time_axes.get(name), reader.shapes[name]
        fits = x.ndim == len(shape) and all(
            i == axis or d == n for i, (d, n) in enumerate(zip(x.shape, shape, strict=True))
        )
        if not fits or x.dtype.kind not in "fiu" or not np.isfinite(x).all():
            expected = ", ".join("T" if i == axis else str(d) for i, d in enumerate(shape))
            raise ExportError(
                f"`sequence`: {name!r} must be finite numbers of shape ({expected}), got "
                f"{x.dtype} {x.shape}"
            )
    return {name: np.asarray(sequence[name]) for name in wanted}


def _frames(x: Array, axis: int | None, first: int, n: int) -> Array:
    return x if axis is None else np.take(x, range(first, first + n), axis)
