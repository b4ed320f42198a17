"""RNN, GRU and LSTM nodes with every attribute, and loops, held against onnxruntime.

What onnxruntime lacks (``layout=1``) is held against the equations of the operators' specification,
written out here in NumPy.
"""

import itertools

import numpy as np
import pytest

import streamrnn as sr

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F = TensorProto.FLOAT
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
I, H = 3, 5


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def normal(rng, *shape, scale=0.6):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def write(path, nodes, inputs, outputs, weights, opset=17, functions=()):
    """Write a graph; inputs and outputs are given as name -> shape."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, F, shape) for name, shape in inputs.items()],
        [info(name, F, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if functions:
        imports.append(helper.make_opsetid("ours", 1))
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)
    onnx.save(proto, path)
    return path


def weights_of(kind, D=1, seed=0, peepholes=False):
    rng, rows = np.random.default_rng(seed), GATES[kind] * H
    made = {
        "W": normal(rng, D, rows, I),
        "R": normal(rng, D, rows, H),
        "B": normal(rng, D, 2 * rows),
    }
    return made | ({"P": normal(rng, D, 3 * H)} if peepholes else {})


def node_of(kind, states=(), lengths="", peepholes=False, outputs=None, x="x", **attributes):
    """Return a recurrent node that reads x, W, R, B and states of these names."""
    held = ["h", "c"] if kind == "LSTM" else ["h"]
    begins = list(states) + [""] * (len(held) - len(states))
    inputs = [x, "W", "R", "B", lengths, *begins]
    outputs = outputs or ["y", *(f"{s}_last" for s in held)]
    more = ["P"] if peepholes else []
    return helper.make_node(kind, inputs + more, outputs, hidden_size=H, **attributes)


def close(got, wanted):
    """Whether two arrays of any shapes hold the same numbers, but for rounding."""
    got, wanted = np.reshape(got, -1), np.reshape(wanted, -1)
    return np.abs(got - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


def streamed(model, frames):
    """Run frames one by one, after others and a reset; check that blocks give the same."""
    stream = model.stream()
    stream.run(frames[:7])
    stream.reset()
    steps = [np.array(y) if not isinstance(y, tuple) else y for y in map(stream.step, frames)]
    stream.reset()
    edges = [0, 1, 1, 20, 33, len(frames)]
    blocks = [stream.run(frames[a:b]) for a, b in itertools.pairwise(edges)]
    if not isinstance(steps[0], tuple):
        assert np.array_equal(np.concatenate(blocks), np.array(steps))
    return steps


UNUSUAL = {
    "RNN": {
        "relu": {"activations": ["Relu"]},
        "affine": {"activations": ["Affine"], "activation_alpha": [0.7], "activation_beta": [0.1]},
        "elu": {"activations": ["Elu"], "activation_alpha": [0.4]},
        "hard sigmoid": {
            "activations": ["HardSigmoid"],
            "activation_alpha": [0.3],
            "activation_beta": [0.4],
        },
        "leaky relu": {"activations": ["LeakyRelu"], "activation_alpha": [0.2]},
        "scaled tanh": {
            "activations": ["ScaledTanh"],
            "activation_alpha": [1.3],
            "activation_beta": [0.6],
        },
        "softplus": {"activations": ["Softplus"]},
        "softsign": {"activations": ["Softsign"]},
        "thresholded relu": {"activations": ["ThresholdedRelu"], "activation_alpha": [0.3]},
        "clip": {"clip": 0.5},
    },
    "GRU": {
        "reset after": {"linear_before_reset": 1},
        "other functions": {"activations": ["HardSigmoid", "Softsign"]},
        "alpha for the second": {
            "activations": ["Sigmoid", "LeakyRelu"],
            "activation_alpha": [0.3],
        },
        "clip": {"clip": 0.4},
        "clip, reset after": {"clip": 0.4, "linear_before_reset": 1},
    },
    "LSTM": {
        "other functions": {"activations": ["HardSigmoid", "Tanh", "Softsign"]},
        "alpha and beta in turn": {
            "activations": ["HardSigmoid", "ScaledTanh", "LeakyRelu"],
            "activation_alpha": [0.3, 1.2, 0.05],
            "activation_beta": [0.4, 0.8],
        },
        "clip": {"clip": 0.4},
        "coupled": {"input_forget": 1},
        "peepholes": {"peepholes": True},
        "everything": {"peepholes": True, "clip": 0.6, "input_forget": 1},
    },
}
KINDS = [(kind, name) for kind, forms in UNUSUAL.items() for name in ["usual", *forms]]


def options_of(kind, name):
    return dict(UNUSUAL[kind].get(name, {}))


@pytest.mark.parametrize(("kind", "name"), KINDS)
@pytest.mark.parametrize("begins", [False, True])
def test_over_a_sequence_the_state_is_kept(kind, name, begins, tmp_path):
    """Y, Y_h and Y_c of the stream are those of the whole sequence in onnxruntime."""
    options, rng = options_of(kind, name), np.random.default_rng(1)
    weights = weights_of(kind, peepholes=options.get("peepholes", False))
    states = []
    if begins:
        states = ["h0", "c0"][: 1 + (kind == "LSTM")]
        weights |= {s: normal(rng, 1, 1, H) for s in states}
    node = node_of(kind, states, **options)
    outputs = dict.fromkeys(node.output)
    path = write(tmp_path / "m.onnx", [node], {"x": ["time", 1, I]}, outputs, weights)
    model = sr.load(path, states={})
    x = normal(rng, 50, 1, I, scale=1.5)
    whole = session(path).run(None, {"x": x})
    steps = streamed(model, x[:, 0])
    y = np.array([step[0].reshape(-1) for step in steps])
    assert close(y, whole[0])
    for got, wanted in zip(steps[-1][1:], whole[1:], strict=True):
        assert close(got, wanted)


@pytest.mark.parametrize(("kind", "name"), KINDS)
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("B", [1, 3])
def test_of_a_single_frame_the_state_is_kept_or_taken(kind, name, outside, B, tmp_path):
    """A graph of one step, with its states as inputs or without any."""
    options, rng = options_of(kind, name), np.random.default_rng(2)
    weights = weights_of(kind, peepholes=options.get("peepholes", False))
    held = ["h", "c"][: 1 + (kind == "LSTM")]
    shape = [1, B, H]
    full = write(
        tmp_path / "full.onnx",
        [node_of(kind, held, **options)],
        {"x": [1, B, I], **dict.fromkeys(held, shape)},
        {"y": None, **{f"{s}_last": shape for s in held}},
        weights,
    )
    path = full
    if not outside:
        node = node_of(kind, (), outputs=["y"], **options)
        path = write(tmp_path / "m.onnx", [node], {"x": [1, B, I]}, {"y": None}, weights)
    pairs = {s: f"{s}_last" for s in held} if outside else None
    stream = sr.load(path, states=pairs).stream()
    peer, kept = session(full), {s: np.zeros(shape, np.float32) for s in held}
    for x in normal(rng, 30, 1, B, I, scale=1.5):
        y, *new = peer.run(None, {"x": x, **kept})
        kept = dict(zip(held, new, strict=True))
        got = stream.step(x.reshape(stream.program.inputs[0].shape))
        assert close(got, y)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_frames_inside_a_call_are_all_run(kind, name, direction, tmp_path):
    """The whole sequence is given in each call: both directions, lengths, several sequences."""
    options, rng = options_of(kind, name), np.random.default_rng(3)
    D, T, B = 1 + (direction == "bidirectional"), 6, 3
    for key in ("activations", "activation_alpha", "activation_beta"):
        if key in options:
            options[key] = options[key] * D
    held = ["h0", "c0"][: 1 + (kind == "LSTM")]
    weights = weights_of(kind, D, peepholes=options.get("peepholes", False))
    weights |= {s: normal(rng, D, B, H) for s in held}
    weights["lengths"] = np.array([6, 2, 4], np.int32)
    node = node_of(kind, held, "lengths", direction=direction, **options)
    outputs = dict.fromkeys(node.output)
    path = write(tmp_path / "m.onnx", [node], {"x": [T, B, I]}, outputs, weights)
    stream = sr.load(path).stream()
    for x in normal(rng, 3, T, B, I, scale=1.5):  # each call by itself
        whole = session(path).run(None, {"x": x})
        for got, wanted in zip(stream.step(x), whole, strict=True):
            assert close(got, wanted)


@pytest.mark.parametrize("kind", GATES)
def test_a_batch_first_layout_is_the_same_turned(kind, tmp_path):
    rng, held = np.random.default_rng(4), ["h0", "c0"][: 1 + (kind == "LSTM")]
    T, B, D = 4, 2, 2
    weights = weights_of(kind, D) | {s: normal(rng, D, B, H) for s in held}
    options = {"direction": "bidirectional"}
    paths = []
    for layout in (0, 1):
        node = node_of(kind, held, layout=layout, **options)
        shape = [B, T, I] if layout else [T, B, I]
        turned = {
            n: np.swapaxes(a, 0, 1) if layout and n in held else a for n, a in weights.items()
        }
        outputs = dict.fromkeys(node.output)
        paths.append(write(tmp_path / f"{layout}.onnx", [node], {"x": shape}, outputs, turned))
    x = normal(rng, T, B, I)
    y, *last = session(paths[0]).run(None, {"x": x})
    got, *states = sr.load(paths[1]).stream().step(np.ascontiguousarray(np.swapaxes(x, 0, 1)))
    assert np.abs(got - y.transpose(2, 0, 1, 3)).max() < 1e-5
    for a, b in zip(states, last, strict=True):
        assert np.abs(a - np.swapaxes(b, 0, 1)).max() < 1e-5


def _lstm_by_the_book(x, w, r, b, p, clip):
    """LSTM of the specification, one sequence, float64: gates i, o, f, c."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-np.clip(z, -clip, clip)))

    h = c = np.zeros(H)
    ys = []
    for frame in x.astype(np.float64):
        i, o, f, g = np.split(w @ frame + r @ h + b[: 4 * H] + b[4 * H :], 4)
        pi, po, pf = np.split(p, 3)
        i, f = sigmoid(i + pi * c), sigmoid(f + pf * c)
        c = f * c + i * np.tanh(np.clip(g, -clip, clip))
        h = sigmoid(o + po * c) * np.tanh(c)
        ys.append(h)
    return np.array(ys)


