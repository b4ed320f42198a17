"""Convolutions and windows, inside a frame and over time, held against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

import streamrnn as sr
from node_cases import node_cases
from test_add_state import graph, normal, session

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

T = 60


def close(got, wanted):
    return np.abs(got - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


def streams(path, shape, axis, clock, out_axis=None, **options):
    """Hold a stream against the whole graph: frames one by one, in unequal blocks, after a reset.

    `shape` is the tensor's, with None for time; `clock` is the stride of the outputs and the frame
    with which the first is due.
    """
    out_axis = axis if out_axis is None else out_axis
    model = sr.load(path, **options)
    rng = np.random.default_rng(3)
    x = rng.standard_normal([T if d is None else d for d in shape]).astype(np.float32)
    (whole,) = session(path).run(None, {"x": x})
    frames = np.moveaxis(x, axis, 0).reshape(T, *model.graph().inputs["x"].shape)
    frames = np.ascontiguousarray(frames)
    stream = model.stream()
    stream.run(rng.standard_normal((23, *frames.shape[1:]), np.float32))  # forgotten by the reset
    stream.reset()
    stride, start = clock
    steps = [stream.step(frame) for frame in frames]
    assert [y is not None for y in steps] == [
        t >= start and (t - start) % stride == 0 for t in range(T)
    ]
    assert (model.stride_frames, model.delay_frames) == clock
    got = np.array([y for y in steps if y is not None])
    stream.reset()
    blocks = [stream.run(frames[a:b]) for a, b in ((0, 1), (1, 1), (1, 34), (34, 41), (41, T))]
    assert np.array_equal(np.concatenate(blocks), got)
    wanted = np.moveaxis(whole, out_axis, 0)[: len(got)]
    assert close(got.reshape(len(got), -1), wanted.reshape(len(got), -1))
    return model


def over_time(tmp_path, nodes, weights, shape, clock, opset=17, **options):
    """Write a graph over sequences and hold its stream against it; time is None in the shape."""
    given = ["time" if d is None else d for d in shape]
    path = graph(tmp_path / "m.onnx", nodes, weights, given, opset=opset)
    return streams(path, shape, shape.index(None), clock, **options)


def refused(tmp_path, nodes, weights, shape, reason, opset=17):
    given = ["time" if d is None else d for d in shape]
    path = graph(tmp_path / "m.onnx", nodes, weights, given, opset=opset)
    with pytest.raises(sr.FileError, match=reason):
        sr.load(path)


def in_frame(tmp_path, kind, shape, weights, opset=17, **attributes):
    """Hold one node inside a frame against onnxruntime."""
    names = ["x", *weights]
    path = graph(
        tmp_path / "m.onnx", [(kind, names, ["y"], attributes)], weights, shape, opset=opset
    )
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    (wanted,) = session(path).run(None, {"x": x})
    model = sr.load(path)
    got = model.stream().step(x.reshape(model.graph().inputs["x"].shape))
    assert close(got.reshape(wanted.shape), wanted)


# Over time alone --------------------------------------------------------------------------------

ONE_AXIS = {
    "causal padding": ({"pads": [2, 0]}, 3, (1, 0)),
    "symmetric padding": ({"pads": [1, 1]}, 3, (1, 1)),
    "symmetric padding, dilated": ({"pads": [4, 4], "dilations": [4]}, 3, (1, 4)),
    "valid": ({}, 4, (1, 3)),
    "VALID": ({"auto_pad": "VALID"}, 3, (1, 2)),
    "SAME_UPPER, even": ({"auto_pad": "SAME_UPPER"}, 4, (1, 2)),
    "SAME_LOWER, even": ({"auto_pad": "SAME_LOWER"}, 4, (1, 1)),
    "SAME_UPPER, the same whatever the length": (
        {"auto_pad": "SAME_UPPER", "strides": [2]},
        4,
        (2, 2),
    ),
    "more padding than taps": ({"pads": [5, 0]}, 3, (1, 0)),
    "one tap": ({}, 1, (1, 0)),
    "one tap, stride 2": ({"strides": [2]}, 1, (2, 0)),
    "stride 2": ({"strides": [2], "pads": [1, 1]}, 3, (2, 1)),
    "stride 3, dilated": ({"strides": [3], "dilations": [2], "pads": [2, 2]}, 4, (3, 4)),
    "stride 4 of 2": ({"strides": [4]}, 2, (4, 1)),
}


@pytest.mark.parametrize("case", ONE_AXIS)
def test_a_convolution_over_time_streams_as_the_whole(case, tmp_path):
    attributes, taps, clock = ONE_AXIS[case]
    weights = {"w": normal(5, 3, taps), "b": normal(5)}
    nodes = [("Conv", ["x", "w", "b"], ["y"], attributes)]
    model = over_time(tmp_path, nodes, weights, (1, 3, None), clock)
    kinds = {type(node.op).__name__ for node in model.graph().nodes}
    assert "Conv1d" in kinds
    assert "Recent" not in kinds


@pytest.mark.parametrize("opset", [9, 11, 22])
@pytest.mark.parametrize(
    ("weight", "groups"), [((6, 2, 3), 3), ((6, 1, 3), 6), ((12, 1, 3), 6), ((5, 6, 3), 1)]
)
@pytest.mark.parametrize("rows", [1, 2])
def test_groups_and_several_rows(opset, weight, groups, rows, tmp_path):
    attributes = {"group": groups, "pads": [2, 1], "dilations": [2], "strides": [2]}
    nodes = [("Conv", ["x", "w"], ["y"], attributes)]
    over_time(tmp_path, nodes, {"w": normal(*weight)}, (rows, 6, None), (2, 2), opset)


# Over time and features -------------------------------------------------------------------------

PLANES = {
    "causal, same over features": ({"pads": [2, 1, 0, 1]}, (3, 3), 1, (1, 0)),
    "symmetric": ({"pads": [1, 1, 1, 1]}, (3, 3), 1, (1, 1)),
    "strides": ({"strides": [1, 2], "pads": [1, 1, 0, 1]}, (2, 3), 1, (1, 0)),
    "strides over both": ({"strides": [2, 2], "pads": [1, 0, 1, 1]}, (3, 3), 1, (2, 1)),
    "dilated": ({"dilations": [3, 2], "pads": [6, 2, 0, 2]}, (3, 3), 1, (1, 0)),
    "groups": ({"group": 2, "pads": [2, 0, 0, 0]}, (3, 2), 2, (1, 0)),
    "depthwise": ({"group": 4, "pads": [2, 1, 0, 1]}, (3, 3), 4, (1, 0)),
    "one frame": ({"pads": [0, 1, 0, 1]}, (1, 3), 1, (1, 0)),
    "one feature": ({"pads": [1, 0, 1, 0]}, (3, 1), 1, (1, 1)),
    "SAME_UPPER": ({"auto_pad": "SAME_UPPER"}, (4, 2), 1, (1, 2)),
    "SAME_LOWER": ({"auto_pad": "SAME_LOWER"}, (4, 2), 1, (1, 1)),
    "more padding than taps": ({"pads": [4, 0, 0, 0]}, (2, 2), 1, (1, 0)),
}


@pytest.mark.parametrize("time_last", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", PLANES)
def test_a_convolution_over_time_and_features(case, rows, time_last, tmp_path):
    attributes, taps, groups, clock = PLANES[case]
    weights = {"w": normal(8, 4 // groups, *taps), "b": normal(8)}
    if groups == 4:
        weights = {"w": normal(4, 1, *taps), "b": normal(4)}
    shape = (rows, 4, None, 9)
    if time_last:
        weights["w"] = np.ascontiguousarray(weights["w"].swapaxes(2, 3))
        shape = (rows, 4, 9, None)
        turned = {"pads": [1, 0, 3, 2], "strides": [1, 0], "dilations": [1, 0]}
        attributes = {
            n: [v[i] for i in turned[n]] if n in turned else v for n, v in attributes.items()
        }
    over_time(tmp_path, [("Conv", ["x", "w", "b"], ["y"], attributes)], weights, shape, clock)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_convolution_over_time_and_two_axes_more(axis, tmp_path):
    shape, taps = [1, 4, 5, 6], [2, 3]
    shape.insert(axis, None)
    taps.insert(axis - 2, 3)
    pads = [1, 1, 1]
    pads[axis - 2] = 2
    nodes = [("Conv", ["x", "w"], ["y"], {"pads": [*pads, 1, 0, 1], "group": 2})]
    over_time(tmp_path, nodes, {"w": normal(6, 2, *taps)}, tuple(shape), (1, 0))


def test_frames_may_be_the_batch(tmp_path):
    nodes = [("Conv", ["x", "w"], ["y"], {"pads": [1, 1]})]
    over_time(tmp_path, nodes, {"w": normal(4, 3, 3)}, (None, 3, 8), (1, 0))


def test_frames_may_not_be_the_channels(tmp_path):
    nodes = [("Conv", ["x", "w"], ["y"], {"pads": [1, 1]})]
    refused(tmp_path, nodes, {"w": normal(4, 3, 3)}, (1, None, 8), r"Conv.*across the time axis")


def test_padding_that_depends_on_the_length_is_refused(tmp_path):
    nodes = [("Conv", ["x", "w"], ["y"], {"auto_pad": "SAME_UPPER", "strides": [2]})]
    refused(tmp_path, nodes, {"w": normal(4, 3, 3)}, (1, 3, None), "depends on how long")


def test_a_weight_that_does_not_fit_is_refused(tmp_path):
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    refused(tmp_path, nodes, {"w": normal(4, 2, 4)}, (1, 3, None), "expects frames of shape")
    refused(tmp_path, nodes, {"w": normal(4, 2)}, (1, 3, None), "a weight of shape")


# Blocks of real models --------------------------------------------------------------------------

INTS = {"zero": np.array([0]), "two": np.array([2]), "minus": np.array([-2])}


def tcn(taps, dilations, pads, chomp):
    """Return residual blocks of convolutions with growing dilation."""
    nodes, weights, last = [], {}, "x"
    for i, d in enumerate(dilations):
        weights |= {f"w{i}": normal(4, 4, taps), f"b{i}": normal(4), f"v{i}": normal(4, 4, 1)}
        before, after = pads(d)
        attributes = {"dilations": [d], "pads": [before, after]}
        nodes += [("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], attributes)]
        out = f"c{i}"
        if chomp and after:
            weights |= {"zero": np.array([0]), "last": np.array([2])}
            weights[f"end{i}"] = np.array([-after])
            nodes += [("Slice", [out, "zero", f"end{i}", "last"], [f"s{i}"], {})]
            out = f"s{i}"
        nodes += [
            ("Relu", [out], [f"r{i}"], {}),
            ("Conv", [f"r{i}", f"v{i}"], [f"p{i}"], {}),
            ("Add", [f"p{i}", last], [f"y{i}"], {}),
        ]
        last = f"y{i}"
    nodes += [("Identity", [last], ["y"], {})]
    return nodes, weights


def test_a_tcn_that_pads_both_sides_and_chomps(tmp_path):
    nodes, weights = tcn(3, (1, 2, 4), lambda d: (2 * d, 2 * d), chomp=True)
    over_time(tmp_path, nodes, weights, (1, 4, None), (1, 0))


def test_a_tcn_that_looks_ahead(tmp_path):
    nodes, weights = tcn(3, (1, 2, 4), lambda d: (d, d), chomp=False)
    over_time(tmp_path, nodes, weights, (1, 4, None), (1, 7))


def test_a_tcn_of_valid_convolutions_with_residuals_cut_to_length(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"dilations": [2]}),
        ("Slice", ["x", "start", "end", "last"], ["s"], {}),
        ("Add", ["c", "s"], ["y"], {}),
    ]
    ints = {"start": np.array([2]), "end": np.array([-2]), "last": np.array([2])}
    over_time(tmp_path, nodes, {"w": normal(4, 4, 3), **ints}, (1, 4, None), (1, 4))


@pytest.mark.parametrize("before", [2, 5])
def test_padding_by_a_node_of_its_own(before, tmp_path):
    pads = np.array([0, 0, before, 0, 0, 0])
    nodes = [("Pad", ["x", "pads"], ["p"], {}), ("Conv", ["p", "w", "b"], ["y"], {})]
    weights = {"pads": pads, "w": normal(5, 4, 3), "b": normal(5)}
    over_time(tmp_path, nodes, weights, (1, 4, None), (1, 0))


def test_padding_of_planes_by_a_node_of_its_own(tmp_path):
    pads = np.array([0, 0, 2, 0, 0, 0, 0, 0])
    nodes = [("Pad", ["x", "pads"], ["p"], {}), ("Conv", ["p", "w"], ["y"], {"group": 4})]
    weights = {"pads": pads, "w": normal(4, 1, 3, 3)}
    over_time(tmp_path, nodes, weights, (1, 4, None, 8), (1, 0))


def test_strided_branches_meet(tmp_path):
    nodes = [
        ("Conv", ["x", "a"], ["c"], {"strides": [2], "pads": [1, 1]}),
        ("Relu", ["c"], ["r"], {}),
        ("Conv", ["r", "b"], ["d"], {"pads": [1, 1]}),
        ("Conv", ["x", "k"], ["e"], {"strides": [2]}),
        ("Add", ["d", "e"], ["y"], {}),
    ]
    weights = {"a": normal(6, 4, 3), "b": normal(6, 6, 3), "k": normal(6, 4, 1)}
    over_time(tmp_path, nodes, weights, (1, 4, None), (2, 3))


@pytest.mark.parametrize("pads", [[1, 1], [2, 0], [0, 0]])
def test_a_gru_behind_a_convolution(pads, tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"pads": pads}),
        ("Transpose", ["c"], ["t"], {"perm": [2, 0, 1]}),
        ("GRU", ["t", "W", "R"], ["y"], {"hidden_size": 4}),
    ]
    weights = {"w": normal(5, 3, 3), "W": normal(1, 12, 5), "R": normal(1, 12, 4)}
    clock = (1, 2 - pads[0])
    over_time(tmp_path, nodes, weights, (1, 3, None), clock, out_axis=0)


def test_depthwise_separable(tmp_path):
    nodes = [
        ("Conv", ["x", "d", "b"], ["c"], {"group": 20, "pads": [2, 2], "dilations": [2]}),
        ("BatchNormalization", ["c", "s", "s", "b", "s"], ["n"], {}),
        ("Relu", ["n"], ["r"], {}),
        ("Conv", ["r", "p"], ["y"], {}),
    ]
    weights = {"d": normal(20, 1, 3), "b": normal(20), "p": normal(7, 20, 1)}
    weights["s"] = np.random.default_rng(1).uniform(0.5, 2, 20).astype(np.float32)
    over_time(tmp_path, nodes, weights, (1, 20, None), (1, 2))


# A step graph that carries its caches -----------------------------------------------------------


def test_a_step_graph_with_caches_of_its_convolutions(tmp_path):
    """Like GTCRN's: two blocks over (1, C, T, F), depthwise and dense, dilated over time."""
    helper, numpy_helper, F = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    weights = {
        "w0": normal(8, 4, 3, 3),
        "w1": normal(8, 1, 3, 3),
        "w2": normal(4, 8, 1, 1),
        "b0": normal(8),
        "first": np.array([1]),
        "far": np.array([2**62]),
        "axis": np.array([2]),
    }
    node = helper.make_node
    nodes = [
        node("Concat", ["past_0", "x"], ["a"], axis=2),
        node("Conv", ["a", "w0", "b0"], ["c"], pads=[0, 1, 0, 1], strides=[1, 2]),
        node("Slice", ["a", "first", "far", "axis"], ["present_0"]),
        node("Relu", ["c"], ["r"]),
        node("Concat", ["past_1", "r"], ["d"], axis=2),
        node("Slice", ["d", "first", "far", "axis"], ["present_1"]),
        node("Conv", ["d", "w1"], ["e"], pads=[0, 1, 0, 1], dilations=[2, 1], group=8),
        node("Conv", ["e", "w2"], ["y"]),
    ]
    shapes = {"x": [1, 4, 1, 17], "past_0": [1, 4, 2, 17], "past_1": [1, 8, 4, 9]}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, F, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, F, None) for n in ("y", "present_0", "present_1")],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), path)
    step = session(path)
    caches = {n: np.zeros(s, np.float32) for n, s in shapes.items() if n != "x"}
    stream = sr.load(path).stream()
    x = np.random.default_rng(5).standard_normal((40, 4, 1, 17)).astype(np.float32)
    wanted = []
    for frame in x:
        y, *new = step.run(None, {"x": frame[None], **caches})
        caches = dict(zip(caches, new, strict=True))
        wanted.append(y[0])
    got = np.concatenate([stream.run(x[:7]), stream.run(x[7:25]), stream.run(x[25:])])
    assert close(got.reshape(np.shape(wanted)), np.array(wanted))


