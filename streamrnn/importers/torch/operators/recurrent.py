"""Recurrent layers and cells of torch's, in terms of ONNX's; LSTM with projection spelled out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....graph import Value
from ....ops.activations import Sigmoid, Tanh
from ....ops.cell import reorder
from ....ops.rearrange import Slice
from ...onnx.node import Tensor, Timed, Unsupported, reshaped
from ...onnx.operators.linear import weighed
from ...onnx.time import settled, state_of_graph
from ..table import aten

if TYPE_CHECKING:
    from ..walk import Walk

__all__: list[str] = []

KINDS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "rnn_tanh": ("RNN", "n", "n", {}),
    "rnn_relu": ("RNN", "n", "n", {"activations": ["Relu"]}),
    "gru": ("GRU", "rzn", "zrn", {"linear_before_reset": 1}),
    "lstm": ("LSTM", "ifgo", "iofg", {}),
}
"""ONNX's operator, the gates in torch's order and in ONNX's, and its attributes."""


def _node(
    f: Walk,
    name: str,
    x: Tensor,
    weights: Sequence[Any],
    states: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Return what ONNX's operator makes of x (T, B, I): Y (T, B, H) and the states (1, B, H)."""
    kind, gates, order, attributes = KINDS[name]
    w_ih, w_hh, *biases = (reorder(w.numpy(), gates, order) for w in weights if w is not None)
    bias = np.concatenate(biases)[None] if biases else None
    y, *last = f(
        kind,
        x,
        w_ih[None],
        w_hh[None],
        bias,
        None,
        *states,
        n=len(wanted),
        wanted=wanted,
        hidden_size=w_hh.shape[1],
        **attributes,
    )
    return [f("Squeeze", y, np.array([1])), *last]


def _layer_state(f: Walk, state: Tensor, k: int) -> Tensor:
    """Return layer k's part of a state (layers, B, H), with its axes."""
    if not isinstance(state, (Value, Timed)):
        return state[k : k + 1]
    if state.shape[0] == 1:
        return state
    return f("Slice", state, np.array([k]), np.array([k + 1]), np.array([0]))


def _layers(
    f: Walk,
    name: str,
    x: Tensor,
    states: Sequence[Tensor],
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Return output and last states of a stack over a sequence."""
    if bidirectional:
        raise Unsupported(
            "bidirectional=True: the backward direction begins at the last frame, which in a "
            "stream has not come; train it with bidirectional=False"
        )
    if isinstance(x, Timed) and x.axis == (0 if batch_first else 1):
        raise Unsupported(
            f"time is axis {x.axis} of its input, which batch_first={batch_first} makes the batch: "
            f"say time_axis={1 - x.axis}, or change batch_first"
        )
    if not isinstance(x, Timed) and not all(isinstance(s, Value) for s in states):
        raise Unsupported(
            "it begins with fixed states at every call: give an axis of time (time_axis=…), or "
            "let forward take the states and return the new ones"
        )
    each = len(params) // num_layers
    wanted = [f.uses(k) for k in range(1 + len(states))]
    make = projected_lstm if each == (5 if has_biases else 3) else _node
    y = f("Transpose", x, perm=[1, 0, 2]) if batch_first else x
    lasts = []
    for k in range(num_layers):
        weights = params[k * each : (k + 1) * each]
        begins = [_layer_state(f, s, k) for s in states]
        y, *last = make(f, name, y, weights, begins, wanted)
        lasts.append([s if w else None for s, w in zip(last, wanted[1:], strict=True)])
    joined = [
        None if None in parts else f("Concat", *parts, axis=0) if num_layers > 1 else parts[0]
        for parts in zip(*lasts, strict=True)
    ]
    return (f("Transpose", y, perm=[1, 0, 2]) if batch_first else y, *joined)


def _stack(name: str) -> Callable[..., Any]:
    def meaning(
        f: Walk,
        x: Tensor,
        hx: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        states = hx if isinstance(hx, list) else [hx]
        shape = (has_biases, num_layers, bidirectional, batch_first)
        return _layers(f, name, x, states, params, *shape)

    return meaning


def _cell(name: str) -> Callable[..., Any]:
    def meaning(
        f: Walk, x: Tensor, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
    ) -> Any:
        states = hx if isinstance(hx, list) else [hx]
        if not all(isinstance(s, Value) for s in states):
            raise Unsupported(
                "it begins with fixed states at every call: let forward take the states and return "
                "the new ones"
            )
        begins = [f("Unsqueeze", s, np.array([0])) for s in states]
        weights = (w_ih, w_hh, b_ih, b_hh)
        wanted = (True,) * (1 + len(states))
        _, *last = _node(f, name, f("Unsqueeze", x, np.array([0])), weights, begins, wanted)
        flat = [f("Squeeze", s, np.array([0])) for s in last]
        return flat if len(flat) > 1 else flat[0]

    return meaning


for _name in KINDS:
    aten(_name)(_stack(_name))
    aten(f"{_name}_cell")(_cell(_name))


def projected_lstm(
    f: Walk,
    name: str,
    x: Tensor,
    weights: Sequence[Any],
    states: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Return Y (T, B, P) and the states of an LSTM whose output is W_hr (o * tanh(c))."""
    w_ih, w_hh, *biases, w_hr = (w.numpy() for w in weights)
    H = w_hr.shape[1]
    bias = biases[0] + biases[1] if biases else None
    timed = settled(x) if isinstance(x, Timed) else x
    frame = timed.value if isinstance(timed, Timed) else timed
    B = frame.shape[1]
    z = weighed(reshaped(frame, frame.shape[1:]), w_ih, bias)
    own = not any(isinstance(s, (Value, Timed)) for s in states)
    a = f.keeps() if own else None
    kept = [
        a.state(letter, s.numpy()[0], frame) if a else state_of_graph(s)
        for letter, s in zip("hc", states, strict=True)
    ]
    befores = [reshaped(s, (B, s.size // B)) for s in kept]
    z = z + weighed(befores[0], w_hh)
    i, forget, g, o = (Slice(k * H, (k + 1) * H, 1)(z) for k in range(4))
    c = Sigmoid()(forget) * befores[1] + Sigmoid()(i) * Tanh()(g)
    h = weighed(Sigmoid()(o) * Tanh()(c), w_hr)
    for state, new in zip(kept, (h, c), strict=True):
        if a:
            a.keep(state, new)
    y, *last = (reshaped(v, (1, *v.shape)) for v in (h, h, c))
    if not isinstance(timed, Timed):
        return [y, *last]
    return [Timed(y, 0, timed.length), *(Timed(v, None, timed.length) for v in last)]
