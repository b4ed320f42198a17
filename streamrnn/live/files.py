"""Sources that are files: sound, raw samples, tables, arrays, video."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ConfigError, SourceError
from .source import Array, Frame, Source, as_floats

__all__ = ["Csv", "Npy", "Parquet", "Pcm", "SoundFile", "Table", "Video"]

ENCODINGS = {"s16le": "<i2", "f32le": "<f4"}
"""Raw samples: 16-bit integers, full scale 32768, and float32; both little-endian."""


class SoundFile(Source):
    """Samples of a sound file: WAV, FLAC, OGG, MP3, … (extra ``audio``: soundfile).

    Full scale is 1. A file that breaks off, or whose header gives another length, gives what is
    there, ``truncated``; one without samples gives no frame.

    Parameters
    ----------
    path : str or Path
        The file.
    block : int
        Samples read at once.

    Raises
    ------
    SourceError
        If it cannot be read as sound, or soundfile is missing.
    """

    def __init__(self, path: str | Path, block: int = 1024) -> None:
        super().__init__(str(path))
        soundfile = needed("soundfile", "audio", self.name)
        if not Path(path).is_file():
            raise SourceError(f"{path}: no such file")
        try:
            self._file: Any = soundfile.SoundFile(path)
        except (OSError, soundfile.LibsndfileError) as error:
            raise SourceError(f"{path}: cannot read it as sound: {error}") from None
        self._broken = soundfile.LibsndfileError
        self.block, self.sample_rate_hz = block, float(self._file.samplerate)
        wrong = [line for line in self._file.extra_info.splitlines() if "(should be" in line]
        if wrong:  # what libsndfile says of a length in the header that is not the file's
            self.count("truncated", why=" ".join(wrong[-1].split()))

    def _read(self) -> Iterator[Frame]:
        at, promised = 0, self._file.frames
        while True:
            try:
                data = self._file.read(self.block, "float32", always_2d=True)
            except self._broken as error:
                self.count("truncated", why=f"after {at} samples: {error}")
                return
            if not len(data):
                break
            yield Frame(at / self._file.samplerate, data)
            at += len(data)
        if at < promised < 2**62:  # streams say that they have no end
            self.count("truncated", why=f"{at} of {promised} samples")

    def _close(self) -> None:
        self._file.close()


class Pcm(Source):
    """Raw samples from a pipe, such as standard input.

    Bytes at the end that are no whole sample of all channels are dropped, ``half_frames``.

    Parameters
    ----------
    file : binary file
        Where bytes are read from; it is not closed.
    sample_rate_hz : float
        As the sender has it: bytes do not say it.
    encoding : str
        ``"s16le"`` or ``"f32le"``.
    channels : int
        Of the signal; their samples alternate.
    block : int
        Samples read at once.

    Raises
    ------
    ConfigError
        If the encoding is unknown, or a number is not positive.
    """

    def __init__(
        self,
        file: BinaryIO,
        sample_rate_hz: float,
        encoding: str = "s16le",
        channels: int = 1,
        block: int = 512,
    ) -> None:
        super().__init__("standard input")
        if encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise ConfigError(f"`encoding` must be one of {known}, got {encoding!r}")
        if not (sample_rate_hz > 0 and math.isfinite(sample_rate_hz)) or channels < 1 or block < 1:
            raise ConfigError(
                f"`sample_rate_hz`, `channels` and `block` must be positive, got "
                f"{sample_rate_hz:g}, {channels} and {block}"
            )
        self.sample_rate_hz = sample_rate_hz
        self.file, self.encoding, self.channels, self.block = file, encoding, channels, block

    def _read(self) -> Iterator[Frame]:
        assert self.sample_rate_hz is not None
        size = np.dtype(ENCODINGS[self.encoding]).itemsize * self.channels
        at = 0
        while data := self._bytes(self.block * size):
            if len(data) % size:
                self.count("half_frames", why=f"{len(data) % size} bytes at the end")
            block = samples(data[: len(data) - len(data) % size], self.encoding, self.channels)
            if len(block):
                yield Frame(at / self.sample_rate_hz, block)
            at += len(block)

    def _bytes(self, n: int) -> bytes:
        """Return n bytes, fewer at the end; a pipe may give them piece by piece."""
        parts, missing = [], n
        while missing and (part := self.file.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def samples(data: bytes, encoding: str, channels: int = 1) -> Array:
    """Return raw samples as float32 [shape=(n, channels)], full scale 1."""
    numbers = np.frombuffer(data, ENCODINGS[encoding]).reshape(-1, channels)
    block: Array = numbers.astype(np.float32)
    return block / np.float32(32768) if encoding == "s16le" else block


class Npy(Source):
    """Frames of an array (T, …) in a ``.npy`` file, or its samples where a sample rate is given.

    Parameters
    ----------
    path : str or Path
        The file; nothing in it is unpickled.
    sample_rate_hz : float, optional
        Makes (T,) or (T, channels) samples.
    frame_rate_hz : float
        Frames in a second.

    Raises
    ------
    SourceError
        If it cannot be read, or does not hold real numbers with a first axis.
    """

    def __init__(
        self, path: str | Path, sample_rate_hz: float | None = None, frame_rate_hz: float = 1.0
    ) -> None:
        super().__init__(str(path))
        try:
            self._array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SourceError(f"{path}: cannot read it as .npy: {error}") from None
        kind, shape = getattr(self._array, "dtype", np.dtype("O")).kind, np.shape(self._array)
        fits = kind in "iufb" and shape and (sample_rate_hz is None or len(shape) <= 2)
        if not fits:
            wanted = "(T, …)" if sample_rate_hz is None else "(T,) or (T, channels)"
            raise SourceError(
                f"{path}: expected numbers of shape {wanted}, got kind {kind!r}, shape {shape}"
            )
        self.sample_rate_hz, self.frame_rate_hz = sample_rate_hz, frame_rate_hz

    def _read(self) -> Iterator[Frame]:
        if self.sample_rate_hz is None:
            for t, row in enumerate(self._array):
                yield Frame(t / self.frame_rate_hz, as_floats(row))
            return
        for at in range(0, len(self._array), 1024):
            block = as_floats(self._array[at : at + 1024])
            yield Frame(at / self.sample_rate_hz, block.reshape(len(block), -1))


class Table(Source):
    """What tables share: which columns are a frame, and which one says the time.

    Parameters
    ----------
    path : str or Path
        The file.
    columns : sequence of str, optional
        Names of the columns that are a frame, in this order; all but the time's by default.
    time_column : str, optional
        Seconds; without it, frames are counted.
    frame_rate_hz : float
        Frames in a second where no column says the time.

    Raises
    ------
    SourceError
        If the file cannot be read, or has no such columns.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str] | None = None,
        time_column: str | None = None,
        frame_rate_hz: float = 1.0,
    ) -> None:
        super().__init__(str(path))
        self.frame_rate_hz, self.time_column = frame_rate_hz, time_column
        found = self._open()
        wanted = [n for n in found if n != time_column] if columns is None else list(columns)
        absent = [n for n in (*wanted, *([time_column] if time_column else ())) if n not in found]
        if absent or not wanted:
            self.close()
            raise SourceError(
                f"{path}: no column {', '.join(absent) or 'at all'}; there are {', '.join(found)}"
            )
        self.columns, self._found = wanted, found

    def _open(self) -> list[str]:
        """Open the file and return the names of its columns."""
        raise NotImplementedError

    def _time_s(self, t: int, said: float | None) -> float:
        return t / self.frame_rate_hz if said is None else said


