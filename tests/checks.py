"""The promises as functions of a case: each raises AssertionError where one is broken.

``test_promises.py`` runs them over the whole zoo; ``test_faults.py`` runs them on a library with a
fault planted in it, and expects them to fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn
from streamrnn import FrameError, NonFiniteError, ReferenceStream, StateError
from zoo import Case

LONG = 75
"""Frames of most checks: more than two blocks of 32, and no multiple of anything in the kernels."""


# Frames, pieces, comparisons ----------------------------------------------------------------------


def parts(result: Any) -> tuple[np.ndarray, ...]:
    """Return a result as a tuple of arrays."""
    return result if isinstance(result, tuple) else (result,)


def piece(xs: Any, first: int, stop: int) -> Any:
    """Return frames first to stop of what `run` takes."""
    return tuple(x[first:stop] for x in xs) if isinstance(xs, tuple) else xs[first:stop]


def frame(xs: Any, t: int) -> Any:
    """Return one frame, as `step` takes it; of a single number an array without axes."""
    return tuple(x[t, ...] for x in xs) if isinstance(xs, tuple) else xs[t, ...]


def length(xs: Any) -> int:
    return len(parts(xs)[0])


def assert_same(got: Any, wanted: Any, what: str) -> None:
    """Fail unless two results are equal bit for bit, NaN included."""
    got, wanted = parts(got), parts(wanted)
    assert len(got) == len(wanted), f"{what}: {len(got)} arrays, expected {len(wanted)}"
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.dtype == b.dtype == np.float32, f"{what}: {a.dtype} and {b.dtype}"
        assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        different = np.argwhere(a.view(np.uint32) != b.view(np.uint32))
        assert not len(different), (
            f"{what}: array {i} differs in {len(different)} of {a.size} numbers, first at "
            f"{different[0]}: {a[tuple(different[0])]!r}, expected {b[tuple(different[0])]!r}"
        )


def assert_close(got: Any, wanted: Any, tolerance: float, what: str = "output") -> float:
    """Fail if an error, absolute below 1 and relative above, exceeds the tolerance; return it."""
    got, wanted = parts(got), parts(wanted)
    assert len(got) == len(wanted), f"{what}: {len(got)} arrays, expected {len(wanted)}"
    worst = 0.0
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
        error = np.abs(a.astype(np.float64) - b) / np.maximum(1.0, np.abs(b))
        largest = float(error.max(initial=0.0))
        assert largest <= tolerance, (  # also fails for NaN
            f"{what}: array {i} is off by {largest:.3g} (tolerance {tolerance:.3g}) at "
            f"{np.unravel_index(int(np.argmax(error)), error.shape)}"
        )
        worst = max(worst, largest)
    return worst


def assert_refused(error: type[Exception], what: str, call: Any, *args: Any) -> None:
    """Fail unless the call raises the error; any other error passes through."""
    try:
        call(*args)
    except error:
        return
    raise AssertionError(f"{what} was accepted")


def states(stream: Any) -> dict[str, np.ndarray]:
    """Return copies of all states."""
    return dict(stream.state)


def assert_same_states(a: Any, b: Any, what: str) -> None:
    """Fail unless two streams are at the same frame in the same state, bit for bit."""
    assert a.frames == b.frames, f"{what}: {a.frames} frames so far, expected {b.frames}"
    got, wanted = states(a), states(b)
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert_same(got[name], wanted[name], f"{what}: state {name}")
    assert a.snapshot() == b.snapshot(), f"{what}: snapshots differ"


def joined(results: Sequence[Any]) -> Any:
    """Return blocks of results as one block."""
    columns = [np.concatenate(blocks) for blocks in zip(*map(parts, results), strict=True)]
    return columns[0] if len(columns) == 1 else tuple(columns)


def run_in_pieces(stream: Any, xs: Any, lengths: Sequence[int]) -> Any:
    """Run `xs` in blocks of the given lengths; return all outputs as one block."""
    edges = np.cumsum([0, *lengths])
    assert edges[-1] == length(xs)
    pairs = itertools.pairwise(map(int, edges))
    return joined([stream.run(piece(xs, a, b)) for a, b in pairs])


def run_in_steps(stream: Any, xs: Any) -> Any:
    """Run `xs` one frame at a time; return the outputs that were due, as one block."""
    empty = stream.run(piece(xs, 0, 0))
    results = [stream.step(frame(xs, t)) for t in range(length(xs))]
    return joined(
        [
            empty,
            *(
                tuple(np.asarray(y)[None] for y in parts(result))
                for result in results
                if result is not None
            ),
        ]
    )


def splits(T: int, seed: int, n: int = 3) -> Iterator[list[int]]:
    """Yield n ways to cut T frames into unequal pieces, with empty and single ones among them."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        lengths = [0, 1]
        while (left := T - sum(lengths)) > 0:
            lengths.append(min(left, int(rng.choice([0, 1, 2, 3, 5, 8, 31, 32, 33, 40]))))
        yield [0, *map(int, rng.permutation(lengths)), 0]


