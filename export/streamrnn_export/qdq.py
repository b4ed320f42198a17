"""Static quantisation: QuantizeLinear and DequantizeLinear around products and convolutions.

States stay float32: only the copy that goes into a product is rounded to a byte, so that what a
state adds up is never rounded itself, and its error does not grow with every frame.

onnxruntime runs a product of dequantised bytes as one of bytes with a float result
(MatMulIntegerToFloat), a convolution only if its result is quantised as well (QLinearConv).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from .calibrate import Feeds, ranges
from .writer import Writer, replace_content

__all__ = ["int8_weights", "with_qdq"]

BYTE = 255
MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")


def int8_weights(
    w: npt.NDArray[np.float32], axis: int, limit: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return weights as whole numbers from -limit to limit, and a scale for each output channel.

    Parameters
    ----------
    w : float32
        Weights.
    axis : int
        Of the output channels.
    limit : int
        127 for 8 bits, 63 for 7.

    Returns
    -------
    int8 [shape=w.shape], float32 [shape=(w.shape[axis],)]
        ``w`` is about the product of both.
    """
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    scale = (np.abs(w).max(axis=others, initial=0.0) / limit).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    whole = np.rint(w / np.expand_dims(scale, others)).clip(-limit, limit)
    return whole.astype(np.int8), scale


def with_qdq(
    proto: onnx.ModelProto,
    products: Mapping[str, onnx.NodeProto],
    calls: Sequence[Sequence[Feeds]],
    percentile: float,
    limit: int,
) -> onnx.ModelProto:
    """Return a step graph with bytes around its products.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph, with our metadata.
    products : dict of str to onnx.NodeProto
        By name, the nodes MatMul and Conv whose weights are constant.
    calls : sequence of sequences of dict
        The recordings, see :func:`.calibrate.calls_of`.
    percentile : float
        See :func:`.calibrate.ranges`.
    limit : int
        See :func:`int8_weights`.
    """
    results = [n.output[0] for n in products.values() if n.op_type == "Conv"]
    names = list(dict.fromkeys([n.input[0] for n in products.values()] + results))
    found = ranges(proto, names, calls, percentile)
    levels = {name: _level(*found[name]) for name in names}
    for name in results:
        if _rectified(proto.graph, name):  # 0 is the least byte then: it saturates as a Relu does
            levels[name] = _level(0.0, found[name][1])
    initializers = {i.name: i for i in proto.graph.initializer}
    biases = _biases(proto.graph, products)
    nodes: list[onnx.NodeProto] = []
    bytes_of: dict[str, str] = {}
    for node in proto.graph.node:
        g = Writer(node.name, initializers)
        new = onnx.NodeProto()
        new.CopyFrom(node)
        if node.name in products:
            x = node.input[0]
            if x not in bytes_of:
                bytes_of[x] = _there_and_back(g, x, *levels[x])
            new.input[0] = bytes_of[x]
            _quantize_weights(g, new, levels[x][0], limit)
        elif node.name in biases:
            _widen(g, new, biases[node.name])
        g.nodes.append(new)
        result = node.output[0]
        if node.name in products and node.op_type == "Conv":
            new.output[0] = f"{result}:float"
            g.name_outputs({_there_and_back(g, new.output[0], *levels[result], result): result})
        nodes += g.nodes
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    replace_content(made.graph, nodes, initializers)
    return made


def _rectified(graph: onnx.GraphProto, result: str) -> bool:
    """Whether nothing but a Relu reads a value, also after it was moved about."""
    if result in {o.name for o in graph.output}:
        return False
    readers = [node for node in graph.node if result in node.input]
    if len(readers) != 1:
        return False
    (reader,) = readers
    return reader.op_type == "Relu" or (
        reader.op_type in MOVES and _rectified(graph, reader.output[0])
    )


def _biases(graph: onnx.GraphProto, products: Mapping[str, onnx.NodeProto]) -> dict[str, int]:
    """Return which input of an Add is the constant that is added to a product."""
    constants = {i.name for i in graph.initializer if len(i.dims) == 1}
    results = {n.output[0] for n in products.values() if n.op_type == "MatMul"}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Add" and results & set(node.input):
            found.update((node.name, i) for i, name in enumerate(node.input) if name in constants)
    return found


def _widen(g: Writer, add: onnx.NodeProto, at: int) -> None:
    """Give a bias three axes, so that onnxruntime makes no Gemm of it and the product before it."""
    name = add.input[at]
    add.input[at] = g.constant(g.array(name)[None, None], f"{name}.row")


def _level(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of a range; it is widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / BYTE)
    if scale < np.finfo(np.float32).tiny:
        return np.float32(1.0), np.uint8(0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, BYTE))


def _there_and_back(g: Writer, x: str, scale: np.float32, zero: np.uint8, name: str = "") -> str:
    name = name or x
    levels = [
        g.constant(np.asarray(scale), f"{name}:scale"),
        g.constant(np.asarray(zero), f"{name}:zero"),
    ]
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, *levels), *levels)


def _quantize_weights(g: Writer, node: onnx.NodeProto, x_scale: np.float32, limit: int) -> None:
    """Let a product read int8 weights, and a convolution an int32 bias."""
    conv, name = node.op_type == "Conv", node.input[1]
    axis = 0 if conv else 1
    whole, scale = int8_weights(g.array(name), axis, limit)
    node.input[1] = g.op(
        "DequantizeLinear",
        g.constant(whole, f"{name}:int8"),
        g.constant(scale, f"{name}:scale"),
        g.constant(np.zeros(len(scale), np.int8), f"{name}:zero"),
        axis=axis,
    )
    if conv and len(node.input) > 2 and node.input[2]:
        step, bias = scale * x_scale, g.array(node.input[2])
        key = f"{node.name}:bias"
        top = np.iinfo(np.int32).max // 2
        node.input[2] = g.op(
            "DequantizeLinear",
            g.constant(np.rint(bias / step).clip(-top, top).astype(np.int32), f"{key}:int32"),
            g.constant(step, f"{key}:scale"),
            axis=0,
        )
