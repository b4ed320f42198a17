"""How long a whole process takes until its first output, and where that time goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import GRU, Linear, Sequential
from .timing import TOLERANCE, DisagreementError, Effort

__all__ = ["STAGES", "cold_start"]

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


def _with_bytecode(folder: Path) -> dict[str, str]:
    """Return this environment with bytecode kept in `folder`, even where it is not to be kept.

    Without it, each process would compile the library's source text, as no installed one does. The
    library is the one that runs here, wherever the process begins.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    here = os.pathsep.join(p for p in sys.path if p)
    return environment | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONPATH": here}
