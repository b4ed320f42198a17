"""Front ends as a model's metadata describes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..graph import describe
from .framing import Frames, FrontEnd
from .mel import MFCC, LogMel, Mel
from .spectrum import STFT

__all__ = ["from_features"]

KINDS: dict[str, type[FrontEnd]] = {
    kind.__name__: kind for kind in (Frames, LogMel, MFCC, Mel, STFT)
}


def from_features(features: Mapping[str, Any]) -> FrontEnd:
    """Return the front end that a model's metadata describes under ``features``.

    Parameters
    ----------
    features : dict
        ``kind``, the name of a class of this package that takes samples, and its arguments:
        ``{"kind": "LogMel", "sample_rate_hz": 16000, "n_fft": 512, "hop_length": 160, "n_mels":
        40}``.

    Raises
    ------
    ConfigError
        If there is no such front end, or it does not take these arguments.
    """
    if not isinstance(features, Mapping):
        raise ConfigError(f"features must be a mapping, got {describe(features)}")
    arguments = dict(features)
    name = arguments.pop("kind", None)
    if name not in KINDS:
        raise ConfigError(
            f"features name the front end by `kind`, one of {', '.join(KINDS)}, got {name!r}"
        )
    kind = KINDS[name]
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"features of the kind {name!r}: {error}; it takes {inspect.signature(kind)}"
        ) from None
    return kind(**arguments)
