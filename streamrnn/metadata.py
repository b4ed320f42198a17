"""What a model carries beside its graph and weights, for whoever runs it.

Metadata is a mapping of texts to anything that JSON can say. Four keys have a meaning, and are
checked:

``sample_rate``
    Of the signal that the model hears, in Hz: a positive number.
``hop_samples``
    New samples in each frame, where frames are samples that overlap: a whole number from 1 on.
``labels``
    Names of the classes that an output scores, in its order: a list of different texts, as long as
    the last axis of an output.
``features``
    How frames are made from the signal: a mapping, such as ``{"kind": "LogMel", "sample_rate_hz":
    16000, "n_fft": 512, "hop_length": 160, "n_mels": 40}``, which
    :func:`streamrnn.frontend.from_features` reads.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from .errors import ConfigError
from .graph import Graph, describe

__all__ = ["checked_metadata", "from_texts"]

KNOWN = ("sample_rate", "hop_samples", "labels", "features")
RESERVED = "streamrnn"


def checked_metadata(metadata: Mapping[str, Any] | None, graph: Graph, who: str) -> dict[str, Any]:
    """Return metadata as JSON gives it back (tuples become lists).

    Raises
    ------
    ConfigError
        If it is no mapping of texts to what JSON can say, or a key that has a meaning has another
        content.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ConfigError(f"{who}: metadata must be a mapping, got {describe(metadata)}")
    plain = {}
    for key, value in metadata.items():
        if not isinstance(key, str) or key == RESERVED:
            raise ConfigError(
                f"{who}: keys of metadata must be texts other than {RESERVED!r}, got {key!r}"
            )
        try:
            plain[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{who}: metadata[{key!r}] must be what JSON can say (texts, finite numbers, "
                f"lists, mappings), got {describe(value)}: {error}"
            ) from None
    problem = _problem(plain, {v.shape[-1] for v in graph.outputs.values() if v.shape} | {1})
    if problem:
        raise ConfigError(f"{who}: {problem}")
    return plain


def _problem(metadata: Mapping[str, Any], sizes: Collection[int]) -> str:
    """Return what is wrong with the keys that have a meaning, or nothing."""
    rate = metadata.get("sample_rate", 1)
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not (number and rate > 0 and math.isfinite(rate)):
        return f"metadata['sample_rate'] must be a positive number of Hz, got {rate!r}"
    hop = metadata.get("hop_samples", 1)
    if not isinstance(hop, int) or isinstance(hop, bool) or hop < 1:
        return f"metadata['hop_samples'] must be a whole number from 1 on, got {hop!r}"
    if "labels" in metadata:
        labels: Any = metadata["labels"]
        texts = isinstance(labels, list) and all(isinstance(text, str) for text in labels)
        if not texts or len(set(labels)) < len(labels):
            return f"metadata['labels'] must be a list of different texts, got {labels!r}"
        if len(labels) not in sizes:
            known = ", ".join(map(str, sorted(sizes)))
            return (
                f"metadata['labels'] names {len(labels)} classes, but outputs have a last axis of "
                f"{known}: name each class of one output"
            )
    if not isinstance(metadata.get("features", {}), dict):
        return f"metadata['features'] must be a mapping, got {metadata['features']!r}"
    return ""


def from_texts(notes: Mapping[str, str], graph: Graph) -> dict[str, Any]:
    """Return the notes of a foreign file, which are texts, as metadata.

    Where a key has a meaning here, its text is read as JSON; what does not fit is kept under
    ``key_text``, since there it may mean something else.
    """
    metadata: dict[str, Any] = {}
    for key, text in notes.items():
        value: Any = text
        if key in KNOWN:
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(text)
            try:
                checked_metadata({key: value}, graph, "")
            except ConfigError:
                key, value = f"{key}_text", text
        metadata[key] = value
    return metadata
