"""Quantised step graphs: the float graph but for rounding, in onnxruntime, onnx and our stream."""

import json
import sys
import tempfile

import numpy as np
import pytest

import assets
import streamrnn as sr
from test_export_forms import skip_what_is_too_new
from test_import_onnx import SILERO_FILES, _speech
from zoo import random_frames, trained

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="quantisation needs the extra `onnx`")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from streamrnn.export import Quantization, to_onnx  # noqa: E402
from streamrnn_export import beside, spell  # noqa: E402
from streamrnn_export.qdq import int8_weights  # noqa: E402
from streamrnn_export.spell import spelled_out  # noqa: E402
from streamrnn_export.step import MAX_OPSET, MIN_OPSET, step_model  # noqa: E402

MODES = ["int8", "qdq", "float16"]
KINDS = {"RNN", "GRU", "LSTM", "Conv", "Gemm"}


def mixed():
    """Convolution, every kind of cell, linear."""
    x = sr.Input(6)
    y = sr.LSTM(12, 20, 2)(sr.GRU(20, 12)(sr.RNN(16, 20)(sr.ReLU()(sr.Conv1d(6, 16, 3)(x)))))
    return trained(sr.Model(x, sr.Linear(20, 3)(y)))


def spectral():
    """Convolutions inside a frame, with and without a Relu after them, one in groups."""
    x = sr.Input((1, 40))
    y = sr.ReLU()(sr.FrameConv1d(1, 8, 8, stride=4)(x))
    y = sr.FrameConv1d(8, 8, 3, padding=1, groups=2)(y)
    return trained(sr.Model(x, sr.GRU(72, 10)(sr.Reshape((72,))(y))))


def tokens():
    x = sr.Input((), dtype="int64")
    return trained(sr.Model(x, sr.Linear(20, 30)(sr.GRU(16, 20)(sr.Embedding(30, 16)(x)))))


def strided():
    """Three frames a call."""
    cells = (sr.GRU(5, 6), sr.RNN(6, 7, nonlinearity="relu"), sr.LSTM(7, 6))
    return trained(sr.Sequential(*cells, sr.Conv1d(6, 4, 5, stride=3, dilation=2), sr.Linear(4, 4)))


MODELS = {"mixed": mixed, "spectral": spectral, "tokens": tokens, "strided": strided}


def session(proto, optimised=True):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = proto.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def streamed(run, proto, model, frames, restart=None):
    """Return all outputs of every call, by name; states are fed back, or taken from `restart`."""
    stride, graph = model.graph().clock.stride, proto.graph
    outputs = [o.name for o in graph.output]
    (name,) = model.graph().inputs
    own = json.loads({p.key: p.value for p in proto.metadata_props}["streamrnn"])["states"]
    states = {s["input"]: np.zeros(s["shape"], np.float32) for s in own}
    found = []
    for call in range(len(frames) // stride):
        x = frames[call * stride : (call + 1) * stride][:, None]
        made = dict(zip(outputs, run(None, {name: x, **states}), strict=True))
        found.append(made)
        source = made if restart is None else restart[call]
        states = {s["input"]: source[s["output"]] for s in own}
    return found


def largest(a, b, skip=0):
    pairs = list(zip(a, b, strict=True))[skip:]
    return max(np.abs(p[n] - q[n]).max(initial=0) for p, q in pairs for n in p)


def nodes(proto):
    return [node.op_type for node in proto.graph.node]


# What is written out -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 20, 100])
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (sr.RNNCell, {"nonlinearity": "tanh"}),
        (sr.RNNCell, {"nonlinearity": "relu", "bias": False}),
        (sr.GRUCell, {}),
        (sr.GRUCell, {"bias": False}),
        (sr.GRUCell, {"reset_after": False}),
        (sr.GRUCell, {"reset_after": False, "bias": False}),
        (sr.LSTMCell, {}),
        (sr.LSTMCell, {"bias": False}),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else v.__name__,
)
def test_cells_written_out_are_onnxruntimes_nodes(cell, options, size):
    model = trained(cell(3, size, **options))
    native = step_model(model)
    proto, refused = spelled_out(native, KINDS)
    assert not refused
    assert not KINDS & set(nodes(proto))
    onnx.checker.check_model(proto, full_check=True)
    frames = random_frames(model, 20)
    wanted = streamed(session(native).run, native, model, frames)
    assert largest(streamed(session(proto).run, proto, model, frames), wanted) < 2e-6
    second = streamed(ReferenceEvaluator(proto).run, proto, model, frames[:6])
    assert largest(second, wanted[:6]) < 2e-6


