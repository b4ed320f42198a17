"""From probabilities to segments: two thresholds, shortest and longest durations, padding.

The rules are those of Silero's ``VADIterator`` and ``get_speech_timestamps``
(https://github.com/snakers4/silero-vad), whose names for the arguments are

====================  ==============  ===========================
here                  Silero          pyannote's ``Binarize``
====================  ==============  ===========================
``on``                threshold       onset
``off``               neg_threshold   offset
``min_on_ms``         min_speech      min_duration_on
``min_off_ms``        min_silence     min_duration_off
``pad_ms``            speech_pad      pad_onset, pad_offset
====================  ==============  ===========================

With t a frame and p its probability: a segment begins with the first frame of ``p >= on``. It ends
with the first frame of ``p < off`` after which no frame reaches `on` again before another frame of
``p < off`` has come `min_off_ms` later. `max_on_ms` is ours: see below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import ConfigError, FrameError
from ..resumable import Resumable, check_amount, numbers, probabilities, probability

__all__ = ["Hysteresis", "Onset", "Segment"]

ROUNDING = 1e-6
"""Of milliseconds, and of durations in frames: 0.3 / 0.1 frames are 3."""


class Onset(NamedTuple):
    """A segment has begun."""

    frame: int
    """Its first frame, counted from 0."""
    time_s: float
    """When it begins, with padding, from the beginning of the stream."""


class Segment(NamedTuple):
    """A segment has ended."""

    start_frame: int
    """Its first frame."""
    end_frame: int
    """The frame behind its last one."""
    start_s: float
    """When it begins, with padding."""
    end_s: float
    """When it ends, with padding."""


@dataclass
class _State:
    frames: int = 0
    start: int | None = None  # first frame of the segment that is open
    pause: int | None = None  # first frame of the pause that may end it
    announced: bool = False
    ended_ms: float = 0.0  # where the segment before ended


@dataclass
class Hysteresis(Resumable):
    """Find segments, of speech or of anything else, in a stream of probabilities.

    `step` takes a probability and returns an :class:`Onset` as soon as it is certain that there is
    a segment, a :class:`Segment` when it has ended, or None. (One that ends in the very step in
    which it becomes certain, which `max_on_ms` and `flush` can bring about, has no onset.)

    Parameters
    ----------
    frame_ms : float
        Time from one probability to the next; frame t begins at ``t * frame_ms``.
    on : float
        Probability from which on a segment begins, dimensionless.
    off : float, optional
        Probability below which it may end; without, ``max(on - 0.15, 0.01)``.
    min_on_ms : float
        Segments that are not longer than this, without padding, are dropped. Onsets come later by
        as much.
    min_off_ms : float
        Shorter pauses do not end a segment. Ends come later by as much.
    pad_ms : float
        Added to both ends; at most half of `min_off_ms`, so that segments do not overlap.
    max_on_ms : float
        With padding, segments do not get longer: one that would is ended after this frame, or in
        the pause that it is in. If the next frame reaches `on`, the next segment begins there.

    Raises
    ------
    ConfigError
        If the numbers are none, or do not go together.
    """

    frame_ms: float
    on: float = 0.5
    off: float | None = None
    min_on_ms: float = 0.0
    min_off_ms: float = 100.0
    pad_ms: float = 30.0
    max_on_ms: float = math.inf
    _state: _State = field(init=False, repr=False, compare=False)
    _off: float = field(init=False, repr=False, compare=False)
    _min_on: int = field(init=False, repr=False, compare=False)
    _min_off: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        frame_ms = self.frame_ms = check_amount(self, "frame_ms", zero=False)
        self.min_on_ms = check_amount(self, "min_on_ms")
        self.min_off_ms = check_amount(self, "min_off_ms")
        self.pad_ms = check_amount(self, "pad_ms")
        self.max_on_ms = check_amount(self, "max_on_ms", zero=False, inf=True)
        self.on = check_amount(self, "on", zero=False)
        if self.off is None:
            self.off = max(self.on - 0.15, min(0.01, self.on))
        off = self.off = self._off = check_amount(self, "off", zero=False)
        if not off <= self.on <= 1:
            raise ConfigError(
                f"Hysteresis: expected 0 < off <= on <= 1, got on={self.on:g}, off={off:g}"
            )
        if 2 * self.pad_ms > self.min_off_ms:
            raise ConfigError(
                f"Hysteresis: `pad_ms` must be at most half of min_off_ms={self.min_off_ms:g}, "
                f"got {self.pad_ms:g}: segments would overlap"
            )
        shortest_ms = self.min_on_ms + self.pad_ms + 2 * frame_ms
        if self.max_on_ms < shortest_ms:
            raise ConfigError(
                f"Hysteresis: `max_on_ms` must be at least min_on_ms + pad_ms + two frames = "
                f"{shortest_ms:g}, got {self.max_on_ms:g}"
            )
        self._min_on = math.floor(self.min_on_ms / frame_ms + ROUNDING) + 1  # longer, not as long
        self._min_off = math.ceil(self.min_off_ms / frame_ms - ROUNDING)
        self.reset()

    def _begin(self) -> _State:
        return _State()

    @property
    def frames(self) -> int:
        """Frames since the beginning."""
        return self._state.frames

    @property
    def is_on(self) -> bool:
        """Whether a segment has begun that has not ended."""
        return self._state.announced

    @property
    def open_frames(self) -> tuple[int | None, int | None]:
        """First frames of the segment that is open, or may become one, and of a pause in it."""
        return self._state.start, self._state.pause

    def step(self, p: Any) -> Onset | Segment | None:
        """Take the next frame's probability; return what it brings about, if anything.

        Parameters
        ----------
        p : float or array [shape=() or (1,)]
            A probability, from 0 to 1, dimensionless.

        Raises
        ------
        FrameError, NonFiniteError
            If it is no probability; the state is as before.
        """
        return self._advance(probability("Hysteresis.step", p))

    def run(self, xs: Any) -> list[Onset | Segment]:
        """Take probabilities [shape=(T,) or (T, 1)]; return what they bring about, in order.

        Raises
        ------
        FrameError, NonFiniteError
            If one is no probability; the state is as before.
        """
        checked = probabilities("Hysteresis.run", xs, (None,))
        events = map(self._advance, checked.tolist())
        return [event for event in events if event is not None]

    def flush(self, end_s: float | None = None) -> Segment | None:
        """Return the segment that the end of the stream cuts off, if any, and begin anew.

        Parameters
        ----------
        end_s : float, optional
            Where the stream ends, if that is within the last frame.

        Raises
        ------
        FrameError, NonFiniteError
            If it is no finite number, or not within the last frame; the state is as before.
        """
        s = self._state
        end_ms = frames_ms = s.frames * self.frame_ms
        if end_s is not None:
            end_ms = 1000 * float(numbers("Hysteresis.flush", end_s, ()))
            if not frames_ms - self.frame_ms - ROUNDING <= end_ms <= frames_ms + ROUNDING:
                raise FrameError(
                    f"Hysteresis.flush: `end_s` must be within the last frame, from "
                    f"{(frames_ms - self.frame_ms) / 1000:g} to {frames_ms / 1000:g}, got {end_s!r}"
                )
        long_enough = s.start is not None and end_ms - s.start * self.frame_ms > self.min_on_ms
        s.announced = s.announced or long_enough
        segment = self._end(s.frames, end_ms) if s.announced else None
        self.reset()
        return segment

    def _advance(self, p: float) -> Onset | Segment | None:
        s, t = self._state, self._state.frames
        s.frames = t + 1
        if p >= self.on:
            s.pause = None
            if s.start is None:
                s.start = t
        if s.start is None:
            return None
        if p < self._off:
            if s.pause is None:
                s.pause = t
            if t - s.pause >= self._min_off:
                return self._end(s.pause, s.pause * self.frame_ms + self.pad_ms)
        if (t + 2) * self.frame_ms - self._start_ms(s.start) > self.max_on_ms + ROUNDING:
            now_ms = (t + 1) * self.frame_ms
            if s.pause is None:
                return self._end(t + 1, now_ms)
            return self._end(s.pause, min(s.pause * self.frame_ms + self.pad_ms, now_ms))
        if not s.announced and s.pause is None and t + 1 - s.start >= self._min_on:
            s.announced = True
            return Onset(s.start, self._start_ms(s.start) / 1000)
        return None

    def _start_ms(self, frame: int) -> float:
        return max(frame * self.frame_ms - self.pad_ms, self._state.ended_ms)

    def _end(self, end: int, end_ms: float) -> Segment | None:
        s, segment = self._state, None
        if s.start is not None and (s.announced or end - s.start >= self._min_on):
            segment = Segment(s.start, end, self._start_ms(s.start) / 1000, end_ms / 1000)
            s.ended_ms = end_ms
        s.start, s.pause, s.announced = None, None, False
        return segment
