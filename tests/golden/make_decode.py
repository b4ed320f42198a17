"""Write ``decode.npz``: what Silero, fast-ctc-decode, jiwer and scikit-learn make of seeded input.

Run it by hand, with torch, silero-vad, fast-ctc-decode, jiwer and scikit-learn installed, and with
STREAMRNN_GOLDEN naming the folder of Silero's golden probabilities::

    python tests/golden/make_decode.py

``vad_*``: probabilities of speech, settings (sample rate in Hz, threshold, shortest silence and
padding in ms), and for each setting the events of ``VADIterator`` (1 start, 0 end; sample) and the
segments of ``get_speech_timestamps_from_probs``. ``ctc_*``: probabilities, and the best text at each
width. The rest is named after what it is.
"""

from __future__ import annotations

import os
from pathlib import Path

import fast_ctc_decode
import jiwer
import numpy as np
import sklearn.metrics as sk
import torch
from silero_vad.utils_vad import VADIterator, get_speech_timestamps_from_probs

SETTINGS = [(16000, 0.5, 100, 30), (16000, 0.3, 250, 100), (8000, 0.8, 0, 0), (16000, 0.6, 64, 32)]
WIDTHS = [1, 2, 3, 5, 10, 30]


class Played:
    """A model that says what it is told."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.rest = iter(probabilities)

    def reset_states(self) -> None:
        """Do nothing."""

    def __call__(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        """Return the next probability."""
        return torch.tensor(next(self.rest))


def voices(rng: np.random.Generator) -> np.ndarray:
    """Return Silero's probabilities of real speech, and others that cross thresholds often."""
    with np.load(Path(os.environ["STREAMRNN_GOLDEN"], "silero_v6_16k.npz")) as arrays:
        real = arrays["probs"]
    walk = np.cumsum(rng.normal(0, 0.12, 3000))
    wander = np.abs((walk % 2) - 1)  # reflected at 0 and 1
    steps = np.repeat(rng.choice([0.05, 0.4, 0.95], 400), rng.integers(1, 8, 400))
    return np.concatenate([real, wander, steps]).astype(np.float32)


def detected(p: np.ndarray) -> dict[str, np.ndarray]:
    """Return what Silero's own rules make of probabilities."""
    found = {"vad_probabilities": p, "vad_settings": np.array(SETTINGS)}
    for i, (rate, threshold, silence_ms, pad_ms) in enumerate(SETTINGS):
        n = 512 * rate // 16000
        iterator = VADIterator(Played(p), threshold, rate, silence_ms, pad_ms)
        events = [iterator(torch.zeros(n)) for _ in p]
        pairs = [(int(k == "start"), v) for e in events if e for k, v in e.items()]
        found[f"vad_events_{i}"] = np.array(pairs)
        segments = get_speech_timestamps_from_probs(
            p.tolist(),
            sampling_rate=rate,
            threshold=threshold,
            min_silence_duration_ms=silence_ms,
            speech_pad_ms=pad_ms,
        )
        found[f"vad_segments_{i}"] = np.array([(s["start"], s["end"]) for s in segments])
    return found


def spelled(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return probabilities of tokens, and what fast-ctc-decode reads."""
    logits = rng.normal(0, 1, (8, 40, 7)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    alphabet = "-abcdef"
    texts = [
        [fast_ctc_decode.beam_search(one, alphabet, beam_size=w)[0] for w in WIDTHS] for one in p
    ]
    greedy = [fast_ctc_decode.viterbi_search(one, alphabet)[0] for one in p]
    return {
        "ctc_probabilities": p,
        "ctc_widths": np.array(WIDTHS),
        "ctc_texts": np.array(texts),
        "ctc_greedy": np.array(greedy),
    }


def measured(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return scores, labels, forecasts and texts, and what scikit-learn and jiwer measure."""
    truth = rng.integers(0, 5, 400)  # label 5 never comes
    guess = np.where(rng.random(400) < 0.6, truth, rng.integers(0, 4, 400))
    prf = sk.precision_recall_fscore_support(truth, guess, labels=range(6), zero_division=0)
    positive = rng.integers(0, 2, 2000)
    scores = 1 / (1 + np.exp(-rng.normal(1.2 * positive - 0.6, 1.0)))
    scores[:600] = np.round(scores[:600], 2)  # equals
    y, f = rng.normal(0, 3, (2, 300, 4))
    words = np.array("the a cat dog sat on mat red big ran".split())
    texts = [[" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(30)] for _ in "rh"]
    return {
        "labels": np.stack([truth, guess]),
        "confusion": sk.confusion_matrix(truth, guess, labels=range(6)),
        "accuracy": sk.accuracy_score(truth, guess),
        "precision_recall_f1": np.array(prf[:3]),
        "positive": positive,
        "scores": scores,
        "roc_auc": sk.roc_auc_score(positive, scores),
        "forecasts": np.stack([f, y]),
        "mae": sk.mean_absolute_error(y, f),
        "rmse": sk.root_mean_squared_error(y, f),
        "texts": np.array(texts),
        "wer": jiwer.wer(*texts),
        "cer": jiwer.cer(*texts),
    }


if __name__ == "__main__":
    random = np.random.default_rng(20261124)
    arrays = detected(voices(random)) | spelled(random) | measured(random)
    np.savez_compressed(Path(__file__).with_name("decode.npz"), **arrays)
