"""Recurrent operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....graph import Value
from ....ops import activations as act
from ....ops.cell import Cell, reorder
from ....ops.gru import GRUCell
from ....ops.linear import Linear
from ....ops.lstm import LSTMCell
from ....ops.op import Op
from ....ops.rnn import RNNCell
from ..node import (
    Known,
    Tensor,
    Timed,
    Unsupported,
    integers,
    known,
    operator,
    over_time,
    reshaped,
    with_weights,
)
from ..time import settled


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
    return _Recurrence(cell, reshaped(x, x.shape[2:]), states)


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


@operator("LSTM")
def lstm(
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


@operator("GRU")
def gru(
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


@operator("RNN")
def rnn(
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


def _frames(handler: Any) -> Any:
    """Return a recurrent operator's handler for a sequence."""

    def frames(a: Known, n: int, x: Timed, *rest: Tensor) -> Tensor:
        if x.axis != 0:
            raise Unsupported(f"its sequence runs along axis {x.axis}, expected 0")
        given = [s.value if isinstance(s, Timed) else s for s in rest]
        y, *last = handler(a, n, settled(x).value, *given)
        after = (None if s is None else Timed(s, None, x.length) for s in last)
        return (Timed(y, 0, x.length), *after)

    return frames


for _name, _handler in {"LSTM": lstm, "GRU": gru, "RNN": rnn}.items():
    over_time(_name)(_frames(_handler))
