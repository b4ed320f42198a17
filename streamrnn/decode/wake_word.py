"""From probabilities of words to detections: a mean over the last frames, and a refractory time.

The mean is that of Chen, Parada and Heigold, "Small-footprint keyword spotting using deep neural
networks" (ICASSP 2014), equation 1, except that frames before the first count as zeros, so that one
loud frame at the beginning is no word. That a detection empties the window, and that nothing is
taken in for a while afterwards, is what ESPHome's micro_wake_word does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..resumable import Array, Resumable, check_amount, probabilities
from .choose import check_integer

__all__ = ["Detection", "WakeWord"]


class Detection(NamedTuple):
    """A word has been said."""

    label: int
    """Which one: its place in the frame."""
    frame: int
    """The frame that brought it, counted from 0."""
    time_s: float
    """The end of that frame, from the beginning of the stream."""
    score: float
    """The mean probability over the window."""


@dataclass
class _State:
    frames: int
    blind: int  # frames that are still to be left out
    window: Array  # the last frames, at `frames % window_frames` the oldest


@dataclass
class WakeWord(Resumable):
    """Detect words in a stream of probabilities, each of them once.

    Parameters
    ----------
    frame_ms : float
        Time from one frame to the next.
    words : int
        Probabilities in a frame. Leave out that of "no word": a label is a place in the frame.
    threshold : float
        A word is detected when its mean probability reaches this, dimensionless.
    window_frames : int
        Frames that the mean is taken over.
    refractory_ms : float
        After a detection, frames that begin within this time are left out, whatever word they hold.

    Raises
    ------
    ConfigError
        If the numbers make no sense.
    """

    frame_ms: float
    words: int = 1
    threshold: float = 0.5
    window_frames: int = 5
    refractory_ms: float = 1000.0
    _state: _State = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.frame_ms = check_amount(self, "frame_ms", zero=False)
        self.threshold = check_amount(self, "threshold", zero=False)
        self.refractory_ms = check_amount(self, "refractory_ms")
        self.words = check_integer("WakeWord", "words", self.words)
        self.window_frames = check_integer("WakeWord", "window_frames", self.window_frames)
        if self.threshold > 1:
            raise ConfigError(
                f"WakeWord: `threshold` must be a probability, got {self.threshold:g}"
            )
        self.reset()

    def _begin(self) -> _State:
        return _State(0, 0, np.zeros((self.window_frames, self.words)))

    def step(self, x: Any) -> Detection | None:
        """Take the next frame's probabilities; return the word that they complete, if any.

        Parameters
        ----------
        x : float [shape=(words,), or () of one word]
            From 0 to 1, dimensionless.

        Raises
        ------
        FrameError, NonFiniteError
            If they are no probabilities; the state is as before.
        """
        shape = () if self.words == 1 else (self.words,)
        return self._advance(probabilities("WakeWord.step", x, shape))

    def run(self, xs: Any) -> list[Detection]:
        """Take probabilities [shape=(T, words), or (T,) of one word]; return what they complete.

        Raises
        ------
        FrameError, NonFiniteError
            If one is no probability; the state is as before.
        """
        shape = (None,) if self.words == 1 else (None, self.words)
        found = map(self._advance, probabilities("WakeWord.run", xs, shape))
        return [detection for detection in found if detection is not None]

    def _advance(self, x: Array) -> Detection | None:
        s = self._state
        t, s.frames = s.frames, s.frames + 1
        if s.blind > 0:
            s.blind -= 1
            return None
        s.window[t % self.window_frames] = x
        mean = s.window.sum(0) / self.window_frames
        best = int(mean.argmax())
        if mean[best] < self.threshold:
            return None
        s.window[:] = 0
        s.blind = int(np.ceil(self.refractory_ms / self.frame_ms - 1e-6))
        return Detection(best, t, (t + 1) * self.frame_ms / 1000, float(mean[best]))
