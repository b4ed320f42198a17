"""Operators with a state that comes in and goes out: CausalConvWithState and LinearAttention.

Against ONNX's own node tests, onnxruntime's operators of the same names, and recurrences in float64
that are written here from the operators' texts.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from test_import_bad import N, built, written

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from test_import_signal import close, node_test_arrays, node_tests, normal  # noqa: E402

FRAMES = 120
Array = np.ndarray


# The equations, in float64 ----------------------------------------------------------------------


def convolved(x: Array, w: Array, bias: Array, before: Array, dilation: int = 1) -> Array:
    """Return ``b[c] + sum over j of w[c, j] x[t - (k - 1 - j) d, c]`` of frames (T, C)."""
    k = w.shape[1]
    whole = np.concatenate([before, x]).astype(float)  # before: (d (k - 1), C)
    y = np.zeros(x.shape)
    for t in range(len(x)):
        for j in range(k):
            y[t] += w[:, j] * whole[t + j * dilation]
    return y + bias


def attended(
    rule: str, q: Array, k: Array, v: Array, g: Any, beta: Any, scale: float, s: Array
) -> tuple[Array, Array]:
    """Return outputs (T, Hq, V) and the last state of q (T, Hq, K), k (T, H, K), v (T, H, V)."""
    s, group = s.astype(float), q.shape[1] // k.shape[1]
    ys = np.zeros((len(q), q.shape[1], v.shape[2]))
    for t in range(len(q)):
        for h in range(k.shape[1]):
            key, new = k[t, h].astype(float), v[t, h].astype(float)
            if "gated" in rule:
                s[h] = np.diag(np.exp(np.broadcast_to(g[t, h], key.shape).astype(float))) @ s[h]
            if "delta" in rule:
                new = beta[t, h] * (new - s[h].T @ key)
            s[h] = s[h] + np.outer(key, new)
            for j in range(group):
                ys[t, h * group + j] = scale * (s[h].T @ q[t, h * group + j].astype(float))
    return ys, s


# As a stream ------------------------------------------------------------------------------------


def streams_as(model: sr.Model, frames: Any, wanted: Array, tolerance: float = 1e-5) -> Any:
    """Compare steps, unequal blocks, a reset in mid-stream and a snapshot with what is wanted."""
    one = not isinstance(frames, tuple)
    rows = (frames,) if one else frames
    shaped = [
        np.ascontiguousarray(x.reshape(len(x), *value.shape))
        for x, value in zip(rows, model.graph().inputs.values(), strict=True)
    ]
    part = lambda a, b: shaped[0][a:b] if one else tuple(x[a:b] for x in shaped)  # noqa: E731
    first = lambda y: y[0] if isinstance(y, tuple) else y  # noqa: E731
    stream = model.stream()
    stream.run(part(7, 30))
    stream.reset()
    steps = []
    for t in range(len(wanted)):
        if t == 50:
            kept = stream.snapshot()
        x = tuple(x[t] for x in shaped)
        steps.append(first(stream.step(x[0] if one else x)))
    got = np.array(steps)
    close(got, wanted, tolerance)
    stream.restore(kept)
    assert np.array_equal(first(stream.run(part(50, 73))), got[50:73])
    stream.reset()
    edges = (0, 1, 1, 34, 41, len(wanted))
    blocks = [first(stream.run(part(a, b))) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(blocks), got)
    return stream


def conv_model(
    frames: int | str, past: bool, k: int = 4, streams: int = 1, bias: int = 5, **attributes: Any
) -> Any:
    """Return a graph of one CausalConvWithState over 5 channels and what it holds."""
    arrays = {"w": normal(5, 1, k, seed=3), "b": normal(bias, seed=4)}
    inputs = {"x": (streams, 5, frames)}
    if past:
        inputs["past_conv"] = (streams, 5, attributes.get("dilation", 1) * (k - 1))
    domain = {"domain": "com.microsoft"} if "dilation" in attributes else {}
    node = N(
        "CausalConvWithState",
        ["x", "w", "b", "past_conv" if past else ""],
        ["y", "present_conv"],
        **attributes,
        **domain,
    )
    outputs = ["y", "present_conv"] if past else ["y"]
    return in_newest(built([node], inputs, outputs, arrays)), arrays


def in_newest(model: Any) -> Any:
    """Return the model in operator set 27, and with that of onnxruntime."""
    del model.opset_import[:]
    model.opset_import.add(domain="", version=27)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.ir_version = 13
    return model


@pytest.mark.parametrize("activation", ["none", "silu", "swish"])
@pytest.mark.parametrize("form", ["past in and out", "its own past", "a sequence"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_causal_convolutions_stream(activation, form, k, tmp_path):
    past = form == "past in and out" and k > 1
    frames = "time" if form == "a sequence" else 1
    model, arrays = conv_model(frames, past, k, streams=2, activation=activation)
    x = normal(FRAMES, 2, 5)
    wide = {n: np.concatenate([a, a]) for n, a in arrays.items()}
    zeros = np.zeros((k - 1, 10))
    wanted = convolved(x.reshape(FRAMES, 10), wide["w"][:, 0], wide["b"], zeros)
    if activation != "none":
        wanted = wanted / (1 + np.exp(-wanted))
    read = sr.load(written(model, tmp_path))
    stream = streams_as(read, x, wanted.reshape(FRAMES, 2, 5))
    assert sum(a.size for a in stream.state.values()) == 10 * (k - 1), "nothing else is kept"


@pytest.mark.parametrize("frames", [1, 6])
def test_a_call_with_a_past_is_as_in_onnxruntime(frames, tmp_path):
    """A dilated one in onnxruntime's form, its state fed back, one or six frames a call."""
    model, _ = conv_model(frames, past=True, k=3, dilation=2)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    stream = sr.load(written(model, tmp_path)).stream()
    past = np.zeros((1, 5, 4), np.float32)
    for x in normal(100, 1, 5, frames):
        y, past = session.run(None, {"x": x, "past_conv": past})
        close(stream.step(x.reshape(stream.program.inputs[0].shape)), y, 2e-6)
        close(stream.state["past_conv"], past, 2e-6)


