"""Which output of an ONNX graph feeds which input: names, shapes, data flow, the user."""

import numpy as np
import pytest

import streamrnn as sr

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from streamrnn.importers.onnx.graph import Reader, parsed  # noqa: E402

RNG = np.random.default_rng(0)


def write(path, nodes, inputs, outputs, weights=()):
    """Write a graph whose inputs and outputs are given as name -> shape."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        "g",
        [info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in dict(weights).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path)
    return path


def found(path, **options):
    """Return the pairs that the importer finds."""
    reader = Reader(parsed(path), {}, {}, path.parent)
    reader.model(options.get("states"))
    return reader.pairs


def leaky(path, x, y, h, new):
    """A leaky integrator whose inputs and outputs have these names."""
    nodes = [
        ("Add", [x, h], ["sum"], {}),
        ("Tanh", ["sum"], [new], {}),
        ("Add", [new, x], [y], {}),
    ]
    shape = [1, 3]
    return write(path, nodes, {x: shape, h: shape}, {y: shape, new: shape})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("h", "hn"),
        ("h0", "hn"),
        ("h_0", "h_n"),
        ("state", "stateN"),
        ("state_in", "state_out"),
        ("h_prev", "h_next"),
        ("prev_h", "next_h"),
        ("past_conv", "present_conv"),
        ("past.0.key", "past.0.key.new"),
        ("in_state_1", "out_state_1"),
        ("conv_cache", "conv_cache_out"),
        ("old_buffer", "new_buffer"),
        ("initial_state", "final_state"),
        ("hidden_input", "hidden_output"),
        ("Rnn_State_In", "rnn_state_out"),
    ],
)
def test_names_tell(old, new, tmp_path):
    path = leaky(tmp_path / "m.onnx", "audio_in", "audio_out", old, new)
    assert found(path) == {old: new}
    stream, h = sr.load(path).stream(), np.zeros((1, 3), np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for x in RNG.standard_normal((20, 1, 3)).astype(np.float32):
        y, h = session.run(["audio_out", new], {"audio_in": x, old: h})
        assert np.abs(stream.step(x[0]) - y[0]).max() < 1e-6


def _two_states(path, h_shape=(2, 1, 4), names=("p", "q", "r", "s")):
    """Two stacked LSTM layers; their states come in and go out in two arrays, their names mute."""
    h, c, new_h, new_c = names
    nodes, last_h, last_c = [], [], []
    x = "x"
    weights = {"one": np.array([1])}
    for k in range(2):
        size = 3 if k == 0 else 4
        weights |= {
            f"W{k}": RNG.standard_normal((1, 16, size)).astype(np.float32) * 0.5,
            f"R{k}": RNG.standard_normal((1, 16, 4)).astype(np.float32) * 0.5,
            f"a{k}": np.array([k]),
            f"b{k}": np.array([k + 1]),
            "axis": np.array([0]),
        }
        nodes += [
            ("Slice", [h, f"a{k}", f"b{k}", "axis"], [f"h{k}"], {}),
            ("Slice", [c, f"a{k}", f"b{k}", "axis"], [f"c{k}"], {}),
            (
                "LSTM",
                [x, f"W{k}", f"R{k}", "", "", f"h{k}", f"c{k}"],
                [f"Y{k}", f"H{k}", f"C{k}"],
                {"hidden_size": 4},
            ),
            ("Squeeze", [f"Y{k}", "one"], [f"x{k}"], {}),
        ]
        x = f"x{k}"
        last_h.append(f"H{k}")
        last_c.append(f"C{k}")
    nodes += [
        ("Concat", last_h, [new_h], {"axis": 0}),
        ("Concat", last_c, [new_c], {"axis": 0}),
        ("Relu", [x], ["y"], {}),
    ]
    inputs = {"x": [1, 1, 3], h: h_shape, c: h_shape}
    return write(path, nodes, inputs, {"y": None, new_h: h_shape, new_c: h_shape}, weights)


def test_the_data_flow_tells(tmp_path):
    path = _two_states(tmp_path / "m.onnx")
    assert found(path) == {"p": "r", "q": "s"}
    stream = sr.load(path).stream()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    h = c = np.zeros((2, 1, 4), np.float32)
    for x in RNG.standard_normal((30, 1, 1, 3)).astype(np.float32):
        y, h, c = session.run(["y", "r", "s"], {"x": x, "p": h, "q": c})
        assert np.abs(stream.step(x[0, 0]) - y[0, 0]).max() < 1e-5
    assert np.abs(stream.state["p"] - h).max() < 1e-5
    assert np.abs(stream.state["q"] - c).max() < 1e-5


def _mute(path):
    nodes = [
        ("Add", ["x", "p"], ["r"], {}),
        ("Tanh", ["q"], ["t"], {}),
        ("Add", ["x", "t"], ["s"], {}),
        ("Sub", ["r", "s"], ["y"], {}),
    ]
    inputs = {name: [1, 3] for name in "xpq"}
    return write(path, nodes, inputs, {name: [1, 3] for name in "yrs"})


def test_where_nothing_tells_the_user_is_asked(tmp_path):
    path = _mute(tmp_path / "m.onnx")
    with pytest.raises(sr.FileError, match=r"inputs p, q may be fed by any .* r, s: say which"):
        sr.load(path)
    pairs = {"p": "r", "q": "s"}
    assert found(path, states=pairs) == pairs
    assert sorted(sr.load(path, states=pairs).stream().state) == ["p", "q"]


def test_the_users_word_counts(tmp_path):
    path = leaky(tmp_path / "m.onnx", "x", "y", "h", "hn")
    model = sr.load(path, states={})
    assert len(model.graph().inputs) == 2
    assert not model.graph().states()
    with pytest.raises(sr.FileError, match="no input 'h' with an output 'z'"):
        sr.load(path, states={"h": "z"})


def test_a_state_alone_with_its_shape_is_one(tmp_path):
    nodes = [
        ("ReduceSum", ["x", "axes"], ["s"], {"keepdims": 1}),
        ("Add", ["memory", "s"], ["m"], {}),
        ("Tanh", ["m"], ["anything"], {}),
        ("Add", ["x", "anything"], ["y"], {}),
    ]
    path = write(
        tmp_path / "m.onnx",
        nodes,
        {"x": [1, 3], "memory": [1, 1]},
        {"y": [1, 3], "anything": [1, 1]},
        {"axes": np.array([1])},
    )
    assert found(path) == {"memory": "anything"}
