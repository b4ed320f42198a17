"""Weights from elsewhere: TensorFlow 1's layout, ``.npz`` files, peepholes, projections, states.

The loops below are written from the papers and from TensorFlow 1's documentation of its cells.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, run_in_pieces, run_in_steps
from streamrnn import ConfigError, FileError, GraphError, StateError, WeightError, load_npz

I, H, T = 5, 4, 40
RNG = np.random.default_rng(11)
XS = RNG.normal(0, 1.2, (T, I)).astype(np.float32)


def _random(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.6, shape).astype(np.float32)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# TensorFlow 1 -------------------------------------------------------------------------------------


def test_lstm_of_tensorflow_1(tmp_path: Path) -> None:
    """One matrix over [x, h], gates i, j, f, o, and 1 added to f at run time."""
    kernel, bias = _random(I + H, 4 * H), _random(4 * H)
    np.savez(tmp_path / "tf1.npz", kernel=kernel, bias=bias)
    cell = s.LSTMCell(I, H)
    load_npz(
        cell,
        tmp_path / "tf1.npz",
        lambda a: s.lstm_weights(
            a["kernel"][:I], a["kernel"][I:], a["bias"], gate_order="igfo", forget_bias=1.0
        ),
    )
    c = h = np.zeros(H)
    wanted = []
    for x in XS:
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = c * _sigmoid(f + 1.0) + _sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * _sigmoid(o)
        wanted.append(h)
    assert_close(cell.stream().run(XS), np.array(wanted), 1e-5)


def test_gru_of_tensorflow_1() -> None:
    """Gates r, u and the candidate apart; the state is reset before the product."""
    gates, gates_bias = _random(I + H, 2 * H), _random(2 * H)
    candidate, candidate_bias = _random(I + H, H), _random(H)
    kernel = np.hstack([gates, candidate])
    cell = s.GRUCell(I, H, reset_after=False)
    cell.load_state_dict(
        s.gru_weights(
            kernel[:I], kernel[I:], np.hstack([gates_bias, candidate_bias]), gate_order="rzn"
        )
    )
    h, wanted = np.zeros(H), []
    for x in XS:
        r, u = np.split(_sigmoid(np.concatenate([x, h]) @ gates + gates_bias), 2)
        c = np.tanh(np.concatenate([x, r * h]) @ candidate + candidate_bias)
        h = u * h + (1 - u) * c
        wanted.append(h)
    assert_close(cell.stream().run(XS), np.array(wanted), 1e-5)


def test_plain_recurrence_and_a_bias_for_each_matrix() -> None:
    W, U, b = _random(I, H), _random(H, H), _random(2, H)
    cell = s.RNNCell(I, H)
    cell.load_state_dict(s.rnn_weights(W, U, b))
    h, wanted = np.zeros(H), []
    for x in XS:
        h = np.tanh(x @ W + b[0] + h @ U + b[1])
        wanted.append(h)
    assert_close(cell.stream().run(XS), np.array(wanted), 1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: s.lstm_weights(_random(I, 16), _random(H, 16), gate_order="ijfo"),
            ConfigError,
            "lstm_weights: `gate_order` must be an order of 'ifgo', got 'ijfo'",
        ),
        (
            lambda: s.gru_weights(_random(I, 12), _random(H, 12), gate_order=3),
            ConfigError,
            "gru_weights: `gate_order` must be an order of 'rzn', got 3",
        ),
        (
            lambda: s.gru_weights(_random(I, 12), _random(H, 16)),
            WeightError,
            r"matrices \(I, 3H\) and \(H, 3H\).* got \(5, 12\), \(4, 16\) and none",
        ),
        (lambda: s.lstm_weights(_random(I, 18), _random(H, 18)), WeightError, r"\(I, 4H\)"),
        (lambda: s.rnn_weights(_random(H), _random(H, H)), WeightError, r"got \(4,\), \(4, 4\)"),
        (
            lambda: s.rnn_weights(_random(I, H), _random(H, H), _random(3)),
            WeightError,
            r"and \(3,\)",
        ),
    ],
)
def test_layouts_that_do_not_fit(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# Peepholes, projection, other functions -----------------------------------------------------------


def test_projection_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(I, H, proj_size=2).double()
    layer = s.LSTMVariant(I, H, proj_size=2)
    layer.load_state_dict({n.removesuffix("_l0"): w for n, w in module.state_dict().items()})
    with torch.no_grad():
        wanted = module(torch.from_numpy(XS).double())[0].numpy()
    assert_close(layer.stream().run(XS), wanted, 1e-5)
    assert_close(s.ReferenceStream(layer).run(XS), wanted, 1e-6)


def test_peepholes_and_projection_by_the_equations_of_the_paper() -> None:
    """Sak, Senior and Beaufays (2014), equations 1 to 6."""
    layer = s.LSTMVariant(I, H, proj_size=3, peepholes=True, name="cell")
    w = {name: _random(*array.shape) for name, array in layer.state_dict().items()}
    layer.load_state_dict(w)
    Wi, Wf, Wc, Wo = np.split(w["weight_ih"], 4)
    Ui, Uf, Uc, Uo = np.split(w["weight_hh"], 4)
    bi, bf, bc, bo = np.split(w["bias_ih"] + w["bias_hh"], 4)
    c, r, wanted = np.zeros(H), np.zeros(3), []
    for x in XS:
        i = _sigmoid(Wi @ x + Ui @ r + w["weight_pi"] * c + bi)
        f = _sigmoid(Wf @ x + Uf @ r + w["weight_pf"] * c + bf)
        c = f * c + i * np.tanh(Wc @ x + Uc @ r + bc)
        o = _sigmoid(Wo @ x + Uo @ r + w["weight_po"] * c + bo)
        r = w["weight_hr"] @ (o * np.tanh(c))
        wanted.append(r)
    stream = layer.stream()
    assert_close(run_in_pieces(stream, XS, [1, 0, 33, 6]), np.array(wanted), 1e-5)
    assert_close(stream.state["cell.c"], c, 1e-5)
    assert_same(run_in_steps(layer.stream(), XS), layer.stream().run(XS), "step by step")


@pytest.mark.parametrize("after", [True, False])
def test_variants_with_the_usual_functions_are_the_cells(after: bool) -> None:
    for cell, variant in (
        (s.RNNCell(I, H), s.RNNVariant(I, H)),
        (s.GRUCell(I, H, reset_after=after), s.GRUVariant(I, H, reset_after=after)),
        (s.LSTMCell(I, H, bias=False), s.LSTMVariant(I, H, bias=False)),
    ):
        variant.load_state_dict(cell.state_dict())
        assert_close(variant.stream().run(XS), cell.stream().run(XS), 1e-5)


def test_functions_may_be_any_of_a_symbolic_value() -> None:
    layer = s.RNNVariant(I, H, candidate=lambda x: x * 0.5)
    w = layer.state_dict()
    h, wanted = np.zeros(H), []
    for x in XS:
        h = 0.5 * (w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"])
        wanted.append(h)
    assert_close(layer.stream().run(XS), np.array(wanted), 1e-5)


def test_a_trained_initial_state_is_kept_in_files(tmp_path: Path) -> None:
    h, c = _random(H), _random(H)
    cell, variant = s.LSTMCell(I, H), s.LSTMVariant(I, H, name="v")
    variant.load_state_dict(cell.state_dict())
    for layer in (cell, variant):
        layer.initial_state = {"h": h, "c": c}
        assert np.array_equal(layer.initial_state["c"], c)
    y = cell.stream().run(XS)
    fresh = s.LSTMCell(I, H)
    fresh.load_state_dict(cell.state_dict())
    stream = fresh.stream()
    stream.state["lstm_0.h"], stream.state["lstm_0.c"] = h, c
    assert_same(stream.run(XS), y, "set by hand")
    assert_close(variant.stream().run(XS), y, 1e-5)
    s.Sequential(variant, s.Tanh()).save(tmp_path / "m.safetensors")
    stream = s.load(tmp_path / "m.safetensors").stream()
    assert np.array_equal(stream.state["v.h"], h)
    variant.initial_state = {"h": h}
    assert variant.initial_state.keys() == {"h"}
    with pytest.raises(StateError, match="has the states h, c, got z"):
        variant.initial_state = {"z": h}


def test_variants_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="RNNVariant: `hidden_size` must be a positive integer"):
        s.RNNVariant(I, 0)
    with pytest.raises(ConfigError, match=r"GRUVariant: `input_size` must be .* got True"):
        s.GRUVariant(True, 3)
    with pytest.raises(
        ConfigError, match=r"`proj_size` must be 0 \(none\) or a positive .* got -1"
    ):
        s.LSTMVariant(I, H, proj_size=-1)
    with pytest.raises(GraphError, match=r"LSTMVariant\(5, 4\) reads one value, got 2"):
        s.LSTMVariant(I, H)(s.Input(I), s.Input(I))
    with pytest.raises(WeightError, match=r"missing: weight_hr \(2, 4\)"):
        s.LSTMVariant(I, H, proj_size=2).load_state_dict({})


def test_a_variant_as_an_onnx_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from streamrnn.export import to_onnx

    layer = s.LSTMVariant(I, H, proj_size=3, peepholes=True, name="cell")
    assert to_onnx(layer, tmp_path / "m.onnx").max_error < 1e-5


def test_every_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On files with the names and arrays that the page speaks of."""
    pytest.importorskip("h5py")
    root = Path(__file__).resolve().parent
    page = (root.parent / "docs" / "weights.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for name in ("lstm.keras", "lstm.weights.h5"):
        shutil.copy(root / "golden" / "keras" / name, tmp_path)
    torch_like = s.Sequential(s.LSTM(1, 8, name="lstm"), s.Linear(8, 1, name="dense"))
    weights = {name: w.tolist() for name, w in torch_like.state_dict().items()}
    (tmp_path / "torch.json").write_text(json.dumps(weights))
    cell = s.GRUCell(4, 8).weights
    gru = {n.replace("weight", "w").replace("bias", "b"): w for n, w in cell.items()}
    np.savez(tmp_path / "weights.npz", emb=_random(10, 4), **gru)
    np.savez(tmp_path / "tf1_lstm.npz", kernel=_random(I + H, 4 * H), bias=_random(4 * H))
    parts = {"gates": 2 * H, "candidate": H}
    kernels = {f"{part}/kernel": _random(I + H, n) for part, n in parts.items()}
    biases = {f"{part}/bias": _random(n) for part, n in parts.items()}
    np.savez(tmp_path / "tf1_gru.npz", **kernels, **biases)
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(compile(example, "docs/weights.md", "exec"), {})
    assert len(examples) == 8


# .npz ---------------------------------------------------------------------------------------------


def _saved(path: Path, cell: Any, **names: str) -> Path:
    np.savez(path, **{names.get(n, n): a for n, a in cell.state_dict().items()})
    return path


def test_npz_by_the_same_names_by_a_mapping_and_compressed(tmp_path: Path) -> None:
    source = s.GRUCell(I, H, seed=1)
    y = source.stream().run(XS)
    cell = s.GRUCell(I, H)
    load_npz(cell, _saved(tmp_path / "a.npz", source))
    assert_same(cell.stream().run(XS), y, "same names")
    path = _saved(tmp_path / "b.npz", source, weight_ih="enc_w")
    model = s.Sequential(s.GRUCell(I, H), s.Tanh())
    names = {f"0.{n}": n for n in source.state_dict()} | {"0.weight_ih": "enc_w"}
    load_npz(model, path, names)
    assert np.array_equal(model.state_dict()["0.weight_ih"], source.weights["weight_ih"])
    turned = {n: np.asfortranarray(a.astype(np.float64)) for n, a in source.state_dict().items()}
    np.savez_compressed(tmp_path / "c.npz", **turned)
    load_npz(cell, tmp_path / "c.npz")
    assert_same(cell.stream().run(XS), y, "compressed, in Fortran's order, float64")


def test_npz_with_wrong_names_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.npz", s.GRUCell(I, H))
    cell = s.GRUCell(I, H)
    before = cell.state_dict()
    with pytest.raises(WeightError, match="no array 'w'; there are weight_ih, weight_hh, bias_ih"):
        load_npz(cell, path, {"weight_ih": "w"})
    with pytest.raises(WeightError, match=r"missing: bias_hh \(12,\)"):
        load_npz(cell, path, {"weight_ih": "weight_ih"})
    with pytest.raises(WeightError, match="no array 'kernel'; there are weight_ih"):
        load_npz(cell, path, lambda arrays: {"weight_ih": arrays["kernel"]})
    with pytest.raises(WeightError, match="`mapping` must be a mapping or a function, got list"):
        load_npz(cell, path, ["weight_ih"])
    with pytest.raises(WeightError, match="missing: bias_hh"):
        load_npz(s.LSTMCell(1, 1), _saved(tmp_path / "b.npz", s.GRUCell(I, H, bias=False)))
    assert all(np.array_equal(a, before[n]) for n, a in cell.state_dict().items())


class _Evil:
    """Would be run if it were unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was run",))


def _member(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Evil()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 9999), }"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (_pickled(), "array 'w' holds pickled Python objects, which are never loaded"),
        (_member(HUGE, b"1234"), r"of shape \(99999999, 9999\) does not take 4 bytes"),
        (_member(HUGE.replace(b"<f4", b"<U4")), "holds <U4, expected numbers"),
        (_member(b"__import__('os').abort()"), "not an .npz file, or a damaged one"),
        (b"\x93NUMPY\x09\x00", r"an array in format \(9, 0\)"),
        (b"something else", "not an .npz file, or a damaged one"),
    ],
)
def test_npz_files_that_are_damaged_or_malicious(
    tmp_path: Path, member: bytes, message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("w.npy", member)
    with pytest.raises(FileError, match=message):
        load_npz(s.Linear(1, 1), tmp_path / "m.npz", {"weight": "w"})


def test_npz_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"cannot read .*: No such file"):
        load_npz(s.Linear(1, 1), tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(FileError, match=r"not an .npz file"):
        load_npz(s.Linear(1, 1), tmp_path / "text.npz")
    content = _saved(tmp_path / "a.npz", s.GRUCell(I, H)).read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(FileError):
            load_npz(s.GRUCell(I, H), tmp_path / "cut.npz")
    monkeypatch.setattr("streamrnn.importers.npz.MAX_BYTES", 100)
    with pytest.raises(FileError, match="its arrays take more than"):
        load_npz(s.GRUCell(I, H), tmp_path / "a.npz")
