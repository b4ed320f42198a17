"""Numbers in two bytes, float16 and bfloat16, and the weights of an op that keeps its matrices so.

NumPy has no bfloat16: it is the upper half of a float32. Both are kept here as uint16. Rounding is
to the nearest number, halves to the even one (IEEE 754-2019, 4.3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["STORAGES", "NarrowWeights", "beyond", "narrowed", "widened"]

Array = npt.NDArray[Any]

STORAGES = ("float32", "float16", "bfloat16")
"""How an op can keep its matrices."""


def narrowed(array: Array, storage: str) -> npt.NDArray[np.uint16]:
    """Return float32 numbers [shape=(…)] rounded to two bytes each, as uint16 [same shape].

    What is beyond the range becomes infinite; see :func:`beyond`.
    """
    array = np.ascontiguousarray(array, np.float32)
    if storage == "float16":
        with np.errstate(over="ignore", under="ignore"):
            return array.astype(np.float16).view(np.uint16)
    bits = array.view(np.uint32)
    half = np.uint32(0x7FFF) + (bits >> 16 & 1)
    return np.asarray((bits + half) >> 16, np.uint16)


def widened(bits: npt.NDArray[np.uint16], storage: str) -> npt.NDArray[np.float32]:
    """Return numbers of two bytes [shape=(…)] as float32 [same shape], exactly."""
    if storage == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def beyond(array: Array, storage: str) -> str:
    """Return what is wrong with numbers that a storage cannot hold, or nothing."""
    if storage == "float32" or array.ndim < 2 or np.isfinite(rounded(array, storage)).all():
        return ""
    limit = widened(np.array(0x7BFF if storage == "float16" else 0x7F7F, np.uint16), storage)
    return (
        f"its largest number, {np.abs(array).max():g}, is over {storage}'s {limit:g}: "
        f"keep it in float32"
    )


def rounded(array: Array, storage: str) -> npt.NDArray[np.float32]:
    """Return float32 numbers rounded to two bytes each, as float32."""
    return widened(narrowed(array, storage), storage)


class NarrowWeights(Mapping[str, Array]):
    """Weights by name, of which matrices are kept in two bytes, and widened when they are read.

    Parameters
    ----------
    weights : mapping of str to array
        Weights of an op, float32.
    storage : str
        ``"float16"`` or ``"bfloat16"``.

    Attributes
    ----------
    kept : dict of str to array
        What is in memory: uint16 for matrices, float32 for vectors.
    """

    def __init__(self, weights: Mapping[str, Array], storage: str) -> None:
        self.storage = storage
        self.kept = {n: narrowed(w, storage) if w.ndim > 1 else w for n, w in weights.items()}

    def __getitem__(self, name: str) -> Array:
        array = self.kept[name]
        if array.dtype != np.uint16:
            return array
        wide = widened(array, self.storage)
        wide.flags.writeable = False
        return wide

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)
