"""Sinks: where outputs go, one at a time, so that a file holds them all whenever it ends."""

from __future__ import annotations

import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import numpy as np

from ..errors import ConfigError, SourceError
from .source import Array, Frame, needed

__all__ = ["CsvSink", "JsonSink", "NpySink", "Sink", "TextSink", "WavSink", "sink_for"]

S = TypeVar("S", bound="Sink")


class Sink(ABC):
    """Takes one output after another; a context manager."""

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Take one output.

        Parameters
        ----------
        frame : Frame
            Its time is that of the input frame with which the output came; its data float32
            [shape=output shape], several outputs flat and side by side.
        """

    def close(self) -> None:  # noqa: B027
        """Finish what was written; twice is once."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TextSink(Sink):
    """A line for each output: its time, then its numbers."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, frame: Frame) -> None:
        numbers = " ".join(f"{v:.6g}" for v in frame.data.reshape(-1).tolist())
        self.file.write(f"{frame.time_s:.3f} {numbers}\n")
        self.file.flush()


class JsonSink(Sink):
    """A JSON object for each output, a line each: ``time_s``, and each column under its name.

    What is not finite is null.
    """

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self.file, self.columns = file, tuple(columns)

    def write(self, frame: Frame) -> None:
        values = [v if math.isfinite(v) else None for v in frame.data.reshape(-1).tolist()]
        said = {"time_s": frame.time_s, **dict(zip(self.columns, values, strict=True))}
        self.file.write(json.dumps(said) + "\n")
        self.file.flush()


class CsvSink(Sink):
    """A row for each output: ``time_s``, then each column under its name."""

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        self._file: Any = _writable(path, "w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._rows.writerow(("time_s", *columns))

    def write(self, frame: Frame) -> None:
        self._rows.writerow((f"{frame.time_s:.9g}", *frame.data.reshape(-1)))

    def close(self) -> None:
        self._file.close()


class NpySink(Sink):
    """An array (T, *output shape), float32, in a ``.npy`` file that grows."""

    def __init__(self, path: str | Path, shape: Sequence[int]) -> None:
        self.shape, self.frames = tuple(shape), 0
        self._file: Any = _writable(path, "wb")
        self._head()

    def _head(self) -> None:
        """Write the header; numpy leaves room in it for a first axis that grows."""
        shape = (self.frames, *self.shape)
        head = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, head)

    def write(self, frame: Frame) -> None:
        self._file.write(np.ascontiguousarray(frame.data, "<f4").tobytes())
        self.frames += 1

    def close(self) -> None:
        if not self._file.closed:
            self._file.seek(0)
            self._head()
            self._file.close()


class WavSink(Sink):
    """The numbers of all outputs in a row as sound, float32 (extra ``audio``: soundfile)."""

    def __init__(self, path: str | Path, sample_rate_hz: float) -> None:
        soundfile = needed("soundfile", "audio", str(path))
        if sample_rate_hz != int(sample_rate_hz):
            raise ConfigError(f"{path}: a file needs a whole sample rate, got {sample_rate_hz:g}")
        kind = "FLOAT" if Path(path).suffix.lower() == ".wav" else None
        try:
            self._file: Any = soundfile.SoundFile(path, "w", int(sample_rate_hz), 1, kind)
        except (OSError, soundfile.LibsndfileError) as error:
            raise SourceError(f"cannot write {path}: {error}") from None

    def write(self, frame: Frame) -> None:
        self._file.write(frame.data.reshape(-1))

    def close(self) -> None:
        self._file.close()


def sink_for(
    path: Path, shape: Sequence[int], columns: Sequence[str], sample_rate_hz: float | None
) -> Sink:
    """Return the sink that a file's name asks for: ``.npy``, ``.csv``, ``.wav`` or ``.flac``.

    Raises
    ------
    ConfigError
        If it is another name, or sound whose rate is not known.
    SourceError
        If the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind == ".npy":
        return NpySink(path, shape)
    if kind == ".csv":
        return CsvSink(path, columns)
    if kind in (".wav", ".flac"):
        if sample_rate_hz is None:
            raise ConfigError(f"{path}: the sample rate of the outputs is not known")
        return WavSink(path, sample_rate_hz)
    raise ConfigError(f"{path}: expected a name in .npy, .csv, .wav or .flac")


def flat(result: Array | tuple[Array, ...]) -> Array:
    """Return several outputs flat and side by side; one as it is."""
    if isinstance(result, tuple):
        return np.concatenate([part.reshape(-1) for part in result])
    return result


def _writable(path: str | Path, mode: str, **options: Any) -> Any:
    try:
        return open(path, mode, **options)
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror}") from None
