"""The oracle: a model run in float64 from each op's plain equations, frame by frame.

Slow and simple; it shares nothing with the kernels. Tests hold the compiled stream against it, and
so can you when you write an op.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Graph
from .layer import Layer

__all__ = ["ReferenceStream"]

Array = npt.NDArray[np.float64]


class ReferenceStream:
    """A stream computed by the plain equations in float64.

    Parameters
    ----------
    layer : Layer
        The model; its weights are used as they are now.
    """

    def __init__(self, layer: Layer) -> None:
        self.graph: Graph = layer.graph()
        self.reset()

    def reset(self) -> None:
        """Return to the initial state."""
        self.frames = 0
        self._weights = {}
        self._states: dict[str, dict[str, Array]] = {}
        for node in self.graph.nodes:
            self._weights[node.name] = {n: a.astype(np.float64) for n, a in node.op.weights.items()}
            shapes = node.op.state_shapes(*(a.shape for a in node.args))
            self._states[node.name] = {
                name: np.asarray(node.op.initial_state.get(name, np.zeros(shape)), np.float64)
                for name, shape in shapes.items()
            }

    @property
    def state(self) -> dict[str, Array]:
        """The states by their name in the model, float64."""
        return {
            node.full(name): array.copy()
            for node in self.graph.nodes
            for name, array in self._states[node.name].items()
        }

    def step(self, *frames: Any) -> Any:
        """Run one frame; return the output, a tuple of outputs, or None if none is due."""
        made: dict[int, Any] = {}
        for value, x in zip(self.graph.inputs.values(), frames, strict=True):
            made[id(value)] = np.asarray(x, np.int64 if value.dtype == "int64" else np.float64)
        now = self.frames
        for node in self.graph.nodes:
            clock = node.value.clock
            due = clock.emitted(now + 1) > clock.emitted(now)
            if all(id(arg) in made for arg in node.args) or (due and node.op.between_frames):
                xs: list[Any] = [made.get(id(arg)) for arg in node.args]
                y = node.op.reference(self._weights[node.name], self._states[node.name], *xs)
                if due:
                    made[id(node.value)] = y
        names = {id(node.value): node.name for node in self.graph.nodes}
        for past, new in self.graph.feedback.items():
            if id(new) in made:
                self._states[names[id(past)]][""] = made[id(new)]
        self.frames += 1
        outputs = [made.get(id(v)) for v in self.graph.outputs.values()]
        if outputs[0] is None:
            return None
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(self, *xs: Any) -> Any:
        """Run a block of frames (T, *frame shape); return the outputs that were due."""
        outputs = [y for frame in zip(*xs, strict=True) if (y := self.step(*frame)) is not None]
        values = list(self.graph.outputs.values())
        if len(values) == 1:
            return np.array(outputs).reshape(len(outputs), *values[0].shape)
        return tuple(
            np.array([y[i] for y in outputs]).reshape(len(outputs), *v.shape)
            for i, v in enumerate(values)
        )
