"""Products of matrices, embeddings, normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....graph import Value
from ...onnx.node import Known, Tensor, Timed, Unsupported, operator
from ...onnx.operators.linear import weighed
from ..table import aten

if TYPE_CHECKING:
    from ..walk import Walk

__all__: list[str] = []


@operator("streamrnn.torch.Linear", mixes=lambda a, x, *_: (len(x.shape) - 1,), weights=True)
def _linear(a: Known, n: int, x: Value, weight: Any, bias: Any = None) -> Value:
    return weighed(x, weight, bias)


@aten("linear")
def linear(f: Walk, x: Tensor, weight: Any, bias: Any) -> Tensor:
    if not isinstance(x, (Value, Timed)) or isinstance(weight, (Value, Timed)):
        raise Unsupported("the weight depends on the frame")
    return f("streamrnn.torch.Linear", x, weight, bias)


@aten("addmm")
def addmm(f: Walk, x: Any, mat1: Tensor, mat2: Any, beta: float, alpha: float) -> Tensor:
    product = f("Mul", f("MatMul", mat1, mat2), np.float32(alpha))
    return f("Add", product, x if beta == 1 else f("Mul", x, np.float32(beta)))


@aten("matmul", "mm", "bmm")
def matmul(f: Walk, x: Tensor, other: Any = None, mat2: Any = None) -> Tensor:
    return f("MatMul", x, mat2 if other is None else other)


@aten("einsum")
def einsum(f: Walk, equation: str, tensors: Sequence[Tensor], path: Any = None) -> Tensor:
    return f("Einsum", *tensors, equation=equation.replace(" ", ""))


@aten("scaled_dot_product_attention")
def attention(f: Walk, query: Tensor, **how: Any) -> Tensor:
    if isinstance(query, Timed):
        raise Unsupported("attention needs the whole sequence, of which a stream has only the past")
    raise Unsupported("attention within a frame is not supported")


@aten("embedding")
def embedding(
    f: Walk,
    weight: Any,
    indices: Tensor,
    padding_idx: int,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> Tensor:
    return f("Gather", weight, indices, axis=0)


@aten("layer_norm")
def layer_norm(
    f: Walk,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Any,
    bias: Any,
    eps: float,
    cudnn_enable: bool,
) -> Tensor:
    ones = torch.ones(tuple(normalized_shape)) if weight is None else weight
    return f("LayerNormalization", x, ones, bias, axis=-len(normalized_shape), epsilon=eps)


@aten("rms_norm")
def rms_norm(
    f: Walk, x: Tensor, normalized_shape: Sequence[int], weight: Any, eps: float | None
) -> Tensor:
    ones = torch.ones(tuple(normalized_shape)) if weight is None else weight
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return f("RMSNormalization", x, ones, axis=-len(normalized_shape), epsilon=eps)


@aten("group_norm")
def group_norm(
    f: Walk, x: Tensor, num_groups: int, weight: Any, bias: Any, eps: float, cudnn_enabled: bool
) -> Tensor:
    C = x.shape[1]
    weight = torch.ones(C) if weight is None else weight
    bias = torch.zeros(C) if bias is None else bias
    return f("GroupNormalization", x, weight, bias, num_groups=num_groups, epsilon=eps)


@aten("batch_norm", "instance_norm")
def batch_norm(
    f: Walk,
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    eps: float,
    cudnn_enabled: bool,
    momentum: float,
    training: bool = False,
    use_input_stats: bool = False,
) -> Tensor:
    if training or use_input_stats or running_mean is None:
        raise Unsupported(
            "its statistics are those of the whole sequence, of which a stream has only the past: "
            "train it with track_running_stats=True"
        )
    weight = torch.ones_like(running_mean) if weight is None else weight
    bias = torch.zeros_like(running_mean) if bias is None else bias
    return f("BatchNormalization", x, weight, bias, running_mean, running_var, epsilon=eps)
