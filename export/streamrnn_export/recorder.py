"""An ONNX graph under construction: the recorder that ops write their form to.

It knows no op. Values have shape (T, N, *frame), with T frames at the value's own rate and N
streams side by side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamrnn.errors import ExportError
from streamrnn.graph import Clock, Node, Shape, Value
from streamrnn.importers.onnx.known import subgraphs
from streamrnn.importers.onnx.restored import DOMAIN, names_read, whereabouts

from .scope import BATCH, Dims, OpenFramesError, Scope, tensor_info

__all__ = ["OnnxRecorder", "begins_at_rest"]


class OnnxRecorder:
    """Collects nodes, initializers and states, op by op.

    Parameters
    ----------
    opset : int
        Version of the default operator set.
    scope : Scope
        What the graph takes in one call.
    batch : int or None
        Streams side by side; None leaves their number open.
    first : (str, Value)
        The graph's first input, which says how many frames and streams there are.
    taken : collection of str
        Names of the model's inputs and outputs: nothing else gets one of them.
    """

    def __init__(
        self,
        opset: int,
        scope: Scope,
        batch: int | None,
        first: tuple[str, Value],
        taken: Collection[str],
    ) -> None:
        self._opset = opset
        self.scope = scope
        self.batch = batch
        self._first = first
        self._taken = taken
        self._node: Node | None = None
        self._counts: dict[str, int] = {}
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.batch_axes: dict[str, int] = {}
        self.counts_calls = False
        self.whole: dict[str, dict[str, Any]] = {}

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self._opset

    @property
    def batch_dim(self) -> int | str:
        """Size of the axis of streams, or its name."""
        return BATCH if self.batch is None else self.batch

    def begin(self, node: Node) -> None:
        """Say which op of the model comes next."""
        self._node = node

    @property
    def node(self) -> Node:
        """The op that is writing."""
        assert self._node is not None
        return self._node

    @contextlib.contextmanager
    def writing(self, scope: Scope) -> Iterator[Scope]:
        """Let what is written go to a scope, and then back to the one before."""
        before, self.scope = self.scope, scope
        try:
            yield scope
        finally:
            self.scope = before

    def remember(self, node: Node, xs: Sequence[str], scope: Scope, y: str) -> None:
        """Note an op of several nodes that can be read back whole: see ``put_metadata``.

        That is one that makes a frame of each in a call for one output, whose state, if any, has
        begun, and whose weights stand in the graph, in whatever way.
        """
        clock, op = node.value.clock, node.op
        begun = node.read_clock == clock and (clock.start == 0 or not node.states())
        once = self.batch in (1, None) and self.scope.unit_frames == clock.stride
        several = len(scope.nodes) > 1 or any(
            n.domain == DOMAIN or [*subgraphs(n)] for n in scope.nodes
        )
        if not (once and begun and several) or op.takes_feedback:
            return
        read = dict.fromkeys(n for n in names_read(scope.nodes) if n in self.initializers)
        tensors = {n: np.asarray(numpy_helper.to_array(self.initializers[n])) for n in read}
        weights = {}
        for name, w in op.weights.items():
            weights[name] = whereabouts(w, tensors)
            if weights[name] is None:
                return
        self.whole[node.name] = {
            "op": type(op).__name__,
            "config": op.config(),
            "weights": weights,
            "reads": list(xs),
            "makes": y,
        }

    def keep(self, scope: Scope) -> None:
        """Add what another scope holds to this one."""
        self.scope.nodes += scope.nodes
        self.scope.states |= scope.states
        self.scope.next_states |= scope.next_states

    # How many frames and streams -------------------------------------------------------------

    def frames(self) -> int:
        """Frames in the op's first input; see :class:`streamrnn.ops.recorder.Recorder`."""
        if self.scope.chunk_frames is None:
            raise OpenFramesError
        return self.scope.chunk_frames // self.node.read_clock.stride

    def known_frames(self, clock: Clock) -> int | None:
        """Return how many frames of a clock the scope holds; None where that is open."""
        chunk = self.scope.chunk_frames
        return None if chunk is None else chunk // clock.stride

    def first_frames(self) -> tuple[int, int]:
        """Return which frame of the op's first input, and of its output, a call begins with."""
        read, made = self.node.read_clock, self.node.value.clock
        return -(read.start // read.stride), -(made.start // made.stride)

    def shape(self) -> Shape:
        """Shape of one frame of the op's first input."""
        return self.node.args[0].shape

    def numbers(self, clock: Clock) -> str:
        """Return 0, 1, … for each frame of a clock: int64 [shape=(T,)]."""
        n = self.known_frames(clock)
        if n is not None:
            return self.ints(*range(n))
        zero, one = self.constant(np.int64(0)), self.constant(np.int64(1))
        return self.op("Range", zero, self._open_frames(clock), one)

    def _open_frames(self, clock: Clock) -> str:
        """Return how many frames of a clock there are: int64, a single number."""
        frames = self.op("Gather", self.op("Shape", self._first[0]), self.constant(np.int64(0)))
        stride = clock.stride // self._first[1].clock.stride
        return self.op("Div", frames, self.constant(np.int64(stride))) if stride > 1 else frames

    def positions(self, clock: Clock) -> str:
        """Return how many frames of a clock came before each: float32 [shape=(T,)].

        They are counted from the model's first frame, whether the value has begun or not.
        """
        self.counts_calls = True
        each = self.scope.unit_frames // clock.stride
        n, base = self.known_frames(clock), self.scope.base
        if n == each == 1:
            return base
        before = self.op("Mul", base, self.constant(np.float32(each))) if each > 1 else base
        return self.op("Add", before, self.op("Cast", self.numbers(clock), to=TensorProto.FLOAT))

    def windows(self, step: int, offsets: npt.ArrayLike) -> str:
        """Return positions ``step * t + offsets`` of each output frame t, int64 (T, offsets)."""
        clock = self.node.value.clock
        n = self.known_frames(clock)
        if n is not None:
            return self.constant(step * np.arange(n)[:, None] + np.asarray(offsets, np.int64))
        column = self.op("Unsqueeze", self.numbers(clock), self.ints(1))
        return self.op(
            "Add",
            self.op("Mul", column, self.ints(step)),
            self.constant(np.asarray(offsets, np.int64)),
        )

    def spread(self, x: str) -> str:
        """Return a value of shape (1, 1, *frame) for each frame of the op's output and stream."""
        clock, shape = self.node.value.clock, self.node.value.shape
        n = self.known_frames(clock)
        ones = (1,) * len(shape)
        if n is not None and self.batch is not None:
            return self.op("Expand", x, self.ints(n, self.batch, *ones))
        frames = (
            self.ints(n)
            if n is not None
            else self.op("Unsqueeze", self._open_frames(clock), self.ints(0))
        )
        size = self.op("Shape", self._first[0])
        streams = self.op("Slice", size, self.ints(1), self.ints(2), self.ints(0))
        return self.op("Expand", x, self.op("Concat", frames, streams, self.ints(*ones), axis=0))

    def unmerge(self, x: str, *frame: int) -> str:
        """Return (T * N, *frame), frames and streams in one axis, as (T, N, *frame)."""
        n = self.known_frames(self.node.value.clock)
        if n is not None:
            return self.op("Reshape", x, self.ints(n, -1, *frame))
        if self.batch is not None:
            return self.op("Reshape", x, self.ints(-1, self.batch, *frame))
        size = self.op("Shape", self._first[0])
        streams = self.op("Slice", size, self.ints(1), self.ints(2), self.ints(0))
        parts = (self.ints(-1), streams, self.ints(*frame))
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    # Nodes -----------------------------------------------------------------------------------

    @property
    def unnamed(self) -> set[str]:
        """Names of the constants that were given none."""
        return set(self._constants.values())

    def unique(self, kind: str) -> str:
        """Return a name that no node has yet: ``op/Kind_0``."""
        start = f"{self.node.name}/{kind}"
        count = self._counts[start] = self._counts.get(start, -1) + 1
        return self._free(f"{start}_{count}")

    def _free(self, name: str) -> str:
        """Return a name for a value inside the graph: this one, unless the model has it."""
        while name in self._taken:
            name += "_"
        return name

    def ops(self, kind: str, n_outputs: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs and return them."""
        name = self.unique(kind)
        outputs = [self._free(f"{name}:{i}") for i in range(n_outputs)]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.scope.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return tuple(outputs)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return it."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def constant(self, array: npt.ArrayLike, name: str = "") -> str:
        """Add an initializer (float64 becomes float32); equal unnamed ones are added once."""
        value = np.ascontiguousarray(array)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        value = value.reshape(np.shape(array))
        key = (value.dtype.str, value.shape, value.tobytes())
        if not name and key in self._constants:
            return self._constants[key]
        full = f"{self.node.name}.{name}" if name else f"constant_{len(self._constants)}"
        full = self._free(full)
        if full not in self.initializers:  # an op that is used twice shares its weights
            self.initializers[full] = numpy_helper.from_array(value, full)
        if not name:
            self._constants[key] = full
        return full

    def ints(self, *values: int) -> str:
        """Add an initializer of integers."""
        return self.constant(np.array(values, np.int64))

    def each(self, write: Callable[..., str], *xs: str) -> str:
        """Write a form for one frame of one stream; see :class:`streamrnn.ops.recorder.Recorder`.

        It is written out where the frames of a single stream are known, else repeated by a Scan.
        """
        n = self.known_frames(self.node.read_clock)
        if n is not None and self.batch == 1:
            frames = [[self.op("Gather", x, self.ints(t), axis=0) for x in xs] for t in range(n)]
            made = [write(*frame) for frame in frames]
            return self.op("Concat", *made, axis=0) if len(made) > 1 else made[0]
        flat = [
            self.op("Reshape", x, self.ints(-1, 1, 1, *a.shape))
            for x, a in zip(xs, self.node.args, strict=True)
        ]
        shape = self.node.value.shape
        body = Scope(1, 1, inside=True)
        inputs = [self.unique("frame") for _ in xs]
        with self.writing(body):
            y = self.op("Reshape", write(*inputs), self.ints(*shape))
        infos = [
            tensor_info(name, "float32", (1, 1, *a.shape))
            for name, a in zip(inputs, self.node.args, strict=True)
        ]
        (stacked,) = self.scan(body, flat, infos, [(y, "float32", shape)])
        return self.unmerge(stacked, *shape)

    def scan(
        self,
        body: Scope,
        xs: Sequence[str],
        frames: Sequence[onnx.ValueInfoProto],
        ys: Sequence[tuple[str, str, Dims]],
    ) -> tuple[str, ...]:
        """Repeat a scope over the first axis of `xs`; return what it makes, one after another.

        Its states are carried from frame to frame, and come in and go out of the scope around it.
        """
        before = [
            tensor_info(self._free(f"{n}/before"), "float32", d) for n, d in body.states.items()
        ]
        results, infos = [], []
        after = [(body.next_states[name], "float32", dims) for name, dims in body.states.items()]
        with self.writing(body):
            for value, dtype, dims in (*after, *ys):
                results.append(self.op("Identity", value))
                infos.append(tensor_info(results[-1], dtype, dims))
        name = self.unique("frames")
        graph = helper.make_graph(body.nodes, name, [*before, *frames], infos)
        start = [self._incoming(n, dims) for n, dims in body.states.items()]
        made = self.ops("Scan", len(infos), *start, *xs, body=graph, num_scan_inputs=len(xs))
        self.scope.next_states |= dict(zip(body.states, made, strict=False))
        return made[len(start) :]

    # States ----------------------------------------------------------------------------------

    def _incoming(self, full: str, dims: Dims) -> str:
        self.scope.states[full] = dims
        return self._free(f"{full}/before") if self.scope.inside else f"{full}_in"

    def state(self, name: str, batch_axis: int = 0, row: bool = False) -> str:
        """Return the op's state as it comes in; see :class:`streamrnn.ops.recorder.Recorder`."""
        full = self.node.full(name)
        shape = self.node.states()[full]
        self.batch_axes[full] = batch_axis
        shape = (1, *shape) if row else shape
        dims = (*shape[:batch_axis], self.batch_dim, *shape[batch_axis:])
        return self._incoming(full, dims)

    def next_state(self, name: str, value: str) -> None:
        """Say which value is the state as it goes out.

        As long as the op's input has not begun, the state stays as it came in.
        """
        full, made = self.node.full(name), self.node.value.clock
        waited = -self.first_frames()[0]
        if waited and not begins_at_rest(self.node):
            if self.known_frames(made) != 1:
                raise OpenFramesError
            calls, rest = divmod(waited, made.stride // self.node.read_clock.stride)
            if rest:
                raise ExportError(
                    f"{self.node.name}: its input begins {self.node.read_clock.start} frames late, "
                    f"in the middle of the {made.stride} frames of one output: it has no form in "
                    f"ONNX"
                )
            limit = self.constant(np.full(1, calls, np.float32))
            begun = self.op("GreaterOrEqual", self.positions(made), limit)
            value = self.op("Where", begun, value, self._incoming(full, self.scope.states[full]))
        self.scope.next_states[full] = value


def begins_at_rest(node: Node) -> bool:
    """Whether zeros in front of an op's input leave its state as it begins.

    So it is where the state is nothing but the last frames, zero at first.
    """
    known = node.op.receptive_field(*(a.shape for a in node.args)) is not None
    return known and len(node.states()) == 1 and not node.op.initial_state
