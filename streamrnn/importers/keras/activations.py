"""Keras' activation functions by name; one of them is not the same in Keras 2 and 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import FileError
from ...layer import Layer
from ...ops import activations as act

__all__ = ["activation"]

_FUNCTIONS: dict[str, Callable[[], Layer]] = {
    "elu": act.ELU,
    "exponential": act.Exp,
    "gelu": act.GELU,
    "hard_silu": act.Hardswish,
    "hard_swish": act.Hardswish,
    "leaky_relu": lambda: act.LeakyReLU(0.2),
    "log_sigmoid": act.LogSigmoid,
    "log_softmax": act.LogSoftmax,
    "mish": act.Mish,
    "relu": act.ReLU,
    "relu6": act.ReLU6,
    "selu": act.SELU,
    "sigmoid": act.Sigmoid,
    "silu": act.SiLU,
    "softmax": act.Softmax,
    "softplus": act.Softplus,
    "softsign": act.Softsign,
    "swish": act.SiLU,
    "tanh": act.Tanh,
}


def activation(given: Any, keras: int) -> Layer | None:
    """Return an activation function as a layer of ours, None for the identity.

    ``hard_sigmoid`` is ``clip(0.2 x + 0.5, 0, 1)`` in Keras 1 and 2, ``clip(x / 6 + 0.5, 0, 1)`` in
    Keras 3.

    Raises
    ------
    FileError
        If the function is not known, a custom one, or a ``hard_sigmoid`` of an unknown version.
    """
    if isinstance(given, Mapping):
        raise FileError(
            f"the activation function {given.get('config') or given.get('class_name')!r} is a "
            f"custom object: it is code, and nothing in a file is executed"
        )
    if given in (None, "linear"):
        return None
    if given == "hard_sigmoid":
        if not keras:
            raise FileError(
                "`hard_sigmoid` has another slope in Keras 2 than in 3, and the file does not say "
                "which version wrote it"
            )
        return act.Hardsigmoid(1 / 6 if keras >= 3 else 0.2)
    if not isinstance(given, str) or given not in _FUNCTIONS:
        raise FileError(f"the activation function {given!r} is not supported")
    return _FUNCTIONS[given]()
