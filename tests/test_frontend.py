"""Front ends: parity with librosa, torchaudio, Kaldi and scipy; delays; refusals; PCM in ONNX.

``golden/frontend.npz`` holds what those libraries compute, so that this runs without them; the last
tests run librosa and kaldi-native-fbank themselves where they are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as s
import streamrnn.frontend as fe
from checks import assert_close, assert_same
from streamrnn import ConfigError, FrameError, GraphError, Input, Model, Sequential
from zoo import spectra, trained

GOLDEN = Path(__file__).parent / "golden" / "frontend.npz"
RATE, HOP, N_FFT = 16000, 160, 512
KALDI = {"win_length": 400, "f_min_hz": 20}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def hops(x: np.ndarray, hop: int) -> np.ndarray:
    """Cut a signal into blocks, without a rest."""
    return np.ascontiguousarray(x[: len(x) // hop * hop].reshape(-1, hop), np.float32)


def samples(golden: dict[str, np.ndarray]) -> np.ndarray:
    return (golden["signal"] / np.float32(32768)).astype(np.float32)


# Parity -------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], Any], float]] = {
    # what the layer is, and the largest error: absolute, or relative to the largest number
    "stft": (lambda: fe.STFT(N_FFT, HOP), 3e-7),
    "stft_center": (lambda: fe.STFT(256, HOP, 200, padding="center"), 3e-7),
    "stft_hamming": (lambda: fe.STFT(400, 200, window="hamming"), 3e-7),
    "mel_librosa": (lambda: fe.Mel(RATE, N_FFT, HOP, 40), 1e-6),
    "log_mel_librosa": (lambda: fe.LogMel(RATE, N_FFT, HOP, 40), 1e-5),
    "mfcc_librosa": (lambda: fe.MFCC(RATE, N_FFT, HOP, 40), 1e-5),
    "mfcc_librosa_liftered": (lambda: fe.MFCC(RATE, N_FFT, HOP, 40, lifter=22), 1e-5),
    "log_mel_torchaudio": (lambda: fe.LogMel(RATE, N_FFT, HOP, 40, "torchaudio"), 1e-5),
    "mfcc_torchaudio": (lambda: fe.MFCC(RATE, N_FFT, HOP, 40, "torchaudio"), 1e-5),
    # Kaldi computes in float32 itself
    "log_mel_kaldi": (lambda: kaldi(fe.LogMel(RATE, N_FFT, HOP, 80, "kaldi", **KALDI)), 1e-4),
    "mfcc_kaldi": (lambda: kaldi(fe.MFCC(RATE, N_FFT, HOP, 23, "kaldi", **KALDI)), 1e-4),
    "mfcc_kaldi_energy": (
        lambda: kaldi(fe.MFCC(RATE, N_FFT, HOP, 23, "kaldi", **KALDI, use_energy=True)),
        1e-4,
    ),
}


def kaldi(layer: s.Layer) -> s.Layer:
    """Put Kaldi's scale of samples in front."""
    return Sequential(Input(HOP), s.Scale(32768.0), layer)


def assert_near(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    error = np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())
    assert error <= tolerance, f"off by {error:.2e} of the largest number"


@pytest.mark.parametrize("name", LAYERS)
def test_frames_are_those_of_the_other_library(golden: dict[str, np.ndarray], name: str) -> None:
    build, tolerance = LAYERS[name]
    layer = build()
    hop = layer.graph().inputs["x"].size
    xs, wanted = hops(samples(golden), hop), golden[name]
    wanted = wanted[: len(xs) - layer.delay_frames]  # centred frames at the end see a padding
    assert len(wanted) >= 17
    if np.iscomplexobj(wanted):
        wanted = np.stack([wanted.real, wanted.imag], 1)
    got = layer.stream().run(xs)
    assert len(got) == len(xs) - layer.delay_frames
    assert_near(got[: len(wanted)], wanted, tolerance)
    assert_near(s.ReferenceStream(layer).run(xs)[: len(wanted)], wanted, min(tolerance, 1e-5))


