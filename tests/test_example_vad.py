"""The speech detection example: a trained model, its segments, and the command."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import assets
import silero
import streamrnn as sr
from recording import frames, opened
from segments import DetectionError, Segment, detection_error, read_rttm

Array = npt.NDArray[np.float32]

EXAMPLES = Path(silero.__file__).parent
FRAMES = 937
"""Whole frames in the recording."""

TOLERANCE = 1e-5
"""About four times 2.3e-6, by which the model's own runtime differs from float64 equations."""


def fetched(fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except assets.AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def onnx_path() -> Path:
    return fetched(assets.silero_onnx)


@pytest.fixture(scope="module")
def wav_path() -> Path:
    return fetched(assets.speech_wav)


@pytest.fixture(scope="module")
def speech(wav_path: Path) -> Array:
    samples, _ = soundfile.read(wav_path, dtype="float32")
    return np.ascontiguousarray(samples[: FRAMES * 512].reshape(FRAMES, 512))


@pytest.fixture(scope="module")
def model(onnx_path: Path) -> sr.Model:
    return silero.build(onnx_path)


@pytest.fixture(scope="module")
def probabilities(model: sr.Model, speech: Array) -> Array:
    stream = model.stream()
    return np.concatenate([stream.step(frame) for frame in speech])


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    folder = os.environ.get("STREAMRNN_GOLDEN")
    if not folder:
        pytest.skip("STREAMRNN_GOLDEN is not set: no golden/silero_v6_16k.npz to compare with")
    with np.load(Path(folder) / "silero_v6_16k.npz") as arrays:
        return dict(arrays)


# The model -----------------------------------------------------------------------------------


def test_a_frame_is_512_samples_and_gives_one_probability(model: sr.Model) -> None:
    graph = model.graph()
    assert {n: v.shape for n, v in graph.inputs.items()} == {"samples": (512,)}
    assert {n: v.shape for n, v in graph.outputs.items()} == {"probability": (1,)}
    assert graph.states() == {"context.past": (64,), "lstm.h": (128,), "lstm.c": (128,)}
    assert model.metadata["sample_rate"] == 16000


def test_probabilities_match_golden_data(probabilities: Array, golden: dict[str, Array]) -> None:
    np.testing.assert_allclose(probabilities, golden["probs"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("key", "count"), [("state_after_frame_100", 101), ("state_last", FRAMES)])
def test_states_match_golden_data(
    model: sr.Model, speech: Array, golden: dict[str, Array], key: str, count: int
) -> None:
    stream = model.stream()
    stream.run(speech[:count])
    h, c = golden[key][:, 0]
    np.testing.assert_allclose(stream.state["lstm.h"], h, rtol=0, atol=TOLERANCE)
    # |c| reaches 44 here, so its error counts beside the largest.
    np.testing.assert_allclose(
        stream.state["lstm.c"], c, rtol=0, atol=TOLERANCE * float(np.abs(c).max())
    )


def test_probabilities_match_the_published_file_in_onnxruntime(
    onnx_path: Path, speech: Array, probabilities: Array
) -> None:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    state, past = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
    rate = np.array(16000, np.int64)
    expected = []
    for frame in speech:
        x = np.concatenate([past, frame])[None]
        p, state = session.run(None, {"input": x, "state": state, "sr": rate})
        past = frame[-64:]
        expected.append(p[0, 0])
    assert len(expected) == FRAMES
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=TOLERANCE)


def test_chunks_of_any_length_are_bit_equal_to_single_frames(
    model: sr.Model, speech: Array, probabilities: Array
) -> None:
    stream = model.stream()
    chunks = np.split(speech, [1, 1, 3, 40, 104, 105, 500])
    parts = [stream.run(np.ascontiguousarray(chunk)) for chunk in chunks]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], probabilities)


def test_a_reset_in_mid_stream_begins_anew(
    model: sr.Model, speech: Array, probabilities: Array
) -> None:
    stream = model.stream()
    stream.run(speech[300:400])
    stream.reset()
    np.testing.assert_array_equal(np.ravel(stream.run(speech[:300])), probabilities[:300])


