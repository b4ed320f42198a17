"""The graph of a model: which op feeds which, in what shape and at what rate.

Layers are called on symbolic values, as in Keras' functional form::

    x = Input(65)
    a = GRUCell(65, 24)(x)
    model = Model(x, concat(a, x))

A value is what flows along one edge: one array per frame. Its clock says at which of the model's
input frames it is there. A graph is nothing but the values between its inputs and its outputs, in
order, each op with a name.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, GraphError, StateError

if TYPE_CHECKING:
    from .ops.op import Op

__all__ = ["MAX_FRAME", "Clock", "Graph", "Input", "Node", "Shape", "Value"]

Shape = tuple[int, ...]

MAX_CLOCK = 1 << 60
MAX_FRAME = 1 << 26
"""Most numbers in one frame of any value."""
MAX_AXES = 32


@dataclass(frozen=True)
class Clock:
    """Frames ``start, start + stride, start + 2 * stride, …`` of the model's input.

    Parameters
    ----------
    stride : int
        Input frames from one output frame to the next.
    start : int
        Input frames before the first one that gives an output.
    """

    stride: int = 1
    start: int = 0

    def every(self, stride: int, start: int = 0) -> Clock:
        """Return the clock that keeps every `stride`-th frame of this one, from `start` on."""
        if stride == 1 and start == 0:
            return self
        clock = Clock(self.stride * stride, self.start + self.stride * start)
        if max(clock.stride, clock.start) > MAX_CLOCK:
            raise GraphError(f"an output {clock} would never come")
        return clock

    def emitted(self, now: int) -> int:
        """Return how many frames this clock has let through after `now` input frames."""
        return max(0, -(-(now - self.start) // self.stride))

    def __str__(self) -> str:
        return f"every {self.stride} frames from frame {self.start}"


@dataclass(frozen=True, eq=False)
class Value:
    """One edge of a graph: an array of `shape` for each frame of `clock`.

    Values are made by :func:`Input` and by calling layers; ``+ - * /`` with a value or a number and
    indexing of the leading axis (``value[:129]``) make the matching op.
    """

    shape: Shape
    clock: Clock = Clock()
    dtype: str = "float32"
    op: Op | None = None
    args: tuple[Value, ...] = ()
    next: Value | None = field(default=None, init=False, repr=False)
    """For a value of a ``Past``: what it takes in the end of a frame, where a layer has said so."""

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_AXES:
            raise GraphError(f"a frame of {len(self.shape)} axes: at most {MAX_AXES} are supported")
        if self.size > MAX_FRAME:
            raise GraphError(f"a frame of shape {self.shape} holds more than {MAX_FRAME} numbers")

    @property
    def size(self) -> int:
        """Numbers in one frame."""
        return math.prod(self.shape)

    __iter__ = None  # a value is no sequence,
    __array_ufunc__ = None  # and no array: NumPy leaves arithmetic to the methods below

    def _with(self, name: str, other: Value | float, swap: bool = False) -> Value:
        from .ops.arithmetic import arithmetic

        return arithmetic(name, self, other, swap)

    def __add__(self, other: Value | float) -> Value:
        return self._with("Add", other)

    def __radd__(self, other: float) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self._with("Sub", other, swap=True)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("Mul", other)

    def __rmul__(self, other: float) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("Div", other)

    def __getitem__(self, index: slice) -> Value:
        from .ops.rearrange import Slice

        if not isinstance(index, slice) or index.step not in (None, 1):
            raise GraphError(
                f"a value is cut along its leading axis by a slice such as [:129], got [{index!r}]"
            )
        length = self.shape[0] if self.shape else 0
        start, stop, _ = index.indices(length)
        return Slice(start, stop)(self)


def as_shape(shape: int | Sequence[int], who: str) -> Shape:
    """Return `shape` as a tuple of positive integers; an integer n means ``(n,)``."""
    try:
        several = type(shape) is tuple or isinstance(shape, Sequence)
        dims = tuple(map(operator.index, shape if several else (shape,)))  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(
            f"{who}: shape must be an int or a tuple of ints, got {shape!r}"
        ) from None
    if any(d < 1 for d in dims):
        raise ConfigError(f"{who}: every size in a shape must be at least 1, got {dims}")
    return dims


def Input(shape: int | Sequence[int], dtype: str = "float32") -> Value:  # noqa: N802
    """Return a symbolic input of a model: one frame of `shape` per step.

    Parameters
    ----------
    shape : int or tuple of int
        Shape of one frame; an integer n means ``(n,)``, ``()`` a single number.
    dtype : str
        ``"float32"``, or ``"int64"`` for indices that go into an ``Embedding``.

    Raises
    ------
    ConfigError
        If a size is below 1 or the dtype is neither of the two.
    """
    if dtype not in ("float32", "int64"):
        raise ConfigError(f"Input: dtype must be 'float32' or 'int64', got {dtype!r}")
    return Value(as_shape(shape, "Input"), dtype=dtype)


@dataclass(frozen=True, eq=False)
class Node:
    """An op in a graph: its name there, and the value it makes."""

    name: str
    value: Value

    @property
    def op(self) -> Op:
        """The op."""
        assert self.value.op is not None  # made only for values that have one
        return self.value.op

    @property
    def args(self) -> tuple[Value, ...]:
        """The values that the op reads."""
        return self.value.args

    @property
    def read_clock(self) -> Clock:
        """When the values that the op reads are there."""
        return self.args[0].clock if self.args else self.value.clock

    def states(self) -> dict[str, Shape]:
        """Return the op's states, by their name in the model, with their shapes."""
        shapes = self.op.state_shapes(*(a.shape for a in self.args))
        return {self.full(name): shape for name, shape in shapes.items()}

    def check_initial_state(self) -> None:
        """Raise StateError where the op begins with a state that it does not have.

        The shapes of states are known once an op stands in a graph.
        """
        shapes = self.op.state_shapes(*(a.shape for a in self.args))
        given = vars(self.op).get("_initial_state", {})  # the op itself would make its weights
        for name, array in given.items():
            if shapes.get(name) != array.shape:
                raise StateError(
                    f"initial state {name!r} of shape {array.shape} does not fit {self.name}, "
                    f"whose states are {self.states()}"
                )

    def full(self, name: str) -> str:
        """Return the name in the model of a state or weight: ``lstm_0.h``; the op's own for ""."""
        return f"{self.name}.{name}" if name else self.name


