"""Live sources: WebSocket, MQTT, serial port, microphone (extra ``live``)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import ConfigError, SourceError
from ..resumable import positive
from .buffer import Inbox
from .packets import Packets
from .sound import ENCODINGS, samples
from .source import Array, Frame, Source, as_floats, needed, now_s

__all__ = ["Microphone", "Mqtt", "Serial", "WebSocket"]

MAX_BYTES = 1 << 20
"""Of a message or a line; longer ones are garbage."""


class _Messages(Source):
    """What sources of messages share: each message is a frame, or a block of samples.

    Parameters
    ----------
    sample_rate_hz : float, optional
        Makes messages samples; without it, each is a frame.
    encoding : str
        ``"f32le"``, ``"s16le"`` (full scale 1) or ``"text"``: numbers with commas or blanks
        between them, or a JSON list of numbers.
    channels : int
        Of samples.
    timeout_s : float, optional
        Longest wait for a message; None waits for ever.
    """

    def __init__(
        self,
        name: str,
        sample_rate_hz: float | None = None,
        encoding: str = "f32le",
        channels: int = 1,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(name)
        if sample_rate_hz is not None:
            positive(type(self).__name__, "sample_rate_hz", sample_rate_hz)
        positive(type(self).__name__, "channels", channels, whole=True)
        if timeout_s is not None:
            positive(type(self).__name__, "timeout_s", timeout_s)
        if encoding not in (*ENCODINGS, "text"):
            known = ", ".join((*ENCODINGS, "text"))
            raise ConfigError(f"`encoding` must be one of {known}, got {encoding!r}")
        self.sample_rate_hz, self.encoding = sample_rate_hz, encoding
        self.channels, self.timeout_s = channels, timeout_s

    def frame(self, message: bytes | str) -> Frame | None:
        """Return a message as a frame of now; count what cannot be read."""
        try:
            if self.encoding == "text":
                data = numbers(message)
                if self.sample_rate_hz is not None:
                    data = data.reshape(-1, self.channels)
                return Frame(now_s(), data)
            data = self._binary(message.encode() if isinstance(message, str) else message)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self.count("garbage", why=error)
            return None
        return Frame(now_s(), data) if data.size else None

    def _binary(self, message: bytes) -> Array:
        size = np.dtype(ENCODINGS[self.encoding]).itemsize
        if self.sample_rate_hz is None:
            return samples(message, self.encoding)[:, 0]
        rest = len(message) % (size * self.channels)
        if rest:
            self.count("half_frames", why=f"{rest} bytes at the end of a message")
        return samples(message[: len(message) - rest], self.encoding, self.channels)


def numbers(message: bytes | str) -> Array:
    """Return the numbers of a text; raise ValueError if it holds anything else, or none."""
    text = (message if isinstance(message, str) else message.decode()).strip()
    found = json.loads(text) if text.startswith("[") else text.replace(",", " ").split()
    if not found:
        raise ValueError("no numbers")
    return as_floats([float(n) for n in found])


class WebSocket(_Messages):
    """Messages of a WebSocket; the other side ends the source by closing it.

    Parameters
    ----------
    url : str
        ``ws://…`` or ``wss://…``.
    sample_rate_hz, encoding, channels, timeout_s
        What messages hold, and the longest wait for one; see the module.

    Raises
    ------
    SourceError
        If there is no connection; while reading, if it breaks or nothing comes in time.
    """

    def __init__(self, url: str, **what: Any) -> None:
        super().__init__(url, **what)
        client = needed("websockets.sync.client", "live", url)
        self._errors = needed("websockets.exceptions", "live", url)
        try:
            self._connection: Any = client.connect(url, max_size=MAX_BYTES, close_timeout=1)
            self._socket: Any = self._connection.__enter__()
        except (OSError, TimeoutError, self._errors.WebSocketException) as error:
            raise SourceError(f"{url}: cannot connect: {error}") from None

    def _read(self) -> Iterator[Frame]:
        while True:
            try:
                message = self._socket.recv(self.timeout_s)
            except TimeoutError:
                self.count("stalls")
                raise SourceError(f"{self.name}: no message for {self.timeout_s:g} s") from None
            except self._errors.ConnectionClosedOK:
                return
            except (OSError, self._errors.WebSocketException) as error:
                if self.closed:
                    return
                raise SourceError(f"{self.name}: the connection broke: {error}") from None
            frame = self.frame(message)
            if frame is not None:
                yield frame

    def _close(self) -> None:
        self._connection.__exit__(None, None, None)


class Mqtt(_Messages):
    """Messages of an MQTT topic.

    Parameters
    ----------
    host : str
        The broker.
    topic : str
        What is subscribed to; ``+`` and ``#`` stand for any part.
    port : int
        Of the broker.
    policy, capacity
        What happens when messages come faster than they are read, see :class:`Inbox`. ``"block"``
        lets the broker wait, who hangs up after some 15 s.
    sample_rate_hz, encoding, channels, timeout_s
        What messages hold, and the longest wait for one; see the module.

    Raises
    ------
    SourceError
        If there is no connection; while reading, if it breaks or nothing comes in time.
    """

    def __init__(
        self,
        host: str,
        topic: str,
        port: int = 1883,
        policy: str = "drop_oldest",
        capacity: int = 64,
        **what: Any,
    ) -> None:
        super().__init__(f"mqtt://{host}:{port}/{topic}", **what)
        paho = needed("paho.mqtt.client", "live", self.name)
        self.topic = topic
        self.inbox: Inbox[Frame] = Inbox(self, policy, capacity, self.timeout_s)
        self._subscribed = threading.Event()
        self._refused = ""
        self._client: Any = paho.Client(
            paho.CallbackAPIVersion.VERSION2, reconnect_on_failure=False
        )
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._accepted
        self._client.on_message = self._came
        self._client.on_disconnect = self._left
        try:
            self._client.connect(host, port, keepalive=10)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.name}: cannot connect: {error}") from None
        self._client.loop_start()
        here = self._subscribed.wait(self.timeout_s or 10)
        why = self._refused if here else "the broker does not answer"
        if why:
            self.close()
            raise SourceError(f"{self.name}: cannot connect: {why}")

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            self._subscribed.set()
        else:
            client.subscribe(self.topic)

    def _accepted(self, client: Any, data: Any, mid: Any, reasons: Any, more: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused = ", ".join(map(str, reasons))
        self._subscribed.set()

    def _came(self, client: Any, data: Any, message: Any) -> None:
        frame = self.frame(message.payload)
        if frame is not None:
            self.inbox.put(frame)

    def _left(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self.inbox.end(SourceError(f"{self.name}: the connection broke: {reason}"))
        if not self._subscribed.is_set():
            self._refused = str(reason)
            self._subscribed.set()

    def _read(self) -> Iterator[Frame]:
        return self.inbox.frames()

    def _close(self) -> None:
        self.inbox.end()
        self._client.disconnect()
        self._client.loop_stop()


class Serial(_Messages):
    """Numbers from a serial port: lines of text, or packets of bytes.

    What comes before the first end of a line may be the second half of one: it is dropped,
    ``half_frames``. Bytes between packets are dropped, ``garbage``, and the first part of a packet
    whose rest does not come, ``half_frames``.

    Parameters
    ----------
    port : str
        ``/dev/ttyUSB0``, ``COM3``, or what else pyserial opens.
    baud : int
        Bits in a second.
    timeout_s : float, optional
        Longest wait for a line or a packet.
    packets : Packets, optional
        How numbers are packed; without, they come as text.

    Raises
    ------
    SourceError
        If it cannot be opened; while reading, if it breaks or nothing comes in time.
    """

    def __init__(
        self,
        port: str,
        baud: int = 115200,
        timeout_s: float | None = None,
        packets: Packets | None = None,
    ) -> None:
        encoding = "text" if packets is None else packets.encoding
        super().__init__(port, encoding=encoding, timeout_s=timeout_s)
        self.packets = packets
        serial = needed("serial", "live", port)
        self._broken = serial.SerialException
        try:
            self._port: Any = serial.serial_for_url(port, baudrate=baud, timeout=timeout_s)
        except (OSError, ValueError, self._broken) as error:
            raise SourceError(f"{port}: cannot open it: {error}") from None

    def _read(self) -> Iterator[Frame]:
        return self._lines() if self.packets is None else self._packets(self.packets)

    def _packets(self, packets: Packets) -> Iterator[Frame]:
        waiting, skipped = bytearray(), 0
        try:
            while (data := self._bytes(packets.length - len(waiting))) is not None:
                if not data:
                    self.count("stalls")
                    raise SourceError(f"{self.name}: no packet for {self.timeout_s:g} s")
                waiting += data
                for before, body in packets.found(waiting):
                    skipped += before
                    if body and skipped:
                        self.count("garbage", why=f"{skipped} bytes that are no packet")
                        skipped = 0
                    frame = self.frame(body) if body else None
                    if frame is not None:
                        yield frame
        except SourceError:
            if skipped:
                self.count("garbage", why=f"{skipped} bytes that are no packet")
            if waiting:
                self.count("half_frames", why=f"{len(waiting)} bytes of a packet")
            raise

    def _lines(self) -> Iterator[Frame]:
        first = True
        while (line := self._line()) is not None:
            if not line.endswith(b"\n"):
                self.count("garbage", why=f"a line longer than {MAX_BYTES} bytes")
            elif first:
                self.count("half_frames", why="what came before the first end of a line")
            elif line.strip():
                frame = self.frame(line)
                if frame is not None:
                    yield frame
            first = not line.endswith(b"\n")  # of a line that is too long the rest is left out

    def _line(self) -> bytes | None:
        """Return what comes up to an end of a line; None when the source was closed."""
        line = self._got(lambda: self._port.read_until(b"\n", MAX_BYTES))
        if line is None:
            return None
        if not line.endswith(b"\n") and len(line) < MAX_BYTES:
            self.count("stalls")
            raise SourceError(f"{self.name}: no line for {self.timeout_s:g} s")
        return line

    def _bytes(self, n: int) -> bytes | None:
        """Return up to n bytes, none if none came in time; None when the source was closed."""
        return self._got(lambda: self._port.read(n))

    def _got(self, read: Callable[[], bytes]) -> bytes | None:
        """Return what a read brings; None when the source was closed."""
        try:
            data = read()
        except (OSError, TypeError, self._broken) as error:  # TypeError: closed in the meantime
            if self.closed:
                return None
            raise SourceError(f"{self.name}: the connection broke: {error}") from None
        return None if self.closed else data

    def _close(self) -> None:
        if hasattr(self._port, "cancel_read"):
            self._port.cancel_read()
        self._port.close()


class Microphone(Source):
    """Samples of a sound card, through PortAudio (sounddevice).

    Parameters
    ----------
    sample_rate_hz : float
        That the card is asked for.
    device : str or int, optional
        Part of its name, or its number; the system's choice by default.
    channels : int
        That are recorded.
    block : int
        Samples in a block.
    policy, capacity, timeout_s
        What happens when blocks come faster than they are read, see :class:`Inbox`.

    Raises
    ------
    SourceError
        If there is no such device, or PortAudio is missing.
    """

    def __init__(
        self,
        sample_rate_hz: float,
        device: str | int | None = None,
        channels: int = 1,
        block: int = 512,
        policy: str = "drop_oldest",
        capacity: int = 64,
        timeout_s: float | None = 5.0,
    ) -> None:
        super().__init__(f"microphone {'' if device is None else device}".strip())
        sounddevice = needed("sounddevice", "live", self.name)
        positive("Microphone", "sample_rate_hz", sample_rate_hz)
        self.sample_rate_hz = self._rate_hz = sample_rate_hz
        self.inbox: Inbox[Frame] = Inbox(self, policy, capacity, timeout_s)
        try:
            self._stream: Any = sounddevice.InputStream(
                samplerate=sample_rate_hz, blocksize=block, device=device, channels=channels,
                dtype="float32", callback=self._came,
            )  # fmt: skip
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise SourceError(f"{self.name}: cannot open it: {error}") from None

    def _came(self, data: Any, n: int, clock: Any, status: Any) -> None:
        if status.input_overflow:
            self.count("overruns")
        self.inbox.put(Frame(now_s() - n / self._rate_hz, data.copy()))

    def _read(self) -> Iterator[Frame]:
        return self.inbox.frames()

    def _close(self) -> None:
        self.inbox.end()
        self._stream.close()
