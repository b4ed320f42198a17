"""What a graph takes: the shapes of its inputs, and which axis is time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from ...errors import FileError
from ...graph import MAX_FRAME, Shape

__all__ = ["fixed_length", "frame_shape", "input_shape"]


def input_shape(
    value: onnx.ValueInfoProto, given: Sequence[int | None] | None
) -> tuple[Shape, int | None]:
    """Return the shape of an input, open axes as 1, and which of them is time."""
    kind = value.type.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        what = kind.removesuffix("_type").replace("_", " ")
        raise FileError(f"input {value.name!r} is no tensor but of the type {what!r}")
    dims = value.type.tensor_type.shape.dim
    unsaid = not value.type.tensor_type.HasField("shape")
    open_axes = [i for i, d in enumerate(dims) if not (d.HasField("dim_value") and d.dim_value > 0)]
    if given is not None:
        return _given_shape(value.name, tuple(given), None if unsaid else dims, open_axes)
    time = [i for i in open_axes if not _is_batch(dims[i].dim_param)]
    if unsaid or len(time) > 1 or any(not dims[i].dim_param for i in time):
        shown = "?" if unsaid else [d.dim_param or d.dim_value or "?" for d in dims]
        raise FileError(
            f"input {value.name!r} has the open shape {shown}: say which with "
            f"shapes={{{value.name!r}: (…)}}, and None for the time axis of a sequence"
        )
    shape = tuple(1 if i in open_axes else d.dim_value for i, d in enumerate(dims))
    if math.prod(shape) > MAX_FRAME:
        raise FileError(f"input {value.name!r} {shape} holds more than {MAX_FRAME} numbers")
    return shape, time[0] if time else None


def _given_shape(
    name: str, given: tuple[int | None, ...], dims: Any, open_axes: list[int]
) -> tuple[Shape, int | None]:
    """Return an input's shape as the user says it, where the file leaves it open; None is time."""
    time = [i for i, d in enumerate(given) if d is None]
    shape = tuple(1 if d is None else int(d) for d in given)
    fits = dims is None or len(shape) == len(dims)
    fits = fits and (
        dims is None
        or all(i in open_axes or i in time or d.dim_value == shape[i] for i, d in enumerate(dims))
    )
    if not fits or len(time) > 1 or any(d < 1 for d in shape) or math.prod(shape) > MAX_FRAME:
        raise FileError(f"input {name!r} cannot have the shape {given}")
    return shape, time[0] if time else None


def fixed_length(
    inputs: Mapping[str, onnx.ValueInfoProto], time_axes: Mapping[str, int]
) -> int | None:
    """Return how long the file says that sequences are, or None if it leaves that open."""
    lengths = set()
    for name, axis in time_axes.items():
        dims = inputs[name].type.tensor_type.shape.dim
        lengths.add(dims[axis].dim_value if len(dims) > axis else 0)
    if len(lengths) > 1:
        raise FileError(f"the time axes have different lengths: {sorted(lengths)}")
    return max(lengths, default=0) or None


def _is_batch(name: str) -> bool:
    return "batch" in name.lower() or name in ("N", "B", "b", "n")


def frame_shape(shape: Shape, time: int | None) -> Shape:
    """Return the shape of a frame: without the time axis and leading axes of size 1."""
    if time is not None:
        shape = (*shape[:time], *shape[time + 1 :])
    first = next((i for i, d in enumerate(shape) if d > 1), max(len(shape) - 1, 0))
    return shape[first:]
