"""ONNX files that are damaged, foreign or hostile: each is refused in words, at once.

Beside every group of bad graphs stand right ones, held against onnxruntime with the states fed
back, so that nothing is refused for the wrong reason. Most graphs here are a node or two between
``v = x + s`` and ``sN = v / 2``, where s is a state.
"""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import FileError

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F = TensorProto.FLOAT
N = helper.make_node
Nodes = list[Any]
Arrays = dict[str, Any]
TOO_MANY = 10**12


def weight(*shape: int) -> np.ndarray:
    """Return fixed numbers in ±0.5."""
    return np.random.default_rng(len(shape)).uniform(-0.5, 0.5, shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def built(
    nodes: Nodes,
    inputs: dict[str, Any],
    outputs: list[str],
    arrays: Arrays | None = None,
    opset: int = 17,
) -> Any:
    """Return a ModelProto; an input is a shape, or a shape and its type."""
    typed = {n: s if isinstance(s, tuple) and isinstance(s[0], list) else (list(s), F)
             for n, s in inputs.items()}  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, t, s) for n, (s, t) in typed.items()],
        [helper.make_tensor_value_info(n, F, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (arrays or {}).items()],
    )
    # IR 8 is what every onnxruntime since 1.10 reads
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def around(nodes: Nodes, shape: tuple[int, ...], arrays: Arrays, opset: int = 17) -> Any:
    """Return a graph with a state in which `nodes` make y of v."""
    before, after = N("Add", ["x", "s"], ["v"]), N("Mul", ["v", "half"], ["sN"])
    arrays = {"half": floats(0.5), **arrays}
    return built([before, *nodes, after], {"x": shape, "s": shape}, ["y", "sN"], arrays, opset)


