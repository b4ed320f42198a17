"""Stages between a source and a model: what is wrong taken out, samples cut into frames."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError, FrameError, SourceError
from ..frontend.resample import Resampler
from ..frontend.timestamps import FixedRate
from ..resumable import positive
from .source import Array, Frame, Source, as_floats

__all__ = ["Checked", "Joined", "Regular", "Windows"]


LOSSES = (
    "dropped",
    "garbage",
    "half_frames",
    "misshapen",
    "out_of_order",
    "overruns",
    "reconnects",
)
"""What is counted when samples are lost."""

LARGEST_SAMPLE = 1e15
"""Full scale is 1. A larger one is garbage, though finite: resampled or squared it overflows."""

CLOCK_SET_BACK = 10
"""Frames in a row that are older than one before them, after which that one was wrong."""


class Checked(Source):
    """Pass on frames that fit the ones before; count and drop, or mend, the others.

    A frame of another shape than the first (for samples: other channels) is dropped,
    ``misshapen``; one that is older than the frame before, ``out_of_order``; one of the same time,
    ``duplicates``; one at a time that is no number, ``garbage``. After ten older ones in a row,
    each later than the one before it, the clock was set back (or had jumped ahead for a frame):
    what follows goes on from there. A NaN or infinity, ``nonfinite``, is replaced by the number
    that was last seen in its place, zero at the beginning; so is a sample beyond 1e15, of which
    filters and spectra would make an infinity.
    """

    source: Source

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, source)
        self.sample_rate_hz = source.sample_rate_hz

    def _read(self) -> Iterator[Frame]:
        samples = int(self.sample_rate_hz is not None)
        shape: tuple[int, ...] | None = None
        last, before_s = np.zeros((), np.float32), -math.inf
        late_s, late = -math.inf, 0  # of frames in a row that were out of order
        for time_s, data in self.source:
            if samples and not len(data):
                continue
            if shape is None:
                shape, last = data.shape[samples:], np.zeros(data.shape[samples:], np.float32)
            if data.shape[samples:] != shape:
                why = f"expected {shape}, got {data.shape[samples:]}"
                self.count("misshapen", why=why)
            elif not math.isfinite(time_s):
                self.count("garbage", why=f"its time is {time_s}")
            elif time_s <= before_s and late < CLOCK_SET_BACK:
                late = late + 1 if late_s < time_s < before_s else 0
                late_s = time_s
                what = "duplicates" if time_s == before_s else "out_of_order"
                self.count(what, why=f"{time_s:g} s after {before_s:g} s")
            else:
                whole = self._mended(data if samples else data[None], last)
                last, before_s, late, late_s = whole[-1].copy(), time_s, 0, -math.inf
                yield Frame(time_s, whole if samples else whole[0])

    def _mended(self, rows: Array, last: Array) -> Array:
        """Return rows in which a number that is not finite is the one before it."""
        most = np.inf if self.sample_rate_hz is None else LARGEST_SAMPLE
        good = np.isfinite(rows) & (np.abs(rows) <= most)
        if good.all():
            return rows
        self.count("nonfinite", int(good.size - np.count_nonzero(good)))
        rows = rows.copy()
        for i, fine in enumerate(good):
            rows[i] = np.where(fine, rows[i], last)
            last = rows[i]
        return rows


class Windows(Source):
    """Cut samples into frames for a model, at its rate and from one channel.

    Frame k ends with sample ``(k + 1) * hop`` and begins `window` samples before; in front of the
    first sample there are zeros. ``time_s`` is that of its first new sample. Samples are counted,
    since the times of live blocks tremble; but a block that is more than `gap_s` from where the one
    before ended, or half its length where the source has counted a loss, sets the clock: frames
    from there on have its time, ``gaps``. The last frame is filled up with zeros,
    ``padded_samples``. All channels and rates go through float32.

    Parameters
    ----------
    source : Source
        Of samples.
    window : int
        Samples in a frame.
    hop : int, optional
        New samples in each frame; all of them by default.
    sample_rate_hz : float, optional
        The model's; other rates are converted (soxr, extra ``audio``). The source's by default.
    channel : int or str
        Which channel, from 0; ``"mix"`` takes their mean.
    gap_s : float
        By how much times may differ from what the number of samples says, where no loss is known.

    Raises
    ------
    ConfigError
        If the source has no samples, or hop, window or another number has no meaning.
    SourceError
        While reading, if there is no such channel.
    """

    source: Source

    def __init__(
        self,
        source: Source,
        window: int,
        hop: int | None = None,
        sample_rate_hz: float | None = None,
        channel: int | str = "mix",
        gap_s: float = 1.0,
    ) -> None:
        super().__init__(source.name, source)
        if source.sample_rate_hz is None:
            raise ConfigError(f"{source.name} gives frames, not samples: they need no windows")
        hop = window if hop is None else hop
        positive("Windows", "window", window, whole=True)
        positive("Windows", "hop", hop, whole=True)
        positive("Windows", "gap_s", gap_s)
        if sample_rate_hz is not None:
            positive("Windows", "sample_rate_hz", sample_rate_hz)
        if hop > window:
            raise ConfigError(f"expected 1 <= hop <= window, got hop {hop} and window {window}")
        if channel != "mix" and not (isinstance(channel, int) and channel >= 0):
            raise ConfigError(f"`channel` must be a number from 0 on or 'mix', got {channel!r}")
        self.window, self.hop, self.channel, self.gap_s = window, hop, channel, gap_s
        self.rate_hz = sample_rate_hz or source.sample_rate_hz
        same = self.rate_hz == source.sample_rate_hz
        self._resampler = None if same else Resampler(source.sample_rate_hz, self.rate_hz)

    def silence(self, data: Array) -> Array:
        return np.concatenate((data[self.hop :], np.zeros(self.hop, np.float32)))

    def _read(self) -> Iterator[Frame]:
        clock = _SampleClock(self)
        rest, made, hop_s = np.zeros(self.window - self.hop, np.float32), 0, self.hop / self.rate_hz
        for samples in self._samples(clock):
            rest = np.concatenate((rest, samples))
            for at in range(0, len(rest) - self.window + 1, self.hop):
                yield Frame(clock.time_s(made * hop_s), rest[at : at + self.window])
                made += 1
            rest = rest[max(0, (len(rest) - self.window) // self.hop + 1) * self.hop :]
        missing = self.window - len(rest)
        if missing < self.hop:
            self.count("padded_samples", missing, "the last frame was not full")
            last = np.concatenate((rest, np.zeros(missing, np.float32)))
            yield Frame(clock.time_s(made * hop_s), last)

    def _samples(self, clock: _SampleClock) -> Iterator[Array]:
        """Yield one channel at the model's rate; tell the clock when each block began."""
        rate_hz = self.source.sample_rate_hz
        assert rate_hz is not None
        at, losses, lost = 0, 0, False
        for time_s, block in self.source:
            counts = self.source.counts
            before, losses = losses, sum(counts[what] for what in LOSSES)
            lost = lost or losses > before  # until the gap comes: it may be some blocks away
            slack_s = min(self.gap_s, len(block) / rate_hz / 2) if lost else self.gap_s
            if clock.came(at / rate_hz, time_s, slack_s):
                lost = False
            at += len(block)
            one = self._one_channel(block)
            yield one if self._resampler is None else self._resampler.run(one)
        if self._resampler is not None:
            yield self._resampler.finish()

    def _one_channel(self, block: Array) -> Array:
        channels = block.shape[1]
        if isinstance(self.channel, str):
            return block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
        if self.channel >= channels:
            raise SourceError(
                f"{self.name}: there is no channel {self.channel}, only 0 to {channels - 1}"
            )
        return np.ascontiguousarray(block[:, self.channel])


