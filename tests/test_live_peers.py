"""Live sources with real peers: a WebSocket server, an MQTT broker, a pseudo-terminal."""

import functools
import json
import operator
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import types
import zlib

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import ConfigError, SourceError
from streamrnn.live import (
    Camera,
    Checked,
    Microphone,
    Mqtt,
    Packets,
    Reconnecting,
    Serial,
    WebSocket,
    Windows,
)
from streamrnn.live.video import CAMERAS
from test_live import RATE_HZ, noise, whole

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


# WebSocket -----------------------------------------------------------------------------------


@pytest.fixture
def serve():
    """Return a function that serves turns: each connection gets the next list of messages.

    An Event in a list is waited for; after "break" the connection is cut, else it is closed.
    """
    pytest.importorskip("websockets", reason="the extra `live` is not installed")
    from websockets.sync.server import serve as websockets_serve

    servers = []

    def start(*turns):
        waiting = list(turns)

        def handler(connection):
            for message in waiting.pop(0):
                if isinstance(message, threading.Event):
                    message.wait(10)
                elif message == "break":
                    connection.socket.shutdown(socket.SHUT_RDWR)
                    return
                else:
                    connection.send(message)

        server = websockets_serve(handler, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join(10)


def test_messages_are_frames_and_garbage_loses_nothing_else(serve):
    x = noise(5, 3)
    messages = [x[0].tobytes(), b"\x00" * 7, x[1].tobytes(), b"", x[2].tobytes()]
    source = WebSocket(serve(messages), timeout_s=10)
    times, frames = whole(source)
    assert np.array_equal(frames, x[:3])
    assert (np.diff(times) > 0).all()
    assert source.counts == {"garbage": 1}
    texts = [
        "1, 2 3",
        json.dumps([4, 5, 6]),
        "one",
        "[1, [2]]",
        "[1, 2",
        "[1" + "0" * 999 + "]",
        "",
        '["a"]',
        b"\xff",
        "7",
    ]
    source = Checked(WebSocket(serve(texts), encoding="text", timeout_s=10))
    assert np.array_equal(whole(source)[1], [[1, 2, 3], [4, 5, 6]])
    assert source.counts == {"garbage": 7, "misshapen": 1}


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_samples_in_messages_of_any_length(serve, encoding):
    x = np.round(noise(300, 2) * 32767) / np.float32(32768)
    raw = (x * 32768).astype("<i2") if encoding == "s16le" else x
    blocks = [raw[:100].tobytes(), raw[100:101].tobytes() + b"\x01", raw[101:].tobytes()]
    source = WebSocket(serve(blocks), sample_rate_hz=RATE_HZ, encoding=encoding, channels=2)
    frames = whole(Windows(Checked(source), 60, channel=1))[1]
    assert np.array_equal(np.concatenate(frames), x[:, 1])
    assert source.counts == {"half_frames": 1}


def test_a_connection_that_breaks_or_stalls(serve):
    never = threading.Event()
    source = WebSocket(serve([b"\x00\x00\x80\x3f", never]), timeout_s=10)
    with source:
        assert next(source).data == [1]
        source.timeout_s = 0.03
        with pytest.raises(SourceError, match=r"no message for 0\.03 s"):
            next(source)
        never.set()
    assert source.counts == {"stalls": 1}
    source = WebSocket(serve([b"\x00\x00\x80\x3f", "break"]), timeout_s=10)
    with source:
        assert next(source).data == [1]
        with pytest.raises(SourceError, match="the connection broke"):
            next(source)
    with pytest.raises(SourceError, match="cannot connect"):
        WebSocket("ws://127.0.0.1:1")
    with pytest.raises(SourceError, match="cannot connect"):
        WebSocket("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="`encoding` must be one of s16le, f32le, text, got 'x'"):
        WebSocket("ws://127.0.0.1:1", encoding="x")


def test_a_connection_comes_back_and_only_what_was_not_sent_is_lost(serve):
    one, two, three = (np.float32([n]).tobytes() for n in (1, 2, 3))
    url = serve([one, "break"], [two, "break"], [three])
    source = Reconnecting(lambda: WebSocket(url, timeout_s=10), first_s=0.001)
    assert np.array_equal(whole(Checked(source))[1], [[1], [2], [3]])
    assert source.counts == {"reconnects": 2}


# MQTT ----------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path):
    """Start a broker of one's own; return (port, process)."""
    pytest.importorskip("paho.mqtt.client", reason="the extra `live` is not installed")
    if MOSQUITTO is None:
        pytest.skip("there is no mosquitto: apt install mosquitto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [MOSQUITTO, "-v", "-c", str(config)], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "running" in line:
            break
    yield port, process
    process.kill()
    process.wait()
    process.stderr.close()


def publish(port, *payloads):
    import paho.mqtt.client as paho

    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for payload in payloads:
        client.publish("room/co2", payload, qos=1).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def test_messages_of_a_broker(broker):
    port, process = broker
    source = Mqtt("127.0.0.1", "room/#", port, encoding="text", timeout_s=10)
    with source:
        publish(port, "400,21.5", "garbage", "[410, 21.75]")
        frames = [next(source).data for _ in range(2)]
        process.kill()
        with pytest.raises(SourceError, match="the connection broke"):
            next(source)
    assert np.array_equal(frames, [[400, 21.5], [410, 21.75]])
    assert source.counts == {"garbage": 1}
    with pytest.raises(SourceError, match="cannot connect"):
        Mqtt("127.0.0.1", "room/#", port)


def test_a_full_inbox_drops_the_oldest_and_a_quiet_topic_stalls(broker):
    source = Mqtt("127.0.0.1", "room/co2", broker[0], "drop_oldest", 2, timeout_s=10)
    with source:
        publish(broker[0], *(np.float32([n]).tobytes() for n in range(5)))
        with source.inbox._changed:
            source.inbox._changed.wait_for(lambda: source.counts["dropped"] == 3, 10)
        assert [next(source).data[0] for _ in range(2)] == [3, 4]
        source.inbox.timeout_s = 0.01
        with pytest.raises(SourceError, match=r"no frame for 0\.01 s"):
            next(source)
    assert source.counts == {"dropped": 3, "stalls": 1}


def test_a_broker_that_does_not_answer():
    pytest.importorskip("paho.mqtt.client", reason="the extra `live` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(SourceError, match="cannot connect: the broker does not answer"):
            Mqtt("127.0.0.1", "x", port, timeout_s=0.02)


# Serial port ---------------------------------------------------------------------------------


@pytest.fixture
def terminal():
    """Return the sender's end of a pseudo-terminal, and the name of the other one."""
    pytest.importorskip("serial", reason="the extra `live` is not installed")
    if sys.platform == "win32":
        pytest.skip("there are no pseudo-terminals")
    import tty

    ours, theirs = os.openpty()
    tty.setraw(theirs)
    ends = [ours, theirs]
    yield ends, os.ttyname(theirs)
    for end in ends:
        os.close(end)


def test_lines_of_a_serial_port(terminal):
    ends, name = terminal
    source = Serial(name, timeout_s=0.05)
    with source:
        os.write(ends[0], b"5,6\n1.5,2\r\n\nx,y\n\xff\xfe\n3 -4e2\n7,")
        frames = [next(source).data for _ in range(2)]
        with pytest.raises(SourceError, match=r"no line for 0\.05 s"):
            next(source)
    assert np.array_equal(frames, [[1.5, 2], [3, -400]])
    assert source.counts == {"half_frames": 1, "garbage": 2, "stalls": 1}


def test_a_serial_port_that_is_pulled_out_or_absent(terminal):
    ends, name = terminal
    with Serial(name, timeout_s=10) as source:
        os.write(ends[0], b"\n1\n")
        assert next(source).data == [1]
        os.close(ends.pop(0))
        with pytest.raises(SourceError, match="the connection broke"):
            next(source)
    with pytest.raises(SourceError, match="/dev/none: cannot open it"):
        Serial("/dev/none")


def test_a_line_without_end(terminal, monkeypatch):
    monkeypatch.setattr("streamrnn.live.peers.MAX_BYTES", 16)
    ends, name = terminal
    with Serial(name, timeout_s=10) as source:
        os.write(ends[0], b"\n1\n" + b"9" * 40 + b"\n2\n")
        assert [next(source).data[0] for _ in range(2)] == [1, 2]
    assert source.counts == {"half_frames": 2, "garbage": 2}


# Microphone ----------------------------------------------------------------------------------


class Card:
    """A sound card of PortAudio's, as far as it is used."""

    class PortAudioError(Exception):
        pass

    class InputStream:
        def __init__(self, samplerate, blocksize, device, channels, dtype, callback):
            if device == "none":
                raise ValueError("No input device matching 'none'")
            self.callback = callback

        def start(self):
            data, fine = noise(512), types.SimpleNamespace(input_overflow=False)
            for block in (data[:256], data[256:]):
                buffer = block.copy()
                self.callback(buffer, 256, None, fine)
                buffer[:] = 0  # PortAudio uses it again
            self.callback(data[:1], 1, None, types.SimpleNamespace(input_overflow=True))

        def close(self):
            pass


def test_a_microphone(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Card)
    with Microphone(RATE_HZ, timeout_s=0.01) as source:
        blocks = [next(source).data for _ in range(3)]
        assert np.array_equal(np.concatenate(blocks[:2]), noise(512))
        with pytest.raises(SourceError, match=r"microphone: no frame for 0\.01 s"):
            next(source)
    assert source.counts == {"overruns": 1, "stalls": 1}
    with pytest.raises(SourceError, match="microphone none: cannot open it: No input device"):
        Microphone(RATE_HZ, "none")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SourceError, match=r"needs sounddevice: pip install streamrnn\[live\]"):
        Microphone(RATE_HZ)


# The command ---------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """Return a function that runs ``streamrnn run`` with a model of frames of two numbers."""
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    from typer.testing import CliRunner

    from streamrnn.cli.app import app

    model = sr.GRU(2, 3, seed=0)
    model.save(tmp_path / "m.safetensors")

    def run(*words):
        return CliRunner().invoke(app, ["run", str(tmp_path / "m.safetensors"), *map(str, words)])

    return model, run


def test_the_command_keeps_the_state_over_a_broken_connection(serve, command):
    model, run = command
    x = noise(5, 2)
    data = [row.tobytes() for row in x]
    url = serve([*data[:2], "break"], [data[2], b"\x00", data[3], "break"], [data[4]])
    result = run(url, "--encoding", "f32le", "--json", "--probs", "--timeout", 10)
    *said, last = [json.loads(line) for line in result.stdout.splitlines()]
    ys = np.float32([[s[f"{n}_{i}"] for i in range(3)] for s in said for n in [list(s)[1][:-2]]])
    assert np.array_equal(ys, model.stream().run(x))
    assert last["summary"]["counts"] == {"garbage": 1, "reconnects": 2}
    assert result.exit_code == 0
    assert "1 reconnects: ws://" in result.stderr


def test_the_command_reads_a_serial_port(terminal, command, monkeypatch):
    import serial

    (ours, _), name = terminal
    opened = serial.serial_for_url

    def sent(*words, **options):  # what comes before it is opened, pyserial drops
        port = opened(*words, **options)
        os.write(ours, b"\n1,2\n3,4\n")
        return port

    monkeypatch.setattr(serial, "serial_for_url", sent)
    result = command[1](f"serial:{name}?baud=9600", "--timeout", 0.05, "--retries", 0)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert "no line for 0.05 s" in result.stderr
    assert "2 frames" in result.stderr


def test_the_command_reads_a_broker(broker, command):
    port, process = broker
    sender = threading.Thread(target=_when_subscribed, args=(port, process, b"1 2", b"3 4"))
    sender.start()
    words = ("--encoding", "text", "--timeout", 10, "--retries", 0)
    result = command[1](f"mqtt://127.0.0.1:{port}/room/+", *words)
    sender.join(10)
    assert result.exit_code == 1
    assert "the connection broke" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def _when_subscribed(port, process, *payloads):
    """Publish as soon as the broker has said that somebody subscribed; then stop it."""
    for line in process.stderr:
        if "Sending SUBACK" in line:
            break
    publish(port, *payloads)
    process.terminate()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ws://127.0.0.1:1", "ws://127.0.0.1:1: cannot connect"),
        ("mqtt://127.0.0.1:1/x", "mqtt://127.0.0.1:1/x: cannot connect"),
        ("serial:/dev/none", "/dev/none: cannot open it"),
    ],
)
def test_live_sources_that_are_not_there(source, said, command):
    for module in ("websockets", "paho.mqtt.client", "serial"):
        pytest.importorskip(module, reason="the extra `live` is not installed")
    result = command[1](source)
    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("mqtt://127.0.0.1:1", "expected mqtt://HOST/TOPIC or mqtt://HOST:PORT/TOPIC"),
        ("mqtt://127.0.0.1:x/y", "Port could not be cast to integer"),
        ("serial:/dev/none?baud=fast", "expected serial:PORT?baud=NUMBER"),
        ("serial:/dev/none?format=f32le", "expected serial:PORT?baud=NUMBER"),
        ("serial:/dev/none?size=2&header=xy", "non-hexadecimal number"),
        ("serial:/dev/none?size=2&checksum=md5", "`checksum` must be one of none, sum8"),
    ],
)
def test_live_sources_that_are_misspelt(source, said, command):
    result = command[1](source)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_the_command_hears_a_microphone(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Card)
    result = command[1]("mic:", "--rate", 8000, "--timeout", 0.02, "--retries", 0)
    assert "microphone: no frame for 0.02 s" in result.stderr
    assert "drops 1, padded" not in result.stderr
    assert len(result.stdout.splitlines()) == 256


