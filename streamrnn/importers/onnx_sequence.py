"""Is a graph over sequences the same function when it runs frame by frame? It is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..graph import Shape
from ..layer import Model
from .onnx_ops import Unsupported

__all__ = ["check_sequence"]

CHECKED_FRAMES = 9


def check_sequence(
    path: Path,
    model: Model,
    shapes: Mapping[str, Shape],
    time_axes: Mapping[str, int],
    others: Mapping[str, npt.NDArray[Any]],
    dtypes: Mapping[str, int],
) -> None:
    """Raise Unsupported unless frame by frame gives what the graph gives for a whole sequence."""
    try:
        import onnxruntime
    except ImportError:
        raise Unsupported(
            "a graph over sequences is checked in onnxruntime: pip install streamrnn[onnx]"
        ) from None
    rng = np.random.default_rng(0)
    program = model.program()
    limits = dict(zip(program.graph.inputs, program.index_limits, strict=True))
    feeds = dict(others)
    for name, shape in shapes.items():
        state = name not in model.graph().inputs
        axis = time_axes.get(name)
        whole = shape if axis is None else (*shape[:axis], CHECKED_FRAMES, *shape[axis + 1 :])
        if limits.get(name):
            kind = onnx.helper.tensor_dtype_to_np_dtype(dtypes[name])
            feeds[name] = rng.integers(0, limits[name], whole).astype(kind)
        else:
            noise = rng.standard_normal(whole).astype(np.float32)
            feeds[name] = np.zeros(shape, np.float32) if state else noise
    frames = tuple(
        np.ascontiguousarray(np.moveaxis(feeds[n], time_axes[n], 0)).reshape(-1, *v.shape)
        for n, v in model.graph().inputs.items()
        if n in time_axes
    )
    if len(frames) < len(model.graph().inputs):
        raise Unsupported("some inputs have an open time axis and others have none")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    outputs = list(model.graph().outputs)
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        wanted = session.run(outputs, feeds)
    except Exception as error:  # onnxruntime's errors have no common base
        raise Unsupported(
            f"onnxruntime cannot run it over {CHECKED_FRAMES} frames: {error}"
        ) from None
    got = model.stream().run(
        tuple(map(np.ascontiguousarray, frames)) if len(frames) > 1 else frames[0]
    )
    for name, a, b in zip(outputs, got if isinstance(got, tuple) else (got,), wanted, strict=True):
        if b.size != a.size:
            raise Unsupported(f"output {name!r} is not one of each frame but of the whole sequence")
        axis = next((i for i, d in enumerate(b.shape) if d == CHECKED_FRAMES), 0)
        apart = float(np.abs(np.moveaxis(b, axis, 0).reshape(a.shape) - a).max(initial=0))
        if not apart <= 1e-4 * max(1.0, float(np.abs(b).max(initial=0))):
            raise Unsupported(
                f"output {name!r} of a whole sequence differs by {apart:.2g} from that of frame "
                f"after frame: something in the graph looks at other frames (attention, pooling or "
                f"convolution over time)"
            )
