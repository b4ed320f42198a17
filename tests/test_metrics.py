"""Metrics while a stream runs: beside scikit-learn and jiwer, and worked out by hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import metrics
from streamrnn.metrics import (
    ROCAUC,
    Classification,
    DetectionLatency,
    EditDistance,
    ErrorRate,
    ForecastError,
    edit_distance,
    naive_error,
    roc_auc,
)

GOLDEN = Path(__file__).parent / "golden" / "decode.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


# Classification -----------------------------------------------------------------------------------


def test_classification_measures_what_scikit_learn_measures(golden: dict[str, np.ndarray]) -> None:
    truth, guess = golden["labels"]
    metric = Classification(6)
    metric.run(guess[:100], truth[:100])
    for one, other in zip(guess[100:], truth[100:], strict=True):
        metric.step(one, other)
    np.testing.assert_array_equal(metric.confusion, golden["confusion"])
    assert metric.count == len(truth)
    assert metric.accuracy == pytest.approx(float(golden["accuracy"]))
    precision, recall, f1 = golden["precision_recall_f1"]
    np.testing.assert_allclose(metric.precision, precision)
    np.testing.assert_allclose(metric.recall, recall)
    np.testing.assert_allclose(metric.f1, f1)
    assert metric.macro_f1 == pytest.approx(f1.mean())
    assert recall[5] == 0  # it never came


def test_classification_by_hand() -> None:
    metric = Classification()
    assert math.isnan(metric.accuracy)
    assert metric.f1.tolist() == [0, 0]
    metric.run([True, True, False, True], [True, False, False, True])
    assert metric.confusion.tolist() == [[1, 1], [0, 2]]
    assert (metric.accuracy, metric.precision[1], metric.recall[1]) == (0.75, 2 / 3, 1)
    assert metric.f1[1] == 0.8
    metric.confusion[:] = 9  # a copy
    assert metric.count == 4


BAD_LABELS: list[tuple[Any, Any, str]] = [
    ([0, 3], [0, 0], "run: predicted: expected labels from 0 to 2, got 3"),
    ([0, 0], [0, -1], "run: truth: expected labels from 0 to 2, got -1"),
    ([0.0, 1.0], [0, 0], "expected integer labels of .* got float64"),
    ([0, 1], ["a", "b"], "expected integer labels of .* got <U1"),
    ([0, 1], [0], r"expected as many labels as truths, .* got shapes \(2,\) and \(1,\)"),
    (0, 0, r"expected as many labels as truths, .* got shapes \(\) and \(\)"),
]


@pytest.mark.parametrize(("predicted", "truth", "message"), BAD_LABELS)
def test_bad_labels_are_refused_and_change_nothing(
    predicted: Any, truth: Any, message: str
) -> None:
    metric = Classification(3)
    metric.run([0, 1, 2], [0, 1, 1])
    before = metric.snapshot()
    with pytest.raises(sr.FrameError, match=rf"Classification\.{message}|{message}"):
        metric.run(predicted, truth)
    with pytest.raises(sr.FrameError, match=r"step: expected two labels, got shapes .*go to `run`"):
        metric.step([0, 1], [0, 1])
    with pytest.raises(sr.FrameError, match="step: truth: expected labels from 0 to 2, got 3"):
        metric.step(0, 3)
    assert metric.snapshot() == before


# ROC ----------------------------------------------------------------------------------------------


def test_the_area_is_scikit_learns(golden: dict[str, np.ndarray]) -> None:
    scores, positive = golden["scores"], golden["positive"]
    wanted = float(golden["roc_auc"])
    assert roc_auc(scores, positive) == pytest.approx(wanted, abs=1e-12)
    assert roc_auc(np.log(scores / (1 - scores)), positive == 1) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 7, 100, 10_000])
def test_the_area_from_bins_is_within_its_bound(golden: dict[str, np.ndarray], bins: int) -> None:
    scores, positive = golden["scores"], golden["positive"]
    metric = ROCAUC(bins)
    metric.run(scores[:1000], positive[:1000])
    for score, truth in zip(scores[1000:], positive[1000:], strict=True):
        metric.step(score, truth)
    error = abs(metric.auc - float(golden["roc_auc"]))
    assert error <= metric.error_bound <= 2 / bins + 4e-4  # spread, but for some equals
    assert metric.error_bound == pytest.approx(0.5) if bins == 1 else metric.error_bound < 0.5


def test_the_bound_is_reached_in_the_worst_case() -> None:
    metric = ROCAUC(bins=10)
    metric.run([0.51, 0.52, 0.53, 0.58], [0, 0, 1, 1])
    assert roc_auc([0.51, 0.52, 0.53, 0.58], [0, 0, 1, 1]) == 1
    assert (metric.auc, metric.error_bound) == (0.5, 0.5)
    metric.reset()
    metric.run([0.0, 1.0, 0.55, 0.51], [0, 1, 1, 0])
    assert (metric.auc, metric.error_bound) == (7 / 8, 1 / 8)


def test_equals_count_one_half_and_without_both_labels_there_is_no_area() -> None:
    assert roc_auc([0.5, 0.5, 0.2], [1, 0, 0]) == 0.75
    assert roc_auc([3.0, -2.0], [False, True]) == 0
    assert math.isnan(roc_auc([0.5, 0.6], [1, 1]))
    assert math.isnan(roc_auc([], []))
    metric = ROCAUC()
    metric.run([0.5, 0.6], [1, 1])
    assert math.isnan(metric.auc)
    assert math.isnan(metric.error_bound)


def test_bad_scores_are_refused_and_change_nothing() -> None:
    metric = ROCAUC(10)
    metric.run([0.1, 0.9], [0, 1])
    before = metric.snapshot()
    for scores, truths, error, message in (
        (
            [0.1, math.nan],
            [0, 1],
            sr.NonFiniteError,
            r"ROCAUC.run: expected finite .* nan at \[1\]",
        ),
        ([0.1, 2.0], [0, 1], sr.FrameError, "expected probabilities from 0 to 1, got 2"),
        (
            [0.1, 0.2],
            [0, 2],
            sr.FrameError,
            "ROCAUC.run: truth: expected labels from 0 to 1, got 2",
        ),
        ([0.1, 0.2], [0], sr.FrameError, "expected as many truths as scores, 2, got 1"),
        ([[0.1, 0.2]], [0], sr.FrameError, r"of shape \(T,\), got \(1, 2\)"),
    ):
        with pytest.raises(error, match=message):
            metric.run(scores, truths)
    with pytest.raises(sr.FrameError, match=r"ROCAUC.step: expected probabilities"):
        metric.step(-1.0, 0)
    assert metric.snapshot() == before
    with pytest.raises(sr.NonFiniteError, match="roc_auc: expected finite"):
        roc_auc([math.inf], [0])
    with pytest.raises(sr.FrameError, match="roc_auc: expected as many truths as scores, 2, got 1"):
        roc_auc([0.0, 1.0], [0])


# Forecasts ----------------------------------------------------------------------------------------


def test_errors_of_forecasts_are_scikit_learns(golden: dict[str, np.ndarray]) -> None:
    f, y = golden["forecasts"]
    metric = ForecastError(outputs=4, season=24)
    metric.run(f[:50], y[:50])
    for one, other in zip(f[50:], y[50:], strict=True):
        metric.step(one, other)
    assert metric.count == len(y)
    assert metric.mae == pytest.approx(float(golden["mae"]))
    assert metric.rmse == pytest.approx(float(golden["rmse"]))
    assert metric.bias == pytest.approx((f - y).mean())
    assert metric.smape_percent == pytest.approx((200 * abs(f - y) / (abs(f) + abs(y))).mean())
    naive = np.array([naive_error(column, 24) for column in y.T])
    assert metric.mase == pytest.approx((abs(f - y).mean(0) / naive).mean())


def test_forecasts_by_hand() -> None:
    metric = ForecastError()
    for number in (metric.mae, metric.rmse, metric.smape_percent, metric.mase, metric.bias):
        assert math.isnan(number)
    metric.step(3, 1)
    assert math.isnan(metric.mase)  # there is no frame before it
    metric.run([0, -1, 2], [0, -3, 2])
    assert (metric.mae, metric.rmse, metric.bias) == (1.0, math.sqrt(2), 1.0)
    assert metric.smape_percent == (100 + 0 + 100 + 0) / 4
    assert metric.mase == 1 / 3  # the naive one errs by 1, 3, 5
    scaled = ForecastError(naive_mae=4)
    scaled.step(3, 1)
    assert scaled.mase == 0.5
    flat = ForecastError()
    flat.run([1, 2, 3], [5, 5, 5])
    assert math.isnan(flat.mase)
    assert naive_error([1, 2, 4, 8]) == 7 / 3
    assert naive_error([1, 2, 4, 8], season=2) == 4.5


def test_bad_forecasts_are_refused_and_change_nothing() -> None:
    metric = ForecastError(outputs=2, season=3)
    metric.run([[1, 2]], [[2, 3]])
    before = metric.snapshot()
    for call, arguments, error, message in (
        (metric.step, ([1, 2], [1, math.nan]), sr.NonFiniteError, r"truth: .* got nan at \[1\]"),
        (metric.step, ([1, 2, 3], [1, 2]), sr.FrameError, r"forecast: .* \(2,\), got \(3,\)"),
        (metric.step, (["a", "b"], [1, 2]), sr.FrameError, "expected real numbers, got <U1"),
        (
            metric.run,
            ([[1, 2]], [[1, 2]] * 2),
            sr.FrameError,
            "as many truths as forecasts, 1, got 2",
        ),
        (metric.run, ([[1, 2]], [[1, math.inf]]), sr.NonFiniteError, r"truths: .* inf at \[0, 1\]"),
    ):
        with pytest.raises(error, match=rf"ForecastError\..*{message}"):
            call(*arguments)
    assert metric.snapshot() == before
    with pytest.raises(sr.FrameError, match="expected more than season=3 numbers, got 3"):
        naive_error([1, 2, 3], season=3)
    with pytest.raises(
        sr.ConfigError, match="naive_error: `season` must be an integer of at least"
    ):
        naive_error([1, 2, 3], season=0)


# Edits --------------------------------------------------------------------------------------------


def test_error_rates_are_jiwers(golden: dict[str, np.ndarray]) -> None:
    references, hypotheses = golden["texts"].tolist()
    words, characters, tokens = ErrorRate(), ErrorRate("character"), ErrorRate("token")
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words.step(reference, hypothesis)
        characters.step(reference, hypothesis)
        tokens.step(reference.split(), np.array(hypothesis.split()))
    assert words.rate == pytest.approx(float(golden["wer"]))
    assert characters.rate == pytest.approx(float(golden["cer"]))
    assert tokens.rate == words.rate
    assert (words.errors, words.length) == (tokens.errors, sum(len(r.split()) for r in references))


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("kitten", "sitting", 3),
        ("sunday", "saturday", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("abc", "abc", 0),
        ([1, 2, 3], np.array([2, 3, 4]), 2),
        (("AH0", "B"), ("AH1", "B"), 1),
    ],
)
def test_distances_by_hand(a: Any, b: Any, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_a_growing_text_has_a_distance_at_any_time() -> None:
    rng = np.random.default_rng(0)
    reference, text = rng.integers(0, 3, 20).tolist(), rng.integers(0, 4, 30).tolist()
    metric = EditDistance(reference)
    assert (metric.distance, metric.prefix_distance) == (20, 0)
    for n, token in enumerate(text, 1):
        assert metric.step(token) == edit_distance(reference, text[:n]) == metric.distance
        prefixes = [edit_distance(reference[:k], text[:n]) for k in range(21)]
        assert metric.prefix_distance == min(prefixes)
    metric.reset()
    assert metric.run(text) == edit_distance(text, reference)


def test_rates_without_a_reference() -> None:
    metric = ErrorRate()
    assert math.isnan(metric.rate)
    assert metric.step("", "a word") == 2
    assert metric.rate == math.inf
    assert metric.step("two words", "two birds") == 1
    assert metric.rate == 1.5


def test_bad_texts_are_refused_and_change_nothing() -> None:
    for unit, reference, hypothesis, message in (
        ("word", ["a"], "a", r"with unit='word' the reference is a string, got \['a'\]"),
        ("character", "a", 3, "with unit='character' the hypothesis is a string, got 3"),
        ("token", ["a"], "a", "with unit='token' the hypothesis is a sequence of tokens, got 'a'"),
        ("token", [[1]], [1], r"expected tokens, got \[\[1\]\]"),
        ("token", [1], [[1]], r"expected a token, got \[1\]"),
    ):
        metric = ErrorRate(unit)
        good = "a" if unit != "token" else ["a"]
        metric.step(good, good)
        before = metric.snapshot()
        with pytest.raises(sr.FrameError, match=message):
            metric.step(reference, hypothesis)
        assert metric.snapshot() == before
    distance = EditDistance("abc")
    distance.step("a")
    before = distance.snapshot()
    with pytest.raises(sr.FrameError, match=r"EditDistance.step: expected a token, got \[1\]"):
        distance.run(["b", [1]])  # type: ignore[list-item]
    assert distance.snapshot() == before
    with pytest.raises(sr.ConfigError, match="`reference` must be a sequence of tokens, got 3"):
        EditDistance(3)  # type: ignore[arg-type]
    with pytest.raises(sr.ConfigError, match="must be one of word, character, token, got 'letter'"):
        ErrorRate("letter")


# Detections ---------------------------------------------------------------------------------------


def test_detections_by_hand() -> None:
    metric = DetectionLatency(tolerance_s=1.0)
    for number in (metric.mean_s, metric.longest_s, metric.false_alarms_per_hour):
        assert math.isnan(number)
    metric.happened(2.0)
    metric.detected(2.25)  # of it
    metric.detected(2.5)  # of nothing: the event has one
    metric.happened(10.0)
    metric.happened(10.5)
    metric.detected(11.0)  # of the first of the two, at the last moment
    assert (metric.hits, metric.misses, metric.false_alarms) == (2, 0, 1)
    metric.advance(11.5)
    assert metric.misses == 0  # there is time
    metric.advance(36.0)
    assert (metric.hits, metric.misses, metric.false_alarms) == (2, 1, 1)
    assert (metric.mean_s, metric.longest_s) == (0.625, 1.0)
    assert metric.false_alarms_per_hour == 100


def test_detections_may_be_early_where_that_is_allowed() -> None:
    events, detections = [5.0, 9.0, 20.0], [4.5, 9.5, 19.0]
    strict, lenient = DetectionLatency(1.0), DetectionLatency(1.0, early_s=0.5)
    strict.run(events, detections)
    lenient.run(events, detections)
    assert (strict.hits, strict.misses, strict.false_alarms) == (1, 2, 2)
    assert (lenient.hits, lenient.misses, lenient.false_alarms) == (2, 1, 1)
    assert (lenient.mean_s, lenient.longest_s) == (0.0, 0.5)


@pytest.mark.parametrize("early_s", [0.0, 0.7])
def test_as_many_are_matched_as_can_be(early_s: float) -> None:
    """Beside SciPy's largest matching of a bipartite graph."""
    sparse = pytest.importorskip("scipy.sparse")
    graphs = pytest.importorskip("scipy.sparse.csgraph")
    rng = np.random.default_rng(4)
    for _ in range(20):
        events, detections = (np.sort(rng.uniform(0, 30, n)) for n in rng.integers(5, 40, 2))
        late = detections[None] - events[:, None]
        edges = sparse.csr_matrix((late <= 1.0) & (late >= -early_s))
        most = int((graphs.maximum_bipartite_matching(edges) >= 0).sum())
        metric = DetectionLatency(1.0, early_s)
        metric.run(events, detections)
        assert metric.hits == most
        assert metric.misses == events.size - most
        assert metric.false_alarms == detections.size - most


