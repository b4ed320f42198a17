"""Recurrent operators: RNN, GRU and LSTM with all that their specification has.

A node's sequence is one of three things:

- frames that come one after another (``Timed``): the node keeps its state from frame to frame;
- a single frame: it keeps its state from call to call, or takes it from outside, where the graph
  does;
- several frames inside each call: they are run one after another within it, in both directions if
  the node says so, and every call begins at the same state.

A node with nothing unusual is a cell of ours. Any other is spelled out, gate by gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ....graph import Value
from ....layer import Layer
from ....ops import activations as act
from ....ops.arithmetic import Scale
from ....ops.cell import Cell, reorder
from ....ops.compare import Less
from ....ops.concat import concat
from ....ops.gru import GRUCell
from ....ops.linear import Linear
from ....ops.lstm import LSTMCell
from ....ops.rearrange import Slice, Transpose
from ....ops.rnn import RNNCell
from ..node import (
    Array,
    Known,
    Tensor,
    Timed,
    Unsupported,
    integers,
    known,
    operator,
    over_time,
    reshaped,
    symbol,
    with_weights,
)
from ..time import settled, state_of_graph

MAX_FRAMES_A_CALL = 256
"""Most frames of one call that are run one after another."""


# Activation functions ---------------------------------------------------------------------------

_Make = Callable[[float, float], "Layer | Callable[[Value], Value]"]


def _scaled_tanh(alpha: float, beta: float) -> Callable[[Value], Value]:
    return lambda x: act.Tanh()(x * beta) * alpha


def _thresholded(alpha: float) -> Callable[[Value], Value]:
    return lambda x: x * Less()(symbol(np.full(x.shape, alpha, np.float32), x), x)


ACTIVATIONS: dict[str, tuple[int, float | None, float | None, _Make]] = {
    "affine": (2, None, None, lambda alpha, beta: Scale(alpha, beta)),
    "elu": (1, 1.0, 0.0, lambda alpha, beta: act.ELU(alpha)),
    "hardsigmoid": (2, 0.2, 0.5, lambda alpha, beta: act.Hardsigmoid(alpha, beta)),
    "leakyrelu": (1, 0.01, 0.0, lambda alpha, beta: act.LeakyReLU(alpha)),
    "relu": (0, 0.0, 0.0, lambda alpha, beta: act.ReLU()),
    "scaledtanh": (2, None, None, _scaled_tanh),
    "sigmoid": (0, 0.0, 0.0, lambda alpha, beta: act.Sigmoid()),
    "softplus": (0, 0.0, 0.0, lambda alpha, beta: act.Softplus()),
    "softsign": (0, 0.0, 0.0, lambda alpha, beta: act.Softsign()),
    "thresholdedrelu": (1, None, 0.0, lambda alpha, beta: _thresholded(alpha)),
    "tanh": (0, 0.0, 0.0, lambda alpha, beta: act.Tanh()),
}
"""By the name in lower case: how many of alpha and beta it takes, their defaults, our op.

