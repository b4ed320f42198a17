"""What recurrent cells share: weights in gates, states, stacks of layers, the native ONNX node."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape, Value
from ..layer import Layer
from .op import Array, Arrays, Op, check_seed, uniform

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["Cell", "Stack", "reorder"]


def reorder(array: Array, order: str, wanted: str) -> Array:
    """Return (gates * H, …) with its gates in another order: ``reorder(w, "rzn", "zrn")``."""
    parts = dict(zip(order, np.split(array, len(order)), strict=True))
    return np.concatenate([parts[gate] for gate in wanted])


@dataclass(eq=False)
class Cell(Op):
    """A recurrent step whose gates are affine in the frame and in the hidden state ``h``.

    A cell says its gates, its states and the gate order of other libraries, as data. Called on a
    frame it keeps its states; called on a frame and states, ``cell(x, h, c)``, it is the bare step,
    which keeps nothing and gives the new states side by side (for recurrences whose state is fed
    back from outside, see ``Past``).
    """

    input_size: int
    hidden_size: int
    bias: bool = True

    gates: ClassVar[str] = ""
    """One letter a gate, in the order in which the weights hold them (torch's)."""
    states: ClassVar[tuple[str, ...]] = ("h",)
    layouts: ClassVar[dict[str, str]] = {}
    """Gate order of other libraries."""

    def check(self) -> None:
        self.at_least(input_size=1, hidden_size=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        rows = len(self.gates) * self.hidden_size
        shapes: dict[str, Shape] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.hidden_size),
        }
        return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {})

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return uniform(shape, 1 / math.sqrt(self.hidden_size), rng)

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        own = len(shapes) <= 1
        return dict.fromkeys(self.states, (self.hidden_size,)) if own else {}

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.input_size,),)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) not in (1, 1 + len(self.states)):
            raise GraphError(
                f"{self!r} reads one value, or with it the {len(self.states)} states "
                f"{', '.join(self.states)}; got {len(shapes)}"
            )
        self.expect(shapes[0], (self.input_size,))
        for shape in shapes[1:]:
            self.expect(shape, (self.hidden_size,))
        return (max(1, len(shapes) - 1) * self.hidden_size,)

    def before(self, states: Arrays, xs: Sequence[Array]) -> Arrays:
        """Return the states before a frame: the cell's own, or those that come with it."""
        return states if len(xs) == 1 else dict(zip(self.states, xs[1:], strict=True))

    def after(self, states: Arrays, xs: Sequence[Array]) -> Array:
        """Return the output, given the states after a frame."""
        if len(xs) == 1:
            return states["h"]
        return np.concatenate([states[name] for name in self.states])

    def full_weights(self) -> Arrays:
        """Return the weights with zeros for biases that are off."""
        rows = len(self.gates) * self.hidden_size
        zeros = {name: np.zeros(rows, np.float32) for name in ("bias_ih", "bias_hh")}
        return zeros | dict(self.weights)

    def preactivations(self, weights: Arrays, x: Array, h: Array) -> Arrays:
        """Return ``W_ih x + b_ih + W_hh h + b_hh`` of each gate, by its letter."""
        z = weights["weight_ih"] @ x + weights["weight_hh"] @ h
        if self.bias:
            z = z + weights["bias_ih"] + weights["bias_hh"]
        return dict(zip(self.gates, np.split(z, len(self.gates)), strict=True))

    def native(self, g: Recorder, kind: str, x: str, **attributes: Any) -> str:
        """Write the cell as ONNX's own recurrent node ``kind`` (operators RNN, GRU, LSTM)."""
        states = [g.state(name, batch_axis=1, row=True) for name in self.states]
        y, *after = self._node(g, kind, x, states, attributes)
        for name, value in zip(self.states, after, strict=True):
            g.next_state(name, value)
        return g.op("Squeeze", y, g.ints(1))

    def native_step(self, g: Recorder, kind: str, *xs: str, **attributes: Any) -> str:
        """Write the bare step as that node: the frames of all streams are a batch of sequences."""
        flat = [
            g.op("Reshape", x, g.ints(1, -1, n)) for x, n in zip(xs, self._sizes(), strict=True)
        ]
        _, *after = self._node(g, kind, flat[0], flat[1:], attributes)
        both = g.op("Concat", *after, axis=2) if len(after) > 1 else after[0]
        return g.unmerge(both, len(after) * self.hidden_size)

    def _sizes(self) -> list[int]:
        return [self.input_size, *(self.hidden_size for _ in self.states)]

    def _node(
        self, g: Recorder, kind: str, x: str, states: Sequence[str], attributes: dict[str, Any]
    ) -> tuple[str, ...]:
        order = self.layouts["onnx"]
        w = {n: reorder(a, self.gates, order) for n, a in self.full_weights().items()}
        bias = np.concatenate([w["bias_ih"], w["bias_hh"]])
        return g.ops(
            kind,
            1 + len(self.states),
            x,
            g.constant(w["weight_ih"][None], "W"),
            g.constant(w["weight_hh"][None], "R"),
            g.constant(bias[None], "B") if self.bias else "",
            "",  # sequence_lens: every sequence has all T frames
            *states,
            hidden_size=self.hidden_size,
            **attributes,
        )


