"""ONNX's operators, one by one: as a step, and frame by frame over a sequence.

What they are held against is ONNX's own node tests (their arrays are made by NumPy) and onnxruntime
on the same graph.
"""

import fnmatch
import functools
import re

import numpy as np
import pytest

import streamrnn as sr
from node_cases import node_cases

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is what the models are held against")


F, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
RNG = np.random.default_rng(0)

# ONNX's own node tests ----------------------------------------------------------------------------

NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention BatchNormalization
Cast CastLike Ceil Celu Clip Compress Concat Cos Cosh CumSum Div Dropout Einsum Elu Equal
Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater
GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax LpNormalization MatMul Max Mean MeanVarianceNormalization Min Mish Mod Mul Neg
Not OneHot Or PRelu Pad Pow RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
Reshape ReverseSequence RotaryEmbedding Round ScatterElements ScatterND Selu Shrink
Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tan
Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Where Xor
"""
REFUSED = {  # pattern of the test's name: what is said
    "test_attention_*past_and_present*": "does not depend on any input",
    "test_batchnorm_*training_mode": "training_mode=1",
    "test_dropout_*": "used by no output|does not depend on any input",
    "test_training_dropout*": "training_mode is not supported",
    "*_empty_set*": "cannot have the shape",
    "test_reshape_allowzero_reordered": "cannot have the shape",
    "test_reduce_*_noop_with_empty_axes*": "noop_with_empty_axes",
    "test_onehot_*": "depth must be constant|values must be constant",
    "test_scatter*_with_*reduction*": "the reduction|indices repeat",
    "test_scatter*_add*": "indices repeat",
    "test_scatter*_m*": "the reduction",
    "test_cast_*": "cannot become",
    "test_castlike_*": "cannot become",
    "test_clip_*": "used by no output",
    "test_identity_*": "is no tensor but of the type",
    "test_scatter_elements_with_duplicate_indices": "indices repeat",
    "test_slice_start_out_of_bounds": "nothing of shape",
    "test_split_zero_size_splits*": "cannot have the shape|leaves nothing",
    "test_*": "input .* is (DOUBLE|FLOAT16|BFLOAT16|FLOAT8|FLOAT4|INT|UINT|STRING|BOOL)",
}
WITHOUT_FLOAT32 = (
    "And", "Cast", "CastLike", "CumSum", "Einsum", "Equal", "Not", "OneHot", "Or",
    "ReduceLogSumExp", "Trilu", "Xor",
)  # fmt: skip
"""Operators whose cases take other kinds of numbers; they are held against onnxruntime below."""
SLOW = ("test_attention_*softcap*", "test_attention_*mask*", "test_attention_*gqa*")


@functools.cache
def node_tests():
    """Return the node tests of each operator, without those of the bodies of functions."""
    found = {}
    for case in node_cases():
        skipped = "expanded" in case.name or any(fnmatch.fnmatch(case.name, p) for p in SLOW)
        if case.model and not skipped:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def read_case(case, tmp_path):
    """Return the stream of a node test, its frame and what is expected; None without a float32."""
    names = [i.name for i in case.model.graph.input]
    arrays, wanted = case.data_sets[0]
    given = dict(zip(names, map(np.asarray, arrays), strict=True))
    floats = [n for n, x in given.items() if x.dtype == np.float32]
    weights = case.model.graph.node[0].op_type.endswith("Normalization") or "clip" in case.name
    symbolic = floats[:1] if weights or "pad" in case.name else floats
    if not symbolic:
        return None
    onnx.save(case.model, tmp_path / "m.onnx")
    constants = {n: x for n, x in given.items() if n not in symbolic}
    shapes = {n: given[n].shape for n in symbolic}
    model = sr.load(tmp_path / "m.onnx", constants=constants, shapes=shapes, states={})
    inputs = model.graph().inputs
    frames = tuple(given[n].reshape(inputs[n].shape) for n in symbolic)
    return model.stream(on_nonfinite="propagate"), frames, wanted


@pytest.mark.parametrize("kind", NAMES.split())
def test_onnx_own_tests_of_an_operator(kind, tmp_path):
    """Every one gives the expected numbers or is refused with a reason; not all are refused."""
    right = 0
    for case in node_tests()[kind]:
        try:
            found = read_case(case, tmp_path)
        except sr.FileError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            reasons = [r for p, r in REFUSED.items() if fnmatch.fnmatch(case.name, p)]
            assert any(re.search(r, refusal) for r in reasons), f"{case.name}: {refusal}"
            continue
        if found is None:
            continue
        stream, frames, wanted = found
        got = stream.step(frames if len(frames) > 1 else frames[0])
        for a, b in zip(got if isinstance(got, tuple) else (got,), wanted, strict=False):
            b = np.asarray(b).astype(np.float64)
            assert a.size == b.size, case.name
            np.testing.assert_allclose(a.reshape(b.shape), b, 2e-5, 2e-5, err_msg=case.name)
        right += 1
    assert right or kind in WITHOUT_FLOAT32


def test_constants_are_computed_as_by_onnxs_evaluator():
    """Its operators run without it, which is faster: the same numbers of the same kind."""
    from onnx.reference import ReferenceEvaluator

    from streamrnn.importers.onnx.known import COMPUTED, _run_alone, computed

    kinds, by_evaluator = set(), set()
    for case in node_cases():
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        (node,), opset = case.model.graph.node, case.model.opset_import[0].version
        random = node.op_type in ("Dropout", "Bernoulli")
        if node.op_type not in COMPUTED or node.domain or opset < 9 or random:
            continue
        arrays = [
            onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)
            for x in case.data_sets[0][0]
        ]
        given = iter(arrays)
        args = [next(given) if name else None for name in node.input]
        feeds = {name: x for name, x in zip(node.input, args, strict=True) if name}
        try:
            with np.errstate(all="ignore"):
                wanted = ReferenceEvaluator(case.model).run(None, feeds)
        except Exception:  # what it does not do, we do not either
            with pytest.raises(Exception, match="cannot be computed"):
                computed(node, args, opset)
            continue
        found = [x for x, n in zip(computed(node, args, opset), node.output, strict=True) if n]
        for x, y in zip(map(np.asarray, found), map(np.asarray, wanted), strict=True):
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), case.name
        kinds.add(node.op_type)
        with np.errstate(all="ignore"):
            try:
                _run_alone(node, args, opset)
            except Exception:  # a function, whose body the evaluator runs
                by_evaluator.add(node.op_type)
    assert len(kinds) > 80
    assert len(by_evaluator) < 20, by_evaluator


# Against onnxruntime ------------------------------------------------------------------------------


def graph(path, nodes, weights, shape, opset=18):
    """Write a graph with the input x and the output y."""
    helper = onnx.helper
    made = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        "g",
        [helper.make_tensor_value_info("x", F, shape)],
        [helper.make_tensor_value_info("y", F, None)],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(made, opset_imports=imports, ir_version=9), path)
    return path


def normal(*shape, scale=1.0):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


FLOAT = {"to": F}
TRUTH = [
    ("Greater", ["x", "zero"], ["p"], {}),
    ("Less", ["x", "one"], ["q"], {}),
]
AS_NUMBER = ("Cast", ["r"], ["y"], FLOAT)
NUMBERS = {"zero": np.float32(0), "one": np.float32(1)}
CHAINS = {
    "And": ([*TRUTH, ("And", ["p", "q"], ["r"], {}), AS_NUMBER], NUMBERS),
    "Or": ([*TRUTH, ("Or", ["p", "q"], ["r"], {}), AS_NUMBER], NUMBERS),
    "Xor": ([*TRUTH, ("Xor", ["p", "q"], ["r"], {}), AS_NUMBER], NUMBERS),
    "Not": ([*TRUTH, ("Not", ["p"], ["r"], {}), AS_NUMBER], NUMBERS),
    "Where": ([*TRUTH, ("Where", ["p", "x", "q1"], ["y"], {})], NUMBERS | {"q1": normal(4)}),
    "Cast to int": (
        [("Mul", ["x", "ten"], ["a"], {}), ("Cast", ["a"], ["r"], {"to": INT64}), AS_NUMBER],
        {"ten": np.float32(10)},
    ),
    "Equal": (
        [
            ("Round", ["x"], ["a"], {}),
            ("Equal", ["a", "one"], ["r"], {}),
            AS_NUMBER,
        ],
        NUMBERS,
    ),
    "CumSum": ([("CumSum", ["x", "axis"], ["y"], {})], {"axis": np.array(-1)}),
    "CumSum backwards": (
        [("CumSum", ["x", "axis"], ["y"], {"exclusive": 1, "reverse": 1})],
        {"axis": np.array(-1)},
    ),
    "Einsum": (
        [("Einsum", ["x", "w"], ["y"], {"equation": "btk,kj->btj"})],
        {"w": normal(4, 5)},
    ),
    "Einsum turned": (
        [("Einsum", ["w", "x"], ["y"], {"equation": "jk,btk->tbj"})],
        {"w": normal(5, 4)},
    ),
    "ReduceLogSumExp": ([("ReduceLogSumExp", ["x", "axis"], ["y"], {})], {"axis": np.array([-1])}),
    "OneHot": (
        [
            ("ArgMax", ["x"], ["i"], {"axis": -1, "keepdims": 0}),
            ("OneHot", ["i", "depth", "values"], ["y"], {}),
        ],
        {"depth": np.array(4), "values": np.array([0.25, 2], np.float32)},
    ),
    "scale and shift": (
        [("Mul", ["x", "w"], ["a"], {}), ("Sub", ["b", "a"], ["y"], {})],
        {"w": normal(4), "b": normal(4)},
    ),
    "GELU": ([("Gelu", ["x"], ["y"], {"approximate": "tanh"})], {}, 20),
    "MatMul on the left": (
        [
            ("Transpose", ["x"], ["t"], {"perm": [1, 2, 0]}),
            ("MatMul", ["w", "t"], ["z"], {}),
            ("Transpose", ["z"], ["y"], {"perm": [2, 0, 1]}),
        ],
        {"w": normal(3, 4)},
    ),
    "ReduceL2": ([("ReduceL2", ["x", "axis"], ["y"], {})], {"axis": np.array([2])}),
    "Clip": ([("Clip", ["x", "zero"], ["y"], {})], NUMBERS),
    "Pow": ([("Abs", ["x"], ["a"], {}), ("Pow", ["a", "k"], ["y"], {})], {"k": np.float32(1.7)}),
    "Sin, Cos": (
        [
            ("Sin", ["x"], ["a"], {}),
            ("Cos", ["x"], ["b"], {}),
            ("Mul", ["a", "b"], ["y"], {}),
        ],
        {},
    ),
    "ScatterND": (
        [("ScatterND", ["x", "i", "u"], ["y"], {})],
        {"i": np.array([[0, 0, 1]]), "u": np.array([5.0], np.float32)},
        16,
        "step",
    ),
    "LpNormalization": ([("LpNormalization", ["x"], ["y"], {"axis": -1, "p": 2})], {}),
    "FusedMatMul": (
        [("FusedMatMul", ["x", "w"], ["y"], {"alpha": 0.5, "domain": "com.microsoft"})],
        {"w": normal(4, 3)},
        18,
        "step",
    ),
}

WHOLE = {"i32": np.array([7, -2, 3, 2], np.int32), "two": np.array(2, np.int64)}
CHAINS |= {
    "Div of integers": (
        [
            ("Mul", ["x", "ten"], ["a"], {}),
            ("Cast", ["a"], ["i"], {"to": 6}),
            ("Div", ["i", "i32"], ["q"], {}),
            ("Cast", ["q"], ["y"], FLOAT),
        ],
        {"ten": np.float32(10), **WHOLE},
    ),
    "Div of integers as numbers": (
        [
            ("Cast", ["x"], ["i"], {"to": 6}),
            ("Cast", ["i"], ["f"], FLOAT),
            ("Div", ["f", "three"], ["y"], {}),
        ],
        {"three": np.float32(3)},
    ),
    "Mod of integers": (
        [
            ("Cast", ["x"], ["i"], {"to": 6}),
            ("Mod", ["i", "i32"], ["q"], {}),
            ("Cast", ["q"], ["y"], FLOAT),
        ],
        WHOLE,
    ),
    "Split with an empty part": (
        [
            ("Split", ["x", "sizes"], ["a", "nothing", "b"], {"axis": -1}),
            ("Concat", ["b", "nothing", "a"], ["y"], {"axis": -1}),
        ],
        {"sizes": np.array([1, 0, 3])},
    ),
    "OneHot whose depth is a float": (
        [
            ("ArgMax", ["x"], ["i"], {"axis": -1, "keepdims": 0}),
            ("OneHot", ["i", "depth", "values"], ["y"], {}),
        ],
        {"depth": np.float32(5), "values": np.array([-1, 1], np.float32)},
    ),
    "infinite constants": (
        [
            ("Greater", ["x", "zero"], ["p"], {}),
            ("Where", ["p", "x", "inf"], ["a"], {}),
            ("Max", ["a", "low"], ["y"], {}),
        ],
        {"inf": np.float32(-np.inf), "low": normal(4), **NUMBERS},
    ),
    "Softmax of opset 11": ([("Softmax", ["x"], ["y"], {"axis": 2})], {}, 11),
    "Hardmax": ([("Hardmax", ["x"], ["y"], {})], {}, 13),
    "bounds of Clip in the wrong order": ([("Clip", ["x", "one", "zero"], ["y"], {})], NUMBERS),
    "Clip of opset 9": ([("Clip", ["x"], ["y"], {"min": -0.5})], {}, 9),
    "Shrink of opset 9": ([("Shrink", ["x"], ["y"], {"bias": 0.5, "lambd": 0.7})], {}, 9),
    "Celu": ([("Celu", ["x"], ["y"], {"alpha": 0.3})], {}, 12),
    "PRelu": ([("PRelu", ["x", "w"], ["y"], {})], {"w": normal(4)}, 16),
    "Mish": ([("Mish", ["x"], ["y"], {})], {}, 18),
    "Reduce of opset 11": (
        [("ReduceSumSquare", ["x"], ["y"], {"axes": [-1], "keepdims": 0})],
        {},
        11,
    ),
    "product of two values": (
        [
            ("Unsqueeze", ["x", "last"], ["column"], {}),
            ("Unsqueeze", ["x", "third"], ["row"], {}),
            ("MatMul", ["column", "row"], ["m"], {}),
            ("ReduceMax", ["m", "last"], ["y"], {}),
        ],
        {"last": np.array([3]), "third": np.array([2])},
    ),
    "Einsum of two values": ([("Einsum", ["x", "x"], ["y"], {"equation": "btk,btj->btkj"})], {}),
    "Einsum to a sum": ([("Einsum", ["x", "x"], ["y"], {"equation": "btk,btk->bt"})], {}),
    "MatMul of planes": (
        [
            ("Unsqueeze", ["x", "first"], ["p"], {}),
            ("MatMul", ["p", "w"], ["z"], {}),
            ("Transpose", ["z"], ["y"], {"perm": [1, 2, 0, 3]}),
        ],
        {"w": normal(3, 1, 4, 5), "first": np.array([0])},
    ),
    "SkipLayerNormalization": (
        [
            ("Neg", ["x"], ["n"], {}),
            ("Exp", ["n"], ["e"], {}),
            (
                "SkipLayerNormalization",
                ["x", "e", "g", "b", "c"],
                ["y"],
                {"epsilon": 1e-4, "domain": "com.microsoft"},
            ),
        ],
        {"g": normal(4), "b": normal(4), "c": normal(4)},
    ),
    "BiasGelu": (
        [("BiasGelu", ["x", "b"], ["y"], {"domain": "com.microsoft"})],
        {"b": normal(4)},
    ),
    "FastGelu": (
        [("FastGelu", ["x", "b"], ["y"], {"domain": "com.microsoft"})],
        {"b": normal(4)},
    ),
    "QuickGelu": ([("QuickGelu", ["x"], ["y"], {"domain": "com.microsoft"})], {}),
    "Pad of two axes with a number": (
        [("Pad", ["x", "pads", "fill"], ["y"], {})],
        {"pads": np.array([0, 0, -1, 0, 0, 2]), "fill": np.float32(0.5)},
    ),
    "Tile": ([("Tile", ["x", "r"], ["y"], {})], {"r": np.array([1, 1, 3])}),
    "Trilu": (
        [
            ("Unsqueeze", ["x", "last"], ["c"], {}),
            ("Expand", ["c", "square"], ["m"], {}),
            ("Trilu", ["m"], ["y"], {"upper": 0}),
        ],
        {"last": np.array([3]), "square": np.array([1, 1, 1, 4])},
    ),
}


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("name", CHAINS)
def test_an_operator_is_onnxruntimes_as_a_step_and_over_a_sequence(name, form, tmp_path):
    nodes, weights, *rest = CHAINS[name]
    opset = rest[0] if rest else 18
    if form == "sequence" and "step" in rest:
        with pytest.raises(sr.FileError, match="over the frames of a sequence"):
            sr.load(graph(tmp_path / "m.onnx", nodes, weights, [1, "time", 4], opset))
        return
    shape = [1, "time" if form == "sequence" else 1, 4]
    path = graph(tmp_path / "m.onnx", nodes, weights, shape, opset)
    x = normal(1, 40, 4, scale=2)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if form == "sequence":
        (whole,) = session.run(None, {"x": x})
    else:
        parts = [session.run(None, {"x": x[:, t : t + 1]})[0] for t in range(40)]
        whole = np.concatenate([p.reshape(1, -1) for p in parts])
    stream = sr.load(path).stream()
    got = np.array([stream.step(frame).reshape(-1) for frame in x[0]])
    wanted = whole.reshape(40, -1)
    assert np.abs(got - wanted).max() < 2e-5 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([("ReduceL2", ["x", "i"], ["y"], {})], {"i": np.array([1])}),
        ([("ArgMax", ["x"], ["y"], {"axis": 1})], {}),
        ([("Softmax", ["x"], ["y"], {"axis": 1})], {}),
        ([("Hardmax", ["x"], ["y"], {"axis": 1})], {}),
        ([("CumSum", ["x", "i"], ["y"], {"reverse": 1})], {"i": np.array(1)}),
        ([("LpNormalization", ["x"], ["y"], {"axis": 1})], {}),
        ([("LayerNormalization", ["x", "w"], ["y"], {"axis": 1})], {"w": normal(4)}),
        ([("MatMul", ["w", "x"], ["y"], {})], {"w": normal(3, 10007)}),
        (
            [("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["y"], {})],
            {},
        ),
        (
            [("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["t", "x"], ["y"], {})],
            {},
        ),
        ([("Einsum", ["x", "x"], ["y"], {"equation": "btk,btj->bkj"})], {}),
        ([("Einsum", ["x", "x"], ["y"], {"equation": "btk,bsk->bts"})], {}),
        ([("Tile", ["x", "i"], ["y"], {})], {"i": np.array([1, 2, 1])}),
        ([("Trilu", ["x"], ["y"], {})], {}),
        ([("InstanceNormalization", ["x", "w", "w"], ["y"], {})], {"w": normal(10007)}),
        ([("MeanVarianceNormalization", ["x"], ["y"], {"axes": [1]})], {}),
    ],
    ids=str,
)
def test_what_mixes_the_frames_of_a_sequence_is_refused(nodes, weights, tmp_path):
    path = graph(tmp_path / "m.onnx", nodes, weights, [1, "time", 4])
    with pytest.raises(sr.FileError, match="that needs the whole sequence"):
        sr.load(path)


@pytest.mark.parametrize(
    ("node", "weights", "message"),
    [
        (("Cast", ["x"], ["y"], {"to": 10}), {}, "cannot become FLOAT16"),
        (("TopK", ["x", "k"], ["y", "i"], {}), {"k": np.array([2])}, "operator is not supported"),
        (("Einsum", ["x"], ["y"], {"equation": "btt->bt"}), {}, "or repeats"),
        (("Pad", ["x", "p"], ["y"], {"mode": "reflect"}), {"p": np.full(6, 1)}, "do not fit"),
        (("Gather", ["x", "k"], ["y"], {"axis": 2}), {"k": np.array([9])}, "has no entry 9"),
        (
            ("BatchNormalization", list("xwwww"), ["y"], {"training_mode": 1}),
            {"w": normal(1)},
            "=1",
        ),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else "",
)
def test_what_an_operator_cannot_honour_it_refuses_by_name(node, weights, message, tmp_path):
    path = graph(tmp_path / "m.onnx", [node], weights, [1, 1, 4])
    with pytest.raises(sr.FileError, match=rf"\({node[0]}\).*{message}"):
        sr.load(path)


def test_a_bias_behind_a_product_costs_no_row_of_its_own(tmp_path):
    nodes = [
        ("MatMul", ["x", "w"], ["a"], {}),
        ("Add", ["b", "a"], ["c"], {}),
        ("Mul", ["c", "g"], ["y"], {}),
    ]
    weights = {"w": normal(4, 5), "b": normal(5), "g": normal(5)}
    path = graph(tmp_path / "m.onnx", nodes, weights, [1, 1, 4])
    model = sr.load(path)
    alone = sr.Sequential(sr.Linear(4, 5))
    assert len(model.program().tape) == len(alone.program().tape)
    x = normal(4)
    wanted = (x @ weights["w"] + weights["b"]) * weights["g"]
    assert np.abs(model.stream().step(x).ravel() - wanted).max() < 1e-6
