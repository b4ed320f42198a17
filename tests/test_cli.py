"""The command ``streamrnn``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamrnn as sr
from test_import_onnx import SILERO, fetched
from test_import_quantized import VOICEFILTER
from test_import_states import _mute, leaky

pytest.importorskip("typer", reason="the command needs the extra `cli`")
pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")

from typer.testing import CliRunner

from streamrnn.cli.app import app


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_info_of_a_model_of_ours(tmp_path):
    x = sr.Input(6)
    y = sr.LSTM(8, 10, name="memory")(sr.Conv1d(6, 8, 3, stride=2)(x))
    model = sr.Model({"features": x}, {"score": sr.Linear(10, 2)(y)})
    model.save(tmp_path / "m.safetensors")
    result = run("info", tmp_path / "m.safetensors", "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["inputs"] == {"features": {"shape": [6], "dtype": "float32"}}
    assert found["outputs"] == {"score": {"shape": [2], "dtype": "float32"}}
    assert (found["stride_frames"], found["delay_frames"]) == (2, 0)
    assert found["receptive_field_frames"] is None
    assert found["states"] == {"conv1d_0.past": [2, 6], "memory.h": [10], "memory.c": [10]}
    assert found["state_bytes"] == 4 * (12 + 10 + 10)
    matrices = 8 * 6 * 3 + 40 * 8 + 40 * 10 + 2 * 10
    assert found["parameters"] == matrices + 8 + 2 * 40 + 2
    assert found["weight_bytes"] == 4 * found["parameters"]
    assert found["multiply_adds"] == matrices / 2  # an output every second frame
    assert found["ops"] == {"Conv1d": 1, "LSTMCell": 1, "Linear": 1}
    assert found["state_begins"] == {name: [0, 0] for name in found["states"]}
    states = 2 * found["state_bytes"]  # read and written, the cell's at half the rate
    assert found["bytes"] == (found["weight_bytes"] + states) / 2
    assert [c["name"] for c in found["costs"]] == ["conv1d_0", "memory", "linear_0"]
    for key in ("parameters", "multiply_adds", "bytes"):
        assert round(sum(c[key] for c in found["costs"])) == found[key]
    text = " ".join(run("info", tmp_path / "m.safetensors").output.split())
    assert "LSTMCell 1 800 360 1,680" in text
    text += " ".join(run("info", tmp_path / "m.safetensors", "--each").output.split())
    assert "memory LSTMCell (10,) 800 360 1,680" in text
    for part in ("features (6,)", "every 2 frames, 0 frames late", "all frames so far"):
        assert part in text
    assert "conv1d_0.past (2, 6) 48 zeros" in text


def test_info_of_a_keras_file():
    pytest.importorskip("h5py")
    path = Path(__file__).parent / "golden" / "keras" / "lstm.keras"
    found = json.loads(run("info", path, "--json").output)
    assert found["states"] == {"lstm.h": [4], "lstm.c": [4]}
    assert found["ops"] == {"LSTMCell": 1, "Linear": 1, "Softmax": 1}


def test_info_shows_the_pairs_of_states_and_what_told_so(tmp_path):
    path = leaky(tmp_path / "m.onnx", "audio", "out", "state", "stateN")
    found = json.loads(run("info", path, "--json").output)
    assert found["state_pairs"] == [
        {"input": "state", "output": "stateN", "shape": [1, 3], "told_by": "names"}
    ]
    text = run("info", path).output
    assert "state input" in text
    assert "stateN" in text


@pytest.mark.parametrize(
    ("make", "shapes", "wanted"),
    [
        (lambda: sr.Linear(3, 4), [(3,)], 12),
        (lambda: sr.GRUCell(5, 4), [(5,)], 12 * (5 + 4)),
        (lambda: sr.FrameConv1d(3, 5, 3), [(3, 20)], 18 * 5 * 3 * 3),
        (lambda: sr.LayerNorm((3, 7)), [(2, 3, 7)], 0),
        (lambda: sr.Affine((3, 5, 20)), [(3, 5, 20)], 0),
        (lambda: sr.Constant((80, 30)), [], 0),
        (lambda: sr.Embedding(7, 20), [()], 0),
        (lambda: sr.MatMul(), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (lambda: sr.Int8LSTM(5, 20, 3), [(15,), (20,), (20,)], 3 * 80 * (5 + 20)),
    ],
    ids=lambda x: "" if not callable(x) else type(x()).__name__,
)
def test_products_of_matrices_are_counted_and_nothing_else(make, shapes, wanted):
    assert make().multiply_adds(*shapes) == wanted


def test_info_of_a_model_of_bytes():
    """By hand: 12 MB of int8 weights, which are applied in each of 80 frames."""
    found = json.loads(run("info", fetched(VOICEFILTER, "embedder.int8.onnx"), "--json").output)
    gates, H = 4 * 768, 768
    assert found["multiply_adds"] == 80 * gates * (40 + H + H + 3 * H) + 256 * H
    assert found["weight_bytes"] < 1.3 * fetched(VOICEFILTER, "embedder.int8.onnx").stat().st_size


def test_info_shows_what_a_state_begins_with(tmp_path):
    cell = sr.GRUCell(3, 4)
    cell.initial_state = {"h": np.array([-0.5, 0, 0.25, 0], np.float32)}
    cell.save(tmp_path / "m.safetensors")
    assert "-0.5 to 0.25" in run("info", tmp_path / "m.safetensors").output


def test_names_of_a_foreign_file_are_shown_as_they_are(tmp_path):
    name = "x[/bold][red]:smile:" + "y" * 90
    path = leaky(tmp_path / "m.onnx", name, "out", "state", "stateN")
    result = run("info", path)
    assert result.exit_code == 0
    assert "x[/bold][red]:smile:yyy" in result.output
    assert result.output.count("y" * 10) >= 5, "folded, not cut off"
    assert "…" not in result.output


def test_constants_are_read_as_they_are_written():
    from streamrnn.cli.options import _array

    for text, kind, value in (
        ("16000", np.int64, 16000),
        ("9007199254740993", np.int64, 9007199254740993),  # no float64
        ("0.5,1", np.float32, [0.5, 1]),
        ("-inf", np.float32, -np.inf),
        ("1e400", np.float32, np.inf),
    ):
        assert _array(text).dtype == kind
        assert _array(text).tolist() == value


def test_info_asks_where_nothing_tells_and_takes_the_answer(tmp_path):
    path = _mute(tmp_path / "m.onnx")
    result = run("info", path)
    assert result.exit_code == 1
    assert "inputs p, q may be fed by any of the outputs r, s: say which" in result.stderr
    found = json.loads(run("info", path, "--state", "p=r", "--state", "q=s", "--json").output)
    assert [(p["input"], p["output"], p["told_by"]) for p in found["state_pairs"]] == [
        ("p", "r", "you"),
        ("q", "s", "you"),
    ]


def test_info_of_a_real_model_with_open_shapes_and_a_constant():
    path = fetched(SILERO, "silero_vad.onnx")
    result = run("info", path, "--constant", "sr=16000")
    assert result.exit_code == 1
    assert "input 'input' has the open shape" in result.stderr
    options = ["--shape", "input=1,576", "--shape", "state=2,1,128", "--constant", "sr=16000"]
    found = json.loads(run("info", path, *options, "--json").output)
    assert found["inputs"]["input"]["shape"] == [576]
    assert found["states"] == {"state": [2, 1, 128]}


def test_what_cannot_be_streamed_is_said_in_a_line(tmp_path):
    from test_add_state import graph

    path = graph(tmp_path / "m.onnx", [("Softmax", ["x"], ["y"], {"axis": 1})], {}, [1, "time", 3])
    result = run("info", path)
    assert result.exit_code == 1
    assert result.output.count("\n") <= 1
    assert "node 0 (Softmax): it works across the time axis" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["info"], 2, "Missing argument"),
        (["nothing"], 2, "No such command"),
        (["info", "none.onnx"], 1, "cannot read none.onnx"),
        (["info", "none.txt"], 1, "expected a .safetensors, .onnx, .keras"),
        (["info", "m.onnx", "--shape", "x"], 2, "expected NAME=VALUE, got 'x'"),
        (["info", "m.onnx", "--shape", "x=1.5,3"], 2, "a word for the time axis"),
        (["info", "m.onnx", "--shape", "x=1,-3"], 2, "a word for the time axis"),
        (["info", "m.onnx", "--shape", "x=1", "--shape", "x=2"], 2, "'x' is given twice"),
        (["info", "none.onnx", "--constant", "x=nan"], 1, "cannot read none.onnx"),
        (["info", "m.onnx", "--constant", "x=a"], 2, "expected numbers, got 'a'"),
        (["info", "m.safetensors", "--shape", "x=1"], 1, "are for .onnx files"),
    ],
)
def test_wrong_words(words, code, said):
    result = run(*words)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_as_a_module_and_without_the_extra(tmp_path):
    sr.GRUCell(3, 4).save(tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "streamrnn", "info", str(tmp_path / "m.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "gru_0.h" in done.stdout
    code = "import sys; sys.modules['typer'] = None; from streamrnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install streamrnn[cli]" in done.stderr
    code = "import sys, streamrnn; assert not {'typer', 'rich'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_and_help():
    assert run("--version").output.strip() == f"streamrnn {sr.__version__}"
    assert "Show what a model takes" in run("info", "--help").output
    assert np.all([word in run("--help").output for word in ("info", "--version")])


def test_known_models_need_no_options(tmp_path):
    path = fetched(SILERO, "silero_vad.onnx")
    shown = run("info", path, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["inputs"]["input"]["shape"] == [576]
    exported, small = tmp_path / "step.onnx", tmp_path / "small.safetensors"
    assert run("export", path, exported).exit_code == 0
    assert run("verify", path, exported, "--n", 20).exit_code == 0
    assert run("quantize", path, "-o", small, "--steps", 20).exit_code == 0
    assert json.loads(run("info", small, "--json").output)["inputs"]["input"]["shape"] == [576]


@pytest.mark.parametrize(
    ("words", "wrong", "said"),
    [
        (["export"], "m.pt", "the name must end in .onnx, got"),
        (["export"], "m.safetensors2", "the name must end in .onnx, got"),
        (["quantize", "-o"], "m.onnx", "`streamrnn export` makes .onnx of it"),
        (["quantize", "-o"], "m", "the name must end in .safetensors, got"),
    ],
)
def test_files_of_another_kind_are_not_written(words, wrong, said, tmp_path):
    path = tmp_path / "in.safetensors"
    sr.GRU(32, 32, seed=0).save(path)
    result = run(words[0], path, *words[1:], tmp_path / wrong)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_counts_in_words(tmp_path):
    x = sr.Input(32)
    sr.Model(x, sr.Linear(32, 2)(sr.GRU(32, 32)(x))).save(tmp_path / "m.safetensors")
    words = ["quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q.safetensors"]
    report = run(*words, "--steps", 2).output
    assert "int8: 1 op quantised, 1 stays float" in report
    sr.GRU(32, 32, 2).save(tmp_path / "m.safetensors")
    assert "int8: 2 ops quantised, 0 stay float" in run(*words, "--steps", 2).output


SILERO_NOTES = {"sample_rate": 16000, "hop_samples": 512, "labels": ["speech"]}


@pytest.mark.parametrize(
    "mode", [("int8",), ("int8", "--convolutions"), ("float16",), ("bfloat16",)], ids=" ".join
)
def test_files_made_of_a_known_model_say_what_is_known_of_it(mode, tmp_path):
    """The original says nothing itself: so what the command knows goes into what it writes."""
    path, small = fetched(SILERO, "silero_vad.onnx"), tmp_path / "small.safetensors"
    assert run("quantize", path, "-o", small, "--steps", 1, "--mode", *mode).exit_code == 0
    notes = sr.load(small).metadata
    assert notes.pop("quantization")["mode"] == mode[0]
    assert notes == SILERO_NOTES
    assert run("export", small, tmp_path / "small.onnx", "--no-verify").exit_code == 0
    assert sr.load(tmp_path / "small.onnx").metadata == sr.load(small).metadata


@pytest.mark.parametrize("quantize", [(), ("--quantize", "float16")])
def test_exports_of_a_known_model_say_what_is_known_of_it(quantize, tmp_path):
    path, out = fetched(SILERO, "silero_vad.onnx"), tmp_path / "step.onnx"
    assert run("export", path, out, "--no-verify", *quantize).exit_code == 0
    assert sr.load(out).metadata == SILERO_NOTES
    options = ["--shape", "input=1,576", "--shape", "state=2,1,128", "--constant", "sr=16000"]
    assert run("export", path, out, "--no-verify", *quantize, *options).exit_code == 0
    assert sr.load(out).metadata == {"sample_rate": 16000}  # all that the options say


@pytest.mark.parametrize(("words", "hint"), [(["export"], "OUT"), (["quantize", "-o"], "--out")])
def test_nothing_is_written_over_what_is_read(words, hint, tmp_path):
    path = tmp_path / "m.safetensors"
    sr.GRU(16, 24, seed=0).save(path)
    before = path.read_bytes()
    result = run(words[0], path, *words[1:], path)
    assert result.exit_code == 2
    assert hint in result.stderr
    assert "is what is read" in " ".join(result.stderr.replace("│", " ").split())
    assert path.read_bytes() == before


@pytest.mark.parametrize(("hop", "n"), [(None, 3), (2, 6), (5, 2)])
def test_sound_to_calibrate_with_is_cut_as_run_does(hop, n, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    from streamrnn.cli.quantize import _recording
    from streamrnn.live import SoundFile, Windows

    soundfile.write(tmp_path / "x.wav", np.linspace(0.1, 0.9, 13), 16000, "FLOAT")
    sr.GRU(5 if hop == 5 else 4, 3).save(tmp_path / "m.safetensors")
    frames = _recording(tmp_path / "x.wav", sr.load(tmp_path / "m.safetensors"), hop)
    with Windows(SoundFile(tmp_path / "x.wav"), frames.shape[1], hop) as source:
        expected = [frame.data for frame in source][: len(frames)]
    assert len(frames) == n
    assert np.array_equal(frames, expected)
