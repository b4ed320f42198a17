"""``from_torch``: modules of torch as streams, against torch itself in float64.

The modules are small, their weights random; each stream is run in pieces and step by step. That
``from_torch`` checks itself is switched off here, and tested by itself below.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, parts

torch = pytest.importorskip("torch", reason="torch is not installed: there are no modules")
pytest.importorskip("onnx", reason="onnx is not installed: from_torch needs it")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

T = 40


def _module(module: Any, seed: int = 0) -> Any:
    """Give a module weights that differ, and statistics that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.9 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module


def _sequence(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _in_float64(module: Any, *inputs: Any) -> list[np.ndarray]:
    """Return what a module gives in evaluation mode, flat; the module ends as it was."""
    training = module.training
    tensors = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs]
    doubles = [x.double() if x.is_floating_point() else x for x in tensors]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of LSTM with projection
        made = module.double().eval()(*doubles)
    module.float().train(training)
    return [y.numpy() for y in torch.utils._pytree.tree_leaves(made)]


def _check(module: Any, x: np.ndarray, axis: int, **options: Any) -> s.Model:
    """Check that the stream of a module gives its first output over x, whose time is `axis`."""
    module = _module(module)
    model = s.from_torch(module, x, time_axis=axis, verify=False, **options)
    wanted = np.moveaxis(_in_float64(module, x)[0], axis, 0)
    (shape,) = (v.shape for v in model.graph().inputs.values())
    frames = np.ascontiguousarray(np.moveaxis(x, axis, 0).reshape(-1, *shape))
    stream = model.stream()
    got = [parts(stream.run(piece))[0] for piece in np.split(frames, [1, 1, 27])]
    ys = np.concatenate(got)
    assert len(ys)
    assert_close(ys, wanted[: len(ys)].reshape(ys.shape), 1e-5)
    return model


# Layers -------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "RNN": (lambda: nn.RNN(5, 7, 2, batch_first=True), (1, T, 5), 1),
    "RNN relu, time first": (lambda: nn.RNN(5, 7, nonlinearity="relu"), (T, 1, 5), 0),
    "GRU": (lambda: nn.GRU(5, 7, 3, dropout=0.5, batch_first=True), (1, T, 5), 1),
    "GRU without a batch": (lambda: nn.GRU(5, 7), (T, 5), 0),
    "LSTM": (lambda: nn.LSTM(5, 7, 2, batch_first=True), (1, T, 5), 1),
    "LSTM without bias": (lambda: nn.LSTM(5, 7, bias=False), (T, 1, 5), 0),
    "LSTM with projection": (lambda: nn.LSTM(5, 7, 2, proj_size=3), (T, 1, 5), 0),
    "LSTM with projection, no bias": (
        lambda: nn.LSTM(5, 7, bias=False, proj_size=3, batch_first=True),
        (1, T, 5),
        1,
    ),
    "LSTM over a batch": (lambda: nn.LSTM(5, 7, batch_first=True), (3, T, 5), 1),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, dilation=2, groups=1), (1, 3, T), 2),
    "Conv1d with stride": (lambda: nn.Conv1d(4, 8, 5, stride=3, groups=2), (1, 4, T), 2),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(5), (1, 5, T), 2),
    "Sequential": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.LayerNorm(8), nn.Linear(8, 2)
        ),
        (1, T, 5),
        1,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, shape, axis = LAYERS[name]
    _check(make(), _sequence(*shape), axis)


