"""Keras files against what Keras computed (``golden/keras``), and Keras 2 against its equations."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, run_in_pieces, run_in_steps
from streamrnn import FileError, WeightError, from_keras

h5py = pytest.importorskip("h5py", reason="h5py is not installed: Keras files cannot be read")

HERE = Path(__file__).parent / "golden" / "keras"
CASES = sorted(path.stem for path in HERE.glob("*.keras"))


def _data(case: str) -> tuple[Any, list[np.ndarray]]:
    """Return inputs as `run` takes them, and the outputs of Keras."""
    with np.load(HERE / "outputs.npz") as file:
        xs = [file[n][0] for n in sorted(file) if n.startswith(f"{case}/x")]
        ys = [file[n] for n in sorted(file) if n.startswith(f"{case}/y")]
    return (tuple(xs) if len(xs) > 1 else xs[0]), ys


def test_each_case_has_its_numbers() -> None:
    with np.load(HERE / "outputs.npz") as file:
        assert sorted({name.split("/")[0] for name in file}) == CASES
    assert sum(path.stat().st_size for path in HERE.iterdir()) < 120_000


# What Keras 3 computed ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_keras_archive_computes_what_keras_did(case: str) -> None:
    model = s.load(HERE / f"{case}.keras")
    xs, ys = _data(case)
    got = model.stream().run(xs)
    for ours, theirs in zip(got if isinstance(got, tuple) else (got,), ys, strict=True):
        assert_close(ours, theirs, 1e-5, case)


@pytest.mark.parametrize("case", ["lstm_variant", "gru_variant", "conv", "functional"])
def test_step_by_step_is_the_same_and_so_is_the_saved_model(case: str, tmp_path: Path) -> None:
    model = s.load(HERE / f"{case}.keras")
    xs, _ = _data(case)
    whole = model.stream().run(xs)
    assert_same(run_in_steps(model.stream(), xs), whole, "step by step")
    assert_same(run_in_pieces(model.stream(), xs, [1, 0, 17, 6]), whole, "in pieces")
    model.save(tmp_path / "again.safetensors")
    again = s.load(tmp_path / "again.safetensors")
    assert_same(again.stream().run(xs), whole, "from its own file")


def test_a_valid_convolution_begins_when_its_window_is_full() -> None:
    model = s.load(HERE / "conv_valid.keras")
    assert model.delay_frames == 4
    assert [model.step(x) is None for x in _data("conv_valid")[0][:6]] == [True] * 4 + [False] * 2


def test_inputs_outputs_and_states_have_keras_names() -> None:
    graph = s.load(HERE / "functional.keras").graph()
    assert list(graph.inputs) == ["ids", "x"]
    assert list(graph.outputs) == ["a", "b"]
    assert graph.inputs["ids"].dtype == "int64"
    assert {"gru.h", "b.h", "b.c"} == set(graph.states())


@pytest.mark.parametrize("name", ["lstm.h5", "lstm.weights.h5"])
def test_hdf5_files_are_the_same_model(name: str) -> None:
    options = {"model": (HERE / "lstm.json").read_text()} if "weights" in name else {}
    xs, ys = _data("lstm")
    same = s.load(HERE / "lstm.keras").stream().run(xs)
    assert_same(s.load(HERE / name, **options).stream().run(xs), same, name)
    with (HERE / name).open("rb") as file:
        assert_close(from_keras(file, **options).stream().run(xs), ys[0], 1e-5)


def test_the_configuration_may_be_a_mapping() -> None:
    config = json.loads((HERE / "lstm.json").read_text())
    xs, ys = _data("lstm")
    model = from_keras(HERE / "lstm.weights.h5", config)
    assert_close(model.stream().run(xs), ys[0], 1e-5)


def test_weights_of_another_configuration_are_refused(tmp_path: Path) -> None:
    config = json.loads((HERE / "lstm.json").read_text())
    config["config"]["layers"].pop()
    with pytest.raises(WeightError, match="has weights of dense, which the model has not; its lay"):
        from_keras(HERE / "lstm.weights.h5", config)
    config["config"]["layers"][1]["class_name"] = "GRU"
    with pytest.raises(WeightError, match="has weights of dense, lstm, which the model has not"):
        from_keras(HERE / "lstm.weights.h5", config)
    path = _hdf5(tmp_path / "m.h5", [_spec("Dense", units=2)], {"layer": [np.ones((3, 2))] * 2})
    other = {"class_name": "Sequential", "config": [_spec("ReLU", "other")]}
    with pytest.raises(WeightError, match="has weights of layer, which the model has not"):
        from_keras(path, other)


def test_weights_go_into_layers_of_ours_that_have_the_groups_names() -> None:
    model = s.Sequential(s.LSTM(3, 4, name="lstm"), s.Linear(4, 3, name="dense"), s.Softmax())
    assert from_keras(HERE / "lstm.weights.h5", model) is model
    xs, ys = _data("lstm")
    assert_close(model.stream().run(xs), ys[0], 1e-5)
    assert from_keras(HERE / "lstm.h5", model) is model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            s.Sequential(s.LSTM(3, 4, name="a"), s.Linear(4, 3, name="dense")),
            "no group for a; no la",
        ),
        (s.Sequential(s.LSTM(3, 4, name="lstm"), s.ReLU()), "no layer for dense"),
        (
            s.Sequential(s.LSTM(3, 5, name="lstm"), s.Linear(5, 3, name="dense")),
            r"layer 'lstm': expected arrays of shapes \(3, 20\), \(5, 20\), \(20,\), got \(3, 16\)",
        ),
        (
            s.Sequential(s.GRU(3, 4, name="lstm"), s.Linear(4, 3, name="dense")),
            r"expected arrays of shapes \(3, 12\).* got \(3, 16\)",
        ),
        (
            s.Sequential(s.LSTM(3, 4, name="lstm"), s.Affine(4, name="dense")),
            "Keras has no layer like Affine",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(model: Any, message: str) -> None:
    before = model.state_dict()
    with pytest.raises(WeightError, match=message):
        from_keras(HERE / "lstm.weights.h5", model)
    assert all(np.array_equal(a, before[n]) for n, a in model.state_dict().items())


# Keras 2: its layout written by hand, its equations from its documentation ------------------------

RNG = np.random.default_rng(7)


def _hdf5(
    path: Path, layers: list[dict[str, Any]], arrays: dict[str, list[np.ndarray]], **options: Any
) -> Path:
    """Write a Sequential model in the layout of Keras 2."""
    version = options.get("version", "2.3.1")
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = np.bytes_(version)
        file.attrs["backend"] = np.bytes_("tensorflow")
        config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
        file.attrs["model_config"] = np.bytes_(json.dumps(options.get("config", config)))
        group = file.create_group("model_weights")
        group.attrs["keras_version"] = np.bytes_(version)
        group.attrs["layer_names"] = [np.bytes_(layer["config"]["name"]) for layer in layers]
        for layer in layers:
            name = layer["config"]["name"]
            own = group.create_group(name)
            names = [f"{name}/w{i}:0" for i in range(len(arrays.get(name, ())))]
            own.attrs["weight_names"] = [np.bytes_(n) for n in names]
            for n, array in zip(names, arrays.get(name, ()), strict=True):
                own.create_dataset(n, data=array)
    return path


def _spec(kind: str, name: str = "layer", **config: Any) -> dict[str, Any]:
    return {
        "class_name": kind,
        "config": {
            "name": name,
            "trainable": True,
            "batch_input_shape": [None, None, 3],
            "dtype": "float32",
            "kernel_initializer": {"class_name": "VarianceScaling", "config": {}},
            **config,
        },
    }


def _cell_arrays(gates: int, H: int = 4, bias: tuple[int, ...] | None = None) -> list[np.ndarray]:
    shapes = [(3, gates * H), (H, gates * H), bias or (gates * H,)]
    return [RNG.normal(0, 0.8, shape).astype(np.float32) for shape in shapes]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _hard(x: np.ndarray) -> np.ndarray:
    """Keras 2's hard_sigmoid: 0 below -2.5, 1 above 2.5, 0.2 x + 0.5 between."""
    return np.clip(0.2 * x + 0.5, 0, 1)


