"""Every model as an ONNX step graph: checked, and equal to its stream in onnxruntime."""

import json
import os

import numpy as np
import pytest

import streamrnn as sr
from zoo import CASES, find, trained

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="verification needs the extra `onnx`")

from streamrnn.export import Quantization, add_state, to_onnx  # noqa: E402
from streamrnn_export import step, verify  # noqa: E402


def _session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_op_exports_and_equals_its_stream(case, tmp_path):
    clock = case.model.program().clock
    T = (24 + clock.start // clock.stride) * clock.stride
    report = to_onnx(case.model, tmp_path / "m.onnx", frames=case.frames(T), tolerance=3e-5)
    assert report.frames == T
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


@pytest.mark.parametrize("opset", range(step.MIN_OPSET, step.MAX_OPSET + 1))
def test_every_opset_of_the_stated_range_works(opset, tmp_path):
    x = sr.Input((4, 6))
    model = trained(
        sr.Model(x, sr.Linear(5, 3)(sr.GRU(4, 5, 2)(sr.Mean()(sr.Softmax()(x)) + sr.Sum(1)(x))))
    )
    to_onnx(model, tmp_path / "m.onnx", opset=opset)
    (imported,) = onnx.load(tmp_path / "m.onnx").opset_import
    assert imported.version == opset


@pytest.mark.parametrize("opset", [0, 12, 25, 99])
def test_an_opset_out_of_range_is_refused(opset, tmp_path):
    with pytest.raises(sr.ExportError, match=f"opset must be from 13 to 24, got {opset}"):
        to_onnx(sr.GRUCell(2, 3), tmp_path / "m.onnx", opset=opset)


def test_states_are_named_inputs_and_outputs_and_native_nodes_are_used(tmp_path):
    x = sr.Input(3)
    y = sr.LSTM(6, 4)(sr.GRU(5, 6)(sr.RNN(3, 5)(x)))
    to_onnx(sr.Model({"features": x}, {"score": y}), tmp_path / "m.onnx")
    session = _session(tmp_path / "m.onnx")
    shapes = {v.name: v.shape for v in (*session.get_inputs(), *session.get_outputs())}
    states = {"rnn_0.h": 5, "gru_0.h": 6, "lstm_0.h": 4, "lstm_0.c": 4}
    assert shapes == {
        "features": [1, 1, 3],
        "score": [1, 1, 4],
        **{f"{n}_{way}": [1, 1, size] for n, size in states.items() for way in ("in", "out")},
    }
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert [k for k in kinds if k in ("RNN", "GRU", "LSTM")] == ["RNN", "GRU", "LSTM"]
    assert len(kinds) == 6, "a native node and a Squeeze for each cell, nothing else"


def test_metadata_says_which_state_feeds_which_and_keeps_the_models_notes(tmp_path):
    x = sr.Input(3)
    cell = sr.GRUCell(3, 2, name="memory")
    cell.initial_state = {"h": np.array([0.5, -0.5])}
    to_onnx(sr.Model(x, cell(x), {"trained": "in May"}), tmp_path / "m.onnx")
    meta = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert meta["trained"] == "in May"
    (state,) = json.loads(meta["streamrnn"])["states"]
    assert (state["input"], state["output"]) == ("memory.h_in", "memory.h_out")
    assert (state["shape"], state["initial"]) == ([1, 1, 2], [0.5, -0.5])


def test_a_strided_model_takes_a_chunk_of_frames_per_call(tmp_path):
    model = trained(sr.Sequential(sr.Conv1d(3, 4, 5, stride=2), sr.Conv1d(4, 2, 3, stride=3)))
    to_onnx(model, tmp_path / "m.onnx")
    session = _session(tmp_path / "m.onnx")
    shapes = {v.name: v.shape for v in (*session.get_inputs(), *session.get_outputs())}
    assert shapes["x"] == [6, 1, 3]
    assert shapes["y"] == [1, 1, 2]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        to_onnx(find("LSTMCell 5-20").fresh(), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_wrong_graph_raises_and_leaves_no_file(tmp_path, monkeypatch):
    """The gates of an LSTM in torch's order, where ONNX's is another."""
    monkeypatch.setitem(sr.LSTMCell.layouts, "onnx", "ifgo")
    old = tmp_path / "old.onnx"
    old.write_bytes(b"kept")
    for path in (tmp_path / "new.onnx", old):
        with pytest.raises(sr.ExportError, match=r"differs from the stream by more than .*: y by"):
            to_onnx(sr.LSTMCell(3, 4, seed=0), path)
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]
    assert old.read_bytes() == b"kept"


def test_a_state_that_is_lost_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        verify,
        "_initial_states",
        lambda states, streams: {"gru_0.h_in": np.ones((1, 1, 4), np.float32)},
    )
    with pytest.raises(sr.ExportError, match=r"gru_0\.h_out by"):
        to_onnx(sr.GRUCell(3, 4, seed=0), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_report_is_a_table_with_the_largest_errors(tmp_path):
    report = to_onnx(sr.GRUCell(3, 4, seed=0), tmp_path / "m.onnx")
    text = str(report)
    assert "verified in onnxruntime over 64 frames" in text
    assert "gru_0.h_in (1, 1, 4)" in text
    assert "max abs error" in text
    assert report.max_absolute.keys() == {"y", "gru_0.h_out"}
    assert 0 < report.max_error < 1e-6
    assert "not verified" in str(to_onnx(sr.GRUCell(3, 4), tmp_path / "n.onnx", verify=False))


def test_supplied_frames_are_checked_like_a_streams(tmp_path):
    with pytest.raises(
        sr.FrameError, match=r"must have shape \(T, 3\) for GRUCell.*, got \(8, 5\)"
    ):
        to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx", frames=np.zeros((8, 5), np.float32))
    assert not list(tmp_path.iterdir())


def test_an_op_without_a_form_is_named(tmp_path):
    class Mute(sr.ReLU):
        def onnx(self, g, *xs):
            raise NotImplementedError

    with pytest.raises(sr.ExportError, match=r"mute_0: .*Mute\(\) has no form in ONNX"):
        to_onnx(sr.Sequential(sr.Input(3), Mute()), tmp_path / "m.onnx")


def test_a_path_that_cannot_be_written_is_a_clear_error(tmp_path):
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    for path in (tmp_path / "absent" / "m.onnx", folder):
        with pytest.raises(sr.ExportError, match=r"cannot write .*: (No such file|Is a directory)"):
            to_onnx(sr.GRUCell(3, 4), path)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["m", "m.pt", "m.ONNX", "m.onnx.txt", "m.safetensors"])
