"""Mel energies, their logarithms and cepstra, in the style of three libraries.

================  =======================  ======================  =================================
style             ``"librosa"``            ``"torchaudio"``        ``"kaldi"``
================  =======================  ======================  =================================
a frame           n_fft samples            n_fft samples           win_length samples, each minus
                                                                   their mean, pre-emphasis 0.97
window            Hann, periodic           Hann, periodic          Povey, symmetric, then zeros
mel filters       Slaney, area 1           HTK, height 1           Kaldi, height 1
logarithm         ``10 log10(max(1e-10,    ``10 log10(max(1e-10,   ``ln(max(1.19e-7, x))``
                  x))``                    x))``
lifter of MFCC    none                     none                    22
same as           ``melspectrogram``,      ``MelSpectrogram``,     ``compute-fbank-feats`` and
                  ``power_to_db`` and      ``AmplitudeToDB`` and   ``compute-mfcc-feats`` with
                  ``mfcc``                 ``MFCC``                ``--dither=0``
================  =======================  ======================  =================================

librosa's and torchaudio's ``top_db`` compares with the loudest frame of the whole recording, which
a stream does not know: give them ``top_db=None``. Kaldi is used to samples of 16 bits and a lowest
frequency of 20 Hz: put ``Scale(32768.0)`` in front where samples lie between -1 and 1, and say
``f_min_hz=20``. Dither is always off. Samples beyond ``2**62 / n_fft**1.5`` count as that, so that
energies are always finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..graph import Shape, Value
from ..ops.activations import Hardtanh, Log, Square
from ..ops.concat import concat
from ..ops.fourier import RFFT
from ..ops.mel import DCT, MelFilterbank
from ..ops.reduce import Sum
from ..ops.window import Window
from .framing import (
    Frames,
    FrontEnd,
    RemoveMean,
    bounded,
    emphasized_within,
    padded_samples,
)
from .spectrum import Power

__all__ = ["MFCC", "Decibels", "LogMel", "Mel"]

SCALES = {
    "librosa": ("slaney", "slaney"),
    "torchaudio": ("htk", "none"),
    "kaldi": ("kaldi", "none"),
}
LARGEST, EPSILON = float(np.finfo(np.float32).max), float(np.finfo(np.float32).eps)


def floored_log(x: Value, floor: float) -> Value:
    """Return ``ln(max(floor, x))``."""
    return Log()(Hardtanh(floor, LARGEST)(x))


@dataclass(eq=False)
class Decibels(FrontEnd):
    """``10 log10(max(amin, x) / ref)``, as ``librosa.power_to_db`` with ``top_db=None``.

    Parameters
    ----------
    ref : float
        What 0 dB means.
    amin : float
        Smallest power.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        If one of them is not positive.
    """

    ref: float = 1.0
    amin: float = 1e-10

    def check(self) -> None:
        if min(self.ref, self.amin) <= 0:
            raise ConfigError(
                f"Decibels: `ref` and `amin` must be positive, got {self.ref} and {self.amin}"
            )

    def build(self, x: Value) -> Value:
        return floored_log(x, self.amin) * (10 / math.log(10)) - 10 * math.log10(self.ref)


@dataclass(eq=False)
class Mel(FrontEnd):
    """Energies in mel bands, in one of the styles of the module's text.

    Frames are float32 [shape=(hop_length,)], outputs float32 [shape=(n_mels,)].

    Parameters
    ----------
    sample_rate_hz : float
        Of the signal.
    n_fft : int
        Points of the transform.
    hop_length : int
        Samples from one frame to the next: what a step takes.
    n_mels : int
        Bands.
    style : str
        ``"librosa"``, ``"torchaudio"`` or ``"kaldi"``.
    win_length : int
        Samples in the window; 0 for n_fft.
    f_min_hz, f_max_hz : float
        Where the bands begin and end; see :class:`streamrnn.MelFilterbank`.
    padding : int or str
        Zeros before the first sample: a number, ``"center"`` or ``"causal"``.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        If the sizes or band edges make no sense, or the style is unknown.
    """

    sample_rate_hz: float
    n_fft: int
    hop_length: int
    n_mels: int
    style: str = "librosa"
    win_length: int = 0
    f_min_hz: float = 0.0
    f_max_hz: float = 0.0
    padding: int | str = 0

    def check(self) -> None:
        self.at_least(1, "n_fft", "hop_length", "n_mels")
        self.at_least(0, "win_length")
        if self.style not in SCALES:
            raise ConfigError(
                f"{type(self).__name__}: `style` must be one of {', '.join(SCALES)}, "
                f"got {self.style!r}"
            )
        if self.win_length > self.n_fft:
            raise ConfigError(
                f"{type(self).__name__}: a window of win_length={self.win_length} samples does not "
                f"fit into a transform of n_fft={self.n_fft}"
            )
        padded_samples(type(self).__name__, self.padding, self.frame_length, self.hop_length)

    @property
    def frame_length(self) -> int:
        """Samples that a frame is computed from."""
        return (self.win_length or self.n_fft) if self.style == "kaldi" else self.n_fft

    @property
    def input_shape(self) -> Shape:
        return (self.hop_length,)

    def frames(self, x: Value) -> Value:
        """Return the windows' samples, in Kaldi's style without their mean."""
        samples = bounded(x, self.n_fft)
        frames = Frames(self.frame_length, self.hop_length, self.padding)(samples)
        return RemoveMean()(frames) if self.style == "kaldi" else frames

    def energies(self, frames: Value) -> Value:
        """Return the energy of each band."""
        if self.style == "kaldi":
            curve = Window(self.frame_length, "povey", periodic=False)
            frames = emphasized_within(frames, 0.97)
        else:
            curve = Window(self.n_fft, "hann", self.win_length)
        scale, norm = SCALES[self.style]
        bands = (self.sample_rate_hz, self.f_min_hz, self.f_max_hz, scale, norm)
        power = Power()(RFFT(self.n_fft)(curve(frames)))
        return MelFilterbank(self.n_mels, self.n_fft, *bands)(power)

    def build(self, x: Value) -> Value:
        return self.energies(self.frames(x))


@dataclass(eq=False)
class LogMel(Mel):
    """Logarithms of mel energies, in one of the styles of the module's text.

    Frames, outputs, arguments and errors are those of :class:`Mel`. For another logarithm, such as
    ``ln(x + 1e-6)``, put the ops behind a :class:`Mel`: ``Sequential(Mel(…), Scale(1.0, 1e-6),
    Log())``.
    """

    def logarithms(self, frames: Value) -> Value:
        """Return the logarithms of the bands' energies."""
        energies = self.energies(frames)
        return floored_log(energies, EPSILON) if self.style == "kaldi" else Decibels()(energies)

    def build(self, x: Value) -> Value:
        return self.logarithms(self.frames(x))