FRAMES = RNG.normal(0, 1.5, (30, 3)).astype(np.float32)


def _lstm(arrays: list[np.ndarray], gate: Callable[..., Any]) -> np.ndarray:
    """Gates i, f, c, o."""
    W, U, b = (a.astype(np.float64) for a in arrays)
    h = c = np.zeros(len(U))
    out = []
    for x in FRAMES:
        i, f, g, o = np.split(x @ W + h @ U + b, 4)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def _gru(arrays: list[np.ndarray], gate: Callable[..., Any]) -> np.ndarray:
    """Gates z, r, h; the reset before the product with one bias, after it with two."""
    W, U, b = (a.astype(np.float64) for a in arrays)
    H = len(U)
    h = np.zeros(H)
    out = []
    for x in FRAMES:
        after = b.ndim == 2
        xz, xr, xn = np.split(x @ W + (b[0] if after else b), 3)
        hz, hr, hn = np.split(h @ U + (b[1] if after else 0), 3)
        z, r = gate(xz + hz), gate(xr + hr)
        n = np.tanh(xn + (r * hn if after else (r * h) @ U[:, 2 * H :]))
        h = z * h + (1 - z) * n
        out.append(h)
    return np.array(out)


def test_keras_2_lstm_whose_hard_sigmoid_has_the_slope_of_keras_2(tmp_path: Path) -> None:
    arrays = _cell_arrays(4)
    options = {"units": 4, "return_sequences": True, "activation": "tanh"}
    for name in ("hard_sigmoid", "sigmoid"):
        spec = _spec("LSTM", recurrent_activation=name, **options)
        model = s.load(_hdf5(tmp_path / f"{name}.h5", [spec], {"layer": arrays}))
        gate = _hard if name == "hard_sigmoid" else _sigmoid
        assert_close(model.stream().run(FRAMES), _lstm(arrays, gate), 1e-5, name)


