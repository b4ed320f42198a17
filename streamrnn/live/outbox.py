"""Lines sent over a network: to an MQTT topic or a WebSocket (extra ``live``)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import SourceError
from .buffer import Inbox
from .source import Counted, needed

__all__ = ["MqttSender", "Outbox", "Sender", "WebSocketSender"]


class Sender(Protocol):
    """An open connection."""

    def send(self, line: str) -> None:
        """Send a line; raise SourceError if the connection is broken."""

    def close(self) -> None:
        """End the connection."""


class Outbox(Counted):
    """Sends lines in a thread of its own, so that the model need not wait for the network.

    Sinks write into it as into a text file: ``JsonSink(outbox, columns)``, or an ``EventSink``. A
    connection that breaks is opened again, ``reconnects``, and the line that was on its way is sent
    again. Lines that are never sent are counted, ``dropped`` and ``unsent``.

    Parameters
    ----------
    name : str
        Of the peer, in messages.
    opener : callable
        Returns a new, open connection.
    policy, capacity
        What happens when lines come faster than they are sent, see :class:`Inbox`.
    retries : int
        Attempts in a row without success before the outbox has failed.
    first_s, longest_s : float
        The first wait before an attempt; each further one is twice as long, up to the longest.
    close_s : float
        Longest time that `close` waits for the lines that are left.

    Raises
    ------
    SourceError
        If the peer cannot be reached the first time; from `write` and `close`, after too many
        attempts; from `close`, if lines are left.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], Sender],
        policy: str = "block",
        capacity: int = 64,
        retries: int = 10,
        first_s: float = 0.05,
        longest_s: float = 30.0,
        close_s: float = 5.0,
    ) -> None:
        super().__init__(name)
        self._inbox: Inbox[str] = Inbox(self, policy, capacity)
        self._opener, self._retries, self._close_s = opener, retries, close_s
        self._first_s, self._longest_s = first_s, longest_s
        self._sender: Sender | None = opener()  # what is wrong from the beginning is said at once
        self._error: Exception | None = None
        self._left, self._hurry = 0, threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._pump, name=f"send {name}", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Take lines, each with its end."""
        for line in text.splitlines():
            if not self._inbox.put(line):
                self._left += 1
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Do nothing: every line is sent as soon as the network takes it."""

    def close(self) -> None:
        """Send what is left, and end the connection; twice is once."""
        if self._closed:
            return
        self._closed = True
        self._inbox.end()
        self._thread.join(self._close_s)
        self._hurry.set()  # no more waits for another attempt
        self._thread.join(1.0)
        self._leave()
        left = self._left + self._inbox.left()
        if left:
            self.count("unsent", left, self._error or "the source had ended")
            why = self._error or f"{self.name}: not sent in {self._close_s:g} s"
            raise SourceError(f"{why}; {left} lines were left")

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _pump(self) -> None:
        for line in self._inbox.frames():
            try:
                self._deliver(line)
            except Exception as error:  # raised again where lines are written
                self._error = error
                self._left += 1
                self._inbox.end()
                return

    def _deliver(self, line: str) -> None:
        """Send a line, over as many connections as it takes."""
        failures = 0
        while True:
            try:
                self._sender = self._sender or self._opener()
                self._sender.send(line)
                return
            except SourceError as error:
                self._leave()
                failures += 1
                if failures > self._retries or self._hurry.is_set():
                    raise
                self.count("reconnects", why=error)
            self._hurry.wait(min(self._longest_s, self._first_s * 2 ** (failures - 1)))

    def _leave(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()


class WebSocketSender:
    """Each line is a message. What was on its way when the connection broke may be lost.

    Parameters
    ----------
    url : str
        ``ws://…`` or ``wss://…``.

    Raises
    ------
    SourceError
        If there is no connection.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        client = needed("websockets.sync.client", "live", url)
        broken = needed("websockets.exceptions", "live", url).WebSocketException
        self._errors = (OSError, TimeoutError, broken)
        try:
            self._connection: Any = client.connect(url, close_timeout=1)
            self._socket: Any = self._connection.__enter__()
        except self._errors as error:
            raise SourceError(f"{url}: cannot connect: {error}") from None

    def send(self, line: str) -> None:
        """Send a message; raise SourceError if the connection is broken."""
        try:
            self._socket.send(line)
        except self._errors as error:
            raise SourceError(f"{self.name}: the connection broke: {error}") from None

    def close(self) -> None:
        """Say goodbye."""
        self._connection.__exit__(None, None, None)


class MqttSender:
    """Each line is a message of a topic, which the broker confirms (QoS 1): none is lost.

    Parameters
    ----------
    host : str
        The broker.
    topic : str
        Where messages go.
    port : int
        Of the broker.
    timeout_s : float
        Longest wait for the broker.

    Raises
    ------
    SourceError
        If there is no connection, or the topic is none that can be sent to.
    """

    def __init__(
        self, host: str, topic: str, port: int = 1883, timeout_s: float | None = None
    ) -> None:
        self.name = f"mqtt://{host}:{port}/{topic}"
        self.topic, self._timeout_s = topic, timeout_s or 10.0
        paho = needed("paho.mqtt.client", "live", self.name)
        if "+" in topic or "#" in topic:
            raise SourceError(f"{self.name}: a message goes to one topic, without + and #")
        self._answered, self._refused = threading.Event(), ""
        self._client: Any = paho.Client(
            paho.CallbackAPIVersion.VERSION2, reconnect_on_failure=False
        )
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._left
        try:
            self._client.connect(host, port, keepalive=10)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.name}: cannot connect: {error}") from None
        self._client.loop_start()
        here = self._answered.wait(self._timeout_s)
        why = self._refused if here else "the broker does not answer"
        if why:
            self.close()
            raise SourceError(f"{self.name}: cannot connect: {why}")

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self._refused = str(reason) if reason.is_failure else ""
        self._answered.set()

    def _left(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self._refused = str(reason)
        self._answered.set()

    def send(self, line: str) -> None:
        """Send a message and wait for the broker; raise SourceError if the connection is broken."""
        message = self._client.publish(self.topic, line, qos=1)
        until_s = time.monotonic() + self._timeout_s
        try:
            while not message.is_published():
                if self._refused or time.monotonic() > until_s:
                    why = self._refused or "the broker does not answer"
                    raise SourceError(f"{self.name}: the connection broke: {why}")
                message.wait_for_publish(0.05)
        except (RuntimeError, ValueError) as error:  # not connected; a queue that is full
            raise SourceError(f"{self.name}: the connection broke: {error}") from None

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()
