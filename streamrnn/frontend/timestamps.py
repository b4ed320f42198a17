"""Samples with timestamps of their own, as sensors send them, made into frames at a fixed rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, FrameError
from ..graph import describe

__all__ = ["FixedRate"]

ROUNDING = 1e-9
"""Part of a frame by which a sample may come before the frame and still count as its time."""


class FixedRate:
    """Frames at a fixed rate from samples at any times, by linear interpolation between neighbours.

    Frame k belongs to the time ``t0 + k / rate_hz``, where t0 is the time of the first sample. It
    is there with the first sample at that time or later. A sample that is not later than the one
    before is left out and counted in ``late``. Where no sample comes for longer than `max_gap_s`
    nothing is made up: the sample after the gap begins anew, as frame 0 (``gaps`` counts; a model
    behind is best reset then).

    Parameters
    ----------
    rate_hz : float
        Frames per second.
    channels : int
        Numbers in a sample.
    max_gap_s : float
        Longest time between two samples that is filled.

    Attributes
    ----------
    late, gaps : int
        Samples that were left out, and times that the stream began anew.

    Raises
    ------
    ConfigError
        If a number is not positive and finite.
    """

    def __init__(self, rate_hz: float, channels: int, max_gap_s: float = 1.0) -> None:
        for name, value in (("rate_hz", rate_hz), ("channels", channels), ("max_gap_s", max_gap_s)):
            if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
                raise ConfigError(f"FixedRate: `{name}` must be a positive number, got {value!r}")
        self.rate_hz, self.channels, self.max_gap_s = rate_hz, channels, max_gap_s
        self.reset()

    def __repr__(self) -> str:
        return f"FixedRate({self.rate_hz:g}, {self.channels}, {self.max_gap_s:g})"

    def reset(self) -> None:
        """Forget every sample and both counts."""
        self.late = self.gaps = 0
        self._time = -math.inf
        self._value = np.zeros(self.channels)
        self._begin, self._made = 0.0, 0

    def push(self, time_s: float, x: Any) -> npt.NDArray[np.float32]:
        """Take one sample and return the frames that it completes.

        Parameters
        ----------
        time_s : float
            Its time, in seconds.
        x : array [shape=(channels,)]
            The sample.

        Returns
        -------
        float32 [shape=(k, channels)]
            As many frames as lie between the sample before and this one; none if it is late.

        Raises
        ------
        FrameError
            If the time or the sample is not finite, or the shape is another; nothing is taken.
        """
        value = np.asarray(x, np.float64)
        if value.shape != (self.channels,):
            raise FrameError(
                f"{self!r} expects samples of shape ({self.channels},), got {describe(value)}"
            )
        if not (math.isfinite(time_s) and np.isfinite(value).all()):
            raise FrameError(f"{self!r} expects finite numbers, got {value} at {time_s} s")
        if time_s <= self._time:
            self.late += 1
            return np.zeros((0, self.channels), np.float32)
        if time_s - self._time > self.max_gap_s:
            self.gaps += self._time > -math.inf
            self._begin, self._made = time_s, 0
            self._time, self._value = time_s, value  # frame 0 is the sample itself
        due = math.floor((time_s - self._begin) * self.rate_hz + ROUNDING) + 1
        times = self._begin + np.arange(self._made, due) / self.rate_hz
        share = (times - self._time) / ((time_s - self._time) or 1.0)
        frames = self._value + np.clip(share, 0, 1)[:, None] * (value - self._value)
        self._time, self._value, self._made = time_s, value.copy(), due
        return frames.astype(np.float32)
