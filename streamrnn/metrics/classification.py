"""Labels against the truth: everything follows from the confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..decode.choose import check_integer
from ..errors import ConfigError, FrameError
from ..resumable import Array, Resumable, check_labels

__all__ = ["Classification"]


@dataclass
class _State:
    confusion: npt.NDArray[np.int64]


@dataclass
class Classification(Resumable):
    """Count how often each label was taken for each.

    Precision, recall and F1 are arrays, float64 [shape=(classes,)]. Where one is 0 by 0, for a
    label that never came, it is 0, as scikit-learn's ``zero_division=0``.

    Parameters
    ----------
    classes : int
        Labels are from 0 to ``classes - 1``; with 2 they may be truth values.

    Raises
    ------
    ConfigError
        If it is not at least 2.
    """

    classes: int = 2
    _state: _State = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.classes = check_integer("Classification", "classes", self.classes)
        if self.classes < 2:
            raise ConfigError("Classification: `classes` must be at least 2, got 1")
        self.reset()

    def _begin(self) -> _State:
        return _State(np.zeros((self.classes, self.classes), np.int64))

    def step(self, predicted: Any, truth: Any) -> None:
        """Count one label [shape=()] and what it should have been; raise as `run` does."""
        if np.ndim(predicted) or np.ndim(truth):
            raise FrameError(
                f"Classification.step: expected two labels, got shapes {np.shape(predicted)} and "
                f"{np.shape(truth)}: several go to `run`"
            )
        self._count("Classification.step", predicted, truth)

    def run(self, predicted: Any, truths: Any) -> None:
        """Count labels [shape=(T,)] and what they should have been [shape=(T,)].

        Raises
        ------
        FrameError
            If they are no labels, or not as many; the state is as before.
        """
        if np.shape(predicted) != np.shape(truths) or np.ndim(truths) != 1:
            raise FrameError(
                f"Classification.run: expected as many labels as truths, of shape (T,), got shapes "
                f"{np.shape(predicted)} and {np.shape(truths)}"
            )
        self._count("Classification.run", predicted, truths)

    def _count(self, who: str, predicted: Any, truths: Any) -> None:
        columns = check_labels(f"{who}: predicted", predicted, self.classes)
        rows = check_labels(f"{who}: truth", truths, self.classes)
        np.add.at(self._state.confusion, (rows, columns), 1)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """How often the label i was taken for j: int64 [shape=(classes, classes)]."""
        return np.array(self._state.confusion)

    @property
    def count(self) -> int:
        """Labels so far."""
        return int(self._state.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of right labels; NaN before the first one."""
        right = int(np.trace(self._state.confusion))
        return right / self.count if self.count else math.nan

    @property
    def precision(self) -> Array:
        """Of what was taken for a label, the share that was."""
        return _share(self._state.confusion.diagonal(), self._state.confusion.sum(0))

    @property
    def recall(self) -> Array:
        """Of what was a label, the share that was taken for it."""
        return _share(self._state.confusion.diagonal(), self._state.confusion.sum(1))

    @property
    def f1(self) -> Array:
        """Harmonic mean of precision and recall."""
        confusion = self._state.confusion
        return _share(2 * confusion.diagonal(), confusion.sum(0) + confusion.sum(1))

    @property
    def macro_f1(self) -> float:
        """Mean of F1 over the labels, those that never came included."""
        return float(self.f1.mean())


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Array:
    return np.asarray(part / np.maximum(whole, 1), np.float64)
