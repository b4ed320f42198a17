"""Models that others have trained, built in Python and given the weights that they have published.

``sources.py`` says where weights come from. What cannot be had skips the test, with the reason.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from sources import RESEMBLYZER, RNNOISE, TEXTGENRNN, from_archive, from_wheel, golden
from streamrnn import Input, Layer, Model, Past, concat

__all__ = [
    "resemblyzer",
    "resemblyzer_weights",
    "rnnoise_float",
    "rnnoise_int8",
    "rnnoise_table",
    "rtneural_torch",
    "streamflow",
    "textgenrnn",
]

# textgenrnn: characters, Keras 2 ------------------------------------------------------------------


def textgenrnn() -> Layer:
    """Return the model; its attention, an average over the text so far, is built of ops."""
    pytest.importorskip("h5py")
    ids = Input((), "int64")
    embedded = s.Embedding(465, 100, name="embedding")(ids)
    first = s.LSTM(100, 128, name="rnn_1")(embedded)
    x = concat(embedded, first, s.LSTM(128, 128, name="rnn_2")(first))
    weight = s.Exp()(s.Linear(356, 1, bias=False, name="attention")(x))
    total, count = Past(356)(x), Past(1)(x)
    new_total, new_count = total + x * weight, count + weight
    y = s.Softmax()(s.Linear(356, 465, name="output")(new_total / new_count))
    model = Model(ids, y, feedback={total: new_total, count: new_count})
    weights, _ = from_archive(TEXTGENRNN)
    return s.from_keras(weights, model)


# Resemblyzer: who speaks, torch -------------------------------------------------------------------


def resemblyzer_weights() -> dict[str, Any]:
    """Return torch's tensors of the three layers of LSTM and the linear one."""
    torch = pytest.importorskip("torch")
    state = torch.load(from_wheel(RESEMBLYZER), map_location="cpu", weights_only=True)
    names = [n for n in state["model_state"] if n.startswith(("lstm.", "linear."))]
    return {name: state["model_state"][name] for name in names}


def resemblyzer() -> Layer:
    """Return the speaker encoder, up to the norm of its last output."""
    lstm, linear = s.LSTM(40, 256, num_layers=3, name="lstm"), s.Linear(256, 256, name="linear")
    model = s.Sequential(lstm, linear, s.ReLU())
    model.load_state_dict(resemblyzer_weights())
    return model


# Streamflow: the water of a river, hour by hour ---------------------------------------------------


def streamflow(data: Mapping[str, Any]) -> Layer:
    """Return NOAA's streamflow forecaster: LSTM 4 -> 126 and a linear head."""
    model = s.Sequential(s.LSTM(4, 126, name="lstm"), s.Linear(126, 1, name="head"))
    model.load_state_dict(
        {
            n.removeprefix("weights/").replace("head.net.0", "head"): a
            for n, a in data.items()
            if n.startswith("weights/")
        }
    )
    return model


# RTNeural: its export from torch ------------------------------------------------------------------


def rtneural_torch(kind: str) -> Layer:
    """Return RTNeural's stack of ``"lstm"`` or ``"gru"`` layers; its file has torch's names."""
    stack = {"lstm": s.LSTM, "gru": s.GRU}[kind]
    model = s.Sequential(
        stack(1, 8, name=kind),
        stack(8, 8, num_layers=3, name=f"{kind}2"),
        s.Linear(8, 1, name="dense"),
    )
    content = json.loads(golden(f"rtneural/{kind}_torch.json").read_text())
    model.load_state_dict({key: np.asarray(value, np.float32) for key, value in content.items()})
    return model


# RNNoise: noise suppression, C --------------------------------------------------------------------

N = 384


class _Entry(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("size", ctypes.c_int),
        ("data", ctypes.c_void_p),
    ]


def rnnoise_table() -> dict[str, np.ndarray]:
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


def rnnoise_float(a: dict[str, np.ndarray]) -> Layer:
    """Return the model with float32 weights."""
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


def _of_bytes(a: dict[str, np.ndarray], name: str, x: Any, signed: bool) -> Any:
    """Return a product of int8 weights and of x in steps of 1/127, scaled, with its bias."""
    weight = _matrix(a, name, "int8").T
    product = s.IntegerLinear(N, len(weight), signed=signed, name=name)
    product.weights = {"weight_int8": weight}
    scaled = s.Affine(len(weight))
    scaled.weights = {"weight": a[f"{name}_scale"], "bias": a[f"{name}_bias"]}
    steps, zero = s.Floor()(x * 127.0 + 0.5), s.Constant(())
    if not signed:
        steps, zero.weights = steps + 128.0, {"value": np.float32(128)}
    return scaled(product(steps, zero(x)))


def rnnoise_int8(a: dict[str, np.ndarray], signed: bool = True) -> Layer:
    """Return the model with int8 weights; what they multiply is in signed or in unsigned bytes."""
    x = Input(65)
    first = s.Recent(3)(s.Tanh()(_conv(a, "conv1", 65, 128)(x)))  # (128, 3)
    hidden = [s.Tanh()(_of_bytes(a, "conv2", s.Flatten()(s.Transpose((1, 0))(first)), signed))]
    feedback = {}
    for name in ("gru1", "gru2", "gru3"):
        h = Past(N, name=f"{name}.h")(x)
        diagonal = s.Constant(3 * N)
        diagonal.weights = {"value": a[f"{name}_recurrent_weights_diag"]}
        of_x = _of_bytes(a, f"{name}_input", hidden[-1], signed)
        of_h = _of_bytes(a, f"{name}_recurrent", h, signed) + concat(h, h, h) * diagonal(h)
        z = s.Sigmoid()(of_x[:N] + of_h[:N])
        r = s.Sigmoid()(of_x[N : 2 * N] + of_h[N : 2 * N])
        n = s.Tanh()(of_x[2 * N :] + r * of_h[2 * N :])
        feedback[h] = n + z * (h - n)
        hidden.append(feedback[h])
    return _heads(a, x, hidden, feedback)
