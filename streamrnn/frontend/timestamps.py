"""Samples with timestamps of their own, as sensors send them, made into frames at a fixed rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, FrameError
from ..resumable import numbers, positive

__all__ = ["FixedRate"]

Array = npt.NDArray[np.float64]

ROUNDING = 1e-9
"""Part of a frame by which a sample may come before the frame and still count as its time."""

ON_GAP = ("reset", "hold", "interpolate", "nan", "raise")
MAX_FILLED = 1_000_000
"""Frames in a gap that are made up; one that is longer is a clock that was set."""


class FixedRate:
    """Frames at a fixed rate from samples at any times, by linear interpolation between neighbours.

    Frame k belongs to the time ``t0 + k / rate_hz``, where t0 is the time of the first sample. It
    is there with the first sample at that time or later. A sample that is not later than the one
    before is left out and counted in ``late``. Where no sample comes for longer than `max_gap_s`,
    `on_gap` says what happens, and ``gaps`` counts.

    Parameters
    ----------
    rate_hz : float
        Frames per second.
    channels : int
        Numbers in a sample.
    max_gap_s : float
        Longest time between two samples that is filled.
    on_gap : str
        Of frames in a longer gap: ``"reset"`` makes none, and the sample after it begins anew, as
        frame 0 (a model behind is best reset then); ``"hold"`` makes each the sample before the
        gap, ``"interpolate"`` goes straight from that to the one after it, ``"nan"`` makes NaN;
        ``"raise"`` raises, and `reset` is due. What would be more than a million frames is a clock
        that was set: it begins anew.

    Attributes
    ----------
    late, gaps : int
        Samples that were left out, and gaps.

    Raises
    ------
    ConfigError
        If a number is not positive and finite, or `on_gap` is none of these.
    """

    def __init__(
        self, rate_hz: float, channels: int, max_gap_s: float = 1.0, on_gap: str = "reset"
    ) -> None:
        positive("FixedRate", "rate_hz", rate_hz)
        positive("FixedRate", "channels", channels, whole=True)
        positive("FixedRate", "max_gap_s", max_gap_s)
        if on_gap not in ON_GAP:
            raise ConfigError(
                f"FixedRate: `on_gap` must be one of {', '.join(ON_GAP)}, got {on_gap!r}"
            )
        self.rate_hz, self.channels, self.max_gap_s = rate_hz, channels, max_gap_s
        self.on_gap = on_gap
        self.reset()

    def __repr__(self) -> str:
        return f"FixedRate({self.rate_hz:g}, {self.channels}, {self.max_gap_s:g}, {self.on_gap!r})"

    def reset(self) -> None:
        """Forget every sample and both counts."""
        self.late = self.gaps = 0
        self._time = -math.inf
        self._value = np.zeros(self.channels)
        self._begin, self._made = 0.0, 0

    @property
    def next_time_s(self) -> float:
        """Time of the frame that comes next, in seconds; that of frame 0 is known with it."""
        return self._begin + self._made / self.rate_hz

    def push(self, time_s: float, x: Any) -> npt.NDArray[np.float32]:
        """Take one sample and return the frames that it completes.

        Parameters
        ----------
        time_s : float
            Its time, in seconds; also of the order of 1e9, as those since 1970 are.
        x : array [shape=(channels,)]
            The sample.

        Returns
        -------
        float32 [shape=(k, channels)]
            As many frames as lie between the sample before and this one; none if it is late.

        Raises
        ------
        FrameError
            If the time or the sample is no finite number, the shape is another, or there was a gap
            and the policy is ``"raise"``; nothing is taken.
        """
        at = numbers(f"{self!r}: time", time_s, ()).item()
        value = numbers(f"{self!r}: sample", x, (self.channels,))
        if at <= self._time:
            self.late += 1
            return np.zeros((0, self.channels), np.float32)
        gap = at - self._time > self.max_gap_s
        first = self._time == -math.inf
        if gap and not first and self.on_gap == "raise":
            raise FrameError(
                f"{self!r}: no sample for {at - self._time:.6g} s, from {self._time} s on: `reset` "
                f"it to begin anew, or choose another `on_gap`"
            )
        self.gaps += gap and not first
        filled = self.on_gap != "reset" and (at - self._time) * self.rate_hz <= MAX_FILLED
        if gap and (first or not filled):
            self._begin, self._made = at, 0
            self._time, self._value = at, value  # frame 0 is the sample itself
        frames = self._between(at, value, gap and not first and filled)
        self._time, self._value, self._made = at, value.copy(), self._made + len(frames)
        return frames.astype(np.float32)

    def _between(self, at: float, value: Array, gap: bool) -> Array:
        """Return the frames up to the sample at this time.

        Times are counted from frame 0: differences of large ones are exact, sums are not.
        """
        slack = max(ROUNDING, 2 * self.rate_hz * math.ulp(at))
        due = math.floor((at - self._begin) * self.rate_hz + slack) + 1
        since = np.arange(self._made, due) / self.rate_hz - (self._time - self._begin)
        share = np.clip(since / ((at - self._time) or 1.0), 0, 1)[:, None]
        frames: Array = self._value + share * (value - self._value)
        if gap and self.on_gap != "interpolate":
            inside = (share[:, 0] > 0) & (share[:, 0] < 1 - slack)
            frames[inside] = self._value if self.on_gap == "hold" else np.nan
        return frames