class Regular(Source):
    """Frames at a fixed rate from frames at any times, as sensors send them.

    :class:`streamrnn.frontend.FixedRate` interpolates, and says what happens in gaps, ``gaps``.

    Parameters
    ----------
    source : Source
        Of frames; :class:`Checked` around it leaves out what is out of order or no number.
    rate_hz, max_gap_s, on_gap
        As for ``FixedRate``; with ``"raise"`` a gap is a SourceError.

    Raises
    ------
    ConfigError
        If the source has samples, or one of these makes no sense.
    """

    source: Source

    def __init__(
        self, source: Source, rate_hz: float, max_gap_s: float = 1.0, on_gap: str = "reset"
    ) -> None:
        super().__init__(source.name, source)
        if source.sample_rate_hz is not None:
            raise ConfigError(
                f"{source.name} gives samples, which have a fixed rate: cut `Windows`"
            )
        FixedRate(rate_hz, 1, max_gap_s, on_gap)
        self.rate_hz, self.max_gap_s, self.on_gap = rate_hz, max_gap_s, on_gap

    def _read(self) -> Iterator[Frame]:
        grid, before_s, shape = None, math.inf, ()
        for time_s, data in self.source:
            if grid is None or time_s < before_s:  # a clock that was set back
                shape = data.shape
                grid = FixedRate(self.rate_hz, data.size, self.max_gap_s, self.on_gap)
                before_s, gaps = time_s, 0
            try:
                frames = grid.push(time_s, data.reshape(-1))
            except FrameError as error:
                raise SourceError(f"{self.name}: {error}") from None
            if grid.gaps > gaps:
                self.count("gaps", why=f"{time_s - before_s:.3g} s without a frame")
            before_s, gaps = time_s, grid.gaps
            for k, frame in enumerate(frames, -len(frames)):
                yield Frame(grid.next_time_s + k / self.rate_hz, frame.reshape(shape))


