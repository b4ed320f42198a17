"""A graph compiled: packed weights, the layout of state and scratch, and the tape.

The :class:`Lowering` is what ops write to. It hands out places in three flat float32 buffers:
weights (shared by all streams, read-only), state (one per stream) and scratch (one per stream;
places are reused once their value has been read for the last time). A :class:`Program` is the
finished result.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import GraphError
from .graph import Clock, Graph, Node, Shape, Value
from .kernels.compile import prepare
from .kernels.pool import ADVANCE, CHECK, EACH, HOW, MANY, TOGETHER
from .kernels.product import SIDE, pack
from .kernels.simd import host
from .kernels.tape import LOOP, ROW, Kernel, number
from .narrow import narrowed
from .ops.concat import gather
from .ops.past import retain
from .rewrite import fold_batch_norm

__all__ = ["Location", "Lowering", "Program", "StateSlot", "fingerprint"]

Array = npt.NDArray[np.float32]

LINE = 16
"""Floats in a cache line; every place begins on one."""

MAX_BYTES = 1 << 31
"""Most bytes that state or scratch of one stream may take."""

MAX_BLOCK = 32
MAX_GROUP = 64
"""Streams of a pool that go through the tape at once, at most."""

SCRATCH_GOAL = 1 << 18
"""The block is made shorter until scratch fits into this many floats."""


def whole(n: int, unit: int) -> int:
    """Return n rounded up to a multiple of `unit`."""
    return -(-n // unit) * unit


@dataclass(eq=False)
class _Place:
    """Room in scratch for `frames` frames of `step` floats, and `fixed` floats more.

    That of a form for many streams (`pool`) takes none in a single stream.
    """

    step: int
    clock: Clock
    fixed: int = 0
    pool: bool = False
    first: int = 0
    last: int = -1
    offset: int = -1

    def size(self, block: int, pool: bool = False) -> int:
        """Return the floats for a block; at a lower rate all streams of a pool may have a frame."""
        frames = block if pool else -(-block // self.clock.stride)
        return whole(self.fixed + self.step * frames, LINE) + LINE


@dataclass(frozen=True, eq=False)
class Location:
    """Where a value lies in scratch: frame t begins at ``place + offset + t * step``."""

    place: _Place
    shape: Shape
    offset: int = 0

    @property
    def step(self) -> int:
        """Floats from one frame to the next."""
        return self.place.step

    @property
    def clock(self) -> Clock:
        """When its frames are there."""
        return self.place.clock

    @property
    def size(self) -> int:
        """Numbers in one frame."""
        return math.prod(self.shape)

    def view(self, shape: Shape, offset: int = 0) -> Location:
        """Return the same numbers, from `offset` on, under another shape; nothing is copied."""
        return Location(self.place, shape, self.offset + offset)


@dataclass(frozen=True)
class StateSlot:
    """A state's name and shape, and where it lies in the state buffer (float32)."""

    name: str
    shape: Shape
    offset: int

    @property
    def stop(self) -> int:
        """End of the slot."""
        return self.offset + math.prod(self.shape)


HEADER = LINE
"""The state buffer begins with the number of frames so far (int64), alone on its cache line."""


