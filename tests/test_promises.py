"""What DESIGN.md promises, over every op: one function a promise, see ``checks.py``."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import checks
import streamrnn as s
from checks import LONG, assert_same, frame, parts, piece
from streamrnn import (
    ConfigError,
    FrameError,
    Input,
    Layer,
    Model,
    Sequential,
    StateError,
    Stream,
    concat,
)
from zoo import CASES, Case, find, random_frames, trained

every_case = pytest.mark.parametrize("case", CASES, ids=repr)


@every_case
def test_kernels_compute_the_plain_equations(case: Case) -> None:
    checks.check_reference(case)


@every_case
def test_any_split_into_blocks_gives_the_same_bits(case: Case) -> None:
    checks.check_chunks(case)


@every_case
def test_reset_in_mid_stream_leaves_nothing_behind(case: Case) -> None:
    checks.check_reset(case)


@every_case
def test_two_streams_of_one_model_do_not_touch_each_other(case: Case) -> None:
    checks.check_neighbours(case)


@every_case
def test_a_call_that_raises_leaves_the_state_as_it_was(case: Case) -> None:
    checks.check_rollback(case)


@every_case
def test_a_snapshot_continues_elsewhere_as_if_never_stopped(case: Case) -> None:
    checks.check_snapshot(case)


@every_case
def test_inputs_and_results_belong_to_the_caller(case: Case) -> None:
    checks.check_aliasing(case)


@every_case
def test_out_gets_the_same_bits(case: Case) -> None:
    checks.check_out(case)


@every_case
def test_states_are_read_and_assigned_all_or_nothing(case: Case) -> None:
    checks.check_state(case)


@every_case
def test_a_file_keeps_the_model_bit_for_bit(case: Case, tmp_path: Path) -> None:
    checks.check_file(case, tmp_path)


@every_case
def test_nonfinite_frames_are_treated_as_the_policy_says(case: Case) -> None:
    checks.check_policies(case)


# Chunks: hypothesis looks for the split that nobody thought of ------------------------------------

_SUBTLE = [
    find(name)
    for name in (
        "LSTM 3 layers",
        "GRUCell reset before 17-33",
        "Conv1d k3 dilation 5 stride 3",
        "Conv1d k2 stride 5",
        "Conv1d k4 dilation 20",
        "Context 5 before 3",
        "strided front end and GRU",
        "many branches",
    )
]


@pytest.mark.parametrize("case", _SUBTLE, ids=repr)
@given(lengths=st.lists(st.integers(0, 70), min_size=3, max_size=12))
def test_no_split_that_hypothesis_finds_changes_a_bit(case: Case, lengths: list[int]) -> None:
    xs = case.frames(sum(lengths), seed=20)
    whole, stream = case.model.stream(), case.model.stream()
    wanted = whole.run(xs)
    assert_same(checks.run_in_pieces(stream, xs, lengths), wanted, f"pieces {lengths}")
    checks.assert_same_states(stream, whole, f"pieces {lengths}")


@pytest.mark.parametrize("case", _SUBTLE, ids=repr)
@given(
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("run"), st.integers(0, 40)),
            st.tuples(st.sampled_from(["step", "reset", "snapshot", "fork", "error"]), st.just(1)),
        ),
        min_size=4,
        max_size=14,
    )
)
def test_no_sequence_of_calls_loses_the_thread(case: Case, calls: list[tuple[str, int]]) -> None:
    """A stream that is stepped, run, saved, forked and annoyed in any order = one run."""
    xs = case.frames(sum(n for _, n in calls), seed=21)
    stream, plain = case.model.stream(), case.model.stream()
    at = 0
    for what, n in calls:
        block = piece(xs, at, at + n)
        if what == "run":
            assert_same(stream.run(block), plain.run(block), what)
        elif what == "step":
            got, wanted = stream.step(frame(block, 0)), plain.run(block)
            if got is None:
                assert len(parts(wanted)[0]) == 0
            else:
                assert_same(got, tuple(y[0] for y in parts(wanted)), what)
        elif what == "reset":
            stream.reset()
            plain = case.model.stream()
        elif what == "fork":
            stream = stream.fork()
        elif what == "snapshot":
            saved, stream = stream.snapshot(), case.model.stream()
            stream.restore(saved)
        else:
            with pytest.raises(FrameError):
                stream.run(np.full_like(parts(block)[0], np.nan))
        at += n
    checks.assert_same_states(stream, plain, "in the end")


# Snapshots ----------------------------------------------------------------------------------------


def test_a_snapshot_continues_in_another_process(tmp_path: Path) -> None:
    case = find("strided front end and GRU")
    xs = case.frames(LONG, seed=22)
    stream = case.model.stream()
    stream.run(xs[:38])
    case.model.save(tmp_path / "model.safetensors")
    (tmp_path / "snapshot").write_bytes(stream.snapshot())
    np.save(tmp_path / "xs.npy", xs[38:])
    code = (
        "import sys, pathlib, numpy as np, streamrnn\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "stream = streamrnn.load(folder / 'model.safetensors').stream()\n"
        "stream.restore((folder / 'snapshot').read_bytes())\n"
        "np.save(folder / 'ys.npy', stream.run(np.load(folder / 'xs.npy')))\n"
        "(folder / 'end').write_bytes(stream.snapshot())\n"
    )
    root = str(Path(s.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root)
    assert_same(np.load(tmp_path / "ys.npy"), stream.run(xs[38:]), "in another process")
    assert (tmp_path / "end").read_bytes() == stream.snapshot()


def _taken_apart(snapshot: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the metadata of a snapshot."""
    header = json.loads(snapshot[8 : 8 + int.from_bytes(snapshot[:8], "little")])
    return load_tensors(snapshot), json.loads(header["__metadata__"]["streamrnn"])


