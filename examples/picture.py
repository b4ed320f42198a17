"""The picture that the speech detection example draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recording import FRAME_S, Heard
from segments import Segment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

WAVE, PROBABILITY, THRESHOLD = "#4f5d66", "#1f5f8b", "#b2182b"
FOUND, REFERENCE = "#1f77b4", "#e08214"


def draw(
    path: Path,
    title: str,
    heard: Heard,
    threshold: float,
    reference: Sequence[Segment] | None,
    duration_s: float,
) -> None:
    """Draw waveform, speech probability and segments over one time axis into a PNG file.

    Parameters
    ----------
    path : Path
        The file to write.
    title : str
        What stands above the picture.
    heard : Heard
        Peaks, probabilities and segments.
    threshold : float
        Probability at which speech begins, dimensionless.
    reference : sequence of Segment, optional
        Speech that should have been found.
    duration_s : float
        Length of the recording.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (wave, curve, bars) = plt.subplots(
        3, 1, figsize=(12, 7), sharex=True, height_ratios=(3, 3, 1.6), layout="tight"
    )
    wave.set_title(title, fontsize=14, pad=10)
    _wave(wave, heard)
    _curve(curve, heard, threshold)
    rows = {"speech found": heard.segments}
    if reference is not None:
        rows["reference"] = list(reference)
    _bars(bars, rows)
    bars.set(xlabel="time (s)", xlim=(0, duration_s))
    for axes in (wave, curve, bars):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels([wave, curve])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _wave(axes: Axes, heard: Heard) -> None:
    low, high = np.array(heard.peaks, np.float32).T
    middles_s = (np.arange(len(low)) + 0.5) * FRAME_S
    limit = 1.1 * max(float(high.max()), -float(low.min()), 0.01)
    axes.fill_between(middles_s, low, high, color=WAVE, linewidth=0.6, label="sound")
    _shade(axes, heard.segments)
    axes.set(ylabel="amplitude\n(full scale is 1)", ylim=(-limit, limit))
    axes.legend(loc="upper left")


def _curve(axes: Axes, heard: Heard, threshold: float) -> None:
    edges_s = np.arange(len(heard.probabilities) + 1) * FRAME_S
    axes.stairs(
        heard.probabilities, edges_s, baseline=None, color=PROBABILITY, lw=1.5, label="probability"
    )
    axes.axhline(threshold, color=THRESHOLD, linestyle="--", label=f"threshold {threshold:g}")
    _shade(axes, heard.segments)
    axes.set(ylabel="probability\nof speech", ylim=(-0.04, 1.04))
    axes.legend(loc="upper left")


def _bars(axes: Axes, rows: dict[str, list[Segment]]) -> None:
    for row, (segments, colour) in enumerate(zip(rows.values(), (FOUND, REFERENCE), strict=False)):
        spans = [(s.start_s, s.end_s - s.start_s) for s in segments]
        axes.broken_barh(spans, (row - 0.36, 0.72), facecolors=colour)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _shade(axes: Axes, found: Sequence[Segment]) -> None:
    """Put a light background behind each segment found."""
    for i, segment in enumerate(found):
        label = "speech found" if i == 0 else None
        axes.axvspan(segment.start_s, segment.end_s, color=FOUND, alpha=0.14, lw=0, label=label)