# Inside a frame ---------------------------------------------------------------------------------

FRAMES = [
    ((1, 4, 20), (6, 4, 3), {"pads": [1, 1], "strides": [2]}),
    ((1, 4, 20), (6, 2, 3), {"pads": [2, 0], "group": 2}),
    ((1, 4, 20), (4, 1, 3), {"pads": [1, 1], "group": 4}),
    ((3, 4, 20), (6, 4, 3), {"auto_pad": "SAME_LOWER"}),
    ((1, 4, 5, 20), (6, 4, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((1, 4, 20, 3), (6, 2, 3, 3), {"pads": [1, 0, 0, 0], "group": 2, "dilations": [2, 1]}),
    ((2, 4, 7, 9), (4, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 4}),
    ((1, 2, 3, 7, 9), (4, 2, 3, 3, 3), {"pads": [0, 1, 1, 0, 1, 1]}),
]


@pytest.mark.parametrize(("shape", "weight", "attributes"), FRAMES)
@pytest.mark.parametrize("opset", [9, 17])
def test_convolutions_inside_a_frame(shape, weight, attributes, opset, tmp_path):
    in_frame(
        tmp_path, "Conv", shape, {"w": normal(*weight), "b": normal(weight[0])}, opset, **attributes
    )


TRANSPOSED = [
    ((1, 4, 20), (4, 3, 3), {}),
    ((1, 4, 20), (4, 3, 3), {"strides": [2], "pads": [1, 1], "output_padding": [1]}),
    ((1, 4, 20), (4, 3, 3), {"strides": [3], "dilations": [2], "pads": [2, 0]}),
    ((1, 4, 7), (4, 3, 2), {"strides": [5]}),
    ((1, 4, 7), (4, 3, 3), {"strides": [2], "output_padding": [1]}),
    ((2, 4, 7), (4, 3, 4), {"strides": [2], "auto_pad": "SAME_UPPER"}),
    ((1, 4, 7), (4, 3, 4), {"strides": [3], "auto_pad": "SAME_LOWER"}),
    ((1, 4, 7), (4, 3, 4), {"strides": [2], "output_shape": [13], "auto_pad": "SAME_UPPER"}),
    ((1, 4, 7), (4, 3, 4), {"strides": [2], "output_shape": [13]}),
    ((1, 4, 7), (4, 3, 4), {"auto_pad": "VALID", "dilations": [3]}),
    ((1, 4, 7), (4, 3, 3), {"group": 2, "strides": [2]}),
    ((1, 4, 7), (4, 1, 3), {"group": 4, "pads": [3, 2]}),
    ((1, 4, 5, 9), (4, 3, 3, 3), {"strides": [1, 2], "pads": [1, 1, 1, 1]}),
    ((1, 4, 5, 9), (4, 3, 2, 3), {"strides": [2, 3], "output_padding": [1, 2], "group": 2}),
    ((2, 4, 9, 1), (4, 3, 5, 1), {"strides": [2, 1], "pads": [2, 0, 2, 0], "dilations": [2, 1]}),
]


@pytest.mark.parametrize(("shape", "weight", "attributes"), TRANSPOSED)
@pytest.mark.parametrize("opset", [9, 11, 22])
def test_transposed_convolutions_inside_a_frame(shape, weight, attributes, opset, tmp_path):
    bias = normal(weight[1] * attributes.get("group", 1))
    in_frame(
        tmp_path, "ConvTranspose", shape, {"w": normal(*weight), "b": bias}, opset, **attributes
    )


SPREAD = [
    ((1, 4, None), (4, 3, 3), {}, 0),
    ((1, 4, None), (4, 3, 3), {"pads": [0, 2]}, 0),
    ((1, 4, None), (4, 3, 3), {"pads": [1, 1]}, 1),
    ((2, 4, None), (4, 3, 3), {"pads": [2, 0], "dilations": [2], "group": 2}, 2),
    ((1, 4, None), (4, 3, 2), {"pads": [3, 0]}, 3),
    ((1, 4, None, 9), (4, 3, 2, 3), {"strides": [1, 2], "pads": [0, 1, 1, 1]}, 0),
    ((1, 4, None, 9), (4, 1, 3, 3), {"strides": [1, 2], "pads": [1, 1, 1, 1], "group": 4}, 1),
    ((2, 4, 9, None), (4, 3, 3, 3), {"strides": [2, 1], "dilations": [1, 2], "group": 2}, 0),
]


@pytest.mark.parametrize(("shape", "weight", "attributes", "start"), SPREAD)
def test_transposed_convolutions_over_time(shape, weight, attributes, start, tmp_path):
    bias = normal(weight[1] * attributes.get("group", 1))
    nodes = [("ConvTranspose", ["x", "w", "b"], ["y"], attributes)]
    over_time(tmp_path, nodes, {"w": normal(*weight), "b": bias}, shape, (1, start))


def test_more_frames_than_come_in_are_refused(tmp_path):
    nodes = [("ConvTranspose", ["x", "w"], ["y"], {"strides": [2]})]
    refused(tmp_path, nodes, {"w": normal(4, 3, 3)}, (1, 4, None), "makes 2 frames of each one")


# Pooling ----------------------------------------------------------------------------------------

POOLS = {
    "stride 2": ((1, 4, 20), {"kernel_shape": [2], "strides": [2]}),
    "padded": ((2, 4, 21), {"kernel_shape": [3], "pads": [1, 2]}),
    "ceil": ((1, 3, 20), {"kernel_shape": [3], "strides": [3], "pads": [1, 0], "ceil_mode": 1}),
    "SAME_UPPER": ((1, 3, 20), {"kernel_shape": [4], "strides": [3], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": ((1, 3, 9, 8), {"kernel_shape": [4, 3], "auto_pad": "SAME_LOWER"}),
    "planes": ((2, 3, 9, 8), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 0, 0]}),
    "planes, ceil": ((1, 3, 9, 8), {"kernel_shape": [4, 3], "strides": [2, 2], "ceil_mode": 1}),
    "one of two": ((1, 3, 9, 8), {"kernel_shape": [1, 1], "strides": [2, 3]}),
    "three axes": ((1, 3, 6, 7, 5), {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1]}),
}
KINDS = {
    "MaxPool": [{}],
    "AveragePool": [{}, {"count_include_pad": 1}],
    "LpPool": [{}, {"p": 1}, {"p": 3}],
}


@pytest.mark.parametrize(
    ("kind", "options"), [(kind, o) for kind, several in KINDS.items() for o in several]
)
@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("opset", [11, 22])
def test_pools_inside_a_frame(kind, options, case, opset, tmp_path):
    shape, attributes = POOLS[case]
    if kind == "LpPool" and opset == 11 and "ceil_mode" in attributes:
        pytest.skip("LpPool has ceil_mode from operator set 18 on")
    in_frame(tmp_path, kind, shape, {}, opset, **attributes, **options)


@pytest.mark.parametrize(("kind", "opset"), [("MaxPool", 12), ("AveragePool", 19), ("LpPool", 18)])
def test_dilated_pools(kind, opset, tmp_path):
    attributes = {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [2, 0, 1, 1]}
    in_frame(tmp_path, kind, (1, 3, 9, 8), {}, opset, **attributes)


GLOBAL = [("GlobalAveragePool", {}), ("GlobalMaxPool", {}), ("GlobalLpPool", {})]


@pytest.mark.parametrize(("kind", "attributes"), GLOBAL)
@pytest.mark.parametrize("shape", [(1, 3, 7), (2, 3, 4, 5)])
def test_pools_over_everything(kind, attributes, shape, tmp_path):
    in_frame(tmp_path, kind, shape, {}, **attributes)


def test_a_norm_over_all_of_time_is_refused(tmp_path):
    reason = "GlobalLpPool.*across the time axis"
    refused(tmp_path, [("GlobalLpPool", ["x"], ["y"], {})], {}, (1, 3, None), reason)


OVER_TIME_POOLS = {
    "stride 2": ((1, 4, None), {"kernel_shape": [2], "strides": [2]}, (2, 1)),
    "causal": ((1, 4, None), {"kernel_shape": [3], "pads": [2, 0]}, (1, 0)),
    "symmetric": ((2, 4, None), {"kernel_shape": [5], "pads": [2, 2]}, (1, 2)),
    "SAME_UPPER": ((1, 4, None), {"kernel_shape": [2], "auto_pad": "SAME_UPPER"}, (1, 1)),
    "dilated": ((1, 4, None), {"kernel_shape": [3], "dilations": [2], "pads": [1, 0]}, (1, 3)),
    "planes": (
        (1, 3, None, 8),
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 0]},
        (2, 1),
    ),
    "time last": (
        (1, 3, 8, None),
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 0], "ceil_mode": 1},
        (1, 0),
    ),
    "features only": ((1, 3, None, 8), {"kernel_shape": [1, 2], "strides": [1, 2]}, (1, 0)),
    "channels of frames": ((1, None, 8), {"kernel_shape": [2], "strides": [2]}, (1, 0)),
}