# Packets -------------------------------------------------------------------------------------


def packed(packets, rows):
    """Return packets with numbers, made by hand."""
    found = []
    for row in np.float32(rows):
        body = row.tobytes()
        check = {
            "none": b"",
            "sum8": bytes([sum(body) % 256]),
            "xor8": bytes([functools.reduce(operator.xor, body)]),
            "crc16": struct.pack("<H", xmodem(body)),
            "crc32": struct.pack("<I", zlib.crc32(body)),
        }
        found.append(packets.header + body + check[packets.checksum])
    return found


def xmodem(data):
    """Return the CRC with polynomial 0x1021, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
        crc &= 0xFFFF
    return crc


@pytest.mark.parametrize("checksum", ["none", "sum8", "xor8", "crc16", "crc32"])
@pytest.mark.parametrize("header", [b"", b"\xaa\x55", b"\xaa\xaa\x01"])
def test_packets_come_in_any_pieces(checksum, header):
    packets, rows = Packets(3, header=header, checksum=checksum), noise(20, 3)
    data = b"".join(packed(packets, rows))
    rng = np.random.default_rng(0)
    waiting, got = bytearray(), []
    while data:
        n = int(rng.integers(1, 40))
        waiting += data[:n]
        data = data[n:]
        got += list(packets.found(waiting))
    assert np.array_equal([np.frombuffer(body, "<f4") for _, body in got], rows)
    assert not waiting
    assert {skipped for skipped, _ in got} == {0}


def test_packets_are_found_again_behind_garbage_and_halves():
    packets, rows = Packets(2, header=b"\xaa\xaa\x01", checksum="crc16"), noise(6, 2)
    a, b, c, d, e, f = packed(packets, rows)
    wrong = bytes([*b[:5], b[5] ^ 1, *b[6:]])
    data = b"\xaa" + a + wrong + c[:7] + d + b"\xaa\xaa" + e + f[:-1]
    for step in (1, 5, 1000):
        waiting, got, skipped = bytearray(), [], 0
        for at in range(0, len(data), step):
            waiting += data[at : at + step]
            for before, body in packets.found(waiting):
                skipped += before
                got += [body] if body else []
        assert np.array_equal([np.frombuffer(body, "<f4") for body in got], rows[[0, 3, 4]])
        assert skipped == 1 + len(wrong) + 7 + 2
        assert waiting == f[:-1]


def test_packets_of_a_serial_port(terminal):
    ends, name = terminal
    packets, rows = Packets(2, header=b"\xaa\x55", checksum="xor8"), noise(3, 2)
    a, b, c = packed(packets, rows)
    source = Serial(name, timeout_s=0.05, packets=packets)
    with source:
        os.write(ends[0], b"\n\xaa" + a + b"boot" + b + c[:4])
        frames = [next(source).data for _ in range(2)]
        with pytest.raises(SourceError, match=r"no packet for 0\.05 s"):
            next(source)
    assert np.array_equal(frames, rows[:2])
    assert source.counts == {"garbage": 2, "half_frames": 1, "stalls": 1}
    with Serial(name, timeout_s=10, packets=packets) as source:
        os.write(ends[0], a)
        assert np.array_equal(next(source).data, rows[0])
        os.close(ends.pop(0))
        with pytest.raises(SourceError, match="the connection broke"):
            next(source)
    for words, said in (
        ({"size": 0}, "`size` must be a positive integer, got 0"),
        ({"size": 1, "encoding": "text"}, "`encoding` must be one of s16le, f32le, got 'text'"),
        ({"size": 1, "checksum": "md5"}, "`checksum` must be one of none, sum8, xor8, crc16"),
        ({"size": 1, "header": "aa"}, "`header` must be bytes, got 'aa'"),
    ):
        with pytest.raises(ConfigError, match=said):
            Packets(**words)


def test_the_command_reads_packets(terminal, command, monkeypatch):
    import serial

    (ours, _), name = terminal
    model, run = command
    opened, rows = serial.serial_for_url, noise(3, 2)
    packets = Packets(2, header=b"\xaa\x55", checksum="crc32")

    def sent(*words, **options):  # what comes before it is opened, pyserial drops
        port = opened(*words, **options)
        os.write(ours, b"".join(packed(packets, rows)))
        return port

    monkeypatch.setattr(serial, "serial_for_url", sent)
    address = f"serial:{name}?baud=9600&size=2&header=aa55&checksum=crc32"
    result = run(address, "--timeout", 0.05, "--retries", 0)
    assert result.exit_code == 1
    assert "no packet for 0.05 s" in result.stderr
    said = np.array([line.split()[1:] for line in result.stdout.splitlines()], float)
    assert np.allclose(said, model.stream().run(rows), rtol=1e-5)


# Cameras -------------------------------------------------------------------------------------


def test_the_command_sees_through_a_camera(tmp_path, monkeypatch):
    """A video file in place of a camera; one that ends has been unplugged."""
    av = pytest.importorskip("av", reason="the extra `live` is not installed")
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    from typer.testing import CliRunner

    from streamrnn.cli.app import app

    monkeypatch.setitem(CAMERAS, sys.platform, ("avi", str(tmp_path / "{}.avi")))
    with av.open(str(tmp_path / "0.avi"), "w") as file:
        track = file.add_stream("ffv1", rate=10)  # lossless
        track.width, track.height, track.pix_fmt = 4, 2, "gray"
        for t in range(5):
            picture = np.full((2, 4), 50 * t, np.uint8)
            file.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        file.mux(track.encode())
    model = sr.Sequential(sr.Input((2, 4)), sr.Flatten(), sr.GRU(8, 3, seed=0))
    model.save(tmp_path / "m.safetensors")
    words = ["run", str(tmp_path / "m.safetensors"), "camera:0", "--retries", "0", "--json"]
    result = CliRunner().invoke(app, [*words, "--probs"])
    assert result.exit_code == 1
    assert "camera 0: the connection broke" in result.stderr
    *said, _ = [json.loads(line) for line in result.stdout.splitlines()]
    pictures = np.repeat(np.float32(np.arange(5) * 50 / 255), 8).reshape(5, 2, 4)
    got = np.float32([[v for k, v in s.items() if k != "time_s"] for s in said])
    assert np.allclose(got, model.stream().run(pictures), atol=1e-6)
    assert (np.diff([s["time_s"] for s in said]) > 0).all()
    result = CliRunner().invoke(app, [*words[:2], "camera:7", *words[3:]])
    assert result.exit_code == 1
    assert "camera 7: cannot open it" in result.stderr
    with Camera("0", 2, 4, 1) as camera:
        next(camera)
    assert list(camera) == []
    monkeypatch.delitem(CAMERAS, sys.platform)
    with pytest.raises(SourceError, match="cameras are not known on"):
        Camera("0", 2, 4)
