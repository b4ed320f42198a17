"""What is measured: a layer and its sizes, how many frames a call takes, of how many streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import GRU, LSTM, RNN, Conv1d, Embedding, Layer, Linear
from ..describe import describe_model

__all__ = ["CELLS", "OPS", "Case", "input_size", "layer", "supply"]

Array = npt.NDArray[Any]

CELLS = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
OPS = ("Linear", "Conv1d")
CONV_TAPS = 3

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Case:
    """A stack of layers, and how it is called.

    Parameters
    ----------
    kind : str
        ``"LSTM"``, ``"GRU"`` or ``"RNN"``; ``"Linear"`` or ``"Conv1d"`` (over 3 frames).
    input_size, hidden_size, num_layers : int
        Its sizes; the hidden size is also that of the output.
    block : int
        Frames of a stream that one call takes.
    batch : int
        Streams side by side in one call.
    """

    kind: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    block: int = 1
    batch: int = 1

    def __str__(self) -> str:
        layers = f" x{self.num_layers}" if self.num_layers > 1 else ""
        block = f", {self.block} frames" if self.block > 1 else ""
        batch = f", {self.batch} streams" if self.batch > 1 else ""
        return f"{self.kind} {self.input_size} -> {self.hidden_size}{layers}{block}{batch}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of what a call reads: (frames, streams, inputs)."""
        return self.block, self.batch, self.input_size

    @property
    def frames(self) -> int:
        """Frames of a call, those of all streams together."""
        return self.block * self.batch

    @property
    def step(self) -> Case:
        """The same layers, one frame of one stream a call."""
        return replace(self, block=1, batch=1)


def input_size(hidden_size: int) -> int:
    """Return the size of the input that goes with a hidden size: 16 to 80, as in practice."""
    return 16 if hidden_size <= 32 else 40 if hidden_size <= 256 else 80


def layer(case: Case) -> Layer:
    """Return the layers with random weights, the same for the same sizes."""
    if case.kind in CELLS:
        return CELLS[case.kind](
            case.input_size, case.hidden_size, num_layers=case.num_layers, seed=0
        )
    if case.kind == "Linear":
        return Linear(case.input_size, case.hidden_size, seed=0)
    return Conv1d(case.input_size, case.hidden_size, CONV_TAPS, seed=0)


def work(model: Layer) -> tuple[int, int]:
    """Return the bytes of the weights that a frame reads, and its multiply-adds.

    Tables of embeddings are left out: a frame reads a row of them.
    """
    said = describe_model(model)
    ops = {id(node.op): node.op for node in model.graph().nodes}.values()
    tables = sum(op.stored_bytes() for op in ops if isinstance(op, Embedding))
    return int(said["weight_bytes"]) - tables, int(said["multiply_adds"])


def recurrent_bytes(case: Case) -> int:
    """Return the bytes of the weights that every frame needs anew, however long the block is."""
    H = case.hidden_size
    return 4 * GATES[case.kind] * H * H * case.num_layers if case.kind in CELLS else 0


def supply(shape: Sequence[int], seed: int = 0, below: int | None = None) -> Array:
    """Return frames for some calls: as many as stay in a small part of the cache, at least 2.

    They are normal float32 numbers, or indices `below` a limit where a model reads those.
    """
    size = int(np.prod(shape))
    calls = int(np.clip(16384 // size, 2, 64))
    if below is not None:
        return np.random.default_rng(seed).integers(0, below, (calls, *shape))
    return np.random.default_rng(seed).standard_normal((calls, *shape)).astype(np.float32)
