"""Step and sequence graphs of every op: open axes, chunks, delays, functions, operator sets."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.ops import REGISTRY
from zoo import CASES, trained

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="verification needs the extra `onnx`")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from streamrnn.export import to_onnx  # noqa: E402
from streamrnn_export import forms, recorder, step  # noqa: E402

TOLERANCE = 3e-5
OPSETS = range(step.MIN_OPSET, step.MAX_OPSET + 1)


class Slow(sr.LeakyReLU):
    """An op that asks how many frames there are, as a cell with a form of its own does."""

    def onnx(self, g, *xs):
        frames = [g.op("Gather", xs[0], g.ints(t), axis=0) for t in range(g.frames())]
        made = [g.op("LeakyRelu", x, alpha=self.negative_slope) for x in frames]
        return g.op("Concat", *made, axis=0)


class Count(sr.GRUCell):
    """A cell that writes itself step by step, though it has a node of its own."""

    def onnx(self, g, *xs):
        g.frames()
        return super().onnx(g, *xs)


def _begun_at(layer, value):
    """Let the states of an op begin at other numbers than zero."""
    shapes = layer.state_shapes((4,))
    layer.initial_state = {n: np.full(s, value, np.float32) for n, s in shapes.items()}
    return layer


def _ahead(*layers, lookahead=2, stride=1):
    """Layers whose input begins later than the model's."""
    return sr.Sequential(sr.Conv1d(3, 4, 9, stride=stride, lookahead=lookahead), *layers)


def _loop(before=None, after=None):
    x = sr.Input(3)
    read = before(x) if before else x
    h = sr.Past(4, name="memory")(read)
    new = sr.Tanh()(sr.Linear(read.shape[0], 4)(read) + sr.Linear(4, 4)(h))
    return sr.Model(x, after(new) if after else new, feedback={h: new})


def _two_loops():
    """One loop at the model's rate, and behind a stride another."""
    x = sr.Input(3)
    h = sr.Past(4)(x)
    new = sr.Tanh()(sr.Linear(3, 4)(x) + sr.Linear(4, 4)(h))
    z = sr.GRU(4, 4)(sr.Conv1d(4, 4, 3, stride=2, lookahead=1)(new))
    g = sr.Past(4)(z)
    last = sr.Tanh()(z + sr.Linear(4, 4)(g))
    return sr.Model(x, last, feedback={h: new, g: last})


def _loop_of_ops_with_states():
    x = sr.Input(3)
    h = sr.Past(4)()
    new = sr.Tanh()(sr.Delay(2)(sr.Conv1d(4, 4, 3)(sr.GRU(4, 4)(sr.Linear(3, 4)(x) + h))))
    return sr.Model(x, {"y": new, "h": h}, feedback={h: new})


def _loop_that_reads_nothing():
    x = sr.Input(3)
    h = sr.Past(3)()
    new = h * 0.5 + 1.0
    return sr.Model(x, x + new, feedback={h: new})


def _last_frame():
    x = sr.Input(3)
    h = sr.Past(3)()
    return sr.Model(x, x - h, feedback={h: x})


@dataclass
class Hard:
    """A model whose parts begin at different times, or depend on themselves."""

    build: object

    @cached_property
    def model(self):
        return trained(self.build())


HARD = {
    "a GRU": lambda: _ahead(sr.GRU(4, 5)),
    "a GRU that begins elsewhere": lambda: _ahead(_begun_at(sr.GRUCell(4, 5), 0.5)),
    "an LSTM behind a stride": lambda: _ahead(sr.LSTM(4, 5), lookahead=7, stride=3),
    "a convolution": lambda: _ahead(sr.Conv1d(4, 4, 3)),
    "strides": lambda: _ahead(sr.Conv1d(4, 4, 5, stride=2, lookahead=3), sr.GRU(4, 4), lookahead=3),
    "a delay": lambda: _ahead(sr.Delay(3)),
    "a delay that begins elsewhere": lambda: _ahead(_begun_at(sr.Delay(3), 0.5)),
    "a context": lambda: _ahead(sr.Context(3), sr.GRU(7, 3)),
    "recent": lambda: _ahead(sr.Recent(3, stride=2, lookahead=1), sr.Flatten(), sr.GRU(12, 3)),
    "a cell without a node": lambda: _ahead(Count(4, 5), sr.Conv1d(5, 4, 3, stride=2)),
    "an op that asks for its frames": lambda: _ahead(Slow(), stride=2),
    "a loop": lambda: _loop(sr.Conv1d(3, 3, 5, lookahead=2)),
    "a loop before a stride": lambda: _loop(after=sr.Conv1d(4, 2, 3, stride=2)),
    "a loop behind a stride": lambda: _loop(sr.Conv1d(3, 3, 5, stride=2, lookahead=3)),
    "two loops": _two_loops,
    "a loop of ops with states": _loop_of_ops_with_states,
    "a loop that reads nothing": _loop_that_reads_nothing,
    "the frame before": _last_frame,
}
HARD = {name: Hard(build) for name, build in HARD.items()}


