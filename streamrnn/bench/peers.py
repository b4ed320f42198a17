"""Those who are compared with: onnxruntime, OpenVINO, tract, torch and NumPy, on one thread.

Each reads its frames from the shared buffer ``x`` (frames, streams, …), keeps its own state and
runs in the form that is fastest for it: states go back without copies, and where buffers can be
bound, each is bound once. A library that is missing makes no contender, and the report says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .case import Case
from .graphs import StepGraph
from .libraries import library
from .timing import INT8_TOLERANCE, TOLERANCE, Contender

__all__ = [
    "BINDING",
    "COMPILED",
    "INT8",
    "NUMPY",
    "OPENVINO",
    "RUN",
    "TORCH",
    "TRACT",
    "available",
    "missing",
    "numpy_calls",
    "of_graph",
    "onnxruntime_int8",
    "torch_calls",
    "torch_inference",
    "torch_module",
]

Array = npt.NDArray[np.float32]

BINDING = "onnxruntime io-binding"
RUN = "onnxruntime run"
INT8 = "onnxruntime int8"
TORCH = "torch"
COMPILED = "torch.compile"
OPENVINO = "OpenVINO"
TRACT = "tract"
NUMPY = "numpy"

LIBRARIES = {
    BINDING: "onnxruntime",
    RUN: "onnxruntime",
    INT8: "onnxruntime",
    TORCH: "torch",
    COMPILED: "torch",
    OPENVINO: "openvino",
    TRACT: "tract",
    NUMPY: "numpy",
}
"""Which library each of them needs."""


def available(peer: str) -> bool:
    """Whether a peer's library is there, and on one thread."""
    return library(LIBRARIES[peer]) is not None and (peer != NUMPY or one_thread())


def one_thread() -> bool:
    """Whether NumPy's products run on one thread, which only the environment can tell them."""
    return "1" in (os.environ.get("OPENBLAS_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS"))


def missing(peer: str) -> str:
    """Return why a peer is not available."""
    if library(LIBRARIES[peer]) is None:
        return f"{LIBRARIES[peer]} is not installed"
    return "OPENBLAS_NUM_THREADS=1 is not set, so that NumPy would take all cores"


# ONNX ----------------------------------------------------------------------------------------


def onnxruntime_session(graph: StepGraph) -> Any:
    """Return a session on one thread."""
    ort: Any = library("onnxruntime")

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])


def onnxruntime_run(graph: StepGraph, x: Array, frames: int, tolerance: float) -> Contender:
    """Return a contender that calls ``session.run`` and feeds the state's arrays back."""
    run, names = onnxruntime_session(graph).run, graph.outputs
    feeds: dict[str, Any] = {graph.x: x, **graph.constants, **graph.begin()}
    state_names, at = list(graph.states), names.index(graph.y)
    results: list[Array] = []

    def call() -> None:
        nonlocal results
        results = run(names, feeds)
        for name, value in zip(state_names, results, strict=False):
            feeds[name] = value

    return Contender(RUN, call, lambda: results[at].reshape(-1), frames, tolerance)


def onnxruntime_binding(
    graph: StepGraph, x: Array, frames: int, tolerance: float, name: str = BINDING
) -> Contender:
    """Return a contender with io-binding: two sets of state buffers, which change places."""
    place: Any = library("onnxruntime").OrtValue.ortvalue_from_numpy
    session, states = onnxruntime_session(graph), (graph.begin(), graph.begin())
    results: list[Array] = []
    bindings = []
    for before, after in (states, states[::-1]):
        outputs = {out: after[state] for state, (out, _) in graph.states.items()}
        if graph.y not in outputs:
            outputs[graph.y] = np.zeros(graph.y_shape, np.float32)
        results.append(outputs[graph.y].reshape(-1))
        binding = session.io_binding()
        for key, array in {graph.x: x, **graph.constants, **before}.items():
            binding.bind_ortvalue_input(key, place(array))
        for key, array in outputs.items():
            binding.bind_ortvalue_output(key, place(array))
        bindings.append(binding)
    run, turn = session.run_with_iobinding, 1

    def call() -> None:
        nonlocal turn
        turn ^= 1
        run(bindings[turn])

    return Contender(name, call, lambda: results[turn], frames, tolerance)


def onnxruntime_int8(graph: StepGraph, x: Array, frames: int) -> Contender:
    """Return onnxruntime's own dynamic int8 form of a graph, with io-binding."""
    return onnxruntime_binding(graph, x, frames, INT8_TOLERANCE, INT8)


def openvino_infer(graph: StepGraph, x: Array, frames: int, tolerance: float) -> Contender:
    """Return requests of OpenVINO on our buffers: two, between which the states change places."""
    ov: Any = library("openvino")
    core = ov.Core()
    model = core.read_model(graph.model)
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    states, results, requests = (graph.begin(), graph.begin()), [], []
    kept: list[Any] = [model, compiled]  # its tensors do not keep the arrays that they are on
    for before, after in (states, states[::-1]):
        request = compiled.create_infer_request()
        outputs = {out: after[state] for state, (out, _) in graph.states.items()}
        if graph.y not in outputs:
            outputs[graph.y] = np.zeros(graph.y_shape, np.float32)
        results.append(outputs[graph.y].reshape(-1))
        for key, array in {graph.x: x, **graph.constants, **before, **outputs}.items():
            kept.append((array, ov.Tensor(array, shared_memory=True)))
            request.set_tensor(key, kept[-1][1])
        requests.append(request)
    turn = 1

    def call(kept: Any = kept) -> None:
        nonlocal turn
        turn ^= 1
        requests[turn].infer()

    return Contender(OPENVINO, call, lambda: results[turn], frames, tolerance)


