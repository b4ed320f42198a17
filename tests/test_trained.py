"""Models that others have trained, in Keras, torch, NumPy and C: each gives its own numbers.

The numbers come from the models' own runtimes (``STREAMRNN_GOLDEN``), the weights from published
packages; neither is part of this repository.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, run_in_pieces, run_in_steps
from sources import (
    G2P,
    RESEMBLYZER,
    RNNOISE,
    TEXTGENRNN,
    from_archive,
    from_wheel,
    golden,
    golden_arrays,
)
from streamrnn import Input, Layer, Model, Past, concat

# textgenrnn: characters, Keras 2 ------------------------------------------------------------------


def _textgenrnn() -> Layer:
    """Return the model; its attention, an average over the text so far, is built of ops."""
    ids = Input((), "int64")
    embedded = s.Embedding(465, 100, name="embedding")(ids)
    first = s.LSTM(100, 128, name="rnn_1")(embedded)
    x = concat(embedded, first, s.LSTM(128, 128, name="rnn_2")(first))
    weight = s.Exp()(s.Linear(356, 1, bias=False, name="attention")(x))
    total, count = Past(356)(x), Past(1)(x)
    new_total, new_count = total + x * weight, count + weight
    y = s.Softmax()(s.Linear(356, 465, name="output")(new_total / new_count))
    return Model(ids, y, feedback={total: new_total, count: new_count})


def test_textgenrnn_continues_a_text_as_in_keras() -> None:
    pytest.importorskip("h5py")
    wanted = golden_arrays("textgenrnn.npz")["probs"]
    weights, vocabulary = from_archive(TEXTGENRNN)
    model = s.from_keras(weights, _textgenrnn())
    numbers = json.loads(vocabulary.read_text(encoding="utf-8"))
    text = [numbers[letter] for letter in "The best way to "]
    ids = np.array([0] * (40 - len(text)) + text)
    stream = model.stream()
    probabilities = run_in_pieces(stream, ids, [1, 20, 19])[-1]
    assert_close(probabilities, wanted, 1e-5)
    assert list(numbers)[list(numbers.values()).index(int(probabilities.argmax()))] == "s"


# g2p_en: letters to sounds, NumPy -----------------------------------------------------------------

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
START, END = 2, 3


def _g2p() -> tuple[Layer, Layer]:
    path = from_wheel(G2P)
    encoder = s.Sequential(s.Embedding(29, 256), s.GRUCell(256, 256))
    decoder = s.Sequential(
        s.Embedding(74, 256), s.GRUCell(256, 256, name="decoder"), s.Linear(256, 74)
    )
    for model, prefix, cell in ((encoder, "enc", "1"), (decoder, "dec", "decoder")):
        names = {"0.weight": f"{prefix}_emb"}
        for kind in ("w", "b"):
            for part in ("ih", "hh"):
                ours = {"w": "weight", "b": "bias"}[kind]
                names[f"{cell}.{ours}_{part}"] = f"{prefix}_{kind}_{part}"
        if model is decoder:
            names |= {"2.weight": "fc_w", "2.bias": "fc_b"}
        s.load_npz(model, path, names)
    return encoder, decoder


def test_g2p_spells_words_as_the_original_does() -> None:
    words = [word for word, _ in json.loads(golden("g2p_en.json").read_text())]
    wanted = golden_arrays("g2p_en.npz")
    encoder, decoder = _g2p()
    for word in words:
        stream = decoder.stream()
        letters = np.array([LETTERS.index(c) for c in word] + [LETTERS.index("</s>")])
        stream.state["decoder.h"] = encoder.stream().run(letters)[-1]
        sound, logits = START, []
        while sound != END and len(logits) < 20:
            logits.append(stream.step(sound))
            sound = int(logits[-1].argmax())
        assert_close(np.array(logits), wanted[f"g2p_{word}_logits"], 1e-4, word)


# Resemblyzer: who speaks, torch -------------------------------------------------------------------


def test_resemblyzer_embeds_a_voice_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    wanted = golden_arrays("resemblyzer.npz")
    state = torch.load(from_wheel(RESEMBLYZER), map_location="cpu", weights_only=True)
    weights = {
        name: array
        for name, array in state["model_state"].items()
        if name.startswith(("lstm.", "linear."))
    }
    lstm, linear = s.LSTM(40, 256, num_layers=3, name="lstm"), s.Linear(256, 256, name="linear")
    model = s.Sequential(lstm, linear, s.ReLU())
    model.load_state_dict(weights)
    stream = model.stream()
    last = run_in_pieces(stream, wanted["mel"], [80, 1, 79])[-1].astype(np.float64)
    assert_close(last / np.linalg.norm(last), wanted["embed"], 1e-5)
    for k in range(3):
        assert_close(stream.state[f"lstm_{k}.h"], wanted["h_last"][k, 0], 1e-5, f"layer {k}")


# RNNoise: noise suppression, C --------------------------------------------------------------------

N = 384


class _Entry(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("size", ctypes.c_int),
        ("data", ctypes.c_void_p),
    ]


@pytest.fixture(scope="module")
def rnnoise() -> dict[str, np.ndarray]:
    """Return the table of weights in RNNoise's library."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the library with RNNoise's weights is one for Linux")
    try:
        library = ctypes.CDLL(str(from_wheel(RNNOISE)))
    except OSError as error:
        pytest.skip(f"the library with RNNoise's weights cannot be opened: {error}")
    table = ctypes.c_char.in_dll(library, "rnnoise_arrays")
    entries = ctypes.cast(ctypes.addressof(table), ctypes.POINTER(_Entry))
    arrays, k = {}, 0
    while entries[k].name:
        entry = entries[k]
        kind = (np.float32, np.int32, np.int8, np.int8)[entry.type]
        content = ctypes.string_at(entry.data, entry.size)
        arrays[entry.name.decode()] = np.frombuffer(content, kind)
        k += 1
    return arrays


