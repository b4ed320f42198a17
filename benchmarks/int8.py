"""int8 weights beside float32 and beside onnxruntime's int8: time of a step, bytes and errors.

Cells have seeded weights and read noise; Silero VAD and NSNet2 read 30 seconds of speech. A step is
``stream.step(x, out=y)`` from Python; onnxruntime's is its own dynamic quantisation of our float
step graph (DynamicQuantizeLSTM; GRU has no int8 form there, its products have), as an
``OnnxStream``: io-binding, and some 4 us of checks and copies. One thread each. All take turns;
medians. Errors are those over 10,000 frames, each model with its own states. dB is the ratio of the
output's power to that of its error.

``python benchmarks/int8.py`` writes ``int8.md`` and ``int8.json`` to benchmarks/results; with
``--only WORD`` it measures the models whose name holds the word, and keeps the others' results.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamrnn as sr
from streamrnn.bench.machine import machine
from streamrnn.bench.report import table
from streamrnn.export import OnnxStream, Quantization, to_onnx
from streamrnn.quantize import compare

Array = npt.NDArray[np.float32]

FOLDER = Path(__file__).resolve().parent / "results"
ROUNDS, ROUND_S = 15, 0.01
FRAMES = 10_000


def seeded(layer: sr.Layer) -> sr.Layer:
    """Give a layer weights that forget."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, w in layer.state_dict().items():
        gain = 0.8 if "weight_hh" in name else 1.0
        scale = gain / np.sqrt(w.shape[-1]) if w.ndim > 1 else 0.1
        weights[name] = (scale * rng.standard_normal(w.shape)).astype(np.float32)
    layer.load_state_dict(weights)
    return layer