def rewritten(source: Path, to: Path, change: Callable[[Any], None]) -> Path:
    """Write `source` again with its graph changed."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(source)
    change(proto.graph)
    onnx.save(proto, to)
    return to


def test_a_file_that_lacks_a_tensor_is_refused_by_the_tensors_name(
    onnx_path: Path, tmp_path: Path
) -> None:
    def drop(graph: Any) -> None:
        kept = [t for t in graph.initializer if t.name != "model.decoder.rnn.bias_hh"]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    path = rewritten(onnx_path, tmp_path / "other.onnx", drop)
    with pytest.raises(sr.WeightError, match=r"15 tensors .* lacks model\.decoder\.rnn\.bias_hh$"):
        silero.build(path)


def test_a_file_of_another_model_is_refused(onnx_path: Path, tmp_path: Path) -> None:
    def empty(graph: Any) -> None:
        del graph.initializer[:]

    path = rewritten(onnx_path, tmp_path / "other.onnx", empty)
    with pytest.raises(sr.WeightError, match=r"other\.onnx is not silero.* lacks .* and 12 more"):
        silero.build(path)


def test_a_tensor_of_another_shape_is_refused(onnx_path: Path, tmp_path: Path) -> None:
    def shorten(graph: Any) -> None:
        (tensor,) = (t for t in graph.initializer if t.name == "model.decoder.decoder.2.weight")
        tensor.dims[:] = [1, 64, 2]

    path = rewritten(onnx_path, tmp_path / "other.onnx", shorten)
    with pytest.raises(sr.WeightError, match=r"decoder\.weight: expected shape \(1, 128\)"):
        silero.build(path)


@pytest.mark.parametrize("content", [None, b"not a model", "half"])
def test_a_file_that_is_not_onnx_is_refused(
    onnx_path: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        whole = onnx_path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(sr.FileError, match=r"cannot read .*broken\.onnx as an ONNX file"):
        silero.build(path)


# Segments ------------------------------------------------------------------------------------

S = Segment


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [
        ([S(1, 3)], [S(2, 4)], (1, 1, 2)),
        ([S(1, 3)], [S(1, 3)], (0, 0, 2)),
        ([], [S(1, 3), S(4, 5)], (3, 0, 3)),
        ([S(1, 3)], [], (0, 2, 0)),
        ([], [], (0, 0, 0)),
        # Two speakers at once are one piece of speech.
        ([S(0, 3)], [S(1, 3), S(0, 2)], (0, 0, 3)),
        ([S(0, 2), S(1, 3)], [S(0, 4)], (1, 0, 4)),
        # One inside another; one found that spans two.
        ([S(0, 9)], [S(1, 8), S(2, 3)], (0, 2, 7)),
        ([S(1, 6)], [S(0, 2), S(3, 4), S(5, 7)], (2, 2, 5)),
        # Beyond the recording's 10 s nothing counts.
        ([S(1, 12)], [S(1, 11), S(11, 15)], (0, 0, 9)),
        ([S(11, 12)], [S(9.5, 10.5)], (0.5, 0, 0.5)),
    ],
)
def test_detection_error(
    found: list[Segment], reference: list[Segment], expected: tuple[float, float, float]
) -> None:
    assert detection_error(found, reference, 10.0) == pytest.approx(expected)


def test_the_rate_is_a_share_of_the_reference_speech() -> None:
    assert DetectionError(1.0, 0.5, 6.0).rate == 0.25
    assert DetectionError(0.0, 0.0, 0.0).rate == 0.0
    assert DetectionError(0.0, 1.0, 0.0).rate == float("inf")


def test_read_rttm_merges_speakers_and_sorts(tmp_path: Path) -> None:
    path = tmp_path / "a.rttm"
    path.write_text(
        "SPEAKER a 1 5.0 1.0 <NA> <NA> ann <NA> <NA>\n\n"
        "SPEAKER a 1 1.0 2.0 <NA> <NA> bob <NA> <NA>\n"
        "SPEAKER a 1 2.5 1.5 <NA> <NA> ann <NA> <NA>\n"
    )
    assert read_rttm(path) == [Segment(1.0, 4.0), Segment(5.0, 6.0)]


@pytest.mark.parametrize(
    "line",
    [
        "SPEAKER a 1 1.0",
        "SPEAKER a 1 one 2 x",
        "SPEAKER a 1 1 -2 x",
        "a 1 2 3 4",
        "SPEAKER a 1 nan 2",
    ],
)
def test_read_rttm_names_the_line_that_it_cannot_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.rttm"
    path.write_text(f"SPEAKER a 1 1.0 2.0 x\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2 must read `SPEAKER .*got '{line}'"):
        read_rttm(path)


# The command ---------------------------------------------------------------------------------

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    "PYTHONUTF8": "1",
}
"""The command imports what the tests import."""


def command(
    *arguments: str | Path, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / "vad.py", *arguments],
        cwd=folder,
        env=ENVIRONMENT | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def write_wav(
    path: Path, seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1, bad: float = 0.0
) -> Path:
    samples = np.zeros((int(seconds * rate_hz), channels), np.float32)
    samples[-1:] = bad
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def demo(
    onnx_path: Path, wav_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The folder and the lines that the command without arguments writes."""
    folder = tmp_path_factory.mktemp("run")
    done = command(folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout.splitlines()


def line_with(lines: list[str], beginning: str) -> str:
    (line,) = (line for line in lines if line.startswith(beginning))
    return line


def test_the_demo_prints_segments_error_and_latency(demo: tuple[Path, list[str]]) -> None:
    lines = demo[1]
    assert line_with(lines, "Listening to sample.wav").endswith("30.0 s, 32 ms at a time")
    assert [line.split() for line in lines if line.startswith("  speech")][1] == (
        ["speech", "7.62", "s", "to", "17.92", "s"]
    )
    assert "of 22.46 s of speech (missed 0." in line_with(lines, "Detection error: ")
    latency = line_with(lines, "Latency per frame: median ").split()
    median_us, p99_us, max_us = (float(latency[i]) for i in (4, 7, 10))
    assert 0 < median_us <= p99_us <= max_us
    assert 0 < float(latency[-1].rstrip(")")) < 0.5, "half the time of the sound"


def test_the_detection_error_of_the_demo_is_small(demo: tuple[Path, list[str]]) -> None:
    # 1.6 % when this was written; calling everything speech gives 34 %.
    assert float(line_with(demo[1], "Detection error: ").split()[2]) < 2.5


def test_the_demo_draws_a_picture(demo: tuple[Path, list[str]]) -> None:
    folder, lines = demo
    assert line_with(lines, "Picture: ") == f"Picture: {Path('demo', 'vad.png')}"
    content = (folder / "demo" / "vad.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    assert 1000 <= width <= 2000
    assert 600 <= height <= 1500
    assert 20_000 < len(content) < 500_000


def test_the_demo_exports_a_model_that_computes_the_same(
    demo: tuple[Path, list[str]], model: sr.Model, speech: Array
) -> None:
    folder, lines = demo
    assert line_with(lines, "ONNX file: ") == f"ONNX file: {Path('demo', 'silero.onnx')}"
    ort = pytest.importorskip("onnxruntime")
    path = folder / "demo" / "silero.onnx"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    shapes = {
        i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()
    }
    fed = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    got = []
    for frame in speech[200:400]:
        fed["samples"] = frame.reshape(shapes["samples"])
        results = dict(zip(names, session.run(None, fed), strict=True))
        got.append(results.pop("probability").item())
        fed |= {name.removesuffix("_out") + "_in": value for name, value in results.items()}
    expected = np.ravel(model.stream().run(speech[200:400]))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def test_help_names_every_option(tmp_path: Path) -> None:
    done = command("--help", folder=tmp_path)
    assert done.returncode == 0
    for option in ("--reference", "--model", "--out", "--threshold", "--realtime"):
        assert option in done.stdout


def test_a_recording_of_ones_own_needs_no_reference(
    onnx_path: Path, speech: Array, tmp_path: Path
) -> None:
    mine = tmp_path / "my own.wav"
    soundfile.write(mine, speech[205:260].reshape(-1)[:-100], 16000)
    done = command(mine, "--out", "here", "--model", onnx_path, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Detection error" not in done.stdout
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["silero.onnx", "vad.png"]
    # The last frame lacks 100 samples, and the speech ends with the sound, not with the frame.
    last = [line for line in done.stdout.splitlines() if line.startswith("  speech")][-1]
    assert float(last.split()[4]) == 1.75  # (55 * 512 - 100) / 16000; a whole frame: 1.76


BAD_INPUT: dict[str, tuple[Callable[[Path], list[str | Path]], str]] = {
    "rate": (
        lambda d: [write_wav(d / "a b.wav", rate_hz=44100)],
        "expected 16000 Hz, got 44100 Hz: convert it, e.g. "
        "`sox '{d}/a b.wav' -r 16000 -c 1 out.wav`",
    ),
    "stereo": (
        lambda d: [write_wav(d / "a.wav", channels=2)],
        "expected one channel, got 2: mix it down, e.g. `sox {d}/a.wav -r 16000 -c 1 out.wav`",
    ),
    "no samples": (lambda d: [write_wav(d / "a.wav", seconds=0)], "a.wav: holds no samples"),
    "no sound file": (lambda d: [Path(__file__)], "cannot read it as a sound file"),
    "folder": (lambda d: [d], "cannot read it as a sound file"),
    "missing file": (lambda d: [d / "a.wav"], "a.wav: no such file"),
    "missing reference": (
        lambda d: [write_wav(d / "a.wav"), "--reference", d / "a.rttm"],
        "a.rttm: cannot read reference segments",
    ),
    "wrong reference": (
        lambda d: [write_wav(d / "a.wav"), "--reference", Path(__file__)],
        "line 1 must read `SPEAKER",
    ),
    "damaged model": (
        lambda d: [write_wav(d / "a.wav"), "--model", write_wav(d / "b.onnx.wav")],
        "b.onnx.wav as an ONNX file",
    ),
    "missing model": (
        lambda d: [write_wav(d / "a.wav"), "--model", d / "b.onnx"],
        "b.onnx as an ONNX file",
    ),
    "folder not writable": (
        lambda d: [write_wav(d / "a.wav"), "--out", d / "a.wav" / "demo"],
        "cannot write results there",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_and_exit_code_2(case: str, tmp_path: Path) -> None:
    arguments, message = BAD_INPUT[case]
    done = command(*arguments(tmp_path), folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("vad.py: ")
    assert done.stderr.count("\n") == 1
    assert message.format(d=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_nan_in_a_recording_is_one_sentence(onnx_path: Path, tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "a.wav", bad=float("nan"))
    done = command(wav, "--model", onnx_path, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"vad.py: {wav}: a NaN or an infinity at 0.99 s\n"


def test_being_offline_is_one_sentence(tmp_path: Path) -> None:
    done = command(folder=tmp_path, STREAMRNN_ASSETS=str(tmp_path / "assets"), PIP_NO_INDEX="1")
    assert done.returncode == 2
    assert "offline?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("threshold", ["1.5", "0", "half"])
def test_a_threshold_outside_0_to_1_is_refused(threshold: str, tmp_path: Path) -> None:
    done = command("--threshold", threshold, folder=tmp_path)
    assert done.returncode == 2
    assert f"must be a number between 0 and 1, got '{threshold}'" in done.stderr


def test_silence_holds_no_speech(onnx_path: Path, tmp_path: Path) -> None:
    done = command(write_wav(tmp_path / "a.wav"), "--model", onnx_path, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[2] == "  no speech"


def test_realtime_waits_for_each_frame_to_be_over(tmp_path: Path) -> None:
    with opened(write_wav(tmp_path / "a.wav", seconds=0.3)) as sound:
        begin_s = time.perf_counter()
        taken = list(frames(sound, realtime=True))
        assert time.perf_counter() - begin_s >= 0.319
    assert [frame.shape for frame in taken] == [(512,)] * 10


AS_IF_TYPED = (
    "import runpy, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)
"""Runs a script that minds Ctrl-C even if the tests run in the background."""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process on Windows")
def test_ctrl_c_prints_what_was_found_and_exits_with_130(
    onnx_path: Path, speech: Array, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.wav"
    soundfile.write(mine, np.tile(speech[205:260].reshape(-1), 10), 16000)
    script = [sys.executable, "-c", AS_IF_TYPED, str(EXAMPLES / "vad.py")]
    process = subprocess.Popen(
        [*script, str(mine), "--model", str(onnx_path), "--realtime"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Preparing the model")
        assert process.stdout.readline().startswith("Listening to mine.wav: 17.6 s")
        assert process.stdout.readline().startswith("  speech")  # live, not in the end
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""
    assert out.splitlines()[-1].startswith("Interrupted after ")
    assert not list((tmp_path / "demo").iterdir())
