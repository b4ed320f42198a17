"""What is done to features, frame by frame: differences, energy normalisation, fixed scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..graph import Value, describe
from ..ops.activations import Exp, Log
from ..ops.align import Align
from ..ops.arithmetic import Affine
from ..ops.concat import concat
from ..ops.deltas import Deltas
from ..ops.running import ExponentialMean
from .framing import FrontEnd

__all__ = ["PCEN", "WithDeltas", "standardize"]


@dataclass(eq=False)
class WithDeltas(FrontEnd):
    """Features, their differences over time, the differences of those, …, side by side.

    Frames are float32 [shape=(C,)], outputs float32 [shape=((order + 1) * C,)], which come
    ``order * (win_length // 2)`` frames later.

    Parameters
    ----------
    order : int
        How often differences are taken.
    win_length : int
        See :class:`streamrnn.Deltas`.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        If `order` is not positive or `win_length` is even or below 3.
    """

    order: int = 2
    win_length: int = 5

    def check(self) -> None:
        self.at_least(1, "order")
        Deltas(self.win_length)

    def build(self, x: Value) -> Value:
        stride = x.clock.stride
        parts = [x]
        for _ in range(self.order):
            parts.append(Deltas(self.win_length)(parts[-1]))
        last = parts[-1].clock.start
        waits = [last - part.clock.start for part in parts]
        aligned = [
            Align(0, wait, stride)(part) if wait else part
            for part, wait in zip(parts, waits, strict=True)
        ]
        return concat(*aligned)


@dataclass(eq=False)
class PCEN(FrontEnd):
    """Per-channel energy normalisation (Wang et al., 2017), as ``librosa.pcen``.

    ``m += s (x - m)`` and ``y = (x / (m + eps)^gain + bias)^power - bias^power``. Frames and
    outputs are float32 [shape=(C,)]; m begins at 1, as librosa's does.

    Parameters
    ----------
    sample_rate_hz : float
        Of the signal.
    hop_length : int
        Samples from one frame to the next.
    gain, bias, power, time_constant_s, eps : float
        As in librosa.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        If a number is not positive.
    """

    sample_rate_hz: float
    hop_length: int
    gain: float = 0.98
    bias: float = 2.0
    power: float = 0.5
    time_constant_s: float = 0.4
    eps: float = 1e-6

    def check(self) -> None:
        for name in ("sample_rate_hz", "bias", "power", "time_constant_s", "eps", "hop_length"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"PCEN: `{name}` must be positive, got {getattr(self, name)}")

    def rate(self) -> float:
        """Return s, the weight of a new frame."""
        frames = self.time_constant_s * self.sample_rate_hz / self.hop_length
        return (math.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2)

    def build(self, x: Value) -> Value:
        mean = ExponentialMean(self.rate())
        mean.initial_state = {"mean": np.ones(x.shape)}
        gain = Exp()(Log()(mean(x) + self.eps) * -self.gain)
        raised = Exp()(Log()(x * gain + self.bias) * self.power)
        return raised - math.pow(self.bias, self.power)


def standardize(mean: Any, std: Any) -> Affine:
    """Return the op ``(x - mean) / std``, with fixed numbers for each feature.

    Parameters
    ----------
    mean, std : array [shape=(C,)]
        Of the data that a model was trained on.

    Raises
    ------
    ConfigError
        If the shapes differ, or numbers are not finite or a `std` not positive.
    """
    m, s = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if m.ndim != 1 or m.shape != s.shape or not np.isfinite(m).all() or not (s > 0).all():
        raise ConfigError(
            f"standardize: expected `mean` and `std` of one shape (C,), finite and `std` positive, "
            f"got {describe(m)} and {describe(s)}"
        )
    op = Affine(m.shape)
    op.weights = {"weight": 1 / s, "bias": -m / s}
    return op
