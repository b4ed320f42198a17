"""Every op in several forms and sizes, stacks and graphs: the list that each promise is tested on.

A new op adds its cases here and is then held to all promises; ``test_zoo.py`` fails while an op of
the library has no case. Weights are random, seeded and well-conditioned, sizes are small but not
multiples of a vector.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import streamrnn as s
import streamrnn.frontend as fe
from streamrnn import Input, Layer, Model, Sequential, concat

__all__ = ["CASES", "Case", "find", "random_frames", "spectra", "trained"]


def _random_weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a weight unlike any initial one: no zeros, no ones, nothing symmetric."""
    if name.endswith("_int8"):
        return rng.integers(-128, 128, shape).astype(float)
    if name.startswith("scale_"):
        return rng.uniform(0.5, 1.5, shape) / 128 / math.sqrt(shape[0])
    if name == "running_var" or (name == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 2.0, shape)
    if len(shape) == 1:
        return 0.4 * rng.standard_normal(shape)
    gain = 0.8 if name == "weight_hh" else 1.0  # below 1: the recurrence forgets
    return gain * rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))


def trained(layer: Layer, seed: int = 0) -> Layer:
    """Give a layer seeded weights as if it had been trained, and return it."""
    rng = np.random.default_rng(seed)
    wanted = layer.named_parameters()
    weights = {
        name: _random_weight(parameter, op.parameter_shapes()[parameter], rng).astype(np.float32)
        for name, (op, parameter) in wanted.items()
    }
    layer.load_state_dict(weights)
    return layer


def random_frames(
    model: Layer, T: int, seed: int = 0, low: float | None = None, high: float = 3.0
) -> Any:
    """Return T random frames for `model`, as ``run`` takes them.

    Parameters
    ----------
    low, high : float
        Uniform in this range; without `low`, normal with a standard deviation of 1.5.
    """
    rng = np.random.default_rng(seed)
    program = model.program()
    arrays: list[np.ndarray] = []
    for value, limit in zip(program.inputs, program.index_limits, strict=True):
        shape = (T, *value.shape)
        if limit is not None:
            arrays.append(rng.integers(0, limit, shape))
        elif low is not None:
            arrays.append(rng.uniform(low, high, shape).astype(np.float32))
        else:
            arrays.append((1.5 * rng.standard_normal(shape)).astype(np.float32))
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


@dataclass(eq=False)
class Case:
    """A model under test.

    Parameters
    ----------
    name : str
        What it is, for the test's id.
    build : callable
        Makes the layer anew; its weights are then set by :func:`trained`.
    tolerance : float
        Largest error against float64, absolute below 1 and relative above.
    low, high : float
        Range of the random inputs, where not normal.
    """

    name: str
    build: Callable[[], Layer]
    tolerance: float = 1e-5
    low: float | None = None
    high: float = 3.0

    @functools.cached_property
    def model(self) -> Layer:
        """The layer; made once, so that tests share its compiled program."""
        return self.fresh()

    def fresh(self) -> Layer:
        """Make the same layer again, with the same weights, as another process would."""
        return trained(self.build())

    def again(self) -> Case:
        """Return the same case with a model of its own (for tests that alter the library)."""
        return Case(self.name, self.build, self.tolerance, self.low, self.high)

    def frames(self, T: int, seed: int = 0) -> Any:
        """Return T random frames: an array, or a tuple for a model with several inputs."""
        return random_frames(self.model, T, seed, self.low, self.high)

    def __repr__(self) -> str:
        return self.name


CASES: list[Case] = []


def add(name: str, build: Callable[[], Layer], **options: Any) -> None:
    CASES.append(Case(name, build, **options))


def on(shape: int | tuple[int, ...], *layers: Callable[[], Layer]) -> Callable[[], Layer]:
    """Return a builder of a chain that reads frames of `shape`."""
    return lambda: Sequential(Input(shape), *(layer() for layer in layers))


# Recurrent cells and stacks -----------------------------------------------------------------------

for _I, _H in ((1, 1), (3, 3), (5, 20), (20, 1), (7, 100), (16, 16), (17, 33)):
    add(f"RNNCell {_I}-{_H}", functools.partial(s.RNNCell, _I, _H))
    add(f"GRUCell {_I}-{_H}", functools.partial(s.GRUCell, _I, _H))
    add(f"GRUCell reset before {_I}-{_H}", functools.partial(s.GRUCell, _I, _H, reset_after=False))
    add(f"LSTMCell {_I}-{_H}", functools.partial(s.LSTMCell, _I, _H))

add("RNNCell relu", lambda: s.RNNCell(5, 20, nonlinearity="relu"))
add("RNNCell relu no bias", lambda: s.RNNCell(3, 7, bias=False, nonlinearity="relu"))
add("RNNCell no bias", lambda: s.RNNCell(6, 20, bias=False))
add("GRUCell no bias", lambda: s.GRUCell(6, 20, bias=False))
add("GRUCell reset before no bias", lambda: s.GRUCell(6, 20, bias=False, reset_after=False))
add("LSTMCell no bias", lambda: s.LSTMCell(6, 20, bias=False))

add("RNN 1 layer", lambda: s.RNN(6, 20))
add("RNN 3 layers", lambda: s.RNN(6, 20, num_layers=3))
add("RNN 3 layers relu no bias", lambda: s.RNN(6, 9, 3, bias=False, nonlinearity="relu"))
add("GRU 1 layer", lambda: s.GRU(6, 20))
add("GRU 3 layers", lambda: s.GRU(6, 20, num_layers=3))
add("GRU 3 layers reset before", lambda: s.GRU(6, 20, num_layers=3, reset_after=False))
add("LSTM 1 layer", lambda: s.LSTM(6, 20))
add("LSTM 3 layers", lambda: s.LSTM(6, 20, num_layers=3))
add("LSTM 3 layers no bias", lambda: s.LSTM(3, 33, 3, bias=False))


def _with_initial_state() -> Layer:
    rng = np.random.default_rng(7)
    cell = s.LSTMCell(4, 10)
    cell.initial_state = {"h": rng.uniform(-1, 1, 10), "c": rng.uniform(-2, 2, 10)}
    return cell


add("LSTMCell trained initial state", _with_initial_state)

# Cells whose states come from outside -------------------------------------------------------------


