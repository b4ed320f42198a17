"""Where outputs go: files on a full disk, pipes that break, a real WebSocket server and broker."""

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import ConfigError, SourceError
from streamrnn.decode import Hysteresis
from streamrnn.live import (
    CsvSink,
    EventSink,
    Frame,
    JsonSink,
    MqttSender,
    NpySink,
    Outbox,
    WavSink,
    WebSocketSender,
    run,
)
from test_cli_run import files as cli_files
from test_cli_run import run as command
from test_cli_run import started
from test_live import RATE_HZ, Given, noise
from test_live_peers import broker as _broker

files, broker = cli_files, _broker

unix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are Unix'")


# Files ---------------------------------------------------------------------------------------


@contextmanager
def full_disk(most):
    """Let no file grow beyond so many bytes; Python ignores the signal, so writes fail."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def filled(sink, xs):
    """Write until the disk is full, close, and return how many frames went."""
    with full_disk(1000):
        for t, x in enumerate(xs):
            try:
                sink.write(Frame(t, x))
            except SourceError:
                break
        sink.close()
    return t


@unix
def test_a_file_on_a_full_disk_holds_what_was_written(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    xs = noise(200, 5)
    n = filled(NpySink(tmp_path / "y.npy", (5,)), xs)
    assert n == (1000 - 128) // 20
    assert np.array_equal(np.load(tmp_path / "y.npy"), xs[:n])
    n = filled(CsvSink(tmp_path / "y.csv", "abcde"), xs)
    table = np.genfromtxt(tmp_path / "y.csv", delimiter=",", names=True)
    assert n > 5
    assert np.array_equal(table["e"].astype(np.float32), xs[:n, 4])
    sink = WavSink(tmp_path / "y.wav", RATE_HZ)
    filled(sink, xs)
    sound = soundfile.read(tmp_path / "y.wav", dtype="float32")[0]
    assert len(sound) > 100
    assert np.array_equal(sound, xs.ravel()[: len(sound)])


@unix
def test_a_disk_that_is_full_at_the_end_is_an_error(tmp_path, monkeypatch):
    sink = NpySink(tmp_path / "y.npy", (5,))
    monkeypatch.setattr(sink._file, "_file", _Full(sink._file._file))
    with pytest.raises(SourceError, match=r"cannot finish .*y\.npy: No space left on device"):
        sink.close()
    sink.close()


class _Full:
    def __init__(self, file):
        self._file = file

    def write(self, data):
        raise OSError(28, "No space left on device")

    def __getattr__(self, name):
        return getattr(self._file, name)


@unix
@pytest.mark.parametrize(("word", "code", "name"), [("TERM", 143, "y.npy"), ("HUP", 129, "y.csv")])
def test_a_signal_ends_cleanly_with_a_whole_file(files, tmp_path, word, code, name):
    with started(files[0], "--probs", "--out", str(tmp_path / name)) as process:
        process.stdin.write(bytes(2 * 512))  # the pipe stays open
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.Signals[f"SIG{word}"])
        assert process.wait(30) == code
        said = process.stderr.read().decode()
    assert all(lines)
    assert "3 frames" in said
    assert "Traceback" not in said
    if name == "y.npy":
        assert np.load(tmp_path / name).shape == (3, 2)
    else:
        assert len((tmp_path / name).read_text().splitlines()) == 4


@unix
def test_a_full_disk_behind_stdout_is_an_error(files):
    command = [sys.executable, "-m", "streamrnn", "run", str(files[0] / "m.safetensors"), "-"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--json"], input=bytes(2 * 1600), stdout=full, stderr=subprocess.PIPE
        )
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "No space left on device" in said
    assert "1 frames" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@unix
def test_a_reader_that_leaves_before_the_last_event_is_no_error(files):
    """The segment that is still open is written when all is over."""
    with started(files[0], "--events", "--threshold", "0.01") as process:
        process.stdin.write(bytes(2 * 1600))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30) == 0
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "Exception ignored" not in said


# Outboxes ------------------------------------------------------------------------------------


class Wire:
    """A connection that can break, and be held up."""

    def __init__(self, breaks=()):
        self.got, self.opened, self.breaks = [], 0, set(breaks)
        self.go = threading.Event()
        self.go.set()

    def open(self):
        self.opened += 1
        if "absent" in self.breaks:
            raise SourceError("wire: nobody there")
        return self

    def send(self, line):
        self.go.wait(10)
        if line in self.breaks:
            self.breaks.remove(line)
            raise SourceError("wire: the connection broke")
        self.got.append(line)

    def close(self):
        pass


def test_lines_come_over_a_connection_that_breaks():
    wire = Wire(["3", "5"])
    with Outbox("wire", wire.open, first_s=0.001, capacity=2) as outbox:
        outbox.write("0\n1\n")
        for n in range(2, 20):
            outbox.write(f"{n}\n")
    assert wire.got == [str(n) for n in range(20)]
    assert wire.opened == 3
    assert outbox.counts == {"reconnects": 2}


def test_a_slow_network_drops_the_oldest_lines_and_counts():
    wire = Wire()
    wire.go.clear()
    outbox = Outbox("wire", wire.open, "drop_oldest", capacity=3)
    for n in range(50):
        outbox.write(f"{n}\n")
    wire.go.set()
    outbox.close()
    assert wire.got[-3:] == ["47", "48", "49"]
    assert len(wire.got) + outbox.counts["dropped"] == 50


def test_a_network_that_stays_away_is_an_error_and_what_is_left_is_counted():
    with pytest.raises(SourceError, match="nobody there"):
        Outbox("wire", Wire(["absent"]).open)
    wire = Wire(["0"])
    outbox = Outbox("wire", wire.open, retries=2, first_s=0.001)
    wire.breaks.add("absent")
    outbox.write("0\n")
    outbox._thread.join(10)
    with pytest.raises(SourceError, match="nobody there"):
        outbox.write("1\n2\n")
    with pytest.raises(SourceError, match="nobody there; 3 lines were left"):
        outbox.close()
    outbox.close()
    assert outbox.counts == {"reconnects": 2, "unsent": 3}
    wire = Wire()
    wire.go.clear()
    outbox = Outbox("wire", wire.open, close_s=0.01)
    outbox.write("0\n1\n")
    with pytest.raises(SourceError, match=r"wire: not sent in 0\.01 s; . lines were left"):
        outbox.close()  # while the first line is being sent
    wire.go.set()
    with pytest.raises(ConfigError, match="`policy` must be one of block, drop_oldest"):
        Outbox("wire", wire.open, "no")


# WebSocket -----------------------------------------------------------------------------------


@pytest.fixture
def listen():
    """Return a function that starts a server, and the messages it gets; some break connections."""
    pytest.importorskip("websockets", reason="the extra `live` is not installed")
    from websockets.sync.server import serve

    servers = []

    def start(break_after=()):
        got, breaks = [], list(break_after)

        def handler(connection):
            for message in connection:
                got.append(message)
                if breaks and len(got) == breaks[0]:
                    breaks.pop(0)
                    connection.socket.shutdown(socket.SHUT_RDWR)
                    return

        server = serve(handler, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}", got

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join(10)


def test_outputs_over_a_websocket(listen):
    url, got = listen()
    model, xs = sr.GRU(2, 3, seed=0), noise(20, 2)
    with Outbox(url, lambda: WebSocketSender(url)) as outbox:
        run(model.stream(), Given(list(enumerate(xs))), [JsonSink(outbox, "abc")])
    said = [json.loads(line) for line in got]
    assert np.array_equal(np.float32([[s[k] for k in "abc"] for s in said]), model.stream().run(xs))
    assert not outbox.counts
    with pytest.raises(SourceError, match=r"ws://127\.0\.0\.1:1: cannot connect"):
        WebSocketSender("ws://127.0.0.1:1")


def test_a_websocket_that_breaks_is_opened_again(listen):
    url, got = listen([2])
    with Outbox(url, lambda: WebSocketSender(url), first_s=0.01) as outbox:
        for n in range(100):
            outbox.write(f"{n}\n")
            if n >= 1:
                threading.Event().wait(0.002)
    assert got[:2] == ["0", "1"]
    assert got[-1] == "99", "what was on its way is lost, and nothing behind it"
    assert outbox.counts == {"reconnects": 1}


def test_the_command_sends_outputs_to_a_websocket(files, listen):
    folder, net = files
    url, got = listen()
    data = (folder / "x.s16").read_bytes()
    result = command(folder / "m.safetensors", "-", "--out", url, input=data)
    assert (result.exit_code, result.stdout) == (0, "")
    x = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    said = np.float32([[json.loads(s)[k] for k in ("speech", "music")] for s in got])
    assert np.array_equal(said, net.stream().run(x.reshape(-1, 160)))


# MQTT ----------------------------------------------------------------------------------------


def subscribed(port, topic):
    """Return an open client, and a function that waits for so many messages and returns them."""
    import paho.mqtt.client as paho

    came, ready = queue.Queue(), threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: came.put(message.payload.decode())
    client.on_subscribe = lambda *words: ready.set()
    client.connect("127.0.0.1", port)
    client.subscribe(topic, qos=1)
    client.loop_start()
    assert ready.wait(10)
    return client, lambda n: [came.get(timeout=10) for _ in range(n)]


def test_events_over_a_broker(broker):
    port, process = broker
    client, messages = subscribed(port, "home/events")
    opened = [lambda: MqttSender("127.0.0.1", "home/events", port)]
    with Outbox("mqtt", opened[0]) as outbox:
        events = EventSink(outbox, ["door"], Hysteresis(100, pad_ms=0), as_json=True)
        with events:
            for t in range(12):
                events.write(Frame(t / 10, np.float32([2 <= t < 5 or t > 9])))
    said = [json.loads(line) for line in messages(4)]
    client.disconnect()
    client.loop_stop()
    assert [s["event"] for s in said] == ["onset", "segment"] * 2
    assert (said[1]["start_s"], said[1]["end_s"]) == (0.2, 0.5)
    assert not outbox.counts
    sender = opened[0]()
    process.kill()
    process.wait()
    with pytest.raises(SourceError, match="the connection broke"):
        sender.send("x")
    sender.close()
    with pytest.raises(SourceError, match="cannot connect"):
        opened[0]()
    with pytest.raises(SourceError, match=r"one topic, without \+ and #"):
        MqttSender("127.0.0.1", "home/#", port)


def test_the_command_sends_events_to_a_broker(files, broker):
    folder, port = files[0], broker[0]
    client, messages = subscribed(port, "home/speech")
    words = ("--events", "--threshold", "0.01", "--out", f"mqtt://127.0.0.1:{port}/home/speech")
    data = (folder / "x.s16").read_bytes()
    result = command(folder / "m.safetensors", "-", *words, input=data)
    assert result.exit_code == 0
    events = [json.loads(line)["event"] for line in messages(len(result.stdout.splitlines()))]
    client.disconnect()
    client.loop_stop()
    assert sorted(set(events)) == ["onset", "segment"]


def test_a_broker_that_does_not_answer_a_sender():
    pytest.importorskip("paho.mqtt.client", reason="the extra `live` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(SourceError, match="cannot connect: the broker does not answer"):
            MqttSender("127.0.0.1", "x", port, timeout_s=0.02)
