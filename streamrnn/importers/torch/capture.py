"""A module as torch exports it, for sequences of one length."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ...errors import ConfigError, ConversionError
from .inputs import First, named_inputs

__all__ = ["AUTO", "Captured", "capture"]

MIN_LENGTH = 31
"""Least length of the sequences that a module is exported for (torch runs its recurrent layers)."""
AUTO: Any = "auto"


@dataclass(frozen=True)
class Captured:
    """A module as torch exports it.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Its graph.
    inputs : list of (name, example, time axis)
        What it takes, flat; the examples are as long as what it was exported for.
    states : tuple of str
        Which of the inputs are states.
    output_names : list of str
        What it makes, flat.
    call : callable
        Runs the copied module on flat inputs; returns flat outputs.
    module : torch.nn.Module
        The copy.
    """

    program: Any
    inputs: list[tuple[str, Any, int | None]]
    states: tuple[str, ...]
    output_names: list[str]
    call: Any
    module: Any


def capture(module: Any, example: Any, time_axis: Any, states: Sequence[str] | None) -> Captured:
    """Return the prepared module as torch exports it, for sequences of one length.

    Raises
    ------
    ConfigError
        If the example, the time axis or the states do not fit the module.
    ConversionError
        If torch cannot export it, or it changes buffers of its own.
    """
    named, spec = named_inputs(module, example)
    first = First(module, dict(named))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = _called(module, spec, [x for _, x in named])
    except Exception as error:  # whatever forward raises
        raise ConfigError(f"from_torch: the module does not take the example: {error}") from error
    finally:
        for handle in first.handles:
            handle.remove()
    names = [name for name, _ in named]
    kept = tuple(first.states if states is None else states)
    for name in kept:
        if name not in names:
            raise ConfigError(
                f"from_torch: no input is called {name!r}; there are {', '.join(names)}"
            )
    axes = {n: _axis_of(n, x, time_axis, first.axes) for n, x in named if n not in kept}
    length = _length([x.shape[axes[n]] for n, x in named if axes.get(n) is not None], module, named)
    inputs = [(n, _stretched(x, axes.get(n), length), axes.get(n)) for n, x in named]

    def call(tensors: Sequence[Any]) -> list[Any]:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _leaves(_called(module, spec, list(tensors)))

    order = tuple(n for n, _ in named if n in kept)
    program, names = _exported(module, spec, inputs), _output_names(results)
    if isinstance(module, nn.RNNBase) and not kept:
        output = program.graph.output_node()
        output.args = (output.args[0][:1],)
        names = names[:1]
    return Captured(program, inputs, order, names, call, module)


def _called(module: Any, spec: Any, leaves: list[Any]) -> Any:
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return module(*args, **kwargs)


def _axis_of(name: str, x: Any, chosen: Any, found: Mapping[str, int | None]) -> int | None:
    """Return the time axis of an input: as the user says it, or as its first layer takes it."""
    if not isinstance(x, torch.Tensor):
        return None
    if isinstance(chosen, Mapping):
        chosen = chosen.get(name, AUTO)
    if isinstance(chosen, str) and chosen == AUTO:
        return found.get(name, 1 if x.ndim > 1 else None)
    if chosen is None:
        return None
    if not isinstance(chosen, int) or not -x.ndim <= chosen < x.ndim:
        raise ConfigError(
            f"from_torch: time_axis={chosen!r} is no axis of input {name!r} {tuple(x.shape)}; None "
            f"is for a module that takes one frame"
        )
    return chosen % int(x.ndim)


def _length(lengths: list[int], module: Any, named: Sequence[tuple[str, Any]]) -> int:
    """Return a prime that is no other size in the module.

    It is as long as the example, and longer than what convolutions see: they may pad and cut.
    """
    tensors = [*module.state_dict().values(), *(x for _, x in named)]
    sizes = {d for t in tensors if isinstance(t, torch.Tensor) for d in t.shape}
    seen = sum(
        max(int(d * (k - 1)) for d, k in zip(part.dilation, part.kernel_size, strict=True))
        for part in module.modules()
        if isinstance(part, (nn.Conv1d, nn.Conv2d))
    )
    length = max([MIN_LENGTH + 2 * seen, *lengths])
    while length in sizes or any(length % k == 0 for k in range(2, int(length**0.5) + 1)):
        length += 1
    return length


def _stretched(x: Any, axis: int | None, length: int) -> Any:
    """Return zeros in the shape of an input, with so many frames."""
    if axis is None or not isinstance(x, torch.Tensor):
        return x
    return torch.zeros((*x.shape[:axis], length, *x.shape[axis + 1 :]), dtype=x.dtype)


def _exported(module: Any, spec: Any, inputs: list[tuple[str, Any, int | None]]) -> Any:
    args, kwargs = pytree.tree_unflatten([x for _, x, _ in inputs], spec)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, args, kwargs, strict=False)
            if any(_changes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # without changes in place
    except Exception as error:  # torch's errors have no common base
        said = next(iter(str(error).strip().splitlines()), repr(error))
        shapes = [(name, tuple(x.shape)) for name, x, axis in inputs if axis is not None]
        raise ConversionError(
            f"torch.export cannot follow {type(module).__name__}.forward: {said} (sequences of "
            f"these shapes were given: {dict(shapes)}; `time_axis` and `states` say otherwise)"
        ) from error
    changed = program.graph_signature.buffers_to_mutate
    if changed:
        raise ConversionError(
            f"forward changes the buffer {', '.join(map(repr, changed.values()))}: take the state "
            f"as an argument and return the new one, and say states=[…]"
        )
    return program


def _changes(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _leaves(results: Any) -> list[Any]:
    """Return what a module returns, flat; None is nothing."""
    return [leaf for leaf in pytree.tree_leaves(results) if leaf is not None]


def _output_names(results: Any) -> list[str]:
    """Return names of what the module returns: a dictionary's keys, or y_0, y_1 and so on."""
    if not isinstance(results, Mapping):
        return [f"y_{i}" for i in range(len(_leaves(results)))]
    names: list[str] = []
    for key, part in results.items():
        count = len(_leaves(part))
        names += [str(key)] if count == 1 else [f"{key}_{i}" for i in range(count)]
    return names
