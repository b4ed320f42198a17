"""A step graph in onnxruntime keeps the promises of a stream, and changes places with ours."""

from types import SimpleNamespace

import numpy as np
import pytest

import checks
from checks import assert_close, piece
from zoo import CASES, find

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime runs the graphs")

from streamrnn.export import OnnxStream, to_onnx  # noqa: E402

TOLERANCE = 1e-5
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def exported(model, folder, **options):
    to_onnx(model, folder / "m.onnx", verify=False)
    return OnnxStream(folder / "m.onnx", **options)


def close_states(got, wanted, tolerance=TOLERANCE):
    assert got.frames == wanted.frames
    assert list(got.state) == list(wanted.state)
    for name, value in wanted.state.items():
        assert_close(got.state[name], value, tolerance, name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_exported_op_is_the_same_stream_in_onnxruntime(case, tmp_path):
    """Blocks, then a snapshot across engines, there and back, then a reset; outputs and states."""
    theirs, ours = exported(case.model, tmp_path), case.model.stream()
    S, tolerance = theirs.stride_frames, max(case.tolerance, TOLERANCE)
    assert ours.program.clock.stride == S
    xs = case.frames(24 * S)
    for first, stop in ((0, 7), (7, 8), (8, 20)):
        part = piece(xs, first * S, stop * S)
        assert_close(theirs.run(part), ours.run(part), tolerance)
        close_states(theirs, ours, tolerance)
    saved = theirs.snapshot()
    theirs.restore(ours.snapshot())
    ours.restore(saved)
    rest = piece(xs, 20 * S, 24 * S)
    assert_close(theirs.run(rest), ours.run(rest), tolerance)
    close_states(theirs, ours, tolerance)
    theirs.reset()
    again = case.model.stream().run(piece(xs, 0, 3 * S))
    assert_close(checks.run_in_steps(theirs, piece(xs, 0, 3 * S)), again, tolerance)


PROMISES = [
    checks.check_chunks,
    checks.check_reset,
    checks.check_neighbours,
    checks.check_rollback,
    checks.check_snapshot,
    checks.check_aliasing,
    checks.check_out,
    checks.check_state,
    checks.check_policies,
]
SAMPLE = [
    "LSTMCell 5-20",
    "GRU 3 layers",
    "Conv1d k3 stride 2",
    "strided front end and GRU",
    "two inputs",
    "indices and numbers",
    "outputs of all kinds",
    "feedback of planes",
    "Align branches that meet",
    "Align states that begin later",
]


class Exported:
    """A case of the zoo whose streams run in onnxruntime."""

    def __init__(self, case, folder):
        to_onnx(case.model, folder / "m.onnx", verify=False)
        self.frames, self.name = case.frames, case.name
        self.model = SimpleNamespace(
            program=case.model.program,
            stream=lambda policy="raise": OnnxStream(folder / "m.onnx", on_nonfinite=policy),
        )

    def fresh(self):
        return self.model


@pytest.mark.parametrize("check", PROMISES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLE)
def test_the_promises_of_a_stream_are_kept_in_onnxruntime(check, name, tmp_path):
    check(Exported(find(name), tmp_path))
