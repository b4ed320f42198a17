"""Time per token of generation, beside a loop in NumPy and one in torch.

A decoder of embedding, GRU and linear layer with 256 units, greedy, and beam searches of width 5;
vocabularies of 74 phonemes and of 10,000 words. All take turns on one thread; the loops' tokens are
compared with ours first. Prints a table in Markdown.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is loaded

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamrnn as sr
from streamrnn.decode import Sample, beam_search, generate

UNITS, TOKENS, ROUNDS = 256, 50, 40
Arrays = Mapping[str, Any]
Loop = Callable[[], list[int]]


def sigmoid(x: Any) -> Any:
    """Return ``1 / (1 + exp(-x))``."""
    return 1 / (1 + np.exp(-x))


def numpy_loop(w: Arrays) -> Loop:
    """Return greedy generation with nothing but NumPy, float32."""
    table, w_ih, w_hh = w["0.weight"], w["1.weight_ih_l0"], w["1.weight_hh_l0"]
    b_ih, b_hh, out, bias = w["1.bias_ih_l0"], w["1.bias_hh_l0"], w["2.weight"], w["2.bias"]

    def loop() -> list[int]:
        token, h, made = 2, np.zeros(UNITS, np.float32), []
        for _ in range(TOKENS):
            a_r, a_z, a_n = np.split(w_ih @ table[token] + b_ih, 3)
            r_r, r_z, r_n = np.split(w_hh @ h + b_hh, 3)
            z = sigmoid(a_z + r_z)
            n = np.tanh(a_n + sigmoid(a_r + r_r) * r_n)
            h = (1 - z) * n + z * h
            token = int((out @ h + bias).argmax())
            made.append(token)
        return made

    return loop


def torch_loop(w: Arrays) -> Loop | None:
    """Return greedy generation with torch's own layers in inference mode, or None without it."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    V = len(w["2.bias"])
    layers = torch.nn.Embedding(V, UNITS), torch.nn.GRU(UNITS, UNITS), torch.nn.Linear(UNITS, V)
    for i, layer in enumerate(layers):
        own = {n[2:]: torch.from_numpy(a) for n, a in w.items() if n.startswith(f"{i}.")}
        layer.load_state_dict(own)
    embedding, gru, linear = layers

    def loop() -> list[int]:
        token, h, made = torch.tensor([2]), torch.zeros(1, UNITS), []
        with torch.inference_mode():
            for _ in range(TOKENS):
                _, h = gru(embedding(token), h)
                token = linear(h).argmax(-1)
                made.append(int(token))
        return made

    return loop


def contenders(V: int) -> dict[str, Loop]:
    """Return what is compared for a vocabulary; raise SystemExit where greedy tokens differ."""
    model = sr.Sequential(
        sr.Embedding(V, UNITS, seed=0), sr.GRU(UNITS, UNITS, seed=0), sr.Linear(UNITS, V, seed=0)
    )
    stream, w = model.stream(), model.state_dict()

    def ours(**options: Any) -> list[int]:
        stream.reset()
        return [token for token, _ in generate(stream, 2, steps=TOKENS, **options)]

    def step() -> list[int]:
        stream.reset()
        token, out, made = 2, np.empty(V, np.float32), []
        for _ in range(TOKENS):
            stream.step(token, out)
            token = int(out.argmax())
            made.append(token)
        return made

    def beams() -> list[int]:
        stream.reset()
        return list(beam_search(stream, 2, width=5, steps=TOKENS)[0].tokens)

    found: dict[str, Loop | None] = {
        "`stream.step` in a loop": step,
        "`generate`, greedy": ours,
        "`generate`, top-k 40, top-p 0.9": lambda: ours(choose=Sample(0.8, 40, 0.9, seed=0)),
        "`beam_search`, width 5": beams,
        "NumPy, greedy": numpy_loop(w),
        "torch, greedy": torch_loop(w),
    }
    present = {name: loop for name, loop in found.items() if loop is not None}
    for name, loop in present.items():
        if "greedy" in name and loop() != step():
            raise SystemExit(f"{name} makes other tokens: the times must not be compared")
    return present


def medians_us(loops: Mapping[str, Loop]) -> dict[str, float]:
    """Return each one's median time per token, all by turns."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            before_ns = time.perf_counter_ns()
            loop()
            times[name].append((time.perf_counter_ns() - before_ns) / 1000 / TOKENS)
    return {name: float(np.median(each)) for name, each in times.items()}


def main() -> None:
    """Measure and print."""
    sizes = (74, 10_000)
    columns = [medians_us(contenders(V)) for V in sizes]
    print(f"| GRU {UNITS}, µs a token | {' | '.join(f'{V:,} tokens' for V in sizes)} |")
    print(f"|---|{'--:|' * len(sizes)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(f'{column[name]:.0f}' for column in columns)} |")


if __name__ == "__main__":
    main()
