"""Matrix product of two values, over the last two axes of their frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError
from ..graph import Shape, shown
from ..kernels.simd import at, fma, lanes, load, splat, store
from ..kernels.tape import Frames, Scratch, Size, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["MatMul"]


@kernel
def matrix_product(
    T: Frames,
    a: Scratch,
    a_step: Size,
    b: Scratch,
    b_step: Size,
    y: Scratch,
    y_step: Size,
    planes: Size,
    M: Size,
    K: Size,
    N: Size,
) -> None:
    """Each of ``planes`` products by itself; every output is a sum over K in ascending order."""
    whole = N - N % lanes()
    for t in range(T):
        for p in range(planes):
            right = at(b, t * b_step + p * K * N)
            for m in range(M):
                left = at(a, t * a_step + (p * M + m) * K)
                result = at(y, t * y_step + (p * M + m) * N)
                for j in range(0, whole, lanes()):
                    total = splat(0.0)
                    for k in range(K):
                        total = fma(splat(left[k]), load(right, k * N + j), total)
                    store(result, j, total)
                for j in range(whole, N):
                    rest = np.float32(0.0)
                    for k in range(K):
                        rest += left[k] * right[k * N + j]
                    result[j] = rest


@dataclass(eq=False)
class MatMul(Op):
    """``a @ b`` of two values [shape=(…, M, K)] and [shape=(…, K, N)], other axes alike."""

    def output_shape(self, *shapes: Shape) -> Shape:
        fits = len(shapes) == 2 and min(map(len, shapes)) >= 2
        if not fits or shapes[0][:-2] != shapes[1][:-2] or shapes[0][-1] != shapes[1][-2]:
            raise GraphError(
                f"{self!r} expects frames of shapes (…, M, K) and (…, K, N), got {shown(shapes)}"
            )
        return (*shapes[0][:-1], shapes[1][-1])

    def multiply_adds(self, *shapes: Shape) -> int:
        return math.prod(shapes[0]) * shapes[1][-1]

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.asarray(xs[0] @ xs[1])

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, (M, K) = tape.output(), xs[0].shape[-2:]
        tape.emit(
            matrix_product,
            a=xs[0],
            b=xs[1],
            y=y,
            planes=math.prod(xs[0].shape[:-2]),
            M=M,
            K=K,
            N=xs[1].shape[-1],
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        return g.op("MatMul", *xs)
