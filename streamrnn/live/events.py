"""A sink that makes events of probabilities."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Sequence

from ..decode.hysteresis import Hysteresis, Onset, Segment
from ..errors import FrameError
from .sinks import Sink, Writable
from .source import Frame

__all__ = ["EventSink"]

MEASURED = 5
"""Frames after which the time from one to the next is known, if nobody has said it."""

ROUNDING_S = 1e-6


class EventSink(Sink):
    """A line when something begins, and when it has ended; each column is a probability.

    Durations are counted in frames, and times are those of the frames. So an event behind frames
    that were lost is at its right time, and one across them has its right ends. A gap longer than a
    frame and than the rule's ``min_off_ms`` ends what was on, as a pause would.

    Parameters
    ----------
    file : text file
        Where lines go.
    columns : sequence of str
        What each number of an output is the probability of.
    rule : Hysteresis or callable
        How segments are found; each column has a copy of its own. A function makes it from the
        milliseconds between outputs, where only their times say them: the median of the first four.
    as_json : bool
        Write ``{"event": "onset", "label": …, "time_s": …}`` and ``{"event": "segment", "label": …,
        "start_s": …, "end_s": …}`` in place of words.
    """

    def __init__(
        self,
        file: Writable,
        columns: Sequence[str],
        rule: Hysteresis | Callable[[float], Hysteresis],
        as_json: bool = False,
    ) -> None:
        self.file, self.as_json, self.segments = file, as_json, 0
        self.columns = tuple(columns)
        self._tracks: list[_Track] = []
        self._waiting: list[Frame] = []  # while the time between frames is not known
        self._rule = rule
        self._closed = False
        if isinstance(rule, Hysteresis):
            self._begin(rule)

    def write(self, frame: Frame) -> None:
        if frame.data.size != len(self.columns):
            raise FrameError(
                f"events of {len(self.columns)} probabilities ({', '.join(self.columns)}), got "
                f"{frame.data.size} numbers"
            )
        if self._tracks:
            self._take(frame)
            return
        self._waiting.append(frame)
        if len(self._waiting) == MEASURED:
            self._measure()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._measure()
            self._end()

    def _begin(self, rule: Hysteresis) -> None:
        self._tracks = [_Track(name, rule.fork()) for name in self.columns]
        self._frame_s, self._longest_s = rule.frame_ms / 1000, rule.min_off_ms / 1000
        self._frames, self._last_s = 0, 0.0

    def _measure(self) -> None:
        """Find the time from one frame to the next, and take those that waited."""
        if not self._tracks and callable(self._rule):
            times_s = [frame.time_s for frame in self._waiting]
            steps_s = [b - a for a, b in itertools.pairwise(times_s) if b > a]
            self._begin(self._rule(1000 * (statistics.median(steps_s) if steps_s else 1.0)))
            for frame in self._waiting:
                self._take(frame)
            self._waiting = []

    def _take(self, frame: Frame) -> None:
        missing_s = frame.time_s - self._last_s - self._frame_s
        if self._frames and missing_s > max(self._longest_s, self._frame_s) + ROUNDING_S:
            self._end()
        shift_s = frame.time_s - self._frames * self._frame_s
        self._frames, self._last_s = self._frames + 1, frame.time_s
        for track, p in zip(self._tracks, frame.data.reshape(-1).tolist(), strict=True):
            self._say(track.name, track.step(p, shift_s))

    def _end(self) -> None:
        """Let the last frame be the end of everything."""
        for track in self._tracks:
            self._say(track.name, track.flush())
        self._frames = 0

    def _say(self, label: str, event: Onset | Segment | None) -> None:
        if event is None:
            return
        if isinstance(event, Onset):
            said = {"event": "onset", "label": label, "time_s": round(event.time_s, 6)}
            line = f"{event.time_s:.2f} s: {label} begins"
        else:
            self.segments += 1
            times = {"start_s": round(event.start_s, 6), "end_s": round(event.end_s, 6)}
            said = {"event": "segment", "label": label, **times}
            line = f"{event.end_s:.2f} s: {label} ends, it began at {event.start_s:.2f} s"
        self.file.write((json.dumps(said) if self.as_json else line) + "\n")
        self.file.flush()


class _Track:
    """A rule for one column, whose events get the times of their frames."""

    def __init__(self, name: str, rule: Hysteresis) -> None:
        self.name, self.rule = name, rule
        rule.reset()
        self._shift_s = 0.0  # of the last frame: its time, less that by counting
        self._known: dict[int, float] = {}  # the same of the frames that an event may name

    def step(self, p: float, shift_s: float) -> Onset | Segment | None:
        self._shift_s = shift_s
        event = self.rule.step(p)
        timed = self._timed(event)
        frames = (frame for frame in self.rule.open_frames if frame is not None)
        self._known = {frame: self._known.get(frame, shift_s) for frame in frames}
        return timed

    def flush(self) -> Segment | None:
        timed = self._timed(self.rule.flush())
        self._known = {}
        assert not isinstance(timed, Onset)
        return timed

    def _timed(self, event: Onset | Segment | None) -> Onset | Segment | None:
        if isinstance(event, Onset):
            return event._replace(time_s=event.time_s + self._shift_of(event.frame))
        if isinstance(event, Segment):
            return event._replace(
                start_s=event.start_s + self._shift_of(event.start_frame),
                end_s=event.end_s + self._shift_of(event.end_frame),
            )
        return None

    def _shift_of(self, frame: int) -> float:
        return self._known.get(frame, self._shift_s)
