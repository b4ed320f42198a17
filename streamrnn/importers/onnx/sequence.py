"""Is a graph over sequences the same function when it runs frame by frame? It is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from ...layer import Model
from .node import Unsupported

if TYPE_CHECKING:
    from .graph import Reader

__all__ = ["check_sequence"]

CHECKED_FRAMES = 9
"""Frames that have to come out, beside those that are waited for."""
MAX_CHECKED = 4096


def check_sequence(path: Path, model: Model, reader: Reader) -> None:
    """Raise Unsupported unless frame by frame gives what the graph gives for a whole sequence."""
    try:
        import onnxruntime
    except ImportError:
        raise Unsupported(
            "a graph over sequences is checked in onnxruntime: pip install streamrnn[onnx]"
        ) from None
    program = model.program()
    clock = program.clock
    length = clock.start + CHECKED_FRAMES * clock.stride
    if length > MAX_CHECKED:
        raise Unsupported(f"nothing comes out in the first {clock.start} frames")
    feeds, frames = _random_input(reader, model, length)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        wanted = session.run(list(reader.output_axes), feeds)
    except Exception as error:  # onnxruntime's errors have no common base
        raise Unsupported(f"onnxruntime cannot run it over {length} frames: {error}") from None
    got = model.stream().run(frames if len(frames) > 1 else frames[0])
    results = got if isinstance(got, tuple) else (got,)
    for (name, axis), a, b in zip(reader.output_axes.items(), results, wanted, strict=True):
        if axis is None:
            first, whole = a[-1:], b.reshape(1, *a.shape[1:])
        else:
            whole = np.moveaxis(b, axis, 0)
            first = a[: len(whole)]
            whole = whole[: len(first)].reshape(first.shape)
        apart = float(np.abs(whole - first).max(initial=0))
        if not apart <= 1e-4 * max(1.0, float(np.abs(whole).max(initial=0))):
            raise Unsupported(
                f"output {name!r} of a whole sequence differs by {apart:.2g} from that of frame "
                f"after frame"
            )


def _random_input(
    reader: Reader, model: Model, length: int
) -> tuple[dict[str, npt.NDArray[Any]], tuple[npt.NDArray[Any], ...]]:
    """Return a random sequence as the graph takes it, and as the stream does."""
    rng = np.random.default_rng(0)
    program = model.program()
    limits = dict(zip(program.graph.inputs, program.index_limits, strict=True))
    feeds, frames = dict(reader.constants), []
    for name, shape in reader.shapes.items():
        axis = reader.time_axes.get(name)
        whole = shape if axis is None else (*shape[:axis], length, *shape[axis + 1 :])
        kind = onnx.helper.tensor_dtype_to_np_dtype(reader.dtypes[name])
        if name in reader.pairs:
            feeds[name] = np.zeros(shape, np.float32)
            continue
        if limits[name]:
            feeds[name] = rng.integers(0, limits[name], whole).astype(kind)
        else:
            feeds[name] = rng.standard_normal(whole).astype(np.float32)
        frame = program.graph.inputs[name].shape
        moved = feeds[name][None] if axis is None else np.moveaxis(feeds[name], axis, 0)
        given = np.broadcast_to(moved.reshape(-1, *frame), (length, *frame))
        frames.append(np.ascontiguousarray(given))
    return feeds, tuple(frames)