def real_cases() -> dict[str, tuple[sr.Layer, Array]]:
    """Return published models and what they hear in a recording of speech."""
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "examples"), str(root / "tests")]
    tests: Any = importlib.import_module("test_import_onnx")
    assets: Any = importlib.import_module("assets")
    silero: Any = importlib.import_module("silero")
    soundfile: Any = importlib.import_module("soundfile")
    samples, _ = soundfile.read(assets.speech_wav(), dtype="float32")
    blocks = np.ascontiguousarray(samples[: len(samples) // 512 * 512].reshape(-1, 512))
    nsnet2 = sr.load(tests.fetched(tests.NSNET2, "nsnet2-20ms-baseline.onnx"))
    windows = np.lib.stride_tricks.sliding_window_view(samples, 320)[::160]
    spectra = np.abs(np.fft.rfft(windows * np.sqrt(np.hanning(320)))) ** 2
    features = np.log10(np.maximum(spectra, 1e-12)).astype(np.float32)
    return {
        "Silero VAD": (silero.build(assets.silero_onnx()), blocks),
        "NSNet2": (nsnet2, features),
    }


def medians(steps: list[Callable[[], object]]) -> list[float]:
    """Return the median time of each step over rounds in turns, microseconds."""
    times: list[list[float]] = [[] for _ in steps]
    counts = []
    for step in steps:
        begin = time.perf_counter()
        for _ in range(20):
            step()
        counts.append(max(10, int(ROUND_S / (time.perf_counter() - begin) * 20)))
    for _ in range(ROUNDS):
        for step, n, found in zip(steps, counts, times, strict=True):
            begin = time.perf_counter()
            for _ in range(n):
                step()
            found.append((time.perf_counter() - begin) / n * 1e6)
    return [float(np.median(found)) for found in times]


def stepper(stream: Any, x: Array) -> Callable[[], object]:
    """Return a step of a stream into a buffer."""
    y = stream.step(x)
    out = tuple(map(np.empty_like, y)) if isinstance(y, tuple) else np.empty_like(y)
    return lambda: stream.step(x, out)


def measured(label: str, model: sr.Layer, xs: Array, peer: bool) -> dict[str, Any]:
    """Return the times, bytes and errors of a model and of its int8 form."""
    made = model.quantize("int8", calibration=xs[:1000])
    steps = [stepper(model.stream(), xs[0]), stepper(made.stream(), xs[0])]
    if peer:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            quantization = Quantization("int8", steps=100)
            to_onnx(model, path, quantize=quantization, calibration=xs[:200])
            steps.append(stepper(OnnxStream(path), xs[0]))
    times = medians(steps)
    report = compare(model, made, xs, FRAMES)
    name = next(iter(report.sums))
    errors = report.errors(name)
    return {
        "model": label,
        "float_us": times[0],
        "int8_us": times[1],
        "onnxruntime_int8_us": times[2] if peer else None,
        "float_bytes": report.float_bytes,
        "int8_bytes": report.quantised_bytes,
        "snr_db": {str(n): errors[n]["snr_db"] for n in (100, FRAMES)},
        "max_abs": errors[FRAMES]["max_abs"],
        "quantised": report.quantised,
        "kept": report.kept,
    }


HEADS = [
    "model", "float32 µs", "int8 µs", "ratio", "onnxruntime int8 µs", "ratio", "float kB",
    "int8 kB", "dB to 100", "dB to 10,000", "max abs",
]  # fmt: skip


def row(found: dict[str, Any]) -> list[str]:
    """Return one line of the table."""
    peer, own = found["onnxruntime_int8_us"], found["int8_us"]
    return [
        found["model"],
        f"{found['float_us']:.2f}",
        f"{own:.2f}",
        f"{found['float_us'] / own:.2f}",
        f"{peer:.2f}" if peer else "",
        f"{peer / own:.2f}" if peer else "",
        f"{found['float_bytes'] / 1000:,.0f}",
        f"{found['int8_bytes'] / 1000:,.0f}",
        *(f"{db:.1f}" for db in found["snr_db"].values()),
        f"{found['max_abs']:.1e}",
    ]


def real(label: str) -> dict[str, Any]:
    """Return what a published model costs."""
    model, xs = real_cases()[label]
    return measured(label, model, xs, peer=False)


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what measures each model, by its name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}

    def add(label: str, make: Callable[[], sr.Layer], peer: bool) -> None:
        xs = np.random.default_rng(1).standard_normal((2000, 40)).astype(np.float32)
        found[label] = lambda: measured(label, seeded(make()), xs, peer)

    for kind in (sr.LSTM, sr.GRU, sr.RNN):
        for hidden in (64, 128, 256, 512, 1024):
            peer = kind is sr.LSTM or (kind is sr.GRU and hidden == 256)
            label = f"{kind.__name__} 40, {hidden}"
            add(label, functools.partial(kind, 40, hidden), peer)
    add("3 x LSTM 40, 256", lambda: sr.LSTM(40, 256, 3), True)
    for label in ("Silero VAD", "NSNet2"):
        found[label] = functools.partial(real, label)
    return found


def main() -> None:
    """Measure everything, or some models, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where to write")
    parser.add_argument("--only", default="", metavar="WORD", help="models whose name holds it")
    given = parser.parse_args()
    file, results = given.out / "int8.json", {}
    if given.only and file.exists():
        results = {found["model"]: found for found in json.loads(file.read_text())["results"]}
    every = cases()
    for label, measure in every.items():
        if given.only in label:
            results[label] = measure()
            print(" | ".join(row(results[label])), flush=True)
    ordered = [results[label] for label in every if label in results]
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    known = {**machine(), "date": now}
    note = "# int8 beside float32\n\n" + (__doc__ or "").split("\n\n")[1] + "\n"
    lines = [note, *(f"- {key}: {value}" for key, value in known.items()), ""]
    lines += [table([HEADS, *map(row, ordered)]), ""]
    (given.out / "int8.md").write_text("\n".join(lines))
    content = {"machine": known, "results": ordered}
    file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
