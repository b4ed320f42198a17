"""Quantised operators: numbers in bytes, and what is made of them.

Bytes travel as float32 values that hold whole numbers. Products of bytes are exact, with kernels of
bytes where the weights are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ....graph import Value
from ....ops.activations import Hardtanh, LeakyReLU, Sigmoid
from ....ops.arithmetic import Div, Scale
from ....ops.cell import reorder
from ....ops.concat import concat
from ....ops.dynamic_quantize import DynamicQuantize
from ....ops.int8_lstm import Int8LSTM
from ....ops.integer_linear import IntegerLinear
from ....ops.linear import Linear
from ....ops.lstm import LSTMCell
from ....ops.mathematics import Round
from ..node import (
    OPERATORS,
    OVER_TIME,
    Array,
    Handler,
    Known,
    Tensor,
    Timed,
    Unsupported,
    axis_of,
    known,
    nothing,
    operator,
    over_time,
    reshaped,
    symbol,
    with_weights,
)
from ..time import settled
from .recurrent import MAX_FRAMES_A_CALL

RANGES = {
    np.dtype(np.uint8): (0, 255),
    np.dtype(np.int8): (-128, 127),
    np.dtype(np.uint16): (0, 65535),
    np.dtype(np.int16): (-32768, 32767),
}
"""Kinds of quantised numbers, and what they hold."""

KINDS = {2: np.dtype(np.uint8), 3: np.dtype(np.int8), 4: np.dtype(np.uint16), 5: np.dtype(np.int16)}
"""The same by ONNX's number of a type."""


def whole_range(a: Known, n: int, x: Tensor, *args: Tensor) -> Tensor:
    """Refuse an operator over frames that takes a range from all of them."""
    raise Unsupported(
        "the range of its input is taken from all frames of a call, so that one frame after "
        "another is another function; to run it so, give the shape of one frame, with 1 for its "
        "time axis, in `shapes`"
    )


# One number after another -----------------------------------------------------------------------


@operator("DynamicQuantizeLinear")
def dynamic_quantize(a: Known, n: int, x: Value) -> Tensor:
    q, scale, zero = _in_its_range(x)
    return reshaped(q, x.shape), scale, zero


over_time("DynamicQuantizeLinear")(whole_range)


def _in_its_range(x: Value) -> tuple[Value, Value, Value]:
    """Return the bytes of a value, flat, their scale and their zero point."""
    both = DynamicQuantize()(x)
    return both[: x.size], reshaped(both[x.size :][:1], ()), reshaped(both[x.size + 1 :], ())


def _kind(dtype: Any) -> tuple[int, int]:
    kind = np.dtype(dtype)
    if kind not in RANGES:
        raise Unsupported(f"numbers of {kind} are not supported, only {list(map(str, RANGES))}")
    return RANGES[kind]