def test_several_frames_a_call_and_convolutions_over_the_stream_are_written_out():
    model = strided()
    native = step_model(model)
    proto, refused = spelled_out(native, KINDS)
    assert not refused
    assert not KINDS & set(nodes(proto))
    frames = random_frames(model, 60)
    wanted = streamed(session(native).run, native, model, frames)
    assert largest(streamed(session(proto).run, proto, model, frames), wanted) < 2e-6


def test_a_bare_step_fed_back_is_written_out():
    x, h = sr.Input(4), sr.Past(5)()
    cell = sr.GRUCell(4, 5, seed=0)
    second = cell(x, cell(x, h))
    model = sr.Model(x, second, feedback={h: second})
    native = step_model(model)
    proto, _ = spelled_out(native, KINDS)
    assert not KINDS & set(nodes(proto))
    frames = random_frames(model, 20)
    wanted = streamed(session(native).run, native, model, frames)
    assert largest(streamed(session(proto).run, proto, model, frames), wanted) < 2e-6


def test_a_product_with_a_bias_in_one_node_is_written_out(tmp_path):
    class InOneNode(sr.Linear):
        def onnx(self, g, *xs):
            flat = g.op("Reshape", xs[0], g.ints(1, self.in_features))
            w, b = g.constant(self.weights["weight"], "w"), g.constant(self.weights["bias"], "b")
            return g.op("Unsqueeze", g.op("Gemm", flat, w, b, transB=1), g.ints(0))

    model = trained(sr.Sequential(sr.Input(9), InOneNode(9, 4)))
    for mode in ("int8", "qdq"):
        report = to_onnx(
            model,
            tmp_path / "m.onnx",
            quantize=Quantization(mode, steps=50),
            calibration=random_frames(model, 50),
        )
        assert "Gemm" not in nodes(report.proto)
        assert report.quantization.errors("y")[50]["snr_db"] > 30


def native_node(kind, weights=True, states=True, frames=1, **attributes):
    """Return a graph with one recurrent node."""
    info, I, H = helper.make_tensor_value_info, 3, 4
    G = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    names = ["x", "W", "R", "", "", *(["h", "c"][: 2 if kind == "LSTM" else 1] if states else [])]
    shapes = {"W": (1, G * H, I), "R": (1, G * H, H)}
    given = [info("x", TensorProto.FLOAT, [frames, 1, I])]
    given += [info(n, TensorProto.FLOAT, [1, 1, H]) for n in names[5:]]
    held = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()]
    if not weights:
        given += [info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    node = helper.make_node(kind, names, ["y"], name="it", hidden_size=H, **attributes)
    y = info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", given, [y], held if weights else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("its number of frames is not fixed", {"frames": "T"}),
        ("its weights are not constant", {"weights": False}),
        ("it has no initial states", {"states": False}),
        ("it does not run forward", {"direction": "reverse"}),
        ("its activations are Relu, Tanh", {"activations": ["Relu", "Tanh"]}),
        ("it has clip, input_forget", {"clip": 3.0}),
    ],
)
def test_what_cannot_be_written_out_stays_and_says_why(reason, options):
    proto, refused = spelled_out(native_node("GRU", **options), KINDS)
    assert nodes(proto) == ["GRU"]
    assert refused["it"].startswith(reason)


def test_weights_that_several_nodes_share_stay_shared():
    proto = native_node("GRU")
    again = proto.graph.node.add()
    again.CopyFrom(proto.graph.node[0])
    again.name, again.output[0] = "again", "z"
    made, _ = spelled_out(proto, KINDS)
    assert sorted(i.name for i in made.graph.initializer if len(i.dims) == 2) == [
        "R.n.T",
        "R.zr.T",
        "W.T",
    ]


# Quantised graphs --------------------------------------------------------------------------------


