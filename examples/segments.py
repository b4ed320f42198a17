"""From speech probabilities to segments of speech, and how far those are from a reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["DetectionError", "Segment", "Segmenter", "detection_error", "merged", "read_rttm"]


class Segment(NamedTuple):
    """Speech from `start_s` to `end_s`, in seconds from the beginning of the recording."""

    start_s: float
    end_s: float


@dataclass
class Segmenter:
    """Find segments in a stream of speech probabilities, as Silero's own ``get_speech_timestamps``.

    Speech begins with a frame at `threshold` or above. It ends with the first frame below
    ``threshold - 0.15`` after which no frame reaches `threshold` again for `min_silence_ms`.

    Parameters
    ----------
    threshold : float
        Probability at which speech begins, dimensionless.
    frame_ms : float
        Time from one probability to the next.
    min_silence_ms : float
        Shorter pauses do not end a segment.
    min_speech_ms : float
        Segments that are not longer than this are dropped.
    pad_ms : float
        Added to both ends of a segment; at most half of `min_silence_ms`, so that none overlap.

    Raises
    ------
    ValueError
        If `pad_ms` is more than that.
    """

    threshold: float = 0.5
    frame_ms: float = 32.0
    min_silence_ms: float = 100.0
    min_speech_ms: float = 250.0
    pad_ms: float = 30.0
    _frames: int = field(default=0, init=False)
    _start_ms: float | None = field(default=None, init=False)
    _silence_ms: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if 2 * self.pad_ms > self.min_silence_ms:
            raise ValueError(
                f"`pad_ms` must be at most half of min_silence_ms={self.min_silence_ms}, "
                f"got {self.pad_ms}: segments would overlap"
            )

    def push(self, probability: float) -> Segment | None:
        """Take the next frame's probability; return the segment that it ends, if any."""
        now_ms = self._frames * self.frame_ms
        self._frames += 1
        if probability >= self.threshold:
            self._silence_ms = None
            if self._start_ms is None:
                self._start_ms = now_ms
        elif self._start_ms is not None and probability < max(self.threshold - 0.15, 0.01):
            if self._silence_ms is None:
                self._silence_ms = now_ms
            if now_ms - self._silence_ms >= self.min_silence_ms:
                return self._end(self._silence_ms, self._silence_ms + self.pad_ms)
        return None

    def flush(self, end_s: float | None = None) -> Segment | None:
        """Return the segment that the end of the stream cuts off, if any, and start anew.

        Parameters
        ----------
        end_s : float, optional
            Where the sound ends, in seconds, if that is before the end of the last frame.
        """
        end_ms = self._frames * self.frame_ms if end_s is None else end_s * 1000
        segment = self._end(end_ms, end_ms)
        self._frames = 0
        return segment

    def _end(self, speech_end_ms: float, padded_end_ms: float) -> Segment | None:
        start_ms, self._start_ms, self._silence_ms = self._start_ms, None, None
        if start_ms is None or speech_end_ms - start_ms <= self.min_speech_ms:
            return None
        return Segment(max(start_ms - self.pad_ms, 0.0) / 1000, padded_end_ms / 1000)


def read_rttm(path: Path) -> list[Segment]:
    """Return the segments in an RTTM file, whoever speaks: merged and in order.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no RTTM file; the message names the line.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return merged(_speaker_turn(i, line) for i, line in enumerate(lines, 1) if line.strip())


def _speaker_turn(number: int, line: str) -> Segment:
    words = line.split()
    try:
        start_s, duration_s = float(words[3]), float(words[4])
        if words[0] == "SPEAKER" and 0 <= start_s < math.inf and 0 <= duration_s < math.inf:
            return Segment(start_s, start_s + duration_s)
    except (IndexError, ValueError):
        pass
    raise ValueError(
        f"line {number} must read `SPEAKER file channel start duration …`, times in seconds, "
        f"got {line[:60]!r}"
    )


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """Return the segments in order, those that overlap or touch as one."""
    result: list[Segment] = []
    for segment in sorted(segments):
        if result and segment.start_s <= result[-1].end_s:
            segment = Segment(result[-1].start_s, max(result.pop().end_s, segment.end_s))
        result.append(segment)
    return result


class DetectionError(NamedTuple):
    """What a detector missed and what it made up, in seconds."""

    missed_s: float
    false_alarm_s: float
    reference_s: float

    @property
    def rate(self) -> float:
        """Missed speech and false alarms together, as a fraction of the reference speech."""
        wrong_s = self.missed_s + self.false_alarm_s
        if not self.reference_s:
            return math.inf if wrong_s else 0.0
        return wrong_s / self.reference_s


def detection_error(
    found: Sequence[Segment], reference: Sequence[Segment], duration_s: float
) -> DetectionError:
    """Compare the segments found with a reference, exactly, within the first `duration_s` seconds.

    Overlapping segments of either list count once.
    """
    found, reference = _within(found, duration_s), _within(reference, duration_s)
    common_s = sum(
        max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))
        for a in found
        for b in reference
    )
    reference_s = _total_s(reference)
    return DetectionError(reference_s - common_s, _total_s(found) - common_s, reference_s)


def _within(segments: Sequence[Segment], duration_s: float) -> list[Segment]:
    cut = [Segment(max(s.start_s, 0.0), min(s.end_s, duration_s)) for s in segments]
    return merged(s for s in cut if s.end_s > s.start_s)


def _total_s(segments: Sequence[Segment]) -> float:
    return sum(s.end_s - s.start_s for s in segments)
