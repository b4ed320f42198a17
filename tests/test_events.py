"""Events from probabilities: beside Silero's own rules, and worked out by hand."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import assets
import streamrnn as sr
from streamrnn.decode import (
    SHERPA_RULES,
    CTCBeam,
    CTCGreedy,
    Detection,
    Endpoint,
    Endpointer,
    Hysteresis,
    Onset,
    Rule,
    Segment,
    WakeWord,
)

GOLDEN = Path(__file__).parent / "golden" / "decode.npz"
UTILS = "silero_vad/utils_vad.py"
SILERO_RULES = assets.Wheel(  # MIT
    "silero-vad==6.2.3",
    {UTILS: "15d0f6b3ef9590e22ca2f146e1436f6901da356cb552d3183df4100862b333cb"},
)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def silero() -> ModuleType:
    """Silero's own rules, out of its wheel."""
    pytest.importorskip("torch", reason="Silero's rules need torch")
    pytest.importorskip("packaging")
    try:
        path = assets.fetch(SILERO_RULES, UTILS)
    except assets.AssetError as error:
        pytest.skip(f"Silero's rules cannot be fetched: {error}")
    spec = importlib.util.spec_from_file_location("silero_utils_vad", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Hysteresis, beside Silero's ---------------------------------------------------------------------


def samples(time_s: float, rate_hz: int) -> int:
    """Return a time in whole samples, as Silero rounds: down."""
    return int(time_s * rate_hz + 1e-6)


def found_by_us(p: Any, rate_hz: int, on: float, off_ms: float, pad_ms: float) -> list[list[int]]:
    decoder, events = Hysteresis(32, on=on, min_off_ms=off_ms, pad_ms=pad_ms), []
    for probability in p:
        event = decoder.step(probability)
        if isinstance(event, Onset):
            events.append([1, samples(event.time_s, rate_hz)])
        elif event is not None:
            events.append([0, samples(event.end_s, rate_hz)])
    return events


@pytest.mark.parametrize("i", range(4))
def test_onsets_and_ends_are_those_that_vad_iterator_has_found(
    golden: dict[str, np.ndarray], i: int
) -> None:
    rate, on, off_ms, pad_ms = golden["vad_settings"][i]
    wanted = golden[f"vad_events_{i}"].tolist()
    assert len(wanted) > 50
    assert found_by_us(golden["vad_probabilities"], int(rate), on, off_ms, pad_ms) == wanted


@pytest.mark.parametrize("i", range(4))
def test_segments_are_those_of_get_speech_timestamps(golden: dict[str, np.ndarray], i: int) -> None:
    rate, on, off_ms, pad_ms = golden["vad_settings"][i]
    decoder = Hysteresis(32, on=on, min_on_ms=250, min_off_ms=off_ms, pad_ms=pad_ms)
    events = [*decoder.run(golden["vad_probabilities"]), decoder.flush()]
    found = [
        [samples(event.start_s, int(rate)), samples(event.end_s, int(rate))]
        for event in events
        if isinstance(event, Segment)
    ]
    assert len(found) > 30
    assert found == golden[f"vad_segments_{i}"].tolist()


class Played:
    """A model that says what it is told."""

    def __init__(self, torch: ModuleType, probabilities: np.ndarray) -> None:
        self.torch, self.rest = torch, iter(probabilities)

    def reset_states(self) -> None:
        pass

    def __call__(self, x: Any, rate: int) -> Any:
        return self.torch.tensor(next(self.rest))


@pytest.mark.parametrize("seed", range(4))
def test_onsets_and_ends_are_those_of_vad_iterator(silero: ModuleType, seed: int) -> None:
    torch, rng = pytest.importorskip("torch"), np.random.default_rng(seed)
    p = np.abs(np.cumsum(rng.normal(0, 0.3, 800)) % 2 - 1).astype(np.float32)
    on, off_ms = rng.uniform(0.3, 0.9), float(rng.integers(0, 250))
    pad_ms = float(rng.integers(0, 8)) * off_ms / 16
    iterator = silero.VADIterator(Played(torch, p), on, 16000, off_ms, pad_ms)
    events = [iterator(torch.zeros(512)) for _ in p]
    wanted = [[int(k == "start"), v] for e in events if e for k, v in e.items()]
    assert len(wanted) > 8
    assert found_by_us(p, 16000, on, off_ms, pad_ms) == wanted


def test_the_readmes_loop_prints_speech(
    golden: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", readme, re.S) if "Hysteresis(" in c)
    vad = sr.Sequential(sr.Input(1), sr.Reshape((1,)))
    names = {"frames": golden["vad_probabilities"][:937, None], "vad": vad.stream()}
    exec(code, names)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "speech since 6.75 s",
        "speech from 6.75 s to 7.23 s",
        "speech since 7.62 s",
    ]
    assert names["last"] == Segment(682, 937, 21.794, 29.984)


# Hysteresis, by hand ------------------------------------------------------------------------------

LEVELS = {"S": 0.9, "=": 0.5, "m": 0.4, "-": 0.35, "_": 0.345, ".": 0.1}
"""Speech; at the threshold 0.5; between; at the lower threshold 0.35; just below it; silence."""


def stepped(track: str, **options: float) -> list[tuple[int, Any]]:
    """Step through frames of 50 ms; return each event with the frame that brought it."""
    decoder = Hysteresis(50, **options)
    events = ((i, decoder.step(LEVELS[letter])) for i, letter in enumerate(track))
    return [(i, event) for i, event in events if event is not None]


def segments(track: str, **options: float) -> list[tuple[int, tuple[float, float]]]:
    found = stepped(track, **{"min_on_ms": 250} | options)
    return [(i, (s.start_s, s.end_s)) for i, s in found if isinstance(s, Segment)]


@pytest.mark.parametrize(
    ("track", "expected"),
    [
        # Speech from 100 to 400 ms, 30 ms more on both sides; known after 100 ms of silence.
        ("..SSSSSS...", [(10, (0.07, 0.43))]),
        ("..SSSSSS..", []),
        # At the very beginning there is nothing to pad with.
        ("SSSSSS...", [(8, (0.0, 0.33))]),
        # A pause of 100 ms whose second frame is speech again does not end it.
        ("SSSSSS..SSSSSS...", [(16, (0.0, 0.73))]),
        # Longer than 250 ms, not just as long.
        ("SSSSS...", []),
        ("SSSSS...SSSSSS...", [(16, (0.37, 0.73))]),
        # Speech begins at the threshold, and does not end between the two.
        ("mmmmmmmmmm...", []),
        ("=mmmmmm...", [(9, (0.0, 0.38))]),
        ("SSSSSS-----...", [(13, (0.0, 0.58))]),
        ("SSSSSS-----___", [(13, (0.0, 0.58))]),
        # A frame between the two does not end a pause, and does not confirm it.
        ("SSSSSS.m.", [(8, (0.0, 0.33))]),
        ("SSSSSS.mm.", [(9, (0.0, 0.33))]),
        ("SSSSSS..S...", [(11, (0.0, 0.48))]),
        ("SSSSSS...SSSSSS...", [(8, (0.0, 0.33)), (17, (0.42, 0.78))]),
    ],
)
def test_segments(track: str, expected: list[tuple[int, tuple[float, float]]]) -> None:
    found = segments(track)
    assert [i for i, _ in found] == [i for i, _ in expected]
    for (_, got), (_, wanted) in zip(found, expected, strict=True):
        assert got == pytest.approx(wanted)


def test_the_durations_are_honoured() -> None:
    track = ".SS...SS...."
    assert segments(track) == []
    options = {"min_on_ms": 90, "min_off_ms": 50, "pad_ms": 10}
    ((first, one), (second, two)) = segments(track, **options)
    assert (first, second) == (4, 9)
    assert one == pytest.approx((0.04, 0.16))
    assert two == pytest.approx((0.29, 0.41))
    ((_, low),) = segments("mmmmmm...", on=0.4)
    assert low == pytest.approx((0.0, 0.33))
    ((frame, _),) = segments("SSSSSS____...", off=0.34)  # 0.345 is not below it
    assert frame == 12


def test_an_onset_comes_when_the_segment_is_certain_and_says_when_it_began() -> None:
    assert stepped("..SSSSSSS...", min_on_ms=250) == [
        (7, Onset(2, 0.07)),
        (11, Segment(2, 9, 0.07, 0.48)),
    ]
    assert stepped("SS.SSSSS", min_on_ms=250) == [(5, Onset(0, 0.0))]  # not in the pause
    assert stepped(".S") == [(1, Onset(1, 0.02))]  # with no least duration at once
    decoder = Hysteresis(50)
    assert (decoder.frames, decoder.is_on) == (0, False)
    decoder.run([0.1, 0.9])
    assert (decoder.frames, decoder.is_on) == (2, True)


def test_a_long_segment_is_cut_and_the_next_one_begins_there() -> None:
    options = {"max_on_ms": 300, "pad_ms": 50}
    assert stepped("..SSSSSSSS...", **options) == [
        (2, Onset(2, 0.05)),
        (6, Segment(2, 7, 0.05, 0.35)),  # 50 ms of padding and 5 frames
        (7, Onset(7, 0.35)),  # not padded: there is the other
        (12, Segment(7, 10, 0.35, 0.55)),
    ]
    # In a pause it ends with the pause, padded; what comes after it is another segment.
    assert stepped("SSS.mmSSS...", max_on_ms=300, pad_ms=50)[:3] == [
        (0, Onset(0, 0.0)),
        (5, Segment(0, 3, 0.0, 0.2)),
        (6, Onset(6, 0.25)),
    ]
    # The padding does not go beyond the frame that is there.
    assert stepped("SSSSS...", max_on_ms=300, pad_ms=60, min_off_ms=200)[1:] == [
        (5, Segment(0, 5, 0.0, 0.3))
    ]
    # One of which it was never certain is dropped.
    assert stepped("S......", min_on_ms=150, min_off_ms=1000, max_on_ms=300, pad_ms=0) == []
    longest_s = max(
        event.end_s - event.start_s
        for _, event in stepped("S" * 50 + "...", max_on_ms=317, pad_ms=30)
        if isinstance(event, Segment)
    )
    assert 0.267 < longest_s <= 0.317


def test_flush_ends_speech_with_the_stream_and_begins_anew() -> None:
    decoder = Hysteresis(50, min_on_ms=250)

    def heard(track: str) -> list[Any]:
        return decoder.run([LEVELS[letter] for letter in track])

    assert decoder.flush() is None
    assert heard("..SSSSSS..") == [Onset(2, 0.07)]
    assert decoder.flush() == Segment(2, 10, 0.07, 0.5)
    assert decoder.flush() is None
    heard("SSSSSS")
    assert decoder.flush(end_s=0.28) == Segment(0, 6, 0.0, 0.28)
    assert heard("SSSSS") == []
    assert decoder.flush() is None
    assert heard("SSSS.m") == []  # it is not certain: the pause may go on
    assert decoder.flush() == Segment(0, 6, 0.0, 0.3)  # had no onset


WRONG_HYSTERESIS: list[tuple[dict[str, Any], str]] = [
    ({"frame_ms": 0}, "`frame_ms` must be a number above 0, got 0"),
    ({"frame_ms": "32"}, "`frame_ms` must be a number above 0, got '32'"),
    ({"on": 1.5}, "expected 0 < off <= on <= 1, got on=1.5, off=1.35"),
    ({"on": 0.4, "off": 0.6}, "expected 0 < off <= on <= 1, got on=0.4, off=0.6"),
    ({"off": 0.0}, "`off` must be a number above 0, got 0.0"),
    ({"min_on_ms": -1}, "`min_on_ms` must be a number of 0 or more, got -1"),
    ({"min_off_ms": math.inf}, "`min_off_ms` must be a number of 0 or more, got inf"),
    ({"pad_ms": math.nan}, "`pad_ms` must be a number of 0 or more, got nan"),
    ({"pad_ms": 51}, "`pad_ms` must be at most half of min_off_ms=100, got 51"),
    ({"max_on_ms": 90}, "`max_on_ms` must be at least .* two frames = 94, got 90"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_HYSTERESIS)
def test_a_hysteresis_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.ConfigError, match=f"Hysteresis: {message}"):
        Hysteresis(**{"frame_ms": 32} | options)


@pytest.mark.parametrize("end_s", [0.24, 0.31, "now", [0.3, 0.3]])
def test_an_end_outside_the_last_frame_is_refused(end_s: Any) -> None:
    decoder = Hysteresis(50)
    decoder.run([0.9] * 6)
    before = decoder.snapshot()
    with pytest.raises(
        sr.FrameError, match=r"Hysteresis\.flush: .*(from 0\.25 to 0\.3, got|expect)"
    ):
        decoder.flush(end_s)
    assert decoder.snapshot() == before


# Wake words ---------------------------------------------------------------------------------------


def test_a_word_is_detected_once_and_again_only_after_the_refractory_time() -> None:
    decoder = WakeWord(20, threshold=0.5, window_frames=3, refractory_ms=100)
    track = [0, 0.9, 0.5, 0.2, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert decoder.run(track) == [
        Detection(0, 3, 0.08, pytest.approx(1.6 / 3)),
        # Frames 4 to 8 are left out; 9 and 10 are 2 / 3 of a window.
        Detection(0, 10, 0.22, pytest.approx(2 / 3)),
    ]
    assert WakeWord(20, window_frames=3).run([1.0]) == []  # one frame is a third


def test_of_several_words_the_most_probable_is_detected() -> None:
    decoder = WakeWord(10, words=3, threshold=0.4, window_frames=2, refractory_ms=0)
    assert decoder.step([0.1, 0.5, 0.7]) is None
    assert decoder.step([0.0, 0.9, 0.6]) == Detection(1, 1, 0.02, pytest.approx(0.7))
    assert decoder.step(np.array([0.9, 0.9, 0.9], np.float32)) == (
        Detection(0, 2, 0.03, pytest.approx(0.45))
    )


def test_the_mean_is_that_over_the_last_frames() -> None:
    p = np.random.default_rng(0).random(500)
    decoder = WakeWord(10, threshold=0.62, window_frames=7, refractory_ms=0)
    found, begin, padded = [], 0, np.concatenate([np.zeros(7), p])
    for t in range(p.size):
        mean = padded[max(t + 1, begin + 7) : t + 8].sum() / 7  # of frames since the last detection
        if mean >= 0.62:
            found.append(t)
            begin = t + 1
    assert len(found) > 5
    assert [detection.frame for detection in decoder.run(p)] == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_ms": -10}, "`frame_ms` must be a number above 0, got -10"),
        ({"words": 0}, "`words` must be an integer of at least 1, got 0"),
        ({"threshold": 2}, "`threshold` must be a probability, got 2"),
        ({"window_frames": 1.5}, "`window_frames` must be an integer of at least 1, got 1.5"),
        ({"refractory_ms": -1}, "`refractory_ms` must be a number of 0 or more, got -1"),
    ],
)
def test_a_wake_word_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.ConfigError, match=f"WakeWord: {message}"):
        WakeWord(**{"frame_ms": 10} | options)