None: the specification names no default that all agree on (onnxruntime takes 0).
"""


def _activations(a: Known, usual: Sequence[str], directions: int) -> tuple[list[list[Any]], bool]:
    """Return the activation functions of each direction, and whether they are the usual ones."""
    given = a.get("activations", None) or list(usual) * directions
    names = [(g.decode() if isinstance(g, bytes) else g).lower() for g in given]
    if len(names) != len(usual) * directions:
        raise Unsupported(
            f"activations {names}: expected {len(usual)} for each of {directions} directions"
        )
    alphas, betas = iter(a.get("activation_alpha", ())), iter(a.get("activation_beta", ()))
    made = []
    for name in names:
        if name not in ACTIVATIONS:
            raise Unsupported(f"activation {name!r} is not supported, only {sorted(ACTIVATIONS)}")
        takes, alpha, beta, make = ACTIVATIONS[name]
        alpha = next(alphas, alpha) if takes > 0 else alpha
        beta = next(betas, beta) if takes > 1 else beta
        if alpha is None or beta is None:
            raise Unsupported(
                f"activation {name!r} without its activation_alpha or activation_beta: runtimes "
                f"differ in what they are then"
            )
        made.append(make(alpha, beta))
    rows = [made[k : k + len(usual)] for k in range(0, len(made), len(usual))]
    return rows, names == [name.lower() for name in usual] * directions


# The node ---------------------------------------------------------------------------------------


@dataclass
class Direction:
    """One direction of a recurrent node: weights in ONNX's gate order, and how it computes."""

    kind: type[Cell]
    w: Array
    """Weights of the frame (gates * H, I)."""
    r: Array
    """Weights of the state (gates * H, H)."""
    bias_w: Array
    bias_r: Array
    activations: list[Any]
    usual: bool
    """Whether a cell of ours computes just this."""
    clip: float
    input_forget: bool
    reset_after: bool
    peepholes: Array | None
    """Weights (3, H) of the cell state in the gates i, o, f."""
    backwards: bool

    @property
    def H(self) -> int:  # noqa: N802
        """Hidden size."""
        return int(self.r.shape[1])

    @property
    def names(self) -> tuple[str, ...]:
        """The states' names."""
        return self.kind.states

    @cached_property
    def cell(self) -> Cell:
        """The direction as a cell of ours."""
        options: dict[str, Any] = {}
        if self.kind is GRUCell:
            options["reset_after"] = self.reset_after
        if self.kind is RNNCell:
            options["nonlinearity"] = (
                "relu" if isinstance(self.activations[0], act.ReLU) else "tanh"
            )
        cell = self.kind(self.w.shape[1], self.H, **options)
        parts = {
            "weight_ih": self.w,
            "weight_hh": self.r,
            "bias_ih": self.bias_w,
            "bias_hh": self.bias_r,
        }
        order = self.kind.layouts["onnx"]
        cell.weights = {name: reorder(a, order, self.kind.gates) for name, a in parts.items()}
        return cell

    def step(self, x: Value, states: Sequence[Value]) -> list[Value]:
        """Return the states (B, H) after a frame x (B, I)."""
        if self.usual and x.shape[0] == 1:
            flat = [reshaped(v, v.shape[1:]) for v in (x, *states)]
            both = self.cell(*flat)
            H = self.H
            parts = [both[k * H : (k + 1) * H] for k in range(len(states))]
            return [reshaped(part, (1, H)) for part in parts]
        return self.spelled_out(x, states)

    def spelled_out(self, x: Value, states: Sequence[Value]) -> list[Value]:
        """Return the states after a frame, gate by gate (operators RNN, GRU and LSTM of ONNX)."""
        of_x, h, H = self.of_x(x), states[0], self.H

        def gate(z: Value, k: int) -> Value:
            return Slice(k * H, (k + 1) * H, 1)(z)

        if self.kind is RNNCell:
            (f,) = self.activations
            return [f(self.clipped(of_x + self.of_h(h)))]
        if self.kind is GRUCell:
            f, g = self.activations
            of_h = self.of_h(h)
            z = f(self.clipped(gate(of_x, 0) + gate(of_h, 0)))
            r = f(self.clipped(gate(of_x, 1) + gate(of_h, 1)))
            share = r * gate(of_h, 2) if self.reset_after else self.of_reset(r * h)
            n = g(self.clipped(gate(of_x, 2) + share))
            return [n + z * (h - n)]
        f, g, last = self.activations
        both, c = of_x + self.of_h(h), states[1]
        i = f(self.clipped(self.seeing(gate(both, 0), c, 0)))
        coupled = self.input_forget
        forget = 1.0 - i if coupled else f(self.clipped(self.seeing(gate(both, 2), c, 2)))
        new_c = forget * c + i * g(self.clipped(gate(both, 3)))
        o = f(self.clipped(self.seeing(gate(both, 1), new_c, 1)))
        return [o * last(new_c), new_c]

    def clipped(self, z: Value) -> Value:
        """Return what an activation function reads."""
        return act.Hardtanh(-self.clip, self.clip)(z) if self.clip else z

    def seeing(self, z: Value, c: Value, k: int) -> Value:
        """Return the sum of gate k with the cell state that it sees through its peephole."""
        if self.peepholes is None or not self.peepholes[k].any():
            return z
        return z + c * symbol(np.broadcast_to(self.peepholes[k], c.shape), c)

    @cached_property
    def of_x(self) -> Layer:
        """The frame's share of the gates."""
        return _linear(self.w, self.bias_w)

    @cached_property
    def of_h(self) -> Layer:
        """The state's share of the gates."""
        return _linear(self.r, self.bias_r)

    @cached_property
    def of_reset(self) -> Layer:
        """The share of the state that a GRU has reset before the product."""
        return _linear(self.r[2 * self.H :], self.bias_r[2 * self.H :])


