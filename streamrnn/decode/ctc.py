"""From frames of scores to text, where a model was trained with CTC.

Graves et al., "Connectionist temporal classification" (ICML 2006): each frame says a token or
the blank; a text is what remains of the frames' tokens when repetitions are merged and
blanks left out. :class:`CTCGreedy` follows the best token of each frame ("best path decoding").
:class:`CTCBeam` sums over all the ways in which the frames can say a text (prefix search, in the
form of Hannun et al., "First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs", 2014, algorithm 1, without a language model).

Scores are logits, one for each token: their softmax is taken. Log-probabilities are logits too.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, FrameError, NonFiniteError
from ..resumable import Array, Resumable
from .choose import check_integer, largest

__all__ = ["CTCBeam", "CTCGreedy", "CTCText", "CTCToken", "check_tokens", "log_probabilities"]


class CTCToken(NamedTuple):
    """A token that has been said."""

    token: int
    frame: int
    """The first frame that said it, counted from 0."""
    log_probability: float
    """Of the token, in that frame."""


class CTCText(NamedTuple):
    """A text that the frames so far may say."""

    tokens: tuple[int, ...]
    """Without those that :meth:`CTCBeam.commit` has returned."""
    log_probability: float
    """Of all alignments that the search has kept."""


@dataclass
class _GreedyState:
    frames: int = 0
    last: int = -1  # what the frame before said
    log_probability: float = 0.0


@dataclass
class CTCGreedy(Resumable):
    """The most probable token of each frame, repetitions merged, blanks left out.

    Parameters
    ----------
    tokens : int
        Scores in a frame, the blank's among them.
    blank : int
        Which of them is the blank's.

    Raises
    ------
    ConfigError
        If `tokens` is not at least 2, or `blank` not one of them.
    """

    tokens: int
    blank: int = 0
    _state: _GreedyState = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.tokens, self.blank = check_tokens("CTCGreedy", self.tokens, self.blank)
        self.reset()

    def _begin(self) -> _GreedyState:
        return _GreedyState()

    @property
    def log_probability(self) -> float:
        """Of the path so far: the sum of the best token's in each frame."""
        return self._state.log_probability

    def step(self, x: Any) -> CTCToken | None:
        """Take the next frame's scores [shape=(tokens,)]; return the token that it begins, if any.

        Raises
        ------
        FrameError, NonFiniteError
            If they have another shape, are no numbers, or are probabilities; the state is as
            before.
        """
        return self._advance(log_probabilities("CTCGreedy.step", x, (self.tokens,)))

    def run(self, xs: Any) -> list[CTCToken]:
        """Take scores [shape=(T, tokens)]; return the tokens that they begin.

        Raises
        ------
        FrameError, NonFiniteError
            As `step` does; the state is as before.
        """
        frames = log_probabilities("CTCGreedy.run", xs, (None, self.tokens))
        return [token for token in map(self._advance, frames) if token is not None]

    def _advance(self, log_p: Array) -> CTCToken | None:
        s, best = self._state, int(log_p.argmax())
        frame, before = s.frames, s.last
        s.frames, s.last = frame + 1, best
        s.log_probability += float(log_p[best])
        if best in (self.blank, before):
            return None
        return CTCToken(best, frame, float(log_p[best]))


@dataclass
class _BeamState:
    texts: list[list[int]]
    blank: Array  # log-probability of each text, its last frame a blank
    other: Array  # and its last frame not a blank
    committed: int = -1  # the last token that was committed


