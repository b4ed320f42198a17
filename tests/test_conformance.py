"""ONNX's own tests of its operators: none is wrong, and the page of docs says what passes."""

import numpy as np
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
    version, _, passed = read_page()
    if version != onnx.__version__:
        pytest.skip(f"docs/onnx-conformance.md is about onnx {version}, not {onnx.__version__}")
    now = {o.case.removeprefix("test_") for o in found if o.kind == "passed"}
    assert not passed - now


def test_the_page_is_of_today(found):
    version, date, _ = read_page()
    if version != onnx.__version__:
        pytest.skip(f"docs/onnx-conformance.md is about onnx {version}, not {onnx.__version__}")
    assert PAGE.read_text(encoding="utf-8") == page(date), "run python tests/conformance.py --write"


def _case(name):
    import conformance

    (case,) = [c for c in conformance.node_cases() if c.name == name]
    return case


def test_a_wrong_result_is_found_out(monkeypatch, tmp_path):
    import conformance
    from streamrnn import ReLU

    monkeypatch.setattr(ReLU, "lower", lambda self, tape, x: x)
    assert conformance.run(_case("test_relu"), tmp_path / "m.onnx").kind == "wrong"


def test_an_integer_that_is_off_by_one_is_found_out(monkeypatch, tmp_path):
    """Within ONNX's tolerance for floats, which is relative."""
    import conformance

    case, large = _case("test_cumsum_1d"), _case("test_add_int16")
    x, y = (np.full((3, 4, 5), n, np.int16) for n in (9000, 1))
    monkeypatch.setattr(large, "data_sets", [((x, y), (x + y + 1,))])
    assert conformance.run(large, tmp_path / "m.onnx").reason == "sum: off by 1"
    (inputs, (wanted,)) = case.data_sets[0]
    monkeypatch.setattr(case, "data_sets", [(inputs, (wanted + 1e-5,))])
    assert conformance.run(case, tmp_path / "m.onnx").kind == "passed", "floats have a tolerance"


@pytest.mark.parametrize(
    "name", ["causal_conv_with_state_with_past_state", "linear_attention_decode_step"]
)
def test_a_state_is_kept_by_the_stream(name, monkeypatch, tmp_path):
    """Of operators that have one, the cases are run with a state of ours, not with a constant."""
    import conformance

    case, streams = _case(f"test_{name}"), []
    make = conformance.sr.Model.stream

    def kept(*args, **options):
        streams.append(make(*args, **options))
        return streams[-1]

    monkeypatch.setattr(conformance.sr.Model, "stream", kept)
    assert conformance.run(case, tmp_path / "m.onnx").kind == "passed"
    assert any("past" in state for state in streams[-1].state)
