"""The nodes of an op as one: a function of the model, which tools show as a single node.

A function is named after the op's class and belongs to the domain ``streamrnn``. Ops that differ in
their weights alone share one; an op of a single node, or one that has a recurrent node of ONNX's
own, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import helper

from streamrnn.importers.onnx.restored import DOMAIN

from .recorder import OnnxRecorder
from .scope import Scope

__all__ = ["DOMAIN", "Functions", "all_nodes"]

NATIVE = frozenset({"RNN", "GRU", "LSTM"})
TAKEN = frozenset({"Constant"})
"""Names that onnxruntime takes for ONNX's own operators, whatever the domain."""


class Functions:
    """The functions of a model; `opset` is the operator set that they use."""

    def __init__(self, opset: int) -> None:
        self._imports = [helper.make_opsetid("", opset)]
        self._by_body: dict[bytes, onnx.FunctionProto] = {}
        self._counts: dict[str, int] = {}

    @property
    def protos(self) -> list[onnx.FunctionProto]:
        """The functions, in the order of their first use."""
        return list(self._by_body.values())

    def put(self, g: OnnxRecorder, scope: Scope, y: str) -> None:
        """Replace what an op has written by a call of a function."""
        nodes = scope.nodes
        single = len(nodes) < 2 and not any(_bodies(node) for node in nodes)
        native = any(node.op_type in NATIVE for node in nodes)
        if single or native or any(node.domain for node in all_nodes(nodes)):
            return
        made = {o for node in nodes for o in node.output}
        results = [n for n in dict.fromkeys([y, *scope.next_states.values()]) if n in made]
        free = list(dict.fromkeys(_free(nodes)))
        small = [n for n in free if n in g.unnamed and _is_setting(g.initializers[n])]
        given = [n for n in free if n not in small]
        body = [
            helper.make_node("Constant", [], [n], name=n, value=g.initializers[n]) for n in small
        ]
        for constant in body:  # its tensor is named after the graph's
            constant.attribute[0].t.name = ""
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            body.append(copy)
        new = _short_names([*given, *_names(body)], g.node.name)
        for node in body:
            _rename(node, new)
        function = helper.make_function(
            DOMAIN, "", [new[n] for n in given], [new[n] for n in results], body, self._imports
        )
        name = self._named(function, type(g.node.op).__name__)
        call = helper.make_node(name, given, results, name=g.node.name, domain=DOMAIN)
        scope.nodes = [call]

    def _named(self, function: onnx.FunctionProto, kind: str) -> str:
        """Return the name of the function: that of an equal one, or a new one."""
        key = kind.encode() + function.SerializeToString(deterministic=True)
        if key not in self._by_body:
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
            name = f"{kind}Value" if kind in TAKEN else kind
            function.name = name if count == 1 else f"{name}_{count}"
            self._by_body[key] = function
        return str(self._by_body[key].name)


def _is_setting(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is part of what a function does: no weights, which are its inputs."""
    return bool(tensor.data_type == onnx.TensorProto.INT64 or math.prod(tensor.dims) == 1)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def all_nodes(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those in the bodies among their attributes."""
    for node in nodes:
        yield node
        for body in _bodies(node):
            yield from all_nodes(list(body.node))


def _free(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    """Yield the names that nodes read and do not make."""
    made: set[str] = set()
    for node in nodes:
        yield from (n for n in node.input if n and n not in made)
        for body in _bodies(node):
            own = made | {i.name for i in body.input}
            yield from (n for n in _free(list(body.node)) if n not in own)
        made.update(node.output)


def _names(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    """Yield every name that nodes give to a value."""
    for node in nodes:
        for body in _bodies(node):
            yield from (i.name for i in body.input)
            yield from _names(list(body.node))
        yield from node.output


def _short_names(names: list[str], op: str) -> dict[str, str]:
    """Return new names without the op's, so that equal ops make equal functions."""
    new: dict[str, str] = {}
    for name in dict.fromkeys(names):
        own = name.startswith((f"{op}.", f"{op}/", f"{op}_in"))
        short = name[len(op) :].lstrip("./_") if own else "x"
        taken = set(new.values())
        new[name] = short if short not in taken else f"{short}_{len(new)}"
    return new


def _rename(node: onnx.NodeProto, new: dict[str, str]) -> None:
    node.input[:] = [new.get(n, n) for n in node.input]
    node.output[:] = [new.get(n, n) for n in node.output]
    node.name = node.output[0]
    for body in _bodies(node):
        body.name = f"{node.name}/body"
        for value in (*body.input, *body.output):
            value.name = new.get(value.name, value.name)
        for inner in body.node:
            _rename(inner, new)
