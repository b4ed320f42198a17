"""The contenders: streamrnn, onnxruntime and torch, each as a step of the same function.

All contenders of a case read their frame from one buffer ``x``, which the caller fills, and keep
their own state. Every peer runs in the form that is fastest for it: the ONNX graph holds nothing
but its recurrent nodes, state goes back without copies, and with io-binding each buffer is bound
once.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import streamrnn
from streamrnn.export import OnnxStream, to_onnx

__all__ = [
    "BINDING",
    "BLOCK",
    "BLOCK_FRAMES",
    "ONNX_STREAM",
    "RUN",
    "STEP",
    "TORCH",
    "Case",
    "Contender",
    "recurrent",
    "silero",
    "torch_inference",
    "torch_or_none",
]

Array = npt.NDArray[np.float32]

STEP = "streamrnn step"
BLOCK = "streamrnn in a block"
BINDING = "onnxruntime io-binding"
ONNX_STREAM = "OnnxStream step"
RUN = "onnxruntime run"
TORCH = "torch"

BLOCK_FRAMES = 1000
"""Frames in the block whose cost is divided by their number."""

ONNX_GATES = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}
"""ONNX's gates (iofc, zrh) as positions in torch's order (ifgo, rzn)."""

SILERO_CONTEXT_SAMPLES = 64


@dataclass(frozen=True)
class Case:
    """A stack of recurrent layers: its kind (``"LSTM"``, ``"GRU"`` or ``"RNN"``) and sizes."""

    kind: str
    input_size: int
    hidden_size: int
    num_layers: int = 1

    def __str__(self) -> str:
        layers = f" x{self.num_layers}" if self.num_layers > 1 else ""
        return f"{self.kind} {self.input_size} -> {self.hidden_size}{layers}"


@dataclass(frozen=True)
class Contender:
    """One way to run the function.

    Parameters
    ----------
    name : str
        What reports call it.
    step : callable
        Reads the frame in the shared buffer and advances the state.
    output : callable
        Returns what the last step has made, flat.
    frames : int
        Frames that one call of ``step`` runs: more than one for a block.
    """

    name: str
    step: Callable[[], object]
    output: Callable[[], Array]
    frames: int = 1


@dataclass(frozen=True)
class StepGraph:
    """An ONNX model of one step, and which of its values are what.

    Parameters
    ----------
    model : bytes
        The serialised model.
    x, y : str
        Names of the frame and of the result.
    states : dict
        Name of each state as it goes in: (name as it comes out, shape).
    constants : dict
        Inputs that are the same in every step.
    y_shape : tuple of int
        Shape of the result, where it is no state.
    """

    model: bytes
    x: str
    y: str
    states: Mapping[str, tuple[str, tuple[int, ...]]]
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    y_shape: tuple[int, ...] = (1, 1)

    def session(self) -> Any:
        """Return an onnxruntime session on one thread."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        return ort.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])