def test_a_constant_past_is_where_the_stream_begins(tmp_path):
    """The state that goes out is there too, though none comes in."""
    model, arrays = conv_model(1, past=True)
    past = normal(1, 5, 3, seed=9)
    read = sr.load(written(model, tmp_path), constants={"past_conv": past}, states={})
    x = normal(FRAMES, 5)
    wanted = convolved(x, arrays["w"][:, 0], arrays["b"], past[0].T)
    streams_as(read, x, wanted)
    stream = read.stream()
    outputs = [stream.step(frame.reshape(5, 1)) for frame in x[:9]]
    whole = np.concatenate([past[0].T, x])
    for t, (_, present) in enumerate(outputs):
        assert np.array_equal(present.reshape(5, 3), whole[t + 1 : t + 4].T)


# Linear attention -------------------------------------------------------------------------------

SIZES = {
    "one head": (1, 1, 3, 5),
    "heads": (2, 2, 4, 3),
    "grouped": (6, 2, 4, 4),
    "one key head": (4, 1, 3, 2),
}


def attention(
    rule: str,
    size: str,
    frames: int | str,
    past: bool,
    wide: bool,
    domain: str = "",
    **attributes: Any,
) -> Any:
    """Return a graph of one LinearAttention; `wide` is a decay for every key, a beta for all."""
    Hq, H, K, V = SIZES[size]
    inputs = {"q": (1, frames, Hq * K), "k": (1, frames, H * K), "v": (1, frames, H * V)}
    names = ["q", "k", "v", ""]
    if past:
        inputs["past_kv"] = (1, H, K, V)
        names[3] = "past_kv"
    for name, part, width in (
        ("g", "gated", H * K if wide else H),
        ("beta", "delta", 1 if wide else H),
    ):
        names.append(name if part in rule else "")
        if part in rule:
            inputs[name] = (1, frames, width)
    node = N(
        "LinearAttention",
        names,
        ["y", "present_kv"],
        q_num_heads=Hq,
        kv_num_heads=H,
        update_rule=rule,
        domain=domain,
        **attributes,
    )
    return in_newest(built([node], inputs, ["y", "present_kv"] if past else ["y"]))