@pytest.mark.parametrize(
    ("kind", "options"), [(kind, o) for kind, several in KINDS.items() for o in several]
)
@pytest.mark.parametrize("case", OVER_TIME_POOLS)
def test_pools_over_time(kind, options, case, tmp_path):
    shape, attributes, clock = OVER_TIME_POOLS[case]
    nodes = [(kind, ["x"], ["y"], {**attributes, **options})]
    over_time(tmp_path, nodes, {}, shape, clock, opset=22)


@pytest.mark.parametrize("padding", [0, 1])
def test_zeros_put_in_front_of_a_stream_are_no_padding_for_pools(padding, tmp_path):
    window = {"kernel_shape": [3], "pads": [padding, 0]}
    nodes = [
        ("Abs", ["x"], ["s"], {}),
        ("Neg", ["s"], ["n"], {}),
        ("Pad", ["n", "front"], ["p"], {}),
        ("MaxPool", ["p"], ["a"], window),
        ("AveragePool", ["p"], ["b"], window),
        ("LpPool", ["p"], ["c"], window),
        ("Concat", ["a", "b", "c"], ["y"], {"axis": 1}),
    ]
    weights = {"front": np.array([0, 0, 2, 0, 0, 0])}
    # With padding before the zeros, those are made frames of their own, which come first.
    over_time(tmp_path, nodes, weights, (1, 4, None), (1, 1 if padding else 0))