@dataclass
class CTCBeam(Resumable):
    """The most probable texts, found by following several at once.

    ``beam.texts()`` may be asked for at any time. In a stream without end, ``beam.commit()``
    returns the tokens that have become certain, and forgets them; without it the texts grow.

    Parameters
    ----------
    tokens : int
        Scores in a frame, the blank's among them.
    width : int
        Texts to follow. Where it is at least the number of possible texts, the search is exact.
    blank : int
        Which of the scores is the blank's.

    Raises
    ------
    ConfigError
        If `tokens` is not at least 2, `blank` not one of them, or `width` not at least 1.
    """

    tokens: int
    width: int = 10
    blank: int = 0
    _state: _BeamState = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.tokens, self.blank = check_tokens("CTCBeam", self.tokens, self.blank)
        self.width = check_integer("CTCBeam", "width", self.width)
        self.reset()

    def _begin(self) -> _BeamState:
        return _BeamState([[]], np.zeros(1), np.full(1, -np.inf))

    def step(self, x: Any) -> None:
        """Take the next frame's scores [shape=(tokens,)].

        Raises
        ------
        FrameError, NonFiniteError
            If they have another shape, are no numbers, or are probabilities; the state is as
            before.
        """
        self._advance(log_probabilities("CTCBeam.step", x, (self.tokens,)))

    def run(self, xs: Any) -> list[CTCText]:
        """Take scores [shape=(T, tokens)]; return the texts, best first.

        Raises
        ------
        FrameError, NonFiniteError
            As `step` does; the state is as before.
        """
        for frame in log_probabilities("CTCBeam.run", xs, (None, self.tokens)):
            self._advance(frame)
        return self.texts()

    def texts(self) -> list[CTCText]:
        """Return what the frames so far may say, best first; at most `width` texts."""
        s = self._state
        found = zip(s.texts, np.logaddexp(s.blank, s.other).tolist(), strict=True)
        return [CTCText(tuple(text), total) for text, total in found]

    def commit(self) -> tuple[int, ...]:
        """Return the tokens that all texts begin with, and take them off the texts."""
        s = self._state
        columns = zip(*s.texts, strict=False)  # as far as the shortest goes
        alike = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
        certain = tuple(column[0] for column in alike)
        if certain:
            s.committed = certain[-1]
            s.texts = [text[len(certain) :] for text in s.texts]
        return certain

    def _advance(self, log_p: Array) -> None:
        """Extend each text by nothing or by one token; keep the best."""
        s, n = self._state, len(self._state.texts)
        last = [text[-1] if text else s.committed for text in s.texts]
        total = np.logaddexp(s.blank, s.other)
        blank = total + log_p[self.blank]
        other = np.full(n, -np.inf)
        grown = total[:, None] + log_p
        grown[:, self.blank] = -np.inf
        for i, token in enumerate(last):
            if token >= 0:
                other[i] = s.other[i] + log_p[token]  # said on: the same text
                grown[i, token] = s.blank[i] + log_p[token]  # said anew, behind a blank
        where = {tuple(text): i for i, text in enumerate(s.texts)}
        for i, text in enumerate(s.texts):
            parent = where.get(tuple(text[:-1])) if text else None
            if parent is not None:  # it grows into a text that is there: one text
                other[i] = np.logaddexp(other[i], grown[parent, last[i]])
                grown[parent, last[i]] = -np.inf
        every = np.concatenate([np.logaddexp(blank, other), grown.ravel()])
        kept = [int(i) for i in largest(every, self.width) if every[i] > -math.inf]
        texts = [self._text(i) for i in kept]
        s.blank = np.array([blank[i] if i < n else -np.inf for i in kept])
        s.other = np.array([other[i] if i < n else every[i] for i in kept])
        s.texts = texts

    def _text(self, i: int) -> list[int]:
        """Return the text of candidate i: those there were, then each with each token more."""
        texts = self._state.texts
        if i < len(texts):
            return texts[i]
        parent, token = divmod(i - len(texts), self.tokens)
        return [*texts[parent], token]


def log_probabilities(who: str, xs: Any, shape: tuple[int | None, ...]) -> Array:
    """Return the log-softmax of logits over the last axis, float64 of the given shape.

    Raises
    ------
    FrameError, NonFiniteError
        If they have another shape or are no numbers, are probabilities instead, or hold a NaN or
        an infinity other than the minus infinity of what cannot come.
    """
    x = np.asarray(xs)
    fits = x.ndim == len(shape) and x.shape[-1] == shape[-1]
    if not fits or x.dtype.kind not in "fiu":
        wanted = f"({shape[-1]},)" if len(shape) == 1 else f"(T, {shape[-1]})"
        raise FrameError(
            f"{who}: expected scores of shape {wanted}, got {x.dtype} of shape {x.shape}"
        )
    x = x.astype(np.float64)
    top = x.max(-1, keepdims=True)
    if not np.isfinite(top).all():
        bad = x[~(x < np.inf)]
        what = f"{bad[0]}" if bad.size else "-inf for every token"
        raise NonFiniteError(f"{who}: expected finite scores, or -inf for some, got {what}")
    sums = x.sum(-1)
    looks = (x.min(-1, initial=0) >= 0) & (np.abs(sums - 1) < 1e-4)
    if looks.any():
        raise FrameError(
            f"{who}: expected logits or log-probabilities, got probabilities (they are not "
            f"negative and their sum is {sums[looks].flat[0]:g}): put Log() behind the model"
        )
    return np.asarray(x - top - np.log(np.exp(x - top).sum(-1, keepdims=True)))


def check_tokens(who: str, tokens: Any, blank: Any) -> tuple[int, int]:
    """Return how many tokens there are and which is the blank; raise ConfigError if it is none."""
    check_integer(who, "tokens", tokens)
    if tokens < 2:
        raise ConfigError(f"{who}: `tokens` must be at least 2, a token and the blank, got 1")
    integer = isinstance(blank, (int, np.integer)) and not isinstance(blank, bool)
    if not integer or not 0 <= blank < tokens:
        raise ConfigError(f"{who}: `blank` must be from 0 to {tokens - 1}, got {blank!r}")
    return int(tokens), int(blank)
