"""Events against the truth: which were detected, how late, and which were made up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import FrameError
from ..resumable import Array, Resumable, check_amount, numbers

__all__ = ["DetectionLatency"]


@dataclass
class _State:
    now_s: float = 0.0
    events: list[float] = field(default_factory=list)  # not yet detected, nor missed
    detections: list[float] = field(default_factory=list)  # of nothing so far
    detected: int = 0
    missed: int = 0
    false_alarms: int = 0
    sum_s: float = 0.0
    longest_s: float = -math.inf


@dataclass
class DetectionLatency(Resumable):
    """Match detections with events, as both come, and count.

    A detection belongs to the first event that has none yet and began at most `tolerance_s` before
    it, or begins at most `early_s` after it. An event without is missed, a detection without is a
    false alarm; so is a second detection of an event. What is not decided yet is not counted: an
    event and a detection are kept for as long as the other may come, and no longer.

    Parameters
    ----------
    tolerance_s : float
        How late a detection may be.
    early_s : float
        How early it may be, where events are marked late.

    Raises
    ------
    ConfigError
        If one is no number of 0 or more.
    """

    tolerance_s: float
    early_s: float = 0.0
    _state: _State = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.tolerance_s = check_amount(self, "tolerance_s")
        self.early_s = check_amount(self, "early_s")
        self.reset()

    def _begin(self) -> _State:
        return _State()

    def happened(self, time_s: float) -> None:
        """Count an event; calls come in the order of time.

        Raises
        ------
        FrameError, NonFiniteError
            If the time is no number, or before that of an earlier call; the state is as before.
        """
        now_s = self._moved_to("happened", time_s)
        if self._state.detections:
            self._match(now_s, self._state.detections.pop(0))
        else:
            self._state.events.append(now_s)

    def detected(self, time_s: float) -> None:
        """Count a detection; raise as `happened` does."""
        now_s = self._moved_to("detected", time_s)
        if self._state.events:
            self._match(self._state.events.pop(0), now_s)
        else:
            self._state.detections.append(now_s)

    def advance(self, time_s: float) -> None:
        """Say what time it is, so that what is too late is counted; raise as `happened` does."""
        self._moved_to("advance", time_s)

    def run(self, events_s: Any, detections_s: Any) -> None:
        """Count events [shape=(E,)] and detections [shape=(D,)], and then what is not decided.

        Raises
        ------
        FrameError, NonFiniteError
            If they are no numbers, not in order, or before what has come; the state is as before.
        """
        events = self._times("run: events", events_s).tolist()
        detections = self._times("run: detections", detections_s).tolist()
        calls: list[tuple[float, int, Callable[[float], None]]] = [
            *((t, 0, self.happened) for t in events),
            *((t, 1, self.detected) for t in detections),
        ]
        for time_s, _, call in sorted(calls, key=lambda c: c[:2]):
            call(time_s)
        self.finish()

    def finish(self) -> None:
        """Count what is not decided yet: nothing more comes."""
        s = self._state
        s.missed += len(s.events)
        s.false_alarms += len(s.detections)
        s.events, s.detections = [], []

    def _times(self, what: str, times_s: Any) -> Array:
        times = numbers(f"DetectionLatency.{what}", times_s, (None,))
        late = [self._state.now_s, *times.tolist()]
        for before, after in itertools.pairwise(late):
            if after < before:
                raise FrameError(
                    f"DetectionLatency.{what}: expected times in order, got {after:g} s after "
                    f"{before:g} s"
                )
        return times

    def _moved_to(self, what: str, time_s: Any) -> float:
        """Let time pass: what has waited too long is decided."""
        now_s = float(self._times(what, [numbers(f"DetectionLatency.{what}", time_s, ())])[0])
        s = self._state
        s.now_s = now_s
        while s.events and now_s - s.events[0] > self.tolerance_s:
            s.events.pop(0)
            s.missed += 1
        while s.detections and now_s - s.detections[0] > self.early_s:
            s.detections.pop(0)
            s.false_alarms += 1
        return now_s

    def _match(self, event_s: float, detection_s: float) -> None:
        s, latency_s = self._state, detection_s - event_s
        s.detected += 1
        s.sum_s += latency_s
        s.longest_s = max(s.longest_s, latency_s)

    @property
    def hits(self) -> int:
        """Events that were detected."""
        return self._state.detected

    @property
    def misses(self) -> int:
        """Events that were not."""
        return self._state.missed

    @property
    def false_alarms(self) -> int:
        """Detections of nothing."""
        return self._state.false_alarms

    @property
    def mean_s(self) -> float:
        """How late detections are in the mean; NaN before the first one."""
        return self._state.sum_s / self.hits if self.hits else math.nan

    @property
    def longest_s(self) -> float:
        """How late the latest detection was; NaN before the first one."""
        return self._state.longest_s if self.hits else math.nan

    @property
    def false_alarms_per_hour(self) -> float:
        """False alarms over the time of the last call; NaN before time has passed."""
        now_s = self._state.now_s
        return 3600 * self.false_alarms / now_s if now_s else math.nan