def test_over_a_sequence_with_the_batch_first(tmp_path):
    rng = np.random.default_rng(5)
    weights = weights_of("LSTM", peepholes=True)
    node = node_of("LSTM", peepholes=True, clip=0.8, layout=1)
    path = write(tmp_path / "m.onnx", [node], {"x": [1, "time", I]}, {"y": None}, weights)
    x = normal(rng, 60, I, scale=1.5)
    wanted = _lstm_by_the_book(x, *(weights[n][0].astype(np.float64) for n in "WRBP"), 0.8)
    got = sr.load(path, verify=False).stream().run(x)  # onnxruntime has no layout=1
    assert np.abs(got.reshape(60, H) - wanted).max() < 1e-5


def test_the_plain_cell_is_used_where_it_is_the_same(tmp_path):
    node = node_of("LSTM")
    path = write(
        tmp_path / "m.onnx", [node], {"x": ["time", 1, I]}, {"y": None}, weights_of("LSTM")
    )
    kinds = [type(n.op).__name__ for n in sr.load(path).graph().nodes]
    assert "LSTMCell" in kinds
    assert "Past" not in kinds


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
def test_backwards_over_a_stream_is_refused(kind, direction, tmp_path):
    weights = weights_of(kind, 1 + (direction == "bidirectional"))
    node = node_of(kind, direction=direction)
    for T in ("time", 1):
        path = write(tmp_path / "m.onnx", [node], {"x": [T, 1, I]}, {"y": None}, weights)
        with pytest.raises(sr.FileError, match=rf"\({kind}\): the backward direction begins at"):
            sr.load(path)


