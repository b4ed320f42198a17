"""Fourier transforms of real frames: ``X[k] = sum over t of x[t] exp(-2 pi i k t / n)``, and back.

A spectrum has shape (2, n // 2 + 1): the real parts, then the imaginary parts. Where n is a product
of 2, 3 and 5 the kernel is a fast transform, otherwise a product with the transform's matrix, which
is also the form in ONNX: every runtime has it. Errors stay below 3e-7 of the spectrum's largest
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape, shown
from ..kernels.fourier import fourier, radices, room, twiddles
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, Weights, copy, kernel
from .fixed import product
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["IRFFT", "RFFT", "fourier_window", "lower_windows"]

MAX_FAST = 1 << 16
MAX_POINTS = 4096
"""Longest transform by a matrix, here or in ONNX."""
SMALL = 64
"""Longest transform for which a convolution's own product is as fast."""
ROUNDING = 2.0**-23
"""Largest difference, of the largest weight, at which a convolution is taken for a transform."""


@kernel
def rfft(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    a: Scratch,
    b: Scratch,
    spare: Scratch,
    plan: Weights,
    w: Weights,
    I: Size,
    n: Size,
    half: Size,
) -> None:
    """Frames of I numbers, then zeros."""
    bins = n // 2 + 1
    for t in range(T):
        copy(I, at(x, t * x_step), a)
        for i in range(I, n):
            a[i] = 0.0
        for i in range(half, half + n):
            a[i] = 0.0
        z = fourier(n, half, plan, w, a, b, spare)
        copy(bins, z, at(y, t * y_step))
        im = at(y, t * y_step + bins)
        copy(bins, at(z, half), im)
        im[0] = 0.0
        if n % 2 == 0:
            im[n // 2] = 0.0


@kernel
def irfft(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    a: Scratch,
    b: Scratch,
    spare: Scratch,
    plan: Weights,
    w: Weights,
    n: Size,
    half: Size,
) -> None:
    """The transform of the conjugate; what lies beyond the middle mirrors what lies before."""
    bins, scale = n // 2 + 1, np.float32(1.0) / np.float32(n)
    for t in range(T):
        re, im, out = at(x, t * x_step), at(x, t * x_step + bins), at(y, t * y_step)
        a[0], a[half] = re[0], np.float32(0.0)
        for k in range(1, bins):
            a[n - k], a[half + n - k] = re[k], im[k]
            a[k], a[half + k] = re[k], -im[k]
        if n % 2 == 0:
            a[half + n // 2] = np.float32(0.0)
        z = fourier(n, half, plan, w, a, b, spare)
        for i in range(n):
            out[i] = z[i] * scale


@kernel
def rfft_windows(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    a: Scratch,
    b: Scratch,
    spare: Scratch,
    plan: Weights,
    w: Weights,
    window: Weights,
    I: Size,
    n: Size,
    half: Size,
    stride: Size,
    padding: Size,
    count: Size,
) -> None:
    """Spectra of windows, ``stride`` apart, of frames of I numbers; ``y`` is (2 bins, count)."""
    bins = n // 2 + 1
    for t in range(T):
        for p in range(count):
            begin = p * stride - padding
            first = min(max(-begin, 0), n)
            stop = max(min(n, I - begin), first)
            frame, spectrum = at(x, t * x_step + begin), at(y, t * y_step + p)
            for i in range(first):
                a[i] = 0.0
            for i in range(first, stop):
                a[i] = frame[i] * window[i]
            for i in range(stop, n):
                a[i] = 0.0
            for i in range(half, half + n):
                a[i] = 0.0
            z = fourier(n, half, plan, w, a, b, spare)
            for k in range(bins):
                spectrum[k * count] = z[k]
                spectrum[(bins + k) * count] = z[half + k]
            spectrum[bins * count] = 0.0
            if n % 2 == 0:
                spectrum[(bins + n // 2) * count] = 0.0


def fourier_window(weight: Array) -> Array | None:
    """Return the window of a convolution that computes windowed spectra; None if it does not.

    Parameters
    ----------
    weight : float32 [shape=(O, C, n)]
        It does if C is 1 and its rows are the window times a cosine for each frequency, then the
        window times minus a sine, to the last bit or two of float32; n not small, and a size of
        the fast transform.
    """
    outputs, channels, n = weight.shape
    if channels != 1 or outputs != 2 * (n // 2 + 1) or not SMALL < n <= MAX_POINTS:
        return None
    if radices(n) is None:
        return None
    window = weight[0, 0].astype(np.float64)
    difference = np.abs(weight[:, 0] - RFFT(n).matrix() * window).max()
    return window if difference <= ROUNDING * np.abs(window).max() else None


def lower_windows(
    tape: Lowering, x: Location, window: Array, stride: int, padding: int
) -> Location:
    """Write the spectra of windows of a frame (1, I) to a tape: (2 bins, how many) numbers."""
    y = tape.output()
    tape.emit(
        rfft_windows,
        x=x,
        y=y,
        window=tape.weight(window),
        I=x.size,
        stride=stride,
        padding=padding,
        count=y.shape[1],
        **RFFT(window.size).work(tape),
    )
    return y


@dataclass(eq=False)
class _Transform(Op):
    n: int

    def check(self) -> None:
        self.at_least(n=1)
        limit = MAX_POINTS if radices(self.n) is None else MAX_FAST
        if self.n > limit:
            raise ConfigError(
                f"{type(self).__name__}: `n` must be at most {MAX_FAST}, and at most {MAX_POINTS} "
                f"where it has a prime factor above 5, got {self.n}"
            )

    @property
    def bins(self) -> int:
        """Frequencies of a spectrum."""
        return self.n // 2 + 1

    def matrix(self) -> Array:
        """Return the transform as a real matrix (outputs, inputs), float64."""
        turns = np.outer(np.arange(self.bins), np.arange(self.n)) % self.n
        wave = np.exp(-2j * np.pi / self.n * np.arange(self.n))[turns]
        real = 2 * np.arange(self.bins) % self.n == 0  # the first bin, and the last if n is even
        return np.concatenate([wave.real, np.where(real[:, None], 0.0, wave.imag)])

    def work(self, tape: Lowering) -> dict[str, Any]:
        """Return the operands that both kernels share."""
        stages, half = radices(self.n) or [], room(self.n, tape.lanes)
        plan = np.array([len(stages), *stages], np.int32)
        rooms = {name: tape.temporary(0, fixed=2 * half) for name in ("a", "b", "spare")}
        return {
            **rooms,
            "plan": tape.weight(plan.view(np.float32)),
            "w": tape.weight(twiddles(self.n, tape.lanes)),
            "n": self.n,
            "half": half,
        }


@dataclass(eq=False)
class RFFT(_Transform):
    """Spectrum of a real frame, as ``numpy.fft.rfft``.

    Frames are float32 [shape=(I,)] with I up to n, and zeros behind them; outputs float32
    [shape=(2, n // 2 + 1)], real and imaginary parts.

    Parameters
    ----------
    n : int
        Points of the transform.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `n` is not positive, above 65536, or above 4096 with a prime factor above 5.
    """

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or len(shapes[0]) != 1 or shapes[0][0] > self.n:
            raise GraphError(
                f"{self!r} expects frames of shape (I,) with I up to {self.n}, got {shown(shapes)}"
            )
        return (2, self.bins)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        y = np.fft.rfft(xs[0], self.n)
        return np.stack([y.real, y.imag])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        if radices(self.n) is None:
            return product(self.matrix()[:, : xs[0].size]).lower(tape, *xs)
        y = tape.output()
        tape.emit(rfft, x=xs[0], y=y, I=xs[0].size, **self.work(tape))
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        if self.n > MAX_POINTS:
            raise NotImplementedError
        y = product(self.matrix()[:, : g.shape()[0]]).onnx(g, *xs)
        return g.op("Reshape", y, g.ints(g.frames(), -1, 2, self.bins))


@dataclass(eq=False)
class IRFFT(_Transform):
    """Real frame of a spectrum, as ``numpy.fft.irfft``.

    Frames are float32 [shape=(2, n // 2 + 1)], real and imaginary parts; outputs float32
    [shape=(n,)]. The imaginary parts of the first bin, and of the last one if n is even, are not
    read.

    Parameters
    ----------
    n : int
        Points of the transform.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        As :class:`RFFT`.
    """

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((2, self.bins),)

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes != ((2, self.bins),):
            raise GraphError(
                f"{self!r} expects frames of shape {(2, self.bins)}, got {shown(shapes)}"
            )
        return (self.n,)

    def inverse(self) -> Array:
        """Return the inverse transform as a matrix (n, 2 bins), float64."""
        twice = np.full(self.bins, 2.0)
        twice[0] = 1.0
        if self.n % 2 == 0:
            twice[-1] = 1.0
        return np.asarray(self.matrix().T * np.tile(twice, 2) / self.n)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.fft.irfft(xs[0][0] + 1j * xs[0][1], self.n)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        if radices(self.n) is None:
            flat = xs[0].view((2 * self.bins,))
            return product(self.inverse()).lower(tape, flat)
        y = tape.output()
        tape.emit(irfft, x=xs[0], y=y, **self.work(tape))
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        if self.n > MAX_POINTS:
            raise NotImplementedError
        x = g.op("Reshape", xs[0], g.ints(g.frames(), -1, 2 * self.bins))
        return product(self.inverse()).onnx(g, x)