class Csv(Table):
    """Rows of a CSV file; its first row names the columns, or is a row of numbers.

    Without names columns are called ``0``, ``1``, … An empty cell is a missing number, NaN; a row
    of another length, or with a word in a cell that is read, is dropped, ``garbage``. Parameters as
    for :class:`Table`.
    """

    def _open(self) -> list[str]:
        try:
            # Bytes that are no text spoil their cell and nothing else.
            self._file = open(  # noqa: SIM115
                self.name, newline="", encoding="utf-8-sig", errors="replace"
            )
        except OSError as error:
            raise SourceError(f"{self.name}: cannot read it: {error.strerror}") from None
        self._rows = csv.reader(self._file)
        self._first: list[str] | None = None
        try:
            head = next(self._rows, [])
        except csv.Error as error:
            self._file.close()
            raise SourceError(f"{self.name}: cannot read it as CSV: {error}") from None
        try:
            for cell in head:
                _number(cell)
        except ValueError:
            return [cell.strip() for cell in head]
        self._first = head
        return [str(i) for i in range(len(head))]

    def _read(self) -> Iterator[Frame]:
        places = [self._found.index(n) for n in self.columns]
        clock = None if self.time_column is None else self._found.index(self.time_column)
        for t, row in enumerate(self._lines()):
            try:
                if len(row) != len(self._found):
                    raise ValueError(f"{len(row)} cells instead of {len(self._found)}")
                data = as_floats([_number(row[i]) for i in places])
                time_s = self._time_s(t, None if clock is None else float(row[clock]))
            except ValueError as error:
                self.count("garbage", why=f"line {self._rows.line_num}: {error}")
                continue
            yield Frame(time_s, data)

    def _lines(self) -> Iterator[list[str]]:
        if self._first:
            yield self._first
        while True:
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                self.count("garbage", why=error)
                continue
            if row is None:
                return
            if row:
                yield row

    def _close(self) -> None:
        self._file.close()


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