def test_a_long_sequence_in_each_call_asks_for_the_time_axis(tmp_path):
    node = node_of("GRU")
    inputs = {"x": [1000, 1, I]}
    path = write(tmp_path / "m.onnx", [node], inputs, {"y": None}, weights_of("GRU"))
    with pytest.raises(
        sr.FileError, match=r"1000 frames in every call: .* None for it in `shapes`"
    ):
        sr.load(path)
    x = normal(np.random.default_rng(6), 1000, 1, I)
    (whole,) = session(path).run(None, {"x": x})
    got = sr.load(path, shapes={"x": (None, 1, I)}).stream().run(x[:, 0])
    assert close(got, whole)


# Scan, Loop, functions ----------------------------------------------------------------------------


def body(nodes, inputs, outputs):
    info = helper.make_tensor_value_info
    kinds = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, [])}

    def described(name):
        return info(name.split(":")[0], *kinds.get(name.split(":")[0].rstrip("_"), (F, None)))

    return helper.make_graph(
        nodes, "body", list(map(described, inputs)), list(map(described, outputs))
    )


def N(*args, **attributes):  # noqa: N802
    return helper.make_node(*args, **attributes)


RECURRENCE = [
    N("MatMul", ["frame", "U"], ["u"]),
    N("MatMul", ["state", "V"], ["v"]),
    N("Add", ["u", "v"], ["sum"]),
    N("Tanh", ["sum"], ["new"]),
    N("Add", ["new", "new"], ["out"]),
]


