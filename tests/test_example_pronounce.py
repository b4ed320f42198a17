"""The example that pronounces words: real weights, held against golden data and against torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assets
import pronounce
import streamrnn as sr
from streamrnn.decode import beam_search, generate

WORDS = "streaming recurrent inference gated numba florble zyxwv".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def weights() -> Path:
    try:
        return assets.pronunciation_weights()
    except assets.AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def streams(weights: Path) -> tuple[sr.Stream, sr.Stream]:
    encoder, decoder = pronounce.build(weights)
    return encoder.stream(), decoder.stream()


def _golden(name: str) -> Path:
    folder = os.environ.get("STREAMRNN_GOLDEN")
    if not folder:
        pytest.skip(f"STREAMRNN_GOLDEN is not set: no {name} to compare with")
    return Path(folder) / name


def _greedy(decoder: sr.Stream) -> list[int]:
    tokens = generate(decoder, pronounce.START, steps=20, stop=pronounce.STOP)
    return [token for token, _ in tokens]


def test_all_golden_words_are_pronounced_as_they_should_be(
    streams: tuple[sr.Stream, sr.Stream],
) -> None:
    words = json.loads(_golden("g2p_en.json").read_text(encoding="utf-8"))
    assert len(words) == 10
    for word, phonemes in words:
        pronounce.read(word, *streams)
        assert pronounce.spelled(_greedy(streams[1])) == phonemes, word


def test_every_logit_is_the_golden_one(streams: tuple[sr.Stream, sr.Stream]) -> None:
    with np.load(_golden("g2p_en.npz")) as golden:
        wanted = {name.split("_")[1]: golden[name] for name in golden}
    assert len(wanted) == 10
    for word, logits in wanted.items():
        pronounce.read(word, *streams)
        tokens = [pronounce.START, *logits.argmax(1)[:-1]]
        np.testing.assert_allclose(streams[1].run(np.array(tokens)), logits, atol=1e-4)


class Torch:
    """The same encoder and decoder in torch."""

    def __init__(self, weights: Path) -> None:
        self.torch: Any = pytest.importorskip("torch")
        with np.load(weights) as file:
            self.w = {name: self.torch.from_numpy(file[name]) for name in file}

    def gru(self, side: str, tokens: list[int], h: Any) -> Any:
        gru = self.torch.nn.GRU(256, 256)
        names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
        gru.load_state_dict({f"{n}_l0": self.w[f"{side}_{own}"] for n, own in names.items()})
        return gru(self.w[f"{side}_emb"][tokens], h)[1]

    def log_probability(self, word: str, phonemes: tuple[int, ...]) -> float:
        """Return that of a whole pronunciation, with its end."""
        with self.torch.no_grad():
            letters = [pronounce.LETTERS.index(letter) for letter in [*word, "</s>"]]
            h, total = self.gru("enc", letters, None), 0.0
            for fed, token in zip(
                [pronounce.START, *phonemes], [*phonemes, pronounce.STOP], strict=True
            ):
                h = self.gru("dec", [fed], h)
                logits = h[0] @ self.w["fc_w"].T + self.w["fc_b"]
                total += float(self.torch.log_softmax(logits.double(), 0)[token])
        return total


@pytest.mark.parametrize("word", WORDS)
def test_beams_are_at_least_as_good_as_greedy_and_as_probable_as_torch_says(
    word: str, weights: Path, streams: tuple[sr.Stream, sr.Stream]
) -> None:
    pronounce.read(word, *streams)
    found = beam_search(
        streams[1], pronounce.START, width=5, steps=pronounce.MOST_PHONEMES, stop=pronounce.STOP
    )
    assert len({h.tokens for h in found}) == 5
    assert all(h.ended for h in found)
    other = Torch(weights)
    for h in found[:2]:
        assert abs(other.log_probability(word, h.tokens) - h.log_probability) < 1e-4
    greedy = other.log_probability(word, tuple(_greedy(streams[1])))
    assert found[0].log_probability >= greedy - 1e-4


def test_the_command_prints_phonemes_and_runners_up(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pronounce.main(["Streaming", "gated", "--n-best", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Streaming: S T R IY1 M IH0 NG",
        "   95.3 %  S T R IY1 M IH0 NG",
        "    4.2 %  S T R EH1 M IH0 NG",
        "gated: G EY1 T IH0 D",
        "   64.8 %  G EY1 T IH0 D",
        "   31.9 %  G EY1 T AH0 D",
    ]


def test_a_phoneme_is_printed_before_the_next_one_is_computed(
    streams: tuple[sr.Stream, sr.Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(pronounce, "print", lambda *a, **_: events.append("print"), raising=False)
    step = sr.Stream.step

    def noted(self: sr.Stream, *args: Any) -> Any:
        events.append("step")
        return step(self, *args)

    monkeypatch.setattr(sr.Stream, "step", noted)
    pronounce.pronounce("gated", *streams, 1)
    letters = len("gated") + 1
    assert events == ["print", *["step"] * letters, *["step", "print"] * 5, "step", "print"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["don't"], 'words consist of the letters a to z, got "don\'t"'),
        (["naïve"], "words consist of the letters a to z, got 'naïve'"),
        (["word", "--n-best", "0"], "--n-best must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_in_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        pronounce.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_network_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline() -> Path:
        raise assets.AssetError("is this machine offline?")

    monkeypatch.setattr(assets, "pronunciation_weights", offline)
    assert pronounce.main(["word"]) == 2
    assert capsys.readouterr().err == "pronounce.py: is this machine offline?\n"
