"""Stages between a source and a model: what is wrong taken out, samples cut into frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import ConfigError, SourceError
from ..frontend.resample import Resampler
from .source import Array, Frame, Source

__all__ = ["Checked", "Windows"]


class Checked(Source):
    """Pass on frames that fit the ones before; count and drop, or mend, the others.

    A frame of another shape than the first (for samples: other channels) is dropped,
    ``misshapen``; one that is older than the frame before, ``out_of_order``; one of the same time,
    ``duplicates``. A NaN or infinity, ``nonfinite``, is replaced by the number that was last seen
    in its place, zero at the beginning.
    """

    source: Source

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, source)
        self.sample_rate_hz = source.sample_rate_hz

    def _read(self) -> Iterator[Frame]:
        samples = int(self.sample_rate_hz is not None)
        shape: tuple[int, ...] | None = None
        last, before_s = np.zeros((), np.float32), -np.inf
        for time_s, data in self.source:
            if samples and not len(data):
                continue
            if shape is None:
                shape, last = data.shape[samples:], np.zeros(data.shape[samples:], np.float32)
            if data.shape[samples:] != shape:
                why = f"expected {shape}, got {data.shape[samples:]}"
                self.count("misshapen", why=why)
            elif not time_s > before_s:
                what = "duplicates" if time_s == before_s else "out_of_order"
                self.count(what, why=f"{time_s:g} s after {before_s:g} s")
            else:
                whole = self._mended(data if samples else data[None], last)
                last, before_s = whole[-1].copy(), time_s
                yield Frame(time_s, whole if samples else whole[0])

    def _mended(self, rows: Array, last: Array) -> Array:
        """Return rows in which a number that is not finite is the one before it."""
        good = np.isfinite(rows)
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
    first sample there are zeros. ``time_s`` is that of its first new sample. The last frame is
    filled up with zeros, ``padded_samples``. All channels and rates go through float32.

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

    Raises
    ------
    ConfigError
        If the source has no samples, or hop or window has no meaning.
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
    ) -> None:
        super().__init__(source.name, source)
        if source.sample_rate_hz is None:
            raise ConfigError(f"{source.name} gives frames, not samples: they need no windows")
        hop = window if hop is None else hop
        if not 1 <= hop <= window:
            raise ConfigError(f"expected 1 <= hop <= window, got hop {hop} and window {window}")
        if channel != "mix" and not (isinstance(channel, int) and channel >= 0):
            raise ConfigError(f"`channel` must be a number from 0 on or 'mix', got {channel!r}")
        self.window, self.hop, self.channel = window, hop, channel
        self.rate_hz = sample_rate_hz or source.sample_rate_hz
        same = self.rate_hz == source.sample_rate_hz
        self._resampler = None if same else Resampler(source.sample_rate_hz, self.rate_hz)

    def _read(self) -> Iterator[Frame]:
        rest = np.zeros(self.window - self.hop, np.float32)
        begin_s, made = None, 0
        for samples, time_s in self._samples():
            begin_s = time_s if begin_s is None else begin_s
            rest = np.concatenate((rest, samples))
            for at in range(0, len(rest) - self.window + 1, self.hop):
                yield Frame(begin_s + made * self.hop / self.rate_hz, rest[at : at + self.window])
                made += 1
            rest = rest[max(0, (len(rest) - self.window) // self.hop + 1) * self.hop :]
        missing = self.window - len(rest)
        if begin_s is not None and missing < self.hop:
            self.count("padded_samples", missing, "the last frame was not full")
            last = np.concatenate((rest, np.zeros(missing, np.float32)))
            yield Frame(begin_s + made * self.hop / self.rate_hz, last)

    def _samples(self) -> Iterator[tuple[Array, float]]:
        """Yield one channel at the model's rate, and the time of the block it came from."""
        time_s = 0.0
        for time_s, block in self.source:
            one = self._one_channel(block)
            yield (one if self._resampler is None else self._resampler.run(one)), time_s
        if self._resampler is not None:
            yield self._resampler.finish(), time_s

    def _one_channel(self, block: Array) -> Array:
        channels = block.shape[1]
        if isinstance(self.channel, str):
            return block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
        if self.channel >= channels:
            raise SourceError(
                f"{self.name}: there is no channel {self.channel}, only 0 to {channels - 1}"
            )
        return np.ascontiguousarray(block[:, self.channel])