def recurrence(rng):
    return {"U": normal(rng, I, H), "V": normal(rng, H, H), "s0": normal(rng, 1, H)}


def by_hand(weights, x):
    s, ys = weights["s0"].astype(np.float64), []
    for frame in x.reshape(-1, 1, I):
        s = np.tanh(frame @ weights["U"] + s @ weights["V"])
        ys.append(2 * s)
    return np.array(ys)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("lengths", [[1], [9]])
def test_lengths_over_a_stream_are_refused(lengths, verify, tmp_path):
    weights = weights_of("GRU") | {"lengths": np.array(lengths, np.int32)}
    node = node_of("GRU", lengths="lengths")
    path = write(tmp_path / "m.onnx", [node], {"x": ["time", 1, I]}, {"y": None}, weights)
    with pytest.raises(sr.FileError, match=r"\(GRU\): sequence_lens \[.\] of a sequence that goes"):
        sr.load(path, verify=verify)


@pytest.mark.parametrize("verify", [False, True])
def test_one_state_of_the_graph_and_one_of_the_node(verify, tmp_path):
    """Over a sequence the cell state that is no input of the graph is kept all the same."""
    outputs = {"y": None, "h_last": [1, 1, H]}
    path = write(
        tmp_path / "m.onnx",
        [node_of("LSTM", ["h0"], outputs=["y", "h_last"])],
        {"x": ["time", 1, I], "h0": [1, 1, H]},
        outputs,
        weights_of("LSTM"),
    )
    stream = sr.load(path, verify=verify).stream()
    x = normal(np.random.default_rng(13), 50, 1, I, scale=1.5)
    whole, _ = session(path).run(None, {"x": x, "h0": np.zeros((1, 1, H), np.float32)})
    assert set(stream.state) == {"h0", "lstm.c"}
    assert close(stream.run(x[:, 0]), whole)


@pytest.mark.parametrize("verify", [False, True])
def test_a_state_that_the_graph_is_given_anew_is_refused_over_a_stream(verify, tmp_path):
    inputs = {"x": ["time", 1, I], "h0": [1, 1, H]}
    path = write(tmp_path / "m.onnx", [node_of("GRU", ["h0"])], inputs, {"y": None},
                 weights_of("GRU"))  # fmt: skip
    with pytest.raises(sr.FileError, match=r"\(GRU\): its state before the first frame depends"):
        sr.load(path, states={}, verify=verify)
    first = N("GRU", ["x", "W", "R", "B"], ["", "h0"], hidden_size=H)
    inputs = {"x": ["time", 1, I]}
    path = write(tmp_path / "m.onnx", [first, node_of("GRU", ["h0"])], inputs, {"y": None},
                 weights_of("GRU"))  # fmt: skip
    with pytest.raises(sr.FileError, match=r"\(GRU\): its state before the first frame depends"):
        sr.load(path, verify=verify)


def test_parts_of_one_state_of_the_graph_are_states_of_the_nodes(tmp_path):
    """Two layers whose states are one tensor: it is split, turned and joined again."""
    shape = [1, 2, H]
    nodes = [
        N("Transpose", ["h"], ["turned"], perm=[1, 0, 2]),
        N("Split", ["turned"], ["h1", "h2"], axis=0),
        N("GRU", ["x", "W", "R", "B", "", "h1"], ["y1", "n1"], hidden_size=H),
        N("Squeeze", ["y1", "one"], ["z"]),
        N("GRU", ["z", "W2", "R2", "", "", "h2"], ["y", "n2"], hidden_size=H),
        N("Concat", ["n1", "n2"], ["joined"], axis=0),
        N("Transpose", ["joined"], ["h_last"], perm=[1, 0, 2]),
    ]
    rng = np.random.default_rng(14)
    weights = weights_of("GRU") | {"one": np.array([1])}
    weights |= {"W2": normal(rng, 1, 3 * H, H), "R2": normal(rng, 1, 3 * H, H)}
    inputs, outputs = {"x": ["time", 1, I], "h": shape}, {"y": None, "h_last": shape}
    path = write(tmp_path / "m.onnx", nodes, inputs, outputs, weights)
    stream = sr.load(path).stream()
    x = normal(rng, 50, 1, I, scale=1.5)
    whole, last = session(path).run(None, {"x": x, "h": np.zeros(shape, np.float32)})
    assert close(stream.run(x[:, 0]), whole)
    assert close(stream.state["h"], last)


