"""Models that are known by their inputs and outputs, so that commands need no options for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError
from ..files import load
from ..layer import Model
from .options import reading

__all__ = ["Known", "loaded", "options_for", "rate_of", "recognised"]


@dataclass(frozen=True)
class Known:
    """What a published model takes.

    Parameters
    ----------
    name : str
        What it is called.
    options : dict
        What ``streamrnn.load`` needs to be told.
    sample_rate_hz, hop
        Which samples it hears, and how many new ones in each frame.
    labels : tuple of str
        What its output says.
    """

    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sample_rate_hz: float | None = None
    hop: int | None = None
    labels: tuple[str, ...] = ()

    @property
    def notes(self) -> dict[str, Any]:
        """What the model's metadata would say of it."""
        said = {
            "sample_rate": self.sample_rate_hz,
            "hop_samples": self.hop,
            "labels": list(self.labels),
        }
        return {key: value for key, value in said.items() if value}


SILERO = Known(
    name="Silero VAD",
    options={"shapes": {"input": (1, 576), "state": (2, 1, 128)}, "constants": {"sr": 16000}},
    sample_rate_hz=16000,
    hop=512,  # and 64 samples of the frame before
    labels=("speech",),
)

_KNOWN = {(("input", "sr", "state"), ("output", "stateN")): SILERO}
"""Names of inputs and of outputs, in order of the alphabet."""


def recognised(path: Path) -> Known:
    """Return what is known of an ONNX file's model; of most, and of other files, nothing."""
    if path.suffix != ".onnx":
        return Known()
    try:
        from ..importers.onnx.graph import parsed

        graph = parsed(path).graph
    except (ImportError, FileError):  # `load` says what is wrong
        return Known()
    stored = {tensor.name for tensor in graph.initializer}
    inputs = sorted({value.name for value in graph.input} - stored)
    outputs = sorted(value.name for value in graph.output)
    return _KNOWN.get((tuple(inputs), tuple(outputs)), Known())


def options_for(
    file: Path,
    shape: Sequence[str] | None,
    constant: Sequence[str] | None,
    state: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the options with which a file is loaded: those given, or else those that are known.

    Raises
    ------
    FileError
        If the file is not ONNX and there are options.
    """
    options = reading(file, shape, constant, state)
    if not any(options.values()):
        options |= recognised(file).options
    return options


def rate_of(constants: Mapping[str, Any] | None) -> float | None:
    """Return the sample rate in Hz that a constant input says, if one does."""
    for name in ("sr", "sample_rate"):
        said = np.asarray((constants or {}).get(name, 0))
        if said.size == 1 and said.item() > 0:
            return float(said.item()) if said.dtype.kind == "f" else int(said.item())
    return None


def loaded(
    file: Path,
    shape: Sequence[str] | None,
    constant: Sequence[str] | None,
    state: Sequence[str] | None,
) -> Model:
    """Return a model whose metadata says what is known of it, so that files made of it keep that.

    Raises
    ------
    FileError
        If it cannot be loaded.
    """
    given = reading(file, shape, constant, state)
    known = Known() if any(given.values()) else recognised(file)
    options = {**given, **known.options}
    model = load(file, **options)
    rate = rate_of(options.get("constants"))
    model.metadata = {**({"sample_rate": rate} if rate else {}), **known.notes, **model.metadata}
    return model
