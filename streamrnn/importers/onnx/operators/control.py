"""Operators with subgraphs."""

from __future__ import annotations

import numpy as np

from ..node import Known, Tensor, Unsupported, known, operator


@operator("If")
def choice(a: Known, n: int, condition: Tensor) -> Tensor:
    then, other = a.get("then_branch", None), a.get("else_branch", None)
    fixed = known(condition, "the condition depends on the frame; it").reshape(-1)
    if fixed.size != 1:
        raise Unsupported(f"the condition has shape {np.shape(condition)}")
    assert a.run is not None
    return tuple(a.run(then if fixed[0] else other, {}))
