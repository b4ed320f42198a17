"""Silero VAD v6 at 16 kHz as a streamrnn model: the probability that someone is speaking.

The layers are written out by hand in the functional form; the trained weights come from the ONNX
file that the project publishes in its wheel (silero-vad 6.2.3, ``silero_vad_16k_op15.onnx``, MIT).
Other files of that wheel hold other trainings under the same layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import streamrnn as sr

__all__ = ["FRAME_SAMPLES", "SAMPLE_RATE_HZ", "build"]

SAMPLE_RATE_HZ = 16000
FRAME_SAMPLES = 512
"""Samples per frame: 32 ms."""

CONTEXT_SAMPLES = 64
BINS = 129
"""Frequencies of a spectrum of 256 samples."""

TENSORS = {
    "stft.weight": "model.stft.forward_basis_buffer",
    "encoder_0.weight": "model.encoder.0.reparam_conv.weight",
    "encoder_0.bias": "model.encoder.0.reparam_conv.bias",
    "encoder_1.weight": "model.encoder.1.reparam_conv.weight",
    "encoder_1.bias": "model.encoder.1.reparam_conv.bias",
    "encoder_2.weight": "model.encoder.2.reparam_conv.weight",
    "encoder_2.bias": "model.encoder.2.reparam_conv.bias",
    "encoder_3.weight": "model.encoder.3.reparam_conv.weight",
    "encoder_3.bias": "model.encoder.3.reparam_conv.bias",
    "lstm.weight_ih": "model.decoder.rnn.weight_ih",
    "lstm.weight_hh": "model.decoder.rnn.weight_hh",
    "lstm.bias_ih": "model.decoder.rnn.bias_ih",
    "lstm.bias_hh": "model.decoder.rnn.bias_hh",
    "decoder.weight": "model.decoder.decoder.2.weight",
    "decoder.bias": "model.decoder.decoder.2.bias",
}
"""Each weight here, and what the file calls it. The file keeps torch's gate order, as we do."""


def build(onnx_path: Path) -> sr.Model:
    """Return the model with its trained weights.

    A frame is float32 [shape=(512,)], 32 ms of sound at 16 kHz in [-1, 1]; the output
    ``probability`` is float32 [shape=(1,)], dimensionless.

    Parameters
    ----------
    onnx_path : Path
        The file ``silero_vad_16k_op15.onnx``.

    Raises
    ------
    streamrnn.FileError
        If the file cannot be read as ONNX.
    streamrnn.WeightError
        If it is another model: tensors are missing or have other shapes.
    """
    model = layers()
    model.load_state_dict(read_weights(Path(onnx_path)))
    return model


def layers() -> sr.Model:
    """Return the model with random weights."""
    samples = sr.Input(FRAME_SAMPLES)
    x = sr.Context(CONTEXT_SAMPLES, name="context")(samples)
    x = sr.Pad(0, 64, "reflect")(x)
    x = sr.Reshape((1, 640))(x)
    # A Fourier transform of 256 samples, four times per frame, as a convolution.
    spectrum = sr.FrameConv1d(1, 2 * BINS, 256, stride=128, bias=False, name="stft")(x)
    re, im = spectrum[:BINS], spectrum[BINS:]
    x = sr.Sqrt()(re * re + im * im)
    for i, (inputs, outputs, stride) in enumerate(
        [(BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)]
    ):
        name = f"encoder_{i}"
        x = sr.FrameConv1d(inputs, outputs, 3, stride=stride, padding=1, name=name)(x)
        x = sr.ReLU()(x)
    x = sr.Reshape(128)(x)
    x = sr.LSTMCell(128, 128, name="lstm")(x)
    x = sr.ReLU()(x)
    x = sr.Linear(128, 1, name="decoder")(x)
    probability = sr.Sigmoid()(x)
    metadata = {
        "model": "Silero VAD v6, 16 kHz",
        "licence": "MIT",
        "sample_rate": SAMPLE_RATE_HZ,
        "features": {"kind": "samples", "frame_samples": FRAME_SAMPLES},
        "labels": ["speech"],
    }
    return sr.Model({"samples": samples}, {"probability": probability}, metadata=metadata)


def read_weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the weights in the file, by the model's names for them."""
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    except Exception as error:  # of the system, of protobuf or of onnx: they share no base
        raise sr.FileError(f"cannot read {path} as an ONNX file: {error}") from None
    missing = [theirs for theirs in TENSORS.values() if theirs not in arrays]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise sr.WeightError(
            f"{path} is not silero_vad_16k_op15.onnx: of the {len(TENSORS)} tensors expected it "
            f"lacks {', '.join(missing[:3])}{more}"
        )
    weights = {ours: arrays[theirs] for ours, theirs in TENSORS.items()}
    if weights["decoder.weight"].shape == (1, 128, 1):  # a convolution of one tap is a Linear
        weights["decoder.weight"] = np.squeeze(weights["decoder.weight"], 2)
    return weights
