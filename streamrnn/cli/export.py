"""``streamrnn export``: a model as an ONNX graph that other runtimes run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import ExportError
from ..layer import Model, Sequential
from .known import loaded
from .options import AsJson, Constants, Shapes, States, check_other, finite, frames_of, notes_of

__all__ = ["export"]


def export(
    model: Annotated[Path, typer.Argument(help="A .onnx or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    sequence: Annotated[
        bool, typer.Option("--sequence", help="Take any number of frames a call, not one.")
    ] = False,
    batch: Annotated[
        str, typer.Option(help="Streams side by side: a number, or `open` for an open axis.")
    ] = "1",
    opset: Annotated[int, typer.Option(help="Version of ONNX's operator set.")] = 17,
    functions: Annotated[
        bool, typer.Option("--functions", help="Write an op of several nodes as one function.")
    ] = False,
    quantize: Annotated[
        str | None, typer.Option(help="int8, qdq (needs --calibration) or float16.")
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Frames to quantise with: .npy or .npz, one file a recording."),
    ] = None,
    with_frontend: Annotated[
        bool,
        typer.Option(
            "--with-frontend",
            help="Put the front end that the model's metadata names into the graph.",
        ),
    ] = False,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="A note in the file, as NAME=VALUE; a value that is JSON is read so."),
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="Frames to verify with (.npy, .npz); random ones if none.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest error that is accepted.")] = 1e-4,
    verify: Annotated[bool, typer.Option(help="Compare with the model in onnxruntime.")] = True,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the quantised graph's drift into a picture.")
    ] = None,
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as an ONNX graph, and verify it in onnxruntime.

    States become inputs and outputs with names; which feeds which, and all else that a runtime must
    know, is in the file's metadata. Exit code 1, and no file, if the graph does not compute the
    same.
    """
    from ..export import to_onnx

    if plot is not None and quantize is None:
        raise typer.BadParameter("drift is that of a quantised graph", param_hint="--plot")
    if plot is not None and (
        plot.is_dir() or not plot.parent.is_dir()
    ):  # before the file is written
        raise typer.BadParameter(f"there can be no file {plot}", param_hint="--plot")
    check_other(out, model, "OUT")
    if out.suffix != ".onnx":  # before the model is read
        raise typer.BadParameter(f"the name must end in .onnx, got {out}", param_hint="OUT")
    layer = loaded(model, shape, constant, state)
    notes = {**layer.metadata, **notes_of(metadata)}
    if with_frontend:
        layer = _with_frontend(model, layer, notes.pop("features", None))
    recordings = [frames_of(file, layer.program()) for file in calibration or ()]
    report = to_onnx(
        layer,
        out,
        form="sequence" if sequence else "step",
        batch=_batch(batch),
        opset=opset,
        functions=functions,
        quantize=quantize,
        calibration=recordings or None,
        metadata=notes,
        frames=None if frames is None else frames_of(frames, layer.program()),
        tolerance=tolerance,
        verify=verify,
    )
    if plot is not None and report.quantization is not None:
        report.quantization.plot(plot)
    if as_json:
        typer.echo(json.dumps(finite(report.as_dict()), indent=2))
    else:
        Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(str(report))


def _batch(text: str) -> int | None:
    if text == "open":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"expected a number or `open`, got {text!r}", param_hint="--batch")
    return int(text)


def _with_frontend(file: Path, model: Model, features: Any) -> Any:
    """Return the front end that the model's metadata names, and the model behind it."""
    from ..frontend import from_features

    if features is None:
        raise ExportError(
            f"{file}: its metadata names no front end: say it with --metadata features=…, save the "
            f"model with metadata={{'features': …}}, or export Sequential(front end, model)"
        )
    return Sequential(from_features(features), model)