def test_what_pools_cannot_say_is_refused(tmp_path):
    two = [("MaxPool", ["x"], ["y", "where"], {"kernel_shape": [2]})]
    refused(tmp_path, two, {}, (1, 3, 8), "second output")
    nodes = [("LpPool", ["x"], ["y"], {"kernel_shape": [2], "p": 99})]
    refused(tmp_path, nodes, {}, (1, 3, 8), "p=99 is not supported")
    nodes = [("MaxPool", ["x"], ["y"], {"kernel_shape": [9]})]
    refused(tmp_path, nodes, {}, (1, 3, 8), "a window of 9 is larger than an axis of 8")


# Resizing ---------------------------------------------------------------------------------------

TRANSFORMS = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("size", [(7, 15), (1, 4), (4, 5), (8, 20), (3, 9)])
def test_axes_are_resized(transform, mode, size, tmp_path):
    nearest = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
    for nearest_mode in nearest if mode == "nearest" else nearest[:1]:
        attributes = {"mode": mode, "coordinate_transformation_mode": transform}
        attributes["nearest_mode"] = nearest_mode
        path = graph(
            tmp_path / "m.onnx",
            [("Resize", ["x", "", "", "sizes"], ["y"], attributes)],
            {"sizes": np.array([1, 2, *size])},
            (1, 2, 4, 5),
            opset=19,
        )
        x = np.random.default_rng(4).standard_normal((1, 2, 4, 5)).astype(np.float32)
        (wanted,) = session(path).run(None, {"x": x})
        got = sr.load(path).stream().step(x[0])
        assert close(got.reshape(wanted.shape), wanted), nearest_mode