def test_only_onnx_files_are_written(name, tmp_path):
    """As `load` would take nothing else for a graph."""
    said = rf"cannot export to .*{name}: the name must end in \.onnx"
    said += ": `model.save` writes .safetensors" if name.endswith("rs") else "$"
    with pytest.raises(sr.ExportError, match=said):
        to_onnx(sr.GRUCell(3, 4), tmp_path / name)
    with pytest.raises(sr.ExportError, match=said):
        add_state(tmp_path / "absent.onnx", tmp_path / name)
    with pytest.raises(sr.ExportError, match="expected a path, got int"):
        to_onnx(sr.GRUCell(3, 4), 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    from pathlib import Path

    def full(self, data):
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(sr.ExportError, match="No space left"):
        to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_over_2_gib_are_refused_before_anything_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "MAX_BYTES", 4000)
    with pytest.raises(sr.ExportError, match=r"GiB of weights; a file holds at most 2 GiB"):
        to_onnx(sr.Linear(40, 40, bias=False), tmp_path / "m.onnx")


def test_one_output_twice_and_an_input_handed_on(tmp_path):
    x = sr.Input(3)
    y = sr.GRUCell(3, 4, seed=0)(x)
    to_onnx(sr.Model(x, {"a": y, "b": y, "same": x}), tmp_path / "m.onnx")


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "m.onnx", tmp_path / "m.onnx"
    link.symlink_to(target)
    for _ in range(2):  # a target that is not there yet, and one that is
        to_onnx(sr.GRU(3, 4, seed=0), link, verify=False)
        assert link.is_symlink()
        assert onnx.load(target).graph.node
    assert [f.name for f in target.parent.iterdir()] == ["m.onnx"]


