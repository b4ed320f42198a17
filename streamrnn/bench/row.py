"""Rows of the benchmark: all contenders on one function, and what the machine could do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..layer import Layer
from . import graphs, ours, peers
from .case import CELLS, Case, layer, recurrent_bytes, supply, work
from .libraries import library
from .limits import reading
from .timing import Contender, Effort, Timing, differences, interleaved

__all__ = ["READ", "READ_INT8", "Row", "contenders", "measured"]

READ = "reading the weights"
READ_INT8 = "reading int8 weights"

COMPILED_SIZES = (64, 256)
"""Hidden sizes for which torch compiles, unless it is asked for by name: it takes seconds each."""


@dataclass(frozen=True)
class Row:
    """The times of all contenders on one function.

    Parameters
    ----------
    section : str
        Part of the benchmark.
    label : str
        The function.
    case : Case or None
        Its sizes, where it is a stack of layers.
    weight_bytes : int
        Of the weights in float32, or as they are in a file.
    multiply_adds : int
        For a frame.
    bytes_per_frame : float
        Of weights that have to be read for a frame of a stream, at least.
    timings : dict
        Times per frame of a stream, by the contender's name.
    differences : dict
        Largest absolute difference from our outputs, by the contender's name.
    of_bytes : bool
        Whether the model's own weights are bytes, most of them.
    """

    section: str
    label: str
    case: Case | None
    weight_bytes: int
    multiply_adds: int
    bytes_per_frame: float
    timings: dict[str, Timing]
    differences: dict[str, float] = field(default_factory=dict)
    of_bytes: bool = False

    def us(self, name: str) -> float | None:
        """Return the median of a contender, or None where it was not measured."""
        return self.timings[name].median_us if name in self.timings else None

    def ratio(self, name: str, ours: str) -> float | None:
        """Return how many times longer than one of ours another contender takes (medians)."""
        theirs, own = self.us(name), self.us(ours)
        return theirs / own if theirs and own else None

    def gb_s(self, name: str) -> float | None:
        """Return the weights' bytes read in a second."""
        us = self.us(name)
        n_bytes = self.bytes_per_frame / (4 if "int8" in name else 1)
        return n_bytes / us / 1e3 if us else None

    def gflop_s(self, name: str) -> float | None:
        """Return the multiply-adds in a second, two operations each."""
        us = self.us(name)
        return 2e-3 * self.multiply_adds / us if us else None

    def least_us(self, gflop_s: float, int8: bool = False) -> float | None:
        """Return the least that a frame could take: to read its weights, or to compute.

        Parameters
        ----------
        gflop_s : float
            What the core can compute, in the contender's number format.
        int8 : bool
            Whether the weights are bytes.
        """
        read = self.us(READ_INT8 if int8 else READ)
        if read is None:
            return None
        part = self.bytes_per_frame / self.weight_bytes if self.weight_bytes else 0.0
        return max(part * read, 2e-3 * self.multiply_adds / gflop_s)


def contenders(case: Case, x: Any, wanted: Collection[str], forced: Collection[str] = ()) -> Any:
    """Yield all contenders on a stack of layers, with the same random weights; ours first.

    Parameters
    ----------
    case : Case
        Which layers, frames and streams.
    x : float32 [shape=case.shape]
        Buffer of the frames, shared by all.
    wanted : collection of str
        Names of peers.
    forced : collection of str
        Those of them that are measured in every size, however long that takes.
    """
    model = layer(case)
    yield from own(model, x, case)
    wanted = [peer for peer in wanted if peers.available(peer)]
    if case.kind in CELLS:
        weights = model.state_dict()
        graph = graphs.recurrent(case, weights) if reads_onnx() else None
        if peers.NUMPY in wanted:
            yield peers.numpy_calls(case, weights, x)
        if peers.TORCH in wanted:
            yield peers.torch_calls(case, weights, x)
        small = case.frames == 1 and case.num_layers == 1 and case.hidden_size in COMPILED_SIZES
        if peers.COMPILED in wanted and (small or peers.COMPILED in forced):
            yield peers.torch_calls(case, weights, x, compiled=True)
    else:
        graph = graphs.written(model) if reads_onnx() and case.frames == 1 else None
    if graph is None:
        return
    for peer in peers.GRAPH_PEERS:
        if peer in wanted:
            yield peers.of_graph(peer, graph, x.reshape(graph.x_shape), case.frames)
    if peers.INT8 in wanted and case.frames == 1:
        small_graph = graphs.written(model, "int8")
        yield peers.onnxruntime_int8(small_graph, x.reshape(small_graph.x_shape), case.frames)


def own(model: Layer, x: Any, case: Case) -> Iterator[Contender]:
    """Yield our own contenders on a model."""
    small = ours.int8_form(model)
    if case.batch > 1:
        yield ours.pool(model, x)
        if small is not None:
            yield ours.pool(small, x, ours.INT8_POOL)
        yield one_by_one(model, x)
    elif case.block > 1:
        yield ours.blocks(model, x)
        if small is not None:
            yield ours.blocks(small, x, ours.INT8_BLOCK)
    else:
        yield ours.step(model, x)
        yield ours.kernel(model)
        if small is not None:
            yield ours.step(small, x, ours.INT8_STEP)
            yield ours.kernel(small, ours.INT8_KERNEL)
        if reads_onnx():
            with tempfile.TemporaryDirectory() as folder:
                from ..export import to_onnx

                path = Path(folder) / "step.onnx"
                to_onnx(model, path, verify=False)
                yield ours.onnx_stream(path, x)


def one_by_one(model: Layer, x: Any) -> Contender:
    """Return as many streams as the batch has, stepped one after another from Python."""
    streams: list[Any] = [model.stream() for _ in range(x.shape[-2])]
    frames = list(x.reshape(len(streams), -1))
    outs = np.zeros((len(streams), streams[0].program.output_size), np.float32)
    pairs = [(s.step, frame, out) for s, frame, out in zip(streams, frames, outs, strict=True)]

    def call() -> None:
        for step, frame, out in pairs:
            step(frame, out)

    return Contender(ours.EACH, call, lambda: outs.reshape(-1), len(streams))


def measured(
    section: str,
    case: Case,
    wanted: Collection[str],
    forced: Collection[str],
    effort: Effort,
    tick: Callable[[], None],
) -> Row:
    """Measure one stack of layers on random frames."""
    x = np.zeros(case.shape, np.float32)
    frames = supply(case.shape)
    with peers.torch_inference():
        found = list(contenders(case, x, wanted, forced))
        n_bytes, adds = work(layer(case))
        per_call = case.block * recurrent_bytes(case)
        per_call += n_bytes - recurrent_bytes(case)
        apart = differences(found, x, frames[:4] if case.frames > 1 else frames)
        found.append(reading(READ, n_bytes))
        if any("int8" in contender.name for contender in found):
            found.append(reading(READ_INT8, max(1, n_bytes // 4)))
        timings = interleaved(found, x, frames, effort, tick)
    return Row(section, str(case), case, n_bytes, adds, per_call / case.frames, timings, apart)


def reads_onnx() -> bool:
    """Whether there is what makes and runs ONNX graphs."""
    return library("onnx") is not None and library("onnxruntime") is not None