@pytest.mark.parametrize(("kind", "opset"), [("Upsample", 9), ("Resize", 10), ("Resize", 13)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2.0, 3.0), (1.0, 2.5), (1.0, 1.0)])
def test_axes_grow_by_scales(kind, opset, mode, scales, tmp_path):
    names = ["x", "scales"] if opset < 11 else ["x", "", "scales"]
    weights = {"scales": np.array([1, 1, *scales], np.float32)}
    path = graph(
        tmp_path / "m.onnx",
        [(kind, names, ["y"], {"mode": mode})],
        weights,
        (1, 2, 4, 5),
        opset=opset,
    )
    x = np.random.default_rng(4).standard_normal((1, 2, 4, 5)).astype(np.float32)
    (wanted,) = session(path).run(None, {"x": x})
    got = sr.load(path).stream().step(x[0])
    assert close(got.reshape(wanted.shape), wanted)


def test_features_are_resized_while_time_goes_on(tmp_path):
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Resize", ["c", "", "scales"], ["y"], attributes),
    ]
    weights = {"w": normal(2, 2, 3, 3), "scales": np.array([1, 1, 1, 2], np.float32)}
    over_time(tmp_path, nodes, weights, (1, 2, None, 5), (1, 1))


def test_what_cannot_be_resized_is_refused(tmp_path):
    weights = {"scales": np.array([1, 1, 2, 1], np.float32)}
    nodes = [("Resize", ["x", "", "scales"], ["y"], {"mode": "nearest"})]
    refused(tmp_path, nodes, weights, (1, 2, None, 5), "frames are made of")
    cubic = [("Resize", ["x", "", "scales"], ["y"], {"mode": "cubic"})]
    refused(tmp_path, cubic, weights, (1, 2, 4, 5), "mode='cubic'")
    old = {"scales": np.array([1, 1, 0.7, 1], np.float32)}
    nodes = [("Resize", ["x", "scales"], ["y"], {"mode": "nearest"})]
    refused(tmp_path, nodes, old, (1, 2, 4, 5), "does not say which is the nearest", opset=10)