@pytest.mark.parametrize("after", [False, True])
def test_keras_2_gru_resets_before_or_after_the_product(tmp_path: Path, after: bool) -> None:
    arrays = _cell_arrays(3, bias=(2, 12) if after else None)
    spec = _spec(
        "GRU",
        units=4,
        reset_after=after,
        recurrent_activation="hard_sigmoid",
        return_sequences=True,
    )
    path = _hdf5(tmp_path / "m.hdf5", [spec], {"layer": arrays})
    assert_close(s.load(path).stream().run(FRAMES), _gru(arrays, _hard), 1e-5)


def _as_cudnn(arrays: list[np.ndarray], gates: int) -> list[np.ndarray]:
    """Turn plain arrays into CuDNN's: each gate of W in the order of its transpose's memory."""
    W, U, b = arrays
    kernel = np.hstack([k.reshape(-1, order="F").reshape(k.shape) for k in np.hsplit(W, gates)])
    recurrent = np.hstack([k.T for k in np.hsplit(U, gates)])
    both = b if b.ndim == 2 else np.stack([b - 1, np.ones_like(b)])
    return [kernel, recurrent, both.reshape(-1)]


@pytest.mark.parametrize("kind", ["CuDNNLSTM", "CuDNNGRU"])
def test_cudnn_layers_are_the_plain_ones_in_another_layout(tmp_path: Path, kind: str) -> None:
    gates = 4 if kind == "CuDNNLSTM" else 3
    arrays = _cell_arrays(gates, bias=None if gates == 4 else (2, 12))
    spec = _spec(kind, units=4, return_sequences=True)
    path = _hdf5(tmp_path / "m.h5", [spec], {"layer": _as_cudnn(arrays, gates)})
    wanted = _lstm(arrays, _sigmoid) if gates == 4 else _gru(arrays, _sigmoid)
    assert_close(s.load(path).stream().run(FRAMES), wanted, 1e-5)


