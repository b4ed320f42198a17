"""The loop: frames of a source through a stream into a sink, with the time that each took."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from ..stream import BaseStream
from .sinks import Sink, flat
from .source import Array, Counted, Frame, Source

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
    others : list
        Who else counts, such as an :class:`Outbox`.
    """

    frames: int = 0
    outputs: int = 0
    first_s: float = math.nan
    last_s: float = math.nan
    latencies: Latencies = field(default_factory=Latencies)
    source: Source | None = None
    others: list[Counted] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """What went wrong so far."""
        counts = self.source.counts if self.source else Counter()
        return sum((other.counts for other in self.others), counts)

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
    reset_after_s: float | None = None,
) -> Meter:
    """Run every frame of a source through a stream and write what comes out.

    An output has the time of the frame that it is about, which came `delay_frames` ago where the
    model looks ahead. At the source's end as many frames of silence follow (zeros), so that each
    frame gets its output; not where it broke off. Nothing is closed. Whatever ends the loop, the
    meter says how far it came.

    Parameters
    ----------
    stream : Stream or OnnxStream
        Frames may be flat; those of several inputs are flat and side by side.
    source : Source
        Of frames; samples go through :class:`Windows` first.
    sinks : iterable of Sink
        Where outputs go.
    meter : Meter, optional
        What to count on.
    watch : callable, optional
        Called with the meter after each frame.
    reset_after_s : float, optional
        After a longer time without a frame the stream begins anew, ``resets``; by default its
        state is kept.

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
    meter = Meter() if meter is None else meter
    meter.source = source
    loop = _Loop(stream, source, sinks, meter)
    for frame in source:
        silent_s = frame.time_s - meter.last_s
        if reset_after_s is not None and silent_s > reset_after_s:
            source.count("resets", why=f"no frame for {silent_s:.3g} s")
            loop.begin_anew()
        loop.take(frame)
        if watch is not None:
            watch(meter)
    loop.finish()
    return meter


class _Loop:
    """A stream, where its outputs go, and the times of the frames that it has not answered yet."""

    def __init__(self, stream: BaseStream, source: Source, sinks: Iterable[Sink], meter: Meter):
        self.stream, self.source, self.sinks, self.meter = stream, source, tuple(sinks), meter
        self.delay_frames = stream.program.clock.start
        self._times_s: deque[float] = deque(maxlen=self.delay_frames + 1)
        self._last: Array | None = None

    def take(self, frame: Frame) -> None:
        """Run a frame and write the output that comes with it."""
        y, meter, self._last = self._step(frame), self.meter, frame.data
        meter.first_s = meter.first_s if meter.frames else frame.time_s
        meter.frames, meter.last_s = meter.frames + 1, frame.time_s
        self._write(y)

    def finish(self) -> None:
        """Write the outputs of the last frames, which silence follows."""
        for _ in range(self.delay_frames if self._last is not None else 0):
            assert self._last is not None
            self._last = self.source.silence(self._last)
            self._write(self._step(Frame(math.nan, self._last)))

    def begin_anew(self) -> None:
        """Finish, and forget what was."""
        self.finish()
        self.stream.reset()
        self._times_s.clear()
        self._last = None

    def _step(self, frame: Frame) -> Any:
        x = fitted(frame, self.stream, self.source.name)
        before_ns = time.perf_counter_ns()
        y = self.stream.step(x)
        self.meter.latencies.add(time.perf_counter_ns() - before_ns)
        self._times_s.append(frame.time_s)
        return y

    def _write(self, y: Any) -> None:
        if y is not None:
            self.meter.outputs += 1
            for sink in self.sinks:
                sink.write(Frame(self._times_s[0], flat(y)))


def fitted(frame: Frame, stream: BaseStream, who: str) -> Any:
    """Return a frame's data in the shapes and dtypes of the model's inputs."""
    inputs = stream.program.inputs
    if frame.data.size != sum(value.size for value in inputs):
        shapes = [str(value.shape) for value in inputs]
        named = zip(stream.program.input_names, shapes, strict=True)
        reads = ", ".join(f"{name} {shape}" for name, shape in named) + " side by side"
        raise FrameError(
            f"{who}: gives frames of shape {frame.data.shape}, the model reads "
            f"{reads if len(inputs) > 1 else shapes[0]}: choose columns or channels, or cut "
            f"samples with `Windows`"
        )
    data, parts, at = frame.data.reshape(-1), [], 0
    for value in inputs:
        part = data[at : at + value.size].reshape(value.shape)
        parts.append(part.astype(value.dtype, order="C", copy=False))
        at += value.size
    return tuple(parts) if len(parts) > 1 else parts[0]
