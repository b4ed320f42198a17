"""The commands ``streamrnn export`` and ``streamrnn verify``."""

import json

import numpy as np
import pytest

import streamrnn as sr
from test_import_onnx import SILERO, fetched

pytest.importorskip("typer", reason="the command needs the extra `cli`")
onnx = pytest.importorskip("onnx", reason="writing ONNX needs the extra `onnx`")
pytest.importorskip("onnxruntime", reason="exports are verified in onnxruntime")

from test_cli import run  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture
def model(tmp_path):
    made = sr.Sequential(sr.Conv1d(6, 8, 3, stride=2, lookahead=1), sr.GRU(8, 20), sr.Linear(20, 2))
    path = tmp_path / "m.safetensors"
    made.save(path)
    return path


def words(result):
    return " ".join(result.output.split())


def test_a_model_is_exported_and_holds_against_its_file(model, tmp_path):
    out = tmp_path / "m.onnx"
    done = run("export", model, out)
    assert done.exit_code == 0
    assert "verified in onnxruntime over" in words(done)
    assert "onnx.reference agrees with onnxruntime on the first call" in words(done)
    held = run("verify", model, out, "--n", "300")
    assert held.exit_code == 0
    assert f"{model} (streamrnn)" in held.output.replace("\n", "")
    assert f"{out} (onnxruntime)" in held.output.replace("\n", "")
    assert "the same within 0.0001 over 300 frames" in words(held)


def test_both_files_can_run_in_streamrnn(tmp_path):
    sr.GRU(6, 20).save(tmp_path / "m.safetensors")
    assert run("export", tmp_path / "m.safetensors", tmp_path / "m.onnx").exit_code == 0
    files = [tmp_path / "m.safetensors", tmp_path / "m.onnx"]
    found = json.loads(run("verify", *files, "--engine", "streamrnn", "--json").output)
    assert found["engines"] == ["streamrnn", "streamrnn"]
    assert found["outputs"] == [
        {"name": "y", "outputs": 1000, "max_absolute": 0, "max_scaled": 0, "first_above": None}
    ]


def test_the_options_of_an_export_are_those_of_to_onnx(model, tmp_path):
    out = tmp_path / "m.onnx"
    options = ["--sequence", "--batch", "open", "--opset", "18", "--functions"]
    notes = ["--metadata", "sample_rate=16000", "--metadata", "trained=in May"]
    found = json.loads(run("export", model, out, *options, *notes, "--json").output)
    assert (found["path"], found["opset"]) == (str(out), 18)
    assert found["frames"] > 0
    proto = onnx.load(out)
    own = json.loads({p.key: p.value for p in proto.metadata_props}["streamrnn"])
    assert (own["form"], own["batch"]) == ("sequence", None)
    assert own["metadata"] == {"sample_rate": 16000, "trained": "in May"}
    assert proto.functions
    assert run("verify", model, out).exit_code == 0
    unverified = run("export", model, out, "--no-verify")
    assert "not verified" in unverified.output


def test_a_quantised_export_says_what_it_costs(model, tmp_path):
    out, frames, plot = tmp_path / "q.onnx", tmp_path / "x.npy", tmp_path / "drift.png"
    np.save(frames, RNG.standard_normal((64, 6)))  # float64 becomes float32
    options = ["--quantize", "qdq", "--calibration", frames, "--plot", plot]
    done = run("export", model, out, *options, "--json")
    assert done.exit_code == 0
    cost = json.loads(done.output)["quantization"]
    assert cost["mode"] == "qdq"
    assert plot.read_bytes()[:4] == b"\x89PNG"
    different = run("verify", model, out, "--frames", frames, "--tolerance", "1e-6")
    assert different.exit_code == 1
    assert "different within 1e-06 over 64 frames" in words(different)
    (row,) = json.loads(
        run("verify", model, out, "--frames", frames, "--tolerance", "1e-6", "--json").output
    )["outputs"]
    assert row["first_above"] is not None
    assert run("verify", model, out, "--frames", frames, "--tolerance", "1").exit_code == 0