def test_keras_2_functional_models(tmp_path: Path) -> None:
    arrays = _cell_arrays(4)
    lstm = _spec("LSTM", "a", units=4, recurrent_activation="sigmoid", return_sequences=True)
    join = {"class_name": "Concatenate", "config": {"name": "j", "axis": -1}}
    layers = [_spec("InputLayer", "x"), lstm, join]
    for layer, nodes in zip(
        layers, [[], [[["x", 0, 0, {}]]], [[["a", 0, 0, {}], ["x", 0, 0, {}]]]], strict=True
    ):
        layer |= {"name": layer["config"]["name"], "inbound_nodes": nodes}
    config = {
        "class_name": "Model",
        "config": {"layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["j", 0, 0]]},
    }
    path = _hdf5(tmp_path / "m.h5", layers, {"a": arrays}, config=config)
    wanted = np.hstack([_lstm(arrays, _sigmoid), FRAMES])
    assert_close(s.load(path).stream().run(FRAMES), wanted, 1e-5)


@pytest.mark.parametrize(
    ("sequences", "join", "call", "output", "message"),
    [
        (True, "Concatenate", {}, ["a", 0, 2], "a state of 'a' is an output"),
        (True, "Concatenate", {}, ["a", 0, 1], "a state of 'a' is an output"),
        (True, "Concatenate", {"training": True}, ["j", 0, 0], "called with training=True"),
        (True, "Concatenate", {"mask": ["x", 0, 0]}, ["j", 0, 0], "called with a mask"),
        (False, "Concatenate", {}, ["j", 0, 0], "used at every frame of it, before it is known"),
        (False, "Add", {}, ["j", 0, 0], "used at every frame of it, before it is known"),
    ],
)
def test_what_would_be_another_function_is_refused(
    tmp_path: Path, sequences: bool, join: str, call: dict, output: list, message: str
) -> None:
    arrays = _cell_arrays(4)
    units = {"units": 4, "recurrent_activation": "sigmoid", "return_sequences": sequences}
    lstm = _spec("LSTM", "a", **units)
    layers = [_spec("InputLayer", "x"), lstm, {"class_name": join, "config": {"name": "j"}}]
    nodes = [[], [[["x", 0, 0, call]]], [[["a", 0, 0, {}], ["x", 0, 0, {}]]]]
    for layer, node in zip(layers, nodes, strict=True):
        layer |= {"name": layer["config"]["name"], "inbound_nodes": node}
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [output]}
    config = {"class_name": "Model", "config": {"layers": layers, **ends}}
    path = _hdf5(tmp_path / "m.h5", layers, {"a": arrays}, config=config)
    with pytest.raises(s.FileError, match=message):
        s.load(path)


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_weights_of_other_floats_become_float32(tmp_path: Path, kind: str) -> None:
    kernel = RNG.integers(-64, 64, (3, 2)).astype(np.float32) / 32
    stored: Any = kernel.astype(kind) if kind != "bfloat16" else None
    if kind == "bfloat16":
        stored = (kernel.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    spec = _spec("Dense", units=2, use_bias=False)
    model = s.load(_hdf5(tmp_path / "m.h5", [spec], {"layer": [stored]}))
    assert np.array_equal(model.state_dict()["layer.weight"], kernel.T)


def test_an_archive_of_keras_2_has_the_hard_sigmoid_of_keras_2(tmp_path: Path) -> None:
    """tf.keras 2.13 to 2.15 write ``.keras`` files too; the metadata tell."""
    for version, slope in (("2.15.0", 0.2), ("3.0.0", 1 / 6)):
        metadata = json.dumps({"keras_version": version}).encode()
        path = _rezipped(tmp_path / "m.keras", "lstm_variant", **{"metadata.json": metadata})
        ops = [node.op for node in s.load(path).graph().nodes]
        assert {op.slope for op in ops if isinstance(op, s.Hardsigmoid)} == {slope}


def test_a_heap_of_texts_that_never_ends_is_refused() -> None:
    """The HDF5 library would go round in it forever."""
    content = bytearray((HERE / "lstm.h5").read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 24 : heap + 32] = b"\xff" * 8
    with pytest.raises(FileError, match=r"a text of 18446744073709551615 bytes in a heap of 4096"):
        from_keras(io.BytesIO(bytes(content)))


# What is refused ----------------------------------------------------------------------------------

LSTM = {"units": 4, "recurrent_activation": "sigmoid"}


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("LSTM", {**LSTM, "go_backwards": True}, "go_backwards=True begins at the last frame"),
        ("LSTM", {**LSTM, "time_major": True}, "time_major=True is not supported"),
        ("LSTM", {**LSTM, "zero_output_for_mask": True}, "zero_output_for_mask=True is not"),
        ("LSTM", {**LSTM, "units": 5}, r"expected arrays of shapes \(3, 20\).*got \(3, 16\)"),
        ("LSTM", {**LSTM, "units": "four"}, "`units` must be a positive integer, got 'four'"),
        ("LSTM", {**LSTM, "use_bias": 1}, "`use_bias` must be true or false, got 1"),
        ("LSTM", {**LSTM, "use_bias": False}, "expected arrays of shapes"),
        ("LSTM", {**LSTM, "activation": "my_own"}, "function 'my_own' is not supported"),
        (
            "LSTM",
            {**LSTM, "activation": {"class_name": "function", "config": "mine"}},
            "'mine' is a custom object: it is code",
        ),
        ("LSTM", {**LSTM, "projection": 3}, "the option `projection`=3 is not supported"),
        (
            "LSTM",
            {**LSTM, "dtype": {"class_name": "QuantizedDTypePolicy", "config": {}}},
            "its dtype is a QuantizedDTypePolicy, which is not supported",
        ),
        ("Bidirectional", {"layer": _spec("LSTM", **LSTM)}, "backward layer begins at the last"),
        ("Lambda", {"function": ["4wEAAAAA", None, None]}, "Python code, and nothing in a file is"),
        ("GlobalMaxPooling1D", {}, "pools over all of time"),
        ("Flatten", {}, "puts all frames of the sequence side by side"),
        ("Attention", {}, r"layer 'layer' \(Attention\): is not supported"),
        ("Custom>Mine", {}, r"a custom object \(Custom>Mine\): it is code"),
        ("Sequential", {"layers": []}, "a model within a model is not supported"),
        ("Masking", {"mask_value": 0.0}, "masks frames that are padding.*ignore_masks=True"),
        ("Reshape", {"target_shape": [-1, 2]}, r"target_shape \(-1, 2\) mixes the frames \(3,\)"),
        ("Softmax", {"axis": 1}, r"axis 1 is not one within a frame of shape \(3,\)"),
        ("ReLU", {"threshold": 0.5}, "a threshold other than 0 is not supported"),
        ("ReLU", {"max_value": 6.0, "negative_slope": 0.1}, "max_value together with"),
        ("Concatenate", {"axis": 1}, "axis 1 is not one within a frame"),
        ("TimeDistributed", {"layer": _spec("LSTM", **LSTM)}, "a recurrent layer within each"),
        (
            "TimeDistributed",
            {"layer": _spec("Conv3D")},
            "the layer 'Conv3D' in it is not supported",
        ),
        ("RNN", {"cell": _spec("MyCell")}, "the cell 'MyCell' is not supported"),
    ],
)
def test_layers_and_options_that_are_refused(
    tmp_path: Path, kind: str, config: dict[str, Any], message: str
) -> None:
    arrays = {"layer": _cell_arrays(4)} if kind == "LSTM" else {}
    path = _hdf5(tmp_path / "m.h5", [_spec(kind, **config)], arrays)
    with pytest.raises(FileError, match=message) as caught:
        s.load(path)
    assert str(path) in str(caught.value)
    assert "layer 'layer'" in str(caught.value)


