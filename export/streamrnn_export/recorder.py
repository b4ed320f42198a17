"""An ONNX graph under construction: the recorder that ops write their form to.

It knows no op. Values have shape (T, N, *frame), with T frames at the value's own rate and N
streams side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamrnn.errors import ExportError
from streamrnn.graph import Node, Shape

__all__ = ["BATCH", "CALLS", "MAX_CALLS", "OnnxRecorder"]

BATCH = 1
"""Streams in one graph."""

CALLS = "calls"
"""State that counts the calls so far, in graphs of which a part begins later."""
MAX_CALLS = float(1 << 24)
"""Where it stops: float32 counts no further."""


class OnnxRecorder:
    """Collects nodes, initializers and states, op by op.

    Parameters
    ----------
    opset : int
        Version of the default operator set.
    chunk_frames : int
        Model input frames that one call of the graph takes.
    """

    def __init__(self, opset: int, chunk_frames: int) -> None:
        self._opset = opset
        self._chunk_frames = chunk_frames
        self._node: Node | None = None
        self._count = 0
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.states: dict[str, Shape] = {}
        self.next_states: dict[str, str] = {}

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self._opset

    def begin(self, node: Node) -> None:
        """Say which op of the model comes next."""
        self._node, self._count = node, 0

    @property
    def node(self) -> Node:
        """The op that is writing."""
        assert self._node is not None
        return self._node

    def frames(self) -> int:
        """Frames in the op's first input."""
        return self._chunk_frames // self.node.read_clock.stride

    def first_frames(self) -> tuple[int, int]:
        """Return which frame of the op's first input, and of its output, a call begins with."""
        read, made = self.node.read_clock, self.node.value.clock
        return -(read.start // read.stride), -(made.start // made.stride)

    def shape(self) -> Shape:
        """Shape of one frame of the op's first input."""
        return self.node.args[0].shape

    def ops(self, kind: str, n_outputs: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs and return them."""
        name = f"{self.node.name}/{kind}_{self._count}"
        self._count += 1
        outputs = [f"{name}:{i}" for i in range(n_outputs)]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
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
        if name or key not in self._constants:
            full = f"{self.node.name}.{name}" if name else f"constant_{len(self._constants)}"
            taken = {i.name for i in self.initializers}
            if full in taken:  # an op that is used twice shares its weights
                return full
            self.initializers.append(numpy_helper.from_array(value, full))
            if name:
                return full
            self._constants[key] = full
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """Add an initializer of integers."""
        return self.constant(np.array(values, np.int64))

    def state(self, name: str, batch_axis: int = 0) -> str:
        """Return the op's state as it comes in; see :class:`streamrnn.ops.recorder.Recorder`."""
        full = self.node.full(name)
        shape = self.node.states()[full]
        first = () if batch_axis == 0 else shape[:1] if len(shape) > 1 else (1,)
        rest = shape[1:] if batch_axis == 1 and len(shape) > 1 else shape
        self.states[full] = (*first, BATCH, *rest)
        return f"{full}_in"

    def next_state(self, name: str, value: str) -> None:
        """Say which value is the state as it goes out.

        As long as the op's input has not begun, the state stays as it came in.
        """
        full = self.node.full(name)
        waited = -self.first_frames()[0]
        if waited:
            calls, rest = divmod(waited, self.frames())
            if rest:
                raise ExportError(
                    f"{self.node.name}: its input begins {self.node.read_clock.start} frames late, "
                    f"in the middle of a call of {self._chunk_frames} frames: it has no step graph"
                )
            value = self.op("Where", self._begun(calls), value, f"{full}_in")
        self.next_states[full] = value

    def _begun(self, calls: int) -> str:
        """Return whether so many calls came before this one; they are counted in a state."""
        self.states[CALLS] = (1,)
        if CALLS not in self.next_states:
            more = self.op("Add", f"{CALLS}_in", self.constant(np.ones(1, np.float32)))
            top = self.constant(np.full(1, MAX_CALLS, np.float32))
            self.next_states[CALLS] = self.op("Min", more, top)
        limit = self.constant(np.full(1, calls, np.float32))
        return self.op("GreaterOrEqual", f"{CALLS}_in", limit)

    def name_outputs(self, outputs: dict[str, str]) -> None:
        """Give values the names under which the graph returns them."""
        made = {o for node in self.nodes for o in node.output}
        new: dict[str, str] = {}
        for name, value in outputs.items():
            if value in made and value not in new:
                new[value] = name
            else:  # an input handed on, or a value that is returned twice
                source = new.get(value, value)
                self.nodes.append(
                    helper.make_node("Identity", [source], [name], name=f"{name}:copy")
                )
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new.get(n, n) for n in names]


def tensor_info(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    """Return the description of an input or output."""
    kind = TensorProto.INT64 if dtype == "int64" else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, shape)
