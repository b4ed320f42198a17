"""Area under the ROC curve: how often what is true scores higher than what is not.

That is the probability that a true one, drawn at random, has the higher score, where equals count
one half (Hanley and McNeil, 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..decode.choose import check_integer
from ..errors import FrameError
from ..resumable import Array, Resumable, check_labels, numbers, probabilities

__all__ = ["ROCAUC", "roc_auc"]


@dataclass
class _State:
    counts: npt.NDArray[np.int64]  # rows: not true, true


@dataclass
class ROCAUC(Resumable):
    """Area under the ROC curve of probabilities, from two histograms.

    Scores in the same of `bins` equal parts of 0 to 1 count as equals. A pair of those counts one
    half and may count anything from 0 to 1, so the error is at most half the share of such
    pairs: ``error_bound``. It shrinks as 1 / bins where scores are spread.

    Parameters
    ----------
    bins : int
        Parts of 0 to 1; each takes 16 bytes.

    Raises
    ------
    ConfigError
        If it is not at least 1.
    """

    bins: int = 1000
    _state: _State = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.bins = check_integer("ROCAUC", "bins", self.bins)
        self.reset()

    def _begin(self) -> _State:
        return _State(np.zeros((2, self.bins), np.int64))

    def step(self, p: Any, truth: Any) -> None:
        """Count a probability [shape=() or (1,)] and whether it should be 1; raise as `run`."""
        score = probabilities("ROCAUC.step", p, ())
        self._count("ROCAUC.step", score.reshape(1), truth)

    def run(self, xs: Any, truths: Any) -> None:
        """Count probabilities [shape=(T,) or (T, 1)] and whether they should be 1 [shape=(T,)].

        Raises
        ------
        FrameError, NonFiniteError
            If they are no probabilities, no labels 0 and 1, or not as many; the state is as before.
        """
        self._count("ROCAUC.run", probabilities("ROCAUC.run", xs, (None,)), truths)

    def _count(self, who: str, scores: Array, truths: Any) -> None:
        labels = _truths(who, truths, scores.size)
        bins = np.clip((scores * self.bins).astype(np.int64), 0, self.bins - 1)
        np.add.at(self._state.counts, (labels, bins), 1)

    @property
    def auc(self) -> float:
        """The area; NaN as long as there is not one of both labels."""
        below, equal, pairs = self._pairs()
        return (below + equal / 2) / pairs if pairs else math.nan

    @property
    def error_bound(self) -> float:
        """How far the area is from the exact one, at most."""
        _, equal, pairs = self._pairs()
        return equal / 2 / pairs if pairs else math.nan

    def _pairs(self) -> tuple[float, float, float]:
        """Return how many pairs are in order, how many are equals, and how many there are."""
        false, true = self._state.counts.astype(np.float64)
        below = np.cumsum(false) - false
        return float(true @ below), float(true @ false), float(true.sum() * false.sum())


def roc_auc(scores: Any, truths: Any) -> float:
    """Return the exact area under the ROC curve.

    Parameters
    ----------
    scores : float [shape=(T,)]
        Any numbers: probabilities, logits.
    truths : int or bool [shape=(T,)]
        Which of them should be high.

    Returns
    -------
    float
        NaN if there is not one of both labels.

    Raises
    ------
    FrameError, NonFiniteError
        If they are no numbers, no labels 0 and 1, or not as many.
    """
    values = numbers("roc_auc", scores, (None,))
    labels = _truths("roc_auc", truths, values.size)
    true, false = values[labels == 1], np.sort(values[labels == 0])
    if not true.size or not false.size:
        return math.nan
    below = np.searchsorted(false, true, "left").sum()
    up_to = np.searchsorted(false, true, "right").sum()
    return float((below + up_to) / (2 * true.size * false.size))


def _truths(who: str, truths: Any, count: int) -> npt.NDArray[np.int64]:
    labels = check_labels(f"{who}: truth", truths, 2)
    if labels.size != count:
        raise FrameError(f"{who}: expected as many truths as scores, {count}, got {labels.size}")
    return labels