def _saying(**changes: Any) -> Callable[[bytes], bytes]:
    """Return a function that changes a snapshot's metadata."""

    def edit(good: bytes) -> bytes:
        tensors, meta = _taken_apart(good)
        return save_tensors(tensors, {"streamrnn": json.dumps(meta | changes)})

    return edit


def _holding(**changes: np.ndarray | None) -> Callable[[bytes], bytes]:
    """Return a function that changes a snapshot's arrays (None takes one out)."""

    def edit(good: bytes) -> bytes:
        tensors, meta = _taken_apart(good)
        named = {name.replace("__", "."): array for name, array in changes.items()}
        kept = {n: a for n, a in (tensors | named).items() if a is not None}
        return save_tensors(kept, {"streamrnn": json.dumps(meta)})

    return edit


def _with_text(text: str) -> Callable[[bytes], bytes]:
    """Return a function that replaces a snapshot's metadata."""
    return lambda good: save_tensors(load_tensors(good), {"streamrnn": text})


_BAD_SNAPSHOTS: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "nothing": (lambda good: b"", "not a snapshot"),
    "garbage": (lambda good: bytes(range(256)), "not a snapshot"),
    "a huge header": (lambda good: b"\xff" * 8 + good[8:], "not a snapshot"),
    "half of it": (lambda good: good[: len(good) // 2], "not a snapshot"),
    "text": (lambda good: "snapshot", "not a snapshot"),
    "None": (lambda good: None, "not a snapshot"),
    "a number": (lambda good: 17, "not a snapshot"),
    "a number that asks for a petabyte": (lambda good: 10**15, "not a snapshot"),
    "another model": (
        lambda good: find("GRUCell 5-20").model.stream().snapshot(),
        "another model",
    ),
    "a newer version": (_saying(snapshot=99), "update streamrnn"),
    "a version in words": (_saying(snapshot="new"), "not a snapshot"),
    "a negative clock": (_saying(frames=-1), "frames"),
    "a clock beyond all bounds": (_saying(frames=1 << 63), "frames"),
    "a clock that is infinite": (_saying(frames=float("inf")), "not a snapshot"),
    "no metadata": (lambda good: save_tensors(load_tensors(good)), "not a snapshot"),
    "metadata too deep": (_with_text("[" * 100_000), "not a snapshot"),
    "metadata that is a list": (_with_text("[1, 2]"), "not a snapshot"),
    "a state missing": (_holding(gru_0__h=None), "damaged"),
    "a state more": (_holding(extra=np.zeros(3, np.float32)), "damaged"),
    "a state of another shape": (_holding(gru_0__h=np.zeros(3, np.float32)), r"gru_0\.h"),
    "a state in float64": (_holding(gru_0__h=np.zeros(17)), r"gru_0\.h"),
    "a held frame of another shape": (_holding(held=np.zeros(1, np.float32)), "held"),
}
_FRONT_END = find("strided front end and GRU")


def _front_end_snapshot() -> bytes:
    stream = _FRONT_END.model.stream()
    stream.run(_FRONT_END.frames(13, seed=23))
    return stream.snapshot()


@pytest.mark.parametrize("what", _BAD_SNAPSHOTS)
def test_a_bad_snapshot_is_refused_and_changes_nothing(what: str) -> None:
    make, message = _BAD_SNAPSHOTS[what]
    stream = _FRONT_END.model.stream()
    stream.run(_FRONT_END.frames(29, seed=24))
    before = stream.snapshot()
    with pytest.raises(StateError, match=message):
        stream.restore(make(_front_end_snapshot()))
    assert stream.snapshot() == before


def test_a_snapshot_cut_short_anywhere_is_refused() -> None:
    good = _front_end_snapshot()
    stream = _FRONT_END.model.stream()
    stream.run(_FRONT_END.frames(29, seed=24))
    before = stream.snapshot()
    for n in range(0, len(good), 20):
        with pytest.raises(StateError, match="not a snapshot"):
            stream.restore(good[:n])
        assert stream.snapshot() == before


def test_a_snapshot_of_a_model_with_other_weights_is_refused() -> None:
    case = find("GRUCell 5-20")
    other = trained(case.build(), seed=99).stream()
    with pytest.raises(StateError, match="other weights"):
        case.model.stream().restore(other.snapshot())


def test_a_snapshot_of_a_model_with_other_connections_is_refused() -> None:
    """The same ops with the same weights, the other way round, are another model."""

    def build(swap: bool) -> Model:
        x = Input(4)
        a = s.GRUCell(4, 4, name="a", seed=1)(x)
        b = s.GRUCell(4, 4, name="b", seed=2)(x)
        return Model(x, s.Sub(name="sub")(b, a) if swap else s.Sub(name="sub")(a, b))

    assert build(False).program().fingerprint == build(False).program().fingerprint
    with pytest.raises(StateError, match="another model"):
        build(True).stream().restore(build(False).stream().snapshot())


@settings(max_examples=150)
@given(data=st.data())
def test_no_mutation_of_a_snapshot_crashes_or_half_restores(data: st.DataObject) -> None:
    good = _front_end_snapshot()
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["byte", "header", "cut", "insert", "delete"]))
        position = data.draw(st.integers(0, len(raw) - 1))
        if kind == "byte":
            raw[position] = data.draw(st.integers(0, 255))
        elif kind == "header":  # where most of the structure is
            header = 8 + int.from_bytes(good[:8], "little")
            raw[position % min(header, len(raw))] = data.draw(
                st.one_of(st.integers(0, 255), st.sampled_from(list(b'0129{}[]",:-.e')))
            )
        elif kind == "cut":
            raw = raw[: max(position, 1)]
        elif kind == "insert":
            raw[position:position] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del raw[position : position + 3]
            raw = raw or bytearray(b"x")
    stream = _FRONT_END.model.stream()
    stream.run(_FRONT_END.frames(29, seed=24))
    before = stream.snapshot()
    try:
        stream.restore(bytes(raw))
    except StateError:
        assert stream.snapshot() == before
        return
    saved = stream.snapshot()  # accepted: then it is a whole state, and the stream runs on
    other = _FRONT_END.model.stream()
    other.restore(saved)
    assert other.snapshot() == saved
    assert stream.frames >= 0
    xs = _FRONT_END.frames(20, seed=25)
    assert_same(stream.run(xs), other.run(xs), "after a snapshot that was accepted")


