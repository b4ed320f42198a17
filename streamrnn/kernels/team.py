"""A team: threads that run compiled code together, without a lock.

``together(team, job, argument)`` calls ``job(part, parts, argument)`` in this thread and in every
member of the team that is awake, and returns when all are done. A job must give the same result
whatever ``parts`` is; then nothing depends on a member being there. Who is asleep, or at work for
another thread of the program, is left out, so nothing can wait for ever.

Each member has a word on a cache line of its own, and everything is said by it::

    ASLEEP -> AWAKE     the member, when its thread comes
    AWAKE  -> ASLEEP    the member, when there has been nothing to do
    AWAKE  -> TAKEN     the caller, who then writes down the job
    TAKEN  -> GO        the caller
    GO     -> DONE      the member
    DONE   -> AWAKE     the caller

A member that is awake watches its word. After half a millisecond it gives way to other threads
between two looks, then returns to Python and waits for its lock, so an idle team costs no CPU.
Python releases that lock before a call, if anybody sleeps (:meth:`Team.wake`); the call does not
wait for the sleeper, who helps from the next one on: it does not go back to sleep while a job is
being done, or it would never be there for one that takes longer than its patience.

Two threads on one core would each wait for the other to be given it. So a member says where it
is. One on the caller's own core cannot be running: it is left out, and goes to sleep as soon as it
finds itself there, for some milliseconds. A system wakes a thread on a core that is free, if there
is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from numba import types

from ..errors import ConfigError
from .atomic import add, call_job, call_split, core, read, swap, write
from .compile import prepare
from .member import EXPECTED, GIVE_WAY, LINE, MEETINGS, PART, PARTS, SPINS, meet, wait
from .simd import at, call, floats, ints
from .tape import (
    FRAMES,
    ROW,
    ROWS,
    SCRATCH,
    STATE,
    TAPE,
    WEIGHTS,
    Compiled,
    Job,
    Kernel,
    Loop,
    Size,
    advance,
    helper,
    kernel,
)

if TYPE_CHECKING:
    from ..program import Program

__all__ = ["MAX_THREADS", "Team", "Walk", "check_threads", "split_forms", "together"]

MAX_THREADS = 64
"""Most members of a team: one bit each of a word."""

AWAKE, ASLEEP, TAKEN, GO, DONE, STOPPED = range(6)
IN_THE_WAY = 6
"""What a member says that has gone to sleep because it is on the caller's core."""

# A member's lines. Line 0 is that of the caller: how many sleep, and what all need to know.
WORD, JOB, ARGUMENT, JOB_PART, JOB_PARTS, CORE, RESTS_UNTIL = range(7)
SLEEPERS, MEMBERS, OTHERS, ENOUGH, WHERE, CALLER, BUSY = range(7)

PATIENCE = 4000
"""Looks at a word, with a pause after each, before a thread gives way: about half a millisecond.
Systems move threads apart that share a core, but hardly if they hand it on to each other sooner."""

REST_NS = 5_000_000
"""Time for which a member is not woken that was in the caller's way: waking takes some microseconds
each time, and what keeps the other cores busy is not done a moment later."""

YIELDS = 100
"""Looks at a word, giving way after each, before a member goes to sleep."""


NOWHERE = -1
"""The core of a thread of which that is not known."""


@helper
def together(team: Any, job: int, argument: int) -> int:
    """Call ``job(part, parts, argument)`` in all members that are there; return how many."""
    enough, other = team[ENOUGH], team[OTHERS]
    mine, parts, here = 0, 1, NOWHERE
    add(team, BUSY, 1)
    if team[WHERE] != 0:
        here = core(team[WHERE])
        if read(team, CALLER) != here:
            write(team, CALLER, here)
    for k in range(1, team[MEMBERS]):
        member = at(team, k * LINE)
        elsewhere = here == NOWHERE or read(member, CORE) != here
        if elsewhere and swap(member, WORD, AWAKE, TAKEN):
            member[JOB_PART] = parts
            parts += 1
            mine |= 1 << k
    for k in range(1, team[MEMBERS]):
        if mine >> k & 1:
            member = at(team, k * LINE)
            member[JOB], member[ARGUMENT], member[JOB_PARTS] = job, argument, parts
            write(member, WORD, GO)
    call_job(job, 0, parts, argument)
    for k in range(1, team[MEMBERS]):
        if mine >> k & 1:
            member = at(team, k * LINE)
            spins = 0
            while read(member, WORD) != DONE:
                wait(spins, enough, other)
                spins += 1
            write(member, WORD, AWAKE)
    add(team, BUSY, -1)
    return parts


