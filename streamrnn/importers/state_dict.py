"""State dicts that torch has saved, read by torch with ``weights_only=True``: never unpickled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from ..errors import FileError
from ..graph import describe
from ..weights import listed

__all__ = ["read_state_dict"]


def read_state_dict(path: Path, key: str | None) -> dict[str, tuple[npt.NDArray[Any], str]]:
    """Return the tensors of a file of torch's by name, and their types in the file.

    Raises
    ------
    FileError
        If the file holds anything else than tensors, or more than one state dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's and pickle's errors have no common base
        first = next(iter(str(error).strip().splitlines()), repr(error))
        raise FileError(
            f"{path}: no state dict, or a damaged one ({first}). A file with other Python objects "
            f"than tensors is not read, for it may run code: where you trust it, load it with "
            f"torch and save `module.state_dict()`"
        ) from None
    found = {}
    for name, tensor in _state_dict(path, content, key).items():
        if tensor.is_quantized or tensor.is_complex() or tensor.layout != torch.strided:
            raise FileError(f"{path}: {name} is {tensor.dtype} ({tensor.layout}): not supported")
        kind = str(tensor.dtype).removeprefix("torch.")
        floats = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        found[name] = floats.detach().numpy(), kind
    return found


def _state_dict(path: Path, content: Any, key: str | None) -> Mapping[str, Any]:
    """Return the mapping of names to tensors in what torch has read."""
    if not isinstance(content, Mapping):
        raise FileError(f"{path}: expected a state dict, got {describe(content)}")
    if key is not None:
        if key not in content:
            raise FileError(f"{path}: has no key {key!r}; there are {listed(content)}")
        if not _is_state_dict(content[key]):
            raise FileError(f"{path}: {key!r} is no state dict but {describe(content[key])}")
        return dict(content[key])
    if _is_state_dict(content):
        return content
    inside = [name for name, part in content.items() if _is_state_dict(part)]
    if len(inside) != 1:
        raise FileError(
            f"{path}: expected a state dict, got a mapping of {listed(content)}"
            + (f"; say which with key={inside[0]!r}" if inside else "")
        )
    return dict(content[inside[0]])


def _is_state_dict(content: Any) -> bool:
    """Whether something is a mapping of names to tensors."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(n, str) and hasattr(t, "is_quantized") for n, t in content.items())
    )
