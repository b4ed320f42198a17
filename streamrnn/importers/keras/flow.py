"""What flows between Keras' layers: a sequence, of which we hold one frame, or a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ...errors import FileError
from ...graph import Value
from ...layer import Layer
from .options import Options

__all__ = ["LAYERS", "Apply", "Flow", "layer", "through"]


@dataclass(frozen=True)
class Flow:
    """One frame of a sequence (batch, time, …), or all of what has no time axis (batch, …)."""

    value: Value
    timed: bool

    def axis(self, axis: int) -> int:
        """Return the axis of our frame that Keras counts with batch and time before it."""
        before = 2 if self.timed else 1
        rank = len(self.value.shape)
        own = axis + rank if axis < 0 else axis - before
        if not 0 <= own < rank:
            raise FileError(
                f"axis {axis} is not one within a frame of shape {self.value.shape}: a stream has "
                f"one frame at a time"
            )
        return own


Apply = Callable[[Sequence[Flow]], Flow]
"""A layer once it has been read: called for each place where it stands."""

LAYERS: dict[str, Callable[[Options, list[npt.NDArray[Any]]], Apply]] = {}
"""How each layer is read, by Keras' name of its class: from its options and its arrays."""


def layer(*names: str) -> Callable[[Any], Any]:
    """Enter a function into the table of layers."""

    def enter(function: Any) -> Any:
        LAYERS.update(dict.fromkeys(names, function))
        return function

    return enter


def through(*layers: Layer | None) -> Apply:
    """Return layers of ours one after another, None left out, for a frame of any kind."""

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        value = flow.value
        for each in layers:
            value = value if each is None else each(value)
        return Flow(value, flow.timed)

    return apply


def single(flows: Sequence[Flow]) -> Flow:
    """Return the only input."""
    if len(flows) != 1:
        raise FileError(f"expected one input, got {len(flows)}")
    return flows[0]


def sequence(flows: Sequence[Flow]) -> Flow:
    """Return the only input, which is a sequence."""
    flow = single(flows)
    if not flow.timed:
        raise FileError("expected a sequence (batch, time, …), got values without a time axis")
    return flow
