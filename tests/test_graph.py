"""Building models: what is refused and how, names, rewriting, and scratch that is reused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamrnn as s
from checks import assert_close, assert_same, parts, piece, run_in_steps
from streamrnn import (
    ConfigError,
    GraphError,
    Input,
    Model,
    ReferenceStream,
    Sequential,
    StateError,
    Stream,
    Value,
    WeightError,
    concat,
)
from streamrnn.kernels import tape
from streamrnn.program import Program
from zoo import CASES, Case, find, random_frames, trained

# What does not make a graph -----------------------------------------------------------------------


def _unlisted_input() -> Any:
    x, other = Input(3), Input(4)
    return Model(x, concat(x, other))


def _unused_input() -> Any:
    x, other = Input(3), Input(4)
    return Model([x, other], s.Tanh()(x))


def _two_rates_meet() -> Any:
    x = Input(3)
    return Model(x, s.Conv1d(3, 3, 2)(x) + s.Conv1d(3, 3, 2, stride=2)(x))


def _outputs_of_two_rates() -> Any:
    x = Input(3)
    return Model(x, [s.Conv1d(3, 3, 2)(x), s.Conv1d(3, 3, 2, stride=3)(x)])


def _a_name_twice() -> Any:
    x = Input(3)
    return Model(x, s.GRUCell(3, 3, name="a")(x) + s.GRUCell(3, 3, name="a")(x))


def _op_named_as_an_input() -> Any:
    x = Input(3)
    return Model({"features": x}, s.GRUCell(3, 3, name="features")(x))


def _output_named_as_an_input() -> Any:
    x = Input(3)
    return Model({"x": x}, {"x": s.Tanh()(x)})


def _a_state_named_as_another() -> Any:
    x, before = Input(3), s.Past(4, name="gru_0.h")()
    after = s.GRUCell(3, 4)(x) + before
    return Model(x, after, feedback={before: after})


def _a_state_named_as_a_weight() -> Any:
    x, before = Input(3), s.Past(4, name="linear_0.bias")()
    after = s.Linear(3, 4)(x) + before
    return Model(x, after, feedback={before: after})


def _indices_as_output() -> Any:
    ids, x = Input((), dtype="int64"), Input(3)
    return Model([ids, x], [ids, x])


def _input_twice() -> Any:
    x = Input(3)
    return Model([x, x], s.Tanh()(x))


def _a_rate_beyond_all_clocks() -> Any:
    return Sequential(*(s.Conv1d(1, 1, 1, stride=1 << 39) for _ in range(2))).stream()


def _output_as_an_input() -> Any:
    x = Input(3)
    y = s.Tanh()(x)
    return Model([x, y], x + s.ReLU()(y))


def _several_outputs_as_a_layer() -> Any:
    x = Input(3)
    return Model(x, [s.Tanh()(x), s.ReLU()(x)])(Input(3))


def _model_on_another_shape() -> Any:
    x = Input(3)
    return Model(x, s.Tanh()(x))(Input(4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_unlisted_input, r"depends on an Input of shape \(4,\) that is not among"),
        (_unused_input, r"input 'x_1' of shape \(4,\) is used by no output"),
        (_two_rates_meet, "its inputs come at different rates: every 1 .*, every 2 frames"),
        (_outputs_of_two_rates, "outputs of a model must come at one rate, got .*every 3"),
        (_a_name_twice, "named 'a'; give one another name"),
        (_op_named_as_an_input, "named 'features'; give one another name"),
        (_output_named_as_an_input, "'x' names an input and an output"),
        (_a_state_named_as_another, "2 states or weights are named 'gru_0.h'; give a layer"),
        (_a_state_named_as_a_weight, "2 states or weights are named 'linear_0.bias'"),
        (_indices_as_output, "output 'y_0' holds indices; outputs must be float32"),
        (_input_twice, "the same value is listed twice"),
        (_several_outputs_as_a_layer, "several outputs cannot be used"),
        (_model_on_another_shape, r"takes shapes \[\(3,\)\], got \[\(4,\)\]"),
        (lambda: Model([], []), "at least one input and one output"),
        (_output_as_an_input, r"input 'x_1' is the output of Tanh\(\), not an Input"),
        (lambda: s.Linear(3, 4)(Input(5)), r"Linear\(.*expects frames of shape \(…, 3\)"),
        (
            lambda: s.GRUCell(3, 4)(Input(5)),
            r"GRUCell\(.*expects frames of shape \(3,\), got \(5,\)",
        ),
        (lambda: s.GRUCell(3, 4)(Input((2, 3))), r"expects frames of shape \(3,\), got \(2, 3\)"),
        (lambda: s.GRUCell(3, 4)(), "needs a value to read"),
        (lambda: s.GRUCell(3, 4)(Input(3), Input(3)), r"frames of shape \(4,\), got \(3,\)"),
        (lambda: s.LSTMCell(3, 4)(Input(3), Input(4)), "the 2 states h, c; got 2"),
        (lambda: s.Tanh()(Input(3), Input(3)), "reads one value, got 2"),
        (lambda: s.GRU(3, 4)(Input(3), Input(3)), "reads one value, got 2"),
        (lambda: Sequential(s.Tanh())(Input(3), Input(3)), "takes one value, got 2"),
        (
            lambda: s.GRUCell(3, 4)(np.zeros(3, "f4")),
            r"symbolic .* float32 \(3,\); a frame .*`step`",
        ),
        (lambda: s.GRUCell(3, 4)(Input(3, "int64")), "reads float32 values, got int64"),
        (lambda: s.Embedding(3, 4)(Input(())), "reads int64 values, got float32"),
        (lambda: s.Conv1d(3, 4, 2)(Input((3, 5))), r"expects frames of shape \(3,\), got \(3, 5\)"),
        (lambda: s.FrameConv1d(3, 4, 2)(Input(3)), r"expects frames of shape \(3, L\)"),
        (lambda: s.FrameConv1d(3, 4, 5)(Input((3, 4))), "needs at least 5 values on the last axis"),
        (lambda: s.LayerNorm(4)(Input(5)), r"expects frames that end in \(4,\)"),
        (lambda: s.BatchNorm1d(4)(Input((5, 4))), r"expects frames of shape \(4, …\)"),
        (lambda: s.Context(3)(Input((2, 3))), r"expects frames of shape \(n,\)"),
        (lambda: concat(Input((2, 3)), Input((2, 4))), "differ on another axis than 0"),
        (lambda: concat(Input(3), Input((3, 1))), "differ on another axis than 0"),
        (lambda: concat(Input(3), Input(3), axis=1), r"shape \(3,\) has no axis 1"),
        (lambda: s.Add()(Input(3), Input(4)), "reads two values of one shape"),
        (lambda: s.Add()(Input(3)), "reads two values of one shape"),
        (lambda: s.Mean(axis=2)(Input((3, 4))), r"shape \(3, 4\) has no axis 2"),
        (lambda: s.Softmax(1)(Input(3)), "has no axis 1"),
        (lambda: s.Reshape((2, 2))(Input(5)), r"cannot take a frame of shape \(5,\)"),
        (lambda: s.Transpose((1, 0))(Input(5)), r"cannot take a frame of shape \(5,\)"),
        (lambda: s.Expand((3, 5))(Input(4)), r"cannot take a frame of shape \(4,\)"),
        (lambda: s.Pad(4, 0, "reflect")(Input(4)), r"cannot take a frame of shape \(4,\)"),
        (lambda: s.Slice(3, 3)(Input(5)), "leaves nothing of a frame"),
        (lambda: s.Slice(0, 1, axis=2)(Input(5)), "has no axis 2"),
        (lambda: Input(5)[3:3], "leaves nothing"),
        (lambda: Input(5)[2], r"cut along its leading axis by a slice such as \[:129\], got \[2\]"),
        (lambda: Input(5)[::2], "cut along its leading axis"),
        (lambda: Input(5)[::-1], "cut along its leading axis"),
        (lambda: Input(5)[1:2, 3:4], "cut along its leading axis"),
        (lambda: Input(())[:1], "no axis 0|leading axis"),
        (lambda: Input(3) + Input(4), r"shapes \(3,\) and \(4,\) cannot be broadcast"),
        (lambda: Input(3) * "2", "must be a value or a number, got str"),
        (lambda: Input(3) + True, "must be a value or a number, got bool"),
        (lambda: Input(3) + None, "must be a value or a number, got NoneType"),
        (lambda: Input(3) / 0, "division by the number 0"),
        (_a_rate_beyond_all_clocks, "would never come"),
        (lambda: s.Tanh().stream(), "takes frames of any shape: say which one"),
        (lambda: Sequential(s.Tanh(), s.Linear(3, 3)).stream(), "takes frames of any shape"),
        (lambda: Sequential(Input(4), s.Linear(3, 3)).stream(), r"frames of shape \(…, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    build: Callable[[], Any], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Input(0), r"at least 1, got \(0,\)"),
        (lambda: Input((3, -1)), "at least 1"),
        (lambda: Input("3x"), "shape must be an int or a tuple of ints"),
        (lambda: Input(3.5), "shape must be an int or a tuple of ints"),
        (lambda: Input((3.5,)), "shape must be an int or a tuple of ints"),
        (lambda: Input(("3",)), "shape must be an int or a tuple of ints"),
        (lambda: Input((float("inf"),)), "shape must be an int or a tuple of ints"),
        (lambda: Input(3, dtype="float64"), "dtype must be 'float32' or 'int64', got 'float64'"),
        (lambda: Sequential(), "needs at least one layer"),
        (lambda: Sequential(Input(3)), "needs at least one layer"),
        (lambda: Sequential(s.Tanh), r"item 0 must be a layer, got type \(a class: call it\)"),
        (lambda: Sequential(s.Tanh(), np.tanh), "item 1 must be a layer"),
        (lambda: Model(Input(3), 3), "must be a symbolic value, got int"),
        (lambda: Model({"x": 3}, Input(3)), "'x' must be a symbolic value"),
        (lambda: Model({3: (x := Input(3))}, s.Tanh()(x)), "symbolic value|name"),
        (lambda: s.Conv1d(6, 4, 2, groups=3), "`groups`=3 must divide in_channels=6"),
        (lambda: s.FrameConv1d(5, 4, 2, groups=2), "`groups`=2 must divide"),
        (lambda: s.FrameConv1d(5, 4, 2, padding=-1), "`padding` must be an integer of at least 0"),
        (lambda: s.LayerNorm(4, eps=0), "`eps` must be a positive number"),
        (lambda: s.LayerNorm(4, eps=float("nan")), "`eps` must be a (positive|finite) number"),
        (lambda: s.BatchNorm1d(4, eps=-1.0), "`eps` must be a positive number"),
        (lambda: s.Embedding(1 << 25, 1), "`num_embeddings` must be at most"),
        (lambda: s.Transpose((0, 2)), "`axes` must be an order of 0, 1"),
        (lambda: s.Pad(1, 1, "circular"), "`mode` must be one of constant, reflect, replicate"),
        (lambda: s.Pad(-1, 1), "`before` must be an integer of at least 0"),
        (lambda: s.GELU("fast"), "`approximate` must be 'none' or 'tanh'"),
        (lambda: s.Hardtanh(1.0, 1.0), "`min_val` must be below `max_val`"),
        (lambda: s.LeakyReLU(float("inf")), "`negative_slope` must be a finite number"),
        (lambda: s.LeakyReLU("steep"), "`negative_slope` must be"),
        (lambda: s.ELU(None), "`alpha` must be"),
        (lambda: s.ELU(1e300), "`alpha` must be"),
        (lambda: s.Scale(float("nan")), "`factor` must be a finite number"),
        (lambda: s.Scale(1.0, "2"), "`offset` must be a finite number"),
        (lambda: s.Scale(1e300), "`factor` must be a finite number"),
        (lambda: Input(3) * 1e300, "must be a finite number"),
        (lambda: s.Slice("a", 3)(Input(5)), "`start` must be"),
        (lambda: s.Slice(0, 2.5)(Input(5)), "`stop` must be"),
        (lambda: concat(Input(3), axis="0"), "`axis` must be"),
        (lambda: s.Mean(axis=0.5)(Input((2, 3))), "`axis` must be"),
        (lambda: s.Softmax(None)(Input((2, 3))), "`axis` must be"),
        (lambda: s.Transpose(3), "`axes` must be"),
        (lambda: s.Reshape(None), "shape must be an int or a tuple of ints"),
    ],
)
def test_arguments_without_meaning_are_refused_with_the_reason(
    build: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_cycle_cannot_be_built() -> None:
    """A value exists only after its arguments, and cannot be changed: no edge leads back."""
    value = s.Tanh()(Input(3))
    with pytest.raises(AttributeError):
        value.args = (value,)  # type: ignore[misc]


# What may take memory is measured first -----------------------------------------------------------

HUGE = 10**12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sequential(Input(4), s.Context(HUGE)), "GiB|more than"),
        (lambda: Sequential(Input(4), s.Pad(HUGE, 0)), "more than"),
        (lambda: s.Conv1d(1, 1, 2, dilation=HUGE), "GiB of state"),
        (lambda: s.Conv1d(HUGE, 1, 1), "GiB|more than"),
        (lambda: s.Conv1d(1, 1, HUGE), "GiB of (weights|state)"),
        (lambda: s.Linear(10**7, 10**7), "GiB of weights"),
        (lambda: s.GRUCell(3, 10**6), "GiB of weights"),
        (lambda: s.LSTM(HUGE, 3), "GiB|more than"),
        (lambda: s.Embedding(1 << 24, HUGE), "GiB|more than"),
        (lambda: Sequential(Input((3, 4)), s.FrameConv1d(3, 3, 1, padding=HUGE)), "at most"),
        (lambda: Sequential(Input((1, 4)), s.FrameConv1d(1, 1, HUGE, padding=1 << 26)), "."),
        (lambda: Sequential(Input(HUGE), s.Tanh()), "GiB|more than"),
        (lambda: Sequential(Input(HUGE), s.Flatten()), "GiB|more than"),
        (lambda: Sequential(Input((HUGE, 1)), s.Transpose()), "GiB|more than"),
        (lambda: Sequential(Input(HUGE), s.Slice(0, 3)), "GiB|more than"),
        (lambda: Sequential(Input(1), s.Expand(HUGE)), "more than"),
        (lambda: Sequential(Input(1), s.Reshape(HUGE)), "more than"),
        (lambda: Model(x := Input(HUGE), concat(x, x)), "GiB|more than"),
        (lambda: Model(x := Input((2, HUGE)), concat(x, x, axis=1)), "GiB|more than"),
        (lambda: Model(x := Input(HUGE), x + x), "GiB|more than"),
        (lambda: Model(x := Input(HUGE), s.Mean()(x)), "GiB|more than"),
        (lambda: s.LayerNorm(HUGE), "GiB|more than"),
        (lambda: s.LayerNorm(HUGE, elementwise_affine=False), "GiB|more than"),
        (lambda: s.BatchNorm1d(HUGE), "GiB|more than"),
        (lambda: Sequential(Input((1, HUGE)), s.BatchNorm1d(1)), "GiB|more than"),
        (lambda: Sequential(Input((HUGE, 3)), s.Linear(3, 3)), "GiB|more than"),
        (lambda: Sequential(Input((1, HUGE)), s.FrameConv1d(1, 1, 1)), "GiB|more than"),
        (lambda: Sequential(Input(HUGE), s.PReLU(HUGE)), "GiB|more than"),
    ],
)
def test_a_terabyte_is_refused_before_it_is_taken(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((GraphError, ConfigError), match=message):
        build().stream()


# Names --------------------------------------------------------------------------------------------


def _names(model: Any) -> list[str]:
    return [node.name for node in model.graph().nodes]


def test_ops_are_numbered_by_kind_in_the_order_in_which_they_run() -> None:
    x = Input(3)
    a = s.LSTMCell(3, 3)(x)
    b = s.GRUCell(3, 3)(a)
    c = s.LSTMCell(3, 3)(b)
    assert _names(Model(x, c)) == ["lstm_0", "gru_0", "lstm_1"]
    assert list(Model(x, c).stream().state) == [
        "lstm_0.h",
        "lstm_0.c",
        "gru_0.h",
        "lstm_1.h",
        "lstm_1.c",
    ]


def test_stacks_name_their_layers() -> None:
    assert _names(s.LSTM(3, 3, num_layers=2)) == ["lstm_0", "lstm_1"]
    assert _names(s.LSTM(3, 3, num_layers=2, name="enc")) == ["enc_0", "enc_1"]
    assert _names(s.LSTM(3, 3, name="enc")) == ["enc"]
    assert _names(Sequential(s.RNN(3, 3), s.GRU(3, 3), s.GRU(3, 3))) == ["rnn_0", "gru_0", "gru_1"]


def test_explicit_names_are_kept_and_numbers_go_round_them() -> None:
    x = Input(3)
    y = s.GRUCell(3, 3)(s.GRUCell(3, 3, name="gru_0")(s.GRUCell(3, 3)(x)))
    assert _names(Model(x, y)) == ["gru_1", "gru_0", "gru_2"]


def test_a_layer_in_two_places_has_two_states_and_one_weight() -> None:
    x = Input(3)
    cell = s.GRUCell(3, 3, name="twin")
    model = Model(x, cell(cell(x)))
    assert _names(model) == ["twin", "twin_call2"]
    assert list(model.stream().state) == ["twin.h", "twin_call2.h"]
    weight = cell.weights["weight_hh"]
    assert all(node.op.weights["weight_hh"] is weight for node in model.graph().nodes)


def test_the_same_model_built_again_has_the_same_names_and_fingerprint() -> None:
    for case in CASES[::3]:
        a, b = case.model, case.fresh()
        assert _names(a) == _names(b)
        assert a.program().fingerprint == b.program().fingerprint


def test_inputs_and_outputs_have_the_names_they_were_given() -> None:
    graph = find("rnnoise").model.graph()
    assert list(graph.inputs) == ["features"]
    assert list(graph.outputs) == ["gains", "vad"]
    assert list(find("Add (20,)").model.graph().inputs) == ["x_0", "x_1"]
    assert list(find("Add (20,)").model.graph().outputs) == ["y"]
    assert list(find("many branches").model.graph().outputs) == ["y_0", "y_1", "y_2"]


def test_the_shape_that_a_sequential_states_is_checked_where_it_is_used() -> None:
    inner = Sequential(Input(4), s.Tanh())
    assert inner(Input(4)).shape == (4,)
    with pytest.raises(GraphError, match=r"\(4,\)"):
        inner(Input(3))


def test_no_two_weights_of_a_sequential_share_a_name() -> None:
    """A layer named like another one's position would take its place in the state dict."""
    with pytest.raises(ConfigError, match="two layers would be called '1'"):
        Sequential(s.Linear(3, 3, name="1"), s.Linear(3, 3))
    model = Sequential(s.Linear(3, 3, name="a"), s.Linear(3, 3))
    assert list(model.state_dict()) == ["a.weight", "a.bias", "1.weight", "1.bias"]


