"""Every layer that torch has, against torch in float64, with the weights copied by name.

torch computes in float64 from the same float32 weights, so what is measured is our own error. The
tolerance of 1e-5, absolute below 1 and relative above, is that of the promise on accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, run_in_pieces, run_in_steps
from streamrnn import Input, Layer, Sequential

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")

T = 70


def _randomised(module: Any, seed: int = 0) -> Any:
    """Give a torch module weights that differ, and statistics that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.8 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.5
            centre = 1.0 if name == "weight" and parameter.ndim == 1 else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module.eval()


def _copied(module: Any, layer: Layer) -> Layer:
    """Copy the weights of a torch module by name; its counter of batches is not a weight."""
    weights = {
        n: w for n, w in module.state_dict().items() if not n.endswith("num_batches_tracked")
    }
    layer.load_state_dict(weights)
    return layer


def _frames(*shape: int, seed: int = 0) -> np.ndarray:
    return (1.5 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def _torch(function: Callable[[Any], Any], xs: np.ndarray) -> np.ndarray:
    """Return what a torch module or function gives for `xs`, in float64."""
    with torch.no_grad():
        module = function.double() if isinstance(function, torch.nn.Module) else function
        result = module(torch.from_numpy(xs.astype(np.float64)))
    return (result[0] if isinstance(result, tuple) else result).numpy()


# Recurrent layers ---------------------------------------------------------------------------------

RECURRENT: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "RNN tanh": (torch.nn.RNN, s.RNN, {}),
    "RNN relu": (torch.nn.RNN, s.RNN, {"nonlinearity": "relu"}),
    "GRU": (torch.nn.GRU, s.GRU, {}),
    "LSTM": (torch.nn.LSTM, s.LSTM, {}),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 20), (20, 3), (40, 100)])
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_stacks(kind: str, sizes: tuple[int, int], layers: int, bias: bool) -> None:
    theirs, ours, options = RECURRENT[kind]
    module = _randomised(theirs(*sizes, num_layers=layers, bias=bias, **options))
    layer = _copied(module, ours(*sizes, num_layers=layers, bias=bias, **options))
    xs = _frames(T, sizes[0])
    stream = layer.stream()
    wanted = _torch(module, xs)
    assert_close(run_in_pieces(stream, xs, [1, 0, 36, 33]), wanted, 1e-5)
    with torch.no_grad():
        _, last = module(torch.from_numpy(xs.astype(np.float64)))
    last = last if isinstance(last, tuple) else (last,)
    prefix = kind.split()[0].lower()
    for letter, states in zip("hc", last, strict=False):
        for k in range(layers):
            got = stream.state[f"{prefix}_{k}.{letter}"]
            assert_close(got, states[k].numpy(), 1e-5, f"{letter} of layer {k}")


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cells_step_by_step(kind: str) -> None:
    module = _randomised(getattr(torch.nn, f"{kind}Cell")(5, 20))
    cell = _copied(module, getattr(s, f"{kind}Cell")(5, 20))
    module.double()
    state = None
    for x in _frames(T, 5):
        with torch.no_grad():
            state = module(
                torch.from_numpy(x.astype(np.float64))[None], *(() if state is None else (state,))
            )
        h = state[0] if isinstance(state, tuple) else state
        assert_close(cell.step(x), h[0].numpy(), 1e-5)


def test_initial_states_carry_over() -> None:
    module = _randomised(torch.nn.LSTM(3, 20)).double()
    layer = _copied(module, s.LSTM(3, 20))
    h, c = _frames(20, seed=1), 3 * _frames(20, seed=2)
    xs = _frames(T, 3)
    with torch.no_grad():
        start = tuple(torch.from_numpy(a.astype(np.float64))[None] for a in (h, c))
        wanted = module(torch.from_numpy(xs.astype(np.float64)), start)[0].numpy()
    stream = layer.stream()
    stream.state = {"lstm_0.h": h, "lstm_0.c": c}
    assert_close(stream.run(xs), wanted, 1e-5)


