"""Sources: what they give is what others read, and what is wrong is counted and loses nothing."""

import asyncio
import io
import logging
import re
import threading
from pathlib import Path

import numpy as np
import pytest

import streamrnn.live
from streamrnn import ConfigError, SourceError
from streamrnn.live import (
    Buffered,
    Checked,
    Csv,
    Frame,
    Npy,
    Npz,
    Parquet,
    Pcm,
    Reconnecting,
    SoundFile,
    Source,
    Video,
    Windows,
)

RATE_HZ = 16000


class Given(Source):
    """Frames from a list; an exception in it is raised, a callable called."""

    def __init__(self, items, sample_rate_hz=None):
        super().__init__("given")
        self.items, self.sample_rate_hz = items, sample_rate_hz

    def _read(self):
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            if callable(item):
                item()
                continue
            yield Frame(item[0], np.asarray(item[1], np.float32))


def noise(n, channels=1, seed=0):
    numbers = np.random.default_rng(seed).uniform(-0.9, 0.9, (n, channels))
    return numbers.astype(np.float32)


def whole(source):
    with source:
        frames = list(source)
    return np.array([f.time_s for f in frames]), [f.data for f in frames]


# Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "")])
@pytest.mark.parametrize("block", [1, 7, 1024])
def test_a_sound_file_is_what_soundfile_reads(tmp_path, suffix, subtype, block):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, noise(100, 2), RATE_HZ, subtype or None)
    source = SoundFile(path, block)
    times, blocks = whole(source)
    expected, rate = soundfile.read(path, dtype="float32")
    assert np.array_equal(np.concatenate(blocks), expected)
    assert source.sample_rate_hz == rate
    assert np.allclose(times, np.arange(0, 100, block) / RATE_HZ)
    assert not source.counts
    assert list(source) == [], "closed"


