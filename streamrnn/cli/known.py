"""Models that are known by their inputs and outputs, so that commands need no options for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError
from .options import reading

__all__ = ["Known", "options_for", "recognised"]


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


SILERO = Known(
    name="Silero VAD",
    options={"shapes": {"input": (1, 576), "state": (2, 1, 128)}, "constants": {"sr": 16000}},
    sample_rate_hz=16000.0,
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