def test_every_golden_array_has_a_test(golden: dict[str, np.ndarray]) -> None:
    others = {"signal", "pcen", "istft", "deltas", "deltas_of_9", "pre_emphasis"}
    others |= {"sos/band", "sos/high", "band", "high"}
    assert {n for n in golden if not n.startswith("window/")} == LAYERS.keys() | others
    assert GOLDEN.stat().st_size < 200_000


def test_windows_are_those_of_scipy_and_kaldi(golden: dict[str, np.ndarray]) -> None:
    names = [n for n in golden if n.startswith("window/")]
    assert len(names) == 18
    for name in names:
        _, kind, n, periodic = name.split("/")
        curve = s.Window(int(n), kind, periodic=periodic == "1").curve()
        np.testing.assert_allclose(curve, golden[name], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(s.Window(9, "sqrt_hann").curve() ** 2, s.Window(9).curve())
    assert s.Window(4, "rectangular", 2).curve().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(("name", "length"), [("deltas", 5), ("deltas_of_9", 9)])
def test_differences_are_those_of_torchaudio(
    golden: dict[str, np.ndarray], name: str, length: int
) -> None:
    mel = fe.Mel(RATE, N_FFT, HOP, 40, "torchaudio")
    xs = hops(samples(golden), HOP)
    energies = mel.stream().run(xs)
    op = Sequential(Input(40), s.Deltas(length))
    assert op.delay_frames == length // 2
    got = op.stream().run(energies)
    assert_near(got, golden[name][: len(got)], 1e-6)
    both = Sequential(Input(40), fe.WithDeltas(1, length)).stream().run(energies)
    assert_same(both, np.concatenate([energies[: len(got)], got], 1), "features beside deltas")


def test_pcen_and_pre_emphasis(golden: dict[str, np.ndarray]) -> None:
    x = samples(golden)
    xs = hops(x, HOP)
    loud = Sequential(fe.Mel(RATE, N_FFT, HOP, 40), s.Scale(2.0**20), fe.PCEN(RATE, HOP))
    got = loud.stream().run(xs)
    assert_near(got, golden["pcen"][: len(got)], 1e-5)
    sharp = Sequential(Input(HOP), fe.PreEmphasis()).stream().run(xs)
    assert_close(sharp.reshape(-1), golden["pre_emphasis"][: sharp.size], 1e-6)


def test_a_changed_spectrum_becomes_librosas_signal(golden: dict[str, np.ndarray]) -> None:
    ramp = s.Constant((1, 257))
    ramp.weights = {"value": np.linspace(0, 1, 257)[None]}
    x = Input(128)
    spectrum = fe.STFT(512, 128, padding="causal")(x)
    model = Model(x, fe.ISTFT(512, 128, padding="causal")(spectrum * ramp(spectrum)))
    got = model.stream().run(hops(samples(golden), 128)).reshape(-1)
    wanted = golden["istft"][384:]  # without the zeros in front
    inner = slice(0, got.size - 512)  # librosa's last frames are seen by fewer windows
    assert_close(got[inner], wanted[: got.size][inner], 2e-6)


@pytest.mark.parametrize(("name", "tolerance"), [("band", 2e-6), ("high", 2e-5)])
def test_filters_are_those_of_scipy(
    golden: dict[str, np.ndarray], name: str, tolerance: float
) -> None:
    sos, wanted = golden[f"sos/{name}"], golden[name]
    x = samples(golden)[: len(wanted)]
    blocks = Sequential(Input(80), s.SOSFilter(sos, blocks=True)).stream().run(hops(x, 80))
    assert_close(blocks.reshape(-1), wanted, tolerance)
    sensors = Sequential(Input(2), s.SOSFilter(sos)).stream().run(np.stack([x, -x], 1))
    assert_same(sensors[:, 0], blocks.reshape(-1), "sample by sample")
    assert_same(sensors[:, 1], -blocks.reshape(-1), "the other signal")
    exact = s.ReferenceStream(Sequential(Input(80), s.SOSFilter(sos, blocks=True)))
    assert_close(exact.run(hops(x, 80)).reshape(-1), wanted, 1e-6)


def test_running_statistics_are_those_of_all_frames_so_far() -> None:
    rng = np.random.default_rng(5)
    xs = (rng.standard_normal((300, 7)) * 3 + 50).astype(np.float32)
    got = Sequential(Input(7), s.RunningNorm()).stream().run(xs)
    wide = xs.astype(np.float64)
    for t in (1, 2, 17, 299):
        seen = wide[: t + 1]
        assert_close(got[t], (wide[t] - seen.mean(0)) / seen.std(0), 2e-4)
    late = Sequential(Input(7), s.RunningNorm(1, eps=1.0)).stream().run(xs)
    assert not late.any(), "one that keeps a single frame subtracts that frame"
    sliding = Sequential(Input(7), s.SlidingNorm(30)).stream().run(xs)
    for t in (1, 2, 17, 29, 30, 31, 299):
        seen = wide[max(0, t - 29) : t + 1]
        assert_close(sliding[t], (wide[t] - seen.mean(0)) / seen.std(0), 2e-4)
    fixed = Sequential(fe.standardize(wide.mean(0), wide.std(0))).stream().run(xs)
    assert_close(fixed, (wide - wide.mean(0)) / wide.std(0), 1e-4)


def test_a_running_mean_far_from_zero_does_not_stand_still() -> None:
    frames = 200_000
    rng = np.random.default_rng(6)
    xs = (1013 + rng.uniform(0, 0.5, (frames, 1))).astype(np.float32)  # hPa
    wide = xs.astype(np.float64)[:, 0]
    got = Sequential(Input(1), s.RunningNorm(variance=False)).stream().run(xs)[:, 0]
    means = np.cumsum(wide) / np.arange(1, frames + 1)
    assert_close(got[-1000:], (wide - means)[-1000:], 1e-4)  # in plain float32: 5e-3


@pytest.mark.parametrize("huge", [1e22, 3e38])
@pytest.mark.parametrize(
    "front",
    [
        lambda: fe.LogMel(RATE, 512, 160, 40),
        lambda: fe.MFCC(RATE, 512, 160, 40, style="kaldi", win_length=400),
        lambda: Sequential(fe.Mel(RATE, 512, 160, 40, style="torchaudio"), fe.PCEN(RATE, 160)),
        lambda: Sequential(fe.STFT(512, 160), fe.Power(), s.RunningNorm()),
        lambda: Sequential(Input(160), s.RunningNorm(50)),
    ],
    ids=["LogMel", "MFCC", "PCEN", "power", "RunningNorm"],
)
def test_a_mad_sample_leaves_no_nan_behind(front: Callable[[], s.Layer], huge: float) -> None:
    stream = Sequential(front(), s.Flatten()).stream()
    x = np.random.default_rng(7).standard_normal(160).astype(np.float32)
    mad = x.copy()
    mad[20] = huge
    for _ in range(4):
        stream.step(x)
    stream.step(mad)
    ys = stream.run(np.tile(x, (20, 1)))
    assert np.isfinite(ys).all()
    assert all(np.isfinite(state).all() for state in stream.state.values())


# Delays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [1, 3, 10, 16, 40])
@pytest.mark.parametrize("padding", [0, 5, 31, "center", "causal"])
def test_a_window_comes_with_its_last_sample(hop: int, padding: int | str) -> None:
    length = 32
    layer = fe.Frames(length, hop, padding)
    zeros = {"center": 16, "causal": max(length - hop, 0)}.get(padding, padding)
    x = np.arange(1, 400 // hop * hop + 1, dtype=np.float32)
    padded = np.concatenate([np.zeros(zeros, np.float32), x])
    stream = layer.stream()
    made = 0
    for step, block in enumerate(hops(x, hop)):
        y = stream.step(block)
        complete = zeros + (step + 1) * hop - length >= made * hop  # its last sample is there
        assert (y is not None) == complete
        if y is not None:
            assert made + layer.delay_frames == step
            assert np.array_equal(y, padded[made * hop : made * hop + length])
            made += 1
    assert made > 5


@pytest.mark.parametrize(
    ("n_fft", "hop", "options"),
    [
        (512, 128, {"padding": "causal"}),
        (512, 256, {"padding": "causal", "window": "sqrt_hann"}),
        (400, 160, {"padding": 320, "window": "hamming"}),
        (480, 480, {"window": "rectangular"}),
        (56, 14, {"padding": "causal", "win_length": 42, "window": "blackman"}),
    ],
)
def test_there_and_back_is_the_signal(n_fft: int, hop: int, options: dict[str, Any]) -> None:
    model = Sequential(fe.STFT(n_fft, hop, **options), fe.ISTFT(n_fft, hop, **options))
    xs = np.random.default_rng(2).standard_normal((60, hop)).astype(np.float32)
    ys = model.stream().run(xs)
    assert len(ys) == 60 - model.delay_frames
    assert model.delay_frames == -(-n_fft // hop) - 1
    assert_close(ys, xs[: len(ys)], 1e-6)


def test_without_padding_the_first_samples_fade_in() -> None:
    model = Sequential(fe.STFT(512, 128), fe.ISTFT(512, 128))
    xs = np.random.default_rng(2).standard_normal((20, 128)).astype(np.float32)
    ys = model.stream().run(xs)
    assert model.delay_frames == 3
    assert_close(ys[3:], xs[3 : len(ys)], 1e-6)
    assert np.abs(ys[0, :60]).max() < 0.1


# PCM in, probabilities out ------------------------------------------------------------------------


def _speech_detector() -> s.Layer:
    return Sequential(
        fe.LogMel(RATE, 400, HOP, 40),
        s.RunningNorm(300),
        trained(s.GRU(40, 24)),
        trained(s.Linear(24, 1)),
        s.Sigmoid(),
    )


def _noise_suppressor() -> s.Layer:
    x = Input(128)
    spectrum = fe.STFT(512, 128, padding="causal")(x)
    mask = s.Sequential(trained(s.GRU(257, 20)), trained(s.Linear(20, 257)), s.Sigmoid())
    features = s.Log()(fe.Magnitude()(spectrum) + 1e-3)
    return Model(x, fe.ISTFT(512, 128, padding="causal")(spectrum * mask(features)))


def _kaldi_tagger() -> s.Layer:
    features = fe.MFCC(RATE, N_FFT, HOP, 23, "kaldi", **KALDI)
    rest = (fe.WithDeltas(2), trained(s.LSTM(39, 12)), trained(s.Linear(12, 5)), s.Softmax())
    return Sequential(Input(HOP), s.Scale(32768.0), features, *rest)


@pytest.mark.parametrize("build", [_speech_detector, _noise_suppressor, _kaldi_tagger])
def test_samples_go_into_onnx_and_results_come_out(
    build: Callable[[], s.Layer], golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from streamrnn.export import to_onnx

    model = build()
    hop = model.graph().inputs["x"].size
    xs = hops(samples(golden), hop)
    path = tmp_path / "m.onnx"
    to_onnx(model, path, frames=xs, tolerance=3e-4)  # cepstra, which the lifter makes larger
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"STFT", "DFT", "MelWeightMatrix"}, "plain operators only"

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()[1:]}
    stream, delay = model.stream(), model.delay_frames
    for step, x in enumerate(xs):  # beside the stream, and it begins when the stream does
        y, *after = session.run(None, {"x": x[None, None], **states})
        states = dict(zip(states, after, strict=True))
        wanted = stream.step(x)
        assert (wanted is not None) == (step >= delay)
        if wanted is not None:
            assert_close(y[0, 0], wanted, 1e-4)


def test_a_front_end_adds_nothing_to_the_weights(tmp_path: Path) -> None:
    model = _speech_detector()
    assert set(model.state_dict()) == {
        *(f"2.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "3.weight",
        "3.bias",
    }
    model.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < 30_000
    xs = np.random.default_rng(0).standard_normal((30, HOP)).astype(np.float32)
    assert_same(s.load(tmp_path / "m.safetensors").run(xs), model.run(xs), "from a file")


# What makes no sense ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fe.STFT(512, 160, 600), "window of 600 is longer than a frame of 512: make"),
        (lambda: fe.STFT(512, 0), "STFT: `hop_length` must be at least 1, got 0"),
        (lambda: fe.STFT(512.0, 160), r"STFT: `n_fft` must be an integer, got 512\.0"),
        (lambda: fe.STFT(512, True), "STFT: `hop_length` must be an integer, got True"),
        (lambda: fe.STFT(512, 160, periodic=1), "STFT: `periodic` must be True or False, got 1"),
        (lambda: fe.STFT(512, 160, window=None), "STFT: `window` must be a text, got None"),
        (lambda: fe.STFT(512, 160, window="sine"), "`kind` must be one of hann, .*, got 'sine'"),
        (lambda: fe.STFT(512, 160, padding="reflect"), "mirrors samples that have not come yet"),
        (lambda: fe.STFT(512, 160, padding=512), r"from 0 to 511 samples .*, got 512"),
        (lambda: fe.STFT(512, 160, padding=-1), "from 0 to 511 samples"),
        (lambda: fe.Frames(0, 160), "Frames: `length` must be at least 1"),
        (lambda: fe.ISTFT(400, 160, padding="causal"), "padding=240 is no multiple .* padding=160"),
        (lambda: fe.ISTFT(128, 160), "frames of 128 samples that begin 160 apart leave gaps|see"),
        (lambda: fe.ISTFT(128, 128), "leave samples that a hann window of 128 does not see"),
        (lambda: fe.Mel(16000, 512, 160, 40, "mfcc"), "`style` must be one of librosa, .* 'mfcc'"),
        (lambda: fe.Mel(16000, 512, 160, 40, win_length=600), "win_length=600 samples does not"),
        (lambda: fe.Mel(16000, 512, 160, 40, f_max_hz=9000), r"<= 8000 Hz .*, got 0 and 9000"),
        (lambda: fe.Mel(16000, 512, 160, 40, f_min_hz=-5), "expected 0 <= `f_min_hz`"),
        (lambda: fe.Mel(16000, 512, 160, 0), "Mel: `n_mels` must be at least 1, got 0"),
        (
            lambda: fe.Mel("16k", 512, 160, 40),
            "must be a finite number, got '16k'",
        ),
        (lambda: fe.Mel(0, 512, 160, 40), "half the sample rate"),
        (lambda: fe.MFCC(16000, 512, 160, 12), r"at most 12 coefficients \(`out_features`\)"),
        (lambda: fe.MFCC(16000, 512, 160, 20, use_energy=True), "belongs to style='kaldi'"),
        (lambda: fe.Decibels(float("nan")), "`ref` must be a finite number, got nan"),
        (lambda: fe.Decibels(0.0), "`ref` and `amin` must be positive, got 0"),
        (lambda: fe.PCEN(16000, 160, bias=0), "PCEN: `bias` must be positive, got 0"),
        (lambda: fe.WithDeltas(0), "`order` must be at least 1"),
        (lambda: fe.WithDeltas(win_length=4), "`win_length` must be odd and at least 3, got 4"),
        (lambda: fe.standardize([0.0, 1.0], [1.0, 0.0]), "`std` positive"),
        (lambda: fe.standardize([0.0], [1.0, 2.0]), r"one shape \(C,\)"),
        (lambda: s.MelFilterbank(20, 256, 16000.0, scale="bark"), "`scale` must be one of slaney"),
        (lambda: s.MelFilterbank(20, 256, 16000.0, scale="kaldi"), "have norm='none'"),
        (lambda: s.RFFT(0), "`n` must be an integer of at least 1"),
        (lambda: s.RFFT(4099), "at most 4096 where it has a prime factor above 5, got 4099"),
        (lambda: s.OverlapAdd(3, 4), "`hop` must be at most 3"),
        (lambda: s.ExponentialMean(0.0), "`rate` must be above 0 and at most 1"),
        (lambda: s.RunningNorm(1 << 25), "`frames` must be at most 16777216"),
        (lambda: s.SlidingNorm(1), "`frames` must be an integer of at least 2"),
        (lambda: s.SlidingNorm(9, eps=0.0), "`eps` must be a positive number"),
        (lambda: s.SOSFilter([1.0, 2.0]), "must be rows of six finite numbers"),
        (lambda: s.SOSFilter("butter"), "must be rows of six finite numbers"),
        (lambda: s.SOSFilter((1, 0, 0, 1, -2, 1.1)), r"not stable, a pole lies 1\.049 from"),
        (lambda: fe.Resampler(0, 16000), "`from_hz` must be a positive number, got 0"),
        (lambda: fe.Resampler(8000, 16000, quality="best"), "one of QQ, LQ, MQ, HQ, VHQ"),
    ],
)
def test_arguments_without_meaning_are_refused(build: Callable[[], Any], message: str) -> None:
    if "Resampler" in message or "quality" in message or "from_hz" in message:
        pytest.importorskip("soxr", reason="needs the extra `audio`")
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fe.STFT(512, 160)(Input(128)), r"STFT\(n_fft=512, .*expects frames of shape \(16"),
        (lambda: fe.STFT(512, 160)(Input(160), Input(160)), r"got \(160,\) and \(160,\)"),
        (lambda: fe.ISTFT(512, 128)(Input(257)), r"frames of shape \(2, 257\), got \(257,\)"),
        (lambda: s.RFFT(8)(Input(9)), r"frames of shape \(I,\) with I up to 8, got \(9,\)"),
        (lambda: s.IRFFT(8)(Input((2, 4))), r"frames of shape \(2, 5\), got \(2, 4\)"),
        (lambda: s.DCT(8, 3)(Input(9)), r"frames of shape \(…, 8\), got \(9,\)"),
        (lambda: s.SlidingNorm(3)(Input(())), r"expects frames of shape \(C, …\), got \(\)"),
        (lambda: s.Deltas()(Input((2, 3))), r"expects frames of shape \(2,\), got \(2, 3\)"),
    ],
)
def test_frames_that_do_not_fit_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build()


