"""Keras' layers without recurrence: what each is in layers of ours."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import FileError, WeightError
from ...ops import activations as act
from ...ops.conv1d import Conv1d
from ...ops.embedding import Embedding
from ...ops.linear import Linear
from ...ops.norm import BatchNorm1d, LayerNorm
from ...ops.op import Op
from .activations import activation
from .arrays import converted, take
from .flow import LAYERS, Apply, Flow, layer, sequence, single, through
from .options import Options

__all__ = ["MASKS", "with_arrays"]

Arrays = list[npt.NDArray[Any]]


def with_arrays(op: Op, arrays: Sequence[npt.NDArray[Any]]) -> Op:
    """Return an op once it has the weights of Keras' layer."""
    op.weights = converted(op, arrays)
    return op


def _kernel(arrays: Arrays, rank: int) -> tuple[int, ...]:
    """Return the shape of the first array."""
    if not arrays or arrays[0].ndim != rank:
        take(arrays, (None,) * rank)
    return arrays[0].shape


@layer("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout")
@layer("ActivityRegularization")
def _training_only(o: Options, arrays: Arrays) -> Apply:
    """Nothing happens outside of training; a dropout may keep the state of its random numbers."""
    for name in ("l1", "l2"):
        o.get(name)
    return through()


@layer("Dense")
def _dense(o: Options, arrays: Arrays) -> Apply:
    inputs, _ = _kernel(arrays, 2)
    op = Linear(inputs, o.integer("units"), o.flag("use_bias", True), name=o.get("name"))
    return through(with_arrays(op, arrays), activation(o.get("activation"), o.keras))


MASKS = (
    "it masks frames that are padding, and a stream has none: pass ignore_masks=True if you never "
    "feed it padding"
)


@layer("Masking")
def _masking(o: Options, arrays: Arrays) -> Apply:
    o.get("mask_value")
    if not o.get("ignore_masks"):
        raise FileError(MASKS)
    return through()


@layer("Embedding")
def _embedding(o: Options, arrays: Arrays) -> Apply:
    if o.flag("mask_zero", False) and not o.get("ignore_masks"):
        raise FileError(MASKS)
    op = Embedding(o.integer("input_dim"), o.integer("output_dim"), name=o.get("name"))
    return through(with_arrays(op, arrays))


@layer("Conv1D")
def _conv1d(o: Options, arrays: Arrays) -> Apply:
    _, width, _ = _kernel(arrays, 3)
    size, dilation, groups = o.integer("kernel_size"), o.integer("dilation_rate"), 1
    if o.get("groups") is not None:
        groups = o.integer("groups")
    padding = o.get("padding", "valid")
    if o.get("data_format", "channels_last") != "channels_last":
        raise FileError("only data_format='channels_last' is supported")
    if padding not in ("causal", "valid") and size > 1:
        raise FileError(
            f"padding={padding!r} sees frames that have not come yet: train with "
            f"padding='causal', or with 'valid' and the output {dilation * (size - 1)} frames late"
        )
    op = Conv1d(
        width * groups,
        o.integer("filters"),
        size,
        o.integer("strides"),
        dilation,
        groups,
        o.flag("use_bias", True),
        lookahead=dilation * (size - 1) if padding == "valid" else 0,
        name=o.get("name"),
    )
    then = through(with_arrays(op, arrays), activation(o.get("activation"), o.keras))
    return lambda flows: then([sequence(flows)])


@layer("BatchNormalization")
def _batch_norm(o: Options, arrays: Arrays) -> Apply:
    scale, center = o.flag("scale", True), o.flag("center", True)
    kept = take(arrays, *[(None,)] * (2 + scale + center))
    mean = kept[-2]
    gamma = kept[0] if scale else np.ones_like(mean)
    beta = kept[int(scale)] if center else np.zeros_like(mean)
    op = BatchNorm1d(len(mean), o.number("epsilon", 1e-3), name=o.get("name"))
    with_arrays(op, [gamma, beta, *kept[-2:]])
    axis = o.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        if flow.axis(axis) != 0:
            raise FileError(f"axis {axis} of frames {flow.value.shape} is not their first axis")
        return Flow(op(flow.value), flow.timed)

    return apply


