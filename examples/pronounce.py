"""Say how English words are pronounced: letters in, phonemes out, one by one as they come.

An encoder reads the letters; its state is what the decoder begins with, and each phoneme that the
decoder chooses is what it reads next. ``--n-best`` adds the best of a beam search. The phonemes are
those of the CMU dictionary, digits are stress. Needs nothing but ``pip install streamrnn``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import assets
import streamrnn as sr
from streamrnn.decode import beam_search, generate, hand_over

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
OTHERS = "B CH D DH F G HH JH K L M N NG P R S SH T TH UW V W Y Z ZH"
STRESSED = [vowel + stress for vowel in VOWELS.split() for stress in "012"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted([*OTHERS.split(), *STRESSED])]
START, STOP = PHONEMES.index("<s>"), PHONEMES.index("</s>")
MOST_PHONEMES = 20
STATES = {"gru_0.h": "gru_0.h"}  # the decoder's is the encoder's last


def build(weights: Path) -> tuple[sr.Layer, sr.Layer]:
    """Return encoder and decoder with their trained weights."""
    encoder = sr.Sequential(sr.Embedding(len(LETTERS), 256), sr.GRU(256, 256))
    decoder = sr.Sequential(
        sr.Embedding(len(PHONEMES), 256), sr.GRU(256, 256), sr.Linear(256, len(PHONEMES))
    )
    names = {
        "0.weight": "emb",
        "1.weight_ih_l0": "w_ih",
        "1.weight_hh_l0": "w_hh",
        "1.bias_ih_l0": "b_ih",
        "1.bias_hh_l0": "b_hh",
    }
    with np.load(weights) as arrays:
        encoder.load_state_dict({name: arrays[f"enc_{own}"] for name, own in names.items()})
        head = {"2.weight": arrays["fc_w"], "2.bias": arrays["fc_b"]}
        decoder.load_state_dict({n: arrays[f"dec_{own}"] for n, own in names.items()} | head)
    return encoder, decoder


def read(word: str, encoder: sr.Stream, decoder: sr.Stream) -> None:
    """Run the encoder over a word, and let the decoder begin with what it has understood."""
    encoder.reset()
    for letter in [*word.lower(), "</s>"]:
        encoder.step(LETTERS.index(letter))
    hand_over(encoder, decoder, STATES)


def spelled(tokens: Iterable[int]) -> str:
    """Return phonemes as text."""
    return " ".join(PHONEMES[token] for token in tokens)


def pronounce(word: str, encoder: sr.Stream, decoder: sr.Stream, n_best: int) -> None:
    """Print a word's phonemes as they come, then the best pronunciations and their probability."""
    print(f"{word}:", end="", flush=True)
    read(word, encoder, decoder)
    for token, _ in generate(decoder.fork(), START, steps=MOST_PHONEMES, stop=STOP):
        print(f" {PHONEMES[token]}", end="", flush=True)
    print()
    if n_best > 1:
        for best in beam_search(decoder, START, width=n_best, steps=MOST_PHONEMES, stop=STOP):
            print(f"  {100 * np.exp(best.log_probability):5.1f} %  {spelled(best.tokens)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="+", help="words of the letters a to z")
    parser.add_argument("--n-best", type=int, default=1, metavar="N", help="pronunciations to show")
    args = parser.parse_args(argv)
    if args.n_best < 1:
        parser.error(f"--n-best must be at least 1, got {args.n_best}")
    for word in args.words:
        if not (word.isascii() and word.isalpha()):
            parser.error(f"words consist of the letters a to z, got {word!r}")
    try:
        encoder, decoder = build(assets.pronunciation_weights())
        streams = encoder.stream(), decoder.stream()
        for word in args.words:
            pronounce(word, *streams, args.n_best)
    except (assets.AssetError, sr.StreamrnnError) as error:
        print(f"pronounce.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
