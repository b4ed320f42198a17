"""What an op writes its ONNX form to; the exporter implements it, and no op imports onnx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

__all__ = ["Recorder"]


class Recorder(Protocol):
    """An ONNX graph under construction, as seen by one op.

    Values have shape (T, N, *frame): T frames at the value's own rate, N streams.
    """

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; ``""`` leaves an optional input out. Return the output."""
        ...

    def ops(self, kind: str, n_outputs: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs and return them; an unused one is left out later."""
        ...

    def constant(self, array: npt.ArrayLike, name: str = "") -> str:
        """Add an initializer, named after the op if a name is given."""
        ...

    def state(self, name: str, batch_axis: int = 0, row: bool = False) -> str:
        """Return the op's state as it comes in: its shape, with the axis N of the streams inside.

        With `row` it has an axis of size 1 in front, as ONNX's recurrent operators want.
        """
        ...

    def next_state(self, name: str, value: str) -> None:
        """Say which value is the state as it goes out, in the shape in which it came in."""
        ...

    def ints(self, *values: int) -> str:
        """Add an initializer of integers (a shape, axes, bounds)."""
        ...

    def frames(self) -> int:
        """Frames in the op's first input: T.

        A form that asks holds for this T alone: where T is open it is written for the frames of one
        output, and repeated by a Scan.
        """
        ...

    def each(self, write: Callable[..., str], *xs: str) -> str:
        """Write a form that holds for one frame of one stream, for all of them.

        ``write`` gets frames of shape (1, *frame) of the op's inputs `xs`, and returns one of shape
        (1, 1, *output).
        """
        ...

    def spread(self, x: str) -> str:
        """Return a value of shape (1, 1, *frame) for each frame of the op's output and stream."""
        ...

    def unmerge(self, x: str, *frame: int) -> str:
        """Return (T * N, *frame), frames and streams in one axis, as (T, N, *frame)."""
        ...

    def windows(self, step: int, offsets: npt.ArrayLike) -> str:
        """Return positions ``step * t + offsets`` of each output frame t, int64 (T, offsets)."""
        ...

    def first_frames(self) -> tuple[int, int]:
        """Return which frame of the op's first input, and of its output, a call begins with.

        They are counted from (calls so far) times (frames a call): where a value begins later than
        the model's input, the calls before make frames with negative numbers, which mean nothing.
        """
        ...

    def shape(self) -> tuple[int, ...]:
        """Shape of one frame of the op's first input."""
        ...

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        ...
