"""Is a graph over sequences the same function when it runs frame by frame? It is measured."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto

from ...kernels.cache import cache_folder
from ...layer import Model
from .known import subgraphs
from .node import Unsupported

if TYPE_CHECKING:
    from .graph import Reader

__all__ = ["check_once", "check_sequence"]

CHECKED_FRAMES = 9
"""Frames that have to come out, beside those that are waited for."""
MAX_CHECKED = 1 << 16
"""Most frames of a random sequence: where a frame is a sample, a spectrum takes many."""


def check_once(path: Path, model: Model, reader: Reader) -> None:
    """Do :func:`check_sequence` unless this file has passed it, read in this way by this code.

    That is remembered in the folder of compiled kernels.
    """
    mark = _mark(path, reader)
    if not mark.exists():
        check_sequence(path, model, reader)
        with contextlib.suppress(OSError):  # a read-only folder: it is checked again next time
            mark.touch()


def _version(path: Path) -> tuple[int, ...]:
    """Return what changes whenever a file is written anew."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _mark(path: Path, reader: Reader) -> Path:
    """Return the file that says that a check was passed; its name has all that it depends on."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    files = [(p, *_version(p)) for p in (path.resolve(), *sources)]
    fixed = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in reader.constants.items()}
    read = (reader.shapes, reader.time_axes, reader.pairs, fixed)
    key = hashlib.sha256(repr((files, read)).encode()).hexdigest()
    return cache_folder() / f"checked-{key[:32]}"


def check_sequence(path: Path, model: Model, reader: Reader) -> None:
    """Raise Unsupported unless frame by frame gives what the graph gives for a whole sequence."""
    try:
        import onnxruntime
    except ImportError:
        raise Unsupported(
            "a graph over sequences is checked in onnxruntime: pip install streamrnn[onnx]"
        ) from None
    clock = model.graph().clock
    length = reader.fixed_length or clock.start + CHECKED_FRAMES * clock.stride
    if not clock.start < length <= MAX_CHECKED:
        raise Unsupported(
            f"its first output comes after {clock.start} frames: too late to check it on sequences "
            f"of {reader.fixed_length or MAX_CHECKED} frames (verify=False loads it unchecked)"
        )
    if _ends_onnxruntime(reader.proto.graph):
        raise Unsupported(
            "a DFT's axis has an empty name, at which onnxruntime ends the process: leave it "
            "out (verify=False loads it unchecked)"
        )
    feeds = reader.random_sequence(model, length, seed=0)
    frames = _frames_of(reader, model, feeds, length)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        wanted = session.run(list(reader.output_axes), {**reader.constants, **feeds})
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


def _ends_onnxruntime(graph: GraphProto) -> bool:
    """Whether onnxruntime (1.32) reads where nothing is: at the axis of a DFT, called ``""``."""
    inner = [g for node in graph.node for g in subgraphs(node)]
    here = any(node.op_type == "DFT" and "" in node.input[2:] for node in graph.node)
    return here or any(map(_ends_onnxruntime, inner))


def _frames_of(
    reader: Reader, model: Model, feeds: dict[str, npt.NDArray[Any]], length: int
) -> tuple[npt.NDArray[Any], ...]:
    """Return inputs of the whole graph as the stream takes them."""
    frames = []
    for name, value in model.graph().inputs.items():
        axis, x = reader.time_axes.get(name), feeds[name]
        moved = x[None] if axis is None else np.moveaxis(x, axis, 0)
        given = np.broadcast_to(moved.reshape(-1, *value.shape), (length, *value.shape))
        frames.append(np.ascontiguousarray(given))
    return tuple(frames)
