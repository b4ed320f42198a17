"""Mel filters and the cosine transform behind them.

Three kinds of filters, each named after who computes them so:

============  ===================================  ========================================
``"slaney"``  linear below 1 kHz, then logarithmic  triangles over hertz (librosa's default)
``"htk"``     ``2595 log10(1 + f / 700)``           triangles over hertz (torchaudio)
``"kaldi"``   ``1127 ln(1 + f / 700)``              triangles over mel
============  ===================================  ========================================

With ``norm="slaney"`` a triangle over hertz has the area 1, otherwise the height 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .fixed import _FixedProduct
from .op import Array

__all__ = ["DCT", "MelFilterbank"]

# Slaney's scale (Auditory Toolbox, 1998): 3 mel are 200 Hz up to 1 kHz, then 27 a factor of 6.4.
BREAK_HZ, BREAK_MEL, LOG_STEP = 1000.0, 15.0, math.log(6.4) / 27


def _slaney(f: Array) -> Array:
    above = BREAK_MEL + np.log(np.maximum(f, 1e-9) / BREAK_HZ) / LOG_STEP
    return np.where(f >= BREAK_HZ, above, f * 3 / 200)


def _slaney_hz(mel: Array) -> Array:
    return np.where(mel >= BREAK_MEL, BREAK_HZ * np.exp(LOG_STEP * (mel - 15)), mel * 200 / 3)


def _htk(f: Array) -> Array:
    return np.asarray(2595 * np.log10(1 + f / 700))


def _htk_hz(mel: Array) -> Array:
    return np.asarray(700 * (10 ** (mel / 2595) - 1))


_SCALES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "slaney": (_slaney, _slaney_hz),
    "htk": (_htk, _htk_hz),
    "kaldi": (lambda f: np.asarray(1127 * np.log1p(f / 700)), lambda mel: mel),  # no hertz needed
}


@dataclass(eq=False)
class MelFilterbank(_FixedProduct):
    """Energies in mel bands of a spectrum's bins.

    Frames are float32 [shape=(…, n_fft // 2 + 1)], outputs float32 [shape=(…, n_mels)].

    Parameters
    ----------
    n_mels : int
        Bands.
    n_fft : int
        Points of the transform that made the bins.
    sample_rate_hz : float
        Of the signal.
    f_min_hz, f_max_hz : float
        Where the first band begins and the last one ends; an `f_max_hz` of 0 is half the sample
        rate, a negative one so much below it, as in Kaldi.
    scale : str
        ``"slaney"``, ``"htk"`` or ``"kaldi"``; see the module's text.
    norm : str
        ``"slaney"`` or ``"none"``.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a number is not positive, the band edges are out of order or above half the sample
        rate, or a name is unknown.

    Warns
    -----
    UserWarning
        If filters are empty: no bin lies under their triangles.
    """

    n_mels: int
    n_fft: int
    sample_rate_hz: float
    f_min_hz: float = 0.0
    f_max_hz: float = 0.0
    scale: str = "slaney"
    norm: str = "slaney"

    def check(self) -> None:
        self.at_least(n_mels=1, n_fft=1)
        if self.scale not in _SCALES or self.norm not in ("slaney", "none"):
            raise ConfigError(
                f"{self!r}: `scale` must be one of {', '.join(_SCALES)}, and `norm` 'slaney' or "
                f"'none'"
            )
        if self.scale == "kaldi" and self.norm != "none":
            raise ConfigError(f"{self!r}: Kaldi's filters have norm='none'")
        half = self.sample_rate_hz / 2
        if not 0 <= self.f_min_hz < self.top_hz <= half:
            raise ConfigError(
                f"{self!r}: expected 0 <= `f_min_hz` < `f_max_hz` <= {half:g} Hz (half the sample "
                f"rate), got {self.f_min_hz:g} and {self.top_hz:g}"
            )
        empty = np.flatnonzero(self.matrix().max(1) <= 0).tolist()
        if empty:
            warnings.warn(
                f"{self!r}: filters {empty} are empty and always give 0, because no bin of "
                f"{self.sample_rate_hz:g} / {self.n_fft} Hz lies in them: use fewer bands, a "
                f"larger `n_fft` or a higher `f_min_hz`",
                stacklevel=4,
            )

    @property
    def top_hz(self) -> float:
        """Where the last band ends."""
        above = self.f_max_hz > 0
        return self.f_max_hz if above else self.sample_rate_hz / 2 + self.f_max_hz

    def sizes(self) -> tuple[int, int]:
        return self.n_mels, self.n_fft // 2 + 1

    def matrix(self) -> Array:
        to_mel, to_hz = _SCALES[self.scale]
        low, high = to_mel(np.array([self.f_min_hz, self.top_hz]))
        edges = to_hz(np.linspace(low, high, self.n_mels + 2))
        bins = np.arange(self.n_fft // 2 + 1) * self.sample_rate_hz / self.n_fft
        if self.scale == "kaldi":
            bins = to_mel(bins)
        left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
        filters = np.maximum(np.minimum(rising, falling), 0)
        height = 2 / (right - left) if self.norm == "slaney" else 1.0
        return np.asarray(filters * height)


@dataclass(eq=False)
class DCT(_FixedProduct):
    """Cosine transform (type II, orthonormal) of the last axis, for cepstra.

    Frames are float32 [shape=(…, I)], outputs float32 [shape=(…, O)], the first O coefficients.

    Parameters
    ----------
    in_features, out_features : int
        I and O.
    lifter : float
        Q of a sine lifter, ``1 + Q / 2 sin(pi (k + lifter_begin) / Q)`` times coefficient k; 0 for
        none.
    lifter_begin : int
        0 as in Kaldi, 1 as in librosa.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not positive, there are more coefficients than inputs, or the lifter is
        negative.
    """

    in_features: int
    out_features: int
    lifter: float = 0.0
    lifter_begin: int = 0

    def check(self) -> None:
        self.at_least(in_features=1, out_features=1, lifter_begin=0)
        if self.out_features > self.in_features or self.lifter < 0:
            raise ConfigError(
                f"{self!r}: at most {self.in_features} coefficients (`out_features`), and a lifter "
                f"of at least 0"
            )

    def sizes(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def matrix(self) -> Array:
        k, t = np.arange(self.out_features)[:, None], np.arange(self.in_features)
        wave = np.sqrt(2 / self.in_features) * np.cos(np.pi / self.in_features * (t + 0.5) * k)
        wave[0] *= np.sqrt(0.5)
        if self.lifter:
            turn = np.pi * (k + self.lifter_begin) / self.lifter
            wave *= 1 + self.lifter / 2 * np.sin(turn)
        return np.asarray(wave)
