"""Streaming inference of recurrent networks, one timestep at a time, with the state kept for you."""

from .errors import (
    ConfigError,
    ExportError,
    FileError,
    FrameError,
    GraphError,
    NonFiniteError,
    StateError,
    StreamrnnError,
    WeightError,
)
from .files import load
from .graph import Input, Value
from .layer import Layer, Model, Sequential
from .ops import *  # noqa: F403 (each op is public; `ops.__all__` lists them)
from .ops import __all__ as _ops
from .reference import ReferenceStream
from .stream import Stream
from .version import VERSION

__version__ = VERSION

__all__ = sorted(
    [
        "ConfigError",
        "ExportError",
        "FileError",
        "FrameError",
        "GraphError",
        "Input",
        "Layer",
        "Model",
        "NonFiniteError",
        "ReferenceStream",
        "Sequential",
        "StateError",
        "Stream",
        "StreamrnnError",
        "Value",
        "WeightError",
        "load",
        *(name for name in _ops if name not in ("REGISTRY", "arithmetic")),
    ]
)
