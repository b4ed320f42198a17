"""A stream: one running instance of a model, which keeps the state between calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from .errors import ConfigError, FrameError, NonFiniteError, StateError
from .graph import Shape, Value, describe
from .kernels import tape
from .kernels.tape import HOLD, MISMATCH, NONFINITE, PROPAGATE, RAISE, advance
from .program import aligned

if TYPE_CHECKING:
    from .program import Program

__all__ = ["Result", "StateView", "Stream"]

Array = npt.NDArray[np.float32]
Result = Array | tuple[Array, ...]
"""Output of a model: one array, or a tuple for a model with several outputs."""

F32 = np.dtype(np.float32)
POLICIES = {"raise": RAISE, "propagate": PROPAGATE, "hold": HOLD}
SNAPSHOT_VERSION = 1


class StateView(MutableMapping[str, Array]):
    """The states of a stream by name (``lstm_0.h``).

    Reading gives a copy; assigning copies in, after a check of name, shape, dtype and finiteness.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, name: str) -> Array:
        slot = self._stream.program.slots[self._known(name)]
        part: Array = self._stream._state[slot.offset : slot.stop]
        copy: Array = part.reshape(slot.shape).copy()
        return copy

    def __setitem__(self, name: str, value: Any) -> None:
        self._write({name: value})

    def __delitem__(self, name: str) -> NoReturn:
        raise StateError(f"state {name!r} cannot be deleted; `stream.reset()` clears it")

    def __contains__(self, name: object) -> bool:
        return name in self._stream.program.slots

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream.program.slots)

    def __len__(self) -> int:
        return len(self._stream.program.slots)

    def __repr__(self) -> str:
        return f"StateView({ {n: s.shape for n, s in self._stream.program.slots.items()} })"

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several states, all or none of them."""
        self._write(dict(*args, **kwargs))

    def _known(self, name: str) -> str:
        slots = self._stream.program.slots
        if name not in slots:
            raise StateError(f"no state {name!r}; this model has {', '.join(slots) or 'none'}")
        return name

    def _write(self, values: Mapping[str, Any]) -> None:
        slots = self._stream.program.slots
        checked = {n: _checked_state(n, v, slots[self._known(n)].shape) for n, v in values.items()}
        for name, array in checked.items():
            if not np.isfinite(array).all():
                raise StateError(f"state {name!r} must be finite, got a NaN or an infinity")
        self._put(checked)

    def _put(self, checked: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in checked.items():
            slot = self._stream.program.slots[name]
            self._stream._state[slot.offset : slot.stop] = array.reshape(-1)


def _checked_state(name: str, value: Any, shape: Shape) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0)  # rows of different lengths
    if array.shape != shape or array.dtype != F32:
        raise StateError(f"state {name!r} must be float32 of shape {shape}, got {describe(array)}")
    return array


class Stream:
    """One running instance of a model. Made by ``model.stream()``.

    A stream belongs to one thread at a time; streams of one model share its weights, read-only, and
    may run in different threads (the global interpreter lock is released while one runs).

    Parameters
    ----------
    program : Program
        The compiled model.
    on_nonfinite : str
        ``"raise"``, ``"propagate"`` or ``"hold"``, see :meth:`Layer.stream`.

    Raises
    ------
    ConfigError
        If `on_nonfinite` is none of the three.
    """

    def __init__(self, program: Program, on_nonfinite: str = "raise") -> None:
        if not isinstance(on_nonfinite, str) or on_nonfinite not in POLICIES:
            raise ConfigError(
                f"on_nonfinite must be one of {', '.join(POLICIES)}, got {on_nonfinite!r}"
            )
        self.program = program
        self.on_nonfinite = on_nonfinite
        self._state = aligned(program.state_size)
        self._clock = self._state[:2].view(np.int64)
        self._scratch = aligned(program.scratch_size)
        self._held = aligned(program.input_size)
        self._one_input, self._one_output = (
            aligned(program.input_size),
            aligned(program.output_size),
        )
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
        self._advance = advance()
        # The fast path of `step`: one vector in, or one index, and one vector out.
        simple = len(program.inputs) == len(program.outputs) == 1
        x, y = program.inputs[0], program.outputs[0]
        self._flat = simple and len(x.shape) == len(y.shape) == 1 and x.dtype == "float32"
        tokens = simple and x.shape == () and len(y.shape) == 1 and x.dtype == "int64"
        self._tokens = (program.index_limits[0] or 0) if tokens else 0
        self._out_size = program.output_size
        self.reset()
        nothing = np.empty(0, F32)
        self._advance(self._plan, 0, nothing, nothing)  # so that the first frame costs no more

    def __repr__(self) -> str:
        shapes = tuple(v.shape for v in self.program.inputs)
        return f"Stream(inputs {shapes}, {self.frames} frames so far)"

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
        if self._flat or self._is_token(x):
            y = np.empty(self._out_size, F32) if out is None else out
            try:
                written = self._advance(self._plan, 1, x if self._flat else self._one_input, y)
            except Exception:  # numba has no type for what was given; below is said why
                written = MISMATCH
            if written == 1:
                return y
            if written == 0:
                return None
        return self._checked(x, out, single=True)

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

    def _is_token(self, x: Any) -> bool:
        """Whether a frame is a plain valid index; if so it is put in place."""
        valid = type(x) is int and 0 <= x < self._tokens
        if valid:
            self._one_input[0] = x
        return valid

    def _checked(self, xs: Any, out: Any, single: bool) -> Result | None:
        """Validate, run and split: the general form of `step` and `run`."""
        program = self.program
        names = list(program.graph.inputs)
        given = (xs,) if len(names) == 1 else xs
        if not isinstance(given, tuple) or len(given) != len(names):
            raise FrameError(
                f"this model has {len(names)} inputs ({', '.join(names)}): pass a tuple of "
                f"{len(names)} arrays, got {describe(xs)}"
            )
        frames = [
            _checked_input(name, array, value, limit, single)
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
        outs = self._checked_out(out, shapes, [] if single else frames)
        flat_in = self._side_by_side(frames, n)
        given_out = outs[0] if len(outs) == 1 and due else None
        if given_out is not None:
            flat_out = given_out.reshape(-1)
        elif single and due:
            flat_out = self._one_output
        else:
            flat_out = np.empty(due * program.output_size, F32)
        written = self._advance(self._plan, n, flat_in, flat_out)
        if written <= NONFINITE:
            self._raise_nonfinite(NONFINITE - written, frames, n)
        if single and due == 0:
            return None
        if given_out is not None:
            return given_out
        return self._split(flat_out.reshape(due, program.output_size), outs, shapes)

    def _checked_out(
        self, out: Any, shapes: list[Shape], frames: list[npt.NDArray[Any]]
    ) -> list[Array | None]:
        """Validate `out`; return one array or None for each output."""
        if out is None:
            return [None] * len(shapes)
        outs = (out,) if len(shapes) == 1 else out
        if not isinstance(outs, tuple) or len(outs) != len(shapes):
            raise FrameError(f"`out` must be a tuple of {len(shapes)} arrays, got {describe(out)}")
        for array, shape in zip(outs, shapes, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype != F32 or array.shape != shape:
                raise FrameError(f"`out` must be float32 of shape {shape}, got {describe(array)}")
            if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
                raise FrameError(
                    "`out` must be C-contiguous, aligned and writeable; "
                    "np.empty(shape, np.float32) is"
                )
            if any(np.may_share_memory(array, f) for f in frames):
                raise FrameError("`out` overlaps the input; give it memory of its own")
        for i, array in enumerate(outs):
            if any(np.may_share_memory(array, other) for other in outs[:i]):
                raise FrameError("two arrays of `out` overlap; give each memory of its own")
        return list(outs)

    def _side_by_side(self, frames: list[npt.NDArray[Any]], n: int) -> Array:
        """Return all inputs of each frame one after another, float32 and flat."""
        if len(frames) == 1 and frames[0].dtype == F32:
            return frames[0].reshape(-1)
        sizes = [v.size for v in self.program.inputs]
        block = self._one_input if n == 1 else np.empty(n * sum(sizes), F32)
        rows, first = block.reshape(n, sum(sizes)), 0
        for frame, size in zip(frames, sizes, strict=True):
            rows[:, first : first + size] = frame.reshape(n, size)
            first += size
        return block

    def _split(self, block: Array, outs: list[Array | None], shapes: list[Shape]) -> Result:
        """Cut a block (T, sizes of all outputs side by side) into the outputs."""
        results, at = [], 0
        for out, shape, value in zip(outs, shapes, self.program.outputs, strict=True):
            part = block[:, at : at + value.size].reshape(shape)
            at += value.size
            if out is not None:
                out[...] = part
            results.append(part.copy() if out is None else out)
        return results[0] if len(results) == 1 else tuple(results)

    def _raise_nonfinite(self, first: int, frames: list[npt.NDArray[Any]], n: int) -> NoReturn:
        where = f" (frame {first} of the block of {n})" if n > 1 else ""
        names = ", ".join(self.program.graph.inputs)
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
    def output_shape(self) -> Shape | tuple[Shape, ...]:
        """Shape of one output, for ``out = np.empty(stream.output_shape, np.float32)``."""
        shapes = tuple(v.shape for v in self.program.outputs)
        return shapes[0] if len(shapes) == 1 else shapes

    def reset(self) -> None:
        """Return to the initial state, as if no frame had been run. Allocates nothing."""
        self._state[:] = self.program.initial
        self._held[:] = 0

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

    def fork(self) -> Stream:
        """Return a second stream that goes on from here; the two share nothing but weights."""
        other = Stream(self.program, self.on_nonfinite)
        other._go_back(self._kept())
        return other

    __copy__ = fork

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        return self.fork()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream is not pickled: keep `stream.snapshot()` and restore it")

    def _kept(self) -> tuple[Array, Array]:
        """Return a copy of the state: a fork that has no stream of its own yet."""
        return self._state.copy(), self._held.copy()

    def _go_back(self, kept: tuple[Array, Array]) -> None:
        """Go on from a state that a stream of the same program has kept. Allocates nothing."""
        self._state[:], self._held[:] = kept

    def snapshot(self) -> bytes:
        """Return the whole state as bytes: portable between machines and versions.

        The bytes are a safetensors file with the states under their names.
        """
        tensors = {name: self.state[name] for name in self.program.slots}
        tensors["held"] = self._held[: self.program.input_size].copy()
        meta = {
            "snapshot": SNAPSHOT_VERSION,
            "model": self.program.fingerprint,
            "frames": self.frames,
        }
        return save_tensors(tensors, {"streamrnn": json.dumps(meta, sort_keys=True)})

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot of a stream of the same model.

        Raises
        ------
        StateError
            If these are not the bytes of a snapshot, or it belongs to another model or a newer
            version; the state is as it was.
        """
        frames, tensors = _read_snapshot(snapshot, self.program)
        slots = self.program.slots
        if tensors.keys() != slots.keys() | {"held"}:
            raise StateError(f"damaged snapshot: it holds {', '.join(tensors)}")
        held = _checked_state("held", tensors.pop("held"), self._held.shape)
        self.state._put({n: _checked_state(n, a, slots[n].shape) for n, a in tensors.items()})
        self._held[:] = held
        self._clock[0] = frames