# Operators ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "tolerance"),
    [
        (lambda a, b: a + b, 0),
        (lambda a, b: a - b, 0),
        (lambda a, b: a * b, 0),
        (lambda a, b: a / (b * b + 1.0), 1e-6),
        (lambda a, b: 2.0 - a + b, 1e-6),
        (lambda a, b: 3 * a + b * 0.5, 1e-6),
        (lambda a, b: a / 4 + (b + 1), 1e-6),
        (lambda a, b: (a - np.float32(0.25)) * np.float64(1.5) + b, 1e-6),
        (lambda a, b: (a - 1) + (1 - b), 1e-6),
        (lambda a, b: a * 0.0 + b, 0),
    ],
)
@pytest.mark.parametrize(
    "shapes",
    [((5,), (5,)), ((3, 5), (5,)), ((3, 1), (1, 5)), ((1,), (7,)), ((), (4,)), ((2, 3, 4), (3, 1))],
    ids=str,
)
def test_operators_mean_what_numpy_means(
    function: Callable[[Any, Any], Any], tolerance: float, shapes: tuple[Any, Any]
) -> None:
    a, b = Input(shapes[0]), Input(shapes[1])
    model = Model([a, b], function(a, b))
    rng = np.random.default_rng(0)
    xs = tuple(rng.standard_normal((9, *shape)).astype(np.float32) for shape in shapes)
    frames = [function(x, y) for x, y in zip(*xs, strict=True)]
    wanted = np.array(frames, np.float32)
    assert_close(model.stream().run(xs), wanted, tolerance)