def rows(rule: str, size: str, wide: bool, T: int = FRAMES) -> dict[str, Array]:
    """Return inputs of T frames: short keys, decays below 0, betas in (0, 1)."""
    Hq, H, K, V = SIZES[size]
    k = normal(T, H, K, seed=1)
    made = {
        "q": normal(T, Hq, K),
        "k": k / np.linalg.norm(k, axis=2, keepdims=True),
        "v": normal(T, H, V, seed=2),
    }
    if "gated" in rule:
        made["g"] = -np.abs(normal(T, H, K if wide else 1, seed=3)) / 4
    if "delta" in rule:
        made["beta"] = 1 / (1 + np.exp(-normal(T, 1 if wide else H, seed=4)))
    return {name: x.astype(np.float32) for name, x in made.items()}


def wanted_of(rule: str, x: dict[str, Array], size: str, scale: float | None, state: Any = None):
    _, H, K, V = SIZES[size]
    beta = np.broadcast_to(x["beta"], (len(x["q"]), H)) if "beta" in x else None
    scale = 1 / math.sqrt(K) if scale is None else scale
    state = np.zeros((H, K, V)) if state is None else state
    return attended(rule, x["q"], x["k"], x["v"], x.get("g"), beta, scale, state)


RULES = ["linear", "gated", "delta", "gated_delta"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wide", [False, True])
def test_linear_attention_streams(rule, size, wide, tmp_path):
    """Its state comes in and goes out, is its own, or runs along a sequence."""
    x = rows(rule, size, wide)
    wanted, last = wanted_of(rule, x, size, None)
    for frames, past in ((1, True), (1, False), ("time", False)):
        read = sr.load(written(attention(rule, size, frames, past, wide), tmp_path))
        stream = streams_as(read, tuple(x.values()), wanted, 2e-5)
        (state,) = stream.state.values()
        close(state, last, 2e-5)


@pytest.mark.parametrize("rule", RULES)
def test_calls_of_several_frames_are_as_in_onnxruntime(rule, tmp_path):
    """Five frames a call, onnxruntime's operator beside it, the state fed back; another scale."""
    model = attention(rule, "grouped", 5, True, True, "com.microsoft", scale=0.3)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    stream = sr.load(written(model, tmp_path)).stream()
    past = np.zeros((1, 2, 4, 4), np.float32)
    x = {name: a.reshape(100, 1, 5, -1) for name, a in rows(rule, "grouped", True, 500).items()}
    for t in range(100):
        frame = {name: a[t] for name, a in x.items()}
        y, past = session.run(None, {**frame, "past_kv": past})
        shapes = [value.shape for value in stream.program.inputs]
        got = stream.step(tuple(a.reshape(s) for a, s in zip(frame.values(), shapes, strict=True)))
        close(got, y, 2e-5)
        close(stream.state["past_kv"], past, 2e-5)


def test_a_decay_that_never_changes_is_a_constant(tmp_path):
    """RetNet: every head forgets at a rate of its own."""
    model = attention("gated", "heads", "time", False, False)
    decay = np.float32([[[-0.1, -0.02]]])
    model.graph.input.remove(next(i for i in model.graph.input if i.name == "g"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(decay, "one"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1]), "axis"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1, 1, 1]), "size"))
    before = [
        N("Shape", ["q"], ["dims"], start=1, end=2),
        N("ConstantOfShape", ["axis"], ["zero"]),
        N("Concat", ["axis", "dims", "axis"], ["many"], axis=0),
        N("Expand", ["one", "many"], ["g"]),
    ]
    for i, node in enumerate(before):
        model.graph.node.insert(i, node)
    x = rows("gated", "heads", False)
    x["g"] = np.broadcast_to(decay[0, :, :, None], (FRAMES, 2, 1))
    wanted, _ = wanted_of("gated", x, "heads", None)
    read = sr.load(written(model, tmp_path))
    streams_as(read, (x["q"], x["k"], x["v"]), wanted, 2e-5)