def test_empty_filters_are_said() -> None:
    with pytest.warns(UserWarning, match=r"filters \[0.*\] are empty .* use fewer bands"):
        s.MelFilterbank(128, 256, 16000.0)


# Sample rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("from_hz", "to_hz"), [(48000, 16000), (44100, 16000), (8000, 16000)])
def test_any_cut_of_a_signal_is_resampled_to_the_same_bits(from_hz: int, to_hz: int) -> None:
    soxr = pytest.importorskip("soxr", reason="needs the extra `audio`")
    x = np.random.default_rng(3).standard_normal(5001).astype(np.float32)
    wanted = soxr.resample(x, from_hz, to_hz)
    assert len(wanted) == int(5001 * to_hz / from_hz + 0.5)
    resampler = fe.Resampler(from_hz, to_hz)
    for size in (1, 160, 977, 5001):
        got = [resampler.run(x[i : i + size]) for i in range(0, 5001, size)]
        waiting = resampler.delay_samples
        rest = resampler.finish()
        assert len(rest) == int(waiting + 0.5)
        assert_same(np.concatenate([*got, rest]), wanted, f"blocks of {size}")
        with pytest.raises(FrameError, match="is finished: `reset` it"):
            resampler.run(x)
        resampler.reset()


def test_blocks_that_do_not_fit_a_resampler_are_refused() -> None:
    pytest.importorskip("soxr", reason="needs the extra `audio`")
    stereo = fe.Resampler(48000, 16000, channels=2)
    assert stereo.run(np.zeros((480, 2), np.float32)).shape[1:] == (2,)
    for bad in (np.zeros((480, 1), np.float32), np.zeros((480, 2)), [0.0], np.zeros(4, np.float32)):
        with pytest.raises(FrameError, match=r"float32, shape \(n, 2\), got"):
            stereo.run(bad)
    with pytest.raises(FrameError, match=r"of shape \(n,\), got a single number"):
        fe.Resampler(48000, 16000).run(np.zeros((), np.float32))


