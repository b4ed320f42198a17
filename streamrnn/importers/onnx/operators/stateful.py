"""Operators that take their state in and hand it out: causal convolution, linear attention.

Where the past comes in from outside, so does the state. Where it is left out or constant and a call
is one frame, the node keeps a state of its own. Where a call has more frames, they are spelled out
one after another, and every call begins at the same past.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ....graph import MAX_FRAME, Shape, Value
from ....ops.activations import Exp, SiLU
from ....ops.concat import concat
from ....ops.context import Context
from ....ops.conv1d import Conv1d
from ....ops.frame_conv1d import FrameConv1d
from ....ops.rearrange import Slice, Take, Transpose
from ....ops.reduce import Sum
from ..node import (
    Array,
    Known,
    Tensor,
    Timed,
    Unsupported,
    known,
    operator,
    over_time,
    reshaped,
    symbol,
    with_weights,
)
from ..time import aligned, frame_of_constant, settled, whole_sequence

MAX_SPELLED_OUT = 512
"""Most frames of a call that are spelled out one after another."""
FRAME_COUNTS = 1 << 14
"""For how many numbers a frame that is spelled out counts."""


def initial(past: Tensor, shape: Shape) -> Array:
    """Return a fixed past, or zeros where it is left out."""
    if math.prod(shape) > MAX_FRAME:
        raise Unsupported(f"a state of shape {shape} holds more than {MAX_FRAME} numbers")
    array = np.zeros(shape) if past is None else known(past, "past_state")
    if array.shape != shape:
        raise Unsupported(f"past_state has shape {array.shape}, expected {shape}")
    return array.astype(np.float32)


# Causal convolution -----------------------------------------------------------------------------


@operator("CausalConvWithState", "com.microsoft.CausalConvWithState")
def causal_conv(
    a: Known, n: int, x: Value, weight: Tensor, bias: Tensor = None, past: Tensor = None
) -> Tensor:
    """Every channel of (B, C, L) by itself: a depthwise convolution over B * C channels."""
    w = known(weight, "the weight")
    added = None if bias is None else known(bias, "the bias")
    if len(x.shape) != 3 or w.ndim != 3 or w.shape[:2] != (x.shape[1], 1):
        raise Unsupported(f"a weight of shape {w.shape} for an input of shape {x.shape}")
    for name in _ELSEWHERE:
        a.only(name, *_ELSEWHERE[name])
    activation, dilation = a.get("activation", "none"), a.get("dilation", 1)
    if activation not in ("none", "silu", "swish"):
        raise Unsupported(f"attribute activation={activation!r} is not supported")
    if dilation < 1 or not w.size:
        raise Unsupported(f"a weight of shape {w.shape} with dilation={dilation}")
    B, C, L = x.shape
    memory = dilation * (w.shape[2] - 1)
    if added is not None and added.shape != (C,):
        raise Unsupported(f"a bias of shape {added.shape}, expected {(C,)}")
    a.reserve(B * w.size)
    w, added = np.tile(w, (B, 1, 1)), None if added is None else np.tile(added, B)
    present: Tensor
    if memory and L == 1 and not isinstance(past, Value):
        y, present = _with_its_own_past(x, w, added, dilation, initial(past, (B, C, memory)))
    else:
        window, present = x, np.zeros((B, C, 0), np.float32)
        if memory:
            begin = past if isinstance(past, Value) else symbol(initial(past, (B, C, memory)), x)
            if begin.shape != (B, C, memory):
                raise Unsupported(f"past_state has shape {begin.shape}, expected {(B, C, memory)}")
            window = concat(begin, x, axis=2)
            present = Slice(L, L + memory, 2)(window)
        y = _slid(reshaped(window, (B * C, memory + L)), w, added, dilation)
    y = reshaped(y, x.shape)
    return y if activation == "none" else SiLU()(y), present


def _with_its_own_past(
    x: Value, w: Array, bias: Array | None, dilation: int, past: Array
) -> tuple[Value, Value]:
    """Return the convolution of one frame with those before it, and the past afterwards."""
    B, C, memory = past.shape
    frame, before = reshaped(x, (B * C,)), past.transpose(2, 0, 1)
    op = Conv1d(B * C, B * C, w.shape[2], 1, dilation, B * C, bias is not None)
    conv = with_weights(op, weight=w, **({} if bias is None else {"bias": bias}))
    context = Context(before.size)
    if before.any():
        conv.initial_state = {"past": before.reshape(memory, B * C)}
        context.initial_state = {"past": before.reshape(-1)}
    present = reshaped(context(frame)[B * C :], (memory, B, C))
    return conv(frame), Transpose((1, 2, 0))(present)


def _slid(window: Value, w: Array, bias: Array | None, dilation: int) -> Value:
    """Return the convolution of a window (channels, positions) with one filter a channel."""
    channels, positions = window.shape
    span = dilation * (w.shape[2] - 1) + 1
    if positions == span:  # a single output: products, summed
        taps = window if dilation == 1 else Take(tuple(range(0, span, dilation)), 1)(window)
        y = Sum(1, keepdims=True)(taps * symbol(w[:, 0], window))
        return y if bias is None else y + symbol(bias[:, None], window)
    op = FrameConv1d(channels, channels, w.shape[2], 1, 0, dilation, channels, bias is not None)
    return with_weights(op, weight=w, **({} if bias is None else {"bias": bias}))(window)


_ELSEWHERE = {
    "ndim": (1,),
    "channels_last": (0,),
    "state_window": (0,),
    "state_length": (0,),
    "state_channels_last": (-1, 0),
    "state_update_capacity": (0,),
    "input_channels": (0,),
    "input_channel_offset": (0,),
}
"""Attributes that onnxruntime's operator has beside, with what they may be."""