def _fed_back(cell: Callable[[], s.Op], states: int) -> Callable[[], Layer]:
    def build() -> Layer:
        op: Any = cell()
        x, H = Input(op.input_size), op.hidden_size
        past = s.Past(states * H)()
        new = op(x, *(past[k * H : (k + 1) * H] for k in range(states)))
        return Model(x, s.Tanh()(new[:H] * 2.0), feedback={past: new})

    return build


for _I, _H in ((1, 1), (3, 20), (17, 33)):
    add(f"RNNCell fed back {_I}-{_H}", _fed_back(functools.partial(s.RNNCell, _I, _H), 1))
    add(f"GRUCell fed back {_I}-{_H}", _fed_back(functools.partial(s.GRUCell, _I, _H), 1))
    add(f"LSTMCell fed back {_I}-{_H}", _fed_back(functools.partial(s.LSTMCell, _I, _H), 2))
_before = functools.partial(s.GRUCell, 5, 20, reset_after=False)
add("GRUCell fed back reset before", _fed_back(_before, 1))
add(
    "LSTMCell with the states as inputs",
    lambda: Model([x := Input(3), h := Input(7), c := Input(7)], s.LSTMCell(3, 7)(x, h, c)),
)
add(
    "GRUCell with the state as input",
    lambda: Model([x := Input(3), h := Input(7)], s.GRUCell(3, 7)(x, h)),
)
add(
    "RNNCell with the state as input",
    lambda: Model([x := Input(3), h := Input(7)], s.RNNCell(3, 7, nonlinearity="relu")(x, h)),
)

# Bytes --------------------------------------------------------------------------------------------


def _bytes_times_bytes(I: int, O: int) -> Callable[[], Layer]:
    def build() -> Layer:
        x = Input(I)
        q = s.DynamicQuantize()(x)
        exact = s.IntegerLinear(I, O)(q[:I], s.Reshape(())(q[I + 1 :]))
        return Model(x, exact * (1 / 4096.0))

    return build


def _int8_lstm(I: int, H: int, steps: int) -> Callable[[], Layer]:
    def build() -> Layer:
        x, past = Input(steps * I), s.Past(2 * H)()
        made = s.Int8LSTM(I, H, steps)(x, past[:H], past[H:])
        return Model(x, made[: steps * H], feedback={past: made[(steps - 1) * H :]})

    return build


# A number halfway between two bytes may be rounded to either: one step of 1/255 of the range, times
# a weight. In a recurrence such steps remain.
add("DynamicQuantize", on(20, lambda: s.DynamicQuantize()), tolerance=1.01)
add("DynamicQuantize of one", on(1, lambda: s.DynamicQuantize()), tolerance=1.01)
for _I, _O in ((1, 1), (3, 20), (20, 33), (100, 70)):
    add(f"IntegerLinear {_I}-{_O}", _bytes_times_bytes(_I, _O), tolerance=0.04)
for _I, _H, _n in ((1, 1, 1), (3, 20, 1), (20, 33, 1), (3, 1, 3), (3, 20, 5)):
    add(f"Int8LSTM {_I}-{_H} {_n}", _int8_lstm(_I, _H, _n), tolerance=0.01)
for _I, _H in ((1, 1), (3, 20), (17, 33), (70, 100)):
    _sizes = {"input_size": _I, "hidden_size": _H}
    add(f"Int8LSTMCell {_I}-{_H}", functools.partial(s.Int8LSTMCell, **_sizes), tolerance=0.01)
    add(f"Int8RNNCell {_I}-{_H}", functools.partial(s.Int8RNNCell, **_sizes), tolerance=0.01)
    add(f"Int8GRUCell {_I}-{_H}", functools.partial(s.Int8GRUCell, **_sizes), tolerance=0.01)
    _reset_before = functools.partial(s.Int8GRUCell, **_sizes, reset_after=False)
    add(f"Int8GRUCell reset before {_I}-{_H}", _reset_before, tolerance=0.01)
add("Int8LSTMCell no bias", lambda: s.Int8LSTMCell(6, 20, bias=False), tolerance=0.01)
add("Int8GRUCell no bias", lambda: s.Int8GRUCell(6, 20, bias=False), tolerance=0.01)
add("Int8RNNCell relu", lambda: s.Int8RNNCell(5, 20, nonlinearity="relu"), tolerance=0.01)
add("Int8LSTMCell fed back", _fed_back(lambda: s.Int8LSTMCell(3, 20), 2), tolerance=0.01)
add("Int8RNNCell fed back", _fed_back(lambda: s.Int8RNNCell(3, 20), 1), tolerance=0.01)
add("Int8GRUCell fed back", _fed_back(lambda: s.Int8GRUCell(3, 20), 1), tolerance=0.01)
_int8_before = functools.partial(s.Int8GRUCell, 5, 20, reset_after=False)
add("Int8GRUCell fed back reset before", _fed_back(_int8_before, 1), tolerance=0.01)
for _I, _O in ((1, 1), (3, 20), (20, 33), (100, 70)):
    add(f"Int8Linear {_I}-{_O}", functools.partial(s.Int8Linear, _I, _O), tolerance=0.04)
for _L, _sizes, _options in (
    (1, (1, 1, 1), {}),
    (20, (3, 5, 3), {"padding": 2}),
    (9, (20, 33, 4), {"stride": 3, "padding": 1, "bias": False}),
    (70, (1, 18, 16), {"stride": 9}),
    (1, (5, 20, 3), {"padding": 1}),
):
    _int8_conv = functools.partial(s.Int8FrameConv1d, *_sizes, **_options)
    add(f"Int8FrameConv1d {_sizes} L{_L}", on((_sizes[0], _L), _int8_conv), tolerance=0.04)
add("Int8Linear no bias", lambda: s.Int8Linear(20, 3, bias=False), tolerance=0.04)
add("Int8Linear on rows", on((2, 5, 7), lambda: s.Int8Linear(7, 3)), tolerance=0.04)
add(
    "IntegerLinear on rows, signed",
    lambda: Model(
        [x := Input((9, 5)), z := Input(())],
        s.IntegerLinear(5, 4, signed=True)(s.Round()(x * 20.0), s.Round()(z)) * (1 / 4096.0),
    ),
)

# Frames that come later ---------------------------------------------------------------------------


def _branches_that_meet() -> Layer:
    x = Input(5)
    early = s.GRUCell(5, 5)(s.Conv1d(5, 5, 1, stride=2)(x))
    late = s.Tanh()(s.Align(1, 1, 2)(s.Conv1d(5, 5, 3, stride=2)(x)))
    return Model(x, late - s.Align(0, 3, 2)(early))