@pytest.mark.parametrize("kind", GATES)
def test_one_frame_backwards_with_states_from_outside(kind, tmp_path):
    held = ["h", "c"][: 1 + (kind == "LSTM")]
    node = node_of(kind, held, direction="reverse")
    outputs = {"y": None, **{f"{s}_last": [1, 1, H] for s in held}}
    inputs = {"x": [1, 1, I], **{s: [1, 1, H] for s in held}}
    path = write(tmp_path / "m.onnx", [node], inputs, outputs, weights_of(kind))
    stream, kept = sr.load(path).stream(), {s: np.zeros((1, 1, H), np.float32) for s in held}
    for x in normal(np.random.default_rng(15), 20, 1, 1, I, scale=1.5):
        y, *new = session(path).run(None, {"x": x, **kept})
        kept = dict(zip(held, new, strict=True))
        assert close(stream.step(x[0, 0]), y)


@pytest.mark.parametrize("opset", [9, 13, 14, 22])
@pytest.mark.parametrize("kind", GATES)
def test_operator_sets_and_outputs_that_are_left_out(kind, opset, tmp_path):
    weights = weights_of(kind)
    del weights["B"]
    node = node_of(kind)
    node.input[3] = node.output[0] = ""
    outputs = dict.fromkeys(node.output[1:])
    path = write(tmp_path / "m.onnx", [node], {"x": ["time", 1, I]}, outputs, weights, opset)
    x = normal(np.random.default_rng(16), 50, 1, I, scale=1.5)
    whole = session(path).run(None, {"x": x})
    results = sr.load(path).stream().run(x[:, 0])
    for got, wanted in zip(results if kind == "LSTM" else [results], whole, strict=True):
        assert close(got[-1], wanted)


@pytest.mark.parametrize("T", ["time", 7])
@pytest.mark.parametrize(("axis", "out_axis"), [(0, 0), (1, 1), (0, -1)])
def test_a_scan_is_one_step_over_a_sequence_and_unrolled_within_a_call(T, axis, out_axis, tmp_path):
    rng = np.random.default_rng(7)
    weights = recurrence(rng)
    node = N(
        "Scan",
        ["s0", "x"],
        ["last", "y"],
        body=body(RECURRENCE, ["state", "frame"], ["new", "out"]),
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[out_axis],
    )
    shape = [1, 1, I]
    shape[axis] = T
    path = write(tmp_path / "m.onnx", [node], {"x": shape}, {"last": None, "y": None}, weights)
    n = 40 if T == "time" else T
    x = normal(rng, n, I, scale=1.5)
    wanted = by_hand(weights, x)
    given = np.moveaxis(x[:, None, :], 0, axis).reshape([n if d == T else d for d in shape])
    last, whole = session(path).run(None, {"x": given})
    assert close(np.moveaxis(whole, out_axis, 0), wanted)
    stream = sr.load(path).stream()
    if T == "time":
        for t, frame in enumerate(x):
            got_last, got = stream.step(frame)
            assert close(got, wanted[t])
    else:
        got_last, got = stream.step(given.reshape(stream.program.inputs[0].shape))
        assert close(got, whole)
    assert close(got_last, last)


def test_a_scan_backwards_within_a_call(tmp_path):
    rng = np.random.default_rng(8)
    node = N(
        "Scan",
        ["s0", "x"],
        ["last", "y"],
        body=body(RECURRENCE, ["state", "frame"], ["new", "out"]),
        num_scan_inputs=1,
        scan_input_directions=[1],
        scan_output_directions=[1],
    )
    weights = recurrence(rng)
    outputs = {"last": None, "y": None}
    path = write(tmp_path / "m.onnx", [node], {"x": [5, 1, I]}, outputs, weights)
    x = normal(rng, 5, 1, I)
    whole = session(path).run(None, {"x": x})
    for got, wanted in zip(sr.load(path).stream().step(x.reshape(5, 1, I)), whole, strict=True):
        assert close(got, wanted)
    path = write(tmp_path / "m.onnx", [node], {"x": ["time", 1, I]}, outputs, weights)
    with pytest.raises(sr.FileError, match=r"\(Scan\): it runs backwards over a sequence"):
        sr.load(path)


