r"""Nodes written out as products and plain operators, so that the products can be of bytes.

onnxruntime has neither a GRU nor an RNN of bytes, and is slow at a convolution of bytes. With x one
frame, h and c the states, and gates in ONNX's order::

    RNN    h' = f(W x + R h + b)
    GRU    z, r = sigmoid(W_zr x + R_zr h + b_zr)
           n = tanh(W_n x + Wb_n + r * (R_n h + Rb_n))            linear_before_reset=1
           n = tanh(W_n x + Wb_n + R_n (r * h) + Rb_n)            linear_before_reset=0
           h' = n + z * (h - n)
    LSTM   i, o, f, g = sigmoid, sigmoid, sigmoid, tanh (W x + R h + b)
           c' = f * c + i * g
           h' = o * tanh(c')

W x is one product for all frames of a call. A convolution that is made at one position only, as one
over a stream is, is one product too. All products have three axes: of a product with two and the
bias after it onnxruntime makes a Gemm, which then is none of bytes. Weights that several nodes
share stay shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from .writer import Writer, attributes_of, replace_content, shapes_of

__all__ = ["spelled_out"]

Array = npt.NDArray[Any]

STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}
ACTIVATIONS = {
    "RNN": [["Tanh"], ["Relu"]],
    "GRU": [["Sigmoid", "Tanh"]],
    "LSTM": [["Sigmoid", "Tanh", "Tanh"]],
}


def spelled_out(
    proto: onnx.ModelProto, kinds: Collection[str], keep: Collection[str] = ()
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a graph with the nodes of some kinds written out.

    Parameters
    ----------
    proto : onnx.ModelProto
        A step graph; it is left as it is.
    kinds : collection of str
        Of ``RNN``, ``GRU``, ``LSTM``, ``Conv`` and ``Gemm``.
    keep : collection of str
        Names of nodes that stay as they are.

    Returns
    -------
    onnx.ModelProto
        The same function.
    dict of str to str
        Name of each node of these kinds that stays as it is, and the reason.
    """
    shapes = shapes_of(proto)
    initializers = {i.name: i for i in proto.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    refused = {}
    for node in proto.graph.node:
        if node.op_type not in kinds or node.name in keep:
            nodes.append(node)
            continue
        reason_of, write = FORMS.get(node.op_type, (_recurrent_reason, _recurrent))
        reason = reason_of(node, initializers, shapes.get(node.input[0], ()))
        if reason:
            refused[node.name] = reason
            nodes.append(node)
        else:
            g = Writer(node.name, initializers)
            outputs = write(g, node, shapes[node.input[0]])
            g.name_outputs({v: n for v, n in zip(outputs, node.output, strict=False) if n})
            nodes += g.nodes
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    replace_content(made.graph, nodes, initializers)
    return made, refused


def _recurrent_reason(
    node: onnx.NodeProto, initializers: Mapping[str, Any], shape: Sequence[int]
) -> str:
    """Return why a recurrent node stays as it is, or nothing."""
    attributes = attributes_of(node)
    inputs = [*node.input, *[""] * 8]
    activations = [a.decode() for a in attributes.get("activations", [])]
    if not any(shape[:1]):
        return "its number of frames is not fixed"
    if not all(w in initializers for w in inputs[1:4] if w):
        return "its weights are not constant"
    if attributes.get("direction", b"forward") != b"forward" or attributes.get("layout"):
        return "it does not run forward over frames"
    if activations and activations not in ACTIVATIONS[node.op_type]:
        return f"its activations are {', '.join(activations)}"
    if "clip" in attributes or attributes.get("input_forget") or inputs[4] or inputs[7]:
        return "it has clip, input_forget, sequence_lens or peepholes"
    if not all(inputs[5 : 5 + STATES[node.op_type]]):
        return "it has no initial states"
    return ""


def _recurrent(g: Writer, node: onnx.NodeProto, shape: Sequence[int]) -> list[str]:
    attributes, frames = attributes_of(node), shape[0]
    inputs = [*node.input, *[""] * 8]
    W, R = (g.array(name)[0] for name in inputs[1:3])
    bias = g.array(inputs[3]).reshape(2, -1) if inputs[3] else np.zeros((2, len(R)), np.float32)
    after = node.op_type == "GRU" and attributes.get("linear_before_reset", 0)
    inner = np.arange(len(R)) >= (len(R) // 3 * 2 if after else len(R))
    x = g.op("MatMul", inputs[0], g.constant(W.T, f"{inputs[1]}.T"))
    if inputs[3]:
        x = g.op("Add", x, g.constant(bias[0] + np.where(inner, 0, bias[1]), f"{inputs[3]}.sum"))
    states = inputs[5 : 5 + STATES[node.op_type]]
    hs = []
    for part in g.ops("Split", frames, x, g.ints(*[1] * frames), axis=0) if frames > 1 else [x]:
        if node.op_type == "LSTM":
            states = _lstm_step(g, part, states[0], states[1], R, inputs[2])
        elif after:
            last = g.constant(bias[1][inner], f"{inputs[3]}.n") if inputs[3] else ""
            states = [_gru_step(g, part, states[0], R, inputs[2], last)]
        elif node.op_type == "GRU":
            states = [_gru_step_reset_before(g, part, states[0], R, inputs[2])]
        else:
            z = g.op("Add", part, _product(g, states[0], R, inputs[2]))
            states = [g.op(attributes.get("activations", [b"Tanh"])[0].decode(), z)]
        hs.append(states[0])
    y = hs[0] if frames == 1 else g.op("Concat", *hs, axis=0)
    return [g.op("Unsqueeze", y, g.ints(1)), *states]


def _product(g: Writer, h: str, R: Array, name: str) -> str:
    return g.op("MatMul", h, g.constant(R.T, f"{name}.T"))


def _split(g: Writer, z: str, H: int, n: int) -> list[str]:
    return g.ops("Split", n, z, g.ints(*[H] * n), axis=2)


def _lstm_step(g: Writer, x: str, h: str, c: str, R: Array, name: str) -> list[str]:
    H = R.shape[1]
    gates = g.op("Add", x, _product(g, h, R, name))
    iof, n = g.ops("Split", 2, gates, g.ints(3 * H, H), axis=2)
    i, o, f = _split(g, g.op("Sigmoid", iof), H, 3)
    kept, new = g.op("Mul", f, c), g.op("Mul", i, g.op("Tanh", n))
    c = g.op("Add", kept, new)
    return [g.op("Mul", o, g.op("Tanh", c)), c]


def _gru_step(g: Writer, x: str, h: str, R: Array, name: str, last: str) -> str:
    H = R.shape[1]
    x_zr, x_n = g.ops("Split", 2, x, g.ints(2 * H, H), axis=2)
    h_zr, h_n = g.ops("Split", 2, _product(g, h, R, name), g.ints(2 * H, H), axis=2)
    z, r = _split(g, g.op("Sigmoid", g.op("Add", x_zr, h_zr)), H, 2)
    inner = g.op("Add", h_n, last) if last else h_n
    return _mixed(g, z, g.op("Add", x_n, g.op("Mul", r, inner)), h)


def _gru_step_reset_before(g: Writer, x: str, h: str, R: Array, name: str) -> str:
    H = R.shape[1]
    x_zr, x_n = g.ops("Split", 2, x, g.ints(2 * H, H), axis=2)
    h_zr = _product(g, h, R[: 2 * H], f"{name}.zr")
    z, r = _split(g, g.op("Sigmoid", g.op("Add", x_zr, h_zr)), H, 2)
    h_n = _product(g, g.op("Mul", r, h), R[2 * H :], f"{name}.n")
    return _mixed(g, z, g.op("Add", x_n, h_n), h)


def _mixed(g: Writer, z: str, candidate: str, h: str) -> str:
    """Return ``n + z * (h - n)`` with n = tanh(candidate)."""
    n = g.op("Tanh", candidate)
    return g.op("Add", n, g.op("Mul", z, g.op("Sub", h, n)))


def _conv_reason(
    node: onnx.NodeProto, initializers: Mapping[str, Any], shape: Sequence[int]
) -> str:
    attributes = attributes_of(node)
    if node.input[1] not in initializers:
        return "its weights are not constant"
    reach, stride = _reach(node, initializers), attributes.get("strides", [1])[0]
    one = reach > 0 and len(shape) == 3 and reach <= shape[2] < reach + stride
    if not one or any(attributes.get("pads", [])) or "auto_pad" in attributes:
        return "it is made at several positions"
    if attributes.get("group", 1) != 1:
        return "its channels are in groups"
    return ""


def _reach(node: onnx.NodeProto, initializers: Mapping[str, Any]) -> int:
    """Return how many frames a convolution over one axis sees; 0 if it is over several."""
    _, _, *kernel = initializers[node.input[1]].dims
    dilation = attributes_of(node).get("dilations", [1])[0]
    return dilation * (kernel[0] - 1) + 1 if len(kernel) == 1 else 0


def _conv(g: Writer, node: onnx.NodeProto, shape: Sequence[int]) -> list[str]:
    w, x, reach = g.array(node.input[1]), node.input[0], _reach(node, g.initializers)
    if w.shape[2] != shape[2]:
        dilation = attributes_of(node).get("dilations", [1])[0]
        x = g.op("Slice", x, g.ints(0), g.ints(reach), g.ints(2), g.ints(dilation))
    rows = w.reshape(len(w), -1)
    flat = g.op("Reshape", x, g.ints(1, -1, rows.shape[1]))
    y = _with_bias(g, _product(g, flat, rows, node.input[1]), node.input[2:])
    return [g.op("Reshape", y, g.ints(-1, len(w), 1))]


def _gemm_reason(
    node: onnx.NodeProto, initializers: Mapping[str, Any], shape: Sequence[int]
) -> str:
    attributes = attributes_of(node)
    if node.input[1] not in initializers:
        return "its weights are not constant"
    if attributes.get("transA") or any(attributes.get(a, 1.0) != 1.0 for a in ("alpha", "beta")):
        return "it has transA, alpha or beta"
    return ""


def _gemm(g: Writer, node: onnx.NodeProto, shape: Sequence[int]) -> list[str]:
    w = g.array(node.input[1])
    rows = w if attributes_of(node).get("transB") else w.T
    row = g.op("Unsqueeze", node.input[0], g.ints(0))
    y = _with_bias(g, _product(g, row, rows, node.input[1]), node.input[2:])
    return [g.op("Squeeze", y, g.ints(0))]


def _with_bias(g: Writer, y: str, bias: Sequence[str]) -> str:
    return g.op("Add", y, *bias) if any(bias) else y


FORMS: dict[str, tuple[Callable[..., str], Callable[..., list[str]]]] = {
    "Conv": (_conv_reason, _conv),
    "Gemm": (_gemm_reason, _gemm),
}