def test_the_front_end_that_the_metadata_names_goes_into_the_graph(tmp_path):
    features = {
        "kind": "LogMel", "sample_rate_hz": 16000, "n_fft": 64, "hop_length": 32, "n_mels": 6,
    }  # fmt: skip
    x = sr.Input(6)
    model = sr.Model(x, sr.GRU(6, 3)(x), {"features": features, "sample_rate": 16000})
    model.save(tmp_path / "m.safetensors")
    out = tmp_path / "m.onnx"
    assert run("export", tmp_path / "m.safetensors", out, "--with-frontend").exit_code == 0
    (pcm,) = [i for i in onnx.load(out).graph.input if not i.name.endswith("_in")]
    assert [d.dim_value for d in pcm.type.tensor_type.shape.dim] == [1, 1, 32]
    whole = sr.Sequential(sr.frontend.from_features(features), model).stream()
    samples = RNG.standard_normal((50, 32)).astype(np.float32)
    from streamrnn.export import OnnxStream

    stream = OnnxStream(out)
    assert np.abs(stream.run(samples) - whole.run(samples)).max() < 1e-5
    own = json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["streamrnn"])
    assert own["metadata"]["sample_rate"] == 16000


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"kind": "Mel3", "n_fft": 3}, "one of Frames, LogMel, MFCC, Mel, STFT, got 'Mel3'"),
        ({"n_fft": 64}, "by `kind`"),
        ({"kind": "Mel", "window": 3}, "features of the kind 'Mel': "),
    ],
)
def test_features_that_say_no_front_end_are_refused(features, said):
    with pytest.raises(sr.ConfigError, match=said):
        sr.frontend.from_features(features)
    with pytest.raises(sr.ConfigError, match="features must be a mapping, got int"):
        sr.frontend.from_features(3)


def test_a_real_model_in_open_shapes_is_exported_and_verified(tmp_path):
    path, out = fetched(SILERO, "silero_vad.onnx"), tmp_path / "m.onnx"
    options = ["--shape", "input=1,576", "--shape", "state=2,1,128", "--constant", "sr=16000"]
    assert run("export", path, out, *options).exit_code == 0
    found = json.loads(run("verify", path, out, *options, "--n", "200", "--json").output)
    assert found["engines"] == ["onnxruntime", "onnxruntime"]
    assert found["outputs"][0]["max_absolute"] < 1e-6


