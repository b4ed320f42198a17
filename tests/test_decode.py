"""Generation and beam search: beside torch's loops, brute force, and exact distributions."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import decode
from streamrnn.decode import Greedy, Sample, beam_search, generate, hand_over

V, END = 6, 5
LOG_P = np.log(np.array([0.05, 0.3, 0.1, 0.25, 0.25, 0.05]))


def _model(seed: int = 0, size: int = V, gain: float = 3.0) -> sr.Sequential:
    model = sr.Sequential(
        sr.Embedding(size, 8, seed=seed),
        sr.GRU(8, 16, seed=seed),
        sr.Linear(16, size, seed=seed),
    )
    weights = model.state_dict()
    model.load_state_dict(weights | {"2.weight": gain * weights["2.weight"]})
    return model


class Torch:
    """The same decoder in torch; it reads the whole text anew for each token."""

    def __init__(self, model: sr.Sequential) -> None:
        torch = pytest.importorskip("torch")
        size = model.program().output_size
        layers = torch.nn.Embedding(size, 8), torch.nn.GRU(8, 16), torch.nn.Linear(16, size)
        for i, layer in enumerate(layers):
            own = {n[2:]: w for n, w in model.state_dict().items() if n.startswith(f"{i}.")}
            layer.load_state_dict({n: torch.from_numpy(w) for n, w in own.items()})
        self.torch, self.layers = torch, layers

    def following(self, text: Sequence[int]) -> np.ndarray:
        """Return the log-probabilities of the token after `text`."""
        embedding, gru, linear = self.layers
        with self.torch.no_grad():
            h = gru(embedding(self.torch.tensor(list(text))))[0][-1]
            logits = linear(h).double()
            result: np.ndarray = self.torch.log_softmax(logits, 0).numpy()
        return result

    def greedy(self, start: Sequence[int], steps: int) -> list[tuple[int, float]]:
        text, made = list(start), []
        for _ in range(steps):
            log_p = self.following(text)
            text.append(int(log_p.argmax()))
            made.append((text[-1], float(log_p.max())))
        return made

    def all_texts(self, start: int, steps: int) -> dict[tuple[int, ...], float]:
        """Return the log-probability of every text that ends with END or after `steps` tokens."""
        found: dict[tuple[int, ...], float] = {}

        def go(text: tuple[int, ...], total: float) -> None:
            if len(text) == steps or text[-1:] == (END,):
                found[text] = total
                return
            for token, log_p in enumerate(self.following((start, *text))):
                go((*text, token), total + float(log_p))

        go((), 0.0)
        return found

    def beams(self, start: int, width: int, steps: int) -> list[tuple[tuple[int, ...], float]]:
        """Return what a beam search finds, text by text, without any state."""
        live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        done: list[tuple[tuple[int, ...], float]] = []
        for _ in range(steps):
            grown = [
                ((*text, token), total + float(log_p))
                for text, total in live
                for token, log_p in enumerate(self.following((start, *text)))
            ]
            grown = sorted(grown, key=lambda each: -each[1])[: width - len(done)]
            done += [each for each in grown if each[0][-1] == END]
            live = [each for each in grown if each[0][-1] != END]
        return sorted(done + live, key=lambda each: -each[1])


def _whole(found: decode.Hypothesis) -> tuple[int, ...]:
    return (*found.tokens, END) if found.ended else found.tokens


# Generation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [(2,), (0, 3, 1, 1)])
def test_greedy_generation_is_that_of_a_torch_loop(start: tuple[int, ...]) -> None:
    model = _model()
    got = list(generate(model, start, steps=30))
    wanted = Torch(model).greedy(start, 30)
    assert [token for token, _ in got] == [token for token, _ in wanted]
    np.testing.assert_allclose([p for _, p in got], [p for _, p in wanted], atol=1e-5)
    assert len(set(got)) > 3  # or nothing was tested


def test_each_token_is_there_before_the_next_one_is_computed() -> None:
    stream = _model().stream()
    tokens = generate(stream, [1, 2, 3])
    assert stream.frames == 0
    for k in range(5):
        next(tokens)
        assert stream.frames == 3 + k


@pytest.mark.parametrize("pause", [1, 4, 9])
def test_a_pause_changes_nothing(pause: int) -> None:
    stream, other = _model().stream(), _model().stream()
    wanted = list(generate(stream, 1, steps=12))
    before = list(itertools.islice(generate(other, 1), pause))
    after = list(generate(other, before[-1].token, steps=12 - pause))
    assert before + after == wanted


def test_a_stop_token_ends_the_text_and_is_not_part_of_it() -> None:
    endless = [token for token, _ in generate(_model(), 1, steps=40)]
    stop = endless[7]
    wanted = endless[: endless.index(stop)]
    assert [token for token, _ in generate(_model(), 1, steps=40, stop=stop)] == wanted
    for stops in ([stop], {stop}, np.array([stop]), (stop, stop)):
        assert [t for t, _ in generate(_model(), 1, stop=stops)] == wanted


def test_a_decoder_of_vectors_is_fed_through_embed() -> None:
    model = _model()
    w = model.state_dict()
    cell = sr.Sequential(sr.GRU(8, 16), sr.Linear(16, V))
    cell.load_state_dict({f"{int(n[0]) - 1}{n[1:]}": a for n, a in w.items() if n[0] != "0"})
    table = w["0.weight"]
    wanted = list(generate(model, 2, steps=9))
    assert list(generate(cell, 2, steps=9, embed=table.__getitem__)) == wanted
    found = beam_search(cell, 2, width=3, steps=5, embed=table.__getitem__)
    assert found == beam_search(model, 2, width=3, steps=5)


def test_a_caption_is_conditioned_in_every_step() -> None:
    token, image = sr.Input((), dtype="int64"), sr.Input(4)
    both = sr.concat(sr.Embedding(V, 8, seed=1)(token), image)
    logits = sr.Linear(16, V, seed=1)(sr.GRU(12, 16, seed=1)(both))
    model = sr.Model({"token": token, "image": image}, logits)
    picture = np.array([1, -2, 3, 0.5], np.float32)
    got = [t for t, _ in generate(model, 0, steps=6, embed=lambda t: (np.array(t), picture))]
    stream, token_, wanted = model.stream(), 0, []
    for _ in range(6):
        scores: Any = stream.step((np.array(token_), picture))
        token_ = int(scores.argmax())
        wanted.append(token_)
    assert got == wanted


def test_probabilities_need_a_logarithm_behind_them() -> None:
    plain, soft = _model(), sr.Sequential(_model(), sr.Softmax())
    text = sr.Sequential(soft, sr.Log())
    a, b = (list(generate(m, 1, steps=9)) for m in (plain, text))
    assert [t for t, _ in a] == [t for t, _ in b]
    np.testing.assert_allclose([p for _, p in a], [p for _, p in b], atol=1e-5)
    for model in (soft, sr.Sequential(soft, sr.Reshape((1, V)))):
        with pytest.raises(sr.ConfigError, match=r"ends in probabilities \(Softmax.*model, Log\("):
            generate(model, 1)
    list(generate(sr.Sequential(plain, sr.LogSoftmax()), 1, steps=2))


def test_tokens_that_cannot_come_never_come() -> None:
    """Logits of minus infinity are masks."""
    masked = sr.Sequential(_model(), sr.ReLU(), sr.Log())
    for seed in range(5):
        tokens = list(generate(masked, 1, steps=20, choose=Sample(seed=seed, temperature=50.0)))
        assert all(p > -np.inf for _, p in tokens)
    found = beam_search(masked, 1, width=V**2, steps=2)
    assert 0 < len(found) < V**2
    assert all(math.isfinite(h.log_probability) for h in found)


def test_a_plain_integer_is_a_frame_bit_for_bit() -> None:
    a, b = _model().stream(), _model().stream()
    out = np.empty(V, np.float32)
    for token in (0, 3, V - 1, 2):
        wanted = a.step(np.array(token))
        assert np.array_equal(b.step(token, out), wanted)
        assert np.array_equal(a.step(token), b.step(token))
    assert a.snapshot() == b.snapshot()
    for wrong in (-1, V, True, 1.0):
        with pytest.raises(sr.FrameError, match="`x` must"):
            b.step(wrong)
    for bad in (np.empty(V + 1, np.float32), np.empty(V), out[::-1]):
        with pytest.raises(sr.FrameError, match="`out` must be"):
            b.step(1, bad)
    assert a.snapshot() == b.snapshot()


# Sampling -----------------------------------------------------------------------------------------


def _chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """Return how far counts are from their distribution, in standard deviations."""
    possible = p > 0
    assert counts[~possible].sum() == 0
    expected = counts.sum() * p[possible]
    freedom = possible.sum() - 1
    chi = float(((counts[possible] - expected) ** 2 / expected).sum())
    cube = (chi / freedom) ** (1 / 3)  # Wilson and Hilferty, 1931: about normal
    return float((cube - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom)))


RESTRICTED: dict[str, tuple[dict[str, Any], list[float]]] = {
    "plain": ({}, [0.05, 0.3, 0.1, 0.25, 0.25, 0.05]),
    "temperature 1/2": ({"temperature": 0.5}, [0.0025, 0.09, 0.01, 0.0625, 0.0625, 0.0025]),
    "temperature 2": ({"temperature": 2.0}, [0.05**0.5, 0.3**0.5, 0.1**0.5, 0.5, 0.5, 0.05**0.5]),
    "top 1": ({"top_k": 1}, [0, 1, 0, 0, 0, 0]),
    "top 2, of equals the first": ({"top_k": 2}, [0, 0.3, 0, 0.25, 0, 0]),
    "top 4": ({"top_k": 4}, [0, 0.3, 0.1, 0.25, 0.25, 0]),
    "top 100": ({"top_k": 100}, [0.05, 0.3, 0.1, 0.25, 0.25, 0.05]),
    "p below the first": ({"top_p": 0.2}, [0, 1, 0, 0, 0, 0]),
    "p at a border": ({"top_p": 0.54}, [0, 0.3, 0, 0.25, 0, 0]),
    "p beyond a border": ({"top_p": 0.56}, [0, 0.3, 0, 0.25, 0.25, 0]),
    "p of 1": ({"top_p": 1.0}, [0.05, 0.3, 0.1, 0.25, 0.25, 0.05]),
    "all three: of the two, 0.82 is the first's": (
        {"temperature": 0.1, "top_k": 2, "top_p": 0.8},
        [0, 1, 0, 0, 0, 0],
    ),
    "k before p": ({"top_k": 3, "top_p": 0.6}, [0, 0.3, 0, 0.25, 0, 0]),
}


@pytest.mark.parametrize("name", RESTRICTED)
def test_samples_have_exactly_the_distribution_that_is_asked_for(name: str) -> None:
    arguments, weights = RESTRICTED[name]
    wanted = np.array(weights) / sum(weights)
    sample = Sample(**arguments, seed=1)
    np.testing.assert_allclose(sample.probabilities(LOG_P), wanted, atol=1e-12)
    counts = np.bincount([sample(LOG_P) for _ in range(4000)], minlength=V)
    if (wanted > 0).sum() > 1:
        assert _chi_square(counts, wanted) < 3.5
    else:
        assert counts.tolist() == (4000 * wanted).tolist()


def test_the_chi_square_test_sees_a_wrong_distribution() -> None:
    sample = Sample(temperature=1.25, seed=1)
    counts = np.bincount([sample(LOG_P) for _ in range(4000)], minlength=V)
    assert _chi_square(counts, np.exp(LOG_P)) > 3.5


def test_probabilities_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_p = torch.log_softmax(logits, 0).numpy()
    soft = torch.softmax(logits / 0.7, 0)
    np.testing.assert_allclose(Sample(0.7).probabilities(log_p), soft.numpy(), rtol=1e-12)
    top = torch.topk(soft, 40)
    wanted = torch.zeros(1000, dtype=torch.float64).scatter(0, top.indices, top.values)
    got = Sample(0.7, top_k=40).probabilities(log_p)
    np.testing.assert_allclose(got, (wanted / wanted.sum()).numpy(), rtol=1e-12)


def test_texts_of_two_tokens_come_as_often_as_they_should() -> None:
    model = _model(size=3, gain=1.0)
    stream, exact = model.stream(), np.zeros(9)
    other = Torch(model)
    for a, b in itertools.product(range(3), repeat=2):
        exact[3 * a + b] = math.exp(other.following((0,))[a] + other.following((0, a))[b])
    sample, counts = Sample(seed=4), np.zeros(9)
    for _ in range(3000):
        stream.reset()
        (a, _), (b, _) = generate(stream, 0, steps=2, choose=sample)
        counts[3 * a + b] += 1
    assert _chi_square(counts, exact) < 3.5


def test_the_same_seed_gives_the_same_text_and_the_next_text_is_another() -> None:
    def text(sample: Sample) -> list[int]:
        return [token for token, _ in generate(_model(), 1, steps=30, choose=sample)]

    sample = Sample(temperature=2.0, seed=3)
    first, second = text(sample), text(sample)
    assert first == text(Sample(temperature=2.0, seed=3))
    assert first != second
    assert first != text(Sample(temperature=2.0, seed=4))


def test_the_log_probability_is_the_models_whatever_the_temperature() -> None:
    model = _model()
    tokens = list(generate(model, 1, steps=8, choose=Sample(5.0, top_k=3, seed=0)))
    other, text = Torch(model), [1]
    for token, log_probability in tokens:
        assert abs(other.following(text)[token] - log_probability) < 1e-5
        text.append(token)


def test_a_very_low_temperature_is_greedy() -> None:
    assert {Sample(1e-300, seed=k)(LOG_P) for k in range(9)} == {Greedy()(LOG_P)} == {1}


# Beams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model = _model(seed)
    (found,) = beam_search(model, 1, width=1, steps=15, stop=END)
    tokens = list(generate(model, 1, steps=15, stop=END))
    assert list(found.tokens) == [token for token, _ in tokens]
    assert found.ended == (len(tokens) < 15)
    if not found.ended:
        assert abs(found.log_probability - sum(p for _, p in tokens)) < 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_there_are_texts_finds_them_all(seed: int, penalty: float) -> None:
    model, steps = _model(seed), 3
    texts = Torch(model).all_texts(1, steps)
    found = beam_search(model, 1, width=V**3, steps=steps, stop=END, length_penalty=penalty)
    scores = {text: total / len(text) ** penalty for text, total in texts.items()}
    best = sorted(texts, key=lambda text: -scores[text])
    assert [_whole(h) for h in found] == best
    np.testing.assert_allclose([h.score for h in found], [scores[t] for t in best], atol=1e-5)
    np.testing.assert_allclose(
        [h.log_probability for h in found], [texts[t] for t in best], atol=1e-5
    )
    assert abs(sum(math.exp(h.log_probability) for h in found) - 1) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_vocabulary_finds_the_best_pair(seed: int) -> None:
    model = _model(seed)
    texts = Torch(model).all_texts(1, 2)
    best = sorted(texts, key=lambda text: -texts[text])[:V]
    assert [_whole(h) for h in beam_search(model, 1, width=V, steps=2, stop=END)] == best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [2, 3, 5])
def test_forked_states_give_what_reading_every_text_anew_gives(seed: int, width: int) -> None:
    model = _model(seed)
    wanted = Torch(model).beams(1, width, 9)
    found = beam_search(model, 1, width=width, steps=9, stop=END)
    assert [_whole(h) for h in found] == [text for text, _ in wanted]
    np.testing.assert_allclose(
        [h.log_probability for h in found], [p for _, p in wanted], atol=1e-4
    )


def test_beam_search_leaves_the_stream_where_it_was() -> None:
    stream = _model().stream()
    stream.run(np.array([1, 2, 3]))
    before = stream.snapshot()
    found = beam_search(stream, 4, width=4, steps=6)
    assert stream.snapshot() == before
    assert found == beam_search(_model(), [1, 2, 3, 4], width=4, steps=6)


def test_a_beam_costs_a_copy_of_the_state_and_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = sr.Stream.__init__

    def counted(self: sr.Stream, *args: Any) -> None:
        made.append(self)
        plain(self, *args)

    stream = _model().stream()
    monkeypatch.setattr(sr.Stream, "__init__", counted)
    assert len(beam_search(stream, 1, width=20, steps=5)) == 20
    assert len(made) == 1


# From an encoder ----------------------------------------------------------------------------------


def _encoder_and_decoder(encoded: int = 16) -> tuple[sr.Stream, sr.Stream]:
    encoder = sr.Sequential(sr.Embedding(9, 8, seed=5), sr.LSTM(8, encoded, seed=5))
    return encoder.stream(), _model().stream()


def test_the_decoder_begins_with_the_encoders_last_state_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    encoder, decoder = _encoder_and_decoder()
    decoder.run(np.array([1, 1]))  # an earlier text, of which nothing remains
    source = np.array([1, 8, 3])
    last = np.array(encoder.run(source)[-1])
    hand_over(encoder, decoder, {"gru_0.h": "lstm_0.h"})
    assert decoder.frames == 0
    other = Torch(_model())
    embedding, gru, linear = other.layers
    with torch.no_grad():
        y, _ = gru(embedding(torch.tensor([2])), torch.from_numpy(last)[None])
        wanted = linear(y[-1]).numpy()
    np.testing.assert_allclose(decoder.step(2), wanted, atol=1e-5)


def test_a_projection_may_stand_between_the_two() -> None:
    encoder, decoder = _encoder_and_decoder(encoded=7)
    bridge = sr.Sequential(sr.Linear(7, 16, seed=2), sr.Tanh())
    encoder.run(np.array([1, 8, 3]))
    projected = bridge.step(encoder.state["lstm_0.h"])
    hand_over(encoder, decoder, {"gru_0.h": projected})
    assert np.array_equal(decoder.state["gru_0.h"], projected)


def test_a_state_is_looked_for_by_name() -> None:
    state = _model().stream().state
    assert "gru_0.h" in state
    assert "gru_0.c" not in state


WRONG_STATES: list[tuple[Any, str]] = [
    (
        {"gru_0.h": "lstm_0.h"},
        r"state 'gru_0.h' is float32 of shape \(16,\), the encoder's .*\(7,\)",
    ),
    ({"gru_0.c": "lstm_0.h"}, "the decoder has no state 'gru_0.c'; it has gru_0.h"),
    ({"gru_0.h": "gru_0.h"}, r"the encoder has no state 'gru_0.h'; it has lstm_0.h, lstm_0.c"),
    ({"gru_0.h": np.zeros(16)}, "what it is given is .*float64"),
    ({"gru_0.h": np.full(16, np.nan, np.float32)}, "what it is given for 'gru_0.h' holds a NaN"),
    (["gru_0.h"], "must be a mapping of the decoder's states to the encoder's, got"),
]


@pytest.mark.parametrize(("states", "message"), WRONG_STATES)
def test_states_that_do_not_fit_are_refused_and_change_nothing(states: Any, message: str) -> None:
    encoder, decoder = _encoder_and_decoder(encoded=7)
    decoder.run(np.array([1, 2]))
    before = decoder.snapshot()
    with pytest.raises(sr.StateError, match=message):
        hand_over(encoder, decoder, states)
    assert decoder.snapshot() == before


def test_a_model_has_no_state_to_hand_over() -> None:
    encoder, decoder = _encoder_and_decoder()
    states = {"gru_0.h": "lstm_0.h"}
    with pytest.raises(sr.ConfigError, match=r"`decoder` must be a running stream.*model.stream"):
        hand_over(encoder, _model(), states)  # type: ignore[arg-type]
    with pytest.raises(sr.ConfigError, match=r"`encoder` must be a running stream.*model.stream"):
        hand_over(_model(), decoder, states)  # type: ignore[arg-type]


# What is refused ----------------------------------------------------------------------------------

x = sr.Input(V)
WRONG_MODELS: list[tuple[Any, str]] = [
    ("model.onnx", "a decoder is a stream or a model, got"),
    (sr.Sequential(sr.Input(V), sr.Reshape((2, 3))), r"one vector of logits.* makes \(2, 3\)"),
    (
        sr.Model(x, [sr.Tanh()(x), x]),
        r"one vector of logits.* makes \(6,\), \(6,\): leave the other",
    ),
    (sr.Conv1d(V, V, 2, stride=2), "answers each token at once; this model's output comes every 2"),
    (sr.GRU(V, V), r"this decoder reads float32 \(6,\): pass `embed`.*np.eye\(6, dtype"),
]


@pytest.mark.parametrize(("model", "message"), WRONG_MODELS)
def test_what_is_no_decoder_is_refused(model: Any, message: str) -> None:
    with pytest.raises(sr.ConfigError, match=message):
        generate(model, 1)
    with pytest.raises(sr.ConfigError, match=message):
        beam_search(model, 1, width=2, steps=2)


WRONG_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
    ({"steps": 2.5}, "`steps` must be an integer of at least 1, got 2.5"),
    ({"start": ()}, "`start` must hold at least one token, got none"),
    ({"start": "hello"}, "`start` must be a token, an integer, or several, got 'hello'"),
    ({"start": 1.5}, "`start` must be a token, an integer, or several, got 1.5"),
    ({"start": -1}, "`start` must hold tokens from 0 on, got -1"),
    ({"stop": V}, "`stop` must hold tokens from 0 to 5, got 6"),
    ({"embed": np.eye(V)}, "`embed` must be a function from a token to a frame.*__getitem__"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    given = {"start": 1, "steps": 3} | arguments
    with pytest.raises(sr.ConfigError, match=message):
        generate(_model(), **given)
    with pytest.raises(sr.ConfigError, match=message):
        beam_search(_model(), **given, width=2)


def test_a_beam_search_says_what_is_wrong_with_its_own_arguments() -> None:
    with pytest.raises(sr.ConfigError, match="beam_search: `width` must be an integer of at least"):
        beam_search(_model(), 1, width=0, steps=1)
    for penalty in (math.nan, "much", True):
        with pytest.raises(sr.ConfigError, match="`length_penalty` must be a finite number, got"):
            beam_search(_model(), 1, width=1, steps=1, length_penalty=penalty)  # type: ignore[arg-type]


WRONG_SAMPLES: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0}, r"must be a number above 0, got 0: .* what Greedy\(\) chooses"),
    ({"temperature": -1.0}, "`temperature` must be a number above 0, got -1.0"),
    ({"temperature": math.nan}, "`temperature` must be a number above 0, got nan"),
    ({"temperature": "hot"}, "`temperature` must be a number above 0, got 'hot'"),
    ({"top_k": 0}, "`top_k` must be an integer of at least 1, got 0"),
    ({"top_k": True}, "`top_k` must be an integer of at least 1, got True"),
    ({"top_p": 0.0}, "`top_p` must be a number above 0 and at most 1, got 0.0"),
    ({"top_p": 1.5}, "`top_p` must be a number above 0 and at most 1, got 1.5"),
    ({"seed": -1}, "`seed` must be a non-negative integer or None, got -1"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_SAMPLES)
def test_a_sample_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.ConfigError, match=message):
        Sample(**arguments)


def test_a_chooser_of_ones_own_is_held_to_the_vocabulary() -> None:
    second = generate(_model(), 1, steps=3, choose=lambda log_p: int(np.argsort(log_p)[-2]))
    assert len(list(second)) == 3
    for wrong in (V, -1, 1.5, None):
        with pytest.raises(sr.ConfigError, match=rf"return a token from 0 to 5, got {wrong}"):
            next(generate(_model(), 1, choose=lambda log_p, wrong=wrong: wrong))  # type: ignore[misc]
    with pytest.raises(sr.ConfigError, match=r"`choose` must be Greedy\(\), Sample"):
        generate(_model(), 1, choose="greedy")  # type: ignore[arg-type]


def test_a_token_that_the_embedding_does_not_have_is_refused() -> None:
    with pytest.raises(sr.FrameError, match="indices from 0 to 5, got 6"):
        next(generate(_model(), V))


@pytest.mark.parametrize(
    ("value", "what"), [(math.nan, "nan at token 0"), (math.inf, "inf at token 0")]
)
def test_logits_that_are_no_numbers_are_an_error(value: float, what: str) -> None:
    stream = sr.Sequential(sr.Input(V), sr.Scale(1.0)).stream("propagate")
    frame = np.full(V, value, np.float32)
    with pytest.raises(sr.NonFiniteError, match=f"logits after 1 frames hold {what}"):
        next(generate(stream, 1, embed=lambda token: frame))
    with pytest.raises(sr.NonFiniteError, match=f"logits after 2 frames hold {what}"):
        beam_search(stream, 1, width=2, steps=2, embed=lambda token: frame)


def test_nothing_that_can_come_is_an_error() -> None:
    nothing = sr.Sequential(sr.Embedding(V, V), sr.Scale(0.0), sr.Log())
    with pytest.raises(sr.NonFiniteError, match="-inf at every token: there is no next token"):
        next(generate(nothing, 1))


def test_public_names_are_sorted_and_documented() -> None:
    assert decode.__all__ == sorted(decode.__all__, key=lambda n: (n[0].islower(), n))
    for name in decode.__all__:
        thing = getattr(decode, name)
        assert inspect.getdoc(thing), name