def _cover():
    """Return the first case of each op."""
    seen, cases = set(), []
    for case in CASES:
        kinds = {type(node.op).__name__ for node in case.model.graph().nodes}
        if kinds - seen:
            cases.append(case)
            seen |= kinds
    assert seen >= REGISTRY.keys() - {"Slow", "Count", "Mute"} - {
        name for name, op in REGISTRY.items() if not op.__module__.startswith("streamrnn.")
    }
    return cases


COVER = _cover()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "m.onnx"


def _session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_op_over_sequences_equals_its_stream_whole_and_in_chunks(case, target):
    clock = case.model.program().clock
    T = (24 + clock.start // clock.stride) * clock.stride
    to_onnx(
        case.model,
        target,
        form="sequence",
        batch=None,
        frames=case.frames(T),
        tolerance=TOLERANCE,
    )


@pytest.mark.parametrize("batch", [3, None])
@pytest.mark.parametrize("case", COVER, ids=str)
def test_every_op_runs_several_streams_in_one_step_graph(case, batch, target):
    T = 8 * case.model.program().clock.stride
    to_onnx(case.model, target, batch=batch, frames=case.frames(T), tolerance=TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"form": "sequence"}, {"batch": None}], ids=str)
@pytest.mark.parametrize("name", HARD)
def test_parts_that_begin_later_and_loops(name, options, target):
    to_onnx(HARD[name].model, target, tolerance=TOLERANCE, **options)


@pytest.mark.parametrize("name", HARD)
def test_a_sequence_goes_on_step_by_step_and_back(name, target):
    """Three forms of one stream: whole; sequence, steps, sequence; our own stream."""
    model = HARD[name].model
    stride, waited = model.stride_frames, model.delay_frames // model.stride_frames
    runs = {}
    for form in ("sequence", "step"):
        to_onnx(model, target, form=form, verify=False)
        runs[form] = _session(target)
    states = {
        s["input"]: np.broadcast_to(
            np.reshape(np.float32(s["initial"]), s["shape"] if s["initial"] else ()), s["shape"]
        ).astype(np.float32)
        for s in json.loads(runs["step"].get_modelmeta().custom_metadata_map["streamrnn"])["states"]
    }
    names = [o.name for o in runs["step"].get_outputs()]
    assert names == [o.name for o in runs["sequence"].get_outputs()]
    (first, *_), (result, *_) = model.graph().inputs, model.graph().outputs
    xs = np.random.default_rng(1).standard_normal(((waited + 20) * stride, 3)).astype(np.float32)
    made, at = [], 0
    for form, calls in [("sequence", 2), *[("step", 1)] * (waited + 3), ("sequence", 15)]:
        x = xs[at : at + calls * stride, None]
        results = dict(zip(names, runs[form].run(names, {first: x, **states}), strict=True))
        states = {name: results[f"{name.removesuffix('_in')}_out"] for name in states}
        made.append(results[result][:, 0])
        at += calls * stride
    wanted = model.stream().run(xs)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    np.testing.assert_allclose(np.concatenate(made)[waited:], wanted, atol=TOLERANCE)


def skip_what_is_too_new(opset):
    """Skip operator sets that an older onnxruntime (the last one for Python 3.10) does not run."""
    version = tuple(map(int, ort.__version__.split(".")[:2]))
    if opset > 22 and version < (1, 32):
        pytest.skip(f"onnxruntime {ort.__version__} may not run operator set {opset}")


@pytest.mark.parametrize("opset", OPSETS)
def test_every_op_in_every_operator_set(opset, target):
    """The sets by turns as steps and over sequences, both forms of those where operators change."""
    skip_what_is_too_new(opset)
    for i, case in enumerate(COVER):
        for form in step.FORMS if opset in (13, 17, 18) else (step.FORMS[(opset + i) % 2],):
            frames = case.frames(8 * case.model.program().clock.stride)
            to_onnx(case.model, target, form=form, opset=opset, frames=frames, tolerance=TOLERANCE)
    model = onnx.load(target)
    assert model.opset_import[0].version == opset
    assert model.ir_version <= (8 if opset <= 18 else 12)


