"""How long a whole process takes until its first output, and where that time goes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import GRU, Linear, Sequential
from ..files import load
from ..layer import Layer
from .models import ModelFile, frames_of, int8_form
from .timing import TOLERANCE, DisagreementError, Effort

__all__ = ["STAGES", "FirstOutput", "cold_start", "first_outputs"]

STAGES = {
    "python alone": "pass",
    "import numpy": "import numpy",
    "import numpy, streamrnn": "import numpy, streamrnn",
    "load a model, first output": """
import sys, numpy, streamrnn
stream = streamrnn.load(sys.argv[1]).stream()
print(stream.step(numpy.ones(16, numpy.float32)).sum())
""",
}
"""What the processes do; the last is the start, the others show where its time goes."""


def cold_start(effort: Effort, after_round: Callable[[], None]) -> dict[str, float]:
    """Return the median time of a whole process, in seconds, for each of the stages.

    The model is a GRU 16 -> 32 with a Linear layer in a file. One round goes before, so that its
    kernels, and the bytecode of all modules, are in their caches.

    Raises
    ------
    DisagreementError
        If the process prints another output than this process computes.
    """
    model = Sequential(GRU(16, 32, seed=0), Linear(32, 4, seed=1))
    expected = float(np.asarray(model.step(np.ones(16, np.float32))).sum())
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        environment = _with_bytecode(Path(folder))
        for i in range(1 + effort.starts):  # the first fills the caches
            for stage, script in STAGES.items():
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", script, str(path)],
                    env=environment, check=True, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                if i:
                    taken[stage].append(time.perf_counter() - start)
                if done.stdout and abs(float(done.stdout) - expected) > TOLERANCE:
                    raise DisagreementError(
                        f"a new process gives {done.stdout.strip()}, expected {expected:g}"
                    )
            after_round()
    return {stage: float(np.median(times)) for stage, times in taken.items()}


@dataclass(frozen=True)
class FirstOutput:
    """Seconds of a whole new process up to the first output of a model.

    Parameters
    ----------
    label : str
        The model, and whether its weights are int8.
    cold_s, warm_s : float
        With an empty cache of kernels, and the median with what that process has left there.
    """

    label: str
    cold_s: float
    warm_s: float


WARM_TIMES = 3
"""Processes with a full cache, of which the median counts."""

FIRST_OUTPUT = """
import json, sys, numpy, streamrnn

def restored(known):
    return numpy.array(known["array"], known["dtype"]) if "dtype" in known else known

path, options, frame = json.load(sys.stdin, object_hook=restored)
stream, y = streamrnn.load(path, **options).stream(), None
while y is None:
    y = stream.step(frame)
print(numpy.abs(y[0] if isinstance(y, tuple) else y).sum())
"""


def first_outputs(file: ModelFile, folder: Path) -> Iterator[FirstOutput]:
    """Yield how long a new process takes for a model in its file, and for its int8 form in one.

    Parameters
    ----------
    file : ModelFile
        The model.
    folder : Path
        Where the bytecode of all modules is kept, from one model to the next.

    Raises
    ------
    DisagreementError
        If the process prints another output than this process computes.
    """
    model: Layer = load(file.path, **file.options)
    forms: list[tuple[str, Layer, Path, Any]] = [(file.label, model, file.path, file.options)]
    if small := int8_form(model):
        small.save(path := folder / f"{file.label}, int8.safetensors")
        forms.append((path.stem, small, path, {}))
    for label, form, path, options in forms:
        if not (filled := folder / f"bytecode{path.suffix}").exists():
            _first_output(form, path, options, folder, filled)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            cold, *warm = (
                _first_output(form, path, options, folder, cache) for _ in range(1 + WARM_TIMES)
            )
        yield FirstOutput(label, cold, statistics.median(warm))


def _first_output(model: Layer, path: Path, options: Any, folder: Path, cache: str | Path) -> float:
    """Return the seconds of one process, whose kernels are kept in the folder `cache`."""
    stream: Any = model.stream()
    (value,) = stream.program.inputs
    frame, y = frames_of(model, value.shape)[0], None
    while y is None:
        y = stream.step(frame)
    expected = float(np.abs(y[0] if isinstance(y, tuple) else y).sum())
    environment = _with_bytecode(folder) | {"STREAMRNN_CACHE_DIR": str(cache)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", FIRST_OUTPUT], env=environment, check=True, text=True,
        input=json.dumps((str(path), options, frame), default=_as_lists), stdout=subprocess.PIPE,
    )  # fmt: skip
    taken = time.perf_counter() - begin
    if not abs(float(done.stdout) - expected) <= TOLERANCE * max(1.0, expected):
        raise DisagreementError(
            f"{path.name}: a new process gives {float(done.stdout):g}, expected {expected:g}"
        )
    return taken


def _as_lists(array: Any) -> dict[str, Any]:
    return {"array": array.tolist(), "dtype": str(array.dtype)}


def _with_bytecode(folder: Path) -> dict[str, str]:
    """Return this environment with bytecode kept in `folder`, even where it is not to be kept.

    Without it, each process would compile the library's source text, as no installed one does. The
    library is the one that runs here, wherever the process begins.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    here = os.pathsep.join(p for p in sys.path if p)
    return environment | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONPATH": here}