@dataclass(eq=False)
class MFCC(LogMel):
    """Cepstra: the cosine transform of log-mel energies, in one of the styles of the module's text.

    Frames are float32 [shape=(hop_length,)], outputs float32 [shape=(n_mfcc,)].

    Parameters
    ----------
    sample_rate_hz, n_fft, hop_length, n_mels, style, win_length, f_min_hz, f_max_hz, padding
        See :class:`Mel`.
    n_mfcc : int
        Coefficients.
    lifter : float
        Strength of the sine lifter; 0 for none, a negative one for the style's own.
    use_energy : bool
        In Kaldi's style, whether the logarithm of the window's energy takes the place of the first
        coefficient.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        As :class:`Mel`; also if there are more coefficients than bands, or energy is asked for in
        another style.
    """

    n_mfcc: int = 13
    lifter: float = -1.0
    use_energy: bool = False

    def check(self) -> None:
        super().check()
        self.at_least(1, "n_mfcc")
        if self.use_energy and self.style != "kaldi":
            raise ConfigError("MFCC: `use_energy` belongs to style='kaldi'")

    def build(self, x: Value) -> Value:
        kaldi, frames = self.style == "kaldi", self.frames(x)
        lifter = self.lifter if self.lifter >= 0 else 22.0 if kaldi else 0.0
        cosines = DCT(self.n_mels, self.n_mfcc, lifter, 0 if kaldi else 1)
        cepstra = cosines(self.logarithms(frames))
        if not self.use_energy:
            return cepstra
        energy = floored_log(Sum(keepdims=True)(Square()(frames)), EPSILON)
        return concat(energy, cepstra[1:]) if self.n_mfcc > 1 else energy
