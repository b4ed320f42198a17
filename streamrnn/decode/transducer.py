"""From encoder frames to text, where a model was trained as a transducer (RNN-T).

Graves, "Sequence transduction with recurrent neural networks" (2012), section 2: a joiner scores
the next token from an encoder frame and from what a prediction network makes of the text so far.
Greedy search takes the best token. If it is the blank, the next frame is due; if not, the
prediction network reads it, and the same frame is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..graph import describe
from ..layer import Layer
from ..stream import Stream
from .choose import check_integer
from .ctc import check_tokens, log_probabilities
from .decoder import Embed, index_frame, as_tokens

__all__ = ["Joiner", "TransducerGreedy", "TransducerToken"]

Joiner = Callable[[Any, Any], Any]
"""From an encoder frame and a prediction to logits, one for each token."""


class TransducerToken(NamedTuple):
    """A token that has been said."""

    token: int
    frame: int
    """The encoder frame that it came with, counted from 0."""
    log_probability: float


class TransducerGreedy:
    """Greedy search, one encoder frame after another; the state is the prediction network's.

    Parameters
    ----------
    predictor : Stream or Layer
        Reads a token, makes a prediction. A layer gets a stream of its own; a stream is reset.
    joiner : callable
        ``joiner(encoded, predicted)`` gives the logits, float [shape=(tokens,)]; with a model of two
        inputs this is ``lambda *x: stream.step(x)``. It must keep no state.
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

    def __init__(
        self,
        predictor: Stream | Layer,
        joiner: Joiner,
        *,
        tokens: int,
        blank: int = 0,
        start: int | Sequence[int] | None = None,
        max_symbols: int = 10,
        embed: Embed | None = None,
    ) -> None:
        if not isinstance(predictor, (Stream, Layer)):
            raise ConfigError(
                f"TransducerGreedy: `predictor` is a stream or a model, got {describe(predictor)}"
            )
        if not callable(joiner):
            raise ConfigError(
                f"TransducerGreedy: `joiner` must be a function of an encoder frame and a "
                f"prediction, got {describe(joiner)}"
            )
        self.tokens, self.blank = check_tokens("TransducerGreedy", tokens, blank)
        self.max_symbols = check_integer("TransducerGreedy", "max_symbols", max_symbols)
        self.predictor = predictor if isinstance(predictor, Stream) else predictor.stream()
        first = self.blank if start is None else start
        self._start = as_tokens("TransducerGreedy: `start`", first, tokens)
        if not self._start:
            raise ConfigError("TransducerGreedy: `start` must hold at least one token, got none")
        self._joiner, self._embed = joiner, embed or index_frame(self.predictor)
        self.reset()

    @property
    def frames(self) -> int:
        """Encoder frames since the beginning."""
        return self._frames

    def reset(self) -> None:
        """Begin anew: a fresh state, which has read `start`."""
        self.predictor.reset()
        for token in self._start:
            self._prediction = self._read(token)
        self._frames = 0

    def step(self, x: Any) -> list[TransducerToken]:
        """Take an encoder frame, as the joiner takes it; return the tokens that it says.

        Raises
        ------
        FrameError, NonFiniteError
            If the joiner's logits have another shape, are no numbers, or are probabilities. The
            state is as before, whatever is raised.
        """
        before = self.predictor._kept(), self._prediction
        said: list[TransducerToken] = []
        try:
            while len(said) < self.max_symbols:
                scores = self._joiner(x, self._prediction)
                log_p = log_probabilities("TransducerGreedy: joiner", scores, (self.tokens,))
                best = int(log_p.argmax())
                if best == self.blank:
                    break
                said.append(TransducerToken(best, self._frames, float(log_p[best])))
                self._prediction = self._read(best)
        except BaseException:
            self.predictor._go_back(before[0])
            self._prediction = before[1]
            raise
        self._frames += 1
        return said

    def run(self, xs: Any) -> list[TransducerToken]:
        """Take encoder frames, one after another; return the tokens that they say.

        Raises
        ------
        FrameError, NonFiniteError
            As `step` does. The state is as before, as if no frame had come.
        """
        before = self.predictor._kept(), self._prediction, self._frames
        try:
            return [token for x in xs for token in self.step(x)]
        except BaseException:
            self.predictor._go_back(before[0])
            _, self._prediction, self._frames = before
            raise

    def _read(self, token: int) -> Any:
        made = self.predictor.step(self._embed(token))
        if made is None:
            raise ConfigError(
                "TransducerGreedy: the predictor must answer each token at once; this one's output "
                f"comes {self.predictor.program.clock}"
            )
        return np.array(made) if isinstance(made, np.ndarray) else made
