"""When an utterance is over: rules about trailing silence and length.

The rules are those of Kaldi's ``online-endpoint.h``, without the one thing in them that only a
decoder over a graph knows (``max_relative_cost``); :data:`SHERPA_RULES` are the three that sherpa
and sherpa-onnx begin with (``endpoint.h``: rule1, rule2, rule3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, FrameError
from ..resumable import Resumable, check_amount

__all__ = ["SHERPA_RULES", "Endpoint", "Endpointer", "Rule"]


@dataclass(frozen=True)
class Rule:
    """An utterance is over when all three hold.

    Parameters
    ----------
    needs_speech : bool
        Whether there must have been speech.
    min_silence_ms : float
        Silence at the end of the utterance that there must be.
    min_utterance_ms : float
        How long the utterance must be, silence on both sides included.

    Raises
    ------
    ConfigError
        If the numbers make no sense, or the rule always holds.
    """

    needs_speech: bool = False
    min_silence_ms: float = 0.0
    min_utterance_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_silence_ms", "min_utterance_ms"):
            object.__setattr__(self, name, check_amount(self, name))
        if self.min_silence_ms == self.min_utterance_ms == 0:
            raise ConfigError(
                "Rule: one of `min_silence_ms` and `min_utterance_ms` must be above 0, or every "
                "frame is the end of an utterance"
            )


SHERPA_RULES = (
    Rule(needs_speech=False, min_silence_ms=2400),
    Rule(needs_speech=True, min_silence_ms=1200),
    Rule(min_utterance_ms=20_000),
)
"""Silence for long; silence for some time after speech; an utterance without an end."""


class Endpoint(NamedTuple):
    """An utterance is over."""

    rule: int
    """The first rule that held, counted from 0."""
    start_frame: int
    """The utterance's first frame."""
    end_frame: int
    """The frame behind its last one, with which the next utterance begins."""
    speech_end_frame: int
    """The frame behind the last one with speech; the first frame if there was none."""
    time_s: float
    """When the last frame ended, from the beginning of the stream."""


@dataclass
class _State:
    frames: int = 0
    start: int = 0
    speech_end: int | None = None


@dataclass
class Endpointer(Resumable):
    """Say when an utterance is over; the next one begins with the next frame.

    Parameters
    ----------
    frame_ms : float
        Time from one frame to the next.
    rules : iterable of Rule
        The utterance is over as soon as one of them holds.

    Raises
    ------
    ConfigError
        If there are no rules, or `frame_ms` makes no sense.
    """

    frame_ms: float
    rules: Iterable[Rule] = SHERPA_RULES
    _state: _State = field(init=False, repr=False, compare=False)
    _rules: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.frame_ms = check_amount(self, "frame_ms", zero=False)
        rules = self.rules if isinstance(self.rules, Iterable) else (self.rules,)
        self.rules = self._rules = tuple(rules)
        if not self._rules or not all(isinstance(rule, Rule) for rule in self._rules):
            raise ConfigError(f"Endpointer: `rules` must be some Rule(…), got {self.rules!r}")
        self.reset()

    def _begin(self) -> _State:
        return _State()

    def step(self, speech: bool) -> Endpoint | None:
        """Take whether there is speech in the next frame; return the utterance that is over.

        Parameters
        ----------
        speech : bool
            That a probability is above a threshold, a :class:`Hysteresis` is on, or a
            :class:`CTCGreedy` has emitted a token, for instance.

        Raises
        ------
        FrameError
            If it is no truth value; the state is as before.
        """
        if not isinstance(speech, (bool, np.bool_)):
            raise FrameError(
                f"Endpointer.step: expected whether there is speech, True or False, got {speech!r}:"
                f" compare a probability with a threshold"
            )
        return self._advance(bool(speech))

    def run(self, xs: Any) -> list[Endpoint]:
        """Take truth values, bool [shape=(T,)]; return the utterances that are over.

        Raises
        ------
        FrameError
            If they are no truth values; the state is as before.
        """
        frames = np.asarray(xs)
        if frames.ndim != 1 or (frames.dtype != np.bool_ and frames.size):
            raise FrameError(
                f"Endpointer.run: expected bool of shape (T,), got {frames.dtype} of shape "
                f"{frames.shape}: compare probabilities with a threshold"
            )
        return [end for end in map(self._advance, frames.tolist()) if end is not None]

    def _advance(self, speech: bool) -> Endpoint | None:
        s = self._state
        s.frames += 1
        if speech:
            s.speech_end = s.frames
        speech_end = s.start if s.speech_end is None else s.speech_end
        length_ms = (s.frames - s.start) * self.frame_ms + 1e-6
        silence_ms = (s.frames - speech_end) * self.frame_ms + 1e-6
        for i, rule in enumerate(self._rules):
            spoken = s.speech_end is not None or not rule.needs_speech
            if spoken and silence_ms >= rule.min_silence_ms and length_ms >= rule.min_utterance_ms:
                end = Endpoint(i, s.start, s.frames, speech_end, s.frames * self.frame_ms / 1000)
                s.start, s.speech_end = s.frames, None
                return end
        return None