def test_the_default_needs_nothing_but_onnx_s_own_operators(target):
    """So it runs on every build of onnxruntime that is not made smaller by hand."""
    for case in COVER:
        for form in step.FORMS:
            to_onnx(case.model, target, form=form, verify=False)
            model = onnx.load(target)
            own = any(type(n.op) is sr.Int8LSTM for n in case.model.graph().nodes)  # as it runs it
            domains = {(o.domain, o.version) for o in model.opset_import}
            assert domains == {("", 17)} | ({("com.microsoft", 1)} if own else set())
            assert model.ir_version == 8
            assert not model.functions


@pytest.mark.parametrize("case", COVER, ids=str)
def test_every_op_as_a_function_is_one_node(case, target):
    T = 8 * case.model.program().clock.stride
    form = {"form": "sequence", "batch": None}
    to_onnx(case.model, target, functions=True, frames=case.frames(T), tolerance=TOLERANCE, **form)
    model = onnx.load(target)
    called = [node.op_type for node in model.graph.node if node.domain == "streamrnn"]
    assert {f.name for f in model.functions} == set(called)


def test_functions_are_named_after_the_op_and_shared_by_equal_ones(target):
    model = trained(sr.Sequential(Count(4, 4), Count(4, 4), sr.GRUCell(4, 4), sr.GELU()))
    to_onnx(model, target, form="sequence", functions=True)
    proto = onnx.load(target)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds == ["Count", "Count", "GRU", "Squeeze", "GELU"], "Count has a GRU node inside"


def test_a_cell_without_a_node_is_one_scan_and_as_a_function_one_node(target):
    class Leaky(sr.RNNCell):
        def onnx(self, g, *xs):
            w, h, made = self.full_weights(), g.state("h"), []
            for t in range(g.frames()):
                x = g.op("Gather", xs[0], g.constant(np.int64(t)), axis=0)
                z = g.op(
                    "Gemm", x, g.constant(w["weight_ih"], "W"), g.constant(w["bias_ih"]), transB=1
                )
                u = g.op(
                    "Gemm", h, g.constant(w["weight_hh"], "R"), g.constant(w["bias_hh"]), transB=1
                )
                h = g.op("Tanh", g.op("Add", z, u))
                made.append(g.op("Unsqueeze", h, g.ints(0)))
            g.next_state("h", h)
            return g.op("Concat", *made, axis=0)

    model = trained(sr.Sequential(Leaky(40, 40), Leaky(40, 40), Leaky(40, 40)))
    to_onnx(model, target, form="sequence", batch=None)
    assert [node.op_type for node in onnx.load(target).graph.node] == ["Scan"] * 3
    for form in step.FORMS:
        to_onnx(model, target, form=form, functions=True)
        proto = onnx.load(target)
        assert [node.op_type for node in proto.graph.node] == ["Leaky"] * 3
        assert {node.domain for node in proto.graph.node} == {"streamrnn"}
        assert [f.name for f in proto.functions] == ["Leaky"], "they differ in weights alone"
        assert "h_in" in proto.functions[0].input


def test_native_nodes_and_plain_operators_go_over_a_sequence_at_once(target):
    x = sr.Input(3)
    y = sr.LSTM(6, 4)(sr.GRU(5, 6)(sr.RNN(3, 5)(sr.Conv1d(3, 3, 3)(x))))
    to_onnx(sr.Model(x, y), target, form="sequence", batch=None)
    kinds = [node.op_type for node in onnx.load(target).graph.node]
    assert [k for k in kinds if k in ("RNN", "GRU", "LSTM")] == ["RNN", "GRU", "LSTM"]
    assert "Scan" not in kinds
    shapes = {v.name: v.shape for v in _session(target).get_inputs()}
    assert shapes["x"] == ["frames", "batch", 3]
    assert shapes["lstm_0.c_in"] == [1, "batch", 4]


