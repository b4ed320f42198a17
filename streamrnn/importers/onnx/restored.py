"""Ops of our own exports that take several nodes, read as the ops that wrote them.

The metadata (``ops``) says the op and its arguments, what it reads and makes, and a digest of its
nodes and their constants. Where these are as they were written, the op is read, to the last bit;
where a tool has changed them, they are read like any other nodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from ...ops import REGISTRY, Op
from .known import stored
from .node import Unsupported, reshaped, symbol
from .states import own_metadata

__all__ = ["Restored", "digest_of", "group_of", "restored_ops"]


def group_of(node: NodeProto) -> str:
    """Return the name of the op that has written a node: ``deltas_0`` of ``deltas_0/Sub_3``."""
    name: str = node.name.rpartition("/")[0]
    return name


def digest_of(
    entry: Mapping[str, Any], nodes: Iterable[NodeProto], initializers: Mapping[str, TensorProto]
) -> str:
    """Return the hash of what is said of an op, its nodes and the constants that they read."""
    said = {key: value for key, value in entry.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    read: dict[str, None] = {}
    for node in nodes:
        digest.update(node.SerializeToString(deterministic=True))
        read |= dict.fromkeys(node.input)
    for name in read:
        if name in initializers:
            digest.update(initializers[name].SerializeToString(deterministic=True))
    return digest.hexdigest()


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


def restored_ops(proto: Any, folder: Path) -> dict[str, Restored]:
    """Return the ops whose nodes are as they were written, by name.

    Raises
    ------
    Unsupported
        If the metadata names an op that does not exist, or arguments that it does not take.
    """
    own = own_metadata(proto)
    said = own.get("ops", {})
    if not said:
        return {}
    graph: GraphProto = proto.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    groups: dict[str, list[NodeProto]] = {name: [] for name in said}
    for node in graph.node:
        if group_of(node) in groups:
            groups[group_of(node)].append(node)
    found = {}
    for name, entry in said.items():
        if digest_of(entry, groups[name], initializers) != entry["digest"]:
            continue
        kind = entry["op"]
        if kind not in REGISTRY:
            raise Unsupported(f"the metadata says that {name!r} is of the unknown kind {kind!r}")
        config: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry["config"].items()
        }
        try:
            op = REGISTRY[kind](name=name, **config)
        except TypeError as error:
            raise Unsupported(f"the metadata says of {name!r}: {error}") from None
        weights = entry["weights"].items()
        op.weights = {n: stored(initializers[tensor], folder) for n, tensor in weights}
        states = [s for s in own["states"] if s["name"].startswith(f"{name}.")]
        op.initial_state = {
            s["name"].removeprefix(f"{name}."): np.reshape(s["initial"], s["stream_shape"])
            for s in states
            if isinstance(s["initial"], list)
        }
        found[name] = Restored(
            op, entry["reads"], entry["makes"], {s["input"]: s["output"] for s in states}
        )
    return found