def _state_that_begins_later() -> Layer:
    x = Input(3)
    later = s.Align(2, 3)(x)
    return Model(x, s.LSTMCell(3, 7)(s.Delay(2)(later)))


add("Delay 1", on(7, lambda: s.Delay(1)))
add("Delay of numbers", on((), lambda: s.Delay(2)))
add("Align numbers", on((), lambda: s.Align(0, 4)))
add("Delay 40 of a matrix", on((3, 5), lambda: s.Delay(40)))
add("Align skip", on(7, lambda: s.Align(3)))
add("Align wait", on(7, lambda: s.Align(0, 4)))
add("Align skip and wait", on((2, 9), lambda: s.Align(2, 35)))
add("Align between frames", lambda: Sequential(s.Conv1d(3, 4, 2, stride=3), s.Align(1, 4, 3)))
add("Align branches that meet", _branches_that_meet)
add("Align states that begin later", _state_that_begins_later)

# Linear -------------------------------------------------------------------------------------------

for _I, _O in ((1, 1), (3, 1), (1, 20), (20, 100), (100, 33), (16, 64)):
    add(f"Linear {_I}-{_O}", functools.partial(s.Linear, _I, _O))
add("Linear no bias", lambda: s.Linear(20, 3, bias=False))
add("Linear on rows", on((5, 7), lambda: s.Linear(7, 3)))
add("Linear on rows of rows", on((2, 3, 4), lambda: s.Linear(4, 18)))

# Convolution over the stream ----------------------------------------------------------------------

_CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "1-1 k1": ((1, 1, 1), {}),
    "3-5 k3": ((3, 5, 3), {}),
    "20-17 k4": ((20, 17, 4), {}),
    "100-20 k2": ((100, 20, 2), {}),
    "3-1 k5 no bias": ((3, 1, 5), {"bias": False}),
    "k1 stride 2": ((3, 4, 1), {"stride": 2}),
    "k3 stride 2": ((3, 20, 3), {"stride": 2}),
    "k2 stride 5": ((3, 4, 2), {"stride": 5}),
    "k4 stride 3": ((20, 20, 4), {"stride": 3}),
    "k3 dilation 2": ((3, 20, 3), {"dilation": 2}),
    "k4 dilation 20": ((3, 5, 4), {"dilation": 20}),  # remembers more frames than a block has
    "k3 dilation 5 stride 3": ((3, 5, 3), {"dilation": 5, "stride": 3}),
    "groups 2": ((6, 10, 3), {"groups": 2}),
    "groups 3 stride 2 dilation 2": ((9, 6, 3), {"groups": 3, "stride": 2, "dilation": 2}),
    "groups 6 two outputs each": ((6, 12, 3), {"groups": 6}),
    "groups 2 of 17": ((8, 34, 2), {"groups": 2}),
    "depthwise 3": ((3, 3, 3), {"groups": 3}),
    "depthwise 20 no bias": ((20, 20, 4), {"groups": 20, "bias": False}),
    "depthwise 100 stride 2": ((100, 100, 3), {"groups": 100, "stride": 2}),
    "depthwise 33 dilation 3": ((33, 33, 3), {"groups": 33, "dilation": 3}),
    "k3 lookahead 2": ((3, 20, 3), {"lookahead": 2}),
    "k3 lookahead 40": ((3, 5, 3), {"lookahead": 40}),
    "k4 stride 3 lookahead 2": ((3, 5, 4), {"stride": 3, "lookahead": 2}),
    "k3 dilation 5 stride 3 lookahead 4": (
        (3, 5, 3),
        {"dilation": 5, "stride": 3, "lookahead": 4},
    ),
    "k1 lookahead 1": ((3, 4, 1), {"lookahead": 1}),
    "depthwise 20 stride 2 lookahead 3": (
        (20, 20, 3),
        {"groups": 20, "stride": 2, "lookahead": 3},
    ),
}
for _name, (_sizes, _options) in _CONVOLUTIONS.items():
    add(f"Conv1d {_name}", functools.partial(s.Conv1d, *_sizes, **_options))

add(
    "Conv1d looks ahead of one that looks ahead",
    lambda: Sequential(s.Conv1d(3, 5, 3, stride=2, lookahead=1), s.Conv1d(5, 4, 3, lookahead=1)),
)

# The last frames side by side ---------------------------------------------------------------------

add("Recent 1", on(7, lambda: s.Recent(1)))
add("Recent 3", on(7, lambda: s.Recent(3)))
add("Recent 3 of planes", on((2, 5, 3), lambda: s.Recent(3)))
add("Recent dilation 20", on((3, 5), lambda: s.Recent(4, dilation=20)))
add("Recent stride 3", on((3, 5), lambda: s.Recent(2, stride=3)))
add("Recent lookahead 3", on((3, 5), lambda: s.Recent(2, lookahead=3)))
add("Recent stride 2 dilation 3 lookahead 5", on((3, 5), lambda: s.Recent(4, 3, 2, 5)))
add("Recent one frame every 4", on((1, 20), lambda: s.Recent(1, stride=4, lookahead=2)))

# Convolution inside a frame -----------------------------------------------------------------------

_FRAME_CONVOLUTIONS: dict[str, tuple[int, tuple[int, int, int], dict[str, Any]]] = {
    "1-1 k1 L1": (1, (1, 1, 1), {}),
    "3-5 k3 L20": (20, (3, 5, 3), {}),
    "padding": (20, (3, 20, 3), {"padding": 1}),
    "L1 padding 1": (1, (3, 5, 3), {"padding": 1}),
    "L1 padding 5": (1, (3, 4, 3), {"padding": 5}),  # most windows see nothing but zeros
    "L2 k5 padding 2": (2, (2, 3, 5), {"padding": 2}),
    "stride 2": (21, (3, 5, 3), {"stride": 2}),
    "stride 2 padding 1": (33, (3, 5, 3), {"stride": 2, "padding": 1}),
    "stride 5 k2": (23, (2, 3, 2), {"stride": 5}),
    "dilation 3": (20, (3, 5, 3), {"dilation": 3}),
    "dilation 2 padding 4 stride 3": (17, (3, 5, 4), {"dilation": 2, "padding": 4, "stride": 3}),
    "dilation 4 L1 padding 4": (1, (3, 5, 3), {"dilation": 4, "padding": 4}),
    "groups 2": (11, (4, 6, 3), {"groups": 2, "padding": 1}),
    "groups 3 dilation 2": (11, (3, 9, 2), {"groups": 3, "dilation": 2}),
    "depthwise no bias": (9, (5, 5, 3), {"groups": 5, "bias": False}),
    "one output 100 taps": (128, (1, 1, 100), {"stride": 7}),
}
for _name, (_L, _sizes, _options) in _FRAME_CONVOLUTIONS.items():
    add(
        f"FrameConv1d {_name}",
        on((_sizes[0], _L), functools.partial(s.FrameConv1d, *_sizes, **_options)),
    )


