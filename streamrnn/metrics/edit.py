"""Edit distance, and error rates of words, characters and phonemes.

The distance is Levenshtein's: the fewest insertions, deletions and substitutions that turn one
sequence into the other. A rate is the sum of distances over the sum of the references' lengths.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, FrameError
from ..resumable import Resumable

__all__ = ["EditDistance", "ErrorRate", "edit_distance"]

UNITS = ("word", "character", "token")


@dataclass
class _Row:
    distances: npt.NDArray[np.int64]  # to the first 0, 1, … tokens of the reference


@dataclass
class EditDistance(Resumable):
    """Distance of a text from a reference, while it grows.

    Parameters
    ----------
    reference : sequence of hashable
        Tokens, words, or the characters of a string.

    Raises
    ------
    ConfigError
        If it is no such sequence.
    """

    reference: Sequence[Hashable]
    _state: _Row = field(init=False, repr=False, compare=False)
    _numbers: dict[Hashable, int] = field(init=False, repr=False, compare=False)
    _wanted: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.reference, np.ndarray):  # whose repr leaves out most of a long one
            self.reference = tuple(self.reference.tolist())
        try:
            distinct = dict.fromkeys(self.reference)
        except TypeError:
            raise ConfigError(
                f"EditDistance: `reference` must be a sequence of tokens, got {self.reference!r}"
            ) from None
        self._numbers = {token: i for i, token in enumerate(distinct)}
        wanted = [self._numbers[token] for token in self.reference]
        self._wanted = np.array(wanted, np.int64)
        self.reset()

    def _begin(self) -> _Row:
        return _Row(np.arange(self._wanted.size + 1))

    def step(self, token: Hashable) -> int:
        """Take the text's next token; return the distance of the text so far.

        Raises
        ------
        FrameError
            If the token is not hashable; the state is as before.
        """
        try:
            number = self._numbers.get(token, -1)
        except TypeError:
            raise FrameError(f"EditDistance.step: expected a token, got {token!r}") from None
        before, places = self._state.distances, np.arange(self._wanted.size + 1)
        row = before + 1  # the token is one too many …
        np.minimum(row[1:], before[:-1] + (self._wanted != number), out=row[1:])  # … or stands for
        self._state.distances = (
            np.minimum.accumulate(row - places) + places
        )  # … or some are missing
        return self.distance

    def run(self, tokens: Sequence[Hashable]) -> int:
        """Take tokens; return the distance of the text so far.

        Raises
        ------
        FrameError
            If a token is not hashable; the state is as before.
        """
        before = self._state.distances
        try:
            for token in tokens:
                self.step(token)
        except BaseException:
            self._state.distances = before
            raise
        return self.distance

    @property
    def distance(self) -> int:
        """From the whole reference."""
        return int(self._state.distances[-1])

    @property
    def prefix_distance(self) -> int:
        """From that beginning of the reference which is nearest: of a text that is not over."""
        return int(self._state.distances.min())


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Return the fewest edits that turn one sequence into the other.

    Raises
    ------
    ConfigError, FrameError
        If one of them holds something that is not hashable.
    """
    return EditDistance(reference).run(hypothesis)


@dataclass
class _Sums:
    errors: int = 0
    length: int = 0


@dataclass
class ErrorRate(Resumable):
    """Error rate over many texts: WER, CER or PER.

    Parameters
    ----------
    unit : str
        ``"word"`` (texts are split at white space), ``"character"``, or ``"token"`` (texts are
        sequences, of phonemes for instance).

    Raises
    ------
    ConfigError
        If it is none of these.
    """

    unit: str = "word"
    _state: _Sums = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(
                f"ErrorRate: `unit` must be one of {', '.join(UNITS)}, got {self.unit!r}"
            )
        self.reset()

    def _begin(self) -> _Sums:
        return _Sums()

    def step(self, reference: Any, hypothesis: Any) -> int:
        """Count a text and what it should be; return the edits between the two.

        Raises
        ------
        FrameError
            If they are no texts of the unit; the state is as before.
        """
        wanted, got = self._split("reference", reference), self._split("hypothesis", hypothesis)
        try:
            errors = edit_distance(wanted, got)
        except ConfigError:
            raise FrameError(f"ErrorRate.step: expected tokens, got {reference!r}") from None
        self._state.errors += errors
        self._state.length += len(wanted)
        return errors

    def _split(self, name: str, text: Any) -> Sequence[Hashable]:
        if self.unit == "token":
            fits = isinstance(text, (Sequence, np.ndarray)) and not isinstance(text, (str, bytes))
            wanted = "a sequence of tokens"
        else:
            fits, wanted = isinstance(text, str), "a string"
        if not fits:
            raise FrameError(
                f"ErrorRate.step: with unit={self.unit!r} the {name} is {wanted}, got {text!r}"
            )
        if isinstance(text, np.ndarray):
            return text.tolist()  # type: ignore[no-any-return]
        return text.split() if self.unit == "word" else text  # type: ignore[no-any-return]

    @property
    def errors(self) -> int:
        """Edits so far."""
        return self._state.errors

    @property
    def length(self) -> int:
        """Units of the references so far."""
        return self._state.length

    @property
    def rate(self) -> float:
        """Edits over units; NaN before the first unit, infinite if only nothing was to be said."""
        if not self.length:
            return math.inf if self.errors else math.nan
        return self.errors / self.length
