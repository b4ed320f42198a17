"""A stream: one running instance of a model, which keeps the state between calls."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save as save_tensors

from .errors import ConfigError, FrameError, NonFiniteError, StateError
from .frames import checked_input, checked_out, side_by_side, split
from .graph import Clock, Shape, Value, describe
from .kernels import tape
from .kernels.tape import HOLD, MISMATCH, NONFINITE, PROPAGATE, RAISE, advance
from .kernels.team import Walk, check_threads, split_forms
from .program import StateSlot, aligned
from .state import SNAPSHOT_VERSION, StateView, checked_state, read_snapshot

if TYPE_CHECKING:
    from .program import Program

__all__ = ["BaseStream", "Result", "Runnable", "StateView", "Stream"]

Array = npt.NDArray[np.float32]
Result = Array | tuple[Array, ...]
"""Output of a model: one array, or a tuple for a model with several outputs."""

S = TypeVar("S", bound="BaseStream")
F32 = np.dtype(np.float32)
POLICIES = {"raise": RAISE, "propagate": PROPAGATE, "hold": HOLD}


def check_policy(on_nonfinite: str) -> None:
    """Raise ConfigError unless it is the name of a policy for non-finite frames."""
    if not isinstance(on_nonfinite, str) or on_nonfinite not in POLICIES:
        raise ConfigError(
            f"on_nonfinite must be one of {', '.join(POLICIES)}, got {on_nonfinite!r}"
        )


class Runnable(Protocol):
    """What a stream has to know of the thing it runs: a program, or a graph in another engine."""

    clock: Clock
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    index_limits: tuple[int | None, ...]
    input_size: int
    output_size: int
    state_size: int
    slots: dict[str, StateSlot]
    initial: Array

    @property
    def fingerprint(self) -> str: ...


class BaseStream(ABC):
    """What streams share, whatever runs their frames: checks, states, snapshots.

    Parameters
    ----------
    program : Runnable
        What is run.
    on_nonfinite : str
        ``"raise"``, ``"propagate"`` or ``"hold"``, see :meth:`Layer.stream`.

    Raises
    ------
    ConfigError
        If `on_nonfinite` is none of the three.
    """

    def __init__(self, program: Runnable, on_nonfinite: str = "raise") -> None:
        check_policy(on_nonfinite)
        self.program = program
        self.on_nonfinite = on_nonfinite
        self._allocate()
        self._one_input, self._one_output = (
            aligned(program.input_size),
            aligned(program.output_size),
        )
        self._inputs = _places(self._one_input, program.inputs)
        self._outputs = _places(self._one_output, program.outputs)
        self._floats = all(v.dtype == "float32" for v in program.inputs)
        # The fast path of `step`: one vector in, one vector out.
        self._single = len(program.inputs) == len(program.outputs) == 1
        x, y = program.inputs[0], program.outputs[0]
        self._in_shape, self._out_shape = x.shape, y.shape
        self._flat = self._single and len(x.shape) == len(y.shape) == 1 and x.dtype == "float32"

    def _allocate(self) -> None:
        """Take memory for the state, and for the last good frame."""
        self._state = aligned(self.program.state_size)
        self._clock = self._state[:2].view(np.int64)
        self._held = aligned(self.program.input_size)

    @abstractmethod
    def _run_frames(self, n: int, x: Array, y: Array) -> int:
        """Run n frames from `x` into `y`, both flat; return the frames written.

        A frame has all inputs side by side, indices as float32. With a non-finite frame where that
        is refused, nothing is done and ``NONFINITE - (its index)`` returned.
        """

    @abstractmethod
    def _another(self: S) -> S:
        """Return a new stream of the same program and policy."""

    def __repr__(self) -> str:
        shapes = tuple(v.shape for v in self.program.inputs)
        return f"{type(self).__name__}(inputs {shapes}, {self.frames} frames so far)"

    # Frames ----------------------------------------------------------------------------------

    def step(self, x: Any, out: Any = None) -> Result | None:
        """Run one frame and keep the state.

        Parameters
        ----------
        x : float32 [shape=frame shape]
            One frame, C-contiguous; a tuple of frames for a model with several inputs, integers
            for a model that reads indices. It is not modified.
        out : float32 [shape=output shape], optional
            Where to write; with it, nothing is allocated. A tuple for several outputs.

        Returns
        -------
        float32 [shape=output shape], tuple or None
            `out` or a new array; None where the model has no output due (its rate is lower).

        Raises
        ------
        FrameError
            If `x` or `out` has another shape, dtype or layout; the state is as it was.
        NonFiniteError
            If `x` holds a NaN or an infinity and the policy is ``"raise"``; the state is as it was.
        """
        if self._floats and self._put(x, out):
            written = self._run_frames(1, self._one_input, self._one_output)
            if written == 1:
                return self._got(out)
            if written == 0:
                return None
        return self._checked(x, out, single=True)

    def _put(self, x: Any, out: Any) -> bool:
        """Whether a frame and `out` are just as they should be; if so the frame is put in place.

        Only what is quickly seen: all others go to `_checked`, which says what is wrong.
        """
        xs = (x,) if len(self._inputs) == 1 else x
        if type(xs) is not tuple or len(xs) != len(self._inputs):
            return False
        if not all(map(_moved, xs, self._inputs)):
            return False
        if out is None:
            return True
        outs = (out,) if len(self._outputs) == 1 else out
        if type(outs) is not tuple or len(outs) != len(self._outputs):
            return False
        if not all(map(_has_room, outs, self._outputs)):
            return False
        return not any(np.may_share_memory(a, b) for a, b in itertools.combinations(outs, 2))

    def _got(self, out: Any) -> Result:
        """Return the outputs of one frame, in `out` or in new arrays."""
        if out is None:
            results = tuple([place.copy() for place in self._outputs])
            return results[0] if len(results) == 1 else results
        outs = (out,) if len(self._outputs) == 1 else out
        for i, place in enumerate(self._outputs):
            outs[i][...] = place
        return out  # type: ignore[no-any-return]

    def run(self, xs: Any, out: Any = None) -> Result:
        """Run a block of frames and keep the state; the same, bit for bit, as frame by frame.

        Parameters
        ----------
        xs : float32 [shape=(T, *frame shape)]
            T frames, C-contiguous, T = 0 included; a tuple for a model with several inputs.
        out : float32 [shape=(T', *output shape)], optional
            Where to write; it must not overlap `xs`. A tuple for several outputs.

        Returns
        -------
        float32 [shape=(T', *output shape)] or tuple
            The frames that were due: T of them, unless the model's rate is lower.

        Raises
        ------
        FrameError, NonFiniteError
            As for :meth:`step`; no frame has been run.
        """
        result = self._checked(xs, out, single=False)
        assert result is not None
        return result

    def _checked(self, xs: Any, out: Any, single: bool) -> Result | None:
        """Validate, run and split: the general form of `step` and `run`."""
        program = self.program
        names = program.input_names
        given = (xs,) if len(names) == 1 else xs
        if not isinstance(given, tuple) or len(given) != len(names):
            raise FrameError(
                f"this model has {len(names)} inputs ({', '.join(names)}): pass a tuple of "
                f"{len(names)} arrays, got {describe(xs)}"
            )
        frames = [
            checked_input(name, array, value, limit, single)
            for name, array, value, limit in zip(
                names, given, program.inputs, program.index_limits, strict=True
            )
        ]
        lengths = {1 if single else len(f) for f in frames}
        if len(lengths) > 1:
            raise FrameError(
                f"inputs of one call must have the same number of frames, got "
                f"{dict(zip(names, (len(f) for f in frames), strict=True))}"
            )
        n = lengths.pop()
        due = program.clock.emitted(self.frames + n) - program.clock.emitted(self.frames)
        lead = () if single else (due,)
        shapes = [lead + v.shape for v in program.outputs]
        outs = checked_out(out, shapes, [] if single else frames)
        flat_in = side_by_side(program.inputs, frames, n, self._one_input if n == 1 else None)
        given_out = outs[0] if len(outs) == 1 and due else None
        if given_out is not None:
            flat_out = given_out.reshape(-1)
        elif single and due:
            flat_out = self._one_output
        else:
            flat_out = np.empty(due * program.output_size, F32)
        written = self._run_frames(n, flat_in, flat_out)
        if written <= NONFINITE:
            self._raise_nonfinite(NONFINITE - written, frames, n)
        if single and due == 0:
            return None
        if given_out is not None:
            return given_out
        return split(program.outputs, flat_out.reshape(due, program.output_size), outs, shapes)

    def _raise_nonfinite(self, first: int, frames: list[npt.NDArray[Any]], n: int) -> NoReturn:
        where = f" (frame {first} of the block of {n})" if n > 1 else ""
        names = ", ".join(self.program.input_names)
        raise NonFiniteError(
            f"`{names}` holds a NaN or an infinity{where}; the state is as it was. Streams made "
            f"with on_nonfinite='propagate' or 'hold' accept such frames"
        )

    # State -----------------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        """Input frames since the beginning or the last reset."""
        return int(self._clock[0])

    @property
    def input_shape(self) -> Shape | tuple[Shape, ...]:
        """Shape of one frame, or a tuple of them for a model with several inputs."""
        shapes = tuple(v.shape for v in self.program.inputs)
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Shape | tuple[Shape, ...]:
        """Shape of one output, for ``out = np.empty(stream.output_shape, np.float32)``."""
        shapes = tuple(v.shape for v in self.program.outputs)
        return shapes[0] if len(shapes) == 1 else shapes

    def reset(self) -> None:
        """Return to the initial state, as if no frame had been run. Allocates nothing."""
        self._state[:] = self.program.initial
        self._hold(0)

    @property
    def state(self) -> StateView:
        """The states by name; read, assign, or assign a whole mapping."""
        return StateView(self)

    @state.setter
    def state(self, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping):
            raise StateError(f"the state is a mapping of names to arrays, got {describe(values)}")
        missing = self.program.slots.keys() - values.keys()
        if missing:
            raise StateError(
                f"missing states {', '.join(sorted(missing))}; `stream.state.update` sets a part"
            )
        self.state.update(values)

    def fork(self: S) -> S:
        """Return a second stream that goes on from here; the two share nothing but weights."""
        kept = self._kept()
        other = self._another()
        other._go_back(kept)
        return other

    def __copy__(self: S) -> S:
        return self.fork()

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        return self.fork()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream is not pickled: keep `stream.snapshot()` and restore it")

    def _kept(self) -> tuple[Any, ...]:
        """Return a copy of the state: a fork that has no stream of its own yet."""
        return self._state.copy(), self._clock.copy(), self._held.copy()

    def _go_back(self, kept: tuple[Any, ...]) -> None:
        """Go on from a state that a stream of the same program has kept. Allocates nothing."""
        self._state[:], self._clock[:] = kept[:2]
        self._hold(kept[2])

    def _hold(self, frame: Any) -> None:
        """Take over a frame as the last good one; 0 is none."""
        self._held[:] = frame

    def snapshot(self) -> bytes:
        """Return the whole state as bytes: portable between machines and versions.

        The bytes are a safetensors file with the states under their names.
        """
        meta = {
            "snapshot": SNAPSHOT_VERSION,
            "model": self.program.fingerprint,
            "frames": self.frames,
        }
        return save_tensors(self._tensors(), {"streamrnn": json.dumps(meta, sort_keys=True)})

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot of a stream of the same model.

        Raises
        ------
        StateError
            If these are not the bytes of a snapshot, or it belongs to another model or a newer
            version; the state is as it was.
        """
        self._take(*read_snapshot(snapshot, self.program.fingerprint))

    def _tensors(self) -> dict[str, Array]:
        """Return what a snapshot keeps beside the number of frames."""
        return {**self.state, "held": self._held[: self.program.input_size].copy()}

    def _take(self, frames: int, tensors: dict[str, Any]) -> None:
        """Go on from a snapshot; raise StateError, with nothing done, if an array does not fit."""
        slots = self.program.slots
        if "waiting" in tensors:
            raise StateError(
                f"snapshot of an OnnxStream after {frames} frames, in the middle of a call: "
                f"take it after a multiple of its stride_frames"
            )
        if tensors.keys() != slots.keys() | {"held"}:
            raise StateError(f"damaged snapshot: it holds {', '.join(tensors)}")
        held = checked_state("held", tensors.pop("held"), self._held.shape)
        self.state._put({n: checked_state(n, a, slots[n].shape) for n, a in tensors.items()})
        self._hold(held)
        self._clock[0] = frames


def _moved(array: Any, place: Array) -> bool:
    """Whether an array is a frame for a place; if so it is put there."""
    good = type(array) is np.ndarray and array.dtype == F32 and array.shape == place.shape
    if good and array.flags.c_contiguous:
        place[...] = array
        return True
    return False


def _has_room(out: Any, place: Array) -> bool:
    """Whether a result can be written to an array."""
    good = type(out) is np.ndarray and out.dtype == F32 and out.shape == place.shape
    return good and out.flags.carray  # contiguous, aligned, writeable


def _places(frame: Array, values: Sequence[Value]) -> list[Array]:
    """Return where each value lies in a frame of all of them, side by side."""
    ends = list(itertools.accumulate(v.size for v in values))
    return [frame[e - v.size : e].reshape(v.shape) for e, v in zip(ends, values, strict=True)]


class Stream(BaseStream):
    """One running instance of a model. Made by ``model.stream()``.

    A stream belongs to one thread at a time; streams of one model share its weights, read-only, and
    may run in different threads (the global interpreter lock is released while one runs).

    Parameters
    ----------
    program : Program
        The compiled model.
    on_nonfinite : str
        ``"raise"``, ``"propagate"`` or ``"hold"``, see :meth:`Layer.stream`.
    threads : int
        Threads that share the work of a step, see :meth:`Layer.stream`.

    Raises
    ------
    ConfigError
        If `on_nonfinite` is none of the three, or `threads` is out of range.
    """

    program: Program

    def __init__(self, program: Program, on_nonfinite: str = "raise", threads: int = 1) -> None:
        super().__init__(program, on_nonfinite)
        self.threads = check_threads(threads)
        self._scratch = aligned(program.scratch_size)
        self._counts = np.zeros(2 * len(program.clocks), np.int64)
        plan = np.zeros(tape.PLAN_SIZE, np.int64)
        plan[tape.TAPE], plan[tape.ROWS] = program.tape.ctypes.data, len(program.tape)
        plan[tape.WEIGHTS] = program.weights.ctypes.data
        plan[tape.STATE] = self._state.ctypes.data
        plan[tape.SCRATCH] = self._scratch.ctypes.data
        plan[tape.FRAMES] = self._counts.ctypes.data
        plan[tape.CLOCKS] = len(program.clocks)
        plan[tape.CLOCK_TABLE] = program.clocks.ctypes.data
        plan[tape.BLOCK] = program.block
        plan[tape.INPUT], plan[tape.INPUT_STEP] = program.input_place
        plan[tape.INPUT_SIZE] = program.input_size
        plan[tape.OUTPUT], plan[tape.OUTPUT_STEP] = program.output_place
        plan[tape.OUTPUT_SIZE] = program.output_size
        plan[tape.OUTPUT_CLOCK] = program.output_clock
        plan[tape.POLICY] = POLICIES[on_nonfinite]
        plan[tape.HELD] = self._held.ctypes.data
        self._plan_table = plan
        self._plan = int(plan.ctypes.data)
        self._walk: Walk | None = None
        self._advance = advance()
        if self.threads > 1 and any(forms := split_forms(program)):
            self._walk = Walk(program.tape, forms, plan, self.threads)
            self._advance = self._walk.advance
        # A faster path of `step`, for one index in.
        (x, *others), y = program.inputs, program.outputs[0]
        token = x.dtype == "int64" and x.shape == () and len(y.shape) == 1
        one = token and not others and len(program.outputs) == 1
        self._tokens = (program.index_limits[0] or 0) if one else 0
        self.reset()
        nothing = np.empty(0, F32)
        self._advance(self._plan, 0, nothing, nothing)  # so that the first frame costs no more

    def step(self, x: Any, out: Any = None) -> Result | None:
        if not self._single:
            return super().step(x, out)
        y = np.empty(self._out_shape, F32) if out is None else out
        try:
            if self._flat:
                written = self._advance(self._plan, 1, x, y)
            elif self._is_token(x):
                written = self._advance(self._plan, 1, self._one_input, y)
            elif self._floats and self._is_frame(x) and self._is_result(y):
                written = self._advance(self._plan, 1, x.ravel(), y.ravel())
            else:
                written = MISMATCH
        except Exception:  # numba has no type for what was given; below is said why
            written = MISMATCH
        if written == 1:
            return y
        if written == 0:
            return None
        return self._checked(x, out, single=True)

    def _is_frame(self, x: Any) -> bool:
        """Whether an array has the shape of the one input; numba sees to its dtype."""
        return bool(x.shape == self._in_shape and x.flags.c_contiguous)

    def _is_result(self, y: Any) -> bool:
        """Whether an array has the shape of the one output, and can be written to."""
        return bool(y.shape == self._out_shape and y.flags.carray)

    def _is_token(self, x: Any) -> bool:
        """Whether a frame is a plain valid index; if so it is put in place."""
        valid = type(x) is int and 0 <= x < self._tokens
        if valid:
            self._one_input[0] = x
        return valid

    def _run_frames(self, n: int, x: Array, y: Array) -> int:
        return self._advance(self._plan, n, x, y)

    def _another(self) -> Stream:
        return Stream(self.program, self.on_nonfinite, self.threads)
