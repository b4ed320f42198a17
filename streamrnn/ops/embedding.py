"""Look-up of a vector by index, as ``torch.nn.Embedding``: ``y = weight[x]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..graph import Shape
from ..kernels.simd import at, lanes, load, store
from ..kernels.tape import Frames, Matrix, Scratch, Size, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["Embedding"]

EXACT = 1 << 24
"""Indices travel as float32, which holds every integer up to here."""


@kernel
def embedding(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    w: Matrix,
    indices: Size,
    D: Size,
    limit: Size,
) -> None:
    """A frame holds ``indices`` indices; one out of range reads the nearest row, never beyond."""
    for t in range(T):
        for j in range(indices):
            row = min(max(int(x[t * x_step + j]), 0), limit - 1)
            vector, result = at(w, row * D), at(y, t * y_step + j * D)
            for i in range(0, D, lanes()):  # beyond D stands what the next row overwrites
                store(result, i, load(vector, i))


@dataclass(eq=False)
class Embedding(Op):
    """A vector for each index.

    Frames are integers [shape=(…)], usually a single one [shape=()]; outputs float32
    [shape=(…, D)]. Weight: ``weight`` (num_embeddings, D).

    Parameters
    ----------
    num_embeddings : int
        Number of indices: 0 to num_embeddings - 1 are valid, any other is an error.
    embedding_dim : int
        D.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is not a positive integer, or there are more than 2**24 indices.
    """

    num_embeddings: int
    embedding_dim: int

    def check(self) -> None:
        self.at_least(num_embeddings=1, embedding_dim=1)
        if self.num_embeddings > EXACT:
            raise ConfigError(f"Embedding: `num_embeddings` must be at most {EXACT}")
        self.index_limit = self.num_embeddings

    def multiply_adds(self, *shapes: Shape) -> int:
        return 0

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.num_embeddings, self.embedding_dim)}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.standard_normal(shape, np.float32)

    def needs_float32(self) -> str:
        return ""

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((),)

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.embedding_dim)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return weights["weight"][xs[0]]

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output(spare=tape.lanes)
        tape.emit(
            embedding,
            x=xs[0],
            y=y,
            w=tape.packed(self.weights["weight"]),
            indices=xs[0].size,
            D=self.embedding_dim,
            limit=self.num_embeddings,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("Gather", g.constant(self.weights["weight"], "weight"), xs[0], axis=0)
