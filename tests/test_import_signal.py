"""Fourier transforms, short-time ones and windows, against NumPy, onnxruntime, ONNX's own data."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from node_cases import node_cases

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from onnx import numpy_helper  # noqa: E402

from test_import_bad import N, around, built, written  # noqa: E402


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parts(z: np.ndarray) -> np.ndarray:
    """Return complex numbers as real and imaginary part."""
    return np.stack([z.real, z.imag], -1)


def one_frame(model: Any, x: np.ndarray, tmp_path: Any, **options: Any) -> Any:
    """Return the model's output for one frame, without leading axes of size 1."""
    stream = sr.load(written(model, tmp_path), **options).stream()
    return stream.step(x.reshape(stream.program.inputs[0].shape))


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert got.size == wanted.size
    apart = np.abs(got.ravel().astype(float) - wanted.ravel()).max()
    assert apart <= tolerance * np.abs(wanted).max()


def dft(attributes: dict[str, Any], x: np.ndarray, opset: int, **arrays: Any) -> Any:
    """Return a model with one DFT; `arrays` are its inputs `length` and `axis`."""
    length, axis = ("length" in arrays) * "length", ("axis" in arrays) * "axis"
    inputs = ["x", length, axis] if opset >= 20 else ["x", length]
    node = N("DFT", inputs, ["y"], **attributes)
    arrays = {name: np.array(value, np.int64) for name, value in arrays.items()}
    return built([node], {"x": x.shape}, ["y"], arrays, opset)


LENGTHS = [1, 2, 7, 16, 160, 257, 512, 1000, 1024]


@pytest.mark.parametrize("n", LENGTHS)
def test_transforms_are_numpys(n, tmp_path):
    """Of real and complex signals, whole and one-sided, forward and back."""
    x, z = normal(2, n, 1), normal(2, n, 2, seed=1)
    c = z[..., 0].astype(float) + 1j * z[..., 1]
    real = x[..., 0].astype(float)
    half = c[:, : n // 2 + 1]
    for opset in (17, 20):
        at = {"axis": 1} if opset < 20 else {}
        run = lambda given, **a: one_frame(dft({**at, **a}, given, opset), given, tmp_path)  # noqa: B023, E731
        close(run(x), parts(np.fft.fft(real)))
        close(run(x, onesided=1), parts(np.fft.rfft(real)))
        close(run(z), parts(np.fft.fft(c)))
        close(run(z, inverse=1), parts(np.fft.ifft(c)))
        close(run(x, inverse=1), parts(np.fft.ifft(real)))
        if n % 2 == 0:
            spectrum = parts(half).astype(np.float32)
            close(run(spectrum, onesided=1, inverse=1), np.fft.irfft(half, n))


@pytest.mark.parametrize("length", [1, 5, 9, 10, 12, 33])
def test_signals_are_cut_or_filled_to_the_length(length, tmp_path):
    x, z = normal(3, 10, 1), normal(3, 10, 2, seed=1)
    c = z[..., 0].astype(float) + 1j * z[..., 1]
    run = lambda given, **a: one_frame(dft(a, given, 20, length=length), given, tmp_path)  # noqa: E731
    close(run(x), parts(np.fft.fft(x[..., 0], length)))
    close(run(x, onesided=1), parts(np.fft.rfft(x[..., 0], length)))
    close(run(z), parts(np.fft.fft(c, length)))
    close(run(z, inverse=1), parts(np.fft.ifft(c, length)))
    close(run(z, inverse=1, onesided=1), np.fft.irfft(c, length))


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -3, -4])
def test_every_axis_but_the_last_can_be_transformed(axis, tmp_path):
    z = normal(3, 4, 5, 2)
    c = z[..., 0].astype(float) + 1j * z[..., 1]
    wanted = parts(np.fft.fft(c, axis=axis if axis >= 0 else axis + 1))
    close(one_frame(dft({}, z, 20, axis=axis), z, tmp_path), wanted)
    close(one_frame(dft({"axis": axis}, z, 17), z, tmp_path), wanted)


def test_a_transform_and_back_is_the_frame(tmp_path):
    """The spectrum of a frame, halved, and back: what a mask in the frequency domain does."""
    nodes = [
        N("DFT", ["x"], ["a"], axis=1, onesided=1),
        N("Mul", ["a", "half"], ["b"]),
        N("DFT", ["b"], ["y"], axis=1, onesided=1, inverse=1),
    ]
    x = normal(1, 480, 1)
    model = built(nodes, {"x": x.shape}, ["y"], {"half": np.float32(0.5)})
    close(one_frame(model, x, tmp_path), x / 2, 2e-6)


