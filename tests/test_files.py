"""Files: what is damaged, foreign or hostile is refused in words and takes no memory."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import streamrnn as s
from checks import assert_same, parts
from streamrnn import FileError, Input, Model, Sequential, StreamrnnError, concat
from zoo import random_frames, trained

Header = dict[str, Any]
Tensors = dict[str, np.ndarray]


def _model() -> Model:
    x = Input(5)
    cell = s.GRUCell(5, 4, name="cell")
    y = cell(x)
    z = s.LayerNorm(4, name="norm")(s.Linear(4, 4, name="lin")(y[:4]))
    model = Model({"x": x}, {"y": concat(s.LeakyReLU(0.1, name="act")(z), y)}, {"rate_hz": "16000"})
    trained(model)
    cell.initial_state = {"h": np.array([0.1, -0.2, 0.3, -0.4])}
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    _model().save(path)
    return path.read_bytes()


def _apart(data: bytes) -> tuple[Header, Tensors]:
    """Return our header and the tensors of a file."""
    outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(outer["__metadata__"]["streamrnn"]), load_tensors(data)


def _together(header: Any, tensors: Tensors) -> bytes:
    return save_tensors(tensors, {"streamrnn": json.dumps(header)})


def _op(header: Header, name: str) -> dict[str, Any]:
    return next(op for op in header["ops"] if op["name"] == name)


@pytest.fixture
def load_bytes(tmp_path: Path) -> Callable[[bytes], Model]:
    def load(data: bytes) -> Model:
        path = tmp_path / "given.safetensors"
        path.write_bytes(data)
        return s.load(path)

    return load


# Good files ---------------------------------------------------------------------------------------


def test_a_file_keeps_names_notes_and_the_initial_state(
    good: bytes, load_bytes: Callable[[bytes], Model]
) -> None:
    model, loaded = _model(), load_bytes(good)
    assert loaded.metadata == {"rate_hz": "16000"}
    assert list(loaded.graph().inputs) == ["x"]
    assert list(loaded.graph().outputs) == ["y"]
    assert [n.name for n in loaded.graph().nodes] == [n.name for n in model.graph().nodes]
    xs = random_frames(model, 20)
    assert_same(loaded.stream().run(xs), model.stream().run(xs), "loaded")
    h = np.array([0.1, -0.2, 0.3, -0.4], np.float32)
    assert_same(loaded.stream().state["cell.h"], h, "initial state")


def test_a_loaded_model_can_be_part_of_another(
    good: bytes, load_bytes: Callable[[bytes], Model]
) -> None:
    loaded = load_bytes(good)
    whole = Sequential(s.Linear(3, 5, seed=0), loaded)
    assert whole.stream().step(np.ones(3, np.float32)).shape == (8,)
    loaded.load_state_dict({n: 0 * w for n, w in loaded.state_dict().items()})
    assert not loaded.stream().step(np.ones(5, np.float32))[:4].any()


def test_settings_from_numpy_are_kept(tmp_path: Path) -> None:
    """Sizes and slopes are often computed with NumPy; a file takes them, and gives them back."""
    path = tmp_path / "m.safetensors"
    model = Sequential(
        Input((2, 9)),
        s.Slice(np.int64(1), np.int64(9), axis=np.int64(1)),
        s.LeakyReLU(np.float32(0.25)),
        s.Mean(axis=np.int64(0)),
        s.Pad(np.int64(1), np.int64(0)),
        s.Linear(np.int64(9), np.int32(3), seed=0),
    )
    model.save(path)
    loaded = s.load(path)
    xs = random_frames(model, 20)
    assert_same(loaded.stream().run(xs), model.stream().run(xs), "loaded")
    assert loaded.program().fingerprint == model.program().fingerprint


def test_a_single_number_is_kept_as_one(tmp_path: Path) -> None:
    x, one = Input(3), s.Constant(())
    one.weights = {"value": np.float32(0.5)}
    model = Model(x, x * one(x))
    model.save(tmp_path / "m.safetensors")
    got = s.load(tmp_path / "m.safetensors").step(np.ones(3, np.float32))
    assert got.tolist() == [0.5, 0.5, 0.5]


def test_odd_names_survive(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    x = Input(3)
    y = s.GRUCell(3, 3, name="ä ß/ñ", seed=0)(s.GRUCell(3, 3, name="x.h", seed=1)(x))
    model = Model({"in put": x}, {"out.put": y})
    model.save(path)
    xs = random_frames(model, 9)
    assert_same(s.load(path).stream().run(xs), model.stream().run(xs), "loaded")
    assert list(s.load(path).stream().state) == ["x.h.h", "ä ß/ñ.h"]


def test_a_cell_named_like_the_input_is_saved_and_loaded_or_refused_at_once(tmp_path: Path) -> None:
    try:
        cell = s.GRUCell(3, 3, name="x", seed=0)
        cell.save(tmp_path / "m.safetensors")
    except StreamrnnError:
        return
    s.load(tmp_path / "m.safetensors")


# Saving that fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "model.onnx", "model.safetensors.gz", "safetensors"])
def test_another_suffix_is_refused_by_save_and_load(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"must end in \.safetensors"):
        _model().save(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileError, match=r"safetensors|not an ONNX file"):
        s.load(tmp_path / name)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bytes
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(good)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(FileError, match=r"cannot write .*No space left on device"):
            s.GRUCell(2, 2).save(path)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileError, match="cannot write"):
        s.GRUCell(2, 2).save(tmp_path / "nowhere" / "m.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(FileError, match="cannot write"):
        s.GRUCell(2, 2).save(tmp_path / "folder.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.safetensors", "m.safetensors"]


def test_notes_that_no_file_can_keep_are_refused(tmp_path: Path) -> None:
    notes: Any = {"when": object()}

    def saved() -> None:
        x = Input(3)
        Model(x, s.Tanh()(x), metadata=notes).save(tmp_path / "m.safetensors")

    with pytest.raises(StreamrnnError, match="metadata"):
        saved()
    notes = ["when"]
    with pytest.raises(StreamrnnError, match="metadata"):
        saved()
    assert list(tmp_path.iterdir()) == []


# Bad files ----------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*nobody\.safetensors: No such file"):
        s.load(tmp_path / "nobody.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(FileError, match="cannot read"):
        s.load(str(tmp_path / "folder.safetensors"))


def test_a_file_cut_short_anywhere_is_refused(
    good: bytes, load_bytes: Callable[[bytes], Model]
) -> None:
    for k in range(20):
        with pytest.raises(FileError, match="not a safetensors file, or a damaged one"):
            load_bytes(good[: len(good) * k // 20])
    with pytest.raises(FileError, match="damaged"):
        load_bytes(good[:-1])
    with pytest.raises(FileError, match="damaged"):
        load_bytes(good + b"\0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff" * 100,
        b"PK\x03\x04" + b"\0" * 60,
        b"\x08\x00\x00\x00\x00\x00\x00\x00not json",
        b"\x02\x00\x00\x00\x00\x00\x00\x00[]",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (2**40).to_bytes(8, "little") + b"{}",
    ],
    ids=["empty", "zeros", "ones", "zip", "no json", "a list", "deep", "a huge header"],
)
def test_what_is_no_safetensors_file_is_refused(
    data: bytes, load_bytes: Callable[[bytes], Model]
) -> None:
    with pytest.raises(FileError, match=r"not a safetensors file|no model of streamrnn"):
        load_bytes(data)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["none", "torch's"])
def test_tensors_of_others_are_refused_with_the_way_out(
    metadata: dict[str, str] | None, load_bytes: Callable[[bytes], Model]
) -> None:
    with pytest.raises(FileError, match=r"no model of streamrnn; build .* `model\.load_weights"):
        load_bytes(save_tensors({"weight": np.zeros(3, np.float32)}, metadata))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', "{}", "[" * 100_000, '{"version": 1}']
)
def test_a_header_that_is_none_is_refused(text: str, load_bytes: Callable[[bytes], Model]) -> None:
    with pytest.raises(FileError):
        load_bytes(save_tensors({"weight": np.zeros(3, np.float32)}, {"streamrnn": text}))


def _drop(key: str) -> Callable[[Header, Tensors], Any]:
    return lambda header, tensors: header.pop(key)


_CHANGES: dict[str, tuple[Callable[[Header, Tensors], Any], str]] = {
    "a newer version": (lambda h, t: h.update(version=99), "format 99, .* update streamrnn"),
    "a version in words": (lambda h, t: h.update(version="1"), "format '1'"),
    "version 0": (lambda h, t: h.update(version=0), "format 0"),
    "no version": (_drop("version"), "version"),
    "no inputs": (_drop("inputs"), "inputs"),
    "no outputs": (_drop("outputs"), "outputs"),
    "no ops": (_drop("ops"), "ops"),
    "empty outputs": (lambda h, t: h.update(outputs={}), "at least one input and one output"),
    "an unknown key": (lambda h, t: h.update(quantised=True), "unknown key 'quantised'"),
    "an unknown key of an input": (
        lambda h, t: h["inputs"]["x"].update(scale=2),
        "input 'x' has the unknown key 'scale'",
    ),
    "an unknown key of an op": (
        lambda h, t: _op(h, "cell").update(clip=1.0),
        "op 'cell' has the unknown key 'clip'",
    ),
    "an unknown op": (
        lambda h, t: _op(h, "cell").update(op="MambaCell"),
        "op 'cell' is of the unknown kind 'MambaCell'",
    ),
    "an op that is a base class": (lambda h, t: _op(h, "cell").update(op="Cell"), "unknown kind"),
    "an op that is private": (lambda h, t: _op(h, "act").update(op="_Clip"), "unknown kind"),
    "an op that is no name": (lambda h, t: _op(h, "cell").update(op=["GRUCell"]), "."),
    "an unknown argument": (
        lambda h, t: _op(h, "cell")["config"].update(linear_before_reset=1),
        r"op 'cell' \(GRUCell\) has the unknown key 'linear_before_reset'",
    ),
    "an argument that is for code": (
        lambda h, t: _op(h, "cell")["config"].update(seed=3),
        "unknown key 'seed'",
    ),
    "a missing argument": (lambda h, t: _op(h, "cell")["config"].pop("input_size"), "input_size"),
    "a size in words": (
        lambda h, t: _op(h, "cell")["config"].update(input_size="5"),
        "`input_size` must be an integer",
    ),
    "a size of half": (lambda h, t: _op(h, "cell")["config"].update(hidden_size=4.5), "integer"),
    "a size below zero": (lambda h, t: _op(h, "cell")["config"].update(hidden_size=-4), "integer"),
    "a switch in words": (lambda h, t: _op(h, "cell")["config"].update(bias="no"), "bias"),
    "a slope in words": (
        lambda h, t: _op(h, "act")["config"].update(negative_slope="steep"),
        "negative_slope",
    ),
    "a slope without end": (
        lambda h, t: _op(h, "act")["config"].update(negative_slope=float("inf")),
        "negative_slope",
    ),
    "a shape of fractions": (lambda h, t: h["inputs"]["x"].update(shape=[5.5]), "shape"),
    "a shape without end": (lambda h, t: h["inputs"]["x"].update(shape=[float("inf")]), "."),
    "another shape": (lambda h, t: h["inputs"]["x"].update(shape=[6]), "expects frames of shape"),
    "another dtype": (lambda h, t: h["inputs"]["x"].update(dtype="float64"), "dtype"),
    "indices for a cell": (lambda h, t: h["inputs"]["x"].update(dtype="int64"), "float32 values"),
    "a config that is a list": (lambda h, t: _op(h, "cell").update(config=[5, 4]), "."),
    "ops that are a dict": (lambda h, t: h.update(ops={"a": 1}), "."),
    "an op that is a number": (lambda h, t: h["ops"].append(7), "."),
    "an op without a name": (lambda h, t: _op(h, "cell").pop("name"), "name"),
    "a name that is a list": (lambda h, t: _op(h, "cell").update(name=["cell"]), "."),
    "a name that is a number": (lambda h, t: _op(h, "act").update(name=3), "."),
    "a read of nobody": (
        lambda h, t: _op(h, "lin").update(reads=["nobody"]),
        "'lin' reads 'nobody', which comes later or does not exist",
    ),
    "a read of itself": (lambda h, t: _op(h, "lin").update(reads=["lin"]), "'lin' reads 'lin'"),
    "a read of a later op": (lambda h, t: _op(h, "cell").update(reads=["lin"]), "reads 'lin'"),
    "no reads": (lambda h, t: _op(h, "lin").update(reads=[]), "needs a value to read"),
    "too many reads": (lambda h, t: _op(h, "lin").update(reads=["x", "x"]), "expects frames"),
    "an output of nobody": (lambda h, t: h["outputs"].update(y="nobody"), "'y' reads 'nobody'"),
    "an op twice": (lambda h, t: h["ops"].append(h["ops"][0]), "named"),
    "an op that nobody reads": (
        lambda h, t: h["ops"].append(
            {"name": "idle", "op": "Tanh", "config": {}, "reads": ["cell"]}
        ),
        "idle",
    ),
    "an op named as the input": (lambda h, t: _op(h, "act").update(name="x"), "'x'"),
    "an input that nobody reads": (
        lambda h, t: h["inputs"].update(z={"shape": [3], "dtype": "float32"}),
        "input 'z' .* is used by no output",
    ),
    "notes that are a list": (lambda h, t: h.update(metadata=[1, 2]), "."),
    "a tensor missing": (
        lambda h, t: t.pop("cell.bias_hh"),
        r"\bcell\b.*bias_hh \(12,\)",
    ),
    "a tensor more": (
        lambda h, t: t.update(extra=np.zeros(1, np.float32)),
        "tensors that no op uses: extra",
    ),
    "a tensor misshapen": (
        lambda h, t: t.update({"lin.weight": np.zeros((4, 5), np.float32)}),
        r"\blin\b.*weight: expected shape \(4, 4\), got \(4, 5\)",
    ),
    "a tensor of integers": (
        lambda h, t: t.update({"lin.bias": np.zeros(4, np.int32)}),
        r"\blin\b.*bias: expected floating-point numbers, got int32",
    ),
    "a tensor with a NaN": (
        lambda h, t: t["lin.bias"].__setitem__(2, np.nan),
        r"\blin\b.*bias: holds a NaN or an infinity",
    ),
    "a tensor too large for float32": (
        lambda h, t: t.update({"lin.bias": np.full(4, 1e300)}),
        r"\blin\b.*bias: holds a number beyond the range of float32",
    ),
    "an initial state misshapen": (
        lambda h, t: t.update({"cell.h": np.zeros(5, np.float32)}),
        r"\bcell\b.*\(4,\)",
    ),
    "an initial state with a NaN": (
        lambda h, t: t.update({"cell.h": np.full(4, np.nan, np.float32)}),
        r"\bcell\b.*(NaN|finite)",
    ),
    "an initial state of integers": (
        lambda h, t: t.update({"cell.h": np.ones(4, np.int64)}),
        r"\bcell\b.*(floating|float32)",
    ),
    "an initial state of another name": (
        lambda h, t: t.update({"cell.c": np.zeros(4, np.float32)}),
        r"tensors that no op uses: cell\.c",
    ),
}


@pytest.mark.parametrize("what", _CHANGES)
def test_a_file_that_contradicts_itself_is_refused(
    what: str, good: bytes, load_bytes: Callable[[bytes], Model]
) -> None:
    change, message = _CHANGES[what]
    header, tensors = _apart(good)
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(header, tensors)
    with pytest.raises(FileError, match=rf"given\.safetensors: .*{message}"):
        load_bytes(_together(header, tensors))


HUGE = 10**12

_HUGE_OPS: dict[str, tuple[list[int], str, dict[str, Any]]] = {
    "an input": ([HUGE], "Tanh", {}),
    "an input that is flattened": ([HUGE, 1], "Flatten", {}),
    "an input that is cut": ([HUGE], "Slice", {"start": 0, "stop": 3, "axis": 0}),
    "an input that is turned": ([HUGE, 1], "Transpose", {"axes": [1, 0]}),
    "an input of two axes": ([10**6, 10**6], "Mean", {"axis": 0, "keepdims": False}),
    "a context": ([5], "Context", {"past": HUGE}),
    "a padding": ([5], "Pad", {"before": HUGE, "after": 0, "mode": "constant"}),
    "a replicating padding": ([5], "Pad", {"before": 0, "after": HUGE, "mode": "replicate"}),
    "an expansion": ([1], "Expand", {"shape": [HUGE]}),
    "a reshape": ([1], "Reshape", {"shape": [HUGE]}),
    "a linear layer": ([5], "Linear", {"in_features": 5, "out_features": HUGE}),
    "a cell": ([5], "LSTMCell", {"input_size": 5, "hidden_size": HUGE}),
    "a dilation": (
        [1],
        "Conv1d",
        {"in_channels": 1, "out_channels": 1, "kernel_size": 2, "dilation": HUGE},
    ),
    "a kernel": ([1], "Conv1d", {"in_channels": 1, "out_channels": 1, "kernel_size": HUGE}),
    "a stride": (
        [1],
        "Conv1d",
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "stride": HUGE},
    ),
    "a padding in the frame": (
        [1, 5],
        "FrameConv1d",
        {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "padding": HUGE},
    ),
    "a padding of planes": (
        [1, 5, 5],
        "FrameConv2d",
        {"in_channels": 1, "out_channels": 1, "kernel_size": [1, 1], "padding": [HUGE, 0]},
    ),
    "a kernel of planes": (
        [1, 5, 5],
        "FrameConv2d",
        {"in_channels": 1, "out_channels": 1, "kernel_size": [HUGE, HUGE], "padding": [5, 5]},
    ),
    "a window": ([5], "Recent", {"taps": HUGE}),
    "a window with gaps": ([5], "Recent", {"taps": 2, "dilation": HUGE}),
    "a table": ([], "Embedding", {"num_embeddings": HUGE, "embedding_dim": 3}),
    "vectors in a table": ([], "Embedding", {"num_embeddings": 3, "embedding_dim": HUGE}),
    "a norm": ([5], "LayerNorm", {"normalized_shape": [HUGE], "elementwise_affine": False}),
    "a large norm": (
        [HUGE],
        "LayerNorm",
        {"normalized_shape": [HUGE], "elementwise_affine": False},
    ),
}


@pytest.mark.parametrize("what", _HUGE_OPS)
def test_a_file_cannot_ask_for_a_terabyte(what: str, load_bytes: Callable[[bytes], Model]) -> None:
    shape, kind, config = _HUGE_OPS[what]
    header = {
        "version": 1,
        "inputs": {"x": {"shape": shape, "dtype": "int64" if kind == "Embedding" else "float32"}},
        "ops": [{"name": "op", "op": kind, "config": config, "reads": ["x"]}],
        "outputs": {"y": "op"},
        "metadata": {},
    }
    tensors = {"op.weight": np.zeros((1, 1, 1), np.float32)} if "Conv1d" in kind else {}
    if "bias" in (getattr(s, kind)(**config).parameter_shapes() if what == "a stride" else {}):
        tensors["op.bias"] = np.zeros(1, np.float32)
    tracemalloc.start()
    try:
        with contextlib.suppress(StreamrnnError):
            load_bytes(_together(header, tensors)).stream()
        assert tracemalloc.get_traced_memory()[1] < 100e6, "memory was taken before it was checked"
    finally:
        tracemalloc.stop()


# Mutations ----------------------------------------------------------------------------------------


def _is_refused_or_whole(data: bytes, path: Path) -> None:
    """Load: either an error of ours, or a model that runs."""
    path.write_bytes(data)
    try:
        model = s.load(path)
    except FileError:
        return
    try:
        stream = model.stream("propagate")
    except StreamrnnError:  # e.g. a state larger than the limit
        return
    xs = random_frames(model, 5)
    assert all(y.dtype == np.float32 for y in parts(stream.run(xs)))
    model.save(path)
    again = s.load(path).stream("propagate")
    assert_same(again.run(xs), model.stream("propagate").run(xs), "saved and loaded again")


@settings(max_examples=150)
@given(data=st.data())
def test_no_mutated_bytes_escape(
    data: st.DataObject, good: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(good)
    header = 8 + int.from_bytes(good[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from([header, len(raw)]))
        position = data.draw(st.integers(0, min(where, len(raw)) - 1))
        kind = data.draw(st.sampled_from(["byte", "json", "cut", "insert", "delete"]))
        if kind == "byte":
            raw[position] = data.draw(st.integers(0, 255))
        elif kind == "json":
            raw[position] = data.draw(st.sampled_from(list(b'0123456789{}[]",:-.eE')))
        elif kind == "cut":
            raw = raw[: max(position, 1)]
        elif kind == "insert":
            raw[position:position] = data.draw(st.binary(min_size=1, max_size=3))
        elif len(raw) > 3:
            del raw[position]
    _is_refused_or_whole(bytes(raw), tmp_path_factory.getbasetemp() / "fuzz.safetensors")


_VALUES = [
    *(None, True, False, -1, 0, 1, 2, 3, 4, 5, 12, HUGE, 10**18, 10**30, -(10**30), 0.5, 1e300),
    *(float("inf"), float("-inf"), float("nan"), "", "x", "cell", "h", "Tanh", "Cell", "Op"),
    *([], [1], [5], [0], [[1]], [1, 0], [HUGE], [float("nan")], ["x"], {}, {"a": 1}, {"x": "cell"}),
]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything inside a JSON value."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    if isinstance(value, list):
        items = enumerate(value)
    return [p for k, v in items for p in ((*path, k), *_paths(v, (*path, k)))]


def _wide_model() -> Model:
    """One of each kind of argument."""
    x = Input((2, 8))
    y = s.Pad(1, 1, "replicate", name="pad")(s.Slice(1, 7, axis=1, name="cut")(x))
    y = s.Transpose((1, 0), name="turn")(s.Softmax(1, name="soft")(s.GELU("tanh", name="gelu")(y)))
    y = s.Mean(axis=1, keepdims=True, name="mean")(s.Hardtanh(-1.0, 2.0, name="clip")(y))
    y = s.Reshape((8,), name="shape")(s.Scale(2.0, 0.5, name="scale")(y))
    y = s.Conv1d(8, 4, 2, stride=2, dilation=2, groups=2, name="conv")(y)
    y = s.Expand((2, 4), name="expand")(s.BatchNorm1d(4, eps=1e-3, name="norm")(y))
    y = s.FrameConv1d(2, 3, 2, stride=2, padding=1, name="frame")(s.ELU(0.5, name="elu")(y))
    y = s.Hardsigmoid(0.2, 0.5, name="hard")(s.PReLU(3, name="prelu")(y))
    y = s.RNNCell(9, 3, False, "relu", name="rnn")(s.Context(3, name="past")(s.Flatten()(y))[3:])
    return Model(x, y)


def _mutated(header: Header, path: tuple[Any, ...], value: Any) -> Header:
    """Return the header with what is at `path` replaced, or deleted (`value` is ``_DELETE``)."""
    copy = json.loads(json.dumps(header))
    parent: Any = copy
    for key in path[:-1]:
        parent = parent[key]
    if value is _DELETE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copy


_DELETE = object()


@pytest.mark.parametrize("build", [_model, _wide_model])
def test_no_single_change_of_the_header_escapes(build: Callable[[], Model], tmp_path: Path) -> None:
    """Everything in the header, replaced by everything."""
    path, escaped = tmp_path / "fuzz.safetensors", []
    trained(build()).save(path)
    header, tensors = _apart(path.read_bytes())
    for where in _paths(header):
        for value in (*_VALUES, _DELETE):
            try:
                _is_refused_or_whole(_together(_mutated(header, where, value), tensors), path)
            except Exception as error:  # collected, to show all of them at once
                escaped.append(f"{where} = {value!r}: {type(error).__name__}: {str(error)[:80]}")
    assert not escaped, f"{len(escaped)} escaped:\n" + "\n".join(escaped[:40])


def test_no_op_with_arguments_of_another_escapes(good: bytes, tmp_path: Path) -> None:
    """Every op of the library under every config in the file."""
    header, tensors = _apart(good)
    path, escaped = tmp_path / "fuzz.safetensors", []
    for i in range(len(header["ops"])):
        for kind in [*s.ops.REGISTRY, "Op", "Cell", "Stack", "GRU", "Layer", "Model"]:
            for config in ({}, header["ops"][i]["config"]):
                changed = _mutated(
                    _mutated(header, ("ops", i, "op"), kind), ("ops", i, "config"), config
                )
                try:
                    _is_refused_or_whole(_together(changed, tensors), path)
                except Exception as error:
                    escaped.append(f"{kind}({config}): {type(error).__name__}: {str(error)[:80]}")
    assert not escaped, f"{len(escaped)} escaped:\n" + "\n".join(escaped[:40])


@settings(max_examples=100)
@given(data=st.data())
def test_no_few_changes_of_the_header_escape(
    data: st.DataObject, good: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    header, tensors = _apart(good)
    for _ in range(data.draw(st.integers(2, 4))):
        paths = _paths(header)
        if paths:
            value = data.draw(st.sampled_from([*_VALUES, _DELETE]))
            header = _mutated(header, data.draw(st.sampled_from(paths)), value)
    _is_refused_or_whole(
        _together(header, tensors), tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    )
