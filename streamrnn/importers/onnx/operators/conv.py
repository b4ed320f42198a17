"""Convolutions."""

from __future__ import annotations

from ....graph import Value
from ....ops.frame_conv1d import FrameConv1d
from ....ops.rearrange import Pad
from ..node import Known, Tensor, Unsupported, known, operator, reshaped, with_weights


@operator("Conv")
def conv(a: Known, n: int, x: Value, w: Tensor, bias: Tensor = None) -> Tensor:
    weight = known(w, "the weight")
    if weight.ndim != 3 or len(x.shape) != 3 or x.shape[0] != 1:
        raise Unsupported(f"only 1-D convolutions of one stream are supported, got {x.shape}")
    a.only("auto_pad", "NOTSET", "VALID")
    a.only("kernel_shape", list(weight.shape[2:]))
    before, after = a.get("pads", [0, 0])
    (stride,), (dilation,) = a.get("strides", [1]), a.get("dilations", [1])
    groups = a.get("group", 1)
    frame = reshaped(x, x.shape[1:])
    if before != after or before > dilation * (weight.shape[2] - 1):
        frame, before = Pad(before, after)(frame), 0
    op = FrameConv1d(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2],
        stride,
        before,
        dilation,
        groups,
        bias is not None,
    )
    weights = {"weight": weight} | ({} if bias is None else {"bias": known(bias, "the bias")})
    y = with_weights(op, **weights)(frame)
    return reshaped(y, (1, *y.shape))