@helper
def in_the_way(team: Any, member: Any) -> Any:
    """Whether this member is on the core of who last called the team; and note where it is."""
    if team[WHERE] == 0:
        return False
    here = core(team[WHERE])
    if read(member, CORE) != here:
        write(member, CORE, here)
    return read(team, CALLER) == here


@helper
def near_caller(spins: int, team: Any, member: Any) -> Any:
    """Look now and then whether this member is in the way: each look takes the caller's line."""
    return spins > 0 and spins % 32 == 0 and in_the_way(team, member)


def _serve(address: int, k: int) -> int:
    """Be member k until there has been nothing to do for a while; return why it ends."""
    team = ints(address)
    member = at(team, k * LINE)
    in_the_way(team, member)
    if swap(member, WORD, ASLEEP, AWAKE):
        add(team, SLEEPERS, -1)
    enough, other = team[ENOUGH], team[OTHERS]
    spins = 0
    while True:
        word = read(member, WORD)
        if word == GO:
            call_job(member[JOB], member[JOB_PART], member[JOB_PARTS], member[ARGUMENT])
            write(member, WORD, DONE)
            spins = 0
        elif word == STOPPED:
            return STOPPED
        elif word != AWAKE or (spins < enough + YIELDS and not near_caller(spins, team, member)):
            wait(spins, enough, other)
            if spins < enough or read(team, BUSY) == 0:
                spins += 1
        else:
            add(team, SLEEPERS, 1)
            if swap(member, WORD, AWAKE, ASLEEP):
                return IN_THE_WAY if in_the_way(team, member) else ASLEEP
            add(team, SLEEPERS, -1)


def _stop(address: int, k: int) -> int:
    """End member k, when it is not at work; return what it was doing."""
    team = ints(address)
    member = at(team, k * LINE)
    spins = 0
    while True:
        for word in (AWAKE, ASLEEP, STOPPED):
            if swap(member, WORD, word, STOPPED):
                return word
        wait(spins, team[ENOUGH], team[OTHERS])
        spins += 1


def _call(address: int, job: int, argument: int) -> int:
    joined: int = together(ints(address), job, argument)
    return joined


_I = types.int64
CALL = Loop(_call, _I(_I, _I, _I))
SERVE, STOP = Loop(_serve, _I(_I, _I)), Loop(_stop, _I(_I, _I))


@functools.cache
def _give_way_address() -> int:
    """Address of the operating system's function by which a thread offers its core to others.

    Every POSIX system has ``sched_yield`` and every Windows ``SwitchToThread``; both take nothing.
    """
    try:
        if sys.platform == "win32":
            function: Any = ctypes.WinDLL("kernel32").SwitchToThread
        else:
            function = ctypes.CDLL(None).sched_yield
    except (OSError, AttributeError):  # then a thread that waits only pauses
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def _core_address() -> int:
    """Address of the operating system's function that says on which core a thread is; else 0."""
    try:
        if sys.platform == "win32":
            function: Any = ctypes.WinDLL("kernel32").GetCurrentProcessorNumber
        else:
            function = ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):  # macOS has none: then every member is taken to be elsewhere
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: Any) -> int:
    """Return the number of threads, or raise ConfigError."""
    integer = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not integer or not 1 <= threads <= MAX_THREADS:
        raise ConfigError(
            f"`threads` must be an integer from 1 to {MAX_THREADS}, got {threads!r}; this process "
            f"may use {cores()} cores"
        )
    return int(threads)


def _words(lines: int) -> npt.NDArray[np.int64]:
    """Return zeros that begin on a pair of cache lines."""
    raw = np.zeros((lines + 1) * LINE, np.int64)
    skip = -raw.ctypes.data % (8 * LINE) // 8
    return raw[skip : skip + lines * LINE]