# Memory -------------------------------------------------------------------------------------------


def _warm(case_or_model: Case | Layer, frames: int) -> tuple[Any, list[Any], Any]:
    """Return a warm stream, frames for `step`, and `out` for it."""
    model = case_or_model.model if isinstance(case_or_model, Case) else case_or_model
    xs = case_or_model.frames(64) if isinstance(case_or_model, Case) else random_frames(model, 64)
    stream = model.stream()
    outs = tuple(np.zeros(y.shape[1:], np.float32) for y in parts(stream.run(xs)))
    out = outs if len(outs) > 1 else outs[0]
    each = [frame(xs, t) for t in range(64)]
    for t in range(frames):
        stream.step(each[t % 64], out)
    return stream, each, out


def _growth(stream: Any, each: list[Any], out: Any, steps: int) -> tuple[int, int, int]:
    """Return (objects kept, bytes kept, most bytes at any time) over `steps` steps.

    The least of three rounds: another thread of the test runner may allocate in between, but what a
    step keeps is kept in every round.
    """
    rounds = [_growth_once(stream.step, each, out, steps) for _ in range(3)]
    objects, grown, peak = (min(column) for column in zip(*rounds, strict=True))
    return objects, grown, peak


def _growth_once(step: Any, each: list[Any], out: Any, steps: int) -> tuple[int, int, int]:
    gc.disable()  # what only the collector would free counts as kept
    tracemalloc.start()
    try:
        for t in range(64):
            step(each[t], out)
        tracemalloc.reset_peak()
        blocks, before = sys.getallocatedblocks(), tracemalloc.get_traced_memory()[0]
        for t in range(steps):
            step(each[t & 63], out)
        kept, (after, peak) = sys.getallocatedblocks() - blocks, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    return kept, after - before, peak - before