def _along(array: Array, axis: int, rank: int) -> Array:
    """Return numbers of one axis, or one for all, so that they broadcast against a tensor."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim != 1:
        raise Unsupported(f"scales of shape {array.shape}: blocks are not supported")
    return array.reshape(-1, *(1,) * (rank - 1 - axis))


def _broadcast(x: Value, array: Array) -> Value:
    return symbol(np.broadcast_to(np.asarray(array, np.float32), x.shape), x)


def rounded(x: Value, scale: Array, zero: Array, low: int, high: int) -> Value:
    """Return ``clip(round(x / scale) + zero, low, high)``."""
    whole = Round()(Div()(x, _broadcast(x, scale)))
    shifted = whole + _broadcast(x, zero) if zero.any() else whole
    return Hardtanh(float(low), float(high))(shifted)


def dequantized(q: Value, scale: Array, zero: Array) -> Value:
    """Return ``(q - zero) * scale``."""
    centred = q - _broadcast(q, zero) if zero.any() else q
    return Scale(float(scale))(centred) if scale.size == 1 else centred * _broadcast(q, scale)


def _levels(a: Known, x: Tensor, scale: Tensor, zero: Tensor, standard: Any) -> tuple[Array, Array]:
    """Return scale and zero point of a node, so that they broadcast against x."""
    a.only("block_size", 0)
    axis = a.get("axis", 1)
    s = known(scale, "the scale")
    z = np.zeros(s.shape, standard) if zero is None else known(zero, "the zero point")
    if s.dtype != np.float32 or s.size != z.size or not (s > 0).all():
        raise Unsupported(f"scales {s.dtype} {s.shape} with zero points {z.shape}")
    if s.size > 1 and 10 <= a.opset < 13:  # Microsoft's own have it in their version 1
        raise Unsupported("scales along an axis came with operator set 13")
    at = axis_of(axis, x) if s.size > 1 else 0
    return _along(s, at, len(x.shape)), _along(z, at, len(x.shape))


@operator("QuantizeLinear", "com.microsoft.QuantizeLinear", mixes=nothing, weights=True)
def quantize(a: Known, n: int, x: Value, scale: Tensor, zero: Tensor = None) -> Tensor:
    a.only("precision", 0)
    chosen = a.get("output_dtype", 0)
    if chosen and chosen not in KINDS:
        raise Unsupported(f"output_dtype={chosen} is not supported, only {list(KINDS)}")
    a.get("saturate", 1)
    kind = KINDS[chosen or 2] if zero is None else known(zero, "the zero point").dtype
    if chosen and kind != KINDS[chosen]:
        raise Unsupported(f"output_dtype={chosen} does not fit a zero point of {kind}")
    s, z = _levels(a, x, scale, zero, kind)
    return rounded(symbol(x), s, z.astype(np.float32), *_kind(kind))


@operator("DequantizeLinear", "com.microsoft.DequantizeLinear", mixes=nothing, weights=True)
def dequantize(a: Known, n: int, x: Tensor, scale: Tensor, zero: Tensor = None) -> Tensor:
    a.only("output_dtype", 0, 1)
    if not isinstance(x, Value):  # Microsoft's, of weights; int32 is that of a bias
        s, z = _levels(a, x, scale, zero, x.dtype)
        return (x.astype(np.int64) - z.astype(np.int64)).astype(np.float32) * s
    s, z = _levels(a, x, scale, zero, np.uint8)
    _kind(z.dtype)
    return dequantized(x, s, z.astype(np.float32))


# Products ---------------------------------------------------------------------------------------


def exact_parts(weight: Array, largest: float) -> Iterator[Array]:
    """Split whole weights (O, …) so that no sum of one part leaves what float32 holds exactly.

    `largest` is the largest number that they are multiplied with.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    sizes = np.abs(flat) * largest
    part = sizes.cumsum(axis=1) // ((1 << 24) - sizes.max(initial=0.0))
    for i in range(int(part.max(initial=0.0)) + 1):
        yield np.where(part == i, flat, 0.0).reshape(weight.shape).astype(np.float32)


def last(a: Known, x: Tensor, *args: Tensor) -> tuple[int, ...]:
    """A product with weights sums over the last axis."""
    return (len(x.shape) - 1,)


