"""Windows: a frame multiplied by a fixed curve before its Fourier transform, or after the inverse.

The curves are those of ``scipy.signal.get_window`` (periodic) and of ``torch``; ``"povey"`` is
Kaldi's, a Hann window to the power of 0.85, and ``"sqrt_hann"`` the root of one, for analysis and
synthesis alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..graph import Shape
from ..kernels.tape import Weights, elementwise
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..kernels.simd import Vector
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["WINDOWS", "Window"]


@elementwise
def window(x: Vector, curve: Weights) -> Vector:
    return x * curve


def _cosines(*terms: float) -> Callable[[Array, float], Array]:
    """Return ``a0 - a1 cos(2 pi u) + a2 cos(4 pi u) - …`` with u from 0 to 1."""

    def curve(u: Array, beta: float) -> Array:
        signed = (a * (-1) ** k * np.cos(2 * np.pi * k * u) for k, a in enumerate(terms))
        return np.asarray(sum(signed))

    return curve


_hann = _cosines(0.5, 0.5)

WINDOWS: dict[str, Callable[[Array, float], Array]] = {
    "hann": _hann,
    "hamming": _cosines(0.54, 0.46),
    "blackman": _cosines(0.42, 0.5, 0.08),
    "povey": lambda u, beta: np.maximum(_hann(u, beta), 0) ** 0.85,
    "sqrt_hann": lambda u, beta: np.sqrt(np.maximum(_hann(u, beta), 0)),
    "kaiser": lambda u, beta: np.i0(beta * np.sqrt(np.maximum(4 * u * (1 - u), 0))) / np.i0(beta),
    "rectangular": lambda u, beta: np.ones_like(u),
}


@dataclass(eq=False)
class Window(Op):
    """A frame times a window.

    Frames and outputs are float32 [shape=(length,)].

    Parameters
    ----------
    length : int
        Numbers in a frame.
    kind : str
        ``"hann"``, ``"hamming"``, ``"blackman"``, ``"povey"``, ``"sqrt_hann"``, ``"kaiser"`` or
        ``"rectangular"``.
    win_length : int
        Numbers in the window, which stands in the middle of the frame, between zeros, as in torch
        and librosa; 0 for the frame's length.
    periodic : bool
        Whether the window is one period of its curve (for transforms, as torch and librosa have
        it) or symmetric (as Kaldi has it).
    beta : float
        Shape of ``"kaiser"``.
    overlap : int
        For synthesis, samples from one frame to the next: divides by the sum of the squares of all
        windows that overlap, so that analysis and synthesis together are 1. 0 for analysis.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not positive, the window is longer than the frame, the kind is unknown, or the
        windows `overlap` apart leave samples that none of them sees.
    """

    length: int
    kind: str = "hann"
    win_length: int = 0
    periodic: bool = True
    beta: float = 12.0
    overlap: int = 0

    def check(self) -> None:
        self.at_least(length=1, win_length=0, overlap=0)
        if self.kind not in WINDOWS:
            raise ConfigError(
                f"Window: `kind` must be one of {', '.join(WINDOWS)}, got {self.kind!r}"
            )
        if self.win_length > self.length:
            raise ConfigError(
                f"Window: a window of {self.win_length} is longer than a frame of {self.length}: "
                f"make the frame (`n_fft`) at least as long"
            )
        if self.overlap and self.squares().min() < 1e-10:
            raise ConfigError(
                f"Window: frames of {self.length} {self.overlap} samples apart leave samples that "
                f"a {self.kind} window of {self.win_length or self.length} does not see: make the "
                f"hop shorter"
            )

    def plain(self) -> Array:
        """Return the window between its zeros, float64 [shape=(length,)]."""
        n = self.win_length or self.length
        span = max(n if self.periodic else n - 1, 1)
        curve = WINDOWS[self.kind](np.arange(n) / span, self.beta) if n > 1 else np.ones(1)
        before = (self.length - n) // 2
        return np.pad(curve, (before, self.length - n - before))

    def squares(self) -> Array:
        """Return the sum of the squares of all windows over each sample of a hop."""
        squares = np.pad(self.plain() ** 2, (0, -self.length % self.overlap))
        return np.asarray(squares.reshape(-1, self.overlap).sum(0))

    def curve(self) -> Array:
        """Return what a frame is multiplied by, float64 [shape=(length,)]."""
        plain = self.plain()
        return plain / np.resize(self.squares(), self.length) if self.overlap else plain

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.length,),)

    def output_shape(self, *shapes: Shape) -> Shape:
        for shape in shapes:
            self.expect(shape, (self.length,))
        return (self.length,)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.asarray(xs[0] * self.curve())

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, curve = tape.output(), self.curve().astype(np.float32)
        tape.emit(window, x=xs[0], curve=tape.vector(curve), y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Mul", xs[0], g.constant(self.curve(), "window"))