def test_a_gated_delta_layer_as_in_qwen(tmp_path):
    """Convolution, normalised keys, gates and attention in one step graph with two states."""
    D, H, K = 12, 2, 3
    nodes = [
        N("Reshape", ["x", "column"], ["c"]),
        N(
            "CausalConvWithState",
            ["c", "conv", "", "past_conv"],
            ["d", "present_conv"],
            activation="silu",
        ),
        N("Reshape", ["d", "row"], ["e"]),
        N("MatMul", ["e", "Wq"], ["q"]),
        N("MatMul", ["e", "Wk"], ["k0"]),
        N("MatMul", ["e", "Wv"], ["v"]),
        N("Reshape", ["k0", "heads"], ["k1"]),
        N("Mul", ["k1", "k1"], ["k2"]),
        N("ReduceSum", ["k2", "last"], ["k3"], keepdims=1),
        N("Sqrt", ["k3"], ["k4"]),
        N("Div", ["k1", "k4"], ["k5"]),
        N("Reshape", ["k5", "flat"], ["k"]),
        N("MatMul", ["e", "Wb"], ["b0"]),
        N("Sigmoid", ["b0"], ["b"]),
        N("MatMul", ["e", "Wg"], ["g0"]),
        N("Softplus", ["g0"], ["g1"]),
        N("Neg", ["g1"], ["g"]),
        N(
            "LinearAttention",
            ["q", "k", "v", "past_kv", "g", "b"],
            ["y", "present_kv"],
            q_num_heads=H,
            kv_num_heads=H,
        ),
    ]
    arrays = {
        "column": np.array([1, D, 1]), "row": np.array([1, 1, D]), "last": np.array([-1]),
        "heads": np.array([1, 1, H, K]), "flat": np.array([1, 1, H * K]), "conv": normal(D, 1, 4),
        "Wq": normal(D, H * K, seed=1), "Wk": normal(D, H * K, seed=2),
        "Wv": normal(D, H * K, seed=3), "Wb": normal(D, H, seed=4), "Wg": normal(D, H, seed=5) / 4,
    }  # fmt: skip
    inputs = {"x": (1, 1, D), "past_conv": (1, D, 3), "past_kv": (1, H, K, K)}
    outputs = ["y", "present_conv", "present_kv"]
    model = in_newest(built(nodes, inputs, outputs, arrays))
    stream = sr.load(written(model, tmp_path)).stream()
    assert set(stream.state) == {"past_conv", "past_kv"}
    for node in model.graph.node:
        node.domain = "com.microsoft" if "State" in node.op_type or "Linear" in node.op_type else ""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    kept = {n: np.zeros(inputs[n], np.float32) for n in ("past_conv", "past_kv")}
    for x in normal(200, 1, 1, D):
        y, *states = session.run(None, {"x": x, **kept})
        kept = dict(zip(kept, states, strict=True))
        close(stream.step(x.reshape(D)), y, 1e-4)


# ONNX's own tests, and what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    "case", node_tests("CausalConvWithState", "LinearAttention"), ids=lambda c: c.name
)
def test_onnx_node_tests(case, tmp_path):
    """Every input is a frame of one call, the past too; in half precision they are refused."""
    given, wanted = node_test_arrays(case)
    path = written(case.model, tmp_path)
    if "fp16" in case.name:
        with pytest.raises(sr.FileError, match=r"is FLOAT16, frames and states are float32"):
            sr.load(path, states={})
        return
    weights = {name: given.pop(name) for name in ("weight", "bias") if name in given}
    if "kernel_size_one" in case.name:  # its present_state holds no numbers
        with pytest.raises(sr.FileError, match=r"'present_state' does not depend on any input"):
            sr.load(path, constants=weights)
        case.model.graph.output.pop()
        wanted.pop()
        path = written(case.model, tmp_path)
    stream = sr.load(path, constants=weights, states={}).stream()
    frames = tuple(
        x.reshape(value.shape)
        for x, value in zip(given.values(), stream.program.inputs, strict=True)
    )
    got = stream.step(frames if len(frames) > 1 else frames[0])
    for one, right in zip(got if isinstance(got, tuple) else (got,), wanted, strict=True):
        close(one, right, 3e-6)


