"""Streams whose steps several threads share: the same bits, and nothing that waits for ever."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numba import cfunc, types

import streamrnn as s
from checks import LONG, assert_same, frame, piece
from streamrnn import ConfigError, NonFiniteError
from streamrnn.kernels import team as teams
from streamrnn.kernels.atomic import add
from streamrnn.kernels.simd import ints
from streamrnn.kernels.team import Team
from zoo import CASES, Case, find, trained

PATIENCE_S = 60
"""Seconds after which something that ought to happen at once has not happened."""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "other threads did not do what they should"
        time.sleep(0.001)


@pytest.fixture
def everything_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the work of every row that threads can share, however little it is."""
    monkeypatch.setattr(teams, "WORTH", 0)


# Streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.usefixtures("everything_split")
def test_threads_change_nothing_bit_for_bit(case: Case) -> None:
    xs = case.frames(LONG)
    wanted = case.model.stream("propagate").run(xs)
    stream = case.model.stream("propagate", threads=2)
    if stream._walk is None:
        assert stream._advance is case.model.stream()._advance, "no row is split, yet it is slower"
    else:
        run_together(stream, xs, wanted)
        run_together(case.model.stream("propagate", threads=3), xs, wanted)
    stream.reset()
    one = case.model.stream("propagate")
    for t in range(4):
        got, expected = stream.step(frame(xs, t)), one.step(frame(xs, t))
        assert (got is None) == (expected is None)
        if got is not None:
            assert_same(got, expected, f"step {t}")
    assert_same(stream.run(piece(xs, 4, LONG)), one.run(piece(xs, 4, LONG)), "the rest")
    assert_same(tuple(stream.state.values()), tuple(one.state.values()), "state")


def run_together(stream: Any, xs: Any, wanted: Any) -> None:
    """Run until somebody has helped: a member is left out when it comes too late."""
    end = time.monotonic() + PATIENCE_S
    while not stream._walk.joined:
        assert time.monotonic() < end, "no member of the team ever helped"
        time.sleep(0.0002)
        stream.reset()
        assert_same(stream.run(xs), wanted, f"{stream.threads} threads")


@pytest.fixture(scope="module")
def large() -> Any:
    return trained(s.LSTM(40, 96, num_layers=2))


@pytest.fixture(scope="module")
def noise() -> Any:
    return np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)


def test_more_threads_than_cores_come_to_an_end(large: Any, noise: Any) -> None:
    stream = large.stream(threads=8)
    got = np.stack([stream.step(x) for x in noise[:100]])
    assert_same(got, large.stream().run(noise[:100]), "8 threads")


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or not teams._core_address() or teams.cores() < 2,
    reason="needs two cores, and a system that says on which one a thread is",
)
def test_a_member_on_the_callers_core_is_left_out(large: Any, noise: Any) -> None:
    wanted, stream = large.stream().run(noise), large.stream(threads=2)
    run_together(stream, noise, wanted)
    names = {t.name: t.native_id for t in threading.enumerate()}
    together = [0, *(names[n] for n in names if n.startswith("streamrnn team of 2,"))]
    allowed = os.sched_getaffinity(0)
    until(lambda: stream._walk.team._sleepers.value == 1)  # it looks where it is when it wakes
    try:
        for thread in together:
            os.sched_setaffinity(thread, {min(allowed)})
        before = stream._walk.joined
        for _ in range(5):
            stream.reset()
            assert_same(stream.run(noise), wanted, "on one core")
        assert stream._walk.joined == before
    finally:
        for thread in together:
            os.sched_setaffinity(thread, allowed)
    run_together(stream, noise, wanted)


def test_a_team_helps_two_threads_of_a_program_in_turn(large: Any, noise: Any) -> None:
    wanted = large.stream().run(noise)
    streams = [large.stream(threads=2) for _ in range(3)]
    assert len({id(stream._walk.team) for stream in streams}) == 1
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(lambda stream=stream: np.stack([stream.step(x) for x in noise]))
            for stream in streams
        ]
        for job in jobs:
            assert_same(job.result(PATIENCE_S), wanted, "side by side")


def test_what_is_wrong_leaves_the_state_as_it_was(large: Any, noise: Any) -> None:
    stream = large.stream(threads=2)
    stream.run(noise[:10])
    before = stream.snapshot()
    bad = noise[:3].copy()
    bad[2, 5] = np.nan
    with pytest.raises(NonFiniteError):
        stream.run(bad)
    with pytest.raises(s.FrameError):
        stream.step(noise[0, :39].copy())
    assert stream.snapshot() == before


