"""What a model is, in numbers: for people who want to know what they have loaded."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from .graph import Graph, Node, Value
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
        shape), ``state_bytes`` (of one stream), ``ops`` (kind to number), ``parameters``,
        ``weight_bytes`` and ``multiply_adds`` (a frame of the input, on average). It can be written
        as JSON.
    """
    graph = model.graph()
    states = graph.states()
    weights = _weights(graph)
    return {
        "inputs": {name: _frame(value) for name, value in graph.inputs.items()},
        "outputs": {name: _frame(value) for name, value in graph.outputs.items()},
        "stride_frames": graph.clock.stride,
        "delay_frames": graph.delay_frames(),
        "receptive_field_frames": graph.receptive_field_frames(),
        "states": {name: list(shape) for name, shape in states.items()},
        "state_bytes": 4 * sum(map(math.prod, states.values())),
        "ops": dict(Counter(type(node.op).__name__ for node in graph.nodes).most_common()),
        "parameters": weights,
        "weight_bytes": 4 * weights,
        "multiply_adds": round(sum(map(_multiply_adds, graph.nodes))),
    }


def _frame(value: Value) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": value.dtype}


def _weights(graph: Graph) -> int:
    """Return how many numbers the weights hold; a layer that is used twice has them once."""
    ops = {id(node.op): node.op for node in graph.nodes}.values()
    return sum(math.prod(shape) for op in ops for shape in op.parameter_shapes().values())


def _multiply_adds(node: Node) -> float:
    """Return the products of an op's matrices a frame of the model's input.

    A matrix is applied as often as its rows fit into the output: a convolution at every position.
    """
    if not node.args or node.op.index_limit:
        return 0.0
    total = 0
    for shape in node.op.parameter_shapes().values():
        if len(shape) > 1:
            total += math.prod(shape) * max(1, node.value.size // shape[0])
    return total / node.value.clock.stride
