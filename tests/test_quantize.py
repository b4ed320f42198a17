"""Models with int8 weights: which ops, how exact, at what cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assets
import silero
import streamrnn as sr
from streamrnn import ConfigError, decode
from streamrnn.kernels.simd import byte_forms, host
from streamrnn.ops.int8_product import even_gain, int8_rows
from streamrnn.quantize import compare
from zoo import trained

RNG = np.random.default_rng(0)


def mixed() -> sr.Model:
    """A convolution, every kind of cell, one in both its forms, and two linear layers."""
    x = sr.Input(20)
    y = sr.RNN(32, 32)(sr.ReLU()(sr.Conv1d(20, 32, 3, name="front")(x)))
    y = sr.GRU(32, 40)(sr.GRU(32, 32, reset_after=False)(y))
    y = sr.Linear(48, 33)(sr.LSTM(40, 48, 2)(y))
    model = sr.Model(x, sr.Linear(33, 3, name="head")(y), {"sample_rate": 8000})
    return trained(model)  # type: ignore[return-value]


def frames(T: int, n: int = 20, seed: int = 0) -> np.ndarray:
    """Return frames whose numbers move together, as those of a spectrum do."""
    rng = np.random.default_rng(seed)
    few = rng.standard_normal((T, 4)) @ rng.standard_normal((4, n))
    return (few + 0.2 * rng.standard_normal((T, n))).astype(np.float32)


def test_a_quantised_model_is_a_new_one_that_says_what_was_done() -> None:
    model = mixed()
    before = model.state_dict()
    made = model.quantize("int8")
    kinds = {node.name: type(node.op).__name__ for node in made.graph().nodes}
    assert kinds["lstm_0"] == kinds["lstm_1"] == "Int8LSTMCell"
    assert kinds["gru_0"] == kinds["gru_1"] == "Int8GRUCell"
    assert (kinds["rnn_0"], kinds["linear_0"]) == ("Int8RNNCell", "Int8Linear")
    assert (kinds["front"], kinds["head"]) == ("Conv1d", "Linear")
    notes = made.metadata["quantization"]
    assert set(notes["kept"]) == {"front", "head"}
    assert "below 1024" in notes["kept"]["head"]
    assert notes["mode"] == "int8"
    assert made.metadata["sample_rate"] == 8000
    assert list(made.graph().states()) == list(model.graph().states())
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert "quantization" not in model.metadata


@pytest.mark.parametrize(
    ("build", "least_db"),
    [
        (lambda: sr.LSTM(40, 64, 2), 30),
        (lambda: sr.GRU(40, 64), 30),
        (lambda: sr.GRU(40, 64, reset_after=False), 30),
        (lambda: sr.RNN(40, 64, nonlinearity="relu"), 25),
        (lambda: sr.Linear(40, 64), 35),
    ],
)
def test_errors_stay_small_over_a_long_stream(build: Any, least_db: float) -> None:
    model = trained(build())
    report = compare(model, model.quantize("int8"), frames(300, 40), 2000)
    errors = report.errors("y")
    assert all(row["snr_db"] > least_db for row in errors.values()), errors
    assert report.quantised_bytes < 0.32 * report.float_bytes


def test_a_file_keeps_a_quantised_model_and_its_bytes(tmp_path: Path) -> None:
    model = mixed()
    made = model.quantize("int8", calibration=frames(200))
    made.save(tmp_path / "small.safetensors")
    model.save(tmp_path / "large.safetensors")
    loaded = sr.load(tmp_path / "small.safetensors")
    xs = frames(50, seed=1)
    assert np.array_equal(loaded.run(xs), made.run(xs))
    assert loaded.metadata == made.metadata
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("small", "large")]
    assert sizes[0] < 0.5 * sizes[1]


def test_states_that_come_from_outside_and_batch_normalisation() -> None:
    """Cells whose states are fed back by the model, and a normalisation folded before rounding."""
    x, past = sr.Input(20), sr.Past(40)()
    new = sr.GRUCell(20, 40)(sr.BatchNorm1d(20)(sr.Linear(20, 20, bias=False)(x)), past)
    model = trained(sr.Model(x, sr.Linear(40, 30)(new), feedback={past: new}))
    xs = frames(300)
    made = model.quantize("int8", calibration=xs, keep=["linear_1"])
    kinds = [type(node.op).__name__ for node in made.graph().nodes]
    assert "Int8GRUCell" in kinds
    assert "BatchNorm1d" not in kinds
    assert compare(model, made, xs, 500).errors("y")[500]["snr_db"] > 30


def test_convolutions_are_rounded_when_asked() -> None:
    x = sr.Input((20, 9))
    y = sr.ReLU()(sr.FrameConv1d(20, 24, 3, padding=1, name="plain")(x))
    y = sr.FrameConv1d(24, 24, 8, padding=4, groups=2, name="groups")(y)
    model = trained(sr.Model(x, sr.Linear(240, 20)(sr.Flatten()(y))))
    xs = frames(200, 180).reshape(200, 20, 9)
    kept = model.quantize("int8").metadata["quantization"]["kept"]
    assert "convolutions=True" in kept["plain"]
    made = model.quantize("int8", convolutions=True, calibration=xs)
    notes = made.metadata["quantization"]
    assert "plain" in notes["quantised"]
    assert notes["kept"] == {"groups": "dilation and groups have no int8 form"}
    assert compare(model, made, xs, 200).errors("y")[200]["snr_db"] > 25


def spectrum_model() -> tuple[sr.Model, np.ndarray]:
    """Return a model of frames whose channels are of very unlike strength, and such frames."""
    x = sr.Input((30, 4))
    y = sr.ReLU()(sr.FrameConv1d(30, 24, 3, padding=1, stride=2, name="unlike")(x))
    model = trained(sr.Model(x, sr.GRU(48, 40, name="gru")(sr.Flatten()(y))))
    strength = np.logspace(2, -2, 30, dtype=np.float32)
    node = next(node for node in model.graph().nodes if node.name == "unlike")
    node.op.weights = {
        **node.op.weights,
        "weight": node.op.weights["weight"] / strength[:, None],
    }
    return model, frames(300, 120).reshape(300, 30, 4) * strength[:, None]


def test_channels_of_unlike_strength_are_made_even() -> None:
    """Each channel counts as much as the others, and the loudest is 10,000 times as strong."""
    model, xs = spectrum_model()
    loss_db = {}
    for calibration in (None, xs):
        made = model.quantize("int8", convolutions=True, calibration=calibration, keep=["gru"])
        assert list(made.metadata["quantization"]["quantised"]) == ["unlike"]
        loss_db[calibration is None] = compare(model, made, xs, 300).errors("y")[300]["snr_db"]
    assert loss_db[True] < 15
    assert loss_db[False] > 40


def test_channels_without_weights_or_signal_do_not_count() -> None:
    power, largest = np.logspace(2, -2, 9), np.logspace(-1, 1, 9, dtype=np.float32)
    wanted = even_gain(power, largest)
    assert np.allclose(wanted, largest / 10)
    for p, w in ((1.0, 0.0), (0.0, 1.0), (1.0, 1e-30)):
        gains = even_gain(np.append(power, p), np.append(largest, np.float32(w)))
        assert np.allclose(gains[:9], wanted)
        assert gains[9] <= wanted[0]
    assert even_gain(np.zeros(2), np.ones(2, np.float32)).tolist() == [1, 1]


@pytest.mark.parametrize("share", [0.01, 10.0])
def test_convolutions_that_cost_no_more_than_cells_are_rounded_unasked(share: float) -> None:
    x = sr.Input((30, 4))
    conv = sr.FrameConv1d(30, 12, 3, padding=1, name="conv", seed=0)
    conv.weights = {name: share * w for name, w in conv.weights.items()}
    y = sr.Concat()(sr.Flatten()(conv(x)), sr.GRU(120, 40, name="gru", seed=1)(sr.Flatten()(x)))
    model, xs = sr.Model(x, y), frames(300, 120).reshape(300, 30, 4)
    notes = model.quantize("int8", calibration=xs).metadata["quantization"]
    assert set(notes["quantised"]) == ({"gru", "conv"} if share < 1 else {"gru"})
    assert share < 1 or "that of any other op more" in notes["kept"]["conv"]
    notes = model.quantize("int8", calibration=xs, convolutions=False).metadata["quantization"]
    assert "convolutions=True" in notes["kept"]["conv"]


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}, {"kernel_size": 40_000}])
def test_a_convolution_without_an_int8_form_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="Int8FrameConv1d"):
        sr.Int8FrameConv1d(**{"in_channels": 2, "out_channels": 2, "kernel_size": 3, **options})


@pytest.mark.parametrize("kind", [sr.Int8LSTMCell, sr.Int8Linear])
def test_sums_that_could_overflow_are_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"at most 65000.* sums in int32 could overflow"):
        kind(65_001, 2)


def test_calibration_rounds_weights_for_what_they_meet() -> None:
    model, xs = trained(sr.Sequential(sr.GRU(20, 40), sr.Linear(40, 30))), frames(800)
    unseen = frames(800, seed=0)[::-1].copy()
    plain, better = (
        compare(model, model.quantize("int8", calibration=c), unseen, 800) for c in (None, xs)
    )
    last = [report.errors("y")[800]["relative_rms"] for report in (plain, better)]
    assert last[1] < 0.8 * last[0]


def test_rounding_one_column_after_another() -> None:
    """Least error where inputs move together; each number by itself where they do not."""
    w = RNG.standard_normal((30, 20)).astype(np.float32)
    whole, scale = int8_rows(w)
    assert np.array_equal(whole, np.rint(w / scale[:, None]))
    assert np.abs(whole).max(axis=1).tolist() == [127] * 30
    alone, _ = int8_rows(w, np.eye(20) * 7.0)
    assert np.array_equal(alone, whole)
    x = frames(500).astype(np.float64)
    together, same = int8_rows(w, x.T @ x)
    assert np.array_equal(same, scale)
    off = [np.abs(x @ (scale[:, None] * q - w).T).mean() for q in (whole, together)]
    assert off[1] < 0.5 * off[0]
    zeros, scale = int8_rows(np.zeros((2, 3), np.float32), np.zeros((3, 3)))
    assert not zeros.any()
    assert scale.tolist() == [1, 1]


def test_an_op_that_costs_too_much_stays_float() -> None:
    with pytest.raises(ConfigError, match=r"lstm_1: its rounding alone leaves .* dB, below 200"):
        mixed().quantize("int8", calibration=frames(200), min_snr_db=200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "int4"}, "`mode` must be one of 'int8', 'float16', 'bfloat16', got 'int4'"),
        ({"keep": "head"}, "`keep` must be a sequence of names"),
        ({"keep": None}, "`keep` must be a sequence of names, got None"),
        ({"keep": (name for name in ["lstm_0"])}, "`keep` must be a sequence of names, got <gen"),
        ({"min_snr_db": float("nan")}, "`min_snr_db` must be a number of dB, got nan"),
        ({"min_snr_db": "20"}, "`min_snr_db` must be a number of dB, got '20'"),
        ({"keep": ["tail"]}, "`keep` names tail, but the model's ops are"),
        ({"calibration": []}, "holds no recordings"),
        ({"calibration": "x.npy"}, "expected an array of frames"),
        ({"calibration": np.zeros((5, 7), np.float32)}, "recording 0"),
        ({"calibration": np.zeros((0, 20), np.float32)}, "0 frames give no output"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed().quantize(**{"mode": "int8", **options})


def test_a_model_without_anything_to_quantise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nothing to quantise .* 6 weights: below 1024"):
        sr.Linear(3, 2).quantize("int8")
    made = mixed().quantize("int8")
    with pytest.raises(ConfigError, match="nothing to quantise"):
        made.quantize("int8")


def test_an_op_that_is_used_twice_is_quantised_or_kept_as_a_whole() -> None:
    x, both = sr.Input(40), sr.Linear(40, 40, name="both")
    model = sr.Model(x, both(sr.Tanh()(both(x))))
    names = [node.name for node in model.graph().nodes]
    assert names == ["both", "tanh_0", "both_call2"]
    made = model.quantize("int8", calibration=frames(50, 40))
    assert made.metadata["quantization"]["kept"] == {}
    kinds = [type(node.op).__name__ for node in made.graph().nodes]
    assert kinds == ["Int8Linear", "Tanh", "Int8Linear"]
    for name in ("both", "both_call2"):
        with pytest.raises(ConfigError, match="nothing to quantise with 'int8'; both: as asked"):
            model.quantize("int8", keep=[name])
    # Rounded for what it meets at both places, and not only at the first.
    inside = sr.Model(x, sr.Tanh()(both(x))).run(frames(50, 40))
    seen = np.concatenate([frames(50, 40), inside]).astype(np.float64)
    wanted, _ = int8_rows(both.weights["weight"], seen.T @ seen)
    got = made.graph().nodes[0].op.weights["weight_int8"]
    assert (got != wanted).mean() < 0.01  # the last bits of the moments may differ


def test_numbers_that_overflow_are_rounded_plainly_or_not_at_all() -> None:
    weight = frames(8, 12)
    plain, scale = int8_rows(weight)
    moments = np.full((12, 12), np.inf)
    got, its = int8_rows(weight, moments)
    assert (got == plain).all()
    assert (its == scale).all()
    model = sr.Sequential(sr.Linear(40, 40))
    state = model.state_dict()
    name = next(iter(state))
    state[name][5] = 3e38
    model.load_state_dict(state)
    with pytest.raises(ConfigError, match="recording 0: the float model overflows"):
        model.quantize("int8", calibration=frames(20, 40))


def test_models_that_differ_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="same inputs, outputs and rate"):
        compare(sr.Linear(3, 2), sr.Linear(3, 3))
    with pytest.raises(ConfigError, match="`steps` must be an integer of at least 1, got 0"):
        compare(sr.Linear(3, 2), sr.Linear(3, 2), steps=0)


# Every way of multiplying bytes gives NumPy's bits ----------------------------------------------

EXACT = """
import numpy as np, streamrnn as sr
from streamrnn.ops.dynamic_quantize import quantized
for O, K in ((1, 1), (20, 33), (100, 70), (130, 7)):
    layer = sr.Int8Linear(K, O, seed=3)
    xs = np.random.default_rng(K).standard_normal((9, K)).astype("f") * np.arange(9)[:, None]
    xs = xs.astype("f")
    w, scale, bias = (layer.weights[n] for n in ("weight_int8", "scale_weight", "bias"))
    wanted = []
    for x in xs:
        q, level, zero = quantized(x)
        exact = w.astype(int) @ (q - zero).astype(int)
        wanted.append(bias + exact.astype("f") * (np.float32(level) * scale))
    assert np.array_equal(layer.run(xs), np.array(wanted)), (O, K)
    rows = sr.Sequential(sr.Input((9, K)), layer)
    assert np.array_equal(rows.step(xs), np.array(wanted)), (O, K)
