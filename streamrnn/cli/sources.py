"""Where frames come from: the argument SOURCE of ``streamrnn run`` as a source."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from ..errors import ConfigError
from ..graph import Shape
from ..live import (
    Buffered,
    Checked,
    Csv,
    Frame,
    Microphone,
    Mqtt,
    Npy,
    Parquet,
    Pcm,
    Reconnecting,
    Serial,
    SoundFile,
    Source,
    Video,
    WebSocket,
    Windows,
)
from .model import Loaded

__all__ = ["Choices", "Kept", "framed", "opened"]

LIVE = ("mic", "mqtt", "serial", "ws", "wss")
TABLES = {".csv": Csv, ".parquet": Parquet}
VIDEO = (".avi", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True)
class Choices:
    """What the command line says about the source.

    Parameters
    ----------
    rate_hz : float or None
        Sample rate of sources that do not say it.
    encoding : str
        Of raw samples and of messages.
    channels : int
        Of raw samples.
    channel : int or str
        Which channel is heard.
    columns : list of str or None
        Of tables.
    time_column : str or None
        Of tables.
    frame_rate_hz : float
        Of tables and arrays.
    policy : str
        What happens when the model is slower than a live source.
    timeout_s : float or None
        Longest silence of a live source.
    retries : int
        Attempts in a row to open a live source again that broke off.
    """

    rate_hz: float | None = None
    encoding: str = "s16le"
    channels: int = 1
    channel: int | str = "mix"
    columns: list[str] | None = None
    time_column: str | None = None
    frame_rate_hz: float = 1.0
    policy: str = "block"
    timeout_s: float | None = None
    retries: int = 10


def opened(text: str, choices: Choices, model: Loaded) -> Source:
    """Open a source; what it gives is as it comes.

    Raises
    ------
    SourceError, ConfigError
        If it cannot be opened, or something about it is not known.
    """
    kind = Path(text).suffix.lower()
    if text == "-":
        rate_hz = choices.rate_hz or model.sample_rate_hz
        if rate_hz is None:
            raise ConfigError("standard input is raw samples: say their rate with --rate")
        return Pcm(_stdin(), rate_hz, choices.encoding, choices.channels)
    if text.partition(":")[0] in LIVE:
        return Reconnecting(lambda: _live(text, choices, model), choices.retries)
    if kind == ".npy":
        return Npy(text, choices.rate_hz, choices.frame_rate_hz)
    if kind in TABLES:
        return TABLES[kind](text, choices.columns, choices.time_column, choices.frame_rate_hz)
    if kind in VIDEO:
        return Video(text, *_picture(model.stream.program.inputs[0].shape))
    return SoundFile(text)


def _live(text: str, choices: Choices, model: Loaded) -> Source:
    """Open a live source: ``ws://…``, ``mqtt://host/topic``, ``serial:PORT?baud=…``, ``mic:NAME``.

    Messages are samples where their rate is said, or where the encoding is that of sound.
    """
    scheme, _, rest = text.partition(":")
    rate_hz, parts = choices.rate_hz, urlsplit(text)
    if scheme == "mic":
        rate_hz = rate_hz or model.sample_rate_hz or 48000.0
        options: dict[str, Any] = {"policy": choices.policy, "timeout_s": choices.timeout_s or 5.0}
        return Microphone(rate_hz, rest or None, choices.channels, **options)
    if scheme == "serial":
        baud = parse_qs(parts.query).get("baud", ["115200"])[-1]
        if not baud.isdecimal():
            raise ConfigError(f"{text}: expected serial:PORT?baud=NUMBER, got baud={baud}")
        return Serial(rest.partition("?")[0], int(baud), choices.timeout_s)
    if choices.encoding == "s16le":
        rate_hz = rate_hz or model.sample_rate_hz
    what: dict[str, Any] = {
        "sample_rate_hz": rate_hz,
        "encoding": choices.encoding,
        "channels": choices.channels,
        "timeout_s": choices.timeout_s,
    }
    if scheme != "mqtt":
        return WebSocket(text, **what)
    try:
        host, port, topic = parts.hostname, parts.port or 1883, text.split("/", 3)[3:]
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None
    if not host or not topic or not topic[0]:
        raise ConfigError(f"{text}: expected mqtt://HOST/TOPIC or mqtt://HOST:PORT/TOPIC")
    return Mqtt(host, topic[0], port, choices.policy, **what)


def framed(source: Source, text: str, choices: Choices, model: Loaded, hop: int | None) -> Source:
    """Return frames for the model: checked, cut from samples, buffered where the source is live."""
    checked: Source = Checked(source)
    if source.sample_rate_hz is not None:
        size = math.prod(model.stream.program.inputs[0].shape)
        rate_hz = model.sample_rate_hz
        if rate_hz is None:
            logging.getLogger("streamrnn.live").warning(
                "the model does not say its sample rate: taking that of the source, %g Hz "
                "(--model-rate)",
                source.sample_rate_hz,
            )
        checked = Windows(checked, size, hop or model.hop, rate_hz, choices.channel)
    if text == "-":
        return Buffered(checked, choices.policy, timeout_s=choices.timeout_s)
    if isinstance(source, Reconnecting):  # which looks to the time itself
        return Buffered(checked, choices.policy)
    return checked


def _picture(shape: Shape) -> tuple[int, int, int]:
    """Return height, width and channels of the pictures that a model reads."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ConfigError(
            f"pictures are (1 or 3, height, width) or (height, width), the model reads {shape}"
        )
    return shape[1], shape[2], shape[0]


def _stdin() -> BinaryIO:
    """Return standard input without a buffer of Python's, whose lock a waiting read would hold."""
    with contextlib.suppress(io.UnsupportedOperation, AttributeError):
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    return sys.stdin.buffer


class Kept(Source):
    """Pass frames on, and keep the first ones."""

    source: Source

    def __init__(self, source: Source, most: int) -> None:
        super().__init__(source.name, source)
        self.first: list[Frame] = []
        self._most = most

    def _read(self) -> Iterator[Frame]:
        for frame in self.source:
            if len(self.first) < self._most:
                self.first.append(frame)
            yield frame