@every_case
def test_a_step_into_out_keeps_no_object(case: Case) -> None:
    kept, grown, _ = _growth(*_warm(case, 64), steps=256)
    assert kept < 16, f"{kept} objects were kept in 256 steps"
    assert grown < 1024, f"{grown} bytes were kept in 256 steps"


def test_ten_thousand_steps_of_a_cell_keep_nothing() -> None:
    kept, grown, peak = _growth(*_warm(find("LSTMCell 5-20"), 1000), steps=10_000)
    assert kept < 16
    assert grown < 512
    assert peak < 2048


_N = 4096
"""Numbers in a frame: a buffer for one would be 16 KiB, far above what Python needs for a call."""


def _large(kind: str) -> Layer:
    x = Input(_N)
    if kind == "one vector":
        return Model(x, s.Tanh()(x))
    if kind == "planes":
        plane = Input((64, 64))
        return Model(plane, s.Tanh()(plane))
    if kind == "two inputs":
        y = Input(_N)
        return Model([x, y], x + y)
    if kind == "two outputs":
        return Model(x, [s.Tanh()(x), s.ReLU()(x)])
    if kind == "half the rate":
        return Sequential(s.Conv1d(_N, _N, 2, stride=2, groups=_N))
    assert kind == "indices"
    ids = Input((_N,), dtype="int64")
    return Model(ids, s.Embedding(9, 2)(ids))


@pytest.mark.parametrize(
    "kind",
    ["one vector", "planes", "two inputs", "two outputs", "half the rate", "indices"],
)
def test_a_step_into_out_takes_no_buffer_of_a_frame(kind: str) -> None:
    stream, each, out = _warm(_large(kind), 8)
    _, grown, peak = _growth(stream, each, out, steps=100)
    assert grown < 1024
    assert peak < 4 * _N, f"a step of {kind} takes {peak} bytes on the way"


