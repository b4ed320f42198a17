"""Moving numbers: shapes, slices, joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...onnx.node import Tensor, Timed, Unsupported
from ..table import aten, axis_in, ints

if TYPE_CHECKING:
    from ..walk import Walk

__all__: list[str] = []

LARGEST = np.iinfo(np.int64).max


@aten("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as")
def reshape(f: Walk, x: Tensor, **how: Any) -> Tensor:
    return f("Reshape", x, ints(*f.shape))


@aten("permute")
def permute(f: Walk, x: Tensor, dims: Sequence[int]) -> Tensor:
    return f("Transpose", x, perm=[axis_in(d, x) for d in dims])


@aten("transpose", "swapaxes", "swapdims")
def transpose(f: Walk, x: Tensor, dim0: int, dim1: int) -> Tensor:
    perm = list(range(len(x.shape)))
    i, j = axis_in(dim0, x), axis_in(dim1, x)
    perm[i], perm[j] = j, i
    return f("Transpose", x, perm=perm)


@aten("mT")
def turned_matrices(f: Walk, x: Tensor) -> Tensor:
    return transpose(f, x, -2, -1)


@aten("t", "numpy_T")
def turned(f: Walk, x: Tensor) -> Tensor:
    return f("Transpose", x, perm=list(range(len(x.shape)))[::-1])


@aten("movedim")
def movedim(f: Walk, x: Tensor, source: Sequence[int], destination: Sequence[int]) -> Tensor:
    order = np.moveaxis(np.empty(range(1, len(x.shape) + 1)), source, destination).shape
    return f("Transpose", x, perm=[d - 1 for d in order])


@aten("expand", "expand_as", "broadcast_to")
def expand(f: Walk, x: Tensor, **how: Any) -> Tensor:
    if isinstance(x, Timed) or not f.sequence or f.length not in f.shape:
        return f("Expand", x, ints(*f.shape))
    axis = f.shape.index(f.length)  # what is there without time is the same at every frame
    frame = f("Expand", x, ints(*f.shape[:axis], 1, *f.shape[axis + 1 :]))
    return Timed(frame, axis, f.length)


@aten("repeat", "tile")
def repeat(f: Walk, x: Tensor, repeats: Any = None, dims: Any = None) -> Tensor:
    times = list(dims if repeats is None else repeats)
    if any(n != 1 and size != 1 for n, size in zip(times[::-1], x.shape[::-1], strict=False)):
        raise Unsupported(f"repeats {times} of shape {tuple(x.shape)}: only axes of size 1 repeat")
    return expand(f, x)


@aten("cat", "concat", "concatenate")
def cat(f: Walk, tensors: Sequence[Tensor], dim: int) -> Tensor:
    return f("Concat", *tensors, axis=dim)


@aten("stack")
def stack(f: Walk, tensors: Sequence[Tensor], dim: int) -> Tensor:
    at = dim % len(f.shape)
    return f("Concat", *(f("Unsqueeze", x, ints(at)) for x in tensors), axis=at)


@aten("split", "split_with_sizes", "chunk", "tensor_split")
def split(f: Walk, x: Tensor, dim: int, **how: Any) -> Tensor:
    axis = axis_in(dim, x)
    sizes = [shape[axis] for shape in f.shapes]
    return f("Split", x, ints(*sizes), n=len(sizes), axis=axis)


@aten("unbind")
def unbind(f: Walk, x: Tensor, dim: int) -> list[Tensor]:
    return [select(f, x, dim, i) for i in range(x.shape[dim])]


@aten("select")
def select(f: Walk, x: Tensor, dim: int, index: int) -> Tensor:
    axis = axis_in(dim, x)
    if isinstance(x, Timed) and x.axis == axis and index not in (-1, x.length - 1):
        raise Unsupported(
            f"forward chooses frame {index} of the sequence: in a stream only the last is there, "
            f"as the one that came last; a loop over frames is a module that takes one frame and "
            f"the states (time_axis=None), or nn.RNN, nn.GRU, nn.LSTM"
        )
    return f("Gather", x, np.int64(index), axis=axis)


@aten("slice")
def sliced(f: Walk, x: Tensor, dim: int, start: int | None, end: int | None, step: int) -> Tensor:
    last = LARGEST if end is None else end
    if isinstance(x, Timed) and x.axis == axis_in(dim, x):
        early = start is not None and start <= -x.length
        if early or x.length < last < LARGEST:
            raise Unsupported(
                f"forward cuts the sequence at a fixed length ([{start}:{end}]): a stream goes on"
            )
    return f("Slice", x, ints(start or 0), ints(last), ints(axis_in(dim, x)), ints(step))


@aten("narrow")
def narrow(f: Walk, x: Tensor, dim: int, start: int, length: int) -> Tensor:
    return sliced(f, x, dim, start, start + length, 1)


@aten("index_select")
def index_select(f: Walk, x: Tensor, dim: int, index: Any) -> Tensor:
    return f("Gather", x, index, axis=axis_in(dim, x))


@aten("flip")
def flip(f: Walk, x: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        x = f("Gather", x, np.arange(x.shape[dim])[::-1].copy(), axis=axis_in(dim, x))
    return x


@aten("pad", "constant_pad_nd")
def pad(
    f: Walk, x: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Tensor:
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for k in range(len(pad) // 2):  # torch begins with the last axis
        before[rank - 1 - k], after[rank - 1 - k] = pad[2 * k], pad[2 * k + 1]
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    fill = np.float32(0 if value is None else value)
    return f("Pad", x, ints(*before, *after), fill, mode=modes[mode])
