"""Normalisations."""

from __future__ import annotations

import numpy as np

from ....graph import Value
from ....ops.norm import BatchNorm1d, LayerNorm
from ..node import Known, Tensor, Unsupported, axis_of, known, operator, reshaped, with_weights


def channels(a: Known, *args: Tensor) -> tuple[int, ...]:
    """A batch normalisation tells its channels apart."""
    return (1,)


def normalised(a: Known, x: Tensor, *args: Tensor) -> range:
    """All axes from one on."""
    return range(axis_of(a.peek("axis", -1), x), len(x.shape))


@operator("BatchNormalization", mixes=channels, weights=True)
def batch_norm(
    a: Known, n: int, x: Value, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    a.only("training_mode", 0)
    a.get("momentum", 0.9)
    a.only("spatial", 1)
    arrays = [known(t, "the weights") for t in (scale, bias, mean, var)]
    names = ("weight", "bias", "running_mean", "running_var")
    if len(x.shape) < 2 or x.shape[0] != 1:
        raise Unsupported(f"only one stream is supported, got {x.shape}")
    op = BatchNorm1d(len(arrays[0]), a.get("epsilon", 1e-5))
    y = with_weights(op, **dict(zip(names, arrays, strict=True)))(reshaped(x, x.shape[1:]))
    return reshaped(y, x.shape)


@operator("LayerNormalization", mixes=normalised, weights=True)
def layer_norm(a: Known, n: int, x: Value, scale: Tensor, bias: Tensor = None) -> Tensor:
    shape = x.shape[axis_of(a.get("axis", -1), x) :]
    a.only("stash_type", 1)
    if n > 1:
        raise Unsupported("mean and deviation as outputs are not supported")
    weight = np.broadcast_to(known(scale, "the scale"), shape)
    added = np.zeros(shape) if bias is None else np.broadcast_to(known(bias, "the bias"), shape)
    op = LayerNorm(shape, a.get("epsilon", 1e-5))
    return with_weights(op, weight=weight, bias=added)(x)
