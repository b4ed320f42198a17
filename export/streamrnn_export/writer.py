"""Graphs altered node by node: what takes a node's place, shapes, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from .functions import all_nodes

__all__ = ["Writer", "attributes_of", "rename", "replace_content", "shapes_of"]

Array = npt.NDArray[Any]


@dataclass
class Writer:
    """Nodes that take the place of one node, and the initializers of the graph by name.

    Parameters
    ----------
    name : str
        Of the node; those of the new nodes begin with it.
    initializers : dict of str to onnx.TensorProto
        Those of the graph; new ones are added.
    """

    name: str
    initializers: dict[str, onnx.TensorProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def ops(self, kind: str, n_outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node and return its outputs."""
        name = f"{self.name}/{kind}_{len(self.nodes)}"
        outputs = [f"{name}:{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return it."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def constant(self, array: Array, name: str) -> str:
        """Add an initializer, unless it is there, and return its name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def array(self, name: str) -> Array:
        """Return the content of an initializer."""
        return np.asarray(numpy_helper.to_array(self.initializers[name]))

    def ints(self, *values: int) -> str:
        """Add an initializer of integers."""
        return self.constant(np.array(values, np.int64), f"int64_{'_'.join(map(str, values))}")

    def name_outputs(self, names: Mapping[str, str]) -> None:
        """Give values the names that the graph knows them by."""
        for node in self.nodes:
            for values in (node.input, node.output):
                values[:] = [names.get(v, v) for v in values]


def shapes_of(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each value where it is known; 0 stands for a size that is not."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    return {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.value_info, *inferred.input, *inferred.output)
    }


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def replace_content(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    initializers: Mapping[str, onnx.TensorProto],
) -> None:
    """Give a graph other nodes, and those of the initializers that they read."""
    read = {name for node in all_nodes(nodes) for name in node.input}
    tensors = [i for i in initializers.values() if i.name in read]
    for kept, new in ((graph.node, nodes), (graph.initializer, tensors)):
        copies = [type(item).FromString(item.SerializeToString()) for item in new]
        del kept[:]
        kept.extend(copies)


def rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    """Give values of a graph other names, in the bodies of its nodes too."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new.get(value.name, value.name)
    for node in all_nodes(list(graph.node)):
        for names in (node.input, node.output):
            names[:] = [new.get(n, n) for n in names]
