"""What a Keras file holds: its configuration, the version that wrote it, and arrays by layer.

Three kinds are read, told apart by their content:

- ``.keras`` (Keras 3, and tf.keras from 2.13): a zip archive of ``config.json``, ``metadata.json``
  and ``model.weights.h5``;
- ``.h5`` of a whole model: the configuration as JSON in an attribute, arrays by the layers' names;
- weights only: ``.weights.h5`` (groups named after the layers' classes) or the older ``.h5``.

Nothing is executed. Links that leave the file are refused, and sizes are checked before memory is
taken.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ...errors import FileError, StreamrnnError
from .hdf5 import MAX_BYTES, get, open_hdf5, text
from .weights import LAYERS, NamedWeights, PathWeights, Weights

__all__ = ["Stored", "open_file", "parsed"]


@dataclass
class Stored:
    """A file that is open."""

    config: Mapping[str, Any] | None
    """The model's configuration; None for a file of weights only."""
    keras: int
    """Major version of the Keras that wrote it, 0 if not said."""
    weights: Weights


@contextlib.contextmanager
def open_file(source: str | Path | BinaryIO) -> Iterator[Stored]:
    """Open a Keras file, and close it in the end.

    Raises
    ------
    FileError
        If it is missing, damaged, no Keras file, or refers to other files.
    """
    with contextlib.ExitStack() as opened:
        try:
            if isinstance(source, (str, Path)):
                source = opened.enter_context(Path(source).open("rb"))
            magic = source.read(8)
            source.seek(0)
            if magic.startswith(b"PK"):
                yield _archive(opened, source)
            elif magic == b"\x89HDF\r\n\x1a\n":
                content = source.read(MAX_BYTES + 1)
                if len(content) > MAX_BYTES:
                    raise FileError(f"takes more than {MAX_BYTES >> 30} GiB")
                yield _hdf5(open_hdf5(opened, content))
            else:
                raise FileError(
                    f"no Keras file: expected a zip archive or HDF5, it begins with {magic!r}"
                )
        except (StreamrnnError, FileNotFoundError, IsADirectoryError, PermissionError):
            raise
        except (
            OSError,  # also what h5py says of a truncated file
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            ArithmeticError,
            EOFError,
            KeyError,
            MemoryError,
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
            NotImplementedError,
            RecursionError,
        ) as error:
            raise FileError(f"a damaged Keras file: {type(error).__name__}: {error}") from None


def parsed(text: Any, what: str) -> Mapping[str, Any]:
    """Return JSON text as the mapping that it should be."""
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"{what} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise FileError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def _archive(opened: contextlib.ExitStack, source: BinaryIO) -> Stored:
    archive = opened.enter_context(zipfile.ZipFile(source))
    for name in archive.namelist():
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name:
            raise FileError(f"member {name!r} points outside the archive")
    config = parsed(_member(archive, "config.json"), "config.json")
    metadata = parsed(_member(archive, "metadata.json"), "metadata.json")
    file = open_hdf5(opened, _member(archive, "model.weights.h5"))
    return Stored(config, _major(metadata.get("keras_version")), PathWeights(file))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise FileError(
            f"no Keras archive: it has no {name}, only {', '.join(archive.namelist()[:5])}"
        ) from None
    if info.file_size > MAX_BYTES:
        raise FileError(f"{name} takes more than {MAX_BYTES >> 30} GiB")
    return archive.read(name)


def _hdf5(file: Any) -> Stored:
    keras = _major(file.attrs.get("keras_version"))
    if "model_config" in file.attrs:
        config = parsed(text(file.attrs["model_config"]), "model_config")
        group = get(file, "model_weights")
        return Stored(
            config, keras or _major(group.attrs.get("keras_version")), NamedWeights(group)
        )
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return Stored(None, keras, NamedWeights(file))
    if any(name in file for name in LAYERS):
        return Stored(None, 3, PathWeights(file))
    raise FileError("an HDF5 file that holds no Keras model: no model_config, no layers")


def _major(version: Any) -> int:
    found = re.match(r"\d+", text(version)) if version is not None else None
    return int(found.group()) if found else 0
