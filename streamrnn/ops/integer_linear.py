r"""Product of whole numbers: operator MatMulInteger of ONNX with weights that are known.

``y[o] = sum over k of W[o, k] * (q[k] - zero)``, exact: bytes times bytes, summed in int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape, shown
from ..kernels.integer_product import MAX_INPUTS, integer_affine, pack_product
from ..kernels.product import SIDE
from ..kernels.simd import as_bytes, at, hsum, lanes, load, splat, store_bytes
from ..kernels.tape import Frames, Number, Scratch, Size, Weights, copy, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["IntegerLinear", "byte_matrix"]


@kernel
def integer_linear(
    T: Frames,
    q: Scratch,
    q_step: Size,
    zero: Scratch,
    zero_step: Size,
    y: Scratch,
    y_step: Size,
    bytes_: Scratch,
    padded: Scratch,
    w: Weights,
    start: Weights,
    rows: Size,
    I: Size,
    K: Size,
    O: Size,
    P: Size,
    offset: Number,
) -> None:
    """A frame is ``rows`` rows of I whole numbers from -offset to 255 - offset."""
    L = lanes()
    small, whole = as_bytes(at(bytes_, L)), I - I % L
    for t in range(T):
        one = np.float32(1.0) + (zero[t * zero_step] - zero[t * zero_step])  # NaN stays NaN
        for r in range(rows):
            row, target = at(q, t * q_step + r * I), at(small, r * K)
            odd = splat(0.0)
            for i in range(0, whole, L):
                numbers = load(row, i)
                store_bytes(target, i, numbers + offset)
                odd = odd + (numbers - numbers)
            if whole < I:
                store_bytes(target, whole, load(row, whole) + offset)
            for i in range(whole, I):
                one += row[i] - row[i]
            one += hsum(odd)
        bytes_[0], bytes_[1] = one, zero[t * zero_step] + offset
        integer_affine(rows, bytes_, 0, small, K, I, start, 0, padded, P, w, O)
        for r in range(rows):
            copy(O, at(padded, r * P), at(y, t * y_step + r * O))


def byte_matrix(tape: Lowering, weight: Array, scale: Array, gates: int = 1) -> int:
    """Store an int8 weight (gates * O, K) and its rows' scales, for ``integer_affine``.

    It is laid out as :meth:`Lowering.matrix` lays out a weight in float32.
    """
    rows, scales = tape.by_units(weight, gates), tape.by_units(np.asarray(scale, np.float32), gates)
    side = gates if gates > 1 else SIDE
    return tape.weight(pack_product(rows, scales, tape.lanes, side))


@dataclass(eq=False)
class IntegerLinear(Op):
    """Whole numbers times int8 weights, exactly; see the module's text.

    Reads ``q`` float32 [shape=(…, I)], whole numbers from 0 to 255 (-128 to 127 if `signed`), and
    their zero point, float32 [shape=()]. Outputs are float32 [shape=(…, O)], whole numbers; above
    2**24 they are rounded. Weight: ``weight_int8`` (O, I), int8.

    Parameters
    ----------
    in_features, out_features : int
        I, at most 65,000, and O.
    signed : bool
        Whether the numbers are int8 instead of uint8.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If a size is out of range.
    """

    in_features: int
    out_features: int
    signed: bool = False

    def check(self) -> None:
        self.at_least(in_features=1, out_features=1)
        if self.in_features > MAX_INPUTS:
            raise ConfigError(
                f"IntegerLinear: `in_features` must be at most {MAX_INPUTS}, got "
                f"{self.in_features}: sums in int32 could overflow"
            )

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight_int8": (self.out_features, self.in_features)}

    def initial_weight(self, name: str, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.in_features,), ())

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 2 or shapes[0][-1:] != (self.in_features,) or shapes[1] != ():
            raise GraphError(
                f"{self!r} expects frames of shapes (…, {self.in_features}) and (), got "
                f"{shown(shapes)}"
            )
        return (*shapes[0][:-1], self.out_features)

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        return np.asarray((xs[0] - xs[1]) @ weights["weight_int8"].T)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, I, O = tape.output(), self.in_features, self.out_features
        K, P, rows = tape.padded(I), tape.padded(O), xs[0].size // I
        weight = self.weights["weight_int8"]
        packed = tape.shared(lambda: {"w": byte_matrix(tape, weight, np.ones(O))})
        tape.emit(
            integer_linear,
            q=xs[0],
            zero=xs[1],
            y=y,
            bytes_=tape.temporary(0, fixed=rows * K // 4 + 2 * tape.lanes),
            padded=tape.temporary(0, fixed=rows * P),
            start=tape.weight(np.zeros(P)),
            rows=rows,
            I=I,
            K=K,
            O=O,
            P=P,
            offset=128.0 if self.signed else 0.0,
            **packed,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        """Signed bytes become unsigned ones: the sums are the same, and peers are faster so."""
        weight = g.constant(self.weights["weight_int8"].T, "weight")

        def write(q: str, zero: str) -> str:
            if self.signed:
                q, zero = (g.op("Add", v, g.constant(np.float32(128))) for v in (q, zero))
            point = g.op("Cast", g.op("Reshape", zero, g.constant(np.zeros(0, np.int64))), to=2)
            return g.op("Cast", g.op("MatMulInteger", g.op("Cast", q, to=2), weight, point), to=1)

        return g.each(write, *xs)
