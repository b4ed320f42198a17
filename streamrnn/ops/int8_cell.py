"""What recurrent cells with int8 weights share; see :mod:`streamrnn.ops.int8_product`.

Frames and hidden states are rounded to bytes before they are multiplied, each in its own range. The
states themselves stay float32: one that were rounded in every frame would gather these errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError
from ..graph import Node, Shape, Value
from ..kernels.integer_product import MAX_INPUTS
from .cell import Cell
from .int8_product import int8_initial, product, write_product
from .integer_linear import byte_matrix
from .op import Array, Arrays

if TYPE_CHECKING:
    from ..program import Lowering
    from .recorder import Recorder

__all__ = ["Int8Cell"]


@dataclass(eq=False)
class Int8Cell(Cell):
    """A cell whose matrices are int8, each row with a scale; the biases are float32."""

    replaces: ClassVar[type[Cell]]
    """The cell with float32 weights."""

    @staticmethod
    def multiplies(weight: str, node: Node) -> Value:
        """Return the value whose frames are multiplied by a weight of the cell that is replaced."""
        if weight == "weight_ih":
            return node.args[0]
        return node.args[1] if len(node.args) > 1 else node.value  # h, one frame later

    def check(self) -> None:
        super().check()
        if max(self.input_size, self.hidden_size) > MAX_INPUTS:
            raise ConfigError(
                f"{type(self).__name__}: `input_size` and `hidden_size` must be at most "
                f"{MAX_INPUTS}, got {self.input_size} and {self.hidden_size}: sums in int32 could "
                f"overflow"
            )

    def needs_float32(self) -> str:
        return "its matrices are int8"

    def parameter_shapes(self) -> dict[str, Shape]:
        rows = len(self.gates) * self.hidden_size
        shapes: dict[str, Shape] = {
            "weight_ih_int8": (rows, self.input_size),
            "scale_ih": (rows,),
            "weight_hh_int8": (rows, self.hidden_size),
            "scale_hh": (rows,),
        }
        return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return int8_initial(name, shape, rng, self.hidden_size)

    def multiply_adds(self, *shapes: Shape) -> int:
        return len(self.gates) * self.hidden_size * (self.input_size + self.hidden_size)

    def preactivations(self, weights: Arrays, x: Array, h: Array) -> Arrays:
        z = self.share(weights, "ih", x) + self.share(weights, "hh", h)
        return dict(zip(self.gates, np.split(z, len(self.gates)), strict=True))

    def share(self, weights: Arrays, which: str, x: Array, gates: slice = slice(None)) -> Array:
        """Return ``W x + b`` of some gates (counted from 0), `which` is ih or hh."""
        w, scale, bias = self._rows(weights, which, gates)
        return np.asarray(product(w, scale, x) + bias)

    def _rows(self, weights: Any, which: str, gates: slice) -> tuple[Array, Array, Array]:
        """Return rows of a weight, their scales and biases."""
        n = len(self.gates)
        names = f"weight_{which}_int8", f"scale_{which}", f"bias_{which}"
        zeros = np.zeros(n * self.hidden_size, np.float32)
        w, scale, bias = (
            np.concatenate(np.split(weights.get(name, zeros), n)[gates]) for name in names
        )
        return w, scale, bias

    def packed(self, tape: Lowering, which: str) -> int:
        """Store a weight for ``int8_affine``, the gates of a vector of units side by side."""
        w, scale, _ = self._rows(self.weights, which, slice(None))
        return byte_matrix(tape, w, scale, len(self.gates))

    def apart(self, tape: Lowering, which: str, gates: slice = slice(None)) -> int:
        """Store the rows of some gates for ``int8_affine``, one gate after the other."""
        w, scale, _ = self._rows(self.weights, which, gates)
        n = len(self.gates[gates])
        return byte_matrix(tape, tape.pad_gates(w, n), tape.pad_gates(scale, n))

    def onnx(self, g: Recorder, *xs: str) -> str:
        if len(xs) > 1:
            new = self.write_step(g, *xs)
            return g.op("Concat", *new, axis=2) if len(new) > 1 else new[0]
        states, outputs = tuple(g.state(name) for name in self.states), []
        for t in range(g.frames()):
            x = g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0)
            states = self.write_step(g, x, *states)
            outputs.append(g.op("Unsqueeze", states[0], g.ints(0)))
        for name, value in zip(self.states, states, strict=True):
            g.next_state(name, value)
        return g.op("Concat", *outputs, axis=0)

    def write_step(self, g: Recorder, x: str, *states: str) -> tuple[str, ...]:
        """Write one step for values (…, I) and states (…, H); return the new states."""
        raise NotImplementedError

    def write_share(
        self, g: Recorder, which: str, x: str, gates: slice = slice(None)
    ) -> tuple[str, ...]:
        """Write :meth:`share`, a value for each gate."""
        w, scale, bias = self._rows(self.weights, which, gates)
        letters = self.gates[gates]
        both = write_product(g, x, w, scale, f"weight_{which}_{letters}")
        both = g.op("Add", both, g.constant(bias))
        if len(letters) == 1:
            return (both,)
        parts = g.ints(*[self.hidden_size] * len(letters))
        return g.ops("Split", len(letters), both, parts, axis=-1)
