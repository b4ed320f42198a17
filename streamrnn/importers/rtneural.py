"""RTNeural's JSON: models of real-time audio, trained in Keras or torch.

``{"in_shape": [null, null, 1], "layers": [{"type": "lstm", "shape": [null, null, 8], "activation":
"tanh", "weights": […]}, …]}``, the weights in Keras' layout, as RTNeural's exporter for Keras
writes it. (Its export from torch is a mapping of torch's own names to lists, without a structure:
give it to ``load_state_dict``.) A layer or a function that is not known is an error, by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FileError, StreamrnnError, WeightError
from ..graph import Input
from ..layer import Layer, Model, Sequential
from ..layouts import gru_weights, lstm_weights
from ..ops import activations as act
from ..ops.arithmetic import Affine
from ..ops.conv1d import Conv1d
from ..ops.gru import GRUCell
from ..ops.linear import Linear
from ..ops.lstm import LSTMCell

__all__ = ["from_rtneural"]

Array = npt.NDArray[np.float32]
MAX_FILE_BYTES = 1 << 28

ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "elu": act.ELU,
    "relu": act.ReLU,
    "sigmoid": act.Sigmoid,
    "softmax": act.Softmax,
    "tanh": act.Tanh,
}


def from_rtneural(path: str | Path) -> Model:
    """Read a model from RTNeural's JSON file.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Model
        A chain; its frames are float32 [shape=(I,)], the samples of one instant.

    Raises
    ------
    FileError
        If the file is missing or damaged, holds a layer or an activation function that is not
        known, or weights whose shapes are not those that the layer says.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not a JSON file: {error}") from None
    try:
        width, specs = _width(content["in_shape"]), content["layers"]
        layers: list[Layer] = []
        for k, spec in enumerate(specs):
            made, width = _layers(k, spec, width)
            layers += made
        x = Input(_width(content["in_shape"]))
        return Model(x, Sequential(*layers)(x))
    except StreamrnnError as error:
        raise FileError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        hint = ""
        if isinstance(content, dict) and "layers" not in content:
            hint = "; is it torch's state dict as JSON? Give that to `load_state_dict`"
        raise FileError(
            f"{path}: no RTNeural model: {type(error).__name__}: {error}{hint}"
        ) from None


def _width(shape: Sequence[Any]) -> int:
    width = shape[-1]
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise FileError(f"expected a shape that ends in the number of channels, got {shape}")
    return width


def _layers(k: int, spec: Mapping[str, Any], inputs: int) -> tuple[list[Layer], int]:
    """Return layers of ours for one of RTNeural's, and how many numbers come out."""
    kind, outputs = spec["type"], _width(spec["shape"])
    who = f"layer {k} ({kind})"
    if kind not in LAYERS:
        raise FileError(f"{who}: this type of layer is not known, only {', '.join(sorted(LAYERS))}")
    arrays = [np.asarray(w, np.float32) for w in spec["weights"]]
    try:
        layer, shapes = LAYERS[kind](spec, inputs, outputs, len(arrays))
        got = [a.shape for a in arrays]
        if got != shapes:
            raise WeightError(
                f"{who} with {inputs} inputs and {outputs} outputs needs weights of shapes "
                f"{_text(shapes)}, got {_text(got)}"
            )
        _give(layer, _normalising(arrays, spec["epsilon"]) if kind == "batchnorm" else arrays)
    except StreamrnnError as error:
        said = str(error)
        raise FileError(said if said.startswith(who) else f"{who}: {said}") from None
    recurrent = kind in ("gru", "lstm")
    name = spec.get("activation", "")
    if recurrent and name not in ("", "tanh"):
        raise FileError(f"{who}: the activation {name!r} is not supported, only 'tanh'")
    if not recurrent and name not in ("", "linear", *ACTIVATIONS):
        raise FileError(f"{who}: the activation {name!r} is not known")
    made = [] if layer is None else [layer]
    if not recurrent and name in ACTIVATIONS:
        made.append(ACTIVATIONS[name]())
    return made, outputs


def _text(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "none"


Read = tuple[Any, list[tuple[int, ...]]]
"""A layer of ours (None: only an activation function), and the shapes of its arrays."""


def _dense(spec: Mapping[str, Any], I: int, O: int, count: int) -> Read:
    return Linear(I, O, bias=count > 1), [(I, O), (O,)][: max(count, 1)]


def _conv1d(spec: Mapping[str, Any], I: int, O: int, count: int) -> Read:
    size, dilation, groups = spec["kernel_size"][0], spec["dilation"][0], spec.get("groups", 1)
    layer = Conv1d(I, O, size, dilation=dilation, groups=groups, bias=count > 1)
    return layer, [(size, I // groups, O), (O,)][: max(count, 1)]


def _gru(spec: Mapping[str, Any], I: int, H: int, count: int) -> Read:
    return GRUCell(I, H), [(I, 3 * H), (H, 3 * H), (2, 3 * H)]


def _lstm(spec: Mapping[str, Any], I: int, H: int, count: int) -> Read:
    return LSTMCell(I, H), [(I, 4 * H), (H, 4 * H), (4 * H,)]


def _batchnorm(spec: Mapping[str, Any], I: int, O: int, count: int) -> Read:
    return Affine(I), [(I,)] * (2 if count == 2 else 4)  # without or with gamma and beta


def _prelu(spec: Mapping[str, Any], I: int, O: int, count: int) -> Read:
    width = np.shape(spec["weights"])[-1]
    return act.PReLU(1 if width == 1 else I), [(1, 1 if width == 1 else I)]


def _activation(spec: Mapping[str, Any], I: int, O: int, count: int) -> Read:
    if not spec.get("activation"):
        raise FileError("names no activation function")
    return None, []


LAYERS: dict[str, Callable[[Mapping[str, Any], int, int, int], Read]] = {
    "activation": _activation,
    "batchnorm": _batchnorm,
    "conv1d": _conv1d,
    "dense": _dense,
    "gru": _gru,
    "lstm": _lstm,
    "prelu": _prelu,
    "time-distributed-dense": _dense,
}


def _normalising(arrays: Sequence[Array], epsilon: float) -> list[Array]:
    """Return gamma, beta, mean and variance as a scale and a shift.

    Untrained fixtures have negative variances; only that of which a root is taken must be positive.
    """
    *affine, mean, variance = (a.astype(np.float64) for a in arrays)
    if (variance + epsilon <= 0).any():
        raise WeightError(f"variance + epsilon must be positive, got {min(variance + epsilon)}")
    gamma, beta = affine or (1.0, 0.0)
    scale = gamma / np.sqrt(variance + epsilon)
    return [np.asarray(a, np.float32) for a in (scale, beta - mean * scale)]


def _give(layer: Any, arrays: Sequence[Array]) -> None:
    """Give a layer its arrays, which have the right shapes."""
    if isinstance(layer, GRUCell):
        layer.weights = gru_weights(*arrays)
    elif isinstance(layer, LSTMCell):
        layer.weights = lstm_weights(*arrays)
    elif isinstance(layer, (Linear, Conv1d)):
        layer.weights = dict(zip(layer.parameter_shapes(), (a.T for a in arrays), strict=True))
    elif layer is not None:  # in the order in which ours are named
        flat = (a.reshape(-1) for a in arrays)
        layer.weights = dict(zip(layer.parameter_shapes(), flat, strict=True))
