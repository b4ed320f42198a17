"""What each ONNX operator means in our ops, for tensors of fixed shape with one stream.

A handler gets the node's attributes, the number of its outputs, and its inputs: NumPy arrays where
they are known, symbolic values where they depend on the frame, None where they are left out. It
returns one value, or a tuple of them. What it cannot honour it refuses with ``Unsupported``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph import Value
from ..layer import Layer
from ..ops import activations as act
from ..ops.arithmetic import Scale, arithmetic
from ..ops.cell import Cell, reorder
from ..ops.concat import concat
from ..ops.constant import Constant
from ..ops.embedding import Embedding
from ..ops.frame_conv1d import FrameConv1d
from ..ops.gru import GRUCell
from ..ops.linear import Linear
from ..ops.lstm import LSTMCell
from ..ops.norm import BatchNorm1d, LayerNorm
from ..ops.op import Op
from ..ops.rearrange import Expand, Pad, Reshape, Slice, Take, Transpose
from ..ops.reduce import Max, Mean, Min, Sum
from ..ops.rnn import RNNCell

__all__ = ["OPERATORS", "Known", "Tensor", "Unsupported"]

Array = npt.NDArray[Any]
Tensor = Any
"""A NumPy array (known) or a Value (depends on the frame)."""


class Unsupported(Exception):  # noqa: N818 (it is a reason, which becomes a FileError)
    """Why a node cannot be read."""


class Known:
    """A node's attributes; whoever asks for one has honoured it."""

    def __init__(self, attributes: dict[str, Any], opset: int, sequence: bool = False) -> None:
        self._left = attributes
        self.opset = opset
        self.sequence = sequence
        """Whether the graph runs over sequences, of which this is a single frame."""

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute, or what the operator's specification has in its place."""
        value = self._left.pop(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse a value other than these (the first is the default)."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise Unsupported(f"attribute {name}={value!r} is not supported, only {allowed[0]!r}")

    def all_used(self) -> None:
        """Refuse what nobody asked for."""
        if self._left:
            raise Unsupported(f"attribute {', '.join(sorted(self._left))} is not supported")


def symbol(tensor: Tensor) -> Value:
    """Return a tensor as a value; a known one becomes a constant."""
    if isinstance(tensor, Value):
        return tensor
    array = np.asarray(tensor)
    if array.dtype.kind != "f":
        raise Unsupported(f"a constant of {array.dtype} cannot be mixed with float32 values")
    op = Constant(array.shape)
    op.weights = {"value": array}
    return op()


def known(tensor: Tensor, what: str) -> Array:
    """Return a tensor that has to be fixed."""
    if isinstance(tensor, Value) or tensor is None:
        raise Unsupported(f"{what} must be constant")
    return np.asarray(tensor)


def integers(tensor: Tensor, what: str) -> list[int]:
    """Return a fixed tensor as a list of integers."""
    return [int(i) for i in known(tensor, what).reshape(-1)]


def with_weights(op: Op, **weights: Array) -> Op:
    """Give an op its weights."""
    op.weights = weights
    return op


def reshaped(value: Value, shape: tuple[int, ...]) -> Value:
    """Return the same numbers in another shape."""
    return value if value.shape == shape else Reshape(shape)(value)


def _axis(axis: int, value: Value) -> int:
    if not -len(value.shape) <= axis < max(len(value.shape), 1):
        raise Unsupported(f"shape {value.shape} has no axis {axis}")
    return axis % max(len(value.shape), 1)


# Element by element -----------------------------------------------------------------------------


def _unary(make: Callable[[Known], Layer]) -> Callable[..., Tensor]:
    return lambda a, n, x: make(a)(symbol(x))


def _binary(name: str) -> Callable[..., Tensor]:
    def handler(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
        if not isinstance(x, Value) and np.size(x) == 1 and np.ndim(x) <= len(y.shape):
            return arithmetic(name, y, float(np.reshape(x, -1)[0]), swap=True)
        if not isinstance(y, Value) and np.size(y) == 1 and np.ndim(y) <= len(x.shape):
            return arithmetic(name, x, float(np.reshape(y, -1)[0]))
        return arithmetic(name, symbol(x), symbol(y))

    return handler


def _divide(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
    if isinstance(x, Value):
        return _binary("Div")(a, n, x, y)
    return arithmetic("Div", symbol(x), y)


def _power(a: Known, n: int, x: Tensor, exponent: Tensor) -> Tensor:
    powers = set(known(exponent, "the exponent").reshape(-1).tolist())
    if powers == {2}:
        return act.Square()(symbol(x))
    if powers == {0.5}:
        return act.Sqrt()(symbol(x))
    raise Unsupported(f"only the powers 2 and 0.5 are supported, got {sorted(powers)}")


def _clip(a: Known, n: int, x: Tensor, low: Tensor = None, high: Tensor = None) -> Tensor:
    largest = float(np.finfo(np.float32).max)
    low = a.get("min", None) if low is None else known(low, "the bound").item()
    high = a.get("max", None) if high is None else known(high, "the bound").item()
    low, high = -largest if low is None else float(low), largest if high is None else float(high)
    return act.Hardtanh(max(low, -largest), min(high, largest))(symbol(x))


def _cast(a: Known, n: int, x: Tensor) -> Tensor:
    a.only("to", 1)
    a.get("saturate", 1)
    return x


def _identity(a: Known, n: int, x: Tensor, *ignored: Tensor) -> Tensor:
    a.get("ratio", 0.5)
    a.get("seed", 0)
    if n > 1:
        raise Unsupported("a mask as second output is not supported")
    if len(ignored) > 1 and ignored[1] is not None and known(ignored[1], "training_mode").any():
        raise Unsupported("training_mode is not supported")
    return x


def _prelu(a: Known, n: int, x: Value, slope: Tensor) -> Tensor:
    slopes = known(slope, "the slope")
    if slopes.size == 1:
        return with_weights(act.PReLU(1), weight=slopes.reshape(1))(x)
    below = x - act.ReLU()(x)
    return act.ReLU()(x) + _binary("Mul")(a, n, below, slopes)


def _selu(a: Known, n: int, x: Tensor) -> Tensor:
    alpha = a.get("alpha", act.SELU_ALPHA)
    return act.ELU(alpha)(symbol(x)) * a.get("gamma", act.SELU_SCALE)


# Moving numbers ---------------------------------------------------------------------------------


def _reshape(a: Known, n: int, x: Value, shape: Tensor) -> Tensor:
    a.only("allowzero", 0)
    dims = integers(shape, "the shape")
    dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    if dims.count(-1) == 1:
        dims[dims.index(-1)] = x.size // max(-math.prod(dims), 1)
    return reshaped(x, tuple(dims))


def _flatten(a: Known, n: int, x: Value) -> Tensor:
    axis = a.get("axis", 1)
    axis = axis if axis == len(x.shape) else _axis(axis, x)
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
    chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
    if chosen is None:
        chosen = [i for i, d in enumerate(x.shape) if d == 1]
    gone = {_axis(i, x) for i in chosen}
    if any(x.shape[i] != 1 for i in gone):
        raise Unsupported(f"shape {x.shape} cannot be squeezed on axes {sorted(gone)}")
    return reshaped(x, tuple(d for i, d in enumerate(x.shape) if i not in gone))


def _unsqueeze(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
    chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
    rank = len(x.shape) + len(chosen)
    new = {i % rank for i in chosen if -rank <= i < rank}
    if len(new) < len(chosen):
        raise Unsupported(f"shape {x.shape} cannot be unsqueezed on axes {chosen}")
    rest = iter(x.shape)
    return reshaped(x, tuple(1 if i in new else next(rest) for i in range(rank)))


def _transpose(a: Known, n: int, x: Value) -> Tensor:
    return Transpose(tuple(a.get("perm", range(len(x.shape))[::-1])))(x)


def _slice(
    a: Known,
    n: int,
    x: Value,
    starts: Tensor = None,
    ends: Tensor = None,
    axes: Tensor = None,
    steps: Tensor = None,
) -> Tensor:
    first = a.get("starts", None) if starts is None else integers(starts, "the starts")
    last = a.get("ends", None) if ends is None else integers(ends, "the ends")
    along = a.get("axes", None) if axes is None else integers(axes, "the axes")
    along = range(len(first)) if along is None else along
    by = [1] * len(first) if steps is None else integers(steps, "the steps")
    for begin, end, axis, step in zip(first, last, along, by, strict=True):
        positions = range(x.shape[_axis(axis, x)])[begin:end:step]
        if not positions:
            raise Unsupported(f"nothing of shape {x.shape} is left")
        if step == 1:
            x = Slice(positions[0], positions[-1] + 1, axis)(x)
        else:
            x = Take(tuple(positions), axis)(x)
    return x


def _split(a: Known, n: int, x: Value, sizes: Tensor = None) -> Tensor:
    axis = _axis(a.get("axis", 0), x)
    a.get("num_outputs", n)
    parts = a.get("split", None) if sizes is None else integers(sizes, "the sizes")
    if parts is None:
        each = -(-x.shape[axis] // n)
        parts = [min(each, x.shape[axis] - i * each) for i in range(n)]
    edges = np.cumsum([0, *parts]).tolist()
    if len(parts) != n or edges[-1] != x.shape[axis]:
        raise Unsupported(f"an axis of {x.shape[axis]} cannot be split into {parts}")
    return tuple(Slice(b, e, axis)(x) for b, e in itertools.pairwise(edges))


def _gather(a: Known, n: int, x: Tensor, indices: Tensor) -> Tensor:
    if isinstance(indices, Value) and not isinstance(x, Value):
        return _embedding(a, np.asarray(x), indices)
    where = known(indices, "the indices")
    x = symbol(x)
    axis = _axis(a.get("axis", 0), x)
    taken = Take(tuple(int(i) for i in where.reshape(-1)), axis)(x)
    return reshaped(taken, (*x.shape[:axis], *where.shape, *x.shape[axis + 1 :]))


def _embedding(a: Known, table: Array, indices: Value) -> Tensor:
    a.only("axis", 0)
    if indices.dtype != "int64" or table.ndim != 2:
        raise Unsupported("only rows of a matrix by indices that go in can be looked up")
    return with_weights(Embedding(*table.shape), weight=table)(indices)


def _concat(a: Known, n: int, *xs: Tensor) -> Tensor:
    values = [symbol(x) for x in xs]
    return concat(*values, axis=_axis(a.get("axis", 0), values[0]))


def _expand(a: Known, n: int, x: Value, shape: Tensor) -> Tensor:
    return Expand(np.broadcast_shapes(x.shape, tuple(integers(shape, "the shape"))))(x)


def _pad(
    a: Known, n: int, x: Value, pads: Tensor = None, value: Tensor = None, axes: Tensor = None
) -> Tensor:
    mode = a.get("mode", "constant")
    amounts = a.get("pads", None) if pads is None else integers(pads, "the pads")
    fill = a.get("value", 0.0) if value is None else known(value, "the value").item()
    if fill != 0 or axes is not None or mode not in ("constant", "reflect", "edge"):
        raise Unsupported("only padding with zeros, 'reflect' and 'edge' on all axes is supported")
    rank = len(x.shape)
    if not rank or len(amounts) != 2 * rank:
        raise Unsupported(f"pads {amounts} do not fit a frame of shape {x.shape}")
    before, after = amounts[:rank], amounts[rank:]
    if any(before[:-1]) or any(after[:-1]):
        raise Unsupported(f"only the last axis can be padded, got {amounts}")
    return Pad(before[-1], after[-1], "replicate" if mode == "edge" else mode)(x)


# Sums over an axis ------------------------------------------------------------------------------


def _reduce(kind: type[Mean | Sum | Max | Min]) -> Callable[..., Tensor]:
    def handler(a: Known, n: int, x: Value, axes: Tensor = None) -> Tensor:
        chosen = a.get("axes", None) if axes is None else integers(axes, "the axes")
        keep, nothing = a.get("keepdims", 1), a.get("noop_with_empty_axes", 0)
        if not chosen and nothing:
            return x
        gone = {_axis(i, x) for i in chosen} if chosen else set(range(len(x.shape)))
        y = x
        for axis in gone:
            y = kind(axis, keepdims=True)(y)
        return y if keep else reshaped(y, tuple(d for i, d in enumerate(x.shape) if i not in gone))

    return handler


def _softmax(kind: type[act.Softmax]) -> Callable[..., Tensor]:
    def handler(a: Known, n: int, x: Value) -> Tensor:
        axis = _axis(a.get("axis", -1 if a.opset >= 13 else 1), x)
        if a.opset < 13 and math.prod(x.shape[axis + 1 :]) != 1:
            raise Unsupported("over several axes at once (before opset 13) it is not supported")
        return kind(axis)(x)

    return handler


# Weights ----------------------------------------------------------------------------------------


def _matmul(a: Known, n: int, x: Tensor, w: Tensor) -> Tensor:
    weight = known(w, "the right factor")
    x = symbol(x)
    if weight.ndim != 2:
        raise Unsupported(f"the right factor must be a matrix, got shape {weight.shape}")
    op = Linear(weight.shape[0], weight.shape[1], bias=False)
    return with_weights(op, weight=weight.T)(x)


def _gemm(a: Known, n: int, x: Tensor, w: Tensor, bias: Tensor = None) -> Tensor:
    a.only("transA", 0)
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    weight = alpha * known(w, "the weight")
    weight = weight if a.get("transB", 0) else weight.T
    x = symbol(x)
    added = np.zeros(len(weight)) if bias is None else beta * known(bias, "the bias")
    if added.size != 1 and added.shape not in ((len(weight),), (1, len(weight))):
        raise Unsupported(f"a bias of shape {added.shape} is not supported")
    op = Linear(weight.shape[1], weight.shape[0])
    full = np.broadcast_to(added.reshape(-1), len(weight))
    return with_weights(op, weight=weight, bias=full)(x)


def _conv(a: Known, n: int, x: Value, w: Tensor, bias: Tensor = None) -> Tensor:
    weight = known(w, "the weight")
    if weight.ndim != 3 or len(x.shape) != 3 or x.shape[0] != 1:
        raise Unsupported(f"only 1-D convolutions of one stream are supported, got {x.shape}")
    a.only("auto_pad", "NOTSET", "VALID")
    a.only("kernel_shape", list(weight.shape[2:]))
    before, after = a.get("pads", [0, 0])
    (stride,), (dilation,) = a.get("strides", [1]), a.get("dilations", [1])
    groups = a.get("group", 1)
    frame = reshaped(x, x.shape[1:])
    if before != after or before > dilation * (weight.shape[2] - 1):
        frame, before = Pad(before, after)(frame), 0
    op = FrameConv1d(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2],
        stride,
        before,
        dilation,
        groups,
        bias is not None,
    )
    weights = {"weight": weight} | ({} if bias is None else {"bias": known(bias, "the bias")})
    y = with_weights(op, **weights)(frame)
    return reshaped(y, (1, *y.shape))


def _batch_norm(
    a: Known, n: int, x: Value, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    a.only("training_mode", 0)
    a.get("momentum", 0.9)
    a.only("spatial", 1)
    arrays = [known(t, "the weights") for t in (scale, bias, mean, var)]
    names = ("weight", "bias", "running_mean", "running_var")
    if len(x.shape) < 2 or x.shape[0] != 1:
        raise Unsupported(f"only one stream is supported, got {x.shape}")
    op = BatchNorm1d(len(arrays[0]), a.get("epsilon", 1e-5))
    y = with_weights(op, **dict(zip(names, arrays, strict=True)))(reshaped(x, x.shape[1:]))
    return reshaped(y, x.shape)


def _layer_norm(a: Known, n: int, x: Value, scale: Tensor, bias: Tensor = None) -> Tensor:
    shape = x.shape[_axis(a.get("axis", -1), x) :]
    a.only("stash_type", 1)
    if n > 1:
        raise Unsupported("mean and deviation as outputs are not supported")
    weight = np.broadcast_to(known(scale, "the scale"), shape)
    added = np.zeros(shape) if bias is None else np.broadcast_to(known(bias, "the bias"), shape)
    op = LayerNorm(shape, a.get("epsilon", 1e-5))
    return with_weights(op, weight=weight, bias=added)(x)


# Recurrent operators: one step -------------------------------------


@dataclass
class _Recurrence:
    """A recurrent node: its weights in our order, and where its state comes from."""

    cell: Cell
    x: Value
    states: dict[str, Tensor]

    @property
    def H(self) -> int:  # noqa: N802
        """Hidden size."""
        return self.cell.hidden_size

    @property
    def forgets(self) -> bool:
        """Whether every call begins at the same state: the node runs over a whole sequence."""
        return not any(isinstance(state, Value) for state in self.states.values())

    def streamed(self) -> Value:
        """Return the cell with a state of its own, which it keeps from frame to frame."""
        known_states = {n: np.reshape(s, -1) for n, s in self.states.items() if s is not None}
        self.cell.initial_state = {n: s for n, s in known_states.items() if np.any(s)}
        return self.cell(self.x)

    def state(self, name: str) -> Value:
        """Return a state that comes in."""
        if not isinstance(self.states[name], Value):
            raise Unsupported(f"only one of the states comes from outside, initial_{name} is fixed")
        return reshaped(self.states[name], (self.H,))

    def shares(self) -> tuple[Value, Op]:
        """Return the frame's share of the gates, and the op that makes the state's."""
        w = self.cell.full_weights()
        rows = len(self.cell.gates) * self.H
        of_frame = with_weights(
            Linear(self.cell.input_size, rows), weight=w["weight_ih"], bias=w["bias_ih"]
        )
        of_state = with_weights(Linear(self.H, rows), weight=w["weight_hh"], bias=w["bias_hh"])
        return of_frame(self.x), of_state

    def outputs(self, *states: Value | None) -> Tensor:
        """Return Y, Y_h, … of the node."""
        first = states[0]
        assert first is not None  # every cell has an h
        y = reshaped(first, (1, 1, 1, self.H))
        return y, *(None if s is None else reshaped(s, (1, 1, self.H)) for s in states)


def _recurrence(
    a: Known,
    kind: type[Cell],
    x: Value,
    weights: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor,
    states: dict[str, Tensor],
    **options: Any,
) -> _Recurrence:
    """Check what all recurrent operators share, and return the node as a cell of ours."""
    a.only("direction", "forward")
    a.only("layout", 0)
    a.only("clip", 0.0)
    w, r = known(weights[0], "W"), known(weights[1], "R")
    hidden, gates = r.shape[-1], len(kind.gates)
    rows = gates * hidden
    wanted = {"W": (1, rows, x.shape[-1]), "R": (1, rows, hidden), "B": (1, 2 * rows)}
    for (name, shape), array in zip(wanted.items(), weights, strict=True):
        if array is not None and np.shape(known(array, name)) != shape:
            raise Unsupported(f"{name} has shape {np.shape(array)}, expected {shape}")
    a.only("hidden_size", hidden)
    if lengths is not None and integers(lengths, "sequence_lens") != [x.shape[0]]:
        raise Unsupported("sequence_lens is not supported")
    if len(x.shape) != 3 or x.shape[:2] != (1, 1):
        raise Unsupported(f"only one frame of one stream per call is supported, got {x.shape}")
    both = np.zeros(2 * gates * hidden) if weights[2] is None else known(weights[2], "B")[0]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parts = (w[0], r[0], *np.split(both, 2))
    cell = kind(w.shape[2], hidden, **options)
    cell.weights = {
        name: reorder(part, kind.layouts["onnx"], kind.gates)
        for name, part in zip(names, parts, strict=True)
    }
    found = _Recurrence(cell, reshaped(x, x.shape[2:]), states)
    if found.forgets and not a.sequence:
        raise Unsupported(
            "its state is the same at every call, so it forgets; a graph over whole sequences "
            "has an open time axis, or is exported with the states as inputs and outputs"
        )
    return found


def _activations(a: Known, *allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of the allowed activations the node has; the first are the default."""
    given = [g.decode() if isinstance(g, bytes) else g for g in a.get("activations", allowed[0])]
    for name in ("activation_alpha", "activation_beta"):
        if a.get(name, []):
            raise Unsupported(f"attribute {name} is not supported")
    for names in allowed:
        if [g.lower() for g in given] == [name.lower() for name in names]:
            return names
    raise Unsupported(f"activations {given} are not supported, only {list(allowed[0])}")


def _lstm(
    a: Known,
    n: int,
    x: Value,
    w: Tensor,
    r: Tensor,
    b: Tensor = None,
    lengths: Tensor = None,
    h: Tensor = None,
    c: Tensor = None,
    peepholes: Tensor = None,
) -> Tensor:
    _activations(a, ("Sigmoid", "Tanh", "Tanh"))
    a.only("input_forget", 0)
    if peepholes is not None and np.any(known(peepholes, "P")):
        raise Unsupported("peepholes are not supported")
    node = _recurrence(a, LSTMCell, x, (w, r, b), lengths, {"h": h, "c": c})
    if node.forgets:
        return node.outputs(node.streamed(), None)
    of_x, of_state = node.shares()
    z, H = of_x + of_state(node.state("h")), node.H
    i, f, g, o = (z[k * H : (k + 1) * H] for k in range(4))
    sigmoid, tanh = act.Sigmoid(), act.Tanh()
    new_c = sigmoid(f) * node.state("c") + sigmoid(i) * tanh(g)
    return node.outputs(sigmoid(o) * tanh(new_c), new_c)


def _gru(
    a: Known,
    n: int,
    x: Value,
    w: Tensor,
    r: Tensor,
    b: Tensor = None,
    lengths: Tensor = None,
    h: Tensor = None,
) -> Tensor:
    _activations(a, ("Sigmoid", "Tanh"))
    after = bool(a.get("linear_before_reset", 0))
    node = _recurrence(a, GRUCell, x, (w, r, b), lengths, {"h": h}, reset_after=after)
    if node.forgets:
        return node.outputs(node.streamed())
    of_x, of_state = node.shares()
    before, H = node.state("h"), node.H
    weight, bias = of_state.weights["weight"], of_state.weights["bias"]
    two = with_weights(Linear(H, 2 * H), weight=weight[: 2 * H], bias=bias[: 2 * H])(before)
    third = with_weights(Linear(H, H), weight=weight[2 * H :], bias=bias[2 * H :])
    reset, update = (
        act.Sigmoid()(of_x[k * H : (k + 1) * H] + two[k * H : (k + 1) * H]) for k in (0, 1)
    )
    of_h = reset * third(before) if after else third(reset * before)
    candidate = act.Tanh()(of_x[2 * H :] + of_h)
    return node.outputs(candidate + update * (before - candidate))


def _rnn(
    a: Known,
    n: int,
    x: Value,
    w: Tensor,
    r: Tensor,
    b: Tensor = None,
    lengths: Tensor = None,
    h: Tensor = None,
) -> Tensor:
    (chosen,) = _activations(a, ("Tanh",), ("Relu",))
    node = _recurrence(a, RNNCell, x, (w, r, b), lengths, {"h": h}, nonlinearity=chosen.lower())
    if node.forgets:
        return node.outputs(node.streamed())
    of_x, of_state = node.shares()
    z = of_x + of_state(node.state("h"))
    return node.outputs(act.Tanh()(z) if chosen == "Tanh" else act.ReLU()(z))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Abs": _unary(lambda a: act.Abs()),
    "Add": _binary("Add"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _divide,
    "Dropout": _identity,
    "Elu": _unary(lambda a: act.ELU(a.get("alpha", 1.0))),
    "Erf": _unary(lambda a: act.Erf()),
    "Exp": _unary(lambda a: act.Exp()),
    "Expand": _expand,
    "Flatten": _flatten,
    "GRU": _gru,
    "Gather": _gather,
    "Gemm": _gemm,
    "HardSigmoid": _unary(lambda a: act.Hardsigmoid(a.get("alpha", 0.2), a.get("beta", 0.5))),
    "HardSwish": _unary(lambda a: act.Hardswish()),
    "Identity": _identity,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _unary(lambda a: act.LeakyReLU(a.get("alpha", 0.01))),
    "Log": _unary(lambda a: act.Log()),
    "LogSoftmax": _softmax(act.LogSoftmax),
    "MatMul": _matmul,
    "Mul": _binary("Mul"),
    "Neg": _unary(lambda a: Scale(-1.0)),
    "Pad": _pad,
    "PRelu": _prelu,
    "Pow": _power,
    "RNN": _rnn,
    "ReduceMax": _reduce(Max),
    "ReduceMean": _reduce(Mean),
    "ReduceMin": _reduce(Min),
    "ReduceSum": _reduce(Sum),
    "Relu": _unary(lambda a: act.ReLU()),
    "Reshape": _reshape,
    "Selu": _selu,
    "Sigmoid": _unary(lambda a: act.Sigmoid()),
    "Slice": _slice,
    "Softmax": _softmax(act.Softmax),
    "Softplus": _unary(lambda a: act.Softplus()),
    "Softsign": _unary(lambda a: act.Softsign()),
    "Split": _split,
    "Sqrt": _unary(lambda a: act.Sqrt()),
    "Squeeze": _squeeze,
    "Sub": _binary("Sub"),
    "Tanh": _unary(lambda a: act.Tanh()),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What is supported, by the operator's name."""