# Endpoints ----------------------------------------------------------------------------------------


def test_the_rules_of_sherpa() -> None:
    frame_ms = 100.0

    def first(track: list[bool]) -> Endpoint | None:
        found = Endpointer(frame_ms).run(track)
        return found[0] if found else None

    assert first([False] * 24) == Endpoint(0, 0, 24, 0, 2.4)
    assert first([False] * 23) is None
    assert first([False] * 5 + [True] * 10 + [False] * 12) == Endpoint(1, 0, 27, 15, 2.7)
    assert first([True] * 10 + [False] * 11 + [True]) is None
    assert first([True] * 200) == Endpoint(2, 0, 200, 200, 20.0)
    assert [rule.min_silence_ms for rule in SHERPA_RULES] == [2400, 1200, 0]


def test_the_next_utterance_begins_behind_the_last() -> None:
    decoder = Endpointer(10, [Rule(needs_speech=True, min_silence_ms=20)])
    track = [letter == "S" for letter in "..SS...S.S..S."]
    assert decoder.run(track) == [Endpoint(0, 0, 6, 4, 0.06), Endpoint(0, 6, 12, 10, 0.12)]
    both = Endpointer(10, [Rule(True, 30, 60)])  # enough silence, and long enough
    assert both.run([True] * 2 + [False] * 4) == [Endpoint(0, 0, 6, 2, 0.06)]
    assert both.run([True] * 5 + [False] * 2) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule(), "Rule: one of `min_silence_ms` and `min_utterance_ms` must be above 0"),
        (lambda: Rule(True, -1), "Rule: `min_silence_ms` must be a number of 0 or more, got -1"),
        (lambda: Endpointer(10, []), r"Endpointer: `rules` must be some Rule\(…\), got \(\)"),
        (lambda: Endpointer(10, [3]), r"`rules` must be some Rule\(…\), got \(3,\)"),
        (lambda: Endpointer(10, None), r"`rules` must be some Rule\(…\), got \(None,\)"),
        (lambda: Endpointer(0), "Endpointer: `frame_ms` must be a number above 0, got 0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(sr.ConfigError, match=message):
        make()


# What all have in common --------------------------------------------------------------------------

RNG = np.random.default_rng(7)
DECODERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "hysteresis": (
        lambda: Hysteresis(32, min_on_ms=50, min_off_ms=70),
        np.abs(np.cumsum(RNG.normal(0, 0.2, 200)) % 2 - 1),
    ),
    "wake word": (lambda: WakeWord(10, refractory_ms=50), RNG.random(200)),
    "wake words": (lambda: WakeWord(10, words=3, refractory_ms=50), RNG.random((200, 3))),
    "endpoint": (lambda: Endpointer(10, [Rule(True, 30)]), RNG.random(200) < 0.3),
    "ctc greedy": (lambda: CTCGreedy(5), RNG.normal(size=(200, 5))),
    "ctc beam": (lambda: CTCBeam(5, width=3), RNG.normal(size=(60, 5))),
}


