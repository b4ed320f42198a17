"""Operators that ONNX defines by others: written out with ONNX's own tools.

Many an operator is defined in ONNX by a function body. One that has no handler of its own is
replaced by this body, a few nodes that have one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, defs, helper
from onnx.inliner import inline_selected_functions

from ...graph import Shape
from .node import Unsupported

__all__ = ["written_out"]

_ELEMENTS = {"float": TensorProto.FLOAT, "int": TensorProto.INT64, "bool": TensorProto.BOOL}


def written_out(
    node: NodeProto, opset: int, shapes: Sequence[Shape | None], kinds: Sequence[str]
) -> tuple[list[NodeProto], int] | None:
    """Return the nodes that a node stands for and their operator set; None if it has no body.

    Parameters
    ----------
    node : NodeProto
        One of ONNX's own operators.
    opset : int
        The graph's operator set.
    shapes, kinds
        Shape (None where it is left out) and kind of each input.
    """
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    bodies = [*schema.function_opset_versions, *schema.context_dependent_function_opset_versions]
    later = [v for v in bodies if v > opset]  # the operator is the same in them all
    node = _with_defaults(node, schema)
    for version in (opset, *sorted(later)) if bodies else ():
        nodes = _inlined(node, version, shapes, kinds)
        if nodes:
            return nodes, version
    return None


def _with_defaults(node: NodeProto, schema: defs.OpSchema) -> NodeProto:
    """Return a node that says every attribute: a body cannot refer to one left unsaid."""
    full, said = NodeProto(), {a.name for a in node.attribute}
    full.CopyFrom(node)
    for name, attribute in schema.attributes.items():
        if name not in said and attribute.default_value.name:
            full.attribute.append(attribute.default_value)
    return full


def _inlined(
    node: NodeProto, opset: int, shapes: Sequence[Shape | None], kinds: Sequence[str]
) -> list[NodeProto]:
    inputs = {
        name: helper.make_tensor_value_info(name, _ELEMENTS[kind], shape)
        for name, shape, kind in zip(node.input, shapes, kinds, strict=True)
        if shape is not None
    }
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one", list(inputs.values()), outputs)
    if "" in node.input:  # the inliner asks for the type of what is left out as well
        graph.value_info.append(helper.make_tensor_value_info("", TensorProto.FLOAT, ()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        expanded = inline_selected_functions(
            model, [("", node.op_type)], exclude=False, inline_schema_functions=True
        )
    except RuntimeError as error:  # a type that onnx's tool cannot infer
        raise Unsupported(f"its definition in ONNX cannot be written out: {error}") from None
    nodes = list(expanded.graph.node)
    return [] if any(n.op_type == node.op_type for n in nodes) else nodes
