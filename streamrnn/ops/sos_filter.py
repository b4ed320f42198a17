"""Recursive filters of any order: a cascade of second-order sections, as ``scipy.signal.sosfilt``.

Each section with the coefficients ``b0 b1 b2 1 a1 a2``, in the transposed direct form II::

    y  = b0 x + z1
    z1 = b1 x - a1 y + z2
    z2 = b2 x - a2 y
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, GraphError
from ..graph import Shape, shown
from ..kernels.functions import TINY
from ..kernels.simd import at
from ..kernels.tape import Frames, Scratch, Size, State, Weights, kernel
from .op import Array, Arrays, Op

if TYPE_CHECKING:
    from ..program import Location, Lowering
    from .recorder import Recorder

__all__ = ["SOSFilter"]


@kernel
def sos_filter(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    z: State,
    sos: Weights,
    sections: Size,
    signals: Size,
    n: Size,
) -> None:
    """A frame holds ``n`` samples of each of ``signals`` signals."""
    zero = np.float32(0.0)
    for t in range(T):
        for k in range(signals):
            source, result = at(x, t * x_step + k * n), at(y, t * y_step + k * n)
            for s in range(sections):
                b0, b1, b2 = sos[6 * s], sos[6 * s + 1], sos[6 * s + 2]
                a1, a2 = sos[6 * s + 4], sos[6 * s + 5]
                state = at(z, 2 * (k * sections + s))
                z1, z2 = state[0], state[1]
                for i in range(n):
                    new = source[i]
                    out = b0 * new + z1
                    z1 = b1 * new - a1 * out + z2
                    z2 = b2 * new - a2 * out
                    result[i] = out
                state[0] = zero if abs(z1) < TINY else z1
                state[1] = zero if abs(z2) < TINY else z2
                source = result


@dataclass(eq=False)
class SOSFilter(Op):
    """A cascade of second-order sections, for each signal by itself.

    Frames and outputs are float32 [shape=(C,)]: one sample of each of C signals, as sensors give
    them, or with ``blocks=True`` the next C samples of one signal, as a front end takes them. The
    state ``z`` [shape=(signals, sections, 2)] is what the sections keep. It is float32: an edge
    far below a thousandth of the sample rate is beyond it, reduce the rate first.

    Parameters
    ----------
    sos : array [shape=(sections, 6)]
        Coefficients as ``scipy.signal.butter(…, output="sos")`` gives them.
    blocks : bool
        Whether a frame is a block of one signal.
    name, seed
        See :class:`Op`.

    Raises
    ------
    ConfigError
        If the coefficients are not rows of six finite numbers, or the filter is not stable.
    """

    sos: Sequence[float]
    blocks: bool = False

    prefix = "sos"

    def check(self) -> None:
        try:
            rows = np.asarray(self.sos, np.float64).reshape(-1, 6)
        except (TypeError, ValueError):
            rows = np.empty((0, 6))
        if not rows.size or not np.isfinite(rows).all() or not rows[:, 3].all():
            raise ConfigError(
                "SOSFilter: `sos` must be rows of six finite numbers b0 b1 b2 a0 a1 a2 with a0 "
                'other than 0, as scipy.signal.butter(…, output="sos") gives them'
            )
        rows = rows / rows[:, 3:4]
        radius = max(np.abs(np.roots(row[3:])).max(initial=0.0) for row in rows)
        if radius >= 1:
            raise ConfigError(
                f"SOSFilter: the filter is not stable, a pole lies {radius:.4g} from the origin; "
                f"expected below 1"
            )
        self.sos = tuple(rows.reshape(-1).tolist())

    def sections(self) -> Array:
        """Return the coefficients, a0 = 1, float64 [shape=(sections, 6)]."""
        return np.asarray(self.sos).reshape(-1, 6)

    def signals(self, shape: Shape) -> int:
        """Return how many signals a frame has samples of."""
        return 1 if self.blocks else shape[0]

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise GraphError(f"{self!r} expects frames of shape (C,), got {shown(shapes)}")
        return shapes[0]

    def state_shapes(self, *shapes: Shape) -> dict[str, Shape]:
        return {"z": (self.signals(shapes[0]), len(self.sections()), 2)}

    def filtered(self, z: Array, x: Array) -> tuple[Array, Array]:
        """Return (y, new z) for x (…, samples) and z (…, sections, 2), float64."""
        z, y = z.copy(), x.copy()
        for i in range(x.shape[-1]):
            for s, (b0, b1, b2, _, a1, a2) in enumerate(self.sections()):
                new, z1, z2 = y[..., i].copy(), z[..., s, 0].copy(), z[..., s, 1].copy()
                y[..., i] = out = b0 * new + z1
                z[..., s, 0], z[..., s, 1] = b1 * new - a1 * out + z2, b2 * new - a2 * out
        return y, z

    def reference(self, weights: Arrays, states: Arrays, *xs: Array) -> Array:
        y, states["z"] = self.filtered(states["z"], xs[0].reshape(len(states["z"]), -1))
        return y.reshape(-1)

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y, signals = tape.output(), self.signals(xs[0].shape)
        tape.emit(
            sos_filter,
            x=xs[0],
            y=y,
            z=tape.state("z"),
            sos=tape.weight(np.asarray(self.sos, np.float32)),
            sections=len(self.sections()),
            signals=signals,
            n=xs[0].size // signals,
        )
        return y

    def onnx(self, g: Recorder, *xs: str) -> str:
        """Write a frame as products with matrices: the filter's answer to every 1 in x and in z."""
        S, signals = len(self.sections()), self.signals(g.shape())
        n = g.shape()[0] // signals
        y_x, z_x = self.filtered(np.zeros((n, S, 2)), np.eye(n))
        y_z, z_z = self.filtered(np.eye(2 * S).reshape(-1, S, 2), np.zeros((2 * S, n)))
        names = (g.constant(m.reshape(len(m), -1)) for m in (y_x, z_x, y_z, z_z))
        y_of_x, z_of_x, y_of_z, z_of_z = names
        z, outputs = g.op("Reshape", g.state("z"), g.ints(-1, signals, 2 * S)), []
        for t in range(g.frames()):
            x = g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0)
            x = g.op("Reshape", x, g.ints(-1, signals, n))
            y = g.op("Add", g.op("MatMul", x, y_of_x), g.op("MatMul", z, y_of_z))
            z = g.op("Add", g.op("MatMul", x, z_of_x), g.op("MatMul", z, z_of_z))
            outputs.append(g.op("Reshape", y, g.ints(1, -1, *g.shape())))
        g.next_state("z", g.op("Reshape", z, g.ints(-1, signals, S, 2)))
        return g.op("Concat", *outputs, axis=0)
