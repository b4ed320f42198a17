"""Quantised step graphs: weights in fewer bytes, products of bytes, and what that costs.

float16 is written here, int8 and its static form in int8.py; streamrnn.drift says what they cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from streamrnn.drift import QuantizationReport
from streamrnn.errors import ConfigError, ExportError
from streamrnn.graph import describe
from streamrnn.layer import Layer

from .beside import ASIDE, side_by_side
from .calibrate import calls_of, recordings_of
from .int8 import KEPT, in_bytes
from .verify import random_frames
from .writer import Writer, rename, replace_content

__all__ = ["Quantization", "quantized"]

MODES = ("int8", "qdq", "float16")
RANDOM_CALLS = 1000
MIN_NUMBERS = 16
"""Constants with fewer stay float32 in float16 files: a Cast is larger than what it saves."""


@dataclass(frozen=True)
class Quantization:
    """How to quantise a step graph, and how far to follow it.

    Parameters
    ----------
    mode : str
        ``"int8"``: weights int8, inputs of products rounded to bytes in the range that they have
        in each call (DynamicQuantizeLSTM, MatMulInteger). ``"qdq"``: the same with the ranges of
        a calibration, by QuantizeLinear and DequantizeLinear. ``"float16"``: weights stored as
        float16, arithmetic in float32.
    percentile : float
        For ``"qdq"``: share of the calibration's numbers that a range must hold at either end;
        100 for all. What lies outside saturates.
    weight_bits : int
        8, or 7 for x86 processors without VNNI, where onnxruntime adds two products of bytes in 16
        bits, which may saturate.
    keep : tuple of str
        Nodes that shall stay float, by the names that the report gives them, or whole ops by
        theirs: ``("conv1d_0", "lstm_1/LSTM_0")``.
    steps : int
        Calls of both graphs, float and quantised, for the report.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """

    mode: str
    percentile: float = 100.0
    weight_bits: int = 8
    keep: tuple[str, ...] = ()
    steps: int = 10_000

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"`quantize` must be one of {', '.join(map(repr, MODES))}, got {self.mode!r}"
            )
        if not 50 < self.percentile <= 100:
            raise ConfigError(f"`percentile` must be above 50, up to 100, got {self.percentile!r}")
        if self.weight_bits not in (7, 8):
            raise ConfigError(f"`weight_bits` must be 7 or 8, got {self.weight_bits!r}")
        if isinstance(self.keep, str) or not all(isinstance(name, str) for name in self.keep):
            raise ConfigError(f"`keep` must be a tuple of names, got {self.keep!r}")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"`steps` must be an integer of at least 1, got {self.steps!r}")

    @property
    def limit(self) -> int:
        """The largest weight."""
        return 127 if self.weight_bits == 8 else 63

    def keeps(self, name: str) -> bool:
        """Whether a node or a weight shall stay float."""
        return any(name == k or name.startswith((f"{k}/", f"{k}.")) for k in self.keep)


def quantized(
    proto: onnx.ModelProto, model: Layer, quantize: str | Quantization, calibration: Any = None
) -> tuple[onnx.ModelProto, QuantizationReport]:
    """Return a step graph quantised, and how it compares with what it was.

    Parameters
    ----------
    proto : onnx.ModelProto
        The float graph of `model`, with our metadata; it is left as it is.
    model : Layer
        Whose frames it takes.
    quantize : str or Quantization
        How.
    calibration : array, tuple of arrays, or iterable of these, optional
        Recordings, see :func:`streamrnn.export.to_onnx`.

    Raises
    ------
    ConfigError
        If there is no such quantisation.
    ExportError
        If onnxruntime is missing; the calibration does not fit, or is needed and missing; there is
        nothing to quantise; or results are not finite.
    """
    options = Quantization(quantize) if isinstance(quantize, str) else quantize
    if not isinstance(options, Quantization):
        raise ConfigError(
            f"`quantize` must be one of {', '.join(map(repr, MODES))} or a Quantization, "
            f"got {describe(options)}"
        )
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise ExportError("quantisation needs onnxruntime: pip install streamrnn[onnx]") from None
    if calibration is None and options.mode == "qdq":
        raise ExportError(
            "quantize='qdq' takes its ranges from a stream: pass frames like those that the model "
            "will meet as `calibration`, or use quantize='int8', which needs none"
        )
    recordings = (
        [random_frames(model, min(options.steps, RANDOM_CALLS))]
        if calibration is None
        else recordings_of(model, calibration)
    )
    calls = calls_of(model, proto, recordings)
    # Tools name what they make after what they make it of: the model's own names stand aside.
    own = (*model.graph().inputs, *model.graph().outputs)
    aside = {name: name + ASIDE for name in own}
    given = onnx.ModelProto()
    given.CopyFrom(proto)
    rename(given.graph, aside)
    if options.mode == "float16":
        made, done, kept = _half(given, options)
    else:
        inner = [[{aside[n]: x for n, x in feeds.items()} for feeds in part] for part in calls]
        made, done, kept = in_bytes(given, options, inner)
    unknown = [k for k in options.keep if not any(map(Quantization("int8", keep=(k,)).keeps, kept))]
    if unknown:
        raise ConfigError(
            f"`keep`: nothing to quantise is called {', '.join(unknown)}; there are "
            f"{', '.join([*done, *kept])}"
        )
    if not done:
        reasons = "".join(f"; {name}: {why}" for name, why in kept.items())
        raise ExportError(
            f"{model!r}: it has nothing to quantise with {options.mode!r}, export it with "
            f"quantize=None{reasons}"
        )
    _finish(made, proto)
    _named_again(made.graph, aside, model)
    onnx.checker.check_model(made, full_check=True)
    feeds = [feeds for recording in calls for feeds in recording]
    step_us, sums = side_by_side(proto, made, feeds, options.steps)
    before, after = (len(p.SerializeToString(deterministic=True)) for p in (proto, made))
    stride = model.graph().clock.stride
    return made, QuantizationReport(options.mode, done, kept, before, after, stride, step_us, sums)


def _named_again(graph: onnx.GraphProto, aside: Mapping[str, str], model: Layer) -> None:
    """Give the model's inputs and outputs their names again, and what is called after them."""
    made = [o for node in graph.node for o in node.output]
    made += [tensor.name for tensor in graph.initializer]
    taken = {*made, *aside}
    for name in aside:
        if name in made:
            raise ExportError(
                f"{model!r}: it calls an input or output {name!r}, as the quantised graph calls a "
                f"value of its own: give it another name"
            )
    new = {inner: name for name, inner in aside.items()}
    for name in made:
        plain = name.replace(ASIDE, "")
        if plain not in taken:
            taken.add(plain)
            new[name] = plain
    rename(graph, new)