@pytest.mark.parametrize("rate", [10, 50, 333])
def test_samples_at_any_times_become_what_numpy_interpolates(rate: int) -> None:
    rng = np.random.default_rng(rate)
    times = 1000 + np.cumsum(rng.uniform(0.001, 0.08, 400))
    values = rng.standard_normal((400, 2))
    regular = fe.FixedRate(rate, 2)
    got = np.concatenate([regular.push(t, x) for t, x in zip(times, values, strict=True)])
    grid = times[0] + np.arange(int((times[-1] - times[0]) * rate) + 1) / rate
    wanted = np.stack([np.interp(grid, times, v) for v in values.T], 1)
    assert_close(got, wanted, 1e-6)
    assert (regular.late, regular.gaps) == (0, 0)


def test_what_is_late_is_left_out_and_a_gap_begins_anew() -> None:
    regular = fe.FixedRate(10, 1, max_gap_s=0.5)
    assert regular.push(5.0, [1.0]).tolist() == [[1.0]]
    assert regular.push(5.2, [3.0]).tolist() == [[2.0], [3.0]]
    assert regular.push(5.2, [9.0]).shape == (0, 1)  # twice the same time
    assert regular.push(4.9, [9.0]).shape == (0, 1)  # out of order
    assert regular.push(3605.25, [7.0]).tolist() == [[7.0]]  # an hour of silence
    assert regular.push(3605.35, [8.0]).tolist() == [[8.0]]
    assert (regular.late, regular.gaps) == (2, 1)
    for time, x in ((np.nan, [1.0]), (3606.0, [np.inf]), (3606.0, [1.0, 2.0]), (3606.0, 1.0)):
        with pytest.raises(FrameError, match=r"expected (finite numbers|numbers of shape \(1,\))"):
            regular.push(time, x)
    assert regular.push(3605.45, [9.0]).tolist() == [[9.0]], "what was refused changed nothing"
    regular.reset()
    assert regular.push(1.0, [4.0]).tolist() == [[4.0]]
    assert (regular.late, regular.gaps) == (0, 0)
    with pytest.raises(ConfigError, match="`rate_hz` must be a positive number, got 0"):
        fe.FixedRate(0, 1)