class Parquet(Table):
    """Rows of a Parquet file (extra ``live``: pyarrow), read in batches; null is NaN.

    Parameters as for :class:`Table`.
    """

    def _open(self) -> list[str]:
        parquet = needed("pyarrow.parquet", "live", self.name)
        try:
            self._file: Any = parquet.ParquetFile(self.name)
        except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
            raise SourceError(f"{self.name}: cannot read it as Parquet: {error}") from None
        return [str(name) for name in self._file.schema_arrow.names]

    def _read(self) -> Iterator[Frame]:
        names = [*self.columns, *([self.time_column] if self.time_column else ())]
        t = 0
        for batch in self._file.iter_batches(columns=names, batch_size=1024):
            try:
                rows = np.stack([_floats(batch.column(n)) for n in names], axis=1)
            except (ValueError, TypeError) as error:
                raise SourceError(f"{self.name}: expected columns of numbers: {error}") from None
            for row in rows:
                said = float(row[-1]) if self.time_column else None
                yield Frame(self._time_s(t, said), as_floats(row[: len(self.columns)]))
                t += 1

    def _close(self) -> None:
        self._file.close()


def _floats(column: Any) -> Any:
    return column.to_numpy(zero_copy_only=False).astype(np.float64)


class Video(Source):
    """Pictures of a video file, grey or coloured, in [0, 1] (extra ``live``: PyAV).

    Packets that cannot be decoded are dropped, ``garbage``.

    Parameters
    ----------
    path : str or Path
        The file, or what else FFmpeg opens.
    height, width : int
        The size that pictures are scaled to.
    channels : int
        1 (grey) or 3 (RGB): a frame is float32 [shape=(channels, height, width)].
    input_format : str, optional
        FFmpeg's name of what is opened: ``"v4l2"`` makes ``/dev/video0`` a camera.

    Raises
    ------
    SourceError
        If it holds no video, or PyAV is missing.
    """

    def __init__(
        self,
        path: str | Path,
        height: int,
        width: int,
        channels: int = 3,
        input_format: str | None = None,
    ) -> None:
        super().__init__(str(path))
        if channels not in (1, 3) or height < 1 or width < 1:
            raise ConfigError(
                f"expected 1 or 3 channels and a positive size, got {channels}, {height} x {width}"
            )
        self._av = needed("av", "live", self.name)
        self.shape = (channels, height, width)
        try:
            self._file: Any = self._av.open(self.name, format=input_format)
        except (self._av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"{path}: cannot read it as video: {error}") from None
        if not self._file.streams.video:
            self._file.close()
            raise SourceError(f"{path}: it has no pictures")

    def _read(self) -> Iterator[Frame]:
        channels, height, width = self.shape
        kind = "gray" if channels == 1 else "rgb24"
        for t, picture in enumerate(self._pictures()):
            small = picture.reformat(width=width, height=height, format=kind).to_ndarray()
            data = np.ascontiguousarray(small.reshape(height, width, channels).transpose(2, 0, 1))
            time_s = float(t) if picture.time is None else float(picture.time)
            yield Frame(time_s, data.astype(np.float32) / np.float32(255))

    def _pictures(self) -> Iterator[Any]:
        packets = self._file.demux(self._file.streams.video[0])
        while True:
            try:
                packet = next(packets, None)
                pictures = () if packet is None else packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError as error:
                self.count("garbage", why=error)
                continue
            if packet is None:
                return
            yield from pictures

    def _close(self) -> None:
        self._file.close()


def needed(module: str, extra: str, who: str) -> Any:
    """Import a library of an extra.

    Raises
    ------
    SourceError
        If it is missing.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that is not there
        raise SourceError(
            f"{who} needs {module}: pip install streamrnn[{extra}] ({error})"
        ) from None
