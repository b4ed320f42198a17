"""The loop of a pool: one frame of many streams at once, as if they were the frames of a block.

A kernel without a state gives for T frames what it gives for each of them, to the bit, so it may as
well be given one frame of T streams: every weight loaded serves all of them. Kernels with a state
are called in their form for many streams, or else once for each stream, whose frames are found
where the block has them.

Streams have different ages, so at a rate lower than the input's some have a frame and some have
not. At each clock those that have one lie side by side, in order; ``place`` says which is where.
"""

from __future__ import annotations

from typing import Any

from numba import types

from .atomic import add
from .simd import at, bits, call, floats, ints, truths
from .tape import HOLD, MISMATCH, RAISE, ROW, Job, Loop, copy, emitted, finite, helper

__all__ = ["ADVANCE", "CHECK", "EACH", "HOW", "MANY", "POOL_JOB", "SLOT_BITS", "TOGETHER"]

# Fields of a pool's plan.
(
    TAPE,
    ROWS,
    HOW_TABLE,
    WEIGHTS,
    CLOCKS,
    CLOCK_TABLE,
    GROUP,
    INPUT,
    INPUT_STEP,
    INPUT_SIZE,
    OUTPUT,
    OUTPUT_STEP,
    OUTPUT_SIZE,
    OUTPUT_CLOCK,
    POLICY,
    HELD,
    ROOMS,
    SLOTS,
    OWNERS,
    MARKS,
    CALL,
    CAPACITY,
    WRONG,
    IDS,
    COUNT,
    X,
    Y,
    DUE,
    NEXT,
    PLAN_SIZE,
) = range(30)

TOGETHER, MANY, EACH = range(3)
"""How a row is called: once, in its form for many streams, or for each stream."""

HOW = 32
"""Integers that say how a row is called: one of the three, the clock of its frames, the number of
operands that move from stream to stream, and (operand, step, clock) of each."""

SLOT_BITS = 32
"""A stream's id is its slot and, above these bits, how often that was given away before."""

UNKNOWN, TWICE, NOT_FINITE = -2, -3, -4
"""What `check_pool` found wrong with stream ``plan[WRONG]`` of the call; nothing was done."""


def _check_pool(plan_address: int, ids: Any, x: Any, y: Any, due: Any) -> int:
    plan = ints(plan_address)
    n = ids.size
    room = y.size == n * plan[OUTPUT_SIZE] and due.size == n
    if x.size != n * plan[INPUT_SIZE] or not room:
        return MISMATCH
    owners, marks = ints(plan[OWNERS]), ints(plan[MARKS])
    plan[CALL] += 1
    for j in range(n):
        plan[WRONG] = j
        slot = ids[j] & ((1 << SLOT_BITS) - 1)
        if slot >= plan[CAPACITY] or owners[slot] != ids[j]:
            return UNKNOWN
        if marks[slot] == plan[CALL]:
            return TWICE
        marks[slot] = plan[CALL]
    if plan[POLICY] == RAISE:
        for j in range(n):
            plan[WRONG] = j
            if not finite(at(bits(x.ctypes.data), j * plan[INPUT_SIZE]), plan[INPUT_SIZE]):
                return NOT_FINITE
    return 0


checked = helper(_check_pool)


