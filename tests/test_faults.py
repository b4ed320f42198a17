"""Faults planted on purpose: each of them must make the checks of ``checks.py`` fail.

A suite that passes proves nothing until it has been seen to fail. Every fault here has happened in
some library (FIELD.md, section 4), or would be an easy slip in ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checks
import streamrnn as s
from checks import assert_close, assert_same
from streamrnn import ReferenceStream, Stream
from streamrnn.files import save
from streamrnn.ops.cell import Cell, Stack, reorder
from streamrnn.program import Lowering, Program, _Place
from streamrnn.stream import StateView
from zoo import Case, find, random_frames

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """After each fault the checks pass again."""
    yield
    checks.check_reference(find("GRUCell 5-20").again())
    checks.check_chunks(find("Conv1d k3 stride 2").again())


def _bites(check: Callable[..., Any], case: Case, *args: Any) -> None:
    """Fail unless the check fails on a fresh model of the case."""
    with pytest.raises(AssertionError):
        check(case.again(), *args)


# Wrong numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("LSTMCell 5-20", "iofg"),  # ONNX's order taken for torch's
        ("LSTMCell 5-20", "figo"),
        ("GRUCell 5-20", "zrn"),  # Keras' and ONNX's
        ("GRUCell reset before 5-20", "zrn"),
        ("GRUCell 5-20", "nzr"),
    ],
)
def test_a_wrong_order_of_gates_is_seen(name: str, order: str, monkeypatch: Patch) -> None:
    plain = Cell.full_weights

    def swapped(self: Cell) -> Any:
        return {n: reorder(w, self.gates, order) for n, w in plain(self).items()}

    monkeypatch.setattr(Cell, "full_weights", swapped)
    _bites(checks.check_reference, find(name))


def _compared(kernel: s.Layer, reference: s.Layer, tolerance: float = 1e-5) -> None:
    xs = random_frames(kernel, checks.LONG)
    assert_close(kernel.stream().run(xs), ReferenceStream(reference).run(xs), tolerance)


def _same_weights(a: s.Layer, b: s.Layer) -> tuple[s.Layer, s.Layer]:
    b.load_state_dict(a.state_dict())
    return a, b


@pytest.mark.parametrize(
    "pair",
    [
        (lambda: find("GRUCell 5-20").fresh(), lambda: s.GRUCell(5, 20, reset_after=False)),
        (lambda: find("GRUCell no bias").fresh(), lambda: s.GRUCell(6, 20, False, False)),
        (lambda: find("RNNCell 5-20").fresh(), lambda: s.RNNCell(5, 20, nonlinearity="relu")),
        (lambda: find("Conv1d k3 stride 2").fresh(), lambda: s.Conv1d(3, 20, 3, 2, dilation=2)),
        (lambda: find("LayerNorm eps").fresh(), lambda: s.LayerNorm(7)),
        (lambda: find("BatchNorm1d 20").fresh(), lambda: s.BatchNorm1d(20, eps=1e-3)),
    ],
)
def test_a_neighbouring_definition_is_not_within_the_tolerance(
    pair: tuple[Callable[[], s.Layer], Callable[[], s.Layer]],
) -> None:
    """Reset before or after, tanh or relu, another eps: none passes for the other."""
    ours, other = _same_weights(pair[0](), pair[1]())
    with pytest.raises(AssertionError, match=r"off by|shape"):
        _compared(ours, other)
    _compared(ours, ours)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (s.GELU(), s.GELU("tanh")),
        (s.Hardsigmoid(), s.Hardsigmoid(0.2)),
        (s.ELU(), s.SELU()),
        (s.LeakyReLU(0.01), s.LeakyReLU(0.011)),
        (s.SiLU(), s.Hardswish()),
        (s.Softplus(), s.Mish()),
    ],
)
def test_neighbouring_activations_are_told_apart(a: s.Layer, b: s.Layer) -> None:
    with pytest.raises(AssertionError, match="off by"):
        _compared(s.Sequential(s.Input(100), a), s.Sequential(s.Input(100), b))


def test_a_bias_that_is_summed_where_it_may_not_be_is_seen(monkeypatch: Patch) -> None:
    """With the reset after the product, b_hn belongs inside r * (…)."""
    plain = Cell.full_weights

    def summed(self: Cell) -> Any:
        w = plain(self)
        return w | {"bias_ih": w["bias_ih"] + w["bias_hh"], "bias_hh": 0 * w["bias_hh"]}

    monkeypatch.setattr(Cell, "full_weights", summed)
    _bites(checks.check_reference, find("GRUCell 5-20"))


def test_a_kernel_that_is_flipped_in_time_is_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        "streamrnn.ops.conv1d.taps_first",
        lambda w: w[:, :, ::-1].transpose(0, 2, 1).reshape(w.shape[0], -1),
    )
    _bites(checks.check_reference, find("Conv1d 3-5 k3"))


def test_a_wrong_padding_of_gates_is_seen(monkeypatch: Patch) -> None:
    """Gates of 20 units end in the middle of a vector: packed densely they run into each other."""
    monkeypatch.setattr(
        Lowering,
        "pad_gates",
        lambda self, a, gates: np.pad(
            np.asarray(a, np.float32),
            [(0, gates * self.padded(len(a) // gates) - len(a)), *[(0, 0)] * (np.ndim(a) - 1)],
        ),
    )
    _bites(checks.check_reference, find("LSTMCell 5-20"))


def test_places_in_scratch_that_overlap_are_seen(monkeypatch: Patch) -> None:
    plain = Lowering._new

    def short_lived(self: Lowering, shape: Any, place: _Place) -> Any:
        made = plain(self, shape, place)
        place.__class__ = _Forgotten
        return made

    class _Forgotten(_Place):
        """A place that is given away right after its value has been made."""

        last = property(lambda self: self.first, lambda self, value: None)

    monkeypatch.setattr(Lowering, "_new", short_lived)
    _bites(checks.check_reference, find("many branches"))


def test_stacked_layers_that_are_dropped_are_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Stack, "__call__", lambda self, value: self.cells[0](value))
    ours = find("LSTM 3 layers").fresh()
    xs = random_frames(ours, checks.LONG)
    got = ours.stream().run(xs)
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        assert_close(got, ReferenceStream(ours).run(xs), 1e-5)


def test_statistics_that_are_ignored_are_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        s.BatchNorm1d,
        "scale_and_shift",
        lambda self: (self.weights["weight"], self.weights["bias"]),
    )
    _bites(checks.check_reference, find("BatchNorm1d 20"))
    _bites(checks.check_reference, find("BatchNorm1d behind Linear"))


@pytest.mark.parametrize("error", [3e-5, 1e-3])
def test_an_error_in_the_fifth_digit_is_seen(error: float, monkeypatch: Patch) -> None:
    plain = Program.__init__

    def noisy(self: Program, *args: Any) -> None:
        plain(self, *args)
        weights = self.weights.view()
        weights.flags.writeable = True
        weights *= np.float32(1 + error)

    monkeypatch.setattr(Program, "__init__", noisy)
    _bites(checks.check_reference, find("Linear 16-64"))


# Wrong in time ------------------------------------------------------------------------------------


def _around_run(monkeypatch: Patch, wrapper: Callable[..., Any]) -> None:
    plain = Stream.run
    monkeypatch.setattr(Stream, "run", lambda self, xs, out=None: wrapper(self, plain, xs, out))


def test_a_state_that_is_lost_between_chunks_is_seen(monkeypatch: Patch) -> None:
    def forgetful(self: Stream, run: Any, xs: Any, out: Any) -> Any:
        frames = self.frames
        self.reset()
        self._clock[0] = frames
        return run(self, xs, out)

    _around_run(monkeypatch, forgetful)
    for name in ("RNNCell 5-20", "LSTMCell 5-20", "Conv1d 3-5 k3", "Context 5 before 3"):
        _bites(checks.check_chunks, find(name))


def test_a_sum_that_depends_on_the_length_of_the_block_is_seen(monkeypatch: Patch) -> None:
    """One unit in the last place, in blocks of four and more, as by a fast matrix product."""

    def rounded(self: Stream, run: Any, xs: Any, out: Any) -> Any:
        ys = run(self, xs, out)
        if len(checks.parts(xs)[0]) >= 4:
            for y in checks.parts(ys):
                y[...] = np.nextafter(y, np.float32(np.inf))
        return ys

    _around_run(monkeypatch, rounded)
    for name in ("Linear 16-64", "GRUCell 5-20", "rnnoise"):
        _bites(checks.check_chunks, find(name))


def test_a_clock_that_starts_anew_with_each_block_is_seen(monkeypatch: Patch) -> None:
    """The phase of a stride, taken from the block instead of the stream."""

    def restarted(self: Stream, run: Any, xs: Any, out: Any) -> Any:
        frames = self.frames
        self._clock[0] = 0
        ys = run(self, xs, out)
        self._clock[0] = frames + len(checks.parts(xs)[0])
        return ys

    _around_run(monkeypatch, restarted)
    _bites(checks.check_chunks, find("Conv1d k3 stride 2"))
    _bites(checks.check_chunks, find("strided front end and GRU"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("LSTMCell 5-20", "lstm_0.c"),
        ("GRU 3 layers", "gru_1.h"),
        ("Conv1d 3-5 k3", "conv1d_0.past"),
        ("Context 5 before 3", "context_0.past"),
    ],
)
def test_a_state_that_survives_a_reset_is_seen(name: str, kept: str, monkeypatch: Patch) -> None:
    plain = Stream.reset

    def partial(self: Stream) -> None:
        old = self.state[kept]
        plain(self)
        self.state[kept] = old

    monkeypatch.setattr(Stream, "reset", partial)
    _bites(checks.check_reset, find(name))


def test_a_clock_that_survives_a_reset_is_seen(monkeypatch: Patch) -> None:
    plain = Stream.reset

    def partial(self: Stream) -> None:
        frames = self.frames
        plain(self)
        self._clock[0] = frames

    monkeypatch.setattr(Stream, "reset", partial)
    _bites(checks.check_reset, find("Conv1d k3 stride 2"))


# Wrong in company ---------------------------------------------------------------------------------


def test_streams_that_share_a_state_are_seen(monkeypatch: Patch) -> None:
    shared: dict[int, Stream] = {}

    def one_for_all(self: s.Layer, on_nonfinite: str = "raise") -> Stream:
        return shared.setdefault(id(self), Stream(self.program(), on_nonfinite))

    monkeypatch.setattr(s.Layer, "stream", one_for_all)
    _bites(checks.check_neighbours, find("GRUCell 5-20"))


def test_a_fork_that_shares_memory_is_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Stream, "fork", lambda self: self)
    _bites(checks.check_snapshot, find("GRUCell 5-20"))


def test_a_snapshot_that_leaves_something_out_is_seen(monkeypatch: Patch) -> None:
    plain = Stream.restore

    def partial(self: Stream, snapshot: bytes) -> None:
        old = checks.states(self)
        plain(self, snapshot)
        last = list(old)[-1]
        self.state[last] = old[last]

    monkeypatch.setattr(Stream, "restore", partial)
    _bites(checks.check_snapshot, find("LSTMCell 5-20"))
    _bites(checks.check_snapshot, find("GRU 3 layers"))


def test_a_snapshot_without_the_clock_is_seen(monkeypatch: Patch) -> None:
    plain = Stream.restore

    def partial(self: Stream, snapshot: bytes) -> None:
        frames = self.frames
        plain(self, snapshot)
        self._clock[0] = frames

    monkeypatch.setattr(Stream, "restore", partial)
    _bites(checks.check_snapshot, find("Conv1d k3 stride 2"))


def test_a_snapshot_without_the_held_frame_is_seen(monkeypatch: Patch) -> None:
    plain = Stream.restore

    def partial(self: Stream, snapshot: bytes) -> None:
        plain(self, snapshot)
        self._held[:] = 0

    monkeypatch.setattr(Stream, "restore", partial)
    _bites(checks.check_policies, find("GRUCell 5-20"))


def test_a_call_that_fails_half_way_is_seen(monkeypatch: Patch) -> None:
    """The frames before the NaN have been run when the error comes."""
    plain = Stream.run

    def eager(self: Stream, xs: Any, out: Any = None) -> Any:
        try:
            return plain(self, xs, out)
        except s.NonFiniteError:
            good = next(t for t in range(len(xs)) if not np.isfinite(xs[t]).all())
            plain(self, xs[:good])
            raise

    monkeypatch.setattr(Stream, "run", eager)
    _bites(checks.check_rollback, find("GRUCell 5-20"))


@pytest.mark.parametrize(
    "accept", [np.float64, np.float16, np.int64], ids=lambda kind: kind.__name__
)
def test_a_dtype_that_slips_through_is_seen(accept: Any, monkeypatch: Patch) -> None:
    plain = Stream.step

    def lenient(self: Stream, x: Any, out: Any = None) -> Any:
        if isinstance(x, np.ndarray) and x.dtype == accept:
            x = x.astype(np.float32)
        return plain(self, x, out)

    monkeypatch.setattr(Stream, "step", lenient)
    _bites(checks.check_rollback, find("GRUCell 5-20"))


def test_a_result_that_is_a_view_of_a_buffer_is_seen(monkeypatch: Patch) -> None:
    """What step returned is overwritten by the next step."""
    plain = Stream.step
    buffers: dict[int, np.ndarray] = {}

    def reusing(self: Stream, x: Any, out: Any = None) -> Any:
        if out is None:
            out = buffers.setdefault(id(self), np.empty(self.program.output_size, np.float32))
        return plain(self, x, out)

    monkeypatch.setattr(Stream, "step", reusing)
    _bites(checks.check_aliasing, find("GRUCell 5-20"))


def test_a_state_that_is_handed_out_itself_is_seen(monkeypatch: Patch) -> None:
    def view(self: StateView, name: str) -> np.ndarray:
        slot = self._stream.program.slots[name]
        return self._stream._state[slot.offset : slot.stop].reshape(slot.shape)

    monkeypatch.setattr(StateView, "__getitem__", view)
    _bites(checks.check_aliasing, find("GRUCell 5-20"))


def test_an_input_that_is_used_as_scratch_is_seen(monkeypatch: Patch) -> None:
    def scribbling(self: Stream, run: Any, xs: Any, out: Any) -> Any:
        ys = run(self, xs, out)
        xs[...] = 0
        return ys

    _around_run(monkeypatch, scribbling)
    _bites(checks.check_aliasing, find("GRUCell 5-20"))


def test_an_out_that_is_not_written_to_is_seen(monkeypatch: Patch) -> None:
    plain = Stream.step
    monkeypatch.setattr(Stream, "step", lambda self, x, out=None: plain(self, x))
    _bites(checks.check_out, find("GRUCell 5-20"))


def test_states_that_are_assigned_one_after_another_are_seen(monkeypatch: Patch) -> None:
    """With a bad one among them, the ones before it have been taken."""

    def one_by_one(self: StateView, values: Any) -> None:
        for name, value in values.items():
            write(self, {name: value})

    write = StateView._write
    monkeypatch.setattr(StateView, "_write", one_by_one)
    _bites(checks.check_state, find("LSTMCell 5-20"))


def test_a_nan_that_gets_into_a_state_is_seen(monkeypatch: Patch) -> None:
    def trusting(self: StateView, values: Any) -> None:
        slots = self._stream.program.slots
        for name, value in values.items():
            if name not in slots or np.shape(value) != slots[name].shape:
                raise s.StateError("no state")
        self._put({n: np.asarray(v, np.float32) for n, v in values.items()})

    monkeypatch.setattr(StateView, "_write", trusting)
    _bites(checks.check_state, find("LSTMCell 5-20"))


def test_a_hold_that_repeats_zeros_is_seen(monkeypatch: Patch) -> None:
    def zeroing(self: Stream, run: Any, xs: Any, out: Any) -> Any:
        if self.on_nonfinite == "hold":
            xs = np.where(np.isfinite(xs).all(-1, keepdims=True), xs, np.float32(0))
        return run(self, xs, out)

    _around_run(monkeypatch, zeroing)
    _bites(checks.check_policies, find("GRUCell 5-20"))


def test_a_file_that_forgets_is_seen(monkeypatch: Patch, tmp_path: Path) -> None:
    """The initial state; the place of the reset gate."""
    with monkeypatch.context() as patch:
        patch.setattr("streamrnn.files.save", _save_without_initial_states)
        _bites(checks.check_file, find("LSTMCell trained initial state"), tmp_path)
    plain = s.GRUCell.config
    monkeypatch.setattr(s.GRUCell, "config", lambda self: plain(self) | {"reset_after": True})
    _bites(checks.check_file, find("GRUCell reset before 5-20"), tmp_path)


def _save_without_initial_states(layer: s.Layer, path: Path) -> None:
    kept = [(node.op, node.op.initial_state) for node in layer.graph().nodes]
    for op, _ in kept:
        op.initial_state = {}
    save(layer, path)
    for op, states in kept:
        op.initial_state = states


# The helpers themselves ---------------------------------------------------------------------------


def test_the_comparisons_see_what_they_should() -> None:
    a = np.array([1.0, 2.0, np.nan], np.float32)
    assert_same(a, a.copy(), "equal, NaN included")
    for b in (
        np.array([1.0, np.nextafter(np.float32(2), np.float32(3)), np.nan], np.float32),
        np.array([1.0, 2.0, 3.0], np.float32),
        a[:2],
        a.astype(np.float64),
        a[None],
        (a, a),
    ):
        with pytest.raises(AssertionError):
            assert_same(b, a, "different")
    assert_same(np.array([0.0], np.float32), np.array([0.0], np.float32), "zeros")
    with pytest.raises(AssertionError):
        assert_same(np.array([-0.0], np.float32), np.array([0.0], np.float32), "sign of zero")
    assert_close(np.array([1000.005]), np.array([1000.0]), 1e-5)
    for wrong in ([1.00002], [np.nan], [np.inf]):
        with pytest.raises(AssertionError):
            assert_close(np.array(wrong), np.array([1.0]), 1e-5)
    with pytest.raises(AssertionError):
        assert_close(np.zeros(2), np.zeros(3), 1.0)


def test_the_splits_hold_empty_single_and_long_pieces() -> None:
    for lengths in checks.splits(225, seed=3, n=20):
        assert sum(lengths) == 225
        assert len(lengths) >= 5
        assert {0, 1} <= set(lengths)
    assert any(n > 32 for lengths in checks.splits(225, seed=3, n=3) for n in lengths)
