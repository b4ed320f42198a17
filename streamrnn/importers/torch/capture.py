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
MAX_REACH = 4096
"""Most frames, seen by convolutions, that are taken into account."""
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
    before = _attributes(module)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = _called(module, spec, [x for _, x in named])
    except Exception as error:  # whatever forward raises
        raise ConfigError(f"from_torch: the module does not take the example: {error}") from error
    finally:
        for handle in first.handles:
            handle.remove()
    for name, value in _attributes(module).items():
        if before.get(name, _attributes) is not value:
            raise ConversionError(
                f"from_torch: forward changes the attribute {name!r}: what it remembers is not in "
                f"its graph; take it as an argument and return the new one, states=[…]"
            )
    kept = tuple(first.states if states is None else states)
    chosen = time_axis if isinstance(time_axis, Mapping) else {}
    names = [name for name, _ in named]
    for name in (*kept, *chosen):
        if name not in names:
            raise ConfigError(
                f"from_torch: no input is called {name!r}; there are {', '.join(names)}"
            )
    axes = {n: _axis_of(n, x, time_axis, first.axes) for n, x in named if n not in kept}
    frames = [x.shape[axes[n]] for n, x in named if axes.get(n) is not None]
    program, inputs = _exported(module, spec, named, axes, max(frames, default=1))

    def call(tensors: Sequence[Any]) -> list[Any]:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _leaves(_called(module, spec, list(tensors)))

    order = tuple(n for n, _ in named if n in kept)
    outputs = _output_names(results)
    if isinstance(module, nn.RNNBase) and not kept:
        output = program.graph.output_node()
        output.args = (output.args[0][:1],)
        outputs = outputs[:1]
    return Captured(program, inputs, order, outputs, call, module)


def _attributes(module: Any) -> dict[str, Any]:
    """Return what the parts of a module hold beside parameters, buffers and parts.

    What weight_norm and spectral_norm make of parameters before each call is left out.
    """
    known = ("_parameters", "_buffers", "_modules", "training")
    return {
        f"{path}.{name}" if path else name: value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in known
        and not name.startswith(("_forward", "_backward"))
        and not {f"{name}_g", f"{name}_orig"} & part._parameters.keys()
    }


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


def _lengths(module: Any, named: Sequence[tuple[str, Any]], frames: int) -> list[int]:
    """Return lengths of sequences to export a module for, the first that works.

    They are primes that are no other size in the module. Torch runs recurrent layers frame by frame
    to find shapes: with them, the length is what the convolutions and pools before need, and that
    of the example only if it does not do.
    """
    tensors = [*module.state_dict().values(), *(x for _, x in named)]
    sizes = {d for t in tensors if isinstance(t, torch.Tensor) for d in t.shape}
    short = MIN_LENGTH + 2 * min(_reach(module), MAX_REACH)
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    wanted = [short, frames] if recurrent and frames > short else [max(short, frames)]
    return [_prime(length, sizes) for length in wanted]


def _prime(length: int, sizes: set[int]) -> int:
    """Return the first prime from a length on that is not among `sizes`."""
    while length in sizes or any(length % k == 0 for k in range(2, int(length**0.5) + 1)):
        length += 1
    return length


def _reach(module: Any) -> int:
    """Return about how many frames the convolutions and pools of a module see."""
    reach, jump = 0, 1
    for part in module.modules():
        taps = _numbers(getattr(part, "kernel_size", None))
        dilation = max(_numbers(getattr(part, "dilation", None)), default=1)
        reach += jump * dilation * max((k - 1 for k in taps), default=0)
        jump *= min(_numbers(getattr(part, "stride", None)), default=1)
    return reach


def _numbers(given: Any) -> list[int]:
    """Return an attribute that is a number, or one for each axis."""
    numbers = given if isinstance(given, (list, tuple)) else [given]
    return [n for n in numbers if isinstance(n, int) and n > 0]


def _stretched(x: Any, axis: int | None, length: int) -> Any:
    """Return zeros in the shape of an input, with so many frames."""
    if axis is None or not isinstance(x, torch.Tensor):
        return x
    return torch.zeros((*x.shape[:axis], length, *x.shape[axis + 1 :]), dtype=x.dtype)


def _exported(
    module: Any,
    spec: Any,
    named: Sequence[tuple[str, Any]],
    axes: Mapping[str, int | None],
    frames: int,
) -> tuple[Any, list[tuple[str, Any, int | None]]]:
    """Return the module's graph, and the inputs that it was exported for."""
    for length in _lengths(module, named, frames):
        inputs = [(n, _stretched(x, axes.get(n), length), axes.get(n)) for n, x in named]
        args, kwargs = pytree.tree_unflatten([x for _, x, _ in inputs], spec)
        try:
            program = _graph(module, args, kwargs)
        except Exception as error:  # torch's errors have no common base
            problem = error
        else:
            _refuse_changes(program)
            return program, inputs
    said = next(iter(str(problem).strip().splitlines()), repr(problem))
    shapes = {name: tuple(x.shape) for name, x, axis in inputs if axis is not None}
    raise ConversionError(
        f"torch.export cannot follow {type(module).__name__}.forward: {said} (sequences of these "
        f"shapes were given: {shapes}; `time_axis` and `states` say otherwise)"
    ) from problem


def _graph(module: Any, args: Any, kwargs: Any) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, args, kwargs, strict=False)
        if any(_changes(node) for node in program.graph.nodes):
            program = program.run_decompositions({})  # without changes in place
    return program


def _refuse_changes(program: Any) -> None:
    changed = program.graph_signature.buffers_to_mutate.values()
    if changed:
        raise ConversionError(
            f"forward changes the buffer {', '.join(map(repr, changed))}: take the state as an "
            f"argument and return the new one, and say states=[…]"
        )


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
