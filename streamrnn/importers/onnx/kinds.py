"""Whether a tensor holds numbers, integers or truths, where all of them travel as float32."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, defs

__all__ = ["kind_of_array", "kinds_made"]

_OF_ELEMENTS = {"i": "int", "u": "int", "b": "bool"}


def kind_of_array(array: Any) -> str:
    """Return the kind of a known tensor: ``float``, ``int`` or ``bool``."""
    return _OF_ELEMENTS.get(np.asarray(array).dtype.kind, "float")


def kinds_made(node: NodeProto, opset: int, kinds: Sequence[str]) -> list[str]:
    """Return the kind of each output, given those of the inputs, as the operator's schema says."""
    to = next((a.i for a in node.attribute if a.name in ("to", "dtype")), None)
    return _made(node.op_type, node.domain, opset, tuple(kinds), len(node.output), to)


@functools.cache
def _made(
    op_type: str, domain: str, opset: int, kinds: tuple[str, ...], count: int, to: int | None
) -> list[str]:
    try:
        schema = defs.get_schema(op_type, opset, domain)
    except defs.SchemaError:
        return ["float"] * count
    letters: dict[str, str] = {}
    for formal, kind in zip(schema.inputs, kinds, strict=False):
        letters.setdefault(formal.type_str, kind)
    made = []
    for i in range(count):
        letter = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
        if letter.startswith("tensor("):
            made.append(_kind(letter.removeprefix("tensor(").removesuffix(")")))
        elif letter in letters:
            made.append(letters[letter])
        else:
            made.append("float" if to is None else _kind(TensorProto.DataType.Name(to).lower()))
    return made


def _kind(name: str) -> str:
    return "bool" if name == "bool" else "int" if name.startswith(("int", "uint")) else "float"