# Convolutions that are transforms -----------------------------------------------------------------


@pytest.mark.parametrize(("n", "padding"), [(96, 20), (75, 100), (400, 0)])
def test_a_convolution_that_is_a_transform_runs_as_one(n: int, padding: int) -> None:
    """Against NumPy's transform; 1e-6 of the largest number, as near as float32 comes."""
    length, stride = 2 * n + 17, 64
    model = spectra(n, length, stride, padding)
    assert [kernel.name for kernel in model.program().kernels] == ["rfft_windows"]
    x = np.random.default_rng(n).standard_normal((1, length)).astype(np.float32)
    padded, window = np.pad(x[0].astype(float), padding), 0.3 + np.hanning(n)
    begins = range(0, len(padded) - n + 1, stride)
    wanted = np.stack([np.fft.rfft(window * padded[b : b + n]) for b in begins], axis=1)
    assert_near(model.stream().step(x), np.concatenate([wanted.real, wanted.imag]), 1e-6)


@pytest.mark.parametrize("row", [0, 1, 48, 49, 97])
def test_a_convolution_that_is_nearly_a_transform_is_none(row: int) -> None:
    model = spectra(96, 200, 64, 0)
    weight = model.state_dict()["conv.weight"]
    weight[row, 0, 5] += 1e-6 if row else 1e-5
    model.load_state_dict({"conv.weight": weight})
    assert [kernel.name for kernel in model.program().kernels] == ["frame_conv1d"]


