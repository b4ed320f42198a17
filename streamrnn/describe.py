"""What a model is, in numbers: for people who want to know what they have loaded."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from .graph import Node, Value
from .layer import Layer

__all__ = ["describe_model"]


def describe_model(model: Layer) -> dict[str, Any]:
    """Return what a model takes, makes, keeps and costs.

    Parameters
    ----------
    model : Layer
        A model, cell or layer.

    Returns
    -------
    dict
        ``inputs`` and ``outputs`` (name to shape and dtype of a frame), ``stride_frames``,
        ``delay_frames``, ``receptive_field_frames`` (None: everything so far), ``states`` (name to
        shape), ``state_begins`` (name to smallest and largest number at the beginning),
        ``state_bytes`` (of one stream), ``ops`` (kind to number), ``parameters``, ``weight_bytes``
        (one to four each), ``multiply_adds`` (of matrices) and ``bytes`` (weights read,
        states read and written), both for a frame of the input on average; and ``costs``: for each
        op its name, kind, output shape, ``parameters``, ``multiply_adds`` and ``bytes``. It can be
        written as JSON.
    """
    graph = model.graph()
    states = graph.states()
    ops = {id(node.op): node.op for node in graph.nodes}.values()  # a shared layer once
    return {
        "inputs": {name: _frame(value) for name, value in graph.inputs.items()},
        "outputs": {name: _frame(value) for name, value in graph.outputs.items()},
        "stride_frames": graph.clock.stride,
        "delay_frames": graph.delay_frames(),
        "receptive_field_frames": graph.receptive_field_frames(),
        "states": {name: list(shape) for name, shape in states.items()},
        "state_begins": {n: r for node in graph.nodes for n, r in _begins(node).items()},
        "state_bytes": 4 * sum(map(math.prod, states.values())),
        "ops": dict(Counter(type(node.op).__name__ for node in graph.nodes).most_common()),
        "parameters": sum(math.prod(s) for op in ops for s in op.parameter_shapes().values()),
        "weight_bytes": sum(op.stored_bytes() for op in ops),
        "multiply_adds": round(sum(map(_multiply_adds, graph.nodes))),
        "bytes": round(sum(map(_bytes, graph.nodes))),
        "costs": [
            {
                "name": node.name,
                "op": type(node.op).__name__,
                "shape": list(node.value.shape),
                "parameters": sum(map(math.prod, node.op.parameter_shapes().values())),
                "multiply_adds": _multiply_adds(node),
                "bytes": _bytes(node),
            }
            for node in graph.nodes
        ],
    }


def _frame(value: Value) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": value.dtype}


def _begins(node: Node) -> dict[str, list[float]]:
    """Return the smallest and the largest number that each state of an op begins with."""
    initial = node.op.initial_state
    found = {}
    for name in node.op.state_shapes(*(arg.shape for arg in node.args)):
        array = initial.get(name)
        ends = (0.0, 0.0) if array is None else (array.min(), array.max())
        found[node.full(name)] = [float(end) for end in ends]
    return found


def _bytes(node: Node) -> float:
    """Return the bytes of an op's weights and states that a frame of the input moves."""
    states = 4 * sum(map(math.prod, node.op.state_shapes(*(a.shape for a in node.args)).values()))
    return (node.op.stored_bytes() + 2 * states) / node.value.clock.stride


def _multiply_adds(node: Node) -> float:
    """Return the products of an op's matrices a frame of the model's input."""
    return node.op.multiply_adds(*(a.shape for a in node.args)) / node.value.clock.stride
