"""How far a quantised model is from the float model in the course of a long stream."""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ExportError

__all__ = ["QuantizationReport", "sums_of"]

Array = npt.NDArray[Any]

POINTS = 200
"""Of the curves in a picture."""


@dataclass
class QuantizationReport:
    """What quantisation changed, what it costs and what it saves.

    Both ran side by side over a long stream, each with its own states fed back, so that errors of
    the states add up as they do in use: two models as streams of ours, where a step is a frame, or
    two ONNX graphs in onnxruntime, where it is one call of the graph.

    Attributes
    ----------
    mode : str
        ``"int8"``, ``"qdq"`` or ``"float16"``.
    quantised, kept : dict of str to str
        Ops of the model, or nodes of the float graph: in what form they are now; and why they
        stayed float.
    float_bytes, quantised_bytes : int
        Sizes of the weights, or of the ONNX files.
    frames_a_step : int
        Frames that a step takes.
    step_us : float64 [shape=(2, steps)]
        Time of every step of the float and of the quantised graph, in turns, on one thread,
        microseconds.
    sums : dict of str to float64 [shape=(steps, 8)]
        Of each output and state, what :func:`sums_of` makes of every step.
    measured : str
        Whose bytes and steps these are: ``"file"`` or ``"weights"``.
    """

    mode: str
    quantised: dict[str, str]
    kept: dict[str, str]
    float_bytes: int
    quantised_bytes: int
    frames_a_step: int
    step_us: Array
    sums: dict[str, Array]
    measured: str = "file"

    @property
    def steps(self) -> int:
        """Length of the stream."""
        return int(self.step_us.shape[1])

    @property
    def median_us(self) -> tuple[float, float]:
        """Median time of a step, float and quantised, microseconds."""
        first, second = np.median(self.step_us, axis=1)
        return float(first), float(second)

    def errors(self, name: str) -> dict[int, dict[str, float]]:
        """Return the errors of an output or state in the course of time.

        Parameters
        ----------
        name : str
            A key of ``sums``.

        Returns
        -------
        dict of int to dict of str to float
            By the last step of each span (1, 10, 100, …): ``max_abs``, ``relative_rms`` (to the
            RMS of the float graph), ``snr_db`` and ``correlation`` from the step after the span
            before. What is undefined is NaN.
        """
        marks = [10**k for k in range(20) if 10**k < self.steps] + [self.steps]
        return {
            mark: _errors(self.sums[name][first:mark])
            for first, mark in zip([0, *marks], marks, strict=False)
        }

    def overflows(self) -> dict[str, tuple[int | None, int | None]]:
        """Return what did not stay finite: the first such step of the float and the other model.

        States are never checked while a stream runs. Where nothing holds them back, as in an RNN
        of ReLUs, finite frames can drive them beyond float32.
        """
        found = {}
        for name, sums in self.sums.items():
            bad = ~np.isfinite(sums[:, 2:4])
            if bad.any():
                a, b = (int(c.argmax()) + 1 if c.any() else None for c in bad.T)
                found[name] = a, b
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single steps, ready for JSON; None where a number is not."""
        before, after = self.median_us
        return {
            "mode": self.mode,
            "quantised": dict(self.quantised),
            "kept": dict(self.kept),
            "float_bytes": self.float_bytes,
            "quantised_bytes": self.quantised_bytes,
            "frames_a_step": self.frames_a_step,
            "steps": self.steps,
            "float_step_us": before,
            "quantised_step_us": after,
            "overflows": {
                name: {"float": a, "quantised": b} for name, (a, b) in self.overflows().items()
            },
            "errors": {
                name: {
                    str(mark): {k: v if math.isfinite(v) else None for k, v in row.items()}
                    for mark, row in self.errors(name).items()
                }
                for name in self.sums
            },
        }

    def __str__(self) -> str:
        before, after = self.median_us
        size, done = self.quantised_bytes / self.float_bytes, len(self.quantised)
        parts = ("node" if self.measured == "file" else "op") + "s" * (done != 1)
        stay = f"stay{'s' * (len(self.kept) == 1)} float"
        bytes_ = f"{self.quantised_bytes:,} bytes, was {self.float_bytes:,} (x {size:.2f})"
        lines = [
            f"{self.mode}: {done} {parts} quantised, {len(self.kept)} {stay}",
            *(f"  {name}: {how}" for name, how in self.quantised.items()),
            *(f"  {name} stays float: {why}" for name, why in self.kept.items()),
            f"  {self.measured} {bytes_}",
            f"  median step {after:.1f} µs, was {before:.1f} µs (x {after / before:.2f})",
            f"  drift from the float graph over {self.steps:,} steps of "
            f"{self.frames_a_step} frame{'s' * (self.frames_a_step > 1)}, states fed back:",
        ]
        width = max(map(len, self.sums))
        lines.append(
            f"  {'':<{width}}  {'steps':>13}  {'max abs':>9}  {'rel RMS':>9}  {'SNR':>8}  corr."
        )
        for name in self.sums:
            first, label = 1, name
            for mark, row in self.errors(name).items():
                span = f"{first}-{mark}" if mark > first else f"{mark}"
                errors = f"{row['max_abs']:9.2e}  {row['relative_rms']:9.2e}"
                alike = row["correlation"]
                likeness = f"{row['snr_db']:5.1f} dB  {'' if math.isnan(alike) else f'{alike:.5f}'}"
                lines.append(f"  {label:<{width}}  {span:>13}  {errors}  {likeness}")
                first, label = mark + 1, ""
        for name, steps in self.overflows().items():
            sides = zip(("float", "quantised"), steps, strict=True)
            where = ", ".join(f"in the {side} one from step {t} on" for side, t in sides if t)
            lines.append(f"  {name} overflows: {where}")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Draw the relative RMS error of each output and state over time into a PNG file.

        Parameters
        ----------
        path : str or Path
            The file to write.

        Raises
        ------
        ExportError
            If matplotlib is not installed or the file cannot be written.
        """
        try:
            figure = importlib.import_module("matplotlib.figure").Figure
        except ImportError:
            raise ExportError(
                "a picture of the drift needs matplotlib: pip install streamrnn[examples]"
            ) from None
        picture = figure(figsize=(8, 4.5), layout="constrained")
        axes = picture.subplots()
        edges = np.unique(np.geomspace(1, self.steps + 1, POINTS).astype(int)) - 1
        for name, sums in self.sums.items():
            curve = [_errors(sums[a:b])["relative_rms"] for a, b in itertools.pairwise(edges)]
            axes.plot(edges[1:], curve, lw=1.2, label=name)
        axes.set(xscale="log", xlabel="steps", ylabel="RMS error / RMS of the float graph")
        axes.set_yscale("log", nonpositive="mask")
        axes.set_title(f"{self.mode} beside float over {self.steps:,} steps")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        try:
            picture.savefig(path, format="png", dpi=110)
        except OSError as error:
            raise ExportError(f"cannot write {path}: {error.strerror or error}") from None


