"""The parts of an ONNX graph that are known before any frame comes: tensors, sizes, shapes."""

from __future__ import annotations

import contextlib
import graphlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

from ...graph import MAX_FRAME, Shape
from .node import Unsupported

__all__ = [
    "COMPUTED",
    "MAX_COMPUTED",
    "attribute_constant",
    "check_stored",
    "computed",
    "computed_size",
    "measured",
    "put_in_order",
    "stored",
    "subgraphs",
]

MAX_FILE_BYTES = 1 << 31
MAX_COMPUTED = 2 * MAX_FRAME
"""Most numbers of all that is computed from constants, together."""
SLOW = 64
"""What counts for a number that the reference evaluator makes in a loop."""
_ELEMENTWISE = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor CastLike Div Equal Expand Greater "
    "GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
)
_OTHERS = (
    "Abs Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Compress "
    "Concat ConstantOfShape Cos Cosh CumSum DequantizeLinear Dropout Elu Erf Exp EyeLike Flatten "
    "Floor Gather GatherElements GatherND Gelu Gemm HardSigmoid HardSwish Hardmax Identity IsInf "
    "IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MatMul MelWeightMatrix "
    "Mish Neg NonZero Not OneHot Pad QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape ReverseSequence Round ScatterElements ScatterND Selu Shape "
    "Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Tan "
    "Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze"
)
BROADCAST = frozenset(_ELEMENTWISE.split())
WINDOWS = frozenset({"BlackmanWindow", "HammingWindow", "HannWindow"})
COMPUTED = BROADCAST | WINDOWS | frozenset(_OTHERS.split())
"""What is computed where all inputs are constant: nothing that is slow or makes much of little."""


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs among a node's attributes, whatever kind these say that they are."""
    for attribute in node.attribute:
        if attribute.HasField("g"):  # to ask for one that is not there makes an empty one
            yield attribute.g
        yield from attribute.graphs


def check_stored(graph: GraphProto, folder: Path) -> None:
    """Refuse tensors that are too large or lie elsewhere than they may, before any is read."""
    for tensor in graph.initializer:
        _check_tensor(tensor, folder, f"initializer {tensor.name!r}")
    for node in graph.node:
        for inner in subgraphs(node):
            check_stored(inner, folder)
        for attribute in node.attribute:
            given = [attribute.t] if attribute.HasField("t") else []
            for tensor in (*given, *attribute.tensors):
                who = f"node {node.name} ({node.op_type}): {attribute.name}"
                _check_tensor(tensor, folder, who)


def _check_tensor(tensor: TensorProto, folder: Path, who: str) -> None:
    if any(d < 0 for d in tensor.dims) or math.prod(tensor.dims) > MAX_FILE_BYTES:
        raise Unsupported(f"{who} {list(tensor.dims)} is too large")
    if tensor.data_location == TensorProto.EXTERNAL:
        _external(tensor, folder, who)


def put_in_order(graph: GraphProto) -> set[str]:
    """Put each node behind those that it reads, as ONNX wants it; return what is read from outside.

    Files are found in another order, which onnxruntime takes: its own quantiser makes them. Where
    nodes read each other in a circle, the order stays as it is, and the reader says so.
    """
    reads: list[set[str]] = []
    for node in graph.node:
        names = {name for name in node.input if name}
        for inner in subgraphs(node):
            names |= put_in_order(inner)
        reads.append(names)
    places: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        for name in filter(None, node.output):
            places.setdefault(name, i)
    needs = {i: {places[n] for n in names if n in places} for i, names in enumerate(reads)}
    if any(max(before, default=-1) > i for i, before in needs.items()):
        with contextlib.suppress(graphlib.CycleError):
            order = list(graphlib.TopologicalSorter(needs).static_order())
            nodes = [graph.node[i] for i in order]
            copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del graph.node[:]
            graph.node.extend(copies)
    return set().union(*reads) - places.keys()


def stored(tensor: TensorProto, folder: Path) -> npt.NDArray[Any]:
    """Return a tensor of the file, or of one beside it; raise Unsupported if it is damaged."""
    try:
        if tensor.data_location == TensorProto.EXTERNAL:
            path, kind, offset = _external(tensor, folder, f"initializer {tensor.name!r}")
            flat = np.fromfile(path, kind, math.prod(tensor.dims), offset=offset)
            return flat.reshape(tuple(tensor.dims))
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # a damaged tensor fails in many ways
        raise Unsupported(f"initializer {tensor.name!r} is damaged: {error}") from None


def _external(tensor: TensorProto, folder: Path, who: str) -> tuple[Path, np.dtype[Any], int]:
    """Return in which file of the model's folder a tensor's numbers lie, their kind and offset."""
    entries = {e.key: e.value for e in tensor.external_data}
    location, home = entries.get("location", ""), folder.resolve()
    try:
        path = (home / location).resolve()
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        offset, size = int(entries.get("offset", 0)), math.prod(tensor.dims) * kind.itemsize
        length = int(entries.get("length", size))
        there = path.stat().st_size if path.is_file() else -1
    except (OSError, ValueError, KeyError) as error:
        raise Unsupported(f"{who} lies in another file, {entries}: {error}") from None
    if not location or home not in path.parents:
        raise Unsupported(f"{who} lies in another file, {location!r}, outside the model's folder")
    if offset < 0 or length != size:
        raise Unsupported(f"{who} {list(tensor.dims)} takes {size} bytes, the file says {entries}")
    if there < offset + size:
        raise Unsupported(
            f"{who} lies in another file, {location!r}, which "
            + ("is missing" if there < 0 else f"has {there} bytes: {offset + size} are needed")
        )
    return path, kind, offset


