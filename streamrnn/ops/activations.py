"""Activation functions of each element, and softmax over an axis; named and defined as in torch.

Each is three lines of equations: the kernel in vectors, the reference in NumPy, and the operator
(or a composition) in ONNX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape
from ..kernels import functions as f
from ..kernels.simd import at, fma, select_lt, splat, vabs, vmax, vmin, vsqrt
from ..kernels.tape import (
    Frames,
    Kernel,
    Number,
    Scratch,
    Size,
    Weights,
    elementwise,
    kernel,
)
from .op import Array, Arrays, Op
from .rearrange import checked_axis

if TYPE_CHECKING:
    from ..kernels.simd import Vector
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Abs",
    "Erf",
    "Exp",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "Log",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Square",
    "Tanh",
]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
"""Klambauer et al., "Self-Normalizing Neural Networks", 2017, equation 14."""


@elementwise
def relu(x: Vector) -> Vector:
    return f.relu(x)


@elementwise
def leaky_relu(x: Vector, slope: Number) -> Vector:
    return select_lt(x, splat(0.0), x * slope, x)


@elementwise
def prelu(x: Vector, slope: Weights) -> Vector:
    return select_lt(x, splat(0.0), x * slope, x)


@elementwise
def elu(x: Vector, alpha: Number, scale: Number) -> Vector:
    return scale * select_lt(x, splat(0.0), alpha * f.expm1_negative(x), x)


@elementwise
def tanh(x: Vector) -> Vector:
    return f.tanh(x)


@elementwise
def sigmoid(x: Vector) -> Vector:
    return f.sigmoid(x)


@elementwise
def silu(x: Vector) -> Vector:
    return x * f.sigmoid(x)


@elementwise
def gelu(x: Vector) -> Vector:
    return 0.5 * x * (1.0 + f.erf(x * math.sqrt(0.5)))


@elementwise
def gelu_tanh(x: Vector) -> Vector:
    cubic = x + x * x * x * 0.044715
    return 0.5 * x * (1.0 + f.tanh(math.sqrt(2 / math.pi) * cubic))


@elementwise
def softplus(x: Vector) -> Vector:
    return f.softplus(x)


@elementwise
def log_sigmoid(x: Vector) -> Vector:
    return 0.0 - f.softplus(0.0 - x)


@elementwise
def mish(x: Vector) -> Vector:
    return x * f.tanh(f.softplus(x))


@elementwise
def softsign(x: Vector) -> Vector:
    return x / (1.0 + vabs(x))


@elementwise
def clip_scaled(x: Vector, slope: Number, offset: Number, low: Number, high: Number) -> Vector:
    return vmax(vmin(fma(x, slope, offset), high), low)


@elementwise
def hardswish(x: Vector) -> Vector:
    return x * vmax(vmin(fma(x, splat(1 / 6), splat(0.5)), splat(1.0)), splat(0.0))


@elementwise
def exp(x: Vector) -> Vector:
    return f.exp(x)


@elementwise
def log(x: Vector) -> Vector:
    return f.log(x)


@elementwise
def erf(x: Vector) -> Vector:
    return f.erf(x)


@elementwise
def sqrt(x: Vector) -> Vector:
    return vsqrt(x)


@elementwise
def absolute(x: Vector) -> Vector:
    return vabs(x)


@elementwise
def square(x: Vector) -> Vector:
    return x * x


@dataclass(eq=False)
class _Activation(Op):
    """One value in, the same shape out."""

    kernel: ClassVar[Kernel]
    onnx_kind: ClassVar[str] = ""

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(shapes)}")
        return shapes[0]

    def formula(self, x: Array) -> Any:
        """Return the plain equation, in float64."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """Return the kernel's operands beside the input."""
        return {}

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(xs[0]))

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(self.kernel, x=xs[0], y=y, n=y.size, **self.numbers())
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op(self.onnx_kind or type(self).__name__, xs[0])


class ReLU(_Activation):
    """``max(x, 0)``."""

    kernel, onnx_kind = relu, "Relu"

    def formula(self, x: Array) -> Any:
        return np.maximum(x, 0)


@dataclass(eq=False)
class LeakyReLU(_Activation):
    """``x`` where positive, else ``negative_slope * x``."""

    negative_slope: float = 0.01

    kernel: ClassVar[Kernel] = leaky_relu

    def formula(self, x: Array) -> Any:
        return np.where(x < 0, self.negative_slope * x, x)

    def numbers(self) -> dict[str, float]:
        return {"slope": self.negative_slope}

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("LeakyRelu", xs[0], alpha=self.negative_slope)