def written(model: Any, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def assert_equals_onnxruntime(path: Path, **options: Any) -> None:
    """Fail unless five frames give what onnxruntime gives with the states fed back."""
    silent = ort.SessionOptions()
    silent.log_severity_level = 3
    session = ort.InferenceSession(str(path), silent, providers=["CPUExecutionProvider"])
    shapes = {i.name: i.shape for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    stream = sr.load(path, **options).stream()
    kept = {n: np.zeros(s, np.float32) for n, s in shapes.items() if n != "x"}
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.uniform(0.1, 1, shapes["x"]).astype(np.float32)
        results = dict(zip(names, session.run(None, {"x": x, **kept}), strict=True))
        got = stream.step(x.reshape(stream.program.inputs[0].shape))
        wanted = results["y"]
        assert np.size(got) == wanted.size
        np.testing.assert_allclose(np.ravel(got), wanted.ravel(), rtol=1e-5, atol=1e-5)
        kept = {n: results[n + "N"] for n in kept}


def assert_refused(path: Path, *said: str, **options: Any) -> str:
    """Fail unless loading says what is wrong, soon, and without taking memory for it."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with pytest.raises(FileError) as caught:
            sr.load(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert type(caught.value) is FileError
    assert time.perf_counter() - begin < 10
    assert peak < 50 << 20, f"took {peak >> 20} MiB"
    for part in (path.name, *said):
        assert part in message, message
    return message


# Right ones ---------------------------------------------------------------------------------------


def gates(kind: str, number: int, activations: list[str] | None = None, **attributes: Any) -> Any:
    """Return a recurrent step x (1, 1, 3) -> h (1, 1, 4)."""
    states = {"h": (1, 1, 4)} | ({"c": (1, 1, 4)} if kind == "LSTM" else {})
    if activations:
        attributes["activations"] = activations
    new = [f"{s}N" for s in states]
    return built(
        [
            N(kind, ["x", "W", "R", "B", "", *states], ["Y", *new], name="cell", hidden_size=4,
              **attributes),
            N("Squeeze", ["Y", "axes"], ["y"]),
        ],
        {"x": (1, 1, 3), **states},
        ["y", *new],
        {"W": weight(1, number * 4, 3), "R": weight(1, number * 4, 4), "B": weight(1, 8 * number),
         "axes": ints(0)},
    )  # fmt: skip


def conv(channels: int = 4, width: int = 3, **attributes: Any) -> Any:
    w = weight(6, channels // attributes.get("group", 1), width)
    nodes = [N("Conv", ["v", "w", "b"], ["y"], name="conv", **attributes)]
    return around(nodes, (1, channels, 9), {"w": w, "b": weight(6)})


def one(
    kind: str, shape: tuple[int, ...], *args: Any, opset: int = 17, n: int = 1, **attributes: Any
) -> Any:
    """Return a graph of one node; an argument is v, the name "", or an array."""
    arrays = {f"a{i}": a for i, a in enumerate(args) if not isinstance(a, str)}
    names = [a if isinstance(a, str) else f"a{i}" for i, a in enumerate(args)]
    outputs = ["y", *(f"unused{i}" for i in range(n - 1))]
    return around([N(kind, names, outputs, name="it", **attributes)], shape, arrays, opset)


def split_uneven() -> Any:
    nodes = [N("Split", ["v", "sizes"], ["a", "y"], axis=-1)]
    return around(nodes, (1, 5), {"sizes": ints(2, 3)})


def chosen_branch(condition: bool = True, depth: int = 1) -> Any:
    inner = [N("Neg", ["v"], ["r0"])]
    for i in range(depth):
        bodies = [
            helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, F, None)])
            for name, nodes, result in (
                ("yes", inner, f"r{i}"),
                ("no", [N("Identity", ["v"], [f"n{i}"])], f"n{i}"),
            )
        ]
        inner = [N("If", ["c"], [f"r{i + 1}"], then_branch=bodies[0], else_branch=bodies[1])]
    return around([*inner, N("Abs", [f"r{depth}"], ["y"])], (1, 4), {"c": np.array(condition)})


I4 = (1, 4)
RIGHT: dict[str, Any] = {
    "slice backwards": one("Slice", (1, 7), "v", ints(-1), ints(-(2**63)), ints(1), ints(-2)),
    "slice by steps": one("Slice", (2, 7), "v", ints(0, 1), ints(2, 2**62), ints(0, 1), ints(1, 3)),
    "slice in attributes": one("Slice", (1, 7), "v", opset=9, starts=[2], ends=[-1], axes=[-1]),
    "split uneven": split_uneven(),
    "split in attributes": one("Split", (1, 5), "v", opset=11, n=2, axis=1, split=[4, 1]),
    "squeeze 11": one("Squeeze", (1, 4, 1), "v", opset=11, axes=[-1]),
    "squeeze 13": one("Squeeze", (1, 4, 1), "v", ints(0, 2), opset=13),
    "squeeze all": one("Squeeze", (1, 4, 1), "v", opset=13),
    "unsqueeze 11": one("Unsqueeze", (1, 4), "v", opset=11, axes=[0, 3]),
    "unsqueeze 13": one("Unsqueeze", (1, 4), "v", ints(-1), opset=13),
    "softmax 12": one("Softmax", (2, 4), "v", opset=12, axis=-1),
    "softmax 13": one("Softmax", (2, 4), "v", opset=13, axis=0),
    "clip below": one("Clip", I4, "v", np.float32(0.3)),
    "clip above": one("Clip", I4, "v", "", np.float32(0.6)),
    "clip 9": one("Clip", I4, "v", opset=9, max=0.6),
    "pad reflect": one("Pad", (1, 4), "v", ints(0, 2, 0, 1), mode="reflect"),
    "pad zeros": one("Pad", (1, 4), "v", ints(0, 0, 0, 3)),
    "gather negative": one("Gather", (1, 4), "v", ints(-1, 0, -2), axis=1),
    "gather one": one("Gather", (3, 4), "v", np.int64(-1), axis=0),
    "mean over two axes": one("ReduceMean", (2, 3, 4), "v", axes=[0, -1], keepdims=0),
    "mean 18": one("ReduceMean", (2, 3, 4), "v", ints(1), opset=18),
    "sum over all": one("ReduceSum", (2, 3), "v", keepdims=0),
    "gemm": one("Gemm", (1, 3), "v", weight(5, 3), weight(5), alpha=0.5, beta=2.0, transB=1),
    "gemm of rows": one("Gemm", (2, 3), "v", weight(3, 5), weight(1, 5)),
    "gemm without bias": one("Gemm", (1, 3), "v", weight(3, 5)),
    "matmul": one("MatMul", (1, 2, 3), "v", weight(3, 5)),
    "batch norm": one("BatchNormalization", (1, 3, 5), "v", weight(3), weight(3), weight(3),
                      weight(3) ** 2, epsilon=1e-3),
    "layer norm": one("LayerNormalization", (1, 3, 5), "v", weight(5), weight(5), epsilon=1e-3),
    "constant by value": one("Div", I4, weight(4), "v"),
    "number by value": one("Div", I4, np.float32(2), "v"),
    "value by number": one("Div", I4, "v", floats(3.0)),
    "value by constant": one("Div", I4, "v", weight(4) + 1),
    "one number by constant": one("Div", (1, 1), "v", weight(4) + 1),
    "one number by number": one("Div", (1, 1), "v", np.float32(3)),
    "minus constant": one("Sub", I4, "v", weight(4)),
    "constant minus": one("Sub", I4, weight(3, 4), "v"),
    "number minus": one("Sub", I4, np.float32(1), "v"),
    "square": one("Pow", I4, "v", floats(2)),
    "root": one("Pow", I4, "v", floats(0.5)),
    "reshape": one("Reshape", (1, 2, 6), "v", ints(0, -1, 4)),
    "prelu": one("PRelu", (1, 3, 4), "v", weight(3, 1)),
    "expand": one("Expand", (1, 4), "v", ints(3, 1)),
    "concat": one("Concat", (1, 4), "v", weight(1, 2), "v", axis=-1),
    "conv": conv(),
    "conv asymmetric": conv(pads=[2, 0]),
    "conv same": conv(auto_pad="SAME_UPPER"),
    "conv 2-D": one("Conv", (1, 3, 5, 5), "v", weight(4, 3, 3, 3)),
    "conv dilated in groups": conv(pads=[1, 1], dilations=[2], group=2, strides=[2]),
    "conv in padding only": conv(width=1, pads=[5, 5], strides=[30]),
    "gru 0": gates("GRU", 3),
    "gru 1": gates("GRU", 3, linear_before_reset=1),
    "rnn": gates("RNN", 1),
    "rnn relu": gates("RNN", 1, ["Relu"]),
    "lstm": gates("LSTM", 4),
    "then": chosen_branch(),
    "else": chosen_branch(False),
    "if in if": chosen_branch(True, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_graph_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    assert_equals_onnxruntime(written(RIGHT[name], tmp_path))


# Files that are none ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not a model\n", bytes(range(256)), random.Random(1).randbytes(5000)]
)
def test_what_is_no_protobuf_is_refused(data: bytes, tmp_path: Path) -> None:
    assert_refused(written(data, tmp_path))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    data = RIGHT["lstm"].SerializeToString()
    assert_equals_onnxruntime(written(data, tmp_path))
    for part in range(20):
        assert_refused(written(data[: len(data) * part // 20], tmp_path))


def test_paths_and_options_that_are_wrong_are_refused(tmp_path: Path) -> None:
    path = written(RIGHT["lstm"], tmp_path)
    assert_refused(tmp_path / "none.onnx", "cannot read")
    (tmp_path / "folder.onnx").mkdir()
    assert_refused(tmp_path / "folder.onnx", "cannot read")
    other = path.rename(tmp_path / "m.pb")
    assert_refused(other, ".safetensors")
    path = written(RIGHT["lstm"], tmp_path)
    assert_refused(path, "unknown option", "shape", shape={})
    assert_refused(path, "'z'", shapes={"z": (1,)})
    assert_refused(path, "'z'", constants={"z": 1})
    for bad in (3, "x", {"x": "a"}, {"x": (1, 1, "c")}, {"x": (1, 1, TOO_MANY)},
                {"x": (1, 3)}, {"x": (1, 2, 3)}, {"x": (1, 1, 0)}):  # fmt: skip
        assert_refused(path, shapes=bad)
    for bad in (3, "x", {"h": "z"}, {"z": "hN"}, {"h": "hN", "c": "hN"}, {"h": []}):
        assert_refused(path, states=bad)
    assert_equals_onnxruntime(path, states={"h": "hN", "c": "cN"})


# Tensors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["../../etc/passwd", "missing.bin", "/etc/passwd"])
@pytest.mark.parametrize("where", ["initializer", "attribute", "branch"])
def test_numbers_in_another_file_are_refused_without_a_look(
    location: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chosen_branch(True)
    outside = TensorProto(name="half", data_type=F, dims=[1])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=location)
    if where == "initializer":
        model.graph.initializer[0].CopyFrom(outside)
    elif where == "attribute":
        model.graph.node.insert(0, N("ConstantOfShape", ["c"], ["z"], value=outside))
    else:  # the one that is not taken
        branch = next(a.g for a in model.graph.node[1].attribute if a.name == "else_branch")
        branch.node.insert(0, N("Constant", [], ["z"], value=outside))
    path = written(model, tmp_path)
    monkeypatch.setattr("onnx.external_data_helper.load_external_data_for_tensor", None)
    why = "is missing" if location == "missing.bin" else "outside the model's folder"
    assert_refused(path, "another file", "half" if where == "initializer" else "value", why)


@pytest.mark.parametrize("dims", [[TOO_MANY], [10**6, 10**6], [-1], [2**62, 4], [3], [0], [1, 2]])
@pytest.mark.parametrize("raw", [True, False])
def test_a_tensor_that_is_not_as_it_says_is_refused(
    dims: list[int], raw: bool, tmp_path: Path
) -> None:
    model = one("Relu", I4, "v")
    tensor = model.graph.initializer[0]
    if not raw:
        tensor.float_data.extend([0.5])
        tensor.ClearField("raw_data")
    tensor.dims[:] = dims
    assert_refused(written(model, tmp_path), "half")


@pytest.mark.parametrize("data", [b"", b"abc", b"abcdefgh"])
def test_raw_data_of_a_wrong_length_is_refused(data: bytes, tmp_path: Path) -> None:
    model = one("Relu", I4, "v")
    model.graph.initializer[0].raw_data = data
    assert_refused(written(model, tmp_path), "half")


def doubled(times: int) -> Nodes:
    names = ["big", *(f"d{i}" for i in range(times)), "z"]
    return [N("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]


HUGE: dict[str, tuple[Nodes, Arrays]] = {
    "ConstantOfShape": ([N("ConstantOfShape", ["n"], ["z"])], {"n": ints(10**6, 10**6)}),
    "Expand": ([N("Expand", ["half", "n"], ["z"])], {"n": ints(10**6, 10**6)}),
    "Tile": ([N("Tile", ["half", "n"], ["z"])], {"n": ints(TOO_MANY)}),
    "Range": ([N("Range", ["n", "m", "k"], ["z"])],
              {"n": np.int64(0), "m": np.int64(TOO_MANY), "k": np.int64(1)}),
    "Add": ([N("Add", ["n", "m"], ["z"])], {"n": np.zeros((1, 10**5)), "m": np.zeros((10**5, 1))}),
    "MatMul": ([N("MatMul", ["m", "n"], ["z"])],
               {"n": np.zeros((1, 10**5), "f"), "m": np.zeros((10**5, 1), "f")}),
    "Gather": ([N("Gather", ["m", "n"], ["z"])],
               {"n": np.zeros(10**5, np.int64), "m": np.zeros((1, 10**5), "f")}),
    "Concat": (doubled(40), {"big": np.zeros(10**5, "f")}),
    "Pad": ([N("Pad", ["half", "n"], ["z"])], {"n": ints(0, TOO_MANY)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGE)
def test_much_out_of_little_is_refused(kind: str, tmp_path: Path) -> None:
    nodes, arrays = HUGE[kind]
    model = around([*nodes, N("Add", ["v", "z"], ["y"])], (1, 1), arrays)
    path = written(model, tmp_path)
    with pytest.raises(FileError, match=rf"m\.onnx: node \d+ \({kind}\)"):
        sr.load(path)


@pytest.mark.parametrize(
    ("nodes", "arrays"),
    [
        ([N("Expand", ["v", "n"], ["y"], name="it")], {"n": ints(10**6, 10**6)}),
        ([N("Pad", ["v", "n"], ["y"], name="it")], {"n": ints(0, 0, 0, TOO_MANY)}),
        ([N("Reshape", ["v", "n"], ["y"], name="it")], {"n": ints(TOO_MANY)}),
        ([N("Unsqueeze", ["v", "n"], ["y"], name="it")], {"n": ints(*range(2, 80))}),
    ],
)
def test_frames_that_would_be_huge_are_refused(
    nodes: Nodes, arrays: Arrays, tmp_path: Path
) -> None:
    path = written(around(nodes, I4, arrays), tmp_path)
    assert_refused(path, f"node it ({nodes[0].op_type})")


# Graphs -------------------------------------------------------------------------------------------


def lstm(number: int = 4, T: int = 1, **changed: Any) -> Any:
    """Return the LSTM step with inputs or weights of the node replaced."""
    model = gates("LSTM", number)
    node = model.graph.node[0]
    for i, (name, array) in changed.pop("arrays", {}).items():
        node.input.extend([""] * (i + 1 - len(node.input)))
        node.input[i] = name
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, value in changed.items():
        node.attribute.append(helper.make_attribute(name, value))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = T
    return model


def foreign_domain() -> Any:
    model = one("Relu", I4, "v")
    model.graph.node[1].domain = "com.microsoft"
    return model


def dynamic_condition() -> Any:
    model = chosen_branch()
    model.graph.node[1].input[0] = "v"
    return model


def over_frames(kind: str) -> Any:
    body = helper.make_graph(
        [N("Neg", ["e"], ["r"])],
        "body",
        [helper.make_tensor_value_info("e", F, [4])],
        [helper.make_tensor_value_info("r", F, [4])],
    )
    more = {"num_scan_inputs": 1} if kind == "Scan" else {}
    inputs = ["v"] if kind == "Scan" else ["n", "", "v"]
    return around([N(kind, inputs, ["y"], name="it", body=body, **more)], I4, {"n": np.int64(3)})


def bidirectional() -> Any:
    model = lstm(direction="bidirectional")
    for i in range(3):
        array = numpy_helper.to_array(model.graph.initializer[i])
        model.graph.initializer[i].CopyFrom(
            numpy_helper.from_array(np.concatenate([array, array]), "WRB"[i])
        )
    return model


CELL, IT = "node cell (", "node it ("
ONCE_REFUSED = {
    "matmul of values": one("MatMul", (4, 4), "v", "v"),
    "gemm bias of rows": one("Gemm", (3, 3), "v", weight(3, 3), weight(3, 1)),
    "pad in front": one("Pad", (2, 4), "v", ints(1, 0, 0, 0)),
    "pad with one": one("Pad", I4, "v", ints(0, 0, 0, 1), np.float32(1)),
    "cube": one("Pow", I4, "v", floats(3)),
    "softmax 12 over two": one("Softmax", (1, 2, 4), "v", opset=12),
    "scan": over_frames("Scan"),
    "divided by 0": one("Div", I4, "v", floats(0)),
    "infinite": one("Mul", I4, "v", floats(np.inf)),
}


@pytest.mark.parametrize("name", ONCE_REFUSED)
def test_what_is_accepted_is_right(name: str, tmp_path: Path) -> None:
    assert_equals_onnxruntime(written(ONCE_REFUSED[name], tmp_path))


BAD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "unknown op": (one("Sinusoid", I4, "v"), (IT + "Sinusoid",)),
    "known op, constant": (one("ImageDecoder", I4, "half"), (IT + "ImageDecoder",)),
    "unknown attribute": (one("Relu", I4, "v", slope=0.5), (IT + "Relu", "slope")),
    "attribute of another type": (one("Softmax", (2, 4), "v", axis="a"), (IT + "Softmax",)),
    "tensor as alpha": (one("Elu", I4, "v", alpha=numpy_helper.from_array(weight(3))), (IT,)),
    "another domain": (foreign_domain(), (IT + "Relu", "com.microsoft")),
    "no inputs": (one("Relu", I4), (IT + "Relu",)),
    "too many inputs": (one("Relu", I4, "v", "v"), (IT + "Relu",)),
    "left out": (one("Add", I4, "v", ""), (IT + "Add",)),
    "dynamic condition": (dynamic_condition(), ("(If)", "condition")),
    "loop": (over_frames("Loop"), (IT + "Loop",)),
    "lstm both ways": (bidirectional(), (CELL + "LSTM", "(1, 1, 4), expected (2, 1, 4)")),
    "lstm direction": (lstm(direction="sideways"), (CELL + "LSTM", "direction='sideways'")),
    "lstm clip": (lstm(clip=-1.0), (CELL + "LSTM", "clip=-1.0")),
    "lstm peepholes": (lstm(arrays={7: ("P", weight(1, 11))}), (CELL + "LSTM", "P has shape")),
    "lstm activations": (lstm(activations=["Relu", "Tanh"]), (CELL, "expected 3 for each")),
    "rnn without alpha": (gates("RNN", 1, ["ScaledTanh"]), (CELL + "RNN", "runtimes differ")),
    "gru activation": (gates("GRU", 3, ["Cube", "Tanh"]), (CELL + "GRU", "'cube'")),
    "gru layout": (gates("GRU", 3, layout=2), (CELL + "GRU", "layout")),
    "lstm of two": (lstm(arrays={1: ("W2", weight(2, 16, 3))}), (CELL + "LSTM", "W")),
    "lstm R": (lstm(arrays={2: ("R2", np.zeros((1, 0, 10**9), "f"))}), (CELL + "LSTM",)),
    "lstm B": (lstm(arrays={3: ("B2", weight(1, 40))}), (CELL + "LSTM", "B")),
    "lstm lengths": (lstm(arrays={4: ("l", np.array([0], np.int32))}), (CELL, "sequence_lens")),
    "matmul of ranks": (one("MatMul", (2, 3), "v", weight(4, 5)), (IT + "MatMul",)),
    "conv 3-D": (one("Conv", (1, 3, 5, 5, 5), "v", weight(4, 3, 3, 3, 3)), (IT + "Conv", "3 axes")),
    "conv auto_pad": (conv(auto_pad="SOME"), ("node conv (Conv)", "auto_pad")),
    "conv pads": (conv(pads=[1, 1, 1]), ("node conv (Conv)",)),
    "conv negative": (conv(pads=[-1, 0]), ("node conv (Conv)",)),
    "conv wide": (conv(pads=[TOO_MANY, TOO_MANY]), ("node conv (Conv)",)),
    "conv dilation": (conv(dilations=[0]), ("node conv (Conv)",)),
    "numbers as indices": (one("Gather", I4, "v", floats(1.5)), (IT + "Gather", "integers")),
    "pad too little": (one("Pad", (2, 4), "v", ints(1)), (IT + "Pad",)),
    "dynamic reshape": (one("Reshape", I4, "v", "v"), (IT + "Reshape", "constant")),
    "reshape": (one("Reshape", I4, "v", ints(3)), (IT + "Reshape",)),
    "reshape twice open": (one("Reshape", I4, "v", ints(-1, -1)), (IT + "Reshape",)),
    "reshape of no axis": (one("Reshape", I4, "v", ints(4, 1, 0)), (IT + "Reshape",)),
    "dynamic gather": (one("Gather", I4, weight(3, 3), "v"), (IT + "Gather",)),
    "gather outside": (one("Gather", I4, "v", ints(4), axis=1), (IT + "Gather",)),
    "slice step 0": (one("Slice", I4, "v", ints(0), ints(4), ints(1), ints(0)), (IT + "Slice",)),
    "slice of nothing": (one("Slice", I4, "v", ints(3), ints(3), ints(1)), (IT + "Slice",)),
    "split": (one("Split", I4, "v", ints(2, 3), axis=1, n=2), (IT + "Split",)),
    "split without outputs": (around([N("Split", ["v"], [], name="it")], I4, {}), (IT + "Split",)),
    "unsqueeze": (one("Unsqueeze", I4, "v", ints(7)), (IT + "Unsqueeze",)),
    "unsqueeze twice": (one("Unsqueeze", I4, "v", ints(0, 0)), (IT + "Unsqueeze",)),
    "nan weight": (one("MatMul", I4, "v", np.full((4, 2), np.nan, "f")), (IT + "MatMul",)),
    "shapes apart": (one("Add", I4, "v", weight(3)), (IT + "Add",)),
    "dropout in training": (one("Dropout", I4, "v", np.float32(0.5), np.array(True)), (IT,)),
    "constants apart": (one("Add", I4, weight(3), weight(4)), (IT + "Add",)),
    "made twice": (
        around([N("Relu", ["v"], ["y"]), N("Neg", ["v"], ["y"], name="it")], I4, {}),
        (IT + "Neg", "'y'"),
    ),
    "dangling edge": (one("Add", I4, "v", "nobody"), (IT + "Add", "nobody")),
    "cycle": (
        around([N("Add", ["v", "z"], ["y"], name="it"), N("Neg", ["y"], ["z"])], I4, {}),
        (IT + "Add", "'z'"),
    ),
    "output of nobody": (around([N("Neg", ["v"], ["z"])], I4, {}), ("'y'",)),
    "constant output": (around([N("Neg", ["half"], ["y"])], I4, {}), ("'y'",)),
    "opset 8": (one("Relu", I4, "v", opset=8), ("operator set 8",)),
    "opset 99": (one("Relu", I4, "v", opset=99), ("operator set 99",)),
    "if in if": (chosen_branch(True, 20), ("nested",)),
    "if of nothing": (one("If", I4, np.zeros(0, bool)), (IT + "If",)),
    "if without branches": (one("If", I4, np.array(True)), (IT + "If",)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_graph_that_is_not_supported_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model, said = BAD[name]
    assert_refused(written(model, tmp_path), *said)


def test_a_hundred_ifs_inside_each_other_are_refused(tmp_path: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        length, size = b"", len(data)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    graph = field(1, N("Neg", ["x"], ["y"]).SerializeToString())
    output = field(12, helper.make_tensor_value_info("y", F, [4]).SerializeToString())
    for _ in range(100):
        branch = field(1, b"then_branch") + field(6, graph + output) + b"\xa0\x01\x05"
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, branch))
    model = field(7, graph + output) + field(8, b"\x10\x11")
    assert_refused(written(model, tmp_path))


# Inputs and states --------------------------------------------------------------------------------


def test_inputs_that_are_no_float32_are_refused(tmp_path: Path) -> None:
    nodes = [N("Add", ["x", "x"], ["y"])]
    for kind in ("DOUBLE", "FLOAT16", "BFLOAT16", "INT64", "STRING", "UNDEFINED"):
        number = getattr(TensorProto, kind)
        model = built(nodes, {"x": ([1, 4], number)}, ["y"])
        assert_refused(written(model, tmp_path), "(Add)" if kind == "INT64" else f"'x' is {kind}")
    nodes = [N("Gather", ["x", "i"], ["y"], axis=1)]
    model = built(nodes, {"x": I4, "i": ([1], TensorProto.INT64)}, ["y"])
    path = written(model, tmp_path)
    assert_refused(path, "(Gather)", "constant")
    assert_refused(path, "Gather", constants={"i": ints(9)})
    assert_refused(path, "Gather", constants={"i": "text"})
    step = sr.load(path, constants={"i": ints(2)}).stream().step
    assert step(floats(0, 1, 2, 3)) == 2


def test_open_and_huge_input_shapes_are_refused(tmp_path: Path) -> None:
    nodes = [N("Relu", ["x"], ["y"])]
    for shape in (["t", "u"], [1, None], [1, 0], [1, -4]):
        model = built(nodes, {"x": (shape, F)}, ["y"])
        path = written(model, tmp_path)
        assert_refused(path, "'x'", "shapes=")
        assert sr.load(path, shapes={"x": (1, 4)}).stream().step(floats(1, 2, 3, -4)).sum() == 6
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path = written(model, tmp_path)
    assert_refused(path, "'x'", "shapes=")
    assert sr.load(path, shapes={"x": (1, 4)}).stream().step(floats(1, 2, 3, -4)).sum() == 6
    model.graph.input[0].ClearField("type")
    assert_refused(written(model, tmp_path), "'x'")
    for huge in ([TOO_MANY], [10**6, 10**6], [2**62, 2**62]):
        assert_refused(written(built(nodes, {"x": (huge, F)}, ["y"]), tmp_path), "'x'")


def two_states(*names: str) -> Any:
    a, b, c, d = names
    nodes = [
        N("Add", ["x", a], ["e"]),
        N("Add", ["e", b], ["y"]),
        N("Neg", ["e"], [c]),
        N("Abs", [b], [d]),
    ]
    return built(nodes, {"x": I4, a: I4, b: I4}, ["y", c, d])


def test_states_that_cannot_be_told_apart_have_to_be_said(tmp_path: Path) -> None:
    model = two_states("p", "q", "first", "second")
    for output in model.graph.output:
        output.type.CopyFrom(helper.make_tensor_type_proto(F, I4))
    path = written(model, tmp_path)
    assert_refused(path, "p, q", "first, second", "states={")
    assert_refused(path, "two inputs", states={"p": "first", "q": "first"})
    assert_refused(path, states={"p": "e", "q": "first"})
    loaded = sr.load(path, states={"p": "first", "q": "second"})
    assert sorted(loaded.stream().state) == ["p", "q"]
    sr.load(written(two_states("p", "q", "pN", "qN"), tmp_path))


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    nodes = [N("Add", ["x", "s"], ["y"]), N("Concat", ["y", "y"], ["sN"], axis=1)]
    path = written(built(nodes, {"x": I4, "s": I4}, ["y", "sN"]), tmp_path)
    assert_refused(path, "'sN'", "(1, 4)")
    assert_refused(path, "'sN'", states={"s": "sN"})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"states": 3}', '{"states": [3]}', '{"states": [{"input": "h_in"}]}',
     '{"states": [{"input": [], "output": [], "initial": 0}]}', "[" * 100_000,
     '{"states": [{"input": "h", "output": "hN", "initial": [1, [2]]}]}',
     '{"states": [{"input": "h", "output": "hN", "initial": [1, 2]}]}',
     '{"states": [{"input": "h", "output": "hN", "initial": [NaN, 0, 0, 0]}]}',
     '{"states": [{"input": "h", "output": "nobody", "initial": null}]}'],
)  # fmt: skip
def test_our_own_metadata_that_is_damaged_is_refused(text: str, tmp_path: Path) -> None:
    model = gates("GRU", 3)
    model.metadata_props.add(key="streamrnn", value=text)
    assert_refused(written(model, tmp_path))