def _loop(trips):
    inside = [
        N("Gather", ["x", "i"], ["frame"], axis=0),
        *RECURRENCE,
        N("Identity", ["go"], ["go_"]),
    ]
    made = body(inside, ["i", "go", "state"], ["go_", "new", "out"])
    return N("Loop", [trips, "", "s0"], ["last", "y"], body=made)


def test_a_loop_over_the_frames_is_one_step(tmp_path):
    rng = np.random.default_rng(9)
    weights = recurrence(rng) | {"zero": np.array(0)}
    nodes = [N("Shape", ["x"], ["dims"]), N("Gather", ["dims", "zero"], ["n"]), _loop("n")]
    outputs = {"last": None, "y": None}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["time", 1, I]}, outputs, weights)
    x = normal(rng, 40, 1, I, scale=1.5)
    last, whole = session(path).run(None, {"x": x})
    stream = sr.load(path).stream()
    got = [stream.step(frame) for frame in x[:, 0]]
    y = np.array([step[1].reshape(-1) for step in got])
    assert close(y, whole)
    assert close(got[-1][0], last)


_CONV = [
    N("Transpose", ["wave"], ["turned"], perm=[1, 2, 0]),
    N("Conv", ["turned", "K"], ["conv"], strides=[2]),
    N("Transpose", ["conv"], ["x"], perm=[2, 0, 1]),
]
_CHOSEN = {
    "gather": [N("Gather", ["x", "i"], ["frame"], axis=0)],
    "gather a part": [
        N("Unsqueeze", ["i", "zeros"], ["at"]),
        N("Gather", ["x", "at"], ["part"], axis=0),
        N("Squeeze", ["part", "zeros"], ["frame"]),
    ],
    "slice": [
        N("Unsqueeze", ["i", "zeros"], ["at"]),
        N("Add", ["at", "one"], ["end"]),
        N("Slice", ["x", "at", "end", "zeros"], ["part"]),
        N("Squeeze", ["part", "zeros"], ["frame"]),
    ],
    "there and back": [
        N("Add", ["i", "one"], ["more"]),
        N("Sub", ["more", "one"], ["at"]),
        N("Gather", ["x", "at"], ["part"], axis=0),
        N("Squeeze", ["part", "zeros"], ["frame"]),
    ],
}
_ONES = {"zero": np.array(0), "zeros": np.array([0]), "one": np.array([1])}
_LENGTH = [N("Shape", ["x"], ["dims"]), N("Gather", ["dims", "zero"], ["n"])]


def _loop_over(inside):
    nodes = [*inside, *RECURRENCE, N("Identity", ["go"], ["go_"])]
    made = body(nodes, ["i", "go", "state"], ["go_", "new", "out"])
    return N("Loop", ["n", "", "s0"], ["last", "y"], body=made)


@pytest.mark.parametrize("way", _CHOSEN)
def test_a_loop_over_what_a_strided_convolution_makes(way, tmp_path):
    """Frames come later and seldomer than the model's input; they are chosen in many ways."""
    rng = np.random.default_rng(17)
    weights = recurrence(rng) | _ONES | {"K": normal(rng, I, I, 3)}
    nodes = [*_CONV, *_LENGTH, _loop_over(_CHOSEN[way])]
    outputs = {"last": None, "y": None}
    path = write(tmp_path / "m.onnx", nodes, {"wave": ["time", 1, I]}, outputs, weights)
    x = normal(rng, 101, 1, I, scale=1.5)
    last, whole = session(path).run(None, {"wave": x})
    stream = sr.load(path).stream()
    for edges in ([0, 101], [0, 1, 2, 50, 101]):
        parts = [stream.run(x[a:b, 0]) for a, b in itertools.pairwise(edges)]
        lasts, ys = (np.concatenate(column) for column in zip(*parts, strict=True))
        assert ys.shape[0] == whole.shape[0] == 50
        assert close(ys, whole)
        assert close(lasts[-1], last)
        stream.reset()


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (
            [
                N("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
                N("Gather", ["x", "i"], ["part"], axis=0),
                N("Add", ["part", "number"], ["frame"]),
            ],
            r"\(Cast\): it computes with the number of an iteration",
        ),
        (
            [N("Sub", ["n", "i"], ["at"]), N("Gather", ["x", "at"], ["frame"], axis=0)],
            r"\(Sub\): it computes with the number of an iteration",
        ),
        (
            [N("Add", ["i", "one"], ["at"]), N("Gather", ["x", "at"], ["frame"], axis=0)],
            r"\(Gather\): it computes with the number of an iteration",
        ),
        (
            [N("Gather", ["x", "i"], ["part"], axis=2), N("Gather", ["x", "i"], ["frame"])],
            r"\(Gather\): it computes with the number of an iteration",
        ),
        (
            [N("Gather", ["x", "i"], ["part"]), N("Add", ["x", "part"], ["frame"])],
            "each of its iterations makes something of the whole sequence",
        ),
    ],
    ids=["a number", "backwards", "the next frame", "another axis", "every frame at once"],
)
@pytest.mark.parametrize("verify", [False, True])
def test_a_loop_that_does_more_with_its_number_is_refused(inside, message, verify, tmp_path):
    weights = recurrence(np.random.default_rng(18)) | _ONES
    path = write(
        tmp_path / "m.onnx", [*_LENGTH, _loop_over(inside)], {"x": ["time", 1, I]}, {"y": None},
        weights,
    )  # fmt: skip
    with pytest.raises(sr.FileError, match=message):
        sr.load(path, verify=verify)


