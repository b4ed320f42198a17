"""ONNX graphs in the form that is fastest for those who run them.

A graph of our own exporter says more than is needed here; this one holds the recurrent nodes and
nothing else that a peer would spend time on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..layer import Layer
from .case import Case
from .libraries import library

__all__ = ["StepGraph", "recurrent", "written"]

Array = npt.NDArray[np.float32]

ONNX_GATES = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}
"""ONNX's gates (iofc, zrh) as positions in torch's order (ifgo, rzn)."""

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class StepGraph:
    """An ONNX model of one call, and which of its values are what.

    Parameters
    ----------
    model : bytes
        The serialised model.
    x, y : str
        Names of the frames and of the result.
    x_shape, y_shape : tuple of int
        Their shapes.
    states : dict
        Name of each state as it goes in: (name as it comes out, shape).
    constants : dict
        Inputs that are the same in every call.
    """

    model: bytes
    x: str
    y: str
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    states: Mapping[str, tuple[str, tuple[int, ...]]]
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        """Names of all outputs: the states in the order of `states`, then the result."""
        return list(dict.fromkeys([*(out for out, _ in self.states.values()), self.y]))

    def begin(self) -> dict[str, Array]:
        """Return new states, all zeros."""
        return {name: np.zeros(shape, np.float32) for name, (_, shape) in self.states.items()}


def recurrent(case: Case, weights: Mapping[str, Array]) -> StepGraph:
    """Return recurrent layers as one ONNX node each, from weights under torch's names.

    For one frame a layer's final hidden state (1, B, H) is the next layer's sequence (T, B, H), so
    that nothing has to stand between the nodes; for more, its outputs (T, 1, B, H) lose an axis.
    """
    onnx: Any = library("onnx")
    helper, as_tensor = onnx.helper, onnx.numpy_helper.from_array
    H, letters = case.hidden_size, "hc" if case.kind == "LSTM" else "h"
    nodes, constants, x = [], [], "x"
    states: dict[str, tuple[str, tuple[int, ...]]] = {}
    attributes = {"hidden_size": H} | ({"linear_before_reset": 1} if case.kind == "GRU" else {})
    if case.block > 1:
        constants.append(as_tensor(np.array([1]), "direction"))
    for k in range(case.num_layers):
        w = {name: _onnx_order(case.kind, weights[f"{name}_l{k}"]) for name in PARAMETERS}
        tensors = {
            f"W{k}": w["weight_ih"][None],
            f"R{k}": w["weight_hh"][None],
            f"B{k}": np.concatenate([w["bias_ih"], w["bias_hh"]])[None],
        }
        constants += [as_tensor(array, name) for name, array in tensors.items()]
        states |= {f"{s}{k}_in": (f"{s}{k}_out", (1, case.batch, H)) for s in letters}
        outputs = [f"{s}{k}_out" for s in letters]
        inputs = [x, *tensors, "", *(f"{s}{k}_in" for s in letters)]
        every = "" if case.block == 1 else f"all{k}"
        nodes.append(helper.make_node(case.kind, inputs, [every, *outputs], **attributes))
        x = f"h{k}_out"
        if case.block > 1:
            x = f"y{k}"
            nodes.append(helper.make_node("Squeeze", [every, "direction"], [x]))
    ends = [_tensor(*state) for state in states.values()]
    y_shape = (case.block, case.batch, H)
    if case.block > 1:
        ends.append(_tensor(x, y_shape))
    begins = [_tensor("x", case.shape), *(_tensor(n, s[1]) for n, s in states.items())]
    graph = helper.make_graph(nodes, "step", begins, ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return StepGraph(model.SerializeToString(), "x", x, case.shape, y_shape, states)


def _onnx_order(kind: str, array: Array) -> Array:
    gates = ONNX_GATES[kind]
    parts = np.split(array, len(gates))
    return np.concatenate([parts[i] for i in gates])


def _tensor(name: str, shape: Sequence[int]) -> Any:
    onnx: Any = library("onnx")
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def written(model: Layer, quantize: str | None = None) -> StepGraph:
    """Return what our exporter makes of a model with one input and one output."""
    import tempfile
    from pathlib import Path

    from ..export import to_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        to_onnx(model, path, verify=False, quantize=quantize)
        return of_file(path)


def of_file(path: Any, y: str | None = None, **options: Any) -> StepGraph:
    """Return a step graph in a file; its one input, and the output `y` or else the first.

    Parameters
    ----------
    path : Path
        The file.
    y : str, optional
        The output that is compared.
    options
        Of ``streamrnn.load``.
    """
    from ..export import OnnxStream

    program: Any = OnnxStream(path, **options).program
    (x,) = program.frames
    result = next(port for port in program.results if y in (None, port.name))
    states = {s.input: (s.output, s.shape) for s in program.states}
    content = path.read_bytes()
    return StepGraph(content, x.name, result.name, x.shape, result.shape, states, program.constants)
