"""What ``streamrnn run`` says while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..live import Meter

__all__ = ["Ended", "Watch", "ended_by_signals", "warnings_shown"]

TERMINAL_S, PLAIN_S = 0.25, 10.0


class Watch:
    """Shows a meter, on stderr: four times a second on a terminal, every 10 s elsewhere.

    Parameters
    ----------
    console : Console
        Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._every_s = TERMINAL_S if console.is_terminal else PLAIN_S
        self._next_s = time.perf_counter() + self._every_s

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            both = sys.stdout.isatty()  # lines on stdout go above the meter, unless they are piped
            self._live = Live(
                console=self.console, auto_refresh=False, transient=True, redirect_stdout=both
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, meter: Meter) -> None:
        now_s = time.perf_counter()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        if self._live is not None:
            self._live.update(Text(str(meter), style="dim"), refresh=True)
        else:
            self.console.print(str(meter))


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.getMessage()}\n")


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show what sources log, a line each on stderr."""
    logger, handler = logging.getLogger("streamrnn.live"), _OnStderr(logging.WARNING)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@dataclass
class Ended:
    """With which exit code a signal ended the command."""

    code: int = 130  # Ctrl-C


@contextmanager
def ended_by_signals() -> Iterator[Ended]:
    """Let SIGTERM, and the end of the terminal, end what is done as Ctrl-C does: cleanly."""
    ended = Ended()
    before: dict[int, Any] = {}

    def end(number: int, frame: object) -> None:
        ended.code = 128 + number
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
