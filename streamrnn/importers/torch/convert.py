"""``from_torch``: a module of PyTorch's becomes a model that keeps its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ConfigError, ConversionError
from ...layer import Model
from ..onnx.node import Timed, Unsupported
from .capture import AUTO, capture
from .prepare import prepared
from .verify import check
from .walk import Walk, described

__all__ = ["from_torch"]


def from_torch(
    module: Any,
    example: Any = None,
    *,
    time_axis: int | Mapping[str, int | None] | None = AUTO,
    states: Sequence[str] | None = None,
    lookahead_frames: int = 0,
    verify: bool = True,
) -> Model:
    """Return a PyTorch module as a model that takes one frame at a time.

    The module is copied, and the copy put into evaluation mode (whatever the module's own), on the
    CPU, in float32 (a warning says so if it was of another type); the module is not changed. Frames
    are the example's without the time axis and without leading axes of size 1.

    Parameters
    ----------
    module : torch.nn.Module
        One that takes a sequence of frames, which becomes a stream of frames whose recurrent layers
        and convolutions keep their state; or one that takes a frame and states, and returns the new
        states last: these go into the stream and disappear from the signature. Of a bare
        ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` the output is the sequence alone.
    example : tensor, array, tuple of these (positional) or dict of str (keywords), optional
        What the module takes; values do not matter. Not needed for a layer that says it by itself
        (``nn.LSTM``, ``nn.Linear``, …) or a ``Sequential`` that begins with one.
    time_axis : int, None or dict of str to int or None, optional
        Which axis of the inputs is time; None for a module that takes one frame. Unless given, it
        is what the first layer takes for it (axis 1 with ``batch_first``, the last of an
        ``nn.Conv1d``, none for a cell or a row of numbers), else axis 1. A dict says it by the
        names of ``forward``'s arguments.
    states : sequence of str, optional
        Which arguments of ``forward`` are states (``h``; ``hc_0`` and ``hc_1`` of a tuple ``hc``);
        unless given, those that a recurrent layer gets as its state. They begin at zero.
    lookahead_frames : int
        How many frames after its own an output may depend on (a centred convolution); they are
        waited for, and show up in ``model.delay_frames``.
    verify : bool
        Whether the stream is held against the module on random input, frame by frame.

    Returns
    -------
    Model
        Outputs are named as in the dict that the module returns, else ``y`` (``y_0``, ``y_1``, …).

    Raises
    ------
    ConfigError
        If `module` is no module, or the example, the time axis or the states do not fit it.
    ConversionError
        If the module cannot be streamed (bidirectional layers, attention or pooling over all of
        time, look-ahead that was not allowed), is quantised, lazy or not supported: the message
        names the submodule and the reason. If the stream gives other results: with a report of
        each submodule.
    """
    if not isinstance(lookahead_frames, int) or lookahead_frames < 0:
        raise ConfigError(
            f"from_torch: `lookahead_frames` must be 0 or more, got {lookahead_frames!r}"
        )
    copied = prepared(module)
    captured = capture(copied, example, time_axis, states)
    walk = Walk(captured)
    try:
        model = walk.model()
    except Unsupported as reason:
        raise ConversionError(f"{type(module).__name__}: {reason}") from None
    _check_lookahead(walk, lookahead_frames)
    if verify:
        check(walk, model)
    return model


def _check_lookahead(walk: Walk, allowed: int) -> None:
    """Raise unless the outputs depend on no more frames of the future than are allowed."""
    ahead = max((_ahead(result, walk.length) for result in walk.results), default=0)
    if ahead <= allowed:
        return
    needs = {node: _ahead(value, walk.length) for node, value in walk.values.items()}
    culprits = [
        described(node)
        for node, need in needs.items()
        if need > max((needs[n] for n in node.all_input_nodes), default=0)
    ]
    raise ConversionError(
        f"{', '.join(culprits)}: the output depends on {ahead} frames after its own; pad on the "
        f"left only, or allow it with lookahead_frames={ahead}"
    )


def _ahead(value: Any, length: int) -> int:
    """Return how many frames after the last one of a sequence its last entry needs."""
    if not isinstance(value, Timed) or value.axis is None:
        return 0
    clock = value.value.clock
    entries = value.length - value.front
    return max(0, clock.start + (entries - 1) * clock.stride - (length - 1))
