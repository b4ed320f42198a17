"""What threads bring: a step of large models with one thread and with several.

Streams with one and with several threads take turns in one process; before, their outputs are
compared, bit for bit. "Back to back" are steps one after another; "every 10 ms" are steps with a
sleep in between, where members of the team are asleep and have to be woken. ONNX files given as
arguments are measured too. Prints a table and writes it to ``threads.md`` and ``threads.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamrnn as s
from streamrnn.kernels.team import cores

ROUNDS, TURN_S, LIVE_FRAMES, LIVE_S = 12, 0.02, 60, 0.01


def models(files: list[Path]) -> Iterator[tuple[str, s.Layer]]:
    """Give the models by name."""
    for H in (64, 128, 256, 512, 1024):
        yield f"LSTM 40, {H}", s.LSTM(40, H, seed=0)
    yield "LSTM 40, 256, 3 layers", s.LSTM(40, 256, num_layers=3, seed=0)
    yield "GRU 40, 256", s.GRU(40, 256, seed=0)
    yield "GRU 40, 512", s.GRU(40, 512, seed=0)
    yield "Linear 1024, 1024", s.Linear(1024, 1024, seed=0)
    for path in files:
        yield path.stem, s.load(path)


def turn(stream: s.Stream, x: Any, y: Any, seconds: float) -> list[int]:
    """Return the nanoseconds of steps back to back, for about so many seconds."""
    times, now = [], time.perf_counter_ns
    end = now() + int(seconds * 1e9)
    while (before := now()) < end:
        stream.step(x, y)
        times.append(now() - before)
    return times


def live(stream: s.Stream, x: Any, y: Any) -> list[int]:
    """Return the nanoseconds of steps that have a pause before each."""
    times = []
    for _ in range(LIVE_FRAMES):
        time.sleep(LIVE_S)
        before = time.perf_counter_ns()
        stream.step(x, y)
        times.append(time.perf_counter_ns() - before)
    return times


def measured(name: str, model: s.Layer, threads: int) -> dict[str, Any]:
    """Return one row of the table; times in microseconds."""
    streams = {1: model.stream(), threads: model.stream(threads=threads)}
    shape = streams[1].input_shape
    xs = np.random.default_rng(0).standard_normal((50, *shape)).astype(np.float32)
    results: list[Any] = [stream.run(xs) for stream in streams.values()]
    if any(r.tobytes() != results[0].tobytes() for r in results):
        raise SystemExit(f"{name}: threads change the result")
    y = np.empty_like(results[0][0])
    x = xs[0].copy()
    times: dict[int, list[int]] = {n: [] for n in streams}
    for stream in streams.values():
        turn(stream, x, y, TURN_S)
    for _ in range(ROUNDS):
        for n, stream in streams.items():
            times[n] += turn(stream, x, y, TURN_S)
    row: dict[str, Any] = {"model": name, "mb": 4 * model.program().weights.size / 1e6}
    for n, stream in streams.items():
        label = "one" if n == 1 else "several"
        row[label] = float(np.median(times[n])) / 1000
        row[f"{label}_p99"] = float(np.percentile(times[n], 99)) / 1000
        row[f"{label}_live"] = float(np.median(live(stream, x, y))) / 1000
    return row


def table(rows: list[dict[str, Any]], threads: int) -> str:
    """Return the rows in Markdown."""
    lines = [
        f"Microseconds a step called from Python, median (p99); {threads} threads on "
        f"{cores()} cores, {platform.machine()}, {date.today()}.",
        "",
        f"| model | weights | 1 thread | {threads} threads | faster | every 10 ms: 1 | {threads} |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['mb']:.1f} MB | {r['one']:.1f} ({r['one_p99']:.0f}) "
            f"| {r['several']:.1f} ({r['several_p99']:.0f}) | {r['one'] / r['several']:.2f} times "
            f"| {r['one_live']:.0f} | {r['several_live']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="ONNX files of models with one input")
    parser.add_argument("--threads", type=int, default=min(cores(), 2))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    rows = [measured(name, model, given.threads) for name, model in models(given.files)]
    text = table(rows, given.threads)
    print(text)
    (given.out / "threads.md").write_text(text)
    (given.out / "threads.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
