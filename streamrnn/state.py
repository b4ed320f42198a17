"""The states of a stream by name, and snapshots of them as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from .errors import StateError
from .graph import Shape, describe

if TYPE_CHECKING:
    from .stream import BaseStream

__all__ = ["SNAPSHOT_VERSION", "StateView", "checked_state", "read_snapshot"]

Array = npt.NDArray[np.float32]

F32 = np.dtype(np.float32)
SNAPSHOT_VERSION = 1


class StateView(MutableMapping[str, Array]):
    """The states of a stream by name (``lstm_0.h``).

    Reading gives a copy; assigning copies in, after a check of name, shape, dtype and finiteness.
    """

    def __init__(self, stream: BaseStream) -> None:
        self._stream = stream

    def __getitem__(self, name: str) -> Array:
        slot = self._stream.program.slots[self._known(name)]
        part: Array = self._stream._state[slot.offset : slot.stop]
        copy: Array = part.reshape(slot.shape).copy()
        return copy

    def __setitem__(self, name: str, value: Any) -> None:
        self._write({name: value})

    def __delitem__(self, name: str) -> NoReturn:
        raise StateError(f"state {name!r} cannot be deleted; `stream.reset()` clears it")

    def __contains__(self, name: object) -> bool:
        return name in self._stream.program.slots

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream.program.slots)

    def __len__(self) -> int:
        return len(self._stream.program.slots)

    def __repr__(self) -> str:
        return f"StateView({ {n: s.shape for n, s in self._stream.program.slots.items()} })"

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several states, all or none of them."""
        self._write(dict(*args, **kwargs))

    def _known(self, name: str) -> str:
        slots = self._stream.program.slots
        if name not in slots:
            raise StateError(f"no state {name!r}; this model has {', '.join(slots) or 'none'}")
        return name

    def _write(self, values: Mapping[str, Any]) -> None:
        slots = self._stream.program.slots
        checked = {n: checked_state(n, v, slots[self._known(n)].shape) for n, v in values.items()}
        for name, array in checked.items():
            if not np.isfinite(array).all():
                raise StateError(f"state {name!r} must be finite, got a NaN or an infinity")
        self._put(checked)

    def _put(self, checked: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in checked.items():
            slot = self._stream.program.slots[name]
            self._stream._state[slot.offset : slot.stop] = array.reshape(-1)


def checked_state(name: str, value: Any, shape: Shape) -> npt.NDArray[Any]:
    """Return what was given for a state as an array; raise StateError if it does not fit."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0)  # rows of different lengths
    if array.shape != shape or array.dtype != F32:
        raise StateError(f"state {name!r} must be float32 of shape {shape}, got {describe(array)}")
    return array


def read_snapshot(snapshot: bytes, fingerprint: str) -> tuple[int, dict[str, Any]]:
    """Check everything about a snapshot but its arrays; return frames and arrays."""
    if not isinstance(snapshot, (bytes, bytearray, memoryview)):
        raise StateError(f"not a snapshot of a stream: expected bytes, got {describe(snapshot)}")
    try:
        raw = bytes(snapshot)
        tensors = load_tensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        meta = json.loads(header["__metadata__"]["streamrnn"])
        version, model, frames = int(meta["snapshot"]), str(meta["model"]), int(meta["frames"])
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise StateError(
            f"not a snapshot of a stream, or a damaged one: {error or type(error).__name__}"
        ) from None
    if version > SNAPSHOT_VERSION:
        raise StateError(
            f"snapshot of format {version}, this version of streamrnn reads up to "
            f"{SNAPSHOT_VERSION}: update streamrnn"
        )
    if model != fingerprint:
        raise StateError(
            f"snapshot of another model or other weights (fingerprint {model}, "
            f"this model {fingerprint})"
        )
    if not 0 <= frames < 1 << 62:
        raise StateError(f"damaged snapshot: it counts {frames} frames")
    return frames, tensors
