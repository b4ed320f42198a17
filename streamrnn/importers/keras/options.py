"""A layer's configuration, of which every entry is read, harmless, or an error."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from ...errors import FileError

__all__ = ["Options"]

HARMLESS = re.compile(
    r".*_(initializer|regularizer|constraint)|name|trainable|dtype|batch_(input_)?shape|"
    r"input_(shape|length|dtype)|dropout|recurrent_dropout|seed|unroll|implementation|"
    r"unit_forget_bias|stateful|time_major|synchronized|renorm.*|momentum|sparse|ragged|optional|"
    r"noise_shape|rate|stddev|virtual_batch_size|fused|return_state|build_config"
)
"""What says how to train, or how Keras is to compute, but not what."""


class Options:
    """The configuration of a layer.

    Parameters
    ----------
    config : mapping
        The entries.
    keras : int
        Major version of the Keras that wrote them.
    """

    def __init__(self, config: Mapping[str, Any], keras: int) -> None:
        self.config, self.keras = config, keras
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry as it is."""
        self.read.add(name)
        return self.config.get(name, default)

    def integer(self, name: str) -> int:
        """Return an entry that is a positive integer, or a list with one."""
        value = self.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            if not isinstance(value, bool) and (number := operator.index(value)) > 0:
                return number
        except TypeError:
            pass
        raise FileError(f"`{name}` must be a positive integer, got {value!r}")

    def number(self, name: str, default: float) -> float:
        """Return an entry that is a number; ``{"class_name": …, "config": {"value": …}}`` too."""
        value = self.get(name, default)
        if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
            value = value["config"].get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise FileError(f"`{name}` must be a number, got {value!r}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return an entry that is True or False."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise FileError(f"`{name}` must be true or false, got {value!r}")
        return value

    def finish(self) -> None:
        """Raise FileError if an entry that may matter has not been read."""
        policy = self.config.get("dtype")
        if isinstance(policy, Mapping) and policy.get("class_name") not in (
            "DTypePolicy",
            "Policy",
        ):
            raise FileError(f"its dtype is a {policy.get('class_name')}, which is not supported")
        for name, value in self.config.items():
            neutral = value is None or value is False
            if name not in self.read and not HARMLESS.fullmatch(name) and not neutral:
                raise FileError(f"the option `{name}`={value!r} is not supported")