@layer("LayerNormalization")
def _layer_norm(o: Options, arrays: Arrays) -> Apply:
    scale, center, axes = o.flag("scale", True), o.flag("center", True), o.get("axis", -1)
    if o.flag("rms_scaling", False):
        raise FileError("rms_scaling=True is not supported")
    if len(arrays) != scale + center:
        raise WeightError(f"expected {scale + center} arrays, got {len(arrays)}")
    eps, name = o.number("epsilon", 1e-3), o.get("name")

    @functools.cache
    def op(shape: tuple[int, ...]) -> Op:
        gamma = arrays[0] if scale else np.ones(shape, np.float32)
        beta = arrays[int(scale)] if center else np.zeros(shape, np.float32)
        return with_arrays(LayerNorm(shape, eps, name=name), [gamma, beta])

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        given = axes if isinstance(axes, list) else [axes]
        own = sorted(flow.axis(axis) for axis in given)
        rank = len(flow.value.shape)
        if own != list(range(rank - len(own), rank)):
            raise FileError(f"axes {given} of frames {flow.value.shape} are not the last ones")
        return Flow(op(flow.value.shape[own[0] :])(flow.value), flow.timed)

    return apply


@layer("TimeDistributed")
def _time_distributed(o: Options, arrays: Arrays) -> Apply:
    inner = o.get("layer")
    if not isinstance(inner, dict) or inner.get("class_name") not in LAYERS:
        kind = inner.get("class_name") if isinstance(inner, dict) else inner
        raise FileError(f"the layer {kind!r} in it is not supported")
    if inner["class_name"] in ("SimpleRNN", "GRU", "LSTM", "RNN", "CuDNNGRU", "CuDNNLSTM"):
        raise FileError("a recurrent layer within each frame is not supported")
    options = Options({**inner["config"], "name": o.get("name")}, o.keras)
    apply = LAYERS[inner["class_name"]](options, arrays)
    options.finish()

    def each(flows: Sequence[Flow]) -> Flow:
        frame = Flow(sequence(flows).value, timed=False)
        return Flow(apply([frame]).value, timed=True)

    return each


# Activations --------------------------------------------------------------------------------------


@layer("Activation")
def _activation(o: Options, arrays: Arrays) -> Apply:
    return through(activation(o.get("activation"), o.keras))


@layer("ReLU")
def _relu(o: Options, arrays: Arrays) -> Apply:
    limit, slope = o.get("max_value"), o.number("negative_slope", 0.0)
    if o.number("threshold", 0.0):
        raise FileError("a threshold other than 0 is not supported")
    if limit is None:
        return through(act.LeakyReLU(slope) if slope else act.ReLU())
    if slope:
        raise FileError("max_value together with negative_slope is not supported")
    return through(act.Hardtanh(0.0, o.number("max_value", 0.0)))


@layer("LeakyReLU")
def _leaky_relu(o: Options, arrays: Arrays) -> Apply:
    old = o.number("alpha", 0.3)
    return through(act.LeakyReLU(o.number("negative_slope", old)))


@layer("ELU")
def _elu(o: Options, arrays: Arrays) -> Apply:
    return through(act.ELU(o.number("alpha", 1.0)))


@layer("PReLU")
def _prelu(o: Options, arrays: Arrays) -> Apply:
    o.get("shared_axes")
    (slopes,) = take(arrays, *[a.shape for a in arrays[:1]])
    weight = np.reshape(slopes, -1)

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        if len(flow.value.shape) != 1 or weight.size not in (1, *flow.value.shape):
            raise FileError(
                f"slopes of shape {slopes.shape} for frames {flow.value.shape}: only one for each "
                f"channel, shared over time (shared_axes=[1]), is supported"
            )
        op = act.PReLU(weight.size, name=o.get("name"))
        op.weights = {"weight": weight}
        return Flow(op(flow.value), flow.timed)

    return apply


@layer("Softmax")
def _softmax(o: Options, arrays: Arrays) -> Apply:
    axis = o.get("axis", -1)

    def apply(flows: Sequence[Flow]) -> Flow:
        flow = single(flows)
        return Flow(act.Softmax(flow.axis(axis))(flow.value), flow.timed)

    return apply
