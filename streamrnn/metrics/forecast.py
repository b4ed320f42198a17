"""Forecasts against what came: MAE, RMSE, sMAPE, MASE.

sMAPE is that of the M4 competition: the mean of ``200 |f - y| / (|f| + |y|)``, in percent from 0 to
200; where both are 0 it is 0. MASE is that of Hyndman and Koehler, "Another look at measures of
forecast accuracy" (2006): the MAE over that of the seasonal naive forecast, "as `season` frames
ago".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..decode.choose import check_integer
from ..errors import FrameError
from ..resumable import Array, Resumable, check_amount, numbers

__all__ = ["ForecastError", "naive_error"]


@dataclass
class _State:
    count: int
    error: Array  # sums, one for each output
    absolute: Array
    squared: Array
    symmetric: Array
    naive: Array
    recent: Array  # the last truths, at `count % season` the oldest


@dataclass
class ForecastError(Resumable):
    """Errors of the forecasts so far; of several outputs, their mean.

    Parameters
    ----------
    outputs : int
        Numbers in a forecast.
    season : int
        Frames in a season, for MASE: 24 for hourly values, say.
    naive_mae : float, optional
        What MASE divides by: the error of the naive forecast on the training data, from
        :func:`naive_error`. Without, it is that on the truths so far.

    Raises
    ------
    ConfigError
        If these make no sense.
    """

    outputs: int = 1
    season: int = 1
    naive_mae: float | None = None
    _state: _State = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.outputs = check_integer("ForecastError", "outputs", self.outputs)
        self.season = check_integer("ForecastError", "season", self.season)
        if self.naive_mae is not None:
            self.naive_mae = check_amount(self, "naive_mae", zero=False)
        self.reset()

    def _begin(self) -> _State:
        e, a, q, s, n = np.zeros((5, self.outputs))
        return _State(0, e, a, q, s, n, np.zeros((self.season, self.outputs)))

    def step(self, forecast: Any, truth: Any) -> None:
        """Count a forecast and what came, float [shape=(outputs,), or () of one output].

        Raises
        ------
        FrameError, NonFiniteError
            If they are no finite numbers of this shape; the state is as before.
        """
        shape = () if self.outputs == 1 else (self.outputs,)
        f = numbers("ForecastError.step: forecast", forecast, shape)
        y = numbers("ForecastError.step: truth", truth, shape)
        self._count(f, y)

    def run(self, forecasts: Any, truths: Any) -> None:
        """Count forecasts and what came, float [shape=(T, outputs), or (T,) of one output].

        Raises
        ------
        FrameError, NonFiniteError
            As `step` does, or if they are not as many; the state is as before.
        """
        shape = (None,) if self.outputs == 1 else (None, self.outputs)
        f = numbers("ForecastError.run: forecasts", forecasts, shape)
        y = numbers("ForecastError.run: truths", truths, shape)
        if len(f) != len(y):
            raise FrameError(
                f"ForecastError.run: expected as many truths as forecasts, {len(f)}, got {len(y)}"
            )
        for one, other in zip(f, y, strict=True):
            self._count(one, other)

    def _count(self, f: Array, y: Array) -> None:
        s = self._state
        error, size = f - y, np.abs(f) + np.abs(y)
        s.error += error
        s.absolute += np.abs(error)
        s.squared += error * error
        s.symmetric += 200 * np.abs(error) / np.where(size > 0, size, 1)
        oldest = s.recent[s.count % self.season]
        if s.count >= self.season:
            s.naive += np.abs(y - oldest)
        oldest[:] = y
        s.count += 1

    @property
    def count(self) -> int:
        """Forecasts so far."""
        return self._state.count

    @property
    def bias(self) -> float:
        """Mean of forecast - truth; this and all others are NaN before the first forecast."""
        return self._mean(self._state.error)

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return self._mean(self._state.absolute)

    @property
    def rmse(self) -> float:
        """Root of the mean squared error; of several outputs, the mean of the roots."""
        s = self._state
        return float(np.sqrt(s.squared / s.count).mean()) if s.count else math.nan

    @property
    def smape_percent(self) -> float:
        """Symmetric mean absolute percentage error, 0 to 200."""
        return self._mean(self._state.symmetric)

    @property
    def mase(self) -> float:
        """Mean absolute scaled error: below 1 is better than the naive forecast.

        NaN before the naive forecast has begun, or where it has made no error.
        """
        s = self._state
        naive = s.naive / max(s.count - self.season, 1)
        if self.naive_mae is not None:
            naive = np.full(self.outputs, self.naive_mae)
        if not s.count or not (naive > 0).all():
            return math.nan
        return float((s.absolute / s.count / naive).mean())

    def _mean(self, sums: Array) -> float:
        count = self._state.count
        return float(sums.mean()) / count if count else math.nan


def naive_error(truths: Any, season: int = 1) -> float:
    """Return the mean absolute error of the forecast "as `season` frames ago" on a series.

    Parameters
    ----------
    truths : float [shape=(T,)]
        The series, such as the training data.
    season : int
        How many frames ago.

    Raises
    ------
    ConfigError
        If `season` is not at least 1.
    FrameError, NonFiniteError
        If they are no finite numbers, or not more than `season`.
    """
    check_integer("naive_error", "season", season)
    y = numbers("naive_error", truths, (None,))
    if y.size <= season:
        raise FrameError(f"naive_error: expected more than season={season} numbers, got {y.size}")
    return float(np.abs(y[season:] - y[:-season]).mean())
