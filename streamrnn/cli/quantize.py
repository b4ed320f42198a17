"""``streamrnn quantize``: a model with weights in fewer bytes, and what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from ..errors import FileError
from ..layer import Model
from ..live.source import needed
from .known import loaded
from .options import AsJson, Constants, Shapes, States, check_other, finite, frames_of

__all__ = ["quantize"]


def quantize(
    model: Annotated[Path, typer.Argument(help="A .onnx, .keras or .safetensors file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    mode: Annotated[
        str, typer.Option(help="int8: weights of one byte; float16, bfloat16: of two.")
    ] = "int8",
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="Frames like those that the model will meet: .npy, .npz, or .wav for a model that "
            "reads samples; one file a recording. Only int8 weights are rounded for them; any "
            "report is about them."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="An op that shall stay float32, by its name.")
    ] = None,
    convolutions: Annotated[
        bool | None,
        typer.Option(
            "--convolutions/--no-convolutions",
            help="Round convolutions inside a frame, or none. Default: with a calibration those "
            "that cost no more than other ops.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Frames over which both models are compared.")
    ] = 10_000,
    plot: Annotated[Path | None, typer.Option(help="Draw the errors over time.")] = None,
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
    as_json: AsJson = False,
) -> None:
    """Write a model with narrower weights, and report errors, sizes and times beside the float one.

    Without calibration each weight is rounded by itself, and the report is that of noise.
    """
    from ..quantize import compare

    progress = Console(stderr=True, soft_wrap=True, highlight=False)
    check_other(out, model)
    if out.suffix != ".safetensors":  # before the weights are rounded
        raise typer.BadParameter(
            f"the name must end in .safetensors, got {out}"
            + (": `streamrnn export` makes .onnx of it" if out.suffix == ".onnx" else ""),
            param_hint="--out",
        )
    layer = loaded(model, shape, constant, state)
    hop = layer.metadata.get("hop_samples")
    recordings = [_recording(file, layer, hop) for file in calibration or ()] or None
    with progress.status("rounding weights …"):
        made = layer.quantize(
            mode,
            calibration=recordings if mode == "int8" else None,
            keep=keep or (),
            convolutions=convolutions,
        )
    made.save(out)
    with progress.status(f"running both models over {steps:,} frames …"):
        report = compare(layer, made, recordings, steps)
    if plot is not None:
        report.plot(plot)
    if as_json:
        typer.echo(json.dumps(finite(report.as_dict()), indent=2))
    else:
        Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(str(report))


def _recording(file: Path, layer: Model, hop: int | None) -> Any:
    """Return a recording: frames in a NumPy file, or a sound cut into frames as ``run`` does."""
    program = layer.program()
    if file.suffix != ".wav":
        return frames_of(file, program)
    if len(program.inputs) != 1 or len(program.inputs[0].shape) != 1:
        raise FileError(
            f"{file}: the model does not read frames of samples: give its frames as .npy"
        )
    soundfile: Any = needed("soundfile", "audio", str(file))
    try:
        samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise FileError(f"cannot read {file}: {error}") from None
    wanted_hz = layer.metadata.get("sample_rate")
    if samples.shape[1] != 1 or (wanted_hz and wanted_hz != rate_hz):
        raise FileError(
            f"{file}: expected one channel at {wanted_hz or 'any rate'} Hz, got "
            f"{samples.shape[1]} at {rate_hz} Hz"
        )
    size = program.inputs[0].size
    hop = hop or size
    padded = np.concatenate((np.zeros(size - hop, np.float32), samples[:, 0]))
    starts = np.arange(0, len(padded) - size + 1, hop)
    return padded[starts[:, None] + np.arange(size)]
