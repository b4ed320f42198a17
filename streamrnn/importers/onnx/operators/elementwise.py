"""Element by element: arithmetic, functions, comparisons, choices, conversions.

Integers and truths travel as float32 numbers, exact up to 2**24. A constant that meets a value in
a sum or product becomes weights of an ``Affine``; elsewhere it is a value at the other's rate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto
from onnx.helper import np_dtype_to_tensor_dtype

from ....graph import MAX_FRAME, Value
from ....layer import Layer
from ....ops import activations as act
from ....ops import compare, mathematics
from ....ops.arithmetic import Affine, Mul, Scale, arithmetic
from ....ops.norm import RMSNorm
from ....ops.rearrange import Expand, Reshape
from ....ops.reduce import Mean
from ..node import (
    Array,
    Handler,
    Known,
    Tensor,
    Unsupported,
    known,
    nothing,
    operator,
    reshaped,
    symbol,
    with_weights,
)

__all__ = ["binary", "combined", "together"]

LARGEST = float(np.finfo(np.float32).max)


def together(*tensors: Tensor) -> list[Value]:
    """Return tensors as values of one shape, the constants among them at the others' rate."""
    tensors = tuple(t if isinstance(t, Value) else np.asarray(t) for t in tensors)
    like = next((t for t in tensors if isinstance(t, Value)), None)
    try:
        shape = np.broadcast_shapes(*(t.shape for t in tensors))
    except ValueError:
        shapes = ", ".join(str(t.shape) for t in tensors)
        raise Unsupported(f"shapes {shapes} do not fit each other") from None
    if math.prod(shape) > MAX_FRAME:
        raise Unsupported(f"a frame of shape {shape} is too large")
    return [
        expanded(t, shape) if isinstance(t, Value) else symbol(np.broadcast_to(t, shape), like)
        for t in tensors
    ]


def expanded(x: Value, shape: tuple[int, ...]) -> Value:
    """Return a value broadcast to a shape."""
    if x.size == math.prod(shape):
        return reshaped(x, shape)
    return Expand(shape)(x)


def combined(name: str, x: Tensor, y: Tensor) -> Value:
    """Return the sum, difference, product or quotient of two tensors."""
    x, y = (t if isinstance(t, Value) else np.asarray(t) for t in (x, y))
    for value, constant, swap in ((x, y, False), (y, x, True)):
        if isinstance(value, Value) and not isinstance(constant, Value):
            weights = _as_affine(name, constant, swap)
            if weights is not None:
                return _affine(value, *weights)
    a, b = together(x, y)
    return arithmetic(name, a, b)


def _as_affine(name: str, c: Array, swap: bool) -> tuple[Array, Array] | None:
    """Return factor and offset that ``x op c`` (or ``c op x``) is, if it is that."""
    c, one = c.astype(np.float64), np.ones(c.shape)
    if name == "Div" and swap:
        return None
    with np.errstate(all="ignore"):
        factor, offset = {
            "Add": (one, c),
            "Sub": (-one, c) if swap else (one, -c),
            "Mul": (c, 0 * one),
            "Div": (1 / c, 0 * one),
        }[name]
        weights = factor.astype(np.float32), offset.astype(np.float32)
    return weights if all(np.isfinite(w).all() for w in weights) else None


def _affine(x: Value, factor: Array, offset: Array) -> Value:
    """Return ``x * factor + offset``, broadcast."""
    try:
        shape = np.broadcast_shapes(x.shape, factor.shape)
    except ValueError:
        raise Unsupported(f"shapes {x.shape}, {factor.shape} do not fit each other") from None
    if not factor.size:
        raise Unsupported("a constant without numbers meets a value")
    x = expanded(x, shape)
    alike = np.all(factor == factor.flat[0]) and np.all(offset == offset.flat[0])
    if alike:
        return Scale(float(factor.flat[0]), float(offset.flat[0]))(x)
    while factor.shape[:1] == (1,):
        factor, offset = factor[0], offset[0]
    return with_weights(Affine(factor.shape), weight=factor, bias=offset)(x)


