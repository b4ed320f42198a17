"""Times: of outputs of models that look ahead, of samples behind a gap, of events across one."""

import io
import json

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import ConfigError, SourceError
from streamrnn.decode import Hysteresis
from streamrnn.frontend import FixedRate, Resampler
from streamrnn.live import (
    Checked,
    EventSink,
    Frame,
    Joined,
    JsonSink,
    Meter,
    Regular,
    Sink,
    Windows,
    run,
)
from test_live import Given, noise, whole


class Kept(Sink):
    def __init__(self):
        self.frames = []

    def write(self, frame):
        self.frames.append(frame)

    @property
    def times(self):
        return [round(frame.time_s, 6) for frame in self.frames]


# Outputs -------------------------------------------------------------------------------------


def looking_ahead(size, lookahead, stride=1):
    """Return a model whose output is the frame that came `lookahead` later."""
    x, kernel = sr.Input(size), np.zeros((size, size, lookahead + 1), np.float32)
    kernel[range(size), range(size), -1] = 1
    words = {"stride": stride, "lookahead": lookahead, "bias": False}
    model = sr.Model(x, sr.Conv1d(size, size, lookahead + 1, **words)(x))
    model.load_state_dict({next(iter(model.state_dict())): kernel})
    assert model.delay_frames == lookahead
    return model


@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("n", [0, 2, 9])
def test_each_frame_gets_its_output_at_its_own_time(lookahead, n):
    items, kept = [(10 + t / 2, [t, -t]) for t in range(n)], Kept()
    meter = run(looking_ahead(2, lookahead).stream(), Given(items), [kept])
    assert kept.times == [10 + t / 2 for t in range(n)]
    expected = [t + lookahead if t + lookahead < n else 0 for t in range(n)]
    assert [frame.data[0] for frame in kept.frames] == expected
    assert (meter.frames, meter.outputs) == (n, n)


def test_a_slower_model_that_looks_ahead_answers_every_second_frame():
    kept = Kept()
    run(looking_ahead(1, 3, 2).stream(), Given([(t, [t + 1]) for t in range(6)]), [kept])
    assert kept.times == [0, 2, 4]
    assert [frame.data[0] for frame in kept.frames] == [4, 6, 0]


def test_silence_behind_overlapping_windows_overlaps_too():
    x, kept = noise(40), Kept()
    run(looking_ahead(6, 2).stream(), Windows(Given([(0, x)], 10), 6, 4), [kept])
    longer = np.concatenate((np.zeros(2), x[:, 0], np.zeros(8))).astype(np.float32)
    views = np.lib.stride_tricks.sliding_window_view(longer, 6)[::4]
    assert np.array_equal([frame.data for frame in kept.frames], views[2:])
    assert kept.times == [round(0.4 * t, 6) for t in range(10)]


def test_a_source_that_breaks_off_has_no_silence_behind():
    kept = Kept()
    source = Given([(0, [1]), (1, [2]), SourceError("gone")])
    with pytest.raises(SourceError, match="gone"):
        run(looking_ahead(1, 1).stream(), source, [kept])
    assert kept.times == [0]


def test_behind_a_long_gap_the_model_begins_anew():
    model, x = (
        sr.Sequential(sr.GRU(2, 3, seed=0), sr.Conv1d(3, 3, 2, lookahead=1, seed=1)),
        noise(8, 2),
    )
    times, kept = [0, 1, 2, 3, 60, 61, 62, 63], Kept()
    source = Given(list(zip(times, x, strict=True)))
    meter = run(model.stream(), source, [kept], reset_after_s=5)
    zeros = np.zeros((1, 2), np.float32)
    expected = [model.stream().run(np.concatenate((part, zeros))) for part in (x[:4], x[4:])]
    assert np.array_equal([frame.data for frame in kept.frames], np.concatenate(expected))
    assert kept.times == times
    assert meter.counts == {"resets": 1}
    assert not run(model.stream(), Given(list(zip(times, x, strict=True)))).counts, "by default not"


def test_times_that_json_cannot_say_are_null():
    lines = io.StringIO()
    sink = JsonSink(lines, ["a", "b"])
    sink.write(Frame(np.inf, np.float32([1, 2])))
    assert json.loads(lines.getvalue(), parse_constant=pytest.fail) == {
        "time_s": None, "a": 1, "b": 2}  # fmt: skip
    for columns in (["a", "time_s"], ["a", "a"]):
        with pytest.raises(ConfigError, match="must have different names, got"):
            JsonSink(lines, columns)


# Samples -------------------------------------------------------------------------------------


class Losing(Given):
    """Counts a loss where an item is None."""

    def _read(self):
        for item in self.items:
            if item is None:
                self.count("dropped")
            else:
                yield Frame(item[0], np.asarray(item[1], np.float32))