# Layers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 20), (100, 33)])
def test_linear(sizes: tuple[int, int], bias: bool) -> None:
    module = _randomised(torch.nn.Linear(*sizes, bias=bias))
    layer = _copied(module, s.Linear(*sizes, bias=bias))
    xs = _frames(T, sizes[0])
    assert_close(layer.stream().run(xs), _torch(module, xs), 1e-5)


@pytest.mark.parametrize("groups", [1, 2, 6], ids="groups {}".format)
@pytest.mark.parametrize("dilation", [1, 3], ids="dilation {}".format)
@pytest.mark.parametrize("stride", [1, 2, 5], ids="stride {}".format)
@pytest.mark.parametrize("taps", [1, 2, 5], ids="k{}".format)
def test_causal_convolution(taps: int, stride: int, dilation: int, groups: int) -> None:
    """torch's Conv1d on a sequence padded on the left only."""
    options = {"stride": stride, "dilation": dilation, "groups": groups, "bias": groups != 2}
    module = _randomised(torch.nn.Conv1d(6, 12, taps, **options))
    layer = _copied(module, s.Conv1d(6, 12, taps, **options))
    xs = _frames(T, 6)
    padded = np.concatenate([np.zeros((dilation * (taps - 1), 6), np.float32), xs])
    wanted = _torch(module, padded.T[None])[0].T
    assert_close(layer.stream().run(xs), wanted, 1e-5)
    assert_close(run_in_steps(layer.stream(), xs), wanted, 1e-5)


def test_depthwise_convolution() -> None:
    module = _randomised(torch.nn.Conv1d(20, 20, 4, groups=20))
    layer = _copied(module, s.Conv1d(20, 20, 4, groups=20))
    xs = _frames(T, 20)
    padded = np.concatenate([np.zeros((3, 20), np.float32), xs])
    assert_close(layer.stream().run(xs), _torch(module, padded.T[None])[0].T, 1e-5)


def test_convolution_that_looks_ahead() -> None:
    module = _randomised(torch.nn.Conv1d(5, 7, 5, padding=2, stride=2))
    layer = _copied(module, s.Conv1d(5, 7, 5, stride=2, lookahead=2))
    xs = _frames(T, 5)
    got = layer.stream().run(xs)
    assert layer.delay_frames == 2
    assert_close(got, _torch(module, xs.T[None])[0].T[: len(got)], 1e-5)


@pytest.mark.parametrize("L", [1, 7, 20])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 2},
        {"stride": 3, "padding": 1},
        {"dilation": 2, "padding": 4},
        {"groups": 2, "padding": 5, "stride": 2},
        {"groups": 4, "bias": False, "padding": 1},
    ],
    ids=str,
)
def test_convolution_inside_a_frame(L: int, options: dict[str, Any]) -> None:
    module = _randomised(torch.nn.Conv1d(4, 8, 3, **options))
    layer = _copied(module, s.FrameConv1d(4, 8, 3, **options))
    xs = _frames(9, 4, L)
    got = Sequential(Input((4, L)), layer).stream().run(xs)
    assert_close(got, _torch(module, xs), 1e-5)


