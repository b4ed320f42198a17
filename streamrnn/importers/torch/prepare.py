"""A module made ready: copied, in evaluation mode, in float32, on the CPU."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError, ConversionError
from ...graph import describe

__all__ = ["prepared"]


def prepared(module: Any) -> Any:
    """Return a copy of the module in evaluation mode, float32, on the CPU; refuse what cannot be.

    Raises
    ------
    ConfigError
        If it is no module.
    ConversionError
        If it is quantised, lazy, compiled, complex or without numbers.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ConversionError("a TorchScript module is compiled: give the nn.Module it was made of")
    if not isinstance(module, nn.Module):
        raise ConfigError(f"from_torch: expected a torch.nn.Module, got {describe(module)}")
    for path, part in module.named_modules():
        if ".quantized" in type(part).__module__ or ".quantizable" in type(part).__module__:
            raise ConversionError(
                f"{path or 'the module itself'} ({type(part).__name__}) is quantised: convert the "
                f"float module it was made of (int8 weights can be had through ONNX)"
            )
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    converted: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        reason = _refused(tensor)
        if reason:
            raise ConversionError(f"{name}: {reason}")
        if tensor.dtype.is_floating_point and tensor.dtype != torch.float32:
            converted.setdefault(str(tensor.dtype), []).append(name)
    try:
        copied = copy.deepcopy(module, _computed(module)).cpu().float().eval().requires_grad_(False)
    except Exception as error:  # modules may hold anything
        raise ConversionError(f"the module cannot be copied: {error}") from error
    for name, tensor in copied.state_dict().items():
        if isinstance(tensor, torch.Tensor) and not tensor.isfinite().all():
            raise ConversionError(f"{name}: holds a NaN, an infinity, or one beyond float32")
    for dtype, names in converted.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"from_torch: {', '.join(names[:3])}{more}: {dtype} is converted to float32",
            stacklevel=3,
        )
    return copied


def _computed(module: Any) -> dict[int, Any]:
    """Return tensors that a module has computed for itself (weight_norm), by id, as plain copies.

    ``deepcopy`` refuses them otherwise.
    """
    held = [t for part in module.modules() for t in vars(part).values()]
    tensors = [t for t in held if isinstance(t, torch.Tensor) and not t.is_leaf]
    return {id(t): t.detach().clone() for t in tensors}


def _refused(tensor: Any) -> str:
    """Return why a weight cannot be taken, or nothing."""
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
        return "a lazy module has no weights yet: run it once on an example"
    if tensor.is_meta:
        return "on the device 'meta' there are no numbers: load weights first"
    if tensor.is_quantized:
        return "quantised: convert the float module"
    if tensor.is_complex():
        return f"{tensor.dtype} is not supported, only real numbers"
    return ""
