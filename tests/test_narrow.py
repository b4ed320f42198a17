"""Weights kept in float16 and bfloat16: rounded once, and then nothing but float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

import streamrnn as sr
from checks import assert_same, check_chunks, check_reset, check_snapshot, parts
from streamrnn import ConfigError, WeightError
from streamrnn.graph import Graph
from streamrnn.kernels import simd
from streamrnn.kernels.tape import Frames, Scratch, Weights, kernel
from streamrnn.narrow import narrowed, rounded, widened
from streamrnn.quantize import compare
from streamrnn.rewrite import fold_batch_norm
from test_quantize import frames, mixed
from zoo import CASES, Case, trained

TWO_BYTES = ("float16", "bfloat16")


def narrow_ops(model: sr.Layer) -> list[sr.Op]:
    """Return the ops of a model whose matrices can be kept in two bytes."""
    ops = {id(node.op): node.op for node in model.graph().nodes}.values()
    return [op for op in ops if not op.needs_float32()]


def _narrow(case: Case, storage: str) -> Case:
    def build() -> sr.Layer:
        model = case.build()
        for op in narrow_ops(model):
            op.storage = storage
        return model

    return dataclasses.replace(case, name=f"{case}, {storage}", build=build)


def few(graph: Graph) -> bool:
    """Whether a model has few ops, and float32 weights are not altered before they are compiled."""
    return len(graph.nodes) <= 5 and fold_batch_norm(graph) is graph


# One storage each, so that every case is taken and every op has both.
NARROW = [
    _narrow(case, TWO_BYTES[(i + i // 4) % 2])
    for i, case in enumerate(
        c for c in CASES if type(c) is Case and narrow_ops(c.build()) and few(c.build().graph())
    )
]


def test_the_cases_hold_every_op_in_both_storages() -> None:
    found = {(type(op).__name__, op.storage) for c in NARROW for op in narrow_ops(c.build())}
    kinds = {"LSTMCell", "GRUCell", "RNNCell", "Linear", "Conv1d", "FrameConv1d", "Embedding"}
    assert found == {(kind, storage) for kind in kinds for storage in TWO_BYTES}


@pytest.mark.parametrize("case", NARROW, ids=repr)
def test_results_are_those_of_rounded_float32_weights(case: Case) -> None:
    """Bit for bit, in a stream, in a pool, and with two threads."""
    model, plain = case.model, case.fresh()
    for op in narrow_ops(plain):
        op.storage = "float32"  # the numbers are rounded already
    xs = case.frames(40)
    wanted = plain.stream().run(xs)
    assert_same(model.stream().run(xs), wanted, "float32 weights")
    assert_same(model.stream(threads=2).run(xs), wanted, "two threads")
    pools = model.pool(), plain.pool()
    for pool in pools:
        pool.join(5)
    for t in range(6):
        rows = [x[t : t + 5] for x in (xs if isinstance(xs, tuple) else (xs,))]
        batch = rows[0] if len(rows) == 1 else tuple(rows)
        assert_same(*(pool.step(batch) for pool in pools), "in a pool")


@pytest.mark.parametrize("case", NARROW[:: max(1, len(NARROW) // 12)], ids=repr)
def test_promises_hold(case: Case) -> None:
    check_chunks(case)
    check_reset(case)
    check_snapshot(case)


# Rounding -----------------------------------------------------------------------------------------


def every_float16() -> np.ndarray:
    bits = np.arange(1 << 16, dtype=np.uint16)
    return bits[np.isfinite(bits.view(np.float16))]


def test_float16_rounds_as_numpy_and_bfloat16_to_the_nearest_even() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(100_000) * 10.0 ** rng.integers(-9, 4, 100_000)).astype(np.float32)
    assert_same(rounded(x, "float16"), x.astype(np.float16).astype(np.float32), "float16")
    upper = (x.view(np.uint32) >> 16).astype(np.uint32)
    low, high = ((upper + k << 16).astype(np.uint32).view(np.float32) for k in (0, 1))
    below, above = (np.abs(x.astype(float) - end) for end in (low, high))
    even = np.where(upper % 2 == 0, low, high)
    wanted = np.where(below < above, low, np.where(above < below, high, even))
    assert_same(rounded(x, "bfloat16"), wanted, "bfloat16")
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x00008000], np.uint32).view(np.float32)
    assert narrowed(ties, "bfloat16").tolist() == [0x3F80, 0x3F82, 0xBF80, 0x0000]


def test_bfloat16_rounds_as_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).integers(0, 0x7F7F0000, 100_000, np.uint32).view(np.float32)
    wanted = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    assert_same(rounded(x, "bfloat16"), wanted, "bfloat16")


@pytest.mark.parametrize("storage", TWO_BYTES)
@pytest.mark.parametrize("half", [True, False])
def test_every_number_is_widened_exactly(
    storage: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subnormal numbers too, with the CPU's instruction and without it."""
    target = dataclasses.replace(simd.host(), half=half and simd.host().half)
    monkeypatch.setattr(simd, "host", lambda: target)
    pointer, lanes = getattr(simd, f"as_{storage}"), simd.lanes
    floats, load, store = simd.floats, simd.load, simd.store

    @njit(error_model="numpy")
    def widen(n: int, source: int, result: int) -> None:
        w, y = pointer(floats(source)), floats(result)
        for i in range(0, n, lanes()):
            store(y, i, load(w, i))

    bits = every_float16()
    if storage == "bfloat16":
        bits = np.arange(1 << 16, dtype=np.uint16)
        bits = bits[np.isfinite(widened(bits, storage))]
    bits = bits[: len(bits) // 16 * 16]
    found = np.empty(len(bits), np.float32)
    widen(len(bits), bits.ctypes.data, found.ctypes.data)
    assert_same(found, widened(bits, storage), storage)


# Models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "least_db"), [("float16", 60), ("bfloat16", 42)])
def test_a_quantised_model_keeps_two_bytes_in_memory_and_files(
    storage: str, least_db: float, tmp_path: Path
) -> None:
    model = mixed()
    made = model.quantize(storage)
    notes = made.metadata["quantization"]
    assert notes["kept"] == {"head": "99 weights: below 1024 nothing is gained"}
    assert set(notes["quantised"].values()) == {f"weights {storage}"}
    assert made.program().weights.nbytes < 0.56 * model.program().weights.nbytes
    report = compare(model, made, frames(100), 300)
    assert report.quantised_bytes < 0.52 * report.float_bytes
    assert all(row["snr_db"] > least_db for row in report.errors("y").values())
    for n, layer in (("small", made), ("large", model)):
        layer.save(tmp_path / f"{n}.safetensors")
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("small", "large")]
    assert sizes[0] < 0.55 * sizes[1]
    loaded = sr.load(tmp_path / "small.safetensors")
    assert_same(loaded.run(frames(50)), made.run(frames(50)), "the file")
    assert [n.op.storage for n in loaded.graph().nodes] == [
        n.op.storage for n in made.graph().nodes
    ]
    other = "bfloat16" if storage == "float16" else "float16"
    again = made.quantize(other, keep=["gru_0"])
    found = {n.name: n.op.storage for n in again.graph().nodes}
    assert (found["gru_0"], found["gru_1"]) == (storage, other)