def _checked_input(
    name: str, array: Any, value: Value, limit: int | None, single: bool
) -> npt.NDArray[Any]:
    """Return the frames for one input, float32 and contiguous; raise FrameError if they are not."""
    verb = "step" if single else "run"
    shape = value.shape if single else ("T", *value.shape)
    shown = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    indices = limit is not None
    if isinstance(array, np.generic) or (indices and isinstance(array, (int, list))):
        array = np.asarray(array)
    kind = "integers" if indices else "float32"
    if not isinstance(array, np.ndarray):
        raise FrameError(
            f"`{name}` must be a numpy array of {kind}, shape {shown}, got {describe(array)}"
        )
    if (array.dtype.kind not in "iu") if indices else (array.dtype != F32):
        hint = "" if indices else ": convert with x.astype(np.float32)"
        raise FrameError(f"`{name}` must be {kind}, got {array.dtype}{hint}")
    if (array.shape if single else array.shape[1:]) != value.shape or array.ndim != len(shape):
        hint = ""
        if single and array.ndim == len(shape) + 1 and array.shape[1:] == value.shape:
            hint = ": a block of frames goes to `run`"
        if not single and array.shape == value.shape:
            hint = ": a single frame goes to `step`"
        raise FrameError(f"`{name}` must have shape {shown} for `{verb}`, got {array.shape}{hint}")
    if indices:
        if array.size and (array.min() < 0 or array.max() >= limit):
            raise FrameError(
                f"`{name}` must hold indices from 0 to {limit - 1 if limit else 0}, "
                f"got {array.min()} to {array.max()}"
            )
        return array
    if not array.flags.c_contiguous:
        raise FrameError(
            f"`{name}` must be C-contiguous, got strides {array.strides} for shape {array.shape}: "
            f"copy with np.ascontiguousarray(x)"
        )
    # A foreign byte order or odd address is put right here; such arrays are rare and still correct.
    return np.require(np.asarray(array, F32), requirements=["A"])


def _read_snapshot(snapshot: bytes, program: Program) -> tuple[int, dict[str, Any]]:
    """Check everything about a snapshot but its arrays; return frames and arrays."""
    if not isinstance(snapshot, (bytes, bytearray, memoryview)):
        raise StateError(f"not a snapshot of a stream: expected bytes, got {describe(snapshot)}")
    try:
        raw = bytes(snapshot)
        tensors = load_tensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        meta = json.loads(header["__metadata__"]["streamrnn"])
        version, model, frames = int(meta["snapshot"]), str(meta["model"]), int(meta["frames"])
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise StateError(
            f"not a snapshot of a stream, or a damaged one: {error or type(error).__name__}"
        ) from None
    if version > SNAPSHOT_VERSION:
        raise StateError(
            f"snapshot of format {version}, this version of streamrnn reads up to "
            f"{SNAPSHOT_VERSION}: update streamrnn"
        )
    if model != program.fingerprint:
        raise StateError(
            f"snapshot of another model or other weights (fingerprint {model}, "
            f"this model {program.fingerprint})"
        )
    if not 0 <= frames < 1 << 62:
        raise StateError(f"damaged snapshot: it counts {frames} frames")
    return frames, tensors
