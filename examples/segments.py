"""Segments of speech, and how far those found are from a reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["DetectionError", "Segment", "detection_error", "merged", "read_rttm"]


class Segment(NamedTuple):
    """Speech from `start_s` to `end_s`, in seconds from the beginning of the recording."""

    start_s: float
    end_s: float


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
