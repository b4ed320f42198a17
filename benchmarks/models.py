"""Real models out of published wheels: how long they take to load, and a step of each.

The files are those of the tests (``tests/test_import_*.py``), read as ONNX.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

import streamrnn

from . import measure, peers
from .measure import Effort, Timing

__all__ = ["REASONS", "UNLIKE", "Loading", "RealModel", "loading", "real_models", "step"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RealModel:
    """A file, how it is read, and what a step of it takes in onnxruntime.

    Parameters
    ----------
    label : str
        What the tables call it.
    path : Path
        The file.
    options : dict
        Of ``streamrnn.load``.
    x, y : str
        Names of the frame and of the output that is compared.
    shape : tuple of int
        Shape of the frame in the file.
    states : dict
        Name of each state as it goes in: (name as it comes out, shape).
    fixed : dict
        Inputs that are the same in every step; those in `options` as constants are not ours.
    tolerance : float
        Largest difference between the outputs of the contenders; infinite where `UNLIKE` says why.
    step_path : Path, optional
        Another file for onnxruntime's steps, where the file itself keeps no state.
    """

    label: str
    path: Path
    options: dict[str, Any]
    x: str
    y: str
    shape: tuple[int, ...]
    states: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    fixed: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    tolerance: float = measure.TOLERANCE
    step_path: Path | None = None


REASONS = {
    "NSNet2": "10.7 MB of float32 weights are read in every step, by both: memory bounds it",
    "VoiceFilter-Lite, int8": "6.7 MB of int8 weights are read in every step, by both: the L3 "
    "cache bounds it",
    "its embedder, 80 frames": "566 MB of recurrent int8 weights are read in every call, by both: "
    "the L3 cache bounds it; the range of its input is that of all 80 frames, so that none can be "
    "computed before the last has come",
}
"""Why a step is less than 1.5 times as fast as onnxruntime's, where it may be."""

UNLIKE = {
    "its embedder, 80 frames": "240 steps of int8 rounding amplify the last bit of a float, "
    "in onnxruntime's own result too: see tests/test_import_quantized.py",
}
"""Why the outputs of a model cannot be compared, where it is so."""


def real_models(folder: Path) -> list[RealModel]:
    """Return the models; files that have to be made are put into `folder`."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "examples")]
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
    from streamrnn.export import add_state

    tests: Any = importlib.import_module("test_import_onnx")
    int8: Any = importlib.import_module("test_import_quantized")
    fetched = tests.fetched

    found = []
    for name, (options, states) in tests.SILERO_FILES.items():
        path = fetched(tests.SILERO, name)
        graph = onnx.load(path).graph
        fixed = dict(tests.RATE) if "sr" in {i.name for i in graph.input} else {}
        label = f"Silero VAD, {name.removesuffix('.onnx').removeprefix('silero_')}"
        y = graph.output[0].name
        found.append(RealModel(label, path, options, "input", y, (1, 576), dict(states), fixed))
    for k in (1, 2):
        path = fetched(tests.DTLN, f"model_{k}.onnx")
        x, state = ort.InferenceSession(str(path)).get_inputs()
        y, after = (output.name for output in onnx.load(path).graph.output)
        pairs = {state.name: (after, tuple(state.shape))}
        found.append(RealModel(f"DTLN, stage {k}", path, {}, x.name, y, tuple(x.shape), pairs))
    path, made = fetched(tests.NSNET2, "nsnet2-20ms-baseline.onnx"), folder / "nsnet2-step.onnx"
    add_state(path, made)
    pairs = {f"gru_{k}.h_in": (f"gru_{k}.h_out", (1, 1, 400)) for k in (0, 1)}
    shape = (1, 1, 161)
    found.append(RealModel("NSNet2", path, {}, "input", "output", shape, pairs, step_path=made))
    path = fetched(int8.VOICEFILTER, "voicefilter_lite.int8.onnx")
    pairs = {s: (f"{s[0]}N", (3, 1, 512)) for s in ("h0", "c0")}
    voice = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    found.append(
        RealModel(
            "VoiceFilter-Lite, int8", path, {**int8.FRAME, "constants": {"dvec": voice}},
            "stacked_logmel", "mask", (1, 1, 512), pairs, {"dvec": voice},
            tolerance=1e-3,  # int8 states may fall on either side of a half
        )
    )  # fmt: skip
    path = fetched(int8.VOICEFILTER, "embedder.int8.onnx")
    found.append(
        RealModel(
            "its embedder, 80 frames", path, {}, "mel_window", "embedding", (1, 80, 40),
            tolerance=np.inf,
        )
    )  # fmt: skip
    return found


def step(
    model: RealModel, effort: Effort, tick: Callable[[], None]
) -> tuple[dict[str, Timing], float]:
    """Return the times of a step of all contenders, and the largest difference of outputs."""
    x = np.zeros(model.shape, np.float32)
    content = (model.step_path or model.path).read_bytes()
    graph = peers.StepGraph(content, model.x, model.y, model.states, model.fixed)
    begin = {name: np.zeros(shape, np.float32) for name, (_, shape) in model.states.items()}
    (y,) = graph.session().run([model.y], {model.x: x, **model.fixed, **begin})
    graph = replace(graph, y_shape=y.shape)
    contenders = [
        ours(model, x),
        peers.onnxruntime_binding(graph, x),
        theirs(model, x),
        peers.onnxruntime_run(graph, x),
    ]
    few = 4 if x.size > 1000 else 64
    frames = np.abs(np.random.default_rng(1).standard_normal((few, *model.shape)) / 8)
    frames = frames.astype(np.float32)
    difference = measure.check_agreement(contenders, x, frames[:20], model.tolerance)
    return measure.interleaved(contenders, x, frames, effort, tick), difference


def ours(model: RealModel, x: Array) -> peers.Contender:
    """Return a stream's step into buffers."""
    stream = streamrnn.load(model.path, **model.options).stream()
    outputs = stream.program.outputs
    outs = tuple(np.zeros(v.shape, np.float32) for v in outputs)
    at = list(stream.program.graph.outputs).index(model.y)
    frame, out = x.reshape(stream.program.inputs[0].shape), outs if len(outs) > 1 else outs[0]

    def call() -> None:
        stream.step(frame, out=out)

    return peers.Contender(peers.STEP, call, lambda: outs[at].reshape(-1))


def theirs(model: RealModel, x: Array) -> peers.Contender:
    """Return a step of the same file as an ``OnnxStream``."""
    if model.step_path:
        return peers.onnx_stream(model.step_path, x, model.y)
    return peers.onnx_stream(model.path, x, model.y, **model.options)


@dataclass(frozen=True)
class Loading:
    """Median times in milliseconds: our model, its first stream, onnxruntime's session."""

    label: str
    load_ms: float
    stream_ms: float
    session_ms: float


def loading(models: Sequence[RealModel], times: int) -> list[Loading]:
    """Measure, by turns, how long models take to be read; kernels are in the cache."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    found = []
    for model in models:
        taken: list[list[float]] = [[], [], []]
        for i in range(times + 1):
            clock = [time.perf_counter()]
            ort.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
            clock.append(time.perf_counter())
            read = streamrnn.load(model.path, **model.options)
            clock.append(time.perf_counter())
            read.stream()
            clock.append(time.perf_counter())
            if i:
                for k in range(3):
                    taken[k].append(1000 * (clock[k + 1] - clock[k]))
        session, load, stream = map(statistics.median, taken)
        found.append(Loading(model.label, load, stream, session))
    return found
