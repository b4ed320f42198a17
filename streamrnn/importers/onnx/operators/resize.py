"""Axes of a frame made longer or shorter: Resize, Upsample, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....graph import Shape, Value
from ....ops.arithmetic import arithmetic
from ....ops.rearrange import Take, Transpose
from ..node import (
    Array,
    Known,
    Tensor,
    Timed,
    Unsupported,
    integers,
    known,
    operator,
    over_time,
    reshaped,
    symbol,
)
from ..time import settled

F = np.float32  # in which positions are computed, as in onnxruntime


@dataclass(frozen=True)
class _Axis:
    """What becomes of one axis.

    Parameters
    ----------
    length, outputs : int
        Before and after.
    scale : float
        By how much it grows, as the node says.
    first, last : float
        The part of it that is taken, from 0 to 1.
    """

    length: int
    outputs: int
    scale: float = 1.0
    first: float = 0.0
    last: float = 1.0


def _plan(
    a: Known, shape: Shape, roi: Tensor, scales: Tensor, sizes: Tensor, cropped: bool
) -> list[_Axis]:
    """Return what becomes of each axis of a tensor of this shape."""
    rank = len(shape)
    given = a.get("axes", None)
    axes = list(range(rank)) if given is None else [i % rank for i in given]
    policy = a.get("keep_aspect_ratio_policy", "stretch")
    lengths = [shape[i] for i in axes]
    ends = np.array([[0.0] * len(axes), [1.0] * len(axes)])
    if cropped:
        ends = known(roi, "roi").astype(np.float64).reshape(2, -1)
    factors = None if scales is None else known(scales, "scales").reshape(-1)
    if factors is not None and factors.size:
        by = [float(f) for f in factors]
        wide = (ends[1] - ends[0]).tolist()
        found = [math.floor(d * w * f) for d, w, f in zip(lengths, wide, by, strict=True)]
    else:
        found = integers(sizes, "sizes")
        by = [n / d for n, d in zip(found, lengths, strict=True)]
        if policy != "stretch":
            if policy not in ("not_larger", "not_smaller"):
                raise Unsupported(f"attribute keep_aspect_ratio_policy={policy!r} is not supported")
            common = min(by) if policy == "not_larger" else max(by)
            by = [common] * len(by)
            found = [math.floor(common * d + 0.5) for d in lengths]
    if len(found) != len(axes) or ends.shape[1] != len(axes) or min(found) < 1:
        raise Unsupported(f"axes {axes} of {shape} cannot become {found}")
    made = [_Axis(d, d) for d in shape]
    for i, axis in enumerate(axes):
        made[axis] = _Axis(lengths[i], found[i], by[i], *ends[:, i].tolist())
    return made


def _positions(mode: str, axis: _Axis) -> Array:
    """Return where on the axis each output lies; the formulas are those of the specification."""
    if mode not in _TRANSFORMS:
        raise Unsupported(f"attribute coordinate_transformation_mode={mode!r} is not supported")
    i = np.arange(axis.outputs, dtype=F)
    return np.asarray(_TRANSFORMS[mode](i, F(axis.length), F(axis.outputs), F(axis.scale), axis))


def _half_pixel(i: Array, length: Any, outputs: Any, scale: Any, axis: _Axis) -> Any:
    return (i + F(0.5)) / scale - F(0.5)


def _symmetric(i: Array, length: Any, outputs: Any, scale: Any, axis: _Axis) -> Any:
    offset = length / F(2) * (F(1) - outputs / (scale * length))
    return offset + (i + F(0.5)) / scale - F(0.5)


def _cropped(i: Array, length: Any, outputs: Any, scale: Any, axis: _Axis) -> Any:
    first, last = F(axis.first), F(axis.last)
    if outputs == 1:
        return F(0.5) * (first + last) * (length - F(1)) + i
    return first * (length - F(1)) + i * (last - first) * (length - F(1)) / (outputs - F(1))


_TRANSFORMS: dict[str, Callable[..., Any]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda i, *rest: _half_pixel(i, *rest) if len(i) > 1 else i,
    "align_corners": lambda i, length, outputs, *rest: (
        i * (length - F(1)) / (outputs - F(1)) if len(i) > 1 else i
    ),
    "asymmetric": lambda i, length, outputs, scale, axis: i / scale,
    "tf_crop_and_resize": _cropped,
}


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda where: np.ceil(where - F(0.5)),
    "round_prefer_ceil": lambda where: np.floor(where + F(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(mode: str, where: Array) -> Array:
    if mode not in _NEAREST:
        raise Unsupported(f"attribute nearest_mode={mode!r} is not supported")
    return np.asarray(_NEAREST[mode](where))


def _resized(a: Known, x: Value, plan: Sequence[_Axis], transform: str, nearest: str) -> Value:
    """Return a tensor with each axis resized: one after another, which is the same as at once."""
    mode, outside = a.get("mode", "nearest"), a.get("extrapolation_value", 0.0)
    if mode not in ("nearest", "linear"):
        raise Unsupported(f"attribute mode={mode!r} is not supported, only 'nearest' and 'linear'")
    if a.get("antialias", 0) and mode == "linear" and any(p.scale < 1 for p in plan):
        raise Unsupported("attribute antialias=1 is not supported where an axis becomes shorter")
    a.get("exclude_outside", 0)  # alters nothing but cubic interpolation
    a.get("cubic_coeff_a", -0.75)
    rank, mask = len(plan), np.ones(())
    for axis, p in enumerate(plan):
        if p == _Axis(p.length, p.length):
            mask = mask[..., None] * np.ones(1)
            continue
        a.reserve(x.size // p.length * p.outputs)
        where = _positions(transform, p)
        inside = (where >= 0) & (where <= p.length - 1)
        mask = mask[..., None] * (inside if transform == "tf_crop_and_resize" else np.ones(1))
        if mode == "nearest":
            below, share = _nearest(nearest, where), np.zeros(1)
        else:
            clipped = np.clip(where, 0, p.length - 1)
            below = np.floor(clipped)
            share = clipped - below
        first = np.clip(below, 0, p.length - 1).astype(int)
        second = np.minimum(first + 1, p.length - 1)
        y = Take(tuple(first.tolist()), axis)(x)
        if share.any():
            above = Take(tuple(second.tolist()), axis)(x)
            weight = share.reshape(-1, *(1,) * (rank - 1 - axis)).astype(F)
            y = arithmetic("Add", y, arithmetic("Mul", above - y, symbol(weight, y)))
        x = y
    if not mask.all():
        x = arithmetic("Mul", x, symbol(mask.astype(F), x))
        if outside:
            x = arithmetic("Add", x, symbol(((1 - mask) * outside).astype(F), x))
    return x


def _read(a: Known, shape: Shape, given: Sequence[Tensor]) -> tuple[list[_Axis], str, str]:
    """Return what becomes of each axis, and how positions are mapped and rounded."""
    if len(given) == 1 or a.opset < 11:  # as it was before operator set 11
        plan = _plan(a, shape, None, given[0], None, cropped=False)
        odd = [p for p in plan if p.scale < 1 and (1 / p.scale) % 1]
        if odd and a.peek("mode", "nearest") == "nearest":
            raise Unsupported(
                f"operator set {a.opset} does not say which is the nearest at a scale of "
                f"{odd[0].scale}"
            )
        return plan, "asymmetric", "floor"
    roi, scales, sizes = (*given, None)[:3]
    transform = a.get("coordinate_transformation_mode", "half_pixel")
    nearest = a.get("nearest_mode", "round_prefer_floor")
    cropped = transform == "tf_crop_and_resize"
    plan = _plan(a, shape, roi, scales, sizes, cropped)
    between = [p for p in plan if F(p.scale * p.length) != p.outputs]
    if transform == "align_corners" and between:
        raise Unsupported(
            f"a scale of {between[0].scale} makes no whole number of {between[0].length}: runtimes "
            f"differ in where the corners are then"
        )
    return plan, transform, nearest


@operator("Resize", "Upsample")
def resize(a: Known, n: int, x: Value, *given: Tensor) -> Value:
    return _resized(a, x, *_read(a, x.shape, given))


@over_time("Resize", "Upsample")
def resize_frames(a: Known, n: int, x: Timed, *given: Tensor) -> Timed:
    x = settled(x)
    if x.axis is None:
        return Timed(resize(a, n, x.value, *given), None, x.length)
    plan, transform, nearest = _read(a, x.shape, given)
    if plan[x.axis] != _Axis(x.length, x.length):
        raise Unsupported(
            f"{plan[x.axis].outputs} frames are made of {x.length}: a stream hands out what comes "
            f"in, one by one"
        )
    plan[x.axis] = _Axis(1, 1)
    return Timed(_resized(a, x.value, plan, transform, nearest), x.axis, x.length)


def _blocks(a: Known, *args: Tensor) -> tuple[int, ...]:
    return (1, 2, 3)


@operator("DepthToSpace", mixes=_blocks)
def depth_to_space(a: Known, n: int, x: Value) -> Value:
    b, mode = a.get("blocksize", 1), a.get("mode", "DCR")
    N, C, H, W = _planes(x, b, mode)
    if C % (b * b):
        raise Unsupported(f"{C} channels cannot become blocks of {b} x {b}")
    D = C // (b * b)
    if mode == "DCR":
        y = Transpose((0, 3, 4, 1, 5, 2))(reshaped(x, (N, b, b, D, H, W)))
    else:
        y = Transpose((0, 1, 4, 2, 5, 3))(reshaped(x, (N, D, b, b, H, W)))
    return reshaped(y, (N, D, H * b, W * b))


@operator("SpaceToDepth", mixes=_blocks)
def space_to_depth(a: Known, n: int, x: Value) -> Value:
    b, mode = a.get("blocksize", 1), a.get("mode", "DCR")
    N, C, H, W = _planes(x, b, mode)
    if H % b or W % b:
        raise Unsupported(f"shape {x.shape} does not fall into blocks of {b} x {b}")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    y = Transpose(order)(reshaped(x, (N, C, H // b, b, W // b, b)))
    return reshaped(y, (N, C * b * b, H // b, W // b))


def _planes(x: Value, b: int, mode: str) -> Shape:
    if len(x.shape) != 4 or b < 1 or mode not in ("DCR", "CRD"):
        raise Unsupported(f"blocksize={b} and mode={mode!r} for an input of shape {x.shape}")
    return x.shape