def _finish(made: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """Leave nothing of a tool in a graph but its nodes."""
    del made.graph.value_info[:]
    del made.metadata_props[:]
    made.metadata_props.extend(proto.metadata_props)
    made.producer_name, made.producer_version = proto.producer_name, proto.producer_version
    made.ir_version, made.graph.name = proto.ir_version, proto.graph.name
    domains = {node.domain for node in made.graph.node} | {""}
    kept = sorted((o.domain, o.version) for o in made.opset_import if o.domain in domains)
    del made.opset_import[:]
    made.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in kept)


def _half(
    proto: onnx.ModelProto, options: Quantization
) -> tuple[onnx.ModelProto, dict[str, str], dict[str, str]]:
    """Return a graph that keeps its weights as float16, and makes float32 of them first."""
    initializers = {i.name: i for i in proto.graph.initializer}
    casts, done, kept = [], {}, {}
    for tensor in proto.graph.initializer:
        g = Writer(tensor.name, initializers)
        w = g.array(tensor.name)
        if w.dtype != np.float32 or w.size < MIN_NUMBERS:
            continue
        if options.keeps(tensor.name):
            kept[tensor.name] = KEPT
            continue
        largest = np.abs(w).max()
        if largest > np.finfo(np.float16).max:
            raise ExportError(
                f"{tensor.name}: its largest number, {largest:g}, is over float16's 65504: name it "
                f"in `keep` of Quantization, or export it with quantize=None"
            )
        half = g.constant(w.astype(np.float16), f"{tensor.name}:float16")
        g.name_outputs({g.op("Cast", half, to=TensorProto.FLOAT): tensor.name})
        casts += g.nodes
        done[tensor.name] = "stored as float16"
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    replace_content(
        made.graph,
        [*casts, *proto.graph.node],
        {n: t for n, t in initializers.items() if n not in done},
    )
    return made, done, kept
