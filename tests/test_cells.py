"""Recurrent cells: accuracy over long runs, silence, extreme inputs, weights, cases by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, parts
from streamrnn import ConfigError, ReferenceStream, WeightError
from zoo import CASES, Case, trained

TINY = float(np.finfo(np.float32).tiny)
"""Smallest normal float32."""

CELLS: dict[str, Callable[..., Any]] = {
    "RNNCell": s.RNNCell,
    "RNNCell relu": lambda I, H, **o: s.RNNCell(I, H, nonlinearity="relu", **o),
    "GRUCell": s.GRUCell,
    "GRUCell reset before": lambda I, H, **o: s.GRUCell(I, H, reset_after=False, **o),
    "LSTMCell": s.LSTMCell,
}
every_cell = pytest.mark.parametrize("kind", CELLS)
SATURATING = [kind for kind in CELLS if "relu" not in kind]
"""A ReLU passes large numbers on, as it should: its state may overflow."""


# Accuracy -----------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("H", [1, 3, 20, 100])
def test_ten_thousand_steps_stay_with_float64(kind: str, H: int) -> None:
    cell = CELLS[kind](4, H, seed=H)  # torch's initialisation: the recurrence forgets
    xs = np.random.default_rng(H).standard_normal((10_000, 4)).astype(np.float32)
    reference = ReferenceStream(cell)
    stream = cell.stream()
    assert_close(stream.run(xs), reference.run(xs), 1e-5)
    for name, value in reference.state.items():
        assert_close(stream.state[name], value, 1e-5, name)


def test_a_cell_state_that_grows_is_right_relative_to_its_size() -> None:
    """Trained models reach |c| of several hundred (MODELS.md); forget gates near 1 sum that up."""
    cell = s.LSTMCell(1, 3)
    weights = {n: np.zeros(shape, np.float32) for n, shape in cell.parameter_shapes().items()}
    weights["weight_ih"][6:9, 0] = 0.5  # g = tanh(x / 2 …)
    weights["bias_ih"][:] = np.repeat([3.0, 9.0, 0.0, 0.0], 3)  # i, f open, o half open
    weights["weight_hh"][6:9] = 0.02 * np.arange(9).reshape(3, 3)
    cell.load_state_dict(weights)
    xs = np.ones((3000, 1), np.float32)
    reference, stream = ReferenceStream(cell), cell.stream()
    assert_close(stream.run(xs), reference.run(xs), 1e-5)
    assert reference.state["lstm_0.c"].min() > 500
    assert_close(stream.state["lstm_0.c"], reference.state["lstm_0.c"], 1e-4, "c")


def test_gru_with_the_reset_before_the_product_by_hand() -> None:
    """No framework here has this form, so it is worked out by hand.

    Two units, one input, h = (0.4, 0.8), x = 2. All weights are zero but these::

        r = sigmoid((0, ln 3))   b_hr = (0, ln 3)        -> r = (1/2, 3/4)
        z = sigmoid((0, -ln 3))  b_iz = (0, -ln 3)       -> z = (1/2, 1/4)
        W_hn = [[0, 1], [1, 0]]  (swaps the units), W_in = (0.1, -0.1), b_hn = (0.2, 0.1)

    Reset before: r * h = (0.2, 0.6); W_hn (r * h) = (0.6, 0.2); W_in x = (0.2, -0.2)::

        n = tanh((0.2 + 0.6 + 0.2, -0.2 + 0.2 + 0.1)) = tanh((1.0, 0.1))
          = (0.7615941560, 0.0996679946)
        h' = (1 - z) n + z h = (0.5 * 0.7615941560 + 0.5 * 0.4, 0.75 * 0.0996679946 + 0.25 * 0.8)
           = (0.5807970780, 0.2747509960)

    Reset after: W_hn h + b_hn = (1.0, 0.5); r * that = (0.5, 0.375)::

        n = tanh((0.2 + 0.5, -0.2 + 0.375)) = tanh((0.7, 0.175)) = (0.6043677771, 0.1732354127)
        h' = (0.5 * 0.6043677771 + 0.2, 0.75 * 0.1732354127 + 0.2) = (0.5021838886, 0.3299265595)
    """
    ln3 = math.log(3.0)
    weights = {
        "weight_ih": np.array([[0], [0], [0], [0], [0.1], [-0.1]]),
        "weight_hh": np.array([[0, 0], [0, 0], [0, 0], [0, 0], [0, 1], [1, 0]], float),
        "bias_ih": np.array([0, 0, 0, -ln3, 0, 0]),
        "bias_hh": np.array([0, ln3, 0, 0, 0.2, 0.1]),
    }
    for reset_after, wanted in (
        (False, [0.5807970780, 0.2747509960]),
        (True, [0.5021838886, 0.3299265595]),
    ):
        cell = s.GRUCell(1, 2, reset_after=reset_after)
        cell.load_state_dict(weights)
        cell.initial_state = {"h": [0.4, 0.8]}
        x = np.array([2.0], np.float32)
        assert_close(cell.stream().step(x), np.array(wanted), 1e-6, f"reset_after={reset_after}")
        assert_close(ReferenceStream(cell).step(x), np.array(wanted), 1e-6, "reference")


def test_lstm_by_hand() -> None:
    """One unit: i = 3/4, f = 1/4, g = tanh(1), o = 1/2, c = 2::

    c' = 0.25 * 2 + 0.75 * 0.7615941560 = 1.0711956170
    h' = 0.5 * tanh(1.0711956170) = 0.5 * 0.7899112458 = 0.3949556229
    """
    ln3 = math.log(3.0)
    cell = s.LSTMCell(1, 1)
    cell.load_state_dict(
        {
            "weight_ih": np.array([[0.0], [0.0], [0.5], [0.0]]),
            "weight_hh": np.zeros((4, 1)),
            "bias_ih": np.array([ln3, 0.0, 0.0, 0.0]),
            "bias_hh": np.array([0.0, -ln3, 0.0, 0.0]),
        }
    )
    stream = cell.stream()
    stream.state["lstm_0.c"] = np.array([2.0], np.float32)
    assert_close(stream.step(np.array([2.0], np.float32)), np.array([0.3949556229]), 1e-6)
    assert_close(stream.state["lstm_0.c"], np.array([1.0711956170]), 1e-6, "c")


# Silence and extremes -----------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("H", [1, 20])
def test_a_million_silent_frames_leave_no_subnormal_numbers(kind: str, H: int) -> None:
    """Decaying states must end at zero: subnormal numbers make a CPU up to 100 times slower."""
    cell = CELLS[kind](3, H, seed=5)
    cell.load_state_dict(  # without biases, silence is the fixed point that states decay to
        {n: w * ("weight" in n) for n, w in cell.state_dict().items()}
    )
    stream = cell.stream()
    stream.step(np.full(3, 2.0, np.float32))  # the impulse
    assert any(state.any() for state in stream.state.values())
    silence = np.zeros((20_000, 3), np.float32)
    for n in (1, 5, 20, 50, 100, 150, 200, 300, 500, 1000, 5000, 20_000, *[20_000] * 49):
        ys = stream.run(silence[:n])
        for name, state in {**stream.state, "output": ys}.items():
            subnormal = (state != 0) & (np.abs(state) < TINY)
            assert not subnormal.any(), (
                f"{name} holds {subnormal.sum()} subnormal numbers after {stream.frames - 1} "
                f"silent frames, e.g. {state[subnormal][0]!r}"
            )
    assert stream.frames > 1_000_000
    for name, state in stream.state.items():
        assert not state.any(), f"{name} has not come to rest: {state[state != 0][:3]}"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((kind, value) for kind in SATURATING for value in (1e30, -1e30, 3.4e38)),
        *((kind, value) for kind in CELLS for value in (0.0, 1e-45, -1e-40)),
    ],
)
def test_extreme_inputs_give_finite_outputs_and_the_state_recovers(kind: str, value: float) -> None:
    cell = trained(CELLS[kind](4, 20))
    stream = cell.stream()
    extreme = np.array([value, 1.0, -value, 0.5], np.float32)
    for _ in range(5):
        assert np.isfinite(stream.step(extreme)).all()
    assert all(np.isfinite(state).all() for state in stream.state.values())
    xs = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    with_extreme, without = stream.run(xs), cell.stream().run(xs)
    assert np.isfinite(with_extreme).all()
    assert np.abs(with_extreme[-1] - without[-1]).max() < 1e-3, "the past is never forgotten"


@pytest.mark.parametrize("kind", SATURATING)
def test_overflowing_products_saturate_instead_of_turning_into_nan(kind: str) -> None:
    """Every gate sum overflows to one infinity or the other: the limits are still exact."""
    cell = CELLS[kind](1, 3)
    weights = {n: np.zeros(shape, np.float32) for n, shape in cell.parameter_shapes().items()}
    weights["weight_ih"][:] = 3e38
    cell.load_state_dict(weights)
    for x in (3e38, -3e38):
        stream = cell.stream()
        y = stream.step(np.array([x], np.float32))
        with np.errstate(over="ignore"):
            wanted = ReferenceStream(cell).step(np.array([x]))
        assert np.isfinite(y).all()
        assert_close(y, wanted, 1e-6)


def test_infinite_frames_pass_through_a_propagating_stream() -> None:
    stream = trained(s.GRUCell(2, 5)).stream("propagate")
    stream.step(np.array([np.inf, 1.0], np.float32))
    assert stream.frames == 1


# Weights ------------------------------------------------------------------------------------------


def test_weights_have_torchs_names_and_shapes() -> None:
    assert {n: w.shape for n, w in s.LSTMCell(3, 5).state_dict().items()} == {
        "weight_ih": (20, 3),
        "weight_hh": (20, 5),
        "bias_ih": (20,),
        "bias_hh": (20,),
    }
    assert {n: w.shape for n, w in s.GRU(3, 5, num_layers=2, bias=False).state_dict().items()} == {
        "weight_ih_l0": (15, 3),
        "weight_hh_l0": (15, 5),
        "weight_ih_l1": (15, 5),
        "weight_hh_l1": (15, 5),
    }
    assert s.RNNCell(3, 5).state_dict()["weight_ih"].shape == (5, 3)


def _weights(cell: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(w.shape).astype("f4") for n, w in cell.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("bias_hh"), r"missing: bias_hh \(12,\)"),
        (lambda w: w.update(weight_hr=w["bias_ih"]), r"unknown: weight_hr float32 \(12,\)"),
        (
            lambda w: w.update(bias_ih=w["bias_ih"][:9]),
            r"bias_ih: expected shape \(12,\), got \(9,\)",
        ),
        (lambda w: w.update(weight_ih=w["weight_ih"].T), r"weight_ih: expected shape \(12, 3\)"),
        (
            lambda w: w.update(bias_ih=np.zeros(12, int)),
            "bias_ih: expected floating-point .* int64",
        ),
        (lambda w: w.update(bias_ih=w["bias_ih"] * np.nan), "bias_ih: holds a NaN"),
        (
            lambda w: w.update(bias_ih=w["bias_ih"].astype(float) * 1e300),
            "beyond the range of float32",
        ),
        (lambda w: w.update(bias_ih="zeros"), "bias_ih: expected floating-point"),
        (lambda w: w.update(bias_ih=[[1.0], [1.0, 2.0]]), r"bias_ih: expected an array of shape"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_taken(
    change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    cell = s.LSTMCell(3, 3, seed=1)
    before, x = cell.state_dict(), np.ones(3, np.float32)
    y = cell.stream().step(x)
    weights = _weights(cell)
    change(weights)
    with pytest.raises(WeightError, match=message):
        cell.load_state_dict(weights)
    for name, array in cell.state_dict().items():
        assert_same(array, before[name], name)
    assert_same(cell.stream().step(x), y, "after weights were refused")


def test_a_variance_below_zero_is_refused() -> None:
    """It would give NaN in every frame."""
    norm = s.BatchNorm1d(2)
    weights = norm.state_dict() | {"running_var": np.array([1.0, -0.5])}
    with pytest.raises(WeightError, match=r"running_var: .*negative"):
        norm.load_state_dict(weights)


def test_all_problems_of_a_state_dict_are_told_at_once() -> None:
    gru = s.GRU(3, 4, num_layers=2)
    weights = _weights(gru)
    weights["weight_ih_l2"] = weights.pop("weight_ih_l1")
    weights["bias_ih_l0"] = np.zeros(3)
    with pytest.raises(WeightError) as error:
        gru.load_state_dict(weights)
    for part in ("missing: weight_ih_l1", "unknown: weight_ih_l2", "bias_ih_l0: expected shape"):
        assert part in str(error.value)


def test_a_deeper_state_dict_is_not_loaded_into_a_shallower_stack() -> None:
    """Loaders that look for ``_l0`` only have loaded half a model without a word."""
    with pytest.raises(WeightError, match=r"unknown: .*_l1"):
        s.LSTM(3, 4).load_state_dict(_weights(s.LSTM(3, 4, num_layers=2)))
    weights = _weights(s.LSTM(3, 4))
    with pytest.raises(WeightError, match=r"unknown: .*_reverse"):
        s.LSTM(3, 4).load_state_dict(weights | {f"{n}_reverse": a for n, a in weights.items()})


def test_float64_weights_are_rounded_once() -> None:
    cell, doubles = s.GRUCell(2, 3), s.GRUCell(2, 3)
    weights = {n: a.astype(np.float64) / 3 for n, a in _weights(cell).items()}
    doubles.load_state_dict(weights)
    cell.load_state_dict({n: a.astype(np.float32) for n, a in weights.items()})
    for name, array in doubles.state_dict().items():
        assert array.dtype == np.float32
        assert_same(array, cell.state_dict()[name], name)


def test_weights_are_copied_both_ways() -> None:
    cell = s.RNNCell(2, 3)
    weights = _weights(cell)
    cell.load_state_dict(weights)
    y = cell.stream().step(np.ones(2, np.float32))
    for array in (*weights.values(), *cell.state_dict().values()):
        array[...] = 0
    assert_same(cell.stream().step(np.ones(2, np.float32)), y, "after the caller's arrays changed")


def test_new_weights_reach_new_streams_only() -> None:
    cell = s.GRUCell(2, 3, seed=0)
    x = np.ones(2, np.float32)
    old = cell.stream()
    twin = cell.stream()
    cell.step(x)
    cell.load_state_dict(_weights(cell))
    assert cell._stream.frames == 0, "the cell's own stream starts anew"
    assert_same(old.step(x), twin.step(x), "streams that exist go on")
    new = s.GRUCell(2, 3)
    new.load_state_dict(_weights(cell))
    assert_same(cell.step(x), new.step(x), "new weights")


@pytest.mark.parametrize("changes", [1, 2, 3, 4, 5, 6])
def test_any_number_of_new_weights_between_steps_is_noticed(changes: int) -> None:
    """Whether a model is up to date must not hang on an address that Python uses again."""
    layer, x = s.Linear(3, 3), np.ones(3, np.float32)
    for trial in range(20):
        layer.step(x)
        for k in range(changes):
            weights = np.full((3, 3), trial + k / 8, np.float32)
            layer.weights = {"weight": weights, "bias": np.zeros(3, np.float32)}
        assert_same(layer.step(x), weights.sum(1), f"trial {trial}")


def test_seeds_make_weights_reproducible_and_different() -> None:
    a, b, c = s.LSTM(3, 5, 2, seed=4), s.LSTM(3, 5, 2, seed=4), s.LSTM(3, 5, 2, seed=5)
    for name, array in a.state_dict().items():
        assert_same(array, b.state_dict()[name], name)
        assert (array != c.state_dict()[name]).any()
    layers = a.state_dict()
    assert (layers["weight_hh_l0"] != layers["weight_hh_l1"]).any(), "layers must not be twins"
    assert (
        s.GRUCell(3, 5).state_dict()["bias_ih"] != s.GRUCell(3, 5).state_dict()["bias_ih"]
    ).any()


@pytest.mark.parametrize("seed", [-1, 1.5, "a", [1, 2]])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    for make in (s.GRUCell, s.LSTM):
        with pytest.raises(ConfigError, match="`seed`"):
            make(3, 5, seed=seed).state_dict()


@every_cell
def test_initial_weights_are_uniform_in_torchs_bound(kind: str) -> None:
    bound = 1 / math.sqrt(50)
    for name, array in CELLS[kind](30, 50, seed=0).state_dict().items():
        assert np.abs(array).max() <= bound, name
        assert np.abs(array).max() > 0.9 * bound, name
        assert abs(array.mean()) < 0.2 * bound, name


@pytest.mark.parametrize("case", CASES[::2], ids=repr)
def test_a_layer_works_before_it_is_trained(case: Case) -> None:
    """Initial weights, of which the zoo otherwise sees none."""
    xs = case.frames(20)
    model = case.build()
    assert_close(model.stream().run(xs), ReferenceStream(model).run(*parts(xs)), case.tolerance)


# A cell used by itself ----------------------------------------------------------------------------


@every_cell
def test_a_cell_keeps_its_hidden_state_between_calls(kind: str) -> None:
    cell = trained(CELLS[kind](3, 5))
    xs = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    wanted = cell.stream().run(xs)
    assert_same(np.array([cell.step(x) for x in xs[:6]]), wanted[:6], "step")
    assert_same(cell.run(xs[6:]), wanted[6:], "run after step")
    name = next(iter(cell.state))
    assert_same(cell.state[name], wanted[-1], "the hidden state is the last output")
    kept = dict(cell.state)
    cell.reset()
    assert not any(state.any() for state in cell.state.values())
    assert_same(cell.step(xs[0]), wanted[0], "after reset")
    cell.state = kept
    stream = cell.stream()
    stream.state = kept
    assert_same(cell.step(xs[0]), stream.step(xs[0]), "after the state was assigned")
    assert cell.stream().frames == 0, "a stream of its own knows nothing of it"


def test_two_cells_with_equal_weights_have_states_of_their_own() -> None:
    a, b = s.GRUCell(3, 5, seed=1), s.GRUCell(3, 5, seed=1)
    x = np.ones(3, np.float32)
    first = a.step(x)
    a.step(x)
    assert_same(b.step(x), first, "second cell")


# Arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [s.RNN, s.GRU, s.LSTM])
def test_bidirectional_is_refused_with_the_reason(stack: Any) -> None:
    with pytest.raises(ConfigError, match="bidirectional=True cannot run on a live stream"):
        stack(3, 5, bidirectional=True)
    with pytest.raises(ConfigError, match="bidirectional"):
        stack(3, 5, 1, True, True)


@pytest.mark.parametrize(
    "option", ["batch_first", "dropout", "proj_size", "reset_before", "nonlinearty", "device"]
)
@pytest.mark.parametrize("stack", [s.RNN, s.GRU, s.LSTM])
def test_an_unknown_argument_is_refused_by_name(stack: Any, option: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown argument '{option}'"):
        stack(3, 5, **{option: 1})


@pytest.mark.parametrize(
    ("stack", "option"),
    [(s.LSTM, "reset_after"), (s.LSTM, "nonlinearity"), (s.GRU, "nonlinearity")],
)
def test_the_option_of_another_cell_is_refused(stack: Any, option: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown argument '{option}'"):
        stack(3, 5, **{option: True})


@pytest.mark.parametrize("bad", [0, -1, 2.0, "3", None, True])
def test_sizes_must_be_positive_integers(bad: Any) -> None:
    for make in (
        lambda: s.GRUCell(bad, 3),
        lambda: s.LSTMCell(3, bad),
        lambda: s.RNN(3, bad),
        lambda: s.Linear(bad, 3),
        lambda: s.Conv1d(3, 3, bad),
        lambda: s.GRU(3, 3, num_layers=bad),
    ):
        with pytest.raises(ConfigError, match=r"must be an? (positive )?integer.*got "):
            make()


@pytest.mark.parametrize("bad", ["sigmoid", "", None, 1])
def test_another_nonlinearity_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="`nonlinearity` must be"):
        s.RNNCell(3, 5, nonlinearity=bad)
    with pytest.raises(ConfigError, match="`nonlinearity`"):
        s.RNN(3, 5, nonlinearity=bad)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda bad: s.GRUCell(3, 5, bias=bad), "bias"),
        (lambda bad: s.GRUCell(3, 5, reset_after=bad), "reset_after"),
        (lambda bad: s.LSTM(3, 5, bias=bad), "bias"),
        (lambda bad: s.Linear(3, 5, bias=bad), "bias"),
        (lambda bad: s.Conv1d(3, 5, 2, bias=bad), "bias"),
        (lambda bad: s.LayerNorm(3, elementwise_affine=bad), "elementwise_affine"),
        (lambda bad: s.Mean(keepdims=bad), "keepdims"),
    ],
)
def test_a_switch_takes_true_or_false_only(make: Callable[[Any], Any], what: str) -> None:
    """``bias="no"`` must not mean a bias."""
    for bad in ("no", "False", [0], 2):
        with pytest.raises(ConfigError, match=what):
            make(bad)


def test_numpy_integers_are_integers() -> None:
    cell = s.GRUCell(np.int64(3), np.int32(5))
    assert cell.step(np.zeros(3, np.float32)).shape == (5,)
    assert repr(cell) == repr(s.GRUCell(3, 5))
    assert s.GRU(np.int64(3), np.int64(5), num_layers=2).run(np.zeros((2, 3), "f4")).shape == (2, 5)
    assert s.Input(np.int64(4)).shape == (4,)
    assert s.LSTM(3, 5, num_layers=np.int64(2)).stream().step(np.zeros(3, "f4")).shape == (5,)
