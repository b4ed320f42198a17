"""Frames that wait: an inbox with a policy for when it is full, and sources that come back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ..errors import ConfigError, SourceError
from ..resumable import positive
from .source import Counted, Frame, Source, logger

__all__ = ["POLICIES", "Buffered", "Inbox", "Reconnecting"]

POLICIES = ("block", "drop_oldest")

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue between the thread that receives frames and the one that reads them.

    Parameters
    ----------
    owner : Source or Outbox
        Who counts ``dropped`` and ``stalls``.
    policy : str
        When it is full: ``"block"`` lets the sender wait, ``"drop_oldest"`` drops the frame that
        has waited longest.
    capacity : int
        Frames that may wait.
    timeout_s : float or None
        Longest wait for a frame; None waits for ever.

    Raises
    ------
    ConfigError
        If the policy is unknown, there is no room for a frame, or no time to wait for one.
    """

    def __init__(
        self,
        owner: Counted,
        policy: str = "block",
        capacity: int = 64,
        timeout_s: float | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"`policy` must be one of {', '.join(POLICIES)}, got {policy!r}")
        positive(owner.name, "capacity", capacity, whole=True)
        if timeout_s is not None:
            positive(owner.name, "timeout_s", timeout_s)
        self.owner, self.policy, self.capacity = owner, policy, capacity
        self.timeout_s = timeout_s
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None

    def put(self, frame: T) -> bool:
        """Add a frame; return False if nobody wants any more."""
        with self._changed:
            if self.policy == "block":
                self._changed.wait_for(lambda: len(self._waiting) < self.capacity or self._ended)
            elif len(self._waiting) == self.capacity and not self._ended:
                self._waiting.popleft()
                self.owner.count("dropped", why=f"{self.capacity} frames were waiting")
            if self._ended:
                return False
            self._waiting.append(frame)
            self._changed.notify_all()
            return True

    def end(self, error: Exception | None = None) -> None:
        """No frame will come any more; `error` is raised after those that wait."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def left(self) -> int:
        """Return how many frames wait."""
        with self._changed:
            return len(self._waiting)

    def frames(self) -> Iterator[T]:
        """Yield frames as they come.

        Raises
        ------
        SourceError
            If none comes in time.
        """
        while True:
            with self._changed:
                here = self._changed.wait_for(lambda: self._waiting or self._ended, self.timeout_s)
                if not here:
                    self.owner.count("stalls")
                    raise SourceError(f"{self.owner.name}: no frame for {self.timeout_s:g} s")
                if not self._waiting:
                    break
                frame = self._waiting.popleft()
                self._changed.notify_all()
            yield frame
        if self._error is not None:
            raise self._error


class Buffered(Source):
    """Read another source in a thread of its own, so that it need not wait for the model.

    Parameters
    ----------
    source : Source
        What is read.
    policy, capacity, timeout_s
        As for :class:`Inbox`.
    """

    source: Source

    def __init__(
        self,
        source: Source,
        policy: str = "block",
        capacity: int = 64,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(source.name, source)
        self.sample_rate_hz = source.sample_rate_hz
        self.inbox: Inbox[Frame] = Inbox(self, policy, capacity, timeout_s)
        self._thread = threading.Thread(target=self._pump, name=f"read {self.name}", daemon=True)

    def _pump(self) -> None:
        error: Exception | None = None
        try:
            for frame in self.source:
                if not self.inbox.put(frame):
                    break
        except Exception as raised:  # raised again where frames are read
            error = raised
        finally:
            self.inbox.end(error)

    def _read(self) -> Iterator[Frame]:
        self._thread.start()
        yield from self.inbox.frames()

    def _close(self) -> None:
        self.inbox.end()
        self.source.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(0.2)
            if self._thread.is_alive():  # a read that nothing interrupts, such as of a pipe
                logger.info("%s: left while a read was waiting", self.name)


class Reconnecting(Source):
    """Open a source again when it breaks off with a SourceError; the model's state is kept.

    Parameters
    ----------
    opener : callable
        Returns a new, open source.
    retries : int
        Attempts in a row without a frame before the error is passed on.
    first_s, longest_s : float
        The first wait before an attempt; each further one is twice as long, up to the longest.

    Raises
    ------
    SourceError
        If it cannot be opened the first time, or too often afterwards. One that comes back with
        another sample rate has not come back.
    """

    def __init__(
        self,
        opener: Callable[[], Source],
        retries: int = 10,
        first_s: float = 0.05,
        longest_s: float = 30.0,
    ) -> None:
        positive("Reconnecting", "first_s", first_s)
        positive("Reconnecting", "longest_s", longest_s)
        if not (isinstance(retries, int) and retries >= 0):
            raise ConfigError(f"`retries` must be an integer of 0 or more, got {retries!r}")
        first = opener()  # what is wrong from the beginning is said at once
        super().__init__(first.name, first)
        self.sample_rate_hz = first.sample_rate_hz
        self._opener, self._retries = opener, retries
        self._first_s, self._longest_s = first_s, longest_s
        self._ended = threading.Event()

    def _read(self) -> Iterator[Frame]:
        failures = 0
        while not self.closed:
            try:
                self.source = self.source or self._opener()
                if self.source.sample_rate_hz != self.sample_rate_hz:
                    raise SourceError(
                        f"{self.name}: came back with a sample rate of "
                        f"{self.source.sample_rate_hz} Hz, before it was {self.sample_rate_hz}"
                    )
                for frame in self.source:
                    failures = 0
                    yield frame
                return
            except SourceError as error:
                self._leave()
                failures += 1
                if failures > self._retries or self.closed:
                    raise
                self.count("reconnects", why=error)
            self._ended.wait(min(self._longest_s, self._first_s * 2 ** (failures - 1)))

    def _leave(self) -> None:
        """Close the source that broke off and keep what it counted."""
        if self.source is not None:
            self._counts += self.source.counts
            self.source.close()
            self.source = None

    def _close(self) -> None:
        self._ended.set()
