"""A float and a quantised graph side by side in onnxruntime, over a long stream."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from streamrnn.drift import sums_of
from streamrnn.errors import ExportError

from .verify import StepSession

__all__ = ["ASIDE", "progress", "side_by_side"]

Array = npt.NDArray[Any]

ASIDE = ":model"
"""What the model's own names end with while its graph is rewritten."""
CHUNK = 128
"""Steps that are compared at once."""


def side_by_side(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Sequence[Mapping[str, Array]],
    steps: int,
    what: str = "drift",
) -> tuple[Array, dict[str, Array]]:
    """Run a float and a quantised graph over a long stream, each with its own states fed back.

    Parameters
    ----------
    before, after : onnx.ModelProto
        Step graphs with our metadata.
    feeds : sequence of dict
        What each call is fed with, again and again.
    steps : int
        Number of calls.
    what : str
        What the progress bar says.

    Returns
    -------
    float64 [shape=(2, steps)]
        Times, microseconds.
    dict of str to float64 [shape=(steps, 8)]
        Of each output and state, what :func:`sums_of` returns.

    Raises
    ------
    ExportError
        If a result is not finite.
    """
    sessions = [StepSession(proto, threads=1) for proto in (before, after)]
    sums: dict[str, list[Array]] = {o.name: [] for o in before.graph.output}
    step_us = np.empty((2, steps))
    pending: list[list[dict[str, Array]]] = []
    for t in progress(range(steps), what, steps):
        results: list[dict[str, Array]] = [{}, {}]
        for which in (t % 2, 1 - t % 2):
            begin_ns = time.perf_counter_ns()
            results[which] = sessions[which](feeds[t % len(feeds)])
            step_us[which, t] = (time.perf_counter_ns() - begin_ns) / 1000
        pending.append(results)
        if len(pending) < CHUNK and t + 1 < steps:
            continue
        for name, parts in sums.items():
            a, b = (np.stack([r[k][name].reshape(-1) for r in pending]) for k in (0, 1))
            where = f"in {name.removesuffix(ASIDE)} within {t + 1} steps"
            _check_finite(a, f"the float graph gives {{}} {where}")
            _check_finite(b, f"the quantised graph gives {{}} {where}")
            parts.append(sums_of(a, b))
        pending = []
    return step_us, {name: np.concatenate(parts) for name, parts in sums.items()}


def _check_finite(array: Array, message: str) -> None:
    if not np.isfinite(array).all():
        kind = "a NaN" if np.isnan(array).any() else "an infinity"
        raise ExportError(
            f"{message.format(kind)}: give frames like those that it will meet as `calibration`, "
            f"or export it with quantize=None"
        )


def progress(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
    """Hand items on, with a progress bar on the standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:  # the extra `cli`
        yield from items
        return
    yield from track(items, what, total, console=Console(stderr=True), transient=True)