def _linear(weight: Array, bias: Array) -> Layer:
    return with_weights(Linear(weight.shape[1], weight.shape[0]), weight=weight, bias=bias)


DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


@dataclass
class Recurrence:
    """A recurrent node, and one frame or all frames of its sequence as (T, B, I)."""

    a: Known
    directions: list[Direction]
    layout: int
    lengths: list[int] | None
    states: list[Tensor]
    """Initial states (directions, B, H), None for zeros."""

    @property
    def D(self) -> int:  # noqa: N802
        """Directions."""
        return len(self.directions)

    @property
    def backwards_within(self) -> bool:
        """Whether a single frame may be run backwards: all states come from outside."""
        backwards = any(d.backwards for d in self.directions)
        return backwards and all(isinstance(s, Value) for s in self.states)

    def begin(self, k: int, d: int, B: int) -> Tensor:
        """Return state k (B, H) that direction d begins with: an array or a value."""
        first, shape = self.states[k], (self.D, B, self.directions[d].H)
        if first is None:
            return np.zeros(shape[1:], np.float32)
        if first.shape != shape:
            raise Unsupported(f"an initial state of shape {first.shape}, expected {shape}")
        if isinstance(first, Value):
            return reshaped(Slice(d, d + 1, 0)(first), shape[1:])
        return np.asarray(first[d], np.float32)

    def kept(self, x: Value, over_time: bool) -> list[Value | None]:
        """Return Y (1, 1, B, H) and the states (1, B, H) after a frame x (1, B, I).

        The node keeps its state, unless it comes from outside. `over_time` says whether x is one
        frame of a sequence, rather than a sequence of one frame.
        """
        B, node = x.shape[1], self.directions[0]
        if self.D > 1 or node.backwards:
            raise Unsupported(
                "the backward direction begins at the last frame, which in a stream has not come; "
                "only direction='forward' can be streamed"
            )
        if self.lengths is not None and set(self.lengths) != {1}:
            raise Unsupported(f"sequence_lens {self.lengths}, while frames come one after another")
        frame = reshaped(x, x.shape[1:])
        begins = [self.begin(k, 0, B) for k in range(len(node.names))]
        outside = any(isinstance(s, Value) for s in begins)
        own = over_time or not outside
        hidden_only = len(node.names) == 1 or not any(self.a.wanted[2:])
        if node.usual and B == 1 and not outside and hidden_only:
            node.cell.initial_state = {
                name: s.reshape(-1) for name, s in zip(node.names, begins, strict=True) if s.any()
            }
            h = node.cell(reshaped(frame, frame.shape[1:]))
            last = reshaped(h, (1, 1, node.H))
            return [reshaped(h, (1, 1, 1, node.H)), last, *[None] * (len(node.names) - 1)]
        states = [
            s if isinstance(s, Value) else self.a.state(name, s, frame) if own else symbol(s, frame)
            for name, s in zip(node.names, begins, strict=True)
        ]
        new = node.step(frame, states)
        for begin, state, after in zip(begins, states, new, strict=True):
            if own and begin is not state:
                self.a.keep(state, after)
        return [
            reshaped(new[0], (1, 1, B, node.H)),
            *(reshaped(s, (1, B, node.H)) for s in new),
        ]

    def whole(self, x: Value) -> list[Value | None]:
        """Return Y (T, D, B, H) and the last states (D, B, H) of a sequence x (T, B, I)."""
        T, B = x.shape[:2]
        if T > MAX_FRAMES_A_CALL:
            raise Unsupported(
                f"{T} frames in every call: to run them one after another as a stream, say that "
                f"this axis is time, with None for it in `shapes`; within a call at most "
                f"{MAX_FRAMES_A_CALL} are run"
            )
        lengths = [T] * B if self.lengths is None else self.lengths
        if len(lengths) != B or not all(0 <= n <= T for n in lengths):
            raise Unsupported(f"sequence_lens {lengths} for {B} sequences of {T} frames")
        outputs, lasts = [], []
        for d, node in enumerate(self.directions):
            begins = [self.begin(k, d, B) for k in range(len(node.names))]
            states = [symbol(s, x) for s in begins]
            made: dict[int, Value] = {}
            for t in range(T - 1, -1, -1) if node.backwards else range(T):
                new = node.step(reshaped(Slice(t, t + 1, 0)(x), x.shape[1:]), states)
                made[t], states = _where_long_enough(new, states, lengths, t)
            steps = [reshaped(made[t], (1, 1, B, node.H)) for t in range(T)]
            outputs.append(concat(*steps, axis=0))
            lasts.append([reshaped(s, (1, B, node.H)) for s in states])
        joined = [concat(*parts, axis=0) for parts in zip(*lasts, strict=True)]
        return [concat(*outputs, axis=1), *joined]

    def laid_out(self, made: Sequence[Value | None]) -> list[Value | None]:
        """Return outputs in the node's own layout."""
        if not self.layout:
            return list(made)
        y, *states = made
        assert y is not None
        turned = [None if s is None else Transpose((1, 0, 2))(s) for s in states]
        return [Transpose((2, 0, 1, 3))(y), *turned]


