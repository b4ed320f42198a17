"""A second opinion on a graph: that of onnx's reference evaluator, on the first call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from streamrnn.layer import Layer

from .metadata import read_metadata
from .verify import Differences, StepSession

__all__ = ["second_opinion"]


def second_opinion(
    proto: onnx.ModelProto, model: Layer, xs: Sequence[npt.NDArray[Any]], tolerance: float
) -> str:
    """Run the first call of a graph in onnxruntime and in onnx's evaluator; say how far they part.

    The evaluator is written in plain NumPy, operator by operator. What it cannot run is said, and
    no error.
    """
    graph = model.graph()
    session = StepSession(proto)
    streams, n = read_metadata(proto)["batch"] or 1, graph.clock.stride
    feeds = {
        name: np.repeat(x[:n, None], streams, axis=1).astype(value.dtype)
        for (name, value), x in zip(graph.inputs.items(), xs, strict=True)
    }
    given = {**feeds, **session.states}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto).run(None, given)
    except Exception as error:  # each operator has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"onnx.reference cannot run it: {reason}"
    wanted = session(feeds)
    differences = Differences(wanted)
    for (name, array), result in zip(wanted.items(), results, strict=True):
        differences.add(name, np.asarray(result), array)
    largest = max(differences.scaled().values(), default=0.0)
    verdict = "agrees with" if largest <= tolerance else "DIFFERS from"
    return f"onnx.reference {verdict} onnxruntime on the first call: {largest:.2e}"
