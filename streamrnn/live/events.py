"""A sink that makes events of probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from ..decode.hysteresis import Hysteresis, Onset, Segment
from ..errors import FrameError
from .sinks import Sink
from .source import Frame

__all__ = ["EventSink"]


class EventSink(Sink):
    """A line when something begins, and when it has ended; each column is a probability.

    Times are those of the frames: where the source dropped some, events after them are right.

    Parameters
    ----------
    file : text file
        Where lines go.
    columns : sequence of str
        What each number of an output is the probability of.
    rule : Hysteresis
        How segments are found; each column has a copy of its own.
    as_json : bool
        Write ``{"event": "onset", "label": …, "time_s": …}`` and ``{"event": "segment", "label": …,
        "start_s": …, "end_s": …}`` in place of words.
    """

    def __init__(
        self, file: TextIO, columns: Sequence[str], rule: Hysteresis, as_json: bool = False
    ) -> None:
        self.file, self.as_json, self.segments = file, as_json, 0
        kept = {
            name: getattr(rule, name)
            for name in ("frame_ms", "on", "off", "min_on_ms", "min_off_ms", "pad_ms", "max_on_ms")
        }
        self._rules = {name: Hysteresis(**kept) for name in columns}
        self._shift_s, self._frames, self._closed = 0.0, 0, False
        self._frame_s = rule.frame_ms / 1000

    def write(self, frame: Frame) -> None:
        numbers = frame.data.reshape(-1).tolist()
        if len(numbers) != len(self._rules):
            raise FrameError(
                f"events of {len(self._rules)} probabilities ({', '.join(self._rules)}), got "
                f"{len(numbers)} numbers"
            )
        self._shift_s = frame.time_s - self._frames * self._frame_s
        self._frames += 1
        for (name, rule), p in zip(self._rules.items(), numbers, strict=True):
            self._say(name, rule.step(p))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for name, rule in self._rules.items():
                self._say(name, rule.flush())

    def _say(self, label: str, event: Onset | Segment | None) -> None:
        if event is None:
            return
        if isinstance(event, Onset):
            at_s = event.time_s + self._shift_s
            said = {"event": "onset", "label": label, "time_s": round(at_s, 6)}
            line = f"{at_s:.2f} s: {label} begins"
        else:
            self.segments += 1
            start_s, end_s = event.start_s + self._shift_s, event.end_s + self._shift_s
            times = {"start_s": round(start_s, 6), "end_s": round(end_s, 6)}
            said = {"event": "segment", "label": label, **times}
            line = f"{end_s:.2f} s: {label} ends, it began at {start_s:.2f} s"
        self.file.write((json.dumps(said) if self.as_json else line) + "\n")
        self.file.flush()