@dataclass(eq=False, repr=False)
class _AsBuilt(Case):
    """A case whose builder sets the weights."""

    def fresh(self) -> Layer:
        return self.build()

    def again(self) -> Case:
        return _AsBuilt(self.name, self.build, self.tolerance, self.low, self.high)


def spectra(n: int, length: int, stride: int, padding: int) -> Layer:
    """Return a convolution that computes spectra of windows of n numbers, as Silero's does."""
    conv = s.FrameConv1d(
        1, 2 * (n // 2 + 1), n, stride=stride, padding=padding, bias=False, name="conv"
    )
    turns = np.outer(np.arange(n // 2 + 1), np.arange(n)) / n
    window = 0.3 + np.hanning(n)
    wave = np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)])
    model = Sequential(Input((1, length)), conv)
    model.load_state_dict({"conv.weight": (wave * window)[:, None].astype(np.float32)})
    return model


for _n, _stride, _padding in ((80, 30, 100), (75, 20, 7), (128, 64, 0)):
    CASES.append(
        _AsBuilt(
            f"FrameConv1d spectra {_n}",
            functools.partial(spectra, _n, 130, _stride, _padding),
            tolerance=1e-4,
        )
    )

_PLANE_CONVOLUTIONS: dict[
    str, tuple[tuple[int, ...], tuple[int, int, tuple[int, int]], dict[str, Any]]
] = {
    "1-1 k1 of one": ((1, 1, 1), (1, 1, (1, 1)), {}),
    "3-5 k2x3": ((3, 4, 20), (3, 5, (2, 3)), {}),
    "20-17 k3x1": ((20, 3, 9), (20, 17, (3, 1)), {}),
    "pointwise 16-33": ((16, 1, 33), (16, 33, (1, 1)), {"bias": False}),
    "outputs along the first axis": ((3, 20, 3), (3, 5, (3, 3)), {"stride": (2, 1)}),
    "padding 1 and 2": ((3, 4, 7), (3, 5, (3, 5)), {"padding": (1, 2)}),
    "padding on one side": ((3, 4, 7), (3, 20, (3, 2)), {"padding": (2, 0, 0, 1)}),
    "stride 2x3": ((3, 9, 11), (3, 5, (2, 3)), {"stride": (2, 3), "padding": (0, 1)}),
    "dilation 2x3": ((3, 9, 11), (3, 5, (3, 2)), {"dilation": (2, 3), "padding": (1, 1)}),
    "dilation 2 stride 2": ((3, 7, 9), (3, 5, (3, 3)), {"dilation": (1, 2), "stride": (2, 1)}),
    "sees only padding": ((2, 1, 1), (2, 3, (2, 3)), {"padding": (5, 4), "stride": (3, 2)}),
    "groups 2": ((4, 3, 9), (4, 6, (3, 3)), {"groups": 2, "padding": (1, 1)}),
    "groups 3 dilation 2": ((6, 3, 9), (6, 9, (2, 2)), {"groups": 3, "dilation": (1, 2)}),
    "depthwise 16": ((16, 3, 33), (16, 16, (3, 3)), {"groups": 16, "padding": (0, 1)}),
    "depthwise 33": ((33, 9, 3), (33, 33, (3, 1)), {"groups": 33, "stride": (2, 1)}),
    "depthwise dilation": ((5, 7, 9), (5, 5, (3, 3)), {"groups": 5, "dilation": (2, 1)}),
    "rows": ((2, 3, 4, 5), (3, 5, (3, 3)), {"padding": (1, 1)}),
    "rows of rows depthwise": ((2, 2, 3, 4, 5), (3, 3, (3, 2)), {"groups": 3}),
}
for _name, (_shape, _plane, _options) in _PLANE_CONVOLUTIONS.items():
    add(
        f"FrameConv2d {_name}",
        on(_shape, functools.partial(s.FrameConv2d, *_plane, **_options)),
    )

# Normalisation ------------------------------------------------------------------------------------

for _n in (3, 20, 33, 100):
    add(f"LayerNorm {_n}", functools.partial(s.LayerNorm, _n))
add("LayerNorm 1", lambda: s.LayerNorm(1))
add("LayerNorm two axes", lambda: s.LayerNorm((3, 7)))
add("LayerNorm rows", on((5, 20), lambda: s.LayerNorm(20)))
add("LayerNorm rows of two axes", on((2, 3, 7), lambda: s.LayerNorm((3, 7))))
add("LayerNorm no weights", lambda: s.LayerNorm(20, elementwise_affine=False))
add("LayerNorm eps", lambda: s.LayerNorm(7, eps=0.1))
for _n in (1, 3, 33):
    add(f"RMSNorm {_n}", functools.partial(s.RMSNorm, _n))
add("RMSNorm rows", on((5, 20), lambda: s.RMSNorm(20, eps=0.1)))
add("RMSNorm two axes", lambda: s.RMSNorm((3, 7), elementwise_affine=False))

for _n in (1, 20, 100):
    add(f"BatchNorm1d {_n}", functools.partial(s.BatchNorm1d, _n))
add("BatchNorm1d no weights", lambda: s.BatchNorm1d(7, affine=False, eps=1e-3))
add("BatchNorm1d channels", on((5, 7), lambda: s.BatchNorm1d(5)))
add("BatchNorm1d channels of planes", on((3, 2, 7), lambda: s.BatchNorm1d(3)))
add("BatchNorm1d behind Linear", lambda: Sequential(s.Linear(5, 20), s.BatchNorm1d(20)))
add(
    "BatchNorm1d behind Conv1d",
    lambda: Sequential(s.Conv1d(5, 9, 3, stride=2, bias=False), s.BatchNorm1d(9), s.ReLU()),
)
add(
    "BatchNorm1d behind FrameConv1d",
    on((3, 11), lambda: s.FrameConv1d(3, 4, 3, padding=1), lambda: s.BatchNorm1d(4, affine=False)),
)