@dataclass(eq=False)
class Lowering:
    """What an op writes its part of the program to.

    Attributes
    ----------
    lanes : int
        float32 values in a vector of the target.
    """

    graph: Graph
    lanes: int
    _rows: list[tuple[Kernel, dict[str, Any]]] = field(default_factory=list)
    _many: list[tuple[Kernel, dict[str, Any]]] = field(default_factory=list)
    _weight_offsets: dict[int, list[tuple[int, npt.NDArray[np.uint32]]]] = field(
        default_factory=dict
    )
    _weight_size: int = 0
    _narrow: set[int] = field(default_factory=set)
    _shared: dict[int, dict[str, Any]] = field(default_factory=dict)
    _slots: dict[str, StateSlot] = field(default_factory=dict)
    _state_size: int = HEADER
    _places: list[_Place] = field(default_factory=list)
    _clocks: list[Clock] = field(default_factory=lambda: [Clock()])
    _node: Node | None = None
    _owner: str = ""
    _owners: list[str] = field(default_factory=list)
    _work: list[int] = field(default_factory=list)

    # For ops ---------------------------------------------------------------------------------

    def padded(self, n: int) -> int:
        """Return n rounded up to whole vectors."""
        return whole(n, self.lanes)

    def weight(self, array: npt.ArrayLike, storage: str = "float32") -> int:
        """Store weights as they are, flat; return their offset. Equal ones are stored once."""
        flat = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)
        key = hash((storage, bytes(flat[:: 1 + flat.size // 64])))
        known = self._weight_offsets.setdefault(key, [])
        for offset, stored in known:
            if np.array_equal(stored, flat):
                return offset
        offset = self._weight_size
        known.append((offset, flat))
        self._weight_size += whole(flat.size, LINE) + LINE
        return offset

    def matrix(self, weight: Array, gates: int = 1) -> int:
        """Store a weight (gates * H, K) for ``affine``, its rows :meth:`by_units`.

        As many vectors of outputs lie side by side as there are gates; 4, if there is but one.
        """
        rows = self.by_units(weight, gates)
        return self.packed(pack(rows, self.lanes, gates if gates > 1 else SIDE))

    def packed(self, numbers: Array) -> int:
        """Store packed weights for a kernel's ``Matrix``, in the op's own storage."""
        assert self._node is not None
        storage = self._node.op.storage
        if storage == "float32":
            return self.weight(numbers)
        bits = narrowed(numbers.reshape(-1), storage)
        offset = self.weight(np.pad(bits, (0, bits.size % 2)).view(np.float32), storage)
        self._narrow.add(offset)
        return offset

    def vector(self, values: Array, gates: int = 1) -> int:
        """Store a vector (gates * H), :meth:`by_units`."""
        return self.weight(self.by_units(values, gates))

    def by_units(self, array: npt.NDArray[Any], gates: int) -> npt.NDArray[Any]:
        """Return an array (gates * H, …) with the gates of a vector of units side by side.

        That is ``[vector of units][gate][lane]``, the units padded by zeros to whole vectors.
        """
        padded = self.pad_gates(array, gates)
        split = padded.reshape(gates, -1, self.lanes, *array.shape[1:])
        units: npt.NDArray[Any] = split.swapaxes(0, 1)
        return units.reshape(padded.shape)

    def pad_gates(self, array: npt.NDArray[Any], gates: int) -> npt.NDArray[Any]:
        """Return an array (gates * H, …) with each gate padded by zeros to whole vectors."""
        split = array.reshape(gates, -1, *array.shape[1:])
        if split.shape[1] % self.lanes == 0:
            return split.reshape(-1, *array.shape[1:])
        out = np.zeros((gates, self.padded(split.shape[1]), *array.shape[1:]), array.dtype)
        out[:, : split.shape[1]] = split
        return out.reshape(-1, *array.shape[1:])

    def shared(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return operands that the op makes of its weights; it makes them once, used as often.

        An op that stands in a graph many times (in a loop that is unrolled) packs its weights once.
        """
        assert self._node is not None
        key = id(self._node.op)
        if key not in self._shared:
            self._shared[key] = make()
        return dict(self._shared[key])

    def state(self, name: str) -> int:
        """Return the offset of one of the op's states."""
        assert self._node is not None
        return self._slots[self._node.full(name)].offset

    def temporary(
        self, floats: int, fixed: int = 0, like: Location | None = None, pool: bool = False
    ) -> Location:
        """Return scratch that only this op uses: `floats` for each frame and `fixed` once.

        With `pool` it is for the op's form for many streams, and a single stream has none.
        """
        assert self._node is not None
        clock = like.clock if like is not None else self._node.value.clock
        return self._new((floats,), _Place(whole(floats, LINE), clock, fixed, pool))

    def output(self, spare: int = 0) -> Location:
        """Return room for the op's output, and `spare` floats after each frame."""
        assert self._node is not None
        value = self._node.value
        return self._new(value.shape, _Place(whole(value.size + spare, LINE), value.clock))

    def emit(self, kernel: Kernel, **operands: Any) -> None:
        """Append a row: a call of `kernel`.

        ``Scratch`` operands are locations, and ``name_step`` is filled in from the location
        `name`. ``Frames`` and ``Index`` operands are locations too, whose clock is meant; ``T``
        defaults to that of the op's first input. `pool` are operands, by name, that only the
        kernel's form for many streams has. ``work``, the multiplications of a frame, may be said of
        kernels that threads can share: little work is not split.
        """
        if self._node is not None:
            kernel = kernel.storing(self._node.op.storage)
        pool, work = operands.pop("pool", {}), operands.pop("work", 0)
        forms = [(kernel, operands)]
        if kernel.many is not None:
            both = {**operands, **pool, "streams": 0}
            given = {n: o for n, o in both.items() if n in kernel.many.parameters}
            forms.append((kernel.many, given))
        for form, given in forms:
            for name, kind in form.parameters.items():
                if name.endswith("_step") and name not in given:
                    given[name] = given[name.removesuffix("_step")].step
                if name == "T" and name not in given:
                    assert self._node is not None
                    given[name] = self._node.read_clock
                if kind in ("Frames", "Index") and isinstance(given[name], Location):
                    given[name] = given[name].clock
            if given.keys() != form.parameters.keys():
                wrong = sorted(given.keys() ^ form.parameters.keys())
                raise TypeError(f"{form}: missing or unknown operands {wrong}")
            if self._node is not None and self._node.op.storage != "float32":
                for name, kind in form.parameters.items():
                    packed = given[name] in self._narrow if kind in ("Matrix", "Weights") else None
                    if packed not in (None, kind == "Matrix"):
                        raise TypeError(f"{form}: `{name}` must be a Matrix if it is packed")
            for operand in given.values():
                if isinstance(operand, Location):
                    operand.place.last = len(self._rows)
        self._rows.append(forms[0])
        self._many.append(forms[-1])
        self._owners.append(self._owner)
        self._work.append(work)

    # For the program -------------------------------------------------------------------------

    def _new(self, shape: Shape, place: _Place) -> Location:
        place.first = place.last = len(self._rows)
        self._places.append(place)
        if place.clock not in self._clocks:
            self._clocks.append(place.clock)
        return Location(place, shape)

    def _operand(self, kind: str, operand: Any) -> int:
        if kind == "Scratch":
            return int(operand.place.offset + operand.offset)
        if kind in ("Frames", "Index"):
            return self._clocks.index(operand)
        if kind == "Number":
            return number(operand)
        return int(operand)

    def operands(self, kernel: Kernel, given: Mapping[str, Any]) -> list[int]:
        """Return the operands of a kernel's row, with the places that values have now."""
        return [self._operand(kind, given[name]) for name, kind in kernel.parameters.items()]

    def pool_row(self, r: int) -> tuple[Kernel, list[int], list[int]]:
        """Return the kernel of row r in a pool, its operands, and how it is called there.

        See ``kernels/pool.py``.
        """
        kernel, operands = self._rows[r]
        frames = self._clocks.index(operands["T"])
        if not {"State", "Index"} & set(kernel.parameters.values()):
            return kernel, self.operands(kernel, operands), [TOGETHER, frames]
        if kernel.many is not None and len({c for c in operands.values() if type(c) is Clock}) == 1:
            many, given = self._many[r]
            return many, self.operands(many, given), [MANY, frames]
        moving = [
            (i, operands[f"{name}_step"], self._clocks.index(operands[name].clock))
            for i, (name, kind) in enumerate(kernel.parameters.items(), 1)
            if kind == "Scratch" and f"{name}_step" in kernel.parameters
        ]
        how = [EACH, frames, len(moving), *itertools.chain(*moving)]
        return kernel, self.operands(kernel, operands), how

    def largest_block(self, most: int, pool: bool = False) -> int:
        """Return how many frames at once, `most` or a half, a quarter, …, scratch has room for."""
        block = most
        while block > 1 and self._arrange(block, SCRATCH_GOAL, pool) > SCRATCH_GOAL:
            block //= 2
        return block

    def _arrange(self, block: int, goal: float = math.inf, pool: bool = False) -> int:
        """Give every place an offset so that no two overlap while both are in use.

        Returns the floats that are needed, or some number above `goal` as soon as it is passed.
        """
        busy: list[tuple[int, int, int]] = []  # (begin, end, last row), in order
        total = 0
        for place in self._places:  # in the order of their first rows
            if place.pool and not pool:
                continue
            size = place.size(block, pool)
            busy = [spot for spot in busy if spot[2] >= place.first]
            place.offset = 0
            for start, stop, _ in busy:
                if start - place.offset >= size:
                    break
                if stop > place.offset:
                    place.offset = stop
            total = max(total, place.offset + size)
            if total > goal:
                break
            bisect.insort(busy, (place.offset, place.offset + size, place.last))
        return total


@dataclass(frozen=True, eq=False)
class PoolTape:
    """Rows for the streams of a pool, and how each is called; see ``kernels/pool.py``.

    Attributes
    ----------
    tape, how : int64 [shape=(rows, …)]
        The rows, and for each how it is called.
    group : int
        Streams at once.
    scratch_size : int
        Floats of scratch that they need together.
    input_place, output_place : tuple of int
        Where the frame of the first stream lies in scratch, and floats from one to the next.
    """

    tape: npt.NDArray[np.int64]
    how: npt.NDArray[np.int64]
    group: int
    scratch_size: int
    input_place: tuple[int, int]
    output_place: tuple[int, int]


def _table(rows: list[list[int]], width: int) -> npt.NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)


def _check(what: str, floats: int) -> None:
    if 4 * floats > MAX_BYTES:
        raise GraphError(
            f"the model would need {4 * floats / 2**30:.1f} GiB of {what} for one stream; "
            f"the limit is {MAX_BYTES >> 30} GiB"
        )


def aligned(floats: int) -> Array:
    """Return zeros that begin on a cache line."""
    raw = np.zeros(floats + LINE, np.float32)
    skip = -raw.ctypes.data % (4 * LINE) // 4
    return raw[skip : skip + floats]


class Program:
    """A graph, ready to run.

    Parameters
    ----------
    graph : Graph
        What to compile; its weights are copied.

    Attributes
    ----------
    weights : float32 [shape=(n,)]
        Packed weights, read-only, shared by all streams.
    slots : dict of str to StateSlot
        Where each state lies.
    initial : float32 [shape=(m,)]
        A stream's state at its beginning.
    block : int
        Frames that go through the tape at once, at most.
    owners : tuple of str
        For each row of the tape the name of its op.
    work : tuple of int
        For each row its multiplications a frame, where an op has said so.
    row_kernels : tuple of Kernel
        For each row the kernel that it calls.

    Raises
    ------
    GraphError
        If a stream would need more than 2 GiB of state or scratch.
    StateError
        If an op's ``initial_state`` has an unknown name or another shape.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.clock = graph.clock
        lowered = fold_batch_norm(graph)
        low = Lowering(lowered, host().lanes)
        for name, shape in lowered.states().items():
            slot = low._slots[name] = StateSlot(name, shape, low._state_size)
            low._state_size += whole(math.prod(shape), LINE) + LINE
            _check(f"state ({name} {shape})", slot.stop)
        self.slots = dict(low._slots)
        self.input_names = tuple(graph.inputs)
        self.output_names = tuple(graph.outputs)
        self.inputs = tuple(graph.inputs.values())
        self.outputs = tuple(graph.outputs.values())
        self.input_size = sum(v.size for v in self.inputs)
        self.output_size = sum(v.size for v in self.outputs)
        self.index_limits = tuple(_index_limit(graph, v) for v in self.inputs)
        source, result = self._lower(low, lowered)

        self.block = 1 if graph.feedback else low.largest_block(MAX_BLOCK)
        self.scratch_size = low._arrange(self.block)
        _check("scratch", self.scratch_size)
        self.input_place = (source.place.offset, source.step)
        self.output_place = (result.place.offset + result.offset, result.step)
        self.clocks = np.array([(c.stride, c.start) for c in low._clocks], np.int64)
        self.output_clock = low._clocks.index(self.clock)
        self.state_size = low._state_size
        self.initial = _initial_state(graph, self.slots, self.state_size)
        self.weights = aligned(low._weight_size)
        for offset, stored in itertools.chain.from_iterable(low._weight_offsets.values()):
            self.weights[offset : offset + stored.size] = stored.view(np.float32)
        self.weights.flags.writeable = False
        self.owners = tuple(low._owners)
        self.work = tuple(low._work)
        self.row_kernels = tuple(kernel for kernel, _ in low._rows)
        self._operands = [low.operands(kernel, given) for kernel, given in low._rows]
        low._weight_offsets.clear()  # they are in `weights` now
        low._shared.clear()
        self._lowered, self._source, self._result = low, source, result
        # What a change replaces is kept; the text waits until somebody asks.
        self._weights = [node.op.weights for node in graph.nodes]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Kernels of a stream."""
        return tuple(dict.fromkeys(self.row_kernels))

    @property
    def pool_kernels(self) -> tuple[Kernel, ...]:
        """Kernels of a pool: some have forms of their own for many streams."""
        rows = range(len(self.row_kernels))
        return tuple(dict.fromkeys(self._lowered.pool_row(r)[0] for r in rows))

    @functools.cached_property
    def tape(self) -> npt.NDArray[np.int64]:
        """The rows [shape=(rows, ROW)]; kernels that the cache lacks are compiled now."""
        prepare([LOOP, *self.kernels])
        rows = zip(self.row_kernels, self._operands, strict=True)
        return _table([kernel.row(operands) for kernel, operands in rows], ROW)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the graph and its weights: a snapshot says which model it belongs to."""
        return fingerprint(self.graph, self._weights)

    @functools.cached_property
    def pool_tape(self) -> PoolTape:
        """The same model for a pool, whose streams run as the frames of a block."""
        low, source, result = self._lowered, self._source, self._result
        group = low.largest_block(MAX_GROUP, pool=True)
        scratch_size = low._arrange(group, pool=True)
        _check("scratch", scratch_size)
        rows = [low.pool_row(r) for r in range(len(low._rows))]
        prepare([CHECK, ADVANCE, *self.pool_kernels])
        how = [[*way, *[0] * (HOW - len(way))] for _, _, way in rows]
        return PoolTape(
            _table([kernel.row(operands) for kernel, operands, _ in rows], ROW),
            _table(how, HOW),
            group,
            scratch_size,
            (source.place.offset, source.step),
            (result.place.offset + result.offset, result.step),
        )

    def _lower(self, low: Lowering, graph: Graph) -> tuple[Location, Location]:
        """Lower every op; return where the input is read and where the output is found."""
        source = low._new((self.input_size,), _Place(whole(self.input_size, LINE), Clock()))
        where: dict[int, Location] = {}
        offset = 0
        for value in graph.inputs.values():
            where[id(value)] = source.view(value.shape, offset)
            offset += value.size
        for node in graph.nodes:
            low._node, low._owner = node, node.name
            where[id(node.value)] = node.op.lower(low, *(where[id(a)] for a in node.args))
        names = {id(node.value): node.name for node in graph.nodes}
        for past, new in graph.feedback.items():
            low._owner = names[id(past)]
            slot, place = low._slots[low._owner], where[id(new)]
            low.emit(retain, T=place, x=place, state=slot.offset, n=new.size)
        results = [where[id(v)] for v in graph.outputs.values()]
        result = results[0]
        if len(results) > 1:
            low._owner = "outputs"
            result = low._new(
                (self.output_size,), _Place(whole(self.output_size, LINE), self.clock)
            )
            gather(low, results, result)
        result.place.last = len(low._rows)
        return source, result


def _index_limit(graph: Graph, value: Value) -> int | None:
    """Return the number of valid indices for an input that holds indices, else None."""
    same, limits = {id(value)}, []
    for node in graph.nodes:
        if any(id(arg) in same for arg in node.args):
            if node.op.moves_only:
                same.add(id(node.value))
            elif node.op.index_limit:
                limits.append(node.op.index_limit)
    return min(limits) if limits else None


def _initial_state(graph: Graph, slots: Mapping[str, StateSlot], size: int) -> Array:
    state = np.zeros(size, np.float32)
    for node in graph.nodes:
        node.check_initial_state()
        for name, array in node.op.initial_state.items():
            slot = slots[node.full(name)]
            state[slot.offset : slot.stop] = array.reshape(-1)
    return state


Weights = Mapping[str, npt.NDArray[Any]]


def fingerprint(graph: Graph, weights: Sequence[Weights]) -> str:
    """Return a hash of a graph and the weights of its ops, the same on every machine."""
    digest = hashlib.sha256()
    for text, arrays in _contents(graph, weights):
        digest.update(text.encode())
        for name, array in sorted(arrays.items()):
            digest.update(name.encode() + array.astype("<f4").tobytes())
    own = digest.hexdigest()[:32]
    return graph.known_as.get(own, own)


def _contents(graph: Graph, weights: Sequence[Weights]) -> list[tuple[str, Weights]]:
    """Return what a graph is, text and weights of one op after another."""
    names = {id(v): name for name, v in graph.inputs.items()}
    names |= {id(node.value): node.name for node in graph.nodes}
    kept = [(names[id(past)], names[id(v)]) for past, v in graph.feedback.items()]
    outputs = [names[id(v)] for v in graph.outputs.values()]
    shapes = [v.shape for v in graph.inputs.values()]
    parts: list[tuple[str, Weights]] = [(f"{shapes} {kept} {outputs}", {})]
    for node, given in zip(graph.nodes, weights, strict=True):
        reads = [names[id(a)] for a in node.args]
        text = f"{node.name} {type(node.op).__name__} {node.op.config()} {reads}"
        parts.append((text, given))
    return parts
