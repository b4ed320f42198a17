"""Ops that multiply by a matrix which their arguments fix: nothing to train, nothing in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from .linear import Linear
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["product"]


def product(matrix: Array) -> Linear:
    """Return a linear layer without a bias whose weight (O, I) is `matrix`."""
    op = Linear(matrix.shape[1], matrix.shape[0], bias=False)
    op.weights = {"weight": np.asarray(matrix, np.float32)}
    return op


class _FixedProduct(Op):
    """``y = M x`` over the last axis of a frame."""

    def matrix(self) -> Array:
        """Return M (O, I), float64."""
        raise NotImplementedError

    def sizes(self) -> tuple[int, int]:
        """Return O and I."""
        raise NotImplementedError

    def multiply_adds(self, *shapes: Shape) -> int:
        return self.sizes()[0] * int(np.prod(shapes[0]))

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.sizes()[1],),)

    def output_shape(self, *shapes: Shape) -> Shape:
        out, size = self.sizes()
        if len(shapes) != 1 or shapes[0][-1:] != (size,):
            raise GraphError(f"{self!r} expects frames of shape (…, {size}), got {shown(shapes)}")
        return (*shapes[0][:-1], out)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.asarray(xs[0] @ self.matrix().T)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        return product(self.matrix()).lower(tape, *xs)

    def onnx(self, g: Recorder, *xs: str) -> str:
        return product(self.matrix()).onnx(g, *xs)
