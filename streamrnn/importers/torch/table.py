"""The table of torch's operators; the files in ``operators/`` fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["ATEN", "CONSTANTS", "aten", "axis_in", "ints", "number"]

Meaning = Callable[..., Any]

ATEN: dict[str, Meaning] = {}
"""What is supported, by the operator's name without ``aten::`` and overload.

A function is called with the walk, ``f``, and the operator's arguments by their names in torch
(``x`` for ``self`` and ``input``), defaults filled in. ``f("Relu", x)`` is what ONNX's operator
makes of a tensor; ``f.shape`` is the shape of the result.
"""

CONSTANTS = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
"""Operators that take a tensor for its shape and type only."""


def aten(*names: str) -> Callable[[Meaning], Meaning]:
    """Register what one or more operators of torch's mean."""

    def register(meaning: Meaning) -> Meaning:
        for name in names:
            ATEN[name] = meaning
        return meaning

    return register


def ints(*numbers: int) -> Any:
    """Return shapes and axes as ONNX's operators take them."""
    return np.array(numbers, np.int64)


def number(x: Any) -> Any:
    """Return a factor or summand that may be a plain number as a tensor."""
    return np.float32(x) if isinstance(x, (bool, int, float)) else x


def axis_in(dim: int, x: Any) -> int:
    """Return an axis counted from the front."""
    return dim % max(len(x.shape), 1)
