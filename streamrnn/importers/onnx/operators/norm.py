"""Normalisations."""

from __future__ import annotations

import functools

import numpy as np

from ....graph import Value
from ....ops import activations as act
from ....ops import compare
from ....ops.mathematics import Reciprocal
from ....ops.norm import BatchNorm1d, LayerNorm, RMSNorm
from ....ops.rearrange import Slice
from ....ops.reduce import Mean
from ..node import (
    Handler,
    Known,
    Tensor,
    Unsupported,
    axis_of,
    known,
    operator,
    reshaped,
    with_weights,
)
from .elementwise import combined, together
from .indexing import placed
from .reduce import over_axes, summed


def channels(a: Known, *args: Tensor) -> tuple[int, ...]:
    """A batch normalisation tells its channels apart."""
    return (1,)


def normalised(a: Known, x: Tensor, *args: Tensor) -> range:
    """All axes from one on."""
    return range(axis_of(a.peek("axis", -1), x), len(x.shape))


def all_but_batch(a: Known, x: Tensor, *args: Tensor) -> range:
    """The channels and all that is in them."""
    return range(1, len(x.shape))


def one_axis(a: Known, x: Tensor, *args: Tensor) -> tuple[int]:
    return (axis_of(a.peek("axis", -1), x),)


def chosen_axes(a: Known, x: Tensor, *args: Tensor) -> list[int]:
    return [axis_of(i, x) for i in a.peek("axes", [0, 2, 3])]


def per_channel(x: Value, weight: Tensor, bias: Tensor) -> Value:
    """Return ``x * weight + bias`` with a number for each entry of axis 1."""
    rest = (1,) * (len(x.shape) - 2)
    x = combined("Mul", x, np.reshape(known(weight, "the scale"), (-1, *rest)))
    return combined("Add", x, np.reshape(known(bias, "the bias"), (-1, *rest)))


