"""``--plot``: outputs over time, and how long frames took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError
from ..live import Frame, Meter, Sink
from ..live.source import needed

__all__ = ["Recorded", "draw", "drawable"]

MAX_LINES = 8
"""More numbers than these are an image, not lines."""


class Recorded(Sink):
    """Keeps all outputs."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)


def drawable(path: Path) -> None:
    """Say before anything is run whether a picture could be drawn there.

    Raises
    ------
    SourceError
        If its folder is not there, its format is unknown, or matplotlib is missing.
    """
    backends = needed("matplotlib.backend_bases", "examples", str(path))
    known = backends.FigureCanvasBase.get_supported_filetypes()
    if not path.parent.is_dir():
        raise SourceError(f"cannot write {path}: there is no folder {path.parent}")
    if path.suffix[1:].lower() not in known:
        raise SourceError(f"cannot write {path}: expected a name in .png, .svg or .pdf")


def draw(path: Path, recorded: Recorded, columns: Sequence[str], meter: Meter) -> None:
    """Draw a picture.

    Raises
    ------
    SourceError
        If it cannot be written, or matplotlib is missing.
    """
    matplotlib = needed("matplotlib.figure", "examples", str(path))
    times = np.array([frame.time_s for frame in recorded.frames])
    values = np.stack([frame.data.reshape(-1) for frame in recorded.frames])
    figure = matplotlib.Figure(figsize=(10, 5), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(3, 1))
    if values.shape[1] <= MAX_LINES:
        above.plot(times, values, label=list(columns))
        above.legend(loc="best")
        above.margins(x=0)
    else:
        extent = (times[0], times[-1] + 1e-9, 0, values.shape[1])
        image: Any = above.imshow(values.T, aspect="auto", origin="lower", extent=extent)
        figure.colorbar(image, ax=above)
    above.set_xlabel("time (s)")
    above.set_title(str(meter), fontsize="small")
    edges_us, counts = meter.latencies.classes()
    below.stairs(counts, edges_us, fill=True)
    below.set_xscale("log")
    below.set_xlabel("latency of a frame (µs)")
    below.set_ylabel("frames")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error}") from None
