"""Rewriting of graphs before they are compiled: the same function in fewer ops."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .graph import Graph, Node, Value
from .ops.op import Op

__all__ = ["fold_batch_norm"]


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold every normalisation with fixed statistics into the linear op that feeds it.

    An op that states a scale and shift for each channel, or one for all (``scale_and_shift``: batch
    normalisation, affine, scale), and is the only reader of an op that can take one into its
    weights (``scaled``: linear, convolution, affine) disappears. The other ops keep their names.
    """
    if not any(
        getattr(node.op, "scale_and_shift", None) and getattr(node.args[0].op, "scaled", None)
        for node in graph.nodes
        if node.args
    ):
        return graph
    readers = Counter(id(arg) for node in graph.nodes for arg in node.args)
    readers.update(id(v) for v in (*graph.outputs.values(), *graph.feedback.values()))
    uses = Counter(id(node.op) for node in graph.nodes)
    new: dict[int, Value] = {id(v): v for v in graph.inputs.values()}
    changed = False
    for node in graph.nodes:
        args = tuple(new[id(a)] for a in node.args)
        before = args[0].op if args else None
        norm, linear = getattr(node.op, "scale_and_shift", None), getattr(before, "scaled", None)
        if before is not None and before.storage != "float32":
            linear = None  # a scale folded in would be rounded again
        weights = norm() if norm and linear else ()
        if weights and linear and before and _fits(node, before, weights[0].size, readers, uses):
            channels = args[0].shape[before.channel_axis or 0]
            op = linear(*(np.broadcast_to(w, channels) for w in weights))
            op.name, op.initial_state = before.name, before.initial_state
            new[id(node.value)] = op(*args[0].args)
            changed = True
            continue
        value = node.value
        new[id(value)] = Value(value.shape, value.clock, value.dtype, value.op, args)
    if not changed:
        return graph
    return Graph(
        graph.inputs,
        {name: new[id(v)] for name, v in graph.outputs.items()},
        {new[id(past)]: new[id(v)] for past, v in graph.feedback.items()},
    )


def _fits(node: Node, before: Op, channels: int, readers: Counter[int], uses: Counter[int]) -> bool:
    """Whether nothing else reads what the node reads, and the channels are the same axis.

    One channel stands for all.
    """
    value, axis = node.args[0], node.op.channel_axis
    once = readers[id(value)] == uses[id(value.op)] == uses[id(node.op)] == 1
    if not once or before.channel_axis is None:
        return False
    rank = len(value.shape)
    return channels == 1 or (axis is not None and before.channel_axis % rank == axis % rank)