@pytest.mark.parametrize(
    "cut", [(None, 3), (3, None), (-4, None), (None, -2), (-5, -1), (2, 99), (0, 1)]
)
def test_slices_mean_what_python_means(cut: tuple[int | None, int | None]) -> None:
    index = slice(*cut)
    for shape in ((7,), (7, 3)):
        x = Input(shape)
        xs = np.random.default_rng(0).standard_normal((5, *shape)).astype(np.float32)
        assert_same(
            Model(x, x[index]).stream().run(xs),
            np.ascontiguousarray(xs[:, index]),
            f"{shape} {cut}",
        )


def test_a_value_is_not_iterated_or_compared_by_accident() -> None:
    with pytest.raises((GraphError, TypeError)):
        list(Input(3))
    with pytest.raises((GraphError, TypeError)):
        np.tanh(Input(3))
    for array in (np.ones(3, np.float32), np.ones(3), np.ones((2, 3))):
        with pytest.raises((GraphError, TypeError)):
            array + Input(3)  # NumPy would make an array of models of it
        with pytest.raises((GraphError, TypeError)):
            Input(3) + array


# Numbers about the model --------------------------------------------------------------------------


def test_the_receptive_field_of_a_chain_is_that_of_its_parts() -> None:
    chain = Sequential(
        s.Conv1d(3, 4, 5, stride=2), s.ReLU(), s.Conv1d(4, 5, 3, stride=3, dilation=2)
    )
    assert chain.stride_frames == 6
    assert chain.delay_frames == 0
    assert chain.receptive_field_frames == 1 + 4 + 2 * (2 * 2)
    assert s.Linear(3, 3).receptive_field_frames == 1
    assert s.Conv1d(3, 3, 4, dilation=5).receptive_field_frames == 16
    assert s.GRUCell(3, 3).receptive_field_frames is None
    assert find("strided front end and GRU").model.receptive_field_frames is None
    assert find("Context 5 before 3").model.receptive_field_frames == 3
    assert find("Context 64 before 20").model.receptive_field_frames == 5


