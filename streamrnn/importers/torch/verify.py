"""A stream held against the module that it was made of, frame by frame."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...errors import ConversionError
from ...graph import Value
from ...layer import Model
from ..onnx.node import Timed
from ..onnx.time import settled
from .walk import Walk

__all__ = ["TOLERANCE", "check"]

CHECKED_FRAMES = 16
"""Frames that have to come out, beside those that are waited for."""
MAX_CHECKED = 4096
TOLERANCE = 1e-4
"""Largest error, absolute below 1 and relative to the largest output above."""

Array = npt.NDArray[Any]


@dataclass
class Run:
    """What the module gives for a random sequence."""

    outputs: list[Array]
    """Each with time in front; a single frame where it follows from the whole sequence."""
    layers: dict[str, Array]
    """The output of each submodule, as it came (of a module of one frame: stacked)."""


def check(walk: Walk, model: Model) -> None:
    """Raise ConversionError unless the stream gives what the module gives."""
    clock = model.graph().clock
    length = clock.start + CHECKED_FRAMES * clock.stride
    if length > MAX_CHECKED:
        raise ConversionError(
            f"its first output comes after {clock.start} frames: too late to check it on "
            f"{MAX_CHECKED} (verify=False converts it unchecked)"
        )
    frames = _random_frames(walk, model, length)
    try:
        wanted = _run_module(walk, frames, length)
    except RuntimeError as problem:
        raise ConversionError(
            f"the module cannot be run over {length} frames ({problem}): verify=False converts it "
            f"unchecked"
        ) from problem
    got = _run_stream(walk, model, frames, length)
    axes = walk.output_axes
    errors = [
        _error(g, w, a is None and walk.sequence)
        for g, w, a in zip(got, wanted.outputs, axes, strict=False)
    ]
    for name, error in zip(model.graph().outputs, errors, strict=True):
        if not error <= TOLERANCE:
            raise ConversionError(
                f"output {name!r} of the stream is not that of the module: they differ by "
                f"{error:.2g} (allowed: {TOLERANCE:.0e}). Layer by layer, largest errors:\n"
                + "\n".join(_report(walk, wanted, frames, length))
            )


def _random_frames(walk: Walk, model: Model, length: int) -> dict[str, Array]:
    """Return a seeded random sequence for every input, time in front; states are not among them."""
    rng = np.random.default_rng(0)
    limits = dict(zip(model.graph().inputs, model.program().index_limits, strict=True))
    frames: dict[str, Array] = {}
    for name, x, axis in walk.captured.inputs:
        if name not in model.graph().inputs:
            continue
        shape = tuple(d for i, d in enumerate(x.shape) if i != axis)
        fixed = axis is None and walk.sequence  # one and the same at every frame
        size = (1 if fixed else length, *shape)
        if x.dtype.is_floating_point:
            drawn: Array = rng.standard_normal(size).astype(np.float32)
        else:
            drawn = rng.integers(0, limits[name] or 2, size)
        frames[name] = np.broadcast_to(drawn, (length, *shape)).copy()
    return frames


def _tensors(walk: Walk, frames: dict[str, Array], now: slice) -> list[Any]:
    """Return the module's inputs: a sequence, or the one frame of `now`; states are zero."""
    tensors = []
    for name, x, axis in walk.captured.inputs:
        if name not in frames:
            tensors.append(torch.zeros_like(x) if name in walk.states else x)
            continue
        part = frames[name][now]
        part = part[0] if axis is None else np.moveaxis(part, 0, axis)
        tensors.append(torch.from_numpy(np.ascontiguousarray(part)).to(x.dtype))
    return tensors


