"""``--plot``: outputs over time, and how long frames took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError
from ..live import Frame, Meter, Sink
from ..live.source import Array, needed

__all__ = ["Recorded", "draw", "drawable"]

MAX_LINES = 8
"""More numbers than these are an image, not lines."""


MAX_POINTS, MAX_NUMBERS = 4096, 1 << 21
"""Points in time that are kept, and numbers: fewer points of large outputs. Powers of 2."""


class Recorded(Sink):
    """Keeps what a picture shows: at each point in time the least and the greatest of some outputs.

    These are one output each at first. When there is no more room, two neighbours become one point,
    so memory does not grow, however long a stream is.

    Attributes
    ----------
    outputs_per_point : int
        Outputs that one point stands for.
    times : list of float
        When each point begins, in seconds.
    least, greatest : list of float32 [shape=(n,)]
        For each point, of each of the n numbers of an output; NaN only where all are.
    """

    def __init__(self) -> None:
        self.outputs_per_point, self._outputs = 1, 0
        self.times: list[float] = []
        self.least: list[Array] = []
        self.greatest: list[Array] = []

    def write(self, frame: Frame) -> None:
        y = np.array(frame.data, np.float32).reshape(-1)
        if self._outputs % self.outputs_per_point:
            self.least[-1] = np.fmin(self.least[-1], y)
            self.greatest[-1] = np.fmax(self.greatest[-1], y)
        else:
            if len(self.times) >= max(2, min(MAX_POINTS, MAX_NUMBERS // _power_of_2(y.size))):
                self._thin_out()
            self.times.append(frame.time_s)
            self.least.append(y)
            self.greatest.append(y)
        self._outputs += 1

    def _thin_out(self) -> None:
        self.outputs_per_point *= 2
        self.times = self.times[::2]
        self.least = list(map(np.fmin, self.least[::2], self.least[1::2]))
        self.greatest = list(map(np.fmax, self.greatest[::2], self.greatest[1::2]))


def _power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


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
    times, greatest = recorded.times, np.stack(recorded.greatest)
    figure = matplotlib.Figure(figsize=(10, 5), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(3, 1))
    if greatest.shape[1] <= MAX_LINES:
        both = np.stack([np.stack(recorded.least), greatest], 1)  # a line goes up at each point
        above.plot(np.repeat(times, 2), both.reshape(-1, greatest.shape[1]), label=list(columns))
        above.legend(loc="best")
        above.margins(x=0)
    else:
        extent = (times[0], times[-1] + 1e-9, 0, greatest.shape[1])
        image: Any = above.imshow(greatest.T, aspect="auto", origin="lower", extent=extent)
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
