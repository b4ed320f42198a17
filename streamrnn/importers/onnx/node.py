"""What the operators' files share: how a node is handed to them, and their table.

A handler gets the node's attributes, the number of its outputs, and its inputs: NumPy arrays where
they are known, symbolic values where they depend on the frame, None where they are left out. It
returns one value, or a tuple of them. What it cannot honour it refuses with ``Unsupported``::

    @operator("Softsign", mixes=nothing)
    def softsign(a: Known, n: int, x: Value) -> Tensor:
        return act.Softsign()(x)

Handlers see tensors of fixed shape with all their axes. In a graph over sequences a tensor with a
time axis is a ``Timed``; a handler is then given one frame of it, with 1 on that axis. `mixes` says
which axes an operator's results mix, so that it can be refused where time is among them; an
operator that has a meaning *across* time says it in a second handler, ``@over_time``, which gets
the ``Timed`` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Shape, Value
from ...ops.constant import Constant
from ...ops.op import Op
from ...ops.past import Past
from ...ops.rearrange import Reshape

__all__ = [
    "OPERATORS",
    "OVER_TIME",
    "TIME",
    "Iteration",
    "Known",
    "Operator",
    "Tensor",
    "Timed",
    "Unsupported",
    "axis_of",
    "counted",
    "integers",
    "known",
    "nothing",
    "operator",
    "over_time",
    "reshaped",
    "symbol",
    "with_weights",
]

Array = npt.NDArray[Any]
Tensor = Any
"""A NumPy array (known), a Value (depends on the frame) or a Timed (a sequence of frames)."""

TIME = 10007
"""Length that a graph over sequences is read for: a prime, so that a shape shows where time is."""


class Unsupported(Exception):  # noqa: N818 (it is a reason, which becomes a FileError)
    """Why a node cannot be read."""


@dataclass(frozen=True, eq=False)
class Timed:
    """A sequence of frames along one axis of a tensor.

    Parameters
    ----------
    value : Value
        One frame, of size 1 on the time axis; its clock says when each entry comes.
    axis : int or None
        The time axis. None: there is no time axis, but the tensor follows from the whole sequence
        (the last state); here it is what follows from the sequence so far.
    length : int
        Entries on the axis where the model's input has ``TIME``.
    front : int
        Frames of zeros before the first one of `value`, counted in `length`: a convolution takes
        them for padding, for other operators they are made part of the value (``settled``).
    """

    value: Value
    axis: int | None
    length: int
    front: int = 0

    @property
    def shape(self) -> Shape:
        """The shape that the graph sees."""
        shape = list(self.value.shape)
        if self.axis is not None:
            shape[self.axis] = self.length
        return tuple(shape)

    @property
    def size(self) -> int:
        """Numbers in all frames."""
        return self.value.size * (1 if self.axis is None else self.length)


@dataclass(frozen=True, eq=False)
class Iteration:
    """The number of an iteration of a loop over the frames of a sequence: which frame it is.

    Parameters
    ----------
    like : Value
        A frame of the sequence: when the iteration is run.
    length : int
        Frames in the sequence.
    offset : int64
        What has been added to the number, in the shape that it has got.
    """

    like: Value
    length: int
    offset: Array

    def at(self, later: int) -> Array:
        """Return the number in the middle of the sequence, or so many iterations later."""
        return np.asarray(self.offset + (self.length // 2 + later))

    def like_it(self, now: Array, then: Array) -> Tensor:
        """Return what has been computed of the number in two iterations, one after another."""
        if np.array_equal(now, then):
            return now
        if now.dtype.kind != "i" or now.shape != then.shape or (then - now != 1).any():
            raise counted()
        return Iteration(self.like, self.length, now - self.length // 2)


def counted() -> Unsupported:
    """Return the refusal of the number of an iteration where it does more than choose a frame."""
    return Unsupported(
        "it computes with the number of an iteration of a loop over a sequence: that number may "
        "only choose the frame of the iteration"
    )


class Known:
    """A node's attributes; whoever asks for one has honoured it.

    Parameters
    ----------
    attributes : dict of str to object
        By name; subgraphs as ``onnx.GraphProto``.
    opset : int
        Version of the operator set that the node belongs to.
    name : str
        A name for what the node makes: states of its own are called after it.
    feedback, run, reserve, kinds
        See the attributes.
    """

    def __init__(
        self,
        attributes: dict[str, Any],
        opset: int,
        name: str = "",
        feedback: dict[Value, Value] | None = None,
        run: Callable[[Any, dict[str, Tensor]], list[Tensor]] | None = None,
        reserve: Callable[[int], None] = lambda numbers: None,
        kinds: Sequence[str] = ("float",),
    ) -> None:
        self._left = attributes
        self.opset = opset
        self.name = name
        self.feedback = {} if feedback is None else feedback
        """What each ``Past`` that a node makes takes in the end of a frame."""
        self.run = run
        """Runs a subgraph of the node, given its inputs by name; returns its outputs."""
        self.reserve = reserve
        """Counts numbers that the node is about to make of few; refuses too many."""
        self.kinds = kinds
        """Of each input: ``float``, ``int`` or ``bool``; all travel as float32 numbers."""

        self.wanted: tuple[bool, ...] = ()
        """Which of the node's outputs are read by anything."""
        self.reads: Callable[[Any], list[Tensor]] = lambda graph: []
        """Returns the tensors of the graph around it that a subgraph of the node reads."""

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute, or what the operator's specification has in its place."""
        value = self.peek(name, default)
        self._left.pop(name, None)
        return value

    def peek(self, name: str, default: Any) -> Any:
        """Return an attribute as `get` does, without saying that it has been honoured."""
        value = self._left.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def again(self) -> Known:
        """Return the same attributes for another operator of which the node is made."""
        return Known(dict(self._left), self.opset, self.name, self.feedback, self.run)

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse a value other than these (the first is the default)."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise Unsupported(f"attribute {name}={value!r} is not supported, only {allowed[0]!r}")

    def state(self, name: str, initial: Array, like: Value | None = None) -> Value:
        """Return a state of the node's own, called ``node.name``; `keep` says what it becomes.

        Parameters
        ----------
        name : str
            ``h``, ``c``, …
        initial : float32 [shape=state's shape]
            What it is before the first frame.
        like : Value, optional
            A value at whose rate the state changes.
        """
        array = np.asarray(initial, np.float32)
        past = Past(array.shape, name=f"{self.name}.{name}")
        if array.any():
            past.initial_state = {"": array}
        return past() if like is None else past(like)

    def keep(self, state: Value, new: Value) -> None:
        """Say which value a state takes in the end of each frame."""
        self.feedback[state] = new

    def all_used(self) -> None:
        """Refuse what nobody asked for."""
        if self._left:
            raise Unsupported(f"attribute {', '.join(sorted(self._left))} is not supported")