@pytest.mark.parametrize(
    "case", [c for c in CASES if "Embedding" not in c.name and "nothing" not in c.name], ids=repr
)
def test_nothing_beyond_the_receptive_field_matters(case: Case) -> None:
    field = case.model.receptive_field_frames
    if field is None or field > 70:
        return
    xs = case.frames(71, seed=40)
    wanted = case.model.stream().run(xs)
    changed = tuple(x.copy() for x in parts(xs))
    for x in changed:
        x[: 71 - field] = case.low or 0.5
    got = case.model.stream().run(changed if len(changed) > 1 else changed[0])
    clock = case.model.graph().clock
    for m in range(clock.emitted(71)):
        if (
            m * clock.stride + clock.start == 70
        ):  # the one output whose field is exactly what was left unchanged
            same = tuple(y[m] for y in parts(got)), tuple(y[m] for y in parts(wanted))
            assert_same(*same, f"output {m}")


def test_the_frame_at_the_edge_of_the_receptive_field_does_matter() -> None:
    for case in CASES:
        if not case.name.startswith(("Conv1d", "Context")):
            continue
        field = case.model.receptive_field_frames
        stride, start = case.model.stride_frames, case.model.delay_frames
        last = start + -(-80 // stride) * stride  # a frame at which an output is due
        xs = case.frames(last + 1, seed=41)
        changed = xs.copy()
        changed[last - field + 1] += 1
        a, b = case.model.stream().run(xs), case.model.stream().run(changed)
        assert (a[-1] != b[-1]).any(), case.name


# Folding of batch normalisation -------------------------------------------------------------------


def _unfolded(model: Any, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Compile the model without folding anything."""
    with monkeypatch.context() as patch:
        patch.setattr("streamrnn.program.fold_batch_norm", lambda graph: graph)
        return Program(model.graph())


_FOLDED: dict[str, Callable[[], Any]] = {
    "Linear": lambda: Sequential(s.Linear(5, 20), s.BatchNorm1d(20), s.Tanh()),
    "Linear no bias": lambda: Sequential(s.Linear(5, 20, bias=False), s.BatchNorm1d(20)),
    "Conv1d": lambda: Sequential(s.Conv1d(5, 9, 3, stride=2), s.BatchNorm1d(9), s.ReLU()),
    "Conv1d groups": lambda: Sequential(s.Conv1d(6, 6, 3, groups=2), s.BatchNorm1d(6)),
    "Conv1d depthwise": lambda: Sequential(s.Conv1d(6, 6, 3, groups=6), s.BatchNorm1d(6)),
    "FrameConv1d": lambda: Sequential(
        Input((3, 11)), s.FrameConv1d(3, 4, 3, padding=1), s.BatchNorm1d(4, affine=False)
    ),
    "two in a row": lambda: Sequential(s.Linear(5, 7), s.BatchNorm1d(7), s.BatchNorm1d(7)),
    "before a cell": lambda: Sequential(s.Linear(5, 7), s.BatchNorm1d(7), s.GRU(7, 9)),
}


@pytest.mark.parametrize("name", _FOLDED)
def test_folded_is_unfolded_within_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(_FOLDED[name]())
    program, xs = _unfolded(model, monkeypatch), random_frames(model, 70)
    folded = model.program()
    assert len(folded.tape) < len(program.tape), "nothing was folded"
    assert_close(Stream(folded).run(xs), Stream(program).run(xs), 1e-6)
    assert list(folded.slots) == list(program.slots) == list(model.graph().states())
    assert folded.fingerprint == program.fingerprint
    stream, plain = Stream(folded), Stream(program)
    stream.run(xs[:40])
    plain.restore(stream.snapshot())  # states mean the same
    assert_close(plain.run(xs[40:]), stream.run(xs[40:]), 1e-6)


def _read_twice() -> Any:
    x = Input(5)
    y = s.Linear(5, 7)(x)
    return Model(x, s.BatchNorm1d(7)(y) + y)


def _also_an_output() -> Any:
    x = Input(5)
    y = s.Linear(5, 7)(x)
    return Model(x, [s.BatchNorm1d(7)(y), y])


def _shared_linear() -> Any:
    x = Input(5)
    linear = s.Linear(5, 5)
    return Model(x, s.BatchNorm1d(5)(linear(linear(x))))


def _shared_norm() -> Any:
    x = Input(5)
    norm = s.BatchNorm1d(5)
    return Model(x, norm(s.Linear(5, 5)(norm(s.Linear(5, 5)(x)))))


def _nothing_to_fold_into() -> Any:
    return Sequential(s.Linear(5, 5), s.Tanh(), s.BatchNorm1d(5))


def _rows() -> Any:
    """The channels of the normalisation are the rows, not the outputs of the linear layer."""
    return Sequential(Input((7, 5)), s.Linear(5, 7), s.BatchNorm1d(7))


@pytest.mark.parametrize(
    "build",
    [_read_twice, _also_an_output, _shared_linear, _shared_norm, _nothing_to_fold_into, _rows],
)
def test_what_others_read_too_is_not_folded(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(build())
    program, xs = _unfolded(model, monkeypatch), random_frames(model, 40)
    assert len(model.program().tape) == len(program.tape)
    assert_close(model.stream().run(xs), ReferenceStream(model).run(*parts(xs)), 1e-5)


def test_a_folded_stack_in_a_row_still_equals_the_reference() -> None:
    for name in _FOLDED:
        model = trained(_FOLDED[name]())
        xs = random_frames(model, 70)
        assert_close(model.stream().run(xs), ReferenceStream(model).run(*parts(xs)), 1e-5, name)


def test_weights_of_a_folded_layer_are_still_its_own() -> None:
    model = trained(_FOLDED["Linear"]())
    before = model.state_dict()
    model.stream().step(np.zeros(5, np.float32))
    assert before.keys() == model.state_dict().keys()
    for name, array in model.state_dict().items():
        assert_same(array, before[name], name)


# Trained initial states ---------------------------------------------------------------------------


def test_a_trained_initial_state_is_where_streams_begin_and_return_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cell = s.LSTMCell(3, 5, seed=1)
    h, c = rng.standard_normal((2, 5)).astype(np.float32)
    cell.initial_state = {"h": h, "c": c}
    model = Sequential(cell, s.Linear(5, 2, seed=2))
    stream = model.stream()
    assert_same(stream.state["lstm_0.h"], h, "h")
    assert_same(stream.state["lstm_0.c"], c, "c")
    xs = rng.standard_normal((9, 3)).astype(np.float32)
    wanted = stream.run(xs)
    assert_close(wanted, ReferenceStream(model).run(xs), 1e-5)
    stream.reset()
    assert_same(stream.state["lstm_0.h"], h, "h after reset")
    assert_same(stream.run(xs), wanted, "after reset")
    model.save(tmp_path / "m.safetensors")
    loaded = s.load(tmp_path / "m.safetensors")
    assert_same(loaded.stream().run(xs), wanted, "from a file")


def test_an_initial_state_of_a_convolution_is_its_past() -> None:
    past = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    conv = trained(s.Conv1d(3, 4, 3))
    primed = trained(s.Conv1d(3, 4, 3))
    primed.initial_state = {"past": past}
    xs = random_frames(conv, 10)
    stream = conv.stream()
    stream.run(past)
    assert_same(primed.stream().run(xs), stream.run(xs), "a past given and a past lived through")


def test_a_new_initial_state_is_noticed_by_every_model_that_uses_the_cell() -> None:
    cell = s.GRUCell(3, 3, seed=0)
    model = Sequential(cell)
    model.step(np.zeros(3, np.float32))
    cell.initial_state = {"h": np.ones(3)}
    assert_same(model.stream().state["gru_0.h"], np.ones(3, np.float32), "in a model")
    assert_same(cell.stream().state["gru_0.h"], np.ones(3, np.float32), "in the cell")


def test_an_initial_state_changed_in_place_is_noticed_or_refused() -> None:
    cell = s.GRUCell(3, 3, seed=0)
    cell.step(np.zeros(3, np.float32))
    try:
        cell.initial_state["h"] = np.ones(3, np.float32)
    except (TypeError, ValueError):
        return
    assert_same(cell.stream().state["gru_0.h"], np.ones(3, np.float32), "set in place")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c": np.zeros(3)}, "'c'"),
        ({"h": np.zeros(4)}, r"'h' of shape \(4,\) does not fit"),
        ({"h": np.full(3, np.nan)}, "'h'.*(finite|NaN)"),
        ({"h": np.zeros((1, 3))}, r"\(1, 3\)"),
    ],
)
def test_an_initial_state_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    def started() -> None:
        cell = s.GRUCell(3, 3)
        cell.initial_state = given
        cell.stream()

    with pytest.raises(StateError, match=message):
        started()


@pytest.mark.parametrize("given", [{"c": np.zeros(3)}, {"h": np.zeros(4)}, {"h": np.zeros((1, 3))}])
def test_a_model_is_not_made_with_an_initial_state_that_does_not_fit(given: dict[str, Any]) -> None:
    cell = s.GRUCell(3, 3)
    cell.initial_state = given
    with pytest.raises(
        StateError, match=r"does not fit gru_0, whose states are .*'gru_0.h': \(3,\)"
    ):
        Model(x := Input(3), cell(x))
    made = s.GRUCell(3, 3)
    model = Model(x := Input(3), made(x))
    made.initial_state = given
    with pytest.raises(StateError, match="does not fit gru_0"):  # at the latest
        model.stream()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"h": np.zeros(4)}, r"'h' must be finite numbers of shape \(3,\), got float32 \(4,\)$"),
        ({"h": 0.0}, r"of shape \(3,\), got float32 \(\)"),
        (
            {"c": np.zeros((1, 5))},
            r"'c' must be finite numbers of shape \(5,\), got float32 \(1, 5\)",
        ),
        ({"h": np.zeros(3), "c": np.full(5, np.inf)}, r"\(5,\) with a NaN or an infinity"),
        ({"x": np.zeros(3)}, "has the states h, c, got x"),
    ],
)
def test_a_variant_refuses_an_initial_state_at_once(given: dict[str, Any], message: str) -> None:
    cell = s.LSTMVariant(4, 5, proj_size=3)
    cell.initial_state = {"h": np.ones(3)}
    with pytest.raises(StateError, match=message):
        cell.initial_state = given
    assert_same(cell.initial_state["h"], np.ones(3, np.float32), "the one before")
    assert list(cell.initial_state) == ["h"]


def test_an_initial_state_belongs_to_the_cell_not_to_the_caller() -> None:
    h = np.ones(3, np.float32)
    cell = s.GRUCell(3, 3)
    cell.initial_state = {"h": h}
    h[:] = 7
    assert_same(
        cell.stream().state["gru_0.h"], np.ones(3, np.float32), "the caller's array changed"
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": np.zeros((2, 2), np.float32), "bias": np.zeros(50, np.float32)},
        {"weight": np.zeros((50, 50), np.float32)},
        {"weight": np.full((50, 50), np.nan, np.float32), "bias": np.zeros(50, np.float32)},
        {},
    ],
)
def test_weights_assigned_to_an_op_are_checked(bad: dict[str, Any]) -> None:
    """A kernel reads as many weights as the op's sizes say: fewer would be read out of bounds."""
    layer = s.Linear(50, 50)
    with pytest.raises(WeightError, match="cannot take these weights"):
        layer.weights = bad


# Scratch: places are reused, and nothing is overwritten that is still needed ----------------------


def _random_graph(rng: np.random.Generator, size: int) -> Model:
    """Return a random graph of `size` ops whose values have lives of all lengths."""
    inputs = [Input(int(rng.choice([1, 3, 16, 20])))]
    if rng.random() < 0.4:
        inputs.append(Input(int(rng.choice([2, 17]))))
    pool: list[Value] = [concat(*inputs) if len(inputs) > 1 else inputs[0]]

    def pick() -> Value:
        """Mostly recent values, sometimes very old ones."""
        i = (
            len(pool) - 1 - int(rng.exponential(3.0))
            if rng.random() < 0.7
            else int(rng.integers(len(pool)))
        )
        return pool[max(i, 0)]

    def bounded(value: Value) -> Value:
        return s.Tanh()(value)

    while len(pool) < size:
        a, b = pick(), pick()
        n, kind = a.shape[0], int(rng.integers(12))
        if kind == 0:
            made: Value = s.Sigmoid()(a)
        elif kind == 1:
            made = a * float(rng.uniform(-1, 1)) + float(rng.uniform(-1, 1))
        elif kind == 2 and n + b.shape[0] < 90:
            made = concat(a, b)
        elif kind == 3 and n > 1:
            start = int(rng.integers(n - 1))
            made = a[start : start + 1 + int(rng.integers(n - start))]
        elif kind == 4:
            made = bounded(s.Linear(n, int(rng.choice([1, 5, 16, 33])), seed=len(pool))(a))
        elif kind == 5:
            made = s.GRUCell(n, int(rng.choice([1, 7, 16])), seed=len(pool))(a)
        elif kind == 6:
            made = bounded(s.Conv1d(n, n, 2, groups=n, seed=len(pool))(a))
        elif kind == 7:
            made = s.Flatten()(s.Transpose()(s.Reshape((n, 1))(a)))
        elif kind == 8:
            m = min(n, b.shape[0])
            made = bounded((a[:m] - b[-m:]) * a[n - m :])
        elif kind == 9:
            made = s.Pad(1, 2, "replicate")(a) if n < 60 else s.ReLU()(a)
        elif kind == 10:
            made = bounded(s.Linear(n, 4, seed=len(pool))(s.Expand((3, n))(a))[:2])
            made = s.Flatten()(s.Transpose()(made))
        else:
            made = s.Abs()(a)
        pool.append(made)
    outputs = [pool[-1], *(pick() for _ in range(int(rng.integers(3))))]
    if len({id(v) for v in outputs}) < 2:
        return Model(inputs, outputs[0])
    return Model(inputs, outputs)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 30), T=st.integers(0, 80))
