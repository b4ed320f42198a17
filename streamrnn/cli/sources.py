"""Where frames come from: the argument SOURCE of ``streamrnn run`` as a source."""

from __future__ import annotations

import contextlib
import io
import logging
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
    Camera,
    Checked,
    Csv,
    Frame,
    Joined,
    Microphone,
    Mqtt,
    Npy,
    Npz,
    Packets,
    Parquet,
    Pcm,
    Reconnecting,
    Regular,
    Serial,
    SoundFile,
    Source,
    Video,
    WebSocket,
    Windows,
)
from .model import Loaded

__all__ = ["Choices", "Kept", "framed", "is_live", "mqtt_words", "opened"]

LIVE = ("camera", "mic", "mqtt", "serial", "ws", "wss")
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
    frame_rate_hz : float or None
        Of sources that do not say it.
    policy : str
        What happens when the model is slower than a live source.
    timeout_s : float or None
        Longest silence of a live source.
    retries : int
        Attempts in a row to open a live source again that broke off.
    sensor_rate_hz : float or None
        Of frames made from those that come at any times.
    max_gap_s : float or None
        Longest time without a frame that is bridged.
    on_gap : str
        What happens in a longer one.
    """

    rate_hz: float | None = None
    encoding: str = "s16le"
    channels: int = 1
    channel: int | str = "mix"
    columns: list[str] | None = None
    time_column: str | None = None
    frame_rate_hz: float | None = None
    policy: str = "block"
    timeout_s: float | None = None
    retries: int = 10
    sensor_rate_hz: float | None = None
    max_gap_s: float | None = None
    on_gap: str = "reset"

    @property
    def rows_hz(self) -> float:
        """Rows a second of tables and arrays without times."""
        return self.frame_rate_hz or 1.0


def is_live(text: str) -> bool:
    """Whether a text names a live source."""
    return text.partition(":")[0] in LIVE


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
    if is_live(text):
        return Reconnecting(lambda: _live(text, choices, model), choices.retries)
    if kind == ".npy":
        return Npy(text, choices.rate_hz, choices.rows_hz)
    if kind == ".npz":
        return Npz(text, list(model.fed), choices.rows_hz)
    if kind in TABLES:
        return TABLES[kind](text, choices.columns, choices.time_column, choices.rows_hz)
    if kind in VIDEO:
        return Video(text, *_picture(_only(model).shape))
    return SoundFile(text)


def _live(text: str, choices: Choices, model: Loaded) -> Source:
    """Open a live source.

    ``ws://…``, ``mqtt://host/topic``, ``serial:PORT?baud=…``, ``mic:NAME``, ``camera:0``. Messages
    are samples where their rate is said, or where the encoding is that of sound.
    """
    scheme, _, rest = text.partition(":")
    rate_hz = choices.rate_hz
    if scheme == "mic":
        rate_hz = rate_hz or model.sample_rate_hz or 48000.0
        options: dict[str, Any] = {"policy": choices.policy, "timeout_s": choices.timeout_s or 5.0}
        return Microphone(rate_hz, rest or None, choices.channels, **options)
    if scheme == "camera":
        camera = Camera(rest or "0", *_picture(_only(model).shape))
        return Buffered(camera, choices.policy, timeout_s=choices.timeout_s or 5.0)
    if scheme == "serial":
        baud, packets = _serial_words(text)
        return Serial(rest.partition("?")[0], baud, choices.timeout_s, packets)
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
    host, port, topic = mqtt_words(text)
    return Mqtt(host, topic, port, choices.policy, **what)


def mqtt_words(text: str) -> tuple[str, int, str]:
    """Return host, port and topic of ``mqtt://HOST:PORT/TOPIC``; raise ConfigError if it is not."""
    parts = urlsplit(text)
    try:
        host, port, topic = parts.hostname, parts.port or 1883, text.split("/", 3)[3:]
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None
    if not host or not topic or not topic[0]:
        raise ConfigError(f"{text}: expected mqtt://HOST/TOPIC or mqtt://HOST:PORT/TOPIC")
    return host, port, topic[0]


def _serial_words(text: str) -> tuple[int, Packets | None]:
    """Return bits in a second, and how numbers are packed, of ``serial:PORT?baud=…&size=…``."""
    expected = (
        "expected serial:PORT?baud=NUMBER, and for packets &size=NUMBERS&format=f32le&header=HEX"
        "&checksum=none|sum8|xor8|crc16|crc32"
    )
    words = parse_qs(urlsplit(text).query, keep_blank_values=True)
    said = {name: values[-1] for name, values in words.items()}
    unknown = said.keys() - {"baud", "size", "format", "header", "checksum"}
    baud, size = said.pop("baud", "115200"), said.pop("size", "")
    try:
        if unknown or not baud.isdecimal() or (said and not size):
            raise ConfigError(f"got {', '.join(sorted(unknown)) or text}")
        if not size:
            return int(baud), None
        header, checksum = bytes.fromhex(said.get("header", "")), said.get("checksum", "none")
        return int(baud), Packets(int(size), said.get("format", "f32le"), header, checksum)
    except ValueError as error:  # ConfigError is one
        raise ConfigError(f"{text}: {expected}: {error}") from None


def framed(source: Source, text: str, choices: Choices, model: Loaded, hop: int | None) -> Source:
    """Return frames for the model: checked, cut from samples, buffered where the source is live."""
    frames: Source = Checked(source)
    if source.sample_rate_hz is not None:
        rate_hz = model.sample_rate_hz
        if rate_hz is None:
            logging.getLogger("streamrnn.live").warning(
                "the model does not say its sample rate: taking that of the source, %g Hz "
                "(--model-rate)",
                source.sample_rate_hz,
            )
        size = _only(model).size
        frames = Windows(frames, size, hop or model.hop, rate_hz, choices.channel)
    elif choices.sensor_rate_hz is not None:
        gap_s = choices.max_gap_s or 1.0
        frames = Regular(frames, choices.sensor_rate_hz, gap_s, choices.on_gap)
    if model.others:
        sizes = {name: value.size for name, value in model.inputs.items()}
        frames = Joined(frames, sizes, model.others)
    if text == "-":
        return Buffered(frames, choices.policy, timeout_s=choices.timeout_s)
    if isinstance(source, Reconnecting):  # which looks to the time itself
        return Buffered(frames, choices.policy)
    return frames


def _only(model: Loaded) -> Any:
    """Return the input that the source feeds, where it can be only one."""
    if len(model.fed) > 1:
        raise ConfigError(
            f"this source feeds one input, the model reads {', '.join(model.fed)}: give the others "
            f"with --input NAME=FILE"
        )
    return next(iter(model.fed.values()))


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
