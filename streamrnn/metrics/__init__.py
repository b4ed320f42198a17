"""How good a stream is, measured while it runs, in memory that does not grow.

- :class:`Classification`: accuracy, precision, recall, F1 of labels.
- :class:`ROCAUC`: area under the ROC curve of probabilities, with a bound of its error;
  :func:`roc_auc` is exact and needs all scores.
- :class:`ForecastError`: MAE, RMSE, sMAPE, MASE.
- :class:`ErrorRate`: word, character and phoneme error rates; :class:`EditDistance` of a text that
  is still growing; :func:`edit_distance`.
- :class:`DetectionLatency`: which events were detected, and how late.

Each has ``reset``, ``snapshot`` and ``restore``; a call that raises leaves its state as it was.
"""

from .classification import Classification
from .detection import DetectionLatency
from .edit import EditDistance, ErrorRate, edit_distance
from .forecast import ForecastError, naive_error
from .roc import ROCAUC, roc_auc

__all__ = [
    "Classification",
    "DetectionLatency",
    "EditDistance",
    "ErrorRate",
    "ForecastError",
    "ROCAUC",
    "edit_distance",
    "naive_error",
    "roc_auc",
]
