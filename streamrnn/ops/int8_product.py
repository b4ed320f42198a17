r"""The product that ops with int8 weights share: weights rounded once, frames as they come.

::

    W x  is about  scale_x * scale * (W_int8 (q - zero))         a scale for each row of W

Weights are whole numbers from -127 to 127. A frame becomes bytes q in its own range, by the
equations of ``DynamicQuantize``; so nothing is ever cut off, however loud a frame is, and a quiet
one keeps all its levels. The sum is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Shape
from ..kernels.integer_product import row_floats
from .dynamic_quantize import quantized
from .op import Array

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = [
    "even_gain",
    "int8_initial",
    "int8_rows",
    "int8_weights",
    "product",
    "room_for_bytes",
    "scale_name",
    "write_product",
]


def scale_name(weight: str) -> str:
    """Return what the scales of a weight are called: ``scale_ih`` for ``weight_ih``."""
    return f"scale_{weight.removeprefix('weight_')}"


def int8_weights(weights: Mapping[str, Array], moments: Mapping[str, Array]) -> dict[str, Array]:
    """Return the weights of an op with its matrices, (O, …), as int8 rows and their scales.

    Parameters
    ----------
    weights : mapping of str to float32 arrays
        Those of the float op; vectors stay as they are.
    moments : mapping of str to float64 arrays (K, K)
        Of what each matrix is multiplied with, where it is known; see :func:`int8_rows`.
    """
    made: dict[str, Array] = {}
    for name, w in weights.items():
        if w.ndim == 1:
            made[name] = w
            continue
        rows, made[scale_name(name)] = int8_rows(w.reshape(len(w), -1), moments.get(name))
        made[f"{name}_int8"] = rows.reshape(w.shape)
    return made


APART = 100.0
"""Gains differ at most by this from the one in the middle, up and down."""


def even_gain(power: Array, largest: Array) -> Array:
    """Return the gain of each channel, float32 (C,) up to 1, which its weights shall undo.

    It falls with ``sqrt(rms / largest)``: what it multiplies, and the weights divided by it, become
    equally even. Xiao et al., "SmoothQuant", 2023, equation 4 with alpha = 0.5, and the RMS where
    they have the maximum.

    Parameters
    ----------
    power : float64 [shape=(C,)]
        The sum of the squares of each channel.
    largest : float32 [shape=(C,)]
        The largest magnitude among its weights.
    """
    live = (power > 0) & (largest > 0)
    if not live.any():
        return np.ones(len(power), np.float32)
    strength = np.sqrt(np.sqrt(power[live]) / largest[live])
    middle = np.median(strength)
    every = np.full(len(power), min(strength.max(), APART * middle))
    # The others are as the strongest: they may move later, and shall not drown the rest then.
    every[live] = np.clip(strength, middle / APART, APART * middle)
    return np.asarray(every.min() / every, np.float32)


DAMPING = 0.01
"""Of the inputs' mean power, added to each input's own: inputs that never move count a little."""


def int8_rows(weight: Array, moments: Array | None = None) -> tuple[Array, Array]:
    """Return a weight (O, …) as int8, and the scale of each of its rows, float32 (O,).

    The largest of a row becomes 127 or -127; a row of zeros has scale 1. Without `moments` each
    number is rounded by itself; as well where they are all zero, or have overflowed.

    Parameters
    ----------
    weight : float32 [shape=(O, …)]
        What to round.
    moments : float64 [shape=(K, K)], optional
        The sum of ``x x^T`` over inputs x of a weight (O, K). Numbers are then rounded one column
        after another, and what a column is off by is made up for in those to come, as far as their
        inputs move together: Frantar et al., "GPTQ", 2022, equations 2 and 3.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(largest > 0, largest / np.float32(127.0), np.float32(1.0)).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # whatever is smaller rounds to zero
    if moments is None or not moments.any() or not np.isfinite(moments).all():
        return np.rint((weight.T / scale).T).astype(np.int8), scale
    left = weight.astype(np.float64) / scale[:, None]
    power = DAMPING * np.trace(moments) / len(moments)
    upper = np.linalg.cholesky(np.linalg.inv(moments + power * np.eye(len(moments)))).T
    rounded = np.empty(weight.shape, np.int8)
    for k in range(weight.shape[1]):
        rounded[:, k] = np.clip(np.rint(left[:, k]), -127, 127)
        error = (left[:, k] - rounded[:, k]) / upper[k, k]
        left[:, k + 1 :] -= np.outer(error, upper[k, k + 1 :])
    return rounded, scale


def int8_initial(name: str, shape: Shape, rng: np.random.Generator, inputs: int) -> Array:
    """Return random int8 weights, and scales with which they are as large as those of torch."""
    if name.endswith("_int8"):
        return rng.integers(-127, 128, shape).astype(np.int8)
    bound = 1 / np.sqrt(inputs)
    return (
        np.full(shape, bound / 127)
        if name.startswith("scale_")
        else rng.uniform(-bound, bound, shape)
    )


def product(weight: Array, scale: Array, x: Array) -> Array:
    """Return ``x W^T`` for rows x (…, K) by the equations above; the sums in float64, exact."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        q, scale_x, zero = quantized(row)
        rows.append(scale_x * scale * (weight @ (q - zero).astype(float)))
    return np.reshape(rows, (*x.shape[:-1], len(weight)))


def room_for_bytes(tape: Lowering, inputs: int) -> Location:
    """Return scratch for ``int8_affine``: one row for each frame."""
    return tape.temporary(row_floats(inputs, tape.lanes))


def write_product(g: Recorder, x: str, weight: Array, scale: Array, name: str) -> str:
    """Write the product in ONNX for rows of any number; return it, float32 (…, O)."""
    low = g.op("Min", _over_rows(g, "ReduceMin", x), g.constant(np.float32(0.0)))
    high = g.op("Max", _over_rows(g, "ReduceMax", x), g.constant(np.float32(0.0)))
    level = g.op("Div", g.op("Sub", high, low), g.constant(np.float32(255.0)))
    level = g.op("Where", g.op("Equal", low, high), g.constant(np.float32(1.0)), level)
    ends = g.constant(np.float32(0.0)), g.constant(np.float32(255.0))
    zero = g.op("Round", g.op("Clip", g.op("Div", g.op("Neg", low), level), *ends))
    q = g.op("Clip", g.op("Add", g.op("Round", g.op("Div", x, level)), zero), *ends)
    sums = g.op("MatMulInteger", g.op("Cast", q, to=2), g.constant(weight.T, name))
    columns = g.constant(weight.sum(axis=1, dtype=np.int32))
    shift = g.op("Mul", g.op("Cast", zero, to=6), columns)
    exact = g.op("Cast", g.op("Sub", sums, shift), to=1)
    return g.op("Mul", exact, g.op("Mul", level, g.constant(scale)))


def _over_rows(g: Recorder, kind: str, x: str) -> str:
    if g.opset >= 18:  # the axes have become an input
        return g.op(kind, x, g.ints(-1), keepdims=1)
    return g.op(kind, x, axes=[-1], keepdims=1)
