"""PyTorch modules as streams."""

from .convert import from_torch

__all__ = ["from_torch"]