def results(decoder: Any, xs: Any) -> list[Any]:
    """Return what a decoder makes of frames, one by one."""
    found = [event for event in map(decoder.step, xs) if event is not None]
    return decoder.texts() if isinstance(decoder, CTCBeam) else found


@pytest.mark.parametrize("name", DECODERS)
def test_a_block_gives_what_its_frames_give(name: str) -> None:
    make, xs = DECODERS[name]
    wanted = results(make(), xs)
    decoder = make()
    assert decoder.run(xs) == wanted
    assert len(wanted) > 2
    decoder.reset()
    assert decoder.snapshot() == make().snapshot()
    pieces = [decoder.run(piece) for piece in np.split(xs, [1, 1, 20])]
    assert (pieces[-1] if name == "ctc beam" else list(itertools.chain(*pieces))) == wanted
    empty = make()
    before = empty.snapshot()
    empty.run(xs[:0])
    assert empty.snapshot() == before


@pytest.mark.parametrize("name", DECODERS)
def test_a_snapshot_and_a_fork_go_on_from_there(name: str) -> None:
    make, xs = DECODERS[name]
    decoder = make()
    decoder.run(xs[:31])
    saved, fork = decoder.snapshot(), decoder.fork()
    wanted = results(decoder, xs[31:])
    other = make()
    other.run(xs[50:])
    other.restore(saved)
    assert other.snapshot() == saved == fork.snapshot()
    assert results(other, xs[31:]) == results(fork, xs[31:]) == wanted


