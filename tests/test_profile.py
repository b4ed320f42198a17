"""The profile runs what a step runs, op by op."""

from collections import Counter

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.profile import _Walk, profile


def model_with_everything():
    x = sr.Input(6)
    h = sr.Past(8)()
    a = sr.Conv1d(6, 8, 3, stride=1, seed=0, name="conv")(x)
    b = sr.LSTM(8, 8, num_layers=2, seed=1, name="lstm")(a + h)
    gains = sr.Sigmoid()(sr.Linear(8, 3, seed=2)(b))
    return sr.Model(x, {"gains": gains, "raw": b}, feedback={h: b})


def strided():
    return sr.Sequential(sr.Conv1d(6, 8, 4, stride=2, seed=0), sr.GRU(8, 5, seed=1))


@pytest.mark.parametrize("make", [model_with_everything, strided, lambda: sr.LSTM(6, 200, seed=3)])
def test_ops_one_by_one_are_the_step_bit_for_bit(make):
    model = make()
    xs = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    walk, stream = _Walk(model.program()), model.stream()
    y = np.empty(walk.program.output_size, np.float32)
    for t, x in enumerate(xs):
        expected = stream.step(x)
        assert walk.step(t, x, y, Counter()) == (expected is not None)
        if expected is not None:
            parts = expected if isinstance(expected, tuple) else (expected,)
            assert np.array_equal(y, np.concatenate([p.reshape(-1) for p in parts]))


def test_the_profile_names_every_op_once():
    model = model_with_everything()
    times = profile(model, np.zeros((10, 6), np.float32))
    nodes = {node.name: type(node.op).__name__ for node in model.graph().nodes}
    assert {t.name: t.op for t in times} == {**nodes, "outputs": ""}
    assert sum(t.share for t in times) == pytest.approx(1)
    assert [t.us for t in times] == sorted((t.us for t in times), reverse=True)
    assert times[0].us > 0


def test_a_model_that_only_moves_numbers_takes_no_time():
    model = sr.Sequential(sr.Input(6), sr.Reshape((2, 3)))
    assert profile(model, np.zeros((1, 6))) == []


def test_frames_that_do_not_fit():
    two = sr.Input(3), sr.Input(3)
    with pytest.raises(sr.FrameError, match="models with one input, this one has 2"):
        profile(sr.Model({"a": two[0], "b": two[1]}, sr.concat(*two)), np.zeros((1, 3)))
    with pytest.raises(sr.FrameError, match=r"expects frames \(T, 3\), at least one, got shape"):
        profile(sr.GRUCell(3, 4), np.zeros((0, 3)))
    for rounds in (0, 1.5, None):
        with pytest.raises(sr.ConfigError, match="profile: `rounds` must be a positive integer"):
            profile(sr.GRUCell(3, 4), np.zeros((1, 3)), rounds)
