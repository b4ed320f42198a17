"""Graphs over sequences, run frame by frame, held against the whole graph in onnxruntime."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamrnn as sr
from test_add_state import graph, gru, normal, session

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

RNG = np.random.default_rng(0)
T = 60


def sequence(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def equal_to_the_whole(path, shape, axis, out_axis=None, first=0, **options):
    """Compare a stream with the whole graph in onnxruntime: steps, blocks, a reset in between.

    `shape` is that of a frame's tensor with 1 on the time axis. The output that comes with frame t
    is entry ``t - first`` of the whole. Without `out_axis` an output is one for the whole sequence.
    """
    model = sr.load(path, **options)
    x = sequence((*shape[:axis], T, *shape[axis + 1 :]))
    (whole,) = session(path).run(None, {"x": x})
    frames = np.moveaxis(x, axis, 0).reshape(T, *model.graph().inputs["x"].shape)
    frames = np.ascontiguousarray(frames)
    stream = model.stream()
    stream.run(sequence(frames.shape, seed=2)[:23])  # something else, forgotten by the reset
    stream.reset()
    steps = [stream.step(frame) for frame in frames]
    assert [y is None for y in steps] == [t < first for t in range(T)]
    got = np.array(steps[first:])
    stream.reset()
    blocks = [stream.run(frames[a:b]) for a, b in ((0, 1), (1, 1), (1, 34), (34, 41), (41, T))]
    assert np.array_equal(np.concatenate(blocks), got)
    if out_axis is None:
        wanted, got = whole[None], got[-1:]
    else:
        wanted = np.moveaxis(whole, out_axis, 0)[: len(got)]
    error = np.abs(got.reshape(len(got), -1) - wanted.reshape(len(got), -1)).max()
    assert error < 2e-5 * max(1, np.abs(wanted).max())
    return model


GRU = [
    ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
    ("GRU", ["t", "W", "R"], ["s", "last"], {"hidden_size": 4}),
]
WEIGHTS = gru(
    one=np.array([1]),
    zero=np.array([0]),
    two=np.array([2]),
    minus=np.array([-1]),
    far=np.array([2**62]),
)
X = [1, "time", 3]


def over(tmp_path, nodes, weights=(), shape=X, **options):
    return graph(tmp_path / "m.onnx", nodes, {**WEIGHTS, **dict(weights)}, shape, **options)


def test_shapes_are_followed_wherever_time_goes(tmp_path):
    """Through reshapes by numbers from Shape, squeezes, transposes, an expansion."""
    nodes = [
        *GRU,
        ("Squeeze", ["s", "one"], ["u"], {}),  # (T, 1, 4)
        ("Shape", ["u"], ["dims"], {}),
        ("Gather", ["dims", "zero"], ["length"], {}),
        ("Concat", ["one", "length", "two", "minus"], ["target"], {"axis": 0}),
        ("Reshape", ["u", "target"], ["v"], {}),  # (1, T, 2, 2)
        ("Transpose", ["v"], ["w"], {"perm": [2, 0, 3, 1]}),  # (2, 1, 2, T)
        ("Unsqueeze", ["w", "minus"], ["a"], {}),
        ("Expand", ["a", "wide"], ["b"], {}),
        ("Transpose", ["b"], ["c"], {"perm": [3, 0, 1, 2, 4]}),
        ("Flatten", ["c"], ["y"], {"axis": 1}),
    ]
    path = over(tmp_path, nodes, {"wide": np.array([2, 1, 2, 1, 3])})
    equal_to_the_whole(path, (1, 1, 3), 1, out_axis=0)


def test_products_norms_and_branches_work_frame_by_frame(tmp_path):
    nodes = [
        ("MatMul", ["x", "A"], ["a"], {}),
        ("Add", ["a", "b"], ["c"], {}),
        ("LayerNormalization", ["c", "scale", "b"], ["d"], {"axis": -1}),
        ("Softmax", ["d"], ["e"], {"axis": -1}),
        ("ReduceMean", ["d"], ["m"], {"axes": [2], "keepdims": 1}),
        ("ReduceMax", ["d"], ["n"], {"axes": [2], "keepdims": 0}),
        ("Unsqueeze", ["n", "two"], ["o"], {}),
        ("Concat", ["e", "m", "o", "x"], ["f"], {"axis": 2}),
        ("Split", ["f", "sizes"], ["g", "h"], {"axis": 2}),
        ("Sub", ["h", "g"], ["i"], {}),
        ("Slice", ["i", "zero", "minus", "two"], ["y"], {}),
    ]
    weights = {"A": normal(3, 5), "b": normal(5), "scale": normal(5), "sizes": np.array([5, 5])}
    equal_to_the_whole(over(tmp_path, nodes, weights), (1, 1, 3), 1, out_axis=1)


def test_time_may_be_the_last_axis(tmp_path):
    nodes = [
        ("Split", ["x", "sizes"], ["a", "b"], {"axis": 1}),
        ("BatchNormalization", ["a", "w", "w", "w", "w"], ["c"], {}),
        ("PRelu", ["c", "slope"], ["d"], {}),
        ("Concat", ["b", "d"], ["e"], {"axis": 1}),
        ("Softmax", ["e"], ["y"], {"axis": 1}),
    ]
    weights = {"sizes": np.array([3, 1]), "w": np.array([0.5, 1, 2], np.float32)}
    weights["slope"] = normal(3, 1)
    path = over(tmp_path, nodes, weights, shape=[1, 4, "time"])
    equal_to_the_whole(path, (1, 4, 1), 2, out_axis=2)


def test_the_last_state_is_the_one_so_far(tmp_path):
    equal_to_the_whole(over(tmp_path, GRU, names=("x", "last")), (1, 1, 3), 1)


@pytest.mark.parametrize("index", ["minus", "end"])
def test_the_last_frame_is_the_one_that_came_last(index, tmp_path):
    nodes = [
        *GRU,
        ("Shape", ["s"], ["dims"], {}),
        ("Gather", ["dims", "zero"], ["length"], {}),
        ("Sub", ["length", "one"], ["end"], {}),
        ("Gather", ["s", index], ["g"], {"axis": 0}),
        ("MatMul", ["g", "A"], ["h"], {}),
        ("Sigmoid", ["h"], ["y"], {}),
    ]
    equal_to_the_whole(over(tmp_path, nodes, {"A": normal(4, 2)}), (1, 1, 3), 1)


def test_what_follows_from_all_frames_is_not_used_at_each(tmp_path):
    nodes = [*GRU, ("Add", ["s", "last"], ["y"], {})]
    with pytest.raises(sr.FileError, match=r"node 2 \(Add\): what follows from the whole sequence"):
        sr.load(over(tmp_path, nodes))


def test_frames_that_are_cut_off_make_the_output_later(tmp_path):
    nodes = [
        ("Slice", ["x", "two", "far", "one"], ["a"], {}),
        ("Slice", ["x", "zero", "end", "one"], ["b"], {}),
        ("Sub", ["a", "b"], ["c"], {}),  # x[t + 2] - x[t]
        ("Transpose", ["c"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "W", "R"], ["y"], {"hidden_size": 4}),
    ]
    path = over(tmp_path, nodes, {"end": np.array([-2])})
    model = equal_to_the_whole(path, (1, 1, 3), 1, out_axis=0, first=2)
    assert model.delay_frames == 2


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_frames_put_in_front_are_a_delay(fill, tmp_path):
    nodes = [
        ("Concat", ["front", "x"], ["a"], {"axis": 1}),
        ("Slice", ["a", "zero", "end", "one"], ["b"], {}),
        ("Sub", ["x", "b"], ["c"], {}),  # x[t] - x[t - 3]
        ("Sigmoid", ["c"], ["y"], {}),
    ]
    front = np.full((1, 3, 3), fill, np.float32)
    path = over(tmp_path, nodes, {"front": front, "end": np.array([-3])})
    equal_to_the_whole(path, (1, 1, 3), 1, out_axis=1)


@pytest.mark.parametrize("fill", [0.0, 0.75])
@pytest.mark.parametrize("features", [0, 1])
def test_padding_in_front_is_a_delay(fill, features, tmp_path):
    nodes = [
        ("Pad", ["x", "pads", "fill"], ["a"], {}),
        ("Sigmoid", ["a"], ["b"], {}),  # 0.5 in the padding
        ("Transpose", ["b"], ["t"], {"perm": [1, 0, 2]}),
        ("GRU", ["t", "wide", "R"], ["y"], {"hidden_size": 4}),
    ]
    pads = np.array([0, 2, features, 0, 0, features])
    weights = {"pads": pads, "fill": np.float32(fill), "wide": normal(1, 12, 3 + 2 * features)}
    equal_to_the_whole(over(tmp_path, nodes, weights), (1, 1, 3), 1, out_axis=0)


def test_a_constant_that_is_the_same_at_every_frame_is_taken(tmp_path):
    one = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        ("Shape", ["x"], ["dims"], {}),
        ("ConstantOfShape", ["dims"], ["ones"], {"value": one}),
        ("Add", ["x", "ones"], ["y"], {}),
    ]
    equal_to_the_whole(over(tmp_path, nodes), (1, 1, 3), 1, out_axis=1)


REFUSED = {
    "attention over time": (
        [
            ("Transpose", ["x"], ["k"], {"perm": [0, 2, 1]}),
            ("MatMul", ["x", "k"], ["s"], {}),
            ("Softmax", ["s"], ["a"], {"axis": -1}),
            ("MatMul", ["a", "x"], ["y"], {}),
        ],
        {},
        r"node 1 \(MatMul\)",
    ),
    "a position encoding": (
        [
            ("Shape", ["x"], ["dims"], {}),
            ("Gather", ["dims", "scalar"], ["n"], {}),
            ("Range", ["scalar0", "n", "scalar"], ["r"], {}),
            ("Cast", ["r"], ["f"], {"to": 1}),
            ("Unsqueeze", ["f", "one"], ["u"], {}),
            ("Add", ["x", "u"], ["y"], {}),
        ],
        {"scalar": np.array(1), "scalar0": np.array(0)},
        r"node 5 \(Add\): a constant differs from frame to frame",
    ),
    "frames folded into features": (
        [("Reshape", ["x", "flat"], ["y"], {})],
        {"flat": np.array([1, -1])},
        r"node 0 \(Reshape\): .* folded together",
    ),
    "a number of frames that is fixed": (
        [("Reshape", ["x", "five"], ["y"], {})],
        {"five": np.array([5, -1, 3])},
        r"node 0 \(Reshape\)",
    ),
    "every second frame": (
        [("Slice", ["x", "zero", "far", "one", "two"], ["y"], {})],
        {},
        r"node 0 \(Slice\): .* no stream",
    ),
    "frames backwards": (
        [("Slice", ["x", "minus", "before", "one", "minus"], ["y"], {})],
        {"before": np.array([-(2**62)])},
        r"node 0 \(Slice\)",
    ),
    "a frame in the middle": (
        [("Gather", ["x", "two"], ["y"], {"axis": 1})],
        {},
        r"node 0 \(Gather\): .* only the last is known",
    ),
    "frames appended": (
        [("Concat", ["x", "tail"], ["y"], {"axis": 1})],
        {"tail": np.ones((1, 2, 3), np.float32)},
        r"node 0 \(Concat\): .* no end",
    ),
    "the sequence twice": (
        [("Concat", ["x", "x"], ["y"], {"axis": 1})],
        {},
        r"node 0 \(Concat\): .* no end",
    ),
    "mirrored frames in front": (
        [("Pad", ["x", "pads"], ["y"], {"mode": "reflect"})],
        {"pads": np.array([0, 2, 0, 0, 0, 0])},
        r"node 0 \(Pad\): .* 'reflect': only constant",
    ),
    "a sum over time": (
        [("ReduceSum", ["x", "one"], ["y"], {})],
        {},
        r"node 0 \(ReduceSum\): it works across the time axis \(axis 1 of shape \(1, time, 3\)\)",
    ),
    "sequences of unequal lengths": (
        [
            ("Slice", ["x", "two", "far", "one"], ["a"], {}),
            ("Add", ["x", "a"], ["y"], {}),
        ],
        {},
        r"node 1 \(Add\): sequences of different lengths meet",
    ),
    "sequences along different axes": (
        [
            ("Transpose", ["x"], ["a"], {"perm": [0, 2, 1]}),
            ("Add", ["x", "a"], ["y"], {}),
        ],
        {},
        r"node 1 \(Add\): sequences along different axes meet",
    ),
    "a recurrence along another axis": (
        [("GRU", ["x", "W", "R"], ["y"], {"hidden_size": 4})],
        {},
        r"node 0 \(GRU\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_stream_is_refused_by_name(name, tmp_path):
    nodes, weights, message = REFUSED[name]
    with pytest.raises(sr.FileError, match=message):
        sr.load(over(tmp_path, nodes, weights))


def test_a_fixed_number_of_frames_is_opened_by_the_user(tmp_path):
    nodes = [*GRU, ("Reshape", ["s", "shape"], ["y"], {})]
    weights = {"shape": np.array([T, 2, 2])}
    path = over(tmp_path, nodes, weights, shape=[1, T, 3])
    equal_to_the_whole(path, (1, 1, 3), 1, out_axis=0, shapes={"x": (1, None, 3)})
    with pytest.raises(sr.FileError, match="cannot have the shape"):
        sr.load(path, shapes={"x": (1, None, 4)})
    with pytest.raises(sr.FileError, match="cannot have the shape"):
        sr.load(path, shapes={"x": (None, None, 3)})


def test_what_is_the_same_function_only_by_accident_is_found_out(tmp_path, monkeypatch):
    """The check against the whole graph is the last word: it sees a rule that is wrong."""
    from streamrnn.importers.onnx import node, time

    monkeypatch.setitem(node.OVER_TIME, "ReduceMax", lambda a, n, x: time.settled(x))
    path = over(tmp_path, [("ReduceMax", ["x"], ["y"], {"axes": [1], "keepdims": 1})])
    monkeypatch.setattr(node.Known, "all_used", lambda self: None)
    with pytest.raises(sr.FileError, match=r"'y' of a whole sequence differs by .* frame after"):
        sr.load(path)
    sr.load(path, verify=False)


def test_a_file_is_checked_once(tmp_path, monkeypatch):
    from streamrnn.importers.onnx import sequence

    calls = []
    check = sequence.check_sequence
    monkeypatch.setattr(sequence, "check_sequence", lambda *a: (calls.append(a), check(*a)))
    path = over(tmp_path, [("Relu", ["x"], ["y"], {})])
    sr.load(path)
    sr.load(path)
    assert len(calls) == 1
    sr.load(path, shapes={"x": (1, None, 3)})  # read in the same way
    assert len(calls) == 1
    over(tmp_path, [("Sigmoid", ["x"], ["y"], {})])  # another graph of that name
    sr.load(path)
    assert len(calls) == 2
    monkeypatch.setattr(sequence, "cache_folder", lambda: tmp_path / "none")
    sr.load(path)
    sr.load(path)
    assert len(calls) == 4


def test_an_input_without_time_goes_in_with_every_frame(tmp_path):
    helper = onnx.helper
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["voice", "one"], ["v"]),
            helper.make_node("Mul", ["x", "v"], ["y"]),
        ],
        "g",
        [info("x", 1, [1, "time", 3]), info("voice", 1, [1, 3])],
        [info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.array([1]), "one")],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "m.onnx")
    x, voice = sequence((1, T, 3)), sequence((1, 3), 5)
    (whole,) = session(tmp_path / "m.onnx").run(None, {"x": x, "voice": voice})
    stream = sr.load(tmp_path / "m.onnx").stream()
    got = np.array([stream.step((frame, voice[0])) for frame in x[0]])
    assert np.abs(got - whole[0]).max() < 1e-6


def test_numbers_beside_the_model_are_read(tmp_path):
    nodes = [*GRU[:1], ("GRU", ["t", "W", "R"], ["y"], {"hidden_size": 4})]
    path = over(tmp_path, nodes)
    inside = sr.load(path).stream()
    onnx.save(
        onnx.load(path),
        tmp_path / "outside.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    x = sequence((T, 3))
    assert np.array_equal(sr.load(tmp_path / "outside.onnx").stream().run(x), inside.run(x))
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(sr.FileError, match=r"'weights.bin', which has \d+ bytes: \d+ are needed"):
        sr.load(tmp_path / "outside.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(sr.FileError, match=r"'weights.bin', which is missing"):
        sr.load(tmp_path / "outside.onnx")
    (tmp_path / "weights.bin").symlink_to("/dev/zero")
    with pytest.raises(sr.FileError, match="outside the model's folder"):
        sr.load(tmp_path / "outside.onnx")


# What torch writes --------------------------------------------------------------------------------


@pytest.fixture(params=["trace", "dynamo"])
def exported(request, tmp_path):
    """Return a function that lets one of torch's exporters write a module."""
    pytest.importorskip("torch", reason="exports need torch")
    if request.param == "dynamo":
        pytest.importorskip("onnxscript", reason="torch's new exporter needs onnxscript")

    def export(name):
        script, path = Path(__file__).with_name("torch_modules.py"), tmp_path / "m.onnx"
        command = [sys.executable, script, name, request.param, path]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=300)
        return path

    return export


def test_torch_modules_stream_as_they_are_exported(exported):
    model = equal_to_the_whole(exported("Tagger"), (1, 1, 8), 1, out_axis=1)
    assert len(model.graph().states()) == 2


def test_a_torch_classifier_answers_after_every_frame(exported):
    equal_to_the_whole(exported("Classifier"), (1, 1, 8), 1)