@pytest.mark.parametrize("size", [(5, 40), (20, 3), (4, 4)])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": (2, 1)},
        {"stride": (2, 3), "padding": (1, 0)},
        {"dilation": (1, 2), "padding": (1, 2), "groups": 2},
        {"groups": 4, "bias": False, "padding": (1, 1)},
    ],
    ids=str,
)
def test_convolution_over_two_axes_of_a_frame(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    module = _randomised(torch.nn.Conv2d(4, 8, (3, 2), **options))
    layer = _copied(module, s.FrameConv2d(4, 8, (3, 2), **options))
    xs = _frames(9, 4, *size)
    got = Sequential(Input((4, *size)), layer).stream().run(xs)
    assert_close(got, _torch(module, xs), 1e-5)


@pytest.mark.parametrize("shape", [(3,), (20,), (33,), (3, 7), (2, 3, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(shape: tuple[int, ...], affine: bool) -> None:
    module = _randomised(torch.nn.LayerNorm(shape, eps=1e-3, elementwise_affine=affine))
    layer = _copied(module, s.LayerNorm(shape, eps=1e-3, elementwise_affine=affine))
    xs = 3 + _frames(T, *shape)
    assert_close(layer.stream().run(xs), _torch(module, xs), 1e-5)
    rows = 3 + _frames(9, 4, *shape)
    got = Sequential(Input((4, *shape)), layer).stream().run(rows)
    assert_close(got, _torch(module, rows), 1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_evaluation(affine: bool) -> None:
    module = _randomised(torch.nn.BatchNorm1d(7, eps=1e-3, affine=affine))
    layer = _copied(module, s.BatchNorm1d(7, eps=1e-3, affine=affine))
    xs, planes = _frames(T, 7), _frames(9, 7, 4)
    assert_close(layer.stream().run(xs), _torch(module, xs), 1e-5)
    got = Sequential(Input((7, 4)), layer).stream().run(planes)
    assert_close(got, _torch(module, planes), 1e-5)


def test_batch_norm_names_what_it_does_not_take() -> None:
    with pytest.raises(s.WeightError, match="unknown: num_batches_tracked"):
        s.BatchNorm1d(7).load_state_dict(torch.nn.BatchNorm1d(7).state_dict())


def test_folded_batch_norm() -> None:
    theirs = _randomised(
        torch.nn.Sequential(torch.nn.Linear(5, 20), torch.nn.BatchNorm1d(20), torch.nn.ReLU())
    )
    ours = Sequential(s.Linear(5, 20), s.BatchNorm1d(20), s.ReLU())
    _copied(theirs, ours)
    xs = _frames(T, 5)
    assert_close(ours.stream().run(xs), _torch(theirs, xs), 1e-5)


def test_embedding() -> None:
    module = _randomised(torch.nn.Embedding(30, 7))
    layer = _copied(module, s.Embedding(30, 7))
    ids = np.random.default_rng(0).integers(0, 30, T)
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids)).numpy()
    assert np.array_equal(layer.stream().run(ids), wanted)


# Activations --------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, tuple[Layer, Callable[[Any], Any]]] = {
    "ReLU": (s.ReLU(), torch.nn.ReLU()),
    "LeakyReLU": (s.LeakyReLU(), torch.nn.LeakyReLU()),
    "LeakyReLU 0.2": (s.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
    "ELU": (s.ELU(), torch.nn.ELU()),
    "ELU 0.5": (s.ELU(0.5), torch.nn.ELU(0.5)),
    "SELU": (s.SELU(), torch.nn.SELU()),
    "Tanh": (s.Tanh(), torch.nn.Tanh()),
    "Sigmoid": (s.Sigmoid(), torch.nn.Sigmoid()),
    "SiLU": (s.SiLU(), torch.nn.SiLU()),
    "GELU": (s.GELU(), torch.nn.GELU()),
    "GELU tanh": (s.GELU("tanh"), torch.nn.GELU(approximate="tanh")),
    "Softplus": (s.Softplus(), torch.nn.Softplus()),
    "LogSigmoid": (s.LogSigmoid(), torch.nn.LogSigmoid()),
    "Mish": (s.Mish(), torch.nn.Mish()),
    "Softsign": (s.Softsign(), torch.nn.Softsign()),
    "Hardsigmoid": (s.Hardsigmoid(), torch.nn.Hardsigmoid()),
    "Hardtanh": (s.Hardtanh(), torch.nn.Hardtanh()),
    "Hardtanh uneven": (s.Hardtanh(-2.0, 0.5), torch.nn.Hardtanh(-2.0, 0.5)),
    "ReLU6": (s.ReLU6(), torch.nn.ReLU6()),
    "Hardswish": (s.Hardswish(), torch.nn.Hardswish()),
    "Exp": (s.Exp(), torch.exp),
    "Abs": (s.Abs(), torch.abs),
    "Square": (s.Square(), torch.square),
    "Softmax": (s.Softmax(), torch.nn.Softmax(-1)),
    "LogSoftmax": (s.LogSoftmax(), torch.nn.LogSoftmax(-1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    ours, theirs = ACTIVATIONS[name]
    edges = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 0.5, 2.5, -2.5, 20.0, -20.0, 1e-6, -1e-6, 1e-30]
    wide = 4 * _frames(20, 15)
    xs = np.concatenate([wide, np.array([edges], np.float32)])
    assert_close(Sequential(Input(15), ours).stream().run(xs), _torch(theirs, xs), 1e-5)


@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "GELU", "Softplus", "SiLU", "Mish", "ELU"])
def test_activations_far_out(name: str) -> None:
    """They saturate or pass on, and never give a NaN."""
    ours, theirs = ACTIVATIONS[name]
    xs = np.array([[60.0, -60.0, 89.0, -89.0, 1e4, -1e4, 1e30, -1e30]], np.float32)
    assert_close(Sequential(Input(8), ours).stream().run(xs), _torch(theirs, xs), 1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_pass_a_nan_on(name: str) -> None:
    ours, _ = ACTIVATIONS[name]
    xs = np.zeros((1, 20), np.float32)
    xs[0, 3] = np.nan
    ys = Sequential(Input(20), ours).stream("propagate").run(xs)
    assert np.isnan(ys[0, 3])
    if "Softmax" not in name:  # there a NaN belongs in every number
        assert np.isfinite(np.delete(ys, 3)).all()


def test_log_and_sqrt() -> None:
    xs = np.random.default_rng(0).uniform(0, 9, (20, 15)).astype(np.float32)
    xs[0, 0] = 1e-30
    assert_close(Sequential(Input(15), s.Log()).stream().run(xs), _torch(torch.log, xs), 1e-5)
    assert_close(Sequential(Input(15), s.Sqrt()).stream().run(xs), _torch(torch.sqrt, xs), 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_prelu(channels: int) -> None:
    module = _randomised(torch.nn.PReLU(channels))
    layer = _copied(module, s.PReLU(channels))
    xs = _frames(9, 3, 7)
    got = Sequential(Input((3, 7)), layer).stream().run(xs)
    assert_close(got, _torch(module, xs), 1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_softmax_over_any_axis_of_the_frame(axis: int) -> None:
    xs = 5 * _frames(9, 4, 7)
    for ours, theirs in ((s.Softmax, torch.nn.Softmax), (s.LogSoftmax, torch.nn.LogSoftmax)):
        got = Sequential(Input((4, 7)), ours(axis)).stream().run(xs)
        assert_close(got, _torch(theirs(axis + 1 if axis >= 0 else axis), xs), 1e-5)


# Weights as torch keeps them ----------------------------------------------------------------------


def test_half_precision_weights_are_taken() -> None:
    module = torch.nn.GRU(3, 5).half()
    layer = _copied(module, s.GRU(3, 5))
    for name, tensor in module.state_dict().items():
        assert np.array_equal(layer.state_dict()[name], tensor.float().numpy())


def test_weights_that_require_gradients_are_taken_or_refused_in_words() -> None:
    """``named_parameters`` gives tensors with gradients, which NumPy will not read."""
    layer = s.Linear(3, 2)
    with pytest.raises(s.WeightError, match=r"weight: .*detach"):
        layer.load_state_dict(dict(torch.nn.Linear(3, 2).named_parameters()))


def test_a_torch_tensor_is_not_a_frame() -> None:
    with pytest.raises(s.FrameError, match=r"numpy array of float32.*torch\.float32 \(3,\)"):
        s.Linear(3, 2).step(torch.zeros(3))