def _conv(**options: Any) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
    kernel = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    spec = _spec("Conv1D", **{"filters": 2, "kernel_size": [3], "strides": 1, **options})
    spec["config"].setdefault("dilation_rate", [2])
    return [spec], {"layer": [kernel, np.zeros(2, np.float32)]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "same"}, "padding='same' sees frames that have not come yet.*4 frames late"),
        (
            {"padding": "causal", "data_format": "channels_first"},
            "only data_format='channels_last'",
        ),
        ({"padding": "causal", "kernel_size": [2]}, r"expected arrays of shapes \(2, 3, 2\)"),
    ],
)
def test_convolutions_that_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        s.load(_hdf5(tmp_path / "m.h5", *_conv(**options)))


def test_masks_may_be_ignored_by_who_never_feeds_padding(tmp_path: Path) -> None:
    table = RNG.normal(size=(5, 3)).astype(np.float32)
    spec = _spec(
        "Embedding", input_dim=5, output_dim=3, mask_zero=True, batch_input_shape=[None, None]
    )
    layers = [spec, _spec("Masking", "mask", mask_value=0.0)]
    path = _hdf5(tmp_path / "m.h5", layers, {"layer": [table]})
    with pytest.raises(FileError, match=r"layer 'layer' \(Embedding\): it masks frames"):
        s.load(path)
    model = s.load(path, ignore_masks=True)
    assert np.array_equal(model.run(np.array([3, 0, 4])), table[[3, 0, 4]])