class Team:
    """A thread and n - 1 more that help it.

    The threads are started when first needed, and again after a fork; they end with the team.
    Threads of a program may share a team: each member helps one of them at a time.

    Parameters
    ----------
    n : int
        Members, the calling thread among them. More than there are cores is allowed, and slow.

    Raises
    ------
    ConfigError
        If `n` is not an integer from 1 to 64.
    """

    _all: ClassVar[weakref.WeakSet[Team]] = weakref.WeakSet()
    _shared: ClassVar[weakref.WeakValueDictionary[int, Team]] = weakref.WeakValueDictionary()

    def __init__(self, n: int) -> None:
        self.n = check_threads(n)
        self._lines = _words(self.n)
        self._lines[MEMBERS], self._lines[OTHERS] = self.n, _give_way_address()
        self._lines[ENOUGH] = PATIENCE if self.n <= cores() else 1
        if self.n <= cores():
            self._lines[WHERE] = _core_address()
        self.address = int(self._lines.ctypes.data)
        self._threads: list[threading.Thread | None] = []
        self._locks: list[Any] = []
        self._starting = threading.Lock()
        self._all_asleep()
        self._sleepers = ctypes.c_int64.from_address(self.address + 8 * SLEEPERS)
        self._call: Callable[[int, int, int], int] = CALL.compiled
        self._serve: Callable[[int, int], int] = SERVE.compiled
        Team._all.add(self)
        self.close = weakref.finalize(
            self, _close, STOP.compiled, self._lines, self._locks, self._threads
        )
        """End the threads; a closed team goes on with the calling thread alone."""

    @classmethod
    def of(cls, n: int) -> Team:
        """Return the team of n members that everybody shares who asks for one."""
        team = cls._shared.get(n)
        if team is None:
            team = cls._shared[n] = cls(n)
        return team

    def _all_asleep(self) -> None:
        """Begin: nobody has a thread."""
        self._lines[SLEEPERS], self._lines[BUSY] = self.n - 1, 0
        self._lines[LINE + WORD :: LINE] = ASLEEP
        self._lines[LINE + CORE :: LINE] = NOWHERE
        self._threads[:] = [None] * self.n
        self._locks[:] = [threading.Lock() for _ in range(self.n)]
        self._starting = threading.Lock()
        for lock in self._locks:
            lock.acquire()

    def wake(self) -> None:
        """See to it that every member that does not rest is awake or about to be, before a job.

        Raises
        ------
        RuntimeError
            If the system has no more threads.
        """
        if self._sleepers.value == 0:
            return
        now = time.monotonic_ns()
        for k in range(1, self.n):
            member = self._lines[k * LINE :]
            if member[WORD] == ASLEEP and member[RESTS_UNTIL] <= now:
                if self._threads[k] is None:
                    self._start(k)
                with contextlib.suppress(RuntimeError):  # somebody else has just released it
                    self._locks[k].release()

    def _start(self, k: int) -> None:
        with self._starting:
            if self._threads[k] is None:
                arguments = (self._serve, self._lines, k, self._locks[k])
                name = f"streamrnn team of {self.n}, member {k}"
                thread = threading.Thread(target=_live, args=arguments, name=name, daemon=True)
                thread.start()
                self._threads[k] = thread

    def run(self, job: int, argument: int) -> int:
        """Call the compiled function at the address `job` in all members, and wait for them.

        Parameters
        ----------
        job : int
            Address of a C function ``void job(int64 part, int64 parts, int64 argument)``, which
            touches no Python object.
        argument : int
            What it is given: an address, as a rule.

        Returns
        -------
        int
            How many members took part, this thread included.
        """
        self.wake()
        return self._call(self.address, job, argument)


def _live(serve: Callable[[int, int], int], lines: Any, k: int, lock: Any) -> None:
    """Life of a member's thread. It holds no team, so that the team can end."""
    address = int(lines.ctypes.data)
    while True:
        lock.acquire()
        why = serve(address, k)
        if why == STOPPED:
            return
        lines[k * LINE + RESTS_UNTIL] = time.monotonic_ns() + REST_NS if why == IN_THE_WAY else 0


def _close(stop: Callable[[int, int], int], lines: Any, locks: list[Any], threads: Any) -> None:
    address = int(lines.ctypes.data)
    for k in range(1, len(locks)):
        if stop(address, k) == ASLEEP:
            with contextlib.suppress(RuntimeError):
                locks[k].release()
    lines[SLEEPERS] = 0  # nobody is left to be woken
    threads.clear()


def _after_fork() -> None:
    for team in list(Team._all):
        if team.close.alive:
            team._all_asleep()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# The tape, walked by a team ------------------------------------------------------------------