def test_two_hundred_thousand_steps_do_not_grow_the_process() -> None:
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("no /proc/self/statm to read the size of this process from")

    def resident() -> int:
        return int(status.read_text().split()[1]) * 4096

    stream, each, out = _warm(find("GRUCell 3-3"), 20_000)
    gc.collect()
    before = resident()
    step, x = stream.step, each[0]
    for _ in range(200_000):
        step(x, out)
    grown = resident() - before
    assert grown < 2 << 20, f"{grown} bytes more after 200,000 steps: {grown / 200_000:.1f} a step"


def test_forks_and_streams_are_freed() -> None:
    model = _large("one vector")
    stream = model.stream()
    tracemalloc.start()
    try:
        for _ in range(3):
            stream.fork()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            stream.fork().snapshot()
            model.stream().step(np.zeros(_N, np.float32))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 4 * _N
    finally:
        tracemalloc.stop()


# Frames as they come: read-only, mapped, misaligned, foreign, overlapping -------------------------


@pytest.mark.parametrize(
    "name", ["GRUCell 5-20", "FrameConv1d padding", "Conv1d k3 stride 2", "Add (20,)"]
)
def test_arrays_of_any_origin_give_the_same_bits(name: str, tmp_path: Path) -> None:
    case = find(name)
    xs = case.frames(40, seed=30)
    wanted = case.model.stream().run(xs)

    def read_only(x: np.ndarray) -> np.ndarray:
        return np.frombuffer(x.tobytes(), np.float32).reshape(x.shape)

    def mapped(x: np.ndarray) -> np.ndarray:
        path = tmp_path / f"{id(x)}.raw"
        path.write_bytes(x.tobytes())
        return np.memmap(path, np.float32, "r", shape=x.shape)

    for make in (read_only, mapped, checks.misaligned):
        made = tuple(make(x) for x in parts(xs))
        given = made if len(made) > 1 else made[0]
        assert_same(case.model.stream().run(given), wanted, make.__name__)
        assert_same(
            checks.run_in_steps(case.model.stream(), given), wanted, f"{make.__name__}, steps"
        )


def test_a_frame_in_the_other_byte_order_is_refused_in_words() -> None:
    stream = find("GRUCell 5-20").model.stream()
    with pytest.raises(FrameError, match=r"float32, got >f4: convert"):
        stream.step(np.zeros(5, ">f4"))


def test_a_result_may_not_overwrite_what_is_still_to_be_read() -> None:
    stream = Sequential(Input(4), s.Tanh()).stream()
    xs = np.ones((10, 4), np.float32)
    with pytest.raises(FrameError, match="overlaps"):
        stream.run(xs, out=xs)
    buffer = np.ones((11, 4), np.float32)
    with pytest.raises(FrameError, match="overlaps"):
        stream.run(buffer[:10], out=buffer[1:])
    assert stream.frames == 0
    pair = Model([a := Input(4), b := Input(4)], [a + b, a - b]).stream()
    ys = np.ones((10, 4), np.float32)
    with pytest.raises(FrameError, match="overlaps"):
        pair.run((xs, ys), out=(np.empty_like(xs), ys))


def test_two_outputs_may_not_go_to_one_place() -> None:
    stream = Model(x := Input(4), [x + 1.0, x - 1.0]).stream()
    same = np.empty((10, 4), np.float32)
    with pytest.raises(FrameError, match="overlap"):
        stream.run(np.ones((10, 4), np.float32), out=(same, same))


