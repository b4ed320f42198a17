"""Libraries that take part where they are installed."""

from __future__ import annotations

import functools
import importlib
from typing import Any

__all__ = ["library"]


@functools.cache
def library(name: str) -> Any:
    """Return a library, or None where it is not installed or cannot be loaded.

    torch is told to use one thread.
    """
    try:
        found = importlib.import_module(name)
    except (ImportError, OSError):
        return None
    if name == "torch":
        found.set_num_threads(1)
    return found
