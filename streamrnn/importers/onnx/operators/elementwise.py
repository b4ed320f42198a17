"""Element by element: arithmetic and activation functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....graph import Value
from ....layer import Layer
from ....ops import activations as act
from ....ops.arithmetic import Scale, arithmetic
from ..node import (
    Handler,
    Known,
    Tensor,
    Unsupported,
    known,
    nothing,
    operator,
    symbol,
    with_weights,
)

__all__ = ["binary"]


def unary(make: Callable[[Known], Layer]) -> Handler:
    return lambda a, n, x: make(a)(symbol(x))


def binary(name: str) -> Handler:
    def handler(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
        if not isinstance(x, Value) and np.size(x) == 1 and np.ndim(x) <= len(y.shape):
            return arithmetic(name, y, float(np.reshape(x, -1)[0]), swap=True)
        if not isinstance(y, Value) and np.size(y) == 1 and np.ndim(y) <= len(x.shape):
            return arithmetic(name, x, float(np.reshape(y, -1)[0]))
        return arithmetic(name, symbol(x), symbol(y))

    return handler


@operator("Div", mixes=nothing)
def divide(a: Known, n: int, x: Tensor, y: Tensor) -> Tensor:
    if isinstance(x, Value):
        return binary("Div")(a, n, x, y)
    return arithmetic("Div", symbol(x), y)


@operator("Pow", mixes=nothing)
def power(a: Known, n: int, x: Tensor, exponent: Tensor) -> Tensor:
    powers = set(known(exponent, "the exponent").reshape(-1).tolist())
    if powers == {2}:
        return act.Square()(symbol(x))
    if powers == {0.5}:
        return act.Sqrt()(symbol(x))
    raise Unsupported(f"only the powers 2 and 0.5 are supported, got {sorted(powers)}")


@operator("Clip", mixes=nothing)
def clip(a: Known, n: int, x: Tensor, low: Tensor = None, high: Tensor = None) -> Tensor:
    largest = float(np.finfo(np.float32).max)
    low = a.get("min", None) if low is None else known(low, "the bound").item()
    high = a.get("max", None) if high is None else known(high, "the bound").item()
    low, high = -largest if low is None else float(low), largest if high is None else float(high)
    return act.Hardtanh(max(low, -largest), min(high, largest))(symbol(x))


@operator("Cast", mixes=nothing)
def cast(a: Known, n: int, x: Tensor) -> Tensor:
    a.only("to", 1)
    a.get("saturate", 1)
    return x


@operator("Identity", "Dropout", mixes=nothing)
def identity(a: Known, n: int, x: Tensor, *ignored: Tensor) -> Tensor:
    a.get("ratio", 0.5)
    a.get("seed", 0)
    if n > 1:
        raise Unsupported("a mask as second output is not supported")
    if len(ignored) > 1 and ignored[1] is not None and known(ignored[1], "training_mode").any():
        raise Unsupported("training_mode is not supported")
    return x


@operator("PRelu", mixes=nothing)
def prelu(a: Known, n: int, x: Value, slope: Tensor) -> Tensor:
    slopes = known(slope, "the slope")
    if slopes.size == 1:
        return with_weights(act.PReLU(1), weight=slopes.reshape(1))(x)
    below = x - act.ReLU()(x)
    return act.ReLU()(x) + binary("Mul")(a, n, below, slopes)


@operator("Selu", mixes=nothing)
def selu(a: Known, n: int, x: Tensor) -> Tensor:
    alpha = a.get("alpha", act.SELU_ALPHA)
    return act.ELU(alpha)(symbol(x)) * a.get("gamma", act.SELU_SCALE)


for _name, _make in {
    "Abs": lambda a: act.Abs(),
    "Elu": lambda a: act.ELU(a.get("alpha", 1.0)),
    "Erf": lambda a: act.Erf(),
    "Exp": lambda a: act.Exp(),
    "HardSigmoid": lambda a: act.Hardsigmoid(a.get("alpha", 0.2), a.get("beta", 0.5)),
    "HardSwish": lambda a: act.Hardswish(),
    "LeakyRelu": lambda a: act.LeakyReLU(a.get("alpha", 0.01)),
    "Log": lambda a: act.Log(),
    "Neg": lambda a: Scale(-1.0),
    "Relu": lambda a: act.ReLU(),
    "Sigmoid": lambda a: act.Sigmoid(),
    "Softplus": lambda a: act.Softplus(),
    "Softsign": lambda a: act.Softsign(),
    "Sqrt": lambda a: act.Sqrt(),
    "Tanh": lambda a: act.Tanh(),
}.items():
    operator(_name, mixes=nothing)(unary(_make))
for _name in ("Add", "Mul", "Sub"):
    operator(_name, mixes=nothing)(binary(_name))
