"""Short-time Fourier transform, its parts, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..graph import Shape, Value
from ..ops.activations import Sqrt, Square
from ..ops.align import Align
from ..ops.compare import Atan2
from ..ops.fourier import IRFFT, RFFT
from ..ops.overlap_add import OverlapAdd
from ..ops.rearrange import Reshape
from ..ops.reduce import Sum
from ..ops.window import Window
from .framing import Frames, FrontEnd, bounded, padded_samples

__all__ = ["ISTFT", "STFT", "Magnitude", "Phase", "Power"]


@dataclass(eq=False)
class STFT(FrontEnd):
    """Short-time Fourier transform, as ``librosa.stft`` and ``torch.stft``.

    Frames are float32 [shape=(hop_length,)], outputs float32 [shape=(2, n_fft // 2 + 1)]: real
    parts, then imaginary parts. Frame m is that of librosa with ``center=False`` on the signal with
    `padding` zeros in front (see :mod:`streamrnn.frontend.framing`). Samples beyond
    ``2**62 / n_fft**1.5`` count as that, so that the power of a spectrum is always finite.

    Parameters
    ----------
    n_fft : int
        Points of the transform, and samples in a frame.
    hop_length : int
        Samples from one frame to the next: what a step takes.
    win_length : int
        Samples in the window, which stands in the middle of the frame; 0 for all.
    window : str
        Its kind; see :class:`streamrnn.Window`.
    periodic : bool
        Whether the window is periodic, else symmetric.
    padding : int or str
        Zeros before the first sample: a number, ``"center"`` or ``"causal"``.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        If a size is not positive, the window is longer than the frame, or a name is unknown.
    """

    n_fft: int
    hop_length: int
    win_length: int = 0
    window: str = "hann"
    periodic: bool = True
    padding: int | str = 0

    def check(self) -> None:
        self.at_least(1, "n_fft", "hop_length")
        padded_samples("STFT", self.padding, self.n_fft, self.hop_length)

    @property
    def input_shape(self) -> Shape:
        return (self.hop_length,)

    def build(self, x: Value) -> Value:
        frames = Frames(self.n_fft, self.hop_length, self.padding)(bounded(x, self.n_fft))
        curve = Window(self.n_fft, self.window, self.win_length, self.periodic)
        return RFFT(self.n_fft)(curve(frames))


@dataclass(eq=False)
class ISTFT(FrontEnd):
    """The signal of a short-time Fourier transform, by weighted overlap-add, as ``torch.istft``.

    Frames are float32 [shape=(2, n_fft // 2 + 1)], outputs float32 [shape=(hop_length,)]. Behind an
    :class:`STFT` with the same arguments, output m is hop m of the signal, ``n_fft - hop_length``
    samples after it came, or up to one hop more (``delay_frames`` says how many steps). With
    ``padding="causal"`` all of the signal comes back; with less, the first samples, which
    fewer windows see, fade in.

    Parameters
    ----------
    n_fft, hop_length, win_length, window, periodic, padding
        As given to the :class:`STFT`; the padding is a multiple of the hop.
    name
        See :class:`FrontEnd`.

    Raises
    ------
    ConfigError
        As for the :class:`STFT`; also if the windows leave gaps, or the padding is no multiple of
        the hop.
    """

    n_fft: int
    hop_length: int
    win_length: int = 0
    window: str = "hann"
    periodic: bool = True
    padding: int | str = 0

    def check(self) -> None:
        self.at_least(1, "n_fft", "hop_length")
        n, hop = self.n_fft, self.hop_length
        samples = padded_samples("ISTFT", self.padding, n, hop)
        if samples % hop:
            raise ConfigError(
                f"ISTFT: its outputs begin in the middle of a hop, because padding={samples} is no "
                f"multiple of hop_length={hop}: give STFT and ISTFT padding={samples // hop * hop} "
                f"(or a hop that divides {n})"
            )

    @property
    def input_shape(self) -> Shape:
        return (2, self.n_fft // 2 + 1)

    def build(self, x: Value) -> Value:
        n, hop = self.n_fft, self.hop_length
        curve = Window(n, self.window, self.win_length, self.periodic, overlap=hop)
        y = OverlapAdd(n, hop)(curve(IRFFT(n)(x)))
        skip = padded_samples("ISTFT", self.padding, n, hop) // hop
        return Align(skip, stride=y.clock.stride)(y) if skip else y


@dataclass(eq=False)
class Power(FrontEnd):
    """``re^2 + im^2`` of a spectrum: (2, bins) becomes (bins,)."""

    def build(self, x: Value) -> Value:
        return Sum(axis=0)(Square()(x))


@dataclass(eq=False)
class Magnitude(FrontEnd):
    """``sqrt(re^2 + im^2)`` of a spectrum: (2, bins) becomes (bins,)."""

    def build(self, x: Value) -> Value:
        return Sqrt()(Power()(x))


@dataclass(eq=False)
class Phase(FrontEnd):
    """Angle of a spectrum in radians, -pi to pi, 0 where it is 0: (2, bins) becomes (bins,)."""

    def build(self, x: Value) -> Value:
        return Reshape(x.shape[1:])(Atan2()(x[1:2], x[:1]))
