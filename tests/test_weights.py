"""Weights from files: golden ones that torch has saved, and files that are wrong.

All but the last part runs without torch.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import streamrnn as s
from checks import assert_close

GOLDEN = Path(__file__).parent / "golden"
MODEL = GOLDEN / "torch_model.safetensors"
NO_HEAD: dict[str, str | None] = {"head": None}


def _net() -> s.Sequential:
    body = s.Sequential(s.Linear(5, 12), s.BatchNorm1d(12), s.ReLU(), s.Linear(12, 8), name="body")
    recurrent = s.GRU(8, 9, num_layers=2, name="rnn")
    return s.Sequential(body, recurrent)


def _write(path: Path, name: str, kind: str, shape: list[int], data: bytes) -> None:
    """Write a safetensors file by hand: NumPy has not all of its types."""
    spec = {name: {"dtype": kind, "shape": shape, "data_offsets": [0, len(data)]}}
    header = json.dumps(spec).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


# safetensors --------------------------------------------------------------------------------------


def test_a_module_that_torch_has_saved() -> None:
    net = _net()
    net.load_weights(MODEL, rename=NO_HEAD)
    with np.load(GOLDEN / "torch_model.npz") as golden:
        assert_close(net.stream().run(golden["x"]), golden["y"], 1e-5)


def test_part_of_a_module() -> None:
    gru = s.GRU(8, 9, num_layers=2)
    gru.load_weights(MODEL, prefix="rnn.")
    whole = s.load_weights(MODEL)
    assert np.array_equal(gru.state_dict()["weight_hh_l1"], whole["rnn.weight_hh_l1"])
    assert not any("num_batches_tracked" in name for name in whole)


def test_other_names() -> None:
    layer = s.Sequential(s.Linear(9, 2, name="out"))
    layer.load_weights(MODEL, rename={"head": "out", "body": None, "rnn": None})
    weights = s.load_weights(MODEL, rename={"head": "", "head.bias": "b"})
    assert np.array_equal(layer.state_dict()["out.weight"], weights["weight"])
    assert "b" in weights
    assert "bias" not in weights


def test_weights_of_another_architecture_are_listed_with_the_nearest_names() -> None:
    gru = s.GRU(8, 10)
    before = gru.state_dict()
    with pytest.raises(s.WeightError) as caught:
        gru.load_weights(MODEL)
    said = str(caught.value)
    assert "missing: weight_ih_l0 (30, 8) (did you mean rnn.weight_ih_l0?)" in said
    assert "unknown: head.bias" in said
    with pytest.raises(
        s.WeightError, match=r"weight_hh_l0: expected shape \(30, 10\), got \(27, 9\)"
    ):
        gru.load_weights(MODEL, prefix="rnn.")
    assert all(np.array_equal(before[n], a) for n, a in gru.state_dict().items())


def test_the_nearest_name_is_one_of_the_same_shape() -> None:
    with pytest.raises(
        s.WeightError, match=r"missing: weight \(2, 3\) \(did you mean b\.weight\?\)"
    ):
        s.Linear(3, 2, bias=False).load_state_dict(
            {"a.weight": np.zeros((3, 3)), "b.weight": np.zeros((2, 3))}
        )


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_other_floats_are_converted_and_it_is_said(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    weight = np.array([[0.5, 1.25]], kind)
    save_file({"weight": weight, "bias": np.zeros(1, np.float32)}, path)
    layer = s.Linear(2, 1)
    with pytest.warns(UserWarning, match=f"1 weights of {kind} \\('weight'\\) become float32"):
        layer.load_weights(path)
    assert layer.state_dict()["weight"].tolist() == [[0.5, 1.25]]


def test_bfloat16(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    bits = np.array([0x3F80, 0xC000, 0x3E80], np.uint16)  # 1, -2, 0.25
    _write(path, "weight", "BF16", [1, 3], bits.tobytes())
    with pytest.warns(UserWarning, match="weights of bfloat16"):
        assert s.load_weights(path)["weight"].tolist() == [[1.0, -2.0, 0.25]]


def test_a_number_beyond_float32_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"weight": np.array([[1e300]]), "bias": np.zeros(1)}, path)
    with (
        pytest.warns(UserWarning, match="float64"),
        pytest.raises(s.WeightError, match="weight: holds a number beyond the range of float32"),
    ):
        s.Linear(1, 1).load_weights(path)


def test_files_that_are_wrong(tmp_path: Path) -> None:
    damaged = tmp_path / "cut.safetensors"
    damaged.write_bytes(MODEL.read_bytes()[:-20])
    eighth = tmp_path / "f8.safetensors"
    _write(eighth, "w", "F8_E4M3", [1], b"\x00")
    with pytest.raises(s.FileError, match="not a safetensors file, or a damaged one"):
        s.load_weights(damaged)
    with pytest.raises(s.FileError, match="w is F8_E4M3; supported are F64, F32"):
        s.load_weights(eighth)
    with pytest.raises(s.FileError, match=r"cannot read .*none\.safetensors: No such file"):
        s.load_weights(tmp_path / "none.safetensors")
    (tmp_path / "w.npy").write_bytes(b"")
    with pytest.raises(s.FileError, match=r"expected a \.safetensors file.* got \.npy"):
        s.load_weights(tmp_path / "w.npy")
    with pytest.raises(s.FileError, match="expected a path, got int"):
        s.load_weights(3)  # type: ignore[arg-type]


def test_names_that_are_wrong() -> None:
    with pytest.raises(s.FileError, match=r"no weight's name begins with 'encoder\.'; there are"):
        s.load_weights(MODEL, prefix="encoder.")
    with pytest.raises(s.ConfigError, match="rename 'heed': no weight is called so; there are"):
        s.load_weights(MODEL, rename={"heed": "out"})
    with pytest.raises(s.ConfigError, match=r"two weights would be called 'head\.(weight|bias)'"):
        s.load_weights(MODEL, rename={"body.0": "head"})


def test_without_torch_its_files_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"PK")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.delitem(__import__("sys").modules, "streamrnn.importers.state_dict", raising=False)
    with pytest.raises(s.FileError, match=r"needs torch \(pip install streamrnn\[torch\]\)"):
        s.load_weights(path)


# Files of torch's ---------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: it reads its own files")


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "x.ckpt"])
def test_a_state_dict(torch: Any, tmp_path: Path, name: str) -> None:
    module, layer = torch.nn.LSTM(3, 4, 2), s.LSTM(3, 4, 2)
    torch.save(module.state_dict(), tmp_path / name)
    layer.load_weights(tmp_path / name)
    for key, tensor in module.state_dict().items():
        assert np.array_equal(layer.state_dict()[key], tensor.numpy())


def test_a_checkpoint(torch: Any, tmp_path: Path) -> None:
    weights = torch.nn.Linear(3, 4).state_dict()
    path = tmp_path / "x.pt"
    torch.save({"epoch": 3, "model_state": weights}, path)
    assert np.array_equal(s.load_weights(path)["weight"], weights["weight"].numpy())
    torch.save({"model": weights, "ema": weights, "epoch": 3}, path)
    with pytest.raises(s.FileError, match=r"got a mapping of 'model', 'ema', 'epoch'; say which"):
        s.load_weights(path)
    assert s.load_weights(path, key="ema").keys() == {"weight", "bias"}
    with pytest.raises(s.FileError, match="has no key 'emma'; there are 'model', 'ema', 'epoch'"):
        s.load_weights(path, key="emma")
    with pytest.raises(s.FileError, match="'epoch' is no state dict but int"):
        s.load_weights(path, key="epoch")


def test_halves_of_torch(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.nn.Linear(3, 4).bfloat16().state_dict(), path)
    with pytest.warns(UserWarning, match="2 weights of bfloat16"):
        assert s.load_weights(path)["weight"].dtype == np.float32


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path("evil").write_text, ("ran",))


def test_a_pickle_is_never_run(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Evil())),
        lambda: torch.save({"weight": Evil()}, path),
        lambda: torch.save(torch.nn.Linear(3, 4), path),
    ):
        write()
        with pytest.raises(s.FileError, match=r"no state dict.* is not read, for it may run code"):
            s.load_weights(path)
    assert not (tmp_path / "evil").exists()


def test_what_is_no_state_dict(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save([1, 2], path)
    with pytest.raises(s.FileError, match="expected a state dict, got list"):
        s.load_weights(path)
    torch.save({"lr": 0.1}, path)
    with pytest.raises(s.FileError, match="expected a state dict, got a mapping of 'lr'"):
        s.load_weights(path)
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, path)
    with pytest.raises(s.FileError, match=r"w is torch\.complex64 .*: not supported"):
        s.load_weights(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(s.FileError, match="no state dict, or a damaged one"):
        s.load_weights(path)
