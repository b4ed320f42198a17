"""Einsum: a formula of letters as transposes and one matrix product for two operands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ....graph import Value
from ..node import Known, Tensor, Timed, Unsupported, operator, over_time
from ..time import aligned, settled, whole_sequence
from .elementwise import combined
from .linear import in_shape, product, transposed
from .reduce import summed

Letters = list[str]


def letters_of(equation: str, xs: Sequence[Tensor]) -> tuple[list[Letters], Letters]:
    """Return the letters of each operand and of the result; those of an ellipsis are digits."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(xs):
        raise Unsupported(f"the equation {equation!r} is for {len(texts)} operands, not {len(xs)}")
    hidden = max(
        (
            len(x.shape) - len(t.replace("...", ""))
            for t, x in zip(texts, xs, strict=True)
            if "..." in t
        ),
        default=0,
    )
    digits = [str(i) for i in range(10)][:hidden]
    terms = []
    for text, x in zip(texts, xs, strict=True):
        before, dots, after = text.partition("...")
        count = len(x.shape) - len(before) - len(after)
        inner = digits[len(digits) - count :] if dots and count else []
        terms.append([*before, *inner, *after])
        if len(terms[-1]) != len(x.shape) or len(set(terms[-1])) < len(terms[-1]):
            raise Unsupported(f"{text!r} does not fit a tensor of shape {x.shape}, or repeats")
    if arrow:
        before, dots, after = right.partition("...")
        return terms, [*before, *(digits if dots else ()), *after]
    every = list(itertools.chain(*terms))
    return terms, [*digits, *sorted(l for l in set(every) - set(digits) if every.count(l) == 1)]


def without(x: Tensor, letters: Letters, kept: set[str]) -> tuple[Tensor, Letters]:
    """Return a tensor summed over the letters that nobody needs."""
    gone = [i for i, letter in enumerate(letters) if letter not in kept]
    if not gone:
        return x, letters
    rest = [letter for letter in letters if letter in kept]
    y = summed(x, gone) if isinstance(x, Value) else np.sum(x, tuple(gone), keepdims=True)
    return in_shape(y, tuple(x.shape[letters.index(letter)] for letter in rest)), rest


def arranged(x: Tensor, letters: Letters, *groups: Letters) -> Tensor:
    """Return a tensor with its letters in the order of groups."""
    return transposed(x, [letters.index(letter) for letter in itertools.chain(*groups)])


def contracted(
    x: Tensor, a: Letters, y: Tensor, b: Letters, kept: set[str]
) -> tuple[Tensor, Letters]:
    """Return the product of two tensors, summed over what is not kept, and its letters."""
    x, a = without(x, a, kept | set(b))
    y, b = without(y, b, kept | set(a))
    sizes = dict(zip(a, x.shape, strict=True)) | dict(zip(b, y.shape, strict=True))
    if any(x.shape[a.index(letter)] != sizes[letter] for letter in a):
        raise Unsupported(f"shapes {x.shape} and {y.shape} do not fit each other")
    both = [letter for letter in a if letter in b]
    batch = [letter for letter in both if letter in kept]
    inner = [letter for letter in both if letter not in kept]
    rows = [letter for letter in a if letter not in b]
    columns = [letter for letter in b if letter not in a]

    def size(letters: Letters) -> int:
        return math.prod(sizes[letter] for letter in letters)

    planes = tuple(sizes[letter] for letter in batch)
    x = in_shape(arranged(x, a, batch, rows, inner), (*planes, size(rows), size(inner)))
    y = in_shape(arranged(y, b, batch, inner, columns), (*planes, size(inner), size(columns)))
    if not isinstance(x, Value) and not isinstance(y, Value):
        z = np.matmul(x, y)
    else:
        z = product(x, y) if inner else combined("Mul", x, y)
    letters = [*batch, *rows, *columns]
    return in_shape(z, tuple(sizes[letter] for letter in letters)), letters


def evaluated(xs: Sequence[Tensor], terms: list[Letters], result: Letters) -> Value:
    """Return the result of an equation."""
    x, letters = xs[0], terms[0]
    for i, y in enumerate(xs[1:], 1):
        later = set(result).union(*terms[i + 1 :])
        x, letters = contracted(x, letters, y, terms[i], later)
    x, letters = without(x, letters, set(result))
    if sorted(letters) != sorted(result):
        raise Unsupported(f"the result {''.join(result)!r} has letters that no operand has")
    made: Value = arranged(x, letters, result)
    return made


@operator("Einsum")
def einsum(a: Known, n: int, *xs: Tensor) -> Tensor:
    xs = tuple(x if isinstance(x, Value) else np.asarray(x) for x in xs)
    terms, result = letters_of(a.get("equation", ""), xs)
    return evaluated(xs, terms, result)


@over_time("Einsum")
def einsum_of_frames(a: Known, n: int, *xs: Tensor) -> Timed:
    timed = [settled(x) for x in xs if isinstance(x, Timed)]
    frames = iter(aligned([t.value for t in timed]))
    values = [next(frames) if isinstance(x, Timed) else x for x in xs]
    terms, result = letters_of(a.get("equation", ""), values)
    if all(t.axis is None for t in timed):
        return Timed(evaluated(values, terms, result), None, timed[0].length)
    sequences = [(t, x) for t, x in zip(terms, xs, strict=True) if isinstance(x, Timed)]
    times = {None if x.axis is None else letters[x.axis] for letters, x in sequences}
    time = times.pop()
    if times or time not in result:
        raise whole_sequence(timed[0])
    for letters, x in zip(terms, values, strict=True):
        if time in letters and x.shape[letters.index(time)] != 1:
            raise Unsupported(f"an operand of shape {x.shape} may differ from frame to frame")
    return Timed(evaluated(values, terms, result), result.index(time), timed[0].length)
