"""Graphs over sequences as step graphs with states, held against the original in onnxruntime."""

import json

import numpy as np
import pytest

import streamrnn as sr
from test_import_onnx import NSNET2, fetched

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="verification needs the extra `onnx`")

from streamrnn.export import add_state  # noqa: E402

F = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(0)


def graph(path, nodes, weights, shape, names=("x", "y"), opset=17):
    """Write a graph with one input and one output."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    made = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        "g",
        [helper.make_tensor_value_info(names[0], F, shape)],
        [helper.make_tensor_value_info(names[1], F, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(proto, path)
    return path


def normal(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def initial_states(path):
    """Return the states that the metadata says the first call takes."""
    notes = {p.key: p.value for p in onnx.load(path).metadata_props}
    return {
        s["input"]: np.full(s["shape"], s["initial"], np.float32)
        if not isinstance(s["initial"], list)
        else np.reshape(np.array(s["initial"], np.float32), s["shape"])
        for s in json.loads(notes["streamrnn"])["states"]
    }


def by_hand(path, x, axis):
    """Run a step graph as its users do: states in, states out; return the outputs of all calls."""
    step, states = session(path), initial_states(path)
    names = [o.name for o in step.get_outputs()]
    outputs = []
    for t in range(x.shape[axis]):
        results = dict(zip(names, step.run(names, {"x": x.take([t], axis), **states}), strict=True))
        states = {name: results[name.removesuffix("_in") + "_out"] for name in states}
        outputs.append(results["y"])
    return outputs


def gru(**weights):
    return {"W": normal(1, 12, 3), "R": normal(1, 12, 4), **weights}


def test_a_recurrent_graph_gets_its_state_as_inputs_and_outputs(tmp_path):
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "W", "R", "", "", "h0"], ["s"], {"hidden_size": 4}),
        ("Squeeze", ["s", "one"], ["u"], {}),
        ("Transpose", ["u"], ["y"], {"perm": [1, 2, 0]}),
    ]
    weights = gru(h0=normal(1, 1, 4), one=np.array([1]))
    source = graph(tmp_path / "sequence.onnx", nodes, weights, [1, "time", 3])
    report = add_state(source, tmp_path / "step.onnx")
    assert report.frames == 64
    assert 0 <= report.max_error < 1e-6
    x = RNG.standard_normal((1, 50, 3)).astype(np.float32)
    (whole,) = session(source).run(None, {"x": x})
    outputs = by_hand(tmp_path / "step.onnx", x, 1)
    assert outputs[0].shape == (1, 4, 1)  # the original's layout, with the frames of one call
    assert np.abs(np.concatenate(outputs, 2) - whole).max() < 1e-6


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "late"),
    [(3, 1, [2, 0], 0), (3, 1, [1, 1], 1), (5, 1, [0, 0], 4), (3, 2, [2, 0], 0), (4, 2, [1, 1], 2)],
)
def test_convolutions_over_time_become_histories(kernel, stride, pads, late, tmp_path):
    """Causal, looking ahead, strided; a recurrent node behind, whose state waits for its frames."""
    nodes = [
        ("Conv", ["x", "K", "b"], ["a"], {"pads": pads, "strides": [stride]}),
        ("Tanh", ["a"], ["f"], {}),
        ("Transpose", ["f"], ["t"], {"perm": [2, 0, 1]}),
        ("GRU", ["t", "W", "R"], ["s"], {"hidden_size": 4, "linear_before_reset": 1}),
        ("Squeeze", ["s", "one"], ["u"], {}),
        ("Transpose", ["u"], ["y"], {"perm": [1, 2, 0]}),
    ]
    weights = gru(K=normal(3, 2, kernel), b=normal(3), one=np.array([1]))
    source = graph(tmp_path / "sequence.onnx", nodes, weights, [1, 2, "time"])
    report = add_state(source, tmp_path / "step.onnx")
    assert report.max_error < 1e-5
    model = sr.load(source)
    assert (model.delay_frames, model.stride_frames) == (late, stride)
    step = sr.load(tmp_path / "step.onnx").stream()
    x = RNG.standard_normal((60, 2)).astype(np.float32)
    chunks = x.reshape(-1, stride, 2).transpose(0, 2, 1) if stride > 1 else x
    shaped = np.ascontiguousarray(chunks).reshape(len(chunks), *step.program.inputs[0].shape)
    again, wanted = step.run(shaped).reshape(-1, 4), model.stream().run(x)
    assert len(again) >= len(wanted) > 20
    assert np.abs(again[: len(wanted)] - wanted).max() < 1e-5


def test_an_output_without_axes_keeps_none(tmp_path):
    """The mean of all features of the last frame's state."""
    weights = {"W": normal(1, 12, 3), "R": normal(1, 12, 4)}
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "W", "R"], ["", "h"], {"hidden_size": 4}),
        ("ReduceMean", ["h"], ["y"], {"axes": [0, 1, 2], "keepdims": 0}),
    ]
    path = graph(tmp_path / "a.onnx", nodes, weights, [1, "time", 3])
    add_state(path, tmp_path / "b.onnx")
    (y,) = (o for o in session(tmp_path / "b.onnx").get_outputs() if o.name == "y")
    assert y.shape == []


