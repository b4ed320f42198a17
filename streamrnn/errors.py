"""One exception class per cause.

::

    StreamrnnError
    ├── ConfigError      an argument of a constructor or a function (also a ValueError)
    ├── GraphError       how layers are connected (also a ValueError)
    ├── FrameError       shape, dtype or layout of a frame, block or `out` (also a ValueError)
    │   └── NonFiniteError   a frame holds a NaN or an infinity
    ├── WeightError      missing, extra, misshapen or non-finite weights (also a ValueError)
    ├── StateError       a state or a snapshot that does not fit (also a ValueError)
    ├── FileError        a file that cannot be read or written as a model (also a ValueError)
    ├── ConversionError  a module that cannot become a stream, or differs from it (a ValueError)
    ├── ExportError      a model that cannot be exported, or an export that does not match
    ├── StreamError      an id that is none of a stream of the pool (also a ValueError)
    └── SourceError      a source of frames that cannot be opened, or breaks off

A message says who, what was expected, what came, and what to do.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConversionError",
    "ExportError",
    "FileError",
    "FrameError",
    "GraphError",
    "NonFiniteError",
    "SourceError",
    "StateError",
    "StreamError",
    "StreamrnnError",
    "WeightError",
]


class StreamrnnError(Exception):
    """Base of every error that the library raises on purpose."""


class ConfigError(StreamrnnError, ValueError):
    """An argument of a constructor or a function has no meaning here."""


class GraphError(StreamrnnError, ValueError):
    """Layers are connected in a way that cannot work."""


class FrameError(StreamrnnError, ValueError):
    """A frame, a block or an `out` array has the wrong shape, dtype or layout."""


class NonFiniteError(FrameError):
    """A frame holds a NaN or an infinity, and the stream's policy is to raise."""


class WeightError(StreamrnnError, ValueError):
    """Weights are missing, extra, misshapen or not finite."""


class StateError(StreamrnnError, ValueError):
    """A state or a snapshot does not belong to this model."""


class FileError(StreamrnnError, ValueError):
    """A file cannot be read or written as a model."""


class ConversionError(StreamrnnError, ValueError):
    """A module of another framework cannot become a stream, or the stream gives other results."""


class ExportError(StreamrnnError, RuntimeError):
    """A model cannot be exported, or its export does not compute the same."""


class StreamError(StreamrnnError, ValueError):
    """A pool has no stream with this id: it never joined, has left, or is given twice."""


class SourceError(StreamrnnError, RuntimeError):
    """A source of frames cannot be opened, breaks off, or gives nothing for too long."""
