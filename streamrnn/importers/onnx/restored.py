"""Ops of our own exports that take several nodes, read as the ops that wrote them.

The metadata (``ops``) says the op and its arguments, what it reads and makes, and a digest of its
nodes and their constants. Where these are as they were written, the op is read, to the last bit;
where a tool has changed them, they are read like any other nodes. So they are where another node
reads what lies between them, which an op does not make.

A weight need not be one constant: int8 products read theirs transposed, gates by themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from ...graph import Shape
from ...ops import REGISTRY, Op
from .known import stored, subgraphs
from .node import Unsupported, reshaped, symbol
from .states import begins_with

__all__ = [
    "DOMAIN",
    "Restored",
    "digest_of",
    "group_of",
    "groups_of",
    "names_read",
    "restored_ops",
    "whereabouts",
]

DOMAIN = "streamrnn"
"""Of functions that hold the nodes of an op."""

Array = npt.NDArray[Any]


def group_of(node: NodeProto) -> str:
    """Return the name of the op that has written a node: ``deltas_0`` of ``deltas_0/Sub_3``."""
    name: str = node.name if node.domain == DOMAIN else node.name.rpartition("/")[0]
    return name


def groups_of(graph: GraphProto, names: Iterable[str]) -> dict[str, list[NodeProto]]:
    """Return the nodes of each of these ops."""
    groups: dict[str, list[NodeProto]] = {name: [] for name in names}
    for node in graph.node:
        if group_of(node) in groups:
            groups[group_of(node)].append(node)
    return groups


def names_read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield what nodes read, and the nodes in their bodies."""
    for node in nodes:
        yield from node.input
        for body in subgraphs(node):
            yield from names_read(body.node)
            yield from (output.name for output in body.output)


def digest_of(
    entry: Mapping[str, Any],
    nodes: Iterable[NodeProto],
    tensors: Mapping[str, TensorProto],
    functions: Mapping[str, FunctionProto],
) -> str:
    """Return the hash of what is said of an op, its nodes and the constants that they read."""
    said = {key: value for key, value in entry.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    parts: list[NodeProto | FunctionProto | TensorProto] = [*nodes]
    parts += [functions[n.op_type] for n in nodes if n.domain == DOMAIN and n.op_type in functions]
    parts += [tensors[name] for name in dict.fromkeys(names_read(nodes)) if name in tensors]
    for part in parts:
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()


def whereabouts(weight: Array, tensors: Mapping[str, Array]) -> dict[str, Any] | None:
    """Return which constants hold the rows of a weight, one after another; None if none do.

    They are as they stand, or all transposed. The longest comes first: a part of a weight may be
    another constant as well.
    """
    longest = sorted(tensors, key=lambda name: -tensors[name].size)
    rows = weight.reshape(len(weight), -1) if weight.size else np.empty((0, 1))
    for transposed in (False, True):
        found: list[str] = []
        row = 0
        while row < len(rows):
            for name in longest:
                n, rest = divmod(tensors[name].size, rows.shape[1])
                turned = tensors[name].T if transposed else tensors[name]
                if n and not rest and _same(turned, rows[row : row + n]):
                    found.append(name)
                    row += n
                    break
            else:
                break
        if found and row == len(rows):
            return {"tensors": found, "transposed": transposed}
    return None


def _same(tensor: Array, rows: Array) -> bool:
    """Whether a constant is these rows, bit for bit; the first number tells most of them apart."""
    if tensor.size != rows.size or _as(tensor.flat[:1], rows).tobytes() != rows.flat[:1].tobytes():
        return False
    return _as(tensor, rows).tobytes() == rows.tobytes()


def _as(tensor: Array, weight: Array) -> Array:
    """Return a constant in the type of a weight: int8 ones may be stored as float32."""
    with np.errstate(invalid="ignore"):
        return tensor.astype(weight.dtype)


@dataclass
class Restored:
    """An op, the values that it reads and makes, and its states' inputs in the graph."""

    op: Op
    reads: list[str]
    makes: str
    states: dict[str, str]
    done: bool = False

    def run(self, values: dict[str, Any]) -> None:
        """Put what the op makes among the values, once it can be made."""
        if self.done or any(name not in values for name in self.reads):
            return
        args = []
        for name in self.reads:
            x = symbol(values[name])
            if x.shape[:2] != (1, 1):
                raise Unsupported(f"{self.op.name}: the metadata says that it reads {name!r}")
            args.append(reshaped(x, x.shape[2:]))
        y = self.op(*args)
        values[self.makes] = reshaped(y, (1, 1, *y.shape))
        self.done = True


def restored_ops(proto: ModelProto, own: Mapping[str, Any], folder: Path) -> dict[str, Restored]:
    """Return the ops whose nodes are as they were written, by name.

    Raises
    ------
    Unsupported
        If the metadata names an op that does not exist, or arguments that it does not take.
    """
    said = own.get("ops", {})
    if not said:
        return {}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    functions = {function.name: function for function in proto.functions}
    groups = groups_of(proto.graph, said)
    readers: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for value in names_read([node]):
            readers.setdefault(value, []).append(node)
    given = {output.name for output in proto.graph.output}
    found = {}
    for name, entry in said.items():
        if digest_of(entry, groups[name], tensors, functions) != entry["digest"]:
            continue
        read = set(names_read(groups[name]))
        states = [s for s in own["states"] if s["name"].startswith(f"{name}.")]
        states = [s for s in states if s["input"] in read]
        after = {s["output"] for s in states}
        inside = {o for node in groups[name] for o in node.output} - {entry["makes"]}
        around = [n for v in inside | {s["input"] for s in states} for n in readers.get(v, [])]
        others = [n for n in around if group_of(n) != name and not after.issuperset(n.output)]
        if others or (inside - after) & given:
            continue
        op = _op(name, entry)
        shapes = op.parameter_shapes()
        op.weights = {
            n: _weight(where, shapes[n], n, tensors, folder)
            for n, where in entry["weights"].items()
        }
        op.initial_state = {
            s["name"].removeprefix(f"{name}."): begins_with(
                {**s, "batch_axis": None}, tuple(s["stream_shape"])
            )
            for s in states
            if isinstance(s["initial"], list)
        }
        found[name] = Restored(
            op, entry["reads"], entry["makes"], {s["input"]: s["output"] for s in states}
        )
    return found


def _op(name: str, entry: Mapping[str, Any]) -> Op:
    """Return an op as the metadata says it, without its weights."""
    kind = entry["op"]
    if kind not in REGISTRY:
        raise Unsupported(f"the metadata says that {name!r} is of the unknown kind {kind!r}")
    config: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in entry["config"].items()
    }
    try:
        return REGISTRY[kind](name=name, **config)
    except TypeError as error:
        raise Unsupported(f"the metadata says of {name!r}: {error}") from None


def _weight(
    where: Mapping[str, Any],
    shape: Shape,
    name: str,
    tensors: Mapping[str, TensorProto],
    folder: Path,
) -> Array:
    """Return a weight from the constants that hold it."""
    arrays = [stored(tensors[n], folder) for n in where["tensors"]]
    parts = [(a.T if where["transposed"] else a).reshape(-1) for a in arrays]
    dtype = np.int8 if name.endswith("_int8") else np.float32
    return np.concatenate(parts).astype(dtype).reshape(shape)