def test_no_random_graph_overwrites_what_is_still_needed(seed: int, size: int, T: int) -> None:
    model = _random_graph(np.random.default_rng(seed), size)
    xs = random_frames(model, T, seed=seed % 1000)
    wanted = ReferenceStream(model).run(*parts(xs))
    stream = model.stream()
    assert_close(stream.run(xs), wanted, 2e-5)  # up to 30 ops, each with its own rounding
    again = model.stream()
    halves = [again.run(piece(xs, 0, T // 3)), again.run(piece(xs, T // 3, T))]
    for a, b, whole in zip(*map(parts, halves), parts(model.stream().run(xs)), strict=True):
        assert_same(np.concatenate([a, b]), whole, "in two pieces")


def test_scratch_is_reused_at_all() -> None:
    """A chain of a hundred ops needs room for a few values, not for a hundred."""
    short = Sequential(Input(64), *(s.Tanh() for _ in range(4))).program()
    long = Sequential(Input(64), *(s.Tanh() for _ in range(100))).program()
    assert long.scratch_size <= 2 * short.scratch_size


def test_every_place_stays_inside_the_scratch() -> None:
    for case in CASES:
        program = case.model.program()
        offset, step = program.output_place
        frames = -(-program.block // program.clock.stride)
        assert offset + (frames - 1) * step + program.output_size <= program.scratch_size
        offset, step = program.input_place
        assert offset + (program.block - 1) * step + program.input_size <= program.scratch_size


def test_no_kernel_writes_beyond_its_buffers() -> None:
    """Guards around state and scratch are intact after blocks of odd lengths."""
    guard = 512
    for case in CASES:
        stream = Stream(case.model.program())
        plan = stream._plan_table
        rooms = []
        for field, buffer in ((tape.STATE, stream._state), (tape.SCRATCH, stream._scratch)):
            room = np.full(buffer.size + 2 * guard, 1e9, np.float32)
            room[guard:-guard] = buffer
            plan[field] = room.ctypes.data + 4 * guard
            rooms.append(room)
        xs = case.frames(70, seed=50)
        at = 0
        for n in (1, 3, 32, 0, 34):
            stream.run(piece(xs, at, at + n))
            at += n
            stream._clock[0] = at  # the stream still reads its clock from the old buffer
        for room in rooms:
            assert (room[:guard] == 1e9).all(), f"{case}: something was written before a buffer"
            assert (room[-guard:] == 1e9).all(), f"{case}: something was written behind a buffer"


@pytest.mark.parametrize(("padding", "stride"), [(5, 50), (5_000_000, 50_000_000)])
def test_a_convolution_that_sees_nothing_but_padding_is_its_bias(padding: int, stride: int) -> None:
    layer = trained(s.FrameConv1d(1, 3, 1, stride=stride, padding=padding))
    model = Sequential(Input((1, 1)), layer)
    y = model.step(np.ones((1, 1), np.float32))
    assert np.array_equal(y, layer.weights["bias"][:, None])


# Feedback -----------------------------------------------------------------------------------------


def _leaky(**options: Any) -> Any:
    x, h = Input(3), s.Past(3)()
    return Model(x, h + x, feedback=options.get("feedback", lambda x, h: {h: h + x})(x, h))


def test_a_past_value_is_the_one_of_the_frame_before() -> None:
    model = _leaky(feedback=lambda x, h: {h: x})
    xs = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert model.run(xs).tolist() == (xs + np.vstack([np.zeros(3), xs[:-1]])).tolist()


def test_a_running_sum_by_feedback() -> None:
    ones = np.ones((40, 3), np.float32)
    assert _leaky().run(ones)[-1].tolist() == [40.0] * 3


def test_a_past_value_may_begin_elsewhere() -> None:
    x, past = Input(2), s.Past(2, name="memory")
    past.initial_state = {"": np.array([1.0, 2.0])}
    h = past()
    model = Model(x, h + x, feedback={h: x})
    assert model.step(np.zeros(2, np.float32)).tolist() == [1.0, 2.0]
    model.state["memory"] = np.array([5, 6], np.float32)
    assert model.step(np.zeros(2, np.float32)).tolist() == [5.0, 6.0]


@pytest.mark.parametrize(
    ("feedback", "message"),
    [
        (lambda x, h: {}, "takes no value: say which in the model's `feedback`"),
        (lambda x, h: {h: h, x: h}, "is no Past that the outputs depend on"),
        (lambda x, h: {h: h, s.Past(3)(): h}, "is no Past that the outputs depend on"),
        (lambda x, h: {h: x[:2]}, r"cannot take a float32 value of shape \(2,\)"),
        (lambda x, h: {h: s.Conv1d(3, 3, 1, stride=2)(x)}, "every 2 frames"),
    ],
)
def test_feedback_that_cannot_be_is_refused(feedback: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        _leaky(feedback=feedback)


def test_a_past_value_reads_a_rate_at_most() -> None:
    with pytest.raises(GraphError, match="reads nothing, or one value for its rate, got 2"):
        s.Past(3)(Input(3), Input(3))


def test_a_model_with_feedback_is_a_layer_with_states_of_its_own_in_each_place() -> None:
    leaky = _leaky()
    xs = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    twice = Sequential(leaky, s.Tanh(), leaky, name="twice")
    y = twice.stream().run(xs)
    assert_close(y, np.cumsum(np.tanh(np.cumsum(xs, 0)), 0), 1e-5)
    assert_same(run_in_steps(twice.stream(), xs), y, "step by step")
    assert len(twice.stream().state) == 2


def test_models_of_other_wiring_have_other_fingerprints() -> None:
    def wired(swap: bool) -> Any:
        a, b = Input(2), Input(2)
        return Model([a, b], a - b if not swap else b - a).program().fingerprint

    assert wired(False) == wired(False) != wired(True)


def test_a_model_may_hand_its_input_on():
    x = Input(3)
    frame = np.arange(3, dtype=np.float32)
    assert np.array_equal(Model(x, x).stream().step(frame), frame)
    first, second = Model(x, [x, x]).stream().step(frame)
    assert np.array_equal(first, frame)
    assert np.array_equal(second, frame)