def _where_long_enough(
    new: list[Value], old: list[Value], lengths: Sequence[int], t: int
) -> tuple[Value, list[Value]]:
    """Return output and states after frame t; a sequence that is over keeps its state."""
    there = np.array([[t < n] for n in lengths], np.float32)
    if there.all():
        return new[0], new
    if not there.any():
        return new[0] * 0.0, old
    on = symbol(np.broadcast_to(there, new[0].shape), new[0])
    return new[0] * on, [o + on * (n - o) for o, n in zip(old, new, strict=True)]


def _node(
    a: Known,
    kind: type[Cell],
    usual: Sequence[str],
    x: Value,
    weights: Sequence[Tensor],
    lengths: Tensor,
    states: Sequence[Tensor],
    peepholes: Tensor = None,
) -> Recurrence:
    """Return a node as its attributes and weights describe it."""
    name = a.get("direction", "forward")
    if name not in DIRECTIONS:
        raise Unsupported(f"attribute direction={name!r} is not supported")
    ways, layout = DIRECTIONS[name], a.get("layout", 0)
    w, r = known(weights[0], "W"), known(weights[1], "R")
    if len(x.shape) != 3 or r.ndim != 3:
        raise Unsupported(f"shapes {x.shape} of the input and {r.shape} of R, expected 3 axes")
    D, H, rows = len(ways), r.shape[2], len(kind.gates) * r.shape[2]
    b = np.zeros((D, 2 * rows), np.float32) if weights[2] is None else known(weights[2], "B")
    p = None if peepholes is None else known(peepholes, "P")
    wanted = {"W": (D, rows, x.shape[2]), "R": (D, rows, H), "B": (D, 2 * rows), "P": (D, 3 * H)}
    for (what, shape), array in zip(wanted.items(), (w, r, b, p), strict=True):
        if array is not None and array.shape != shape:
            raise Unsupported(f"{what} has shape {array.shape}, expected {shape}")
    a.only("hidden_size", H)
    activations, plain = _activations(a, usual, D)
    clip, forget = a.get("clip", 0.0), bool(a.get("input_forget", 0)) if kind is LSTMCell else False
    after = bool(a.get("linear_before_reset", 0)) if kind is GRUCell else False
    if layout not in (0, 1):
        raise Unsupported(f"attribute layout={layout} is not supported, only 0 and 1")
    if clip < 0:
        raise Unsupported(f"attribute clip={clip} is negative")
    plain = plain or (kind is RNNCell and all(isinstance(f[0], act.ReLU) for f in activations))
    peeps = p is not None and bool(p.any())
    found = [
        Direction(
            kind=kind,
            w=w[d],
            r=r[d],
            bias_w=b[d, :rows],
            bias_r=b[d, rows:],
            activations=activations[d],
            usual=plain and not clip and not forget and not peeps,
            clip=float(clip),
            input_forget=forget,
            reset_after=after,
            peepholes=np.reshape(p[d], (3, H)) if p is not None and peeps else None,
            backwards=backwards,
        )
        for d, backwards in enumerate(ways)
    ]
    given = [_state(s, layout) for s in states]
    return Recurrence(a, found, layout, _lengths(lengths), given)