add(
    "BatchNorm1d behind FrameConv2d",
    on((3, 4, 5), lambda: s.FrameConv2d(3, 4, (2, 3)), lambda: s.BatchNorm1d(4)),
)

# Embedding ----------------------------------------------------------------------------------------

add("Embedding 7-1", lambda: s.Embedding(7, 1))
add("Embedding 50-20", lambda: s.Embedding(50, 20))
add("Embedding 1-100", lambda: s.Embedding(1, 100))


def _embedded(shape: tuple[int, ...]) -> Callable[[], Layer]:
    def build() -> Layer:
        ids = Input(shape, dtype="int64")
        return Model(ids, s.Embedding(11, 5)(ids))

    return build


add("Embedding of 4", _embedded((4,)))
add("Embedding of (2, 3)", _embedded((2, 3)))
add("Embedding and GRU", lambda: Sequential(s.Embedding(30, 20), s.GRU(20, 9)))

# Moving numbers -----------------------------------------------------------------------------------

add("Reshape", on((4, 5), lambda: s.Reshape((2, 10))))
add("Reshape and Linear", on(12, lambda: s.Reshape((3, 4)), lambda: s.Linear(4, 5)))
add("Flatten", on((3, 7), s.Flatten))
add("Flatten and Tanh", on((3, 7), s.Flatten, s.Tanh))
add("Slice", on(20, lambda: s.Slice(3, 9)))
add("Slice to one", on(20, lambda: s.Slice(-1, 20)))
add("Slice negative", on(20, lambda: s.Slice(-7, -2)))
add("Slice axis 1", on((4, 9), lambda: s.Slice(2, 5, axis=1)))
add("Slice last axis negative", on((2, 3, 9), lambda: s.Slice(-4, 9, axis=-1)))
add("Slice of a slice and ReLU", on(40, lambda: s.Slice(3, 30), lambda: s.Slice(5, 22), s.ReLU))
add("Transpose", on((4, 7), s.Transpose))
add("Transpose three axes", on((2, 3, 5), lambda: s.Transpose((2, 0, 1))))
add("Transpose nothing", on((2, 3), lambda: s.Transpose((0, 1))))
add("Transpose of one row", on((1, 9), s.Transpose, s.Tanh))
add("Expand", on((1, 7), lambda: s.Expand((5, 7))))
add("Expand inner", on((4, 1), lambda: s.Expand((4, 9))))
add("Expand with a new axis", on(3, lambda: s.Expand((2, 5, 3))))
add("Expand one number", on(1, lambda: s.Expand((20,))))
add("Pad", on(7, lambda: s.Pad(2, 3)))
add("Pad before only", on((2, 5), lambda: s.Pad(4, 0)))
add("Pad reflect", on(9, lambda: s.Pad(3, 5, mode="reflect")))
add("Pad reflect rows", on((3, 20), lambda: s.Pad(0, 4, mode="reflect")))
add("Pad replicate", on((2, 4), lambda: s.Pad(3, 2, mode="replicate")))
add("Pad one number", on(1, lambda: s.Pad(2, 2, mode="replicate")))


def _joined(axis: int, *shapes: tuple[int, ...]) -> Callable[[], Layer]:
    def build() -> Layer:
        inputs = [Input(shape) for shape in shapes]
        return Model(inputs, concat(*inputs, axis=axis))

    return build


add("Concat", _joined(0, (3,), (20,), (1,)))
add("Concat axis 0 of planes", _joined(0, (2, 5), (3, 5)))
add("Concat axis 1", _joined(1, (4, 3), (4, 7)))
add("Concat last axis", _joined(-1, (2, 3, 4), (2, 3, 1), (2, 3, 2)))

for _past, _n in ((1, 1), (5, 3), (3, 5), (64, 20), (4, 16)):
    add(f"Context {_past} before {_n}", on(_n, functools.partial(s.Context, _past)))

# Reductions ---------------------------------------------------------------------------------------

for _kind in (s.Mean, s.Sum, s.Max, s.Min, s.Prod, s.ArgMax, s.ArgMin):
    add(f"{_kind.__name__} to a number", on(7, _kind))
    for _axis in (0, 1, -1):
        for _keep in (False, True):
            add(
                f"{_kind.__name__} axis {_axis}{' keepdims' if _keep else ''}",
                on((3, 2, 5), functools.partial(_kind, axis=_axis, keepdims=_keep)),
            )

add("ArgMax of several alike", on((5, 20), s.Round, lambda: s.ArgMax(0)))
add("ArgMin last of several alike", on((5, 20), s.Round, lambda: s.ArgMin(0, False, True)))
add("CumSum", on(20, s.CumSum))
add("CumSum exclusive axis 0", on((5, 3), lambda: s.CumSum(0, exclusive=True)))
add("CumSum reverse axis 1", on((2, 7, 3), lambda: s.CumSum(1, reverse=True)))
add("CumSum exclusive reverse", on((2, 7), lambda: s.CumSum(-1, exclusive=True, reverse=True)))

# Over time ----------------------------------------------------------------------------------------


def _pooled(kind: Callable[[], Layer]) -> Layer:
    return Sequential(s.Conv1d(3, 20, 3, stride=2), s.GRU(20, 9), kind(), s.Linear(9, 4))


def _pooled_later() -> Layer:
    x = Input(5)
    later = s.Align(2, 3)(x)
    return Model(x, s.MeanOverTime()(later) + s.MaxOverTime()(later))


for _kind in (s.MeanOverTime, s.MaxOverTime):
    for _shape in (1, 3, 20, 100, (2, 9), ()):
        add(f"{_kind.__name__} {_shape}", on(_shape, _kind))
    add(f"{_kind.__name__} of a slower value", functools.partial(_pooled, _kind))
add("MeanOverTime and MaxOverTime that begin later", _pooled_later)

# Activations --------------------------------------------------------------------------------------

for _kind in (
    s.ReLU,
    s.LeakyReLU,
    s.ELU,
    s.SELU,
    s.Tanh,
    s.Sigmoid,
    s.SiLU,
    s.GELU,
    s.Softplus,
    s.LogSigmoid,
    s.Mish,
    s.Softsign,
    s.Hardsigmoid,
    s.Hardtanh,
    s.ReLU6,
    s.Hardswish,
    s.Erf,
    s.Exp,
    s.Abs,
    s.Square,
    s.Softmax,
    s.LogSoftmax,
):
    for _n in (1, 3, 100):
        add(f"{_kind.__name__} {_n}", on(_n, _kind))
