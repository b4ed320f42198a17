"""Element by element: activations, arithmetic, choices, conversions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...onnx.node import Tensor, Unsupported
from ..table import aten, axis_in, ints, number

if TYPE_CHECKING:
    from ..walk import Walk

__all__: list[str] = []

UNARY = {
    "abs": "Abs",
    "acos": "Acos",
    "asin": "Asin",
    "atan": "Atan",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "hardswish": "HardSwish",
    "log": "Log",
    "logical_not": "Not",
    "mish": "Mish",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "round": "Round",
    "selu": "Selu",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
BINARY = {
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "lt": "Less",
    "maximum": "Max",
    "minimum": "Min",
    "mul": "Mul",
    "multiply": "Mul",
}


def _one(kind: str) -> Any:
    return lambda f, x: f(kind, x)


def _two(kind: str) -> Any:
    return lambda f, x, other: f(kind, number(x), number(other))


for _name, _kind in UNARY.items():
    aten(_name)(_one(_kind))
for _name, _kind in BINARY.items():
    aten(_name)(_two(_kind))


@aten("relu6")
def relu6(f: Walk, x: Tensor) -> Tensor:
    return f("Clip", x, np.float32(0), np.float32(6))


@aten("hardtanh")
def hardtanh(f: Walk, x: Tensor, min_val: float, max_val: float) -> Tensor:
    return f("Clip", x, np.float32(min_val), np.float32(max_val))


@aten("clamp", "clip")
def clamp(f: Walk, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    low, high = (None if bound is None else number(bound) for bound in (min, max))
    return f("Clip", x, low, high)


@aten("clamp_min")
def clamp_min(f: Walk, x: Tensor, min: Any) -> Tensor:
    return f("Max", x, number(min))


@aten("clamp_max")
def clamp_max(f: Walk, x: Tensor, max: Any) -> Tensor:
    return f("Min", x, number(max))


@aten("hardsigmoid")
def hardsigmoid(f: Walk, x: Tensor) -> Tensor:
    return f("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@aten("silu")
def silu(f: Walk, x: Tensor) -> Tensor:
    return f("Swish", x, alpha=1.0)


@aten("softshrink")
def softshrink(f: Walk, x: Tensor, lambd: float) -> Tensor:
    return f("Sub", x, f("Clip", x, np.float32(-lambd), np.float32(lambd)))


@aten("hardshrink")
def hardshrink(f: Walk, x: Tensor, lambd: float) -> Tensor:
    return f("Where", f("Greater", f("Abs", x), np.float32(lambd)), x, np.float32(0))


@aten("threshold")
def threshold(f: Walk, x: Tensor, threshold: float, value: float) -> Tensor:
    return f("Where", f("Greater", x, np.float32(threshold)), x, np.float32(value))


@aten("rrelu")
def rrelu(f: Walk, x: Tensor, lower: float, upper: float, training: bool) -> Tensor:
    return f("LeakyRelu", x, alpha=(lower + upper) / 2)  # in evaluation it is not random


@aten("leaky_relu")
def leaky_relu(f: Walk, x: Tensor, negative_slope: float) -> Tensor:
    return f("LeakyRelu", x, alpha=float(negative_slope))


@aten("elu")
def elu(f: Walk, x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    if (scale, input_scale) != (1, 1):
        raise Unsupported(f"scale={scale} and input_scale={input_scale} are not supported, only 1")
    return f("Elu", x, alpha=float(alpha))


@aten("celu")
def celu(f: Walk, x: Tensor, alpha: float) -> Tensor:
    return f("Celu", x, alpha=float(alpha))


@aten("gelu")
def gelu(f: Walk, x: Tensor, approximate: str) -> Tensor:
    return f("Gelu", x, approximate=approximate)


@aten("softplus")
def softplus(f: Walk, x: Tensor, beta: float, threshold: float) -> Tensor:
    if threshold < 10:
        raise Unsupported(
            f"threshold={threshold} is not supported: at 10 or more it changes nothing"
        )
    return f("Mul", f("Softplus", f("Mul", x, np.float32(beta))), np.float32(1 / beta))


@aten("log_sigmoid")
def log_sigmoid(f: Walk, x: Tensor) -> Tensor:
    return f("Neg", f("Softplus", f("Neg", x)))


@aten("softsign")
def softsign(f: Walk, x: Tensor) -> Tensor:
    return f("Softsign", x)


@aten("prelu")
def prelu(f: Walk, x: Tensor, weight: Any) -> Tensor:
    slope = weight.reshape(-1, *(1,) * (len(x.shape) - 2)) if len(x.shape) > 1 else weight
    return f("PRelu", x, slope)


@aten("softmax", "_softmax")
def softmax(f: Walk, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return f("Softmax", x, axis=dim)


@aten("log_softmax", "_log_softmax")
def log_softmax(f: Walk, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return f("LogSoftmax", x, axis=dim)


@aten("glu")
def glu(f: Walk, x: Tensor, dim: int) -> Tensor:
    half = x.shape[dim] // 2
    first, gate = f("Split", x, ints(half, half), n=2, axis=axis_in(dim, x))
    return f("Mul", first, f("Sigmoid", gate))


@aten("add")
def add(f: Walk, x: Tensor, other: Any, alpha: float) -> Tensor:
    other = number(other)
    return f("Add", number(x), other if alpha == 1 else f("Mul", other, np.float32(alpha)))


@aten("sub", "subtract")
def sub(f: Walk, x: Tensor, other: Any, alpha: float) -> Tensor:
    other = number(other)
    return f("Sub", number(x), other if alpha == 1 else f("Mul", other, np.float32(alpha)))


@aten("rsub")
def rsub(f: Walk, x: Tensor, other: Any, alpha: float) -> Tensor:
    return sub(f, other, x, alpha)


@aten("div", "divide", "true_divide")
def div(f: Walk, x: Tensor, other: Any, rounding_mode: str | None = None) -> Tensor:
    f.computes_with_floats()
    y = f("Div", number(x), number(other))
    rounding = {None: None, "floor": "Floor"}
    if rounding_mode not in rounding:
        raise Unsupported(f"rounding_mode={rounding_mode!r} is not supported")
    return y if rounding_mode is None else f("Floor", y)


@aten("pow")
def power(f: Walk, x: Any, exponent: Any) -> Tensor:
    return f("Pow", number(x), number(exponent))


@aten("square")
def square(f: Walk, x: Tensor) -> Tensor:
    return f("Mul", x, x)


@aten("rsqrt")
def rsqrt(f: Walk, x: Tensor) -> Tensor:
    return f("Reciprocal", f("Sqrt", x))


@aten("log1p")
def log1p(f: Walk, x: Tensor) -> Tensor:
    return f("Log", f("Add", x, np.float32(1)))


@aten("log10")
def log10(f: Walk, x: Tensor) -> Tensor:
    return f("Mul", f("Log", x), np.float32(1 / math.log(10)))


@aten("log2")
def log2(f: Walk, x: Tensor) -> Tensor:
    return f("Mul", f("Log", x), np.float32(1 / math.log(2)))


@aten("where")
def where(f: Walk, condition: Tensor, x: Any, other: Any) -> Tensor:
    return f("Where", condition, number(x), number(other))


@aten("masked_fill")
def masked_fill(f: Walk, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return f("Where", mask, number(value), x)


@aten(
    "alias",
    "alpha_dropout",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "feature_dropout",
    "lift_fresh_copy",
)
def same(f: Walk, x: Tensor, p: float = 0.0, train: bool = False) -> Tensor:
    if train:
        raise Unsupported("dropout is applied in evaluation as well: that is random")
    return x


@aten("to", "_to_copy", "type_as")
def converted(
    f: Walk, x: Tensor, other: Any = None, device: Any = None, dtype: Any = None
) -> Tensor:
    wanted = f.dtype
    if wanted.is_floating_point:
        return f("Cast", x, to=1)
    if wanted == torch.bool:
        return f("Cast", x, to=9)
    if wanted in (torch.int32, torch.int64):
        return f("Cast", x, to=7)
    raise Unsupported(
        f"a value cannot become {wanted}; supported are floats, int32, int64 and bool"
    )