def _matrix(a: dict[str, np.ndarray], name: str, kind: str) -> np.ndarray:
    """Return a matrix (I, O) that is kept in blocks of 4 inputs and 8 outputs, or whole."""
    w, O = a[f"{name}_weights_{kind}"], a[f"{name}_bias"].size
    index = a.get(f"{name}_weights_idx")
    if index is None and kind == "float":
        return w.reshape(-1, O)
    rows = range(0, N, 4) if index is None else None
    blocks = iter(w.reshape(-1, 8, 4) if kind == "int8" else w.reshape(-1, 4, 8).swapaxes(1, 2))
    matrix = np.zeros((N, O), w.dtype)
    entries = iter(() if index is None else index)
    for o in range(0, O, 8):
        places = rows if rows is not None else [next(entries) for _ in range(next(entries))]
        for i in places:
            matrix[i : i + 4, o : o + 8] = next(blocks).T
    return matrix


def _conv(a: dict[str, np.ndarray], name: str, I: int, O: int) -> Layer:
    layer = s.Conv1d(I, O, 3, name=name)
    weight = _matrix(a, name, "float").reshape(3, I, O).transpose(2, 1, 0)
    layer.weights = {"weight": weight, "bias": a[f"{name}_bias"]}
    return layer


def _heads(a: dict[str, np.ndarray], x: Any, hidden: list[Any], feedback: Any = None) -> Layer:
    """Return the model whose outputs read all layers."""
    everything, outputs = concat(*hidden), {}
    for name, part in (("gains", "dense_out"), ("voice", "vad_dense")):
        head = s.Linear(4 * N, a[f"{part}_bias"].size, name=part)
        weight = a[f"{part}_weights_float"].reshape(4 * N, -1).T
        head.weights = {"weight": weight, "bias": a[f"{part}_bias"]}
        outputs[name] = s.Sigmoid()(head(everything))
    return Model(x, outputs, feedback=feedback)


