"""What is written at one time for a certain number of frames.

It is the graph itself, the form of one op, or the body of a Scan, which holds one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

__all__ = ["BATCH", "CALLS", "MAX_CALLS", "Dims", "OpenFramesError", "Scope", "tensor_info"]

Dims = tuple[int | str, ...]
"""A shape with a name where the size is open."""

BATCH = "batch"
"""Name of the axis of streams where their number is open."""
CALLS = "calls"
"""State that counts the calls of a step graph so far, where a part of the graph begins later."""
MAX_CALLS = float(1 << 24)
"""Where it stops: float32 counts no further."""


class OpenFramesError(Exception):
    """An op asks how many frames there are, where that is open."""


@dataclass
class Scope:
    """Nodes for a number of frames.

    Attributes
    ----------
    chunk_frames : int or None
        Model input frames that it takes, None where that is open.
    unit_frames : int
        Model input frames of one step of `base`.
    base : str
        What says how many units came before: float32 [shape=(1,)].
    inside : bool
        Whether it is the body of a Scan, where states have names of their own.
    nodes, states, next_states
        What was written: states with their shapes, and the values that they take.
    """

    chunk_frames: int | None
    unit_frames: int
    base: str = f"{CALLS}_in"
    inside: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    states: dict[str, Dims] = field(default_factory=dict)
    next_states: dict[str, str] = field(default_factory=dict)

    def empty(self) -> Scope:
        """Return one for the same frames, with nothing written."""
        return Scope(self.chunk_frames, self.unit_frames, self.base, self.inside)


def tensor_info(name: str, dtype: str, dims: Dims) -> onnx.ValueInfoProto:
    """Return the description of an input or output."""
    kind = TensorProto.INT64 if dtype == "int64" else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, dims)