def unary(make: Callable[[Known], Layer]) -> Handler:
    return lambda a, n, x: make(a)(symbol(x))


def function(name: str) -> Handler:
    """Return the handler of an operator that has a name of ours and no attributes."""
    return unary(lambda a: getattr(mathematics, name)())


def binary(name: str) -> Handler:
    return lambda a, n, x, y: combined(name, x, y)


def pairwise(make: Callable[[Value, Value], Value]) -> Handler:
    """Return the handler of an operator of two tensors, broadcast."""
    return lambda a, n, x, y: make(*together(x, y))


@operator("Div", mixes=nothing)
def divide(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
    if "int" in a.kinds:
        x, y = together(x, y)
        return mathematics.Trunc()(x / y)
    if isinstance(x, Value) and isinstance(y, Value):
        shape, eps = _root_mean_square(x, y)
        if shape:
            return RMSNorm(shape, eps, elementwise_affine=False)(x)
    return combined("Div", x, y)


def _root_mean_square(x: Value, y: Value) -> tuple[tuple[int, ...], float]:
    """Return the last axes of x, and eps, if ``y = sqrt(mean(x * x) + eps)`` over these."""
    root = _bare(y)
    plus = root.args[0] if isinstance(root.op, act.Sqrt) else root
    if plus is root or not isinstance(plus.op, Scale) or plus.op.factor != 1 or plus.op.offset <= 0:
        return (), 0.0
    mean = _bare(plus.args[0])
    if not isinstance(mean.op, Mean):
        return (), 0.0
    (rows,) = mean.args
    if mean.op.axis % len(rows.shape) != len(rows.shape) - 1:
        return (), 0.0
    square = _bare(rows)
    of_x = all(_bare(arg) is _bare(x) for arg in square.args) and square.size == x.size
    if not isinstance(square.op, (Mul, act.Square)) or not of_x:
        return (), 0.0
    for k in range(len(x.shape)):
        tail = x.shape[k:]
        if math.prod(tail) == rows.shape[-1] and y.shape == x.shape[:k] + (1,) * len(tail):
            return tail, plus.op.offset
    return (), 0.0


def _bare(x: Value) -> Value:
    """Return the value without the reshapes and broadcasts around it."""
    while isinstance(x.op, (Reshape, Expand)):
        (x,) = x.args
    return x


@operator("Mod", mixes=nothing)
def modulo(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
    return compare.Mod(bool(a.get("fmod", 0)))(*together(x, y))


POWERS: dict[float, Callable[[Value], Value]] = {
    1: lambda x: x,
    2: lambda x: act.Square()(x),
    3: lambda x: act.Square()(x) * x,
    4: lambda x: act.Square()(act.Square()(x)),
    0.5: lambda x: act.Sqrt()(x),
    -0.5: lambda x: mathematics.Reciprocal()(act.Sqrt()(x)),
    -1: lambda x: mathematics.Reciprocal()(x),
    -2: lambda x: mathematics.Reciprocal()(act.Square()(x)),
}


@operator("Pow", mixes=nothing)
def power(a: Known, n: int, x: Tensor, exponent: Tensor) -> Tensor:
    if not isinstance(exponent, Value) and np.ndim(exponent) <= len(x.shape):
        powers = set(np.reshape(exponent, -1).tolist())
        found = POWERS.get(next(iter(powers))) if len(powers) == 1 else None
        if found and np.broadcast_shapes(x.shape, np.shape(exponent)) == x.shape:
            return found(x)
    result = compare.Pow()(*together(x, exponent))
    return mathematics.Trunc()(result) if a.kinds[0] == "int" else result


def folded(make: Callable[[Value, Value], Value]) -> Handler:
    """Return the handler of an operator of any number of tensors, taken one after another."""

    def handler(a: Known, n: int, *xs: Tensor) -> Tensor:
        return functools.reduce(make, together(*xs))

    return handler


@operator("Mean", mixes=nothing)
def mean(a: Known, n: int, *xs: Tensor) -> Tensor:
    values = together(*xs)
    return functools.reduce(lambda x, y: x + y, values) * (1 / len(values))


def smaller(x: Value, y: Tensor) -> Value:
    return compare.Minimum()(*together(x, y))


def larger(x: Value, y: Tensor) -> Value:
    return compare.Maximum()(*together(x, y))


@operator("Clip", mixes=nothing)
def clip(a: Known, n: int, x: Tensor, low: Tensor = None, high: Tensor = None) -> Tensor:
    low = a.get("min", None) if low is None else low
    high = a.get("max", None) if high is None else high
    x = symbol(x, next((t for t in (low, high) if isinstance(t, Value)), None))
    first, last = (
        math.nan if t is None or isinstance(t, Value) else float(np.max(t)) for t in (low, high)
    )
    if -LARGEST <= first < last <= LARGEST:
        return act.Hardtanh(first, last)(x)
    if first == 0:
        x = act.ReLU()(x)
    elif low is not None:
        x = larger(x, low)
    return x if high is None else smaller(x, high)


@operator("Where", mixes=nothing)
def where(a: Known, n: int, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return compare.Where()(*together(condition, x, y))


@operator("Cast", mixes=nothing)
def cast(a: Known, n: int, x: Value) -> Tensor:
    a.get("saturate", 1)
    a.get("round_mode", "up")
    return converted(x, a.kinds[0], a.get("to", TensorProto.FLOAT))


@operator("CastLike", mixes=nothing)
def cast_like(a: Known, n: int, x: Tensor, like: Tensor) -> Tensor:
    a.get("saturate", 1)
    a.get("round_mode", "up")
    if not isinstance(x, Value):
        return np.asarray(x).astype({"float": "f4", "int": "i8", "bool": "?"}[a.kinds[1]])
    if isinstance(like, Value):
        kinds = {"float": TensorProto.FLOAT, "int": TensorProto.INT64, "bool": TensorProto.BOOL}
        return converted(x, a.kinds[0], kinds[a.kinds[1]])
    return converted(x, a.kinds[0], np_dtype_to_tensor_dtype(np.asarray(like).dtype))


SMALL = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)


def converted(x: Value, kind: str, to: int) -> Value:
    """Return a value of one kind (``float``, ``int``, ``bool``) as another type of ONNX's."""
    as_it_is = Reshape(x.shape)(symbol(x))  # a view: the same numbers as a value of another kind
    if to in (TensorProto.FLOAT, TensorProto.DOUBLE):  # float64 is computed in float32 here
        return as_it_is
    if to in (TensorProto.INT32, TensorProto.INT64):
        return mathematics.Trunc()(x) if kind == "float" else as_it_is
    if to in SMALL and kind == "float":  # beyond their range the operator leaves open what comes
        return mathematics.Trunc()(x)
    if to == TensorProto.BOOL:
        if kind == "bool":
            return as_it_is
        return Scale(-1.0, 1.0)(compare.Equal()(*together(x, np.float32(0))))
    raise Unsupported(
        f"a value cannot become {TensorProto.DataType.Name(to)}; supported are FLOAT, DOUBLE "
        f"(computed as FLOAT), INT32, INT64 and BOOL"
    )


@operator("Identity", "Dropout", mixes=nothing)
def identity(a: Known, n: int, x: Tensor, *ignored: Tensor) -> Tensor:
    a.get("ratio", 0.5)
    a.get("seed", 0)
    if len(ignored) > 1 and ignored[1] is not None and known(ignored[1], "training_mode").any():
        raise Unsupported("training_mode is not supported")
    return x if n == 1 else (x, symbol(np.ones(x.shape), x))


@operator("PRelu", mixes=nothing)
def prelu(a: Known, n: int, x: Tensor, slope: Tensor) -> Tensor:
    x = symbol(x, slope)
    if isinstance(slope, Value):
        negative = compare.Less()(*together(x, np.float32(0)))
        return compare.Where()(*together(negative, x * slope, x))
    if np.size(slope) == 1:
        return with_weights(act.PReLU(1), weight=np.reshape(slope, 1))(x)
    below = x - act.ReLU()(x)
    return act.ReLU()(x) + combined("Mul", below, slope)


@operator("Selu", mixes=nothing)
def selu(a: Known, n: int, x: Tensor) -> Tensor:
    alpha = a.get("alpha", act.SELU_ALPHA)
    return act.ELU(alpha)(symbol(x)) * a.get("gamma", act.SELU_SCALE)


@operator("Celu", mixes=nothing)
def celu(a: Known, n: int, x: Value) -> Tensor:
    alpha = a.get("alpha", 1.0)
    return act.ELU()(x * (1 / alpha)) * alpha


@operator("Swish", "com.microsoft.QuickGelu", mixes=nothing)
def swish(a: Known, n: int, x: Value) -> Tensor:
    alpha = a.get("alpha", 1.0 if a.opset >= 24 else 1.702)
    return act.SiLU()(x) if alpha == 1 else x * act.Sigmoid()(x * alpha)


def gelu_of_sum(approximate: str) -> Handler:
    def handler(a: Known, n: int, x: Value, bias: Tensor = None) -> Tensor:
        return act.GELU(approximate)(x if bias is None else combined("Add", x, bias))

    return handler


@operator("IsInf", mixes=nothing)
def is_inf(a: Known, n: int, x: Value) -> Tensor:
    signs = (bool(a.get(f"detect_{sign}", 1)) for sign in ("negative", "positive"))
    return mathematics.IsInf(*signs)(x)


for _name, _make in {
    "Abs": lambda a: act.Abs(),
    "Elu": lambda a: act.ELU(a.get("alpha", 1.0)),
    "Erf": lambda a: act.Erf(),
    "Exp": lambda a: act.Exp(),
    "Gelu": lambda a: act.GELU(a.get("approximate", "none")),
    "HardSigmoid": lambda a: act.Hardsigmoid(a.get("alpha", 0.2), a.get("beta", 0.5)),
    "HardSwish": lambda a: act.Hardswish(),
    "LeakyRelu": lambda a: act.LeakyReLU(a.get("alpha", 0.01)),
    "Log": lambda a: act.Log(),
    "Mish": lambda a: act.Mish(),
    "Neg": lambda a: Scale(-1.0),
    "Not": lambda a: Scale(-1.0, 1.0),
    "Relu": lambda a: act.ReLU(),
    "Sigmoid": lambda a: act.Sigmoid(),
    "Softplus": lambda a: act.Softplus(),
    "Softsign": lambda a: act.Softsign(),
    "Sqrt": lambda a: act.Sqrt(),
    "Tanh": lambda a: act.Tanh(),
}.items():
    operator(_name, mixes=nothing)(unary(_make))
for _name in mathematics.__all__:
    if _name not in ("IsInf", "Trunc"):  # which has attributes, and which ONNX does not have
        operator(_name, mixes=nothing)(function(_name))
for _name in ("Add", "Mul", "Sub"):
    operator(_name, mixes=nothing)(binary(_name))
for _name, _pair in {
    "And": lambda x, y: x * y,
    "Equal": lambda x, y: compare.Equal()(x, y),
    "Greater": lambda x, y: compare.Less()(y, x),
    "GreaterOrEqual": lambda x, y: compare.LessOrEqual()(y, x),
    "Less": lambda x, y: compare.Less()(x, y),
    "LessOrEqual": lambda x, y: compare.LessOrEqual()(x, y),
    "Or": lambda x, y: compare.Maximum()(x, y),
    "Xor": lambda x, y: act.Abs()(x - y),
}.items():
    operator(_name, mixes=nothing)(pairwise(_pair))
for _name, _fold in {
    "Max": lambda x, y: compare.Maximum()(x, y),
    "Min": lambda x, y: compare.Minimum()(x, y),
    "Sum": lambda x, y: x + y,
}.items():
    operator(_name, mixes=nothing)(folded(_fold))
operator("com.microsoft.BiasGelu", "com.microsoft.Gelu", mixes=nothing)(gelu_of_sum("none"))
operator("com.microsoft.FastGelu", mixes=nothing)(gelu_of_sum("tanh"))
