"""The loop: frames of a source through a stream into a sink, with the time that each took."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from ..stream import BaseStream
from .sinks import Sink, flat
from .source import Frame, Source

__all__ = ["Latencies", "Meter", "run"]

STEPS = 16
"""Classes of latency in an octave: each is 4.4 % wide."""


class Latencies:
    """Quantiles of very many times in little memory: a histogram with logarithmic classes."""

    def __init__(self) -> None:
        self._counts = np.zeros(40 * STEPS, np.int64)  # from 1 ns to 18 minutes
        self.total_ns = self.largest_ns = 0

    def add(self, ns: int) -> None:
        """Take one time, in nanoseconds."""
        self.total_ns += ns
        self.largest_ns = max(self.largest_ns, ns)
        self._counts[min(len(self._counts) - 1, int(STEPS * math.log2(max(ns, 1))))] += 1

    def quantile_us(self, q: float) -> float:
        """Return the time that a share `q` of all does not exceed, in µs; at most 4.4 % more."""
        sums = np.cumsum(self._counts)
        if not sums[-1]:
            return math.nan
        place = int(np.searchsorted(sums, q * sums[-1]))
        return float(min(2 ** ((place + 1) / STEPS), self.largest_ns)) / 1000

    def classes(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the histogram, from the first to the last class that is not empty.

        Returns
        -------
        (float64 [shape=(n + 1,)], int64 [shape=(n,)])
            Edges of the classes in µs, and how many times are in each.
        """
        used = np.flatnonzero(self._counts)
        first, stop = (used[0], used[-1] + 1) if used.size else (0, 0)
        edges_us = 2 ** (np.arange(first, stop + 1) / STEPS) / 1000
        return edges_us, self._counts[first:stop].copy()


@dataclass
class Meter:
    """What has been run so far.

    Parameters
    ----------
    frames, outputs : int
        That went in and came out.
    first_s, last_s : float
        Times of the first and the last frame.
    latencies : Latencies
        Of the stream's steps.
    source : Source, optional
        Whose counts are told.
    """

    frames: int = 0
    outputs: int = 0
    first_s: float = math.nan
    last_s: float = math.nan
    latencies: Latencies = field(default_factory=Latencies)
    source: Source | None = None

    @property
    def counts(self) -> Counter[str]:
        """What went wrong in the source so far."""
        return self.source.counts if self.source else Counter()

    @property
    def signal_s(self) -> float:
        """Time that the frames last: from the first to the last, and once more their distance."""
        if self.frames < 2:
            return math.nan
        return (self.last_s - self.first_s) * self.frames / (self.frames - 1)

    @property
    def real_time_factor(self) -> float:
        """Time that the model took, for each second of the signal."""
        return self.latencies.total_ns / 1e9 / self.signal_s if self.signal_s else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, as JSON can say them."""
        us = self.latencies.quantile_us
        numbers = {
            "signal_s": self.signal_s,
            "real_time_factor": self.real_time_factor,
            "latency_p50_us": us(0.5),
            "latency_p99_us": us(0.99),
            "latency_max_us": self.latencies.largest_ns / 1000,
        }
        known = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {
            "frames": self.frames,
            "outputs": self.outputs,
            **known,
            "counts": dict(sorted(self.counts.items())),
        }

    def __str__(self) -> str:
        us = self.latencies.quantile_us
        said = [f"{self.frames} frames"]
        if self.outputs != self.frames:
            said.append(f"{self.outputs} outputs")
        if self.frames > 1:
            said.append(f"{self.signal_s:.1f} s, real-time factor {self.real_time_factor:.2g}")
        if self.frames:
            said.append(f"latency p50 {us(0.5):.3g} µs, p99 {us(0.99):.3g} µs")
        counts = self.counts
        said.append(f"drops {counts.pop('dropped', 0) + counts.pop('overruns', 0)}")
        said += [f"{what.replace('_', ' ')} {n}" for what, n in sorted(counts.items())]
        return ", ".join(said)


def run(
    stream: BaseStream,
    source: Source,
    sinks: Iterable[Sink] = (),
    meter: Meter | None = None,
    watch: Callable[[Meter], None] | None = None,
) -> Meter:
    """Run every frame of a source through a stream and write what comes out.

    Nothing is closed. Whatever ends the loop, the meter says how far it came.

    Parameters
    ----------
    stream : Stream or OnnxStream
        With one input; frames may be flat.
    source : Source
        Of frames; samples go through :class:`Windows` first.
    sinks : iterable of Sink
        Where outputs go.
    meter : Meter, optional
        What to count on.
    watch : callable, optional
        Called with the meter after each frame.

    Returns
    -------
    Meter
        The numbers of this run.

    Raises
    ------
    FrameError
        If a frame does not fit the model.
    SourceError
        If the source breaks off.
    """
    meter, sinks = Meter() if meter is None else meter, tuple(sinks)
    meter.source = source
    for frame in source:
        x = fitted(frame, stream, source.name)
        before_ns = time.perf_counter_ns()
        y = stream.step(x)
        meter.latencies.add(time.perf_counter_ns() - before_ns)
        meter.first_s = meter.first_s if meter.frames else frame.time_s
        meter.frames, meter.last_s = meter.frames + 1, frame.time_s
        if y is not None:
            meter.outputs += 1
            for sink in sinks:
                sink.write(Frame(frame.time_s, flat(y)))
        if watch is not None:
            watch(meter)
    return meter


def fitted(frame: Frame, stream: BaseStream, who: str) -> Any:
    """Return a frame's data in the shape and dtype of the model's input."""
    inputs = stream.program.inputs
    if len(inputs) > 1:
        raise FrameError(
            f"{who}: a source feeds one input, this model has {len(inputs)}: "
            f"{', '.join(stream.program.input_names)}"
        )
    (value,) = inputs
    if frame.data.size != value.size:
        raise FrameError(
            f"{who}: gives frames of shape {frame.data.shape}, the model reads {value.shape}: "
            f"choose columns or channels, or cut samples with `Windows`"
        )
    return frame.data.reshape(value.shape).astype(value.dtype, order="C", copy=False)