def reference_run(case: Case, xs: Any) -> tuple[Any, ReferenceStream]:
    """Run `xs` through the oracle; return its outputs and the stream."""
    reference = ReferenceStream(case.model)
    return reference.run(*parts(xs)), reference


# The promises -------------------------------------------------------------------------------------


def check_reference(case: Case, T: int = LONG) -> float:
    """Kernels compute what the plain equations say, outputs and states."""
    xs = case.frames(T, seed=1)
    wanted, reference = reference_run(case, xs)
    stream = case.model.stream()
    worst = assert_close(stream.run(xs), wanted, case.tolerance)
    for name, value in reference.state.items():
        worst = max(worst, assert_close(stream.state[name], value, case.tolerance, name))
    return worst


def check_chunks(case: Case) -> None:
    """Any split into blocks, and single steps, give the same bits and the same states."""
    T = 3 * LONG
    assert case.model.program().block <= 32, "make LONG longer than two blocks"
    xs = case.frames(T, seed=2)
    whole = case.model.stream()
    wanted = whole.run(xs)
    for lengths in splits(T, seed=3):
        stream = case.model.stream()
        assert_same(run_in_pieces(stream, xs, lengths), wanted, f"in pieces of {lengths}")
        assert_same_states(stream, whole, f"in pieces of {lengths}")
    stream = case.model.stream()
    assert_same(run_in_steps(stream, xs), wanted, "step by step")
    assert_same_states(stream, whole, "step by step")


def check_reset(case: Case) -> None:
    """After a reset in mid-stream everything is as with a new stream."""
    before, xs = case.frames(41, seed=4), case.frames(LONG, seed=5)
    fresh, stream = case.model.stream(), case.model.stream()
    wanted = fresh.run(xs)
    start = case.model.stream()
    for first in (0, 1, 17, 41):
        stream.run(piece(before, 0, first))
        stream.reset()
        assert_same_states(stream, start, f"reset after {first} frames")
        assert_same(run_in_pieces(stream, xs, [1, 40, 34]), wanted, f"reset after {first} frames")
        assert_same_states(stream, fresh, f"reset after {first} frames")
        stream.reset()


def check_neighbours(case: Case) -> None:
    """Two streams of one model, by turns, give what each gives alone."""
    xs, others = case.frames(LONG, seed=6), case.frames(LONG, seed=7)
    wanted, wanted_other = case.model.stream().run(xs), case.model.stream().run(others)
    stream, other = case.model.stream(), case.model.stream()
    assert stream.program is other.program, "streams of one model share its weights"
    results, other_results = [], []
    edges = [0, 1, 2, 34, 35, 60, LONG]
    for a, b in itertools.pairwise(edges):
        results.append(stream.run(piece(xs, a, b)))
        other_results.append(other.run(piece(others, a, b)))
    assert_same(joined(results), wanted, "first of two streams")
    assert_same(joined(other_results), wanted_other, "second of two streams")


def _wrong_arrays(x: np.ndarray, indices: bool, longer: bool = True) -> dict[str, Any]:
    """Return variations of one input array that no stream may accept.

    `longer` is False where the last axis is that of the frames, which may have any length.
    """
    wrong: dict[str, Any] = {
        "a list": x.astype(float).tolist(),
        "nothing": None,
        "text": "frame",
        "complex numbers": x.astype(np.complex64),
        "one axis more": x[None],
    }
    if longer:
        wrong["an axis twice as long"] = np.concatenate([x, x], -1) if x.ndim else np.stack([x, x])
    if indices:
        wrong |= {
            "floats for indices": x.astype(np.float32),
            "a negative index": np.full_like(x, -1),
            "an index beyond the table": np.full_like(x, 1 << 30),
        }
    else:
        wrong |= {
            "float64": x.astype(np.float64),
            "float16": x.astype(np.float16),
            "integers": x.astype(np.int64),
            "the other byte order": x.astype(x.dtype.newbyteorder()),
        }
        strided = np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
        if not strided.flags.c_contiguous:
            wrong["every second number"] = strided
        if x.ndim > 1 and not (turned := np.asfortranarray(x)).flags.c_contiguous:
            wrong["columns first"] = turned
    return {
        name: array
        for name, array in wrong.items()
        if not (indices and name == "a list")  # lists of indices are welcome
    }


