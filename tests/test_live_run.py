"""The loop from a source to sinks: outputs are the stream's, files are what others read."""

import io
import json

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.decode import Hysteresis
from streamrnn.live import (
    Checked,
    CsvSink,
    EventSink,
    Frame,
    JsonSink,
    Latencies,
    Meter,
    NpySink,
    TextSink,
    WavSink,
    Windows,
    run,
    sink_for,
)
from test_live import RATE_HZ, Given, noise


@pytest.fixture(scope="module")
def gru():
    return sr.Sequential(sr.GRU(16, 8, seed=0), sr.Linear(8, 16, seed=1))


def frames(n, size=16):
    return [(t / 10, x) for t, x in enumerate(noise(n, size))]


def test_every_sink_holds_what_the_stream_gives(gru, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    items, names = frames(50), [f"y{i}" for i in range(16)]
    expected = gru.stream().run(np.array([x for _, x in items]))
    text, lines = io.StringIO(), io.StringIO()
    sinks = [
        NpySink(tmp_path / "y.npy", (16,)),
        CsvSink(tmp_path / "y.csv", names),
        WavSink(tmp_path / "y.wav", RATE_HZ),
        TextSink(text),
        JsonSink(lines, names),
    ]
    meter = run(gru.stream(), Given(items), sinks)
    for sink in sinks:
        sink.close()
        sink.close()
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    table = np.genfromtxt(tmp_path / "y.csv", delimiter=",", names=True)
    assert np.allclose(table["time_s"], np.arange(50) / 10)
    assert np.array_equal(table["y7"].astype(np.float32), expected[:, 7])
    assert np.array_equal(soundfile.read(tmp_path / "y.wav", dtype="float32")[0], expected.ravel())
    said = np.array([line.split() for line in text.getvalue().splitlines()], float)
    assert np.allclose(said[:, 1:], expected, rtol=1e-5)
    objects = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert np.array_equal([np.float32(o["y3"]) for o in objects], expected[:, 3])
    assert (meter.frames, meter.outputs, meter.signal_s) == (50, 50, pytest.approx(5))
    assert 0 < meter.real_time_factor < 1
    assert meter.as_dict()["counts"] == {}


def test_npy_sinks_of_nothing_and_of_numbers(tmp_path):
    NpySink(tmp_path / "a.npy", (2, 3)).close()
    assert np.load(tmp_path / "a.npy").shape == (0, 2, 3)
    with NpySink(tmp_path / "b.npy", ()) as sink:
        run(sr.Sequential(sr.Input(()), sr.Tanh()).stream(), Given(frames(3, 1)), [sink])
    assert np.load(tmp_path / "b.npy").shape == (3,)


def test_a_slower_model_and_several_outputs():
    slow = sr.Conv1d(16, 3, 4, stride=2, seed=0)
    text = io.StringIO()
    meter = run(slow.stream(), Given(frames(11)), [TextSink(text)])
    assert (meter.frames, meter.outputs) == (11, len(text.getvalue().splitlines()))
    assert "11 frames, 6 outputs, 1.1 s, real-time factor" in str(meter)
    x = sr.Input(16)
    two = sr.Model(x, {"a": sr.Tanh()(x), "b": x[:1]})
    lines = io.StringIO()
    run(two.stream(), Given(frames(1)), [JsonSink(lines, [*"abcdefghijklmnop", "last"])])
    assert json.loads(lines.getvalue())["last"] == pytest.approx(float(frames(1)[0][1][0]))


def test_numbers_that_are_not_finite_are_null_in_json():
    lines = io.StringIO()
    model = sr.Sequential(sr.Input(1), sr.Log())
    run(model.stream(), Given([(0, [0.0])]), [JsonSink(lines, ["y"])])
    assert json.loads(lines.getvalue()) == {"time_s": 0, "y": None}


def test_frames_that_do_not_fit(gru):
    with pytest.raises(
        sr.FrameError, match=r"given: gives frames of shape \(3,\), the model reads"
    ):
        run(gru.stream(), Given([(0, [1, 2, 3])]))
    pair = sr.Input(2), sr.Input(2)
    both = sr.Model({"a": pair[0], "b": pair[1]}, sr.concat(*pair))
    with pytest.raises(sr.FrameError, match=r"the model reads a \(2,\), b \(2,\) side by side"):
        run(both.stream(), Given([(0, [1, 2])]))


def test_indices_are_made_of_numbers():
    table = sr.Embedding(5, 3, seed=0)
    text = io.StringIO()
    run(table.stream(), Given([(0, 4), (1, 2)]), [TextSink(text)])
    said = np.array([line.split()[1:] for line in text.getvalue().splitlines()], float)
    assert np.allclose(said, table.stream().run(np.array([4, 2])), rtol=1e-5)


def test_a_source_that_breaks_off_leaves_the_meter_and_the_file(gru, tmp_path):
    meter = Meter()
    source = Checked(Given([*frames(5), (0.4, np.zeros(16)), sr.SourceError("unplugged")]))
    with NpySink(tmp_path / "y.npy", (16,)) as sink, pytest.raises(sr.SourceError, match="unplug"):
        run(gru.stream(), source, [sink], meter)
    assert len(np.load(tmp_path / "y.npy")) == meter.frames == 5
    assert meter.counts == {"duplicates": 1}
    assert str(meter).endswith("drops 0, duplicates 1")


def test_events_are_at_the_times_of_their_frames():
    """A source that begins late, and drops ten frames: what follows is not early."""
    ps = np.zeros((40, 2), np.float32)
    ps[5:10, 0] = ps[20:30, 1] = 0.9
    items = [(100 + t / 10, p) for t, p in enumerate(ps) if not 10 <= t < 20]
    text = io.StringIO()
    events = EventSink(text, ["a", "b"], Hysteresis(100, pad_ms=0))
    for time_s, p in items:
        events.write(Frame(time_s, p))
    events.close()
    events.close()
    assert events.segments == 2
    begins = [line for line in text.getvalue().splitlines() if "begins" in line]
    assert begins == ["100.50 s: a begins", "102.00 s: b begins"]
    assert "103.00 s: b ends, it began at 102.00 s" in text.getvalue()
    with pytest.raises(sr.FrameError, match=r"events of 2 probabilities \(a, b\), got 3 numbers"):
        events.write(Frame(0, np.zeros(3, np.float32)))


def test_an_event_that_the_end_cuts_off_is_told():
    text = io.StringIO()
    with EventSink(text, ["a"], Hysteresis(100, pad_ms=0), as_json=True) as events:
        for t in range(5):
            events.write(Frame(t / 10, np.float32([t >= 2])))
    assert [json.loads(line) for line in text.getvalue().splitlines()] == [
        {"event": "onset", "label": "a", "time_s": 0.2},
        {"event": "segment", "label": "a", "start_s": 0.2, "end_s": 0.5},
    ]


def test_sinks_that_cannot_be(tmp_path):
    with pytest.raises(sr.ConfigError, match=r"expected a name in \.npy, \.csv, \.wav or \.flac"):
        sink_for(tmp_path / "y.txt", (1,), ["y"], None)
    with pytest.raises(sr.ConfigError, match="the sample rate of the outputs is not known"):
        sink_for(tmp_path / "y.wav", (1,), ["y"], None)
    with pytest.raises(sr.ConfigError, match=r"a file needs a whole sample rate, got 99\.5"):
        sink_for(tmp_path / "y.wav", (1,), ["y"], 99.5)
    for name in ("y.npy", "y.csv", "y.wav"):
        with pytest.raises(sr.SourceError, match="cannot write"):
            sink_for(tmp_path / "none" / name, (1,), ["y"], RATE_HZ)


def test_quantiles_of_latencies_are_numpys_within_a_class():
    times = np.random.default_rng(0).lognormal(10, 1, 20_000).astype(int)
    latencies = Latencies()
    assert np.isnan(latencies.quantile_us(0.5))
    for ns in times:
        latencies.add(int(ns))
    for q in (0.01, 0.5, 0.99, 0.999):
        exact = np.quantile(times, q, method="inverted_cdf") / 1000
        assert exact <= latencies.quantile_us(q) <= exact * 1.05
    assert latencies.quantile_us(1) * 1000 == times.max() == latencies.largest_ns


def test_an_hour_of_silence_costs_nothing_but_time():
    """Constant memory, finite outputs, the clock exact at the end."""
    second = np.zeros((8000, 1), np.float32)
    loud = noise(8000)
    hour = ((t, second if t else loud) for t in range(3600))
    stream = sr.Sequential(sr.GRU(400, 4, seed=0)).stream()
    meter = run(stream, Windows(Given(hour, 8000), 400))
    assert meter.frames == 3600 * 20
    assert meter.last_s == pytest.approx(3600 - 0.05, abs=1e-6)
    assert all(np.isfinite(state).all() for state in stream.state.values())
    assert meter.counts == {}
