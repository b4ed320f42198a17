"""Mean and maximum over time: against torch, and over more frames than float32 can count."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.ops.over_time import WRAP


def _of(shape: int, *layers: sr.Layer) -> sr.Sequential:
    return sr.Sequential(sr.Input(shape), *layers)


def _exact_mean(mean: float, frames: int, more: np.ndarray) -> np.ndarray:
    """Return the mean of `frames` frames that had a mean, and some more, in exact fractions."""
    sums = [sum(map(Fraction, column.tolist())) for column in more.T]
    return np.array([float((Fraction(mean) * frames + s) / (frames + len(more))) for s in sums])


def test_every_output_is_the_mean_and_the_maximum_so_far_as_torch_computes_it() -> None:
    torch = pytest.importorskip("torch")
    xs = np.random.default_rng(0).normal(3.0, 2.0, (200, 7)).astype(np.float32)
    double = torch.from_numpy(xs).double()
    mean = (double.cumsum(0) / torch.arange(1, 201)[:, None]).numpy()
    np.testing.assert_allclose(_of(7, sr.MeanOverTime()).run(xs), mean, rtol=2e-7)
    largest = torch.from_numpy(xs).cummax(0).values.numpy()
    assert np.array_equal(_of(7, sr.MaxOverTime()).run(xs), largest)


@pytest.mark.parametrize("layers", [sr.MeanOverTime, sr.MaxOverTime])
def test_the_last_output_pools_a_trained_recurrence_as_torch_does(layers: type[sr.Op]) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    gru, head = torch.nn.GRU(6, 10, batch_first=True), torch.nn.Linear(10, 3)
    model = sr.Sequential(sr.GRU(6, 10), layers(), sr.Linear(10, 3))
    weights = {f"0.{n}": w for n, w in gru.state_dict().items()}
    model.load_state_dict(weights | {f"2.{n}": w for n, w in head.state_dict().items()})
    xs = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)
    with torch.no_grad():
        y = gru(torch.from_numpy(xs)[None])[0][0]
        wanted = head(y.mean(0) if layers is sr.MeanOverTime else y.max(0).values).numpy()
    np.testing.assert_allclose(model.run(xs)[-1], wanted, atol=1e-6)


@pytest.mark.parametrize("days", [1, 3, 30, 365])
def test_a_mean_over_months_goes_on_changing_and_stays_exact(days: int) -> None:
    frames = days * 86400 * 100  # at 100 frames a second
    stream = _of(2, sr.MeanOverTime()).stream()
    before = {"mean": np.full(2, 0.75, np.float32), "rest": np.zeros(2, np.float32)}
    count = np.array([frames % WRAP, frames // WRAP], np.float32)
    stream.state.update({f"meanovertime_0.{n}": a for n, a in (before | {"count": count}).items()})
    more = np.random.default_rng(2).uniform(900, 1100, (20_000, 2)).astype(np.float32)
    got = stream.run(more)[-1]
    np.testing.assert_allclose(got, _exact_mean(0.75, frames, more), rtol=2e-7)
    low, high = stream.state["meanovertime_0.count"]
    assert int(low) + WRAP * int(high) == frames + len(more)


def test_the_count_goes_over_its_first_number() -> None:
    stream = _of(1, sr.MeanOverTime()).stream()
    stream.state["meanovertime_0.count"] = np.array([WRAP - 2, 0], np.float32)
    stream.run(np.ones((3, 1), np.float32))
    assert stream.state["meanovertime_0.count"].tolist() == [1, 1]


def test_an_offset_does_not_cost_digits() -> None:
    xs = (1e4 + np.random.default_rng(3).standard_normal((100_000, 1))).astype(np.float32)
    got = _of(1, sr.MeanOverTime()).run(xs)[-1]
    np.testing.assert_allclose(got, xs.astype(np.float64).mean(0), rtol=6e-8)  # half a unit


def test_the_mean_of_the_largest_numbers_does_not_overflow() -> None:
    top = float(np.finfo(np.float32).max)
    xs = np.array([[-top], [top], [top], [top], [-top]], np.float32)
    wanted = xs.astype(np.float64).cumsum(0) / np.arange(1, 6)[:, None]
    np.testing.assert_allclose(
        _of(1, sr.MeanOverTime()).run(xs), wanted, rtol=3e-7, atol=top * 1e-7
    )


def test_a_maximum_of_numbers_below_zero_is_below_zero_and_a_nan_stays() -> None:
    xs = np.array([[-3], [-2], [-9], [np.nan], [5]], np.float32)
    got = _of(1, sr.MaxOverTime()).stream("propagate").run(xs)[:, 0]
    np.testing.assert_array_equal(got, [-3, -2, -2, np.nan, np.nan])
    infinite = np.full((2, 1), -np.inf, np.float32)
    assert (_of(1, sr.MaxOverTime()).stream("propagate").run(infinite) == -np.inf).all()


@pytest.mark.parametrize("kind", [sr.MeanOverTime, sr.MaxOverTime])
def test_two_values_are_refused(kind: type[sr.Op]) -> None:
    with pytest.raises(sr.GraphError, match=rf"{kind.__name__}\(\) reads one value, got 2"):
        kind()(sr.Input(2), sr.Input(2))
