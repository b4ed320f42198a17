"""How the members of a team share the work of one kernel.

A kernel with a parameter ``me: Member`` has two forms. In the plain one ``me`` is nobody's: a share
is everything, and a meeting is nothing, so it compiles to what it would be without them. In the
*split* form every member of a :class:`~streamrnn.kernels.team.Team` runs the kernel at the same
time, does its share, and meets the others where it needs what they have made.

A member's share of a product is a share of its outputs. Each output is still one sum in its one
order, so the results are the same, bit for bit, however many members there are.
"""

from __future__ import annotations

from typing import Any

from .atomic import add, give_way, is_alone, pause, read
from .integer_product import int8_row, integer_affine, product_floats
from .product import SIDE, affine
from .simd import as_bytes, at, ints, lanes
from .tape import copy, helper

__all__ = [
    "LINE",
    "copy_share",
    "leads",
    "meet",
    "share",
    "share_affine",
    "share_int8_affine",
    "share_int8_rows",
    "share_outputs",
    "share_units",
]

LINE = 16
"""Integers that are two cache lines: CPUs fetch lines in pairs."""

# A member's card.
PART, PARTS, MEETINGS, EXPECTED, GIVE_WAY, SPINS = range(6)


@helper
def leads(me: Any) -> Any:
    """Whether this member does what is not shared."""
    return is_alone(me) or me[PART] == 0


@helper
def share(me: Any, n: int) -> tuple[int, int]:
    """Return the first and the end of this member's share of n things."""
    if is_alone(me):
        return 0, n
    return n * me[PART] // me[PARTS], n * (me[PART] + 1) // me[PARTS]


@helper
def share_outputs(me: Any, O: int, side: int = SIDE) -> tuple[int, int]:
    """Return the first and the end of this member's outputs of a product with O of them.

    Of these, `side` vectors lie side by side in the packed weight.
    """
    unit = side * lanes()
    first, stop = share(me, (O + unit - 1) // unit)
    return first * unit, min(stop * unit, O)


@helper
def share_units(me: Any, H: int) -> tuple[int, int]:
    """Return the first and the end of this member's units of H, in whole vectors.

    They are those of its outputs in a product whose gates lie side by side.
    """
    first, stop = share(me, (H + lanes() - 1) // lanes())
    return first * lanes(), stop * lanes()


@helper
def wait(spins: int, enough: int, other: int) -> None:
    """Wait a moment: with a pause at first, later by giving way to other threads."""
    if spins < enough or other == 0:
        pause()
    else:
        give_way(other)


@helper
def meet(me: Any) -> None:
    """Go on when every member has come here: what they wrote before is there for all."""
    if is_alone(me):
        return
    if me[PARTS] == 1:
        return
    me[EXPECTED] += me[PARTS]
    expected, meetings = me[EXPECTED], ints(me[MEETINGS])
    add(meetings, 0, 1)
    spins = 0
    while read(meetings, 0) < expected:
        wait(spins, me[SPINS], me[GIVE_WAY])
        spins += 1


@helper
def copy_share(me: Any, n: int, x: Any, y: Any) -> None:
    """``y[:n] = x[:n]``, this member's share of it."""
    first, stop = share(me, (n + lanes() - 1) // lanes())
    begin = first * lanes()
    copy(min(stop * lanes(), n) - begin, at(x, begin), at(y, begin))


@helper
def share_affine(
    me: Any,
    T: int,
    x: Any,
    x_step: int,
    taps: int,
    tap_step: int,
    n: int,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
    w: Any,
    O: int,
    side: int = SIDE,
) -> None:
    """``affine`` for this member's share of the outputs."""
    o, stop = share_outputs(me, O, side)
    begin, result, weight = at(start, o), at(y, o), at(w, o * taps * n)
    affine(
        T, x, x_step, taps, tap_step, n, begin, start_step, result, y_step, weight, stop - o, side
    )


@helper
def share_int8_rows(
    me: Any, rows: int, x: Any, x_step: int, K: int, bytes_: Any, bytes_step: int
) -> None:
    """Round rows for all members, once they have done with what ``bytes_`` held before."""
    meet(me)
    if leads(me):
        for r in range(rows):
            int8_row(at(x, r * x_step), K, at(bytes_, r * bytes_step))
    meet(me)


@helper
def share_int8_affine(
    me: Any,
    rows: int,
    x: Any,
    x_step: int,
    K: int,
    bytes_: Any,
    bytes_step: int,
    start: Any,
    start_step: int,
    y: Any,
    y_step: int,
    w: Any,
    O: int,
    side: int = SIDE,
) -> None:
    """``int8_affine`` for this member's share of the outputs."""
    share_int8_rows(me, rows, x, x_step, K, bytes_, bytes_step)
    o, stop = share_outputs(me, O, side)
    begin, result, weight = at(start, o), at(y, o), at(w, product_floats(o, K))
    q, step = as_bytes(at(bytes_, lanes())), 4 * bytes_step
    integer_affine(
        rows, bytes_, bytes_step, q, step, K, begin, start_step, result, y_step, weight, stop - o,
        side,
    )  # fmt: skip