@helper
def advance_group(
    plan: Any, part: int, begin: int, n: int, ids: Any, x: int, y: int, due: Any
) -> None:
    """Step n streams from `begin` on, at most a group; `part` is the thread whose room is used."""
    room = at(ints(plan[ROOMS]), 2 * part)
    scratch, weights, tape = floats(room[0]), floats(plan[WEIGHTS]), ints(plan[TAPE])
    how, clocks, slots = ints(plan[HOW_TABLE]), ints(plan[CLOCK_TABLE]), ints(plan[SLOTS])
    in_size, out_size, K, G = plan[INPUT_SIZE], plan[OUTPUT_SIZE], plan[CLOCKS], plan[GROUP]
    source, target, pattern = floats(x), floats(y), bits(x)
    # Of each clock: the frames of all streams, those of one; of each clock and stream: its frames,
    # how many came before, its place among those that have one; the states in these places.
    together = ints(room[1])
    alone, has = at(together, 2 * K), at(together, 4 * K)
    before, place = at(has, K * G), at(has, 2 * K * G)
    states, moved = at(has, 3 * K * G), at(has, 4 * K * G)
    for j in range(n):
        state = slots[ids[begin + j] & ((1 << SLOT_BITS) - 1)]
        frame = at(source, (begin + j) * in_size)
        if plan[POLICY] == HOLD:
            held = at(floats(state), plan[HELD])
            if finite(at(pattern, (begin + j) * in_size), in_size):
                copy(in_size, frame, held)
            else:
                frame = held
        copy(in_size, frame, at(scratch, plan[INPUT] + j * plan[INPUT_STEP]))
    for k in range(K):
        stride, start, count = clocks[2 * k], clocks[2 * k + 1], 0
        for j in range(n):
            state = slots[ids[begin + j] & ((1 << SLOT_BITS) - 1)]
            now = ints(state)[0]
            so_far = emitted(now, stride, start)
            here = emitted(now + 1, stride, start) - so_far
            has[k * G + j], before[k * G + j], place[k * G + j] = here, so_far, count
            if here:
                states[k * G + count] = state
            count += here
        together[2 * k] = count
    for r in range(plan[ROWS]):
        row, way = at(tape, r * ROW), at(how, r * HOW)
        if way[0] == TOGETHER:
            call(row[0], row, weights, scratch, scratch, together)
        elif way[0] == MANY:
            many = floats(room[1] + 8 * (4 * K + 3 * K * G + way[1] * G))
            call(row[0], row, weights, many, scratch, together)
        else:
            for i in range(ROW):
                moved[i] = row[i]
            for j in range(n):
                for k in range(K):
                    alone[2 * k], alone[2 * k + 1] = has[k * G + j], before[k * G + j]
                for i in range(way[2]):
                    operand, step, k = way[3 + 3 * i], way[4 + 3 * i], way[5 + 3 * i]
                    moved[operand] = row[operand] + step * place[k * G + j]
                state = slots[ids[begin + j] & ((1 << SLOT_BITS) - 1)]
                call(row[0], moved, weights, floats(state), scratch, alone)
    k = plan[OUTPUT_CLOCK]
    for j in range(n):
        due[begin + j] = has[k * G + j]
        if has[k * G + j]:
            result = plan[OUTPUT] + place[k * G + j] * plan[OUTPUT_STEP]
            copy(out_size, at(scratch, result), at(target, (begin + j) * out_size))
        else:
            for i in range(out_size):
                target[(begin + j) * out_size + i] = NOTHING
        ints(slots[ids[begin + j] & ((1 << SLOT_BITS) - 1)])[0] += 1


def _advance_pool(plan_address: int, ids: Any, x: Any, y: Any, due: Any) -> Any:
    wrong = checked(plan_address, ids, x, y, due)
    if wrong != 0:
        return wrong
    plan, group = ints(plan_address), ints(plan_address)[GROUP]
    for begin in range(0, ids.size, group):
        n = min(group, ids.size - begin)
        advance_group(plan, 0, begin, n, ids, x.ctypes.data, y.ctypes.data, due)
    return 0


def _pool_job(part: int, parts: int, plan_address: int) -> None:
    """A thread's work: the next group that nobody has taken yet, until there is none."""
    plan = ints(plan_address)
    ids, due, count, group = ints(plan[IDS]), truths(plan[DUE]), plan[COUNT], plan[GROUP]
    begin = add(plan, NEXT, group)
    while begin < count:
        advance_group(plan, part, begin, min(group, count - begin), ids, plan[X], plan[Y], due)
        begin = add(plan, NEXT, group)


NOTHING = float("nan")
"""What stands in the output of a stream that has none due."""

_IDS = types.Array(types.int64, 1, "C", readonly=True)
_X = types.Array(types.float32, 1, "C", readonly=True)
_Y = types.float32[::1]
_DUE = types.boolean[::1]


CHECK = Loop(_check_pool, types.int64(types.int64, _IDS, _X, _Y, _DUE))
"""``check(plan, ids, x, y, due) -> code``, which changes no state.

0 if the streams with these ids can take a step; MISMATCH where arrays do not fit, else what is
wrong with the stream ``plan[WRONG]``."""

ADVANCE = Loop(_advance_pool, types.int64(types.int64, _IDS, _X, _Y, _DUE))
"""``advance(plan, ids, x, y, due) -> code``: if nothing is wrong, the streams `ids` take a step.

Row j of `x` is the frame of the j-th, row j of `y` its output where ``due[j]``, else NaN."""

POOL_JOB = Job(_pool_job)
"""The step itself for several threads; what ``CHECK`` has checked is in the plan."""
