"""Quantised step graphs in onnxruntime: size, time of a step, and drift over a long stream.

Synthetic cells have seeded weights at the scale of trained ones and read noise; real models read 30
seconds of speech, again and again. Each graph keeps its own states; see
``streamrnn.export.QuantizationReport``. ``python benchmarks/quantized_export.py`` writes
``quantized_export.md``, ``.json`` and a picture of each real model's drift to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamrnn as sr
from streamrnn.bench.machine import machine
from streamrnn.bench.report import table
from streamrnn.export import Quantization, QuantizationReport, to_onnx

Array = npt.NDArray[np.float32]

FOLDER = Path(__file__).resolve().parent / "results"
FLOAT16, INT8 = Quantization("float16"), Quantization("int8")
QDQ, CUT = Quantization("qdq"), Quantization("qdq", percentile=99.9)


@dataclass(frozen=True)
class Case:
    """A model, the frames that it reads, and what is tried on it."""

    label: str
    model: sr.Layer
    frames: Array
    quantizations: Sequence[Quantization]
    real: bool = False


def synthetic(label: str, model: sr.Layer) -> Case:
    """Return a case with seeded weights, which forget, and noise."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, w in model.state_dict().items():
        gain = 0.8 if "weight_hh" in name else 1.0
        scale = gain / np.sqrt(w.shape[-1]) if w.ndim > 1 else 0.1
        weights[name] = (scale * rng.standard_normal(w.shape)).astype(np.float32)
    model.load_state_dict(weights)
    frames = rng.standard_normal((2000, 40)).astype(np.float32)
    return Case(label, model, frames, (INT8, QDQ, FLOAT16))


def real_cases() -> list[Case]:
    """Return published models on a recording of speech."""
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "examples"), str(root / "tests")]
    tests: Any = importlib.import_module("test_import_onnx")
    assets: Any = importlib.import_module("assets")
    soundfile: Any = importlib.import_module("soundfile")
    samples, _ = soundfile.read(assets.speech_wav(), dtype="float32")
    silero = sr.load(assets.silero_onnx(), **tests.SILERO_FILES["silero_vad_16k_op15.onnx"][0])
    padded = np.concatenate([np.zeros(64, np.float32), samples])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 576)[::512]
    nsnet2 = sr.load(tests.fetched(tests.NSNET2, "nsnet2-20ms-baseline.onnx"))
    frames = np.lib.stride_tricks.sliding_window_view(samples, 320)[::160]
    spectra = np.abs(np.fft.rfft(frames * np.sqrt(np.hanning(320)))) ** 2
    features = np.log10(np.maximum(spectra, 1e-12)).astype(np.float32)
    every = (INT8, QDQ, CUT, FLOAT16)
    return [
        Case("Silero VAD", silero, np.ascontiguousarray(windows), every, real=True),
        Case("NSNet2, 2 x GRU 400", nsnet2, features, every, real=True),
    ]


def measured(case: Case, quantization: Quantization) -> QuantizationReport:
    """Export a case and return what it costs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        report = to_onnx(case.model, path, quantize=quantization, calibration=case.frames)
    assert report.quantization is not None
    return report.quantization


def row(label: str, quantization: Quantization, report: QuantizationReport) -> list[str]:
    """Return one line of the table."""
    name = next(iter(report.sums))
    errors = report.errors(name)
    before, after = report.median_us
    cut = f", {quantization.percentile:g} %" if quantization.percentile < 100 else ""
    return [
        f"{label}: {report.mode}{cut}",
        f"{report.float_bytes / 1000:,.0f}",
        f"{report.quantised_bytes / 1000:,.0f}",
        f"{report.quantised_bytes / report.float_bytes:.2f}",
        f"{before:.1f}",
        f"{after:.1f}",
        f"{after / before:.2f}",
        *(f"{errors[steps]['snr_db']:.1f}" for steps in (10, 1000, 10_000)),
        f"{errors[10_000]['max_abs']:.1e}",
        f"{errors[10_000]['correlation']:.5f}",
    ]


HEADS = [
    "model: form", "float kB", "kB", "ratio", "float µs", "µs", "ratio",
    "dB to 10", "dB to 1,000", "dB to 10,000", "max abs", "correlation",
]  # fmt: skip
NOTE = """# Quantised step graphs

Medians of a step in onnxruntime, one thread, `session.run`, both graphs in turns. dB is the ratio
of the first output's power to that of its error, up to that step and from the mark before (1, 10,
100, …) on; `max abs` and `correlation` are those of steps 1,001 to 10,000. States are fed back and
never reset.
"""


def cases() -> list[Callable[[], list[Case]]]:
    """Return what makes the cases, each when its turn comes."""
    return [
        lambda: [synthetic("LSTM 40, 256", sr.LSTM(40, 256))],
        lambda: [synthetic("GRU 40, 256", sr.GRU(40, 256))],
        lambda: [synthetic("GRU 40, 512", sr.GRU(40, 512))],
        lambda: [synthetic("3 x LSTM 40, 256", sr.LSTM(40, 256, 3))],
        lambda: [synthetic("RNN 40, 256", sr.RNN(40, 256))],
        real_cases,
    ]


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where to write")
    out: Path = parser.parse_args().out
    rows, results = [HEADS], []
    for make in cases():
        for case in make():
            for quantization in case.quantizations:
                report = measured(case, quantization)
                rows.append(row(case.label, quantization, report))
                print(" | ".join(rows[-1]), flush=True)
                whole = {"percentile": quantization.percentile, **report.as_dict()}
                results.append({"model": case.label, **whole})
                if case.real and quantization == INT8:
                    name = case.label.split()[0].rstrip(",").lower()
                    report.plot(out / f"quantized_export_{name}.png")
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    known = {**machine(), "date": now}
    lines = [NOTE, *(f"- {key}: {value}" for key, value in known.items()), "", table(rows), ""]
    (out / "quantized_export.md").write_text("\n".join(lines))
    content = {"machine": known, "results": results}
    (out / "quantized_export.json").write_text(
        json.dumps(content, indent=1, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    main()
