"""What a stream costs in a pool, beside onnxruntime with a batch, and how many streams keep up.

Cells with 64 streams, on one thread, beside onnxruntime with a batch of 64; all take turns, outputs
are compared first. Then Silero VAD, whose frames are 32 ms of sound, with as many streams as there
are: a pool keeps up if a step of all of them takes less, 99 times of 100.

``python benchmarks/pool.py`` writes ``pool.md`` and ``pool.json`` to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamrnn as sr
from streamrnn.bench.machine import machine
from streamrnn.bench.report import table
from streamrnn.export import to_onnx

FOLDER = Path(__file__).resolve().parent / "results"
STREAMS, FRAME_MS = 64, 32
CELLS = [("LSTM", 16, 32), ("LSTM", 40, 128), ("LSTM", 40, 256), ("GRU", 40, 128), ("GRU", 40, 256)]
SILERO = [(1000, 1, "float32"), (2000, 2, "float32"), (5000, 2, "float32"), (5000, 2, "int8")]
"""Streams, threads, weights."""

Step = Callable[[], np.ndarray]


def times_ms(steps: Mapping[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Return the times of each one's calls, all by turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for name in steps:
        steps[name]()
    for _ in range(rounds):
        for name, step in steps.items():
            before_ns = time.perf_counter_ns()
            step()
            times[name].append((time.perf_counter_ns() - before_ns) / 1e6)
    return {name: np.array(each) for name, each in times.items()}


def batched(model: sr.Layer, xs: np.ndarray, folder: Path, **options: Any) -> Step:
    """Return a step of all streams in onnxruntime: states are bound and go back without copies."""
    path = folder / "batch.onnx"
    to_onnx(model, path, batch=len(xs), **options)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    inputs = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    (name,) = (n for n in inputs if not n.endswith("_in"))
    inputs[name][...] = xs.reshape(inputs[name].shape)
    values = {n: ort.OrtValue.ortvalue_from_numpy(a) for n, a in inputs.items()}
    outputs = {
        o.name: ort.OrtValue.ortvalue_from_numpy(np.zeros(o.shape, np.float32))
        for o in session.get_outputs()
    }
    states = {n: n.removesuffix("_in") + "_out" for n in values if n != name}
    (result,) = outputs.keys() - states.values()
    bindings = []
    for turn in range(2):  # what is read and what is written change places with every call
        binding = session.io_binding()
        binding.bind_ortvalue_input(name, values[name])
        binding.bind_ortvalue_output(result, outputs[result])
        for before, after in states.items():
            pair = [values[before], outputs[after]]
            binding.bind_ortvalue_input(before, pair[turn])
            binding.bind_ortvalue_output(after, pair[1 - turn])
        bindings.append(binding)

    def step() -> np.ndarray:
        session.run_with_iobinding(bindings[0])
        bindings.reverse()
        return np.asarray(outputs[result].numpy()).reshape(len(xs), -1)

    return step


def pooled(model: sr.Layer, xs: np.ndarray, threads: int = 1) -> Step:
    """Return a step of all streams in a pool."""
    pool = model.pool(threads=threads)
    ids = pool.join(len(xs))
    out = np.zeros((len(xs), *model.program().outputs[0].shape), np.float32)
    return lambda: np.asarray(pool.step(xs, ids, out=out))


def cells(rounds: int) -> list[dict[str, Any]]:
    """Measure cells beside onnxruntime."""
    found, rng = [], np.random.default_rng(0)
    for kind, inputs, units in CELLS:
        model = getattr(sr, kind)(inputs, units, seed=0)
        xs = rng.standard_normal((STREAMS, inputs)).astype(np.float32)
        small = model.quantize("int8", calibration=xs)
        with tempfile.TemporaryDirectory() as folder:
            steps = {
                "onnxruntime": batched(model, xs, Path(folder)),
                "float32": pooled(model, xs),
                "int8": pooled(small, xs),
            }
            for _ in range(3):
                theirs, ours, _ = (step() for step in steps.values())
                error = np.abs(theirs - ours).max()
                if error > 1e-4:
                    raise SystemExit(f"outputs differ by {error}: the times must not be compared")
            us = {
                n: 1000 * float(np.median(t)) / STREAMS for n, t in times_ms(steps, rounds).items()
            }
        found.append({"model": f"{kind} {inputs} -> {units}", **us})
        print(found[-1], file=sys.stderr)
    return found


def silero(rounds: int) -> list[dict[str, Any]]:
    """Measure how long a step of very many Silero streams takes."""
    import soundfile

    from assets import silero_onnx, speech_wav
    from silero import build

    model = build(silero_onnx())
    speech, _ = soundfile.read(speech_wav(), dtype="float32")
    frames = np.ascontiguousarray(speech[: len(speech) // 512 * 512].reshape(-1, 512))
    models = {"float32": model, "int8": model.quantize("int8", calibration=frames)}
    found = []
    for streams, threads, weights in SILERO:
        xs = frames[np.arange(streams) % len(frames)]
        step = pooled(models[weights], xs, threads)
        ms = times_ms({"step": step}, rounds)["step"]
        found.append(
            {
                "streams": streams, "threads": threads, "weights": weights,
                "median_ms": float(np.median(ms)), "p99_ms": float(np.percentile(ms, 99)),
            }
        )  # fmt: skip
        print(found[-1], file=sys.stderr)
    return found


def markdown(results: dict[str, Any]) -> str:
    """Return the tables."""
    rows = [
        [f"µs a stream, {STREAMS} streams", "onnxruntime", "pool", "ratio", "int8 pool", "ratio"]
    ]
    for r in results["cells"]:
        ort_us = r["onnxruntime"]
        ours = [x for k in ("float32", "int8") for x in (f"{r[k]:.2f}", f"{r[k] / ort_us:.2f}x")]
        rows.append([r["model"], f"{ort_us:.2f}", *ours])
    live = [["Silero VAD, a step of all streams", "median", "p99", f"of {FRAME_MS} ms"]]
    for r in results["silero"]:
        name = f"{r['streams']:,} streams, {r['threads']} threads, {r['weights']}"
        of = f"{r['p99_ms'] / FRAME_MS:.0%}"
        live.append([name, f"{r['median_ms']:.1f} ms", f"{r['p99_ms']:.1f} ms", of])
    about = "\n".join(f"- {what}: {value}" for what, value in results["machine"].items())
    return (
        f"# Pools\n\n{__doc__.split(chr(10) * 2)[1]}\n\n{about}\n- date: {results['date']}\n\n"
        f"{table(rows)}\n\n{table(live)}\n"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    given = parser.parse_args()
    rounds = 30 if given.quick else 200
    results = {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cells": cells(rounds),
        "silero": silero(max(rounds // 4, 20)),
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "pool.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (FOLDER / "pool.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