"""


@pytest.mark.parametrize("form", ["vnni", "pairs", "plain"])
@pytest.mark.parametrize("lanes", [8, 16])
def test_rows_of_bytes_are_exact_on_every_path(form: str, lanes: int, tmp_path: Path) -> None:
    import llvmlite.binding as llvm

    if lanes > host().lanes or form not in byte_forms(llvm.get_host_cpu_features(), lanes):
        pytest.skip(f"this machine has no {form} of {lanes} lanes")
    own = {"STREAMRNN_BYTES": form, "STREAMRNN_LANES": str(lanes)}
    root = str(Path(sr.__file__).parents[1])
    subprocess.run([sys.executable, "-c", EXACT], check=True, env=os.environ | own, cwd=root)


def test_the_bytes_of_arm_are_exact_with_plain_multiplications(tmp_path: Path) -> None:
    """The form "dot" where there is no ``sdot``: what it multiplies, and what makes up for it."""
    patch = (
        "import dataclasses, streamrnn.kernels.simd as simd\n"
        "target = dataclasses.replace(simd.host(), bytes='dot')\n"
        "simd.host = lambda: target\n"
    )
    own = {"STREAMRNN_CACHE_DIR": str(tmp_path)}
    root = str(Path(sr.__file__).parents[1])
    code = [sys.executable, "-c", patch + EXACT]
    subprocess.run(code, check=True, env=os.environ | own, cwd=root)


def test_an_arm_with_dot_products_uses_them() -> None:
    assert byte_forms({"neon": True, "dotprod": True}, 4) == ("dot", "plain")
    assert byte_forms({"neon": True}, 4) == ("plain",)


# Real models, the command -----------------------------------------------------------------------


def test_the_decisions_of_a_voice_detector_do_not_change() -> None:
    try:
        path, wav = assets.silero_onnx(), assets.speech_wav()
    except assets.AssetError as error:
        pytest.skip(str(error))
    soundfile = pytest.importorskip("soundfile")
    samples = soundfile.read(wav, dtype="float32")[0]
    xs = np.ascontiguousarray(samples[: len(samples) // 512 * 512].reshape(-1, 512))
    model = silero.build(path)
    made = model.quantize("int8", calibration=xs[: len(xs) // 2])
    events = []
    for layer in (model, made):
        stream, segmenter = layer.stream(), decode.Hysteresis(32.0)
        found = [segmenter.step(stream.step(x)) for x in xs] + [segmenter.flush()]
        events.append([event for event in found if event is not None])
    assert events[0] == events[1]
    assert len(events[0]) >= 8
    assert compare(model, made, xs, 2000).errors("probability")[2000]["snr_db"] > 40


def test_the_command_writes_a_model_and_a_report(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    from test_cli import run

    mixed().save(tmp_path / "m.safetensors")
    np.save(tmp_path / "xs.npy", frames(200))
    small = tmp_path / "small.safetensors"
    options = ["--calibration", tmp_path / "xs.npy", "--keep", "rnn_0", "--steps", "200"]
    done = run("quantize", tmp_path / "m.safetensors", "-o", small, *options)
    assert done.exit_code == 0, done.output
    assert "rnn_0 stays float: as asked" in done.output
    assert "weights" in done.output
    assert sr.load(small).metadata["quantization"]["kept"]["rnn_0"] == "as asked"
    found = json.loads(
        run("quantize", tmp_path / "m.safetensors", "-o", small, *options, "--json").output
    )
    assert found["quantised_bytes"] < found["float_bytes"]
    wrong = run("quantize", tmp_path / "m.safetensors", "-o", small, "--mode", "int3")
    assert wrong.exit_code == 1
    assert "`mode` must be one of" in " ".join(wrong.output.split())


def test_the_command_reads_sound(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    soundfile = pytest.importorskip("soundfile")
    from test_cli import run

    sound = 0.1 * RNG.standard_normal(4000)
    soundfile.write(tmp_path / "a.wav", sound, 8000)
    soundfile.write(tmp_path / "b.wav", sound, 16000)
    mixed().save(tmp_path / "m.safetensors")
    arguments = ["quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q.safetensors"]
    done = run(*arguments, "--calibration", tmp_path / "a.wav", "--steps", "50")
    assert done.exit_code == 0, done.output
    wrong = run(*arguments, "--calibration", tmp_path / "b.wav")
    assert wrong.exit_code == 1
    assert "expected one channel at 8000 Hz, got 1 at 16000 Hz" in " ".join(wrong.output.split())


def growing(factor: float) -> sr.Model:
    """Return an RNN of ReLUs whose state grows by a factor with each frame of ones."""
    x = sr.Input(40)
    model = sr.Model(x, sr.RNN(40, 40, nonlinearity="relu", bias=False, name="grows")(x))
    model.load_state_dict(
        {"grows.weight_ih": np.eye(40), "grows.weight_hh": np.float32(factor) * np.eye(40)}
    )
    return model


@pytest.mark.filterwarnings("error")
def test_a_state_that_overflows_is_named_with_its_step() -> None:
    model = growing(1e4)
    report = compare(model, model.quantize("int8"), np.ones((1, 40), np.float32), 20)
    stream, first = model.stream(), 1
    while np.isfinite(stream.step(np.ones(40, np.float32))).all():
        first += 1
    assert report.overflows()["grows.h"][0] == report.overflows()["y"][0] == first
    assert report.as_dict()["overflows"]["y"]["float"] == first
    assert f"grows.h overflows: in the float one from step {first} on, in the quantised" in str(
        report
    )
    calm = compare(growing(0.5), growing(0.5).quantize("int8"), np.ones((1, 40), np.float32), 20)
    assert calm.overflows() == calm.as_dict()["overflows"] == {}
    assert "overflow" not in str(calm)


def test_a_calibration_with_which_the_model_overflows_is_refused() -> None:
    ones = np.ones((20, 40), np.float32)
    with pytest.raises(ConfigError, match="recording 1: the float model overflows, its outputs"):
        growing(1e4).quantize("int8", calibration=[ones[:3], ones])