def sums_of(before: Array, after: Array) -> Array:
    """Return what is kept of some steps: float64 [shape=(steps, 8)].

    Parameters
    ----------
    before, after : float32 [shape=(steps, n)]
        An output of the float model, and of the quantised one: a and b.

    Returns
    -------
    float64 [shape=(steps, 8)]
        The largest abs(a - b), and the sums of (a - b)², a, b, a², b², a b and 1.
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore"):  # what has overflowed: see `overflows`
        e = np.abs(a - b)
        sums = [s.sum(axis=1) for s in (e * e, a, b, a * a, b * b, a * b, np.ones_like(a))]
        return np.stack([e.max(axis=1, initial=0.0), *sums], axis=1)


def _errors(sums: Array) -> dict[str, float]:
    """Return the errors of a span of steps."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error, a, b, aa, bb, ab, n = sums[:, 1:].sum(axis=0)
        spreads = n * aa - a * a, n * bb - b * b
        flat = spreads[0] <= 1e-12 * n * aa or spreads[1] <= 1e-12 * n * bb
        ratio = np.divide(error, aa) if error else np.float64(0.0)
        return {
            "max_abs": float(sums[:, 0].max(initial=0.0)),
            "relative_rms": float(np.sqrt(ratio)),
            "snr_db": float(-10 * np.log10(ratio)),
            "correlation": math.nan
            if flat
            else float((n * ab - a * b) / np.sqrt(np.prod(spreads))),
        }
