"""Normalisation of a frame: by its own statistics (layer) or by fixed ones (batch, in inference).

Layer: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 3, as ``torch.nn.LayerNorm``.
Batch: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2, as ``torch.nn.BatchNorm1d`` in
evaluation: ``y = (x - running_mean) / sqrt(running_var + eps) * weight + bias`` for each channel,
which is folded into the linear layer or convolution before it where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape, as_shape, shown
from ..kernels.simd import at, fma, hsum, lanes, load, splat, store
from ..kernels.tape import (
    Frames,
    Number,
    Scratch,
    Size,
    Weights,
    elementwise,
    helper,
    kernel,
)
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..kernels.simd import Pointer, Vector
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["BatchNorm1d", "LayerNorm", "RMSNorm"]


@helper
def row_sum(x: Pointer, n: int, mean: Any, square: int) -> Any:
    """Sum of ``x - mean`` (or of its square) over n values, in an order that depends on n alone."""
    whole = n - n % lanes()
    total, centre = splat(0.0), splat(mean)
    for i in range(0, whole, lanes()):
        d = load(x, i) - centre
        total = fma(d, d, total) if square else total + d
    result = hsum(total)
    for i in range(whole, n):
        d1 = x[i] - mean
        result += d1 * d1 if square else d1
    return result


@kernel
def layer_norm(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    rows: Size,
    n: Size,
    eps: Number,
    w: Weights,
    bias: Weights,
) -> None:
    """Each of ``rows`` rows of n values by itself."""
    size = np.float32(n)
    for t in range(T):
        for r in range(rows):
            source, result = at(x, t * x_step + r * n), at(y, t * y_step + r * n)
            mean = row_sum(source, n, np.float32(0.0), 0) / size
            scale = np.float32(1.0) / np.sqrt(row_sum(source, n, mean, 1) / size + eps)
            whole = n - n % lanes()
            for i in range(0, whole, lanes()):
                d = (load(source, i) - mean) * scale
                store(result, i, fma(d, load(w, i), load(bias, i)))
            for i in range(whole, n):
                result[i] = (source[i] - mean) * scale * w[i] + bias[i]


@dataclass(eq=False)
class LayerNorm(Op):
    """Normalise the last axes of each frame to mean 0 and variance 1, then scale and shift.

    Frames and outputs are float32 [shape=(…, *normalized_shape)]. Weights: ``weight`` and ``bias``
    (normalized_shape).

    Parameters
    ----------
    normalized_shape : int or tuple of int
        Shape of what is normalised together.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are weights.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If the shape is not made of positive integers or `eps` is not positive.
    """

    normalized_shape: int | Sequence[int]
    eps: float = 1e-5
    elementwise_affine: bool = True

    def check(self) -> None:
        check_eps(self, self.eps)

    @property
    def _shape(self) -> Shape:
        return as_shape(self.normalized_shape, "LayerNorm")

    def multiply_adds(self, *shapes: Shape) -> int:
        return 0

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": self._shape, "bias": self._shape} if self.elementwise_affine else {}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape) if name == "weight" else np.zeros(shape)

    def input_shapes(self) -> tuple[Shape, ...]:
        return (self._shape,)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or shapes[0][-len(self._shape) :] != self._shape:
            raise GraphError(
                f"{self!r} expects frames that end in {self._shape}, got {shown(shapes)}"
            )
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = xs[0]
        axes = tuple(range(x.ndim - len(self._shape), x.ndim))
        centred = x - x.mean(axes, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + self.eps)
        return np.asarray(y * weights["weight"] + weights["bias"] if self.elementwise_affine else y)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, n = tape.output(), math.prod(self._shape)
        plain = {"weight": np.ones(n, np.float32), "bias": np.zeros(n, np.float32)}
        w = plain | dict(self.weights)
        tape.emit(
            layer_norm,
            x=xs[0],
            y=y,
            rows=xs[0].size // n,
            n=n,
            eps=self.eps,
            w=tape.weight(w["weight"]),
            bias=tape.weight(w["bias"]),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        plain = {"weight": np.ones(self._shape, np.float32)}
        w = plain | dict(self.weights)
        if math.prod(self._shape) == 1:  # older versions of onnxruntime refuse a single number
            y = g.op("Sub", xs[0], xs[0])
            return g.op("Add", y, g.constant(w["bias"])) if self.elementwise_affine else y
        if g.opset < 17:  # ONNX has no operator for it yet
            return self._composed(g, xs[0], w)
        return g.op(
            "LayerNormalization",
            xs[0],
            g.constant(w["weight"], "weight"),
            g.constant(w["bias"], "bias") if self.elementwise_affine else "",
            axis=-len(self._shape),
            epsilon=self.eps,
        )

    def _composed(self, g: Recorder, x: str, w: Arrays) -> str:
        axes = [i - len(self._shape) for i in range(len(self._shape))]
        centred = g.op("Sub", x, g.op("ReduceMean", x, axes=axes))
        variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes=axes)
        root = g.op("Sqrt", g.op("Add", variance, g.constant(np.float32(self.eps))))
        y = g.op("Mul", g.op("Div", centred, root), g.constant(w["weight"], "weight"))
        return g.op("Add", y, g.constant(w["bias"], "bias")) if self.elementwise_affine else y


@kernel
def rms_norm(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    rows: Size,
    n: Size,
    eps: Number,
    w: Weights,
) -> None:
    """Each of ``rows`` rows of n values by itself."""
    size = np.float32(n)
    for t in range(T):
        for r in range(rows):
            source, result = at(x, t * x_step + r * n), at(y, t * y_step + r * n)
            squares = row_sum(source, n, np.float32(0.0), 1) / size
            scale = np.float32(1.0) / np.sqrt(squares + eps)
            whole = n - n % lanes()
            for i in range(0, whole, lanes()):
                store(result, i, load(source, i) * scale * load(w, i))
            for i in range(whole, n):
                result[i] = source[i] * scale * w[i]


@dataclass(eq=False)
class RMSNorm(Op):
    """Divide the last axes of each frame by their root mean square, then scale.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4, as
    ``torch.nn.RMSNorm``. Frames and outputs are float32 [shape=(…, *normalized_shape)]. Weight:
    ``weight`` (normalized_shape).

    Parameters
    ----------
    normalized_shape : int or tuple of int
        Shape of what is normalised together.
    eps : float
        Added to the mean square.
    elementwise_affine : bool
        Whether there is a weight.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If the shape is not made of positive integers or `eps` is not positive.
    """

    normalized_shape: int | Sequence[int]
    eps: float = 1e-5
    elementwise_affine: bool = True

    def check(self) -> None:
        check_eps(self, self.eps)

    @property
    def _shape(self) -> Shape:
        return as_shape(self.normalized_shape, "RMSNorm")

    def multiply_adds(self, *shapes: Shape) -> int:
        return 0

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": self._shape} if self.elementwise_affine else {}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape)

    def input_shapes(self) -> tuple[Shape, ...]:
        return (self._shape,)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or shapes[0][-len(self._shape) :] != self._shape:
            raise GraphError(
                f"{self!r} expects frames that end in {self._shape}, got {shown(shapes)}"
            )
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = xs[0]
        axes = tuple(range(x.ndim - len(self._shape), x.ndim))
        y = x / np.sqrt((x**2).mean(axes, keepdims=True) + self.eps)
        return np.asarray(y * weights["weight"] if self.elementwise_affine else y)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, n = tape.output(), math.prod(self._shape)
        w = {"weight": np.ones(n, np.float32)} | dict(self.weights)
        tape.emit(
            rms_norm,
            x=xs[0],
            y=y,
            rows=xs[0].size // n,
            n=n,
            eps=self.eps,
            w=tape.weight(w["weight"]),
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        axes = [i - len(self._shape) for i in range(len(self._shape))]
        squares = g.op("Mul", xs[0], xs[0])
        if g.opset >= 18:  # the axes have become an input
            mean = g.op("ReduceMean", squares, g.ints(*axes))
        else:
            mean = g.op("ReduceMean", squares, axes=axes)
        root = g.op("Sqrt", g.op("Add", mean, g.constant(np.float32(self.eps))))
        y = g.op("Div", xs[0], root)
        return g.op("Mul", y, g.constant(self.weights["weight"])) if self.elementwise_affine else y


def check_eps(op: Op, eps: float) -> None:
    """Raise ConfigError unless `eps` is a positive finite number."""
    if eps <= 0:
        raise ConfigError(f"{type(op).__name__}: `eps` must be a positive number, got {eps!r}")


@elementwise
def scale_and_shift(x: Vector, scale: Weights, shift: Weights) -> Vector:
    """``x * scale + shift``, element by element."""
    return x * scale + shift


@dataclass(eq=False)
class BatchNorm1d(Op):
    """Normalise each channel by fixed statistics, as ``torch.nn.BatchNorm1d`` in evaluation.

    Frames and outputs are float32 [shape=(C,) or (C, …)]. Weights: ``weight``, ``bias``,
    ``running_mean`` and ``running_var`` (C,). torch's counter ``num_batches_tracked`` is not one.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are ``weight`` and ``bias``.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If the size is not a positive integer or `eps` is not positive.
    """

    num_features: int
    eps: float = 1e-5
    affine: bool = True

    def check(self) -> None:
        self.at_least(num_features=1)
        check_eps(self, self.eps)

    def parameter_shapes(self) -> dict[str, Shape]:
        names = ["weight", "bias"] if self.affine else []
        return dict.fromkeys([*names, "running_mean", "running_var"], (self.num_features,))

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape) if name in ("weight", "running_var") else np.zeros(shape)

    def refuses(self, name: str, weight: Array) -> str:
        return "holds a negative variance" if name == "running_var" and (weight < 0).any() else ""

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.num_features,),)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or shapes[0][:1] != (self.num_features,):
            raise GraphError(
                f"{self!r} expects frames of shape ({self.num_features}, …), got {shown(shapes)}"
            )
        return shapes[0]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        x = np.moveaxis(xs[0], 0, -1)
        y = (x - weights["running_mean"]) / np.sqrt(weights["running_var"] + self.eps)
        if self.affine:
            y = y * weights["weight"] + weights["bias"]
        return np.moveaxis(y, -1, 0)

    def scale_and_shift(self) -> tuple[Array, Array]:
        """Return (scale, shift), float32 [shape=(C,)]: the op as ``y = scale * x + shift``."""
        w = {n: np.asarray(a, np.float64) for n, a in self.weights.items()}
        scale = w.get("weight", 1.0) / np.sqrt(w["running_var"] + self.eps)
        shift = w.get("bias", 0.0) - w["running_mean"] * scale
        return np.asarray(scale, np.float32), np.asarray(shift, np.float32)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        each = xs[0].size // self.num_features
        scale, shift = (tape.vector(np.repeat(a, each)) for a in self.scale_and_shift())
        tape.emit(scale_and_shift, x=xs[0], y=y, scale=scale, shift=shift, n=xs[0].size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        tail = (1,) * (len(g.shape()) - 1)
        scale, shift = (a.reshape(-1, *tail) for a in self.scale_and_shift())
        return g.op("Add", g.op("Mul", xs[0], g.constant(scale)), g.constant(shift))