@over_time("CausalConvWithState", "com.microsoft.CausalConvWithState")
def causal_conv_frames(a: Known, n: int, x: Tensor, *rest: Tensor) -> Tensor:
    if not isinstance(x, Timed):
        raise Unsupported("weights or a past that come one after another")
    if x.axis != 2:
        raise whole_sequence(x)
    y, present = causal_conv(a, n, settled(x).value, *rest)
    last = Timed(present, None, x.length) if isinstance(present, Value) else present
    return Timed(y, 2, x.length), last


# Linear attention -------------------------------------------------------------------------------

RULES = ("gated_delta", "linear", "gated", "delta")


@dataclass
class _Attention:
    """A node ``LinearAttention``: its sizes and its rule."""

    B: int
    """Streams."""
    H: int
    """Heads of keys and values, each with a state (K, V)."""
    G: int
    """Heads of queries that share one of keys and values."""
    K: int
    V: int
    scale: float
    rule: str

    @property
    def shape(self) -> Shape:
        """Shape of the state."""
        return self.B, self.H, self.K, self.V

    def step(
        self, state: Value, q: Value, k: Value, v: Value, decay: Value | None, beta: Value | None
    ) -> tuple[Value, Value]:
        """Return one frame of the output and the state after it."""
        B, H, G, K, V = self.B, self.H, self.G, self.K, self.V
        k, v = reshaped(k, (B, H, K, 1)), reshaped(v, (B, H, 1, V))
        if decay is not None:
            state = state * reshaped(Exp()(decay), (B, H, decay.size // (B * H), 1))
        if beta is not None:
            found = Sum(2, keepdims=True)(state * k)
            v = (v - found) * reshaped(beta, (B, beta.size // B, 1, 1))
        state = state + k * v
        read = reshaped(q * self.scale, (B, H, G, K, 1)) * reshaped(state, (B, H, 1, K, V))
        return reshaped(Sum(3)(read), (B, 1, H * G * V)), state


def _attention(a: Known, q: Tensor, k: Tensor, v: Tensor) -> _Attention:
    """Return the node's sizes, checked."""
    a.only("state_window", 0)
    a.get("chunk_size", 64)
    rule = a.get("update_rule", "gated_delta")
    if rule not in RULES:
        raise Unsupported(f"attribute update_rule={rule!r} is not supported, only {list(RULES)}")
    queries, H = a.get("q_num_heads", 0), a.get("kv_num_heads", 0)
    shapes = [x.shape for x in (q, k, v)]
    if H < 1 or queries < 1 or queries % H:
        raise Unsupported(f"{queries} heads of queries for {H} of keys and values")
    widths = [shape[-1] for shape in shapes]
    K, V = widths[1] // H, widths[2] // H
    fit = widths == [queries * K, H * K, H * V] and len({shape[:-1] for shape in shapes}) == 1
    if not fit or any(len(shape) != 3 for shape in shapes) or not K * V:
        raise Unsupported(f"query, key and value of shapes {shapes} with {queries} and {H} heads")
    scale = a.get("scale", 0.0) or 1 / math.sqrt(K)
    return _Attention(shapes[0][0], H, queries // H, K, V, scale, rule)


def _optional(
    node: _Attention, name: str, rules: str, x: Tensor, T: int, widths: tuple[int, ...]
) -> None:
    """Refuse a decay or beta that the rule does not have, or that it lacks, or of another shape."""
    if (x is not None) != (rules in node.rule):
        there = "is not there" if x is None else "has no meaning"
        raise Unsupported(f"with update_rule={node.rule!r} the input {name} {there}")
    if x is not None and x.shape not in [(node.B, T, width) for width in widths]:
        raise Unsupported(f"{name} of shape {x.shape}, expected ({node.B}, {T}, one of {widths})")


@operator("LinearAttention", "com.microsoft.LinearAttention")
def linear_attention(
    a: Known,
    n: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: Tensor = None,
    decay: Tensor = None,
    beta: Tensor = None,
) -> Tensor:
    node = _attention(a, q, k, v)
    T = q.shape[1]
    _optional(node, "decay", "gated", decay, T, (node.H, node.H * node.K))
    _optional(node, "beta", "delta", beta, T, (node.H, 1))
    if T > MAX_SPELLED_OUT:
        raise Unsupported(
            f"{T} frames in one call, of which at most {MAX_SPELLED_OUT} can be spelled out: let "
            f"them come one by one, with None for their axis in `shapes`"
        )
    a.reserve(T * FRAME_COUNTS if T > 1 else 0)
    like = next(x for x in (q, k, v, decay, beta, past) if isinstance(x, Value))
    given = {"q": q, "k": k, "v": v, "decay": decay, "beta": beta}
    given = {name: None if x is None else symbol(x, like) for name, x in given.items()}
    own = T == 1 and not isinstance(past, Value)
    if isinstance(past, Value):
        state = past
    elif own:
        state = a.state("state", initial(past, node.shape), like)
    else:
        state = symbol(initial(past, node.shape), like)
    if state.shape != node.shape:
        raise Unsupported(f"past_state has shape {state.shape}, expected {node.shape}")
    before, frames = state, []
    for t in range(T):
        row = Slice(t, t + 1, 1)
        parts = {name: x if x is None or T == 1 else row(x) for name, x in given.items()}
        y, state = node.step(state, **parts)
        frames.append(y)
    if own:
        a.keep(before, state)
    return concat(*frames, axis=1) if T > 1 else frames[0], state


@over_time("LinearAttention", "com.microsoft.LinearAttention")
def linear_attention_frames(a: Known, n: int, *inputs: Tensor) -> Tensor:
    q, k, v, past, decay, beta = (*inputs, None, None, None)[:6]
    rows = (q, k, v, decay, beta)
    timed = [settled(x) for x in rows if isinstance(x, Timed)]
    if isinstance(past, Timed) or any(x.axis != 1 for x in timed):
        raise Unsupported(f"frames run along axis {[x.axis for x in timed]}, expected 1")
    length = timed[0].length
    if any(x.length != length for x in timed):
        raise Unsupported(f"sequences of different lengths meet: {[x.shape for x in timed]}")
    values = iter(aligned([x.value for x in timed]))
    q, k, v, decay, beta = (
        next(values) if isinstance(x, Timed) else frame_of_constant(x, -2, length) for x in rows
    )
    y, state = linear_attention(a, n, q, k, v, past, decay, beta)
    return Timed(y, 1, length), Timed(state, None, length)