def test_only_the_ops_of_a_loop_are_in_its_scan(target):
    to_onnx(_loop(sr.Conv1d(3, 3, 5), sr.Linear(4, 2)), target, form="sequence")
    graph = onnx.load(target).graph
    (scan,) = [node for node in graph.node if node.op_type == "Scan"]
    kinds = [node.op_type for node in scan.attribute[0].g.node]
    assert "Conv" not in kinds
    assert kinds.count("MatMul") == 1, "what feeds the loop and what reads it are outside"


def test_onnx_s_own_evaluator_says_the_same(target):
    """A second opinion: it shares no code with onnxruntime."""
    for name in ("GRUCell fed back 3-20", "feedback", "Conv1d 3-20", "LSTMCell 5-20"):
        case = next((c for c in CASES if c.name == name), None)
        if case is None:
            continue
        to_onnx(case.model, target, form="sequence")
        xs = case.frames(6)
        arrays = xs if isinstance(xs, tuple) else (xs,)
        names = case.model.graph().inputs
        feeds = {n: x[:, None] for n, x in zip(names, arrays, strict=True)}
        for value in _session(target).get_inputs():
            if value.name not in feeds:
                feeds[value.name] = np.zeros(value.shape, np.float32)
        made = ReferenceEvaluator(str(target)).run(None, feeds)[0]
        wanted = case.model.stream().run(xs)
        np.testing.assert_allclose(made[:, 0], wanted, atol=1e-4)


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("form", step.FORMS)
@pytest.mark.parametrize("name", ["two loops", "a cell without a node", "strides"])
def test_what_is_written_is_read_back(name, form, functions, target):
    model = HARD[name].model
    to_onnx(model, target, form=form, functions=functions, metadata={"sample_rate": 8000})
    loaded = sr.load(target)
    assert loaded.metadata == {"sample_rate": 8000}
    stride = model.stride_frames
    xs = np.random.default_rng(2).standard_normal((40 * stride, 3)).astype(np.float32)
    wanted = model.stream().run(xs)
    (frame,) = (v.shape for v in loaded.graph().inputs.values())
    got = loaded.stream().run(xs.reshape(-1, *frame))
    got = got.reshape(-1, *wanted.shape[1:])
    n = min(len(got), len(wanted))
    assert n > 20
    np.testing.assert_allclose(got[:n], wanted[:n], atol=TOLERANCE)


def test_several_streams_begin_where_one_does(target):
    model = sr.GRUCell(3, 2, seed=0)
    model.initial_state = {"h": np.array([0.5, -0.5])}
    to_onnx(model, target, batch=2)
    xs = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    got = sr.load(target).stream().run(xs)
    for stream in range(2):
        wanted = model.stream().run(np.ascontiguousarray(xs[:, stream]))
        np.testing.assert_allclose(got[:, stream], wanted, atol=1e-6)


SCRIPT = """
import sys
from streamrnn.export import to_onnx
import streamrnn as sr
x = sr.Input(3)
a = sr.Conv1d(3, 4, 5, stride=2, lookahead=3, seed=0)(x)
h = sr.Past(4)(a)
new = sr.Tanh()(a + h)
y = sr.LayerNorm(4)(sr.GRU(4, 4, 2, seed=1)(new))
model = sr.Model({"mel": x}, {"a": y, "b": new}, {"b": {"y": 1, "x": 2}}, {h: new})
for form in ("step", "sequence"):
    path = f"{sys.argv[1]}{form}.onnx"
    to_onnx(model, path, form=form, functions=True, metadata={"labels": list("abcd")})
"""


def test_another_process_writes_the_same_bytes(tmp_path):
    folder = os.path.dirname(os.path.dirname(__file__))
    paths = [folder, f"{folder}/export"]
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, f"{tmp_path}/{seed}"],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(paths)},
            check=True,
        )
    for form in step.FORMS:
        first, second = (tmp_path / f"{seed}{form}.onnx" for seed in "12")
        assert first.read_bytes() == second.read_bytes()


# Faults that verification has to find -------------------------------------------------------------


def _refused(model, target, match, **options):
    with pytest.raises(sr.ExportError, match=match):
        to_onnx(model, target, **options)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("form", step.FORMS)
def test_a_state_that_takes_frames_that_mean_nothing_is_found(form, target, monkeypatch):
    monkeypatch.setattr(recorder, "begins_at_rest", lambda node: True)
    monkeypatch.setattr(forms, "begins_at_rest", lambda node: False)
    for name in ("a GRU", "a convolution"):
        _refused(HARD[name].model, target, "onnxruntime differs from the stream", form=form)