def test_sound_files_that_are_none(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    with pytest.raises(SourceError, match=r"is a folder, expected a sound file"):
        SoundFile(tmp_path)
    with pytest.raises(SourceError, match=r"none\.wav: no such file"):
        SoundFile(tmp_path / "none.wav")
    for content in (b"", b"RIFF", b"RIFF\x00\x00\x00\x00WAVEgarbage", bytes(1000)):
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(SourceError, match=r"bad\.wav: cannot read it as sound"):
            SoundFile(tmp_path / "bad.wav")
    soundfile.write(tmp_path / "empty.wav", noise(0), RATE_HZ)
    assert whole(Windows(Checked(SoundFile(tmp_path / "empty.wav")), 8))[1] == []


def test_a_sound_file_that_breaks_off_gives_what_is_there(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    x = noise(20_000)
    soundfile.write(tmp_path / "x.flac", x, RATE_HZ, "PCM_16")
    data = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(data[: len(data) // 2])
    source = SoundFile(tmp_path / "x.flac", 64)
    got = np.concatenate(whole(source)[1])
    assert 4096 <= len(got) < 20_000
    assert np.abs(got[:4096] - x[:4096]).max() < 1e-4
    assert source.counts == {"truncated": 1}
    soundfile.write(tmp_path / "x.wav", x, RATE_HZ, "FLOAT")
    data = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(data[:-4002])  # half a sample more than a thousand
    source = SoundFile(tmp_path / "x.wav")
    assert np.array_equal(np.concatenate(whole(source)[1]), x[:-1001])
    assert source.counts == {"truncated": 1}


class Dribble(io.RawIOBase):
    """A pipe that gives one byte too few, again and again."""

    def __init__(self, data, most):
        self.data, self.most = io.BytesIO(data), most

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.data.read(min(self.most, len(buffer)))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
@pytest.mark.parametrize("channels", [1, 2])
def test_raw_samples(encoding, channels):
    soundfile = pytest.importorskip("soundfile")
    data, x = io.BytesIO(), noise(1001, channels)
    kind = {"s16le": "PCM_16", "f32le": "FLOAT"}[encoding]
    soundfile.write(data, x, RATE_HZ, kind, format="RAW", endian="LITTLE")
    data.seek(0)
    raw = {"channels": channels, "samplerate": RATE_HZ, "format": "RAW", "endian": "LITTLE"}
    expected = soundfile.read(data, dtype="float32", always_2d=True, subtype=kind, **raw)[0]
    pipe = Dribble(data.getvalue() + b"\x01", 7)
    source = Pcm(pipe, RATE_HZ, encoding, channels, block=100)
    times, blocks = whole(source)
    assert np.array_equal(np.concatenate(blocks), expected)
    assert np.allclose(times, np.arange(0, 1001, 100) / RATE_HZ)
    assert source.counts == {"half_frames": 1}


def test_raw_samples_of_nothing_and_of_wrong_arguments():
    assert whole(Pcm(io.BytesIO(), RATE_HZ))[1] == []
    with pytest.raises(ConfigError, match="`encoding` must be one of s16le, f32le, got 'mp3'"):
        Pcm(io.BytesIO(), RATE_HZ, "mp3")
    with pytest.raises(ConfigError, match="`sample_rate_hz` must be a positive number, got 0"):
        Pcm(io.BytesIO(), 0)


def test_arrays(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", x)
    times, frames = whole(Npy(tmp_path / "x.npy", frame_rate_hz=2))
    assert np.array_equal(frames, x)
    assert frames[0].dtype == np.float32
    assert times.tolist() == [0, 0.5, 1, 1.5]
    signal = noise(3000)[:, 0]
    np.save(tmp_path / "s.npy", signal)
    times, blocks = whole(Npy(tmp_path / "s.npy", RATE_HZ))
    assert np.array_equal(np.concatenate(blocks)[:, 0], signal)
    assert times.tolist() == [0, 1024 / RATE_HZ, 2048 / RATE_HZ]
    for array in (np.array(3.0), np.array(["a"]), np.zeros(3, complex)):
        np.save(tmp_path / "bad.npy", array)
        with pytest.raises(SourceError, match=r"expected numbers of shape \(T, …\), got kind"):
            Npy(tmp_path / "bad.npy")
    np.save(tmp_path / "bad.npy", np.array([{}]), allow_pickle=True)
    for content in (None, b"", b"\x93NUMPY"):
        if content is not None:
            (tmp_path / "bad.npy").write_bytes(content)
        with pytest.raises(SourceError, match=r"as \.npy: it holds no numbers$"):
            Npy(tmp_path / "bad.npy")


def test_tables(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "\ufefft,a,b\n0,1,2\n0.5,3,\n\n1.5,x,4\n2,5\n2.5,7,8,9\n3,-1e3,nan\n4,1e300,0\n"
    )
    source = Csv(path, ["b", "a"], "t")
    times, frames = whole(source)
    assert times.tolist() == [0, 0.5, 3, 4]
    rows = [[2, 1], [np.nan, 3], [np.nan, -1000], [0, np.inf]]
    assert np.array_equal(frames, rows, equal_nan=True)
    assert source.counts == {"garbage": 3}
    path.write_text("1,2\n3,4\n")
    times, frames = whole(Csv(path, frame_rate_hz=4))
    assert np.array_equal(frames, [[1, 2], [3, 4]])
    assert times.tolist() == [0, 0.25]
    with pytest.raises(SourceError, match="no column c; there are 0, 1"):
        Csv(path, ["c"])
    path.write_text("")
    with pytest.raises(SourceError, match=r"x\.csv: holds no columns of numbers"):
        Csv(path)
    with pytest.raises(SourceError, match=r"none\.csv: cannot read it: No such file"):
        Csv(tmp_path / "none.csv")
    path.write_text("9" * 200_000)
    with pytest.raises(SourceError, match="cannot read it as CSV"):
        Csv(path)
    path.write_bytes(b"a\n1\n\xff\xfe\n2\n" + b"9" * 200_000 + b"\n3\n")
    source = Csv(path)
    assert np.array_equal(whole(source)[1], [[1], [2], [3]])
    assert source.counts == {"garbage": 2}


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="the extra `live` is not installed")
    import pyarrow.parquet

    table = arrow.table({"t": [0.0, 2.0, 3.0], "a": [1, None, 3], "b": ["x", "y", "z"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    times, frames = whole(Parquet(tmp_path / "x.parquet", ["a"], "t"))
    assert np.array_equal(frames, [[1], [np.nan], [3]], equal_nan=True)
    assert times.tolist() == [0, 2, 3]
    with pytest.raises(SourceError, match="expected columns of numbers"):
        whole(Parquet(tmp_path / "x.parquet", ["b"]))
    with pytest.raises(SourceError, match="no column c; there are t, a, b"):
        Parquet(tmp_path / "x.parquet", ["c"])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"bad\.parquet: cannot read it as Parquet"):
        Parquet(tmp_path / "bad.parquet")


def test_pictures(tmp_path):
    av = pytest.importorskip("av", reason="the extra `live` is not installed")
    path = str(tmp_path / "x.avi")
    with av.open(path, "w") as file:
        track = file.add_stream("ffv1", rate=10)  # lossless
        track.width, track.height, track.pix_fmt = 16, 8, "bgr0"
        for t in range(5):
            picture = np.full((8, 16, 3), (10 * t, 100, 200), np.uint8)
            file.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(track.encode())
    times, frames = whole(Video(path, 8, 16))
    assert np.allclose(times, np.arange(5) / 10)
    for t, frame in enumerate(frames):
        assert frame.shape == (3, 8, 16)
        assert np.allclose(frame * 255, np.array([10 * t, 100, 200])[:, None, None], atol=0.01)
    grey = whole(Video(path, 4, 6, channels=1, input_format="avi"))[1]
    assert [frame.shape for frame in grey] == [(1, 4, 6)] * 5
    with pytest.raises(SourceError, match="cannot read it as video"):
        Video(path, 4, 6, input_format="none")
    (tmp_path / "bad.avi").write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r"bad\.avi: cannot read it as video"):
        Video(tmp_path / "bad.avi", 8, 16)
    with pytest.raises(ConfigError, match="expected 1 or 3 channels and a positive size, got 2"):
        Video(path, 8, 16, 2)


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    import sys

    for module, extra, make in (
        ("soundfile", "audio", lambda: SoundFile("x.wav")),
        ("av", "live", lambda: Video("x.avi", 8, 8)),
        ("pyarrow.parquet", "live", lambda: Parquet("x.parquet")),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(SourceError, match=rf"needs {module}: pip install streamrnn\[{extra}\]"):
            make()


# Stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "hop"), [(1, 1), (16, 16), (20, 16), (16, 5)])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_windows(window, hop, block):
    x = noise(203)
    blocks = [(i / 100, x[i : i + block]) for i in range(0, 203, block)]
    source = Windows(Given(blocks, 100), window, hop)
    times, frames = whole(source)
    n = -(-203 // hop)
    padded = np.concatenate((np.zeros(window - hop), x[:, 0], np.zeros(n * hop - 203)))
    views = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    assert np.array_equal(frames, views)
    assert np.allclose(times, np.arange(n) * hop / 100)
    assert source.counts["padded_samples"] == n * hop - 203


def test_windows_resample_as_soxr_does_the_whole():
    soxr = pytest.importorskip("soxr", reason="the extra `audio` is not installed")
    x = noise(4410, 2)
    blocks = [(i / 44100, x[i : i + 441]) for i in range(0, 4410, 441)]
    for channel, mono in ((0, x[:, 0]), (1, x[:, 1]), ("mix", x.mean(1))):
        times, frames = whole(Windows(Given(blocks, 44100), 160, None, RATE_HZ, channel))
        assert np.array_equal(np.concatenate(frames), soxr.resample(mono, 44100, RATE_HZ))
        assert np.allclose(times, np.arange(10) / 100)


def test_samples_beyond_all_sense_stay_finite_on_their_way_to_the_model():
    pytest.importorskip("soxr", reason="the extra `audio` is not installed")
    x = noise(8000, 2)
    garbage = np.random.default_rng(1).integers(0, 2**32, (800, 2), np.uint32).view(np.float32)
    garbage[::7] = 3e38
    x[2400:3200] = garbage
    blocks = [(i / 8000, x[i : i + 800]) for i in range(0, 8000, 800)]
    source = Windows(Checked(Given(blocks, 8000)), 512, sample_rate_hz=RATE_HZ)
    frames = np.concatenate(whole(source)[1])
    assert np.isfinite(np.square(frames)).all()
    assert source.counts["nonfinite"] == np.count_nonzero(~(np.abs(garbage) <= 1e15))
    x[2400:3200] = 0
    clean = np.concatenate(whole(Windows(Given(blocks, 8000), 512, sample_rate_hz=RATE_HZ))[1])
    assert np.allclose(frames[8000:], clean[8000:], atol=1e-5)


def test_a_sensor_may_count_in_any_unit():
    frames = [(t, [1e30 * t]) for t in range(3)]
    source = Checked(Given(frames))
    assert np.array_equal(whole(source)[1], np.float32([[0], [1e30], [2e30]]))
    assert not source.counts


def test_windows_of_what_has_none():
    blocks = [(0, noise(10, 2))]
    with pytest.raises(SourceError, match="there is no channel 2, only 0 to 1"):
        whole(Windows(Given(blocks, RATE_HZ), 4, channel=2))
    with pytest.raises(ConfigError, match="gives frames, not samples"):
        Windows(Given(blocks), 4)
    with pytest.raises(ConfigError, match="expected 1 <= hop <= window, got hop 5 and window 4"):
        Windows(Given(blocks, RATE_HZ), 4, 5)
    with pytest.raises(ConfigError, match="`channel` must be a number from 0 on or 'mix', got -1"):
        Windows(Given(blocks, RATE_HZ), 4, channel=-1)


def test_what_is_wrong_with_frames_is_counted_and_loses_nothing_else(caplog):
    good = [(t, [t, 10 * t]) for t in range(6)]
    bad = [*good]
    bad[1:1] = [(0.5, [1, 2, 3]), (0.6, 7)]
    bad[5:5] = [(1.5, [0, 0]), (2, [0, 0])]
    bad.append((6, [np.nan, 60]))
    bad.append((7, [7, np.inf]))
    source = Checked(Given(bad))
    with caplog.at_level(logging.WARNING, "streamrnn.live"):
        times, frames = whole(source)
    assert times.tolist() == [*range(8)]
    assert np.array_equal(frames, [[t, 10 * t] for t in range(6)] + [[5, 60], [7, 60]])
    assert source.counts == {
        "misshapen": 2,
        "out_of_order": 1,
        "duplicates": 1,
        "nonfinite": 2,
    }
    assert "given: 1 misshapen: expected (2,), got (3,)" in caplog.text
    assert "given: 1 out of order: 1.5 s after 2 s" in caplog.text


def test_samples_that_are_no_numbers_and_channels_that_change():
    x = noise(6, 2)
    x[0, 0] = x[3, 1] = x[4, 1] = np.nan
    items = [(0, x[:4]), (1, noise(4, 1)), (2, x[:0]), (3, x[4:])]
    source = Checked(Given(items, RATE_HZ))
    blocks = np.concatenate(whole(source)[1])
    x[0, 0], x[3:5, 1] = 0, x[2, 1]
    assert np.array_equal(blocks, x)
    assert source.counts == {"misshapen": 1, "nonfinite": 3}


def test_what_goes_on_happening_is_logged_at_powers_of_ten(caplog):
    source = Checked(Given([(0, 0)] * 1000))
    with caplog.at_level(logging.WARNING, "streamrnn.live"):
        whole(source)
    assert [r.message.split()[1] for r in caplog.records] == ["1", "10", "100"]
    assert source.counts == {"duplicates": 999}


# Buffers -------------------------------------------------------------------------------------


def test_a_buffer_that_blocks_loses_nothing():
    source = Buffered(Given([(t, t) for t in range(500)]), capacity=3)
    times, _ = whole(source)
    assert times.tolist() == [*range(500)]
    assert not source.counts


def test_a_buffer_that_drops_keeps_the_newest_and_counts():
    sent, go = threading.Event(), threading.Event()
    items = [(0, 0), go.wait, *((t, t) for t in range(1, 101)), sent.set]
    with Buffered(Given(items), "drop_oldest", capacity=4) as source:
        first = next(source)
        go.set()
        assert sent.wait(10)
        rest = [f.time_s for f in source]
    assert first.time_s == 0
    assert rest == [97, 98, 99, 100]
    assert source.counts == {"dropped": 96}


def test_a_buffer_that_is_closed_lets_its_sender_go():
    with Buffered(Given([(t, t) for t in range(500)]), capacity=1) as source:
        next(source)
    source._thread.join(10)
    assert not source._thread.is_alive()
    assert source.source.closed
    assert list(source) == []


def test_a_stall_and_an_error_come_after_what_was_sent():
    stop = threading.Event()
    with Buffered(Given([(0, 0), stop.wait]), timeout_s=10) as source:
        assert next(source).time_s == 0
        source.inbox.timeout_s = 0.02
        with pytest.raises(SourceError, match=r"given: no frame for 0\.02 s"):
            next(source)
        stop.set()
    assert source.counts == {"stalls": 1}
    with Buffered(Given([(0, 0), SourceError("gone")])) as source:
        assert next(source).time_s == 0
        with pytest.raises(SourceError, match="gone"):
            next(source)


def test_wrong_buffers():
    with pytest.raises(ConfigError, match="`policy` must be one of block, drop_oldest, got 'no'"):
        Buffered(Given([]), "no")
    with pytest.raises(ConfigError, match="`capacity` must be a positive integer, got 0"):
        Buffered(Given([]), capacity=0)


def test_a_source_that_breaks_off_is_opened_again():
    gone = SourceError("gone")
    turns = [[(0, 0), (1, 1), gone], gone, gone, [(2, 2), (2, 2), gone], [(3, 3)]]

    def opener():
        turn = turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return Checked(Given(turn))

    source = Reconnecting(opener, retries=3, first_s=0.001)
    times, _ = whole(source)
    assert times.tolist() == [0, 1, 2, 3]
    assert source.counts == {"reconnects": 4, "duplicates": 1}


def test_after_too_many_attempts_the_reason_is_passed_on():
    turns = iter([Given([(0, 0), SourceError("gone")])])

    def opener():
        for source in turns:
            return source
        raise SourceError("nobody there")

    with Reconnecting(opener, retries=2, first_s=0.001) as source:
        assert next(source).time_s == 0
        with pytest.raises(SourceError, match="nobody there"):
            next(source)
    assert source.counts == {"reconnects": 2}
    with pytest.raises(SourceError, match="nobody there"):
        Reconnecting(opener)


def test_closing_ends_the_wait_for_another_attempt():
    gone = threading.Event()
    source = Reconnecting(lambda: Given([gone.set, SourceError("gone")]), first_s=60)
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    assert gone.wait(10)
    source.close()
    reader.join(10)
    assert not reader.is_alive()


# Async ---------------------------------------------------------------------------------------


def test_async_frames_are_the_same_and_a_cancelled_wait_loses_none():
    go = threading.Event()

    async def listen():
        times = []
        async with Given([(0, 0), go.wait, (1, 1), (2, 2)]) as source:
            times.append((await anext(source)).time_s)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(source), 0.01)
            go.set()
            async for frame in source:
                times.append(frame.time_s)
        assert source.closed
        return times

    assert asyncio.run(listen()) == [0, 1, 2]


def test_async_waits_end_when_the_source_is_closed():
    never = threading.Event()

    async def listen():
        async with Buffered(Given([(0, 0), never.wait])) as source:
            assert (await anext(source)).time_s == 0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(source), 0.01)

    asyncio.run(listen())  # which waits for its threads
    never.set()


def test_an_error_reaches_who_awaits():
    async def listen():
        async with Given([SourceError("gone")]) as source:
            await anext(source)

    with pytest.raises(SourceError, match="gone"):
        asyncio.run(listen())


# Several inputs ------------------------------------------------------------------------------


def test_arrays_side_by_side(tmp_path):
    a, b = noise(4, 6).reshape(4, 2, 3), np.arange(4)
    np.savez(tmp_path / "x.npz", a=a, b=b, c=np.zeros(3))
    times, frames = whole(Npz(tmp_path / "x.npz", ["b", "a"], 2))
    assert times.tolist() == [0, 0.5, 1, 1.5]
    assert np.array_equal(frames, np.concatenate((b[:, None], a.reshape(4, 6)), 1))
    with pytest.raises(
        SourceError, match=r"of shape \(T, …\) called a, c, got a float32 \(4, 2, 3"
    ):
        Npz(tmp_path / "x.npz", ["a", "c"])
    with pytest.raises(SourceError, match="called d, got"):
        Npz(tmp_path / "x.npz", ["d"])
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(SourceError, match=r"cannot read it as \.npz"):
        Npz(tmp_path / "x.npz", ["a"])


def test_a_source_that_comes_back_at_another_rate_has_not_come_back():
    turns = [[(0, noise(3)), SourceError("gone")], [(1, noise(3))]]
    rates = iter((100, 200, 200))
    source = Reconnecting(lambda: Given(turns.pop(0), next(rates)), retries=1, first_s=0.001)
    turns.append([])
    with source, pytest.raises(SourceError, match="came back with a sample rate of 200 Hz"):
        list(source)


# The page ------------------------------------------------------------------------------------


def test_the_page_names_tests_and_words_that_exist():
    folder = Path(__file__).parent
    page = (folder.parent / "docs" / "live.md").read_text()
    code = "\n".join(path.read_text() for path in folder.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert not {name for name in named if f"def {name}(" not in code}
    words = set(re.findall(r"^``(\w+)``", streamrnn.live.__doc__, re.M))
    assert words - set(re.findall(r"`(\w+)`", page)) == set()