# What the members have to know, in its first lines; then come one line with the number of those who
# have come to the meeting, and a card for each member.
W_TAPE, W_ROWS, W_KINDS, W_WEIGHTS, W_STATE, W_SCRATCH, W_FRAMES, W_JOINED = range(8)
_COUNTER, _CARDS = 1, 2

SPLIT, MEET = 1, 2
"""Kinds of a row: all members run it; they meet before it."""

WORTH = 1 << 15
"""Multiplications a frame from which on a row is split; below, meeting costs more than it saves."""


def _walk(part: int, parts: int, address: int) -> None:
    walk = ints(address)
    me = at(walk, (_CARDS + part) * LINE)
    me[PART], me[PARTS], me[EXPECTED] = part, parts, 0
    tape, kinds, frames = ints(walk[W_TAPE]), ints(walk[W_KINDS]), ints(walk[W_FRAMES])
    weights, state, scratch = (
        floats(walk[W_WEIGHTS]),
        floats(walk[W_STATE]),
        floats(walk[W_SCRATCH]),
    )
    for r in range(walk[W_ROWS]):
        row = at(tape, r * ROW)
        if kinds[r] & MEET:
            meet(me)
        if kinds[r] & SPLIT:
            call_split(row[0], row, weights, state, scratch, frames, me)
        elif part == 0:
            call(row[0], row, weights, state, scratch, frames)


WALK = Job(_walk)
"""The job of a team that walks a tape."""


@kernel
def walk_together(team: Size, job: Size, walk: Size) -> None:
    """The only row of a tape that a team walks: all rows of the real one."""
    table = ints(walk)
    at(table, _COUNTER * LINE)[0] = 0
    table[W_JOINED] += together(ints(team), job, walk) - 1


def split_forms(program: Program) -> list[Kernel | None]:
    """Return, for each row of a program's tape, the form that is worth sharing, or None."""
    rows = zip(program.row_kernels, program.work, strict=True)
    return [kernel.split if work >= WORTH else None for kernel, work in rows]


TEAM: tuple[Compiled, ...] = (CALL, SERVE, STOP, WALK, walk_together)
"""What every stream with threads needs, beside its split forms."""


class Walk:
    """A stream's tape, to be walked by a team.

    Parameters
    ----------
    tape : int64 [shape=(rows, ROW)]
        The program's.
    forms : list of Kernel or None
        What :func:`split_forms` says of its rows.
    plan : int64 [shape=(PLAN_SIZE,)]
        The stream's plan; its tape becomes one row, which calls the team.
    threads : int
        Members of the team.
    """

    def __init__(self, tape: Any, forms: list[Kernel | None], plan: Any, threads: int) -> None:
        prepare([*TEAM, *filter(None, forms)])
        self.team = Team.of(threads)
        self._tape = tape.copy()
        self._kinds = np.zeros(len(tape), np.int64)
        for r, form in enumerate(forms):
            if form is not None:
                self._tape[r, 0] = form.address
                self._kinds[r : r + 2] |= MEET
                self._kinds[r] |= SPLIT
        self._table = _words(_CARDS + threads)
        table = self._table
        table[W_TAPE], table[W_ROWS] = self._tape.ctypes.data, len(self._tape)
        table[W_KINDS] = self._kinds.ctypes.data
        table[W_WEIGHTS], table[W_STATE] = plan[WEIGHTS], plan[STATE]
        table[W_SCRATCH], table[W_FRAMES] = plan[SCRATCH], plan[FRAMES]
        for k in range(threads):
            card = table[(_CARDS + k) * LINE :]
            card[MEETINGS] = table.ctypes.data + 8 * _COUNTER * LINE
            card[GIVE_WAY], card[SPINS] = self.team._lines[OTHERS], self.team._lines[ENOUGH]
        operands = [self.team.address, WALK.address, int(table.ctypes.data)]
        self._row = np.array(walk_together.row(operands), np.int64)
        plan[TAPE], plan[ROWS] = self._row.ctypes.data, 1
        self._advance = advance()

    @property
    def joined(self) -> int:
        """How often a member has helped with a block so far."""
        return int(self._table[W_JOINED])

    def advance(self, plan: int, n_frames: int, x: Any, y: Any) -> int:
        """Run frames as :func:`tape.advance` does, with the whole team."""
        self.team.wake()
        return self._advance(plan, n_frames, x, y)
