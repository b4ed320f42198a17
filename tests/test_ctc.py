"""Text from frames: beside all alignments, torch's CTC loss, fast-ctc-decode, a loop over torch."""

from __future__ import annotations

import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.decode import CTCBeam, CTCGreedy, CTCToken, TransducerGreedy, TransducerToken

GOLDEN = Path(__file__).parent / "golden" / "decode.npz"
ALPHABET = "-abcdef"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def logits(seed: int, T: int, V: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1.5, (T, V))


def log_softmax(xs: np.ndarray) -> np.ndarray:
    e = np.exp(xs)
    return np.asarray(np.log(e / e.sum(-1, keepdims=True)))


def every_text(log_p: np.ndarray, blank: int = 0) -> dict[tuple[int, ...], float]:
    """Return the log-probability of each text, summed over all alignments."""
    T, V = log_p.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(V), repeat=T):
        text = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        found[text] += math.exp(sum(log_p[t, token] for t, token in enumerate(path)))
    return {text: math.log(p) for text, p in found.items()}


# Greedy -------------------------------------------------------------------------------------------


def test_greedy_reads_what_fast_ctc_decode_reads(golden: dict[str, np.ndarray]) -> None:
    for p, wanted in zip(golden["ctc_probabilities"], golden["ctc_greedy"], strict=True):
        found = CTCGreedy(7).run(np.log(p))
        assert "".join(ALPHABET[said.token] for said in found) == wanted


def test_greedy_by_hand() -> None:
    path = [0, 1, 1, 0, 1, 2, 2, 0, 0, 2]
    scores = np.full((10, 3), -4.0)
    scores[np.arange(10), path] = 3.0
    log_p = 3 - math.log(math.exp(3) + 2 * math.exp(-4))
    decoder = CTCGreedy(3)
    found = [decoder.step(x) for x in scores]
    assert [t for t, said in enumerate(found) if said] == [1, 4, 5, 9]
    assert [said.token for said in found if said] == [1, 1, 2, 2]
    assert found[5] == CTCToken(2, 5, pytest.approx(log_p - 3 + 3))
    assert decoder.log_probability == pytest.approx(10 * log_p)
    last = CTCGreedy(3, blank=2).run(scores)
    assert [said.token for said in last] == [0, 1, 0, 1, 0]


# Beam ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "V", "blank"), [(1, 2, 0), (6, 3, 0), (5, 4, 3), (7, 2, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_the_sum_over_all_alignments(T: int, V: int, blank: int, seed: int) -> None:
    xs = logits(seed, T, V)
    wanted = every_text(log_softmax(xs), blank)
    found = CTCBeam(V, width=10_000, blank=blank).run(xs)
    assert len(found) == len(wanted)
    for text in found:
        assert text.log_probability == pytest.approx(wanted[text.tokens], abs=1e-12)
    best_first = sorted(wanted.values(), reverse=True)
    np.testing.assert_allclose([text.log_probability for text in found], best_first, atol=1e-12)
    assert sum(math.exp(text.log_probability) for text in found) == pytest.approx(1)


def test_a_wide_beam_gives_torchs_ctc_loss() -> None:
    torch = pytest.importorskip("torch")
    xs = logits(5, 9, 3)
    log_p = torch.from_numpy(log_softmax(xs))[:, None]
    for text in CTCBeam(3, width=10_000).run(xs)[:200]:
        loss = torch.nn.functional.ctc_loss(
            log_p, torch.tensor([text.tokens]).long(), [9], [len(text.tokens)], reduction="sum"
        )
        assert text.log_probability == pytest.approx(-float(loss), abs=1e-9)


def test_narrow_beams_read_what_fast_ctc_decode_reads(golden: dict[str, np.ndarray]) -> None:
    texts, widths = golden["ctc_texts"], golden["ctc_widths"].tolist()
    assert len({tuple(column) for column in texts.T}) == len(widths)  # the width matters
    for p, wanted in zip(golden["ctc_probabilities"], texts, strict=True):
        for width, text in zip(widths, wanted, strict=True):
            best = CTCBeam(7, width=width).run(np.log(p))[0]
            assert "".join(ALPHABET[token] for token in best.tokens) == text


def test_partial_results_are_those_of_the_frames_so_far() -> None:
    xs, decoder = logits(1, 6, 3), CTCBeam(3, width=1000)
    assert decoder.texts() == [((), 0.0)]
    for t, x in enumerate(xs, 1):
        decoder.step(x)
        wanted = every_text(log_softmax(xs[:t]))
        best = decoder.texts()[0]
        assert best.log_probability == pytest.approx(max(wanted.values()))
        assert best.log_probability == pytest.approx(wanted[best.tokens])