@pytest.mark.parametrize("kind", ["DepthToSpace", "SpaceToDepth"])
def test_blocks_move_between_depth_and_space(kind, tmp_path):
    in_frame(tmp_path, kind, (1, 8, 4, 6), {}, blocksize=2)
    in_frame(tmp_path, "DepthToSpace", (2, 8, 4, 6), {}, blocksize=2, mode="CRD")
    nodes = [(kind, ["x"], ["y"], {"blocksize": 2})]
    refused(tmp_path, nodes, {}, (1, 8, None, 6), "across the time axis")


HUGE = 2**36
ABSURD = {
    "a transposed convolution": ("ConvTranspose", {"output_shape": [HUGE], "strides": [2]}),
    "gaps": ("ConvTranspose", {"dilations": [HUGE], "strides": [2]}),
    "padding": ("Conv", {"pads": [HUGE, HUGE]}),
    "gaps and padding": ("Conv", {"dilations": [HUGE], "pads": [HUGE, HUGE]}),
    "a pool": ("AveragePool", {"kernel_shape": [HUGE], "pads": [HUGE, 0]}),
    "padding of a pool": ("AveragePool", {"kernel_shape": [1], "pads": [HUGE, 0]}),
    "padding of a maximum": ("MaxPool", {"kernel_shape": [HUGE], "pads": [HUGE, 0]}),
    "a stride": ("LpPool", {"kernel_shape": [2], "strides": [HUGE], "pads": [HUGE, HUGE]}),
}


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 3, None)])
@pytest.mark.parametrize("case", ABSURD)
def test_absurd_sizes_are_refused(case, shape, tmp_path):
    kind, attributes = ABSURD[case]
    weights = {"w": normal(3, 3, 3)} if "Conv" in kind else {}
    nodes = [(kind, ["x", *weights], ["y"], attributes)]
    given = ["time" if d is None else d for d in shape]
    with pytest.raises(sr.FileError, match=r"m\.onnx: "):
        sr.load(graph(tmp_path / "m.onnx", nodes, weights, given))


