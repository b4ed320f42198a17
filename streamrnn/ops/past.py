"""A value of the frame before: feedback, for recurrences that are no cell of their own.

``h = Past(8)()`` is a value of the model; the model says which value it takes in the end of each
frame: ``Model(x, y, feedback={h: new_h})``. Before the first frame it is zero, or the op's
``initial_state``. A model with feedback runs its blocks frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph import Shape, Value, as_shape
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, State, copy, kernel
from .constant import at_rate
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Past", "retain"]


@kernel
def recall(T: Frames, state: State, y: Scratch, y_step: Size, n: Size) -> None:
    """Read the state; there is one frame, or none."""
    for t in range(T):
        copy(n, state, at(y, t * y_step))


@kernel
def retain(T: Frames, x: Scratch, x_step: Size, state: State, n: Size) -> None:
    """Keep x for the next frame."""
    for t in range(T):
        copy(n, at(x, t * x_step), state)


@dataclass(eq=False)
class Past(Op):
    """What a value was one frame ago, see the module's text.

    It reads nothing, or one value in order to come at its rate; outputs and the state, which has
    the op's own name, are float32 [shape=shape].

    Parameters
    ----------
    shape : int or tuple of int
        Shape of the value.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is below 1.
    """

    shape: int | Sequence[int]

    takes_feedback = True

    @staticmethod
    def feed(past: Value, new: Value) -> None:
        """Say, in a layer, what the value of a ``Past`` takes in the end of a frame.

        Every model that holds the layer then does so, without its `feedback` saying it.
        """
        object.__setattr__(past, "next", new)

    def __call__(self, *values: Value) -> Value:
        return at_rate(self, as_shape(self.shape, "Past"), values)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"": as_shape(self.shape, "Past")}

    def output_shape(self, *shapes: Shape) -> Shape:
        return as_shape(self.shape, "Past")

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return states[""]

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(recall, T=y, state=tape.state(""), y=y, n=y.size)
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Unsqueeze", g.state(""), g.ints(0))
