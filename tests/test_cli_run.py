"""The command ``streamrnn run``: what it prints and writes is what the stream gives."""

import contextlib
import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.decode import Hysteresis, Segment
from streamrnn.frontend import LogMel
from streamrnn.live import Frame, Meter
from test_import_onnx import SILERO, _speech, fetched
from test_live import RATE_HZ, noise

pytest.importorskip("typer", reason="the command needs the extra `cli`")

from rich.console import Console
from typer.testing import CliRunner

from streamrnn.cli import picture
from streamrnn.cli.app import app
from streamrnn.cli.watch import Watch


def run(*words, **options):
    return CliRunner().invoke(app, ["run", *map(str, words)], **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a model of two classes that hears frames of 160 samples, and sound."""
    folder = tmp_path_factory.mktemp("run")
    x = sr.Input(160)
    y = sr.Sigmoid()(sr.Linear(6, 2, seed=1)(sr.GRU(160, 6, seed=0)(x)))
    notes = {"sample_rate": RATE_HZ, "labels": ["speech", "music"]}
    net = sr.Model(x, {"score": y}, metadata=notes)
    net.save(folder / "m.safetensors")
    (folder / "x.s16").write_bytes((noise(4000) * 32767).astype("<i2").tobytes())
    return folder, net


def heard(net, x):
    """Return what the model makes of samples, the last frame filled up."""
    x = np.concatenate((x, np.zeros(-len(x) % 160, np.float32)))
    return net.stream().run(x.reshape(-1, 160))


def test_raw_samples_to_lines_and_a_summary(files):
    folder, net = files
    data = (folder / "x.s16").read_bytes()
    result = run(folder / "m.safetensors", "-", input=data + b"\x00")
    assert result.exit_code == 0
    lines = np.array([line.split() for line in result.stdout.splitlines()], float)
    expected = heard(net, np.frombuffer(data, "<i2").astype(np.float32) / 32768)
    assert np.allclose(lines[:, 1:], expected, rtol=1e-5)
    assert np.allclose(lines[:, 0], np.arange(25) / 100)
    assert "standard input: 1 half frames: 1 bytes at the end" in result.stderr
    assert "25 frames, 0.2 s, real-time factor" in result.stderr
    assert "drops 0, half frames 1" in result.stderr


def test_a_sound_file_at_another_rate_to_every_kind_of_file(files, tmp_path):
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    folder, net = files
    x = noise(8820, 2)
    soundfile.write(tmp_path / "x.flac", x, 44100, "PCM_24")
    x = soundfile.read(tmp_path / "x.flac", dtype="float32")[0]
    expected = heard(net, soxr.resample(x[:, 1], 44100, RATE_HZ))
    for name in ("y.npy", "y.csv", "y.wav"):
        words = (tmp_path / "x.flac", "--channel", 1, "--out", tmp_path / name)
        result = run(folder / "m.safetensors", *words)
        assert (result.exit_code, result.stdout) == (0, "")
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    table = np.genfromtxt(tmp_path / "y.csv", delimiter=",", names=True)
    assert table.dtype.names == ("time_s", "speech", "music")
    assert np.array_equal(table["music"].astype(np.float32), expected[:, 1])
    sound, rate = soundfile.read(tmp_path / "y.wav", dtype="float32")
    assert np.array_equal(sound, expected.ravel())
    assert rate == 200  # two numbers every 10 ms


def test_json_and_events(files):
    folder, net = files
    data = (folder / "x.s16").read_bytes()
    result = run(folder / "m.safetensors", "-", "--json", "--probs", input=data)
    *said, last = [json.loads(line) for line in result.stdout.splitlines()]
    expected = heard(net, np.frombuffer(data, "<i2").astype(np.float32) / 32768)
    assert np.array_equal(np.float32([[s["speech"], s["music"]] for s in said]), expected)
    assert last["summary"]["frames"] == 25
    on = float(np.median(expected))
    words = ("--events", "--threshold", on, "--min-off-ms", 0, "--pad-ms", 0)
    result = run(folder / "m.safetensors", "-", "--json", *words, input=data)
    *said, last = [json.loads(line) for line in result.stdout.splitlines()]
    for label, ps in zip(("speech", "music"), expected.T, strict=True):
        rule = Hysteresis(10.0, on=on, min_off_ms=0, pad_ms=0)
        segments = [e for e in (*rule.run(ps), rule.flush()) if isinstance(e, Segment)]
        found = [s for s in said if s["event"] == "segment" and s["label"] == label]
        assert [(s["start_s"], s["end_s"]) for s in found] == [
            (pytest.approx(e.start_s), pytest.approx(e.end_s)) for e in segments
        ]
    assert any(s["event"] == "onset" for s in said)
    result = run(folder / "m.safetensors", "-", *words, input=data)
    assert result.stdout.count(" begins\n") == sum(s["event"] == "onset" for s in said)
    assert "ends, it began at" in result.stdout


def test_columns_of_a_table(tmp_path):
    model = sr.GRU(2, 3, seed=0)
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "x.csv").write_text("t,a,b,c\n0,1,2,3\n5,4,,6\n4,0,0,0\n7,8,9,10\n")
    words = (tmp_path / "x.csv", "--columns", "c, b", "--time-column", "t")
    result = run(tmp_path / "m.safetensors", *words, "--out", tmp_path / "y.npy")
    expected = model.stream().run(np.float32([[3, 2], [6, 2], [10, 9]]))
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    assert "drops 0, nonfinite 1, out of order 1" in result.stderr


def test_samples_go_through_the_front_end_that_the_model_names(tmp_path):
    features = {"sample_rate_hz": 16000, "n_fft": 400, "hop_length": 160, "n_mels": 20}
    x = sr.Input(20)
    model = sr.Model(x, sr.GRU(20, 3, seed=0)(x), metadata={
        "features": {"kind": "LogMel", **features}})  # fmt: skip
    model.save(tmp_path / "m.safetensors")
    signal = noise(1600)[:, 0]
    np.save(tmp_path / "x.npy", signal)
    words = (tmp_path / "x.npy", "--rate", 16000, "--out", tmp_path / "y.npy")
    assert run(tmp_path / "m.safetensors", *words).exit_code == 0
    whole = sr.Sequential(LogMel(**features), model)
    late = np.zeros((whole.delay_frames, 160), np.float32)  # so that each frame has an output
    expected = whole.stream().run(np.concatenate((signal.reshape(-1, 160), late)))
    assert len(expected) == 10
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("engine", ["streamrnn", "onnxruntime"])
def test_silero_needs_no_options(engine, tmp_path):
    """Overlapping windows, against onnxruntime called by hand."""
    ort, soundfile = pytest.importorskip("onnxruntime"), pytest.importorskip("soundfile")
    path, x = fetched(SILERO, "silero_vad.onnx"), _speech()[: 512 * 60]
    soundfile.write(tmp_path / "x.wav", x, RATE_HZ, "FLOAT")
    words = (tmp_path / "x.wav", "--out", tmp_path / "y.npy", "--engine", engine)
    result = run(path, *words)
    assert result.exit_code == 0
    assert "taken for Silero VAD (16000 Hz, 512 new samples a frame)" in result.stderr
    session, state = ort.InferenceSession(path), np.zeros((2, 1, 128), np.float32)
    padded, expected = np.concatenate((np.zeros(64, np.float32), x)), []
    for at in range(0, 512 * 60, 512):
        feeds = {"input": padded[None, at : at + 576], "state": state, "sr": np.array(16000)}
        p, state = session.run(None, feeds)
        expected.append(p[0, 0])
    assert np.abs(np.load(tmp_path / "y.npy")[:, 0] - expected).max() < 1e-4


def test_profile_and_plot(files, tmp_path):
    pytest.importorskip("matplotlib")
    folder, _ = files
    data = (folder / "x.s16").read_bytes()
    words = ("--profile", "--plot", tmp_path / "y.png")
    result = run(folder / "m.safetensors", "-", *words, input=data)
    assert result.exit_code == 0
    assert (tmp_path / "y.png").read_bytes().startswith(b"\x89PNG")
    assert "GRUCell" in result.stderr
    result = run(folder / "m.safetensors", "-", *words[:1], "--json", input=data)
    ops = json.loads(result.stdout.splitlines()[-1])["profile"]
    assert {op["op"] for op in ops} == {"GRUCell", "Linear", "Sigmoid"}
    sr.GRU(160, 20, seed=0).save(tmp_path / "wide.safetensors")
    words = ("--rate", RATE_HZ, "--plot", tmp_path / "wide.png")
    assert run(tmp_path / "wide.safetensors", "-", *words, input=data).exit_code == 0
    result = run(folder / "m.safetensors", "-", "--plot", tmp_path / "y.doc", input=data)
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    result = run(folder / "m.safetensors", "-", "--plot", tmp_path / "no" / "y.png", input=data)
    assert result.exit_code == 1
    assert not result.stdout  # it is said before an hour of listening, not after
    assert f"there is no folder {tmp_path / 'no'}" in result.stderr


@pytest.mark.parametrize("size", [1, 300_000])
def test_what_is_kept_for_a_picture_does_not_grow(size, monkeypatch):
    monkeypatch.setattr(picture, "MAX_POINTS", 16)
    recorded, limit = picture.Recorded(), 16 if size == 1 else 4
    firsts = np.random.default_rng(0).normal(size=(1001 if size == 1 else 11)).astype(np.float32)
    firsts[3:5] = np.nan
    y = np.zeros(size, np.float32)
    for t, y[0] in enumerate(firsts):
        recorded.write(Frame(t / 10, y))  # which is written over by the next one
        assert len(recorded.times) == len(recorded.least) == len(recorded.greatest) <= limit
    n = recorded.outputs_per_point
    assert n > 1
    pieces = [firsts[t : t + n] for t in range(0, len(firsts), n)]
    assert recorded.times == [t / 10 for t in range(0, len(firsts), n)]
    assert [y[0] for y in recorded.least] == [np.nanmin(piece) for piece in pieces]
    assert [y[0] for y in recorded.greatest] == [np.nanmax(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["m.safetensors"], 2, "Missing argument"),
        (["none.safetensors", "-"], 1, "cannot read none.safetensors"),
        (["m.safetensors", "none.wav"], 1, "none.wav: no such file"),
        (["m.safetensors", "-"], 1, "standard input: gave no frame"),
        (["n.safetensors", "-"], 2, "say their rate with --rate"),
        (["m.safetensors", "-", "--channel", "left"], 2, "expected a number or `mix`, got 'left'"),
        (
            ["m.safetensors", "-", "--engine", "torch"],
            2,
            "must be one of streamrnn, onnxruntime, got 'torch'",
        ),
        (["m.safetensors", "-", "--engine", "onnxruntime"], 1, "onnxruntime runs .onnx files"),
        (
            ["m.safetensors", "-", "--engine", "onnxruntime", "--profile"],
            2,
            "only streamrnn's own ops",
        ),
        (["m.safetensors", "-", "--hop", "161"], 2, "expected 1 <= hop <= window, got hop 161"),
        (["m.safetensors", "-", "--out", "y.txt"], 2, "expected a name in .npy, .csv, .wav"),
        (["m.safetensors", "-", "--encoding", "mp3"], 2, "must be one of s16le, f32le"),
        (["m.safetensors", "-", "--policy", "no"], 2, "must be one of block, drop_oldest"),
        (["m.safetensors", "x.mp4"], 2, "the model reads (160,)"),
        (["m.safetensors", "-", "--rate", "0"], 2, "must be positive, got 0"),
        (["m.safetensors", "-", "--timeout", "nan"], 2, "must be positive, got nan"),
        (["m.safetensors", "-", "--channels", "0"], 2, "--channels"),
        (["m.safetensors", "-", "--retries", "-1"], 2, "--retries"),
        (["m.safetensors", "-", "--threshold", "2"], 2, "expected 0 < off <= on <= 1"),
        (["m.safetensors", "-", "--on-gap", "hold"], 2, "hold needs --sensor-rate"),
        (["m.safetensors", "-", "--on-gap", "nan"], 2, "nan needs --sensor-rate"),
        (["m.safetensors", "-", "--input", "x=mic:0"], 2, "x=mic:0 is a live source, and has"),
        (["m.safetensors", "-", "--out", "mqtt://x"], 2, "expected mqtt://HOST/TOPIC"),
        (["m.safetensors", "-", "--input", "x=none.npy"], 1, "cannot read none.npy as .npy"),
        (["m.safetensors", "serial:x?speed=1"], 2, "expected serial:PORT?baud=NUMBER"),
        (["m.safetensors", "-", "--events", "--pad-ms", "99"], 2, "segments would overlap"),
    ],
)
def test_wrong_words(files, words, code, said, monkeypatch, tmp_path):
    folder, _ = files
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.safetensors").write_bytes((folder / "m.safetensors").read_bytes())
    sr.GRU(4, 2).save(tmp_path / "n.safetensors")
    result = run(*words, input=b"")
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == code


def test_a_model_that_does_not_say_its_rate_takes_that_of_the_source(tmp_path):
    sr.GRU(4, 2).save(tmp_path / "m.safetensors")
    result = run(tmp_path / "m.safetensors", "-", "--rate", 8000, input=bytes(80))
    assert result.exit_code == 0
    assert "the model does not say its sample rate: taking that of the source, 8000 Hz" in (
        result.stderr
    )
    words = ("--rate", 8000, "--model-rate", 4000)
    result = run(tmp_path / "m.safetensors", "-", *words, input=bytes(80))
    assert "does not say" not in result.stderr
    assert len(result.stdout.splitlines()) == 5


def test_a_frame_that_does_not_fit_is_an_error_with_a_summary(files, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    result = run(files[0] / "m.safetensors", tmp_path / "x.csv")
    assert result.exit_code == 1
    assert "gives frames of shape (2,), the model reads (160,): choose columns" in result.stderr
    assert "0 frames" in result.stderr


def started(folder, *words, **options):
    command = [sys.executable, "-m", "streamrnn", "run", str(folder / "m.safetensors"), "-", *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=False, **pipes, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="interrupts are signals")
def test_an_interrupt_ends_cleanly_with_a_summary(files, tmp_path):
    folder, _ = files
    words = ("--probs", "--out", str(tmp_path / "y.npy"))
    with started(folder, *words) as process:
        process.stdin.write(bytes(2 * 512))  # the pipe stays open
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        said = process.stderr.read().decode()
    assert all(lines)
    assert "3 frames" in said
    assert "Traceback" not in said
    assert np.load(tmp_path / "y.npy").shape == (3, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_a_reader_that_has_enough_is_no_error(files):
    folder, _ = files
    with started(folder) as process:
        process.stdin.write(bytes(2 * 512))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # it ends before it has read all
            process.stdin.write(bytes(2 * 160 * 2000))
            process.stdin.close()
        assert process.wait(30) == 0
        said = process.stderr.read().decode()
    assert "real-time factor" in said
    assert "Traceback" not in said


def test_a_source_that_stalls_is_an_error_with_a_summary(files):
    folder, _ = files
    with started(folder, "--timeout", "0.05") as process:
        process.stdin.write(bytes(2 * 512))
        process.stdin.flush()
        assert process.wait(30) == 1
        said = process.stderr.read().decode()
    assert "standard input: no frame for 0.05 s" in said
    assert "stalls 1" in said


@pytest.mark.parametrize("terminal", [True, False])
def test_the_meter_is_live_on_a_terminal_and_plain_elsewhere(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, highlight=False)
    meter = Meter(frames=7)
    with Watch(console) as watch:
        watch._next_s = float("inf")  # it is not due, however slow this machine is
        watch(meter)
        assert "7 frames" not in file.getvalue(), "not with every frame"
        watch._next_s = 0
        watch(meter)
        shown = file.getvalue()
    assert "7 frames" in shown
    assert ("\x1b[" in file.getvalue()) == terminal


def test_what_is_read_is_not_written_over(tmp_path):
    model, frames = tmp_path / "m.safetensors", tmp_path / "x.npy"
    sr.GRU(3, 2).save(model)
    np.save(frames, np.zeros((5, 3), np.float32))
    before = frames.read_bytes()
    for out in (frames, model):
        result = CliRunner().invoke(app, ["run", str(model), str(frames), "--out", str(out)])
        assert result.exit_code == 2
        assert "is what is read" in " ".join(result.stderr.replace("│", " ").split())
    assert frames.read_bytes() == before
    result = CliRunner().invoke(app, ["run", str(model), str(frames), "--frame-rate", "0"])
    assert result.exit_code == 2


def test_inputs_by_name(tmp_path):
    a, b = sr.Input(2), sr.Input(3)
    model = sr.Model({"a": a, "b": b}, sr.GRU(5, 4, seed=0)(sr.concat(a, b)))
    model.save(tmp_path / "m.safetensors")
    xs, ys = noise(6, 2), noise(6, 3, seed=1)
    np.save(tmp_path / "a.npy", xs)
    np.save(tmp_path / "b.npy", ys)
    np.save(tmp_path / "one.npy", ys[0])
    np.savez(tmp_path / "both.npz", a=xs, b=ys)
    lines = [",".join(map(str, row)) for row in np.concatenate((ys, xs), 1).tolist()]
    (tmp_path / "x.csv").write_text("\n".join(("p,q,r,s,t", *lines)))
    both, constant = (xs, ys), (xs, np.repeat(ys[:1], 6, 0))
    for words, expected in (
        (("both.npz",), both),
        (("x.csv", "--columns", "s,t,p,q,r"), both),
        (("a.npy", "--input", f"b={tmp_path / 'b.npy'}"), both),
        (("b.npy", "--input", f"a={tmp_path / 'a.npy'}"), both),
        (("a.npy", "--input", f"b={tmp_path / 'one.npy'}"), constant),
    ):
        out = ("--out", tmp_path / "y.npy")
        result = run(tmp_path / "m.safetensors", tmp_path / words[0], *words[1:], *out)
        assert result.exit_code == 0, result.stderr
        assert np.array_equal(np.load(tmp_path / "y.npy"), model.stream().run(expected))
    for words, code, said in (
        (("both.npz", "--profile"), 2, "only models with one input"),
        (("a.npy", "--input", f"c={tmp_path / 'b.npy'}"), 2, "the model reads a, b; others are c"),
        (("a.npy", "--rate", "8000"), 2, "this source feeds one input, the model reads a, b"),
        (("a.npy",), 1, "the model reads a (2,), b (3,) side by side"),
    ):
        result = run(tmp_path / "m.safetensors", tmp_path / words[0], *words[1:])
        assert said in " ".join(result.stderr.replace("│", " ").split())
        assert result.exit_code == code


def test_events_of_a_table_last_as_long_as_its_times_say(tmp_path):
    """At 50 Hz: a pause of 80 ms ends no event, one of 200 ms does."""
    x = sr.Input(1)
    model = sr.Model(x, {"time_s": sr.Sigmoid()(x)})
    folder = tmp_path
    model.save(folder / "m.safetensors")
    ps = [2 if (t < 20 or 24 <= t < 40 or t >= 50) else -2 for t in range(60)]
    rows = [f"{t / 50},{p}" for t, p in enumerate(ps)]
    (folder / "x.csv").write_text("\n".join(("t,p", *rows)))
    words = (folder / "x.csv", "--events", "--json", "--min-off-ms", 100, "--pad-ms", 0)
    result = run(folder / "m.safetensors", *words, "--time-column", "t")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    segments = [(s["start_s"], s["end_s"]) for s in said if s.get("event") == "segment"]
    assert segments == [(0, 0.8), (1, 1.2)]
    assert said[0]["label"] == "time_s_"
    table = (*words, "--columns", "p", "--frame-rate", "50")
    result = run(folder / "m.safetensors", *table)
    again = [json.loads(line) for line in result.stdout.splitlines()]
    assert [s for s in again if "event" in s] == [s for s in said if "event" in s]
    result = run(folder / "m.safetensors", *table, "--time-column", "t")
    assert result.exit_code == 2
    assert "--time-column says the time" in result.stderr


def test_a_table_with_gaps_at_a_fixed_rate(tmp_path):
    pytest.importorskip("onnxruntime")
    from streamrnn.export import to_onnx

    model = sr.GRU(1, 2, seed=0)
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "x.csv").write_text("t,p\n0,0\n1,1\n2,2\n6,6\n7,7\n")
    words = (tmp_path / "x.csv", "--time-column", "t", "--sensor-rate", 2, "--max-gap", 1.5)
    ramp = np.arange(15, dtype=np.float32)[:, None] / 2
    held = ramp.copy()
    held[5:12] = 2
    anew = [model.stream().run(part) for part in (ramp[:5], ramp[12:])]
    for on_gap, expected in (
        ("interpolate", model.stream().run(ramp)),
        ("hold", model.stream().run(held)),
        ("reset", np.concatenate(anew)),
    ):
        out = ("--on-gap", on_gap, "--out", tmp_path / "y.npy")
        result = run(tmp_path / "m.safetensors", *words, *out)
        assert result.exit_code == 0
        assert np.allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)
        assert "gaps 1" in result.stderr
    model = sr.Sequential(sr.Input(1), sr.Conv1d(1, 2, 2, seed=0))  # it forgets NaN
    model.save(tmp_path / "n.safetensors")
    to_onnx(model, tmp_path / "n.onnx")
    held[5:12] = np.nan
    expected = model.stream("propagate").run(held)
    for file, engine in (("n.safetensors", "streamrnn"), ("n.onnx", "onnxruntime")):
        out = ("--engine", engine, "--on-gap", "nan", "--out", tmp_path / "y.npy")
        assert run(tmp_path / file, *words, *out).exit_code == 0
        got = np.load(tmp_path / "y.npy")
        assert np.allclose(got, expected, atol=1e-6, equal_nan=True)
    assert np.isnan(got[5:13]).all()
    assert np.isfinite(got[13:]).all()
    result = run(tmp_path / "m.safetensors", *words, "--on-gap", "raise")
    assert result.exit_code == 1
    assert "no sample for 4 s" in result.stderr