def test_a_step_in_place_is_right_or_refused_but_the_same_for_all_models() -> None:
    """A frame is read before its result is written, so a step could go on in place."""
    outcomes = {}
    for name in ("RNNCell 3-3", "GRUCell 3-3", "Reshape and Linear", "outputs of all kinds"):
        case = find(name)
        program = case.model.program()
        if program.input_size != program.output_size:
            continue
        xs = case.frames(1, seed=31)
        wanted = case.model.stream().step(xs[0])
        x = xs[0].copy()
        try:
            assert_same(case.model.stream().step(x, out=x), wanted, name)
            outcomes[name] = "right"
        except FrameError:
            outcomes[name] = "refused"
    flat, plane = Sequential(Input(6), s.Tanh()), Sequential(Input((2, 3)), s.Tanh())
    for name, model in (("flat", flat), ("plane", plane)):
        x = np.ones(model.program().inputs[0].shape, np.float32)
        try:
            assert model.stream().step(x, out=x)[..., 0].flat[0] == np.float32(np.tanh(1.0))
            outcomes[name] = "right"
        except FrameError:
            outcomes[name] = "refused"
    assert len(set(outcomes.values())) == 1, outcomes


def test_single_numbers_are_frames_too() -> None:
    """Indices and samples come out of an array as NumPy scalars; results have the stated shape."""
    ids = np.array([3, 0, 4])
    table = trained(s.Embedding(5, 3))
    wanted = table.stream().run(ids)
    stream = table.stream()
    assert_same(np.array([stream.step(i) for i in ids]), wanted, "indices as they come")
    stream = table.stream()
    assert_same(np.array([stream.step(int(i)) for i in ids]), wanted, "indices as ints")

    gain = Sequential(Input(()), s.Scale(2.0))
    xs = np.array([1.0, 2.0, 3.0], np.float32)
    stream = gain.stream()
    for x in xs:
        y = stream.step(x)
        assert y.shape == ()
        assert y == 2 * x


@pytest.mark.parametrize("wrong", [3, 7, None, "drop", ""])
def test_an_unknown_policy_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="on_nonfinite must be one of raise, propagate, hold"):
        s.GRUCell(3, 3).stream(wrong)


def test_propagate_shows_the_nan_and_raise_names_the_frame() -> None:
    case = find("GRUCell 3-3")
    xs = case.frames(60, seed=32)
    wanted = case.model.stream().run(xs)
    xs[47, 1] = np.nan
    ys = case.model.stream("propagate").run(xs)
    assert_same(ys[:47], wanted[:47], "before the NaN")
    assert np.isnan(ys[47:]).all(), "a NaN disappears in the state"
    with pytest.raises(
        s.NonFiniteError, match=r"NaN or an infinity \(frame 47 of the block of 60\)"
    ):
        case.model.stream().run(xs)
    with pytest.raises(s.NonFiniteError, match="NaN or an infinity; the state is as it was"):
        case.model.stream().step(xs[47])


def test_every_message_about_a_frame_says_what_to_do() -> None:
    stream = find("GRUCell 5-20").model.stream()
    x = np.zeros(5, np.float32)
    for call, message in (
        (lambda: stream.step(x[None]), r"shape \(5,\) for `step`, got \(1, 5\): a block .* `run`"),
        (lambda: stream.run(x), r"shape \(T, 5\) for `run`, got \(5,\): a single frame .* `step`"),
        (lambda: stream.step(np.zeros(5)), r"float32, got float64: convert with x\.astype"),
        (lambda: stream.step([0.0] * 5), r"`x` must be a numpy array of float32, .* got list"),
        (lambda: stream.step(np.zeros(10, np.float32)[::2]), "C-contiguous.*ascontiguousarray"),
        (lambda: stream.step(x, np.zeros(20)), r"`out` must be float32 of shape \(20,\)"),
        (lambda: stream.step(x, np.zeros(40, np.float32)[::2]), "`out` must be C-contiguous"),
    ):
        with pytest.raises(FrameError, match=message):
            call()
    table = find("Embedding 7-1").model.stream()
    with pytest.raises(FrameError, match="indices from 0 to 6, got 7 to 7"):
        table.step(np.array(7))
    with pytest.raises(FrameError, match="must be integers, got float32"):
        table.step(np.array(1.0, np.float32))
    pair = find("Add (20,)").model.stream()
    with pytest.raises(FrameError, match=r"2 inputs \(x_0, x_1\): pass a tuple of 2 arrays"):
        pair.step(np.zeros(20, np.float32))
    with pytest.raises(FrameError, match="same number of frames"):
        pair.run((np.zeros((3, 20), np.float32), np.zeros((4, 20), np.float32)))


