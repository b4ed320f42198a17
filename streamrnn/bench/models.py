"""Models in files: a step of ours beside those of peers, and how long they take to load."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..describe import describe_model
from ..files import load
from ..layer import Layer
from . import graphs, ours, peers
from .case import supply, work
from .libraries import library
from .limits import reading
from .row import READ, READ_INT8, Row
from .timing import TOLERANCE, Effort, differences, interleaved

__all__ = ["Loading", "ModelFile", "frames_of", "int8_form", "loading", "measured", "pooled"]

POOL_STREAMS = 64


@dataclass(frozen=True)
class ModelFile:
    """A file, and how it is read.

    Parameters
    ----------
    label : str
        What the tables call it.
    path : Path
        The file; one that is no ONNX is exported for the peers.
    options : dict
        Of ``streamrnn.load``.
    y : str, optional
        The output that is compared, else the first.
    step_path : Path, optional
        Another file for the peers' steps, where the file itself keeps no state.
    tolerance : float
        Largest difference between the outputs; infinite where `unlike` says why.
    why, unlike : str
        Why it is not much faster than onnxruntime, or cannot be compared, where that is so.
    torch : callable, optional
        Returns the model as torch has it, a module of a frame (1, 1, I) and a state, and the state
        that it begins with.
    """

    label: str
    path: Path
    options: dict[str, Any] = field(default_factory=dict)
    y: str | None = None
    step_path: Path | None = None
    tolerance: float = TOLERANCE
    why: str = ""
    unlike: str = ""
    torch: Callable[[], tuple[Any, Any]] | None = None


def measured(
    file: ModelFile,
    wanted: Collection[str],
    effort: Effort,
    tick: Callable[[], None],
    skipped: dict[str, str],
) -> Row:
    """Measure a step of a model on random frames.

    Peers other than onnxruntime that do not run this graph are put into `skipped`, with the reason.

    Raises
    ------
    FileError
        If the file cannot be read.
    DisagreementError
        If a peer gives other outputs.
    """
    model = load(file.path, **file.options)
    with tempfile.TemporaryDirectory() as folder:
        path, options = file.step_path or file.path, {} if file.step_path else file.options
        if path.suffix != ".onnx":
            from ..export import to_onnx

            path = Path(folder) / "step.onnx"
            to_onnx(model, path, verify=False)
        graph = graphs.of_file(path, file.y, **options)
        frames = frames_of(model, graph.x_shape)
        x = np.zeros_like(frames[0])
        found = [ours.step(model, x, y=file.y), ours.kernel(model)]
        if small := int8_form(model):
            found.append(ours.step(small, x, ours.INT8_STEP, file.y, tolerance=np.inf))
            found.append(ours.kernel(small, ours.INT8_KERNEL))
        stream = ours.onnx_stream(path, x, file.y, **options)
        found.append(replace(stream, tolerance=file.tolerance))
        found += [
            peers.of_graph(peer, graph, x, tolerance=file.tolerance)
            for peer in peers.GRAPH_PEERS
            if peer in wanted
            and peers.available(peer)
            and _runs(peer, graph, x, file.label, skipped)
        ]
    with peers.torch_inference():
        if file.torch and peers.TORCH in wanted and peers.available(peers.TORCH):
            found.append(peers.torch_module(*file.torch(), x.reshape(1, 1, -1)))
        apart = differences(found, x, frames[:20])
        n_bytes, adds = work(model)
        found.append(reading(READ, n_bytes))
        if small:
            found.append(reading(READ_INT8, max(1, n_bytes // 4)))
        timings = interleaved(found, x, frames, effort, tick)
    label, of_bytes = file.label, _of_bytes(model)
    return Row("models", label, None, n_bytes, adds, float(n_bytes), timings, apart, of_bytes)


def int8_form(model: Layer) -> Layer | None:
    """Return a model with int8 weights, or None where most of its own are bytes already."""
    return None if _of_bytes(model) else ours.int8_form(model)


def _of_bytes(model: Layer) -> bool:
    said = describe_model(model)
    return bool(said["weight_bytes"] < 2 * said["parameters"])


def frames_of(model: Layer, shape: Sequence[int]) -> Any:
    """Return frames for some calls: not negative, as features mostly are, or valid indices."""
    below = model.stream().program.index_limits[0]
    if below is not None:
        return supply(shape, seed=1, below=below)
    return np.abs(supply(shape, seed=1)) / np.float32(8)


def _runs(peer: str, graph: graphs.StepGraph, x: Any, label: str, skipped: dict[str, str]) -> bool:
    """Whether a peer runs this graph; onnxruntime has to, of the others some do not."""
    if peer in (peers.BINDING, peers.RUN):
        return True
    try:
        contender = peers.of_graph(peer, graph, x)
        contender.call()
        if contender.output is not None and np.isfinite(contender.output()).all():
            return True
        why = "its outputs are not finite"
    except Exception as error:  # each has errors of its own
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    skipped[f"{peer} of {label}"] = why
    return False


def pooled(file: ModelFile, effort: Effort, tick: Callable[[], None]) -> Row:
    """Measure a pool of 64 streams of a model, in float32 and in int8."""
    model = load(file.path, **file.options)
    (value,) = model.stream().program.inputs
    frames = frames_of(model, (POOL_STREAMS, *value.shape))
    x = np.zeros_like(frames[0])
    flat = x.reshape(1, POOL_STREAMS, -1)
    found = [ours.pool(model, flat)]
    if small := int8_form(model):
        found.append(ours.pool(small, flat, ours.INT8_POOL))
    n_bytes, adds = work(model)
    found.append(reading(READ, n_bytes))
    if small:
        found.append(reading(READ_INT8, max(1, n_bytes // 4)))
    timings = interleaved(found, x, frames, effort, tick)
    label = f"{file.label}, {POOL_STREAMS} streams"
    return Row("pooled models", label, None, n_bytes, adds, n_bytes / POOL_STREAMS, timings)


@dataclass(frozen=True)
class Loading:
    """Median times in milliseconds: our model, its first stream, onnxruntime's session."""

    label: str
    load_ms: float
    stream_ms: float
    session_ms: float


def loading(file: ModelFile, times: int) -> Loading:
    """Measure, by turns, how long a model takes to be read; kernels are in the cache."""
    ort: Any = library("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    taken: list[list[float]] = [[], [], []]
    for i in range(times + 1):
        clock = [time.perf_counter()]
        ort.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
        clock.append(time.perf_counter())
        read = load(file.path, **file.options)
        clock.append(time.perf_counter())
        read.stream()
        clock.append(time.perf_counter())
        if i:
            for k in range(3):
                taken[k].append(1000 * (clock[k + 1] - clock[k]))
    session, load_ms, stream = map(statistics.median, taken)
    return Loading(file.label, load_ms, stream, session)
