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
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...errors import FileError, StreamrnnError, WeightError

__all__ = ["Stored", "Weights", "open_file", "parsed"]

Array = npt.NDArray[Any]

MAX_BYTES = 1 << 31
"""Most bytes of a member of an archive, and of all arrays."""
MAX_INFLATION = 1024
"""Most bytes that a byte on disk may become (deflate reaches 1032)."""
LAYERS = ("layers", "_layer_checkpoint_dependencies")
"""The group of all layers in ``.weights.h5``; the second name was tf.keras 2.13's."""


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise FileError("reading Keras files needs h5py: pip install streamrnn[keras]") from None
    return h5py


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
                yield _hdf5(_opened(opened, content))
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
    file = _opened(opened, _member(archive, "model.weights.h5"))
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


def _opened(opened: contextlib.ExitStack, content: bytes) -> Any:
    """Return HDF5 opened by h5py, once its heaps of texts have been seen to end.

    In a damaged heap, whose objects have sizes that make no sense, the HDF5 library may go round
    forever (https://docs.hdfgroup.org, "Global Heap": a header of 16 bytes, then objects of 16 and
    their size, rounded up to 8).
    """
    start = content.find(b"GCOL")
    while start >= 0:
        size = int.from_bytes(content[start + 8 : start + 16], "little")
        place, end = start + 16, start + size
        while place + 16 <= min(end, len(content)):
            number = int.from_bytes(content[place : place + 2], "little")
            length = int.from_bytes(content[place + 8 : place + 16], "little")
            taken = (
                length if number == 0 else 16 + length
            )  # number 0 is free space, header included
            if not 16 <= taken <= end - place:
                raise FileError(
                    f"a damaged Keras file: a text of {length} bytes in a heap of {size}"
                )
            place += (taken + 7) // 8 * 8
        start = content.find(b"GCOL", start + 4)
    return opened.enter_context(_h5py().File(io.BytesIO(content), "r"))


def _hdf5(file: Any) -> Stored:
    keras = _major(file.attrs.get("keras_version"))
    if "model_config" in file.attrs:
        config = parsed(_text(file.attrs["model_config"]), "model_config")
        group = _get(file, "model_weights")
        return Stored(
            config, keras or _major(group.attrs.get("keras_version")), NamedWeights(group)
        )
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return Stored(None, keras, NamedWeights(file))
    if any(name in file for name in LAYERS):
        return Stored(None, 3, PathWeights(file))
    raise FileError("an HDF5 file that holds no Keras model: no model_config, no layers")


def _major(version: Any) -> int:
    found = re.match(r"\d+", _text(version)) if version is not None else None
    return int(found.group()) if found else 0


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


# Arrays -------------------------------------------------------------------------------------------


def _get(group: Any, path: str) -> Any:
    """Return what lies at a path, by hard links only."""
    for part in filter(None, path.split("/")):
        link = group.get(part, getlink=True)
        if link is None:
            raise FileError(f"the file has no {path!r} in {group.name!r}")
        if not isinstance(link, _h5py().HardLink):
            raise FileError(f"{part!r} in {group.name!r} is a link to elsewhere: never followed")
        group = group[part]
    return group


def _array(dataset: Any) -> Array:
    """Return an array that lies in this very file, in numbers it has bytes for."""
    name = getattr(dataset, "name", "?")
    if not isinstance(dataset, _h5py().Dataset) or dataset.shape is None:
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


class Weights:
    """Arrays of the layers of a file."""

    def of(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Array]]:
        """Return the arrays of each layer, by its name, in the order in which Keras keeps them.

        Parameters
        ----------
        layers : sequence of mapping
            The layers' configurations, all those of the model, in order.
        """
        raise NotImplementedError

    def all(self) -> dict[str, list[Array]]:
        """Return the arrays of each layer that has some, by its name in the file."""
        raise NotImplementedError

    def refuse_others(self, wanted: Sequence[str]) -> None:
        """Raise WeightError if the file has arrays of other layers."""
        others = sorted(self.all().keys() - set(wanted))
        if others:
            raise WeightError(
                f"the file has weights of {', '.join(others)}, which the model has not; its layers "
                f"are {', '.join(wanted)}"
            )