def test_times_out_of_order_are_refused_and_change_nothing() -> None:
    metric = DetectionLatency(1.0)
    metric.happened(5.0)
    before = metric.snapshot()
    for call, arguments, error, message in (
        (
            metric.happened,
            (4.0,),
            sr.FrameError,
            "happened: expected times in order, got 4 s after 5",
        ),
        (metric.detected, (4.0,), sr.FrameError, "detected: expected times in order"),
        (metric.advance, (math.nan,), sr.NonFiniteError, "advance: expected finite numbers"),
        (metric.run, ([6, 7], [8, 6]), sr.FrameError, "run: detections: .* got 6 s after 8 s"),
        (metric.run, ([1, 7], [8]), sr.FrameError, "run: events: .* got 1 s after 5 s"),
    ):
        with pytest.raises(error, match=rf"DetectionLatency\.{message}"):
            call(*arguments)
        assert metric.snapshot() == before


# What all have in common --------------------------------------------------------------------------

RNG = np.random.default_rng(1)
METRICS: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "classification": (lambda: Classification(4), *RNG.integers(0, 4, (2, 60))),
    "roc": (lambda: ROCAUC(20), RNG.random(60), RNG.integers(0, 2, 60)),
    "forecast": (lambda: ForecastError(2, season=5), *RNG.normal(size=(2, 60, 2))),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_snapshot_goes_on_and_blocks_change_nothing(name: str) -> None:
    make, xs, ys = METRICS[name]
    whole, pieces = make(), make()
    whole.run(xs, ys)
    for piece in np.split(np.arange(60), [1, 1, 17]):
        pieces.run(xs[piece], ys[piece])
    assert pieces.snapshot() == whole.snapshot()
    pieces.reset()
    assert pieces.snapshot() == make().snapshot()
    pieces.run(xs[:23], ys[:23])
    other, fork = make(), pieces.fork()
    other.restore(pieces.snapshot())
    for metric in (other, fork):
        for x, y in zip(xs[23:], ys[23:], strict=True):
            metric.step(x, y)
        assert metric.snapshot() == whole.snapshot()
    with pytest.raises(sr.StateError, match=r"is of ErrorRate\(unit='word'\) and does not fit"):
        other.restore(ErrorRate().snapshot())
    assert other.snapshot() == whole.snapshot()


