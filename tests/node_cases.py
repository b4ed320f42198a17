"""ONNX's own tests of its operators, made once for all test modules."""

import functools
import warnings

__all__ = ["node_cases"]


@functools.cache
def node_cases():
    """Return every case: model, data sets and tolerances."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows on the way to small float kinds are meant
        return collect_testcases(None)