@pytest.mark.parametrize("storage", TWO_BYTES)
def test_others_read_the_file(storage: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    made = trained(sr.LSTM(9, 40, name="l")).quantize(storage)
    made.save(tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    assert found["l.weight_hh"].dtype == getattr(torch, storage)
    assert found["l.bias_hh"].dtype == torch.float32
    for name, wanted in made.state_dict().items():
        assert_same(found[name].float().numpy(), wanted, name)


def test_an_exported_model_has_the_rounded_weights(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from streamrnn.export import OnnxStream, to_onnx

    made = mixed().quantize("bfloat16")
    to_onnx(made, tmp_path / "m.onnx")
    xs = frames(30)
    got = OnnxStream(tmp_path / "m.onnx").run(xs)
    np.testing.assert_allclose(parts(got)[0], made.run(xs), atol=2e-6)


def test_new_weights_are_rounded_too_and_int8_is_made_of_rounded_ones() -> None:
    layer = sr.Linear(40, 40)
    layer.storage = "bfloat16"
    w = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    layer.load_state_dict({"weight": w, "bias": w[0]})
    assert_same(layer.weights["weight"], rounded(w, "bfloat16"), "weight")
    assert_same(layer.weights["bias"], w[0], "bias")
    assert not layer.weights["weight"].flags.writeable
    made = layer.quantize("int8").graph().nodes[0].op
    assert (type(made).__name__, made.storage) == ("Int8Linear", "float32")


def test_batch_normalisation_is_not_folded_into_rounded_weights() -> None:
    x = sr.Input(20)
    linear = sr.Linear(20, 20)
    model = trained(sr.Model(x, sr.BatchNorm1d(20)(linear(x))))
    before = model.run(frames(20))
    linear.storage = "float16"
    np.testing.assert_allclose(model.run(frames(20)), before, atol=0.02)
    assert set(model.program().owners) == {"linear_0", "batchnorm1d_0"}


def test_numbers_beyond_the_range_are_refused_by_name() -> None:
    layer = sr.Linear(40, 40, name="big")
    w = layer.state_dict()
    w["weight"][3, 4] = -7e4
    layer.load_state_dict(w)
    with pytest.raises(
        ConfigError,
        match=r"big.weight: its largest number, 70000, is over float16's 65504: keep it in "
        r"float32 with keep=\['big'\], or take 'bfloat16'",
    ):
        layer.quantize("float16")
    with pytest.raises(WeightError, match="weight: its largest number, 70000, is over float16's"):
        layer.storage = "float16"
    assert layer.storage == "float32"
    assert layer.weights["weight"][3, 4] == -7e4
    layer.storage = "bfloat16"
    w["weight"][3, 4] = 3.4e38
    with pytest.raises(WeightError, match=r"is over bfloat16's 3.38953e\+38"):
        layer.load_state_dict(w)
    assert layer.weights["weight"][3, 4] == rounded(np.float32([-7e4]), "bfloat16")[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.quantize("float16", calibration=frames(5)),
            "`calibration` is for 'int8' only",
        ),
        (lambda m: m.quantize("half"), "`mode` must be one of 'int8', 'float16', 'bfloat16'"),
        (lambda m: setattr(m, "storage", "float64"), "`storage` must be one of 'float32', "),
        (lambda m: m.quantize("float16").quantize("float16"), "weights are float16 already"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(sr.Linear(40, 40))


def test_ops_without_a_form_say_so() -> None:
    for op in (sr.FrameConv2d(2, 3, (3, 3)), sr.Int8Linear(4, 4), sr.Int8LSTMCell(4, 4)):
        with pytest.raises(ConfigError, match="`storage` can only be 'float32', got 'float16'"):
            op.storage = "float16"


def test_a_kernel_that_cannot_read_two_bytes_does_not_get_them() -> None:
    @kernel
    def as_floats(T: Frames, x: Scratch, y: Scratch, w: Weights) -> None:
        pass

    class Careless(sr.Linear):
        def lower(self, tape: Any, *xs: Any) -> Any:
            y = tape.output()
            tape.emit(as_floats, x=xs[0], y=y, w=tape.matrix(self.weights["weight"]))
            return y

    layer = Careless(3, 3)
    try:
        layer.storage = "float16"
        with pytest.raises(TypeError, match="`w` must be a Matrix if it is packed"):
            layer.program()
    finally:
        del sr.ops.REGISTRY["Careless"]


def test_the_command_takes_the_modes(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    from test_cli import run

    mixed().save(tmp_path / "m.safetensors")
    np.save(tmp_path / "xs.npy", frames(50))
    small = tmp_path / "small.safetensors"
    options = ["--mode", "bfloat16", "--calibration", tmp_path / "xs.npy", "--steps", "50"]
    done = run("quantize", tmp_path / "m.safetensors", "-o", small, *options)
    assert done.exit_code == 0, done.output
    assert "gru_0: weights bfloat16" in done.output
    assert sr.load(small).graph().nodes[0].op.storage == "bfloat16"