def test_tokens_that_cannot_come_leave_room_for_those_that_can() -> None:
    xs = np.array([[0.0, -np.inf, 0.0], [-np.inf, -np.inf, 2.0]])
    found = CTCBeam(3, width=10).run(xs)
    assert [text.tokens for text in found] == [(2,)]
    assert found[0].log_probability == pytest.approx(0)


@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_committed_and_what_remains_is_the_text(seed: int, width: int) -> None:
    xs = 4 * logits(seed, 150, 4)
    whole, decoder = CTCBeam(4, width), CTCBeam(4, width)
    committed: tuple[int, ...] = ()
    for x in xs:
        whole.step(x)
        decoder.step(x)
        committed += decoder.commit()
        found = [(committed + text.tokens, text.log_probability) for text in decoder.texts()]
        assert found == whole.texts()
    assert len(committed) > 20
    assert decoder.commit() == ()


def test_a_bound_on_what_is_not_committed_holds_and_costs_little() -> None:
    xs = 4 * logits(0, 150, 4)
    decoder = CTCBeam(4, width=8)
    committed: tuple[int, ...] = ()
    for x in xs:
        decoder.step(x)
        committed += decoder.commit(longest=6)
        assert len(decoder.texts()[0].tokens) <= 6
    assert committed + decoder.texts()[0].tokens == CTCBeam(4, width=8).run(xs)[0].tokens
    with pytest.raises(sr.ConfigError, match="`longest` must be an integer of at least 1, got 0"):
        decoder.commit(0)


def test_a_bound_drops_the_texts_that_differ_further_back() -> None:
    decoder = CTCBeam(3, width=4)
    decoder.run([[-9, 1.0, 0.9], [5.0, 0, 0], [-9, 5.0, -9]])
    assert [text.tokens for text in decoder.texts()][:2] == [(1, 1), (2, 1)]
    assert decoder.commit() == ()
    wanted = [text for text in decoder.texts() if text.tokens[0] == 1]
    assert decoder.commit(longest=1) == (1,)
    assert [((1, *text.tokens), text.log_probability) for text in decoder.texts()] == wanted


BAD_SCORES: list[tuple[Any, type[Exception], str]] = [
    ([0.0, 1.0], sr.FrameError, r"expected scores of shape \(3,\), got float64 of shape \(2,\)"),
    ([[0.0, 1.0, 2.0]], sr.FrameError, r"shape \(3,\), got float64 of shape \(1, 3\)"),
    (["a", "b", "c"], sr.FrameError, "got <U1 of shape"),
    (0.5, sr.FrameError, r"got float64 of shape \(\)"),
    ([0.0, math.nan, 0.0], sr.NonFiniteError, "expected finite scores, or -inf for some, got nan"),
    ([0.0, math.inf, 0.0], sr.NonFiniteError, "or -inf for some, got inf"),
    ([-math.inf] * 3, sr.NonFiniteError, "got -inf for every token"),
    ([0.2, 0.5, 0.3], sr.FrameError, "got probabilities .* sum is 1.*: put Log"),
]


