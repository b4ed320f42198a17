"""Another sample rate for a stream of samples, by soxr; in front of a model, not inside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, FrameError
from ..graph import describe
from ..resumable import positive

__all__ = ["Resampler"]

Array = npt.NDArray[np.float32]
QUALITIES = ("QQ", "LQ", "MQ", "HQ", "VHQ")


class Resampler:
    """Samples at one rate in, samples at another out, in blocks of any length.

    All outputs in a row are, bit for bit, ``soxr.resample`` of all inputs in a row, however they
    were cut: n samples become ``floor(n * to_hz / from_hz + 0.5)``, and output k belongs to the
    time ``k / to_hz``. soxr gives samples in bursts: some blocks are empty, and ``delay_samples``
    says how much is still to come. Needs the extra ``audio``.

    Parameters
    ----------
    from_hz, to_hz : float
        The two sample rates.
    channels : int
        Channels of the signal.
    quality : str
        ``"QQ"``, ``"LQ"``, ``"MQ"``, ``"HQ"`` or ``"VHQ"``: soxr's names, quick to very high.

    Raises
    ------
    ConfigError
        If a rate or the channels are not positive, the quality is unknown, or soxr is missing.
    """

    def __init__(
        self, from_hz: float, to_hz: float, channels: int = 1, quality: str = "HQ"
    ) -> None:
        try:
            import soxr
        except ImportError:
            raise ConfigError("Resampler needs soxr: pip install streamrnn[audio]") from None
        positive("Resampler", "from_hz", from_hz)
        positive("Resampler", "to_hz", to_hz)
        positive("Resampler", "channels", channels, whole=True)
        if quality not in QUALITIES:
            raise ConfigError(
                f"Resampler: `quality` must be one of {', '.join(QUALITIES)}, got {quality!r}"
            )
        self.from_hz, self.to_hz, self.channels, self.quality = from_hz, to_hz, channels, quality
        self._soxr: Any = soxr.ResampleStream(from_hz, to_hz, channels, quality=quality)
        self._finished = False

    def __repr__(self) -> str:
        return f"Resampler({self.from_hz:g}, {self.to_hz:g}, {self.channels}, {self.quality!r})"

    @property
    def delay_samples(self) -> float:
        """Output samples that belong to inputs so far and have not come out."""
        return float(self._soxr.delay())

    def run(self, xs: Array) -> Array:
        """Take a block and return the samples that are ready.

        Parameters
        ----------
        xs : float32 [shape=(n,) or (n, channels)]
            Any number of samples, also none.

        Returns
        -------
        float32 [shape=(m,) or (m, channels)]
            As many as are ready.

        Raises
        ------
        FrameError
            If the block has another dtype or shape, or the stream was finished; nothing is taken.
        """
        self._check(xs)
        made: Array = self._soxr.resample_chunk(np.ascontiguousarray(xs))
        return made

    def finish(self) -> Array:
        """Return the rest; after it only `reset` is possible.

        Returns
        -------
        float32 [shape=(m,) or (m, channels)]
            All samples that have not come out.
        """
        shape = (0,) if self.channels == 1 else (0, self.channels)
        nothing = np.zeros(shape, np.float32)
        self._check(nothing)
        self._finished = True
        made: Array = self._soxr.resample_chunk(nothing, last=True)
        return made

    def reset(self) -> None:
        """Begin anew, as if nothing had been taken."""
        self._soxr.clear()
        self._finished = False

    def _check(self, xs: Any) -> None:
        if self._finished:
            raise FrameError(f"{self!r} is finished: `reset` it before the next signal")
        wanted = "(n,)" if self.channels == 1 else f"(n, {self.channels})"
        fits = isinstance(xs, np.ndarray) and xs.dtype == np.float32
        if not fits or (xs.shape[1:] != (() if self.channels == 1 else (self.channels,))):
            raise FrameError(
                f"{self!r} expects a numpy array of float32, shape {wanted}, got {describe(xs)}"
            )
        if xs.ndim == 0:
            raise FrameError(f"{self!r} expects a block of shape {wanted}, got a single number")
