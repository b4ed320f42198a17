"""Sources that are arrays and tables."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError
from ..resumable import positive
from .source import Frame, Source, as_floats, needed

__all__ = ["Csv", "Npy", "Npz", "Parquet", "Table"]


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
        positive("Npy", "frame_rate_hz", frame_rate_hz)
        if sample_rate_hz is not None:
            positive("Npy", "sample_rate_hz", sample_rate_hz)
        try:
            self._array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise SourceError(f"{path}: cannot read it: {error.strerror or error}") from None
        except (ValueError, EOFError):  # whose words advise to unpickle what is no array
            raise SourceError(f"{path}: cannot read it as .npy: it holds no numbers") from None
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


class Npz(Source):
    """Frames of several arrays (T, …) in a ``.npz`` file: a frame is one of each, side by side.

    Parameters
    ----------
    path : str or Path
        The file; nothing in it is unpickled.
    names : sequence of str
        The arrays that are a frame, in this order, flat: a model's inputs.
    frame_rate_hz : float
        Frames in a second.

    Raises
    ------
    SourceError
        If it cannot be read, or does not hold arrays of real numbers with these names and as many
        frames each.
    """

    def __init__(self, path: str | Path, names: Sequence[str], frame_rate_hz: float = 1.0) -> None:
        super().__init__(str(path))
        positive("Npz", "frame_rate_hz", frame_rate_hz)
        self.frame_rate_hz = frame_rate_hz
        try:
            with open(path, "rb") as file:
                found = np.load(file, allow_pickle=False)
                arrays = {"": found} if isinstance(found, np.ndarray) else dict(found)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise SourceError(f"{path}: cannot read it as .npz: {error}") from None
        fits = arrays.keys() >= set(names) and all(arrays[n].ndim for n in names)
        lengths = {len(arrays[n]) for n in names} if fits else set()
        if len(lengths) != 1 or not all(arrays[n].dtype.kind in "iufb" for n in names):
            held = ", ".join(f"{n} {a.dtype} {a.shape}" for n, a in arrays.items())
            raise SourceError(
                f"{path}: expected numbers of shape (T, …) called {', '.join(names)}, got {held}"
            )
        self._arrays = [arrays[n] for n in names]

    def _read(self) -> Iterator[Frame]:
        for t, rows in enumerate(zip(*self._arrays, strict=True)):
            data = np.concatenate([np.reshape(row, -1) for row in rows])
            yield Frame(t / self.frame_rate_hz, as_floats(data))


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
        positive(type(self).__name__, "frame_rate_hz", frame_rate_hz)
        self.frame_rate_hz, self.time_column = frame_rate_hz, time_column
        found = self._open()
        wanted = [n for n in found if n != time_column] if columns is None else list(columns)
        absent = [n for n in (*wanted, *([time_column] if time_column else ())) if n not in found]
        if absent or not wanted:
            self.close()
            there = f"; there are {', '.join(found)}" if found else ""
            what = f"no column {', '.join(absent)}" if absent else "holds no columns of numbers"
            raise SourceError(f"{path}: {what}{there}")
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
