"""ONNX's own tests of its operators: none is wrong, and the page of docs says what passes."""

import pytest

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")

from conformance import PAGE, outcomes, page, read_page  # noqa: E402


@pytest.fixture(scope="module")
def found():
    return outcomes()


def test_no_case_is_wrong(found):
    assert not [o for o in found if o.kind == "wrong"]
    assert len(found) > 1000


def test_every_refusal_says_why(found):
    for outcome in found:
        assert outcome.kind != "refused" or len(outcome.reason) > 15, outcome


def test_what_passed_still_passes(found):
    """By the page, which names every case."""
    version, passed = read_page()
    if version != onnx.__version__:
        pytest.skip(f"docs/onnx-conformance.md is about onnx {version}, not {onnx.__version__}")
    now = {o.case.removeprefix("test_") for o in found if o.kind == "passed"}
    assert not passed - now


def test_the_page_is_of_today(found):
    version, _ = read_page()
    if version != onnx.__version__:
        pytest.skip(f"docs/onnx-conformance.md is about onnx {version}, not {onnx.__version__}")
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/conformance.py --write"


def test_a_wrong_result_is_found_out(monkeypatch, tmp_path):
    import conformance
    from streamrnn import ReLU

    monkeypatch.setattr(ReLU, "lower", lambda self, tape, x: x)
    (case, *_) = [c for c in conformance.node_cases() if c.name == "test_relu"]
    assert conformance.run(case, tmp_path / "m.onnx").kind == "wrong"