def test_planes_and_several_arrays_are_checked_like_one_vector() -> None:
    plane = Input((2, 3))
    stream = Sequential(plane, s.Tanh()).stream()
    x, wide = np.zeros((2, 3), np.float32), np.zeros((2, 6), np.float32)[:, ::2]
    read_only = np.zeros((2, 3), np.float32)
    read_only.flags.writeable = False
    a, b = Input(2), Input((3, 2))
    several = Model([a, b], [a + 1.0, b + 2.0]).stream()
    u, v = np.zeros(2, np.float32), np.zeros((3, 2), np.float32)
    both = np.zeros(7, np.float32)
    for call, message in (
        (lambda: stream.step(x.reshape(3, 2)), r"shape \(2, 3\) for `step`, got \(3, 2\)"),
        (lambda: stream.step(x.reshape(6)), r"shape \(2, 3\) for `step`, got \(6,\)"),
        (lambda: stream.step(x.astype(np.float64)), "float32, got float64"),
        (lambda: stream.step(wide), "`x.*` must be C-contiguous"),
        (lambda: stream.step(x, x.reshape(6).copy()), r"`out` must be float32 of shape \(2, 3\)"),
        (lambda: stream.step(x, wide), "`out` must be C-contiguous"),
        (lambda: stream.step(x, read_only), "`out` must be C-contiguous, aligned and writeable"),
        (lambda: several.step((u, v.T)), r"shape \(3, 2\) for `step`, got \(2, 3\)"),
        (lambda: several.step((u, v, v)), "2 inputs"),
        (lambda: several.step((u, v), u), "`out` must be a tuple of 2 arrays"),
        (lambda: several.step((u, v), (u, v.T)), r"`out` must be float32 of shape \(3, 2\)"),
        (lambda: several.step((u, v), (u, v.astype(int))), "`out` must be float32"),
        (lambda: several.step((u, v), (both[:2], both[1:].reshape(3, 2))), "overlap"),
        (lambda: several.step((u, v * np.nan)), "holds a NaN"),
    ):
        with pytest.raises(FrameError, match=message):
            call()
    assert stream.frames == several.frames == 0
    x[1, 2], v[2, 1] = 1.0, 1.0
    assert stream.step(x, x) is x
    assert x[1, 2] == np.float32(np.tanh(1.0))
    out = (both[:2], np.zeros((3, 2), np.float32))
    assert several.step((u, v), out) is out
    assert_same(out, several.step((u, v)), "into `out`, and into new arrays")
    assert out[0].tolist() == [1.0, 1.0]
    assert out[1].tolist() == [[2.0, 2.0], [2.0, 2.0], [2.0, 3.0]]


def test_streams_in_threads_do_not_touch_each_other() -> None:
    """The interpreter lock is released while a stream runs, so these do run at the same time."""
    case = find("LSTM 3 layers")
    program = case.model.program()
    blocks = [case.frames(400, seed=k) for k in range(4)]
    wanted = [Stream(program).run(xs) for xs in blocks]
    for _ in range(5):
        streams = [Stream(program) for _ in blocks]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(Stream.run, streams, blocks))
        for got, right in zip(results, wanted, strict=True):
            assert_same(got, right, "in a thread")


@pytest.mark.parametrize("values", [3, [], None, "h", {"gru_0.h": [[1.0], [1.0, 2.0]]}, {3: 4}])
def test_what_is_no_state_is_refused(values: Any) -> None:
    stream = find("GRUCell 3-3").model.stream()
    with pytest.raises(StateError):
        stream.state = values


def test_a_stream_is_not_pickled_by_accident() -> None:
    stream = find("GRUCell 5-20").model.stream()
    stream.run(find("GRUCell 5-20").frames(9))
    with pytest.raises(TypeError, match="snapshot"):
        pickle.dumps(stream)
    for twin in (copy.copy(stream), copy.deepcopy(stream)):
        checks.assert_same_states(twin, stream, "a copied stream")