def test_files_that_do_not_fit_each_other_are_said_to_be(model, tmp_path):
    other = tmp_path / "other.safetensors"
    sr.GRU(5, 2).save(other)
    result = run("verify", model, other)
    assert result.exit_code == 1
    assert "have different inputs: [(6,)] and [(5,)]" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--batch", "many"], 2, "expected a number or `open`, got 'many'"),
        (["--opset", "3"], 1, "opset must be from 13 to"),
        (["--quantize", "int3"], 1, "must be one of 'int8', 'qdq', 'float16', got 'int3'"),
        (["--quantize", "qdq"], 1, "takes its ranges from a stream"),
        (["--calibration", "x.npy"], 1, "cannot read x.npy"),
        (["--frames", "x.npy"], 1, "cannot read x.npy"),
        (["--plot", "x.png"], 2, "drift is that of a quantised graph"),
        (["--quantize", "int8", "--plot", "no/such/x.png"], 2, "there can be no file"),
        (["--with-frontend"], 1, "its metadata names no front end"),
        (["--metadata", "a"], 2, "expected NAME=VALUE, got 'a'"),
        (["--metadata", "sample_rate=-1"], 1, "must be a positive number of Hz, got -1"),
        (["--shape", "x=1,6"], 1, "are for .onnx files"),
    ],
)
def test_wrong_words_of_an_export_leave_no_file(options, code, said, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("export", model, "out.onnx", *options)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out.onnx").exists()


def test_wrong_frames_are_refused(model, tmp_path):
    def refused(said):
        result = run("verify", model, model, "--frames", frames)
        assert result.exit_code == 1
        assert said in " ".join(result.stderr.split())

    frames = tmp_path / "x.npy"
    np.save(frames, np.zeros((4, 5), np.float32))
    refused("'x' must be numbers of shape (T, 6), got float32 (4, 5)")
    np.save(frames, np.array([None, {}], object), allow_pickle=True)
    refused("expected a .npy or .npz file of numbers")
    frames.write_bytes(b"no array")
    refused("expected a .npy or .npz file")
    frames = tmp_path / "x.npz"
    np.savez(frames, y=np.zeros((4, 6)))
    refused("the model reads x, the file holds y")
    assert run("verify", model, model, "--engine", "torch").exit_code == 2
    assert "onnxruntime or streamrnn, got 'torch'" in run(
        "verify", model, model, "--engine", "torch"
    ).stderr.replace("\n", " ")


def test_the_second_opinion_is_one(monkeypatch, tmp_path):
    """Where onnx's evaluator sees another function, the report says so."""
    from onnx.reference import ReferenceEvaluator

    from streamrnn.export import to_onnx

    run_it = ReferenceEvaluator.run
    off = lambda self, *args: [y + np.float32(0.25) for y in run_it(self, *args)]  # noqa: E731
    monkeypatch.setattr(ReferenceEvaluator, "run", off)
    report = to_onnx(sr.GRU(3, 4), tmp_path / "m.onnx")
    assert report.opinion == "onnx.reference DIFFERS from onnxruntime on the first call: 2.50e-01"
    report = to_onnx(sr.RNN(3, 4, nonlinearity="relu"), tmp_path / "m.onnx")
    assert report.opinion == "onnx.reference cannot run it: Unknown activation function 'Relu'."
    assert to_onnx(sr.GRU(3, 4), tmp_path / "m.onnx", verify=False).opinion == ""


def test_nothing_compared_is_not_the_same(tmp_path):
    sr.Conv1d(3, 3, 9, lookahead=8).save(tmp_path / "late.safetensors")
    late = tmp_path / "late.safetensors"
    result = run("verify", late, late, "--n", "4")
    assert result.exit_code == 1
    assert "4 frames give no output to compare: more than 8 are needed" in " ".join(
        result.stderr.split()
    )
    sr.Sequential(sr.Conv1d(3, 3, 1, stride=2)).save(tmp_path / "slow.safetensors")
    result = run("verify", late, tmp_path / "slow.safetensors")
    assert result.exit_code == 1
    assert "an output every 1 frames" in " ".join(result.stderr.split())
    np.save(tmp_path / "none.npy", np.zeros((0, 3), np.float32))
    result = run("verify", late, late, "--frames", tmp_path / "none.npy")
    assert result.exit_code == 1
    assert "it holds no frames" in " ".join(result.stderr.split())


def test_indices_are_those_that_both_files_take(tmp_path):
    model = sr.Sequential(sr.Embedding(10, 4), sr.GRU(4, 4))
    model.save(tmp_path / "e.safetensors")
    assert run("export", tmp_path / "e.safetensors", tmp_path / "e.onnx").exit_code == 0
    for files in (("e.onnx", "e.safetensors"), ("e.safetensors", "e.onnx")):
        assert run("verify", *(tmp_path / f for f in files)).exit_code == 0
    np.save(tmp_path / "i.npy", np.array([3.7, 2.2]))
    result = run(
        "verify", tmp_path / "e.safetensors", tmp_path / "e.onnx", "--frames", tmp_path / "i.npy"
    )
    assert result.exit_code == 1
    assert "must be integers of shape" in " ".join(result.stderr.split())


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0, float("inf")])
def test_a_tolerance_that_lets_everything_pass_is_refused(tolerance, tmp_path):
    from streamrnn.export import add_state, to_onnx

    with pytest.raises(sr.ExportError, match="tolerance must be a finite number of at least 0"):
        to_onnx(sr.GRU(3, 4), tmp_path / "m.onnx", tolerance=tolerance)
    with pytest.raises(sr.ExportError, match="tolerance must be a finite number of at least 0"):
        add_state(tmp_path / "m.onnx", tmp_path / "n.onnx", tolerance=tolerance)


@pytest.mark.parametrize("quantize", ["int8", "float16"])
def test_a_graph_with_a_loop_inside_can_be_quantised(quantize, tmp_path):
    from streamrnn.export import to_onnx

    x = sr.Input(8)
    model = sr.Model(x, sr.Conv1d(8, 8, 2, stride=2)(sr.GRUVariant(8, 8)(x)))
    report = to_onnx(model, tmp_path / "m.onnx", quantize=quantize)
    assert any(node.op_type == "Scan" for node in report.proto.graph.node)