def _lengths(lengths: Tensor) -> list[int] | None:
    return None if lengths is None else integers(lengths, "sequence_lens")


def _state(state: Tensor, layout: int) -> Tensor:
    """Return an initial state as (D, B, H)."""
    if isinstance(state, Timed):
        raise Unsupported("an initial state that changes with every frame")
    if state is None or not layout:
        return state
    turned = Transpose((1, 0, 2))
    return turned(state) if isinstance(state, Value) else np.swapaxes(np.asarray(state), 0, 1)


def _handler(kind: type[Cell], usual: Sequence[str]) -> Callable[..., Tensor]:
    count = len(kind.states)

    def handler(
        a: Known,
        n: int,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor = None,
        lengths: Tensor = None,
        *rest: Tensor,
    ) -> Tensor:
        states = [*rest, *[None] * count][:count]
        x = settled(x) if isinstance(x, Timed) else symbol(x)
        frame = x.value if isinstance(x, Timed) else x
        if isinstance(x, Timed):
            states = [state_of_graph(s) if isinstance(s, (Value, Timed)) else s for s in states]
            fixed = {x.length} if lengths is None else set(integers(lengths, "sequence_lens"))
            if fixed != {x.length}:
                raise Unsupported(
                    f"sequence_lens {sorted(fixed)} of a sequence that goes on (time has the "
                    f"length {x.length} here)"
                )
            lengths = None
        node = _node(a, kind, usual, frame, (w, r, b), lengths, states, *rest[count:])
        if node.layout:
            frame = Transpose((1, 0, 2))(frame)
        if not isinstance(x, Timed):
            within = frame.shape[0] > 1 or node.backwards_within
            made = node.whole(frame) if within else node.kept(frame, over_time=False)
            return tuple(node.laid_out(made))
        if x.axis != node.layout:
            raise Unsupported(
                f"its sequence lies along axis {node.layout}, but time is axis {x.axis}: the "
                f"frames of each call would be needed at once"
            )
        y, *last = node.laid_out(node.kept(frame, over_time=True))
        assert y is not None
        return (
            Timed(y, x.axis, x.length),
            *(None if s is None else Timed(s, None, x.length) for s in last),
        )

    return handler


for _name, _kind, _usual in (
    ("RNN", RNNCell, ("Tanh",)),
    ("GRU", GRUCell, ("Sigmoid", "Tanh")),
    ("LSTM", LSTMCell, ("Sigmoid", "Tanh", "Tanh")),
):
    operator(_name)(_handler(_kind, _usual))
    over_time(_name)(_handler(_kind, _usual))