def test_a_stream_says_the_shape_of_its_outputs() -> None:
    for case in CASES[::4]:
        stream = case.model.stream()
        shapes = stream.output_shape
        ys = parts(stream.run(case.frames(3)))
        assert (shapes if len(ys) > 1 else (shapes,)) == tuple(y.shape[1:] for y in ys)
    stream = find("GRUCell 5-20").model.stream()
    out = np.empty(stream.output_shape, np.float32)
    assert stream.step(np.zeros(5, np.float32), out) is out


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_model_is_copied_or_refused_in_words(how: str) -> None:
    case = find("GRU 3 layers").again()
    xs = case.frames(20)
    wanted = case.model.run(xs)  # the layer now has a program and a stream of its own
    duplicate = copy.deepcopy if how == "deepcopy" else lambda m: pickle.loads(pickle.dumps(m))
    twin, refusal = None, ""
    try:
        twin = duplicate(case.model)
    except TypeError as error:
        refusal = str(error)
    if twin is None:
        assert "save" in refusal, f"the error does not say what to do: {refusal}"
        return
    assert_same(twin.stream().run(xs), wanted, how)
    twin.load_state_dict({name: 0 * array for name, array in twin.state_dict().items()})
    assert_same(case.model.stream().run(xs), wanted, "the model itself, after its copy changed")


def test_streams_and_states_show_themselves() -> None:
    stream = find("LSTMCell 5-20").model.stream()
    stream.run(find("LSTMCell 5-20").frames(7))
    assert repr(stream) == "Stream(inputs ((5,),), 7 frames so far)"
    assert repr(stream.state) == "StateView({'lstm_0.h': (20,), 'lstm_0.c': (20,)})"
    assert repr(find("nested models").model).startswith("Sequential(Sequential(Linear(")


# Rates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_step_says_none_until_a_frame_is_due(stride: int) -> None:
    model = trained(s.Conv1d(2, 3, 4, stride=stride))
    xs = random_frames(model, 50)
    stream = model.stream()
    due = [stream.step(x) is not None for x in xs]
    assert due == [t % stride == 0 for t in range(50)]
    for T in range(12):
        stream = model.stream()
        for offset in range(5):
            wanted = len([t for t in range(offset * T, (offset + 1) * T) if t % stride == 0])
            assert len(stream.run(xs[:T])) == wanted


def test_rates_multiply_along_a_chain() -> None:
    case = find("strided front end and GRU")
    xs = case.frames(61, seed=33)
    stream = case.model.stream()
    assert [t for t in range(61) if stream.step(xs[t]) is not None] == list(range(0, 61, 6))
    assert case.model.program().clock.stride == 6


def test_a_reset_between_two_due_frames_restarts_the_rate() -> None:
    model = trained(s.Conv1d(2, 3, 2, stride=4))
    stream = model.stream()
    xs = random_frames(model, 6)
    stream.run(xs)  # frames 0 and 4 were due, 8 would be next
    stream.reset()
    assert stream.step(xs[0]) is not None


def test_no_frames_are_a_block_too() -> None:
    for case in CASES[::5]:
        stream = case.model.stream()
        xs = case.frames(5)
        empty = stream.run(piece(xs, 0, 0))
        assert all(len(y) == 0 for y in parts(empty))
        assert stream.frames == 0
        outs = tuple(np.empty((0, *y.shape[1:]), np.float32) for y in parts(empty))
        stream.run(piece(xs, 0, 0), outs if len(outs) > 1 else outs[0])
        checks.assert_same_states(stream, case.model.stream(), "after no frames")


def test_concat_of_streams_with_and_without_memory_keeps_each_in_its_place() -> None:
    x = Input(3)
    model = trained(Model(x, concat(s.GRUCell(3, 2, name="a")(x), x)))
    ys = model.stream().run(xs := random_frames(model, 40))
    assert_same(np.ascontiguousarray(ys[:, 2:]), xs, "what passes through")