def peer(model: Any, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def stft(x: np.ndarray, step: int, window: Any, length: int | None, **attributes: Any) -> Any:
    arrays = {"step": np.int64(step)}
    arrays |= {} if window is None else {"window": np.asarray(window, np.float32)}
    arrays |= {} if length is None else {"length": np.int64(length)}
    names = [name if name in arrays else "" for name in ("window", "length")]
    node = N("STFT", ["x", "step", *names], ["y"], **attributes)
    return built([node], {"x": x.shape}, ["y"], arrays)


@pytest.mark.parametrize(
    ("shape", "step", "window", "length", "onesided"),
    [
        ((1, 640, 1), 160, np.hanning(400), 400, 1),
        ((1, 640, 1), 7, np.hamming(64), None, 1),
        ((1, 640), 64, None, 64, 1),
        ((1, 50, 1), 100, np.blackman(50), None, 1),
        ((1, 130, 1), 33, np.hanning(31), 31, 0),
        ((1, 130, 2), 33, np.hanning(32), 32, 0),
        ((1, 40, 1), 1, None, 1, 1),
    ],
)
def test_short_time_transforms_within_a_frame(shape, step, window, length, onesided, tmp_path):
    x = normal(*shape)
    signal = x.reshape(shape[1], -1).astype(float) @ ([1, 1j] if shape[-1] == 2 else [1])
    points = length or len(window)
    begins = range(0, len(signal) - points + 1, step)
    frames = np.array([signal[b : b + points] for b in begins])
    spectra = np.fft.fft(frames if window is None else frames * window)
    wanted = parts(spectra[:, : points // 2 + 1] if onesided else spectra)
    model = stft(x, step, window, length, onesided=onesided)
    got = one_frame(model, x, tmp_path)
    close(got, wanted)
    if len(shape) == 3:
        close(got, peer(model, x), 1e-4)  # onnxruntime: 3e-5 from NumPy where 400 points


def test_without_window_and_length_the_whole_signal_is_transformed(tmp_path):
    x = normal(1, 24, 1)
    close(one_frame(stft(x, 5, None, None), x, tmp_path), parts(np.fft.rfft(x[0, :, 0])))


WINDOWS = {"HannWindow": np.hanning, "HammingWindow": None, "BlackmanWindow": np.blackman}


def hamming(n: int) -> np.ndarray:
    """Return ONNX's Hamming window, whose numbers are 25 / 46, not the usual 0.54."""
    return 25 / 46 - 21 / 46 * np.cos(2 * np.pi * np.arange(n) / (n - 1))


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("datatype", [1, 11])
@pytest.mark.parametrize("size", [2, 9, 400, 4096])
def test_windows_are_computed(kind, datatype, size, tmp_path):
    of_size = WINDOWS[kind] or hamming
    for periodic in (0, 1):
        nodes = [
            N(kind, ["size"], ["w"], periodic=periodic, output_datatype=datatype),
            N("Cast", ["w"], ["v"], to=1),
            N("Mul", ["x", "v"], ["y"]),
        ]
        x = np.ones((1, size), np.float32)
        model = built(nodes, {"x": x.shape}, ["y"], {"size": np.int64(size)})
        got = one_frame(model, x, tmp_path)
        wanted = of_size(size + 1)[:-1] if periodic else of_size(size)
        assert np.abs(got.ravel() - wanted).max() < 5e-7
        assert np.abs(got.ravel() - peer(model, x).ravel()).max() < 1e-6


MEL = [
    (8, 16, 8192, 0.0, 4096.0),
    (40, 512, 16000, 20.0, 7600.0),
    (80, 1024, 22050, 0.0, 8000.0),
    (23, 256, 8000, 125.0, 3800.0),
]


@pytest.mark.parametrize("numbers", MEL)
def test_mel_bands_are_those_of_onnxruntime(numbers, tmp_path):
    bands, points, *_, low, high = numbers
    names = ["bands", "points", "rate", "low", "high"]
    nodes = [N("MelWeightMatrix", names, ["m"]), N("MatMul", ["x", "m"], ["y"])]
    arrays = {n: np.array(v, np.int64) for n, v in zip(names, numbers[:3], strict=False)}
    arrays |= {"low": np.float32(low), "high": np.float32(high)}
    x = normal(1, points // 2 + 1)
    model = built(nodes, {"x": x.shape}, ["y"], arrays)
    got = one_frame(model, x, tmp_path)
    assert got.size == bands
    close(got, peer(model, x))


def test_a_front_end_in_the_graph_streams_with_the_recurrence(tmp_path):
    """Window, transform, power, mel bands, logarithm, GRU: 100 frames, the state fed back."""
    names = ["bands", "points", "rate", "low", "high"]
    nodes = [
        N("HannWindow", ["points"], ["w"]),
        N("STFT", ["x", "hop", "w"], ["s"]),
        N("Mul", ["s", "s"], ["s2"]),
        N("ReduceSum", ["s2", "minus"], ["p"], keepdims=0),
        N("MelWeightMatrix", names, ["m"]),
        N("MatMul", ["p", "m"], ["b"]),
        N("Add", ["b", "eps"], ["c"]),
        N("Log", ["c"], ["d"]),
        N("Reshape", ["d", "flat"], ["e"]),
        N("GRU", ["e", "W", "R", "", "", "h_in"], ["y", "h_out"], hidden_size=4),
    ]
    arrays = {
        "bands": np.int64(6), "points": np.int64(64), "rate": np.int64(8000), "hop": np.int64(32),
        "low": np.float32(0), "high": np.float32(4000), "minus": np.array([-1]),
        "flat": np.array([1, 1, 18]), "eps": np.float32(1e-3),
        "W": normal(1, 12, 18) / 4, "R": normal(1, 12, 4),
    }  # fmt: skip
    inputs = {"x": (1, 128, 1), "h_in": (1, 1, 4)}
    model = built(nodes, inputs, ["y", "h_out"], arrays)
    stream = sr.load(written(model, tmp_path)).stream()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    h = np.zeros((1, 1, 4), np.float32)
    for frame in normal(100, 1, 128, 1):
        y, h = session.run(None, {"x": frame, "h_in": h})
        got = stream.step(frame.reshape(stream.program.inputs[0].shape))
        assert np.abs(got.ravel() - y.ravel()).max() < 2e-5


def test_a_transform_of_every_frame_of_a_sequence(tmp_path):
    node = N("DFT", ["x", "length"], ["y"], onesided=1)
    model = built([node], {"x": (1, "frames", 12, 1)}, ["y"], {"length": np.int64(16)}, 20)
    x = normal(40, 12)
    got = sr.load(written(model, tmp_path)).stream().run(x[..., None])
    close(got, parts(np.fft.rfft(x, 16)))


# Over time --------------------------------------------------------------------------------------


def over_samples(model: Any, x: np.ndarray, first: int, hop: int, tmp_path: Any) -> sr.Model:
    """Compare a stream of samples with the whole signal in onnxruntime; return the model.

    A frame comes every `hop` samples, the first one with sample `first`.
    """
    read = sr.load(written(model, tmp_path))
    whole = peer(model, x)
    frames = np.moveaxis(whole, 1, 0)
    samples = np.ascontiguousarray(x.reshape(x.shape[1], *read.graph().inputs["x"].shape))
    stream = read.stream()
    stream.run(samples[5:400])
    stream.reset()
    steps = [stream.step(sample) for sample in samples]
    came = [t for t, y in enumerate(steps) if y is not None]
    assert came == list(range(first, len(samples), hop))
    got = np.array([steps[t] for t in came])
    wanted = frames[: len(got)]
    assert len(wanted) >= len(got) - 1
    close(got[: len(wanted)], wanted, 2e-4)
    stream.reset()
    edges = (0, 1, 1, 70, 300, 333, len(samples))
    blocks = [stream.run(samples[a:b]) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(blocks), got)
    return read


def opened(model: Any, *shape: Any) -> Any:
    """Return the model with another shape of its input."""
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, shape))
    return model


@pytest.mark.parametrize(
    ("width", "step", "window", "length", "onesided"),
    [
        ((1,), 32, np.hanning(64), None, 1),
        ((1,), 7, np.hamming(16), 16, 1),
        ((), 40, None, 16, 1),
        ((1,), 1, np.blackman(9), 9, 0),
        ((2,), 16, np.hanning(32), 32, 0),
        ((1,), 3, None, 1, 1),
        ((1,), 512, np.hanning(1024), None, 1),
    ],
)
def test_short_time_transforms_over_samples(width, step, window, length, onesided, tmp_path):
    points = length or len(window)
    x = normal(1, max(700, 3 * points), *width)
    model = stft(x, step, window, length, onesided=onesided)
    over_samples(opened(model, 1, "samples", *width), x, points - 1, step, tmp_path)


@pytest.mark.parametrize(("before", "after"), [(16, 16), (31, 0), (40, 3)])
def test_zeros_around_the_signal_are_part_of_its_frames(before, after, tmp_path):
    """A transform whose frames are centred sees half a window ahead."""
    model = stft(normal(1, 9, 1), 8, np.hanning(32), 32)
    model.graph.node[0].input[0] = "padded"
    pad = N("Pad", ["x", "pads"], ["padded"])
    model.graph.node.insert(0, pad)
    pads = np.array([0, before, 0, 0, after, 0])
    model.graph.initializer.append(numpy_helper.from_array(pads, "pads"))
    first = 31 - before if before < 32 else 31  # beyond that the zeros are frames of their own
    x = normal(1, 500, 1)
    over_samples(opened(model, 1, "samples", 1), x, first, 8, tmp_path)


def test_a_spectrogram_and_a_recurrence_over_samples(tmp_path):
    """Samples in, and every 32 of them the state of a GRU over mel bands."""
    names = ["bands", "points", "rate", "low", "high"]
    nodes = [
        N("HannWindow", ["points"], ["w"]),
        N("STFT", ["x", "hop", "w"], ["s"]),
        N("Mul", ["s", "s"], ["s2"]),
        N("ReduceSum", ["s2", "minus"], ["p"], keepdims=0),
        N("MelWeightMatrix", names, ["m"]),
        N("MatMul", ["p", "m"], ["b"]),
        N("Add", ["b", "eps"], ["c"]),
        N("Log", ["c"], ["d"]),
        N("Transpose", ["d"], ["e"], perm=[1, 0, 2]),
        N("GRU", ["e", "W", "R"], ["f"], hidden_size=4),
        N("Squeeze", ["f", "one"], ["g"]),
        N("Transpose", ["g"], ["y"], perm=[1, 0, 2]),
    ]
    arrays = {
        "bands": np.int64(6), "points": np.int64(64), "rate": np.int64(8000), "hop": np.int64(32),
        "low": np.float32(0), "high": np.float32(4000), "minus": np.array([-1]),
        "one": np.array([1]), "eps": np.float32(1e-3),
        "W": normal(1, 12, 6) / 4, "R": normal(1, 12, 4),
    }  # fmt: skip
    model = built(nodes, {"x": (1, "samples", 1)}, ["y"], arrays)
    read = over_samples(model, normal(1, 3000, 1), 63, 32, tmp_path)
    assert read.delay_frames == 63


# What is refused, and ONNX's own tests ----------------------------------------------------------

REFUSED = {
    "real one-sided back": (
        dft({"axis": 1, "onesided": 1, "inverse": 1}, normal(1, 8, 1), 17),
        r"onesided=1 and inverse=1 of a signal of shape \(1, 8, 1\)",
    ),
    "complex one-sided": (
        dft({"axis": 1, "onesided": 1}, normal(1, 8, 2), 17),
        r"onesided=1 and inverse=0 of a signal of shape \(1, 8, 2\)",
    ),
    "last axis": (
        dft({}, normal(1, 8, 2), 20, axis=-1),
        r"the last axis of \(1, 8, 2\) holds real and imaginary part",
    ),
    "no such axis": (dft({}, normal(1, 8, 2), 20, axis=5), r"has no axis 5"),
    "an axis where it is an input": (
        dft({"axis": 1}, normal(1, 8, 2), 20),
        r"attribute.* axis",
    ),
    "three parts": (dft({}, normal(1, 8, 3), 20), r"size 1 \(real\) or 2 \(complex\)"),
    "too long": (
        dft({}, normal(1, 8, 1), 20, length=10**12),
        r"a transform of 1000000000000 points: supported are 1 to 4096",
    ),
    "too short": (dft({}, normal(1, 8, 1), 20, length=0), r"a transform of 0 points"),
    "two lengths": (
        dft({}, normal(1, 8, 1), 20, length=[4, 4]),
        r"dft_length must be one number, got \[4, 4\]",
    ),
    "no hop": (stft(normal(1, 9, 1), 0, None, 4), r"frames of 4 every 0 samples of 9"),
    "longer than the frame": (stft(normal(1, 9, 1), 1, None, 10), r"frames of 10 every 1"),
    "window of another length": (
        stft(normal(1, 9, 1), 1, np.ones(5), 4),
        r"a window of shape \(5,\) for frames of 4",
    ),
    "complex one-sided frames": (
        stft(normal(1, 9, 2), 1, None, 4),
        r"onesided=1 of a complex signal",
    ),
    "no hop over samples": (
        opened(stft(normal(1, 9, 1), 0, None, 4), 1, "samples", 1),
        r"frames of 4 every 0 samples",
    ),
    "no length over samples": (
        opened(stft(normal(1, 9, 1), 2, None, None), 1, "samples", 1),
        r"the length of a frame is not said",
    ),
    "a transform of the whole sequence": (
        opened(dft({"axis": 1}, normal(1, 9, 1), 17), 1, "samples", 1),
        r"\(DFT\): it works across the time axis \(axis 1 of shape \(1, time, 1\)\)",
    ),
    "an axis without a name": (
        opened(dft({}, normal(1, 9, 4, 1), 20, length=4), 1, "frames", 4, 1),
        r"empty name, at which onnxruntime ends the process: leave it out",
    ),
    "two signals": (stft(normal(2, 9, 1), 1, None, 4), r"only one signal"),
    "half-precision window": (
        around(
            [N("HannWindow", ["n"], ["w"], output_datatype=10), N("Add", ["v", "w"], ["y"])],
            (1, 4),
            {"n": np.int64(4)},
        ),
        r"a window of FLOAT16 is not supported",
    ),
    "endless window": (
        around(
            [N("HannWindow", ["n"], ["w"]), N("Add", ["v", "w"], ["y"])],
            (1, 4),
            {"n": np.int64(10**12)},
        ),
        r"would make 1000000000000 numbers",
    ),
    "endless bands": (
        around(
            [N("MelWeightMatrix", list("npqrs"), ["w"]), N("MatMul", ["v", "w"], ["y"])],
            (1, 4),
            {"n": np.int64(10**5), "p": np.int64(10**5), "q": np.int64(8000),
             "r": np.float32(0), "s": np.float32(4000)},
        ),
        r"would make \d+ numbers",
    ),
    "an image": (
        around([N("ImageDecoder", ["v"], ["y"])], (1, 4), {}, opset=20),
        r"\(ImageDecoder\): this operator is not supported",
    ),
    "many large transforms": (
        built(
            [N("DFT", ["x", "n"], [f"y{i}"]) for i in range(9)],
            {"x": (1, 4096, 2)},
            [f"y{i}" for i in range(9)],
            {"n": np.int64(4000)},
            20,
        ),
        r"node 2 \(DFT\): would make 64000000 numbers, which are too many",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(case, tmp_path):
    model, reason = REFUSED[case]
    with pytest.raises(sr.FileError, match=reason):
        sr.load(written(model, tmp_path))


KINDS = ("DFT", "STFT", "MelWeightMatrix", "HannWindow", "HammingWindow", "BlackmanWindow")


def node_tests(*kinds: str) -> list[Any]:
    """Return ONNX's own tests of some operators."""
    return [c for c in node_cases() if c.model.graph.node[0].op_type in kinds]


def node_test_arrays(case: Any) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Return a node test's inputs by name, and the outputs that are wanted."""
    graph = case.model.graph
    ((given, wanted),) = case.data_sets
    as_array = lambda t: t if isinstance(t, np.ndarray | np.generic) else numpy_helper.to_array(t)  # noqa: E731
    names = [i.name for i in graph.input]
    return dict(zip(names, map(as_array, given), strict=True)), [as_array(w) for w in wanted]


@pytest.mark.parametrize("case", node_tests(*KINDS), ids=lambda c: c.name)
def test_onnx_node_tests(case, tmp_path):
    """The signal is the frame, all else is constant; windows and bands are added to a frame."""
    given, (wanted,) = node_test_arrays(case)
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    name = model.graph.input[0].name
    if case.model.graph.node[0].op_type in ("DFT", "STFT"):
        frame = given.pop(name)
    else:
        output, frame = model.graph.node[0].output[0], np.zeros(wanted.shape, np.float32)
        model.graph.node.append(N("Add", ["frame", output], ["sum"]))
        model.graph.input.add().CopyFrom(
            onnx.helper.make_tensor_value_info("frame", 1, wanted.shape)
        )
        del model.graph.output[:]
        model.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info("sum", 1, None))
    got = one_frame(model, frame, tmp_path, constants=given)
    close(got, wanted, 2e-6)
