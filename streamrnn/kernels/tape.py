"""The tape: a table of kernel calls, and the one compiled loop that walks it.

A kernel is a plain function whose parameters say, by their annotation, what they are::

    @kernel
    def relu(T: Frames, x: Scratch, x_step: Size, y: Scratch, y_step: Size, n: Size) -> None: ...

``Scratch``, ``State`` and ``Weights`` arrive as pointers into the stream's scratch and state and
into the model's packed weights; a ``Matrix`` is weights that may be kept in two bytes, which only
``load`` reads; ``Frames`` is how many frames the block has at the op's rate,
``Index`` the number of such frames before this block; ``Size`` is an integer and ``Number`` a
float32. Kernels are pure: they allocate nothing, raise nothing and touch no Python object.
A last parameter ``me: Member`` makes a kernel that threads can share, see :mod:`.member`.

A row of the tape is ``[address of the kernel, one integer per parameter]``.

In a pool the frames of a block are those of as many streams (see ``pool.py``). A kernel without a
state does not notice. One with a state is called for each stream, unless it has a form for many
streams, whose parameters are its own and, in place of the states, where they are in each stream's
state::

    @lstm_cell.pooled
    def lstm_cells(T: Frames, streams: Streams, …, h: Place, …) -> None:
        h_of_stream_t = at(floats(streams[t]), h)
"""

from __future__ import annotations

import functools
import inspect
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target

from .atomic import alone
from .cache import KeptFile, KernelCache
from .inlined import Inlined
from .simd import (
    as_bfloat16,
    as_float16,
    as_floats,
    as_longs,
    at,
    bits,
    call,
    floats,
    ints,
    lanes,
    load,
    splat,
    store,
)

__all__ = [
    "LOOP",
    "ROW",
    "Compiled",
    "Frames",
    "Index",
    "Job",
    "Kernel",
    "Loop",
    "Matrix",
    "Member",
    "Number",
    "Place",
    "Scratch",
    "Size",
    "State",
    "Streams",
    "Weights",
    "advance",
    "elementwise",
    "helper",
    "kernel",
]

# Annotations of a kernel's parameters.
Frames = int
Index = int
Size = int
Number = Any
Member = Any
Scratch = Any
State = Any
Weights = Any
Matrix = Any
# Of a form for many streams: the addresses of their states, and where in each state something is.
Streams = Any
Place = int

_PARAMETERS = {
    "Frames": "frames[2 * row[{i}]]",
    "Index": "frames[2 * row[{i}] + 1]",
    "Size": "row[{i}]",
    "Number": "numbers[2 * {i}]",
    "Scratch": "at(scratch, row[{i}])",
    "State": "at(state, row[{i}])",
    "Weights": "at(weights, row[{i}])",
    "Matrix": "stored(at(weights, row[{i}]))",
    "Streams": "as_longs(state)",
    "Place": "row[{i}]",
}
_STORED = {"float32": as_floats, "float16": as_float16, "bfloat16": as_bfloat16}
"""How a pointer to a matrix is read."""
ROW = 24
"""Integers in one row of the tape: the address and at most 23 operands."""

