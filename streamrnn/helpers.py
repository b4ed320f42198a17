"""Threads that do their part of a job of a millisecond or more.

They wait for locks in Python, so an idle one costs nothing, and the system starts it on an idle
core. Jobs of microseconds are another matter: :mod:`streamrnn.kernels.team`.
"""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Helpers"]

Job = Callable[[int, int, int], None]
_RELEASE, _ACQUIRE = operator.methodcaller("release"), operator.methodcaller("acquire")
_JOB = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Helpers:
    """The calling thread and n - 1 more, which do a compiled job together.

    The threads start with the first job, and again after a fork; they end with this object.

    Parameters
    ----------
    n : int
        Threads, the calling one among them.
    address : int
        Of a C function ``void job(int64 part, int64 parts, int64 argument)``, which touches no
        Python object and takes whatever part of the work nobody has taken yet.
    argument : int
        What it is given; it has to stay valid as long as this object is used.
    """

    def __init__(self, n: int, address: int, argument: int) -> None:
        self._n, self._argument = n, argument
        self._job: Job = _JOB(address)
        self._pid = 0  # of the process in which the threads are

    def run(self) -> None:
        """Do the job, and return when all of it is done, even if Ctrl-C comes meanwhile.

        Raises
        ------
        RuntimeError
            If the system has no more threads; nothing has been done.
        """
        if self._pid != os.getpid():  # the first time, and in a child of this process
            self._start()
        # Ctrl-C comes between steps of the interpreter: `extend` is one, and says how far it came.
        asked: list[Any] = []
        interrupt = None
        try:
            asked.extend(map(_RELEASE, self._go))
            self._job(0, self._n, self._argument)
        except KeyboardInterrupt as error:
            interrupt = error
        done: list[Any] = []
        while len(done) < len(asked):
            try:
                done.extend(map(_ACQUIRE, self._done[len(done) :]))
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _start(self) -> None:
        self._go: list[Any] = []
        self._done: list[Any] = []
        over: list[bool] = []
        weakref.finalize(self, _end, over, self._go)
        for part in range(1, self._n):
            go, done = threading.Lock(), threading.Lock()
            go.acquire()
            done.acquire()
            arguments = (self._job, part, self._n, self._argument, go, done, over)
            threading.Thread(target=_help, args=arguments, daemon=True).start()
            self._go.append(go)
            self._done.append(done)
        self._pid = os.getpid()


def _help(
    job: Job, part: int, parts: int, argument: int, go: Any, done: Any, over: list[bool]
) -> None:
    """Life of a thread. It holds nothing that the threads shall end with."""
    while True:
        go.acquire()
        if over:
            return
        job(part, parts, argument)
        done.release()


def _end(over: list[bool], waiting: list[Any]) -> None:
    over.append(True)
    for go in waiting:
        with contextlib.suppress(RuntimeError):  # in a child: at work at the fork
            go.release()
