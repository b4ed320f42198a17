"""Windows that slide along axes of a tensor, the time axis among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....graph import MAX_FRAME, Value
from ....ops.delay import Delay
from ....ops.recent import Recent
from ..node import Array, Known, Timed, Unsupported, reshaped

__all__ = [
    "Window",
    "ahead_of",
    "beside",
    "counts",
    "recent",
    "same_pads",
    "stated",
    "windows",
]


@dataclass(frozen=True)
class Window:
    """A window along one axis.

    Parameters
    ----------
    taps : int
        Positions that it sees.
    stride, dilation : int
        From one window to the next, and from one tap to the next.
    before, after : int
        Padding at the two ends of the axis.
    """

    taps: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def span(self) -> int:
        """Positions from the first tap to the last."""
        return self.dilation * (self.taps - 1) + 1

    def outputs(self, length: int, ceil: bool = False) -> int:
        """Return how many windows there are; with `ceil` one more may reach over the end."""
        room = length + self.before + self.after - self.span
        if room < 0:
            raise Unsupported(f"a window of {self.span} is larger than an axis of {length}")
        count = room // self.stride + 1
        if ceil and room % self.stride and count * self.stride < length + self.before:
            count += 1
        return count


def stated(a: Known, taps: Sequence[int]) -> tuple[str, list[Window]]:
    """Return a node's auto_pad, and its windows with the padding that its attributes state."""
    rank = len(taps)
    strides, dilations = a.get("strides", [1] * rank), a.get("dilations", [1] * rank)
    pads, mode = a.get("pads", [0] * 2 * rank), a.get("auto_pad", "NOTSET")
    fit = (len(strides), len(dilations), len(pads)) == (rank, rank, 2 * rank)
    if not fit or min(*taps, *strides, *dilations) < 1 or min(pads) < 0:
        raise Unsupported(
            f"kernel {list(taps)}, strides {strides}, dilations {dilations} and pads {pads}"
        )
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"attribute auto_pad={mode!r} is not supported")
    both = zip(pads[:rank], pads[rank:], strict=True) if mode == "NOTSET" else [(0, 0)] * rank
    rows = zip(taps, strides, dilations, both, strict=True)
    return mode, [Window(k, stride, dilation, *ends) for k, stride, dilation, ends in rows]


def windows(
    a: Known, lengths: Sequence[int], taps: Sequence[int], time: int | None = None
) -> list[Window]:
    """Return the window along each axis, as a node's attributes have it.

    Parameters
    ----------
    a : Known
        The node; its strides, dilations, pads and auto_pad are read.
    lengths, taps : sequence of int
        Of each axis.
    time : int, optional
        Which of them is time.
    """
    if len(lengths) != len(taps) or not taps:
        raise Unsupported(f"a kernel {list(taps)} over axes of {list(lengths)}")
    mode, found = stated(a, taps)
    if not mode.startswith("SAME"):
        return found
    for i, window in enumerate(found):
        more = range(window.stride if i == time else 1)
        pads = [_same(mode, window, lengths[i] + m) for m in more]
        if len({before for before, _ in pads}) > 1:
            raise Unsupported(
                f"with auto_pad={mode} and a stride of {window.stride} over time, the padding in "
                f"front depends on how long the sequence will be"
            )
        found[i] = replace(window, before=pads[0][0], after=pads[0][1])
    return found


def _same(mode: str, window: Window, length: int) -> tuple[int, int]:
    total = (-(-length // window.stride) - 1) * window.stride + window.span - length
    return same_pads(mode, max(total, 0))


def same_pads(mode: str, total: int) -> tuple[int, int]:
    """Return padding split between the ends of an axis; SAME_UPPER has the odd one at the end."""
    less = total // 2
    return (less, total - less) if mode == "SAME_UPPER" else (total - less, less)


# Across time ------------------------------------------------------------------------------------


def ahead_of(x: Timed, window: Window, fill: float = 0.0) -> tuple[Value, int]:
    """Return the frames over which a window slides, and how many it looks ahead.

    Zeros (or `fill`) before the first frame are what an op begins with. A window that begins
    earlier than that gets later frames.
    """
    ahead = window.span - 1 - window.before - x.front
    if ahead >= 0:
        return x.value, ahead
    delay = Delay(-ahead)
    if fill:
        delay.initial_state = {"past": _full(-ahead, x.value, fill)}
    return delay(x.value), 0


def recent(x: Timed, window: Window, fill: float = 0.0) -> Value:
    """Return what a window over time sees, (N, C, taps, rest), of frames (N, C, rest).

    What lies before the first frame is `fill`; a sequence with zero frames in front (which are
    none of its own) may have no other.
    """
    value, ahead = ahead_of(x, window, fill)
    assert x.axis is not None
    N, C, *rest = value.shape
    del rest[x.axis - 2]
    frame = reshaped(value, (N * C, *rest))
    if (window.taps, window.stride, ahead) != (1, 1, 0):
        op = Recent(window.taps, window.dilation, window.stride, ahead)
        if fill and window.taps > 1:
            op.initial_state = {"past": _full(op.memory_frames, frame, fill)}
        frame = op(frame)
    return reshaped(frame, (N, C, window.taps, *rest))


def _full(frames: int, like: Value, fill: float) -> Array:
    if frames * like.size > MAX_FRAME:
        raise Unsupported(f"{frames} frames of {like.shape} to remember are too many")
    return np.full((frames, *like.shape), fill, np.float32)


def beside(x: Timed, y: Value, length: int) -> Timed:
    """Return the results (N, O, rest) of a window over time, with the time axis where it was."""
    assert x.axis is not None
    shape = list(y.shape)
    shape.insert(x.axis, 1)
    return Timed(reshaped(y, tuple(shape)), x.axis, length)


def counts(window: Window, length: int, outputs: int, padded: bool) -> Array:
    """Return how many positions each window sees, those of the padding only if `padded`."""
    first, last = (-window.before, length + window.after) if padded else (0, length)
    begins = np.arange(outputs)[:, None] * window.stride - window.before
    where = begins + np.arange(window.taps) * window.dilation
    return np.asarray(np.count_nonzero((where >= first) & (where < last), axis=1))