def _rnnoise_float(a: dict[str, np.ndarray]) -> Layer:
    x = Input(65)
    hidden = [s.Tanh()(_conv(a, "conv2", 128, N)(s.Tanh()(_conv(a, "conv1", 65, 128)(x))))]
    for name in ("gru1", "gru2", "gru3"):
        recurrent = _matrix(a, f"{name}_recurrent", "float")
        diagonals = a[f"{name}_recurrent_weights_diag"].reshape(3, N)
        cell = s.GRUCell(N, N, name=name)
        cell.weights = s.gru_weights(
            _matrix(a, f"{name}_input", "float"),
            recurrent + np.hstack([np.diag(d) for d in diagonals]),
            np.stack([a[f"{name}_input_bias"], a[f"{name}_recurrent_bias"]]),
        )
        hidden.append(cell(hidden[-1]))
    return _heads(a, x, hidden)


def test_rnnoise_with_float_weights(rnnoise: dict[str, np.ndarray]) -> None:
    wanted = golden_arrays("rnnoise_0_2.npz")
    stream = _rnnoise_float(rnnoise).stream()
    gains, voice = run_in_pieces(stream, wanted["feat"], [1, 0, 99, 200])
    assert_close(gains, wanted["gains_f64"], 1e-5)
    assert_close(voice[:, 0], wanted["vad_f64"], 1e-5)
    # The C library itself approximates tanh; its own distance from float64 is 1.2e-3.
    assert_close(gains, wanted["gains"], 2e-3, "against C")
    assert_close(voice, wanted["vad_core"], 2e-3, "against C")


def _of_bytes(a: dict[str, np.ndarray], name: str, x: Any) -> Any:
    """Return a product of int8 weights and of x in steps of 1/127, scaled, with its bias."""
    weight = _matrix(a, name, "int8").T
    product = s.IntegerLinear(N, len(weight), signed=True, name=name)
    product.weights = {"weight_int8": weight}
    scaled = s.Affine(len(weight))
    scaled.weights = {"weight": a[f"{name}_scale"], "bias": a[f"{name}_bias"]}
    return scaled(product(s.Floor()(x * 127.0 + 0.5), s.Constant(())(x)))


def _rnnoise_int8(a: dict[str, np.ndarray]) -> Layer:
    x = Input(65)
    first = s.Recent(3)(s.Tanh()(_conv(a, "conv1", 65, 128)(x)))  # (128, 3)
    hidden = [s.Tanh()(_of_bytes(a, "conv2", s.Flatten()(s.Transpose((1, 0))(first))))]
    feedback = {}
    for name in ("gru1", "gru2", "gru3"):
        h = Past(N, name=f"{name}.h")(x)
        diagonal = s.Constant(3 * N)
        diagonal.weights = {"value": a[f"{name}_recurrent_weights_diag"]}
        of_x = _of_bytes(a, f"{name}_input", hidden[-1])
        of_h = _of_bytes(a, f"{name}_recurrent", h) + concat(h, h, h) * diagonal(h)
        z = s.Sigmoid()(of_x[:N] + of_h[:N])
        r = s.Sigmoid()(of_x[N : 2 * N] + of_h[N : 2 * N])
        n = s.Tanh()(of_x[2 * N :] + r * of_h[2 * N :])
        feedback[h] = n + z * (h - n)
        hidden.append(feedback[h])
    return _heads(a, x, hidden, feedback)


def test_rnnoise_with_int8_weights(rnnoise: dict[str, np.ndarray]) -> None:
    """As near as rounding lets it be: C's tanh is off by 1e-3, so bytes differ by one here and
    there, and a byte of 1/127 is fed back. The first frame has no such past.
    """
    wanted = golden_arrays("rnnoise_0_2.npz")
    model = _rnnoise_int8(rnnoise)
    gains, voice = model.stream().run(wanted["feat"])
    assert_close(gains[0], wanted["gains_int8"][0], 2e-3, "first frame")
    assert_close(gains, wanted["gains_int8"], 2e-2)
    assert_close(voice, wanted["vad_int8"], 3e-2)
    error = np.abs(gains - wanted["gains_int8"]).mean()
    assert error < 5e-4 < 2 * np.abs(gains - wanted["gains"]).mean()
    some = wanted["feat"][:40]
    assert_same(run_in_steps(model.stream(), some), (gains[:40], voice[:40]), "step by step")