# The libraries themselves -------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [100, 256])
def test_librosa_itself(hop: int) -> None:
    librosa = pytest.importorskip("librosa", reason="compares with librosa where it is installed")
    x = np.random.default_rng(hop).standard_normal(6000).astype(np.float32)
    options = {"n_fft": 1024, "hop_length": hop, "win_length": 800, "center": False}
    mel = librosa.feature.melspectrogram(y=x, sr=22050, n_mels=60, fmin=50, fmax=9000, **options)
    wanted = librosa.power_to_db(mel, top_db=None).T
    layer = fe.LogMel(22050, 1024, hop, 60, win_length=800, f_min_hz=50, f_max_hz=9000)
    got = layer.stream().run(hops(x, hop))
    assert_near(got, wanted[: len(got)], 1e-5)


def test_kaldi_native_fbank_itself() -> None:
    knf = pytest.importorskip("kaldi_native_fbank", reason="compares where it is installed")
    x = (1000 * np.random.default_rng(9).standard_normal(4000)).astype(np.float32)
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.samp_freq = 0, 8000
    options.mel_opts.num_bins, options.mel_opts.high_freq = 30, -400
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(8000, x.tolist())
    wanted = np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    layer = fe.LogMel(8000, 256, 80, 30, "kaldi", win_length=200, f_min_hz=20, f_max_hz=-400)
    got = layer.stream().run(hops(x, 80))
    assert len(got) == len(wanted)
    assert_near(got, wanted, 1e-4)
