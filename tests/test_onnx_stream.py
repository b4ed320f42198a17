"""A step graph in onnxruntime keeps the promises of a stream, and changes places with ours."""

import gc
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import checks
import streamrnn as sr
from checks import assert_close, assert_same, piece
from zoo import CASES, find, trained

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime runs the graphs")

from streamrnn.export import OnnxStream, add_state, to_onnx  # noqa: E402
from test_import_onnx import DTLN, NSNET2, SILERO, SILERO_FILES, Peer, fetched  # noqa: E402

TOLERANCE = 1e-5
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def exported(model, folder, **options):
    to_onnx(model, folder / "m.onnx", verify=False)
    return OnnxStream(folder / "m.onnx", **options)


def close_states(got, wanted, tolerance=TOLERANCE):
    assert got.frames == wanted.frames
    assert list(got.state) == list(wanted.state)
    for name, value in wanted.state.items():
        assert_close(got.state[name], value, tolerance, name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_exported_op_is_the_same_stream_in_onnxruntime(case, tmp_path):
    """Blocks, then a snapshot across engines, there and back, then a reset; outputs and states."""
    theirs, ours = exported(case.model, tmp_path), case.model.stream()
    S, tolerance = theirs.stride_frames, max(case.tolerance, TOLERANCE)
    assert ours.program.clock.stride == S
    xs = case.frames(24 * S)
    for first, stop in ((0, 7), (7, 8), (8, 20)):
        part = piece(xs, first * S, stop * S)
        assert_close(theirs.run(part), ours.run(part), tolerance)
        close_states(theirs, ours, tolerance)
    saved = theirs.snapshot()
    theirs.restore(ours.snapshot())
    ours.restore(saved)
    rest = piece(xs, 20 * S, 24 * S)
    assert_close(theirs.run(rest), ours.run(rest), tolerance)
    close_states(theirs, ours, tolerance)
    read = sr.load(tmp_path / "m.onnx").stream()
    if S == 1 and list(read.state) == list(ours.state):  # else the file is another model
        read.restore(ours.snapshot())
        close_states(read, ours, 0)
        theirs.restore(read.snapshot())
        assert theirs.snapshot() == read.snapshot() == ours.snapshot()
    theirs.reset()
    again = case.model.stream().run(piece(xs, 0, 3 * S))
    assert_close(checks.run_in_steps(theirs, piece(xs, 0, 3 * S)), again, tolerance)


PROMISES = [
    checks.check_chunks,
    checks.check_reset,
    checks.check_neighbours,
    checks.check_rollback,
    checks.check_snapshot,
    checks.check_aliasing,
    checks.check_out,
    checks.check_state,
    checks.check_policies,
]
SAMPLE = [
    "LSTMCell 5-20",
    "GRU 3 layers",
    "Conv1d k3 stride 2",
    "strided front end and GRU",
    "two inputs",
    "indices and numbers",
    "outputs of all kinds",
    "feedback of planes",
    "Align branches that meet",
    "Align states that begin later",
]


class Exported:
    """A case of the zoo whose streams run in onnxruntime."""

    def __init__(self, case, folder):
        to_onnx(case.model, folder / "m.onnx", verify=False)
        self.frames, self.path, self.streams = case.frames, folder / "m.onnx", {}
        self.model = SimpleNamespace(
            graph=case.model.graph, program=case.model.program, stream=self.stream
        )

    def stream(self, policy="raise"):
        """Return a stream at its beginning; all of them share one session."""
        if policy not in self.streams:
            self.streams[policy] = OnnxStream(self.path, on_nonfinite=policy)
        return self.streams[policy].fork()

    def fresh(self):
        return self.model


@pytest.mark.parametrize("check", PROMISES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLE)
def test_the_promises_of_a_stream_are_kept_in_onnxruntime(check, name, tmp_path):
    check(Exported(find(name), tmp_path))


# Foreign graphs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SILERO_FILES)
def test_voice_detectors_run_and_move_between_the_engines(name):
    """The states paired by name, the rate a constant; a snapshot goes there and back."""
    options, states = SILERO_FILES[name]
    path = fetched(SILERO, name)
    theirs, ours = OnnxStream(path, **options), sr.load(path, **options).stream()
    peer = Peer(path, states, options.get("constants", {}))
    xs = normal(50, 576) / 8
    for x in xs[:30]:
        y = theirs.step(x)
        assert_close(y, peer.step(x[None]).reshape(y.shape), 1e-6)
        assert_close(y, ours.step(x), TOLERANCE)
    for state, value in peer.kept.items():
        assert_close(theirs.state[state], value, 1e-6, state)
    close_states(theirs, ours, 1e-4)
    saved = theirs.snapshot()
    theirs.restore(ours.snapshot())
    ours.restore(saved)
    assert_close(theirs.run(xs[30:]), ours.run(xs[30:]), TOLERANCE)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_noise_suppressor_runs_its_state_found_by_its_shape(stage):
    path = fetched(DTLN, f"model_{stage}.onnx")
    theirs, ours = OnnxStream(path), sr.load(path).stream()
    (state,) = theirs.state
    (new,) = theirs.program.states
    peer = Peer(path, {state: (new.output, (1, 2, 128, 2))}, {})
    xs = np.abs(normal(40, theirs.program.input_size))
    for x in xs:
        y = theirs.step(x)
        assert_close(y, peer.step(x[None, None]).reshape(y.shape), 1e-6)
        assert_close(y, ours.step(x), 1e-4)
    assert_close(theirs.state[state], peer.kept[state], 1e-6)
    ours.restore(theirs.snapshot())
    assert_same(ours.state[state], theirs.state[state], state)


def test_a_graph_over_sequences_is_refused_with_what_to_do_and_then_runs(tmp_path):
    path = fetched(NSNET2, "nsnet2-20ms-baseline.onnx")
    with pytest.raises(sr.FileError, match=r"'input' has an open time axis.*export\.add_state"):
        OnnxStream(path)
    add_state(path, tmp_path / "step.onnx", verify=False)
    theirs, ours = OnnxStream(tmp_path / "step.onnx"), sr.load(path).stream()
    xs = normal(60, 161)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (whole,) = session.run(None, {"input": xs[None]})
    first = theirs.run(xs[:40])
    assert_close(first, whole[0, :40], TOLERANCE)
    assert_close(ours.run(xs[:40]), first, TOLERANCE)
    close_states(theirs, ours)
    ours.restore(theirs.snapshot())
    assert_close(ours.run(xs[40:]), whole[0, 40:], TOLERANCE)


# Rates and delays ---------------------------------------------------------------------------------


def test_a_slower_output_comes_with_the_last_frame_of_a_call(tmp_path):
    model = trained(
        sr.Sequential(sr.Conv1d(3, 4, 5, stride=2), sr.GRU(4, 2), sr.Conv1d(2, 2, 3, 2))
    )
    theirs, ours = exported(model, tmp_path), model.stream()
    assert (theirs.stride_frames, theirs.delay_frames) == (4, 3)
    xs = normal(18, 3)
    due = [theirs.step(x) is not None for x in xs]
    assert [t for t, is_due in enumerate(due) if is_due] == [3, 7, 11, 15]
    theirs.reset()
    assert_close(theirs.run(xs), ours.run(xs)[:4], TOLERANCE)
    assert repr(theirs) == "OnnxStream(inputs ((3,),), 18 frames so far)"


def test_outputs_that_mean_nothing_yet_do_not_come(tmp_path):
    x = sr.Input(3)
    model = trained(sr.Model(x, sr.LSTM(3, 4)(sr.Conv1d(3, 3, 4, lookahead=3)(x))))
    theirs, ours = exported(model, tmp_path), model.stream()
    assert (theirs.stride_frames, theirs.delay_frames) == (1, 3)
    assert list(theirs.state) == list(ours.state), "the counter of calls is not shown"
    xs = normal(12, 3)
    assert [theirs.step(x) is None for x in xs[:5]] == [True] * 3 + [False] * 2
    ours.run(xs[:2])
    theirs.restore(ours.snapshot())  # before the delay is over: the counter follows
    assert theirs.frames == 2
    assert_close(theirs.run(xs[2:]), ours.run(xs[2:]), TOLERANCE)
    close_states(theirs, ours)


def test_a_snapshot_in_the_middle_of_a_call_stays_in_its_engine(tmp_path):
    model = trained(sr.Sequential(sr.Conv1d(3, 4, 5, stride=4), sr.GRU(4, 2)))
    theirs, ours = exported(model, tmp_path), model.stream()
    xs = normal(20, 3)
    theirs.run(xs[:6])
    ours.run(xs[:6])
    with pytest.raises(
        sr.StateError, match=r"OnnxStream after 6 frames, in the middle of a call: "
    ):
        ours.restore(theirs.snapshot())
    before = theirs.snapshot()
    with pytest.raises(
        sr.StateError, match=r"after 6 frames, in the middle of a call of 4: take it"
    ):
        theirs.restore(ours.snapshot())
    assert theirs.snapshot() == before
    other = OnnxStream(tmp_path / "m.onnx")
    other.restore(before)
    assert_same(other.run(xs[6:]), theirs.run(xs[6:]), "after the middle of a call")


def test_an_export_that_is_read_back_takes_the_models_snapshots(tmp_path):
    """Unless its weights have changed, or it counts its frames or calls in its own way."""
    model = trained(sr.LSTM(3, 4))
    theirs = exported(model, tmp_path)
    theirs.run(normal(5, 3))
    saved, read = theirs.snapshot(), sr.load(tmp_path / "m.onnx")
    read.stream().restore(saved)
    again = exported(read, tmp_path)
    again.restore(saved)
    close_states(again, theirs, 0)
    weights = {name: array + 1 for name, array in read.state_dict().items()}
    read.load_state_dict(weights)
    with pytest.raises(sr.StateError, match="snapshot of another model or other weights"):
        read.stream().restore(saved)
    slow, late = sr.Conv1d(3, 4, 2, stride=2), sr.Conv1d(3, 4, 2, lookahead=1)
    for first in (slow, late):
        other = exported(trained(sr.Sequential(first, sr.GRU(4, 2))), tmp_path)
        with pytest.raises(sr.StateError, match="snapshot of another model or other weights"):
            sr.load(tmp_path / "m.onnx").stream().restore(other.snapshot())


def test_frames_may_lie_on_any_axis(tmp_path):
    """A convolution (1, C, T) of which a call takes two frames: their axis is in the metadata."""
    helper = onnx.helper
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Conv", ["x", "W"], ["y"], pads=[2, 0], strides=[2])]
    weight = onnx.numpy_helper.from_array(normal(4, 3, 3), "W")
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", onnx.TensorProto.FLOAT, [1, 3, "time"])],
        [info("y", onnx.TensorProto.FLOAT, None)],
        [weight],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "m.onnx")
    add_state(tmp_path / "m.onnx", tmp_path / "step.onnx")
    theirs, ours = OnnxStream(tmp_path / "step.onnx"), sr.load(tmp_path / "m.onnx").stream()
    xs = normal(20, 3)
    assert_close(theirs.run(xs), ours.run(xs), TOLERANCE)
    close_states(theirs, ours)


