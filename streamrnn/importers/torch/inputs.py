"""What a module takes: its example, by name, and which layers take it as what."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ...errors import ConfigError

__all__ = ["First", "named_inputs", "usual_example"]


def usual_example(module: Any) -> tuple[Any, ...] | None:
    """Return an input of a layer that says what it takes, or of the first of a Sequential."""
    if isinstance(module, nn.Sequential) and len(module):
        return usual_example(module[0])
    if isinstance(module, nn.RNNBase):
        shape = (1, 9) if module.batch_first else (9, 1)
        return (torch.zeros(*shape, module.input_size),)
    if isinstance(module, nn.RNNCellBase):
        states = [
            torch.zeros(1, module.hidden_size) for _ in range(1 + isinstance(module, nn.LSTMCell))
        ]
        return torch.zeros(1, module.input_size), tuple(states) if len(states) > 1 else states[0]
    if isinstance(module, nn.Embedding):
        return (torch.zeros(1, 9, dtype=torch.int64),)
    if isinstance(module, nn.Linear):
        return (torch.zeros(1, 9, module.in_features),)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return (torch.zeros(1, 9, *module.normalized_shape),)
    if isinstance(module, nn.BatchNorm1d):
        return (torch.zeros(1, module.num_features, 9),)
    if isinstance(module, nn.Conv1d):
        (taps,), (dilation,) = module.kernel_size, module.dilation
        return (torch.zeros(1, module.in_channels, 9 + dilation * taps),)
    return None


def _as_tensors(tree: Any) -> Any:
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(tree))
    return tree


def named_inputs(module: Any, example: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Return the example's tensors by name, flat, and the spec that puts them together again."""
    if example is None:
        example = usual_example(module)
        if example is None:
            raise ConfigError(
                f"from_torch: {type(module).__name__} does not say what it takes: give an example, "
                f"such as example=torch.zeros(1, 20, 40)"
            )
    keywords = dict(example) if isinstance(example, Mapping) else {}
    given = () if keywords else example if isinstance(example, tuple) else (example,)
    try:
        signature = inspect.signature(module.forward)
        signature.bind(*given, **keywords)
    except TypeError as error:
        raise ConfigError(f"from_torch: the example does not fit forward: {error}") from None
    parts = [*signature.bind_partial(*given).arguments.items(), *keywords.items()]
    named: list[tuple[str, Any]] = []
    for name, part in parts:
        leaves = pytree.tree_leaves(part)
        alone = len(leaves) == 1
        named += [(name if alone else f"{name}_{i}", leaf) for i, leaf in enumerate(leaves)]
    named = [(name, _as_tensors(leaf)) for name, leaf in named]
    for name, leaf in named:
        if isinstance(leaf, torch.Tensor) and (leaf.is_complex() or leaf.dtype == torch.bool):
            raise ConfigError(f"from_torch: input {name!r} is {leaf.dtype}, frames are float32")
    return [(n, _own(x)) for n, x in named], pytree.tree_structure((given, keywords))


def _own(x: Any) -> Any:
    """Return a copy of a tensor, on the CPU, floats as float32: each is told by its identity."""
    if not isinstance(x, torch.Tensor):
        return x
    return x.detach().cpu().to(torch.float32 if x.is_floating_point() else x.dtype, copy=True)


class First:
    """Watches the module run once: which layers take its inputs, and as what."""

    def __init__(self, module: Any, tensors: Mapping[str, Any]) -> None:
        self.names = {id(t): n for n, t in tensors.items() if isinstance(t, torch.Tensor)}
        self.axes: dict[str, int | None] = {}
        self.states: list[str] = []
        self.handles = [
            part.register_forward_pre_hook(self.seen)
            for part in module.modules()
            if not any(True for _ in part.children())
        ]

    def seen(self, part: Any, args: tuple[Any, ...]) -> None:
        """Remember how a layer takes an input of the module."""
        recurrent = isinstance(part, (nn.RNNBase, nn.RNNCellBase))
        if recurrent and len(args) > 1:
            leaves = [self.names.get(id(t)) for t in pytree.tree_leaves(args[1])]
            self.states += [n for n in leaves if n is not None and n not in self.states]
        name = self.names.get(id(args[0])) if args else None
        if name is not None and name not in self.axes:
            self.axes[name] = _time_axis(part, args[0])


def _time_axis(part: Any, x: Any) -> int | None:
    """Return which axis a layer takes for time."""
    if isinstance(part, nn.RNNCellBase):
        return None
    if isinstance(part, nn.RNNBase):
        return 1 if part.batch_first and x.ndim == 3 else 0
    if isinstance(part, (nn.Conv1d, nn.BatchNorm1d)):
        return int(x.ndim) - 1 if x.ndim == 3 else None
    if isinstance(part, (nn.Linear, nn.LayerNorm, nn.RMSNorm)) and x.ndim == 2:
        return None  # (B, F)
    return 1 if x.ndim > 1 else None