_OPTIONS = {"error_model": "numpy", "boundscheck": False, "_nrt": False, "nogil": True}
_INLINED = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_INTS = types.CPointer(types.int64)
_FLOATS = types.CPointer(types.float32)
_SIGNATURE = types.void(_INTS, _FLOATS, _FLOATS, _FLOATS, _INTS)
_SPLIT_SIGNATURE = types.void(_INTS, _FLOATS, _FLOATS, _FLOATS, _INTS, _INTS)


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call; it is inlined into them."""
    return njit(function, pipeline_class=Inlined, **_INLINED, **_OPTIONS)


class Compiled(ABC):
    """A function that is compiled when first asked for, and kept in the cache.

    Parameters
    ----------
    function : callable
        What is compiled.
    signature : Signature
        numba's, of what is compiled.
    """

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        self.function, self.signature = function, signature
        self.name = function.__name__.lstrip("_")

    @property
    @abstractmethod
    def _entry(self) -> Any:
        """The function as numba knows it, before it is compiled; with its cache, if it has one."""

    @functools.cached_property
    def compiled(self) -> Any:
        """The C function, taken from the cache or compiled now."""
        self._entry.compile()
        return self._entry

    @property
    def address(self) -> int:
        """Where the C function lies."""
        address: Any = self.compiled.address
        return int(address)

    def is_kept(self, on_disk: bool = False) -> bool:
        """Whether it need not be compiled: it has been (unless on disk is asked), or is cached."""
        if "compiled" in self.__dict__ and not on_disk:
            return True
        file = self.kept_file()
        return file is not None and file.is_whole

    def kept_file(self) -> KeptFile | None:
        """Return the file of the cache that keeps it, if there is one."""
        cache = self._entry._cache
        if not isinstance(cache, KernelCache):
            return None
        return cache.find(self.signature, cpu_target.target_context)


class Kernel(Compiled):
    """A kernel: its parameters, and its compiled form, made when first asked for."""

    def __init__(
        self,
        function: Callable[..., None],
        line: int | None = None,
        split: bool = False,
        storage: str = "float32",
    ) -> None:
        super().__init__(function, _SPLIT_SIGNATURE if split else _SIGNATURE)
        self.name += "" if storage == "float32" else f" {storage}"
        self.name += " split" if split else ""
        self.for_members = split
        self.storage = storage
        self._narrow: dict[str, Kernel] = {}
        self.file = inspect.getfile(function)
        self.line = line or function.__code__.co_firstlineno
        self.many: Kernel | None = None  # its form for many streams
        self.parameters: dict[str, str] = {}
        parameters = dict(inspect.signature(function).parameters)
        self.shared = "me" in parameters and parameters.pop("me").annotation == "Member"
        for name, parameter in parameters.items():
            if parameter.annotation not in _PARAMETERS:
                raise TypeError(
                    f"kernel {self.name}: annotate `{name}` with one of {', '.join(_PARAMETERS)}"
                )
            self.parameters[name] = parameter.annotation
        if len(self.parameters) >= ROW:
            raise TypeError(f"kernel {self.name}: at most {ROW - 1} parameters")

    def __repr__(self) -> str:
        return f"<kernel {self.name}({', '.join(self.parameters)})>"

    def pooled(self, function: Callable[..., None]) -> Kernel:
        """Give the kernel a form for many streams, each of which has one frame.

        It is used where all values of the op come at one rate. Its operands are those of the kernel
        with the same names, and others that `Lowering.emit` is told of with ``pool=``.
        """
        self.many = Kernel(function)
        return self.many

    def storing(self, storage: str) -> Kernel:
        """Return the form whose matrices are kept so: float32 (this one), float16 or bfloat16."""
        if storage == self.storage or "Matrix" not in self.parameters.values():
            return self
        if storage not in self._narrow:
            form = Kernel(self.function, self.line, storage=storage)
            form.many = self.many.storing(storage) if self.many is not None else None
            self._narrow[storage] = form
        return self._narrow[storage]

    @functools.cached_property
    def _entry(self) -> Any:
        """The C function before it is compiled."""
        arguments = ", ".join(
            _PARAMETERS[kind].format(i=i) for i, kind in enumerate(self.parameters.values(), 1)
        )
        numbers = "Number" in self.parameters.values()
        entry_name = f"{self.function.__name__}_{self.line}"  # what it is called in the cache
        if self.storage != "float32":
            entry_name += f"_{self.storage}"
        me = ""
        if self.for_members:
            entry_name, me = f"{entry_name}_split", ", me"
        if self.shared:
            arguments += me or ", alone()"
        source = (
            f"def {entry_name}(row, weights, state, scratch, frames{me}):\n"
            + ("    numbers = as_floats(row)\n" if numbers else "")
            + f"    body({arguments})\n"
        )
        scope: dict[str, Any] = {
            "__name__": self.function.__module__,
            "alone": alone,
            "at": at,
            "as_floats": as_floats,
            "as_longs": as_longs,
            "body": helper(self.function),
            "stored": _STORED[self.storage],
        }
        exec(compile(source, self.file, "exec"), scope)
        function = scope[entry_name]
        entry: Any = CFunc(function, (self.signature.args, types.void), {}, dict(_OPTIONS))
        if Path(self.file).is_file():  # a kernel typed at a prompt has no file to watch
            entry._cache = KernelCache(function)
        return entry

    @functools.cached_property
    def split(self) -> Kernel | None:
        """The form that the members of a team run together; None if threads cannot share it."""
        if not self.shared:
            return None
        return Kernel(self.function, self.line, split=True, storage=self.storage)

    def row(self, operands: Sequence[int]) -> list[int]:
        """Return the tape's row that calls this kernel."""
        return [self.address, *operands, *[0] * (ROW - 1 - len(operands))]


