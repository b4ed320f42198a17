"""``streamrnn verify``: whether two files compute the same, frame by frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..errors import FileError
from ..files import load
from .known import options_for
from .options import AsJson, Constants, Shapes, States, finite, frames_of

__all__ = ["verify"]

Array = npt.NDArray[Any]

BLOCK = 64
SEED = 0


def verify(
    a: Annotated[Path, typer.Argument(help="A .onnx or .safetensors file.")],
    b: Annotated[Path, typer.Argument(help="The file to hold against it.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many random frames.")] = 1000,
    frames: Annotated[
        Path | None, typer.Option(help="Frames to compare with (.npy, .npz) instead.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest error, absolute below 1 and relative above.")
    ] = 1e-4,
    engine: Annotated[
        str, typer.Option(help="What runs ONNX files: onnxruntime or streamrnn.")
    ] = "onnxruntime",
    shape: Shapes = None,
    constant: Constants = None,
    state: States = None,
    as_json: AsJson = False,
) -> None:
    """Run two files on the same stream and show how far they are apart.

    A .safetensors file runs in streamrnn, an ONNX file in onnxruntime; one over sequences, without
    states, in streamrnn. Options for ONNX inputs hold for both files, where these have the inputs
    and are no exports of ours, which need none.
    Exit code 1 if an error is above the tolerance.
    """
    if engine not in ("onnxruntime", "streamrnn"):
        raise typer.BadParameter(
            f"expected onnxruntime or streamrnn, got {engine!r}", param_hint="--engine"
        )
    options = [_fitting(file, shape, constant, state) for file in (a, b)]
    streams, engines = zip(
        *(_opened(file, kept, engine) for file, kept in zip((a, b), options, strict=True)),
        strict=True,
    )
    _check_frames(a, b, streams)
    xs = _random(streams, n) if frames is None else frames_of(frames, streams[0].program)
    if not len(xs[0]):
        raise FileError(f"{frames}: it holds no frames")
    made = [_run(stream, xs, str(file)) for stream, file in zip(streams, (a, b), strict=True)]
    names = streams[0].program.output_names
    rows = [
        _difference(name, got, wanted, tolerance)
        for name, wanted, got in zip(names, *made, strict=True)
    ]
    if not all(row["outputs"] for row in rows):
        raise FileError(
            f"{len(xs[0])} frames give no output to compare: more than "
            f"{streams[0].program.clock.start} are needed"
        )
    same = all(row["max_scaled"] <= tolerance for row in rows)
    found = {
        "files": [str(a), str(b)],
        "engines": list(engines),
        "frames": len(xs[0]),
        "tolerance": tolerance,
        "same": same,
        "outputs": rows,
    }
    if as_json:
        typer.echo(json.dumps(finite(found), indent=2))
    else:
        _show(Console(highlight=False, markup=False, emoji=False), found)
    if not same:
        raise typer.Exit(1)


def _fitting(
    file: Path, shape: list[str] | None, constant: list[str] | None, state: list[str] | None
) -> dict[str, Any]:
    """Return the options of a file: those of inputs that it has."""
    if file.suffix != ".onnx":
        return {}
    options = options_for(file, shape, constant, state)
    try:
        from ..importers.onnx import parsed
    except ImportError:
        raise FileError(f"{file}: reading ONNX needs onnx: pip install streamrnn[onnx]") from None
    proto = parsed(file)
    if any(prop.key == "streamrnn" for prop in proto.metadata_props):
        return {}  # an export of ours says all of it itself
    names = {i.name for i in proto.graph.input}
    return {
        key: given and ({k: v for k, v in given.items() if k in names} or None)
        for key, given in options.items()
    }


def _opened(file: Path, options: Mapping[str, Any], engine: str) -> tuple[Any, str]:
    """Return a stream of a file, and what runs it."""
    if file.suffix == ".onnx" and engine == "onnxruntime":
        from ..export import OnnxStream

        try:
            return OnnxStream(file, on_nonfinite="propagate", **options), "onnxruntime"
        except FileError as error:
            if "over sequences" not in str(error):
                raise
    return load(file, **options).stream(on_nonfinite="propagate"), "streamrnn"


def _check_frames(a: Path, b: Path, streams: tuple[Any, ...]) -> None:
    """Raise FileError unless both files read and make frames of the same sizes, at one rate."""
    for what in ("inputs", "outputs"):
        values = [getattr(stream.program, what) for stream in streams]
        if [v.size for v in values[0]] != [v.size for v in values[1]]:
            shapes = [[v.shape for v in of_one] for of_one in values]
            raise FileError(f"{a} and {b} have different {what}: {shapes[0]} and {shapes[1]}")
    strides = [stream.program.clock.stride for stream in streams]
    if strides[0] != strides[1]:
        raise FileError(f"{a} gives an output every {strides[0]} frames, {b} every {strides[1]}")


def _random(streams: tuple[Any, ...], n: int) -> tuple[Array, ...]:
    """Return random frames; indices are those that both take."""
    rng = np.random.default_rng(SEED)
    limits = zip(*(stream.program.index_limits for stream in streams), strict=True)
    return tuple(
        rng.integers(0, min(filter(None, pair)), (n, *v.shape))
        if any(pair)
        else rng.standard_normal((n, *v.shape)).astype(np.float32)
        for v, pair in zip(streams[0].program.inputs, limits, strict=True)
    )


def _run(stream: Any, xs: tuple[Array, ...], what: str) -> list[Array]:
    """Return the outputs of all frames, flat: (T, size) for each."""
    shaped = [x.reshape(-1, *v.shape) for x, v in zip(xs, stream.program.inputs, strict=True)]
    console = Console(stderr=True)
    made: list[tuple[Array, ...]] = []
    for first in track(
        range(0, len(xs[0]), BLOCK),
        what,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ):
        block = tuple(x[first : first + BLOCK] for x in shaped)
        ys = stream.run(block if len(block) > 1 else block[0])
        made.append(ys if isinstance(ys, tuple) else (ys,))
    return [
        np.concatenate([ys[i] for ys in made]).reshape(-1, v.size)
        for i, v in enumerate(stream.program.outputs)
    ]


def _difference(name: str, got: Array, wanted: Array, tolerance: float) -> dict[str, Any]:
    """Return the largest errors of an output, and the first one that is above the tolerance."""
    n = min(len(got), len(wanted))
    got, wanted = got[:n].astype(np.float64), wanted[:n].astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        error = np.where(same, 0.0, np.abs(got - wanted))
        scaled = error / np.maximum(np.abs(wanted), 1)
    scaled[~np.isfinite(scaled)] = error[~np.isfinite(error)] = np.inf
    above = (scaled > tolerance).any(axis=1)
    return {
        "name": name,
        "outputs": n,
        "max_absolute": float(error.max(initial=0)),
        "max_scaled": float(scaled.max(initial=0)),
        "first_above": int(above.argmax()) if above.any() else None,
    }


def _show(console: Console, found: Mapping[str, Any]) -> None:
    for file, engine in zip(found["files"], found["engines"], strict=True):
        console.print(f"{file} ({engine})", style="bold", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("output", overflow="fold")
    for head in ("outputs", "max abs error", "max scaled error", "first above"):
        table.add_column(head, justify="right")
    for row in found["outputs"]:
        first = row["first_above"]
        table.add_row(
            row["name"],
            str(row["outputs"]),
            f"{row['max_absolute']:.2e}",
            f"{row['max_scaled']:.2e}",
            "" if first is None else str(first),
        )
    console.print(table)
    verdict = "the same" if found["same"] else "different"
    console.print(
        f"{verdict} within {found['tolerance']:g} over {found['frames']} frames",
        style="green" if found["same"] else "red",
    )