@dataclass(eq=False)
class PReLU(_Activation):
    """``x`` where positive, else ``weight * x``, with one weight or one for each channel.

    Weight: ``weight`` (num_parameters,); with more than one, frames are float32 [shape=(C, …)].

    Parameters
    ----------
    num_parameters : int
        1, or the channels C.
    init : float
        What the weights begin with.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If `num_parameters` is not a positive integer or `init` is not finite.
    """

    num_parameters: int = 1
    init: float = 0.25

    def check(self) -> None:
        self.at_least(num_parameters=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.num_parameters,)}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full(shape, self.init, np.float32)

    def output_shape(self, *shapes: Shape) -> Shape:
        shape = super().output_shape(*shapes)
        if self.num_parameters not in (1, *shape[:1]):
            raise GraphError(
                f"{self!r} expects frames of shape ({self.num_parameters}, …), got {shape}"
            )
        return shape

    def slopes(self, weight: Array, shape: Shape) -> Array:
        """Return the weight in a shape that broadcasts against a frame."""
        return weight.reshape(-1, *(1,) * (len(shape) - 1)) if self.num_parameters > 1 else weight

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = xs[0]
        return np.where(x < 0, self.slopes(weights["weight"], x.shape) * x, x)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, shape = tape.output(), xs[0].shape
        slope = np.broadcast_to(self.slopes(self.weights["weight"], shape), shape).reshape(-1)
        tape.emit(prelu, x=xs[0], slope=tape.vector(slope), y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("PRelu", xs[0], g.constant(self.slopes(self.weights["weight"], g.shape())))


@dataclass(eq=False)
class ELU(_Activation):
    """``x`` where positive, else ``alpha * (exp(x) - 1)``."""

    alpha: float = 1.0

    kernel: ClassVar[Kernel] = elu

    def formula(self, x: Array) -> Any:
        return np.where(x < 0, self.alpha * np.expm1(x), x)

    def numbers(self) -> dict[str, float]:
        return {"alpha": self.alpha, "scale": 1.0}

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Elu", xs[0], alpha=self.alpha)


class SELU(_Activation):
    """``1.0507 * ELU(x)`` with ``alpha`` = 1.6733 (Klambauer et al., 2017, equation 2)."""

    kernel = elu

    def formula(self, x: Array) -> Any:
        return SELU_SCALE * np.where(x < 0, SELU_ALPHA * np.expm1(x), x)

    def numbers(self) -> dict[str, float]:
        return {"alpha": SELU_ALPHA, "scale": SELU_SCALE}

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Selu", xs[0], alpha=SELU_ALPHA, gamma=SELU_SCALE)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    kernel = tanh

    def formula(self, x: Array) -> Any:
        return np.tanh(x)


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``."""

    kernel = sigmoid

    def formula(self, x: Array) -> Any:
        return 1 / (1 + np.exp(-x))


class SiLU(_Activation):
    """``x * sigmoid(x)``, also called swish."""

    kernel = silu

    def formula(self, x: Array) -> Any:
        return x / (1 + np.exp(-x))

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Mul", xs[0], g.op("Sigmoid", xs[0]))


@dataclass(eq=False)
class GELU(_Activation):
    """``x * Phi(x)`` (Hendrycks and Gimpel, 2016).

    Phi is exact with `approximate` ``"none"``, and a formula with tanh with ``"tanh"``.
    """

    approximate: str = "none"

    def check(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ConfigError(
                f"GELU: `approximate` must be 'none' or 'tanh', got {self.approximate!r}"
            )

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        return gelu if self.approximate == "none" else gelu_tanh

    def formula(self, x: Array) -> Any:
        if self.approximate == "none":
            return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def onnx(self, g: Recorder, *xs: str) -> str:
        x = xs[0]
        if self.approximate == "none":
            inner = g.op("Erf", g.op("Mul", x, g.constant(np.float32(math.sqrt(0.5)))))
        else:
            cube = g.op("Mul", g.op("Mul", g.op("Mul", x, x), x), g.constant(np.float32(0.044715)))
            factor = g.constant(np.float32(math.sqrt(2 / math.pi)))
            inner = g.op("Tanh", g.op("Mul", g.op("Add", x, cube), factor))
        half = g.op("Mul", x, g.constant(np.float32(0.5)))
        return g.op("Mul", half, g.op("Add", inner, g.constant(np.float32(1.0))))


class Softplus(_Activation):
    """``log(1 + exp(x))``."""

    kernel = softplus

    def formula(self, x: Array) -> Any:
        return np.logaddexp(0, x)


class LogSigmoid(_Activation):
    """``log(sigmoid(x))``."""

    kernel = log_sigmoid

    def formula(self, x: Array) -> Any:
        return -np.logaddexp(0, -x)

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Neg", g.op("Softplus", g.op("Neg", xs[0])))


class Mish(_Activation):
    """``x * tanh(softplus(x))`` (Misra, 2019)."""

    kernel = mish

    def formula(self, x: Array) -> Any:
        return x * np.tanh(np.logaddexp(0, x))

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Mul", xs[0], g.op("Tanh", g.op("Softplus", xs[0])))


class Softsign(_Activation):
    """``x / (1 + |x|)``."""

    kernel = softsign

    def formula(self, x: Array) -> Any:
        return x / (1 + np.abs(x))


class _Clip(_Activation):
    kernel = clip_scaled

    def line(self) -> tuple[float, float, float, float]:
        """Return slope, offset, lower and upper bound."""
        raise NotImplementedError

    def formula(self, x: Array) -> Any:
        slope, offset, low, high = self.line()
        return np.clip(x * slope + offset, low, high)

    def numbers(self) -> dict[str, float]:
        return dict(zip(("slope", "offset", "low", "high"), self.line(), strict=True))


@dataclass(eq=False)
class Hardsigmoid(_Clip):
    """``clip(slope * x + offset, 0, 1)``: torch's and Keras 3's slope is 1/6, Keras 2's 0.2."""

    slope: float = 1 / 6
    offset: float = 0.5

    def line(self) -> tuple[float, float, float, float]:
        return self.slope, self.offset, 0.0, 1.0

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("HardSigmoid", xs[0], alpha=self.slope, beta=self.offset)


@dataclass(eq=False)
class Hardtanh(_Clip):
    """``clip(x, min_val, max_val)``."""

    min_val: float = -1.0
    max_val: float = 1.0

    def check(self) -> None:
        if not self.min_val < self.max_val:
            raise ConfigError(f"{self!r}: `min_val` must be below `max_val`")

    def line(self) -> tuple[float, float, float, float]:
        return 1.0, 0.0, self.min_val, self.max_val

    def onnx(self, g: Recorder, *xs: str) -> str:
        low, high = (g.constant(np.float32(v)) for v in (self.min_val, self.max_val))
        return g.op("Clip", xs[0], low, high)


class ReLU6(_Clip):
    """``clip(x, 0, 6)``."""

    def line(self) -> tuple[float, float, float, float]:
        return 1.0, 0.0, 0.0, 6.0

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Clip", xs[0], g.constant(np.float32(0)), g.constant(np.float32(6)))


class Hardswish(_Activation):
    """``x * clip(x / 6 + 0.5, 0, 1)`` (Howard et al., 2019)."""

    kernel, onnx_kind = hardswish, "HardSwish"

    def formula(self, x: Array) -> Any:
        return x * np.clip(x / 6 + 0.5, 0, 1)

    def onnx(self, g: Recorder, *xs: str) -> str:
        if g.opset >= 14:
            return super().onnx(g, *xs)
        return g.op("Mul", xs[0], g.op("HardSigmoid", xs[0], alpha=1 / 6, beta=0.5))


class Exp(_Activation):
    """``exp(x)``."""

    kernel = exp

    def formula(self, x: Array) -> Any:
        return np.exp(x)


class Log(_Activation):
    """Natural logarithm; -inf at 0 and NaN below."""

    kernel = log

    def formula(self, x: Array) -> Any:
        return np.log(x)


class Erf(_Activation):
    """Error function."""

    kernel = erf

    def formula(self, x: Array) -> Any:
        return np.vectorize(math.erf, otypes=[float])(x)


class Sqrt(_Activation):
    """Square root; NaN below 0."""

    kernel = sqrt

    def formula(self, x: Array) -> Any:
        return np.sqrt(x)


class Abs(_Activation):
    """``|x|``."""

    kernel = absolute

    def formula(self, x: Array) -> Any:
        return np.abs(x)


class Square(_Activation):
    """``x * x``."""

    kernel = square

    def formula(self, x: Array) -> Any:
        return x * x

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Mul", xs[0], xs[0])


@kernel
def softmax(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    outer: Size,
    n: Size,
    inner: Size,
    logarithm: Size,
) -> None:
    """Over the middle axis of (outer, n, inner), after taking off the largest; sums in order."""
    for t in range(T):
        for o in range(outer):
            for i in range(inner):
                source = at(x, t * x_step + o * n * inner + i)
                result = at(y, t * y_step + o * n * inner + i)
                top = source[0]
                for j in range(1, n):
                    value = source[j * inner]
                    top = value if value > top or value != value else top
                total = np.float32(0.0)
                for j in range(n):
                    e = math.exp(source[j * inner] - top)
                    total += e
                    result[j * inner] = source[j * inner] - top if logarithm else e
                if logarithm:
                    shift = math.log(total)
                    for j in range(n):
                        result[j * inner] -= shift
                else:
                    for j in range(n):
                        result[j * inner] /= total


@dataclass(eq=False)
class Softmax(_Activation):
    """``exp(x) / sum(exp(x))`` over one axis of the frame."""

    axis: int = -1

    sums_to_one = True
    logarithm: ClassVar[bool] = False

    def output_shape(self, *shapes: Shape) -> Shape:
        checked_axis(self, self.axis, super().output_shape(*shapes))
        return shapes[0]

    def formula(self, x: Array) -> Any:
        shifted = x - x.max(self.axis, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True))
        return logs if self.logarithm else np.exp(logs)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, shape = tape.output(), xs[0].shape
        axis = checked_axis(self, self.axis, shape)
        tape.emit(
            softmax,
            x=xs[0],
            y=y,
            outer=math.prod(shape[:axis]),
            n=shape[axis],
            inner=math.prod(shape[axis + 1 :]),
            logarithm=int(self.logarithm),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        axis = checked_axis(self, self.axis, g.shape()) + 2
        return g.op(type(self).__name__, xs[0], axis=axis)


class LogSoftmax(Softmax):
    """``x - log(sum(exp(x)))`` over one axis of the frame."""

    sums_to_one = False
    logarithm = True
