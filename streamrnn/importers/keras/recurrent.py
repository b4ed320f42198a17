"""Keras' recurrent layers: cells of ours, or variants where the activation functions are others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ...errors import FileError
from ...layer import Layer
from ...ops import activations as act
from ...ops.gru import GRUCell
from ...ops.lstm import LSTMCell
from ...ops.rnn import RNNCell
from ...variants import GRUVariant, LSTMVariant, RNNVariant
from .activations import activation
from .arrays import converted, take
from .flow import Apply, Flow, layer, sequence
from .options import Options

__all__: list[str] = []

Arrays = list[npt.NDArray[Any]]

KINDS = {
    "SimpleRNN": (RNNCell, RNNVariant),
    "GRU": (GRUCell, GRUVariant),
    "LSTM": (LSTMCell, LSTMVariant),
}


def _identity(value: Any) -> Any:
    return value


def _cell(kind: str, o: Options, arrays: Arrays) -> Layer:
    """Return a recurrent layer with its weights."""
    if len(arrays) not in (2, 3) or arrays[0].ndim != 2:
        take(arrays, (None, None), (None, None), (None,))
    inputs, units = arrays[0].shape[0], o.integer("units")
    options: dict[str, Any] = {"bias": o.flag("use_bias", True), "name": o.get("name")}
    candidate = activation(o.get("activation", "tanh"), o.keras)
    gate: Layer | None = act.Sigmoid()
    if kind != "SimpleRNN":
        early = "hard_sigmoid" if o.keras == 2 else "sigmoid"
        gate = activation(o.get("recurrent_activation", early), o.keras)
    if kind == "GRU":
        options["reset_after"] = o.flag("reset_after", o.keras >= 3)
    own, variant = KINDS[kind]
    usual = isinstance(candidate, act.Tanh) and isinstance(gate, act.Sigmoid)
    if usual:
        cell: Layer = own(inputs, units, **options)
        cell.load_state_dict(converted(cell, arrays))
        return cell
    functions = {"candidate": candidate or _identity}
    if kind != "SimpleRNN":
        functions["gate"] = gate or _identity
    if kind == "LSTM":
        functions["output"] = candidate or _identity
    cell = variant(inputs, units, **options, **functions)
    cell.load_state_dict(converted(cell, arrays))
    return cell


def _streamed(o: Options, cells: Sequence[Layer]) -> Apply:
    """Return cells on top of each other; what is made of a whole sequence is the output so far."""
    if o.flag("go_backwards", False):
        raise FileError("go_backwards=True begins at the last frame, which has not come yet")
    if o.flag("time_major", False):
        raise FileError("time_major=True is not supported")
    if o.flag("zero_output_for_mask", False) and not o.get("ignore_masks"):
        raise FileError("zero_output_for_mask=True is not supported")
    timed = o.flag("return_sequences", False)

    def apply(flows: Sequence[Flow]) -> Flow:
        if len(flows) > 1:
            raise FileError(
                "an initial state from another layer is not supported: build encoder and decoder "
                "apart, and set the decoder's stream.state"
            )
        value = sequence(flows).value
        for cell in cells:
            value = cell(value)
        return Flow(value, timed)

    return apply


@layer("SimpleRNN")
def _rnn(o: Options, arrays: Arrays) -> Apply:
    return _streamed(o, [_cell("SimpleRNN", o, arrays)])


@layer("GRU")
def _gru(o: Options, arrays: Arrays) -> Apply:
    return _streamed(o, [_cell("GRU", o, arrays)])


@layer("LSTM")
def _lstm(o: Options, arrays: Arrays) -> Apply:
    return _streamed(o, [_cell("LSTM", o, arrays)])


@layer("CuDNNGRU")
def _cudnn_gru(o: Options, arrays: Arrays) -> Apply:
    config = {"recurrent_activation": "sigmoid", "reset_after": True, **o.config}
    return _streamed(o, [_cell("GRU", _with(o, config), arrays)])


@layer("CuDNNLSTM")
def _cudnn_lstm(o: Options, arrays: Arrays) -> Apply:
    config = {"recurrent_activation": "sigmoid", **o.config}
    return _streamed(o, [_cell("LSTM", _with(o, config), arrays)])


def _with(o: Options, config: dict[str, Any]) -> Options:
    made = Options({"activation": "tanh", **config}, o.keras)
    made.read = o.read
    return made


@layer("RNN")
def _rnn_of_cells(o: Options, arrays: Arrays) -> Apply:
    """``RNN(cell)``, ``RNN([cell, …])`` and ``RNN(StackedRNNCells([…]))``."""
    given = o.get("cell")
    outer = given if isinstance(given, dict) else {}
    stacked = outer.get("class_name") == "StackedRNNCells"
    listed = outer["config"].get("cells", []) if stacked else [outer]
    cells, rest = [], list(arrays)
    for k, spec in enumerate(listed):
        kind = str(spec.get("class_name", "")).removesuffix("Cell")
        if kind not in KINDS or not str(spec.get("class_name")).endswith("Cell"):
            raise FileError(f"the cell {spec.get('class_name')!r} is not supported")
        name = o.get("name") if len(listed) == 1 else f"{o.get('name')}.{k}"
        inner = Options({**spec["config"], "name": name}, o.keras)
        count = 2 + inner.flag("use_bias", True)
        cells.append(_cell(kind, inner, rest[:count]))
        inner.finish()
        rest = rest[count:]
    take(rest)
    return _streamed(o, cells)


@layer("Bidirectional")
def _bidirectional(o: Options, arrays: Arrays) -> Apply:
    raise FileError(
        "the backward layer begins at the last frame of the sequence, which in a stream has not "
        "come yet; train with a forward layer only"
    )


@layer("Lambda")
def _lambda(o: Options, arrays: Arrays) -> Apply:
    raise FileError(
        "it holds Python code, and nothing in a file is executed; build the model in Python and "
        "give it to from_keras as `model`"
    )


@layer("GlobalAveragePooling1D", "GlobalMaxPooling1D")
def _pooling(o: Options, arrays: Arrays) -> Apply:
    raise FileError(
        "it pools over all of time, and a stream does not end: load the layers before it, and pool "
        "their outputs"
    )