def test_hard_sigmoid_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    spec = _spec("Activation", activation="hard_sigmoid")
    path = _hdf5(tmp_path / "m.h5", [spec], {}, version="?")
    with pytest.raises(FileError, match="another slope in Keras 2 than in 3"):
        s.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"class_name": "Mine", "config": {"layers": [_spec("ReLU")]}}}, "is a 'Mine'"),
        ({"config": {"class_name": "Sequential", "config": {"layers": []}}}, "expected 1 to"),
        ({"config": {"class_name": "Sequential"}}, "a damaged configuration: KeyError: 'config'"),
        ({"config": [1]}, "model_config must be a JSON object, got list"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        s.load(_hdf5(tmp_path / "m.h5", [_spec("ReLU")], {}, **options))


def test_open_shapes_and_names_that_occur_twice_are_refused(tmp_path: Path) -> None:
    spec = _spec("ReLU", batch_input_shape=[None, 5, None])
    with pytest.raises(FileError, match=r"only batch and time of .* may be open"):
        s.load(_hdf5(tmp_path / "a.h5", [spec], {}))
    spec = _spec("ReLU", batch_input_shape=None)
    with pytest.raises(FileError, match="does not say the shape of its input"):
        s.load(_hdf5(tmp_path / "b.h5", [spec], {}))
    config = {"class_name": "Sequential", "config": [_spec("ReLU"), _spec("ReLU")]}
    with pytest.raises(FileError, match="two layers have one name"):
        s.load(_hdf5(tmp_path / "c.h5", [_spec("ReLU")], {}, config=config))


def _functional(tmp_path: Path, nodes: Any) -> Path:
    layers = [_spec("InputLayer", "x"), _spec("LSTM", "a", **LSTM), _spec("ReLU", "r")]
    for layer, inbound in zip(layers, [[], *nodes], strict=True):
        layer |= {"name": layer["config"]["name"], "inbound_nodes": inbound}
    config = {
        "class_name": "Functional",
        "config": {"layers": layers, "input_layers": ["x", 0, 0], "output_layers": ["r", 0, 0]},
    }
    return _hdf5(tmp_path / "m.h5", layers, {"a": _cell_arrays(4)}, config=config)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([[[["x", 0, 0], ["x", 0, 0]]], [[["a", 0, 0]]]], "an initial state from another layer"),
        ([[[["x", 0, 0]]], [[["a", 0, 1]]]], r"reads a state of 'a' \(return_state=True\)"),
        ([[[["r", 0, 0]]], [[["a", 0, 0]]]], "read each other in a circle"),
        ([[[["x", 0, 0]]], [[["gone", 0, 0]]]], "a damaged configuration: KeyError"),
        ([[[["x", 0, 0]]], [[["a", 0, 0, {"scale": 2}]]]], "the argument 2 is not supported"),
        ([[[["x", 0, 0]]], [[["a", 0, 0], ["x", 0, 0]]]], "expected one input, got 2"),
    ],
)
def test_wirings_that_are_refused(tmp_path: Path, nodes: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        s.load(_functional(tmp_path, nodes))


# Damaged and malicious files ----------------------------------------------------------------------


def _rezipped(path: Path, name: str = "lstm", **changed: bytes | None) -> Path:
    """Write an archive of the golden folder with some members changed or left out."""
    with zipfile.ZipFile(HERE / f"{name}.keras") as old, zipfile.ZipFile(path, "w") as new:
        contents = {n: old.read(n) for n in old.namelist()}
        for member, content in {**contents, **changed}.items():
            if content is not None:
                new.writestr(member, content)
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"../evil.py": b"x"}, r"member '\.\./evil\.py' points outside the archive"),
        ({"/etc/evil": b"x"}, "points outside the archive"),
        ({"C:evil": b"x"}, "points outside the archive"),
        ({"config.json": None}, "no Keras archive: it has no config.json"),
        ({"model.weights.h5": None}, "no Keras archive: it has no model.weights.h5"),
        ({"config.json": b"{"}, "config.json is no JSON"),
        ({"config.json": b"[" * 100_000}, "config.json is no JSON"),
        ({"config.json": b"[]"}, "config.json must be a JSON object, got list"),
        ({"model.weights.h5": b"nothing"}, "a damaged Keras file"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, changed: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        s.load(_rezipped(tmp_path / "m.keras", **changed))


def test_a_member_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrnn.importers.keras.files.MAX_BYTES", 1000)
    with pytest.raises(FileError, match=r"\.json takes more than"):
        s.load(HERE / "lstm.keras")


@pytest.mark.parametrize("name", ["lstm.keras", "lstm.h5", "lstm.weights.h5"])
def test_truncated_files_are_errors_of_ours(name: str) -> None:
    content = (HERE / name).read_bytes()
    options = {"model": (HERE / "lstm.json").read_text()} if "weights" in name else {}
    rng = np.random.default_rng(1)
    for length in [0, 3, 8, 100, *rng.integers(100, len(content) - 1, 20)]:
        with pytest.raises(FileError):
            from_keras(io.BytesIO(content[:length]), **options)


def test_altered_archives_are_errors_of_ours_or_models() -> None:
    content = (HERE / "lstm.keras").read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        altered = bytearray(content)
        for position in rng.integers(0, len(content), 8):
            altered[position] = rng.integers(256)
        with contextlib.suppress(FileError, WeightError):
            from_keras(io.BytesIO(bytes(altered)))


def test_files_that_are_not_there_or_no_keras_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*: No such file"):
        s.load(tmp_path / "none.keras")
    (tmp_path / "text.h5").write_text("hello, world")
    with pytest.raises(FileError, match=r"text\.h5: no Keras file: expected a zip archive or HDF5"):
        s.load(tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(FileError, match="holds no Keras model"):
        s.load(tmp_path / "empty.h5")
    with pytest.raises(FileError, match="holds weights only: pass the architecture"):
        s.load(HERE / "lstm.weights.h5")
    with pytest.raises(FileError, match="`model` must be a layer, a mapping or JSON, got int"):
        from_keras(HERE / "lstm.weights.h5", 3)
    with pytest.raises(FileError, match="unknown option shapes"):
        s.load(HERE / "lstm.keras", shapes={})


def _tampered(tmp_path: Path, change: Callable[[Any], None]) -> Path:
    """Return a model whose kernel has been replaced by something else."""
    path = _hdf5(tmp_path / "m.h5", [_spec("Dense", units=2)], {"layer": [np.ones((3, 2))] * 2})
    with h5py.File(path, "a") as file:
        del file["model_weights/layer/layer/w0:0"]
        change(file["model_weights/layer/layer"])
    return path


def _external_link(group: Any) -> None:
    group["w0:0"] = h5py.ExternalLink("/etc/other.h5", "/secret")


def _soft_link(group: Any) -> None:
    group["w0:0"] = h5py.SoftLink("/model_weights/layer/layer/w1:0")


def _external_storage(group: Any) -> None:
    group.create_dataset("w0:0", (3, 2), "f4", external=[("/etc/hostname", 0, 24)])


def _virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "secret", (3, 2))
    group.create_virtual_dataset("w0:0", layout)


def _hollow(group: Any) -> None:
    group.create_dataset("w0:0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external_link, "'w0:0' in .* is a link to elsewhere: never followed"),
        (_soft_link, "is a link to elsewhere: never followed"),
        (_external_storage, "keeps its numbers in another file: never followed"),
        (_virtual, "keeps its numbers in another file: never followed"),
        (_hollow, r"of shape \(1048576, 1048576\) has no bytes for its numbers"),
        (
            lambda group: group.create_dataset("w0:0", data=np.bytes_(b"text")),
            r"holds \|S4, expected floating-point",
        ),
        (
            lambda group: group.create_dataset("w0:0", data=np.ones((3, 2), np.int8)),
            "holds int8, ex",
        ),
        (lambda group: group.create_group("w0:0"), "is no array"),
        (lambda group: None, "the file has no 'layer/w0:0'"),
    ],
)
def test_hdf5_that_leads_elsewhere_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        s.load(_tampered(tmp_path, change))


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(FileError, match=r"needs h5py: pip install streamrnn\[keras\]"):
        s.load(HERE / "lstm.keras")