class NamedWeights(Weights):
    """The older format: groups by the layers' names, each with the names of its arrays in order."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def of(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Array]]:
        names = set(self._names(self.group, "layer_names"))
        wanted = [str(layer["config"]["name"]) for layer in layers]
        self.refuse_others(wanted)
        return {name: self._arrays(name) if name in names else [] for name in wanted}

    def all(self) -> dict[str, list[Array]]:
        found = {n: self._arrays(n) for n in self._names(self.group, "layer_names")}
        return {name: arrays for name, arrays in found.items() if arrays}

    def _arrays(self, name: str) -> list[Array]:
        group = _get(self.group, name)
        return [_array(_get(group, n)) for n in self._names(group, "weight_names")]

    def _names(self, group: Any, attribute: str) -> list[str]:
        """Return a list of texts; a long one is kept in pieces, ``weight_names0`` and so on."""
        pieces = [attribute] if attribute in group.attrs else []
        while not pieces or f"{attribute}{len(pieces) - 1}" in group.attrs:
            if pieces == [attribute]:
                break
            pieces.append(f"{attribute}{len(pieces)}")
        return [_text(n) for piece in pieces for n in group.attrs.get(piece, ())]


class PathWeights(Weights):
    """The newer format: groups by the layers' classes, numbered, each with ``vars/0`` and so on."""

    def __init__(self, file: Any) -> None:
        names = [name for name in LAYERS if name in file]
        self.group = _get(file, names[0]) if names else file

    def of(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, list[Array]]:
        paths = _numbered([str(layer["class_name"]) for layer in layers])
        self.refuse_others(paths)
        return {
            str(layer["config"]["name"]): self._arrays(self.group, path, layer)
            for path, layer in zip(paths, layers, strict=True)
        }

    def all(self) -> dict[str, list[Array]]:
        nothing: dict[str, Any] = {"class_name": "", "config": {}}
        found = {}
        for name in self.group:
            cell = {"class_name": "LSTM" if "cell" in _get(self.group, name) else ""}
            found[name] = self._arrays(self.group, name, nothing | cell)
        return {name: arrays for name, arrays in found.items() if arrays}

    def _arrays(self, parent: Any, path: str, layer: Mapping[str, Any]) -> list[Array]:
        """Return the arrays of a layer, and of the layers in it."""
        if path not in parent:
            return []  # a layer without weights
        group, kind, config = _get(parent, path), layer["class_name"], layer["config"]
        arrays = []
        if "vars" in group:
            variables = _get(group, "vars")
            arrays = [_array(_get(variables, n)) for n in sorted(variables, key=int)]
        if kind in ("SimpleRNN", "LSTM", "GRU"):
            arrays += self._arrays(group, "cell", {"class_name": "", "config": {}})
        for part, inner in (("cell", config.get("cell")), ("layer", config.get("layer"))):
            if isinstance(inner, Mapping):
                arrays += self._arrays(group, part, inner)
        cells = config.get("cells") or []
        if cells and "cells" in group:
            inside = _get(group, "cells")
            for name, cell in zip(_numbered([c["class_name"] for c in cells]), cells, strict=True):
                arrays += self._arrays(inside, name, cell)
        return arrays


def _numbered(classes: Sequence[str]) -> list[str]:
    """Return what Keras calls objects of these classes: ``lstm``, ``dense``, ``lstm_1``."""
    seen: dict[str, int] = {}
    names = []
    for name in classes:
        snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
        count = seen[snake] = seen.get(snake, -1) + 1
        names.append(f"{snake}_{count}" if count else snake)
    return names