def changed(model: Any, **attributes: Any) -> Any:
    """Return the model with other attributes of its node; None takes one away."""
    (node,) = model.graph.node
    for name, value in attributes.items():
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))
    return model


def shaped(model: Any, **shapes: Any) -> Any:
    """Return the model with other shapes of inputs."""
    for value in model.graph.input:
        if value.name in shapes:
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, 1, shapes[value.name]))
    return model


def gated_delta() -> Any:
    return attention("gated_delta", "heads", 1, True, False)


def without(model: Any, index: int) -> Any:
    model.graph.node[0].input[index] = ""
    return model


REFUSED = {
    "an activation": (lambda: conv_model(1, True, activation="relu")[0], r"activation='relu'"),
    "two dimensions": (
        lambda: conv_model(1, True, dilation=1, ndim=2)[0],
        r"attribute ndim=2 is not supported",
    ),
    "channels last": (
        lambda: conv_model(1, True, dilation=1, channels_last=1)[0],
        r"attribute channels_last=1 is not supported",
    ),
    "several states": (
        lambda: conv_model(1, True, dilation=1, state_window=2)[0],
        r"attribute state_window=2 is not supported",
    ),
    "an endless dilation": (
        lambda: conv_model(1, False, dilation=10**12)[0],
        r"a state of shape \(1, 5, 3000000000000\)",
    ),
    "no dilation": (lambda: conv_model(1, False, dilation=0)[0], r"with dilation=0"),
    "another past": (
        lambda: shaped(conv_model(1, True)[0], past_conv=(1, 5, 2)),
        r"past_state has shape \(1, 5, 2\), expected \(1, 5, 3\)",
    ),
    "another weight": (
        lambda: shaped(conv_model(1, True)[0], x=(1, 4, 1)),
        r"a weight of shape \(5, 1, 4\) for an input of shape \(1, 4, 1\)",
    ),
    "another bias": (
        lambda: conv_model(1, True, bias=1)[0],
        r"a bias of shape \(1,\), expected \(5,\)",
    ),
    "time along the channels": (
        lambda: shaped(conv_model(1, False)[0], x=(1, "time", 1)),
        r"a weight of shape|it works across the time axis",
    ),
    "a rule": (
        lambda: changed(gated_delta(), update_rule="oja"),
        r"attribute update_rule='oja' is not supported, only \['gated_delta'",
    ),
    "no heads": (
        lambda: changed(gated_delta(), q_num_heads=None),
        r"0 heads of queries for 2 of keys",
    ),
    "heads that do not fit": (
        lambda: changed(gated_delta(), q_num_heads=3),
        r"3 heads of queries for 2 of keys",
    ),
    "widths that do not fit": (
        lambda: changed(gated_delta(), q_num_heads=4),
        r"query, key and value of shapes",
    ),
    "no decay": (
        lambda: without(gated_delta(), 4),
        r"with update_rule='gated_delta' the input decay is not there",
    ),
    "no beta": (
        lambda: without(gated_delta(), 5),
        r"with update_rule='gated_delta' the input beta is not there",
    ),
    "a decay without meaning": (
        lambda: changed(gated_delta(), update_rule="delta"),
        r"with update_rule='delta' the input decay has no meaning",
    ),
    "a decay of another shape": (
        lambda: shaped(gated_delta(), g=(1, 1, 3)),
        r"decay of shape \(1, 1, 3\), expected \(1, 1, one of \(2, 8\)\)",
    ),
    "another state": (
        lambda: shaped(gated_delta(), past_kv=(1, 2, 3, 4)),
        r"past_state has shape \(1, 2, 3, 4\), expected \(1, 2, 4, 3\)",
    ),
    "several states of attention": (
        lambda: changed(gated_delta(), state_window=3),
        r"attribute state_window=3 is not supported",
    ),
    "a long call": (
        lambda: attention("linear", "one head", 600, True, False),
        r"600 frames in one call, of which at most 512 can be spelled out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(case, tmp_path):
    make, reason = REFUSED[case]
    with pytest.raises(sr.FileError, match=reason):
        sr.load(written(make(), tmp_path))