@pytest.mark.parametrize("name", DECODERS)
def test_a_snapshot_that_does_not_fit_changes_nothing(name: str) -> None:
    make, xs = DECODERS[name]
    decoder = make()
    decoder.run(xs[:31])
    saved = decoder.snapshot()
    for wrong, message in (
        (WakeWord(11).snapshot(), r"is of WakeWord\(frame_ms=11.0, .* does not fit"),
        (saved[:-1], "no snapshot, or a damaged one"),
        (saved.replace(b"1", b"2"), "no snapshot, or a damaged one"),
        (b"", r"no snapshot, or a damaged one \(0 bytes\)"),
        (b"00000000", "no snapshot, or a damaged one"),
        (saved.decode(), "a snapshot is bytes, got str"),
    ):
        with pytest.raises(sr.StateError, match=message):
            decoder.restore(wrong)
        assert decoder.snapshot() == saved


BAD_PROBABILITIES: list[tuple[Any, type[Exception], str]] = [
    (math.nan, sr.NonFiniteError, "expected finite numbers, got nan"),
    (math.inf, sr.NonFiniteError, "expected finite numbers, got inf"),
    (1.01, sr.FrameError, "expected probabilities from 0 to 1, got 1.01: if these are logits"),
    (-0.5, sr.FrameError, "expected probabilities from 0 to 1, got -0.5: if these are logits"),
    (np.float32(-3), sr.FrameError, "expected probabilities from 0 to 1, got -3: "),
    ([0.1, 0.2], sr.FrameError, r"expected numbers of shape \(\), got \(2,\)"),
    ([[0.1], [0.1, 0.2]], sr.FrameError, "expected numbers, got list of unequal rows"),
    ("0.5", sr.FrameError, "expected real numbers, got <U3"),
    (None, sr.FrameError, "expected real numbers, got object"),
    (0.5 + 1j, sr.FrameError, "expected real numbers, got complex128"),
]


