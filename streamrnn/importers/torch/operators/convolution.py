"""Convolutions and pooling of torch's, in terms of ONNX's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...onnx.node import Tensor, Unsupported
from ..table import aten

if TYPE_CHECKING:
    from ..walk import Walk

__all__: list[str] = []


def _all(given: Any, rank: int) -> list[int]:
    """Return a number for each axis, of which torch takes one for all."""
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * rank if len(numbers) == 1 else numbers


def _batched(f: Walk, x: Tensor, rank: int) -> tuple[Tensor, bool]:
    """Return the input with a batch axis, and whether it had none."""
    if len(x.shape) == rank + 2:
        return x, False
    return f("Unsqueeze", x, np.array([0])), True


def _unbatched(f: Walk, y: Tensor, alone: bool) -> Tensor:
    return f("Squeeze", y, np.array([0])) if alone else y


@aten("conv1d", "conv2d")
def conv(
    f: Walk,
    x: Tensor,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    rank = len(weight.shape) - 2
    strides, dilations = _all(stride, rank), _all(dilation, rank)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = [r // 2 for r in reach] + [r - r // 2 for r in reach]
    else:
        pads = 2 * ([0] * rank if padding == "valid" else _all(padding, rank))
    x, alone = _batched(f, x, rank)
    y = f("Conv", x, weight, bias, strides=strides, pads=pads, dilations=dilations, group=groups)
    return _unbatched(f, y, alone)


@aten("conv_transpose1d", "conv_transpose2d")
def conv_transpose(
    f: Walk,
    x: Tensor,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    rank = len(weight.shape) - 2
    x, alone = _batched(f, x, rank)
    y = f(
        "ConvTranspose",
        x,
        weight,
        bias,
        strides=_all(stride, rank),
        pads=2 * _all(padding, rank),
        output_padding=_all(output_padding, rank),
        dilations=_all(dilation, rank),
        group=groups,
    )
    return _unbatched(f, y, alone)


def _pooled(
    f: Walk, kind: str, x: Tensor, kernel: Any, stride: Any, padding: Any, **more: Any
) -> Tensor:
    rank = 2 if "2d" in f.operator else 1
    x, alone = _batched(f, x, rank)
    taps = _all(kernel, rank)
    strides = _all(stride, rank) if stride not in (None, []) else taps
    y = f(kind, x, kernel_shape=taps, strides=strides, pads=2 * _all(padding, rank), **more)
    return _unbatched(f, y, alone)


@aten("max_pool1d", "max_pool2d")
def max_pool(
    f: Walk, x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Tensor:
    rank = 2 if "2d" in f.operator else 1
    more = {"dilations": _all(dilation, rank), "ceil_mode": int(ceil_mode)}
    return _pooled(f, "MaxPool", x, kernel_size, stride, padding, **more)


@aten("avg_pool1d", "avg_pool2d")
def avg_pool(
    f: Walk,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any = None,
) -> Tensor:
    if divisor_override is not None:
        raise Unsupported(f"divisor_override={divisor_override} is not supported")
    more = {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_include_pad)}
    return _pooled(f, "AveragePool", x, kernel_size, stride, padding, **more)


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def pool_of_all(f: Walk, x: Tensor, output_size: Sequence[int]) -> Tensor:
    if set(_all(output_size, 1)) != {1}:
        raise Unsupported(f"output_size={output_size} is not supported, only 1")
    axes = np.arange(len(x.shape) - (2 if "2d" in f.operator else 1), len(x.shape))
    kind = "Mean" if "avg" in f.operator else "Max"
    y = f(f"Reduce{kind}", x, axes, keepdims=1)
    return y if kind == "Mean" else (y, None)
