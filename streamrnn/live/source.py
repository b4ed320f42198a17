"""What all sources are: an iterator of timestamped frames that counts what went wrong."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import SourceError

__all__ = ["Array", "Frame", "Source", "as_floats", "needed", "now_s"]

Array = npt.NDArray[np.float32]

logger = logging.getLogger("streamrnn.live")

_BEGAN_S = time.perf_counter()
S = TypeVar("S", bound="Source")


def now_s() -> float:
    """Return the time that live sources stamp frames with: seconds since the program began."""
    return time.perf_counter() - _BEGAN_S


def as_floats(numbers: Any) -> Array:
    """Return numbers as float32; what is too large for it is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float64).astype(np.float32)


def needed(module: str, extra: str, who: str) -> Any:
    """Import a library of an extra.

    Raises
    ------
    SourceError
        If it is missing.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that is not there
        raise SourceError(
            f"{who} needs {module}: pip install streamrnn[{extra}] ({error})"
        ) from None


class Frame(NamedTuple):
    """What a source gives.

    Parameters
    ----------
    time_s : float
        When it began, in seconds from the source's own zero: the beginning of a file, or what a
        column of times says. Live sources count from the start of the program; of a message, a line
        or a packet that is when it came.
    data : float32 [shape=frame shape, or (n, channels) where the source has a sample rate]
        One frame, or a block of samples.
    """

    time_s: float
    data: Array


class Counted:
    """Whoever counts what goes wrong, and logs it.

    Parameters
    ----------
    name : str
        Who it is, in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """What went wrong so far, and how often; the package says which words there are."""
        return Counter(self._counts)

    def count(self, what: str, n: int = 1, why: object = "") -> None:
        """Count and log; of a thing that goes on happening, every power of ten is logged."""
        before = self._counts[what]
        self._counts[what] += n
        if not before or len(str(before)) < len(str(before + n)):
            words, reason = what.replace("_", " "), f": {why}" if why else ""
            logger.warning("%s: %d %s%s", self.name, self._counts[what], words, reason)


class Source(Counted, ABC):
    """An iterator of frames: ``for frame in source`` or ``async for frame in source``.

    Sources are context managers; after ``close`` they give nothing more. Sources that take another
    source (``source=``) close it with themselves, and add its counts to their own.

    Attributes
    ----------
    name : str
        Who it is, in messages.
    sample_rate_hz : float or None
        Of a source of samples, whose frames are blocks (n, channels) of any length; None where
        each frame is one of the model's.
    """

    sample_rate_hz: float | None = None

    def __init__(self, name: str, source: Source | None = None) -> None:
        super().__init__(name)
        self.source = source
        self.closed = False
        self._frames: Iterator[Frame] | None = None
        self._awaited: asyncio.Future[Frame | None] | None = None

    @abstractmethod
    def _read(self) -> Iterator[Frame]:
        """Yield the frames; raise SourceError where the source breaks off."""

    def _close(self) -> None:
        """Give back what the source holds; called once."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def counts(self) -> Counter[str]:
        """What went wrong so far, here and in the source that this one reads."""
        return self._counts + (self.source.counts if self.source else Counter())

    def silence(self, data: Array) -> Array:
        """Return the frame that follows another one if nothing more comes: zeros.

        Parameters
        ----------
        data : float32 [shape=frame shape]
            The frame before; where frames overlap, a part of it comes again.
        """
        return np.zeros_like(data) if self.source is None else self.source.silence(data)

    # Sync ------------------------------------------------------------------------------------

    def __iter__(self: S) -> S:
        return self

    def __next__(self) -> Frame:
        if self.closed:
            raise StopIteration
        if self._frames is None:
            self._frames = self._read()
        return next(self._frames)

    def close(self) -> None:
        """End the source; twice is once."""
        if not self.closed:
            self.closed = True
            self._close()
            if self.source is not None:
                self.source.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Async -----------------------------------------------------------------------------------

    def __aiter__(self: S) -> S:
        return self

    async def __anext__(self) -> Frame:
        """Wait for the next frame in a thread; a cancelled wait loses no frame.

        Where a read may wait for ever, as of a pipe, :class:`Buffered` lets ``close`` end it.
        """
        if self._awaited is None:
            loop = asyncio.get_running_loop()
            self._awaited = loop.run_in_executor(None, lambda: next(self, None))
            self._awaited.add_done_callback(_looked_at)
        frame = await asyncio.shield(self._awaited)
        self._awaited = None
        if frame is None:
            raise StopAsyncIteration
        return frame

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.close()


def _looked_at(awaited: asyncio.Future[Frame | None]) -> None:
    """Take note of an error, which nobody may be waiting for any more."""
    if not awaited.cancelled():
        awaited.exception()