def attribute_constant(node: NodeProto, folder: Path) -> npt.NDArray[Any]:
    """Return what a node ``Constant`` holds."""
    if len(node.attribute) != 1:
        raise Unsupported("expects exactly one attribute")
    attribute = node.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        return stored(attribute.t, folder)
    kinds: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32}
    kinds |= {"value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in kinds:
        raise Unsupported(f"attribute {attribute.name!r} is not supported")
    return np.array(onnx.helper.get_attribute_value(attribute), kinds[attribute.name])


def measured(node: NodeProto, value: Any) -> npt.NDArray[Any]:
    """Return what ``Shape`` or ``Size`` says of a value."""
    limits = {a.name: a.i for a in node.attribute}
    if node.op_type == "Size":
        return np.array(value.size, np.int64)
    return np.array(value.shape[limits.get("start", 0) : limits.get("end")], np.int64)


def computed(node: NodeProto, args: list[Any], opset: int) -> list[Any]:
    """Compute a node whose inputs are all known with ONNX's own reference evaluator."""
    if node.op_type == "DequantizeLinear":  # the evaluator has it from 19 on, which says no less
        if opset < 13 and np.size(args[1]) > 1:
            raise Unsupported("scales along an axis came with operator set 13")
        opset = max(opset, 19)
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        return _run_alone(node, args, opset)
    feeds = {n: a for n, a in zip(node.input, args, strict=True) if n}
    clean = onnx.helper.make_graph([node], "one", [], [])
    clean.input.extend(onnx.ValueInfoProto(name=n) for n in feeds)
    clean.output.extend(onnx.ValueInfoProto(name=n) for n in node.output if n)
    model = onnx.helper.make_model(clean, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever the evaluator meets in a foreign graph
        raise Unsupported(f"cannot be computed: {error}") from None
    found = dict(zip((n for n in node.output if n), results, strict=True))
    return [found.get(n, np.zeros(0, np.float32)) for n in node.output]


_ALONE: dict[str, Any] = {
    "log": lambda *words: None,
    "verbose": 0,
    "new_ops": {},
    "existing_functions": {},
    "evaluator_cls": ReferenceEvaluator,
}
"""What the reference evaluator tells its operators."""


def _run_alone(node: NodeProto, args: list[Any], opset: int) -> list[Any]:
    """Run the evaluator's own operator without an evaluator: to build one takes longer.

    What has no operator there, or fails, is left to the evaluator itself.
    """
    operator = load_op("", node.op_type, opset)(node, {**_ALONE, "opsets": {"": opset}})
    results = operator.run(*args)
    return [
        x if name else np.zeros(0, np.float32) for name, x in zip(node.output, results, strict=True)
    ]


def computed_size(node: NodeProto, args: list[Any]) -> int:
    """Return how many numbers an operator makes of constants, or a little more."""
    kind, arrays = node.op_type, [np.asarray(a) for a in args if a is not None]
    shapes = [a.shape for a in arrays]
    if kind == "ConstantOfShape":
        return math.prod(int(d) for d in arrays[0].reshape(-1))
    if kind == "Expand":
        shapes[1] = tuple(int(d) for d in arrays[1].reshape(-1))
    if kind in BROADCAST:
        return math.prod(_broadcast(shapes))
    if kind == "Tile":
        return max(arrays[0].size, 1) * math.prod(int(d) for d in arrays[1].reshape(-1))
    if kind == "Range":
        first, last, step = (float(a.item()) for a in arrays)
        return int(abs(last - first) / max(abs(step), 1e-30)) + 1
    if kind == "Gather":
        return max(int(arrays[0].size) * arrays[1].size // max(min(shapes[0], default=1), 1), 1)
    if kind in ("MatMul", "Gemm") and arrays[0].ndim and arrays[1].ndim:
        outer = _broadcast([(1, *a.shape)[:-2] for a in arrays[:2]])
        rows = [a.size // max(min(a.shape[-2:]), 1) for a in arrays[:2]]
        return int(math.prod(outer) * rows[0] * rows[1])
    if kind in WINDOWS:
        made = {a.name: a.i for a in node.attribute}.get("output_datatype", TensorProto.FLOAT)
        if made not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            raise Unsupported(f"a window of {TensorProto.DataType.Name(made)} is not supported")
        return int(arrays[0].item())
    if kind == "MelWeightMatrix":
        bands, points = (int(a.item()) for a in arrays[:2])
        return SLOW * bands * (points // 2 + 1)
    if kind == "GatherND":
        rows = arrays[1].size // max(shapes[1][-1], 1)
        return int(rows * math.prod(shapes[0][shapes[1][-1] :]))
    if kind == "OneHot":
        return arrays[0].size * int(arrays[1].reshape(-1)[0])
    if kind == "Pad":
        return _padded_size(node, args)
    if kind == "NonZero":
        return int(arrays[0].size) * arrays[0].ndim
    return sum(int(a.size) for a in arrays)


def _padded_size(node: NodeProto, args: list[Any]) -> int:
    shape = list(np.shape(args[0]))
    old = next((list(a.ints) for a in node.attribute if a.name == "pads"), [])
    pads = np.reshape(args[1] if len(args) > 1 else old, (2, -1)).tolist()
    axes = args[3] if len(args) > 3 and args[3] is not None else range(len(shape))
    for axis, before, after in zip(axes, *pads, strict=True):
        shape[axis] += before + after
    return math.prod(shape)


def _broadcast(shapes: list[Shape]) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise Unsupported(f"shapes {shapes} do not fit each other") from None
