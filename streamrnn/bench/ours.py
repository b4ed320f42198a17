"""Our own contenders: a step called from Python, the kernels alone, blocks, pools, int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..kernels import tape
from ..layer import Layer
from ..stream import Stream
from .timing import INT8_TOLERANCE, TOLERANCE, Contender

__all__ = [
    "BLOCK",
    "EACH",
    "INT8_BLOCK",
    "INT8_KERNEL",
    "INT8_POOL",
    "INT8_STEP",
    "KERNEL",
    "ONNX_STREAM",
    "POOL",
    "STEP",
    "blocks",
    "int8_form",
    "kernel",
    "onnx_stream",
    "pool",
    "step",
]

Array = npt.NDArray[np.float32]

STEP = "streamrnn step"
KERNEL = "streamrnn kernel"
BLOCK = "streamrnn block"
POOL = "streamrnn pool"
EACH = "streamrnn stream by stream"
INT8_STEP = "streamrnn int8 step"
INT8_KERNEL = "streamrnn int8 kernel"
INT8_BLOCK = "streamrnn int8 block"
INT8_POOL = "streamrnn int8 pool"
ONNX_STREAM = "OnnxStream step"

KERNEL_FRAMES = 64
"""Frames that the kernels run without coming back to Python, one after another."""


def int8_form(model: Layer) -> Layer | None:
    """Return a model with int8 weights, or None where it has nothing to quantise."""
    try:
        return model.quantize("int8")
    except ConfigError:
        return None


def _tolerance(name: str) -> float:
    return INT8_TOLERANCE if "int8" in name else TOLERANCE


def step(
    model: Layer,
    x: Array,
    name: str = STEP,
    y: str | None = None,
    tolerance: float | None = None,
) -> Contender:
    """Return a stream's ``step`` into a buffer; of several outputs, `y` or the first is compared.

    The shared buffer may have axes of one more than the frame.
    """
    stream: Any = model.stream()
    outs = tuple(np.zeros(v.shape, np.float32) for v in stream.program.outputs)
    at = list(stream.program.output_names).index(y) if y else 0
    frame = x.reshape(stream.program.inputs[0].shape)
    out = outs if len(outs) > 1 else outs[0]

    def call() -> None:
        stream.step(frame, out=out)

    def call_with_index() -> None:
        stream.step(frame.item(), out=out)

    if stream.program.index_limits[0] and not frame.shape:
        call = call_with_index
    return Contender(name, call, lambda: outs[at].reshape(-1), 1, tolerance or _tolerance(name))


def kernel(model: Layer, name: str = KERNEL, seed: int = 0) -> Contender:
    """Return the kernels of a step alone: frames go through the tape one by one, in one call.

    What a step called from Python takes beyond is the call. The frames are its own.
    """
    stream: Stream = model.stream()
    stream._plan_table[tape.BLOCK] = 1
    n, program = KERNEL_FRAMES, stream.program
    n -= n % program.clock.stride
    shape, below = (n, *program.inputs[0].shape), program.index_limits[0]
    rng = np.random.default_rng(seed)
    xs: Any = rng.integers(0, below, shape) if below else rng.standard_normal(shape, np.float32)
    result = stream.run(xs)
    outs = tuple(np.zeros_like(r) for r in (result if isinstance(result, tuple) else (result,)))
    flat = outs[0].reshape(-1)
    if len(outs) > 1:
        flat = np.zeros(sum(out.size for out in outs), np.float32)
    # `run` would check the block first, which is no part of a step.
    flat_in = xs.astype(np.float32).reshape(-1)

    def call() -> None:  # it keeps the stream, whose buffers the plan only points to
        stream._advance(stream._plan, n, flat_in, flat)

    return Contender(name, call, frames=n)


def blocks(model: Layer, x: Array, name: str = BLOCK) -> Contender:
    """Return a stream's ``run`` of the frames of a call into a buffer."""
    stream: Any = model.stream()
    xs = x.reshape(len(x), *stream.program.inputs[0].shape)
    ys = np.zeros_like(stream.run(xs))
    stream.reset()

    def call() -> None:
        stream.run(xs, out=ys)

    return Contender(name, call, lambda: ys.reshape(-1), len(x), _tolerance(name))


def pool(model: Layer, x: Array, name: str = POOL) -> Contender:
    """Return a pool's step of one frame of every stream."""
    streams = x.shape[-2]
    made: Any = model.pool()
    made.join(streams)
    program: Any = model.stream().program
    batch = x.reshape(streams, *program.inputs[0].shape)
    out = np.zeros((streams, *program.outputs[0].shape), np.float32)

    def call() -> None:
        made.step(batch, out=out)

    return Contender(name, call, lambda: out.reshape(-1), streams, _tolerance(name))


def onnx_stream(path: Any, x: Array, y: str | None = None, **options: Any) -> Contender:
    """Return our ``OnnxStream`` on a step graph, its step into a buffer.

    Parameters
    ----------
    path : Path
        The file; it is read now and not needed later.
    x : float32
        The shared buffer.
    y : str, optional
        The output that is compared, else the first.
    options
        Of ``streamrnn.load``.
    """
    from ..export import OnnxStream

    stream: Any = OnnxStream(path, **options)
    frame = x.reshape(stream.program.inputs[0].shape)
    outs = tuple(np.zeros(v.shape, np.float32) for v in stream.program.outputs)
    at = [port.name for port in stream.program.results].index(y) if y else 0
    out = outs if len(outs) > 1 else outs[0]

    def call() -> None:
        stream.step(frame, out=out)

    return Contender(ONNX_STREAM, call, lambda: outs[at].reshape(-1))
