"""Recordings: their checks, the calls they become, and the ranges of values while they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from streamrnn.errors import ExportError, FrameError
from streamrnn.graph import describe
from streamrnn.layer import Layer

from .beside import progress
from .verify import StepSession

__all__ = ["Feeds", "calls_of", "ranges", "recordings_of"]

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
"""Inputs of one call by name, without states."""

BINS = 4096


def recordings_of(model: Layer, calibration: Any) -> list[tuple[Array, ...]]:
    """Return a user's calibration as recordings, each with an array for every input.

    Parameters
    ----------
    model : Layer
        Whose frames they are.
    calibration : array, tuple of arrays, or iterable of these
        See :func:`streamrnn.export.to_onnx`.

    Raises
    ------
    ExportError
        If it is empty, or a recording has the wrong shape or type, holds a NaN, or is too short
        for one call.
    """
    if isinstance(calibration, (np.ndarray, tuple)):
        calibration = [calibration]
    elif not isinstance(calibration, Iterable) or isinstance(calibration, (str, dict)):
        raise ExportError(
            f"calibration: expected an array of frames, a tuple of arrays for several inputs, or "
            f"an iterable of such recordings, got {describe(calibration)}"
        )
    stride, found = model.graph().clock.stride, []
    for i, recording in enumerate(calibration):
        given = recording if isinstance(recording, tuple) else (recording,)
        stream = model.stream()  # its checks are those of calibration
        try:
            stream.run(given[0] if len(given) == 1 else given)
        except FrameError as error:
            raise ExportError(f"calibration, recording {i}: {error}") from None
        if len(given[0]) < stride:
            raise ExportError(
                f"calibration, recording {i}: it has {len(given[0])} frames, expected at least "
                f"{stride}, which is one call of the graph"
            )
        found.append(given)
    if not found:
        raise ExportError("calibration: it holds no recordings, expected at least one")
    return found


def calls_of(
    model: Layer, proto: onnx.ModelProto, recordings: Sequence[tuple[Array, ...]]
) -> list[list[Feeds]]:
    """Return what each call of a step graph is fed with, recording by recording."""
    stride, names = model.graph().clock.stride, list(model.graph().inputs)
    shapes = {
        i.name: [d.dim_value or 1 for d in i.type.tensor_type.shape.dim] for i in proto.graph.input
    }

    def call(arrays: tuple[Array, ...], first: int) -> Feeds:
        return {
            name: np.broadcast_to(x[first : first + stride][:, None], shapes[name])
            for name, x in zip(names, arrays, strict=True)
        }

    return [
        [call(arrays, first) for first in range(0, len(arrays[0]) - stride + 1, stride)]
        for arrays in recordings
    ]


def ranges(
    proto: onnx.ModelProto,
    names: Sequence[str],
    calls: Sequence[Sequence[Feeds]],
    percentile: float,
) -> dict[str, tuple[float, float]]:
    """Run a graph over recordings with its states fed back; return the range of some values.

    Parameters
    ----------
    proto : onnx.ModelProto
        A step graph with our metadata.
    names : sequence of str
        Values inside it, or inputs.
    calls : sequence of sequences of dict
        What :func:`calls_of` returns; the states begin anew with each recording.
    percentile : float
        The range reaches from the numbers' (100 - percentile)-th percentile to this one, to 1/4096
        of all between the smallest and the largest number; 100 for these themselves.
    """
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for name, x in _values(proto, names, calls, "ranges"):
        low[name], high[name] = min(low[name], x.min()), max(high[name], x.max())
    if percentile >= 100:
        return {name: (float(low[name]), float(high[name])) for name in names}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for name, x in _values(proto, names, calls, "percentiles"):
        counts[name] += np.histogram(x, BINS, (low[name], high[name]))[0]
    found = {}
    for name in names:
        edges = np.linspace(low[name], high[name], BINS + 1)
        share = 100 * np.cumsum(counts[name]) / counts[name].sum()
        first = int(np.searchsorted(share, 100 - percentile, side="right"))
        last = int(np.searchsorted(share, percentile, side="left"))
        found[name] = (float(edges[first]), float(edges[last + 1]))
    return found


def _values(
    proto: onnx.ModelProto, names: Sequence[str], calls: Sequence[Sequence[Feeds]], what: str
) -> Iterator[tuple[str, Array]]:
    """Yield every value of every call, by name."""
    seen = onnx.ModelProto()
    seen.CopyFrom(proto)
    given = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    seen.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in given
    )
    step = StepSession(seen)
    total = sum(map(len, calls))
    each = ((first, feeds) for recording in calls for first, feeds in enumerate(recording))
    for first, feeds in progress(each, what, total):
        if not first:
            step.reset()
        values = {**feeds, **step.states}
        values |= step(feeds)
        for name in names:
            yield name, values[name]
