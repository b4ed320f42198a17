"""Graphs that pool over all of time: each output is that of the sequence so far, by onnxruntime."""

import numpy as np
import pytest

import streamrnn as sr
from test_add_state import gru, session
from test_import_sequences import over, sequence

pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

TIME_FIRST = ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]})
GRU = ("GRU", ["t", "W", "R"], ["s", "last"], {"hidden_size": 4})
CHANNELS = ("Transpose", ["x"], ["c"], {"perm": [0, 2, 1]})
HEAD = ("Gemm", ["p", "A", "b"], ["y"], {})
GRAPHS = {
    "mean of a GRU": [
        TIME_FIRST,
        GRU,
        ("Squeeze", ["s", "one"], ["u"], {}),
        ("ReduceMean", ["u"], ["p"], {"axes": [0], "keepdims": 0}),
        HEAD,
    ],
    "maximum of a GRU": [
        TIME_FIRST,
        GRU,
        ("Squeeze", ["s", "one"], ["u"], {}),
        ("ReduceMax", ["u"], ["p"], {"axes": [0], "keepdims": 0}),
        HEAD,
    ],
    "mean over time and more, axes kept": [("ReduceMean", ["x"], ["y"], {"axes": [1, 2]})],
    "maximum over everything": [("ReduceMax", ["x"], ["y"], {"keepdims": 0})],
    "global average": [CHANNELS, ("GlobalAveragePool", ["c"], ["y"], {})],
    "global maximum": [CHANNELS, ("GlobalMaxPool", ["c"], ["y"], {})],
    "last state, mean and maximum beside each other": [
        TIME_FIRST,
        GRU,
        ("ReduceMean", ["s"], ["m"], {"axes": [0], "keepdims": 0}),
        ("ReduceMax", ["s"], ["n"], {"axes": [0], "keepdims": 0}),
        ("Concat", ["last", "m", "n"], ["y"], {"axis": 2}),
    ],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_output_is_that_of_the_sequence_so_far(name, tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        **gru(one=np.array([1])),
        "A": rng.standard_normal((4, 3)).astype(np.float32),
        "b": rng.standard_normal(3).astype(np.float32),
    }
    path = over(tmp_path, GRAPHS[name], weights)
    stream, whole = sr.load(path).stream(), session(path)
    xs = sequence((40, 3))
    for t, x in enumerate(xs):
        (wanted,) = whole.run(None, {"x": xs[None, : t + 1]})
        np.testing.assert_allclose(stream.step(x).reshape(wanted.shape), wanted, atol=1e-5)


def test_zeros_in_front_of_what_is_pooled_are_refused(tmp_path):
    nodes = [("Pad", ["x", "pads"], ["z"], {}), ("ReduceMean", ["z"], ["y"], {"axes": [1]})]
    path = over(tmp_path, nodes, {"pads": np.array([0, 2, 0, 0, 0, 0])})
    for verify in (True, False):
        with pytest.raises(
            sr.FileError, match=r"ReduceMean\): it pools over time .* with 2 frames"
        ):
            sr.load(path, verify=verify)


def test_what_looks_ahead_before_it_is_pooled_misses_its_last_frames_and_is_refused(tmp_path):
    """The whole graph pools the frames that see the zeros behind the end; a stream never does."""
    kernel = np.random.default_rng(1).standard_normal((3, 3, 3)).astype(np.float32)
    nodes = [
        CHANNELS,
        ("Conv", ["c", "K"], ["d"], {"pads": [1, 1]}),
        ("GlobalAveragePool", ["d"], ["y"], {}),
    ]
    with pytest.raises(sr.FileError, match=r"'y' of a whole sequence differs by .* frame after"):
        sr.load(over(tmp_path, nodes, {"K": kernel}))
    nodes[1] = ("Conv", ["c", "K"], ["d"], {"pads": [2, 0]})
    xs = sequence((40, 3))
    path = over(tmp_path, nodes, {"K": kernel})
    (wanted,) = session(path).run(None, {"x": xs[None]})
    got = sr.load(path).run(xs)[-1]
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, atol=1e-5)
