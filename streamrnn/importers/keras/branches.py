"""Keras' layers that reshape values or join branches."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ...errors import FileError
from ...graph import Value
from ...ops.arithmetic import Add, Div, Mul, Scale, Sub
from ...ops.compare import Maximum, Minimum
from ...ops.concat import concat
from ...ops.op import Op
from ...ops.rearrange import Flatten, Reshape
from .flow import Apply, Flow, layer, single
from .options import Options

__all__: list[str] = []

Arrays = list[npt.NDArray[Any]]


@layer("Flatten")
def _flatten(o: Options, arrays: Arrays) -> Apply:
    o.get("data_format")

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        if flow.timed:
            raise FileError(
                "it puts all frames of the sequence side by side, and a stream has no last one; "
                "use the last output of a recurrent layer (return_sequences=False)"
            )
        return Flow(Flatten()(flow.value), timed=False)

    return apply


@layer("Reshape")
def _reshape(o: Options, arrays: Arrays) -> Apply:
    target = [-1 if d is None else int(d) for d in o.get("target_shape", ())]

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        shape, size = target[int(flow.timed) :], flow.value.size
        known = math.prod(d for d in shape if d != -1)
        if known and shape.count(-1) == 1 and size % known == 0:
            shape = [size // known if d == -1 else d for d in shape]
        if math.prod(shape) != size or -1 in shape:
            raise FileError(
                f"target_shape {tuple(target)} mixes the frames {flow.value.shape} with the time "
                f"axis: a stream has one frame at a time"
            )
        return Flow(Reshape(tuple(shape))(flow.value), flow.timed)

    return apply


def _same_kind(flows: Sequence[Flow]) -> bool:
    if not flows:
        raise FileError("expected inputs, got none")
    timed = any(flow.timed for flow in flows)
    if timed and any(not flow.timed and _remembers(flow.value) for flow in flows):
        raise FileError(
            "what follows from the whole sequence is used at every frame of it, before it is known"
        )
    return timed


def _remembers(value: Value) -> bool:
    """Whether a value depends on frames that came before."""
    op = value.op
    if op is None:
        return False
    own = op.takes_feedback or bool(op.state_shapes(*(a.shape for a in value.args)))
    return own or any(map(_remembers, value.args))


@layer("Concatenate")
def _concatenate(o: Options, arrays: Arrays) -> Apply:
    axis = o.get("axis", -1)

    def apply(flows: Sequence[Flow]) -> Flow:
        timed = _same_kind(flows)
        axes = {flow.axis(axis) for flow in flows}
        return Flow(concat(*(f.value for f in flows), axis=axes.pop()), timed)

    return apply


def _merge(name: str, op: type[Op], mean: bool = False) -> None:
    @layer(*name.split())
    def merge(o: Options, arrays: Arrays) -> Apply:
        def apply(flows: Sequence[Flow]) -> Flow:
            timed = _same_kind(flows)
            value = functools.reduce(lambda a, b: op()(a, b), (f.value for f in flows))
            return Flow(Scale(1 / len(flows))(value) if mean else value, timed)

        return apply


for _name, _op in (
    ("Add", Add),
    ("Subtract", Sub),
    ("Multiply", Mul),
    ("Divide TrueDivide", Div),
    ("Maximum", Maximum),
    ("Minimum", Minimum),
):
    _merge(_name, _op)
_merge("Average", Add, mean=True)
