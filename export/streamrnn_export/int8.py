"""Step graphs with products of bytes.

Dynamic int8 is made by onnxruntime's own tool where it has a form, on a graph in which spell.py has
written out what it has none for. The static form is ours (qdq.py): the tool takes its ranges from
independent calls, not from a stream, keeps every value of every call, and quantises no recurrent
node.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from streamrnn.errors import ExportError

from .beside import ASIDE, side_by_side
from .calibrate import Feeds
from .functions import all_nodes
from .qdq import int8_weights, with_qdq
from .spell import spelled_out
from .writer import Writer, replace_content

if TYPE_CHECKING:
    from .quantize import Quantization

__all__ = ["KEPT", "in_bytes"]

SPELLED = {"RNN", "GRU", "LSTM", "Conv", "Gemm"}
FORMS = {
    "int8": {
        "MatMul": "MatMulInteger",
        "Gemm": "MatMulInteger",
        "Conv": "MatMulInteger, for it is made at one position",
        "RNN": "written out, with MatMulInteger",
        "GRU": "written out, with MatMulInteger",
        "LSTM": "DynamicQuantizeLSTM",
    },
    "qdq": {
        "MatMul": "MatMul of bytes",
        "Gemm": "MatMul of bytes",
        "Conv": "MatMul of bytes, for it is made at one position",
        "RNN": "written out, with MatMul of bytes",
        "GRU": "written out, with MatMul of bytes",
        "LSTM": "written out, with MatMul of bytes",
    },
}
CONV = {
    "int8": "weights int8, arithmetic float32: ConvInteger takes longer than that",
    "qdq": "Conv of bytes",
}
TABLE = "rows int8, a scale each"
KEPT = "`keep` says so"
CHECK_STEPS, CHECK_TOLERANCE = 32, 1e-4


def in_bytes(
    proto: onnx.ModelProto, options: Quantization, calls: Sequence[Sequence[Feeds]]
) -> tuple[onnx.ModelProto, dict[str, str], dict[str, str]]:
    """Return a step graph with products of bytes.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph, with our metadata.
    options : Quantization
        Of mode ``"int8"`` or ``"qdq"``.
    calls : sequence of sequences of dict
        The recordings, see :func:`.calibrate.calls_of`; for ``"qdq"``.

    Returns
    -------
    onnx.ModelProto
        The graph.
    dict of str to str
        Name of each node that is quantised, and how.
    dict of str to str
        Name of each other node that has to do with weights, and why it stays float.
    """
    dynamic = options.mode == "int8"
    whole = {node.name for node in proto.graph.node if options.keeps(node.name)}
    spelled, refused = spelled_out(proto, SPELLED - ({"LSTM"} if dynamic else set()), whole)
    _check_spelled(proto, spelled, [feeds for recording in calls for feeds in recording])
    constants = {
        i.name: len(i.dims) for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT
    }
    done, kept = {}, {}
    for node in proto.graph.node:
        how, why = _account(node, constants, refused.get(node.name, ""), options.mode)
        if node.name in whole and (how or why):
            kept[node.name] = KEPT
        elif how:
            done[node.name] = how
        elif why:
            kept[node.name] = why
        for inner in itertools.islice(all_nodes([node]), 1, None):
            if any(_account(inner, constants, "", options.mode)):
                kept[inner.name] = f"it is in the body of a {node.op_type}, which stays float"
    tables = [n for n in spelled.graph.node if done.get(n.name) == TABLE]
    convs = [n for n in spelled.graph.node if done.get(n.name) == CONV["int8"]]
    made = _smaller_weights(spelled, tables + convs, options.limit)
    sizes = {i.name: len(i.dims) for i in made.graph.initializer}
    products = {
        n.name: n
        for n in made.graph.node
        if (n.op_type == "MatMul" and sizes.get(n.input[1]) == 2 and n.name not in whole)
        or done.get(n.name) == "DynamicQuantizeLSTM"
        or done.get(n.name) == CONV["qdq"]
    }
    if products and dynamic:
        made = _by_tool(made, list(products), options)
    elif products:
        made = with_qdq(made, products, calls, options.percentile, options.limit)
    return made, done, kept


def _check_spelled(
    proto: onnx.ModelProto, spelled: onnx.ModelProto, feeds: Sequence[Feeds]
) -> None:
    """Raise ExportError unless a graph with its nodes written out is the same function."""
    _, sums = side_by_side(proto, spelled, feeds, CHECK_STEPS, "check")
    for name, rows in sums.items():
        largest, _, _, _, squares = rows.T[:5]
        if largest.max() > CHECK_TOLERANCE * (1 + np.sqrt(squares.max())):
            raise ExportError(
                f"not written, because {name.removesuffix(ASIDE)} differs by {largest.max():.2e} "
                f"once recurrent nodes and convolutions are written out: name them in `keep` of "
                f"Quantization"
            )


def _account(
    node: onnx.NodeProto, constants: Mapping[str, int], refused: str, mode: str
) -> tuple[str, str]:
    """Return how a node is quantised, and why not; nothing of either if it has no weights."""
    kind = node.op_type
    if kind == "Gather" and constants.get(node.input[0]) == 2:
        return TABLE, ""
    if kind not in FORMS[mode] or node.domain:
        return "", ""
    if not refused and kind in ("MatMul", "LSTM") and node.input[1] not in constants:
        return "", "its right factor is no constant" if kind == "MatMul" else "its weights are not"
    if kind == "MatMul" and constants[node.input[1]] != 2:
        return "", "its weights are no matrix"
    if kind == "Conv" and refused and node.input[1] in constants:
        return CONV[mode], ""
    return ("", refused) if refused else (FORMS[mode][kind], "")


def _smaller_weights(
    proto: onnx.ModelProto, chosen: Sequence[onnx.NodeProto], limit: int
) -> onnx.ModelProto:
    """Return a graph in which tables and convolutions have int8 weights and float arithmetic.

    A Cast and a Mul instead of a DequantizeLinear, because onnxruntime computes those of constants
    when it loads the file, so that a step takes as long as before.
    """
    initializers = {i.name: i for i in proto.graph.initializer}
    names = {node.name for node in chosen}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        g = Writer(node.name, initializers)
        at = 0 if node.op_type == "Gather" else 1
        name = node.input[at]
        w = g.array(name)
        whole, scale = int8_weights(w, 0, limit)
        rows = g.constant(whole, f"{name}:int8")
        scales = g.constant(scale.reshape(-1, *[1] * (w.ndim - 1)), f"{name}:scale")
        if at == 0:
            rows, scales = (g.op("Gather", part, node.input[1], axis=0) for part in (rows, scales))
        y = g.op("Mul", g.op("Cast", rows, to=TensorProto.FLOAT), scales)
        if at == 0:
            g.name_outputs({y: node.output[0]})
        else:
            g.nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            g.nodes[-1].input[1] = y
        nodes += g.nodes
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    replace_content(made.graph, nodes, initializers)
    return made


def _by_tool(proto: onnx.ModelProto, names: list[str], options: Quantization) -> onnx.ModelProto:
    """Return what onnxruntime's tool makes of some nodes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    given = onnx.ModelProto()
    given.CopyFrom(proto)
    add_pre_process_metadata(given)  # or it logs that it wants to
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            given,
            path,
            op_types_to_quantize=["MatMul", "LSTM"],
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=options.weight_bits == 7,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)