# Errors -------------------------------------------------------------------------------------------


def step_graph(path, nodes, inputs, outputs, weights=()):
    """Write a graph; inputs and outputs as name, kind of numbers, shape."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        "g",
        [helper.make_tensor_value_info(*given) for given in inputs],
        [helper.make_tensor_value_info(*given) for given in outputs],
        list(weights),
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path)
    return path


F, I64, D = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "INT64", "DOUBLE"))
ADD = ("Add", ["x", "h_in"], ["h_out"], {})
COPY = ("Identity", ["h_out"], ["y"], {})
X, Y, H_IN, H_OUT = ("x", F, [1, 3]), ("y", F, [1, 3]), ("h_in", F, [1, 3]), ("h_out", F, [1, 3])


def test_a_graph_of_others_is_a_stream_and_unsupported_operators_too(tmp_path):
    """What `streamrnn.load` refuses runs all the same, and its snapshots stay its own."""
    nodes = [ADD, ("Det", ["h_out"], ["y"], {})]
    square = [(name, F, [2, 2]) for name in ("x", "h_in", "h_out")]
    path = step_graph(tmp_path / "m.onnx", nodes, square[:2], [("y", F, []), square[2]])
    with pytest.raises(sr.FileError, match=r"Det.*: this operator is not supported"):
        sr.load(path)
    theirs = OnnxStream(path)
    assert theirs.step(2 * np.eye(2, dtype=np.float32)) == 4
    assert theirs.state["h"].tolist() == [[2, 0], [0, 2]]
    other = OnnxStream(path)
    other.restore(theirs.snapshot())
    assert other.step(np.eye(2, dtype=np.float32)) == 9
    step_graph(path, [ADD, COPY], [X, H_IN], [Y, H_OUT])
    with pytest.raises(sr.StateError, match="snapshot of another model"):
        OnnxStream(path).restore(other.snapshot())


def test_a_file_that_changed_since_gives_no_snapshots_of_another_model(tmp_path):
    path = step_graph(tmp_path / "m.onnx", [ADD, COPY], [X, H_IN], [Y, H_OUT])
    theirs = OnnxStream(path)
    step_graph(path, [("Sub", *ADD[1:]), COPY], [X, H_IN], [Y, H_OUT])
    with pytest.raises(
        sr.StateError, match=r"m\.onnx has changed since it was opened: open it anew"
    ):
        theirs.snapshot()


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "message"),
    [
        (
            [ADD, COPY],
            [X, ("h_in", D, [1, 3])],
            [Y, H_OUT],
            r"input 'h_in' is float64, .* constants=",
        ),
        ([ADD, COPY], [("x", D, [1, 3]), H_IN], [Y, H_OUT], r"input 'x' is float64, .* constants="),
        ([ADD], [X, H_IN], [H_OUT], "every output is a state: nothing is left to come out"),
        (
            [("Concat", ["x", "h_in"], ["h_out"], {"axis": 1}), COPY],
            [X, H_IN],
            [("y", F, None), ("h_out", F, [1, None])],
            r"state output 'h_out' \(1, 6\) does not fit state input 'h_in' \(1, 3\)",
        ),
        (
            [ADD, ("Cast", ["h_out"], ["y"], {"to": I64})],
            [X, H_IN],
            [("y", I64, [1, 3]), H_OUT],
            "output 'y' is int64, not float32",
        ),
        (
            [
                ("Constant", [], ["size"], {"value_ints": [7]}),
                ("Reshape", ["x", "size"], ["y"], {}),
                ("Identity", ["h_in"], ["h_out"], {}),
            ],
            [X, H_IN],
            [("y", F, None), H_OUT],
            "onnxruntime cannot run it: ",
        ),
        ([("Nonesuch", *ADD[1:]), COPY], [X, H_IN], [Y, H_OUT], "onnxruntime cannot load it: "),
        (
            [ADD, COPY, ("Identity", ["g_in"], ["p"], {}), ("Identity", ["r_in"], ["q"], {})],
            [X, H_IN, ("g_in", F, [2]), ("r_in", F, [2])],
            [Y, H_OUT, ("p", F, [2]), ("q", F, [2])],
            r"may be fed by any of the outputs p, q: say which with states=",
        ),
    ],
)
def test_graphs_that_are_no_streams_are_refused_with_the_reason(
    nodes, inputs, outputs, message, tmp_path
):
    path = step_graph(tmp_path / "m.onnx", nodes, inputs, outputs)
    with pytest.raises(sr.FileError, match=rf"m\.onnx: .*{message}"):
        OnnxStream(path)


def test_states_are_paired_as_the_user_says(tmp_path):
    inputs = [X, ("p", F, [1, 3]), ("q", F, [1, 3])]
    outputs = [Y, ("r", F, [1, 3]), ("s", F, [1, 3])]
    nodes = [
        ("Add", ["x", "p"], ["s"], {}),
        ("Mul", ["x", "q"], ["r"], {}),
        ("Sub", ["r", "s"], ["y"], {}),
    ]
    path = step_graph(tmp_path / "m.onnx", nodes, inputs, outputs)
    theirs = OnnxStream(path, states={"p": "s", "q": "r"})
    theirs.run(np.ones((4, 3), np.float32))
    assert theirs.state["p"].tolist() == [[4, 4, 4]]
    with pytest.raises(sr.FileError, match="there is no input 'z' with an output 'r'"):
        OnnxStream(path, states={"z": "r"})


@pytest.mark.parametrize(
    ("layers", "frame", "output"),
    [
        (lambda: (sr.Embedding(10, 4), sr.GRU(4, 4)), (), (4,)),
        (lambda: (sr.Input((1, 4)), sr.Tanh()), (1, 4), (1, 4)),
        (lambda: (sr.Input((2, 3)), sr.Mean(0), sr.Mean(0)), (2, 3), ()),
    ],
    ids=["index", "ones in front", "a number out"],
)
def test_both_engines_take_and_give_the_models_own_frames(layers, frame, output, tmp_path):
    model = sr.Sequential(*layers())
    to_onnx(model, tmp_path / "m.onnx")
    streams = model.stream(), sr.load(tmp_path / "m.onnx").stream(), OnnxStream(tmp_path / "m.onnx")
    for stream in streams:
        assert (stream.input_shape, stream.output_shape) == (frame, output)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (sr.GRUCell(3, 4),),
        lambda: (sr.Conv1d(3, 4, 5, stride=2, lookahead=2), sr.LSTM(4, 5)),
    ],
    ids=["GRU", "strided, looking ahead"],
)
def test_a_sequence_graph_of_ours_is_a_stream_too(layers, tmp_path):
    model = sr.Sequential(*layers())
    to_onnx(model, tmp_path / "m.onnx", form="sequence", batch=None)
    xs = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    ours, theirs = model.stream(), OnnxStream(tmp_path / "m.onnx")
    assert np.abs(theirs.run(xs) - ours.run(xs)).max() < 1e-5
    for name, value in ours.state.items():
        assert np.abs(theirs.state[name] - value).max() < 1e-5


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('"form": "spiral"', "it is a graph of the form 'spiral'; known are step and sequence"),
        ('"batch": 4', "it takes 4 streams a call; OnnxStream runs one: export it with batch=1"),
    ],
)
def test_other_forms_of_ours_are_refused(note, message, tmp_path):
    to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx", verify=False)
    proto = onnx.load(tmp_path / "m.onnx")
    (entry,) = proto.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "batch": 4})
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(sr.FileError, match=r"it takes 4 streams a call; .* export it with batch=1"):
        OnnxStream(tmp_path / "m.onnx")


def test_a_graph_over_sequences_with_states_is_run_frame_by_frame_if_the_user_says_so(tmp_path):
    inputs = [("x", F, [1, "time", 3]), ("h_in", F, [1, 1, 3])]
    outputs = [("y", F, [1, "time", 3]), ("h_out", F, [1, 1, 3])]
    path = step_graph(tmp_path / "m.onnx", [ADD, COPY], inputs, outputs)
    with pytest.raises(sr.FileError, match=r"say so with shapes=.'x': \(1, 1, 3\)"):
        OnnxStream(path)
    theirs = OnnxStream(path, shapes={"x": (1, 1, 3)})
    assert theirs.run(np.ones((4, 3), np.float32))[-1].tolist() == [4, 4, 4]


def test_files_and_arguments_without_meaning_are_refused(tmp_path):
    to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx", verify=False)
    with pytest.raises(sr.FileError, match=r"cannot read .*absent\.onnx: No such file"):
        OnnxStream(tmp_path / "absent.onnx")
    with pytest.raises(sr.FileError, match="expected a path, got int"):
        OnnxStream(5)
    with pytest.raises(sr.FileError, match="no input is called 'z'; there are x, "):
        OnnxStream(tmp_path / "m.onnx", shapes={"z": (1,)})
    with pytest.raises(sr.ConfigError, match="on_nonfinite must be one of raise, propagate, hold"):
        OnnxStream(tmp_path / "m.onnx", on_nonfinite="ignore")
    for threads in (0, -1, 1.5, "2"):
        with pytest.raises(sr.ConfigError, match="threads must be a whole number from 1 on, got "):
            OnnxStream(tmp_path / "m.onnx", threads=threads)
    assert OnnxStream(tmp_path / "m.onnx", threads=2).step(np.ones(3, np.float32)) is not None


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    to_onnx(sr.GRUCell(3, 4), tmp_path / "m.onnx", verify=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(sr.ExportError, match=r"needs onnxruntime: pip install streamrnn\[onnx\]"):
        OnnxStream(tmp_path / "m.onnx")


def test_an_index_that_is_too_large_is_refused_in_the_middle_of_a_block(tmp_path):
    """onnxruntime says so, after some frames have been run: the state is put back."""
    model = trained(sr.Sequential(sr.Embedding(7, 3), sr.GRU(3, 4)))
    theirs = exported(model, tmp_path)
    theirs.run(np.array([1, 2]))
    before = theirs.snapshot()
    with pytest.raises(sr.FrameError, match=r"onnxruntime cannot run these frames; .* idx=7"):
        theirs.run(np.array([3, 4, 7]))
    with pytest.raises(sr.FrameError, match=r"indices from 0 to .*, got -1 to 3"):
        theirs.run(np.array([3, -1]))
    assert theirs.snapshot() == before
    assert_close(theirs.run(np.array([3, 4])), model.stream().run(np.array([1, 2, 3, 4]))[2:], 1e-6)


def test_the_frame_that_is_not_finite_is_named_and_other_failures_are_passed_on(tmp_path):
    theirs, xs = exported(trained(sr.GRU(3, 4)), tmp_path), normal(5, 3)
    xs[3, 1] = np.nan
    with pytest.raises(sr.NonFiniteError, match=r"`x` holds a NaN .*\(frame 3 of the block of 5\)"):
        theirs.run(xs)

    def broken(binding):
        raise RuntimeError("out of memory")

    theirs.run(xs[:2])
    before, theirs._run_graph = theirs.snapshot(), broken
    for call, frames in ((theirs.step, xs[0]), (theirs.run, xs[:2])):
        with pytest.raises(sr.FrameError, match=r"cannot run these frames; .*: out of memory"):
            call(frames)
        assert theirs.snapshot() == before


# Memory -------------------------------------------------------------------------------------------


def test_steps_copy_no_state_and_keep_no_memory(tmp_path):
    """The two buffers of states change places; 2,000 steps leave no object behind."""
    model = trained(sr.LSTM(40, 64, num_layers=2))
    theirs, x, y = exported(model, tmp_path), normal(40), np.zeros(64, np.float32)
    buffers = {theirs._state.ctypes.data, theirs._other.ctypes.data}
    for _ in range(11):
        theirs.step(x, out=y)
        assert {theirs._state.ctypes.data, theirs._other.ctypes.data} == buffers
    kept = []
    for _ in range(3):
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(2000):
            theirs.step(x, out=y)
        kept.append(sys.getallocatedblocks() - before)
    assert min(kept) < 20


def test_streams_share_a_session_by_fork_and_the_weights_with_it(tmp_path):
    model = trained(sr.GRU(3, 4))
    one = exported(model, tmp_path)
    xs = normal(20, 3)
    one.run(xs[:5])
    two = one.fork()
    assert two.program is one.program
    assert_same(two.run(xs[5:]), one.run(xs[5:]), "forked")
    assert one.input_shape == (3,)
    both = exported(find("two inputs").model, tmp_path)
    assert both.input_shape == tuple(v.shape for v in both.program.inputs)


class _Late:
    """A session's call that does its work and is then interrupted."""

    def __init__(self, call):
        self.call = call

    def __call__(self, binding):
        self.call(binding)
        raise KeyboardInterrupt


