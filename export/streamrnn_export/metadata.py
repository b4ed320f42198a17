"""What is in the file beside the graph: docs/onnx-metadata.md describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

from streamrnn.graph import Graph, Value
from streamrnn.importers.onnx.restored import digest_of, groups_of
from streamrnn.importers.onnx.states import SCHEMA
from streamrnn.layer import Layer
from streamrnn.metadata import checked_metadata
from streamrnn.program import fingerprint
from streamrnn.version import VERSION

from .recorder import OnnxRecorder
from .scope import BATCH

__all__ = ["KEY", "put_layout", "put_metadata", "read_metadata"]

KEY = "streamrnn"


def put_metadata(
    proto: onnx.ModelProto,
    g: OnnxRecorder,
    model: Layer,
    form: str,
    notes: Mapping[str, Any] | None,
) -> None:
    """Write what a runtime must know beside the graph, and notes over the model's own.

    Notes stand in the entry ``streamrnn`` as they are, and under their own keys as texts.

    Raises
    ------
    ConfigError
        If the notes are not metadata (see :mod:`streamrnn.metadata`).
    """
    graph = model.graph()
    given = checked_metadata(notes, graph, "to_onnx")
    checked = checked_metadata({**getattr(model, "metadata", {}), **given}, graph, "to_onnx")
    own = {
        "schema": SCHEMA,
        "version": VERSION,
        "fingerprint": fingerprint(graph, [node.op.weights for node in graph.nodes]),
        "form": form,
        "batch": g.batch,
        "stride_frames": graph.clock.stride,
        "delay_frames": graph.clock.start,
        "receptive_field_frames": graph.receptive_field_frames(),
        "inputs": [_frame(name, value) for name, value in graph.inputs.items()],
        "outputs": [_frame(name, value) for name, value in graph.outputs.items()],
        "states": _states(g, graph),
        "metadata": checked,
    }
    if g.whole:
        own["ops"] = _whole_ops(proto, g)
    texts = {k: v if isinstance(v, str) else _json(v) for k, v in checked.items()}
    helper.set_model_props(proto, texts | {KEY: _json(own)})


def put_layout(proto: onnx.ModelProto, axes: Mapping[str, int | None]) -> None:
    """Say that inputs and outputs have another layout: the axis of time of each, and no streams."""
    own = read_metadata(proto)
    values = {v.name: v for v in (*proto.graph.input, *proto.graph.output)}
    for said in (*own["inputs"], *own["outputs"]):
        name = said["name"]
        dims = [d.dim_value for d in values[name].type.tensor_type.shape.dim]
        shape = [d for i, d in enumerate(dims) if i != axes[name]]
        said |= {"shape": shape, "time_axis": axes[name], "batch_axis": None}
    next(p for p in proto.metadata_props if p.key == KEY).value = _json(own)


def read_metadata(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return the entry ``streamrnn`` of a file of ours."""
    own: dict[str, Any] = json.loads({p.key: p.value for p in proto.metadata_props}[KEY])
    return own


def _whole_ops(proto: onnx.ModelProto, g: OnnxRecorder) -> dict[str, Any]:
    """Return the ops that can be read back whole, and a digest of the nodes of each."""
    nodes = groups_of(proto.graph, g.whole)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    functions = {function.name: function for function in proto.functions}
    return {
        name: {**entry, "digest": digest_of(entry, nodes[name], tensors, functions)}
        for name, entry in g.whole.items()
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _frame(name: str, value: Value) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": value.dtype,
        "shape": value.shape,
        "time_axis": 0,
        "batch_axis": 1,
    }


def _states(g: OnnxRecorder, graph: Graph) -> list[dict[str, Any]]:
    initial = {
        node.full(name): array.reshape(-1).tolist()
        for node in graph.nodes
        for name, array in node.op.initial_state.items()
    }
    shapes = graph.states()  # the counter of calls is no state of a stream
    return [
        {
            "name": name,
            "input": f"{name}_in",
            "output": f"{name}_out",
            "dtype": "float32",
            "shape": [None if d == BATCH else d for d in dims],
            "batch_axis": g.batch_axes.get(name),
            "stream_shape": shapes.get(name),
            "initial": initial.get(name, 0.0),
        }
        for name, dims in g.scope.states.items()
    ]