for _n in (1, 20):
    add(f"Log {_n}", on(_n, s.Log), low=1e-3)
    add(f"Sqrt {_n}", on(_n, s.Sqrt), low=0.0)
add("LeakyReLU 0.3", on((2, 7), lambda: s.LeakyReLU(0.3)))
add("PReLU one weight", on((2, 7), s.PReLU))
add("PReLU 20", on(20, lambda: s.PReLU(20)))
add("PReLU channels", on((3, 7), lambda: s.PReLU(3, init=0.1)))
add("ELU 0.5", on(20, lambda: s.ELU(0.5)))
add("GELU tanh", on(20, lambda: s.GELU("tanh")))
add("Hardsigmoid of Keras 2", on(20, lambda: s.Hardsigmoid(0.2, 0.5)))
add("Hardtanh uneven", on(20, lambda: s.Hardtanh(-2.0, 0.5)))
for _axis in (0, 1, -2):
    add(f"Softmax axis {_axis}", on((4, 7), functools.partial(s.Softmax, _axis)))
add("LogSoftmax axis 0", on((4, 7), lambda: s.LogSoftmax(0)))

_RANGES = {
    s.Acos: (-0.99, 0.99),
    s.Acosh: (1.01, 9.0),
    s.Asin: (-0.99, 0.99),
    s.Asinh: (None, 3.0),
    s.Atan: (None, 3.0),
    s.Atanh: (-0.99, 0.99),
    s.Ceil: (None, 3.0),
    s.Cos: (-50.0, 50.0),
    s.Cosh: (None, 3.0),
    s.Floor: (None, 3.0),
    s.IsInf: (None, 3.0),
    s.IsNaN: (None, 3.0),
    s.Reciprocal: (0.5, 3.0),
    s.Round: (None, 3.0),
    s.Sign: (None, 3.0),
    s.Sin: (-50.0, 50.0),
    s.Sinh: (None, 3.0),
    s.Tan: (-1.5, 1.5),
    s.Trunc: (None, 3.0),
}
for _kind, (_low, _high) in _RANGES.items():
    for _n in (1, 20):
        add(f"{_kind.__name__} {_n}", on(_n, _kind), low=_low, high=_high)

# Arithmetic ---------------------------------------------------------------------------------------


def _pair(kind: Callable[[], Layer], shape: tuple[int, ...]) -> Callable[[], Layer]:
    def build() -> Layer:
        a, b = Input(shape), Input(shape)
        return Model((a, b), kind()(a, b))

    return build


for _kind in (s.Add, s.Sub, s.Mul, s.Div):
    for _shape in ((1,), (20,), (3, 7), (100,)):
        add(
            f"{_kind.__name__} {_shape}",
            _pair(_kind, _shape),
            low=0.5 if _kind is s.Div else None,  # a quotient by almost 0 is a matter of its own
        )
for _n in (1, 3, 20):
    add(f"Scale {_n}", on(_n, lambda: s.Scale(-2.5, 0.75)))

for _kind in (s.Maximum, s.Minimum, s.Less, s.LessOrEqual, s.Equal):
    for _shape in ((1,), (3, 7)):
        add(f"{_kind.__name__} {_shape}", _pair(_kind, _shape))
add("Equal numbers", on(33, s.Round, lambda: _with_itself_turned()))
add("Pow", _pair(s.Pow, (20,)), low=0.1)
add("Mod", _pair(s.Mod, (20,)), low=0.5, high=9.0)
add("Mod with the sign of the divisor", _pair(lambda: s.Mod(fmod=False), (3, 7)))


def _with_itself_turned() -> Layer:
    x = Input((33,))
    turned = s.Take(tuple(range(32, -1, -1)))(x)
    return Model(x, s.Equal()(x, turned) + s.LessOrEqual()(x, turned))


def _chosen() -> Layer:
    c, a, b = Input(20), Input(20), Input(20)
    return Model([c, a, b], s.Where()(s.ReLU()(c), a, b))


add("Where", _chosen)
for _shape in ((20,), (1,), (5, 1), (3, 1, 1), (3, 5, 20), (5, 20)):
    add(f"Affine {_shape}", on((3, 5, 20), functools.partial(s.Affine, _shape)))
add("Affine behind Linear", lambda: Sequential(s.Linear(5, 20), s.Affine(20), s.Affine((1,))))
add("Affine chain behind Linear", lambda: Sequential(s.Linear(5, 20), s.Affine(20), s.Affine(20)))
add("Affine rows behind Linear", on((3, 5), lambda: s.Linear(5, 7), lambda: s.Affine((3, 1))))


def _product(*shapes: tuple[int, ...]) -> Callable[[], Layer]:
    def build() -> Layer:
        a, b = (Input(shape) for shape in shapes)
        return Model([a, b], s.MatMul()(a, b))

    return build


add("MatMul", _product((3, 5), (5, 20)))
add("MatMul of vectors", _product((1, 20), (20, 1)))
add("MatMul planes", _product((2, 4, 3, 7), (2, 4, 7, 33)))

add("Atan2", _pair(s.Atan2, (20,)))

# Front ends ---------------------------------------------------------------------------------------

for _n in (1, 3, 12, 30, 100, 256):  # every radix, less than a vector and many
    add(f"RFFT {_n}", on(_n, functools.partial(s.RFFT, _n)), tolerance=1e-5 * max(1, _n / 64))
    add(f"IRFFT {_n}", functools.partial(s.IRFFT, _n))
add("RFFT 7 by the matrix", on(7, lambda: s.RFFT(7)))
add("RFFT 22 of 20 by the matrix", on(20, lambda: s.RFFT(22)))
add("IRFFT 22 by the matrix", lambda: s.IRFFT(22))
add("RFFT 64 of 50", on(50, lambda: s.RFFT(64)))
add("Window", lambda: s.Window(33))
add("Window of one", lambda: s.Window(1))
add("Window symmetric in the middle", lambda: s.Window(20, "blackman", 9, periodic=False))
add("Window for synthesis", lambda: s.Window(20, "hamming", overlap=7))
add("MelFilterbank", lambda: s.MelFilterbank(20, 256, 16000.0))
add("MelFilterbank on rows", on((3, 33), lambda: s.MelFilterbank(3, 64, 8000.0, norm="none")))
add("DCT", lambda: s.DCT(20, 20))
add("DCT liftered", lambda: s.DCT(33, 13, 22.0))
for _n, _hop in ((1, 1), (20, 20), (33, 10), (7, 6)):
    add(f"OverlapAdd {_n} {_hop}", functools.partial(s.OverlapAdd, _n, _hop))
