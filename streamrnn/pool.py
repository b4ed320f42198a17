"""A pool: many streams of one model that take their steps together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, FrameError, NonFiniteError, StreamError
from .frames import checked_input, checked_out, side_by_side, split
from .graph import Shape, describe
from .helpers import Helpers
from .kernels import pool as loop
from .kernels.compile import prepare
from .kernels.pool import ADVANCE, CHECK, POOL_JOB, SLOT_BITS
from .kernels.tape import MISMATCH, NONFINITE, ROW
from .kernels.team import check_threads
from .program import LINE, aligned, whole
from .stream import POLICIES, BaseStream, Result, check_policy

if TYPE_CHECKING:
    from .program import Program

__all__ = ["Pool", "PooledStream"]

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
CHUNK = 64
"""Streams whose states lie in one piece of memory."""
MAX_STREAMS = 1 << 31
"""Slots that ids have room for."""


class Pool:
    """Many streams of one model, which join and leave at any time. Made by ``model.pool()``.

    A step of a pool is one frame for each of any of its streams. Every weight that is loaded serves
    all of them, and each stream gives, bit for bit, what it would give alone. A stream that waits
    costs the memory of its state. A pool belongs to one thread at a time.

    Parameters
    ----------
    program : Program
        The compiled model.
    on_nonfinite : str
        ``"raise"``, ``"propagate"`` or ``"hold"``, see :meth:`Layer.stream`.
    threads : int
        Threads that share the streams of a step, from 1 to 64; results are the same, bit for bit.

    Attributes
    ----------
    due : bool [shape=(n,)]
        Which streams of the last step have an output: all, unless the model's rate is lower.

    Raises
    ------
    ConfigError
        If `on_nonfinite` is none of the three, or `threads` is out of range.
    """

    def __init__(self, program: Program, on_nonfinite: str = "raise", threads: int = 1) -> None:
        check_policy(on_nonfinite)
        self.threads = check_threads(threads)
        self.program = program
        self.on_nonfinite = on_nonfinite
        self.due = np.zeros(0, np.bool_)
        made = program.pool_tape
        held = whole(program.input_size, LINE) if on_nonfinite == "hold" else 0
        self._held = whole(program.state_size, LINE)
        self._record = self._held + held
        self._chunks: list[Array] = []
        # Of each slot: where its state is, whose it is (the id, or where it is free the complement
        # of the id to come), its last step.
        self._slots, self._owners, self._marks = (np.zeros(0, np.int64) for _ in range(3))
        self._free: list[int] = []
        self._members: dict[int, None] = {}  # ids, in the order of joining
        self._order: Ids | None = None
        # By id, where the policy holds no frames: those that came with a snapshot, for the next.
        self._apart: dict[int, Array] = {}
        clocks, group = len(program.clocks), made.group
        # One for each thread.
        self._scratch = [aligned(made.scratch_size) for _ in range(self.threads)]
        tables = 4 * clocks + 4 * clocks * group + ROW
        self._tables = [np.zeros(tables, np.int64) for _ in range(self.threads)]
        self._rooms = np.array(
            [
                (scratch.ctypes.data, table.ctypes.data)
                for scratch, table in zip(self._scratch, self._tables, strict=True)
            ],
            np.int64,
        )
        plan = self._plan = np.zeros(loop.PLAN_SIZE, np.int64)
        plan[loop.ROOMS] = self._rooms.ctypes.data
        plan[loop.TAPE], plan[loop.ROWS] = made.tape.ctypes.data, len(made.tape)
        plan[loop.HOW_TABLE] = made.how.ctypes.data
        plan[loop.WEIGHTS] = program.weights.ctypes.data
        plan[loop.CLOCKS] = clocks
        plan[loop.CLOCK_TABLE] = program.clocks.ctypes.data
        plan[loop.GROUP] = group
        plan[loop.INPUT], plan[loop.INPUT_STEP] = made.input_place
        plan[loop.INPUT_SIZE] = program.input_size
        plan[loop.OUTPUT], plan[loop.OUTPUT_STEP] = made.output_place
        plan[loop.OUTPUT_SIZE] = program.output_size
        plan[loop.OUTPUT_CLOCK] = program.output_clock
        plan[loop.POLICY] = POLICIES[on_nonfinite]
        plan[loop.HELD] = self._held
        self._plan_address = int(plan.ctypes.data)
        self._check, self._advance = CHECK.compiled, ADVANCE.compiled
        self._helpers: Helpers | None = None
        if self.threads > 1:
            prepare([POOL_JOB])
            self._helpers = Helpers(self.threads, POOL_JOB.address, self._plan_address)
        # The shapes of a row, where there is one input, of float32, and one output.
        one = len(program.inputs) == len(program.outputs) == 1
        plain = one and program.inputs[0].dtype == "float32"
        self._x_shape = program.inputs[0].shape if plain else None
        self._y_shape = program.outputs[0].shape if plain else None
        # Room for a call, kept for the next one: frames, outputs, which are due.
        self._room: dict[str, npt.NDArray[Any]] = {}

    def __repr__(self) -> str:
        shapes = tuple(v.shape for v in self.program.inputs)
        return f"Pool(inputs {shapes}, {len(self)} streams)"

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._members))

    def __contains__(self, id_: object) -> bool:
        return not isinstance(id_, bool) and id_ in self._members

    def __getitem__(self, id_: int) -> PooledStream:
        return PooledStream(self, self._known(id_))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a pool is not pickled: keep a snapshot of each stream and restore it")

    # Joining and leaving ---------------------------------------------------------------------

    @overload
    def join(self) -> int: ...

    @overload
    def join(self, n: int) -> Ids: ...

    def join(self, n: int | None = None) -> int | Ids:
        """Add a stream, or n of them, at the initial state.

        Returns
        -------
        int or int64 [shape=(n,)]
            The new id, or n of them. No id is ever given twice.

        Raises
        ------
        ConfigError
            If `n` is not a non-negative integer, or the pool would have more than 2**31 streams.
        MemoryError
            If there is not enough memory; nobody has joined.
        """
        if n is None:
            return int(self.join(1)[0])
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise ConfigError(f"join: `n` must be a non-negative integer, got {n!r}")
        self._grow(int(n) - len(self._free))
        slots = np.array([self._free.pop() for _ in range(n)], np.int64)
        ids: Ids = ~self._owners[slots]
        self._owners[slots] = ids
        self._members.update(dict.fromkeys(ids.tolist()))
        self._order = None
        for id_ in ids.tolist():
            record = self._record_of(id_)
            record[: self.program.state_size] = self.program.initial
            record[self._held :] = 0
        return ids

    def leave(self, ids: int | Ids) -> None:
        """Remove a stream, or several; their ids are never valid again.

        Raises
        ------
        StreamError
            If an id is none of a stream of the pool, or is given twice; all streams are still
            there.
        """
        given = [self._known(id_) for id_ in np.atleast_1d(np.asarray(ids)).tolist()]
        if len(set(given)) < len(given):
            raise StreamError("leave: the same id is given twice; no stream has left")
        for id_ in given:
            slot = id_ & ((1 << SLOT_BITS) - 1)
            del self._members[id_]
            self._apart.pop(id_, None)
            self._owners[slot] = ~(id_ + (1 << SLOT_BITS))
            self._free.append(slot)
        self._order = None

    @property
    def ids(self) -> Ids:
        """Ids of all streams, in the order of joining; read-only."""
        if self._order is None:
            self._order = np.fromiter(self._members, np.int64, len(self._members))
            self._order.flags.writeable = False
        return self._order

    def _known(self, id_: Any) -> int:
        if not isinstance(id_, (int, np.integer)) or id_ not in self:
            raise StreamError(
                f"no stream with the id {id_!r} in this pool of {len(self)}: `join` gives ids, and "
                f"they end with `leave`"
            )
        return int(id_)

    def _grow(self, more: int) -> None:
        """Make room for so many more streams."""
        if more <= 0:
            return
        # All memory is taken first: without enough of it nothing has changed.
        old = len(self._chunks) * CHUNK
        new = old + whole(more, CHUNK)
        if new > MAX_STREAMS:
            raise ConfigError(f"join: a pool has at most {MAX_STREAMS} streams, not {new}")
        memory = aligned((new - old) * self._record)
        tables = [self._slots, self._owners, self._marks]
        if new > len(self._slots):  # doubled, so that joining one by one does not copy them often
            room = np.zeros(max(new, 2 * len(self._slots)) - len(self._slots), np.int64)
            tables = [np.concatenate([table, room]) for table in tables]
        fresh = np.arange(old, new)
        tables[0][old:new] = memory.ctypes.data + 4 * self._record * (fresh - old)
        tables[1][old:new] = ~fresh
        self._slots, self._owners, self._marks = tables
        self._chunks += np.split(memory, (new - old) // CHUNK)
        self._free += fresh[::-1].tolist()
        self._plan[loop.SLOTS] = self._slots.ctypes.data
        self._plan[loop.OWNERS] = self._owners.ctypes.data
        self._plan[loop.MARKS] = self._marks.ctypes.data
        self._plan[loop.CAPACITY] = new

    def _record_of(self, id_: int) -> Array:
        """Return the memory of a stream: its state, then the last good frame where it is held."""
        chunk, i = divmod(self._known(id_) & ((1 << SLOT_BITS) - 1), CHUNK)
        record: Array = self._chunks[chunk][i * self._record : (i + 1) * self._record]
        return record

    # Frames ----------------------------------------------------------------------------------

    def step(self, batch: Any, ids: Any = None, out: Any = None) -> Result:
        """Run one frame of each of some streams and keep their states.

        Parameters
        ----------
        batch : float32 [shape=(n, *frame shape)]
            A frame for each stream, C-contiguous; a tuple for a model with several inputs, integers
            for one that reads indices.
        ids : int64 [shape=(n,)], optional
            The streams, each at most once, in any order; by default all, in the order of joining.
        out : float32 [shape=(n, *output shape)], optional
            Where to write; with it, nothing is allocated. A tuple for several outputs.

        Returns
        -------
        float32 [shape=(n, *output shape)] or tuple
            `out` or a new array: the output of each stream, in the order of `ids`. Where a model of
            a lower rate has none due the row is NaN and :attr:`due` False.

        Raises
        ------
        FrameError
            If `batch` or `out` has another shape, dtype or layout.
        StreamError
            If an id is none of a stream of the pool, or is given twice.
        NonFiniteError
            If a frame holds a NaN or an infinity and the policy is ``"raise"``. After any error all
            states are as they were.
        """
        chosen = self.ids if ids is None else self._checked_ids(ids)
        due = self.due
        if len(due) != len(chosen):
            due = self._room_for("due", len(chosen), np.bool_)
        if (
            self._plain(batch, self._x_shape, len(chosen))
            and self._plain(out, self._y_shape, len(chosen))
            and not np.may_share_memory(batch, out)
        ):
            self._run(chosen, batch.reshape(-1), out.reshape(-1), due)
            result: Result = out
        else:
            result = self._checked(batch, chosen, out, due)
        self.due = due
        return result

    @staticmethod
    def _plain(array: Any, shape: Shape | None, n: int) -> bool:
        """Whether an array is n rows of this shape, as the compiled loop wants them."""
        return (
            type(array) is np.ndarray
            and array.dtype is F32
            and array.ndim > 0
            and array.shape[1:] == shape
            and len(array) == n
            and array.flags.carray
        )

    def _checked(self, batch: Any, chosen: Ids, out: Any, due: npt.NDArray[np.bool_]) -> Result:
        """Validate, run and split: the general form of `step`."""
        program = self.program
        n, names = len(chosen), program.input_names
        given = (batch,) if len(names) == 1 else batch
        if not isinstance(given, tuple) or len(given) != len(names):
            raise FrameError(
                f"this model has {len(names)} inputs ({', '.join(names)}): pass a tuple of "
                f"{len(names)} arrays, got {describe(batch)}"
            )
        frames = [
            checked_input(name, array, value, limit, single=False)
            for name, array, value, limit in zip(
                names, given, program.inputs, program.index_limits, strict=True
            )
        ]
        for name, array in zip(names, frames, strict=True):
            if len(array) != n:
                raise FrameError(
                    f"`{name}` must have a row for each of the {n} streams of this step, got "
                    f"{len(array)}"
                )
        shapes = [(n, *v.shape) for v in program.outputs]
        outs = checked_out(out, shapes, frames)
        direct = len(frames) == 1 and frames[0].dtype == F32
        room = None if direct else self._room_for("x", n * program.input_size, F32)
        x = side_by_side(program.inputs, frames, n, room)
        plain = outs[0] if len(outs) == 1 else None
        size = n * program.output_size
        y = self._room_for("y", size, F32) if plain is None else plain.reshape(-1)
        self._run(chosen, x, y, due)
        if plain is not None:
            return plain
        return split(program.outputs, y.reshape(n, program.output_size), outs, shapes)

    def _room_for(self, what: str, n: int, dtype: Any) -> npt.NDArray[Any]:
        """Return room for n numbers of a call; it grows with the largest call."""
        room = self._room.get(what)
        if room is None or len(room) < n:
            room = self._room[what] = np.empty(n, dtype)
        return room[:n]

    def _run(self, ids: Ids, x: Array, y: Array, due: npt.NDArray[np.bool_]) -> None:
        alone = self._helpers is None or len(ids) <= self._plan[loop.GROUP]
        step = self._advance if alone else self._check
        wrong = step(self._plan_address, ids, x, y, due)
        if wrong:
            self._refuse(wrong, ids)
        if alone:
            return
        assert self._helpers is not None
        self._plan[loop.IDS], self._plan[loop.COUNT] = ids.ctypes.data, len(ids)
        self._plan[loop.X], self._plan[loop.Y] = x.ctypes.data, y.ctypes.data
        self._plan[loop.DUE], self._plan[loop.NEXT] = due.ctypes.data, 0
        self._helpers.run()

    def _refuse(self, wrong: int, ids: Ids) -> NoReturn:
        assert wrong != MISMATCH
        row = int(self._plan[loop.WRONG])
        id_ = int(ids[row])
        if wrong == loop.TWICE:
            raise StreamError(
                f"row {row}: the id {id_} is given twice; all states are as they were"
            )
        if wrong == loop.NOT_FINITE:
            raise NonFiniteError(
                f"the frame of stream {id_} (row {row}) holds a NaN or an infinity; all states are "
                f"as they were. Pools made with on_nonfinite='propagate' or 'hold' accept such "
                f"frames"
            )
        self._known(id_)
        raise AssertionError(id_)

    def _checked_ids(self, ids: Any) -> Ids:
        if type(ids) is np.ndarray and ids.dtype is I64 and ids.ndim == 1 and ids.flags.carray:
            return ids
        try:
            array = np.asarray(ids)
        except ValueError:  # rows of different lengths
            array = np.empty((0, 0))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise FrameError(f"`ids` must be integers of shape (n,), got {describe(ids)}")
        return np.require(array, np.int64, ["C", "A"])


class PooledStream(BaseStream):
    """One stream of a pool, with all that a stream by itself has. Made by ``pool[id]``.

    It shares its state with the pool: what is done here is seen there. After the stream has left,
    everything here raises StreamError. A fork is another stream of the pool.
    """

    program: Program

    def __init__(self, pool: Pool, id_: int) -> None:
        self.pool, self.id = pool, id_
        self._ids = np.array([id_], np.int64)
        super().__init__(pool.program, pool.on_nonfinite)
        self._finite = np.empty(pool.program.input_size, np.bool_)
        self._result, self._due = np.empty(pool.program.output_size, F32), np.empty(1, np.bool_)

    def _allocate(self) -> None:
        """The memory is the pool's."""

    @property
    def _state(self) -> Array:  # type: ignore[override]
        return self.pool._record_of(self.id)[: self.program.state_size]

    @property
    def _clock(self) -> Ids:  # type: ignore[override]
        return self._state[:2].view(np.int64)

    @property
    def _held(self) -> Array:  # type: ignore[override]
        record, begin = self.pool._record_of(self.id), self.pool._held
        if self.on_nonfinite == "hold":
            return record[begin : begin + self.program.input_size]
        known = self.pool._apart.get(self.id)
        return np.zeros(self.program.input_size, F32) if known is None else known

    def _hold(self, frame: Any) -> None:
        if self.on_nonfinite == "hold":
            self._held[:] = frame
        elif np.any(frame):
            self.pool._apart[self.id] = np.array(frame)
        else:
            self.pool._apart.pop(self.id, None)

    def _run_frames(self, n: int, x: Array, y: Array) -> int:
        rows, size, written = x.reshape(n, self._finite.size), self._result.size, 0
        if self.on_nonfinite == "raise":
            for t, row in enumerate(rows):
                if not np.isfinite(row, out=self._finite).all():
                    return NONFINITE - t
        for row in rows:
            self.pool._run(self._ids, row, self._result, self._due)
            if self._due[0]:
                y[written * size : (written + 1) * size] = self._result
                written += 1
        return written

    def _another(self) -> PooledStream:
        return self.pool[self.pool.join()]