def test_behind_dropped_samples_frames_have_the_times_of_the_blocks():
    x = noise(10)
    blocks = [(0, x), (0.1, x), None, (0.4, x), (0.5, x)]
    times, frames = whole(source := Windows(Losing(blocks, 100), 4))
    assert np.allclose(times, [0, 0.04, 0.08, 0.12, 0.16, 0.4, 0.44, 0.48, 0.52, 0.56])
    assert np.array_equal(np.concatenate(frames), np.concatenate([x[:, 0]] * 4))
    assert source.counts == {"dropped": 1, "gaps": 1}


@pytest.mark.parametrize("rate_hz", [100, 50])
def test_a_long_time_without_samples_is_a_gap_and_trembling_is_none(rate_hz):
    if rate_hz != 100:
        pytest.importorskip("soxr", reason="needs the extra `audio`")
    rng, x = np.random.default_rng(0), noise(10)
    begins = np.concatenate((np.arange(20), np.arange(620, 640))) / 10
    late = rng.uniform(0, 0.03, 40)
    late[0] = late[20] = 0
    blocks = [(begin + late[i], x) for i, begin in enumerate(begins)]
    times, _ = whole(source := Windows(Given(blocks, 100), rate_hz // 10, None, rate_hz))
    assert np.allclose(times, begins)
    assert source.counts == {"gaps": 1}


def test_arguments_of_windows_without_meaning():
    source = Given([], 100)
    for name in ("window", "hop", "sample_rate_hz", "gap_s"):
        for value in (np.nan, 0, "x"):
            with pytest.raises(ConfigError, match=rf"Windows: `{name}` must be a positive"):
                Windows(source, **{"window": 4, name: value})


# Sensors -------------------------------------------------------------------------------------


def test_frames_at_any_times_become_frames_at_a_fixed_rate():
    times = np.array([0, 0.1, 0.27, 0.3, 0.5, 0.9]) + 1.7e9
    items = [(t, [t - 1.7e9, 1]) for t in times]
    got, frames = whole(Regular(Checked(Given(items)), 20))
    grid = np.arange(19) / 20
    assert np.allclose(got, 1.7e9 + grid, atol=1e-6)
    assert np.allclose(frames, np.stack((grid, np.ones(19)), 1), atol=1e-6)


@pytest.mark.parametrize(
    ("on_gap", "filled"),
    [
        ("reset", []),
        ("hold", [1, 1, 1]),
        ("interpolate", [2, 3, 4]),
        ("nan", [np.nan] * 3),
    ],
)
def test_what_happens_in_a_gap(on_gap, filled):
    source = Regular(Checked(Given([(0, [0]), (1, [1]), (5, [5]), (6, [6])])), 1, 1.5, on_gap)
    times, frames = whole(source)
    assert np.array_equal(np.ravel(frames), [0, 1, *filled, 5, 6], equal_nan=True)
    assert times.tolist() == [0, 1, *([2, 3, 4] if filled else []), 5, 6]
    assert source.counts == {"gaps": 1}


def test_a_gap_that_is_an_error_and_a_clock_that_was_set():
    gap = [(0, [0]), (1, [1]), (5, [5])]
    with pytest.raises(SourceError, match=r"given: FixedRate.* no sample for 4 s, from 1\.0 s on"):
        whole(Regular(Given(gap), 1, 1.5, "raise"))
    times, _ = whole(source := Regular(Given([(0, [0]), (1e9, [1]), (3, [2]), (4, [2])]), 1))
    assert times.tolist() == [0, 1e9, 3, 4]
    assert source.counts == {"gaps": 1}
    with pytest.raises(ConfigError, match="`on_gap` must be one of reset, hold"):
        Regular(Given([]), 1, 1, "skip")
    with pytest.raises(ConfigError, match="gives samples, which have a fixed rate"):
        Regular(Given([], 100), 1)


def test_a_time_that_is_wrong_spoils_no_more_than_ten_frames():
    items = [(0, 0), (np.nan, 0), (1e12, 0), *((t, t) for t in range(1, 30))]
    times, _ = whole(source := Checked(Given(items)))
    assert times.tolist() == [0, 1e12, *range(11, 30)]
    assert source.counts == {"garbage": 1, "out_of_order": 10}
    old = [(t % 7, 0) for t in range(7, 40)]  # a jumble is no clock
    assert whole(Checked(Given([(100, 0), *old])))[0].tolist() == [100]


@pytest.mark.parametrize("begin_s", [0.0, 1.7e9])
def test_samples_on_time_are_frames_at_once_also_since_1970(begin_s):
    regular = FixedRate(50, 1)
    for k in range(500):
        (frame,) = regular.push(begin_s + k / 50, [k])
        assert frame[0] == pytest.approx(k, abs=1e-4)
        assert regular.next_time_s == pytest.approx(begin_s + (k + 1) / 50, abs=1e-6)


@pytest.mark.parametrize("wrong", ["x", None, np.nan, -1, True, [1]])
def test_wrong_arguments_are_named(wrong):
    for name in ("rate_hz", "channels", "max_gap_s"):
        with pytest.raises(ConfigError, match=f"FixedRate: `{name}` must be a positive"):
            FixedRate(**{"rate_hz": 1, "channels": 1, name: wrong})
    for name in ("from_hz", "to_hz", "channels"):
        with pytest.raises(ConfigError, match=f"Resampler: `{name}` must be a positive"):
            Resampler(**{"from_hz": 1, "to_hz": 1, name: wrong})


@pytest.mark.parametrize(
    ("time_s", "x"), [("x", [1]), (None, [1]), (0, ["a"]), (0, [1j]), (0, [[1], [2, 3]]), (0, None)]
)
def test_wrong_samples_are_refused_and_change_nothing(time_s, x):
    regular = FixedRate(1, 1)
    with pytest.raises(sr.FrameError, match=r"FixedRate\(1, 1, .*: (time|sample)"):
        regular.push(time_s, x)
    assert regular.push(0, [1]).tolist() == [[1]]


# Several inputs ------------------------------------------------------------------------------


def test_inputs_that_do_not_come_from_the_source():
    a, b, c = sr.Input(2), sr.Input(3), sr.Input(1)
    model = sr.Model({"a": a, "b": b, "c": c}, sr.GRU(6, 4, seed=0)(sr.concat(a, b, c)))
    xs, speaker, price = noise(5, 2), np.float64([1, 2, 3]), noise(6, 1, seed=1)
    sizes = {"a": 2, "b": 3, "c": 1}
    source = Joined(Given(list(enumerate(xs))), sizes, {"b": speaker, "c": price})
    kept = Kept()
    run(model.stream(), source, [kept])
    constant = np.repeat(np.float32(speaker)[None], 5, 0)
    expected = model.stream().run((xs, constant, price[:5]))
    assert np.array_equal([frame.data for frame in kept.frames], expected)
    last = np.float32([9, 9, 1, 2, 3, 4])
    assert source.silence(last).tolist() == [0, 0, 1, 2, 3, 4]
    with pytest.raises(SourceError, match="'c' has 2 frames, the source more"):
        whole(Joined(Given(list(enumerate(xs))), sizes, {"b": speaker, "c": price[:2]}))
    with pytest.raises(SourceError, match="gives frames of 2 numbers, a, b read 5"):
        whole(Joined(Given(list(enumerate(xs))), sizes, {"c": price}))
    for others, said in (
        ({"d": 1}, "name inputs of the model"),
        (dict.fromkeys("abc", 1), "leave one to given"),
        ({"b": np.zeros((2, 2))}, r"'b' is 3 numbers, or \(T, …\) of that, got float64 \(2, 2\)"),
        ({"b": ["x"]}, "'b' is 3 numbers"),
    ):
        with pytest.raises(ConfigError, match=said):
            Joined(Given([]), sizes, others)


# Events --------------------------------------------------------------------------------------


def events_of(items, rule):
    text = io.StringIO()
    with EventSink(text, ["a"], rule, as_json=True) as sink:
        for time_s, p in items:
            sink.write(Frame(time_s, np.float32([p])))
    said = [json.loads(line) for line in text.getvalue().splitlines()]
    return [tuple(e[k] for k in ("start_s", "end_s")) for e in said if e["event"] == "segment"]


def test_an_event_across_lost_frames_has_its_own_begin_and_end():
    """Five frames are lost in it, less than `min_off_ms`."""
    items = [(t / 10, 0.9 if 5 <= t < 30 else 0.1) for t in range(60) if not 10 <= t < 15]
    assert events_of(items, Hysteresis(100, min_off_ms=600, pad_ms=0)) == [(0.5, 3.0)]
    assert events_of(items, Hysteresis(100, min_off_ms=600, pad_ms=200)) == [(0.3, 3.2)]


def test_a_long_gap_ends_an_event():
    items = [(t / 10, 0.9) for t in (*range(5), *range(100, 105))]
    assert events_of(items, Hysteresis(100, pad_ms=0)) == [(0, 0.5), (10, 10.5)]
    one_lost = [(t / 10, 0.9) for t in (0, 1, 3, 4)]
    assert events_of(one_lost, Hysteresis(100, min_off_ms=0, pad_ms=0)) == [(0, 0.5)]


@pytest.mark.parametrize("n", [1, 3, 40])
def test_durations_are_those_that_times_say(n):
    """At 50 Hz, 200 ms are ten frames, not one of 1 Hz."""
    items = [(t / 50, 0.1 if 10 <= t < 15 else 0.9) for t in range(n)]
    rules = []

    def rule(frame_ms):
        rules.append(frame_ms)
        return Hysteresis(frame_ms, min_off_ms=200, pad_ms=0)

    end = 1.0 if n == 1 else n / 50
    assert events_of(items, rule) == [(0, pytest.approx(end))]
    assert rules == [1000 if n == 1 else pytest.approx(20)]


def test_meters_tell_what_others_count():
    meter, source = Meter(), Given([])
    source.count("gaps", 2)
    meter.others.append(source)
    meter.source = source
    assert meter.counts == {"gaps": 4}