def tract_run(graph: StepGraph, x: Array, frames: int, tolerance: float) -> Contender:
    """Return tract's optimised model; its Python package takes and returns new tensors."""
    import tempfile
    from pathlib import Path

    onnx: Any = library("onnx")
    tract: Any = library("tract")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        path.write_bytes(graph.model)
        read = tract.onnx().load(str(path))
    names = [read.input_name(i) for i in range(read.input_count())]
    # It names an output after the node, so the order in the file says which is which.
    ends = [output.name for output in onnx.load_from_string(graph.model).graph.output]
    runnable = read.into_model().into_runnable()
    begin = graph.begin()
    inputs: list[Any] = [
        x if n == graph.x else graph.constants[n] if n in graph.constants else begin[n]
        for n in names
    ]
    back = [(names.index(state), ends.index(out)) for state, (out, _) in graph.states.items()]
    at, results = ends.index(graph.y), []

    def call() -> None:
        nonlocal results
        results = runnable.run(inputs)
        for into, out in back:
            inputs[into] = results[out]

    return Contender(TRACT, call, lambda: results[at].to_numpy().reshape(-1), frames, tolerance)


GRAPH_PEERS: dict[str, Callable[[StepGraph, Array, int, float], Contender]] = {
    BINDING: onnxruntime_binding,
    RUN: onnxruntime_run,
    OPENVINO: openvino_infer,
    TRACT: tract_run,
}


def of_graph(
    peer: str, graph: StepGraph, x: Array, frames: int = 1, tolerance: float = TOLERANCE
) -> Contender:
    """Return the contender of a peer that reads ONNX.

    Parameters
    ----------
    peer : str
        Its name.
    graph : StepGraph
        What it runs.
    x : float32 [shape=graph.x_shape]
        The buffer that it reads.
    frames : int
        Frames of a call.
    tolerance : float
        How far its outputs may be from ours.
    """
    return GRAPH_PEERS[peer](graph, x, frames, tolerance)


# torch ---------------------------------------------------------------------------------------


def torch_inference() -> contextlib.AbstractContextManager[Any]:
    """Return torch's inference mode, to be entered around everything that is timed."""
    torch = library("torch")
    if torch is None:
        return contextlib.nullcontext()
    mode: contextlib.AbstractContextManager[Any] = torch.inference_mode()
    return mode


def torch_calls(
    case: Case, weights: Mapping[str, Array], x: Array, compiled: bool = False
) -> Contender:
    """Return torch's module with these weights, its state fed back; as it is, or compiled."""
    torch: Any = library("torch")
    module = getattr(torch.nn, case.kind)(case.input_size, case.hidden_size, case.num_layers).eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    if compiled:
        dynamo: Any = importlib.import_module("torch._dynamo")
        dynamo.reset()
        dynamo.config.allow_rnn = True  # without it, a module of this kind is left as it is
        module = torch.compile(module, fullgraph=True)
    zeros = torch.zeros(case.num_layers, case.batch, case.hidden_size)
    state = (zeros, zeros) if case.kind == "LSTM" else zeros
    return torch_module(module, state, x, COMPILED if compiled else TORCH, case.frames)


def torch_module(
    module: Any, state: Any, x: Array, name: str = TORCH, frames: int = 1
) -> Contender:
    """Return a module of frames and a state, which it returns with its outputs."""
    xs = library("torch").from_numpy(x)
    y: Any = None

    def call() -> None:
        nonlocal y, state
        y, state = module(xs, state)

    def output() -> Array:
        array: Array = y.numpy().reshape(-1)
        return array

    return Contender(name, call, output, frames)


# NumPy ---------------------------------------------------------------------------------------


def numpy_calls(case: Case, weights: Mapping[str, Array], x: Array) -> Contender:
    """Return the equations in NumPy, as one writes them by hand: float32, all gates at once."""
    layers = [
        tuple(np.ascontiguousarray(weights[f"{name}_l{k}"].T) for name in _PARAMETERS)
        for k in range(case.num_layers)
    ]
    H, advance = case.hidden_size, _NUMPY[case.kind]
    states = [np.zeros((2, case.batch, H), np.float32) for _ in layers]
    y = np.zeros((case.block, case.batch, H), np.float32)

    def call() -> None:
        for t in range(case.block):
            frame = x[t]
            for parameters, state in zip(layers, states, strict=True):
                advance(frame, state, H, *parameters)
                frame = state[0]
            y[t] = frame

    return Contender(NUMPY, call, lambda: y.reshape(-1), case.frames)


_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _sigmoid(z: Array) -> Array:
    y: Array = np.reciprocal(1 + np.exp(-z))
    return y


def _lstm(x: Array, state: Array, H: int, w: Array, u: Array, b: Array, d: Array) -> None:
    h, c = state
    z = x @ w + h @ u + (b + d)
    i, f, g, o = z[:, :H], z[:, H : 2 * H], z[:, 2 * H : 3 * H], z[:, 3 * H :]
    state[1] = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    state[0] = _sigmoid(o) * np.tanh(state[1])


def _gru(x: Array, state: Array, H: int, w: Array, u: Array, b: Array, d: Array) -> None:
    h = state[0]
    a, z = x @ w + b, h @ u + d
    gates = _sigmoid(a[:, : 2 * H] + z[:, : 2 * H])
    n = np.tanh(a[:, 2 * H :] + gates[:, :H] * z[:, 2 * H :])
    state[0] = n + gates[:, H:] * (h - n)


def _rnn(x: Array, state: Array, H: int, w: Array, u: Array, b: Array, d: Array) -> None:
    state[0] = np.tanh(x @ w + state[0] @ u + (b + d))


_NUMPY = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