def named(x="x", y="y", past="past"):
    """Return a model with a front that looks ahead, a stride, a cell behind it, and a feedback."""
    frame, before = sr.Input(6), sr.Past(8, name=past)()
    ahead = sr.Conv1d(6, 8, 3, lookahead=2, name="front", seed=1)(frame)
    after = sr.Tanh(name="tanh")(sr.Linear(6, 8, name="lin", seed=2)(frame) + before)
    both = sr.Concat()(ahead, sr.Align(2)(after))
    cell = sr.GRUCell(16, 4, name="late", seed=3)(sr.Conv1d(16, 16, 2, stride=2, seed=4)(both))
    return sr.Model({x: frame}, {y: cell}, feedback={before: after})


INSIDE = [
    "constant_0",
    "lin.weight",
    "lin/MatMul_0:0",
    "late/frame_0",
    "past/before",
    "late",
    "calls",
]


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("way", ["x", "y"])
@pytest.mark.parametrize("name", INSIDE)
def test_names_of_values_inside_give_way_to_the_models_own(name, way, form, tmp_path):
    path = tmp_path / "m.onnx"
    xs = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    if (name, way) == ("late", "x"):
        with pytest.raises(sr.GraphError, match="two layers or inputs are named 'late'"):
            named(x=name)
        return
    model = named(**{way: name})
    report = to_onnx(model, path, form=form)
    assert report.max_error < 1e-5
    assert name in [v.name for v in (*report.proto.graph.input, *report.proto.graph.output)]
    read = sr.load(path).stream()
    calls = xs.reshape(-1, *read.program.inputs[0].shape)  # two frames each
    wanted = model.stream().run(xs)
    assert np.abs(read.run(calls).reshape(wanted.shape) - wanted).max() < 1e-6


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"x": "late.h_in"}, "its input is called 'late.h_in', as the graph calls a state"),
        ({"x": "late.h_out"}, "its input is called 'late.h_out'"),
        ({"y": "late.h_in"}, "its output is called 'late.h_in'"),
        ({"y": "late.h_out"}, "its output is called 'late.h_out'"),
        ({"x": "past_in"}, "its input is called 'past_in'"),
        ({"y": "calls_out"}, "its output is called 'calls_out'"),
        ({"x": ""}, "an input is called '': ONNX wants a name"),
        ({"past": "calls"}, "the state 'calls' has the name of the graph's own counter"),
    ],
)
def test_names_of_states_are_refused_for_anything_else(names, said, tmp_path):
    with pytest.raises(sr.ExportError, match=said):
        to_onnx(named(**names), tmp_path / "m.onnx", verify=False)
    assert not (tmp_path / "m.onnx").exists()


INNER = {
    "int8": "lin.weight_scale",
    "qdq": "lin.weight:scale",
    "float16": "lin.weight:float16",
}


@pytest.mark.parametrize("mode", INNER)
def test_quantised_graphs_leave_the_models_names_alone(mode, tmp_path):
    """Tools call what they make of `x` `x_scale`, as somebody may call an output."""
    head, path = sr.Linear(6, 40, name="lin", seed=0), tmp_path / "m.onnx"
    xs = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    options = {"quantize": Quantization(mode, steps=2), "calibration": xs}
    for y in ("x_scale", "x:scale", "x_quantized", "x:zero"):
        model = sr.Model({"x": (x := sr.Input(6))}, {y: head(x)})
        made = to_onnx(model, path, **options).proto
        assert [v.name for v in made.graph.output] == [y]
        path.unlink()
    with pytest.raises(sr.ExportError, match="as the quantised graph calls a value of its own"):
        to_onnx(sr.Model({"x": (x := sr.Input(6))}, {INNER[mode]: head(x)}), path, **options)
    assert not path.exists()