def test_little_work_is_not_shared() -> None:
    assert s.LSTM(40, 16).stream(threads=2)._walk is None
    assert s.LSTM(40, 256).stream(threads=2)._walk is not None


def test_a_fork_has_as_many_threads(large: Any, noise: Any) -> None:
    stream = large.stream(threads=2)
    stream.run(noise[:10])
    other = stream.fork()
    assert other.threads == 2
    assert_same(other.run(noise[10:]), stream.run(noise[10:]), "fork")


def test_a_step_allocates_nothing(large: Any, noise: Any) -> None:
    stream = large.stream(threads=2)
    out = np.empty(96, np.float32)
    rows = list(noise)
    grown = []
    for _ in range(3):
        tracemalloc.start()
        gc.disable()
        for x in rows[:64]:
            stream.step(x, out)
        before = tracemalloc.get_traced_memory()[0]
        for x in rows[64:]:
            stream.step(x, out)
        grown.append(tracemalloc.get_traced_memory()[0] - before)
        gc.enable()
        tracemalloc.stop()
    assert min(grown) < 512


@pytest.mark.parametrize("threads", [0, 65, True, 2.0, "2", None])
def test_impossible_numbers_of_threads_are_refused(threads: Any) -> None:
    with pytest.raises(ConfigError, match="`threads` must be an integer from 1 to 64, got"):
        find("LSTMCell 5-20").model.stream(threads=threads)


# Teams --------------------------------------------------------------------------------------------


@cfunc(types.void(types.int64, types.int64, types.int64), nopython=True)
def count(part: int, parts: int, address: int) -> None:
    """Count calls of each part, and note how many there were."""
    table = ints(address)
    add(table, part, 1)
    table[16] = parts


@pytest.fixture
def table() -> Any:
    return np.zeros(32, np.int64)


def address(array: Any) -> int:
    return int(array.ctypes.data)


def test_every_part_of_a_job_is_done_once(table: Any) -> None:
    team = Team(3)
    total = 0
    for i in range(1, 3000):
        joined = team.run(count.address, address(table))
        total += joined
        assert 1 <= joined == table[16] <= 3
        assert table[0] == i
        assert table[:3].sum() == total
    until(lambda: team.run(count.address, address(table)) == 3)


def test_members_go_to_sleep_and_come_back(table: Any) -> None:
    team = Team(2)
    for _ in range(5):
        until(lambda: team.run(count.address, address(table)) == 2)
        until(lambda: team._sleepers.value == 1)


def test_a_system_without_more_threads_raises_and_changes_nothing(
    table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    team = Team(3)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            team.run(count.address, address(table))
    assert not table.any()
    until(lambda: team.run(count.address, address(table)) == 3)


def test_teams_come_and_go(table: Any) -> None:
    until(lambda: threading.active_count() < 20)
    before = threading.active_count()
    for i in range(1000):
        team = Team(2 + i % 3)
        team.run(count.address, address(table))
        if i % 2:
            team.close()
            assert team.run(count.address, address(table)) == 1
        del team
    assert table[0] == 1500
    until(lambda: threading.active_count() <= before)


def test_a_team_is_shared_while_somebody_has_it() -> None:
    first = Team.of(7)
    assert Team.of(7) is first
    assert Team.of(6) is not first


# Processes ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_team_of_its_own(large: Any, noise: Any) -> None:
    stream = large.stream(threads=2)
    stream.run(noise[:50])
    wanted, before = large.stream().run(noise), stream._walk.joined
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE_S)
        same = True
        while same and stream._walk.joined == before:
            stream.reset()
            same = np.array_equal(stream.run(noise), wanted)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    stream.reset()
    assert_same(stream.run(noise), wanted, "the parent")


PROGRAM = """
import sys
import numpy as np, streamrnn as s
stream = s.LSTM(40, 96, seed=0).stream(threads=3)
x = np.zeros(40, np.float32)
for t in range(200):
    stream.step(x)
print("running", flush=True)
while "for ever" in sys.argv:
    stream.step(x)
"""


def test_a_program_ends_while_its_team_is_awake() -> None:
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "running\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_control_c_ends_a_stream_with_threads() -> None:
    run = [sys.executable, "-c", PROGRAM, "for ever"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=PATIENCE_S)
    assert "KeyboardInterrupt" in errors
    assert child.returncode != 0