def test_calls_that_are_not_counted_over_chunks_are_found(target, monkeypatch):
    monkeypatch.setattr(forms, "MAX_CALLS", 0.0)
    _refused(_ahead(sr.GRU(4, 5), lookahead=8), target, r"differs.*gru_0\.h_out", form="sequence")


def test_streams_that_are_mixed_up_are_found(target, monkeypatch):
    monkeypatch.setattr(sr.Flatten, "onnx", lambda self, g, x: g.op("Reshape", x, g.ints(-1, 2, 6)))
    model = sr.Sequential(sr.Input((2, 3)), sr.Transpose(), sr.Flatten(), sr.GRU(6, 4))
    to_onnx(model, target, form="sequence", batch=2)
    target.unlink()
    monkeypatch.setattr(
        sr.Flatten,
        "onnx",
        lambda self, g, x: g.op(
            "Reshape", g.op("Transpose", x, perm=[1, 0, 2, 3]), g.ints(-1, 2, 6)
        ),
    )
    _refused(model, target, "differs from the stream", form="sequence", batch=2)


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["steps", "", None, 3])
def test_an_unknown_form_is_refused(form, target):
    _refused(
        sr.GRUCell(2, 3), target, f"form must be one of 'step', 'sequence', got {form!r}", form=form
    )


@pytest.mark.parametrize("batch", [0, -1, 1.5, "many", True])
def test_a_number_of_streams_that_makes_no_sense_is_refused(batch, target):
    match = f"batch must be a positive number of streams, or None to leave it open, got {batch!r}"
    _refused(sr.GRUCell(2, 3), target, match, batch=batch)


def test_an_op_without_a_form_in_the_operator_set_is_named(target):
    class New(sr.ReLU):
        def onnx(self, g, *xs):
            if g.opset < 20:
                raise NotImplementedError
            return super().onnx(g, *xs)

    model = sr.Sequential(sr.Input(3), New())
    match = r"new_0: .*New\(\) has no form in ONNX \(opset 17\): give it an `onnx` method, or try"
    for form in step.FORMS:
        _refused(model, target, match, form=form)
    to_onnx(model, target, opset=20)


def test_an_operator_that_the_set_does_not_have_is_named(target):
    class Newer(sr.ReLU):
        def onnx(self, g, *xs):
            return g.op("Gelu", xs[0])

    _refused(sr.Sequential(sr.Input(3), Newer()), target, r"onnx.checker refuses the graph: .*Gelu")


def test_an_old_onnx_is_named(target, monkeypatch):
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 22)
    match = r"opset must be from 13 to 22, got 23 \(onnx .* is too old for it\)"
    _refused(sr.GRUCell(2, 3), target, match, opset=23)


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        (np.full((8, 3), np.nan, np.float32), "hold a NaN or an infinity in 'x'.*pass finite ones"),
        (np.zeros((8, 5), np.float32), r"must have shape \(T, 3\) for .*, got \(8, 5\)"),
        (np.zeros(3, np.float32), r"must have shape \(T, 3\) for .*, got \(3,\)"),
        (
            np.zeros((0, 3), np.float32),
            r"must be a positive multiple of 2 \(stride_frames\), got 0",
        ),
        (
            np.zeros((7, 3), np.float32),
            r"must be a positive multiple of 2 \(stride_frames\), got 7",
        ),
        (np.zeros((2, 3), np.float32), r"must be more than 2 \(delay_frames\), got 2"),
        ((np.zeros((8, 3)),) * 2, r"must have shape \(T, 3\) for .*, got \(8, 3\) and \(8, 3\)"),
        (np.zeros((8, 3), object), "x"),
    ],
    ids=["NaN", "size", "one frame", "none", "half a stride", "too few", "two inputs", "objects"],
)
@pytest.mark.parametrize("form", step.FORMS)
def test_frames_to_verify_with_that_do_not_fit_are_refused(frames, match, form, target):
    with pytest.raises(sr.FrameError, match=match):
        to_onnx(sr.Conv1d(3, 4, 3, stride=2, lookahead=2), target, form=form, frames=frames)
    assert not list(target.parent.iterdir())


def test_a_strided_op_that_begins_in_the_middle_of_an_output_is_refused(target):
    model = _ahead(_begun_at(sr.Conv1d(4, 4, 3, stride=2), 0.5), lookahead=1)
    match = r"conv1d_1: its input begins 1 frames late, in the middle of the 2 frames of one output"
    for form in step.FORMS:
        _refused(model, target, match, form=form)