def _run_module(walk: Walk, frames: dict[str, Array], length: int) -> Run:
    """Run the module, over the sequence at once or, where it takes a frame, one after another."""
    layers: dict[str, list[Array]] = {}

    def keep(path: str) -> Any:
        def hook(part: Any, args: Any, made: Any) -> None:
            made = _first(list(made.values()) if isinstance(made, dict) else made)
            if isinstance(made, torch.Tensor):
                layers.setdefault(path, []).append(made.detach().numpy().copy())

        return hook

    module = walk.captured.module
    handles = [part.register_forward_hook(keep(path)) for path, part in module.named_modules()]
    try:
        if walk.sequence:
            made = walk.captured.call(_tensors(walk, frames, slice(None)))
            outputs = [
                y.numpy() if axis is None else np.moveaxis(y.numpy(), axis, 0)
                for y, axis in zip(made, walk.output_axes, strict=False)
            ]
            return Run(outputs, {path: arrays[-1] for path, arrays in layers.items()})
        outputs = _frame_by_frame(walk, frames, length)
        steps = {p: a[len(a) // length - 1 :: len(a) // length] for p, a in layers.items()}
        return Run(outputs, {path: np.stack(arrays) for path, arrays in steps.items()})
    finally:
        for handle in handles:
            handle.remove()


def _frame_by_frame(walk: Walk, frames: dict[str, Array], length: int) -> list[Array]:
    outputs: list[list[Array]] = [[] for _ in walk.output_axes]
    states: list[Any] = []
    for t in range(length):
        tensors = _tensors(walk, frames, slice(t, t + 1))
        for i, (name, _, _) in enumerate(walk.captured.inputs):
            if states and name in walk.states:
                tensors[i] = states[list(walk.states).index(name)]
        made = walk.captured.call(tensors)
        states = made[len(made) - len(walk.states) :]
        for kept, y in zip(outputs, made, strict=False):
            kept.append(y.numpy())
    return [np.stack(kept) for kept in outputs]


def _run_stream(walk: Walk, model: Model, frames: dict[str, Array], length: int) -> list[Array]:
    """Return what the model gives, one frame after another."""
    given = [
        np.ascontiguousarray(frames[name].reshape(length, *value.shape))
        for name, value in model.graph().inputs.items()
    ]
    made = model.stream().run(tuple(given) if len(given) > 1 else given[0])
    return list(made) if isinstance(made, tuple) else [made]


def _error(got: Array, wanted: Array, last: bool) -> float:
    """Return the largest difference, relative where outputs are larger than 1."""
    if last:
        got, wanted = got[-1:], wanted.reshape(1, *got.shape[1:])
    wanted = wanted[: len(got)]
    got = got[: len(wanted)]
    wanted = wanted.reshape(got.shape)
    size = max(1.0, float(np.abs(wanted).max(initial=0)))
    return float(np.abs(got - wanted).max(initial=0)) / size


# The report ---------------------------------------------------------------------------------------


def _report(walk: Walk, wanted: Run, frames: dict[str, Array], length: int) -> list[str]:
    """Return a line for each submodule: how far the stream is from it; the first is marked."""
    lines, found = [], False
    for path, value in _probes(walk, wanted).items():
        error = _error_of(walk, value, wanted.layers[path], frames, length)
        if error is None:
            continue
        apart = not error <= TOLERANCE
        mark = "  <- the first that differs" if apart and not found else ""
        found = found or apart
        lines.append(f"  {path or 'the module itself'}: {error:.2g}{mark}")
    return lines


def _probes(walk: Walk, wanted: Run) -> dict[str, Any]:
    """Return, for each submodule in the order in which they end, the value that is its output."""
    ends: dict[str, tuple[int, Any]] = {}
    for k, (node, value) in enumerate(walk.values.items()):
        if node.target is operator.getitem and node.args[1] != 0:
            continue  # a state: a submodule's output is the first of what it returns
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            first = _first(value)
            if path in wanted.layers and isinstance(first, (Value, Timed)):
                ends[path] = k, first
    inner_first = sorted(ends.items(), key=lambda end: (end[1][0], -len(end[0])))
    return {path: value for path, (_, value) in inner_first}


def _error_of(
    walk: Walk, value: Any, wanted: Array, frames: dict[str, Array], length: int
) -> float | None:
    axis = value.axis if isinstance(value, Timed) else None
    symbol = settled(value).value if isinstance(value, Timed) else value
    try:
        model = walk.model_of({"probe": symbol})
        (got,) = _run_stream(walk, model, frames, length)
        if axis is not None:
            got, wanted = got.reshape(len(got), *symbol.shape), np.moveaxis(wanted, axis, 0)
        return _error(got, wanted, axis is None and walk.sequence)
    except ValueError:  # what the submodule returns is not what its last operator makes
        return None


def _first(made: Any) -> Any:
    """Return the first of several results."""
    while isinstance(made, (list, tuple)) and made:
        made = made[0]
    return made
