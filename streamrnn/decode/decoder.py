"""A stream as a decoder: a token goes in, the log-probabilities of the next one come out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, NonFiniteError
from ..graph import Clock, describe
from ..layer import Layer
from ..stream import BaseStream

__all__ = ["Decoder", "Embed", "as_tokens", "first_tokens", "index_frame"]

Array = npt.NDArray[np.float64]

Embed = Callable[[int], Any]
"""From a token to what the stream's ``step`` takes."""


class Decoder:
    """A stream, and how a token is fed to it.

    Parameters
    ----------
    model : Stream, OnnxStream or Layer
        A stream is used as it stands and goes on from its state; a layer gets a new one.
    embed : callable, optional
        What the model reads for a token; not needed where it reads the token itself.

    Raises
    ------
    ConfigError
        If the model does not make a vector of logits for each frame, or `embed` is missing.
    """

    def __init__(self, model: BaseStream | Layer, embed: Embed | None) -> None:
        if not isinstance(model, (BaseStream, Layer)):
            raise ConfigError(f"a decoder is a stream or a model, got {describe(model)}")
        self.stream = model if isinstance(model, BaseStream) else model.stream()
        self.vocabulary = _vocabulary(self.stream)
        self._embed = embed if embed is not None else index_frame(self.stream)
        if not callable(self._embed):
            raise ConfigError(
                f"`embed` must be a function from a token to a frame, got {describe(embed)}; "
                f"for a table of vectors that is `table.__getitem__`"
            )

    def feed(self, tokens: Sequence[int]) -> Array:
        """Run some tokens, at least one; return what comes next: float64 [shape=(V,)].

        Raises
        ------
        FrameError
            If a token is not in the embedding's table, or `embed` gives no frame of the model's.
        NonFiniteError
            If the logits are no numbers; those of minus infinity, tokens that cannot come, may be.
        """
        for token in tokens:
            scores = self.stream.step(self._embed(token))
        return _log_softmax(np.asarray(scores, np.float64).reshape(-1), self.stream.frames)


def _vocabulary(stream: BaseStream) -> int:
    """Return the number of tokens that a decoder chooses from."""
    outputs, program = stream.program.outputs, stream.program
    shapes = [value.shape for value in outputs]
    if len(shapes) != 1 or not shapes[0] or outputs[0].size != shapes[0][-1]:
        raise ConfigError(
            f"a decoder makes one vector of logits, one for each token; this model makes "
            f"{', '.join(map(str, shapes))}: leave the other outputs out of its Model(…)"
        )
    if program.clock != Clock():
        raise ConfigError(
            f"a decoder answers each token at once; this model's output comes {program.clock}"
        )
    last = outputs[0]
    while last.op is not None and last.op.moves_only:
        last = last.args[0]
    if last.op is not None and last.op.sums_to_one:
        raise ConfigError(
            f"a decoder makes logits; this model ends in probabilities ({last.op!r}): put the "
            f"logarithm behind it, Sequential(model, Log())"
        )
    return outputs[0].size


def index_frame(stream: BaseStream) -> Embed:
    """Return how a token is fed to a model that reads indices; raise ConfigError if it does not."""
    inputs = stream.program.inputs
    if len(inputs) != 1 or inputs[0].dtype != "int64" or inputs[0].size != 1:
        shapes = ", ".join(f"{value.dtype} {value.shape}" for value in inputs)
        raise ConfigError(
            f"this decoder reads {shapes}: pass `embed`, a function from a token to what `step` "
            f"takes, such as np.eye({stream.program.output_size}, dtype=np.float32).__getitem__"
        )
    shape = inputs[0].shape
    return (lambda token: np.full(shape, token)) if shape else operator.index


def _log_softmax(logits: Array, frames: int) -> Array:
    top = logits.max()
    if not np.isfinite(top):
        bad = np.flatnonzero(np.isnan(logits) | (logits == np.inf))
        what = f"{logits[bad[0]]} at token {bad[0]}" if bad.size else "-inf at every token"
        raise NonFiniteError(
            f"the decoder's logits after {frames} frames hold {what}: there is no next token; "
            f"look at its weights and at the states it began with"
        )
    logits -= top
    logits -= np.log(np.exp(logits).sum())
    return logits


def as_tokens(what: str, tokens: Any, vocabulary: int | None = None) -> tuple[int, ...]:
    """Return a token, or several, as a tuple; raise ConfigError if they are none."""
    scalar = isinstance(tokens, np.ndarray) and tokens.ndim == 0
    several = isinstance(tokens, Collection) and not scalar
    try:
        checked = tuple(map(operator.index, tokens if several else (tokens,)))
    except TypeError:
        raise ConfigError(
            f"{what} must be a token, an integer, or several, got {tokens!r}"
        ) from None
    for token in checked:
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            limit = f"to {vocabulary - 1}" if vocabulary is not None else "on"
            raise ConfigError(f"{what} must hold tokens from 0 {limit}, got {token}")
    return checked


def first_tokens(who: str, start: Any) -> tuple[int, ...]:
    """Return what is fed first, at least one token; raise ConfigError if there is none."""
    first = as_tokens(f"{who}: `start`", start)
    if not first:
        raise ConfigError(f"{who}: `start` must hold at least one token, got none")
    return first