for _n in (1, 33):
    add(f"Deltas {_n}", on(_n, s.Deltas))
    add(f"ExponentialMean {_n}", on(_n, lambda: s.ExponentialMean(0.2)))
    add(f"RunningNorm {_n}", on(_n, s.RunningNorm), tolerance=1e-4)
add("Deltas over 41 frames", on(3, lambda: s.Deltas(41)))
add("Deltas behind a look-ahead", lambda: Sequential(s.Conv1d(3, 4, 3, lookahead=2), s.Deltas(3)))
add("ExponentialMean of planes", on((3, 7), lambda: s.ExponentialMean(1.0)))
add("RunningNorm forgetful", on(20, lambda: s.RunningNorm(5)), tolerance=1e-4)
add("RunningNorm mean only", on((3, 7), lambda: s.RunningNorm(variance=False)))
add("RunningNorm of a number", on((), lambda: s.RunningNorm(9)), tolerance=1e-4)


for _n in (1, 33):
    add(f"SlidingNorm {_n}", on(_n, lambda: s.SlidingNorm(7)), tolerance=1e-4)
add("SlidingNorm mean only", on((3, 7), lambda: s.SlidingNorm(40, variance=False)))
add("SlidingNorm of one", on(1, lambda: s.SlidingNorm(2, eps=0.1)))


def _strided_statistics() -> Layer:
    """States that change twice in a call of the step graph."""
    return Sequential(
        s.ExponentialMean(0.3),
        s.RunningNorm(7, eps=0.1),
        s.SlidingNorm(5, eps=0.1),
        s.OverlapAdd(5, 2),
        s.Deltas(5),
        s.Conv1d(2, 3, 2, stride=2),
    )


def _masked() -> Layer:
    """A mask for each bin, from the magnitudes, by a GRU; and back to samples."""
    x = Input(8)
    spectrum = fe.STFT(32, 8, padding="causal")(x)
    mask = s.Sigmoid()(s.Linear(5, 17)(s.GRUCell(17, 5)(fe.Magnitude()(spectrum))))
    return Model(x, fe.ISTFT(32, 8, padding="causal")(spectrum * mask))


add("statistics before a stride", lambda: Sequential(Input(5), _strided_statistics()))
for _length, _hop, _padding in ((12, 5, 0), (12, 4, "causal"), (3, 5, 0), (33, 5, "center")):
    add(
        f"Frames {_length} {_hop} {_padding}", functools.partial(fe.Frames, _length, _hop, _padding)
    )
add("Frames 1 1", lambda: fe.Frames(1, 1))
add("PreEmphasis", on(7, fe.PreEmphasis))
add("RemoveMean", on(7, fe.RemoveMean))
add("STFT", lambda: fe.STFT(60, 20, 50))
add("STFT and back", lambda: Sequential(fe.STFT(32, 8), fe.ISTFT(32, 8)))
add("STFT, a mask and back", _masked)
add("Power", on((2, 9), fe.Power))
add("Magnitude", on((2, 9), fe.Magnitude))
add("Phase", on((2, 9), fe.Phase))
add("Decibels", on(20, fe.Decibels), low=1e-3)
add("Mel", lambda: fe.Mel(8000, 100, 40, 9))
for _style in ("librosa", "torchaudio", "kaldi"):
    add(
        f"LogMel {_style}",
        functools.partial(fe.LogMel, 8000, 128, 40, 20, _style, win_length=100, padding="causal"),
    )
add("LogMel and GRU", lambda: Sequential(fe.LogMel(8000, 100, 40, 9), s.RunningNorm(), s.GRU(9, 5)))
add("MFCC", lambda: fe.MFCC(8000, 128, 50, 20))
add(
    "MFCC kaldi energy",
    lambda: fe.MFCC(8000, 64, 25, 12, "kaldi", n_mfcc=7, use_energy=True),
    tolerance=1e-4,  # the lifter makes twelve times as much of an error
)
add("WithDeltas", on(9, fe.WithDeltas))
add("WithDeltas of MFCC", lambda: Sequential(fe.MFCC(8000, 64, 25, 14), fe.WithDeltas(1, 9)))
add("PCEN", on(20, lambda: fe.PCEN(16000, 160)), low=0.0)

# Butterworth, 0.1 and 0.3 of the sample rate: the sections of a band-pass of order 4
_SOS = (
    (0.2066, 0.4131, 0.2066, 1.0, -0.3695, 0.1958),
    (1.0, -2.0, 1.0, 1.0, -1.1905, 0.4903),
)
for _n in (1, 3, 20):
    add(f"SOSFilter {_n}", on(_n, lambda: s.SOSFilter(_SOS)))
add("SOSFilter blocks", on(20, lambda: s.SOSFilter(_SOS, blocks=True)))
add("SOSFilter of one section", on(7, lambda: s.SOSFilter(_SOS[0], blocks=True)))
add("SOSFilter before a stride", on(3, lambda: s.SOSFilter(_SOS), lambda: s.Conv1d(3, 2, 2, 2)))

# Graphs -------------------------------------------------------------------------------------------


def _skip() -> Layer:
    x = Input(20)
    a = s.GRUCell(20, 20)(x) + x
    b = s.Tanh()(s.Linear(20, 20)(a)) + a
    return Model(x, s.Linear(40, 3)(concat(b, x)))


def _rnnoise() -> Layer:
    """RNNoise's graph in small: two convolutions, three GRUs, all four side by side, two heads."""
    x = Input(13)
    value = s.Tanh()(s.Conv1d(13, 12, 3)(x))
    value = s.Tanh()(s.Conv1d(12, 20, 3)(value))
    parts = [value]
    for _ in range(3):
        parts.append(s.GRUCell(20, 20)(parts[-1]))
    every = concat(*parts)
    gains = s.Sigmoid()(s.Linear(80, 9)(every))
    vad = s.Sigmoid()(s.Linear(80, 1)(every))
    return Model({"features": x}, {"gains": gains, "vad": vad})


def _front_end() -> Layer:
    """A strided front end, with a GRU that runs at a sixth of the rate."""
    return Sequential(
        s.Conv1d(3, 8, 5, stride=2),
        s.ReLU(),
        s.Conv1d(8, 20, 3, stride=3),
        s.BatchNorm1d(20),
        s.ReLU(),
        s.GRU(20, 17, num_layers=2),
        s.Linear(17, 4),
    )


