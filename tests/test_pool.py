"""Pools: what a stream gives among others is what it gives alone, bit for bit, whatever happens."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_same
from streamrnn import ConfigError, FrameError, NonFiniteError, StateError, StreamError
from streamrnn.kernels.pool import EACH, MANY, TOGETHER
from zoo import CASES, Case, random_frames, trained

F32 = np.float32


def tuples(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


def row(batch: Any, i: int) -> Any:
    """Return frame i of a block of one or of several inputs."""
    parts = tuple(part[i] for part in tuples(batch))
    return parts if isinstance(batch, tuple) else parts[0]


def rows(frames: list[Any]) -> Any:
    """Return frames as the rows of a batch."""
    if isinstance(frames[0], tuple):
        return tuple(np.stack(part) for part in zip(*frames, strict=True))
    return np.stack(frames)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_neighbours_change_nothing(case: Case) -> None:
    model, pool = case.model, case.model.pool(on_nonfinite="propagate")
    rng = np.random.default_rng(0)
    alone: dict[int, s.Stream] = {}
    for moment in range(10):  # streams of different ages, any subset of them in any order
        if moment in (0, 1, 3):
            for id_ in pool.join(3).tolist():
                alone[id_] = model.stream(on_nonfinite="propagate")
        if moment == 4:
            gone = int(rng.choice(pool.ids))
            pool.leave(gone)
            del alone[gone]
        ids = rng.permutation(pool.ids)[: rng.integers(1, len(pool) + 1)]
        batch = case.frames(len(ids), seed=moment)
        got = tuples(pool.step(batch, ids))
        for i, id_ in enumerate(ids.tolist()):
            wanted = alone[id_].step(row(batch, i))
            assert pool.due[i] == (wanted is not None)
            if wanted is not None:
                for mine, his in zip(got, tuples(wanted), strict=True):
                    assert_same(mine[i], his, f"stream {id_} in step {moment}")
            else:
                assert all(np.isnan(part[i]).all() for part in got)
    for id_, stream in alone.items():
        assert pool[id_].frames == stream.frames
        for name, state in stream.state.items():
            assert_same(pool[id_].state[name], state, f"{name} of stream {id_}")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_more_streams_than_go_through_the_tape_at_once(threads: int) -> None:
    model = trained(s.Sequential(s.LSTM(5, 20, num_layers=2), s.Conv1d(20, 7, 3), s.GRU(7, 3)))
    pool = model.pool(threads=threads)
    n = 2 * model.program().pool_tape.group + 5
    pool.join(n)
    xs = random_frames(model, 3 * n, 1).reshape(3, n, 5)
    got = np.stack([pool.step(batch) for batch in xs], 1)
    for i in range(n):
        assert_same(got[i], model.stream().run(np.ascontiguousarray(xs[:, i])), f"stream {i}")


@pytest.mark.parametrize("threads", [1, 2])
def test_all_streams_of_a_group_have_a_frame_at_a_lower_rate(threads: int) -> None:
    """As many frames as there are streams: in a block of one stream there would be a fifth."""
    model = trained(
        s.Sequential(s.Conv1d(4, 100, 3, stride=5), s.Tanh(), s.Delay(1), s.GRU(100, 20))
    )
    pool = model.pool(threads=threads)
    n = 2 * model.program().pool_tape.group
    pool.join(n)
    alone = [model.stream() for _ in range(n)]
    for t, batch in enumerate(random_frames(model, 12 * n, 5).reshape(12, n, 4)):
        got = pool.step(batch)
        for i, stream in enumerate(alone):
            wanted = stream.step(batch[i])
            if wanted is not None:
                assert_same(got[i], wanted, f"stream {i} in step {t}")


def test_weights_serve_all_streams_where_it_counts() -> None:
    model = s.Sequential(
        s.Conv1d(8, 8, 3), s.Linear(8, 8), s.LSTM(8, 8), s.GRU(8, 8), s.RNN(8, 8),
        s.GRU(8, 8, reset_after=False), s.Delay(2),
    )  # fmt: skip
    how = model.program().pool_tape.how[:, 0].tolist()
    assert how == [MANY, TOGETHER, MANY, MANY, MANY, MANY, EACH]


def _pool(policy: str = "raise") -> tuple[s.Layer, s.Pool, np.ndarray]:
    model = trained(s.Sequential(s.GRU(4, 6), s.Linear(6, 2)))
    pool = model.pool(policy)
    return model, pool, pool.join(5)


def test_errors_leave_all_states_as_they_were() -> None:
    _, pool, ids = _pool()
    x = np.ones((5, 4), F32)
    pool.step(x)
    before, due = [pool[i].snapshot() for i in ids.tolist()], pool.due
    bad = x.copy()
    bad[3, 1] = np.nan
    gone = pool.join()
    pool.leave(gone)
    calls: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (NonFiniteError, rf"stream {ids[3]} \(row 3\) holds a NaN", (bad,), {}),
        (FrameError, "a row for each of the 5 streams of this step, got 4", (x[:4],), {}),
        (FrameError, r"must have shape \(T, 4\)", (x[:, :3],), {}),
        (FrameError, "must be float32, got float64", (x.astype(float),), {}),
        (StreamError, f"no stream with the id {gone} in this pool of 5", (x[:1], [gone]), {}),
        (StreamError, "no stream with the id 77 ", (x[:1], [77]), {}),
        (StreamError, "no stream with the id -1 ", (x[:1], [-1]), {}),
        (StreamError, "no stream with the id 6 ", (x[:1], [6]), {}),  # nobody has had it yet
        (StreamError, f"no stream with the id {gone + 2**32} ", (x[:1], [gone + 2**32]), {}),
        (FrameError, r"`ids` must be integers of shape \(n,\)", (x[:1], [2**70]), {}),
        (FrameError, r"`ids` must be integers of shape \(n,\)", (x[:2], [[0], 1]), {}),
        (FrameError, r"`ids` must be integers of shape \(n,\)", (x[:1], [True]), {}),
        (StreamError, "row 2: the id 1 is given twice", (x[:3], [1, 0, 1]), {}),
        (FrameError, r"`ids` must be integers of shape \(n,\)", (x[:2], [0.0, 1.0]), {}),
        (FrameError, r"`ids` must be integers of shape \(n,\)", (x[:1], 0), {}),
        (FrameError, r"`out` must be float32 of shape \(5, 2\)", (x,), {"out": np.ones((4, 2))}),
    ]
    for error, message, args, kwargs in calls:
        with pytest.raises(error, match=message):
            pool.step(*args, **kwargs)
    assert [pool[i].snapshot() for i in ids.tolist()] == before
    assert pool.due is due
    assert due.tolist() == [True] * 5


def test_a_frame_may_be_a_number() -> None:
    x = s.Input(())
    pool = s.Model(x, x * 2.0).pool()
    pool.join(2)
    assert pool.step(np.ones(2, F32), out=np.empty(2, F32)).tolist() == [2.0, 2.0]
    with pytest.raises(FrameError, match=r"must have shape \(T,\)"):
        pool.step(np.array(1.0, F32), out=np.array(1.0, F32))


def test_joining_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pool, ids = _pool()
    xs = random_frames(model, 5, 6)
    with pytest.raises(ConfigError, match="a pool has at most 2147483648 streams"):
        pool.join(10**15)

    def none_left(floats: int) -> Any:
        raise MemoryError(floats)

    monkeypatch.setattr("streamrnn.pool.aligned", none_left)
    with pytest.raises(MemoryError):
        pool.join(1000)
    monkeypatch.undo()
    assert pool.ids.tolist() == ids.tolist()
    assert_same(pool.step(xs)[4], model.stream().step(xs[4]), "a stream of the pool")
    pool.join(1000)
    assert_same(pool.step(xs[:1], pool.ids[-1:])[0], model.stream().step(xs[0]), "the last one")


def _wide(kind: str) -> s.Layer:
    x, y, n = s.Input(1024), s.Input(1024), s.Input((1024,), "int64")
    return {
        "one vector": s.Model(x, s.Tanh()(x)),
        "two inputs": s.Model((x, y), x + y),
        "two outputs": s.Model(x, [s.Tanh()(x), s.ReLU()(x)]),
        "indices": s.Model(n, s.Embedding(9, 2)(n)),
        "half the rate": s.Model(x, s.Conv1d(1024, 1024, 2, stride=2, groups=1024)(x)),
    }[kind]


@pytest.mark.parametrize("kind", ["one vector", "two inputs", "two outputs", "indices"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_into_out_allocates_nothing(kind: str, threads: int) -> None:
    model = _wide(kind)
    pool = model.pool(threads=threads)
    ids = pool.join(70)
    batch = tuple(np.zeros((70, *v.shape), v.dtype) for v in model.program().inputs)
    out = tuple(np.empty((70, *v.shape), F32) for v in model.program().outputs)
    calls = [
        (
            tuple(a[:n] for a in batch) if len(batch) > 1 else batch[0][:n],
            ids[:n],
            tuple(a[:n] for a in out) if len(out) > 1 else out[0][:n],
        )
        for n in (70, 3, 70)
    ]
    grown, peaks = _growth(lambda: [pool.step(*call) for call in calls])
    assert grown < 1024
    assert peaks < 4096, f"{peaks} bytes on the way; a frame has 4096"


@pytest.mark.parametrize("kind", ["one vector", "two inputs", "two outputs", "half the rate"])
def test_a_step_of_one_stream_of_a_pool_into_out_allocates_nothing(kind: str) -> None:
    model = _wide(kind)
    pool = model.pool()
    stream = pool[pool.join()]
    xs = tuple(np.zeros(v.shape, F32) for v in model.program().inputs)
    outs = tuple(np.empty(v.shape, F32) for v in model.program().outputs)
    x, out = (xs if len(xs) > 1 else xs[0]), (outs if len(outs) > 1 else outs[0])
    grown, peak = _growth(lambda: stream.step(x, out))
    assert grown < 1024
    assert peak < 4096, f"{peak} bytes on the way; a frame has 4096"


def _growth(call: Any) -> tuple[int, int]:
    """Return the bytes that calls keep, and those that they take on the way: the least of three."""
    rounds = []
    for _ in range(3):
        call()
        tracemalloc.start()
        gc.disable()
        try:
            for _ in range(50):  # the interpreter keeps some small objects for reuse, up to a limit
                call()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(50):
                call()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            gc.enable()
            tracemalloc.stop()
        rounds.append((after - before, peak - before))
    return min(kept for kept, _ in rounds), min(peak for _, peak in rounds)


def test_helpers_start_when_needed_and_end_with_their_pool() -> None:
    model = s.LSTM(8, 64, seed=0)
    before = threading.active_count()
    pool = model.pool(threads=3)
    xs = np.zeros((pool.join(64 * 40).size, 8), F32)
    assert threading.active_count() == before, "none is started before it is needed"
    wanted = model.stream().step(xs[0])
    for _ in range(3):
        ys = pool.step(xs)
        assert (ys == ys[0]).all()
    pool.step(xs)
    assert_same(ys[7], model.stream().run(xs[:3])[-1], "after three steps")
    assert not np.array_equal(ys[0], wanted)
    assert threading.active_count() == before + 2
    del pool
    gc.collect()
    for _ in range(500):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_has_helpers_of_its_own() -> None:
    model = s.LSTM(8, 16, seed=0)
    pool = model.pool(threads=2)
    xs = np.ones((pool.join(200).size, 8), F32)
    pool.step(xs)
    child = os.fork()
    if child == 0:
        right = (pool.step(xs) == model.stream().run(xs[:2])[-1]).all()
        os._exit(0 if right else 1)
    deadline = time.monotonic() + 30
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended
    assert status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a signal there ends the process")
def test_an_interrupt_leaves_no_step_half_done() -> None:
    model = s.LSTM(8, 32, seed=0)
    pool = model.pool(threads=2)
    xs = np.ones((pool.join(640).size, 8), F32)
    interrupts = 0
    for delay_s in np.linspace(0.0001, 0.004, 25):
        timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for _ in range(8):
                pool.step(xs)
            timer.join()
        except KeyboardInterrupt:
            interrupts += 1
            timer.join()
        assert len({pool[i].frames for i in pool}) == 1
    assert interrupts > 0
    frames = pool[int(pool.ids[0])].frames
    wanted = model.stream().run(np.ones((frames + 1, 8), F32))[-1]
    assert_same(pool.step(xs)[639], wanted, "the next step")


def test_streams_leave_and_their_ids_with_them() -> None:
    _, pool, ids = _pool()
    view = pool[int(ids[1])]
    pool.leave(ids[1:3])
    assert list(pool) == [ids[0], ids[3], ids[4]]
    assert len(pool) == 3
    assert ids[1] not in pool
    assert ids[0] in pool
    new = pool.join()
    assert new not in ids.tolist(), "the slot is used again, the id is not"
    assert pool.ids.tolist() == [ids[0], ids[3], ids[4], new]
    for attempt in (
        lambda: view.state["gru_0.h"],
        lambda: view.step(np.ones(4, F32)),
        lambda: pool[int(ids[2])],
        lambda: pool.leave(ids[1]),
        lambda: pool.leave([new, new]),
        view.snapshot,
        view.reset,
        view.fork,
    ):
        with pytest.raises(StreamError):
            attempt()
    assert new in pool
    assert len(pool) == 4, "a fork that fails has added nobody"
    two = s.GRU(1, 1).pool()
    two.join(2)
    assert True not in two
    with pytest.raises(StreamError, match="no stream with the id True"):
        two.leave(True)
    for n in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="non-negative integer"):
            pool.join(n)
    with pytest.raises(ConfigError, match="on_nonfinite must be one of"):
        s.GRU(1, 1).pool("ignore")
    with pytest.raises(ConfigError, match="`threads` must be an integer from 1 to 64, got 0"):
        s.GRU(1, 1).pool(threads=0)


def test_one_stream_of_a_pool_is_a_stream() -> None:
    model, pool, ids = _pool()
    xs = random_frames(model, 12, 2)
    alone, mine = model.stream(), pool[int(ids[2])]
    for t in range(4):
        pool.step(np.repeat(xs[t : t + 1], 5, 0))
        wanted = alone.step(xs[t])
    assert_same(mine.step(xs[4]), alone.step(xs[4]), "step")
    assert_same(mine.run(xs[5:8]), alone.run(xs[5:8]), "run")
    assert_same(mine.run(xs[:0]), alone.run(xs[:0]), "no frames")
    assert mine.snapshot() == alone.snapshot()
    other = pool[int(ids[0])]
    other.restore(alone.snapshot())  # from a single stream into a pool
    fork = other.fork()
    assert fork.id not in ids
    assert len(pool) == 6
    wanted = alone.run(xs[8:])
    assert_same(fork.run(xs[8:]), wanted, "fork")
    again = model.stream()
    again.restore(other.snapshot())  # and out of it
    assert_same(again.run(xs[8:]), wanted, "restored")
    other.reset()
    assert other.frames == 0
    assert not other.state["gru_0.h"].any()
    other.state["gru_0.h"] = np.full(6, 0.5, F32)
    assert (pool[int(ids[0])].state["gru_0.h"] == 0.5).all()
    with pytest.raises(StateError, match="no state 'x'"):
        other.state["x"] = np.zeros(1, F32)
    before = other.snapshot()
    xs[10, 0] = np.inf
    with pytest.raises(NonFiniteError, match="frame 2 of the block of 4"):
        other.run(xs[8:])
    assert other.snapshot() == before


@pytest.mark.parametrize("policy", ["hold", "propagate"])
def test_policies_are_those_of_a_stream(policy: str) -> None:
    model, pool, ids = _pool(policy)
    alone = [model.stream(policy) for _ in ids]
    xs = random_frames(model, 20, 3).reshape(4, 5, 4)
    xs[0, 1, 0], xs[2, 3, 2] = np.nan, np.inf
    for batch in xs:
        got = pool.step(batch)
        for i, stream in enumerate(alone):
            assert_same(got[i], stream.step(batch[i]), f"stream {i}")
    for id_, stream in zip(ids.tolist(), alone, strict=True):
        assert pool[id_].snapshot() == stream.snapshot()


@pytest.mark.parametrize("policy", ["raise", "propagate"])
def test_a_held_frame_survives_a_pool_that_holds_none(policy: str) -> None:
    """As in a stream of this policy: a snapshot goes on with the frame elsewhere."""
    model = trained(s.Sequential(s.Conv1d(4, 5, 2, stride=2), s.GRU(5, 6)))
    xs, lost = random_frames(model, 9, 3), np.full(4, np.nan, F32)
    held = model.stream("hold")
    held.run(xs[:3])
    alone = model.stream(policy)
    alone.restore(held.snapshot())
    pool = model.pool(policy)
    id_, fresh = pool.join(2).tolist()
    pool[id_].restore(held.snapshot())
    with pytest.raises(StreamError):
        pool.step(xs[3:5], [id_, id_])
    pool.step(xs[3:5])
    alone.step(xs[3])
    assert pool[id_].snapshot() == alone.snapshot()
    others = (pool[id_], pool[id_].fork(), model.stream("hold"))
    others[2].restore(pool[id_].snapshot())
    others[2].step(lost)
    for stream in others[:2]:
        alone.restore(stream.snapshot())
        held.restore(alone.snapshot())
        held.step(lost)
        assert held.snapshot() == others[2].snapshot()
    assert pool[fresh].snapshot() == _after(model.stream(), xs[4]).snapshot()
    pool[id_].reset()
    assert pool[id_].snapshot() == model.stream().snapshot()
    pool.leave(pool.ids)
    assert not pool._apart


def _after(stream: s.Stream, x: Any) -> s.Stream:
    stream.step(x)
    return stream


def test_a_step_of_no_streams() -> None:
    _, pool, ids = _pool()
    assert pool.step(np.zeros((0, 4), F32), []).shape == (0, 2)
    pool.leave(ids)
    assert pool.step(np.zeros((0, 4), F32)).shape == (0, 2)


def test_coming_and_going_takes_no_more_memory() -> None:
    _, pool, _ = _pool()
    pool.join(60)
    pool.leave(pool.ids[5:])
    chunks = len(pool._chunks)
    for _ in range(2000):
        id_ = pool.join()
        pool.leave(id_)
    assert len(pool._chunks) == chunks
    assert len(pool) == 5


def test_a_waiting_stream_costs_its_state() -> None:
    model = s.LSTM(40, 256)
    pool = model.pool()
    pool.join(640)
    state = 4 * model.program().state_size
    assert sum(chunk.nbytes for chunk in pool._chunks) <= 640 * (state + 64)


def test_several_inputs_and_indices() -> None:
    x, token = s.Input(3), s.Input((), "int64")
    both = s.concat(s.GRU(3, 4)(x), s.Embedding(9, 2)(token))
    model = trained(s.Model((x, token), {"a": s.Linear(6, 2)(both), "b": s.Tanh()(both)}))
    pool, n = model.pool(), 3
    pool.join(n)
    alone = [model.stream() for _ in range(n)]
    out = (np.empty((n, 2), F32), np.empty((n, 6), F32))
    rng = np.random.default_rng(4)
    for step in itertools.repeat(None, 4):
        del step
        batch = (rng.standard_normal((n, 3)).astype(F32), rng.integers(0, 9, n))
        got = pool.step(batch, out=out)
        assert got[0] is out[0]
        assert got[1] is out[1]
        for i, stream in enumerate(alone):
            for mine, his in zip(got, stream.step(row(batch, i)), strict=True):
                assert_same(mine[i], his, f"stream {i}")
    with pytest.raises(FrameError, match="must hold indices from 0 to 8"):
        pool.step((batch[0], np.array([0, 9, 1])))
