"""Numbers from elsewhere: torch's in ``golden/``, those of trained models in ``STREAMRNN_GOLDEN``.

These run without torch. What trained models of other projects compute is not copied into this
repository: those tests read the folder that ``STREAMRNN_GOLDEN`` names, and skip without it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import streamrnn as s
from checks import assert_close, assert_same, run_in_pieces, run_in_steps
from sources import golden_arrays
from streamrnn import Layer, ReferenceStream
from trained import streamflow

HERE = Path(__file__).parent / "golden"

CELLS: dict[str, Layer] = {
    "rnn_tanh": s.RNN(5, 11),
    "rnn_relu": s.RNN(5, 11, nonlinearity="relu"),
    "gru": s.GRU(5, 11),
    "lstm": s.LSTM(5, 11),
    "gru_3_layers": s.GRU(5, 11, num_layers=3),
    "lstm_3_layers": s.LSTM(5, 11, num_layers=3),
    "gru_no_bias": s.GRU(5, 11, bias=False),
}
LAYERS: dict[str, Layer] = {
    "conv1d": s.Conv1d(6, 10, 3),
    "conv1d_strided": s.Conv1d(6, 10, 3, stride=3),
    "conv1d_dilated": s.Conv1d(6, 10, 3, dilation=4),
    "conv1d_groups": s.Conv1d(6, 10, 3, groups=2, bias=False),
    "layer_norm": s.LayerNorm(21),
}


def _golden(case: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return weights and data of one case."""
    with np.load(HERE / "torch_cells.npz") as file:
        arrays = {n.removeprefix(f"{case}/"): file[n] for n in file if n.startswith(f"{case}/")}
    weights = {n[8:]: a for n, a in arrays.items() if n.startswith("weights/")}
    return weights, {n: a for n, a in arrays.items() if not n.startswith("weights/")}


def test_the_golden_file_is_small_and_has_a_test_for_each_case() -> None:
    assert (HERE / "torch_cells.npz").stat().st_size < 200_000
    with np.load(HERE / "torch_cells.npz") as file:
        assert {name.split("/")[0] for name in file} == CELLS.keys() | LAYERS.keys()


@pytest.mark.parametrize("case", [*CELLS, *LAYERS])
def test_kernels_and_reference_give_what_torch_gave(case: str) -> None:
    layer = (CELLS | LAYERS)[case]
    weights, data = _golden(case)
    layer.load_state_dict(weights)
    x, y = data["x"], data["y"]
    assert_close(layer.stream().run(x), y, 1e-5)
    assert_close(run_in_steps(layer.stream(), x), y, 1e-5)
    assert_close(ReferenceStream(layer).run(x), y, 1e-6, "reference")


@pytest.mark.parametrize("case", CELLS)
def test_the_last_states_are_torchs(case: str) -> None:
    layer = CELLS[case]
    weights, data = _golden(case)
    layer.load_state_dict(weights)
    stream = layer.stream()
    run_in_pieces(stream, data["x"], [7, 0, 33])
    kind = case.split("_")[0]
    for letter in "hc":
        for k, wanted in enumerate(data.get(f"{letter}_last", ())):
            assert_close(stream.state[f"{kind}_{k}.{letter}"], wanted, 1e-5, f"{letter}{k}")


# Trained models -----------------------------------------------------------------------------------


def test_streamflow_over_a_month_of_real_hours() -> None:
    """One step an hour with the state carried on; the cell state reaches several hundred."""
    data = golden_arrays("noaa_streamflow.npz")
    stream = streamflow(data).stream()
    y = run_in_pieces(stream, data["x"], [1, 0, 24, 100, 595])[:, 0]
    # The float64 re-implementation is 3.8e-6 from the model's own output; four times that is fair.
    assert_close(y, data["y"], 1.5e-5)
    assert_close(y, data["y_float64"], 1.5e-5)
    discharge = 0.07878 + 0.18175 * y.astype(np.float64)
    # Mean and deviation are known to five digits: the model's own y is 1.7e-5 off with them.
    assert_close(discharge, data["q_mm_per_hour"], 3e-5, "discharge in mm/h")
    assert_close(stream.state["lstm.h"], data["h_last"][0, 0], 1.5e-5, "h")
    assert np.abs(data["c_last"]).max() > 100
    assert_close(stream.state["lstm.c"], data["c_last"][0, 0], 1.5e-5, "c, relative")


def test_streamflow_hour_by_hour_and_resumed_from_a_snapshot() -> None:
    data = golden_arrays("noaa_streamflow.npz")
    model = streamflow(data)
    whole = model.stream().run(data["x"])
    stream = model.stream()
    for t in range(300):
        assert_same(stream.step(data["x"][t]), whole[t], f"hour {t}")
    later = model.stream()
    later.restore(stream.snapshot())
    assert_same(later.run(data["x"][300:]), whole[300:], "after the snapshot")


def test_streamflow_reference_is_the_float64_model() -> None:
    data = golden_arrays("noaa_streamflow.npz")
    y = ReferenceStream(streamflow(data)).run(data["x"])[:, 0]
    assert_close(y, data["y_float64"], 1e-9)
