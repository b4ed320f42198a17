"""Are these the frames of a model, and is there room for its outputs? All checks of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FrameError
from .graph import Shape, Value, describe

__all__ = ["checked_input", "checked_out", "side_by_side", "split"]

Array = npt.NDArray[np.float32]

F32 = np.dtype(np.float32)


def checked_input(
    name: str, array: Any, value: Value, limit: int | None, single: bool
) -> npt.NDArray[Any]:
    """Return the frames for one input, float32 and contiguous; raise FrameError if they are not."""
    verb = "step" if single else "run"
    shape = value.shape if single else ("T", *value.shape)
    shown = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    indices = limit is not None
    if isinstance(array, np.generic) or (indices and isinstance(array, (int, list))):
        array = np.asarray(array)
    kind = "integers" if indices else "float32"
    if not isinstance(array, np.ndarray):
        raise FrameError(
            f"`{name}` must be a numpy array of {kind}, shape {shown}, got {describe(array)}"
        )
    if (array.dtype.kind not in "iu") if indices else (array.dtype != F32):
        hint = "" if indices else ": convert with x.astype(np.float32)"
        raise FrameError(f"`{name}` must be {kind}, got {array.dtype}{hint}")
    if (array.shape if single else array.shape[1:]) != value.shape or array.ndim != len(shape):
        hint = ""
        if single and array.ndim == len(shape) + 1 and array.shape[1:] == value.shape:
            hint = ": a block of frames goes to `run`"
        if not single and array.shape == value.shape:
            hint = ": a single frame goes to `step`"
        raise FrameError(f"`{name}` must have shape {shown} for `{verb}`, got {array.shape}{hint}")
    if indices:
        flat = array.reshape(-1)  # of a block, NumPy before 2.3 would make a copy to find these
        if array.size and (flat.min() < 0 or flat.max() >= limit):
            raise FrameError(
                f"`{name}` must hold indices from 0 to {limit - 1 if limit else 0}, "
                f"got {array.min()} to {array.max()}"
            )
        return array
    if not array.flags.c_contiguous:
        raise FrameError(
            f"`{name}` must be C-contiguous, got strides {array.strides} for shape {array.shape}: "
            f"copy with np.ascontiguousarray(x)"
        )
    # A foreign byte order or odd address is put right here; such arrays are rare and still correct.
    return np.require(np.asarray(array, F32), requirements=["A"])


def checked_out(
    out: Any, shapes: list[Shape], frames: list[npt.NDArray[Any]]
) -> list[Array | None]:
    """Validate `out`; return one array or None for each output."""
    if out is None:
        return [None] * len(shapes)
    outs = (out,) if len(shapes) == 1 else out
    if not isinstance(outs, tuple) or len(outs) != len(shapes):
        raise FrameError(f"`out` must be a tuple of {len(shapes)} arrays, got {describe(out)}")
    for array, shape in zip(outs, shapes, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != F32 or array.shape != shape:
            raise FrameError(f"`out` must be float32 of shape {shape}, got {describe(array)}")
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            raise FrameError(
                "`out` must be C-contiguous, aligned and writeable; np.empty(shape, np.float32) is"
            )
        if any(np.may_share_memory(array, f) for f in frames):
            raise FrameError("`out` overlaps the input; give it memory of its own")
    for i, array in enumerate(outs):
        if any(np.may_share_memory(array, other) for other in outs[:i]):
            raise FrameError("two arrays of `out` overlap; give each memory of its own")
    return list(outs)


def side_by_side(
    values: Sequence[Value], frames: list[npt.NDArray[Any]], n: int, room: Array | None = None
) -> Array:
    """Return n frames of all inputs, the inputs of each one after another, float32 and flat.

    They are copied (into `room`, where it is given) unless there is one input, which is float32.
    """
    if len(frames) == 1 and frames[0].dtype == F32:
        return frames[0].reshape(-1)
    size = sum(v.size for v in values)
    block = np.empty(n * size, F32) if room is None else room
    rows, first = block.reshape(n, size), 0
    for frame, value in zip(frames, values, strict=True):
        rows[:, first : first + value.size] = frame.reshape(n, value.size)
        first += value.size
    return block


def split(
    values: Sequence[Value], block: Array, outs: list[Array | None], shapes: list[Shape]
) -> Array | tuple[Array, ...]:
    """Cut a block (T, sizes of all outputs side by side) into the outputs."""
    results, at = [], 0
    for out, shape, value in zip(outs, shapes, values, strict=True):
        part = block[:, at : at + value.size].reshape(shape)
        at += value.size
        if out is not None:
            out[...] = part
        results.append(part.copy() if out is None else out)
    return results[0] if len(results) == 1 else tuple(results)
