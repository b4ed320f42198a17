"""Making kernels ready: those that the cache lacks are compiled, side by side, and it is said.

numba compiles under one lock, so compiling side by side takes processes. Workers only fill the
cache: this process compiles too, and whatever a worker has not done, for whatever reason, it does
itself in the end. So nothing depends on workers; where there can be none, it takes longer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from .cache import KeptFile, cache_folder, writable
from .tape import Kernel

__all__ = ["Part", "prepare", "work"]

ENOUGH_FOR_A_WORKER = 4
"""Missing kernels from which on a worker is worth its own start, about a second."""

Told = Callable[[int, int], None]
"""Is told how many kernels of how many are compiled."""


class Part(Protocol):
    """A kernel, or the loop."""

    name: str

    @property
    def compiled(self) -> Any: ...

    def is_kept(self, on_disk: bool = False) -> bool: ...

    def kept_file(self) -> KeptFile | None: ...


def prepare(parts: Iterable[Part], jobs: int | None = None, told: Told | None = None) -> int:
    """Compile the parts that neither this process nor the cache has.

    Parameters
    ----------
    parts : iterable of Part
        Kernels, and ``LOOP``.
    jobs : int, optional
        Processes that compile, this one included: ``STREAMRNN_JOBS``, or one for each CPU.
    told : callable, optional
        Is told ``(done, total)`` as it goes; otherwise it is a line on a terminal's stderr, or
        messages of the logger ``streamrnn``.

    Returns
    -------
    int
        How many were compiled.

    Raises
    ------
    ValueError
        If ``STREAMRNN_JOBS`` is no whole number from 1 on.
    """
    missing = [part for part in parts if not part.is_kept()]
    if missing:
        if not writable(cache_folder()):  # what workers compile would be lost
            jobs = 1
            logging.getLogger("streamrnn").warning(
                "%s lacks %d kernels and cannot be written, so every process compiles them anew; "
                "run `streamrnn warmup` where it can be",
                cache_folder(),
                len(missing),
            )
        with contextlib.ExitStack() as stack:
            told = told or stack.enter_context(_shown(len(missing)))
            _compile(missing, _jobs(jobs, len(missing)), told)
    return len(missing)


def _jobs(wanted: int | None, missing: int) -> int:
    text = os.environ.get("STREAMRNN_JOBS", "")
    if wanted is None and text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"STREAMRNN_JOBS must be a whole number from 1 on, got {text!r}")
        wanted = int(text)
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    useful = missing // 2 if missing >= ENOUGH_FOR_A_WORKER else 1
    return min(wanted or cpus, useful) if _is_python() else 1


def _is_python() -> bool:
    """Whether ``sys.executable`` is an interpreter, and not a program that holds one."""
    name = Path(sys.executable or "").stem.lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


def _compile(missing: Sequence[Part], jobs: int, told: Told) -> None:
    """Compile all of them in this process and in ``jobs - 1`` others."""
    places = {id(part): _place(part) for part in missing}
    own = deque(part for part in missing if not places[id(part)])
    shared = deque(part for part in missing if places[id(part)])
    done, lock = 0, threading.Lock()

    def one_more() -> None:
        nonlocal done
        with lock:
            done += 1
            told(done, len(missing))

    def feed(worker: subprocess.Popen[str]) -> None:
        """Give a worker one part after another, until none is left or it is gone."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        with contextlib.suppress(OSError, ValueError, IndexError):
            while True:
                part = shared.popleft()
                worker.stdin.write(f"{places[id(part)]}\n")
                worker.stdin.flush()
                if not worker.stdout.readline():
                    return
                one_more()

    told(0, len(missing))
    workers: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(jobs - 1, len(shared))):
            with contextlib.suppress(OSError):  # no processes to be had: it takes longer
                workers.append(_worker())
                threads.append(threading.Thread(target=feed, args=workers[-1:], daemon=True))
                threads[-1].start()
        for parts in (own, shared):
            with contextlib.suppress(IndexError):  # a worker has taken the last one
                while True:
                    _ = parts.popleft().compiled
                    one_more()
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.communicate()
    for part in missing:  # from the cache; or here and now, if its worker came to grief
        _ = part.compiled


def _place(part: Part) -> str:
    """Return where another process finds a part; nothing if it cannot.

    It is ``module:name``, or ``module:name:storage:form`` for one of a kernel's forms.
    """
    name = getattr(getattr(part, "function", None), "__module__", "")
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return ""
    storage = getattr(part, "storage", "float32")
    for key, value in vars(module).items():
        if value is part:
            return f"{name}:{key}"
        if isinstance(value, Kernel):
            form = value.storing(storage)
            if part in (form, form.split):
                return f"{name}:{key}:{storage}:{'plain' if part is form else 'split'}"
    return ""


def _part(place: str) -> Part:
    """Return the part that is found at a place."""
    module, name, *form = place.split(":")
    part: Any = getattr(importlib.import_module(module), name)
    if form:
        part = part.storing(form[0])
        part = part.split if form[1] == "split" else part
    return part  # type: ignore[no-any-return]


_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from streamrnn.kernels.compile import work; work()"
)


def _worker() -> subprocess.Popen[str]:
    """Start a process that finds the same modules, and fills the same folder."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _WORKER, json.dumps([str(path) for path in sys.path])],
        env={**os.environ, "STREAMRNN_CACHE_DIR": str(cache_folder().parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what a worker cannot do, this process does, and says why
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        encoding="utf-8",
    )


def work() -> None:
    """Compile the parts that are named on stdin, a line each, and answer each with a line.

    It ends with its stdin, and so with the process that has started it.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever modules print is no answer
        for line in sys.stdin:
            with contextlib.suppress(Exception):
                _ = _part(line.strip()).compiled
            answers.write("done\n")
            answers.flush()


@contextlib.contextmanager
def _shown(total: int) -> Any:
    """Give what is told of compiling `total` kernels, to be shown to whoever watches."""
    stream, start = sys.stderr, time.perf_counter()
    off = os.environ.get("STREAMRNN_PROGRESS", "") == "0"
    if off or stream is None or not stream.isatty():
        log = logging.getLogger("streamrnn")
        quiet = logging.DEBUG if off else logging.INFO
        log.log(quiet, "compiling %d kernels (once on this machine)", total)
        yield lambda done, total: None
        log.log(quiet, "compiled %d kernels in %.1f s", total, time.perf_counter() - start)
        return

    def told(done: int, total: int) -> None:
        stream.write(f"\rstreamrnn: compiling kernels {done}/{total} (once on this machine)")
        stream.flush()

    try:
        yield told
    finally:
        stream.write("\r\x1b[K")
        stream.flush()