class Joined(Source):
    """Frames with other inputs of a model beside them, flat and side by side.

    Parameters
    ----------
    source : Source
        Frames for the inputs that `others` does not name.
    sizes : mapping
        The model's inputs in their order: from name to how many numbers.
    others : mapping
        From name to an array: one frame, which never changes, or (T, …), of which each frame of the
        source takes the next.

    Raises
    ------
    ConfigError
        If the source has samples, an array fits no input, or nothing is left for the source.
    SourceError
        While reading, if an array has fewer frames than the source.
    """

    source: Source

    def __init__(self, source: Source, sizes: Mapping[str, int], others: Mapping[str, Any]) -> None:
        super().__init__(source.name, source)
        if source.sample_rate_hz is not None:
            raise ConfigError(f"{source.name} gives samples: cut `Windows` first")
        unknown = [name for name in others if name not in sizes]
        if unknown or len(others) == len(sizes):
            raise ConfigError(
                f"the model reads {', '.join(sizes)}; others are {', '.join(others)}: name inputs "
                f"of the model, and leave one to {source.name}"
            )
        self.sizes = dict(sizes)
        self.others = {name: self._rows(name, array) for name, array in others.items()}

    def _rows(self, name: str, array: Any) -> Any:
        """Return an array as rows (T, size), or one row (size,)."""
        numbers, size = np.asarray(array), self.sizes[name]
        constant = numbers.size == size
        fits = numbers.ndim and numbers.size == len(numbers) * size
        if numbers.dtype.kind not in "iufb" or not (constant or fits):
            raise ConfigError(
                f"the input {name!r} is {size} numbers, or (T, …) of that, got {numbers.dtype} "
                f"{numbers.shape}"
            )
        return as_floats(numbers.reshape(-1) if constant else numbers.reshape(-1, size))

    def silence(self, data: Array) -> Array:
        """Return what follows: silence of the source, the others as they were."""
        parts = self._split(data)
        names = [name for name in self.sizes if name not in self.others]
        follows = self.source.silence(np.concatenate([parts[name] for name in names]))
        return self._joined(follows, {name: parts[name] for name in self.others})

    def _read(self) -> Iterator[Frame]:
        for t, (time_s, data) in enumerate(self.source):
            beside = {}
            for name, rows in self.others.items():
                if rows.ndim == 2 and t >= len(rows):
                    raise SourceError(
                        f"{self.name}: the input {name!r} has {len(rows)} frames, the source more"
                    )
                beside[name] = rows if rows.ndim == 1 else rows[t]
            yield Frame(time_s, self._joined(data.reshape(-1), beside))

    def _joined(self, data: Array, beside: Mapping[str, Array]) -> Array:
        wanted = sum(n for name, n in self.sizes.items() if name not in beside)
        if data.size != wanted:
            raise SourceError(
                f"{self.name}: gives frames of {data.size} numbers, "
                f"{', '.join(n for n in self.sizes if n not in beside)} read {wanted}"
            )
        at, parts = 0, []
        for name, size in self.sizes.items():
            if name in beside:
                parts.append(beside[name])
            else:
                parts.append(data[at : at + size])
                at += size
        return np.concatenate(parts)

    def _split(self, data: Array) -> dict[str, Array]:
        ends = np.cumsum(list(self.sizes.values()))[:-1]
        return dict(zip(self.sizes, np.split(data, ends), strict=True))


class _SampleClock:
    """When a sample was: its place in the stream, and how far times there are from places."""

    def __init__(self, owner: Source) -> None:
        self._owner = owner
        self._shifts: deque[tuple[float, float]] = deque()  # (from which place on, by how much)

    def came(self, place_s: float, time_s: float, slack_s: float) -> bool:
        """Take note of when a block began that begins at this place; return whether a gap ended."""
        shift_s = time_s - place_s
        late_s = shift_s - self._shifts[-1][1] if self._shifts else 0.0
        gap = abs(late_s) > slack_s
        if gap:
            self._owner.count("gaps", why=f"samples go on {late_s:.3g} s from where they ended")
        if gap or not self._shifts:
            self._shifts.append((place_s, shift_s))
        return gap

    def time_s(self, place_s: float) -> float:
        """Return the time of a place; places are asked for in their order."""
        while len(self._shifts) > 1 and self._shifts[1][0] <= place_s + 1e-9:
            self._shifts.popleft()
        return place_s + self._shifts[0][1]
