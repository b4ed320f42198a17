"""Arguments that several commands take: how a file is read, and which frames are fed."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from ..errors import FileError

__all__ = [
    "AsJson",
    "Constants",
    "Shapes",
    "States",
    "arrays_of",
    "check_other",
    "finite",
    "frames_of",
    "notes_of",
    "reading",
]

Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="Shape of an ONNX input, as NAME=1,576; a word, such as time, is the time axis of "
        "a sequence: NAME=1,time,40.",
    ),
]
Constants = Annotated[
    list[str] | None,
    typer.Option(
        "--constant", help="An ONNX input that never changes, as NAME=16000 or NAME=1,2,3."
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state", help="Which output of an ONNX graph feeds which input, as INPUT=OUTPUT."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def reading(
    file: Path,
    shape: Sequence[str] | None,
    constant: Sequence[str] | None,
    state: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the options with which a file is loaded; none for a file that is not ONNX.

    Raises
    ------
    FileError
        If the file is not ONNX and there are options.
    """
    options = {
        "shapes": {n: _dims(text) for n, text in _pairs("--shape", shape).items()},
        "constants": {n: _array(text) for n, text in _pairs("--constant", constant).items()},
        "states": _pairs("--state", state) if state else None,
    }
    if file.suffix == ".onnx":
        return options
    if any(options.values()):
        raise FileError(f"{file}: --shape, --constant and --state are for .onnx files")
    return {}


def check_other(out: Path, read: Path, option: str = "--out") -> None:
    """Refuse to write over the file that is read."""
    if out.exists() and read.exists() and out.samefile(read):
        raise typer.BadParameter(f"{out} is what is read", param_hint=option)


def finite(value: Any) -> Any:
    """Return what a report says without NaN and infinities, which JSON has not."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def arrays_of(option: str, texts: Sequence[str] | None) -> dict[str, npt.NDArray[Any]]:
    """Return arrays given as ``NAME=FILE.npy``; nothing is unpickled.

    Raises
    ------
    FileError
        If a file cannot be read as an array.
    """
    found = {}
    for name, path in _pairs(option, texts).items():
        try:
            with open(path, "rb") as file:
                array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FileError(f"{option} {name}: cannot read {path} as .npy: {error}") from None
        if not isinstance(array, np.ndarray):
            raise FileError(f"{option} {name}: {path} holds several arrays, expected one (.npy)")
        found[name] = array
    return found


def notes_of(texts: Sequence[str] | None) -> dict[str, Any]:
    """Return ``NAME=VALUE`` notes; a value that is JSON is read so, any other is a text."""
    found: dict[str, Any] = {}
    for name, text in _pairs("--metadata", texts).items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def frames_of(file: Path, program: Any) -> tuple[npt.NDArray[Any], ...]:
    """Return the frames in a ``.npy`` file, or for several inputs those in a ``.npz`` file by name.

    Numbers become float32, and indices int64; each frame may be flat. Nothing is unpickled.

    Raises
    ------
    FileError
        If the file cannot be read, or does not hold frames of the model.
    """
    inputs = dict(zip(program.input_names, program.inputs, strict=True))
    try:
        found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):  # whose words advise to unpickle it
        raise FileError(f"{file}: expected a .npy or .npz file of numbers") from None
    if isinstance(found, np.ndarray):
        arrays = {next(iter(inputs)): found}
    else:
        with found:
            arrays = dict(found)
    if arrays.keys() != inputs.keys():
        raise FileError(
            f"{file}: the model reads {', '.join(inputs)}, the file holds {', '.join(arrays)}: "
            f"several inputs come from a .npz file with an array for each"
        )
    frames = []
    for name, value in inputs.items():
        array, size = arrays[name], max(1, value.size)
        kinds = "iuf" if value.dtype == "float32" else "iu"
        if array.dtype.kind not in kinds or not array.ndim or array[:1].size not in (0, size):
            what = "numbers" if kinds == "iuf" else "integers"
            raise FileError(
                f"{file}: {name!r} must be {what} of shape (T, "
                f"{', '.join(map(str, value.shape))}), got {array.dtype} {array.shape}"
            )
        frames.append(array.astype(value.dtype).reshape(-1, *value.shape))
    return tuple(frames)


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a dictionary."""
    found = {}
    for text in texts or ():
        name, sign, value = text.rpartition("=") if option == "--state" else text.partition("=")
        if not (name and sign and value):
            raise typer.BadParameter(f"expected NAME=VALUE, got {text!r}", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


def _dims(text: str) -> list[int | None]:
    """Return ``1,time,40`` as a shape, None for the word."""
    dims = [part.strip() for part in text.split(",")]
    if not all(d.isidentifier() or (d.isdecimal() and len(d) < 19) for d in dims):
        raise typer.BadParameter(
            f"expected whole numbers, or a word for the time axis, got {text!r}",
            param_hint="--shape",
        )
    return [int(d) if d.isdecimal() else None for d in dims]


def _array(text: str) -> Any:
    """Return ``16000`` or ``0.5,1`` as an array: int64 where all are whole, else float32."""
    parts = text.split(",")
    for kind, read in ((np.int64, int), (np.float32, float)):
        try:
            array = np.array([read(p) for p in parts], kind)
        except (ValueError, OverflowError):
            continue
        return array if len(parts) > 1 else array.reshape(())
    raise typer.BadParameter(f"expected numbers, got {text!r}", param_hint="--constant")
