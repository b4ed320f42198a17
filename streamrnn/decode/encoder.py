"""From an encoder to a decoder: the states that one ends with are those the other begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError, StateError
from ..graph import describe
from ..stream import BaseStream

__all__ = ["hand_over"]


def hand_over(encoder: BaseStream, decoder: BaseStream, states: Mapping[str, str | Any]) -> None:
    """Begin a decoder with the states that an encoder has come to.

    The decoder is reset first, so that nothing of an earlier text remains; states that are not
    named begin as always.

    Parameters
    ----------
    encoder, decoder : Stream or OnnxStream
        Running streams: of a model, ``generate`` would make a new one that knows nothing of this.
    states : mapping of str to str or float32 array
        For states of the decoder, by name, the encoder's state, by name:
        ``{"gru_0.h": "gru_0.h"}``. Where the model has a projection between the two, or hands over
        something else than a state, an array of the decoder's shape:
        ``{"gru_0.h": bridge.step(encoder.state["gru_0.h"])}``.

    Raises
    ------
    ConfigError
        If `encoder` or `decoder` is no stream.
    StateError
        If a state is unknown, misshapen or not finite; the decoder is as it was.
    """
    for name, stream in {"encoder": encoder, "decoder": decoder}.items():
        if not isinstance(stream, BaseStream):
            raise ConfigError(
                f"hand_over: `{name}` must be a running stream, got {describe(stream)}: make one "
                f"with `model.stream()` and generate from it"
            )
    if not isinstance(states, Mapping):
        raise StateError(
            f"hand_over: `states` must be a mapping of the decoder's states to the encoder's, "
            f"got {describe(states)}"
        )
    given = {}
    for name, source in states.items():
        given[name] = _given(encoder, source) if isinstance(source, str) else source
        _check(decoder, name, source, given[name])
    decoder.reset()
    decoder.state.update(given)


def _given(encoder: BaseStream, source: str) -> Any:
    if source not in encoder.state:
        raise StateError(
            f"hand_over: the encoder has no state {source!r}; it has "
            f"{', '.join(encoder.state) or 'none'}"
        )
    return encoder.state[source]


def _check(decoder: BaseStream, name: str, source: Any, value: Any) -> None:
    """Raise StateError unless the decoder has this state, in the shape of what it is given."""
    if name not in decoder.state:
        raise StateError(
            f"hand_over: the decoder has no state {name!r}; it has "
            f"{', '.join(decoder.state) or 'none'}"
        )
    wanted = decoder.state[name].shape
    what = f"the encoder's {source!r}" if isinstance(source, str) else "what it is given"
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != wanted:
        raise StateError(
            f"hand_over: the decoder's state {name!r} is float32 of shape {wanted}, {what} is "
            f"{describe(value)}: hand over an array of that shape, projected as in training"
        )
    if not np.isfinite(value).all():
        raise StateError(f"hand_over: {what} for {name!r} holds a NaN or an infinity")