def _in_order(outputs: Sequence[Value]) -> Iterator[Value]:
    """Yield every value that the outputs depend on, each after those it depends on."""
    done: set[int] = set()
    stack = [(value, False) for value in reversed(outputs)]
    while stack:
        value, ready = stack.pop()
        if id(value) in done:
            continue
        if ready:
            done.add(id(value))
            yield value
        else:
            stack.append((value, True))
            stack.extend((arg, False) for arg in reversed(value.args))


@dataclass(frozen=True, eq=False)
class Graph:
    """The ops between `inputs` and `outputs`, in an order in which they can run.

    Parameters
    ----------
    inputs, outputs : dict of str to Value
        By name.
    feedback : dict of Value to Value, optional
        For each value of a ``Past``, the value that it takes in the end of a frame; those of which
        a layer has said it (``Past.feed``) are added.
    known_as : dict of str to str
        Fingerprints of this graph by which it is known under another one: that of the model from
        which it was exported, whose snapshots it takes.

    Raises
    ------
    GraphError
        If an output depends on an input that is not listed, an input is not used, two ops have one
        name, or the outputs come at different rates.
    StateError
        If an op's ``initial_state`` has an unknown name or another shape.
    """

    inputs: dict[str, Value]
    outputs: dict[str, Value]
    feedback: dict[Value, Value] = field(default_factory=dict)
    known_as: dict[str, str] = field(default_factory=dict)
    nodes: tuple[Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise GraphError("a model needs at least one input and one output")
        values = self._behind_the_outputs()
        given = {id(v) for v in self.inputs.values()}
        if len(given) != len(self.inputs):
            raise GraphError("the same value is listed twice among the model's inputs")
        for value in values:
            if value.op is None and id(value) not in given:
                raise GraphError(
                    f"an output depends on an Input of shape {value.shape} that is not among "
                    f"the model's inputs"
                )
        for name, value in self.inputs.items():
            if value.op is not None:
                raise GraphError(f"input {name!r} is the output of {value.op}, not an Input")
            if not any(value is v for v in values):
                raise GraphError(f"input {name!r} of shape {value.shape} is used by no output")
        clocks = {value.clock for value in self.outputs.values()}
        if len(clocks) > 1:
            raise GraphError(
                f"all outputs of a model must come at one rate, got {', '.join(map(str, clocks))}"
            )
        for name, value in self.outputs.items():
            if value.dtype != "float32":
                raise GraphError(f"output {name!r} holds indices; outputs must be float32")
        both = sorted(self.inputs.keys() & self.outputs.keys())
        if both:
            raise GraphError(f"{both[0]!r} names an input and an output; give one another name")
        made = [v for v in values if v.op is not None]
        object.__setattr__(self, "nodes", _named(made, set(self.inputs)))
        own = (node.full(name) for node in self.nodes for name in node.op.parameter_shapes())
        names = Counter((*own, *(name for node in self.nodes for name in node.states())))
        for name, times in names.items():
            if times > 1:
                raise GraphError(
                    f"{times} states or weights are named {name!r}; give a layer another name"
                )
        for node in self.nodes:
            node.check_initial_state()
        self._check_feedback(made)

    def _behind_the_outputs(self) -> list[Value]:
        """Return every value that the outputs depend on, also by way of the frame before."""
        feedback = dict(self.feedback)
        while True:
            values = list(_in_order([*self.outputs.values(), *feedback.values()]))
            more = {v: v.next for v in values if v.next is not None and v not in feedback}
            if not more:
                object.__setattr__(self, "feedback", feedback)
                return values
            feedback |= more

    def _check_feedback(self, made: Sequence[Value]) -> None:
        pasts = {id(v): v for v in made if v.op is not None and v.op.takes_feedback}
        for past, new in self.feedback.items():
            if pasts.pop(id(past), None) is None:
                raise GraphError(f"feedback: {past.op!r} is no Past that the outputs depend on")
            if (past.shape, past.clock, past.dtype) != (new.shape, new.clock, new.dtype):
                raise GraphError(
                    f"feedback: {past.op!r} cannot take a {new.dtype} value of shape {new.shape}, "
                    f"{new.clock}"
                )
        for value in pasts.values():
            raise GraphError(f"{value.op!r} takes no value: say which in the model's `feedback`")

    @property
    def clock(self) -> Clock:
        """When the outputs are there."""
        return next(iter(self.outputs.values())).clock

    def delay_frames(self) -> int:
        """Return the look-ahead of the outputs: frames of the model's input before the first."""
        return self.clock.start

    def receptive_field_frames(self) -> int | None:
        """Return how many input frames, up to the one with which it comes, an output depends on.

        None: on all.
        """
        field: dict[int, float] = {id(v): 1 for v in self.inputs.values()}
        for node in self.nodes:
            frames = node.op.receptive_field(*(arg.shape for arg in node.args))
            own = math.inf if frames is None else (frames - 1) * node.read_clock.stride
            field[id(node.value)] = own + max((field[id(arg)] for arg in node.args), default=1)
        longest = max(field[id(v)] for v in self.outputs.values())
        return None if longest == math.inf else int(longest)

    def states(self) -> dict[str, Shape]:
        """Return every state by its name (``lstm_0.h``), with its shape."""
        return {name: shape for node in self.nodes for name, shape in node.states().items()}

    def parameters(self) -> dict[str, tuple[Op, str]]:
        """Return every weight by its name in the model, as (op, its name in the op)."""
        return {
            f"{node.name}.{name}": (node.op, name)
            for node in self.nodes
            for name in node.op.parameter_shapes()
        }


def _named(values: Sequence[Value], taken: set[str]) -> tuple[Node, ...]:
    """Name each op: as it was named, else by its kind and a number (``lstm_0``)."""
    ops = [v.op for v in values if v.op is not None]
    shared: dict[int, int] = {}
    nodes = []
    explicit = {op.name for op in ops if op.name}
    numbers: dict[str, Iterator[int]] = {}
    for value, op in zip(values, ops, strict=True):
        if op.name:
            use = shared[id(op)] = shared.get(id(op), 0) + 1
            name = op.name if use == 1 else f"{op.name}_call{use}"
            if name in taken:
                raise GraphError(f"two layers or inputs are named {name!r}; give one another name")
        else:
            count = numbers.setdefault(op.prefix, itertools.count())
            candidates = (f"{op.prefix}_{i}" for i in count)
            name = next(n for n in candidates if n not in taken and n not in explicit)
        taken.add(name)
        nodes.append(Node(name, value))
    return tuple(nodes)


def shown(shapes: Sequence[Shape]) -> str:
    """Return shapes as text: ``(3,) and (4, 5)``."""
    return " and ".join(map(str, shapes))


def describe(value: Any) -> str:
    """Return a short description of anything a user may pass where an array belongs."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{dtype} {tuple(shape)}"