def export(model, path, mode, steps=200, frames=None, **options):
    frames = random_frames(model, 120) if frames is None else frames
    return to_onnx(
        model, path, quantize=Quantization(mode, steps=steps, **options), calibration=frames
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", MODELS)
def test_quantised_graphs_are_the_float_graph_but_for_rounding(which, mode, tmp_path):
    model = MODELS[which]()
    report = export(model, tmp_path / "m.onnx", mode)
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    quantization = report.quantization
    assert not quantization.kept
    for name in quantization.sums:
        row = quantization.errors(name)[quantization.steps]
        assert row["snr_db"] > (55 if mode == "float16" else 25), name
        assert row["correlation"] > 0.99, name
    frames = random_frames(model, 60, seed=7)
    float_graph = step_model(model)
    wanted = streamed(session(float_graph).run, float_graph, model, frames)
    got = streamed(session(proto).run, proto, model, frames)
    error = [np.abs(a["y"] - b["y"]).max() for a, b in zip(got, wanted, strict=True)]
    assert 0 < max(error) < (0.01 if mode == "float16" else 0.3)


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_every_opset_can_be_quantised(opset, tmp_path):
    skip_what_is_too_new(opset)
    model = strided()
    for mode in MODES:
        report = to_onnx(
            model,
            tmp_path / "m.onnx",
            opset=opset,
            quantize=Quantization(mode, steps=20),
            calibration=random_frames(model, 60),
        )
        assert {i.domain: i.version for i in report.proto.opset_import}[""] == opset
        assert report.quantization.errors("y")[20]["snr_db"] > 25


@pytest.mark.parametrize("mode", ["int8", "qdq"])
def test_products_are_of_bytes_and_states_of_floats(mode, tmp_path):
    proto = export(mixed(), tmp_path / "m.onnx", mode).proto
    made = nodes(proto)
    held = {i.name: i for i in proto.graph.initializer}
    if mode == "int8":
        assert made.count("DynamicQuantizeLSTM") == 2
        assert made.count("MatMulInteger") == 6  # one of Conv1d and Linear, two of RNN and GRU
    else:
        assert made.count("MatMul") == 10
        assert made.count("QuantizeLinear") == 10
    assert not {"RNN", "GRU", "LSTM", "Conv"} & set(made)
    floats = [i for i in held.values() if i.data_type == TensorProto.FLOAT]
    assert max(np.prod(i.dims) for i in floats) <= 160, "only scales and biases are floats"
    makers = {o: node.op_type for node in proto.graph.node for o in node.output}
    for output in proto.graph.output:
        assert output.type.tensor_type.elem_type == TensorProto.FLOAT
        assert makers[output.name] not in ("DequantizeLinear", "QuantizeLinear"), output.name


@pytest.mark.parametrize("mode", ["int8", "qdq"])
@pytest.mark.parametrize("size", [1, 3, 20, 100])
@pytest.mark.parametrize("cell", [sr.RNNCell, sr.GRUCell])
def test_onnxs_own_evaluator_computes_the_same(cell, size, mode, tmp_path):
    """Each of 20 steps from onnxruntime's states; but for a number on the edge of two bytes."""
    model = trained(cell(5, size))
    proto = to_onnx(
        model,
        tmp_path / "m.onnx",
        opset=21,  # the first in which it quantises
        quantize=Quantization(mode, steps=20),
        calibration=random_frames(model, 50),
    ).proto
    frames = random_frames(model, 20, seed=3)
    wanted = streamed(session(proto).run, proto, model, frames)
    got = streamed(ReferenceEvaluator(proto).run, proto, model, frames, restart=wanted)
    errors = [largest([a], [b]) for a, b in zip(got, wanted, strict=True)]
    assert np.mean(np.array(errors) > 1e-5) <= 0.1
    assert max(errors) < 0.02


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", MODELS)
def test_our_importer_reads_back_what_is_written(which, mode, tmp_path):
    """Each of 60 steps from onnxruntime's states; but for a number on the edge of two bytes."""
    model = MODELS[which]()
    proto = export(model, tmp_path / "m.onnx", mode, steps=20).proto
    frames = random_frames(model, 60, seed=3)
    wanted = streamed(session(proto, optimised=False).run, proto, model, frames)
    shapes = {"x": (model.graph().clock.stride, 1, *frames.shape[1:])}
    stream = sr.load(tmp_path / "m.onnx").stream()
    assert shapes["x"][0] in (1, 3)
    pairs = {f"{n}_in": f"{n}_out" for n in model.stream().state}
    errors = []
    for call, results in enumerate(wanted):
        stride = shapes["x"][0]
        x = frames[call * stride : (call + 1) * stride]
        (given,) = stream.program.inputs
        y = stream.step(x.reshape(given.shape))
        errors.append(np.abs(y.reshape(-1) - results["y"].reshape(-1)).max())
        for name in stream.state:
            match = pairs.get(name) or f"{name}_out"
            stream.state[name] = results[match].reshape(stream.state[name].shape)
    assert np.mean(np.array(errors) > 1e-5) <= 0.1
    assert max(errors) < 0.05


def test_float16_files_compute_with_the_rounded_weights(tmp_path):
    model = mixed()
    report = export(model, tmp_path / "m.onnx", "float16", steps=20)
    rounded = mixed()
    rounded.load_state_dict(
        {
            n: w.astype(np.float16).astype(np.float32) if w.size >= 8 else w
            for n, w in model.state_dict().items()
        }
    )
    frames = random_frames(model, 50)
    got = streamed(session(report.proto).run, report.proto, model, frames)
    ys = np.array([r["y"].reshape(-1) for r in got])
    assert np.abs(ys - model.stream().run(frames)).max() > 5e-5
    assert np.abs(ys - rounded.stream().run(frames)).max() < 1e-5
    kinds = {i.data_type for i in report.proto.graph.initializer if np.prod(i.dims) >= 16}
    assert kinds == {TensorProto.FLOAT16}


def test_files_are_much_smaller(tmp_path):
    model = trained(sr.Sequential(sr.LSTM(64, 96), sr.GRU(96, 96), sr.Linear(96, 64)))
    for mode, share in {"int8": 0.29, "qdq": 0.31, "float16": 0.52}.items():
        quantization = export(model, tmp_path / "m.onnx", mode, steps=20).quantization
        assert quantization.quantised_bytes == (tmp_path / "m.onnx").stat().st_size
        assert quantization.quantised_bytes < share * quantization.float_bytes
        to_onnx(model, tmp_path / "float.onnx")
        assert quantization.float_bytes == (tmp_path / "float.onnx").stat().st_size


@pytest.mark.parametrize("mode", MODES)
def test_the_same_model_gives_the_same_bytes_and_metadata(mode, tmp_path):
    for name in "ab":
        export(mixed(), tmp_path / f"{name}.onnx", mode, steps=20)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    proto, float_graph = onnx.load(tmp_path / "a.onnx"), step_model(mixed())
    assert proto.metadata_props == float_graph.metadata_props
    assert proto.producer_name == "streamrnn"
    assert proto.graph.input == float_graph.graph.input
    assert proto.graph.output == float_graph.graph.output


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_have_as_many_bits_as_asked_for(bits, tmp_path):
    for mode in ("int8", "qdq"):
        proto = export(mixed(), tmp_path / "m.onnx", mode, steps=20, weight_bits=bits).proto
        held = [numpy_helper.to_array(i) for i in proto.graph.initializer]
        top = max(np.abs(a.astype(int)).max() for a in held if a.dtype == np.int8)
        assert (64 if bits == 8 else 32) < top <= (127 if bits == 8 else 64)


def test_weights_are_symmetric_with_a_scale_for_each_output_channel():
    w = np.array([[1.0, -2.0], [0.0, 0.0], [1e-3, 5e-4]], np.float32)
    whole, scale = int8_weights(w, 0, 127)
    assert whole.tolist() == [[64, -127], [0, 0], [127, 64]]
    assert np.allclose(whole * scale[:, None], w, atol=0.008)
    assert np.array_equal(int8_weights(w.T, 1, 127)[0], whole.T)


def test_nodes_named_stay_float(tmp_path):
    report = export(mixed(), tmp_path / "m.onnx", "qdq", keep=("lstm_0", "linear_0/MatMul_0"))
    assert report.quantization.kept == dict.fromkeys(
        ["lstm_0/LSTM_0", "linear_0/MatMul_0"], "`keep` says so"
    )
    assert nodes(report.proto).count("LSTM") == 1
    report = export(mixed(), tmp_path / "m.onnx", "float16", keep=("gru_0",))
    assert set(report.quantization.kept) == {"gru_0.W", "gru_0.R", "gru_0.B"}
    with pytest.raises(
        sr.ConfigError, match=r"nothing to quantise is called gru_7; there are .*rnn_0/"
    ):
        export(mixed(), tmp_path / "n.onnx", "int8", keep=("gru_7",))
    assert not (tmp_path / "n.onnx").exists()


def test_products_of_two_values_stay_float_and_are_named(tmp_path):
    x = sr.Input((3, 4))
    y = sr.Linear(4, 3)(x)
    model = trained(sr.Model(x, sr.MatMul()(y, x)))
    for mode in ("int8", "qdq"):
        quantization = export(model, tmp_path / "m.onnx", mode).quantization
        assert list(quantization.kept.values()) == ["its right factor is no constant"]
        assert "stays float: its right factor is no constant" in str(quantization)


# Calibration -------------------------------------------------------------------------------------


def integrator(decay=1.0):
    """h' = relu(x + decay h): its state grows with every frame."""
    cell = sr.RNNCell(1, 1, bias=False, nonlinearity="relu")
    cell.weights = {"weight_ih": np.ones((1, 1)), "weight_hh": np.full((1, 1), decay)}
    return cell


def levels(proto, value):
    """Return the largest number that a value can have in bytes."""
    held = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    scale, zero = held[f"{value}:scale"], held[f"{value}:zero"]
    return float(scale * (255.0 - zero))


def test_ranges_are_those_of_a_stream_whose_state_is_fed_back(tmp_path):
    ones = np.ones((100, 1), np.float32)
    proto = export(integrator(), tmp_path / "m.onnx", "qdq", frames=ones).proto
    assert levels(proto, "rnn_0.h_in") == pytest.approx(99)
    assert levels(proto, "x") == pytest.approx(1)
    for halves in ([ones[:60], ones[60:]], iter([ones[:60], ones[60:]])):
        proto = export(integrator(), tmp_path / "m.onnx", "qdq", frames=halves).proto
        assert levels(proto, "rnn_0.h_in") == pytest.approx(59), "each recording begins anew"


def test_a_percentile_leaves_rare_numbers_outside(tmp_path):
    frames = np.random.default_rng(0).uniform(-1, 1, (4000, 1)).astype(np.float32)
    frames[7] = 100
    model = trained(sr.Linear(1, 1))
    for percentile, top in ((100, 100), (99.9, 1), (75, 0.5)):
        report = export(
            model, tmp_path / "m.onnx", "qdq", frames=frames, percentile=percentile, steps=20
        )
        assert levels(report.proto, "x") == pytest.approx(top, rel=0.2, abs=0.06)


def test_a_relu_after_a_convolution_is_the_least_byte(tmp_path):
    proto = export(spectral(), tmp_path / "m.onnx", "qdq", steps=20).proto
    held = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    convs = [n for n in proto.graph.node if n.op_type == "Conv"]
    zeros = [int(held[f"{n.output[0].removesuffix(':float')}:zero"]) for n in convs]
    assert zeros[0] == 0
    assert 50 < zeros[1] < 200, "no Relu comes after it"
    path = str(tmp_path / "optimised.onnx")
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, path
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = nodes(onnx.load(path))
    assert made.count("QLinearConv") == 2
    assert "Conv" not in made
    assert made.count("MatMulIntegerToFloat") == 2, "both products of the GRU are of bytes"


BAD = {
    r"recording 0: `x` must have shape \(T, 3\) for `run`, got \(8, 5\)": np.zeros((8, 5), "f4"),
    r"recording 1: `x` must have shape": [np.zeros((8, 3), "f4"), np.zeros((8, 5), "f4")],
    r"recording 0: .*NaN": np.full((8, 3), np.nan, "f4"),
    r"recording 0: .*float32, got float64": np.zeros((8, 3)),
    r"recording 0: it has 0 frames, expected at least 1": np.zeros((0, 3), "f4"),
    r"it holds no recordings": [],
    r"expected an array of frames.*got": 7,
    r"an iterable of such recordings, got .*dict": {"x": np.zeros((8, 3), "f4")},
    r"recording 0: .*`x` must be a numpy array": [[[0.0, 0.0, 0.0]]],
    r"recording 0: .*1 input|recording 0: .*must": (np.zeros((8, 3), "f4"),) * 2,
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("mode", MODES)
def test_calibration_that_does_not_fit_is_refused(mode, message, tmp_path):
    with pytest.raises(sr.ExportError, match=f"calibration.*{message}"):
        to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx", quantize=mode, calibration=BAD[message])
    assert not list(tmp_path.iterdir())


def test_several_inputs_come_as_a_tuple(tmp_path):
    a, b = sr.Input(3), sr.Input((), dtype="int64")
    y = sr.GRU(5, 4)(sr.concat(a, sr.Embedding(7, 2)(b)))
    model = trained(sr.Model({"a": a, "b": b}, y))
    frames = random_frames(model, 50)
    for given in (frames, [frames, frames]):
        for mode in ("int8", "qdq"):
            report = export(model, tmp_path / "m.onnx", mode, frames=given, steps=60)
            assert report.quantization.errors("y")[60]["snr_db"] > 25
    with pytest.raises(sr.ExportError, match="indices from 0 to 6, got 0 to 7"):
        export(model, tmp_path / "n.onnx", "qdq", frames=(frames[0], np.arange(50) % 8))
    with pytest.raises(sr.ExportError, match="the same number of frames"):
        export(model, tmp_path / "n.onnx", "qdq", frames=(frames[0], frames[1][1:]))


def test_what_is_shorter_than_a_call_is_refused(tmp_path):
    with pytest.raises(
        sr.ExportError, match="has 2 frames, expected at least 3, which is one call"
    ):
        export(strided(), tmp_path / "m.onnx", "qdq", frames=random_frames(strided(), 2))


# Options, and what goes wrong --------------------------------------------------------------------


def test_options_out_of_range_are_refused(tmp_path):
    for options, message in {
        ("int4",): "`quantize` must be one of 'int8', 'qdq', 'float16', got 'int4'",
        ("qdq", 50.0): "`percentile` must be above 50, up to 100, got 50.0",
        ("qdq", 100.5): "`percentile` must be above 50",
        ("int8", 100.0, 4): "`weight_bits` must be 7 or 8, got 4",
        ("int8", 100.0, 8, "lstm_0"): "`keep` must be a tuple of names, got 'lstm_0'",
        ("int8", 100.0, 8, (), 0): "`steps` must be an integer of at least 1, got 0",
    }.items():
        with pytest.raises(sr.ConfigError, match=message):
            Quantization(*options)
    path = tmp_path / "m.onnx"
    with pytest.raises(sr.ConfigError, match=r"must be one of .* got 'int4'"):
        to_onnx(sr.GRUCell(3, 4), path, quantize="int4")
    with pytest.raises(sr.ConfigError, match="or a Quantization, got int"):
        to_onnx(sr.GRUCell(3, 4), path, quantize=8)
    with pytest.raises(sr.ConfigError, match="for a quantised export: pass `quantize`"):
        to_onnx(sr.GRUCell(3, 4), path, calibration=np.zeros((8, 3), np.float32))
    with pytest.raises(sr.ExportError, match="takes its ranges from a stream: pass frames"):
        to_onnx(sr.GRUCell(3, 4), path, quantize="qdq")
    assert not list(tmp_path.iterdir())


def test_a_model_with_nothing_to_quantise_is_refused(tmp_path):
    for mode in MODES:
        with pytest.raises(sr.ExportError, match=f"nothing to quantise with '{mode}', export it"):
            export(sr.Sequential(sr.Input(3), sr.ReLU()), tmp_path / "m.onnx", mode)
    x = sr.Input((3, 3))
    with pytest.raises(sr.ExportError, match=r"quantize=None; matmul_0/.*: its right factor is no"):
        export(sr.Model(x, sr.MatMul()(x, x)), tmp_path / "m.onnx", "int8")
    assert not list(tmp_path.iterdir())


def test_weights_over_float16_are_named(tmp_path):
    model = trained(sr.Linear(8, 8))
    model.weights = {"weight": np.full((8, 8), 7e4), "bias": np.zeros(8)}
    with pytest.raises(
        sr.ExportError, match=r"linear_0\.weight: its largest number, 70000, is over"
    ):
        export(model, tmp_path / "m.onnx", "float16")
    assert not list(tmp_path.iterdir())


def test_results_that_are_not_finite_are_refused(tmp_path):
    model = trained(sr.Linear(2, 2))
    model.weights = {"weight": np.full((2, 2), 1e30), "bias": np.zeros(2)}
    frames = np.full((8, 2), 1e30, np.float32)
    with pytest.raises(sr.ExportError, match="graph gives an infinity in y within"):
        to_onnx(model, tmp_path / "m.onnx", quantize="int8", calibration=frames)
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_there_is_no_quantisation(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(sr.ExportError, match="quantisation needs onnxruntime: pip install"):
        to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx", quantize="float16", verify=False)
    assert not list(tmp_path.iterdir())


def test_a_cell_written_out_wrongly_is_noticed(tmp_path, monkeypatch):
    right = spell._mixed
    monkeypatch.setattr(spell, "_mixed", lambda g, z, n, h: right(g, g.op("Neg", z), n, h))
    with pytest.raises(sr.ExportError, match=r"not written, because .* differs by .* written out"):
        to_onnx(trained(sr.GRUCell(3, 4)), tmp_path / "m.onnx", quantize="int8")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    through = beside.progress

    def interrupted(items, what, total):
        for i, item in enumerate(through(items, what, total)):
            if what == "drift" and i == 10:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(beside, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_onnx(mixed(), tmp_path / "m.onnx", quantize="int8")
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("terminal", [False, True])
def test_a_progress_bar_is_for_terminals(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(beside.progress(iter("abc"), "drift", 3)) == ["a", "b", "c"]
    output = capsys.readouterr()
    assert output.out == ""
    assert bool(output.err) is terminal


# The report --------------------------------------------------------------------------------------


def test_errors_are_those_of_both_graphs_side_by_side(tmp_path):
    model, steps = mixed(), 150
    frames = random_frames(model, 40)
    quantization = export(
        model, tmp_path / "m.onnx", "int8", steps=steps, frames=frames
    ).quantization
    repeated = np.concatenate([frames] * 4)[:steps]
    before, after = step_model(model), onnx.load(tmp_path / "m.onnx")
    a = streamed(session(before).run, before, model, repeated)
    b = streamed(session(after).run, after, model, repeated)
    for name in ("y", "gru_0.h_out", "lstm_1.c_out"):
        p, q = (np.array([r[name].reshape(-1) for r in rows], np.float64) for rows in (a, b))
        errors = quantization.errors(name)
        assert list(errors) == [1, 10, 100, 150]
        for first, last in ((0, 1), (1, 10), (10, 100), (100, 150)):
            x, y = p[first:last].ravel(), q[first:last].ravel()
            ratio = np.sqrt(np.mean((x - y) ** 2) / np.mean(x**2))
            assert errors[last] == pytest.approx(
                {
                    "max_abs": np.abs(x - y).max(),
                    "relative_rms": ratio,
                    "snr_db": -20 * np.log10(ratio),
                    "correlation": np.corrcoef(x, y)[0, 1],
                },
                rel=1e-3,
            )


def test_drift_of_a_state_is_seen(tmp_path):
    """An integrator's rounding adds up; one that forgets is as far off in the end as soon after."""
    frames = np.random.default_rng(0).uniform(0, 0.01, (1000, 1)).astype(np.float32)
    grown = {}
    for decay in (1.0, 0.5):
        quantization = export(
            integrator(decay), tmp_path / "m.onnx", "int8", steps=1000, frames=frames
        ).quantization
        errors = quantization.errors("rnn_0.h_out")
        grown[decay] = errors[1000]["max_abs"] / errors[10]["max_abs"]
    assert grown[0.5] < 10
    assert grown[1.0] > 2 * grown[0.5]


def test_the_report_is_a_table_and_json(tmp_path):
    report = export(trained(sr.GRUCell(3, 4)), tmp_path / "m.onnx", "int8", steps=1200)
    text = str(report)
    assert "int8: 1 node quantised, 0 stay float" in text
    assert "gru_0/GRU_0: written out, with MatMulInteger" in text
    assert "drift from the float graph over 1,200 steps of 1 frame, states fed back" in text
    assert "1001-1200" in text
    assert "before quantisation, verified in onnxruntime over 64 frames" in text
    found = json.loads(json.dumps(report.quantization.as_dict(), allow_nan=False))
    assert found["steps"] == 1200
    assert found["float_bytes"] > 0
    assert found["quantised_step_us"] > 0
    assert list(found["errors"]["gru_0.h_out"]) == ["1", "10", "100", "1000", "1200"]
    last = found["errors"]["y"]["1200"]
    assert set(last) == {"max_abs", "relative_rms", "snr_db", "correlation"}


def test_random_frames_are_used_where_none_are_given(tmp_path):
    for mode in ("int8", "float16"):
        report = to_onnx(tokens(), tmp_path / "m.onnx", quantize=mode)
        assert report.quantization.steps == 10_000
        assert report.quantization.errors("y")[10_000]["snr_db"] > 25


def test_the_drift_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    quantization = export(trained(sr.GRUCell(3, 4)), tmp_path / "m.onnx", "int8").quantization
    quantization.plot(tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(sr.ExportError, match=r"cannot write .*absent.drift\.png: No such file"):
        quantization.plot(tmp_path / "absent" / "drift.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(sr.ExportError, match="needs matplotlib: pip install streamrnn"):
        quantization.plot(tmp_path / "n.png")


# A real model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "options", "apart", "flips"),
    [("int8", {}, 0.15, 3), ("float16", {}, 0.01, 0), ("qdq", {"percentile": 99.9}, 0.6, 10)],
)
def test_speech_detection_decides_the_same(mode, options, apart, flips, tmp_path):
    """Silero on 937 frames of speech: probabilities, and decisions at 0.5."""
    samples = np.concatenate([np.zeros(64, np.float32), _speech()])
    frames = np.stack([samples[b : b + 576] for b in range(0, len(samples) - 575, 512)])
    try:
        path = assets.silero_onnx()
    except assets.AssetError as error:
        pytest.skip(f"the model cannot be fetched: {error}")
    model = sr.load(path, **SILERO_FILES["silero_vad_16k_op15.onnx"][0])
    report = export(model, tmp_path / "m.onnx", mode, steps=100, frames=frames, **options)
    assert report.quantization.quantised_bytes < 0.52 * report.quantization.float_bytes
    run = session(report.proto).run
    ps = np.array([r["output"].item() for r in streamed(run, report.proto, model, frames)])
    wanted = model.stream().run(frames).reshape(-1)
    assert 0 < np.abs(ps - wanted).max() < apart
    assert np.sum((ps > 0.5) != (wanted > 0.5)) <= flips
    read = sr.load(tmp_path / "m.onnx").stream().run(frames).reshape(-1)
    assert np.median(np.abs(read - ps)) < 1e-4
    assert np.abs(read - ps).max() < (0.1 if mode != "float16" else 1e-5)


@pytest.mark.parametrize("mode", ["int8", "qdq"])
def test_weights_in_the_body_of_a_loop_are_said_to_stay_float(mode, tmp_path):
    """A cell spelled out before a stride is a Scan."""
    x = sr.Input(8)
    cell = sr.Conv1d(32, 32, 2, stride=2)(sr.GRUVariant(8, 32)(x))
    model = sr.Model(x, sr.Linear(32, 40)(cell))
    xs = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    report = to_onnx(
        model, tmp_path / "m.onnx", quantize=Quantization(mode, steps=2), calibration=xs
    )
    (loop,) = [n for n in report.proto.graph.node if n.op_type == "Scan"]
    inside = {n.name for n in loop.attribute[0].g.node if n.op_type == "MatMul"}
    assert inside
    assert set(report.quantization.kept) == inside
    assert set(report.quantization.kept.values()) == {
        "it is in the body of a Scan, which stays float"
    }
