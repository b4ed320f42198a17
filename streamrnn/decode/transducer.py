"""From encoder frames to text, where a model was trained as a transducer (RNN-T).

Graves, "Sequence transduction with recurrent neural networks" (2012), section 2: a joiner scores
the next token from an encoder frame and from what a prediction network makes of the text so far.
Greedy search takes the best token. If it is the blank, the next frame is due; if not, the
prediction network reads it, and the same frame is asked again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import ConfigError, StateError
from ..graph import Clock, describe
from ..layer import Layer
from ..stream import BaseStream
from .choose import check_integer
from .ctc import check_tokens, log_probabilities
from .decoder import Embed, as_tokens, index_frame

__all__ = ["Joiner", "TransducerGreedy", "TransducerToken"]

Joiner = Callable[[Any, Any], Any]
"""From an encoder frame and a prediction to logits, one for each token."""


class TransducerToken(NamedTuple):
    """A token that has been said."""

    token: int
    frame: int
    """The encoder frame that it came with, counted from 0."""
    log_probability: float


class _State(NamedTuple):
    frames: int
    before: Any  # the predictor's state before it read the last token
    last: int
    prediction: Any  # what it made of it


class TransducerGreedy:
    """Greedy search, one encoder frame after another; the state is the prediction network's.

    Parameters
    ----------
    predictor : Stream, OnnxStream or Layer
        Reads a token, makes a prediction. A layer gets a stream of its own; a stream is reset.
    joiner : callable
        ``joiner(encoded, predicted)`` gives the logits, float [shape=(tokens,)], and keeps no
        state; with a model of two inputs this is ``lambda *x: stream.step(x)``.
    tokens : int
        How many tokens the joiner scores, the blank among them.
    blank : int
        Which of them is the blank.
    start : int or sequence of int, optional
        What the predictor reads first; without, the blank.
    max_symbols : int
        Most tokens of one frame; then the next frame is due, blank or not.
    embed : callable, optional
        What the predictor reads for a token; not needed where it reads the token itself.

    Raises
    ------
    ConfigError
        If one of these makes no sense.
    FrameError
        If `start` is no token of the predictor's.
    """

    _state: _State

    def __init__(
        self,
        predictor: BaseStream | Layer,
        joiner: Joiner,
        *,
        tokens: int,
        blank: int = 0,
        start: int | Sequence[int] | None = None,
        max_symbols: int = 10,
        embed: Embed | None = None,
    ) -> None:
        if not isinstance(predictor, (BaseStream, Layer)):
            raise ConfigError(
                f"TransducerGreedy: `predictor` is a stream or a model, got {describe(predictor)}"
            )
        if not callable(joiner):
            raise ConfigError(
                f"TransducerGreedy: `joiner` must be a function of an encoder frame and a "
                f"prediction, got {describe(joiner)}"
            )
        self.predictor = predictor if isinstance(predictor, BaseStream) else predictor.stream()
        if self.predictor.program.clock != Clock():
            raise ConfigError(
                f"TransducerGreedy: the predictor must answer each token at once; this one's "
                f"output comes {self.predictor.program.clock}"
            )
        self.tokens, self.blank = check_tokens("TransducerGreedy", tokens, blank)
        self.max_symbols = check_integer("TransducerGreedy", "max_symbols", max_symbols)
        first = self.blank if start is None else start
        self._start = as_tokens("TransducerGreedy: `start`", first, tokens)
        if not self._start:
            raise ConfigError("TransducerGreedy: `start` must hold at least one token, got none")
        self._joiner, self._embed = joiner, embed or index_frame(self.predictor)
        self.reset()

    @property
    def frames(self) -> int:
        """Encoder frames since the beginning."""
        return self._state.frames

    def reset(self) -> None:
        """Begin anew: a fresh state, which has read `start`."""
        self.predictor.reset()
        for token in self._start:
            self._read(token, 0)

    def step(self, x: Any) -> list[TransducerToken]:
        """Take an encoder frame, as the joiner takes it; return the tokens that it says.

        Raises
        ------
        FrameError, NonFiniteError
            If the joiner's logits have another shape, are no numbers, or are probabilities. The
            state is as before, whatever is raised.
        """
        return self.run((x,))

    def run(self, xs: Iterable[Any]) -> list[TransducerToken]:
        """Take encoder frames, one after another; return the tokens that they say.

        Raises
        ------
        FrameError, NonFiniteError
            As `step` does. The state is as before, as if no frame had come.
        """
        before = self.predictor._kept(), self._state
        try:
            return [token for x in xs for token in self._advance(x)]
        except BaseException:
            self.predictor._go_back(before[0])
            self._state = before[1]
            raise

    def snapshot(self) -> bytes:
        """Return the state, to go on from elsewhere; the predictor's weights are not in it."""
        s, now = self._state, self.predictor._kept()
        self.predictor._go_back(s.before)
        inner = self.predictor.snapshot()
        self.predictor._go_back(now)
        body = f"{s.frames} {s.last}\n".encode() + inner
        return f"{zlib.crc32(body):08x} ".encode() + body

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot.

        Raises
        ------
        StateError
            If it is none, or of another predictor; the state is as before.
        """
        try:
            checksum, body = snapshot.split(b" ", 1)
            head, inner = body.split(b"\n", 1)
            frames, last = map(int, head.split())
            whole = int(checksum, 16) == zlib.crc32(body)
        except (AttributeError, TypeError, ValueError):
            whole = False
        if not whole:
            raise StateError(
                "TransducerGreedy: this is no snapshot of a transducer, or a damaged one"
            )
        if frames < 0 or not 0 <= last < self.tokens:
            raise StateError(
                f"TransducerGreedy: this snapshot's last token is {last} after {frames} frames; "
                f"there are {self.tokens} tokens"
            )
        self.predictor.restore(inner)
        self._read(last, frames)

    def _advance(self, x: Any) -> Iterator[TransducerToken]:
        frame = self._state.frames
        for _ in range(self.max_symbols):
            scores = self._joiner(x, self._state.prediction)
            log_p = log_probabilities("TransducerGreedy: joiner", scores, (self.tokens,))
            best = int(log_p.argmax())
            if best == self.blank:
                break
            yield TransducerToken(best, frame, float(log_p[best]))
            self._read(best, frame)
        self._state = self._state._replace(frames=frame + 1)

    def _read(self, token: int, frames: int) -> None:
        before = self.predictor._kept()
        prediction = self.predictor.step(self._embed(token))
        self._state = _State(frames, before, token, prediction)
