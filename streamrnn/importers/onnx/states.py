"""Which state output of an ONNX graph feeds which state input."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from ...errors import FileError
from ...graph import Shape

__all__ = [
    "SCHEMA",
    "Pairs",
    "begins_with",
    "cut_to_one_call",
    "own_metadata",
    "state_pairs",
]

SCHEMA = 1
"""Of the metadata of our own exports; docs/onnx-metadata.md describes it."""
_PREFIXES = "cur|current|final|in|init|initial|input|last|new|next|old|out|output|past|present|prev"
_MARKS = re.compile(
    rf"^({_PREFIXES}|previous|updated)_|_?(in|input|init|new|next|old|out|output|past|prev|n)$"
)
_FIRST = re.compile(r"_?[0n]$")


def _base(name: str) -> str:
    """Return a name without what says that it comes in or goes out: ``h`` of ``h_in``, ``hn``."""
    before = ""
    while before != name:
        before, name = name, _MARKS.sub("", name) or name
    return name.lower().removesuffix("n") if name.endswith("N") else name.lower()


class Pairs(dict[str, str]):
    """State inputs with the outputs that feed them, and what told so."""

    def __init__(self, pairs: Mapping[str, str], told_by: str) -> None:
        super().__init__(pairs)
        self.told_by = dict.fromkeys(pairs, told_by)

    def pair(self, name: str, output: str, told_by: str) -> None:
        """Add a pair."""
        self[name], self.told_by[name] = output, told_by


def state_pairs(graph: GraphProto, own: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Pairs:
    """Return which state output feeds which state input.

    In this order: as the metadata of our own exports says; inputs and outputs whose names differ
    only in what marks them as in and out (``h`` and ``hn``, ``state`` and ``stateN``, ``*_in`` and
    ``*_out``, ``past_*`` and ``present_*``, ``h0`` and ``hn``), but not the first input and the
    first output, which may be ``audio_in`` and ``audio_out``; where a recurrent node begins with
    the one and ends with the other; of the rest, but the first of each, an input and an output that
    are alone with their shape.
    """
    outputs = {o.name: _fixed_dims(o) for o in graph.output}
    if own:
        return Pairs({s["input"]: s["output"] for s in own.get("states", [])}, "metadata")
    pairs = Pairs({}, "")
    first = next(iter(shapes), ""), next(iter(outputs), "")
    for base in (_base, lambda name: _FIRST.sub("", name.lower())):
        for name, shape in shapes.items():
            same = [
                o
                for o, dims in outputs.items()
                if o not in pairs.values() and base(o) == base(name) and _may_be(dims, shape)
                if (name, o) != first
            ]
            if name not in pairs and len(same) == 1:
                pairs.pair(name, same[0], "names")
    unpaired = any(name not in pairs for name in list(shapes)[1:])
    for name, output in _flows(graph).items() if unpaired else ():
        if name in shapes and name not in pairs and output not in pairs.values():
            pairs.pair(name, output, "data flow")
    rest_in = [n for n in list(shapes)[1:] if n not in pairs]
    rest_out = [o for o in list(outputs)[1:] if o not in pairs.values()]
    for name in rest_in:
        fit = [o for o in rest_out if _may_be(outputs[o], shapes[name])]
        rivals = [n for n in rest_in if shapes[n] == shapes[name]]
        if len(fit) == 1 and len(rivals) == 1:
            pairs.pair(name, fit[0], "shape")
        elif fit:
            raise FileError(
                f"inputs {', '.join(rivals)} may be fed by any of the outputs {', '.join(fit)}: "
                f"say which with states={{{name!r}: …}}"
            )
    return pairs


_MOVES = "Cast Concat Expand Flatten Gather Identity Reshape Slice Split Squeeze Transpose"
_MOVING = frozenset([*_MOVES.split(), "Unsqueeze"])
"""Operators through which a state is followed to the recurrent node that has it."""
_HELD = {
    "RNN": ((5, 1),),
    "GRU": ((5, 1),),
    "LSTM": ((5, 1), (6, 2)),
    "DynamicQuantizeLSTM": ((5, 1), (6, 2)),
}
"""Recurrent operators: at which of its inputs a state comes in, and at which output it goes out."""


def _flows(graph: GraphProto) -> dict[str, str]:
    """Return inputs with which a recurrent node begins, and the outputs in which it ends."""
    maker = {o: node for node in graph.node for o in node.output if o}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in filter(None, node.input):
            readers.setdefault(name, []).append(node)
    inputs, outputs = {v.name for v in graph.input}, {v.name for v in graph.output}
    found: dict[str, set[str]] = {}
    for node in graph.node:
        for i, o in _HELD.get(node.op_type, ()):
            if len(node.input) <= i or len(node.output) <= o:
                continue
            before = _reached(node.input[i], lambda n: _sources(maker.get(n)), inputs)
            after = _reached(node.output[o], lambda n: _results(readers.get(n, [])), outputs)
            if len(before) == 1:
                found.setdefault(before.pop(), set()).update(after)
    return {name: ends.pop() for name, ends in found.items() if len(ends) == 1}


def _sources(node: NodeProto | None) -> Iterable[str]:
    return node.input[:] if node is not None and node.op_type in _MOVING else ()


def _results(nodes: Iterable[NodeProto]) -> Iterable[str]:
    return [o for node in nodes if node.op_type in _MOVING for o in node.output]


def _reached(start: str, step: Callable[[str], Iterable[str]], ends: set[str]) -> set[str]:
    """Return which of `ends` are met from a name on, going as `step` says."""
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name and name not in seen:
            seen.add(name)
            todo.extend(step(name))
    return seen & ends


def own_metadata(proto: ModelProto) -> dict[str, Any]:
    """Return what the metadata of our own exports says beside the graph."""
    for prop in proto.metadata_props:
        if prop.key == "streamrnn":
            found = json.loads(prop.value)
            if not isinstance(found, dict):
                raise FileError(f"the metadata `streamrnn` is no object: {prop.value[:40]!r}")
            if found.get("schema", SCHEMA) != SCHEMA:
                raise FileError(
                    f"the metadata `streamrnn` has schema {found['schema']!r}, this version of "
                    f"streamrnn reads {SCHEMA}: update streamrnn"
                )
            return found
    return {}


def begins_with(state: Mapping[str, Any], shape: Shape) -> npt.NDArray[np.float32]:
    """Return what a state of our own exports begins with, the same for every stream."""
    axis = state.get("batch_axis")
    one = [1 if i == axis else d for i, d in enumerate(shape)]
    given = np.array(state["initial"], np.float32)
    if given.size not in (1, math.prod(one)):
        raise FileError(
            f"the metadata says that the state {state['name']!r} begins with {given.size} numbers, "
            f"expected one or the {math.prod(one)} of its shape {tuple(one)}"
        )
    made = np.empty(shape, np.float32)
    made[...] = given if given.size == 1 else given.reshape(one)
    return made


def cut_to_one_call(graph: GraphProto, own: Mapping[str, Any]) -> None:
    """Make a sequence graph of our own exports one for the frames of a single output.

    It has the states of the step graph, so it is then nothing else.
    """
    if own.get("form") != "sequence":
        return
    lengths = {"frames": int(own["stride_frames"]), "output_frames": 1}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in lengths:
                dim.dim_value = lengths[dim.dim_param]


def _fixed_dims(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """Return the dimensions, None where they are open; None if the file does not say any."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
    ]


def _may_be(dims: list[int | None] | None, shape: Shape) -> bool:
    """Whether an output of these dimensions (None is open) may have this shape."""
    if dims is None:
        return True
    pairs = zip(dims, shape, strict=False)
    return len(dims) == len(shape) and all(d is None or d == s or s == 1 for d, s in pairs)