def integer_product(x: Value, w: Tensor, x_zero: Tensor, w_zero: Tensor) -> Value:
    """Return the sums of ``(x - x_zero) * (w - w_zero)``, whole numbers."""
    weight = known(w, "the right factor")
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[:1]:
        raise Unsupported(f"factors of shapes {x.shape} and {weight.shape} are not supported")
    if weight.dtype not in (np.int8, np.uint8):
        raise Unsupported(f"weights of {weight.dtype} are not supported, only int8 and uint8")
    level = np.zeros(1, np.int32) if w_zero is None else known(w_zero, "its zero point")
    level = np.asarray(level, np.int32).reshape(-1)
    if level.size not in (1, weight.shape[1]):
        raise Unsupported(f"{level.size} zero points for {weight.shape[1]} columns")
    centred = weight.astype(np.int32) - level
    K, O = weight.shape
    zero, signed = x_zero, False
    if not isinstance(x_zero, Value):
        fixed = np.zeros((), np.float32) if x_zero is None else np.asarray(x_zero)
        if fixed.size != 1:
            raise Unsupported(f"{fixed.size} zero points of the left factor, expected one")
        signed = fixed.dtype == np.int8
        zero = symbol(fixed.reshape(()).astype(np.float32), x)
    zero = reshaped(zero, ())
    if x_zero is None or (isinstance(x_zero, Value) and not _are_uint8(x)):
        # Nothing says whether they are int8 or uint8: a product of floats, exact below 2**24.
        sums = [
            with_weights(Linear(K, O, bias=False), weight=part)(x - zero)
            for part in exact_parts(centred.T, 255)
        ]
        return sum(sums[1:], sums[0])
    made = None
    while made is None or centred.any():  # what does not fit into int8 is a sum of parts that do
        part = np.clip(centred, -128, 127)
        op = with_weights(IntegerLinear(K, O, signed), weight_int8=_turned(part.astype(np.int8)))
        made = op(x, zero) if made is None else made + op(x, zero)
        centred = centred - part
    return made


def _turned(*parts: Array) -> Array:
    """Return matrices of bytes (K, O), transposed and one below the other (O's, K)."""
    K, O = parts[0].shape
    made = np.empty((len(parts) * O, K), parts[0].dtype)
    for n, part in enumerate(parts):
        rows = made[n * O : (n + 1) * O]
        for k in range(0, K, 16):  # in pieces that stay in the cache: five times as fast
            rows[:, k : k + 16] = part[k : k + 16].T
    return made


def _are_uint8(q: Value) -> bool:
    """Whether a value is plainly what DynamicQuantizeLinear has made."""
    while q.op is not None and q.op.moves_only and q.args:
        q = q.args[0]
    return isinstance(q.op, DynamicQuantize)


@operator("MatMulInteger", mixes=last, weights=True)
def matmul_integer(
    a: Known, n: int, x: Value, w: Tensor, x_zero: Tensor = None, w_zero: Tensor = None
) -> Tensor:
    return integer_product(symbol(x), w, x_zero, w_zero)


def _scaled(y: Value, x_scale: Tensor, w_scale: Tensor, bias: Tensor) -> Value:
    """Return ``y * (x_scale * w_scale) + bias``."""
    factor = known(w_scale, "the weights' scale").astype(np.float32).reshape(-1)
    scales = _broadcast(y, factor)
    if isinstance(x_scale, Value):
        scales = scales * reshaped(x_scale, ())
    else:
        scales = scales * float(np.asarray(x_scale).item())
    made = y * scales
    return made if bias is None else made + _broadcast(made, known(bias, "the bias"))


@operator("com.microsoft.MatMulIntegerToFloat", mixes=last, weights=True)
def matmul_integer_to_float(
    a: Known,
    n: int,
    x: Value,
    w: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    x_zero: Tensor = None,
    w_zero: Tensor = None,
    bias: Tensor = None,
) -> Tensor:
    return _scaled(integer_product(x, w, x_zero, w_zero), x_scale, w_scale, bias)


@operator("com.microsoft.DynamicQuantizeMatMul")
def dynamic_quantize_matmul(
    a: Known,
    n: int,
    x: Value,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor = None,
    bias: Tensor = None,
) -> Tensor:
    q, scale, zero = _in_its_range(x)
    made = integer_product(reshaped(q, x.shape), w, zero, w_zero)
    return _scaled(made, scale, w_scale, bias)


over_time("com.microsoft.DynamicQuantizeMatMul")(whole_range)


def _requantized(y: Value, factor: Array, zero: Tensor) -> Value:
    """Return sums as bytes: ``clip(round(y * factor) + zero)``."""
    point = known(zero, "the zero point of the result")
    low, high = _kind(point.dtype)
    whole = Round()(y * _broadcast(y, factor)) + float(point.item())
    return Hardtanh(float(low), float(high))(whole)


