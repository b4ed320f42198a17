"""RTNeural's JSON: its own fixtures where they are, its equations by hand, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, run_in_pieces
from sources import golden
from streamrnn import FileError, from_rtneural
from trained import rtneural_torch


def _numbers(name: str) -> np.ndarray:
    return np.loadtxt(golden(f"rtneural/{name}_python.csv"), dtype=np.float32)[:, None]


@pytest.mark.parametrize("name", ["conv", "dense", "gru", "gru_1d", "lstm", "lstm_1d"])
def test_rtneurals_own_models_give_its_own_outputs(name: str) -> None:
    model = s.load(golden(f"rtneural/{name}.json"))
    xs = _numbers(f"{name}_x")
    got = run_in_pieces(model.stream(), xs, [1, 0, 32, 67])
    assert_close(got, _numbers(f"{name}_y"), 1e-6, name)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_its_export_from_torch_is_a_state_dict(kind: str) -> None:
    model = rtneural_torch(kind)
    got = model.stream().run(_numbers(f"{kind}_torch_x"))
    assert_close(got, _numbers(f"{kind}_torch_y"), 1e-6)
    with pytest.raises(FileError, match="is it torch's state dict as JSON"):
        from_rtneural(golden(f"rtneural/{kind}_torch.json"))


def test_a_full_model_loads_and_keeps_its_states() -> None:
    stream = s.load(golden("rtneural/full_model.json")).stream()
    assert {name: a.shape for name, a in stream.state.items()} == {
        "conv1d_0.past": (4, 8),
        "gru_0.h": (8,),
    }


def test_the_fixture_that_lies_about_its_size_is_refused() -> None:
    with pytest.raises(
        FileError,
        match=r"layer 0 \(lstm\) with 1 inputs and 16 outputs needs .*\(16, 64\).*got .*\(20, 80\)",
    ):
        s.load(golden("rtneural/bad_lstm.json"))


# By hand ------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)


def _layer(kind: str, width: int, *shapes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    weights = [RNG.normal(0, 0.7, shape).tolist() for shape in shapes]
    shape = [None, None, width]
    return {"type": kind, "activation": "", "shape": shape, "weights": weights, **more}


def _file(path: Path, *layers: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"in_shape": [None, None, 2], "layers": layers, **more}))
    return path


def test_gru_and_normalisation_by_their_equations(tmp_path: Path) -> None:
    gru = _layer("gru", 3, (2, 9), (3, 9), (2, 9), activation="tanh")
    norm = _layer("batchnorm", 3, (3,), (3,), (3,), (3,), epsilon=0.5)
    norm["weights"][3] = [-0.2, 0.0, 2.0]
    model = s.load(_file(tmp_path / "m.json", gru, norm))
    xs = RNG.normal(size=(20, 2)).astype(np.float32)
    W, U, b = (np.array(w) for w in gru["weights"])
    gamma, beta, mean, variance = (np.array(w) for w in norm["weights"])
    h, wanted = np.zeros(3), []
    for x in xs:
        (xz, xr, xn), (hz, hr, hn) = np.split(x @ W + b[0], 3), np.split(h @ U + b[1], 3)
        z, r = 1 / (1 + np.exp(-(xz + hz))), 1 / (1 + np.exp(-(xr + hr)))
        h = z * h + (1 - z) * np.tanh(xn + r * hn)
        wanted.append(gamma * (h - mean) / np.sqrt(variance + 0.5) + beta)
    assert_close(model.stream().run(xs), np.array(wanted), 1e-5)


@pytest.mark.parametrize("activation", ["elu", "relu", "sigmoid", "tanh", "softmax", "", "linear"])
def test_activations_stand_in_a_layer_or_by_themselves(tmp_path: Path, activation: str) -> None:
    dense = _layer("dense", 3, (2, 3), (3,))
    within = {**dense, "activation": activation}
    own = _layer("activation", 3, activation=activation)
    xs = RNG.normal(size=(5, 2)).astype(np.float32)
    a = from_rtneural(_file(tmp_path / "a.json", within)).stream().run(xs)
    if activation:
        b = from_rtneural(_file(tmp_path / "b.json", dense, own)).stream().run(xs)
        assert_same(a, b, activation)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([_layer("attention", 2)], r"layer 0 \(attention\): this type of layer is not known, only"),
        (
            [_layer("dense", 2, (2, 2), (2,)), _layer("gru", 3, (3, 9), (3, 9), (2, 9))],
            r"layer 1 \(gru\) with 2 inputs and 3 outputs needs .*\(2, 9\).* got \(3, 9\)",
        ),
        ([_layer("dense", 2)], r"layer 0 \(dense\) .*needs weights of shapes \(2, 2\), got none"),
        ([_layer("dense", 2, (2, 2), activation="gelu")], "the activation 'gelu' is not known"),
        (
            [_layer("gru", 2, (2, 6), (2, 6), (2, 6), activation="relu")],
            "the activation 'relu' is not supported, only 'tanh'",
        ),
        ([_layer("activation", 2)], "names no activation function"),
        (
            [_layer("batchnorm", 2, (2,), (2,), epsilon=-9.0)],
            r"layer 0 \(batchnorm\): variance \+ epsilon must be positive, got -",
        ),
        ([_layer("conv1d", 2, (1, 2, 2), kernel_size=[0], dilation=[1])], "`kernel_size` must be"),
        ([{**_layer("dense", 2, (2, 2)), "shape": [None, None]}], "expected a shape that ends in"),
        ([{**_layer("dense", 2), "weights": [[[1, 2], [3]]]}], "no RTNeural model: ValueError"),
        ([{"type": "dense"}], "no RTNeural model: KeyError"),
        ([3], "no RTNeural model: TypeError"),
        ([], "needs at least one layer"),
        ([{**_layer("dense", 2, (2, 2)), "weights": [[[1, 2], [3, float("inf")]]]}], "infinity"),
    ],
)
def test_what_is_refused(tmp_path: Path, layers: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        s.load(_file(tmp_path / "m.json", *layers))


def test_files_that_are_no_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(FileError, match=r"cannot read .*: No such file"):
        s.load(path)
    for text in ("{", "[" * 100_000, "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(FileError, match=r"m\.json: not a JSON file"):
            s.load(path)
    with pytest.raises(FileError, match=r"a .safetensors file takes no options, got shapes"):
        s.load(path, shapes={})
    monkeypatch.setattr("streamrnn.importers.rtneural.MAX_FILE_BYTES", 0)
    with pytest.raises(FileError, match="larger than"):
        s.load(path)