@pytest.mark.parametrize("kind", [CTCGreedy, CTCBeam])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_SCORES)
def test_what_is_no_logits_is_refused_and_changes_nothing(
    kind: Any, bad: Any, error: type[Exception], message: str
) -> None:
    decoder = kind(3)
    decoder.run(logits(0, 5, 3))
    before = decoder.snapshot()
    with pytest.raises(error, match=rf"^{kind.__name__}\.step: .*{message}"):
        decoder.step(bad)
    if np.shape(bad) == (3,):
        with pytest.raises(error, match=rf"^{kind.__name__}\.run: "):
            decoder.run([logits(0, 1, 3)[0], bad])
    with pytest.raises(sr.FrameError, match=r"run: expected scores of shape \(T, 3\), got"):
        decoder.run(logits(0, 1, 3)[0])
    assert decoder.snapshot() == before


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (CTCGreedy, {"tokens": 0}, "CTCGreedy: `tokens` must be an integer of at least 1, got 0"),
        (CTCGreedy, {"tokens": 1}, "CTCGreedy: `tokens` must be at least 2"),
        (CTCGreedy, {"tokens": 3, "blank": 3}, "CTCGreedy: `blank` must be from 0 to 2, got 3"),
        (CTCBeam, {"tokens": 3, "blank": -1}, "CTCBeam: `blank` must be from 0 to 2, got -1"),
        (CTCBeam, {"tokens": 3, "width": 0}, "CTCBeam: `width` must be an integer of at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    kind: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(sr.ConfigError, match=message):
        kind(**arguments)


# Transducers --------------------------------------------------------------------------------------

V, E, H = 5, 6, 8
MIX = np.random.default_rng(3).normal(0, 1.0, (V, E + H))


def joiner(encoded: Any, predicted: Any) -> np.ndarray:
    return np.asarray(MIX @ np.tanh(np.concatenate([encoded, predicted])))


def predictor() -> sr.Sequential:
    return sr.Sequential(sr.Embedding(V, 4, seed=1), sr.GRU(4, H, seed=1))


def encoder_frames(T: int = 60) -> np.ndarray:
    return 2 * np.random.default_rng(8).normal(size=(T, E))


def transduced_by_torch(xs: np.ndarray, start: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Return tokens and frames; the prediction network is torch's, and reads all text anew."""
    torch = pytest.importorskip("torch")
    model = predictor()
    layers = torch.nn.Embedding(V, 4), torch.nn.GRU(4, H)
    for i, layer in enumerate(layers):
        own = {n[2:]: w for n, w in model.state_dict().items() if n.startswith(f"{i}.")}
        layer.load_state_dict({n: torch.from_numpy(w) for n, w in own.items()})
    text: list[int] = list(start)
    said: list[tuple[int, int]] = []
    for frame, x in enumerate(xs):
        for _ in range(limit):
            with torch.no_grad():
                predicted = layers[1](layers[0](torch.tensor(text)))[0][-1].numpy()
            token = int(joiner(x, predicted).argmax())
            if token == 0:
                break
            text.append(token)
            said.append((token, frame))
    return said


@pytest.mark.parametrize(("start", "limit"), [(None, 10), ((2, 1), 10), (None, 1), (None, 3)])
def test_greedy_search_says_what_a_loop_over_torch_says(start: Any, limit: int) -> None:
    xs = encoder_frames()
    wanted = transduced_by_torch(xs, (0,) if start is None else start, limit)
    decoder = TransducerGreedy(predictor(), joiner, tokens=V, start=start, max_symbols=limit)
    found = decoder.run(xs)
    assert [(said.token, said.frame) for said in found] == wanted
    assert len(wanted) > 20
    counts = np.bincount([frame for _, frame in wanted], minlength=len(xs))
    assert counts.min() == 0
    assert counts.max() == (limit if limit < 10 else counts.max()) > (limit == 10)
    decoder.reset()
    assert decoder.frames == 0
    assert [said for x in xs for said in decoder.step(x)] == found
    assert decoder.frames == len(xs)


def test_the_log_probability_is_that_of_the_joiners_softmax() -> None:
    fixed = np.array([0.0, 3.0, 1.0])
    queue = [fixed, fixed[[1, 0, 2]]]
    decoder = TransducerGreedy(sr.Sequential(sr.Embedding(3, 2)), lambda *_: queue.pop(0), tokens=3)
    (said,) = decoder.step(None)
    assert said == TransducerToken(1, 0, pytest.approx(float(log_softmax(fixed)[1])))


def test_a_predictor_that_reads_vectors_gets_them_from_embed() -> None:
    table = np.eye(V, dtype=np.float32)
    model = sr.GRU(V, H, seed=2)
    decoder = TransducerGreedy(model, joiner, tokens=V, embed=table.__getitem__)
    assert decoder.run(encoder_frames(5))
    with pytest.raises(sr.ConfigError, match=r"this decoder reads float32 .*: pass `embed`"):
        TransducerGreedy(model, joiner, tokens=V)


@pytest.mark.parametrize("failing", ["nan", "shape", "crash"])
def test_a_joiner_that_fails_changes_nothing(failing: str) -> None:
    xs, calls = encoder_frames(20), []
    wrong = {"nan": np.full(V, np.nan), "shape": np.zeros(V + 1)}

    def sometimes(encoded: Any, predicted: Any) -> Any:
        calls.append(0)
        if armed and len(calls) == 4:  # after tokens of the same frame, and of frames before
            if failing == "crash":
                raise KeyError(failing)
            return wrong[failing]
        return joiner(encoded, predicted)

    armed = False
    decoder = TransducerGreedy(predictor(), sometimes, tokens=V)
    decoder.run(xs[:10])
    wanted = TransducerGreedy(predictor(), joiner, tokens=V).run(xs)[len(decoder.run([])) :]
    before, armed = decoder.predictor.snapshot(), True
    calls.clear()
    errors = {"nan": sr.NonFiniteError, "shape": sr.FrameError, "crash": KeyError}
    with pytest.raises(errors[failing], match=r"joiner: expected|crash"):
        decoder.run(xs[10:])
    assert (decoder.frames, decoder.predictor.snapshot()) == (10, before)
    armed = False
    rest = decoder.run(xs[10:])
    assert rest == [said for said in wanted if said.frame >= 10]


def test_a_frame_that_fails_after_some_tokens_changes_nothing() -> None:
    tokens = iter([1, 3, None, 2, 4, 0])
    seen = []

    def scripted(encoded: Any, predicted: Any) -> np.ndarray:
        token = next(tokens)
        seen.append(np.array(predicted))
        return np.full(V, np.nan) if token is None else 5 * np.eye(V)[token]

    decoder = TransducerGreedy(predictor(), scripted, tokens=V)
    before = decoder.predictor.snapshot()
    with pytest.raises(sr.NonFiniteError, match="TransducerGreedy: joiner: expected finite scores"):
        decoder.step(None)
    assert decoder.predictor.snapshot() == before
    assert [said.token for said in decoder.step(None)] == [2, 4]
    assert np.array_equal(seen[3], seen[0])  # the prediction is that of the beginning again
    assert not np.array_equal(seen[1], seen[0])


def checked(body: bytes) -> bytes:
    return f"{zlib.crc32(body):08x} ".encode() + body


def test_a_transducer_goes_on_from_a_snapshot() -> None:
    xs = encoder_frames(40)
    decoder = TransducerGreedy(predictor(), joiner, tokens=V)
    decoder.run(xs[:25])
    saved = decoder.snapshot()
    assert decoder.snapshot() == saved
    whole = TransducerGreedy(predictor(), joiner, tokens=V).run(xs)
    wanted = [said for said in whole if said.frame >= 25]
    assert decoder.run(xs[25:]) == wanted
    other = TransducerGreedy(predictor(), joiner, tokens=V)
    other.run(xs[30:])
    other.restore(saved)
    assert (other.frames, other.snapshot()) == (25, saved)
    assert other.run(xs[25:]) == wanted
    assert len(wanted) > 5
    before = other.snapshot()
    strangers = sr.Sequential(sr.Embedding(V, 4, seed=2), sr.GRU(4, H, seed=1))
    foreign = TransducerGreedy(strangers, joiner, tokens=V).snapshot()
    for wrong, message in (
        (b"", "this is no snapshot of a transducer"),
        (saved.decode("latin-1"), "this is no snapshot of a transducer"),
        (checked(b"1 7\n" + saved), "last token is 7 after 1 frames; there are 5 tokens"),
        (saved.replace(b" 25 ", b" 26 ", 1), "this is no snapshot of a transducer, or a damaged"),
        (saved[:-1], "snapshot"),
        (foreign, "snapshot"),
    ):
        with pytest.raises(sr.StateError, match=message):
            other.restore(wrong)  # type: ignore[arg-type]
        assert other.snapshot() == before


WRONG_TRANSDUCERS: list[tuple[dict[str, Any], str]] = [
    ({"predictor": "gru"}, "`predictor` is a stream or a model, got"),
    ({"joiner": MIX}, "`joiner` must be a function of an encoder frame and a prediction, got"),
    ({"blank": V}, f"`blank` must be from 0 to {V - 1}, got {V}"),
    ({"max_symbols": 0}, "`max_symbols` must be an integer of at least 1, got 0"),
    ({"start": ()}, "`start` must hold at least one token, got none"),
    ({"start": V}, "`start` must hold tokens from 0 to 4, got 5"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_TRANSDUCERS)
def test_a_transducer_that_makes_no_sense_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    given = {"predictor": predictor(), "joiner": joiner, "tokens": V} | arguments
    with pytest.raises(sr.ConfigError, match=f"TransducerGreedy: {message}"):
        TransducerGreedy(given.pop("predictor"), given.pop("joiner"), **given)


def test_a_predictor_that_does_not_answer_at_once_is_refused() -> None:
    slow = sr.Sequential(sr.Embedding(V, H), sr.Conv1d(H, H, 2, stride=2))
    with pytest.raises(sr.ConfigError, match=r"must answer each token at once.*comes every 2"):
        TransducerGreedy(slow, joiner, tokens=V)
