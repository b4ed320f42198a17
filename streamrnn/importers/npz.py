"""NumPy's ``.npz`` archives as weights: never unpickled, every size checked before it is read."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import FileError, WeightError
from ..graph import describe
from ..layer import Layer

__all__ = ["load_npz"]

Array = npt.NDArray[Any]
MAX_BYTES = 1 << 31
"""Most bytes of all arrays that are read."""


def load_npz(
    model: Layer,
    path: str | Path,
    mapping: Mapping[str, str] | Callable[[Mapping[str, Array]], Mapping[str, Any]] | None = None,
) -> None:
    """Give a model the weights of a ``.npz`` file.

    Parameters
    ----------
    model : Layer
        Whose weights they become.
    path : str or Path
        The file.
    mapping : mapping of str to str, or callable, optional
        Each weight of the model (``"0.weight_ih"``) and the array it is in the file; or a function
        that makes the weights by name from the arrays by name, for other layouts (see
        :mod:`streamrnn.layouts`). Without one the names are the same.

    Raises
    ------
    FileError
        If the file is missing, damaged, larger than 2 GiB, or holds pickled objects.
    WeightError
        If an array is missing or the weights are not the model's; the model is left as it was.
    """
    names = set(mapping.values()) if isinstance(mapping, Mapping) else None
    arrays = _read(Path(path), names)
    if isinstance(mapping, Mapping):
        missing = sorted({name for name in mapping.values() if name not in arrays})
        if missing:
            raise WeightError(
                f"{path}: no array {', '.join(map(repr, missing))}; there are "
                f"{', '.join(_names(Path(path)))}"
            )
        weights: Any = {ours: arrays[theirs] for ours, theirs in mapping.items()}
    elif mapping is None:
        weights = arrays
    elif callable(mapping):
        try:
            weights = mapping(arrays)
        except KeyError as error:
            raise WeightError(f"{path}: no array {error}; there are {', '.join(arrays)}") from None
    else:
        raise WeightError(f"`mapping` must be a mapping or a function, got {describe(mapping)}")
    model.load_state_dict(weights)


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read(path: Path, wanted: set[str] | None) -> dict[str, Array]:
    """Return the wanted arrays that there are (all, if None)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if wanted is not None:
                members = {name: info for name, info in members.items() if name in wanted}
            if sum(info.file_size for info in members.values()) > MAX_BYTES:
                raise FileError(f"{path}: its arrays take more than {MAX_BYTES >> 30} GiB")
            arrays = {}
            for name, info in members.items():
                with archive.open(info) as file:
                    arrays[name] = _array(f"{path}: array {name!r}", file, info.file_size)
            return arrays
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except FileError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        tokenize.TokenError,
        ValueError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        SyntaxError,
        TypeError,
    ) as error:
        raise FileError(f"{path}: not an .npz file, or a damaged one: {error}") from None


def _array(who: str, file: Any, size: int) -> Array:
    """Return an array in NumPy's own format, whose numbers take what its header says."""
    shape, fortran, dtype = _header(file)
    if dtype.hasobject:
        raise FileError(f"{who} holds pickled Python objects, which are never loaded")
    if dtype.kind not in "fiub":
        raise FileError(f"{who} holds {dtype}, expected numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise FileError(f"{who} of shape {shape} does not take {size - file.tell()} bytes")
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, Any]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"an array in format {version}")