def recurrent(case: Case, x: Array) -> list[Contender]:
    """Return all contenders for a stack of recurrent layers, with the same random weights.

    Parameters
    ----------
    case : Case
        Which layers.
    x : float32 [shape=(I,)]
        Buffer of the frame, shared by all.
    """
    layer = getattr(streamrnn, case.kind)(
        case.input_size, case.hidden_size, num_layers=case.num_layers, seed=0
    )
    graph = recurrent_graph(case, layer.state_dict())
    frame = x.reshape(1, 1, -1)
    found = [*ours(layer, x), onnxruntime_binding(graph, frame), onnxruntime_run(graph, frame)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        to_onnx(layer, path, verify=False)
        found.insert(-1, onnx_stream(path, x))
    if torch_or_none() is not None:
        found.append(torch_step(case, layer.state_dict(), x))
    return found


def silero(model: streamrnn.Model, onnx_path: Path, x: Array) -> list[Contender]:
    """Return the contenders for Silero VAD at 16 kHz; there is no torch among them.

    The file wants each frame with the 64 samples before it. To keep them is part of a peer's step,
    as it is part of ours.

    Parameters
    ----------
    model : Model
        Ours, on frames of shape (512,).
    onnx_path : Path
        The file that the weights came from.
    x : float32 [shape=(512,)]
        Buffer of the frame, shared by all.
    """
    content = onnx_path.read_bytes()
    inputs = {value.name for value in onnx.load_from_string(content).graph.input}
    graph = StepGraph(
        model=content,
        x="input",
        y="output",
        states={"state": ("stateN", (2, 1, 128))},
        constants={"sr": np.array(16000, np.int64)} if "sr" in inputs else {},
    )
    found = ours(model, x)
    for build in (onnxruntime_binding, onnxruntime_run):
        padded = np.zeros((1, SILERO_CONTEXT_SAMPLES + x.size), np.float32)
        found.append(_with_context(build(graph, padded), x, padded))
    return found


def _with_context(contender: Contender, x: Array, padded: Array) -> Contender:
    past, new = padded[0, :SILERO_CONTEXT_SAMPLES], padded[0, SILERO_CONTEXT_SAMPLES:]
    last, step = padded[0, -SILERO_CONTEXT_SAMPLES:], contender.step

    def both() -> None:
        past[:] = last
        new[:] = x
        step()

    return replace(contender, step=both)


# streamrnn ---------------------------------------------------------------------------------------


def ours(model: streamrnn.Layer, x: Array) -> list[Contender]:
    """Return a stream's ``step`` into a buffer, and its ``run`` of a block of frames."""
    stream, other = model.stream(), model.stream()
    y = np.zeros_like(stream.step(x))
    stream.reset()
    xs = np.random.default_rng(1).standard_normal((BLOCK_FRAMES, x.size)).astype(np.float32)
    ys = np.zeros((BLOCK_FRAMES, y.size), np.float32)

    def step() -> None:
        stream.step(x, out=y)

    def block() -> None:
        other.run(xs, out=ys)

    return [
        Contender(STEP, step, lambda: y),
        Contender(BLOCK, block, lambda: ys[-1], BLOCK_FRAMES),
    ]


# onnxruntime -------------------------------------------------------------------------------------


def recurrent_graph(case: Case, weights: Mapping[str, Array]) -> StepGraph:
    """Return the layers as one ONNX node each, from weights under torch's names.

    A layer's final hidden state (1, N, H) is the next layer's sequence (T, N, H), as T = 1 and
    N = 1: nothing has to stand between the nodes.
    """
    H = case.hidden_size
    letters = "hc" if case.kind == "LSTM" else "h"
    nodes, constants, x = [], [], "x"
    states: dict[str, tuple[str, tuple[int, ...]]] = {}
    for k in range(case.num_layers):
        w = {name: _onnx_order(case, weights[f"{name}_l{k}"]) for name in _PARAMETERS}
        tensors = {
            f"W{k}": w["weight_ih"][None],
            f"R{k}": w["weight_hh"][None],
            f"B{k}": np.concatenate([w["bias_ih"], w["bias_hh"]])[None],
        }
        constants += [numpy_helper.from_array(array, name) for name, array in tensors.items()]
        states |= {f"{s}{k}_in": (f"{s}{k}_out", (1, 1, H)) for s in letters}
        outputs = [f"{s}{k}_out" for s in letters]
        attributes = {"hidden_size": H} | ({"linear_before_reset": 1} if case.kind == "GRU" else {})
        inputs = [x, *tensors, "", *(f"{s}{k}_in" for s in letters)]
        nodes.append(helper.make_node(case.kind, inputs, ["", *outputs], **attributes))
        x = f"h{k}_out"
    values_in = [
        _tensor("x", (1, 1, case.input_size)),
        *(_tensor(n, s[1]) for n, s in states.items()),
    ]
    values_out = [_tensor(*state) for state in states.values()]
    graph = helper.make_graph(nodes, "step", values_in, values_out, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return StepGraph(model.SerializeToString(), "x", x, states)


_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _onnx_order(case: Case, array: Array) -> Array:
    gates = ONNX_GATES[case.kind]
    parts = np.split(array, len(gates))
    return np.concatenate([parts[i] for i in gates])


def _tensor(name: str, shape: Sequence[int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def onnxruntime_run(graph: StepGraph, x: Array) -> Contender:
    """Return a contender that calls ``session.run`` and feeds the state's arrays back."""
    run = graph.session().run
    names = list(dict.fromkeys([*(out for out, _ in graph.states.values()), graph.y]))
    feeds: dict[str, Any] = {graph.x: x, **graph.constants}
    feeds |= {name: np.zeros(shape, np.float32) for name, (_, shape) in graph.states.items()}
    state_names, at = list(graph.states), names.index(graph.y)
    results: list[Array] = []

    def step() -> None:
        nonlocal results
        results = run(names, feeds)
        for name, value in zip(state_names, results, strict=False):
            feeds[name] = value

    return Contender(RUN, step, lambda: results[at].reshape(-1))


def onnxruntime_binding(graph: StepGraph, x: Array) -> Contender:
    """Return a contender with io-binding: two sets of state buffers, which change places."""
    session = graph.session()
    states = [
        {name: np.zeros(shape, np.float32) for name, (_, shape) in graph.states.items()}
        for _ in range(2)
    ]
    results: list[Array] = []
    bindings = []
    for before, after in (states, states[::-1]):
        outputs = {out: after[name] for name, (out, _) in graph.states.items()}
        if graph.y not in outputs:
            outputs[graph.y] = np.zeros(graph.y_shape, np.float32)
        results.append(outputs[graph.y].reshape(-1))
        binding = session.io_binding()
        for name, array in {graph.x: x, **graph.constants, **before}.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        bindings.append(binding)
    run, turn = session.run_with_iobinding, 1

    def step() -> None:
        nonlocal turn
        turn ^= 1
        run(bindings[turn])

    return Contender(BINDING, step, lambda: results[turn])


def onnx_stream(path: Path, x: Array, y: str = "y", **options: Any) -> Contender:
    """Return our ``OnnxStream`` on a step graph, its step into a buffer."""
    stream = OnnxStream(path, **options)
    frame = x.reshape(stream.program.inputs[0].shape)
    outs = tuple(np.zeros(v.shape, np.float32) for v in stream.program.outputs)
    at = [port.name for port in stream.program.results].index(y)
    out = outs if len(outs) > 1 else outs[0]

    def step() -> None:
        stream.step(frame, out=out)

    return Contender(ONNX_STREAM, step, lambda: outs[at].reshape(-1))


# torch -------------------------------------------------------------------------------------------


@functools.cache
def torch_or_none() -> Any:
    """Return torch, on one thread, or None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


def torch_inference() -> contextlib.AbstractContextManager[Any]:
    """Return torch's inference mode, to be entered around everything that is timed."""
    torch = torch_or_none()
    if torch is None:
        return contextlib.nullcontext()
    mode: contextlib.AbstractContextManager[Any] = torch.inference_mode()
    return mode


def torch_step(case: Case, weights: Mapping[str, Array], x: Array) -> Contender:
    """Return torch's module with these weights, called on one frame with its state fed back."""
    torch = torch_or_none()
    module = getattr(torch.nn, case.kind)(case.input_size, case.hidden_size, case.num_layers).eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    frame = torch.from_numpy(x).reshape(1, 1, -1)
    y = state = None

    def step() -> None:
        nonlocal y, state
        y, state = module(frame, state)

    def output() -> Array:
        assert y is not None
        array: Array = y.numpy().reshape(-1)
        return array

    return Contender(TORCH, step, output)