class Function(nn.Module):
    """A function of a sequence, as a module."""

    def __init__(self, function: Callable[[Any], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "activations": lambda x: (
        F.gelu(x)
        + F.silu(x)
        + F.elu(x)
        + F.hardswish(x)
        + F.softplus(x)
        + F.leaky_relu(x, 0.2)
        + F.mish(x)
        + F.relu6(x)
        + F.hardsigmoid(x)
        + F.logsigmoid(x)
        + F.softsign(x)
        + F.selu(x)
        + F.hardtanh(x, -0.5, 2.0)
        + F.gelu(x, approximate="tanh")
    ),
    "shrinking": lambda x: (
        F.softshrink(x)
        + F.hardshrink(x, 0.3)
        + F.threshold(x, 0.1, 5.0)
        + F.rrelu(x)
        + F.tanhshrink(x)
        + F.celu(x, 0.7)
    ),
    "softmax": lambda x: F.softmax(x, -1) * F.log_softmax(x, -1) + F.glu(x, -1).sum(-1, True),
    "arithmetic": lambda x: (2 - x) / (x * x + 1) + (x.abs() + 1).rsqrt() - x.pow(2) * 0.5 + -x,
    "functions": lambda x: x.sin() + x.exp().log1p() + (x.abs() + 1).log10() + x.square().sqrt(),
    "choices": lambda x: (
        torch.where(x > 0, x, 0.1 * x).clamp(-1, 1)
        + torch.maximum(x, -x)
        + x.masked_fill(x < -1, 3.0)
    ),
    "reductions": lambda x: (
        x
        - x.mean(-1, keepdim=True)
        + x.std(-1, keepdim=True)
        + x.amax(-1, True)
        + x.max(-1, keepdim=True)[0]
        + x.norm(dim=-1, keepdim=True)
    ),
    "shapes": lambda x: (
        torch.stack([p.flip(-1) for p in x.view(1, -1, 2, 3).unbind(2)], 2)
        .transpose(2, 3)
        .flatten(2)
        .unsqueeze(0)
        .squeeze(0)
    ),
    "parts": lambda x: torch.cat([*x.chunk(3, -1)[:2], x[..., 1:4], x.narrow(-1, 2, 2)], dim=-1),
    "a constant": lambda x: x + torch.ones_like(x) * torch.arange(6.0),
    "matrices": lambda x: (
        x @ torch.eye(6, dtype=x.dtype)[:, :4] + torch.einsum("btf,fo->bto", x, x.new_ones(6, 4))
    ),
    "the frame before": lambda x: x - F.pad(x, (0, 0, 1, 0))[:, :-1],
    "the sum so far": lambda x: 0.01 * x.cumsum(1),
    "repeated": lambda x: x[..., :1].repeat(1, 1, 3),
    "in place": lambda x: (x * 2).add_(1).relu_(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    _check(Function(FUNCTIONS[name]), _sequence(1, T, 6), 1)


# Modules ------------------------------------------------------------------------------------------


class Enhancer(nn.Module):
    """Causal convolutions with a skip, a recurrent layer, a concatenation, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3)
        self.chomped = nn.Conv1d(16, 16, 3, padding=4, dilation=2)
        self.norm = nn.BatchNorm1d(16)
        self.gru = nn.GRU(16, 12, 2, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(28, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        a = torch.relu(self.conv(F.pad(x.transpose(1, 2), (2, 0))))
        a = (a + torch.relu(self.norm(self.chomped(a)[:, :, :-4]))).transpose(1, 2)
        b, _ = self.gru(a)
        return {"gains": torch.sigmoid(self.out(self.drop(torch.cat([a, b], -1)))), "b": b}


class Dilated(nn.Module):
    """A temporal convolutional network, padded on both sides and cut, longer than the example."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Conv1d(8, 8, 3, dilation=d, padding=2 * d) for d in (1, 8, 64)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mT
        for conv in self.blocks:
            x = x + torch.tanh(conv(x)[..., : -conv.padding[0]])
        return x.mT


class Slow(nn.Module):
    """Strided layers before a recurrent one; pieces of the sequence that no layer tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(8, 8, 8, 4), nn.MaxPool1d(3, 2), nn.Conv1d(8, 6, 4, 2), nn.AvgPool1d(2)
        )
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.register_buffer("taps", torch.ones(8, 1, 50) / 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.front(F.conv1d(x.mT, self.taps, groups=8)).mT)[0]


class Pictures(nn.Module):
    """Conv2d over time and frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (3, 3), padding=(0, 1), stride=(1, 2))
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU(4)
        self.gru = nn.GRU(16, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.act(self.norm(self.conv(F.pad(x.unsqueeze(1), (0, 0, 2, 0)))))
        return self.gru(a.permute(0, 2, 1, 3).flatten(2))[0]


class Norms(nn.Module):
    """Norms of one frame, though the frames are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.group, self.rms, self.fc = nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        return self.rms(self.group(self.fc(x).reshape(B * T, C)).reshape(B, T, C))


class Begun(nn.Module):
    """A recurrent layer that begins in a trained state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.h, self.c = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.zeros(1, 1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        begin = [p.expand(1, x.shape[0], 6).contiguous() for p in (self.h, self.c)]
        return self.lstm(x, (begin[0], begin[1]))[0]


class Normed(nn.Module):
    """Weights that are computed: weight normalisation, old and new; and a hook."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(nn.Conv1d(8, 6, 2))
        self.b = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
        self.b.register_forward_hook(lambda module, args, y: 2 * y)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(F.pad(x.mT, (1, 0))).mT)


@pytest.mark.parametrize("kind", [Enhancer, Dilated, Pictures, Norms, Begun, Normed])
def test_modules(kind: type[nn.Module]) -> None:
    _check(kind(), _sequence(1, T, 8), 1)


def test_layers_that_are_slower() -> None:
    model = _check(Slow(), _sequence(1, 400, 8), 1)
    assert model.stride_frames == 32


def test_outputs_are_named_as_in_the_dictionary() -> None:
    model = s.from_torch(Enhancer(), torch.zeros(1, 20, 8))
    assert list(model.graph().outputs) == ["gains", "b"]
    assert model.delay_frames == 0


def test_shared_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.gru = nn.Embedding(11, 6), nn.GRU(6, 6, batch_first=True)
            self.out = nn.Linear(6, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.gru(self.embed(ids))[0])

    module = _module(Tied())
    ids = np.random.default_rng(0).integers(0, 11, (1, T))
    model = s.from_torch(module, ids)
    assert_close(model.stream().run(ids[0][:, None]), _in_float64(module, ids)[0][0], 1e-5)


def test_the_last_state_is_that_of_the_frames_so_far() -> None:
    """A speaker encoder: the last state, through a layer, of length 1."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(5, 7, 2, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            e = torch.relu(self.fc(self.lstm(x)[1][0][-1]))
            return e / (torch.norm(e, dim=1, keepdim=True) + 1e-3)

    module, x = _module(Encoder()), _sequence(1, T, 5)
    ys = s.from_torch(module, x).stream().run(x[0])
    for t in (1, 7, T):
        assert_close(ys[t - 1], _in_float64(module, x[:, :t])[0][0], 1e-5)


@pytest.mark.parametrize(
    ("module", "axis"),
    [
        (lambda: Function(lambda x: x.mean(1)), 1),
        (lambda: Encoded(nn.AdaptiveAvgPool1d(1)), 2),
    ],
    ids=["mean", "pool"],
)
def test_a_mean_over_time_is_that_of_the_frames_so_far(module: Any, axis: int) -> None:
    module = module()
    example = torch.zeros(1, *((20, 8) if axis == 1 else (8, 20)))
    stream = s.from_torch(module, example, time_axis=axis).stream()
    xs = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    ys = stream.run(xs)
    for t in (0, 6, 29):
        so_far = torch.from_numpy(xs[None, : t + 1])
        wanted = module(so_far if axis == 1 else so_far.mT).numpy()
        assert np.abs(ys[t].ravel() - wanted.ravel()).max() < 1e-6


def test_look_ahead_is_permitted_and_shows() -> None:
    module = _module(
        nn.Sequential(nn.Conv1d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv1d(4, 2, 3, 1, 1))
    )
    with pytest.raises(
        s.ConversionError,
        match=r"0 \(Conv1d, aten.*, 2 \(Conv1d.*on 3 frames after its own.*lookahead_frames=3",
    ):
        s.from_torch(module, lookahead_frames=2)
    model = s.from_torch(module, lookahead_frames=3)
    assert model.delay_frames == 3
    x = _sequence(1, 3, T)
    got = model.stream().run(np.ascontiguousarray(x[0].T))
    assert_close(got, _in_float64(module, x)[0][0].T[: len(got)], 1e-5)
    assert len(got) == T - 3


# One frame and states -----------------------------------------------------------------------------


class Step(nn.Module):
    """A recurrent layer of one frame, its state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(5, 7, 2, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = self.gru(x, h)
        return self.fc(y), h


@pytest.mark.parametrize("time_axis", [1, None])
def test_states_in_and_out(time_axis: int | None) -> None:
    module = _module(Step())
    example = (torch.zeros(1, 1, 5), torch.zeros(2, 1, 7))
    model = s.from_torch(module, example, time_axis=time_axis)
    assert list(model.graph().inputs) == ["x"]
    assert list(model.stream().state) == ["h"]
    x = _sequence(1, T, 5)
    wanted = _in_float64(module, x, np.zeros((2, 1, 7), np.float32))
    stream = model.stream()
    assert_close(stream.run(x[0]), wanted[0][0], 1e-5)
    assert_close(stream.state["h"], wanted[1], 1e-5)


def test_cells_in_a_module() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.LSTMCell(5, 7), nn.RNNCell(7, 4, nonlinearity="relu")

        def forward(self, x: Any, hc: Any, k: Any) -> Any:
            h, c = self.a(x, hc)
            k = self.b(h, k)
            return {"y": k - 1.0, "state": ((h, c), k)}

    module = _module(Cells())
    example = (torch.zeros(1, 5), (torch.zeros(1, 7), torch.zeros(1, 7)), torch.zeros(1, 4))
    model = s.from_torch(module, example)
    assert list(model.stream().state) == ["hc_0", "hc_1", "k"]
    stream, (_, hc, k) = model.stream(), example
    for x in _sequence(T, 1, 5):
        with torch.no_grad():
            made = module(torch.from_numpy(x), hc, k)
        hc, k = made["state"]
        assert_close(stream.step(x[0]), made["y"][0].numpy(), 1e-5)


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_cell_alone(kind: str) -> None:
    cell = _module(getattr(nn, kind)(5, 7))
    stream, state = s.from_torch(cell).stream(), None
    for x in _sequence(T, 1, 5):
        with torch.no_grad():
            state = cell(torch.from_numpy(x), *(() if state is None else (state,)))
        h = state[0] if isinstance(state, tuple) else state
        assert_close(stream.step(x[0]), h[0].numpy(), 1e-5)


def test_states_that_no_layer_shows_have_to_be_named() -> None:
    """Cells in a list, their states in one tensor."""

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.ModuleList(nn.GRUCell(4, 4) for _ in range(3))

        def forward(self, x: Any, hs: Any) -> Any:
            new = []
            for cell, h in zip(self.cells, hs.unbind(0), strict=True):
                x = cell(x, h)
                new.append(x)
            return x, torch.stack(new)

    example = (torch.zeros(1, 4), torch.zeros(3, 1, 4))
    with pytest.raises(s.ConversionError, match=r"given: \{'hs': \(3, 31, 4\)\}; `time_axis` and"):
        s.from_torch(Stacked(), example)
    module = _module(Stacked())
    stream, hs = s.from_torch(module, example, states=["hs"]).stream(), example[1]
    for x in _sequence(T, 1, 4):
        with torch.no_grad():
            y, hs = module(torch.from_numpy(x), hs)
        assert_close(stream.step(x[0]), y[0].numpy(), 1e-5)


def test_a_buffer_of_frames_as_a_state() -> None:
    """A convolution over the frames so far, which forward takes and returns."""

    class Ring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 6, 3)

        def forward(self, x: Any, past: Any) -> Any:
            seen = torch.cat([past, x], -1)
            return self.conv(seen), seen[..., 1:]

    module = _module(Ring())
    example = (torch.zeros(1, 4, 1), torch.zeros(1, 4, 2))
    model = s.from_torch(module, example, time_axis=None, states=["past"])
    x = _sequence(1, 4, T)
    wanted = _in_float64(module.conv, np.pad(x, ((0, 0), (0, 0), (2, 0))))[0]
    frames = np.ascontiguousarray(x[0].T[:, :, None])
    assert_close(model.stream().run(frames)[..., 0], wanted[0].T, 1e-5)


def test_a_state_that_is_no_recurrent_layers() -> None:
    class Leaky(nn.Module):
        def forward(self, x: Any, level: Any) -> Any:
            level = 0.9 * level + 0.1 * x
            return x - level[:, None].expand(1, 2, 3).mean(1), level

    example = {"level": torch.zeros(1, 3), "x": torch.zeros(1, 3)}
    model = s.from_torch(Leaky(), example, time_axis=None, states=["level"])
    level, stream = np.zeros(3), model.stream()
    for x in _sequence(T, 3):
        level = 0.9 * level + 0.1 * x
        assert_close(stream.step(x), x - level, 1e-5)


def test_an_input_beside_the_sequence() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(8, 4, batch_first=True)

        def forward(self, x: Any, who: Any) -> Any:
            who = who.unsqueeze(1).expand(1, x.shape[1], 3)
            return self.gru(torch.cat([x, who], -1))[0]

    module = _module(Conditioned())
    model = s.from_torch(
        module, (torch.zeros(1, 9, 5), torch.zeros(1, 3)), time_axis={"x": 1, "who": None}
    )
    x, who = _sequence(1, T, 5), _sequence(1, 3, seed=2)
    got = model.stream().run((x[0], np.tile(who, (T, 1))))
    assert_close(got, _in_float64(module, x, who)[0][0], 1e-5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.LSTM(5, 7, batch_first=True), (5,)),
        (lambda: nn.GRU(5, 7), (5,)),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh()), (3,)),
        (lambda: nn.Sequential(nn.Linear(6, 2)), (6,)),
        (lambda: nn.LayerNorm((2, 3)), (2, 3)),
        (lambda: nn.BatchNorm1d(4), (4,)),
    ],
)
def test_layers_that_say_what_they_take(make: Callable[[], Any], shape: tuple[int, ...]) -> None:
    model = s.from_torch(make())
    assert next(iter(model.graph().inputs.values())).shape == shape


def test_rows_of_numbers_are_frames() -> None:
    module, x = _module(nn.Sequential(nn.Linear(6, 2), nn.Tanh())), _sequence(T, 6)
    model = s.from_torch(module, torch.zeros(1, 6))
    assert_close(model.stream().run(x), _in_float64(module, x)[0], 1e-5)


# What cannot be streamed --------------------------------------------------------------------------


class Encoded(nn.Module):
    """A module with another inside."""

    def __init__(self, inner: nn.Module, pick: Callable[[Any], Any] = lambda y: y) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        self.encoder.add_module("inner", inner)
        self.pick = pick

    def forward(self, x: torch.Tensor) -> Any:
        return self.pick(self.encoder(x))


class Loop(nn.Module):
    """A loop over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, ys = x.new_zeros(1, 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)


class Attention(nn.Module):
    """Attention over all of time."""

    def __init__(self) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.att(x, x, x)[0]


BIDIRECTIONAL = r"encoder\.inner \(LSTM, aten\.lstm.*\): bidirectional=True: .*train it with"
REFUSED: dict[str, tuple[Callable[[], Any], int, str]] = {
    "bidirectional": (
        lambda: Encoded(nn.LSTM(8, 4, bidirectional=True, batch_first=True), lambda y: y[0]),
        1,
        BIDIRECTIONAL,
    ),
    "attention": (Attention, 1, r"att \(MultiheadAttention, .*\): it works across the time axis"),
    "fused attention": (
        lambda: Function(lambda x: F.scaled_dot_product_attention(x, x, x)),
        1,
        r"the module itself \(Function, .*\): attention needs the whole sequence, of which",
    ),
    "a norm over time": (
        lambda: Encoded(nn.GroupNorm(2, 8)),
        2,
        r"encoder\.inner \(GroupNorm, .*\): it works across the time axis",
    ),
    "statistics of the sequence": (
        lambda: Encoded(nn.BatchNorm1d(8, track_running_stats=False)),
        2,
        r"encoder\.inner \(BatchNorm1d, .*\): its statistics are those of the whole sequence",
    ),
    "a centred convolution": (
        lambda: Encoded(nn.Conv1d(8, 4, 3, padding="same")),
        2,
        r"encoder\.inner \(Conv1d, .*\): the output depends on 1 frames after its own; pad on the "
        r"left only, or allow it with lookahead_frames=1",
    ),
    "a loop": (Loop, 1, r"forward chooses frame 0 of the sequence: .*nn\.RNN, nn\.GRU, nn\.LSTM"),
    "time reversed": (lambda: Function(lambda x: x.flip(1)), 1, r"aten\.flip.*of a sequence are"),
    "batch and time exchanged": (
        lambda: Encoded(nn.GRU(8, 4), lambda y: y[0]),
        1,
        r"inner .*: time is axis 1 of its input, which batch_first=False makes the batch",
    ),
    "a state that nobody keeps": (
        lambda: Encoded(nn.GRU(8, 4), lambda y: y[0]),
        -3,
        r"inner .*: it begins with fixed states at every call: give an axis of time",
    ),
    "upsampling": (
        lambda: Encoded(nn.ConvTranspose1d(8, 4, 2, 2)),
        2,
        r"inner \(ConvTranspose1d, .*: a stride of 2 over time makes 2 frames of each",
    ),
    "a branch on values": (
        lambda: Function(lambda x: x if x.sum() > 0 else -x),
        1,
        r"torch\.export cannot follow Function\.forward: ",
    ),
    "a constant": (lambda: Function(lambda x: torch.ones(3)), 1, "does not depend on any input"),
    "random numbers": (
        lambda: Function(lambda x: x + torch.rand_like(x)),
        1,
        r"the operator aten\.rand_like.* is not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_streamed_is_refused_by_name(name: str) -> None:
    make, axis, message = REFUSED[name]
    shape = (1, 8, 20) if axis == 2 else (1, 20, 8)
    with pytest.raises(s.ConversionError, match=message):
        s.from_torch(make(), torch.zeros(shape), time_axis=None if axis == -3 else axis)


def test_a_module_that_keeps_its_state_in_a_buffer() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 4)
            self.register_buffer("h", torch.zeros(1, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.h = self.cell(x, self.h)
            return self.h

    with pytest.raises(s.ConversionError, match="forward changes the buffer 'h': take the state"):
        s.from_torch(Stateful(), torch.zeros(1, 3), time_axis=None)


# Bad input ----------------------------------------------------------------------------------------


def test_modules_that_are_not_ready() -> None:
    x = torch.zeros(1, 9, 3)
    with pytest.raises(s.ConfigError, match=r"expected a torch\.nn\.Module, got dict"):
        s.from_torch({"weight": x})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(3, 3))
    with pytest.raises(s.ConversionError, match=r"0 \(Linear\) is quantised: convert the float"):
        s.from_torch(quantised, x)
    with pytest.raises(s.ConversionError, match=r"weight: a lazy module has no weights yet"):
        s.from_torch(nn.LazyLinear(3), x)
    with pytest.raises(s.ConversionError, match=r"weight: on the device 'meta' there are no"):
        s.from_torch(nn.Linear(3, 3, device="meta"), x)
    with pytest.raises(s.ConversionError, match=r"weight: torch\.complex64 is not supported"):
        s.from_torch(nn.Linear(3, 3, dtype=torch.complex64), x)
    broken = nn.Linear(3, 3)
    with torch.no_grad():
        broken.bias[1] = float("nan")
    with pytest.raises(s.ConversionError, match=r"bias: holds a NaN"):
        s.from_torch(broken, x)


def test_a_compiled_module() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(3, 3))
    with pytest.raises(s.ConversionError, match=r"TorchScript .* give the nn\.Module it was made"):
        s.from_torch(scripted, torch.zeros(1, 9, 3))


def test_examples_that_do_not_fit() -> None:
    with pytest.raises(s.ConfigError, match=r"Tanh does not say what it takes: give an example"):
        s.from_torch(nn.Tanh())
    with pytest.raises(s.ConfigError, match=r"the module does not take the example: .*shapes"):
        s.from_torch(nn.Linear(3, 3), torch.zeros(1, 9, 4))
    with pytest.raises(s.ConfigError, match=r"the example does not fit forward: .*many positional"):
        s.from_torch(nn.Linear(3, 3), (torch.zeros(1, 9, 3), torch.zeros(1)))
    with pytest.raises(s.ConfigError, match=r"time_axis=3 is no axis of input 'input' \(1, 9, 3\)"):
        s.from_torch(nn.Linear(3, 3), torch.zeros(1, 9, 3), time_axis=3)
    with pytest.raises(s.ConfigError, match=r"no input is called 'hidden'; there are x, h"):
        s.from_torch(Step(), (torch.zeros(1, 1, 5), torch.zeros(2, 1, 7)), states=["hidden"])
    with pytest.raises(s.ConfigError, match=r"no input is called 'y'; there are input"):
        s.from_torch(nn.Linear(3, 3), torch.zeros(1, 9, 3), time_axis={"y": 1})
    with pytest.raises(s.ConfigError, match=r"`lookahead_frames` must be 0 or more, got -1"):
        s.from_torch(nn.Linear(3, 3), lookahead_frames=-1)
    with pytest.raises(s.ConfigError, match=r"input 'input' is torch\.bool, frames are float32"):
        s.from_torch(nn.Identity(), torch.zeros(1, 9, 3, dtype=torch.bool))


def test_states_that_do_not_come_out_as_they_go_in() -> None:
    class Swapped(Step):
        def forward(self, x: Any, h: Any) -> Any:
            y, h = super().forward(x, h)
            return h, y

    with pytest.raises(
        s.ConversionError, match=r"state 'h' has the shape \(2, 1, 7\).*states last"
    ):
        s.from_torch(Swapped(), (torch.zeros(1, 1, 5), torch.zeros(2, 1, 7)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_floats_are_converted_and_it_is_said(kind: str) -> None:
    module = nn.Linear(3, 2, dtype=getattr(torch, kind))
    with pytest.warns(UserWarning, match=f"weight, bias: torch.{kind} is converted to float32"):
        model = s.from_torch(module)
    x = _sequence(1, T, 3)
    assert module.weight.dtype == getattr(torch, kind)
    assert_close(model.stream().run(x[0]), _in_float64(module, x)[0][0], 1e-5)


def test_the_module_stays_as_it_was() -> None:
    module = Enhancer().train()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    s.from_torch(module, torch.zeros(1, 20, 8))
    assert module.training
    assert module.gru.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


# The check ----------------------------------------------------------------------------------------


def test_a_stream_that_differs_is_reported_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamrnn.importers.torch.table import ATEN

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = nn.GRU(5, 8, batch_first=True), nn.Tanh()
            self.last = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.act(self.first(x)[0]))

    monkeypatch.setitem(ATEN, "tanh", lambda f, x: f("Sigmoid", x))
    with pytest.raises(s.ConversionError) as caught:
        s.from_torch(_module(Chain()), torch.zeros(1, 20, 5))
    lines = str(caught.value).splitlines()
    assert "output 'y' of the stream is not that of the module: they differ by" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "first",
        "act",
        "last",
        "the module itself",
    ]
    assert [line.endswith("<- the first that differs") for line in lines[1:]] == [
        False,
        True,
        False,
        False,
    ]
    s.from_torch(_module(Chain()), torch.zeros(1, 20, 5), verify=False)


def test_a_step_that_differs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamrnn.importers.torch.table import ATEN

    meaning = ATEN["linear"]
    monkeypatch.setitem(ATEN, "linear", lambda f, **how: f("Neg", meaning(f, **how)))
    example = (torch.zeros(1, 1, 5), torch.zeros(2, 1, 7))
    with pytest.raises(s.ConversionError, match=r"(?s)gru: .*e-0.*fc: 0\.\d+  <- the first"):
        s.from_torch(_module(Step()), example, time_axis=None)


# Without torch ------------------------------------------------------------------------------------


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout + done.stderr


def test_torch_is_imported_when_it_is_needed() -> None:
    code = "import sys, streamrnn; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    assert _python(code).strip() == "[]"


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_without_it_the_error_names_the_extra(name: str) -> None:
    code = f"import sys; sys.modules['{name}'] = None; import streamrnn; streamrnn.from_torch"
    wanted = f"ImportError: streamrnn.from_torch needs {name}: pip install streamrnn[torch]"
    assert wanted in _python(code)


class Remembers(nn.Module):
    """Keeps its state in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.h = nn.GRU(6, 5, batch_first=True), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, h = self.gru(x, self.h)
        self.h = h.detach()
        return y


def test_a_state_in_an_attribute_is_refused() -> None:
    with pytest.raises(s.ConversionError, match="forward changes the attribute 'h'"):
        s.from_torch(Remembers(), torch.ones(1, 20, 6))


def test_conversions_of_type_are_followed() -> None:
    module = Function(lambda x: (x.double() * 2).float() + (x > 0).float())
    x = _sequence(1, 20, 6)
    ys = s.from_torch(module, x).stream().run(x[0])
    assert_close(ys, module(torch.from_numpy(x))[0].numpy(), 1e-6)


def test_a_sequence_cut_at_a_fixed_length_is_refused() -> None:
    with pytest.raises(s.ConversionError, match="cuts the sequence at a fixed length"):
        s.from_torch(Function(lambda x: x[:, -200:]), torch.zeros(1, 20, 6))
