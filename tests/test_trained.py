"""Models that others have trained, in Keras, torch, NumPy and C: each gives its own numbers.

The numbers come from the models' own runtimes (``STREAMRNN_GOLDEN``), the weights from published
packages; neither is part of this repository.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, run_in_pieces, run_in_steps
from sources import G2P, TEXTGENRNN, from_archive, from_wheel, golden, golden_arrays
from streamrnn import Layer
from trained import resemblyzer, rnnoise_float, rnnoise_int8, rnnoise_table, textgenrnn

# textgenrnn: characters, Keras 2 ------------------------------------------------------------------


def test_textgenrnn_continues_a_text_as_in_keras() -> None:
    wanted = golden_arrays("textgenrnn.npz")["probs"]
    model = textgenrnn()
    _, vocabulary = from_archive(TEXTGENRNN)
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
    wanted = golden_arrays("resemblyzer.npz")
    stream = resemblyzer().stream()
    last = run_in_pieces(stream, wanted["mel"], [80, 1, 79])[-1].astype(np.float64)
    assert_close(last / np.linalg.norm(last), wanted["embed"], 1e-5)
    for k in range(3):
        assert_close(stream.state[f"lstm_{k}.h"], wanted["h_last"][k, 0], 1e-5, f"layer {k}")


# RNNoise: noise suppression, C --------------------------------------------------------------------


@pytest.fixture(scope="module")
def rnnoise() -> dict[str, np.ndarray]:
    return rnnoise_table()


def test_rnnoise_with_float_weights(rnnoise: dict[str, np.ndarray]) -> None:
    wanted = golden_arrays("rnnoise_0_2.npz")
    stream = rnnoise_float(rnnoise).stream()
    gains, voice = run_in_pieces(stream, wanted["feat"], [1, 0, 99, 200])
    assert_close(gains, wanted["gains_f64"], 1e-5)
    assert_close(voice[:, 0], wanted["vad_f64"], 1e-5)
    # The C library itself approximates tanh; its own distance from float64 is 1.2e-3.
    assert_close(gains, wanted["gains"], 2e-3, "against C")
    assert_close(voice, wanted["vad_core"], 2e-3, "against C")


def test_rnnoise_with_int8_weights(rnnoise: dict[str, np.ndarray]) -> None:
    """As near as rounding lets it be: C's tanh is off by 1e-3, so bytes differ by one here and
    there, and a byte of 1/127 is fed back. The first frame has no such past.
    """
    wanted = golden_arrays("rnnoise_0_2.npz")
    model = rnnoise_int8(rnnoise)
    gains, voice = model.stream().run(wanted["feat"])
    assert_close(gains[0], wanted["gains_int8"][0], 2e-3, "first frame")
    assert_close(gains, wanted["gains_int8"], 2e-2)
    assert_close(voice, wanted["vad_int8"], 3e-2)
    error = np.abs(gains - wanted["gains_int8"]).mean()
    assert error < 5e-4 < 2 * np.abs(gains - wanted["gains"]).mean()
    unsigned = rnnoise_int8(rnnoise, signed=False).stream().run(wanted["feat"])
    assert_same(unsigned, (gains, voice), "unsigned bytes")
    some = wanted["feat"][:40]
    assert_same(run_in_steps(model.stream(), some), (gains[:40], voice[:40]), "step by step")
