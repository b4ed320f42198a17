"""Which state output of an ONNX graph feeds which state input."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import ModelProto

from ...errors import FileError
from ...graph import Shape

__all__ = ["own_metadata", "own_states", "state_pairs"]

_MARKS = re.compile(r"^(past|present|prev|next|new|in|out|init|final)_|_?(in|out|new|next|prev|n)$")


def _base(name: str) -> str:
    """Return a name without what says that it comes in or goes out: ``h`` of ``h_in``, ``hn``."""
    before = ""
    while before != name:
        before, name = name, _MARKS.sub("", name) or name
    return name.lower().removesuffix("n") if name.endswith("N") else name.lower()


def state_pairs(proto: ModelProto, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return which state output feeds which state input.

    In this order: as the metadata of our own exports says; inputs and outputs whose names differ
    only in what marks them as in and out (``h`` and ``hn``, ``state`` and ``stateN``, ``*_in`` and
    ``*_out``, ``past_*`` and ``present_*``); of the rest, but the first of each, an input and an
    output that are alone with their shape.
    """
    outputs = {o.name: _fixed_dims(o) for o in proto.graph.output}
    own = own_states(proto)
    if own:
        return {s["input"]: s["output"] for s in own}
    pairs = {}
    for name, shape in shapes.items():
        same = [
            o for o, dims in outputs.items() if _base(o) == _base(name) and _may_be(dims, shape)
        ]
        if len(same) == 1:
            pairs[name] = same[0]
    rest_in = [n for n in list(shapes)[1:] if n not in pairs]
    rest_out = [o for o in list(outputs)[1:] if o not in pairs.values()]
    for name in rest_in:
        fit = [o for o in rest_out if _may_be(outputs[o], shapes[name])]
        rivals = [n for n in rest_in if shapes[n] == shapes[name]]
        if len(fit) == 1 and len(rivals) == 1:
            pairs[name] = fit[0]
        elif fit:
            raise FileError(
                f"inputs {', '.join(rivals)} may be fed by any of the outputs {', '.join(fit)}: "
                f"say which with states={{{name!r}: …}}"
            )
    return pairs


def own_metadata(proto: ModelProto) -> dict[str, Any]:
    """Return what the metadata of our own exports says beside the graph."""
    for prop in proto.metadata_props:
        if prop.key == "streamrnn":
            return dict(json.loads(prop.value))
    return {}


def own_states(proto: ModelProto) -> list[dict[str, Any]]:
    """Return the states as the metadata of our own exports describes them."""
    return list(own_metadata(proto).get("states", []))


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
