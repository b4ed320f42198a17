"""Beam search: the best texts of a decoder, found by following several at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..layer import Layer
from ..stream import BaseStream
from .choose import check_integer, largest
from .decoder import Array, Decoder, Embed, as_tokens, first_tokens

__all__ = ["Hypothesis", "beam_search"]


class Hypothesis(NamedTuple):
    """A text that a beam search has found."""

    tokens: tuple[int, ...]
    """The tokens after `start`, without the one that ended them."""
    log_probability: float
    """Of all tokens, and of the one that ended them."""
    score: float
    """What the list is sorted by: the log-probability over ``length ** length_penalty``."""
    ended: bool
    """Whether a `stop` token has come; if not, `steps` were too few."""


@dataclass
class _Beam:
    """A text on its way: the state of the stream after it, and what may come next."""

    tokens: tuple[int, ...]
    total: float
    state: Any
    following: Array

    def hypothesis(self, token: int, total: float, ended: bool, penalty: float) -> Hypothesis:
        tokens = self.tokens if ended else (*self.tokens, token)
        score = total / (len(self.tokens) + 1) ** penalty
        return Hypothesis(tokens, total, score, ended)


def beam_search(
    decoder: BaseStream | Layer,
    start: int | Sequence[int],
    *,
    width: int,
    steps: int,
    stop: int | Collection[int] = (),
    length_penalty: float = 0.0,
    embed: Embed | None = None,
) -> list[Hypothesis]:
    """Return the best texts that a search of some width finds, best first.

    In each step the `width` most probable texts are kept, of all that one more token makes of those
    of the step before. A text that has ended keeps its place. With a width of 1 this is
    ``generate`` with ``Greedy()``; where `width` is at least the number of possible texts the
    search is exhaustive.

    The states of the texts are forks of one stream's: each costs a copy of the state and nothing
    else. The decoder's own stream stays as it was.

    Parameters
    ----------
    decoder, start, stop, embed
        As for :func:`generate`.
    width : int
        Texts to follow, and at most to return.
    steps : int
        Most tokens of a text, the `stop` token among them.
    length_penalty : float
        Texts are compared by log-probability over ``length ** length_penalty``: with 0, short ones
        win; with 1, the mean over the tokens counts (Wu et al., 2016, discuss the values between).

    Returns
    -------
    list of Hypothesis
        At most `width`.

    Raises
    ------
    ConfigError, FrameError, NonFiniteError
        As for :func:`generate`.
    """
    check_integer("beam_search", "width", width)
    check_integer("beam_search", "steps", steps)
    _check_penalty(length_penalty)
    run = Decoder(decoder.fork() if isinstance(decoder, BaseStream) else decoder, embed)
    stops = frozenset(as_tokens("beam_search: `stop`", stop, run.vocabulary))

    following = run.feed(first_tokens("beam_search", start))
    live = [_Beam((), 0.0, run.stream._kept(), following)]
    found: list[Hypothesis] = []
    for step in range(1, steps + 1):
        grown = []
        for parent, token, total in _best(live, width - len(found)):
            if token in stops or step == steps:
                found.append(parent.hypothesis(token, total, token in stops, length_penalty))
            else:
                grown.append((parent, token, total))
        live = [_grown(run, *each) for each in grown]
        if not live:
            break
    return sorted(found, key=lambda h: h.score, reverse=True)


def _best(live: Sequence[_Beam], n: int) -> list[tuple[_Beam, int, float]]:
    """Return the n most probable texts that one more token makes of these, best first."""
    totals = np.concatenate([beam.total + beam.following for beam in live])
    V = live[0].following.size
    return [
        (live[where // V], int(where % V), float(totals[where]))
        for where in largest(totals, n)
        if totals[where] > -math.inf
    ]


def _grown(run: Decoder, parent: _Beam, token: int, total: float) -> _Beam:
    """Return a text with one more token: a fork of its parent's state, one step on."""
    run.stream._go_back(parent.state)
    following = run.feed((token,))
    return _Beam((*parent.tokens, token), total, run.stream._kept(), following)


def _check_penalty(value: Any) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConfigError(f"beam_search: `length_penalty` must be a finite number, got {value!r}")