@operator("BatchNormalization", mixes=channels, weights=True)
def batch_norm(
    a: Known, n: int, x: Value, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    a.only("training_mode", 0)
    a.get("momentum", 0.9)
    a.only("spatial", 1)
    if n > 1:
        raise Unsupported("the statistics as outputs are not supported")
    arrays = [known(t, "the weights") for t in (scale, bias, mean, var)]
    eps = a.get("epsilon", 1e-5)
    if len(x.shape) < 2:
        raise Unsupported(f"shape {x.shape} has no channels")
    if x.shape[0] != 1 or eps <= 0:
        gain, shift, mean, var = (array.astype(np.float64) for array in arrays)
        gain = gain / np.sqrt(var + eps)
        return per_channel(x, gain, shift - mean * gain)
    names = ("weight", "bias", "running_mean", "running_var")
    op = BatchNorm1d(len(arrays[0]), eps)
    y = with_weights(op, **dict(zip(names, arrays, strict=True)))(reshaped(x, x.shape[1:]))
    return reshaped(y, x.shape)


def layer_normalised(
    x: Value, axis: int, eps: float, scale: Tensor, bias: Tensor, simple: bool = False
) -> Value:
    """Return a layer normalisation of the axes from `axis` on (by the root mean square: simple)."""
    shape = x.shape[axis:]
    arrays = [t for t in (scale, bias) if t is not None]
    fixed = all(not isinstance(t, Value) and np.ndim(t) <= len(shape) for t in arrays) and eps > 0
    kind = RMSNorm if simple else LayerNorm
    if fixed and np.broadcast_shapes(shape, *(np.shape(t) for t in arrays)) == shape:
        added = np.zeros(shape) if bias is None else np.broadcast_to(bias, shape)
        weights = {"weight": np.broadcast_to(np.ones(1) if scale is None else scale, shape)}
        return with_weights(kind(shape, eps), **weights, **({} if simple else {"bias": added}))(x)
    y = normalised_alone(x, axis, eps, simple)
    y = y if scale is None else combined("Mul", y, scale)
    return y if bias is None else combined("Add", y, bias)


def normalised_alone(x: Value, axis: int, eps: float, simple: bool = False) -> Value:
    if eps > 0:
        return (RMSNorm if simple else LayerNorm)(x.shape[axis:], eps, False)(x)
    axes = range(axis, len(x.shape))
    x = x if simple else x - over_axes(Mean, x, axes)
    return x / act.Sqrt()(over_axes(Mean, act.Square()(x), axes) + eps)


@operator("LayerNormalization", mixes=normalised, weights=True)
def layer_norm(a: Known, n: int, x: Value, scale: Tensor, bias: Tensor = None) -> Tensor:
    axis, eps = axis_of(a.get("axis", -1), x), a.get("epsilon", 1e-5)
    a.only("stash_type", 1)
    y = layer_normalised(x, axis, eps, scale, bias)
    return y if n == 1 else (y, *statistics(x, axis, eps)[: n - 1])


def statistics(x: Value, axis: int, eps: float) -> tuple[Value, Value]:
    """Return mean and 1 / standard deviation of the axes from one on."""
    axes = range(axis, len(x.shape))
    mean = over_axes(Mean, x, axes)
    variance = over_axes(Mean, act.Square()(x - mean), axes)
    return mean, Reciprocal()(act.Sqrt()(variance + eps))


@operator("RMSNormalization", mixes=normalised, weights=True)
def rms_norm(a: Known, n: int, x: Value, scale: Tensor) -> Tensor:
    a.only("stash_type", 1)
    eps = a.get("epsilon", 1e-5)
    return layer_normalised(x, axis_of(a.get("axis", -1), x), eps, scale, None, True)


@operator("SimplifiedLayerNormalization", mixes=normalised, weights=True)
def simplified_layer_norm(a: Known, n: int, x: Value, scale: Tensor) -> Tensor:
    if n > 1:
        raise Unsupported("the deviation as output is not supported")
    return rms_norm(a, n, x, scale)


def skipped(simple: bool) -> Handler:
    def handler(a: Known, n: int, x: Tensor, skip: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        beta, bias = ((None,) if simple else ()) + (*rest, None, None)[: 2 - simple]
        total = combined("Add", x, skip)
        total = total if bias is None else combined("Add", total, bias)
        eps = a.get("epsilon", 1e-5 if simple else 1e-12)
        y = layer_normalised(total, len(total.shape) - 1, eps, scale, beta, simple)
        mean, deviation = statistics(total, len(total.shape) - 1, eps) if n > 1 else (y, y)
        return (y, mean, deviation, total)[:n] if n > 1 else y

    return handler


operator("com.microsoft.SkipLayerNormalization", mixes=normalised)(skipped(False))
operator("com.microsoft.SkipSimplifiedLayerNormalization", mixes=normalised)(skipped(True))


@operator("InstanceNormalization", mixes=all_but_batch, weights=True)
def instance_norm(a: Known, n: int, x: Value, scale: Tensor, bias: Tensor) -> Tensor:
    if len(x.shape) < 3:
        raise Unsupported(f"shape {x.shape} has nothing to normalise over")
    return per_channel(normalised_alone(x, 2, a.get("epsilon", 1e-5)), scale, bias)


@operator("GroupNormalization", mixes=all_but_batch, weights=True)
def group_norm(a: Known, n: int, x: Value, scale: Tensor, bias: Tensor) -> Tensor:
    a.only("stash_type", 1)
    groups, count = a.get("num_groups", 0), x.shape[1] if len(x.shape) > 1 else 0
    if groups < 1 or not count or count % groups:
        raise Unsupported(f"{count} channels cannot be put into {groups} groups")
    rows = reshaped(x, (x.shape[0], groups, x.size // (x.shape[0] * groups)))
    y = reshaped(normalised_alone(rows, 2, a.get("epsilon", 1e-5)), x.shape)
    arrays = [known(t, "scale and bias") for t in (scale, bias)]
    if a.opset < 21:  # one number for each group
        arrays = [np.repeat(array, count // groups) for array in arrays]
    return per_channel(y, *arrays)


@operator("LpNormalization", mixes=one_axis)
def lp_norm(a: Known, n: int, x: Value) -> Tensor:
    axis, p = axis_of(a.get("axis", -1), x), a.get("p", 2)
    if p == 1:
        norm = summed(act.Abs()(x), [axis])
    elif p == 2:
        norm = act.Sqrt()(summed(act.Square()(x), [axis]))
    else:
        raise Unsupported(f"the norm p={p} is not supported")
    zero = compare.Equal()(*together(norm, np.float32(0)))  # where all is zero it stays so
    return x / (norm + zero)


@operator("MeanVarianceNormalization", mixes=chosen_axes)
def mean_variance_norm(a: Known, n: int, x: Value) -> Tensor:
    axes = [axis_of(i, x) for i in a.get("axes", [0, 2, 3])]
    centred = x - over_axes(Mean, x, axes)
    deviation = act.Sqrt()(over_axes(Mean, act.Square()(centred), axes))
    return centred / (deviation + 1e-9)


@operator("LRN", mixes=channels)
def local_response_norm(a: Known, n: int, x: Value) -> Tensor:
    size, beta = a.get("size", 1), a.get("beta", 0.75)
    alpha, bias = a.get("alpha", 0.0001), a.get("bias", 1.0)
    if len(x.shape) < 2 or bias <= 0 or alpha < 0:
        raise Unsupported(f"shape {x.shape}, bias {bias}, alpha {alpha}")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    width = [(0, 0), (before, after), *[(0, 0)] * (len(x.shape) - 2)]
    a.reserve(x.size * size)
    positions = np.pad(np.arange(1, x.size + 1).reshape(x.shape), width)
    squares = placed([act.Square()(x)], positions)
    windows = [Slice(i, i + x.shape[1], 1)(squares) for i in range(size)]
    total = functools.reduce(lambda x, y: x + y, windows)
    power = compare.Pow()(*together(total * (alpha / size) + bias, np.float32(beta)))
    return x / power