def _swapped_and_then_interrupted(stream, monkeypatch):
    real = stream._back_to

    def once(state):
        real(state)
        monkeypatch.setattr(stream, "_back_to", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "_back_to", once)


@pytest.mark.parametrize("policy", ["raise", "hold"])
@pytest.mark.parametrize("when", ["in the call", "after the call"])
@pytest.mark.parametrize("frames", [1, 3])
def test_an_interrupt_leaves_states_and_their_number_as_they_were(
    frames, when, policy, tmp_path, monkeypatch
):
    stream = exported(sr.GRU(3, 5, seed=0), tmp_path, on_nonfinite=policy)
    xs = normal(6, 3)
    stream.run(xs[:2])
    before, wanted = stream.snapshot(), stream.fork().run(xs[2:])
    feed = stream.run if frames > 1 else stream.step
    with monkeypatch.context() as patched:
        if when == "in the call":
            patched.setattr(stream, "_run_graph", _Late(stream._run_graph))
        else:
            _swapped_and_then_interrupted(stream, patched)
        with pytest.raises(KeyboardInterrupt):
            feed(xs[2 : 2 + frames] if frames > 1 else xs[2])
    assert stream.snapshot() == before
    assert_same(stream.run(xs[2:]), wanted, "what comes after")


def test_generate_and_beam_search_take_a_graph_in_onnxruntime(tmp_path):
    from streamrnn.decode import beam_search, generate

    model = sr.Sequential(
        sr.Embedding(9, 8, seed=0), sr.GRU(8, 16, seed=0), sr.Linear(16, 9, seed=0)
    )
    theirs = exported(model, tmp_path)
    wanted = [token for token, _ in generate(model, [1, 4], steps=6)]
    assert [token for token, _ in generate(theirs, [1, 4], steps=6)] == wanted
    assert theirs.frames > 0, "the stream itself goes on"
    theirs.reset()
    found, ours = (beam_search(m, [1], width=3, steps=5) for m in (theirs, model))
    assert [h.tokens for h in found] == [h.tokens for h in ours]
    assert theirs.frames == 0, "a search leaves the stream as it was"