@pytest.mark.parametrize("make", [lambda: Hysteresis(32), lambda: WakeWord(32)])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_PROBABILITIES)
def test_what_is_no_probability_is_refused_and_changes_nothing(
    make: Callable[[], Any], bad: Any, error: type[Exception], message: str
) -> None:
    decoder = make()
    decoder.run([0.1, 0.9, 0.9])
    before, who = decoder.snapshot(), type(decoder).__name__
    with pytest.raises(error, match=rf"^{who}\.step: {message}"):
        decoder.step(bad)
    if not isinstance(bad, list):
        with pytest.raises(error, match=rf"^{who}\.run: "):
            decoder.run([0.5, 0.5, bad])
    assert decoder.snapshot() == before


def test_a_block_says_which_frame_is_not_finite_and_its_shape() -> None:
    with pytest.raises(sr.NonFiniteError, match=r"Hysteresis.run: expected finite .* nan at \[2\]"):
        Hysteresis(32).run([0.1, 0.2, math.nan])
    with pytest.raises(sr.FrameError, match=r"expected numbers of shape \(T,\), got \(4, 2\)"):
        Hysteresis(32).run(np.zeros((4, 2)))
    with pytest.raises(sr.FrameError, match=r"expected numbers of shape \(3,\), got \(2,\)"):
        WakeWord(32, words=3).step([0.1, 0.2])
    with pytest.raises(sr.FrameError, match=r"expected numbers of shape \(T, 3\), got \(3,\)"):
        WakeWord(32, words=3).run([0.1, 0.2, 0.3])


def test_a_models_frame_of_one_number_is_a_probability_and_rounding_is_forgiven() -> None:
    decoder = Hysteresis(32)
    assert decoder.step(np.array([0.9], np.float32)) == Onset(0, 0.0)
    assert decoder.run(np.full((3, 1), 0.9, np.float32)) == []
    assert decoder.step(np.float32(1 + 2e-7)) is None
    assert decoder.step(True) is None
    assert decoder.frames == 6


@pytest.mark.parametrize("bad", [0.7, 1, None, "yes"])
def test_what_is_no_truth_value_is_refused(bad: Any) -> None:
    decoder = Endpointer(10)
    decoder.run([True, False])
    before = decoder.snapshot()
    with pytest.raises(sr.FrameError, match=r"Endpointer\.step: expected .*True or False, got"):
        decoder.step(bad)
    with pytest.raises(sr.FrameError, match=r"Endpointer\.run: expected bool of shape \(T,\), got"):
        decoder.run([bad, bad])
    with pytest.raises(sr.FrameError, match=r"of shape \(1, 2\): compare probabilities"):
        decoder.run([[True, False]])
    assert decoder.snapshot() == before