def test_detections_go_on_from_a_snapshot() -> None:
    metric = DetectionLatency(1.0)
    metric.happened(1.0)
    other = DetectionLatency(1.0)
    other.restore(metric.snapshot())
    other.detected(1.5)
    assert (other.hits, other.mean_s) == (1, 0.5)
    assert metric.hits == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification(1), "Classification: `classes` must be at least 2, got 1"),
        (lambda: Classification(2.0), "`classes` must be an integer of at least 1, got 2.0"),  # type: ignore[arg-type]
        (lambda: ROCAUC(0), "ROCAUC: `bins` must be an integer of at least 1, got 0"),
        (lambda: ForecastError(0), "ForecastError: `outputs` must be an integer of at least 1"),
        (lambda: ForecastError(season=-1), "`season` must be an integer of at least 1, got -1"),
        (lambda: ForecastError(naive_mae=0), "`naive_mae` must be a number above 0, got 0"),
        (lambda: DetectionLatency(-1), "`tolerance_s` must be a number of 0 or more, got -1"),
        (lambda: DetectionLatency(1, math.nan), "`early_s` must be a number of 0 or more, got nan"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(sr.ConfigError, match=message):
        make()


def test_public_names_are_sorted_and_documented() -> None:
    assert metrics.__all__ == sorted(metrics.__all__, key=lambda n: (n[0].islower(), n))
    for name in metrics.__all__:
        thing = getattr(metrics, name)
        assert inspect.getdoc(thing), name
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            assert method.startswith("_") or not callable(function) or inspect.getdoc(function)
    assert sr.metrics is metrics


def test_what_is_saved_of_a_long_configuration_is_said_briefly() -> None:
    long, other = EditDistance("a" * 5000), EditDistance("b" * 5000)
    with pytest.raises(sr.StateError) as caught:
        long.restore(other.snapshot())
    assert len(str(caught.value)) < 600
    assert "(50" in str(caught.value)
    one, two = np.arange(5000), np.arange(5000)
    two[2500] = -1  # numpy's repr leaves it out
    with pytest.raises(sr.StateError, match="does not fit"):
        EditDistance(one).restore(EditDistance(two).snapshot())
    EditDistance(one).restore(EditDistance(one).snapshot())