def test_a_transducer_takes_a_graph_in_onnxruntime(tmp_path):
    from streamrnn.decode import TransducerGreedy

    model = sr.Sequential(sr.Embedding(5, 4, seed=1), sr.GRU(4, 8, seed=1))
    mix, xs = RNG.normal(size=(5, 14)), 2 * RNG.normal(size=(40, 6))

    def joiner(encoded, predicted):
        assert not failing or len(said) < 4
        said.append(mix @ np.tanh(np.concatenate([encoded, predicted])))
        return said[-1]

    said, failing = [], False
    theirs, ours = (
        TransducerGreedy(predictor, joiner, tokens=5)
        for predictor in (exported(model, tmp_path), model)
    )
    found, wanted = theirs.run(xs[:25]), ours.run(xs[:25])
    assert [(t.token, t.frame) for t in found] == [(t.token, t.frame) for t in wanted]
    assert len(wanted) > 10
    before, failing = theirs.snapshot(), True
    said.clear()
    with pytest.raises(AssertionError):
        theirs.run(xs[25:])
    assert theirs.snapshot() == before
    failing = False
    wanted = [(t.token, t.frame) for t in ours.run(xs[25:])]
    assert [(t.token, t.frame) for t in theirs.run(xs[25:])] == wanted
    ours.restore(before)  # it moves between the engines
    assert [(t.token, t.frame) for t in ours.run(xs[25:])] == wanted


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_states_are_handed_over_to_and_from_a_graph_in_onnxruntime(side, tmp_path):
    from streamrnn.decode import hand_over

    models = {"encoder": sr.LSTM(3, 8, seed=0), "decoder": sr.GRU(4, 8, seed=1)}
    ours = {name: model.stream() for name, model in models.items()}
    mixed = {**ours, side: exported(models[side], tmp_path)}
    source, after = normal(6, 3), normal(5, 4)
    results = []
    for streams in (ours, mixed):
        streams["encoder"].reset()
        streams["encoder"].run(source)
        streams["decoder"].run(after)  # of which nothing remains
        hand_over(streams["encoder"], streams["decoder"], {"gru_0.h": "lstm_0.h"})
        assert streams["decoder"].frames == 0
        results.append(streams["decoder"].run(after))
    assert_close(results[1], results[0], TOLERANCE)
    assert not np.allclose(results[0], models["decoder"].run(after), atol=1e-2)