class Stack(Layer):
    """Cells of one kind on top of each other, under torch's argument and weight names.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers in a frame, and in the state of each layer.
    num_layers : int
        Cells; each reads the output of the one before.
    bias : bool
        Whether the cells have biases.
    bidirectional : bool
        Only False: the backward direction would need the future of the stream.
    name : str, optional
        The cells are called ``name_0``, ``name_1``, … (``name`` if there is one).
    seed : int, optional
        Makes the random initial weights reproducible.
    **options
        Further arguments of the cell.

    Raises
    ------
    ConfigError
        If a size is not a positive integer, an option is unknown, or `bidirectional` is true.
    """

    cell: ClassVar[type[Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        *,
        name: str | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        kind = type(self).__name__
        if bidirectional:
            raise ConfigError(
                f"{kind}: bidirectional=True cannot run on a live stream: the backward direction "
                f"begins at the last frame, which has not come yet; train with bidirectional=False"
            )
        integer = isinstance(num_layers, (int, np.integer)) and not isinstance(num_layers, bool)
        if not integer or num_layers < 1:
            raise ConfigError(
                f"{kind}: `num_layers` must be a positive integer, got {num_layers!r}"
            )
        check_seed(kind, seed)
        unknown = options.keys() - self.cell.__dataclass_fields__.keys()
        if unknown:
            raise ConfigError(f"{kind}: unknown argument {', '.join(map(repr, sorted(unknown)))}")
        self.name = name
        self.cells: Sequence[Cell] = tuple(
            self.cell(
                input_size if k == 0 else hidden_size,
                hidden_size,
                bias,
                name=name if name is None or num_layers == 1 else f"{name}_{k}",
                seed=child,
                **options,
            )
            for k, child in enumerate(_seeds(seed, num_layers))
        )

    def __repr__(self) -> str:
        first, n = self.cells[0], len(self.cells)
        return f"{type(self).__name__}({first.input_size}, {first.hidden_size}, num_layers={n})"

    def __call__(self, *values: Value) -> Value:
        if len(values) != 1:
            raise GraphError(f"{self!r} reads one value, got {len(values)}")
        return functools.reduce(lambda value, cell: cell(value), self.cells, values[0])

    def input_values(self) -> tuple[Value, ...]:
        return self.cells[0].input_values()

    def named_parameters(self) -> dict[str, tuple[Op, str]]:
        return {
            f"{name}_l{k}": (cell, name)
            for k, cell in enumerate(self.cells)
            for name in cell.parameter_shapes()
        }


def _seeds(seed: int | None, n: int) -> list[int | None]:
    """Return n seeds that follow from one (the first is itself)."""
    if seed is None:
        return [None] * n
    more = np.random.SeedSequence(seed).generate_state(max(n - 1, 1))
    return [seed, *(int(s) for s in more[: n - 1])]