Handler = Callable[..., Tensor]
Mixes = Callable[..., Iterable[int]]


@dataclass(frozen=True)
class Operator:
    """What is known of an operator, see :func:`operator`."""

    handler: Handler
    mixes: Mixes | None = None
    weights: bool = False


OPERATORS: dict[str, Operator] = {}
"""What is supported, by the operator's name (with its domain before it, unless it is ONNX's)."""

OVER_TIME: dict[str, Handler] = {}
"""Handlers of operators that have a meaning of their own across time."""


def operator(
    *names: str, mixes: Mixes | None = None, weights: bool = False
) -> Callable[[Handler], Handler]:
    """Register the handler of one or more operators.

    Parameters
    ----------
    *names : str
        The operator's name; ``"com.microsoft.DynamicQuantizeLSTM"`` outside ONNX's own domain.
    mixes : callable, optional
        ``mixes(a, *args)`` returns the axes, counted from 0, of the first symbolic input whose
        entries the operator mixes or reorders (attributes are to be read with ``a.peek``). An
        operator with it keeps its axes: broadcast against each other from the right, as many in the
        result as in the largest input. Without it the operator is refused over time.
    weights : bool
        Whether the inputs after the first are weights, rather than broadcast against it.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            OPERATORS[name] = Operator(handler, mixes, weights)
        return handler

    return register


def over_time(*names: str) -> Callable[[Handler], Handler]:
    """Register what an operator means where one of its inputs is a ``Timed``."""

    def register(handler: Handler) -> Handler:
        for name in names:
            OVER_TIME[name] = handler
        return handler

    return register


def nothing(a: Known, *args: Tensor) -> tuple[int, ...]:
    """For operators that work element by element: no axis is mixed."""
    return ()


def symbol(tensor: Tensor, like: Value | None = None) -> Value:
    """Return a tensor as a value; a known one becomes a constant, at the rate of `like`."""
    if isinstance(tensor, Value):
        return tensor
    array = np.asarray(tensor)
    if array.dtype.kind not in "fiub":
        raise Unsupported(f"a constant of {array.dtype} cannot be mixed with float32 values")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if array.dtype.kind in "iu" and (single.astype(np.float64) != array).any():
        raise Unsupported(f"integers as large as {np.abs(array).max()} are not exact in float32")
    finite = np.isfinite(single)
    if finite.all():
        return _constant(single, like)
    above = np.where(finite, single, np.nan_to_num(np.sign(single)))  # weights are finite
    return _constant(above, like) / _constant(finite.astype(np.float32), like)


def _constant(array: Array, like: Value | None) -> Value:
    op = with_weights(Constant(array.shape), value=array)
    return op() if like is None else op(like)


def known(tensor: Tensor, what: str) -> Array:
    """Return a tensor that has to be fixed."""
    if isinstance(tensor, Iteration):
        raise counted()
    if isinstance(tensor, (Value, Timed)) or tensor is None:
        raise Unsupported(f"{what} must be constant")
    return np.asarray(tensor)


def integers(tensor: Tensor, what: str) -> list[int]:
    """Return a fixed tensor as a list of integers."""
    array = known(tensor, what)
    if array.dtype.kind not in "iu" and array.size:
        raise Unsupported(f"{what} must be integers, got {array.dtype}")
    return [int(i) for i in array.reshape(-1)]


def with_weights(op: Op, **weights: Array) -> Op:
    """Give an op its weights."""
    op.weights = weights
    return op


def reshaped(value: Value, shape: Shape) -> Value:
    """Return the same numbers in another shape."""
    while isinstance(value.op, Reshape):
        (value,) = value.args
    return value if value.shape == shape else Reshape(shape)(value)


def axis_of(axis: int, value: Value | Timed | Array) -> int:
    """Return an axis of a tensor counted from the front; refuse one that it does not have."""
    rank = len(value.shape)
    if not -rank <= axis < max(rank, 1):
        raise Unsupported(f"shape {value.shape} has no axis {axis}")
    return axis % max(rank, 1)
