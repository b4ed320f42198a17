"""Weights from files: safetensors, and torch's state dicts. Nothing in a file is executed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from .errors import ConfigError, FileError
from .graph import describe
from .narrow import widened

__all__ = ["load_weights"]

Array = npt.NDArray[Any]
Stored = tuple[Array, str]
"""An array, and its type in the file."""

MAX_FILE_BYTES = 1 << 33
TORCH = (".pt", ".pth", ".bin", ".ckpt")
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
"""safetensors' names of types, and NumPy's (which has no bfloat16)."""
COUNTER = "num_batches_tracked"
"""What torch's batch normalisations count: no weight."""


def load_weights(
    path: str | Path,
    *,
    key: str | None = None,
    prefix: str = "",
    rename: Mapping[str, str | None] | None = None,
) -> dict[str, Array]:
    """Read weights by name, as ``layer.load_state_dict`` takes them.

    Floats of another type become float32 when a layer takes them; a warning says so. The counters
    ``num_batches_tracked`` of batch normalisations are left out.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, read without torch; or a state dict that torch has saved (``.pt``,
        ``.pth``, ``.bin``, ``.ckpt``), read by torch with ``weights_only=True``.
    key : str, optional
        Under which key of a checkpoint the state dict is; not needed if only one is in it.
    prefix : str
        Take only the names that begin with this, without it (``"module."``, ``"encoder."``).
    rename : mapping of str to str or None, optional
        Other names, after the prefix is gone, for a weight (``"fc.weight"``) or for all that is in
        a module (``"fc"``); None leaves it out.

    Returns
    -------
    dict of str to array
        By name.

    Raises
    ------
    FileError
        If the file cannot be read, is damaged, holds anything else than tensors, or no name begins
        with `prefix`.
    ConfigError
        If `rename` names what is not there, or two weights would get one name.
    """
    try:
        path = Path(path)
        size = path.stat().st_size
    except TypeError:
        raise FileError(f"expected a path, got {describe(path)}") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    if size > MAX_FILE_BYTES:
        raise FileError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB")
    if path.suffix == ".safetensors":
        found = _of_safetensors(path)
    elif path.suffix in TORCH:
        try:
            from .importers.state_dict import read_state_dict
        except ModuleNotFoundError:
            raise FileError(
                f"{path}: reading torch's files needs torch (pip install streamrnn[torch]); or "
                f"save the weights with safetensors.torch.save_file: these are read without torch"
            ) from None
        found = read_state_dict(path, key)
    else:
        raise FileError(
            f"cannot read weights from {path}: expected a .safetensors file, or one of torch's "
            f"({', '.join(TORCH)}), got {path.suffix or 'no suffix'}"
        )
    chosen = {n: a for n, a in found.items() if not n.endswith(COUNTER) and n.startswith(prefix)}
    if not chosen:
        raise FileError(
            f"{path}: no weight's name begins with {prefix!r}; there are {listed(found)}"
        )
    named = _renamed({n.removeprefix(prefix): a for n, a in chosen.items()}, rename or {})
    return _announced(path, named)


def _of_safetensors(path: Path) -> dict[str, Stored]:
    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError, ValueError) as error:
        raise FileError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
    found = {}
    for name, tensor in tensors:
        kind = tensor["dtype"]
        if kind not in TYPES:
            raise FileError(f"{path}: {name} is {kind}; supported are {', '.join(TYPES)}")
        array = np.frombuffer(tensor["data"], TYPES[kind]).reshape(tensor["shape"])
        if kind == "BF16":
            array = widened(array, "bfloat16")
        found[name] = array, "bfloat16" if kind == "BF16" else str(array.dtype)
    return found


def listed(names: Any) -> str:
    """Return names for a message, the first of them."""
    shown = [repr(name) for name in list(names)[:8]]
    return ", ".join(shown) + (", …" if len(names) > 8 else "")


def _renamed(weights: dict[str, Stored], rename: Mapping[str, str | None]) -> dict[str, Stored]:
    """Return the weights under other names; the longest rule that fits a name counts."""
    result: dict[str, Stored] = {}
    used = set()
    for name, stored in weights.items():
        rules = [old for old in rename if name == old or name.startswith(f"{old}.")]
        if not rules:
            new = name
        else:
            old = max(rules, key=len)
            used.add(old)
            to = rename[old]
            if to is None:
                continue
            new = to + name[len(old) :] if to else name[len(old) :].lstrip(".")
        if new in result:
            raise ConfigError(f"load_weights: two weights would be called {new!r}")
        result[new] = stored
    unused = [repr(old) for old in rename if old not in used]
    if unused:
        raise ConfigError(
            f"load_weights: rename {', '.join(unused)}: no weight is called so; there are "
            f"{listed(weights)}"
        )
    return result


def _announced(path: Path, weights: dict[str, Stored]) -> dict[str, Array]:
    """Return the arrays; say which will be converted."""
    converted: dict[str, list[str]] = {}
    result: dict[str, Array] = {}
    for name, (array, kind) in weights.items():
        if array.dtype.kind == "f" and kind != "float32":
            converted.setdefault(kind, []).append(name)
        result[name] = array  # numbers beyond float32 are refused where the weights are taken
    for kind, names in converted.items():
        warnings.warn(
            f"{path}: {len(names)} weights of {kind} ({listed(names)}) become float32",
            stacklevel=4,
        )
    return result