@operator("QLinearMatMul", mixes=last, weights=True)
def qlinear_matmul(
    a: Known,
    n: int,
    x: Value,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    scales = [known(s, "the scales").astype(np.float32) for s in (x_scale, w_scale, y_scale)]
    sums = integer_product(symbol(x), w, known(x_zero, "the zero point"), w_zero)
    return _requantized(sums, scales[0] * scales[1].reshape(-1) / scales[2], y_zero)


@operator("com.microsoft.QGemm", mixes=last, weights=True)
def qgemm(
    a: Known,
    n: int,
    x: Value,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    bias: Tensor = None,
    y_scale: Tensor = None,
    y_zero: Tensor = None,
) -> Tensor:
    a.only("transA", 0)
    weight = known(w, "the weight")
    weight = weight.T if a.get("transB", 0) else weight
    scales = [known(s, "the scales").astype(np.float32).reshape(-1) for s in (x_scale, w_scale)]
    sums = integer_product(symbol(x), weight, known(x_zero, "the zero point"), w_zero)
    if bias is not None:
        sums = sums + _broadcast(sums, known(bias, "the bias"))
    factor = np.float32(a.get("alpha", 1.0)) * scales[0] * scales[1]
    if y_scale is None:
        return sums * _broadcast(sums, factor)
    return _requantized(sums, factor / known(y_scale, "the scales").astype(np.float32), y_zero)


def _integer_conv(a: Known, x: Tensor, w: Tensor, x_zero: Tensor, w_zero: Tensor) -> Tensor:
    """Return the convolution of ``x - x_zero`` with ``w - w_zero``, exact below 2**24."""
    weight = known(w, "the weight").astype(np.int32)
    if w_zero is not None:
        level = known(w_zero, "the weights' zero point").astype(np.int32)
        weight = weight - level.reshape(-1, *(1,) * (weight.ndim - 1))
    centred = x
    if isinstance(x_zero, Value):
        centred = _by_frame(x, lambda value: value - reshaped(x_zero, ()))
    elif x_zero is not None and np.any(known(x_zero, "the zero point of its input")):
        centred = _by_frame(x, lambda value: value - float(np.asarray(x_zero).item()))

    def convolved(a: Known, part: Array) -> Tensor:
        if isinstance(centred, Timed):
            return OVER_TIME["Conv"](a, 1, centred, part)
        return OPERATORS["Conv"].handler(a, 1, symbol(centred), part)

    first, *rest = exact_parts(weight, 255)
    more = [convolved(a.again(), part) for part in rest]

    def total(value: Value) -> Value:
        for part in more:
            value = value + (part.value if isinstance(part, Timed) else part)
        return value

    return _by_frame(convolved(a, first), total)


def _by_frame(x: Tensor, function: Callable[[Value], Value]) -> Tensor:
    """Return what a function makes of a value, or of each frame of a sequence."""
    if isinstance(x, Timed):
        whole = settled(x)
        return Timed(function(whole.value), whole.axis, whole.length)
    return function(symbol(x))


@over_time("ConvInteger")
@operator("ConvInteger")
def conv_integer(
    a: Known, n: int, x: Value, w: Tensor, x_zero: Tensor = None, w_zero: Tensor = None
) -> Tensor:
    return _integer_conv(a, x, w, x_zero, w_zero)


@over_time("QLinearConv")
@operator("QLinearConv")
def qlinear_conv(
    a: Known,
    n: int,
    x: Value,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor = None,
) -> Tensor:
    scales = [known(s, "the scales").astype(np.float32) for s in (x_scale, w_scale, y_scale)]
    sums = _integer_conv(a, x, w, x_zero, w_zero)
    tail = (1,) * (len(sums.shape) - 2)
    factor = scales[0] * scales[1].reshape(-1, *tail) / scales[2]

    def finished(y: Value) -> Value:
        if bias is not None:
            y = y + _broadcast(y, known(bias, "the bias").reshape(-1, *tail))
        return _requantized(y, factor, y_zero)

    return _by_frame(sums, finished)


def _between_bytes(make: Callable[..., Value]) -> Handler:
    """Return the handler of an operator on bytes: dequantise, compute, quantise."""

    def handler(a: Known, n: int, *args: Tensor) -> Tensor:
        *operands, y_scale, y_zero = args
        values = []
        for x, scale, zero in zip(operands[0::3], operands[1::3], operands[2::3], strict=True):
            s, z = known(scale, "a scale"), known(zero, "a zero point")
            _kind(z.dtype)
            values.append(dequantized(symbol(x), s.reshape(()), z.reshape(()).astype(np.float32)))
        scale, zero = known(y_scale, "a scale"), known(y_zero, "a zero point")
        low, high = _kind(zero.dtype)
        point = zero.reshape(()).astype(np.float32)
        return rounded(make(a, *values), scale.reshape(()), point, low, high)

    return handler


def joined(a: Known, y_scale: Tensor, y_zero: Tensor, *args: Tensor) -> tuple[int, ...]:
    """A concatenation mixes its axis."""
    return (axis_of(a.peek("axis", 0), next(x for x in args if isinstance(x, (Value, Timed)))),)


@operator("com.microsoft.QLinearConcat", mixes=joined)
def qlinear_concat(a: Known, n: int, y_scale: Tensor, y_zero: Tensor, *args: Tensor) -> Tensor:
    axis = joined(a, y_scale, y_zero, *args)[0]
    a.get("axis", 0)
    like, given = next(x for x in args if isinstance(x, Value)), list(args)
    given[::3] = [symbol(x, like) for x in given[::3]]
    return _between_bytes(lambda a, *xs: concat(*xs, axis=axis))(a, n, *given, y_scale, y_zero)


BETWEEN: dict[str, Callable[..., Value]] = {
    "QLinearAdd": lambda a, x, y: x + y,
    "QLinearLeakyRelu": lambda a, x: LeakyReLU(a.get("alpha", 0.01))(x),
    "QLinearMul": lambda a, x, y: x * y,
    "QLinearSigmoid": lambda a, x: Sigmoid()(x),
}
for _name, _make in BETWEEN.items():
    operator(f"com.microsoft.{_name}", mixes=nothing)(_between_bytes(_make))


# LSTM -------------------------------------------------------------------------------------------


def _int8(weights: Tensor, zero: Tensor, what: str) -> Array:
    """Return weights (1, inputs, 4H) as int8 rows (4H, inputs), gates in our order."""
    w = known(weights, what)
    level = 0 if zero is None else np.unique(known(zero, f"{what}_zero_point"))
    fits = w.dtype == np.int8 and not np.any(level)
    shifted = w.dtype == np.uint8 and np.all(np.asarray(level) == 128)
    if not (fits or shifted) or w.ndim != 3:
        raise Unsupported(
            f"{what} of {w.dtype} {w.shape} with the zero point {level}: supported are int8 with 0 "
            f"and uint8 with 128"
        )
    gates = dict(zip(LSTMCell.layouts["onnx"], np.split(w[0], 4, axis=1), strict=True))
    rows = _turned(*(gates[gate] for gate in LSTMCell.gates))
    if shifted:
        rows ^= 0x80  # less 128
    return rows.view(np.int8)


def _op_of(
    a: Known, w: Sequence[Tensor], b: Tensor, levels: Sequence[Tensor], steps: int
) -> Int8LSTM:
    """Return the op that a node is, its parts checked."""
    if len(levels) < 3 or levels[0] is None or levels[2] is None:
        raise Unsupported("the scales of W and R are missing")
    w_scale, w_zero, r_scale, r_zero = (*levels, None)[:4]
    rows = _int8(w[0], w_zero, "W"), _int8(w[1], r_zero, "R")
    H = rows[1].shape[1]
    a.only("hidden_size", H)
    a.only("clip", 0.0)
    a.only("input_forget", 0)
    a.only("layout", 0)
    usual = ["sigmoid", "tanh", "tanh"]
    given = a.get("activations", None) or usual
    names = [(g.decode() if isinstance(g, bytes) else g).lower() for g in given]
    if names != usual or a.get("activation_alpha", []) or a.get("activation_beta", []):
        raise Unsupported(f"activations {names} are not supported, only {usual}")
    both = np.zeros((1, 8 * H), np.float32) if b is None else known(b, "B")
    if both.shape != (1, 8 * H) or rows[0].shape[0] != 4 * H or rows[1].shape[0] != 4 * H:
        raise Unsupported(f"shapes {[r.shape for r in rows]} of W and R and {both.shape} of B")
    order, wanted = LSTMCell.layouts["onnx"], LSTMCell.gates

    def scales(tensor: Tensor) -> Array:
        s = known(tensor, "the scales").astype(np.float32).reshape(-1)
        if s.size not in (1, 4 * H):
            raise Unsupported(f"{s.size} scales, expected 1 or {4 * H}")
        return reorder(np.broadcast_to(s, 4 * H), order, wanted)

    op = Int8LSTM(rows[0].shape[1], H, steps)
    op.weights = {
        "weight_ih_int8": rows[0],
        "weight_hh_int8": rows[1],
        "scale_ih": scales(w_scale),
        "scale_hh": scales(r_scale),
        "bias": reorder(both[0, : 4 * H] + both[0, 4 * H :], order, wanted),
    }
    return op


@operator("com.microsoft.DynamicQuantizeLSTM")
def dynamic_quantize_lstm(
    a: Known,
    n: int,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor = None,
    lengths: Tensor = None,
    h: Tensor = None,
    c: Tensor = None,
    peepholes: Tensor = None,
    *levels: Tensor,
) -> Tensor:
    direction = a.get("direction", "forward")
    if direction != "forward":
        raise Unsupported(
            f"direction={direction!r}: the backward direction begins at the last frame, which in a "
            f"stream has not come"
        )
    if isinstance(x, Timed):
        whole_range(a, n, x)
    T, B, I = x.shape
    if lengths is not None and known(lengths, "sequence_lens").tolist() != [T] * B:
        raise Unsupported(f"sequence_lens other than {T} are not supported")
    if peepholes is not None and known(peepholes, "P").any():
        raise Unsupported("peepholes are not supported")
    if B != 1 or T > MAX_FRAMES_A_CALL:
        raise Unsupported(
            f"{B} sequences of {T} frames in every call: one of at most {MAX_FRAMES_A_CALL} can be"
        )
    step = _op_of(a, (w, r), b, levels, T)
    H, own = step.hidden_size, T == 1 and not isinstance(h, Value) and not isinstance(c, Value)
    begins = [np.zeros((1, 1, H), np.float32) if s is None else s for s in (h, c)]
    if any(s.shape != (1, 1, H) for s in begins):
        raise Unsupported(f"initial states of shapes {[s.shape for s in begins]}")
    names = ("h", "c")
    states = [
        a.state(name, np.reshape(s, H), x) if own else reshaped(symbol(s, x), (H,))
        for name, s in zip(names, begins, strict=True)
    ]
    made = step(reshaped(x, (T * I,)), *states)
    after = made[(T - 1) * H : T * H], made[T * H :]
    if own:
        for before, new in zip(states, after, strict=True):
            a.keep(before, new)
    last = (reshaped(s, (1, 1, H)) for s in after)
    return (reshaped(made[: T * H], (T, 1, 1, H)), *last)


over_time("com.microsoft.DynamicQuantizeLSTM")(dynamic_quantize_lstm)
