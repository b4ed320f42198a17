"""The list of cases itself: nothing in the library escapes it."""

from __future__ import annotations

import streamrnn
from streamrnn.ops import REGISTRY
from zoo import CASES


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("streamrnn.")  # test files register ops of their own


def test_every_op_of_the_library_has_cases() -> None:
    used = {type(node.op).__name__ for case in CASES for node in case.model.graph().nodes}
    assert {name for name, kind in REGISTRY.items() if _is_ours(kind)} - used == set()


def test_every_op_is_public() -> None:
    public = set(streamrnn.__all__)
    assert {name for name, kind in REGISTRY.items() if _is_ours(kind)} - public == set()
    assert all(hasattr(streamrnn, name) for name in public)
    assert streamrnn.__all__ == sorted(public)


def test_no_two_cases_have_one_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_every_case_has_the_same_weights_each_time() -> None:
    for case in CASES[::7]:
        a, b = case.fresh().state_dict(), case.fresh().state_dict()
        assert a.keys() == b.keys()
        assert all((a[name] == b[name]).all() for name in a)


def test_the_sizes_that_vectors_do_not_like_are_there() -> None:
    sizes = {case.model.program().output_size for case in CASES}
    assert sizes >= {1, 3, 20, 33, 100}
