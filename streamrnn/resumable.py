"""What decoders of events and streaming metrics share: checked input, a state that can be saved."""

from __future__ import annotations

import copy
import json
import math
import zlib
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, FrameError, NonFiniteError, StateError

__all__ = [
    "Array",
    "Resumable",
    "check_amount",
    "check_labels",
    "numbers",
    "positive",
    "probabilities",
    "probability",
]

Array = npt.NDArray[np.float64]
Self = TypeVar("Self", bound="Resumable")

SLACK = 1e-6
"""By which a probability in float32 may lie outside 0 to 1: a softmax rounds."""


class Resumable:
    """A dataclass whose fields are its configuration, and whose state can be saved.

    A subclass makes its state in `_begin`: a dataclass of numbers, None, lists of these, and
    arrays; `self._state` holds it.
    """

    _state: Any

    def _begin(self) -> Any:
        """Return the state at the beginning."""
        raise NotImplementedError

    def reset(self) -> None:
        """Begin anew."""
        self._state = self._begin()

    def fork(self: Self) -> Self:
        """Return another of the same configuration and state, which goes its own way."""
        other = copy.copy(self)
        other._state = copy.deepcopy(self._state)
        return other

    def snapshot(self) -> bytes:
        """Return the state, to go on from elsewhere: JSON, with a checksum and for whom it is."""
        values = {f.name: _plain(getattr(self._state, f.name)) for f in fields(self._state)}
        body = json.dumps([repr(self), values], separators=(",", ":"))
        return f"{zlib.crc32(body.encode()):08x}{body}".encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot.

        Raises
        ------
        StateError
            If it is damaged, or from another class or configuration; the state is as before.
        """
        owner, values = _opened(type(self).__name__, snapshot)
        if owner != repr(self):
            raise StateError(
                f"this snapshot is of {_short(owner)} and does not fit {_short(repr(self))}"
            )
        state = self._begin()
        names = [f.name for f in fields(state)]
        if list(values) != names:
            raise StateError(
                f"this snapshot is of another version of {owner}: it has {list(values)}, "
                f"expected {names}"
            )
        for name, value in values.items():
            now = getattr(state, name)
            like = now.dtype if isinstance(now, np.ndarray) else None
            setattr(state, name, value if like is None else np.array(value, like))
        self._state = state


def _short(text: str, most: int = 200) -> str:
    """Return a text, or both of its ends and how long it is."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[-most // 4 :]} ({len(text)} characters)"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _opened(who: str, snapshot: Any) -> tuple[str, dict[str, Any]]:
    """Return of whom a snapshot is, and its values; the checksum vouches for their types."""
    if not isinstance(snapshot, bytes):
        raise StateError(f"{who}: a snapshot is bytes, got {type(snapshot).__name__}")
    if len(snapshot) <= 8 or snapshot[:8] != f"{zlib.crc32(snapshot[8:]):08x}".encode():
        raise StateError(f"{who}: this is no snapshot, or a damaged one ({len(snapshot)} bytes)")
    owner, values = json.loads(snapshot[8:])
    return owner, values


def check_amount(owner: Any, name: str, *, zero: bool = True, inf: bool = False) -> float:
    """Return an attribute as float; raise ConfigError unless it is a number of 0 or more."""
    value = getattr(owner, name)
    number = isinstance(value, (int, float, np.integer, np.floating))
    fits = number and not isinstance(value, bool) and (value > 0 or (zero and value == 0))
    if not fits or (math.isinf(value) and not inf):
        limit = "of 0 or more" if zero else "above 0"
        who = type(owner).__name__
        raise ConfigError(f"{who}: `{name}` must be a number {limit}, got {value!r}")
    return float(value)


def positive(who: str, name: str, value: Any, whole: bool = False) -> None:
    """Raise ConfigError unless an argument is a positive, finite number, or integer."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        kind = "integer" if whole else "number"
        raise ConfigError(f"{who}: `{name}` must be a positive {kind}, got {value!r}")


def numbers(who: str, xs: Any, shape: tuple[int | None, ...]) -> Array:
    """Return real, finite numbers of some shape as float64.

    Raises
    ------
    FrameError, NonFiniteError
        If they are no numbers, or of another shape; if one is a NaN or an infinity.
    """
    array = _real(who, xs)
    one = len(shape) == 0 or (len(shape) == 1 and shape[0] is None)
    if one and array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]  # a model of one output makes frames of shape (1,)
    fits = array.ndim == len(shape) and all(
        wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("T" if n is None else str(n) for n in shape)
        wanted = f"({wanted}{',' if len(shape) == 1 else ''})"
        raise FrameError(f"{who}: expected numbers of shape {wanted}, got {array.shape}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        place = f" at {where}" if where else ""
        raise NonFiniteError(f"{who}: expected finite numbers, got {array[tuple(where)]}{place}")
    return array


def probabilities(who: str, xs: Any, shape: tuple[int | None, ...]) -> Array:
    """Return numbers from 0 to 1 of some shape as float64; raise as :func:`numbers` does."""
    array = numbers(who, xs, shape)
    wrong = (array < -SLACK) | (array > 1 + SLACK)
    if wrong.any():
        raise FrameError(
            f"{who}: expected probabilities from 0 to 1, got {array[wrong].flat[0]:g}: "
            f"if these are logits, put Sigmoid() or Softmax() behind the model"
        )
    return array


def probability(who: str, x: Any) -> float:
    """Return one probability [shape=() or (1,)]; raise as :func:`numbers` does."""
    value = x
    if isinstance(x, (np.floating, np.ndarray)) and x.size == 1 and x.ndim <= 1:
        value = x.item()
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    return float(probabilities(who, x, ()))


def check_labels(who: str, labels: Any, count: int) -> npt.NDArray[np.int64]:
    """Return labels [shape=() or (T,)] as int64 [shape=(T,)].

    Raises
    ------
    FrameError
        Unless they are integers (or truth values) from 0 to ``count - 1``.
    """
    array = np.asarray(labels)
    if array.ndim > 1 or (array.dtype.kind not in "iub" and array.size):
        raise FrameError(
            f"{who}: expected integer labels of shape () or (T,), got {array.dtype} of shape "
            f"{array.shape}"
        )
    whole = array.reshape(-1)
    bad = (whole < 0) | (whole >= count)
    if bad.any():
        raise FrameError(f"{who}: expected labels from 0 to {count - 1}, got {whole[bad][0]}")
    return whole.astype(np.int64)


def _real(who: str, xs: Any) -> Array:
    try:
        array = np.asarray(xs)
    except ValueError:  # a ragged list
        raise FrameError(f"{who}: expected numbers, got {type(xs).__name__} of unequal rows") from (
            None
        )
    if array.dtype.kind not in "fiub" and array.size:
        raise FrameError(f"{who}: expected real numbers, got {array.dtype}")
    return array.astype(np.float64)
