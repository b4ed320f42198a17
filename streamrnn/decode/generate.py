"""Generation: the token that was chosen is what the decoder reads next."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ..errors import ConfigError
from ..graph import describe
from ..layer import Layer
from ..stream import BaseStream
from .choose import Choose, Greedy, check_integer
from .decoder import Array, Decoder, Embed, as_tokens, first_tokens

__all__ = ["Chosen", "generate"]


class Chosen(NamedTuple):
    """A generated token."""

    token: int
    """Which one: 0 to V - 1."""
    log_probability: float
    """What the model gives for it, before any temperature or restriction."""


def generate(
    decoder: BaseStream | Layer,
    start: int | Sequence[int],
    *,
    steps: int | None = None,
    choose: Choose = Greedy(),  # noqa: B008  (it has no state)
    stop: int | Collection[int] = (),
    embed: Embed | None = None,
) -> Iterator[Chosen]:
    """Yield tokens as they come, each as soon as it is chosen.

    A token is fed to the decoder when the next one is asked for. So whoever stops listening can go
    on later: ``generate(stream, last_token)`` continues as if there had been no pause.

    Parameters
    ----------
    decoder : Stream, OnnxStream or Layer
        Reads a token, makes logits [shape=(V,)] of the next one. A stream goes on from its state,
        for example one that :func:`hand_over` has set, and keeps the new one; a layer gets a new
        stream.
    start : int or sequence of int
        What is fed first: a token that begins a text, or a text to go on from.
    steps : int, optional
        Most tokens to yield; without it there is no end but `stop`.
    choose : callable
        ``Greedy()``, ``Sample(…)``, or a function of your own, from log-probabilities,
        float64 [shape=(V,)], to a token.
    stop : int or collection of int
        Tokens that end the text; they are not yielded. (To see their log-probability, leave `stop`
        out and end the loop yourself.)
    embed : callable, optional
        From a token to what the decoder's ``step`` takes, where that is not the token itself: a
        one-hot frame, a vector of a table, or a tuple of inputs of which one stays the same.

    Yields
    ------
    Chosen
        ``(token, log_probability)``.

    Raises
    ------
    ConfigError
        If an argument has no meaning, the model is no decoder, or `choose` gives no token.
    FrameError
        If a token is not one of the model's.
    NonFiniteError
        If the logits hold a NaN, or nothing but minus infinity.
    """
    run = Decoder(decoder, embed)
    if steps is not None:
        check_integer("generate", "steps", steps)
    if not callable(choose):
        raise ConfigError(
            f"generate: `choose` must be Greedy(), Sample(…) or a function from "
            f"log-probabilities to a token, got {describe(choose)}"
        )
    stops = frozenset(as_tokens("generate: `stop`", stop, run.vocabulary))
    return _tokens(run, first_tokens("generate", start), steps, choose, stops)


def _tokens(
    run: Decoder, fed: tuple[int, ...], steps: int | None, choose: Choose, stop: frozenset[int]
) -> Iterator[Chosen]:
    made = 0
    while steps is None or made < steps:
        log_probabilities = run.feed(fed)
        token = _chosen(choose, log_probabilities)
        if token in stop:
            return
        yield Chosen(token, float(log_probabilities[token]))
        fed, made = (token,), made + 1


def _chosen(choose: Choose, log_probabilities: Array) -> int:
    V = log_probabilities.size
    given = choose(log_probabilities)
    try:
        token = operator.index(given)
    except TypeError:
        token = -1
    if not 0 <= token < V:
        raise ConfigError(f"`choose` must return a token from 0 to {V - 1}, got {given!r}")
    return token