def _with(xs: Any, i: int, array: Any) -> Any:
    if not isinstance(xs, tuple):
        return array
    return (*xs[:i], array, *xs[i + 1 :])


def _wrong_outs(shapes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    def read_only(shape: tuple[int, ...]) -> np.ndarray:
        array = np.zeros(shape, np.float32)
        array.flags.writeable = False
        return array

    makers = {
        "float64": lambda shape: np.zeros(shape),
        "read-only": read_only,
        "a list": lambda shape: np.zeros(shape, np.float32).tolist(),
        "one axis more": lambda shape: np.zeros((1, *shape), np.float32),
        "too long": lambda shape: np.zeros((*shape, 2), np.float32),
        "misaligned": lambda shape: misaligned(np.zeros(shape, np.float32)),
    }
    outs: dict[str, Any] = {name: [make(s) for s in shapes] for name, make in makers.items()}
    if all(s and s[-1] > 1 for s in shapes):
        outs["strided"] = [np.zeros((*s[:-1], 2 * s[-1]), np.float32)[..., ::2] for s in shapes]
    made = {name: o[0] if len(o) == 1 else tuple(o) for name, o in outs.items()}
    if len(shapes) > 1:
        made["one output missing"] = tuple(np.zeros(s, np.float32) for s in shapes[1:])
    return made


def misaligned(x: np.ndarray) -> np.ndarray:
    """Return a copy of `x` that begins at an odd address."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    copy = raw[1:].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def check_rollback(case: Case) -> None:
    """A call that raises leaves the state as it was, and everything that comes later."""
    model = case.model
    program = model.program()
    xs = case.frames(LONG, seed=8)
    untouched, stream = model.stream(), model.stream()
    wanted_first, wanted = untouched.run(piece(xs, 0, 35)), untouched.run(piece(xs, 35, LONG))
    assert_same(stream.run(piece(xs, 0, 35)), wanted_first, "before any error")
    before = stream.snapshot()

    def refused(error: type[Exception], what: str, call: Any, *args: Any) -> None:
        assert_refused(error, what, call, *args)
        assert stream.snapshot() == before, f"{what} changed the state"

    one, block = frame(xs, 40), piece(xs, 35, LONG)
    for i, value in enumerate(program.inputs):
        indices = value.dtype == "int64"
        for name, wrong in _wrong_arrays(parts(one)[i], indices).items():
            refused(FrameError, f"step: {name}", stream.step, _with(one, i, wrong))
        for name, wrong in _wrong_arrays(
            parts(block)[i], indices, longer=value.shape != ()
        ).items():
            refused(FrameError, f"run: {name}", stream.run, _with(block, i, wrong))
        refused(FrameError, "a block for step", stream.step, _with(block, i, parts(block)[i]))
        refused(FrameError, "a frame for run", stream.run, _with(one, i, parts(one)[i]))
        if not indices:
            for bad in (np.nan, np.inf, -np.inf):
                poisoned = parts(block)[i].copy()
                poisoned[37].reshape(-1)[-1:] = bad  # beyond the first block of 32
                if not value.shape:
                    poisoned[37] = bad
                refused(NonFiniteError, f"run: {bad}", stream.run, _with(block, i, poisoned))
                refused(
                    NonFiniteError,
                    f"step: {bad}",
                    stream.step,
                    _with(one, i, np.full_like(parts(one)[i], bad)),
                )
    if len(program.inputs) > 1:
        refused(FrameError, "one input missing", stream.run, block[:-1])
        refused(FrameError, "one input only", stream.run, block[0])
        refused(FrameError, "a list of inputs", stream.run, list(block))
        shorter = _with(block, 0, block[0][:-1])
        refused(FrameError, "inputs of unequal length", stream.run, shorter)
    due = len(parts(wanted)[0])
    shapes = [y.shape[1:] for y in parts(wanted)]
    for name, out in _wrong_outs(shapes).items():
        refused(FrameError, f"step: out {name}", stream.step, one, out)
    for name, out in _wrong_outs([(due, *shape) for shape in shapes]).items():
        refused(FrameError, f"run: out {name}", stream.run, block, out)
    for name, extra in (("longer", 1), ("shorter", -1)):
        outs = tuple(np.zeros((due + extra, *shape), np.float32) for shape in shapes)
        out = outs if len(outs) > 1 else outs[0]
        refused(FrameError, f"run: out {name}", stream.run, block, out)

    assert_same(stream.run(block), wanted, "after errors")
    assert_same_states(stream, untouched, "after errors")


def check_snapshot(case: Case) -> None:
    """A stream made from a snapshot, or by fork, continues as if nothing had happened."""
    xs = case.frames(LONG, seed=9)
    stream = case.model.stream()
    stream.run(piece(xs, 0, 38))
    saved = stream.snapshot()
    assert isinstance(saved, bytes)
    assert saved == stream.snapshot(), "a snapshot changes the state"
    fork, twin = stream.fork(), stream.fork()
    twin.run(piece(xs, 0, 20))
    twin.reset()  # whatever one of them does is nothing to the others
    wanted = stream.run(piece(xs, 38, LONG))

    elsewhere = case.fresh().stream()  # another object, as in another process
    elsewhere.run(piece(xs, 5, 50))
    elsewhere.restore(saved)
    assert elsewhere.frames == 38
    assert elsewhere.snapshot() == saved, "a restored stream has another state"
    for what, other in (("restored", elsewhere), ("forked", fork)):
        assert_same(run_in_pieces(other, piece(xs, 38, LONG), [1, 0, 36]), wanted, what)
        assert_same_states(other, stream, what)


def check_aliasing(case: Case) -> None:
    """Inputs stay as they are; what is returned belongs to the caller alone."""
    xs = case.frames(LONG, seed=10)
    wanted = case.model.stream().run(xs)
    inputs = tuple(x.copy() for x in parts(xs))
    given = inputs if len(inputs) > 1 else inputs[0]
    stream = case.model.stream()
    returned, copies = [], []

    def keep(result: Any) -> None:
        if result is None:
            return
        for array in parts(result):
            assert array.flags.writeable, "a returned array is read-only"
            for other in (*returned, *inputs):
                assert not np.shares_memory(array, other), "two arrays share memory"
            returned.append(array)
            copies.append(array.copy())

    for t in range(9):
        keep(stream.step(frame(given, t)))
    keep(stream.run(piece(given, 9, 30)))
    for a, b in zip(inputs, parts(xs), strict=True):
        assert np.array_equal(a, b), "an input was modified"
    for a, b in zip(returned, copies, strict=True):
        assert np.array_equal(a, b), "a later call changed an array that was returned earlier"
    first = joined([case.model.stream().run(piece(xs, 0, 30))])
    for array in returned:
        array[...] = np.nan
    for array in states(stream).values():
        array[...] = np.nan
    for x in inputs:
        x[:30] = 0  # what has gone in may be reused by the caller
    rest = stream.run(piece(given, 30, LONG))
    assert_same(joined([first, rest]), wanted, "after the caller reused its arrays")


def check_out(case: Case) -> None:
    """``out=`` gets the same bits as a new array, and is what is returned."""
    xs = case.frames(50, seed=11)
    wanted = case.model.stream().run(xs)
    shapes = [y.shape for y in parts(wanted)]
    outs = tuple(np.full(shape, np.nan, np.float32) for shape in shapes)
    out = outs if len(outs) > 1 else outs[0]
    result = case.model.stream().run(xs, out=out)
    for a, b in zip(parts(result), outs, strict=True):
        assert a is b, "run returns another array than `out`"
    assert_same(outs, wanted, "run into out")
    stream, written = case.model.stream(), 0
    for t in range(50):
        room = tuple(np.full(shape[1:], np.nan, np.float32) for shape in shapes)
        result = stream.step(frame(xs, t), room if len(room) > 1 else room[0])
        if result is None:
            assert all(np.isnan(r).all() for r in room), "out was written to though nothing was due"
            continue
        for a, b, y in zip(parts(result), room, parts(wanted), strict=True):
            assert a is b, "step returns another array than `out`"
            assert_same(b, y[written], f"step {t} into out")
        written += 1
    assert written == shapes[0][0]


def check_state(case: Case) -> None:
    """States are read, assigned and updated by name; a wrong one changes nothing."""
    xs = case.frames(LONG, seed=12)
    stream, other = case.model.stream(), case.model.stream()
    stream.run(piece(xs, 0, 36))  # a multiple of the stride of every case: the clock is in phase
    other.run(piece(xs, 1, 37))
    kept = states(stream)
    assert list(stream.state) == list(case.model.graph().states())
    assert len(stream.state) == len(kept)
    assert {n: a.shape for n, a in kept.items()} == case.model.graph().states()
    wanted = stream.run(piece(xs, 36, LONG))
    after = states(stream)

    other.state = kept
    for name, value in kept.items():
        assert_same(other.state[name], value, name)
    assert_same(other.run(piece(xs, 36, LONG)), wanted, "after the state was assigned")
    for name, value in after.items():
        assert_same(other.state[name], value, name)

    before = other.snapshot()
    names = list(kept)
    other.state.update({name: kept[name] for name in names[:1]})
    for name in names:
        assert_same(other.state[name], (kept if name in names[:1] else after)[name], name)
    other.restore(before)
    for name in names:
        good = kept[name]
        for what, bad in {
            "float64": good.astype(np.float64),
            "another shape": np.zeros((*good.shape, 2), np.float32),
            "a NaN": np.full_like(good, np.nan),
            "an infinity": np.full_like(good, np.inf),
            "nothing": None,
            "text": "zero",
        }.items():
            wrong = {**kept, name: bad}
            assert_refused(StateError, f"{name}: {what}", setattr, other, "state", wrong)
            assert_refused(StateError, f"{name}: {what}", other.state.update, wrong)
            assert_refused(StateError, f"{name}: {what}", other.state.__setitem__, name, bad)
            assert other.snapshot() == before, f"{name}: {what} changed the state"
        with pytest.raises(StateError, match="missing"):
            other.state = {n: a for n, a in kept.items() if n != name}
        with pytest.raises(StateError, match="deleted"):
            del other.state[name]
    with pytest.raises(StateError, match="no state"):
        other.state = {**kept, "nobody.h": np.zeros(1, np.float32)}
    with pytest.raises(StateError, match="no state"):
        other.state["nobody.h"]
    assert other.snapshot() == before


def check_file(case: Case, folder: Path) -> None:
    """A model from a file is the same model, bit for bit; the same model is the same file."""
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    case.model.save(first)
    case.fresh().save(second)
    assert first.read_bytes() == second.read_bytes(), "the same model gave two different files"
    loaded = streamrnn.load(first)
    loaded.save(second)
    assert first.read_bytes() == second.read_bytes(), "a loaded model gave another file"
    xs = case.frames(LONG, seed=13)
    stream, other = case.model.stream(), loaded.stream()
    assert_same(other.run(xs), stream.run(xs), "loaded model")
    assert states(other).keys() == states(stream).keys()
    other.reset()
    other.restore(stream.snapshot())  # a snapshot fits, so the fingerprints agree
    assert_same_states(other, stream, "loaded model")


def check_policies(case: Case) -> None:
    """``hold`` repeats the last good frame; ``propagate`` takes what comes; ``raise`` refuses."""
    xs = case.frames(LONG, seed=14)
    floats = [np.issubdtype(x.dtype, np.floating) for x in parts(xs)]
    bad = {0, 1, 7, 31, 32, 33, 50, LONG - 1} if any(floats) else set()
    poisoned, repaired = [], []
    for x, is_float in zip(parts(xs), floats, strict=True):
        a, b = x.copy(), x.copy()
        for t in sorted(bad):
            if is_float:
                a[t : t + 1].reshape(-1)[t % x[t].size] = (np.nan, np.inf, -np.inf)[t % 3]
            b[t] = b[t - 1] if t else 0
        poisoned.append(a)
        repaired.append(b)
    given = tuple(poisoned) if len(poisoned) > 1 else poisoned[0]
    good = tuple(repaired) if len(repaired) > 1 else repaired[0]

    held, wanted = case.model.stream("hold"), case.model.stream("hold")
    assert_same(run_in_pieces(held, given, [1, 30, 0, 44]), wanted.run(good), "hold")
    for name, value in states(wanted).items():
        assert_same(held.state[name], value, f"hold: {name}")

    # The frame that is held belongs to the state: it is in snapshots and forks, and reset drops it.
    stream = case.model.stream("hold")
    stream.run(piece(given, 0, 50))
    saved = stream.snapshot()
    later = run_in_steps(stream, piece(given, 50, LONG))
    other = case.fresh().stream("hold")
    other.restore(saved)
    assert_same(other.run(piece(given, 50, LONG)), later, "hold, restored")
    stream.reset()
    assert_same_states(stream, case.model.stream("hold"), "hold, reset")

    # Without anything to hold, all policies are one.
    for policy in ("raise", "propagate", "hold"):
        same = case.model.stream(policy)
        assert_same(same.run(xs), case.model.stream().run(xs), policy)
    if bad:
        with pytest.raises(NonFiniteError):
            case.model.stream("raise").run(given)
        stream = case.model.stream("propagate")
        assert stream.run(given) is not None
        assert stream.frames == LONG
