"""HDF5 as Keras writes it, read with h5py: what leads out of the file is refused."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import FileError

__all__ = ["MAX_BYTES", "Array", "array_of", "get", "library", "open_hdf5", "text"]

Array = npt.NDArray[Any]

MAX_BYTES = 1 << 31
"""Most bytes of a member of an archive, and of all arrays."""
HEAP = b"GCOL\x01\0\0\0"
"""How a heap of texts begins."""
MAX_INFLATION = 1024
"""Most bytes that a byte on disk may become (deflate reaches 1032)."""


def library() -> Any:
    """Return h5py, or raise FileError that names the extra."""
    try:
        import h5py
    except ImportError:
        raise FileError("reading Keras files needs h5py: pip install streamrnn[keras]") from None
    return h5py


def open_hdf5(opened: contextlib.ExitStack, content: bytes) -> Any:
    """Return the content of an HDF5 file, opened by h5py."""
    _check_heaps(content)
    return opened.enter_context(library().File(io.BytesIO(content), "r"))


def _check_heaps(content: bytes) -> None:
    """Raise FileError for a heap of texts in which the HDF5 library would go round forever.

    A heap is a header of 16 bytes and objects, each a header of 16 bytes and its own size, rounded
    up to 8; object number 0 is free space, whose size includes its header (HDF5 File Format
    Specification, "Global Heap").
    """
    start = content.find(HEAP)
    while start >= 0:
        size = int.from_bytes(content[start + 8 : start + 16], "little")
        place, end = start + 16, start + size
        while place + 16 <= min(end, len(content)):
            number = int.from_bytes(content[place : place + 2], "little")
            length = int.from_bytes(content[place + 8 : place + 16], "little")
            taken = 16 + length if number else length
            if not 16 <= taken <= end - place:
                raise FileError(f"damaged: a text of {length} bytes in a heap of {size}")
            place += (taken + 7) // 8 * 8
        start = content.find(HEAP, start + 8)


def get(group: Any, path: str) -> Any:
    """Return what lies at a path, by hard links only."""
    for part in filter(None, path.split("/")):
        link = group.get(part, getlink=True)
        if link is None:
            raise FileError(f"the file has no {path!r} in {group.name!r}")
        if not isinstance(link, library().HardLink):
            raise FileError(f"{part!r} in {group.name!r} is a link to elsewhere: never followed")
        group = group[part]
    return group


def array_of(dataset: Any) -> Array:
    """Return an array that lies in this very file, in numbers it has bytes for."""
    name = getattr(dataset, "name", "?")
    if not isinstance(dataset, library().Dataset) or dataset.shape is None:
        raise FileError(f"{name!r} is no array")
    if dataset.external or dataset.is_virtual:
        raise FileError(f"{name!r} keeps its numbers in another file: never followed")
    bfloat16 = dataset.dtype == np.dtype("V2")  # how Keras stores what HDF5 does not know
    if dataset.dtype.kind != "f" and not bfloat16:
        raise FileError(f"{name!r} holds {dataset.dtype}, expected floating-point numbers")
    if dataset.nbytes > min(MAX_BYTES, MAX_INFLATION * dataset.id.get_storage_size()):
        raise FileError(
            f"{name!r} of shape {dataset.shape} has no bytes for its numbers in the file"
        )
    array = np.asarray(dataset[()])
    if bfloat16:  # the upper half of a float32
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array


def text(value: Any) -> str:
    """Return a text that may be kept as bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