@pytest.mark.parametrize("trips", ["n", ""])
def test_a_loop_ends_early_where_its_condition_says_so(trips, tmp_path):
    rng = np.random.default_rng(19)
    weights = recurrence(rng) | {"n": np.array(6), "three": np.array(3), "yes": np.array(True)}
    nodes = [
        N("Gather", ["x", "i"], ["frame"], axis=0),
        *RECURRENCE,
        N("Less", ["i", "three"], ["go_"]),
    ]
    made = body(nodes, ["i", "go", "state"], ["go_", "new", "out"])
    node = N("Loop", [trips, "yes", "s0"], ["last", "y"], body=made)
    outputs = {"last": None, "y": None}
    path = write(tmp_path / "m.onnx", [node], {"x": [6, 1, I]}, outputs, weights)
    x = normal(rng, 6, 1, I)
    whole = session(path).run(None, {"x": x})
    assert whole[1].shape[0] == 4
    for got, wanted in zip(sr.load(path).stream().step(x), whole, strict=True):
        assert close(got, wanted)
    if trips:
        weights.pop("n")
        nodes = [*_LENGTH, node]
        inputs, weights = {"x": ["time", 1, I]}, weights | _ONES
        path = write(tmp_path / "m.onnx", nodes, inputs, outputs, weights)
        with pytest.raises(sr.FileError, match=r"\(Loop\): it ends before the sequence does"):
            sr.load(path)


@pytest.mark.parametrize("T", ["time", 5])
def test_bodies_in_bodies_read_what_is_around_them(T, tmp_path):
    """A loop and a choice in a scan: initializers of their own, and names of the graphs around."""
    rng = np.random.default_rng(20)

    def result(name):
        return helper.make_tensor_value_info(name, F, [1, H])

    inner = body(
        [N("Tanh", ["s"], ["t"]), N("Add", ["t", "more"], ["next"]), N("Add", ["next", "u"], ["w"]),
         N("Identity", ["go"], ["go_"])],
        ["i", "go", "s"], ["go_", "w"],
    )  # fmt: skip
    inner.initializer.append(numpy_helper.from_array(np.full((1, H), 0.25, np.float32), "more"))
    then = helper.make_graph([N("Neg", ["looped"], ["a"])], "then", [], [result("a")])
    other = helper.make_graph([N("Identity", ["looped"], ["b"])], "else", [], [result("b")])
    outer = body(
        [
            N("MatMul", ["frame", "U"], ["u"]),
            N("Add", ["u", "state"], ["sum"]),
            N("Loop", ["three", "", "sum"], ["looped"], body=inner),
            N("If", ["yes"], ["out"], then_branch=then, else_branch=other),
            N("Mul", ["out", "half"], ["new"]),
        ],
        ["state", "frame"], [],
    )  # fmt: skip
    outer.output.extend(map(result, ["new", "out"]))
    weights = recurrence(rng) | {"three": np.array(3), "yes": np.array(True)}
    weights["half"] = np.array(0.5, np.float32)
    node = N("Scan", ["s0", "x"], ["last", "y"], body=outer, num_scan_inputs=1)
    outputs = {"last": None, "y": None}
    path = write(tmp_path / "m.onnx", [node], {"x": [T, 1, I]}, outputs, weights)
    n = 50 if T == "time" else T
    x = normal(rng, n, 1, I)
    last, whole = session(path).run(None, {"x": x})
    stream = sr.load(path).stream()
    got_last, got = stream.run(x[:, 0]) if T == "time" else stream.run(x[None])
    assert close(got, whole)
    assert close(got_last[-1], last)


