"""Sinks: where outputs go, one at a time, so that a file holds them all whenever it ends."""

from __future__ import annotations

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np

from ..errors import ConfigError, SourceError
from ..resumable import positive
from .source import Array, Frame, needed

__all__ = ["CsvSink", "JsonSink", "NpySink", "Sink", "TextSink", "WavSink", "Writable", "sink_for"]

S = TypeVar("S", bound="Sink")


class Sink(ABC):
    """Takes one output after another; a context manager."""

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Take one output.

        Parameters
        ----------
        frame : Frame
            Its time is that of the input frame that the output is about; its data float32
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


class Writable(Protocol):
    """What lines are written to: a text file, or an :class:`Outbox`."""

    def write(self, text: str, /) -> object:
        """Take a text."""

    def flush(self) -> None:
        """Let it be seen at once."""


class TextSink(Sink):
    """A line for each output: its time, then its numbers."""

    def __init__(self, file: Writable) -> None:
        self.file = file

    def write(self, frame: Frame) -> None:
        numbers = " ".join(f"{v:.6g}" for v in frame.data.reshape(-1).tolist())
        self.file.write(f"{frame.time_s:.3f} {numbers}\n")
        self.file.flush()


class JsonSink(Sink):
    """A JSON object for each output, a line each: ``time_s``, and each column under its name.

    What is not finite is null. Columns must have different names other than ``time_s``.
    """

    def __init__(self, file: Writable, columns: Sequence[str]) -> None:
        self.file, self.columns = file, _different(columns)

    def write(self, frame: Frame) -> None:
        values = (frame.time_s, *frame.data.reshape(-1).tolist())
        known = [v if math.isfinite(v) else None for v in values]
        said = dict(zip(("time_s", *self.columns), known, strict=True))
        self.file.write(json.dumps(said) + "\n")
        self.file.flush()


class _Records:
    """A file of whole records: what a full disk or a signal cuts off is taken back."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.size = path, 0
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise SourceError(f"cannot write {path}: {error.strerror}") from None

    def add(self, record: bytes) -> None:
        """Write a record behind the others, or raise SourceError and leave those."""
        try:
            written = 0
            while written < len(record):
                written += self._file.write(record[written:])
        except OSError as error:
            raise SourceError(
                f"cannot write {self.path}: {error.strerror}; it holds what came before"
            ) from None
        self.size += len(record)

    def close(self, head: bytes = b"") -> None:
        """Cut off what is no whole record, and write another head of the same length."""
        if self._file.closed:
            return
        try:
            if self._file.seekable():
                self._file.truncate(self.size)
                self._file.seek(0)
                self._file.write(head)
        except OSError as error:
            raise SourceError(f"cannot finish {self.path}: {error.strerror}") from None
        finally:
            self._file.close()


class CsvSink(Sink):
    """A row for each output: ``time_s``, then each column under its name.

    Raises
    ------
    SourceError
        If the file cannot be written; rows before that are whole.
    ConfigError
        If two columns have the same name, or one is called ``time_s``.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        names = _different(columns)
        self._file = _Records(path)
        self._add(("time_s", *names))

    def write(self, frame: Frame) -> None:
        self._add((f"{frame.time_s:.9g}", *frame.data.reshape(-1)))

    def close(self) -> None:
        self._file.close()

    def _add(self, cells: Sequence[Any]) -> None:
        row = io.StringIO()
        csv.writer(row).writerow(cells)
        self._file.add(row.getvalue().encode())


class NpySink(Sink):
    """An array (T, *output shape), float32, in a ``.npy`` file that grows.

    Raises
    ------
    SourceError
        If the file cannot be written; after `close` it holds the frames before that.
    """

    def __init__(self, path: str | Path, shape: Sequence[int]) -> None:
        self.shape, self.frames = tuple(shape), 0
        self._file = _Records(path)
        self._file.add(self._head())

    def _head(self) -> bytes:
        """Return the header; numpy leaves room in it for a first axis that grows."""
        shape, head = (self.frames, *self.shape), io.BytesIO()
        said = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, said)
        return head.getvalue()

    def write(self, frame: Frame) -> None:
        self._file.add(np.ascontiguousarray(frame.data, "<f4").tobytes())
        self.frames += 1

    def close(self) -> None:
        self._file.close(self._head())


class WavSink(Sink):
    """The numbers of all outputs in a row as sound, float32 (extra ``audio``: soundfile).

    Raises
    ------
    SourceError
        If the file cannot be written; after `close` it holds the samples before that.
    """

    def __init__(self, path: str | Path, sample_rate_hz: float) -> None:
        soundfile = needed("soundfile", "audio", str(path))
        positive("WavSink", "sample_rate_hz", sample_rate_hz)
        if sample_rate_hz != int(sample_rate_hz):
            raise ConfigError(f"{path}: a file needs a whole sample rate, got {sample_rate_hz:g}")
        kind = "FLOAT" if Path(path).suffix.lower() == ".wav" else None
        self.path, self._broken = path, soundfile.LibsndfileError
        try:
            self._file: Any = soundfile.SoundFile(path, "w", int(sample_rate_hz), 1, kind)
        except (OSError, self._broken) as error:
            raise SourceError(f"cannot write {path}: {error}") from None

    def write(self, frame: Frame) -> None:
        try:
            self._file.write(frame.data.reshape(-1))
        except (OSError, AssertionError, self._broken) as error:  # soundfile asserts that all went
            why = str(error) or "not all samples were taken"
            raise SourceError(f"cannot write {self.path}: {why}") from None

    def close(self) -> None:
        try:
            self._file.close()
        except (OSError, self._broken) as error:
            raise SourceError(f"cannot finish {self.path}: {error}") from None


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


def _different(columns: Sequence[str]) -> tuple[str, ...]:
    """Return names of columns; raise ConfigError if two would be one beside ``time_s``."""
    seen = {"time_s"}
    for name in columns:
        if name in seen:
            raise ConfigError(
                f"columns beside `time_s` must have different names, got {name!r} in "
                f"{', '.join(columns)}"
            )
        seen.add(name)
    return tuple(columns)
