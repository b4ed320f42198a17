"""Write ``keras/``: small models as Keras 3 saves them, and what Keras computes with them.

Run it by hand, with Keras 3 and torch installed::

    KERAS_BACKEND=torch python tests/golden/make_keras.py

Each model is a ``.keras`` file, the first also ``.h5`` and ``.weights.h5``; ``outputs.npz`` holds
inputs and outputs as ``case/x0``, ``case/y0``, … . Everything is seeded: the numbers are the same
each time up to rounding.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers as L

T = 24
HERE = Path(__file__).parent / "keras"


def chain(*layers: Any, width: int = 3) -> Any:
    """Return a Sequential model for sequences of any length."""
    return keras.Sequential([keras.Input((None, width)), *layers])


def functional() -> Any:
    """Return two inputs, branches, arithmetic and two outputs."""
    ids, x = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None, 3), name="x")
    both = L.Concatenate()([L.Embedding(10, 4)(ids), x])
    h = L.GRU(3, return_sequences=True)(both)
    h = L.Add()([h, x]) * 2.0 - 0.5
    h = 1.0 - L.Average()([h, L.Maximum()([x, L.Activation("tanh")(h)])])
    return keras.Model([ids, x], [L.Dense(2, "softmax", name="a")(h), L.LSTM(2, name="b")(h)])


def shared() -> Any:
    """Return a model with a layer that stands in two places."""
    x = keras.Input((None, 3), name="x")
    dense = L.Dense(3, "elu")
    return keras.Model(x, L.Subtract()([dense(dense(x)), L.ReLU(6.0)(x)]))


MODELS = {
    "lstm": lambda: chain(
        L.LSTM(4, return_sequences=True), L.Dropout(0.5), L.Dense(3, activation="softmax")
    ),
    "lstm_variant": lambda: chain(
        L.LSTM(4, "softsign", "hard_sigmoid", use_bias=False, return_sequences=True)
    ),
    "lstm_stateful": lambda: keras.Sequential(
        [keras.Input(batch_shape=(1, None, 3)), L.LSTM(4, stateful=True)]
    ),
    "gru_after": lambda: chain(L.GRU(4, return_sequences=True)),
    "gru_before": lambda: chain(L.GRU(4, reset_after=False, return_sequences=True)),
    "gru_variant": lambda: chain(
        L.GRU(4, "relu", "hard_sigmoid", return_sequences=True),
        L.GRU(2, "elu", "hard_sigmoid", reset_after=False, return_sequences=True),
    ),
    "rnn": lambda: chain(
        L.SimpleRNN(4, return_sequences=True), L.SimpleRNN(4, "relu", return_sequences=True)
    ),
    "last": lambda: chain(L.GRU(4), L.Reshape((2, 2)), L.Flatten(), L.Dense(1, "sigmoid")),
    "cells": lambda: chain(
        L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.GRUCell(2)]), return_sequences=True),
        L.RNN(L.SimpleRNNCell(2), return_sequences=True),
    ),
    "conv": lambda: chain(
        L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
        L.BatchNormalization(scale=False),
        L.Conv1D(6, 2, padding="causal", groups=2),
        L.PReLU(shared_axes=[1]),
        L.LayerNormalization(center=False),
        L.TimeDistributed(L.Dense(2)),
        L.LeakyReLU(0.1),
        L.Softmax(),
    ),
    "conv_strided": lambda: chain(L.Conv1D(4, 3, strides=2, padding="causal")),
    "conv_valid": lambda: chain(L.Conv1D(4, 3, dilation_rate=2), L.LSTM(2, return_sequences=True)),
    "functional": functional,
    "shared": shared,
}


def main() -> None:
    """Write the files."""
    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(20240229)
    rng = np.random.default_rng(20240229)
    HERE.mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for case, make in MODELS.items():
        keras.backend.clear_session()
        model = make()
        model.set_weights(
            [
                rng.uniform(0.3, 0.9, w.shape) if "variance" in w.path else rng.normal(0, 0.7, w.shape)
                for w in model.weights
            ]
        )
        xs = [
            rng.integers(0, 10, (1, T)) if x.dtype == "int32" else rng.normal(0, 1, (1, T, 3))
            for x in model.inputs
        ]
        outputs = prefixes(model, xs)
        for letter, several in (("x", xs), ("y", outputs)):
            for i, array in enumerate(several):
                kind = np.float32 if array.dtype.kind == "f" else np.int64
                arrays[f"{case}/{letter}{i}"] = array.astype(kind)
        model.save(HERE / f"{case}.keras")
        deflate(HERE / f"{case}.keras")
        if case == "lstm":
            model.save(HERE / f"{case}.h5")
            model.save_weights(HERE / f"{case}.weights.h5")
            (HERE / f"{case}.json").write_text(model.to_json())
    np.savez_compressed(HERE / "outputs.npz", **arrays)
    for path in sorted(HERE.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")


def prefixes(model: Any, xs: list[Any]) -> list[Any]:
    """Return the outputs; of what Keras makes of a whole sequence, that of every beginning."""

    def run(length: int) -> list[Any]:
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_states()
        given = [x[:, :length] for x in xs]
        made = model(given if len(given) > 1 else given[0], training=False)
        return [keras.ops.convert_to_numpy(y) for y in (made if isinstance(made, list) else [made])]

    whole = run(T)
    lasts = [np.stack([run(t)[i][0] for t in range(1, T + 1)]) if y.ndim == 2 else y[0]
             for i, y in enumerate(whole)]
    return lasts


def deflate(path: Path) -> None:
    """Compress an archive; Keras stores without compression."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