def _spectral() -> Layer:
    """Silero's shape in small: context, padding, a convolution in the frame, magnitudes, LSTM."""
    x = Input(32)
    frame = s.Pad(0, 8, mode="reflect")(s.Context(8)(x))
    bins = s.FrameConv1d(1, 10, 16, stride=8, bias=False)(s.Reshape((1, 48))(frame))
    power = s.Sqrt()(s.Square()(bins[:5]) + s.Square()(bins[5:]) + 1e-3)
    value = s.ReLU()(s.FrameConv1d(5, 9, 3, stride=2, padding=1)(power))
    value = s.LSTMCell(9, 11)(s.Flatten()(s.Mean(axis=1)(value)))
    return Model(x, s.Sigmoid()(s.Linear(11, 1)(s.ReLU()(value))))


def _two_inputs() -> Layer:
    x, speaker = Input(10), Input((2, 3))
    mixed = concat(x, s.Flatten()(speaker))
    return Model({"x": x, "speaker": speaker}, s.Linear(9, 5)(s.LSTM(16, 9)(mixed)))


def _words_and_numbers() -> Layer:
    ids, x = Input((), dtype="int64"), Input(5)
    return Model([ids, x], s.GRUCell(8, 7)(concat(s.Embedding(9, 3)(ids), x)))


def _nested() -> Layer:
    y = Input(8)
    inner = Model(y, s.RNNCell(8, 8)(y) * 0.5 + y)
    block = Sequential(s.Linear(5, 8), s.ReLU(), inner)
    return Sequential(block, Sequential(s.GRU(8, 6), s.LayerNorm(6)))


def _model_in_front() -> Layer:
    ids = Input((), dtype="int64")
    return Sequential(Model(ids, s.Embedding(9, 4)(ids)), s.RNNCell(4, 5))


def _shared_cell() -> Layer:
    """One cell in two places: the weights are shared, each place has a state of its own."""
    a, b = Input(5), Input(5)
    cell = s.GRUCell(5, 9, name="twin")
    return Model((a, b), cell(a) - cell(b))


def _shared_unnamed() -> Layer:
    x = Input(6)
    layer, cell = s.Linear(6, 6), s.LSTMCell(6, 6)
    return Model(x, cell(layer(s.Tanh()(cell(layer(x))))))


def _outputs() -> Layer:
    """Outputs that are an input, a view, the same value twice, and planes."""
    x = Input((4, 5))
    y = s.Tanh()(x)
    return Model(
        x, {"handed_on": x, "row": y[1:2], "again": y, "same": y, "turned": s.Transpose()(y)}
    )


def _broadcast() -> Layer:
    x = Input((3, 7))
    row, column = x[:1], s.Mean(axis=1, keepdims=True)(x)
    return Model(x, (x - column) * row / 2.0 + (1.0 - x) * 0.25)


def _feedback() -> Layer:
    """A recurrence that is no cell, two values kept, one of which is an input."""
    x = Input(3)
    h, before = s.Past(5, name="memory")(), s.Past(3)()
    new = s.Tanh()(s.Linear(6, 5)(concat(x, before)) + s.Linear(5, 5)(h))
    return Model(x, s.GRUCell(5, 4)(new), feedback={h: new, before: x})


def _feedback_of_planes() -> Layer:
    x = Input((2, 3))
    mean = s.Past((2, 3))()
    kept = mean * 0.9 + x * 0.1
    return Model(x, x - kept, feedback={mean: kept})


def _constant_before_a_stride() -> Layer:
    x = Input(5)
    return Model(x, s.Conv1d(5, 2, 3, stride=2)(x - s.Constant(5)()))


def _two_rates_inside() -> Layer:
    """Two branches of one rate, reached in different ways."""
    x = Input(4)
    a = s.Conv1d(4, 6, 2, stride=6)(x)
    b = s.Conv1d(6, 6, 2, stride=3)(s.Conv1d(4, 6, 3, stride=2)(x))
    return Model(x, [s.GRUCell(6, 6)(a) + b, concat(a, b)])


def _large_frames() -> Layer:
    """Frames so large that a block holds few of them."""
    x = Input(50_000)
    y = s.Scale(0.5)(x)
    return Model(x, concat(s.Tanh()(y)[:7], s.Mean(keepdims=True)(y), y[-3:]))


def _many_branches() -> Layer:
    """Values with long and short lives, so that places in scratch are reused in many ways."""
    x = Input(20)
    kept = s.Tanh()(x)
    a = s.Sigmoid()(x)
    b = s.ReLU()(a) + kept
    c = concat(a, b)[10:30]
    d = s.Linear(20, 20)(c) * b
    e = s.Conv1d(20, 20, 3, groups=20)(d)
    return Model(x, [s.RNNCell(20, 20)(e) - kept, c, d[:3]])


add("skip connections", _skip)
add("rnnoise", _rnnoise)
add("strided front end and GRU", _front_end)
add("spectral front end and LSTM", _spectral)
add("two inputs", _two_inputs)
add("indices and numbers", _words_and_numbers)
add("nested models", _nested)
add("a model in front", _model_in_front)
add("a cell in two places", _shared_cell)
add("layers in two places without names", _shared_unnamed)
add("outputs of all kinds", _outputs)
add("broadcasting", _broadcast)
add("Take", on((4, 5), lambda: s.Take((3, 0, 0, -2))))
add("Take last axis", on((4, 5), lambda: s.Take((4, 1, -1), -1)))
add("Take one", on(7, lambda: s.Take((2,))))
add("Constant", lambda: Model(x := Input((3, 4)), x * s.Constant((3, 4))() + s.Constant((1, 4))()))
add("Constant before a stride", _constant_before_a_stride)
add("feedback", _feedback)
add("feedback of planes", _feedback_of_planes)
add(
    "LSTM variant",
    lambda: s.LSTMVariant(5, 7, proj_size=3, peepholes=True, gate=s.Hardsigmoid(0.2), name="cell"),
)
add(
    "variants in a chain",
    lambda: Sequential(
        s.GRUVariant(3, 20, reset_after=False, candidate=s.Softsign()),
        s.RNNVariant(20, 3, candidate=s.ELU()),
    ),
)
add("two ways to one rate", _two_rates_inside)
add("large frames", _large_frames)
add("many branches", _many_branches)
add("nothing but an input", lambda: (lambda x: Model(x, x))(Input(5)))


def find(name: str) -> Case:
    """Return the case of this name."""
    return next(case for case in CASES if case.name == name)