def number(value: float) -> int:
    """Return a float32 as the integer that a row keeps it in."""
    return int.from_bytes(struct.pack("<fi", value, 0), "little")


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a kernel of a function with annotated parameters; it is compiled when first used."""
    return Kernel(function)


def elementwise(function: Callable[..., Any]) -> Kernel:
    """Make a kernel that applies a function of vectors to the elements of each frame.

    Parameters of the function that are annotated ``Number`` are operands of the row, those
    annotated ``Weights`` are one vector per element of a frame, and all others are the inputs.
    The kernel's operands have the same names, then come ``y`` and ``n`` (elements of a frame).
    """
    kinds = {
        name: p.annotation if p.annotation in ("Number", "Weights") else "Scratch"
        for name, p in inspect.signature(function).parameters.items()
    }
    parameters, values = ["T: 'Frames'"], []
    for name, kind in kinds.items():
        parameters.append(f"{name}: {kind!r}")
        if kind == "Scratch":
            parameters.append(f"{name}_step: 'Size'")
        at_i = {"Scratch": f"load({name}, t * {name}_step + i)", "Weights": f"load({name}, i)"}
        values.append(at_i.get(kind, f"splat({name})"))
    parameters += ["y: 'Scratch'", "y_step: 'Size'", "n: 'Size'"]
    source = (
        f"def {function.__name__}({', '.join(parameters)}):\n"
        f"    for t in range(T):\n"
        f"        for i in range(0, n, lanes()):\n"
        f"            store(y, t * y_step + i, body({', '.join(values)}))\n"
    )
    scope = {
        "__name__": function.__module__,
        "body": helper(function),
        "lanes": lanes,
        "load": load,
        "splat": splat,
        "store": store,
    }
    exec(compile(source, inspect.getfile(function), "exec", dont_inherit=True), scope)
    return Kernel(scope[function.__name__], function.__code__.co_firstlineno)


# Fields of a stream's plan: everything `advance` has to know, as integers.
(
    TAPE,
    ROWS,
    WEIGHTS,
    STATE,
    SCRATCH,
    FRAMES,
    CLOCKS,
    CLOCK_TABLE,
    BLOCK,
    INPUT,
    INPUT_STEP,
    INPUT_SIZE,
    OUTPUT,
    OUTPUT_STEP,
    OUTPUT_SIZE,
    OUTPUT_CLOCK,
    POLICY,
    HELD,
    PLAN_SIZE,
) = range(19)

RAISE, PROPAGATE, HOLD = range(3)
"""What a stream does with a frame that holds a NaN or an infinity."""

MISMATCH = -1
"""`advance` was given arrays of the wrong size; nothing was done."""
NONFINITE = -2
"""`advance` met a non-finite frame under RAISE: NONFINITE - (index of the frame)."""


@helper
def emitted(now: int, stride: int, start: int) -> int:
    """Frames that a clock has let through after ``now`` input frames."""
    return 0 if now <= start else (now - start + stride - 1) // stride


@helper
def finite(x: Any, n: int) -> Any:
    """Whether ``x[:n]``, given as bit patterns, holds neither a NaN nor an infinity."""
    bad = 0
    for i in range(n):
        bad |= (x[i] & 0x7F800000) == 0x7F800000
    return bad == 0


@helper
def copy(n: int, x: Any, y: Any) -> None:
    """``y[:n] = x[:n]``, touching nothing beyond."""
    whole = n - n % lanes()
    for i in range(0, whole, lanes()):
        store(y, i, load(x, i))
    for i in range(whole, n):
        y[i] = x[i]


def _advance(plan_address: int, n_frames: int, x: Any, y: Any) -> int:
    plan = ints(plan_address)
    scratch = floats(plan[SCRATCH])
    state = floats(plan[STATE])
    weights = floats(plan[WEIGHTS])
    tape = ints(plan[TAPE])
    frames = ints(plan[FRAMES])
    clocks = ints(plan[CLOCK_TABLE])
    clock = ints(plan[STATE])
    in_size, out_size = plan[INPUT_SIZE], plan[OUTPUT_SIZE]
    stride, start = clocks[2 * plan[OUTPUT_CLOCK]], clocks[2 * plan[OUTPUT_CLOCK] + 1]
    due = emitted(clock[0] + n_frames, stride, start) - emitted(clock[0], stride, start)
    room = y.size == due * out_size or (n_frames == 1 and y.size == out_size)
    if x.size != n_frames * in_size or not room:
        return MISMATCH
    source, target = floats(x.ctypes.data), floats(y.ctypes.data)
    pattern = bits(x.ctypes.data)
    policy = plan[POLICY]
    if policy == RAISE and not finite(pattern, n_frames * in_size):
        t = 0
        while finite(at(pattern, t * in_size), in_size):
            t += 1
        return NONFINITE - t
    written = 0
    for first in range(0, n_frames, plan[BLOCK]):
        n = min(plan[BLOCK], n_frames - first)
        now = clock[0]
        for k in range(plan[CLOCKS]):
            before = emitted(now, clocks[2 * k], clocks[2 * k + 1])
            frames[2 * k] = emitted(now + n, clocks[2 * k], clocks[2 * k + 1]) - before
            frames[2 * k + 1] = before
        for t in range(n):
            frame = at(source, (first + t) * in_size)
            if policy == HOLD:
                held = floats(plan[HELD])
                if finite(at(pattern, (first + t) * in_size), in_size):
                    copy(in_size, frame, held)
                else:
                    frame = held
            copy(in_size, frame, at(scratch, plan[INPUT] + t * plan[INPUT_STEP]))
        for r in range(plan[ROWS]):
            row = at(tape, r * ROW)
            call(row[0], row, weights, state, scratch, frames)
        for t in range(frames[2 * plan[OUTPUT_CLOCK]]):
            result = at(scratch, plan[OUTPUT] + t * plan[OUTPUT_STEP])
            copy(out_size, result, at(target, written * out_size))
            written += 1
        clock[0] = now + n
    return written


class Loop(Compiled):
    """A function that Python calls, with arrays and integers: the loop over a tape is one."""

    @functools.cached_property
    def compiled(self) -> Any:
        """The function, taken from the cache or compiled now."""
        self._entry.compile(self.signature)
        self._entry.disable_compile()
        return self._entry

    @functools.cached_property
    def _entry(self) -> Any:
        function = njit(self.function, **_OPTIONS)
        function._cache = KernelCache(self.function)
        return function


class Job(Compiled):
    """A function ``job(part, parts, argument)`` of int64, of which threads each do a part."""

    def __init__(self, function: Callable[[int, int, int], None]) -> None:
        super().__init__(function, types.void(*[types.int64] * 3))

    @functools.cached_property
    def _entry(self) -> Any:
        entry: Any = CFunc(self.function, (self.signature.args, types.void), {}, dict(_OPTIONS))
        entry._cache = KernelCache(self.function)
        return entry


_FRAMES = types.Array(types.float32, 1, "C", readonly=True)
LOOP = Loop(_advance, types.int64(types.int64, types.int64, _FRAMES, types.float32[::1]))


def advance() -> Callable[[int, int, Any, Any], int]:
    """Return the compiled ``advance(plan, n_frames, x, y) -> frames written``.

    It runs `n_frames` frames from `x` through the tape into `y`, both float32 and contiguous, in
    blocks; it returns the number of frames written or, with nothing done, a negative code. `y` has
    room for just the frames that are due, or for one where `n_frames` is one.
    """
    return LOOP.compiled  # type: ignore[no-any-return]