def test_nothing_is_written_where_the_two_differ(tmp_path, monkeypatch):
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "W", "R"], ["s"], {"hidden_size": 4, "linear_before_reset": 1}),
        ("Squeeze", ["s", "one"], ["y"], {}),
    ]
    source = graph(tmp_path / "m.onnx", nodes, gru(one=np.array([1])), [1, "time", 3])
    native = sr.GRUCell.native
    monkeypatch.setattr(
        sr.GRUCell,
        "native",
        lambda self, g, kind, x, **a: native(self, g, kind, x, **{**a, "linear_before_reset": 0}),
    )
    sr.load(source)  # the stream is right
    weights = onnx.load(source)
    bias = onnx.numpy_helper.from_array(normal(1, 24) * 5, "B")
    weights.graph.initializer.append(bias)
    weights.graph.node[1].input.append("B")
    onnx.save(weights, source)
    with pytest.raises(sr.ExportError, match=r"differs from the original over .* y by"):
        add_state(source, tmp_path / "step.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_the_sequence_to_verify_with_can_be_given(tmp_path):
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "W", "R"], ["y"], {"hidden_size": 4}),
    ]
    source = graph(tmp_path / "m.onnx", nodes, gru(), [1, "time", 3])
    x = RNG.standard_normal((1, 17, 3)).astype(np.float32)
    assert add_state(source, tmp_path / "s.onnx", sequence={"x": x}).frames == 17


def test_what_has_no_state_or_no_time_axis_is_refused(tmp_path):
    flat = graph(tmp_path / "a.onnx", [("Relu", ["x"], ["y"], {})], {}, [1, "time", 3])
    with pytest.raises(sr.ExportError, match="no state to add"):
        add_state(flat, tmp_path / "s.onnx")
    nodes = [("GRU", ["x", "W", "R"], ["y"], {"hidden_size": 4})]
    one = graph(tmp_path / "b.onnx", nodes, gru(), [1, 1, 3])
    with pytest.raises(sr.ExportError, match="no input has an open time axis"):
        add_state(one, tmp_path / "s.onnx")
    long = graph(tmp_path / "c.onnx", nodes, gru(), [100, 1, 3])
    assert add_state(long, tmp_path / "s.onnx", shapes={"x": (None, 1, 3)}).frames == 100


def test_a_real_model_without_states_gets_them(tmp_path):
    source = fetched(NSNET2, "nsnet2-20ms-baseline.onnx")
    report = add_state(source, tmp_path / "step.onnx")
    assert report.max_error < 1e-6
    step = session(tmp_path / "step.onnx")
    assert {i.name: i.shape for i in step.get_inputs()} == {
        "input": [1, 1, 161],
        "gru_0.h_in": [1, 1, 400],
        "gru_1.h_in": [1, 1, 400],
    }
    again = sr.load(tmp_path / "step.onnx").stream()
    x = RNG.standard_normal((1000, 161)).astype(np.float32)
    (whole,) = session(source).run(None, {"input": x[None]})
    assert np.abs(again.run(x) - whole[0]).max() < 1e-4


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ({}, "with an array for each input .x., got an empty one"),
        ({"z": 0}, "with an array for each input .x., got z"),
        (np.zeros((1, 4, 3), np.float32), "must be a mapping"),
        (
            {"x": np.zeros((0, 4, 3), np.float32)},
            r"'x' must be finite numbers of shape \(1, T, 3\)",
        ),
        ({"x": np.float32(0)}, r"of shape \(1, T, 3\), got float32 \(\)"),
        ({"x": np.full((1, 4, 3), np.nan, np.float32)}, "must be finite numbers"),
        ({"x": np.zeros((1, 0, 3), np.float32)}, "0 frames to verify with give no output"),
    ],
)
def test_a_sequence_to_verify_with_that_does_not_fit_is_refused(sequence, message, tmp_path):
    weights = {"W": normal(1, 12, 3), "R": normal(1, 12, 4)}
    turn = ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]})
    nodes = [turn, ("GRU", ["t", "W", "R"], ["y"], {"hidden_size": 4})]
    path = graph(tmp_path / "a.onnx", nodes, weights, [1, "time", 3])
    with pytest.raises(sr.ExportError, match=message):
        add_state(path, tmp_path / "b.onnx", sequence=sequence)
    assert not (tmp_path / "b.onnx").exists()