# ONNX's own cases -------------------------------------------------------------------------------

FAMILY = ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool"]
FAMILY += ["GlobalMaxPool", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth"]
REASONS = {
    "test_resize_downsample_scales_cubic_align_corners": "no whole number",
    "test_resize_downsample_scales_linear_align_corners": "no whole number",
    "test_maxpool_2d_uint8": "UINT8",
    "argmax": "second output",
    "cubic": "mode='cubic'",
    "linear_antialias": "antialias=1",
    "test_convtranspose_3d": "over 3 axes",
}
"""Why a case is refused, by a part of its name."""


def cases_of_onnx():
    single = [c for c in node_cases() if len(c.model.graph.node) == 1]
    return [c for c in single if c.model.graph.node[0].op_type in FAMILY]


@pytest.mark.parametrize("case", cases_of_onnx(), ids=lambda c: c.name)
def test_the_cases_of_onnx_pass_or_are_refused(case, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(case.model, path)
    (inputs, (wanted, *_)), *_ = case.data_sets
    x, *others = (np.asarray(i) for i in inputs)
    names = [i.name for i in case.model.graph.input]
    constants = dict(zip(names[1:], others, strict=True))
    reason = next((r for part, r in REASONS.items() if part in case.name), None)
    if reason is not None:
        with pytest.raises(sr.FileError, match=reason):
            sr.load(path, constants=constants)
        return
    model = sr.load(path, constants=constants)
    frame = np.ascontiguousarray(x).reshape(model.graph().inputs[names[0]].shape)
    got = model.stream().step(frame).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


# Modules of torch -------------------------------------------------------------------------------


def block_of_tcn(torch):
    class Block(torch.nn.Module):
        """Pads both sides, chomps the end, adds what came in."""

        def __init__(self, dilation):
            super().__init__()
            self.chomp = 2 * dilation
            options = {"padding": self.chomp, "dilation": dilation}
            self.depthwise = torch.nn.Conv1d(6, 6, 3, groups=6, **options)
            self.norm = torch.nn.BatchNorm1d(6)
            self.pointwise = torch.nn.Conv1d(6, 6, 1)

        def forward(self, x):
            y = self.depthwise(x)[:, :, : -self.chomp]
            return x + self.pointwise(torch.relu(self.norm(y)))

    return torch.nn.Sequential(Block(1), Block(2), Block(4))


def encoder_and_decoder(torch):
    class Net(torch.nn.Module):
        """A CRN: convolutions over (time, frequency), a GRU, and back, with a skip connection."""

        def __init__(self):
            super().__init__()
            nn = torch.nn
            self.down = nn.Conv2d(2, 4, (2, 3), (1, 2), (1, 0))
            self.norm = nn.BatchNorm2d(4)
            self.deep = nn.Conv2d(4, 6, (1, 3), (1, 2))
            self.gru = nn.GRU(18, 18, batch_first=True)
            self.shallow = nn.ConvTranspose2d(6, 4, (1, 3), (1, 2))
            self.up = nn.ConvTranspose2d(8, 2, (2, 3), (1, 2), output_padding=(0, 1))

        def forward(self, x):
            a = torch.nn.functional.elu(self.norm(self.down(x)[:, :, :-1]))
            b = self.deep(a)
            c = b.permute(0, 2, 1, 3).flatten(2)
            c = self.gru(c)[0].reshape(1, -1, 6, 3).permute(0, 2, 1, 3)
            d = torch.cat([self.shallow(c), a], 1)
            return self.up(d)[:, :, :-1]

    return Net()


def subsampled(torch):
    nn = torch.nn
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(3, stride=2, padding=1),
        nn.Conv1d(8, 5, 5, padding=2),
        nn.AvgPool1d(2),
    )


MODULES = {
    "blocks of a TCN": (block_of_tcn, (1, 6, None), (1, 0)),
    "encoder and decoder": (encoder_and_decoder, (1, 2, None, 16), (1, 0)),
    "subsampled": (subsampled, (1, 3, None), (8, 15)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_torch_modules_stream_as_they_are_exported(name, tmp_path):
    torch = pytest.importorskip("torch", reason="makes the graph that is read")
    make, shape, clock = MODULES[name]
    torch.manual_seed(0)
    module = make(torch)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            torch.nn.init.normal_(norm.running_mean)
    path, axis = tmp_path / "m.onnx", shape.index(None)
    x = torch.randn([16 if d is None else d for d in shape])
    torch.onnx.export(
        module.eval(),
        (x,),
        path,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {axis: "time"}, "y": {axis: "time"}},
        opset_version=17,
        dynamo=False,
    )
    streams(path, shape, axis, clock)