def test_loops_in_loops_without_end_are_refused_at_once(tmp_path):
    inside = body([N("Tanh", ["s"], ["t"]), N("Identity", ["go"], ["go_"])],
                  ["i", "go", "s"], ["go_", "t"])  # fmt: skip
    around = body(
        [N("Loop", ["n", "", "s"], ["t"], body=inside), N("Identity", ["go"], ["go_"])],
        ["i", "go", "s"], ["go_", "t"],
    )  # fmt: skip
    node = N("Loop", ["n", "", "x"], ["y"], body=around)
    path = write(tmp_path / "m.onnx", [node], {"x": [1, 3]}, {"y": None}, {"n": np.array(4000)})
    with pytest.raises(sr.FileError, match="with unrolled loops over 50000 nodes, too many"):
        sr.load(path)


def test_a_loop_of_known_length_is_unrolled(tmp_path):
    rng = np.random.default_rng(10)
    weights = recurrence(rng) | {"n": np.array(6)}
    outputs = {"last": None, "y": None}
    path = write(tmp_path / "m.onnx", [_loop("n")], {"x": [6, 1, I]}, outputs, weights)
    x = normal(rng, 6, 1, I)
    whole = session(path).run(None, {"x": x})
    for got, wanted in zip(sr.load(path).stream().step(x), whole, strict=True):
        assert close(got, wanted)


def test_a_loop_without_end_or_with_a_condition_of_the_frame_is_refused(tmp_path):
    rng = np.random.default_rng(11)
    weights = recurrence(rng) | {"n": np.array(10**12)}
    path = write(tmp_path / "m.onnx", [_loop("n")], {"x": [6, 1, I]}, {"y": None}, weights)
    with pytest.raises(sr.FileError, match=r"\(Loop\): "):
        sr.load(path)
    inside = [
        N("Identity", ["state"], ["new"]),
        N("ReduceMax", ["x"], ["m"], keepdims=0),
        N("Cast", ["m"], ["go_"], to=TensorProto.BOOL),
    ]
    node = N(
        "Loop", ["n", "", "s0"], ["y"], body=body(inside, ["i", "go", "state"], ["go_", "new"])
    )
    path = write(tmp_path / "m.onnx", [node], {"x": [6, 1, I]}, {"y": None}, weights)
    with pytest.raises(sr.FileError, match=r"\(Loop\): "):
        sr.load(path)


def test_functions_of_the_model_are_run(tmp_path):
    rng = np.random.default_rng(12)
    lstm = N("LSTM", ["f", "w", "r", "b"], ["s"])
    size = onnx.AttributeProto(name="hidden_size", ref_attr_name="units")
    size.type = onnx.AttributeProto.INT
    lstm.attribute.append(size)
    inner = helper.make_function(
        "ours",
        "Layer",
        ["f", "w", "r", "b"],
        ["s"],
        [lstm],
        [helper.make_opsetid("", 17)],
        ["units"],
    )
    outer = helper.make_function(
        "ours",
        "Net",
        ["f", "w", "r", "b"],
        ["z"],
        [N("Layer", ["f", "w", "r", "b"], ["s"], domain="ours", units=H), N("Relu", ["s"], ["z"])],
        [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)],
    )
    node = N("Net", ["x", "W", "R", "B"], ["y"], domain="ours")
    inputs, outputs = {"x": ["time", 1, I]}, {"y": None}
    path = write(
        tmp_path / "m.onnx", [node], inputs, outputs, weights_of("LSTM"), functions=[inner, outer]
    )
    x = normal(rng, 50, 1, I, scale=1.5)
    (whole,) = session(path).run(None, {"x": x})
    got = np.array(streamed(sr.load(path), x[:, 0]))
    assert close(got, whole)
    calls_itself = helper.make_function(
        "ours", "Net", ["f"], ["z"], [N("Net", ["f"], ["z"], domain="ours")],
        [helper.make_opsetid("ours", 1)],
    )  # fmt: skip
    node = N("Net", ["x"], ["y"], domain="ours")
    path = write(tmp_path / "m.onnx", [node], inputs, outputs, {}, functions=[calls_itself])
    with pytest.raises(sr.FileError, match="nested more than"):
        sr.load(path)
